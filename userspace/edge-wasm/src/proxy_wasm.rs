//! The filter ProxyWasm; its document and what it promises are in edge-filters.
//!
//! Each worker has one VM, in which a context lives for each request under way. Callbacks are short; while one computes for longer than
//! its turn, others wait until the VM is back in its place. A new program gets a VM of its own, and the old one lives until the last
//! request that began with it is over.

use crate::call;
use crate::code::{Breed, Dialect, Program, Runs, Source};
use crate::patience::Patience;
use crate::proxy_common::Common;
use crate::proxy_host::{CallReply, PerContext, Proxy, WantedCall, answer};
use crate::proxy_vm::{Action, Event, Hears, ProxyVm, ROOT, Side};
use crate::shared::{Place, Section};
use crate::unfit::Unfit;
use crate::vm::{Failure, Reason, Settings, is_room};
use base_runtime::Boxed;
use base_runtime::channel::{Receiver, Sender, mailbox};
use base_telemetry::Limit;
use base_telemetry::proxy::PoolNames;
use base_telemetry::registry::Encoder;
use edge_filters::Kept;
use edge_filters::proxy_wasm::{LOCAL_RESPONSE, ProxyWasmSpec};
use edge_filters::wasm_host::{OUT_OF_VM, WASM_ERROR};
use edge_pipeline::exchange::DEFAULT_BODY_LIMIT;
use edge_pipeline::pipeline::Rest;
use edge_pipeline::{Body, BodyError, BuildError, Enclosed, Exchange, Filter, Outcome, Parts, SUCCESS, Step, rounds};
use edge_upstream::{CallSettings, Caller};
use proto_http::{Headers, Known, Method};
use serde_json::{Value, json};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Calls of one request that have not come back.
const CALLS_MAX: usize = 32;

/// Between two looks whether a tick has let a paused request go on.
const LOOK: Duration = Duration::from_millis(10);

/// Makes ProxyWasms of documents from now on.
pub fn install() {
    edge_filters::proxy_wasm::install(make);
}

fn make(spec: ProxyWasmSpec, parts: &Parts<'_>) -> Result<Arc<dyn Filter>, BuildError> {
    let previous = parts.previous.and_then(|previous| previous.downcast::<ProxyWasm>()).map(|filter| &filter.host);
    if let Some(host) = previous.filter(|host| host.spec == spec) {
        return Ok(Arc::new(ProxyWasm { host: host.clone() }));
    }
    let code = spec.code().map_err(|why| vec![base_model::Problem::new("code", why)])?;
    let breed = Breed { dialect: Dialect::Proxy, metered: spec.fuel > 0 };
    let (source, known) = match previous {
        Some(host) if host.source.is(&code, breed) => (host.source.clone(), true),
        // What runs on one engine does not on the other.
        Some(host) if (host.spec.fuel > 0) == breed.metered => (Source::new(code, breed, host.source.program()), false),
        _ => (Source::new(code, breed, None), false),
    };
    let common = previous.map(|host| host.common.clone());
    let host = Arc::new(Host::new(spec, source, common, parts)?);
    let user: Weak<dyn Runs> = Arc::downgrade(&(host.clone() as Arc<dyn Runs>));
    host.source.used_by(user);
    // Requests that come after the change find the program.
    Patience::wait(|patience| {
        if known {
            host.source.start(patience);
        } else {
            host.source.load();
            host.source.tried(patience);
        }
    });
    parts.telemetry.registry().show(&host, figures);
    Ok(Arc::new(ProxyWasm { host }))
}

/// A ready ProxyWasm.
struct ProxyWasm {
    host: Arc<Host>,
}

impl Filter for ProxyWasm {
    /// Without anything to enclose.
    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        Step::wait(async move {
            match self.host.on_its_way(exchange).await {
                Ok(visit) => {
                    self.host.back(visit, exchange).await;
                    SUCCESS
                }
                Err(outcome) => outcome,
            }
        })
    }

    fn encloses(&self) -> bool {
        true
    }

    fn enclose<'a>(&'a self, exchange: &'a mut Exchange, rest: Rest) -> Boxed<'a, Enclosed> {
        Boxed::made(|| self.host.around(exchange, rest))
    }

    fn status(&self) -> Option<Value> {
        let host = &self.host;
        let mut status = json!({
            "health": host.health().unwrap_or_default(),
            "numOfRequest": host.requests.load(Relaxed),
            "numOfWasmError": host.failures.iter().map(|count| count.load(Relaxed)).sum::<u64>(),
        });
        if let Some(last) = &*lock(&host.last) {
            status["lastError"] = json!(last);
        }
        Some(status)
    }
}

/// What one generation of a document hands to the next that says the same.
struct Host {
    spec: ProxyWasmSpec,
    source: Arc<Source>,
    settings: Settings,
    common: Arc<Common>,
    names: Arc<[String]>,
    callers: Vec<Arc<Caller>>,
    /// By worker, the VM of requests to come.
    current: Box<[Mutex<Option<Arc<Slot>>>]>,
    /// The one that was started to see that it does.
    spare: Mutex<Option<Box<ProxyVm>>>,
    unfit: Unfit,
    requests: AtomicU64,
    starts: AtomicU64,
    failures: [AtomicU64; FAILURES.len()],
    last: Mutex<Option<String>>,
    bounds: Bounds,
}

/// Labels of the failures that are counted.
const FAILURES: [&str; 7] = [
    Reason::Time.name(),
    Reason::Memory.name(),
    Reason::Trap.name(),
    Reason::Fuel.name(),
    Reason::Room.name(),
    "unavailable",
    "body",
];
const UNAVAILABLE: usize = 5;
const BODY: usize = 6;

struct Bounds {
    time: Limit,
    memory: Limit,
    fuel: Limit,
    room: Limit,
    body: Limit,
}

/// One VM, and where it is when nobody uses it.
struct Slot {
    program: Arc<Program>,
    place: Mutex<Lies>,
    /// What its program is called for; there once it has begun.
    hears: OnceLock<Hears>,
    next: AtomicI32,
    /// Contexts whose requests are over, and of which the program has not heard that.
    gone: Mutex<Vec<i32>>,
}

enum Lies {
    Here(Box<ProxyVm>),
    InUse,
    /// The program was ended, or has not begun.
    Ended,
}

/// The right to use a VM; it lies in its place again when this is dropped, or is ended where it was taken.
struct Held {
    slot: Arc<Slot>,
    vm: Option<Box<ProxyVm>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        *lock(&self.slot.place) = self.vm.take().map_or(Lies::Ended, Lies::Here);
    }
}

impl Slot {
    /// Waits until nobody uses it; who does has its turns in between. `None`: it was ended.
    async fn hold(self: &Arc<Slot>) -> Option<Held> {
        loop {
            {
                let mut place = lock(&self.place);
                match std::mem::replace(&mut *place, Lies::InUse) {
                    Lies::InUse => {}
                    Lies::Here(vm) => return Some(Held { slot: self.clone(), vm: Some(vm) }),
                    Lies::Ended => {
                        *place = Lies::Ended;
                        return None;
                    }
                }
            }
            base_runtime::yield_now().await;
        }
    }

    fn is_ended(&self) -> bool {
        matches!(*lock(&self.place), Lies::Ended)
    }

    /// Nobody uses it.
    fn is_free(&self) -> bool {
        matches!(*lock(&self.place), Lies::Here(_))
    }
}

/// A callback under way. Whoever gives it up leaves it to come to its end without him: the VM is other requests', too.
struct Calling {
    call: Option<Boxed<'static, Called>>,
}

/// One that is over; where it failed, the VM is ended.
struct Called {
    held: Held,
    here: PerContext,
    done: Result<Action, Failure>,
}

impl Calling {
    fn new(held: Held, context: i32, is_new: bool, here: PerContext, event: Event) -> Calling {
        Calling { call: Some(Boxed::made(|| called(held, context, is_new, here, event))) }
    }
}

async fn called(mut held: Held, context: i32, is_new: bool, mut here: PerContext, event: Event) -> Called {
    let done = match held.vm.take() {
        Some(mut vm) => {
            let done = vm.call(context, is_new, &mut here, event).await;
            held.vm = Some(vm).filter(|_| done.is_ok());
            done
        }
        None => Err(ended()),
    };
    Called { held, here, done }
}

impl Future for Calling {
    type Output = Called;

    #[inline]
    fn poll(mut self: Pin<&mut Calling>, cx: &mut Context<'_>) -> Poll<Called> {
        let Some(call) = &mut self.call else { return Poll::Pending };
        let polled = Pin::new(call).poll(cx);
        if polled.is_ready() {
            self.call = None;
        }
        polled
    }
}

impl Drop for Calling {
    fn drop(&mut self) {
        // A worker that ends takes its VMs with it.
        if let Some(call) = self.call.take()
            && base_runtime::current_worker().is_some()
        {
            base_runtime::spawn(async move {
                // The request has gone with whoever gave it up; what is said of it now is said to nobody.
                let mut nobody = Exchange::default();
                drop(call::run(&mut nobody, call).await);
            })
            .detach();
        }
    }
}

/// A request under way, as the program knows it.
struct Visit {
    slot: Arc<Slot>,
    context: i32,
    is_new: bool,
    here: PerContext,
    /// Where calls of the program come back; most requests make none.
    mail: Option<(Sender<CallReply>, Receiver<CallReply>)>,
    /// Calls that have not come back.
    outstanding: usize,
    hears: Hears,
    closed: bool,
}

impl Drop for Visit {
    fn drop(&mut self) {
        if !self.closed && !self.is_new && self.hears.ends() {
            lock(&self.slot.gone).push(self.context);
        }
    }
}

/// Why a request does not go on with the program.
enum Stop {
    Failed(Failure),
    /// A body is not to be had.
    Body(BodyError),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failed(failure)
    }
}

impl Host {
    fn new(
        spec: ProxyWasmSpec,
        source: Arc<Source>,
        common: Option<Arc<Common>>,
        parts: &Parts<'_>,
    ) -> Result<Host, BuildError> {
        let place = Place { pipeline: parts.pipeline.text().clone(), filter: parts.name.into() };
        let limits = parts.telemetry.limits();
        let calls = CallSettings {
            timeout: spec.pause_timeout.duration(),
            body_bytes_max: DEFAULT_BODY_LIMIT,
            in_flight_max: spec.max_calls as usize,
            ..CallSettings::default()
        };
        let caller = |(name, url): (&String, &String)| {
            let names = PoolNames {
                pool: format!("{}#{name}", parts.place()),
                proxy: parts.name.to_owned(),
                kind: "ProxyWasm".to_owned(),
                ..PoolNames::default()
            };
            let made = Caller::new(url, calls.clone(), names, parts.telemetry);
            let path = base_model::problem::at("upstreams", name);
            made.map(Arc::new).map_err(|why| vec![base_model::Problem::new(path, why)])
        };
        Ok(Host {
            settings: Settings {
                section: Section::of(&place),
                place,
                parameters: Vec::new(),
                memory_max: spec.memory_limit_mib as usize * 1024 * 1024,
                timeout: spec.timeout.duration(),
                fuel: (spec.fuel > 0).then_some(spec.fuel),
            },
            callers: spec.upstreams.iter().map(caller).collect::<Result<_, _>>()?,
            names: spec.upstreams.keys().cloned().collect(),
            spec,
            source,
            common: common.unwrap_or_else(|| Arc::new(Common::new(limits.register("wasm_shared")))),
            current: (0..parts.telemetry.workers().max(1)).map(|_| Mutex::default()).collect(),
            spare: Mutex::default(),
            unfit: Unfit::default(),
            requests: AtomicU64::new(0),
            starts: AtomicU64::new(0),
            failures: Default::default(),
            last: Mutex::default(),
            bounds: Bounds {
                time: limits.register("wasm_time"),
                memory: limits.register("wasm_memory"),
                fuel: limits.register("wasm_fuel"),
                room: limits.register("wasm_room"),
                body: limits.register("wasm_body"),
            },
        })
    }

    fn proxy(&self) -> Proxy {
        let bytes = |value: &Value| match value {
            Value::Null => Vec::new(),
            Value::String(text) => text.clone().into_bytes(),
            other => other.to_string().into_bytes(),
        };
        Proxy {
            vm_configuration: bytes(&self.spec.vm_configuration),
            configuration: bytes(&self.spec.configuration),
            root_id: self.spec.root_id.clone(),
            upstreams: self.names.clone(),
            common: self.common.clone(),
            ..Proxy::default()
        }
    }

    /// Shows the program a request, has the stations after it walked, and shows it the answer.
    async fn around(self: &Arc<Host>, exchange: &mut Exchange, rest: Rest) -> Enclosed {
        let visit = match self.on_its_way(exchange).await {
            Ok(visit) => visit,
            Err(outcome) => return Enclosed::Alone(outcome),
        };
        let ended = rest.run(exchange).await;
        let failed = self.back(visit, exchange).await;
        Enclosed::Walked { ended: ended || failed }
    }

    /// Shows the program a request on its way. `Ok(None)`: it goes on without the program. The error ends the flow.
    async fn on_its_way(self: &Arc<Host>, exchange: &mut Exchange) -> Result<Option<Visit>, Outcome> {
        self.requests.fetch_add(1, Relaxed);
        let mut visit = match self.open().await {
            Ok(visit) => visit,
            Err(why) => return self.unavailable(exchange, &why),
        };
        let kept = self.spec.fail_open.then(|| Kept::of(exchange));
        match self.side(&mut visit, exchange, Side::Request).await {
            Ok(()) => {}
            Err(stop) => return self.stopped(exchange, kept, Side::Request, stop).map_or(Ok(None), Err),
        }
        let Some(local) = visit.here.local.take() else { return Ok(Some(visit)) };
        let (response, body) = answer(local);
        exchange.respond(response, body);
        // An answer of its own is shown to it as any other is.
        let failed = self.back(Some(visit), exchange).await;
        Err(if failed { WASM_ERROR } else { LOCAL_RESPONSE })
    }

    /// Shows it the answer; whether the answer was refused.
    async fn back(self: &Arc<Host>, visit: Option<Visit>, exchange: &mut Exchange) -> bool {
        let Some(mut visit) = visit else { return false };
        if exchange.space_ref().response.is_some() {
            let kept = self.spec.fail_open.then(|| Kept::of(exchange));
            if let Err(stop) = self.side(&mut visit, exchange, Side::Response).await {
                return self.stopped(exchange, kept, Side::Response, stop).is_some();
            }
            if let Some(local) = visit.here.local.take() {
                let (response, body) = answer(local);
                exchange.respond(response, body);
            }
        }
        self.close(visit, exchange).await;
        false
    }

    /// One side of an exchange: its head, its body and its trailers.
    async fn side(self: &Arc<Host>, visit: &mut Visit, exchange: &mut Exchange, side: Side) -> Result<(), Stop> {
        let space = exchange.space_ref();
        let (fields, body) = match side {
            Side::Request => (space.request.headers.len() + 3, &space.request_body),
            Side::Response => {
                (space.response.as_ref().map_or(0, |response| response.headers.len() + 1), &space.response_body)
            }
        };
        let ends = body.length() == Some(0) && !body.has_trailers();
        visit.here.resumed = false;
        let mut action = self.call(visit, exchange, Event::Head { side, fields, ends }).await?;
        if action == Action::Pause && (ends || visit.outstanding > 0 || visit.here.resumed) {
            self.pause(visit, exchange).await?;
            action = Action::Continue;
        }
        let (hears_body, hears_trailers) = (visit.hears.bodies_of(side), visit.hears.trailers_of(side));
        if ends || visit.here.local.is_some() || !(hears_body || hears_trailers) {
            return self.paused_for_nothing(visit, exchange, action).await;
        }
        if !self.gather(exchange, side, action == Action::Pause).await? {
            return Ok(());
        }
        let space = exchange.space_ref();
        let body = if side == Side::Request { &space.request_body } else { &space.response_body };
        let bytes = body.in_memory().map_or(0, <[u8]>::len);
        let trailers = body.trailers_here().map_or(0, proto_http::Headers::len);
        if bytes > 0 && hears_body {
            action = self.call(visit, exchange, Event::Body { side, bytes, ends: trailers == 0 }).await?;
            if action == Action::Pause && (trailers == 0 || visit.outstanding > 0 || visit.here.resumed) {
                self.pause(visit, exchange).await?;
                action = Action::Continue;
            }
        }
        if trailers > 0 && hears_trailers && visit.here.local.is_none() {
            action = self.call(visit, exchange, Event::Trailers { side, fields: trailers }).await?;
        }
        self.paused_for_nothing(visit, exchange, action).await
    }

    /// All was shown, and the program may still want to wait for something.
    async fn paused_for_nothing(
        self: &Arc<Host>,
        visit: &mut Visit,
        exchange: &mut Exchange,
        action: Action,
    ) -> Result<(), Stop> {
        if action == Action::Pause && visit.here.local.is_none() {
            self.pause(visit, exchange).await?;
        }
        // What came back meanwhile is told of before the next part.
        while let Some(reply) = visit.mail.as_mut().and_then(|(_, replies)| replies.try_recv()) {
            self.deliver(visit, exchange, reply).await?;
        }
        Ok(())
    }

    /// Waits until the program lets the request go on, or answers it.
    async fn pause(self: &Arc<Host>, visit: &mut Visit, exchange: &mut Exchange) -> Result<(), Stop> {
        let until = Instant::now() + self.spec.pause_timeout.duration();
        loop {
            if std::mem::take(&mut visit.here.resumed) || visit.here.local.is_some() {
                return Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let most = base_text::duration(self.spec.pause_timeout.duration());
                let text = format!("it pauses a request for longer than {most} (pauseTimeout)");
                return Err(Stop::Failed(Failure { reason: Reason::Time, text }));
            }
            if visit.outstanding > 0
                && let Some((_, replies)) = &mut visit.mail
            {
                if let Ok(Some(reply)) = base_runtime::time::timeout(left, replies.recv()).await {
                    self.deliver(visit, exchange, reply).await?;
                }
                continue;
            }
            let ticks = {
                let mut held = visit.slot.hold().await.ok_or_else(ended)?;
                let vm = held.vm.as_mut().ok_or_else(ended)?;
                if vm.was_resumed(visit.context) {
                    return Ok(());
                }
                vm.tick_period().is_some()
            };
            if !ticks {
                let text = "it pauses a request, and nothing that it waits for will come".to_owned();
                return Err(Stop::Failed(Failure { reason: Reason::Trap, text }));
            }
            base_runtime::time::sleep(LOOK.min(left)).await;
        }
    }

    async fn deliver(
        self: &Arc<Host>,
        visit: &mut Visit,
        exchange: &mut Exchange,
        reply: CallReply,
    ) -> Result<(), Failure> {
        visit.outstanding -= 1;
        let event = Event::Reply { token: reply.token, fields: reply.headers.len(), bytes: reply.body.len() };
        visit.here.reply = Some(reply);
        let told = self.call(visit, exchange, event).await;
        visit.here.reply = None;
        told.map(drop)
    }

    /// Calls the program, and sends off what it wants to have called.
    async fn call(
        self: &Arc<Host>,
        visit: &mut Visit,
        exchange: &mut Exchange,
        event: Event,
    ) -> Result<Action, Failure> {
        if !visit.hears.of(&event, visit.is_new) {
            return Ok(Action::Continue);
        }
        let slot = visit.slot.clone();
        let mut held = slot.hold().await.ok_or_else(ended)?;
        let gone = std::mem::take(&mut *lock(&slot.gone));
        if !gone.is_empty() {
            let mut nobody = Exchange::default();
            for context in gone {
                let calling = Calling::new(held, context, false, PerContext::default(), Event::Done);
                let called = call::run(&mut nobody, calling).await;
                called.done?;
                held = called.held;
            }
        }
        let (is_new, here) = (std::mem::take(&mut visit.is_new), std::mem::take(&mut visit.here));
        let called = call::run(exchange, Calling::new(held, visit.context, is_new, here, event)).await;
        visit.here = called.here;
        drop(called.held);
        let action = called.done?;
        for wanted in visit.here.calls.drain(..) {
            if visit.outstanding >= CALLS_MAX {
                self.common.refused();
                continue;
            }
            visit.outstanding += 1;
            let (replied, _) = visit.mail.get_or_insert_with(|| mailbox(CALLS_MAX));
            let mut marks = Headers::new();
            rounds::carry(&exchange.request().headers, &mut marks);
            self.send(wanted, marks, replied.clone());
        }
        Ok(action)
    }

    /// `marks`: of the request that it is asked because of.
    fn send(&self, wanted: WantedCall, marks: Headers, replied: Sender<CallReply>) {
        let Some(caller) = self.callers.get(wanted.upstream).cloned() else { return };
        base_runtime::spawn(async move {
            let token = wanted.token;
            let reply = asked(&caller, wanted, &marks).await.unwrap_or(CallReply { token, ..CallReply::default() });
            // Who has left needs nothing.
            let _ = replied.try_send(reply);
        })
        .detach();
    }

    /// Tells the program that a request is over.
    async fn close(self: &Arc<Host>, mut visit: Visit, exchange: &mut Exchange) {
        visit.closed = true;
        if let Err(failure) = self.call(&mut visit, exchange, Event::Done).await {
            self.hit(failure.reason);
            self.note(exchange, failure.reason as usize, &failure.text);
        }
    }

    /// The context of a request to come, in the worker's VM, which is made where there is none.
    async fn open(self: &Arc<Host>) -> Result<Visit, String> {
        let missing = || self.source.error().unwrap_or_else(|| "the program is not loaded yet".to_owned());
        let program = self.source.program().ok_or_else(missing)?;
        let current = self.current.get(worker()).unwrap_or(&self.current[0]);
        loop {
            let known = lock(current).clone().filter(|slot| Arc::ptr_eq(&slot.program, &program) && !slot.is_ended());
            let slot = match known {
                Some(slot) => slot,
                None => {
                    if let Some(why) = self.unfit.of(&program) {
                        return Err(format!("it does not start: {why}"));
                    }
                    let slot = Arc::new(Slot {
                        program: program.clone(),
                        place: Mutex::new(Lies::InUse),
                        hears: OnceLock::new(),
                        next: AtomicI32::new(ROOT),
                        gone: Mutex::default(),
                    });
                    *lock(current) = Some(slot.clone());
                    // Others wait for it meanwhile.
                    let mut held = Held { slot: slot.clone(), vm: None };
                    held.vm = Some(self.start(&program).await?);
                    let ticks = held.vm.as_ref().is_some_and(|vm| vm.tick_period().is_some());
                    if let Some(vm) = &held.vm {
                        let _ = slot.hears.set(vm.hears());
                    }
                    drop(held);
                    if ticks {
                        self.tick(&slot);
                    }
                    slot
                }
            };
            // Who uses it may have it ended: then another one is made.
            if !slot.is_free() && slot.hold().await.is_none() {
                continue;
            }
            let Some(hears) = slot.hears.get().copied() else { continue };
            // Numbers come again only after two thousand million requests.
            let context = slot.next.fetch_add(1, Relaxed).wrapping_add(1).max(ROOT + 1);
            return Ok(Visit {
                slot,
                context,
                is_new: true,
                here: PerContext::default(),
                mail: None,
                outstanding: 0,
                hears,
                closed: false,
            });
        }
    }

    async fn start(&self, program: &Arc<Program>) -> Result<Box<ProxyVm>, String> {
        let spare = lock(&self.spare).take_if(|vm| Arc::ptr_eq(&vm.program, program));
        if let Some(vm) = spare {
            return Ok(vm);
        }
        self.starts.fetch_add(1, Relaxed);
        match ProxyVm::start(program, &self.settings, self.proxy()).await {
            Ok(vm) => Ok(Box::new(vm)),
            Err(failure) => {
                self.hit(failure.reason);
                if failure.reason != Reason::Room {
                    self.unfit.failed(program, &failure.text);
                }
                Err(format!("it does not start: {}", failure.text))
            }
        }
    }

    /// Lets the program tick for as long as its VM is the one of requests to come.
    fn tick(self: &Arc<Host>, slot: &Arc<Slot>) {
        let (host, slot) = (Arc::downgrade(self), Arc::downgrade(slot));
        base_runtime::spawn(async move {
            let (replied, mut replies) = mailbox::<CallReply>(CALLS_MAX);
            let mut here = PerContext::default();
            loop {
                let Some(period) = period(&slot).await else { return };
                base_runtime::time::sleep(period).await;
                let (Some(host), Some(slot)) = (host.upgrade(), slot.upgrade()) else { return };
                if !host.source.program().is_some_and(|program| Arc::ptr_eq(&program, &slot.program)) {
                    return;
                }
                let Some(mut held) = slot.hold().await else { return };
                let Some(mut vm) = held.vm.take() else { return };
                let mut nobody = Exchange::default();
                let mut ticked = call::run(&mut nobody, vm.tick(&mut here)).await;
                while let (Ok(()), Some(reply)) = (&ticked, replies.try_recv()) {
                    let event =
                        Event::Reply { token: reply.token, fields: reply.headers.len(), bytes: reply.body.len() };
                    here.reply = Some(reply);
                    ticked = call::run(&mut nobody, vm.call(ROOT, false, &mut here, event)).await.map(drop);
                    here.reply = None;
                }
                match ticked {
                    Ok(()) => held.vm = Some(vm),
                    // It is ended, and a new one begins with the next request.
                    Err(failure) => {
                        host.hit(failure.reason);
                        host.note(&mut nobody, failure.reason as usize, &failure.text);
                        return;
                    }
                }
                drop(held);
                here.local = None;
                // Nobody's request is behind these.
                here.calls.drain(..).for_each(|wanted| host.send(wanted, Headers::new(), replied.clone()));
            }
        })
        .detach();
    }

    /// Brings a body into memory that the program has a callback for; false: it passes unseen.
    async fn gather(&self, exchange: &mut Exchange, side: Side, awaited: bool) -> Result<bool, Stop> {
        let space = exchange.space();
        // Its end may never come.
        let streams = side == Side::Response
            && space.response.as_ref().is_some_and(|response| {
                let kind = response.headers.known(Known::ContentType).unwrap_or_default().to_ascii_lowercase();
                kind.starts_with(b"text/event-stream") || kind.starts_with(b"application/grpc")
            });
        if streams && !awaited {
            return Ok(false);
        }
        let body = if side == Side::Request { &mut space.request_body } else { &mut space.response_body };
        match body.collect_or_leave(DEFAULT_BODY_LIMIT).await.err() {
            None => Ok(true),
            Some(BodyError::TooLarge | BodyError::NoMemory) if !awaited => {
                self.bounds.body.hit(worker());
                Ok(false)
            }
            Some(error) => Err(Stop::Body(error)),
        }
    }

    /// What becomes of a request that the program failed over: `None`, it goes on.
    fn stopped(&self, exchange: &mut Exchange, kept: Option<Kept>, side: Side, stop: Stop) -> Option<Outcome> {
        match stop {
            Stop::Failed(failure) => {
                self.hit(failure.reason);
                self.note(exchange, failure.reason as usize, &failure.text);
                if let Some(kept) = kept {
                    kept.put_back(exchange);
                    return None;
                }
                exchange.refuse(503);
            }
            Stop::Body(error) => {
                let is_large = matches!(error, BodyError::TooLarge | BodyError::NoMemory);
                if is_large {
                    self.bounds.body.hit(worker());
                    self.note(exchange, BODY, &error.to_string());
                    if self.spec.fail_open {
                        return None;
                    }
                }
                let space = exchange.space();
                let (status, body) = match side {
                    Side::Request => (error.request_status(), &mut space.request_body),
                    Side::Response => (error.response_status(), &mut space.response_body),
                };
                *body = Body::Empty;
                space.refuse(status);
            }
        }
        Some(WASM_ERROR)
    }

    /// There is nothing to run.
    fn unavailable(&self, exchange: &mut Exchange, why: &str) -> Result<Option<Visit>, Outcome> {
        self.note(exchange, UNAVAILABLE, why);
        if self.spec.fail_open {
            return Ok(None);
        }
        exchange.refuse(503);
        Err(OUT_OF_VM)
    }

    fn hit(&self, reason: Reason) {
        match reason {
            Reason::Time => self.bounds.time.hit(worker()),
            Reason::Memory => self.bounds.memory.hit(worker()),
            Reason::Fuel => self.bounds.fuel.hit(worker()),
            Reason::Room => self.bounds.room.hit(worker()),
            Reason::Trap => {}
        }
    }

    fn note(&self, exchange: &mut Exchange, reason: usize, text: &str) {
        self.failures[reason].fetch_add(1, Relaxed);
        let place = &self.settings.place;
        tracing::debug!(target: "wasm", pipeline = &*place.pipeline, filter = &*place.filter, "{text}");
        exchange.tags.note(|| format!("ProxyWasm: {text}"));
        *lock(&self.last) = Some(text.to_owned());
    }

    /// Why it serves no requests, or not with the program that it should.
    fn health(&self) -> Option<String> {
        let unfit = || Some(format!("it does not start: {}", self.unfit.of(&self.source.program()?)?));
        self.source.error().or_else(unfit)
    }
}

impl Runs for Host {
    fn starts(&self, program: &Arc<Program>) -> Result<(), String> {
        if self.unfit.is_fit(program) {
            return Ok(());
        }
        if let Some(why) = self.unfit.lately(program) {
            return Err(why);
        }
        self.starts.fetch_add(1, Relaxed);
        match ProxyVm::start_here(program, &self.settings, self.proxy()) {
            Ok(vm) => {
                self.unfit.started(program);
                *lock(&self.spare) = is_room().then(|| Box::new(vm));
                Ok(())
            }
            Err(failure) => {
                self.hit(failure.reason);
                // That there is no room for it says nothing of a program.
                if failure.reason == Reason::Room {
                    return Ok(());
                }
                self.unfit.failed(program, &failure.text);
                Err(failure.text)
            }
        }
    }

    fn taken(&self, program: &Arc<Program>) {
        lock(&self.spare).take_if(|vm| !Arc::ptr_eq(&vm.program, program));
        for current in &self.current {
            lock(current).take_if(|slot| !Arc::ptr_eq(&slot.program, program));
        }
    }

    fn is_unfit(&self, program: &Arc<Program>) -> bool {
        self.unfit.of(program).is_some()
    }
}

/// How long until the program ticks; `None` where it does not any more.
async fn period(slot: &Weak<Slot>) -> Option<Duration> {
    let slot = slot.upgrade()?;
    let held = slot.hold().await?;
    held.vm.as_ref()?.tick_period()
}

/// Makes a call that a program wants.
async fn asked(caller: &Caller, wanted: WantedCall, marks: &Headers) -> Option<CallReply> {
    let mut request = caller.request(Method::Get);
    for (name, value) in &wanted.headers {
        match &name.to_ascii_lowercase()[..] {
            b":method" => request.method = Method::parse(value)?,
            b":path" => request.set_target(value).ok()?,
            b":authority" | b"host" => {
                let text = std::str::from_utf8(value)
                    .ok()
                    .filter(|text| proto_http::authority::is_authority(text.as_bytes()))?;
                request.authority = text.to_owned();
                request.headers.set("Host", text);
            }
            name if name.starts_with(b":") || name == b"content-length" || Known::of(name).is_hop_by_hop() => {}
            _ if !crate::proxy_abi::is_field(name, value) => return None,
            _ => request.headers.add(name, value),
        }
    }
    rounds::carry(marks, &mut request.headers);
    let called = caller.call(&request, Body::full(wanted.body));
    let reply = match wanted.timeout {
        Duration::ZERO => called.await,
        timeout => base_runtime::time::timeout(timeout, called).await.ok()?,
    };
    let reply = reply.ok()?;
    let mut headers = vec![(b":status".to_vec(), reply.response.status.to_string().into_bytes())];
    headers.extend(reply.response.headers.iter().map(|(name, value, _)| (name.to_ascii_lowercase(), value.to_vec())));
    Some(CallReply { token: wanted.token, headers, body: reply.body.to_vec() })
}

/// What another request has done to this one.
fn ended() -> Failure {
    Failure { reason: Reason::Trap, text: "the program was ended while this request was under way".to_owned() }
}

/// `weir_proxy_wasm_*`.
fn figures(hosts: &[Arc<Host>], encoder: &mut Encoder) {
    let mut shown = std::collections::HashSet::new();
    // Of several generations of a filter the newest is shown.
    for host in hosts.iter().rev() {
        let place = &host.settings.place;
        if !shown.insert(place) {
            continue;
        }
        let labels = [("pipeline", &*place.pipeline), ("filter", &*place.filter)];
        let help = "Requests that came to a ProxyWasm, by pipeline and filter.";
        encoder.counter("weir_proxy_wasm_requests_total", help, &labels, host.requests.load(Relaxed) as f64);
        let help = "Instances of its program that a ProxyWasm has started, or tried to, by pipeline and filter.";
        encoder.counter("weir_proxy_wasm_starts_total", help, &labels, host.starts.load(Relaxed) as f64);
        for (reason, count) in FAILURES.iter().zip(&host.failures) {
            let help = "Failures of a ProxyWasm's program, by pipeline, filter and reason: time (longer than timeout or pauseTimeout), \
                        memory (more than memoryLimitMiB), trap (or ended by another request), fuel (did more than that), room (no \
                        place for a VM in this process), unavailable (no program or no VM), body (too large to be gathered).";
            let labels = [labels[0], labels[1], ("reason", *reason)];
            encoder.counter("weir_proxy_wasm_failures_total", help, &labels, count.load(Relaxed) as f64);
        }
        host.common.encode(encoder, &place.pipeline, &place.filter);
    }
}

/// The worker this runs on; a number no worker has elsewhere.
fn worker() -> usize {
    base_runtime::current_worker().map_or(usize::MAX, |worker| worker.index())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

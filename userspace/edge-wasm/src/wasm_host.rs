//! The filter WasmHost; its document and what it promises are in edge-filters.

use crate::call;
use crate::code::{self, Breed, Dialect, Program, Runs, Source};
use crate::patience::Patience;
use crate::shared::{Place, Section};
use crate::unfit::Unfit;
use crate::vm::{self, Failure, Reason, Settings, Vm};
use base_telemetry::Limit;
use base_telemetry::registry::Encoder;
use edge_filters::Kept;
use edge_filters::wasm_host::{OUT_OF_VM, WASM_ERROR, WASM_RESULTS, WasmHostSpec};
use edge_pipeline::exchange::DEFAULT_BODY_LIMIT;
use edge_pipeline::{Body, BodyError, BuildError, Exchange, Filter, Outcome, Parts, SUCCESS, Step};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
    fence,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

/// Longest time that a request waits for a VM.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Requests of one filter that wait for VMs.
const WAITING_MAX: usize = 10_000;

/// Makes WasmHosts of documents from now on.
pub fn install() {
    edge_filters::wasm_host::install(make);
}

fn make(spec: WasmHostSpec, parts: &Parts<'_>) -> Result<Arc<dyn Filter>, BuildError> {
    let previous = parts.previous.and_then(|previous| previous.downcast::<WasmHost>()).map(|filter| &filter.host);
    if let Some(host) = previous.filter(|host| host.spec == spec) {
        return Ok(Arc::new(WasmHost { host: host.clone() }));
    }
    let code = spec.code().map_err(|why| vec![base_model::Problem::new("code", why)])?;
    let breed = Breed { dialect: Dialect::Easegress, metered: spec.fuel > 0 };
    let (source, known) = match previous {
        Some(host) if host.source.is(&code, breed) => (host.source.clone(), true),
        // What runs on one engine does not on the other.
        Some(host) if (host.spec.fuel > 0) == breed.metered => (Source::new(code, breed, host.source.program()), false),
        _ => (Source::new(code, breed, None), false),
    };
    let host = Arc::new(Host::new(spec, source, parts));
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
    Ok(Arc::new(WasmHost { host }))
}

/// A ready WasmHost.
struct WasmHost {
    host: Arc<Host>,
}

impl Filter for WasmHost {
    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        Step::wait(self.host.serve(exchange))
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
    spec: WasmHostSpec,
    source: Arc<Source>,
    settings: Settings,
    /// By worker, so that none waits for another's; a worker without any takes one of another.
    idle: Box<[Mutex<Vec<Vm>>]>,
    /// VMs there are, and are being made.
    vms: AtomicUsize,
    waiting: Mutex<Waiting>,
    /// Requests in the queue: nobody looks into it where there are none.
    waits: AtomicUsize,
    /// A program that does not start.
    unfit: Unfit,
    /// VMs that were made, or were to be.
    starts: AtomicU64,
    requests: AtomicU64,
    failures: [AtomicU64; FAILURES.len()],
    last: Mutex<Option<String>>,
    bounds: Bounds,
}

/// Labels of the failures that are counted.
const FAILURES: [&str; 8] = [
    Reason::Time.name(),
    Reason::Memory.name(),
    Reason::Trap.name(),
    Reason::Fuel.name(),
    Reason::Room.name(),
    "result",
    "unavailable",
    "body",
];
const RESULT: usize = 5;
const UNAVAILABLE: usize = 6;
const BODY: usize = 7;

struct Bounds {
    time: Limit,
    memory: Limit,
    vms: Limit,
    fuel: Limit,
    room: Limit,
    body: Limit,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    /// By number; who was woken keeps the place until it has a VM, so that nobody who comes later is served before.
    queue: VecDeque<Waiter>,
}

struct Waiter {
    number: u64,
    waker: Waker,
    woken: bool,
}

impl Host {
    fn new(spec: WasmHostSpec, source: Arc<Source>, parts: &Parts<'_>) -> Host {
        let place = Place { pipeline: parts.pipeline.text().clone(), filter: parts.name.into() };
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let parameters = spec.parameters.iter().flat_map(|(name, value)| [name.clone(), text(value)]).collect();
        let limits = parts.telemetry.limits();
        Host {
            settings: Settings {
                section: Section::of(&place),
                place,
                parameters,
                memory_max: spec.memory_limit_mib as usize * 1024 * 1024,
                timeout: spec.timeout.duration(),
                fuel: (spec.fuel > 0).then_some(spec.fuel),
            },
            spec,
            source,
            idle: (0..parts.telemetry.workers().max(1)).map(|_| Mutex::default()).collect(),
            vms: AtomicUsize::new(0),
            waiting: Mutex::default(),
            waits: AtomicUsize::new(0),
            unfit: Unfit::default(),
            starts: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            failures: Default::default(),
            last: Mutex::default(),
            bounds: Bounds {
                time: limits.register("wasm_time"),
                memory: limits.register("wasm_memory"),
                vms: limits.register("wasm_vms"),
                fuel: limits.register("wasm_fuel"),
                room: limits.register("wasm_room"),
                body: limits.register("wasm_body"),
            },
        }
    }

    async fn serve(self: &Arc<Host>, exchange: &mut Exchange) -> Outcome {
        self.requests.fetch_add(1, Relaxed);
        let Some(program) = self.source.program() else {
            let why = self.source.error().unwrap_or_else(|| "the program is not loaded yet".to_owned());
            return self.unavailable(exchange, why);
        };
        if let Err(done) = self.gather(&program, exchange).await {
            return done;
        }
        let Some(mut seat) = self.seat(&program).await else {
            self.bounds.vms.hit(worker());
            return self.unavailable(exchange, "all VMs are taken (maxConcurrency)".to_owned());
        };
        // Whoever gives this up in the middle gives the VM up: it is in the middle of something, too.
        let mut vm = match seat.vm.take() {
            Some(vm) => vm,
            None => match self.start(&program).await {
                Ok(vm) => vm,
                Err(why) => return self.unavailable(exchange, format!("a VM does not start: {why}")),
            },
        };
        let kept = self.spec.fail_open.then(|| Kept::of(exchange));
        match call::run(exchange, vm.run()).await {
            Ok(code @ 0..=9) => {
                seat.vm = Some(vm);
                exchange.space().response.get_or_insert_default();
                usize::try_from(code - 1).map_or(SUCCESS, |at| WASM_RESULTS[at])
            }
            Ok(code) => {
                seat.vm = Some(vm);
                self.failed(exchange, kept, RESULT, format!("wasm_run returned {code}; accepted are 0 to 9"))
            }
            Err(Failure { reason, text }) => {
                self.hit(reason);
                self.failed(exchange, kept, reason as usize, text)
            }
        }
    }

    /// A VM more. A program that did not start is not started for a request: it would take the worker's time each time.
    async fn start(&self, program: &Arc<Program>) -> Result<Vm, String> {
        if let Some(why) = self.unfit.of(program) {
            return Err(why);
        }
        self.starts.fetch_add(1, Relaxed);
        let failure = match Vm::start(program, &self.settings).await {
            Ok(vm) => return Ok(vm),
            Err(failure) => failure,
        };
        self.hit(failure.reason);
        if failure.reason != Reason::Room {
            self.unfit.failed(program, &failure.text);
        }
        Err(failure.text)
    }

    /// Why it serves no requests, or not with the program that it should.
    fn health(&self) -> Option<String> {
        let unfit = || Some(format!("it does not start: {}", self.unfit.of(&self.source.program()?)?));
        self.source.error().or_else(unfit)
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

    /// Brings the bodies into memory that the program asks for. One that is too large for that is not the program's to see: the request
    /// is refused, or goes on without it.
    async fn gather(&self, program: &Program, exchange: &mut Exchange) -> Result<(), Outcome> {
        let space = exchange.space();
        if program.reads_request
            && space.request_body.in_memory().is_none()
            && let Err(error) = space.request_body.collect_or_leave(DEFAULT_BODY_LIMIT).await
        {
            return Err(self.too_large(exchange, "request", error));
        }
        let space = exchange.space();
        if program.reads_response
            && space.response_body.in_memory().is_none()
            && let Err(error) = space.response_body.collect_or_leave(DEFAULT_BODY_LIMIT).await
        {
            return Err(self.too_large(exchange, "answer", error));
        }
        Ok(())
    }

    fn too_large(&self, exchange: &mut Exchange, whose: &str, error: BodyError) -> Outcome {
        let text = format!("the {whose}'s {error}");
        if matches!(error, BodyError::TooLarge | BodyError::NoMemory) {
            self.bounds.body.hit(worker());
            self.note(exchange, BODY, &text);
            if self.spec.fail_open {
                return SUCCESS;
            }
        } else {
            exchange.tags.note(|| format!("WasmHost: {text}"));
        }
        let status = if whose == "request" { error.request_status() } else { error.response_status() };
        let space = exchange.space();
        *(if whose == "request" { &mut space.request_body } else { &mut space.response_body }) = Body::Empty;
        let response = space.refuse(status);
        if error == BodyError::NoMemory {
            response.headers.set("Retry-After", "1");
        }
        WASM_ERROR
    }

    fn failed(&self, exchange: &mut Exchange, kept: Option<Kept>, reason: usize, text: String) -> Outcome {
        self.note(exchange, reason, &text);
        if self.spec.fail_open {
            if let Some(kept) = kept {
                kept.put_back(exchange);
            }
            return SUCCESS;
        }
        exchange.refuse(503);
        WASM_ERROR
    }

    /// There is nothing to run.
    fn unavailable(&self, exchange: &mut Exchange, text: String) -> Outcome {
        self.note(exchange, UNAVAILABLE, &text);
        if self.spec.fail_open {
            return SUCCESS;
        }
        exchange.refuse(503);
        OUT_OF_VM
    }

    fn note(&self, exchange: &mut Exchange, reason: usize, text: &str) {
        self.failures[reason].fetch_add(1, Relaxed);
        let place = &self.settings.place;
        tracing::debug!(target: "wasm", pipeline = &*place.pipeline, filter = &*place.filter, "{text}");
        exchange.tags.note(|| format!("WasmHost: {text}"));
        *lock(&self.last) = Some(text.to_owned());
    }

    /// A VM of the program, or the right to make one.
    async fn seat(self: &Arc<Host>, program: &Arc<Program>) -> Option<Seat> {
        if self.waits.load(Relaxed) == 0
            && let Some(seat) = self.try_seat(program)
        {
            return Some(seat);
        }
        let mut place = Queued { host: self, number: None };
        let free = poll_fn(|cx| match place.wait(cx.waker()) {
            Turn::Full => Poll::Ready(None),
            Turn::Later => Poll::Pending,
            // One may have become free before this was in the queue.
            Turn::Now => self.try_seat(program).map_or(Poll::Pending, |seat| Poll::Ready(Some(seat))),
        });
        base_runtime::time::timeout(WAIT_MAX, free).await.ok().flatten()
    }

    fn try_seat(self: &Arc<Host>, program: &Arc<Program>) -> Option<Seat> {
        let worker = worker();
        let own = self.idle.get(worker).map_or(0, |_| worker);
        for at in (own..self.idle.len()).chain(0..own) {
            let idle = lock(&self.idle[at]).pop();
            if let Some(vm) = idle {
                // One that runs an older program makes room for one that does not.
                let vm = Arc::ptr_eq(&vm.program, program).then_some(vm);
                return Some(Seat { host: self.clone(), home: own, vm });
            }
            if at == own && self.add_vm() {
                return Some(Seat { host: self.clone(), home: own, vm: None });
            }
        }
        None
    }

    /// Keeps a VM for the first request where there is room.
    fn bring(&self, vm: Vm) {
        if vm::is_room() && self.add_vm() {
            lock(&self.idle[0]).push(vm);
            self.wake_next();
        }
    }

    fn add_vm(&self) -> bool {
        let most = self.spec.max_concurrency as usize;
        self.vms.fetch_update(Relaxed, Relaxed, |vms| (vms < most).then_some(vms + 1)).is_ok()
    }

    /// There is room for one more, or may be.
    fn wake_next(&self) {
        // Who is in the queue sees the room, or is seen here.
        fence(SeqCst);
        if self.waits.load(Relaxed) == 0 {
            return;
        }
        let mut waiting = lock(&self.waiting);
        if let Some(next) = waiting.queue.iter_mut().find(|waiter| !waiter.woken) {
            next.woken = true;
            let waker = next.waker.clone();
            drop(waiting);
            waker.wake();
        }
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
        match Vm::start_here(program, &self.settings) {
            Ok(vm) => {
                self.unfit.started(program);
                self.bring(vm);
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
        for idle in &self.idle {
            let old: Vec<Vm> = lock(idle).extract_if(.., |vm| !Arc::ptr_eq(&vm.program, program)).collect();
            self.vms.fetch_sub(old.len(), Relaxed);
            old.iter().for_each(|_| self.wake_next());
        }
    }

    fn is_unfit(&self, program: &Arc<Program>) -> bool {
        self.unfit.of(program).is_some()
    }
}

/// The right to one VM, and that, once it is there. It goes back to the worker's others when this is dropped.
struct Seat {
    host: Arc<Host>,
    home: usize,
    vm: Option<Vm>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        match self.vm.take() {
            Some(vm) => lock(&self.host.idle[self.home]).push(vm),
            None => {
                self.host.vms.fetch_sub(1, Relaxed);
            }
        }
        self.host.wake_next();
    }
}

/// A place in the queue for VMs.
struct Queued<'h> {
    host: &'h Host,
    number: Option<u64>,
}

/// What may be done in the queue.
enum Turn {
    Now,
    Later,
    /// Too many wait already.
    Full,
}

impl Queued<'_> {
    fn wait(&mut self, waker: &Waker) -> Turn {
        let mut waiting = lock(&self.host.waiting);
        let Some(number) = self.number else {
            if waiting.queue.len() >= WAITING_MAX {
                return Turn::Full;
            }
            waiting.next += 1;
            let number = waiting.next;
            self.number = Some(number);
            waiting.queue.push_back(Waiter { number, waker: waker.clone(), woken: false });
            self.host.waits.fetch_add(1, Relaxed);
            fence(SeqCst);
            return if waiting.queue.len() == 1 { Turn::Now } else { Turn::Later };
        };
        let Ok(at) = waiting.queue.binary_search_by_key(&number, |waiter| waiter.number) else { return Turn::Later };
        let waiter = &mut waiting.queue[at];
        waiter.waker.clone_from(waker);
        // Who was woken and finds nothing stays in its place, and is woken again.
        let was_woken = std::mem::take(&mut waiter.woken);
        if was_woken || at == 0 { Turn::Now } else { Turn::Later }
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let mut waiting = lock(&self.host.waiting);
        if let Ok(at) = waiting.queue.binary_search_by_key(&number, |waiter| waiter.number) {
            waiting.queue.remove(at);
            self.host.waits.fetch_sub(1, Relaxed);
        }
        drop(waiting);
        // What woke it may be there for the next, and others may be free beside.
        self.host.wake_next();
    }
}

/// `weir_wasm_*`.
fn figures(hosts: &[Arc<Host>], encoder: &mut Encoder) {
    let help = "Programs that were not compiled within 30 s.";
    encoder.counter("weir_wasm_overdue_total", help, &[], code::overdue() as f64);
    let mut shown = std::collections::HashSet::new();
    // Of several generations of a filter the newest is shown.
    for host in hosts.iter().rev() {
        let place = &host.settings.place;
        if !shown.insert(place) {
            continue;
        }
        let labels = [("pipeline", &*place.pipeline), ("filter", &*place.filter)];
        let help = "Requests that came to a WasmHost, by pipeline and filter.";
        encoder.counter("weir_wasm_requests_total", help, &labels, host.requests.load(Relaxed) as f64);
        let help = "Instances of its program that a WasmHost has, by pipeline and filter.";
        encoder.gauge("weir_wasm_vms", help, &labels, host.vms.load(Relaxed) as f64);
        let help = "Instances of its program that a WasmHost has started, or tried to, by pipeline and filter.";
        encoder.counter("weir_wasm_starts_total", help, &labels, host.starts.load(Relaxed) as f64);
        for (reason, count) in FAILURES.iter().zip(&host.failures) {
            let help = "Runs of a WasmHost's program that failed, by pipeline, filter and reason: time (longer than timeout), memory \
                        (more than memoryLimitMiB), trap, fuel (did more than that), room (no place for a VM in this process), result \
                        (not 0 to 9), unavailable (no program or no VM), body (too large to be gathered).";
            let labels = [labels[0], labels[1], ("reason", *reason)];
            encoder.counter("weir_wasm_failures_total", help, &labels, count.load(Relaxed) as f64);
        }
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

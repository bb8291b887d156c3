//! One instance of a proxy-wasm program, and the callbacks that it may have.

use crate::call;
use crate::code::Program;
use crate::engine::Turn;
use crate::host::ended;
use crate::proxy_host::{PerContext, Proxy};
use crate::vm::{Failure, Live, START_MIN, Settings, State, opened, wait};
use edge_pipeline::Exchange;
use std::sync::Arc;
use std::time::Duration;
use wasmtime::{Instance, Result, Store, TypedFunc, WasmParams, WasmResults};

/// The context that a program's configuration and ticks belong to.
pub const ROOT: i32 = 1;

/// What a head, a body or trailers are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Request,
    Response,
}

/// What a program is called for.
pub enum Event {
    Head {
        side: Side,
        fields: usize,
        ends: bool,
    },
    Body {
        side: Side,
        bytes: usize,
        ends: bool,
    },
    Trailers {
        side: Side,
        fields: usize,
    },
    /// A call of its own has come back: number, fields and bytes of the answer.
    Reply {
        token: u32,
        fields: usize,
        bytes: usize,
    },
    /// The request is over.
    Done,
}

/// Whether the request goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Continue,
    Pause,
}

/// Which callbacks a program has: what it has none for needs no VM.
#[derive(Debug, Clone, Copy)]
pub struct Hears {
    creates: bool,
    /// By [`Side`].
    heads: [bool; 2],
    bodies: [bool; 2],
    trailers: [bool; 2],
    replies: bool,
    /// That a request is over.
    ends: bool,
}

impl Hears {
    /// Whether it is called for that; `is_new`: its context has not been made yet.
    pub fn of(&self, event: &Event, is_new: bool) -> bool {
        let has = match event {
            Event::Head { side, .. } => self.heads[*side as usize],
            Event::Body { side, .. } => self.bodies[*side as usize],
            Event::Trailers { side, .. } => self.trailers[*side as usize],
            Event::Reply { .. } => self.replies,
            Event::Done => self.ends,
        };
        has || is_new && self.creates
    }

    pub fn bodies_of(&self, side: Side) -> bool {
        self.bodies[side as usize]
    }

    pub fn trailers_of(&self, side: Side) -> bool {
        self.trailers[side as usize]
    }

    /// Whether it wants to know of contexts that are gone.
    pub fn ends(&self) -> bool {
        self.ends
    }
}

/// What a program may export, and what it takes.
type Callback<P, R = ()> = Option<TypedFunc<P, R>>;

/// A program of a worker.
pub struct ProxyVm {
    store: Store<State>,
    pub program: Arc<Program>,
    timeout: Duration,
    fuel: Option<u64>,
    create: Callback<(i32, i32)>,
    /// That, and the head of a request.
    begins: Callback<(i32, i32, i32, i32), i32>,
    /// By [`Side`].
    heads: [Callback<(i32, i32, i32), i32>; 2],
    bodies: [Callback<(i32, i32, i32), i32>; 2],
    trailers: [Callback<(i32, i32), i32>; 2],
    on_reply: Callback<(i32, i32, i32, i32, i32)>,
    on_tick: Callback<i32>,
    on_queue: Callback<(i32, i32)>,
    on_done: Callback<i32, i32>,
    on_log: Callback<i32>,
    on_delete: Callback<i32>,
    _live: Live,
}

impl ProxyVm {
    /// Makes one on the thread that calls, which is no worker and waits for it.
    pub fn start_here(program: &Arc<Program>, settings: &Settings, proxy: Proxy) -> Result<ProxyVm, Failure> {
        let timeout = settings.timeout.max(START_MIN);
        let started = wait(ProxyVm::start(program, settings, proxy), timeout + START_MIN);
        started.unwrap_or_else(|| Err(Failure::too_long(timeout)))
    }

    /// Makes one, and lets the program prepare itself.
    pub async fn start(program: &Arc<Program>, settings: &Settings, proxy: Proxy) -> Result<ProxyVm, Failure> {
        let timeout = settings.timeout.max(START_MIN);
        // Nothing is asked of a request that is not there; what asks all the same gets an empty one.
        let mut nobody = Exchange::default();
        let started = call::run(&mut nobody, ProxyVm::started(program, settings, timeout, proxy)).await;
        started.map_err(|error| Failure::of(&error, timeout))
    }

    async fn started(program: &Arc<Program>, settings: &Settings, timeout: Duration, proxy: Proxy) -> Result<ProxyVm> {
        let _turn = Turn::new();
        let size = |bytes: &[u8]| i32::try_from(bytes.len()).unwrap_or(i32::MAX);
        let sizes = [size(&proxy.vm_configuration), size(&proxy.configuration)];
        let proxy = Box::new(Proxy { context: ROOT, effective: ROOT, ..proxy });
        let opened = opened(program, settings, timeout, Some(proxy)).await?;
        let (mut store, instance) = (opened.store, opened.instance);
        let mut vm = ProxyVm {
            create: export(&mut store, &instance, "proxy_on_context_create"),
            begins: None,
            heads: ["proxy_on_request_headers", "proxy_on_response_headers"]
                .map(|name| export(&mut store, &instance, name)),
            bodies: ["proxy_on_request_body", "proxy_on_response_body"].map(|name| export(&mut store, &instance, name)),
            trailers: ["proxy_on_request_trailers", "proxy_on_response_trailers"]
                .map(|name| export(&mut store, &instance, name)),
            on_reply: export(&mut store, &instance, "proxy_on_http_call_response"),
            on_tick: export(&mut store, &instance, "proxy_on_tick"),
            on_queue: export(&mut store, &instance, "proxy_on_queue_ready"),
            on_done: export(&mut store, &instance, "proxy_on_done"),
            on_log: export(&mut store, &instance, "proxy_on_log"),
            on_delete: export(&mut store, &instance, "proxy_on_delete"),
            store,
            program: program.clone(),
            timeout: settings.timeout,
            fuel: settings.fuel,
            _live: opened.live,
        };
        if let (Some(given), Some(create), Some(heads)) = (opened.given, &vm.create, &vm.heads[Side::Request as usize])
        {
            let begin = given.takes_begin(&mut vm.store, *create.func(), *heads.func())?;
            vm.begins = Some(begin.typed(&vm.store)?);
        }
        if let Some(create) = vm.create.clone() {
            create.call_async(&mut vm.store, (ROOT, 0)).await?;
        }
        for (name, size) in ["proxy_on_vm_start", "proxy_on_configure"].into_iter().zip(sizes) {
            if let Some(begin) = export::<(i32, i32), i32>(&mut vm.store, &instance, name)
                && begin.call_async(&mut vm.store, (ROOT, size)).await? == 0
            {
                return Err(ended(format!("{name} says that it cannot begin")));
            }
        }
        Ok(vm)
    }

    pub fn hears(&self) -> Hears {
        Hears {
            creates: self.create.is_some(),
            heads: self.heads.each_ref().map(Option::is_some),
            bodies: self.bodies.each_ref().map(Option::is_some),
            trailers: self.trailers.each_ref().map(Option::is_some),
            replies: self.on_reply.is_some(),
            ends: self.on_done.is_some() || self.on_log.is_some() || self.on_delete.is_some(),
        }
    }

    pub fn tick_period(&self) -> Option<Duration> {
        self.on_tick.as_ref()?;
        self.store.data().proxy.as_ref()?.tick
    }

    /// Another context has said that this one may go on.
    pub fn was_resumed(&mut self, context: i32) -> bool {
        self.proxy().is_some_and(|proxy| proxy.resumed.remove(&context))
    }

    fn proxy(&mut self) -> Option<&mut Proxy> {
        self.store.data_mut().proxy.as_deref_mut()
    }

    fn begin(&mut self) -> Result<Turn> {
        let turn = Turn::new();
        self.store.data_mut().begin(self.timeout);
        self.store.set_epoch_deadline(1);
        if let Some(fuel) = self.fuel {
            self.store.set_fuel(fuel)?;
        }
        Ok(turn)
    }

    fn enter(&mut self, context: i32) {
        if let Some(proxy) = self.proxy() {
            (proxy.context, proxy.effective) = (context, context);
        }
    }

    /// Calls the program for a request. `is_new`: its context has to be made first.
    pub async fn call(
        &mut self,
        context: i32,
        is_new: bool,
        here: &mut PerContext,
        event: Event,
    ) -> Result<Action, Failure> {
        let timeout = self.timeout;
        if let Some(proxy) = self.proxy() {
            std::mem::swap(&mut proxy.here, here);
        }
        self.enter(context);
        let called = self.called(context, is_new, event).await;
        if let Some(proxy) = self.proxy() {
            std::mem::swap(&mut proxy.here, here);
        }
        called.map_err(|error| Failure::of(&error, timeout))
    }

    async fn called(&mut self, context: i32, is_new: bool, event: Event) -> Result<Action> {
        let _turn = self.begin()?;
        let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let begins =
            self.begins.as_ref().filter(|_| is_new && matches!(event, Event::Head { side: Side::Request, .. }));
        if begins.is_none()
            && is_new
            && let Some(create) = &self.create
        {
            create.call_async(&mut self.store, (context, ROOT)).await?;
        }
        let action = match event {
            Event::Head { fields, ends, .. } if let Some(begin) = begins => {
                Some(begin.call_async(&mut self.store, (context, ROOT, number(fields), i32::from(ends))).await?)
            }
            Event::Head { side, fields, ends } => {
                let params = (context, number(fields), i32::from(ends));
                call_if(&mut self.store, &self.heads[side as usize], params).await?
            }
            Event::Body { side, bytes, ends } => {
                let params = (context, number(bytes), i32::from(ends));
                call_if(&mut self.store, &self.bodies[side as usize], params).await?
            }
            Event::Trailers { side, fields } => {
                call_if(&mut self.store, &self.trailers[side as usize], (context, number(fields))).await?
            }
            Event::Reply { token, fields, bytes } => {
                // As in Envoy: an SDK looks up whose call it was, and says so (`proxy_set_effective_context`).
                let params = (ROOT, token.cast_signed(), number(fields), number(bytes), 0);
                call_if(&mut self.store, &self.on_reply, params).await?;
                None
            }
            Event::Done => {
                self.close(context).await?;
                None
            }
        };
        self.queues().await?;
        // Whatever is not `Continue` waits.
        Ok(if action.unwrap_or(0) == 0 { Action::Continue } else { Action::Pause })
    }

    /// Tells the program of queues that it wants to hear of.
    async fn queues(&mut self) -> Result<()> {
        let filled = self.proxy().map(|proxy| std::mem::take(&mut proxy.filled)).unwrap_or_default();
        if filled.is_empty() {
            return Ok(());
        }
        self.enter(ROOT);
        for id in filled {
            call_if(&mut self.store, &self.on_queue, (ROOT, id.cast_signed())).await?;
        }
        // What was put into queues meanwhile is told of with the next callback.
        Ok(())
    }

    async fn close(&mut self, context: i32) -> Result<()> {
        call_if(&mut self.store, &self.on_done, context).await?;
        call_if(&mut self.store, &self.on_log, context).await?;
        call_if(&mut self.store, &self.on_delete, context).await?;
        Ok(())
    }

    pub async fn tick(&mut self, here: &mut PerContext) -> Result<(), Failure> {
        let timeout = self.timeout;
        if let Some(proxy) = self.proxy() {
            std::mem::swap(&mut proxy.here, here);
        }
        self.enter(ROOT);
        let ticked = async {
            let _turn = self.begin()?;
            call_if(&mut self.store, &self.on_tick, ROOT).await?;
            self.queues().await
        };
        let ticked = ticked.await;
        if let Some(proxy) = self.proxy() {
            std::mem::swap(&mut proxy.here, here);
        }
        ticked.map_err(|error| Failure::of(&error, timeout))
    }
}

fn export<P: WasmParams, R: WasmResults>(store: &mut Store<State>, instance: &Instance, name: &str) -> Callback<P, R> {
    instance.get_typed_func(store, name).ok()
}

async fn call_if<P: WasmParams + Sync, R: WasmResults + Sync>(
    store: &mut Store<State>,
    callback: &Callback<P, R>,
    params: P,
) -> Result<Option<R>> {
    match callback {
        Some(callback) => callback.call_async(store, params).await.map(Some),
        None => Ok(None),
    }
}

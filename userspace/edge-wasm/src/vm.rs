//! One instance of a program: it serves one request after another, and is thrown away when it failed.

use crate::abi::put_list;
use crate::code::Program;
use crate::engine::{Turn, vms_max};
use crate::host::{Ended, Waits, ended};
use crate::proxy_gives::Given;
use crate::proxy_host::Proxy;
use crate::shared::{Place, Section};
use base_runtime::memory::{self, Kind, SharedBooking};
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};
use wasmtime::{
    Error, Instance, Memory, PoolConcurrencyLimitError, ResourceLimiter, Result, Store, Trap, TypedFunc, UpdateDeadline,
};

/// What a program's functions know beside its request.
pub struct State {
    pub memory: Option<Memory>,
    alloc: Option<TypedFunc<u32, u32>>,
    pub place: Place,
    pub section: Arc<Section>,
    /// What a program of Envoy's dialect knows.
    pub proxy: Option<Box<Proxy>>,
    /// Kept from one text to the next.
    pub scratch: Vec<u8>,
    /// A text that waits for the program's memory to be put into.
    pub staged: Vec<u8>,
    /// The program is asked for memory.
    pub is_giving: bool,
    /// Lines for our own log that were asked for since the program was called.
    pub lines: u32,
    chance: u64,
    /// How long the program may compute.
    timeout: Duration,
    /// Until when: known from the first look at the clock on, which most programs are done before.
    until: Option<Instant>,
    bounds: Bounds,
}

impl State {
    /// Where the program wants to have what it is given; to be brought back once that has said so. One that asks for more from there
    /// would go ever deeper, each time on a stack of its own of those that all programs share.
    pub fn take_alloc(&mut self) -> Result<TypedFunc<u32, u32>> {
        let why = "the program asks for something while it cannot take it: before wasm_alloc is there, or within it";
        self.alloc.take().ok_or_else(|| ended(why))
    }

    /// Whether it is known where the program wants to have what it is given.
    pub fn has_alloc(&self) -> bool {
        self.alloc.is_some()
    }

    pub fn bring_alloc(&mut self, alloc: TypedFunc<u32, u32>) {
        self.alloc = Some(alloc);
    }

    /// It is called, and may compute so long from now on.
    pub fn begin(&mut self, timeout: Duration) {
        (self.timeout, self.until) = (timeout, None);
        self.lines = 0;
    }

    /// The program waited for somebody else, which is not its time.
    pub fn allow(&mut self, waited: Duration) {
        self.until = self.until.map(|until| until + waited);
    }

    /// It has computed for long enough; asked whenever the engine's epoch has moved.
    fn is_late(&mut self) -> bool {
        let now = Instant::now();
        now >= *self.until.get_or_insert(now + self.timeout)
    }

    /// A number by chance; not for secrets (splitmix64).
    pub fn random(&mut self) -> u64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.chance ^ (self.chance >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// What every VM of a filter is made with.
pub struct Settings {
    pub place: Place,
    pub section: Arc<Section>,
    /// Names and values, in turn.
    pub parameters: Vec<String>,
    /// Of memory, in bytes.
    pub memory_max: usize,
    pub timeout: Duration,
    /// What a program may do for one request, where that is counted.
    pub fuel: Option<u64>,
}

/// Why a program was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It took longer than it may.
    Time,
    /// It wanted more memory than it may have.
    Memory,
    /// It trapped, or did what it must not.
    Trap,
    /// It did more than it may.
    Fuel,
    /// All places for VMs that this process has are taken.
    Room,
}

impl Reason {
    /// As in the label of a metric.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Time => "time",
            Reason::Memory => "memory",
            Reason::Trap => "trap",
            Reason::Fuel => "fuel",
            Reason::Room => "room",
        }
    }
}

/// A failure with what is to be told of it.
pub struct Failure {
    pub reason: Reason,
    pub text: String,
}

impl Failure {
    pub fn too_long(timeout: Duration) -> Failure {
        let text = format!("not done within {}", base_text::duration(timeout));
        Failure { reason: Reason::Time, text }
    }

    pub fn of(error: &Error, timeout: Duration) -> Failure {
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => return Failure::too_long(timeout),
            Some(Trap::OutOfFuel) => {
                return Failure { reason: Reason::Fuel, text: "it does more than it may (fuel)".to_owned() };
            }
            _ => {}
        }
        if error.is::<PoolConcurrencyLimitError>() {
            let text = format!("all {} places for VMs that this process has are taken: {error}", vms_max());
            return Failure { reason: Reason::Room, text };
        }
        if let Some(grown) = error.downcast_ref::<Grown>() {
            return Failure { reason: Reason::Memory, text: grown.to_string() };
        }
        let text = match (error.downcast_ref::<Ended>(), error.downcast_ref::<Trap>()) {
            (Some(ended), _) => ended.to_string(),
            (None, Some(trap)) => trap.to_string(),
            (None, None) => error.root_cause().to_string(),
        };
        Failure { reason: Reason::Trap, text }
    }
}

pub struct Vm {
    store: Store<State>,
    run: TypedFunc<(), i32>,
    pub program: Arc<Program>,
    timeout: Duration,
    fuel: Option<u64>,
    _live: Live,
}

/// One of the VMs that there are.
pub struct Live(());

static LIVE: AtomicU32 = AtomicU32::new(0);

impl Live {
    fn new() -> Live {
        LIVE.fetch_add(1, Relaxed);
        Live(())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        LIVE.fetch_sub(1, Relaxed);
    }
}

/// Whether there is room for VMs that nobody has asked for yet.
pub fn is_room() -> bool {
    LIVE.load(Relaxed) <= vms_max() / 2
}

/// Polls a future to its end on this thread, which is no worker, for at most so long.
pub fn wait<T>(future: impl Future<Output = T>, most: Duration) -> Option<T> {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let (mut cx, until) = (Context::from_waker(&waker), Instant::now() + most);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return Some(value);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        thread::park_timeout(left);
    }
}

impl Vm {
    /// Makes one on the thread that calls, which is no worker and waits for it.
    pub fn start_here(program: &Arc<Program>, settings: &Settings) -> Result<Vm, Failure> {
        let timeout = settings.timeout.max(START_MIN);
        let waits = if program.waits == Waits::May { WAIT_MAX } else { Duration::ZERO };
        let started = wait(Vm::started(program, settings, timeout), timeout + waits + START_MIN);
        match started {
            Some(started) => started.map_err(|error| Failure::of(&error, timeout)),
            None => Err(Failure::too_long(timeout + waits)),
        }
    }

    /// Makes one, and lets the program prepare itself.
    pub async fn start(program: &Arc<Program>, settings: &Settings) -> Result<Vm, Failure> {
        let timeout = settings.timeout.max(START_MIN);
        let started = Vm::started(program, settings, timeout);
        let started = match program.waits {
            Waits::Never => started.await,
            Waits::May => match base_runtime::time::timeout(timeout + WAIT_MAX, started).await {
                Ok(started) => started,
                Err(_) => return Err(Failure::too_long(timeout + WAIT_MAX)),
            },
        };
        started.map_err(|error| Failure::of(&error, timeout))
    }

    async fn started(program: &Arc<Program>, settings: &Settings, timeout: Duration) -> Result<Vm> {
        let _turn = Turn::new();
        let Opened { mut store, instance, memory, alloc, live, .. } = opened(program, settings, timeout, None).await?;
        if let Ok(init) = instance.get_typed_func::<u32, ()>(&mut store, "wasm_init") {
            let mut list = Vec::new();
            put_list(&mut list, settings.parameters.iter().map(|text| text.as_bytes()));
            let length = u32::try_from(list.len()).map_err(|_| ended("the parameters are too long"))?;
            let at = alloc.call_async(&mut store, length).await?;
            memory
                .write(&mut store, at as usize, &list)
                .map_err(|_| ended("wasm_alloc gave a place outside the memory"))?;
            init.call_async(&mut store, at).await?;
        }
        let run = instance.get_typed_func::<(), i32>(&mut store, "wasm_run")?;
        let (timeout, fuel) = (settings.timeout, settings.fuel);
        Ok(Vm { store, run, program: program.clone(), timeout, fuel, _live: live })
    }

    /// Runs the program once; what it returned. After a failure this VM is of no use.
    pub async fn run(&mut self) -> Result<i32, Failure> {
        let _turn = Turn::new();
        self.store.data_mut().begin(self.timeout);
        self.store.set_epoch_deadline(1);
        let timeout = self.timeout;
        if let Some(fuel) = self.fuel {
            self.store.set_fuel(fuel).map_err(|error| Failure::of(&error, timeout))?;
        }
        let running = self.run.call_async(&mut self.store, ());
        let ran = match self.program.waits {
            Waits::Never => running.await,
            // What it waits for may never come.
            Waits::May => match base_runtime::time::timeout(timeout + WAIT_MAX, running).await {
                Ok(ran) => ran,
                Err(_) => return Err(Failure::too_long(timeout + WAIT_MAX)),
            },
        };
        ran.map_err(|error| Failure::of(&error, timeout))
    }
}

/// An instance of a program, before anything was asked of it.
pub struct Opened {
    pub store: Store<State>,
    pub instance: Instance,
    memory: Memory,
    alloc: TypedFunc<u32, u32>,
    /// What gives a program of Envoy's dialect its texts.
    pub given: Option<Given>,
    pub live: Live,
}

/// Makes an instance and runs what its language runs first.
pub async fn opened(
    program: &Arc<Program>,
    settings: &Settings,
    timeout: Duration,
    proxy: Option<Box<Proxy>>,
) -> Result<Opened> {
    let state = State {
        memory: None,
        alloc: None,
        place: settings.place.clone(),
        section: settings.section.clone(),
        proxy,
        scratch: Vec::new(),
        staged: Vec::new(),
        is_giving: false,
        lines: 0,
        chance: RandomState::new().hash_one(0),
        timeout,
        until: None,
        bounds: Bounds { most: settings.memory_max, booking: None },
    };
    let live = Live::new();
    let mut store = Store::new(program.pre.module().engine(), state);
    if settings.fuel.is_some() {
        // Its start is bounded by time alone.
        store.set_fuel(u64::MAX)?;
    }
    store.limiter(|state| &mut state.bounds);
    store.epoch_deadline_callback(|mut store| {
        let over = store.data_mut().is_late();
        Ok(if over { UpdateDeadline::Interrupt } else { UpdateDeadline::Yield(1) })
    });
    store.set_epoch_deadline(1);
    let (instance, given) = match &program.gives {
        None => (program.pre.instantiate_async(&mut store).await?, None),
        Some((giver, linker)) => {
            let mut linker = linker.clone();
            let given = giver.beside(&mut store, &mut linker).await?;
            (linker.instantiate_async(&mut store, program.pre.module()).await?, Some(given))
        }
    };
    let memory = instance.get_memory(&mut store, "memory").ok_or_else(|| ended("the program exports no memory"))?;
    let mut named = ALLOCATORS.iter().filter_map(|name| instance.get_typed_func::<u32, u32>(&mut store, name).ok());
    let alloc = named.next().ok_or_else(|| ended("the program exports nothing that gives memory"))?;
    store.data_mut().memory = Some(memory);
    store.data_mut().bring_alloc(alloc.clone());
    if let Some(given) = given {
        given.takes_alloc(&mut store, *alloc.func())?;
    }
    // A library's beginning, or that of a program with a main function.
    for name in ["_initialize", "_start"] {
        if let Ok(begin) = instance.get_typed_func::<(), ()>(&mut store, name) {
            begin.call_async(&mut store, ()).await?;
            break;
        }
    }
    Ok(Opened { store, instance, memory, alloc, given, live })
}

/// What programs of either dialect call what gives memory.
pub const ALLOCATORS: [&str; 3] = ["wasm_alloc", "proxy_on_memory_allocate", "malloc"];

/// What a VM may take, and has taken.
struct Bounds {
    most: usize,
    booking: Option<SharedBooking>,
}

/// A program wanted more than it may have.
#[derive(Debug)]
struct Grown {
    wanted: usize,
    most: usize,
}

impl std::fmt::Display for Grown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "it wants {} bytes of memory; allowed are {} (memoryLimitMiB)", self.wanted, self.most)
    }
}

impl std::error::Error for Grown {}

impl ResourceLimiter for Bounds {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> Result<bool> {
        if desired > self.most {
            return Err(Error::new(Grown { wanted: desired, most: self.most }));
        }
        // What a program begins with is let in; it ends soon enough. What it wants beside is not where the process has too little.
        if current > 0 && memory::is_over() {
            return Ok(false);
        }
        self.booking = Some(SharedBooking::new(Kind::Other, desired));
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> Result<bool> {
        Ok(desired <= TABLE_MAX)
    }
}

/// Entries of a program's table of functions.
const TABLE_MAX: usize = 65_536;

/// Longest that a program waits for the cluster, beside its own time.
const WAIT_MAX: Duration = Duration::from_secs(15);

/// Least time that a program has to prepare itself, however little it has for a request.
pub const START_MIN: Duration = Duration::from_secs(1);

//! The engines that programs run on, and the clock that looks after them.
//!
//! There are two, made when the first program for them is loaded: one for programs that only time bounds, and one that counts what they
//! do (fuel), which costs every loop and call of theirs a little.
//!
//! A program is looked at whenever the engine's epoch has moved: it goes on after others had their turn, or is ended when its time is
//! over. The epoch moves every [`TICK`] for as long as programs are called, and stands still otherwise.

use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// How long a program may keep a worker from everybody else.
pub const TICK: Duration = Duration::from_millis(2);

/// VMs of all filters together, on each engine. Each reserves address space (4 GiB and more) and no memory.
const VMS_MAX: u32 = 2000;

/// With fewer there is no engine.
const VMS_MIN: u32 = 4;

/// How many there may be here, see [`vms_max`].
static VMS: AtomicU32 = AtomicU32::new(VMS_MAX);

/// Largest memory that any document may allow a program, in bytes.
const MEMORY_MAX: usize = 4 << 30;

/// Stack of a program, in bytes, and what of that is the program's own: the rest is for what it asks us.
const STACK: usize = 512 << 10;
const STACK_OF_PROGRAM: usize = 256 << 10;

/// Entries of a program's table of functions.
const TABLE_MAX: usize = 65_536;

/// Memory of a finished instance that is kept for the next one, in bytes.
const KEPT: usize = 64 << 10;

/// Ticks without a call after which the clock stops.
const IDLE_TICKS: u32 = 250;

struct Clock {
    stopped: AtomicBool,
    /// Calls of programs that have begun, and that have ended.
    begun: AtomicU64,
    ended: AtomicU64,
    lock: Mutex<()>,
    wake: Condvar,
}

static CLOCK: Clock = Clock {
    stopped: AtomicBool::new(false),
    begun: AtomicU64::new(0),
    ended: AtomicU64::new(0),
    lock: Mutex::new(()),
    wake: Condvar::new(),
};

static ENGINES: [OnceLock<Result<Engine, String>>; 2] = [const { OnceLock::new() }; 2];

/// The engine; `metered`: the one that counts what programs do.
pub fn engine(metered: bool) -> Result<&'static Engine, String> {
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    let started = STARTED.get_or_init(|| {
        let clock = thread::Builder::new().name("wasm-clock".to_owned()).spawn(|| CLOCK.run());
        clock.map(drop).map_err(|why| format!("the thread that ends programs cannot be started: {why}"))
    });
    started.as_ref().map_err(String::clone)?;
    let made = ENGINES[usize::from(metered)].get_or_init(|| {
        let made = made(metered);
        made.map_err(|why| format!("the engine for WebAssembly cannot be made: {why:#}"))
    });
    made.as_ref().map_err(String::clone)
}

/// How many VMs there may be: [`VMS_MAX`], or fewer where so much address space is not to be had, as under a limit (`ulimit -v`) or on
/// kernels for ARM that give a process 39 bits.
pub fn vms_max() -> u32 {
    VMS.load(Relaxed)
}

fn made(metered: bool) -> wasmtime::Result<Engine> {
    let mut vms = VMS_MAX;
    loop {
        match Engine::new(&config(metered, vms)) {
            Ok(engine) => {
                if vms < VMS_MAX {
                    tracing::warn!(
                        vms,
                        "there is address space for few programs of WasmHost and ProxyWasm only: at most so many VMs"
                    );
                    VMS.fetch_min(vms, Relaxed);
                }
                return Ok(engine);
            }
            Err(_) if vms / 2 >= VMS_MIN => vms /= 2,
            Err(why) => return Err(why),
        }
    }
}

fn config(metered: bool, vms: u32) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    // A program of Envoy's has one beside it that hands it what it asks for, see `proxy_gives`.
    pool.total_core_instances(2 * vms)
        .total_memories(vms)
        .total_tables(2 * vms)
        .total_stacks(2 * vms)
        .max_memories_per_module(1)
        .max_tables_per_module(4)
        .table_elements(TABLE_MAX)
        .max_memory_size(MEMORY_MAX)
        .linear_memory_keep_resident(KEPT)
        .table_keep_resident(KEPT);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .epoch_interruption(true)
        .consume_fuel(metered)
        .async_stack_size(STACK)
        .max_wasm_stack(STACK_OF_PROGRAM);
    config
}

/// A program is called for as long as this is held: the clock runs.
pub struct Turn(());

impl Turn {
    #[inline]
    pub fn new() -> Turn {
        CLOCK.begun.fetch_add(1, SeqCst);
        if CLOCK.stopped.load(SeqCst) {
            CLOCK.start();
        }
        Turn(())
    }
}

impl Drop for Turn {
    #[inline]
    fn drop(&mut self) {
        CLOCK.ended.fetch_add(1, SeqCst);
    }
}

impl Clock {
    #[cold]
    fn start(&self) {
        let _lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.stopped.store(false, SeqCst);
        self.wake.notify_all();
    }

    fn run(&self) {
        let (mut seen, mut idle) = (0, 0);
        loop {
            thread::sleep(TICK);
            ENGINES.iter().filter_map(|made| made.get()?.as_ref().ok()).for_each(Engine::increment_epoch);
            let (ended, begun) = (self.ended.load(SeqCst), self.begun.load(SeqCst));
            idle = if begun == seen && ended == begun { idle + 1 } else { 0 };
            seen = begun;
            if idle > IDLE_TICKS {
                self.rest(seen);
                idle = 0;
            }
        }
    }

    /// Waits for the next call after the `seen` ones.
    fn rest(&self, seen: u64) {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.stopped.store(true, SeqCst);
        // Who began before it could see this is seen here.
        while self.stopped.load(SeqCst) && self.begun.load(SeqCst) == seen {
            lock = self.wake.wait(lock).unwrap_or_else(PoisonError::into_inner);
        }
        self.stopped.store(false, SeqCst);
    }
}

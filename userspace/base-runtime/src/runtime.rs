//! Starting and stopping the workers, and the loop each of them runs.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::affinity::{allowed_cpus, pin_to};
use crate::coalescing::Coalescing;
use crate::context::{self, Context};
use crate::driver::{AnyDriver, Driver, IoKind, IoMode, Wait, probe_uring};
use crate::executor::{Budget, Task, WokenTask};
use crate::memory::{self, Ledger};
use crate::net::socket::SlotKey;
use crate::stats::{Counters, Longest, WorkerStats};

/// How to start a [`Runtime`]. All defaults are in [`Config::default`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Which kernel interface to use. Default: io_uring where it works, else epoll.
    pub io: IoMode,
    /// One CPU per worker. Default: every CPU the process was started with.
    pub cpus: Option<Vec<usize>>,
    /// Number of workers; more than CPUs share them in turn. Default: one per CPU.
    pub workers: Option<usize>,
    /// Threads are called `<name>-<index>`; the kernel keeps 15 bytes of it.
    pub name: String,
    /// Most buffers of 32 KiB a worker gives out before `Buf::try_alloc` refuses and receiving pauses. Default 16,384 (512 MiB);
    /// memory is taken only as it is used.
    pub buffers_max: usize,
    /// Free buffers a worker keeps for later, at most; those not needed for some seconds go sooner. Default 512 (16 MiB).
    pub buffers_kept: usize,
    /// Buffers that stand ready for the kernel to receive into (io_uring only), a power of two up to 32,768. Default 64: more of
    /// them fall out of the CPU's cache before they are used again.
    pub recv_ring_entries: u16,
    /// Received buffers that may wait in one connection before its receiving pauses. Default 4.
    pub recv_queue_max: usize,
    /// Longest datagram received whole; what is longer is cut and counted. Default 65,535, which everything fits, also what the kernel
    /// joins (`UdpOptions::join`, without effect if this is less).
    pub datagram_bytes_max: usize,
    /// Most buffers for datagrams, of that size, a worker gives out before receiving pauses and the kernel's buffers fill. Default
    /// 1,024 (64 MiB); memory is taken only as it is used.
    pub datagram_buffers_max: usize,
    /// Free buffers for datagrams a worker keeps for later, at most. Default 64 (4 MiB).
    pub datagram_buffers_kept: usize,
    /// Buffers for datagrams that stand ready for the kernel (io_uring only), a power of two up to 32,768, from a worker's first UDP
    /// socket on. Default 32 (2 MiB).
    pub datagram_ring_entries: u16,
    /// Received datagrams that may wait in one socket before its receiving pauses. Default 64.
    pub datagram_queue_max: usize,
    /// How long a dropped connection may go on sending what it has queued. Default 5 s.
    pub linger: Duration,
    /// Task polls in a turn before completions are reaped. Default 256.
    pub task_budget: usize,
    /// Time after which a turn begins no further poll, and completions are reaped. Default 1 ms.
    pub turn_budget: Duration,
    /// Least time between two wakes of a worker that is short of CPU, would otherwise wake more often than that and still sleep, as far
    /// as nothing is served more slowly for it; zero: every event wakes at once. Default 100 µs.
    pub coalesce: Duration,
    /// A worker is short of CPU from this part of its time on that it is busy, in percent; see `coalescing` for where that ends.
    /// Default 75.
    pub coalesce_busy_percent: u32,
    /// Entries of the submission queue (io_uring only), a power of two. Default 1,024; the completion queue has four times as many.
    pub ring_entries: u32,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            io: IoMode::Auto,
            cpus: None,
            workers: None,
            name: "worker".to_owned(),
            buffers_max: 16_384,
            buffers_kept: 512,
            recv_ring_entries: 64,
            recv_queue_max: 4,
            datagram_bytes_max: 65_535,
            datagram_buffers_max: 1024,
            datagram_buffers_kept: 64,
            datagram_ring_entries: 32,
            datagram_queue_max: 64,
            linger: Duration::from_secs(5),
            task_budget: 256,
            turn_budget: Duration::from_millis(1),
            coalesce: Duration::from_micros(100),
            coalesce_busy_percent: 75,
            ring_entries: 1024,
        }
    }
}

impl Config {
    /// What a buffer for datagrams takes.
    pub(crate) fn datagram_block(&self) -> usize {
        crate::net::udp::block_bytes(self.datagram_bytes_max)
    }
}

/// Why the workers could not be started.
#[derive(Debug)]
pub enum StartError {
    /// io_uring was asked for and does not work here; the text says why and what to do.
    Uring(String),
    /// A CPU outside those the process may use.
    Cpu { cpu: usize, allowed: Vec<usize> },
    /// No worker at all.
    NoWorkers,
    /// A thread or a driver could not be made.
    Worker { index: usize, what: &'static str, source: std::io::Error },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Uring(reason) => f.write_str(reason),
            StartError::Cpu { cpu, allowed } => write!(
                f,
                "CPU {cpu} is not one of those this process was started with ({allowed}): name one of them, or start the \
                 process with a wider affinity (taskset, cpuset)",
                allowed = base_text::ranges(allowed.iter().copied()),
            ),
            StartError::NoWorkers => f.write_str("no workers: give at least one CPU or leave the choice out"),
            StartError::Worker { index, what, source } => write!(f, "worker {index}: cannot {what}: {source}"),
        }
    }
}

impl std::error::Error for StartError {}

/// The running workers. Dropping it stops them, as [`Runtime::shutdown`] does.
pub struct Runtime {
    workers: Vec<Worker>,
    threads: Vec<JoinHandle<()>>,
    io: IoKind,
    fallback_reason: Option<String>,
}

impl Runtime {
    pub fn start(config: Config) -> Result<Runtime, StartError> {
        let allowed = allowed_cpus();
        let cpus = config.cpus.clone().unwrap_or_else(|| allowed.clone());
        if let Some(&cpu) = cpus.iter().find(|cpu| !allowed.contains(cpu)) {
            return Err(StartError::Cpu { cpu, allowed });
        }
        let workers = config.workers.unwrap_or(cpus.len());
        if workers == 0 || cpus.is_empty() {
            return Err(StartError::NoWorkers);
        }
        let cpus: Vec<usize> = cpus.into_iter().cycle().take(workers).collect();
        match config.io {
            IoMode::Epoll => Runtime::start_with(&config, &cpus, IoKind::Epoll, None),
            IoMode::Uring => match probe_uring() {
                Ok(()) => Runtime::start_with(&config, &cpus, IoKind::Uring, None),
                Err(reason) => Err(StartError::Uring(reason)),
            },
            IoMode::Auto => {
                let reason = match probe_uring() {
                    Ok(()) => match Runtime::start_with(&config, &cpus, IoKind::Uring, None) {
                        Ok(runtime) => return Ok(runtime),
                        // One ring was possible but not one per worker, for example for want of locked memory.
                        Err(error) => error.to_string(),
                    },
                    Err(reason) => reason,
                };
                Runtime::start_with(&config, &cpus, IoKind::Epoll, Some(reason))
            }
        }
    }

    fn start_with(
        config: &Config,
        cpus: &[usize],
        io: IoKind,
        fallback_reason: Option<String>,
    ) -> Result<Runtime, StartError> {
        let mut runtime = Runtime { workers: Vec::new(), threads: Vec::new(), io, fallback_reason };
        let (started, outcomes) = mpsc::channel();
        for (index, &cpu) in cpus.iter().enumerate() {
            let failed = |what, source| StartError::Worker { index, what, source };
            let shared =
                Arc::new(Shared::new(index, cpu).map_err(|error| failed("make its wakeup descriptor", error))?);
            let (of_thread, config, started) = (shared.clone(), config.clone(), started.clone());
            let thread = std::thread::Builder::new()
                .name(format!("{}-{index}", config.name))
                .spawn(move || {
                    let run = AssertUnwindSafe(|| run_worker(of_thread, config, io, started));
                    if let Err(panic) = catch_unwind(run) {
                        end_process(index, &*panic);
                    }
                })
                .map_err(|error| failed("start its thread", error))?;
            runtime.workers.push(Worker { shared });
            runtime.threads.push(thread);
        }
        drop(started);
        for outcome in outcomes {
            outcome?;
        }
        running().extend(runtime.workers.iter().cloned());
        Ok(runtime)
    }

    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    pub fn io(&self) -> IoKind {
        self.io
    }

    /// Why `IoMode::Auto` did not take io_uring, for the log.
    pub fn fallback_reason(&self) -> Option<&str> {
        self.fallback_reason.as_deref()
    }

    /// Stops the workers: tasks are dropped, operations in flight cancelled, descriptors closed, threads joined.
    pub fn shutdown(self) {}

    fn stop(&mut self) {
        running().retain(|worker| !self.workers.iter().any(|own| Arc::ptr_eq(&own.shared, &worker.shared)));
        for worker in &self.workers {
            worker.shared.stop();
        }
        for thread in self.threads.drain(..) {
            // Panics are caught where they happen; one that escapes a task ends the process.
            let _ = thread.join();
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A handle to one worker, for any thread.
#[derive(Clone)]
pub struct Worker {
    shared: Arc<Shared>,
}

impl Worker {
    pub fn index(&self) -> usize {
        self.shared.index
    }

    /// The CPU its thread is pinned to.
    pub fn cpu(&self) -> usize {
        self.shared.cpu
    }

    /// Runs `make` on the worker's thread and its future as a task there. On a stopped worker both are dropped.
    pub fn spawn<F, Fut>(&self, make: F)
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        self.run(move |cx| cx.executor.spawn(&cx.shared, make()).detach());
    }

    /// Runs `job` on the worker's thread, or drops it if the worker has stopped.
    pub(crate) fn run(&self, job: impl FnOnce(&Context) + Send + 'static) {
        self.shared.send_job(Box::new(job));
    }

    /// Its longest turn since this was asked last: so long what came waited for it. For one who asks.
    pub fn take_longest_turn(&self) -> Duration {
        Duration::from_nanos(self.shared.counters.recent_turn_ns.take())
    }

    /// How full its queue of events, or of operations to begin, was at most since this was asked last: 1 where there was no room for
    /// more. For one who asks.
    pub fn take_fullest_ring(&self) -> f64 {
        self.shared.counters.recent_ring_permille.take() as f64 / 1000.0
    }

    /// A snapshot of its counters. Costs the worker nothing; the CPU time is asked of the kernel here.
    pub fn stats(&self) -> WorkerStats {
        self.shared.read_clocks();
        self.shared.counters.snapshot()
    }
}

/// Workers of all runtimes of this process.
static LIVING: Mutex<Vec<Worker>> = Mutex::new(Vec::new());

fn running() -> MutexGuard<'static, Vec<Worker>> {
    LIVING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running worker of this process, by turns: for work that no connection has brought to one, such as probes. `None` while none runs.
pub fn some_worker(turn: usize) -> Option<Worker> {
    let running = running();
    running.get(turn.checked_rem(running.len())?).cloned()
}

/// The worker the caller runs on.
pub fn current_worker() -> Option<Worker> {
    context::try_with(|cx| Worker { shared: cx.shared.clone() })
}

/// Starts a task on this worker. A panic in it ends the task, is counted and logged, and nothing else.
pub fn spawn<F: Future<Output = ()> + 'static>(future: F) -> Task {
    context::with(|cx| cx.executor.spawn(&cx.shared, future))
}

/// The time as of this turn of the loop, which costs no system call; outside a worker the clock is read.
#[inline]
pub fn now() -> Instant {
    context::try_with(|cx| cx.now.get()).unwrap_or_else(Instant::now)
}

/// When the poll began in which the caller runs, which is known without asking the clock: a worker reads it between any two polls.
/// Where no task is polled the clock is read.
#[inline]
pub fn poll_began() -> Instant {
    context::try_with(|cx| cx.executor.poll_began()).flatten().unwrap_or_else(Instant::now)
}

/// The index of the worker the caller runs on, if it runs on one.
#[inline]
pub fn try_worker_index() -> Option<usize> {
    context::try_with(|cx| cx.shared.index)
}

/// The index of the worker the caller runs on. Panics elsewhere.
pub fn worker_index() -> usize {
    context::with(|cx| cx.shared.index)
}

/// The part of a worker other threads may touch.
pub(crate) struct Shared {
    pub index: usize,
    pub cpu: usize,
    pub counters: Counters,
    pub ledger: Ledger,
    pub wakeup: OwnedFd,
    started: Instant,
    /// 0 before the thread runs and after it ended.
    thread_id: AtomicI32,
    state: AtomicU8,
    stopping: AtomicBool,
    inbox: Mutex<Inbox>,
}

#[derive(Default)]
pub(crate) struct Inbox {
    closed: bool,
    woken: Vec<WokenTask>,
    jobs: Vec<Job>,
}

/// Something to do on the worker's thread.
pub(crate) type Job = Box<dyn FnOnce(&Context) + Send>;

/// What the worker is doing, as far as those who want its attention must know.
const RUNNING: u8 = 0;
const SLEEPING: u8 = 1;
const NOTIFIED: u8 = 2;

impl Shared {
    pub(crate) fn new(index: usize, cpu: usize) -> std::io::Result<Shared> {
        // SAFETY: a plain system call; the result is checked before it is owned.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(Shared {
            index,
            cpu,
            counters: Counters::default(),
            ledger: Ledger::default(),
            // SAFETY: the descriptor was just made and nobody else has it.
            wakeup: unsafe { OwnedFd::from_raw_fd(fd) },
            started: Instant::now(),
            thread_id: AtomicI32::new(0),
            state: AtomicU8::new(RUNNING),
            stopping: AtomicBool::new(false),
            inbox: Mutex::default(),
        })
    }

    /// Enters how old the worker is and what it has worked, while its thread lives. For any thread.
    fn read_clocks(&self) {
        let thread = self.thread_id.load(Ordering::Relaxed);
        if let Some(busy) = thread_cpu_time(thread) {
            self.counters.busy_ns.reach(busy.as_nanos() as u64);
            self.counters.waited_ns.reach(thread_waited(thread).unwrap_or_default());
            self.counters.age_ns.reach(self.started.elapsed().as_nanos() as u64);
        }
    }

    pub fn wake_task(&self, task: WokenTask) {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if inbox.closed {
            drop(inbox);
            return;
        }
        inbox.woken.push(task);
        drop(inbox);
        self.notify();
    }

    pub fn send_job(&self, job: Job) {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if inbox.closed {
            drop(inbox);
            return;
        }
        inbox.jobs.push(job);
        drop(inbox);
        self.notify();
    }

    fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.notify();
    }

    /// Gets the worker's attention; only the first to find it asleep pays for a system call.
    fn notify(&self) {
        if self.state.swap(NOTIFIED, Ordering::SeqCst) == SLEEPING {
            let one = 1u64;
            // SAFETY: eight readable bytes, an open descriptor. The only failure possible is a full counter, which wakes as well.
            unsafe { libc::write(self.wakeup.as_raw_fd(), (&raw const one).cast(), 8) };
        }
    }

    /// Announces sleep; false when somebody was faster.
    fn fall_asleep(&self) -> bool {
        self.state.compare_exchange(RUNNING, SLEEPING, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Ends sleep; true when the inbox has something.
    fn wake_up(&self) -> bool {
        // A plain load first: the line stays shared while nobody writes to it.
        self.state.load(Ordering::Relaxed) != RUNNING && self.state.swap(RUNNING, Ordering::SeqCst) == NOTIFIED
    }
}

/// How often a worker looks for free buffers and pipes it does not need.
const TRIM_EVERY: Duration = Duration::from_secs(1);

/// A socket that has more bytes than this to send has much.
const BULK: usize = 32 * 1024;

/// Bytes that such sockets send in a turn together, give or take one send: a fraction of a millisecond's worth.
const BULK_SENT_MOST: usize = 1024 * 1024;

/// How long the longest turn and poll are remembered, once or twice.
const MINUTE: Duration = Duration::from_secs(60);

/// Bounds the parts of a worker consult.
pub(crate) struct WorkerBounds {
    pub recv_queue_max: usize,
    pub datagram_queue_max: usize,
    pub datagram_bytes_max: usize,
    pub linger: Duration,
}

fn run_worker(shared: Arc<Shared>, config: Config, io: IoKind, started: mpsc::Sender<Result<(), StartError>>) {
    let failed = |what, source| StartError::Worker { index: shared.index, what, source };
    if !pin_to(shared.cpu) {
        let _ = started.send(Err(failed("pin its thread to its CPU", std::io::Error::last_os_error())));
        return;
    }
    let driver = match AnyDriver::new(io, &config, &shared) {
        Ok(driver) => driver,
        Err(error) => {
            let _ = started.send(Err(failed("set up its driver", error)));
            return;
        }
    };
    let cx = Context::new(shared, &config, driver);
    // SAFETY: a plain system call.
    cx.shared.thread_id.store(unsafe { libc::gettid() }, Ordering::Relaxed);
    let entered = context::enter(&cx);
    if let Err(error) = cx.driver.start(&cx) {
        let _ =
            started.send(Err(StartError::Worker { index: cx.shared.index, what: "start its driver", source: error }));
        return;
    }
    memory::open(&cx.shared);
    let _ = started.send(Ok(()));
    drop(started);
    let budget = Budget { polls: config.task_budget.max(1), time: config.turn_budget };
    let coalescing = Coalescing::new(config.coalesce, config.coalesce_busy_percent, cx.now.get());
    // Caught while everything is in place yet: the kernel may be writing into this worker's buffers.
    let ended = catch_unwind(AssertUnwindSafe(|| {
        drive(&cx, budget, coalescing);
        wind_down(&cx);
    }));
    if let Err(panic) = ended {
        end_process(cx.shared.index, &*panic);
    }
    drop(entered);
    let shared = &cx.shared;
    memory::close(shared);
    shared.read_clocks();
    shared.thread_id.store(0, Ordering::Relaxed);
}

/// A panic in the worker itself. Without its thread its listening sockets would go on taking connections that nobody serves, and
/// what it was in the middle of cannot be trusted: whoever supervises the process starts it anew.
fn end_process(worker: usize, panic: &(dyn Any + Send)) -> ! {
    let reason = crate::executor::panic_text(panic);
    tracing::error!(worker, panic = reason, "a worker panicked outside its tasks; the process ends");
    eprintln!("worker {worker} panicked outside its tasks ({reason}); the process ends so that it is started anew");
    std::process::abort()
}

/// How long a thread was ready to run without running, in nanoseconds (sched-stats.rst).
fn thread_waited(thread: libc::pid_t) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
    text.split(' ').nth(1)?.parse().ok()
}

/// CPU time of a thread of this process, as the scheduler counts it.
fn thread_cpu_time(thread_id: i32) -> Option<Duration> {
    if thread_id == 0 {
        return None;
    }
    // The clock of a thread is named by its id, as pthread_getcpuclockid does: CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED below it.
    let clock = (!thread_id << 3) | 4 | 2;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec`. A thread that has ended answers EINVAL.
    (unsafe { libc::clock_gettime(clock, &mut time) } == 0)
        .then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// The loop of a worker.
fn drive(cx: &Context, budget: Budget, mut coalescing: Coalescing) {
    let counters = &cx.shared.counters;
    let mut inbox = Inbox::default();
    let mut trim_at = cx.now.get() + TRIM_EVERY;
    let (mut longest_turn, mut longest_poll) = (Longest::default(), Longest::default());
    let mut minute_ends = cx.now.get() + MINUTE;
    let mut woke = cx.now.get();
    while !cx.shared.stopping.load(Ordering::Relaxed) {
        let began = cx.now.get();
        longest_poll.saw(cx.executor.run(&cx.shared, budget, began), &counters.longest_poll_ns);
        start_sends(cx);

        // Sleep only when nothing is left to do and nobody has called meanwhile.
        let idle = !cx.executor.has_ready() && cx.dirty.borrow().is_empty() && cx.driver.may_sleep(cx);
        let done = if idle { Instant::now() } else { began };
        let paused = idle && coalescing.is_on() && pause(cx, &mut coalescing, woke, done);
        let asleep = idle && !paused && cx.shared.fall_asleep();
        let wait = match asleep {
            true => {
                cx.shared.ledger.tell_exactly(&cx.shared);
                // The turn may have been long, so the time to the next timer is counted from a fresh clock.
                let next = cx.timers.next_after(|| done);
                let trim = (cx.pool.has_surplus() || cx.datagram_pool.has_surplus() || cx.pipes.has_spare())
                    .then_some(TRIM_EVERY);
                Wait::Upto(next.into_iter().chain(trim).min())
            }
            false => {
                cx.shared.ledger.tell(&cx.shared);
                Wait::Not
            }
        };
        cx.driver.turn(cx, wait);

        cx.now.set(Instant::now());
        let ended = if asleep || paused { done } else { cx.now.get() };
        let turn = ended.saturating_duration_since(began);
        longest_turn.saw(turn, &counters.longest_turn_ns);
        if turn.as_nanos() as u64 > counters.recent_turn_ns.value() {
            counters.recent_turn_ns.set(turn.as_nanos() as u64);
        }
        if asleep || paused {
            woke = cx.now.get();
            counters.wakeups.add(1);
        }
        counters.turns.add(1);
        cx.timers.advance(cx);
        if cx.now.get() >= minute_ends {
            minute_ends = cx.now.get() + MINUTE;
            longest_turn.turn_over(&counters.longest_turn_ns);
            longest_poll.turn_over(&counters.longest_poll_ns);
        }
        if cx.now.get() >= trim_at {
            trim_at = cx.now.get() + TRIM_EVERY;
            cx.pool.trim(counters);
            cx.datagram_pool.trim(counters);
            cx.pipes.trim();
        }
        if cx.shared.wake_up() {
            take_inbox(cx, &mut inbox);
            // What was run for others is no part of the first poll.
            cx.now.set(Instant::now());
        }
    }
}

/// Lets events gather for a moment where that is due; false when it is not.
fn pause(cx: &Context, coalescing: &mut Coalescing, woke: Instant, now: Instant) -> bool {
    let counters = &cx.shared.counters;
    let busy = || thread_cpu_time(cx.shared.thread_id.load(Ordering::Relaxed)).unwrap_or_default();
    let Some(pause) = coalescing.pause(now, woke, counters.polls.value(), busy) else { return false };
    // What was asked for goes out before the pause; what has come by then needs none.
    cx.driver.turn(cx, Wait::Not);
    if !cx.executor.has_ready() {
        std::thread::sleep(pause);
        counters.pauses.add(1);
    }
    true
}

/// Tells the driver of every socket that has something to send, in the order in which they got it. Those with much to send take so
/// much of a turn together; the others keep their places, and whoever has little to say does not wait for them.
fn start_sends(cx: &Context) {
    crate::net::udp::flush_all(cx);
    if cx.dirty.borrow().is_empty() {
        return;
    }
    let mut dirty = cx.dirty.take();
    let mut bulk_left = BULK_SENT_MOST;
    dirty.retain(|socket| {
        let bytes = socket.tx_bytes.get();
        if bytes > BULK {
            if bulk_left == 0 {
                return true;
            }
            bulk_left = bulk_left.saturating_sub(bytes);
        }
        socket.dirty.set(false);
        cx.driver.send(cx, socket);
        false
    });
    let mut queued_meanwhile = cx.dirty.replace(dirty);
    cx.dirty.borrow_mut().append(&mut queued_meanwhile);
}

pub(crate) fn take_inbox(cx: &Context, spare: &mut Inbox) {
    {
        let mut inbox = cx.shared.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut inbox.woken, &mut spare.woken);
        std::mem::swap(&mut inbox.jobs, &mut spare.jobs);
    }
    cx.shared.counters.remote_wakes.add(1);
    for task in spare.woken.drain(..) {
        // `WokenTask` gives its reference back on drop, after the wake.
        task.wake_ref(&cx.executor);
    }
    for job in spare.jobs.drain(..) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(cx))) {
            log_panic(cx, &*panic);
        }
    }
}

fn log_panic(cx: &Context, panic: &(dyn Any + Send)) {
    cx.shared.counters.panics.add(1);
    let text = crate::executor::panic_text(panic);
    tracing::error!(worker = cx.shared.index, panic = text, "a spawned closure panicked");
}

fn wind_down(cx: &Context) {
    cx.stopping.set(true);
    let left = {
        let mut inbox = cx.shared.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        inbox.closed = true;
        (std::mem::take(&mut inbox.woken), std::mem::take(&mut inbox.jobs))
    };
    drop(left);
    cx.executor.clear(&cx.shared);
    cx.dirty.borrow_mut().clear();
    cx.dirty_endpoints.borrow_mut().clear();
    cx.driver.stop(cx);
    // Tasks spawned by what the driver woke, if any.
    cx.executor.clear(&cx.shared);
}

/// Closes a socket that belongs to `shared`'s worker, from any thread.
pub(crate) fn close_remotely(shared: &Shared, key: SlotKey) {
    shared.send_job(Box::new(move |cx| {
        if let Some(socket) = cx.sockets.find(key) {
            crate::net::socket::close(cx, &socket);
        }
    }));
}

//! Seeded simulations against models, over real sockets. A failure prints its seed:
//! `WEIR_SIM_SEED=<seed> cargo test -p base-runtime --test simulation` runs that world alone, `WEIR_SIM_ROUNDS` sets how many.
//!
//! *Connections*: two runtimes with rings, pools and queues drawn small, clients on one, servers on the other. Each end of a connection
//! has a plan: what it sends and when, how fast it reads, how it ends (half-close, reset, drop, cancelled task). The model knows from
//! the two plans what each end must see: if both end in good order exactly the other's bytes and then the end, else a prefix of them
//! and some end, in bounded time. Accepting and connecting are given up at random; servers move to other workers.
//!
//! *Tasks*: a script of spawns, wakes from here and from another thread, aborts, ends and panics, whose effect on the number of polls
//! and drops of each task is known in advance.

#[macro_use]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use base_runtime::net::{TcpListener, TcpStream, UnixListener};
use base_runtime::time::{sleep, timeout};
use base_runtime::{Buf, Config, IoMode, Runtime, Worker, spawn, yield_now};
use support::random::{PrintOnPanic, Random, seeds};
use support::*;

on_both_drivers!(connections_follow_their_model, tasks_follow_their_model);

fn connections_follow_their_model(io: IoMode) {
    for seed in seeds(6) {
        let guard = PrintOnPanic(format!("the world that failed: WEIR_SIM_SEED={seed} on {io}"));
        world(io, seed);
        drop(guard);
    }
}

fn world(io: IoMode, seed: u64) {
    let mut random = Random(seed);
    let mut drawn = |workers: usize, buffers_max: usize| Config {
        workers: Some(workers),
        recv_ring_entries: *random.pick(&[8, 16, 128]),
        ring_entries: *random.pick(&[8, 16, 1024]),
        recv_queue_max: *random.pick(&[1, 2, 4]),
        task_budget: *random.pick(&[1, 7, 256]),
        coalesce: Duration::from_micros(*random.pick(&[0, 200, 5000])),
        buffers_kept: *random.pick(&[0, 8, 512]),
        buffers_max,
        ..config(io)
    };
    // Clients always read on, so servers that are short of buffers get them back; short clients as well could stand still for good.
    let clients = Runtime::start(drawn(1, 65_536)).expect("the driver works here");
    let workers = 1 + (seed % 3) as usize;
    let buffers_max = [24, 64, 8192][(seed / 3 % 3) as usize];
    let servers = Runtime::start(drawn(workers, buffers_max)).expect("the driver works here");
    let tally = Arc::new(Tally::default());

    let tcp = listen();
    let path = std::env::temp_dir().join(format!("weir-sim-{}-{io}-{seed}", std::process::id()));
    let unix = UnixListener::bind(&path, 4).expect("binds");
    let targets = [Target::Tcp(tcp.local_addr()), Target::Unix(path.clone())];
    let others: Vec<Worker> = servers.workers().to_vec();
    for listener in [Accepting::Tcp(tcp), Accepting::Unix(unix)] {
        let (others, tally, seed) = (others.clone(), tally.clone(), random.next());
        servers.workers()[0].spawn(move || accept(listener, others, tally, Random(seed)));
    }

    let world_seed = random.next();
    let counted = tally.clone();
    run_on(&clients, 0, move || async move {
        let left = Rc::new(Cell::new(CONNECTIONS));
        let mut fate = Random(world_seed);
        for id in 0..CONNECTIONS {
            let (target, left, tally) = (fate.pick(&targets).clone(), left.clone(), counted.clone());
            let plans = Plans { seed: fate.next() };
            let task = spawn(async move {
                let _on_drop = OnDrop(Some(move || left.set(left.get() - 1)));
                client(target, plans, id, &tally).await;
            });
            if plans.client_is_cancelled() {
                spawn(async move {
                    sleep(Duration::from_micros(plans.seed % 20_000)).await;
                    task.abort();
                });
            }
        }
        while left.get() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    });
    let open = |runtime: &Runtime| runtime.workers().iter().map(|w| w.stats().connections_open).sum::<u64>();
    let started = Instant::now();
    while open(&clients) + open(&servers) > 0 {
        assert!(started.elapsed() < PATIENCE, "{} and {} left open", open(&clients), open(&servers));
        std::thread::sleep(Duration::from_millis(2));
    }
    let workers: Vec<Worker> = clients.workers().iter().chain(servers.workers()).cloned().collect();
    // What clients count on their side may still be counted on the servers'.
    while tally.clean_servers.load(Ordering::SeqCst) < tally.clean_clients.load(Ordering::SeqCst) {
        assert!(started.elapsed() < PATIENCE, "{tally:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
    clients.shutdown();
    servers.shutdown();
    let _ = std::fs::remove_file(path);
    for worker in workers {
        let stats = worker.stats();
        let left = (stats.panics, stats.tasks, stats.connections_open, stats.buffers_in_use);
        assert_eq!(left, (0, 0, 0, 0), "{stats:?}");
    }
    assert!(tally.clean_clients.load(Ordering::SeqCst) > CONNECTIONS / 4, "{tally:?}: hardly a world worth the name");
}

const CONNECTIONS: usize = 60;
/// For what hangs, not for what is slow on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);

#[derive(Debug, Default)]
struct Tally {
    clean_clients: AtomicUsize,
    clean_servers: AtomicUsize,
}

#[derive(Clone)]
enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

enum Accepting {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Accepting {
    async fn next(&self) -> std::io::Result<TcpStream> {
        match self {
            Accepting::Tcp(listener) => listener.accept().await.map(|(stream, _)| stream),
            Accepting::Unix(listener) => listener.accept().await,
        }
    }
}

async fn accept(listener: Accepting, workers: Vec<Worker>, tally: Arc<Tally>, mut random: Random) {
    loop {
        // Giving up to accept loses nobody.
        let patience = Duration::from_micros(random.below(3000));
        let Ok(accepted) = timeout(patience, listener.next()).await else { continue };
        let stream = accepted.expect("accepts");
        let tally = tally.clone();
        let worker = random.pick(&workers);
        if worker.index() == base_runtime::worker_index() || random.below(3) == 0 {
            spawn(server(stream, tally));
        } else {
            assert!(stream.hand_over(worker, move |stream| server(stream, tally)).is_ok(), "untouched");
        }
    }
}

/// What the two ends of a connection are to do, known to both from one number.
#[derive(Clone, Copy)]
struct Plans {
    seed: u64,
}

struct Plan {
    seed: u64,
    total: usize,
    end: PlanEnd,
    /// Microseconds of pause, now and then.
    slowness: u64,
    small_buffers: bool,
    /// Bytes after which it stops reading, if it does.
    reads: usize,
    high_water: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum PlanEnd {
    HalfClose,
    Abort,
    Drop,
}

impl Plans {
    /// The client's plan and the server's.
    fn draw(self) -> [Plan; 2] {
        let mut random = Random(self.seed);
        let unclean = random.below(3) == 0;
        std::array::from_fn(|_| {
            let total = match random.below(8) {
                0 => 0,
                1..=4 => random.below(3_000),
                5..=6 => random.below(200_000),
                _ => random.below(1_500_000),
            } as usize;
            Plan {
                seed: random.next(),
                total,
                end: if unclean {
                    *random.pick(&[PlanEnd::HalfClose, PlanEnd::Abort, PlanEnd::Drop])
                } else {
                    PlanEnd::HalfClose
                },
                slowness: *random.pick(&[0, 0, 0, 300, 3000]),
                small_buffers: random.below(3) == 0,
                reads: if unclean && random.below(2) == 0 { random.below(50_000) as usize } else { usize::MAX },
                high_water: *random.pick(&[0, 1, 30_000, 200_000]),
            }
        })
    }

    fn client_is_cancelled(self) -> bool {
        !self.draw().iter().all(Plan::is_clean) && self.seed.is_multiple_of(3)
    }
}

impl Plan {
    fn is_clean(&self) -> bool {
        self.end == PlanEnd::HalfClose && self.reads == usize::MAX
    }

    fn byte(&self, at: usize) -> u8 {
        ((at as u64 ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
    }
}

async fn client(target: Target, plans: Plans, id: usize, tally: &Tally) {
    sleep(Duration::from_micros((id as u64 * 7919) % 20_000)).await;
    let connect = async || match &target {
        Target::Tcp(address) => TcpStream::connect(*address).await,
        Target::Unix(path) => TcpStream::connect_unix(path).await,
    };
    // Some give up and come again.
    for _ in 0..plans.seed % 3 {
        drop(timeout(Duration::from_micros(plans.seed % 100), connect()).await);
    }
    let stream = timeout(PATIENCE, connect()).await.expect("in time").expect("connects");
    stream.send(Buf::copy_from(&plans.seed.to_be_bytes()));
    let [mine, theirs] = plans.draw();
    if run_end(stream, mine, theirs).await {
        tally.clean_clients.fetch_add(1, Ordering::SeqCst);
    }
}

async fn server(stream: TcpStream, tally: Arc<Tally>) {
    // A client that gave up has no plan.
    let Ok(seed) = recv_exactly(&stream, 8).await else { return };
    let seed = u64::from_be_bytes(seed.try_into().expect("eight bytes"));
    let [theirs, mine] = Plans { seed }.draw();
    if run_end(stream, mine, theirs).await {
        tally.clean_servers.fetch_add(1, Ordering::SeqCst);
    }
}

/// Carries out `mine` while holding the other end to `theirs`. True when both were clean and all was as it had to be.
async fn run_end(stream: TcpStream, mine: Plan, theirs: Plan) -> bool {
    let clean = mine.is_clean() && theirs.is_clean();
    if mine.small_buffers {
        small_buffers(&stream);
    }
    let mine = Rc::new(mine);
    let (writer, plan) = (stream.clone(), mine.clone());
    let written = Rc::new(Cell::new(None));
    let outcome = written.clone();
    let writing = spawn(async move { outcome.set(Some(write(&writer, &plan).await)) });
    let stop_writing = OnDrop(Some(|| writing.abort()));

    let mut pace = Random(mine.seed ^ 1);
    let (mut received, limit) = (0, mine.reads);
    let end = loop {
        if received >= limit {
            break None;
        }
        let next = if mine.end == PlanEnd::Drop {
            // It leaves when it has said its part, listening or not.
            match timeout(Duration::from_millis(2), stream.recv()).await {
                Ok(next) => next,
                Err(_) if written.take().is_some() => break None,
                Err(_) => continue,
            }
        } else {
            timeout(PATIENCE, stream.recv()).await.expect("neither bytes nor an end")
        };
        match next {
            Ok(Some(mut buf)) => {
                let known = received + buf.len() <= theirs.total;
                assert!(known, "{} bytes more than {}", received + buf.len() - theirs.total, theirs.total);
                if buf.len() > 1 && pace.below(10) == 0 {
                    let tail = buf.split_off(buf.len() / 2);
                    stream.unread(tail);
                }
                let right = buf.iter().enumerate().all(|(i, byte)| *byte == theirs.byte(received + i));
                assert!(right, "bytes from {received} of {} changed", theirs.total);
                received += buf.len();
                pause(&mut pace, mine.slowness).await;
            }
            end => break Some(end.map(|_| ())),
        }
    };
    if clean {
        assert!(matches!(end, Some(Ok(()))), "{end:?} instead of the end, after {received} of {}", theirs.total);
        assert_eq!(received, theirs.total, "the end came early");
        let started = Instant::now();
        while written.take().map(|result: std::io::Result<()>| result.expect("nothing broke")).is_none() {
            assert!(started.elapsed() < PATIENCE, "{} bytes stay unsent", stream.send_queue_len());
            sleep(Duration::from_millis(1)).await;
        }
        // The client's number comes before its bytes.
        let sent = stream.bytes_sent() as usize;
        assert!(sent == mine.total || sent == mine.total + 8, "{sent} bytes sent of {}", mine.total);
    }
    drop(stop_writing);
    clean
}

async fn write(stream: &TcpStream, plan: &Plan) -> std::io::Result<()> {
    let mut random = Random(plan.seed);
    let mut at = 0;
    while at < plan.total {
        let n = (plan.total - at).min(1 + random.below(*random.clone().pick(&[100, 3_000, 31_000])) as usize);
        let bytes: Vec<u8> = (at..at + n).map(|at| plan.byte(at)).collect();
        stream.send(Buf::copy_from(&bytes));
        at += n;
        if random.below(4) > 0 {
            stream.send_ready(plan.high_water).await?;
        } else if stream.send_queue_len() > 400_000 {
            stream.send_ready(400_000).await?;
        }
        pause(&mut random, plan.slowness).await;
    }
    match plan.end {
        PlanEnd::HalfClose => {
            stream.shutdown_write();
            stream.flush().await?;
        }
        PlanEnd::Abort => stream.abort(),
        PlanEnd::Drop => {}
    }
    Ok(())
}

/// Now and then a pause, which may last longer but not shorter.
async fn pause(random: &mut Random, slowness: u64) {
    match random.below(40) {
        0 if slowness > 0 => {
            let (wanted, started) = (Duration::from_micros(random.below(slowness)), base_runtime::now());
            sleep(wanted).await;
            assert!(base_runtime::now() - started >= wanted, "a timer fired early");
        }
        1 => yield_now().await,
        _ => {}
    }
}

fn tasks_follow_their_model(io: IoMode) {
    for seed in seeds(30) {
        let guard = PrintOnPanic(format!("the script that failed: WEIR_SIM_SEED={seed} on {io}"));
        let budget = [1, 2, 256][(seed % 3) as usize];
        let runtime = Runtime::start(Config { task_budget: budget, ..config(io) }).expect("the driver works here");
        let panics = run_on(&runtime, 0, move || script(Random(seed)));
        let worker = runtime.workers()[0].clone();
        runtime.shutdown();
        assert_eq!((worker.stats().panics, worker.stats().tasks), (panics, 0));
        drop(guard);
    }
}

/// A task that does nothing but count.
#[derive(Default)]
struct Puppet {
    waker: RefCell<Option<Waker>>,
    polls: Cell<u32>,
    drops: Cell<u32>,
    order: Cell<Order>,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum Order {
    #[default]
    Wait,
    End,
    Panic,
}

/// What the model knows of a puppet.
struct Known {
    puppet: Rc<Puppet>,
    task: base_runtime::Task,
    polls: u32,
    alive: bool,
    /// Woken since it was last polled.
    woken: bool,
}

async fn script(mut random: Random) -> u64 {
    let mut known: Vec<Known> = Vec::new();
    let mut panics = 0;
    let spinners: Vec<_> = (0..random.below(4)).map(|_| spawn(spin())).collect();
    for _ in 0..100 {
        for _ in 0..random.below(8) {
            let chosen = random.below(known.len().max(1) as u64) as usize;
            match (random.below(8), known.get_mut(chosen)) {
                (0..=1, _) | (_, None) => known.push(start_puppet()),
                (2..=4, Some(of)) => {
                    // A waker may outlive its task; then it wakes nobody, not even the task that has its slot now.
                    let waker = of.puppet.waker.borrow().clone();
                    if let Some(waker) = waker {
                        waker.wake();
                        of.woken |= of.alive;
                    }
                }
                (5, Some(of)) => {
                    of.task.abort();
                    if std::mem::replace(&mut of.alive, false) {
                        assert_eq!(of.puppet.drops.get(), 1, "an aborted task is dropped at once");
                    }
                    of.woken = false;
                }
                (6, Some(of)) => {
                    let orders = [Order::End, Order::Panic];
                    if of.alive && of.puppet.order.get() == Order::Wait {
                        of.puppet.order.set(*random.pick(&orders));
                    }
                }
                (_, Some(_)) => {
                    // Nothing else may be due, or the two wakes would be one poll or two.
                    let_ready_go_first(known.len()).await;
                    known.iter_mut().for_each(|of| panics += after_polls(of));
                    let of = &mut known[chosen];
                    let waker = of.puppet.waker.borrow().clone();
                    if let Some(waker) = waker {
                        // From another thread, seen here by the time that is gone and this worker has looked.
                        std::thread::spawn(move || waker.wake_by_ref()).join().expect("no panic");
                        settle_remote().await;
                        of.woken |= of.alive;
                        panics += after_polls(of);
                    }
                }
            }
        }
        let_ready_go_first(known.len()).await;
        known.iter_mut().for_each(|of| panics += after_polls(of));
        for of in &known {
            assert_eq!(of.puppet.polls.get(), of.polls, "polls");
            assert_eq!(of.puppet.drops.get(), u32::from(!of.alive), "drops");
            assert_eq!(of.task.is_finished(), !of.alive);
        }
        if random.below(5) == 0 {
            let gone = random.below(known.len() as u64 + 1) as usize;
            known.drain(..gone).for_each(|of| of.task.abort());
        }
    }
    assert!(spinners.iter().all(|spinner| !spinner.is_finished()), "a spinner was polled twice in a turn");
    spinners.iter().for_each(base_runtime::Task::abort);
    known.iter().for_each(|of| of.task.abort());
    assert!(known.iter().all(|of| of.puppet.drops.get() == 1));
    panics
}

/// A turn polls what was ready when it began, in order, and then those that yielded, as this one; but no more than its budget.
async fn let_ready_go_first(ready: usize) {
    for _ in 0..=ready {
        yield_now().await;
    }
}

/// Wakes itself all the time, and ends when that gets it more than one poll in a turn of the driver.
async fn spin() {
    let worker = base_runtime::current_worker().expect("this is one");
    let turn = || worker.stats().turns;
    let mut last = turn();
    loop {
        yield_now().await;
        if turn() == std::mem::replace(&mut last, turn()) {
            break;
        }
    }
}

/// Long enough for what another thread has queued to be taken in and polled.
async fn settle_remote() {
    sleep(Duration::from_millis(2)).await;
    let_ready_go_first(2).await;
}

/// Carries the polls that are due over to the model; one more panic if it was one.
fn after_polls(of: &mut Known) -> u64 {
    if !of.alive || !std::mem::replace(&mut of.woken, false) {
        return 0;
    }
    of.polls += 1;
    of.alive = of.puppet.order.get() == Order::Wait;
    u64::from(of.puppet.order.get() == Order::Panic)
}

fn start_puppet() -> Known {
    let puppet = Rc::new(Puppet::default());
    let (polled, dropped) = (puppet.clone(), puppet.clone());
    let on_drop = OnDrop(Some(move || dropped.drops.set(dropped.drops.get() + 1)));
    let task = spawn(async move {
        let _on_drop = on_drop;
        std::future::poll_fn(|cx| {
            polled.polls.set(polled.polls.get() + 1);
            *polled.waker.borrow_mut() = Some(cx.waker().clone());
            match polled.order.get() {
                Order::Wait => Poll::Pending,
                Order::End => Poll::Ready(()),
                Order::Panic => panic!("as ordered by the simulation"),
            }
        })
        .await
    });
    Known { puppet, task, polls: 0, alive: true, woken: true }
}

struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(|f| f());
    }
}

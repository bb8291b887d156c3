//! Tasks, timers, channels, starting and stopping, on both drivers.

#[macro_use]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use base_runtime::channel::{local_oneshot, mailbox, oneshot};
use base_runtime::time::{Deadline, sleep, sleep_until, timeout};
use base_runtime::{Buf, Config, IoKind, IoMode, Runtime, StartError, spawn, yield_now};
use support::*;

on_both_drivers!(
    timers_fire_in_order_and_never_early,
    deadline_moves_and_clears,
    timeout_drops_what_it_bounds,
    many_timers,
    a_worker_without_a_cpu_is_told_from_one_that_works,
    mailbox_from_many_threads,
    mailbox_blocks_senders_when_full,
    local_oneshot_wakes,
    panic_stays_in_its_task,
    abort_drops_now_and_self_abort_after_the_poll,
    busy_tasks_do_not_starve_io,
    io_goes_first_where_a_task_yields,
    a_task_that_wakes_itself_is_polled_once_a_turn,
    who_holds_the_worker_is_seen_in_its_longest_poll_and_turn,
    tasks_that_wake_each_other_let_io_go_first,
    tasks_woken_by_io_go_before_those_that_yielded,
    a_byte_does_not_wait_for_all_that_others_send,
    a_poll_takes_no_more_than_its_share_of_what_is_ready,
    a_panic_outside_tasks_ends_the_process,
    waker_outlives_task_and_runtime,
    remote_wakes_are_not_lost,
    idle_worker_sleeps,
    shutdown_with_everything_in_flight,
    spawning_on_a_stopped_worker_drops_the_task,
    workers_run_where_they_say,
    times_of_a_worker_never_go_back,
    events_gather_where_they_come_often,
);

fn timers_fire_in_order_and_never_early(io: IoMode) {
    run(io, || async {
        let order = Rc::new(RefCell::new(Vec::new()));
        let started = Instant::now();
        for ms in [40u64, 5, 90, 1, 64, 63, 65, 20] {
            let order = order.clone();
            spawn(async move {
                sleep_until(started + Duration::from_millis(ms)).await;
                assert!(started.elapsed() >= Duration::from_millis(ms), "{ms} ms fired after {:?}", started.elapsed());
                order.borrow_mut().push(ms);
            });
        }
        while order.borrow().len() < 8 {
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(*order.borrow(), [1, 5, 20, 40, 63, 64, 65, 90]);
        sleep_until(started).await;
        sleep(Duration::ZERO).await;
    });
}

fn deadline_moves_and_clears(io: IoMode) {
    run(io, || async {
        let deadline = Deadline::new();
        assert!(timeout(Duration::from_millis(5), deadline.expired()).await.is_err());
        let (far, farther) = (Duration::from_secs(1800), Duration::from_secs(3600));
        deadline.set_after(far);
        for _ in 0..10 {
            // Moved ahead of itself again and again, it never passes.
            assert!(timeout(Duration::from_millis(4), deadline.expired()).await.is_err());
            deadline.set_after(farther);
        }
        let started = Instant::now();
        // An earlier time counts, or this would last an hour.
        deadline.set_after(Duration::from_millis(10));
        deadline.expired().await;
        deadline.expired().await;
        deadline.set_after(Duration::from_millis(5));
        deadline.clear();
        assert!(timeout(Duration::from_millis(20), deadline.expired()).await.is_err());
        deadline.set(started);
        deadline.expired().await;
    });
}

fn timeout_drops_what_it_bounds(io: IoMode) {
    struct Flag(Rc<Cell<bool>>);
    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    run(io, || async {
        let dropped = Rc::new(Cell::new(false));
        let flag = Flag(dropped.clone());
        let outcome = timeout(Duration::from_millis(5), async move {
            let _flag = flag;
            std::future::pending::<()>().await
        });
        assert!(outcome.await.is_err());
        assert!(dropped.get());
        assert_eq!(timeout(Duration::from_secs(5), async { 7 }).await, Ok(7));
    });
}

/// Another thread works without pause on the worker's CPU.
fn a_worker_without_a_cpu_is_told_from_one_that_works(io: IoMode) {
    if !std::path::Path::new("/proc/self/schedstat").exists() {
        return;
    }
    let runtime = start(io);
    let worker = &runtime.workers()[0];
    let cpu = worker.cpu();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let ended = stop.clone();
    let rival = std::thread::spawn(move || {
        assert!(core_affinity::set_for_current(core_affinity::CoreId { id: cpu }));
        while !ended.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    });
    worker.spawn(|| async {
        loop {
            yield_now().await;
        }
    });
    let end = Instant::now() + Duration::from_secs(30);
    while worker.stats().waited_ns < 50_000_000 {
        assert!(Instant::now() < end, "{:?}", worker.stats());
        std::thread::sleep(Duration::from_millis(20));
    }
    stop.store(true, Ordering::Relaxed);
    rival.join().unwrap();
    let stats = worker.stats();
    assert!(stats.busy_ns + stats.waited_ns <= stats.age_ns + 100_000_000, "no time counts twice: {stats:?}");
}

fn many_timers(io: IoMode) {
    run(io, || async {
        let fired = Rc::new(Cell::new(0));
        for i in 0..20_000u64 {
            let fired = fired.clone();
            spawn(async move {
                sleep(Duration::from_millis(i % 100)).await;
                fired.set(fired.get() + 1);
            });
        }
        while fired.get() < 20_000 {
            sleep(Duration::from_millis(5)).await;
        }
    });
}

fn mailbox_from_many_threads(io: IoMode) {
    let (sender, mut receiver) = mailbox::<u64>(64);
    let threads: Vec<_> = (0..4u64)
        .map(|thread| {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for i in 0..5000 {
                    let mut value = thread * 10_000 + i;
                    while let Err(base_runtime::channel::TrySendError::Full(back)) = sender.try_send(value) {
                        value = back;
                        std::thread::yield_now();
                    }
                }
            })
        })
        .collect();
    drop(sender);
    let sums = run(io, move || async move {
        let (mut count, mut last) = (0u64, [0u64; 4]);
        while let Some(value) = receiver.recv().await {
            let (thread, i) = ((value / 10_000) as usize, value % 10_000);
            assert!(i == 0 || last[thread] < i, "order within a sender");
            last[thread] = i;
            count += 1;
        }
        count
    });
    assert_eq!(sums, 20_000);
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

fn mailbox_blocks_senders_when_full(io: IoMode) {
    run(io, || async {
        let (sender, mut receiver) = mailbox::<u32>(1);
        for i in 0..10 {
            let sender = sender.clone();
            spawn(async move { sender.send(i).await.expect("the receiver lives") });
        }
        drop(sender);
        let mut seen = Vec::new();
        while let Some(value) = receiver.recv().await {
            seen.push(value);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
    });
}

fn local_oneshot_wakes(io: IoMode) {
    run(io, || async {
        let (sender, receiver) = local_oneshot();
        spawn(async move {
            sleep(Duration::from_millis(2)).await;
            let _ = sender.send(Rc::new(5));
        });
        assert_eq!(*receiver.await.expect("an answer"), 5);
        let (sender, receiver) = local_oneshot::<()>();
        drop(sender);
        assert!(receiver.await.is_err());
    });
}

fn panic_stays_in_its_task(io: IoMode) {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("and while dropped");
        }
    }
    std::panic::set_hook(Box::new(|_| {}));
    let runtime = start(io);
    run_on(&runtime, 0, || async {
        spawn(async { panic!("in a task") });
        spawn(async {
            yield_now().await;
            panic!("{} a yield", "after");
        });
        let task = spawn(async {
            let _bomb = Bomb;
            std::future::pending::<()>().await
        });
        sleep(Duration::from_millis(5)).await;
        task.abort();
        sleep(Duration::from_millis(1)).await;
    });
    assert_eq!(runtime.workers()[0].stats().panics, 3);
    assert_eq!(run_on(&runtime, 0, || async { 1 }), 1);
}

fn abort_drops_now_and_self_abort_after_the_poll(io: IoMode) {
    run(io, || async {
        let held = Rc::new(());
        let in_task = held.clone();
        let task = spawn(async move {
            let _held = in_task;
            std::future::pending::<()>().await
        });
        yield_now().await;
        assert_eq!(Rc::strong_count(&held), 2);
        task.abort();
        task.abort();
        assert_eq!(Rc::strong_count(&held), 1);

        let own = Rc::new(RefCell::new(None::<base_runtime::Task>));
        let (seen, in_task) = (own.clone(), held.clone());
        *own.borrow_mut() = Some(spawn(async move {
            let _held = in_task;
            seen.borrow().as_ref().expect("stored").abort();
            assert_eq!(Rc::strong_count(&_held), 2, "still running");
            std::future::pending::<()>().await
        }));
        sleep(Duration::from_millis(1)).await;
        assert_eq!(Rc::strong_count(&held), 1);
        assert!(own.borrow().as_ref().expect("stored").is_finished());
    });
}

fn busy_tasks_do_not_starve_io(io: IoMode) {
    run(io, || async {
        let (client, server) = pair().await;
        for _ in 0..1000 {
            spawn(async {
                loop {
                    yield_now().await;
                }
            });
        }
        for i in 0..20u8 {
            client.send(Buf::copy_from(&[i]));
            assert_eq!(recv_exactly(&server, 1).await.expect("receives"), [i]);
        }
        sleep(Duration::from_millis(3)).await;
    });
}

/// How often `busy`, whose polls it counts, is polled while a byte goes from one socket of this worker to another.
async fn polls_during_an_echo(busy: Rc<Cell<u64>>) -> u64 {
    let (client, server) = pair().await;
    let echoing = spawn(async move {
        while let Ok(Some(bytes)) = server.recv().await {
            server.send(bytes);
        }
    });
    let mut most = 0;
    for i in 0..20u8 {
        let before = busy.get();
        client.send(Buf::copy_from(&[i]));
        assert_eq!(recv_exactly(&client, 1).await.expect("receives"), [i]);
        most = most.max(busy.get() - before);
    }
    echoing.abort();
    most
}

/// Turns of the worker in which a byte gets there and back: a send, what it brings, the answer, what that brings, and on the ring
/// one each in which the kernel has it still to say.
const ECHO_TURNS: u64 = 8;

fn io_goes_first_where_a_task_yields(io: IoMode) {
    run(io, || async {
        let polls = Rc::new(Cell::new(0));
        for spinners in [1, 64] {
            for _ in 0..spinners {
                let polls = polls.clone();
                spawn(async move {
                    loop {
                        polls.set(polls.get() + 1);
                        yield_now().await;
                    }
                });
            }
            let most = polls_during_an_echo(polls.clone()).await;
            // The one that was there before goes on.
            assert!(most <= ECHO_TURNS * (1 + spinners), "{spinners} tasks were polled {most} times during an echo");
        }
    });
}

fn a_task_that_wakes_itself_is_polled_once_a_turn(io: IoMode) {
    run(io, || async {
        let worker = base_runtime::current_worker().expect("this is one");
        let mut last = worker.stats().turns;
        for _ in 0..1000 {
            yield_now().await;
            let now = worker.stats().turns;
            assert_eq!(now, last + 1, "one poll for each turn of the driver");
            last = now;
        }
    });
}

fn who_holds_the_worker_is_seen_in_its_longest_poll_and_turn(io: IoMode) {
    run(io, || async {
        let worker = base_runtime::current_worker().expect("this is one");
        let held = Duration::from_millis(20);
        spawn(async move {
            let began = Instant::now();
            while began.elapsed() < held {}
        });
        // Until its turn is over, and one more.
        for _ in 0..3 {
            yield_now().await;
        }
        let (stats, held) = (worker.stats(), held.as_nanos() as u64);
        assert!(stats.longest_poll_ns >= held && stats.longest_turn_ns >= held, "{stats:?}");
        assert!(worker.take_longest_turn() >= Duration::from_nanos(held));
    });
}

fn tasks_that_wake_each_other_let_io_go_first(io: IoMode) {
    run(io, || async {
        let polls = Rc::new(Cell::new(0));
        let wakers: Rc<RefCell<Vec<Option<Waker>>>> = Rc::new(RefCell::new(vec![None; 2]));
        for own in 0..2 {
            let (polls, wakers) = (polls.clone(), wakers.clone());
            spawn(poll_fn(move |cx| {
                polls.set(polls.get() + 1);
                let mut wakers = wakers.borrow_mut();
                wakers[own] = Some(cx.waker().clone());
                wakers[1 - own].iter().for_each(Waker::wake_by_ref);
                Poll::<()>::Pending
            }));
        }
        let most = polls_during_an_echo(polls).await;
        assert!(most <= ECHO_TURNS * 2, "two tasks were polled {most} times during an echo");
    });
}

/// What a turn has no time for among those that yielded waits for the next one, behind what was woken meanwhile.
fn tasks_woken_by_io_go_before_those_that_yielded(io: IoMode) {
    run(io, || async {
        let polls = Rc::new(Cell::new(0));
        for _ in 0..64 {
            let polls = polls.clone();
            spawn(async move {
                loop {
                    polls.set(polls.get() + 1);
                    // Each of them takes more time than a turn has.
                    let began = Instant::now();
                    while began.elapsed() < Duration::from_millis(2) {}
                    yield_now().await;
                }
            });
        }
        // Their first polls are theirs by right: they were spawned, and have not yielded yet.
        while polls.get() < 64 {
            yield_now().await;
        }
        let most = polls_during_an_echo(polls).await;
        assert!(most <= 2 * ECHO_TURNS, "64 tasks of 2 ms were polled {most} times during an echo");
    });
}

/// Whoever sends and receives without end takes so much of a turn; who has a byte to say waits for a few turns of them and not for each
/// of the others. What passes is counted, since time also passes where a worker waits for its CPU.
fn a_byte_does_not_wait_for_all_that_others_send(io: IoMode) {
    const OTHERS: usize = 200;
    run(io, || async {
        let worker = base_runtime::current_worker().expect("this is one");
        let passed = || {
            let stats = worker.stats();
            stats.bytes_in + stats.bytes_out
        };
        let (client, server) = pair().await;
        spawn(async move {
            while let Ok(Some(bytes)) = server.recv().await {
                server.send(bytes);
            }
        });
        for _ in 0..OTHERS {
            let (from, to) = pair().await;
            spawn(async move {
                let piece = [b'x'; Buf::CAPACITY - Buf::HEADROOM];
                while from.send_ready(128 << 10).await.is_ok() {
                    from.send(Buf::copy_from(&piece));
                }
            });
            spawn(async move { while let Ok(Some(_)) = to.recv().await {} });
        }
        while passed() < 256 << 20 {
            sleep(Duration::from_millis(1)).await;
        }
        let mut most = 0;
        for i in 0..50u8 {
            let before = passed();
            client.send(Buf::copy_from(&[i]));
            assert_eq!(recv_exactly(&client, 1).await.expect("receives"), [i]);
            most = most.max(passed() - before);
        }
        let allowed = ECHO_TURNS * (4 << 20);
        assert!(most <= allowed, "{} KiB passed during an echo, {} KiB may", most >> 10, allowed >> 10);
    });
}

/// Sockets, listeners and mailboxes alike: who goes on for as long as something is there does so over many turns.
fn a_poll_takes_no_more_than_its_share_of_what_is_ready(io: IoMode) {
    const THINGS: usize = 100;
    run(io, || async {
        let turns = || base_runtime::current_worker().expect("this is one").stats().turns;
        let at_least = THINGS as u64 / u64::from(base_runtime::SHARE);

        let (client, server) = pair().await;
        (0..THINGS).for_each(|_| server.unread(Buf::copy_from(b"a")));
        let before = turns();
        for _ in 0..THINGS {
            assert_eq!(server.recv().await.expect("received").expect("no end").len(), 1);
        }
        assert!(turns() - before >= at_least, "{THINGS} buffers in {} turns", turns() - before);
        drop(client);

        let (sender, mut receiver) = mailbox(THINGS);
        (0..THINGS).for_each(|n| sender.try_send(n).expect("room"));
        let before = turns();
        for n in 0..THINGS {
            assert_eq!(receiver.recv().await, Some(n));
        }
        assert!(turns() - before >= at_least, "{THINGS} messages in {} turns", turns() - before);

        let listener = listen();
        let clients: Vec<_> =
            (0..THINGS).map(|_| std::net::TcpStream::connect(listener.local_addr()).expect("connects")).collect();
        drop(listener.accept().await.expect("accepts"));
        // What the kernel had for it has come by now, as far as a worker takes it at a time.
        sleep(Duration::from_millis(5)).await;
        let before = turns();
        for _ in 1..THINGS {
            drop(listener.accept().await.expect("accepts"));
        }
        assert!(turns() - before >= at_least, "{THINGS} connections in {} turns", turns() - before);
        drop(clients);
    });
}

/// In a process of its own: a waker that panics does so in the worker's driver, where no task is to blame.
fn a_panic_outside_tasks_ends_the_process(io: IoMode) {
    const ASKED: &str = "WEIR_TEST_PANIC_IN_WORKER";
    struct Bomb;
    impl std::task::Wake for Bomb {
        fn wake(self: Arc<Self>) {
            panic!("as the test wants");
        }
    }
    if std::env::var_os(ASKED).is_some() {
        return run(io, || async {
            let (client, server) = pair().await;
            let bomb = Waker::from(Arc::new(Bomb));
            assert!(server.poll_recv(&mut std::task::Context::from_waker(&bomb)).is_pending());
            client.send(Buf::copy_from(b"a"));
            std::future::pending().await
        });
    }
    let name = format!("{io}::a_panic_outside_tasks_ends_the_process");
    let mut child = std::process::Command::new(std::env::current_exe().expect("this test"));
    let child = child.args(["--exact", &name, "--nocapture"]).env(ASKED, "1").env("RUST_BACKTRACE", "0");
    let output = child.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
    assert_eq!(signal, Some(libc::SIGABRT), "{}: {said}", output.status);
    assert!(said.contains("outside its tasks (as the test wants)"), "{said}");
}

fn waker_outlives_task_and_runtime(io: IoMode) {
    let runtime = start(io);
    let waker: Waker = run_on(&runtime, 0, || async {
        let (sender, receiver) = local_oneshot();
        let mut sender = Some(sender);
        let task = spawn(poll_fn(move |cx| {
            if let Some(sender) = sender.take() {
                let _ = sender.send(cx.waker().clone());
            }
            Poll::<()>::Pending
        }));
        let waker = receiver.await.expect("the waker");
        waker.wake_by_ref();
        yield_now().await;
        task.abort();
        waker.wake_by_ref();
        waker
    });
    waker.wake_by_ref();
    let copy = waker.clone();
    std::thread::spawn(move || copy.wake()).join().expect("no panic");
    runtime.shutdown();
    waker.wake_by_ref();
    drop(waker);
}

/// Ping-pong between this thread and a task: one lost wake would hang it.
fn remote_wakes_are_not_lost(io: IoMode) {
    let runtime = start(io);
    let (to_task, mut inbox) = mailbox::<u32>(1);
    let (answers, answered) = std::sync::mpsc::channel();
    runtime.workers()[0].spawn(move || async move {
        while let Some(value) = inbox.recv().await {
            let _ = answers.send(value);
        }
    });
    for i in 0..3000 {
        to_task.try_send(i).expect("room");
        assert_eq!(answered.recv_timeout(Duration::from_secs(60)), Ok(i));
        if i % 7 == 0 {
            std::thread::yield_now();
        }
    }
}

fn idle_worker_sleeps(io: IoMode) {
    let runtime = start(io);
    run_on(&runtime, 0, || async {});
    // What starting it and the task have left to do may take a while where the machine is busy.
    let rests = || {
        let before = runtime.workers()[0].stats().turns;
        std::thread::sleep(Duration::from_millis(100));
        runtime.workers()[0].stats().turns - before <= 3
    };
    assert!((0..100).any(|_| rests()), "{} turns", runtime.workers()[0].stats().turns);
}

fn shutdown_with_everything_in_flight(io: IoMode) {
    let dropped = Arc::new(AtomicUsize::new(0));
    struct Count(Arc<AtomicUsize>);
    impl Drop for Count {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let runtime = start(io);
    let (ready, counted) = (oneshot(), dropped.clone());
    let (listener_address, peer_of_unread) = {
        let std_listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        (std_listener.local_addr().expect("bound"), std_listener)
    };
    runtime.workers()[0].spawn(move || async move {
        let listener = listen();
        let address = listener.local_addr();
        let accepting = Count(counted.clone());
        spawn(async move {
            let _accepting = accepting;
            loop {
                let (stream, _) = listener.accept().await.expect("accepts");
                std::mem::forget(stream.clone());
                spawn(async move { while stream.recv().await.is_ok_and(|got| got.is_some()) {} });
            }
        });
        for _ in 0..50 {
            let stream = base_runtime::net::TcpStream::connect(address).await.expect("connects");
            let counted = Count(counted.clone());
            spawn(async move {
                let _counted = counted;
                let _ = stream.recv().await;
            });
        }
        // A peer that never reads, with megabytes on their way to it.
        let stuck = base_runtime::net::TcpStream::connect(listener_address).await.expect("connects");
        for _ in 0..500 {
            stuck.send(Buf::copy_from(&[3; 30_000]));
        }
        spawn(async move {
            let _ = stuck.flush().await;
            unreachable!("nobody reads");
        });
        spawn(async { sleep(Duration::from_secs(3600)).await });
        sleep(Duration::from_millis(20)).await;
        let _ = ready.0.send(());
        std::future::pending().await
    });
    ready.1.wait().expect("everything is in flight");
    let worker = runtime.workers()[0].clone();
    runtime.shutdown();
    assert_eq!(dropped.load(Ordering::SeqCst), 51);
    let stats = worker.stats();
    assert_eq!((stats.tasks, stats.connections_open, stats.buffers_in_use), (0, 0, 0));
    drop(peer_of_unread);
}

fn spawning_on_a_stopped_worker_drops_the_task(io: IoMode) {
    let runtime = start(io);
    let worker = runtime.workers()[0].clone();
    runtime.shutdown();
    let held = Arc::new(());
    let moved = held.clone();
    worker.spawn(move || async move { drop(moved) });
    assert_eq!(Arc::strong_count(&held), 1);
}

fn workers_run_where_they_say(io: IoMode) {
    let mut config = support::config(io);
    (config.cpus, config.workers) = (None, None);
    let runtime = Runtime::start(config).expect("the driver works here");
    assert_eq!(runtime.workers().len(), base_runtime::allowed_cpus().len());
    for (index, worker) in runtime.workers().iter().enumerate() {
        let (cpu, seen) = run_on(&runtime, index, || async {
            // SAFETY: a plain system call.
            (unsafe { libc::sched_getcpu() } as usize, base_runtime::worker_index())
        });
        assert_eq!((cpu, seen), (worker.cpu(), index));
    }
    let expected = if io == IoMode::Uring { IoKind::Uring } else { IoKind::Epoll };
    assert_eq!((runtime.io(), runtime.fallback_reason()), (expected, None));
}

fn times_of_a_worker_never_go_back(io: IoMode) {
    let runtime = start(io);
    let worker = runtime.workers()[0].clone();
    let reader = std::thread::spawn({
        let worker = worker.clone();
        move || {
            let (mut last, mut read) = (worker.stats(), 0);
            // The last readings are of a thread that has ended.
            while read < 100 {
                let now = worker.stats();
                assert!(now.busy_ns >= last.busy_ns && now.age_ns >= last.age_ns, "{last:?} then {now:?}");
                read += u32::from(now.age_ns == last.age_ns && now.age_ns > 0);
                last = now;
            }
            last
        }
    });
    run_on(&runtime, 0, || async {
        for _ in 0..2000 {
            yield_now().await;
        }
    });
    runtime.shutdown();
    let last = reader.join().expect("times that went on");
    assert!(last.busy_ns > 0 && last.age_ns > last.busy_ns / 2, "{last:?}");
}

fn events_gather_where_they_come_often(io: IoMode) {
    for (coalesce, until) in [(Duration::from_micros(200), 20), (Duration::ZERO, 0)] {
        let runtime =
            Runtime::start(Config { coalesce, coalesce_busy_percent: 0, ..config(io) }).expect("the driver works here");
        let worker = runtime.workers()[0].clone();
        let (address, came) = (oneshot(), oneshot());
        worker.spawn(move || async move {
            let listener = listen();
            let _ = address.0.send(listener.local_addr());
            let (stream, _) = listener.accept().await.expect("accepts");
            let _ = came.0.send(recv_all(&stream).await.expect("receives"));
        });
        let mut stream = std::net::TcpStream::connect(address.1.wait().expect("listens")).expect("connects");
        stream.set_nodelay(true).expect("a TCP socket");
        let (started, mut sent) = (Instant::now(), Vec::new());
        // Without pauses as long as it took with them, about.
        while worker.stats().pauses < until || sent.len() < 4000 {
            assert!(started.elapsed() < Duration::from_secs(60), "{:?}", worker.stats());
            stream.write_all(&[sent.len() as u8]).expect("sends");
            sent.push(sent.len() as u8);
            // As messages come, not as fast as can be.
            std::thread::sleep(Duration::from_micros(5));
        }
        drop(stream);
        assert!(came.1.wait().expect("the end") == sent, "bytes in order");
        let stats = worker.stats();
        assert!(
            stats.pauses >= until && stats.pauses <= stats.wakeups && (until > 0 || stats.pauses == 0),
            "{stats:?}"
        );
    }
}

#[test]
fn cpus_outside_the_allowed_ones_are_refused() {
    let config = base_runtime::Config { cpus: Some(vec![9999]), ..support::config(IoMode::Epoll) };
    let Err(error) = Runtime::start(config) else { panic!("CPU 9999 exists?") };
    assert!(matches!(error, StartError::Cpu { cpu: 9999, .. }) && error.to_string().contains("taskset"), "{error}");
    let config = base_runtime::Config { workers: Some(0), ..support::config(IoMode::Epoll) };
    assert!(matches!(Runtime::start(config), Err(StartError::NoWorkers)));
}

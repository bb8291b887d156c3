//! Descriptors: none are left behind, and running out of them is survived. These count what the whole process holds, so they are a
//! test program of their own and take turns.

#[macro_use]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;

use std::cell::Cell;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base_runtime::net::{ReceivedPiece, TcpStream};
use base_runtime::time::sleep;
use base_runtime::{Buf, IoMode, spawn};
use support::*;

on_both_drivers!(
    accept_goes_on_after_running_out_of_descriptors,
    clients_are_turned_away_when_descriptors_stay_short,
    without_descriptors_for_pipes_bytes_come_in_buffers,
    pipes_leave_the_last_descriptors_to_others,
    pipes_nobody_needs_are_closed,
    shutdown_leaves_no_descriptor_and_no_thread,
);

static TURN: Mutex<()> = Mutex::new(());

fn accept_goes_on_after_running_out_of_descriptors(io: IoMode) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = start(io);
    let worker = runtime.workers()[0].clone();
    let listener = listen();
    let address = listener.local_addr();
    // Connections are made while there are descriptors; the server's halves then find none.
    let clients: Vec<_> = (0..20).map(|_| std::net::TcpStream::connect(address).expect("connects")).collect();
    let limit = Limit::lower_to(count("/proc/self/fd") as u64 + 5);
    run_on(&runtime, 0, move || async move {
        let accepted = Rc::new(Cell::new(0));
        let counting = accepted.clone();
        let held = Rc::new(Cell::new(Vec::new()));
        let holding = held.clone();
        let server = spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("running out is not reported");
                counting.set(counting.get() + 1);
                let mut streams = holding.take();
                streams.push(stream);
                holding.set(streams);
            }
        });
        sleep(Duration::from_millis(100)).await;
        let stats = worker.stats();
        assert!((1..20).contains(&accepted.get()), "{} accepted", accepted.get());
        assert!(
            (2..20).contains(&stats.emfile),
            "{} failures in 100 ms: a pause between them, no spinning",
            stats.emfile
        );
        drop(limit);
        let started = Instant::now();
        while accepted.get() < 20 {
            assert!(started.elapsed() < Duration::from_secs(60), "{} accepted", accepted.get());
            sleep(Duration::from_millis(5)).await;
        }
        server.abort();
    });
    drop(clients);
}

fn clients_are_turned_away_when_descriptors_stay_short(io: IoMode) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = start(io);
    let worker = runtime.workers()[0].clone();
    let listener = listen();
    let address = listener.local_addr();
    let clients: Vec<_> = (0..20).map(|_| std::net::TcpStream::connect(address).expect("connects")).collect();
    let limit = Limit::lower_to(count("/proc/self/fd") as u64 + 5);
    let accepted = std::sync::Arc::new(Mutex::new(0));
    let counting = accepted.clone();
    runtime.workers()[0].spawn(move || async move {
        loop {
            let (stream, _) = listener.accept().await.expect("running out is not reported");
            *counting.lock().expect("no panic") += 1;
            // Held for ever, as by clients that stay idle.
            std::mem::forget(stream);
        }
    });
    let started = Instant::now();
    while worker.stats().shed + *accepted.lock().expect("no panic") < 20 {
        assert!(started.elapsed() < Duration::from_secs(60), "{:?}", worker.stats());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(started.elapsed() > Duration::from_millis(900), "not before it lasted a second");
    let mut turned_away = 0;
    for mut client in clients {
        client.set_read_timeout(Some(Duration::from_millis(20))).expect("a time");
        turned_away += u64::from(matches!(std::io::Read::read(&mut client, &mut [0]), Ok(0)));
    }
    assert_eq!(turned_away, worker.stats().shed);
    assert!(turned_away >= 10, "{turned_away}");
    drop(limit);
    // The spare descriptor is back in its place, and service goes on.
    let before = *accepted.lock().expect("no panic");
    let _late = std::net::TcpStream::connect(address).expect("connects");
    while *accepted.lock().expect("no panic") == before {
        assert!(started.elapsed() < Duration::from_secs(60), "{:?}", worker.stats());
        std::thread::sleep(Duration::from_millis(5));
    }
    runtime.shutdown();
}

fn without_descriptors_for_pipes_bytes_come_in_buffers(io: IoMode) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // No number is left, whatever is closed meanwhile.
    no_pipe_is_had(io, || (Vec::new(), Limit::lower_to(3)));
}

/// There are some left, which are set aside for what is no traffic.
fn pipes_leave_the_last_descriptors_to_others(io: IoMode) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    no_pipe_is_had(io, || {
        let open = || std::fs::File::open("/dev/null").expect("it is there");
        let mut below = vec![open()];
        while below.last().is_some_and(|file| file.as_raw_fd() < 64) {
            below.push(open());
        }
        let limit = Limit::lower_to(below[below.len() - 1].as_raw_fd() as u64 + 5);
        base_runtime::pressure::set_descriptors_aside();
        (below, limit)
    });
    // In the same turn: the next one may lower the limit.
    base_runtime::pressure::set_descriptors_aside();
}

fn no_pipe_is_had(io: IoMode, lower: impl FnOnce() -> (Vec<std::fs::File>, Limit) + Send + 'static) {
    let runtime = start(io);
    let worker = runtime.workers()[0].clone();
    run_on(&runtime, 0, || async move {
        let (far, source) = pair().await;
        let (target, near) = pair().await;
        let limit = lower();
        let sent = pattern(1 << 20);
        let (bytes, reader) = (sent.clone(), near.clone());
        spawn(async move { send_all(&far, &bytes).await.expect("sends") });
        spawn(async move {
            let mut left = 1 << 20;
            while left > 0 {
                match source.recv_piece(left).await.expect("well").expect("not the end") {
                    ReceivedPiece::Pipe(_) => panic!("there was no descriptor for it"),
                    ReceivedPiece::Buf(buf) => {
                        left -= buf.len() as u64;
                        target.send(buf);
                    }
                }
                target.send_ready(100_000).await.expect("well");
            }
        });
        assert!(recv_exactly(&reader, sent.len()).await.expect("receives") == sent);
        drop(limit);
        let stats = worker.stats();
        // The kernel is not asked for each buffer again.
        assert!((1..3).contains(&stats.pipes_refused) && stats.bytes_spliced == 0, "{stats:?}");
    });
    runtime.shutdown();
}

fn pipes_nobody_needs_are_closed(io: IoMode) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = start(io);
    let worker = runtime.workers()[0].clone();
    let before = count("/proc/self/fd");
    run_on(&runtime, 0, || async move {
        let (far, source) = pair().await;
        let (target, near) = pair().await;
        let sent = pattern(1 << 20);
        let bytes = sent.clone();
        spawn(async move { send_all(&far, &bytes).await.expect("sends") });
        spawn(async move {
            let mut left = 1 << 20;
            while left > 0 {
                match source.recv_piece(left).await.expect("well").expect("not the end") {
                    ReceivedPiece::Pipe(pipe) => {
                        left -= pipe.len() as u64;
                        target.send_pipe(pipe).await.expect("sends");
                    }
                    ReceivedPiece::Buf(buf) => {
                        left -= buf.len() as u64;
                        target.send(buf);
                    }
                }
            }
        });
        assert!(recv_exactly(&near, sent.len()).await.expect("receives") == sent);
    });
    assert!(worker.stats().bytes_spliced > 0, "{:?}", worker.stats());
    let since = Instant::now();
    while count("/proc/self/fd") > before {
        assert!(since.elapsed() < Duration::from_secs(60), "{} descriptors, {before} before", count("/proc/self/fd"));
        std::thread::sleep(Duration::from_millis(20));
    }
    runtime.shutdown();
}

fn shutdown_leaves_no_descriptor_and_no_thread(io: IoMode) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // The first runtime in the process may open what stays open.
    start(io).shutdown();
    let before = settled();
    for _ in 0..3 {
        let mut config = config(io);
        config.workers = Some(2);
        let runtime = base_runtime::Runtime::start(config).expect("the driver works here");
        for index in 0..2 {
            run_on(&runtime, index, || async {
                let listener = listen();
                let address = listener.local_addr();
                for i in 0..30 {
                    let client = TcpStream::connect(address).await.expect("connects");
                    client.send(Buf::copy_from(&[0; 20_000]));
                    spawn(async move { drop(client.recv().await) });
                    if i % 2 == 0 {
                        let (server, _) = listener.accept().await.expect("accepts");
                        spawn(async move {
                            while server.recv().await.is_ok() {
                                server.send(Buf::copy_from(&[0; 20_000]));
                                sleep(Duration::from_millis(1)).await;
                            }
                        });
                    }
                }
                // The listener stays in use to the end.
                spawn(async move { while listener.accept().await.is_ok() {} });
                sleep(Duration::from_millis(5)).await;
            });
        }
        runtime.shutdown();
    }
    assert_eq!(settled(), before, "(descriptors, threads)");
}

/// Descriptors and threads of this process, once they stop changing: the kernel tears rings down after their last descriptor.
fn settled() -> (usize, usize) {
    let look = || (count("/proc/self/fd"), count("/proc/self/task"));
    let mut last = look();
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(10));
        let now = look();
        if now == last {
            break;
        }
        last = now;
    }
    last
}

fn count(directory: &str) -> usize {
    std::fs::read_dir(directory).expect("procfs").count()
}

/// The limit of open descriptors, put back on drop.
struct Limit(libc::rlimit);

impl Limit {
    fn lower_to(n: u64) -> Limit {
        let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the kernel writes one `rlimit`.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut before) }, 0);
        set_limit(&libc::rlimit { rlim_cur: n, ..before });
        Limit(before)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        set_limit(&self.0);
    }
}

fn set_limit(limit: &libc::rlimit) {
    // SAFETY: the kernel reads one `rlimit`.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, limit) }, 0);
}

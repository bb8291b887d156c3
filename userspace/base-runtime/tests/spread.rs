//! How evenly connections are spread over workers that share a port.

#[macro_use]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base_runtime::net::{ListenOptions, Spread, TcpListener};
use base_runtime::{Buf, Config, IoMode, Runtime, Worker};
use support::*;

on_both_drivers!(connections_are_spread_within_15_percent, the_kernel_alone_is_less_even);

const WORKERS: usize = 4;

fn connections_are_spread_within_15_percent(io: IoMode) {
    for (count, gap) in
        [(64, Duration::ZERO), (64, Duration::from_micros(300)), (256, Duration::ZERO), (1000, Duration::ZERO)]
    {
        let (runtime, spread, address) = serve(io, true);
        let clients = connect(address, count, gap);
        // Every connection is served, wherever it ended up.
        for mut client in &clients {
            let mut served_by = [0];
            std::io::Read::read_exact(&mut client, &mut served_by).expect("its worker greets");
        }
        let open = spread.open();
        let mean = count as f64 / WORKERS as f64;
        println!("{io}: {count} connections, {gap:?} apart: {open:?}");
        assert_eq!(open.iter().sum::<u32>(), count as u32);
        for n in &open {
            // Whole connections: one more than the share is never uneven.
            assert!((f64::from(*n) - mean).abs() <= (0.15 * mean).max(1.0), "{open:?} of {count}");
        }
        let by_worker: Vec<u64> = runtime.workers().iter().map(|worker| worker.stats().connections_open).collect();
        assert_eq!(by_worker, open.iter().map(|&n| u64::from(n)).collect::<Vec<_>>());
        // Those that end give their seats up.
        drop(clients);
        let started = Instant::now();
        while spread.open().iter().any(|&n| n > 0) {
            assert!(started.elapsed() < Duration::from_secs(60), "{:?}", spread.open());
            std::thread::sleep(Duration::from_millis(2));
        }
        runtime.shutdown();
    }
}

/// Not a promise, but the reason for `Spread`: prints what the hash does alone.
fn the_kernel_alone_is_less_even(io: IoMode) {
    for count in [64, 256, 1000] {
        let (runtime, _, address) = serve(io, false);
        let clients = connect(address, count, Duration::ZERO);
        for mut client in &clients {
            std::io::Read::read_exact(&mut client, &mut [0]).expect("its worker greets");
        }
        let open: Vec<u64> = runtime.workers().iter().map(|worker| worker.stats().connections_open).collect();
        println!("{io}: {count} connections by the kernel alone: {open:?}");
        assert_eq!(open.iter().sum::<u64>(), count as u64);
        runtime.shutdown();
    }
}

fn connect(address: SocketAddr, count: usize, gap: Duration) -> Vec<std::net::TcpStream> {
    (0..count)
        .map(|_| {
            std::thread::sleep(gap);
            std::net::TcpStream::connect(address).expect("connects")
        })
        .collect()
}

/// Workers that greet with their index and hold connections until the client ends them.
fn serve(io: IoMode, spread_over: bool) -> (Runtime, Arc<Spread>, SocketAddr) {
    let runtime = Runtime::start(Config { workers: Some(WORKERS), ..config(io) }).expect("the driver works here");
    let spread = Spread::new(runtime.workers());
    let options = ListenOptions { reuse_port: true, ..ListenOptions::default() };
    let mut address = SocketAddr::from(([127, 0, 0, 1], 0));
    for worker in runtime.workers() {
        let listener = TcpListener::bind(address, options.clone()).expect("binds");
        address = listener.local_addr();
        let spread = spread_over.then(|| spread.clone());
        accept_on(worker, listener, spread);
    }
    (runtime, spread, address)
}

fn accept_on(worker: &Worker, listener: TcpListener, spread: Option<Arc<Spread>>) {
    worker.spawn(move || async move {
        loop {
            let (stream, _) = listener.accept().await.expect("accepts");
            let greet = |stream: base_runtime::net::TcpStream| async move {
                stream.send(Buf::copy_from(&[base_runtime::worker_index() as u8]));
                let _ = stream.recv().await;
            };
            match &spread {
                Some(spread) => spread.serve(stream, move |stream, seat| async move {
                    greet(stream).await;
                    drop(seat);
                }),
                None => base_runtime::spawn(greet(stream)).detach(),
            }
        }
    });
}

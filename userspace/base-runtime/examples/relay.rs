//! Accepts connections, opens one to a backend for each, and relays bytes both ways: what the runtime alone costs per request.
//!
//! `cargo run --release -p base-runtime --example relay -- <listen> <backend> [uring|epoll|auto] [cpu] [seconds]`
//!
//! After the given seconds (default: never) it prints its counters and CPU time and stops.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use base_runtime::net::{ListenOptions, TcpListener, TcpStream};
use base_runtime::{Config, IoMode, Runtime, spawn};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, backend, rest @ ..] = &arguments[..] else {
        return Err("usage: relay <listen> <backend> [uring|epoll|auto] [cpu] [seconds]".into());
    };
    let (listen, backend): (SocketAddr, SocketAddr) = (listen.parse()?, backend.parse()?);
    let io: IoMode = rest.first().map_or(Ok(IoMode::Auto), |io| io.parse())?;
    let cpu: usize = rest.get(1).map_or(Ok(0), |cpu| cpu.parse())?;
    let seconds: Option<u64> = rest.get(2).map(|seconds| seconds.parse()).transpose()?;

    let runtime = Runtime::start(Config { io, cpus: Some(vec![cpu]), name: "relay".to_owned(), ..Config::default() })?;
    if let Some(reason) = runtime.fallback_reason() {
        eprintln!("relay: {reason}");
    }
    let listener = TcpListener::bind(listen, ListenOptions::default())?;
    eprintln!("relay: {} -> {backend} on {} (CPU {cpu})", listener.local_addr(), runtime.io());
    runtime.workers()[0].spawn(move || async move {
        loop {
            match listener.accept().await {
                Ok((client, _)) => drop(spawn(relay(client, backend))),
                Err(error) => eprintln!("relay: accept: {error}"),
            }
        }
    });
    let Some(seconds) = seconds else {
        loop {
            std::thread::park();
        }
    };
    std::thread::sleep(Duration::from_secs(seconds));
    println!("{:#?}", runtime.workers()[0].stats());
    runtime.shutdown();
    Ok(())
}

async fn relay(client: TcpStream, backend: SocketAddr) {
    let Ok(backend) = TcpStream::connect(backend).await else { return client.abort() };
    let (mut up, mut down) = (true, true);
    poll_fn(|cx| {
        if up {
            up = poll_pump(&client, &backend, cx).is_pending();
        }
        if down {
            down = poll_pump(&backend, &client, cx).is_pending();
        }
        if up || down { Poll::Pending } else { Poll::Ready(()) }
    })
    .await
}

/// Moves what there is; ready once this direction is over.
fn poll_pump(from: &TcpStream, to: &TcpStream, cx: &mut Context<'_>) -> Poll<()> {
    loop {
        match to.poll_send_ready(cx, HIGH_WATER) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => {
                from.abort();
                return Poll::Ready(());
            }
            Poll::Pending => return Poll::Pending,
        }
        match from.poll_recv(cx) {
            Poll::Ready(Ok(Some(buf))) => to.send(buf),
            Poll::Ready(Ok(None)) => {
                to.shutdown_write();
                return Poll::Ready(());
            }
            Poll::Ready(Err(_)) => {
                to.abort();
                return Poll::Ready(());
            }
            Poll::Pending => return Poll::Pending,
        }
    }
}

/// Bytes that may wait for a peer before its counterpart is no longer read.
const HIGH_WATER: usize = 128 * 1024;

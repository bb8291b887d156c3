//! What an idle connection holds. One test: it looks at the whole process.

#[macro_use]
#[allow(dead_code, unused_macros, reason = "each test file uses its part")]
mod support;

use base_runtime::memory::{Kind, snapshot};
use base_runtime::{Buf, IoMode};
use support::*;

/// Pairs of connections, client and server both on the worker.
const PAIRS: usize = 2000;

#[test]
fn an_idle_connection_holds_less_than_four_kib() {
    let file_limit = std::fs::read_to_string("/proc/self/limits").expect("procfs");
    let files: usize = file_limit
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .and_then(|line| line.split_whitespace().nth(3)?.parse().ok())
        .unwrap_or(usize::MAX);
    let pairs = PAIRS.min((files - 100) / 2);
    let (plain, tls, booked) = run(IoMode::Epoll, move || async move {
        let authority = Authority::new("test");
        let server = server(vec![authority.sign(&["localhost"]).read()]);
        let client = client(&authority);
        let mut kept = Vec::new();
        // What is allocated once, and what the allocator keeps of handshakes.
        for _ in 0..100 {
            kept.push(used_pair(&client, &server).await);
        }
        let before = resident();
        let mut sockets = Vec::new();
        for _ in 0..pairs / 2 {
            sockets.push(pair().await);
        }
        let plain = resident() - before;
        drop(sockets);
        let booked = snapshot().of(Kind::Tls);
        for _ in 0..pairs / 2 {
            kept.push(used_pair(&client, &server).await);
        }
        // The sockets' own memory was there already, free.
        (plain, resident() - before, snapshot().of(Kind::Tls) - booked)
    });
    let each = |bytes: usize| bytes / pairs;
    println!(
        "{pairs} ends: {} bytes each plain, {} bytes each with TLS, {} booked as TLS",
        each(plain),
        each(tls),
        each(booked as usize)
    );
    assert!(each(tls) < 4096 + each(plain), "{} bytes", each(tls));
}

async fn used_pair(
    client: &base_tls::ClientTls,
    server: &base_tls::ServerTls,
) -> (base_tls::Transport, base_tls::Transport) {
    let (a, b) = tls_pair(client, server).await;
    for (from, to) in [(&a, &b), (&b, &a)] {
        from.send(Buf::copy_from(&pattern(3000)));
        recv_exactly(to, 3000).await.expect("data");
    }
    (a, b)
}

/// Bytes of the process in memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("procfs");
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number") * 4096
}

//! Streams over Unix sockets do what those over TCP do.

#[macro_use]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base_runtime::net::{TcpStream, UnixListener};
use base_runtime::time::timeout;
use base_runtime::{Buf, IoMode, spawn};
use support::*;

on_both_drivers!(
    echo_over_a_unix_socket,
    connecting_fails_as_it_should,
    connecting_waits_for_room_in_the_queue,
    stale_sockets_are_replaced_and_live_ones_are_not,
    unix_connections_are_handed_over,
);

fn echo_over_a_unix_socket(io: IoMode) {
    let path = TempPath::new();
    run(io, move || async move {
        let listener = UnixListener::bind(&path.0, 16).expect("binds");
        spawn(async move {
            loop {
                let stream = listener.accept().await.expect("accepts");
                spawn(async move {
                    while let Ok(Some(buf)) = stream.recv().await {
                        stream.send(buf);
                        if stream.send_ready(256 * 1024).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        for size in [1, 5_000, 3_000_000] {
            let stream = TcpStream::connect_unix(&path.0).await.expect("connects");
            assert_eq!(stream.peer_addr().expect_err("no IP address").kind(), ErrorKind::Unsupported);
            let (writer, bytes) = (stream.clone(), pattern(size));
            let expected = bytes.clone();
            spawn(async move {
                send_all(&writer, &bytes).await.expect("sends");
                writer.shutdown_write();
            });
            assert!(recv_all(&stream).await.expect("receives") == expected, "{size} bytes");
        }
    });
}

fn connecting_fails_as_it_should(io: IoMode) {
    let path = TempPath::new();
    run(io, move || async move {
        let kind = async |path: &PathBuf| TcpStream::connect_unix(path).await.expect_err("nobody listens").kind();
        assert_eq!(kind(&path.0).await, ErrorKind::NotFound);
        drop(std::os::unix::net::UnixListener::bind(&path.0).expect("binds"));
        assert_eq!(kind(&path.0).await, ErrorKind::ConnectionRefused);
        let error = TcpStream::connect_unix("/tmp/".to_owned() + &"x".repeat(108)).await.expect_err("too long");
        assert!(error.to_string().contains("1 to 107 bytes"), "{error}");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    });
}

fn connecting_waits_for_room_in_the_queue(io: IoMode) {
    let path = TempPath::new();
    run(io, move || async move {
        let listener = UnixListener::bind(&path.0, 0).expect("binds");
        let _first = TcpStream::connect_unix(&path.0).await.expect("connects");
        let second = timeout(Duration::from_millis(50), TcpStream::connect_unix(&path.0)).await;
        assert!(second.is_err(), "the queue takes one");
        let path = path.0.clone();
        spawn(async move {
            let third = TcpStream::connect_unix(&path).await.expect("connects when there is room");
            third.send(Buf::copy_from(b"hello"));
        });
        base_runtime::time::sleep(Duration::from_millis(20)).await;
        let _first = listener.accept().await.expect("accepts");
        loop {
            // The attempt that was given up may have got through.
            let stream = listener.accept().await.expect("accepts");
            if recv_all(&stream).await.expect("receives") == b"hello" {
                break;
            }
        }
    });
}

fn stale_sockets_are_replaced_and_live_ones_are_not(io: IoMode) {
    let path = TempPath::new();
    run(io, move || async move {
        drop(UnixListener::bind(&path.0, 16).expect("binds"));
        let listener = UnixListener::bind(&path.0, 16).expect("what was left is replaced");
        assert_eq!(UnixListener::bind(&path.0, 16).expect_err("in use").kind(), ErrorKind::AddrInUse);
        let client = TcpStream::connect_unix(listener.path()).await.expect("still listening");
        drop((listener, client));
        std::fs::remove_file(&path.0).expect("there");
        std::fs::write(&path.0, "not a socket").expect("writes");
        assert_eq!(UnixListener::bind(&path.0, 16).expect_err("a file").kind(), ErrorKind::AddrInUse);
    });
}

fn unix_connections_are_handed_over(io: IoMode) {
    let path = TempPath::new();
    let mut config = config(io);
    config.workers = Some(2);
    let runtime = base_runtime::Runtime::start(config).expect("the driver works here");
    let second = runtime.workers()[1].clone();
    run_on(&runtime, 0, move || async move {
        let listener = UnixListener::bind(&path.0, 16).expect("binds");
        let client = TcpStream::connect_unix(&path.0).await.expect("connects");
        let server = listener.accept().await.expect("accepts");
        let handed = server.hand_over(&second, |stream| async move {
            stream.send(Buf::copy_from(&[base_runtime::worker_index() as u8]));
        });
        assert!(handed.is_ok());
        assert_eq!(recv_all(&client).await.expect("receives"), [1]);
    });
}

/// A path nobody else uses, removed at the end.
struct TempPath(PathBuf);

impl TempPath {
    fn new() -> TempPath {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("weir-unix-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        TempPath(std::env::temp_dir().join(name))
    }
}

impl Drop for TempPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

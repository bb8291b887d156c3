//! Running a future on a worker of either driver and waiting for it.

pub mod random;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base_runtime::channel::oneshot;
use base_runtime::net::{ListenOptions, TcpListener, TcpStream};
use base_runtime::{Buf, Config, IoMode, Runtime};

/// Makes each of the named functions, which take an `IoMode`, a test per driver.
#[allow(unused_macros, reason = "not every test file has tests per driver")]
macro_rules! on_both_drivers {
    ($($name:ident),* $(,)?) => {
        mod uring { $(#[test] fn $name() { super::$name(base_runtime::IoMode::Uring) })* }
        mod epoll { $(#[test] fn $name() { super::$name(base_runtime::IoMode::Epoll) })* }
    };
}

pub fn config(io: IoMode) -> Config {
    // Tests run in parallel: spread their workers over the CPUs.
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    let mut cpus = base_runtime::allowed_cpus();
    let turn = STARTED.fetch_add(1, Ordering::Relaxed) % cpus.len();
    cpus.rotate_left(turn);
    Config { io, cpus: Some(cpus), workers: Some(1), name: "test".to_owned(), ..Config::default() }
}

pub fn start(io: IoMode) -> Runtime {
    Runtime::start(config(io)).expect("the driver works here")
}

/// Runs what `make` makes on the first worker, for at most a minute: it is for what hangs, not for what is slow on a busy machine.
pub fn run_on<T, F, Fut>(runtime: &Runtime, index: usize, make: F) -> T
where
    T: Send + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
{
    let (sender, receiver) = oneshot();
    runtime.workers()[index].spawn(move || {
        let future = make();
        async move {
            let limited = base_runtime::time::timeout(Duration::from_secs(60), future).await;
            let _ = sender.send(limited.expect("finished in time"));
        }
    });
    receiver.wait().expect("the task neither panicked nor timed out")
}

pub fn run<T, F, Fut>(io: IoMode, make: F) -> T
where
    T: Send + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
{
    let runtime = start(io);
    let result = run_on(&runtime, 0, make);
    runtime.shutdown();
    result
}

pub fn listen() -> TcpListener {
    TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)), ListenOptions::default()).expect("a port is free")
}

/// Both ends of a connection on this worker.
pub async fn pair() -> (TcpStream, TcpStream) {
    let listener = listen();
    let client = TcpStream::connect(listener.local_addr()).await.expect("connects");
    let (server, _) = listener.accept().await.expect("accepts");
    (client, server)
}

/// Sends `bytes` in buffers, waiting for room.
pub async fn send_all(stream: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let mut buf = Buf::alloc();
        let n = buf.append(bytes);
        bytes = &bytes[n..];
        stream.send(buf);
        stream.send_ready(256 * 1024).await?;
    }
    Ok(())
}

/// Receives until the peer's end.
pub async fn recv_all(stream: &TcpStream) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(buf) = stream.recv().await? {
        all.extend_from_slice(&buf);
    }
    Ok(all)
}

pub async fn recv_exactly(stream: &TcpStream, n: usize) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::with_capacity(n);
    while all.len() < n {
        let Some(mut buf) = stream.recv().await? else {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        };
        let wanted = (n - all.len()).min(buf.len());
        all.extend_from_slice(&buf[..wanted]);
        buf.advance(wanted);
        stream.unread(buf);
    }
    Ok(all)
}

/// Bytes that differ with their position.
pub fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Makes the kernel's send buffer as small as it goes, so that sends are taken in part.
pub fn small_buffers(stream: &TcpStream) {
    let bytes: libc::c_int = 4096;
    // SAFETY: the kernel reads one int.
    let result = unsafe {
        let fd = std::os::fd::AsRawFd::as_raw_fd(stream);
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_SNDBUF,
            (&raw const bytes).cast(),
            size_of::<libc::c_int>() as u32,
        )
    };
    assert_eq!(result, 0);
}

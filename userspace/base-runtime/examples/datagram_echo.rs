//! What an echoed datagram costs a worker in CPU, beside a plain loop of `recvmmsg` and `sendmmsg` on a thread of its own.
//!
//! `cargo run --release -p base-runtime --example datagram_echo -- <uring|epoll|plain> [bytes] [datagrams]`: 64 connected clients send
//! bursts of 8 and wait for their echoes. Only the echoing thread's CPU time counts; run the three in turn, several times.

use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use base_runtime::net::udp::Transmit;
use base_runtime::net::{UdpOptions, UdpSocket};
use base_runtime::{Config, Runtime};

fn main() {
    let mut args = std::env::args().skip(1);
    let mode = args.next().unwrap_or_else(|| "uring".to_owned());
    let mut number = |otherwise: usize| args.next().and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    let (bytes, datagrams) = (number(1200), number(400_000));
    // Joining would turn a burst into one; what is measured is a datagram.
    let options = UdpOptions { join: false, receive_buffer: Some(4 << 20), ..UdpOptions::default() };
    let socket = options.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port is free");
    let address = socket.local_addr().expect("bound");
    let busy = match mode.as_str() {
        "plain" => {
            let echo = std::thread::spawn(move || plain(&socket, datagrams));
            drive(address, bytes, datagrams);
            echo.join().expect("no panic")
        }
        io => {
            let io = io.parse().expect("uring, epoll or plain");
            let runtime = Runtime::start(Config { io, workers: Some(1), ..Config::default() }).expect("it works here");
            let worker = runtime.workers()[0].clone();
            worker.spawn(move || async move {
                let socket = UdpSocket::from_std(socket).expect("joins");
                loop {
                    let received = socket.recv().await.expect("no error");
                    socket.send(&Transmit::new(received.meta().source, &received)).expect("loopback has room");
                }
            });
            let before = worker.stats().busy_ns;
            drive(address, bytes, datagrams);
            Duration::from_nanos(worker.stats().busy_ns - before)
        }
    };
    println!("{mode}: {} ns of CPU per datagram of {bytes} bytes", busy.as_nanos() / datagrams as u128);
}

fn drive(address: SocketAddr, bytes: usize, datagrams: usize) {
    let clients: Vec<StdSocket> = (0..CLIENTS)
        .map(|_| {
            let socket = StdSocket::bind("127.0.0.1:0").expect("a port is free");
            socket.connect(address).expect("connects");
            socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
            socket
        })
        .collect();
    let (sent, mut back) = (vec![7; bytes], vec![0; bytes + 1]);
    for _ in 0..datagrams / (CLIENTS * BURST) {
        for client in &clients {
            (0..BURST).for_each(|_| assert_eq!(client.send(&sent).expect("the kernel takes it"), bytes));
        }
        for client in &clients {
            (0..BURST).for_each(|_| assert_eq!(receive(client, &mut back), bytes));
        }
    }
}

/// A signal may interrupt a call that has a time-out.
fn receive(client: &StdSocket, bytes: &mut [u8]) -> usize {
    loop {
        match client.recv(bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            received => return received.expect("the echo comes"),
        }
    }
}

/// The same with system calls alone: 32 datagrams at a time, answered in one call.
fn plain(socket: &StdSocket, datagrams: usize) -> Duration {
    let mut buffers = vec![[0u8; 2048]; BATCH];
    let mut names = vec![[0u8; 28]; BATCH];
    let mut left = datagrams / (CLIENTS * BURST) * (CLIENTS * BURST);
    while left > 0 {
        let mut vectors: Vec<libc::iovec> = buffers
            .iter_mut()
            .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() })
            .collect();
        let mut headers: Vec<libc::mmsghdr> = vectors
            .iter_mut()
            .zip(&mut names)
            .map(|(vector, name)| {
                // SAFETY: all-zero bytes are a valid `mmsghdr`.
                let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
                header.msg_hdr.msg_name = name.as_mut_ptr().cast();
                header.msg_hdr.msg_namelen = name.len() as u32;
                header.msg_hdr.msg_iov = vector;
                header.msg_hdr.msg_iovlen = 1;
                header
            })
            .collect();
        let (fd, messages) = (socket.as_raw_fd(), headers.as_mut_ptr());
        // SAFETY: the headers and what they point to live, and are used by nobody else, during the call.
        let n = unsafe { libc::recvmmsg(fd, messages, BATCH as u32, libc::MSG_WAITFORONE as _, std::ptr::null_mut()) };
        let n = usize::try_from(n).expect("datagrams come");
        for (vector, header) in vectors.iter_mut().zip(&headers).take(n) {
            vector.iov_len = header.msg_len as usize;
        }
        // SAFETY: as above.
        let sent = unsafe { libc::sendmmsg(fd, messages, n as u32, 0) };
        assert_eq!(usize::try_from(sent).expect("loopback has room"), n);
        left -= n;
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec`.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

const CLIENTS: usize = 64;
const BURST: usize = 8;
const BATCH: usize = 32;

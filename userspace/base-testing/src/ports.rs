//! Ports for servers that must be told theirs, or that are to find nobody.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below those the kernel gives to whoever asks for port 0 or connects (`net.ipv4.ip_local_port_range`: 32768 to 60999).
const PORTS: Range<u16> = 11_000..31_000;

/// Names of the ports that are ours. The kernel gives them back when the process ends, however it does.
static OURS: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// A port that nobody listens on, for TCP and for UDP, and that is given to nobody else before this process ends: to no other test, and
/// to no socket that takes any port. It can be bound, left and bound again.
///
/// # Panics
/// When all are taken.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes begin far from each other, so that they seldom look at the same.
    let start = (std::process::id() as u16).wrapping_mul(211);
    (0..PORTS.len())
        .map(|_| {
            let step = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
            PORTS.start + step % (PORTS.end - PORTS.start)
        })
        .find(|&port| reserve(port) && is_free(port))
        .expect("a port is free")
}

/// A name can be bound once, whatever happens to the port it stands for.
fn reserve(port: u16) -> bool {
    let name = SocketAddr::from_abstract_name(format!("weir-test-port-{port}"));
    let Ok(listener) = name.and_then(|name| UnixListener::bind_addr(&name)) else { return false };
    OURS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(listener);
    true
}

/// On every address, of those families that the machine has.
fn is_free(port: u16) -> bool {
    let taken = |bound: io::Result<()>| bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse);
    ["::", "0.0.0.0", "127.0.0.1"].into_iter().all(|address| {
        !taken(TcpListener::bind((address, port)).map(drop)) && !taken(UdpSocket::bind((address, port)).map(drop))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_port_is_given_twice_and_each_can_be_bound() {
        let threads: Vec<_> =
            (0..4).map(|_| std::thread::spawn(|| (0..50).map(|_| free_port()).collect::<Vec<_>>())).collect();
        let ports: Vec<u16> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 200);
        assert!(ports.iter().all(|port| PORTS.contains(port) && is_free(*port)));
        assert!(!reserve(ports[0]), "another process would get it");
    }
}

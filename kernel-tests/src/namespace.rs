//! Network namespaces joined by veth pairs, gone when the value is.
//!
//! Names carry the process and a number, so that tests run side by side and a killed run leaves nothing another trips over.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// A named namespace with `lo` up.
#[derive(Debug)]
pub struct Namespace {
    pub name: String,
}

impl Namespace {
    pub fn new(role: &str) -> Namespace {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = Namespace { name: format!("weirtest-{}-{number}-{role}", std::process::id()) };
        ip(&["netns", "add", &namespace.name]);
        namespace.ip(&["link", "set", "lo", "up"]);
        for (key, value) in [
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
        ] {
            namespace.sysctl(key, value);
        }
        namespace
    }

    /// `ip …` in the namespace.
    pub fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", &self.name], arguments].concat());
    }

    /// Sets a file below /proc/sys, which shows the namespace of who looks.
    pub fn sysctl(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/{key}");
        self.enter(|| std::fs::write(&path, value).unwrap_or_else(|e| panic!("{path}: {e}")));
    }

    /// Runs in the namespace, on a thread of its own.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let handle = scope.spawn(|| {
                enter(&self.name);
                work()
            });
            handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs in the namespace for as long as it takes.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
        let name = self.name.clone();
        thread::spawn(move || {
            enter(&name);
            work()
        })
    }

    /// A veth pair between two namespaces, up, with an address at each end and without offloads that leave checksums unwritten.
    pub fn join(&self, device: &str, addresses: &[IpAddr], other: &Namespace, other_device: &str, others: &[IpAddr]) {
        self.ip(&["link", "add", device, "type", "veth", "peer", "name", other_device, "netns", &other.name]);
        for (namespace, device, addresses) in [(self, device, addresses), (other, other_device, others)] {
            for address in addresses {
                let prefix = if address.is_ipv4() { 24 } else { 64 };
                namespace.ip(&["addr", "add", &format!("{address}/{prefix}"), "dev", device]);
            }
            namespace.ip(&["link", "set", device, "up"]);
            namespace.run("ethtool", &["-K", device, "tx", "off"]);
        }
    }

    /// Lets a veth interface take what XDP at the other end sends back.
    pub fn take_frames(&self, device: &str) {
        self.enter(|| edge_kernel::pass_everything(device).unwrap_or_else(|e| panic!("{e}")));
    }

    /// A program in the namespace.
    pub fn run(&self, program: &str, arguments: &[&str]) {
        let output = Command::new("ip")
            .args(["netns", "exec", &self.name, program])
            .args(arguments)
            .output()
            .unwrap_or_else(|e| panic!("ip netns exec {program}: {e}"));
        assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// A TCP connection from an address and port of the caller's choice.
pub fn connect_from(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let ((from, length), (to, _)) = (raw(from), raw(to));
    // SAFETY: plain calls on a descriptor of our own; the addresses live through them, and their lengths are those of their family.
    unsafe {
        let fd = libc::socket(from.ss_family.into(), libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let stream = TcpStream::from_raw_fd(fd);
        // One port may have a connection to each of several places.
        let on: libc::c_int = 1;
        let size = size_of::<libc::c_int>() as libc::socklen_t;
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, (&raw const on).cast(), size);
        if libc::bind(fd, (&raw const from).cast(), length) < 0 || libc::connect(fd, (&raw const to).cast(), length) < 0
        {
            return Err(io::Error::last_os_error());
        }
        Ok(stream)
    }
}

/// The state of a socket, as the kernel numbers it.
pub fn tcp_state(stream: &TcpStream) -> u32 {
    let mut state = [0u8; 8];
    let mut length = state.len() as libc::socklen_t;
    // SAFETY: as many bytes of `struct tcp_info` as there is room for; the first is the state.
    let result = unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, state.as_mut_ptr().cast(), &mut length)
    };
    assert_eq!(result, 0, "TCP_INFO: {}", io::Error::last_os_error());
    state[0].into()
}

fn raw(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all zeros is a valid address, and the storage has room for one of any family.
    unsafe {
        let mut storage: libc::sockaddr_storage = std::mem::zeroed();
        let length = match address {
            SocketAddr::V4(v4) => {
                let a = &mut *(&raw mut storage).cast::<libc::sockaddr_in>();
                a.sin_family = libc::AF_INET as u16;
                a.sin_port = v4.port().to_be();
                a.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                let a = &mut *(&raw mut storage).cast::<libc::sockaddr_in6>();
                a.sin6_family = libc::AF_INET6 as u16;
                a.sin6_port = v6.port().to_be();
                a.sin6_addr.s6_addr = v6.ip().octets();
                size_of::<libc::sockaddr_in6>()
            }
        };
        (storage, length as libc::socklen_t)
    }
}

fn enter(name: &str) {
    let file = File::open(format!("/run/netns/{name}")).unwrap_or_else(|e| panic!("namespace {name}: {e}"));
    // SAFETY: changes the namespace of this thread only.
    let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "setns {name}: {}", std::io::Error::last_os_error());
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap_or_else(|e| panic!("ip: {e}"));
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

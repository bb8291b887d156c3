//! What a server with tunnel devices does, in user space, for kernels without them: takes the outer header of IP in IP off, and gives what
//! is inside to the stack as if it had come.

use std::collections::BTreeMap;
use std::io;
use std::mem::zeroed;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::namespace::Namespace;

type Heard = Arc<Mutex<BTreeMap<IpAddr, usize>>>;

/// Decapsulates in a namespace until it is dropped.
pub struct Decapsulation {
    stop: Arc<AtomicBool>,
    /// Of packets that were given on: where their tunnels came from, and how long the longest was.
    heard: Heard,
    threads: Vec<JoinHandle<()>>,
}

impl Decapsulation {
    pub fn of(namespace: &Namespace) -> Decapsulation {
        let (stop, all) = (Arc::new(AtomicBool::new(false)), Heard::default());
        let mut threads = Vec::new();
        for outer in [libc::AF_INET, libc::AF_INET6] {
            for (inner, protocol) in [(libc::AF_INET, libc::IPPROTO_IPIP), (libc::AF_INET6, libc::IPPROTO_IPV6)] {
                let (stop, all) = (stop.clone(), all.clone());
                // Open before this returns: what comes from then on is heard.
                let (heard, put) = namespace.enter(|| {
                    let heard = raw(outer, protocol).expect("a raw socket");
                    patience(&heard);
                    (heard, raw(inner, libc::IPPROTO_RAW).expect("a raw socket"))
                });
                threads.push(std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        if let Some((from, length)) = one(&heard, &put, outer == libc::AF_INET) {
                            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                            let longest = all.entry(from).or_default();
                            *longest = length.max(*longest);
                        }
                    }
                }));
            }
        }
        Decapsulation { stop, heard: all, threads }
    }

    /// Where tunnels came from until now, and how many bytes the longest packet in one from there had.
    pub fn heard(&self) -> BTreeMap<IpAddr, usize> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Decapsulation {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// Takes one packet, if one comes: where its tunnel came from, and its length. `with_header`: the socket shows the outer header.
fn one(heard: &OwnedFd, put: &OwnedFd, with_header: bool) -> Option<(IpAddr, usize)> {
    let mut buffer = [0u8; 65_536];
    // SAFETY: all zeros is a valid address.
    let mut sender: libc::sockaddr_in6 = unsafe { zeroed() };
    let mut size = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    // SAFETY: a buffer and an address of our own, of the lengths given; one of IPv4 is shorter.
    let length = unsafe {
        let (buffer_at, length) = (buffer.as_mut_ptr().cast(), buffer.len());
        libc::recvfrom(heard.as_raw_fd(), buffer_at, length, 0, (&raw mut sender).cast(), &raw mut size)
    };
    let length = usize::try_from(length).ok()?;
    let header = if with_header { usize::from(buffer[0] & 0x0f) * 4 } else { 0 };
    let from = if with_header {
        IpAddr::from(<[u8; 4]>::try_from(&buffer[12..16]).expect("four bytes"))
    } else {
        IpAddr::from(sender.sin6_addr.s6_addr)
    };
    let inner = buffer.get(header..length)?;
    let to = match inner.first().map(|first| first >> 4) {
        Some(4) if inner.len() >= 20 => {
            IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(&inner[16..20]).expect("four bytes")))
        }
        Some(6) if inner.len() >= 40 => {
            IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&inner[24..40]).expect("sixteen bytes")))
        }
        _ => return None,
    };
    // SAFETY: plain calls with an address of the family of the socket, which lives through them.
    let put = unsafe {
        let mut storage: libc::sockaddr_storage = zeroed();
        let size = match to {
            IpAddr::V4(ip) => {
                let address = &mut *(&raw mut storage).cast::<libc::sockaddr_in>();
                (address.sin_family, address.sin_addr.s_addr) = (libc::AF_INET as u16, u32::from_ne_bytes(ip.octets()));
                size_of::<libc::sockaddr_in>()
            }
            IpAddr::V6(ip) => {
                let address = &mut *(&raw mut storage).cast::<libc::sockaddr_in6>();
                (address.sin6_family, address.sin6_addr.s6_addr) = (libc::AF_INET6 as u16, ip.octets());
                size_of::<libc::sockaddr_in6>()
            }
        };
        let size = size as libc::socklen_t;
        libc::sendto(put.as_raw_fd(), inner.as_ptr().cast(), inner.len(), 0, (&raw const storage).cast(), size) > 0
    };
    put.then_some((from, inner.len()))
}

fn raw(family: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: numbers only; what comes back is a descriptor nobody else has.
    unsafe {
        let fd = libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// So that a thread that waits sees that it is to stop.
fn patience(socket: &OwnedFd) {
    let wait = libc::timeval { tv_sec: 0, tv_usec: 100_000 };
    let size = size_of::<libc::timeval>() as libc::socklen_t;
    // SAFETY: the value lives through the call and has the length given.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const wait).cast(), size)
    };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}

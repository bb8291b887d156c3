//! The addresses of this machine's interfaces, known without a system call at each question.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};
use std::{io, ptr, thread};

/// How often the kernel is asked.
const REFRESHED: Duration = Duration::from_secs(5);

/// How long an answer is believed when there is no newer one.
const BELIEVED: Duration = Duration::from_secs(60);

/// Which addresses are this machine's. Who does not know takes every address for one: what may not be led here is refused then.
#[derive(Debug, Default)]
pub struct MachineAddresses(RwLock<Option<(Instant, HashSet<IpAddr>)>>);

impl MachineAddresses {
    /// Those of the process's network namespace. The first call asks the kernel, and starts a thread that asks again now and then.
    pub fn shared() -> Arc<MachineAddresses> {
        static SHARED: OnceLock<Arc<MachineAddresses>> = OnceLock::new();
        let start = || {
            let shared = Arc::new(MachineAddresses::default());
            shared.refresh(interfaces());
            let kept = shared.clone();
            // Without a thread nothing is known soon.
            let _ = thread::Builder::new().name("weir-addresses".to_owned()).spawn(move || {
                loop {
                    thread::sleep(REFRESHED);
                    kept.refresh(interfaces());
                }
            });
            shared
        };
        SHARED.get_or_init(start).clone()
    }

    /// Takes note of an answer. A failure leaves the last one, for as long as it is believed.
    pub fn refresh(&self, answer: io::Result<HashSet<IpAddr>>) {
        if let Ok(addresses) = answer {
            *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), addresses));
        }
    }

    /// Whether a connection to `ip` stays on this machine, as far as is known.
    pub fn has(&self, ip: IpAddr) -> bool {
        self.has_at(ip, Instant::now())
    }

    fn has_at(&self, ip: IpAddr, now: Instant) -> bool {
        let ip = ip.to_canonical();
        if ip.is_loopback() || ip.is_unspecified() {
            return true;
        }
        match &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            Some((at, addresses)) if now.saturating_duration_since(*at) < BELIEVED => addresses.contains(&ip),
            _ => true,
        }
    }
}

/// The addresses of all interfaces, as getifaddrs(3) tells them.
fn interfaces() -> io::Result<HashSet<IpAddr>> {
    let mut first: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: on success it writes the head of a list, which is freed below, once.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let (mut found, mut next) = (HashSet::new(), first);
    while !next.is_null() {
        // SAFETY: an entry of the list, which lives until it is freed.
        let entry = unsafe { &*next };
        next = entry.ifa_next;
        if entry.ifa_addr.is_null() {
            continue;
        }
        // SAFETY: an address begins with its family, and has the size that belongs to it.
        let ip = unsafe {
            match i32::from((*entry.ifa_addr).sa_family) {
                libc::AF_INET => {
                    let address = entry.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned();
                    IpAddr::V4(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)))
                }
                libc::AF_INET6 => {
                    let address = entry.ifa_addr.cast::<libc::sockaddr_in6>().read_unaligned();
                    IpAddr::V6(Ipv6Addr::from(address.sin6_addr.s6_addr))
                }
                _ => continue,
            }
        };
        found.insert(ip);
    }
    // SAFETY: the list is ours, and nothing of it is held any more.
    unsafe { libc::freeifaddrs(first) };
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_here() {
        let (one, other) = (IpAddr::from([1, 1, 1, 1]), IpAddr::from([9, 9, 9, 9]));
        let machine = MachineAddresses::default();
        assert!(machine.has(one), "nobody was asked");
        machine.refresh(Err(io::Error::from_raw_os_error(libc::EMFILE)));
        assert!(machine.has(one), "nobody has answered");
        machine.refresh(Ok(HashSet::from([one])));
        machine.refresh(Err(io::Error::from_raw_os_error(libc::EMFILE)));
        assert!(machine.has(one) && !machine.has(other), "the last answer holds");
        assert!(machine.has("::ffff:1.1.1.1".parse().unwrap()));
        assert!(machine.has("127.9.9.9".parse().unwrap()) && machine.has("::".parse().unwrap()));
        assert!(machine.has_at(other, Instant::now() + BELIEVED), "for a while");
    }

    #[test]
    fn the_kernel_names_the_addresses_that_it_binds() {
        let found = interfaces().unwrap();
        assert!(found.contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)));
        for ip in found.into_iter().filter(IpAddr::is_ipv4) {
            std::net::UdpSocket::bind((ip, 0)).unwrap_or_else(|error| panic!("{ip}: {error}"));
        }
    }
}

//! Packets for backends that do not fit one tunnel, and whose senders cannot be told so: fragments as large as the network takes, and
//! IPv4 packets that routers may take apart. A program in the kernel makes no two frames of one. So it gives them to the daemon, which sends
//! each in a tunnel that the kernel's own IP takes apart (RFC 2003 section 3.1, RFC 2473 section 7.2); the server puts it together.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::mem::{size_of, zeroed};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use abi::Part;

use crate::raw;

/// What became of them, since the process began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LongPackets {
    /// On their way in several tunnels.
    pub sent: u64,
    /// They came faster than they are sent.
    pub refused: u64,
    /// The kernel did not take them: it has no route, or no leave was given (CAP_NET_RAW).
    pub failed: u64,
}

#[derive(Default)]
pub(crate) struct Counts {
    sent: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

impl Counts {
    pub(crate) fn read(&self) -> LongPackets {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        LongPackets { sent: of(&self.sent), refused: of(&self.refused), failed: of(&self.failed) }
    }
}

pub(crate) struct Long {
    counts: Arc<Counts>,
    /// By whether the tunnel is of IPv4, and the protocol it carries.
    sockets: BTreeMap<(bool, u8), OwnedFd>,
    begun: Instant,
    /// When there is room for a whole burst, after `begun`.
    due: Duration,
}

impl Long {
    pub(crate) fn new(counts: Arc<Counts>) -> Long {
        Long { counts, sockets: BTreeMap::new(), begun: Instant::now(), due: Duration::ZERO }
    }

    /// Sends what the kernel's programs have left. `frame`: as they had it.
    pub(crate) fn take(&mut self, part: &Part, frame: &[u8]) {
        let (at, length) = (part.at as usize, part.length as usize);
        let Some(packet) = frame.get(at..at + length) else { return };
        let count = if !self.has_room(self.begun.elapsed()) {
            &self.counts.refused
        } else if self.send(part, packet).is_ok() {
            &self.counts.sent
        } else {
            &self.counts.failed
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn has_room(&mut self, now: Duration) -> bool {
        let due = self.due.max(now) + EACH;
        if due > now + EACH * BURST {
            return false;
        }
        self.due = due;
        true
    }

    fn send(&mut self, part: &Part, packet: &[u8]) -> io::Result<()> {
        let (to, from) = (part.key.destination.ip(), part.key.source.ip());
        let key = (to.is_ipv4(), part.key.protocol as u8);
        let socket = match self.sockets.entry(key) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(place) => place.insert(open(key)?),
        };
        send_from(socket, from, to, part.class as u8, packet)
    }
}

/// A socket that hears nothing, sends from whatever address it is told, and lets the kernel take packets apart.
fn open((v4, protocol): (bool, u8)) -> io::Result<OwnedFd> {
    let socket = raw::socket(if v4 { libc::AF_INET } else { libc::AF_INET6 }, libc::SOCK_RAW, protocol.into())?;
    raw::deafen(&socket)?;
    raw::be_anybody(&socket, v4)?;
    let (level, name, never) = if v4 {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)
    };
    raw::option(&socket, level, name, &never)?;
    Ok(socket)
}

/// With DSCP and ECN of the packet.
fn send_from(socket: &OwnedFd, from: IpAddr, to: IpAddr, class: u8, packet: &[u8]) -> io::Result<()> {
    let (mut address, length) = raw::address(to);
    let mut data = libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() };
    let mut control = [0u64; 16];
    // SAFETY: all zeros is a message without anything.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_name = (&raw mut address).cast();
    message.msg_namelen = length;
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    let class = i32::from(class);
    let mut used = 0;
    // SAFETY: `control` is aligned and has room for both heads with what they say; the macros stay inside what `msg_controllen` says.
    unsafe {
        let mut head = libc::CMSG_FIRSTHDR(&raw const message);
        let mut put = |level: i32, kind: i32, bytes: *const u8, length: usize| {
            (*head).cmsg_level = level;
            (*head).cmsg_type = kind;
            (*head).cmsg_len = libc::CMSG_LEN(length as u32) as _;
            std::ptr::copy_nonoverlapping(bytes, libc::CMSG_DATA(head), length);
            used += libc::CMSG_SPACE(length as u32) as usize;
            head = libc::CMSG_NXTHDR(&raw const message, head);
        };
        match from {
            IpAddr::V4(from) => {
                let mut info: libc::in_pktinfo = zeroed();
                info.ipi_spec_dst.s_addr = u32::from_ne_bytes(from.octets());
                put(libc::IPPROTO_IP, libc::IP_PKTINFO, (&raw const info).cast(), size_of::<libc::in_pktinfo>());
                put(libc::IPPROTO_IP, libc::IP_TOS, (&raw const class).cast(), size_of::<i32>());
            }
            IpAddr::V6(from) => {
                let mut info: libc::in6_pktinfo = zeroed();
                info.ipi6_addr.s6_addr = from.octets();
                put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, (&raw const info).cast(), size_of::<libc::in6_pktinfo>());
                put(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, (&raw const class).cast(), size_of::<i32>());
            }
        }
    }
    message.msg_controllen = used;
    // SAFETY: everything the message points at lives through the call.
    let sent =
        unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// So many a second, and at once, whoever sends them: a tenth of a CPU. Datagrams of 3 KB at 240 Mbit/s.
const EACH: Duration = Duration::from_micros(50);
const BURST: u32 = 2_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_sent_at_a_bounded_rate() {
        let mut long = Long::new(Arc::default());
        let mut sent = |now: Duration| (0..10_000).filter(|_| long.has_room(now)).count() as u32;
        assert_eq!(sent(Duration::from_secs(1)), BURST);
        assert_eq!(sent(Duration::from_millis(1_005)), 100);
        assert_eq!(sent(Duration::from_secs(60)), BURST, "it does not grow");
    }

    #[test]
    fn what_is_said_of_a_frame_and_is_not_in_it_is_passed_over() {
        let mut long = Long::new(Arc::default());
        let part = Part { at: 14, length: 100, ..Part::default() };
        long.take(&part, &[0; 113]);
        assert_eq!(long.counts.read(), LongPackets::default());
    }
}

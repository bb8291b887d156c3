//! Sockets of listeners: found by `sk_lookup` through any VIP, shared out to workers by `sk_reuseport`.

use std::io;
use std::mem::{size_of, zeroed};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use abi::gue::{OVERHEAD_V4, OVERHEAD_V6};
use abi::limits::{CPUS_MAX, LISTENER_RANGES_MAX, SOCKETS_MAX};
use abi::{Address, GroupKey, GroupValue, ListenerKey, ListenerRange, ListenerRanges};

use crate::interface;
use crate::kernel::{Hook, Kernel};
use crate::steering::Protocol;
use crate::{KernelError, sys};

/// A registered listener.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ListenerId(u32);

pub(crate) struct Sockets {
    listeners: OwnedFd,
    ranges: OwnedFd,
    sockets: OwnedFd,
    groups: OwnedFd,
    registered: Vec<Registered>,
    next: u32,
}

impl Sockets {
    /// Whether packets of virtual IPs for this port have a listener.
    pub(crate) fn has(&self, key: &ListenerKey) -> std::io::Result<bool> {
        if sys::map_lookup::<ListenerKey, u32>(self.listeners.as_fd(), key)?.is_some() {
            return Ok(true);
        }
        let ranges: Option<ListenerRanges> = sys::map_lookup(self.ranges.as_fd(), &0u32)?;
        let serves = |range: &abi::ListenerRange| {
            (range.protocol, range.v6) == (key.protocol, key.v6)
                && (range.port_first..=range.port_last).contains(&key.port)
        };
        Ok(ranges.is_some_and(|ranges| ranges.ranges.iter().take(ranges.count as usize).any(serves)))
    }
}

struct Registered {
    id: ListenerId,
    ports: RangeInclusive<u16>,
    protocol: u8,
    families: Vec<u8>,
    /// Where its sockets lie.
    place: GroupValue,
    group: GroupKey,
}

impl Kernel {
    /// Gives packets for any VIP on these ports to a listener. `sockets` are the sockets of its reuseport group, listening (TCP)
    /// or bound (UDP), in the order of the workers; a worker that has none is skipped by giving fewer. The kernel keeps no
    /// hold on them: closing a socket takes it out. Registering the same ports again replaces the sockets, between two packets.
    pub fn register_listener(
        &mut self,
        ports: RangeInclusive<u16>,
        protocol: Protocol,
        sockets: &[RawFd],
    ) -> Result<ListenerId, KernelError> {
        let program = self.program(Hook::SkReuseport).map(|program| program.try_clone_to_owned()).transpose();
        let program = program.map_err(|e| KernelError::system("cannot copy a descriptor", e))?;
        let id = self.sockets.register(ports, protocol, sockets, program.as_ref().map(AsFd::as_fd))?;
        if protocol == Protocol::Tcp {
            for &socket in sockets {
                limit_segments(socket, self.segment_max(socket)?)
                    .map_err(|e| KernelError::system("cannot limit the segments of a listener (TCP_MAXSEG)", e))?;
            }
        }
        Ok(id)
    }

    /// Largest segment that still fits the interfaces once another machine has put a tunnel around it.
    fn segment_max(&self, socket: RawFd) -> Result<u32, KernelError> {
        let bound = Bound::of(socket).map_err(|e| KernelError::system("cannot ask where a socket is bound", e))?;
        let ip = if bound.families().contains(&1) { 40 } else { 20 };
        let tunnel = if self.settings.own_v6.is_unspecified() { OVERHEAD_V4 } else { OVERHEAD_V6 };
        Ok(self.settings.mtu.saturating_sub(tunnel as u32 + ip + TCP_HEADER).max(SEGMENT_LEAST))
    }

    /// The VIPs' packets no longer find this listener; connections it has stay.
    pub fn unregister_listener(&mut self, id: ListenerId) -> Result<(), KernelError> {
        self.sockets.unregister(id)
    }

    /// Which CPU each worker runs on, in the order of the workers. CPUs of nobody share their connections among all; so do all when
    /// packets arrive on fewer CPUs than there are workers, or some would have nothing to do. Says whether connections go by CPU.
    pub fn set_worker_cpus(&mut self, cpus: &[u32]) -> Result<bool, KernelError> {
        if let Some(cpu) = cpus.iter().find(|&&cpu| cpu >= CPUS_MAX) {
            return Err(KernelError::Invalid(format!("CPU {cpu}: only CPUs below {CPUS_MAX} can have a worker")));
        }
        let by_cpu = receives_on(&self.options.interfaces).is_none_or(|receiving| receiving as usize >= cpus.len());
        let cpus = if by_cpu { cpus } else { &[] };
        for cpu in 0..self.worker_of_cpu.len() {
            let worker = cpus.iter().position(|&c| c as usize == cpu).map_or(0, |worker| worker as u64 + 1);
            if self.worker_of_cpu.read(cpu) != worker {
                self.worker_of_cpu.write(cpu, worker);
            }
        }
        Ok(by_cpu)
    }
}

/// How many CPUs packets of the interfaces arrive on, at most; none where no driver says.
pub(crate) fn receives_on(interfaces: &[String]) -> Option<u32> {
    let cpus = |name: &String| Some(interface::receive_queues(name)?.max(interface::packet_steering_cpus(name)));
    interfaces.iter().filter_map(cpus).reduce(|a, b| a + b)
}

/// Has clients told, with the answer to their SYN, to send no larger segments: those that hear no ICMP would otherwise send packets
/// for ever that do not fit a tunnel. Connections inherit it from the listener.
fn limit_segments(socket: RawFd, bytes: u32) -> io::Result<()> {
    let value = bytes as libc::c_int;
    // SAFETY: the value lives through the call and has the length that is given.
    let result = unsafe {
        libc::setsockopt(
            socket,
            libc::IPPROTO_TCP,
            libc::TCP_MAXSEG,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const TCP_HEADER: u32 = 20;
/// The least the kernel accepts is 88; no path is as narrow as to need less than RFC 9293's default.
const SEGMENT_LEAST: u32 = 536;

impl Sockets {
    pub(crate) fn open(
        listeners: OwnedFd,
        ranges: OwnedFd,
        sockets: OwnedFd,
        groups: OwnedFd,
    ) -> Result<Sockets, KernelError> {
        Ok(Sockets { listeners, ranges, sockets, groups, registered: Vec::new(), next: 1 })
    }

    fn register(
        &mut self,
        ports: RangeInclusive<u16>,
        protocol: Protocol,
        sockets: &[RawFd],
        program: Option<BorrowedFd<'_>>,
    ) -> Result<ListenerId, KernelError> {
        let name =
            format!("listener on {} {}", describe(&ports), if protocol == Protocol::Tcp { "TCP" } else { "UDP" });
        let Some(&first) = sockets.first() else {
            return Err(KernelError::Invalid(format!("{name}: no sockets were given; one per worker is expected")));
        };
        if ports.is_empty() {
            return Err(KernelError::Invalid(format!("{name}: the first port is above the last")));
        }
        let failed = |what: &str, e: io::Error| KernelError::system(format!("{name}: {what}"), e);
        let bound = Bound::of(first).map_err(|e| failed("cannot ask where its socket is bound", e))?;
        let group = GroupKey { address: bound.address, port: bound.port, protocol: protocol.number(), reserved: 0 };
        let families = bound.families();

        let known = self
            .registered
            .iter()
            .position(|r| r.ports == ports && r.protocol == protocol.number() && r.families == families);
        let place = self.place(&name, sockets.len() as u32)?;
        for (worker, &socket) in sockets.iter().enumerate() {
            sys::map_update(self.sockets.as_fd(), &(place.first + worker as u32), &(socket as u64))
                .map_err(|e| failed("cannot enter its socket; a TCP socket must listen, a UDP socket be bound", e))?;
        }
        // The workers first: once the listener is found, its group must already be shared out.
        if bound.reuseport {
            sys::map_update(self.groups.as_fd(), &group, &place).map_err(|e| failed("cannot enter its workers", e))?;
            if let Some(program) = program {
                attach_reuseport(first, program).map_err(|e| failed("cannot attach sk_reuseport", e))?;
            }
        }
        let socket = place.first;
        if ports.start() == ports.end() {
            for &v6 in &families {
                let key = ListenerKey { port: *ports.start(), protocol: protocol.number(), v6 };
                sys::map_update(self.listeners.as_fd(), &key, &socket)
                    .map_err(|e| failed("cannot enter its port", e))?;
            }
        } else {
            let mut ranges = self.read_ranges()?;
            ranges.retain(|r| {
                (r.port_first, r.port_last, r.protocol) != (*ports.start(), *ports.end(), protocol.number())
                    || !families.contains(&r.v6)
            });
            for &v6 in &families {
                ranges.push(ListenerRange {
                    port_first: *ports.start(),
                    port_last: *ports.end(),
                    protocol: protocol.number(),
                    v6,
                    reserved: [0; 2],
                    socket,
                });
            }
            self.write_ranges(&name, ranges)?;
        }

        if let Some(at) = known {
            let old = self.registered.remove(at);
            self.release(&old)?;
        }
        let id = ListenerId(self.next);
        self.next += 1;
        self.registered.push(Registered { id, ports, protocol: protocol.number(), families, place, group });
        Ok(id)
    }

    fn unregister(&mut self, id: ListenerId) -> Result<(), KernelError> {
        let Some(at) = self.registered.iter().position(|r| r.id == id) else { return Ok(()) };
        let gone = self.registered.remove(at);
        let failed = |e| KernelError::system("cannot take a listener out", e);
        if gone.ports.start() == gone.ports.end() {
            for &v6 in &gone.families {
                let key = ListenerKey { port: *gone.ports.start(), protocol: gone.protocol, v6 };
                sys::map_delete(self.listeners.as_fd(), &key).map_err(failed)?;
            }
        } else {
            let mut ranges = self.read_ranges()?;
            ranges.retain(|r| r.socket != gone.place.first);
            self.write_ranges("listener", ranges)?;
        }
        self.release(&gone)
    }

    /// Takes the sockets of a listener out, and its group if nobody else registered it.
    fn release(&mut self, gone: &Registered) -> Result<(), KernelError> {
        let failed = |e| KernelError::system("cannot take the sockets of a listener out", e);
        for socket in gone.place.first..gone.place.first + gone.place.count {
            match sys::map_delete(self.sockets.as_fd(), &socket) {
                Ok(_) => {}
                // Closed before.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
                Err(e) => return Err(failed(e)),
            }
        }
        let current: Option<GroupValue> = sys::map_lookup(self.groups.as_fd(), &gone.group).map_err(failed)?;
        if current == Some(gone.place) {
            sys::map_delete(self.groups.as_fd(), &gone.group).map_err(failed)?;
        }
        Ok(())
    }

    /// A free stretch of SOCKETS. Taken are those of our listeners, and those an earlier process may still serve.
    fn place(&self, name: &str, count: u32) -> Result<GroupValue, KernelError> {
        let failed = |e| KernelError::system("cannot read the listeners", e);
        let mut used: Vec<GroupValue> = self.registered.iter().map(|r| r.place).collect();
        for key in sys::map_keys::<GroupKey>(self.groups.as_fd()).map_err(failed)? {
            used.extend(sys::map_lookup::<_, GroupValue>(self.groups.as_fd(), &key).map_err(failed)?);
        }
        let single = |first| GroupValue { first, count: 1 };
        for key in sys::map_keys::<ListenerKey>(self.listeners.as_fd()).map_err(failed)? {
            used.extend(sys::map_lookup::<_, u32>(self.listeners.as_fd(), &key).map_err(failed)?.map(single));
        }
        used.extend(self.read_ranges()?.iter().map(|range| single(range.socket)));
        used.sort_by_key(|g| g.first);
        let mut first = 0;
        for group in used {
            if group.first >= first + count {
                break;
            }
            first = first.max(group.first + group.count);
        }
        if first + count > SOCKETS_MAX {
            return Err(KernelError::Invalid(format!(
                "{name}: no room for {count} sockets; all listeners together may have {SOCKETS_MAX}"
            )));
        }
        Ok(GroupValue { first, count })
    }

    fn read_ranges(&self) -> Result<Vec<ListenerRange>, KernelError> {
        let value: Option<ListenerRanges> = sys::map_lookup(self.ranges.as_fd(), &0u32)
            .map_err(|e| KernelError::system("cannot read the ranges of listeners", e))?;
        Ok(value.map_or_else(Vec::new, |v| v.ranges[..v.count as usize].to_vec()))
    }

    fn write_ranges(&self, name: &str, mut ranges: Vec<ListenerRange>) -> Result<(), KernelError> {
        if ranges.len() > LISTENER_RANGES_MAX {
            return Err(KernelError::Invalid(format!(
                "{name}: at most {LISTENER_RANGES_MAX} listeners may serve ranges of ports, counted for each family"
            )));
        }
        ranges.sort_by_key(|r| r.port_last - r.port_first);
        let mut value =
            ListenerRanges { ranges: [ListenerRange::default(); LISTENER_RANGES_MAX], count: ranges.len() as u32 };
        value.ranges[..ranges.len()].copy_from_slice(&ranges);
        sys::map_update(self.ranges.as_fd(), &0u32, &value)
            .map_err(|e| KernelError::system("cannot write the ranges of listeners", e))
    }
}

/// Where a socket is bound.
struct Bound {
    address: Address,
    port: u16,
    v6: bool,
    v6_only: bool,
    reuseport: bool,
}

impl Bound {
    fn of(socket: RawFd) -> io::Result<Bound> {
        // SAFETY: all zeros is a valid sockaddr_storage, which has room for every family; the length says how much is there.
        let storage = unsafe {
            let mut storage: libc::sockaddr_storage = zeroed();
            let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            if libc::getsockname(socket, (&raw mut storage).cast(), &mut length) < 0 {
                return Err(io::Error::last_os_error());
            }
            storage
        };
        let reuseport = option(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT)? != 0;
        match storage.ss_family as libc::c_int {
            libc::AF_INET => {
                // SAFETY: the family says what it is.
                let a = unsafe { (&raw const storage).cast::<libc::sockaddr_in>().read() };
                let address = Address::from_v4_raw(a.sin_addr.s_addr);
                Ok(Bound { address, port: u16::from_be(a.sin_port), v6: false, v6_only: false, reuseport })
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let a = unsafe { (&raw const storage).cast::<libc::sockaddr_in6>().read() };
                let address = std::net::Ipv6Addr::from(a.sin6_addr.s6_addr).into();
                let v6_only = option(socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)? != 0;
                Ok(Bound { address, port: u16::from_be(a.sin6_port), v6: true, v6_only, reuseport })
            }
            _ => Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
        }
    }

    /// Families of packets it can be given, as [`ListenerKey::v6`].
    fn families(&self) -> Vec<u8> {
        match (self.v6, self.v6_only) {
            (false, _) => vec![0],
            (true, true) => vec![1],
            (true, false) => vec![0, 1],
        }
    }
}

fn option(socket: RawFd, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: value and length live through the call.
    if unsafe { libc::getsockopt(socket, level, name, (&raw mut value).cast(), &mut length) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(value)
}

fn attach_reuseport(socket: RawFd, program: BorrowedFd<'_>) -> io::Result<()> {
    let program = program.as_raw_fd();
    // SAFETY: the descriptor lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_EBPF,
            (&raw const program).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn describe(ports: &RangeInclusive<u16>) -> String {
    if ports.start() == ports.end() {
        format!("port {}", ports.start())
    } else {
        format!("ports {}-{}", ports.start(), ports.end())
    }
}

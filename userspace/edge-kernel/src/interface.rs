//! What there is to know about an interface before a program is attached to it.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::zeroed;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use base_text::quoted;

use crate::KernelError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub name: String,
    pub index: u32,
    pub mtu: u32,
}

impl Interface {
    pub(crate) fn find(name: &str) -> Result<Interface, KernelError> {
        let text = CString::new(name)
            .ok()
            .filter(|n| !n.is_empty() && n.as_bytes().len() < libc::IFNAMSIZ)
            .ok_or_else(|| {
                KernelError::Invalid(format!(
                    "--interface {name}: not the name of an interface; a name has 1 to 15 characters, see `ip link`",
                    name = quoted(&name)
                ))
            })?;
        // SAFETY: a C string that lives through the call.
        let index = unsafe { libc::if_nametoindex(text.as_ptr()) };
        if index == 0 {
            let there = names().join(", ");
            return Err(KernelError::Invalid(format!(
                "--interface {name}: there is no such interface; there are: {there}"
            )));
        }
        let socket = socket().map_err(|e| KernelError::system(format!("cannot ask about {name}"), e))?;
        // SAFETY: all zeros is a valid ifreq.
        let mut request: libc::ifreq = unsafe { zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(text.as_bytes()) {
            *to = *from as libc::c_char;
        }
        // SAFETY: the request lives through the calls; the kernel fills the member that is read after each.
        let (flags, mtu) = unsafe {
            if libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &mut request) < 0 {
                return Err(KernelError::system(format!("cannot ask about {name}"), io::Error::last_os_error()));
            }
            let flags = request.ifr_ifru.ifru_flags as libc::c_int;
            if libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU as _, &mut request) < 0 {
                return Err(KernelError::system(format!("cannot ask about {name}"), io::Error::last_os_error()));
            }
            (flags, request.ifr_ifru.ifru_mtu as u32)
        };
        if flags & libc::IFF_LOOPBACK != 0 {
            return Err(KernelError::Invalid(format!(
                "--interface {name}: a loopback interface brings no packets from elsewhere; name the interface clients and \
                 other edges are reached by, or leave --interface out to run without L4"
            )));
        }
        if flags & libc::IFF_UP == 0 {
            return Err(KernelError::Invalid(format!(
                "--interface {name}: the interface is down; bring it up with `ip link set {name} up`"
            )));
        }
        Ok(Interface { name: name.to_owned(), index, mtu })
    }

    /// The first global address of each family, to be found at when nobody says otherwise.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let mut found: Vec<IpAddr> = Vec::new();
        each_address(|name, address| {
            let known = found.iter().any(|f| f.is_ipv4() == address.is_ipv4());
            let global = match address {
                IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_loopback(),
                IpAddr::V6(v6) => !v6.is_unicast_link_local() && !v6.is_loopback(),
            };
            if name == self.name && global && !known {
                found.push(address);
            }
        });
        found
    }
}

/// Queues that packets of an interface arrive in; each is looked after by one CPU. None where the driver does not say.
pub(crate) fn receive_queues(name: &str) -> Option<u32> {
    /// `struct ethtool_channels`: the most there can be of rx, tx, other and combined, then how many there are.
    #[repr(C)]
    struct Channels {
        command: u32,
        most: [u32; 4],
        rx: u32,
        tx: u32,
        other: u32,
        combined: u32,
    }
    const ETHTOOL_GCHANNELS: u32 = 0x3c;
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, most: [0; 4], rx: 0, tx: 0, other: 0, combined: 0 };
    // SAFETY: the structure of its command.
    unsafe { ethtool(name, (&raw mut channels).cast()) }.ok()?;
    Some(channels.rx + channels.combined).filter(|queues| *queues > 0)
}

/// Has the driver answer into what `question` points to.
///
/// # Safety
/// It points to a whole structure of the command that it begins with, with room for the answer, and lives through the call.
pub(crate) unsafe fn ethtool(name: &str, question: *mut libc::c_char) -> io::Result<()> {
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    let socket = socket()?;
    // SAFETY: all zeros is a valid ifreq; it and, as the caller says, what it points to live through the call.
    unsafe {
        let mut request: libc::ifreq = zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = question;
        if libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &mut request) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Its address on an Ethernet.
pub(crate) fn mac(name: &str) -> io::Result<[u8; 6]> {
    let socket = socket()?;
    // SAFETY: all zeros is a valid ifreq; it lives through the call, which fills the member that is read.
    let address = unsafe {
        let mut request: libc::ifreq = zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
            *to = from as libc::c_char;
        }
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR as _, &mut request) < 0 {
            return Err(io::Error::last_os_error());
        }
        request.ifr_ifru.ifru_hwaddr
    };
    if address.sa_family != libc::ARPHRD_ETHER {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    let [a, b, c, d, e, f, ..] = address.sa_data.map(|byte| byte as u8);
    Ok([a, b, c, d, e, f])
}

/// CPUs that packets of the interface are handed to beside those of its queues (receive packet steering).
pub(crate) fn packet_steering_cpus(name: &str) -> u32 {
    let queues = std::fs::read_dir(format!("/sys/class/net/{name}/queues")).into_iter().flatten().flatten();
    let masks = queues.filter_map(|queue| std::fs::read_to_string(queue.path().join("rps_cpus")).ok());
    masks.map(|mask| mask.chars().filter_map(|c| c.to_digit(16)).map(u32::count_ones).sum()).max().unwrap_or(0)
}

fn names() -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    // SAFETY: the list the kernel gives ends with an index of zero and is freed once.
    unsafe {
        let list = libc::if_nameindex();
        if list.is_null() {
            return names;
        }
        let mut at = list;
        while (*at).if_index != 0 {
            names.push(CStr::from_ptr((*at).if_name).to_string_lossy().into_owned());
            at = at.add(1);
        }
        libc::if_freenameindex(list);
    }
    names
}

pub(crate) fn each_address(mut visit: impl FnMut(&str, IpAddr)) {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the list is walked to its end and freed once; each address is read by the type its family names.
    unsafe {
        if libc::getifaddrs(&mut list) != 0 {
            return;
        }
        let mut at = list;
        while !at.is_null() {
            let entry = &*at;
            if !entry.ifa_addr.is_null() {
                let name = CStr::from_ptr(entry.ifa_name).to_string_lossy();
                match (*entry.ifa_addr).sa_family as libc::c_int {
                    libc::AF_INET => {
                        let a = entry.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned();
                        visit(&name, IpAddr::V4(Ipv4Addr::from(a.sin_addr.s_addr.to_ne_bytes())));
                    }
                    libc::AF_INET6 => {
                        let a = entry.ifa_addr.cast::<libc::sockaddr_in6>().read_unaligned();
                        visit(&name, IpAddr::V6(Ipv6Addr::from(a.sin6_addr.s6_addr)));
                    }
                    _ => {}
                }
            }
            at = entry.ifa_next;
        }
        libc::freeifaddrs(list);
    }
}

fn socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the descriptor is ours.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

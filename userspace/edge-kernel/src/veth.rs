//! What the far end of a veth pair needs in a fleet of network namespaces.

use std::os::fd::AsRawFd;

use crate::interface::Interface;
use crate::netlink::{Netlink, attribute};
use crate::{KernelError, sys};

/// Attaches a program that passes every packet, in driver mode, until the interface is deleted. A veth interface takes the
/// frames that XDP sends back at the other end of the pair only while it has an XDP program itself: without one they wait in a
/// ring that nobody is woken for (Linux 6.18, with GRO on as well as off).
pub fn pass_everything(interface: &str) -> Result<(), KernelError> {
    let failed = |e| KernelError::system(format!("cannot attach a passing XDP program to {interface}"), e);
    let index = Interface::find(interface)?.index;
    let program = sys::load_passing_xdp().map_err(failed)?;
    // A link would go with this process; what rtnetlink attaches stays.
    let mut body = vec![0u8; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut nested = Vec::new();
    attribute(&mut nested, IFLA_XDP_FD, &program.as_raw_fd().to_ne_bytes());
    attribute(&mut nested, IFLA_XDP_FLAGS, &sys::XDP_DRIVER.to_ne_bytes());
    attribute(&mut body, IFLA_XDP | NLA_F_NESTED, &nested);
    Netlink::open().and_then(|mut netlink| netlink.change(RTM_SETLINK, 0, &body)).map_err(failed)
}

const RTM_SETLINK: u16 = 19;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_FD: u16 = 1;
const IFLA_XDP_FLAGS: u16 = 3;
const NLA_F_NESTED: u16 = 1 << 15;

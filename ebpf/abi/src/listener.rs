//! From a VIP's port to a listener's socket (`sk_lookup`), and from a CPU to a worker's socket (`sk_reuseport`).

use crate::{Address, limits::LISTENER_RANGES_MAX};

/// Key of the map LISTENERS; its value is an index of SOCKETS.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ListenerKey {
    /// Host order.
    pub port: u16,
    /// 6 or 17.
    pub protocol: u8,
    /// 1 for packets over IPv6, 0 over IPv4: a socket of one family cannot be given packets of the other, unless it is an IPv6
    /// socket open to both, which is registered twice.
    pub v6: u8,
}

/// The only element of LISTENER_RANGES.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListenerRanges {
    pub ranges: [ListenerRange; LISTENER_RANGES_MAX],
    pub count: u32,
}

/// A listener on several ports.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ListenerRange {
    pub port_first: u16,
    pub port_last: u16,
    pub protocol: u8,
    /// As in [`ListenerKey`].
    pub v6: u8,
    pub reserved: [u8; 2],
    /// Index of SOCKETS.
    pub socket: u32,
}

/// Key of the map GROUPS: the address and port a reuseport group is bound to.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GroupKey {
    pub address: Address,
    pub port: u16,
    pub protocol: u8,
    pub reserved: u8,
}

/// Value of GROUPS: where the group's sockets lie in SOCKETS, in the order of the workers.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GroupValue {
    pub first: u32,
    pub count: u32,
}

const _: () = assert!(size_of::<ListenerKey>() == 4);
const _: () = assert!(size_of::<ListenerRange>() == 12);
const _: () = assert!(size_of::<ListenerRanges>() == LISTENER_RANGES_MAX * 12 + 4);
const _: () = assert!(size_of::<GroupKey>() == 20);
const _: () = assert!(size_of::<GroupValue>() == 8);

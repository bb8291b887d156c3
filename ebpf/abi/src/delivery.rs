//! What `xdp_backend` and `xdp_fragment` leave to `xdp_deliver`: packets for servers that do not run Weir.

use crate::{Counts, Part};

/// A packet, and all that chooses its backend: the element of DELIVERY.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// The packet; its key has the ends of its flow, which of an ICMP error are not its own.
    pub part: Part,
    pub counts: Counts,
    /// Source and destination of the flow.
    pub source_port: u16,
    pub destination_port: u16,
    /// Whom it is counted for, and the table of its slots.
    pub vip: u16,
    pub table: u16,
    /// What it is: a number of [`Delivery::OPENS`] and the others, and bits of [`Delivery::PART`] and the next.
    pub what: u32,
    /// The backend, where that is known already; 0: it is to be chosen.
    pub to: u32,
}

impl Delivery {
    /// It may open something.
    pub const OPENS: u32 = 0;
    /// It is an ICMP error about what a backend has sent.
    pub const ERROR: u32 = 3;
    /// The bits of these numbers.
    pub const KIND: u32 = 7;
    /// It is a part of something, and the first part: where it goes is to be remembered for the others.
    pub const PART: u32 = 8;
    pub const FIRST: u32 = 16;

    /// Said of where a first fragment went, in [`crate::FragmentWay::packed`]: to a backend.
    pub const BARE: u32 = 0x100;
}

/// Value of FLOWS: who has a connection, and of which virtual IP that is, because numbers of backends become others'.
#[inline(always)]
pub const fn remembered(vip: u16, backend: u16) -> u32 {
    (vip as u32) << 16 | backend as u32
}

const _: () = assert!(size_of::<Delivery>() == 128);

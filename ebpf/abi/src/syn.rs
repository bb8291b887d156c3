//! What `xdp_steer` leaves to `xdp_syn`.

/// A packet of a TCP connection that comes while more begin than their virtual IP takes without SYN cookies: the element of SYN.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Syn {
    /// The [`crate::Switch`] that was read.
    pub switch: u32,
    /// Bytes of the frame as it arrived.
    pub arrived: u32,
    pub vip: u16,
    /// Tunnels behind it.
    pub hops: u8,
    /// The [`crate::Reason`] for which it stays, unless it is answered.
    pub reason: u8,
}

const _: () = assert!(size_of::<Syn>() == 12);

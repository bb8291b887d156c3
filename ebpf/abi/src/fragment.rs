//! Where the parts of a datagram go: all to who got the first, the only one with ports.

use crate::Address;

/// Key of FRAGMENTS: what all fragments of a datagram have in common (RFC 791 section 3.2, RFC 8200 section 4.5).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FragmentKey {
    pub source: Address,
    pub destination: Address,
    /// The identification as it lies on the wire; of IPv4 its 16 bits.
    pub id: u32,
    /// 6 or 17.
    pub protocol: u32,
}

/// Value of FRAGMENTS: where this machine sent the first fragment.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FragmentWay {
    /// When that was, by CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// To which machine; 0: it stayed.
    pub machine: u32,
    /// What the tunnel said, as [`crate::gue::pack`] has it.
    pub packed: u32,
}

/// What `xdp_steer` has found out about a fragment when it leaves it to `xdp_fragment`, or about a packet for backends when it leaves that
/// to `xdp_backend`: the element of PART.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Part {
    pub key: FragmentKey,
    /// The [`crate::Switch`] as it was read.
    pub switch: u32,
    /// Bytes of the frame as it arrived.
    pub arrived: u32,
    /// Machines that were asked: a [`crate::gue::Asked`].
    pub asked: u64,
    /// What the tunnel behind it says, as [`crate::gue::pack`] has it.
    pub packed: u32,
    /// Where the packet begins, and what comes after its IP headers.
    pub at: u32,
    pub transport: u32,
    /// Bytes of the packet.
    pub length: u32,
    pub class: u32,
    /// 1: it is not the first; [`Part::WHOLE`]: it is for backends, and nothing behind its IP header has been read.
    pub later: u32,
}

impl Part {
    pub const WHOLE: u32 = 2;
    /// Of what the daemon gets: it is for a backend, does not fit one tunnel, and may travel in several. The addresses of its key are
    /// those of the tunnel, and the protocol is what a tunnel carries.
    pub const LONG: u32 = 4;
}

/// What the daemon gets of a fragment that came too early, or of a packet that is too long ([`Part::LONG`]), in front of its frame: see
/// HELD.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HeldFragment {
    pub part: Part,
    /// Bytes of the frame; behind them lies anything.
    pub length: u32,
    pub reserved: u32,
}

/// For so long what follows the first fragment is taken to be of its datagram; hosts wait no longer for the rest of one (RFC 1122
/// section 3.3.2 asks for 60 s at least, Linux waits 30), and the sender counts through its 65,536 numbers.
pub const FRAGMENT_NS: u64 = 30_000_000_000;

const _: () = assert!(size_of::<FragmentKey>() == 40 && size_of::<FragmentWay>() == 16);
const _: () = assert!(size_of::<Part>() == 80 && size_of::<HeldFragment>() == 88);

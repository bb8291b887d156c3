//! The machines that slots point at, and servers that do not run Weir.

use crate::Address;

/// Element of the array MACHINES; index = generation × machines loaded + machine.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Machine {
    /// Where packets for this machine are sent.
    pub address: Address,
    /// Of a backend: where they are sent from, the first address of a range, of the family of `address`.
    pub source: Address,
    /// Bits of [`Machine::PRESENT`] and the others.
    pub flags: u32,
    /// Of a backend: which bits of the last word of `source` differ from connection to connection, as they lie in memory.
    pub spread: u32,
    /// Destination MAC of frames sent to it, its first byte lowest; 0: answer to the MAC the frame came from, i.e. through the router.
    pub next_hop: u64,
    /// Of a tunnel over IPv4: the address it is sent from.
    pub own_v4: u32,
    /// And the sum of the half-words of its header that are the same in every packet.
    pub sum_v4: u32,
    pub reserved: u64,
}

/// Key of the map SENDERS: an address that GUE of a machine of ours comes from. Its value is the machine's index. Both generations
/// live in one map, as in VIPS.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SenderKey {
    pub address: Address,
    /// 0 or 1.
    pub generation: u32,
}

impl Machine {
    /// There is such a machine. Without it the index means nobody.
    pub const PRESENT: u32 = 1;
    /// It is the one this program runs on.
    pub const OWN: u32 = 2;
    /// It does not run Weir: it takes IP in IP (RFC 2003, RFC 2473, RFC 4213), answers clients itself, and passes nothing on.
    pub const BACKEND: u32 = 4;

    /// Tunnels to it are over IPv4.
    pub const OVER_V4: u32 = 8;
    /// This machine has an address of that family to send them from.
    pub const REACHABLE: u32 = 16;

    #[inline(always)]
    pub const fn is_present(&self) -> bool {
        self.flags & Self::PRESENT != 0
    }

    #[inline(always)]
    pub const fn is_own(&self) -> bool {
        self.flags & Self::OWN != 0
    }

    /// It is there, and takes tunnels with the cluster's cookie, which nobody else is to hear: whatever a packet says of who claims it.
    #[inline(always)]
    pub const fn takes_gue(&self) -> bool {
        self.flags & (Self::PRESENT | Self::BACKEND) == Self::PRESENT
    }

    #[inline(always)]
    pub const fn is_backend(&self) -> bool {
        self.flags & Self::BACKEND != 0
    }
}

const _: () = assert!(size_of::<Machine>() == 64 && size_of::<SenderKey>() == 20);

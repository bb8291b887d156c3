//! The machines that slots point at.

use crate::Address;

/// Element of the array MACHINES; index = generation × machines loaded + machine.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Machine {
    /// Where GUE for this machine is sent.
    pub address: Address,
    /// Bits of [`Machine::PRESENT`] and [`Machine::OWN`].
    pub flags: u32,
    /// Destination MAC of frames sent to it; all zero: answer to the MAC the frame came from, i.e. through the router.
    pub next_hop: [u8; 6],
    pub reserved: [u8; 6],
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

    #[inline(always)]
    pub const fn is_present(&self) -> bool {
        self.flags & Self::PRESENT != 0
    }

    #[inline(always)]
    pub const fn is_own(&self) -> bool {
        self.flags & Self::OWN != 0
    }
}

const _: () = assert!(size_of::<Machine>() == 32 && size_of::<SenderKey>() == 20);

//! Where frames for clients go: what is sent to who sent a packet that came through a tunnel, not from a router.

/// Key of the trie WAYS, as the kernel's tries have them.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct WayKey {
    /// Of what follows: 32 of the interface, and those of the address.
    pub bits: u32,
    /// The interface that frames leave by.
    pub interface: u32,
    /// As [`crate::Address`] has it.
    pub address: [u32; 4],
}

impl WayKey {
    /// The one to look with.
    #[inline(always)]
    pub const fn whole(interface: u32, address: &crate::Address) -> WayKey {
        WayKey { bits: 160, interface, address: address.0 }
    }
}

/// Value of WAYS: the MAC of the router, its first byte lowest; [`NONE`]: the stack knows, and nobody else.
pub const NONE: u64 = 0;

const _: () = assert!(size_of::<WayKey>() == 24);

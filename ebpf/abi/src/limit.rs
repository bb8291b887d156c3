//! How fast TCP connections to a virtual IP may begin.
//!
//! A bucket is one double word: the moment at which it will be full again. Each connection puts that off by what one takes, and is
//! refused when it would lie further off than an empty bucket takes to fill.

use crate::Address;

/// Element of LIMITS, by generation and VIP as those of BEFORE.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limit {
    /// Of all connections of the VIP.
    pub all: Rate,
    /// Of those of one source.
    pub source: Rate,
    /// What comes faster is answered with SYN cookies by who serves it.
    pub cookies: Rate,
    /// Which bits of a source's address tell it from others; of IPv4 the last word.
    pub mask_v4: u32,
    pub reserved: u32,
    pub mask_v6: [u32; 4],
}

/// How fast, and how many at once.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rate {
    /// Nanoseconds that one connection takes; 0: they are not limited.
    pub each_ns: u64,
    /// Nanoseconds in which an empty bucket fills.
    pub burst_ns: u64,
}

/// Key of SOURCES; its value is a bucket.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SourceKey {
    /// Without the bits that do not count.
    pub address: Address,
    pub vip: u32,
}

impl Limit {
    pub const NONE: Limit = Limit {
        all: Rate { each_ns: 0, burst_ns: 0 },
        source: Rate { each_ns: 0, burst_ns: 0 },
        cookies: Rate { each_ns: 0, burst_ns: 0 },
        mask_v4: 0,
        reserved: 0,
        mask_v6: [0; 4],
    };

    /// What counts of a source's address.
    #[inline(always)]
    pub const fn source_of(&self, address: &Address) -> Address {
        let (a, m) = (&address.0, &self.mask_v6);
        if address.is_v4() {
            return Address::from_v4_raw(a[3] & self.mask_v4);
        }
        Address([a[0] & m[0], a[1] & m[1], a[2] & m[2], a[3] & m[3]])
    }
}

impl Rate {
    /// So many connections a second, and `burst` at once.
    pub const fn new(per_second: u32, burst: u32) -> Rate {
        let each_ns = 1_000_000_000 / if per_second == 0 { 1 } else { per_second as u64 };
        Rate { each_ns, burst_ns: each_ns * burst as u64 }
    }
}

const _: () = assert!(size_of::<Rate>() == 16 && size_of::<Limit>() == 72 && size_of::<SourceKey>() == 20);

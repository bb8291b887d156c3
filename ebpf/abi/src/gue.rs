//! The tunnel header between machines: GUE version 0 (draft-ietf-intarea-gue) with sixteen private bytes.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---+-+---------+---------------+-------------------------------+
//! | 0 |0|  hlen 4 | proto 4 or 41 |          flags 0x0001         |
//! +---+-+---------+---------------+-------------------------------+
//! |at |hld|  hops |  magic 0x57   |             epoch             |
//! +---------------+---------------+-------------------------------+
//! |                        cluster cookie                         |
//! +---------------------------------------------------------------+
//! |    machines that were asked, the last one first, and of more  |
//! |    than four the first of all; 16 bits each, little-endian    |
//! +---------------------------------------------------------------+
//! ```
//! Machines of two versions steer together while a cluster is upgraded, so what stands here never changes its meaning. What comes to be
//! known is put behind it, and who does not know it passes over it; what has to be known by all is sent only when the cluster's feature
//! level says that all know it.
//!
//! `at` says which of the machines asked holds what `hld` says, counted from the last one.

/// UDP destination port, the one Katran uses for GUE.
pub const PORT: u16 = 6080;

/// Bytes of the header, private bytes included.
pub const LENGTH: usize = 20;

/// Version 0, data (not control), four words of optional fields.
pub const VERSION_AND_LENGTH: u8 = 0x04;

/// Of that byte, how many words there are.
pub const LENGTH_BITS: u8 = 0x1f;

/// The P bit: private bytes follow.
pub const FLAGS: u16 = 0x0001;

/// Tells our private bytes from anybody else's.
pub const MAGIC: u8 = 0x57;

/// The UDP header and this one.
pub const WITH_UDP: usize = 8 + LENGTH;

/// What an outer IPv4, UDP and GUE header add to a packet.
pub const OVERHEAD_V4: usize = 20 + WITH_UDP;

/// The same over IPv6.
pub const OVERHEAD_V6: usize = 40 + WITH_UDP;

/// The byte with the count of tunnels, the best claim of all machines that were asked, and whose it is: see [`Asked::at`].
#[inline(always)]
pub const fn pack(hops: u8, held: u8, at: u8) -> u8 {
    hops & 0x0f | (held & 0x03) << 4 | at << 6
}

/// Tunnels the packet has been through, this one included.
#[inline(always)]
pub const fn hops(packed: u8) -> u8 {
    packed & 0x0f
}

/// The best claim of those that were asked: one of the numbers in [`held`].
#[inline(always)]
pub const fn held_of(packed: u8) -> u8 {
    packed >> 4 & 0x03
}

/// Which of those that were asked has it.
#[inline(always)]
pub const fn at(packed: u8) -> u8 {
    packed >> 6
}

/// Machines that were asked whether they hold a connection, the last one in the lowest 16 bits; 0 is nobody. There is room for the
/// owners of a slot: of more, the first one stays, and the second is forgotten. That one stands in for the first, or one table among
/// several has it.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Asked(pub u64);

impl Asked {
    pub const NOBODY: Asked = Asked(0);

    #[inline(always)]
    pub const fn and(self, machine: u16) -> Asked {
        // Calculated: one road for the verifier.
        let first = (self.is_full() as u64).wrapping_neg() << 48;
        Asked((self.0 << 16 | machine as u64) & !first | self.0 & first)
    }

    /// Whether the machine is among them.
    #[inline(always)]
    pub const fn has(self, machine: u16) -> bool {
        (self.at(0) == machine) | (self.at(1) == machine) | (self.at(2) == machine) | (self.at(3) == machine)
    }

    /// The next one that is asked drives another out.
    #[inline(always)]
    pub const fn is_full(self) -> bool {
        self.at(3) != 0
    }

    /// Counted from the last one, 0 to 3.
    #[inline(always)]
    pub const fn at(self, place: u8) -> u16 {
        (self.0 >> (place as u32 * 16)) as u16
    }
}

/// What a machine holds for a connection, the better claim the higher.
pub mod held {
    /// It did not look.
    pub const UNASKED: u8 = 0;
    /// No socket, or only a listening one.
    pub const NOTHING: u8 = 1;
    /// TIME-WAIT: both sides have closed.
    pub const TIME_WAIT: u8 = 2;
    /// A socket that this side has closed: the client may still send, or has begun anew elsewhere.
    pub const CLOSING: u8 = 3;
    /// A connection, or the answer to a SYN cookie of this machine. Its packets stay, so this never travels.
    pub const LIVE: u8 = 4;
}

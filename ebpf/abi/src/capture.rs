//! Packets that somebody wants to see: which, how many, and what the daemon is given of each.

use crate::Address;
use crate::limit::Rate;

/// Captures that can be open at once.
pub const CAPTURES_MAX: usize = 4;

/// Element of CAPTURES. Userspace has the array mapped into its memory, and writes the filter of one only while nobody waits for it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capture {
    /// When the daemon will have stopped waiting, by CLOCK_MONOTONIC, unless it puts that off; 0: nobody waits. Stored at once.
    pub until_ns: u64,
    /// The bucket of `rate`.
    pub bucket: u64,
    /// Packets that passed the filter and were given to the daemon.
    pub taken: u64,
    /// Those that came faster than `rate`.
    pub too_fast: u64,
    /// Those that found no room in the ring.
    pub no_room: u64,
    pub rate: Rate,
    pub filter: Filter,
}

/// Which packets: of all numbers those bits have to be the same whose mask says so.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Filter {
    /// One bit for each [`crate::Reason`].
    pub reasons: u64,
    pub source: Address,
    pub source_mask: Address,
    pub destination: Address,
    pub destination_mask: Address,
    /// The source port as it lies on the wire, and above it the destination port.
    pub ports: u32,
    pub ports_mask: u32,
    pub protocol: u32,
    pub protocol_mask: u32,
    pub vip: u32,
    pub vip_mask: u32,
    /// The machine it is sent to.
    pub machine: u32,
    pub machine_mask: u32,
    /// Bytes of a frame that are wanted at most.
    pub snap: u32,
    pub reserved: u32,
}

/// What the daemon gets of a packet, in front of the frame as the programs left it; the element of CAPTURED.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Captured {
    /// By CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// Bits of the captures it is for.
    pub captures: u32,
    /// The [`crate::Switch`] that was in force.
    pub switch: u32,
    /// Bytes of the frame as it arrived.
    pub arrived: u32,
    /// Bytes of the frame now.
    pub length: u32,
    /// So many of them follow; behind them lies anything.
    pub kept: u32,
    /// Index of the interface it came in by.
    pub interface: u32,
    /// Receive queue of that.
    pub queue: u32,
    pub vip: u16,
    /// The machine it is sent to, 0: none; then a tunnel of this machine's is around it.
    pub machine: u16,
    /// A [`crate::Reason`].
    pub reason: u8,
    /// What the kernel is told to do with it: XDP_DROP 1, XDP_PASS 2, XDP_TX 3.
    pub action: u8,
    /// Tunnels it had been through when it arrived.
    pub hops: u8,
    pub reserved: u8,
    pub ends: Ends,
    pub behind: u32,
}

/// What a filter asks of the bytes of a packet: of the one inside, where this machine has put a tunnel around it, and of the one that is
/// answered, where this machine says that it is too big. What is not there is 0.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ends {
    pub source: Address,
    pub destination: Address,
    /// As [`Filter::ports`] has them; of TCP and UDP, and of no later fragment.
    pub ports: u32,
    pub protocol: u32,
    /// What the tunnel that is around it says: those it has been through, this one too; 0: none is.
    pub hops: u32,
}

const _: () = assert!(size_of::<Filter>() == 8 + 4 * 16 + 10 * 4);
const _: () = assert!(size_of::<Capture>() == 5 * 8 + 16 + size_of::<Filter>() && size_of::<Capture>() == 168);
const _: () = assert!(size_of::<Ends>() == 44 && size_of::<Captured>() == 48 + 44 + 4);

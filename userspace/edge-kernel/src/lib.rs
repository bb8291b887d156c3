//! The machine's door to the kernel: everything that calls bpf(2), rtnetlink or asks about interfaces for the L4 plane.
//!
//! [`probe`] says whether this machine can steer at all and what to do if not. [`Kernel::load`] loads the programs, or takes
//! over what an earlier process left pinned, and attaches them. Then, in any order and as often as needed:
//! [`Kernel::steer`] for machines, virtual IPs and the routes that make the stack accept them ([`Kernel::apply`] and
//! [`Kernel::set_local_addresses`] are its halves), [`Kernel::register_listener`] for the sockets of the workers,
//! [`Kernel::counters`] for numbers.
//!
//! Invariants:
//! - A packet sees machines and virtual IPs of one generation: both are written beside the live ones, then one word switches.
//! - Whoever exits without [`Kernel::detach`] leaves a kernel that steers on.
//! - Pinned maps are re-used only when layout version and sizes are the same; others steer until the first `apply`, then go.
//!
//! Reading order: `kernel` (load, attach, pin), `steering`, `prefix`, `services`, `places`, `access`, `bans`, `sockets`, `connections`, `cookies`, `follow` (with `neighbours`), `losses`, `ways`, `fragments` (with `long`), `flows`, `capture`, `knock` (over `raw`), `lease`, `routes`, `counters`, `trace`, `probe`, `older`, `interface` (with `ethtool`, `attached`),
//! `error`; `map` and `sys` are the raw calls below.

mod access;
mod attached;
mod bans;
mod capture;
mod connections;
mod cookies;
mod counters;
mod error;
mod ethtool;
mod flows;
mod follow;
mod fragments;
mod interface;
mod kernel;
mod knock;
mod lease;
mod long;
mod losses;
mod map;
mod neighbours;
mod netlink;
mod older;
mod places;
mod prefix;
mod probe;
mod raw;
mod routes;
mod services;
mod sockets;
mod steering;
mod surroundings;
pub mod sys;
mod trace;
mod veth;
mod ways;

pub use abi;
pub use abi::Slot;
pub use access::{AccessPrefix, AccessTables};
pub use bans::BANS_MAX;
pub use capture::{
    CaptureCounts, CaptureFilter, CapturedPacket, OpenCapture, PacketSink, RATE_MOST as CAPTURE_RATE_MOST,
    SNAP_LEAST as CAPTURE_SNAP_LEAST, SNAP_MOST as CAPTURE_SNAP_MOST,
};
pub use connections::Held;
pub use counters::{Counters, ReasonCount, SteeredCount};
pub use error::{KernelError, Warning};
pub use flows::FlowCounts;
pub use follow::Followed;
pub use fragments::EarlyFragments;
pub use kernel::{Attachment, Hook, Kernel, Mode, Options, Reach, Sizes, reach};
pub use knock::{Answer, Knock, Unanswered, knock};
pub use lease::Lease;
pub use long::LongPackets;
pub use prefix::Prefix;
pub use probe::{Finding, Probe, probe, probe_interfaces};
pub use services::{before, gather};
pub use sockets::ListenerId;
pub use steering::{Applied, Backend, Earlier, Hash, Machine, Protocol, SourceLimit, Vip, VipLimits, has_others};
pub use surroundings::unfit;
pub use trace::{Flow, Trace, Tunnel};
pub use veth::pass_everything;

/// Whether the programs are part of this build. Without them everything but [`Kernel::load`] works and there is no L4 plane.
pub const fn built_in() -> bool {
    OBJECT.is_some()
}

/// The programs this build embeds.
pub const fn object() -> Option<&'static [u8]> {
    OBJECT
}

#[cfg(bpf_object)]
const OBJECT: Option<&[u8]> = Some(include_bytes!(concat!(env!("OUT_DIR"), "/weir.bpf.o")));
#[cfg(not(bpf_object))]
const OBJECT: Option<&[u8]> = None;

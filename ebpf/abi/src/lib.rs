//! The kernel ABI: every key and value that the BPF programs and userspace both read, with explicit padding,
//! and the sizes of the maps with their reasons. No code that decides anything.
//!
//! Reading order: `limits`, `address`, `vip`, `slot`, `machine`, `config`, `access`, `limit`, `listener`, `fragment`,
//! `delivery`, `syn`, `way`, `reason`, `counter`, `capture`, `gue`.
//!
//! Every type here consists of integers and byte arrays, has no padding the compiler could leave uninitialised and
//! accepts every bit pattern, so either side may copy it as bytes. Change a layout and [`limits::LAYOUT_VERSION`] together:
//! userspace re-uses pinned maps only of the same version.
#![no_std]
#![forbid(unsafe_code)]

pub mod limits;

pub mod access;
pub mod address;
pub mod capture;
pub mod config;
pub mod counter;
pub mod delivery;
pub mod fragment;
pub mod gue;
pub mod limit;
pub mod listener;
pub mod machine;
pub mod reason;
pub mod slot;
pub mod syn;
pub mod vip;
pub mod way;

pub use access::AccessKey;
pub use address::Address;
pub use capture::{Capture, Captured};
pub use config::{Config, Settings, Switch};
pub use counter::Counter;
pub use delivery::Delivery;
pub use fragment::{FragmentKey, FragmentWay, HeldFragment, Part};
pub use limit::{Limit, SourceKey};
pub use listener::{GroupKey, GroupValue, ListenerKey, ListenerRange, ListenerRanges};
pub use machine::{Machine, SenderKey};
pub use reason::{REASONS, Reason, Verdict};
pub use slot::Slot;
pub use syn::Syn;
pub use vip::{Before, Counts, HashMode, Service, VipAddress, VipAt, VipHash, VipKey, VipPlace};
pub use way::WayKey;

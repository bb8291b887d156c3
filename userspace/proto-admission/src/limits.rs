//! A limit for each of many keys, shared by the edges of a cluster without a store in the middle.
//!
//! Each key has an owner, one of the edges ([`owner_of`]): it keeps the key's bucket ([`Owned`]). The others hold leases of tokens
//! ([`Leases`]): ten times a second they say what they used and would like ([`Report`]) and are granted tokens ([`Grant`]), which the
//! owner has taken out of the bucket before; tokens that an edge does not use it gives back. So an edge decides at once and alone,
//! and no more passes than the bucket had, but for what edges advance on their own: a part of the burst for a key they meet for the
//! first time, and of what the owner said was left. That is told to the owner, whose bucket goes below zero and remembers.
//!
//! An edge that hears nothing from the owner goes on by its last share of the rate. Lost leases are tokens that nobody uses.
//!
//! Time is in milliseconds by each edge's own clock: nobody compares clocks.

mod owned;
mod spills;
mod table;

pub use owned::Owned;
pub use table::{Decided, LeaseFigures, Leases, WhenAlone};

use serde::{Deserialize, Serialize};

/// So many tokens in so much time, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// From one token to the next, in microseconds, and what is beyond whole ones in nanoseconds, 0 to 999.
    pub interval_us: u64,
    #[serde(default)]
    pub fine_ns: u32,
    /// Tokens that a bucket holds, 1 or more.
    pub burst: u32,
}

impl Rate {
    /// One token in each `interval_ns`, and `burst` at once; what is less than 1 is 1.
    pub fn new(interval_ns: u64, burst: u32) -> Rate {
        let interval_ns = interval_ns.max(1);
        Rate { interval_us: interval_ns / 1000, fine_ns: (interval_ns % 1000) as u32, burst: burst.max(1) }
    }

    /// From one token to the next, in nanoseconds, 1 or more.
    pub fn interval_ns(self) -> u64 {
        self.interval_us.saturating_mul(1000).saturating_add(u64::from(self.fine_ns)).max(1)
    }
}

/// What an edge says of one key. Four numbers on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u32, u32, u32)", into = "(u64, u32, u32, u32)")]
pub struct Report {
    pub key: u64,
    /// Tokens it used without having a lease of them.
    pub advanced: u32,
    /// Leased tokens it did not use in time.
    pub returned: u32,
    /// Tokens it would like.
    pub wanted: u32,
}

/// What the owner answers. Four numbers on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u32, i32, u16)", into = "(u64, u32, i32, u16)")]
pub struct Grant {
    pub key: u64,
    pub tokens: u32,
    /// Tokens that are left in the bucket; below zero, what was advanced too much.
    pub left: i32,
    /// The edge's part of what all want, in thousandths.
    pub share: u16,
}

impl From<(u64, u32, u32, u32)> for Report {
    fn from((key, advanced, returned, wanted): (u64, u32, u32, u32)) -> Report {
        Report { key, advanced, returned, wanted }
    }
}

impl From<Report> for (u64, u32, u32, u32) {
    fn from(report: Report) -> Self {
        (report.key, report.advanced, report.returned, report.wanted)
    }
}

impl From<(u64, u32, i32, u16)> for Grant {
    fn from((key, tokens, left, share): (u64, u32, i32, u16)) -> Grant {
        Grant { key, tokens, left, share }
    }
}

impl From<Grant> for (u64, u32, i32, u16) {
    fn from(grant: Grant) -> Self {
        (grant.key, grant.tokens, grant.left, grant.share)
    }
}

/// Whose key this is: the edge that draws the highest number for it (rendezvous hashing). When edges come or go, only theirs move.
pub fn owner_of<'e>(key: u64, edges: impl IntoIterator<Item = &'e str>) -> Option<&'e str> {
    let drawn = |edge: &str| {
        let name = edge
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        mixed(name ^ key)
    };
    edges.into_iter().max_by_key(|edge| (drawn(edge), *edge))
}

/// Every bit depends on every other (splitmix64).
pub(crate) fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The virtual scheduling form of the generic cell rate algorithm (ITU-T I.371): one time is all there is of a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gcra {
    /// When the bucket would be full, in nanoseconds.
    due_ns: u64,
}

impl Gcra {
    /// Takes a token, or says in how many nanoseconds there is one.
    pub fn take(&mut self, rate: Rate, now_ns: u64) -> Result<(), u64> {
        let may = now_ns.saturating_add(rate.interval_ns().saturating_mul(u64::from(rate.burst.max(1))));
        let due = self.due_ns.max(now_ns).saturating_add(rate.interval_ns());
        if due > may {
            return Err(due - may);
        }
        self.due_ns = due;
        Ok(())
    }

    /// Tokens there are.
    pub fn left(&self, rate: Rate, now_ns: u64) -> u32 {
        let may = now_ns.saturating_add(rate.interval_ns().saturating_mul(u64::from(rate.burst.max(1))));
        u32::try_from((may - self.due_ns.max(now_ns).min(may)) / rate.interval_ns()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests;

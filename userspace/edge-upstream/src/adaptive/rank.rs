//! Who goes before whom: 128 ranks, four priorities of 32 cohorts each.
//!
//! Within a priority whole clients are let in or left out, not some requests of everybody's (as DAGOR does it: Zhou et al., SoCC 2018): a
//! client that needs several answers in a row gets all of them or is told at the first. Which clients are first changes every
//! [`TURN`].

use base_model::Priority;
use std::time::Duration;

/// Ranks there are.
pub const RANKS: usize = 128;

/// Cohorts of a priority.
const COHORTS: u64 = 32;

/// How long a client stays in its cohort.
pub const TURN: Duration = Duration::from_secs(300);

/// A place in the order, 127 first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank(u8);

impl Rank {
    /// Of a request with this priority by the client that hashes to `client`; `turn` counts the [turns](TURN) of the clock.
    pub fn new(priority: Priority, client: u64, turn: u64) -> Rank {
        let mixed = (client ^ turn.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        Rank((priority.level() * COHORTS as u8) + ((mixed >> 32) % COHORTS) as u8)
    }

    /// As a header tells it; what is no rank is none.
    pub fn parse(text: &[u8]) -> Option<Rank> {
        let number: u8 = std::str::from_utf8(text).ok()?.trim().parse().ok()?;
        (usize::from(number) < RANKS).then_some(Rank(number))
    }

    /// 0 to 127.
    pub fn number(self) -> u8 {
        self.0
    }

    /// 0 to 3, that of its priority.
    pub fn level(self) -> usize {
        usize::from(self.0) / COHORTS as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_go_before_cohorts_and_clients_change_theirs() {
        for client in 0..200 {
            let of = |priority| Rank::new(priority, client, 7);
            assert!(of(Priority::Critical) > of(Priority::High) && of(Priority::High) > of(Priority::Normal));
            assert!(of(Priority::Normal) > of(Priority::Low));
            assert_eq!(of(Priority::Critical).level(), 3);
        }
        let moved =
            (0..200).filter(|c| Rank::new(Priority::Normal, *c, 1) != Rank::new(Priority::Normal, *c, 2)).count();
        assert!(moved > 150, "{moved}");
        let mut seen = std::collections::BTreeMap::<u8, usize>::new();
        (0..3200).for_each(|c| *seen.entry(Rank::new(Priority::Low, c, 1).number()).or_default() += 1);
        assert!(seen.len() == 32 && seen.values().all(|n| (50..160).contains(n)), "cohorts are alike: {seen:?}");
    }

    #[test]
    fn ranks_are_read_as_they_are_told() {
        for (text, wanted) in
            [("0", Some(0)), (" 127 ", Some(127)), ("128", None), ("-1", None), ("", None), ("x", None)]
        {
            assert_eq!(Rank::parse(text.as_bytes()).map(Rank::number), wanted, "{text}");
        }
    }
}

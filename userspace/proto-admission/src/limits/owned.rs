//! The buckets of the keys that this edge owns.

use super::spills::Spills;
use super::{Grant, Rate, Report};
use std::collections::HashMap;

/// By limit and key.
#[derive(Default)]
pub struct Owned {
    keys: HashMap<(u64, u64), Bucket>,
    edges: HashMap<u64, Edge>,
    /// Buckets that were forgotten although they were not full, and edges that may come back.
    pub evicted: u64,
}

/// When an edge was heard of, whatever it told.
struct Edge {
    heard_ms: u64,
    /// Its last silence: from when on it was, absent where it was never heard of before, and its end.
    silent_ms: Option<u64>,
    back_ms: u64,
}

struct Bucket {
    /// In millionths of a token.
    level: i64,
    at_ms: u64,
    /// What came into the full bucket, which does not hold it, less what of it has passed all the same, and when it last did. See
    /// [`Bucket::charge`].
    spilled: i64,
    spilled_ms: u64,
    /// All that ever spilled, or more than anybody passes.
    spilled_sum: i64,
    /// When that was.
    spills: Spills,
    /// From when on there is this bucket.
    since_ms: u64,
    wants: [Wants; EDGES],
}

/// What an edge wanted, and when it said so.
#[derive(Clone, Copy, Default)]
struct Wants {
    edge: u64,
    wanted: u32,
    heard_ms: u64,
}

impl Owned {
    /// Answers what `edge` (a number that tells edges apart) says of keys of the limit `of`.
    pub fn answer(&mut self, of: u64, rate: Rate, edge: u64, reports: &[Report], now_ms: u64) -> Vec<Grant> {
        let rate = held(rate);
        let back = self.hear(edge, now_ms);
        reports.iter().map(|report| self.grant(of, rate, (edge, back), report, now_ms)).collect()
    }

    /// From when on it was silent, where it is back from that and may not have told all of it yet; 0 where nothing is known of that time.
    fn hear(&mut self, edge: u64, now_ms: u64) -> Option<u64> {
        if !self.edges.contains_key(&edge) && self.edges.len() >= EDGES_MAX {
            let oldest = self.edges.iter().min_by_key(|(_, edge)| edge.heard_ms).map(|(edge, _)| *edge);
            self.evicted += u64::from(oldest.and_then(|oldest| self.edges.remove(&oldest)).is_some());
        }
        let new = || Edge { heard_ms: now_ms, silent_ms: None, back_ms: now_ms };
        let known = self.edges.entry(edge).or_insert_with(new);
        if now_ms.saturating_sub(known.heard_ms) >= LATE_MS {
            (known.silent_ms, known.back_ms) = (Some(known.heard_ms), now_ms);
        }
        known.heard_ms = now_ms;
        let tells = now_ms.saturating_sub(known.back_ms) < TELLS_MS;
        tells.then(|| known.silent_ms.unwrap_or(0))
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    fn grant(&mut self, of: u64, rate: Rate, (edge, back): (u64, Option<u64>), report: &Report, now_ms: u64) -> Grant {
        let full = i64::from(rate.burst) * ONE;
        if !self.keys.contains_key(&(of, report.key)) && self.keys.len() >= OWNED_MAX {
            self.make_room(now_ms);
        }
        // Of the time before it nothing is known here: the owner before may have been lost.
        let fresh = || Bucket {
            level: full,
            at_ms: now_ms,
            spilled: SPILLED_MAX,
            spilled_ms: now_ms,
            spilled_sum: 0,
            spills: Spills::default(),
            since_ms: now_ms,
            wants: [Wants::default(); EDGES],
        };
        let bucket = self.keys.entry((of, report.key)).or_insert_with(fresh);
        bucket.refill(rate, full, report.returned, now_ms);
        let advanced = i64::from(report.advanced) * ONE;
        let of_its_silence = bucket.of_its_silence((edge, back), advanced, now_ms);
        bucket.charge(advanced, full, of_its_silence);
        // What was advanced is paid back within a time that somebody would wait for.
        bucket.level = bucket.level.max(-full - (MINUTE_NS * i128::from(ONE) / i128::from(rate.interval_ns())) as i64);
        let share = bucket.share(edge, report.wanted, now_ms);
        let there = (bucket.level.max(0) / ONE) as u64;
        let part = (there * u64::from(share)).div_ceil(1000);
        let tokens = u32::try_from(part.min(u64::from(report.wanted))).unwrap_or(u32::MAX);
        bucket.level -= i64::from(tokens) * ONE;
        let left = bucket.level.div_euclid(ONE).clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32;
        Grant { key: report.key, tokens, left, share }
    }

    /// Buckets that nobody has asked about for a minute say nothing that a new one does not; where there are none such, half of all go.
    fn make_room(&mut self, now_ms: u64) {
        self.keys.retain(|_, bucket| now_ms.saturating_sub(bucket.at_ms) < IDLE_MS);
        if self.keys.len() >= OWNED_MAX {
            let before = self.keys.len();
            let mut turn = 0_u32;
            self.keys.retain(|_, _| {
                turn += 1;
                turn.is_multiple_of(2)
            });
            self.evicted += (before - self.keys.len()) as u64;
        }
    }
}

impl Bucket {
    fn refill(&mut self, rate: Rate, full: i64, returned: u32, now_ms: u64) {
        let passed_ns = i128::from(now_ms.saturating_sub(self.at_ms)) * 1_000_000;
        self.at_ms = self.at_ms.max(now_ms);
        let refilled = passed_ns * i128::from(ONE) / i128::from(rate.interval_ns());
        let level = i128::from(self.level) + refilled + i128::from(returned) * i128::from(ONE);
        self.level = level.min(i128::from(full)) as i64;
        if now_ms.saturating_sub(self.spilled_ms) >= SPILLED_MS {
            // What was before this owner is nobody's any more.
            self.spilled = self.spilled.min(self.spilled_sum);
        }
        if level > i128::from(full) {
            let more = |sum: i64| (i128::from(sum) + level - i128::from(full)).min(i128::from(SPILLED_MAX)) as i64;
            (self.spilled, self.spilled_sum) = (more(self.spilled), more(self.spilled_sum));
            self.spilled_ms = now_ms;
            let spilled_us = (level - i128::from(full)) * i128::from(rate.interval_ns()) / i128::from(ONE) / 1000;
            self.spills.note(u64::try_from(spilled_us).unwrap_or(u64::MAX), now_ms);
        }
    }

    /// Takes what passed before it was leased. More than the bucket holds passed over a time in which this owner was not told of it, and
    /// is taken of what spilled in that time: an edge that could not reach the owner and passed the rate has passed nothing too much.
    fn charge(&mut self, advanced: i64, full: i64, of_its_silence: i64) {
        let late = (advanced - full).clamp(0, self.spilled.min(of_its_silence));
        self.spilled -= late;
        self.level -= advanced - late;
    }

    /// How much of what it `advanced` an edge may have passed while it spilled here: of edges that were cut off together the last one comes
    /// back long after the first, which has all of the rate by then, and what it has passed since is too much. It is held to have passed as
    /// much at any time of its silence. One that has just spoken tells nothing late; all the same what spilled a moment ago is everybody's.
    fn of_its_silence(&self, (edge, back): (u64, Option<u64>), advanced: i64, now_ms: u64) -> i64 {
        if now_ms.saturating_sub(self.spilled_ms) < SPILLED_MS {
            return SPILLED_MAX;
        }
        // With more edges than are known of one key those that are still silent are the first that are forgotten: what is known is when
        // they were heard of at all. Of another that is not among them was heard before them.
        let known = self.wants.iter().find(|wants| wants.edge == edge && wants.heard_ms > 0);
        let oldest = || self.wants.iter().map(|wants| wants.heard_ms).min().unwrap_or(0);
        let heard_ms = match known {
            Some(known) => known.heard_ms,
            None => oldest().min(back.unwrap_or(u64::MAX)).max(if oldest() > 0 { self.since_ms } else { 0 }),
        };
        let silent_ms = now_ms.saturating_sub(heard_ms);
        match heard_ms {
            0 => SPILLED_MAX,
            _ if silent_ms < LATE_MS => 0,
            _ => {
                let silent_us = i128::from(silent_ms) * 1000;
                let spilling_us = i128::from(self.spills.since(heard_ms));
                (i128::from(advanced) * spilling_us.min(silent_us) / silent_us) as i64
            }
        }
    }

    /// The part, in thousandths, of `edge` of what all have wanted lately.
    fn share(&mut self, edge: u64, wanted: u32, now_ms: u64) -> u16 {
        let known = self.wants.iter().position(|wants| wants.edge == edge);
        let oldest = || (0..EDGES).min_by_key(|at| self.wants[*at].heard_ms).unwrap_or(0);
        let at = known.unwrap_or_else(oldest);
        self.wants[at] = Wants { edge, wanted: wanted.max(1), heard_ms: now_ms };
        let of_late = |wants: &&Wants| wants.heard_ms > 0 && now_ms.saturating_sub(wants.heard_ms) < LATELY_MS;
        let lately = self.wants.iter().filter(of_late);
        let all: u64 = lately.map(|wants| u64::from(wants.wanted)).sum();
        (u64::from(wanted.max(1)) * 1000 / all.max(1)).clamp(1, 1000) as u16
    }
}

/// Tokens that come between two reports have to fit into the bucket, or they would be lost.
pub(super) fn held(rate: Rate) -> Rate {
    let between = BETWEEN_NS / rate.interval_ns();
    Rate { burst: rate.burst.max(u32::try_from(between).unwrap_or(u32::MAX / 2)).max(1), ..rate }
}

const ONE: i64 = 1_000_000;
/// Edges whose wants are known of one key; with more, those that asked longest ago are forgotten.
const EDGES: usize = 8;
const LATELY_MS: u64 = 350;
/// What spilled so lately is anybody's to whom it is told late.
const SPILLED_MS: u64 = 5_000;
/// After that it is of those who have been silent for so long at least, which is twenty reports.
const LATE_MS: u64 = 2_000;
/// One that is back has told everything by then.
const TELLS_MS: u64 = 5_000;
/// Edges that are remembered: far more than there are in a cluster.
const EDGES_MAX: usize = 4_096;
/// Far more than edges say at once, and far from what a number holds.
const SPILLED_MAX: i64 = i64::MAX / 4;
const IDLE_MS: u64 = 60_000;
const MINUTE_NS: i128 = 60_000_000_000;
const BETWEEN_NS: u64 = 200_000_000;
/// Buckets in memory at a time: about 400 MB if all are there.
const OWNED_MAX: usize = 1 << 20;

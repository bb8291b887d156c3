//! The time of a ledger, and whether its room has begun: by the clocks of those who call, of which any one may be wrong.

use super::{Call, Ledger};
use serde::{Deserialize, Serialize};

/// What a clock says that is far ahead of the ledger's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Leap {
    caller: String,
    /// By the ledger's clock, when it said so first, in milliseconds.
    to_ms: u64,
}

impl Ledger {
    /// Clocks of edges differ by seconds: what counts is how far each has gone since it was heard first. One that was set back is begun
    /// with anew. One that is far ahead is believed when another bears it out, or when for a while nobody speaks who would know
    /// better: then the room was quiet. Whoever does know better shows that it was set, and it is begun with anew.
    pub(super) fn turn_clock(&mut self, caller: &str, at_ms: u64, law: u32) {
        let at = i64::try_from(at_ms).unwrap_or(i64::MAX / 2);
        let clock = self.clock_ms as i64;
        if self.clock_ms == 0 {
            self.clock_ms = at_ms.max(1);
            self.clocks.insert(caller.to_owned(), 0);
            return;
        }
        let known = self.clocks.get(caller).map(|offset| at.saturating_add(*offset));
        let Some(known) = known.filter(|at| (*at - clock).abs() < JUMP_MS || *at - clock > 0 && *at - clock < IDLE_MS)
        else {
            return self.begin_with(caller, at);
        };
        if law == 0 || known - clock < JUMP_MS {
            if let Some(leap) = self.leap.take_if(|leap| leap.caller != caller) {
                self.clocks.remove(&leap.caller);
            }
            self.clock_ms = self.clock_ms.max(known.max(0) as u64);
            return;
        }
        let known = known as u64;
        let to_ms = match &self.leap {
            _ if self.clocks.len() == 1 => known,
            Some(leap) if leap.caller != caller => known.min(leap.to_ms),
            Some(leap) if known.saturating_sub(leap.to_ms) >= UNCONTRADICTED_MS => known,
            Some(_) => return,
            None => {
                self.leap = Some(Leap { caller: caller.to_owned(), to_ms: known });
                return;
            }
        };
        self.leap = None;
        self.clock_ms = self.clock_ms.max(to_ms);
    }

    fn begin_with(&mut self, caller: &str, at: i64) {
        if self.clocks.len() >= CALLERS_MAX {
            self.clocks.clear();
        }
        self.clocks.insert(caller.to_owned(), (self.clock_ms as i64).saturating_sub(at));
        self.leap.take_if(|leap| leap.caller == caller);
    }

    /// Whether the room has not begun: as most of the edges say that were heard lately, so that one whose clock is ahead sells nothing
    /// before its time. Where as many say one thing as the other, it has not.
    pub(super) fn is_closed(&mut self, call: &Call, caller: &str) -> bool {
        let closed = call.rules.closed;
        if call.law == 0 || !closed && self.doors.is_empty() {
            return closed;
        }
        let now_ms = self.clock_ms;
        self.doors.retain(|_, (_, at_ms)| at_ms.saturating_add(HEARD_MS) > now_ms);
        if self.doors.len() < CALLERS_MAX {
            self.doors.insert(caller.to_owned(), (closed, now_ms));
        }
        let says_closed = self.doors.values().filter(|(closed, _)| *closed).count();
        let all = self.doors.len();
        if says_closed == 0 {
            self.doors.clear();
        }
        says_closed * 2 >= all
    }
}

const CALLERS_MAX: usize = 4096;
/// A clock that is off by more was set anew, or the room was quiet.
const JUMP_MS: i64 = 10_000;
/// For so long a room may have been quiet.
const IDLE_MS: i64 = 24 * 3600 * 1000;
/// A clock that is far ahead is believed when nobody else has spoken for so long.
const UNCONTRADICTED_MS: u64 = 2_000;
/// What an edge said so long ago of whether the room has begun says nothing of now.
const HEARD_MS: u64 = 5_000;

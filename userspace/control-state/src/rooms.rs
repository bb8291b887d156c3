//! Waiting rooms and lotteries: who has been let in, once for the whole cluster.
//!
//! Published to nobody: an edge learns of its rooms from the answers to its own calls, so that a sale of a million users leaves the
//! version of the configuration where it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use control_api::Refusal;
use proto_admission::{Answer, Call, Ledger};
use serde::{Deserialize, Serialize};

/// The ledgers, by room and sale.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rooms {
    ledgers: BTreeMap<String, Kept>,
    /// Calls so far.
    turn: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Kept {
    ledger: Ledger,
    /// The turn it was called in last.
    used: u64,
}

impl Rooms {
    pub fn is_empty(rooms: &Arc<Rooms>) -> bool {
        rooms.ledgers.is_empty()
    }

    /// What is the same on every member that holds the same.
    pub fn sum(&self) -> u64 {
        let sum = |sum: u64, kept: &Kept| sum.wrapping_mul(31).wrapping_add(kept.ledger.digest());
        self.ledgers.values().fold(self.turn, sum)
    }

    /// Carries out what `caller` says of its rooms. `seed` is for those that are new.
    pub fn admit(&mut self, calls: &[Call], caller: &str, at_ms: u64, seed: u64) -> Result<Vec<Answer>, Refusal> {
        if calls.len() > CALLS_MAX {
            let message = format!("{} rooms in one call; at most {CALLS_MAX} are taken", calls.len());
            return Err(Refusal::invalid(message));
        }
        let answer = |call: &Call| {
            self.turn += 1;
            let place = format!("{}\n{}", call.room, call.sale);
            if !self.ledgers.contains_key(&place) && self.ledgers.len() >= ROOMS_MAX {
                let oldest = self.ledgers.iter().min_by_key(|(_, kept)| kept.used).map(|(place, _)| place.clone());
                self.ledgers.remove(&oldest.unwrap_or_default());
            }
            // Two rooms that are founded by one call have different seeds.
            let founded = || Kept { ledger: Ledger::new(seed ^ self.turn.rotate_left(32)), used: 0 };
            let kept = self.ledgers.entry(place).or_insert_with(founded);
            kept.used = self.turn;
            kept.ledger.apply(call, caller, at_ms)
        };
        Ok(calls.iter().map(answer).collect())
    }
}

/// Rooms that an edge speaks of in one call.
const CALLS_MAX: usize = 256;
/// Ledgers that are kept; the one that was called longest ago makes room for another.
const ROOMS_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, Command, State};
    use proto_admission::{Candidate, Rules};

    fn admit(room: &str, sale: &str, id: u64) -> Action {
        let rules = Rules { stock: 1, burst: 1, session_s: 60, grace_s: 5, ..Rules::default() };
        let wanting = vec![Candidate { bucket: 0, id }];
        let call = Call { room: room.into(), sale: sale.into(), rules, wanting, ..Call::default() };
        Action::Admit { caller: "e1".into(), at_ms: 1_000, seed: 7, calls: vec![call] }
    }

    fn apply(state: &mut State, request: u64, action: Action) -> Vec<Answer> {
        let applied = state.apply(Command { request, now: "2026-01-01T00:00:00Z".into(), action, by: None });
        assert_eq!(applied.delta, None, "no reader of the configuration hears of it");
        applied.answer.unwrap().rooms
    }

    #[test]
    fn a_number_is_given_once_and_survives_a_snapshot() {
        let mut state = State::default();
        let empty = serde_json::to_string(&state).unwrap();
        assert!(!empty.contains("rooms"), "members that know none read it");
        assert_eq!(apply(&mut state, 1, admit("p/f", "", 5))[0].admitted, [(5, 1)]);
        assert_eq!(apply(&mut state, 1, admit("p/f", "", 5))[0].admitted, [(5, 1)], "the same command");
        assert_eq!(apply(&mut state, 2, admit("p/f", "", 6))[0].admitted, []);
        assert_eq!(apply(&mut state, 3, admit("p/f", "next", 6))[0].admitted, [(6, 1)], "another sale");
        assert_eq!(apply(&mut state, 4, admit("p/g", "", 6))[0].admitted, [(6, 1)], "another room");
        let mut read = State::read(&serde_json::to_vec(&state).unwrap(), crate::LEVEL).unwrap();
        assert_eq!(read.mark(1), state.mark(1));
        assert_eq!(apply(&mut read, 5, admit("p/f", "", 6))[0].admitted, []);
        assert_eq!(apply(&mut read, 6, admit("p/f", "", 5))[0].admitted, [(5, 1)]);
        assert_ne!(read.mark(1).rest, state.mark(1).rest, "whether two hold the same is seen");
        assert_eq!(state.view.version, 0);
    }

    #[test]
    fn there_are_no_more_ledgers_than_there_may_be() {
        let mut rooms = Rooms::default();
        let call = |room: usize| Call { room: room.to_string(), ..Call::default() };
        for room in 0..ROOMS_MAX + 10 {
            rooms.admit(&[call(room), call(0)], "e", 1, 1).unwrap();
        }
        assert_eq!(rooms.ledgers.len(), ROOMS_MAX);
        assert!(rooms.ledgers.contains_key("0\n"), "one that is in use stays");
        assert!(rooms.admit(&vec![call(1); CALLS_MAX + 1], "e", 1, 1).is_err());
    }
}

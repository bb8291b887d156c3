//! Waiting rooms and lotteries: who has been let in, once for the whole cluster.
//!
//! Published to nobody: an edge learns of its rooms from the answers to its own calls, so that a sale of a million users leaves the
//! version of the configuration where it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use control_api::{Refusal, Snapshot};
use proto_admission::{Answer, Call, Ledger};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::command::Done;

/// The ledgers, by room and sale.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rooms {
    ledgers: BTreeMap<String, Kept>,
    /// Calls so far.
    turn: u64,
    /// Hours since 1970 when those that are gone were looked for.
    #[serde(skip_serializing_if = "is_zero")]
    looked_h: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Kept {
    ledger: Ledger,
    /// The turn it was called in last.
    used: u64,
    /// And when, in seconds since 1970; 0: nobody has noted it yet.
    #[serde(skip_serializing_if = "is_zero")]
    used_s: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
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

    /// Whether those that are gone are to be looked for at this time, in seconds since 1970.
    pub fn are_due(&self, at_s: u64) -> bool {
        !self.ledgers.is_empty() && at_s / HOUR_S > self.looked_h
    }

    /// Lets go of ledgers that no document speaks of and nobody has called for a day: their filter, or their sale, is gone.
    pub fn retire(&mut self, at_s: u64, view: &Snapshot) {
        self.looked_h = at_s / HOUR_S;
        self.ledgers.retain(|place, kept| {
            if kept.used_s == 0 {
                kept.used_s = at_s;
            }
            at_s.saturating_sub(kept.used_s) < GONE_AFTER_S || is_spoken_of(place, view)
        });
        // A snapshot without ledgers says nothing of the turns there have been.
        if self.ledgers.is_empty() {
            *self = Rooms::default();
        }
    }

    /// Carries out what `caller` says of its rooms. `seed` is for those that are new; `at_s` is when it was proposed.
    pub fn admit(
        &mut self,
        calls: &[Call],
        caller: &str,
        at_ms: u64,
        seed: u64,
        at_s: u64,
    ) -> Result<Vec<Answer>, Refusal> {
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
            let founded = || Kept { ledger: Ledger::new(seed ^ self.turn.rotate_left(32)), used: 0, used_s: 0 };
            let kept = self.ledgers.entry(place).or_insert_with(founded);
            kept.used = self.turn;
            if call.law > 0 {
                kept.used_s = at_s;
            }
            kept.ledger.apply(call, caller, at_ms)
        };
        Ok(calls.iter().map(answer).collect())
    }
}

/// What of an answer is kept for when its request arrives again: all that its edge learns only once. The long lists of what others did are
/// left out, and up to where they went: the edge asks again from where it was. Edges that start are told thousands of names at once, and
/// would push out everybody's answers. Calls by older laws are answered as members know it that have nothing newer.
pub(crate) fn to_keep(calls: &[Call], answer: &crate::command::Answer) -> crate::command::Answer {
    let done = answer.as_ref().map_err(Clone::clone)?;
    let short = |(answer, call): (&Answer, &Call)| match call.law {
        0 | 1 => answer.clone(),
        _ => Answer { learned: Vec::new(), gone: Vec::new(), gone_known: None, ..answer.clone() },
    };
    let rooms = done.rooms.iter().zip(calls).map(short).collect();
    Ok(Done { version: done.version, rooms, ..Done::default() })
}

/// Whether some document has a room of this name and sale, wherever in it.
fn is_spoken_of(place: &str, view: &Snapshot) -> bool {
    let Some((room, sale)) = place.split_once('\n') else { return false };
    let Some((pipeline, filter)) = room.rsplit_once('/') else { return false };
    view.objects.get(pipeline).is_some_and(|document| has_room(document, filter, sale))
}

fn has_room(value: &Value, filter: &str, sale: &str) -> bool {
    match value {
        Value::Array(all) => all.iter().any(|value| has_room(value, filter, sale)),
        Value::Object(fields) => {
            // Names of fields match without regard to case.
            let text = |name: &str| {
                fields.iter().find(|(of, _)| of.eq_ignore_ascii_case(name)).and_then(|(_, value)| value.as_str())
            };
            let is_room = text("kind").is_some_and(|kind| kind == "WaitingRoom" || kind == "Lottery");
            is_room && text("name") == Some(filter) && text("sale").unwrap_or_default() == sale
                || fields.values().any(|value| has_room(value, filter, sale))
        }
        _ => false,
    }
}

const HOUR_S: u64 = 3_600;
/// A ledger that nobody speaks of or calls for so long is of a room that is gone.
const GONE_AFTER_S: u64 = 24 * HOUR_S;
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

    fn at(state: &mut State, request: u64, now: &str, action: Action) {
        let applied = state.apply(Command { request, now: now.into(), action, by: None });
        assert!(applied.answer.is_ok(), "{:?}", applied.answer);
    }

    #[test]
    fn ledgers_of_rooms_that_are_gone_go_too_and_others_stay() {
        let mut state = State::default();
        let document = |sale: &str| {
            let room = serde_json::json!({"Kind": "WaitingRoom", "name": "f", "Sale": sale});
            serde_json::json!({"kind": "Pipeline", "name": "p", "filters": [room]})
        };
        let put = |sale: &str| Command::put(0, "", crate::PutMode::Create, vec![document(sale)]).action;
        let another = |name: &str| {
            let value = serde_json::json!({"kind": "Pipeline", "name": name, "filters": []});
            Command::put(0, "", crate::PutMode::Create, vec![value]).action
        };
        let by_law = |action: Action| {
            let Action::Admit { caller, at_ms, seed, mut calls } = action else { unreachable!() };
            calls.iter_mut().for_each(|call| call.law = proto_admission::ledger::LAW);
            Action::Admit { caller, at_ms, seed, calls }
        };
        let first = "2026-01-01T00:00:00Z";
        at(&mut state, 1, first, Action::RaiseLevel { level: crate::LEVEL });
        at(&mut state, 2, first, put("one"));
        for (request, room, sale) in [(3, "p/f", "one"), (4, "p/f", "before"), (5, "gone/f", ""), (6, "p/other", "one")]
        {
            at(&mut state, request, first, by_law(admit(room, sale, 1)));
        }
        let kept = |state: &State| state.rooms.ledgers.keys().cloned().collect::<Vec<_>>();
        at(&mut state, 7, "2026-01-01T23:00:00Z", another("x"));
        assert_eq!(kept(&state).len(), 4, "whoever deleted it by mistake has a day");
        at(&mut state, 8, "2026-01-02T00:30:00Z", another("y"));
        assert_eq!(kept(&state), ["p/f\none"]);
        assert_eq!(apply(&mut state, 9, by_law(admit("p/f", "one", 2)))[0].admitted, [], "its stock is sold as before");
        at(&mut state, 10, "2026-01-02T05:00:00Z", Action::delete("p"));
        at(&mut state, 11, "2026-02-02T05:00:00Z", another("z"));
        assert_eq!(*state.rooms, Rooms::default());
        let read = State::read(&serde_json::to_vec(&state).unwrap(), crate::LEVEL).unwrap();
        assert_eq!(read.rooms, state.rooms, "a member that begins with a snapshot counts as the others do");
        // A cluster that has older members keeps them all: those do not know when one is gone.
        let mut older = State::default();
        at(&mut older, 1, first, admit("gone/f", "", 1));
        at(&mut older, 2, "2026-03-01T00:00:00Z", another("x"));
        assert_eq!(older.rooms.ledgers.len(), 1);
    }

    #[test]
    fn edges_that_learn_who_has_left_push_nobodys_answers_out() {
        use proto_admission::ledger::{LAW, LEARNED_MAX};
        let mut state = State::default();
        let now = "2026-01-01T00:00:00Z";
        let say = |gone: Vec<Candidate>| {
            let call = Call { room: "p/f".into(), law: LAW, gone, ..Call::default() };
            Action::Admit { caller: "e".into(), at_ms: 1, seed: 1, calls: vec![call] }
        };
        at(&mut state, 1, now, Action::RaiseLevel { level: crate::LEVEL });
        let left = (0..LEARNED_MAX as u64).map(|id| Candidate { bucket: 0, id }).collect();
        at(&mut state, 2, now, say(left));
        let document = serde_json::json!({"kind": "Pipeline", "name": "p", "filters": []});
        at(&mut state, 3, now, Command::put(0, "", crate::PutMode::Create, vec![document]).action);
        for request in 0..600 {
            let told = apply(&mut state, 100 + request, say(Vec::new()));
            assert_eq!(told[0].gone.len(), LEARNED_MAX, "who asks is told all");
        }
        assert_eq!(state.answers_forgotten(), 0);
        // The same call again is carried out once, and leaves its edge where it was, so that it asks again for what it has not heard.
        let before = state.rooms.clone();
        let again = apply(&mut state, 100, say(Vec::new()));
        assert_eq!((again[0].gone.len(), again[0].gone_known), (0, None));
        assert_eq!(state.rooms, before);
    }

    #[test]
    fn older_members_are_told_what_they_know() {
        let gone = vec![Candidate { bucket: 3, id: 9 }];
        let call = Call { law: 2, gone, first: vec![1], known: Some(4), gone_known: Some((5, 6)), ..Call::default() };
        let action = Action::Admit { caller: "e".into(), at_ms: 1, seed: 1, calls: vec![call] };
        assert_eq!(action.level(), crate::command::GONE_LEVEL);
        let before = action.clone().for_level(11);
        assert_eq!(before.level(), 11);
        let text = serde_json::to_value(&before).unwrap().to_string();
        assert!(text.contains("\"law\":1") && text.contains("\"known\":4") && !text.contains("goneKnown"), "{text}");
        let older = action.for_level(10);
        assert_eq!(older.level(), 6);
        let text = serde_json::to_value(&older).unwrap().to_string();
        assert!(
            text.contains("\"left\":[9]") && !["law", "gone", "first", "known"].iter().any(|new| text.contains(new)),
            "{text}"
        );
    }

    #[test]
    fn there_are_no_more_ledgers_than_there_may_be() {
        let mut rooms = Rooms::default();
        let call = |room: usize| Call { room: room.to_string(), ..Call::default() };
        for room in 0..ROOMS_MAX + 10 {
            rooms.admit(&[call(room), call(0)], "e", 1, 1, 1).unwrap();
        }
        assert_eq!(rooms.ledgers.len(), ROOMS_MAX);
        assert!(rooms.ledgers.contains_key("0\n"), "one that is in use stays");
        assert!(rooms.admit(&vec![call(1); CALLS_MAX + 1], "e", 1, 1, 1).is_err());
    }
}

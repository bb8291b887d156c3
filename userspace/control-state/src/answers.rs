//! What became of recent requests: one that arrives twice, because its first answer was lost with a leader, is carried out once.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::command::Answer;

/// Bounded by time, by what the log says of it, and by bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(into = "Stored")]
pub(crate) struct Answers {
    /// Oldest first: the request, and when it was answered.
    order: VecDeque<(u64, u64)>,
    by_request: HashMap<u64, Answer>,
    bytes: usize,
    /// Seconds since 1970 as far as the proposers' clocks agree, see [`Answers::push`].
    clock: u64,
    /// Let go for their bytes before their time.
    early: u64,
}

/// As it is in a snapshot. Versions that kept a bare list of requests and answers did not know when they had answered; theirs are
/// let go ([`EitherForm`]): a request is repeated for seconds, and the member that reads such a snapshot was another program until now.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Stored {
    answers: Vec<(u64, u64, Answer)>,
    clock: u64,
    early: u64,
}

impl Answers {
    pub fn get(&self, request: u64) -> Option<&Answer> {
        self.by_request.get(&request)
    }

    /// How many were let go although their request may still be repeated.
    pub fn early(&self) -> u64 {
        self.early
    }

    /// No answer, but how many were let go.
    pub fn emptied(&self) -> Self {
        Answers { early: self.early, ..Answers::default() }
    }

    /// `at` is the proposer's clock, in seconds since 1970. A clock that is ahead moves ours by no more than [`STEP_S`], so that one
    /// wrong clock does not make everybody's answers old.
    pub fn push(&mut self, request: u64, at: u64, answer: Answer) {
        let ahead = at.saturating_sub(self.clock);
        self.clock += if self.order.is_empty() { ahead } else { ahead.min(STEP_S) };
        self.bytes += size(&answer);
        self.order.push_back((request, self.clock));
        self.by_request.insert(request, answer);
        while let Some((_, answered)) = self.order.front() {
            let due = self.clock - answered > KEPT_S;
            let surplus = self.bytes > BYTES_MAX && self.order.len() > 1;
            if !(surplus || due && self.order.len() > KEPT_MIN) {
                break;
            }
            self.early += u64::from(!due);
            if let Some((request, _)) = self.order.pop_front()
                && let Some(answer) = self.by_request.remove(&request)
            {
                self.bytes -= size(&answer);
            }
        }
    }
}

impl<'de> Deserialize<'de> for Answers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EitherForm)
    }
}

struct EitherForm;

impl<'de> Visitor<'de> for EitherForm {
    type Value = Answers;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the answers to recent requests")
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Answers, M::Error> {
        Stored::deserialize(MapAccessDeserializer::new(map)).map(Answers::from)
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Answers, S::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Answers::default())
    }
}

impl From<Stored> for Answers {
    fn from(stored: Stored) -> Self {
        let mut answers = Answers { clock: stored.clock, early: stored.early, ..Answers::default() };
        for (request, at, answer) in stored.answers {
            answers.bytes += size(&answer);
            answers.order.push_back((request, at));
            answers.by_request.insert(request, answer);
        }
        answers
    }
}

impl From<Answers> for Stored {
    fn from(mut answers: Answers) -> Self {
        let mut stored = Stored { answers: Vec::new(), clock: answers.clock, early: answers.early };
        for (request, at) in answers.order {
            stored.answers.extend(answers.by_request.remove(&request).map(|answer| (request, at, answer)));
        }
        stored
    }
}

/// About what it holds of memory, in bytes.
fn size(answer: &Answer) -> usize {
    let text = match answer {
        Ok(done) => {
            let created: usize = done.created.iter().map(|name| name.len() + 24).sum();
            let room = |room: &proto_admission::Answer| {
                256 + 16
                    * (room.admitted.len()
                        + room.points.len()
                        + room.learned.len()
                        + room.spent.len()
                        + room.gone.len())
            };
            created + done.rooms.iter().map(room).sum::<usize>()
        }
        Err(refusal) => refusal.message.len(),
    };
    128 + text
}

/// How long answers are kept, in seconds: longer than a request is repeated (`--cluster-request-timeout`, 10 s unless set).
const KEPT_S: u64 = 120;

/// So many are kept whatever the clocks say.
const KEPT_MIN: usize = 4096;

/// Memory that answers hold, in bytes, on every member and in every snapshot: 30,000 answers, more than 120 s bring.
const BYTES_MAX: usize = 4 << 20;

/// How far one command moves the clock, in seconds.
const STEP_S: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Done;

    fn done(created: usize) -> Answer {
        Ok(Done { version: 1, created: vec!["n".repeat(100); created], ..Done::default() })
    }

    #[test]
    fn an_answer_is_there_for_two_minutes_of_a_busy_cluster() {
        let mut answers = Answers::default();
        for n in 0..200 * 120 {
            answers.push(n, 1_000_000 + n / 200, done(0));
        }
        assert!(answers.get(0).is_some() && answers.early() == 0);
        for n in 0..200 * 10 {
            answers.push(1_000_000 + n, 1_000_130 + n / 200, done(0));
        }
        assert!(answers.get(0).is_none(), "it does not stay for ever");
        assert!(answers.get(200 * 119).is_some() && answers.early() == 0);
    }

    #[test]
    fn large_answers_are_bounded_by_their_bytes_and_counted() {
        let mut answers = Answers::default();
        for n in 0..100 {
            answers.push(n, 5, done(1_000));
        }
        assert!(answers.bytes <= BYTES_MAX && answers.order.len() < 40);
        assert_eq!(answers.early(), 100 - answers.order.len() as u64);
        answers.push(1_000, 5, done(100_000));
        assert!(answers.get(1_000).is_some(), "the last one is always there");
    }

    #[test]
    fn a_clock_that_is_ahead_makes_nobody_forget() {
        let mut answers = Answers::default();
        answers.push(1, 100, done(0));
        for n in 0..1_000 {
            answers.push(2 + n, 1_000_000_000, done(0));
        }
        assert!(answers.get(1).is_some());
    }

    #[test]
    fn they_are_read_back_in_order() {
        let mut answers = Answers::default();
        for n in 0..5 {
            answers.push(7 * n % 5, 100 + n, done(n as usize));
        }
        let text = serde_json::to_string(&answers).unwrap();
        assert_eq!(serde_json::from_str::<Answers>(&text).unwrap(), answers);
        assert_eq!(serde_json::from_str::<Answers>("{}").unwrap(), Answers::default());
    }
}

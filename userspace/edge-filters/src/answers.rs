//! What somebody slow has said, remembered for a while: each question is asked once at a time, whoever asks it.
//!
//! Use it where a request depends on an answer that costs a call or a long computation, and that holds for a while: the verdict of an
//! introspection server, the check of a password. Bounded in both directions: so many answers are remembered ([`Answers::new`]; those used
//! least recently go first, favourable ones are never driven out by others), so many questions are on their way. A question is known by its
//! digest under a key of this process, so that memory holds neither tokens nor passwords.

use ring::hmac;
use ring::rand::SystemRandom;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// What an answer is worth.
pub(crate) trait Verdict: Clone {
    /// It lets the request pass.
    fn is_favourable(&self) -> bool;
}

impl Verdict for bool {
    fn is_favourable(&self) -> bool {
        *self
    }
}

/// Digest of a question.
pub(crate) type Question = [u8; 32];

/// See the module doc. Shared by all workers.
pub(crate) struct Answers<V> {
    key: hmac::Key,
    state: Mutex<State<V>>,
    asked_max: usize,
}

struct State<V> {
    favourable: Store<V>,
    others: Store<V>,
    asked: HashMap<Question, Vec<oneshot::Sender<V>>>,
}

/// Two halves: what was used since the younger one was begun is in it, and when it is full the older one goes.
struct Store<V> {
    young: HashMap<Question, Known<V>>,
    old: HashMap<Question, Known<V>>,
    half: usize,
}

struct Known<V> {
    verdict: V,
    until: Instant,
}

/// How a question stands.
pub(crate) enum Stand<V> {
    Known(V),
    /// Somebody has asked it.
    Asked(oneshot::Receiver<V>),
    /// It is the caller's to be asked; the answer comes to the receiver, too.
    Open(Asking<V>, oneshot::Receiver<V>),
    /// As many questions as there may be are on their way.
    Full,
}

/// A question on its way. Dropped without an answer it leaves those who wait without one.
pub(crate) struct Asking<V> {
    answers: Arc<Answers<V>>,
    question: Question,
    open: bool,
}

impl<V: Verdict> Answers<V> {
    /// Remembers at most `known_max` favourable answers and half as many others, in memory of about 100 bytes and a verdict each; at most
    /// `asked_max` are asked at a time.
    pub(crate) fn new(known_max: usize, asked_max: usize) -> Result<Arc<Answers<V>>, String> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        Ok(Arc::new(Answers {
            key: key.map_err(|_| "the machine has no random numbers")?,
            state: Mutex::new(State {
                favourable: Store::new(known_max.div_ceil(2)),
                others: Store::new(known_max.div_ceil(4)),
                asked: HashMap::new(),
            }),
            asked_max,
        }))
    }

    /// The digest of a question that is made of these parts.
    pub(crate) fn question(&self, parts: &[&[u8]]) -> Question {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut question = Question::default();
        question.copy_from_slice(context.sign().as_ref());
        question
    }

    pub(crate) fn look(self: &Arc<Self>, question: Question, now: Instant) -> Stand<V> {
        let mut state = self.state();
        if let Some(verdict) = state.favourable.find(&question, now).or_else(|| state.others.find(&question, now)) {
            return Stand::Known(verdict);
        }
        let (sender, receiver) = oneshot::channel();
        if let Some(waiting) = state.asked.get_mut(&question) {
            waiting.push(sender);
            return Stand::Asked(receiver);
        }
        if state.asked.len() >= self.asked_max {
            return Stand::Full;
        }
        state.asked.insert(question, vec![sender]);
        Stand::Open(Asking { answers: self.clone(), question, open: true }, receiver)
    }

    fn state(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V> Asking<V> {
    /// Whether anybody still waits for the answer.
    pub(crate) fn is_wanted(&self) -> bool {
        let state = self.answers.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.asked.get(&self.question).is_some_and(|waiting| waiting.iter().any(|sender| !sender.is_closed()))
    }
}

impl<V: Verdict> Asking<V> {
    /// Tells everybody who waits. It is remembered for as long as it holds.
    pub(crate) fn answer(mut self, verdict: V, holds: Duration) {
        self.open = false;
        let mut state = self.answers.state();
        if !holds.is_zero() {
            let until = Instant::now() + holds;
            let known = Known { verdict: verdict.clone(), until };
            let store = if verdict.is_favourable() { &mut state.favourable } else { &mut state.others };
            store.keep(self.question, known);
        }
        let waiting = state.asked.remove(&self.question).unwrap_or_default();
        drop(state);
        for sender in waiting {
            // Who has left needs no answer.
            let _ = sender.send(verdict.clone());
        }
    }
}

impl<V> Drop for Asking<V> {
    fn drop(&mut self) {
        if self.open {
            let mut state = self.answers.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.asked.remove(&self.question);
        }
    }
}

impl<V: Clone> Store<V> {
    fn new(half: usize) -> Store<V> {
        Store { young: HashMap::new(), old: HashMap::new(), half: half.max(1) }
    }

    fn find(&mut self, question: &Question, now: Instant) -> Option<V> {
        if let Some(known) = self.young.get(question) {
            return (known.until > now).then(|| known.verdict.clone());
        }
        let known = self.old.remove(question).filter(|known| known.until > now)?;
        let verdict = known.verdict.clone();
        self.keep(*question, known);
        Some(verdict)
    }

    fn keep(&mut self, question: Question, known: Known<V>) {
        if self.young.len() >= self.half && !self.young.contains_key(&question) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(question, known);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn ask(answers: &Arc<Answers<bool>>, token: &str, verdict: bool, holds: Duration) {
        let question = answers.question(&[token.as_bytes()]);
        let Stand::Open(asking, _) = answers.look(question, Instant::now()) else { panic!("{token} is known") };
        asking.answer(verdict, holds);
    }

    fn known(answers: &Arc<Answers<bool>>, token: &str, now: Instant) -> Option<bool> {
        match answers.look(answers.question(&[token.as_bytes()]), now) {
            Stand::Known(verdict) => Some(verdict),
            _ => None,
        }
    }

    #[test]
    fn each_question_is_asked_once_at_a_time() {
        let answers = Answers::<bool>::new(10, 2).unwrap();
        let (one, two, three) = (answers.question(&[b"1"]), answers.question(&[b"2"]), answers.question(&[b"3"]));
        let now = Instant::now();
        let Stand::Open(asking, mut first) = answers.look(one, now) else { panic!() };
        let Stand::Asked(mut second) = answers.look(one, now) else { panic!() };
        let Stand::Open(given_up, mut lost) = answers.look(two, now) else { panic!() };
        assert!(matches!(answers.look(three, now), Stand::Full));
        drop(given_up);
        assert!(matches!(lost.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        asking.answer(true, HOUR);
        assert_eq!((first.try_recv(), second.try_recv()), (Ok(true), Ok(true)));
        assert!(matches!(answers.look(one, now), Stand::Known(true)));
        assert!(matches!(answers.look(three, now), Stand::Open(..)));
    }

    #[test]
    fn answers_end_and_few_are_kept() {
        let answers = Answers::<bool>::new(8, 2).unwrap();
        ask(&answers, "good", true, HOUR);
        ask(&answers, "never", true, Duration::ZERO);
        let now = Instant::now();
        assert_eq!((known(&answers, "good", now), known(&answers, "never", now)), (Some(true), None));
        assert_eq!(known(&answers, "good", now + HOUR + HOUR), None);
        ask(&answers, "kept", true, HOUR);
        for n in 0..1000 {
            ask(&answers, &format!("bad {n}"), false, HOUR);
        }
        assert!(answers.state().others.len() <= 4, "others are bounded");
        assert_eq!(known(&answers, "kept", now), Some(true), "guesses drive nobody out");
        for n in 0..1000 {
            ask(&answers, &format!("good {n}"), true, HOUR);
            assert_eq!(known(&answers, "kept", now), Some(true), "what is used stays");
        }
        assert!(answers.state().favourable.len() <= 8);
    }

    #[test]
    fn parts_are_told_apart() {
        let answers = Answers::<bool>::new(8, 2).unwrap();
        assert_ne!(answers.question(&[b"ab", b"c"]), answers.question(&[b"a", b"bc"]));
    }
}

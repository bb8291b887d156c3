//! Signed calls, each good for one receiver and one time.
//!
//! A receiver draws an *epoch* when it starts, and whoever calls asks for it first; the answer is signed, so that nothing is sent to
//! somebody who does not have the secret. A call is signed for this epoch, with the caller's own number and a sequence that counts
//! its calls. The receiver remembers per caller which of the last numbers came: a call comes through once, at this member, until
//! its next start. No clock is involved, so clocks that differ stop nobody.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::control::{lock, random};
use crate::secret::{Digits, hex};

/// The receiver's side.
pub struct Callers {
    inner: Mutex<Known>,
}

struct Known {
    epoch: Digits,
    callers: HashMap<String, Window>,
}

/// Which of a caller's numbers came: the highest, and a bit for each of those before it.
struct Window {
    highest: u64,
    seen: [u64; WINDOW / 64],
}

/// Why a call that is signed as it should be does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// It was signed for another start of this member, or for another member.
    Epoch,
    /// It came before, or so many came after it that nobody knows.
    Replayed,
}

/// The caller's side.
pub struct Receivers {
    /// This caller, until it ends.
    pub caller: Digits,
    /// By URL.
    epochs: Mutex<HashMap<String, Arc<str>>>,
    /// One for all receivers, so that two URLs may lead to the same.
    numbers: AtomicU64,
}

impl Callers {
    pub fn new() -> Self {
        Callers { inner: Mutex::new(Known { epoch: drawn(), callers: HashMap::new() }) }
    }

    pub fn epoch(&self) -> Digits {
        lock(&self.inner).epoch.clone()
    }

    /// Counts a call whose signature was found to be good.
    pub fn admit(&self, epoch: &str, caller: &str, number: u64) -> Result<(), Stale> {
        let mut known = lock(&self.inner);
        if epoch != known.epoch {
            return Err(Stale::Epoch);
        }
        if !known.callers.contains_key(caller) && known.callers.len() >= CALLERS_MAX {
            // With a new epoch nothing that was signed before counts, so there is nothing to remember.
            *known = Known { epoch: drawn(), callers: HashMap::new() };
            return Err(Stale::Epoch);
        }
        let window = known.callers.entry(caller.to_owned()).or_insert(Window { highest: 0, seen: [0; WINDOW / 64] });
        if window.take(number) { Ok(()) } else { Err(Stale::Replayed) }
    }
}

impl Window {
    /// Takes a number that has not come yet. Numbers begin with 1.
    fn take(&mut self, number: u64) -> bool {
        if number > self.highest {
            let gap = number - self.highest;
            if gap >= WINDOW as u64 {
                self.seen.fill(0);
            } else {
                (self.highest + 1..=number).for_each(|passed| self.set(passed, false));
            }
            self.highest = number;
            self.set(number, true);
            return true;
        }
        if number == 0 || self.highest - number >= WINDOW as u64 || self.is_set(number) {
            return false;
        }
        self.set(number, true);
        true
    }

    fn is_set(&self, number: u64) -> bool {
        let (word, bit) = Self::place(number);
        self.seen[word] & bit != 0
    }

    fn set(&mut self, number: u64, seen: bool) {
        let (word, bit) = Self::place(number);
        if seen { self.seen[word] |= bit } else { self.seen[word] &= !bit }
    }

    fn place(number: u64) -> (usize, u64) {
        let bit = (number % WINDOW as u64) as usize;
        (bit / 64, 1 << (bit % 64))
    }
}

impl Receivers {
    pub fn new() -> Self {
        Receivers { caller: drawn(), epochs: Mutex::default(), numbers: AtomicU64::new(1) }
    }

    pub fn epoch(&self, url: &str) -> Option<Arc<str>> {
        lock(&self.epochs).get(url).cloned()
    }

    pub fn agreed(&self, url: &str, epoch: &str) -> Arc<str> {
        let epoch: Arc<str> = epoch.into();
        let mut epochs = lock(&self.epochs);
        if epochs.len() >= RECEIVERS_MAX {
            epochs.clear();
        }
        epochs.insert(url.to_owned(), epoch.clone());
        epoch
    }

    /// The receiver does not know the epoch any more.
    pub fn forget(&self, url: &str, epoch: &str) {
        let mut epochs = lock(&self.epochs);
        if epochs.get(url).is_some_and(|known| **known == *epoch) {
            epochs.remove(url);
        }
    }

    pub fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }
}

/// Nobody draws the same.
pub fn drawn() -> Digits {
    let mut bytes = [0; 16];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        // The hasher's keys are the system's randomness too, and never repeat within a process.
        bytes[..8].copy_from_slice(&random().to_le_bytes());
        bytes[8..].copy_from_slice(&random().to_le_bytes());
    }
    hex(&bytes)
}

/// Calls of one caller that may overtake each other. Memory: a bit each.
const WINDOW: usize = 4096;
/// Callers that are remembered, some 600 bytes each: every start of every member and edge is one, until this member has seen so many.
const CALLERS_MAX: usize = 16_384;
/// URLs that epochs are remembered of; a cluster has fewer members.
const RECEIVERS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_counts_once_in_any_order() {
        let callers = Callers::new();
        let epoch = callers.epoch();
        let admit = |number| callers.admit(&epoch, "c", number);
        for number in [1, 2, 5, 4, 3, 4000, 100, 8000] {
            assert_eq!(admit(number), Ok(()), "{number}");
            assert_eq!(admit(number), Err(Stale::Replayed), "{number} again");
        }
        assert_eq!(admit(0), Err(Stale::Replayed));
        assert_eq!(admit(8000 - WINDOW as u64), Err(Stale::Replayed), "too old to know");
        assert_eq!(admit(8001 - WINDOW as u64), Ok(()));
        assert_eq!(admit(u64::MAX), Ok(()));
        assert_eq!(admit(8002), Err(Stale::Replayed));
        assert_eq!(admit(u64::MAX - 1), Ok(()), "a leap empties the window");
        assert_eq!(callers.admit(&epoch, "another", 5), Ok(()), "callers are counted apart");
        assert_eq!(callers.admit(&Callers::new().epoch(), "c", 7), Err(Stale::Epoch));
    }

    #[test]
    fn more_callers_than_are_remembered_begin_a_new_epoch() {
        let callers = Callers::new();
        let epoch = callers.epoch();
        for n in 0..CALLERS_MAX {
            assert_eq!(callers.admit(&epoch, &n.to_string(), 1), Ok(()));
        }
        assert_eq!(callers.admit(&epoch, "one more", 1), Err(Stale::Epoch));
        assert_eq!(callers.admit(&epoch, "0", 1), Err(Stale::Epoch), "nothing that was signed before counts");
        assert_eq!(callers.admit(&callers.epoch(), "one more", 2), Ok(()));
    }
}

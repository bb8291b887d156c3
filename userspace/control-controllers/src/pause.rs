//! Pauses between two tries: longer each time, and of everybody's own length, so that not all come back at once.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Doubles from `first` to `longest`.
#[derive(Debug, Clone)]
pub struct Pause {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Pause {
    pub fn new(first: Duration, longest: Duration) -> Pause {
        Pause { first, longest, next: first }
    }

    /// All is well: the next fault is a first one.
    pub fn reset(&mut self) {
        self.next = self.first;
    }

    /// The next pause: between a half and the whole of its turn.
    pub fn take(&mut self) -> Duration {
        self.take_with(random())
    }

    fn take_with(&mut self, random: u64) -> Duration {
        let whole = self.next;
        self.next = (self.next * 2).min(self.longest);
        let half = whole / 2;
        half + Duration::from_nanos(random % (half.as_nanos() as u64).max(1))
    }
}

/// Another number each time.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        let mut pause = Pause::new(Duration::from_millis(100), Duration::from_millis(300));
        for whole in [100, 200, 300, 300] {
            let taken = pause.take_with(12_345_678_901);
            assert!((whole / 2..=whole).contains(&(taken.as_millis() as u64)), "{taken:?} of {whole}");
        }
        pause.reset();
        assert!(pause.take_with(0) == Duration::from_millis(50) && pause.take_with(7) > Duration::from_millis(100));
    }
}

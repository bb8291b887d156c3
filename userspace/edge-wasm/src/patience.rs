//! How long the thread that applies documents waits for programs.
//!
//! A request that comes after a change shall find the program that the change names, so applying waits a little for it to be compiled.
//! Whoever brings a hundred programs at once, or one that is never done, does not hold up what others change: there is so much patience
//! in all, and it comes back slowly.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Longest time that one document, or many in a row, wait.
const MOST: Duration = Duration::from_secs(3);

/// A part of the time that goes by comes back: one in so many.
const BACK: u32 = 10;

thread_local! {
    static LEFT: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
}

pub struct Patience(());

impl Patience {
    /// Waits as `wait` does, which is told how long it may.
    pub fn wait(wait: impl FnOnce(Duration)) {
        let begun = Instant::now();
        let left = left(LEFT.get(), begun);
        wait(left);
        LEFT.set(Some((Instant::now(), left.saturating_sub(begun.elapsed()))));
    }
}

fn left(before: Option<(Instant, Duration)>, now: Instant) -> Duration {
    before.map_or(MOST, |(then, left)| MOST.min(left + now.saturating_duration_since(then) / BACK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_slowly() {
        let now = Instant::now();
        let after = |left, seconds| super::left(Some((now, left)), now + Duration::from_secs(seconds));
        assert_eq!(left(None, now), MOST);
        assert_eq!((after(Duration::ZERO, 0), after(Duration::ZERO, 10)), (Duration::ZERO, Duration::from_secs(1)));
        assert_eq!((after(MOST, 10), after(Duration::ZERO, 3600)), (MOST, MOST));
    }
}

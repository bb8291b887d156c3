//! Below which rank nobody waits: it rises while requests wait too long and falls when they do not. Pure, fed once per window.
//!
//! The cut is where those above it are just more than what is served (as DAGOR finds it by a histogram of ranks, but in one step: what is
//! served is measured, not approached). Just more, so that nothing idles; what is too much of them the line bounds.

use super::rank::RANKS;
use std::time::Duration;

/// Length of a window.
pub const WINDOW: Duration = Duration::from_millis(200);

/// Of what is served, so much is let in while too much comes: more than all, so that nothing idles.
const LET_IN: f64 = 1.05;

/// By how much more is let in per window once nobody waits too long.
const RISES: f64 = 1.5;

/// Share of those who were let in that were refused after all, from which on too much comes.
const REFUSED: f64 = 0.02;

/// What a window has seen.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Requests that came, by rank; of a client with many waiting only a few.
    pub came: [u32; RANKS],
    /// Requests that got a place.
    pub served: u32,
    /// How long those waited, and those who gave up or were turned away, in the mean.
    pub waited: Duration,
    /// Requests that the cut let in and that had no place in the end.
    pub refused: u32,
    /// Places were free at its end.
    pub idle: bool,
}

impl Default for Seen {
    fn default() -> Seen {
        Seen { came: [0; RANKS], served: 0, waited: Duration::ZERO, refused: 0, idle: false }
    }
}

/// See the module doc.
#[derive(Debug, Clone)]
pub struct Threshold {
    /// Longest wait, in the mean, that is no overload.
    target: Duration,
    cut: u8,
}

impl Threshold {
    pub fn new(target: Duration) -> Threshold {
        Threshold { target, cut: 0 }
    }

    /// Lowest rank that is let in, 0 to 127: the highest always is.
    pub fn cut(&self) -> u8 {
        self.cut
    }

    /// Takes note of a window; says whether too much came.
    pub fn close(&mut self, seen: &Seen) -> bool {
        let overloaded = seen.waited > self.target || f64::from(seen.refused) > f64::from(seen.served) * REFUSED;
        if !overloaded && (self.cut == 0 || seen.idle && seen.served == 0) {
            self.cut = 0;
            return false;
        }
        let factor = if overloaded { LET_IN } else { RISES };
        let wanted = f64::from(seen.served) * factor + 1.0;
        let mut sum = 0.0;
        let cut = (0..RANKS).rev().find(|rank| {
            sum += f64::from(seen.came[*rank]);
            sum >= wanted
        });
        // All that comes is no more than what may: the door is open again.
        self.cut = cut.unwrap_or(0) as u8;
        overloaded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(came: &[(usize, u32)], served: u32, waited_ms: u64, refused: u32) -> Seen {
        let mut seen = Seen { served, waited: Duration::from_millis(waited_ms), refused, ..Seen::default() };
        came.iter().for_each(|(rank, count)| seen.came[*rank] = *count);
        seen
    }

    #[test]
    fn it_rises_at_once_to_what_is_served_and_falls_step_by_step() {
        let mut threshold = Threshold::new(Duration::from_millis(20));
        let even: Vec<(usize, u32)> = (32..64).map(|rank| (rank, 100)).chain([(100, 50)]).collect();
        assert!(!threshold.close(&seen(&even, 3250, 5, 0)));
        assert_eq!(threshold.cut(), 0);
        // Ten times what is served comes: 50 of a higher priority, and three cohorts of the others.
        assert!(threshold.close(&seen(&even, 325, 80, 500)));
        assert_eq!(threshold.cut(), 61);
        assert!(!threshold.close(&seen(&even, 340, 3, 0)));
        assert_eq!(threshold.cut(), 59);
        // The rush is over.
        assert!(!threshold.close(&seen(&[(40, 100), (100, 50)], 150, 0, 0)));
        assert_eq!(threshold.cut(), 0);
    }

    #[test]
    fn the_highest_rank_is_never_cut_off() {
        let mut threshold = Threshold::new(Duration::from_millis(20));
        assert!(threshold.close(&seen(&[(127, 10_000)], 10, 100, 5000)));
        assert_eq!(threshold.cut(), 127);
        assert!(!threshold.close(&Seen { idle: true, ..Seen::default() }));
        assert_eq!(threshold.cut(), 0);
    }
}

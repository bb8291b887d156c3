//! What happens again and again and is told once in a while, so that a log has room for the rest.

use std::time::{Duration, Instant};

/// When something was told last.
#[derive(Debug)]
pub struct Seldom {
    between: Duration,
    told: Option<Instant>,
}

impl Seldom {
    /// At most once in this time.
    pub const fn once_in(between: Duration) -> Seldom {
        Seldom { between, told: None }
    }

    /// Whether it is to be told now; then it counts as told.
    pub fn is_due(&mut self) -> bool {
        self.is_due_at(Instant::now())
    }

    fn is_due_at(&mut self, now: Instant) -> bool {
        let is_due = self.told.is_none_or(|told| now.saturating_duration_since(told) >= self.between);
        if is_due {
            self.told = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_at_once_and_then_once_in_a_while() {
        let begin = Instant::now();
        let mut seldom = Seldom::once_in(Duration::from_secs(60));
        let due: Vec<bool> =
            [0, 1, 59, 60, 61, 119, 300].map(|second| seldom.is_due_at(begin + Duration::from_secs(second))).into();
        assert_eq!(due, [true, false, false, true, false, false, true]);
        assert!(!seldom.is_due_at(begin), "a clock that was set back brings nothing forward");
    }
}

//! How often a client may ask whether the server is there, where a server says so: as the servers of gRPC hold their clients to it
//! (proposal A8). Who has asked too early three times, and was sent nothing meanwhile that made it ask, is sent away.

use std::time::{Duration, Instant};

/// What a server asks of its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PingRules {
    /// Shortest time between two PINGs while a request is under way, and without one where `without_requests`.
    pub pause: Duration,
    /// Clients may ask while no request is under way; else the pause is two hours then.
    pub without_requests: bool,
}

/// PINGs that may come too early before one is too many.
const EARLY_MOST: u32 = 2;

/// The pause while nothing is under way, where clients should not ask then.
const IDLE_PAUSE: Duration = Duration::from_secs(2 * 3600);

/// What a client that asked too often is told, by which clients of gRPC know to ask less often.
pub(crate) const TOO_MANY: &[u8] = b"too_many_pings";

#[derive(Debug)]
pub(crate) struct Pings {
    rules: PingRules,
    /// When what is looked at came.
    pub now: Option<Instant>,
    last: Option<Instant>,
    early: u32,
    /// Something was sent since the last one: clients measure the path by what they are sent.
    forgiven: bool,
}

impl Pings {
    pub fn new(rules: PingRules) -> Pings {
        Pings { rules, now: None, last: None, early: 0, forgiven: true }
    }

    /// One has come; says whether it was too many.
    pub fn handle(&mut self, requests: usize) -> bool {
        let last = std::mem::replace(&mut self.last, self.now);
        if std::mem::take(&mut self.forgiven) {
            self.early = 0;
            return false;
        }
        let pause = match requests {
            0 if !self.rules.without_requests => IDLE_PAUSE,
            _ => self.rules.pause,
        };
        if last.zip(self.now).is_some_and(|(last, now)| now.saturating_duration_since(last) < pause) {
            self.early += 1;
        }
        self.early > EARLY_MOST
    }

    /// A head, or something of a body, is sent.
    pub fn forgive(&mut self) {
        self.forgiven = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_that_comes_too_early_is_too_many() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let new = |without_requests| Pings::new(PingRules { pause: Duration::from_secs(10), without_requests });
        let mut pings = new(true);
        let handle = |pings: &mut Pings, now, requests| {
            pings.now = Some(now);
            pings.handle(requests)
        };
        // The first is measured by nothing.
        assert_eq!([0, 1, 2, 3].map(|second| handle(&mut pings, at(second), 1)), [false, false, false, true]);
        let mut pings = new(true);
        assert!((0..100).all(|n| !handle(&mut pings, at(n * 10), 0)), "as often as they may");
        let mut pings = new(false);
        assert!(!handle(&mut pings, at(0), 0));
        assert_eq!(
            [100, 200, 300].map(|second| handle(&mut pings, at(second), 0)),
            [false, false, true],
            "nothing is under way"
        );
        let mut pings = new(false);
        assert!((0..100).all(|n| !handle(&mut pings, at(n * 10), 1)));
        let mut pings = new(true);
        for second in 0..100 {
            assert!(!handle(&mut pings, at(second), 1), "it was sent something");
            pings.forgive();
        }
    }
}

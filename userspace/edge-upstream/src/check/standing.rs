//! What the outcomes of probes make of a server.
//!
//! ```text
//!            `fails` failures in a row
//!   well ───────────────────────────────→ unwell
//!    ↑                                      │
//!    └──────────────────────────────────────┘
//!            `passes` passes in a row
//! ```

/// Pure: outcomes in, changes out.
#[derive(Debug)]
pub(super) struct Standing {
    healthy: bool,
    /// Outcomes in a row that speak against what it is.
    against: u32,
    fails: u32,
    passes: u32,
}

impl Standing {
    pub fn new(healthy: bool, fails: u32, passes: u32) -> Standing {
        Standing { healthy, against: 0, fails: fails.max(1), passes: passes.max(1) }
    }

    /// Takes note of a probe. `Some`: what the server is from now on, having been something else.
    pub fn note(&mut self, passed: bool) -> Option<bool> {
        if passed == self.healthy {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let enough = if self.healthy { self.fails } else { self.passes };
        if self.against < enough {
            return None;
        }
        (self.healthy, self.against) = (passed, 0);
        Some(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` passes, `-` fails; what it is after each.
    fn walk(fails: u32, passes: u32, outcomes: &str) -> String {
        let mut standing = Standing::new(true, fails, passes);
        let mut now = true;
        let shown = |healthy: bool| if healthy { 'w' } else { 'u' };
        let step = |outcome: char| {
            if let Some(changed) = standing.note(outcome == '+') {
                assert_ne!(changed, now, "a change changes something");
                now = changed;
            }
            shown(now)
        };
        outcomes.chars().map(step).collect()
    }

    #[test]
    fn so_many_in_a_row_change_it() {
        assert_eq!(walk(1, 1, "+-+--+"), "wuwuuw");
        assert_eq!(walk(3, 2, "--+---+-++-"), "wwwwwuuuuww", "another outcome begins the count anew");
        assert_eq!(walk(2, 3, "--++-+++"), "wuuuuuuw");
        assert_eq!(walk(0, 0, "-+"), "uw", "none is one");
    }
}

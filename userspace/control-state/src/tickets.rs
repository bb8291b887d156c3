//! When session ticket keys change: a key is handed out first, and used once everybody has had time to hear of it.
//!
//! The leader asks [`ticket_step`] now and then and proposes what it says; the rules here hold whoever proposes, twice or late.

use std::sync::Arc;

use control_api::{Snapshot, TicketKey, TicketKeys};

/// How long a key makes tickets. Sessions outlive it by one more period, during which their tickets are still taken.
pub const TICKET_PERIOD_S: u64 = 12 * 3600;

/// How long a key is known before it makes tickets: a machine that hears nothing for longer loses no connection over it, its
/// clients shake hands in full.
pub const TICKET_LEAD_S: u64 = 60;

/// What is to be proposed next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TicketStep {
    /// A fresh key, as `next`.
    Stage,
    /// `next` becomes `current`.
    Promote,
}

/// What is due at `now`, in seconds since 1970.
pub fn ticket_step(keys: &TicketKeys, now: u64) -> Option<TicketStep> {
    match (&keys.current, &keys.next) {
        (None, _) => Some(TicketStep::Stage),
        (_, Some(_)) => (elapsed(now, keys.staged_at) >= TICKET_LEAD_S).then_some(TicketStep::Promote),
        (_, None) => (elapsed(now, keys.current_since) >= TICKET_PERIOD_S - TICKET_LEAD_S).then_some(TicketStep::Stage),
    }
}

/// The first key of a cluster is used at once: there is none that could be used meanwhile.
pub(crate) fn stage(view: &mut Snapshot, key: &TicketKey, now: u64) {
    let keys = Arc::make_mut(&mut view.tickets);
    if keys.current.is_none() {
        keys.current = Some(key.clone());
        keys.current_since = now;
    } else if keys.next.is_none() {
        keys.next = Some(key.clone());
        keys.staged_at = now;
    }
}

/// Without effect when another key is the next one by now.
pub(crate) fn promote(view: &mut Snapshot, name: &[u8; 16], now: u64) {
    if view.tickets.next.as_ref().is_none_or(|next| next.name != *name) {
        return;
    }
    let keys = Arc::make_mut(&mut view.tickets);
    keys.previous = keys.current.take();
    keys.current = keys.next.take();
    keys.current_since = now;
}

/// Clocks of leaders differ. A time that lies ahead by more than a period is no time to wait for.
fn elapsed(now: u64, then: u64) -> u64 {
    match now.checked_sub(then) {
        Some(passed) => passed,
        None if then - now > TICKET_PERIOD_S => u64::MAX,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, Command, State};

    fn key(n: u8) -> TicketKey {
        TicketKey { name: [n; 16], secret: [n; 32] }
    }

    fn names(keys: &TicketKeys) -> [Option<u8>; 3] {
        [&keys.previous, &keys.current, &keys.next].map(|key| key.as_ref().map(|key| key.name[0]))
    }

    struct Group {
        state: State,
        turn: u64,
    }

    impl Group {
        fn new() -> Group {
            Group { state: State::default(), turn: 0 }
        }

        fn apply(&mut self, action: Action) -> bool {
            self.turn += 1;
            let before = self.state.view.clone();
            let applied = self.state.apply(&Command { request: self.turn, now: "t".into(), action, by: None });
            assert!(applied.answer.is_ok());
            if let Some(delta) = &applied.delta {
                let mut moved = before;
                moved.advance(delta).unwrap();
                assert_eq!(moved, self.state.view, "the delta says all there is to say");
            }
            applied.delta.is_some()
        }

        fn stage(&mut self, n: u8, at: u64) -> bool {
            self.apply(Action::StageTicketKey { key: key(n), at })
        }

        fn promote(&mut self, n: u8, at: u64) -> bool {
            self.apply(Action::PromoteTicketKey { name: key(n).name, at })
        }

        fn step(&self, now: u64) -> Option<TicketStep> {
            ticket_step(&self.state.view.tickets, now)
        }
    }

    #[test]
    fn a_key_is_known_a_minute_before_it_makes_tickets() {
        let mut group = Group::new();
        assert_eq!(group.step(1000), Some(TicketStep::Stage));
        assert!(group.stage(1, 1000));
        assert_eq!(names(&group.state.view.tickets), [None, Some(1), None]);
        let mut now = 1000;
        for n in 2..6 {
            let due = now + TICKET_PERIOD_S - TICKET_LEAD_S;
            assert_eq!(group.step(due - 1), None);
            assert_eq!(group.step(due), Some(TicketStep::Stage));
            assert!(group.stage(n, due));
            assert_eq!(group.step(due + TICKET_LEAD_S - 1), None);
            now = due + TICKET_LEAD_S;
            assert_eq!(group.step(now), Some(TicketStep::Promote));
            assert!(group.promote(n, now));
            assert_eq!(names(&group.state.view.tickets), [Some(n - 1), Some(n), None]);
        }
    }

    #[test]
    fn what_two_leaders_propose_counts_once() {
        let mut group = Group::new();
        assert!(group.stage(1, 10) && group.stage(2, 20));
        assert!(!group.stage(3, 21), "there is a next one");
        assert!(!group.promote(9, 90), "not that one");
        assert!(group.promote(2, 100));
        assert!(!group.promote(2, 101));
        assert_eq!(names(&group.state.view.tickets), [Some(1), Some(2), None]);
    }

    #[test]
    fn a_clock_that_was_far_ahead_does_not_stop_the_rotation() {
        let mut group = Group::new();
        let ahead = 100 * TICKET_PERIOD_S;
        group.stage(1, ahead);
        assert_eq!(group.step(50), Some(TicketStep::Stage));
        group.stage(2, 50);
        assert_eq!(group.step(40), None, "a little back");
        assert_eq!(group.step(50 + TICKET_LEAD_S), Some(TicketStep::Promote));
    }

    #[test]
    fn a_file_of_an_older_version_is_read() {
        let state: State = serde_json::from_str(r#"{"view": {"version": 3}}"#).unwrap();
        assert_eq!(*state.view.tickets, TicketKeys::default());
    }
}

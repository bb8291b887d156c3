//! Purges of caches: each has a number, and the latest are kept for edges that come late.

use std::sync::Arc;

use control_api::{PURGES_KEPT, Purge, Purged, Snapshot};

pub(crate) fn purge(view: &mut Snapshot, cache: String, what: Purged) {
    let purges = Arc::make_mut(&mut view.purges);
    let number = purges.last().map_or(0, |last| last.number) + 1;
    purges.push(Purge { number, cache, what });
    let beyond = purges.len().saturating_sub(PURGES_KEPT);
    purges.drain(..beyond);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, Command, State};

    #[test]
    fn the_latest_are_kept_and_numbers_have_no_gaps() {
        let mut state = State::default();
        for request in 1..=PURGES_KEPT as u64 + 6 {
            let action = Action::PurgeCaches { cache: String::new(), what: Purged::Tag(format!("t{request}")) };
            assert_eq!(action.level(), 8);
            let applied = state.apply(Command { request, now: "t".into(), action, by: None });
            let delta = applied.delta.unwrap();
            assert_eq!(delta.purges.as_ref().unwrap().last().unwrap().number, request);
        }
        let numbers: Vec<u64> = state.view.purges.iter().map(|purge| purge.number).collect();
        assert_eq!(numbers, (7..=PURGES_KEPT as u64 + 6).collect::<Vec<_>>());
        let text = serde_json::to_vec(&state).unwrap();
        assert_eq!(State::read(&text, crate::LEVEL).unwrap().view.purges, state.view.purges);
        let other = State::of_view(Snapshot { purges: Arc::default(), ..state.view.clone() });
        assert_ne!(state.mark(1).view, other.mark(1).view, "members that differ in it are found out");
    }
}

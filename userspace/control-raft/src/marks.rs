//! Whether members hold the same: each tells the leader the sum over what it holds, and the leader compares it with its own at the same
//! place of the log. They differ only by a fault: of the program, or of a disk or memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use base_text::quoted;
use control_state::Mark;

use crate::control::lock;

/// This member's marks of the last entries, and whose differ.
#[derive(Default)]
pub struct Marks {
    last: Mutex<VecDeque<Mark>>,
    /// By member, in words. On the leader of all the others, elsewhere of this member.
    diverged: Mutex<BTreeMap<String, String>>,
}

impl Marks {
    pub fn push(&self, mark: Mark) {
        let mut last = lock(&self.last);
        if last.len() >= KEPT {
            last.pop_front();
        }
        last.push_back(mark);
    }

    /// The state was taken from elsewhere; what was before it is none of its.
    pub fn restart(&self, mark: Mark) {
        let mut last = lock(&self.last);
        last.clear();
        last.push_back(mark);
    }

    pub fn latest(&self) -> Option<Mark> {
        lock(&self.last).back().copied()
    }

    /// Compares another's mark with ours at its place; says how they differ. What is not to be compared, because this member is not
    /// there yet or has forgotten, changes nothing.
    pub fn compare(&self, leader: &str, name: &str, theirs: &Mark) -> Option<String> {
        let ours = self.at(theirs);
        let mut diverged = lock(&self.diverged);
        if let Some(ours) = ours {
            let rest = theirs.index == 0 || ours.rest == theirs.rest;
            if ours.version == theirs.version && ours.view == theirs.view && rest {
                if diverged.remove(name).is_some() {
                    tracing::info!(member = name, "holds what the leader holds again");
                }
            } else if !diverged.contains_key(name) {
                let place = match theirs.index {
                    0 => format!("version {}", theirs.version),
                    index => format!("entry {index} of the log"),
                };
                let told = format!(
                    "the state of member {name} differs from that of the leader, {leader}, at {place}: one of the two has a damaged copy of \
                     the configuration (compare what both answer to weirctl get all -o yaml); stop the one that is wrong, move its \
                     {file} away, and start it: it is told everything anew by the others",
                    name = quoted(name),
                    leader = quoted(leader),
                    file = crate::store::FILE,
                );
                tracing::error!("{told}");
                diverged.insert(name.to_owned(), told);
            }
        }
        diverged.get(name).cloned()
    }

    /// What the leader says of this member.
    pub fn told(&self, name: &str, diverged: Option<String>) {
        let mut known = lock(&self.diverged);
        if let Some(told) = &diverged
            && !known.contains_key(name)
        {
            tracing::error!("{told}");
        }
        *known = diverged.map(|told| (name.to_owned(), told)).into_iter().collect();
    }

    /// A member that leads from now on compares by itself; of one that is gone nothing is known.
    pub fn retain(&self, known: impl Fn(&str) -> bool) {
        lock(&self.diverged).retain(|name, _| known(name));
    }

    pub fn diverged(&self) -> Vec<String> {
        lock(&self.diverged).values().cloned().collect()
    }

    fn at(&self, theirs: &Mark) -> Option<Mark> {
        let last = lock(&self.last);
        if theirs.index == 0 {
            return last.iter().rev().find(|ours| ours.version == theirs.version).copied();
        }
        let place = last.binary_search_by_key(&theirs.index, |ours| ours.index).ok()?;
        last.get(place).copied()
    }
}

/// More entries than a busy cluster applies between two heartbeats, at 40 bytes each.
const KEPT: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(index: u64, view: u64) -> Mark {
        Mark { index, version: index / 2, view, rest: 7 }
    }

    #[test]
    fn marks_are_compared_at_the_same_place_alone() {
        let marks = Marks::default();
        (1..=10).for_each(|n| marks.push(mark(n, n / 2)));
        let compare = |theirs: Mark| marks.compare("n1", "n2", &theirs);
        assert_eq!(compare(mark(4, 2)), None);
        assert_eq!(compare(mark(11, 0)), None, "the leader is not there yet");
        let told = compare(mark(5, 9)).unwrap();
        assert!(told.contains("member \"n2\"") && told.contains("entry 5"), "{told}");
        assert!(compare(mark(11, 0)).is_some(), "what cannot be compared proves nothing");
        assert_eq!(marks.diverged().len(), 1);
        assert_eq!(compare(mark(6, 3)), None);
        assert!(compare(Mark { rest: 8, ..mark(6, 3) }).is_some());
        // One that follows versions holds no more than what readers see.
        assert_eq!(compare(Mark { index: 0, rest: 0, ..mark(6, 3) }), None);
        assert!(compare(Mark { index: 0, rest: 0, ..mark(6, 4) }).unwrap().contains("version 3"));
        marks.retain(|name| name != "n2");
        assert!(marks.diverged().is_empty());
        (11..=KEPT as u64 + 11).for_each(|n| marks.push(mark(n, n / 2)));
        assert_eq!(compare(mark(5, 9)), None, "it is forgotten");
    }
}

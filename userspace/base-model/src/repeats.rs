//! What a list holds twice, told at the cost of reading it once: lists of a hundred thousand routes are written by programs.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;

/// Items that stand further up already, each as (its place, place of the first one like it).
pub fn repeats<T: Hash + Eq>(items: impl IntoIterator<Item = T>) -> impl Iterator<Item = (usize, usize)> {
    let mut known = HashMap::new();
    items.into_iter().enumerate().filter_map(move |(at, item)| match known.entry(item) {
        Entry::Occupied(first) => Some((at, *first.get())),
        Entry::Vacant(free) => {
            free.insert(at);
            None
        }
    })
}

/// Each item where it stands first, for lists that may not hold one twice.
pub fn once<T: Hash + Eq + Clone>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut known = HashSet::new();
    items.into_iter().filter(|item| known.insert(item.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_repeat_names_the_first() {
        let found: Vec<_> = repeats(["a", "b", "a", "c", "b", "a"]).collect();
        assert_eq!(found, [(2, 0), (4, 1), (5, 0)]);
        assert_eq!(repeats(Vec::<u8>::new()).count(), 0);
        assert_eq!(once(["b", "a", "b", "c", "a"]), ["b", "a", "c"]);
    }
}

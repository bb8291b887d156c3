//! What is taken out of caches by name, and what must not come in again because it was on its way.

use proto_cache::key::url_of;
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

/// What to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purge {
    /// Every entry.
    All,
    /// What is kept for one URL, as keys write it: `http://host/path?query`.
    Url(Vec<u8>),
    /// What is kept for URLs that begin so.
    Prefix(Vec<u8>),
    /// What its origin has given this tag.
    Tag(Box<str>),
}

impl Purge {
    pub fn hits(&self, key: &[u8], tags: &[Box<str>]) -> bool {
        match self {
            Purge::All => true,
            Purge::Url(url) => url_of(key) == url,
            Purge::Prefix(prefix) => url_of(key).starts_with(prefix),
            // They are sorted.
            Purge::Tag(tag) => tags.binary_search(tag).is_ok(),
        }
    }
}

/// How many purges there had been at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// The latest purges of a store.
#[derive(Debug)]
pub struct Purges {
    count: u64,
    /// Which was the latest of a URL with such a hash: writes are many, and each purges one.
    urls: Box<[u64; URL_PLACES]>,
    hasher: RandomState,
    /// The others, with their numbers.
    recent: VecDeque<(u64, Purge)>,
    /// The latest of those that are forgotten.
    forgotten: u64,
}

/// Places for purges of URLs. Those that share one are taken for each other, so that now and then an answer is not kept that might be.
const URL_PLACES: usize = 4096;

/// Purges of other kinds that are remembered. What was asked for before the oldest of them is not kept.
const RECENT_MOST: usize = 256;

impl Default for Purges {
    fn default() -> Purges {
        Purges {
            count: 0,
            urls: Box::new([0; URL_PLACES]),
            hasher: RandomState::new(),
            recent: VecDeque::new(),
            forgotten: 0,
        }
    }
}

impl Purges {
    pub fn ticket(&self) -> Ticket {
        Ticket(self.count)
    }

    pub fn note(&mut self, purge: Purge) {
        self.count += 1;
        if let Purge::Url(url) = &purge {
            self.urls[self.place_of(url)] = self.count;
            return;
        }
        if self.recent.len() == RECENT_MOST {
            self.forgotten = self.recent.pop_front().map_or(0, |(number, _)| number);
        }
        self.recent.push_back((self.count, purge));
    }

    /// Whether an answer has been purged since, or may have been.
    pub fn has_hit_since(&self, ticket: Ticket, key: &[u8], tags: &[Box<str>]) -> bool {
        let since = |number: u64| number > ticket.0;
        since(self.forgotten)
            || since(self.urls[self.place_of(url_of(key))])
            || self.recent.iter().rev().take_while(|(number, _)| since(*number)).any(|(_, purge)| purge.hits(key, tags))
    }

    fn place_of(&self, url: &[u8]) -> usize {
        self.hasher.hash_one(url) as usize % URL_PLACES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_purge_hits_what_it_names() {
        let tags = ["a".into(), "b c".into()];
        let key = b"http://h/a/b?c\nx-host:e";
        for (purge, hits) in [
            (Purge::All, true),
            (Purge::Url(b"http://h/a/b?c".to_vec()), true),
            (Purge::Url(b"http://h/a/b".to_vec()), false),
            (Purge::Prefix(b"http://h/a/".to_vec()), true),
            (Purge::Prefix(b"http://h/b".to_vec()), false),
            (Purge::Tag("b c".into()), true),
            (Purge::Tag("b".into()), false),
        ] {
            assert_eq!(purge.hits(key, &tags), hits);
        }
    }

    #[test]
    fn what_was_on_its_way_is_purged_too() {
        let mut purges = Purges::default();
        let before = purges.ticket();
        purges.note(Purge::Url(b"http://h/a".to_vec()));
        let after = purges.ticket();
        assert!(purges.has_hit_since(before, b"http://h/a", &[]));
        assert!(!purges.has_hit_since(before, b"http://h/b", &[]));
        assert!(!purges.has_hit_since(after, b"http://h/a", &[]));
        for _ in 0..=RECENT_MOST {
            purges.note(Purge::Tag("x".into()));
        }
        assert!(purges.has_hit_since(after, b"http://h/b", &[]), "nobody knows any more");
        let late = purges.ticket();
        purges.note(Purge::Tag("y".into()));
        assert!(!purges.has_hit_since(late, b"http://h/b", &["x".into()]));
        // However many writes there are, what they do not speak of is kept.
        for n in 0..100 {
            purges.note(Purge::Url(format!("http://h/{n}").into_bytes()));
        }
        let kept = (0..100).filter(|n| !purges.has_hit_since(late, format!("http://i/{n}").as_bytes(), &[])).count();
        assert!(kept > 80, "{kept}");
    }
}

//! What stands in front of a body, or alone: an answer with its key, or a purge of what was written before.

use super::super::Purge;
use proto_cache::{Kept, written};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const ANSWER: u8 = 0;
const PURGE_ALL: u8 = 1;
const PURGE_URL: u8 = 2;
const PURGE_PREFIX: u8 = 3;
const PURGE_TAG: u8 = 4;

/// A head that was read.
pub(super) enum Head<'a> {
    Answer {
        key: &'a [u8],
        /// As the clock on the wall had it, which may have been set since.
        received: Instant,
        kept: Box<Kept>,
    },
    Purge(Purge),
}

/// The head of an answer.
pub(super) fn answer(key: &[u8], kept: &Kept) -> Vec<u8> {
    let received = since_1970().saturating_sub(kept.freshness.received.elapsed());
    let mut head = Vec::with_capacity(512);
    head.push(ANSWER);
    written::text(key, &mut head);
    head.extend_from_slice(&u64::try_from(received.as_millis()).unwrap_or(0).to_le_bytes());
    written::write(kept, &mut head);
    head
}

/// The head of a purge.
pub(super) fn purge(purge: &Purge) -> Vec<u8> {
    let (kind, what): (u8, &[u8]) = match purge {
        Purge::All => (PURGE_ALL, b""),
        Purge::Url(url) => (PURGE_URL, url),
        Purge::Prefix(prefix) => (PURGE_PREFIX, prefix),
        Purge::Tag(tag) => (PURGE_TAG, tag.as_bytes()),
    };
    [&[kind], what].concat()
}

/// Reads a head; `None` where it is none.
pub(super) fn read(head: &[u8]) -> Option<Head<'_>> {
    let (kind, mut rest) = head.split_first()?;
    let purge = match *kind {
        ANSWER => {
            let key = written::read_text(&mut rest)?;
            let (millis, kept) = rest.split_at_checked(8)?;
            let then = Duration::from_millis(u64::from_le_bytes(millis.try_into().ok()?));
            let received = Instant::now().checked_sub(since_1970().saturating_sub(then)).unwrap_or_else(Instant::now);
            let kept = Box::new(written::read(kept, received)?);
            return Some(Head::Answer { key, received, kept });
        }
        PURGE_ALL => Purge::All,
        PURGE_URL => Purge::Url(rest.to_vec()),
        PURGE_PREFIX => Purge::Prefix(rest.to_vec()),
        PURGE_TAG => Purge::Tag(std::str::from_utf8(rest).ok()?.into()),
        _ => return None,
    };
    Some(Head::Purge(purge))
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Where in a log something is: what is later is greater.
pub(super) type At = (u64, u64);

/// The purges of a log: the latest that names something.
#[derive(Default)]
pub(super) struct Purges {
    all: Option<At>,
    urls: HashMap<Vec<u8>, At>,
    prefixes: HashMap<Vec<u8>, At>,
    /// Those that there are, so that a URL is looked up once for each.
    lengths: HashSet<usize>,
    tags: HashMap<Box<str>, At>,
}

impl Purges {
    /// Takes one in; they come in the order they were written.
    pub(super) fn add(&mut self, purge: Purge, at: At) {
        match purge {
            Purge::All => *self = Purges { all: Some(at), ..Purges::default() },
            Purge::Url(url) => drop(self.urls.insert(url, at)),
            Purge::Prefix(prefix) => {
                self.lengths.insert(prefix.len());
                self.prefixes.insert(prefix, at);
            }
            Purge::Tag(tag) => drop(self.tags.insert(tag, at)),
        }
    }

    /// Whether one of them names what was written at a place before it.
    pub(super) fn hit(&self, key: &[u8], tags: &[Box<str>], at: At) -> bool {
        let url = proto_cache::key::url_of(key);
        let later = |purge: Option<&At>| purge.is_some_and(|purge| *purge > at);
        let prefixes = || self.lengths.iter().filter_map(|length| self.prefixes.get(url.get(..*length)?));
        later(self.all.as_ref())
            || later(self.urls.get(url))
            || tags.iter().any(|tag| later(self.tags.get(tag)))
            || prefixes().any(|purge| *purge > at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purges_are_written_and_hit_what_was_there_before_them() {
        let mut purges = Purges::default();
        let tags: [Box<str>; 2] = ["a".into(), "b".into()];
        for (place, purge) in [
            Purge::Url(b"http://h/a?q".to_vec()),
            Purge::Prefix(b"http://h/dir/".to_vec()),
            Purge::Prefix(b"http://h/d".to_vec()),
            Purge::Tag("b".into()),
        ]
        .into_iter()
        .enumerate()
        {
            let head = super::purge(&purge);
            match read(&head) {
                Some(Head::Purge(again)) => assert_eq!(again, purge),
                _ => panic!("{purge:?} is no purge"),
            }
            purges.add(purge, (10, place as u64));
        }
        for (key, tags, at, is_hit) in [
            (&b"http://h/a?q\nx-lang:de"[..], &[][..], (10, 0), false),
            (b"http://h/a?q\nx-lang:de", &[], (9, 7), true),
            (b"http://h/a", &[], (9, 7), false),
            (b"http://h/dir/b", &[], (10, 1), true),
            (b"http://h/dir/b", &[], (10, 2), false),
            (b"http://h/", &[], (0, 0), false),
            (b"http://h/x", &tags, (10, 2), true),
            (b"http://h/x", &tags, (10, 3), false),
            (b"http://h/x", &tags[..1], (0, 0), false),
        ] {
            assert_eq!(purges.hit(key, tags, at), is_hit, "{} at {at:?}", String::from_utf8_lossy(key));
        }
        assert!(matches!(read(&super::purge(&Purge::All)), Some(Head::Purge(Purge::All))));
        purges.add(Purge::All, (11, 0));
        assert!(purges.hit(b"http://h/x", &[], (10, 99)) && !purges.hit(b"http://h/a?q", &[], (11, 1)));
        for bytes in [&b""[..], b"\x09", b"\x04\xff", b"\x00\x05\0\0\0abc"] {
            assert!(read(bytes).is_none(), "{bytes:?}");
        }
    }
}

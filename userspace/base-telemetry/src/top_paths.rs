//! Which paths get the most requests. Workers count paths as they come into a small table; once a round the tables are taken away
//! and clustered into patterns, so a request pays for one hash and one lookup.
//!
//! A path position with more than 20 distinct values becomes `*`, as in Easegress. Paths with the same number of segments are
//! clustered among themselves.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::time::Duration;

use serde_json::{Value, json};

use crate::block::{Block, QUANTILES};
use crate::histogram::{COARSE, Counts, VALUE_MAX, slot, slot_value};
use crate::shard::Totals;

/// Distinct paths a worker keeps apart within a round. Further paths share an entry with those of the same shape.
const PATHS_MAX: usize = 512;
/// Shapes kept for paths beyond [`PATHS_MAX`]; requests beyond these are counted as missed.
const SHAPES_MAX: usize = 256;
/// Paths of a table whose latencies are kept in a histogram; the others keep [`KEPT`] latencies picked at random.
const DETAILED_MAX: usize = 128;
const KEPT: usize = 8;
/// Bytes of a path that are looked at.
const PATH_BYTES_MAX: usize = 256;
/// Statuses kept apart for one path and round.
const CODES_MAX: usize = 16;
/// Distinct values of a position after which it collapses.
const VALUES_MAX: usize = 20;
/// Patterns remembered; beyond them the one that was idle longest goes.
const PATTERNS_MAX: usize = 4098;
/// Nodes of the tree that finds patterns: what 4098 patterns of a dozen unshared segments need is far above what is ever seen.
const NODES_MAX: usize = 16_384;
/// Deeper paths are clustered as if they had this many segments.
const SEGMENTS_MAX: usize = 256;
/// Entries of `topN`.
pub(crate) const TOP: usize = 10;

/// One worker's paths of the current round.
#[derive(Debug, Default)]
pub(crate) struct PathTable {
    entries: Entries,
    room: Room,
    random: u64,
}

type Entries = HashMap<u64, PathEntry, BuildHasherDefault<Ready>>;

/// How far the bounds of a table are used up.
#[derive(Debug, Default)]
struct Room {
    shapes: usize,
    detailed: usize,
    missed: u64,
}

#[derive(Debug)]
struct PathEntry {
    path: Box<str>,
    totals: Totals,
    codes: Vec<(u16, u64)>,
    kept_us: [u32; KEPT],
    detail: Option<Box<[u32; 29 * COARSE]>>,
}

impl PathTable {
    pub(crate) fn add(&mut self, seed: u64, path: &str, status: u16, duration_ns: u64, request: u64, response: u64) {
        let path = path.get(..path.floor_char_boundary(PATH_BYTES_MAX)).unwrap_or(path);
        let key = hash(seed, path.as_bytes());
        let entry = match self.entries.get_mut(&key) {
            Some(entry) => entry,
            None => match enter(&mut self.entries, &mut self.room, seed, key, path) {
                Some(entry) => entry,
                None => return,
            },
        };
        let seen = entry.totals.count;
        entry.totals.record(status, duration_ns, request, response);
        match entry.codes.iter().position(|(code, _)| *code == status) {
            Some(at) => entry.codes[at].1 += 1,
            None if entry.codes.len() < CODES_MAX => entry.codes.push((status, 1)),
            None => self.room.missed += 1,
        }
        let us = (duration_ns / 1000).min(VALUE_MAX);
        if let Some(detail) = &mut entry.detail {
            detail[slot::<COARSE>(us)] += 1;
        } else if let Some(kept) = entry.kept_us.get_mut(seen as usize) {
            *kept = us as u32;
        } else if self.room.detailed < DETAILED_MAX {
            self.room.detailed += 1;
            let mut detail = Box::new([0; 29 * COARSE]);
            for us in entry.kept_us.iter().map(|&us| u64::from(us)).chain([us]) {
                detail[slot::<COARSE>(us)] += 1;
            }
            entry.detail = Some(detail);
        } else {
            self.random = (self.random ^ seed).wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            if let Some(kept) = entry.kept_us.get_mut(((self.random >> 33) % (seen + 1)) as usize) {
                *kept = us as u32;
            }
        }
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.room = Room::default();
    }
}

/// Makes the entry of a path seen for the first time: its own, or that of its shape when the table is full.
fn enter<'a>(entries: &'a mut Entries, room: &mut Room, seed: u64, key: u64, path: &str) -> Option<&'a mut PathEntry> {
    let mut key = key;
    if entries.len() - room.shapes >= PATHS_MAX {
        key = shape(seed, path);
        if !entries.contains_key(&key) {
            if room.shapes >= SHAPES_MAX {
                room.missed += 1;
                return None;
            }
            room.shapes += 1;
        }
    }
    Some(entries.entry(key).or_insert_with(|| PathEntry::new(path)))
}

impl PathEntry {
    fn new(path: &str) -> Self {
        Self { path: path.into(), totals: Totals::default(), codes: Vec::new(), kept_us: [0; KEPT], detail: None }
    }

    fn latencies(&self, into: &mut Counts<COARSE>) {
        if let Some(detail) = &self.detail {
            for (slot, &n) in detail.iter().enumerate().filter(|&(_, &n)| n > 0) {
                into.record_n(slot_value::<COARSE>(slot), u64::from(n));
            }
            return;
        }
        // Each kept latency stands for its share of the requests.
        let kept = self.totals.count.min(KEPT as u64);
        for (index, &us) in (0..kept).zip(&self.kept_us) {
            let share = self.totals.count / kept + u64::from(index < self.totals.count % kept);
            into.record_n(u64::from(us), share);
        }
    }
}

/// A seed nobody outside can guess, so that nobody can choose paths that collide.
pub(crate) fn seed() -> u64 {
    RandomState::new().hash_one(0u8) | 1
}

/// Hashes eight bytes at a time: a path of 20 bytes takes about 2 ns.
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let mut state = seed ^ (bytes.len() as u64);
    let mix = |state: u64, word: u64| {
        let product = u128::from(state ^ word) * u128::from(seed ^ 0x9e37_79b9_7f4a_7c15);
        (product as u64) ^ ((product >> 64) as u64)
    };
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        state = mix(state, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(mix(state, u64::from_le_bytes(last)), seed)
}

/// A path with every segment that holds a digit taken for a variable. One pass over the bytes: a flood of new paths comes here.
fn shape(seed: u64, path: &str) -> u64 {
    let mut state = !seed;
    let (mut segment, mut variable) = (seed, false);
    for &b in path.as_bytes().iter().chain(b"/") {
        if b == b'/' {
            let word = if variable { 1 } else { segment };
            state = (state ^ word).wrapping_mul(seed).rotate_left(23);
            (segment, variable) = (seed, false);
        } else {
            variable |= b.is_ascii_digit();
            segment = (segment ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    state ^ (state >> 29)
}

/// The keys are hashes already.
#[derive(Debug, Default)]
struct Ready(u64);

impl Hasher for Ready {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = hash(self.0 | 1, bytes);
    }
}

/// Patterns with their stat blocks, kept by whoever closes the rounds.
#[derive(Debug, Default)]
pub(crate) struct TopPaths {
    clusters: Clusters,
    patterns: HashMap<Box<str>, Pattern>,
    round: u64,
}

#[derive(Debug, Default)]
struct Pattern {
    totals: Totals,
    block: Block,
    codes: BTreeMap<u16, u64>,
    latency_us: Counts<COARSE>,
    seen_in: u64,
}

impl TopPaths {
    /// Takes in what a worker counted and empties its table. Returns how many samples found no room.
    pub(crate) fn ingest(&mut self, table: &mut PathTable) -> u64 {
        let mut name = String::new();
        for entry in table.entries.values() {
            self.clusters.pattern(&entry.path, &mut name);
            let pattern = match self.patterns.get_mut(name.as_str()) {
                Some(pattern) => pattern,
                None => self.patterns.entry(name.as_str().into()).or_default(),
            };
            pattern.totals.absorb(&entry.totals);
            entry.codes.iter().for_each(|&(code, n)| *pattern.codes.entry(code).or_insert(0) += n);
            entry.latencies(&mut pattern.latency_us);
            pattern.seen_in = self.round + 1;
        }
        let missed = table.room.missed;
        table.clear();
        missed
    }

    /// Closes the round. Returns how many patterns were forgotten to stay within bounds.
    pub(crate) fn tick(&mut self, elapsed: Duration) -> u64 {
        self.round += 1;
        self.merge_collapsed();
        let forgotten = self.forget_idle();
        for pattern in self.patterns.values_mut() {
            let percentiles = std::mem::take(&mut pattern.latency_us).quantiles(QUANTILES);
            pattern.block.tick(elapsed, &pattern.totals, std::mem::take(&mut pattern.codes), percentiles);
        }
        forgotten + std::mem::take(&mut self.clusters.full)
    }

    /// The busiest patterns since the start.
    pub(crate) fn json(&self) -> Vec<Value> {
        let mut order: Vec<_> = self.patterns.iter().collect();
        order.sort_unstable_by(|a, b| b.1.totals.count.cmp(&a.1.totals.count).then_with(|| a.0.cmp(b.0)));
        order
            .into_iter()
            .take(TOP)
            .map(|(path, pattern)| {
                let mut item = serde_json::Map::from_iter([("path".to_owned(), json!(path))]);
                item.extend(pattern.block.json(&pattern.totals));
                Value::Object(item)
            })
            .collect()
    }

    /// Moves what was counted under a constant into the `*` that its position has become since. Merging may add values to other
    /// positions and collapse those, so it is repeated, a few times at most: what is left is merged in the next round.
    fn merge_collapsed(&mut self) {
        let mut name = String::new();
        for _ in 0..4 {
            if !std::mem::take(&mut self.clusters.collapsed) {
                return;
            }
            for (old, pattern) in std::mem::take(&mut self.patterns) {
                self.clusters.pattern(&old, &mut name);
                let into = self.patterns.entry(name.as_str().into()).or_default();
                into.totals.absorb(&pattern.totals);
                into.block.absorb(&pattern.block);
                pattern.codes.iter().for_each(|(&code, &n)| *into.codes.entry(code).or_insert(0) += n);
                pattern.latency_us.iter().for_each(|(value, n)| into.latency_us.record_n(value, n));
                into.seen_in = into.seen_in.max(pattern.seen_in);
            }
        }
    }

    fn forget_idle(&mut self) -> u64 {
        let excess = self.patterns.len().saturating_sub(PATTERNS_MAX);
        if excess > 0 {
            let mut order: Vec<_> = self.patterns.iter().map(|(k, p)| (p.seen_in, p.totals.count, k.clone())).collect();
            order.sort_unstable();
            for (.., path) in order.into_iter().take(excess) {
                self.patterns.remove(&path);
            }
        }
        excess as u64
    }
}

/// The tree of path positions, one root for each number of segments.
#[derive(Debug, Default)]
struct Clusters {
    nodes: Vec<Node>,
    free: Vec<usize>,
    roots: BTreeMap<usize, usize>,
    collapsed: bool,
    full: u64,
}

#[derive(Debug, Default)]
struct Node {
    values: Vec<(Box<str>, usize)>,
    /// Set once the position has collapsed.
    any: Option<usize>,
}

impl Clusters {
    /// Writes the pattern of a path into `out`, learning its values.
    fn pattern(&mut self, path: &str, out: &mut String) {
        out.clear();
        if path.is_empty() {
            return;
        }
        let path = path.strip_prefix('/').unwrap_or(path);
        let segments = path.split('/').count().min(SEGMENTS_MAX);
        let mut at = match self.roots.get(&segments) {
            Some(&root) => Some(root),
            None => self.node().inspect(|&root| {
                self.roots.insert(segments, root);
            }),
        };
        for segment in path.splitn(SEGMENTS_MAX, '/') {
            out.push('/');
            let (text, next) = match at {
                Some(node) => self.step(node, segment),
                None => ("*", None),
            };
            out.push_str(text);
            at = next;
        }
    }

    /// One position further: the text to show, and the node behind it unless the tree is full.
    fn step<'a>(&mut self, node: usize, segment: &'a str) -> (&'a str, Option<usize>) {
        if let Some(any) = self.nodes[node].any {
            return ("*", Some(any));
        }
        if let Some((_, next)) = self.nodes[node].values.iter().find(|(value, _)| **value == *segment) {
            return (segment, Some(*next));
        }
        if self.nodes[node].values.len() < VALUES_MAX
            && let Some(next) = self.node()
        {
            self.nodes[node].values.push((segment.into(), next));
            return (segment, Some(next));
        }
        if self.nodes[node].values.is_empty() {
            self.full += 1;
            return ("*", None);
        }
        self.collapsed = true;
        let mut gone = std::mem::take(&mut self.nodes[node].values);
        while let Some((_, child)) = gone.pop() {
            let child_node = std::mem::take(&mut self.nodes[child]);
            gone.extend(child_node.values);
            gone.extend(child_node.any.map(|any| (Box::from(""), any)));
            self.free.push(child);
        }
        let any = self.node();
        self.nodes[node].any = any;
        ("*", any)
    }

    fn node(&mut self) -> Option<usize> {
        if let Some(free) = self.free.pop() {
            return Some(free);
        }
        if self.nodes.len() >= NODES_MAX {
            return None;
        }
        self.nodes.push(Node::default());
        Some(self.nodes.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ewma::TICK;

    #[test]
    fn clusters() {
        // (paths seen first, path asked for, pattern)
        let ids =
            |prefix: &str, n: usize, suffix: &str| (0..n).map(|i| format!("{prefix}{i}{suffix}")).collect::<Vec<_>>();
        check(&[], "", "");
        check(&[], "/", "/");
        check(&[], "no/slash", "/no/slash");
        check(&ids("/users/", 19, ""), "/users/next", "/users/next");
        check(&ids("/users/", 20, ""), "/users/next", "/users/*");
        check(&ids("/users/", 20, ""), "/users/3", "/users/3");
        check(&ids("/users/", 21, ""), "/users/3", "/users/*");
        check(&ids("/users/", 21, ""), "/orders/3", "/orders/3");
        check(&ids("/users/", 21, ""), "/users/3/friends", "/users/3/friends");
        check(&ids("/users/", 30, "/friends"), "/users/x/friends", "/users/*/friends");
        let friends: Vec<_> = (0..30).flat_map(|i| ids(&format!("/users/{i}/friends/"), 30, "")).collect();
        check(&friends, "/users/x/friends/y", "/users/*/friends/*");
        check(&ids("/", 30, ""), "/x", "/*");
    }

    #[test]
    fn bounded_against_endless_paths() {
        let mut top = TopPaths::default();
        let mut table = PathTable::default();
        let mut state = 1u64;
        for round in 0..20 {
            for _ in 0..2000 {
                let mut path = String::new();
                for _ in 0..12 {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(round);
                    path.push('/');
                    path.push(char::from(b'a' + (state >> 59) as u8 % 15));
                }
                table.add(7, &path, 200, 1000, 1, 1);
            }
            assert!(table.entries.len() <= PATHS_MAX + SHAPES_MAX);
            assert!(top.ingest(&mut table) > 0, "misses are reported");
            top.tick(TICK);
            assert!(top.patterns.len() <= PATTERNS_MAX && top.clusters.nodes.len() <= NODES_MAX);
        }
        assert!(top.json().len() <= TOP);
    }

    #[test]
    fn numbers_in_paths_beyond_the_table_still_count_for_their_pattern() {
        let mut top = TopPaths::default();
        let mut table = PathTable::default();
        for i in 0..10_000 {
            table.add(9, &format!("/item/{i}"), 200, 2_000_000, 1, 1);
        }
        assert_eq!(top.ingest(&mut table), 0);
        top.tick(TICK);
        let items = top.json();
        assert_eq!(items[0]["path"], "/item/*");
        assert_eq!(items[0]["count"], 10_000);
        assert!((items[0]["p50"].as_f64().unwrap() - 2.0).abs() < 0.15, "{}", items[0]);
    }

    #[test]
    fn counts_move_when_a_position_collapses() {
        let mut top = TopPaths::default();
        let mut table = PathTable::default();
        for i in 0..40 {
            table.add(9, &format!("/u/{i}"), if i % 4 == 0 { 404 } else { 200 }, 1_000_000, 1, 1);
            if i % 10 == 9 {
                top.ingest(&mut table);
                top.tick(TICK);
            }
        }
        let items = top.json();
        assert_eq!(items.len(), 1, "{items:?}");
        assert_eq!((&items[0]["count"], &items[0]["errCount"]), (&json!(40), &json!(10)));
    }

    #[test]
    fn top_is_sorted_and_has_percentiles() {
        let mut top = TopPaths::default();
        let mut table = PathTable::default();
        for rank in 1..=15u64 {
            for i in 0..rank * 10 {
                table.add(3, &format!("/p{rank}"), 200, (i + 1) * 1_000_000, 5, 6);
            }
        }
        top.ingest(&mut table);
        top.tick(TICK);
        let items = top.json();
        assert_eq!(items.len(), TOP);
        assert_eq!((&items[0]["path"], &items[0]["count"]), (&json!("/p15"), &json!(150)));
        assert_eq!(items[9]["path"], "/p6");
        assert!((items[0]["p50"].as_f64().unwrap() / 75.0 - 1.0).abs() < 0.07, "{}", items[0]);
        assert_eq!(items[0]["codes"], json!({"200": 150}));
    }

    fn check(seen: &[String], path: &str, expected: &str) {
        let mut clusters = Clusters::default();
        let mut out = String::new();
        seen.iter().for_each(|path| clusters.pattern(path, &mut out));
        clusters.pattern(path, &mut out);
        assert_eq!(out, expected, "after {} paths like {:?}", seen.len(), seen.first());
    }
}

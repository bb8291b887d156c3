//! Sources from which nothing is taken for a while, because too much of what they asked for was refused.
//!
//! A filter counts what it refuses of each source ([`Refusals`]); one that is refused too often comes into the list of this machine
//! ([`Bans`]), from which listeners take no connections and, where the kernel steers, its programs no packets. Sources are peers of
//! connections: who only comes by a proxy's address is none, because that address is everybody's who comes by it. Machines of the cluster
//! are none either, by the addresses at which they steer to each other: they send what others have sent.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use base_telemetry::registry::Encoder;
use edge_pipeline::Client;

use crate::source::network;

/// Sources that are banned at a time. One more takes the place of the one whose ban ends first.
pub const BANS_MAX: usize = 65_536;

/// An IPv6 address stands for so many of its bits.
pub const IPV6_BITS: u8 = 64;

/// When a source is banned, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub refusals: u32,
    pub within: Duration,
    pub duration: Duration,
}

/// One of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ban {
    pub until: Instant,
    /// Whose refusals it is for.
    pub by: Arc<str>,
}

/// The list.
#[derive(Debug, Default)]
pub struct Bans {
    /// There is one at least: nobody looks further while not.
    any: AtomicBool,
    list: RwLock<List>,
    /// Machines of the cluster, or the /64 of each: who shares it with one would be banned together with it.
    spared: ArcSwap<HashSet<IpAddr>>,
    /// Counts changes of the list.
    changes: Mutex<u64>,
    changed: Condvar,
    pub figures: Figures,
}

#[derive(Debug, Default)]
struct List {
    by_source: BTreeMap<IpAddr, Ban>,
    by_end: BTreeSet<(Instant, IpAddr)>,
}

/// Each only grows.
#[derive(Debug, Default)]
pub struct Figures {
    pub begun: AtomicU64,
    pub lifted: AtomicU64,
    /// Another took its place.
    pub displaced: AtomicU64,
    /// Not banned: the peer is a proxy, or a machine of the cluster.
    pub spared: AtomicU64,
    /// Sources whose refusals were forgotten before their time, because there were too many.
    pub forgotten: AtomicU64,
}

/// A source as people write it.
pub fn shown(source: IpAddr) -> String {
    if source.is_ipv4() { source.to_string() } else { format!("{source}/{IPV6_BITS}") }
}

/// Those of this machine.
pub fn bans() -> &'static Bans {
    static BANS: OnceLock<Bans> = OnceLock::new();
    BANS.get_or_init(Bans::default)
}

impl Bans {
    /// Whether nothing is to be taken from this address now.
    #[inline]
    pub fn keep_out(&self, ip: IpAddr) -> bool {
        self.any.load(Ordering::Relaxed) && self.finds(ip)
    }

    /// There are some.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    #[cold]
    fn finds(&self, ip: IpAddr) -> bool {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        list.by_source.get(&network(ip, IPV6_BITS)).is_some_and(|ban| ban.until > Instant::now())
    }

    /// From now on nothing is taken from the source of this address; one that is banned already is so for as long as either says.
    pub fn ban(&self, ip: IpAddr, duration: Duration, by: &Arc<str>) -> bool {
        if self.is_spared(ip) {
            self.figures.spared.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let (source, now) = (network(ip, IPV6_BITS), Instant::now());
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let until = now + duration;
        match list.by_source.get(&source).map(|ban| ban.until) {
            // Whose ban lasts longer has it.
            Some(before) if before >= until => return true,
            Some(before) => {
                list.by_end.remove(&(before, source));
            }
            None if list.by_source.len() >= BANS_MAX => {
                if let Some((_, first)) = list.by_end.pop_first() {
                    list.by_source.remove(&first);
                    self.figures.displaced.fetch_add(1, Ordering::Relaxed);
                }
            }
            None => {}
        }
        list.by_end.insert((until, source));
        list.by_source.insert(source, Ban { until, by: by.clone() });
        self.any.store(true, Ordering::Relaxed);
        drop(list);
        self.figures.begun.fetch_add(1, Ordering::Relaxed);
        self.tell();
        true
    }

    /// A machine of the cluster, this one among them.
    fn is_spared(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let own = [IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)];
        own.contains(&ip) || self.spared.load().contains(&network(ip, IPV6_BITS))
    }

    /// These are the cluster's machines: who is among them is banned no longer.
    pub fn spare(&self, machines: impl IntoIterator<Item = IpAddr>) {
        let machines: HashSet<IpAddr> = machines.into_iter().map(|ip| network(ip, IPV6_BITS)).collect();
        if **self.spared.load() == machines {
            return;
        }
        let named: Vec<IpAddr> = self.list().into_keys().filter(|source| machines.contains(source)).collect();
        self.spared.store(Arc::new(machines));
        for source in named {
            self.lift(source);
        }
    }

    /// Lets in again who was banned for the refusals of this one.
    fn lift_all_of(&self, by: &Arc<str>) {
        if !self.any() {
            return;
        }
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let List { by_source, by_end } = &mut *list;
        let before = by_source.len();
        by_source.retain(|_, ban| !Arc::ptr_eq(&ban.by, by));
        by_end.retain(|(_, source)| by_source.contains_key(source));
        let lifted = before - by_source.len();
        self.any.store(!by_source.is_empty(), Ordering::Relaxed);
        drop(list);
        if lifted > 0 {
            self.figures.lifted.fetch_add(lifted as u64, Ordering::Relaxed);
            self.tell();
        }
    }

    /// Those that a process before has banned are so on.
    pub fn inherit(&self, left: impl IntoIterator<Item = (IpAddr, Instant)>) {
        let by: Arc<str> = "the process before".into();
        let now = Instant::now();
        for (source, until) in left {
            self.ban(source, until.saturating_duration_since(now), &by);
        }
    }

    /// Takes its source out; `None` when it is not in there.
    pub fn lift(&self, ip: IpAddr) -> Option<IpAddr> {
        let source = network(ip, IPV6_BITS);
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let ban = list.by_source.remove(&source)?;
        list.by_end.remove(&(ban.until, source));
        self.any.store(!list.by_source.is_empty(), Ordering::Relaxed);
        drop(list);
        self.figures.lifted.fetch_add(1, Ordering::Relaxed);
        self.tell();
        Some(source)
    }

    /// Those in force.
    pub fn list(&self) -> BTreeMap<IpAddr, Ban> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).by_source.clone()
    }

    pub fn len(&self) -> usize {
        self.list.read().unwrap_or_else(PoisonError::into_inner).by_source.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes out those that are over.
    pub fn sweep(&self) {
        let now = Instant::now();
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let mut gone = false;
        while let Some((until, source)) = list.by_end.first().copied().filter(|(until, _)| *until <= now) {
            list.by_end.remove(&(until, source));
            list.by_source.remove(&source);
            gone = true;
        }
        self.any.store(!list.by_source.is_empty(), Ordering::Relaxed);
        drop(list);
        if gone {
            self.tell();
        }
    }

    fn tell(&self) {
        *self.changes() += 1;
        self.changed.notify_all();
    }

    fn changes(&self) -> MutexGuard<'_, u64> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the list is not as it was when this said `seen`, or for so long.
    pub fn wait(&self, seen: u64, most: Duration) -> u64 {
        let unchanged = |changes: &mut u64| *changes == seen;
        *self.changed.wait_timeout_while(self.changes(), most, unchanged).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Adds the figures.
    pub fn encode(&self, encoder: &mut Encoder) {
        let help = "Sources from which this machine takes nothing for a while.";
        encoder.gauge("weir_bans", help, &[], self.len() as f64);
        let help = "Bans of sources that were refused too often: begun or prolonged (begun), lifted by somebody, displaced by others because there \
                    were too many, and those that did not begin because the peer is a proxy or a machine of the cluster (spared); and \
                    sources whose refusals were forgotten before their time because there were too many (forgotten).";
        let Figures { begun, lifted, displaced, spared, forgotten } = &self.figures;
        for (what, count) in [
            ("begun", begun),
            ("lifted", lifted),
            ("displaced", displaced),
            ("spared", spared),
            ("forgotten", forgotten),
        ] {
            encoder.counter("weir_bans_total", help, &[("what", what)], count.load(Ordering::Relaxed) as f64);
        }
    }
}

/// What was refused of each source lately. Whoever was banned for it is let in when nothing has this any more: what bans nobody, because
/// it was taken out or says something else now, keeps nobody out.
#[derive(Debug)]
pub struct Refusals {
    rule: Rule,
    by: Arc<str>,
    counts: [Mutex<Counts>; SHARDS],
}

/// By source how many, and since when. Two halves: when the younger one is full it becomes the older one, which is forgotten.
#[derive(Debug, Default)]
struct Counts {
    young: HashMap<IpAddr, (u32, Instant)>,
    old: HashMap<IpAddr, (u32, Instant)>,
}

/// Workers that refuse different sources do not wait for each other.
const SHARDS: usize = 16;

/// Sources in each half of each.
const HALF: usize = 512;

impl Refusals {
    pub fn new(rule: Rule, by: String) -> Refusals {
        Refusals { rule, by: by.into(), counts: Default::default() }
    }

    /// One more of this client's requests was refused. Whether nothing is taken from it from now on.
    pub fn count(&self, client: &Client, bans: &Bans) -> bool {
        let peer = client.peer.ip();
        if !self.is_one_too_many(peer, base_runtime::now(), bans) {
            return false;
        }
        if client.proxied || client.real_ip.map(|ip| ip.to_canonical()) != Some(peer.to_canonical()) {
            bans.figures.spared.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        bans.ban(peer, self.rule.duration, &self.by)
    }

    fn is_one_too_many(&self, peer: IpAddr, now: Instant, bans: &Bans) -> bool {
        let source = network(peer, IPV6_BITS);
        let digits = match source {
            IpAddr::V4(ip) => ip.octets().iter().fold(0, |sum: u8, octet| sum.wrapping_add(*octet)),
            IpAddr::V6(ip) => ip.octets().iter().fold(0, |sum: u8, octet| sum.wrapping_add(*octet)),
        };
        let mut counts = self.counts[usize::from(digits) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner);
        let known = counts.young.get(&source).copied().or_else(|| counts.old.remove(&source));
        let (count, since) = match known {
            Some((count, since)) if now.saturating_duration_since(since) <= self.rule.within => (count + 1, since),
            _ => (1, now),
        };
        if count >= self.rule.refusals {
            counts.young.remove(&source);
            return true;
        }
        if counts.young.len() >= HALF && !counts.young.contains_key(&source) {
            let (full, within) = (std::mem::take(&mut counts.young), self.rule.within);
            let older = std::mem::replace(&mut counts.old, full);
            let early = older.values().filter(|(_, since)| now.saturating_duration_since(*since) <= within).count();
            bans.figures.forgotten.fetch_add(early as u64, Ordering::Relaxed);
        }
        counts.young.insert(source, (count, since));
        false
    }
}

impl Drop for Refusals {
    fn drop(&mut self) {
        bans().lift_all_of(&self.by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule { refusals: 3, within: Duration::from_secs(10), duration: Duration::from_secs(60) };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn client(peer: &str, real: &str) -> Client {
        Client { peer: (ip(peer), 40_000).into(), real_ip: Some(ip(real)), ..Client::default() }
    }

    fn who() -> Arc<str> {
        "somebody".into()
    }

    #[test]
    fn who_is_refused_so_often_within_a_time_is_banned() {
        let (bans, refusals, now) = (Bans::default(), Refusals::new(RULE, "p/l".into()), Instant::now());
        let at =
            |source: &str, second: u64| refusals.is_one_too_many(ip(source), now + Duration::from_secs(second), &bans);
        assert_eq!([at("192.0.2.1", 0), at("192.0.2.1", 5), at("192.0.2.2", 5)], [false; 3]);
        assert!(at("192.0.2.1", 10), "the third within ten seconds");
        assert!(!at("192.0.2.1", 10), "it begins anew");
        assert_eq!([at("192.0.2.2", 16), at("192.0.2.2", 17)], [false; 2], "the first of them was too long ago");
        assert!(at("192.0.2.2", 18));
        assert_eq!([at("2001:db8::1", 0), at("2001:db8::2", 0), at("2001:db8::3", 0)], [false, false, true], "one /64");
        assert!(!bans.any() && bans.is_empty(), "counting alone bans nobody");
    }

    #[test]
    fn only_the_peer_of_a_connection_is_banned() {
        let (bans, refusals) = (Bans::default(), Refusals::new(Rule { refusals: 1, ..RULE }, "p/l".into()));
        bans.spare([ip("192.0.2.200"), ip("2001:db8:9::1")]);
        // Said by a proxy, with a proxy's own address, by machines of the cluster, and by this machine.
        let proxied = Client { proxied: true, ..client("192.0.2.1", "192.0.2.1") };
        let unknown = Client { real_ip: None, ..client("192.0.2.1", "192.0.2.1") };
        for client in [
            client("192.0.2.1", "198.51.100.7"),
            proxied,
            unknown,
            client("192.0.2.200", "192.0.2.200"),
            client("::ffff:192.0.2.200", "192.0.2.200"),
            client("2001:db8:9::1", "2001:db8:9::1"),
            client("127.0.0.1", "127.0.0.1"),
            client("::1", "::1"),
        ] {
            assert!(!refusals.count(&client, &bans), "{client:?}");
        }
        assert!(bans.is_empty() && !bans.keep_out(ip("192.0.2.1")) && !bans.keep_out(ip("198.51.100.7")));
        assert_eq!(bans.figures.spared.load(Ordering::Relaxed), 8);
        assert!(refusals.count(&client("::ffff:192.0.2.1", "192.0.2.1"), &bans));
        assert!(
            bans.keep_out(ip("192.0.2.1")) && bans.keep_out(ip("::ffff:192.0.2.1")) && !bans.keep_out(ip("192.0.2.2"))
        );
        // Who becomes a machine is let in.
        bans.spare([ip("192.0.2.1")]);
        assert!(!bans.any() && !bans.keep_out(ip("192.0.2.1")));
    }

    #[test]
    fn a_ban_ends_and_may_be_lifted() {
        let bans = Bans::default();
        let seen = bans.wait(u64::MAX, Duration::ZERO);
        assert!(bans.ban(ip("2001:db8::1"), Duration::from_secs(60), &who()));
        assert_ne!(bans.wait(seen, Duration::from_secs(60)), seen, "somebody who waits is told");
        assert!(bans.keep_out(ip("2001:db8::ffff")) && !bans.keep_out(ip("2001:db8:0:1::1")));
        assert_eq!(bans.lift(ip("2001:db8::5")), Some(ip("2001:db8::")));
        assert_eq!((bans.lift(ip("2001:db8::5")), bans.any()), (None, false));
        // What is over keeps nobody out, swept or not.
        bans.ban(ip("192.0.2.1"), Duration::ZERO, &who());
        assert!(bans.any() && !bans.keep_out(ip("192.0.2.1")));
        bans.ban(ip("192.0.2.2"), Duration::from_secs(60), &who());
        bans.ban(ip("192.0.2.2"), Duration::ZERO, &who());
        bans.sweep();
        assert_eq!(bans.list().into_keys().collect::<Vec<_>>(), [ip("192.0.2.2")], "the longer one counts");
        // And has it: with it, it goes.
        let (long, short) = (who(), who());
        bans.ban(ip("192.0.2.3"), Duration::from_secs(90), &long);
        bans.ban(ip("192.0.2.3"), Duration::from_secs(30), &short);
        bans.lift_all_of(&short);
        assert_eq!(bans.len(), 2);
        bans.lift_all_of(&long);
        assert_eq!(bans.list().into_keys().collect::<Vec<_>>(), [ip("192.0.2.2")]);
        // A process takes on whom the one before has banned.
        let next = Bans::default();
        next.inherit(bans.list().into_iter().map(|(source, ban)| (source, ban.until)));
        assert!(next.keep_out(ip("192.0.2.2")) && next.len() == 1);
    }

    #[test]
    fn nothing_grows_without_a_bound() {
        let bans = Bans::default();
        let source = |n: usize| IpAddr::from((n as u32).to_be_bytes());
        for n in 0..BANS_MAX + 10 {
            // Those of the first end last.
            bans.ban(source(n), Duration::from_secs(1_000_000 - n as u64), &who());
        }
        assert_eq!((bans.len(), bans.figures.displaced.load(Ordering::Relaxed)), (BANS_MAX, 10));
        assert!(
            bans.keep_out(source(0)) && bans.keep_out(source(BANS_MAX + 9)) && !bans.keep_out(source(BANS_MAX + 5))
        );
        let refusals = Refusals::new(RULE, "p/l".into());
        (0..100_000).for_each(|n| assert!(!refusals.is_one_too_many(source(n), Instant::now(), &bans)));
        let kept: usize =
            refusals.counts.iter().map(|counts| counts.lock().unwrap()).map(|c| c.young.len() + c.old.len()).sum();
        assert!(kept <= 2 * HALF * SHARDS, "{kept}");
        assert_eq!(bans.figures.forgotten.load(Ordering::Relaxed), 100_000 - kept as u64);
    }
}

//! Who calls with which key, and how much of a quota is left: the Consumers of the configuration, as this machine serves them.
//!
//! One table for the process, found by the digest of a key, so that memory holds no key. A change of a Consumer keeps what was counted.
//! A key that several Consumers have is that of the first of them by name, on every machine and in whatever order they came; the others
//! say so in their status. So a Consumer is in force as it was written, whatever stands in others: a key that was taken away is out.
//! Memory: about 500 bytes per key.

use base_model::consumer::{ConsumerSpec, QuotaSpec};
use base_model::{Problem, problem::nth};
use base_telemetry::Telemetry;
use base_telemetry::registry::Encoder;
use ring::digest;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// SHA-256 of a key.
type Digest = [u8; 32];

/// Consumers with series of their own in the metrics; further ones are counted in status alone.
const SERIES_MAX: usize = 1000;

/// Every Consumer of this process.
#[derive(Debug, Default)]
pub struct Consumers {
    table: RwLock<Arc<Table>>,
}

#[derive(Debug, Clone, Default)]
struct Table {
    by_name: BTreeMap<String, Arc<Consumer>>,
    /// Those who have a key, by name, with its number among theirs. The first is who it belongs to.
    by_digest: HashMap<Digest, Vec<(Arc<Consumer>, usize)>>,
}

/// A Consumer.
#[derive(Debug)]
pub struct Consumer {
    pub name: Arc<str>,
    pub groups: Vec<String>,
    /// Joined by commas, for backends.
    pub groups_text: String,
    pub disabled: bool,
    quota: Option<Arc<Quota>>,
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    digest: Digest,
    name: String,
    quota: Option<Arc<Quota>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    served: AtomicU64,
    /// Beyond a quota.
    refused: AtomicU64,
}

/// Requests of the period that runs.
#[derive(Debug)]
struct Quota {
    spec: QuotaSpec,
    /// Number of the period since 1970, and requests in it.
    taken: Mutex<(u64, u64)>,
}

/// A Consumer, and the key he came with.
#[derive(Debug, Clone)]
pub struct Caller {
    pub consumer: Arc<Consumer>,
    key: usize,
}

impl Consumers {
    pub fn shared() -> &'static Consumers {
        static SHARED: OnceLock<Consumers> = OnceLock::new();
        SHARED.get_or_init(Consumers::default)
    }

    /// Puts a Consumer in force, or another version of it.
    pub fn apply(&self, name: &str, spec: &ConsumerSpec) -> Result<(), Vec<Problem>> {
        let mut place = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let before = place.by_name.get(name);
        let mut keys = Vec::new();
        for (n, key) in spec.keys.iter().enumerate() {
            let at = base_model::problem::at(&nth("keys", n), "key");
            let digest = key.digest().map_err(|why| vec![Problem::new(&at, why)])?;
            let known = before.and_then(|before| before.keys.iter().find(|known| known.digest == digest));
            keys.push(Key {
                digest,
                name: if key.name.is_empty() { n.to_string() } else { key.name.clone() },
                quota: Quota::after(key.quota, known.and_then(|known| known.quota.as_ref())),
                counts: known.map(|known| known.counts.clone()).unwrap_or_default(),
            });
        }
        let made = Arc::new(Consumer {
            name: name.into(),
            groups: spec.groups.clone(),
            groups_text: spec.groups.join(","),
            disabled: spec.disabled,
            quota: Quota::after(spec.quota, before.and_then(|before| before.quota.as_ref())),
            keys,
        });
        // Copied only while somebody reads it: ten thousand Consumers are not copied ten thousand times.
        let table = Arc::make_mut(&mut place);
        table.forget(name);
        table.add(&made);
        if let Some(problem) = table.problem(&made) {
            tracing::warn!(consumer = name, problem, "not every key leads to this Consumer");
        }
        Ok(())
    }

    pub fn remove(&self, name: &str) {
        let mut place = self.table.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut place).forget(name);
    }

    /// Whose key this is.
    pub fn find(&self, key: &[u8]) -> Option<Caller> {
        let mut digest = Digest::default();
        digest.copy_from_slice(digest::digest(&digest::SHA256, key).as_ref());
        let table = self.table();
        let (consumer, key) = table.by_digest.get(&digest)?.first()?;
        Some(Caller { consumer: consumer.clone(), key: *key })
    }

    /// What `GET /status/objects` shows of each.
    pub fn status(&self) -> BTreeMap<String, Value> {
        let now = now();
        let table = self.table();
        let told = |(name, consumer): (&String, &Arc<Consumer>)| {
            let mut status = consumer.status(now);
            if let Some(problem) = table.problem(consumer) {
                status["health"] = problem.into();
            }
            (name.clone(), status)
        };
        table.by_name.iter().map(told).collect()
    }

    /// Figures of each, in the metrics of this machine.
    pub fn tell(&'static self, telemetry: &Telemetry) {
        telemetry.registry().add(Box::new(move |encoder| self.encode(encoder)));
    }

    fn encode(&self, encoder: &mut Encoder) {
        for (name, consumer) in self.table().by_name.iter().take(SERIES_MAX) {
            for key in &consumer.keys {
                for (outcome, count) in [("served", &key.counts.served), ("quota", &key.counts.refused)] {
                    encoder.counter(
                        "weir_consumer_requests_total",
                        "Requests that came with a key of a Consumer, by outcome.",
                        &[("consumer", name), ("key", &key.name), ("outcome", outcome)],
                        count.load(Ordering::Relaxed) as f64,
                    );
                }
            }
        }
    }

    fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Table {
    fn add(&mut self, consumer: &Arc<Consumer>) {
        for (n, key) in consumer.keys.iter().enumerate() {
            let owners = self.by_digest.entry(key.digest).or_default();
            let at = owners.partition_point(|(other, _)| other.name <= consumer.name);
            owners.insert(at, (consumer.clone(), n));
        }
        self.by_name.insert(consumer.name.to_string(), consumer.clone());
    }

    fn forget(&mut self, name: &str) {
        let Some(gone) = self.by_name.remove(name) else { return };
        for key in &gone.keys {
            if let Some(owners) = self.by_digest.get_mut(&key.digest) {
                owners.retain(|(other, _)| &*other.name != name);
                if owners.is_empty() {
                    self.by_digest.remove(&key.digest);
                }
            }
        }
    }

    /// Keys that lead to another Consumer.
    fn problem(&self, consumer: &Consumer) -> Option<String> {
        let others = consumer.keys.iter().filter_map(|key| {
            let (owner, _) = self.by_digest.get(&key.digest)?.first()?;
            (owner.name != consumer.name)
                .then(|| format!("key {} is one of the Consumer {}, too", key.name, owner.name))
        });
        let told: Vec<String> = others.collect();
        (!told.is_empty()).then(|| format!("{}, whose it is; give every Consumer keys of its own", told.join("; ")))
    }
}

impl Consumer {
    fn status(&self, now: Duration) -> Value {
        let keys = self.keys.iter().map(|key| {
            json!({
                "name": key.name,
                "requests": key.counts.served.load(Ordering::Relaxed),
                "refused": key.counts.refused.load(Ordering::Relaxed),
                "quota": key.quota.as_ref().map(|quota| quota.status(now)),
            })
        });
        let keys: Vec<Value> = keys.collect();
        json!({"disabled": self.disabled, "keys": keys, "quota": self.quota.as_ref().map(|quota| quota.status(now))})
    }
}

impl Caller {
    /// The name of the key.
    pub fn key(&self) -> &str {
        &self.consumer.keys[self.key].name
    }

    /// Takes one request out of the quotas. The error says after how long there is something in them again.
    pub fn take(&self) -> Result<(), Duration> {
        self.take_at(now())
    }

    fn take_at(&self, now: Duration) -> Result<(), Duration> {
        let key = &self.consumer.keys[self.key];
        let quotas = key.quota.iter().chain(&self.consumer.quota);
        let mut taken: Vec<&Arc<Quota>> = Vec::new();
        for quota in quotas {
            if let Err(left) = quota.take(now) {
                taken.iter().for_each(|earlier| earlier.give_back(now));
                key.counts.refused.fetch_add(1, Ordering::Relaxed);
                return Err(left);
            }
            taken.push(quota);
        }
        key.counts.served.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Quota {
    /// As the document has it now; what was taken stays taken while the period is the same.
    fn after(spec: Option<QuotaSpec>, before: Option<&Arc<Quota>>) -> Option<Arc<Quota>> {
        let spec = spec?;
        let taken = match before.filter(|known| known.spec.per == spec.per) {
            Some(known) if known.spec == spec => return Some(known.clone()),
            Some(known) => *known.taken(),
            None => (0, 0),
        };
        Some(Arc::new(Quota { spec, taken: Mutex::new(taken) }))
    }

    fn take(&self, now: Duration) -> Result<(), Duration> {
        let (period, rest) = self.period(now);
        let mut taken = self.taken();
        if taken.0 != period {
            *taken = (period, 0);
        }
        if taken.1 >= self.spec.requests {
            return Err(rest);
        }
        taken.1 += 1;
        Ok(())
    }

    fn give_back(&self, now: Duration) {
        let mut taken = self.taken();
        if taken.0 == self.period(now).0 {
            taken.1 = taken.1.saturating_sub(1);
        }
    }

    /// The number of the period that runs, and how long it still does.
    fn period(&self, now: Duration) -> (u64, Duration) {
        let per = Duration::from(self.spec.per).as_millis().max(1);
        let rest = per - now.as_millis() % per;
        ((now.as_millis() / per) as u64, Duration::from_millis(rest as u64))
    }

    fn taken(&self) -> std::sync::MutexGuard<'_, (u64, u64)> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self, now: Duration) -> Value {
        let ((period, rest), taken) = (self.period(now), *self.taken());
        let used = if taken.0 == period { taken.1 } else { 0 };
        json!({"requests": self.spec.requests, "used": used, "resetSeconds": rest.as_secs()})
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> ConsumerSpec {
        base_model::decode(&base_model::yaml::parse_document(text).unwrap(), "").unwrap().value
    }

    const ONE: &str = "0123456789abcdef-1";
    const TWO: &str = "0123456789abcdef-2";

    #[test]
    fn keys_lead_to_their_consumer() {
        let consumers = Consumers::default();
        consumers
            .apply("a", &spec(&format!("{{keys: [{{key: {ONE}, name: old}}, {{key: {TWO}}}], groups: [gold, eu]}}")))
            .unwrap();
        let found = consumers.find(ONE.as_bytes()).unwrap();
        assert_eq!((&*found.consumer.name, found.key(), &*found.consumer.groups_text), ("a", "old", "gold,eu"));
        assert_eq!(consumers.find(TWO.as_bytes()).unwrap().key(), "1");
        assert!(consumers.find(b"").is_none() && consumers.find(b"0123456789abcdef-3").is_none());
        consumers.apply("a", &spec(&format!("{{keys: [{{key: {ONE}}}]}}"))).unwrap();
        assert!(consumers.find(TWO.as_bytes()).is_none(), "a key that was taken away is nobody's");
        consumers.apply("b", &spec(&format!("{{keys: [{{key: {TWO}}}]}}"))).unwrap();
        consumers.remove("a");
        assert!(consumers.find(ONE.as_bytes()).is_none() && consumers.find(TWO.as_bytes()).is_some());
    }

    #[test]
    fn a_key_of_two_is_the_first_ones_in_whatever_order_they_come() {
        let one = spec(&format!("{{keys: [{{key: {ONE}}}]}}"));
        let both = spec(&format!("{{keys: [{{key: {ONE}}}, {{key: {TWO}}}]}}"));
        let owner = |consumers: &Consumers, key: &str| Some(consumers.find(key.as_bytes())?.consumer.name.to_string());
        for order in [["a", "b"], ["b", "a"]] {
            let consumers = Consumers::default();
            order.iter().for_each(|name| consumers.apply(name, &both).unwrap());
            assert_eq!((owner(&consumers, ONE).as_deref(), owner(&consumers, TWO).as_deref()), (Some("a"), Some("a")));
            let status = consumers.status();
            assert!(
                status["a"].get("health").is_none() && status["b"]["health"].as_str().unwrap().contains("Consumer a")
            );
            // Whoever shares a key loses, as written, the one that is taken away.
            consumers.apply("a", &one).unwrap();
            assert_eq!(owner(&consumers, TWO).as_deref(), Some("b"));
            consumers.apply("b", &one).unwrap();
            assert_eq!((owner(&consumers, ONE).as_deref(), owner(&consumers, TWO)), (Some("a"), None));
            consumers.remove("a");
            assert_eq!(owner(&consumers, ONE).as_deref(), Some("b"));
            assert!(consumers.status()["b"].get("health").is_none());
        }
    }

    #[test]
    fn quotas_are_of_keys_and_of_all_together() {
        let consumers = Consumers::default();
        let text = |all: u32| {
            format!(
                "{{keys: [{{key: {ONE}, quota: {{requests: 2, per: 10s}}}}, {{key: {TWO}}}], quota: {{requests: {all}, per: 60s}}}}"
            )
        };
        consumers.apply("a", &spec(&text(4))).unwrap();
        let at = |seconds: u64| Duration::from_secs(6_000_000 + seconds);
        let take = |key: &str, seconds: u64| consumers.find(key.as_bytes()).unwrap().take_at(at(seconds));
        assert_eq!((take(ONE, 0), take(ONE, 1)), (Ok(()), Ok(())));
        assert_eq!(take(ONE, 3), Err(Duration::from_secs(7)), "the key's own");
        assert_eq!((take(ONE, 10), take(TWO, 11)), (Ok(()), Ok(())));
        assert_eq!(take(TWO, 12), Err(Duration::from_secs(48)), "that of all");
        // Another version of the document forgets nothing, and nothing refused was counted as taken.
        consumers.apply("a", &spec(&text(5))).unwrap();
        assert_eq!((take(TWO, 13), take(TWO, 14).is_err(), take(TWO, 60)), (Ok(()), true, Ok(())));
        let status = consumers.status();
        assert_eq!(status["a"]["keys"][0]["requests"], 3);
        assert_eq!((&status["a"]["keys"][1]["requests"], &status["a"]["keys"][1]["refused"]), (&json!(3), &json!(2)));
    }
}

//! Who calls with which key, and how much of a quota is left: the Consumers of the configuration, as this machine serves them.
//!
//! One table for the process, found by the digest of a key, so that memory holds no key. A change of a Consumer keeps what was counted.
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
    by_digest: HashMap<Digest, (Arc<Consumer>, usize)>,
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
            if let Some((other, _)) = place.by_digest.get(&digest).filter(|(other, _)| &*other.name != name) {
                let text = format!("it is a key of the Consumer {}, too", other.name);
                return Err(vec![Problem::new(at, text).advice("give every Consumer keys of its own")]);
            }
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
        let mut table = Table::clone(&place);
        table.forget(name);
        for (n, key) in made.keys.iter().enumerate() {
            table.by_digest.insert(key.digest, (made.clone(), n));
        }
        table.by_name.insert(name.to_owned(), made);
        *place = Arc::new(table);
        Ok(())
    }

    pub fn remove(&self, name: &str) {
        let mut place = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let mut table = Table::clone(&place);
        table.forget(name);
        *place = Arc::new(table);
    }

    /// Whose key this is.
    pub fn find(&self, key: &[u8]) -> Option<Caller> {
        let mut digest = Digest::default();
        digest.copy_from_slice(digest::digest(&digest::SHA256, key).as_ref());
        let table = self.table();
        table.by_digest.get(&digest).map(|(consumer, key)| Caller { consumer: consumer.clone(), key: *key })
    }

    /// What `GET /status/objects` shows of each.
    pub fn status(&self) -> BTreeMap<String, Value> {
        let now = now();
        self.table().by_name.iter().map(|(name, consumer)| (name.clone(), consumer.status(now))).collect()
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
    fn forget(&mut self, name: &str) {
        if let Some(gone) = self.by_name.remove(name) {
            gone.keys.iter().for_each(|key| drop(self.by_digest.remove(&key.digest)));
        }
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
        let taken = consumers.apply("b", &spec(&format!("{{keys: [{{key: {TWO}}}]}}"))).unwrap_err();
        assert_eq!(taken[0].path, "keys[0].key");
        consumers.apply("a", &spec(&format!("{{keys: [{{key: {ONE}}}]}}"))).unwrap();
        assert!(consumers.find(TWO.as_bytes()).is_none(), "a key that was taken away is nobody's");
        consumers.apply("b", &spec(&format!("{{keys: [{{key: {TWO}}}]}}"))).unwrap();
        consumers.remove("a");
        assert!(consumers.find(ONE.as_bytes()).is_none() && consumers.find(TWO.as_bytes()).is_some());
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

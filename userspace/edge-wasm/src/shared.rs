//! What the programs of one filter share, on all machines of the cluster.
//!
//! A program reads what this machine knows, which is the cluster's state a moment ago, and never waits for it; what it has written itself
//! it sees at once. It waits while what it writes is agreed upon. The cluster is somebody else's: whoever runs this process brings a
//! [`Writer`] and says what is there with [`publish`].

use arc_swap::ArcSwap;
use base_runtime::channel::Sender;
use base64::Engine;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Items by key, each as [`item`] makes it.
pub type Items = BTreeMap<String, Arc<Value>>;

/// A filter, by its pipeline's name and its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    pub pipeline: Arc<str>,
    pub filter: Arc<str>,
}

/// What a program asks for; the answer is the value that is there afterwards.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    Put(Vec<u8>),
    AddInteger(i64),
    AddFloat(f64),
}

/// A change on its way to the cluster.
pub struct Write {
    pub place: Place,
    pub key: String,
    pub change: Change,
    /// What is there now, or why nothing was changed.
    pub answer: Sender<Result<Vec<u8>, String>>,
}

/// Takes changes to the cluster. It must not wait, and answers each of them.
pub trait Writer: Send + Sync {
    /// Hands a change back that it cannot take now.
    fn write(&self, write: Write) -> Result<(), Write>;
}

static WRITER: OnceLock<Arc<dyn Writer>> = OnceLock::new();

/// From now on changes go there; the first one counts.
pub fn write_with(writer: Arc<dyn Writer>) {
    let _ = WRITER.set(writer);
}

/// Sends a change off.
pub(crate) fn write(write: Write) -> Result<(), String> {
    let writer = WRITER.get().ok_or("there is no cluster to share data with")?;
    writer.write(write).map_err(|_| "more changes of shared data wait than are taken at a time".to_owned())
}

/// What one filter's programs share, as this machine knows it.
#[derive(Debug, Default)]
pub struct Section {
    items: ArcSwap<Items>,
    /// Version of the configuration that they are of.
    version: AtomicU64,
}

static SECTIONS: Mutex<Option<HashMap<Place, Arc<Section>>>> = Mutex::new(None);

impl Section {
    /// The section of a filter, made where there is none.
    pub fn of(place: &Place) -> Arc<Section> {
        let mut sections = SECTIONS.lock().unwrap_or_else(PoisonError::into_inner);
        sections.get_or_insert_default().entry(place.clone()).or_default().clone()
    }

    /// The bytes kept under a key.
    pub fn value(&self, key: &str) -> Option<Vec<u8>> {
        self.items.load().get(key).and_then(|item| bytes_of(item))
    }

    /// How many keys begin so.
    pub fn count(&self, prefix: &str) -> usize {
        let items = self.items.load();
        items.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix)).count()
    }

    /// One at a time does this: the lock of [`SECTIONS`] is held.
    fn set(&self, version: u64, items: Arc<Items>) {
        self.version.store(version, Relaxed);
        self.items.store(items);
    }
}

/// Says what is there for one filter at a version of the configuration; what is older than what is there is not taken.
pub fn publish(place: &Place, version: u64, items: Arc<Items>) {
    let mut sections = SECTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let section = sections.get_or_insert_default().entry(place.clone()).or_default();
    if version >= section.version.load(Relaxed) {
        section.set(version, items);
    }
}

/// Says what is there for all filters at a version. The others share nothing, and are forgotten where no filter holds on to them.
/// `anew`: whatever is there is of another life of the cluster.
pub fn publish_all(all: &HashMap<Place, Arc<Items>>, version: u64, anew: bool) {
    let mut sections = SECTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let sections = sections.get_or_insert_default();
    for place in all.keys() {
        sections.entry(place.clone()).or_default();
    }
    sections.retain(|place, section| {
        let items = all.get(place);
        if anew || version >= section.version.load(Relaxed) {
            section.set(version, items.cloned().unwrap_or_default());
        }
        items.is_some() || Arc::strong_count(section) > 1
    });
}

/// How a value is kept in the cluster: as text, or in base64 where it is none.
pub fn item(key: &str, value: &[u8]) -> Value {
    match std::str::from_utf8(value) {
        Ok(text) => json!({"key": key, "value": text}),
        Err(_) => json!({"key": key, "base64": base64::engine::general_purpose::STANDARD.encode(value)}),
    }
}

/// The bytes of an item.
pub fn bytes_of(item: &Value) -> Option<Vec<u8>> {
    match (item.get("value"), item.get("base64")) {
        (Some(Value::String(text)), _) => Some(text.as_bytes().to_vec()),
        (None, Some(Value::String(digits))) => base64::engine::general_purpose::STANDARD.decode(digits).ok(),
        _ => None,
    }
}

/// The value after a change. Numbers are kept as decimal text; what is none counts as 0.
pub fn changed(before: Option<&[u8]>, change: &Change) -> Vec<u8> {
    match change {
        Change::Put(value) => value.clone(),
        Change::AddInteger(by) => integer(before).wrapping_add(*by).to_string().into_bytes(),
        Change::AddFloat(by) => (float(before) + by).to_string().into_bytes(),
    }
}

pub fn integer(value: Option<&[u8]>) -> i64 {
    number(value).unwrap_or(0)
}

pub fn float(value: Option<&[u8]>) -> f64 {
    number(value).unwrap_or(0.0)
}

fn number<N: std::str::FromStr>(value: Option<&[u8]>) -> Option<N> {
    std::str::from_utf8(value?).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back() {
        for value in [&b"text"[..], b"", b"\xff\0", "\u{4e2d}".as_bytes()] {
            assert_eq!(bytes_of(&item("k", value)).as_deref(), Some(value));
        }
        assert_eq!(bytes_of(&json!({"key": "k"})), None);
    }

    #[test]
    fn numbers() {
        let add = |before: &str, by| changed(Some(before.as_bytes()), &Change::AddInteger(by));
        assert_eq!((add("5", 2), add("x", 2), add("-1", 1)), (b"7".to_vec(), b"2".to_vec(), b"0".to_vec()));
        assert_eq!(changed(Some(b"1.5"), &Change::AddFloat(1.0)), b"2.5");
        assert_eq!(changed(None, &Change::AddFloat(0.25)), b"0.25");
        assert_eq!(changed(None, &Change::AddInteger(i64::MIN)), i64::MIN.to_string().into_bytes());
    }

    #[test]
    fn a_section_shows_what_was_published() {
        let place = Place { pipeline: "shared-p".into(), filter: "f".into() };
        let section = Section::of(&place);
        let items = |keys: &[&str]| -> Arc<Items> {
            Arc::new(keys.iter().map(|key| (key.to_string(), Arc::new(item(key, b"true")))).collect())
        };
        publish(&place, 2, items(&["id/a", "id/b", "idle", "x"]));
        publish(&place, 1, items(&[]));
        assert_eq!((section.count("id/"), section.count("id"), section.count("z"), section.count("")), (2, 3, 0, 4));
        assert_eq!((section.value("id/a"), section.value("none")), (Some(b"true".to_vec()), None));
        publish_all(&HashMap::new(), 3, false);
        assert_eq!(section.count(""), 0);
        let one = HashMap::from([(place.clone(), items(&["y"]))]);
        publish_all(&one, 2, false);
        assert_eq!(section.count(""), 0, "it is older");
        publish_all(&one, 1, true);
        assert_eq!(section.count(""), 1, "the section that a filter holds is the one that is published");
    }
}

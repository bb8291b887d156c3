//! What all VMs of a ProxyWasm share on this machine: data with versions, queues and metrics. It outlives programs and documents.
//!
//! All of it is bounded; what finds no room is refused, and counted as a hit of the limit `wasm_shared`.

use base_telemetry::Limit;
use base_telemetry::registry::Encoder;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// See the module doc.
#[derive(Default)]
pub struct Common {
    data: Mutex<Data>,
    queues: Mutex<Queues>,
    metrics: Mutex<Vec<Metric>>,
    refused: Option<Limit>,
}

#[derive(Default)]
struct Data {
    items: HashMap<Vec<u8>, (Vec<u8>, u32)>,
    bytes: usize,
}

#[derive(Default)]
struct Queues {
    all: Vec<(Vec<u8>, VecDeque<Vec<u8>>)>,
    bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

struct Metric {
    name: String,
    kind: Kind,
    value: i64,
    /// Of a histogram.
    records: u64,
}

/// Why data are not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Somebody else has set them meanwhile.
    Mismatch,
    Full,
}

impl Common {
    pub fn new(refused: Limit) -> Common {
        Common { refused: Some(refused), ..Common::default() }
    }

    /// A program was refused something for the sake of a bound.
    pub fn refused(&self) {
        if let Some(limit) = &self.refused {
            limit.hit(base_runtime::current_worker().map_or(usize::MAX, |worker| worker.index()));
        }
    }

    /// A value and its version.
    pub fn value(&self, key: &[u8]) -> Option<(Vec<u8>, u32)> {
        lock(&self.data).items.get(key).cloned()
    }

    /// Sets a value where it still has this version; 0 sets it whatever it has.
    pub fn set(&self, key: &[u8], value: &[u8], version: u32) -> Result<(), Refused> {
        let mut data = lock(&self.data);
        let known = data.items.get(key).map(|(value, version)| (value.len(), *version));
        if version != 0 && known.map_or(0, |(_, known)| known) != version {
            return Err(Refused::Mismatch);
        }
        let bytes = data.bytes + key.len() + value.len() - known.map_or(0, |(length, _)| key.len() + length);
        let is_new = known.is_none();
        if key.len() + value.len() > ITEM_MAX || bytes > BYTES_MAX || is_new && data.items.len() >= ITEMS_MAX {
            drop(data);
            self.refused();
            return Err(Refused::Full);
        }
        data.bytes = bytes;
        let version = known.map_or(0, |(_, version)| version).wrapping_add(1).max(1);
        data.items.insert(key.to_vec(), (value.to_vec(), version));
        Ok(())
    }

    /// The number of the queue of this name, which is made where there is none.
    pub fn queue(&self, name: &[u8]) -> Option<u32> {
        if let Some(id) = self.known_queue(name) {
            return Some(id);
        }
        let mut queues = lock(&self.queues);
        if queues.all.len() >= QUEUES_MAX || name.len() > NAME_MAX {
            drop(queues);
            self.refused();
            return None;
        }
        queues.all.push((name.to_vec(), VecDeque::new()));
        u32::try_from(queues.all.len()).ok()
    }

    pub fn known_queue(&self, name: &[u8]) -> Option<u32> {
        let at = lock(&self.queues).all.iter().position(|(known, _)| known == name)?;
        u32::try_from(at + 1).ok()
    }

    /// `None` where there is no such queue.
    pub fn push(&self, id: u32, value: &[u8]) -> Option<Result<(), Refused>> {
        let mut queues = lock(&self.queues);
        let bytes = queues.bytes + value.len();
        let (_, queue) = queues.all.get_mut((id as usize).wrapping_sub(1))?;
        if queue.len() >= ITEMS_MAX || value.len() > ITEM_MAX || bytes > BYTES_MAX {
            drop(queues);
            self.refused();
            return Some(Err(Refused::Full));
        }
        queue.push_back(value.to_vec());
        queues.bytes = bytes;
        Some(Ok(()))
    }

    /// The oldest of a queue; `None` where there is no such queue.
    pub fn pop(&self, id: u32) -> Option<Option<Vec<u8>>> {
        let mut queues = lock(&self.queues);
        let (_, queue) = queues.all.get_mut((id as usize).wrapping_sub(1))?;
        let value = queue.pop_front();
        queues.bytes -= value.as_ref().map_or(0, Vec::len);
        Some(value)
    }

    /// The number of a metric. `None` where there are too many, its name is no name, or it is one of another kind.
    pub fn define(&self, kind: Kind, name: &[u8]) -> Option<u32> {
        let name = std::str::from_utf8(name).ok().filter(|name| (1..=NAME_MAX).contains(&name.len()))?;
        let mut metrics = lock(&self.metrics);
        if let Some(at) = metrics.iter().position(|metric| metric.name == name) {
            return u32::try_from(at + 1).ok().filter(|_| metrics[at].kind == kind);
        }
        if metrics.len() >= METRICS_MAX {
            drop(metrics);
            self.refused();
            return None;
        }
        metrics.push(Metric { name: name.to_owned(), kind, value: 0, records: 0 });
        u32::try_from(metrics.len()).ok()
    }

    /// `None` where there is no such metric, false where it does not go that way.
    pub fn increment(&self, id: u32, by: i64) -> Option<bool> {
        self.with_metric(id, |metric| {
            let may = match metric.kind {
                Kind::Counter => by >= 0,
                Kind::Gauge => true,
                Kind::Histogram => false,
            };
            if may {
                metric.value = metric.value.saturating_add(by);
            }
            may
        })
    }

    pub fn record(&self, id: u32, value: u64) -> Option<()> {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.with_metric(id, |metric| match metric.kind {
            Kind::Counter => metric.value = metric.value.saturating_add(value),
            Kind::Gauge => metric.value = value,
            Kind::Histogram => {
                metric.value = metric.value.saturating_add(value);
                metric.records += 1;
            }
        })
    }

    pub fn metric(&self, id: u32) -> Option<i64> {
        self.with_metric(id, |metric| metric.value)
    }

    fn with_metric<T>(&self, id: u32, look: impl FnOnce(&mut Metric) -> T) -> Option<T> {
        lock(&self.metrics).get_mut((id as usize).wrapping_sub(1)).map(look)
    }

    /// What the program measures.
    pub fn encode(&self, encoder: &mut Encoder, pipeline: &str, filter: &str) {
        for metric in &*lock(&self.metrics) {
            let labels = [("pipeline", pipeline), ("filter", filter), ("name", metric.name.as_str())];
            let value = metric.value as f64;
            match metric.kind {
                Kind::Counter => {
                    let help =
                        "Counters of a ProxyWasm's program, by pipeline, filter and the program's name for them.";
                    encoder.counter("weir_proxy_wasm_counter_total", help, &labels, value);
                }
                Kind::Gauge => {
                    let help = "Gauges of a ProxyWasm's program, by pipeline, filter and the program's name for them.";
                    encoder.gauge("weir_proxy_wasm_gauge", help, &labels, value);
                }
                Kind::Histogram => {
                    let help = "Values that a ProxyWasm's program recorded, by pipeline, filter and the program's name for them.";
                    encoder.counter("weir_proxy_wasm_records_total", help, &labels, metric.records as f64);
                    let help = "Sum of the values that a ProxyWasm's program recorded, in the program's unit, by pipeline, filter and \
                                the program's name for them.";
                    encoder.counter("weir_proxy_wasm_recorded_total", help, &labels, value);
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Items of shared data and of each queue, bytes of one, and bytes of all data and of all queues.
const ITEMS_MAX: usize = 10_000;
const ITEM_MAX: usize = 64 << 10;
const BYTES_MAX: usize = 16 << 20;
const QUEUES_MAX: usize = 64;
const METRICS_MAX: usize = 256;
const NAME_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_second_is_told() {
        let common = Common::default();
        assert_eq!(common.set(b"k", b"1", 0), Ok(()));
        let (_, version) = common.value(b"k").unwrap();
        assert_eq!(common.set(b"k", b"2", version), Ok(()));
        assert_eq!(common.set(b"k", b"3", version), Err(Refused::Mismatch));
        assert_eq!(common.value(b"k"), Some((b"2".to_vec(), version + 1)));
        assert_eq!(common.set(b"new", b"x", 7), Err(Refused::Mismatch));
    }

    #[test]
    fn nothing_grows_without_a_bound() {
        let common = Common::default();
        let large = vec![b'x'; ITEM_MAX - 16];
        let set = (0..10_000).take_while(|n: &usize| common.set(n.to_string().as_bytes(), &large, 0).is_ok()).count();
        assert!((250..=256).contains(&set), "{set}");
        assert_eq!(common.set(b"0", b"small", 0), Ok(()), "what is smaller than before finds room");
        assert_eq!(common.set(b"k", &vec![0; ITEM_MAX], 0), Err(Refused::Full));
        let queue = common.queue(b"q").unwrap();
        let pushed = (0..100_000).take_while(|_| common.push(queue, b"x") == Some(Ok(()))).count();
        assert_eq!(
            (pushed, common.pop(queue), common.push(queue, b"y")),
            (ITEMS_MAX, Some(Some(b"x".to_vec())), Some(Ok(())))
        );
        assert_eq!((common.push(9, b"x"), common.pop(0), common.known_queue(b"none")), (None, None, None));
        let queues = (0..1000).filter(|n: &usize| common.queue(n.to_string().as_bytes()).is_some()).count();
        assert_eq!(queues, QUEUES_MAX - 1);
        let metrics = (0..1000).filter(|n: &usize| common.define(Kind::Gauge, n.to_string().as_bytes()).is_some());
        assert_eq!(metrics.count(), METRICS_MAX);
    }

    #[test]
    fn metrics_go_their_way() {
        let common = Common::default();
        let [counter, gauge, histogram] = [(Kind::Counter, "c"), (Kind::Gauge, "g"), (Kind::Histogram, "h")]
            .map(|(kind, name)| common.define(kind, name.as_bytes()).unwrap());
        assert_eq!((common.increment(counter, 2), common.increment(counter, -1)), (Some(true), Some(false)));
        assert_eq!((common.increment(gauge, -3), common.record(gauge, 5)), (Some(true), Some(())));
        assert_eq!((common.record(histogram, 4), common.record(histogram, 6)), (Some(()), Some(())));
        let values = [counter, gauge, histogram, 9].map(|id| common.metric(id));
        assert_eq!(values, [Some(2), Some(5), Some(10), None]);
        assert_eq!(common.define(Kind::Counter, b"c"), Some(counter));
        assert_eq!(common.define(Kind::Gauge, b"c"), None);
    }
}

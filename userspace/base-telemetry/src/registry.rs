//! Prometheus text exposition (version 0.0.4): who contributes, and how lines are put together.
//!
//! Collectors run at scrape time and may contribute to the same family; the encoder groups by family and sorts, so that HELP and
//! TYPE appear once and two scrapes of the same state are the same text. A family or series that contradicts an earlier one is left
//! out and counted in `weir_metrics_rejected_total` rather than making Prometheus refuse the whole answer.

use std::any::{Any, TypeId};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use crate::histogram::Histogram;

/// `Content-Type` of what [`Registry::render`] returns.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Series in one answer; more are left out and counted. About 30 MiB of text.
const SERIES_MAX: usize = 200_000;

/// Bounds that suit request times, in seconds: 100 µs to 10 s.
pub const SECONDS_BOUNDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

type Collector = Box<dyn Fn(&mut Encoder) + Send + Sync>;

/// The collectors of a machine.
#[derive(Default)]
pub struct Registry {
    collectors: RwLock<Vec<Collector>>,
    /// What came by [`Registry::show`], by its type: an `Alive` of it.
    shown: Mutex<HashMap<TypeId, Box<dyn Any + Send>>>,
}

/// Those of a type that are shown, oldest first.
type Alive<T> = Arc<Mutex<Vec<Weak<T>>>>;

/// Which names an answer holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Names {
    /// Everything: Easegress's names, which predate Prometheus's naming rules, and ours.
    #[default]
    All,
    /// Ours and `process_*` only; `promtool check metrics` has nothing to say about these.
    Own,
}

impl Registry {
    /// Adds a collector. It runs on the scraping thread at every scrape and must not wait for a worker.
    pub fn add(&self, collector: Collector) {
        self.collectors.write().unwrap_or_else(PoisonError::into_inner).push(collector);
    }

    /// Shows `one` for as long as somebody else holds it. At a scrape `encode`, the same for all of a type, gets those that are there,
    /// oldest first.
    pub fn show<T: Send + Sync + 'static>(&self, one: &Arc<T>, encode: fn(&[Arc<T>], &mut Encoder)) {
        let mut shown = lock(&self.shown);
        let alive = shown.entry(TypeId::of::<T>()).or_insert_with(|| {
            let alive = Alive::<T>::default();
            let told = alive.clone();
            self.add(Box::new(move |encoder| {
                let there: Vec<Arc<T>> = lock(&told).iter().filter_map(Weak::upgrade).collect();
                encode(&there, encoder);
            }));
            Box::new(alive)
        });
        if let Some(alive) = alive.downcast_ref::<Alive<T>>() {
            let mut alive = lock(alive);
            alive.retain(|known| known.strong_count() > 0);
            alive.push(Arc::downgrade(one));
        }
    }

    /// Runs all collectors.
    pub fn collect(&self, encoder: &mut Encoder) {
        for collect in self.collectors.read().unwrap_or_else(PoisonError::into_inner).iter() {
            collect(encoder);
        }
    }

    pub fn render(&self, names: Names) -> String {
        let mut encoder = Encoder::new(names);
        self.collect(&mut encoder);
        encoder.finish()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
}

impl Kind {
    fn text(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
        }
    }
}

#[derive(Debug)]
struct Family {
    kind: Kind,
    help: String,
    /// Labels of each series and its finished lines.
    series: Vec<(String, String)>,
}

/// Collects families and writes them out.
#[derive(Debug)]
pub struct Encoder {
    names: Names,
    families: BTreeMap<String, Family>,
    series: usize,
    rejected: u64,
}

impl Encoder {
    pub fn new(names: Names) -> Self {
        Self { names, families: BTreeMap::new(), series: 0, rejected: 0 }
    }

    /// A number that only grows.
    pub fn counter(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        self.single(Kind::Counter, name, help, labels, value);
    }

    /// A number that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        self.single(Kind::Gauge, name, help, labels, value);
    }

    /// A histogram from an HDR histogram of microseconds. `sum_seconds` is the exact sum when the caller kept one; otherwise it is
    /// estimated from the slots.
    pub fn histogram_from_hdr(
        &mut self,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        micros: &Histogram<u64>,
        sum_seconds: Option<f64>,
        bounds_seconds: &[f64],
    ) {
        let slots = micros.iter_recorded().map(|step| {
            let middle = micros.median_equivalent(step.value_iterated_to());
            (middle as f64 / 1e6, step.count_since_last_iteration())
        });
        self.histogram_from_slots(name, help, labels, slots, sum_seconds, bounds_seconds);
    }

    /// A histogram from (value, count) pairs, values in the unit of the bounds.
    pub(crate) fn histogram_from_slots(
        &mut self,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        slots: impl Iterator<Item = (f64, u64)>,
        sum: Option<f64>,
        bounds: &[f64],
    ) {
        let mut counts = vec![0; bounds.len() + 1];
        let mut estimate = 0.0;
        for (value, count) in slots {
            counts[bounds.partition_point(|&bound| bound < value)] += count;
            estimate += value * count as f64;
        }
        self.histogram(name, help, labels, bounds, &counts, sum.unwrap_or(estimate));
    }

    /// A histogram from counts per bucket: `counts[i]` values were above `bounds[i - 1]` and at most `bounds[i]`; the last count, one
    /// beyond the bounds, is of values above them all.
    pub fn histogram(
        &mut self,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        bounds: &[f64],
        counts: &[u64],
        sum: f64,
    ) {
        if bounds.len() + 1 != counts.len() || !bounds.is_sorted() || labels.iter().any(|(key, _)| *key == "le") {
            self.rejected += 1;
            return;
        }
        self.series(Kind::Histogram, name, help, labels, |out, labels| {
            let mut cumulative = 0u64;
            let bounds = bounds.iter().map(|&bound| number(bound)).chain([String::from("+Inf")]);
            for (bound, count) in bounds.zip(counts) {
                cumulative += count;
                let comma = if labels.is_empty() { "" } else { "," };
                let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {cumulative}");
            }
            line(out, name, "_sum", labels, sum);
            line(out, name, "_count", labels, cumulative as f64);
        });
    }

    /// A summary: rising (quantile, value) pairs. A summary that has seen nothing shows NaN, as Prometheus's own clients do.
    pub fn summary(
        &mut self,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        quantiles: &[(f64, f64)],
        sum: f64,
        count: u64,
    ) {
        self.series(Kind::Summary, name, help, labels, |out, labels| {
            for &(quantile, value) in quantiles {
                let comma = if labels.is_empty() { "" } else { "," };
                let (quantile, value) = (number(quantile), number(value));
                let _ = writeln!(out, "{name}{{{labels}{comma}quantile=\"{quantile}\"}} {value}");
            }
            line(out, name, "_sum", labels, sum);
            line(out, name, "_count", labels, count as f64);
        });
    }

    /// The whole text.
    pub fn finish(mut self) -> String {
        let mut out = String::new();
        let families = std::mem::take(&mut self.families);
        for (name, mut family) in families {
            family.series.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            let before = family.series.len();
            family.series.dedup_by(|a, b| a.0 == b.0);
            self.rejected += (before - family.series.len()) as u64;
            head(&mut out, &name, &family.help, family.kind);
            family.series.iter().for_each(|(_, lines)| out.push_str(lines));
        }
        let name = "weir_metrics_rejected_total";
        head(&mut out, name, "Series left out of this scrape: wrong or duplicate name, or too many.", Kind::Counter);
        line(&mut out, name, "", "", self.rejected as f64);
        out
    }

    fn single(&mut self, kind: Kind, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        self.series(kind, name, help, labels, |out, labels| line(out, name, "", labels, value));
    }

    fn series(
        &mut self,
        kind: Kind,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        write: impl FnOnce(&mut String, &str),
    ) {
        if self.names == Names::Own && !name.starts_with("weir_") && !name.starts_with("process_") {
            return;
        }
        let full = self.series >= SERIES_MAX;
        if full || !is_name(name, true) || !labels.iter().all(|(key, _)| is_name(key, false)) {
            self.rejected += 1;
            return;
        }
        let family = match self.families.entry(name.to_owned()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Family { kind, help: help.to_owned(), series: Vec::new() }),
        };
        if family.kind != kind {
            self.rejected += 1;
            return;
        }
        let labels = render_labels(labels);
        let mut lines = String::new();
        write(&mut lines, &labels);
        family.series.push((labels, lines));
        self.series += 1;
    }
}

fn head(out: &mut String, name: &str, help: &str, kind: Kind) {
    let help = help.replace('\\', "\\\\").replace('\n', "\\n");
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {}", kind.text());
}

fn line(out: &mut String, name: &str, suffix: &str, labels: &str, value: f64) {
    let value = number(value);
    let _ = match labels {
        "" => writeln!(out, "{name}{suffix} {value}"),
        _ => writeln!(out, "{name}{suffix}{{{labels}}} {value}"),
    };
}

/// Labels in the order given; the caller's order is part of the series' identity, and every family has one caller.
fn render_labels(labels: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (key, value) in labels {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(key);
        out.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    out
}

fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned()
    } else {
        value.to_string()
    }
}

fn is_name(name: &str, colon: bool) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || (colon && c == ':'))
}

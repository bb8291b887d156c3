//! A LogSink as it runs: lines go to the disk as they come, and from there to whatever takes them, in their order.
//!
//! Two threads: one takes lines from the workers' buffers and writes them to the [`Spool`], however long the sink takes;
//! the other sends from its front and tries again. What an earlier process has left goes first.

use crate::frame::{Kind, Line};
use crate::sinks::{self, Sent, Target};
use base_model::{LogFormat, LogKind, LogSinkSpec};
use base_runtime::Worker;
use base_telemetry::access_log::{AccessLog, LogWriter, Taker};
use base_telemetry::{Encoder, Limit, Telemetry};
use base_text::Seldom;
use edge_spool::leavings::{self, Leavings};
use edge_spool::{Batch, Spool, places};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Between two looks for what others have left.
const LOOK: Duration = Duration::from_secs(5);

/// Bytes handed over at a time, about.
const BATCH_BYTES: usize = 512 << 10;

/// Pauses between tries: the first, and the longest.
const AGAIN_FIRST: Duration = Duration::from_millis(200);
const AGAIN_MOST: Duration = Duration::from_secs(10);

/// What is left when the process ends is tried for so long, and stays on disk then.
const LAST: Duration = Duration::from_secs(2);

/// An old one has so long to end before the one that takes its place goes on.
const HAND_OVER: Duration = Duration::from_secs(2);

/// Events that wait for the disk, at most.
const EVENTS_MOST: usize = 4096;

/// Between two lines in the log about a sink that does not take lines.
const TELL: Duration = Duration::from_secs(60);

static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
static LEAVINGS: Leavings = Leavings::of("log sink");
static SINKS: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());
/// Some sink wants events.
static WANT_EVENTS: AtomicBool = AtomicBool::new(false);

/// Where lines wait. To be called once, before there are sinks.
pub fn set_directory(directory: &Path) {
    if DIRECTORY.set(directory.to_owned()).is_ok() {
        LEAVINGS.look_after(directory, || thread::sleep(leavings::LOOK));
    }
}

/// What the daemon logs, line by line, for the sinks that want it. Waits for nobody but others who look at the list of sinks.
pub fn event(line: &str) {
    if !WANT_EVENTS.load(Ordering::Relaxed) {
        return;
    }
    // Nobody who has the list logs anything.
    let wanted: Vec<Arc<Shared>> =
        lock(&SINKS).iter().filter_map(Weak::upgrade).filter(|shared| shared.wants_events).collect();
    for shared in wanted {
        let mut events = lock(&shared.events);
        if events.len() < EVENTS_MOST {
            events.push((kind_of(line), line.trim_end().into()));
        } else {
            shared.counts.overrun.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// How much a line of the daemon's matters, in text and in JSON.
fn kind_of(line: &str) -> Kind {
    let head = &line[..line.floor_char_boundary(120)];
    if head.contains("ERROR") {
        Kind::Error
    } else if head.contains("WARN") {
        Kind::Warning
    } else {
        Kind::Info
    }
}

/// See the module doc.
pub struct LogSink {
    pub name: Arc<str>,
    spec: LogSinkSpec,
    intake: Mutex<Option<AccessLog>>,
    /// Of the intake, which lines come by.
    writers: Vec<LogWriter>,
    shared: Arc<Shared>,
    sender: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    name: Arc<str>,
    wants_events: bool,
    directory: PathBuf,
    /// Where builds before this one have kept lines of a sink in a namespace.
    before: Option<PathBuf>,
    /// Let go of when its last lines were sent, or are left.
    spool: Mutex<Option<Spool<Line>>>,
    changed: Condvar,
    events: Mutex<Vec<(Kind, Box<str>)>>,
    counts: Counts,
    /// Whoever was before it has ended.
    goes: AtomicBool,
    /// The sink took what it was sent last.
    well: AtomicBool,
    why: Mutex<Option<String>>,
    /// When everything is to be over.
    end: OnceLock<Instant>,
}

/// What became of lines.
#[derive(Debug, Default)]
struct Counts {
    delivered: AtomicU64,
    /// The sink would never have them.
    refused: AtomicU64,
    /// There was no room on disk, or it took none.
    full: AtomicU64,
    /// The disk was too slow to take what came.
    overrun: AtomicU64,
    damaged: AtomicU64,
    /// They were sent in packets, and nobody listened there: heard too late to send them again.
    unheard: AtomicU64,
    retries: AtomicU64,
}

impl Shared {
    fn bytes(&self) -> u64 {
        lock(&self.spool).as_ref().map_or(0, Spool::bytes)
    }
}

impl LogSink {
    /// Begins to take lines. Nothing is sent before [`LogSink::go`].
    pub fn start(
        name: &str,
        spec: &LogSinkSpec,
        machine: &str,
        telemetry: &Arc<Telemetry>,
        workers: &[Worker],
    ) -> Result<LogSink, String> {
        let target = Target::new(name, spec, machine, telemetry, workers)?;
        let root = DIRECTORY.get().cloned().unwrap_or_else(|| std::env::temp_dir().join("weir-logs"));
        let directory = root.join(places::directory_of(name));
        let spool = places::free(&directory, spec.spool.unwrap_or_default().max_bytes)
            .map_err(|error| format!("its lines cannot be kept in {}: {error}", directory.display()))?;
        let shared = Arc::new(Shared {
            name: name.into(),
            wants_events: spec.wants(LogKind::Events),
            directory,
            before: before(&root, name),
            spool: Mutex::new(Some(spool)),
            changed: Condvar::new(),
            events: Mutex::default(),
            counts: Counts::default(),
            goes: AtomicBool::new(false),
            well: AtomicBool::new(true),
            why: Mutex::default(),
            end: OnceLock::new(),
        });
        let count = telemetry.workers();
        let (queue, write) = (register(telemetry, "log_sink_queue"), register(telemetry, "log_sink_disk"));
        let intake = AccessLog::over(
            Box::new(Intake { shared: shared.clone(), told: Seldom::once_in(TELL) }),
            count,
            queue,
            write,
        );
        let intake = intake.map_err(|error| format!("no thread for its lines: {error}"))?;
        let writers = (0..count).map(|worker| intake.writer(worker)).collect();
        let sending =
            Sending { shared: shared.clone(), target, older: Vec::new(), looked: None, told: Seldom::once_in(TELL) };
        let sender = thread::Builder::new().name("log-sink".into()).spawn(move || sending.run());
        let sender = sender.map_err(|error| format!("no thread for its lines: {error}"))?;
        Ok(LogSink {
            name: name.into(),
            spec: spec.clone(),
            intake: Mutex::new(Some(intake)),
            writers,
            shared,
            sender: Mutex::new(Some(sender)),
        })
    }

    /// From now on it is sent what comes, and events are taken.
    pub fn go(&self) {
        let mut sinks = lock(&SINKS);
        sinks.retain(|sink| sink.strong_count() > 0);
        sinks.push(Arc::downgrade(&self.shared));
        WANT_EVENTS.store(sinks.iter().filter_map(Weak::upgrade).any(|sink| sink.wants_events), Ordering::Relaxed);
        self.shared.goes.store(true, Ordering::Release);
        if let Some(sender) = &*lock(&self.sender) {
            sender.thread().unpark();
        }
    }

    /// Whether this document is what it was made of.
    pub fn is_of(&self, spec: &LogSinkSpec) -> bool {
        self.spec == *spec
    }

    /// Whether requests of this server are logged here.
    pub fn takes(&self, server: &str) -> bool {
        self.spec.wants(LogKind::Access)
            && (self.spec.servers.is_empty() || self.spec.servers.iter().any(|name| name == server))
    }

    pub fn is_json(&self) -> bool {
        self.spec.format == LogFormat::Json
    }

    /// What a worker logs with.
    pub fn writer(&self, worker: usize) -> Option<LogWriter> {
        self.writers.get(worker).map(LogWriter::another)
    }

    /// Takes no more lines; what there is is on disk when it returns, and is sent for so long.
    fn close(&self, patience: Duration) {
        if let Some(intake) = lock(&self.intake).take() {
            intake.shutdown();
        }
        lock(&SINKS).retain(|sink| sink.as_ptr() != Arc::as_ptr(&self.shared));
        let _ = self.shared.end.set(Instant::now() + patience);
        self.shared.changed.notify_all();
        if let Some(sender) = &*lock(&self.sender) {
            sender.thread().unpark();
        }
    }

    /// Waits for the end of one that was closed. A sink that hangs ends when it does: another process, or another of its name, takes what
    /// is left.
    fn wait(&self) {
        let Some(sender) = lock(&self.sender).take() else { return };
        let end = self.shared.end.get().copied().unwrap_or_else(Instant::now) + Duration::from_millis(500);
        while !sender.is_finished() && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What `GET /status/objects` shows of it.
    pub fn status(&self) -> Value {
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let counts = &self.shared.counts;
        json!({
            "health": lock(&self.shared.why).clone().unwrap_or_default(),
            "delivered": get(&counts.delivered),
            "dropped": get(&counts.refused) + get(&counts.full) + get(&counts.overrun) + get(&counts.damaged) + get(&counts.unheard),
            "spoolBytes": self.shared.bytes(),
        })
    }
}

/// Ends all of them; what is left is on disk.
pub fn end_all(sinks: &[Arc<LogSink>]) {
    sinks.iter().for_each(|sink| sink.close(LAST));
    sinks.iter().for_each(|sink| sink.wait());
}

/// Ends one that none of its name takes the place of: what it had not sent stays on disk for a while.
pub fn retire(sink: &LogSink) {
    hand_over(sink);
    LEAVINGS.mark(&sink.shared.directory);
}

/// Puts one in the place of another, so that lines go on in their order.
pub fn hand_over(before: &LogSink) {
    before.close(HAND_OVER);
    before.wait();
}

/// `weir_log_sink_*`.
pub fn encode(encoder: &mut Encoder) {
    let sinks: Vec<Arc<Shared>> = lock(&SINKS).iter().filter_map(Weak::upgrade).collect();
    for shared in sinks {
        let (counts, labels) = (&shared.counts, [("sink", &*shared.name)]);
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed) as f64;
        let help =
            "Lines that a sink has said it has, or that were sent to one that says nothing (syslog over UDP), by sink.";
        encoder.counter("weir_log_sink_delivered_total", help, &labels, get(&counts.delivered));
        let help = "Times lines were sent again because the sink had not taken them, by sink.";
        encoder.counter("weir_log_sink_retries_total", help, &labels, get(&counts.retries));
        let help = "Bytes of lines that are on the disk until the sink has them, by sink.";
        encoder.gauge("weir_log_sink_spool_bytes", help, &labels, shared.bytes() as f64);
        let help = "Whether the sink took what it was sent last (1) or not (0), by sink.";
        encoder.gauge("weir_log_sink_up", help, &labels, shared.well.load(Ordering::Relaxed).into());
        for (reason, count) in [
            ("refused", &counts.refused),
            ("spool_full", &counts.full),
            ("queue_full", &counts.overrun),
            ("damaged", &counts.damaged),
            ("unheard", &counts.unheard),
        ] {
            let help = "Lines that do not reach their sink, by sink and reason.";
            let labels = [("sink", &*shared.name), ("reason", reason)];
            encoder.counter("weir_log_sink_dropped_total", help, &labels, get(count));
        }
    }
    let help =
        "Bytes of lines on disk that LogSinks which are gone had not sent; they wait a day for one of the same name.";
    encoder.gauge("weir_log_sink_gone_bytes", help, &[], LEAVINGS.there() as f64);
    let help =
        "Bytes of lines of LogSinks which are gone that were removed, after a day or because they were too many.";
    encoder.counter("weir_log_sink_gone_removed_bytes_total", help, &[], LEAVINGS.removed() as f64);
}

fn register(telemetry: &Telemetry, name: &'static str) -> Limit {
    telemetry.limits().register(name)
}

/// Takes lines from the workers to the disk.
struct Intake {
    shared: Arc<Shared>,
    told: Seldom,
}

impl Intake {
    fn keep(&mut self, lines: &[Line]) -> bool {
        let shared = &self.shared;
        // While the sink is well, lines leave the disk before a power cut is likely to ask for them.
        let sync = !shared.well.load(Ordering::Relaxed);
        let kept = lock(&shared.spool).as_mut().map_or(Ok(0), |spool| spool.append(lines, sync));
        shared.changed.notify_all();
        let (kept, why) = match kept {
            Ok(kept) => (kept, "there is no room for more"),
            Err(error) => {
                self.tell(&format!("lines cannot be written to the disk: {error}"));
                return false;
            }
        };
        if kept < lines.len() {
            shared.counts.full.fetch_add((lines.len() - kept) as u64, Ordering::Relaxed);
            self.tell(&format!("lines are dropped: {why} (spool.maxBytes)"));
        }
        true
    }

    fn tell(&mut self, what: &str) {
        if self.told.is_due() {
            tracing::warn!(sink = %self.shared.name, "{what}");
        }
    }
}

impl Taker for Intake {
    fn take(&mut self, lines: &[u8]) -> bool {
        let at = now();
        let all = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let all: Vec<Line> = all.map(|text| Line { kind: Kind::Access, at, text: text.into() }).collect();
        let kept = self.keep(&all);
        if !kept {
            self.shared.counts.full.fetch_add(all.len() as u64, Ordering::Relaxed);
        }
        kept
    }

    fn swept(&mut self) {
        let events = std::mem::take(&mut *lock(&self.shared.events));
        if !events.is_empty() {
            let at = now();
            let line = |(kind, text): (Kind, Box<str>)| Line { kind, at, text: text.into_boxed_bytes() };
            let all: Vec<Line> = events.into_iter().map(line).collect();
            if !self.keep(&all) {
                self.shared.counts.full.fetch_add(all.len() as u64, Ordering::Relaxed);
            }
        }
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or_default()
}

/// Sends from the front.
struct Sending {
    shared: Arc<Shared>,
    target: Box<dyn sinks::Sink>,
    /// What others have left, which goes first.
    older: Vec<Spool<Line>>,
    looked: Option<Instant>,
    told: Seldom,
}

impl Sending {
    fn run(mut self) {
        // Whoever had its place before is done when it goes.
        while !self.shared.goes.load(Ordering::Acquire) && self.shared.end.get().is_none() {
            thread::park();
        }
        self.send_all();
        *lock(&self.shared.spool) = None;
    }

    fn send_all(&mut self) {
        let (mut pause, mut bytes) = (AGAIN_FIRST, BATCH_BYTES);
        loop {
            let ends = self.shared.end.get().copied();
            if ends.is_some_and(|end| Instant::now() >= end) {
                return;
            }
            if self.looked.is_none_or(|at| at.elapsed() >= LOOK) {
                self.adopt();
            }
            let Some((batch, is_older)) = self.next(bytes) else {
                if ends.is_some() {
                    return;
                }
                continue;
            };
            let count = batch.kept.len() as u64;
            let shared = self.shared.clone();
            let counts = &shared.counts;
            let sent = self.target.send(&batch.kept, &|| self.shared.end.get().copied());
            let unheard = self.target.unheard();
            if unheard > 0 {
                counts.unheard.fetch_add(unheard, Ordering::Relaxed);
                self.tell(&format!("nobody was there for {unheard} lines that were sent"));
            }
            match sent {
                Sent::Taken => {
                    counts.delivered.fetch_add(count, Ordering::Relaxed);
                    (pause, bytes) = (AGAIN_FIRST, BATCH_BYTES);
                    self.is_well(None);
                    self.forget(&batch, is_older);
                }
                Sent::Except(refused, why) => {
                    counts.delivered.fetch_add(count.saturating_sub(refused), Ordering::Relaxed);
                    counts.refused.fetch_add(refused, Ordering::Relaxed);
                    (pause, bytes) = (AGAIN_FIRST, BATCH_BYTES);
                    self.is_well(None);
                    self.tell(&format!("{refused} lines are refused, and dropped: {why}"));
                    self.forget(&batch, is_older);
                }
                Sent::Smaller(_) if count > 1 => bytes = (bytes / 2).max(1),
                Sent::Refused(why) | Sent::Smaller(why) => {
                    counts.refused.fetch_add(count, Ordering::Relaxed);
                    bytes = BATCH_BYTES;
                    self.tell(&format!("{count} lines are refused, and dropped: {why}"));
                    self.forget(&batch, is_older);
                }
                Sent::Later(after, why) => {
                    counts.retries.fetch_add(1, Ordering::Relaxed);
                    self.tell(&format!("lines wait on disk: {why}"));
                    self.is_well(Some(why));
                    // Whoever comes next has them on disk.
                    if self.shared.end.get().is_some() {
                        return;
                    }
                    let until = Instant::now() + after.unwrap_or(pause).min(AGAIN_MOST);
                    pause = (pause * 2).min(AGAIN_MOST);
                    while Instant::now() < until && self.shared.end.get().is_none() {
                        thread::park_timeout(until.saturating_duration_since(Instant::now()));
                    }
                }
            }
        }
    }

    /// Lines from the front, and whether they are of those that were left; waits a while where there are none.
    fn next(&mut self, bytes: usize) -> Option<(Batch<Line>, bool)> {
        while let Some(spool) = self.older.first_mut() {
            let peeked = spool.peek(bytes);
            self.shared.counts.damaged.fetch_add(std::mem::take(&mut spool.damaged), Ordering::Relaxed);
            match peeked {
                Ok(batch) if !batch.kept.is_empty() => return Some((batch, true)),
                Ok(_) => drop(self.older.remove(0)),
                Err(error) => {
                    self.tell(&format!("lines that were left cannot be read: {error}"));
                    self.older.remove(0);
                }
            }
        }
        let mut spool = lock(&self.shared.spool);
        if spool.as_ref().is_none_or(Spool::is_empty) && self.shared.end.get().is_none() {
            spool = self.shared.changed.wait_timeout(spool, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        let own = spool.as_mut()?;
        let peeked = own.peek(bytes);
        let damaged = std::mem::take(&mut own.damaged);
        drop(spool);
        self.shared.counts.damaged.fetch_add(damaged, Ordering::Relaxed);
        match peeked {
            Ok(batch) => (!batch.kept.is_empty()).then_some((batch, false)),
            Err(error) => {
                self.tell(&format!("lines cannot be read from the disk: {error}"));
                thread::sleep(AGAIN_FIRST);
                None
            }
        }
    }

    fn forget(&mut self, batch: &Batch<Line>, is_older: bool) {
        let done = match self.older.first_mut().filter(|_| is_older) {
            Some(spool) => spool.forget(batch),
            None => lock(&self.shared.spool).as_mut().map_or(Ok(()), |spool| spool.forget(batch)),
        };
        if let Err(error) = done {
            self.tell(&format!("the disk does not say how far lines were sent, so that they may come twice: {error}"));
        }
    }

    /// Takes what processes that have ended have left.
    fn adopt(&mut self) {
        self.looked = Some(Instant::now());
        self.older.extend(left(&self.shared.directory, self.shared.before.as_deref()));
    }

    fn is_well(&self, why: Option<String>) {
        self.shared.well.store(why.is_none(), Ordering::Relaxed);
        *lock(&self.shared.why) = why;
    }

    fn tell(&mut self, what: &str) {
        if self.told.is_due() {
            tracing::warn!(sink = %self.shared.name, to = self.target.shown(), "{what}");
        }
    }
}

/// What waits of a sink; `before`: builds before this one had it there.
fn left(directory: &Path, before: Option<&Path>) -> Vec<Spool<Line>> {
    let mut left = Vec::new();
    if let Some(before) = before.filter(|before| before.is_dir()) {
        left.extend(places::left(before));
        // The directory of a namespace may be that of a sink as well, or of others.
        if leavings::clear(before)
            && let Some(namespace) = before.parent()
        {
            leavings::clear(namespace);
        }
    }
    left.extend(places::left(directory));
    left
}

/// Where builds before this one had a sink of this name, if it was another place.
fn before(root: &Path, name: &str) -> Option<PathBuf> {
    (name.contains('/') && is_plain(name)).then(|| root.join(name))
}

/// A path of these names leads below where it begins.
fn is_plain(name: &str) -> bool {
    name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its lines lay in a directory within that of the namespace.
    #[test]
    fn what_waits_of_a_sink_in_a_namespace_is_found_where_it_was() {
        let root = tempfile::tempdir().unwrap();
        let old = before(root.path(), "blue/log").unwrap();
        let line = Line { kind: Kind::Access, at: 0, text: b"waits".as_slice().into() };
        Spool::open(&old.join("0"), 1 << 20).unwrap().append(&[line], false).unwrap();
        let look = || left(&root.path().join(places::directory_of("blue/log")), Some(&old));
        let mut found = look();
        let batch = found[0].peek(1 << 20).unwrap();
        assert_eq!((found.len(), &*batch.kept[0].text), (1, b"waits".as_slice()));
        found[0].forget(&batch).unwrap();
        drop(found);
        assert!(look().is_empty());
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0, "nothing is left of it");
        for name in ["log", "a/..", "./a", "../../a"] {
            assert_eq!(before(root.path(), name), None, "{name}");
        }
    }
}

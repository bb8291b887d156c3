//! A thread for each list of brokers, and what workers hand it.

use crate::cluster::{Cluster, Failure};
use crate::spool::Spool;
use crate::stats::{COUNTERS, add};
use bytes::Bytes;
use proto_kafka::encode_batch;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Something for a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub topic: Arc<str>,
    pub key: Option<Bytes>,
    pub value: Bytes,
    /// In milliseconds since 1970.
    pub timestamp_ms: i64,
}

impl Record {
    /// One of now.
    pub fn new(topic: &Arc<str>, key: Option<Bytes>, value: Bytes) -> Record {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Record { topic: topic.clone(), key, value, timestamp_ms: since.as_millis() as i64 }
    }

    fn bytes(&self) -> usize {
        self.value.len() + self.key.as_ref().map_or(0, Bytes::len) + self.topic.len() + 64
    }
}

/// Why a record is not with the brokers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendError {
    /// As much waits already as may.
    Full,
    /// What brokers, or the way to them, have to say.
    Failed(String),
}

/// Called once, on the producer's thread, for a record that somebody waits for.
pub type Done = Box<dyn FnOnce(Result<(), SendError>) + Send>;

/// Bytes and records in memory, at most. What comes on top is refused.
const MEMORY_BYTES: usize = 32 << 20;
const MEMORY_RECORDS: usize = 50_000;

/// Bytes on disk, at most, for each list of brokers.
const SPOOL_BYTES: u64 = 256 << 20;

/// Processes that may have records on disk at a time.
const PLACES: usize = 4;

/// Between two looks for what others have left.
const LOOK: Duration = Duration::from_secs(10);

/// Bytes handed over at a time, about.
const BATCH_BYTES: usize = 512 << 10;

/// Tries of a record somebody waits for, and the pause between them.
const TRIES: usize = 3;
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// Pauses between tries while the brokers cannot be reached: the first, and the longest.
const AGAIN_FIRST: Duration = Duration::from_millis(100);
const AGAIN: Duration = Duration::from_secs(5);

/// What is left at the end is tried for so long, and kept on disk then.
const LAST: Duration = Duration::from_secs(2);

static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
static PRODUCERS: Mutex<BTreeMap<Vec<String>, Weak<Producer>>> = Mutex::new(BTreeMap::new());

/// Where records wait on disk. To be called once, before there are producers; without it they wait in memory alone.
pub fn set_directory(directory: &Path) {
    let _ = DIRECTORY.set(directory.to_owned());
}

/// Ends all producers: what waits goes to brokers, or to the disk.
pub fn shutdown() {
    let producers: Vec<Arc<Producer>> = lock(&PRODUCERS).values().filter_map(Weak::upgrade).collect();
    producers.iter().for_each(|producer| producer.end());
}

/// See the module doc. Filters that name the same brokers share one.
pub struct Producer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    brokers: Vec<String>,
    directory: Option<PathBuf>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(Record, Option<Done>)>,
    bytes: usize,
    ended: bool,
}

impl Producer {
    /// The producer of these brokers, `host:port` each.
    pub fn of(brokers: &[String]) -> Arc<Producer> {
        let mut producers = lock(&PRODUCERS);
        producers.retain(|_, producer| producer.strong_count() > 0);
        if let Some(known) = producers.get(brokers).and_then(Weak::upgrade) {
            return known;
        }
        let directory = DIRECTORY.get().map(|directory| directory.join(name(brokers)));
        let producer = Arc::new(Producer::start(brokers, directory));
        producers.insert(brokers.to_vec(), Arc::downgrade(&producer));
        producer
    }

    fn start(brokers: &[String], directory: Option<PathBuf>) -> Producer {
        let shared =
            Arc::new(Shared { brokers: brokers.to_vec(), directory, state: Mutex::default(), changed: Condvar::new() });
        let work = shared.clone();
        let thread = thread::Builder::new().name("kafka".into()).spawn(move || Sending::new(&work).run());
        let thread =
            thread.map_err(|error| tracing::error!(%error, "no thread for Kafka: every record is refused")).ok();
        if thread.is_none() {
            lock(&shared.state).ended = true;
        }
        Producer { shared, thread: Mutex::new(thread) }
    }

    /// Hands over a record. With `done` somebody waits to hear that all replicas in sync have it; without, it may wait on disk for
    /// brokers to be back. Never blocks for longer than it takes to put it into a list.
    pub fn send(&self, record: Record, done: Option<Done>) -> Result<(), SendError> {
        let bytes = record.bytes();
        let mut state = lock(&self.shared.state);
        if state.ended || state.queue.len() >= MEMORY_RECORDS || state.bytes + bytes > MEMORY_BYTES {
            drop(state);
            add(&COUNTERS.refused, 1);
            return Err(SendError::Full);
        }
        state.bytes += bytes;
        state.queue.push_back((record, done));
        drop(state);
        self.shared.changed.notify_one();
        Ok(())
    }

    fn end(&self) {
        lock(&self.shared.state).ended = true;
        self.shared.changed.notify_one();
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        lock(&self.shared.state).ended = true;
        self.shared.changed.notify_one();
        // The thread ends by itself: whoever drops this may be a worker.
    }
}

/// Of the directory of these brokers' records.
fn name(brokers: &[String]) -> String {
    let clean = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '_' };
    let shown: String = brokers.join("+").chars().map(clean).take(80).collect();
    format!("{shown}-{:08x}", proto_kafka::crc32c::crc32c(brokers.join(",").as_bytes()))
}

/// The thread's own.
struct Sending<'a> {
    shared: &'a Shared,
    cluster: Cluster,
    spool: Option<Spool>,
    /// What other processes have left, to be handed over before that.
    older: Vec<Spool>,
    /// When such were looked for last.
    looked: Instant,
    /// When brokers are tried again that could not be reached.
    again: Option<(Instant, Duration)>,
    /// For records without a key.
    turn: usize,
}

impl<'a> Sending<'a> {
    fn new(shared: &'a Shared) -> Sending<'a> {
        let mut sending = Sending {
            shared,
            cluster: Cluster::new(&shared.brokers),
            spool: None,
            older: Vec::new(),
            looked: Instant::now(),
            again: None,
            turn: 0,
        };
        if let Some(directory) = &shared.directory {
            // While one process takes the place of another there are two.
            for number in 0..PLACES {
                match Spool::open(&directory.join(number.to_string()), SPOOL_BYTES) {
                    Ok(spool) => {
                        sending.spool = Some(spool);
                        break;
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => {
                        let path = directory.display();
                        tracing::error!(%path, %error, "records for Kafka cannot be kept on disk");
                        break;
                    }
                }
            }
            sending.adopt(directory);
        }
        sending
    }

    /// Takes what processes that have ended have left.
    fn adopt(&mut self, directory: &Path) {
        self.looked = Instant::now();
        for number in 0..PLACES {
            let place = directory.join(number.to_string());
            if place.is_dir()
                && let Ok(spool) = Spool::open(&place, 0)
                && !spool.is_empty()
            {
                self.older.push(spool);
            }
        }
    }

    fn run(mut self) {
        loop {
            let (waited_for, others, ended) = self.next();
            for (record, done) in waited_for {
                let sent = self.insist(&record);
                add(if sent.is_ok() { &COUNTERS.delivered } else { &COUNTERS.failed }, 1);
                done(sent.map_err(|failure| SendError::Failed(failure.why)));
            }
            if let Some(directory) = self.shared.directory.as_ref().filter(|_| self.looked.elapsed() >= LOOK) {
                self.adopt(directory);
            }
            // What is on disk came first.
            if self.is_due() || ended {
                self.replay();
            }
            self.take(others);
            if ended && lock(&self.shared.state).queue.is_empty() {
                return;
            }
        }
    }

    /// What was handed over since, in its order: records somebody waits for, and others.
    fn next(&mut self) -> (Vec<(Record, Done)>, Vec<Record>, bool) {
        let mut state = lock(&self.shared.state);
        while state.queue.is_empty() && !state.ended {
            let behind = self.is_behind();
            let pause = match self.again {
                Some((at, _)) if behind => at.saturating_duration_since(Instant::now()),
                None if behind => Duration::ZERO,
                _ if self.shared.directory.is_some() => LOOK,
                _ => Duration::from_secs(3600),
            };
            if pause.is_zero() {
                break;
            }
            state = self.shared.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
            if self.looked.elapsed() >= LOOK {
                break;
            }
        }
        let (mut waited_for, mut others, mut bytes) = (Vec::new(), Vec::new(), 0);
        while bytes < BATCH_BYTES
            && let Some((record, done)) = state.queue.pop_front()
        {
            bytes += record.bytes();
            match done {
                Some(done) => waited_for.push((record, done)),
                None => others.push(record),
            }
        }
        state.bytes = state.bytes.saturating_sub(bytes);
        (waited_for, others, state.ended)
    }

    /// Something is on disk.
    fn is_behind(&self) -> bool {
        !self.older.is_empty() || self.spool.as_ref().is_some_and(|spool| !spool.is_empty())
    }

    fn is_due(&self) -> bool {
        self.again.is_none_or(|(at, _)| at <= Instant::now())
    }

    /// Sends a record somebody waits for; leaders may change in between.
    fn insist(&mut self, record: &Record) -> Result<(), Failure> {
        let mut sent = Ok(());
        for turn in 0..TRIES {
            if turn > 0 {
                self.cluster.forget();
                thread::sleep(TRY_AGAIN);
            }
            sent = self.deliver(std::slice::from_ref(record)).1;
            match &sent {
                Err(failure) if failure.passing => {}
                _ => break,
            }
        }
        sent
    }

    /// Takes records nobody waits for: to the brokers, else to the disk.
    fn take(&mut self, records: Vec<Record>) {
        if records.is_empty() {
            return;
        }
        let behind = self.is_behind();
        let mut rest = &records[..];
        if !behind && self.is_due() {
            let (count, sent) = self.deliver(rest);
            add(&COUNTERS.delivered, count);
            rest = &rest[count..];
            match sent {
                Ok(()) => self.again = None,
                Err(failure) if failure.passing => self.wait(&failure),
                Err(failure) => {
                    // One more time would not help: the first of them is at fault, or its topic.
                    tracing::error!(%failure, "Kafka refuses a record");
                    add(&COUNTERS.failed, 1);
                    let rest = rest[1.min(rest.len())..].to_vec();
                    return self.take(rest);
                }
            }
        }
        if rest.is_empty() {
            return;
        }
        let kept = match &mut self.spool {
            Some(spool) => spool.append(rest).unwrap_or_else(|error| {
                tracing::error!(%error, "records for Kafka cannot be written to the disk");
                0
            }),
            None => 0,
        };
        let lost = rest.len() - kept;
        if lost > 0 {
            add(&COUNTERS.refused, lost);
            tracing::error!(records = lost, "no room for records while Kafka cannot be reached: they are dropped");
        }
    }

    fn wait(&mut self, failure: &Failure) {
        let pause = self.again.map_or(AGAIN_FIRST, |(_, before)| (before * 2).min(AGAIN));
        if self.again.is_none() {
            tracing::warn!(%failure, brokers = self.shared.brokers.join(","), "Kafka cannot be reached; records wait");
        }
        self.again = Some((Instant::now() + pause, pause));
        self.cluster.forget();
    }

    /// From the disk to the brokers, as far as they take it.
    fn replay(&mut self) {
        let until = Instant::now() + LAST;
        loop {
            if self.older.first().is_some_and(Spool::is_empty) {
                self.older.remove(0);
                continue;
            }
            let Some(spool) = self.older.first_mut().or(self.spool.as_mut()).filter(|spool| !spool.is_empty()) else {
                return;
            };
            let batch = match spool.peek(BATCH_BYTES) {
                // All of it was damaged.
                Ok(batch) if batch.records.is_empty() => continue,
                Ok(batch) => batch,
                Err(error) => {
                    tracing::error!(%error, "records for Kafka cannot be read from the disk");
                    self.again = Some((Instant::now() + AGAIN, AGAIN));
                    return;
                }
            };
            let mut left = &batch.records[..];
            while !left.is_empty() {
                let (count, sent) = self.deliver(left);
                add(&COUNTERS.replayed, count);
                add(&COUNTERS.delivered, count);
                left = &left[count..];
                match sent {
                    Ok(()) => {}
                    Err(failure) if failure.passing => return self.wait(&failure),
                    Err(failure) => {
                        tracing::error!(%failure, "Kafka refuses a record");
                        add(&COUNTERS.failed, 1);
                        left = &left[1.min(left.len())..];
                    }
                }
            }
            if self.again.take().is_some() {
                tracing::info!(brokers = self.shared.brokers.join(","), "Kafka is reached again");
            }
            let spool = self.older.first_mut().or(self.spool.as_mut());
            if let Some(Err(error)) = spool.map(|spool| spool.forget(&batch)) {
                tracing::error!(%error, "what Kafka has cannot be forgotten on disk; it may be sent again");
                return;
            }
            // Others wait meanwhile.
            if Instant::now() > until || !lock(&self.shared.state).queue.is_empty() {
                return;
            }
        }
    }

    /// Hands records over, in their order within each partition: how many from the front are with the brokers, and why not the next.
    fn deliver(&mut self, records: &[Record]) -> (usize, Result<(), Failure>) {
        // Stretches for one partition go as one batch; what is for another begins the next, so that the front is clear at any time.
        let (mut from, mut most) = (0, usize::MAX);
        while from < records.len() {
            let place = self.place(&records[from]);
            let (partition, leader) = match place {
                Ok(place) => place,
                Err(failure) => return (from, Err(failure)),
            };
            let mut to = from + 1;
            let mut bytes = records[from].bytes();
            while to < records.len().min(from.saturating_add(most))
                && records[to].topic == records[from].topic
                && bytes < BATCH_BYTES
                && (records[to].key == records[from].key
                    || records[to].key.is_some() && self.place(&records[to]).is_ok_and(|other| other.0 == partition))
            {
                bytes += records[to].bytes();
                to += 1;
            }
            let mut batch = Vec::new();
            let stretch = &records[from..to];
            encode_batch(&stretch.iter().map(on_the_wire).collect::<Vec<_>>(), &mut batch);
            if let Err(failure) = self.cluster.produce(&records[from].topic, partition, leader, batch) {
                if !failure.passing && stretch.len() > 1 {
                    // One of them is at fault: each alone, from here on.
                    most = 1;
                    continue;
                }
                return (from, Err(failure));
            }
            self.turn = self.turn.wrapping_add(1);
            from = to;
        }
        (records.len(), Ok(()))
    }

    /// The partition of a record: by its key as Sarama's producer, Easegress's, chooses; else in turn.
    fn place(&mut self, record: &Record) -> Result<(i32, i32), Failure> {
        let turn = self.turn;
        let partitions = self.cluster.partitions(&record.topic)?;
        let at = match &record.key {
            Some(key) => by_key(key, partitions.len()),
            None => turn % partitions.len().max(1),
        };
        partitions.get(at).copied().ok_or_else(|| Failure { why: "a topic without partitions".into(), passing: true })
    }
}

fn on_the_wire(record: &Record) -> proto_kafka::Record<'_> {
    proto_kafka::Record {
        key: record.key.as_deref(),
        value: &record.value,
        headers: &[],
        timestamp_ms: record.timestamp_ms,
    }
}

/// FNV-1a, its sign dropped after the division.
fn by_key(key: &[u8], partitions: usize) -> usize {
    let hash = key.iter().fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    let count = i32::try_from(partitions.max(1)).unwrap_or(i32::MAX);
    (hash as i32 % count).unsigned_abs() as usize
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lead_where_saramas_do() {
        // FNV-1a of "a" is 0xe40c292c, which is negative.
        assert_eq!(by_key(b"a", 10), (0xe40c_292c_u32 as i32 % 10).unsigned_abs() as usize);
        assert!((0..100).all(|n| by_key(format!("{n}").as_bytes(), 7) < 7));
    }
}

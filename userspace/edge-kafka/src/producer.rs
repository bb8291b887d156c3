//! A thread for each list of brokers, and what workers hand it.

use crate::access::Access;
use crate::cluster::{Cluster, Failure};
use crate::stats::{COUNTERS, add};
use base_text::Seldom;
use bytes::Bytes;
use edge_spool::{Spool, places};
use proto_kafka::encode_batch;
use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
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
    /// It is at fault itself: no broker ever takes it as it is.
    Unfit(String),
}

/// Called once, on the producer's thread, for a record that somebody waits for.
pub type Done = Box<dyn FnOnce(Result<(), SendError>) + Send>;

/// Records that are to arrive in their order: once one of them did not, none after it is sent, until their sender begins a new chain with it.
#[derive(Debug, Clone, Default)]
pub struct Chain(Arc<AtomicBool>);

impl Chain {
    /// Nothing of it is sent from now on.
    pub fn end(&self) {
        self.0.store(true, Relaxed);
    }

    fn has_ended(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// Bytes and records in memory, at most. What comes on top is refused.
const MEMORY_BYTES: usize = 32 << 20;
const MEMORY_RECORDS: usize = 50_000;

/// Bytes on disk, at most, for each list of brokers.
const SPOOL_BYTES: u64 = 256 << 20;

/// Between two looks for what others have left.
const LOOK: Duration = Duration::from_secs(10);

/// Bytes handed over at a time, about.
const BATCH_BYTES: usize = 512 << 10;

/// Tries of a record somebody waits for, and the pause between them.
const TRIES: usize = 3;
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// Longest that a record somebody waits for waits for its turn.
const TURN_MAX: Duration = Duration::from_secs(30);

/// Topics that do not exist, and records for them: nobody else's records wait for those, so they are kept beside, in memory, for as long
/// as making a topic may take. Pause between looks, and how long what nobody waits for is kept, and what somebody waits for.
const ASIDE_TOPICS: usize = 100;
const ASIDE_RECORDS: usize = 10_000;
const ASIDE_BYTES: usize = 8 << 20;
const ASIDE_LOOK: Duration = Duration::from_millis(250);
const ASIDE_LONGEST: Duration = Duration::from_secs(60);
const ASIDE_WAITED_FOR: Duration = Duration::from_secs(5);

/// Between two lines in the log about records that are refused.
const TELL: Duration = Duration::from_secs(1);

/// Pauses between tries while the brokers cannot be reached: the first, and the longest.
const AGAIN_FIRST: Duration = Duration::from_millis(100);
const AGAIN: Duration = Duration::from_secs(5);

/// What is left at the end is tried for so long, and kept on disk then.
const LAST: Duration = Duration::from_secs(2);

static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
static PRODUCERS: Mutex<Vec<Weak<Producer>>> = Mutex::new(Vec::new());

/// Where records wait on disk. To be called once, before there are producers; without it they wait in memory alone.
pub fn set_directory(directory: &Path) {
    let _ = DIRECTORY.set(directory.to_owned());
}

/// Ends all producers: what waits goes to brokers, or to the disk.
pub fn shutdown() {
    let producers: Vec<Arc<Producer>> = lock(&PRODUCERS).iter().filter_map(Weak::upgrade).collect();
    producers.iter().for_each(|producer| producer.end());
}

/// See the module doc. Filters that name the same brokers and speak to them alike share one.
pub struct Producer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    brokers: Vec<String>,
    access: Access,
    directory: Option<PathBuf>,
    state: Mutex<State>,
    changed: Condvar,
}

/// A record, who waits for it, and since when it is there.
struct Queued {
    record: Record,
    done: Option<Done>,
    chain: Option<Chain>,
    since: Instant,
}

impl Queued {
    /// One before it did not arrive.
    fn is_cut_off(&self) -> bool {
        self.chain.as_ref().is_some_and(Chain::has_ended)
    }
}

#[derive(Default)]
struct State {
    queue: VecDeque<Queued>,
    bytes: usize,
    ended: bool,
}

impl Producer {
    /// The producer of these brokers, `host:port` each, that speaks to them like this.
    pub fn of(brokers: &[String], access: &Access) -> Arc<Producer> {
        let mut producers = lock(&PRODUCERS);
        producers.retain(|producer| producer.strong_count() > 0);
        let is_it = |one: &Arc<Producer>| one.shared.brokers == brokers && one.shared.access == *access;
        if let Some(known) = producers.iter().filter_map(Weak::upgrade).find(is_it) {
            return known;
        }
        let directory = DIRECTORY.get().map(|directory| directory.join(name(brokers, access.user())));
        let producer = Arc::new(Producer::start(brokers, access, directory));
        producers.push(Arc::downgrade(&producer));
        producer
    }

    fn start(brokers: &[String], access: &Access, directory: Option<PathBuf>) -> Producer {
        let (brokers, access) = (brokers.to_vec(), access.clone());
        let shared = Arc::new(Shared { brokers, access, directory, state: Mutex::default(), changed: Condvar::new() });
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
        self.queue(record, done, None)
    }

    /// The same for one of a chain, which somebody waits for.
    pub fn send_in_order(&self, record: Record, chain: &Chain, done: Done) -> Result<(), SendError> {
        self.queue(record, Some(done), Some(chain.clone()))
    }

    fn queue(&self, record: Record, done: Option<Done>, chain: Option<Chain>) -> Result<(), SendError> {
        let bytes = record.bytes();
        let mut state = lock(&self.shared.state);
        if state.ended || state.queue.len() >= MEMORY_RECORDS || state.bytes + bytes > MEMORY_BYTES {
            drop(state);
            add(&COUNTERS.refused, 1);
            return Err(SendError::Full);
        }
        state.bytes += bytes;
        state.queue.push_back(Queued { record, done, chain, since: Instant::now() });
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

/// Of the directory of these brokers' records. Those of a user who proves a password are not sent as another; certificates are renewed, and
/// do not count.
fn name(brokers: &[String], user: Option<&str>) -> String {
    let clean = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '_' };
    let shown: String = brokers.join("+").chars().map(clean).take(80).collect();
    let whole = brokers.join(",") + &user.map(|user| format!("\n{user}")).unwrap_or_default();
    format!("{shown}-{:08x}", proto_kafka::crc32c::crc32c(whole.as_bytes()))
}

/// The thread's own.
struct Sending<'a> {
    shared: &'a Shared,
    cluster: Cluster,
    spool: Option<Spool<Record>>,
    /// What other processes have left, to be handed over before that.
    older: Vec<Spool<Record>>,
    /// When such were looked for last.
    looked: Instant,
    /// When brokers are tried again that could not be reached.
    again: Option<(Instant, Duration)>,
    /// For records without a key.
    turn: usize,
    /// Records of topics that do not exist, or not yet.
    aside: Aside,
    /// So many go alone, since one of them was refused that is not known.
    alone: usize,
    /// When the log was told last that a record is refused.
    told: Seldom,
}

#[derive(Default)]
struct Aside {
    topics: HashMap<Arc<str>, VecDeque<Queued>>,
    records: usize,
    bytes: usize,
    looked: Option<Instant>,
}

impl<'a> Sending<'a> {
    fn new(shared: &'a Shared) -> Sending<'a> {
        let mut sending = Sending {
            shared,
            cluster: Cluster::new(&shared.brokers, &shared.access),
            spool: None,
            older: Vec::new(),
            looked: Instant::now(),
            again: None,
            turn: 0,
            aside: Aside::default(),
            alone: 0,
            told: Seldom::once_in(TELL),
        };
        if let Some(directory) = &shared.directory {
            match places::free(directory, SPOOL_BYTES) {
                Ok(spool) => sending.spool = Some(spool),
                Err(error) => {
                    let path = directory.display();
                    tracing::error!(%path, %error, "records for Kafka cannot be kept on disk");
                }
            }
            sending.adopt(directory);
        }
        sending
    }

    /// Takes what processes that have ended have left; a user's takes what nobody's have, too: brokers that begin to want a user are why
    /// records waited.
    fn adopt(&mut self, directory: &Path) {
        self.looked = Instant::now();
        if self.shared.access.user().is_some() {
            self.older.extend(places::left(&directory.with_file_name(name(&self.shared.brokers, None))));
        }
        self.older.extend(places::left(directory));
    }

    fn run(mut self) {
        loop {
            let (queued, ended) = self.next();
            let (cut_off, queued) = queued.into_iter().partition(Queued::is_cut_off);
            self.cut_off(cut_off);
            // All in the order in which they came, as long as there is nothing that they would overtake.
            let is_in_order = !self.is_behind() && self.is_due();
            let queued = if is_in_order { self.together(queued) } else { queued };
            let (waited_for, others): (Vec<Queued>, Vec<Queued>) =
                queued.into_iter().partition(|queued| queued.done.is_some());
            let waited_for = if is_in_order { waited_for } else { self.together(waited_for) };
            for waiting in waited_for {
                if waiting.is_cut_off() {
                    self.cut_off(vec![waiting]);
                    continue;
                }
                let sent = match waiting.since.elapsed() {
                    late if late > TURN_MAX => Err(Failure::passing(format!(
                        "brokers are so slow that its turn did not come within {}",
                        base_text::duration(TURN_MAX)
                    ))),
                    _ => self.insist(&waiting.record),
                };
                match sent {
                    // One that lies aside would be overtaken.
                    Err(failure) if failure.no_topic && waiting.chain.is_none() => self.set_aside(waiting, failure),
                    sent => self.answer(waiting, sent),
                }
            }
            if let Some(directory) = self.shared.directory.as_ref().filter(|_| self.looked.elapsed() >= LOOK) {
                self.adopt(directory);
            }
            // What is on disk came first.
            if self.is_due() || ended {
                self.replay();
            }
            self.take(others.into_iter().map(|queued| queued.record).collect());
            // Last: what is read from the disk may be for a topic that is not there, and has to be back on it at the end.
            self.look_aside(ended);
            if ended && lock(&self.shared.state).queue.is_empty() {
                return;
            }
        }
    }

    fn cut_off(&mut self, records: Vec<Queued>) {
        for queued in records {
            self.answer(queued, Err(Failure::passing("a record before it did not arrive".to_owned())));
        }
    }

    /// Sends records many at a time, in their order, as far as brokers take them; those that are left are for one by one.
    fn together(&mut self, queued: Vec<Queued>) -> Vec<Queued> {
        let is_late = |one: &Queued| one.done.is_some() && one.since.elapsed() > TURN_MAX;
        if queued.len() < 2 || queued.iter().all(|one| one.done.is_none()) || queued.iter().any(is_late) {
            return queued;
        }
        let records: Vec<Record> = queued.iter().map(|one| one.record.clone()).collect();
        let mut left = queued.into_iter();
        loop {
            let (count, sent) = self.deliver(&records[records.len() - left.len()..]);
            left.by_ref().take(count).for_each(|one| self.answer(one, Ok(())));
            match sent {
                Ok(()) if self.is_behind() => break,
                Ok(()) => {
                    self.again = None;
                    break;
                }
                Err(failure) if failure.passing && !failure.no_topic => break,
                // Its own fault, or its topic's: those behind it go on. What follows in a chain does not.
                Err(failure) => match left.as_slice().first().is_some_and(|first| first.chain.is_none()) {
                    true => left.by_ref().take(1).for_each(|first| self.leave_out(first, failure.clone())),
                    false => break,
                },
            }
        }
        left.collect()
    }

    /// Others go on without this one.
    fn leave_out(&mut self, queued: Queued, failure: Failure) {
        if failure.no_topic {
            return self.set_aside(queued, failure);
        }
        // One more time would not help: it is at fault, or its topic.
        self.answer(queued, Err(failure));
        self.alone = self.alone.saturating_sub(1);
    }

    /// What was handed over since, in its order, and whether that is the end.
    fn next(&mut self) -> (Vec<Queued>, bool) {
        let mut state = lock(&self.shared.state);
        while state.queue.is_empty() && !state.ended {
            let behind = self.is_behind();
            let pause = match self.again {
                Some((at, _)) if behind => at.saturating_duration_since(Instant::now()),
                None if behind => Duration::ZERO,
                _ if self.shared.directory.is_some() => LOOK,
                _ => Duration::from_secs(3600),
            };
            let pause = if self.aside.records > 0 { pause.min(ASIDE_LOOK) } else { pause };
            if pause.is_zero() {
                break;
            }
            state = self.shared.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
            if self.looked.elapsed() >= LOOK || self.aside.records > 0 {
                break;
            }
        }
        let (mut queued, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES
            && let Some(one) = state.queue.pop_front()
        {
            bytes += one.record.bytes();
            queued.push(one);
        }
        state.bytes = state.bytes.saturating_sub(bytes);
        (queued, state.ended)
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
                Err(failure) if failure.passing && !failure.no_topic => {}
                _ => break,
            }
        }
        sent
    }

    /// Takes records nobody waits for: to the brokers, else to the disk.
    fn take(&mut self, records: Vec<Record>) {
        let mut rest = &records[..];
        while !rest.is_empty() && !self.is_behind() && self.is_due() {
            let (count, sent) = self.deliver(rest);
            add(&COUNTERS.delivered, count);
            rest = &rest[count..];
            match sent {
                Ok(()) => self.again = None,
                Err(failure) => match self.part(rest, failure) {
                    Ok(after) => rest = after,
                    Err(failure) => {
                        self.wait(&failure);
                        break;
                    }
                },
            }
        }
        self.keep(rest);
    }

    /// To the disk, as far as there is room.
    fn keep(&mut self, rest: &[Record]) {
        if rest.is_empty() {
            return;
        }
        let kept = match &mut self.spool {
            Some(spool) => spool.append(rest, true).unwrap_or_else(|error| {
                tracing::error!(%error, "records for Kafka cannot be written to the disk");
                0
            }),
            None => 0,
        };
        add(&COUNTERS.spooled, kept);
        let lost = rest.len() - kept;
        if lost > 0 {
            add(&COUNTERS.refused, lost);
            tracing::error!(records = lost, "no room for records while Kafka cannot be reached: they are dropped");
        }
    }

    /// Goes on without the first of these records where it is that one's fault; the failure where it is not.
    fn part<'r>(&mut self, records: &'r [Record], failure: Failure) -> Result<&'r [Record], Failure> {
        let Some((first, after)) = records.split_first() else { return Ok(records) };
        if failure.passing && !failure.no_topic {
            return Err(failure);
        }
        self.leave_out(Queued { record: first.clone(), done: None, chain: None, since: Instant::now() }, failure);
        Ok(after)
    }

    /// Whoever sends records could fill the log with what is wrong with each of them.
    fn refuse(&mut self, failure: &Failure, records: usize) {
        add(&COUNTERS.failed, records);
        if self.told.is_due() {
            tracing::error!(%failure, "Kafka refuses a record");
        }
    }

    fn answer(&mut self, queued: Queued, sent: Result<(), Failure>) {
        if let Some(chain) = queued.chain.as_ref().filter(|_| sent.is_err()) {
            chain.end();
        }
        match (queued.done, sent) {
            (None, Ok(())) => add(&COUNTERS.delivered, 1),
            (None, Err(failure)) => self.refuse(&failure, 1),
            (Some(done), sent) => {
                add(if sent.is_ok() { &COUNTERS.delivered } else { &COUNTERS.failed }, 1);
                done(sent.map_err(|failure| match failure.of_record {
                    true => SendError::Unfit(failure.why),
                    false => SendError::Failed(failure.why),
                }));
            }
        }
    }

    /// Keeps a record whose topic does not exist, while there is room for such.
    fn set_aside(&mut self, queued: Queued, failure: Failure) {
        let aside = &mut self.aside;
        let bytes = queued.record.bytes();
        let knows = aside.topics.contains_key(&queued.record.topic);
        if (!knows && aside.topics.len() >= ASIDE_TOPICS)
            || aside.records >= ASIDE_RECORDS
            || aside.bytes + bytes > ASIDE_BYTES
        {
            return self.answer(queued, Err(failure));
        }
        aside.records += 1;
        aside.bytes += bytes;
        aside.topics.entry(queued.record.topic.clone()).or_default().push_back(queued);
    }

    /// Whether topics are there now whose records wait. What has waited for too long is refused; at the end the disk has the others.
    fn look_aside(&mut self, ended: bool) {
        let looked = self.aside.looked.is_some_and(|looked| looked.elapsed() < ASIDE_LOOK);
        if self.aside.records == 0 || looked && !ended {
            return;
        }
        let topics = std::mem::take(&mut self.aside).topics;
        self.aside.looked = Some(Instant::now());
        let mut reached = self.is_due();
        for (topic, mut queue) in topics {
            let mut failure = Failure::no_topic(&topic);
            while reached && let Some(queued) = queue.pop_front() {
                match self.deliver(std::slice::from_ref(&queued.record)).1 {
                    Err(why) if why.passing => {
                        reached = why.no_topic;
                        failure = why;
                        queue.push_front(queued);
                        break;
                    }
                    sent => self.answer(queued, sent),
                }
            }
            let mut kept = Vec::new();
            for queued in queue {
                let longest = if queued.done.is_some() { ASIDE_WAITED_FOR } else { ASIDE_LONGEST };
                match (ended, &queued.done) {
                    (true, None) => kept.push(queued.record),
                    (false, _) if queued.since.elapsed() < longest => self.set_aside(queued, failure.clone()),
                    _ => self.answer(queued, Err(failure.clone())),
                }
            }
            self.keep(&kept);
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
            let peeked = spool.peek(BATCH_BYTES);
            COUNTERS.damaged.fetch_add(std::mem::take(&mut spool.damaged), Relaxed);
            let batch = match peeked {
                // All of it was damaged.
                Ok(batch) if batch.kept.is_empty() => continue,
                Ok(batch) => batch,
                Err(error) => {
                    tracing::error!(%error, "records for Kafka cannot be read from the disk");
                    self.again = Some((Instant::now() + AGAIN, AGAIN));
                    return;
                }
            };
            let mut left = &batch.kept[..];
            while !left.is_empty() {
                let (count, sent) = self.deliver(left);
                add(&COUNTERS.replayed, count);
                add(&COUNTERS.delivered, count);
                left = &left[count..];
                match sent {
                    Ok(()) => {}
                    Err(failure) => match self.part(left, failure) {
                        Ok(after) => left = after,
                        Err(failure) => return self.wait(&failure),
                    },
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
        let mut from = 0;
        while from < records.len() {
            let most = if self.alone > 0 { 1 } else { usize::MAX };
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
                    // One of them is at fault: each of them alone.
                    self.alone = stretch.len();
                    continue;
                }
                return (from, Err(failure));
            }
            self.turn = self.turn.wrapping_add(1);
            self.alone = self.alone.saturating_sub(stretch.len());
            from = to;
        }
        (records.len(), Ok(()))
    }

    /// The partition of a record: by its key as Sarama's producer, Easegress's, chooses; else in turn.
    fn place(&mut self, record: &Record) -> Result<(i32, i32), Failure> {
        let turn = self.turn;
        if self.aside.topics.contains_key(&record.topic) {
            // Those that came before it wait.
            return Err(Failure::no_topic(&record.topic));
        }
        let partitions = self.cluster.partitions(&record.topic)?;
        let at = match &record.key {
            Some(key) => by_key(key, partitions.len()),
            None => turn % partitions.len().max(1),
        };
        partitions.get(at).copied().ok_or_else(|| Failure::passing("a topic without partitions"))
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
    use base_testing::kafka::{Broker, NOT_ALLOWED, TOO_LARGE};

    #[test]
    fn keys_lead_where_saramas_do() {
        // FNV-1a of "a" is 0xe40c292c, which is negative.
        assert_eq!(by_key(b"a", 10), (0xe40c_292c_u32 as i32 % 10).unsigned_abs() as usize);
        assert!((0..100).all(|n| by_key(format!("{n}").as_bytes(), 7) < 7));
    }

    /// Clients may name topics: one that is not there stopped whatever came after it, and filled the disk with that.
    #[test]
    fn records_for_a_topic_that_is_not_there_stop_no_others() {
        let (directory, broker) = (tempfile::tempdir().unwrap(), broker());
        broker.make(&["t"]);
        let producer = start(&broker, Some(directory.path()));
        let (told, answer) = std::sync::mpsc::channel();
        let done: Done = Box::new(move |sent| told.send(sent).unwrap());
        for (number, topic) in ["ghost", "t", "ghost", "t"].into_iter().enumerate() {
            producer.send(record(topic, &format!("value-{number}")), None).unwrap();
        }
        producer.send(record("nowhere", "waited for"), Some(done)).unwrap();
        producer.send(record("t", "value-4"), None).unwrap();
        broker.until(&["value-1", "value-3", "value-4"]);
        let answer = answer.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(&answer, Err(SendError::Failed(why)) if why.contains("nowhere: there is no such topic")));
        broker.make(&["ghost"]);
        broker.until(&["value-0", "value-2"]);
        producer.end();
    }

    /// Whoever sends all of it again would find it in another order.
    #[test]
    fn nothing_overtakes_what_did_not_arrive() {
        let broker = broker();
        let producer = start(&broker, None);
        let (told, heard) = std::sync::mpsc::channel();
        let send = |value: &str, chain: &Chain| {
            let told = told.clone();
            let done = Box::new(move |sent: Result<(), SendError>| told.send(sent.is_ok()).unwrap());
            producer.send_in_order(record("later", value), chain, done).unwrap();
            heard.recv_timeout(Duration::from_secs(60)).unwrap()
        };
        let chain = Chain::default();
        assert!(!send("value-1", &chain), "its topic is not there");
        broker.make(&["later"]);
        assert!(!send("value-2", &chain), "one before it did not arrive");
        let again = Chain::default();
        assert!(send("value-1", &again) && send("value-2", &again));
        broker.until(&["value-1", "value-2"]);
    }

    /// A device may be written about by both kinds, and what is later about it has to be later there.
    #[test]
    fn what_is_waited_for_overtakes_nothing_that_came_before_it() {
        let broker = broker();
        broker.make(&["t"]);
        let (told, heard) = std::sync::mpsc::channel();
        let queued = |number: usize| Queued {
            record: record(if number == 0 { "refused" } else { "t" }, &format!("value-{number}")),
            done: (number % 2 == 1).then(|| {
                let told = told.clone();
                Box::new(move |sent: Result<(), SendError>| told.send((number, sent)).unwrap()) as Done
            }),
            chain: None,
            since: Instant::now(),
        };
        let queue = (0..6).map(queued).collect();
        let state = Mutex::new(State { queue, bytes: 0, ended: true });
        let (brokers, access) = (vec![broker.address()], Access::default());
        let shared = Shared { brokers, access, directory: None, state, changed: Condvar::new() };
        Sending::new(&shared).run();
        // The first is refused, which changes nothing for those behind it.
        assert_eq!(broker.values(), (1..6).map(|number| format!("value-{number}")).collect::<Vec<_>>());
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), [(1, Ok(())), (3, Ok(())), (5, Ok(()))]);
    }

    /// Another try does as little for a record that is too large, and may do for one that nobody may write as yet.
    #[test]
    fn a_record_at_fault_is_told_from_one_that_may_not_be_written() {
        let broker = broker();
        let producer = start(&broker, None);
        let send = |topic: &str| {
            let (told, heard) = std::sync::mpsc::channel();
            producer.send(record(topic, "value"), Some(Box::new(move |sent| told.send(sent).unwrap()))).unwrap();
            heard.recv_timeout(PATIENCE).unwrap()
        };
        assert!(matches!(send("small"), Err(SendError::Unfit(why)) if why.contains("larger than the broker takes")));
        assert!(matches!(send("refused"), Err(SendError::Failed(why)) if why.contains("not allowed")));
    }

    /// They were never sent, and nobody was told: brokers began to want a user, and the document was given one.
    #[test]
    fn what_waits_is_sent_when_there_is_a_user_and_as_no_other() {
        let (directory, broker) = (tempfile::tempdir().unwrap(), broker());
        broker.make(&["t"]);
        let brokers = [broker.address()];
        let place = |user: Option<&str>| directory.path().join(name(&brokers, user));
        let left = |user: Option<&str>, value: &str| {
            let mut spool: edge_spool::Spool<Record> = places::free(&place(user), SPOOL_BYTES).unwrap();
            assert_eq!(spool.append(&[record("t", value)], true).unwrap(), 1);
        };
        left(None, "nobody's");
        left(Some("edge"), "edge's");
        left(Some("other"), "other's");
        let found = |user: Option<&str>| {
            let sasl = user.map(|user| base_model::SaslSpec { username: user.to_owned(), ..Default::default() });
            let access = Access::new(None, sasl.as_ref()).unwrap();
            let (brokers, directory) = (brokers.to_vec(), Some(place(user)));
            let shared = Shared { brokers, access, directory, state: Mutex::default(), changed: Condvar::new() };
            let mut sending = Sending::new(&shared);
            let spools = sending.older.iter_mut().chain(&mut sending.spool);
            let records = spools.flat_map(|spool| spool.peek(1 << 20).unwrap().kept);
            records.map(|record| String::from_utf8(record.value.to_vec()).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(found(Some("edge")), ["nobody's", "edge's"]);
        assert_eq!(found(None), ["nobody's"]);
    }

    #[test]
    fn what_is_kept_beside_is_on_disk_at_the_end() {
        let (directory, broker) = (tempfile::tempdir().unwrap(), broker());
        broker.make(&["t"]);
        let again = || start(&broker, Some(directory.path()));
        let producer = again();
        producer.send(record("ghost", "value-0"), None).unwrap();
        producer.send(record("t", "value-1"), None).unwrap();
        broker.until(&["value-1"]);
        producer.end();
        broker.make(&["ghost"]);
        let producer = again();
        broker.until(&["value-0"]);
        producer.end();
    }

    /// Each was taken out by one call within another, on one stack.
    #[test]
    fn thousands_of_refused_records_are_refused() {
        let (directory, broker) = (tempfile::tempdir().unwrap(), broker());
        broker.make(&["t"]);
        let producer = start(&broker, Some(directory.path()));
        // Something to be busy with while the others come.
        producer.send(record("t", "first"), None).unwrap();
        (0..7000).for_each(|_| producer.send(record("refused", ""), None).unwrap());
        producer.send(record("t", "value-after"), None).unwrap();
        broker.until(&["first", "value-after"]);
        producer.end();
    }

    fn record(topic: &str, value: &str) -> Record {
        Record::new(&topic.into(), None, value.to_owned().into())
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Knows the topics that were made, and two more: one that may not be written to, and one for which everything is too large.
    fn broker() -> Broker {
        let broker = Broker::that(|topic, _| match topic {
            "refused" => NOT_ALLOWED,
            "small" => TOO_LARGE,
            _ => 0,
        });
        broker.make(&["refused", "small"]);
        broker
    }

    fn start(broker: &Broker, directory: Option<&Path>) -> Producer {
        Producer::start(&[broker.address()], &Access::default(), directory.map(Path::to_owned))
    }
}

//! A thread for each list of brokers, and what workers hand it.

use crate::access::Access;
use crate::cluster::{Cluster, Failure};
use crate::stats::{COUNTERS, add};
use crate::waiting::{self, Document, LOOK, Turn};
use base_text::Seldom;
use bytes::Bytes;
use proto_kafka::encode_batch;
use std::borrow::Borrow;
use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
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

static PRODUCERS: Mutex<Vec<Weak<Producer>>> = Mutex::new(Vec::new());
/// The next one's.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Ends all producers: what waits goes to brokers, or to the disk.
pub fn shutdown() {
    waiting::end();
    let producers: Vec<Arc<Producer>> = lock(&PRODUCERS).iter().filter_map(Weak::upgrade).collect();
    producers.iter().for_each(|producer| producer.end());
}

/// See the module doc. Filters that name the same brokers and speak to them alike share one.
pub struct Producer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    number: u64,
    brokers: Vec<String>,
    access: Access,
    state: Mutex<State>,
    changed: Condvar,
}

/// A document's way to its brokers, for as long as it says that. What cannot be handed over waits in the document's place on disk.
pub struct Sender {
    producer: Arc<Producer>,
    /// The producer's thread holds it, and lets go of it: that is work with the disk, and whoever drops this may be a worker.
    document: Weak<Document>,
}

impl Sender {
    /// Of the document of this name, `pipeline/filter`.
    pub fn new(document: &str, brokers: &[String], access: &Access) -> Sender {
        Sender::of(Producer::of(brokers, access), Document::named(waiting::root(), document))
    }

    fn of(producer: Arc<Producer>, document: Arc<Document>) -> Sender {
        document.join(producer.shared.number);
        let sender = Sender { producer, document: Arc::downgrade(&document) };
        sender.producer.look(document);
        sender
    }

    /// Hands over a record. With `done` somebody waits to hear that all replicas in sync have it; without, it may wait on disk for
    /// brokers to be back. Never blocks for longer than it takes to put it into a list.
    pub fn send(&self, record: Record, done: Option<Done>) -> Result<(), SendError> {
        let document = self.document.upgrade();
        self.producer.queue(Queued { record, document, done, chain: None, since: Instant::now() })
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if let Some(document) = self.document.upgrade() {
            document.leave(self.producer.shared.number);
            self.producer.look(document);
        }
    }
}

/// A record, the document in whose place it may wait, who waits for it, and since when it is there.
struct Queued {
    record: Record,
    document: Option<Arc<Document>>,
    done: Option<Done>,
    chain: Option<Chain>,
    since: Instant,
}

impl Borrow<Record> for Queued {
    fn borrow(&self) -> &Record {
        &self.record
    }
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
    /// Documents that hand over records from now on, or no longer.
    came: Vec<Arc<Document>>,
    /// Some came, or went.
    look: bool,
}

impl Shared {
    fn new(brokers: &[String], access: &Access) -> Shared {
        let number = NUMBER.fetch_add(1, Relaxed);
        let (brokers, access) = (brokers.to_vec(), access.clone());
        Shared { number, brokers, access, state: Mutex::default(), changed: Condvar::new() }
    }
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
        let producer = Arc::new(Producer::start(brokers, access, waiting::root()));
        producers.push(Arc::downgrade(&producer));
        producer
    }

    /// `root`: where builds before this one have left records.
    fn start(brokers: &[String], access: &Access, root: Option<&Path>) -> Producer {
        let before = before(root, brokers, access);
        let shared = Arc::new(Shared::new(brokers, access));
        let work = shared.clone();
        let thread = thread::Builder::new().name("kafka".into()).spawn(move || Sending::new(&work, before).run());
        let thread =
            thread.map_err(|error| tracing::error!(%error, "no thread for Kafka: every record is refused")).ok();
        if thread.is_none() {
            lock(&shared.state).ended = true;
        }
        Producer { shared, thread: Mutex::new(thread) }
    }

    /// Hands over a record of a chain, which somebody waits for: it never waits on disk.
    pub fn send_in_order(&self, record: Record, chain: &Chain, done: Done) -> Result<(), SendError> {
        let chain = Some(chain.clone());
        self.queue(Queued { record, document: None, done: Some(done), chain, since: Instant::now() })
    }

    fn queue(&self, queued: Queued) -> Result<(), SendError> {
        let bytes = queued.record.bytes();
        let mut state = lock(&self.shared.state);
        if state.ended || state.queue.len() >= MEMORY_RECORDS || state.bytes + bytes > MEMORY_BYTES {
            drop(state);
            add(&COUNTERS.refused, 1);
            return Err(SendError::Full);
        }
        state.bytes += bytes;
        state.queue.push_back(queued);
        drop(state);
        self.shared.changed.notify_one();
        Ok(())
    }

    /// A document came, or went.
    fn look(&self, document: Arc<Document>) {
        let mut state = lock(&self.shared.state);
        state.came.push(document);
        state.look = true;
        drop(state);
        self.shared.changed.notify_one();
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

/// What builds before this one have left for this way to these brokers.
fn before(root: Option<&Path>, brokers: &[String], access: &Access) -> Vec<Arc<Document>> {
    let Some(root) = root else { return Vec::new() };
    // A user's sends what nobody's has left, too: brokers that begin to want a user are why records waited.
    let users = [access.user().map(|_| None), Some(access.user())];
    users.into_iter().flatten().filter_map(|user| Document::before(root, brokers, user)).collect()
}

/// The thread's own.
struct Sending<'a> {
    shared: &'a Shared,
    cluster: Cluster,
    /// Those that hand over records, and those that did, for as long as brokers take what they have left.
    documents: Vec<Arc<Document>>,
    /// What builds before this one have left, which goes first.
    before: Vec<Arc<Document>>,
    /// Whose turn it is to send what waits.
    next_document: usize,
    /// Another producer still sends what waits.
    is_held: bool,
    /// When the documents were looked through last.
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
    fn new(shared: &'a Shared, before: Vec<Arc<Document>>) -> Sending<'a> {
        Sending {
            shared,
            cluster: Cluster::new(&shared.brokers, &shared.access),
            documents: Vec::new(),
            before,
            next_document: 0,
            is_held: false,
            looked: Instant::now(),
            again: None,
            turn: 0,
            aside: Aside::default(),
            alone: 0,
            told: Seldom::once_in(TELL),
        }
    }

    /// Sees which documents came and went, and what processes that have ended have left of them.
    fn look(&mut self) {
        self.looked = Instant::now();
        let mut state = lock(&self.shared.state);
        state.look = false;
        let came = std::mem::take(&mut state.came);
        drop(state);
        for document in came {
            if !self.documents.iter().any(|known| Arc::ptr_eq(known, &document)) {
                self.documents.push(document);
            }
        }
        let (number, is_reached) = (self.shared.number, self.again.is_none());
        self.documents.retain(|document| {
            document.is_handed_to(number) || document.is_gone() && is_reached && !document.is_empty()
        });
        for document in self.before.iter().chain(&self.documents).filter(|document| document.is_sent_by(number)) {
            if let Some(turn) = document.turn() {
                turn.look();
            }
        }
        self.before.retain(|document| !document.is_empty() || document.is_on_disk());
    }

    fn run(mut self) {
        loop {
            if lock(&self.shared.state).look || self.looked.elapsed() >= LOOK {
                self.look();
            }
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
            // What is on disk came first.
            if self.is_due() || ended {
                self.replay();
            }
            self.take(others);
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
        let mut left = queued.into_iter();
        loop {
            let (count, sent) = self.deliver(left.as_slice());
            left.by_ref().take(count).for_each(|one| self.answer(one, Ok(())));
            match sent {
                Ok(()) if self.is_behind() => break,
                Ok(()) => {
                    self.again = None;
                    break;
                }
                Err(failure) if is_of_all(&failure) => break,
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
        while state.queue.is_empty() && !state.ended && !state.look {
            let behind = self.is_behind();
            let pause = match self.again {
                Some((at, _)) if behind => at.saturating_duration_since(Instant::now()),
                None if behind && self.is_held => TRY_AGAIN,
                None if behind => Duration::ZERO,
                _ => LOOK.saturating_sub(self.looked.elapsed()),
            };
            let pause = if self.aside.records > 0 { pause.min(ASIDE_LOOK) } else { pause };
            if pause.is_zero() {
                break;
            }
            state = self.shared.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
            if self.is_held || self.looked.elapsed() >= LOOK || self.aside.records > 0 {
                break;
            }
        }
        let (mut queued, mut bytes) = (Vec::new(), 0);
        // What waits of a document that came goes before its records.
        while !state.look
            && bytes < BATCH_BYTES
            && let Some(one) = state.queue.pop_front()
        {
            bytes += one.record.bytes();
            queued.push(one);
        }
        state.bytes = state.bytes.saturating_sub(bytes);
        (queued, state.ended && !state.look)
    }

    /// Something is on disk.
    fn is_behind(&self) -> bool {
        self.waiting().next().is_some()
    }

    /// Those of which something is on disk, that is to be sent from here.
    fn waiting(&self) -> impl Iterator<Item = &Arc<Document>> {
        let all = self.before.iter().chain(&self.documents);
        all.filter(|document| document.is_sent_by(self.shared.number) && !document.is_empty())
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
                Err(failure) if is_of_all(failure) => {}
                _ => break,
            }
        }
        sent
    }

    /// Takes records nobody waits for: to the brokers, else to the disk.
    fn take(&mut self, records: Vec<Queued>) {
        let mut left = records.into_iter();
        while left.len() > 0 && !self.is_behind() && self.is_due() {
            let (count, sent) = self.deliver(left.as_slice());
            add(&COUNTERS.delivered, count);
            left.by_ref().take(count).for_each(drop);
            match sent {
                Ok(()) => self.again = None,
                Err(failure) if is_of_all(&failure) => {
                    self.wait(&failure);
                    break;
                }
                Err(failure) => left.by_ref().take(1).for_each(|first| self.leave_out(first, failure.clone())),
            }
        }
        self.keep(left.collect());
    }

    /// To the disk, each to its document's place, as far as there is room.
    fn keep(&mut self, records: Vec<Queued>) {
        let mut by_document: Vec<(Option<Arc<Document>>, Vec<Record>)> = Vec::new();
        for Queued { record, document, .. } in records {
            let pointer = |document: &Option<Arc<Document>>| document.as_ref().map(Arc::as_ptr);
            match by_document.iter_mut().find(|(known, _)| pointer(known) == pointer(&document)) {
                Some((_, records)) => records.push(record),
                None => by_document.push((document, vec![record])),
            }
        }
        let mut lost = 0;
        for (document, records) in by_document {
            let kept = document.map_or(0, |document| document.keep(&records));
            add(&COUNTERS.spooled, kept);
            lost += records.len() - kept;
        }
        if lost > 0 {
            add(&COUNTERS.refused, lost);
            tracing::error!(records = lost, "no room for records while Kafka cannot be reached: they are dropped");
        }
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
                    (true, None) => kept.push(queued),
                    (false, _) if queued.since.elapsed() < longest => self.set_aside(queued, failure.clone()),
                    _ => self.answer(queued, Err(failure.clone())),
                }
            }
            self.keep(kept);
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

    /// From the disk to the brokers, as far as they take it: of one document after the other, so that none waits for another's end.
    fn replay(&mut self) {
        let until = Instant::now() + LAST;
        self.is_held = false;
        loop {
            let waiting: Vec<Arc<Document>> = self.waiting().cloned().collect();
            self.next_document += 1;
            let turns = (0..waiting.len()).map(|at| &waiting[(self.next_document + at) % waiting.len()]);
            let mut free = turns.filter_map(|document| Some((document, document.turn()?)));
            let Some((document, turn)) = free.next() else {
                self.is_held = !waiting.is_empty();
                return;
            };
            if !self.replay_some(document, &turn) {
                return;
            }
            drop(turn);
            // Others wait meanwhile.
            if Instant::now() > until || !lock(&self.shared.state).queue.is_empty() {
                return;
            }
        }
    }

    /// Some of one document's; whether to go on.
    fn replay_some(&mut self, document: &Arc<Document>, turn: &Turn<'_>) -> bool {
        let batch = match turn.peek(BATCH_BYTES) {
            Ok(batch) => batch,
            Err(error) => {
                tracing::error!(%error, "records for Kafka cannot be read from the disk");
                self.again = Some((Instant::now() + AGAIN, AGAIN));
                return false;
            }
        };
        let mut left = &batch.kept[..];
        while !left.is_empty() {
            let (count, sent) = self.deliver(left);
            add(&COUNTERS.replayed, count);
            add(&COUNTERS.delivered, count);
            left = &left[count..];
            match (sent, left.split_first()) {
                (Err(failure), _) if is_of_all(&failure) => {
                    self.wait(&failure);
                    return false;
                }
                (Err(failure), Some((first, after))) => {
                    let (record, document) = (first.clone(), Some(document.clone()));
                    let since = Instant::now();
                    self.leave_out(Queued { record, document, done: None, chain: None, since }, failure);
                    left = after;
                }
                _ => {}
            }
        }
        if self.again.take().is_some() {
            tracing::info!(brokers = self.shared.brokers.join(","), "Kafka is reached again");
        }
        if let Err(error) = turn.forget(&batch) {
            tracing::error!(%error, "what Kafka has cannot be forgotten on disk; it may be sent again");
            return false;
        }
        true
    }

    /// Hands records over, in their order within each partition: how many from the front are with the brokers, and why not the next.
    fn deliver<R: Borrow<Record>>(&mut self, records: &[R]) -> (usize, Result<(), Failure>) {
        let records: Vec<&Record> = records.iter().map(Borrow::borrow).collect();
        // Stretches for one partition go as one batch; what is for another begins the next, so that the front is clear at any time.
        let mut from = 0;
        while from < records.len() {
            let most = if self.alone > 0 { 1 } else { usize::MAX };
            let place = self.place(records[from]);
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
                    || records[to].key.is_some() && self.place(records[to]).is_ok_and(|other| other.0 == partition))
            {
                bytes += records[to].bytes();
                to += 1;
            }
            let mut batch = Vec::new();
            let stretch = &records[from..to];
            encode_batch(&stretch.iter().copied().map(on_the_wire).collect::<Vec<_>>(), &mut batch);
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

/// The next record fares no better.
fn is_of_all(failure: &Failure) -> bool {
    failure.passing && !failure.no_topic
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
    use std::fs;

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
        producer.producer.end();
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
            producer.producer.send_in_order(record("later", value), chain, done).unwrap();
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
            document: None,
            done: (number % 2 == 1).then(|| {
                let told = told.clone();
                Box::new(move |sent: Result<(), SendError>| told.send((number, sent)).unwrap()) as Done
            }),
            chain: None,
            since: Instant::now(),
        };
        let queue = (0..6).map(queued).collect();
        let shared = Shared::new(&[broker.address()], &Access::default());
        *lock(&shared.state) = State { queue, ended: true, ..State::default() };
        Sending::new(&shared, Vec::new()).run();
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

    /// What waited was the brokers' and the user's: it lay there for ever where the document named another, and what is one document's went to
    /// another's brokers.
    #[test]
    fn what_waits_goes_to_where_its_document_says_by_then_and_nowhere_else() {
        let (directory, port, other) = (tempfile::tempdir().unwrap(), free_port(), broker());
        other.make(&["t"]);
        let first = format!("127.0.0.1:{port}");
        let at = |document: &str, address: &str, user: Option<&str>| sender(document, address, user, directory.path());
        let [k, l] = ["p/k", "p/l"].map(|document| at(document, &first, None));
        let send = |sender: &Sender, of: &str, numbers: std::ops::Range<usize>| {
            numbers.for_each(|n| sender.send(record("t", &format!("{of}-{n}")), None).unwrap());
        };
        let is_on_disk = |place: &str, last: &str| {
            let files = fs::read_dir(directory.path().join(place)).into_iter().flatten().flatten();
            let mut texts = files.filter_map(|file| fs::read(file.path()).ok());
            texts.any(|text| text.windows(last.len()).any(|part| part == last.as_bytes()))
        };
        send(&k, "k", 0..5);
        send(&l, "l", 0..5);
        until("both wait", || is_on_disk("p+k/0", "k-4") && is_on_disk("p+l/0", "l-4"));
        // Renamed: it would still go to the same brokers, as somebody else, and they are still away.
        let renamed = at("p/k", &first, Some("other"));
        drop(k);
        send(&renamed, "k", 5..8);
        until("they wait, too", || is_on_disk("p+k/0", "k-7"));
        // Elsewhere, where somebody is.
        let moved = at("p/k", &other.address(), None);
        send(&moved, "k", 8..10);
        other.until(&["k-9"]);
        drop(renamed);
        assert_eq!(other.values(), (0..10).map(|n| format!("k-{n}")).collect::<Vec<_>>(), "all of it, in its order");
        let back = Broker::start(port, &Arc::default());
        back.until(&["l-4"]);
        assert_eq!(back.values(), (0..5).map(|n| format!("l-{n}")).collect::<Vec<_>>());
        assert_eq!(other.values().len(), 10);
        moved.producer.end();
        l.producer.end();
    }

    /// A client was told 202 for each of them.
    #[test]
    fn a_document_that_is_deleted_and_comes_again_sends_what_it_left() {
        let (directory, port) = (tempfile::tempdir().unwrap(), free_port());
        let address = format!("127.0.0.1:{port}");
        let make = || sender("p/k", &address, None, directory.path());
        let (there, place) = (directory.path().join("p+k"), directory.path().join("p+k/0"));
        let gone = make();
        gone.send(record("t", "waits"), None).unwrap();
        until("it waits", || waits(&place));
        drop(gone);
        until("it says when it went", || there.join("gone").exists());
        assert!(waits(&place));
        let broker = Broker::start(port, &Arc::default());
        let again = make();
        broker.until(&["waits"]);
        // What is drained is nobody's any more.
        drop(again);
        until("it is removed", || !there.exists());
        broker.stop();
    }

    /// It was of all filters of these brokers and this user, and of nobody's where there was none.
    #[test]
    fn what_builds_before_this_one_left_is_sent_and_as_no_other() {
        let (directory, broker) = (tempfile::tempdir().unwrap(), broker());
        broker.make(&["t"]);
        let brokers = [broker.address()];
        let place = |user: Option<&str>| directory.path().join(waiting::name_before(&brokers, user));
        let leave = |user: Option<&str>, value: &str| {
            let mut spool = edge_spool::places::free(&place(user), waiting::BYTES).unwrap();
            assert_eq!(spool.append(&[record("t", value)], true).unwrap(), 1);
        };
        leave(None, "nobody's");
        leave(Some("other"), "other's");
        let sender = start(&broker, Some(directory.path()));
        broker.until(&["nobody's"]);
        until("its place is removed", || !place(None).exists());
        sender.producer.end();
        assert_eq!(broker.values(), ["nobody's"]);
        leave(None, "nobody's");
        let found = |user: Option<&str>| {
            let sasl = user.map(|user| base_model::SaslSpec { username: user.to_owned(), ..Default::default() });
            before(Some(directory.path()), &brokers, &Access::new(None, sasl.as_ref()).unwrap()).len()
        };
        assert_eq!((found(None), found(Some("edge")), found(Some("other"))), (1, 1, 2));
    }

    /// Nothing waited any more until the process began anew.
    #[test]
    fn a_disk_that_comes_back_is_written_to() {
        let (directory, port) = (tempfile::tempdir().unwrap(), free_port());
        let root = directory.path().join("kafka");
        fs::write(&root, "no directory").unwrap();
        let sender = sender("p/k", &format!("127.0.0.1:{port}"), None, &root);
        let document = sender.document.upgrade().unwrap();
        assert_eq!(document.keep(&[record("t", "lost")]), 0);
        fs::remove_file(&root).unwrap();
        sender.send(record("t", "waits"), None).unwrap();
        until("it waits", || !document.is_empty());
        drop(document);
        let broker = Broker::start(port, &Arc::default());
        broker.until(&["waits"]);
        sender.producer.end();
        broker.stop();
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
        producer.producer.end();
        broker.make(&["ghost"]);
        let producer = again();
        broker.until(&["value-0"]);
        producer.producer.end();
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
        producer.producer.end();
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

    fn start(broker: &Broker, directory: Option<&Path>) -> Sender {
        let producer = Producer::start(&[broker.address()], &Access::default(), directory);
        Sender::of(Arc::new(producer), Document::named(directory, "p/k"))
    }

    /// As a filter of this name has one.
    fn sender(document: &str, address: &str, user: Option<&str>, root: &Path) -> Sender {
        let sasl = user.map(|user| base_model::SaslSpec { username: user.to_owned(), ..Default::default() });
        let producer = Producer::of(&[address.to_owned()], &Access::new(None, sasl.as_ref()).unwrap());
        Sender::of(producer, Document::named(Some(root), document))
    }

    fn free_port() -> u16 {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    fn waits(place: &Path) -> bool {
        let files = fs::read_dir(place).into_iter().flatten().flatten();
        files.into_iter().any(|file| file.path().extension().is_some_and(|name| name == "records"))
    }

    fn until(what: &str, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < end, "{what}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

//! From the state machine to its readers: the last state, and the deltas that led there.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use control_api::{Delta, Snapshot, Update, object_key};
use control_state::State;
use tokio::sync::watch;

/// Holds the current [`State`] and wakes everybody who waits for the next.
pub struct Publisher {
    inner: Mutex<Inner>,
    changed: Condvar,
    version: watch::Sender<u64>,
    /// The last state that was told whole, and its text, for as long as somebody is being told.
    whole: Mutex<(Weak<State>, Weak<Vec<u8>>)>,
}

struct Inner {
    state: Arc<State>,
    /// Without gaps, up to the version of `state`.
    steps: VecDeque<Arc<Step>>,
    bytes: usize,
    closed: bool,
}

/// The step to the next version.
pub struct Step {
    pub delta: Arc<Delta>,
    /// Of its text.
    bytes: usize,
    /// Of what it deletes, in the same order.
    kinds: Vec<String>,
    line: OnceLock<Bytes>,
}

/// What a reader is told.
pub enum News {
    Step(Arc<Step>),
    Whole(Arc<State>),
}

/// Text that several readers are sent.
struct Shared(Arc<Vec<u8>>);

/// What became of objects after a version.
pub struct ObjectsSince {
    /// What is there now.
    pub state: Arc<State>,
    /// Names and kinds of what went. One that came again with the same kind is not among them.
    pub deletes: BTreeSet<(String, String)>,
    /// Names of what was put since.
    pub puts: BTreeSet<String>,
}

/// A reader's place in the stream of versions. It never misses one: it gets the delta that follows its version, or a
/// snapshot when that is no longer to be had. Works on plain threads ([`Follower::recv_timeout`]) and in tasks
/// ([`Follower::next`]).
pub struct Follower {
    publisher: Arc<Publisher>,
    version: watch::Receiver<u64>,
    at: Option<(String, u64)>,
    patience: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecvError {
    Timeout,
    /// The control half has shut down; the last state stays good.
    Closed,
}

impl Publisher {
    pub fn new(state: State) -> Arc<Self> {
        let version = watch::Sender::new(state.view.version);
        let inner = Inner { state: Arc::new(state), steps: VecDeque::new(), bytes: 0, closed: false };
        Arc::new(Publisher { inner: Mutex::new(inner), changed: Condvar::new(), version, whole: Mutex::default() })
    }

    pub fn state(&self) -> Arc<State> {
        self.lock().state.clone()
    }

    /// A new state one delta further. `bytes` is about what the delta's text takes.
    pub fn push(&self, state: State, delta: Arc<Delta>, bytes: usize) {
        let mut inner = self.lock();
        let before = std::mem::replace(&mut inner.state, Arc::new(state));
        if delta.to != delta.from + 1 {
            // Versions were left out, and a place in the row is told by its version: readers get a snapshot.
            inner.steps.clear();
            inner.bytes = 0;
        } else {
            let kinds = delta.deletes.iter().map(|name| kind_in(&before.view, name)).collect();
            inner.steps.push_back(Arc::new(Step { delta, bytes, kinds, line: OnceLock::new() }));
            inner.bytes += bytes;
        }
        while inner.steps.len() > DELTAS_KEPT || inner.bytes > DELTA_BYTES_KEPT {
            let Some(oldest) = inner.steps.pop_front() else { break };
            inner.bytes -= oldest.bytes;
        }
        self.wake(inner);
    }

    /// The same version, with other things that no reader is told of.
    pub fn renew(&self, state: State) {
        self.lock().state = Arc::new(state);
    }

    /// A new state from elsewhere: readers get a snapshot.
    pub fn reset(&self, state: State) {
        let mut inner = self.lock();
        inner.state = Arc::new(state);
        inner.steps.clear();
        inner.bytes = 0;
        self.wake(inner);
    }

    pub fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        self.wake(inner);
    }

    /// Follows from what the reader has: the id of the cluster and a version.
    pub fn follow(self: &Arc<Self>, at: Option<(String, u64)>) -> Follower {
        Follower { publisher: self.clone(), version: self.version.subscribe(), at, patience: Instant::now() + CATCH_UP }
    }

    /// A state as a line of a watch stream: written once, however many are told at the same time.
    pub fn line_of(&self, state: &Arc<State>) -> Bytes {
        let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(told), Some(text)) = (whole.0.upgrade(), whole.1.upgrade())
            && Arc::ptr_eq(&told, state)
        {
            return Bytes::from_owner(Shared(text));
        }
        let text = Arc::new(line(&Update::Snapshot(Arc::new(state.view.clone()))));
        *whole = (Arc::downgrade(state), Arc::downgrade(&text));
        Bytes::from_owner(Shared(text))
    }

    /// What became of objects after `version`; `None` where that is not remembered, or not there yet.
    pub fn objects_since(&self, version: u64) -> Option<ObjectsSince> {
        let inner = self.lock();
        let state = inner.state.clone();
        let (mut deletes, mut puts) = (BTreeSet::new(), BTreeSet::new());
        if version != state.view.version {
            let first = inner.steps.front()?.delta.from;
            let place = usize::try_from(version.checked_sub(first)?).ok()?;
            if version > state.view.version || place >= inner.steps.len() {
                return None;
            }
            for step in inner.steps.iter().skip(place) {
                for (name, kind) in step.delta.deletes.iter().zip(&step.kinds) {
                    puts.remove(name);
                    deletes.insert((name.clone(), kind.clone()));
                }
                for document in &step.delta.puts {
                    let word = |key: &str| document[key].as_str().unwrap_or_default().to_owned();
                    let key = object_key(document).into_owned();
                    deletes.remove(&(key.clone(), word("kind")));
                    puts.insert(key);
                }
            }
        }
        Some(ObjectsSince { state, deletes, puts })
    }

    /// Waits until the state is another than the one that was `seen`; `None` after the shutdown.
    pub async fn beyond(&self, seen: &State) -> Option<Arc<State>> {
        let mut published = self.version.subscribe();
        loop {
            published.borrow_and_update();
            {
                let inner = self.lock();
                let (now, seen) = (&inner.state.view, &seen.view);
                if inner.closed {
                    return None;
                }
                if now.version != seen.version || now.cluster_id != seen.cluster_id {
                    return Some(inner.state.clone());
                }
            }
            // The sender lives as long as this publisher does.
            let _ = published.changed().await;
        }
    }

    /// Waits until `version` is published here.
    pub async fn reached(&self, version: u64) {
        let mut published = self.version.subscribe();
        let _ = published.wait_for(|published| *published >= version).await;
    }

    /// Waits until the cluster has its id.
    pub async fn founded(&self) {
        let mut published = self.version.subscribe();
        while self.state().view.cluster_id.is_empty() {
            // The sender lives as long as this publisher does.
            let _ = published.changed().await;
        }
    }

    /// Waits until the cluster has this feature level.
    pub async fn reached_level(&self, level: u32) {
        let mut published = self.version.subscribe();
        while self.state().level() < level {
            let _ = published.changed().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, inner: MutexGuard<'_, Inner>) {
        let version = inner.state.view.version;
        drop(inner);
        self.changed.notify_all();
        self.version.send_replace(version);
    }
}

impl Follower {
    /// Blocks this thread until there is something new.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Update, RecvError> {
        let deadline = Instant::now() + timeout;
        let publisher = self.publisher.clone();
        let mut inner = publisher.lock();
        loop {
            if let Some(update) = self.take(&inner) {
                return Ok(update);
            }
            if inner.closed {
                return Err(RecvError::Closed);
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(RecvError::Timeout);
            }
            let wait = (deadline - now).min(RECHECK);
            inner = publisher.changed.wait_timeout(inner, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What there is now, if anything.
    pub fn try_recv(&mut self) -> Option<Update> {
        let publisher = self.publisher.clone();
        let inner = publisher.lock();
        self.take(&inner)
    }

    /// Waits for the next update; `None` after the shutdown.
    pub async fn next(&mut self) -> Option<Update> {
        self.news().await.map(News::update)
    }

    /// The same, with the text that all readers share.
    pub(crate) async fn news(&mut self) -> Option<News> {
        loop {
            // Marked before looking, so that a version published in between ends the wait below.
            self.version.borrow_and_update();
            {
                let publisher = self.publisher.clone();
                let inner = publisher.lock();
                if let Some(news) = self.take_news(&inner) {
                    return Some(news);
                }
                if inner.closed {
                    return None;
                }
            }
            let _ = tokio::time::timeout(RECHECK, self.version.changed()).await;
        }
    }

    /// For one that does not understand a step: all that is there now.
    pub(crate) fn whole(&mut self) -> Arc<State> {
        let state = self.publisher.state();
        self.at = Some((state.view.cluster_id.clone(), state.view.version));
        state
    }

    fn take(&mut self, inner: &Inner) -> Option<Update> {
        self.take_news(inner).map(News::update)
    }

    fn take_news(&mut self, inner: &Inner) -> Option<News> {
        let view = &inner.state.view;
        // What was written before the cluster had an id is nobody's yet: a reader could not tell it from another cluster's.
        if view.version == 0 || view.cluster_id.is_empty() {
            return None;
        }
        if let Some((cluster, version)) = &self.at
            && *cluster == view.cluster_id
        {
            if *version == view.version {
                return None;
            }
            // A member that has just started knows less than a reader that kept its last state; it will catch up.
            if *version > view.version && Instant::now() < self.patience {
                return None;
            }
            let first = inner.steps.front().map_or(u64::MAX, |step| step.delta.from);
            let place = version.checked_sub(first).and_then(|place| usize::try_from(place).ok());
            if let Some(step) = place.and_then(|place| inner.steps.get(place))
                && step.delta.from == *version
                && step.delta.to > *version
            {
                self.at = Some((step.delta.cluster_id.clone(), step.delta.to));
                return Some(News::Step(step.clone()));
            }
        }
        self.at = Some((view.cluster_id.clone(), view.version));
        Some(News::Whole(inner.state.clone()))
    }
}

impl Step {
    /// As a line of a watch stream.
    pub fn line(&self) -> Bytes {
        self.line.get_or_init(|| line(&Update::Delta(self.delta.clone())).into()).clone()
    }
}

impl News {
    pub fn update(self) -> Update {
        match self {
            News::Step(step) => Update::Delta(step.delta.clone()),
            News::Whole(state) => Update::Snapshot(Arc::new(state.view.clone())),
        }
    }
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// With the newline that ends it.
pub fn line(update: &Update) -> Vec<u8> {
    let mut line = serde_json::to_vec(update).expect("our own types have text keys and no failing serializers");
    line.push(b'\n');
    line
}

fn kind_in(view: &Snapshot, name: &str) -> String {
    view.object(name).and_then(|document| document["kind"].as_str()).unwrap_or_default().to_owned()
}

/// Enough for a reader that lost its connection while a thousand objects were created.
const DELTAS_KEPT: usize = 2048;
/// Beyond so many bytes of text the older ones go: a reader that needs them gets a snapshot. The documents they hold are others than
/// those of the state, and take several times as much memory as text.
const DELTA_BYTES_KEPT: usize = 4 << 20;
/// How long a reader that is ahead waits before it takes an older snapshot (a cluster restored from a backup).
const CATCH_UP: Duration = Duration::from_secs(10);
const RECHECK: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use control_state::{Action, Command, PutMode};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reader_gets_deltas_while_they_last_and_a_snapshot_else() {
        let publisher = Publisher::new(State::default());
        let mut state = State::of_view(Snapshot { cluster_id: "one".into(), ..Snapshot::default() });
        let mut put = |publisher: &Publisher, n: u64| {
            let document = json!({"name": "p", "kind": "Pipeline", "turn": n});
            let applied = state.apply(Command::put(n, "t", PutMode::Upsert, vec![document]));
            publisher.push(state.clone(), applied.delta.unwrap(), 100);
        };
        let mut early = publisher.follow(None);
        assert_eq!(early.recv_timeout(Duration::ZERO), Err(RecvError::Timeout));
        for n in 1..=3 {
            put(&publisher, n);
        }
        assert!(matches!(early.try_recv(), Some(Update::Snapshot(s)) if s.version == 3));
        let mut resumed = publisher.follow(Some(("one".into(), 1)));
        assert!(matches!(resumed.try_recv(), Some(Update::Delta(d)) if (d.from, d.to) == (1, 2)));
        assert!(matches!(resumed.try_recv(), Some(Update::Delta(d)) if (d.from, d.to) == (2, 3)));
        assert!(resumed.try_recv().is_none());
        let mut ahead = publisher.follow(Some(("one".into(), 9)));
        assert!(ahead.try_recv().is_none(), "a reader that knows more waits");
        let mut stranger = publisher.follow(Some(("other".into(), 2)));
        assert!(matches!(stranger.try_recv(), Some(Update::Snapshot(_))));
        for n in 4..=DELTAS_KEPT as u64 + 10 {
            put(&publisher, n);
        }
        assert!(matches!(resumed.try_recv(), Some(Update::Snapshot(_))), "too far behind");
        assert_eq!(publisher.lock().steps.len(), DELTAS_KEPT);
        let delta = publisher.lock().steps.back().unwrap().delta.clone();
        for n in 1..=100 {
            let next = Delta { from: delta.to + n - 1, to: delta.to + n, ..Delta::default() };
            publisher.push(State::default(), Arc::new(next), DELTA_BYTES_KEPT / 10);
        }
        assert_eq!(publisher.lock().steps.len(), 10, "large ones are fewer");
        publisher.close();
        assert_eq!(resumed.recv_timeout(Duration::ZERO), Err(RecvError::Closed));
    }

    #[test]
    fn what_became_of_objects_is_told_in_one_step_as_far_as_it_is_remembered() {
        let publisher = Publisher::new(State::default());
        let mut state = State::of_view(Snapshot { cluster_id: "one".into(), ..Snapshot::default() });
        let mut turn = 0;
        let mut act = |publisher: &Publisher, action: Action| {
            turn += 1;
            let applied = state.apply(Command { request: turn, now: "t".into(), action, by: None });
            publisher.push(state.clone(), applied.delta.unwrap(), 100);
            state.view.version
        };
        let put = |name: &str, kind: &str, n: u64| {
            let document = json!({"name": name, "kind": kind, "n": n});
            Command::put(0, "t", PutMode::Upsert, vec![document]).action
        };
        let first = act(&publisher, put("a", "A", 1));
        act(&publisher, put("b", "A", 1));
        let both = act(&publisher, put("c", "A", 1));
        act(&publisher, put("a", "A", 2));
        act(&publisher, Action::delete("b"));
        act(&publisher, Action::delete("c"));
        let last = act(&publisher, put("c", "B", 1));
        let told = |version: u64| {
            publisher.objects_since(version).map(|since| {
                let deletes: Vec<String> = since.deletes.iter().map(|(name, kind)| format!("{kind}/{name}")).collect();
                (deletes.join(" "), since.puts.into_iter().collect::<Vec<_>>().join(" "))
            })
        };
        let pair = |deletes: &str, puts: &str| Some((deletes.to_owned(), puts.to_owned()));
        assert_eq!(told(both), pair("A/b A/c", "a c"), "one became another kind");
        assert_eq!(told(last), pair("", ""));
        assert_eq!(told(last - 1), pair("", "c"));
        assert_eq!((told(last + 1), told(u64::MAX)), (None, None), "what is not there yet");
        assert_eq!(told(first), pair("A/b A/c", "a c"));
        publisher.reset(State::of_view(Snapshot { cluster_id: "one".into(), version: 50, ..Snapshot::default() }));
        assert_eq!((told(last), told(50)), (None, pair("", "")), "what came from elsewhere has no steps");
    }

    #[test]
    fn what_has_no_cluster_yet_is_told_to_nobody() {
        let publisher = Publisher::new(State::default());
        let mut state = State::default();
        let mut reader = publisher.follow(None);
        let mut act = |command: Command| {
            let delta = state.apply(command).delta.unwrap();
            publisher.push(state.clone(), delta, 100);
        };
        act(Command::put(1, "t", PutMode::Create, vec![json!({"name": "p", "kind": "Pipeline"})]));
        assert!(reader.try_recv().is_none());
        let action = Action::Found { cluster_id: "one".into(), cluster_name: String::new() };
        act(Command { request: 2, now: "t".into(), action, by: None });
        let update = reader.try_recv();
        assert!(matches!(&update, Some(Update::Snapshot(s)) if s.cluster_id == "one" && s.version == 2), "{update:?}");
    }
}

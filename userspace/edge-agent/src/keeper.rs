//! Keeps the copy on disk up to date: nothing goes live that is not written down, and no change waits for a disk that takes its time.
//!
//! Three threads share the work, so that none waits for another's disk. One appends steps to the journal, which a killed process
//! does not lose; the agent waits for that, a bounded time. One flushes them to the disk a few milliseconds later, many at once.
//! One writes a whole state when the journal has become as long as one, or nothing changes any more, after which older journals can
//! go. So a change costs one flush: the log of the control half is on the same disk, and each flush of ours holds its next one up.

use crate::desired::Desired;
use crate::last_good::{Journal, LastGood, Syncs};
use crate::step::{Live, Step};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Longest time a change waits for a disk that steps are being appended to.
const PATIENCE: Duration = Duration::from_millis(10);

/// Longest time it waits while none are: the thread that appends has no CPU then, which says nothing of the disk.
const TAKEN: Duration = Duration::from_secs(2);

/// Steps of so long are flushed together: flushes are spared, and the log of the control half has the disk for itself meanwhile.
const GATHER: Duration = Duration::from_millis(5);

/// A journal gets as long as the whole state, in bytes, and at least this long, before a whole state takes its place: a start reads both.
const JOURNAL_BYTES: u64 = 256 << 10;

/// When nothing has changed for so long, a whole state costs nobody anything: the next start reads no journal.
const QUIET: Duration = Duration::from_secs(1);

/// Shortest time between two whole states, and how many times as long as the last one took.
const SERIES: Duration = Duration::from_millis(100);
const SERIES_TIMES: u32 = 10;

/// Pause after a failure.
const AGAIN: Duration = Duration::from_secs(2);

/// Steps that may wait for the disk; beyond them a whole state takes their place.
const QUEUED_MAX: usize = 1024;

/// The thread that appends is no more, for whatever reason: no change waits for it.
struct Ends<'a>(&'a Shared);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.lock().failing = true;
        self.0.changed.notify_all();
    }
}

/// How the copy is; shared with whoever reports metrics.
#[derive(Debug, Clone, Default)]
pub struct KeptState {
    shared: Arc<Shared>,
}

/// Numbers for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeptCounts {
    /// Newest version that is on the disk for good.
    pub version: u64,
    /// Writes that failed.
    pub failures: u64,
    /// Times the disk was asked to have something for good.
    pub syncs: u64,
}

/// What a thread does until the keeper is closed.
type Loop = fn(&Shared, &LastGood);

#[derive(Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    work: Mutex<Work>,
    changed: Condvar,
    journal: Mutex<Option<Journal>>,
    /// Absent before a keeper is started.
    syncs: Mutex<Option<Syncs>>,
}

#[derive(Debug, Default)]
struct Work {
    /// Lines to append, with the versions they lead to. Those without say what went live: nobody waits for them.
    queue: VecDeque<(Option<u64>, Vec<u8>)>,
    /// What was appended since the last whole state, in bytes, and how long that is.
    journal_bytes: u64,
    whole_bytes: u64,
    /// A whole state is due whatever the journal's length: there is none of this process yet, or the journal lacks a step.
    due: bool,
    /// Lines are being appended.
    writes: bool,
    /// How many steps there were, and how many of them are appended, and flushed.
    steps: u64,
    appended: u64,
    flushed: u64,
    /// Version of the last step that was appended, and of what is on the disk for good.
    version_appended: u64,
    version: u64,
    /// The state that the next whole copy is of: one that went live.
    newest: Option<Desired>,
    /// When that was.
    went_live: Option<Instant>,
    /// What was written down last has not gone live. The journals stay until it has, and the whole state is the one before.
    pending: bool,
    /// The last append failed; changes do not wait for the next.
    failing: bool,
    failures: u64,
    closed: bool,
}

impl Work {
    /// So long that a whole state is to take the place of the journal.
    fn is_long(&self) -> bool {
        self.journal_bytes > self.whole_bytes.max(JOURNAL_BYTES)
    }
}

impl Keeper {
    pub fn start(last_good: LastGood, kept: &KeptState) -> Keeper {
        let shared = kept.shared.clone();
        {
            // There may have been one before, and another process since, which has journals of its own.
            let mut work = shared.lock();
            (work.due, work.closed, work.failing) = (true, false, false);
        }
        *shared.journal() = None;
        *shared.syncs.lock().unwrap_or_else(PoisonError::into_inner) = Some(last_good.syncs());
        let mut threads = Vec::new();
        let works: [(&str, Loop); 3] =
            [("steps", Shared::append), ("steps-flush", Shared::flush), ("last-good", Shared::copy)];
        for (name, work) in works {
            let (ours, last_good) = (shared.clone(), last_good.clone());
            match thread::Builder::new().name(name.into()).spawn(move || work(&ours, &last_good)) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    tracing::error!(%error, "the last good state is not kept on disk");
                    // No change waits for what does not come.
                    shared.lock().failing = true;
                }
            }
        }
        Keeper { shared, threads }
    }

    /// Call it before `to` goes live in the place of `from`. Returns when that is written down, or has taken too long.
    pub fn keep(&self, from: &Desired, to: &Desired) {
        let line = Step::between(from, to).line();
        let mut work = self.shared.lock();
        if work.queue.len() >= QUEUED_MAX {
            // The whole state that follows holds what they lead to.
            work.queue.clear();
            work.due = true;
        }
        work.queue.push_back((Some(to.version), line));
        work.steps += 1;
        work.pending = true;
        let step = work.steps;
        self.shared.changed.notify_all();
        let (until, mut patience) = (Instant::now() + TAKEN, PATIENCE);
        while work.appended < step && !work.failing && !patience.is_zero() {
            let began = Instant::now();
            let writes = work.writes;
            let most = if writes { patience } else { until.saturating_duration_since(began) };
            if most.is_zero() {
                return;
            }
            work = self.shared.changed.wait_timeout(work, most).unwrap_or_else(PoisonError::into_inner).0;
            if writes {
                patience = patience.saturating_sub(began.elapsed());
            }
        }
    }

    /// `desired` went live: the journal says so, and when it is long a whole copy is written, so that the steps that led to it can go.
    /// What never did, because the agent panicked over it say, never takes the place of the whole copy.
    pub fn went_live(&self, desired: &Desired) {
        let line = Live::at(desired).line();
        let mut work = self.shared.lock();
        (work.newest, work.went_live, work.pending) = (Some(desired.clone()), Some(Instant::now()), false);
        work.queue.push_back((None, line));
        drop(work);
        self.shared.changed.notify_all();
    }
}

/// What waits is written before the end.
impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl KeptState {
    pub fn counts(&self) -> KeptCounts {
        let work = self.shared.lock();
        let syncs = self.shared.syncs.lock().unwrap_or_else(PoisonError::into_inner);
        KeptCounts { version: work.version, failures: work.failures, syncs: syncs.as_ref().map_or(0, Syncs::count) }
    }
}

impl Shared {
    fn append(&self, last_good: &LastGood) {
        let _ends = Ends(self);
        let mut work = self.lock();
        loop {
            if work.queue.is_empty() {
                if work.closed {
                    return;
                }
                work = self.wait(work);
                continue;
            }
            let version = work.queue.iter().rev().find_map(|(version, _)| *version).unwrap_or(work.version_appended);
            let count = work.steps;
            let lines: Vec<u8> = work.queue.drain(..).flat_map(|(_, line)| line).collect();
            work.writes = true;
            drop(work);
            self.changed.notify_all();
            let done = self.append_lines(last_good, &lines);
            work = self.lock();
            work.writes = false;
            match done {
                Ok(()) => {
                    work.failing = false;
                    work.journal_bytes += lines.len() as u64;
                    (work.appended, work.version_appended) = (count, version);
                }
                Err(error) => {
                    work = self.failed(work, last_good, &error);
                    work.due = true;
                }
            }
            self.changed.notify_all();
        }
    }

    fn append_lines(&self, last_good: &LastGood, lines: &[u8]) -> io::Result<()> {
        let mut journal = self.journal();
        if journal.is_none() {
            let number = last_good.journals().last().map_or(1, |last| last + 1);
            *journal = Some(last_good.begin_journal(number)?);
        }
        match &mut *journal {
            Some(journal) => journal.file.write_all(lines),
            None => Ok(()),
        }
    }

    fn flush(&self, last_good: &LastGood) {
        let mut work = self.lock();
        loop {
            if work.flushed == work.appended {
                if work.closed && work.queue.is_empty() {
                    return;
                }
                work = self.wait(work);
                continue;
            }
            if !work.closed {
                drop(work);
                thread::sleep(GATHER);
                work = self.lock();
            }
            let (count, version) = (work.appended, work.version_appended);
            drop(work);
            // A journal that was left for a new one was flushed then.
            let file = self.journal().as_ref().map(|journal| journal.file.try_clone()).transpose();
            let done = file.and_then(|file| file.map_or(Ok(()), |file| last_good.sync(&file)));
            work = self.lock();
            work.flushed = count;
            match done {
                Ok(()) => work.version = work.version.max(version),
                Err(error) => work = self.failed(work, last_good, &error),
            }
        }
    }

    fn copy(&self, last_good: &LastGood) {
        let mut work = self.lock();
        // The journal that steps go to since the last whole state, or since one was tried, and what those before it held.
        let mut begun = None;
        loop {
            let long = work.is_long();
            if work.newest.is_none() {
                if work.closed {
                    return;
                }
                work = self.wait(work);
                continue;
            }
            let quiet = work.went_live.map_or(QUIET, |at| at.elapsed());
            if !(work.due || long || work.closed) && quiet < QUIET {
                work = self.changed.wait_timeout(work, QUIET - quiet).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            work.due = false;
            drop(work);
            let began = Instant::now();
            let done = match begun {
                Some(begun) => Ok(begun),
                None => {
                    let length = self.lock().journal_bytes;
                    self.turn_over(last_good).map(|number| *begun.insert((number, length)))
                }
            };
            // Not before: it has to hold everything that went to the journals before this one.
            let (desired, pending) = {
                let work = self.lock();
                (work.newest.clone().unwrap_or_default(), work.pending)
            };
            let done = done.and_then(|begun| last_good.store(&desired).map(|bytes| (begun, bytes)));
            if let Ok(((number, _), _)) = done
                && !pending
            {
                last_good.drop_journals_before(number);
                begun = None;
            }
            work = self.lock();
            let pause = match done {
                Ok(((_, length), bytes)) => {
                    work.whole_bytes = bytes;
                    if !pending {
                        // What is appended meanwhile counts for the next one.
                        work.journal_bytes = work.journal_bytes.saturating_sub(length);
                    }
                    // What grew long behind a change that was under way when its journal began is left behind at once.
                    let long = !pending && work.is_long();
                    if !long && work.newest.as_ref().is_some_and(|newest| Desired::is_at(newest, &desired)) {
                        work.newest = None;
                    }
                    work.version = work.version.max(desired.version);
                    SERIES.max(began.elapsed() * SERIES_TIMES)
                }
                Err(error) => {
                    work = self.failed(work, last_good, &error);
                    work.due = true;
                    if work.closed {
                        return;
                    }
                    AGAIN
                }
            };
            let open = |work: &mut Work| !work.closed;
            work = self.changed.wait_timeout_while(work, pause, open).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Steps from here on go to a new journal.
    fn turn_over(&self, last_good: &LastGood) -> io::Result<u64> {
        let number = last_good.journals().last().map_or(1, |last| last + 1);
        let next = last_good.begin_journal(number)?;
        let left = self.journal().replace(next);
        left.map_or(Ok(()), |left| last_good.sync(&left.file))?;
        Ok(number)
    }

    fn failed<'a>(
        &'a self,
        mut work: MutexGuard<'a, Work>,
        last_good: &LastGood,
        error: &io::Error,
    ) -> MutexGuard<'a, Work> {
        if !work.failing {
            tracing::error!(path = %last_good.path().display(), %error, "cannot keep the last good state on disk; it is tried again");
        }
        work.failing = true;
        work.failures += 1;
        work
    }

    fn wait<'a>(&self, work: MutexGuard<'a, Work>) -> MutexGuard<'a, Work> {
        self.changed.wait(work).unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn journal(&self) -> MutexGuard<'_, Option<Journal>> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(version: u64) -> Desired {
        Desired { version, ..Desired::default() }
    }

    #[test]
    fn of_a_series_the_last_is_kept_before_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let kept = LastGood::new(directory.path()).unwrap();
        let keeper = Keeper::start(kept.clone(), &KeptState::default());
        for version in 1..=100 {
            keeper.keep(&state(version - 1), &state(version));
            keeper.went_live(&state(version));
        }
        drop(keeper);
        assert_eq!(kept.load().map(|desired| desired.version), Some(100));
        assert!(kept.journals().len() <= 1, "{:?}", kept.journals());
    }

    /// Another process was to have the place of this one, and did not come up: its journals are newer than ours.
    #[test]
    fn one_that_goes_on_after_another_keeps_what_goes_live() {
        let directory = tempfile::tempdir().unwrap();
        let kept = LastGood::new(directory.path()).unwrap();
        let counted = KeptState::default();
        let before = Keeper::start(kept.clone(), &counted);
        before.keep(&state(0), &state(1));
        before.went_live(&state(1));
        drop(before);
        let other = Keeper::start(kept.clone(), &KeptState::default());
        other.went_live(&state(1));
        drop(other);
        let keeper = Keeper::start(kept.clone(), &counted);
        keeper.keep(&state(1), &state(2));
        keeper.went_live(&state(2));
        let until = Instant::now() + Duration::from_secs(60);
        while counted.counts().version < 2 && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
        if counted.counts().version < 2 {
            // It would never end.
            std::mem::forget(keeper);
            panic!("nothing is kept any more");
        }
        keeper.keep(&state(2), &state(3));
        drop(keeper);
        assert_eq!(kept.load().map(|desired| desired.version), Some(3));
    }

    /// The whole state is one that went live, whatever was written down after it.
    #[test]
    fn what_did_not_go_live_takes_no_whole_states_place() {
        let directory = tempfile::tempdir().unwrap();
        let kept = LastGood::new(directory.path()).unwrap();
        let keeper = Keeper::start(kept.clone(), &KeptState::default());
        keeper.keep(&state(0), &state(1));
        keeper.went_live(&state(1));
        keeper.keep(&state(1), &state(2));
        drop(keeper);
        assert_eq!(kept.load().map(|desired| desired.version), Some(2), "what was about to go live is not lost");
        assert_eq!(kept.load_whole().map(|desired| desired.version), Some(1));

        // The next that does begins where that began, and is what a start finds, before the whole copy is of it too.
        let number = kept.journals().last().unwrap() + 1;
        let line = Step::between(&state(1), &state(3)).line();
        kept.begin_journal(number).unwrap().file.write_all(&line).unwrap();
        assert_eq!(kept.load().map(|desired| desired.version), Some(3));
    }

    /// A process that is killed loses nothing that `keep` has returned for: what another reads then is what it would find.
    #[test]
    fn what_goes_live_can_be_read_back_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let kept = LastGood::new(directory.path()).unwrap();
        let keeper = Keeper::start(kept.clone(), &KeptState::default());
        let mut late = 0;
        for version in 1..=200 {
            keeper.keep(&state(version - 1), &state(version));
            keeper.went_live(&state(version));
            late += usize::from(kept.load().is_none_or(|desired| desired.version != version));
        }
        // A busy machine may take the CPU from the other thread in the middle of a write.
        assert!(late <= 20, "{late} of 200 were not there");
    }

    /// On a busy machine the thread that appends may have no CPU for longer than a disk may take.
    #[test]
    fn what_nobody_has_begun_to_write_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let kept = LastGood::new(directory.path()).unwrap();
        let keeper = Keeper { shared: Arc::default(), threads: Vec::new() };
        let (shared, mut waited) = (keeper.shared.clone(), false);
        thread::scope(|threads| {
            let keeps = threads.spawn(|| {
                keeper.keep(&state(0), &state(1));
                let work = keeper.shared.lock();
                // A disk that takes long is waited for no longer than for others.
                work.appended == 1 || work.writes
            });
            thread::sleep(5 * PATIENCE);
            threads.spawn(|| shared.append(&kept));
            waited = keeps.join().unwrap();
            shared.lock().closed = true;
            shared.changed.notify_all();
        });
        assert!(waited, "it goes live before anybody begins to write it down");
        assert_eq!(kept.load().map(|desired| desired.version), Some(1));
    }

    /// The disk is asked once for a change, whatever the time between them, and a long journal gives way to a whole state.
    #[test]
    fn a_change_costs_one_flush() {
        let directory = tempfile::tempdir().unwrap();
        let kept = LastGood::new(directory.path()).unwrap();
        let counted = KeptState::default();
        let keeper = Keeper::start(kept.clone(), &counted);
        let change = |state: &dyn Fn(u64) -> Desired, version: u64| {
            keeper.keep(&state(version - 1), &state(version));
            keeper.went_live(&state(version));
            let until = Instant::now() + Duration::from_secs(60);
            while counted.counts().version < version && Instant::now() < until {
                thread::sleep(Duration::from_millis(1));
            }
        };
        change(&state, 1);
        // The first whole state of a process, and what it leaves behind.
        while !directory.path().join("last-good.json").exists() {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(SERIES);
        let before = counted.counts().syncs;
        for version in 2..=31 {
            change(&state, version);
            thread::sleep(SERIES / 4);
        }
        let syncs = counted.counts().syncs - before;
        assert!((1..=32).contains(&syncs), "{syncs} for 30 changes");
        assert_eq!(kept.load().map(|desired| desired.version), Some(31));
        assert_eq!(kept.load_last_live().map(|desired| desired.version), Some(31));

        let text = "x".repeat(64 << 10);
        let large = |version| Desired {
            objects: imbl::OrdMap::unit("o".to_owned(), Arc::new(serde_json::json!({"text": text, "v": version}))),
            ..state(version)
        };
        (32..=50).for_each(|version| change(&large, version));
        let files = || std::fs::read_dir(directory.path()).unwrap().flatten();
        let long = || files().filter_map(|file| Some(file.metadata().ok()?.len())).sum::<u64>();
        let until = Instant::now() + Duration::from_secs(60);
        while long() > 3 * JOURNAL_BYTES {
            assert!(Instant::now() < until, "{} bytes are kept", long());
            thread::sleep(Duration::from_millis(1));
        }
        drop(keeper);
        assert_eq!(kept.load().map(|desired| desired.version), Some(50));
    }

    /// A whole state leaves the journal of a change that has not gone live, and all that follows; the next one, of when nothing is under way
    /// any more, leaves none of it.
    #[test]
    fn a_journal_that_grew_behind_a_change_under_way_gives_way() {
        let directory = tempfile::tempdir().unwrap();
        let kept = LastGood::new(directory.path()).unwrap();
        let keeper = Keeper::start(kept.clone(), &KeptState::default());
        let bytes = JOURNAL_BYTES as usize + 1024;
        let large = |version: u64| Desired {
            objects: imbl::OrdMap::unit(
                "o".to_owned(),
                Arc::new(serde_json::json!({"text": "x".repeat(bytes), "v": version})),
            ),
            ..state(version)
        };
        let mut from = state(0);
        let mut change = |to: Desired| {
            keeper.keep(&from, &to);
            keeper.went_live(&to);
            from = to;
        };
        change(state(1));
        let until = Instant::now() + Duration::from_secs(60);
        let whole = |version| {
            while kept.load_whole().is_none_or(|desired| desired.version != version) {
                assert!(Instant::now() < until, "version {version} is not kept");
                thread::sleep(Duration::from_millis(1));
            }
        };
        whole(1);
        change(large(2));
        // Not live when the whole state before it is written.
        keeper.keep(&large(2), &large(3));
        whole(2);
        keeper.went_live(&large(3));
        (4..=9).for_each(|version| {
            keeper.keep(&large(version - 1), &large(version));
            keeper.went_live(&large(version));
        });
        let files = || std::fs::read_dir(directory.path()).unwrap().flatten();
        let long = || files().filter_map(|file| Some(file.metadata().ok()?.len())).sum::<u64>();
        while long() > 3 * bytes as u64 {
            assert!(Instant::now() < until, "{} bytes are kept", long());
            thread::sleep(Duration::from_millis(1));
        }
        drop(keeper);
        assert_eq!(kept.load().map(|desired| desired.version), Some(9));
    }

    /// What was written down and did not go live is not what a start falls back to, however long ago the last whole state was.
    #[test]
    fn what_went_live_last_is_told_by_the_journal() {
        let directory = tempfile::tempdir().unwrap();
        let kept = LastGood::new(directory.path()).unwrap();
        kept.store(&state(1)).unwrap();
        let mut journal = kept.begin_journal(1).unwrap();
        for version in 2..=5 {
            journal.file.write_all(&Step::between(&state(version - 1), &state(version)).line()).unwrap();
            journal.file.write_all(&Live::at(&state(version)).line()).unwrap();
        }
        journal.file.write_all(&Step::between(&state(5), &state(6)).line()).unwrap();
        assert_eq!(kept.load().map(|desired| desired.version), Some(6));
        assert_eq!(kept.load_last_live().map(|desired| desired.version), Some(5));
        journal.file.write_all(&Step::between(&state(5), &state(7)).line()).unwrap();
        journal.file.write_all(&Live::at(&state(7)).line()).unwrap();
        assert_eq!(kept.load_last_live().map(|desired| desired.version), Some(7));
    }

    #[test]
    fn a_disk_that_fails_holds_no_change_up_and_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("edge");
        let kept = LastGood::new(&place).unwrap();
        std::fs::remove_dir(&place).unwrap();
        let state_of = KeptState::default();
        let keeper = Keeper::start(kept.clone(), &state_of);
        for version in 1..=50 {
            keeper.keep(&state(version - 1), &state(version));
            keeper.went_live(&state(version));
        }
        assert!(state_of.counts().failures > 0);
        std::fs::create_dir(&place).unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while kept.load().is_none_or(|desired| desired.version != 50) {
            assert!(Instant::now() < until, "not kept once the disk is back");
            thread::sleep(Duration::from_millis(20));
        }
        drop(keeper);
    }
}

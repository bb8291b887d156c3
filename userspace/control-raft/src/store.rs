//! The log, the vote and the last snapshot on disk: one redb file, written by one thread.
//!
//! Reads come from memory; the file is read once, at the start. What openraft hands over is queued, and everything that
//! queued up while the disk was busy goes into one transaction and one sync.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader, StorageIOError};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use crate::types::{Group, LogEntry, LogId, SnapshotMeta, StorageError, Types, Vote};

/// What the file says about whose it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub name: String,
    pub cluster_name: String,
    /// Empty until the cluster has one. Written down, so that the first calls after a start are told apart already.
    #[serde(default)]
    pub cluster_id: String,
    /// This member had data once and lost it. It must not vote before the others took it in again: it may have promised
    /// a vote, or acknowledged an entry, that it does not remember.
    pub amnesic: bool,
    /// Ids of the lost clusters that this member is the survivor of: whoever still belongs to one of them is told that it is over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recovered_from: Vec<String>,
    /// This member was told so, in these words, and takes part in nothing any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded: Option<String>,
}

/// Why the store cannot be used.
#[derive(Debug)]
pub enum OpenError {
    /// The file is there and cannot be trusted.
    Damaged { path: PathBuf, reason: String },
    /// Another process has it.
    Busy { path: PathBuf },
    /// Permissions, a full disk and the like.
    Io { path: PathBuf, reason: String },
    /// A newer program wrote it.
    Newer { path: PathBuf, format: u32 },
}

#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    writer: mpsc::Sender<Write>,
}

struct Shared {
    memory: Mutex<Memory>,
    /// Absent once the store is closed.
    database: Mutex<Option<Arc<Database>>>,
    /// The first write that failed, in words.
    failure: watch::Sender<Option<String>>,
}

#[derive(Default)]
struct Memory {
    log: BTreeMap<u64, Kept>,
    snapshot_bytes: u64,
    purged: Option<LogId>,
    committed: Option<LogId>,
    vote: Option<Vote>,
    identity: Option<Identity>,
    /// Who votes, by the last change of that which was carried out since the start.
    group: Group,
}

/// An entry and the bytes of its text.
struct Kept {
    entry: LogEntry,
    bytes: u64,
}

enum Write {
    Append {
        entries: Vec<(u64, Vec<u8>)>,
        done: LogFlushed<Types>,
    },
    Truncate {
        from: u64,
        done: oneshot::Sender<Result<(), String>>,
    },
    Purge {
        upto: LogId,
    },
    /// Keeps without waiting for the disk: losing it costs a little replay.
    Committed(Option<LogId>),
    Meta {
        key: &'static str,
        value: Vec<u8>,
        done: oneshot::Sender<Result<(), String>>,
    },
    Snapshot {
        meta: Vec<u8>,
        data: Arc<Vec<u8>>,
        done: oneshot::Sender<Result<(), String>>,
    },
    /// The last one: the file is let go of.
    Close {
        done: oneshot::Sender<()>,
    },
}

impl Store {
    /// Opens what is there, or starts an empty store for `identity`.
    pub fn open(directory: &Path, identity: Identity) -> Result<Store, OpenError> {
        let path = directory.join(FILE);
        let io = |e: &dyn std::fmt::Display| OpenError::Io { path: path.clone(), reason: e.to_string() };
        fs::create_dir_all(directory).map_err(|e| io(&e))?;
        if !path.try_exists().map_err(|e| io(&e))? {
            found(directory, &path, &identity)?;
        }
        // redb checks its file with assertions in places; a damaged file is a finding here and no reason to end.
        let opened = catch_unwind(AssertUnwindSafe(|| read(&path)));
        let (database, memory) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return Err(error),
            Err(panic) => {
                let reason = panic.downcast_ref::<String>().cloned();
                let reason = reason.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()));
                return Err(OpenError::Damaged { path, reason: reason.unwrap_or_else(|| "unreadable".into()) });
            }
        };
        let (writer, queue) = mpsc::channel();
        let database = Arc::new(database);
        let failure = watch::Sender::new(None);
        let shared = Arc::new(Shared {
            memory: Mutex::new(memory),
            database: Mutex::new(Some(database.clone())),
            failure: failure.clone(),
        });
        std::thread::Builder::new()
            .name("raft-log".into())
            .spawn(move || write(database, &queue, &failure, &path))
            .map_err(|e| OpenError::Io { path: directory.join(FILE), reason: e.to_string() })?;
        Ok(Store { shared, writer })
    }

    /// Lets go of the file, so that it can be opened again, whoever still has a handle. What is asked of this one later fails.
    pub async fn close(&self) {
        self.database().take();
        let (done, wait) = oneshot::channel();
        if self.send(Write::Close { done }).is_ok() {
            let _ = wait.await;
        }
    }

    /// Why the file cannot be written, if that has happened.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure.borrow().clone()
    }

    /// Ends when the file cannot be written, and says why.
    pub async fn failed(&self) -> String {
        let mut failure = self.shared.failure.subscribe();
        let failed = failure.wait_for(Option::is_some).await.ok().and_then(|failure| failure.clone());
        // The sender lives as long as this handle does.
        failed.unwrap_or_default()
    }

    /// Nothing is written any more: this member cannot go on for `reason`.
    pub fn fail(&self, reason: String) {
        self.shared.failure.send_if_modified(|failure| failure.is_none() && failure.replace(reason).is_none());
    }

    /// Nothing was ever promised from here: no vote, no entry.
    pub fn is_pristine(&self) -> bool {
        let memory = self.memory();
        memory.vote.is_none() && memory.log.is_empty() && memory.purged.is_none()
    }

    pub fn is_there(directory: &Path) -> bool {
        directory.join(FILE).exists()
    }

    /// Puts a file with this snapshot and an empty log in the place of what is there, in one step, and says where that is kept.
    pub fn replace(
        directory: &Path,
        identity: &Identity,
        vote: &Vote,
        meta: &SnapshotMeta,
        data: &[u8],
    ) -> Result<PathBuf, OpenError> {
        let path = directory.join(FILE);
        let io = |e: &dyn std::fmt::Display| OpenError::Io { path: path.clone(), reason: e.to_string() };
        let draft = drafted(directory, |fields| {
            fields.insert("identity", encode(identity).as_slice())?;
            fields.insert("vote", encode(vote).as_slice())?;
            fields.insert("purged", encode(&meta.last_log_id).as_slice())?;
            fields.insert("committed", encode(&meta.last_log_id).as_slice())?;
            fields.insert("snapshot_meta", encode(meta).as_slice())?;
            fields.insert("snapshot", data)?;
            Ok(())
        })?;
        let free = (1..).map(|n| directory.join(format!("{FILE}.before-recovery-{n}"))).find(|aside| !aside.exists());
        let aside = free.ok_or_else(|| io(&"no name is free for the file from before"))?;
        fs::hard_link(&path, &aside).map_err(|e| io(&e))?;
        fs::rename(&draft, &path).map_err(|e| io(&e))?;
        fs::File::open(directory).and_then(|d| d.sync_all()).map_err(|e| io(&e))?;
        Ok(aside)
    }

    /// Moves a damaged file out of the way and says where it went.
    pub fn set_aside(directory: &Path) -> io::Result<PathBuf> {
        let path = directory.join(FILE);
        for n in 1.. {
            let aside = directory.join(format!("{FILE}.damaged-{n}"));
            if !aside.try_exists()? {
                fs::rename(&path, &aside)?;
                return Ok(aside);
            }
        }
        unreachable!("an endless range ends only by return")
    }

    pub fn identity(&self) -> Identity {
        self.memory().identity.clone().expect("a store without identity is not opened")
    }

    pub async fn set_identity(&self, identity: Identity) -> Result<(), StorageError> {
        self.put_meta("identity", &identity).await?;
        self.memory().identity = Some(identity);
        Ok(())
    }

    /// What this member has last promised.
    pub fn vote(&self) -> Option<Vote> {
        self.memory().vote
    }

    /// Who votes by what was carried out; nobody before anything was.
    pub fn group(&self) -> Group {
        self.memory().group.clone()
    }

    pub fn note_group(&self, group: &Group) {
        self.memory().group = group.clone();
    }

    pub fn committed(&self) -> Option<LogId> {
        self.memory().committed
    }

    /// Bytes of the entries after this one.
    pub fn bytes_after(&self, index: Option<u64>) -> u64 {
        let first = index.map_or(0, |index| index + 1);
        self.memory().log.range(first..).map(|(_, kept)| kept.bytes).sum()
    }

    /// The last entry that does not belong to the newest `bytes` of the log.
    pub fn oldest_beyond(&self, bytes: u64) -> Option<u64> {
        let memory = self.memory();
        let mut newer = 0;
        let mut beyond = memory.log.iter().rev().filter(|(_, kept)| {
            newer += kept.bytes;
            newer > bytes
        });
        beyond.next().map(|(index, _)| *index)
    }

    /// Of the last snapshot.
    pub fn snapshot_bytes(&self) -> u64 {
        self.memory().snapshot_bytes
    }

    pub async fn save_snapshot(&self, meta: &SnapshotMeta, data: Arc<Vec<u8>>) -> Result<(), StorageError> {
        self.memory().snapshot_bytes = data.len() as u64;
        let (done, wait) = oneshot::channel();
        let meta = encode(meta);
        self.send(Write::Snapshot { meta, data, done })?;
        written(wait).await
    }

    pub fn load_snapshot(&self) -> Result<Option<(SnapshotMeta, Vec<u8>)>, StorageError> {
        let database = self.database().clone();
        let database = database.ok_or_else(|| failed_read(&"the store is closed"))?;
        let load = || -> Result<_, redb::Error> {
            let read = database.begin_read()?;
            let table = read.open_table(META)?;
            let (Some(meta), Some(data)) = (table.get("snapshot_meta")?, table.get("snapshot")?) else {
                return Ok(None);
            };
            Ok(Some((meta.value().to_vec(), data.value().to_vec())))
        };
        let Some((meta, data)) = load().map_err(|e| failed_read(&e))? else { return Ok(None) };
        Ok(Some((serde_json::from_slice(&meta).map_err(|e| failed_read(&e))?, data)))
    }

    /// What this member holds of its log, to compare a call of Raft with.
    pub fn held(&self) -> Held<'_> {
        Held(self.memory())
    }

    /// A panic elsewhere does not make the log worse: nothing under this lock can leave it half changed.
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.shared.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn database(&self) -> MutexGuard<'_, Option<Arc<Database>>> {
        self.shared.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, write: Write) -> Result<(), StorageError> {
        self.writer.send(write).map_err(|_| failed_write(&"the log writer has ended"))
    }

    async fn put_meta(&self, key: &'static str, value: &impl Serialize) -> Result<(), StorageError> {
        let (done, wait) = oneshot::channel();
        self.send(Write::Meta { key, value: encode(value), done })?;
        written(wait).await
    }
}

impl RaftLogReader<Types> for Store {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + std::fmt::Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<LogEntry>, StorageError> {
        let Some(range) = indexes(&range) else { return Ok(Vec::new()) };
        Ok(self.memory().log.range(range).map(|(_, kept)| kept.entry.clone()).collect())
    }
}

impl RaftLogStorage<Types> for Store {
    type LogReader = Store;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let memory = self.memory();
        let last = memory.last();
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Store {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        self.put_meta("vote", vote).await?;
        self.memory().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.memory().vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.memory().committed = committed;
        self.send(Write::Committed(committed))
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.memory().committed)
    }

    async fn append<I>(&mut self, entries: I, done: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries.into_iter().collect();
        let encoded: Vec<_> = entries.iter().map(|entry| (entry.log_id.index, encode(entry))).collect();
        {
            let mut memory = self.memory();
            for entry in &entries {
                memory.may_change(entry.log_id.index, Some(entry.log_id))?;
            }
            let kept = entries.into_iter().zip(&encoded);
            let kept = kept.map(|(entry, (index, text))| (*index, Kept { entry, bytes: text.len() as u64 }));
            memory.log.extend(kept);
        }
        self.send(Write::Append { entries: encoded, done })
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        {
            let mut memory = self.memory();
            memory.may_change(log_id.index, None)?;
            memory.log.split_off(&log_id.index);
        }
        let (done, wait) = oneshot::channel();
        self.send(Write::Truncate { from: log_id.index, done })?;
        written(wait).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        {
            let mut memory = self.memory();
            if memory.purged.is_some_and(|purged| purged.index >= log_id.index) {
                return Ok(());
            }
            memory.purged = Some(log_id);
            let kept = match log_id.index.checked_add(1) {
                Some(next) => memory.log.split_off(&next),
                None => BTreeMap::new(),
            };
            memory.log = kept;
        }
        self.send(Write::Purge { upto: log_id })
    }
}

impl Memory {
    fn last(&self) -> Option<LogId> {
        self.log.values().next_back().map(|kept| kept.entry.log_id).or(self.purged)
    }

    /// Up to here nothing may change any more.
    fn decided(&self) -> Option<LogId> {
        match (self.committed, self.purged) {
            (Some(committed), Some(purged)) if purged.index > committed.index => Some(purged),
            (Some(committed), _) => Some(committed),
            (None, purged) => purged,
        }
    }

    /// Refuses to cut or replace what is decided. openraft ends when its store refuses something, and that is better than a member
    /// that forgot what it had promised; `sound.rs` keeps such calls away from it.
    fn may_change(&self, index: u64, new: Option<LogId>) -> Result<(), StorageError> {
        let Some(decided) = self.decided().filter(|decided| index <= decided.index) else { return Ok(()) };
        if new.is_some() && new == self.log.get(&index).map(|kept| kept.entry.log_id) {
            return Ok(());
        }
        Err(failed_write(&format!("entry {index} cannot go or change: all up to {decided} is decided")))
    }
}

/// The log as a call of Raft finds it.
pub struct Held<'a>(MutexGuard<'a, Memory>);

impl Held<'_> {
    /// The last entry that is decided.
    pub fn decided(&self) -> Option<LogId> {
        self.0.decided()
    }

    pub fn last(&self) -> Option<LogId> {
        self.0.last()
    }

    /// The last term that this member knows of.
    pub fn term(&self) -> u64 {
        let voted = self.0.vote.map_or(0, |vote| vote.leader_id().term);
        voted.max(self.0.last().map_or(0, |last| last.leader_id.term))
    }

    /// The entry at an index, if it is known.
    pub fn at(&self, index: u64) -> Option<LogId> {
        let purged = self.0.purged.filter(|purged| purged.index == index);
        purged.or_else(|| self.0.log.get(&index).map(|kept| kept.entry.log_id))
    }
}

/// The same range, unless nothing can be in it: a `BTreeMap` panics over one that ends before it begins.
fn indexes(range: &impl RangeBounds<u64>) -> Option<RangeInclusive<u64>> {
    let first = match range.start_bound() {
        Bound::Included(first) => *first,
        Bound::Excluded(before) => before.checked_add(1)?,
        Bound::Unbounded => 0,
    };
    let last = match range.end_bound() {
        Bound::Included(last) => *last,
        Bound::Excluded(after) => after.checked_sub(1)?,
        Bound::Unbounded => u64::MAX,
    };
    (first <= last).then_some(first..=last)
}

/// Creates the file under another name first: a file called `raft.redb` was whole once, so an empty one is damage.
fn found(directory: &Path, path: &Path, identity: &Identity) -> Result<(), OpenError> {
    let draft = drafted(directory, |fields| fields.insert("identity", encode(identity).as_slice()).map(drop))?;
    let io = |e: &dyn std::fmt::Display| OpenError::Io { path: draft.clone(), reason: e.to_string() };
    fs::rename(&draft, path).map_err(|e| io(&e))?;
    fs::File::open(directory).and_then(|d| d.sync_all()).map_err(|e| io(&e))
}

/// A file with an empty log and what `fill` puts into it, under the name of one that is not finished.
fn drafted(
    directory: &Path,
    fill: impl FnOnce(&mut redb::Table<'_, &'static str, &'static [u8]>) -> Result<(), redb::StorageError>,
) -> Result<PathBuf, OpenError> {
    let draft = directory.join(format!("{FILE}.new"));
    let io = |e: &dyn std::fmt::Display| OpenError::Io { path: draft.clone(), reason: e.to_string() };
    let _ = fs::remove_file(&draft);
    let create = || -> Result<(), redb::Error> {
        let database = Database::create(&draft)?;
        let transaction = database.begin_write()?;
        transaction.open_table(LOG)?;
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert("format", encode(&FORMAT).as_slice())?;
            fill(&mut meta)?;
        }
        transaction.commit()?;
        Ok(())
    };
    create().map_err(|e| io(&e))?;
    // Documents hold private keys.
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o600)).map_err(|e| io(&e))?;
    Ok(draft)
}

fn read(path: &Path) -> Result<(Database, Memory), OpenError> {
    let damaged = |reason: String| OpenError::Damaged { path: path.to_owned(), reason };
    if fs::metadata(path).is_ok_and(|file| file.len() == 0) {
        return Err(damaged("the file is empty".into()));
    }
    let database = Database::builder().set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true).open(path);
    let database = database.map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => OpenError::Busy { path: path.to_owned() },
        redb::DatabaseError::Storage(redb::StorageError::Io(e)) if passing(&e) => {
            OpenError::Io { path: path.to_owned(), reason: e.to_string() }
        }
        other => damaged(other.to_string()),
    })?;
    // What a newer program wrote is whole, and nothing of it is touched.
    let format = format(&database).map_err(damaged)?;
    if format > FORMAT {
        return Err(OpenError::Newer { path: path.to_owned(), format });
    }
    let memory = load(&database).map_err(damaged)?;
    // A member that could not write its first entry would end at once, and start, and end.
    prove_room(&database).map_err(|e| OpenError::Io { path: path.to_owned(), reason: e.to_string() })?;
    let mut database = database;
    compact(path, &mut database, &memory);
    Ok((database, memory))
}

/// Gives the disk back what a larger log once needed. A file that stays large is no reason not to start.
fn compact(path: &Path, database: &mut Database, memory: &Memory) {
    let size = || fs::metadata(path).map_or(0, |file| file.len());
    let holds = memory.log.values().map(|kept| kept.bytes).sum::<u64>() + memory.snapshot_bytes;
    let before = size();
    if before < COMPACT_BYTES || before / 8 < holds {
        return;
    }
    match database.compact() {
        Ok(_) => {
            tracing::info!(path = %path.display(), from = before, to = size(), "the Raft file was made smaller, in bytes")
        }
        Err(error) => tracing::warn!(path = %path.display(), %error, "the Raft file cannot be made smaller"),
    }
}

/// Whether an error speaks of the machine's state and not of the file's: what is in the file is good when that has passed.
fn passing(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    let kinds = [
        Kind::PermissionDenied,
        Kind::StorageFull,
        Kind::QuotaExceeded,
        Kind::FileTooLarge,
        Kind::ReadOnlyFilesystem,
        Kind::OutOfMemory,
        Kind::Interrupted,
        Kind::TimedOut,
        Kind::StaleNetworkFileHandle,
    ];
    kinds.contains(&error.kind()) || matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

/// Writes as much as some entries take, and syncs it.
fn prove_room(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(META)?.insert("room", [0; ROOM_BYTES].as_slice())?;
    transaction.commit()?;
    Ok(())
}

/// What the file is written like. Those that do not say so are of the first format.
fn format(database: &Database) -> Result<u32, String> {
    let read = || -> Result<Option<Vec<u8>>, redb::Error> {
        let meta = database.begin_read()?.open_table(META)?;
        Ok(meta.get("format")?.map(|value| value.value().to_vec()))
    };
    match read().map_err(|e| e.to_string())? {
        Some(value) => serde_json::from_slice(&value).map_err(|e| format!("format: {e}")),
        None => Ok(1),
    }
}

/// Everything but the snapshot, with the checks that a checksum cannot make.
fn load(database: &Database) -> Result<Memory, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let transaction = database.begin_read().map_err(|e| text(&e))?;
    let meta = transaction.open_table(META).map_err(|e| text(&e))?;
    fn field<T: DeserializeOwned>(
        meta: &redb::ReadOnlyTable<&'static str, &'static [u8]>,
        key: &str,
    ) -> Result<Option<T>, String> {
        match meta.get(key).map_err(|e| e.to_string())? {
            Some(value) => serde_json::from_slice(value.value()).map_err(|e| format!("{key}: {e}")),
            None => Ok(None),
        }
    }
    let snapshot = meta.get("snapshot").map_err(|e| text(&e))?;
    let mut memory = Memory {
        log: BTreeMap::new(),
        snapshot_bytes: snapshot.map_or(0, |snapshot| snapshot.value().len() as u64),
        purged: field(&meta, "purged")?,
        committed: field::<Option<LogId>>(&meta, "committed")?.flatten(),
        vote: field(&meta, "vote")?,
        identity: field(&meta, "identity")?,
        group: Group::default(),
    };
    if memory.identity.is_none() {
        return Err("it does not say whose it is".into());
    }
    let log = transaction.open_table(LOG).map_err(|e| text(&e))?;
    let mut expected = memory.purged.map(|id| id.index + 1);
    for row in log.iter().map_err(|e| text(&e))? {
        let (index, value) = row.map_err(|e| text(&e))?;
        let index = index.value();
        let text = value.value();
        let entry: LogEntry = serde_json::from_slice(text).map_err(|e| format!("entry {index}: {e}"))?;
        if entry.log_id.index != index || expected.is_some_and(|expected| expected != index) {
            return Err(format!("entry {index} does not follow the one before it"));
        }
        expected = Some(index + 1);
        memory.log.insert(index, Kept { entry, bytes: text.len() as u64 });
    }
    // The commit mark is not synced, so after a crash it may speak of entries of a transaction that did not last.
    memory.committed = memory.committed.min(memory.last());
    Ok(memory)
}

fn write(database: Arc<Database>, queue: &mpsc::Receiver<Write>, failure: &watch::Sender<Option<String>>, path: &Path) {
    let mut closing = None;
    while closing.is_none() {
        let Ok(first) = queue.recv() else { break };
        let batch: Vec<Write> = std::iter::once(first).chain(queue.try_iter().take(BATCH)).collect();
        // After the first failure the file may lack what later writes build upon.
        let failed = failure.borrow().clone();
        let result = match failed {
            Some(reason) => Err(reason),
            None => write_batch(&database, &batch).map_err(|e| format!("cannot write {}: {e}", path.display())),
        };
        if let Err(reason) = &result {
            failure.send_if_modified(|failure| failure.is_none() && failure.replace(reason.clone()).is_none());
        }
        for write in batch {
            match write {
                Write::Append { done, .. } => done.log_io_completed(result.clone().map_err(io::Error::other)),
                Write::Truncate { done, .. } | Write::Meta { done, .. } | Write::Snapshot { done, .. } => {
                    let _ = done.send(result.clone());
                }
                Write::Purge { .. } | Write::Committed(_) => {}
                Write::Close { done } => closing = Some(done),
            }
        }
    }
    drop(database);
    if let Some(done) = closing {
        let _ = done.send(());
    }
}

fn write_batch(database: &Database, batch: &[Write]) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    let lazy =
        batch.iter().all(|write| matches!(write, Write::Committed(_) | Write::Purge { .. } | Write::Close { .. }));
    transaction.set_durability(if lazy { Durability::None } else { Durability::Immediate })?;
    {
        let mut log = transaction.open_table(LOG)?;
        let mut meta = transaction.open_table(META)?;
        for write in batch {
            match write {
                Write::Append { entries, .. } => {
                    for (index, entry) in entries {
                        log.insert(index, entry.as_slice())?;
                    }
                }
                Write::Truncate { from, .. } => log.retain_in(*from.., |_, _| false)?,
                Write::Purge { upto } => {
                    log.retain_in(..=upto.index, |_, _| false)?;
                    meta.insert("purged", encode(upto).as_slice())?;
                }
                Write::Committed(committed) => {
                    meta.insert("committed", encode(committed).as_slice())?;
                }
                Write::Meta { key, value, .. } => {
                    meta.insert(key, value.as_slice())?;
                }
                Write::Snapshot { meta: snapshot_meta, data, .. } => {
                    meta.insert("snapshot_meta", snapshot_meta.as_slice())?;
                    meta.insert("snapshot", data.as_slice())?;
                }
                Write::Close { .. } => {}
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

async fn written(wait: oneshot::Receiver<Result<(), String>>) -> Result<(), StorageError> {
    match wait.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(reason)) => Err(failed_write(&reason)),
        Err(_) => Err(failed_write(&"the log writer has ended")),
    }
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("our own types have text keys and no failing serializers")
}

fn failed_read(reason: &dyn std::fmt::Display) -> StorageError {
    StorageIOError::read(&io::Error::other(reason.to_string())).into()
}

fn failed_write(reason: &dyn std::fmt::Display) -> StorageError {
    StorageIOError::write(&io::Error::other(reason.to_string())).into()
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            OpenError::Damaged { path, reason } => write!(f, "{} is damaged: {reason}", path.display()),
            OpenError::Busy { path } => {
                write!(f, "{} is in use by another process: two members cannot share --data-dir", path.display())
            }
            OpenError::Newer { path, format } => write!(
                f,
                "{} was written by a newer weir, in format {format}, and this one, version {}, reads up to format {FORMAT}; it is left as it is: \
                 install the version that wrote it, or choose another --data-dir (where there are other members, this one is told everything \
                 by them)",
                path.display(),
                env!("CARGO_PKG_VERSION")
            ),
            OpenError::Io { path, reason } => {
                write!(
                    f,
                    "cannot use {}: {reason}; --data-dir has to be a directory this user can write",
                    path.display()
                )
            }
        }
    }
}

impl std::error::Error for OpenError {}

pub(crate) const FILE: &str = "raft.redb";
/// Of the file: its tables, keys and how their values are written. It grows when an earlier program would misread what is written now.
const FORMAT: u32 = 1;
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// No file descriptors left, on the machine and in the process (errno.h); the standard library has no names for them.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
/// Some entries and what the file needs to keep them.
const ROOM_BYTES: usize = 64 << 10;
/// Entries are read once, at the start, and the snapshot seldom; pages that are rewritten are few.
const CACHE_BYTES: usize = 1 << 20;
/// Files below this size are left as they are: the log and the snapshots of a large configuration need that much.
const COMPACT_BYTES: u64 = 64 << 20;
/// Bounds the time one transaction keeps its first writer waiting.
const BATCH: usize = 256;

#[cfg(test)]
mod tests {
    use openraft::storage::RaftLogStorageExt;
    use openraft::{CommittedLeaderId, Entry, EntryPayload};

    use super::*;

    /// Raft, the members that call and the metrics come by the same locks: one of them that panics is not to end the others.
    #[test]
    fn a_panic_under_a_lock_closes_it_to_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let identity = Identity { name: "n1".into(), cluster_name: "c".into(), ..Identity::default() };
        let mut store = Store::open(directory.path(), identity.clone()).unwrap();
        let panics: [fn(&Shared); 2] = [
            |shared| {
                let _held = shared.memory.lock();
                panic!("while it holds the log")
            },
            |shared| {
                let _held = shared.database.lock();
                panic!("while it holds the file")
            },
        ];
        for panics in panics {
            let shared = store.shared.clone();
            assert!(std::thread::spawn(move || panics(&shared)).join().is_err());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let first = LogId::new(CommittedLeaderId::new(1, 1), 0);
            store.blocking_append([Entry { log_id: first, payload: EntryPayload::Blank }]).await.unwrap();
            store.save_vote(&Vote::new(1, 1)).await.unwrap();
            let last = store.held().last();
            assert_eq!((last, store.vote(), store.identity()), (Some(first), Some(Vote::new(1, 1)), identity));
            assert!(store.load_snapshot().unwrap().is_none());
            store.close().await;
        });
        // And the file is let go of.
        let again = Store::open(directory.path(), Identity::default()).unwrap();
        assert!(!again.is_pristine());
    }
}

//! openraft's view of the state machine: [`State`] in memory, published after every entry, snapshotted to the store.

use std::io::Cursor;
use std::sync::Arc;

use control_state::{Action, Command, State, Unread};
use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError};

use crate::marks::Marks;
use crate::publish::Publisher;
use crate::store::Store;
use crate::types::{LogEntry, LogId, Membership, Packed, Peer, SnapshotMeta, StorageError, Types};

pub struct Machine {
    state: State,
    applied: Option<LogId>,
    membership: Membership,
    store: Store,
    publisher: Arc<Publisher>,
    marks: Arc<Marks>,
    /// What this member understands.
    level: u32,
}

/// The state at the moment it was asked for: a handful of reference counts.
pub struct Builder {
    state: State,
    meta: SnapshotMeta,
    store: Store,
}

impl Machine {
    /// Starts from the last snapshot on disk; openraft replays the log from there.
    pub fn load(store: Store, publisher: Arc<Publisher>, marks: Arc<Marks>, level: u32) -> Result<Self, StorageError> {
        let (state, membership) = (State::default(), Membership::default());
        let mut machine = Machine { state, applied: None, membership, store, publisher, marks, level };
        if let Some((meta, data)) = machine.store.load_snapshot()? {
            machine.restore(&meta, &data)?;
        }
        Ok(machine)
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    fn restore(&mut self, meta: &SnapshotMeta, data: &[u8]) -> Result<(), StorageError> {
        let state = State::read(data, self.level).map_err(|unread| {
            let reason = unread_snapshot(&unread);
            self.store.fail(reason.clone());
            StorageIOError::read_snapshot(Some(meta.signature()), &std::io::Error::other(reason))
        })?;
        self.state = state;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.store.note_group(self.membership.membership());
        self.publisher.reset(self.state.readable());
        self.marks.restart(self.state.mark(self.applied.map_or(0, |id| id.index)));
        Ok(())
    }

    /// Nothing from this entry on is applied here: what is passed over, or carried out in part, would make this state another than the
    /// others'.
    fn stop_at(&self, id: LogId, reason: &str) -> StorageError {
        let told = format!(
            "entry {} of the log was written by a newer weir than this one (version {}, feature level {}): {reason}. Nothing after it is \
             applied here; install the version that the other members run, or leave out --feature-level, and start this member again",
            id.index,
            env!("CARGO_PKG_VERSION"),
            self.level
        );
        self.store.fail(told.clone());
        StorageIOError::apply(id, &std::io::Error::other(told)).into()
    }
}

/// Why a snapshot is not taken, and what to do.
pub fn unread_snapshot(unread: &Unread) -> String {
    format!(
        "the snapshot of the configuration was written by another version of weir, and version {} cannot read it: {unread}. Install the \
         version that wrote it, or move {} out of the data directory: this member is told everything by the others then; one that is alone \
         begins with nothing (weirctl last-good restore brings back what its edge serves)",
        env!("CARGO_PKG_VERSION"),
        crate::store::FILE,
    )
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, openraft::StoredMembership<u64, Peer>), StorageError> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Option<control_state::Answer>>, StorageError>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut answers = Vec::new();
        for entry in entries {
            let id = entry.log_id;
            answers.push(match entry.payload {
                EntryPayload::Blank => None,
                EntryPayload::Membership(membership) => {
                    self.store.note_group(&membership);
                    self.membership = Membership::new(Some(id), membership);
                    None
                }
                EntryPayload::Normal(packed) => {
                    let bytes = packed.bytes();
                    let command = read(packed).await.map_err(|error| self.stop_at(id, &error.to_string()))?;
                    if let Some(level) = newer(&command.action, self.level) {
                        return Err(self.stop_at(id, &format!("it is of feature level {level}")));
                    }
                    let before = self.state.readable();
                    let applied = self.state.apply(command);
                    if let Some(delta) = applied.delta {
                        self.publisher.push(self.state.readable(), delta, bytes);
                    } else if !before.same_beside_view(&self.state) {
                        self.publisher.renew(self.state.readable());
                    }
                    Some(applied.answer)
                }
            });
            self.applied = Some(id);
            self.marks.push(self.state.mark(id.index));
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let id = self.applied.map_or_else(|| "empty".to_owned(), |id| format!("{}-{}", id.leader_id, id.index));
        let meta =
            SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone(), snapshot_id: id };
        Builder { state: self.state.clone(), meta, store: self.store.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let data = Arc::new(snapshot.into_inner());
        self.restore(meta, &data)?;
        self.store.save_snapshot(meta, data).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        let snapshot = self.store.load_snapshot()?;
        Ok(snapshot.map(|(meta, data)| Snapshot { meta, snapshot: Box::new(Cursor::new(data)) }))
    }
}

/// The level of a change that this member does not understand.
fn newer(action: &Action, level: u32) -> Option<u32> {
    let of = if let Action::RaiseLevel { level } = action { *level } else { action.level() };
    (of > level).then_some(of)
}

async fn read(packed: Packed) -> Result<Command, serde_json::Error> {
    if packed.is_large() {
        tokio::task::spawn_blocking(move || packed.open())
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    } else {
        packed.open()
    }
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        let state = self.state.clone();
        let data = tokio::task::spawn_blocking(move || serde_json::to_vec(&state))
            .await
            .map_err(|e| StorageIOError::write_snapshot(None, &e))?
            .map_err(|e| StorageIOError::write_snapshot(None, &e))?;
        let data = Arc::new(data);
        self.store.save_snapshot(&self.meta, data.clone()).await?;
        let data = Arc::try_unwrap(data).unwrap_or_else(|shared| shared.to_vec());
        Ok(Snapshot { meta: self.meta.clone(), snapshot: Box::new(Cursor::new(data)) })
    }
}

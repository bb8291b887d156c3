//! openraft's view of the state machine: [`State`] in memory, published after every entry, snapshotted to the store.

use std::io::Cursor;
use std::sync::Arc;

use control_api::Refusal;
use control_state::{Command, State};
use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError};

use crate::publish::Publisher;
use crate::store::Store;
use crate::types::{LogEntry, LogId, Membership, Packed, Peer, SnapshotMeta, StorageError, Types};

pub struct Machine {
    state: State,
    applied: Option<LogId>,
    membership: Membership,
    store: Store,
    publisher: Arc<Publisher>,
}

/// The state at the moment it was asked for: a handful of reference counts.
pub struct Builder {
    state: State,
    meta: SnapshotMeta,
    store: Store,
}

impl Machine {
    /// Starts from the last snapshot on disk; openraft replays the log from there.
    pub fn load(store: Store, publisher: Arc<Publisher>) -> Result<Self, StorageError> {
        let mut machine =
            Machine { state: State::default(), applied: None, membership: Membership::default(), store, publisher };
        if let Some((meta, data)) = machine.store.load_snapshot()? {
            machine.restore(&meta, &data)?;
        }
        Ok(machine)
    }

    fn restore(&mut self, meta: &SnapshotMeta, data: &[u8]) -> Result<(), StorageError> {
        let state = serde_json::from_slice(data).map_err(|e| {
            let unread = std::io::Error::other(format!(
                "the snapshot of the configuration was written by another version of weir, and version {} cannot read it: {e}. Start \
                 the version that wrote it, or move {} out of the data directory: this member is told everything by the others then; one \
                 that is alone begins with nothing (weirctl last-good restore brings back what its edge serves)",
                env!("CARGO_PKG_VERSION"),
                crate::store::FILE,
            ));
            StorageIOError::read_snapshot(Some(meta.signature()), &unread)
        })?;
        self.state = state;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.publisher.reset(self.state.readable());
        Ok(())
    }
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
            self.applied = Some(entry.log_id);
            answers.push(match entry.payload {
                EntryPayload::Blank => None,
                EntryPayload::Membership(membership) => {
                    self.membership = Membership::new(Some(entry.log_id), membership);
                    None
                }
                EntryPayload::Normal(packed) => {
                    let bytes = packed.bytes();
                    let command = match read(packed).await {
                        Ok(command) => command,
                        Err(refusal) => {
                            answers.push(Some(Err(refusal)));
                            continue;
                        }
                    };
                    let applied = self.state.apply(command);
                    if let Some(delta) = applied.delta {
                        self.publisher.push(self.state.readable(), delta, bytes);
                    }
                    Some(applied.answer)
                }
            });
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

/// Every member reads the same text and comes to the same refusal.
async fn read(packed: Packed) -> Result<Command, Refusal> {
    let command = if packed.is_large() {
        tokio::task::spawn_blocking(move || packed.open())
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    } else {
        packed.open()
    };
    command.map_err(|e| {
        Refusal::invalid(format!("a command of another version of weir: {e}; bring all members to one version"))
    })
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

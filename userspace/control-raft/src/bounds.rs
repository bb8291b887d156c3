//! Keeps the log short by its bytes. openraft counts entries, and a few hundred documents of megabytes are few entries.

use std::sync::Arc;
use std::time::Duration;

use crate::control::Inner;

/// Runs for as long as the member does.
pub async fn keep_short(inner: Arc<Inner>) {
    let Some(voter) = inner.voter() else { return };
    loop {
        tokio::time::sleep(LOOK).await;
        let metrics = voter.raft.metrics().borrow().clone();
        let (snapshot, applied) = (metrics.snapshot.map(|id| id.index), metrics.last_applied.map(|id| id.index));
        // A snapshot costs as much as it holds: of a large state it is worth waiting for more.
        let due = voter.store.bytes_after(snapshot) > SNAPSHOT_BYTES.max(voter.store.snapshot_bytes());
        if due && applied > snapshot && voter.raft.trigger().snapshot().await.is_err() {
            return;
        }
        // What a snapshot holds is kept for members that are a little behind.
        let spare = voter.store.oldest_beyond(KEPT_BYTES).min(snapshot);
        if let Some(upto) = spare
            && spare > metrics.purged.map(|id| id.index)
            && voter.raft.trigger().purge_log(upto).await.is_err()
        {
            return;
        }
    }
}

/// Entries since the last snapshot after which the next one is made, in bytes of their text. Memory and file hold the log.
const SNAPSHOT_BYTES: u64 = 8 << 20;

/// Entries that a snapshot holds already and that are kept all the same, in bytes of their text.
const KEPT_BYTES: u64 = 4 << 20;

const LOOK: Duration = Duration::from_millis(100);

//! What only the start needed, and what becomes of it once that is over.

use crate::health::Health;
use base_runtime::pages;
use std::sync::Arc;
use std::time::Duration;

/// Lets go of the program's pages when the machine has been ready for a while.
pub async fn settle(health: Arc<Health>) {
    while health.ready().is_err() {
        tokio::time::sleep(LOOK).await;
    }
    tokio::time::sleep(SETTLES).await;
    match tokio::task::spawn_blocking(pages::let_go_of_program).await {
        Ok(Ok(bytes)) => tracing::info!(bytes, "the start is over: pages of the program were let go of"),
        Ok(Err(error)) => tracing::debug!(%error, "the program's pages stay as they are"),
        Err(_) => {}
    }
}

const LOOK: Duration = Duration::from_millis(500);

/// By then what was kept on disk is served, the cluster is found, and the first of its changes have come.
const SETTLES: Duration = Duration::from_secs(5);

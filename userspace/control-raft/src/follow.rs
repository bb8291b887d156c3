//! How a member that does not vote learns of changes: it reads the watch stream of one that does. Where the cluster was founded anew
//! it goes along; whether its edge takes what that has is for the edge to say.

use std::sync::Arc;
use std::time::Duration;

use control_api::Update;
use control_api::client::CallError;
use control_state::State;

use crate::control::Inner;
use crate::peer::PING;
use crate::publish::Publisher;
use crate::wire::WireError;

/// Reads from one member after another, for as long as the process lives.
pub async fn follow(inner: Arc<Inner>) {
    let mut told = String::new();
    // Those that begin at the same time do not all begin with the same one.
    let first = usize::try_from(inner.own.run >> 33).unwrap_or_default();
    for turn in first.. {
        let candidates = inner.candidates();
        if candidates.is_empty() {
            tokio::time::sleep(RETRY_MAX).await;
            continue;
        }
        let url = &candidates[turn % candidates.len()];
        let done = read(&inner, url).await;
        inner.health.note_leader(false);
        match done {
            Ok(()) => tracing::info!(url, "the watch stream ended; looking for another member"),
            // The same is not said again with every try.
            Err(error) if error.is_a_fault_of_configuration() && error.to_string() != told => {
                tracing::error!(url, %error, "the member that was to be followed");
                told = error.to_string();
            }
            Err(reason) => tracing::debug!(url, %reason, "no watch stream"),
        }
        let pause = if turn - first < 10 { RETRY_MIN } else { RETRY_MAX };
        tokio::time::sleep(pause).await;
    }
}

async fn read(inner: &Inner, url: &str) -> Result<(), WireError> {
    let view = inner.publisher().state().view.clone();
    let path =
        format!("/watch?from={}&cluster={}&changes=true&level={}", view.version, view.cluster_id, inner.own.level);
    let mut lines = inner.wire().open(url, &path, SILENCE).await?;
    tracing::info!(url, version = view.version, "following");
    let broken = |reason: String| WireError::Call(CallError { url: url.to_owned(), reason, unsent: false });
    while let Some(line) = lines.next(SILENCE).await.map_err(broken)? {
        inner.health.note_leader(true);
        let update = serde_json::from_slice(&line).map_err(|e| broken(format!("unreadable update: {e}")))?;
        advance(&inner.publisher(), update, line.len()).map_err(broken)?;
    }
    Ok(())
}

/// Goes a line further.
pub fn advance(publisher: &Publisher, update: Update, bytes: usize) -> Result<(), String> {
    match update {
        Update::Snapshot(snapshot) => {
            let view = Arc::unwrap_or_clone(snapshot);
            publisher.reset(State::of_view(view));
        }
        Update::Delta(delta) => {
            let state = publisher.state().advanced(&delta).map_err(|gap| gap.to_string())?;
            publisher.push(state, delta, bytes);
        }
        Update::Ping(_) => {}
    }
    Ok(())
}

const SILENCE: Duration = Duration::from_millis(PING.as_millis() as u64 * 4);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_millis(500);

//! How a member that does not vote learns of changes: it reads the watch stream of one that does.

use std::sync::Arc;
use std::time::Duration;

use control_api::Update;
use control_state::State;
use http_body_util::BodyExt;
use hyper::Method;

use crate::control::Inner;
use crate::peer::PING;
use crate::wire::join;

/// Reads from one member after another, for as long as the process lives.
pub async fn follow(inner: Arc<Inner>) {
    for turn in 0.. {
        let candidates = inner.candidates();
        if candidates.is_empty() {
            tokio::time::sleep(RETRY_MAX).await;
            continue;
        }
        let url = &candidates[turn % candidates.len()];
        match read(&inner, url).await {
            Ok(()) => tracing::info!(url, "the watch stream ended; looking for another member"),
            Err(reason) => tracing::debug!(url, reason, "no watch stream"),
        }
        let pause = if turn < 10 { RETRY_MIN } else { RETRY_MAX };
        tokio::time::sleep(pause).await;
    }
}

async fn read(inner: &Inner, url: &str) -> Result<(), String> {
    let view = inner.publisher().state().view.clone();
    let path = format!("/watch?from={}&cluster={}", view.version, view.cluster_id);
    let wire = inner.wire();
    let response = wire
        .client
        .open(Method::GET, &join(url, &path), &wire.cluster_headers(), SILENCE)
        .await
        .map_err(|e| e.to_string())?;
    if !response.status().is_success() {
        let status = response.status();
        let body = response.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let message = String::from_utf8_lossy(&body).into_owned();
        if status.as_u16() == 409 {
            tracing::error!(url, message, "a member of another cluster");
        }
        return Err(format!("{status}: {message}"));
    }
    tracing::info!(url, version = view.version, "following");
    let mut body = response.into_body();
    let mut buffer: Vec<u8> = Vec::new();
    loop {
        let frame = match tokio::time::timeout(SILENCE, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Err(error.to_string()),
            Ok(None) => return Ok(()),
            Err(_) => return Err(format!("silent for {}", base_text::duration(SILENCE))),
        };
        let Ok(data) = frame.into_data() else { continue };
        // Only the new bytes can hold the end of a line: a snapshot of megabytes arrives in many frames.
        let mut searched = buffer.len();
        buffer.extend_from_slice(&data);
        let mut start = 0;
        while let Some(end) = buffer[searched..].iter().position(|byte| *byte == b'\n').map(|at| searched + at) {
            let line = &buffer[start..end];
            let update = serde_json::from_slice(line).map_err(|e| format!("unreadable update: {e}"))?;
            advance(inner, update, line.len())?;
            start = end + 1;
            searched = start;
        }
        buffer.drain(..start);
        // A snapshot of megabytes comes once; its room is not kept for deltas.
        if buffer.is_empty() && buffer.capacity() > BUFFER_KEPT {
            buffer = Vec::new();
        }
    }
}

fn advance(inner: &Inner, update: Update, bytes: usize) -> Result<(), String> {
    match update {
        Update::Snapshot(snapshot) => {
            let view = Arc::unwrap_or_clone(snapshot);
            inner.publisher().reset(State::of_view(view));
        }
        Update::Delta(delta) => {
            let mut view = inner.publisher().state().view.clone();
            view.advance(&delta).map_err(|gap| gap.to_string())?;
            inner.publisher().push(State::of_view(view), delta, bytes);
        }
        Update::Ping(_) => {}
    }
    Ok(())
}

const BUFFER_KEPT: usize = 64 << 10;
const SILENCE: Duration = Duration::from_millis(PING.as_millis() as u64 * 4);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_millis(500);

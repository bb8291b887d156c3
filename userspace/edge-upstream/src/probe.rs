//! Servers that are left out are connected to in the background until they answer.
//!
//! One worker probes a server at a time, with pauses that grow and vary, for as long as anybody names the server. A probe is what a
//! request would need: a TCP connect and, where TLS is spoken, a handshake.

use crate::connect::connect_to;
use crate::endpoint::{Endpoint, Server};
use crate::health::Health;
use crate::random;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// The pause before the first probe.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Longest pause between two probes: how long a server may be up before it is noticed.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long a probe may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Gives the place of the one who probes back, also when its worker ends.
struct Place(Arc<Health>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.give_up_probing();
    }
}

/// Probes the server until it is back, unless somebody does so already. Must be called on a worker.
#[cold]
pub fn begin(server: &Server) {
    if !server.health.claim_probing() {
        return;
    }
    let place = Place(server.health.clone());
    let (endpoint, identity, url) = (Arc::downgrade(&server.endpoint), server.identity.clone(), server.url.clone());
    base_runtime::spawn(async move {
        let mut pause = FIRST_PAUSE;
        while let Some(rest) = place.0.probe_after(base_runtime::now()) {
            if rest.is_zero() {
                base_runtime::time::sleep(varied(pause)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            } else {
                base_runtime::time::sleep(rest).await;
            }
            // Nobody names it any more: nobody needs to know.
            let Some(endpoint) = endpoint.upgrade() else { return };
            place.0.vitals().probes.fetch_add(1, Relaxed);
            if connects(&endpoint, identity.as_deref()).await && place.0.connected(base_runtime::now()) {
                tracing::info!(server = url, "the server can be connected to again and is back");
            }
        }
    })
    .detach();
}

async fn connects(endpoint: &Endpoint, identity: Option<&crate::Identity>) -> bool {
    connect_to(endpoint, identity, TIMEOUT).await.is_ok()
}

/// Three to five quarters of a pause, so that servers that went together are not asked together.
fn varied(pause: Duration) -> Duration {
    let millis = pause.as_millis() as u64;
    Duration::from_millis(millis * 3 / 4 + random::below(millis / 2 + 1))
}

//! How often a member calls elections that come to nothing.
//!
//! A vote is on the disk before it is given, and before it is asked for. Where that takes as long as an election may, at this member or at
//! the one whose voice is needed, openraft calls the next before an answer to the last has come: for ever, at terms that grow, and the
//! member that does so takes nothing from the leader there is. After a few it calls no more by its own clock: elections are called from
//! here, further and further apart, until there is a leader.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::{Gate, Inner, random};

/// Runs for as long as the member does.
pub async fn pace(inner: Arc<Inner>) {
    let Some(voter) = inner.voter() else { return };
    let elect = |by_itself: bool| voter.raft.runtime_config().elect(by_itself);
    let mut led_at = 0;
    // When the next is called, and how far those after it are apart.
    let mut held: Option<(Instant, Duration)> = None;
    loop {
        tokio::time::sleep(LOOK).await;
        // What openraft tells of itself it tells when it has nothing else to do, which it has not then.
        let (led, term) = voter.store.vote().map_or((true, 0), |vote| (vote.is_committed(), vote.leader_id().term));
        let open = inner.gate() == Gate::Open;
        if led || !open {
            led_at = term;
            if held.take().is_some() {
                elect(open);
            }
            continue;
        }
        match held {
            None if term < led_at + IN_VAIN => {}
            None => {
                tracing::warn!(term, "elections come to nothing; they are called less often");
                held = Some((Instant::now() + drawn(PAUSE_MIN), PAUSE_MIN));
            }
            Some((next, apart)) if Instant::now() >= next => {
                if voter.raft.trigger().elect().await.is_err() {
                    return;
                }
                let apart = (apart * 2).min(PAUSE_MAX);
                held = Some((Instant::now() + drawn(apart), apart));
            }
            Some(_) => {}
        }
        if held.is_some() {
            // Whoever has opened the gate meanwhile has let it call them.
            elect(false);
        }
    }
}

/// Once to twice as long, so that two do not call at the same time again and again.
fn drawn(pause: Duration) -> Duration {
    pause + pause.mul_f64((random() >> 11) as f64 / (1_u64 << 53) as f64)
}

const LOOK: Duration = Duration::from_millis(40);
/// Elections since there was a leader: of members that reach each other and have quick disks the first or the second leads to one.
const IN_VAIN: u64 = 3;
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// A vote takes as long on a disk that is next to useless.
const PAUSE_MAX: Duration = Duration::from_millis(2000);

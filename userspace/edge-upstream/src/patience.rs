//! A new pool waits a while for the addresses of its servers' names, so that the first requests find them; it is made without them where
//! nobody answers. Whoever makes pools makes them one after another: with many names that nobody answers for, only the first waits.

use crate::endpoint::Server;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a new pool waits; addresses that come later are used when they come.
const FIRST_LOOK_UP: Duration = Duration::from_secs(2);

/// After a wait in vain further pools do not wait for so long: the names of all of them are asked for meanwhile.
const IN_VAIN: Duration = Duration::from_secs(10);

/// When a wait was last in vain.
static LAST: Mutex<Option<Instant>> = Mutex::new(None);

/// Waits until all servers have addresses, or it takes too long. Blocks: for control threads.
pub fn await_addresses(servers: &[Arc<Server>]) {
    let began = Instant::now();
    let end = began + left(last(), began);
    for server in servers {
        if let Err(error) = server.endpoint.await_address(end) {
            tracing::warn!(server = server.url, error, "the server's name has no address yet; asking on");
        }
    }
    if end > began && Instant::now() >= end {
        *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

fn last() -> Option<Instant> {
    *LAST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long may be waited now.
fn left(last: Option<Instant>, now: Instant) -> Duration {
    match last {
        Some(last) if now.saturating_duration_since(last) < IN_VAIN => Duration::ZERO,
        _ => FIRST_LOOK_UP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thousand pools of names that nobody answers for, one after another: how long their maker waits in all.
    #[test]
    fn many_pools_wait_together() {
        let (mut now, mut last, mut waited) = (Instant::now(), None, Duration::ZERO);
        for _ in 0..1000 {
            let wait = left(last, now);
            now += wait;
            waited += wait;
            if !wait.is_zero() {
                last = Some(now);
            }
            // What making one takes.
            now += Duration::from_millis(5);
        }
        assert_eq!(waited, FIRST_LOOK_UP);
        assert_eq!(left(last, now + IN_VAIN), FIRST_LOOK_UP, "later one may wait again");
    }
}

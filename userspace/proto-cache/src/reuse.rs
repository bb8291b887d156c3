//! What a request gets of an answer that is kept (RFC 9111 section 4).

use crate::control::RequestControl;
use crate::kept::Kept;
use std::time::{Duration, Instant};

/// How an answer that is kept may be used for a request that it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// As it is.
    Fresh,
    /// Stale, and the client takes it so.
    Stale,
    /// Stale, while a new one is fetched (RFC 5861 section 3).
    WhileFetching,
    /// Only when the origin says that it is still valid.
    AfterValidation,
}

/// Decides that at a time.
pub fn use_of(kept: &Kept, asked: &RequestControl, now: Instant) -> Use {
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    let age = kept.freshness.age(now);
    if kept.no_cache || asked.no_cache || asked.max_age.is_some_and(|most| age > seconds(most) || most == 0) {
        return Use::AfterValidation;
    }
    if kept.freshness.is_fresh(now) {
        let enough = asked.min_fresh.is_none_or(|least| kept.freshness.left(now) >= seconds(least));
        return if enough { Use::Fresh } else { Use::AfterValidation };
    }
    let staleness = kept.freshness.staleness(now);
    if asked.min_fresh.is_some() {
        return Use::AfterValidation;
    }
    if staleness < kept.stale_while_revalidate {
        return Use::WhileFetching;
    }
    if !kept.must_revalidate && asked.max_stale.is_some_and(|most| staleness <= seconds(most)) {
        return Use::Stale;
    }
    Use::AfterValidation
}

/// Whether an answer may stand in for an origin that fails (RFC 5861 section 4).
pub fn may_stand_in(kept: &Kept, asked: &RequestControl, now: Instant) -> bool {
    if kept.no_cache {
        return false;
    }
    if kept.freshness.is_fresh(now) {
        return true;
    }
    let by_client = match asked.stale_if_error {
        Some(seconds) if !kept.must_revalidate => Duration::from_secs(seconds.into()),
        _ => Duration::ZERO,
    };
    kept.freshness.staleness(now) < kept.stale_if_error.max(by_client)
}

/// Statuses that say that the origin fails, for [`may_stand_in`].
pub fn is_failure(status: u16) -> bool {
    matches!(status, 500 | 502 | 503 | 504)
}

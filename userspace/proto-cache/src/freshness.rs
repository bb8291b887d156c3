//! Ages and lifetimes (RFC 9111 section 4.2).

use crate::control::{ResponseControl, seconds};
use crate::rules::{Heuristic, Times};
use proto_http::{Headers, Known};
use std::time::{Duration, Instant, UNIX_EPOCH};

/// How old an answer was when it came, and how long it is fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// When it came, or was found to be still valid.
    pub received: Instant,
    /// What it had aged by then.
    pub initial_age: Duration,
    pub lifetime: Duration,
}

impl Freshness {
    pub fn age(&self, now: Instant) -> Duration {
        self.initial_age.saturating_add(now.saturating_duration_since(self.received))
    }

    /// An answer is fresh while it is younger than its lifetime, and at that very age no more.
    pub fn is_fresh(&self, now: Instant) -> bool {
        self.age(now) < self.lifetime
    }

    /// How long it has been stale.
    pub fn staleness(&self, now: Instant) -> Duration {
        self.age(now).saturating_sub(self.lifetime)
    }

    /// How long it stays fresh.
    pub fn left(&self, now: Instant) -> Duration {
        self.lifetime.saturating_sub(self.age(now))
    }
}

/// What the age is of an answer that says it in a way that cannot be read, or that is from the future's past: no lifetime reaches it.
pub const AGE_UNKNOWN: Duration = Duration::from_secs(1 << 33);

/// Its age when it came (section 4.2.3).
pub fn initial_age(headers: &Headers, times: &Times) -> Duration {
    let mut ages = headers.values("Age");
    let said = match (ages.next(), ages.next()) {
        (None, _) => Duration::ZERO,
        (Some(age), None) => seconds(age.trim_ascii()).map_or(AGE_UNKNOWN, |age| Duration::from_secs(age.into())),
        _ => AGE_UNKNOWN,
    };
    let apparent = date_of(headers).map_or(0, |date| times.unix_seconds.saturating_sub(date));
    let delay = times.received.saturating_duration_since(times.asked);
    said.saturating_add(delay).max(Duration::from_secs(apparent))
}

/// How long an answer says it is fresh (section 4.2.1), in the order of precedence of a shared cache. `None` where it says nothing.
pub fn explicit_lifetime(
    control: &ResponseControl,
    is_targeted: bool,
    headers: &Headers,
    times: &Times,
) -> Option<Duration> {
    let directive = match is_targeted {
        true => control.max_age,
        false => control.s_maxage.or(control.max_age),
    };
    if let Some(seconds) = directive {
        return Some(Duration::from_secs(seconds.into()));
    }
    if is_targeted {
        return None;
    }
    let mut expires = headers.values("Expires");
    let first = expires.next()?;
    // Said twice, or said badly: it has expired (section 5.3).
    let until = if expires.next().is_some() { None } else { date(first) };
    let from = date_of(headers).unwrap_or(times.unix_seconds);
    Some(Duration::from_secs(until.unwrap_or(0).saturating_sub(from)))
}

/// How long an answer that does not say may be taken to be fresh (section 4.2.2): a share of the time since it was changed.
pub fn heuristic_lifetime(heuristic: &Heuristic, headers: &Headers, times: &Times) -> Option<Duration> {
    let changed = date(headers.value("Last-Modified")?)?;
    let until = date_of(headers).unwrap_or(times.unix_seconds);
    let share = until.saturating_sub(changed).saturating_mul(heuristic.percent.into()) / 100;
    Some(Duration::from_secs(share).min(heuristic.most))
}

/// The one Date of an answer, in seconds since 1970.
pub fn date_of(headers: &Headers) -> Option<u64> {
    let mut dates = headers.known_all(Known::Date);
    let first = dates.next()?;
    if dates.next().is_some() { None } else { date(first) }
}

/// A date in any of the three forms of RFC 9110 section 5.6.7, in seconds since 1970.
pub fn date(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let date = httpdate::parse_http_date(text).ok()?;
    date.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(unix_seconds: u64) -> Times {
        let now = Instant::now();
        Times { asked: now, received: now, unix_seconds }
    }

    fn headers(fields: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::new();
        fields.iter().for_each(|(name, value)| headers.add(name, value));
        headers
    }

    /// 784,111,777 seconds after 1970.
    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    #[test]
    fn an_age_that_cannot_be_read_is_beyond_any_lifetime() {
        let age = |fields: &[(&str, &str)]| initial_age(&headers(fields), &times(784_111_777)).as_secs();
        assert_eq!(age(&[]), 0);
        assert_eq!(age(&[("Age", "30")]), 30);
        assert_eq!(age(&[("Age", "30"), ("Date", "Sun, 06 Nov 1994 08:49:27 GMT")]), 30);
        assert_eq!(age(&[("Age", "3"), ("Date", "Sun, 06 Nov 1994 08:49:27 GMT")]), 10);
        assert_eq!(age(&[("Date", "Sun, 06 Nov 1994 08:50:37 GMT")]), 0);
        for bad in ["old", "-1", "1.5", "0, 0", "0, old", "7200;foo=bar", ""] {
            assert_eq!(age(&[("Age", bad)]), AGE_UNKNOWN.as_secs(), "{bad}");
        }
        assert_eq!(age(&[("Age", "0"), ("Age", "0")]), AGE_UNKNOWN.as_secs());
    }

    #[test]
    fn lifetimes_in_order_of_precedence() {
        let explicit = |fields: &[(&str, &str)]| {
            let headers = headers(fields);
            let control = ResponseControl::of(&headers);
            explicit_lifetime(&control, false, &headers, &times(784_111_777)).map(|life| life.as_secs())
        };
        let later = "Sun, 06 Nov 1994 08:50:37 GMT";
        assert_eq!(explicit(&[("Cache-Control", "max-age=5, s-maxage=9"), ("Expires", later)]), Some(9));
        assert_eq!(explicit(&[("Cache-Control", "max-age=5"), ("Expires", later)]), Some(5));
        assert_eq!(explicit(&[("Expires", later), ("Date", DATE)]), Some(60));
        assert_eq!(explicit(&[("Expires", later)]), Some(60));
        assert_eq!(explicit(&[("Expires", later), ("Date", "yesterday")]), Some(60));
        assert_eq!(explicit(&[("Expires", DATE), ("Date", later)]), Some(0));
        assert_eq!(explicit(&[("Expires", "0")]), Some(0));
        assert_eq!(explicit(&[("Expires", later), ("Expires", later)]), Some(0));
        assert_eq!(explicit(&[]), None);
        let targeted = headers(&[("CDN-Cache-Control", "s-maxage=4"), ("Expires", later)]);
        let control = ResponseControl::targeted(&targeted, "CDN-Cache-Control").unwrap();
        assert_eq!(explicit_lifetime(&control, true, &targeted, &times(784_111_777)), None);
    }

    #[test]
    fn a_share_of_the_time_since_it_was_changed() {
        let heuristic = Heuristic { percent: 10, most: Duration::from_secs(100) };
        let life = |changed: &str| {
            let headers = headers(&[("Last-Modified", changed), ("Date", DATE)]);
            heuristic_lifetime(&heuristic, &headers, &times(0)).map(|life| life.as_secs())
        };
        assert_eq!(life("Sun, 06 Nov 1994 08:47:57 GMT"), Some(10));
        assert_eq!(life("Sun, 06 Nov 1993 08:47:57 GMT"), None, "a weekday that is wrong");
        assert_eq!(life("Sat, 06 Nov 1993 08:47:57 GMT"), Some(100));
        assert_eq!(life("Sun, 06 Nov 1994 08:50:37 GMT"), Some(0));
    }

    #[test]
    fn it_is_stale_at_its_lifetime() {
        let received = Instant::now();
        let seconds = Duration::from_secs;
        let fresh = Freshness { received, initial_age: seconds(3), lifetime: seconds(5) };
        let at = |s| received + Duration::from_millis(s);
        assert!(fresh.is_fresh(at(1999)) && !fresh.is_fresh(at(2000)));
        assert_eq!((fresh.staleness(at(3000)), fresh.left(at(500))), (seconds(1), Duration::from_millis(1500)));
        assert_eq!(fresh.age(received), seconds(3));
    }
}

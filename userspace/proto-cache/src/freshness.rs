//! Ages and lifetimes (RFC 9111 section 4.2).

use crate::control::{ResponseControl, seconds};
use crate::rules::{Heuristic, Times};
use base_text::calendar::{DAY, days_to};
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
        (Some(age), None) => age_of(age).map_or(AGE_UNKNOWN, |age| Duration::from_secs(age.into())),
        _ => AGE_UNKNOWN,
    };
    let apparent = date_of(headers).map_or(0, |date| times.unix_seconds.saturating_sub(date));
    let delay = times.received.saturating_duration_since(times.asked);
    said.saturating_add(delay).max(Duration::from_secs(apparent))
}

/// Of a list the first member counts (section 5.1), unless the next one repeats it: two caches may have said so then.
fn age_of(line: &[u8]) -> Option<u32> {
    let mut members = line.split(|&b| b == b',').map(<[u8]>::trim_ascii);
    let (first, next) = (members.next()?, members.next());
    if next == Some(first) { None } else { seconds(first) }
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

/// A date in any of the three forms of RFC 9110 section 5.6.7, in seconds since 1970. Whatever the case, with commas and blanks as they
/// come, and the weekday is not looked at, which says nothing that the rest does not; but there is no zone than GMT.
pub fn date(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let exact = httpdate::parse_http_date(text).ok().and_then(|date| date.duration_since(UNIX_EPOCH).ok());
    exact.map(|since| since.as_secs()).or_else(|| loose_date(text))
}

fn loose_date(text: &str) -> Option<u64> {
    let (mut day, mut month, mut year, mut time) = (None, None, None, None);
    let mut words = text.split([' ', ',']).filter(|word| !word.is_empty());
    // The weekday.
    words.next().filter(|word| word.len() >= 3 && word.bytes().all(|b| b.is_ascii_alphabetic()))?;
    for word in words {
        let number = || word.bytes().all(|b| b.is_ascii_digit()).then(|| word.parse::<u64>().ok()).flatten();
        let known = match word.len() {
            1 | 2 if day.is_none() => number().filter(|day| (1..=31).contains(day)).map(|n| day = Some(n)),
            3 if month.is_none() => {
                MONTHS.iter().position(|month| word.eq_ignore_ascii_case(month)).map(|n| month = Some(n as u64 + 1))
            }
            3 if word.eq_ignore_ascii_case("GMT") || word.eq_ignore_ascii_case("UTC") => Some(()),
            4 if year.is_none() => number().filter(|year| *year >= 1970).map(|n| year = Some(n)),
            8 if time.is_none() => time_of(word).map(|n| time = Some(n)),
            _ => None,
        };
        known?;
    }
    let (year, month, day) = (year?, month?, day?);
    let days = days_to(year as i64, month as i64, day as i64)?;
    u64::try_from(days * DAY).ok().map(|seconds| seconds + time.unwrap_or(0))
}

/// `hh:mm:ss` in seconds.
fn time_of(word: &str) -> Option<u64> {
    let mut parts = word.split(':').map(|part| part.parse::<u64>().ok().filter(|_| part.len() == 2));
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    (hours < 24 && minutes < 60 && seconds <= 60).then_some(hours * 3600 + minutes * 60 + seconds)
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

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
        assert_eq!(age(&[("Age", "5, 7200")]), 5);
        for bad in ["old", "-1", "1.5", "0, 0", "old, 0", "7200;foo=bar", ""] {
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
        assert_eq!(life("Sun, 06 Nov 1993 08:47:57 CET"), None, "another zone");
        assert_eq!(life("Sat, 06 Nov 1993 08:47:57 GMT"), Some(100));
        assert_eq!(life("Sun, 06 Nov 1994 08:50:37 GMT"), Some(0));
    }

    #[test]
    fn dates_are_read_when_they_can_mean_one_thing_only() {
        for text in [
            DATE,
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Mon Nov  6 08:49:37 1994",
            "sun, 06 nov 1994 08:49:37 gmt",
            "Sun 06 Nov 1994 08:49:37 GMT",
            "Sun,  06  Nov 1994  08:49:37 UTC",
        ] {
            assert_eq!(date(text.as_bytes()), Some(784_111_777), "{text}");
        }
        assert_eq!(date(b"Thu Aug  8 02:01:18 2050"), Some(2_543_536_878));
        assert_eq!(date(b"Tue, 29 Feb 2000 00:00:00 UTC"), Some(951_782_400));
        for text in [
            "0",
            "",
            "yesterday",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 06-11-1994 08:49:37 GMT",
            "06 Nov 1994",
            "Sun, 6 Nov 1994 8:49:37 GMT",
        ] {
            assert_eq!(date(text.as_bytes()), None, "{text}");
        }
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

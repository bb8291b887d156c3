//! What went wrong with an order, in words for people, and when it makes sense to try again.

use std::fmt;
use std::time::{Duration, SystemTime};

use base_text::quoted;
use instant_acme::{Error, Problem};

/// By what may help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The authority cannot be reached or is not well: it passes by itself.
    Passing(String),
    /// The authority has looked and said no: the name, a record or an answer is not as it should be.
    Refused(String),
    /// It was asked too much; not before then.
    Limited(String, Option<SystemTime>),
    /// It does not know our account (any more).
    Account(String),
    /// It does not know that which an order was to replace.
    Replaces(String),
}

impl Fault {
    /// `after`: when the authority wants to be asked again.
    pub fn of(error: Error, directory: &str, after: Option<SystemTime>) -> Fault {
        match error {
            Error::Api(problem) => Fault::of_problem(&problem, after),
            Error::Timeout(_) => Fault::Passing(
                "the authority has not come to an end with the order in time; it is looked at again".into(),
            ),
            Error::Json(error) => Fault::Passing(format!(
                "what the authority answers is not what ACME says ({error}); is {} its directory?",
                quoted(directory)
            )),
            Error::Other(error) => Fault::Passing(format!("the authority cannot be asked: {error}")),
            other => Fault::Passing(format!("the authority cannot be asked: {other}")),
        }
    }

    /// RFC 8555 section 6.7.
    pub fn of_problem(problem: &Problem, after: Option<SystemTime>) -> Fault {
        let kind = problem.r#type.as_deref().unwrap_or_default();
        let kind = kind.rsplit(':').next().unwrap_or_default();
        let told = told(problem);
        match kind {
            "rateLimited" => Fault::Limited(told, after),
            "badNonce" | "serverInternal" | "orderNotReady" => Fault::Passing(told),
            "accountDoesNotExist" => Fault::Account(told),
            "alreadyReplaced" => Fault::Replaces(told),
            _ if problem.status == Some(503) => Fault::Limited(told, after),
            _ if problem.status.is_some_and(|status| status >= 500) => Fault::Passing(told),
            _ => Fault::Refused(told),
        }
    }

    /// When it is tried again that was to wait until `wanted`. Nothing waits longer than anything may: what says so was written while some
    /// member's clock was ahead, and would stand in the way until everybody's has come to that. Or it is this clock that is behind by more
    /// than a day: then each name is tried once before its time, and what comes of that says anew how long it waits.
    pub fn again(wanted: SystemTime, now: SystemTime) -> SystemTime {
        if wanted > now + PAUSE_MOST { now } else { wanted }
    }

    /// How long to wait after this many failures in a row, this one among them. `random` spreads those that fail together.
    pub fn pause(&self, failures: u32, now: SystemTime, random: u64) -> Duration {
        let doubled = |first: Duration, most: Duration| {
            let whole = first.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(most);
            let half = whole / 2;
            half + Duration::from_nanos(random % (half.as_nanos() as u64).max(1))
        };
        match self {
            Fault::Passing(_) | Fault::Account(_) | Fault::Replaces(_) => doubled(PASSING.0, PASSING.1),
            Fault::Refused(_) => doubled(REFUSED.0, REFUSED.1),
            Fault::Limited(_, Some(after)) => {
                let wait = after.duration_since(now).unwrap_or_default().clamp(LIMITED.0, LIMITED.1);
                // Not all in the same second.
                wait + Duration::from_nanos(random % 5_000_000_000)
            }
            Fault::Limited(_, None) => doubled(Duration::from_secs(3600), LIMITED.1),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Passing(text) | Fault::Refused(text) => f.write_str(text),
            Fault::Limited(text, _) => write!(f, "the authority was asked too much: {text}"),
            Fault::Account(text) => write!(f, "the authority does not know the account: {text}"),
            Fault::Replaces(text) => write!(f, "the authority does not renew that: {text}"),
        }
    }
}

/// What the authority says, in one line.
fn told(problem: &Problem) -> String {
    let kind = problem.r#type.as_deref().unwrap_or_default().rsplit(':').next().unwrap_or_default();
    let mut text = problem.detail.clone().unwrap_or_default();
    for part in &problem.subproblems {
        text.push_str(&format!("; {part}"));
    }
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SHOWN).collect();
    match (kind, text.is_empty()) {
        ("", true) => "the authority says no, and not why".to_owned(),
        ("", false) => text,
        (kind, true) => kind.to_owned(),
        (kind, false) => format!("{text} ({kind})"),
    }
}

/// First and longest pause. An authority that is away is back soon.
const PASSING: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(300));
/// As Easegress waits, and longer each time: authorities count failures by name and hour.
const REFUSED: (Duration, Duration) = (Duration::from_secs(20 * 60), Duration::from_secs(6 * 3600));
/// Shortest and longest wait that an authority may ask for.
const LIMITED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(86_400));
/// The longest of all, and somewhat more, for clocks that differ a little.
const PAUSE_MOST: Duration = Duration::from_secs(86_400 + 600);
/// Characters of what an authority says that people are told.
const SHOWN: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: &str, status: u16) -> Problem {
        let text = format!(r#"{{"type": "urn:ietf:params:acme:error:{kind}", "detail": "d", "status": {status}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn what_an_authority_says_tells_what_may_help() {
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        for (kind, status, fault) in [
            ("rateLimited", 429, Fault::Limited("d (rateLimited)".into(), Some(then))),
            ("badNonce", 400, Fault::Passing("d (badNonce)".into())),
            ("serverInternal", 500, Fault::Passing("d (serverInternal)".into())),
            ("anything", 503, Fault::Limited("d (anything)".into(), Some(then))),
            ("anything", 502, Fault::Passing("d (anything)".into())),
            ("accountDoesNotExist", 400, Fault::Account("d (accountDoesNotExist)".into())),
            ("rejectedIdentifier", 400, Fault::Refused("d (rejectedIdentifier)".into())),
            ("alreadyReplaced", 409, Fault::Replaces("d (alreadyReplaced)".into())),
        ] {
            assert_eq!(Fault::of_problem(&problem(kind, status), Some(then)), fault);
        }
    }

    #[test]
    fn what_a_clock_that_was_ahead_has_put_off_is_not_waited_for() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let longest = Fault::Limited(String::new(), Some(now + Duration::from_secs(9_000_000))).pause(1, now, u64::MAX);
        for (ahead, waits) in [(Duration::ZERO, true), (longest, true), (Duration::from_secs(365 * 86_400), false)] {
            assert_eq!(Fault::again(now + ahead, now), if waits { now + ahead } else { now }, "{ahead:?}");
        }
        let past = now - Duration::from_secs(5);
        assert_eq!(Fault::again(past, now), past);
    }

    #[test]
    fn pauses_follow_what_went_wrong() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let seconds = |fault: &Fault, failures| fault.pause(failures, now, 0).as_secs();
        let passing = Fault::Passing(String::new());
        assert_eq!([1, 2, 3, 30].map(|n| seconds(&passing, n)), [2, 4, 8, 150]);
        let refused = Fault::Refused(String::new());
        assert_eq!([1, 2, 30].map(|n| seconds(&refused, n)), [600, 1200, 3 * 3600]);
        let limited = |after| Fault::Limited(String::new(), after);
        let at = |s| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(s));
        assert_eq!(seconds(&limited(at(1060)), 9), 60, "as it says, however often");
        assert_eq!(seconds(&limited(at(5)), 1), 1, "then is over");
        assert_eq!(seconds(&limited(at(1_000_000)), 1), 86_400);
        assert_eq!(seconds(&limited(None), 1), 1800);
    }
}

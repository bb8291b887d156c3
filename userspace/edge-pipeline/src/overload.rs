//! What is said of overload, to clients and to the layers before and behind: refusals that name when to come back, ranks, thresholds,
//! deadlines and repeats, in fields of HTTP and of gRPC alike.

use crate::exchange::Exchange;
use crate::grpc::{self, Code};
use proto_http::{Headers, Known};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Rank of a request, 0 to 127: which are let in first where not all can be.
pub const PRIORITY: &str = "X-Weir-Priority";

/// Of an answer: the lowest rank that is let in where it comes from.
pub const THRESHOLD: &str = "X-Weir-Threshold";

/// By when a client wants its answer: Unix time in seconds, milliseconds or as RFC 3339 has it, or how long it waits, with a unit (`250ms`).
pub const DEADLINE: &str = "X-Request-Deadline";

/// Refuses the request to keep others going: 503, or UNAVAILABLE to a client of gRPC, that may come back after so many seconds.
pub fn refuse(exchange: &mut Exchange, reason: &'static str, retry_after: u64) {
    exchange.refused = Some(reason);
    if grpc::is_grpc(&exchange.request().headers) {
        grpc::refuse(exchange.space(), Code::UNAVAILABLE, &format!("too much to do: {reason}"));
        if let Some(response) = exchange.response_mut() {
            // What clients of gRPC go by (github.com/grpc/proposal, A6-client-retries.md).
            response.headers.set("grpc-retry-pushback-ms", (retry_after * 1000).to_string());
            response.headers.set("Retry-After", retry_after.to_string());
        }
        return;
    }
    exchange.refuse(503).headers.set("Retry-After", retry_after.to_string());
}

/// Refuses the request because nobody waits for its answer any longer: 504, or DEADLINE_EXCEEDED to a client of gRPC.
pub fn refuse_late(exchange: &mut Exchange) {
    exchange.refused = Some("deadline");
    if grpc::is_grpc(&exchange.request().headers) {
        return grpc::refuse(
            exchange.space(),
            Code::DEADLINE_EXCEEDED,
            "the deadline has passed, or will before an answer",
        );
    }
    exchange.refuse(504);
}

/// Of a request that is sent again: how often it was sent before. Whoever gets one does not repeat it in turn, so that layers do not
/// multiply what clients ask.
pub const RETRY: &str = "X-Retry-Attempt";

/// What a client has said of how long it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// From when its request came.
    For(Duration),
    /// Since 1970.
    Until(Duration),
}

/// By when the client of this request wants its answer; takes note of it in the exchange, which keeps the earliest.
/// It is read once: on its way what is left shrinks. `None`: it did not say, or nothing that can be read.
pub fn note_deadline(exchange: &mut Exchange) -> Option<Instant> {
    if std::mem::replace(&mut exchange.deadline_read, true) {
        return exchange.deadline;
    }
    let started = exchange.started;
    let headers = &exchange.request().headers;
    if !headers.has_known(Known::XRequestDeadline) && !headers.has_known(Known::GrpcTimeout) {
        return exchange.deadline;
    }
    // Whoever says it twice may be heard by the next layer as the one or the other: the earliest counts, and is all that goes on.
    let said = said_deadlines(headers).filter_map(parse_deadline);
    let said = said.filter_map(|patience| match patience {
        Patience::For(most) => started.checked_add(most),
        Patience::Until(end) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            match end.checked_sub(now) {
                Some(left) => Instant::now().checked_add(left),
                None => Some(started),
            }
        }
    });
    let said = said.min();
    let grpc = match headers.text("grpc-timeout") {
        Some(text) if grpc::is_grpc(headers) => grpc::parse_timeout(text).and_then(|most| started.checked_add(most)),
        _ => None,
    };
    exchange.deadline = said.into_iter().chain(grpc).chain(exchange.deadline).min();
    exchange.deadline
}

/// Tells the next layer how long is left. A point in time stays true; a length of time does not.
pub fn pass_on_deadline(headers: &mut Headers, until: Instant, now: Instant) {
    if headers.contains("grpc-timeout") && grpc::is_grpc(headers) {
        headers.set("grpc-timeout", grpc::write_timeout(until.saturating_duration_since(now)));
    }
    let mut said = said_deadlines(headers);
    let first = said.next().and_then(parse_deadline);
    let more = said.next().is_some();
    drop(said);
    if more || matches!(first, Some(Patience::For(_))) {
        let left = until.saturating_duration_since(now);
        headers.set(DEADLINE, format!("{}ms", left.as_millis()));
    }
}

/// Every deadline that a client has written: in fields of its own, or in one with commas, which says the same (RFC 9110 section 5.3). No
/// way to write one has a comma in it.
fn said_deadlines(headers: &Headers) -> impl Iterator<Item = &str> {
    let texts = headers.known_all(Known::XRequestDeadline).map(|value| std::str::from_utf8(value).unwrap_or_default());
    texts.flat_map(|text| text.split(',')).map(str::trim).filter(|text| !text.is_empty())
}

/// Reads [`DEADLINE`].
pub fn parse_deadline(text: &str) -> Option<Patience> {
    let text = text.trim();
    let digits = text.bytes().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 || digits > 15 {
        return None;
    }
    let whole: u64 = text[..digits].parse().ok()?;
    let (fraction, unit) = match text[digits..].strip_prefix('.') {
        None => (0.0, &text[digits..]),
        Some(rest) => {
            let more = rest.bytes().take_while(|byte| byte.is_ascii_digit()).count();
            if more == 0 || more > 9 {
                return None;
            }
            (format!("0.{}", &rest[..more]).parse::<f64>().ok()?, &rest[more..])
        }
    };
    let seconds = |of_one: f64| Duration::try_from_secs_f64((whole as f64 + fraction) * of_one).ok();
    match unit {
        // Since 1970: in seconds until the year 5138, in milliseconds since March 1973.
        "" if whole < 100_000_000 => None,
        "" if whole < 100_000_000_000 => Some(Patience::Until(seconds(1.0)?)),
        "" => Some(Patience::Until(Duration::from_millis(whole))),
        "us" | "µs" => Some(Patience::For(seconds(1e-6)?)),
        "ms" => Some(Patience::For(seconds(1e-3)?)),
        "s" => Some(Patience::For(seconds(1.0)?)),
        "m" => Some(Patience::For(seconds(60.0)?)),
        "h" => Some(Patience::For(seconds(3600.0)?)),
        _ => parse_date(text).map(Patience::Until),
    }
}

/// RFC 3339 in UTC or with an offset.
fn parse_date(text: &str) -> Option<Duration> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let bytes = text.as_bytes();
    let stands = |at: usize, wanted: &[u8]| bytes.get(at).is_some_and(|byte| wanted.contains(byte));
    if !(stands(4, b"-") && stands(7, b"-") && stands(10, b"Tt ") && stands(13, b":") && stands(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let valid = (1..=12).contains(&month) && (1..=31).contains(&day);
    if !valid || !(0..24).contains(&hour) || !(0..60).contains(&minute) || !(0..=60).contains(&second) {
        return None;
    }
    let rest = text.get(19..)?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        None => (0.0, rest),
        Some(after) => {
            let more = after.bytes().take_while(|byte| byte.is_ascii_digit()).count();
            (format!("0.{}", after.get(..more)?).parse::<f64>().ok()?, after.get(more..)?)
        }
    };
    let offset = match zone.as_bytes() {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let minutes = zone.get(1..3)?.parse::<i64>().ok()? * 60 + zone.get(4..6)?.parse::<i64>().ok()?;
            if *sign == b'-' { -minutes } else { minutes }
        }
        _ => return None,
    };
    // Days since 1970 of a date of the Gregorian calendar, with years that begin in March.
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (153 * m + 2) / 5 + day - 719_469;
    let seconds = ((days * 24 + hour) * 60 + minute - offset) * 60 + second;
    Duration::try_from_secs_f64(u64::try_from(seconds).ok()? as f64 + fraction).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The next layer may hear the one or the other: the earliest counts, and is all that goes on.
    #[test]
    fn of_several_deadlines_the_earliest_counts() {
        for fields in
            [&["60s, 1s"][..], &["60s", "1s"], &["1s,60s", "soon"], &[" , 1s,, 60s"], &["2001-01-01T00:00:00Z, 1h"]]
        {
            let mut exchange = Exchange::default();
            fields.iter().for_each(|field| exchange.request_mut().headers.add(DEADLINE, field));
            let (started, until) = (exchange.started, note_deadline(&mut exchange).expect("it is told"));
            assert!(until <= started + Duration::from_secs(1), "{fields:?}");
            pass_on_deadline(&mut exchange.request_mut().headers, until, started);
            let on: Vec<_> = exchange.request().headers.values(DEADLINE).collect();
            assert_eq!(on.len(), 1, "{fields:?}");
            let on = std::str::from_utf8(on[0]).unwrap();
            assert!(matches!(parse_deadline(on), Some(Patience::For(most)) if most <= Duration::from_secs(1)), "{on}");
        }
        let mut exchange = Exchange::default();
        exchange.request_mut().headers.add(DEADLINE, "soon, later");
        assert_eq!(note_deadline(&mut exchange), None);
    }

    #[test]
    fn deadlines_are_read_in_every_way_they_are_written() {
        let (until, lasting) = (
            |ms| Some(Patience::Until(Duration::from_millis(ms))),
            |ms| Some(Patience::For(Duration::from_millis(ms))),
        );
        for (text, wanted) in [
            ("1700000000", until(1_700_000_000_000)),
            ("1700000000.5", until(1_700_000_000_500)),
            ("1700000000123", until(1_700_000_000_123)),
            ("2023-11-14T22:13:20Z", until(1_700_000_000_000)),
            ("2023-11-14T23:13:20.250+01:00", until(1_700_000_000_250)),
            ("2024-02-29T00:00:00-00:30", until(1_709_166_600_000)),
            (" 250ms ", lasting(250)),
            ("1.5s", lasting(1500)),
            ("2m", lasting(120_000)),
            ("0ms", lasting(0)),
            ("", None),
            ("12", None),
            ("-5s", None),
            ("5 parsecs", None),
            ("soon", None),
            ("99999999999999999999s", None),
            ("2023-13-14T22:13:20Z", None),
            ("2023-11-14", None),
        ] {
            assert_eq!(parse_deadline(text), wanted, "{text}");
        }
    }

    #[test]
    fn the_earliest_deadline_counts_and_lengths_shrink_on_their_way() {
        let mut exchange = Exchange::default();
        exchange.request_mut().headers.add(DEADLINE, "2s");
        let until = note_deadline(&mut exchange).unwrap();
        assert_eq!(until, exchange.started + Duration::from_secs(2));
        pass_on_deadline(&mut exchange.request_mut().headers, until, until - Duration::from_millis(700));
        assert_eq!(exchange.request().headers.text(DEADLINE), Some("700ms"));
        assert_eq!(note_deadline(&mut exchange), Some(until), "it is read once");
        exchange.deadline_read = false;
        exchange.request_mut().headers.set("grpc-timeout", "100m");
        exchange.request_mut().headers.set("Content-Type", "application/grpc");
        assert_eq!(note_deadline(&mut exchange), Some(exchange.started + Duration::from_millis(100)));
        exchange.deadline_read = false;
        exchange.request_mut().headers.set(DEADLINE, "1700000000");
        assert_eq!(note_deadline(&mut exchange), Some(exchange.started), "it has passed");
        pass_on_deadline(&mut exchange.request_mut().headers, until, until - Duration::from_millis(5));
        assert_eq!(exchange.request().headers.text("grpc-timeout"), Some("5000000n"));
        assert_eq!(exchange.request().headers.text(DEADLINE), Some("1700000000"));
        // Said twice, with what nobody can read between.
        exchange.deadline_read = false;
        exchange.request_mut().headers.remove("grpc-timeout");
        exchange.request_mut().headers.remove(DEADLINE);
        for said in [&b"-5s"[..], b"9s", b"\xff\xfe", b"3s", b"999999999999999h"] {
            exchange.request_mut().headers.add(DEADLINE, said);
        }
        exchange.deadline = None;
        let until = note_deadline(&mut exchange).unwrap();
        assert_eq!(until, exchange.started + Duration::from_secs(3));
        pass_on_deadline(&mut exchange.request_mut().headers, until, until - Duration::from_millis(5));
        assert_eq!(exchange.request().headers.values(DEADLINE).collect::<Vec<_>>(), [b"5ms"]);
    }
}

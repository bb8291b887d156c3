//! What gRPC says in heads and trailers (github.com/grpc/grpc, doc/PROTOCOL-HTTP2.md): statuses, their messages, and deadlines.
//! Messages themselves are bytes to us.

use crate::exchange::Space;
use proto_http::{Headers, Known};
use std::fmt::Write as _;
use std::time::Duration;

/// A status code of gRPC (doc/statuscodes.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(pub u16);

impl Code {
    pub const OK: Code = Code(0);
    pub const CANCELLED: Code = Code(1);
    pub const UNKNOWN: Code = Code(2);
    pub const INVALID_ARGUMENT: Code = Code(3);
    pub const DEADLINE_EXCEEDED: Code = Code(4);
    pub const NOT_FOUND: Code = Code(5);
    pub const PERMISSION_DENIED: Code = Code(7);
    pub const RESOURCE_EXHAUSTED: Code = Code(8);
    pub const FAILED_PRECONDITION: Code = Code(9);
    pub const UNIMPLEMENTED: Code = Code(12);
    pub const INTERNAL: Code = Code(13);
    pub const UNAVAILABLE: Code = Code(14);
    pub const UNAUTHENTICATED: Code = Code(16);

    /// What an answer of HTTP that is none of gRPC means to a client (doc/http-grpc-status-mapping.md).
    pub fn of_http(status: u16) -> Code {
        match status {
            400 => Code::INTERNAL,
            401 => Code::UNAUTHENTICATED,
            403 => Code::PERMISSION_DENIED,
            404 => Code::UNIMPLEMENTED,
            429 | 502 | 503 | 504 => Code::UNAVAILABLE,
            _ => Code::UNKNOWN,
        }
    }

    /// What a refusal of our own means: we know more of it than a client that is told a status of HTTP.
    pub fn of_refusal(status: u16) -> Code {
        match status {
            408 => Code::DEADLINE_EXCEEDED,
            413 | 429 | 431 => Code::RESOURCE_EXHAUSTED,
            499 => Code::CANCELLED,
            500 => Code::INTERNAL,
            // Asking again does not help before somebody changes the documents.
            508 => Code::FAILED_PRECONDITION,
            other => Code::of_http(other),
        }
    }

    /// The status of HTTP that says about the same, for whoever counts servers' failures by those. A method that is not there is the
    /// client's mistake.
    pub fn as_http(self) -> u16 {
        match self.0 {
            0 => 200,
            1 => 499,
            3 | 9 | 11 => 400,
            4 => 504,
            5 | 12 => 404,
            6 | 10 => 409,
            7 => 403,
            8 => 429,
            14 => 503,
            16 => 401,
            _ => 500,
        }
    }
}

/// Whether a message says that it is one of gRPC, in whatever encoding.
pub fn is_grpc(headers: &Headers) -> bool {
    const NAME: &[u8] = b"application/grpc";
    headers.known(Known::ContentType).is_some_and(|said| {
        said.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME))
            && matches!(said.get(NAME.len()), None | Some(b'+' | b';' | b' '))
    })
}

/// `grpc-status` of trailers, or of a head without a body.
pub fn status_of(headers: &Headers) -> Option<Code> {
    headers.text("grpc-status")?.trim().parse().ok().map(Code)
}

/// Trailers with this status.
pub fn trailers(code: Code, message: &str) -> Headers {
    let mut headers = Headers::default();
    say(&mut headers, code, message);
    headers
}

/// Answers with a status and no message ("trailers-only"), whatever was under way.
pub fn refuse(space: &mut Space, code: Code, message: &str) {
    let response = space.refuse(200);
    response.headers.set("Content-Type", "application/grpc");
    say(&mut response.headers, code, message);
}

fn say(headers: &mut Headers, code: Code, message: &str) {
    headers.set("grpc-status", code.0.to_string());
    match message {
        "" => drop(headers.remove("grpc-message")),
        message => headers.set("grpc-message", escape(message)),
    }
}

/// What is no printable ASCII, and `%`, as `%XX`.
fn escape(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            byte => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

/// Reads `grpc-timeout`: 1 to 8 digits and a unit. `None`: it is none.
pub fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Writes `grpc-timeout`, in the finest unit that has room for it; never more than there is.
pub fn write_timeout(left: Duration) -> String {
    const MOST: u128 = 99_999_999;
    for (number, unit) in [(left.as_nanos(), 'n'), (left.as_micros(), 'u'), (left.as_millis(), 'm')] {
        if number <= MOST {
            return format!("{number}{unit}");
        }
    }
    let seconds = u128::from(left.as_secs());
    for (number, unit) in [(seconds, 'S'), (seconds / 60, 'M')] {
        if number <= MOST {
            return format!("{number}{unit}");
        }
    }
    format!("{}H", (seconds / 3600).min(MOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_and_written_as_the_protocol_has_them() {
        let seconds = Duration::from_secs;
        for (text, wanted) in [
            ("1S", Some(seconds(1))),
            ("99999999H", Some(seconds(99_999_999 * 3600))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("9n", Some(Duration::from_nanos(9))),
            ("2M", Some(seconds(120))),
            ("0n", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("-1S", None),
            ("+1S", None),
            ("1.5S", None),
            ("123456789S", None),
            ("1\u{e4}", None),
        ] {
            assert_eq!(parse_timeout(text), wanted, "{text}");
        }
        for (left, wanted) in [
            (Duration::ZERO, "0n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_millis(100), "100000u"),
            (Duration::from_nanos(100_000_999), "100000u"),
            (seconds(100), "100000m"),
            (seconds(100_000), "100000S"),
            (seconds(100_000_000), "1666666M"),
            (seconds(u64::MAX), "99999999H"),
        ] {
            assert_eq!(write_timeout(left), wanted);
            assert!(parse_timeout(wanted).unwrap() <= left);
        }
    }

    #[test]
    fn a_refusal_is_an_answer_of_trailers_alone() {
        let mut space = Space::default();
        refuse(&mut space, Code::UNAVAILABLE, "100 % gr\u{fc}n\n");
        let response = space.response.as_ref().unwrap();
        assert_eq!((response.status, response.headers.text("Content-Type")), (200, Some("application/grpc")));
        assert_eq!(response.headers.text("grpc-message"), Some("100 %25 gr%C3%BCn%0A"));
        assert_eq!(status_of(&response.headers), Some(Code::UNAVAILABLE));
        refuse(&mut space, Code::INTERNAL, "");
        let response = space.response.unwrap();
        assert_eq!((response.headers.text("grpc-status"), response.headers.text("grpc-message")), (Some("13"), None));
    }

    #[test]
    fn any_encoding_is_grpc_and_other_types_are_not() {
        for (said, wanted) in [
            ("application/grpc", true),
            ("application/grpc+json", true),
            ("Application/GRPC;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let mut headers = Headers::default();
            headers.set("Content-Type", said);
            assert_eq!(is_grpc(&headers), wanted, "{said}");
        }
        assert!(!is_grpc(&Headers::default()));
    }
}

//! `traceparent` and `tracestate`, as <https://www.w3.org/TR/trace-context/> has them.

use crate::id::{SpanId, TraceId, hex, write_hex, write_trace};

/// The trace is recorded.
pub const SAMPLED: u8 = 1;

/// The trace's name is random (level 2 of the recommendation).
pub const RANDOM: u8 = 2;

/// Members of a `tracestate`; one with more is void.
const MEMBERS_MOST: usize = 32;

/// Reads a `traceparent`: the trace, the caller's span and the flags known here. Versions to come are read as far as they are this
/// one.
pub fn parse_parent(value: &[u8]) -> Option<(TraceId, SpanId, u8)> {
    let value = trim(value);
    let (head, rest) = value.split_at_checked(55)?;
    if [2, 35, 52].iter().any(|at| head[*at] != b'-') {
        return None;
    }
    let version = hex(&head[..2])?;
    let ends_well = match version {
        0xff => false,
        0 => rest.is_empty(),
        _ => rest.is_empty() || rest[0] == b'-',
    };
    if !ends_well {
        return None;
    }
    let flags = hex(&head[53..])? as u8;
    Some((TraceId::parse(&head[3..35])?, SpanId::parse(&head[36..52])?, flags & (SAMPLED | RANDOM)))
}

/// The value of a `traceparent`.
pub fn write_parent(trace: TraceId, span: SpanId, flags: u8, out: &mut Vec<u8>) {
    out.extend(b"00-");
    write_trace(trace, out);
    out.push(b'-');
    write_hex(span.0, 16, out);
    out.push(b'-');
    write_hex(flags.into(), 2, out);
}

/// The lines of a `tracestate` as one, in their order. `None`: there is nothing in it, or it breaks the rules; it is not passed on
/// then, which does not make the `traceparent` void.
pub fn join_state<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Option<String> {
    let mut members: Vec<(&str, &str)> = Vec::new();
    for line in lines {
        for member in std::str::from_utf8(line).ok()?.split(',') {
            let member = member.trim_matches([' ', '\t']);
            if member.is_empty() {
                continue;
            }
            let (key, value) = member.split_once('=')?;
            let known = members.iter().any(|(other, _)| *other == key);
            if known || members.len() == MEMBERS_MOST || !is_key(key) || !is_value(value) {
                return None;
            }
            members.push((key, value));
        }
    }
    let joined: Vec<String> = members.iter().map(|(key, value)| format!("{key}={value}")).collect();
    (!joined.is_empty()).then(|| joined.join(","))
}

/// `key`, or `tenant@system`.
fn is_key(key: &str) -> bool {
    let letters = |text: &str| text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/'));
    let begins = |text: &str, digits: bool| {
        text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || digits && b.is_ascii_digit())
    };
    match key.split_once('@') {
        None => key.len() <= 256 && begins(key, true) && letters(key),
        Some((tenant, system)) => {
            let tenant_is_good = tenant.len() <= 241 && begins(tenant, true) && letters(tenant);
            tenant_is_good && system.len() <= 14 && begins(system, false) && letters(system)
        }
    }
}

fn is_value(value: &str) -> bool {
    (1..=256).contains(&value.len())
        && value.bytes().all(|b| (0x20..=0x7e).contains(&b) && b != b',' && b != b'=')
        && !value.ends_with(' ')
}

fn trim(value: &[u8]) -> &[u8] {
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let start = value.iter().position(|b| !blank(b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !blank(b)).map_or(start, |at| at + 1);
    &value[start..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "12345678901234567890123456789012";

    fn parent(text: &str) -> Option<String> {
        parse_parent(text.as_bytes()).map(|(trace, span, flags)| format!("{trace} {span} {flags}"))
    }

    /// The forms that the suite of w3c/trace-context asks about.
    #[test]
    fn parents() {
        let good = Some(format!("{TRACE} 1234567890123456 1"));
        for text in [
            "00-12345678901234567890123456789012-1234567890123456-01",
            "cc-12345678901234567890123456789012-1234567890123456-01",
            "cc-12345678901234567890123456789012-1234567890123456-01-what-the-future-will-be-like",
            " 00-12345678901234567890123456789012-1234567890123456-01",
            "\t 00-12345678901234567890123456789012-1234567890123456-01 \t",
        ] {
            assert_eq!(parent(text), good, "{text}");
        }
        for text in [
            "",
            "00",
            "00-12345678901234567890123456789012-1234567890123456-01.",
            "00-12345678901234567890123456789012-1234567890123456-01-what-the-future-will-be-like",
            "cc-12345678901234567890123456789012-1234567890123456-01.what-the-future-will-be-like",
            "ff-12345678901234567890123456789012-1234567890123456-01",
            ".0-12345678901234567890123456789012-1234567890123456-01",
            "0.-12345678901234567890123456789012-1234567890123456-01",
            "000-12345678901234567890123456789012-1234567890123456-01",
            "0-12345678901234567890123456789012-1234567890123456-01",
            "00-00000000000000000000000000000000-1234567890123456-01",
            "00-.2345678901234567890123456789012-1234567890123456-01",
            "00-1234567890123456789012345678901.-1234567890123456-01",
            "00-123456789012345678901234567890123-1234567890123456-01",
            "00-1234567890123456789012345678901-1234567890123456-01",
            "00-12345678901234567890123456789012-0000000000000000-01",
            "00-12345678901234567890123456789012-.234567890123456-01",
            "00-12345678901234567890123456789012-12345678901234567-01",
            "00-12345678901234567890123456789012-123456789012345-01",
            "00-12345678901234567890123456789012-1234567890123456-.0",
            "00-12345678901234567890123456789012-1234567890123456-0.",
            "00-12345678901234567890123456789012-1234567890123456-001",
            "00-12345678901234567890123456789012-1234567890123456-1",
            "00-1234567890123456789012345678901A-1234567890123456-01",
            "00-12345678901234567890123456789012_1234567890123456-01",
        ] {
            assert_eq!(parent(text), None, "{text}");
        }
        // Flags nobody knows are not passed on.
        assert_eq!(
            parent("00-12345678901234567890123456789012-1234567890123456-ff").unwrap(),
            format!("{TRACE} 1234567890123456 3")
        );
        let mut out = Vec::new();
        write_parent(TraceId::parse(TRACE.as_bytes()).unwrap(), SpanId(0xa), RANDOM, &mut out);
        assert_eq!(out, format!("00-{TRACE}-000000000000000a-02").as_bytes());
    }

    fn state(lines: &[&str]) -> Option<String> {
        join_state(lines.iter().map(|line| line.as_bytes()))
    }

    #[test]
    fn states() {
        let many = |count: usize| (0..count).map(|n| format!("bar{n:02}={n}")).collect::<Vec<_>>().join(",");
        let letters = "abcdefghijklmnopqrstuvwxyz0123456789_-*/";
        let value: String = (0x20..=0x7eu8).map(char::from).filter(|c| !matches!(c, ',' | '=')).collect();
        for (lines, joined) in [
            (&["foo=1,bar=2"][..], "foo=1,bar=2".to_owned()),
            (&["foo=1", ""], "foo=1".to_owned()),
            (&["", "foo=1"], "foo=1".to_owned()),
            (&["foo=1,bar=2", "rojo=1,congo=2", "baz=3"], "foo=1,bar=2,rojo=1,congo=2,baz=3".to_owned()),
            (&["foo=1 \t , \t bar=2, \t baz=3"], "foo=1,bar=2,baz=3".to_owned()),
            (&["\t foo=1 \t"], "foo=1".to_owned()),
            (&[&format!("{letters}={value}")], format!("{letters}={value}")),
            (&[&format!("{letters}@a-z0-9_-*/={value}")], format!("{letters}@a-z0-9_-*/={value}")),
            (&[&many(32)], many(32)),
            (&["foo=1", &format!("{}=1", "z".repeat(256))], format!("foo=1,{}=1", "z".repeat(256))),
            (
                &[&format!("{}@{}=1", "t".repeat(241), "v".repeat(14))],
                format!("{}@{}=1", "t".repeat(241), "v".repeat(14)),
            ),
        ] {
            assert_eq!(state(lines), Some(joined), "{lines:?}");
        }
        for lines in [
            &[][..],
            &[""],
            &["foo=1,foo=1"],
            &["foo=1", "foo=2"],
            &["foo =1"],
            &["FOO=1"],
            &["foo.bar=1"],
            &["foo@=1,bar=2"],
            &["@foo=1,bar=2"],
            &["foo@@bar=1,bar=2"],
            &["foo@bar@baz=1,bar=2"],
            &[&many(33)],
            &["foo=1", &format!("{}=1", "z".repeat(257))],
            &["foo=1", &format!("{}@v=1", "t".repeat(242))],
            &["foo=1", &format!("t@{}=1", "v".repeat(15))],
            &["foo=bar=baz"],
            &["foo=,bar=3"],
            &["foo"],
            &[&format!("foo={}", "v".repeat(257))],
        ] {
            assert_eq!(state(lines), None, "{lines:?}");
        }
    }
}

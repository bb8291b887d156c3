//! B3, Zipkin's own fields: one (`b3`) or several (`X-B3-…`), as <https://github.com/openzipkin/b3-propagation> has them.

use crate::id::{SpanId, TraceId, write_hex, write_trace};

/// What the fields say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct B3 {
    /// `None`: the caller has decided, and begins no trace of its own.
    pub parent: Option<(TraceId, SpanId)>,
    pub decision: Decision,
}

/// What the caller has decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: whoever reads it decides.
    #[default]
    Deferred,
    Recorded(bool),
    /// Recorded, whatever anybody else would decide.
    Debug,
}

/// Reads a `b3` field.
pub fn parse_single(value: &[u8]) -> Option<B3> {
    let mut parts = value.trim_ascii().split(|b| *b == b'-');
    let first = parts.next()?;
    let Some(span) = parts.next() else {
        return Some(B3 { parent: None, decision: decision(first)? });
    };
    let parent = Some((TraceId::parse(first)?, SpanId::parse(span)?));
    let decided = parts.next().map_or(Some(Decision::Deferred), decision)?;
    if let Some(grandparent) = parts.next() {
        SpanId::parse(grandparent)?;
    }
    parts.next().is_none().then_some(B3 { parent, decision: decided })
}

/// The fields of the long form, each as it came.
#[derive(Debug, Clone, Copy, Default)]
pub struct Long<'a> {
    pub trace: Option<&'a [u8]>,
    pub span: Option<&'a [u8]>,
    pub sampled: Option<&'a [u8]>,
    pub flags: Option<&'a [u8]>,
}

impl Long<'_> {
    /// Reads them. `None`: there are none, or they break the rules.
    pub fn parse(&self) -> Option<B3> {
        let decided = match (self.flags.map(<[u8]>::trim_ascii), self.sampled.map(<[u8]>::trim_ascii)) {
            (Some(b"1"), _) => Decision::Debug,
            (_, None) => Decision::Deferred,
            // As older senders write it.
            (_, Some(b"true")) => Decision::Recorded(true),
            (_, Some(b"false")) => Decision::Recorded(false),
            (_, Some(b"d")) => return None,
            (_, Some(other)) => decision(other)?,
        };
        match (self.trace, self.span) {
            (Some(trace), Some(span)) => {
                let parent = (TraceId::parse(trace.trim_ascii())?, SpanId::parse(span.trim_ascii())?);
                Some(B3 { parent: Some(parent), decision: decided })
            }
            (None, None) if decided != Decision::Deferred => Some(B3 { parent: None, decision: decided }),
            _ => None,
        }
    }
}

/// The value of a `b3` field.
pub fn write_single(trace: TraceId, span: SpanId, decision: Decision, out: &mut Vec<u8>) {
    write_trace(trace, out);
    out.push(b'-');
    write_hex(span.0, 16, out);
    out.extend_from_slice(match decision {
        Decision::Deferred => b"",
        Decision::Recorded(true) => b"-1",
        Decision::Recorded(false) => b"-0",
        Decision::Debug => b"-d",
    });
}

fn decision(text: &[u8]) -> Option<Decision> {
    match text {
        b"0" => Some(Decision::Recorded(false)),
        b"1" => Some(Decision::Recorded(true)),
        b"d" => Some(Decision::Debug),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";
    const SPAN: &str = "e457b5a2e4d86bd1";

    fn ids(trace: &str) -> Option<(TraceId, SpanId)> {
        Some((TraceId::parse(trace.as_bytes()).unwrap(), SpanId::parse(SPAN.as_bytes()).unwrap()))
    }

    #[test]
    fn one_field() {
        for (text, parent, decision) in [
            (format!("{TRACE}-{SPAN}"), ids(TRACE), Decision::Deferred),
            (format!("{TRACE}-{SPAN}-1"), ids(TRACE), Decision::Recorded(true)),
            (format!("{TRACE}-{SPAN}-0"), ids(TRACE), Decision::Recorded(false)),
            (format!("{TRACE}-{SPAN}-d-05e3ac9a4f6e3b90"), ids(TRACE), Decision::Debug),
            (format!("64fe8b2a57d3eff7-{SPAN}-1"), ids("64fe8b2a57d3eff7"), Decision::Recorded(true)),
            ("0".into(), None, Decision::Recorded(false)),
            ("1".into(), None, Decision::Recorded(true)),
            ("d".into(), None, Decision::Debug),
        ] {
            assert_eq!(parse_single(text.as_bytes()), Some(B3 { parent, decision }), "{text}");
        }
        for text in [
            "",
            "2",
            "-",
            "true",
            "80f198ee",
            &format!("{TRACE}-"),
            &format!("{TRACE}-{SPAN}-"),
            &format!("{TRACE}-{SPAN}-x"),
            &format!("{TRACE}-{SPAN}-1-1"),
            &format!("{TRACE}-{SPAN}-1-{SPAN}-"),
            &format!("{}-{SPAN}", TRACE.to_uppercase()),
            &format!("{}-{SPAN}", "0".repeat(32)),
            &format!("{TRACE}-0000000000000000"),
            &format!("{TRACE}0-{SPAN}"),
        ] {
            assert_eq!(parse_single(text.as_bytes()), None, "{text}");
        }
        let (trace, span) = ids(TRACE).unwrap();
        let mut out = Vec::new();
        write_single(trace, span, Decision::Recorded(true), &mut out);
        assert_eq!(out, format!("{TRACE}-{SPAN}-1").as_bytes());
    }

    #[test]
    fn several_fields() {
        let long = |trace, span, sampled, flags| {
            let bytes = |text: Option<&'static str>| text.map(str::as_bytes);
            Long { trace: bytes(trace), span: bytes(span), sampled: bytes(sampled), flags: bytes(flags) }.parse()
        };
        let whole = |decision| Some(B3 { parent: ids(TRACE), decision });
        let (trace, span) = (Some(TRACE), Some(SPAN));
        assert_eq!(long(trace, span, Some("1"), None), whole(Decision::Recorded(true)));
        assert_eq!(long(trace, span, Some("false"), None), whole(Decision::Recorded(false)));
        assert_eq!(long(trace, span, None, None), whole(Decision::Deferred));
        assert_eq!(long(trace, span, Some("0"), Some("1")), whole(Decision::Debug));
        assert_eq!(long(trace, span, None, Some("0")), whole(Decision::Deferred));
        let alone = |decision| Some(B3 { parent: None, decision });
        assert_eq!(long(None, None, Some("0"), None), alone(Decision::Recorded(false)));
        for (trace, span, sampled) in [
            (None, None, None),
            (trace, None, Some("1")),
            (None, span, None),
            (Some("x"), span, None),
            (trace, span, Some("d")),
        ] {
            assert_eq!(long(trace, span, sampled, None), None);
        }
    }
}

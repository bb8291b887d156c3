//! Whose trace a request belongs to, and how those who are asked next hear of it.
//!
//! Every form is read, whichever a server is told to write. Written are that form and those a request came with, so that a caller's
//! backends read on what they have read so far.

use crate::b3::{self, Decision};
use crate::id::{SpanId, TraceId, write_hex, write_trace};
use crate::w3c;
use proto_http::Headers;

/// Forms of a context in header fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Formats(u8);

impl Formats {
    pub const NONE: Formats = Formats(0);
    /// `traceparent` and `tracestate`.
    pub const W3C: Formats = Formats(1);
    /// `b3`.
    pub const B3: Formats = Formats(2);
    /// `X-B3-…`.
    pub const B3_LONG: Formats = Formats(4);

    pub const fn and(self, other: Formats) -> Formats {
        Formats(self.0 | other.0)
    }

    pub const fn has(self, other: Formats) -> bool {
        self.0 & other.0 != 0
    }
}

/// What a request says of its trace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Incoming {
    /// The trace and the caller's span. `None`: a trace begins here.
    pub parent: Option<(TraceId, SpanId)>,
    /// Whether the caller records it; `None`: it does not say.
    pub sampled: Option<bool>,
    /// It is to be recorded whatever anybody would decide.
    pub debug: bool,
    /// The trace's name is random.
    pub random: bool,
    /// `tracestate`, in one line.
    pub state: Option<Box<str>>,
    /// The forms that fields were there of, good ones or not.
    pub formats: Formats,
}

/// Reads the fields of a request. Those of `first` count before others; several `traceparent` lines are void, as is a `tracestate`
/// without a good one.
pub fn extract(headers: &Headers, first: Formats) -> Incoming {
    let (mut parents, mut states, mut single, mut long) = (0, Vec::new(), None, b3::Long::default());
    let (mut parent, mut formats) = (None, Formats::NONE);
    for (name, value, _) in headers.iter() {
        // Nearly no field has one of these lengths and letters.
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        match name.len() {
            2 if is("b3") => {
                single = Some(value);
                formats = formats.and(Formats::B3);
            }
            11 if is("traceparent") => {
                parents += 1;
                parent = w3c::parse_parent(value);
                formats = formats.and(Formats::W3C);
            }
            10 if is("tracestate") => {
                states.push(value);
                formats = formats.and(Formats::W3C);
            }
            10..=17 if name.len() > 5 && name[..5].eq_ignore_ascii_case(b"x-b3-") => {
                let place = match name[5..].to_ascii_lowercase().as_slice() {
                    b"traceid" => &mut long.trace,
                    b"spanid" => &mut long.span,
                    b"sampled" => &mut long.sampled,
                    b"flags" => &mut long.flags,
                    _ => continue,
                };
                *place = Some(value);
                formats = formats.and(Formats::B3_LONG);
            }
            _ => {}
        }
    }
    if formats == Formats::NONE {
        return Incoming::default();
    }
    let of_w3c = || {
        let (trace, span, flags) = parent.filter(|_| parents == 1)?;
        Some(Incoming {
            parent: Some((trace, span)),
            sampled: Some(flags & w3c::SAMPLED != 0),
            random: flags & w3c::RANDOM != 0,
            state: w3c::join_state(states.iter().copied()).map(String::into_boxed_str),
            formats,
            ..Incoming::default()
        })
    };
    let of_b3 = || {
        let said = single.and_then(b3::parse_single).or_else(|| long.parse())?;
        Some(Incoming {
            parent: said.parent,
            sampled: match said.decision {
                Decision::Deferred => None,
                Decision::Recorded(recorded) => Some(recorded),
                Decision::Debug => Some(true),
            },
            debug: said.decision == Decision::Debug,
            formats,
            ..Incoming::default()
        })
    };
    let found = if first.has(Formats::W3C) { of_w3c().or_else(of_b3) } else { of_b3().or_else(of_w3c) };
    found.unwrap_or(Incoming { formats, ..Incoming::default() })
}

/// What is told to those who are asked.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    pub trace: TraceId,
    /// The span they are asked from.
    pub span: SpanId,
    pub sampled: bool,
    pub debug: bool,
    pub random: bool,
    pub state: Option<&'a str>,
    pub formats: Formats,
}

/// Writes the fields of a request, in place of those it came with.
pub fn inject(headers: &mut Headers, context: &Outgoing<'_>) {
    let mut value = Vec::with_capacity(64);
    if context.formats.has(Formats::W3C) {
        let random = if context.random { w3c::RANDOM } else { 0 };
        let flags = random | if context.sampled { w3c::SAMPLED } else { 0 };
        w3c::write_parent(context.trace, context.span, flags, &mut value);
        headers.set("traceparent", &value);
        match context.state {
            Some(state) => headers.set("tracestate", state),
            None => drop(headers.remove("tracestate")),
        }
    }
    let decision = if context.debug { Decision::Debug } else { Decision::Recorded(context.sampled) };
    if context.formats.has(Formats::B3) {
        value.clear();
        b3::write_single(context.trace, context.span, decision, &mut value);
        headers.set("b3", &value);
    }
    if context.formats.has(Formats::B3_LONG) {
        value.clear();
        write_trace(context.trace, &mut value);
        headers.set("X-B3-TraceId", &value);
        value.clear();
        write_hex(context.span.0, 16, &mut value);
        headers.set("X-B3-SpanId", &value);
        headers.remove("X-B3-ParentSpanId");
        // Debug says more than sampled, which is left out beside it.
        let (unset, set, value) = match decision {
            Decision::Debug => ("X-B3-Sampled", "X-B3-Flags", "1"),
            _ => ("X-B3-Flags", "X-B3-Sampled", if context.sampled { "1" } else { "0" }),
        };
        headers.remove(unset);
        headers.set(set, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "12345678901234567890123456789012";
    const OTHER: &str = "80f198ee56343ba864fe8b2a57d3eff7";
    const SPAN: &str = "1234567890123456";

    fn headers(lines: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::new();
        headers.add("Host", "a");
        lines.iter().for_each(|(name, value)| headers.add(name, value));
        headers
    }

    fn trace(lines: &[(&str, &str)], first: Formats) -> Option<String> {
        extract(&headers(lines), first).parent.map(|(trace, _)| trace.to_string())
    }

    #[test]
    fn every_form_is_read_and_the_server_s_own_counts_first() {
        let parent = format!("00-{TRACE}-{SPAN}-01");
        let single = format!("{OTHER}-{SPAN}-0");
        let both = [("TraceParent", parent.as_str()), ("B3", &single)];
        assert_eq!(trace(&both, Formats::W3C).as_deref(), Some(TRACE));
        assert_eq!(trace(&both, Formats::B3).as_deref(), Some(OTHER));
        assert_eq!(trace(&both[..1], Formats::B3).as_deref(), Some(TRACE));
        assert_eq!(trace(&both[1..], Formats::W3C).as_deref(), Some(OTHER));
        let long = [("x-b3-traceid", OTHER), ("X-B3-SpanId", SPAN), ("X-B3-Sampled", "1")];
        let found = extract(&headers(&long), Formats::W3C);
        assert_eq!((found.sampled, found.formats, found.debug), (Some(true), Formats::B3_LONG, false));
        assert_eq!(trace(&long, Formats::W3C).as_deref(), Some(OTHER));
        // A bad one of one's own gives way to a good one of another.
        assert_eq!(trace(&[("traceparent", "00-bad"), ("b3", &single)], Formats::W3C).as_deref(), Some(OTHER));
        assert_eq!(extract(&headers(&[]), Formats::W3C), Incoming::default());
    }

    #[test]
    fn several_parents_are_void_and_a_state_does_not_stand_alone() {
        let parent = format!("00-{TRACE}-{SPAN}-01");
        let twice = [("traceparent", parent.as_str()), ("traceparent", &parent), ("tracestate", "a=1")];
        let found = extract(&headers(&twice), Formats::W3C);
        assert_eq!((found.parent, found.state, found.formats), (None, None, Formats::W3C));
        let alone = extract(&headers(&[("tracestate", "foo=1")]), Formats::W3C);
        assert_eq!((alone.parent, alone.state), (None, None));
        let lines = [("traceparent", parent.as_str()), ("tracestate", "a=1"), ("X-Other", "x"), ("tracestate", "b=2")];
        assert_eq!(extract(&headers(&lines), Formats::W3C).state.as_deref(), Some("a=1,b=2"));
        let bad = [("traceparent", parent.as_str()), ("tracestate", "a=1,a=2")];
        let found = extract(&headers(&bad), Formats::W3C);
        assert_eq!((found.parent.is_some(), found.state), (true, None));
    }

    #[test]
    fn what_came_is_replaced() {
        let outgoing = |formats, debug| Outgoing {
            trace: TraceId::parse(OTHER.as_bytes()).unwrap(),
            span: SpanId(0xab),
            sampled: true,
            debug,
            random: false,
            state: None,
            formats,
        };
        let came = [
            ("traceparent", "00-bad"),
            ("tracestate", "a=1"),
            ("traceparent", "00-worse"),
            ("X-B3-TraceId", TRACE),
            ("X-B3-ParentSpanId", SPAN),
            ("X-B3-Sampled", "0"),
        ];
        let mut fields = headers(&came);
        inject(&mut fields, &outgoing(Formats::W3C.and(Formats::B3_LONG).and(Formats::B3), true));
        let told: Vec<String> = fields
            .iter()
            .skip(1)
            .map(|(n, v, _)| format!("{}: {}", String::from_utf8_lossy(n), String::from_utf8_lossy(v)))
            .collect();
        let mut wanted = [
            format!("traceparent: 00-{OTHER}-00000000000000ab-01"),
            format!("b3: {OTHER}-00000000000000ab-d"),
            format!("X-B3-TraceId: {OTHER}"),
            "X-B3-SpanId: 00000000000000ab".to_owned(),
            "X-B3-Flags: 1".to_owned(),
        ];
        let mut sorted = told.clone();
        sorted.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(sorted, wanted, "{told:?}");
        // What is written is read again.
        for format in [Formats::W3C, Formats::B3, Formats::B3_LONG] {
            let mut fields = headers(&[]);
            inject(&mut fields, &outgoing(format, false));
            let found = extract(&fields, Formats::W3C);
            assert_eq!(found.parent, Some((TraceId::parse(OTHER.as_bytes()).unwrap(), SpanId(0xab))));
            assert_eq!((found.sampled, found.formats), (Some(true), format));
        }
    }
}

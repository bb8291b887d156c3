//! What is written down of one request.

use crate::id::{SpanId, TraceId};
use crate::propagation::{Formats, Outgoing};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

/// Spans of one request, at most; further ones are counted.
pub const SPANS_MOST: usize = 256;

/// Bounds of one span. Attributes beyond them are counted, values beyond them are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanLimits {
    /// Attributes of a span.
    pub attributes: usize,
    /// Length of a text, in characters.
    pub value_chars: usize,
    /// Events of a span; the oldest go.
    pub events: usize,
    /// Attributes of an event.
    pub event_attributes: usize,
}

impl Default for SpanLimits {
    /// OpenTelemetry's.
    fn default() -> SpanLimits {
        SpanLimits { attributes: 128, value_chars: usize::MAX, events: 128, event_attributes: 128 }
    }
}

/// Who does what a span tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// A step within this machine.
    Internal,
    /// A request that was served.
    Server,
    /// A request that was made.
    Client,
}

/// A value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Text(Cow<'static, str>),
    Shared(Arc<str>),
    Number(i64),
    Flag(bool),
}

impl Value {
    /// The text, where it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            Value::Shared(text) => Some(text),
            Value::Number(_) | Value::Flag(_) => None,
        }
    }
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Value {
        Value::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(Cow::Owned(text))
    }
}

impl From<Arc<str>> for Value {
    fn from(text: Arc<str>) -> Value {
        Value::Shared(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Number(number)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Value {
        Value::Flag(flag)
    }
}

/// A name and a value.
pub type Attribute = (&'static str, Value);

/// Something that happened at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub name: &'static str,
    /// In nanoseconds since 1970.
    pub at: u64,
    pub attributes: Vec<Attribute>,
    pub dropped_attributes: u32,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub id: SpanId,
    /// `None`: the trace begins with it.
    pub parent: Option<SpanId>,
    pub name: Arc<str>,
    pub kind: SpanKind,
    /// In nanoseconds since 1970.
    pub began: u64,
    /// As `began`; 0 while it goes on.
    pub ended: u64,
    pub attributes: Vec<Attribute>,
    pub dropped_attributes: u32,
    pub events: Vec<Event>,
    pub dropped_events: u32,
    pub failed: bool,
}

/// Where a recording stands in the order of spans, see [`Recording::begin`].
#[derive(Debug, Clone, Copy)]
pub struct Begun {
    span: Option<usize>,
    /// The span that was the innermost before.
    around: usize,
}

/// See [`Recording::reserve`].
#[derive(Debug, Clone, Copy)]
pub struct Reserved {
    pub id: SpanId,
    around: usize,
}

/// The spans of a request. The first one is that of the request itself, and is there from the beginning.
#[derive(Debug)]
pub struct Recording {
    pub trace: TraceId,
    /// `tracestate` of the caller.
    pub state: Option<Box<str>>,
    /// Those who are asked are told to record.
    pub sampled: bool,
    pub debug: bool,
    pub random: bool,
    pub formats: Formats,
    /// Spans there was no room for.
    pub dropped: u32,
    limits: SpanLimits,
    /// The same moment on both clocks.
    clock: (Instant, u64),
    seed: u64,
    spans: Vec<Span>,
    /// The innermost span that goes on.
    within: usize,
}

/// What a recording begins with.
#[derive(Debug)]
pub struct Beginning {
    pub trace: TraceId,
    /// The caller's span.
    pub parent: Option<SpanId>,
    pub state: Option<Box<str>>,
    pub sampled: bool,
    pub debug: bool,
    pub random: bool,
    pub formats: Formats,
    pub limits: SpanLimits,
    /// The name of the request's span.
    pub name: Arc<str>,
    pub span: SpanId,
    /// When the request began, on both clocks, the second in nanoseconds since 1970.
    pub clock: (Instant, u64),
    /// A random number, of which the names of spans are made.
    pub seed: u64,
}

impl Recording {
    pub fn new(beginning: Beginning) -> Recording {
        let Beginning { trace, parent, state, sampled, debug, random, formats, limits, name, span, clock, seed } =
            beginning;
        let mut spans = Vec::with_capacity(8);
        spans.push(Span::new(span, parent, name, SpanKind::Server, clock.1));
        Recording { trace, state, sampled, debug, random, formats, dropped: 0, limits, clock, seed, spans, within: 0 }
    }

    /// A step begins within the innermost one, and is the innermost until it [ends](Recording::end).
    pub fn begin(&mut self, name: &Arc<str>, kind: SpanKind, now: Instant) -> Begun {
        let begun = self.begin_beside(name, kind, now);
        self.within = begun.span.unwrap_or(self.within);
        begun
    }

    /// A step begins within the innermost one; others may begin and end while it goes on.
    pub fn begin_beside(&mut self, name: &Arc<str>, kind: SpanKind, now: Instant) -> Begun {
        let around = self.within;
        if self.spans.len() >= SPANS_MOST {
            self.dropped += 1;
            return Begun { span: None, around };
        }
        let (id, parent, at) = (self.next_id(), self.spans.get(around).map(|span| span.id), self.at(now));
        self.spans.push(Span::new(id, parent, name.clone(), kind, at));
        Begun { span: Some(self.spans.len() - 1), around }
    }

    /// A step of somebody else's that went before the request and led to it: it is the parent of the request's span.
    pub fn came_through(&mut self, name: &Arc<str>, began: u64) -> Begun {
        let id = self.next_id();
        let parent = self.spans.first_mut().and_then(|request| request.parent.replace(id));
        self.spans.push(Span::new(id, parent, name.clone(), SpanKind::Internal, began));
        Begun { span: Some(self.spans.len() - 1), around: self.within }
    }

    /// A step that may begin beside others while nobody can write it down here: its name is known ahead, so that whoever is asked in
    /// it can be told.
    pub fn reserve(&mut self) -> Reserved {
        Reserved { id: self.next_id(), around: self.within }
    }

    /// A step that was [reserved](Recording::reserve) had begun.
    pub fn begin_reserved(&mut self, reserved: Reserved, name: &Arc<str>, kind: SpanKind, began: Instant) -> Begun {
        let Reserved { id, around } = reserved;
        if self.spans.len() >= SPANS_MOST {
            self.dropped += 1;
            return Begun { span: None, around };
        }
        let (parent, at) = (self.spans.get(around).map(|span| span.id), self.at(began));
        self.spans.push(Span::new(id, parent, name.clone(), kind, at));
        Begun { span: Some(self.spans.len() - 1), around }
    }

    /// A recording of its own for what goes on beside others within the innermost step, which cannot write it down here; its first span
    /// is that step's.
    pub fn branch(&mut self, name: &Arc<str>, now: Instant) -> Recording {
        let (id, parent, at) = (self.next_id(), self.spans.get(self.within).map(|span| span.id), self.at(now));
        Recording {
            trace: self.trace,
            state: self.state.clone(),
            sampled: self.sampled,
            debug: self.debug,
            random: self.random,
            formats: self.formats,
            dropped: 0,
            limits: self.limits,
            clock: self.clock,
            seed: self.next_id().0,
            spans: vec![Span::new(id, parent, name.clone(), SpanKind::Internal, at)],
            within: 0,
        }
    }

    /// Takes the spans of a [`branch`](Recording::branch) that is over.
    pub fn absorb(&mut self, branch: Recording) {
        let room = SPANS_MOST.saturating_sub(self.spans.len());
        self.dropped += branch.dropped + branch.spans.len().saturating_sub(room) as u32;
        self.spans.extend(branch.spans.into_iter().take(room));
    }

    /// Whoever is still being asked is not listened to any longer.
    pub fn give_up(&mut self, why: &'static str, now: Instant) {
        let (at, limits) = (self.at(now), self.limits);
        for span in self.spans.iter_mut().filter(|span| span.kind == SpanKind::Client && span.ended == 0) {
            (span.ended, span.failed) = (at, true);
            span.set(&limits, "error.type", why.into());
        }
    }

    /// A step is over, and with it those within it.
    pub fn end(&mut self, begun: Begun, now: Instant) {
        let at = self.at(now);
        if let Some(span) = begun.span.and_then(|span| self.spans.get_mut(span)) {
            span.ended = at;
            // One that was beside others was never the innermost.
            if begun.span == Some(self.within) {
                self.within = begun.around;
            }
        }
    }

    /// Says something of a step.
    pub fn set(&mut self, begun: Begun, key: &'static str, value: impl Into<Value>) {
        let limits = self.limits;
        if let Some(span) = begun.span.and_then(|span| self.spans.get_mut(span)) {
            span.set(&limits, key, value.into());
        }
    }

    /// A step has failed; `kind` says how, in a word (`error.type`).
    pub fn fail(&mut self, begun: Begun, kind: impl Into<Value>) {
        if let Some(span) = begun.span.and_then(|span| self.spans.get_mut(span)) {
            span.failed = true;
        }
        self.set(begun, "error.type", kind);
    }

    /// Something happened in a step.
    pub fn happened(
        &mut self,
        begun: Begun,
        name: &'static str,
        now: Instant,
        attributes: impl IntoIterator<Item = Attribute>,
    ) {
        let (at, limits) = (self.at(now), self.limits);
        if let Some(span) = begun.span.and_then(|span| self.spans.get_mut(span)) {
            span.happened(&limits, name, at, attributes);
        }
    }

    /// The request's own span.
    pub fn request(&self) -> Begun {
        Begun { span: Some(0), around: 0 }
    }

    /// The request is over: so is whatever goes on.
    pub fn close(&mut self, now: Instant) {
        let at = self.at(now);
        for span in self.spans.iter_mut().filter(|span| span.ended == 0) {
            span.ended = at;
        }
        self.within = 0;
    }

    /// What is told to somebody who is asked in this step.
    pub fn outgoing(&self, begun: Begun) -> Outgoing<'_> {
        let span = begun.span.or(Some(begun.around)).and_then(|at| self.spans.get(at));
        self.outgoing_as(span.map_or(SpanId(1), |span| span.id))
    }

    /// As [`outgoing`](Recording::outgoing), in a step by its name.
    pub fn outgoing_as(&self, span: SpanId) -> Outgoing<'_> {
        Outgoing {
            trace: self.trace,
            span,
            sampled: self.sampled,
            debug: self.debug,
            random: self.random,
            state: self.state.as_deref(),
            formats: self.formats,
        }
    }

    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// A moment in nanoseconds since 1970.
    fn at(&self, now: Instant) -> u64 {
        let (then, at) = self.clock;
        let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        match now.checked_duration_since(then) {
            Some(since) => at.saturating_add(nanos(since)),
            None => at.saturating_sub(nanos(then - now)),
        }
    }

    /// SplitMix64.
    fn next_id(&mut self) -> SpanId {
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.seed;
        x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        SpanId::of(x ^ x >> 31)
    }
}

impl Span {
    fn new(id: SpanId, parent: Option<SpanId>, name: Arc<str>, kind: SpanKind, began: u64) -> Span {
        Span {
            id,
            parent,
            name,
            kind,
            began,
            ended: 0,
            attributes: Vec::new(),
            dropped_attributes: 0,
            events: Vec::new(),
            dropped_events: 0,
            failed: false,
        }
    }

    /// What is said of it under this name.
    pub fn attribute(&self, key: &str) -> Option<&Value> {
        self.attributes.iter().find(|(known, _)| *known == key).map(|(_, value)| value)
    }

    fn set(&mut self, limits: &SpanLimits, key: &'static str, value: Value) {
        let value = cut(value, limits.value_chars);
        match self.attributes.iter().position(|(known, _)| *known == key) {
            Some(at) => self.attributes[at].1 = value,
            None if self.attributes.len() >= limits.attributes => self.dropped_attributes += 1,
            None => self.attributes.push((key, value)),
        }
    }

    fn happened(&mut self, limits: &SpanLimits, name: &'static str, at: u64, all: impl IntoIterator<Item = Attribute>) {
        if self.events.len() >= limits.events {
            self.dropped_events += 1;
            if limits.events == 0 {
                return;
            }
            self.events.remove(0);
        }
        let (mut attributes, mut dropped_attributes) = (Vec::new(), 0);
        for (key, value) in all {
            match attributes.len() < limits.event_attributes {
                true => attributes.push((key, cut(value, limits.value_chars))),
                false => dropped_attributes += 1,
            }
        }
        self.events.push(Event { name, at, attributes, dropped_attributes });
    }
}

/// What a format without a place of its own for what bounds have cost says of it, as OpenTelemetry has it for all of them: names and
/// numbers, where there is something.
pub fn lost(attributes: u32, events: u32) -> impl Iterator<Item = (&'static str, i64)> + Clone {
    let all = [("otel.dropped_attributes_count", attributes), ("otel.dropped_events_count", events)];
    all.into_iter().filter(|(_, count)| *count > 0).map(|(key, count)| (key, count.into()))
}

fn cut(value: Value, chars: usize) -> Value {
    match value.text().and_then(|text| text.char_indices().nth(chars).map(|(end, _)| text[..end].to_owned())) {
        Some(shorter) => shorter.into(),
        None => value,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::time::Duration;

    pub fn recording(limits: SpanLimits) -> (Recording, Instant) {
        let now = Instant::now();
        let recording = Recording::new(Beginning {
            trace: TraceId(0xabc),
            parent: Some(SpanId(7)),
            state: None,
            sampled: true,
            debug: false,
            random: false,
            formats: Formats::W3C,
            limits,
            name: "server".into(),
            span: SpanId(8),
            clock: (now, 1_700_000_000_000_000_000),
            seed: 1,
        });
        (recording, now)
    }

    fn names(recording: &Recording) -> Vec<(String, String)> {
        let of = |id: Option<SpanId>| {
            let found = recording.spans().iter().find(|span| Some(span.id) == id);
            found.map_or("-".to_owned(), |span| span.name.to_string())
        };
        recording.spans().iter().map(|span| (span.name.to_string(), of(span.parent))).collect()
    }

    #[test]
    fn steps_are_within_those_that_go_on() {
        let (mut recording, now) = recording(SpanLimits::default());
        let later = |ms| now + Duration::from_millis(ms);
        let pipeline = recording.begin(&"pipeline".into(), SpanKind::Internal, later(1));
        let filter = recording.begin(&"filter".into(), SpanKind::Internal, later(1));
        recording.end(filter, later(2));
        let proxy = recording.begin(&"proxy".into(), SpanKind::Internal, later(2));
        let first = recording.begin_beside(&"first".into(), SpanKind::Client, later(2));
        let second = recording.begin_beside(&"second".into(), SpanKind::Client, later(3));
        recording.end(first, later(4));
        recording.end(proxy, later(5));
        recording.fail(second, "timeout");
        let after = recording.begin(&"after".into(), SpanKind::Internal, later(5));
        recording.end(after, later(6));
        recording.end(pipeline, later(6));
        let beside = recording.begin(&"beside".into(), SpanKind::Internal, later(7));
        recording.close(later(9));
        let wanted = [
            ("server", "-"),
            ("pipeline", "server"),
            ("filter", "pipeline"),
            ("proxy", "pipeline"),
            ("first", "proxy"),
            ("second", "proxy"),
            ("after", "pipeline"),
            ("beside", "server"),
        ];
        assert_eq!(names(&recording), wanted.map(|(name, parent)| (name.to_owned(), parent.to_owned())));
        let span = |begun: Begun| &recording.spans()[begun.span.unwrap()];
        let base = 1_700_000_000_000_000_000;
        assert_eq!((span(filter).began - base, span(filter).ended - base), (1_000_000, 2_000_000));
        assert_eq!((span(second).ended - base, span(second).failed), (9_000_000, true));
        assert_eq!(span(beside).ended - base, 9_000_000);
        let ids: std::collections::HashSet<u64> = recording.spans().iter().map(|span| span.id.0).collect();
        assert_eq!(ids.len(), recording.spans().len());
    }

    #[test]
    fn bounds_hold_and_what_they_cost_is_counted() {
        let limits = SpanLimits { attributes: 2, value_chars: 3, events: 1, event_attributes: 1 };
        let (mut recording, now) = recording(limits);
        let request = recording.request();
        recording.set(request, "a", "äbcd".to_owned());
        recording.set(request, "b", 1);
        recording.set(request, "c", true);
        recording.set(request, "b", 2);
        for _ in 0..3 {
            recording.happened(request, "e", now, [("x", 1.into()), ("y", 2.into())]);
        }
        for _ in 0..SPANS_MOST + 4 {
            let begun = recording.begin(&"x".into(), SpanKind::Internal, now);
            recording.set(begun, "k", 1);
            recording.end(begun, now);
        }
        let span = &recording.spans()[0];
        assert_eq!(span.attributes, [("a", Value::from("äbc")), ("b", Value::from(2))]);
        assert_eq!((span.dropped_attributes, span.events.len(), span.dropped_events), (1, 1, 2));
        assert_eq!((span.events[0].attributes.len(), span.events[0].dropped_attributes), (1, 1));
        assert_eq!((recording.spans().len(), recording.dropped), (SPANS_MOST, 5));
    }

    #[test]
    fn branches_go_on_beside_each_other() {
        let (mut recording, now) = recording(SpanLimits::default());
        let group = recording.begin(&"group".into(), SpanKind::Internal, now);
        let mut branches = ["a", "b"].map(|name| recording.branch(&name.into(), now));
        for branch in &mut branches {
            let step = branch.begin(&"step".into(), SpanKind::Internal, now);
            branch.begin_beside(&"try".into(), SpanKind::Client, now);
            branch.end(step, now);
        }
        for mut branch in branches {
            branch.close(now);
            recording.absorb(branch);
        }
        recording.end(group, now);
        let after = recording.begin(&"after".into(), SpanKind::Internal, now);
        recording.end(after, now);
        let wanted = [
            ("server", "-"),
            ("group", "server"),
            ("a", "group"),
            ("step", "a"),
            ("try", "step"),
            ("b", "group"),
            ("step", "b"),
            ("try", "step"),
            ("after", "server"),
        ];
        assert_eq!(names(&recording), wanted.map(|(name, parent)| (name.to_owned(), parent.to_owned())));
        let ids: std::collections::HashSet<u64> = recording.spans().iter().map(|span| span.id.0).collect();
        assert_eq!(ids.len(), recording.spans().len());
        for _ in 0..SPANS_MOST {
            let branch = recording.branch(&"more".into(), now);
            recording.absorb(branch);
        }
        assert_eq!((recording.spans().len(), recording.dropped), (SPANS_MOST, wanted.len() as u32));
    }

    #[test]
    fn a_way_through_others_is_before_the_request() {
        let (mut recording, now) = recording(SpanLimits::default());
        let cdn = recording.came_through(&"cloudflare".into(), 1_699_999_999_000_000_000);
        recording.close(now);
        let [request, before] = recording.spans() else { panic!("two spans") };
        assert_eq!((request.parent, before.parent), (Some(before.id), Some(SpanId(7))));
        assert!(cdn.span == Some(1) && before.began < request.began && before.ended == request.ended);
    }
}

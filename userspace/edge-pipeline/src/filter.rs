//! A station of a pipeline, and how one is made from a document.

use crate::exchange::Exchange;
use crate::name::PipelineName;
use crate::pipeline::Rest;
use base_model::{Findings, Problem, Warning};
use base_runtime::Boxed;
use base_telemetry::Telemetry;
use serde_json::Value;
use std::any::Any;
use std::future::Future;
use std::sync::Arc;

/// A result name: [`SUCCESS`] or one of the kind's declared results.
pub type Outcome = &'static str;

/// The outcome that lets the flow go on.
pub const SUCCESS: Outcome = "";

/// What a filter says when it is handed an exchange.
pub enum Step<'a> {
    /// Finished at once: no allocation, no wait.
    Done(Outcome),
    /// Needs to wait for something; runs on the worker that called.
    Wait(Boxed<'a, Outcome>),
}

impl<'a> Step<'a> {
    pub fn wait(future: impl Future<Output = Outcome> + 'a) -> Step<'a> {
        Step::Wait(Boxed::new(future))
    }
}

/// What a filter says that [encloses](Filter::encloses) others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enclosed {
    /// It has not walked the stations after it; the flow goes on by this outcome.
    Alone(Outcome),
    /// It has, and they ended so, see [`Rest::run`].
    Walked { ended: bool },
}

/// Parts of an exchange.
///
/// What the stations after one touch decides what becomes of a body there: nobody's is given away in the buffer it came in, and may
/// stay in the kernel; one that is wanted later is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Touches(u8);

impl Touches {
    pub const NOTHING: Touches = Touches(0);
    pub const REQUEST_HEAD: Touches = Touches(1);
    pub const REQUEST_BODY: Touches = Touches(2);
    pub const RESPONSE_HEAD: Touches = Touches(4);
    pub const RESPONSE_BODY: Touches = Touches(8);
    pub const HEADS: Touches = Touches(1 | 4);
    pub const RESPONSE: Touches = Touches(4 | 8);
    pub const EVERYTHING: Touches = Touches(15);

    pub const fn and(self, other: Touches) -> Touches {
        Touches(self.0 | other.0)
    }

    /// These, where a condition holds.
    pub const fn and_if(self, condition: bool, other: Touches) -> Touches {
        if condition { self.and(other) } else { self }
    }

    /// Whether all of `others` are among them.
    pub const fn contains(self, others: Touches) -> bool {
        self.0 & others.0 == others.0
    }
}

/// A ready filter. Shared by all workers; whatever changes inside is atomic, locked, or kept per worker.
pub trait Filter: Any + Send + Sync {
    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a>;

    /// Whether it has a say in what becomes of a request after the stations behind it, too: it is asked by
    /// [`enclose`](Filter::enclose) then, and not by [`handle`](Filter::handle). Asked once, when its pipeline is built.
    fn encloses(&self) -> bool {
        false
    }

    /// Handles a request, and walks the stations after this one when it needs them.
    fn enclose<'a>(&'a self, exchange: &'a mut Exchange, rest: Rest) -> Boxed<'a, Enclosed> {
        let _ = rest;
        Boxed::new(async move {
            Enclosed::Alone(match self.handle(exchange) {
                Step::Done(outcome) => outcome,
                Step::Wait(future) => future.await,
            })
        })
    }

    /// What it may read or change. Asked once, when its pipeline is built; everything, where a filter does not say.
    fn touches(&self) -> Touches {
        Touches::EVERYTHING
    }

    /// Whether it may make a tunnel of a CONNECT request (RFC 9110 section 9.3.6), by answering 2xx and setting
    /// [`Exchange::upgraded`]. Where no filter of a pipeline does, CONNECT is answered 501 without it.
    fn makes_tunnels(&self) -> bool {
        false
    }

    /// Whether what it does for a safe request may be done before the client has shown to be there, and twice: it counts nobody, lets nobody
    /// in by what they say of themselves, and sends nothing but safe requests because of safe ones. Requests in early data (RFC 8470) wait for
    /// their handshake where any filter of their pipeline does not say so.
    fn is_repeatable(&self) -> bool {
        false
    }

    /// What `GET /status/objects` shows of it.
    fn status(&self) -> Option<Value> {
        None
    }
}

impl dyn Filter {
    /// This filter as its own type, for a new generation that inherits from it.
    pub fn downcast<T: Filter>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }
}

/// What a filter is built from, beside its own fields.
pub struct Parts<'a> {
    /// Name of the filter in its pipeline.
    pub name: &'a str,
    pub pipeline: &'a PipelineName,
    /// The filter of the same name and kind in the generation before, to inherit from.
    pub previous: Option<&'a dyn Filter>,
    /// `resilience` of the pipeline, as written.
    pub resilience: &'a [base_model::NamedSpec],
    /// Where figures are kept.
    pub telemetry: &'a Arc<Telemetry>,
}

impl Parts<'_> {
    /// `PIPELINE/FILTER`: no other filter of the process is called so. What a filter keeps by name it keeps by this one, or by that of a
    /// [pool](Self::pool) of it.
    pub fn place(&self) -> String {
        format!("{}/{}", self.pipeline, self.name)
    }

    /// `PIPELINE/proxy#FILTER#SERVERS`, the name of servers that a filter calls.
    pub fn pool(&self, servers: &str) -> String {
        format!("{}/proxy#{}#{servers}", self.pipeline, self.name)
    }
}

/// Everything wrong with a filter's fields.
pub type BuildError = Vec<Problem>;

/// Looks at the fields of a filter and files what is to be said of them; its path in the document comes along for messages.
pub type Check = fn(&Value, &str, &mut Findings);

/// Makes a ready filter of its fields.
pub type Build = for<'a> fn(&Value, &Parts<'a>) -> Result<Arc<dyn Filter>, BuildError>;

/// One kind of filter: what catalogs list.
pub struct FilterKind {
    /// As documents write it.
    pub kind: &'static str,
    /// Results a `jumpIf` may name, beside [`SUCCESS`].
    pub results: &'static [&'static str],
    /// Module doc: what it does, an example, what it costs. `weirctl explain` prints it.
    pub doc: &'static str,
    /// JSON schema of its fields.
    pub schema: fn() -> Value,
    /// Checks the fields without building: problems, and warnings for keys nobody knows, of refused fields too.
    pub check: Check,
    /// Builds a ready filter from fields that passed `check`.
    pub build: Build,
}

impl FilterKind {
    /// What `check` says of fields: every problem, or the warnings.
    pub fn checked(&self, fields: &Value, path: &str) -> Result<Vec<Warning>, BuildError> {
        let mut findings = Findings::default();
        (self.check)(fields, path, &mut findings);
        if findings.problems.is_empty() { Ok(findings.warnings) } else { Err(findings.problems) }
    }
}

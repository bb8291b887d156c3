//! What RequestBuilder, ResponseBuilder, ResultBuilder, DataBuilder and the adaptors share: a template with delimiters,
//! or another namespace to copy from.

use crate::built::BuiltError;
use base_model::problem::at;
use base_model::{Findings, Problem};
use base_telemetry::limits::Limit;
use edge_pipeline::{BodyError, BuildError, Exchange, Filter, Outcome, Parts, SUCCESS, Step, Template, Touches};
use std::marker::PhantomData;

/// Building failed; the flow may jump on it.
pub(crate) const BUILD_ERR: Outcome = "buildErr";

/// Where a builder takes its product from.
#[derive(Debug)]
pub(crate) enum Source {
    Namespace(Box<str>),
    Template(Template),
}

/// `template`, `leftDelim` and `rightDelim` as written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TemplateText<'s> {
    pub text: &'s str,
    pub left: &'s str,
    pub right: &'s str,
}

impl TemplateText<'_> {
    pub fn check(&self, path: &str, findings: &mut Findings) {
        if let Err(error) = Template::parse(self.text, self.left, self.right) {
            findings.problem(error.problem(at(path, "template")));
        }
    }

    pub fn parse(&self) -> Result<Template, BuildError> {
        Template::parse(self.text, self.left, self.right).map_err(|error| vec![error.problem("template")])
    }

    /// Exactly one of `sourceNamespace` and `template` is written.
    pub fn check_source(&self, namespace: &str, path: &str, findings: &mut Findings) {
        match (namespace.is_empty(), self.text.is_empty()) {
            (true, true) => findings.problem(
                Problem::new(path, "nothing to build from").advice("give template, or sourceNamespace to copy from"),
            ),
            (false, false) => findings
                .problem(Problem::new(path, "both sourceNamespace and template are given").advice("keep one of them")),
            (true, false) => self.check(path, findings),
            (false, true) => {}
        }
    }

    pub fn source(&self, namespace: &str) -> Result<Source, BuildError> {
        match namespace {
            "" => Ok(Source::Template(self.parse()?)),
            name => Ok(Source::Namespace(name.into())),
        }
    }
}

/// Only HTTP messages can be built so far.
pub(crate) fn check_protocol(protocol: &str, path: &str, findings: &mut Findings) {
    if protocol != "http" {
        let problem =
            Problem::new(at(path, "protocol"), "messages of this protocol cannot be built yet").text(protocol);
        findings.problem(problem.accepted("http"));
    }
}

/// What a builder makes of a template's output or of a namespace's message.
pub(crate) trait Makes: Send + Sync + 'static {
    const KIND: &str;
    /// What it touches when it copies from a namespace.
    const COPIES: Touches;
    /// What it touches when it builds, besides what the template looks into.
    const BUILDS: Touches;

    async fn copy(exchange: &mut Exchange, from: &str) -> Result<(), BuiltError>;

    /// The bodies the template looks into are there.
    fn build(template: &Template, exchange: &mut Exchange) -> Result<(), BuiltError>;
}

/// A filter that makes a message.
pub(crate) struct Builder<M> {
    source: Source,
    refused: Refusals,
    makes: PhantomData<M>,
}

impl<M: Makes> Builder<M> {
    pub(crate) fn new(text: &TemplateText<'_>, namespace: &str, parts: &Parts<'_>) -> Result<Builder<M>, BuildError> {
        Ok(Builder { source: text.source(namespace)?, refused: refusals(parts), makes: PhantomData })
    }

    async fn build_with_bodies(&self, exchange: &mut Exchange) -> Result<(), BuiltError> {
        match &self.source {
            Source::Namespace(name) => M::copy(exchange, name).await,
            Source::Template(template) => {
                collect(template, exchange).await?;
                M::build(template, exchange)
            }
        }
    }

    fn tell(&self, exchange: &mut Exchange, built: Result<(), BuiltError>) -> Outcome {
        match built {
            Ok(()) => SUCCESS,
            Err(error) => failed(exchange, M::KIND, &error, &self.refused),
        }
    }
}

impl<M: Makes> Filter for Builder<M> {
    fn touches(&self) -> Touches {
        match &self.source {
            Source::Namespace(_) => M::COPIES,
            Source::Template(template) => template.bodies().touches().and(M::BUILDS),
        }
    }

    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        match &self.source {
            Source::Template(template) if !template.bodies().on_their_way(exchange) => {
                let built = M::build(template, exchange);
                Step::Done(self.tell(exchange, built))
            }
            _ => Step::wait(async move {
                let built = self.build_with_bodies(exchange).await;
                self.tell(exchange, built)
            }),
        }
    }
}

/// Collects the bodies a template looks into.
pub(crate) async fn collect(template: &Template, exchange: &mut Exchange) -> Result<(), BuiltError> {
    template.bodies().collect(exchange).await.map_err(BuiltError::Body)
}

/// Counters of what is refused while something is built.
pub(crate) struct Refusals {
    /// What a template said and could not be sent.
    value: Limit,
    /// Bodies that there was no memory to gather.
    memory: Limit,
}

pub(crate) fn refusals(parts: &Parts<'_>) -> Refusals {
    let limits = parts.telemetry.limits();
    Refusals { value: limits.register("template_value"), memory: limits.register("memory") }
}

/// Notes why, counts what was refused, and gives the result.
pub(crate) fn failed(exchange: &mut Exchange, kind: &str, error: &BuiltError, refused: &Refusals) -> Outcome {
    // Tests run filters on threads of their own; the counters have a row for those.
    let worker = base_runtime::current_worker().map_or(usize::MAX, |worker| worker.index());
    match error {
        BuiltError::Refused(_) => refused.value.hit(worker),
        BuiltError::Body(BodyError::NoMemory) => refused.memory.hit(worker),
        _ => {}
    }
    tracing::debug!(kind, %error, "building failed");
    exchange.tags.note(|| format!("{kind}: {error}"));
    BUILD_ERR
}

pub(crate) fn default_protocol() -> String {
    "http".to_owned()
}

//! Go's `text/template`, as builders and adaptors use it: parsed once when a pipeline is built, run for each request.
//!
//! The language is Go's, with sprig's functions and Easegress's extras; what is misspelt (functions, variables,
//! templates, unbalanced blocks) is refused with line and column when the document is read. Requests and responses are
//! seen through views that copy nothing before it is asked for, and a template that never names a body leaves bodies on
//! their way: [`Bodies`] says beforehand what has to be collected. A run is bounded in output, memory, work and nesting;
//! each bound is an error, never a panic.
//!
//! Reading order: [`syntax`](self) (text → tree), `value` (what is computed with), `run` (tree → text), `provenance`
//! (whose text is whose), `root` (the view of an exchange), `functions`.

mod encoding;
mod functions;
mod printf;
mod provenance;
mod root;
mod run;
mod syntax;
#[cfg(test)]
mod tests;
mod time;
mod value;

use crate::body::{Body, BodyError};
use crate::exchange::{Exchange, Space};
use crate::filter::Touches;
use base_model::Problem;
pub use provenance::{Form, MarkedPiece, Rendered};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use syntax::{Base, Node, Operand, Pipe, Tree};

/// A ready template. Shared by all workers.
pub struct Template {
    text: Box<str>,
    tree: Tree,
    bodies: Bodies,
}

impl Template {
    /// Parses a text; empty delimiters mean `{{` and `}}`.
    pub fn parse(text: &str, left: &str, right: &str) -> Result<Template, ParseError> {
        if provenance::is_private(text) {
            let message = "a template cannot hold the private characters U+10F000 to U+10F0FF".to_owned();
            return Err(ParseError { line: 1, column: 1, message });
        }
        let tree = syntax::parse(text, left, right)?;
        let mut bodies = Bodies::default();
        bodies.find(&tree.root, true);
        for body in tree.defined.values() {
            bodies.find(body, false);
        }
        Ok(Template { text: text.into(), tree, bodies })
    }

    /// Bodies that the template may look into.
    pub fn bodies(&self) -> &Bodies {
        &self.bodies
    }

    /// The text it always gives, when it holds no action.
    pub fn constant(&self) -> Option<Cow<'_, str>> {
        let mut texts = self.tree.root.iter().map(|node| match node {
            Node::Text(text) => Some(&**text),
            _ => None,
        });
        match self.tree.root.len() {
            0 => Some(Cow::Borrowed("")),
            1 => texts.next().flatten().map(Cow::Borrowed),
            _ => texts.collect::<Option<String>>().map(Cow::Owned),
        }
    }

    /// Runs; bodies it needs must be in memory (see [`Bodies::collect`]).
    pub fn render(&self, exchange: &Exchange) -> Result<String, RenderError> {
        let rendered = self.render_to_parse(exchange)?;
        Ok(rendered.restore(rendered.text()).into_owned())
    }

    /// As [`render`](Template::render), for output that is parsed: texts of messages cannot become structure in it.
    pub fn render_to_parse(&self, exchange: &Exchange) -> Result<Rendered, RenderError> {
        run::run(&self.tree, exchange).map_err(|failure| {
            let (line, column) = place(&self.text, failure.at);
            RenderError { line, column, message: failure.message }
        })
    }

    /// Collects the bodies it needs, then runs.
    pub async fn collect_and_render(&self, exchange: &mut Exchange) -> Result<String, RenderError> {
        if let Err(error) = self.bodies.collect(exchange).await {
            return Err(RenderError { line: 0, column: 0, message: error.to_string() });
        }
        self.render(exchange)
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template").field("text", &self.text).field("bodies", &self.bodies).finish_non_exhaustive()
    }
}

/// Why a text is not a template. Lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    pub line: usize,
    pub column: usize,
    pub message: String,
}

impl ParseError {
    /// As a problem of the field that holds the template.
    pub fn problem(&self, path: impl Into<String>) -> Problem {
        let problem = Problem::new(path, format!("the template is wrong at {self}"));
        problem.accepted("text with actions as in Go's templates, such as {{ .req.Method | lower }}")
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.message)
    }
}

impl std::error::Error for ParseError {}

/// Why a run failed; line 0 where no place in the template is to blame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderError {
    pub line: usize,
    pub column: usize,
    pub message: String,
}

impl fmt::Display for RenderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "template line {}, column {}: ", self.line, self.column)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for RenderError {}

/// Line and column of a byte of a text, counted from 1; columns in characters.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(at)];
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// Which bodies a template may look into.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bodies {
    /// Cannot be told: every body of the exchange.
    pub all: bool,
    /// Of the namespace the filter runs in.
    pub request: bool,
    pub response: bool,
    /// By namespace.
    pub requests: Vec<Arc<str>>,
    pub responses: Vec<Arc<str>>,
}

impl Bodies {
    pub fn is_empty(&self) -> bool {
        *self == Bodies::default()
    }

    /// Whether one of them is still a stream, so that running has to wait.
    pub fn on_their_way(&self, exchange: &Exchange) -> bool {
        if self.is_empty() {
            return false;
        }
        let space = exchange.space_ref();
        let named =
            |name: &Arc<str>, body: fn(&Space) -> &Body| exchange.named(name).is_some_and(|s| body(s).is_stream());
        (self.request && space.request_body.is_stream())
            || (self.response && space.response_body.is_stream())
            || self.requests.iter().any(|name| named(name, |s| &s.request_body))
            || self.responses.iter().any(|name| named(name, |s| &s.response_body))
            || (self.all && exchange.spaces().any(|(_, s)| s.request_body.is_stream() || s.response_body.is_stream()))
    }

    /// What a filter touches that runs the template: heads always, since any template may name a field.
    pub fn touches(&self) -> Touches {
        let requests = self.all || self.request || !self.requests.is_empty();
        let responses = self.all || self.response || !self.responses.is_empty();
        Touches::HEADS.and_if(requests, Touches::REQUEST_BODY).and_if(responses, Touches::RESPONSE_BODY)
    }

    /// Reads them into memory, each as long as the document lets it be.
    pub async fn collect(&self, exchange: &mut Exchange) -> Result<(), BodyError> {
        if self.request {
            exchange.space().request_body.gather().await?;
        }
        if self.response {
            exchange.space().gather_response().await?;
        }
        let (mut requests, mut responses) = (self.requests.clone(), self.responses.clone());
        if self.all {
            requests = exchange.spaces().map(|(name, _)| Arc::from(name)).collect();
            responses = requests.clone();
        }
        for name in &requests {
            if let Some(space) = exchange.named_mut(name) {
                space.request_body.gather().await?;
            }
        }
        for name in &responses {
            if let Some(space) = exchange.named_mut(name) {
                space.gather_response().await?;
            }
        }
        Ok(())
    }

    /// `rooted`: dot is the root here, so that a chain's first name says what it is.
    fn find(&mut self, nodes: &[Node], rooted: bool) {
        for node in nodes {
            match node {
                Node::Text(_) | Node::Break | Node::Continue => {}
                Node::Action(pipe) => self.find_pipe(pipe, rooted),
                Node::Choice { with, arms, other } => {
                    for (pipe, body) in arms {
                        self.find_pipe(pipe, rooted);
                        self.find(body, rooted && !with);
                    }
                    self.find(other, rooted);
                }
                Node::Range { pipe, body, other, .. } => {
                    self.find_pipe(pipe, rooted);
                    self.find(body, false);
                    self.find(other, rooted);
                }
                Node::Call { pipe, .. } => pipe.iter().for_each(|pipe| self.find_pipe(pipe, rooted)),
            }
        }
    }

    fn find_pipe(&mut self, pipe: &Pipe, rooted: bool) {
        for command in &pipe.commands {
            for operand in std::iter::once(&command.head).chain(&command.args) {
                self.find_operand(operand, rooted);
            }
        }
    }

    fn find_operand(&mut self, operand: &Operand, rooted: bool) {
        if let Base::Pipe(pipe) = &operand.base {
            self.find_pipe(pipe, rooted);
        }
        let Some(at) = operand.fields.iter().position(|name| root::BODY_FIELDS.contains(&&**name)) else { return };
        // `$` is what the template was given: the root, in the outermost one. There every block passes `rooted` on
        // through `if` only, so `$` inside `range` and `with` is treated as unknown too; that costs a collection at worst.
        let from_root = rooted && matches!(operand.base, Base::Dot | Base::Variable(0));
        let path: Vec<&str> = operand.fields[..at].iter().map(|name| &**name).collect();
        match path.as_slice() {
            ["req"] if from_root => self.request = true,
            ["resp"] if from_root => self.response = true,
            ["requests", name] if from_root => self.requests.push(Arc::from(*name)),
            ["responses", name] if from_root => self.responses.push(Arc::from(*name)),
            // Data of the pipeline, whatever its keys are called.
            ["data", ..] if from_root => {}
            _ => self.all = true,
        }
    }
}

/// Longest text a template may give. Four times the usual limit of a body, to leave room for encodings.
const OUTPUT_MAX: usize = 16 << 20;
/// Bytes of all values a run makes together.
const MEMORY_MAX: usize = 64 << 20;
/// Commands, turns of loops and big arguments a run may spend: tens of milliseconds of a worker for most templates, a few
/// hundred for one made to be slow.
const STEPS_MAX: usize = 500_000;
/// Blocks, calls of templates and parentheses inside each other; protects the stack.
const DEPTH_MAX: usize = 150;

//! The machine that runs a parsed template.

use super::functions::{Function, Work};
use super::provenance::{self, Form, Known, Origin, Rendered};
use super::root::{Object, Parsed};
use super::syntax::{Base, Command, Node, Operand, Pipe, Tree};
use super::value::{Sink, Value, print};
use crate::exchange::Exchange;
use base_text::escape::write_foreign;
use base_text::redact;

/// What went wrong, and at which byte of the template.
#[derive(Debug)]
pub(super) struct Failure {
    pub at: usize,
    pub message: String,
}

impl Failure {
    fn new(at: usize, message: impl Into<String>) -> Failure {
        Failure { at, message: message.into() }
    }
}

/// How a list of nodes was left.
#[derive(PartialEq)]
enum Flow {
    Next,
    Break,
    Continue,
}

pub(super) struct Machine<'t, 'x> {
    tree: &'t Tree,
    parsed: Parsed<'x>,
    work: Work,
    out: Sink,
    /// Variables of the template that runs; slot 0 is `$`.
    slots: Vec<Known<'x>>,
    /// `set` has put something of a message into a map that may be the document's.
    mixed: bool,
    depth: usize,
    exchange: &'x Exchange,
}

/// Runs a template against an exchange.
pub(super) fn run(tree: &Tree, exchange: &Exchange) -> Result<Rendered, Failure> {
    let dot = Known::document(Value::Object(Object::Root(exchange)));
    let mut machine = Machine {
        tree,
        parsed: Parsed::default(),
        work: Work { steps: super::STEPS_MAX, bytes: super::MEMORY_MAX, ..Work::default() },
        out: Sink::new(super::OUTPUT_MAX),
        slots: machine_slots(tree, &dot),
        mixed: false,
        depth: 0,
        exchange,
    };
    machine.walk(&tree.root, &dot)?;
    Ok(Rendered { text: machine.out.into_text(), sayings: machine.work.sayings })
}

/// What a template logs, on one line and without the credentials of the message.
fn log(exchange: &Exchange, level: &str, text: &str) {
    let end = text.floor_char_boundary(LOGGED_BYTES_MAX);
    let mut safe = Vec::new();
    redact::write_text(&text.as_bytes()[..end], &exchange.credentials(), write_foreign, &mut safe);
    let (safe, more) = (String::from_utf8_lossy(&safe), if end < text.len() { "…" } else { "" });
    match level.to_ascii_lowercase().as_str() {
        "debug" => tracing::debug!(target: "template", "{safe}{more}"),
        "info" => tracing::info!(target: "template", "{safe}{more}"),
        "warn" => tracing::warn!(target: "template", "{safe}{more}"),
        "error" => tracing::error!(target: "template", "{safe}{more}"),
        _ => {}
    }
}

/// Longer texts are cut: the log keeps thousands of lines in memory.
const LOGGED_BYTES_MAX: usize = 4096;

fn machine_slots<'x>(tree: &Tree, dot: &Known<'x>) -> Vec<Known<'x>> {
    let mut slots = vec![Known::document(Value::Nil); tree.slots];
    slots[0] = dot.clone();
    slots
}

impl<'x> Machine<'_, 'x> {
    fn enter(&mut self, at: usize) -> Result<(), Failure> {
        self.depth += 1;
        if self.depth > super::DEPTH_MAX {
            return Err(Failure::new(at, format!("templates and blocks nest deeper than {} levels", super::DEPTH_MAX)));
        }
        Ok(())
    }

    fn walk(&mut self, nodes: &[Node], dot: &Known<'x>) -> Result<Flow, Failure> {
        for node in nodes {
            let flow = match node {
                Node::Text(text) => {
                    self.out.push(text).map_err(|why| Failure::new(0, why))?;
                    continue;
                }
                Node::Action(pipe) => {
                    self.action(pipe, dot)?;
                    continue;
                }
                Node::Choice { with, arms, other } => self.choice(*with, arms, other, dot)?,
                Node::Range { key, item, pipe, body, other } => self.range((*key, *item), pipe, (body, other), dot)?,
                Node::Call { at, name, pipe } => {
                    self.call_template(*at, name, pipe.as_ref(), dot)?;
                    continue;
                }
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn action(&mut self, pipe: &Pipe, dot: &Known<'x>) -> Result<(), Failure> {
        let known = self.pipe(pipe, dot)?;
        if !pipe.assign.is_empty() {
            return Ok(());
        }
        self.write(&known).map_err(|why| Failure::new(pipe.at, why))
    }

    /// Writes a value. A text of a message becomes a token; its numbers mean the same wherever they stand.
    fn write(&mut self, known: &Known<'x>) -> Result<(), String> {
        let form = match (provenance::whole(known, self.mixed), &known.value) {
            (_, Value::Nil) => return Ok(self.out.push("<no value>")?),
            (Origin::Message(form), value) if !matches!(value, Value::Int(_) | Value::Float(_) | Value::Bool(_)) => {
                form
            }
            (_, value) => {
                if let (Value::Text(text), Origin::Tokens) = (value, known.origin) {
                    self.out.account(self.work.sayings.length(text))?;
                }
                return Ok(print(value, &mut self.out)?);
            }
        };
        let text = self.work.show(&known.value)?;
        self.out.account(text.len())?;
        let written = provenance::written(text, form, &mut self.work.sayings);
        Ok(self.out.push(&written)?)
    }

    fn choice(
        &mut self,
        with: bool,
        arms: &[(Pipe, Vec<Node>)],
        other: &[Node],
        dot: &Known<'x>,
    ) -> Result<Flow, Failure> {
        for (pipe, body) in arms {
            let known = self.pipe(pipe, dot)?;
            if known.value.is_true() {
                self.enter(pipe.at)?;
                let flow = self.walk(body, if with { &known } else { dot });
                self.depth -= 1;
                return flow;
            }
        }
        self.walk(other, dot)
    }

    fn range(
        &mut self,
        (key, item): (Option<usize>, Option<usize>),
        pipe: &Pipe,
        (body, other): (&[Node], &[Node]),
        dot: &Known<'x>,
    ) -> Result<Flow, Failure> {
        let at = pipe.at;
        let known = self.pipe(pipe, dot)?;
        let origin = provenance::whole(&known, self.mixed);
        let value = known.value.plain();
        self.enter(at)?;
        let mut ran = false;
        let mut turn = |machine: &mut Self, index: Value<'x>, value: Value<'x>| -> Result<bool, Failure> {
            ran = true;
            machine.work.spend(1).map_err(|why| Failure::new(at, why))?;
            let item_known = Known { value, origin };
            if let Some(slot) = key {
                machine.slots[slot] = Known { value: index, origin };
            }
            if let Some(slot) = item {
                machine.slots[slot] = item_known.clone();
            }
            Ok(machine.walk(body, &item_known)? != Flow::Break)
        };
        match &value {
            Value::Int(count) => {
                for n in 0..*count {
                    if !turn(self, Value::Int(n), Value::Int(n))? {
                        break;
                    }
                }
            }
            Value::List(list) => {
                for (index, value) in list.items().iter().enumerate() {
                    if !turn(self, Value::Int(index as i64), value.clone())? {
                        break;
                    }
                }
            }
            Value::Bytes(bytes) => {
                for (index, byte) in bytes.iter().enumerate() {
                    if !turn(self, Value::Int(index as i64), Value::Int(i64::from(*byte)))? {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                for (key, value) in map.entries() {
                    if !turn(self, Value::Text(key), value)? {
                        break;
                    }
                }
            }
            Value::Nil => {}
            other => return Err(Failure::new(at, format!("range can't iterate over {}", other.type_name()))),
        }
        let flow = if ran { Flow::Next } else { self.walk(other, dot)? };
        self.depth -= 1;
        Ok(flow)
    }

    fn call_template(&mut self, at: usize, name: &str, pipe: Option<&Pipe>, dot: &Known<'x>) -> Result<(), Failure> {
        let value = match pipe {
            Some(pipe) => self.pipe(pipe, dot)?,
            None => Known::document(Value::Nil),
        };
        let tree = self.tree;
        let Some(body) = tree.defined.get(name) else {
            return Err(Failure::new(at, format!("template \"{name}\" is not defined")));
        };
        self.enter(at)?;
        self.spend(at, 1 + tree.slots)?;
        let outside = std::mem::replace(&mut self.slots, machine_slots(tree, &value));
        self.walk(body, &value)?;
        self.slots = outside;
        self.depth -= 1;
        Ok(())
    }

    fn spend(&mut self, at: usize, steps: usize) -> Result<(), Failure> {
        self.work.spend(steps).map_err(|why| Failure::new(at, why))
    }

    fn pipe(&mut self, pipe: &Pipe, dot: &Known<'x>) -> Result<Known<'x>, Failure> {
        self.enter(pipe.at)?;
        let mut value = None;
        for command in &pipe.commands {
            value = Some(self.command(command, dot, value)?);
        }
        let value = value.unwrap_or(Known::document(Value::Nil));
        for slot in &pipe.assign {
            self.slots[*slot] = value.clone();
        }
        self.depth -= 1;
        Ok(value)
    }

    fn command(&mut self, command: &Command, dot: &Known<'x>, piped: Option<Known<'x>>) -> Result<Known<'x>, Failure> {
        self.spend(command.head.at, 1)?;
        let head = &command.head;
        if let Base::Function(function) = head.base
            && head.fields.is_empty()
        {
            if function.name == "and" || function.name == "or" {
                return self.and_or(function, command, dot, piped);
            }
            let args = self.arguments(command, dot, piped)?;
            return self.call(head.at, function, args);
        }
        if command.args.is_empty() && piped.is_none() {
            return self.operand(head, dot);
        }
        // Only the last field of a chain can be a method that takes the arguments.
        let args = self.arguments(command, dot, piped)?;
        let Some((last, fields)) = head.fields.split_last() else {
            return Err(Failure::new(head.at, "can't give an argument to something that is no function"));
        };
        let base = self.base(head, dot)?;
        let known = self.chain(head.at, base, fields)?;
        let known = self.field(head.at, known, last, args)?;
        Ok(Known { value: self.parsed.owned(known.value), ..known })
    }

    /// Stops at the first argument that decides.
    fn and_or(
        &mut self,
        function: &Function,
        command: &Command,
        dot: &Known<'x>,
        piped: Option<Known<'x>>,
    ) -> Result<Known<'x>, Failure> {
        let mut last = None;
        for arg in &command.args {
            let value = self.operand(arg, dot)?;
            if value.value.is_true() == (function.name == "or") {
                return Ok(value);
            }
            last = Some(value);
        }
        let wanted = || Failure::new(command.head.at, format!("{} wants at least one argument", function.name));
        piped.or(last).ok_or_else(wanted)
    }

    fn arguments(
        &mut self,
        command: &Command,
        dot: &Known<'x>,
        piped: Option<Known<'x>>,
    ) -> Result<Vec<Known<'x>>, Failure> {
        let mut args = Vec::with_capacity(command.args.len() + 1);
        for arg in &command.args {
            args.push(self.operand(arg, dot)?);
        }
        args.extend(piped);
        Ok(args)
    }

    fn call(&mut self, at: usize, function: &'static Function, args: Vec<Known<'x>>) -> Result<Known<'x>, Failure> {
        if args.len() < function.least || args.len() > function.most {
            let count = match function.least {
                least if args.len() < least => format!("at least {least}"),
                _ => format!("at most {}", function.most),
            };
            let message = format!("{} wants {count} arguments and got {}", function.name, args.len());
            return Err(Failure::new(at, message));
        }
        // Functions look at the whole of their arguments, so big ones cost more.
        let weight: usize = args.iter().map(|arg| weight(&arg.value)).sum();
        self.spend(at, weight)?;
        let failed = |why| Failure::new(at, format!("error calling {}: {why}", function.name));
        let (args, origin) = provenance::prepare(function, args, self.mixed, &mut self.work).map_err(failed)?;
        self.mixed |= function.name == "set" && origin != Origin::Document;
        self.work.hide_texts = origin == Origin::Tokens;
        let value = (function.call)(&mut self.work, &args).map_err(failed)?;
        if let Some((level, text)) = self.work.said.take() {
            log(self.exchange, &level, &text);
        }
        Ok(Known { origin: provenance::resulting(origin, &value), value })
    }

    fn operand(&mut self, operand: &Operand, dot: &Known<'x>) -> Result<Known<'x>, Failure> {
        let base = self.base(operand, dot)?;
        let known = self.chain(operand.at, base, &operand.fields)?;
        Ok(Known { value: self.parsed.owned(known.value), ..known })
    }

    fn base(&mut self, operand: &Operand, dot: &Known<'x>) -> Result<Known<'x>, Failure> {
        Ok(Known::document(match &operand.base {
            Base::Dot => return Ok(dot.clone()),
            Base::Variable(slot) => return Ok(self.slots[*slot].clone()),
            Base::Function(function) => return self.call(operand.at, function, Vec::new()),
            Base::Pipe(pipe) => return self.pipe(pipe, dot),
            Base::Nil => Value::Nil,
            Base::Bool(b) => Value::Bool(*b),
            Base::Int(n) => Value::Int(*n),
            Base::Float(n) => Value::Float(*n),
            Base::Text(text) => Value::Text(text.clone()),
        }))
    }

    fn chain(&mut self, at: usize, known: Known<'x>, fields: &[std::sync::Arc<str>]) -> Result<Known<'x>, Failure> {
        fields.iter().try_fold(known, |known, name| self.field(at, known, name, Vec::new()))
    }

    fn field(&mut self, at: usize, known: Known<'x>, name: &str, args: Vec<Known<'x>>) -> Result<Known<'x>, Failure> {
        let mut origin = match known.value {
            Value::Map(_) => provenance::whole(&known, self.mixed),
            _ => known.field_origin(name),
        };
        let mut plain = Vec::with_capacity(args.len());
        for arg in args {
            if origin == Origin::Document && arg.origin != Origin::Document {
                origin = Origin::Message(Form::Text);
            }
            plain.push(match &arg.value {
                Value::Text(text) if arg.origin == Origin::Tokens => Value::text(self.work.sayings.restore(text)),
                _ => arg.value,
            });
        }
        let value = self.field_value(at, known.value, name, &plain)?;
        if origin == Origin::Document && matches!(&value, Value::Text(text) if provenance::is_private(text)) {
            origin = Origin::Message(Form::Text);
        }
        Ok(Known { value, origin })
    }

    fn field_value(
        &mut self,
        at: usize,
        value: Value<'x>,
        name: &str,
        args: &[Value<'x>],
    ) -> Result<Value<'x>, Failure> {
        let no_method = || Err(format!("{name} is not a method but has arguments"));
        let found = match &value {
            Value::Map(_) | Value::Nil if !args.is_empty() => no_method(),
            Value::Map(map) => Ok(map.value(name).unwrap_or(Value::Nil)),
            Value::Nil => Ok(Value::Nil),
            Value::Object(object) => object.field(name, args, &mut self.parsed),
            Value::Time(moment) => match (name, args) {
                ("Format", [Value::Text(layout)]) => self.work.text(moment.format(layout)),
                ("String", []) => Ok(Value::text(moment.to_string())),
                ("Month", []) => Ok(Value::text(moment.month_name())),
                ("Weekday", []) => Ok(Value::text(moment.weekday_name())),
                ("UTC" | "Local", []) => Ok(value.clone()),
                (name, []) => match moment.number(name) {
                    Some(n) => Ok(Value::Int(n)),
                    None => Err(format!("can't evaluate field {name} in type time.Time")),
                },
                _ => no_method(),
            },
            other => Err(format!("can't evaluate field {name} in type {}", other.type_name())),
        };
        found.map_err(|why| Failure::new(at, why))
    }
}

/// Steps that looking at a value costs.
fn weight(value: &Value<'_>) -> usize {
    match value {
        Value::Text(text) => text.len() / 64,
        Value::Bytes(bytes) => bytes.len() / 64,
        Value::List(list) => list.items().len() / 8,
        Value::Map(map) => map.len() / 4,
        _ => 0,
    }
}

//! The machine that runs a parsed template.

use super::functions::{Function, Work};
use super::root::{Object, Parsed};
use super::syntax::{Base, Command, Node, Operand, Pipe, Tree};
use super::value::{Sink, Value, print};
use crate::exchange::Exchange;

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
    slots: Vec<Value<'x>>,
    depth: usize,
}

/// Runs a template against an exchange.
pub(super) fn run(tree: &Tree, exchange: &Exchange) -> Result<String, Failure> {
    let dot = Value::Object(Object::Root(exchange));
    let mut machine = Machine {
        tree,
        parsed: Parsed::default(),
        work: Work { steps: super::STEPS_MAX, bytes: super::MEMORY_MAX },
        out: Sink::new(super::OUTPUT_MAX),
        slots: machine_slots(tree, &dot),
        depth: 0,
    };
    machine.walk(&tree.root, &dot)?;
    Ok(machine.out.into_text())
}

fn machine_slots<'x>(tree: &Tree, dot: &Value<'x>) -> Vec<Value<'x>> {
    let mut slots = vec![Value::Nil; tree.slots];
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

    fn walk(&mut self, nodes: &[Node], dot: &Value<'x>) -> Result<Flow, Failure> {
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

    fn action(&mut self, pipe: &Pipe, dot: &Value<'x>) -> Result<(), Failure> {
        let value = self.pipe(pipe, dot)?;
        if !pipe.assign.is_empty() {
            return Ok(());
        }
        let printed = match &value {
            Value::Nil => self.out.push("<no value>"),
            value => print(value, &mut self.out),
        };
        printed.map_err(|why| Failure::new(pipe.at, why))
    }

    fn choice(
        &mut self,
        with: bool,
        arms: &[(Pipe, Vec<Node>)],
        other: &[Node],
        dot: &Value<'x>,
    ) -> Result<Flow, Failure> {
        for (pipe, body) in arms {
            let value = self.pipe(pipe, dot)?;
            if value.is_true() {
                self.enter(pipe.at)?;
                let flow = self.walk(body, if with { &value } else { dot });
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
        dot: &Value<'x>,
    ) -> Result<Flow, Failure> {
        let at = pipe.at;
        let value = self.pipe(pipe, dot)?.plain();
        self.enter(at)?;
        let mut ran = false;
        let mut turn = |machine: &mut Self, index: Value<'x>, value: Value<'x>| -> Result<bool, Failure> {
            ran = true;
            machine.work.spend(1).map_err(|why| Failure::new(at, why))?;
            if let Some(slot) = key {
                machine.slots[slot] = index;
            }
            if let Some(slot) = item {
                machine.slots[slot] = value.clone();
            }
            Ok(machine.walk(body, &value)? != Flow::Break)
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

    fn call_template(&mut self, at: usize, name: &str, pipe: Option<&Pipe>, dot: &Value<'x>) -> Result<(), Failure> {
        let value = match pipe {
            Some(pipe) => self.pipe(pipe, dot)?,
            None => Value::Nil,
        };
        let tree = self.tree;
        let Some(body) = tree.defined.get(name) else {
            return Err(Failure::new(at, format!("template {name:?} is not defined")));
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

    fn pipe(&mut self, pipe: &Pipe, dot: &Value<'x>) -> Result<Value<'x>, Failure> {
        self.enter(pipe.at)?;
        let mut value = None;
        for command in &pipe.commands {
            value = Some(self.command(command, dot, value)?);
        }
        let value = value.unwrap_or(Value::Nil);
        for slot in &pipe.assign {
            self.slots[*slot] = value.clone();
        }
        self.depth -= 1;
        Ok(value)
    }

    fn command(&mut self, command: &Command, dot: &Value<'x>, piped: Option<Value<'x>>) -> Result<Value<'x>, Failure> {
        self.spend(command.head.at, 1)?;
        let head = &command.head;
        if let Base::Function(function) = head.base
            && head.fields.is_empty()
        {
            if function.name == "and" || function.name == "or" {
                return self.and_or(function, command, dot, piped);
            }
            let args = self.arguments(command, dot, piped)?;
            return self.call(head.at, function, &args);
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
        let value = self.chain(head.at, base, fields)?;
        let value = self.field(head.at, value, last, &args)?;
        Ok(self.parsed.owned(value))
    }

    /// Stops at the first argument that decides.
    fn and_or(
        &mut self,
        function: &Function,
        command: &Command,
        dot: &Value<'x>,
        piped: Option<Value<'x>>,
    ) -> Result<Value<'x>, Failure> {
        let mut last = None;
        for arg in &command.args {
            let value = self.operand(arg, dot)?;
            if value.is_true() == (function.name == "or") {
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
        dot: &Value<'x>,
        piped: Option<Value<'x>>,
    ) -> Result<Vec<Value<'x>>, Failure> {
        let mut args = Vec::with_capacity(command.args.len() + 1);
        for arg in &command.args {
            args.push(self.operand(arg, dot)?);
        }
        args.extend(piped);
        Ok(args)
    }

    fn call(&mut self, at: usize, function: &'static Function, args: &[Value<'x>]) -> Result<Value<'x>, Failure> {
        if args.len() < function.least || args.len() > function.most {
            let count = match function.least {
                least if args.len() < least => format!("at least {least}"),
                _ => format!("at most {}", function.most),
            };
            let message = format!("{} wants {count} arguments and got {}", function.name, args.len());
            return Err(Failure::new(at, message));
        }
        // Functions look at the whole of their arguments, so big ones cost more.
        let weight: usize = args.iter().map(weight).sum();
        self.spend(at, weight)?;
        (function.call)(&mut self.work, args)
            .map_err(|why| Failure::new(at, format!("error calling {}: {why}", function.name)))
    }

    fn operand(&mut self, operand: &Operand, dot: &Value<'x>) -> Result<Value<'x>, Failure> {
        let base = self.base(operand, dot)?;
        let value = self.chain(operand.at, base, &operand.fields)?;
        Ok(self.parsed.owned(value))
    }

    fn base(&mut self, operand: &Operand, dot: &Value<'x>) -> Result<Value<'x>, Failure> {
        Ok(match &operand.base {
            Base::Dot => dot.clone(),
            Base::Nil => Value::Nil,
            Base::Bool(b) => Value::Bool(*b),
            Base::Int(n) => Value::Int(*n),
            Base::Float(n) => Value::Float(*n),
            Base::Text(text) => Value::Text(text.clone()),
            Base::Variable(slot) => self.slots[*slot].clone(),
            Base::Function(function) => self.call(operand.at, function, &[])?,
            Base::Pipe(pipe) => self.pipe(pipe, dot)?,
        })
    }

    fn chain(&mut self, at: usize, value: Value<'x>, fields: &[std::sync::Arc<str>]) -> Result<Value<'x>, Failure> {
        fields.iter().try_fold(value, |value, name| self.field(at, value, name, &[]))
    }

    fn field(&mut self, at: usize, value: Value<'x>, name: &str, args: &[Value<'x>]) -> Result<Value<'x>, Failure> {
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

//! From text to a tree: the lexer and the parser of Go's template language.
//!
//! Variables become slots and functions become pointers here, so that what is misspelt is refused when the document is
//! read and not when a request comes.

use base_text::quoted;

use super::ParseError;
use super::functions::{self, Function};
use std::collections::HashMap;
use std::sync::Arc;

/// Something that stands in a template, in order.
#[derive(Debug)]
pub(super) enum Node {
    Text(Box<str>),
    Action(Pipe),
    /// `if` and `with`: the first true arm runs, else the last block.
    Choice {
        with: bool,
        arms: Vec<(Pipe, Vec<Node>)>,
        other: Vec<Node>,
    },
    Range {
        key: Option<usize>,
        item: Option<usize>,
        pipe: Pipe,
        body: Vec<Node>,
        other: Vec<Node>,
    },
    Call {
        at: usize,
        name: Arc<str>,
        pipe: Option<Pipe>,
    },
    Break,
    Continue,
}

/// Commands whose result is passed on from one to the next.
#[derive(Debug)]
pub(super) struct Pipe {
    pub at: usize,
    /// Slots that take the result; a pipe that assigns prints nothing.
    pub assign: Vec<usize>,
    pub commands: Vec<Command>,
}

/// A value, or a function or method with its arguments.
#[derive(Debug)]
pub(super) struct Command {
    pub head: Operand,
    pub args: Vec<Operand>,
}

#[derive(Debug)]
pub(super) struct Operand {
    pub at: usize,
    pub base: Base,
    /// `.A.B` after the base.
    pub fields: Vec<Arc<str>>,
}

#[derive(Debug)]
pub(super) enum Base {
    Dot,
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Arc<str>),
    /// Slot 0 is `$`.
    Variable(usize),
    Function(&'static Function),
    Pipe(Box<Pipe>),
}

/// A parsed text: its own nodes and the templates it defines.
#[derive(Debug)]
pub(super) struct Tree {
    pub root: Vec<Node>,
    pub defined: HashMap<Arc<str>, Vec<Node>>,
    /// Most variable slots any of them uses.
    pub slots: usize,
}

/// Parses `text` with the given delimiters; empty ones mean Go's.
pub(super) fn parse(text: &str, left: &str, right: &str) -> Result<Tree, ParseError> {
    let left = if left.is_empty() { "{{" } else { left };
    let right = if right.is_empty() { "}}" } else { right };
    let pieces = split(text, left, right)?;
    let mut parser = Parser {
        text,
        pieces: pieces.into_iter(),
        scope: vec![Arc::from("$")],
        slots: 1,
        defined: HashMap::new(),
        called: Vec::new(),
        depth: 0,
        loops: 0,
    };
    let (root, end) = parser.block(true)?;
    if let Some(end) = end {
        return Err(parser.error(end.at, format!("unexpected {{{{{}}}}}: nothing is open here", end.word)));
    }
    for (at, name) in &parser.called {
        if !parser.defined.contains_key(name) {
            return Err(parser.error(*at, format!("template {name} is not defined", name = quoted(&name))));
        }
    }
    Ok(Tree { root, defined: parser.defined, slots: parser.slots })
}

fn error_at(text: &str, at: usize, message: impl Into<String>) -> ParseError {
    let (line, column) = super::place(text, at);
    ParseError { line, column, message: message.into() }
}

// ---- lexer

enum Piece {
    Text(Box<str>),
    Action { at: usize, tokens: Vec<Token> },
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    /// A word: function or keyword.
    Word(String),
    /// `.Name`.
    Field(String),
    Dot,
    /// `$name`, with its sign.
    Variable(String),
    Text(String),
    Int(i64),
    Float(f64),
    Open,
    Close,
    Pipe,
    Comma,
    Declare,
    Assign,
}

#[derive(Debug, Clone)]
struct Token {
    kind: Kind,
    at: usize,
    /// Whether white space stands before it: `.A .B` are two operands, `.A.B` is one.
    spaced: bool,
}

/// Cuts a template into text and actions, with trim markers applied and comments gone.
fn split(text: &str, left: &str, right: &str) -> Result<Vec<Piece>, ParseError> {
    let mut pieces = Vec::new();
    let mut at = 0;
    let mut trim_next = false;
    loop {
        let open = text[at..].find(left).map(|i| at + i);
        let mut plain = &text[at..open.unwrap_or(text.len())];
        if trim_next {
            plain = plain.trim_start_matches(SPACE);
        }
        let Some(open) = open else {
            push_text(&mut pieces, plain);
            return Ok(pieces);
        };
        let mut inside = open + left.len();
        // A marker is a minus sign with white space on the inner side.
        if text[inside..].starts_with('-') && text[inside + 1..].starts_with(SPACE) {
            plain = plain.trim_end_matches(SPACE);
            inside += 1;
        }
        push_text(&mut pieces, plain);
        let lexer = Lexer { text, right, at: inside };
        let comment = text[inside..].trim_start_matches(SPACE);
        if comment.starts_with("/*") {
            let start = text.len() - comment.len();
            let Some(end) = text[start..].find("*/").map(|i| start + i + 2) else {
                return Err(error_at(text, start, "this comment is not closed by */"));
            };
            match lexer.closing(end) {
                Some((next, trim)) => (at, trim_next) = (next, trim),
                None => return Err(error_at(text, end, format!("a comment ends its action: {right} must follow */"))),
            }
            continue;
        }
        let (tokens, next, trim) = lexer.tokens(open)?;
        if tokens.is_empty() {
            return Err(error_at(text, open, "an action without a command"));
        }
        pieces.push(Piece::Action { at: open, tokens });
        (at, trim_next) = (next, trim);
    }
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text.into()));
    }
}

struct Lexer<'t> {
    text: &'t str,
    right: &'t str,
    at: usize,
}

impl Lexer<'_> {
    /// Whether the action ends at `at`, perhaps with a trim marker: where text goes on, and whether it is trimmed.
    fn closing(&self, at: usize) -> Option<(usize, bool)> {
        let rest = &self.text[at..];
        if rest.starts_with(self.right) {
            return Some((at + self.right.len(), false));
        }
        let spaced = rest.trim_start_matches(SPACE);
        let gap = rest.len() - spaced.len();
        if gap > 0 && spaced.starts_with('-') && spaced[1..].starts_with(self.right) {
            return Some((at + gap + 1 + self.right.len(), true));
        }
        None
    }

    fn tokens(mut self, open: usize) -> Result<(Vec<Token>, usize, bool), ParseError> {
        let mut tokens = Vec::new();
        let mut spaced = false;
        loop {
            if let Some((next, trim)) = self.closing(self.at) {
                return Ok((tokens, next, trim));
            }
            let at = self.at;
            let Some(c) = self.text[at..].chars().next() else {
                return Err(error_at(self.text, open, format!("this action is not closed by {}", self.right)));
            };
            if SPACE.contains(&c) {
                self.at += 1;
                spaced = true;
                continue;
            }
            if tokens.len() >= TOKENS_MAX {
                return Err(error_at(self.text, at, "an action of more than 10000 words"));
            }
            let kind = self.token(c)?;
            tokens.push(Token { kind, at, spaced });
            spaced = false;
        }
    }

    fn token(&mut self, c: char) -> Result<Kind, ParseError> {
        let rest = &self.text[self.at..];
        let single = |kind| (kind, 1);
        let (kind, length) = match c {
            '(' => single(Kind::Open),
            ')' => single(Kind::Close),
            '|' => single(Kind::Pipe),
            ',' => single(Kind::Comma),
            '=' => single(Kind::Assign),
            ':' if rest[1..].starts_with('=') => (Kind::Declare, 2),
            '"' => {
                let end = closing_quote(rest, '"').ok_or_else(|| self.fail("this text is not closed by \""))?;
                (Kind::Text(unquote(&rest[1..end]).map_err(|why| self.fail(why))?), end + 1)
            }
            '`' => {
                let end = rest[1..].find('`').ok_or_else(|| self.fail("this text is not closed by `"))? + 1;
                (Kind::Text(rest[1..end].replace('\r', "")), end + 1)
            }
            '\'' => {
                let end = closing_quote(rest, '\'').ok_or_else(|| self.fail("this character is not closed by '"))?;
                let inside = unquote(&rest[1..end]).map_err(|why| self.fail(why))?;
                let mut chars = inside.chars();
                match (chars.next(), chars.next()) {
                    (Some(c), None) => (Kind::Int(i64::from(u32::from(c))), end + 1),
                    _ => {
                        return Err(
                            self.fail("one character stands between single quotes; write texts in double quotes")
                        );
                    }
                }
            }
            '$' => {
                let length = 1 + word_length(&rest[1..]);
                (Kind::Variable(rest[..length].to_owned()), length)
            }
            '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => match word_length(&rest[1..]) {
                0 => single(Kind::Dot),
                length => (Kind::Field(rest[1..1 + length].to_owned()), 1 + length),
            },
            '0'..='9' | '.' | '+' | '-' => {
                // A sign belongs to the exponent only directly after its letter.
                let mut length = c.len_utf8();
                let mut last = c;
                for next in rest[length..].chars() {
                    let hex = rest.trim_start_matches(['+', '-']).starts_with("0x");
                    let exponent = matches!(last, 'e' | 'E') && !hex;
                    if !(next.is_ascii_alphanumeric()
                        || next == '.'
                        || next == '_'
                        || (exponent && matches!(next, '+' | '-')))
                    {
                        break;
                    }
                    length += next.len_utf8();
                    last = next;
                }
                let number = &rest[..length];
                (number_of(number).ok_or_else(|| self.fail(format!("{number} is not a number")))?, length)
            }
            c if c.is_alphabetic() || c == '_' => {
                let length = word_length(rest);
                (Kind::Word(rest[..length].to_owned()), length)
            }
            other => return Err(self.fail(format!("{} means nothing here", quoted(other.to_string())))),
        };
        self.at += length;
        Ok(kind)
    }

    fn fail(&self, message: impl Into<String>) -> ParseError {
        error_at(self.text, self.at, message)
    }
}

/// Go's white space between words.
const SPACE: &[char] = &[' ', '\t', '\r', '\n'];

fn word_length(text: &str) -> usize {
    text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len())
}

/// Index of the quote that closes the text `quoted` begins with.
fn closing_quote(quoted: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (index, c) in quoted.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\n' => return None,
            c if c == quote => return Some(index),
            _ => {}
        }
    }
    None
}

/// The text between quotes, with Go's escapes.
fn unquote(text: &str) -> Result<String, String> {
    let mut out: Vec<u8> = Vec::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let escape = rest.next().ok_or("a backslash at the end of a text")?;
        let mut digits = |count: usize, radix: u32, first: Option<char>| -> Result<u32, String> {
            let taken: String = first.into_iter().chain(rest.by_ref().take(count)).collect();
            let whole = count + usize::from(first.is_some());
            u32::from_str_radix(&taken, radix)
                .ok()
                .filter(|_| taken.len() == whole && !taken.starts_with('+'))
                .ok_or_else(|| format!("\\{escape} wants {whole} digits"))
        };
        let byte = match escape {
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 11,
            '\\' | '\'' | '"' => escape as u8,
            'x' => digits(2, 16, None)? as u8,
            '0'..='7' => u8::try_from(digits(2, 8, Some(escape))?).map_err(|_| "an octal escape above \\377")?,
            'u' | 'U' => {
                let code = digits(if escape == 'u' { 4 } else { 8 }, 16, None)?;
                let c =
                    char::from_u32(code).ok_or_else(|| format!("\\{escape} of a code point that does not exist"))?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            other => return Err(format!("\\{other} is not an escape")),
        };
        out.push(byte);
    }
    Ok(String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

fn number_of(text: &str) -> Option<Kind> {
    if let Some(n) = functions::parse_int(text) {
        return Some(Kind::Int(n));
    }
    let plain = text.replace('_', "");
    let digits = plain.trim_start_matches(['+', '-']);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') || digits.starts_with("0x") {
        return None;
    }
    plain.parse::<f64>().ok().filter(|n| n.is_finite()).map(Kind::Float)
}

// ---- parser

struct Parser<'t> {
    text: &'t str,
    pieces: std::vec::IntoIter<Piece>,
    /// Variables in sight; the index is the slot.
    scope: Vec<Arc<str>>,
    slots: usize,
    defined: HashMap<Arc<str>, Vec<Node>>,
    /// Templates that are called, checked once all are known.
    called: Vec<(usize, Arc<str>)>,
    depth: usize,
    loops: usize,
}

/// A variable and where it is written.
type Name = (usize, Arc<str>);

/// The keyword that ended a block, with the rest of its action.
struct Ending {
    at: usize,
    word: &'static str,
    rest: Tokens,
}

type Tokens = std::iter::Peekable<std::vec::IntoIter<Token>>;

impl Parser<'_> {
    fn error(&self, at: usize, message: impl Into<String>) -> ParseError {
        error_at(self.text, at, message)
    }

    fn enter(&mut self, at: usize) -> Result<(), ParseError> {
        self.depth += 1;
        if self.depth > NESTING_MAX {
            return Err(self.error(at, format!("nested deeper than {NESTING_MAX} levels")));
        }
        Ok(())
    }

    /// Nodes up to `end`, `else` or the end of the text.
    fn block(&mut self, top: bool) -> Result<(Vec<Node>, Option<Ending>), ParseError> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let (at, tokens) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action { at, tokens } => (at, tokens),
            };
            let mut tokens: Tokens = tokens.into_iter().peekable();
            let keyword = match tokens.peek() {
                Some(Token { kind: Kind::Word(word), .. }) => word.clone(),
                _ => String::new(),
            };
            if !KEYWORDS.contains(&keyword.as_str()) {
                nodes.push(Node::Action(self.pipe(&mut tokens, at, false)?));
                continue;
            }
            tokens.next();
            self.enter(at)?;
            match keyword.as_str() {
                "end" | "else" => {
                    self.depth -= 1;
                    let word = if keyword == "end" { "end" } else { "else" };
                    return Ok((nodes, Some(Ending { at, word, rest: tokens })));
                }
                "if" => nodes.push(self.choice(at, tokens, false)?),
                "with" => nodes.push(self.choice(at, tokens, true)?),
                "range" => nodes.push(self.range(at, tokens)?),
                "define" => {
                    if !top {
                        return Err(self.error(at, "define stands inside another block; move it to the top"));
                    }
                    let name = self.name(at, &mut tokens)?;
                    self.nothing_more(&mut tokens)?;
                    self.define(at, name)?;
                }
                "template" | "block" => {
                    let name = self.name(at, &mut tokens)?;
                    let pipe = match tokens.peek() {
                        Some(_) => Some(self.pipe(&mut tokens, at, false)?),
                        None if keyword == "block" => {
                            return Err(self.error(at, "block wants a value after its name, often a dot"));
                        }
                        None => None,
                    };
                    self.called.push((at, name.clone()));
                    nodes.push(Node::Call { at, name: name.clone(), pipe });
                    if keyword == "block" {
                        self.define(at, name)?;
                    }
                }
                "break" | "continue" => {
                    if self.loops == 0 {
                        return Err(self.error(at, format!("{keyword} outside of range")));
                    }
                    self.nothing_more(&mut tokens)?;
                    nodes.push(if keyword == "break" { Node::Break } else { Node::Continue });
                }
                _ => return Err(self.error(at, format!("{keyword} cannot begin an action"))),
            }
            self.depth -= 1;
        }
        Ok((nodes, None))
    }

    fn choice(&mut self, at: usize, tokens: Tokens, with: bool) -> Result<Node, ParseError> {
        let mark = self.scope.len();
        let mut arms = Vec::new();
        let mut other = Vec::new();
        let mut tokens = tokens;
        let keyword = if with { "with" } else { "if" };
        loop {
            let pipe = self.pipe(&mut tokens, at, false)?;
            let (body, end) = self.block(false)?;
            arms.push((pipe, body));
            let mut end = self.ended(at, keyword, end)?;
            if end.word == "end" {
                self.nothing_more(&mut end.rest)?;
                break;
            }
            match end.rest.next() {
                None => {
                    let (body, end) = self.block(false)?;
                    other = body;
                    self.last(at, keyword, end)?;
                    break;
                }
                Some(Token { kind: Kind::Word(word), .. }) if word == keyword => tokens = end.rest,
                Some(token) => return Err(self.error(token.at, format!("after else comes {keyword}, or nothing"))),
            }
        }
        self.scope.truncate(mark);
        Ok(Node::Choice { with, arms, other })
    }

    fn range(&mut self, at: usize, mut tokens: Tokens) -> Result<Node, ParseError> {
        let mark = self.scope.len();
        let mut pipe = self.pipe(&mut tokens, at, true)?;
        let mut slots = std::mem::take(&mut pipe.assign).into_iter();
        let (key, item) = match (slots.next(), slots.next()) {
            (Some(key), Some(item)) => (Some(key), Some(item)),
            (item, _) => (None, item),
        };
        self.loops += 1;
        let (body, end) = self.block(false)?;
        self.loops -= 1;
        let mut end = self.ended(at, "range", end)?;
        let mut other = Vec::new();
        if end.word == "else" {
            self.nothing_more(&mut end.rest)?;
            let (body, end) = self.block(false)?;
            other = body;
            self.last(at, "range", end)?;
        } else {
            self.nothing_more(&mut end.rest)?;
        }
        self.scope.truncate(mark);
        Ok(Node::Range { key, item, pipe, body, other })
    }

    /// The body of a `define` or `block`: variables outside are not in its sight.
    fn define(&mut self, at: usize, name: Arc<str>) -> Result<(), ParseError> {
        let outside = std::mem::replace(&mut self.scope, vec![Arc::from("$")]);
        let loops = std::mem::take(&mut self.loops);
        let (body, end) = self.block(false)?;
        self.last(at, "define", end)?;
        self.scope = outside;
        self.loops = loops;
        // As in Go, an empty body does not replace one that says something.
        if !self.defined.contains_key(&name) || !is_blank(&body) {
            self.defined.insert(name, body);
        }
        Ok(())
    }

    fn ended(&self, at: usize, keyword: &str, end: Option<Ending>) -> Result<Ending, ParseError> {
        end.ok_or_else(|| self.error(at, format!("this {keyword} has no {{{{end}}}}")))
    }

    fn last(&self, at: usize, keyword: &str, end: Option<Ending>) -> Result<(), ParseError> {
        let mut end = self.ended(at, keyword, end)?;
        if end.word == "else" {
            return Err(self.error(end.at, format!("this else does not belong to the {keyword} before it")));
        }
        self.nothing_more(&mut end.rest)
    }

    fn name(&self, at: usize, tokens: &mut Tokens) -> Result<Arc<str>, ParseError> {
        match tokens.next() {
            Some(Token { kind: Kind::Text(name), .. }) => Ok(name.into()),
            _ => Err(self.error(at, "the name of a template stands here, in quotes")),
        }
    }

    fn nothing_more(&self, tokens: &mut Tokens) -> Result<(), ParseError> {
        match tokens.next() {
            None => Ok(()),
            Some(token) => Err(self.error(token.at, "nothing may follow here")),
        }
    }

    /// A pipeline up to the end of the action; `$k, $v :=` only where `range` allows it.
    fn pipe(&mut self, tokens: &mut Tokens, at: usize, range: bool) -> Result<Pipe, ParseError> {
        let pipe = self.pipe_until(tokens, at, range, false)?;
        self.nothing_more(tokens)?;
        Ok(pipe)
    }

    fn pipe_until(&mut self, tokens: &mut Tokens, at: usize, range: bool, inner: bool) -> Result<Pipe, ParseError> {
        let at = tokens.peek().map_or(at, |t| t.at);
        let (names, declare) = self.assignment(tokens, range)?;
        let mut commands: Vec<Command> = Vec::new();
        loop {
            let command = self.command(tokens, at)?;
            if !commands.is_empty() && !command.is_callable() {
                return Err(self.error(command.head.at, "a value cannot take what is piped into it; a function can"));
            }
            commands.push(command);
            match tokens.peek() {
                Some(Token { kind: Kind::Pipe, .. }) => {
                    tokens.next();
                }
                Some(Token { kind: Kind::Close, at, .. }) if !inner => {
                    return Err(self.error(*at, "this parenthesis closes nothing"));
                }
                _ => break,
            }
        }
        let mut assign = Vec::new();
        for (at, name) in names {
            assign.push(if declare { self.declare(name) } else { self.slot(at, &name)? });
        }
        Ok(Pipe { at, assign, commands })
    }

    /// `$x :=`, `$x =`, `$k, $v :=`; nothing is taken when the action begins otherwise.
    fn assignment(&mut self, tokens: &mut Tokens, range: bool) -> Result<(Vec<Name>, bool), ParseError> {
        let mut ahead = tokens.clone();
        let mut names = Vec::new();
        while let Some(Token { kind: Kind::Variable(name), at, .. }) = ahead.next() {
            names.push((at, Arc::from(name.as_str())));
            match ahead.next().map(|t| t.kind) {
                Some(Kind::Comma) if range && names.len() == 1 => {}
                Some(Kind::Comma) => return Err(self.error(at, "only range takes two variables")),
                Some(kind @ (Kind::Declare | Kind::Assign)) => {
                    if let Some((at, _)) = names.iter().find(|(_, name)| &**name == "$") {
                        return Err(self.error(*at, "$ cannot be assigned to"));
                    }
                    *tokens = ahead;
                    return Ok((names, kind == Kind::Declare));
                }
                _ => break,
            }
        }
        Ok((Vec::new(), false))
    }

    fn declare(&mut self, name: Arc<str>) -> usize {
        self.scope.push(name);
        self.slots = self.slots.max(self.scope.len());
        self.scope.len() - 1
    }

    fn slot(&self, at: usize, name: &str) -> Result<usize, ParseError> {
        let found = self.scope.iter().rposition(|n| &**n == name);
        found.ok_or_else(|| self.error(at, format!("variable {name} is not declared; write {name} := … first")))
    }

    fn command(&mut self, tokens: &mut Tokens, at: usize) -> Result<Command, ParseError> {
        let Some(head) = self.operand(tokens)? else {
            let at = tokens.peek().map_or(at, |t| t.at);
            return Err(self.error(at, "a value or a function is missing here"));
        };
        let mut args = Vec::new();
        while let Some(arg) = self.operand(tokens)? {
            args.push(arg);
        }
        let command = Command { head, args };
        if !command.args.is_empty() && !command.is_callable() {
            return Err(self.error(command.args[0].at, "an argument after something that is not a function"));
        }
        if let Base::Function(function) = command.head.base
            && command.head.fields.is_empty()
            && command.args.len() > function.most
        {
            let most = function.most;
            return Err(self.error(command.head.at, format!("{} takes at most {most} arguments", function.name)));
        }
        Ok(command)
    }

    fn operand(&mut self, tokens: &mut Tokens) -> Result<Option<Operand>, ParseError> {
        let Some(token) = tokens.peek().cloned() else { return Ok(None) };
        let at = token.at;
        let mut fields = Vec::new();
        let base = match token.kind {
            Kind::Pipe | Kind::Close | Kind::Comma | Kind::Declare | Kind::Assign => return Ok(None),
            Kind::Dot => Base::Dot,
            Kind::Field(name) => {
                fields.push(Arc::from(name));
                Base::Dot
            }
            Kind::Variable(name) => Base::Variable(self.slot(at, &name)?),
            Kind::Text(text) => Base::Text(text.into()),
            Kind::Int(n) => Base::Int(n),
            Kind::Float(n) => Base::Float(n),
            Kind::Word(word) => match word.as_str() {
                "true" => Base::Bool(true),
                "false" => Base::Bool(false),
                "nil" => Base::Nil,
                keyword if KEYWORDS.contains(&keyword) => {
                    return Err(self.error(at, format!("{keyword} must begin an action")));
                }
                name => match functions::named(name) {
                    Some(function) => Base::Function(function),
                    None => return Err(self.error(at, functions::unknown(name))),
                },
            },
            Kind::Open => {
                tokens.next();
                self.enter(at)?;
                let pipe = self.pipe_until(tokens, at, false, true)?;
                self.depth -= 1;
                if !matches!(tokens.peek(), Some(Token { kind: Kind::Close, .. })) {
                    return Err(self.error(at, "this parenthesis is not closed"));
                }
                Base::Pipe(Box::new(pipe))
            }
        };
        tokens.next();
        while let Some(Token { kind: Kind::Field(name), spaced: false, .. }) = tokens.peek() {
            fields.push(Arc::from(name.as_str()));
            tokens.next();
        }
        if !fields.is_empty()
            && matches!(base, Base::Nil | Base::Bool(_) | Base::Int(_) | Base::Float(_) | Base::Text(_))
        {
            return Err(self.error(at, "a literal has no fields"));
        }
        // What follows without a space would read as one word.
        if let Some(next) = tokens.peek()
            && !next.spaced
            && !matches!(next.kind, Kind::Close | Kind::Pipe | Kind::Comma | Kind::Declare | Kind::Assign)
        {
            return Err(self.error(next.at, "a space is missing before this"));
        }
        Ok(Some(Operand { at, base, fields }))
    }
}

impl Command {
    /// Whether it can take arguments: a function, or something whose last field may be a method.
    fn is_callable(&self) -> bool {
        matches!(self.head.base, Base::Function(_)) || !self.head.fields.is_empty()
    }
}

fn is_blank(body: &[Node]) -> bool {
    body.iter().all(|n| matches!(n, Node::Text(text) if text.trim().is_empty()))
}

const KEYWORDS: [&str; 10] = ["if", "else", "end", "range", "with", "define", "template", "block", "break", "continue"];

/// Deepest nesting of blocks and parentheses; protects the stack.
const NESTING_MAX: usize = 50;

/// Longest action; a generated one this long is a mistake.
const TOKENS_MAX: usize = 10_000;

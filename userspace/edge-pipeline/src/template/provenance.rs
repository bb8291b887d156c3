//! Where the texts of a run come from: the document, or a message.
//!
//! What a template gives is often parsed once more, as YAML above all, and what a client sent must not become structure
//! there. So the machine knows of each value whether a message had a part in it ([`Origin`]), and writes a text of a
//! message as a *token*: a number in private characters, which means nothing to any format and cannot end a scalar,
//! whatever quotes, block or key it stands in. Who parses the output puts the texts back afterwards ([`Rendered`]).
//!
//! Functions that only carry their arguments along (`printf`, `default`, `indent`, …) are given the tokens, so that the
//! document's own text around them stays the document's. `toJson` and its kin, `quote` and `squote` ask for structure by
//! name: their brackets and quotes are structure, the texts between them are tokens. All other functions see the real
//! text, and their result is a message's.

use super::encoding;
use super::functions::{Function, Work};
use super::root::Object;
use super::value::Value;
use std::borrow::Cow;
use std::sync::Arc;

/// Whose a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Document,
    /// A message had a part in it.
    Message(Form),
    /// A text whose message parts are tokens already; the rest is the document's.
    Tokens,
}

impl Origin {
    /// Whose a value is that was made of both.
    fn with(self, other: Origin) -> Origin {
        match (self, other) {
            (Origin::Document, one) | (one, Origin::Document) => one,
            (Origin::Message(a), Origin::Message(b)) if a == b => self,
            _ => Origin::Message(Form::Text),
        }
    }
}

/// Which part of a URL a text of a message is by its name; what was made of it stays that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Text,
    /// `.URL.Path`.
    Path,
    /// `.URL.RawQuery`.
    Query,
    /// `.URL` and `.RequestURI`: path and query.
    Target,
}

/// A value and whose it is.
#[derive(Clone)]
pub(super) struct Known<'x> {
    pub value: Value<'x>,
    pub origin: Origin,
}

impl<'x> Known<'x> {
    pub fn document(value: Value<'x>) -> Known<'x> {
        Known { value, origin: Origin::Document }
    }

    /// Whose a field is: all that requests and responses hold is a message's, and so is what DataBuilders made of them.
    pub fn field_origin(&self, name: &str) -> Origin {
        let form = match (&self.value, name) {
            (Value::Object(Object::Root(_)), "data" | "namespace") => return Origin::Document,
            (Value::Object(Object::Data(_)), "PIPELINE") => return Origin::Document,
            (Value::Object(Object::Url(_)), "Path" | "EscapedPath" | "RawPath") => Form::Path,
            (Value::Object(Object::Url(_)), "RawQuery") => Form::Query,
            (Value::Object(Object::Url(_)), "String" | "RequestURI") => Form::Target,
            (Value::Object(Object::Request(..)), "URL" | "RequestURI") => Form::Target,
            (Value::Object(Object::Json(_)) | Value::Map(_) | Value::Nil | Value::Time(_), _) => return self.origin,
            _ => Form::Text,
        };
        Origin::Message(form)
    }
}

/// How the text behind a token looks where it stands inside a longer one. Alone it is always the text itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dress {
    Plain,
    /// Every further line as far to the right as the first.
    Indented,
    /// Between the quotes of JSON; `html` escapes `<`, `>` and `&` too.
    Json {
        html: bool,
    },
    /// Between the quotes of Go's `%q`. Where the parser has taken the quotes away it is the text itself.
    Quoted,
}

#[derive(Debug)]
struct Saying {
    text: Arc<str>,
    form: Form,
    dress: Dress,
}

/// The texts behind the tokens of one run.
#[derive(Debug, Default)]
pub(super) struct Sayings(Vec<Saying>);

impl Sayings {
    /// A token for a text; an empty one needs none.
    fn token(&mut self, text: Arc<str>, form: Form, dress: Dress) -> String {
        if text.is_empty() {
            return String::new();
        }
        let mut token = String::from(OPEN);
        let digit = |d: char| char::from_u32(u32::from(DIGIT) + d.to_digit(10).unwrap_or(0));
        token.extend(self.0.len().to_string().chars().filter_map(digit));
        token.push(CLOSE);
        self.0.push(Saying { text, form, dress });
        token
    }

    /// The saying whose token a text begins with, and the token's length.
    fn first(&self, text: &str) -> Option<(&Saying, usize)> {
        let digits = text.strip_prefix(OPEN)?;
        let end = digits.find(CLOSE)?;
        let index = digits[..end].chars().try_fold(0usize, |n, c| {
            let digit = u32::from(c).checked_sub(u32::from(DIGIT)).filter(|d| *d < 10)?;
            n.checked_mul(10)?.checked_add(digit as usize)
        })?;
        Some((self.0.get(index)?, OPEN.len_utf8() + end + CLOSE.len_utf8()))
    }

    /// The saying that a whole text is the token of.
    fn only(&self, text: &str) -> Option<&Saying> {
        self.first(text).filter(|(_, length)| *length == text.len()).map(|(saying, _)| saying)
    }

    fn pieces<'t>(&'t self, text: &'t str) -> Vec<MarkedPiece<'t>> {
        if let Some(saying) = self.only(text) {
            return vec![MarkedPiece::Message(Cow::Borrowed(&saying.text), saying.form)];
        }
        let mut pieces = Vec::new();
        let (mut rest, mut from) = (text, 0);
        while let Some(at) = rest[from..].find(OPEN).map(|at| from + at) {
            let Some((saying, length)) = self.first(&rest[at..]) else {
                // A private character of the document's own.
                from = at + OPEN.len_utf8();
                continue;
            };
            if at > 0 {
                pieces.push(MarkedPiece::Document(&rest[..at]));
            }
            let place = text.len() - rest.len() + at;
            pieces.push(MarkedPiece::Message(saying.inside(&text[..place]), saying.form));
            (rest, from) = (&rest[at + length..], 0);
        }
        if !rest.is_empty() {
            pieces.push(MarkedPiece::Document(rest));
        }
        pieces
    }

    /// Bytes of the texts behind the tokens of a text.
    pub fn length(&self, text: &str) -> usize {
        text.match_indices(OPEN)
            .filter_map(|(at, _)| self.first(&text[at..]))
            .map(|(saying, _)| saying.text.len())
            .sum()
    }

    /// A text with tokens, for quotes to be put around it: what is behind them will stand between those.
    fn quotable(&mut self, text: &str) -> String {
        let said = |piece: &MarkedPiece<'_>| match piece {
            MarkedPiece::Document(text) => (Arc::from(*text), None),
            MarkedPiece::Message(text, form) => (Arc::from(&**text), Some(*form)),
        };
        let pieces: Vec<(Arc<str>, Option<Form>)> = self.pieces(text).iter().map(said).collect();
        let mut out = String::new();
        for (text, form) in pieces {
            match form {
                None => out.push_str(&text),
                Some(form) => out.push_str(&self.token(text, form, Dress::Quoted)),
            }
        }
        out
    }

    pub fn restore<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if !text.contains(OPEN) {
            return Cow::Borrowed(text);
        }
        Cow::Owned(self.pieces(text).iter().map(MarkedPiece::text).collect())
    }

    /// Puts tokens in place of all texts of a JSON tree, names too.
    pub fn hide_texts(&mut self, tree: &mut serde_json::Value, html: bool) {
        use serde_json::Value as Json;
        match tree {
            Json::String(text) => {
                let said = Arc::from(text.as_str());
                *text = self.token(said, Form::Text, Dress::Json { html });
            }
            Json::Array(items) => items.iter_mut().for_each(|item| self.hide_texts(item, html)),
            Json::Object(map) => {
                let hidden = std::mem::take(map).into_iter().map(|(name, mut value)| {
                    self.hide_texts(&mut value, html);
                    (self.token(Arc::from(name), Form::Text, Dress::Json { html }), value)
                });
                *map = hidden.collect();
            }
            _ => {}
        }
    }
}

impl Saying {
    fn inside(&self, before: &str) -> Cow<'_, str> {
        match self.dress {
            Dress::Plain => Cow::Borrowed(&self.text),
            Dress::Indented => {
                let line = before.rfind('\n').map_or(before, |at| &before[at + 1..]);
                match line.bytes().all(|b| b == b' ') {
                    true => Cow::Owned(self.text.replace('\n', &format!("\n{line}"))),
                    false => Cow::Borrowed(&self.text),
                }
            }
            Dress::Json { html } => {
                let quoted = encoding::json(&serde_json::Value::from(&*self.text), false, html);
                Cow::Owned(quoted[1..quoted.len() - 1].to_owned())
            }
            Dress::Quoted if !in_quotes(before) => Cow::Borrowed(&self.text),
            Dress::Quoted => {
                let quoted = encoding::quote(&self.text);
                Cow::Owned(quoted[1..quoted.len() - 1].to_owned())
            }
        }
    }
}

/// Whether what follows a text stands between double quotes.
fn in_quotes(text: &str) -> bool {
    let (mut inside, mut escaped) = (false, false);
    for b in text.bytes() {
        inside ^= b == b'"' && !escaped;
        escaped = b == b'\\' && !escaped;
    }
    inside
}

/// A part of a text, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MarkedPiece<'t> {
    Document(&'t str),
    Message(Cow<'t, str>, Form),
}

impl MarkedPiece<'_> {
    pub fn text(&self) -> &str {
        match self {
            MarkedPiece::Document(text) => text,
            MarkedPiece::Message(text, _) => text,
        }
    }
}

/// What a template gave, to be parsed: texts of messages are tokens in it.
#[derive(Debug, Default)]
pub struct Rendered {
    pub(super) text: String,
    pub(super) sayings: Sayings,
}

impl Rendered {
    /// The output with its tokens.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A text out of the parsed output, with what the tokens stand for.
    pub fn restore<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.sayings.restore(text)
    }

    /// A text out of the parsed output, taken apart.
    pub fn pieces<'t>(&'t self, text: &'t str) -> Vec<MarkedPiece<'t>> {
        self.sayings.pieces(text)
    }

    /// Whether a text out of the parsed output holds text of a message.
    pub fn holds_message(&self, text: &str) -> bool {
        self.pieces(text).iter().any(|piece| matches!(piece, MarkedPiece::Message(..)))
    }

    /// The text, when the whole output is one text of a message.
    pub fn only_message(&self) -> Option<&str> {
        self.sayings.only(self.text.trim()).map(|saying| &*saying.text)
    }

    /// A message about the output, for people: an ellipsis for every token.
    pub fn shown(&self, message: &str) -> String {
        let piece = |piece: &MarkedPiece<'_>| match piece {
            MarkedPiece::Document(text) => (*text).to_owned(),
            MarkedPiece::Message(..) => "…".to_owned(),
        };
        self.pieces(message).iter().map(piece).collect()
    }
}

/// Whose a value is as a whole: maps that `set` has put something of a message into may be anybody's, and so are the
/// exchange and its data.
pub(super) fn whole(known: &Known<'_>, mixed: bool) -> Origin {
    let holds_message = match &known.value {
        Value::Object(Object::Root(_) | Object::Data(_)) => true,
        Value::Map(_) | Value::List(_) => mixed,
        _ => false,
    };
    if holds_message { Origin::Message(Form::Text) } else { known.origin }
}

/// Readies arguments for a function: with tokens where it carries texts along, else with the real texts. Gives the
/// values, and whose the result will be.
pub(super) fn prepare<'x>(
    function: &Function,
    args: Vec<Known<'x>>,
    mixed: bool,
    work: &mut Work,
) -> Result<(Vec<Value<'x>>, Origin), String> {
    let origin = args.iter().map(|arg| whole(arg, mixed)).fold(Origin::Document, Origin::with);
    if origin == Origin::Document {
        return Ok((args.into_iter().map(|arg| arg.value).collect(), origin));
    }
    if let Some(dresses) = dresses(function.name, &args, mixed) {
        let mut values = Vec::with_capacity(args.len());
        for (arg, dress) in args.into_iter().zip(dresses) {
            let value = match (whole(&arg, mixed), dress) {
                (Origin::Message(form), Some(dress)) => {
                    let text = work.show(&arg.value)?;
                    work.spend(1)?;
                    Value::text(work.sayings.token(text, form, dress))
                }
                (Origin::Tokens, Some(Dress::Quoted)) => {
                    let text = work.show(&arg.value)?;
                    work.reserve(text.len() + work.sayings.length(&text))?;
                    Value::text(work.sayings.quotable(&text))
                }
                _ => arg.value,
            };
            values.push(value);
        }
        return Ok((values, Origin::Tokens));
    }
    let mut values = Vec::with_capacity(args.len());
    for arg in args {
        values.push(match (&arg.value, arg.origin) {
            (Value::Text(text), Origin::Tokens) => {
                let text = work.sayings.restore(text).into_owned();
                work.reserve(text.len())?;
                Value::text(text)
            }
            _ => arg.value,
        });
    }
    let origin = match origin {
        _ if STRUCTURE.contains(&function.name) => Origin::Tokens,
        // The tokens are texts again.
        Origin::Tokens => Origin::Message(Form::Text),
        origin => origin,
    };
    Ok((values, origin))
}

/// Whose the result of a function is.
pub(super) fn resulting(prepared: Origin, value: &Value<'_>) -> Origin {
    match prepared {
        // Only texts hold tokens.
        Origin::Tokens if !matches!(value, Value::Text(_)) => Origin::Message(Form::Text),
        origin => origin,
    }
}

/// For a function that carries its arguments along: which become tokens, and of which dress. `None` for other functions,
/// and for arguments that would not come out as they went in.
fn dresses(name: &str, args: &[Known<'_>], mixed: bool) -> Option<Vec<Option<Dress>>> {
    let of_message = |arg: &Known<'_>| matches!(whole(arg, mixed), Origin::Message(_));
    let text = |arg: &Known<'_>| matches!(arg.value, Value::Text(_));
    let number = |arg: &Known<'_>| matches!(arg.value, Value::Int(_) | Value::Float(_) | Value::Bool(_) | Value::Nil);
    let each = |dress: Dress, all: bool| {
        args.iter()
            .map(|arg| match of_message(arg) {
                true if matches!(arg.value, Value::Nil) => Some(None),
                true if all || text(arg) => Some(Some(dress)),
                true => None,
                false if dress == Dress::Quoted && arg.origin == Origin::Tokens => Some(Some(dress)),
                false => Some(None),
            })
            .collect::<Option<Vec<_>>>()
    };
    match name {
        "quote" => each(Dress::Quoted, true),
        "squote" | "cat" => each(Dress::Plain, true),
        "print" | "println" | "default" | "ternary" | "coalesce" | "toString" => each(Dress::Plain, false),
        "indent" | "nindent" if args.first().is_some_and(|count| !of_message(count)) => each(Dress::Indented, false),
        "printf" => {
            let Some(Known { value: Value::Text(format), origin: Origin::Document }) = args.first() else {
                return None;
            };
            let mut verbs = verbs(format)?.into_iter();
            let mut dresses = vec![None];
            for arg in &args[1..] {
                let (verb, bare) = verbs.next()?;
                let tokens = of_message(arg) || arg.origin == Origin::Tokens;
                dresses.push(match verb {
                    _ if !tokens => None,
                    'v' | 's' if bare && of_message(arg) && text(arg) => Some(Dress::Plain),
                    'q' if bare && text(arg) => Some(Dress::Quoted),
                    'v' | 's' if bare && text(arg) => None,
                    'v' | 'd' | 'f' | 'e' | 'g' | 't' if number(arg) => None,
                    _ => return None,
                });
            }
            Some(dresses)
        }
        _ => None,
    }
}

/// The verbs of a format in order, and whether nothing stands between the percent sign and the verb. `None` for a
/// format that takes a width from its arguments.
fn verbs(format: &str) -> Option<Vec<(char, bool)>> {
    let mut verbs = Vec::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            continue;
        }
        let mut bare = true;
        let verb = loop {
            match chars.next()? {
                '*' => return None,
                '+' | '-' | '#' | ' ' | '.' | '0'..='9' => bare = false,
                verb => break verb,
            }
        };
        if verb != '%' {
            verbs.push((verb, bare));
        }
    }
    Some(verbs)
}

/// What an action writes for a text of a message.
pub(super) fn written(text: Arc<str>, form: Form, sayings: &mut Sayings) -> Cow<'static, str> {
    if reads_back(&text) { Cow::Owned(text.to_string()) } else { Cow::Owned(sayings.token(text, form, Dress::Plain)) }
}

/// Numbers and truth values that read back as the text they were: they cannot leave a scalar, and stay what they are for
/// those who want a number.
fn reads_back(text: &str) -> bool {
    if matches!(text, "true" | "false") {
        return true;
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, part) = digits.split_once('.').map_or((digits, None), |(whole, part)| (whole, Some(part)));
    let numeric = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // Fifteen digits are what a float keeps.
    digits.len() <= 15
        && numeric(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && part.is_none_or(|part| numeric(part) && !part.ends_with('0'))
        && text != "-0"
}

/// Whether a text holds characters that tokens are made of.
pub(super) fn is_private(text: &str) -> bool {
    text.contains(|c| (OPEN..=LAST).contains(&c))
}

/// Functions whose result is structure by name.
const STRUCTURE: [&str; 6] = ["toJson", "mustToJson", "toPrettyJson", "mustToPrettyJson", "toRawJson", "mustToRawJson"];

/// Out of the last private plane, where neither fonts nor people have put anything.
const OPEN: char = '\u{10f000}';
const CLOSE: char = '\u{10f001}';
/// The zero; the other digits follow it.
const DIGIT: char = '\u{10f010}';
const LAST: char = '\u{10f0ff}';

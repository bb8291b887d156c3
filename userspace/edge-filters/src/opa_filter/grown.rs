//! Functions of the engine's own that make more of what they are given, within a bound for all of them together: a text that is put behind
//! itself thirty times is as large as the machine before anybody looks at the clock, and one put in the place of each letter of another at once.

use super::builtins::text;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use regorus::{Engine, Value};
use std::cell::{Cell, RefCell};
use std::fmt::Write as _;

/// Bytes that one decision may make.
pub(super) const MADE_MAX: usize = 16 * 1024 * 1024;

/// What a value in a list takes beside its text, in bytes.
const PLACE: usize = 48;

thread_local! {
    static ROOM: Cell<usize> = const { Cell::new(MADE_MAX) };
    /// The engine without what is added to it, for functions whose ways are many.
    static OWN: RefCell<Engine> = RefCell::new(own_engine());
}

/// A decision begins.
pub(super) fn begin() {
    ROOM.set(MADE_MAX);
}

/// More was to be made than may be; it was not.
pub(super) fn is_spent() -> bool {
    ROOM.get() == 0
}

/// Whatever a function has made takes room.
pub(super) fn charge(made: &Value) -> Option<()> {
    take(weight(made))
}

/// Room for so many bytes; where there is not, there is none for anything else.
fn take(bytes: usize) -> Option<()> {
    let left = ROOM.get().saturating_sub(bytes);
    ROOM.set(left);
    (left > 0).then_some(())
}

fn made(text: String) -> Option<Value> {
    take(text.len())?;
    Some(Value::from(text))
}

/// Bytes of what is in a value, about, and no more of it than there is room for: what a rule names twice stands in memory once.
fn weight(value: &Value) -> usize {
    let (mut left, mut bytes) = (vec![value], 0usize);
    while let Some(value) = left.pop() {
        bytes += PLACE;
        match value {
            Value::String(text) => bytes += text.len(),
            Value::Array(all) => left.extend(all.iter()),
            Value::Set(all) => left.extend(all.iter()),
            Value::Object(all) => left.extend(all.iter().flat_map(|(key, value)| [key, value])),
            _ => {}
        }
        if bytes > ROOM.get() {
            break;
        }
    }
    bytes
}

pub(super) fn concat(args: &[Value]) -> Option<Value> {
    let between = text(&args[0])?;
    let parts: Option<Vec<&str>> = match &args[1] {
        Value::Array(all) => all.iter().map(text).collect(),
        Value::Set(all) => all.iter().map(text).collect(),
        _ => None,
    };
    let parts = parts?;
    let bytes = parts.iter().fold(0usize, |sum, part| sum.saturating_add(part.len() + between.len()));
    take(bytes)?;
    Some(Value::from(parts.join(between)))
}

pub(super) fn replace(args: &[Value]) -> Option<Value> {
    let (of, old, new) = (text(&args[0])?, text(&args[1])?, text(&args[2])?);
    let count = of.matches(old).count();
    take(of.len().saturating_add(count.saturating_mul(new.len())))?;
    Some(Value::from(of.replace(old, new)))
}

pub(super) fn regex_replace(args: &[Value]) -> Option<Value> {
    let (of, new) = (text(&args[0])?, text(&args[2])?);
    let pattern = base_model::regexp::compile(text(&args[1])?).ok()?;
    take(of.len())?;
    let (mut text, mut end) = (String::new(), 0);
    for found in pattern.captures_iter(of) {
        let whole = found.get(0)?;
        text.push_str(&of[end..whole.start()]);
        end = whole.end();
        // What was found may be named many times.
        take((new.len() + 1).saturating_mul(whole.len() + 1))?;
        found.expand(new, &mut text);
    }
    text.push_str(&of[end..]);
    Some(Value::from(text))
}

pub(super) fn split(args: &[Value]) -> Option<Value> {
    let (of, by) = (text(&args[0])?, text(&args[1])?);
    let count = if by.is_empty() { of.chars().count() } else { of.matches(by).count() + 1 };
    take(of.len() + count * PLACE)?;
    Some(Value::from(match by {
        "" => of.chars().map(|one| Value::from(one.to_string())).collect::<Vec<_>>(),
        by => of.split(by).map(Value::from).collect(),
    }))
}

pub(super) fn lower(args: &[Value]) -> Option<Value> {
    made(text(&args[0])?.to_lowercase())
}

pub(super) fn upper(args: &[Value]) -> Option<Value> {
    made(text(&args[0])?.to_uppercase())
}

pub(super) fn array_concat(args: &[Value]) -> Option<Value> {
    let (first, second) = (args[0].as_array().ok()?, args[1].as_array().ok()?);
    take((first.len() + second.len()) * PLACE)?;
    Some(Value::from(first.iter().chain(second).cloned().collect::<Vec<_>>()))
}

pub(super) fn hex(args: &[Value]) -> Option<Value> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let of = text(&args[0])?;
    take(2 * of.len())?;
    let digits = of.bytes().flat_map(|byte| [byte >> 4, byte & 15]).map(|half| char::from(DIGITS[usize::from(half)]));
    Some(Value::from(digits.collect::<String>()))
}

pub(super) fn base64(args: &[Value]) -> Option<Value> {
    made(STANDARD.encode(text(&args[0])?))
}

pub(super) fn base64url(args: &[Value]) -> Option<Value> {
    made(URL_SAFE.encode(text(&args[0])?))
}

pub(super) fn base64url_no_pad(args: &[Value]) -> Option<Value> {
    made(URL_SAFE_NO_PAD.encode(text(&args[0])?))
}

pub(super) fn marshal(args: &[Value]) -> Option<Value> {
    take(weight(&args[0]))?;
    made(serde_json::to_string(&args[0]).ok()?)
}

/// The engine makes room for widths of any number of digits, and panics at digits of other scripts.
pub(super) fn sprintf(args: &[Value]) -> Option<Value> {
    let mut widths = 0usize;
    for after in text(&args[0])?.replace("%%", "").split('%').skip(1) {
        let digits = after.trim_start_matches('.').split(|c: char| !c.is_numeric()).next().unwrap_or_default();
        match digits {
            "" => {}
            digits if digits.len() > WIDTH_DIGITS => return None,
            digits => widths += digits.parse::<usize>().ok()?,
        }
    }
    take(widths)?;
    own("sprintf", args)
}

const WIDTH_DIGITS: usize = 4;

pub(super) fn marshal_with_options(args: &[Value]) -> Option<Value> {
    // Each line may begin with both of them.
    let option = |name: &str| {
        let options = args[1].as_object().ok()?;
        options.get(&Value::from(name)).and_then(text).map(str::len)
    };
    let beside = option("prefix").unwrap_or(0) + option("indent").unwrap_or(1).saturating_mul(DEEP);
    take((weight(&args[0]) / PLACE).saturating_mul(beside))?;
    own("json.marshal_with_options", args)
}

/// A number may be moved by as many places as there are bits in the memory.
pub(super) fn shift_left(args: &[Value]) -> Option<Value> {
    (args[1].as_i64().ok()? <= PLACES_MAX).then(|| own("bits.lsh", args))?
}

const PLACES_MAX: i64 = 4096;

/// A list of numbers in a client's body is as long as it likes, and what comes of it as long as all of them together.
pub(super) fn product(args: &[Value]) -> Option<Value> {
    // What is no whole number takes no more room than one.
    let bits = |number: &Value| number.as_number().ok().map(|number| number.as_big().map_or(0, |whole| whole.bits()));
    let all: Option<u64> = match &args[0] {
        Value::Array(all) => all.iter().map(bits).sum(),
        Value::Set(all) => all.iter().map(bits).sum(),
        _ => None,
    };
    (all? <= PRODUCT_BITS).then(|| own("product", args))?
}

const PRODUCT_BITS: u64 = 4096;

/// Every value in a value with the way to it, which is as long as it lies deep: the ways together may be many times what they lead through.
pub(super) fn walk(args: &[Value]) -> Option<Value> {
    let (mut way, mut all) = (Vec::new(), Vec::new());
    walk_from(&mut way, &args[0], &mut all)?;
    Some(Value::from(all))
}

fn walk_from(way: &mut Vec<Value>, value: &Value, all: &mut Vec<Value>) -> Option<()> {
    take((way.len() + 2) * PLACE)?;
    all.push(Value::from(vec![Value::from(way.clone()), value.clone()]));
    let mut into = |name: Value, value: &Value| {
        way.push(name);
        walk_from(way, value, all)?;
        way.pop();
        Some(())
    };
    match value {
        Value::Array(values) => values.iter().enumerate().try_for_each(|(at, value)| into(Value::from(at), value)),
        Value::Set(values) => values.iter().try_for_each(|value| into(value.clone(), value)),
        Value::Object(values) => values.iter_sorted().try_for_each(|(name, value)| into(name.clone(), value)),
        _ => Some(()),
    }
}

/// Values in one another, of which each indents what is in it.
const DEEP: usize = 16;

/// The engine's own function, of no more than there is room for: it makes a few times as much.
pub(super) fn own(name: &str, args: &[Value]) -> Option<Value> {
    take(args.iter().map(weight).fold(0, usize::saturating_add))?;
    let at = OWN_FUNCTIONS.iter().position(|(known, _)| *known == name)?;
    let found = OWN.with_borrow_mut(|engine| {
        engine.set_input(Value::from(args.to_vec()));
        let found = engine.eval_rule(format!("data.own.f{at}"));
        engine.set_input(Value::Undefined);
        found.ok()
    })?;
    take(weight(&found))?;
    Some(found)
}

/// With the number of their arguments.
const OWN_FUNCTIONS: [(&str, usize); 10] = [
    ("sprintf", 2),
    ("product", 1),
    ("bits.lsh", 2),
    ("json.marshal_with_options", 2),
    ("urlquery.encode", 1),
    ("urlquery.encode_object", 1),
    ("indexof_n", 2),
    ("regex.split", 2),
    ("regex.find_n", 3),
    ("regex.find_all_string_submatch_n", 3),
];

fn own_engine() -> Engine {
    let mut engine = Engine::new();
    engine.set_rego_v0(true);
    engine.set_strict_builtin_errors(false);
    let mut policy = "package own\n".to_owned();
    for (at, (name, count)) in OWN_FUNCTIONS.iter().enumerate() {
        let args = (0..*count).map(|n| format!("input[{n}]")).collect::<Vec<_>>().join(", ");
        // Text always finds room.
        let _ = writeln!(policy, "f{at} = {name}({args})");
    }
    if let Err(error) = engine.add_policy("own".to_owned(), policy) {
        tracing::error!(%error, "functions of policies are not there");
    }
    engine
}

//! `glob.match`: `*` within a part, `**` over parts, `?`, `[abc]`, `[!a-z]`, `{one,two}`, with any characters between parts.

use super::builtins::text;
use regex::Regex;
use regorus::Value;
use std::cell::RefCell;
use std::collections::HashMap;

/// Patterns a thread keeps compiled.
const KEPT_MAX: usize = 256;

thread_local! {
    static KEPT: RefCell<HashMap<String, Option<Regex>>> = RefCell::default();
}

/// Pattern, delimiters (a list of characters; empty: `.`; null: none), text.
pub(super) fn matches(args: &[Value]) -> Option<Value> {
    let (pattern, subject) = (text(&args[0])?, text(&args[2])?);
    let mut between = String::new();
    match &args[1] {
        Value::Null => {}
        Value::Array(all) if all.is_empty() => between.push('.'),
        Value::Array(all) => {
            for part in all.iter() {
                let mut characters = text(part)?.chars();
                between.push(characters.next().filter(|_| characters.next().is_none())?);
            }
        }
        _ => return None,
    }
    let key = format!("{between}\0{pattern}");
    KEPT.with_borrow_mut(|kept| {
        if kept.len() >= KEPT_MAX && !kept.contains_key(&key) {
            kept.clear();
        }
        let compiled = kept.entry(key).or_insert_with(|| Regex::new(&translate(pattern, &between)?).ok());
        compiled.as_ref().map(|regex| Value::from(regex.is_match(subject)))
    })
}

pub(super) fn quote_meta(args: &[Value]) -> Option<Value> {
    let mut out = String::new();
    for c in text(&args[0])?.chars() {
        if "*?\\[]{}".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    Some(Value::from(out))
}

/// The pattern as an expression that is matched in linear time.
fn translate(pattern: &str, between: &str) -> Option<String> {
    let escaped = |text: &str| text.chars().map(|c| format!("\\x{{{:x}}}", u32::from(c))).collect::<String>();
    let any = if between.is_empty() { "(?s:.)".to_owned() } else { format!("[^{}]", escaped(between)) };
    let mut out = String::from("^");
    let (mut chars, mut depth) = (pattern.chars().peekable(), 0u32);
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                while chars.next_if_eq(&'*').is_some() {}
                out.push_str("(?s:.*)");
            }
            '*' => out.push_str(&format!("{any}*")),
            '?' => out.push_str(&any),
            '[' => {
                let negated = chars.next_if_eq(&'!').is_some();
                out.push_str(if negated { "[^" } else { "[" });
                let mut some = false;
                loop {
                    match chars.next()? {
                        ']' if some => break,
                        '-' if some && chars.peek() != Some(&']') => out.push('-'),
                        '\\' => out.push_str(&escaped(&chars.next()?.to_string())),
                        c => out.push_str(&escaped(&c.to_string())),
                    }
                    some = true;
                }
                out.push(']');
            }
            '{' => {
                depth += 1;
                out.push_str("(?:");
            }
            '}' if depth > 0 => {
                depth -= 1;
                out.push(')');
            }
            ',' if depth > 0 => out.push('|'),
            '\\' => out.push_str(&escaped(&chars.next()?.to_string())),
            c => out.push_str(&escaped(&c.to_string())),
        }
    }
    out.push('$');
    (depth == 0).then_some(out)
}

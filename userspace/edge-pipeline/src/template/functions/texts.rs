//! sprig's functions of texts, encodings, patterns, paths and URLs.

use super::*;
use crate::template::encoding;

pub(super) const TABLE: &[Function] = &[
    function("trim", 1, 1, |work, args| work.text(text_of(&args[0])?.trim())),
    function("upper", 1, 1, |work, args| work.text(text_of(&args[0])?.to_uppercase())),
    function("lower", 1, 1, |work, args| work.text(text_of(&args[0])?.to_lowercase())),
    function("title", 1, 1, |work, args| {
        let mut start = true;
        let text: String = text_of(&args[0])?
            .chars()
            .map(|c| {
                let c = if start { c.to_uppercase().next().unwrap_or(c) } else { c };
                start = !(c.is_alphanumeric() || c == '_' || c == '\'');
                c
            })
            .collect();
        work.text(text)
    }),
    function("untitle", 1, 1, |work, args| {
        let mut start = true;
        let text: String = text_of(&args[0])?
            .chars()
            .map(|c| {
                let c = if start { c.to_lowercase().next().unwrap_or(c) } else { c };
                start = c.is_whitespace();
                c
            })
            .collect();
        work.text(text)
    }),
    function("trunc", 2, 2, |work, args| {
        let (count, text) = (int_of(&args[0])?, text_of(&args[1])?);
        let length = text.len() as i64;
        match count {
            n if n < 0 && length + n > 0 => work.text(&text[boundary(&text, length + n)..]),
            n if n >= 0 && length > n => work.text(&text[..boundary(&text, n)]),
            _ => Ok(Value::Text(text)),
        }
    }),
    function("substr", 3, 3, |work, args| {
        let (start, end, text) = (int_of(&args[0])?, int_of(&args[1])?, text_of(&args[2])?);
        let length = text.len() as i64;
        let end = if start < 0 || (0..=length).contains(&end) { end.clamp(0, length) } else { length };
        let start = start.clamp(0, length);
        match start <= end {
            true => work.text(&text[boundary(&text, start)..boundary(&text, end)]),
            false => Err(format!("{start} to {end} is out of range")),
        }
    }),
    function("repeat", 2, 2, |work, args| {
        let (count, text) = (int_of(&args[0])?, text_of(&args[1])?);
        let count = usize::try_from(count).map_err(|_| "a negative count")?;
        work.reserve(text.len().saturating_mul(count))?;
        Ok(Value::text(text.repeat(count)))
    }),
    function("trimAll", 2, 2, |work, args| {
        let (cut, text) = (text_of(&args[0])?, text_of(&args[1])?);
        work.text(text.trim_matches(|c| cut.contains(c)))
    }),
    function("trimall", 2, 2, |work, args| {
        let (cut, text) = (text_of(&args[0])?, text_of(&args[1])?);
        work.text(text.trim_matches(|c| cut.contains(c)))
    }),
    function("trimSuffix", 2, 2, |work, args| {
        let (cut, text) = (text_of(&args[0])?, text_of(&args[1])?);
        work.text(text.strip_suffix(&*cut).unwrap_or(&text))
    }),
    function("trimPrefix", 2, 2, |work, args| {
        let (cut, text) = (text_of(&args[0])?, text_of(&args[1])?);
        work.text(text.strip_prefix(&*cut).unwrap_or(&text))
    }),
    function("contains", 2, 2, |_, args| Ok(Value::Bool(text_of(&args[1])?.contains(&*text_of(&args[0])?)))),
    function("hasPrefix", 2, 2, |_, args| Ok(Value::Bool(text_of(&args[1])?.starts_with(&*text_of(&args[0])?)))),
    function("hasSuffix", 2, 2, |_, args| Ok(Value::Bool(text_of(&args[1])?.ends_with(&*text_of(&args[0])?)))),
    function("nospace", 1, 1, |work, args| work.text(text_of(&args[0])?.replace(char::is_whitespace, ""))),
    function("initials", 1, 1, |work, args| {
        work.text(text_of(&args[0])?.split_whitespace().filter_map(|w| w.chars().next()).collect::<String>())
    }),
    function("snakecase", 1, 1, |work, args| work.text(words_joined(&text_of(&args[0])?, '_'))),
    function("kebabcase", 1, 1, |work, args| work.text(words_joined(&text_of(&args[0])?, '-'))),
    function("quote", 0, MANY, |work, args| quoted(work, args, encoding::quote)),
    function("squote", 0, MANY, |work, args| quoted(work, args, |text| format!("'{text}'"))),
    function("cat", 0, MANY, |work, args| quoted(work, args, str::to_owned)),
    function("indent", 2, 2, |work, args| {
        let text = indented(work, args)?;
        work.text(text)
    }),
    function("nindent", 2, 2, |work, args| {
        let text = indented(work, args)?;
        work.text(format!("\n{text}"))
    }),
    function("replace", 3, 3, |work, args| {
        let (old, new, text) = (text_of(&args[0])?, text_of(&args[1])?, text_of(&args[2])?);
        let most = if old.is_empty() { text.chars().count() + 1 } else { text.len() / old.len() };
        work.reserve(most.saturating_mul(new.len()).saturating_add(text.len()))?;
        Ok(Value::text(text.replace(&*old, &new)))
    }),
    function("plural", 3, 3, |_, args| Ok(args[usize::from(int_of(&args[2])? != 1)].clone())),
    function("toString", 1, 1, |work, args| match &args[0] {
        Value::Bytes(bytes) => {
            let text = String::from_utf8_lossy(bytes);
            work.text(text)
        }
        other => Ok(Value::Text(work.show(other)?)),
    }),
    function("sha1sum", 1, 1, |work, args| work.text(encoding::sha1(&text_of(&args[0])?))),
    function("sha256sum", 1, 1, |work, args| work.text(encoding::sha256(&text_of(&args[0])?))),
    function("sha512sum", 1, 1, |work, args| work.text(encoding::sha512(&text_of(&args[0])?))),
    function("adler32sum", 1, 1, |work, args| work.text(encoding::adler32(&text_of(&args[0])?).to_string())),
    function("b64enc", 1, 1, |work, args| {
        let text = text_of(&args[0])?;
        work.text(encoding::base64(text.as_bytes()))
    }),
    function("b64dec", 1, 1, |work, args| decoded(work, encoding::from_base64(&text_of(&args[0])?), "base64")),
    function("b32enc", 1, 1, |work, args| work.text(encoding::base32(text_of(&args[0])?.as_bytes()))),
    function("b32dec", 1, 1, |work, args| decoded(work, encoding::from_base32(&text_of(&args[0])?), "base32")),
    function("regexMatch", 2, 2, matches),
    function("mustRegexMatch", 2, 2, matches),
    function("regexFind", 2, 2, find),
    function("mustRegexFind", 2, 2, find),
    function("regexFindAll", 3, 3, find_all),
    function("mustRegexFindAll", 3, 3, find_all),
    function("regexReplaceAll", 3, 3, |work, args| replace_all(work, args, false)),
    function("mustRegexReplaceAll", 3, 3, |work, args| replace_all(work, args, false)),
    function("regexReplaceAllLiteral", 3, 3, |work, args| replace_all(work, args, true)),
    function("mustRegexReplaceAllLiteral", 3, 3, |work, args| replace_all(work, args, true)),
    function("regexSplit", 3, 3, regex_split),
    function("mustRegexSplit", 3, 3, regex_split),
    function("regexQuoteMeta", 1, 1, |work, args| {
        let text = text_of(&args[0])?;
        let mut out = String::with_capacity(text.len() + 8);
        for c in text.chars() {
            if r"\.+*?()|[]{}^$".contains(c) {
                out.push('\\');
            }
            out.push(c);
        }
        work.text(out)
    }),
    function("base", 1, 1, |work, args| work.text(base(&text_of(&args[0])?))),
    function("osBase", 1, 1, |work, args| work.text(base(&text_of(&args[0])?))),
    function("dir", 1, 1, |work, args| work.text(dir(&text_of(&args[0])?))),
    function("osDir", 1, 1, |work, args| work.text(dir(&text_of(&args[0])?))),
    function("clean", 1, 1, |work, args| work.text(clean(&text_of(&args[0])?))),
    function("osClean", 1, 1, |work, args| work.text(clean(&text_of(&args[0])?))),
    function("ext", 1, 1, |work, args| work.text(extension(&text_of(&args[0])?))),
    function("osExt", 1, 1, |work, args| work.text(extension(&text_of(&args[0])?))),
    function("isAbs", 1, 1, |_, args| Ok(Value::Bool(text_of(&args[0])?.starts_with('/')))),
    function("osIsAbs", 1, 1, |_, args| Ok(Value::Bool(text_of(&args[0])?.starts_with('/')))),
    function("urlParse", 1, 1, url_parse),
    function("urlJoin", 1, 1, url_join),
    function("randAlphaNum", 1, 1, |work, args| {
        let count = usize::try_from(int_of(&args[0])?).map_err(|_| "a negative count")?;
        work.reserve(count)?;
        let mut bytes = vec![0u8; count];
        super::core::random(&mut bytes)?;
        let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        Ok(Value::text(bytes.iter().map(|b| letters[*b as usize % letters.len()] as char).collect::<String>()))
    }),
];

/// The nearest character boundary at or before `at`.
fn boundary(text: &str, at: i64) -> usize {
    text.floor_char_boundary(at.max(0) as usize)
}

fn words_joined(text: &str, between: char) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut lower = false;
    for c in text.chars() {
        if c.is_uppercase() && lower {
            out.push(between);
        }
        match c.is_alphanumeric() {
            true => out.extend(c.to_lowercase()),
            false if out.is_empty() || out.ends_with(between) => {}
            false => out.push(between),
        }
        lower = c.is_lowercase() || c.is_ascii_digit();
    }
    out
}

/// Every argument but nothings, through `form`, with spaces between.
fn quoted<'x>(work: &mut Work, args: &[Value<'x>], form: fn(&str) -> String) -> Answer<'x> {
    let mut out = String::new();
    for (index, arg) in args.iter().filter(|arg| !matches!(arg, Value::Nil)).enumerate() {
        let text = work.show(arg)?;
        work.reserve(text.len() * 2)?;
        if index > 0 {
            out.push(' ');
        }
        out.push_str(&form(&text));
    }
    work.text(out)
}

fn indented(work: &mut Work, args: &[Value<'_>]) -> Result<String, String> {
    let count = usize::try_from(int_of(&args[0])?).map_err(|_| "a negative count")?;
    let text = text_of(&args[1])?;
    let lines = text.bytes().filter(|b| *b == b'\n').count() + 1;
    work.reserve(count.saturating_mul(lines + 1).saturating_add(text.len()))?;
    let pad = " ".repeat(count);
    Ok(format!("{pad}{}", text.replace('\n', &format!("\n{pad}"))))
}

fn decoded<'x>(work: &mut Work, bytes: Option<Vec<u8>>, format: &str) -> Answer<'x> {
    match bytes {
        Some(bytes) => work.text(String::from_utf8_lossy(&bytes)),
        // sprig returns the error's text as the result; so does this.
        None => work.text(format!("illegal {format} data")),
    }
}

fn matches<'x>(work: &mut Work, args: &[Value<'x>]) -> Answer<'x> {
    let text = text_of(&args[1])?;
    work.spend(text.len() / 64)?;
    Ok(Value::Bool(regex_of(&text_of(&args[0])?)?.is_match(&text)))
}

fn find<'x>(work: &mut Work, args: &[Value<'x>]) -> Answer<'x> {
    let text = text_of(&args[1])?;
    work.spend(text.len() / 64)?;
    let regex = regex_of(&text_of(&args[0])?)?;
    work.text(regex.find(&text).map_or("", |found| found.as_str()))
}

/// At most `count`; a negative one means all.
fn limit(count: i64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

fn find_all<'x>(work: &mut Work, args: &[Value<'x>]) -> Answer<'x> {
    let (text, most) = (text_of(&args[1])?, limit(int_of(&args[2])?));
    work.spend(text.len() / 64)?;
    let regex = regex_of(&text_of(&args[0])?)?;
    let mut found = Vec::new();
    for piece in regex.find_iter(&text).take(most) {
        work.spend(1)?;
        found.push(work.text(piece.as_str())?);
    }
    work.list(found)
}

fn replace_all<'x>(work: &mut Work, args: &[Value<'x>], literal: bool) -> Answer<'x> {
    let (text, with) = (text_of(&args[1])?, text_of(&args[2])?);
    work.spend(text.len() / 64)?;
    let regex = regex_of(&text_of(&args[0])?)?;
    let mut out = String::new();
    let mut at = 0;
    for found in regex.captures_iter(&text) {
        work.spend(1)?;
        let Some(whole) = found.get(0) else { continue };
        out.push_str(&text[at..whole.start()]);
        if literal {
            out.push_str(&with);
        } else {
            found.expand(&with, &mut out);
        }
        at = whole.end();
        if out.len() > work.bytes {
            return Err(TOO_BIG.to_owned());
        }
    }
    out.push_str(&text[at..]);
    work.text(out)
}

fn regex_split<'x>(work: &mut Work, args: &[Value<'x>]) -> Answer<'x> {
    let (text, count) = (text_of(&args[1])?, int_of(&args[2])?);
    work.spend(text.len() / 64)?;
    let regex = regex_of(&text_of(&args[0])?)?;
    if count == 0 {
        return work.list(Vec::new());
    }
    // Go's rule: an empty match at the front or the end cuts nothing off.
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    let (mut out, mut from, mut last) = (Vec::new(), 0, 0);
    for found in regex.find_iter(&text) {
        if out.len() + 1 == most {
            break;
        }
        last = found.start();
        if found.end() != 0 {
            out.push(work.text(&text[from..last])?);
        }
        from = found.end();
    }
    if last != text.len() || text.is_empty() {
        out.push(work.text(&text[from..])?);
    }
    work.list(out)
}

fn base(path: &str) -> &str {
    if path.is_empty() {
        return ".";
    }
    match path.trim_end_matches('/') {
        "" => "/",
        path => path.rsplit('/').next().unwrap_or(path),
    }
}

fn dir(path: &str) -> String {
    clean(path.rfind('/').map_or("", |at| &path[..=at]))
}

fn extension(path: &str) -> &str {
    let last = path.rsplit('/').next().unwrap_or(path);
    last.rfind('.').map_or("", |at| &last[at..])
}

/// Go's `path.Clean`.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

fn url_parse<'x>(work: &mut Work, args: &[Value<'x>]) -> Answer<'x> {
    let text = text_of(&args[0])?;
    let (rest, fragment) = text.split_once('#').unwrap_or((&text, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let scheme_end = rest.find(':').filter(|at| {
        let scheme = &rest[..*at];
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    });
    let (scheme, rest) = scheme_end.map_or(("", rest), |at| (&rest[..at], &rest[at + 1..]));
    let (authority, path) = match rest.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => ("", rest),
    };
    let opaque = if !scheme.is_empty() && authority.is_empty() && !path.starts_with('/') { path } else { "" };
    let path = if opaque.is_empty() { path } else { "" };
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let hostname = proto_http::message::host_of(host).trim_matches(['[', ']']);
    let scheme = scheme.to_ascii_lowercase();
    let mut entries = Vec::new();
    for (key, value) in [
        ("scheme", scheme.as_str()),
        ("host", host),
        ("hostname", hostname),
        ("path", path),
        ("query", query),
        ("opaque", opaque),
        ("fragment", fragment),
        ("userinfo", user),
    ] {
        entries.push((Arc::from(key), work.text(value)?));
    }
    work.map(entries)
}

fn url_join<'x>(work: &mut Work, args: &[Value<'x>]) -> Answer<'x> {
    let map = map_of(&args[0])?;
    let part = |key: &str| match map.value(key) {
        Some(Value::Text(text)) => text,
        _ => Arc::from(""),
    };
    let (scheme, host, path, opaque) = (part("scheme"), part("host"), part("path"), part("opaque"));
    let (user, query, fragment) = (part("userinfo"), part("query"), part("fragment"));
    let mut out = String::new();
    if !scheme.is_empty() {
        out.push_str(&format!("{scheme}:"));
    }
    if opaque.is_empty() {
        if !host.is_empty() || !user.is_empty() {
            out.push_str("//");
            if !user.is_empty() {
                out.push_str(&format!("{user}@"));
            }
            out.push_str(&host);
            if !path.is_empty() && !path.starts_with('/') {
                out.push('/');
            }
        }
        out.push_str(&path);
    } else {
        out.push_str(&opaque);
    }
    if !query.is_empty() {
        out.push_str(&format!("?{query}"));
    }
    if !fragment.is_empty() {
        out.push_str(&format!("#{fragment}"));
    }
    work.text(out)
}

//! sprig's lists and dictionaries.

use super::*;

pub(super) const TABLE: &[Function] = &[
    function("list", 0, MANY, |work, args| work.list(args.to_vec())),
    function("tuple", 0, MANY, |work, args| work.list(args.to_vec())),
    function("first", 1, 1, |_, args| Ok(items_of(&args[0])?.first().cloned().unwrap_or(Value::Nil))),
    function("mustFirst", 1, 1, |_, args| Ok(items_of(&args[0])?.first().cloned().unwrap_or(Value::Nil))),
    function("last", 1, 1, |_, args| Ok(items_of(&args[0])?.last().cloned().unwrap_or(Value::Nil))),
    function("mustLast", 1, 1, |_, args| Ok(items_of(&args[0])?.last().cloned().unwrap_or(Value::Nil))),
    function("rest", 1, 1, rest),
    function("mustRest", 1, 1, rest),
    function("initial", 1, 1, initial),
    function("mustInitial", 1, 1, initial),
    function("append", 2, 2, push),
    function("push", 2, 2, push),
    function("mustAppend", 2, 2, push),
    function("mustPush", 2, 2, push),
    function("prepend", 2, 2, prepend),
    function("mustPrepend", 2, 2, prepend),
    function("reverse", 1, 1, reverse),
    function("mustReverse", 1, 1, reverse),
    function("uniq", 1, 1, uniq),
    function("mustUniq", 1, 1, uniq),
    function("without", 1, MANY, without),
    function("mustWithout", 1, MANY, without),
    function("compact", 1, 1, compact),
    function("mustCompact", 1, 1, compact),
    function("has", 2, 2, has),
    function("mustHas", 2, 2, has),
    function("concat", 0, MANY, |work, args| {
        let mut all = Vec::new();
        for arg in args {
            all.extend(items_of(arg)?);
            work.spend(all.len() / 16)?;
        }
        work.list(all)
    }),
    function("chunk", 2, 2, chunk),
    function("mustChunk", 2, 2, chunk),
    function("join", 2, 2, |work, args| {
        let between = text_of(&args[0])?;
        let words = shown(work, &args[1])?;
        work.reserve(between.len().saturating_mul(words.len()))?;
        work.text(words.join(&between))
    }),
    function("sortAlpha", 1, 1, |work, args| {
        let mut words = shown(work, &args[0])?;
        words.sort();
        work.list(words.into_iter().map(Value::Text).collect())
    }),
    function("toStrings", 1, 1, |work, args| {
        let words = shown(work, &args[0])?;
        work.list(words.into_iter().map(Value::Text).collect())
    }),
    function("splitList", 2, 2, |work, args| {
        let (between, text) = (text_of(&args[0])?, text_of(&args[1])?);
        let pieces = pieces(&text, &between, usize::MAX);
        let mut out = Vec::with_capacity(pieces.len());
        for piece in pieces {
            out.push(work.text(piece)?);
        }
        work.list(out)
    }),
    function("split", 2, 2, |work, args| {
        let (between, text) = (text_of(&args[0])?, text_of(&args[1])?);
        numbered(work, pieces(&text, &between, usize::MAX))
    }),
    function("splitn", 3, 3, |work, args| {
        let (between, most, text) = (text_of(&args[0])?, int_of(&args[1])?, text_of(&args[2])?);
        numbered(work, pieces(&text, &between, usize::try_from(most).unwrap_or(usize::MAX)))
    }),
    function("dict", 0, MANY, |work, args| {
        let mut entries = Vec::with_capacity(args.len() / 2);
        for pair in args.chunks(2) {
            let value = pair.get(1).cloned().unwrap_or_else(|| Value::text(""));
            entries.push((work.show(&pair[0])?, value));
        }
        work.map(entries)
    }),
    function("get", 2, 2, |_, args| Ok(map_of(&args[0])?.value(&key_of(&args[1])?).unwrap_or_else(|| Value::text("")))),
    function("hasKey", 2, 2, |_, args| Ok(Value::Bool(map_of(&args[0])?.value(&key_of(&args[1])?).is_some()))),
    function("set", 3, 3, |work, args| {
        work.spend(4)?;
        work.reserve(2 * size_of::<Value<'_>>())?;
        let map = map_of(&args[0])?;
        map.set(key_of(&args[1])?, args[2].clone())?;
        Ok(Value::Map(map))
    }),
    function("unset", 2, 2, |_, args| {
        let map = map_of(&args[0])?;
        map.remove(&key_of(&args[1])?);
        Ok(Value::Map(map))
    }),
    function("keys", 0, MANY, |work, args| {
        let mut keys = Vec::new();
        for arg in args {
            keys.extend(map_of(arg)?.entries().into_iter().map(|(key, _)| Value::Text(key)));
        }
        work.list(keys)
    }),
    function("values", 1, 1, |work, args| {
        let values = map_of(&args[0])?.entries().into_iter().map(|(_, value)| value).collect();
        work.list(values)
    }),
    function("pluck", 1, MANY, |work, args| {
        let key = key_of(&args[0])?;
        let mut found = Vec::new();
        for arg in &args[1..] {
            found.extend(map_of(arg)?.value(&key));
        }
        work.list(found)
    }),
    function("pick", 1, MANY, |work, args| {
        let map = map_of(&args[0])?;
        let mut entries = Vec::new();
        for key in &args[1..] {
            let key = key_of(key)?;
            entries.extend(map.value(&key).map(|value| (key, value)));
        }
        work.map(entries)
    }),
    function("omit", 1, MANY, |work, args| {
        let mut entries = map_of(&args[0])?.entries();
        for key in &args[1..] {
            let key = key_of(key)?;
            work.spend(entries.len() / 16)?;
            entries.retain(|(k, _)| *k != key);
        }
        work.map(entries)
    }),
    function("dig", 3, MANY, |_, args| {
        let (keys, default) = (&args[..args.len() - 2], &args[args.len() - 2]);
        let mut value = args[args.len() - 1].clone().plain();
        for key in keys {
            let Value::Map(map) = &value else { return Ok(default.clone()) };
            match map.value(&key_of(key)?) {
                Some(found) => value = found.plain(),
                None => return Ok(default.clone()),
            }
        }
        Ok(value)
    }),
];

fn rest<'x>(work: &mut Work, args: &[Value<'x>]) -> Answer<'x> {
    let items = items_of(&args[0])?;
    work.list(items.into_iter().skip(1).collect())
}

fn initial<'x>(work: &mut Work, args: &[Value<'x>]) -> Answer<'x> {
    let mut items = items_of(&args[0])?;
    items.pop();
    work.list(items)
}

fn push<'x>(work: &mut Work, args: &[Value<'x>]) -> Answer<'x> {
    let mut items = items_of(&args[0])?;
    items.push(args[1].clone());
    work.list(items)
}

fn prepend<'x>(work: &mut Work, args: &[Value<'x>]) -> Answer<'x> {
    let mut items = items_of(&args[0])?;
    items.insert(0, args[1].clone());
    work.list(items)
}

fn reverse<'x>(work: &mut Work, args: &[Value<'x>]) -> Answer<'x> {
    let mut items = items_of(&args[0])?;
    items.reverse();
    work.list(items)
}

/// Whether `item` is in `items`; every comparison is paid for.
fn holds<'x>(work: &mut Work, items: &[Value<'x>], item: &Value<'x>) -> Result<bool, String> {
    for other in items {
        if item.deep_equals(other, 0, &mut work.steps)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn uniq<'x>(work: &mut Work, args: &[Value<'x>]) -> Answer<'x> {
    let mut kept = Vec::new();
    for item in items_of(&args[0])? {
        if !holds(work, &kept, &item)? {
            kept.push(item);
        }
    }
    work.list(kept)
}

fn without<'x>(work: &mut Work, args: &[Value<'x>]) -> Answer<'x> {
    let mut kept = Vec::new();
    for item in items_of(&args[0])? {
        if !holds(work, &args[1..], &item)? {
            kept.push(item);
        }
    }
    work.list(kept)
}

fn compact<'x>(work: &mut Work, args: &[Value<'x>]) -> Answer<'x> {
    let items = items_of(&args[0])?;
    work.list(items.into_iter().filter(Value::is_true).collect())
}

fn has<'x>(work: &mut Work, args: &[Value<'x>]) -> Answer<'x> {
    let items = items_of(&args[1])?;
    Ok(Value::Bool(holds(work, &items, &args[0])?))
}

fn chunk<'x>(work: &mut Work, args: &[Value<'x>]) -> Answer<'x> {
    let size = usize::try_from(int_of(&args[0])?).ok().filter(|n| *n > 0).ok_or("a chunk holds at least one item")?;
    let items = items_of(&args[1])?;
    let mut chunks = Vec::new();
    for chunk in items.chunks(size) {
        chunks.push(work.list(chunk.to_vec())?);
    }
    work.list(chunks)
}

/// The items of a list as texts, nothings left out; one value is a list of one.
fn shown(work: &mut Work, value: &Value<'_>) -> Result<Vec<Arc<str>>, String> {
    let items = match value.clone().plain() {
        Value::List(list) => list.items().to_vec(),
        Value::Nil => Vec::new(),
        other => vec![other],
    };
    work.spend(items.len())?;
    items.iter().filter(|item| !matches!(item, Value::Nil)).map(|item| work.show(item)).collect()
}

/// Go's `strings.SplitN`: an empty separator cuts between characters.
fn pieces<'t>(text: &'t str, between: &str, most: usize) -> Vec<&'t str> {
    if most == 0 {
        return Vec::new();
    }
    if !between.is_empty() {
        return text.splitn(most, between).collect();
    }
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if out.len() + 1 == most {
            break;
        }
        let (head, tail) = rest.split_at(c.len_utf8());
        out.push(head);
        rest = tail;
    }
    if !rest.is_empty() {
        out.push(rest);
    }
    out
}

/// sprig's strange map: `_0`, `_1`, …
fn numbered<'x>(work: &mut Work, pieces: Vec<&str>) -> Answer<'x> {
    let mut entries = Vec::with_capacity(pieces.len());
    for (index, piece) in pieces.into_iter().enumerate() {
        entries.push((Arc::from(format!("_{index}")), work.text(piece)?));
    }
    work.map(entries)
}

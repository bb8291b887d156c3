//! Conditions: `acl` lines, and what stands behind `if` and `unless`.

use super::syntax::Line;
use base_model::ip_filter::Cidr;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::rc::Rc;

/// One thing that is asked; several are alternatives.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// An entry of a rule's `hosts`.
    Host(Value),
    /// `path`, `pathPrefix` or `pathRegexp`.
    Path(&'static str, String),
    Method(String),
    /// An entry of `headers`.
    Header(Value),
    /// An entry of `queries`.
    Query(Value),
    Source(String),
    /// The name in a TLS handshake.
    Sni(String),
    /// It came over TLS.
    Tls,
}

/// Lists by their names. A list that cannot be translated is why not.
pub type Lists = BTreeMap<String, Result<Rc<[Test]>, String>>;

/// Reads the `acl` lines of a section.
pub fn lists(lines: &[Line]) -> Lists {
    let mut lists: BTreeMap<String, Result<Vec<Test>, String>> = BTreeMap::new();
    for line in lines.iter().filter(|line| line.is(&["acl"])) {
        let tests = tests(&line.words[2.min(line.words.len())..]);
        match (lists.entry(line.word(1).to_owned()).or_insert_with(|| Ok(Vec::new())), tests) {
            // Written twice: either will do.
            (Ok(known), Ok(tests)) => known.extend(tests),
            (known @ Ok(_), Err(why)) => *known = Err(why),
            (Err(_), _) => {}
        }
    }
    lists.into_iter().map(|(name, tests)| (name, tests.map(Rc::from))).collect()
}

fn tests(words: &[String]) -> Result<Vec<Test>, String> {
    let criterion = words.first().map(String::as_str).unwrap_or_default();
    let mut any_case = false;
    let mut method = None;
    let mut values: Vec<&str> = Vec::new();
    let mut rest = words.iter().skip(1).map(String::as_str);
    while let Some(word) = rest.next() {
        match word {
            "-i" if values.is_empty() => any_case = true,
            "-m" if values.is_empty() => method = rest.next(),
            "--" if values.is_empty() => {}
            "-f" | "-M" | "-n" | "-u" if values.is_empty() => return Err(format!("{word} is not translated")),
            value => values.push(value),
        }
    }
    let (name, argument) = match criterion.split_once('(') {
        Some((name, argument)) => (name, argument.trim_end_matches(')').split(',').next().unwrap_or_default()),
        None => (criterion, ""),
    };
    // `path_beg` is `path -m beg`.
    let (base, suffix) = ["_beg", "_end", "_reg", "_dom", "_dir", "_sub", "_str"]
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix).map(|base| (base, &suffix[1..])))
        .unwrap_or((name, method.unwrap_or("str")));
    let base = base.strip_prefix("req.").unwrap_or(base);
    let case = if any_case { "(?i)" } else { "" };
    let escaped = |text: &str| escape(text);
    let expression = |value: &str| -> Result<String, String> {
        let text = match suffix {
            "beg" => format!("{case}^{}", escaped(value)),
            "end" => format!("{case}{}$", escaped(value)),
            "sub" => format!("{case}{}", escaped(value)),
            "dir" => format!("{case}/{}(/|$)", escaped(value.trim_matches('/'))),
            "dom" => format!("{case}(^|\\.){}(\\.|$)", escaped(value)),
            "reg" => format!("{case}{value}"),
            "str" => format!("{case}^{}$", escaped(value)),
            other => return Err(format!("ways to match by {other} are not translated")),
        };
        base_model::regexp::compile(&text).map(|_| text)
    };
    let is_host = argument.eq_ignore_ascii_case("host");
    if base == "ssl_fc" || (base == "dst_port" && values == ["443"]) {
        return Ok(vec![Test::Tls]);
    }
    if values.is_empty() {
        return match base {
            // Whether there is one.
            "hdr" | "fhdr" if suffix == "found" && !is_host => {
                Ok(vec![Test::Header(json!({"key": argument, "regexp": "."}))])
            }
            _ => Err(format!("{} is not translated", base_text::quoted(&criterion))),
        };
    }
    let test = |value: &str| -> Result<Test, String> {
        Ok(match base {
            "hdr" | "fhdr" if is_host => Test::Host(match suffix {
                "str" => json!({"value": value}),
                "end" if value.starts_with('.') => json!({"value": format!("*{value}")}),
                // Hosts know no case.
                _ => json!({"isRegexp": true, "value": expression(value)?.replacen("(?i)", "", 1)}),
            }),
            "hdr" | "fhdr" if suffix == "str" && !any_case => Test::Header(json!({"key": argument, "values": [value]})),
            "hdr" | "fhdr" => Test::Header(json!({"key": argument, "regexp": expression(value)?})),
            "path" => match suffix {
                "str" if !any_case && value.starts_with('/') => Test::Path("path", value.to_owned()),
                "beg" if !any_case && value.starts_with('/') => Test::Path("pathPrefix", value.to_owned()),
                _ => Test::Path("pathRegexp", expression(value)?),
            },
            "method" => Test::Method(value.to_ascii_uppercase()),
            "urlp" | "url_param" if suffix == "str" => Test::Query(json!({"key": argument, "values": [value]})),
            "urlp" | "url_param" => Test::Query(json!({"key": argument, "regexp": expression(value)?})),
            "src" if value.parse::<Cidr>().is_ok() => Test::Source(value.to_owned()),
            "ssl_sni" | "ssl_fc_sni" if suffix == "str" => Test::Sni(value.to_owned()),
            "ssl_sni" | "ssl_fc_sni" if suffix == "end" && value.starts_with('.') => Test::Sni(format!("*{value}")),
            _ => return Err(format!("{} is not translated", base_text::quoted(&criterion))),
        })
    };
    values.into_iter().map(test).collect()
}

fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        if "\\.+*?()|[]{}^$".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// One list after another that has to hold, with alternatives in each.
#[derive(Debug, Clone, Default)]
pub struct Together {
    pub lists: Vec<Rc<[Test]>>,
    /// It must not have come over TLS.
    pub plain: bool,
}

/// Reads what stands behind `if`: alternatives of lists that hold together. `Err` says what of it cannot be translated.
pub fn condition(words: &[String], lists: &Lists) -> Result<Vec<Together>, String> {
    let mut alternatives = vec![Together::default()];
    let mut at = 0;
    while at < words.len() {
        let word = words[at].as_str();
        at += 1;
        let (negated, word) = match word.strip_prefix('!') {
            Some("") if words.get(at).is_some_and(|next| next == "{") => {
                at += 1;
                (true, "{")
            }
            Some(rest) => (true, rest),
            None => (false, word),
        };
        let found = match word {
            "||" | "or" => {
                alternatives.push(Together::default());
                continue;
            }
            "and" => continue,
            "{" => {
                let end = words[at..].iter().position(|word| word == "}").ok_or("a { that nothing closes")?;
                let found = tests(&words[at..at + end]);
                at += end + 1;
                found.map(Rc::from)
            }
            "TRUE" => continue,
            "HTTP" => continue,
            name => match (lists.get(name), predefined(name)) {
                (Some(found), _) => found.clone(),
                (None, Some(found)) => Ok(found.into()),
                (None, None) => Err(format!("there is no acl {}", base_text::quoted(&name))),
            },
        }?;
        let Some(last) = alternatives.last_mut() else { continue };
        match (negated, &found[..]) {
            (true, [Test::Tls]) => last.plain = true,
            (true, _) => return Err("what must not hold is not translated".to_owned()),
            (false, _) => last.lists.push(found),
        }
        if last.lists.len() > ALTERNATIVES_MAX {
            return Err(format!("more than {ALTERNATIVES_MAX} lists that have to hold together"));
        }
        if alternatives.len() > ALTERNATIVES_MAX {
            return Err(format!("more than {ALTERNATIVES_MAX} alternatives"));
        }
    }
    Ok(alternatives)
}

const ALTERNATIVES_MAX: usize = 100;

fn predefined(name: &str) -> Option<Vec<Test>> {
    let method = |name: &str| Some(vec![Test::Method(name.to_owned())]);
    match name {
        "METH_GET" => Some(vec![Test::Method("GET".to_owned()), Test::Method("HEAD".to_owned())]),
        "METH_POST" => method("POST"),
        "METH_PUT" => method("PUT"),
        "METH_DELETE" => method("DELETE"),
        "METH_OPTIONS" => method("OPTIONS"),
        "METH_HEAD" => method("HEAD"),
        "METH_CONNECT" => method("CONNECT"),
        _ => None,
    }
}

impl Together {
    /// Paths its rule would have, each of which has all the rest.
    pub fn paths(&self) -> usize {
        self.lists
            .iter()
            .filter(|list| matches!(list.first(), Some(Test::Path(..))))
            .map(|list| list.len())
            .max()
            .unwrap_or(1)
    }

    /// Alternatives in all of its lists.
    pub fn tests(&self) -> usize {
        self.lists.iter().map(|list| list.len()).sum()
    }

    /// As hosts of a rule, and its paths to `backend`. `Err` says what cannot be said so.
    pub fn rule(&self, target: &Map<String, Value>) -> Result<Value, String> {
        let (mut hosts, mut paths, mut methods) = (None, None, None);
        let (mut headers, mut queries, mut sources) = (Vec::new(), Vec::new(), None);
        for list in &self.lists {
            if list.len() > ALTERNATIVES_MAX * 100 {
                return Err("too many alternatives".to_owned());
            }
            let first = list.first().ok_or("a list without a value")?;
            let alike = list.iter().all(|test| std::mem::discriminant(test) == std::mem::discriminant(first));
            if !alike {
                return Err("alternatives of different kinds are not translated".to_owned());
            }
            let twice = "two lists of one kind that have to hold together are not translated";
            match first {
                Test::Host(_) if hosts.is_none() => {
                    hosts = Some(
                        list.iter()
                            .filter_map(|t| if let Test::Host(v) = t { Some(v.clone()) } else { None })
                            .collect::<Vec<_>>(),
                    );
                }
                Test::Path(..) if paths.is_none() => paths = Some(list.clone()),
                Test::Method(_) if methods.is_none() => {
                    methods = Some(
                        list.iter()
                            .filter_map(|t| if let Test::Method(v) = t { Some(v.clone()) } else { None })
                            .collect::<Vec<_>>(),
                    );
                }
                Test::Source(_) if sources.is_none() => {
                    sources = Some(
                        list.iter()
                            .filter_map(|t| if let Test::Source(v) = t { Some(v.clone()) } else { None })
                            .collect::<Vec<_>>(),
                    );
                }
                Test::Header(value) if list.len() == 1 => headers.push(value.clone()),
                Test::Query(value) if list.len() == 1 => queries.push(value.clone()),
                Test::Header(_) | Test::Query(_) => return Err("alternatives of headers are not translated".to_owned()),
                Test::Tls => {}
                Test::Sni(_) => return Err("names of TLS choose among rules of a TCPProxy alone".to_owned()),
                _ => return Err(twice.to_owned()),
            }
        }
        let mut common = target.clone();
        if let Some(methods) = methods {
            common.insert("methods".into(), base_model::once(methods).into());
        }
        if let Some(sources) = sources {
            common.insert("ipFilter".into(), json!({"blockByDefault": true, "allowIPs": base_model::once(sources)}));
        }
        for (name, all, values) in [("headers", "matchAllHeader", headers), ("queries", "matchAllQuery", queries)] {
            if values.len() > 1 {
                common.insert(all.into(), true.into());
            }
            if !values.is_empty() {
                common.insert(name.into(), values.into());
            }
        }
        let with = |field: &str, text: &str| {
            let mut path = Map::new();
            path.insert(field.to_owned(), text.into());
            path.extend(common.clone());
            Value::Object(path)
        };
        let paths: Vec<Value> = match paths {
            None => vec![with("pathPrefix", "/")],
            Some(paths) => paths
                .iter()
                .filter_map(|t| if let Test::Path(field, text) = t { Some(with(field, text)) } else { None })
                .collect(),
        };
        Ok(match hosts {
            Some(hosts) => json!({"hosts": hosts, "paths": paths}),
            None => json!({"paths": paths}),
        })
    }
}

//! What locations inherit from servers, and those from the whole.

use super::Work;
use super::advice::{left, say};
use super::syntax::Directive;
use crate::report::Manner;
use serde_json::{Value, json};
use std::rc::Rc;

/// Settings in force at some place.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// `proxy_set_header`: given anew, those from outside do not count.
    pub set_headers: Rc<Vec<Directive>>,
    pub add_headers: Rc<Vec<Directive>>,
    pub hide_headers: Rc<Vec<Directive>>,
    /// `allow` and `deny`.
    pub access: Rc<Vec<Directive>>,
    pub gzip: bool,
    pub gzip_min: u32,
    /// In bytes; negative: any.
    pub max_body: Option<i64>,
    pub connect_timeout: Option<String>,
    pub keepalive_timeout: Option<String>,
    pub underscores: bool,
    pub trusted: Rc<Vec<String>>,
}

/// Directives that a scope takes in; all others are for whoever reads the block.
pub const TAKEN: &[&str] = &[
    "proxy_set_header",
    "add_header",
    "proxy_hide_header",
    "allow",
    "deny",
    "gzip",
    "gzip_min_length",
    "gzip_types",
    "gzip_vary",
    "gzip_proxied",
    "gzip_comp_level",
    "gzip_http_version",
    "gzip_disable",
    "client_max_body_size",
    "proxy_connect_timeout",
    "keepalive_timeout",
    "underscores_in_headers",
    "set_real_ip_from",
    "real_ip_header",
    "real_ip_recursive",
];

impl Scope {
    /// The outermost one.
    pub fn outermost() -> Scope {
        Scope { gzip_min: 20, ..Scope::default() }
    }

    /// Lines that each location below it gets.
    pub fn lines(&self) -> usize {
        [&self.set_headers, &self.add_headers, &self.hide_headers, &self.access].iter().map(|lines| lines.len()).sum()
    }

    /// The scope inside a block.
    pub fn enter(&self, work: &mut Work<'_>, block: &[Directive]) -> Scope {
        let mut inner = self.clone();
        let all = |name: &[&str]| -> Rc<Vec<Directive>> {
            Rc::new(block.iter().filter(|d| name.contains(&d.name.as_str()) && d.block.is_none()).cloned().collect())
        };
        let replace = |outer: &mut Rc<Vec<Directive>>, found: Rc<Vec<Directive>>| {
            if !found.is_empty() {
                *outer = found;
            }
        };
        replace(&mut inner.set_headers, all(&["proxy_set_header"]));
        replace(&mut inner.add_headers, all(&["add_header"]));
        replace(&mut inner.hide_headers, all(&["proxy_hide_header"]));
        replace(&mut inner.access, all(&["allow", "deny"]));
        for directive in block {
            inner.take(work, directive);
        }
        inner
    }

    fn take(&mut self, work: &mut Work<'_>, directive: &Directive) {
        let first = directive.word(0);
        match directive.name.as_str() {
            "gzip" => self.gzip = first == "on",
            "gzip_min_length" => match size(first) {
                Some(bytes) => self.gzip_min = u32::try_from(bytes).unwrap_or(u32::MAX),
                None => left(&mut work.report, directive),
            },
            "gzip_types" | "gzip_proxied" | "gzip_comp_level" | "gzip_disable" | "gzip_http_version" => {
                let why = "answers of every type are packed for whoever takes them";
                say(&mut work.report, directive, Manner::Differs, why, "compression of the Proxy");
            }
            "gzip_vary" => say(&mut work.report, directive, Manner::Needless, "Vary is always sent", ""),
            "client_max_body_size" => match size(first) {
                Some(0) => self.max_body = Some(-1),
                Some(bytes) => self.max_body = Some(bytes),
                None => say(&mut work.report, directive, Manner::Lost, "not a size", "clientMaxBodySize"),
            },
            "proxy_connect_timeout" => self.connect_timeout = self.time(work, directive),
            "keepalive_timeout" => self.keepalive_timeout = self.time(work, directive),
            "underscores_in_headers" => self.underscores = first == "on",
            "set_real_ip_from" => {
                if first.parse::<base_model::ip_filter::Cidr>().is_ok() {
                    // The first line in a block makes the block's own list of those around it.
                    let copied = if Rc::strong_count(&self.trusted) > 1 { self.trusted.len() } else { 0 };
                    if !work.room.take(copied + 1) {
                        return;
                    }
                    Rc::make_mut(&mut self.trusted).push(first.to_owned());
                } else {
                    let why = "only addresses and prefixes can be trusted";
                    say(&mut work.report, directive, Manner::Lost, why, "trustedProxies of the HTTPServer");
                }
            }
            "real_ip_header"
                if !["X-Forwarded-For", "X-Real-IP", "proxy_protocol"]
                    .iter()
                    .any(|h| h.eq_ignore_ascii_case(first)) =>
            {
                let why =
                    "clients are told by X-Forwarded-For, by X-Real-IP where there is none, or by the PROXY protocol";
                say(&mut work.report, directive, Manner::Lost, why, "trustedProxies of the HTTPServer");
            }
            _ => {}
        }
    }

    fn time(&self, work: &mut Work<'_>, directive: &Directive) -> Option<String> {
        let time = time(directive.word(0));
        if time.is_none() {
            say(&mut work.report, directive, Manner::Lost, "not a time", "");
        }
        time
    }

    /// `ipFilter`, of `allow` and `deny`.
    pub fn ip_filter(&self, work: &mut Work<'_>) -> Option<Value> {
        let last = self.access.last()?;
        let all = |d: &Directive| d.word(0) == "all";
        // Whoever no line names may come in, unless the last line says otherwise.
        let block_by_default = last.name == "deny" && all(last);
        let (mut allowed, mut blocked) = (Vec::new(), Vec::new());
        for directive in self.access.iter() {
            if all(directive) {
                if !std::ptr::eq(directive, last) {
                    let why = "stands before others, which it leaves without effect";
                    say(&mut work.report, directive, Manner::Differs, why, "ipFilter of the path");
                }
            } else if directive.word(0).parse::<base_model::ip_filter::Cidr>().is_err() {
                say(&mut work.report, directive, Manner::Lost, "not an address or a prefix", "ipFilter of the path");
            } else if directive.name == "allow" {
                allowed.push(directive.word(0));
            } else {
                blocked.push(directive.word(0));
            }
        }
        let mixed = !allowed.is_empty() && !blocked.is_empty();
        if mixed {
            let why = "blocked addresses are looked for before allowed ones, whatever stands first";
            say(&mut work.report, last, Manner::Differs, why, "ipFilter of the path");
        }
        let (allowed, blocked) = (base_model::once(allowed), base_model::once(blocked));
        Some(json!({"blockByDefault": block_by_default, "allowIPs": allowed, "blockIPs": blocked}))
    }
}

/// A size in bytes.
pub fn size(text: &str) -> Option<i64> {
    let (digits, factor) = match text.char_indices().next_back()? {
        (at, 'k' | 'K') => (&text[..at], 1 << 10),
        (at, 'm' | 'M') => (&text[..at], 1 << 20),
        (at, 'g' | 'G') => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    digits.parse::<u32>().ok().and_then(|n| i64::from(n).checked_mul(factor))
}

/// A time as documents write it. nginx's are seconds unless they say otherwise, and may have several parts.
pub fn time(text: &str) -> Option<String> {
    let mut rest = text;
    let mut total_ms: u64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];
        let (unit, factor) = match units.iter().find(|(unit, _)| rest.starts_with(unit)) {
            Some((unit, factor)) => (unit.len(), *factor),
            None if rest.is_empty() => (0, 1_000),
            None => return None,
        };
        rest = &rest[unit..];
        total_ms = total_ms.checked_add(number.checked_mul(factor)?)?;
    }
    (total_ms <= 365 * 86_400_000).then(|| {
        if total_ms.is_multiple_of(1_000) { format!("{}s", total_ms / 1_000) } else { format!("{total_ms}ms") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes() {
        for (text, expected) in [
            ("60", Some("60s")),
            ("1m30s", Some("90s")),
            ("500ms", Some("500ms")),
            ("1d", Some("86400s")),
            ("x", None),
            ("5 s", None),
            ("", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(time(text).as_deref(), expected, "{text}");
        }
        for (text, expected) in [
            ("10m", Some(10 << 20)),
            ("0", Some(0)),
            ("1k", Some(1024)),
            ("k", None),
            ("-1", None),
            ("é", None),
            ("", None),
        ] {
            assert_eq!(size(text), expected, "{text}");
        }
    }
}

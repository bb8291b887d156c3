//! Keys of Consumers: who calls, whether he may here, and whether he has called too often.

use super::token::cookie;
use crate::form;
use base_model::problem::{at, nth};
use base_model::{Findings, Problem};
use edge_pipeline::Exchange;
use edge_pipeline::consumers::{Caller, Consumers};
use proto_http::{Headers, Request};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Where keys stand in requests, and whose count. Keys are those of the `Consumer` objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct KeyAuthSpec {
    /// Header fields that may hold a key. Default `X-Api-Key`, where neither `query` nor `cookies` is given.
    pub headers: Vec<String>,
    /// Parameters of the query that may. They stand in logs of whoever else sees the URL; header fields do not.
    pub query: Vec<String>,
    /// Cookies that may.
    pub cookies: Vec<String>,
    /// Groups of which a Consumer must have one. Default: every Consumer may pass.
    pub groups: Vec<String>,
    /// Whether the backend sees the key, too. Default false.
    pub forward_key: bool,
}

impl Default for KeyAuthSpec {
    fn default() -> Self {
        let (headers, query, cookies, groups) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { headers, query, cookies, groups, forward_key: false }
    }
}

const HEADER: &str = "X-Api-Key";

impl KeyAuthSpec {
    pub(super) fn validate(&self, path: &str, findings: &mut Findings) {
        for (field, names) in [("headers", &self.headers), ("cookies", &self.cookies)] {
            for (n, name) in names.iter().enumerate().filter(|(_, name)| !proto_http::headers::is_name(name.as_bytes()))
            {
                findings.problem(Problem::new(nth(&at(path, field), n), "not a name").text(name));
            }
        }
        if !self.query.is_empty() {
            findings.warn(at(path, "query"), "keys in URLs end up in histories and in logs of others");
        }
    }
}

/// Why a key lets nobody pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyError {
    Missing,
    /// Several keys, which need not be the same one's.
    Ambiguous,
    Unknown,
    /// The Consumer is none of those who may.
    Forbidden,
    /// The quota is used up; for so long.
    Quota(Duration),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyError::Missing => "no key",
            KeyError::Ambiguous => "several keys",
            KeyError::Unknown => "nobody has this key",
            KeyError::Forbidden => "the consumer is in none of the groups",
            KeyError::Quota(_) => "the quota is used up",
        })
    }
}

pub(super) struct KeyAuth {
    spec: KeyAuthSpec,
}

impl KeyAuth {
    pub(super) fn new(mut spec: KeyAuthSpec) -> KeyAuth {
        if spec.headers.is_empty() && spec.query.is_empty() && spec.cookies.is_empty() {
            spec.headers.push(HEADER.to_owned());
        }
        // Our own logs show none of them.
        spec.headers.iter().chain(&spec.query).for_each(|name| base_text::redact::hide(name));
        KeyAuth { spec }
    }

    /// Lets the request pass for a Consumer, takes it out of his quota, and tells the backend and the log who it is.
    pub(super) fn check(&self, exchange: &mut Exchange) -> Result<(), KeyError> {
        let caller = self.find(exchange.request())?;
        let consumer = &caller.consumer;
        let groups = &self.spec.groups;
        if !groups.is_empty() && !consumer.groups.iter().any(|group| groups.contains(group)) {
            return Err(KeyError::Forbidden);
        }
        caller.take().map_err(KeyError::Quota)?;
        exchange.tags.note(|| format!("consumer {} ({})", consumer.name, caller.key()));
        let request = exchange.request_mut();
        if !self.spec.forward_key {
            self.hide(request);
        }
        for (name, value) in [("X-Consumer-Name", &*consumer.name), ("X-Consumer-Groups", &consumer.groups_text)] {
            request.headers.remove(name);
            if !value.is_empty() && proto_http::headers::is_value(value.as_bytes()) {
                request.headers.add(name, value);
            }
        }
        Ok(())
    }

    fn find(&self, request: &Request) -> Result<Caller, KeyError> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        for name in &self.spec.headers {
            keys.extend(request.headers.values(name).map(<[u8]>::to_vec));
        }
        if !self.spec.query.is_empty() {
            let pairs = form::readable_pairs(request.query.as_deref().unwrap_or_default());
            let named = |name: &[u8]| self.spec.query.iter().any(|known| known.as_bytes() == name);
            keys.extend(pairs.filter(|(name, _)| named(name)).map(|(_, value)| value));
        }
        keys.extend(self.spec.cookies.iter().filter_map(|name| cookie(&request.headers, name)).map(|v| v.into()));
        keys.retain(|key| !key.is_empty());
        keys.dedup();
        match &keys[..] {
            [] => Err(KeyError::Missing),
            [key] => Consumers::shared().find(key).filter(|found| !found.consumer.disabled).ok_or(KeyError::Unknown),
            _ => Err(KeyError::Ambiguous),
        }
    }

    fn hide(&self, request: &mut Request) {
        for name in &self.spec.headers {
            request.headers.remove(name);
        }
        if let Some(query) = &request.query
            && !self.spec.query.is_empty()
        {
            let named = |part: &str| {
                form::readable_pairs(part).any(|(name, _)| self.spec.query.iter().any(|known| known.as_bytes() == name))
            };
            let kept: Vec<&str> = query.split('&').filter(|part| !named(part)).collect();
            request.query = if kept.is_empty() { None } else { Some(kept.join("&")) };
        }
        for name in &self.spec.cookies {
            without_cookie(&mut request.headers, |cookie| cookie == name);
        }
    }
}

/// Takes cookies out of a request.
pub(crate) fn without_cookie(headers: &mut Headers, is_ours: impl Fn(&str) -> bool) {
    let name = |cookie: &str| is_ours(cookie.split('=').next().unwrap_or_default().trim());
    let lines = headers.known_all(proto_http::Known::Cookie).map(|line| String::from_utf8_lossy(line).into_owned());
    let lines: Vec<String> = lines.collect();
    if !lines.iter().any(|line| line.split(';').any(&name)) {
        return;
    }
    headers.remove("Cookie");
    for line in lines {
        let kept: Vec<&str> = line.split(';').map(str::trim).filter(|cookie| !name(cookie)).collect();
        if !kept.is_empty() {
            headers.add("Cookie", kept.join("; "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    const KEY: &str = "test-key-of-key-auth-0001";

    fn check(spec: &str, exchange: &mut Exchange) -> Result<(), KeyError> {
        let spec = base_model::decode(&yaml(spec), "").unwrap().value;
        KeyAuth::new(spec).check(exchange)
    }

    #[test]
    fn our_logs_show_no_keys() {
        let spec = base_model::decode(&yaml("{query: [shop_k], headers: [X-Shop-K]}"), "").unwrap().value;
        KeyAuth::new(spec);
        let (mut url, mut field) = (Vec::new(), Vec::new());
        base_text::redact::write_url(b"/a?shop_k=b", &mut url);
        base_text::redact::write_field("x-shop-k", b"b", &mut field);
        assert_eq!((&url[..], &field[..]), (&b"/a?shop_k=***"[..], &b"***"[..]));
    }

    #[test]
    fn keys_stand_where_the_document_says() {
        let consumer = format!("{{keys: [{{key: {KEY}}}], groups: [gold]}}");
        let consumer = base_model::decode(&yaml(&consumer), "").unwrap().value;
        Consumers::shared().apply("key-auth-test", &consumer).unwrap();
        let mut exchange = request("GET", "/?a=b", &[("x-api-key", KEY), ("X-Consumer-Name", "root")]);
        assert_eq!(check("{}", &mut exchange), Ok(()));
        assert_eq!(
            (headers(&exchange, "X-Consumer-Name"), headers(&exchange, "X-Consumer-Groups")),
            ("key-auth-test".into(), "gold".into())
        );
        assert!(!exchange.request().headers.contains("X-Api-Key"));
        let mut exchange = request("GET", &format!("/?a=b&key={KEY}&c"), &[]);
        assert_eq!(check("query: [key]", &mut exchange), Ok(()));
        assert_eq!(exchange.request().query.as_deref(), Some("a=b&c"));
        let mut exchange = request("GET", "/", &[("Cookie", &format!("a=b; k={KEY}; c=d"))]);
        assert_eq!(check("cookies: [k]", &mut exchange), Ok(()));
        assert_eq!(headers(&exchange, "Cookie"), "a=b; c=d");
        let mut exchange = request("GET", "/", &[("X-Api-Key", KEY)]);
        assert_eq!(check("{groups: [silver, gold], forwardKey: true}", &mut exchange), Ok(()));
        assert!(exchange.request().headers.contains("X-Api-Key"));
        assert_eq!(check("groups: [silver]", &mut exchange), Err(KeyError::Forbidden));
        assert_eq!(check("headers: [X-Other]", &mut exchange), Err(KeyError::Missing));
        let mut two = request("GET", "/", &[("X-Api-Key", KEY), ("X-Api-Key", "another-key-of-nobody")]);
        assert_eq!(check("{}", &mut two), Err(KeyError::Ambiguous));
        assert_eq!(check("{}", &mut request("GET", "/", &[("X-Api-Key", "nobody")])), Err(KeyError::Unknown));
        assert_eq!(check("{}", &mut request("GET", "/", &[("X-Api-Key", "")])), Err(KeyError::Missing));
        Consumers::shared().remove("key-auth-test");
        assert_eq!(check("{}", &mut request("GET", "/", &[("X-Api-Key", KEY)])), Err(KeyError::Unknown));
    }
}

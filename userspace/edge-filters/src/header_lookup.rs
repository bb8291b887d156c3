//! Sets request headers to what the cluster's custom data says of the value of another one.
//!
//! Use it where the edge knows a user, a key or a device by one name and backends want to know more: the account's number, its group, its
//! region.
//!
//! ```yaml
//! name: who
//! kind: HeaderLookup
//! headerKey: X-AUTH-USER       # its value selects the item
//! etcdPrefix: users/           # items of the custom data kind users
//! pathRegExp: "^/api/([a-z]+)" # with this, the item is that of `ann-orders`
//! headerSetters:
//! - etcdKey: group             # this field of the item
//!   headerKey: X-User-Group    # goes into this header
//! ```
//!
//! `X-AUTH-USER: ann` and `{"name": "ann", "group": "gold"}` give the backend `X-User-Group: gold`. Text, numbers and booleans are set as
//! they are; a field of another kind counts as missing. A change of the item (`weirctl apply` with `kind: CustomData`) holds for the next request. Whatever a
//! client sends in the headers that are set here is removed, so that nobody claims a group of his own: when there is no item, or no such
//! field in it, the request goes on without the header.
//!
//! Outcomes: none. Status: `items` of the kind. Fits HTTPServer. Costs one look into memory: no allocation without `pathRegExp`, some
//! hundred nanoseconds with it.

use crate::module_doc::module_doc;
use crate::spec::{self, Spec, unexpected};
use base_model::header_adapt::{is_header_name, warn_owned};
use base_model::problem::{at, nth};
use base_model::string_matcher::check_regexp;
use base_model::{Findings, Problem};
use edge_pipeline::custom_data::{CustomData, Items};
use edge_pipeline::{BuildError, Exchange, Filter, FilterKind, SUCCESS, Step, Touches};
use proto_http::Request;
use proto_http::headers::is_value;
use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::sync::Arc;

/// `kind: HeaderLookup`: sets request headers to what custom data says of another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["headerKey", "etcdPrefix", "headerSetters"]))]
pub struct HeaderLookupSpec {
    /// The request header whose first value selects the item.
    pub header_key: String,
    /// Name of the custom data kind, a slash, and what the ids of its items begin with before the header's value, if anything: `users/` or
    /// `users/eu-`.
    pub etcd_prefix: String,
    /// Where this matches the path, its first group is part of the id: `value-group`. RE2 syntax, found anywhere in the path. Default: the
    /// value alone.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path_reg_exp: String,
    /// Fields of the item, and the headers they go into.
    pub header_setters: Vec<HeaderSetterSpec>,
}

/// A field of an item, and its header.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["etcdKey", "headerKey"]))]
pub struct HeaderSetterSpec {
    /// Name of the field.
    pub etcd_key: String,
    /// Name of the request header.
    pub header_key: String,
}

impl Spec for HeaderLookupSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        check_name(&self.header_key, at(path, "headerKey"), findings);
        let place = at(path, "etcdPrefix");
        match split_prefix(&self.etcd_prefix) {
            ("", _) => findings.problem(
                Problem::new(place, "names no custom data kind").text(&self.etcd_prefix).accepted("KIND/, e.g. users/"),
            ),
            (kind, None) => findings.warn(place, format!("has no slash after the kind; read as {kind}/")),
            _ => {}
        }
        if !self.path_reg_exp.is_empty() {
            let place = at(path, "pathRegExp");
            match base_model::regexp::compile(&self.path_reg_exp) {
                Err(_) => check_regexp(&self.path_reg_exp, &place, findings),
                Ok(pattern) if pattern.captures_len() < 2 => {
                    findings.warn(place, "has no effect: it has no group, and the first group is what is used");
                }
                Ok(_) => {}
            }
        }
        let setters = at(path, "headerSetters");
        if self.header_setters.is_empty() {
            findings.problem(Problem::new(&setters, "is empty").advice("name a field and the header it goes into"));
        }
        for (number, setter) in self.header_setters.iter().enumerate() {
            let place = nth(&setters, number);
            if setter.etcd_key.is_empty() {
                findings.problem(Problem::new(at(&place, "etcdKey"), "missing").advice("name a field of the items"));
            }
            check_name(&setter.header_key, at(&place, "headerKey"), findings);
            warn_owned([&setter.header_key], |_| at(&place, "headerKey"), findings);
        }
    }
}

fn check_name(name: &str, place: String, findings: &mut Findings) {
    if !is_header_name(name) {
        findings.problem(Problem::new(place, "not a header name").text(name));
    }
}

/// The kind, and what ids begin with; `None` where no slash says that they begin at all. A slash in front is Easegress's, and says nothing.
fn split_prefix(prefix: &str) -> (&str, Option<&str>) {
    let prefix = prefix.strip_prefix('/').unwrap_or(prefix);
    prefix.split_once('/').map_or((prefix, None), |(kind, id)| (kind, Some(id)))
}

/// A ready HeaderLookup.
pub struct HeaderLookup {
    header: String,
    items: Arc<Items>,
    /// What ids begin with.
    before: String,
    path: Option<Regex>,
    setters: Vec<HeaderSetterSpec>,
}

pub const KIND: FilterKind = FilterKind {
    kind: "HeaderLookup",
    results: &[],
    doc: module_doc!("header_lookup.rs"),
    schema: spec::schema::<HeaderLookupSpec>,
    check: spec::check::<HeaderLookupSpec>,
    build: |fields, _| spec::build(fields, |spec| HeaderLookup::new(spec, CustomData::here())),
};

impl HeaderLookup {
    fn new(spec: HeaderLookupSpec, data: &CustomData) -> Result<HeaderLookup, BuildError> {
        let (kind, before) = split_prefix(&spec.etcd_prefix);
        let path = Some(&spec.path_reg_exp).filter(|pattern| !pattern.is_empty());
        let path = path.map(|pattern| base_model::regexp::compile(pattern)).transpose();
        Ok(HeaderLookup {
            header: spec.header_key,
            items: data.kind(kind),
            before: before.unwrap_or_default().to_owned(),
            path: path.map_err(|why| unexpected("pathRegExp", why))?.filter(|pattern| pattern.captures_len() > 1),
            setters: spec.header_setters,
        })
    }

    fn item(&self, request: &Request) -> Option<Arc<Value>> {
        let value = request.headers.text(&self.header).filter(|value| !value.is_empty())?;
        let mut id = Cow::Borrowed(value);
        if !self.before.is_empty() {
            id = Cow::Owned(format!("{}{value}", self.before));
        }
        if let Some(found) = self.path.as_ref().and_then(|path| path.captures(request.path.as_str())) {
            let id = id.to_mut();
            id.push('-');
            // One that took no part in the match is an empty text, as in Go.
            id.push_str(found.get(1).map_or("", |group| group.as_str()));
        }
        self.items.find(&id)
    }
}

/// A field as the value of a header, when it can be one.
fn told(field: &Value) -> Option<Cow<'_, str>> {
    let text = match field {
        Value::String(text) => Cow::Borrowed(text.as_str()),
        Value::Number(number) => Cow::Owned(number.to_string()),
        Value::Bool(is) => Cow::Borrowed(if *is { "true" } else { "false" }),
        _ => return None,
    };
    is_value(text.as_bytes()).then_some(text)
}

impl Filter for HeaderLookup {
    fn is_repeatable(&self) -> bool {
        true
    }

    fn touches(&self) -> Touches {
        Touches::REQUEST_HEAD
    }

    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        let item = self.item(exchange.request());
        if item.is_none() {
            // Without the value: it may be a key.
            exchange.tags.note(|| format!("headerLookup: there is no item for {}", self.header));
        }
        let headers = &mut exchange.request_mut().headers;
        for setter in &self.setters {
            match item.as_ref().and_then(|item| told(item.get(&setter.etcd_key)?)) {
                Some(value) => headers.set(&setter.header_key, value.trim()),
                // The one that selects stays: it is the client's, or a Validator's, word in any case.
                None if setter.header_key.eq_ignore_ascii_case(&self.header) => {}
                None => drop(headers.remove(&setter.header_key)),
            }
        }
        Step::Done(SUCCESS)
    }

    fn status(&self) -> Option<Value> {
        Some(json!({"items": self.items.count()}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    const SETTERS: &str = "headerSetters: [{etcdKey: group, headerKey: X-Group}, {etcdKey: no, headerKey: X-No}]";

    fn ready(spec: &str, data: &CustomData) -> HeaderLookup {
        HeaderLookup::new(serde_json::from_value(yaml(spec)).unwrap(), data).unwrap()
    }

    fn data(items: &[(&str, &str, Value)]) -> CustomData {
        let data = CustomData::default();
        items.iter().for_each(|(kind, id, item)| data.set(kind, id, Some(Arc::new(item.clone()))));
        data
    }

    #[test]
    fn what_an_item_says_is_set_and_what_a_client_claims_is_not_kept() {
        let data = data(&[
            ("users", "ann", json!({"group": "gold", "no": 7})),
            ("users", "bob", json!({"no": true, "group": {"a": 1}})),
            ("users", "eve", json!({"group": "a\r\nX: y"})),
            ("users", "eu-ann", json!({"group": "silver"})),
            ("users", "ann-orders", json!({"group": "buyer"})),
            ("users", "ann-", json!({"group": "nobody"})),
            ("others", "x", json!({"group": "root"})),
        ]);
        let path = "pathRegExp: '^/api/([a-z]+)?'";
        for (fields, target, user, group, no) in [
            ("etcdPrefix: users/", "/", "ann", "gold", "7"),
            ("etcdPrefix: /users/", "/", "ann", "gold", "7"),
            ("etcdPrefix: users", "/", "ann", "gold", "7"),
            ("etcdPrefix: users/eu-", "/", "ann", "silver", ""),
            ("etcdPrefix: users/", "/", "bob", "", "true"),
            ("etcdPrefix: users/", "/", "eve", "", ""),
            ("etcdPrefix: users/", "/", "zoe", "", ""),
            ("etcdPrefix: users/", "/", "", "", ""),
            ("etcdPrefix: user", "/", "s/ann", "", ""),
            ("etcdPrefix: users/", "/", "../others/x", "", ""),
        ]
        .map(|(prefix, target, user, group, no)| (prefix.to_owned(), target, user, group, no))
        .into_iter()
        .chain([
            (format!("etcdPrefix: users/, {path}"), "/api/orders/1", "ann", "buyer", ""),
            (format!("etcdPrefix: users/, {path}"), "/api/", "ann", "nobody", ""),
            (format!("etcdPrefix: users/, {path}"), "/other", "ann", "gold", "7"),
            ("etcdPrefix: users/, pathRegExp: ^/api".to_owned(), "/api/orders", "ann", "gold", "7"),
        ]) {
            let spec = format!("{{headerKey: X-User, {fields}, {SETTERS}}}");
            let filter = ready(&spec, &data);
            let mut exchange = request("GET", target, &[("X-User", user), ("X-Group", "root"), ("x-no", "root")]);
            assert_eq!(run(&filter, &mut exchange), SUCCESS);
            assert_eq!((&*headers(&exchange, "X-Group"), &*headers(&exchange, "X-No")), (group, no), "{spec}: {user}");
            assert_eq!(headers(&exchange, "X-User"), user);
        }
    }

    #[test]
    fn a_change_holds_for_the_next_request_and_the_selecting_header_may_be_replaced() {
        let data = data(&[("keys", "k1", json!({"user": "ann"}))]);
        let filter =
            ready("{headerKey: X-Key, etcdPrefix: keys/, headerSetters: [{etcdKey: user, headerKey: x-key}]}", &data);
        let told = || {
            let mut exchange = request("GET", "/", &[("X-Key", "k1")]);
            run(&filter, &mut exchange);
            headers(&exchange, "X-Key")
        };
        assert_eq!(told(), "ann");
        data.set("keys", "k1", Some(Arc::new(json!({"user": "bob"}))));
        assert_eq!(told(), "bob");
        assert_eq!(filter.status(), Some(json!({"items": 1})));
        data.set("keys", "k1", None);
        assert_eq!(told(), "k1");
    }

    #[test]
    fn refused() {
        refuses(&KIND, "{}", &["etcdPrefix", "headerKey", "headerSetters"]);
        let bad = "{headerKey: a b, etcdPrefix: /, pathRegExp: '(', headerSetters: [{etcdKey: '', headerKey: 'x y'}]}";
        refuses(
            &KIND,
            bad,
            &["etcdPrefix", "headerKey", "headerSetters[0].etcdKey", "headerSetters[0].headerKey", "pathRegExp"],
        );
        let warned =
            |spec: &str| KIND.checked(&yaml(spec), "").unwrap().into_iter().map(|w| w.path).collect::<Vec<_>>();
        let setter = "headerSetters: [{etcdKey: a, headerKey: Content-Length}]";
        assert_eq!(
            warned(&format!("{{headerKey: a, etcdPrefix: users, pathRegExp: x, {setter}}}")),
            ["etcdPrefix", "pathRegExp", "headerSetters[0].headerKey"]
        );
    }
}

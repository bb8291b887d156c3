//! Documents from Ingresses (networking.k8s.io/v1): routes of an HTTPServer, a Pipeline for each backend, and a report for each Ingress.
//!
//! What the specification says is done, whatever order the objects come in: a host before a wildcard before any host; the longest path
//! first, an exact one before a prefix; a prefix by whole elements of the path; what no path takes goes to the default backend. Where two
//! Ingresses want the same place, the older one has it and the other one's report says so. A backend that cannot be used answers 503 in
//! its place, and never leaves the place to another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base_text::quoted;
use control_api::Kept;
use imbl::{OrdMap, OrdSet};
use serde_json::{Map, Value, json};

use crate::Kind;
use crate::endpoints::{self, ServiceName};
use crate::object::{Ingress, IngressBackend, Key, Secret, decoded};
use crate::report::Report;
use crate::store::Store;
use options::{Does, Options};

mod easegress;
mod hosts;
mod nginx;
mod options;

pub use hosts::{HostPlace, Known, plan};

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'s> {
    /// Name of the controller's object: everything that is made is called after it.
    pub name: &'s str,
    /// The class whose Ingresses it has; empty: any whose IngressClass names our controller.
    pub class: &'s str,
    /// Port of the server that speaks TLS beside the one that does not, where there are both.
    pub https_port: Option<u16>,
}

/// Says what a document of ours lacks. Documents of one name are versions of one thing.
pub trait Check {
    fn check(&mut self, document: &Value) -> Result<(), String>;

    /// Names that a certificate is for, of a secret called so.
    fn names(&mut self, _secret: &str, (chain, key): &(String, String)) -> Vec<String> {
        names_of(chain, key)
    }
}

/// Names that a certificate is for, in lower case; none of one that cannot be read.
pub fn names_of(chain: &str, key: &str) -> Vec<String> {
    base_tls::Certificate::read_undated(chain, key).map(|it| it.names().to_vec()).unwrap_or_default()
}

/// What came of it. What is as it was the last time is the very same in memory: of ten thousand a few are looked at.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Rules of the server that speaks no TLS, or of the only one.
    pub rules: Rules,
    /// Rules of the one that does, where there are both.
    pub https_rules: Rules,
    pub pipelines: Pipelines,
    /// What the pipelines' pools ask for.
    pub services: Services,
    /// Certificates and keys, PEM, by what they are called, see [`secret_of`](crate::certificates::secret_of).
    pub certificates: Arc<BTreeMap<String, (String, String)>>,
    pub reports: Reports,
}

/// Entries of `rules` of a server, in the order they are asked in. As the others here a persistent map: a copy of ten thousand entries
/// costs nothing, and a change the way to its entry.
pub type Rules = OrdMap<HostPlace, Kept>;

/// By name.
pub type Pipelines = OrdMap<String, Kept>;

pub type Services = OrdSet<String>;

/// What became of each object.
pub type Reports = OrdMap<(Kind, Key), Report>;

/// How the path of a place is compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Match {
    Exact(String),
    /// Without a slash at its end: empty for every path.
    Prefix(String),
    /// As it is written in the Ingress.
    Regexp(String),
}

/// A host and a path of one Ingress.
struct Site {
    host: String,
    matched: Match,
    backend: Backend,
    /// Its place in the Ingress.
    place: String,
}

/// Where requests go.
#[derive(Debug, Clone)]
enum Backend {
    Service(ServiceName),
    /// Nowhere: they get 503.
    Nothing,
    Does(Does),
    /// To another host of the same name with or without `www.`.
    Www(String),
}

/// What an Ingress says by itself.
struct Parts {
    options: Arc<Options>,
    report: Report,
    tls_hosts: BTreeSet<String>,
    default: Option<Backend>,
    sites: Vec<Site>,
}

/// Oldest first; of the same age by name.
fn age(ingress: &Ingress) -> (&str, &str, &str) {
    let meta = &ingress.metadata;
    (&meta.creation_timestamp, &meta.namespace, &meta.name)
}

/// Whether an Ingress is of this class.
pub fn is_ours(store: &Store, ingress: &Ingress, class: &str) -> bool {
    let of_ours =
        |name: &str| store.class(name).is_some_and(|class| CONTROLLERS.contains(&class.spec.controller.as_str()));
    let takes = |name: &str| if class.is_empty() { of_ours(name) } else { name == class };
    if let Some(annotated) = ingress.metadata.annotation("kubernetes.io/ingress.class") {
        return takes(annotated);
    }
    match &ingress.spec.ingress_class_name {
        Some(name) => takes(name),
        None => store.classes().any(|class| {
            let default = class.metadata.annotation("ingressclass.kubernetes.io/is-default-class") == Some("true");
            default && takes(&class.metadata.name)
        }),
    }
}

/// What an IngressClass names as its controller: Easegress's.
pub const CONTROLLERS: [&str; 1] = ["megaease.com/ingress-controller"];

impl Parts {
    fn read(store: &Store, ingress: &Ingress) -> Parts {
        let mut report = Report::default();
        let mut options = Options::default();
        easegress::read(ingress, &mut options, &mut report);
        nginx::read(store, ingress, &mut options, &mut report);
        let hosts = ingress.spec.tls.iter().flat_map(|tls| &tls.hosts);
        let tls_hosts = hosts.map(|host| host.to_ascii_lowercase()).collect();
        let options = options.shared();
        let mut parts = Parts { options, report, tls_hosts, default: None, sites: Vec::new() };
        let backend = ingress.spec.default_backend.as_ref();
        parts.default = backend.map(|backend| parts.backend(store, ingress, backend, "spec.defaultBackend"));
        parts.sites = parts.sites(store, ingress);
        parts
    }

    /// The service of a backend. One that is not there yet is asked for all the same: it may come.
    fn backend(&mut self, store: &Store, ingress: &Ingress, backend: &IngressBackend, place: &str) -> Backend {
        if let Some(does) = &self.options.does {
            return Backend::Does(does.clone());
        }
        let namespace = &ingress.metadata.namespace;
        let named = match (&backend.service, &backend.resource) {
            (Some(service), _) => {
                let service_key = Key::new(namespace, &service.name);
                Ok(ServiceName { https: self.options.https, service: service_key, port: service.port.text() })
            }
            (None, Some(resource)) => {
                Err(format!("a backend of kind {} is not known here; name a service", quoted(&resource.kind)))
            }
            (None, None) => Err("names no service".to_owned()),
        };
        match &named {
            Ok(name) => {
                if let Err(why) = endpoints::servers(store, name) {
                    self.report.refused(place, format!("{why}; requests get 503 until it is"));
                }
            }
            Err(why) => self.report.refused(place, format!("{why}; requests get 503")),
        }
        named.map_or(Backend::Nothing, Backend::Service)
    }

    /// Hosts and paths, as they are written.
    fn sites(&mut self, store: &Store, ingress: &Ingress) -> Vec<Site> {
        let mut sites = Vec::new();
        if ingress.spec.rules.is_empty() && ingress.spec.default_backend.is_none() {
            self.report.refused("spec", "it has neither rules nor a defaultBackend");
        }
        for (r, rule) in ingress.spec.rules.iter().enumerate() {
            let mut hosts = vec![rule.host.to_ascii_lowercase()];
            if !rule.host.is_empty() {
                hosts.extend(self.options.aliases.iter().cloned());
            }
            let shown = if rule.host.is_empty() { "*" } else { &rule.host };
            if !self.report.hosts.iter().any(|host| host == shown) {
                self.report.hosts.push(shown.to_owned());
            }
            let place = format!("spec.rules[{r}].host");
            let site = |host: &str, matched: Match, backend: Backend| Site {
                host: host.to_owned(),
                matched,
                backend,
                place: place.clone(),
            };
            if let Some(filter) = self.options.app_root.clone().filter(|_| self.options.does.is_none()) {
                let does = Backend::Does(Does { name: "root", filter });
                sites.extend(hosts.iter().map(|host| site(host, Match::Exact("/".to_owned()), does.clone())));
            }
            if self.options.www && !hosts[0].is_empty() && !hosts[0].starts_with("*.") {
                let other = hosts[0].strip_prefix("www.").map_or(format!("www.{}", hosts[0]), str::to_owned);
                sites.push(site(&other, Match::Prefix(String::new()), Backend::Www(hosts[0].clone())));
            }
            // A rule without paths leads all of them to the default backend.
            for (p, path) in rule.http.iter().flat_map(|http| &http.paths).enumerate() {
                let place = format!("spec.rules[{r}].http.paths[{p}]");
                let backend = self.backend(store, ingress, &path.backend, &format!("{place}.backend"));
                match self.options.matched(&path.path_type, &path.path) {
                    Err(why) => self.report.refused(&place, why),
                    Ok(matched) => sites.extend(hosts.iter().map(|host| Site {
                        host: host.clone(),
                        matched: matched.clone(),
                        backend: backend.clone(),
                        place: place.clone(),
                    })),
                }
            }
        }
        // It is kept: of ten thousand Ingresses most have one.
        sites.shrink_to_fit();
        sites
    }

    fn is_tls(&self, ingress: &Ingress, host: &str) -> bool {
        let Some(tls) = ingress.spec.tls.first() else { return false };
        let everywhere = tls.hosts.is_empty() && ingress.spec.tls.len() == 1;
        let wild = host.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        everywhere || self.tls_hosts.contains(host) || wild.is_some_and(|wild| self.tls_hosts.contains(&wild))
    }
}

/// Gives the certificate and the key that a secret holds, or why a server can use neither.
type Usable<'a> = dyn FnMut(&Key) -> Result<(String, String), String> + 'a;

/// A certificate of a secret; the one that was in force where that is gone or cannot be used. Says of which, where it is a new one here.
fn certificate(
    ingress: &Ingress,
    name: &str,
    kept: &BTreeMap<String, (String, String)>,
    usable: &mut Usable<'_>,
    certificates: &mut BTreeMap<String, (String, String)>,
    report: &mut Report,
) -> Option<String> {
    let key = Key::new(&ingress.metadata.namespace, name);
    let secret = key.to_string();
    // None is named: the server's own certificate is for these hosts.
    if name.is_empty() || certificates.contains_key(&secret) {
        return None;
    }
    let pair = match usable(&key) {
        Ok(pair) => pair,
        Err(why) => {
            let meanwhile = match kept.get(&secret) {
                Some(_) => "the certificate it had before is used on",
                None => "its hosts are served with another certificate, if there is one",
            };
            report.refused("spec.tls", format!("{why}; {meanwhile}"));
            kept.get(&secret)?.clone()
        }
    };
    certificates.insert(secret.clone(), pair);
    Some(secret)
}

/// What a secret holds, if a server can use it.
pub(crate) fn usable_certificate(store: &Store, key: &Key, check: &mut dyn Check) -> Result<(String, String), String> {
    let (_, pair) = certificate_in(store, key)?;
    is_usable(key, &pair, check)?;
    Ok(pair)
}

/// A secret, and the certificate and key in it.
fn certificate_in<'s>(store: &'s Store, key: &Key) -> Result<(&'s Arc<Secret>, (String, String)), String> {
    let secret = store.secret(key).ok_or_else(|| format!("secret {key} is not there"))?;
    match (decoded(&secret.data.certificate), decoded(&secret.data.key)) {
        (Some(chain), Some(private)) if !chain.is_empty() && !private.is_empty() => Ok((secret, (chain, private))),
        _ => Err(format!("secret {key} lacks tls.crt or tls.key; create it with kubectl create secret tls")),
    }
}

/// Whether a server takes it.
fn is_usable(key: &Key, pair: &(String, String), check: &mut dyn Check) -> Result<(), String> {
    let name = format!("certificate.{}.{}", key.namespace, key.name);
    let server = json!({"name": named(&name), "kind": "HTTPServer", "port": 1, "https": true,
                        "certs": {"it": pair.0}, "keys": {"it": pair.1}});
    check.check(&server).map_err(|why| format!("secret {key} holds no usable certificate: {why}"))
}

/// The longest first; of the same length an exact one.
fn order(matched: &Match) -> (usize, u8, &str) {
    let (rank, text) = match matched {
        Match::Exact(path) => (0, path),
        Match::Prefix(path) => (1, path),
        Match::Regexp(path) => (2, path),
    };
    (usize::MAX - text.len(), rank, text)
}

fn rule(host: &str, paths: Vec<Value>) -> Value {
    match host.strip_prefix("*.") {
        // One label, as the specification of Ingresses has it.
        Some(rest) => json!({"hostRegexp": format!("(?i)^[^.]+\\.{}$", escaped(rest)), "paths": paths}),
        None if host.is_empty() => json!({"paths": paths}),
        None => json!({"host": host, "paths": paths}),
    }
}

/// A text that an expression finds as it is.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if !c.is_ascii_alphanumeric() && !matches!(c, '/' | '_' | '-') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// The entries of a route for one path; those of its clients that an IP filter takes out are told so, and led nowhere else.
fn one_path(matched: &Match, options: &Options, backend: &str, controller: &str) -> Vec<Value> {
    let mut paths = Vec::new();
    for entry in options.entries(matched) {
        let mut path: Map<String, Value> = options.path.clone();
        path.extend(entry);
        path.insert("backend".to_owned(), backend.into());
        let refused = path.contains_key("ipFilter").then(|| {
            let mut refused = path.clone();
            refused.remove("ipFilter");
            refused.remove("rewriteTarget");
            refused.insert("backend".to_owned(), format!("{controller}.403").into());
            Value::Object(refused)
        });
        paths.push(Value::Object(path));
        paths.extend(refused);
    }
    paths
}

/// Names have 253 characters at most: of a longer one the end becomes a sum of it.
pub(crate) fn named(name: &str) -> String {
    const MOST: usize = 253;
    if name.len() <= MOST {
        return name.to_owned();
    }
    let sum =
        name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("{}~{sum:016x}", &name[..MOST - 17])
}

#[cfg(test)]
pub(crate) mod tests;

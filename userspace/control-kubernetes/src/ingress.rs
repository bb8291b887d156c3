//! Documents from Ingresses (networking.k8s.io/v1): routes of an HTTPServer, a Pipeline for each backend, and a report for each Ingress.
//!
//! What the specification says is done, whatever order the objects come in: a host before a wildcard before any host; the longest path
//! first, an exact one before a prefix; a prefix by whole elements of the path; what no path takes goes to the default backend. Where two
//! Ingresses want the same place, the older one has it and the other one's report says so. A backend that cannot be used answers 503 in
//! its place, and never leaves the place to another.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use base_text::quoted;
use serde_json::{Map, Value, json};

use crate::certificates::{self, Candidate};
use crate::endpoints::{self, ServiceName};
use crate::object::{Ingress, IngressBackend, Key, decoded};
use crate::report::Report;
use crate::store::{Looked, Store};
use options::{Canary, Does, Options};

mod easegress;
mod nginx;
mod options;

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

/// What came of it.
#[derive(Debug, Default)]
pub struct Plan {
    /// Rules of the server that speaks no TLS, or of the only one.
    pub rules: Vec<Value>,
    /// Rules of the one that does, where there are both.
    pub https_rules: Vec<Value>,
    /// By name.
    pub pipelines: BTreeMap<String, Arc<Value>>,
    /// What the pipelines' pools ask for.
    pub services: BTreeSet<String>,
    /// Certificates and keys, PEM, by what they are called, see [`secret_of`](crate::certificates::secret_of).
    pub certificates: BTreeMap<String, (String, String)>,
    pub reports: BTreeMap<Key, Report>,
}

/// How the path of a place is compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Match {
    Exact(String),
    /// Without a slash at its end: empty for every path.
    Prefix(String),
    /// As it is written in the Ingress.
    Regexp(String),
}

/// What was made of each Ingress, for as long as it is as it was: of ten thousand, one that changes is read anew, and no other.
#[derive(Default)]
pub struct Known(HashMap<Key, KnownIngress>);

struct KnownIngress {
    ingress: Arc<Ingress>,
    looked: Looked,
    parts: Arc<Parts>,
    /// By their number, see [`Site::number`].
    sites: HashMap<usize, KnownSite>,
    /// Sites that a server has taken together.
    taken: Vec<usize>,
}

/// What leads to a site, and where it leads.
struct KnownSite {
    ready: Arc<Ready>,
    pipelines: Vec<(String, Arc<Value>)>,
    services: Vec<String>,
}

impl Known {
    fn parts(&mut self, store: &Store, ingress: &Arc<Ingress>) -> Arc<Parts> {
        let key = ingress.metadata.key();
        if let Some(known) = self.0.get(&key)
            && Arc::ptr_eq(&known.ingress, ingress)
            && known.looked.holds(store)
        {
            return known.parts.clone();
        }
        let (parts, looked) = store.noting(|| Arc::new(Parts::read(store, ingress)));
        let (ingress, sites, taken) = (ingress.clone(), HashMap::new(), Vec::new());
        self.0.insert(key, KnownIngress { ingress, looked, parts: parts.clone(), sites, taken });
        parts
    }
}

/// A host and a path of one Ingress.
#[derive(Clone)]
struct Site {
    host: String,
    matched: Match,
    backend: Backend,
    /// Whose it is.
    from: usize,
    /// Among those of its Ingress.
    number: usize,
    /// Its place in the Ingress.
    place: String,
    /// What else gets a part of its requests, and whose that is.
    canary: Option<(usize, ServiceName, Canary)>,
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

/// One Ingress that is ours.
struct Ours<'s> {
    ingress: &'s Ingress,
    parts: Arc<Parts>,
    report: Report,
}

/// What an Ingress says by itself.
struct Parts {
    options: Options,
    report: Report,
    tls_hosts: BTreeSet<String>,
    default: Option<Backend>,
    sites: Vec<Site>,
}

/// See the module doc. `kept` are certificates that were in force before: a secret that has become unusable changes nothing.
pub fn plan(
    store: &Store,
    settings: Settings<'_>,
    kept: &BTreeMap<String, (String, String)>,
    check: &mut dyn Check,
    known: &mut Known,
) -> Plan {
    let mut all: Vec<&Arc<Ingress>> =
        store.ingresses().filter(|ingress| is_ours(store, ingress, settings.class)).collect();
    all.sort_by(|a, b| age(a).cmp(&age(b)));
    let plan = Plan::default();
    let (mut sites, mut canaries) = (Vec::new(), Vec::new());
    let mut ours: Vec<Ours<'_>> = Vec::new();
    let (mut certificates, mut candidates, mut holders) = (BTreeMap::new(), Vec::new(), Vec::new());
    for ingress in all {
        let parts = known.parts(store, ingress);
        let from = ours.len();
        let own = parts.sites.iter().map(|site| Site { from, ..site.clone() });
        if parts.options.canary.is_some() {
            canaries.extend(own)
        } else {
            sites.extend(own)
        }
        let mut one = Ours { ingress, report: parts.report.clone(), parts };
        for tls in &ingress.spec.tls {
            let added = certificate(store, ingress, &tls.secret_name, kept, check, &mut certificates, &mut one.report);
            if let Some(secret) = added {
                let names = certificates.get(&secret).map(|pair| check.names(&secret, pair)).unwrap_or_default();
                holders.push(ours.len());
                candidates.push(Candidate { secret, names, holder: ingress.metadata.namespace.clone() });
            }
        }
        ours.push(one);
    }
    let mut made = Made { settings, check, plan, known };
    let mut hosts = made.places(sites, &mut ours);
    join(canaries, &mut hosts, &mut ours);
    // Whose a name is: of the oldest Ingress that has the host, or else the wildcard that it is within.
    let owner = |name: &str| {
        let wild = name.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        let sites = hosts.get(name).or_else(|| hosts.get(&wild?));
        let first = sites?.iter().map(|site| site.from).min()?;
        Some(ours[first].ingress.metadata.namespace.clone())
    };
    let called = certificates::called(&candidates, owner);
    for (candidate, from) in candidates.iter().zip(holders) {
        if called.get(&candidate.secret).is_some_and(|called| *called != candidate.secret) {
            let told = format!(
                "secret {} is for {}, of which another ingress has one that is shown",
                candidate.secret,
                candidate.names.join(", ")
            );
            ours[from].report.approximated("spec.tls", told);
        }
    }
    made.plan.certificates =
        certificates.into_iter().filter_map(|(of, pair)| Some((called.get(&of)?.clone(), pair))).collect();
    made.rules(hosts, &mut ours);
    let Made { mut plan, known, .. } = made;
    for one in ours {
        plan.reports.insert(one.ingress.metadata.key(), one.report);
    }
    known.0.retain(|key, _| plan.reports.contains_key(key));
    plan
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
        let mut parts = Parts { options, report, tls_hosts, default: None, sites: Vec::new() };
        let backend = ingress.spec.default_backend.as_ref();
        parts.default = backend.map(|backend| parts.backend(store, ingress, backend, "spec.defaultBackend"));
        let mut sites = parts.sites(store, ingress);
        sites.iter_mut().enumerate().for_each(|(number, site)| site.number = number);
        parts.sites = sites;
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
                from: 0,
                number: 0,
                place: place.clone(),
                canary: None,
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
                        from: 0,
                        number: 0,
                        place: place.clone(),
                        canary: None,
                    })),
                }
            }
        }
        sites
    }

    fn is_tls(&self, ingress: &Ingress, host: &str) -> bool {
        let Some(tls) = ingress.spec.tls.first() else { return false };
        let everywhere = tls.hosts.is_empty() && ingress.spec.tls.len() == 1;
        let wild = host.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        everywhere || self.tls_hosts.contains(host) || wild.is_some_and(|wild| self.tls_hosts.contains(&wild))
    }
}

/// Gives canaries their part of the places that they name.
fn join(canaries: Vec<Site>, hosts: &mut BTreeMap<String, Vec<Site>>, ours: &mut [Ours<'_>]) {
    for site in canaries {
        let Some(canary) = ours[site.from].parts.options.canary.clone() else { continue };
        let places = hosts.get_mut(&site.host).into_iter().flatten();
        let main = places.into_iter().find(|place| place.matched == site.matched);
        let key = ours[site.from].ingress.metadata.key();
        let holder = main.as_ref().map(|main| ours[main.from].ingress.metadata.key());
        let report = &mut ours[site.from].report;
        match (main, site.backend) {
            (None, _) => {
                report.refused(&site.place, "no other ingress has this host and path, which it could have a part of")
            }
            (Some(_), _) if holder.as_ref().is_some_and(|holder| holder.namespace != key.namespace) => {
                let holder = holder.map(|holder| holder.to_string()).unwrap_or_default();
                let told =
                    format!("ingress {holder} has this path, and a canary has a part of its own namespace's alone");
                report.refused(&site.place, told);
            }
            (Some(main), _) if main.canary.is_some() => {
                report.refused(&site.place, "another canary has a part of this path already; remove one of the two");
            }
            (Some(main), Backend::Service(service)) => main.canary = Some((site.from, service, canary)),
            (Some(_), _) => {}
        }
    }
}

/// A certificate of a secret; the one that was in force where that is gone or cannot be used. Says of which, where it is a new one here.
fn certificate(
    store: &Store,
    ingress: &Ingress,
    name: &str,
    kept: &BTreeMap<String, (String, String)>,
    check: &mut dyn Check,
    certificates: &mut BTreeMap<String, (String, String)>,
    report: &mut Report,
) -> Option<String> {
    let key = Key::new(&ingress.metadata.namespace, name);
    let secret = key.to_string();
    // None is named: the server's own certificate is for these hosts.
    if name.is_empty() || certificates.contains_key(&secret) {
        return None;
    }
    let pair = match usable_certificate(store, &key, check) {
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
    let secret = store.secret(key).ok_or_else(|| format!("secret {key} is not there"))?;
    let (chain, private) = (decoded(&secret.data.certificate), decoded(&secret.data.key));
    let pair = match (chain, private) {
        (Some(chain), Some(private)) if !chain.is_empty() && !private.is_empty() => (chain, private),
        _ => return Err(format!("secret {key} lacks tls.crt or tls.key; create it with kubectl create secret tls")),
    };
    let name = format!("certificate.{}.{}", key.namespace, key.name);
    let server = json!({"name": named(&name), "kind": "HTTPServer", "port": 1, "https": true,
                        "certs": {"it": pair.0}, "keys": {"it": pair.1}});
    check.check(&server).map_err(|why| format!("secret {key} holds no usable certificate: {why}"))?;
    Ok(pair)
}

/// Documents in the making.
struct Made<'a> {
    settings: Settings<'a>,
    check: &'a mut dyn Check,
    plan: Plan,
    known: &'a mut Known,
}

/// One path of a host, ready.
struct Ready {
    matched: Match,
    /// Of the server in the clear where TLS is elsewhere, and of the one that speaks it.
    plain: Vec<Value>,
    https: Vec<Value>,
}

impl Made<'_> {
    /// Who has which place: the first that asks for it.
    fn places(&mut self, sites: Vec<Site>, ours: &mut [Ours<'_>]) -> BTreeMap<String, Vec<Site>> {
        let mut taken: HashMap<(String, Match), usize> = HashMap::new();
        let mut hosts: BTreeMap<String, Vec<Site>> = BTreeMap::new();
        for site in sites {
            let place = taken.entry((site.host.clone(), site.matched.clone()));
            let (holder, is_taken) = match &place {
                Entry::Occupied(held) => (*held.get(), true),
                Entry::Vacant(_) => (site.from, false),
            };
            if holder != site.from {
                let by = ours[holder].ingress.metadata.key();
                let host = if site.host.is_empty() { "any host" } else { &site.host };
                let told = format!("ingress {by}, which is older, has this path of {host}; change one of the two");
                ours[site.from].report.refused(&site.place, told);
                continue;
            }
            if is_taken {
                ours[site.from].report.refused(&site.place, "this ingress has the path already; remove one of the two");
                continue;
            }
            place.or_insert(site.from);
            hosts.entry(site.host.clone()).or_default().push(site);
        }
        hosts
    }

    /// Rules of all hosts, and the pipelines they lead to.
    fn rules(&mut self, mut hosts: BTreeMap<String, Vec<Site>>, ours: &mut [Ours<'_>]) {
        // An Ingress without rules is about every host.
        let everywhere = ours.iter().position(|one| one.parts.default.is_some() && one.ingress.spec.rules.is_empty());
        for from in 0..ours.len() {
            let one = &ours[from];
            if one.parts.default.is_some() && one.ingress.spec.rules.is_empty() && Some(from) != everywhere {
                let by = everywhere.map(|holder| ours[holder].ingress.metadata.key().to_string()).unwrap_or_default();
                let told = format!("ingress {by}, which is older, has the default backend of every host");
                ours[from].report.refused("spec.defaultBackend", told);
            }
        }
        hosts.entry(String::new()).or_default();
        let mut ready: BTreeMap<String, Vec<Arc<Ready>>> = BTreeMap::new();
        let mut of_each: Vec<Vec<(String, Arc<Ready>, usize)>> = (0..ours.len()).map(|_| Vec::new()).collect();
        let mut rest: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for (host, sites) in hosts {
            // What no path takes: the default backend of the first of them that has one, or that of every host.
            let own = sites.iter().map(|site| site.from).find(|from| ours[*from].parts.default.is_some());
            let left = match own.or(everywhere).and_then(|from| Some((from, ours[from].parts.default.clone()?))) {
                Some((from, backend)) => {
                    let name = self.pipeline(&backend, from, None, ours);
                    one_path(&Match::Prefix(String::new()), &ours[from].parts.options, &name, self.settings.name)
                }
                None => vec![json!({"pathPrefix": "/", "backend": self.answering(404)})],
            };
            rest.insert(host.clone(), left);
            for site in sites {
                let (from, number) = (site.from, site.number);
                let ready = match self.known_site(&site, ours) {
                    Some(ready) => ready,
                    None => self.site(&host, site, ours),
                };
                of_each[from].push((host.clone(), ready, number));
            }
        }
        for (from, places) in of_each.into_iter().enumerate() {
            if places.is_empty() {
                continue;
            }
            let key = ours[from].ingress.metadata.key();
            let mut numbers: Vec<usize> = places.iter().map(|(.., number)| *number).collect();
            numbers.sort_unstable();
            // A server has taken these very ones together.
            let is_known = |known: &KnownIngress| {
                let same = |(_, place, number): &(String, Arc<Ready>, usize)| {
                    known.sites.get(number).is_some_and(|site| Arc::ptr_eq(&site.ready, place))
                };
                known.taken == numbers && places.iter().all(same)
            };
            if self.known.0.get(&key).is_some_and(is_known) {
                for (host, place, _) in places {
                    ready.entry(host).or_default().push(place);
                }
                continue;
            }
            let rules: Vec<Value> = places.iter().map(|(host, place, _)| rule(host, place.https.clone())).collect();
            let name = named(&format!("routes.{}.{}.{}", self.settings.name, key.namespace, key.name));
            let server = json!({"name": name, "kind": "HTTPServer", "port": 1, "rules": rules});
            if let Err(why) = self.check.check(&server) {
                ours[from].report.refused("spec.rules", format!("no route can be made of it: {why}"));
                continue;
            }
            if let Some(known) = self.known.0.get_mut(&key) {
                known.taken = numbers;
            }
            for (host, place, _) in places {
                ready.entry(host).or_default().push(place);
            }
        }
        self.assemble(ready, rest);
    }

    /// What was made of a site before, where it leads on by itself alone.
    fn known_site(&mut self, site: &Site, ours: &[Ours<'_>]) -> Option<Arc<Ready>> {
        if site.canary.is_some() {
            return None;
        }
        let known = self.known.0.get(&ours[site.from].ingress.metadata.key())?.sites.get(&site.number)?;
        for (name, document) in &known.pipelines {
            if !self.plan.pipelines.contains_key(name) {
                self.plan.pipelines.insert(name.clone(), document.clone());
            }
        }
        self.plan.services.extend(known.services.iter().cloned());
        Some(known.ready.clone())
    }

    fn site(&mut self, host: &str, site: Site, ours: &mut [Ours<'_>]) -> Arc<Ready> {
        let name = self.pipeline(&site.backend, site.from, site.canary.as_ref(), ours);
        let (parts, ingress) = (ours[site.from].parts.clone(), ours[site.from].ingress);
        let https = one_path(&site.matched, &parts.options, &name, self.settings.name);
        let redirects =
            self.settings.https_port.is_some() && parts.options.redirects_to_https(parts.is_tls(ingress, host));
        let mut names = vec![name.clone()];
        let plain = match redirects {
            true => {
                let to = self.redirecting();
                names.push(to.clone());
                one_path(&site.matched, &Options::default(), &to, self.settings.name)
            }
            false => https.clone(),
        };
        if https.iter().any(|path| path.get("ipFilter").is_some()) {
            names.push(self.answering(403));
        }
        let ready = Arc::new(Ready { matched: site.matched, plain, https });
        // What could not be made is told each time.
        let is_made = site.canary.is_none() && name != format!("{}.503", self.settings.name);
        if is_made && let Some(known) = self.known.0.get_mut(&ingress.metadata.key()) {
            let document = |name: String| Some((name.clone(), self.plan.pipelines.get(&name)?.clone()));
            let mut services = Vec::new();
            if let Backend::Service(service) = &site.backend {
                services.push(service.to_string());
                services.extend(parts.options.errors.iter().map(|errors| errors.service.to_string()));
            }
            let pipelines = names.into_iter().filter_map(document).collect();
            known.sites.insert(site.number, KnownSite { ready: ready.clone(), pipelines, services });
        }
        ready
    }

    fn assemble(&mut self, mut ready: BTreeMap<String, Vec<Arc<Ready>>>, rest: BTreeMap<String, Vec<Value>>) {
        let mut hosts: Vec<String> = rest.keys().cloned().collect();
        hosts.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.cmp(b)));
        for host in hosts {
            let mut places = ready.remove(&host).unwrap_or_default();
            places.sort_by(|a, b| order(&a.matched).cmp(&order(&b.matched)));
            let left = &rest[&host];
            let all = |of: &dyn Fn(&Ready) -> Vec<Value>| {
                places.iter().flat_map(|place| of(place)).chain(left.iter().cloned()).collect()
            };
            self.plan.rules.push(rule(&host, all(&|place| place.plain.clone())));
            // Without a second server they are the same.
            if self.settings.https_port.is_some() {
                self.plan.https_rules.push(rule(&host, all(&|place| place.https.clone())));
            }
        }
    }

    /// The pipeline of a backend, which is made where it is not there yet; one that says 503 where it cannot be used.
    fn pipeline(
        &mut self,
        backend: &Backend,
        from: usize,
        canary: Option<&(usize, ServiceName, Canary)>,
        ours: &mut [Ours<'_>],
    ) -> String {
        let one = &ours[from];
        let service = match backend {
            Backend::Nothing => return self.answering(503),
            Backend::Service(service) => service,
            Backend::Does(does) => return self.doing(does.name, does.filter.clone(), from, ours),
            Backend::Www(host) => {
                let filter = json!({"name": "redirect", "kind": "RedirectorV2", "hostname": host, "statusCode": 308});
                return self.doing(&format!("to.{host}"), filter, from, ours);
            }
        };
        let (controller, key) = (self.settings.name, one.ingress.metadata.key());
        let own = match canary {
            Some((other, ..)) => format!("~{}~{}", key.name, ours[*other].ingress.metadata.key().name),
            None if one.parts.options.is_plain() => String::new(),
            None => format!("~{}", key.name),
        };
        let tls = if service.https { "tls." } else { "" };
        let name = named(&format!(
            "{controller}.{tls}{}.{}.{}{own}",
            service.service.namespace, service.service.name, service.port
        ));
        if self.plan.pipelines.contains_key(&name) {
            return name;
        }
        let part = canary.map(|(_, service, canary)| (service, canary));
        let document = one.parts.options.pipeline(&name, controller, service, part);
        if let Err(why) = self.check.check(&document) {
            ours[from]
                .report
                .refused("metadata.annotations", format!("no pipeline can be made of it: {why}; requests get 503"));
            return self.answering(503);
        }
        self.plan.services.insert(service.to_string());
        self.plan.services.extend(part.map(|(service, _)| service.to_string()));
        self.plan.services.extend(ours[from].parts.options.errors.iter().map(|errors| errors.service.to_string()));
        self.plan.pipelines.insert(name.clone(), Arc::new(document));
        name
    }

    /// A pipeline of one filter that answers by itself.
    fn doing(&mut self, what: &str, filter: Value, from: usize, ours: &mut [Ours<'_>]) -> String {
        let key = ours[from].ingress.metadata.key();
        // No Ingress has an empty name: this is the pipeline of none.
        let name = named(&format!("{}.{}.{}~~{what}", self.settings.name, key.namespace, key.name));
        let document = json!({"name": name, "kind": "Pipeline", "filters": [filter]});
        if self.plan.pipelines.contains_key(&name) {
            return name;
        }
        if let Err(why) = self.check.check(&document) {
            let told = format!("no pipeline can be made of it: {why}; requests get 503");
            ours[from].report.refused("metadata.annotations", told);
            return self.answering(503);
        }
        self.plan.pipelines.insert(name.clone(), Arc::new(document));
        name
    }

    /// A pipeline that says no more than a status.
    fn answering(&mut self, status: u16) -> String {
        let name = format!("{}.{status}", self.settings.name);
        let filter = json!({"name": "answer", "kind": "Mock", "rules": [{"code": status}]});
        let document = json!({"name": name, "kind": "Pipeline", "filters": [filter]});
        self.plan.pipelines.entry(name.clone()).or_insert_with(|| Arc::new(document));
        name
    }

    /// The pipeline that sends clients to the server that speaks TLS.
    fn redirecting(&mut self) -> String {
        let name = format!("{}.to-https", self.settings.name);
        let mut filter = json!({"name": "redirect", "kind": "RedirectorV2", "scheme": "https", "statusCode": 308});
        if let Some(port) = self.settings.https_port.filter(|port| *port != 443) {
            filter["port"] = json!(port);
        }
        let document = json!({"name": name, "kind": "Pipeline", "filters": [filter]});
        self.plan.pipelines.entry(name.clone()).or_insert_with(|| Arc::new(document));
        name
    }
}

/// A host before a wildcard, of which the longest is first, before any host.
fn rank(host: &str) -> (u8, usize) {
    match host {
        "" => (2, 0),
        wild if wild.starts_with("*.") => (1, usize::MAX - wild.len()),
        _ => (0, 0),
    }
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

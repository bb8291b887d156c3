//! Rules host by host. What an Ingress says concerns its own hosts and no others, so of ten thousand that are there one that changes is read
//! anew, and the rules of its hosts are made anew; everything else stays the very same in memory, which whoever takes it can see.
//!
//! A pipeline is there for as long as a host leads to it, and a service for as long as such a pipeline asks for it: both are counted.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use control_api::Kept;
use serde_json::{Value, json};

use super::options::{Canary, Options};
use super::{
    Backend, Check, Match, Parts, Plan, Rules, Settings, Site, age, certificate, certificate_in, is_ours, is_usable,
    named, names_of, one_path, order, rule,
};
use crate::Kind;
use crate::certificates::{self, Candidate};
use crate::endpoints::ServiceName;
use crate::object::{Ingress, Key, Secret};
use crate::report::{Note, Report};
use crate::store::{Looked, Store};

/// Where a host's rule stands among those of a server, and whose it is: a host before a wildcard, of which the longest is first, before any
/// host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPlace {
    pub place: u16,
    /// Empty: any.
    pub host: String,
}

impl HostPlace {
    pub fn of(host: &str) -> HostPlace {
        let place = match host {
            "" => u16::MAX,
            wild if wild.starts_with('*') => {
                WILDCARDS.saturating_sub(u16::try_from(wild.len()).unwrap_or(WILDCARDS)).max(1)
            }
            _ => 0,
        };
        HostPlace { place, host: host.to_owned() }
    }
}

/// Beyond every length of a host.
const WILDCARDS: u16 = 1_000;

/// What Ingresses look for by its name.
const LOOKED_FOR: [Kind; 3] = [Kind::IngressClass, Kind::Service, Kind::Secret];
const SECRETS: usize = 2;

/// What was made before, for as long as that of which it was made is as it was.
#[derive(Default)]
pub struct Known {
    /// Of every class.
    ingresses: BTreeMap<Key, KnownIngress>,
    hosts: BTreeMap<String, KnownHost>,
    pipelines: HashMap<String, KnownPipeline>,
    /// How many hosts ask for each.
    services: HashMap<String, usize>,
    /// Ingresses without rules that have a default backend, and the one whose it is.
    defaults: BTreeSet<Key>,
    everywhere: Option<Owner>,
    secrets: BTreeMap<Key, KnownSecret>,
    /// What is told of certificates.
    of_certificates: BTreeMap<Key, Report>,
    /// Of the [`Store`], of what is looked for by its name; absent before the first time.
    turns: Option<[u64; 3]>,
    plan: Plan,
}

struct KnownIngress {
    ingress: Arc<Ingress>,
    looked: Looked,
    /// Absent: it is not ours.
    parts: Option<Arc<Parts>>,
    /// Hosts whose routes a server has taken.
    taken: Vec<String>,
}

/// What was found of a secret, for as long as it is the very same: of ten thousand one is looked at that is new.
struct KnownSecret {
    secret: Arc<Secret>,
    /// Names that its certificate is for, or why it cannot be used.
    found: Result<Vec<String>, String>,
}

#[derive(Default)]
struct KnownHost {
    /// Ingresses that have paths of it.
    members: Vec<Key>,
    made: MadeHost,
}

/// What came of a host, beside its rules, in no more room than it takes: names are in their order.
#[derive(Default)]
struct MadeHost {
    /// The namespace of the oldest that has a path of it.
    owner: Option<String>,
    pipelines: Box<[String]>,
    services: Box<[String]>,
    notes: Box<[(Key, Note)]>,
}

/// The same in the making.
#[derive(Default)]
struct Host {
    /// The namespace of the oldest that has a path of it.
    owner: Option<String>,
    pipelines: BTreeSet<String>,
    services: BTreeSet<String>,
    notes: Vec<(Key, Note)>,
}

struct KnownPipeline {
    /// So many hosts lead there.
    leads: usize,
    /// Whose options it was made of, where those are not the usual ones; and those of its canary.
    of: [Option<Arc<Parts>>; 2],
}

/// An Ingress that is ours.
#[derive(Clone)]
struct Owner {
    key: Key,
    ingress: Arc<Ingress>,
    parts: Arc<Parts>,
}

/// A site that nobody older has.
struct Placed<'m> {
    owner: &'m Owner,
    site: &'m Site,
    /// What else gets a part of its requests, and whose that is.
    canary: Option<(&'m Owner, &'m ServiceName, &'m Canary)>,
}

impl Host {
    fn made(self) -> MadeHost {
        MadeHost {
            owner: self.owner,
            pipelines: self.pipelines.into_iter().collect(),
            services: self.services.into_iter().collect(),
            notes: self.notes.into(),
        }
    }

    fn refused(&mut self, key: &Key, what: &str, told: impl Into<String>) {
        let mut report = Report::default();
        report.refused(what, told);
        self.notes.extend(report.notes.into_iter().map(|note| (key.clone(), note)));
    }
}

/// See the module doc of [`ingress`](super). `kept` are certificates that were in force before: a secret that has become unusable changes
/// nothing.
pub fn plan(
    store: &Store,
    settings: Settings<'_>,
    kept: &dyn Fn() -> BTreeMap<String, (String, String)>,
    check: &mut dyn Check,
    known: &mut Known,
) -> Plan {
    let mut made = Made { store, settings, check, known, hosts: BTreeSet::new(), touched: BTreeSet::new(), tls: false };
    made.read();
    made.look_for_default();
    for host in std::mem::take(&mut made.hosts) {
        made.host(&host);
    }
    if made.tls {
        made.certificates(kept);
    }
    made.reports();
    known.plan.clone()
}

/// What is new of it.
struct Made<'a> {
    store: &'a Store,
    settings: Settings<'a>,
    check: &'a mut dyn Check,
    known: &'a mut Known,
    /// Hosts whose rules may be others.
    hosts: BTreeSet<String>,
    /// Ingresses of which something else may be told.
    touched: BTreeSet<Key>,
    /// Certificates may be others.
    tls: bool,
}

impl Known {
    fn owner(&self, key: &Key) -> Option<Owner> {
        let known = self.ingresses.get(key)?;
        Some(Owner { key: key.clone(), ingress: known.ingress.clone(), parts: known.parts.clone()? })
    }
}

impl Parts {
    /// Each once.
    fn hosts(&self) -> BTreeSet<&str> {
        self.sites.iter().map(|site| site.host.as_str()).collect()
    }
}

impl Made<'_> {
    /// Takes note of Ingresses that are others than they were, or look at other objects.
    fn read(&mut self) {
        let turns = LOOKED_FOR.map(|kind| self.store.turn_of(kind));
        let before = self.known.turns.replace(turns);
        let again = before != Some(turns);
        self.tls |= before.is_none_or(|before| before[SECRETS] != turns[SECRETS]);
        let (store, class) = (self.store, self.settings.class);
        let (mut changed, mut gone) = (Vec::new(), Vec::new());
        // Both are in the order of their keys.
        let mut known = self.known.ingresses.iter_mut().peekable();
        for (key, ingress) in store.ingresses_by_key() {
            while let Some((key, _)) = known.next_if(|(known, _)| *known < key) {
                gone.push(key.clone());
            }
            let same = known.next_if(|(known, _)| *known == key).is_some_and(|(_, known)| {
                // All of them have their status written once, and nothing is made of that.
                let is_as_it_was = Arc::ptr_eq(&known.ingress, ingress) || ingress.differs_in_status(&known.ingress);
                if is_as_it_was {
                    known.ingress = ingress.clone();
                }
                let is_ours = || is_ours(store, ingress, class) == known.parts.is_some();
                is_as_it_was && (!again || is_ours() && known.looked.holds(store))
            });
            if !same {
                changed.push((key.clone(), ingress.clone()));
            }
        }
        gone.extend(known.map(|(key, _)| key.clone()));
        for key in gone {
            self.leave(&key);
        }
        for (key, ingress) in changed {
            self.leave(&key);
            self.enter(key, ingress);
        }
        if !self.known.hosts.contains_key("") {
            // There is always something to say to whoever asks for a host that is not there.
            self.known.hosts.insert(String::new(), KnownHost::default());
            self.hosts.insert(String::new());
        }
    }

    fn leave(&mut self, key: &Key) {
        let Some(was) = self.known.ingresses.remove(key) else { return };
        self.known.defaults.remove(key);
        let Some(parts) = was.parts else { return };
        self.tls |= !was.ingress.spec.tls.is_empty();
        for host in parts.hosts() {
            if let Some(known) = self.known.hosts.get_mut(host) {
                known.members.retain(|member| member != key);
            }
            self.hosts.insert(host.to_owned());
        }
        self.touched.insert(key.clone());
    }

    fn enter(&mut self, key: Key, ingress: Arc<Ingress>) {
        let (store, class) = (self.store, self.settings.class);
        let read = || is_ours(store, &ingress, class).then(|| Arc::new(Parts::read(store, &ingress)));
        let (parts, looked) = store.noting(&LOOKED_FOR, read);
        if let Some(parts) = &parts {
            self.tls |= !ingress.spec.tls.is_empty();
            for host in parts.hosts() {
                let members = &mut self.known.hosts.entry(host.to_owned()).or_default().members;
                if members.is_empty() {
                    // Most hosts are of one.
                    members.reserve_exact(1);
                }
                members.push(key.clone());
                self.hosts.insert(host.to_owned());
            }
            if parts.default.is_some() && ingress.spec.rules.is_empty() {
                self.known.defaults.insert(key.clone());
            }
            self.touched.insert(key.clone());
        }
        self.known.ingresses.insert(key, KnownIngress { ingress, looked, parts, taken: Vec::new() });
    }

    /// An Ingress without rules is about every host; the oldest of them is.
    fn look_for_default(&mut self) {
        let all = self.known.defaults.iter().filter_map(|key| self.known.owner(key));
        let oldest = all.min_by(|a, b| age(&a.ingress).cmp(&age(&b.ingress)));
        let is_as_it_was = match (&oldest, &self.known.everywhere) {
            (Some(now), Some(was)) => Arc::ptr_eq(&now.parts, &was.parts),
            (now, was) => now.is_none() && was.is_none(),
        };
        if !is_as_it_was {
            self.known.everywhere = oldest;
            self.hosts.extend(self.known.hosts.keys().cloned());
            self.touched.extend(self.known.defaults.iter().cloned());
        }
    }

    /// Makes the rules of a host anew.
    fn host(&mut self, host: &str) {
        let Some(known) = self.known.hosts.get_mut(host) else { return };
        let before = std::mem::take(&mut known.made);
        let members: Vec<Key> = known.members.clone();
        let mut members: Vec<Owner> = members.iter().filter_map(|key| self.known.owner(key)).collect();
        members.sort_by(|a, b| age(&a.ingress).cmp(&age(&b.ingress)));
        let mut made = Host::default();
        let mut placed = places(host, &members, &mut made);
        join(host, &members, &mut placed, &mut made);
        made.owner = placed.first().map(|first| first.owner.key.namespace.clone());
        let rules = if placed.is_empty() && !host.is_empty() {
            None
        } else {
            Some(self.rules_of(host, &members, placed, &mut made))
        };
        let made = made.made();
        self.touched.extend(before.notes.iter().chain(&made.notes).map(|(key, _)| key.clone()));
        // Whose a name is says which certificate is shown.
        self.tls |= before.owner != made.owner && !self.known.plan.certificates.is_empty();
        self.count(&made, &before);
        let place = HostPlace::of(host);
        let (plain, https) = rules.unzip();
        set(&mut self.known.plan.rules, &place, plain);
        set(&mut self.known.plan.https_rules, &place, https.filter(|_| self.settings.https_port.is_some()));
        match self.known.hosts.get_mut(host) {
            Some(known) if !known.members.is_empty() || host.is_empty() => known.made = made,
            _ => drop(self.known.hosts.remove(host)),
        }
    }

    /// Without a second server both are the same.
    fn rules_of(&mut self, host: &str, members: &[Owner], placed: Vec<Placed<'_>>, made: &mut Host) -> (Value, Value) {
        // What no path takes: the default backend of the first of them that has one, or that of every host.
        let own = placed.iter().map(|placed| placed.owner).find(|owner| owner.parts.default.is_some());
        let everywhere = self.known.everywhere.clone();
        let left = match own.or(everywhere.as_ref()).and_then(|owner| Some((owner, owner.parts.default.as_ref()?))) {
            Some((owner, backend)) => {
                let name = self.pipeline(backend, owner, None, made);
                one_path(&Match::Prefix(String::new()), &owner.parts.options, &name, self.settings.name)
            }
            None => vec![json!({"pathPrefix": "/", "backend": self.answering(404, made)})],
        };
        let refused: Vec<&Owner> = members.iter().filter(|member| !self.is_taken(host, member, made)).collect();
        let mut sites: Vec<(&Match, Vec<Value>, Vec<Value>)> = placed
            .iter()
            .filter(|placed| !refused.iter().any(|owner| owner.key == placed.owner.key))
            .map(|placed| {
                let (plain, https) = self.site(host, placed, made);
                (&placed.site.matched, plain, https)
            })
            .collect();
        sites.sort_by(|(a, ..), (b, ..)| order(a).cmp(&order(b)));
        let (mut plain, mut https) = (Vec::new(), Vec::new());
        for (_, in_the_clear, over_tls) in sites {
            plain.extend(in_the_clear);
            https.extend(over_tls);
        }
        plain.extend(left.iter().cloned());
        https.extend(left);
        (rule(host, plain), rule(host, https))
    }

    /// Whether a server takes what this Ingress says of the host; it is asked once. Whoever shares the server would be refused as well.
    fn is_taken(&mut self, host: &str, member: &Owner, made: &mut Host) -> bool {
        let is_known = |known: &KnownIngress| known.taken.iter().any(|taken| taken == host);
        if self.known.ingresses.get(&member.key).is_some_and(is_known) {
            return true;
        }
        let (key, options) = (&member.key, &member.parts.options);
        if options.canary.is_some() {
            return true;
        }
        let own = member.parts.sites.iter().filter(|site| site.host == host);
        let paths = own.flat_map(|site| one_path(&site.matched, options, "any", self.settings.name)).collect();
        let name = named(&format!("routes.{}.{}.{}", self.settings.name, key.namespace, key.name));
        let server = json!({"name": name, "kind": "HTTPServer", "port": 1, "rules": [rule(host, paths)]});
        if let Err(why) = self.check.check(&server) {
            made.refused(key, "spec.rules", format!("no route can be made of it: {why}"));
            return false;
        }
        if let Some(known) = self.known.ingresses.get_mut(key) {
            known.taken.push(host.to_owned());
        }
        true
    }

    /// Entries of the server in the clear where TLS is elsewhere, and of the one that speaks it.
    fn site(&mut self, host: &str, placed: &Placed<'_>, made: &mut Host) -> (Vec<Value>, Vec<Value>) {
        let (parts, matched) = (&placed.owner.parts, &placed.site.matched);
        let name = self.pipeline(&placed.site.backend, placed.owner, placed.canary, made);
        let https = one_path(matched, &parts.options, &name, self.settings.name);
        let redirects = self.settings.https_port.is_some()
            && parts.options.redirects_to_https(parts.is_tls(&placed.owner.ingress, host));
        let plain = match redirects {
            true => one_path(matched, &Options::default(), &self.redirecting(made), self.settings.name),
            false => https.clone(),
        };
        if https.iter().any(|path| path.get("ipFilter").is_some()) {
            self.answering(403, made);
        }
        (plain, https)
    }

    /// The pipeline of a backend, which is made where it is not there yet; one that says 503 where it cannot be used.
    fn pipeline(
        &mut self,
        backend: &Backend,
        owner: &Owner,
        canary: Option<(&Owner, &ServiceName, &Canary)>,
        made: &mut Host,
    ) -> String {
        let service = match backend {
            Backend::Nothing => return self.answering(503, made),
            Backend::Service(service) => service,
            Backend::Does(does) => return self.doing(does.name, does.filter.clone(), owner, made),
            Backend::Www(host) => {
                let filter = json!({"name": "redirect", "kind": "RedirectorV2", "hostname": host, "statusCode": 308});
                return self.doing(&format!("to.{host}"), filter, owner, made);
            }
        };
        let (controller, options) = (self.settings.name, &owner.parts.options);
        let is_own = canary.is_some() || !options.is_plain();
        let own = match canary {
            Some((other, ..)) => format!("~{}~{}", owner.key.name, other.key.name),
            None if is_own => format!("~{}", owner.key.name),
            None => String::new(),
        };
        let tls = if service.https { "tls." } else { "" };
        let name = named(&format!(
            "{controller}.{tls}{}.{}.{}{own}",
            service.service.namespace, service.service.name, service.port
        ));
        let of = [is_own.then(|| owner.parts.clone()), canary.map(|(other, ..)| other.parts.clone())];
        let part = canary.map(|(_, service, canary)| (service, canary));
        let document = || options.pipeline(&name, controller, service, part);
        if let Err(why) = self.lead(&name, of, document, made) {
            made.refused(
                &owner.key,
                "metadata.annotations",
                format!("no pipeline can be made of it: {why}; requests get 503"),
            );
            return self.answering(503, made);
        }
        made.services.insert(service.to_string());
        made.services.extend(part.map(|(service, _)| service.to_string()));
        made.services.extend(options.errors.iter().map(|errors| errors.service.to_string()));
        name
    }

    /// A pipeline of one filter that answers by itself.
    fn doing(&mut self, what: &str, filter: Value, owner: &Owner, made: &mut Host) -> String {
        let key = &owner.key;
        // No Ingress has an empty name: this is the pipeline of none.
        let name = named(&format!("{}.{}.{}~~{what}", self.settings.name, key.namespace, key.name));
        let document = || json!({"name": name, "kind": "Pipeline", "filters": [filter]});
        if let Err(why) = self.lead(&name, [Some(owner.parts.clone()), None], document, made) {
            let told = format!("no pipeline can be made of it: {why}; requests get 503");
            made.refused(key, "metadata.annotations", told);
            return self.answering(503, made);
        }
        name
    }

    /// A pipeline that says no more than a status.
    fn answering(&mut self, status: u16, made: &mut Host) -> String {
        let name = format!("{}.{status}", self.settings.name);
        let filter = json!({"name": "answer", "kind": "Mock", "rules": [{"code": status}]});
        self.lead_unasked(&name, json!({"name": name, "kind": "Pipeline", "filters": [filter]}), made);
        name
    }

    /// The pipeline that sends clients to the server that speaks TLS.
    fn redirecting(&mut self, made: &mut Host) -> String {
        let name = format!("{}.to-https", self.settings.name);
        let mut filter = json!({"name": "redirect", "kind": "RedirectorV2", "scheme": "https", "statusCode": 308});
        if let Some(port) = self.settings.https_port.filter(|port| *port != 443) {
            filter["port"] = json!(port);
        }
        self.lead_unasked(&name, json!({"name": name, "kind": "Pipeline", "filters": [filter]}), made);
        name
    }

    /// Has the host lead to this pipeline, which is made unless it is there, made of the same.
    fn lead(
        &mut self,
        name: &str,
        of: [Option<Arc<Parts>>; 2],
        document: impl FnOnce() -> Value,
        made: &mut Host,
    ) -> Result<(), String> {
        let same = |a: &Option<Arc<Parts>>, b: &Option<Arc<Parts>>| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        let is_there = |known: &KnownPipeline| same(&known.of[0], &of[0]) && same(&known.of[1], &of[1]);
        if !self.known.pipelines.get(name).is_some_and(is_there) {
            let document = document();
            self.check.check(&document)?;
            // One that nobody has led to yet is kept for this host, which is counted when all of it is made.
            self.known.pipelines.entry(name.to_owned()).or_insert(KnownPipeline { leads: 0, of: [None, None] }).of = of;
            self.put(name, document);
        }
        made.pipelines.insert(name.to_owned());
        Ok(())
    }

    fn lead_unasked(&mut self, name: &str, document: Value, made: &mut Host) {
        if !self.known.pipelines.contains_key(name) {
            self.known.pipelines.insert(name.to_owned(), KnownPipeline { leads: 0, of: [None, None] });
            self.put(name, document);
        }
        made.pipelines.insert(name.to_owned());
    }

    fn put(&mut self, name: &str, document: Value) {
        if self.known.plan.pipelines.get(name).is_none_or(|known| !known.is(&document)) {
            self.known.plan.pipelines.insert(name.to_owned(), Kept::of(&document));
        }
    }

    /// Counts what a host leads to now, and lets go of what nobody leads to any more.
    fn count(&mut self, now: &MadeHost, before: &MadeHost) {
        let known = &mut *self.known;
        let but = |names: &'_ [String], not: &[String]| -> Vec<String> {
            names.iter().filter(|name| not.binary_search(name).is_err()).cloned().collect()
        };
        for name in &but(&now.pipelines, &before.pipelines) {
            if let Some(pipeline) = known.pipelines.get_mut(name) {
                pipeline.leads += 1;
            }
        }
        for service in &but(&now.services, &before.services) {
            let asked = known.services.entry(service.clone()).or_default();
            *asked += 1;
            if *asked == 1 {
                known.plan.services.insert(service.clone());
            }
        }
        for name in &but(&before.pipelines, &now.pipelines) {
            let Some(pipeline) = known.pipelines.get_mut(name) else { continue };
            pipeline.leads -= 1;
            if pipeline.leads == 0 {
                known.pipelines.remove(name);
                known.plan.pipelines.remove(name);
            }
        }
        for service in &but(&before.services, &now.services) {
            let Some(asked) = known.services.get_mut(service) else { continue };
            *asked -= 1;
            if *asked == 0 {
                known.services.remove(service);
                known.plan.services.remove(service);
            }
        }
    }

    /// All of them: which one is shown for a name depends on the others.
    fn certificates(&mut self, kept: &dyn Fn() -> BTreeMap<String, (String, String)>) {
        let has_tls = |(_, known): &(&Key, &KnownIngress)| known.parts.is_some() && !known.ingress.spec.tls.is_empty();
        let mut all: Vec<(&Key, &KnownIngress)> = self.known.ingresses.iter().filter(has_tls).collect();
        all.sort_by(|(_, a), (_, b)| age(&a.ingress).cmp(&age(&b.ingress)));
        let kept = if all.is_empty() { BTreeMap::new() } else { kept() };
        let (store, check) = (self.store, &mut *self.check);
        let mut before = std::mem::take(&mut self.known.secrets);
        let mut secrets: BTreeMap<Key, KnownSecret> = BTreeMap::new();
        let (mut pairs, mut candidates, mut holders) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut reports: BTreeMap<Key, Report> = BTreeMap::new();
        for (key, KnownIngress { ingress, .. }) in all {
            let mut report = Report::default();
            for tls in &ingress.spec.tls {
                let name = &tls.secret_name;
                let mut usable = |key: &Key| {
                    let (secret, pair) = certificate_in(store, key)?;
                    // Several Ingresses may name one that cannot be used.
                    let known = match secrets.remove(key).or_else(|| before.remove(key)) {
                        Some(known) if Arc::ptr_eq(&known.secret, secret) => known,
                        _ => {
                            let found = is_usable(key, &pair, check).map(|()| names_of(&pair.0, &pair.1));
                            KnownSecret { secret: secret.clone(), found }
                        }
                    };
                    let found = known.found.as_ref().map(|_| pair).map_err(String::clone);
                    secrets.insert(key.clone(), known);
                    found
                };
                let added = certificate(ingress, name, &kept, &mut usable, &mut pairs, &mut report);
                if let Some(secret) = added {
                    let of = secrets.get(&Key::new(&ingress.metadata.namespace, name));
                    let names = match of.map(|known| &known.found) {
                        Some(Ok(names)) => names.clone(),
                        // It was in force before, and its secret has become unusable or is gone.
                        _ => pairs.get(&secret).map(|pair| check.names(&secret, pair)).unwrap_or_default(),
                    };
                    holders.push(key);
                    candidates.push(Candidate { secret, names, holder: key.namespace.clone() });
                }
            }
            if !report.notes.is_empty() {
                reports.insert(key.clone(), report);
            }
        }
        self.known.secrets = secrets;
        let hosts = &self.known.hosts;
        let owner_of = |host: &str| hosts.get(host)?.made.owner.clone();
        // Whose a name is: of the oldest Ingress that has the host, or else the wildcard that it is within.
        let owner = |name: &str| {
            let wild = || owner_of(&format!("*.{}", name.split_once('.')?.1));
            owner_of(name).or_else(wild)
        };
        let called = certificates::called(&candidates, owner);
        for (candidate, key) in candidates.iter().zip(holders) {
            if called.get(&candidate.secret).is_some_and(|called| *called != candidate.secret) {
                let told = format!(
                    "secret {} is for {}, of which another ingress has one that is shown",
                    candidate.secret,
                    candidate.names.join(", ")
                );
                reports.entry(key.clone()).or_default().approximated("spec.tls", told);
            }
        }
        let pairs: BTreeMap<String, (String, String)> =
            pairs.into_iter().filter_map(|(of, pair)| Some((called.get(&of)?.clone(), pair))).collect();
        if *self.known.plan.certificates != pairs {
            self.known.plan.certificates = Arc::new(pairs);
        }
        let before = std::mem::replace(&mut self.known.of_certificates, reports);
        let now = &self.known.of_certificates;
        self.touched.extend(before.iter().filter(|(key, was)| now.get(key) != Some(was)).map(|(key, _)| key.clone()));
        self.touched.extend(now.keys().filter(|key| !before.contains_key(key)).cloned());
    }

    /// What is told of those of whom something else may be told.
    fn reports(&mut self) {
        for key in std::mem::take(&mut self.touched) {
            let report = self.report(&key);
            let key = (Kind::Ingress, key);
            if self.known.plan.reports.get(&key) != report.as_ref() {
                let reports = &mut self.known.plan.reports;
                match report {
                    Some(report) => drop(reports.insert(key, report)),
                    None => drop(reports.remove(&key)),
                }
            }
        }
    }

    fn report(&self, key: &Key) -> Option<Report> {
        let known = &*self.known;
        let parts = known.ingresses.get(key)?.parts.as_ref()?;
        let mut report = parts.report.clone();
        report.notes.extend(known.of_certificates.get(key).into_iter().flat_map(|report| report.notes.clone()));
        let older = known.everywhere.as_ref().filter(|_| known.defaults.contains(key));
        if let Some(older) = older.filter(|older| older.key != *key) {
            let told = format!("ingress {}, which is older, has the default backend of every host", older.key);
            report.refused("spec.defaultBackend", told);
        }
        let hosts: Vec<&MadeHost> =
            parts.hosts().into_iter().filter_map(|host| Some(&known.hosts.get(host)?.made)).collect();
        // Of every host, where that is its.
        let any = known.hosts.get("").filter(|_| known.defaults.contains(key)).map(|any| &any.made);
        for (of, note) in hosts.into_iter().chain(any).flat_map(|host| &host.notes) {
            if of == key && !report.notes.contains(note) {
                report.notes.push(note.clone());
            }
        }
        Some(report)
    }
}

/// Puts a rule in its place, unless the same is there.
fn set(rules: &mut Rules, place: &HostPlace, rule: Option<Value>) {
    match rule {
        Some(rule) if rules.get(place).is_some_and(|known| known.is(&rule)) => {}
        Some(rule) => drop(rules.insert(place.clone(), Kept::of(&rule))),
        None if !rules.contains_key(place) => {}
        None => drop(rules.remove(place)),
    }
}

/// Who has which path of a host: the first that asks for it.
fn places<'m>(host: &str, members: &'m [Owner], made: &mut Host) -> Vec<Placed<'m>> {
    let mut taken: HashMap<&Match, &Owner> = HashMap::new();
    let mut placed = Vec::new();
    let shown = if host.is_empty() { "any host" } else { host };
    for owner in members.iter().filter(|owner| owner.parts.options.canary.is_none()) {
        for site in owner.parts.sites.iter().filter(|site| site.host == host) {
            match taken.entry(&site.matched) {
                Entry::Occupied(held) if held.get().key == owner.key => {
                    let told = "this ingress has the path already; remove one of the two";
                    made.refused(&owner.key, &site.place, told);
                }
                Entry::Occupied(held) => {
                    let by = &held.get().key;
                    let told = format!("ingress {by}, which is older, has this path of {shown}; change one of the two");
                    made.refused(&owner.key, &site.place, told);
                }
                Entry::Vacant(free) => {
                    free.insert(owner);
                    placed.push(Placed { owner, site, canary: None });
                }
            }
        }
    }
    placed
}

/// Gives canaries their part of the paths that they name.
fn join<'m>(host: &str, members: &'m [Owner], placed: &mut [Placed<'m>], made: &mut Host) {
    let canaries = members.iter().filter_map(|owner| Some((owner, owner.parts.options.canary.as_ref()?)));
    for (owner, canary) in canaries {
        for site in owner.parts.sites.iter().filter(|site| site.host == host) {
            let main = placed.iter_mut().find(|placed| placed.site.matched == site.matched);
            let told = match (main, &site.backend) {
                (None, _) => "no other ingress has this host and path, which it could have a part of".to_owned(),
                (Some(main), _) if main.owner.key.namespace != owner.key.namespace => format!(
                    "ingress {} has this path, and a canary has a part of its own namespace's alone",
                    main.owner.key
                ),
                (Some(main), _) if main.canary.is_some() => {
                    "another canary has a part of this path already; remove one of the two".to_owned()
                }
                (Some(main), Backend::Service(service)) => {
                    main.canary = Some((owner, service, canary));
                    continue;
                }
                (Some(_), _) => continue,
            };
            made.refused(&owner.key, &site.place, told);
        }
    }
}

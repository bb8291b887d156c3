//! The controller of an AutoCertManager: sees that every name has a certificate, and that it is renewed in time.
//!
//! What it has to remember lies in the cluster: certificates, and how far each order is, so that whoever leads next goes on where this one
//! stopped. Each name is ordered by itself; one that fails waits for its own time, and no other waits for it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base_model::{AutoCertManagerSpec, DnsProviderSpec};
use base_tls::seal::Keyring;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use control_api::time::rfc3339;
use control_api::{Keyed, RefusalKind, Section};
use control_certificates::acme::Account;
use control_certificates::issued::{self, Facts};
use control_certificates::ocsp;
use control_certificates::renewal::{Window, renew_at};
use control_certificates::{Authority, Fault};
use control_state::{Action, Fence, KeyPut};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::board::{AutoCertFigures, Board};
use crate::host::{Cluster, Deposed};
use crate::keys::{self, Keys};
use crate::pause::{self, Pause};

mod demand;
mod order;

use demand::Demands;
use order::Wish;

/// The section of certificates, by name: `{chain, key}`, the key sealed.
pub const CERTIFICATES: &str = "certificates";
/// The section of what stands while they are ordered: `account/…`, `order/NAME`, `challenge/KIND/…`,
/// `txt/NAME`, `demand/NAME`, and [`SEAL`].
pub const ACME: &str = "acme";
/// The key that says with which key of the cluster is sealed.
pub const SEAL: &str = "seal";

/// One AutoCertManager.
pub struct Controller<C> {
    pub cluster: C,
    /// The object's.
    pub name: String,
    pub spec: AutoCertManagerSpec,
    pub fence: Fence,
    pub board: Arc<Board>,
    pub keys: Arc<Keys>,
}

/// What orders have in common.
struct Shared<C> {
    cluster: C,
    name: String,
    spec: AutoCertManagerSpec,
    fence: Fence,
    authority: Authority,
    /// Ours, once it was needed.
    account: Mutex<Option<Account>>,
    /// The authority says when to renew, and so takes what an order replaces.
    says_when: AtomicBool,
    /// By host, whose TXT records one order at a time has.
    turns: Mutex<HashMap<String, Arc<Mutex<()>>>>,
    /// Sections as they were read last.
    read: std::sync::Mutex<BTreeMap<&'static str, Read>>,
}

/// How far the order of a name is, and how often it went wrong.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Record {
    /// URL of the order that is under way.
    #[serde(skip_serializing_if = "String::is_empty")]
    order: String,
    /// The private key that it is for, sealed.
    #[serde(skip_serializing_if = "String::is_empty")]
    key: String,
    /// The directory it is at.
    directory: String,
    /// Failures in a row.
    failures: u32,
    /// Not before that, in milliseconds since 1970.
    not_before: u64,
    /// What went wrong last.
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
    /// What was ordered by: once the document says something else, it is tried at once.
    by: u64,
    /// The authority does not take what would be replaced.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    anew: bool,
}

/// Why an order stops.
enum Stop {
    /// Another member leads.
    Deposed,
    Fault(Fault),
    /// The authority has looked and not found what it should, by this kind of challenge.
    Unproved(String),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Stop {
        Stop::Fault(fault)
    }
}

/// What has come to its end.
enum Ended {
    Order(String, Result<(), Stop>),
    Window(String, u64, Option<Window>, Instant),
    /// Whether the certificate is revoked, and when that is asked again.
    Staple(String, u64, Result<bool, Stop>),
}

/// What is remembered of certificates while this runs.
#[derive(Default)]
struct Known {
    /// By name, of this generation.
    facts: HashMap<String, (u64, Option<Facts>)>,
    /// What the authority said, of this generation, and when it is asked again.
    windows: HashMap<String, (u64, Option<Window>, Instant)>,
    running: BTreeSet<String>,
    asking: bool,
    /// When authorities that did not say whether a certificate is good are asked again.
    unstapled: HashMap<String, Instant>,
    issued: u64,
    failed: u64,
    demands: Demands,
}

/// A name that is to have a certificate.
#[derive(Clone)]
struct Domain {
    name: String,
    provider: Option<DnsProviderSpec>,
}

impl<C: Cluster> Controller<C> {
    /// Goes on until another member leads, or it is dropped.
    pub async fn run(self) -> Deposed {
        self.board.update(&self.name, |entry| entry.kind = "AutoCertManager".to_owned());
        let mut pause = Pause::new(PAUSE_FIRST, PAUSE);
        let authority = loop {
            match self.prepare().await {
                Ok(authority) => break authority,
                Err(Stop::Deposed) => return self.deposed(),
                Err(Stop::Fault(fault)) => self.fault(Some(fault.to_string())),
                Err(Stop::Unproved(why)) => self.fault(Some(why)),
            }
            tokio::time::sleep(pause.take()).await;
        };
        self.fault(None);
        let (cluster, name, spec) = (self.cluster.clone(), self.name.clone(), self.spec.clone());
        let (fence, account, says_when) = (self.fence.clone(), Mutex::default(), AtomicBool::default());
        let turns = Mutex::default();
        let read = Default::default();
        let shared = Arc::new(Shared { cluster, name, spec, fence, authority, account, says_when, turns, read });
        let mut known = Known::default();
        // Orders end with this.
        let mut tasks: JoinSet<Ended> = JoinSet::new();
        let mut shown = Instant::now();
        self.show(&shared, &mut known);
        loop {
            let before = (known.running.len(), known.issued, known.failed);
            let wanted = self.board.take_wanted();
            if shared.demand(&mut known.demands, wanted).await.is_err() || shared.tidy().await.is_err() {
                return self.deposed();
            }
            let next = self.look(&shared, &mut known, &mut tasks);
            if before != (known.running.len(), known.issued, known.failed) || shown.elapsed() > SHOWN {
                shown = Instant::now();
                self.show(&shared, &mut known);
            }
            let pause = next.duration_since(SystemTime::now()).unwrap_or_default().clamp(BREATH, LOOK);
            let version = self.cluster.state().view.version;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.changed(version) => {}
                () = self.board.asked() => {}
                Some(ended) = tasks.join_next() => match ended {
                    Ok(ended) => {
                        if self.take(&shared, &mut known, ended).await.is_err() {
                            return self.deposed();
                        }
                        self.show(&shared, &mut known);
                    }
                    // The host starts this anew.
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => {}
                },
            }
        }
    }

    /// The state has changed, and not only now.
    async fn changed(&self, version: u64) {
        tokio::time::sleep(LOOK_AGAIN).await;
        self.cluster.changed(version).await;
    }

    fn deposed(&self) -> Deposed {
        self.board.fenced_out();
        tracing::info!(object = self.name, "another member leads");
        Deposed
    }

    fn fault(&self, fault: Option<String>) {
        if let Some(fault) = &fault {
            tracing::warn!(object = self.name, "{fault}");
        }
        self.board.update(&self.name, |entry| {
            entry.faults_total += u64::from(fault.is_some());
            entry.fault = fault;
        });
    }

    /// Sees that there is a key to seal with, and who is asked.
    async fn prepare(&self) -> Result<Authority, Stop> {
        let passing = |why: String| Stop::Fault(Fault::Passing(why));
        let named = keys::named(&self.cluster.state());
        let settled = self.keys.settle(&self.cluster, named.as_deref()).await.map_err(passing)?;
        if let Some(id) = settled {
            let put = KeyPut::new(SEAL, json!({"id": id}));
            write(&self.cluster, &self.name, &self.fence, ACME, vec![put], Vec::new()).await?;
        }
        Authority::new(&self.spec).map_err(passing)
    }

    /// Starts what is due. Returns when something is due next.
    fn look(&self, shared: &Arc<Shared<C>>, known: &mut Known, tasks: &mut JoinSet<Ended>) -> SystemTime {
        let now = SystemTime::now();
        let (certificates, acme) = (shared.read(CERTIFICATES), shared.read(ACME));
        let mut next = now + LOOK;
        known.tidy(&certificates.keys);
        for domain in shared.domains() {
            let name = domain.name.clone();
            if known.running.contains(&name) {
                continue;
            }
            let held = certificates.keys.get(&name);
            let value = certificates.values.get(&name);
            let facts = held.zip(value).and_then(|(held, value)| known.facts(&name, held, value));
            let says_ocsp = facts.as_ref().is_some_and(|facts| facts.responder.is_some());
            let record = acme.record(&name);
            let window = known.window(&name, held.map_or(0, |held| held.generation));
            let due = match &facts {
                None => now,
                Some(facts) => {
                    renew_at((facts.begins, facts.ends), self.spec.renew_before.duration(), window, facts.random)
                }
            };
            let by = ordered_by(&self.spec, domain.provider.as_ref());
            let not_before = record.as_ref().filter(|record| record.by == by).map_or(0, |record| record.not_before);
            let due = due.max(Fault::again(UNIX_EPOCH + Duration::from_millis(not_before), now));
            if due > now {
                next = next.min(due);
            } else if tasks.len() < AT_ONCE {
                let (shared, provider) = (shared.clone(), domain.provider.clone());
                let replaces = held.map(|held| chain_of(held)).filter(|chain| !chain.is_empty());
                known.running.insert(name.clone());
                let wish = Wish { name, provider, replaces, by };
                tasks.spawn(async move {
                    let done = shared.obtain(&wish).await;
                    Ended::Order(wish.name, done)
                });
            }
            if let Some(held) =
                held.filter(|_| says_ocsp && !known.asking && value.is_some_and(|value| staple_due(value, now)))
                && known.unstapled.get(&domain.name).is_none_or(|again| *again <= Instant::now())
            {
                known.asking = true;
                known.unstapled.insert(domain.name.clone(), Instant::now() + STAPLE_AGAIN);
                let (shared, name, held) = (shared.clone(), domain.name.clone(), held.clone());
                tasks.spawn(async move {
                    let done = shared.staple(&name, &held).await;
                    Ended::Staple(name, held.generation, done)
                });
            }
            // One at a time: the answer is no more than advice.
            if let Some(held) = held.filter(|_| facts.is_some() && !known.asking)
                && known.asks_window(&domain.name, held.generation)
            {
                known.asking = true;
                let (shared, name, generation) = (shared.clone(), domain.name.clone(), held.generation);
                let chain = chain_of(held);
                tasks.spawn(async move {
                    let (window, again) = shared.window(&chain).await;
                    Ended::Window(name, generation, window, again)
                });
            }
        }
        next
    }

    async fn take(&self, shared: &Shared<C>, known: &mut Known, ended: Ended) -> Result<(), Deposed> {
        let (name, done) = match ended {
            Ended::Window(name, generation, window, again) => {
                known.asking = false;
                known.windows.insert(name, (generation, window, again));
                return Ok(());
            }
            Ended::Staple(name, generation, done) => {
                known.asking = false;
                match done {
                    Ok(true) => {
                        tracing::warn!(
                            object = self.name,
                            name,
                            "the authority has revoked the certificate; it is renewed"
                        );
                        let again = Instant::now() + WINDOW_ASKED;
                        known.windows.insert(name, (generation, Some((UNIX_EPOCH, UNIX_EPOCH)), again));
                    }
                    Ok(false) => drop(known.unstapled.remove(&name)),
                    Err(Stop::Deposed) => return Err(Deposed),
                    Err(Stop::Fault(fault)) => {
                        tracing::warn!(
                            object = self.name,
                            name,
                            "no OCSP answer to show with the certificate: {fault}"
                        );
                    }
                    Err(Stop::Unproved(_)) => {}
                }
                return Ok(());
            }
            Ended::Order(name, done) => (name, done),
        };
        known.running.remove(&name);
        let fault = match done {
            Ok(()) => {
                known.issued += 1;
                tracing::info!(object = self.name, name, "a certificate was issued");
                return Ok(());
            }
            Err(Stop::Deposed) => return Err(Deposed),
            Err(Stop::Fault(fault)) => fault,
            Err(Stop::Unproved(why)) => Fault::Refused(why),
        };
        known.failed += 1;
        let domain = shared.domains().into_iter().find(|domain| domain.name == name);
        let by = ordered_by(&self.spec, domain.and_then(|domain| domain.provider).as_ref());
        match shared.failed(&name, &fault, by).await {
            Ok(pause) => {
                let pause = base_text::duration(pause);
                tracing::warn!(object = self.name, name, "no certificate was issued: {fault}; next try in {pause}");
                Ok(())
            }
            Err(Stop::Deposed) => Err(Deposed),
            // It is tried again sooner than it should be, and that is all.
            Err(_) => Ok(()),
        }
    }

    /// Tells how every name is.
    fn show(&self, shared: &Shared<C>, known: &mut Known) {
        let (certificates, acme) = (shared.read(CERTIFICATES), shared.read(ACME));
        let (mut domains, mut failing) = (Vec::new(), BTreeMap::new());
        let all = shared.domains();
        for domain in all.iter().take(NAMES_SHOWN) {
            let name = domain.name.clone();
            let held = certificates.keys.get(&name);
            let value = certificates.values.get(&name);
            let facts = held.zip(value).and_then(|(held, value)| known.facts(&name, held, value));
            let record = acme.record(&name).filter(|record| !record.error.is_empty());
            let state = match (&facts, &record, known.running.contains(&name)) {
                (_, _, true) => "ordering",
                (_, Some(_), _) => "failed",
                (Some(_), None, _) => "issued",
                (None, None, _) => "waiting",
            };
            let mut shown = json!({"name": name, "state": state});
            if let Some(facts) = &facts {
                let window = known.window(&name, held.map_or(0, |held| held.generation));
                let renewed =
                    renew_at((facts.begins, facts.ends), self.spec.renew_before.duration(), window, facts.random);
                shown["expireTime"] = json!(rfc3339(facts.ends));
                shown["renewTime"] = json!(rfc3339(renewed));
                shown["issuer"] = json!(facts.issuer);
            }
            if let Some(record) = record {
                shown["error"] = json!(record.error);
                shown["failures"] = json!(record.failures);
                let wanted = UNIX_EPOCH + Duration::from_millis(record.not_before);
                shown["nextTry"] = json!(rfc3339(Fault::again(wanted, SystemTime::now())));
                failing.insert(name, record.failures);
            }
            domains.push(shown);
        }
        let heard = shared.authority.heard();
        let fault = failing
            .keys()
            .next()
            .map(|first| format!("{} of {} names fail, {first} among them; see domains", failing.len(), all.len()));
        let figures = AutoCertFigures {
            domains,
            failing,
            issued_total: known.issued,
            failed_total: known.failed,
            requests_total: heard.requests.load(Ordering::Relaxed),
            bad_nonces_total: heard.bad_nonces.load(Ordering::Relaxed),
            demands_refused_total: known.demands.refused,
        };
        self.board.update(&self.name, |entry| {
            entry.fault = fault;
            entry.auto_cert = Some(figures);
        });
    }
}

impl Known {
    /// Forgets what it knows of certificates that are gone.
    fn tidy(&mut self, certificates: &Section) {
        self.facts.retain(|name, _| certificates.contains_key(name));
        self.windows.retain(|name, _| certificates.contains_key(name));
        self.unstapled.retain(|name, _| certificates.contains_key(name));
    }

    /// Of a certificate that can be shown; none of one that has to be ordered anew.
    fn facts(&mut self, name: &str, held: &Keyed, value: &Value) -> Option<Facts> {
        let key = value.get("key").and_then(Value::as_str).unwrap_or_default();
        let of_known_key = key.split_once(':').is_some_and(|(id, _)| Keyring::here().has(id));
        match self.facts.get(name) {
            Some((of, facts)) if *of == held.generation => facts.clone(),
            _ => {
                let facts = issued::facts(&chain_of(held)).ok();
                self.facts.insert(name.to_owned(), (held.generation, facts.clone()));
                facts
            }
        }
        .filter(|_| of_known_key)
    }

    fn window(&self, name: &str, generation: u64) -> Option<Window> {
        self.windows.get(name).filter(|(of, _, _)| *of == generation).and_then(|(_, window, _)| *window)
    }

    fn asks_window(&self, name: &str, generation: u64) -> bool {
        self.windows.get(name).is_none_or(|(of, _, again)| *of != generation || *again <= Instant::now())
    }
}

/// A section and what its keys hold, read when a key is another: every turn looks at all certificates, and there may be ten thousand. What is
/// large of them is left out, and read where it is asked for.
#[derive(Clone, Default)]
struct Read {
    keys: Section,
    values: OrdMap<String, Arc<Value>>,
}

impl Read {
    fn follow(&mut self, keys: Section) {
        for item in self.keys.diff(&keys) {
            match item {
                DiffItem::Add(key, keyed) | DiffItem::Update { new: (key, keyed), .. } => {
                    let mut value = keyed.value.read();
                    if let Some(fields) = value.as_object_mut() {
                        fields.retain(|field, _| !LARGE.contains(&field.as_str()));
                    }
                    self.values.insert(key.clone(), Arc::new(value));
                }
                DiffItem::Remove(key, _) => drop(self.values.remove(key)),
            }
        }
        self.keys = keys;
    }

    /// What is known of the orders of this name.
    fn record(&self, name: &str) -> Option<Record> {
        Record::deserialize(&**self.values.get(&format!("order/{name}"))?).ok()
    }
}

impl<C: Cluster> Shared<C> {
    /// A section as it is now.
    fn read(&self, section: &'static str) -> Read {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let read = read.entry(section).or_default();
        read.follow(self.section(section));
        read.clone()
    }

    async fn write(&self, section: &str, puts: Vec<KeyPut>, deletes: Vec<String>) -> Result<u64, Stop> {
        write(&self.cluster, &self.name, &self.fence, section, puts, deletes).await
    }

    /// What lies at a place of the state, opened.
    fn open(&self, section: &str, key: &str, sealed: &str) -> Option<String> {
        let opened = Keyring::here().open(&format!("{section}/{key}"), sealed).ok()?;
        String::from_utf8(opened).ok()
    }

    fn seal(&self, section: &str, key: &str, plain: &str) -> Result<String, Stop> {
        let sealed = Keyring::here().close(&format!("{section}/{key}"), plain.as_bytes());
        sealed.ok_or_else(|| Stop::Fault(Fault::Passing("there is no key of the cluster to seal with".to_owned())))
    }

    fn section(&self, section: &str) -> Section {
        self.cluster.state().view.sections.get(section).cloned().unwrap_or_default()
    }

    /// The names of the document, and those that clients have asked for.
    fn domains(&self) -> Vec<Domain> {
        let written = self.spec.domains.iter();
        let mut all: Vec<Domain> =
            written.map(|domain| Domain { name: domain.key(), provider: domain.dns_provider.clone() }).collect();
        let asked = demand::names(&self.section(ACME)).into_iter().filter(|name| self.spec.allows_on_demand(name));
        all.extend(asked.filter(|name| !self.spec.manages(name)).map(|name| Domain { name, provider: None }));
        all
    }

    /// Takes out what no name is for any more, and seals anew what is sealed with a key from before.
    async fn tidy(&self) -> Result<(), Deposed> {
        let wanted: BTreeSet<String> = self.domains().into_iter().map(|domain| domain.name).collect();
        let (certificates, acme) = (self.read(CERTIFICATES), self.read(ACME));
        let gone: Vec<String> = certificates.values.keys().filter(|name| !wanted.contains(*name)).cloned().collect();
        let of = |key: &String, value: &Value| match key.split_once('/') {
            Some(("order" | "demand", name)) => Some(name.to_owned()),
            Some(("challenge" | "txt", _)) => value.get("name").and_then(Value::as_str).map(str::to_owned),
            _ => None,
        };
        let idle = acme.values.iter().filter(|(key, value)| of(key, value).is_some_and(|name| !wanted.contains(&name)));
        let idle: Vec<String> = idle.map(|(key, _)| key.clone()).collect();
        let mut written = Ok(0);
        if !gone.is_empty() {
            written = self.write(CERTIFICATES, Vec::new(), gone).await;
        }
        if !idle.is_empty() {
            written = written.and(self.write(ACME, Vec::new(), idle).await);
        }
        for (section, read, field) in [(CERTIFICATES, &certificates, "key"), (ACME, &acme, "credentials")] {
            let puts = read.values.iter().filter_map(|(key, value)| {
                let sealed = value.get(field)?.as_str().filter(|sealed| !Keyring::here().is_current(sealed))?;
                let anew = json!(self.seal(section, key, &self.open(section, key, sealed)?).ok()?);
                let keyed = read.keys.get(key)?;
                let mut value = keyed.value.read();
                value[field] = anew;
                Some(KeyPut { until: keyed.until, ..KeyPut::new(key.clone(), value) })
            });
            let puts: Vec<KeyPut> = puts.take(BATCH).collect();
            if !puts.is_empty() {
                written = written.and(self.write(section, puts, Vec::new()).await);
            }
        }
        if matches!(written, Err(Stop::Deposed)) { Err(Deposed) } else { Ok(()) }
    }

    /// Ours, made when it is needed first. It is the same for whoever leads.
    async fn account(&self) -> Result<Account, Stop> {
        let mut ours = self.account.lock().await;
        if let Some(account) = &*ours {
            return Ok(account.clone());
        }
        let key = account_key(&self.spec);
        let kept = self.section(ACME).get(&key).and_then(|keyed| {
            let value = keyed.value.read();
            self.open(ACME, &key, value.get("credentials")?.as_str()?)
        });
        let account = match kept {
            Some(credentials) => self.authority.account(&credentials).await?,
            None => {
                let (account, credentials) = self.authority.register().await?;
                let value = json!({"directory": self.spec.directory_url, "email": self.spec.email, "id": account.id(),
                                   "credentials": self.seal(ACME, &key, &credentials)?});
                self.write(ACME, vec![KeyPut::new(key, value)], Vec::new()).await?;
                tracing::info!(object = self.name, account = account.id(), "there is an account at the authority");
                account
            }
        };
        *ours = Some(account.clone());
        Ok(account)
    }

    /// The authority does not know it any more: another is made with the next order.
    async fn forget_account(&self) -> Result<(), Stop> {
        let mut ours = self.account.lock().await;
        *ours = None;
        self.write(ACME, Vec::new(), vec![account_key(&self.spec)]).await.map(drop)
    }

    /// Writes down what went wrong, and when to try again.
    async fn failed(&self, name: &str, fault: &Fault, by: u64) -> Result<Duration, Stop> {
        let mut record = read_record(&self.section(ACME), name).unwrap_or_default();
        if record.by != by {
            record.failures = 0;
        }
        record.failures = record.failures.saturating_add(1);
        record.by = by;
        record.error = fault.to_string();
        let now = SystemTime::now();
        let pause = fault.pause(record.failures, now, pause::random());
        record.not_before = milliseconds(now + pause);
        match fault {
            // The order stands, and may go on.
            Fault::Passing(_) => {}
            Fault::Replaces(_) => (record.order, record.anew) = (String::new(), true),
            Fault::Refused(_) | Fault::Limited(..) => record.order.clear(),
            Fault::Account(_) => {
                record.order.clear();
                self.forget_account().await?;
            }
        }
        self.keep(name, &record).await?;
        Ok(pause)
    }

    async fn keep(&self, name: &str, record: &Record) -> Result<(), Stop> {
        let value = serde_json::to_value(record).unwrap_or_default();
        self.write(ACME, vec![KeyPut::new(format!("order/{name}"), value)], Vec::new()).await.map(drop)
    }

    /// Has the authority say that the certificate is good, for clients to see. `true`: it is revoked.
    async fn staple(&self, name: &str, held: &Keyed) -> Result<bool, Stop> {
        let mut value = held.value.read();
        let chain = value.get("chain").and_then(Value::as_str).unwrap_or_default();
        let url = issued::facts(chain).ok().and_then(|facts| facts.responder);
        let (Some(url), Some(request)) = (url, ocsp::request(chain)) else { return Ok(false) };
        let answer = self.authority.ocsp(&url, request).await?;
        let said = ocsp::read(chain, &answer, SystemTime::now()).map_err(Fault::Passing)?;
        if said.revoked {
            return Ok(true);
        }
        value["ocsp"] = json!(STANDARD.encode(answer));
        (value["ocspFrom"], value["ocspUntil"]) = (json!(milliseconds(said.from)), json!(milliseconds(said.until)));
        // Refused when another certificate has come meanwhile.
        let put = KeyPut { generation: Some(held.generation), ..KeyPut::new(name, value) };
        match self.write(CERTIFICATES, vec![put], Vec::new()).await {
            Err(Stop::Deposed) => {
                let now = self.section(CERTIFICATES).get(name).map_or(0, |keyed| keyed.generation);
                if now == held.generation { Err(Stop::Deposed) } else { Ok(false) }
            }
            written => written.map(|_| false),
        }
    }

    /// When the authority would like this to be renewed, and when it is asked again.
    async fn window(&self, chain: &str) -> (Option<Window>, Instant) {
        let later = Instant::now() + WINDOW_ASKED;
        let (Some(id), Ok(account)) = (issued::identifier(chain), self.account().await) else { return (None, later) };
        match account.renewal_info(&id).await {
            Ok((info, again)) => {
                self.says_when.store(true, Ordering::Relaxed);
                let window = (info.suggested_window.start.into(), info.suggested_window.end.into());
                (Some(window), Instant::now() + again.clamp(WINDOW_SOONEST, WINDOW_LATEST))
            }
            // It says nothing of the kind, or nothing at the moment.
            Err(_) => (None, later),
        }
    }
}

/// Of a certificate.
fn chain_of(held: &Keyed) -> String {
    held.value.read().get("chain").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Its authority is to be asked whether it is good: half of the time that its last answer is good for is over.
fn staple_due(value: &Value, now: SystemTime) -> bool {
    let number = |field: &str| value.get(field).and_then(Value::as_u64).unwrap_or_default();
    let half = (number("ocspFrom") + number("ocspUntil")) / 2;
    milliseconds(now) >= half
}

/// Under the lease. Answers with the version in which it is.
async fn write<C: Cluster>(
    cluster: &C,
    owner: &str,
    fence: &Fence,
    section: &str,
    puts: Vec<KeyPut>,
    deletes: Vec<String>,
) -> Result<u64, Stop> {
    let (section, fence) = (section.to_owned(), Some(fence.clone()));
    let action = Action::PutKeys { section, owner: owner.to_owned(), fence, puts, deletes };
    match cluster.propose(action, owner).await {
        Ok(done) => Ok(done.version),
        Err(refusal) if refusal.kind == RefusalKind::Stale => Err(Stop::Deposed),
        Err(refusal) => Err(Stop::Fault(Fault::Passing(format!("the cluster did not take it down: {refusal}")))),
    }
}

fn read_record(acme: &Section, name: &str) -> Option<Record> {
    let keyed = acme.get(&format!("order/{name}"))?;
    serde_json::from_str(keyed.value.text()).ok()
}

/// Of what an order follows from: the same document comes to the same.
fn ordered_by(spec: &AutoCertManagerSpec, provider: Option<&DnsProviderSpec>) -> u64 {
    let common = (&spec.directory_url, &spec.external_account, &spec.profile, &spec.ca_cert_base64);
    let kinds = (spec.enable_http01, spec.enable_tls_alpn01, spec.enable_dns01);
    let text = serde_json::to_vec(&(common, kinds, provider)).unwrap_or_default();
    digest(&text)
}

/// Where the account of this directory lies.
fn account_key(spec: &AutoCertManagerSpec) -> String {
    let id = spec.external_account.as_ref().map(|account| account.key_id.as_str());
    let text = serde_json::to_vec(&(&spec.directory_url, &spec.email, id)).unwrap_or_default();
    format!("account/{:016x}", digest(&text))
}

fn digest(text: &[u8]) -> u64 {
    u64::from_be_bytes(base_tls::certificate::sha256(text)[..8].try_into().unwrap_or_default())
}

fn milliseconds(at: SystemTime) -> u64 {
    u64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// How soon an authority is asked again that did not say that a certificate is good.
const STAPLE_AGAIN: Duration = Duration::from_secs(600);
/// Names that the status shows, those of the document first.
const NAMES_SHOWN: usize = 2048;
/// Fields of a certificate that no turn looks at, and that are nearly all of it.
const LARGE: [&str; 2] = ["chain", "ocsp"];
/// Orders under way at a time: authorities answer one by one, and each may wait for DNS.
const AT_ONCE: usize = 8;
/// Keys that are sealed anew in one go.
const BATCH: usize = 64;
/// Pauses after what has to be there first is not: the first, twice as long each time, and the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_secs(15);
/// Between two looks at what is due, at the longest and the shortest.
const LOOK: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(250);
const BREATH: Duration = Duration::from_millis(20);
/// How often what is shown is made anew although nothing has happened.
const SHOWN: Duration = Duration::from_secs(10);
/// How often an authority is asked when to renew, where it does not say itself; and the soonest and the latest of what it may say.
const WINDOW_ASKED: Duration = Duration::from_secs(6 * 3600);
const WINDOW_SOONEST: Duration = Duration::from_secs(60);
const WINDOW_LATEST: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;
    use control_api::Kept;

    #[test]
    fn of_many_keys_one_that_is_another_is_read() {
        let keyed =
            |n: u64| Arc::new(Keyed { value: Kept::of(&json!({"failures": n, "chain": "long"})), ..Keyed::default() });
        let section: Section = (0..100).map(|n| (format!("order/{n}"), keyed(n))).collect();
        let mut read = Read::default();
        read.follow(section.clone());
        let before = read.clone();
        read.follow(section.update("order/7".to_owned(), keyed(700)).without("order/8"));
        assert_eq!(read.record("7").map(|record| record.failures), Some(700));
        assert_eq!((read.record("8"), read.values.len(), read.values["order/7"].get("chain")), (None, 99, None));
        let others = read.values.iter().filter(|(key, _)| *key != "order/7");
        assert!(others.into_iter().all(|(key, value)| Arc::ptr_eq(value, &before.values[key])));
    }
}

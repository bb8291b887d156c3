//! One order, from its beginning or from where an earlier leader left it to the certificate.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use base_model::DnsProviderSpec;
use control_certificates::acme::{
    AuthorizationStatus, ChallengeStatus, ChallengeType, Error, Identifier, KeyAuthorization, NewOrder, Order,
    OrderStatus, RetryPolicy,
};
use control_certificates::dns::{self, Txt};
use control_certificates::{Fault, issued};
use control_state::KeyPut;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{ACME, CERTIFICATES, Record, Shared, Stop, milliseconds, read_record};
use crate::host::Cluster;

/// How a name is proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    TlsAlpn,
    Dns,
}

impl Kind {
    fn acme(self) -> ChallengeType {
        match self {
            Kind::Http => ChallengeType::Http01,
            Kind::TlsAlpn => ChallengeType::TlsAlpn01,
            Kind::Dns => ChallengeType::Dns01,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Http => "HTTP-01",
            Kind::TlsAlpn => "TLS-ALPN-01",
            Kind::Dns => "DNS-01",
        }
    }
}

/// What is ordered, and what that goes by.
#[derive(Clone)]
pub(super) struct Wish {
    pub name: String,
    pub provider: Option<DnsProviderSpec>,
    /// The chain that it is to replace.
    pub replaces: Option<String>,
    /// What it is ordered by, for the record.
    pub by: u64,
}

/// What stands where the authority looks.
enum Stands {
    Key(String),
    Record(Txt, String),
}

impl<C: Cluster> Shared<C> {
    /// Has a certificate issued and written down.
    pub(super) async fn obtain(&self, wish: &Wish) -> Result<(), Stop> {
        let name = wish.name.as_str();
        let mut unproved = Vec::new();
        for kind in self.kinds(wish) {
            match self.obtain_by(wish, kind).await {
                // Another way may lead there.
                Err(Stop::Unproved(why)) => {
                    unproved.push(format!("{}: {why}", kind.name()));
                    let mut record = read_record(&self.section(ACME), name).unwrap_or_default();
                    record.order.clear();
                    self.keep(name, &record).await?;
                }
                done => return done,
            }
        }
        Err(Stop::Unproved(unproved.join("; ")))
    }

    fn kinds(&self, wish: &Wish) -> Vec<Kind> {
        if self.spec.enable_dns01 && wish.provider.is_some() {
            return vec![Kind::Dns];
        }
        let kinds = [(self.spec.enable_http01, Kind::Http), (self.spec.enable_tls_alpn01, Kind::TlsAlpn)];
        kinds.into_iter().filter(|(on, _)| *on).map(|(_, kind)| kind).collect()
    }

    async fn obtain_by(&self, wish: &Wish, kind: Kind) -> Result<(), Stop> {
        let name = wish.name.as_str();
        let (mut order, key) = self.begin(wish).await?;
        let chain = loop {
            let fault = |error: Error| Stop::Fault(self.authority.fault(error));
            match order.state().status {
                OrderStatus::Pending => self.prove(wish, &mut order, kind).await?,
                OrderStatus::Ready => {
                    let request =
                        issued::request(name, &key).map_err(|why| Fault::Passing(format!("no request: {why}")))?;
                    order.finalize_csr(&request).await.map_err(fault)?;
                }
                OrderStatus::Processing => break order.poll_certificate(&PATIENCE).await.map_err(fault)?,
                OrderStatus::Valid => match order.certificate().await.map_err(fault)? {
                    Some(chain) => break chain,
                    None => {
                        return Err(
                            Fault::Passing("the authority has no certificate although it is valid".into()).into()
                        );
                    }
                },
                OrderStatus::Invalid => {
                    let why = order.state().error.as_ref().map(|problem| Fault::of_problem(problem, None).to_string());
                    return Err(Stop::Unproved(why.unwrap_or_else(|| "the authority gave the order up".to_owned())));
                }
            }
        };
        if let Some(why) = issued::unusable(name, &chain, &key, SystemTime::now()) {
            return Err(Fault::Refused(format!("what the authority issued cannot be shown: {why}")).into());
        }
        let value = json!({"chain": chain, "key": self.seal(CERTIFICATES, name, &key)?});
        self.write(CERTIFICATES, vec![KeyPut::new(name, value)], Vec::new()).await?;
        self.write(ACME, Vec::new(), vec![format!("order/{name}")]).await?;
        Ok(())
    }

    /// The order that stands already, or a new one, with the key it is for.
    async fn begin(&self, wish: &Wish) -> Result<(Order, String), Stop> {
        let (name, by) = (wish.name.as_str(), wish.by);
        let account = self.account().await?;
        let place = format!("order/{name}");
        let record = read_record(&self.section(ACME), name).unwrap_or_default();
        if !record.order.is_empty()
            && record.directory == self.authority.directory
            && let Some(key) = self.open(ACME, &place, &record.key)
        {
            match account.order(record.order.clone()).await {
                Ok(mut order) => {
                    // One that came to nothing is forgotten.
                    if order.state().status != OrderStatus::Invalid {
                        return Ok((order, key));
                    }
                }
                Err(error) => match self.authority.fault(error) {
                    Fault::Refused(_) => {}
                    fault => return Err(fault.into()),
                },
            }
        }
        let identifiers = [Identifier::Dns(name.to_owned())];
        let mut new = NewOrder::new(&identifiers);
        let replaced = wish.replaces.as_deref().filter(|_| !record.anew).and_then(issued::identifier);
        if let Some(replaced) = replaced.filter(|_| self.says_when.load(Ordering::Relaxed)) {
            new = new.replaces(replaced);
        }
        if !self.spec.profile.is_empty() {
            new = new.profile(&self.spec.profile);
        }
        let order = account.new_order(&new).await.map_err(|error| self.authority.fault(error))?;
        let key = issued::draw_key().map_err(|why| Fault::Passing(format!("no private key: {why}")))?;
        let kept = Record {
            order: order.url().to_owned(),
            key: self.seal(ACME, &place, &key)?,
            directory: self.authority.directory.clone(),
            by,
            ..record
        };
        self.keep(name, &kept).await?;
        Ok((order, key))
    }

    /// Puts what the authority asks for where it looks, and has it look.
    async fn prove(&self, wish: &Wish, order: &mut Order, kind: Kind) -> Result<(), Stop> {
        // One at a time puts records under a name: of a name and its wildcard, which have the same.
        let turn = if kind == Kind::Dns { Some(self.turn(&wish.name).await) } else { None };
        let _turn = match &turn {
            Some(turn) => Some(turn.lock().await),
            None => None,
        };
        let mut stands = Vec::new();
        let proved = self.prove_all(wish, order, kind, &mut stands).await;
        // Nothing is left standing, whatever came of it.
        let mut keys = Vec::new();
        for stood in stands {
            match stood {
                Stands::Key(key) => keys.push(key),
                Stands::Record(record, id) => {
                    if self.take_out(wish, &record, &id).await {
                        keys.push(format!("txt/{}", wish.name));
                    }
                }
            }
        }
        let cleared = if keys.is_empty() { Ok(0) } else { self.write(ACME, Vec::new(), keys).await };
        match (proved, cleared) {
            (Err(stop), _) => Err(stop),
            (Ok(()), Err(Stop::Deposed)) => Err(Stop::Deposed),
            (Ok(()), _) => Ok(()),
        }
    }

    /// Whose turn it is to put records under this name.
    async fn turn(&self, name: &str) -> Arc<Mutex<()>> {
        let host = name.strip_prefix("*.").unwrap_or(name);
        self.turns.lock().await.entry(host.to_owned()).or_default().clone()
    }

    /// Whether the record is gone; else whoever orders the name next takes it out.
    async fn take_out(&self, wish: &Wish, record: &Txt, id: &str) -> bool {
        let Some(spec) = &wish.provider else { return true };
        let done = match dns::provider(spec) {
            Ok(provider) => provider.remove(record, id).await,
            Err(fault) => Err(fault),
        };
        if let Err(fault) = &done {
            tracing::warn!(object = self.name, name = wish.name, "a TXT record stays behind for now: {fault}");
        }
        done.is_ok()
    }

    /// Takes out what an earlier order of this name has left in its zone.
    async fn clear(&self, wish: &Wish) -> Result<(), Stop> {
        let key = format!("txt/{}", wish.name);
        let Some(left) = self.section(ACME).get(&key).map(|keyed| keyed.value.read()) else { return Ok(()) };
        let text = |field: &str| left.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let record = Txt { name: text("record"), zone: text("zone"), value: text("value") };
        if self.take_out(wish, &record, &text("id")).await {
            self.write(ACME, Vec::new(), vec![key]).await?;
        }
        Ok(())
    }

    async fn prove_all(
        &self,
        wish: &Wish,
        order: &mut Order,
        kind: Kind,
        stands: &mut Vec<Stands>,
    ) -> Result<(), Stop> {
        let fault = |error: Error| Stop::Fault(self.authority.fault(error));
        let mut authorizations = order.authorizations();
        while let Some(next) = authorizations.next().await {
            let mut authorization = next.map_err(fault)?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let offers = authorization.challenges.iter().map(|offered| offered.r#type.clone()).collect::<Vec<_>>();
            let Some(mut challenge) = authorization.challenge(kind.acme()) else {
                return Err(Stop::Unproved(format!("the authority does not offer it, but {} others", offers.len())));
            };
            let (token, text) = (challenge.token.clone(), challenge.key_authorization());
            match kind {
                Kind::Dns => self.stand_in_zone(wish, &text, stands).await?,
                kind => self.stand(&wish.name, kind, &token, &text, stands).await?,
            }
            // An earlier leader may have told it to look, and that is not said twice.
            if challenge.status == ChallengeStatus::Pending {
                challenge.set_ready().await.map_err(fault)?;
            }
        }
        match order.poll_ready(&PATIENCE).await {
            Ok(OrderStatus::Invalid) => Err(self.why_not(order).await),
            Ok(_) => Ok(()),
            Err(_) if order.state().status == OrderStatus::Invalid => Err(self.why_not(order).await),
            Err(error) => Err(fault(error)),
        }
    }

    async fn stand(
        &self,
        name: &str,
        kind: Kind,
        token: &str,
        text: &KeyAuthorization,
        stands: &mut Vec<Stands>,
    ) -> Result<(), Stop> {
        let until = Some(milliseconds(SystemTime::now() + STANDS));
        let (key, value) = match kind {
            Kind::TlsAlpn => {
                let key = format!("challenge/tls-alpn-01/{name}");
                let made = issued::challenge(name, text.digest().as_ref());
                let (chain, private) = made.map_err(|why| Fault::Passing(format!("no certificate to show: {why}")))?;
                let sealed = self.seal(ACME, &key, &private)?;
                (key, json!({"name": name, "chain": chain, "key": sealed}))
            }
            Kind::Http | Kind::Dns => {
                (format!("challenge/http-01/{token}"), json!({"name": name, "text": text.as_str()}))
            }
        };
        stands.push(Stands::Key(key.clone()));
        let put = KeyPut { until, ..KeyPut::new(key, value) };
        let version = self.write(ACME, vec![put], Vec::new()).await?;
        // The authority may ask any of them.
        if !self.cluster.served(version, EDGES).await {
            tracing::warn!(
                object = self.name,
                name,
                "not every edge answers the authority yet; it is told to look all the same"
            );
        }
        Ok(())
    }

    /// Puts a TXT record into the zone, and waits until it is seen.
    async fn stand_in_zone(&self, wish: &Wish, text: &KeyAuthorization, stands: &mut Vec<Stands>) -> Result<(), Stop> {
        let Some(spec) = &wish.provider else {
            return Err(Stop::Unproved("there is no dnsProvider".to_owned()));
        };
        self.clear(wish).await?;
        let record = Txt::new(&wish.name, spec, &text.dns_value());
        let id = dns::provider(spec)?.put(&record).await?;
        let left =
            json!({"name": wish.name, "record": record.name, "zone": record.zone, "value": record.value, "id": id});
        stands.push(Stands::Record(record.clone(), id));
        self.write(ACME, vec![KeyPut::new(format!("txt/{}", wish.name), left)], Vec::new()).await?;
        Ok(dns::seen(&record, spec).await?)
    }

    /// What the authority has found, which it says of each challenge.
    async fn why_not(&self, order: &mut Order) -> Stop {
        let mut found = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(Ok(mut authorization)) = authorizations.next().await {
            if let Err(error) = authorization.refresh().await {
                return Stop::Fault(self.authority.fault(error));
            }
            let errors = authorization.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
            found.extend(errors.map(|problem| Fault::of_problem(problem, None)));
        }
        match found.into_iter().next() {
            Some(Fault::Limited(why, after)) => Stop::Fault(Fault::Limited(why, after)),
            Some(fault) => Stop::Unproved(fault.to_string()),
            None => Stop::Unproved("the authority gave the order up".to_owned()),
        }
    }
}

/// How long an authority may take to look, and to issue.
const PATIENCE: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(250)).backoff(1.5).timeout(Duration::from_secs(90));
/// What stands for an authority goes by itself after that, should nobody take it away.
const STANDS: Duration = Duration::from_secs(3600);
/// How long edges are waited for before the authority is told to look.
const EDGES: Duration = Duration::from_secs(10);

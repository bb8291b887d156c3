//! What an edge does for certificates that the cluster orders: it answers an authority that asks whether a name is ours (HTTP-01), and
//! takes certificates, and what is shown in TLS-ALPN-01, out of the cluster's state. There is one table per process, as there is one of
//! [`Managed`] certificates.

use base_model::AutoCertManagerSpec;
use base_tls::Certificate;
use base_tls::managed::Managed;
use base_tls::seal::{Keyring, Sealed};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use edge_pipeline::{Body, Exchange};
use proto_http::Response;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The section of certificates, by name.
pub const CERTIFICATES: &str = "certificates";
/// The section of what stands while they are ordered.
pub const ACME: &str = "acme";

/// What paths of HTTP-01 begin with; a token follows (RFC 8555 section 8.3).
pub const WELL_KNOWN: &str = "/.well-known/acme-challenge/";

/// See the module doc.
#[derive(Debug, Default)]
pub struct Acme(RwLock<Table>);

#[derive(Debug, Default)]
struct Table {
    /// The object that orders them, if there is one.
    manager: Option<(String, Arc<AutoCertManagerSpec>)>,
    /// Texts of HTTP-01 by token.
    texts: HashMap<String, String>,
    /// What is sealed with a key that has not come yet, by section and key.
    sealed: BTreeMap<(String, String), Arc<Value>>,
    /// Until when what an authority says of a certificate may be shown with it, by name.
    staples: BTreeMap<String, SystemTime>,
}

/// What an authority is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    Text(String),
    /// It asks for what is not here.
    Status(u16),
}

impl Acme {
    /// That of this process.
    pub fn here() -> &'static Acme {
        static HERE: OnceLock<Acme> = OnceLock::new();
        HERE.get_or_init(Acme::default)
    }

    /// The object that orders certificates.
    pub fn set_manager(&self, name: &str, spec: AutoCertManagerSpec) {
        let spec = Arc::new(spec);
        self.write().manager = Some((name.to_owned(), spec.clone()));
        Managed::here().set_rule(match &spec.on_demand {
            None => None,
            Some(_) => Some(Box::new(move |name| spec.allows_on_demand(name))),
        });
    }

    pub fn remove_manager(&self, name: &str) {
        let mut table = self.write();
        if table.manager.as_ref().is_some_and(|(there, _)| there == name) {
            table.manager = None;
            Managed::here().set_rule(None);
        }
    }

    /// The name of the object that orders certificates, and of which names there is one here, with its end; as Easegress has it.
    pub fn status(&self) -> Option<(String, Value)> {
        let (name, _) = self.read().manager.clone()?;
        let domains: Vec<Value> = Managed::here()
            .ends()
            .into_iter()
            .map(|(name, end)| json!({"name": name, "expireTime": rfc3339(end)}))
            .collect();
        Some((name, json!({"health": "ready", "domains": domains})))
    }

    /// What `path` is answered with where it is one of HTTP-01, as Easegress does: 503 without an AutoCertManager, 404 where HTTP-01 is off
    /// or nobody knows the token, 403 for a host that is not its.
    pub fn answer(&self, path: &str, host: &str) -> Option<Told> {
        let token = path.strip_prefix(WELL_KNOWN)?;
        let table = self.read();
        let Some((_, manager)) = &table.manager else { return Some(Told::Status(503)) };
        let Some(text) = table.texts.get(token).filter(|_| manager.enable_http01) else {
            return Some(Told::Status(404));
        };
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if !manager.manages(&host) && !manager.allows_on_demand(&host) {
            return Some(Told::Status(403));
        }
        Some(Told::Text(text.clone()))
    }

    /// Takes a key of [`CERTIFICATES`] or [`ACME`]; `None`: it is gone. An error says why it is not served, and what was there stays.
    pub fn apply(&self, section: &str, key: &str, value: Option<&Arc<Value>>) -> Result<(), String> {
        let place = (section.to_owned(), key.to_owned());
        self.write().sealed.remove(&place);
        match self.take(section, key, value) {
            Ok(()) => Ok(()),
            Err(Untaken::Sealed(why)) => {
                if let Some(value) = value {
                    self.write().sealed.insert(place, value.clone());
                }
                Err(why)
            }
            Err(Untaken::Unusable(why)) => Err(why),
        }
    }

    /// Shows certificates alone, once what is shown with them is over.
    fn unstaple(&self, now: SystemTime) {
        let over = |(name, until): (&String, &SystemTime)| (*until <= now).then(|| name.clone());
        let over: Vec<String> = self.read().staples.iter().filter_map(over).collect();
        for name in over {
            self.write().staples.remove(&name);
            if let Some(certificate) = Managed::here().find(&name) {
                Managed::here().set(&name, Some(certificate.with_ocsp(None)));
            }
        }
    }

    /// Takes what has been waiting for a key that came meanwhile: section, key, and what became of it. Meant to be called now and then.
    pub fn retry(&self) -> Vec<(String, String, Result<(), String>)> {
        self.unstaple(SystemTime::now());
        if self.read().sealed.is_empty() {
            return Vec::new();
        }
        let waiting = self.read().sealed.clone();
        let mut taken = Vec::new();
        for ((section, key), value) in waiting {
            let done = match self.take(&section, &key, Some(&value)) {
                Err(Untaken::Sealed(_)) => continue,
                Err(Untaken::Unusable(why)) => Err(why),
                Ok(()) => Ok(()),
            };
            let mut table = self.write();
            let place = (section.clone(), key.clone());
            if table.sealed.get(&place).is_some_and(|now| Arc::ptr_eq(now, &value)) {
                table.sealed.remove(&place);
            }
            taken.push((section, key, done));
        }
        taken
    }

    fn take(&self, section: &str, key: &str, value: Option<&Arc<Value>>) -> Result<(), Untaken> {
        if section == CERTIFICATES {
            let certificate = value.map(|value| certificate(section, key, value)).transpose()?;
            let staple = value.and_then(|value| staple(value)).filter(|(_, until)| *until > SystemTime::now());
            let mut table = self.write();
            match &staple {
                Some((_, until)) => drop(table.staples.insert(key.to_owned(), *until)),
                None => drop(table.staples.remove(key)),
            }
            drop(table);
            let ocsp = staple.map(|(ocsp, _)| ocsp);
            Managed::here().set(key, certificate.map(|certificate| certificate.with_ocsp(ocsp)));
        } else if let Some(token) = key.strip_prefix("challenge/http-01/") {
            let mut table = self.write();
            match value.and_then(|value| value.get("text")?.as_str().map(str::to_owned)) {
                Some(text) => drop(table.texts.insert(token.to_owned(), text)),
                None => drop(table.texts.remove(token)),
            }
        } else if let Some(name) = key.strip_prefix("challenge/tls-alpn-01/") {
            Managed::here().set_challenge(name, value.map(|value| certificate(section, key, value)).transpose()?);
        }
        // The rest of the section is for whoever leads.
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    /// Puts it into the exchange as the answer.
    pub fn respond(self, exchange: &mut Exchange) {
        match self {
            Told::Text(text) => {
                let mut response = Response::with_status(200);
                response.headers.add("Content-Type", b"text/plain; charset=utf-8");
                exchange.respond(response, Body::full(text));
            }
            Told::Status(status) => exchange.respond(Response::with_status(status), Body::Empty),
        }
    }
}

/// What the authority says of a certificate, and until when that may be shown.
fn staple(value: &Value) -> Option<(Vec<u8>, SystemTime)> {
    let ocsp = STANDARD.decode(value.get("ocsp")?.as_str()?).ok()?;
    Some((ocsp, UNIX_EPOCH + Duration::from_millis(value.get("ocspUntil")?.as_u64()?)))
}

fn rfc3339(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = base_text::calendar::date_of(i64::try_from(days).unwrap_or_default());
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

enum Untaken {
    /// Until its key comes.
    Sealed(String),
    Unusable(String),
}

/// Reads `{chain, key}`, whose key is sealed for this place. Its dates are not looked at: what has ended is served until there is another.
fn certificate(section: &str, key: &str, value: &Value) -> Result<Certificate, Untaken> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    let told = |why: &dyn std::fmt::Display| format!("the certificate of {key} cannot be shown: {why}");
    let opened = Keyring::here().open(&format!("{section}/{key}"), text("key")).map_err(|error| match error {
        Sealed::Unknown(_) => Untaken::Sealed(told(&error)),
        Sealed::Damaged => Untaken::Unusable(told(&error)),
    })?;
    let opened = String::from_utf8_lossy(&opened);
    Certificate::read_undated(text("chain"), &opened).map_err(|error| Untaken::Unusable(told(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_tls::seal::SealKey;

    #[test]
    fn an_authority_is_answered_as_easegress_does() {
        let acme = Acme::default();
        let path = format!("{WELL_KNOWN}t1");
        assert_eq!(acme.answer("/a", "b.test"), None);
        assert_eq!(acme.answer(&path, "b.test"), Some(Told::Status(503)));
        let spec = |text: &str| {
            let value = base_model::yaml::parse_document(text).unwrap();
            base_model::decode::<AutoCertManagerSpec>(&value, "").unwrap().value
        };
        acme.set_manager("m", spec("{email: a@b.test, domains: [{name: b.test}], onDemand: {allow: ['*.c.test']}}"));
        assert_eq!(acme.answer(&path, "b.test"), Some(Told::Status(404)));
        let text = Arc::new(json!({"name": "b.test", "text": "t1.thumb"}));
        acme.apply(ACME, "challenge/http-01/t1", Some(&text)).unwrap();
        for (host, told) in [
            ("b.test", Told::Text("t1.thumb".into())),
            ("B.test.", Told::Text("t1.thumb".into())),
            ("x.c.test", Told::Text("t1.thumb".into())),
            ("c.test", Told::Status(403)),
        ] {
            assert_eq!(acme.answer(&path, host), Some(told), "{host}");
        }
        acme.set_manager("m", spec("{email: a@b.test, enableHTTP01: false, domains: [{name: b.test}]}"));
        assert_eq!(acme.answer(&path, "b.test"), Some(Told::Status(404)));
        acme.apply(ACME, "challenge/http-01/t1", None).unwrap();
        acme.remove_manager("another");
        assert_eq!(acme.answer(&path, "b.test"), Some(Told::Status(404)));
        acme.remove_manager("m");
        assert_eq!(acme.answer(&path, "b.test"), Some(Told::Status(503)));
    }

    #[test]
    fn a_certificate_waits_for_the_key_it_is_sealed_with() {
        let acme = Acme::default();
        let made = rcgen::generate_simple_self_signed(vec!["sealed.test".to_owned()]).unwrap();
        let (key, ring) = (SealKey::draw().unwrap(), Keyring::default());
        let text = key.text();
        ring.set(vec![key]);
        let sealed = ring.close("certificates/sealed.test", made.signing_key.serialize_pem().as_bytes()).unwrap();
        let value = Arc::new(json!({"chain": made.cert.pem(), "key": sealed}));
        let why = acme.apply(CERTIFICATES, "sealed.test", Some(&value)).unwrap_err();
        assert!(why.contains("does not have yet"), "{why}");
        assert!(acme.retry().is_empty() && Managed::here().find("sealed.test").is_none());
        Keyring::here().set(vec![SealKey::read(&text).unwrap()]);
        assert_eq!(acme.retry(), [("certificates".to_owned(), "sealed.test".to_owned(), Ok(()))]);
        assert!(Managed::here().find("sealed.test").is_some() && acme.retry().is_empty());
        // What the authority says of it is shown until it is over.
        let now = SystemTime::now();
        let until = now.duration_since(UNIX_EPOCH).unwrap().as_millis() as u64 + 60_000;
        let mut with = Value::clone(&value);
        (with["ocsp"], with["ocspUntil"]) = (json!("AQI="), json!(until));
        acme.apply(CERTIFICATES, "sealed.test", Some(&Arc::new(with))).unwrap();
        let shown = || acme.read().staples.contains_key("sealed.test");
        acme.unstaple(now);
        assert!(shown());
        acme.unstaple(now + Duration::from_secs(61));
        assert!(!shown() && Managed::here().find("sealed.test").is_some());
        // Of another place it is nobody's.
        let why = acme.apply(CERTIFICATES, "other.test", Some(&value)).unwrap_err();
        assert!(why.contains("another place"), "{why}");
        acme.apply(CERTIFICATES, "sealed.test", None).unwrap();
        assert!(Managed::here().find("sealed.test").is_none());
    }
}

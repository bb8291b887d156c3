//! Certificates that come while this machine serves: the cluster orders them, and listeners that are told to take them by the name a
//! client asks for. There is one table per process, which handshakes look into; who changes it disturbs no connection.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::SystemTime;

use rustls::sign::CertifiedKey;

use crate::certificate::Certificate;

/// The protocol in which an authority asks whether a name is ours (RFC 8737), and nothing else.
pub const ACME_TLS: &[u8] = b"acme-tls/1";

/// See the module doc.
#[derive(Default)]
pub struct Managed {
    table: RwLock<Table>,
    /// Names that clients have asked for and may have.
    wanted: Mutex<BTreeSet<String>>,
}

/// Whether a name, in lower case, may have a certificate because a client asks for it.
pub type MayHave = Box<dyn Fn(&str) -> bool + Send + Sync>;

#[derive(Default)]
struct Table {
    /// By name in lower case, wildcards as `*.example.com`.
    certificates: BTreeMap<String, Certificate>,
    /// What is shown to an authority that asks, by the name it asks for.
    challenges: HashMap<String, Certificate>,
    may_have: Option<MayHave>,
}

impl Managed {
    /// That of this process.
    pub fn here() -> &'static Managed {
        static HERE: OnceLock<Managed> = OnceLock::new();
        HERE.get_or_init(Managed::default)
    }

    /// Shows it to whoever asks for `name` from now on; `None`: there is none any more.
    pub fn set(&self, name: &str, certificate: Option<Certificate>) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        match certificate {
            Some(certificate) => drop(table.certificates.insert(name.to_owned(), certificate)),
            None => drop(table.certificates.remove(name)),
        }
    }

    /// The same for authorities that ask in [`ACME_TLS`].
    pub fn set_challenge(&self, name: &str, certificate: Option<Certificate>) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        match certificate {
            Some(certificate) => drop(table.challenges.insert(name.to_owned(), certificate)),
            None => drop(table.challenges.remove(name)),
        }
    }

    /// The certificate for a name in lower case: its own before the wildcard's.
    pub fn find(&self, name: &str) -> Option<Certificate> {
        let table = self.table();
        let wildcard = || table.certificates.get(&format!("*.{}", name.split_once('.')?.1));
        table.certificates.get(name).or_else(wildcard).cloned()
    }

    /// Names that get a certificate when a client asks for them first; `None`: no name does.
    pub fn set_rule(&self, may_have: Option<MayHave>) {
        self.table.write().unwrap_or_else(PoisonError::into_inner).may_have = may_have;
    }

    /// A client asks for a name that there is nothing for.
    pub(crate) fn want(&self, name: &str) {
        if self.table().may_have.as_ref().is_none_or(|may_have| !may_have(name)) {
            return;
        }
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        // Who asks for more at a time asks again.
        if wanted.len() < WANTED_MAX {
            wanted.insert(name.to_owned());
        }
    }

    /// The names that were asked for since this was called last.
    pub fn take_wanted(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.wanted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// For clients that name nobody, where there is nothing else to show: that of the first name.
    pub fn first(&self) -> Option<Certificate> {
        self.table().certificates.values().next().cloned()
    }

    /// What an authority is shown that asks for this name.
    pub fn challenge(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.table().challenges.get(name).map(Certificate::certified)
    }

    /// Names, and the last moments of their certificates.
    pub fn ends(&self) -> Vec<(String, SystemTime)> {
        let table = self.table();
        table.certificates.iter().map(|(name, certificate)| (name.clone(), certificate.not_after())).collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.table().certificates.len()
    }

    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names that are asked for between two looks.
const WANTED_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(name: &str) -> Certificate {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        Certificate::read(&made.cert.pem(), &made.signing_key.serialize_pem(), SystemTime::now()).unwrap()
    }

    #[test]
    fn the_own_certificate_of_a_name_goes_before_the_wildcards() {
        let managed = Managed::default();
        assert!(managed.first().is_none());
        for name in ["*.b.test", "a.b.test", "c.test"] {
            managed.set(name, Some(certificate(name)));
        }
        for (asked, shown) in [
            ("a.b.test", Some("a.b.test")),
            ("x.b.test", Some("*.b.test")),
            ("b.test", None),
            ("x.a.b.test", None),
            ("c.test", Some("c.test")),
            ("test", None),
        ] {
            assert_eq!(managed.find(asked).map(|c| c.names()[0].clone()).as_deref(), shown, "{asked}");
        }
        assert_eq!(managed.first().unwrap().names(), ["*.b.test"]);
        managed.set("a.b.test", None);
        assert_eq!(managed.find("a.b.test").unwrap().names(), ["*.b.test"]);
        assert!(managed.challenge("a.b.test").is_none());
        managed.set_challenge("a.b.test", Some(certificate("a.b.test")));
        assert!(managed.challenge("a.b.test").is_some() && managed.challenge("c.test").is_none());
    }

    #[test]
    fn names_are_wanted_that_may_have_a_certificate() {
        let managed = Managed::default();
        managed.want("a.b.test");
        assert!(managed.take_wanted().is_empty(), "no name may");
        managed.set_rule(Some(Box::new(|name| name.ends_with(".b.test"))));
        ["a.b.test", "a.b.test", "c.test"].iter().for_each(|name| managed.want(name));
        assert_eq!(managed.take_wanted(), BTreeSet::from(["a.b.test".to_owned()]));
        (0..2 * WANTED_MAX).for_each(|n| managed.want(&format!("{n}.b.test")));
        assert_eq!((managed.take_wanted().len(), managed.take_wanted().len()), (WANTED_MAX, 0));
    }
}

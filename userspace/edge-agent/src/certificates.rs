//! When the certificates that are served end: for the metrics, and for the log before it is too late.

use base_model::Spec;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

/// The log speaks of certificates that have less time than this.
const ENDS_SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// The ends of all certificates that are served; shared with whoever reports metrics.
#[derive(Debug, Clone, Default)]
pub struct CertificateEnds {
    /// By server, then by the name in `certs`, or `certBase64`.
    ends: Arc<Mutex<BTreeMap<String, BTreeMap<String, SystemTime>>>>,
}

impl CertificateEnds {
    /// Server, name of the certificate, its last moment.
    pub fn rows(&self) -> Vec<(String, String, SystemTime)> {
        let ends = self.lock();
        let rows = ends.iter().flat_map(|(server, ends)| ends.iter().map(move |(name, end)| (server, name, end)));
        rows.map(|(server, name, end)| (server.clone(), name.clone(), *end)).collect()
    }

    /// What a server serves from now on.
    pub(crate) fn set(&self, server: &str, spec: &Spec) {
        let served = spec.certificates();
        let ends: BTreeMap<String, SystemTime> =
            served.into_iter().map(|served| (served.name, served.certificate.not_after())).collect();
        for (name, end) in &ends {
            say(server, name, *end);
        }
        self.lock().insert(server.to_owned(), ends);
    }

    pub(crate) fn remove(&self, server: &str) {
        self.lock().remove(server);
    }

    /// Reminds of what has ended or ends soon.
    pub(crate) fn remind(&self) {
        for (server, name, end) in self.rows() {
            say(&server, &name, end);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, BTreeMap<String, SystemTime>>> {
        self.ends.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn say(server: &str, certificate: &str, end: SystemTime) {
    match end.duration_since(SystemTime::now()) {
        Err(_) => {
            tracing::error!(server, certificate, "the certificate has ended and is served all the same; renew it")
        }
        Ok(left) if left < ENDS_SOON => {
            tracing::warn!(server, certificate, days = left.as_secs() / 86_400, "the certificate ends soon; renew it");
        }
        Ok(_) => {}
    }
}

//! As whom we speak TLS to backends, and whom we believe.

use base_model::MtlsSpec;
use base_quic::{Client, QuicSettings};
use base_tls::certificate::read_authorities_undated;
use base_tls::{AlternativeName, Certificate, CertificateError, ClientTls, ClientTlsSettings};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// A certificate of ours and the authorities we trust, ready to connect with. A connection made under one identity serves no
/// server that has another.
#[derive(Debug)]
pub struct Identity {
    /// Unique for the life of the process, never 0.
    pub id: u32,
    pub tls: ClientTls,
    quic: OnceLock<Option<Client>>,
}

/// Identities in use, with what they were made of.
static KNOWN: Mutex<Vec<(MtlsSpec, Weak<Identity>)>> = Mutex::new(Vec::new());

impl Identity {
    /// The identity of a filter's `mtls`, or of none; one object as long as anybody holds it, so that connections and sessions
    /// outlive a change of the configuration.
    pub fn shared(spec: Option<&MtlsSpec>) -> Result<Arc<Identity>, CertificateError> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let spec = spec.cloned().unwrap_or_default();
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.iter().find(|(s, _)| *s == spec).and_then(|(_, identity)| identity.upgrade()) {
            return Ok(found);
        }
        let tls = ClientTls::new(settings(&spec)?)?;
        let made = Arc::new(Identity { id: NEXT.fetch_add(1, Ordering::Relaxed), tls, quic: OnceLock::new() });
        known.retain(|(_, identity)| identity.strong_count() > 0);
        known.push((spec, Arc::downgrade(&made)));
        Ok(made)
    }
}

impl Identity {
    /// The same over QUIC; `None` where the provider of TLS cannot.
    pub fn quic(&self) -> Option<&Client> {
        self.quic.get_or_init(|| Client::new(&self.tls, &QuicSettings::asking())).as_ref()
    }
}

/// Reads what the document says. Dates were checked when it came in: what was accepted once is used until somebody replaces it.
fn settings(spec: &MtlsSpec) -> Result<ClientTlsSettings, CertificateError> {
    let given = !spec.cert_base64.is_empty() || !spec.key_base64.is_empty();
    Ok(ClientTlsSettings {
        roots: match spec.root_cert_base64.as_str() {
            "" => None,
            text => Some(read_authorities_undated(text)?),
        },
        insecure_skip_verify: spec.insecure_skip_verify,
        certificate: given.then(|| Certificate::read_undated(&spec.cert_base64, &spec.key_base64)).transpose()?,
        server_name: Some(spec.server_name.clone()).filter(|name| !name.is_empty()),
        alternative_names: spec.subject_alt_names.iter().map(|name| alternative(name)).collect(),
        alpn: vec![b"http/1.1".to_vec()],
    })
}

fn alternative(name: &str) -> AlternativeName {
    match name.contains("://") {
        true => AlternativeName::Uri(name.to_owned()),
        false => AlternativeName::Dns(name.to_owned()),
    }
}

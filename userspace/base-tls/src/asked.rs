//! Whether a server has asked for a certificate.

use std::cell::Cell;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

thread_local! {
    static ASKED: Cell<bool> = const { Cell::new(false) };
}

/// Shows a certificate, or none, and notes on the thread of the handshake that it was asked for. One for all connections: rustls takes up
/// sessions again only with the one that they began with.
#[derive(Debug)]
pub(crate) struct Shown(Option<SingleCertAndKey>);

impl Shown {
    pub fn new(certificate: Option<Arc<CertifiedKey>>) -> Shown {
        Shown(certificate.map(SingleCertAndKey::from))
    }
}

/// Forgets what handshakes before this one have noted on this thread.
pub(crate) fn forget() {
    ASKED.set(false);
}

/// Whether one was asked for since.
pub(crate) fn was() -> bool {
    ASKED.get()
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, issuers: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        ASKED.set(true);
        self.0.as_ref()?.resolve(issuers, schemes)
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

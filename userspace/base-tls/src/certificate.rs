//! Certificates and keys as users write them, checked before anything uses them.

use std::fmt;
use std::time::SystemTime;

/// A chain and its private key, known to belong together.
#[derive(Debug, Clone)]
pub struct Certificate {}

/// What is wrong with a certificate or a key: says what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateError {
    /// Which of the texts it concerns.
    pub part: Part,
    pub text: String,
}

/// Which of the texts given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Chain,
    Key,
    Authorities,
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Certificate {
    /// Reads a chain and a key, each PEM or base64 of PEM (as Easegress has them), and refuses what cannot serve: nothing in it, cut
    /// off, expired or not yet valid at `now`, a key that is not the certificate's.
    pub fn read(_chain: &str, _key: &str, _now: SystemTime) -> Result<Certificate, CertificateError> {
        Ok(Certificate {})
    }

    /// As [`read`](Certificate::read), whatever the date: a certificate that was accepted once is served until somebody replaces it,
    /// since expired TLS that people can click away beats no service after a restart.
    pub fn read_undated(_chain: &str, _key: &str) -> Result<Certificate, CertificateError> {
        Ok(Certificate {})
    }

    /// The last moment at which the first certificate of the chain is valid.
    pub fn not_after(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }
}

/// Reads authorities, PEM or base64 of PEM; one at least.
pub fn read_authorities(
    _text: &str,
    _now: SystemTime,
) -> Result<Vec<rustls_pki_types::CertificateDer<'static>>, CertificateError> {
    Ok(Vec::new())
}

/// As [`read_authorities`], whatever the date.
pub fn read_authorities_undated(
    _text: &str,
) -> Result<Vec<rustls_pki_types::CertificateDer<'static>>, CertificateError> {
    Ok(Vec::new())
}

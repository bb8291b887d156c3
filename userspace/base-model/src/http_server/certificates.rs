//! The certificates of an HTTPServer: looked into where a document comes in, named where they are served.
//!
//! Dates are checked at the door alone, of certificates that are new in the document; see [`Dates`]. A machine that starts again
//! serves what was accepted, ended or not, and says so.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use base_tls::certificate::{Part, read_authorities_undated, untimely_authorities};
use base_tls::{Certificate, CertificateError};
use rustls_pki_types::CertificateDer;

use super::HttpServerSpec;
use crate::dates::Dates;
use crate::problem::{Findings, Problem, at};

/// The door answers with a warning when a certificate has less time than this: long enough to get another one on a working day.
const ENDS_SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// A chain and its key as they were written, and the fields they stand in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CertificateText<'s> {
    /// What people call it: the name in `certs`, or `certBase64`.
    pub name: &'s str,
    pub chain: &'s str,
    pub key: &'s str,
    /// It stands in `certs` and `keys`.
    named: bool,
}

/// A certificate ready to be served.
#[derive(Debug, Clone)]
pub struct NamedCertificate {
    /// The name in `certs`, or `certBase64`.
    pub name: String,
    pub certificate: Certificate,
}

impl CertificateText<'_> {
    /// Where its chain is written.
    pub fn chain_field(&self, path: &str) -> String {
        if self.named { at(&at(path, "certs"), self.name) } else { at(path, "certBase64") }
    }

    fn key_field(&self, path: &str) -> String {
        if self.named { at(&at(path, "keys"), self.name) } else { at(path, "keyBase64") }
    }

    fn problem(&self, path: &str, error: CertificateError) -> Problem {
        let place = if error.part == Part::Key { self.key_field(path) } else { self.chain_field(path) };
        Problem::new(place, error.text)
    }
}

/// The fields of a listener's TLS, which all listeners write alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsTexts<'s> {
    pub cert_base64: &'s str,
    pub key_base64: &'s str,
    pub certs: &'s BTreeMap<String, String>,
    pub keys: &'s BTreeMap<String, String>,
    pub ca_cert_base64: &'s str,
}

impl<'s> TlsTexts<'s> {
    fn has_pair(&self) -> bool {
        !self.cert_base64.is_empty() && !self.key_base64.is_empty()
    }

    /// No certificate is given.
    pub(crate) fn is_empty(&self) -> bool {
        !self.has_pair() && self.certs.is_empty()
    }

    /// Says which chains and keys lack each other.
    pub(crate) fn validate(&self, path: &str, findings: &mut Findings) {
        if self.cert_base64.is_empty() != self.key_base64.is_empty() {
            let (there, lacks) =
                if self.cert_base64.is_empty() { ("keyBase64", "certBase64") } else { ("certBase64", "keyBase64") };
            findings.problem(Problem::new(at(path, lacks), format!("missing beside {there}")).advice("give both"));
        }
        for name in self.certs.keys().filter(|name| !self.keys.contains_key(*name)) {
            let place = at(&at(path, "keys"), name);
            findings.problem(Problem::new(place, format!("missing: certs has {name}")).advice("give its private key"));
        }
        for name in self.keys.keys().filter(|name| !self.certs.contains_key(*name)) {
            findings.warn(at(&at(path, "keys"), name), "no certificate of that name in certs, never used");
        }
    }

    /// Warns of what is given and not used for want of `without`.
    pub(crate) fn warn_unused(&self, path: &str, without: &str, findings: &mut Findings) {
        let given = [
            (self.has_pair(), "certBase64"),
            (!self.certs.is_empty(), "certs"),
            (!self.ca_cert_base64.is_empty(), "caCertBase64"),
        ];
        for (_, field) in given.iter().filter(|(given, _)| *given) {
            findings.warn(at(path, field), format!("has no effect without {without}"));
        }
    }

    /// Pairs of chain and key: `certBase64` first, then `certs` by name. What lacks its other half is not among them.
    pub fn certificate_texts(&self) -> Vec<CertificateText<'s>> {
        let alone = self.has_pair().then_some(CertificateText {
            name: "certBase64",
            chain: self.cert_base64,
            key: self.key_base64,
            named: false,
        });
        let pairs = self.certs.iter().filter_map(|(name, chain)| {
            self.keys.get(name).map(|key| CertificateText { name, chain, key, named: true })
        });
        alone.into_iter().chain(pairs).collect()
    }

    /// Refuses what cannot be served, each under the name of its field, notes in `dates` what is not valid at `now`, and warns of what
    /// ends soon. For documents that come in; what is stored already is served whatever the date.
    pub fn check(&self, path: &str, now: SystemTime, dates: &mut Dates, findings: &mut Findings) {
        for text in self.certificate_texts() {
            match Certificate::read_undated(text.chain, text.key) {
                Ok(certificate) => {
                    if let Some(untimely) = certificate.untimely(now) {
                        dates.note(text.chain_field(path), untimely);
                        continue;
                    }
                    let left = certificate.not_after().duration_since(now).unwrap_or_default();
                    if left < ENDS_SOON {
                        let hours = left.as_secs() / 3600;
                        let left = if hours >= 48 { format!("{} days", hours / 24) } else { format!("{hours} hours") };
                        findings.warn(text.chain_field(path), format!("the certificate ends in {left}; renew it"));
                    }
                }
                Err(error) => findings.problem(text.problem(path, error)),
            }
        }
        if !self.ca_cert_base64.is_empty() {
            let place = at(path, "caCertBase64");
            match read_authorities_undated(self.ca_cert_base64) {
                Ok(authorities) => dates.note_all(&place, untimely_authorities(&authorities, now)),
                Err(error) => findings.problem(Problem::new(place, error.text)),
            }
        }
    }

    /// The certificates to serve with, whatever their dates.
    pub fn certificates(&self) -> Result<Vec<NamedCertificate>, Problem> {
        let read = |text: &CertificateText<'_>| {
            let certificate =
                Certificate::read_undated(text.chain, text.key).map_err(|error| text.problem("", error))?;
            Ok(NamedCertificate { name: text.name.to_owned(), certificate })
        };
        self.certificate_texts().iter().map(read).collect()
    }

    /// Authorities one of which must have signed the client's certificate; `None` when clients need not show any.
    pub fn client_authorities(&self) -> Result<Option<Vec<CertificateDer<'static>>>, Problem> {
        if self.ca_cert_base64.is_empty() {
            return Ok(None);
        }
        let read = read_authorities_undated(self.ca_cert_base64);
        read.map(Some).map_err(|error| Problem::new("caCertBase64", error.text))
    }
}

impl HttpServerSpec {
    /// What clients are shown.
    pub fn tls_texts(&self) -> TlsTexts<'_> {
        TlsTexts {
            cert_base64: &self.cert_base64,
            key_base64: &self.key_base64,
            certs: &self.certs,
            keys: &self.keys,
            ca_cert_base64: &self.ca_cert_base64,
        }
    }

    /// As [`TlsTexts::certificate_texts`].
    pub fn certificate_texts(&self) -> Vec<CertificateText<'_>> {
        self.tls_texts().certificate_texts()
    }

    /// As [`TlsTexts::check`], where TLS is served; and of those that spans are sent with.
    pub fn check_certificates(&self, path: &str, now: SystemTime, dates: &mut Dates, findings: &mut Findings) {
        if self.https {
            self.tls_texts().check(path, now, dates, findings);
        }
        if let Some(tracing) = &self.tracing {
            tracing.check_certificates(&at(path, "tracing"), now, dates, findings);
        }
    }

    /// As [`TlsTexts::certificates`].
    pub fn certificates(&self) -> Result<Vec<NamedCertificate>, Problem> {
        self.tls_texts().certificates()
    }

    /// As [`TlsTexts::client_authorities`].
    pub fn client_authorities(&self) -> Result<Option<Vec<CertificateDer<'static>>>, Problem> {
        self.tls_texts().client_authorities()
    }
}

#[cfg(test)]
mod tests;

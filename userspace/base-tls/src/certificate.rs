//! Certificates and keys as users write them, checked before anything uses them.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// A chain and its private key, known to belong together. Cheap to clone.
#[derive(Clone)]
pub struct Certificate {
    certified: Arc<CertifiedKey>,
    names: Arc<[String]>,
    not_after: SystemTime,
    fingerprint: [u8; 32],
}

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

/// A certificate that is not valid at the moment asked about; says when it is, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untimely {
    /// SHA-256 of the certificate, by which it is known again wherever it is written.
    pub fingerprint: [u8; 32],
    pub text: String,
}

impl CertificateError {
    pub(crate) fn new(part: Part, text: impl Into<String>) -> CertificateError {
        CertificateError { part, text: text.into() }
    }
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for CertificateError {}

impl Certificate {
    /// Reads a chain and a key, each PEM or base64 of PEM (as Easegress has them), and refuses what cannot serve: nothing in it, cut
    /// off, expired or not yet valid at `now`, a key that is not the certificate's.
    pub fn read(chain: &str, key: &str, now: SystemTime) -> Result<Certificate, CertificateError> {
        let certificate = Certificate::read_undated(chain, key)?;
        match certificate.untimely(now) {
            None => Ok(certificate),
            Some(untimely) => Err(CertificateError::new(Part::Chain, untimely.text)),
        }
    }

    /// As [`read`](Certificate::read), whatever the date: a certificate that was accepted once is served until somebody replaces it,
    /// since expired TLS that people can click away beats no service after a restart.
    pub fn read_undated(chain: &str, key: &str) -> Result<Certificate, CertificateError> {
        let chain = read_certificates(chain, Part::Chain)?;
        let parsed = parse(&chain[0], Part::Chain, 1)?;
        for (index, certificate) in chain.iter().enumerate().skip(1) {
            parse(certificate, Part::Chain, index + 1)?;
        }
        let names = names_of(&parsed).into();
        let not_after = moment(parsed.validity().not_after.timestamp());
        let fingerprint = fingerprint_of(&chain[0]);
        let key = read_key(key)?;
        let signing = any_supported_type(&key).map_err(|_| {
            CertificateError::new(
                Part::Key,
                "the private key is of no kind that is supported, or damaged: use ECDSA P-256 or P-384, Ed25519, or RSA with \
                 2048 bits or more, in PKCS#8, SEC1 or PKCS#1",
            )
        })?;
        // Compared as it stands in the certificate, which may be one that rustls itself does not read, such as X.509 v1.
        let is_same = signing.public_key().is_some_and(|key| key.as_ref() == parsed.public_key().raw);
        let certified = CertifiedKey::new(chain, signing);
        if !is_same {
            return Err(CertificateError::new(
                Part::Key,
                "the private key is not the one of the first certificate in the chain: give the key the certificate was requested \
                 with, and put the server's own certificate first",
            ));
        }
        Ok(Certificate { certified: Arc::new(certified), names, not_after, fingerprint })
    }

    /// Why the first certificate of the chain is not valid at `now`, when it is not.
    pub fn untimely(&self, now: SystemTime) -> Option<Untimely> {
        untimely(self.certified.cert.first()?, "the certificate", now)
    }

    /// The DNS names and addresses it is for, in lower case and as URLs have them, wildcards as `*.example.com`: its subject
    /// alternative names, or its common name where it has none.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The last moment at which the first certificate of the chain is valid.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// SHA-256 of the first certificate of the chain.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// The same, shown together with what its authority says of it (OCSP, DER); `None`: with nothing.
    pub fn with_ocsp(&self, ocsp: Option<Vec<u8>>) -> Certificate {
        let certified = CertifiedKey { ocsp, ..CertifiedKey::clone(&self.certified) };
        Certificate { certified: Arc::new(certified), ..self.clone() }
    }

    /// Whether it is for `name`, in lower case.
    pub fn covers(&self, name: &str) -> bool {
        let is_for = |pattern: &String| match pattern.strip_prefix("*.") {
            Some(suffix) => name.split_once('.').is_some_and(|(_, rest)| rest == suffix),
            None => pattern == name,
        };
        self.names.iter().any(is_for)
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        self.certified.clone()
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("names", &self.names).field("not_after", &self.not_after).finish()
    }
}

/// Reads authorities, PEM or base64 of PEM; one at least.
pub fn read_authorities(text: &str, now: SystemTime) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let authorities = read_authorities_undated(text)?;
    match untimely_authorities(&authorities, now).into_iter().next() {
        None => Ok(authorities),
        Some(untimely) => Err(CertificateError::new(Part::Authorities, untimely.text)),
    }
}

/// Those of the authorities that are not valid at `now`.
pub fn untimely_authorities(authorities: &[CertificateDer<'static>], now: SystemTime) -> Vec<Untimely> {
    authorities.iter().filter_map(|authority| untimely(authority, "the authority", now)).collect()
}

/// As [`read_authorities`], whatever the date.
pub fn read_authorities_undated(text: &str) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let authorities = read_certificates(text, Part::Authorities)?;
    for (index, authority) in authorities.iter().enumerate() {
        parse(authority, Part::Authorities, index + 1)?;
    }
    Ok(authorities)
}

/// Text as PEM: it is that, or base64 of it.
fn pem_of(text: &str, part: Part) -> Result<Vec<u8>, CertificateError> {
    let what = described(part);
    if text.trim().is_empty() {
        return Err(CertificateError::new(part, format!("{what} is empty: give PEM, or base64 of PEM")));
    }
    if text.contains("-----BEGIN") {
        return Ok(text.as_bytes().to_vec());
    }
    let packed: String = text.split_ascii_whitespace().collect();
    let decoded = STANDARD.decode(&packed).map_err(|error| {
        CertificateError::new(
            part,
            format!("{what} is neither PEM (no -----BEGIN line) nor base64 of PEM: {error}; give either"),
        )
    })?;
    if decoded.windows(10).any(|window| window == b"-----BEGIN") {
        Ok(decoded)
    } else {
        Err(CertificateError::new(
            part,
            format!("{what} is base64, but not of PEM (no -----BEGIN line in it): encode the whole PEM file"),
        ))
    }
}

fn read_certificates(text: &str, part: Part) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let pem = pem_of(text, part)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|error| unreadable(&error, part))?;
    if certificates.is_empty() {
        return Err(unreadable(&pem::Error::NoItemsFound, part));
    }
    Ok(certificates)
}

fn read_key(text: &str) -> Result<PrivateKeyDer<'static>, CertificateError> {
    let pem = pem_of(text, Part::Key)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
        let encrypted = b"ENCRYPTED";
        match error {
            pem::Error::NoItemsFound if pem.windows(encrypted.len()).any(|window| window == encrypted) => {
                CertificateError::new(
                    Part::Key,
                    "the private key is encrypted with a passphrase: decrypt it first, such as with openssl pkey -in KEY -out PLAIN",
                )
            }
            error => unreadable(&error, Part::Key),
        }
    })
}

fn unreadable(error: &pem::Error, part: Part) -> CertificateError {
    let what = described(part);
    let item = if part == Part::Key { "PRIVATE KEY" } else { "CERTIFICATE" };
    CertificateError::new(
        part,
        match error {
            pem::Error::MissingSectionEnd { .. } => {
                format!("{what} is cut off: an -----END line is missing; give the whole file")
            }
            pem::Error::Base64Decode(_) => format!("{what} has a line that is not base64: it was changed or cut off"),
            pem::Error::NoItemsFound => {
                format!("{what} has no -----BEGIN {item}----- in it: maybe certificate and key are swapped")
            }
            pem::Error::IllegalSectionStart { .. } => {
                format!("{what} has a -----BEGIN line that is not one: it was changed; give the file as it was issued")
            }
            other => format!("{what} is not PEM: {other}"),
        },
    )
}

fn parse<'a>(
    der: &'a CertificateDer<'static>,
    part: Part,
    number: usize,
) -> Result<X509Certificate<'a>, CertificateError> {
    let damaged = |why: String| {
        let what = described(part);
        CertificateError::new(
            part,
            format!("certificate {number} in {what} is damaged ({why}): give the file as it was issued"),
        )
    };
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(damaged("there are bytes behind it".to_owned())),
        Err(error) => Err(damaged(error.to_string())),
    }
}

/// `certificate` was read before.
fn untimely(certificate: &CertificateDer<'static>, what: &str, now: SystemTime) -> Option<Untimely> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let (validity, subject) = (parsed.validity(), parsed.subject());
    let text = if now < moment(validity.not_before.timestamp()) {
        format!("{what} {subject} is not valid before {}: wait, or check this machine's clock", validity.not_before)
    } else if now > moment(validity.not_after.timestamp()) {
        format!("{what} {subject} expired at {}: renew it", validity.not_after)
    } else {
        return None;
    };
    Some(Untimely { fingerprint: fingerprint_of(certificate), text })
}

fn names_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let mut names: Vec<String> = alternative
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            GeneralName::IPAddress(octets) => address(octets),
            _ => None,
        })
        .collect();
    if alternative.is_none() {
        let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        names.extend(common.map(str::to_ascii_lowercase));
    }
    names
}

/// The URIs among the names of a certificate; none of one that cannot be read.
pub(crate) fn uris_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, read)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let alternative = read.subject_alternative_name().ok().flatten();
    let names = alternative.iter().flat_map(|extension| &extension.value.general_names);
    names.filter_map(|name| if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None }).collect()
}

/// RFC 5280 section 4.2.1.6: four octets or sixteen. As the host of a URL, so that it can be compared with one.
fn address(octets: &[u8]) -> Option<String> {
    let v4 = || <[u8; 4]>::try_from(octets).ok().map(|octets| Ipv4Addr::from(octets).to_string());
    let v6 = || <[u8; 16]>::try_from(octets).ok().map(|octets| format!("[{}]", Ipv6Addr::from(octets)));
    v4().or_else(v6)
}

fn fingerprint_of(der: &CertificateDer<'_>) -> [u8; 32] {
    sha256(der)
}

/// The digest that documents know certificates and keys by.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    fingerprint
}

fn moment(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let moment = if seconds < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    moment.unwrap_or(UNIX_EPOCH)
}

fn described(part: Part) -> &'static str {
    match part {
        Part::Chain => "the certificate chain",
        Part::Key => "the private key",
        Part::Authorities => "the list of authorities",
    }
}

#[cfg(test)]
mod tests;

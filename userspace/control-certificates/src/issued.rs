//! Keys and requests, what is shown in TLS-ALPN-01, and what comes of an order.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base_tls::Certificate;
use instant_acme::CertificateIdentifier;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, Der};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A private key, PEM.
pub fn draw_key() -> Result<String, String> {
    KeyPair::generate().map(|key| key.serialize_pem()).map_err(|error| error.to_string())
}

/// A request for a certificate of this key for one name, DER.
pub fn request(name: &str, key: &str) -> Result<Vec<u8>, String> {
    let text = |error: rcgen::Error| error.to_string();
    let key = KeyPair::from_pem(key).map_err(text)?;
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(text)?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(&key).map_err(text)?.der().to_vec())
}

/// What an authority is shown that asks for `name` in TLS-ALPN-01 (RFC 8737 section 3): chain and key, PEM.
pub fn challenge(name: &str, digest: &[u8]) -> Result<(String, String), String> {
    let text = |error: rcgen::Error| error.to_string();
    let key = KeyPair::generate().map_err(text)?;
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(text)?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let made = params.self_signed(&key).map_err(text)?;
    Ok((made.pem(), key.serialize_pem()))
}

/// What is known of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub begins: SystemTime,
    pub ends: SystemTime,
    /// Who has signed it.
    pub issuer: String,
    /// Where its authority says whether it is good, if it does.
    pub responder: Option<String>,
    /// Of the certificate's own, for whatever is to be spread and the same on every machine.
    pub random: u64,
}

/// Looks at the first certificate of a chain.
pub fn facts(chain: &str) -> Result<Facts, String> {
    let first = CertificateDer::from_pem_slice(chain.as_bytes()).map_err(|error| error.to_string())?;
    let (_, parsed) = X509Certificate::from_der(&first).map_err(|error| error.to_string())?;
    let moment = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    let validity = parsed.validity();
    let digest = base_tls::certificate::sha256(&first);
    Ok(Facts {
        begins: moment(validity.not_before.timestamp()),
        ends: moment(validity.not_after.timestamp()),
        issuer: parsed.issuer().to_string(),
        responder: crate::ocsp::responder(&parsed),
        random: u64::from_be_bytes(digest[..8].try_into().unwrap_or_default()),
    })
}

/// Why what was issued cannot be shown for `name`, if so.
pub fn unusable(name: &str, chain: &str, key: &str, now: SystemTime) -> Option<String> {
    match Certificate::read(chain, key, now) {
        Err(error) => Some(error.text),
        Ok(certificate) if !certificate.names().iter().any(|is_for| is_for == name) => {
            Some(format!("it is for {}", certificate.names().join(", ")))
        }
        Ok(_) => None,
    }
}

/// What the authority knows a certificate by when it is asked when to renew it (RFC 9773 section 4.1).
pub fn identifier(chain: &str) -> Option<CertificateIdentifier<'static>> {
    let first = CertificateDer::from_pem_slice(chain.as_bytes()).ok()?;
    let (_, parsed) = X509Certificate::from_der(&first).ok()?;
    let of_authority = parsed.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
        _ => None,
    })?;
    let serial = parsed.tbs_certificate.raw_serial().to_vec();
    Some(CertificateIdentifier::new(Der::from_slice(&of_authority), Der::from_slice(&serial)).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_for_its_name_and_what_is_shown_to_authorities_says_the_digest() {
        let key = draw_key().unwrap();
        assert!(request("*.shop.test", &key).is_ok() && request("shop.test", "no key").is_err());
        let (chain, key) = challenge("shop.test", &[7; 32]).unwrap();
        let der = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
        let (_, parsed) = X509Certificate::from_der(&der).unwrap();
        let extension = parsed.extensions().iter().find(|e| e.oid.to_id_string() == "1.3.6.1.5.5.7.1.31").unwrap();
        assert!(extension.critical && extension.value == [&[4, 32][..], &[7; 32]].concat());
        assert_eq!(unusable("shop.test", &chain, &key, SystemTime::now()), None);
        let why = unusable("other.test", &chain, &key, SystemTime::now()).unwrap();
        assert_eq!(why, "it is for shop.test");
        let facts = facts(&chain).unwrap();
        assert!(facts.begins < facts.ends && identifier(&chain).is_none(), "it names no authority's key");
    }
}

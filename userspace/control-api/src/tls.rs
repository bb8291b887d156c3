//! TLS of the control plane: files to configurations, for the admin API, for `weirctl` and between members.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme, WantsVerifier,
};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

/// PEM, and where it came from: a flag with its file, or a key of a file.
#[derive(Clone)]
pub struct Pem {
    /// As messages call it, such as `--cert-file /etc/weir/api.pem`.
    pub from: String,
    pub text: Vec<u8>,
}

/// A certificate chain and its key.
#[derive(Debug, Clone)]
pub struct Identity {
    pub chain: Pem,
    pub key: Pem,
}

/// Whom a client believes, and what it shows.
#[derive(Debug, Clone, Default)]
pub struct ClientTrust {
    /// Authorities of servers; `None`: the system's.
    pub authorities: Option<Pem>,
    pub identity: Option<Identity>,
    /// Take any certificate. Default false.
    pub skip_verify: bool,
}

/// What is wrong with a file, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsError(pub String);

impl Pem {
    /// Reads a file a flag names.
    pub fn read(flag: &str, path: &Path) -> Result<Pem, TlsError> {
        let from = format!("{flag} {}", path.display());
        match std::fs::read(path) {
            Ok(text) => Ok(Pem { from, text }),
            Err(error) => Err(TlsError(format!("{from}: {error}; give the path of a readable PEM file"))),
        }
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.text).collect();
        match read {
            Ok(certificates) if !certificates.is_empty() => Ok(certificates),
            Ok(_) => Err(self.wrong("holds no certificate; give PEM with BEGIN CERTIFICATE")),
            Err(error) => Err(self.wrong(&format!("is not PEM ({}); was it cut off?", told(&error)))),
        }
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.text).map_err(|error| {
            let why = told(&error);
            self.wrong(&format!("holds no private key ({why}); give PEM with BEGIN PRIVATE KEY, without a password"))
        })
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots.add(certificate).map_err(|error| self.wrong(&format!("holds no usable authority: {error}")))?;
        }
        Ok(Arc::new(roots))
    }

    fn wrong(&self, what: &str) -> TlsError {
        TlsError(format!("{}: {what}", self.from))
    }
}

/// The library shows lines as lists of numbers.
fn told(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a line with -----END is missing".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "a line with -----BEGIN is not as it should be".to_owned(),
        other => other.to_string(),
    }
}

impl Identity {
    /// Reads a pair of flags; both or none.
    pub fn read(
        (chain_flag, chain): (&str, Option<PathBuf>),
        (key_flag, key): (&str, Option<PathBuf>),
    ) -> Result<Option<Identity>, TlsError> {
        match (chain, key) {
            (None, None) => Ok(None),
            (Some(chain), Some(key)) => {
                Ok(Some(Identity { chain: Pem::read(chain_flag, &chain)?, key: Pem::read(key_flag, &key)? }))
            }
            (Some(_), None) => {
                Err(TlsError(format!("{chain_flag} needs {key_flag}: give the certificate's private key")))
            }
            (None, Some(_)) => Err(TlsError(format!("{key_flag} needs {chain_flag}: give the key's certificate"))),
        }
    }

    fn parts(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        Ok((self.chain.certificates()?, self.key.key()?))
    }

    fn refused(&self, error: &rustls::Error) -> TlsError {
        let pair = format!("{} and {}", self.chain.from, self.key.from);
        match error {
            rustls::Error::InconsistentKeys(_) => {
                TlsError(format!("{pair}: the key is not the certificate's; give the key it was made with"))
            }
            // X.509 v1 above all, which the library does not read.
            rustls::Error::InvalidCertificate(_) => TlsError(format!(
                "{pair}: the certificate cannot be read ({error}); give an X.509 v3 certificate as it was issued"
            )),
            other => TlsError(format!("{pair}: {other}")),
        }
    }
}

/// Serves HTTP/1.1 over TLS. With `client_authorities`, clients show a certificate that one of them has signed, or get nowhere.
pub fn server_config(identity: &Identity, client_authorities: Option<&Pem>) -> Result<Arc<ServerConfig>, TlsError> {
    let (chain, key) = identity.parts()?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError(error.to_string()))?;
    let builder = match client_authorities {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(pem.roots()?, provider()).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| pem.wrong(&error.to_string()))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| identity.refused(&error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Connects over TLS.
pub fn client_config(trust: &ClientTrust) -> Result<ClientConfig, TlsError> {
    let builder = client_builder();
    let builder = if trust.skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider())))
    } else {
        let roots = match &trust.authorities {
            Some(pem) => pem.roots()?,
            None => system_roots(),
        };
        if roots.is_empty() {
            builder.with_root_certificates(roots)
        } else {
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider()).build();
            builder.with_webpki_verifier(verifier.map_err(|error| TlsError(error.to_string()))?)
        }
    };
    match &trust.identity {
        None => Ok(builder.with_no_client_auth()),
        Some(identity) => {
            let (chain, key) = identity.parts()?;
            builder.with_client_auth_cert(chain, key).map_err(|error| identity.refused(&error))
        }
    }
}

/// Believes nobody, and reads no file to find that out.
pub(crate) fn suspicious() -> ClientConfig {
    client_builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth()
}

fn client_builder() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    builder.expect("the provider has suites of both versions")
}

/// A machine without authorities trusts nobody; what is connected to says so then.
fn system_roots() -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Arc::new(roots)
}

/// The one the workers use.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// `--insecure-skip-verify`: whoever answers is believed, though it has to hold the key of what it shows.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Keys are in no debug text.
impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pem").field("from", &self.from).finish_non_exhaustive()
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(from: &str, text: &str) -> Pem {
        Pem { from: from.to_owned(), text: text.as_bytes().to_vec() }
    }

    fn identity() -> Identity {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        Identity {
            chain: pem("--cert-file c", &made.cert.pem()),
            key: pem("--key-file k", &made.signing_key.serialize_pem()),
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_flag() {
        let good = identity();
        server_config(&good, Some(&good.chain)).unwrap();
        for (chain, key, wanted) in [
            (pem("--cert-file c", "nonsense"), good.key.clone(), "--cert-file c: holds no certificate"),
            (good.key.clone(), good.key.clone(), "--key-file k: holds no certificate"),
            (good.chain.clone(), pem("--key-file k", ""), "--key-file k: holds no private key"),
            (good.chain.clone(), identity().key, "the key is not the certificate's"),
            (pem("--cert-file c", "-----BEGIN CERTIFICATE-----\nAAAA\n"), good.key.clone(), "-----END is missing"),
            (
                pem("--cert-file c", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
                good.key.clone(),
                "the certificate cannot be read",
            ),
        ] {
            let told = server_config(&Identity { chain, key }, None).unwrap_err().to_string();
            assert!(told.contains(wanted), "{told}");
        }
        let told = server_config(&good, Some(&pem("--client-ca-file a", "x"))).unwrap_err().to_string();
        assert!(told.contains("--client-ca-file a: holds no certificate"), "{told}");
        let missing = Pem::read("--cert-file", Path::new("/nowhere/c.pem")).unwrap_err().to_string();
        assert!(missing.contains("--cert-file /nowhere/c.pem: No such file"), "{missing}");
        let half = Identity::read(("--cert-file", Some("c".into())), ("--key-file", None)).unwrap_err().to_string();
        assert_eq!(half, "--cert-file needs --key-file: give the certificate's private key");
        assert!(!format!("{good:?}").contains("BEGIN"), "{good:?}");
    }
}

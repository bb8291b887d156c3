//! TLS of the control plane: files to configurations, for the admin API, for `weirctl` and between members.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant, SystemTime};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme, WantsVerifier,
};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::certificates::end;

/// PEM, and where it came from: a flag with its file, or a key of a file.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem {
    /// As messages call it, such as `--cert-file /etc/weir/api.pem`.
    pub from: String,
    pub text: Vec<u8>,
}

/// A certificate chain and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
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

    pub(crate) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
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

    pub(crate) fn roots(&self) -> Result<Arc<RootCertStore>, TlsError> {
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

/// Where an identity and authorities come from: flags and their files.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    pub chain: (String, PathBuf),
    pub key: (String, PathBuf),
    pub authorities: Option<(String, PathBuf)>,
    /// Of a server: who connects may show no certificate, and whoever answers looks at that. Default: with authorities they must.
    pub strangers: bool,
}

impl TlsFiles {
    pub fn read(&self) -> Result<(Identity, Option<Pem>), TlsError> {
        let read = |(flag, path): &(String, PathBuf)| Pem::read(flag, path);
        let identity = Identity { chain: read(&self.chain)?, key: read(&self.key)? };
        Ok((identity, self.authorities.as_ref().map(read).transpose()?))
    }
}

/// What a server shows and asks for, until its files say something else. Clones are handles of the same.
#[derive(Clone)]
pub struct ServerTls {
    inner: Arc<RwLock<Shown>>,
    files: Option<TlsFiles>,
}

struct Shown {
    config: Arc<ServerConfig>,
    /// Last moment of the certificate, if it can be told.
    ends: Option<SystemTime>,
    identity: Option<Identity>,
    authorities: Option<Pem>,
}

impl ServerTls {
    /// Taken from files, which are read again by [`reload`](ServerTls::reload).
    pub fn of(files: TlsFiles) -> Result<ServerTls, TlsError> {
        let (identity, authorities) = files.read()?;
        let inner = Arc::new(RwLock::new(Shown::new(identity, authorities, files.strangers)?));
        Ok(ServerTls { inner, files: Some(files) })
    }

    /// For new connections.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.shown().config.clone()
    }

    /// When the certificate ends.
    pub fn ends(&self) -> Option<SystemTime> {
        self.shown().ends
    }

    /// The pair and the authorities in force, where they came from files.
    pub fn identity(&self) -> Option<(Identity, Option<Pem>)> {
        let shown = self.shown();
        Some((shown.identity.clone()?, shown.authorities.clone()))
    }

    /// Takes the files as they are now; true when they had changed. What cannot be used changes nothing: chain and key are seldom
    /// replaced in the same moment.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let Some(files) = &self.files else { return Ok(false) };
        let (identity, authorities) = files.read()?;
        {
            let shown = self.shown();
            if shown.identity.as_ref() == Some(&identity) && shown.authorities == authorities {
                return Ok(false);
            }
        }
        let fresh = Shown::new(identity, authorities, files.strangers)?;
        *self.inner.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(true)
    }

    fn shown(&self) -> RwLockReadGuard<'_, Shown> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shown {
    fn new(identity: Identity, authorities: Option<Pem>, strangers: bool) -> Result<Shown, TlsError> {
        let config = server_config_of(&identity, authorities.as_ref(), strangers)?;
        let ends = identity.chain.certificates()?.first().and_then(|certificate| end(Some(certificate)));
        Ok(Shown { config, ends, identity: Some(identity), authorities })
    }
}

/// One that stays as it is.
impl From<Arc<ServerConfig>> for ServerTls {
    fn from(config: Arc<ServerConfig>) -> ServerTls {
        let shown = Shown { config, ends: None, identity: None, authorities: None };
        ServerTls { inner: Arc::new(RwLock::new(shown)), files: None }
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("files", &self.files).finish_non_exhaustive()
    }
}

/// Follows the files of one certificate, and says in the log what became of them.
pub struct Watch {
    /// The flag that names the certificate.
    flag: &'static str,
    told: String,
    warned: Option<Instant>,
}

impl Watch {
    pub fn new(flag: &'static str) -> Watch {
        Watch { flag, told: String::new(), warned: None }
    }

    /// True when another certificate is in force now.
    pub fn look(&mut self, tls: &ServerTls) -> bool {
        let changed = match tls.reload() {
            Ok(true) => {
                tracing::info!(flag = self.flag, "the certificate was read again");
                (self.told, self.warned) = (String::new(), None);
                true
            }
            Ok(false) => false,
            Err(error) => {
                let error = error.to_string();
                // The same is not said again with every look.
                if error != self.told {
                    tracing::error!(error, "the certificate stays what it was");
                    self.told = error;
                }
                false
            }
        };
        let left = tls.ends().map(|end| end.duration_since(SystemTime::now()).unwrap_or_default());
        if left.is_some_and(|left| left < SOON) && self.warned.is_none_or(|last| last.elapsed() > DAY) {
            self.warned = Some(Instant::now());
            let days = left.unwrap_or_default().as_secs() / DAY.as_secs();
            tracing::warn!(
                flag = self.flag,
                days,
                "the certificate ends soon, or has ended; write a new one into its files"
            );
        }
        changed
    }
}

/// The log begins to speak of a certificate's end so long before it, once a day.
const SOON: Duration = Duration::from_secs(7 * 86_400);
const DAY: Duration = Duration::from_secs(86_400);

/// Serves HTTP/1.1 over TLS. With `client_authorities`, clients show a certificate that one of them has signed, or get nowhere.
pub fn server_config(identity: &Identity, client_authorities: Option<&Pem>) -> Result<Arc<ServerConfig>, TlsError> {
    server_config_of(identity, client_authorities, false)
}

fn server_config_of(
    identity: &Identity,
    client_authorities: Option<&Pem>,
    strangers: bool,
) -> Result<Arc<ServerConfig>, TlsError> {
    let (chain, key) = identity.parts()?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError(error.to_string()))?;
    let builder = match client_authorities {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(pem.roots()?, provider());
            let verifier = if strangers { verifier.allow_unauthenticated() } else { verifier }.build();
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
pub(crate) fn provider() -> Arc<CryptoProvider> {
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
    fn files_are_taken_as_they_change() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let write = |identity: &Identity| {
            std::fs::write(at("c.pem"), &identity.chain.text).unwrap();
            std::fs::write(at("k.pem"), &identity.key.text).unwrap();
        };
        let (first, second) = (identity(), identity());
        write(&first);
        let files = TlsFiles {
            chain: ("--cert-file".into(), at("c.pem")),
            key: ("--key-file".into(), at("k.pem")),
            authorities: None,
            strangers: false,
        };
        let tls = ServerTls::of(files).unwrap();
        let before = tls.config();
        assert!(tls.ends().is_some_and(|end| end > SystemTime::now()));
        assert_eq!(tls.reload(), Ok(false));
        std::fs::write(at("c.pem"), &second.chain.text).unwrap();
        let told = tls.reload().unwrap_err().to_string();
        assert!(told.contains("the key is not the certificate's"), "{told}");
        assert!(Arc::ptr_eq(&before, &tls.config()), "half of a pair changes nothing");
        std::fs::write(at("k.pem"), &second.key.text).unwrap();
        assert_eq!(tls.reload(), Ok(true));
        assert!(!Arc::ptr_eq(&before, &tls.config()));
        std::fs::remove_file(at("k.pem")).unwrap();
        assert!(tls.reload().unwrap_err().to_string().contains("--key-file"));
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

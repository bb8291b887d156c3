//! The certificate that all gateways show: P-256, signed by itself, made for one run.

use std::fs;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;

pub struct Certificate {
    pub der: CertificateDer<'static>,
    pub certificate: String,
    pub key: String,
    /// Where both are, the certificate alone and the key alone: nginx has it so.
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
    /// Both in one: HAProxy has it so.
    pub both_file: PathBuf,
}

impl Certificate {
    pub fn new(folder: &Path) -> Result<Self, String> {
        let made = rcgen::generate_simple_self_signed(vec!["bench.example".to_string()]);
        let made = made.map_err(|error| format!("no certificate: {error}"))?;
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let write = |name: &str, text: &str| {
            let file = folder.join(name);
            fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
            Ok::<_, String>(file)
        };
        Ok(Self {
            der: made.cert.der().clone(),
            certificate_file: write("certificate.pem", &certificate)?,
            key_file: write("key.pem", &key)?,
            both_file: write("both.pem", &format!("{certificate}{key}"))?,
            certificate,
            key,
        })
    }
}

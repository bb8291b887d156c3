//! One that signs certificates, for the length of a test.

use control_api::tls::{Identity, Pem};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

pub struct Authority {
    pub pem: Pem,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = pem(&params.self_signed(&key).unwrap().pem());
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    /// `name` is an address or a name of DNS.
    pub fn signs(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let made = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        Identity { chain: pem(&made.pem()), key: pem(&key.serialize_pem()) }
    }
}

pub fn pem(text: &str) -> Pem {
    Pem { from: "a test".to_owned(), text: text.as_bytes().to_vec() }
}

//! TLS connections on a worker of either driver, and certificates for them.

#[macro_use]
#[path = "../../../base-runtime/tests/support/mod.rs"]
mod worker;

use std::time::{Duration, SystemTime};

use base_runtime::Buf;
use base_tls::{
    Certificate, ClientAuth, ClientTls, ClientTlsSettings, ServerTls, ServerTlsSettings, TicketKeys, Transport,
};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    SignatureAlgorithm,
};
use rustls_pki_types::CertificateDer;
pub use worker::*;

/// Longest any test's handshake may take.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Both ends of a TLS connection on this worker; the client asks for `localhost`.
pub async fn tls_pair(client: &ClientTls, server: &ServerTls) -> (Transport, Transport) {
    let (a, b) = pair().await;
    let (sender, receiver) = base_runtime::channel::local_oneshot();
    let server = server.clone();
    base_runtime::spawn(async move {
        let _ = sender.send(server.accept(b, LIMIT).await.expect("accepts"));
    });
    let client = client.connect(a, "localhost", LIMIT).await.expect("connects");
    (client, receiver.await.expect("accepted"))
}

/// Sends `bytes` in full buffers, waiting for room, and finishes.
pub async fn send_all(stream: &Transport, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let mut buf = Buf::alloc();
        let n = buf.append(bytes);
        bytes = &bytes[n..];
        stream.send(buf);
        stream.send_ready(256 * 1024).await?;
    }
    Ok(())
}

/// Receives until the peer's end.
pub async fn recv_all(stream: &Transport) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(buf) = stream.recv().await? {
        all.extend_from_slice(&buf);
    }
    Ok(all)
}

pub async fn recv_exactly(stream: &Transport, n: usize) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::with_capacity(n);
    while all.len() < n {
        let Some(mut buf) = stream.recv().await? else {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        };
        let wanted = (n - all.len()).min(buf.len());
        all.extend_from_slice(&buf[..wanted]);
        buf.advance(wanted);
        stream.unread(buf);
    }
    Ok(all)
}

/// An authority and what it signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
    pub der: CertificateDer<'static>,
}

/// A signed certificate and its key, PEM.
#[derive(Clone)]
pub struct Signed {
    pub chain: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("signs");
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Authority { issuer: Issuer::new(params, key), pem, der }
    }

    pub fn sign(&self, names: &[&str]) -> Signed {
        self.sign_with(names, &PKCS_ECDSA_P256_SHA256)
    }

    pub fn sign_with(&self, names: &[&str], algorithm: &'static SignatureAlgorithm) -> Signed {
        self.sign_key(names, KeyPair::generate_for(algorithm).expect("a key"))
    }

    pub fn sign_key(&self, names: &[&str], key: KeyPair) -> Signed {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).expect("signs");
        Signed { chain: certificate.pem(), key: key.serialize_pem() }
    }
}

impl Signed {
    pub fn read(&self) -> Certificate {
        Certificate::read(&self.chain, &self.key, SystemTime::now()).expect("a good certificate")
    }
}

pub fn server(certificates: Vec<Certificate>) -> ServerTls {
    server_with(certificates, ClientAuth::None, &[])
}

pub fn server_with(certificates: Vec<Certificate>, client_auth: ClientAuth, alpn: &[&str]) -> ServerTls {
    let alpn = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    ServerTls::new(ServerTlsSettings { certificates, client_auth, alpn }, TicketKeys::generate())
        .expect("good settings")
}

pub fn client(authority: &Authority) -> ClientTls {
    client_with(authority, None, &[])
}

pub fn client_with(authority: &Authority, certificate: Option<Certificate>, alpn: &[&str]) -> ClientTls {
    let alpn = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let roots = Some(vec![authority.der.clone()]);
    ClientTls::new(ClientTlsSettings { roots, certificate, alpn, ..Default::default() }).expect("good settings")
}

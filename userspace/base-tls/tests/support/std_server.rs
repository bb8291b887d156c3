//! A server of rustls' own over a socket of the standard library, for one connection. Shared by the tests of several crates.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustls::server::{ServerConfig, ServerConnection, WebPkiClientVerifier};
use rustls::{RootCertStore, StreamOwned, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub type Served = StreamOwned<ServerConnection, TcpStream>;

/// With this certificate and key, PEM; clients have to show a certificate of `wants`, where it is given, and are sent so many tickets. The
/// port, and what `talk` makes of the connection.
pub fn serve<T: Send + 'static>(
    (chain, key): (&str, &str),
    version: &'static SupportedProtocolVersion,
    wants: Option<CertificateDer<'static>>,
    tickets: usize,
    talk: impl FnOnce(Served) -> T + Send + 'static,
) -> (u16, JoinHandle<T>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[version]).unwrap();
    let builder = match wants {
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.send_tls13_tickets = tickets;
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        talk(StreamOwned::new(ServerConnection::new(config).unwrap(), socket))
    });
    (port, server)
}

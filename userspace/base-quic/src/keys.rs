//! Keys that all machines of a cluster share: a connection's ids, stateless resets and tokens are understood by each of them.

use aws_lc_rs::{hkdf, hmac};
use base_tls::TicketKeys;
use std::fmt;
use std::sync::Arc;

/// See the module doc. Cheap to clone.
#[derive(Clone)]
pub struct QuicKeys {
    /// Proves ids.
    pub ids: Arc<hmac::Key>,
    /// Of stateless resets (RFC 9000 section 10.3).
    pub resets: Arc<hmac::Key>,
    /// Of the tokens of Retry packets (RFC 9000 section 8.1).
    pub tokens: Arc<hkdf::Prk>,
}

impl QuicKeys {
    /// What one secret gives.
    pub fn new(secret: &[u8; 32]) -> QuicKeys {
        let derive = |purpose: &[u8]| {
            let signing = hmac::Key::new(hmac::HMAC_SHA256, secret);
            hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&signing, purpose).as_ref())
        };
        QuicKeys {
            ids: Arc::new(derive(b"connection ids")),
            resets: Arc::new(derive(b"stateless resets")),
            tokens: Arc::new(hkdf::Salt::new(hkdf::HKDF_SHA256, b"retry tokens").extract(secret)),
        }
    }

    /// What the keys of session tickets give, which the machines of a cluster share; random ones where there are none.
    pub fn of(tickets: &TicketKeys) -> QuicKeys {
        let secret = tickets.derive(b"weir quic").unwrap_or_else(|| {
            let mut random = [0; 32];
            aws_lc_rs::rand::fill(&mut random).expect("the operating system gives random bytes");
            random
        });
        QuicKeys::new(&secret)
    }
}

impl fmt::Debug for QuicKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QuicKeys")
    }
}

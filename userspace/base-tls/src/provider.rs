//! What we offer and in which order.

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite as suites, default_provider, kx_group as groups};

/// AEAD suites with forward secrecy only; AES-128 first, the cheapest where the CPU has AES instructions (as a server we follow the
/// client's order, since one without them knows better). Groups: the hybrid of ML-KEM and X25519 first, so that what is recorded
/// today stays closed to quantum computers.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| {
            Arc::new(CryptoProvider {
                cipher_suites: vec![
                    suites::TLS13_AES_128_GCM_SHA256,
                    suites::TLS13_AES_256_GCM_SHA384,
                    suites::TLS13_CHACHA20_POLY1305_SHA256,
                    suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                    suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
                    suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
                    suites::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
                    suites::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
                    suites::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
                ],
                kx_groups: vec![groups::X25519MLKEM768, groups::X25519, groups::SECP256R1, groups::SECP384R1],
                ..default_provider()
            })
        })
        .clone()
}

//! What a TLS connection begins with is read the same however much of it has come and whatever follows, and is bounded.

use base_tls::hello::{HELLO_MOST, Hello};

pub fn check(bytes: &[u8]) {
    let whole = Hello::read(bytes);
    if whole == Ok(None) {
        assert!(bytes.len() < HELLO_MOST);
    }
    for cut in [bytes.len() / 3, bytes.len() / 2, bytes.len().saturating_sub(1)] {
        let part = Hello::read(&bytes[..cut]);
        assert!(part == Ok(None) || part == whole, "{part:?} then {whole:?}");
    }
    if let Ok(Some(hello)) = &whole {
        assert_eq!(Hello::read(&[bytes, &b"\x16\x03\x01\0\x01\x01"[..]].concat()), whole);
        assert!(hello.alpn.iter().all(|protocol| (1..256).contains(&protocol.len())));
    }
}

//! Whatever stands in a field of credentials is read or refused, never both ways: what was read says again what it was read from.

use edge_filters::validator::{Hash, Parsed, read_authorization, read_credentials};

/// The value of an `Authorization` field, or a line of a file of users.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some((user, password)) = read_credentials(text) {
        assert!(!user.is_empty() && !user.contains([':', '\r', '\n', '\0']) && password.len() <= 1024);
    }
    if let Ok(claim) = read_authorization(text, "HMAC-SHA256") {
        assert!(!claim.id.is_empty() && !claim.id.contains(['/', ',']) && (1..16).contains(&claim.scopes.len()));
        let mark: String = claim.mark.iter().map(|byte| format!("{byte:02x}")).collect();
        let scopes = claim.scopes.join("/");
        let said =
            format!("HMAC-SHA256 Credential={}/{scopes}/end,SignedHeaders={},Signature={mark}", claim.id, claim.signed);
        assert!(read_authorization(&said, "HMAC-SHA256").is_ok_and(|again| again == claim));
    }
    if let Ok(token) = Parsed::read(text) {
        assert!(!token.head.contains_key("crit") && text.matches('.').count() >= 2);
        let _ = token.unverified_claims();
    }
    if let Some(hash) = Hash::parse(text) {
        assert_eq!(hash.text(), text);
    }
}

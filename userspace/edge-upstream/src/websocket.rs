//! The opening of a WebSocket as HTTP/1.1 has it (RFC 6455 section 4), whatever its backend was asked over.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto_http::Response;

/// What belongs to every key.
const ACCEPTED: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What proves that the key of an opening was read: `Sec-WebSocket-Accept`.
pub fn accept_of(key: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &[key, ACCEPTED].concat());
    STANDARD.encode(digest)
}

/// An extended CONNECT that was let through (RFC 8441 section 5.1), as the 101 that an opening with this key would have had.
pub(crate) fn switched(mut response: Response, key: &[u8]) -> Response {
    response.status = 101;
    // Neither side of a tunnel announces what it has to say.
    response.headers.remove("Content-Length");
    response.headers.set("Connection", "Upgrade");
    response.headers.set("Upgrade", "websocket");
    response.headers.set("Sec-WebSocket-Accept", accept_of(key));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455 section 1.3.
    #[test]
    fn the_proof_is_that_of_the_rfc() {
        assert_eq!(accept_of(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn what_was_let_through_reads_as_a_switch() {
        let mut response = Response::with_status(200);
        response.headers.add("Content-Length", "5");
        response.headers.add("Sec-WebSocket-Protocol", "chat");
        let switched = switched(response, b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(switched.status, 101);
        assert!(proto_http::h1::accepts_upgrade(&switched.headers) && !switched.headers.contains("Content-Length"));
        assert_eq!(switched.headers.value("Sec-WebSocket-Protocol"), Some(&b"chat"[..]));
    }
}

//! What a request goes on in, where HTTP/2 and HTTP/3 ask for it by an extended CONNECT (RFC 8441, RFC 9220). Filters see both the request
//! and its answer as HTTP/1.1 has them, whatever their backend was asked over.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto_http::h1::offered_upgrade;
use proto_http::{Method, Protocol, Request, Response};

/// What belongs to every key of a WebSocket (RFC 6455 section 4).
const ACCEPTED: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What proves that the key of an opening was read: `Sec-WebSocket-Accept`.
pub fn accept_of(key: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &[key, ACCEPTED].concat());
    STANDARD.encode(digest)
}

/// See the module doc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extended<'a> {
    /// With its key: whoever asked over HTTP/1.1 wants a proof that it was read.
    WebSocket(&'a [u8]),
    Other(Protocol),
}

impl<'a> Extended<'a> {
    /// What the request offers, where that can be said as an extended CONNECT, too.
    pub(crate) fn of(request: &'a Request) -> Option<Extended<'a>> {
        if request.method != Method::Get {
            return None;
        }
        match offered_upgrade(&request.headers)? {
            Protocol::WebSocket => {
                let mut keys = request.headers.values("Sec-WebSocket-Key");
                let key = keys.next().filter(|_| keys.next().is_none())?;
                Some(Extended::WebSocket(key.trim_ascii()))
            }
            other => Some(Extended::Other(other)),
        }
    }

    pub(crate) fn protocol(self) -> Protocol {
        match self {
            Extended::WebSocket(_) => Protocol::WebSocket,
            Extended::Other(protocol) => protocol,
        }
    }

    /// An extended CONNECT that was let through, as the 101 that HTTP/1.1 has for it.
    pub(crate) fn switched(self, mut response: Response) -> Response {
        response.status = 101;
        // Neither side of a tunnel announces what it has to say.
        response.headers.remove("Content-Length");
        response.headers.set("Connection", "Upgrade");
        response.headers.set("Upgrade", self.protocol().name());
        if let Extended::WebSocket(key) = self {
            response.headers.set("Sec-WebSocket-Accept", accept_of(key));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto_http::h1::accepted_upgrade;

    /// The example of RFC 6455 section 1.3.
    const KEY: &[u8] = b"dGhlIHNhbXBsZSBub25jZQ==";

    #[test]
    fn the_proof_is_that_of_the_rfc() {
        assert_eq!(accept_of(KEY), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn what_is_asked_for_is_read_of_the_request() {
        let asking = |method, upgrade: &str, keys: &[&str]| {
            let mut request = Request { method, ..Request::default() };
            request.headers.add("Upgrade", upgrade);
            keys.iter().for_each(|key| request.headers.add("Sec-WebSocket-Key", key));
            Extended::of(&request).map(Extended::protocol)
        };
        assert_eq!(asking(Method::Get, "websocket", &["k"]), Some(Protocol::WebSocket));
        assert_eq!(asking(Method::Get, "connect-udp", &[]), Some(Protocol::ConnectUdp));
        // Over HTTP/1.1 as it is, if at all.
        assert_eq!(asking(Method::Get, "websocket", &[]), None);
        assert_eq!(asking(Method::Get, "websocket", &["k", "l"]), None);
        assert_eq!(asking(Method::Post, "connect-udp", &[]), None);
        assert_eq!(asking(Method::Get, "connect-udp, h2c", &[]), None);
    }

    #[test]
    fn what_was_let_through_reads_as_a_switch() {
        let mut response = Response::with_status(200);
        response.headers.add("Content-Length", "5");
        response.headers.add("Sec-WebSocket-Protocol", "chat");
        let switched = Extended::WebSocket(KEY).switched(response.clone());
        assert_eq!(switched.status, 101);
        assert_eq!(accepted_upgrade(&switched.headers), Some(Protocol::WebSocket));
        assert!(!switched.headers.contains("Content-Length"));
        assert_eq!(switched.headers.value("Sec-WebSocket-Protocol"), Some(&b"chat"[..]));
        let switched = Extended::Other(Protocol::ConnectUdp).switched(response);
        assert_eq!(accepted_upgrade(&switched.headers), Some(Protocol::ConnectUdp));
        assert!(!switched.headers.contains("Sec-WebSocket-Accept"));
    }
}

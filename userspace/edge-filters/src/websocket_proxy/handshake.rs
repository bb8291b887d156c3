//! The opening of a WebSocket: what a client must say, and what a server must answer (RFC 6455 section 4).

use super::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge_upstream::extended::accept_of;
use proto_http::h1::offered_upgrade;
use proto_http::{Method, Protocol, Request};

/// What a client asked for.
#[derive(Debug)]
pub struct Offer {
    key: Vec<u8>,
    protocols: Vec<Vec<u8>>,
}

impl Offer {
    /// `upgrade`: the client's connection can go on in another protocol. An error is the status to refuse with.
    pub fn read(request: &Request, upgrade: bool) -> Result<Offer, u16> {
        let offers = upgrade && offered_upgrade(&request.headers) == Some(Protocol::WebSocket);
        if request.method != Method::Get || !offers {
            return Err(400);
        }
        let only = |name| {
            let mut values = request.headers.values(name);
            let first = values.next();
            first.filter(|_| values.next().is_none()).map(<[u8]>::trim_ascii)
        };
        match only("Sec-WebSocket-Version") {
            Some(b"13") => {}
            Some(_) => return Err(426),
            None => return Err(400),
        }
        let key = only("Sec-WebSocket-Key").ok_or(400u16)?;
        if !STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16) {
            return Err(400);
        }
        let protocols = request.headers.values("Sec-WebSocket-Protocol");
        let protocols = protocols.flat_map(|list| list.split(|b| *b == b',')).map(|one| one.trim_ascii().to_vec());
        Ok(Offer { key: key.to_vec(), protocols: protocols.collect() })
    }

    /// Whether a server's 101 is an answer to it; `plain`: no extension may be in use. Whoever asked over HTTP/2 cannot see this for
    /// himself.
    pub fn is_met_by(&self, response: &Response, plain: bool) -> Result<(), &'static str> {
        let expected = accept_of(&self.key);
        if response.headers.value("Sec-WebSocket-Accept").map(<[u8]>::trim_ascii) != Some(expected.as_bytes()) {
            return Err("the server's Sec-WebSocket-Accept is none for this key");
        }
        if plain && response.headers.values("Sec-WebSocket-Extensions").any(|list| !list.trim_ascii().is_empty()) {
            return Err("the server uses an extension that was not asked for");
        }
        let mut chosen = response.headers.values("Sec-WebSocket-Protocol");
        match (chosen.next(), chosen.next()) {
            (None, _) => Ok(()),
            (Some(one), None) if self.protocols.iter().any(|offered| offered == one.trim_ascii()) => Ok(()),
            _ => Err("the server chose a subprotocol that was not offered"),
        }
    }
}

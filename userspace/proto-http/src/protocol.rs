//! What an exchange may go on in once both sides have left HTTP: the protocols that are offered to backends and accepted from them.
//!
//! HTTP/1.1 asks for one by `Upgrade`, HTTP/2 and HTTP/3 by the `:protocol` of an extended CONNECT; the names are those of one registry
//! (RFC 9110 section 16.7). No other protocol is relayed: what is not known may carry requests past us unread.

/// See the module doc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RFC 6455, RFC 8441, RFC 9220.
    WebSocket,
    /// UDP to one destination (RFC 9298).
    ConnectUdp,
    /// IP packets (RFC 9484).
    ConnectIp,
}

impl Protocol {
    pub const ALL: [Protocol; 3] = [Protocol::WebSocket, Protocol::ConnectUdp, Protocol::ConnectIp];

    /// The one of this name, however that is cased.
    pub fn of(name: &[u8]) -> Option<Protocol> {
        Protocol::ALL.into_iter().find(|known| name.eq_ignore_ascii_case(known.name().as_bytes()))
    }

    /// Its name, as it is sent.
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::WebSocket => "websocket",
            Protocol::ConnectUdp => "connect-udp",
            Protocol::ConnectIp => "connect-ip",
        }
    }

    /// What passes are capsules (RFC 9297 section 3), of which datagrams may go beside the stream.
    pub const fn has_capsules(self) -> bool {
        !matches!(self, Protocol::WebSocket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_however_they_are_cased() {
        for known in Protocol::ALL {
            assert_eq!(Protocol::of(known.name().to_uppercase().as_bytes()), Some(known));
        }
        // Its streams beside the one it is asked for on cannot be relayed.
        for unknown in ["webtransport", "h2c", "", "websockets", "connect-tcp"] {
            assert_eq!(Protocol::of(unknown.as_bytes()), None);
        }
    }
}

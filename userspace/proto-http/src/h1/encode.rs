//! Heads, chunks and trailers on their way out.
//!
//! What is written is framed by the options given and by nothing the message says: framing and hop-by-hop fields of
//! the message are dropped. Other fields keep their order and the case they came in.

use super::fields::offered_upgrade;
use super::{Framing, is_forbidden_in_trailers};
use crate::bytes::push_decimal;
use crate::headers::{Headers, Known};
use crate::message::{Method, Request, Response, Version, reason_phrase};
use crate::protocol::Protocol;

/// How a request goes out.
#[derive(Clone, Copy, Debug)]
pub struct RequestOptions<'a> {
    /// How the body that follows is framed. [`Framing::UntilClose`] is none a request can have.
    pub framing: Framing,
    /// The authority to send as `Host`.
    pub host: &'a str,
    /// Relay the offer of another protocol, of those the request names the one that we relay. Filters may have taken it away.
    pub upgrade: bool,
    /// Ask the backend for `100 Continue` before the body is sent.
    pub expect_continue: bool,
}

/// Appends the head of a request, as HTTP/1.1 with its target in origin-form, `Host` first.
pub fn write_request_head(out: &mut Vec<u8>, request: &Request, options: &RequestOptions<'_>) {
    debug_assert!(options.framing != Framing::UntilClose, "the end of a request must be announced");
    out.extend_from_slice(request.method.as_str().as_bytes());
    out.push(b' ');
    if request.method == Method::Connect {
        out.extend_from_slice(request.authority.as_bytes());
    } else {
        request.path.encode(out);
        if let Some(query) = &request.query {
            out.push(b'?');
            out.extend_from_slice(query.as_bytes());
        }
    }
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    out.extend_from_slice(options.host.as_bytes());
    out.extend_from_slice(b"\r\n");
    request.headers.write(out, |known, _| match known {
        Known::Other => true,
        Known::Host | Known::ContentLength | Known::Expect => false,
        known => !known.is_hop_by_hop(),
    });
    if options.upgrade
        && let Some(protocol) = offered_upgrade(&request.headers)
    {
        write_upgrade(out, protocol);
    }
    if options.expect_continue {
        out.extend_from_slice(b"Expect: 100-continue\r\n");
    }
    write_framing(out, options.framing);
    out.extend_from_slice(b"\r\n");
}

/// How a response goes out.
#[derive(Clone, Copy, Debug)]
pub struct ResponseOptions<'a> {
    /// How the body that follows is framed, or would be were this not the answer to HEAD; see [`Framing::for_client`].
    pub framing: Framing,
    /// Whether the connection will be read from again. A body that lasts until close says `close` by itself.
    pub keep_alive: bool,
    /// The version the client spoke.
    pub client: Version,
    /// The time as [`crate::ImfDate`] writes it, sent when the message has none.
    pub date: &'a str,
    /// The change of protocol (101) to relay.
    pub upgrade: Option<Protocol>,
    /// The answer to HEAD: the framing fields are sent, the body is not.
    pub head_request: bool,
    /// A 2xx answer to CONNECT, after which no body but a tunnel follows.
    pub tunnel: bool,
}

/// Appends the head of a response, interim ones (1xx) included.
///
/// [`Framing::Empty`] is sent as `Content-Length: 0` where a client would otherwise wait for a body. 1xx, 204, 304 and the
/// opening of a tunnel carry no framing whatever the options say.
pub fn write_response_head(out: &mut Vec<u8>, response: &Response, options: &ResponseOptions<'_>) {
    debug_assert!(
        options.framing != Framing::Chunked || options.client != Version::Http10,
        "an HTTP/1.0 client cannot read chunks"
    );
    let status = response.status;
    if status == 200 {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    } else {
        out.extend_from_slice(b"HTTP/1.1 ");
        push_decimal(out, u64::from(status));
        out.push(b' ');
        out.extend_from_slice(reason_phrase(status).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    let mut dated = status < 200;
    response.headers.write(out, |known, _| match known {
        Known::Other => true,
        Known::ContentLength => false,
        Known::Date => {
            dated = true;
            true
        }
        known => !known.is_hop_by_hop(),
    });
    if !dated {
        out.extend_from_slice(b"Date: ");
        out.extend_from_slice(options.date.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    let final_answer = status >= 200;
    if let Some(protocol) = options.upgrade {
        write_upgrade(out, protocol);
    } else if final_answer && !options.tunnel {
        let until_close = options.framing == Framing::UntilClose && !options.head_request;
        // What a 426 is for is to name the protocols that will do (RFC 9110 section 15.5.22).
        let required = status == 426 && response.headers.known(Known::Upgrade).is_some();
        let (close, http10) = (!options.keep_alive || until_close, options.client == Version::Http10);
        let connection: &[u8] = match (required, close) {
            (true, true) => b"Connection: upgrade, close\r\n",
            (true, false) if http10 => b"Connection: upgrade, keep-alive\r\n",
            (true, false) => b"Connection: upgrade\r\n",
            (false, true) => b"Connection: close\r\n",
            (false, false) if http10 => b"Connection: keep-alive\r\n",
            (false, false) => b"",
        };
        out.extend_from_slice(connection);
        if required {
            response.headers.write(out, |known, _| known == Known::Upgrade);
        }
    }
    if final_answer && !options.tunnel && !matches!(status, 204 | 304) {
        match options.framing {
            // Unknown for HEAD, and then better not said.
            Framing::Empty if options.head_request => {}
            Framing::Empty => write_framing(out, Framing::Length(0)),
            framing => write_framing(out, framing),
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the interim answer that asks the client for its body.
pub fn write_continue(out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
}

/// A chunk's size line: `1a2b\r\n`.
#[derive(Clone, Copy, Debug)]
pub struct ChunkPrefix {
    text: [u8; 18],
    start: u8,
}

impl AsRef<[u8]> for ChunkPrefix {
    fn as_ref(&self) -> &[u8] {
        &self.text[self.start as usize..]
    }
}

/// What goes before `len` bytes of data; [`CHUNK_END`] goes after them. `len` must not be zero: that would end the body.
pub fn chunk_prefix(len: usize) -> ChunkPrefix {
    debug_assert!(len > 0, "a chunk of no bytes ends the body; write LAST_CHUNK for that");
    let mut prefix = ChunkPrefix { text: *b"0000000000000000\r\n", start: 16 };
    let mut rest = len;
    while rest > 0 || prefix.start == 16 {
        prefix.start -= 1;
        prefix.text[prefix.start as usize] = b"0123456789abcdef"[rest & 15];
        rest >>= 4;
    }
    prefix
}

/// After the data of each chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// The end of a chunked body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Appends the end of a chunked body with `trailers`; fields that may not stand there are left out.
pub fn write_trailers(out: &mut Vec<u8>, trailers: &Headers) {
    out.extend_from_slice(b"0\r\n");
    trailers.write(out, |_, name| !is_forbidden_in_trailers(name));
    out.extend_from_slice(b"\r\n");
}

fn write_framing(out: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::Length(length) => {
            out.extend_from_slice(b"Content-Length: ");
            push_decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Framing::Empty | Framing::UntilClose => {}
    }
}

/// The offer of a protocol that we relay, or its acceptance; written anew, so that nothing else a message says comes with it.
fn write_upgrade(out: &mut Vec<u8>, protocol: Protocol) {
    out.extend_from_slice(b"Connection: upgrade\r\nUpgrade: ");
    out.extend_from_slice(protocol.name().as_bytes());
    out.extend_from_slice(b"\r\n");
}

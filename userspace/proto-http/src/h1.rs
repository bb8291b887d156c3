//! HTTP/1.1: bytes to messages and back (RFC 9110, RFC 9112), strictly and without a lenient mode.
//!
//! ```text
//!             client side                                 backend side
//! bytes → parse_request → Request ─ filters ─→ write_request_head → bytes
//! bytes → BodyDecoder → windows of the input ─→ chunk_prefix … CHUNK_END, or as they are
//! bytes ← write_response_head ← Response ← filters ← parse_response ← bytes
//! ```
//!
//! The caller owns the buffers. A parser is given everything received and not yet consumed; it answers `None` while the head
//! is incomplete and is called again with more. Every refusal is a [`Fault`] with a name to count it by, and ends the
//! connection: after one, nobody knows where the next message begins.
//!
//! Two messages framed in two ways at once are refused, never repaired, and what is sent on is framed anew by the encoder, so
//! a backend sees one reading of every message: ours.

mod body;
mod encode;
mod error;
mod fields;
mod request;
mod response;

pub use body::{BodyDecoder, Decoded};
pub use encode::{
    CHUNK_END, ChunkPrefix, LAST_CHUNK, RequestOptions, ResponseOptions, chunk_prefix, write_continue,
    write_request_head, write_response_head, write_trailers,
};
pub use error::{BodyError, Fault, RequestError, ResponseError};
pub use fields::is_forbidden_in_trailers;
pub use request::{RequestHead, parse_request};
pub use response::{Interim, ResponseHead, parse_response};

use crate::message::Version;

/// How the end of a body is found (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Framing {
    /// No body, and no field says so.
    #[default]
    Empty,
    /// That many bytes, zero included.
    Length(u64),
    /// Chunks, then perhaps trailers.
    Chunked,
    /// Everything until the peer closes. Responses only.
    UntilClose,
}

impl Framing {
    /// Whether no body byte follows.
    pub fn is_empty(self) -> bool {
        matches!(self, Framing::Empty | Framing::Length(0))
    }

    /// The framing of a response once it is relayed to a client: HTTP/1.0 knows no chunks, HTTP/1.1 need not close.
    pub fn for_client(self, client: Version) -> Framing {
        match (self, client) {
            (Framing::Chunked, Version::Http10) => Framing::UntilClose,
            (Framing::UntilClose, Version::Http11) => Framing::Chunked,
            (framing, _) => framing,
        }
    }
}

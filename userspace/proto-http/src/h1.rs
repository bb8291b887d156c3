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
//!
//! # Rules
//!
//! What implementations were attacked with, the rule here, the [`Fault`] it is counted as (`weir_limit_hits_total{limit}`) and
//! the status a client gets; from a backend the same faults make a 502 or 503 of the answer. Each fault stands in
//! `proto-torture`, which a test sees to.
//!
//! | Class | Rule | Fault | Status |
//! |---|---|---|---|
//! | two framings (CL.TE, TE.CL) | `Content-Length` and `Transfer-Encoding` together are refused, both ways | `length_and_chunked` | 400 |
//! | CL.CL | a second `Content-Length` is refused, also an equal one | `several_lengths` | 400 |
//! | odd lengths | digits below 2^63; no sign, list, space or prefix | `length` | 400 |
//! | TE.TE | exactly `chunked`, once, in any case; another coding is not implemented | `transfer_coding`, `several_transfer_codings` | 501, 400 |
//! | TE in HTTP/1.0 | refused | `transfer_coding_version` | 400 |
//! | chunk sizes | 1 to 16 hexadecimal digits below 2^63, followed by CRLF, or by `;` with or without blanks before it; blanks before CRLF are left out of answers only | `chunk_size` | 400 |
//! | chunk extensions (TERM.EXT, EXT.TERM) | no control bytes, bounded each and against the data, never relayed | `chunk_extension`, `chunk_extension_too_large` | 400 |
//! | chunk data (SPILL) | CRLF exactly where the size says | `chunk_end` | 400 |
//! | trailers | bounded; those that would change framing, routing or identity are dropped | `trailers_too_large`, `too_many_trailers` | 431 |
//! | bare LF, bare CR | refused everywhere, bodies aside | `bare_lf`, `bare_cr` | 400 |
//! | folded lines | refused | `fold` | 400 |
//! | white space before the colon, no name | refused; in answers the white space is left out, as RFC 9112 section 5.1 asks | `name_space`, `name_empty` | 400 |
//! | names | tokens; bytes of 0x80 and more, and lines without colon, are refused | `name_character` | 400 |
//! | `_` and other marks read as `-` | a name that becomes one the engine or a backend trusts is refused; others with `_` are left out and counted unless the server says otherwise, and whoever sets a field takes its other spellings away | `name_lookalike`, `name_underscore` | 400 |
//! | values | no NUL, no other control byte but tab | `value_character` | 400 |
//! | sizes of heads | bounded, see [`Limits`](crate::Limits) | `head_too_large`, `field_too_large`, `too_many_fields` | 431 |
//! | Host | one in HTTP/1.1, `host` or `host:port`; no user, list, escape, empty label | `no_host`, `several_hosts`, `host` | 400 |
//! | absolute targets | their authority replaces `Host` (RFC 9112 section 3.2.2); sent on in origin-form | `target`, `target_authority` | 400 |
//! | CONNECT, `OPTIONS *` | `host:port` after CONNECT only, `*` after OPTIONS only | `target_authority`, `target` | 400 |
//! | paths | one canonical form, matched and relayed, see [`crate::path`] | `target_escape`, `target_nul`, `target_backslash`, `target_above_root`, `target_disguised_dots`, `target_character` | 400 |
//! | long targets, long methods | bounded | `target_too_long`, `method_too_long` | 414, 501 |
//! | request lines | single spaces, CRLF, nothing before but one empty line | `request_line`, `method`, `leading_lines` | 400 |
//! | HTTP/0.9 | refused | `no_version` | 400 |
//! | versions | 1.0 and 1.1; 1.2 to 1.9 are read as 1.1 | `version` | 505 |
//! | HTTP/2 or TLS on this port | refused by name | `http2_preface`, `tls_handshake` | 505, 400 |
//! | lists over several lines | one list: no line undoes what another said (Connection, Expect, Upgrade) | | |
//! | Expect (0.CL) | only `100-continue`, answered by us, never relayed unasked | `expectation` | 417 |
//! | Connection | a short list of tokens; one that names a field of the message itself is refused, others are struck out before any filter looks | `connection` | 400 |
//! | upgrades | to `websocket`, `connect-udp` or `connect-ip`, the first that is named, which is all that is offered on; never with a body, never beside `h2c` in whichever line; a tunnel begins after a 101 that was asked for and names that alone | `switch_unasked` | 503 |
//! | interim answers | without a body (`Content-Length: 0` says no more), bounded in number | `interim_framing`, `too_many_interim` | 503 |
//! | status lines | `HTTP/1.x`, three digits from 100 to 599 | `status_line` | 503 |
//! | pseudo-fields of HTTP/2 and 3 | `http` or `https`; none of scheme and path in CONNECT, all in an extended one, which is for `websocket` alone | `pseudo_field`, `protocol` | 400, 501 |
//! | fields of the connection in HTTP/2 and 3 | refused, as is a `TE` other than `trailers` | `connection_field` | 400 |
//! | `:authority` and `Host` | the same, when there are both | `authority_differs` | 400 |
//! | bodies of HEAD, 204, 304 | none, whatever is announced; what follows is not another answer's beginning | (connection not used again) | |
//! | bodies cut short | the client sees that they are | `truncated` | 503 or cut |

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
pub use error::{Fault, FramingError, RequestError, ResponseError};
pub use fields::{accepted_upgrade, is_forbidden_in_trailers, offered_upgrade};
pub(crate) use fields::{is_lookalike, is_odd, keeps_trailer};
pub use request::{RequestHead, parse_request};
pub use response::{InterimCount, ResponseHead, parse_response};

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

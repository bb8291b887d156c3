//! Everything a peer can get wrong: its name for counters, the status it is answered with, and advice.

use std::fmt;

macro_rules! faults {
    ($($(#[doc = $doc:literal])* $fault:ident $name:literal $status:literal $advice:literal;)*) => {
        /// What is wrong with a message.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Fault {
            $($(#[doc = $doc])* #[doc = concat!(" ", $advice, ".")] $fault,)*
        }

        impl Fault {
            /// All faults; `fault as usize` is its place here.
            pub const ALL: &[Fault] = &[$(Fault::$fault),*];

            /// The name to count it by.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Fault::$fault => $name,)*
                }
            }

            /// The status a client that sent it is answered with.
            pub const fn status(self) -> u16 {
                match self {
                    $(Fault::$fault => $status,)*
                }
            }

            /// What was wrong and what is accepted.
            pub const fn advice(self) -> &'static str {
                match self {
                    $(Fault::$fault => $advice,)*
                }
            }
        }
    };
}

faults! {
    LeadingLines "leading_lines" 400 "more than one empty line before the start line";
    TlsHandshake "tls_handshake" 400 "a TLS handshake on a port that speaks plain HTTP; use http:// or another port";
    Http2Preface "http2_preface" 505 "the HTTP/2 preface, or its method PRI, on a port that speaks HTTP/1";
    Method "method" 400 "the method is not a token followed by one space";
    MethodTooLong "method_too_long" 501 "the method is longer than any we know";
    NoVersion "no_version" 400 "the request line has no version (HTTP/0.9); write METHOD TARGET HTTP/1.1";
    RequestLine "request_line" 400 "the request line is not METHOD SP TARGET SP HTTP/1.1 CRLF with single spaces";
    Version "version" 505 "the version is neither HTTP/1.0 nor HTTP/1.1";
    StatusLine "status_line" 502 "the status line is not HTTP/1.x SP three digits, 100 to 599, SP reason CRLF";
    Target "target" 400 "the target is neither /path, http(s)://authority/path, host:port after CONNECT, nor * after OPTIONS";
    TargetTooLong "target_too_long" 414 "the target is too long";
    TargetCharacter "target_character" 400 "the target contains a byte that must be percent-encoded";
    TargetEscape "target_escape" 400 "the path contains % without two hexadecimal digits";
    TargetNul "target_nul" 400 "the path contains %00";
    TargetBackslash "target_backslash" 400 "the path contains a backslash";
    TargetAboveRoot "target_above_root" 400 "the path climbs above its root";
    TargetDisguisedDots "target_disguised_dots" 400 "the path hides .. before %2F, %5C or ;";
    TargetAuthority "target_authority" 400 "the authority of the target is not host or host:port";
    BareCr "bare_cr" 400 "a CR that no LF follows";
    BareLf "bare_lf" 400 "a line that ends with LF alone; lines end with CRLF";
    Fold "fold" 400 "a field line that begins with white space (folded lines are obsolete)";
    NameEmpty "name_empty" 400 "a field without a name";
    NameSpace "name_space" 400 "white space in a field name or between it and its colon";
    NameCharacter "name_character" 400 "a field name that is not a token, or a field line without a colon";
    NameLookalike "name_lookalike" 400 "a field that becomes a framing or forwarding field where _ is read as -";
    NameUnderscore "name_underscore" 400 "a field name with _, which this server refuses";
    ValueCharacter "value_character" 400 "a control byte in a field value";
    HeadTooLarge "head_too_large" 431 "the head is too large";
    FieldTooLarge "field_too_large" 431 "a field line is too long";
    TooManyFields "too_many_fields" 431 "too many fields";
    NoHost "no_host" 400 "an HTTP/1.1 request without Host";
    SeveralHosts "several_hosts" 400 "more than one Host";
    Host "host" 400 "Host is not host or host:port";
    LengthAndChunked "length_and_chunked" 400 "Content-Length and Transfer-Encoding together";
    Length "length" 400 "Content-Length is not a decimal number below 2^63";
    SeveralLengths "several_lengths" 400 "more than one Content-Length";
    TransferCoding "transfer_coding" 501 "a transfer coding other than chunked";
    SeveralTransferCodings "several_transfer_codings" 400 "chunked more than once, or more than one Transfer-Encoding";
    TransferCodingVersion "transfer_coding_version" 400 "Transfer-Encoding in an HTTP/1.0 message";
    Expectation "expectation" 417 "an expectation other than 100-continue";
    Connection "connection" 400 "Connection is not a short list of tokens, or names a field that is not for this hop alone";
    PseudoField "pseudo_field" 400 "pseudo-fields of HTTP/2 that do not go together: a scheme that is not http or https, or a path in CONNECT";
    ConnectionField "connection_field" 400 "a field of the connection, which HTTP/2 has none of, or TE other than trailers";
    AuthorityDiffers "authority_differs" 400 "Host and :authority name different hosts";
    Protocol "protocol" 501 "an extended CONNECT for a protocol that is not relayed; websocket, connect-udp and connect-ip are";
    InterimFraming "interim_framing" 502 "an interim (1xx) response that announces a body";
    SwitchUnasked "switch_unasked" 502 "a change of protocol (101, or 2xx to CONNECT) that was not asked for";
    TooManyInterim "too_many_interim" 502 "too many interim (1xx) responses";
    ChunkSize "chunk_size" 400 "a chunk size that is not 1 to 16 hexadecimal digits below 2^63, followed by ; or CRLF";
    ChunkExtension "chunk_extension" 400 "a control byte in a chunk extension, or one without content";
    ChunkExtensionTooLarge "chunk_extension_too_large" 400 "chunk extensions are too long, alone or for the data they come with";
    ChunkEnd "chunk_end" 400 "chunk data that is longer than its size or not followed by CRLF";
    TrailersTooLarge "trailers_too_large" 431 "the trailer section is too large";
    TooManyTrailers "too_many_trailers" 431 "too many trailer fields";
    Truncated "truncated" 400 "the connection ended within the message";
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.advice())
    }
}

/// A request that is refused. The client is answered with `status`, then the connection is closed: never read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestError {
    pub status: u16,
    pub kind: Fault,
}

impl From<Fault> for RequestError {
    fn from(kind: Fault) -> RequestError {
        RequestError { status: kind.status(), kind }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request refused ({}): {}", self.kind.name(), self.kind)
    }
}

impl std::error::Error for RequestError {}

/// A response that is refused. The backend is to blame, its connection is closed, and the client is answered 502.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseError {
    pub kind: Fault,
}

impl From<Fault> for ResponseError {
    fn from(kind: Fault) -> ResponseError {
        ResponseError { kind }
    }
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "response refused ({}): {}", self.kind.name(), self.kind)
    }
}

impl std::error::Error for ResponseError {}

/// A body that breaks off or is badly framed. The sender is to blame and its connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FramingError {
    /// What a client is answered with while that is still possible; for a backend's body it is 502.
    pub status: u16,
    pub kind: Fault,
}

impl From<Fault> for FramingError {
    fn from(kind: Fault) -> FramingError {
        FramingError { status: kind.status(), kind }
    }
}

impl fmt::Display for FramingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "body refused ({}): {}", self.kind.name(), self.kind)
    }
}

impl std::error::Error for FramingError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_its_own_name_place_and_status() {
        for (place, fault) in Fault::ALL.iter().enumerate() {
            assert_eq!(*fault as usize, place);
            assert!((400..=505).contains(&fault.status()));
            assert!(fault.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit()));
            assert_eq!(Fault::ALL.iter().filter(|f| f.name() == fault.name()).count(), 1);
        }
        assert_eq!(
            RequestError::from(Fault::BareLf).to_string(),
            "request refused (bare_lf): a line that ends with LF alone; lines end with CRLF"
        );
    }
}

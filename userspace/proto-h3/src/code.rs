//! Error codes (RFC 9114 section 8.1, RFC 9204 section 6, RFC 9297 section 5.2), and what is broken by whom.

/// Why a stream or a connection is ended, as the peer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    NoError,
    General,
    Internal,
    StreamCreation,
    ClosedCriticalStream,
    FrameUnexpected,
    Frame,
    ExcessiveLoad,
    Id,
    Settings,
    MissingSettings,
    RequestRejected,
    RequestCancelled,
    RequestIncomplete,
    Message,
    Connect,
    VersionFallback,
    Datagram,
    QpackDecompression,
    QpackEncoderStream,
    QpackDecoderStream,
}

impl Code {
    /// All of them.
    pub const ALL: [Code; 21] = [
        Code::NoError,
        Code::General,
        Code::Internal,
        Code::StreamCreation,
        Code::ClosedCriticalStream,
        Code::FrameUnexpected,
        Code::Frame,
        Code::ExcessiveLoad,
        Code::Id,
        Code::Settings,
        Code::MissingSettings,
        Code::RequestRejected,
        Code::RequestCancelled,
        Code::RequestIncomplete,
        Code::Message,
        Code::Connect,
        Code::VersionFallback,
        Code::Datagram,
        Code::QpackDecompression,
        Code::QpackEncoderStream,
        Code::QpackDecoderStream,
    ];

    /// As it stands on the wire.
    pub const fn value(self) -> u32 {
        match self {
            Code::NoError => 0x100,
            Code::General => 0x101,
            Code::Internal => 0x102,
            Code::StreamCreation => 0x103,
            Code::ClosedCriticalStream => 0x104,
            Code::FrameUnexpected => 0x105,
            Code::Frame => 0x106,
            Code::ExcessiveLoad => 0x107,
            Code::Id => 0x108,
            Code::Settings => 0x109,
            Code::MissingSettings => 0x10a,
            Code::RequestRejected => 0x10b,
            Code::RequestCancelled => 0x10c,
            Code::RequestIncomplete => 0x10d,
            Code::Message => 0x10e,
            Code::Connect => 0x10f,
            Code::VersionFallback => 0x110,
            Code::Datagram => 0x33,
            Code::QpackDecompression => 0x200,
            Code::QpackEncoderStream => 0x201,
            Code::QpackDecoderStream => 0x202,
        }
    }

    /// The name in RFC 9114, RFC 9204 and RFC 9297.
    pub const fn text(self) -> &'static str {
        match self {
            Code::NoError => "H3_NO_ERROR",
            Code::General => "H3_GENERAL_PROTOCOL_ERROR",
            Code::Internal => "H3_INTERNAL_ERROR",
            Code::StreamCreation => "H3_STREAM_CREATION_ERROR",
            Code::ClosedCriticalStream => "H3_CLOSED_CRITICAL_STREAM",
            Code::FrameUnexpected => "H3_FRAME_UNEXPECTED",
            Code::Frame => "H3_FRAME_ERROR",
            Code::ExcessiveLoad => "H3_EXCESSIVE_LOAD",
            Code::Id => "H3_ID_ERROR",
            Code::Settings => "H3_SETTINGS_ERROR",
            Code::MissingSettings => "H3_MISSING_SETTINGS",
            Code::RequestRejected => "H3_REQUEST_REJECTED",
            Code::RequestCancelled => "H3_REQUEST_CANCELLED",
            Code::RequestIncomplete => "H3_REQUEST_INCOMPLETE",
            Code::Message => "H3_MESSAGE_ERROR",
            Code::Connect => "H3_CONNECT_ERROR",
            Code::VersionFallback => "H3_VERSION_FALLBACK",
            Code::Datagram => "H3_DATAGRAM_ERROR",
            Code::QpackDecompression => "QPACK_DECOMPRESSION_FAILED",
            Code::QpackEncoderStream => "QPACK_ENCODER_STREAM_ERROR",
            Code::QpackDecoderStream => "QPACK_DECODER_STREAM_ERROR",
        }
    }

    /// The name to count it by.
    pub const fn name(self) -> &'static str {
        match self {
            Code::NoError => "h3_no_error",
            Code::General => "h3_protocol",
            Code::Internal => "h3_internal",
            Code::StreamCreation => "h3_stream_creation",
            Code::ClosedCriticalStream => "h3_closed_critical_stream",
            Code::FrameUnexpected => "h3_frame_unexpected",
            Code::Frame => "h3_frame",
            Code::ExcessiveLoad => "h3_excessive_load",
            Code::Id => "h3_id",
            Code::Settings => "h3_settings",
            Code::MissingSettings => "h3_missing_settings",
            Code::RequestRejected => "h3_request_rejected",
            Code::RequestCancelled => "h3_request_cancelled",
            Code::RequestIncomplete => "h3_request_incomplete",
            Code::Message => "h3_message",
            Code::Connect => "h3_connect",
            Code::VersionFallback => "h3_version_fallback",
            Code::Datagram => "h3_datagram",
            Code::QpackDecompression => "h3_qpack",
            Code::QpackEncoderStream => "h3_qpack_encoder",
            Code::QpackDecoderStream => "h3_qpack_decoder",
        }
    }
}

/// What a peer got wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It ends the connection.
    Connection(Code),
    /// It ends the stream alone.
    Stream(Code),
}

impl Fault {
    pub const fn code(self) -> Code {
        match self {
            Fault::Connection(code) | Fault::Stream(code) => code,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_own_value_and_names() {
        for (at, code) in Code::ALL.iter().enumerate() {
            for other in &Code::ALL[at + 1..] {
                assert_ne!(code.value(), other.value());
                assert_ne!(code.name(), other.name());
                assert_ne!(code.text(), other.text());
            }
        }
    }
}

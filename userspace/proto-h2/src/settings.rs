//! Every bound of an HTTP/2 connection, for both sides, with what it protects.

use crate::frame;
use crate::pings::PingRules;
use proto_http::Limits;

/// What each field costs in a header list beside its bytes (RFC 9113 section 6.5.2).
const FIELD_OVERHEAD: usize = 32;

/// Name and value of the pseudo-fields, beside the path, which have no place in the head of HTTP/1.
const PSEUDO_FIELDS: usize = 1024;

/// Bytes of one field table, for either direction. RFC 9113's default; memory: one of this size per direction once fields repeat.
pub(crate) const FIELD_TABLE: u32 = 4096;

/// What a header list may hold so that a message within `limits` is read, and one beyond them is judged by the rules HTTP/1 has.
/// One four times this size ends the connection before it is read to its end.
fn header_list(limits: &Limits) -> u32 {
    let bytes = limits.head_bytes + limits.fields * FIELD_OVERHEAD + PSEUDO_FIELDS;
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// The side that is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// Largest header list accepted, in bytes with 32 for each field. Default 69 KiB: [`Limits::head_bytes`] and as many fields as it
    /// allows. Beyond it 431; beyond four times as much the connection ends.
    pub header_list_bytes: u32,
    /// Bytes of trailers that are kept until their body was read, and how many fields. Default 8 KiB and 32, see
    /// [`Limits::trailer_bytes`]. Beyond either 431. Memory: one per request.
    pub trailer_bytes: usize,
    pub trailers_most: usize,
    /// Requests a client may have open at once. Default 128. Beyond it they are refused, which clients may repeat. Protects memory: a
    /// stream holds a request, its answer's head and what waits of its answer.
    pub streams_most: u32,
    /// Bytes of one request's body that may arrive before they are read. Default 64 KiB.
    pub stream_window: u32,
    /// The same for all requests of a connection together, beside what lies unread. Default 256 KiB.
    pub connection_window: u32,
    /// The same with what lies unread, up to which the window grows while there is memory. Default 8 MiB, as much as 128 requests hold
    /// whose bodies nobody reads: less would let them stop the others that share the connection. Memory: this much per connection.
    pub connection_window_most: u32,
    /// Largest frame accepted, in bytes. Default 16 KiB, the least there is: a frame is in memory as a whole before it is looked at.
    pub frame_bytes: u32,
    /// Requests that may be reset by their client before they were looked at. Default 20. Beyond it the connection ends (Rapid Reset,
    /// CVE-2023-44487).
    pub resets_unseen_most: usize,
    /// Streams that may end at once because of what their client got wrong; sixteen more in each second. Default 256. Beyond it the
    /// connection ends (MadeYouReset, CVE-2025-8671).
    pub error_resets_most: u32,
    /// Streams remembered after a reset, so that frames under way are told from those of no stream at all. Default 128, as many as may
    /// be open. Memory: four bytes each.
    pub resets_remembered: usize,
    /// Offer extended CONNECT (RFC 8441), by which WebSockets come. Default true.
    pub connect_protocol: bool,
    /// How often a client may ask whether we are there. Default none beside the allowance there is for all: 200 at once and 20 a second.
    pub pings: Option<PingRules>,
}

impl Default for ServerSettings {
    fn default() -> ServerSettings {
        ServerSettings {
            header_list_bytes: header_list(&Limits::default()),
            trailer_bytes: Limits::default().trailer_bytes,
            trailers_most: Limits::default().trailers,
            streams_most: 128,
            stream_window: 64 * 1024,
            connection_window: 256 * 1024,
            connection_window_most: 8 * 1024 * 1024,
            frame_bytes: 16 * 1024,
            resets_unseen_most: 20,
            error_resets_most: 256,
            resets_remembered: 128,
            connect_protocol: true,
            pings: None,
        }
    }
}

impl ServerSettings {
    /// Header lists and trailers of the size that `limits` allow.
    pub fn within(limits: &Limits) -> ServerSettings {
        ServerSettings {
            header_list_bytes: header_list(limits),
            trailer_bytes: limits.trailer_bytes,
            trailers_most: limits.trailers,
            ..ServerSettings::default()
        }
    }

    /// What the client is told of them.
    pub(crate) fn said(&self) -> Vec<(u16, u32)> {
        let mut said = vec![
            (frame::MAX_CONCURRENT_STREAMS, self.streams_most),
            (frame::INITIAL_WINDOW_SIZE, self.stream_window),
            (frame::MAX_FRAME_SIZE, self.frame_bytes),
            (frame::MAX_HEADER_LIST_SIZE, self.header_list_bytes),
        ];
        if self.connect_protocol {
            said.push((frame::ENABLE_CONNECT_PROTOCOL, 1));
        }
        said
    }
}

/// The side that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSettings {
    /// Largest header list of an answer, in bytes with 32 for each field. Default 69 KiB. Beyond it the answer is refused; beyond four
    /// times as much the connection ends.
    pub header_list_bytes: u32,
    /// Bytes of trailers that are kept until their body was read, and how many fields. Default 8 KiB and 32, see
    /// [`Limits::trailer_bytes`]. Beyond either the answer is refused. Memory: one per request.
    pub trailer_bytes: usize,
    pub trailers_most: usize,
    /// Interim answers (1xx) to one request that may wait to be read. Default 16. Beyond it the answer is refused.
    pub interim_most: usize,
    /// Requests sent at once before the server has said how many it takes. Default 100, which RFC 9113 asks every server to take.
    pub streams_at_first: usize,
    /// Bytes of one answer's body that may arrive before they are read. Default 128 KiB. Memory: this much per answer whose client
    /// reads slowly.
    pub stream_window: u32,
    /// The same for all answers of a connection together. Default 16 MiB, as much as 128 slow clients hold: less would let them stop
    /// the others that share the connection.
    pub connection_window: u32,
    /// Largest frame accepted, in bytes. Default 16 KiB.
    pub frame_bytes: u32,
    /// Streams that may end at once because of what the server got wrong; sixteen more in each second. Default 256. Beyond it the
    /// server is asked for nothing more, and beyond [`EXCESS_MOST`](crate::client::EXCESS_MOST) more the connection ends.
    pub error_resets_most: u32,
}

impl Default for ClientSettings {
    fn default() -> ClientSettings {
        ClientSettings {
            header_list_bytes: header_list(&Limits::default()),
            trailer_bytes: Limits::default().trailer_bytes,
            trailers_most: Limits::default().trailers,
            interim_most: 16,
            streams_at_first: 100,
            stream_window: 128 * 1024,
            connection_window: 16 * 1024 * 1024,
            frame_bytes: 16 * 1024,
            error_resets_most: 256,
        }
    }
}

impl ClientSettings {
    /// What the server is told of them. Nothing is accepted that was not asked for (no push).
    pub(crate) fn said(&self) -> [(u16, u32); 4] {
        [
            (frame::ENABLE_PUSH, 0),
            (frame::INITIAL_WINDOW_SIZE, self.stream_window),
            (frame::MAX_FRAME_SIZE, self.frame_bytes),
            (frame::MAX_HEADER_LIST_SIZE, self.header_list_bytes),
        ]
    }
}

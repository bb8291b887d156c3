//! Every bound of a QUIC connection, for both sides, with what it protects.

use crate::crypto::{ServerCrypto, VERSION_1};
use crate::keys::QuicKeys;
use quinn_proto::{EndpointConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt};
use std::sync::Arc;
use std::time::Duration;

/// See the module doc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuicSettings {
    /// Requests the other side may have open at once. Default 128. Protects memory: a stream holds a request, its answer's head and what
    /// waits of its answer.
    pub streams_most: u32,
    /// Streams of one direction a client may have open. Default 8: three that HTTP/3 has, and some that nobody knows.
    pub one_way_streams_most: u32,
    /// Bytes of one request's body that may arrive before they are read. Default 64 KiB.
    pub stream_window: u32,
    /// The same for all requests of a connection together at first. Default 256 KiB.
    pub connection_window: u32,
    /// Bytes of answers that a connection keeps until its client says that it has them. Default 512 KiB. It bounds what one
    /// connection sends in a round trip: 40 Mbit/s at 100 ms. Memory: this much for a client that says nothing.
    pub send_window: u64,
    /// Silence after which a connection is gone without a word. Default 60 s; longer than anything HTTP waits for while nobody has a
    /// reason to speak.
    pub idle: Duration,
    /// Bytes of a handshake that may come out of order. Default 16 KiB.
    pub handshake_bytes: usize,
    /// Bytes of datagrams (RFC 9221) that may wait, of those that have come and of those that are to go out each. Default 64 KiB. Beyond
    /// it they are dropped.
    pub datagram_bytes: usize,
}

impl Default for QuicSettings {
    fn default() -> QuicSettings {
        QuicSettings {
            streams_most: 128,
            one_way_streams_most: 8,
            stream_window: 64 * 1024,
            connection_window: 256 * 1024,
            send_window: 512 * 1024,
            idle: Duration::from_secs(60),
            handshake_bytes: 16 * 1024,
            datagram_bytes: 64 * 1024,
        }
    }
}

impl QuicSettings {
    /// Of connections that we make to servers. Those may open no requests; and since a connection carries those of many clients, its
    /// windows are larger: 256 KiB of one answer, 1 MiB of all of them and of what is sent, 256 KiB of datagrams.
    pub fn asking() -> QuicSettings {
        QuicSettings {
            streams_most: 0,
            stream_window: 256 * 1024,
            connection_window: 1024 * 1024,
            send_window: 1024 * 1024,
            datagram_bytes: 256 * 1024,
            ..QuicSettings::default()
        }
    }

    pub(crate) fn transport(&self) -> TransportConfig {
        let mut transport = TransportConfig::default();
        let idle = VarInt::try_from(self.idle.as_millis()).unwrap_or(VarInt::MAX);
        transport
            .max_concurrent_bidi_streams(self.streams_most.into())
            .max_concurrent_uni_streams(self.one_way_streams_most.into())
            .stream_receive_window(self.stream_window.into())
            .receive_window(self.connection_window.into())
            .send_window(self.send_window)
            .max_idle_timeout(Some(IdleTimeout::from(idle)))
            .crypto_buffer_size(self.handshake_bytes)
            // Nothing is said of rates to those who only watch.
            .allow_spin(false)
            .datagram_receive_buffer_size(Some(self.datagram_bytes))
            .datagram_send_buffer_size(self.datagram_bytes);
        transport
    }

    /// What new connections are made with. Migration is allowed: a client whose address changes keeps its connection.
    pub fn server(&self, crypto: Arc<ServerCrypto>, keys: &QuicKeys) -> Arc<ServerConfig> {
        let mut server = ServerConfig::new(crypto, keys.tokens.clone());
        server
            .transport_config(Arc::new(self.transport()))
            .max_incoming(INCOMING_MOST)
            .incoming_buffer_size(INCOMING_BYTES)
            .incoming_buffer_size_total(INCOMING_BYTES_TOTAL);
        Arc::new(server)
    }
}

/// What a worker's endpoint is made of.
pub(crate) fn endpoint(keys: &QuicKeys, place: crate::connection_id::Place) -> Arc<EndpointConfig> {
    let mut endpoint = EndpointConfig::new(keys.resets.clone());
    let keys = keys.clone();
    // Refused below 1,200 alone.
    let _ = endpoint.max_udp_payload_size(DATAGRAM_MOST);
    endpoint
        .supported_versions(vec![VERSION_1])
        .cid_generator(move || Box::new(crate::connection_id::Generator { place, keys: keys.clone() }));
    Arc::new(endpoint)
}

/// Longest datagram a client may send: in frames of 1,500 bytes it fits into a tunnel of IPv6 between two machines, whichever of them it
/// comes to.
const DATAGRAM_MOST: u16 = 1500 - (40 + 8 + 20) - (40 + 8);

/// Connections whose first packet was seen and that wait for their turn, per worker. Further first packets are dropped.
const INCOMING_MOST: usize = 256;

/// Bytes kept of what comes behind a first packet meanwhile, of one connection and of all of a worker's.
const INCOMING_BYTES: u64 = 8 * 1024;
const INCOMING_BYTES_TOTAL: u64 = 512 * 1024;

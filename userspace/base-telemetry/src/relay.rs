//! Statistics of TCPProxies and UDPProxies: what their workers count, and their metric families.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde_json::{Map, Value, json};

use crate::histogram::bump;
use crate::registry::Encoder;

/// Why a relayed connection ended, or never began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpEnd {
    /// Both sides have said all they had to say.
    Finished,
    /// Neither passed a byte for too long.
    Idle,
    /// The client broke it.
    Client,
    /// The server broke it.
    Server,
    /// No server could be connected to.
    NoServer,
    /// No rule fits what the client asked for.
    NoRoute,
    /// The client is one that may not come in, or has as many connections as it may have.
    Refused,
    /// The PROXY header was not as it must be, or came from nobody who may send one.
    ProxyHeader,
    /// TLS was not agreed on, or what came is none.
    Tls,
}

impl TcpEnd {
    pub const ALL: [TcpEnd; 9] = [
        TcpEnd::Finished,
        TcpEnd::Idle,
        TcpEnd::Client,
        TcpEnd::Server,
        TcpEnd::NoServer,
        TcpEnd::NoRoute,
        TcpEnd::Refused,
        TcpEnd::ProxyHeader,
        TcpEnd::Tls,
    ];

    /// As in logs and labels.
    pub const fn text(self) -> &'static str {
        match self {
            TcpEnd::Finished => "finished",
            TcpEnd::Idle => "idle",
            TcpEnd::Client => "client",
            TcpEnd::Server => "server",
            TcpEnd::NoServer => "no_server",
            TcpEnd::NoRoute => "no_route",
            TcpEnd::Refused => "refused",
            TcpEnd::ProxyHeader => "proxy_header",
            TcpEnd::Tls => "tls",
        }
    }
}

/// Why a datagram went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpDrop {
    /// There are as many sessions as there may be.
    Sessions,
    /// Its client has as many as it may have.
    SessionsPerIp,
    /// Its client may not come in.
    Refused,
    /// The PROXY header was not as it must be, or came from nobody who may send one.
    ProxyHeader,
    /// There was no server for it.
    NoServer,
    /// The kernel had no room, or would not send it.
    Unsent,
    /// It was longer than the worker's buffers.
    Truncated,
    /// There is no memory for another session.
    Memory,
}

impl UdpDrop {
    pub const ALL: [UdpDrop; 8] = [
        UdpDrop::Sessions,
        UdpDrop::SessionsPerIp,
        UdpDrop::Refused,
        UdpDrop::ProxyHeader,
        UdpDrop::NoServer,
        UdpDrop::Unsent,
        UdpDrop::Truncated,
        UdpDrop::Memory,
    ];

    /// As in labels.
    pub const fn text(self) -> &'static str {
        match self {
            UdpDrop::Sessions => "sessions",
            UdpDrop::SessionsPerIp => "sessions_per_ip",
            UdpDrop::Refused => "refused",
            UdpDrop::ProxyHeader => "proxy_header",
            UdpDrop::NoServer => "no_server",
            UdpDrop::Unsent => "unsent",
            UdpDrop::Truncated => "truncated",
            UdpDrop::Memory => "memory",
        }
    }
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpEnd {
    /// All answers that were expected have come.
    Answered,
    /// No datagram passed for too long.
    Idle,
    /// The server's machine says that nobody takes them.
    Refused,
    /// The listener ended, or its port is another.
    Stopped,
}

impl UdpEnd {
    pub const ALL: [UdpEnd; 4] = [UdpEnd::Answered, UdpEnd::Idle, UdpEnd::Refused, UdpEnd::Stopped];

    /// As in logs and labels.
    pub const fn text(self) -> &'static str {
        match self {
            UdpEnd::Answered => "answered",
            UdpEnd::Idle => "idle",
            UdpEnd::Refused => "refused",
            UdpEnd::Stopped => "stopped",
        }
    }
}

/// What one worker counts. Aligned so that two workers never share a cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    begun: AtomicU64,
    ended: [AtomicU64; TcpEnd::ALL.len()],
    dropped: [AtomicU64; UdpDrop::ALL.len()],
    /// From clients, and to them.
    bytes: [AtomicU64; 2],
    datagrams: [AtomicU64; 2],
}

/// The way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client.
    In,
    /// To the client.
    Out,
}

/// What is relayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayKind {
    Tcp,
    Udp,
}

/// Statistics of one TCPProxy or UDPProxy.
#[derive(Debug)]
pub struct RelayStats {
    name: String,
    kind: RelayKind,
    workers: Box<[Shard]>,
}

impl RelayStats {
    pub fn new(name: &str, kind: RelayKind, workers: usize) -> Arc<Self> {
        let workers = (0..workers.max(1)).map(|_| Shard::default()).collect();
        Arc::new(Self { name: name.to_owned(), kind, workers })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn kind(&self) -> RelayKind {
        self.kind
    }

    /// A connection was taken in, or a session began. As all that counts: called by this worker alone.
    pub fn begun(&self, worker: usize) {
        self.with(worker, |shard| bump(&shard.begun, 1));
    }

    pub fn tcp_ended(&self, worker: usize, end: TcpEnd) {
        self.with(worker, |shard| bump(&shard.ended[end as usize], 1));
    }

    pub fn udp_ended(&self, worker: usize, end: UdpEnd) {
        self.with(worker, |shard| bump(&shard.ended[end as usize], 1));
    }

    pub fn dropped(&self, worker: usize, why: UdpDrop, datagrams: u64) {
        self.with(worker, |shard| bump(&shard.dropped[why as usize], datagrams));
    }

    #[inline]
    pub fn passed(&self, worker: usize, way: Way, bytes: u64, datagrams: u64) {
        self.with(worker, |shard| {
            bump(&shard.bytes[way as usize], bytes);
            bump(&shard.datagrams[way as usize], datagrams);
        });
    }

    /// Connections or sessions that have begun and not ended.
    pub fn open(&self) -> u64 {
        let ended = (0..TcpEnd::ALL.len()).map(|end| self.sum(|shard| &shard.ended[end])).sum();
        self.sum(|shard| &shard.begun).saturating_sub(ended)
    }

    /// The figures of its status.
    pub fn status(&self) -> Map<String, Value> {
        let both = |of: fn(&Shard) -> &[AtomicU64; 2]| [0, 1].map(|way| self.sum(|shard| &of(shard)[way]));
        let [received, sent] = both(|shard| &shard.bytes);
        let mut status = Map::new();
        status.insert("total".into(), json!(self.sum(|shard| &shard.begun)));
        status.insert("receivedBytes".into(), json!(received));
        status.insert("sentBytes".into(), json!(sent));
        if self.kind == RelayKind::Udp {
            let [received, sent] = both(|shard| &shard.datagrams);
            status.insert("receivedDatagrams".into(), json!(received));
            status.insert("sentDatagrams".into(), json!(sent));
        }
        status
    }

    /// `weir_tcp_*` or `weir_udp_*`.
    pub fn encode(&self, encoder: &mut Encoder) {
        match self.kind {
            RelayKind::Tcp => self.encode_tcp(encoder),
            RelayKind::Udp => self.encode_udp(encoder),
        }
    }

    fn encode_tcp(&self, encoder: &mut Encoder) {
        let ours = [("server", self.name.as_str())];
        let help = "Connections of clients that are open, by server.";
        encoder.gauge("weir_tcp_connections", help, &ours, self.open() as f64);
        let help = "Connections of clients taken in, by server.";
        encoder.counter("weir_tcp_connections_total", help, &ours, self.sum(|shard| &shard.begun) as f64);
        for end in TcpEnd::ALL {
            let labels = [("server", self.name.as_str()), ("reason", end.text())];
            let n = self.sum(|shard| &shard.ended[end as usize]);
            encoder.counter("weir_tcp_ends_total", "Connections that ended, by server and reason.", &labels, n as f64);
        }
        let help = "Bytes received from clients and sent on, by server.";
        encoder.counter("weir_tcp_received_bytes_total", help, &ours, self.sum(|shard| &shard.bytes[0]) as f64);
        let help = "Bytes received from servers and sent to clients, by server.";
        encoder.counter("weir_tcp_sent_bytes_total", help, &ours, self.sum(|shard| &shard.bytes[1]) as f64);
    }

    fn encode_udp(&self, encoder: &mut Encoder) {
        let ours = [("server", self.name.as_str())];
        encoder.gauge("weir_udp_sessions", "Sessions that are open, by server.", &ours, self.open() as f64);
        let help = "Sessions begun, by server.";
        encoder.counter("weir_udp_sessions_total", help, &ours, self.sum(|shard| &shard.begun) as f64);
        for end in UdpEnd::ALL {
            let labels = [("server", self.name.as_str()), ("reason", end.text())];
            let n = self.sum(|shard| &shard.ended[end as usize]);
            encoder.counter("weir_udp_ends_total", "Sessions that ended, by server and reason.", &labels, n as f64);
        }
        for why in UdpDrop::ALL {
            let labels = [("server", self.name.as_str()), ("reason", why.text())];
            let n = self.sum(|shard| &shard.dropped[why as usize]);
            let help = "Datagrams that went no further, by server and reason.";
            encoder.counter("weir_udp_dropped_datagrams_total", help, &labels, n as f64);
        }
        let both = |of: fn(&Shard) -> &[AtomicU64; 2], way| self.sum(|shard| &of(shard)[way]) as f64;
        let (datagrams, bytes) =
            ([0, 1].map(|way| both(|s| &s.datagrams, way)), [0, 1].map(|way| both(|s| &s.bytes, way)));
        let help = "Datagrams received from clients, by server.";
        encoder.counter("weir_udp_received_datagrams_total", help, &ours, datagrams[0]);
        let help = "Datagrams sent to clients, by server.";
        encoder.counter("weir_udp_sent_datagrams_total", help, &ours, datagrams[1]);
        let help = "Bytes of datagrams received from clients, by server.";
        encoder.counter("weir_udp_received_bytes_total", help, &ours, bytes[0]);
        let help = "Bytes of datagrams sent to clients, by server.";
        encoder.counter("weir_udp_sent_bytes_total", help, &ours, bytes[1]);
    }

    fn sum(&self, counter: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        self.workers.iter().map(|shard| counter(shard).load(Relaxed)).sum()
    }

    #[inline]
    fn with(&self, worker: usize, count: impl FnOnce(&Shard)) {
        if let Some(shard) = self.workers.get(worker) {
            count(shard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Names;

    #[test]
    fn what_is_counted_is_shown() {
        let stats = RelayStats::new("db", RelayKind::Tcp, 2);
        stats.begun(0);
        stats.begun(1);
        stats.begun(7);
        stats.passed(1, Way::In, 10, 1);
        stats.passed(0, Way::Out, 20, 1);
        stats.tcp_ended(1, TcpEnd::Idle);
        assert_eq!(stats.open(), 1);
        let mut encoder = Encoder::new(Names::Own);
        stats.encode(&mut encoder);
        let text = encoder.finish();
        for line in [
            "weir_tcp_connections{server=\"db\"} 1",
            "weir_tcp_connections_total{server=\"db\"} 2",
            "weir_tcp_ends_total{server=\"db\",reason=\"idle\"} 1",
            "weir_tcp_received_bytes_total{server=\"db\"} 10",
            "weir_tcp_sent_bytes_total{server=\"db\"} 20",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}

//! A client of HTTP/3 that can do anything: quinn-proto's machine over a socket that is read and written here, streams byte by byte.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]

use base_quic::proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use base_quic::proto::{
    ClientConfig, Connection, ConnectionError, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig, Event,
    ReadError, ServerConfig, StreamEvent, StreamId, TransportConfig, VarInt,
};
use bytes::BytesMut;
use proto_h3::qpack::{self, Bounds, Section};
use proto_h3::{datagram, frame, message, varint};
use rcgen::{CertificateParams, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A certificate that signs itself, and the lines of a document that serve it.
pub struct Certificate {
    pub der: CertificateDer<'static>,
    pub pem: String,
    pub lines: String,
    key: Vec<u8>,
}

pub fn certificate(names: &[&str]) -> Certificate {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let quoted = |text: String| serde_json::Value::from(text).to_string();
    let lines =
        format!("https: true\ncertBase64: {}\nkeyBase64: {}\n", quoted(certificate.pem()), quoted(key.serialize_pem()));
    Certificate { der: certificate.der().clone(), pem: certificate.pem(), lines, key: key.serialize_der() }
}

/// Who trusts this certificate, and offers these protocols.
pub fn config(trusted: &CertificateDer<'static>, alpn: &[u8]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    // Sent where the server has said that it takes any, to who connects again with the same configuration.
    tls.enable_early_data = true;
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(None);
    config.transport_config(Arc::new(transport));
    config
}

/// A client, or the other side of one.
pub struct Client {
    pub socket: UdpSocket,
    pub endpoint: Endpoint,
    pub handle: ConnectionHandle,
    pub connection: Connection,
    pub peer: SocketAddr,
    pub connected: bool,
    pub lost: Option<ConnectionError>,
    /// What came of each stream, and how it ended: `Some(code)` where it was reset.
    pub came: HashMap<StreamId, Vec<u8>>,
    pub ended: HashMap<StreamId, Option<u64>>,
    pub stopped: HashMap<StreamId, u64>,
    /// Datagrams that came beside the streams.
    pub datagrams: Vec<Vec<u8>>,
    /// Streams of which nothing is read.
    pub unread: HashSet<StreamId>,
    /// Goes without a word.
    pub silent: bool,
    /// As many datagrams of UDP are received before anything is done about them, and every so many of them is lost; 0: none.
    pub at_a_time: usize,
    pub loses: usize,
    /// Those that are longer are lost as well.
    pub longest: usize,
    /// Lengths of those that came, lost or not.
    pub heard: Vec<usize>,
    /// All that was sent.
    pub sent: Vec<Vec<u8>>,
    queue: HashMap<StreamId, (VecDeque<u8>, bool)>,
}

/// An answer, with those that came before it.
#[derive(Debug, Default, Clone)]
pub struct Answer {
    pub heads: Vec<Vec<(String, String)>>,
    pub body: Vec<u8>,
    /// The code its stream was reset with.
    pub reset: Option<u64>,
    pub ended: bool,
}

impl Answer {
    pub fn status(&self) -> u16 {
        let status =
            |head: &Vec<(String, String)>| Some(head.iter().find(|(name, _)| name == ":status")?.1.parse().unwrap());
        self.heads.iter().filter_map(status).find(|status| *status >= 200).unwrap_or(0)
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.heads.iter().flatten().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub fn bound_socket() -> UdpSocket {
    socket_at("127.0.0.1")
}

pub fn socket_at(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind((address, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
    socket
}

impl Client {
    /// Begins a connection; nothing was sent yet.
    pub fn begin(port: u16, name: &str, config: ClientConfig) -> Client {
        Client::begin_from(bound_socket(), SocketAddr::from(([127, 0, 0, 1], port)), name, config)
    }

    /// The same, to an address of another host.
    pub fn begin_from(socket: UdpSocket, peer: SocketAddr, name: &str, config: ClientConfig) -> Client {
        Client::begin_as(socket, peer, name, config, EndpointConfig::default())
    }

    pub fn begin_as(
        socket: UdpSocket,
        peer: SocketAddr,
        name: &str,
        config: ClientConfig,
        endpoint: EndpointConfig,
    ) -> Client {
        let mut endpoint = Endpoint::new(Arc::new(endpoint), None, true, None);
        let (handle, connection) = endpoint.connect(Instant::now(), config, peer, name).unwrap();
        Client::of(socket, endpoint, handle, connection, peer)
    }

    /// The side of a server of HTTP/3: of the first connection that somebody makes to this socket.
    pub fn accept(socket: UdpSocket, certificate: &Certificate) -> Client {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(certificate.key.clone()));
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der.clone()], key)
            .unwrap();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        let mut endpoint = Endpoint::new(Arc::default(), Some(Arc::new(server)), true, None);
        let mut bytes = [0; 2048];
        let end = Instant::now() + Duration::from_secs(60);
        while Instant::now() < end {
            let Ok((n, from)) = socket.recv_from(&mut bytes) else { continue };
            let mut answer = Vec::new();
            let event = endpoint.handle(Instant::now(), from, None, None, BytesMut::from(&bytes[..n]), &mut answer);
            if let Some(DatagramEvent::NewConnection(incoming)) = event {
                let taken = endpoint.accept(incoming, Instant::now(), &mut answer, None);
                let (handle, connection) = taken.map_err(|error| error.cause).unwrap();
                return Client::of(socket, endpoint, handle, connection, from);
            }
        }
        panic!("nobody connects");
    }

    fn of(
        socket: UdpSocket,
        endpoint: Endpoint,
        handle: ConnectionHandle,
        connection: Connection,
        peer: SocketAddr,
    ) -> Client {
        Client {
            socket,
            endpoint,
            handle,
            connection,
            peer,
            connected: false,
            lost: None,
            came: HashMap::new(),
            ended: HashMap::new(),
            stopped: HashMap::new(),
            datagrams: Vec::new(),
            unread: HashSet::new(),
            silent: false,
            at_a_time: 64,
            loses: 0,
            longest: usize::MAX,
            heard: Vec::new(),
            sent: Vec::new(),
            queue: HashMap::new(),
        }
    }

    /// Begins a handshake, shows its address where it has to, and says nothing more.
    pub fn begin_and_leave(port: u16, certificate: &Certificate) {
        let mut client = Client::begin(port, "a.test", config(&certificate.der, b"h3"));
        client.silent = true;
        client.transmit();
        let mut bytes = [0; 2048];
        client.socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let Ok((n, from)) = client.socket.recv_from(&mut bytes) else { return };
        // A Retry (RFC 9000 section 17.2.5).
        if bytes[0] & 0xf0 == 0xf0 {
            client.hear(from, &bytes[..n]);
            client.transmit();
        }
    }

    /// A connection that has shaken hands and said its settings.
    pub fn connect(port: u16, certificate: &Certificate) -> Client {
        let mut client = Client::begin(port, "a.test", config(&certificate.der, b"h3"));
        assert!(client.drive(|client| client.connected), "{:?}", client.lost);
        client.settle_in();
        client
    }

    pub fn settle_in(&mut self) {
        let control = self.open(Dir::Uni);
        self.send(control, &[0, 4, 0], false);
    }

    /// As [`Client::connect`], and says that it takes datagrams of its requests.
    pub fn connect_for_datagrams(port: u16, certificate: &Certificate) -> Client {
        Client::begin_for_datagrams(port, config(&certificate.der, b"h3"))
    }

    pub fn begin_for_datagrams(port: u16, config: ClientConfig) -> Client {
        Client::begin(port, "a.test", config).settled_in_for_datagrams()
    }

    pub fn settled_in_for_datagrams(mut self) -> Client {
        assert!(self.drive(|client| client.connected), "{:?}", self.lost);
        let control = self.open(Dir::Uni);
        self.send(control, &[0, 4, 2, 0x33, 1], false);
        self
    }

    /// Sends a datagram of a request, which may not have been sent.
    pub fn send_datagram(&mut self, number: u64, content: &[u8]) {
        let datagram = datagram::encode(number, content);
        self.connection.datagrams().send(datagram.into(), true).unwrap();
        self.transmit();
    }

    /// Contents of the datagrams that came of a request.
    pub fn datagrams_of(&self, id: StreamId) -> Vec<Vec<u8>> {
        let read = |datagram: &Vec<u8>| datagram::decode(datagram.clone().into()).unwrap();
        let of = self.datagrams.iter().map(read).filter(|(number, _)| *number == id.index());
        of.map(|(_, content)| content.to_vec()).collect()
    }

    pub fn open(&mut self, dir: Dir) -> StreamId {
        for _ in 0..2 {
            if let Some(id) = self.connection.streams().open(dir) {
                return id;
            }
            let mut opened = None;
            self.drive(|client| {
                opened = client.connection.streams().open(dir);
                opened.is_some() || client.lost.is_some()
            });
            if let Some(id) = opened {
                return id;
            }
        }
        panic!("no stream may be opened: {:?}", self.lost);
    }

    /// Queues bytes; they go out as far as windows let them while the client is driven.
    pub fn send(&mut self, id: StreamId, bytes: &[u8], ends: bool) {
        let (queue, end) = self.queue.entry(id).or_default();
        queue.extend(bytes);
        *end |= ends;
        self.pump();
        self.transmit();
    }

    pub fn reset(&mut self, id: StreamId, code: u32) {
        self.queue.remove(&id);
        let _ = self.connection.send_stream(id).reset(VarInt::from_u32(code));
    }

    pub fn stop(&mut self, id: StreamId, code: u32) {
        let _ = self.connection.recv_stream(id).stop(VarInt::from_u32(code));
    }

    /// Sends a whole request.
    pub fn request(&mut self, fields: &[(&str, &str)], body: &[u8]) -> StreamId {
        let id = self.open(Dir::Bi);
        let mut bytes = head(fields);
        if !body.is_empty() {
            frame::begin(frame::DATA, body.len() as u64, &mut bytes);
            bytes.extend_from_slice(body);
        }
        self.send(id, &bytes, true);
        id
    }

    pub fn get(&mut self, path: &str) -> Answer {
        let id = self.request(&get(path), b"");
        self.answer(id)
    }

    /// Waits for the answer's end.
    pub fn answer(&mut self, id: StreamId) -> Answer {
        self.drive(|client| client.ended.contains_key(&id) || client.lost.is_some());
        self.so_far(id)
    }

    /// What has come of an answer.
    pub fn so_far(&self, id: StreamId) -> Answer {
        let mut answer = Answer { ended: self.ended.contains_key(&id), ..Answer::default() };
        answer.reset = self.ended.get(&id).copied().flatten();
        let mut rest = self.came.get(&id).map_or(&[][..], |came| came.as_slice());
        while let Some((kind, length)) = header(&mut rest) {
            let taken = (length as usize).min(rest.len());
            let (payload, after) = rest.split_at(taken);
            rest = after;
            match kind {
                frame::HEADERS if taken == length as usize => {
                    let mut section = Section::default();
                    qpack::decode(payload, &Bounds { bytes: 1 << 20, fields: 1 << 10 }, &mut section).unwrap();
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    answer.heads.push(section.iter().map(|(name, value)| (text(name), text(value))).collect());
                }
                frame::DATA => answer.body.extend_from_slice(payload),
                _ => {}
            }
        }
        answer
    }

    /// The code the server ended the connection with, as HTTP/3 has it.
    pub fn closed(&mut self) -> Option<u64> {
        self.drive(|client| client.lost.is_some());
        match &self.lost {
            Some(ConnectionError::ApplicationClosed(close)) => Some(close.error_code.into_inner()),
            _ => None,
        }
    }

    /// What the server said on its control stream.
    pub fn control(&self) -> &[u8] {
        self.came.iter().find(|(id, _)| id.dir() == Dir::Uni).map_or(&[], |(_, came)| came.as_slice())
    }

    /// Goes on until it holds; false when it does not within a minute.
    pub fn drive(&mut self, until: impl FnMut(&mut Client) -> bool) -> bool {
        self.drive_for(Duration::from_secs(60), until)
    }

    pub fn drive_for(&mut self, patience: Duration, mut until: impl FnMut(&mut Client) -> bool) -> bool {
        let end = Instant::now() + patience;
        loop {
            self.turn();
            if until(self) {
                self.transmit();
                return true;
            }
            if Instant::now() > end {
                return false;
            }
            self.receive();
        }
    }

    fn turn(&mut self) {
        let now = Instant::now();
        if self.connection.poll_timeout().is_some_and(|at| at <= now) {
            self.connection.handle_timeout(now);
        }
        while let Some(event) = self.connection.poll_endpoint_events() {
            if let Some(answer) = self.endpoint.handle_event(self.handle, event) {
                self.connection.handle_event(answer);
            }
        }
        while let Some(event) = self.connection.poll() {
            match event {
                Event::Connected => self.connected = true,
                Event::ConnectionLost { reason } => self.lost = Some(reason),
                Event::Stream(StreamEvent::Opened { dir }) => {
                    while let Some(id) = self.connection.streams().accept(dir) {
                        self.read(id);
                    }
                }
                Event::Stream(StreamEvent::Readable { id }) => self.read(id),
                Event::Stream(StreamEvent::Stopped { id, error_code }) => {
                    self.stopped.insert(id, error_code.into_inner());
                    self.queue.remove(&id);
                }
                Event::DatagramReceived => {
                    while let Some(datagram) = self.connection.datagrams().recv() {
                        self.datagrams.push(datagram.to_vec());
                    }
                }
                _ => {}
            }
        }
        self.pump();
        self.transmit();
    }

    fn pump(&mut self) {
        for (id, (queue, end)) in &mut self.queue {
            while !queue.is_empty() {
                match self.connection.send_stream(*id).write(queue.make_contiguous()) {
                    Ok(n) => drop(queue.drain(..n)),
                    Err(_) => break,
                }
            }
            if *end && queue.is_empty() {
                let _ = self.connection.send_stream(*id).finish();
            }
        }
        self.queue.retain(|_, (queue, _)| !queue.is_empty());
    }

    pub fn read(&mut self, id: StreamId) {
        if self.unread.contains(&id) {
            return;
        }
        let mut stream = self.connection.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else { return };
        loop {
            match chunks.next(1 << 16) {
                Ok(Some(chunk)) => self.came.entry(id).or_default().extend_from_slice(&chunk.bytes),
                Ok(None) => {
                    self.ended.insert(id, None);
                    break;
                }
                Err(ReadError::Reset(code)) => {
                    self.ended.insert(id, Some(code.into_inner()));
                    break;
                }
                Err(ReadError::Blocked) => break,
            }
        }
        let _ = chunks.finalize();
    }

    pub fn transmit(&mut self) {
        let mut buffer = Vec::new();
        while let Some(transmit) = self.connection.poll_transmit(Instant::now(), 1, &mut buffer) {
            let _ = self.socket.send_to(&buffer[..transmit.size], transmit.destination);
            self.sent.push(buffer[..transmit.size].to_vec());
            buffer.clear();
        }
    }

    fn receive(&mut self) {
        let mut bytes = [0; 2048];
        let mut waits = true;
        for _ in 0..self.at_a_time {
            self.socket.set_nonblocking(!waits).unwrap();
            let Ok((n, from)) = self.socket.recv_from(&mut bytes) else { return };
            waits = false;
            self.heard.push(n);
            if n <= self.longest && (self.loses == 0 || !self.heard.len().is_multiple_of(self.loses)) {
                self.hear(from, &bytes[..n]);
            }
        }
    }

    fn hear(&mut self, from: SocketAddr, datagram: &[u8]) {
        let mut answer = Vec::new();
        let event = self.endpoint.handle(Instant::now(), from, None, None, BytesMut::from(datagram), &mut answer);
        if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
            self.connection.handle_event(event);
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if !self.silent {
            self.connection.close(Instant::now(), VarInt::from_u32(0x100), Default::default());
            self.transmit();
        }
    }
}

fn header(rest: &mut &[u8]) -> Option<(u64, u64)> {
    let (kind, first) = varint::decode(rest)?;
    let (length, second) = varint::decode(&rest[first..])?;
    *rest = &rest[first + second..];
    Some((kind, length))
}

pub fn get(path: &str) -> [(&str, &str); 4] {
    [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", path)]
}

pub fn post(path: &str) -> [(&str, &str); 4] {
    [(":method", "POST"), (":scheme", "https"), (":authority", "a.test"), (":path", path)]
}

/// A HEADERS frame.
pub fn head(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    message::write_section(&mut bytes, |into| {
        fields.iter().for_each(|(name, value)| qpack::field(name.as_bytes(), value.as_bytes(), into));
    });
    bytes
}

pub fn data(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::begin(frame::DATA, body.len() as u64, &mut bytes);
    bytes.extend_from_slice(body);
    bytes
}

pub fn any_frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::begin(kind, payload.len() as u64, &mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

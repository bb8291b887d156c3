//! The side that connects: each connection has a socket of its own, connected to its server, so that nobody else is heard over it and the
//! network's answers to what is sent (a port that nobody listens on) are known to be about this server.

use crate::connection::{Connection, Driver};
use crate::crypto::{ClientCrypto, VERSION_1};
use crate::endpoint::{RECEIVED, Socket, codepoint};
use crate::settings::QuicSettings;
use aws_lc_rs::hmac;
use base_runtime::net::udp::{Received, UdpOptions, UdpSocket};
use base_tls::ClientTls;
use bytes::BytesMut;
use quinn_proto::{ConnectError, DatagramEvent, EndpointConfig};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

/// Ready to connect under one identity; cheap to clone, shared by all workers.
#[derive(Clone, Debug)]
pub struct Client {
    config: quinn_proto::ClientConfig,
}

impl Client {
    /// `None` when the provider of TLS lacks the cipher suite that QUIC begins with.
    pub fn new(tls: &ClientTls, settings: &QuicSettings) -> Option<Client> {
        let mut config = quinn_proto::ClientConfig::new(ClientCrypto::new(tls.quic().clone())?);
        config.transport_config(Arc::new(settings.transport())).version(VERSION_1);
        Some(Client { config })
    }

    /// Begins to connect to a server, whose certificate must be for `name`: a DNS name, or an address without brackets. Whoever drives
    /// it hears when the handshake is over.
    pub fn connect(&self, remote: SocketAddr, name: &str) -> io::Result<Driver> {
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        let options = UdpOptions { dont_fragment: true, packet_info: false, ..UdpOptions::default() };
        let socket = UdpSocket::connect(remote, &options)?;
        let socket = Socket::new(socket, quinn_proto::Endpoint::new(endpoint(), None, true, None));
        let begun = socket.machine.borrow_mut().connect(base_runtime::now(), self.config.clone(), remote, name);
        let (handle, machine) = begun.map_err(|error| match error {
            ConnectError::InvalidServerName(_) => {
                io::Error::other("its name is neither a DNS name nor an address without brackets")
            }
            error => io::Error::other(error),
        })?;
        let connection = Connection::new(machine, handle, &socket, None);
        socket.add(&connection);
        let mut receiving = Receiving { socket, connection: connection.clone() };
        base_runtime::spawn(async move { poll_fn(|cx| receiving.poll(cx)).await }).detach();
        Ok(Driver::new(connection))
    }
}

/// No two processes answer for the same connection here, so the key of resets is one for the life of this one.
fn endpoint() -> Arc<EndpointConfig> {
    static CONFIG: OnceLock<Arc<EndpointConfig>> = OnceLock::new();
    let made = || {
        let mut key = [0; 32];
        // Without randomness nothing of TLS would go on either.
        aws_lc_rs::rand::fill(&mut key).expect("the operating system gives random bytes");
        let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &key)));
        config.supported_versions(vec![VERSION_1]);
        Arc::new(config)
    };
    CONFIG.get_or_init(made).clone()
}

/// Takes in what comes over one socket, for as long as its connection is driven.
struct Receiving {
    socket: Rc<Socket>,
    connection: Connection,
}

impl Receiving {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.begin(cx);
        if !self.socket.has_connections() {
            return Poll::Ready(());
        }
        for left in (0..RECEIVED).rev() {
            match self.socket.socket.poll_recv(cx) {
                Poll::Ready(Ok(received)) => self.handle_received(&received),
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::NotConnected => return Poll::Ready(()),
                Poll::Ready(Err(error)) => {
                    if let Some(errno) = error.raw_os_error() {
                        self.connection.handle_refused(errno);
                    }
                }
                Poll::Pending => break,
            }
            if left == 0 {
                cx.waker().wake_by_ref();
            }
        }
        self.socket.poll_room(cx);
        Poll::Pending
    }

    fn handle_received(&mut self, received: &Received) {
        let (meta, now) = (received.meta(), base_runtime::now());
        if meta.truncated {
            return;
        }
        for segment in received.segments() {
            let (ecn, mut answer) = (codepoint(meta.ecn), Vec::new());
            let (bytes, contents) = (segment.len(), BytesMut::from(segment));
            let mut machine = self.socket.machine.borrow_mut();
            let event = machine.handle(now, meta.source, None, ecn, contents, &mut answer);
            drop(machine);
            match event {
                Some(DatagramEvent::ConnectionEvent(_, event)) => self.connection.handle_event(event, bytes),
                Some(DatagramEvent::Response(transmit)) => {
                    let _ = self.socket.send(&transmit, &answer[..transmit.size]);
                }
                Some(DatagramEvent::NewConnection(incoming)) => self.socket.machine.borrow_mut().ignore(incoming),
                None => {}
            }
        }
    }
}

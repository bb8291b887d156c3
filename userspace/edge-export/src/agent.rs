//! A Jaeger agent: packets of UDP. Nobody says whether they arrive; only that nobody listens there is told, by the next one sent.

use crate::exporter::Outcome;
use bytes::Bytes;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};

pub(crate) struct Agent {
    /// `host:port`.
    place: String,
    socket: Option<UdpSocket>,
}

impl Agent {
    /// Bytes of a packet, at most, as Jaeger's own clients send them.
    pub(crate) const PACKET_MOST: usize = 65_000;

    pub(crate) fn new(place: &str) -> Agent {
        Agent { place: place.to_owned(), socket: None }
    }

    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// Sends the packets; all of them again later where one could not be sent.
    pub(crate) fn send(&mut self, packets: &[Bytes]) -> Outcome {
        let mut send = || -> io::Result<()> {
            let socket = match &mut self.socket {
                Some(socket) => socket,
                none => none.insert(connect(&self.place)?),
            };
            packets.iter().try_for_each(|packet| socket.send(packet).map(drop))
        };
        match send() {
            Ok(()) => Outcome::Taken,
            Err(error) => {
                // The host may have got another address.
                self.socket = None;
                Outcome::Later(None, error.to_string())
            }
        }
    }
}

fn connect(place: &str) -> io::Result<UdpSocket> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in place.to_socket_addrs()? {
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        match UdpSocket::bind(any).and_then(|socket| socket.connect(address).map(|()| socket)) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

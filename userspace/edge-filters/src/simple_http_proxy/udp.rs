//! UDP through a forward proxy (RFC 9298): whom a client asks for, and the tunnel to it.

use base_runtime::Buf;
use base_runtime::memory::{Booking, Kind};
use base_runtime::net::udp::{Transmit, UdpOptions, UdpSocket};
use base_telemetry::Limit;
use edge_pipeline::Duplex;
use proto_h3::capsule::{self, DATAGRAM_MOST, Split, Splitter};
use proto_h3::varint;
use proto_http::h1::offered_upgrade;
use proto_http::{Protocol, Request, authority};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll, ready};

/// Where every client finds it without being told (RFC 9298 section 2): host and port follow, each a segment.
const WELL_KNOWN: &str = "/.well-known/masque/udp/";

/// The context of datagrams that are payloads of UDP (section 4), as it begins each.
const PAYLOAD: u8 = 0;

/// EMSGSIZE of Linux.
const MESSAGE_TOO_LONG: i32 = 90;

/// What can be sent in one buffer.
const PIECE: usize = Buf::CAPACITY - Buf::HEADROOM;

/// Host and port that a request asks for a tunnel of UDP to; an error where it names none. `None`: it asks for something else. Whom it
/// asks is not looked at: HTTP/1.1, too, says that in a whole URL (section 3.2).
pub fn asked_for(request: &Request, offers: bool) -> Option<Result<(String, u16), ()>> {
    let asks = offers && offered_upgrade(&request.headers) == Some(Protocol::ConnectUdp);
    let target = request.path.as_str().strip_prefix(WELL_KNOWN).filter(|_| asks)?;
    Some(read(target.strip_suffix('/').unwrap_or(target)).ok_or(()))
}

fn read(target: &str) -> Option<(String, u16)> {
    let (host, port) = target.split_once('/')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    // What stands between the groups of an address is escaped in a segment.
    let host = host.replace("%3A", ":").to_ascii_lowercase();
    let is_name = matches!(authority::split(host.as_bytes()), Some((_, None)));
    (host.parse::<IpAddr>().is_ok() || is_name && !host.starts_with('[')).then_some((host, port))
}

/// The way to one destination. To its client it says and takes capsules; each datagram is one of UDP.
pub struct UdpTunnel {
    socket: UdpSocket,
    /// What has come and was not taken.
    coming: RefCell<Vec<u8>>,
    going: RefCell<Splitter>,
    /// The client has said that this is the end.
    is_over: Cell<bool>,
    booking: Booking,
    dropped: Limit,
}

impl UdpTunnel {
    /// To the first of these addresses that this machine has a way to.
    pub fn open(addresses: &[SocketAddr], dropped: Limit) -> io::Result<UdpTunnel> {
        // What is longer than the path carries is the client's to learn of by its loss (section 3.1), not to be put together again.
        let options = UdpOptions { dont_fragment: true, packet_info: false, ..UdpOptions::default() };
        let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses {
            match UdpSocket::connect(*address, &options) {
                Ok(socket) => {
                    let (coming, going) = (RefCell::default(), RefCell::default());
                    let booking = Booking::new(Kind::Bodies, 0);
                    return Ok(UdpTunnel { socket, coming, going, is_over: Cell::new(false), booking, dropped });
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    fn drop_one(&self) {
        self.dropped.hit(base_runtime::worker_index());
    }

    fn book(&self) {
        self.booking.set(self.coming.borrow().len() + self.going.borrow().held());
    }

    /// At most a piece of what has come.
    fn take_piece(&self) -> Option<Buf> {
        let mut coming = self.coming.borrow_mut();
        let length = coming.len().min(PIECE);
        let rest = coming.split_off(length);
        let piece = std::mem::replace(&mut *coming, rest);
        drop(coming);
        self.book();
        (!piece.is_empty()).then(|| Buf::copy_from(&piece))
    }
}

impl fmt::Debug for UdpTunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpTunnel").field("peer", &self.socket.peer_addr().ok()).finish()
    }
}

impl Duplex for UdpTunnel {
    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Buf>>> {
        if self.is_over.get() {
            return Poll::Ready(Ok(None));
        }
        if let Some(piece) = self.take_piece() {
            return Poll::Ready(Ok(Some(piece)));
        }
        let received = loop {
            match ready!(self.socket.poll_recv(cx)) {
                // A router says that one was too long for the way. Anybody on the way may say so, and whoever probes the way's width
                // (RFC 9000 section 14.4) wants to hear nothing else than that it was lost.
                Err(error) if error.raw_os_error() == Some(MESSAGE_TOO_LONG) => self.drop_one(),
                received => break received?,
            }
        };
        let mut coming = self.coming.borrow_mut();
        for payload in received.segments() {
            capsule::begin(capsule::DATAGRAM, payload.len() as u64 + 1, &mut coming);
            coming.push(PAYLOAD);
            coming.extend_from_slice(payload);
        }
        drop(coming);
        Poll::Ready(Ok(self.take_piece()))
    }

    /// Datagrams wait for nobody.
    fn poll_send_ready(&self, cx: &mut Context<'_>, _: usize) -> Poll<io::Result<()>> {
        // Why one of before was not sent: it is longer than the way is wide.
        if matches!(self.socket.poll_send_ready(cx), Poll::Ready(Err(_))) {
            self.drop_one();
        }
        Poll::Ready(Ok(()))
    }

    fn send(&self, bytes: Buf) {
        let mut split = Split::default();
        self.going.borrow_mut().handle(&bytes, true, &mut split);
        self.book();
        // Other capsules mean nothing to UDP (RFC 9297 section 3.2), nor do contexts that were not agreed on (RFC 9298 section 4).
        for datagram in &split.datagrams {
            if let Some((0, length)) = varint::decode(datagram)
                && self.socket.send(&Transmit::connected(&datagram[length..])).is_err()
            {
                self.drop_one();
            }
        }
        (0..split.too_long).for_each(|_| self.drop_one());
    }

    /// With the stream the destination is left (RFC 9298 section 3.1).
    fn shutdown(&self) {
        self.is_over.set(true);
    }

    fn abort(&self) {
        self.is_over.set(true);
    }
}

const _: () = assert!(DATAGRAM_MOST > 65_507, "every payload of UDP is taken");

#[cfg(test)]
mod tests {
    use super::*;
    use proto_http::Method;

    fn asked(path: &str, upgrade: &str) -> Option<Result<(String, u16), ()>> {
        let mut request = Request { method: Method::Get, ..Request::default() };
        request.set_target(path.as_bytes()).unwrap();
        request.headers.add("Upgrade", upgrade);
        asked_for(&request, true)
    }

    #[test]
    fn a_request_names_its_destination() {
        let at = |path: &str| asked(path, "connect-udp");
        let to = |host: &str, port| Some(Ok((host.to_owned(), port)));
        assert_eq!(at("/.well-known/masque/udp/192.0.2.6/443/"), to("192.0.2.6", 443));
        assert_eq!(at("/.well-known/masque/udp/Target.Example/53"), to("target.example", 53));
        assert_eq!(at("/.well-known/masque/udp/2001%3Adb8%3A%3A42/443/"), to("2001:db8::42", 443));
        for wrong in
            ["", "a", "a/", "a/0/", "a/65536/", "a/x/", "/1/", "a/1/b/", "a%3A1/1/", "%5B%3A%3A1%5D/1/", "a%20b/1/"]
        {
            assert_eq!(at(&format!("/.well-known/masque/udp/{wrong}")), Some(Err(())), "{wrong}");
        }
        assert_eq!(at("/other/192.0.2.6/443/"), None);
    }

    #[test]
    fn what_is_not_to_go_on_so_is_none() {
        let path = "/.well-known/masque/udp/192.0.2.6/443/";
        assert_eq!(asked(path, "websocket"), None);
        assert_eq!(asked(path, ""), None);
    }
}

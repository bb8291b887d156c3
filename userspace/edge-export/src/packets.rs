//! Packets of UDP to a host by its name. Nobody says whether they arrive. What can be known is that nobody listens at an address, which
//! that machine says a moment later, or when the next packet is sent; and that a name has got other addresses, which is looked up now
//! and then, because a host that has moved says nothing at all.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long addresses of a name count before it is looked up again.
const KNOWN_FOR: Duration = Duration::from_secs(30);

/// How long a look-up is waited for. It goes on by itself, and the next try finds what it has found.
const LOOK_UP_MOST: Duration = Duration::from_secs(5);

/// Between two looks whether there is still time.
const LOOK: Duration = Duration::from_millis(50);

/// How long it takes to hear that nobody listens, as a rule.
const SETTLE: Duration = Duration::from_millis(5);

/// See the module doc.
pub(crate) struct Packets {
    /// `host:port`.
    place: String,
    addresses: Vec<SocketAddr>,
    /// Which of them is sent to.
    at: usize,
    socket: Option<UdpSocket>,
    looked_up: Option<Instant>,
    /// A look-up under way.
    looking: Option<Receiver<io::Result<Vec<SocketAddr>>>>,
    /// Things in what was sent last.
    last: u64,
    /// Things that count as sent, and that nobody was there for.
    unheard: u64,
}

impl Packets {
    pub(crate) fn new(place: &str) -> Packets {
        Packets {
            place: place.to_owned(),
            addresses: Vec::new(),
            at: 0,
            socket: None,
            looked_up: None,
            looking: None,
            last: 0,
            unheard: 0,
        }
    }

    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// How many things counted as sent, and were not heard, since this was asked last.
    pub(crate) fn unheard(&mut self) -> u64 {
        std::mem::take(&mut self.unheard)
    }

    /// Sends packets that so many things are in; all of them again later where it fails, and to the next address.
    pub(crate) fn send<'p>(
        &mut self,
        packets: impl IntoIterator<Item = &'p [u8]>,
        things: u64,
        until: &dyn Fn() -> Option<Instant>,
    ) -> io::Result<()> {
        let late = self.socket.as_ref().map_or(Ok(None), UdpSocket::take_error);
        if let Ok(Some(_)) | Err(_) = late {
            self.unheard += std::mem::take(&mut self.last);
            self.go_on();
        }
        let sent = self.try_send(packets, until);
        match sent {
            Ok(()) => self.last = things,
            Err(_) => self.go_on(),
        }
        sent
    }

    fn try_send<'p>(
        &mut self,
        packets: impl IntoIterator<Item = &'p [u8]>,
        until: &dyn Fn() -> Option<Instant>,
    ) -> io::Result<()> {
        self.look_up(until)?;
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => none.insert(connect(self.addresses[self.at % self.addresses.len()])?),
        };
        packets.into_iter().try_for_each(|packet| socket.send(packet).map(drop))?;
        thread::sleep(SETTLE);
        socket.take_error()?.map_or(Ok(()), Err)
    }

    /// The next address has its turn.
    fn go_on(&mut self) {
        self.socket = None;
        self.last = 0;
        self.at = self.at.wrapping_add(1);
    }

    /// Has at least one address when it returns, none of them much older than [`KNOWN_FOR`] where the name can be looked up.
    fn look_up(&mut self, until: &dyn Fn() -> Option<Instant>) -> io::Result<()> {
        if self.looked_up.is_some_and(|at| at.elapsed() < KNOWN_FOR) && !self.addresses.is_empty() {
            return Ok(());
        }
        let found = self.looked(until);
        self.looked_up = Some(Instant::now());
        match found {
            Ok(found) => {
                let current = self.addresses.get(self.at % self.addresses.len().max(1));
                // The one that is sent to stays where it is still one of them.
                match current.and_then(|current| found.iter().position(|known| known == current)) {
                    Some(at) => self.at = at,
                    None => (self.at, self.socket) = (0, None),
                }
                self.addresses = found;
                Ok(())
            }
            // What was known is better than nothing.
            Err(_) if !self.addresses.is_empty() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Looks the name up on a thread of its own: the system's way to do that knows no end.
    fn looked(&mut self, until: &dyn Fn() -> Option<Instant>) -> io::Result<Vec<SocketAddr>> {
        let looking = match self.looking.take() {
            Some(looking) => looking,
            None => {
                let (found, looking) = sync_channel(1);
                let place = self.place.clone();
                let look_up = move || drop(found.send(place.to_socket_addrs().map(Iterator::collect)));
                thread::Builder::new().name("look-up".into()).spawn(look_up)?;
                looking
            }
        };
        let last = Instant::now() + LOOK_UP_MOST;
        loop {
            match looking.recv_timeout(LOOK) {
                Ok(Ok(found)) if found.is_empty() => {
                    return Err(io::Error::new(ErrorKind::NotFound, "the host has no address"));
                }
                Ok(found) => return found,
                Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("the host was not looked up")),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= until().map_or(last, |until| until.min(last)) => {
                    self.looking = Some(looking);
                    return Err(io::Error::new(ErrorKind::TimedOut, "nobody says what address the host has"));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// Connected, so that a machine that says nobody listens there is heard.
fn connect(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: &dyn Fn() -> Option<Instant> = &|| None;

    fn heard(socket: &UdpSocket) -> String {
        let mut packet = [0; 64];
        let length = socket.recv(&mut packet).unwrap();
        String::from_utf8_lossy(&packet[..length]).into_owned()
    }

    /// An address where nobody listens: that of a socket that takes from one peer only, which is not us.
    fn nobody() -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect("127.0.0.1:1").unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    #[test]
    fn an_address_where_nobody_listens_takes_nothing_and_the_next_one_has_its_turn() {
        let ((_held, nobody), there) = (nobody(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let mut packets = Packets::new("localhost:1");
        (packets.addresses, packets.looked_up) = (vec![nobody, there.local_addr().unwrap()], Some(Instant::now()));
        assert_eq!(packets.send([&b"a"[..]], 1, NEVER).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        packets.send([&b"a"[..], b"b"], 2, NEVER).unwrap();
        assert_eq!((heard(&there), heard(&there), packets.unheard()), ("a".into(), "b".into(), 0));
    }

    #[test]
    fn what_is_heard_late_is_counted() {
        let there = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut packets = Packets::new(&there.local_addr().unwrap().to_string());
        packets.send([&b"a"[..]], 7, NEVER).unwrap();
        drop(there);
        // As a machine far away says it: after we have stopped to listen.
        packets.socket.as_ref().unwrap().send(b"late").unwrap();
        thread::sleep(SETTLE);
        let _ = packets.send([&b"b"[..]], 1, NEVER);
        assert_eq!((packets.unheard(), packets.unheard()), (7, 0));
    }

    #[test]
    fn a_host_that_has_moved_is_found_again() {
        let (old, new) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        // The name leads to the new one; it was looked up when it led to the old one.
        let mut packets = Packets::new(&new.local_addr().unwrap().to_string());
        (packets.addresses, packets.looked_up) = (vec![old.local_addr().unwrap()], Some(Instant::now()));
        packets.send([&b"a"[..]], 1, NEVER).unwrap();
        assert_eq!(heard(&old), "a");
        packets.looked_up = Instant::now().checked_sub(KNOWN_FOR);
        packets.send([&b"b"[..]], 1, NEVER).unwrap();
        assert_eq!(heard(&new), "b");
        let mut nowhere = Packets::new("no-such-host.invalid:1");
        nowhere.addresses = vec![new.local_addr().unwrap()];
        nowhere.send([&b"c"[..]], 1, NEVER).unwrap();
        assert_eq!(heard(&new), "c", "what was known is better than nothing");
    }

    #[test]
    fn a_look_up_that_never_ends_is_waited_for_until_the_end_only() {
        let mut packets = Packets::new("slow:1");
        let (found, looking) = sync_channel(1);
        packets.looking = Some(looking);
        let now = Instant::now();
        let error = packets.send([&b"a"[..]], 1, &|| Some(now)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        // It is not begun again, and found when it is over.
        let there = UdpSocket::bind("127.0.0.1:0").unwrap();
        found.send(Ok(vec![there.local_addr().unwrap()])).unwrap();
        packets.looked_up = None;
        packets.send([&b"a"[..]], 1, NEVER).unwrap();
        assert_eq!(heard(&there), "a");
    }
}

//! Whether a backend serves a virtual IP: a connection of TCP that goes the way its packets go, as IP in IP to the backend, which answers
//! straight back.
//!
//! The kernel's own TCP cannot make it: the address it is to is this machine's as well, so that a connection would never leave, and the
//! answer would be refused for coming from outside. So the segments are made here ([`Dialogue`], which only decides), sent by a raw socket
//! that puts the outer header around them, and the answers are taken from the link by a packet socket with a filter for them alone. What
//! the kernel makes of an answer besides is nothing, or a reset to itself.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use crate::raw;

/// What is asked of a backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Knock {
    pub backend: IpAddr,
    /// Where packets for it come from: what checks that of those must take the ones of this as well.
    pub source: IpAddr,
    /// The virtual IP and port.
    pub to: SocketAddr,
    /// This machine's address of the family of `to`: what the backend answers.
    pub from: IpAddr,
    /// What is sent once connected; empty: to be connected is enough.
    pub request: Vec<u8>,
    /// How long it may take.
    pub timeout: Duration,
}

/// Why nothing good came back.
#[derive(Debug)]
pub enum Unanswered {
    /// Nothing came.
    Silent,
    /// It came, and nothing to the request.
    Mute,
    /// No process listens there.
    Refused,
    /// The connection ended before the answer was whole.
    Ended,
    /// The kernel knows no way there.
    NoRoute(io::Error),
    /// This machine could not ask.
    Here(io::Error),
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unanswered::Silent => f.write_str("nothing came back"),
            Unanswered::Mute => f.write_str("it took the connection, and did not answer the request"),
            Unanswered::Refused => f.write_str("it refused the connection"),
            Unanswered::Ended => f.write_str("it ended the connection without an answer"),
            Unanswered::NoRoute(error) => write!(f, "this machine has no route to it: {error}"),
            Unanswered::Here(error) => write!(f, "this machine cannot ask: {error}"),
        }
    }
}

/// What came back.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Answer {
    /// To the request; empty without one.
    pub text: Vec<u8>,
    /// The longest segment that it asks clients for; none where it does not say, which means 536 (RFC 9293 section 3.7.1).
    pub segment_max: Option<u16>,
}

/// Connects, and with a request takes the first bytes of the answer: as many as come in one segment, [`ANSWER_LEAST`] at least.
pub fn knock(knock: &Knock) -> Result<Answer, Unanswered> {
    let port = next_port();
    let from = SocketAddr::new(knock.from, port);
    let ear = listen(from, knock.to).map_err(Unanswered::Here)?;
    let mouth = speak(knock).map_err(Unanswered::Here)?;
    let mut dialogue = Dialogue::new(from, knock.to, number(), knock.request.clone());
    let ends = Instant::now() + knock.timeout;
    let mut sent = Instant::now();
    send(&mouth, knock.backend, &dialogue.segment())?;
    let mut buffer = [0; 2048];
    loop {
        let now = Instant::now();
        if now >= ends {
            let _ = send(&mouth, knock.backend, &dialogue.reset());
            return Err(if dialogue.is_connected() { Unanswered::Mute } else { Unanswered::Silent });
        }
        if now.duration_since(sent) >= AGAIN {
            sent = now;
            send(&mouth, knock.backend, &dialogue.segment())?;
        }
        let wait = (sent + AGAIN).min(ends).saturating_duration_since(now);
        let Some(length) = receive(&ear, &mut buffer, wait).map_err(Unanswered::Here)? else { continue };
        match dialogue.handle(&buffer[..length]) {
            Heard::Nothing => {}
            Heard::Answer => {
                sent = Instant::now();
                send(&mouth, knock.backend, &dialogue.segment())?;
            }
            Heard::Done(result) => {
                // However it ended, the backend need not wait for more.
                let _ = send(&mouth, knock.backend, &dialogue.reset());
                return result;
            }
        }
    }
}

/// One connection, from its first segment to the first of the answer. No sockets, no clock.
pub struct Dialogue {
    from: SocketAddr,
    to: SocketAddr,
    /// Of the next byte to send, and of the next to come.
    next: u32,
    expected: Option<u32>,
    segment_max: Option<u16>,
    request: Vec<u8>,
}

/// What came of a packet.
#[derive(Debug)]
pub enum Heard {
    /// It says nothing.
    Nothing,
    /// [`Dialogue::segment`] is to be sent.
    Answer,
    Done(Result<Answer, Unanswered>),
}

impl Dialogue {
    pub fn new(from: SocketAddr, to: SocketAddr, number: u32, request: Vec<u8>) -> Dialogue {
        Dialogue { from, to, next: number, expected: None, segment_max: None, request }
    }

    fn is_connected(&self) -> bool {
        self.expected.is_some()
    }

    /// The packet to be sent now, and again when nothing comes: the first, or the request.
    pub fn segment(&self) -> Vec<u8> {
        match self.expected {
            // With a maximum segment size that fits any way.
            None => self.packet(self.next, 0, SYN, &[2, 4, 4, 0], &[]),
            Some(expected) => self.packet(self.next, expected, ACK | PUSH, &[], &self.request),
        }
    }

    /// The packet that ends it.
    pub fn reset(&self) -> Vec<u8> {
        let sent = if self.is_connected() { self.request.len() as u32 } else { 1 };
        match self.expected {
            None => self.packet(self.next.wrapping_add(sent), 0, RESET, &[], &[]),
            Some(expected) => self.packet(self.next.wrapping_add(sent), expected, RESET | ACK, &[], &[]),
        }
    }

    /// Takes an IP packet that came.
    pub fn handle(&mut self, packet: &[u8]) -> Heard {
        let Some(segment) = self.read(packet) else { return Heard::Nothing };
        match self.expected {
            None if segment.flags & ACK == 0 || segment.acknowledged != self.next.wrapping_add(1) => Heard::Nothing,
            None if segment.flags & RESET != 0 => Heard::Done(Err(Unanswered::Refused)),
            None if segment.flags & SYN == 0 => Heard::Nothing,
            None => {
                self.next = self.next.wrapping_add(1);
                self.expected = Some(segment.number.wrapping_add(1));
                self.segment_max = segment.segment_max;
                if self.request.is_empty() { Heard::Done(Ok(self.answer(&[]))) } else { Heard::Answer }
            }
            // Its answer to the first segment came twice.
            Some(_) if segment.flags & SYN != 0 => Heard::Answer,
            Some(expected) if segment.number != expected => Heard::Nothing,
            Some(_) if segment.data.len() >= ANSWER_LEAST => Heard::Done(Ok(self.answer(segment.data))),
            Some(_) if segment.flags & (RESET | FIN) != 0 => Heard::Done(Err(Unanswered::Ended)),
            Some(_) => Heard::Nothing,
        }
    }

    fn answer(&self, text: &[u8]) -> Answer {
        Answer { text: text.to_vec(), segment_max: self.segment_max }
    }

    /// Its TCP segment, if it is of this connection.
    fn read<'p>(&self, packet: &'p [u8]) -> Option<Segment<'p>> {
        let (transport, end, protocol, source) = match (packet.first()? >> 4, self.to) {
            (4, SocketAddr::V4(_)) => {
                let end = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
                let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
                (usize::from(packet[0] & 0x0f) * 4, end, *packet.get(9)?, IpAddr::from(source))
            }
            (6, SocketAddr::V6(_)) => {
                let end = 40 + usize::from(u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?]));
                let source: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
                (40, end, *packet.get(6)?, IpAddr::from(source))
            }
            _ => return None,
        };
        let tcp = packet.get(transport..end.min(packet.len()))?;
        let half = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
        let word = |at: usize| Some(u32::from(half(at)?) << 16 | u32::from(half(at + 2)?));
        let header = usize::from(*tcp.get(12)? >> 4) * 4;
        let ours = protocol == TCP
            && source == self.to.ip()
            && (half(0)?, half(2)?) == (self.to.port(), self.from.port())
            && header >= TCP_HEADER;
        let data = tcp.get(header..)?;
        ours.then_some(Segment {
            number: word(4)?,
            acknowledged: word(8)?,
            flags: *tcp.get(13)?,
            segment_max: segment_max(tcp.get(TCP_HEADER..header)?),
            data,
        })
    }

    fn packet(&self, number: u32, acknowledged: u32, flags: u8, options: &[u8], data: &[u8]) -> Vec<u8> {
        let words = (TCP_HEADER + options.len()) / 4;
        let mut tcp = [self.from.port().to_be_bytes(), self.to.port().to_be_bytes()].concat();
        tcp.extend(number.to_be_bytes());
        tcp.extend(acknowledged.to_be_bytes());
        tcp.extend([(words as u8) << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend(options);
        tcp.extend(data);
        let ends = [octets(self.from.ip()), octets(self.to.ip())].concat();
        let length = tcp.len() as u16;
        let [high, low] = length.to_be_bytes();
        let sum = checksum(&[&ends, &[0, TCP, high, low][..], &tcp].concat());
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        let mut packet = if self.to.is_ipv4() {
            let [high, low] = (20 + length).to_be_bytes();
            vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, TCP, 0, 0]
        } else {
            vec![0x60, 0, 0, 0, high, low, TCP, 64]
        };
        packet.extend(ends);
        if self.to.is_ipv4() {
            let sum = checksum(&packet);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        packet.extend(tcp);
        packet
    }
}

struct Segment<'p> {
    number: u32,
    acknowledged: u32,
    flags: u8,
    segment_max: Option<u16>,
    data: &'p [u8],
}

/// Of the options of a segment (RFC 9293 section 3.1).
fn segment_max(mut options: &[u8]) -> Option<u16> {
    loop {
        match options {
            [1, rest @ ..] => options = rest,
            [2, 4, high, low, ..] => return Some(u16::from_be_bytes([*high, *low])),
            [kind, length, ..] if *kind >= 2 && *length >= 2 => options = options.get(usize::from(*length)..)?,
            _ => return None,
        }
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Below the ports that the kernel gives out by itself, and each in turn: what is late of one connection is not of the next.
fn next_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    20_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 10_000
}

/// Where a connection's numbers begin. Who can see what is sent needs no guess, and nobody else is asked for one.
fn number() -> u32 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u32)
}

/// A socket that wraps what it is given in a header of its own.
fn speak(knock: &Knock) -> io::Result<OwnedFd> {
    let v4 = knock.backend.is_ipv4();
    let carried = if knock.to.is_ipv4() { libc::IPPROTO_IPIP } else { libc::IPPROTO_IPV6 };
    let socket = raw::socket(if v4 { libc::AF_INET } else { libc::AF_INET6 }, libc::SOCK_RAW, carried)?;
    raw::deafen(&socket)?;
    if raw::bind(&socket, knock.source).is_err() {
        // One of a range that is nobody's.
        raw::be_anybody(&socket, v4)?;
        raw::bind(&socket, knock.source)?;
    }
    Ok(socket)
}

/// A socket that hears the packets of one connection, from the IP header on.
fn listen(from: SocketAddr, to: SocketAddr) -> io::Result<OwnedFd> {
    let kind = if to.is_ipv4() { libc::ETH_P_IP } else { libc::ETH_P_IPV6 } as u16;
    // Deaf until the filter is there.
    let socket = raw::socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0)?;
    raw::filter(&socket, &filter(from, to))?;
    raw::bind_to_link(&socket, kind, 0)?;
    Ok(socket)
}

/// Segments of TCP from the virtual IP's port to this one, in classic BPF. What has IP options or extension headers is no answer.
fn filter(from: SocketAddr, to: SocketAddr) -> Vec<libc::sock_filter> {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_BYTE: u16 = 0x30;
    const EQUALS: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let mut asked: Vec<(u16, u32, u32)> = Vec::new();
    let (protocol_at, source_at, ports_at) = if to.is_ipv4() { (9, 12, 20) } else { (6, 8, 40) };
    asked.push((LOAD_BYTE, protocol_at, TCP.into()));
    if to.is_ipv4() {
        asked.push((LOAD_BYTE, 0, 0x45));
    }
    for (i, word) in octets(to.ip()).chunks_exact(4).enumerate() {
        asked.push((LOAD_WORD, source_at + 4 * i as u32, u32::from_be_bytes([word[0], word[1], word[2], word[3]])));
    }
    asked.push((LOAD_WORD, ports_at, u32::from(to.port()) << 16 | u32::from(from.port())));
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let last = 2 * asked.len();
    let mut code = Vec::new();
    for (load, at, value) in asked {
        code.push(step(load, 0, 0, at));
        // To the last instruction when it is another.
        let rest = last - code.len();
        code.push(step(EQUALS, 0, rest as u8, value));
    }
    code.push(step(RETURN, 0, 0, u32::MAX));
    code.push(step(RETURN, 0, 0, 0));
    code
}

fn send(socket: &OwnedFd, to: IpAddr, packet: &[u8]) -> Result<(), Unanswered> {
    let (address, length) = raw::address(to);
    // SAFETY: packet and address live through the call and have the lengths given.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            libc::MSG_NOSIGNAL,
            (&raw const address).cast(),
            length,
        )
    };
    if sent >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // What the network says of the backend is the backend's, and so is a neighbour that does not answer.
        Some(libc::EHOSTUNREACH | libc::ECONNREFUSED | libc::EPROTO | libc::ENOBUFS | libc::EHOSTDOWN) => Ok(()),
        // A route that is gone, whose interface is down, or that says that nothing goes there (EINVAL is that of a black hole, and of an
        // address that is of a link without saying which): what is sent to it by the programs has no way back either.
        Some(libc::ENETUNREACH | libc::ENETDOWN | libc::EACCES | libc::EINVAL) => Err(Unanswered::NoRoute(error)),
        _ => Err(Unanswered::Here(error)),
    }
}

/// `None`: nothing came.
fn receive(socket: &OwnedFd, buffer: &mut [u8], wait: Duration) -> io::Result<Option<usize>> {
    let mut polled = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let wait = wait.as_millis().min(60_000) as i32 + 1;
    // SAFETY: one entry, which lives through the call.
    let ready = unsafe { libc::poll(&raw mut polled, 1, wait) };
    if ready == 0 {
        return Ok(None);
    }
    // SAFETY: a buffer of our own, of the length given.
    let length =
        unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
    match length {
        0.. => Ok(Some(length as usize)),
        _ => match io::Error::last_os_error() {
            error if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            error => Err(error),
        },
    }
}

/// `HTTP/1.1 200`.
pub const ANSWER_LEAST: usize = 12;
/// Until a segment that nothing came of is sent again.
const AGAIN: Duration = Duration::from_millis(500);
const TCP: u8 = 6;
const TCP_HEADER: usize = 20;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RESET: u8 = 0x04;
const PUSH: u8 = 0x08;
const ACK: u8 = 0x10;

#[cfg(test)]
mod tests {
    use super::*;

    /// What the other end would send.
    fn answer(of: &Dialogue, number: u32, acknowledged: u32, flags: u8, data: &[u8]) -> Vec<u8> {
        Dialogue::new(of.to, of.from, 0, Vec::new()).packet(number, acknowledged, flags, &[], data)
    }

    fn dialogue(v4: bool, request: &[u8]) -> Dialogue {
        let at = |v4: bool, last: u8, port| {
            let ip = if v4 {
                IpAddr::from([192, 0, 2, last])
            } else {
                IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()])
            };
            SocketAddr::new(ip, port)
        };
        Dialogue::new(at(v4, 1, 20_000), at(v4, 2, 80), u32::MAX, request.to_vec())
    }

    #[test]
    fn a_connection_and_an_answer() {
        for v4 in [true, false] {
            let mut d = dialogue(v4, b"GET / HTTP/1.1\r\n\r\n");
            let header = if v4 { 20 } else { 40 };
            let ip = d.segment();
            assert_eq!((ip[header + 13], checksum(&ip[..20])), (SYN, if v4 { 0 } else { checksum(&ip[..20]) }));
            // Of another connection, or to another segment.
            assert!(matches!(d.handle(&answer(&d, 700, 5, SYN | ACK, b"")), Heard::Nothing));
            assert!(matches!(d.handle(&answer(&dialogue(!v4, b""), 700, 0, SYN | ACK, b"")), Heard::Nothing));
            assert!(matches!(d.handle(&answer(&d, 700, 0, SYN | ACK, b"")), Heard::Answer));
            assert!(d.segment().ends_with(b"\r\n\r\n"));
            assert!(
                matches!(d.handle(&answer(&d, 700, 0, SYN | ACK, b"")), Heard::Answer),
                "it did not hear the request"
            );
            assert!(matches!(d.handle(&answer(&d, 701, 18, ACK, b"")), Heard::Nothing));
            assert!(
                matches!(d.handle(&answer(&d, 900, 18, ACK, b"HTTP/1.1 200 OK")), Heard::Nothing),
                "a hole before it"
            );
            let Heard::Done(Ok(heard)) = d.handle(&answer(&d, 701, 18, ACK, b"HTTP/1.1 200 OK")) else {
                panic!("no answer")
            };
            assert_eq!((heard.text.as_slice(), heard.segment_max), (&b"HTTP/1.1 200 OK"[..], None));
            let reset = d.reset();
            assert_eq!(&reset[header + 4..header + 8], &18u32.to_be_bytes(), "behind what was sent");
        }
    }

    #[test]
    fn the_longest_segment_is_read_among_other_options() {
        assert_eq!(segment_max(&[2, 4, 5, 180, 4, 2, 8, 10]), Some(1460));
        assert_eq!(segment_max(&[1, 1, 4, 2, 3, 3, 7, 2, 4, 5, 160]), Some(1440));
        for none in [&[][..], &[0, 2, 4, 5, 180], &[2, 4, 5], &[8, 0, 2, 4, 5, 180], &[3, 1], &[8, 10, 0]] {
            assert_eq!(segment_max(none), None, "{none:?}");
        }
        let mut d = dialogue(true, b"");
        let syn = Dialogue::new(d.to, d.from, 7, Vec::new()).packet(7, 0, SYN | ACK, &[2, 4, 5, 180], &[]);
        let Heard::Done(Ok(heard)) = d.handle(&syn) else { panic!("no answer") };
        assert_eq!(heard.segment_max, Some(1460));
    }

    #[test]
    fn what_is_no_answer() {
        let mut d = dialogue(true, b"");
        assert!(matches!(d.handle(&answer(&d, 7, 0, RESET | ACK, b"")), Heard::Done(Err(Unanswered::Refused))));
        let mut d = dialogue(true, b"");
        assert!(matches!(d.handle(&answer(&d, 7, 0, SYN | ACK, b"")), Heard::Done(Ok(_))), "to be connected is enough");
        let mut d = dialogue(true, b"x");
        d.handle(&answer(&d, 7, 0, SYN | ACK, b""));
        assert!(matches!(d.handle(&answer(&d, 8, 1, FIN | ACK, b"HTT")), Heard::Done(Err(Unanswered::Ended))));
        for length in 0..40 {
            let whole = answer(&d, 8, 1, ACK, b"");
            assert!(matches!(d.handle(&whole[..length]), Heard::Nothing));
        }
    }
}

//! Datagrams that one process passes to another, over a stream of their own: for connections of the one that had the sockets before.
//!
//! Each is two bytes of length, then ECN, the addresses it came from and to, and what it said. The addresses begin with 0 (none), 4 or 6.

use crate::endpoint::codepoint_of;
use base_runtime::Buf;
use base_runtime::net::TcpStream;
use bytes::{Buf as _, BufMut, BytesMut};
use quinn_proto::EcnCodepoint;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::net::UnixStream;
use std::task::{Context, Poll};

/// A datagram on its way to whoever has its connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Passed {
    pub remote: SocketAddr,
    pub local: Option<IpAddr>,
    pub ecn: Option<EcnCodepoint>,
    pub contents: BytesMut,
}

/// One worker's end of a stream between two processes.
pub(crate) struct Passing {
    stream: TcpStream,
    /// The beginning of a datagram whose rest has not come.
    read: BytesMut,
}

impl Passing {
    pub fn new(stream: UnixStream) -> io::Result<Passing> {
        Ok(Passing { stream: TcpStream::from_unix(stream)?, read: BytesMut::new() })
    }

    /// Whether it was taken: there is a bound on what may wait for the other process.
    pub fn send(&self, passed: &Passed) -> bool {
        let mut bytes = BytesMut::with_capacity(passed.contents.len() + HEAD_MOST);
        if self.stream.send_queue_len() > WAITING_BYTES_MOST || !encode(passed, &mut bytes) {
            return false;
        }
        self.stream.send(Buf::copy_from(&bytes));
        true
    }

    /// The next one; `None` when the other process has gone, or says what it should not.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Passed>> {
        loop {
            match decode(&mut self.read) {
                Ok(None) => {}
                Ok(Some(passed)) => return Poll::Ready(Some(passed)),
                Err(Malformed) => return Poll::Ready(None),
            }
            match std::task::ready!(self.stream.poll_recv(cx)) {
                Ok(Some(buf)) => self.read.extend_from_slice(&buf),
                Ok(None) | Err(_) => return Poll::Ready(None),
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Malformed;

/// False where it is longer than any datagram.
fn encode(passed: &Passed, into: &mut BytesMut) -> bool {
    let begin = into.len();
    into.put_u16(0);
    into.put_u8(passed.ecn.map_or(0, |ecn| ecn as u8));
    put_ip(Some(passed.remote.ip()), into);
    if let SocketAddr::V6(remote) = passed.remote {
        into.put_u32(remote.scope_id());
    }
    into.put_u16(passed.remote.port());
    put_ip(passed.local, into);
    into.extend_from_slice(&passed.contents);
    let Ok(length) = u16::try_from(into.len() - begin - 2) else { return false };
    into[begin..begin + 2].copy_from_slice(&length.to_be_bytes());
    true
}

fn put_ip(ip: Option<IpAddr>, into: &mut BytesMut) {
    match ip {
        None => into.put_u8(0),
        Some(IpAddr::V4(ip)) => {
            into.put_u8(4);
            into.put_slice(&ip.octets());
        }
        Some(IpAddr::V6(ip)) => {
            into.put_u8(6);
            into.put_slice(&ip.octets());
        }
    }
}

/// The first one, as soon as all of it is there.
fn decode(read: &mut BytesMut) -> Result<Option<Passed>, Malformed> {
    let Some(length) = read.first_chunk().map(|length| usize::from(u16::from_be_bytes(*length))) else {
        return Ok(None);
    };
    if read.len() < 2 + length {
        return Ok(None);
    }
    read.advance(2);
    let mut contents = read.split_to(length);
    let ecn = codepoint_of(contents.try_get_u8().map_err(|_| Malformed)?);
    let ip = take_ip(&mut contents)?.ok_or(Malformed)?;
    let scope = if ip.is_ipv6() { contents.try_get_u32().map_err(|_| Malformed)? } else { 0 };
    let port = contents.try_get_u16().map_err(|_| Malformed)?;
    let remote = match ip {
        IpAddr::V4(_) => SocketAddr::new(ip, port),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, scope).into(),
    };
    let local = take_ip(&mut contents)?;
    Ok(Some(Passed { remote, local, ecn, contents }))
}

fn take_ip(from: &mut BytesMut) -> Result<Option<IpAddr>, Malformed> {
    Ok(match from.try_get_u8().map_err(|_| Malformed)? {
        0 => None,
        4 => Some(Ipv4Addr::from_bits(from.try_get_u32().map_err(|_| Malformed)?).into()),
        6 => Some(Ipv6Addr::from_bits(from.try_get_u128().map_err(|_| Malformed)?).into()),
        _ => return Err(Malformed),
    })
}

/// What stands before the contents: length, ECN, two addresses of IPv6, a scope and a port.
const HEAD_MOST: usize = 2 + 1 + 17 + 4 + 2 + 17;

/// Bytes that may wait for the other process; beyond it datagrams are lost, as they are when a socket's queue is full.
const WAITING_BYTES_MOST: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_come_as_they_went() {
        let scoped = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 9, 0, 7).into();
        let sent = [
            ("127.0.0.1:443".parse().unwrap(), None, None, &b"one"[..]),
            (scoped, Some("::1".parse().unwrap()), Some(EcnCodepoint::Ce), b""),
            ("10.0.0.1:1".parse().unwrap(), Some("10.0.0.2".parse().unwrap()), Some(EcnCodepoint::Ect0), &[7; 1500]),
        ];
        let sent: Vec<Passed> = sent
            .into_iter()
            .map(|(remote, local, ecn, contents)| Passed { remote, local, ecn, contents: contents.into() })
            .collect();
        let mut bytes = BytesMut::new();
        assert!(sent.iter().all(|passed| encode(passed, &mut bytes)));
        // In pieces of any length.
        for piece in [1, 7, bytes.len()] {
            let (mut read, mut come) = (BytesMut::new(), Vec::new());
            for piece in bytes.chunks(piece) {
                read.extend_from_slice(piece);
                while let Some(passed) = decode(&mut read).unwrap() {
                    come.push(passed);
                }
            }
            assert_eq!((come, read.len()), (sent.iter().map(again).collect(), 0));
        }
    }

    #[test]
    fn what_is_none_is_told() {
        let long = Passed { contents: BytesMut::zeroed(65_535), ..again(&passed()) };
        assert!(!encode(&long, &mut BytesMut::new()));
        for bytes in [&[0, 0][..], &[0, 1, 0], &[0, 3, 0, 4, 1], &[0, 2, 0, 9], &[0, 8, 0, 4, 1, 2, 3, 4, 0, 80]] {
            assert_eq!(decode(&mut bytes.into()), Err(Malformed), "{bytes:?}");
        }
    }

    fn passed() -> Passed {
        Passed { remote: "127.0.0.1:1".parse().unwrap(), local: None, ecn: None, contents: BytesMut::new() }
    }

    fn again(passed: &Passed) -> Passed {
        Passed { contents: passed.contents.clone(), ..*passed }
    }
}

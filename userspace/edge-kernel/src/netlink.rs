//! netlink(7): messages to the kernel's network configuration and back.

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Netlink> {
        Netlink::open_for(libc::NETLINK_ROUTE)
    }

    /// For another part of the kernel than its routes and links.
    pub(crate) fn open_for(family: libc::c_int) -> io::Result<Netlink> {
        // SAFETY: no pointers; the descriptor is ours.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, family);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        // SAFETY: all zeros is a valid sockaddr_nl and lets the kernel choose the port.
        unsafe {
            let mut address: libc::sockaddr_nl = zeroed();
            address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
            let length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
            if libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Netlink { socket, sequence: 0 })
    }

    /// Sends a change and waits for the kernel's word on it.
    pub(crate) fn change(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.ask(kind, NLM_F_ACK | flags, body, |message| (message.kind == NLMSG_ERROR).then(|| error_of(message.body)))
    }

    /// Asks for one thing, and gives what `read` makes of the messages that answer; those that answer what was asked before, and was not
    /// waited for to its end, are passed over.
    pub(crate) fn ask<T>(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut read: impl FnMut(&Message<'_>) -> Option<io::Result<T>>,
    ) -> io::Result<T> {
        self.send(kind, NLM_F_REQUEST | flags, body)?;
        let mut answer = vec![0u8; 16 * 1024];
        loop {
            let length = self.receive(&mut answer)?;
            let mut answered = false;
            for message in Messages(&answer[..length]).filter(|message| message.sequence == self.sequence) {
                answered = true;
                if let Some(found) = read(&message) {
                    return found;
                }
            }
            if answered {
                return Err(io::Error::other("the kernel did not answer"));
            }
        }
    }

    /// All there is of something, as `read` has each message of it. Asked again when it was changed while the kernel listed it: what
    /// it listed then may lack what was there all the time.
    pub(crate) fn dump<T>(
        &mut self,
        kind: u16,
        body: &[u8],
        read: impl FnMut(&[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        Ok(self.dump_at_most(usize::MAX, kind, body, read)?.unwrap_or_default())
    }

    /// The same; nothing when there are more. Then the socket is of no more use.
    pub(crate) fn dump_at_most<T>(
        &mut self,
        most: usize,
        kind: u16,
        body: &[u8],
        mut read: impl FnMut(&[u8]) -> Option<T>,
    ) -> io::Result<Option<Vec<T>>> {
        let mut answer = vec![0u8; DUMP_BUFFER];
        for _ in 0..DUMPS_MOST {
            self.send(kind, NLM_F_REQUEST | NLM_F_DUMP, body)?;
            let mut dump = Dump { sequence: self.sequence, found: Vec::new(), interrupted: false };
            let whole = loop {
                let length = self.receive(&mut answer)?;
                match dump.take(&answer[..length], &mut read)? {
                    Turn::More | Turn::Whole if dump.found.len() > most => return Ok(None),
                    Turn::More => {}
                    Turn::Whole => break true,
                    Turn::Interrupted => break false,
                }
            };
            if whole {
                return Ok(Some(dump.found));
            }
        }
        Err(io::Error::other(format!("it was changed {DUMPS_MOST} times while the kernel listed it")))
    }

    pub(crate) fn send(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let mut message = Vec::with_capacity(16 + body.len());
        message.extend((16 + body.len() as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0u32.to_ne_bytes());
        message.extend(body);
        // SAFETY: the message lives through the call.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the buffer lives through the call.
        let length = unsafe { libc::recv(self.socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        if length < 0 { Err(io::Error::last_os_error()) } else { Ok(length as usize) }
    }
}

/// What the kernel lists, as it comes.
struct Dump<T> {
    /// Of the question: other messages answer others.
    sequence: u32,
    found: Vec<T>,
    interrupted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Turn {
    More,
    Whole,
    /// It is over, and not to be relied on.
    Interrupted,
}

impl<T> Dump<T> {
    fn take(&mut self, datagram: &[u8], read: &mut impl FnMut(&[u8]) -> Option<T>) -> io::Result<Turn> {
        for message in Messages(datagram).filter(|message| message.sequence == self.sequence) {
            self.interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
            match message.kind {
                NLMSG_DONE => {
                    // What became of it, where that is said.
                    if message.body.len() >= 4 {
                        error_of(message.body)?;
                    }
                    return Ok(if self.interrupted { Turn::Interrupted } else { Turn::Whole });
                }
                NLMSG_ERROR => error_of(message.body)?,
                _ => self.found.extend(read(message.body)),
            }
        }
        Ok(Turn::More)
    }
}

pub(crate) struct Message<'a> {
    pub kind: u16,
    flags: u16,
    sequence: u32,
    pub body: &'a [u8],
}

/// The messages of one datagram.
pub(crate) struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = u32::from_ne_bytes(self.0.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(self.0.get(4..6)?.try_into().ok()?);
        let flags = u16::from_ne_bytes(self.0.get(6..8)?.try_into().ok()?);
        let sequence = u32::from_ne_bytes(self.0.get(8..12)?.try_into().ok()?);
        let body = self.0.get(16..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Message { kind, flags, sequence, body })
    }
}

pub(crate) fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend((4 + value.len() as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Kinds and values of the attributes one after the other.
pub(crate) fn attributes(mut body: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u16::from_ne_bytes(body.get(..2)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(body.get(2..4)?.try_into().ok()?);
        let value = body.get(4..length)?;
        body = body.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

pub(crate) fn error_of(body: &[u8]) -> io::Result<()> {
    match body.get(..4).map(|b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]])) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("the kernel answered with less than an error number")),
    }
}

pub(crate) const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
/// What is listed was changed meanwhile.
const NLM_F_DUMP_INTR: u16 = 0x10;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_CREATE: u16 = 0x400;

/// The kernel fills at most 32 kB at once.
const DUMP_BUFFER: usize = 64 * 1024;

/// How often it is asked for all of something that is changed meanwhile.
const DUMPS_MOST: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let mut message = (16 + body.len() as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    fn dump(datagrams: &[&[Vec<u8>]]) -> (io::Result<Turn>, Vec<u8>) {
        let mut dump = Dump { sequence: 7, found: Vec::new(), interrupted: false };
        let mut turn = Ok(Turn::More);
        for datagram in datagrams {
            turn = dump.take(&datagram.concat(), &mut |body| body.first().copied());
        }
        (turn, dump.found)
    }

    #[test]
    fn a_dump_that_was_interrupted_is_not_taken_as_whole() {
        let entry = |flags, body| message(28, 2 | flags, 7, &[body]);
        let done = |flags| message(NLMSG_DONE, 2 | flags, 7, &0i32.to_ne_bytes());
        let (turn, found) = dump(&[&[entry(0, 1), entry(0, 2)], &[entry(0, 3), done(0)]]);
        assert_eq!((turn.unwrap(), found), (Turn::Whole, vec![1, 2, 3]));
        for datagrams in [
            [vec![entry(0, 1)], vec![entry(NLM_F_DUMP_INTR, 2), done(0)]],
            [vec![entry(0, 1)], vec![entry(0, 2), done(NLM_F_DUMP_INTR)]],
            [vec![entry(NLM_F_DUMP_INTR, 1)], vec![entry(0, 2), done(0)]],
        ] {
            assert_eq!(dump(&[&datagrams[0], &datagrams[1]]).0.unwrap(), Turn::Interrupted);
        }
        assert_eq!(dump(&[&[entry(0, 1)]]).0.unwrap(), Turn::More, "it goes on");
    }

    #[test]
    fn a_dump_that_failed_is_an_error_and_answers_to_others_are_none_of_it() {
        let failed = (-libc::ENOMEM).to_ne_bytes();
        for last in [message(NLMSG_DONE, 2, 7, &failed), message(NLMSG_ERROR, 0, 7, &failed)] {
            let error = dump(&[&[message(28, 2, 7, &[1]), last]]).0.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOMEM));
        }
        let others = [message(28, 2, 6, &[9]), message(NLMSG_DONE, 2, 6, &[0; 4]), message(28, 2, 7, &[1])];
        let (turn, found) = dump(&[&others]);
        assert_eq!((turn.unwrap(), found), (Turn::More, vec![1]));
    }

    #[test]
    fn what_answers_an_earlier_question_is_no_answer_to_the_next() {
        const GET_LINK: u16 = 18;
        const NONE: u16 = 0xfff0;
        let mut netlink = Netlink::open().unwrap();
        // Nobody waits for what is said to that: it is refused.
        netlink.send(NONE, NLM_F_REQUEST | NLM_F_ACK, &[0; 16]).unwrap();
        let mut loopback = [0; 16];
        loopback[4] = 1;
        let answer = netlink.ask(GET_LINK, 0, &loopback, |message| match message.kind {
            NLMSG_ERROR => Some(error_of(message.body).map(|()| 0)),
            kind => Some(Ok(kind)),
        });
        assert_eq!(answer.unwrap(), 16, "RTM_NEWLINK");
    }
}

//! The client's end of one connection: what is being asked, and whether the answer is the one to it.

use std::io;
use std::time::Instant;

use super::pattern::content_length;
use super::wire::Wire;

pub struct Client {
    pub wire: Wire,
    pub request: Vec<u8>,
    pub window: usize,
    pub reading: Reading,
    /// What of the request the socket did not take yet.
    unsent: usize,
    pub waits_for_room: bool,
    /// When the request was due; latency is counted from there.
    pub due: Instant,
}

pub enum Reading {
    /// What came of a head that is not whole.
    Head(Vec<u8>),
    Body {
        done: usize,
        sound: bool,
    },
    /// So much is left of a refusal, whose words nobody compares.
    Refusal(usize),
    /// The answer is whole, the gateway is to close.
    End,
}

impl Client {
    pub fn new(wire: Wire, request: Vec<u8>, window: usize) -> Self {
        let reading = Reading::Head(Vec::new());
        Self { wire, request, window, reading, unsent: 0, waits_for_room: false, due: Instant::now() }
    }

    /// A request becomes due; [`Self::push`] sends it.
    pub fn ask(&mut self, due: Instant) {
        self.due = due;
        self.unsent = self.request.len();
    }

    /// Writes what is left of the request; an error when the connection is broken. Afterwards [`Self::is_full`] says whether
    /// the socket has to have room again.
    pub fn push(&mut self) -> io::Result<()> {
        while self.unsent > 0 {
            let from = self.request.len() - self.unsent;
            match self.wire.write(&self.request[from..])? {
                0 => return Ok(()),
                count => self.unsent -= count,
            }
        }
        self.wire.flush()
    }

    pub fn is_full(&self) -> bool {
        self.unsent > 0 || self.wire.is_full()
    }

    /// Takes bytes of an answer. `Some(sound)` when it is complete; an error when it is not what we asked for: `expected`, or with
    /// `refused` an answer of that status.
    pub fn receive(&mut self, mut bytes: &[u8], expected: &[u8], refused: Option<u16>) -> Result<Option<bool>, ()> {
        if let Reading::Head(held) = &mut self.reading {
            let joined;
            let head = if held.is_empty() {
                bytes
            } else {
                held.extend_from_slice(bytes);
                joined = std::mem::take(held);
                &joined
            };
            let Some(end) = memchr::memmem::find(head, b"\r\n\r\n") else {
                *held = head.to_vec();
                return if held.len() > HEAD_BYTES_MAX { Err(()) } else { Ok(None) };
            };
            let length = content_length(&head[..end + 2]).ok_or(())?;
            let status = head.get(9..12).and_then(|text| std::str::from_utf8(text).ok()?.parse::<u16>().ok());
            if !head.starts_with(b"HTTP/1.1 ") || status != Some(refused.unwrap_or(200)) {
                return Err(());
            }
            if refused.is_none() && length != expected.len() {
                return Err(());
            }
            // What stands behind the head is the tail of what just came.
            bytes = &bytes[bytes.len() - (head.len() - end - 4)..];
            self.reading = match refused {
                Some(_) => Reading::Refusal(length),
                None => Reading::Body { done: 0, sound: true },
            };
        }
        match &mut self.reading {
            Reading::Body { done, sound } => {
                let wanted = &expected[*done..];
                if bytes.len() > wanted.len() {
                    return Err(());
                }
                *sound &= bytes == &wanted[..bytes.len()];
                *done += bytes.len();
                if *done == expected.len() {
                    let sound = *sound;
                    self.reading = Reading::Head(Vec::new());
                    return Ok(Some(sound));
                }
                Ok(None)
            }
            Reading::Refusal(left) => {
                *left = left.checked_sub(bytes.len()).ok_or(())?;
                if *left > 0 {
                    return Ok(None);
                }
                self.reading = Reading::Head(Vec::new());
                Ok(Some(true))
            }
            Reading::End if !bytes.is_empty() => Err(()),
            Reading::Head(_) | Reading::End => Ok(None),
        }
    }
}

const HEAD_BYTES_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_wrong_byte_or_a_wrong_length_is_noticed() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let mut client = Client::new(Wire::Plain(stream), vec![], 0);
        let answer = |length: usize, body: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
        assert_eq!(client.receive(answer(5, "hello").as_bytes(), b"hello", None), Ok(Some(true)));
        assert_eq!(client.receive(answer(5, "jello").as_bytes(), b"hello", None), Ok(Some(false)));
        let whole = answer(5, "hello");
        let (one, two) = whole.as_bytes().split_at(20);
        assert_eq!(client.receive(one, b"hello", None), Ok(None));
        assert_eq!(client.receive(&two[..two.len() - 2], b"hello", None), Ok(None));
        assert_eq!(client.receive(&two[two.len() - 2..], b"hello", None), Ok(Some(true)));
        assert_eq!(client.receive(answer(4, "hell").as_bytes(), b"hello", None), Err(()));
        let refusal = "HTTP/1.1 429 No\r\ncontent-length: 3\r\n\r\nno.";
        assert_eq!(client.receive(refusal.as_bytes(), b"hello", None), Err(()));
        client.reading = Reading::Head(Vec::new());
        let (one, two) = refusal.as_bytes().split_at(refusal.len() - 2);
        assert_eq!(client.receive(one, b"hello", Some(429)), Ok(None));
        assert_eq!(client.receive(two, b"hello", Some(429)), Ok(Some(true)));
        assert_eq!(client.receive(refusal.as_bytes(), b"hello", Some(503)), Err(()));
        client.reading = Reading::End;
        assert_eq!(client.receive(b"", b"hello", None), Ok(None));
        assert_eq!(client.receive(b"more", b"hello", None), Err(()));
    }
}

//! The upstream's end of one connection: answers every whole request and compares its body.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use super::pattern::{Pattern, content_length, window};

pub struct Upstream {
    pub stream: TcpStream,
    input: Vec<u8>,
    unsent: Vec<u8>,
    pub waits_for_room: bool,
}

/// What one reading of a connection brought.
#[derive(Default)]
pub struct Heard {
    pub requests: u64,
    pub mismatches: u64,
    /// The connection goes on.
    pub alive: bool,
}

impl Upstream {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, input: Vec::new(), unsent: Vec::new(), waits_for_room: false }
    }

    /// Sends what is left, reads once and answers.
    pub fn serve(&mut self, buffer: &mut [u8], pattern: &Pattern) -> Heard {
        if !self.unsent.is_empty() && !self.flush() {
            return Heard::default();
        }
        match self.stream.read(buffer) {
            Ok(0) => Heard::default(),
            Ok(count) => self.receive(&buffer[..count], pattern),
            Err(error) => {
                let alive = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted);
                Heard { alive, ..Heard::default() }
            }
        }
    }

    pub fn is_full(&self) -> bool {
        !self.unsent.is_empty()
    }

    fn receive(&mut self, bytes: &[u8], pattern: &Pattern) -> Heard {
        let mut heard = Heard::default();
        let held = std::mem::take(&mut self.input);
        let joined;
        let mut rest = if held.is_empty() {
            bytes
        } else {
            joined = [&held, bytes].concat();
            &joined
        };
        while let Some(end) = memchr::memmem::find(rest, b"\r\n\r\n") {
            let head = &rest[..end + 2];
            let length = content_length(head).unwrap_or(0);
            let Some(body) = rest.get(end + 4..end + 4 + length) else { break };
            let Some(window) = window(head) else { return heard };
            if body != pattern.request_body(window) {
                heard.mismatches += 1;
            }
            heard.requests += 1;
            rest = &rest[end + 4 + length..];
            let answer = pattern.answer(window);
            if self.unsent.is_empty() {
                let sent = match self.stream.write(answer) {
                    Ok(count) => count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                    Err(_) => return heard,
                };
                self.unsent.extend_from_slice(&answer[sent..]);
            } else {
                self.unsent.extend_from_slice(answer);
            }
        }
        self.input = rest.to_vec();
        heard.alive = true;
        heard
    }

    fn flush(&mut self) -> bool {
        match self.stream.write(&self.unsent) {
            Ok(count) => {
                self.unsent.drain(..count);
                true
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }
}

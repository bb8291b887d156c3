//! One direction of a WebSocket, looked at while it passes.
//!
//! Whoever drives it hands over everything that has not passed yet, [`Watch::handle`] says how much of it may: all but the head of a
//! frame, or a control frame, that is not whole. So what is held back is at most [`HELD_MOST`] bytes, a Close of ours can stand
//! wherever bytes have stopped [between frames](Watch::is_between_frames), and a peer gets no byte of a frame whose head is refused.
//! Text that turns out to be none in the middle of a frame is another matter: its reader has the part that was sound, no Close can
//! stand there, and its direction is to be cut off. Only the side that sent it can be told why.

use crate::close::may_be_said;
use crate::fault::Fault;
use crate::frame::{self, CONTROL_MOST, FrameHead, HEAD_MOST, Opcode, Sender};
use crate::utf8::Utf8;

/// Most bytes that are held back.
pub const HELD_MOST: usize = HEAD_MOST + CONTROL_MOST as usize;

/// Bytes that are unmasked at a time.
const UNMASKED: usize = 512;

/// What was seen of the bytes handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// So many of them may pass.
    pub passes: usize,
    pub then: Then,
}

/// What comes behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// More is needed; what is left over is to be handed over again, before it.
    More,
    /// The last of them was a Close: nothing that follows means anything.
    Closed,
    /// The frame under way has ended after [`Watch::leave`], or there was none. Nothing more passes.
    Left,
    /// What comes next breaks the rules, or a bound. Nothing more passes.
    Failed(Fault),
}

/// See the module doc.
#[derive(Debug)]
pub struct Watch {
    sender: Sender,
    /// Longest message, in bytes of its payload; `None` takes any.
    most: Option<u64>,
    /// Bytes of the frame under way that have not come.
    left: u64,
    /// The message ends with it.
    last: bool,
    mask: Option<[u8; 4]>,
    message: Message,
    /// Bytes of the message, those of the frame under way included.
    bytes: u64,
    text: Utf8,
    leaving: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    None,
    Text,
    Binary,
}

impl Watch {
    /// Of what `sender` sends, messages of at most `most` bytes.
    pub fn new(sender: Sender, most: Option<u64>) -> Watch {
        Watch {
            sender,
            most,
            left: 0,
            last: true,
            mask: None,
            message: Message::None,
            bytes: 0,
            text: Utf8::default(),
            leaving: false,
        }
    }

    /// Nothing is to pass any more but the rest of the frame under way.
    pub fn leave(&mut self) {
        self.leaving = true;
    }

    /// What has passed ends with a frame, or before the first one.
    pub fn is_between_frames(&self) -> bool {
        self.left == 0
    }

    /// Looks at what came, beginning with what did not pass the last time.
    pub fn handle(&mut self, bytes: &[u8]) -> Seen {
        let mut at = 0;
        let then = loop {
            let rest = &bytes[at..];
            if self.left > 0 {
                let length = (rest.len() as u64).min(self.left) as usize;
                match self.read_payload(&rest[..length]) {
                    Ok(()) => at += length,
                    Err(valid) => {
                        at += valid;
                        break Then::Failed(Fault::Text);
                    }
                }
                if self.left > 0 {
                    break Then::More;
                }
                if let Err(fault) = self.end_frame() {
                    break Then::Failed(fault);
                }
                continue;
            }
            if self.leaving {
                break Then::Left;
            }
            let head = match frame::read_head(rest, self.sender) {
                Ok(Some(head)) => head,
                Ok(None) => break Then::More,
                Err(fault) => break Then::Failed(fault),
            };
            if head.opcode.is_control() {
                let size = head.size + head.length as usize;
                let Some(whole) = rest.get(head.size..size) else { break Then::More };
                if head.opcode == Opcode::Close {
                    if let Err(fault) = judge_close(&head, whole) {
                        break Then::Failed(fault);
                    }
                    at += size;
                    break Then::Closed;
                }
                at += size;
                continue;
            }
            if let Err(fault) = self.begin_frame(&head) {
                break Then::Failed(fault);
            }
            at += head.size;
            if self.left == 0
                && let Err(fault) = self.end_frame()
            {
                break Then::Failed(fault);
            }
        };
        Seen { passes: at, then }
    }

    fn begin_frame(&mut self, head: &FrameHead) -> Result<(), Fault> {
        let message = match (head.opcode, self.message) {
            (Opcode::Continuation, Message::None) => return Err(Fault::Fragments),
            (Opcode::Continuation, message) => message,
            (Opcode::Text, Message::None) => Message::Text,
            (_, Message::None) => Message::Binary,
            _ => return Err(Fault::Fragments),
        };
        // Lengths are below 2^63 each.
        let bytes = self.bytes.saturating_add(head.length);
        if self.most.is_some_and(|most| bytes > most) {
            return Err(Fault::TooBig);
        }
        (self.message, self.bytes) = (message, bytes);
        (self.left, self.last, self.mask) = (head.length, head.last, head.mask);
        Ok(())
    }

    /// An error says how many of these bytes came before the one that is no text.
    fn read_payload(&mut self, payload: &[u8]) -> Result<(), usize> {
        if self.message != Message::Text {
            self.pass(payload.len());
            return Ok(());
        }
        let Some(mask) = self.mask else {
            let read = self.text.read(payload);
            self.pass(read.err().unwrap_or(payload.len()));
            return read;
        };
        let (mut clear, mut done) = ([0; UNMASKED], 0);
        for piece in payload.chunks(UNMASKED) {
            let clear = &mut clear[..piece.len()];
            clear.copy_from_slice(piece);
            // Pieces begin at a multiple of four, so the mask begins with each as it did with the first.
            unmask(clear, mask);
            if let Err(valid) = self.text.read(clear) {
                self.pass(done + valid);
                return Err(done + valid);
            }
            done += piece.len();
        }
        self.pass(done);
        Ok(())
    }

    /// These bytes of the payload have passed; the mask goes on behind them.
    fn pass(&mut self, bytes: usize) {
        self.left -= bytes as u64;
        if let Some(mask) = &mut self.mask {
            mask.rotate_left(bytes % 4);
        }
    }

    fn end_frame(&mut self) -> Result<(), Fault> {
        if !self.last {
            return Ok(());
        }
        let whole = self.message != Message::Text || self.text.is_whole();
        (self.message, self.bytes, self.text) = (Message::None, 0, Utf8::default());
        if whole { Ok(()) } else { Err(Fault::Text) }
    }
}

fn judge_close(head: &FrameHead, payload: &[u8]) -> Result<(), Fault> {
    let mut clear = [0; CONTROL_MOST as usize];
    let clear = &mut clear[..payload.len()];
    clear.copy_from_slice(payload);
    if let Some(mask) = head.mask {
        unmask(clear, mask);
    }
    match clear {
        [] => Ok(()),
        [high, low, reason @ ..] if may_be_said(u16::from_be_bytes([*high, *low])) => {
            std::str::from_utf8(reason).map(|_| ()).map_err(|_| Fault::Text)
        }
        _ => Err(Fault::Close),
    }
}

/// Takes the mask off, or puts it on.
fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let word = u32::from_ne_bytes(mask);
    let (words, rest) = bytes.as_chunks_mut::<4>();
    for four in words {
        *four = (u32::from_ne_bytes(*four) ^ word).to_ne_bytes();
    }
    rest.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
}

#[cfg(test)]
mod tests;

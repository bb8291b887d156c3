//! What the tests of both sides say and hear: frames.

use super::*;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let head = Head { length: payload.len() as u32, kind, flags, stream };
    [&head.written()[..], payload].concat()
}

pub(super) fn open(stream: u32, bytes: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
}

pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    fields.iter().for_each(|(name, value)| raw_field(name, value, &mut block));
    block
}

/// In the case that is given.
fn raw_field(name: &str, value: &str, block: &mut Vec<u8>) {
    block.push(0);
    for text in [name, value] {
        proto_http::coding::write_integer(text.len() as u64, 7, 0, block);
        block.extend_from_slice(text.as_bytes());
    }
}

/// The frames that these bytes are, and nothing else.
pub(super) fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some((head, after)) = bytes.split_first_chunk() {
        let Head { length, kind, flags, stream } = Head::read(head);
        let (payload, after) = after.split_at(length as usize);
        frames.push(Frame { kind, flags, stream, payload: payload.to_vec() });
        bytes = after;
    }
    assert!(bytes.is_empty());
    frames
}

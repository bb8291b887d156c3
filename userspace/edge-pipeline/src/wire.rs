//! HTTP/1.1 framing and buffers: taken off what was received, put on what is sent. What the bytes are, [`proto_http::h1`] decides;
//! here they find their place in buffers and go to a connection, a client's or a backend's.

use crate::body::Piece;
use base_runtime::Buf;
use base_tls::Transport;
use proto_http::Headers;
use proto_http::h1::{self, BodyDecoder};

/// Takes the framing off a received buffer: the body's bytes move together at its front, so that a chunked body costs
/// one pass and no buffers of its own. Gives back the bytes after the body's end, if there are any.
pub fn unframe(decoder: &mut BodyDecoder, buffer: &mut Buf) -> Result<Option<Buf>, h1::FramingError> {
    let (mut read, mut written) = (0, 0);
    while read < buffer.len() {
        let decoded = decoder.decode(&buffer[read..])?;
        let data = read + decoded.data.start..read + decoded.data.end;
        let length = data.len();
        if data.start != written && length > 0 {
            buffer.as_mut_slice().copy_within(data, written);
        }
        written += length;
        read += decoded.consumed;
        if decoded.done {
            break;
        }
    }
    let rest = (read < buffer.len()).then(|| buffer.split_off(read));
    buffer.truncate(written);
    Ok(rest)
}

/// Sends a head in front of the first piece of its body, in the piece's own buffer where it has room for that.
pub fn send_head(stream: &Transport, head: &[u8], piece: Option<Piece>, chunked: bool) {
    match piece {
        None => send_bytes(stream, &[head]),
        Some(Piece::Buf(buffer)) => send_head_and_buffer(stream, head, buffer, chunked),
        Some(Piece::Bytes(bytes)) if chunked => {
            send_bytes(stream, &[head, h1::chunk_prefix(bytes.len()).as_ref(), &bytes, h1::CHUNK_END]);
        }
        Some(Piece::Bytes(bytes)) => send_bytes(stream, &[head, &bytes]),
        Some(Piece::Pipe(_)) => unreachable!("the first piece is asked for to be seen"),
    }
}

fn send_head_and_buffer(stream: &Transport, head: &[u8], mut buffer: Buf, chunked: bool) {
    if !chunked {
        if !buffer.prepend(head) {
            send_bytes(stream, &[head]);
        }
        stream.send(buffer);
        return;
    }
    let prefix = h1::chunk_prefix(buffer.len());
    let room = prefix.as_ref().len() + head.len();
    if buffer.headroom() >= room && buffer.tailroom() >= h1::CHUNK_END.len() {
        buffer.append(h1::CHUNK_END);
        buffer.prepend(prefix.as_ref());
        buffer.prepend(head);
        stream.send(buffer);
    } else {
        send_bytes(stream, &[head]);
        send_chunk(stream, buffer);
    }
}

/// Sends a piece of a body, as a chunk of its own where the body is `chunked`. What is left in the kernel is sent by the socket it
/// goes to, which has to wait for it.
pub fn send_piece(stream: &Transport, piece: Piece, chunked: bool) {
    match piece {
        Piece::Buf(buffer) if chunked => send_chunk(stream, buffer),
        Piece::Buf(buffer) => stream.send(buffer),
        Piece::Bytes(bytes) if chunked => {
            send_bytes(stream, &[h1::chunk_prefix(bytes.len()).as_ref(), &bytes, h1::CHUNK_END]);
        }
        Piece::Bytes(bytes) => send_bytes(stream, &[&bytes]),
        Piece::Pipe(_) => unreachable!("bytes that are to be seen are in memory"),
    }
}

/// Copies pieces into buffers and sends them.
pub fn send_bytes(stream: &Transport, pieces: &[&[u8]]) {
    let mut buffer = Buf::alloc();
    for piece in pieces {
        let mut rest = *piece;
        loop {
            let taken = buffer.append(rest);
            rest = &rest[taken..];
            if rest.is_empty() {
                break;
            }
            stream.send(std::mem::replace(&mut buffer, Buf::alloc()));
        }
    }
    if !buffer.is_empty() {
        stream.send(buffer);
    }
}

/// Frames a piece of a chunked body and sends it; the frame goes into the buffer's own room when it has any.
fn send_chunk(stream: &Transport, mut piece: Buf) {
    let prefix = h1::chunk_prefix(piece.len());
    if !piece.prepend(prefix.as_ref()) {
        send_bytes(stream, &[prefix.as_ref()]);
    }
    let whole = piece.tailroom() >= h1::CHUNK_END.len();
    if whole {
        piece.append(h1::CHUNK_END);
    }
    stream.send(piece);
    if !whole {
        send_bytes(stream, &[h1::CHUNK_END]);
    }
}

/// The end of a chunked body, with its trailers.
pub fn send_last_chunk(stream: &Transport, trailers: Option<&Headers>) {
    match trailers.filter(|t| !t.is_empty()) {
        None => send_bytes(stream, &[h1::LAST_CHUNK]),
        Some(trailers) => {
            let mut end = Vec::new();
            h1::write_trailers(&mut end, trailers);
            send_bytes(stream, &[&end]);
        }
    }
}

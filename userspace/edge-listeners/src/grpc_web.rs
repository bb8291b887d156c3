//! gRPC-Web (github.com/grpc/grpc, doc/PROTOCOL-WEB.md), which pages in browsers speak: calls of gRPC whose trailers are the last frame of
//! the body, as bytes or as base64, over any version of HTTP. Behind this it is gRPC.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use edge_pipeline::body::booked;
use edge_pipeline::grpc;
use edge_pipeline::{Body, BodyError, BodyStream, Exchange, Piece, Sight};
use proto_http::Headers;
use std::task::{Context, Poll};

const WEB: &str = "application/grpc-web";
const TEXT: &str = "application/grpc-web-text";

/// The flag of the frame that holds trailers.
const TRAILERS: u8 = 0x80;

/// How a client wants its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Web {
    /// In base64.
    text: bool,
}

/// Makes a call of gRPC of one of gRPC-Web; `None` leaves whatever else it is.
pub fn receive(exchange: &mut Exchange) -> Option<Web> {
    let space = exchange.default_space();
    let said = space.request.headers.text("Content-Type")?.to_ascii_lowercase();
    let (text, rest) = match said.strip_prefix(TEXT) {
        Some(rest) => (true, rest),
        None => (false, said.strip_prefix(WEB)?),
    };
    if !matches!(rest.as_bytes().first(), None | Some(b'+' | b';' | b' ')) {
        return None;
    }
    let is_grpc = format!("application/grpc{rest}");
    space.request.headers.set("Content-Type", is_grpc);
    if text {
        space.request.headers.remove("Content-Length");
        space.request_body = match std::mem::take(&mut space.request_body) {
            Body::Stream(body) => Body::Stream(Box::new(Decoded { body, carried: Vec::new(), ended: false })),
            there => there,
        };
    }
    Some(Web { text })
}

/// Makes an answer of gRPC-Web of one of gRPC.
pub fn answer(web: Web, exchange: &mut Exchange) {
    let space = exchange.default_space();
    let Some(response) = space.response.as_mut().filter(|response| grpc::is_grpc(&response.headers)) else { return };
    let said = response.headers.text("Content-Type").unwrap_or_default().to_owned();
    let rest = said.get("application/grpc".len()..).unwrap_or_default();
    let name = if web.text { TEXT } else { WEB };
    response.headers.set("Content-Type", format!("{name}{rest}"));
    space.response_body = match std::mem::take(&mut space.response_body) {
        // Its end tells nothing more than its head has.
        Body::Empty => Body::Empty,
        body => {
            response.headers.remove("Content-Length");
            Body::Stream(Box::new(Framed { body, text: web.text, ready: Bytes::new(), ended: false }))
        }
    };
}

/// A request in base64, read.
struct Decoded {
    body: Box<dyn BodyStream>,
    /// Characters of a group that has not come to its end: three at most.
    carried: Vec<u8>,
    ended: bool,
}

impl BodyStream for Decoded {
    fn poll_piece(&mut self, cx: &mut Context<'_>, _: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        loop {
            if self.ended {
                return Poll::Ready(Ok(None));
            }
            match std::task::ready!(self.body.poll_piece(cx, Sight::Seen))? {
                Some(piece) => {
                    let mut out = Vec::with_capacity(piece.len());
                    if decode(&mut self.carried, piece.seen(), &mut out).is_none() {
                        return Poll::Ready(Err(BodyError::Malformed { status: 400 }));
                    }
                    if !out.is_empty() {
                        return Poll::Ready(Ok(Some(Piece::Bytes(booked(out)))));
                    }
                }
                None if self.carried.is_empty() => self.ended = true,
                None => return Poll::Ready(Err(BodyError::Malformed { status: 400 })),
            }
        }
    }

    fn remaining(&self) -> Option<u64> {
        None
    }
}

/// Reads base64 that may be padded wherever its writer stopped for a while. `None`: it is none.
fn decode(carried: &mut Vec<u8>, input: &[u8], out: &mut Vec<u8>) -> Option<()> {
    carried.extend_from_slice(input);
    let whole = carried.len() / 4 * 4;
    let mut from = 0;
    while from < whole {
        let padded = carried[from..whole].chunks(4).position(|group| group.contains(&b'='));
        let to = padded.map_or(whole, |group| from + (group + 1) * 4);
        STANDARD.decode_vec(&carried[from..to], out).ok()?;
        from = to;
    }
    carried.drain(..whole);
    Some(())
}

/// An answer whose trailers are a frame of its body.
struct Framed {
    body: Body,
    text: bool,
    /// What waits to be handed on.
    ready: Bytes,
    ended: bool,
}

impl BodyStream for Framed {
    fn poll_piece(&mut self, cx: &mut Context<'_>, _: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        loop {
            if !self.ready.is_empty() {
                let some = self.ready.len().min(Piece::MOST);
                return Poll::Ready(Ok(Some(Piece::Bytes(self.ready.split_to(some)))));
            }
            if self.ended {
                return Poll::Ready(Ok(None));
            }
            match std::task::ready!(self.body.poll_piece(cx, Sight::Seen))? {
                Some(piece) if !self.text => return Poll::Ready(Ok(Some(piece))),
                Some(piece) => self.ready = booked(STANDARD.encode(piece.seen()).into_bytes()),
                None => {
                    self.ended = true;
                    let frame = frame(&self.body.trailers().unwrap_or_default());
                    self.ready = booked(if self.text { STANDARD.encode(frame).into_bytes() } else { frame });
                }
            }
        }
    }

    fn remaining(&self) -> Option<u64> {
        None
    }
}

/// Trailers as the last frame of a body: names in lower case, lines as in HTTP/1.1.
fn frame(trailers: &Headers) -> Vec<u8> {
    let mut lines = Vec::new();
    for (name, value, _) in trailers.iter() {
        lines.extend(name.iter().map(u8::to_ascii_lowercase));
        lines.extend_from_slice(b": ");
        lines.extend_from_slice(value);
        lines.extend_from_slice(b"\r\n");
    }
    let mut frame = vec![TRAILERS];
    frame.extend_from_slice(&u32::try_from(lines.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.append(&mut lines);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_however_it_is_cut_and_padded() {
        let text =
            [STANDARD.encode(b"a"), STANDARD.encode(b"bc"), STANDARD.encode(b"def"), STANDARD.encode(b"g")].concat();
        for step in 1..=text.len() {
            let (mut carried, mut out) = (Vec::new(), Vec::new());
            for part in text.as_bytes().chunks(step) {
                assert!(decode(&mut carried, part, &mut out).is_some() && carried.len() < 4);
            }
            assert_eq!((out.as_slice(), carried.len()), (&b"abcdefg"[..], 0), "{step}");
        }
        for wrong in ["a*bc", "=abc", "ab=c", "QQ=A"] {
            assert!(decode(&mut Vec::new(), wrong.as_bytes(), &mut Vec::new()).is_none(), "{wrong}");
        }
    }

    #[test]
    fn trailers_are_a_frame() {
        let mut trailers = Headers::default();
        trailers.set("Grpc-Status", "0");
        trailers.set("x-a", "b c");
        let wanted = b"\x80\0\0\0\x1agrpc-status: 0\r\nx-a: b c\r\n";
        assert_eq!(frame(&trailers), wanted);
        assert_eq!(frame(&Headers::default()), b"\x80\0\0\0\0");
    }

    #[test]
    fn only_what_says_so_is_taken_for_it() {
        for (said, wanted, becomes) in [
            ("application/grpc-web", Some(Web { text: false }), "application/grpc"),
            ("application/grpc-web+proto", Some(Web { text: false }), "application/grpc+proto"),
            ("Application/gRPC-Web-Text+proto", Some(Web { text: true }), "application/grpc+proto"),
            ("application/grpc-webber", None, "application/grpc-webber"),
            ("application/grpc", None, "application/grpc"),
            ("text/plain", None, "text/plain"),
        ] {
            let mut exchange = Exchange::default();
            exchange.request_mut().headers.set("Content-Type", said);
            assert_eq!(receive(&mut exchange), wanted, "{said}");
            assert_eq!(exchange.request().headers.text("Content-Type"), Some(becomes));
        }
    }
}

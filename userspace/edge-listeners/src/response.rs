//! Writing an answer to the client: head and first piece in one buffer, the rest as it comes.

use crate::clock;
use crate::pace::Pace;
use base_runtime::net::{Pipe, StreamState};
use base_runtime::time::Deadline;
use base_tls::Transport;
use edge_pipeline::wire::{send_bytes, send_head, send_last_chunk, send_piece};
use edge_pipeline::{Body, Piece, Sight};
use proto_http::date::ImfDate;
use proto_http::h1::{self, Framing, ResponseOptions};
use proto_http::{Known, Response, Version};
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

/// An answer of this size finds room in the kernel: nobody waits for it before the connection is closed.
const SMALL: usize = 32 * 1024;

/// Bytes of an answer that may wait for a client that reads slowly.
const SEND_HIGH_WATER: usize = 128 * 1024;

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Handed to the kernel, or queued within bounds.
    Whole,
    /// The body broke off before anything was sent: an answer with this status can still be given.
    Nothing { status: u16 },
    /// The body broke off: the connection must be closed so that the client sees it.
    Cut,
    /// The client took nothing for longer than [`Timeouts::send`](crate::Timeouts::send).
    Stalled,
    /// The client took less than [`Timeouts::rate`](crate::Timeouts::rate).
    Slow,
    /// The client has gone.
    Gone,
}

/// What the request says about the way its answer is written.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    pub head_request: bool,
    pub client: Version,
    pub keep_alive: bool,
    pub upgrade: bool,
    /// A CONNECT that was let through.
    pub tunnel: bool,
}

/// How a body of this kind is framed for this client.
pub fn framing(response: &Response, body: &Body, manner: Manner) -> Framing {
    let status = response.status;
    match body.length() {
        _ if status < 200 || status == 204 || status == 304 || manner.tunnel => Framing::Empty,
        // The answer to HEAD announces what the backend announced, although no body follows.
        Some(0) if manner.head_request => announced(response),
        Some(_) if body.has_trailers() && manner.client != Version::Http10 => Framing::Chunked,
        Some(length) => Framing::Length(length),
        None if manner.client == Version::Http10 => Framing::UntilClose,
        None => Framing::Chunked,
    }
}

fn announced(response: &Response) -> Framing {
    let length = response.headers.known(Known::ContentLength).and_then(|v| std::str::from_utf8(v).ok()?.parse().ok());
    length.map_or(Framing::Empty, Framing::Length)
}

/// Sends the answer; says how it ended and how many bytes it took.
pub async fn send(
    stream: &Transport,
    response: &Response,
    mut body: Body,
    framing: Framing,
    manner: Manner,
    deadline: &Deadline,
    pace: &mut Pace,
) -> (Sent, u64) {
    let before = stream.bytes_said();
    let total = |stream: &Transport| stream.bytes_said().saturating_sub(before);
    let mut chunked = framing == Framing::Chunked;
    if manner.head_request || framing == Framing::Empty {
        body = Body::Empty;
        chunked = false;
    }
    // What is there already travels with the head.
    let first = poll_fn(|cx| Poll::Ready(body.poll_piece(cx, Sight::Seen))).await;
    let (first, mut ended) = match first {
        Poll::Ready(Err(error)) => return (Sent::Nothing { status: error.response_status() }, 0),
        Poll::Ready(Ok(None)) => (None, true),
        Poll::Ready(Ok(piece)) => (piece, !body.is_stream() && body.length() == Some(0)),
        Poll::Pending => (None, false),
    };
    with_head(response, framing, manner, |head| send_head(stream, head, first, chunked));
    // Bytes that go out as they come need not be seen.
    let unseen = !chunked && matches!(stream, Transport::Plain(_));
    let sight = if unseen { Sight::Unseen } else { Sight::Seen };
    while !ended {
        match room(stream, SEND_HIGH_WATER, deadline, pace).await {
            Sent::Whole => {}
            other => return (other, total(stream)),
        }
        // While the backend is silent, a client that leaves is noticed.
        let piece = poll_fn(|cx| {
            if let Poll::Ready(piece) = body.poll_piece(cx, sight) {
                return Poll::Ready(Some(piece));
            }
            if stream.poll_readable(cx).is_ready() && is_closed(stream) {
                return Poll::Ready(None);
            }
            Poll::Pending
        });
        match piece.await {
            None => return (Sent::Gone, total(stream)),
            Some(Err(_)) => return (Sent::Cut, total(stream)),
            Some(Ok(None)) => ended = true,
            Some(Ok(Some(Piece::Pipe(pipe)))) => match relay(stream, pipe, deadline, pace).await {
                Sent::Whole => {}
                other => return (other, total(stream)),
            },
            Some(Ok(Some(piece))) => send_piece(stream, piece, chunked),
        }
    }
    if chunked {
        send_last_chunk(stream, body.trailers().as_ref());
    }
    let sent = settle(stream, manner, deadline, pace).await;
    (sent, total(stream))
}

/// Waits until the next request may be read: a client that asks on without reading its answers must not fill our memory.
/// Before the connection is closed everything must be with the kernel, which no longer waits for it afterwards.
async fn settle(stream: &Transport, manner: Manner, deadline: &Deadline, pace: &mut Pace) -> Sent {
    let most = if manner.keep_alive || manner.upgrade || manner.tunnel || stream.send_queue_len() <= SMALL {
        SEND_HIGH_WATER
    } else {
        0
    };
    room(stream, most, deadline, pace).await
}

/// Waits until no more than `most` bytes are queued, as long as the client takes enough of them.
async fn room(stream: &Transport, most: usize, deadline: &Deadline, pace: &mut Pace) -> Sent {
    in_time(stream, deadline, pace, |cx| stream.poll_send_ready(cx, most)).await
}

/// Sends what is in the pipe, as long as the client takes enough of it.
async fn relay(stream: &Transport, mut pipe: Pipe, deadline: &Deadline, pace: &mut Pace) -> Sent {
    in_time(stream, deadline, pace, |cx| stream.socket().poll_send_pipe(&mut pipe, cx)).await
}

/// Waits until `poll` says that enough was sent, as long as the client takes enough.
async fn in_time(
    stream: &Transport,
    deadline: &Deadline,
    pace: &mut Pace,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
) -> Sent {
    let ready = poll_fn(|cx| Poll::Ready(poll(cx))).await;
    match ready {
        Poll::Ready(Ok(())) => return Sent::Whole,
        Poll::Ready(Err(_)) => return Sent::Gone,
        Poll::Pending => {}
    }
    let taken = || stream.bytes_sent().saturating_sub(stream.socket().unacknowledged() as u64);
    let (mut had, mut since) = (taken(), base_runtime::now());
    loop {
        deadline.set_after(pace.patience());
        let ready = poll_fn(|cx| match poll(cx) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending => deadline.poll_expired(cx).map(|()| None),
        });
        let ready = ready.await;
        deadline.clear();
        let (has, now) = (taken(), base_runtime::now());
        let more = has.saturating_sub(had);
        let too_slow = pace.is_rate() || more > 0;
        pace.add(more, now.saturating_duration_since(since));
        match ready {
            Some(Ok(())) => return Sent::Whole,
            Some(Err(_)) => return Sent::Gone,
            None if more == 0 || pace.patience().is_zero() => {
                return if too_slow { Sent::Slow } else { Sent::Stalled };
            }
            None => (had, since) = (has, now),
        }
    }
}

/// Sends an answer that precedes the answer (RFC 9110 section 15.2). A client that does not read what it has gets none.
pub fn send_interim(stream: &Transport, response: &Response) {
    if stream.send_queue_len() > SEND_HIGH_WATER {
        return;
    }
    let manner =
        Manner { head_request: false, client: Version::Http11, keep_alive: true, upgrade: false, tunnel: false };
    with_head(response, Framing::Empty, manner, |head| send_bytes(stream, &[head]));
}

/// The peer has gone: nothing it sent is left to read and nothing will come.
pub fn is_closed(stream: &Transport) -> bool {
    matches!(stream.peek_state(), StreamState::Eof | StreamState::Error(_))
}

fn with_head(response: &Response, framing: Framing, manner: Manner, use_it: impl FnOnce(&[u8])) {
    thread_local! {
        static HEAD: RefCell<(Vec<u8>, ImfDate)> = RefCell::new((Vec::new(), ImfDate::new(0)));
    }
    HEAD.with_borrow_mut(|(head, date)| {
        head.clear();
        let options = ResponseOptions {
            framing,
            keep_alive: manner.keep_alive,
            client: manner.client,
            date: date.refresh(clock::seconds()),
            upgrade: manner.upgrade,
            head_request: manner.head_request,
            tunnel: manner.tunnel,
        };
        h1::write_response_head(head, response, &options);
        use_it(head);
    });
}

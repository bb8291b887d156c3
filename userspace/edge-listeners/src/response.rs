//! An answer on its way to the client: head and first piece together, the rest as it comes.

use crate::client_stream::{AnswerHead, ClientStream, Follows};
use crate::pace::Pace;
use base_runtime::time::Deadline;
use edge_pipeline::{Body, Piece, Sight};
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Handed to the kernel, or queued within bounds.
    Whole,
    /// The body broke off before anything was sent: an answer with this status can still be given.
    Nothing { status: u16 },
    /// The body broke off: the client must be made to see it.
    Cut,
    /// The client took nothing for longer than [`Timeouts::send`](crate::Timeouts::send).
    Stalled,
    /// The client took less than [`Timeouts::rate`](crate::Timeouts::rate).
    Slow,
    /// The client has gone.
    Gone,
}

/// Sends the answer; says how it ended. Fields of its head that filters have set, or removed, do not come again in its trailers;
/// how many were left out is added to `dropped`.
pub async fn send<S: ClientStream>(
    stream: &mut S,
    head: &AnswerHead<'_>,
    mut body: Body,
    pace: &mut Pace,
    dropped: &mut usize,
) -> Sent {
    if head.follows != Follows::Body {
        stream.send_head(head, None);
        return in_time(stream, pace, S::poll_settled).await;
    }
    // What is there already travels with the head.
    let first = poll_fn(|cx| Poll::Ready(body.poll_piece(cx, Sight::Seen))).await;
    let (first, ended) = match first {
        Poll::Ready(Err(error)) => return Sent::Nothing { status: error.response_status() },
        Poll::Ready(Ok(None)) => (None, true),
        Poll::Ready(Ok(piece)) => (piece, !body.is_stream() && body.length() == Some(0)),
        Poll::Pending => (None, false),
    };
    stream.send_head(head, first);
    if !ended {
        match relay(stream, &mut body, pace).await {
            Sent::Whole => {}
            other => return other,
        }
    }
    let mut trailers = body.trailers();
    if let Some(trailers) = &mut trailers {
        let had = trailers.len();
        trailers.retain(|name| !head.response.headers.is_ruled(name));
        *dropped += had - trailers.len();
    }
    stream.send_end(trailers.as_ref());
    in_time(stream, pace, S::poll_settled).await
}

/// Sends a body as it comes, to its end.
async fn relay<S: ClientStream>(stream: &mut S, body: &mut Body, pace: &mut Pace) -> Sent {
    let sight = if stream.takes_pipes() { Sight::Unseen } else { Sight::Seen };
    loop {
        match in_time(stream, pace, S::poll_room).await {
            Sent::Whole => {}
            other => return other,
        }
        // While the backend is silent, a client that leaves is noticed.
        let piece = poll_fn(|cx| match body.poll_piece(cx, sight) {
            Poll::Ready(piece) => Poll::Ready(Some(piece)),
            Poll::Pending => stream.poll_gone(cx).map(|()| None),
        });
        match piece.await {
            None => return Sent::Gone,
            Some(Err(_)) => return Sent::Cut,
            Some(Ok(None)) => return Sent::Whole,
            Some(Ok(Some(Piece::Pipe(mut pipe)))) => {
                match in_time(stream, pace, |stream, cx| stream.poll_send_pipe(&mut pipe, cx)).await {
                    Sent::Whole => {}
                    other => return other,
                }
                // Both sides may be faster than we are: others are served in between.
                base_runtime::yield_now().await;
            }
            Some(Ok(Some(piece))) => stream.send_data(piece),
        }
    }
}

/// Waits until `poll` says that enough was sent, as long as the client takes enough.
async fn in_time<S: ClientStream>(
    stream: &mut S,
    pace: &mut Pace,
    mut poll: impl FnMut(&mut S, &mut Context<'_>) -> Poll<io::Result<()>>,
) -> Sent {
    let ready = poll_fn(|cx| Poll::Ready(poll(stream, cx))).await;
    match ready {
        Poll::Ready(Ok(())) => return Sent::Whole,
        Poll::Ready(Err(_)) => return Sent::Gone,
        Poll::Pending => {}
    }
    let deadline = Deadline::new();
    let (mut had, mut since) = (stream.bytes_taken(), base_runtime::now());
    loop {
        deadline.set_after(pace.patience());
        let ready = poll_fn(|cx| match poll(stream, cx) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending => deadline.poll_expired(cx).map(|()| None),
        });
        let ready = ready.await;
        deadline.clear();
        let (has, now) = (stream.bytes_taken(), base_runtime::now());
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

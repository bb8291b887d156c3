//! An answer on its way to the client: head and first piece together, the rest as it comes.

use crate::client_stream::{AnswerHead, ClientStream, Follows, Turn};
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
    let mut turns = Turns::new(stream.turn());
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
        let more = turns.credit(more, stream.turn());
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

/// What an answer that shares its connection is credited with: a client that takes others' bytes at the time is not slow. But where they
/// move, and this one does not although its turn must have come, or hardly, its own window is what stays closed.
struct Turns {
    /// What the connection had sent when this answer last moved.
    moved: u64,
    /// The same at the last look.
    seen: u64,
}

impl Turns {
    fn new(turn: Turn) -> Turns {
        Turns { moved: turn.sent, seen: turn.sent }
    }

    /// Bytes to credit it with when `own` of its own were taken since the last look.
    fn credit(&mut self, own: u64, turn: Turn) -> u64 {
        let all = turn.sent.saturating_sub(std::mem::replace(&mut self.seen, turn.sent));
        let fair = if own > 0 {
            self.moved = turn.sent;
            own.saturating_mul(2 * turn.answers) >= all
        } else {
            turn.sent.saturating_sub(self.moved) <= turn.answers * turn.share
        };
        if fair { own.max(all) } else { own }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: Turn = Turn { sent: 0, answers: 0, share: 0 };

    fn after(sent: u64) -> Turn {
        Turn { sent, answers: 100, share: 32 * 1024 }
    }

    #[test]
    fn who_waits_for_a_turn_is_credited_with_what_the_connection_sends() {
        let mut turns = Turns::new(after(0));
        // A hundred answers in turn over a slow link: each moves a frame in every hundredth look.
        let mut sent = 0;
        for look in 1..1_000 {
            sent += 16 * 1024;
            let own = if look % 100 == 0 { 16 * 1024 } else { 0 };
            assert_eq!(turns.credit(own, after(sent)), 16 * 1024, "{look}");
        }
    }

    #[test]
    fn who_does_not_move_in_a_whole_round_is_on_its_own() {
        let mut turns = Turns::new(after(0));
        assert!(turns.credit(0, after(3_000_000)) > 0);
        assert_eq!(turns.credit(0, after(3_300_000)), 0);
        assert_eq!(turns.credit(0, after(9_000_000)), 0);
        // A byte now and then is no turn, either.
        assert_eq!(turns.credit(1, after(12_000_000)), 1);
    }

    #[test]
    fn where_nothing_moves_or_nobody_shares_nothing_is_credited() {
        let mut turns = Turns::new(after(70));
        assert_eq!(turns.credit(0, after(70)), 0);
        let mut turns = Turns::new(ALONE);
        assert_eq!((turns.credit(0, ALONE), turns.credit(5, ALONE)), (0, 5));
    }
}

//! Two duplexes joined: after a 101, or a CONNECT that was let through, bytes pass both ways unread.
//!
//! Memory: what one side has not taken is bounded by [`HIGH_WATER`] and one receive queue per direction; beyond it the other side is
//! not read; what passes inside the kernel waits there, [`SPLICED_MOST`] at a time. A side that has finished sending is passed on as such, and the other direction goes on. The end of the second
//! direction, an error on either side, or a long silence of both ends the tunnel. Where the protocol that passes is known, peers are told
//! when it is to end: at once when the server stops, and before a silence ends it.

use base_runtime::net::{Pipe, ReceivedPiece};
use base_runtime::time::Deadline;
use edge_pipeline::Duplex;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Bytes that may wait for a side that reads slowly, per direction.
const HIGH_WATER: usize = 64 * 1024;

/// Bytes that are left in the kernel at a time, per direction.
const SPLICED_MOST: u64 = 512 * 1024;

/// Whether bytes stay in the kernel is judged by this many pieces at a time.
const JUDGED: u32 = 16;

/// Pieces of this size, in bytes, are worth the two system calls that each costs there; smaller ones are gathered cheaper.
const SPLICED_PIECE: u64 = 8 * 1024;

/// How long peers have to end what they were told is over.
const FAREWELL: Duration = Duration::from_secs(5);

/// Pieces that pass in one direction before others have their turn.
const TURN: u32 = 16;

/// How a tunnel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunnelEnd {
    /// Both directions were finished.
    Finished,
    /// One side failed or reset; the other got a reset, too.
    Broken,
    /// Nothing passed for too long. Both sides were told that nothing more comes.
    Idle,
}

/// How long a tunnel may be silent, as its server sees it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    pub silence: Duration,
    /// The server stops: who knows how to say so says it.
    pub stopping: bool,
}

/// Joins both sides to the end. `patience` is asked for whenever something has passed or the silence is over, so that a server that
/// stops can shorten it; `deadline` is set by it, and may be brought forward by others.
pub fn join<'a, P: Fn() -> Patience + Unpin>(
    client: &'a dyn Duplex,
    backend: &'a dyn Duplex,
    deadline: &'a Deadline,
    patience: P,
) -> Joint<'a, P, impl Fn(Side, u64) + Unpin> {
    join_counting(client, backend, deadline, patience, |_, _| ())
}

/// As [`join`]; `count` is told of the bytes of each piece, and who sent it.
pub fn join_counting<'a, P: Fn() -> Patience + Unpin, C: Fn(Side, u64) + Unpin>(
    client: &'a dyn Duplex,
    backend: &'a dyn Duplex,
    deadline: &'a Deadline,
    patience: P,
    count: C,
) -> Joint<'a, P, C> {
    let (ways, parting) = <([Way; 2], Parting)>::default();
    Joint { client, backend, deadline, patience, count, ways, parting, passed: true }
}

/// One of the two that are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Backend,
}

/// How it ended, and of what broke, which side did and why.
#[derive(Debug)]
pub struct Ended {
    pub end: TunnelEnd,
    pub broken: Option<(Side, io::Error)>,
}

/// Two sides that are joined: the future of [`join`]. Written by hand, because tunnels last, and what an async fn is called with lies in its
/// future twice.
pub struct Joint<'a, P, C> {
    client: &'a dyn Duplex,
    backend: &'a dyn Duplex,
    deadline: &'a Deadline,
    patience: P,
    count: C,
    /// From the client, and from the backend.
    ways: [Way; 2],
    parting: Parting,
    /// Something has, since the silence was measured.
    passed: bool,
}

impl<P: Fn() -> Patience + Unpin, C: Fn(Side, u64) + Unpin> Future for Joint<'_, P, C> {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let ended = ready!(self.poll_end(cx));
        self.deadline.clear();
        match ended.end {
            TunnelEnd::Finished => {}
            TunnelEnd::Broken => {
                self.client.abort();
                self.backend.abort();
            }
            TunnelEnd::Idle => {
                self.client.shutdown();
                self.backend.shutdown();
            }
        }
        Poll::Ready(ended)
    }
}

impl<P: Fn() -> Patience + Unpin, C: Fn(Side, u64) + Unpin> Joint<'_, P, C> {
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let Joint { client, backend, deadline, patience, count, ways, parting, passed } = self;
        let ends = |end| Poll::Ready(Ended { end, broken: None });
        let both = [(Side::Client, *client, *backend), (Side::Backend, *backend, *client)];
        for (way, (sender, from, to)) in ways.iter_mut().zip(both) {
            let mut ends = Ends { sender, from, to, passed, count };
            if let Err(of) = way.poll(&mut ends, cx) {
                return Poll::Ready(Ended { end: TunnelEnd::Broken, broken: Some(of) });
            }
        }
        if ways.iter().all(|w| w.done) {
            return ends(TunnelEnd::Finished);
        }
        if std::mem::take(passed) && !parting.told {
            deadline.set_after(parting.silence(*backend, patience()));
        }
        while deadline.poll_expired(cx).is_ready() {
            let Some(left) = parting.expired(*backend, patience()) else { return ends(TunnelEnd::Idle) };
            deadline.set_after(left);
            // What is to be said is said by whoever is asked for it.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// How far the end of a tunnel has come that nobody but its server wants.
#[derive(Default)]
struct Parting {
    /// The server stops, and that was taken note of.
    stopping: bool,
    /// Peers were told: what they still say gains no time.
    told: bool,
}

impl Parting {
    /// The longest silence from now on.
    fn silence(&self, backend: &dyn Duplex, patience: Patience) -> Duration {
        match backend.silence_most() {
            Some(own) if patience.stopping => own.min(patience.silence),
            Some(own) => own,
            None => patience.silence,
        }
    }

    /// The deadline has passed: how long the tunnel still has, or nothing.
    fn expired(&mut self, backend: &dyn Duplex, patience: Patience) -> Option<Duration> {
        let stops = patience.stopping && !std::mem::replace(&mut self.stopping, patience.stopping);
        let tells = !self.told && backend.take_leave();
        self.told |= tells;
        match (stops, tells) {
            // The deadline was brought forward for this: it says nothing of how long the tunnel was silent.
            (true, _) => Some(self.silence(backend, patience)),
            (false, true) => Some(FAREWELL),
            (false, false) => None,
        }
    }
}

/// Both ends of a direction, and who is told of what passes.
struct Ends<'a, C> {
    sender: Side,
    from: &'a dyn Duplex,
    to: &'a dyn Duplex,
    passed: &'a mut bool,
    count: &'a C,
}

/// One direction.
#[derive(Default)]
struct Way {
    done: bool,
    /// Bytes in the kernel that `to` has not taken.
    pipe: Option<Pipe>,
    flow: Flow,
}

impl Way {
    /// An error is of the side that failed.
    fn poll<C: Fn(Side, u64)>(
        &mut self,
        ends: &mut Ends<'_, C>,
        cx: &mut Context<'_>,
    ) -> Result<(), (Side, io::Error)> {
        let (sender, from, to) = (ends.sender, ends.from, ends.to);
        let taker = if sender == Side::Client { Side::Backend } else { Side::Client };
        for _ in 0..TURN {
            if self.done {
                return Ok(());
            }
            if let (Some(pipe), Some(to)) = (&mut self.pipe, to.plain()) {
                match to.poll_send_pipe(pipe, cx) {
                    Poll::Ready(result) => result.map_err(|error| (taker, error))?,
                    Poll::Pending => return Ok(()),
                }
                self.pipe = None;
            }
            match to.poll_send_ready(cx, HIGH_WATER) {
                Poll::Ready(result) => result.map_err(|error| (taker, error))?,
                Poll::Pending => return Ok(()),
            }
            let Poll::Ready(piece) = self.poll_piece(from, cx) else { return Ok(()) };
            let piece = piece.map_err(|error| (sender, error))?;
            if piece.is_none() || to.is_heard() {
                *ends.passed = true;
            }
            match piece {
                Some(ReceivedPiece::Buf(bytes)) => {
                    self.judge(ends, bytes.len() as u64);
                    to.send(bytes);
                }
                Some(ReceivedPiece::Pipe(pipe)) => {
                    self.judge(ends, pipe.len() as u64);
                    self.pipe = Some(pipe);
                }
                None => {
                    to.shutdown();
                    self.done = true;
                }
            }
        }
        // Both sides may be faster than we are: others are served in between.
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn poll_piece(&self, from: &dyn Duplex, cx: &mut Context<'_>) -> Poll<io::Result<Option<ReceivedPiece>>> {
        match from.plain() {
            Some(from) if self.flow.spliced => from.poll_recv_piece(SPLICED_MOST, cx),
            _ => from.poll_recv(cx).map_ok(|bytes| bytes.map(ReceivedPiece::Buf)),
        }
    }

    /// A piece of this many bytes has passed: large ones stay in the kernel from now on where both sides are plain.
    fn judge<C: Fn(Side, u64)>(&mut self, ends: &Ends<'_, C>, bytes: u64) {
        let was = self.flow.spliced;
        (ends.count)(ends.sender, bytes);
        self.flow.add(bytes);
        if let (Some(from), Some(_)) = (ends.from.plain(), ends.to.plain()) {
            if was && !self.flow.spliced {
                // What has come in between shows with the next piece.
                from.end_splice();
            }
        } else {
            self.flow.spliced = false;
        }
    }
}

/// How a direction flows: in large pieces, or in small ones.
#[derive(Default)]
struct Flow {
    pieces: u32,
    bytes: u64,
    spliced: bool,
}

impl Flow {
    fn add(&mut self, bytes: u64) {
        self.pieces += 1;
        self.bytes += bytes;
        if self.pieces == JUDGED {
            self.spliced = self.bytes >= u64::from(JUDGED) * SPLICED_PIECE;
            (self.pieces, self.bytes) = (0, 0);
        }
    }
}

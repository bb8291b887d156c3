//! Two duplexes joined: after a 101, or a CONNECT that was let through, bytes pass both ways unread.
//!
//! Memory: what one side has not taken is bounded by [`HIGH_WATER`] and one receive queue per direction; beyond it the other side is
//! not read; what passes inside the kernel waits there, [`SPLICED_MOST`] at a time. A side that has finished sending is passed on as such, and the other direction goes on. The end of the second
//! direction, an error on either side, or a long silence of both ends the tunnel. Where the protocol that passes is known, peers are told
//! when it is to end: at once when the server stops, and before a silence ends it.

use base_runtime::net::{Pipe, ReceivedPiece};
use base_runtime::time::Deadline;
use edge_pipeline::Duplex;
use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
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
pub async fn join(
    client: &dyn Duplex,
    backend: &dyn Duplex,
    deadline: &Deadline,
    patience: impl Fn() -> Patience,
) -> TunnelEnd {
    join_counting(client, backend, deadline, patience, |_, _| ()).await.end
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

/// As [`join`]; `count` is told of the bytes of each piece, and who sent it.
pub async fn join_counting(
    client: &dyn Duplex,
    backend: &dyn Duplex,
    deadline: &Deadline,
    patience: impl Fn() -> Patience,
    count: impl Fn(Side, u64),
) -> Ended {
    let (passed, mut broken) = (Cell::new(true), None);
    let way = |sender, from, to| Way {
        sender,
        from,
        to,
        passed: &passed,
        count: &count,
        done: false,
        pipe: None,
        flow: Flow::default(),
    };
    let mut ways = [way(Side::Client, client, backend), way(Side::Backend, backend, client)];
    let mut parting = Parting::default();
    let end = poll_fn(|cx| {
        for way in &mut ways {
            if let Err(of) = way.poll(cx) {
                broken = Some(of);
                return Poll::Ready(TunnelEnd::Broken);
            }
        }
        if ways.iter().all(|w| w.done) {
            return Poll::Ready(TunnelEnd::Finished);
        }
        if passed.take() && !parting.told {
            deadline.set_after(parting.silence(backend, patience()));
        }
        while deadline.poll_expired(cx).is_ready() {
            let Some(left) = parting.expired(backend, patience()) else { return Poll::Ready(TunnelEnd::Idle) };
            deadline.set_after(left);
            // What is to be said is said by whoever is asked for it.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await;
    deadline.clear();
    match end {
        TunnelEnd::Finished => {}
        TunnelEnd::Broken => {
            client.abort();
            backend.abort();
        }
        TunnelEnd::Idle => {
            client.shutdown();
            backend.shutdown();
        }
    }
    Ended { end, broken }
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

/// One direction.
struct Way<'a> {
    sender: Side,
    from: &'a dyn Duplex,
    to: &'a dyn Duplex,
    passed: &'a Cell<bool>,
    count: &'a dyn Fn(Side, u64),
    done: bool,
    /// Bytes in the kernel that `to` has not taken.
    pipe: Option<Pipe>,
    flow: Flow,
}

impl Way<'_> {
    /// An error is of the side that failed.
    fn poll(&mut self, cx: &mut Context<'_>) -> Result<(), (Side, io::Error)> {
        let sender = self.sender;
        let taker = if sender == Side::Client { Side::Backend } else { Side::Client };
        for _ in 0..TURN {
            if self.done {
                return Ok(());
            }
            if let (Some(pipe), Some(to)) = (&mut self.pipe, self.to.plain()) {
                match to.poll_send_pipe(pipe, cx) {
                    Poll::Ready(result) => result.map_err(|error| (taker, error))?,
                    Poll::Pending => return Ok(()),
                }
                self.pipe = None;
            }
            match self.to.poll_send_ready(cx, HIGH_WATER) {
                Poll::Ready(result) => result.map_err(|error| (taker, error))?,
                Poll::Pending => return Ok(()),
            }
            let Poll::Ready(piece) = self.poll_piece(cx) else { return Ok(()) };
            let piece = piece.map_err(|error| (sender, error))?;
            if piece.is_none() || self.to.is_heard() {
                self.passed.set(true);
            }
            match piece {
                Some(ReceivedPiece::Buf(bytes)) => {
                    self.judge(bytes.len() as u64);
                    self.to.send(bytes);
                }
                Some(ReceivedPiece::Pipe(pipe)) => {
                    self.judge(pipe.len() as u64);
                    self.pipe = Some(pipe);
                }
                None => {
                    self.to.shutdown();
                    self.done = true;
                }
            }
        }
        // Both sides may be faster than we are: others are served in between.
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn poll_piece(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<ReceivedPiece>>> {
        match self.from.plain() {
            Some(from) if self.flow.spliced => from.poll_recv_piece(SPLICED_MOST, cx),
            _ => self.from.poll_recv(cx).map_ok(|bytes| bytes.map(ReceivedPiece::Buf)),
        }
    }

    /// A piece of this many bytes has passed: large ones stay in the kernel from now on where both sides are plain.
    fn judge(&mut self, bytes: u64) {
        let was = self.flow.spliced;
        (self.count)(self.sender, bytes);
        self.flow.add(bytes);
        if let (Some(from), Some(_)) = (self.from.plain(), self.to.plain()) {
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

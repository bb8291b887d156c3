//! Two duplexes joined: after a 101, or a CONNECT that was let through, bytes pass both ways unread.
//!
//! Memory: what one side has not taken is bounded by [`HIGH_WATER`] and one receive queue per direction; beyond it the other side is
//! not read. A side that has finished sending is passed on as such, and the other direction goes on. The end of the second
//! direction, an error on either side, or a long silence of both ends the tunnel.

use base_runtime::time::Deadline;
use edge_pipeline::Duplex;
use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

/// Bytes that may wait for a side that reads slowly, per direction.
const HIGH_WATER: usize = 64 * 1024;

/// How a tunnel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Both directions were finished.
    Finished,
    /// One side failed or reset; the other got a reset, too.
    Broken,
    /// Nothing passed for too long. Both sides were told that nothing more comes.
    Idle,
}

/// Joins both sides to the end. `idle` is asked for the longest silence whenever something has passed or the silence is
/// over, so that a server that stops can shorten it; `deadline` is set by it, and may be brought forward by others.
pub async fn join(client: &dyn Duplex, backend: &dyn Duplex, deadline: &Deadline, idle: impl Fn() -> Duration) -> End {
    let passed = Cell::new(true);
    let way = |from, to| Way { from, to, passed: &passed, done: false };
    let mut ways = [way(client, backend), way(backend, client)];
    let end = poll_fn(|cx| {
        for way in &mut ways {
            if way.poll(cx).is_err() {
                return Poll::Ready(End::Broken);
            }
        }
        if ways.iter().all(|w| w.done) {
            return Poll::Ready(End::Finished);
        }
        if passed.take() {
            deadline.set_after(idle());
        }
        deadline.poll_expired(cx).map(|()| End::Idle)
    })
    .await;
    deadline.clear();
    match end {
        End::Finished => {}
        End::Broken => {
            client.abort();
            backend.abort();
        }
        End::Idle => {
            client.shutdown();
            backend.shutdown();
        }
    }
    end
}

struct Way<'a> {
    from: &'a dyn Duplex,
    to: &'a dyn Duplex,
    passed: &'a Cell<bool>,
    done: bool,
}

impl Way<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while !self.done {
            match self.to.poll_send_ready(cx, HIGH_WATER) {
                Poll::Ready(result) => result?,
                Poll::Pending => return Ok(()),
            }
            match self.from.poll_recv(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Ready(Ok(Some(bytes))) => {
                    self.passed.set(true);
                    self.to.send(bytes);
                }
                Poll::Ready(Ok(None)) => {
                    self.passed.set(true);
                    self.to.shutdown();
                    self.done = true;
                }
            }
        }
        Ok(())
    }
}

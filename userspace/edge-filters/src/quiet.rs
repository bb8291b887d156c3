//! A tunnel with a bound on its silence of its own.

use base_runtime::Buf;
use base_runtime::net::TcpStream;
use edge_pipeline::Duplex;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

/// A side whose tunnel ends after a silence of so long, and that is otherwise as it was.
#[derive(Debug)]
pub(crate) struct Quiet {
    side: Box<dyn Duplex>,
    most: Duration,
}

impl Quiet {
    /// `None` leaves the bound to the server.
    pub fn limit(side: Box<dyn Duplex>, most: Option<Duration>) -> Box<dyn Duplex> {
        match most {
            Some(most) => Box::new(Quiet { side, most }),
            None => side,
        }
    }
}

impl Duplex for Quiet {
    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Buf>>> {
        self.side.poll_recv(cx)
    }

    fn poll_send_ready(&self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<()>> {
        self.side.poll_send_ready(cx, most)
    }

    fn send(&self, bytes: Buf) {
        self.side.send(bytes);
    }

    fn shutdown(&self) {
        self.side.shutdown();
    }

    fn abort(&self) {
        self.side.abort();
    }

    fn is_heard(&self) -> bool {
        self.side.is_heard()
    }

    fn take_leave(&self) -> bool {
        self.side.take_leave()
    }

    fn silence_most(&self) -> Option<Duration> {
        Some(self.most)
    }

    fn plain(&self) -> Option<&TcpStream> {
        self.side.plain()
    }
}

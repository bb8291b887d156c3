//! The backend's side of a tunnel, with a bound on its silence of its own, or with what is kept for as long as it is there.

use base_runtime::Buf;
use base_runtime::net::TcpStream;
use edge_pipeline::Duplex;
use std::fmt;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

/// A side that is otherwise as it was.
struct Kept<K> {
    side: Box<dyn Duplex>,
    silence_most: Option<Duration>,
    _what: K,
}

/// Its tunnel ends after a silence of so long. `None` leaves the bound to the server.
pub(crate) fn quiet(side: Box<dyn Duplex>, most: Option<Duration>) -> Box<dyn Duplex> {
    match most {
        Some(_) => Box::new(Kept { side, silence_most: most, _what: () }),
        None => side,
    }
}

/// It keeps this, where there is anything, until it is gone.
pub(crate) fn keeping<K: 'static>(side: Box<dyn Duplex>, what: Option<K>) -> Box<dyn Duplex> {
    match what {
        Some(what) => Box::new(Kept { side, silence_most: None, _what: what }),
        None => side,
    }
}

impl<K> fmt::Debug for Kept<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.side.fmt(f)
    }
}

impl<K> Duplex for Kept<K> {
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
        self.silence_most.or_else(|| self.side.silence_most())
    }

    fn plain(&self) -> Option<&TcpStream> {
        self.side.plain()
    }
}

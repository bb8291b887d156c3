//! A WebSocket whose frames are looked at: the backend's side of its tunnel, which passes what is sound and says a Close to both sides
//! when one of them, or time, ends it.
//!
//! What passes is what came, in the buffers it came in; at most the head of a frame, or a control frame, waits for its rest. From the
//! first Close on, whoever says it, both sides have [`FAREWELL`] to finish the frame they are in the middle of and to answer.

use base_runtime::Buf;
use base_runtime::time::Deadline;
use base_telemetry::{Limit, LimitHits};
use edge_pipeline::Duplex;
use proto_websocket::{CloseCode, Fault, Sender, Then, Watch, write_close};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

/// How long sides have to end what was closed; then their connections are cut off.
const FAREWELL: Duration = Duration::from_secs(5);

/// Buffers of a backend that are thrown away behind its Close before others have their turn.
const TURN: u32 = 16;

/// Longest messages, in bytes of their payloads; `None` takes any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub client: Option<u64>,
    pub server: Option<u64>,
}

impl Bounds {
    pub fn are_any(self) -> bool {
        self.client.is_some() || self.server.is_some()
    }
}

/// Counts what was refused.
#[derive(Debug)]
pub struct Faults([(&'static str, Limit); 3]);

impl Faults {
    pub fn new(limits: &LimitHits) -> Faults {
        let kinds = [Fault::Control, Fault::Text, Fault::TooBig];
        Faults(kinds.map(|fault| (fault.name(), limits.register(fault.name()))))
    }

    fn hit(&self, fault: Fault) {
        if let Some((_, limit)) = self.0.iter().find(|(name, _)| *name == fault.name()) {
            limit.hit(base_runtime::worker_index());
        }
    }
}

/// See the module doc.
pub struct Watched {
    backend: Box<dyn Duplex>,
    /// From the client to the backend.
    up: RefCell<Way>,
    down: RefCell<Way>,
    idle: Option<Duration>,
    faults: Arc<Faults>,
    /// Whoever waits for what the backend says.
    receiver: Cell<Option<Waker>>,
    /// Of what it has said, what has not been looked at.
    rest: Cell<Option<Buf>>,
    /// Set once the end has begun, with the first Close.
    farewell: Deadline,
    leaving: Cell<bool>,
}

/// One direction.
struct Way {
    watch: Watch,
    /// What has come of a head, or of a control frame, that is not whole.
    held: Vec<u8>,
    /// What its reader is to be told once the frame under way is over.
    goodbye: Option<CloseCode>,
    end: Option<End>,
}

/// Why nothing more passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Its sender said a Close.
    Closed,
    /// We did, or its reader is in the middle of a frame whose rest it will not get.
    CutOff,
}

/// What became of a buffer.
struct Looked {
    passes: Buf,
    then: Then,
    /// What has not been looked at.
    rest: Option<Buf>,
}

impl Way {
    fn new(sender: Sender, most: Option<u64>) -> RefCell<Way> {
        RefCell::new(Way { watch: Watch::new(sender, most), held: Vec::new(), goodbye: None, end: None })
    }

    fn look(&mut self, mut bytes: Buf) -> Looked {
        let mut rest = None;
        if !self.held.is_empty() && !bytes.prepend(&self.held) {
            let mut joined = Buf::copy_from(&self.held);
            let taken = joined.append(&bytes);
            bytes.advance(taken);
            rest = (!bytes.is_empty()).then_some(bytes);
            bytes = joined;
        }
        self.held.clear();
        let seen = self.watch.handle(&bytes);
        if seen.then == Then::More {
            self.held.extend_from_slice(&bytes[seen.passes..]);
        }
        bytes.truncate(seen.passes);
        Looked { passes: bytes, then: seen.then, rest }
    }

    /// Its reader is to be told that it is over, unless somebody has.
    fn leave(&mut self, code: CloseCode) -> bool {
        let leaves = self.end.is_none() && self.goodbye.is_none();
        if leaves {
            self.goodbye = Some(code);
            self.watch.leave();
        }
        leaves
    }

    /// The Close that its reader is to be told now.
    fn poll_goodbye(&mut self) -> Option<CloseCode> {
        if self.end.is_some() || !self.watch.is_between_frames() {
            return None;
        }
        let code = self.goodbye.take()?;
        self.end = Some(End::CutOff);
        Some(code)
    }
}

impl Watched {
    pub fn new(backend: Box<dyn Duplex>, bounds: Bounds, idle: Option<Duration>, faults: Arc<Faults>) -> Watched {
        Watched {
            backend,
            up: Way::new(Sender::Client, bounds.client),
            down: Way::new(Sender::Server, bounds.server),
            idle,
            faults,
            receiver: Cell::default(),
            rest: Cell::default(),
            farewell: Deadline::new(),
            leaving: Cell::new(false),
        }
    }

    /// What `sender` sent is refused: both sides are told why.
    fn fail(&self, fault: Fault, sender: Sender) {
        self.faults.hit(fault);
        let own = if sender == Sender::Client { &self.up } else { &self.down };
        {
            let mut own = own.borrow_mut();
            if !own.watch.is_between_frames() {
                own.end = Some(End::CutOff);
            }
        }
        self.leave(fault.code());
    }

    /// Tells each side that was not told so far; false when there was none.
    fn leave(&self, code: CloseCode) -> bool {
        let (up, down) = (self.up.borrow_mut().leave(code), self.down.borrow_mut().leave(code));
        self.begin_farewell();
        self.say_goodbye();
        up || down
    }

    /// Tells the backend, when that is due.
    fn say_goodbye(&self) {
        let code = self.up.borrow_mut().poll_goodbye();
        if let Some(code) = code {
            self.backend.send(Buf::copy_from(&write_close(code, Some(mask()))));
        }
    }

    fn end(way: &RefCell<Way>) -> Option<End> {
        way.borrow().end
    }

    /// A Close goes by, or is to be said: from the first one on there is [`FAREWELL`] for all that is left. A side that does not answer
    /// gets no more.
    fn begin_farewell(&self) {
        if !self.leaving.replace(true) {
            self.farewell.set_after(FAREWELL);
        }
        if let Some(receiver) = self.receiver.take() {
            receiver.wake();
        }
    }
}

/// Nobody must know it before; what it hides says nothing.
fn mask() -> [u8; 4] {
    (RandomState::new().hash_one(0u8) as u32).to_ne_bytes()
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("backend", &self.backend).finish_non_exhaustive()
    }
}

impl Duplex for Watched {
    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Buf>>> {
        for _ in 0..TURN {
            if self.farewell.poll_expired(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            if let Some(code) = self.down.borrow_mut().poll_goodbye() {
                return Poll::Ready(Ok(Some(Buf::copy_from(&write_close(code, None)))));
            }
            let end = Self::end(&self.down);
            if end == Some(End::CutOff) {
                return Poll::Ready(Ok(None));
            }
            self.receiver.set(Some(cx.waker().clone()));
            let bytes = match self.rest.take() {
                Some(rest) => rest,
                None => match ready!(self.backend.poll_recv(cx))? {
                    Some(bytes) => bytes,
                    None => return Poll::Ready(Ok(None)),
                },
            };
            if end.is_some() {
                continue;
            }
            let looked = self.down.borrow_mut().look(bytes);
            match looked.then {
                Then::More | Then::Left => {}
                Then::Closed => {
                    self.down.borrow_mut().end = Some(End::Closed);
                    self.begin_farewell();
                }
                Then::Failed(fault) => self.fail(fault, Sender::Server),
            }
            self.rest.set(looked.rest);
            if !looked.passes.is_empty() {
                return Poll::Ready(Ok(Some(looked.passes)));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_send_ready(&self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<()>> {
        if self.farewell.poll_expired(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.backend.poll_send_ready(cx, most)
    }

    fn send(&self, bytes: Buf) {
        let mut next = Some(bytes);
        while let Some(bytes) = next.take() {
            if Self::end(&self.up).is_some() {
                return;
            }
            let looked = self.up.borrow_mut().look(bytes);
            next = looked.rest;
            if !looked.passes.is_empty() {
                self.backend.send(looked.passes);
            }
            match looked.then {
                Then::More | Then::Left => self.say_goodbye(),
                Then::Closed => {
                    self.up.borrow_mut().end = Some(End::Closed);
                    self.begin_farewell();
                }
                Then::Failed(fault) => self.fail(fault, Sender::Client),
            }
        }
    }

    fn shutdown(&self) {
        self.backend.shutdown();
    }

    fn abort(&self) {
        self.backend.abort();
    }

    fn is_heard(&self) -> bool {
        Self::end(&self.up).is_none()
    }

    fn take_leave(&self) -> bool {
        self.leave(CloseCode::GoingAway)
    }

    fn silence_most(&self) -> Option<Duration> {
        self.idle
    }
}

//! What all listeners have in common: a socket per worker, connections counted, spread over the workers and refused no earlier than they
//! must be, and an orderly end.
//!
//! A listener is a [`Listener`]; each worker has its [`Share`] of it. What a connection is for, its share alone knows.

use crate::server::Sockets;
use crate::standing::{Standing, shown};
use base_model::Protocol;
use base_runtime::Worker;
use base_runtime::net::inherited::{self, SocketKind};
use base_runtime::net::{ListenOptions, Seat, Spread, TcpListener, TcpStream};
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};
use std::thread::LocalKey;
use std::time::Duration;

/// Connections that may wait to be accepted, per worker.
const BACKLOG: u32 = 4096;

/// Pause before looking again whether a connection below the most there may be has become free.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// What listens, whatever it speaks.
pub trait Listener: Send + Sync + Sized + 'static {
    type Share: Share;

    fn name(&self) -> &Arc<str>;

    fn front(&self) -> &Arc<Front>;

    /// Makes this worker's share, before any worker accepts.
    fn share(self: &Arc<Self>) -> Rc<Self::Share>;

    /// It listens now, or does not, for this reason.
    fn listens(&self, failure: Option<&str>);
}

/// One worker's share of a listener.
pub trait Share: 'static {
    /// A connection from its beginning to its end.
    type Visit: Future<Output = ()> + 'static;

    /// What this worker serves, by key of the sockets.
    fn shares() -> &'static LocalKey<Shares<Self>>;

    fn door(&self) -> &Door;

    /// Connections there may be, on all workers together. It may change at any time.
    fn connections_most(&self) -> usize;

    /// A connection has to wait because there are as many already.
    fn is_full(&self);

    /// The process has no memory for more: ends what nobody misses.
    fn make_room(&self);

    /// A connection that was accepted and counted, on the worker it has come to.
    fn take_in(self: &Rc<Self>, place: Place, stream: TcpStream, peer: SocketAddr, seat: Seat) -> Self::Visit;

    /// What becomes of one that came too late.
    fn turn_away() -> Self::Visit;

    /// No more are accepted; those that are there come to their end.
    fn stop(&self);

    /// Whether new connections wait in the kernel's queue, because the machine has too much to do.
    fn pauses(&self) -> bool {
        false
    }

    /// Whether nothing is taken from this address; counts it if so.
    fn denies(&self, ip: IpAddr) -> bool;

    /// Whether they are reset for that reason; counts one that is.
    fn rejects(&self) -> bool {
        false
    }
}

/// The shares of a worker, by key of their sockets.
pub type Shares<S> = RefCell<Vec<(u64, Rc<S>)>>;

/// A listener's sockets and connections.
pub struct Front {
    workers: Vec<Worker>,
    connections: AtomicUsize,
    /// Tasks that accept.
    accepting: AtomicUsize,
    /// The sockets in use.
    state: Mutex<Standing<Listening>>,
}

struct Listening {
    key: u64,
    at: SocketAddr,
    /// One per worker, in their order; kept for the kernel plane.
    sockets: Vec<RawFd>,
}

impl Front {
    /// One that does not listen yet.
    pub fn new(workers: &[Worker]) -> Arc<Front> {
        Arc::new(Front {
            workers: workers.to_vec(),
            connections: AtomicUsize::new(0),
            accepting: AtomicUsize::new(0),
            state: Mutex::default(),
        })
    }

    /// Listens if it does not yet. Call it now and then: a port in use may become free.
    pub fn retry<L: Listener>(&self, listener: &Arc<L>, address: &str, port: u16) {
        let open = || self.listen(listener, address, port);
        let why = |error: io::Error| {
            let shown = shown(address);
            format!(
                "cannot listen on {shown}:{port}: {error}; free the port or choose another, it is tried again every 10 s"
            )
        };
        match self.lock().listen(listener.name(), open, why) {
            Some(Ok(listening)) => {
                tracing::info!(server = %listener.name(), address = %listening.at, "listening");
                listener.listens(None);
            }
            Some(Err(why)) => listener.listens(Some(why)),
            None => {}
        }
    }

    /// Listens somewhere else. The old sockets close only when the new ones are open, unless they are in each other's way.
    pub fn move_to<L: Listener>(&self, listener: &Arc<L>, address: &str, port: u16) {
        let old = self.lock().take();
        self.retry(listener, address, port);
        let Some(old) = old else { return };
        self.close::<L>(old.key);
        // Their workers close them now: at once, or in a second or two where the machine has more to do than it can.
        for _ in 0..200 {
            self.retry(listener, address, port);
            if self.lock().get().is_some() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Stops taking connections.
    pub fn stop<L: Listener>(&self) {
        let listening = self.lock().take();
        if let Some(listening) = listening {
            self.close::<L>(listening.key);
        }
    }

    /// Accepts no more, for another process has the sockets, too, and takes whoever comes. Connections go on as they are.
    pub fn release<L: Listener>(&self) {
        let key = self.lock().get().map(|listening| listening.key);
        let Some(key) = key else { return };
        for worker in &self.workers {
            worker.spawn(move || async move {
                if let Some(share) = by_key::<L::Share>(key) {
                    share.door().release();
                }
            });
        }
    }

    /// Whether anything is accepted still.
    pub fn accepts(&self) -> bool {
        self.accepting.load(Ordering::Acquire) > 0
    }

    /// The port and its listening sockets, when it listens.
    pub fn sockets(&self) -> Option<Sockets> {
        let sockets = |l: &Listening| Sockets { at: l.at, protocol: Protocol::Tcp, descriptors: l.sockets.clone() };
        self.lock().get().map(sockets)
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// `running` or `failed`, with the reason.
    pub fn state(&self) -> (&'static str, Option<String>) {
        self.lock().state()
    }

    /// A place among the connections where there are fewer than `most`.
    pub fn place(self: &Arc<Self>, most: usize) -> Option<Place> {
        self.take(most).then(|| Place(Some(self.clone())))
    }

    /// Counts one more where there are fewer than `most`.
    fn take(&self, most: usize) -> bool {
        let more = |n: usize| (n < most).then_some(n + 1);
        self.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// A connection that was counted is gone.
    pub fn uncount(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    fn listen<L: Listener>(&self, listener: &Arc<L>, address: &str, port: u16) -> io::Result<Listening> {
        let mut sockets = bind_all(address, port, self.workers.len())?;
        let at = sockets[0].local_addr();
        let key = next_key();
        let spread = Spread::new(&self.workers);
        let fds = sockets.iter().map(AsRawFd::as_raw_fd).collect();
        // Each worker knows of the listener before the first of them accepts: it may be given what another has accepted.
        for worker in &self.workers {
            let listener = listener.clone();
            worker.spawn(move || {
                let share = listener.share();
                L::Share::shares().with_borrow_mut(|shares| shares.push((key, share)));
                std::future::ready(())
            });
        }
        // Of a process with more workers there are more sockets: in the queue of each somebody may wait.
        for (worker, socket) in self.workers.iter().cycle().zip(sockets.drain(..)) {
            let (listener, spread) = (listener.clone(), spread.clone());
            let accepting = Accepting::begin(listener.front());
            worker.spawn(move || accept(listener, key, socket, spread, accepting));
        }
        Ok(Listening { key, at, sockets: fds })
    }

    fn close<L: Listener>(&self, key: u64) {
        close::<L>(&self.workers, key);
    }

    fn lock(&self) -> MutexGuard<'_, Standing<Listening>> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A key that no other sockets have.
pub(crate) fn next_key() -> u64 {
    static KEYS: AtomicU64 = AtomicU64::new(1);
    KEYS.fetch_add(1, Ordering::Relaxed)
}

/// Closes the doors of the shares with this key.
pub(crate) fn close<L: Listener>(workers: &[Worker], key: u64) {
    for worker in workers {
        worker.spawn(move || async move {
            let share = L::Share::shares().with_borrow_mut(|shares| {
                let at = shares.iter().position(|(k, _)| *k == key)?;
                Some(shares.swap_remove(at).1)
            });
            if let Some(share) = share {
                share.door().close();
                share.stop();
            }
        });
    }
}

/// Where a share takes connections in.
#[derive(Default)]
pub struct Door {
    closed: Cell<bool>,
    /// Another process accepts.
    released: Cell<bool>,
    /// Others receive the datagrams.
    let_go: Cell<bool>,
    /// Over which another process passes on what is for connections of this one.
    passes: RefCell<Vec<UnixStream>>,
    /// Of the tasks that accept.
    accepting: RefCell<Vec<Waker>>,
}

impl Door {
    /// No more are taken in.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Ready once no more are taken in.
    pub fn poll_closed(&self, cx: &mut std::task::Context<'_>) -> Poll<()> {
        self.wakes(cx);
        if self.is_closed() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn wakes(&self, cx: &std::task::Context<'_>) {
        let mut accepting = self.accepting.borrow_mut();
        if !accepting.iter().any(|waker| waker.will_wake(cx.waker())) {
            accepting.push(cx.waker().clone());
        }
    }

    /// What comes over UDP is for others.
    pub fn has_let_go(&self) -> bool {
        self.let_go.get()
    }

    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.wake();
    }

    pub(crate) fn take_passes(&self) -> Option<UnixStream> {
        self.passes.borrow_mut().pop()
    }

    pub(crate) fn let_go(&self, passes: Vec<UnixStream>) {
        self.let_go.set(true);
        self.passes.replace(passes);
        self.wake();
    }

    fn release(&self) {
        self.released.set(true);
        self.wake();
    }

    fn wake(&self) {
        self.accepting.borrow_mut().drain(..).for_each(Waker::wake);
    }

    /// Nothing more is accepted here.
    fn accepts(&self) -> bool {
        !self.closed.get() && !self.released.get()
    }
}

/// A place among the connections a listener may have, taken until it is dropped: with the connection, with a hand-over that never
/// arrives, or in a panic.
pub struct Place(Option<Arc<Front>>);

impl Place {
    /// From here on it is held by something else, which gives it up by [`Front::uncount`].
    pub fn pass_to<T>(mut self, holder: T) -> T {
        self.0 = None;
        holder
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(front) = &self.0 {
            front.uncount();
        }
    }
}

/// A task that accepts, counted until it is dropped.
struct Accepting(Arc<Front>);

impl Accepting {
    fn begin(front: &Arc<Front>) -> Accepting {
        front.accepting.fetch_add(1, Ordering::AcqRel);
        Accepting(front.clone())
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.accepting.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn accept<L: Listener>(listener: Arc<L>, key: u64, socket: TcpListener, spread: Arc<Spread>, _: Accepting) {
    let Some(share) = by_key::<L::Share>(key) else { return };
    let door = share.door();
    while door.accepts() {
        if share.pauses() {
            base_runtime::time::sleep(FULL_PAUSE).await;
            continue;
        }
        let mut accepted = pin!(socket.accept());
        let next = poll_fn(|cx| {
            if !door.accepts() {
                return Poll::Ready(None);
            }
            door.wakes(cx);
            accepted.as_mut().poll(cx).map(Some)
        });
        match next.await {
            None => break,
            Some(Ok((stream, peer))) if share.denies(peer.ip()) || share.rejects() => stream.abort(),
            Some(Ok((stream, peer))) => {
                let Some(place) = find_room(&*listener, &*share).await else { break };
                serve_one(&*share, place, key, stream, peer, &spread);
            }
            Some(Err(error)) => {
                tracing::warn!(server = %listener.name(), %error, "accept failed");
                base_runtime::time::sleep(FULL_PAUSE).await;
            }
        }
    }
    // What the kernel has handed over already is nobody else's.
    while !door.is_closed()
        && let Some((stream, peer)) = poll_fn(|cx| socket.poll_rest(cx)).await
    {
        if share.denies(peer.ip()) {
            stream.abort();
            continue;
        }
        let Some(place) = find_room(&*listener, &*share).await else { break };
        serve_one(&*share, place, key, stream, peer, &spread);
    }
}

/// Lets a connection in, on this worker or another.
fn serve_one<S: Share>(share: &S, place: Place, key: u64, stream: TcpStream, peer: SocketAddr, spread: &Arc<Spread>) {
    if base_runtime::memory::is_over() {
        // It is let in to be told so, in the place of one that has nothing to say.
        share.make_room();
    }
    spread.serve(stream, move |stream, seat| take_in::<S>(place, key, stream, peer, seat));
}

pub(crate) fn by_key<S: Share>(key: u64) -> Option<Rc<S>> {
    S::shares().with_borrow(|shares| shares.iter().find(|(k, _)| *k == key).map(|(_, share)| share.clone()))
}

/// On the worker the connection has come to.
fn take_in<S: Share>(place: Place, key: u64, stream: TcpStream, peer: SocketAddr, seat: Seat) -> S::Visit {
    match by_key::<S>(key).filter(|share| !share.door().is_closed()) {
        Some(share) => share.take_in(place, stream, peer, seat),
        None => S::turn_away(),
    }
}

/// Waits until there are fewer connections than there may be and counts one more. Meanwhile others wait in the kernel's queue. `None`
/// when the listener stopped first.
async fn find_room<L: Listener>(listener: &L, share: &L::Share) -> Option<Place> {
    let front = listener.front();
    let mut waited = false;
    while !front.take(share.connections_most()) {
        if share.door().is_closed() {
            return None;
        }
        if !std::mem::replace(&mut waited, true) {
            share.is_full();
        }
        base_runtime::time::sleep(FULL_PAUSE).await;
    }
    Some(Place(Some(front.clone())))
}

/// Until this process may read what comes to sockets of UDP: at once, unless the process before it has not left yet.
pub(crate) async fn wait_for_datagrams() {
    while !inherited::datagrams_are_ours() {
        base_runtime::time::sleep(TURN).await;
    }
}

/// Between two looks whether the process before has left the datagrams to this one.
const TURN: Duration = Duration::from_millis(5);

/// One socket per worker on the same port, so that the kernel (or our own program) spreads connections over them.
fn bind_all(address: &str, port: u16, count: usize) -> io::Result<Vec<TcpListener>> {
    let options = || ListenOptions { backlog: BACKLOG, reuse_port: true, ..ListenOptions::default() };
    let adopt = |socket: OwnedFd| Ok(TcpListener::from_std(socket.into()));
    let bind = |at| TcpListener::bind(at, options());
    bind_each(address, port, count, SocketKind::Stream, adopt, TcpListener::is_free, bind).map(|(_, sockets)| sockets)
}

/// As many sockets as there are workers, of whatever kind `bind` makes, and where they are. Those that the process before this one
/// hands over are adopted, be they more. `probe` finds out whether nobody else is there, without sharing the port.
pub(crate) fn bind_each<S>(
    address: &str,
    port: u16,
    count: usize,
    kind: SocketKind,
    adopt: impl Fn(OwnedFd) -> io::Result<S>,
    probe: impl Fn(SocketAddr) -> io::Result<()>,
    bind: impl Fn(SocketAddr) -> io::Result<S>,
) -> io::Result<(SocketAddr, Vec<S>)> {
    let mut candidates = Vec::new();
    match address {
        // Both families through one socket where there is IPv6.
        "" => {
            candidates.push(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port));
            candidates.push(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port));
        }
        text => {
            use std::net::ToSocketAddrs;
            candidates.extend((text.trim_matches(['[', ']']), port).to_socket_addrs()?);
        }
    }
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for candidate in &candidates {
        let inherited = inherited::take(kind, *candidate);
        if !inherited.is_empty() {
            let mut sockets = inherited.into_iter().map(&adopt).collect::<io::Result<Vec<_>>>()?;
            while sockets.len() < count {
                sockets.push(bind(*candidate)?);
            }
            return Ok((*candidate, sockets));
        }
    }
    for candidate in candidates {
        // A port that another process shares with us through SO_REUSEPORT would split its connections: refuse it.
        if let Err(error) = probe(candidate) {
            last = error;
            if last.kind() == io::ErrorKind::AddrInUse {
                return Err(last);
            }
            continue;
        }
        match (0..count).map(|_| bind(candidate)).collect::<io::Result<Vec<_>>>() {
            Ok(sockets) => return Ok((candidate, sockets)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

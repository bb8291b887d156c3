//! The shell of one worker's socket: datagrams to the connections they are for, new connections in turn.

use crate::connection::{Connection, Driver, translated};
use crate::connection_id::{self, Place};
use crate::elsewhere::{Stray, Ways, came_to};
use crate::handshakes::{Handshake, Handshakes};
use crate::keys::QuicKeys;
use crate::passing::{Passed, Passing};
use crate::settings;
use crate::stats::{self, Count};
use base_runtime::channel::{Receiver, Sender, mailbox};
use base_runtime::memory;
use base_runtime::net::udp::{Ecn, Received, UdpSocket};
use base_runtime::time::Deadline;
use bytes::BytesMut;
use quinn_proto::{ConnectionHandle, DatagramEvent, EcnCodepoint, Incoming, ServerConfig};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::ops::BitOr;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// What new connections are for.
pub trait Accepts: 'static {
    /// A place among the connections there may be.
    type Seat: 'static;

    /// What new connections are made with now; `None`: none are made.
    fn config(&self) -> Option<Arc<ServerConfig>>;

    /// A place for one more; `None`: there is none, and the client is told so.
    fn admit(&self) -> Option<Self::Seat>;

    /// Whether nothing is taken from this address; counts it if so.
    fn denies(&self, _: IpAddr) -> bool {
        false
    }

    /// A connection that has begun. Somebody is to drive it.
    fn take_in(&self, driver: Driver, seat: Self::Seat);

    /// Counts a bound that was reached.
    fn limit(&self, name: &'static str);

    /// What comes from now on is for others who have the socket: it is not received here any more.
    fn has_let_go(&self) -> bool {
        false
    }

    /// The way to another machine of the cluster, by its number; `None`: there is no such machine, or no way.
    fn way_to(&self, _machine: u16) -> Option<Arc<dyn Ways>> {
        None
    }

    /// Over which a process that has the socket instead passes on what is for connections of this one. Each is given out once, and each
    /// endpoint asks once, when what comes is for others.
    fn passes(&self) -> Option<UnixStream> {
        None
    }

    /// Ready once no more connections are taken.
    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()>;
}

/// Names of the bounds of this file.
pub const BOUNDS: [&str; 2] = ["quic_handshakes", "quic_memory"];

/// The endpoints of all workers on one port, which pass each other what came to the wrong one, and those before them what is for their
/// connections, be those of this process or of the one before. They end together: the kernel shares out what comes among all their
/// sockets, whoever reads those.
#[derive(Clone)]
pub struct Group {
    inboxes: Arc<[Sender<Passed>]>,
    keys: QuicKeys,
    machine: u16,
    epoch: u8,
    /// All of this process: none of them knows of the others.
    before: Arc<[Elders]>,
    /// Whether anything is for one of those, from the epoch of an id: most of what comes is not, and costs no look at each.
    elder: Epochs,
    /// What is passed to the process before, for as long as any worker can.
    beyond: Epochs,
    beyond_lives: Weak<()>,
    /// Workers that can at first.
    beyond_ends: usize,
    /// Endpoints that take connections, or have any.
    busy: Arc<AtomicUsize>,
}

/// The endpoints of a port whose sockets others have taken over: what comes for their connections is passed to them for as long as
/// they have any. What is for those before them does not come through them.
#[derive(Clone)]
pub struct Elders {
    epoch: u8,
    /// That their ids are made with: there may be another by now.
    keys: QuicKeys,
    inboxes: Weak<[Sender<Passed>]>,
    /// As of their [`Group`].
    beyond: Epochs,
    beyond_lives: Weak<()>,
}

/// Some of the epochs there are.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Epochs(pub u32);

impl Epochs {
    fn has(self, epoch: u8) -> bool {
        self.0 >> epoch & 1 == 1
    }
}

impl BitOr for Epochs {
    type Output = Epochs;

    fn bitor(self, other: Epochs) -> Epochs {
        Epochs(self.0 | other.0)
    }
}

/// What the process before has to do with the sockets that this one has from it.
#[derive(Debug, Default)]
pub struct Beyond {
    /// Those of its endpoints.
    pub epochs: Epochs,
    /// One for each of the sockets, in their order, over which it is passed what is for its connections.
    pub ends: Vec<UnixStream>,
}

/// One worker's part of a [`Group`].
pub struct Endpoint {
    group: Group,
    worker: u8,
    inbox: Receiver<Passed>,
    /// `None` once it takes no more connections and has none.
    busy: Option<Busy>,
    /// To the process before.
    beyond: Option<(UnixStream, Arc<()>)>,
}

/// A place among the busy ones of a group, until it is dropped.
struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Group {
    /// Endpoints of a group.
    pub const MOST: usize = 256;

    /// So many endpoints, each of which a worker serves, [`MOST`](Group::MOST) of them at most. `before`: all that had the port before and live, in this process.
    pub fn endpoints(
        workers: usize,
        keys: &QuicKeys,
        machine: &str,
        before: &[Elders],
        beyond: Beyond,
    ) -> Vec<Endpoint> {
        static EPOCH: AtomicU8 = AtomicU8::new(0);
        let (inboxes, receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| mailbox(PASSED_MOST)).unzip();
        // Of more than there are epochs the first are forgotten.
        let before = &before[before.len().saturating_sub(usize::from(connection_id::EPOCHS) - 1)..];
        let elder = before.iter().fold(Epochs::default(), |epochs, elders| epochs | elders.epochs());
        let taken = beyond.epochs | elder;
        let epochs = std::iter::repeat_with(|| connection_id::epoch_of(EPOCH.fetch_add(1, Ordering::Relaxed)));
        let epoch = epochs.take(connection_id::EPOCHS.into()).find(|epoch| !taken.has(*epoch)).unwrap_or_default();
        let lives = Arc::new(());
        let group = Group {
            inboxes: inboxes.into(),
            keys: keys.clone(),
            machine: connection_id::machine_number(machine),
            epoch,
            before: before.into(),
            elder,
            beyond: beyond.epochs,
            beyond_lives: Arc::downgrade(&lives),
            beyond_ends: beyond.ends.len().min(workers),
            busy: Arc::new(AtomicUsize::new(workers)),
        };
        let mut ends = beyond.ends.into_iter().map(|end| (end, lives.clone()));
        let endpoint = |(worker, inbox)| Endpoint {
            busy: Some(Busy(group.busy.clone())),
            group: group.clone(),
            worker: worker as u8,
            inbox,
            beyond: ends.next(),
        };
        receivers.into_iter().enumerate().map(endpoint).collect()
    }
}

impl Elders {
    /// Those whose connections live, if there are any: theirs, and of the process before, to which they alone have a way.
    pub fn epochs(&self) -> Epochs {
        if !self.live() {
            return Epochs::default();
        }
        let beyond = if self.beyond_lives.strong_count() > 0 { self.beyond } else { Epochs::default() };
        Epochs(1 << self.epoch) | beyond
    }

    fn live(&self) -> bool {
        self.inboxes.strong_count() > 0
    }
}

impl Group {
    /// Whether anything may come for connections of the group, or for those before it where what is theirs comes `through` this one.
    fn is_needed(&self, through: bool) -> bool {
        self.busy.load(Ordering::Acquire) > 0 || through && self.before.iter().any(Elders::live)
    }

    /// The one of those before whose connections have ids of this epoch, or that has a way to them.
    fn elders_of(&self, epoch: u8) -> Option<&Elders> {
        self.elder.has(epoch).then(|| self.before.iter().find(|elders| elders.epochs().has(epoch))).flatten()
    }
}

impl Endpoint {
    /// What it is to those that take its sockets over.
    pub fn elders(&self) -> Elders {
        let group = &self.group;
        Elders {
            epoch: group.epoch,
            keys: group.keys.clone(),
            inboxes: Arc::downgrade(&group.inboxes),
            beyond: group.beyond,
            beyond_lives: group.beyond_lives.clone(),
        }
    }

    /// Serves a socket of this worker until no more connections are taken and the last has ended, here and on the other workers, and of
    /// those before them unless others have the sockets by then.
    pub async fn serve<A: Accepts>(mut self, socket: UdpSocket, accepts: Rc<A>) {
        let place = Place { machine: self.group.machine, worker: self.worker, epoch: self.group.epoch };
        let config = settings::endpoint(&self.group.keys, place);
        let machine = quinn_proto::Endpoint::new(config, accepts.config(), true, None);
        let socket = Socket::new(socket, machine);
        let config = accepts.config();
        let (handshakes, waiting, look) = (Rc::default(), VecDeque::new(), Deadline::new());
        let beyond = self.beyond.take().and_then(|(end, lives)| Some((Passing::new(end).ok()?, lives)));
        let (endpoint, next, has_asked) = (self, None, false);
        let mut serving =
            Serving { endpoint, socket, accepts, config, handshakes, waiting, look, beyond, next, has_asked };
        poll_fn(|cx| serving.poll(cx)).await;
    }
}

/// What a worker's connections share.
pub(crate) struct Socket {
    pub socket: UdpSocket,
    pub machine: RefCell<quinn_proto::Endpoint>,
    /// By their handles.
    connections: RefCell<Vec<Option<Connection>>>,
    /// What is being sent.
    pub scratch: RefCell<Vec<u8>>,
    /// Those that wait until the kernel has room.
    blocked: RefCell<Vec<Connection>>,
    /// Of the task that serves the socket.
    waker: RefCell<Option<Waker>>,
}

impl Socket {
    pub fn new(socket: UdpSocket, machine: quinn_proto::Endpoint) -> Rc<Socket> {
        Rc::new(Socket {
            socket,
            machine: RefCell::new(machine),
            connections: RefCell::default(),
            scratch: RefCell::new(Vec::new()),
            blocked: RefCell::default(),
            waker: RefCell::default(),
        })
    }

    /// To be called first in each turn of the task that serves it.
    pub fn begin(&self, cx: &mut Context<'_>) {
        *self.waker.borrow_mut() = Some(cx.waker().clone());
    }

    pub fn has_connections(&self) -> bool {
        !self.connections.borrow().is_empty()
    }

    /// Those that waited for it are told when the kernel has room.
    pub fn poll_room(&self, cx: &mut Context<'_>) {
        if !self.blocked.borrow().is_empty() && self.socket.poll_send_ready(cx).is_ready() {
            let blocked = self.blocked.take();
            blocked.iter().for_each(Connection::unblock);
        }
    }

    /// `WouldBlock`: nothing of it was sent.
    pub fn send(&self, transmit: &quinn_proto::Transmit, contents: &[u8]) -> io::Result<()> {
        self.socket.send(&translated(transmit, contents))
    }

    pub fn wait_for_room(&self, connection: &Connection) {
        self.blocked.borrow_mut().push(connection.clone());
        self.wake();
    }

    pub fn forget(&self, handle: ConnectionHandle) {
        let mut connections = self.connections.borrow_mut();
        if let Some(place) = connections.get_mut(handle.0) {
            *place = None;
        }
        while connections.last().is_some_and(Option::is_none) {
            connections.pop();
        }
        drop(connections);
        // The last one lets a closed endpoint end.
        self.wake();
    }

    pub fn add(&self, connection: &Connection) {
        let (mut connections, at) = (self.connections.borrow_mut(), connection.handle().0);
        if connections.len() <= at {
            connections.resize_with(at + 1, || None);
        }
        connections[at] = Some(connection.clone());
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// Where a datagram goes.
enum Way {
    Here,
    /// To one of these workers.
    To(Arc<[Sender<Passed>]>, usize),
    /// To the process before.
    Beyond,
    /// To the machine of this number.
    Elsewhere(Arc<dyn Ways>, u16),
    Nowhere,
}

struct Serving<A: Accepts> {
    endpoint: Endpoint,
    socket: Rc<Socket>,
    accepts: Rc<A>,
    /// What the machine knows of the configuration.
    config: Option<Arc<ServerConfig>>,
    /// Under way, those that wait included.
    handshakes: Rc<Handshakes>,
    /// First packets whose turn has not come.
    waiting: VecDeque<(Incoming, Handshake)>,
    /// When to look again whether others have any connections left.
    look: Deadline,
    /// To the process that had the socket before, while that has connections.
    beyond: Option<(Passing, Arc<()>)>,
    /// From the process that has the socket by now.
    next: Option<Passing>,
    /// Whether there is one was asked for.
    has_asked: bool,
}

impl<A: Accepts> Serving<A> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.begin(cx);
        let mut closed = self.accepts.poll_closed(cx).is_ready();
        if self.accepts.has_let_go() {
            self.socket.socket.stop_receiving();
            if !std::mem::replace(&mut self.has_asked, true) {
                self.next = self.accepts.passes().and_then(|passes| Passing::new(passes).ok());
            }
            // Those that have come here are known nowhere else.
            closed &= self.waiting.is_empty();
        }
        // Nothing comes from there but the end.
        if self.beyond.as_mut().is_some_and(|(beyond, _)| beyond.poll_recv(cx).is_ready()) {
            self.beyond = None;
        }
        if closed {
            self.waiting.drain(..).for_each(|(incoming, _)| self.socket.machine.borrow_mut().ignore(incoming));
            if !self.socket.has_connections() {
                if self.beyond.is_none() {
                    self.endpoint.busy = None;
                }
                // Who has the sockets in this process passes on to each himself; one in another has a way to this one alone.
                let through = !self.accepts.has_let_go() || self.next.is_some();
                if !self.endpoint.group.is_needed(through) {
                    return Poll::Ready(());
                }
                // Nobody says so when the last of the others has gone.
                self.look.set_after(LOOK);
                let _ = self.look.poll_expired(cx);
            }
        }
        self.refresh(closed);
        let now = base_runtime::now();
        for left in (0..RECEIVED).rev() {
            match self.socket.socket.poll_recv(cx) {
                Poll::Ready(Ok(received)) => self.handle_received(&received, now),
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::NotConnected => return Poll::Ready(()),
                // What became of something that was sent: the machine notices for itself.
                Poll::Ready(Err(_)) => {}
                Poll::Pending => break,
            }
            if left == 0 {
                cx.waker().wake_by_ref();
            }
        }
        for left in (0..RECEIVED).rev() {
            match self.endpoint.inbox.poll_recv(cx) {
                Poll::Ready(Some(passed)) => self.route(passed, now),
                Poll::Ready(None) | Poll::Pending => break,
            }
            if left == 0 {
                cx.waker().wake_by_ref();
            }
        }
        for left in (0..RECEIVED).rev() {
            match self.next.as_mut().map(|next| next.poll_recv(cx)) {
                Some(Poll::Ready(Some(passed))) => self.route(passed, now),
                Some(Poll::Ready(None)) => self.next = None,
                Some(Poll::Pending) | None => break,
            }
            if left == 0 {
                cx.waker().wake_by_ref();
            }
        }
        for _ in 0..BEGUN {
            match self.waiting.pop_front() {
                Some((incoming, handshake)) => self.begin(incoming, handshake, now),
                None => break,
            }
        }
        if !self.waiting.is_empty() {
            cx.waker().wake_by_ref();
        }
        self.socket.poll_room(cx);
        Poll::Pending
    }

    /// Takes another configuration.
    fn refresh(&mut self, closed: bool) {
        let config = if closed { None } else { self.accepts.config() };
        let same = match (&config, &self.config) {
            (Some(config), Some(known)) => Arc::ptr_eq(config, known),
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.socket.machine.borrow_mut().set_server_config(config.clone());
            self.config = config;
        }
    }

    fn handle_received(&mut self, received: &Received, now: Instant) {
        let meta = received.meta();
        if meta.truncated {
            return;
        }
        let ecn = codepoint(meta.ecn);
        for segment in received.segments() {
            let contents = BytesMut::from(segment);
            self.route(Passed { remote: meta.source, local: meta.destination, ecn, contents }, now);
        }
    }

    fn route(&mut self, passed: Passed, now: Instant) {
        let sent = match self.way_of(&passed.contents) {
            Way::Here => return self.handle_datagram(passed, now),
            Way::Nowhere => return,
            Way::To(inboxes, worker) => inboxes[worker].try_send(passed).is_ok(),
            Way::Beyond => self.beyond.as_ref().is_some_and(|(beyond, _)| beyond.send(&passed)),
            Way::Elsewhere(ways, machine) => return self.pass_elsewhere(&*ways, machine, &passed),
        };
        stats::count(if sent { Count::Passed } else { Count::PassedLost });
    }

    fn pass_elsewhere(&self, ways: &dyn Ways, machine: u16, passed: &Passed) {
        let sent = self.socket.socket.local_addr().is_ok_and(|own| {
            let ecn = passed.ecn.map_or(0, |ecn| ecn as u8);
            let (remote, local) = (passed.remote, came_to(own, passed.local));
            ways.pass(machine, &Stray { remote, local, ecn, contents: &passed.contents })
        });
        stats::count(if sent { Count::Elsewhere } else { Count::ElsewhereLost });
    }

    /// Whose connection a datagram is for.
    fn way_of(&self, datagram: &[u8]) -> Way {
        let (group, own) = (&self.endpoint.group, self.endpoint.worker);
        let Some(id) = connection_id::addressed(datagram) else { return Way::Here };
        // A number that no other machine has is a client's own invention, or that of one that is gone.
        if let Some(machine) = connection_id::machine_of(id).filter(|machine| *machine != group.machine)
            && let Some(ways) = self.accepts.way_to(machine)
        {
            return Way::Elsewhere(ways, machine);
        }
        let epoch = connection_id::epoch_of(id[0]);
        // A look at two bytes settles nearly all; whether it is an id at all is looked at where it would matter.
        if id.get(3) == Some(&own) && epoch == group.epoch {
            return Way::Here;
        }
        // Those of another process know for themselves what is theirs.
        if group.beyond.has(epoch) && connection_id::may_be_of(id, group.machine) {
            return match group.beyond_ends {
                ends if usize::from(own) >= ends && ends > 0 => Way::To(group.inboxes.clone(), usize::from(own) % ends),
                _ if self.beyond.is_some() => Way::Beyond,
                _ => Way::Here,
            };
        }
        let elders = group.elders_of(epoch);
        let inboxes = elders.and_then(|elders| elders.inboxes.upgrade());
        // They pass it on themselves.
        if elders.is_some_and(|elders| elders.epoch != epoch) {
            return match inboxes {
                Some(inboxes) if connection_id::may_be_of(id, group.machine) => {
                    let worker = usize::from(own) % inboxes.len();
                    Way::To(inboxes, worker)
                }
                _ => Way::Here,
            };
        }
        // Those that had the sockets before may have had other keys.
        let keys = elders.map_or(&group.keys, |elders| &elders.keys);
        let Some(place) = connection_id::decode(id, keys) else { return Way::Here };
        let worker = usize::from(place.worker);
        if place.machine != group.machine {
            return Way::Here;
        }
        if place.epoch == group.epoch {
            let is_other = place.worker != own && worker < group.inboxes.len();
            return if is_other { Way::To(group.inboxes.clone(), worker) } else { Way::Here };
        }
        match inboxes.filter(|inboxes| worker < inboxes.len()) {
            Some(inboxes) => Way::To(inboxes, worker),
            // It came before the sockets were left to others, to whom its connection belongs: a reset would end that.
            None if self.accepts.has_let_go() => Way::Nowhere,
            None => Way::Here,
        }
    }

    fn handle_datagram(&mut self, passed: Passed, now: Instant) {
        let Passed { remote, local, ecn, contents } = passed;
        let (bytes, mut answer) = (contents.len(), Vec::new());
        let event = self.socket.machine.borrow_mut().handle(now, remote, local, ecn, contents, &mut answer);
        match event {
            None => {}
            Some(DatagramEvent::Response(transmit)) => {
                let _ = self.socket.send(&transmit, &answer[..transmit.size]);
            }
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                let connection = self.socket.connections.borrow().get(handle.0).cloned().flatten();
                if let Some(connection) = connection {
                    connection.handle_event(event, bytes);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.handle_incoming(incoming, answer),
        }
    }

    fn handle_incoming(&mut self, incoming: Incoming, mut answer: Vec<u8>) {
        let mut machine = self.socket.machine.borrow_mut();
        if self.accepts.denies(incoming.remote_address().ip()) {
            machine.ignore(incoming);
            return stats::count(Count::Dropped);
        }
        let place = if memory::is_over() {
            Err("quic_memory")
        } else if self.handshakes.len() >= RETRY_FROM && !incoming.remote_address_validated() {
            Ok(None)
        } else if self.waiting.len() >= WAITING_MOST {
            Err("quic_handshakes")
        } else {
            self.handshakes.begin(incoming.remote_address().ip()).map(Some).ok_or("quic_handshakes")
        };
        match place {
            Ok(Some(handshake)) => return self.waiting.push_back((incoming, handshake)),
            Ok(None) => {}
            Err(limit) => {
                machine.ignore(incoming);
                stats::count(Count::Dropped);
                return self.accepts.limit(limit);
            }
        }
        // Costs nothing to remember: the client proves with its next packet that it is where it says.
        match machine.retry(incoming, &mut answer) {
            Ok(transmit) => {
                stats::count(Count::Retries);
                let _ = self.socket.send(&transmit, &answer[..transmit.size]);
            }
            Err(error) => machine.ignore(error.into_incoming()),
        }
    }

    fn begin(&mut self, incoming: Incoming, handshake: Handshake, now: Instant) {
        let mut answer = Vec::new();
        let Some(seat) = self.accepts.admit() else {
            let transmit = self.socket.machine.borrow_mut().refuse(incoming, &mut answer);
            stats::count(Count::Dropped);
            let _ = self.socket.send(&transmit, &answer[..transmit.size]);
            return;
        };
        let accepted = self.socket.machine.borrow_mut().accept(incoming, now, &mut answer, None);
        match accepted {
            Ok((handle, machine)) => {
                let connection = Connection::new(machine, handle, &self.socket, Some(handshake));
                self.socket.add(&connection);
                self.accepts.take_in(Driver::new(connection), seat);
            }
            Err(error) => {
                tracing::debug!(error = %error.cause, "QUIC: a connection did not begin");
                if let Some(transmit) = error.response {
                    let _ = self.socket.send(&transmit, &answer[..transmit.size]);
                }
            }
        }
    }
}

impl<A: Accepts> Drop for Serving<A> {
    fn drop(&mut self) {
        let mut machine = self.socket.machine.borrow_mut();
        self.waiting.drain(..).for_each(|(incoming, _)| machine.ignore(incoming));
    }
}

pub(crate) fn codepoint(ecn: Ecn) -> Option<EcnCodepoint> {
    codepoint_of(ecn.bits())
}

pub(crate) fn codepoint_of(bits: u8) -> Option<EcnCodepoint> {
    (bits != 0).then(|| EcnCodepoint::from_bits(bits)).flatten()
}

/// First packets that wait for their turn, at most.
const WAITING_MOST: usize = 128;

/// With so many handshakes under way, clients have to show their address first.
const RETRY_FROM: usize = 64;

/// Handshakes begun in a turn: a flood of them leaves the established connections every other part of the turn.
const BEGUN: usize = 2;

/// Receives in a turn.
pub(crate) const RECEIVED: usize = 32;

/// How often an endpoint that has no connections of its own any more looks whether others have.
const LOOK: Duration = Duration::from_millis(50);

/// Datagrams that may wait for a worker that another has received.
const PASSED_MOST: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection_id::EPOCHS;

    /// With every one knowing of all before it, and asking each of those in turn, this would not end.
    #[test]
    fn many_that_had_the_port_before_are_each_asked_once() {
        let keys = QuicKeys::new(&[7; 32]);
        let endpoints = |before: &[Elders]| {
            let made = Group::endpoints(1, &keys, "edge-1", before, Beyond::default());
            made.into_iter().next().unwrap()
        };
        let (mut lived, mut elders) = (Vec::new(), Vec::new());
        for _ in 1..40 {
            let next = endpoints(&elders);
            elders.push(next.elders());
            lived.push(next);
        }
        let last = endpoints(&elders);
        // The first are forgotten: there are no more epochs to tell them apart.
        let (kept, all) = (usize::from(EPOCHS) - 1, u32::MAX);
        assert_eq!(last.group.elder.0 | 1 << last.group.epoch, all, "each has an epoch of its own");
        for endpoint in &lived[lived.len() - kept..] {
            let found = last.group.elders_of(endpoint.group.epoch).map(|elders| elders.epoch);
            assert_eq!(found, Some(endpoint.group.epoch));
        }
        assert_eq!(last.group.elders_of(last.group.epoch).map(|elders| elders.epoch), None);
        // Those that end are needed by nobody, whoever came before them lives.
        lived.truncate(lived.len() - 1);
        assert!(last.group.elders_of(elders[elders.len() - 1].epoch).is_none());
        let middle = &lived[lived.len() - 2];
        middle.group.busy.store(0, Ordering::Release);
        assert!(!middle.group.is_needed(false) && middle.group.is_needed(true));
    }
}

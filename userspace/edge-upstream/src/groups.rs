//! Connections that many requests of a worker share, by the server they lead to, and connects under way: what is the same whichever
//! protocol shares them.

use crate::attempt::Counters;
use crate::connect::ConnectError;
use crate::endpoint::{Endpoint, Protocols, Server};
use crate::opening::{Opening, Outcome, Waiting};
use crate::pool::{IDLE_TIMEOUT, IdHasher};
use crate::tls::Identity;
use base_telemetry::proxy::ServerRecorder;
use std::cell::Cell;
use std::collections::HashMap;
use std::future::Future;
use std::hash::BuildHasherDefault;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// Requests under way over one connection, even if its backend would take more: they share its window and the fate of its segments.
pub const STREAMS_MOST: usize = 128;

/// Connections of one worker to one server. Beyond it a request cannot connect, counted as `upstream_connections`. A backend that takes
/// one request at a time would otherwise be given descriptors without end.
pub const CONNECTIONS_MOST: usize = 256;

/// Of those, how many WebSockets take places on. Where none has room, each further one has a connection of HTTP/1.1, or is refused where
/// the backend was not asked for its protocols: they stay, and where a backend takes few requests at a time they would leave no room for
/// messages.
pub(crate) const WEBSOCKETS_WITHIN: usize = CONNECTIONS_MOST / 2;

/// A connection that is shared.
pub(crate) trait Shared: Sized + 'static {
    /// What a connect makes for its first request.
    type Lease: 'static;
    /// What is known of a server beside its connections.
    type Known: Default;

    /// Lets somebody work on those of this worker.
    fn with_groups<T>(work: impl FnOnce(&mut Groups<Self>) -> T) -> T;

    /// Since when nobody has used it.
    fn idle_since(&self) -> Option<Instant>;

    /// Takes no more requests; when the last one has ended the connection is closed.
    fn close(&self);

    /// Whether what is known of a server without connections is kept.
    fn is_worth(_known: &Self::Known, _now: Instant) -> bool {
        false
    }
}

/// Of one worker.
pub(crate) struct Groups<S: Shared>(HashMap<u64, Group<S>, BuildHasherDefault<IdHasher>>);

/// What a worker has, and makes, for one server under one identity.
pub(crate) struct Group<S: Shared> {
    pub(crate) sessions: Vec<Rc<S>>,
    /// The connect that was begun last, while it is under way.
    opening: Option<Rc<Opening<S::Lease>>>,
    /// Connects under way.
    openings: usize,
    pub(crate) known: S::Known,
}

impl<S: Shared> Default for Groups<S> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<S: Shared> Default for Group<S> {
    fn default() -> Self {
        Self { sessions: Vec::new(), opening: None, openings: 0, known: S::Known::default() }
    }
}

/// What a request has to do that found no room.
pub(crate) enum Turn<L> {
    Wait(Rc<Opening<L>>),
    /// Wait for a connect that is to be begun.
    Begin(Rc<Opening<L>>),
    /// There are as many connections as may be.
    Refused,
}

impl<S: Shared> Groups<S> {
    pub(crate) fn known(&mut self, server: &Server) -> Option<&mut Group<S>> {
        self.0.get_mut(&server.connections())
    }

    /// That of the server of these connections, see [`Server::connections`].
    pub(crate) fn of(&mut self, key: u64) -> &mut Group<S> {
        self.0.entry(key).or_default()
    }

    /// One has ended.
    pub(crate) fn forget(&mut self, key: u64, ended: &Rc<S>) {
        if let Some(group) = self.0.get_mut(&key) {
            group.sessions.retain(|other| !Rc::ptr_eq(other, ended));
        }
    }
}

impl<S: Shared> Group<S> {
    /// Connections there are, or will be.
    pub(crate) fn count(&self) -> usize {
        self.sessions.len() + self.openings
    }

    /// A connection is there, whose connect may be under way until more is known of it: from here on it counts as a connection.
    pub(crate) fn add(&mut self, session: Rc<S>, is_counted: &Cell<bool>) {
        self.is_over(is_counted);
        self.sessions.push(session);
    }

    /// A connect is under way no more.
    fn is_over(&mut self, is_counted: &Cell<bool>) {
        if is_counted.replace(false) {
            self.openings = self.openings.saturating_sub(1);
        }
    }

    pub(crate) fn turn(&mut self) -> Turn<S::Lease> {
        if let Some(opening) = self.opening.as_ref().filter(|opening| opening.has_room()) {
            return Turn::Wait(opening.clone());
        }
        if self.count() >= CONNECTIONS_MOST {
            return Turn::Refused;
        }
        self.openings += 1;
        let opening = Rc::<Opening<S::Lease>>::default();
        opening.is_counted.set(true);
        self.opening = Some(opening.clone());
        Turn::Begin(opening)
    }
}

/// Idle connections are closed, and what is known of servers that nobody asks any more is forgotten.
pub(crate) fn sweep<S: Shared>(now: Instant) {
    S::with_groups(|groups| {
        groups.0.retain(|_, group| {
            group.sessions.retain(|session| {
                let old = session.idle_since().is_some_and(|at| now.saturating_duration_since(at) >= IDLE_TIMEOUT);
                if old {
                    session.close();
                }
                !old
            });
            !group.sessions.is_empty() || group.openings > 0 || S::is_worth(&group.known, now)
        });
    });
}

/// Waits until `end` for a connect that somebody else has begun.
pub(crate) async fn wait<L>(opening: Rc<Opening<L>>, end: Instant) -> Result<Outcome<L>, ConnectError> {
    let left = end.saturating_duration_since(base_runtime::now());
    let loss = opening.loss.clone();
    let late = || ConnectError::Shared(Box::new(ConnectError::Tcp(io::ErrorKind::TimedOut.into())), loss);
    base_runtime::time::timeout(left, Waiting::new(opening)).await.map_err(|_| late())
}

/// Begins a connect, which goes on whoever still waits for it, and waits for it.
pub(crate) async fn begin<S: Shared>(
    key: u64,
    opening: Rc<Opening<S::Lease>>,
    make: impl Future<Output = Result<S::Lease, ConnectError>> + 'static,
) -> Outcome<S::Lease> {
    let ending = Ending::<S> { key, opening: opening.clone() };
    base_runtime::spawn(async move {
        let made = make.await;
        ending.opening.tell(made);
    })
    .detach();
    Waiting::new(opening).await
}

/// The end of a connect, however it comes: the group knows, and who waits is woken.
struct Ending<S: Shared> {
    key: u64,
    opening: Rc<Opening<S::Lease>>,
}

impl<S: Shared> Drop for Ending<S> {
    fn drop(&mut self) {
        S::with_groups(|groups| {
            if let Some(group) = groups.0.get_mut(&self.key) {
                group.is_over(&self.opening.is_counted);
                if group.opening.as_ref().is_some_and(|last| Rc::ptr_eq(last, &self.opening)) {
                    group.opening = None;
                }
            }
        });
        self.opening.end();
    }
}

/// Everything a connect needs that outlives the request it is for.
pub(crate) struct Maker {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) identity: Option<Arc<Identity>>,
    pub(crate) protocols: Protocols,
    pub(crate) key: u64,
    pub(crate) recorder: ServerRecorder,
    pub(crate) counters: Arc<Counters>,
    /// See [`Opening`]; false where nobody waits for the connect but who begins it.
    pub(crate) is_counted: Rc<Cell<bool>>,
}

impl Maker {
    pub(crate) fn new(server: &Server, recorder: &ServerRecorder, counters: &Arc<Counters>) -> Maker {
        Maker {
            endpoint: server.endpoint.clone(),
            identity: server.identity.clone(),
            protocols: server.protocols,
            key: server.connections(),
            recorder: recorder.clone(),
            counters: counters.clone(),
            is_counted: Rc::default(),
        }
    }
}

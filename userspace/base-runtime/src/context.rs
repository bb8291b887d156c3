//! What a worker's thread can reach from anywhere on it.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::boxed::Places;
use crate::buffer::{Datagrams, Pool, Streams};
use crate::driver::AnyDriver;
use crate::executor::Executor;
use crate::net::listener::spare_descriptor;
use crate::net::socket::{Socket, Sockets};
use crate::net::splice::Pipes;
use crate::net::udp::Endpoint;
use crate::runtime::{Config, Shared, WorkerBounds};
use crate::time::Timers;

pub(crate) struct Context {
    pub shared: Arc<Shared>,
    pub executor: Executor,
    pub timers: Timers,
    pub sockets: Sockets<Socket>,
    pub endpoints: Sockets<Endpoint>,
    /// Sockets with something to send that the driver has not been told of yet.
    pub dirty: RefCell<Vec<Rc<Socket>>>,
    /// The same of UDP sockets.
    pub dirty_endpoints: RefCell<Vec<Rc<Endpoint>>>,
    pub driver: AnyDriver,
    pub pool: Pool<Streams>,
    pub datagram_pool: Pool<Datagrams>,
    pub pipes: Pipes,
    /// For futures in boxes.
    pub places: Places,
    pub bounds: WorkerBounds,
    /// Given up for a moment when descriptors are short.
    pub spare: RefCell<Option<OwnedFd>>,
    pub now: Cell<Instant>,
    /// The worker is going down: closing no longer waits for queued sends.
    pub stopping: Cell<bool>,
}

impl Context {
    pub fn new(shared: Arc<Shared>, config: &Config, driver: AnyDriver) -> Context {
        let now = Instant::now();
        let datagram_block = config.datagram_block();
        shared.ledger.datagram_block.set(datagram_block as u64);
        Context {
            shared,
            executor: Executor::new(),
            timers: Timers::new(now),
            sockets: Sockets::new(),
            endpoints: Sockets::new(),
            dirty: RefCell::new(Vec::with_capacity(64)),
            dirty_endpoints: RefCell::default(),
            driver,
            pool: Pool::<Streams>::new(config.buffers_max, config.buffers_kept),
            datagram_pool: Pool::<Datagrams>::new(
                datagram_block,
                config.datagram_buffers_max,
                config.datagram_buffers_kept,
            ),
            pipes: Pipes::default(),
            places: Places::new(),
            bounds: WorkerBounds {
                recv_queue_max: config.recv_queue_max.max(1),
                datagram_queue_max: config.datagram_queue_max.max(1),
                datagram_bytes_max: config.datagram_bytes_max,
                linger: config.linger,
            },
            spare: RefCell::new(spare_descriptor()),
            now: Cell::new(now),
            stopping: Cell::new(false),
        }
    }
}

thread_local! {
    static CURRENT: Cell<*const Context> = const { Cell::new(ptr::null()) };
}

/// Makes `context` the thread's own until the guard is dropped.
pub(crate) fn enter(context: &Context) -> Entered<'_> {
    CURRENT.set(context);
    Entered(context)
}

pub(crate) struct Entered<'a>(
    #[expect(dead_code, reason = "keeps the context borrowed while it is current")] &'a Context,
);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        CURRENT.set(ptr::null());
    }
}

#[inline]
pub(crate) fn try_with<R>(f: impl FnOnce(&Context) -> R) -> Option<R> {
    // A thread-local without a destructor stays readable while the thread is torn down.
    let current = CURRENT.get();
    // SAFETY: the pointer is null or was set by `enter`, whose guard borrows the context and clears the pointer before the
    // borrow ends; the reference stays on this thread because the closure returns before this function does.
    unsafe { current.as_ref() }.map(f)
}

#[inline]
#[track_caller]
pub(crate) fn with<R>(f: impl FnOnce(&Context) -> R) -> R {
    match try_with(f) {
        Some(result) => result,
        None => panic!("called outside a worker thread: spawn it with Worker::spawn"),
    }
}

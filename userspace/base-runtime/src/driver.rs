//! What a worker asks of the kernel, and the two ways to ask.

mod epoll;
mod uring;

use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::context::Context;
use crate::net::address::Address;
use crate::net::socket::Socket;
use crate::net::udp::Endpoint;
use crate::runtime::{Config, Shared};
use epoll::Epoll;
use uring::Uring;
pub use uring::probe_uring;

/// Which kernel interface to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IoMode {
    /// io_uring if it works here, else epoll.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    Epoll,
}

impl std::str::FromStr for IoMode {
    type Err = String;

    fn from_str(text: &str) -> Result<IoMode, String> {
        match text {
            "auto" => Ok(IoMode::Auto),
            "uring" | "io_uring" => Ok(IoMode::Uring),
            "epoll" => Ok(IoMode::Epoll),
            other => Err(format!("{} is not an I/O driver; take auto, uring or epoll", base_text::quoted(other))),
        }
    }
}

impl fmt::Display for IoMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            IoMode::Auto => "auto",
            IoMode::Uring => "uring",
            IoMode::Epoll => "epoll",
        })
    }
}

/// The kernel interface in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoKind {
    Uring,
    Epoll,
}

impl fmt::Display for IoKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            IoKind::Uring => "uring",
            IoKind::Epoll => "epoll",
        })
    }
}

/// How long a turn may wait for something to happen.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wait {
    Not,
    /// `None`: until something happens.
    Upto(Option<Duration>),
}

/// The driver of one worker. It reports through the functions of `net::socket`; everything is called on the worker's thread, and
/// nothing here runs tasks.
pub(crate) trait Driver {
    fn kind(&self) -> IoKind;
    /// Called once, on the worker's thread, before anything else.
    fn start(&self, cx: &Context) -> io::Result<()>;
    /// A connected socket joins.
    fn adopt(&self, cx: &Context, socket: &Rc<Socket>) -> io::Result<()>;
    /// Starts (or goes on) accepting; `rx_op` says whether it is under way.
    fn accept(&self, cx: &Context, socket: &Rc<Socket>);
    fn connect(&self, cx: &Context, socket: &Rc<Socket>, address: &Address) -> io::Result<()>;
    /// Starts (or goes on) receiving; `rx_op` says whether it is under way.
    fn recv(&self, cx: &Context, socket: &Rc<Socket>);
    fn stop_recv(&self, cx: &Context, socket: &Rc<Socket>);
    /// Lets the one who splices from this socket know when there may be something, at the earliest in the next turn. Only while
    /// nothing is received.
    fn await_bytes(&self, cx: &Context, socket: &Rc<Socket>);
    /// Lets the one who splices into this socket know when there is room again. Only while no send is under way.
    fn await_room(&self, cx: &Context, socket: &Rc<Socket>);
    /// Sends from the front of the socket's queue, unless a send is under way.
    fn send(&self, cx: &Context, socket: &Rc<Socket>);
    /// Somebody has begun to wait for the sends of this socket.
    fn expect_report(&self, socket: &Socket);
    /// Ends what is under way on a connection without closing it. Done when `ops` is 0.
    fn still(&self, cx: &Context, socket: &Rc<Socket>);
    /// Forgets a connection nothing is under way on and gives its descriptor up.
    fn release(&self, socket: &Socket) -> RawFd;
    /// Cancels what is under way and closes the descriptor.
    fn close(&self, cx: &Context, socket: &Rc<Socket>);
    /// A UDP socket joins.
    fn adopt_datagrams(&self, cx: &Context, endpoint: &Rc<Endpoint>) -> io::Result<()>;
    /// Starts (or goes on) receiving datagrams; `rx_op` says whether it is under way.
    fn recv_datagrams(&self, cx: &Context, endpoint: &Rc<Endpoint>);
    /// Ends receiving, where it is under way.
    fn still_datagrams(&self, cx: &Context, endpoint: &Rc<Endpoint>);
    /// Tells (`net::udp::room`) when a UDP socket the kernel had no room for may send again.
    fn await_datagram_room(&self, cx: &Context, endpoint: &Rc<Endpoint>);
    /// Cancels what is under way on a UDP socket and closes the descriptor.
    fn close_datagrams(&self, cx: &Context, endpoint: &Rc<Endpoint>);
    /// Nothing is left that only a turn without waiting would get done.
    fn may_sleep(&self, cx: &Context) -> bool;
    /// Hands over what was asked for, waits, and reports what happened.
    fn turn(&self, cx: &Context, wait: Wait);
    /// Closes every socket and waits until the kernel holds no buffer any more.
    fn stop(&self, cx: &Context);
}

/// The driver chosen at start. An enum rather than a trait object, so that calls are direct.
pub(crate) enum AnyDriver {
    Uring(Box<Uring>),
    Epoll(Box<Epoll>),
}

impl AnyDriver {
    pub fn new(kind: IoKind, config: &Config, shared: &Arc<Shared>) -> io::Result<AnyDriver> {
        Ok(match kind {
            IoKind::Uring => AnyDriver::Uring(Box::new(Uring::new(config, shared)?)),
            IoKind::Epoll => AnyDriver::Epoll(Box::new(Epoll::new(shared)?)),
        })
    }
}

macro_rules! delegate {
    ($($name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        impl Driver for AnyDriver {
            $(#[inline]
            fn $name(&self, $($arg: $type),*) $(-> $result)? {
                match self {
                    AnyDriver::Uring(driver) => driver.$name($($arg),*),
                    AnyDriver::Epoll(driver) => driver.$name($($arg),*),
                }
            })*
        }
    };
}

delegate! {
    kind() -> IoKind;
    start(cx: &Context) -> io::Result<()>;
    adopt(cx: &Context, socket: &Rc<Socket>) -> io::Result<()>;
    accept(cx: &Context, socket: &Rc<Socket>);
    connect(cx: &Context, socket: &Rc<Socket>, address: &Address) -> io::Result<()>;
    recv(cx: &Context, socket: &Rc<Socket>);
    stop_recv(cx: &Context, socket: &Rc<Socket>);
    await_bytes(cx: &Context, socket: &Rc<Socket>);
    await_room(cx: &Context, socket: &Rc<Socket>);
    send(cx: &Context, socket: &Rc<Socket>);
    expect_report(socket: &Socket);
    still(cx: &Context, socket: &Rc<Socket>);
    release(socket: &Socket) -> RawFd;
    close(cx: &Context, socket: &Rc<Socket>);
    adopt_datagrams(cx: &Context, endpoint: &Rc<Endpoint>) -> io::Result<()>;
    recv_datagrams(cx: &Context, endpoint: &Rc<Endpoint>);
    still_datagrams(cx: &Context, endpoint: &Rc<Endpoint>);
    await_datagram_room(cx: &Context, endpoint: &Rc<Endpoint>);
    close_datagrams(cx: &Context, endpoint: &Rc<Endpoint>);
    may_sleep(cx: &Context) -> bool;
    turn(cx: &Context, wait: Wait);
    stop(cx: &Context);
}

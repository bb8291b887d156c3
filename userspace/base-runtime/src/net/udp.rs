//! UDP on a worker.
//!
//! - What is received comes as [`Received`]: the bytes, in a buffer of the worker's datagram pool that goes back when it is dropped,
//!   and [`Meta`]: who sent it, to which of this machine's addresses, with which congestion mark. The kernel may have joined several
//!   datagrams of one flow ([`UdpOptions::join`]); [`Received::segments`] has them one by one.
//! - Everything that may pile up is bounded, and what goes beyond is dropped as networks do, and counted ([`crate::WorkerStats`]):
//!   received datagrams wait in a queue, behind it in the kernel's buffer; those to be sent wait in one buffer per socket.
//! - [`UdpSocket::send`] gathers: all that a turn of the worker sends over one socket is one system call. [`UdpSocket::try_send`] sends
//!   at once and without a copy, which suits engines that build datagrams in buffers of their own (quinn's `AsyncUdpSocket` is an
//!   adapter over `poll_recv`, `try_send` and `poll_send_ready`). Both keep the order of one socket.
//! - An error that the network reports (a port nobody listens on, on a connected socket) comes once out of `poll_recv`; the socket
//!   goes on.
//! - With many clients and few workers, bind one socket per worker to one address (`reuse_port`). An IPv6 socket that serves IPv4 as
//!   well gives and takes IPv4 addresses as such.

mod control;
mod endpoint;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, ready};

use super::address::{Address, socket_address};
use super::{check, for_traffic, new_socket, set_nonblocking, set_option};
use crate::context;
use crate::driver::Driver;
use crate::executor::poll_share;
pub(crate) use control::{CONTROL_AT, CONTROL_ROOM, NAME_AT, NAME_ROOM, PAYLOAD_AT, write_header};
pub use control::{Ecn, Meta};
pub(crate) use endpoint::{Endpoint, close, end_op, failed, flush_all, received, room};
pub use endpoint::{Received, Transmit};

/// Most datagrams that may go as one [`Transmit`].
pub const SEGMENTS_MAX: usize = endpoint::SEGMENTS_MAX;

/// How a UDP socket is made.
#[derive(Debug, Clone)]
pub struct UdpOptions {
    /// Several sockets share the address, one per worker, and the kernel spreads flows over them. Default false.
    pub reuse_port: bool,
    /// `[::]` serves IPv6 alone. Default false: it serves IPv4 as well.
    pub v6_only: bool,
    /// Bind addresses this machine does not (yet) have, as virtual ones. Default false.
    pub free_bind: bool,
    /// Let the kernel join datagrams of one flow that arrive together (UDP_GRO), which come as one [`Received`]. Default true.
    pub join: bool,
    /// Tell to which address, and over which interface, a datagram came. Default true.
    pub packet_info: bool,
    /// Never split datagrams into fragments; those longer than the path carries are refused with EMSGSIZE. For transports that probe
    /// for the length themselves. Default false.
    pub dont_fragment: bool,
    /// Bytes the kernel may hold for the receiver, its own overhead included. It doubles the number, and caps it at net.core.rmem_max.
    /// Default: the system's.
    pub receive_buffer: Option<usize>,
    /// Bytes the kernel may hold that are on their way out. Default: the system's.
    pub send_buffer: Option<usize>,
}

impl Default for UdpOptions {
    fn default() -> UdpOptions {
        UdpOptions {
            reuse_port: false,
            v6_only: false,
            free_bind: false,
            join: true,
            packet_info: true,
            dont_fragment: false,
            receive_buffer: None,
            send_buffer: None,
        }
    }
}

impl UdpOptions {
    /// Binds on any thread; [`UdpSocket::from_std`] takes the socket to a worker. So those that share an address can be bound in the
    /// order of their workers, which is the order the kernel numbers them in.
    pub fn bind(&self, address: SocketAddr) -> io::Result<std::net::UdpSocket> {
        let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let fd = for_traffic(new_socket(family, libc::SOCK_DGRAM)?)?;
        let raw = fd.as_raw_fd();
        let v6 = address.is_ipv6();
        if self.reuse_port {
            set_option(raw, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        }
        if self.free_bind {
            set_option(raw, libc::IPPROTO_IP, libc::IP_FREEBIND, 1)?;
        }
        if v6 {
            set_option(raw, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, i32::from(self.v6_only))?;
            set_option(raw, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
            set_option(raw, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, i32::from(self.packet_info))?;
        }
        if !v6 || !self.v6_only {
            set_option(raw, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
        }
        if !v6 {
            set_option(raw, libc::IPPROTO_IP, libc::IP_PKTINFO, i32::from(self.packet_info))?;
        }
        if self.dont_fragment {
            if v6 {
                set_option(raw, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
            }
            set_option(raw, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
        }
        if self.join {
            // A kernel that cannot (before 5.0) delivers them one by one.
            let _ = set_option(raw, libc::SOL_UDP, libc::UDP_GRO, 1);
        }
        set_option(raw, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)?;
        for (bytes, option) in [(self.receive_buffer, libc::SO_RCVBUF), (self.send_buffer, libc::SO_SNDBUF)] {
            if let Some(bytes) = bytes {
                set_option(raw, libc::SOL_SOCKET, option, libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX))?;
            }
        }
        let address = Address::from(&address);
        // SAFETY: the address and its length belong together, the descriptor is open.
        check(unsafe { libc::bind(raw, address.as_ptr(), address.length()) })?;
        Ok(std::net::UdpSocket::from(fd))
    }

    /// Binds to `local` and connects to `peer`: only its datagrams are received, and errors it causes are reported.
    pub fn connect(&self, local: SocketAddr, peer: SocketAddr) -> io::Result<std::net::UdpSocket> {
        let socket = self.bind(local)?;
        socket.connect(endpoint::in_family(peer, local.is_ipv6()))?;
        Ok(socket)
    }
}

/// A UDP socket; a handle that is cheap to clone and stays on its worker. One task waits to receive and one to send: a second one that
/// polls the same direction takes the first one's place.
///
/// Dropping the last handle closes it. What is queued goes out as far as the kernel has room at that moment.
pub struct UdpSocket {
    endpoint: Rc<Endpoint>,
}

impl UdpSocket {
    /// Binds on this worker.
    pub fn bind(address: SocketAddr, options: &UdpOptions) -> io::Result<UdpSocket> {
        UdpSocket::from_std(options.bind(address)?)
    }

    /// A socket of this worker that talks to `peer` alone, from an address and a port that the system chooses.
    pub fn connect(peer: SocketAddr, options: &UdpOptions) -> io::Result<UdpSocket> {
        let any: SocketAddr = if peer.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
        UdpSocket::from_std(options.connect(any, peer)?)
    }

    /// Takes a socket to this worker. One not made by [`UdpOptions`] tells only what its options let it tell.
    pub fn from_std(socket: std::net::UdpSocket) -> io::Result<UdpSocket> {
        let v6 = socket.local_addr().is_ok_and(|address| address.is_ipv6());
        context::with(|cx| {
            if cx.bounds.datagram_bytes_max < JOINED_BYTES_MAX {
                // What the kernel joins would be cut, and most of it lost.
                let _ = set_option(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, 0);
            }
            set_nonblocking(socket.as_raw_fd(), true);
            let fd = OwnedFd::from(socket).into_raw_fd();
            let endpoint = cx.endpoints.insert(Endpoint::new(fd, v6), &cx.shared);
            cx.shared.counters.datagram_sockets_open.add(1);
            // From here on dropping it cleans up.
            let socket = UdpSocket { endpoint };
            cx.driver.adopt_datagrams(cx, &socket.endpoint)?;
            Ok(socket)
        })
    }

    /// The address bound, with the port the kernel chose if 0 was asked for.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let address = socket_address(self.endpoint.fd.get(), libc::getsockname)?;
        Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }

    /// The peer of a connected socket.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        let address = socket_address(self.endpoint.fd.get(), libc::getpeername)?;
        Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }

    /// The next datagram, or several of one flow. An error is the network's answer to what was sent before, and is told once; the
    /// socket goes on, unless it was closed ([`io::ErrorKind::NotConnected`]).
    pub fn poll_recv(&self, task: &mut TaskContext<'_>) -> Poll<io::Result<Received>> {
        let endpoint = &self.endpoint;
        ready!(poll_share(task));
        context::with(|cx| {
            if let Some(received) = endpoint.take(cx) {
                return Poll::Ready(Ok(received));
            }
            match endpoint.rx_error.get() {
                0 => {
                    endpoint.rx_waker.register(&cx.shared, task);
                    endpoint.receive(cx);
                    Poll::Pending
                }
                errno => {
                    if endpoint.is_open() {
                        endpoint.rx_error.set(0);
                    }
                    Poll::Ready(Err(io::Error::from_raw_os_error(errno)))
                }
            }
        })
    }

    pub async fn recv(&self) -> io::Result<Received> {
        poll_fn(|task| self.poll_recv(task)).await
    }

    /// One that is queued already.
    pub fn try_recv(&self) -> Option<Received> {
        context::with(|cx| self.endpoint.take(cx))
    }

    /// Receives nothing more but what is queued already: the rest is for another process that has this socket. Sending goes on.
    pub fn stop_receiving(&self) {
        context::with(|cx| {
            if !self.endpoint.deaf.replace(true) {
                cx.driver.still_datagrams(cx, &self.endpoint);
            }
        });
    }

    /// Queues it for the end of this turn of the worker. Where neither the queue nor the kernel has room it is dropped, counted
    /// (`datagrams_unsent`) and refused as `WouldBlock`; [`io::ErrorKind::InvalidInput`] says that no kernel would take it. What the
    /// kernel refuses later is counted too, and told by `poll_send_ready`.
    pub fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        context::with(|cx| self.endpoint.send(cx, transmit))
    }

    /// Sends what is queued and then this, at once and without a copy. `WouldBlock`: the kernel has no room; nothing of it was sent,
    /// and `poll_send_ready` tells when to try again.
    pub fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        context::with(|cx| self.endpoint.try_send(cx, transmit))
    }

    /// Ready when nothing is queued and the kernel is not known to be without room. An error is why a queued datagram was refused,
    /// told once.
    pub fn poll_send_ready(&self, task: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        let endpoint = &self.endpoint;
        context::with(|cx| {
            endpoint::flush(cx, endpoint);
            if let Some(error) = endpoint.take_send_error() {
                return Poll::Ready(Err(error));
            }
            if endpoint.has_room() || !endpoint.is_open() {
                return Poll::Ready(Ok(()));
            }
            endpoint.tx_waker.register(&cx.shared, task);
            Poll::Pending
        })
    }

    /// Waits until the kernel has taken everything.
    pub async fn flush(&self) -> io::Result<()> {
        poll_fn(|task| self.poll_send_ready(task)).await
    }
}

impl Clone for UdpSocket {
    fn clone(&self) -> UdpSocket {
        self.endpoint.handles.set(self.endpoint.handles.get() + 1);
        UdpSocket { endpoint: self.endpoint.clone() }
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        let handles = self.endpoint.handles.get() - 1;
        self.endpoint.handles.set(handles);
        if handles == 0 {
            // Without its worker the descriptor is closed with the last reference.
            context::try_with(|cx| endpoint::abandoned(cx, &self.endpoint));
        }
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.endpoint.fd.get()
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UdpSocket(fd {})", self.endpoint.fd.get())
    }
}

/// What a buffer takes that holds datagrams of up to so many bytes.
pub(crate) fn block_bytes(datagram_bytes_max: usize) -> usize {
    (PAYLOAD_AT + datagram_bytes_max.clamp(DATAGRAM_BYTES_LEAST, JOINED_BYTES_MAX)).next_multiple_of(64)
}

/// What the kernel joins at most.
const JOINED_BYTES_MAX: usize = 65_535;
/// The least that every IPv6 path carries.
const DATAGRAM_BYTES_LEAST: usize = 1280;

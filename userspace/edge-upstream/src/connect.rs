//! Connecting to a backend: every address of its name, then TLS, or both at once over QUIC, all within one deadline.

use crate::Identity;
use crate::endpoint::{Endpoint, Place, Protocols};
use crate::loss::Loss;
use base_quic::proto::{ConnectionError, Event, TransportErrorCode};
use base_quic::{Client, Driver};
use base_runtime::Buf;
use base_runtime::net::{TcpStream, is_kept_from_traffic};
use base_runtime::time::{Deadline, timeout};
use base_text::quoted;
use base_tls::{HandshakeError, Transport};
use proto_h3::Code;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

/// Longest time a connect may take where the document says nothing, as Easegress's dialer.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an address has before the next one is tried beside it (RFC 8305 section 8).
const STAGGER: Duration = Duration::from_millis(250);

/// Addresses of one name tried at the same time.
const IN_FLIGHT: usize = 6;

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// The server's name has no address (yet).
    Unresolved,
    /// The last of the addresses failed so, or time was up.
    Tcp(io::Error),
    Tls(HandshakeError),
    /// This worker has as many connections to it as it may have, and each is full: a bound of ours.
    Full,
    /// A connect that others waited for, too: what it says of the server is said once.
    Shared(Box<ConnectError>, Loss),
}

impl ConnectError {
    /// What went wrong, whoever waited for it.
    pub fn cause(&self) -> &ConnectError {
        match self {
            ConnectError::Shared(error, _) => error.cause(),
            error => error,
        }
    }

    /// Whether it tells something of the server that nobody has told so far.
    pub fn is_news(&self) -> bool {
        match self {
            ConnectError::Full => false,
            ConnectError::Tcp(error) if base_runtime::net::is_own_shortage(error) => false,
            ConnectError::Shared(error, loss) => error.is_news() && loss.is_news(),
            _ => true,
        }
    }

    /// The same once more, for another one who waited.
    pub(crate) fn again(&self) -> ConnectError {
        let again = |error: &io::Error| match error.raw_os_error() {
            Some(number) => io::Error::from_raw_os_error(number),
            None => io::Error::new(error.kind(), error.to_string()),
        };
        match self {
            ConnectError::Unresolved => ConnectError::Unresolved,
            ConnectError::Full => ConnectError::Full,
            ConnectError::Shared(error, loss) => ConnectError::Shared(Box::new(error.again()), loss.clone()),
            ConnectError::Tcp(error) => ConnectError::Tcp(again(error)),
            ConnectError::Tls(error) => ConnectError::Tls(match error {
                HandshakeError::Io(error) => HandshakeError::Io(again(error)),
                HandshakeError::TimedOut => HandshakeError::TimedOut,
                HandshakeError::Overloaded => HandshakeError::Overloaded,
                HandshakeError::Tls(text) => HandshakeError::Tls(text.clone()),
                HandshakeError::Challenge => HandshakeError::Challenge,
            }),
        }
    }

    /// Nobody said no: it took too long.
    pub fn is_time_out(&self) -> bool {
        match self.cause() {
            ConnectError::Unresolved | ConnectError::Full | ConnectError::Shared(..) => false,
            ConnectError::Tcp(error) => error.kind() == io::ErrorKind::TimedOut,
            ConnectError::Tls(error) => matches!(error, HandshakeError::TimedOut),
        }
    }
}

/// Connects within `limit`. With an identity TLS is spoken, and these protocols are offered.
pub async fn connect_to(
    endpoint: &Endpoint,
    identity: Option<&Identity>,
    protocols: Protocols,
    limit: Duration,
) -> Result<Transport, ConnectError> {
    connect_saying(endpoint, identity, protocols.offered(), &[], limit).await
}

/// As [`connect_to`]; `preamble` goes before everything else, TLS included.
pub async fn connect_saying(
    endpoint: &Endpoint,
    identity: Option<&Identity>,
    offered: &[&[u8]],
    preamble: &[u8],
    limit: Duration,
) -> Result<Transport, ConnectError> {
    let end = base_runtime::now() + limit;
    let stream = match timeout(limit, open(endpoint)).await {
        Ok(opened) => opened?,
        Err(_) => return Err(ConnectError::Tcp(io::ErrorKind::TimedOut.into())),
    };
    if !preamble.is_empty() {
        stream.send(Buf::copy_from(preamble));
    }
    match identity {
        None => Ok(stream.into()),
        Some(identity) => {
            let left = end.saturating_duration_since(base_runtime::now());
            identity.tls.connect_offering(stream, endpoint.name(), offered, left).await.map_err(ConnectError::Tls)
        }
    }
}

async fn open(endpoint: &Endpoint) -> Result<TcpStream, ConnectError> {
    if let Place::Socket(path) = &endpoint.place {
        return TcpStream::connect_unix(path).await.map_err(ConnectError::Tcp);
    }
    if let Some(only) = endpoint.address() {
        return reach(only).await.map_err(ConnectError::Tcp);
    }
    let addresses = endpoint.addresses();
    if addresses.is_empty() {
        return Err(ConnectError::Unresolved);
    }
    let (stream, address) = race(&addresses, reach).await.map_err(ConnectError::Tcp)?;
    endpoint.connected(address);
    Ok(stream)
}

/// Connects over QUIC within `limit`, and offers HTTP/3.
pub(crate) async fn connect_quic(
    endpoint: &Endpoint,
    identity: Option<&Identity>,
    limit: Duration,
) -> Result<Driver, ConnectError> {
    let Some((identity, client)) = identity.and_then(|identity| Some((identity, identity.quic()?))) else {
        return Err(ConnectError::Tcp(io::Error::other("QUIC needs TLS 1.3, which is not set up for this server")));
    };
    let addresses = endpoint.addresses();
    if addresses.is_empty() {
        return Err(ConnectError::Unresolved);
    }
    let name = identity.tls.name_for(endpoint.name());
    let racing = race(&addresses, |address| shake(client, address, name));
    let (shaken, address) = match timeout(limit, racing).await {
        Ok(raced) => raced.map_err(ConnectError::Tcp)?,
        Err(_) => return Err(ConnectError::Tcp(io::ErrorKind::TimedOut.into())),
    };
    endpoint.connected(address);
    shaken.map_err(ConnectError::Tls)
}

/// A handshake under way: its server is told when it is given up.
struct Shaking(Option<Driver>);

impl Drop for Shaking {
    fn drop(&mut self) {
        if let Some(driver) = &self.0 {
            driver.connection().close(Code::NoError.value(), "");
        }
    }
}

/// Shakes hands with one address. The inner error is of TLS: somebody answered.
async fn shake(client: &Client, address: SocketAddr, name: &str) -> io::Result<Result<Driver, HandshakeError>> {
    base_tls::quic::turn().await;
    let mut shaking = Shaking(Some(client.connect(address, name)?));
    poll_fn(|cx| {
        let Some(driver) = &mut shaking.0 else { return Poll::Ready(Err(io::ErrorKind::Other.into())) };
        driver.begin(cx);
        while let Some(event) = driver.poll_event() {
            match event {
                Event::Connected => return Poll::Ready(Ok(Ok(()))),
                Event::ConnectionLost { reason } => return Poll::Ready(why_lost(&reason).map(Err)),
                _ => {}
            }
        }
        // Nobody is known to be there so far, so this is what there is to know.
        if let Some((_, error)) = driver.connection().refused() {
            return Poll::Ready(Err(error));
        }
        match driver.poll_transmit(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
    .map(|shaken| shaken.and_then(|()| shaking.0.take().ok_or(HandshakeError::TimedOut)))
}

/// Why a handshake came to nothing.
fn why_lost(reason: &ConnectionError) -> io::Result<HandshakeError> {
    let said = |reason: &[u8]| quoted(String::from_utf8_lossy(reason)).to_string();
    Ok(HandshakeError::Tls(match reason {
        ConnectionError::TimedOut => return Err(io::ErrorKind::TimedOut.into()),
        ConnectionError::TransportError(error) if error.reason.is_empty() => error.code.to_string(),
        ConnectionError::TransportError(error) => error.reason.clone(),
        ConnectionError::ConnectionClosed(close) if close.error_code == TransportErrorCode::CONNECTION_REFUSED => {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        ConnectionError::ConnectionClosed(close) => {
            format!("the server refused the handshake: {} {}", close.error_code, said(&close.reason))
        }
        ConnectionError::ApplicationClosed(close) => {
            let text = format!("the server closed the connection: {}", said(&close.reason));
            return Err(io::Error::other(text));
        }
        ConnectionError::VersionMismatch => "the server does not speak QUIC version 1".to_owned(),
        ConnectionError::Reset | ConnectionError::LocallyClosed | ConnectionError::CidsExhausted => {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
    }))
}

/// Connects, but not to where this process believes whoever is on its machine.
async fn reach(address: SocketAddr) -> io::Result<TcpStream> {
    if is_kept_from_traffic(address) {
        let reason = "it is the peer port of this very machine, which no traffic is led to";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
    }
    TcpStream::connect(address).await
}

/// Tries the addresses in their order, the next one when one has failed or has said nothing for a while; the first connection
/// wins and the others are given up (RFC 8305 section 5).
async fn race<T, F>(addresses: &[SocketAddr], connect: impl Fn(SocketAddr) -> F) -> io::Result<(T, SocketAddr)>
where
    F: Future<Output = io::Result<T>>,
{
    let mut waiting = addresses.iter().copied();
    let mut flying: Vec<(SocketAddr, Pin<Box<F>>)> = Vec::with_capacity(2);
    let next = Deadline::default();
    let mut start = true;
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    poll_fn(|cx| {
        loop {
            if start && let Some(address) = waiting.next() {
                start = false;
                flying.push((address, Box::pin(connect(address))));
                next.set_after(STAGGER);
            }
            let mut at = 0;
            while at < flying.len() {
                match flying[at].1.as_mut().poll(cx) {
                    Poll::Pending => at += 1,
                    Poll::Ready(Ok(stream)) => return Poll::Ready(Ok((stream, flying[at].0))),
                    Poll::Ready(Err(error)) => {
                        failed = error;
                        flying.swap_remove(at);
                        start = true;
                    }
                }
            }
            if waiting.len() == 0 {
                start = false;
                if flying.is_empty() {
                    return Poll::Ready(Err(std::mem::replace(&mut failed, io::ErrorKind::Other.into())));
                }
                return Poll::Pending;
            }
            if !start && (flying.len() == IN_FLIGHT || next.poll_expired(cx).is_pending()) {
                return Poll::Pending;
            }
            start = true;
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_runtime::{Config, IoMode, Runtime};
    use std::cell::RefCell;
    use std::pin::pin;
    use std::rc::Rc;
    use std::sync::mpsc;
    use std::time::Instant;

    struct Raced {
        won: Result<u8, io::ErrorKind>,
        tried: Vec<u8>,
        took: Duration,
        /// How often it went on, the first time with its beginning.
        steps: usize,
    }

    /// What the addresses do, by their last number: 1 connects at once, 2 refuses at once, 3 never answers.
    fn race_of(last: &'static [u8]) -> Raced {
        let config = Config { io: IoMode::Epoll, workers: Some(1), name: "race".to_owned(), ..Config::default() };
        let runtime = Runtime::start(config).expect("epoll works everywhere");
        let (sender, receiver) = mpsc::channel();
        runtime.workers()[0].spawn(move || async move {
            let addresses: Vec<SocketAddr> = last.iter().map(|n| SocketAddr::from(([10, 0, 0, *n], 80))).collect();
            let tried = Rc::new(RefCell::new(Vec::new()));
            let began = Instant::now();
            let mut raced = pin!(race(&addresses, |address| {
                let SocketAddr::V4(v4) = address else { unreachable!() };
                let behaves = v4.ip().octets()[3];
                tried.borrow_mut().push(behaves);
                async move {
                    match behaves {
                        1 => Ok(()),
                        2 => Err(io::ErrorKind::ConnectionRefused.into()),
                        _ => std::future::pending().await,
                    }
                }
            }));
            let mut steps = 0;
            let counted = poll_fn(|cx| {
                steps += 1;
                raced.as_mut().poll(cx)
            });
            let raced = timeout(Duration::from_secs(3), counted).await;
            let won = match raced {
                Ok(Ok(((), SocketAddr::V4(address)))) => Ok(address.ip().octets()[3]),
                Ok(Ok(_)) => unreachable!(),
                Ok(Err(error)) => Err(error.kind()),
                Err(_) => Err(io::ErrorKind::TimedOut),
            };
            let _ = sender.send(Raced { won, tried: tried.take(), took: began.elapsed(), steps });
        });
        receiver.recv().expect("the race ends")
    }

    #[test]
    fn refusals_go_on_at_once_and_silence_after_a_while() {
        let raced = race_of(&[2, 2, 1, 1]);
        // Nothing was waited for.
        assert_eq!((raced.won, raced.tried, raced.steps), (Ok(1), vec![2, 2, 1], 1));
        let raced = race_of(&[3, 3, 1]);
        assert_eq!((raced.won, raced.tried), (Ok(1), vec![3, 3, 1]));
        assert!(raced.took >= STAGGER * 2 - Duration::from_millis(20), "{:?}", raced.took);
    }

    #[test]
    fn all_are_tried_before_it_fails_and_few_at_a_time() {
        let raced = race_of(&[2, 2, 2]);
        assert_eq!((raced.won, raced.tried.len()), (Err(io::ErrorKind::ConnectionRefused), 3));
        let raced = race_of(&[3; 20]);
        assert_eq!((raced.won, raced.tried.len()), (Err(io::ErrorKind::TimedOut), IN_FLIGHT));
    }
}

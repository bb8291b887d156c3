//! Servers that are left out are connected to in the background until they answer.
//!
//! One worker probes a server at a time, with pauses that grow and vary, for as long as anybody names the server. A probe is what a
//! request would need: a TCP connect and, where TLS is spoken, a handshake; for HTTP/2 a connection that lives until its server has spoken;
//! a handshake over QUIC where HTTP/3 is spoken; where datagrams are, an empty one, which its machine does not refuse. The process has [`MOST`] of them under way at most, however
//! many servers are out: one that finds no room is counted as `upstream_probes` and waits for its next turn.

use crate::connect::{connect_quic, connect_saying};
use crate::endpoint::{Endpoint, Protocols, Server};
use crate::health::{Era, Health};
use crate::random;
use crate::sessions;
use base_runtime::net::udp::{Transmit, UdpOptions, UdpSocket};
use base_runtime::time::timeout;
use base_telemetry::Limit;
use proto_h3::Code;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// The pause before the first probe.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Longest pause between two probes: how long a server may be up before it is noticed.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long a probe may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// How long a machine may take to say that nobody takes a datagram.
const DATAGRAM_PATIENCE: Duration = Duration::from_millis(500);

/// Probes under way at a time, of all workers, beside as many first ones of health checks. Each holds a descriptor, of a dead network for the whole [`TIMEOUT`].
pub const MOST: usize = 256;

static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// Those of servers that nobody has asked before, which have as many places of their own: a new pool does not wait for the servers of
/// others that hang.
static FIRST_UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// Room for one probe.
pub(crate) struct Room(&'static AtomicUsize);

impl Room {
    pub(crate) fn take() -> Option<Room> {
        Room::of(&UNDER_WAY)
    }

    /// For the first probe of a server.
    pub(crate) fn take_first() -> Option<Room> {
        Room::of(&FIRST_UNDER_WAY)
    }

    fn of(under_way: &'static AtomicUsize) -> Option<Room> {
        // Counted first, so that no two find the last one.
        let room = Room(under_way);
        (under_way.fetch_add(1, Relaxed) < MOST).then_some(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Gives the place of the one who probes back, also when its worker ends.
struct Place {
    health: Arc<Health>,
    held: bool,
}

impl Place {
    /// When to probe next; without a next time the place is given back.
    fn next(&mut self) -> Option<(Duration, Era)> {
        let next = self.health.next_probe(base_runtime::now());
        self.held = next.is_some();
        next
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.held {
            self.health.give_up_probing();
        }
    }
}

/// Probes the server until it is back, unless somebody does so already. Must be called on a worker. `crowded` counts probes that found
/// no room.
#[cold]
pub fn begin(server: &Server, crowded: &Limit) {
    if !server.health.claim_probing(base_runtime::now()) {
        return;
    }
    let mut place = Place { health: server.health.clone(), held: true };
    let (endpoint, identity, url) = (Arc::downgrade(&server.endpoint), server.identity.clone(), server.url.clone());
    let (protocols, datagrams, introduction) = (server.protocols, server.datagrams, server.own_introduction());
    let crowded = crowded.clone();
    base_runtime::spawn(async move {
        let mut pause = FIRST_PAUSE;
        while let Some((rest, era)) = place.next() {
            if rest.is_zero() {
                base_runtime::time::sleep(varied(pause)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            } else {
                base_runtime::time::sleep(rest).await;
            }
            // Nobody names it any more: nobody needs to know.
            let Some(endpoint) = endpoint.upgrade() else { return };
            let Some(_room) = Room::take() else {
                crowded.hit(base_runtime::worker_index());
                continue;
            };
            place.health.vitals().probes.fetch_add(1, Relaxed);
            let answers = match datagrams {
                true => takes_datagrams(&endpoint).await,
                false if protocols == Protocols::Http3 => shakes_hands(&endpoint, identity.as_deref()).await,
                false => connects(&endpoint, identity.as_deref(), protocols, &introduction).await,
            };
            if answers && place.health.connected(era, base_runtime::now()) {
                tracing::info!(server = url, "the server can be connected to again and is back");
            }
        }
    })
    .detach();
}

async fn connects(
    endpoint: &Endpoint,
    identity: Option<&crate::Identity>,
    protocols: Protocols,
    introduction: &[u8],
) -> bool {
    match connect_saying(endpoint, identity, protocols.offered(), introduction, TIMEOUT).await {
        Ok(transport) => !sessions::is_of_http2(&transport, protocols) || sessions::lives(transport).await,
        Err(_) => false,
    }
}

async fn shakes_hands(endpoint: &Endpoint, identity: Option<&crate::Identity>) -> bool {
    let made = connect_quic(endpoint, identity, TIMEOUT).await;
    if let Ok(driver) = &made {
        driver.connection().close(Code::NoError.value(), "");
    }
    made.is_ok()
}

/// Sends a datagram of no bytes: where nobody takes it, the machine says so, within the time of a way there and back.
pub(crate) async fn takes_datagrams(endpoint: &Endpoint) -> bool {
    let Some(address) = endpoint.addresses().first().copied() else { return false };
    let Ok(socket) = UdpSocket::connect(address, &UdpOptions::default()) else { return false };
    socket.send(&Transmit::connected(&[])).is_ok()
        && !matches!(timeout(DATAGRAM_PATIENCE, socket.recv()).await, Ok(Err(_)))
}

/// Three to five quarters of a pause, so that servers that went together are not asked together.
fn varied(pause: Duration) -> Duration {
    let millis = pause.as_millis() as u64;
    Duration::from_millis(millis * 3 / 4 + random::below(millis / 2 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Heard;
    use base_runtime::{Config, IoMode, Runtime};
    use base_telemetry::LimitHits;
    use std::time::Instant;

    /// However many servers are out, the process connects to a bounded number of them at a time; the others have their turn later.
    #[test]
    fn a_probe_without_room_is_counted_and_comes_later() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Arc::new(Server::new(&url, 0, false, None).unwrap());
        let health = server.health.clone();
        assert!(health.put_out(Heard::Unreachable, Duration::from_secs(10), Instant::now()));
        let rooms: Vec<Room> = (0..MOST).map(|_| Room::take().expect("nobody else probes here")).collect();
        let limit = LimitHits::new(1).register("upstream_probes");
        let config = Config { io: IoMode::Epoll, workers: Some(1), name: "probes".to_owned(), ..Config::default() };
        let runtime = Runtime::start(config).expect("epoll works everywhere");
        let (probed, crowded) = (server.clone(), limit.clone());
        runtime.workers()[0].spawn(move || async move { begin(&probed, &crowded) });
        let until = |done: &dyn Fn() -> bool| {
            let end = Instant::now() + Duration::from_secs(60);
            while !done() {
                assert!(Instant::now() < end);
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        until(&|| limit.total() >= 2);
        assert_eq!((health.vitals().probes.load(Relaxed), health.is_out()), (0, true));
        drop(rooms);
        until(&|| !health.is_out());
        until(&|| UNDER_WAY.load(Relaxed) == 0);
        assert_eq!(health.vitals().probes.load(Relaxed), 1);
    }
}

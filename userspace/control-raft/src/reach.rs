//! Whether a machine is there at all whose daemon says nothing.
//!
//! A daemon may be silent for half a second because its machine is busy; then the kernel answers for it, whoever else waits. So a machine
//! that does not even do that is gone, or cut off, and is known for it long before silence alone would say so. Nobody is accused who has
//! not answered before, and quickly: behind a firewall or on another continent silence says nothing.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use control_api::Member;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::config::host_port;

/// Where a machine is asked: at its peer URL, or at an address of the machine itself, where anything is refused. Names are not looked up:
/// that may take longer than all else.
pub(crate) fn place(member: &Member) -> Option<SocketAddr> {
    let url = host_port("", &member.peer_url).ok();
    let port = url.as_ref().map_or(REFUSED_AT, |(_, port)| *port);
    let literal = url.and_then(|(host, _)| host.parse::<IpAddr>().ok());
    let own = member.addresses.v4.map(IpAddr::V4).or(member.addresses.v6.map(IpAddr::V6));
    literal.or(own).map(|host| SocketAddr::new(host, port))
}

/// Whether it answers, and so quickly that it can be told soon when it does not.
pub(crate) async fn is_near(address: SocketAddr) -> bool {
    for _ in 0..TIMES {
        if timeout(NEAR, asks(address)).await.unwrap_or(false) {
            return true;
        }
    }
    false
}

/// Whether nothing at all comes back.
pub(crate) async fn is_gone(address: SocketAddr) -> bool {
    for _ in 0..TIMES {
        let began = Instant::now();
        if answers(address).await {
            return false;
        }
        // A process that was held up itself may have missed the answer: it asks again.
        if began.elapsed() < WAIT + HELD_UP {
            return true;
        }
    }
    false
}

/// Asked for a connection more than once: one packet may be lost.
async fn answers(address: SocketAddr) -> bool {
    let mut asked = JoinSet::new();
    for turn in 0..TIMES {
        asked.spawn(async move {
            sleep(APART * turn).await;
            asks(address).await
        });
    }
    let one = async {
        while let Some(answered) = asked.join_next().await {
            if answered.unwrap_or(true) {
                return true;
            }
        }
        false
    };
    timeout(WAIT, one).await.unwrap_or(false)
}

/// A refusal is an answer too, and what this machine lacks says nothing of the other.
async fn asks(address: SocketAddr) -> bool {
    match TcpStream::connect(address).await {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), ErrorKind::HostUnreachable | ErrorKind::TimedOut),
    }
}

const TIMES: u32 = 3;
const APART: Duration = Duration::from_millis(30);
/// Four times as long as it takes who is near, and for the last time asked, twice.
const WAIT: Duration = Duration::from_millis(100);
const NEAR: Duration = Duration::from_millis(20);
const HELD_UP: Duration = Duration::from_millis(20);
/// Nobody listens there (discard, RFC 863): the kernel says so.
const REFUSED_AT: u16 = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_refuses_is_there() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // Nobody accepts: the daemon is busy.
        assert!(!is_gone(address).await);
        drop(listener);
        assert!(!is_gone(address).await, "its daemon has ended, the machine has not");
    }

    #[test]
    fn a_machine_is_asked_at_an_address() {
        let member = |peer_url: &str, v4: Option<&str>| Member {
            peer_url: peer_url.into(),
            addresses: control_api::Addresses { v4: v4.map(|v4| v4.parse().unwrap()), v6: None },
            ..Member::default()
        };
        let at = |member: Member| place(&member).map(|at| at.to_string());
        assert_eq!(at(member("http://10.0.0.1:2380", None)).as_deref(), Some("10.0.0.1:2380"));
        assert_eq!(at(member("https://[2001:db8::1]:2380", None)).as_deref(), Some("[2001:db8::1]:2380"));
        assert_eq!(at(member("https://edge-1:2380", Some("10.0.0.2"))).as_deref(), Some("10.0.0.2:2380"));
        assert_eq!(at(member("", Some("10.0.0.2"))).as_deref(), Some("10.0.0.2:9"));
        assert_eq!(at(member("https://edge-1:2380", None)), None);
    }
}

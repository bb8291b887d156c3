//! Whether a machine is there at all whose daemon says nothing.
//!
//! A daemon may be silent for half a second because its machine is busy; then the kernel answers for it, whoever else waits. So a machine
//! that does not even do that is gone, or cut off, and is known for it long before silence alone would say so.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::config::host_port;

/// Whether nothing at all comes back from where this peer URL leads. What this member cannot find out by itself is not held against the
/// other.
pub(crate) async fn is_gone(url: &str) -> bool {
    let Ok((host, port)) = host_port("", url) else { return false };
    let Ok(Ok(mut found)) = timeout(WAIT, lookup_host((host, port))).await else { return false };
    match found.next() {
        Some(address) => !answers(address).await,
        None => false,
    }
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
/// Longer than the way to another continent and back takes nobody here: members are asked whose heartbeats come in a tenth of a second.
const WAIT: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_refuses_is_there_and_who_is_not_found_is_not_accused() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        // Nobody accepts: the daemon is busy.
        assert!(!is_gone(&url).await);
        drop(listener);
        assert!(!is_gone(&url).await, "its daemon has ended, the machine has not");
        for unknown in ["", "http://nobody.invalid:2380", "somewhere"] {
            assert!(!is_gone(unknown).await, "{unknown}");
        }
    }
}

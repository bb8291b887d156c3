//! Carries what waiting rooms and lotteries of this machine have to say to the cluster's ledgers, and the answers back.
//!
//! Each turn is one command of the replicated log for all rooms of this machine together, and the next one waits for its answer: a
//! busy edge makes longer messages, not more of them.

use crate::health::Health;
use control_raft::Control;
use control_state::Action;
use edge_filters::hall::{Room, hall};
use proto_admission::Call;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Between two looks for something to say.
const LOOK: Duration = Duration::from_millis(20);

/// After a call that was not decided.
const AGAIN: Duration = Duration::from_millis(100);

/// Rooms that one command speaks of; the others come with the next.
const ROOMS_AT_ONCE: usize = 64;

/// Runs as long as the process does.
pub async fn carry(name: String, health: Arc<Health>) {
    let mut first = 0;
    let clock = Clock::start();
    loop {
        tokio::time::sleep(LOOK).await;
        let rooms = hall().rooms();
        if rooms.is_empty() {
            continue;
        }
        first = (first + 1) % rooms.len();
        let ordered = rooms.iter().cycle().skip(first).take(rooms.len());
        let now = now_ms();
        let speaking: Vec<(Arc<Room>, Call)> =
            ordered.filter_map(|room| Some((room.clone(), room.desk.call(now)?))).take(ROOMS_AT_ONCE).collect();
        if speaking.is_empty() {
            continue;
        }
        let answers = match health.control() {
            Some(control) => {
                ask(&control, &name, speaking.iter().map(|(_, call)| call.clone()).collect(), clock.now_ms()).await
            }
            None => None,
        };
        let failed = answers.is_none();
        let mut answers = answers.unwrap_or_default().into_iter();
        for (room, call) in speaking {
            match answers.next() {
                Some(answer) if answer.room == call.room && answer.sale == call.sale => {
                    room.desk.take(&call, answer, now_ms())
                }
                _ => room.desk.take_back(call),
            }
        }
        if failed {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

async fn ask(control: &Control, name: &str, calls: Vec<Call>, at_ms: u64) -> Option<Vec<proto_admission::Answer>> {
    // The hasher's keys are drawn by the system, and are in no answer.
    let seed = RandomState::new().build_hasher().finish();
    let action = Action::Admit { caller: name.to_owned(), at_ms, seed, calls };
    match control.propose(action).await {
        Ok(done) => Some(done.rooms),
        Err(refusal) => {
            tracing::debug!("waiting rooms: {}", refusal.message);
            None
        }
    }
}

/// Milliseconds since 1970 as they were when it was started, and how many have passed since: setting this machine's clock ends nobody's
/// time in a room.
struct Clock {
    began_ms: u64,
    began: Instant,
}

impl Clock {
    fn start() -> Clock {
        Clock { began_ms: now_ms(), began: Instant::now() }
    }

    fn now_ms(&self) -> u64 {
        self.began_ms + self.began.elapsed().as_millis() as u64
    }
}

fn now_ms() -> u64 {
    let passed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
}

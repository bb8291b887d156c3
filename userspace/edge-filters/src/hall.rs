//! The rooms of this process, waiting rooms and lotteries, and the keys their cookies are signed with.
//!
//! Filters find their desk here, whichever generation they are of; whoever carries messages to the cluster finds all desks. A desk
//! lives as long as a filter has it.

use crate::each_worker::EachWorker;
use arc_swap::{ArcSwap, Guard};
use base_telemetry::registry::Encoder;
use edge_pipeline::{Parts, PipelineName};
use proto_admission::{Desk, Keys, RoomKeys, Rules};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// See the module doc.
#[derive(Default)]
pub struct Hall {
    /// And the keys that those get which are made later.
    rooms: Mutex<(Vec<Weak<Room>>, Keys)>,
}

/// A desk and what became of requests at it.
pub struct Room {
    pub pipeline: PipelineName,
    pub filter: String,
    pub kind: &'static str,
    pub desk: Desk,
    /// What its cookies are signed with.
    keys: ArcSwap<RoomKeys>,
    counts: EachWorker<Counts>,
}

/// One worker's, in lines of memory that no other one writes to.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counts([AtomicU64; Came::ALL.len()]);

/// What became of a request; of those with a bad cookie, why that was bad as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    LetIn,
    KnownPass,
    Waiting,
    NotStarted,
    Over,
    Unlucky,
    Unavailable,
    Early,
    BadShape,
    UnknownKey,
    Forged,
    Expired,
    Future,
    Spent,
}

impl Came {
    /// In the order of the enum.
    const ALL: [(Came, &'static str, &'static str); 14] = [
        (Came::LetIn, REQUESTS, "admitted"),
        (Came::KnownPass, REQUESTS, "pass"),
        (Came::Waiting, REQUESTS, "waiting"),
        (Came::NotStarted, REQUESTS, "not_started"),
        (Came::Over, REQUESTS, "sold_out"),
        (Came::Unlucky, REQUESTS, "unlucky"),
        (Came::Unavailable, REQUESTS, "unavailable"),
        (Came::Early, EARLY, ""),
        (Came::BadShape, COOKIES, "shape"),
        (Came::UnknownKey, COOKIES, "unknown_key"),
        (Came::Forged, COOKIES, "forged"),
        (Came::Expired, COOKIES, "expired"),
        (Came::Future, COOKIES, "future"),
        (Came::Spent, COOKIES, "spent"),
    ];
}

const REQUESTS: &str = "weir_room_requests_total";
const EARLY: &str = "weir_room_early_polls_total";
const COOKIES: &str = "weir_room_cookies_rejected_total";

/// The rooms of this process.
pub fn hall() -> &'static Hall {
    static HALL: OnceLock<Hall> = OnceLock::new();
    HALL.get_or_init(Hall::default)
}

impl Hall {
    /// The room of a filter, as it was in the generation before if it is still there.
    /// Before `starts_ms`, since 1970, nobody is let in.
    pub fn room(
        &self,
        kind: &'static str,
        parts: &Parts<'_>,
        sale: &str,
        (rules, starts_ms): (Rules, u64),
    ) -> Arc<Room> {
        let mut state = lock(&self.rooms);
        let (rooms, keys) = &mut *state;
        rooms.retain(|room| room.strong_count() > 0);
        let name = parts.place();
        let mut known = rooms.iter().filter_map(Weak::upgrade);
        if let Some(room) = known.find(|room| room.desk.room() == name && room.desk.sale() == sale) {
            room.desk.set_rules(rules, starts_ms);
            return room;
        }
        let room = Arc::new(Room {
            pipeline: parts.pipeline.clone(),
            filter: parts.name.to_owned(),
            kind,
            desk: Desk::new(&name, sale, rules, starts_ms),
            keys: ArcSwap::from_pointee(RoomKeys::new(keys, &name, sale)),
            counts: EachWorker::new(parts.telemetry.workers(), Counts::default),
        });
        rooms.push(Arc::downgrade(&room));
        room
    }

    pub fn rooms(&self) -> Vec<Arc<Room>> {
        lock(&self.rooms).0.iter().filter_map(Weak::upgrade).collect()
    }

    /// Cookies are signed with these from now on.
    pub fn set_keys(&self, keys: Keys) {
        let mut state = lock(&self.rooms);
        for room in state.0.iter().filter_map(Weak::upgrade) {
            room.keys.store(Arc::new(RoomKeys::new(&keys, room.desk.room(), room.desk.sale())));
        }
        state.1 = keys;
    }

    /// Adds the figures of all rooms.
    pub fn encode(&self, encoder: &mut Encoder) {
        for room in self.rooms() {
            room.encode(encoder);
        }
    }
}

impl Room {
    /// What its cookies are signed with now.
    pub fn keys(&self) -> Guard<Arc<RoomKeys>> {
        self.keys.load()
    }

    pub fn count(&self, came: Came) {
        self.counts.own().0[came as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Requests that it became so of.
    pub fn counted(&self, came: Came) -> u64 {
        self.counts.all().map(|counts| counts.0[came as usize].load(Ordering::Relaxed)).sum()
    }

    fn encode(&self, encoder: &mut Encoder) {
        let own = [("pipeline", &**self.pipeline.text()), ("filter", self.filter.as_str()), ("sale", self.desk.sale())];
        for (came, name, label) in &Came::ALL {
            let count = self.counted(*came) as f64;
            let (help, key) = match *name {
                REQUESTS => ("Requests at a waiting room or lottery, by what became of them.", "outcome"),
                COOKIES => (
                    "Cookies of a waiting room or lottery that counted for nothing, by reason; spent: a ticket or a pass whose user has left.",
                    "reason",
                ),
                _ => ("Polls that came sooner than they were told to, which cost nothing and change nothing.", ""),
            };
            let mut labels = own.to_vec();
            labels.extend((!key.is_empty()).then_some((key, *label)));
            encoder.counter(name, help, &labels, count);
        }
        let figures = &self.desk.figures;
        for (name, help, count) in [
            ("weir_room_admissions_total", "Numbers that users were given over this edge.", &figures.admitted),
            ("weir_room_places_total", "Places in the queue that were counted by this edge.", &figures.counted),
            ("weir_room_repeats_total", "Places that were not counted because they had been before.", &figures.repeats),
            ("weir_room_crowded_total", "Users told to come again: too many numbers were asked for.", &figures.crowded),
            ("weir_room_calls_failed_total", "Calls to the cluster's ledger that were not answered.", &figures.failed),
            (
                "weir_room_left_forgotten_total",
                "Users who had left and were forgotten before their passes were over: more than 131072 at a time.",
                &figures.forgotten,
            ),
        ] {
            encoder.counter(name, help, &own, count.load(Ordering::Relaxed) as f64);
        }
        let view = self.desk.view();
        let over = u64::from(view.over.is_some());
        for (name, help, value) in [
            ("weir_room_given", "Numbers the whole cluster has given, as this edge heard last.", view.given),
            ("weir_room_waiting", "Users of the whole cluster who wait, as this edge heard last.", view.waiting),
            ("weir_room_active", "Users of the whole cluster who are inside, as this edge heard last.", view.active),
            ("weir_room_over", "Whether nobody else is let in: 0 or 1.", over),
        ] {
            encoder.gauge(name, help, &own, value as f64);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

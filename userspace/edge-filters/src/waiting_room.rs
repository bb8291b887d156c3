//! Keeps the users a shop has no room for in a queue, and lets them in by turns: as many as there is stock, at a pace, or as many
//! as may be inside at a time.
//!
//! Use it in front of a Proxy for a sale that more users come to than the shop can serve, with a time when it begins or without.
//!
//! ```yaml
//! name: room
//! kind: WaitingRoom
//! startTime: "2026-11-29T18:00:00Z"
//! capacity: {stock: 500, newUsers: 50, activeUsers: 200}
//! ```
//!
//! A request without a pass → `503` with a page, or with JSON where the client does not accept HTML: `notStarted`, `waiting` with
//! position and estimate, or `soldOut` (`410`). The client's place is in a signed cookie and nowhere else; it counts from the second
//! poll on. When its turn has come a poll gets a pass and goes on to the next filter, and for `sessionTime` so does everything that
//! comes with that pass, on every machine of the cluster. Numbers are given by the cluster, each once and never more than the stock:
//! whichever machine is lost. They need a leader; while there is none, users wait on and those with a pass are served.
//! Before the start everybody has the same chance; afterwards, who came first is first (`order: arrival`), or all of one
//! `lotteryRound` have the same chance. The backend can say in `X-Waiting-Room` of an answer: `sold-out` ends the wait on all machines,
//! `open` or more stock begins it again, `done` frees the user's place at once and ends its pass, a moment later on the other machines:
//! whoever comes again comes as somebody new.
//!
//! Outcomes: `notStarted`, `waiting`, `soldOut`, `unavailable` (no key or no random bits yet), each with the answer that goes with
//! it; `{{Refused}}` of the access log says not_started, waiting, sold_out or unavailable. Fits HTTPServer. Costs a signature of 1 µs per request; a user who waits costs no memory.

use crate::door::{Door, LOOKS, Signals, Told, check_cookie, check_header, drawn, jittered, now_ms, pause, taken_away};
use crate::hall::{Came, hall};
use crate::module_doc::module_doc;
use crate::room_answers::Answers;
use crate::source;
use crate::spec::{self, Spec, check_final_status};
use base_model::problem::{at, nth};
use base_model::{Findings, GoDuration, HttpCode, Moment, Problem};
use edge_pipeline::{BuildError, Exchange, Filter, FilterKind, Outcome, Parts, SUCCESS, Step, Touches};
use proto_admission::ticket::bucket_of;
use proto_admission::{Carried, Pass, Rules, Ticket, Turn};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

const NOT_STARTED: Outcome = "notStarted";
const WAITING: Outcome = "waiting";
const SOLD_OUT: Outcome = "soldOut";
const UNAVAILABLE: Outcome = "unavailable";

/// `kind: WaitingRoom`: a queue before a shop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["capacity"]))]
pub struct WaitingRoomSpec {
    /// When it begins, as RFC 3339 says: `2026-11-29T18:00:00Z`. Each machine goes by its own clock. Default: it has begun.
    pub start_time: Option<Moment>,
    /// When nobody else is let in. Default: never.
    pub end_time: Option<Moment>,
    /// Name of the sale. Another name begins anew: numbers from 1, no passes, nobody in the queue. Default: empty.
    pub sale: String,
    /// How many are let in; at least one of its fields.
    pub capacity: CapacitySpec,
    /// Who is first after the start: `arrival` (default), or `lottery`.
    pub order: Order,
    /// With `order: lottery`: users who came within so much time of each other have the same chance. Default 1m, 1s to 24h.
    pub lottery_round: GoDuration,
    /// Who gets one place however often it comes: `none` (default, each cookie is a client), `address` (each client address; users
    /// behind one address, or in one IPv6 network, share a place), `header` (each value of `keyHeader`).
    pub one_place_per: OnePlacePer,
    /// With `onePlacePer: header`: the header that says who asks, such as Authorization. Requests without it share a place.
    pub key_header: String,
    /// With `onePlacePer: address`: so many bits of an IPv6 address are one client, 1 to 128. Default 64.
    #[schemars(range(min = 1, max = 128))]
    pub ipv6_prefix_length: u8,
    /// How long a user who was let in stays so, and counts as inside. Default 10m, 1s to 12h: as long as keys of cookies last.
    pub session_time: GoDuration,
    /// How often a client should look again; those far behind are told to take longer, up to six times. Default 5s, 100ms to 1m.
    /// A poll in less than half of it changes nothing.
    pub poll_interval: GoDuration,
    /// A place is lost when its client has not looked for so long. Default 3m, at least ten times `pollInterval`, at most 12h.
    pub abandon_after: GoDuration,
    /// Whether one who comes while there is room and nobody waits is let in at the first request, if not in the first minute after
    /// `startTime`. Each request of a client that keeps no cookies then takes a number: where numbers are scarce that empties the stock.
    /// Of `capacity.activeUsers` half at most is taken so; the other half is for those who have come back with their cookie. Default
    /// true, but with `capacity.stock` false.
    #[schemars(with = "bool")]
    pub pass_when_idle: Option<bool>,
    /// Whether cookies are good from the client's address alone. Phones change theirs. Default false.
    pub bind_address: bool,
    /// Ends the wait on all machines: nobody else is let in. Default false.
    pub sold_out: bool,
    /// Statuses of the backend that end the wait as `sold-out` does. Default: none.
    pub sold_out_statuses: Vec<HttpCode>,
    /// Header of the backend's answers that says `sold-out`, `open` or `done`; it is not passed on. Empty: none is looked at. Default
    /// X-Waiting-Room.
    pub signal_header: String,
    /// Header of requests to the backend that holds the user's number, whatever the client sent there. Empty: none is sent. Default
    /// X-Waiting-Room-Number.
    pub number_header: String,
    /// Status while waiting. Default 503.
    pub waiting_status: HttpCode,
    /// Status before the start. Default 503.
    pub not_started_status: HttpCode,
    /// Status when nobody else is let in. Default 410.
    pub sold_out_status: HttpCode,
    /// The page for browsers, HTML, in which `{title}`, `{text}`, `{state}`, `{position}`, `{wait}` (seconds) and `{refresh}` (seconds)
    /// are filled in. Default: a plain one.
    pub page: String,
    /// Name of the cookie. Rooms of one host need different ones. Default weir_room.
    pub cookie_name: String,
    /// Domain of the cookie. Default: the host alone.
    pub cookie_domain: String,
}

/// How many are let in, by the whole cluster. What is 0 has no bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CapacitySpec {
    /// Users in all, for the whole sale: exactly so many, never more. Default 0: no bound. At most 1,000,000.
    #[schemars(range(max = 1_000_000))]
    pub stock: u64,
    /// New users in each `newUsersPer`, evenly: no more at once than come in 200ms. Default 0: no bound.
    pub new_users: u32,
    /// Default 1s.
    pub new_users_per: GoDuration,
    /// Users inside at the same time: those let in within `sessionTime` who are not `done`. Default 0: no bound.
    pub active_users: u64,
}

/// Who is first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Order {
    #[default]
    Arrival,
    Lottery,
}

/// Who gets one place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnePlacePer {
    #[default]
    None,
    Address,
    Header,
}

impl Default for CapacitySpec {
    fn default() -> CapacitySpec {
        CapacitySpec { stock: 0, new_users: 0, new_users_per: GoDuration::from_secs(1), active_users: 0 }
    }
}

impl Default for WaitingRoomSpec {
    fn default() -> WaitingRoomSpec {
        WaitingRoomSpec {
            start_time: None,
            end_time: None,
            sale: String::new(),
            capacity: CapacitySpec::default(),
            order: Order::Arrival,
            lottery_round: GoDuration::from_secs(60),
            one_place_per: OnePlacePer::None,
            key_header: String::new(),
            ipv6_prefix_length: source::IPV6_PREFIX_LENGTH,
            session_time: GoDuration::from_secs(600),
            poll_interval: GoDuration::from_secs(5),
            abandon_after: GoDuration::from_secs(180),
            pass_when_idle: None,
            bind_address: false,
            sold_out: false,
            sold_out_statuses: Vec::new(),
            signal_header: "X-Waiting-Room".to_owned(),
            number_header: "X-Waiting-Room-Number".to_owned(),
            waiting_status: const { HttpCode::new(503).unwrap() },
            not_started_status: const { HttpCode::new(503).unwrap() },
            sold_out_status: const { HttpCode::new(410).unwrap() },
            page: String::new(),
            cookie_name: "weir_room".to_owned(),
            cookie_domain: String::new(),
        }
    }
}

impl Spec for WaitingRoomSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        let place = |field: &str| at(path, field);
        let capacity = &self.capacity;
        if capacity.stock == 0 && capacity.new_users == 0 && capacity.active_users == 0 {
            let problem = Problem::new(place("capacity"), "nothing says how many are let in");
            findings.problem(problem.advice("give stock, newUsers or activeUsers, or several of them"));
        }
        let second = GoDuration::from_secs(1);
        let day = GoDuration::from_secs(DAY_S);
        for (field, value, least, most) in [
            ("capacity.newUsersPer", capacity.new_users_per, GoDuration::from_millis(10), day),
            ("lotteryRound", self.lottery_round, second, day),
            ("sessionTime", self.session_time, second, GoDuration::from_secs(COOKIES_S)),
            ("pollInterval", self.poll_interval, GoDuration::from_millis(100), GoDuration::from_secs(60)),
            (
                "abandonAfter",
                self.abandon_after,
                GoDuration::from_nanos(self.poll_interval.nanos().saturating_mul(10)),
                GoDuration::from_secs(COOKIES_S),
            ),
        ] {
            if value < least || value > most {
                let problem = Problem::new(place(field), "out of range").text(&value.to_string());
                findings.problem(problem.accepted(format!("{least} to {most}")));
            }
        }
        if let (Some(start), Some(end)) = (&self.start_time, &self.end_time)
            && start.unix_ms() >= end.unix_ms()
        {
            findings.problem(Problem::new(place("endTime"), "not after startTime").text(&end.to_string()));
        }
        match self.one_place_per {
            OnePlacePer::Header if self.key_header.is_empty() => {
                findings.problem(Problem::new(place("keyHeader"), "onePlacePer: header needs the name of one"));
            }
            OnePlacePer::Header => {}
            _ if !self.key_header.is_empty() => {
                findings.warn(place("keyHeader"), "only onePlacePer: header looks at it");
            }
            _ => {}
        }
        for (field, name) in [
            ("keyHeader", &self.key_header),
            ("signalHeader", &self.signal_header),
            ("numberHeader", &self.number_header),
        ] {
            check_header(name, place(field), findings);
        }
        for (index, status) in self.sold_out_statuses.iter().enumerate() {
            check_final_status(status.code(), nth(&place("soldOutStatuses"), index), findings);
        }
        for (field, status) in [
            ("waitingStatus", self.waiting_status),
            ("notStartedStatus", self.not_started_status),
            ("soldOutStatus", self.sold_out_status),
        ] {
            check_final_status(status.code(), place(field), findings);
        }
        check_cookie(&self.cookie_name, &self.cookie_domain, place, findings);
    }
}

/// A ready WaitingRoom.
pub struct WaitingRoom {
    door: Door,
    spec: WaitingRoomSpec,
    start_ms: Option<u64>,
    end_ms: u64,
    poll_ms: u64,
    abandon_ms: u64,
}

pub const KIND: FilterKind = FilterKind {
    kind: "WaitingRoom",
    results: &[NOT_STARTED, WAITING, SOLD_OUT, UNAVAILABLE],
    doc: module_doc!("waiting_room.rs"),
    schema: spec::schema::<WaitingRoomSpec>,
    check: spec::check::<WaitingRoomSpec>,
    build: |fields, parts| spec::build(fields, |spec| WaitingRoom::new(spec, parts)),
};

impl WaitingRoom {
    fn new(spec: WaitingRoomSpec, parts: &Parts<'_>) -> Result<WaitingRoom, BuildError> {
        let millis = |duration: GoDuration| duration.duration().as_millis() as u64;
        let seconds = |duration: GoDuration| millis(duration).div_ceil(1000);
        let capacity = &spec.capacity;
        let per_us = capacity.new_users_per.duration().as_micros() as u64;
        let interval_us = if capacity.new_users == 0 { 0 } else { (per_us / u64::from(capacity.new_users)).max(1) };
        let rules = Rules {
            stock: capacity.stock,
            interval_us,
            burst: BURST_US.checked_div(interval_us).unwrap_or(1).max(1),
            active: capacity.active_users,
            session_s: seconds(spec.session_time),
            keep_s: seconds(spec.abandon_after) + KEEP_BEYOND_S,
            grace_s: (millis(spec.poll_interval) * 4).div_ceil(1000) + 2,
            closed: false,
        };
        let start_ms = spec.start_time.as_ref().map(Moment::unix_ms);
        let begins = (rules, start_ms.unwrap_or(0));
        let room = hall().room(KIND.kind, parts, &spec.sale, begins);
        let door = Door {
            room: room.clone(),
            cookie_name: spec.cookie_name.clone(),
            cookie_domain: spec.cookie_domain.clone(),
            bind_address: spec.bind_address,
            session_ms: millis(spec.session_time),
            number_header: spec.number_header.clone(),
            signals: Arc::new(Signals {
                room,
                header: spec.signal_header.clone(),
                sold_out_statuses: spec.sold_out_statuses.iter().map(|code| code.code()).collect(),
                gone: taken_away(&spec.cookie_name, &spec.cookie_domain),
            }),
            answers: Answers::new(parts.name, &spec.page, parts.telemetry.workers()),
        };
        Ok(WaitingRoom {
            door,
            start_ms,
            end_ms: spec.end_time.as_ref().map_or(u64::MAX, Moment::unix_ms),
            poll_ms: millis(spec.poll_interval),
            abandon_ms: millis(spec.abandon_after),
            spec,
        })
    }
}

impl Filter for WaitingRoom {
    fn touches(&self) -> Touches {
        Touches::REQUEST_HEAD.and(Touches::RESPONSE)
    }

    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        self.handle_at(exchange, now_ms())
    }

    fn status(&self) -> Option<Value> {
        let view = self.door.room.desk.view();
        Some(json!({
            "waiting": view.waiting,
            "given": view.given,
            "active": view.active,
            "soldOut": self.spec.sold_out || view.over.is_some(),
            "usersPerSecond": view.pace_milli as f64 / 1000.0,
            "heardUnixMilliseconds": self.door.room.desk.figures.heard_ms.load(std::sync::atomic::Ordering::Relaxed),
        }))
    }
}

impl WaitingRoom {
    fn handle_at<'a>(&'a self, exchange: &'a mut Exchange, now: u64) -> Step<'a> {
        let lasts = |ticket: &Ticket| if ticket.counted { self.abandon_ms } else { self.abandon_ms.min(UNCOUNTED_MS) };
        let ticket = match self.door.carried(exchange, now, lasts) {
            Some(Carried::Pass(pass)) if !self.has_left(&pass, now) => {
                self.door.let_in(exchange, pass, false, now);
                return Step::Done(SUCCESS);
            }
            Some(Carried::Pass(_)) => {
                self.door.room.count(Came::Spent);
                None
            }
            Some(Carried::Ticket(ticket)) => Some(ticket),
            None => None,
        };
        let desk = &self.door.room.desk;
        let started = self.start_ms.is_none_or(|start_ms| now >= start_ms);
        if self.spec.sold_out || now >= self.end_ms {
            return self.over(exchange, now);
        }
        // Whoever shows nothing needs no place to be told that it is over, nor any signature: an id that is drawn has no past, and one
        // that follows from a key none that would still let it in.
        let drawn = ticket.is_none() && self.spec.one_place_per == OnePlacePer::None;
        let is_over = |drawn| if drawn { desk.view().over.is_some() } else { desk.is_over_for_strangers(now) };
        if started && ticket.is_none() && is_over(drawn) {
            return self.over(exchange, now);
        }
        let Some((mut ticket, fresh)) = self.placed(exchange, ticket, now) else { return self.unavailable(exchange) };
        let early = !fresh && now < ticket.issued_ms.saturating_add(self.poll_ms / 2);
        if early {
            self.door.room.count(Came::Early);
        } else if !fresh && !ticket.counted {
            desk.count(&ticket, now);
            ticket.counted = true;
        }
        desk.visit(now);
        if let (Some(start_ms), false) = (self.start_ms, started) {
            return self.not_started(exchange, ticket, early, start_ms, now);
        }
        let idle = self.spec.pass_when_idle.unwrap_or(self.spec.capacity.stock == 0)
            && self.start_ms.is_none_or(|start_ms| now >= start_ms + OPENING_MS)
            && desk.is_open();
        let turn = match ticket.counted && !early || idle {
            true => desk.turn(&ticket, !ticket.counted, now),
            false if drawn => desk.stands_new(&ticket),
            false => desk.stands(&ticket, now),
        };
        match turn {
            Turn::In(number) => self.admit(exchange, &ticket, number, now),
            Turn::Over(_) => self.over(exchange, now),
            Turn::Spent => self.come_anew(exchange, now),
            Turn::Wait { ahead, seconds } => self.wait(exchange, ticket, early, (ahead, seconds), now),
            Turn::Asked => Step::wait(async move {
                let answered = self.answer_for(&ticket).await;
                let step = match answered {
                    Some(Turn::In(number)) => self.admit(exchange, &ticket, number, now),
                    Some(Turn::Over(_)) => self.over(exchange, now),
                    Some(Turn::Spent) => self.come_anew(exchange, now),
                    _ => self.wait(exchange, ticket, early, (0, None), now),
                };
                match step {
                    Step::Done(outcome) => outcome,
                    Step::Wait(future) => future.await,
                }
            }),
        }
    }

    /// Whether the user of this pass is done, as far as this edge knows; where backends say so, it has to be told.
    fn has_left(&self, pass: &Pass, now: u64) -> bool {
        if self.spec.signal_header.is_empty() {
            return false;
        }
        let desk = &self.door.room.desk;
        desk.visit(now);
        desk.has_left(pass.id, pass.bucket)
    }

    /// The ticket, or a new one, and whether it is new. `None` without a key or random bits.
    fn placed(&self, exchange: &Exchange, ticket: Option<Ticket>, now: u64) -> Option<(Ticket, bool)> {
        if self.door.room.keys().is_empty() {
            return None;
        }
        if let Some(ticket) = ticket {
            return Some((ticket, false));
        }
        let desk = &self.door.room.desk;
        let key = match self.spec.one_place_per {
            OnePlacePer::None => None,
            OnePlacePer::Address => Some(source::text(&exchange.client, self.spec.ipv6_prefix_length)),
            OnePlacePer::Header => {
                Some(exchange.request().headers.text(&self.spec.key_header).unwrap_or("").to_owned())
            }
        };
        let id = match key {
            None => drawn()?,
            Some(key) => {
                let id = desk.id_of(key.as_bytes());
                // Until the cluster has said how ids follow from keys, nobody has a place.
                if id.is_none() {
                    desk.visit(now);
                }
                id?
            }
        };
        let bucket = self.bucket(now);
        Some((Ticket { id, bucket, counted: false, issued_ms: now, told_s: 0 }, true))
    }

    fn bucket(&self, now: u64) -> u32 {
        let round_s = match self.spec.order {
            Order::Arrival => 1,
            Order::Lottery => self.spec.lottery_round.duration().as_secs().max(1),
        };
        match self.start_ms {
            Some(start_ms) if now < start_ms => 0,
            Some(start_ms) => 1 + bucket_of((now - start_ms) / 1000 / round_s),
            None => u32::try_from(now.saturating_sub(ORIGIN_MS) / 1000 / round_s).unwrap_or(u32::MAX),
        }
    }

    /// Without a key or random bits.
    fn unavailable(&self, exchange: &mut Exchange) -> Step<'static> {
        if self.door.room.keys().is_empty() {
            let name = &self.door.room.filter;
            exchange.tags.note_own(|| {
                format!("{name}: no key to sign cookies with; with --insecure-peers the cluster has none")
            });
        }
        self.door.turn_away(exchange, Told::Unavailable, self.spec.waiting_status, jittered(self.poll_ms), None);
        Step::Done(UNAVAILABLE)
    }

    /// Its ticket has let somebody in who has left since: it gets another one, at the end.
    fn come_anew(&self, exchange: &mut Exchange, now: u64) -> Step<'static> {
        self.door.room.count(Came::Spent);
        match self.placed(exchange, None, now) {
            Some((ticket, _)) => self.wait(exchange, ticket, false, (0, None), now),
            None => self.unavailable(exchange),
        }
    }

    async fn answer_for(&self, ticket: &Ticket) -> Option<Turn> {
        for _ in 0..LOOKS {
            pause().await;
            if let Some(turn) = self.door.room.desk.answered(ticket.id, ticket.bucket) {
                return Some(turn);
            }
        }
        None
    }

    fn admit(&self, exchange: &mut Exchange, ticket: &Ticket, number: u64, now: u64) -> Step<'static> {
        let pass = Pass { id: ticket.id, number, bucket: ticket.bucket, issued_ms: now };
        self.door.let_in(exchange, pass, true, now);
        Step::Done(SUCCESS)
    }

    fn over(&self, exchange: &mut Exchange, now: u64) -> Step<'static> {
        self.door.room.desk.visit(now);
        self.door.turn_away(exchange, Told::SoldOut, self.spec.sold_out_status, self.poll_ms, None);
        Step::Done(SOLD_OUT)
    }

    fn not_started(
        &self,
        exchange: &mut Exchange,
        ticket: Ticket,
        early: bool,
        start_ms: u64,
        now: u64,
    ) -> Step<'static> {
        let left = start_ms - now;
        // Nobody needs to look often before it begins, and all look again soon after it has.
        let refresh = (left / 4).clamp(self.poll_ms, self.poll_ms * FAR).min(left.max(self.poll_ms));
        let refresh = jittered(refresh.min(UNCOUNTED_MS / 2));
        let cookie = self.renewed(exchange, ticket, early, now);
        let told = Told::NotStarted { starts_ms: start_ms };
        self.door.turn_away(exchange, told, self.spec.not_started_status, refresh, cookie);
        Step::Done(NOT_STARTED)
    }

    fn wait(
        &self,
        exchange: &mut Exchange,
        mut ticket: Ticket,
        early: bool,
        (ahead, seconds): (u64, Option<u64>),
        now: u64,
    ) -> Step<'static> {
        let now_s = now / 1000;
        // What was told is held to; where it cannot be, that is said.
        let (mut shown, mut later) = (seconds, false);
        if let Some(seconds) = seconds {
            let promised = ticket.told_s.saturating_sub(now_s);
            if ticket.told_s > 0 && promised < seconds {
                later = seconds > promised + (promised / 5).max(self.poll_ms.div_ceil(1000) * 2);
                if !later {
                    shown = Some(promised.max(1));
                }
            }
            if shown == Some(seconds) {
                ticket.told_s = now_s + seconds;
            }
        }
        let refresh = shown.map_or(self.poll_ms, |shown| (shown * 1000 / 4).clamp(self.poll_ms, self.poll_ms * FAR));
        let refresh = if ticket.counted { refresh } else { self.poll_ms };
        let cookie = self.renewed(exchange, ticket, early, now);
        let told =
            Told::Waiting { ahead: ticket.counted.then_some(ahead), seconds: shown.filter(|_| ticket.counted), later };
        self.door.turn_away(exchange, told, self.spec.waiting_status, jittered(refresh), cookie);
        Step::Done(WAITING)
    }

    /// The ticket's cookie as it is now; a poll that came too early gets none, so that coming sooner changes nothing.
    fn renewed(&self, exchange: &Exchange, ticket: Ticket, early: bool, now: u64) -> Option<Vec<u8>> {
        if early {
            return None;
        }
        let ticket = Ticket { issued_ms: now, ..ticket };
        self.door.set_cookie(exchange, &Carried::Ticket(ticket), self.abandon_ms)
    }
}

/// What comes in so much time may come at once, in microseconds: messages wait for each other, and the shop is not to notice.
const BURST_US: u64 = 200_000;
/// A place that does not count yet is lost after so long: less than repeats of it are known for.
const UNCOUNTED_MS: u64 = 55_000;
/// Those far behind look so many times less often.
const FAR: u64 = 6;
/// A sale's first minute, in which nobody is let in at the first request.
const OPENING_MS: u64 = 60_000;
/// 2026-01-01: rooms without a start count seconds from there.
const ORIGIN_MS: u64 = 1_767_225_600_000;
/// An id is known for so much longer than any ticket of it is good, in seconds.
const KEEP_BEYOND_S: u64 = 60;
const DAY_S: i64 = 86_400;
/// A key signs for half a day, and its cookies are good for another half.
const COOKIES_S: i64 = 12 * 3600;

#[cfg(test)]
pub(crate) mod tests;

use super::*;
use crate::hall::Room;
use crate::testing::*;
use proto_admission::{Keys, Ledger};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Carries what the rooms of this process say to ledgers, and the answers back.
pub(crate) struct Cluster {
    ledgers: BTreeMap<(String, String), Ledger>,
}

impl Cluster {
    pub(crate) fn new() -> Cluster {
        hall().set_keys(Keys::of([(&[1; 16], &[1; 32])], 0));
        Cluster { ledgers: BTreeMap::new() }
    }

    /// One turn of one room.
    pub(crate) fn carry(&mut self, room: &Room, now: u64) {
        if let Some(call) = room.desk.call(now) {
            let place = (call.room.clone(), call.sale.clone());
            let ledger = self.ledgers.entry(place).or_insert_with(|| Ledger::new(0x1234_5678_9abc_def1));
            let answer = ledger.apply(&call, "edge", now);
            room.desk.take(&call, answer, now);
        }
    }

    /// Waits until a filter has decided, with the cluster beside it.
    pub(crate) fn decide(&mut self, room: &Room, now: u64, step: Step<'_>) -> Outcome {
        let future = match step {
            Step::Done(outcome) => return outcome,
            Step::Wait(future) => future,
        };
        let mut future = std::pin::pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..2 * LOOKS {
            if let Poll::Ready(outcome) = future.as_mut().poll(&mut context) {
                return outcome;
            }
            self.carry(room, now);
        }
        panic!("nobody answers");
    }
}

/// What a browser would send back.
pub(crate) fn cookie_of(exchange: &Exchange) -> String {
    let cookie = response_header(exchange, "Set-Cookie").expect("a cookie");
    cookie.split(';').next().unwrap().to_owned()
}

/// A room, and a clock that stands still.
struct World {
    cluster: Cluster,
    filter: Arc<dyn Filter>,
    now: u64,
}

impl World {
    fn new(spec: &str) -> World {
        World { cluster: Cluster::new(), filter: filter(&KIND, spec), now: START - 60_000 }
    }

    fn room(&self) -> &WaitingRoom {
        self.filter.downcast().unwrap()
    }

    fn exchange(&mut self) {
        let filter = self.filter.clone();
        self.cluster.carry(&filter.downcast::<WaitingRoom>().unwrap().door.room, self.now);
    }

    /// One request; the cookie it leaves with, if any.
    fn visit(&mut self, cookie: Option<&str>, headers: &[(&str, &str)]) -> (Outcome, Exchange) {
        let mut headers = headers.to_vec();
        headers.extend(cookie.map(|cookie| ("Cookie", cookie)));
        let mut exchange = request("GET", "/", &headers);
        let filter = self.filter.clone();
        let room = filter.downcast::<WaitingRoom>().unwrap();
        let now = self.now;
        let outcome = self.cluster.decide(&room.door.room, now, room.handle_at(&mut exchange, now));
        if outcome == SUCCESS {
            answer(&mut exchange, 200, &[], b"the shop");
            exchange.end();
        }
        (outcome, exchange)
    }

    /// A client that comes, and comes back when it may, until it is let in or sent away.
    fn queue(&mut self, cookie: &mut String) -> Outcome {
        let (outcome, exchange) = self.visit(Some(cookie), &[]);
        if response_header(&exchange, "Set-Cookie").is_some() {
            *cookie = cookie_of(&exchange);
        }
        outcome
    }
}

/// 2026-11-29T18:00:00Z.
const START: u64 = 1_795_975_200_000;

fn field(exchange: &Exchange, name: &str) -> Value {
    serde_json::from_slice::<Value>(body_of(exchange)).unwrap()[name].clone()
}

#[test]
fn a_sale_from_before_its_start_until_it_is_sold_out() {
    let mut world =
        World::new("{startTime: '2026-11-29T18:00:00Z', capacity: {stock: 5}, sale: whole, pollInterval: 2s}");
    let mut users = vec![String::new(); 20];
    for user in &mut users {
        assert_eq!(world.queue(user), NOT_STARTED);
    }
    world.now += 3_000;
    for user in &mut users {
        assert_eq!(world.queue(user), NOT_STARTED);
    }
    world.exchange();
    assert_eq!(world.room().door.room.desk.view().waiting, 20, "places count from the second poll");
    assert_eq!(world.room().door.room.desk.view().given, 0);
    let (_, exchange) = world.visit(None, &[]);
    assert_eq!((status_of(&exchange), field(&exchange, "state")), (503, json!("notStarted")));
    assert_eq!(exchange.refused, Some("not_started"));
    assert_eq!(field(&exchange, "startsAtUnixSeconds"), json!(START / 1000));
    // It begins. Turn by turn, whoever polls.
    world.now = START;
    let mut admitted = vec![false; users.len()];
    let mut sold_out = 0;
    for _ in 0..30 {
        world.now += 4_000;
        world.exchange();
        for (user, admitted) in users.iter_mut().zip(&mut admitted).filter(|(_, admitted)| !**admitted) {
            match world.queue(user) {
                SUCCESS => *admitted = true,
                SOLD_OUT => sold_out += 1,
                _ => {}
            }
        }
        world.exchange();
    }
    assert_eq!(admitted.iter().filter(|admitted| **admitted).count(), 5);
    assert!(sold_out > 0);
    // They stay inside although nobody else is let in, on another edge too, until their time is over.
    let inside = users.iter().zip(&admitted).find(|(_, admitted)| **admitted).unwrap().0.clone();
    let (outcome, exchange) = world.visit(Some(&inside), &[("X-Waiting-Room-Number", "1000000")]);
    assert_eq!(outcome, SUCCESS);
    let number: u64 = header(&exchange, "X-Waiting-Room-Number").unwrap().parse().unwrap();
    assert!((1..=5).contains(&number), "whatever the client says");
    let (outcome, exchange) = world.visit(None, &[("Accept", "text/html,*/*;q=0.8")]);
    assert_eq!((outcome, status_of(&exchange), exchange.refused), (SOLD_OUT, 410, Some("sold_out")));
    assert!(String::from_utf8_lossy(body_of(&exchange)).contains("Sold out"));
    world.now += 700_000;
    assert_eq!(world.visit(Some(&inside), &[]).0, SOLD_OUT);
}

#[test]
fn who_keeps_no_cookies_takes_no_number_of_a_stock() {
    let mut world = World::new("{capacity: {stock: 5}, sale: careless}");
    world.visit(None, &[]);
    world.exchange();
    assert!(world.room().door.room.desk.is_open());
    for _ in 0..20 {
        assert_eq!(world.visit(None, &[]).0, WAITING);
        world.now += 100;
        world.exchange();
    }
    assert_eq!(world.room().door.room.desk.view().given, 0);
    let mut asked = World::new("{capacity: {stock: 5}, sale: asked, passWhenIdle: true}");
    asked.visit(None, &[]);
    asked.exchange();
    assert_eq!(asked.visit(None, &[]).0, SUCCESS);
}

#[test]
fn a_pass_is_found_beside_what_others_put_there_and_kept_by_no_cache() {
    let mut world = World::new("{capacity: {activeUsers: 5}, sale: beside}");
    world.visit(None, &[]);
    world.exchange();
    let (outcome, exchange) = world.visit(None, &[]);
    assert_eq!(outcome, SUCCESS);
    let kept: Vec<_> =
        exchange.default_space_ref().response.as_ref().unwrap().headers.values("Cache-Control").collect();
    assert_eq!(kept, [b"private"], "whoever is given the answer again would be given the pass");
    let pass = cookie_of(&exchange);
    // A neighbour's host may set a cookie of that name for the whole domain.
    let beside = format!("weir_room=; weir_room=AQAAAA; {pass}");
    let (outcome, exchange) = world.visit(Some(&beside), &[]);
    assert_eq!((outcome, response_header(&exchange, "Set-Cookie")), (SUCCESS, None));
    assert_eq!(response_header(&exchange, "Cache-Control"), None, "nothing of the client's own is in it");
    let room = &world.room().door.room;
    assert_eq!((room.counted(Came::KnownPass), room.counted(Came::BadShape)), (1, 0));
}

#[test]
fn polls_that_come_too_early_change_nothing() {
    let mut world = World::new("{capacity: {newUsers: 1, newUsersPer: 1h}, sale: early, passWhenIdle: false}");
    let (outcome, exchange) = world.visit(None, &[]);
    let cookie = cookie_of(&exchange);
    assert_eq!((outcome, field(&exchange, "position")), (WAITING, Value::Null));
    for _ in 0..50 {
        let (outcome, exchange) = world.visit(Some(&cookie), &[]);
        assert_eq!((outcome, response_header(&exchange, "Set-Cookie")), (WAITING, None));
    }
    let room = &world.room().door.room;
    assert_eq!(
        (room.counted(Came::Early), room.desk.figures.counted.load(std::sync::atomic::Ordering::Relaxed)),
        (50, 0)
    );
    // One cookie that is sent a hundred times in time has one place.
    world.now += 6_000;
    for _ in 0..100 {
        world.visit(Some(&cookie), &[]);
    }
    world.exchange();
    assert_eq!(world.room().door.room.desk.figures.counted.load(std::sync::atomic::Ordering::Relaxed), 1);
    let retry: u64 = {
        let (_, exchange) = world.visit(None, &[]);
        response_header(&exchange, "Retry-After").unwrap().parse().unwrap()
    };
    assert!((5..=8).contains(&retry), "{retry}");
}

#[test]
fn what_was_forged_replayed_or_kept_too_long_counts_for_nothing() {
    let mut world = World::new("{capacity: {stock: 3}, sale: forged, sessionTime: 60s, passWhenIdle: false}");
    let mut user = String::new();
    world.queue(&mut user);
    let ticket = user.clone();
    world.now += 6_000;
    world.queue(&mut user);
    let counted = user.clone();
    world.exchange();
    world.now += 6_000;
    assert_eq!(world.queue(&mut user), SUCCESS);
    // The ticket once more: the same number, and no other.
    let mut again = counted.clone();
    assert_eq!(world.queue(&mut again), SUCCESS);
    assert_eq!(world.room().door.room.desk.view().given, 1);
    let mut forged = user.clone().into_bytes();
    let last = forged.len() - 8;
    forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();
    assert_eq!(world.visit(Some(&forged), &[]).0, WAITING);
    let shape = "weir_room=hello".to_owned();
    assert_eq!(world.visit(Some(&shape), &[]).0, WAITING);
    world.now += 70_000;
    assert_eq!(world.visit(Some(&user), &[]).0, WAITING, "its session is over");
    assert_eq!(world.visit(Some(&ticket), &[]).0, WAITING, "it never counted, and is too old to");
    let room = &world.room().door.room;
    let rejected = [Came::Forged, Came::BadShape, Came::Expired].map(|came| room.counted(came));
    assert_eq!(rejected, [1, 1, 2]);
    // Of another room.
    let mut other = World::new("{capacity: {stock: 3}, sale: other, passWhenIdle: false}");
    other.now = world.now - 70_000;
    assert_eq!(other.visit(Some(&user), &[]).0, WAITING);
    assert_eq!(other.room().door.room.counted(Came::Forged), 1);
}

#[test]
fn the_backend_says_when_it_is_over_and_who_has_left() {
    let mut world = World::new("{capacity: {activeUsers: 1}, sale: verbs, soldOutStatuses: [409]}");
    world.visit(None, &[]);
    world.exchange();
    let shop = |world: &mut World, cookie: Option<&str>, says: (u16, &str)| {
        let headers: Vec<_> = cookie.map(|cookie| ("Cookie", cookie)).into_iter().collect();
        let mut exchange = request("GET", "/", &headers);
        let filter = world.filter.clone();
        let room = filter.downcast::<WaitingRoom>().unwrap();
        let now = world.now;
        let outcome = world.cluster.decide(&room.door.room, now, room.handle_at(&mut exchange, now));
        if outcome == SUCCESS {
            answer(&mut exchange, says.0, &[("X-Waiting-Room", says.1)], b"");
            exchange.end();
            assert_eq!(response_header(&exchange, "X-Waiting-Room"), None, "it is between the two");
        }
        (outcome, exchange)
    };
    let (outcome, exchange) = shop(&mut world, None, (200, ""));
    assert_eq!(outcome, SUCCESS, "nobody waits, and there is room");
    let pass = cookie_of(&exchange);
    world.exchange();
    assert_eq!(shop(&mut world, None, (200, "")).0, WAITING);
    // It is done: its place is free, and its pass is not given to it again.
    assert_eq!(shop(&mut world, Some(&pass), (200, "done")).0, SUCCESS);
    world.now += 300;
    world.exchange();
    let (outcome, exchange) = shop(&mut world, None, (200, ""));
    assert_eq!(outcome, SUCCESS);
    // Who kept its pass comes as somebody new.
    let (outcome, kept) = shop(&mut world, Some(&pass), (200, ""));
    assert_eq!((outcome, field(&kept, "position")), (WAITING, Value::Null));
    assert_ne!(cookie_of(&kept), pass);
    assert_eq!(world.room().door.room.counted(Came::Spent), 1);
    let pass = cookie_of(&exchange);
    // Over, by header and by status; begun again.
    for says in [(200, "Sold-Out"), (409, "")] {
        assert_eq!(shop(&mut world, Some(&pass), says).0, SUCCESS);
        assert_eq!(shop(&mut world, None, (200, "")).0, SOLD_OUT, "here at once");
        world.now += 300;
        world.exchange();
        assert_eq!(shop(&mut world, Some(&pass), (200, "open")).0, SUCCESS);
        world.now += 300;
        world.exchange();
        assert_eq!(shop(&mut world, None, (200, "")).0, WAITING);
    }
}

#[test]
fn a_ticket_is_good_for_one_number_though_its_user_is_done() {
    let mut world = World::new("{capacity: {stock: 3}, sale: done, pollInterval: 1s, passWhenIdle: false}");
    let mut user = String::new();
    world.queue(&mut user);
    world.now += 1_500;
    world.queue(&mut user);
    let ticket = user.clone();
    world.exchange();
    world.now += 1_500;
    assert_eq!(world.queue(&mut user), SUCCESS);
    let done = |world: &mut World, cookie: &str| {
        let mut exchange = request("GET", "/", &[("Cookie", cookie)]);
        let filter = world.filter.clone();
        let room = filter.downcast::<WaitingRoom>().unwrap();
        let outcome = world.cluster.decide(&room.door.room, world.now, room.handle_at(&mut exchange, world.now));
        if outcome == SUCCESS {
            answer(&mut exchange, 200, &[("X-Waiting-Room", "done")], b"");
            exchange.end();
        }
        (outcome, exchange)
    };
    assert_eq!(done(&mut world, &user).0, SUCCESS);
    for _ in 0..10 {
        world.now += 1_500;
        world.exchange();
        let (outcome, exchange) = done(&mut world, &ticket);
        assert_eq!((outcome, field(&exchange, "position")), (WAITING, Value::Null), "it comes as somebody new");
        assert_ne!(cookie_of(&exchange), ticket);
    }
    let room = &world.room().door.room;
    assert_eq!((room.desk.view().given, room.counted(Came::Spent)), (1, 10));
}

#[test]
fn clients_without_cookies_leave_room_for_those_who_keep_them() {
    let mut world = World::new("{capacity: {activeUsers: 6}, sale: cookieless, pollInterval: 1s}");
    world.visit(None, &[]);
    world.exchange();
    let careless = (0..50).filter(|_| {
        world.now += 300;
        let (outcome, _) = world.visit(None, &[]);
        world.exchange();
        outcome == SUCCESS
    });
    assert_eq!(careless.count(), 3, "half of the places");
    let mut user = String::new();
    assert_eq!(world.queue(&mut user), WAITING);
    world.now += 1_500;
    world.exchange();
    assert_eq!(world.queue(&mut user), SUCCESS);
}

#[test]
fn a_network_of_ipv6_has_one_place() {
    for (length, places) in [("", 1), ("ipv6PrefixLength: 128, ", 20)] {
        let mut world = World::new(&format!(
            "{{{length}startTime: '2026-11-29T18:00:00Z', capacity: {{stock: 5}}, sale: network{places}, onePlacePer: address, pollInterval: 1s, passWhenIdle: false}}"
        ));
        world.visit(None, &[]);
        world.exchange();
        for host in 0..20 {
            let filter = world.filter.clone();
            let room = filter.downcast::<WaitingRoom>().unwrap();
            let address = format!("2001:db8:1:2::{host:x}");
            // The cookie of the first look; whoever keeps it has its place from the second look on.
            let mut first = request("GET", "/", &[]);
            first.client.real_ip = Some(address.parse().unwrap());
            world.cluster.decide(&room.door.room, world.now, room.handle_at(&mut first, world.now));
            let cookie = cookie_of(&first);
            let mut second = request("GET", "/", &[("Cookie", &cookie)]);
            second.client.real_ip = first.client.real_ip;
            let later = world.now + 1_500;
            world.cluster.decide(&room.door.room, later, room.handle_at(&mut second, later));
        }
        let counted = world.room().door.room.desk.figures.counted.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(counted, places, "{length}");
    }
}

#[test]
fn bots_on_few_keys_have_few_places() {
    let mut world = World::new(
        "{capacity: {stock: 5}, sale: bots, onePlacePer: header, keyHeader: X-User, pollInterval: 1s, passWhenIdle: false}",
    );
    world.visit(None, &[]);
    world.exchange();
    let mut cookies = vec![None; 100];
    let mut numbers = std::collections::BTreeMap::new();
    for _ in 0..4 {
        for (client, cookie) in cookies.iter_mut().enumerate() {
            // Ninety clients of one user, and ten others.
            let user = if client < 90 { "bot".to_owned() } else { format!("user-{client}") };
            let (outcome, exchange) = world.visit(cookie.as_deref(), &[("X-User", &user)]);
            if response_header(&exchange, "Set-Cookie").is_some() {
                *cookie = Some(cookie_of(&exchange));
            }
            if outcome == SUCCESS {
                numbers.insert(header(&exchange, "X-Waiting-Room-Number").unwrap().to_owned(), user);
            }
        }
        world.now += 1_500;
        world.exchange();
    }
    assert_eq!(numbers.len(), 5);
    assert_eq!(numbers.values().filter(|user| *user == "bot").count(), 1, "{numbers:?}");
    let room = &world.room().door.room;
    let counted = room.desk.figures.counted.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(counted, 11, "one for the bot, ten for the others");
}

#[test]
fn who_shows_nothing_but_a_key_is_told_at_once_that_it_is_over() {
    let mut world = World::new(
        "{capacity: {stock: 1}, sale: strangers, onePlacePer: header, keyHeader: X-User, pollInterval: 1s, passWhenIdle: false}",
    );
    let (ann, ben) = (&[("X-User", "ann")][..], &[("X-User", "ben")][..]);
    world.visit(None, &[]);
    world.exchange();
    let mut cookie = cookie_of(&world.visit(None, ann).1);
    let mut outcome = WAITING;
    for _ in 0..4 {
        world.now += 1_500;
        world.exchange();
        let (came, exchange) = world.visit(Some(&cookie), ann);
        (outcome, cookie) = (came, response_header(&exchange, "Set-Cookie").map_or(cookie, |_| cookie_of(&exchange)));
        if outcome == SUCCESS {
            break;
        }
    }
    assert_eq!(outcome, SUCCESS);
    // Her answer was lost: what she was given a moment ago she is given again, sold out or not.
    world.exchange();
    assert_eq!((world.visit(None, ben).0, world.visit(None, ann).0), (SOLD_OUT, SUCCESS));
    // Later nothing is known of anybody without a cookie, of her who has left neither: nobody is told to wait for nothing.
    let room = world.room().door.room.clone();
    room.desk.leave(room.desk.id_of(b"ann").unwrap(), u32::MAX);
    world.now += 6_000;
    world.exchange();
    for who in [ann, ben, &[]] {
        assert_eq!(world.visit(None, who).0, SOLD_OUT, "{who:?}");
    }
}

#[test]
fn without_keys_nobody_is_let_in_and_the_document_can_end_it() {
    let mut world = World::new("{capacity: {stock: 1}, sale: ended, soldOut: true}");
    assert_eq!(world.visit(None, &[]).0, SOLD_OUT);
    let mut world = World::new("{capacity: {stock: 1}, sale: past, endTime: '2026-11-29T17:00:00Z'}");
    assert_eq!(world.visit(None, &[]).0, SOLD_OUT);
}

#[test]
fn a_promise_is_kept_or_taken_back_in_words() {
    let mut world = World::new("{capacity: {newUsers: 10}, sale: promise, passWhenIdle: false, pollInterval: 1s}");
    let view = |pace_milli| proto_admission::Answer {
        sale: "promise".into(),
        points: vec![(0, 0), (1, 1000)],
        pace_milli,
        seed: 1,
        ..Default::default()
    };
    let told = |world: &mut World, cookie: &mut String, pace| {
        world.now += 1_000;
        world.room().door.room.desk.take(&Default::default(), view(pace), world.now);
        let (_, exchange) = world.visit(Some(cookie), &[]);
        *cookie = cookie_of(&exchange);
        (field(&exchange, "waitSeconds"), field(&exchange, "reason"))
    };
    let mut cookie = String::new();
    told(&mut world, &mut cookie, 10_000);
    let (first, _) = told(&mut world, &mut cookie, 10_000);
    let first = first.as_u64().unwrap();
    let (second, reason) = told(&mut world, &mut cookie, 9_500);
    assert!(second.as_u64().unwrap() < first && reason.is_null(), "a little slower is no reason to say more");
    let (third, reason) = told(&mut world, &mut cookie, 1_000);
    assert!(third.as_u64().unwrap() > 3 * first && reason.is_string(), "{third} {reason}");
}

#[test]
fn refused() {
    refuses(&KIND, "{}", &["capacity"]);
    refuses(&KIND, "{capacity: {}}", &["capacity"]);
    refuses(&KIND, "{capacity: {stock: 2000000}}", &["capacity.stock"]);
    refuses(&KIND, "{capacity: {stock: 1}, startTime: now}", &["startTime"]);
    // The keys that sign its cookies may be gone by then.
    refuses(&KIND, "{capacity: {stock: 1}, sessionTime: 13h, abandonAfter: 13h}", &["abandonAfter", "sessionTime"]);
    refuses(
        &KIND,
        "{capacity: {stock: 1}, startTime: '2026-11-29T18:00:00Z', endTime: '2026-11-29T18:00:00Z'}",
        &["endTime"],
    );
    refuses(
        &KIND,
        "{capacity: {stock: 1}, pollInterval: 1h, abandonAfter: 1s, sessionTime: 0s, onePlacePer: header, cookieName: ''}",
        &["abandonAfter", "cookieName", "keyHeader", "pollInterval", "sessionTime"],
    );
    refuses(
        &KIND,
        "{capacity: {stock: 1}, soldOutStatuses: [100], signalHeader: 'a b'}",
        &["signalHeader", "soldOutStatuses[0]"],
    );
}

/// Who of forty users, who come more than a second apart, is let in by a sale of ten.
fn lucky(sale: &str, order: &str) -> Vec<usize> {
    let mut world = World::new(&format!(
        "{{startTime: '2026-11-29T18:00:00Z', capacity: {{stock: 10, newUsers: 1, newUsersPer: 10s}}, sale: {sale}, {order}, \
         numberHeader: X-Turn, passWhenIdle: false}}"
    ));
    let mut users = vec![String::new(); 40];
    world.now = START + 100_000;
    for user in &mut users {
        world.now += 1_200;
        world.queue(user);
    }
    world.now += 5_000;
    for user in &mut users {
        world.queue(user);
    }
    world.exchange();
    let mut inside = Vec::new();
    for _ in 0..60 {
        world.now += 4_000;
        world.exchange();
        for (n, user) in users.iter_mut().enumerate() {
            if inside.contains(&n) {
                continue;
            }
            let (outcome, exchange) = world.visit(Some(user), &[]);
            if response_header(&exchange, "Set-Cookie").is_some() {
                *user = cookie_of(&exchange);
            }
            if outcome == SUCCESS {
                assert!(header(&exchange, "X-Turn").is_some() && header(&exchange, "X-Waiting-Room-Number").is_none());
                inside.push(n);
            }
        }
        world.exchange();
    }
    inside.sort_unstable();
    inside
}

#[test]
fn the_order_is_that_of_the_document() {
    let first: Vec<usize> = (0..10).collect();
    assert_eq!(lucky("arrival", "order: arrival"), first);
    let drawn = lucky("drawn", "order: lottery, lotteryRound: 1h");
    assert!(drawn.len() == 10 && drawn != first, "{drawn:?}");
    assert_eq!(lucky("short", "order: lottery, lotteryRound: 1s"), first, "nobody came within a second of another");
}

#[test]
fn what_is_said_is_as_the_document_says() {
    let mut world = World::new(
        "{startTime: '2026-11-29T18:00:00Z', capacity: {newUsers: 1, newUsersPer: 1h}, sale: said, notStartedStatus: 425, \
         waitingStatus: 429, cookieDomain: shop.test, page: '<p>{state}</p>', passWhenIdle: false}",
    );
    let (_, exchange) = world.visit(None, &[("Accept", "text/html")]);
    assert_eq!((status_of(&exchange), body_of(&exchange)), (425, &b"<p>notStarted</p>"[..]));
    assert!(response_header(&exchange, "Set-Cookie").unwrap().contains("; Domain=shop.test"));
    world.now = START;
    let (_, exchange) = world.visit(None, &[("Accept", "text/html")]);
    assert_eq!((status_of(&exchange), body_of(&exchange)), (429, &b"<p>waiting</p>"[..]));
}

#[test]
fn a_cookie_may_be_bound_to_an_address() {
    for (bound, expected) in [(false, 0), (true, 1)] {
        let mut world = World::new(&format!(
            "{{capacity: {{stock: 3}}, sale: bound{bound}, passWhenIdle: false, bindAddress: {bound}}}"
        ));
        let (_, exchange) = world.visit(None, &[]);
        let cookie = cookie_of(&exchange);
        world.now += 6_000;
        let filter = world.filter.clone();
        let room = filter.downcast::<WaitingRoom>().unwrap();
        let mut exchange = request("GET", "/", &[("Cookie", &cookie)]);
        exchange.client.real_ip = Some("198.51.100.7".parse().unwrap());
        world.cluster.decide(&room.door.room, world.now, room.handle_at(&mut exchange, world.now));
        assert_eq!(room.door.room.counted(Came::Forged), expected, "{bound}");
    }
}

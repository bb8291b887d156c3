//! What a room promises, told to the ledger and asked of the desk: one number for one ticket, one time for all clocks, and places for
//! those who keep cookies.

use proto_admission::ledger::{LAW, LEARNED_MAX};
use proto_admission::{Call, Candidate, Desk, Ledger, Rules, Ticket, Turn};

const SHOP: Rules =
    Rules { stock: 0, interval_us: 0, burst: 1, active: 0, session_s: 600, keep_s: 240, grace_s: 5, closed: false };

fn call(rules: Rules, wanting: &[(u32, u64)]) -> Call {
    let wanting = wanting.iter().map(|(bucket, id)| Candidate { bucket: *bucket, id: *id }).collect();
    Call { room: "r".into(), rules, wanting, law: LAW, ..Call::default() }
}

fn ticket(bucket: u32, id: u64) -> Ticket {
    Ticket { id, bucket, counted: true, issued_ms: 0, told_s: 0 }
}

fn exchange(desk: &Desk, ledger: &mut Ledger, caller: &str, now: u64) {
    if let Some(call) = desk.call(now) {
        let answer = ledger.apply(&call, caller, now);
        desk.take(&call, answer, now);
    }
}

#[test]
fn a_ticket_has_one_number_though_its_user_has_left() {
    let rules = Rules { stock: 5, ..SHOP };
    let mut ledger = Ledger::new(1);
    let edges = [Desk::new("r", "", rules, 0), Desk::new("r", "", rules, 0)];
    let mut now = 1_000;
    for (desk, name) in edges.iter().zip(["a", "b"]) {
        desk.visit(now);
        exchange(desk, &mut ledger, name, now);
    }
    assert_eq!(edges[0].turn(&ticket(3, 7), false, now), Turn::Asked);
    exchange(&edges[0], &mut ledger, "a", now);
    assert_eq!(edges[0].turn(&ticket(3, 7), false, now), Turn::In(1));
    // It buys and is done; the old ticket comes back over both edges, again and again.
    edges[0].leave(7, 3);
    for turn in 0..20 {
        now += 1_000;
        let (desk, name) = [(&edges[0], "a"), (&edges[1], "b")][turn % 2];
        let told = desk.turn(&ticket(3, 7), false, now);
        assert!([Turn::Asked, Turn::Spent].contains(&told), "{turn}: {told:?}");
        exchange(desk, &mut ledger, name, now);
        if told == Turn::Asked {
            assert_eq!(desk.answered(7, 3), Some(Turn::Spent));
        }
    }
    assert_eq!(ledger.given(), 1, "one ticket, one number");
    // Whoever comes again with the same key comes later, and is somebody new.
    assert_eq!(edges[1].turn(&ticket(9, 7), false, now), Turn::Asked);
    exchange(&edges[1], &mut ledger, "b", now);
    assert_eq!(edges[1].answered(7, 9), Some(Turn::In(2)));
    // Also where the edge that let it in knows the number, and it left over the other one.
    assert_eq!(edges[1].turn(&ticket(9, 7), false, now), Turn::In(2));
    edges[0].leave(7, 9);
    exchange(&edges[0], &mut ledger, "a", now + 300);
    assert_eq!(edges[1].turn(&ticket(9, 7), false, now + 10_000), Turn::Asked);
    exchange(&edges[1], &mut ledger, "b", now + 10_000);
    assert_eq!(edges[1].answered(7, 9), Some(Turn::Spent));
    let kept: Ledger = serde_json::from_str(&serde_json::to_string(&ledger).unwrap()).unwrap();
    assert_eq!(kept, ledger);
}

#[test]
fn what_is_known_of_those_who_left_is_bounded_by_time() {
    let mut ledger = Ledger::new(1);
    for id in 0..10_000 {
        let now = 1_000_000 + id * 1_000;
        ledger.apply(&call(SHOP, &[(1, id)]), "a", now);
        let gone = vec![Candidate { bucket: 1, id }];
        ledger.apply(&Call { gone, ..call(SHOP, &[]) }, "a", now);
    }
    let text = serde_json::to_string(&ledger).unwrap();
    assert!(text.len() < 40_000, "{} bytes for ten thousand who came and went", text.len());
}

#[test]
fn one_clock_that_is_set_ahead_moves_nothing() {
    let rules = Rules { stock: 0, active: 10, session_s: 600, ..SHOP };
    let mut ledger = Ledger::new(1);
    let full: Vec<(u32, u64)> = (0..10).map(|id| (0, id)).collect();
    assert_eq!(ledger.apply(&call(rules, &full), "a", 1_000_000).admitted.len(), 10);
    for (at, caller) in [(1_000_100, "b"), (1_000_200, "c")] {
        ledger.apply(&call(rules, &[]), caller, at);
    }
    // One of three is an hour ahead from here on, and asks most.
    for turn in 0..200_u64 {
        let now = 1_001_000 + turn * 100;
        for caller in ["b", "c"] {
            ledger.apply(&call(rules, &[(1, 100 + turn)]), caller, now);
        }
        for ahead in 0..3 {
            let answer = ledger.apply(&call(rules, &[(1, 100 + turn)]), "a", now + 3_600_000 + ahead);
            assert_eq!((answer.admitted, answer.active), (vec![], 10), "turn {turn}: nobody's time is over");
        }
    }
    let passed = ledger.clock_ms() - 1_000_000;
    assert!(passed < 25_000, "{passed} ms, twenty seconds of them true");
}

#[test]
fn a_room_that_was_quiet_knows_what_time_it_is() {
    let rules = Rules { stock: 0, active: 2, session_s: 600, ..SHOP };
    let hour = 3_600_000;
    for callers in [&["a"][..], &["a", "b"], &["a", "b", "c"]] {
        for visited in 1..=callers.len() {
            let mut ledger = Ledger::new(1);
            for (caller, id) in callers.iter().zip(0..) {
                ledger.apply(&call(rules, &[(0, id)]), caller, 1_000_000 + id);
            }
            // An hour later somebody comes, to some of the edges.
            let mut now = 1_000_000 + hour;
            let mut waited = 0;
            'until: loop {
                for caller in &callers[..visited] {
                    if ledger.apply(&call(rules, &[(9, 99)]), caller, now).admitted == [(99, ledger.given())] {
                        break 'until;
                    }
                }
                now += 200;
                waited += 200;
                assert!(waited <= 3_000, "{callers:?}, {visited} visited: nobody's time is over");
            }
            assert!(ledger.clock_ms() >= 1_000_000 + hour - 1_000, "{callers:?}, {visited} visited");
        }
    }
}

#[test]
fn a_room_begins_when_most_edges_say_so() {
    let start = 1_000_000;
    // By how much each clock is ahead, in milliseconds.
    for (skews, least, most) in [
        ([3_600_000, 0, 0], start, start + 300),
        ([-3_600_000, 0, 0], start, start + 300),
        ([2_000, 0, -2_000], start, start + 300),
        ([2_000, -2_000, -2_000], start + 2_000, start + 2_300),
    ] {
        let desks = [1, 2, 3].map(|_| Desk::new("r", "", Rules { stock: 3, ..SHOP }, start));
        let mut ledger = Ledger::new(1);
        let began = (start - 20_000..start + 20_000).step_by(100).find(|now| {
            // Before the start people come to all of them.
            for (at, desk) in desks.iter().enumerate().rev() {
                let clock = now.saturating_add_signed(skews[at]).max(1);
                desk.visit(clock);
                desk.turn(&ticket(0, at as u64), false, clock);
                exchange(desk, &mut ledger, &at.to_string(), clock);
            }
            ledger.given() > 0 || desks.iter().any(|desk| desk.view().open)
        });
        let began = began.expect("it begins");
        assert!((least..=most).contains(&began), "{skews:?}: {} ms after the start", began as i64 - start as i64);
    }
}

#[test]
fn clients_without_cookies_take_half_of_the_places() {
    let rules = Rules { active: 10, ..SHOP };
    let mut ledger = Ledger::new(1);
    let desk = Desk::new("r", "", rules, 0);
    let mut now = 1_000;
    desk.visit(now);
    exchange(&desk, &mut ledger, "a", now);
    for id in 0..200 {
        desk.turn(&ticket(1, id), true, now);
        now += 50;
        exchange(&desk, &mut ledger, "a", now);
    }
    assert_eq!(desk.view().active, 5);
    for id in 1_000..1_010 {
        assert_eq!(desk.turn(&ticket(1, id), false, now), Turn::Asked, "there is room, and nobody waits");
    }
    now += 50;
    exchange(&desk, &mut ledger, "a", now);
    let inside = (1_000..1_010).filter(|id| matches!(desk.answered(*id, 1), Some(Turn::In(_)))).count();
    assert_eq!((inside, desk.view().active), (5, 10), "the others are for those who have shown that they keep them");
    // In one call those who keep cookies go first.
    let mut ledger = Ledger::new(1);
    let mixed = Call { first: (0..20).collect(), ..call(rules, &(0..28).map(|id| (1, id)).collect::<Vec<_>>()) };
    let admitted = ledger.apply(&mixed, "a", 1_000).admitted;
    assert_eq!(admitted.iter().filter(|(id, _)| *id >= 20).count(), 8);
}

#[test]
fn when_all_numbers_are_given_made_up_ids_cost_nothing() {
    let rules = Rules { stock: 2_000, keep_s: 0, ..SHOP };
    let mut ledger = Ledger::new(1);
    let desks = [Desk::new("l", "", rules, 0), Desk::new("l", "", rules, 0)];
    let mut now = 1_000;
    for id in 0..2_500 {
        desks[0].ask(id, now);
    }
    let mut entries = 0;
    for turn in 0..60_u64 {
        for (desk, name) in desks.iter().zip(["a", "b"]) {
            for made_up in 0..500 {
                desk.ask(1_000_000 + turn * 1_000 + made_up, now);
            }
            if let Some(call) = desk.call(now) {
                entries += call.wanting.len();
                let answer = ledger.apply(&call, name, now);
                assert!(answer.learned.len() <= LEARNED_MAX);
                desk.take(&call, answer, now);
            }
        }
        now += 250;
        if turn == 10 {
            entries = 0;
        }
    }
    assert_eq!((ledger.given(), entries), (2_000, 0), "of thirty thousand made-up ids a second");
    // Whoever was lucky is so over the other edge as well, and nobody else.
    for desk in &desks {
        let lucky = (0..2_500).filter(|id| matches!(desk.ask(*id, now), Turn::In(_))).count();
        assert_eq!(lucky, 2_000);
    }
}

use super::*;
use crate::limits::table::Leases;
use proptest::prelude::*;

/// 100 a second, 20 at once.
const RATE: Rate = Rate { interval_us: 10_000, fine_ns: 0, burst: 20 };

/// Edges and the owner of their keys, with a report every 100 ms.
struct Fleet {
    edges: Vec<Leases>,
    owned: Owned,
    cut_off: Vec<bool>,
    now: u64,
}

impl Fleet {
    fn new(edges: usize) -> Fleet {
        let leases = (0..edges).map(|_| Leases::new(1000)).collect();
        Fleet { edges: leases, owned: Owned::default(), cut_off: vec![false; edges], now: 1_000_000 }
    }

    /// Requests per second of each edge for one key; how many passed in all.
    fn run(&mut self, demand: &[u64], for_ms: u64) -> u64 {
        let mut passed = 0;
        let mut owed = vec![0; demand.len()];
        for _ in 0..for_ms {
            self.now += 1;
            for (at, per_second) in demand.iter().enumerate() {
                owed[at] += per_second;
                while owed[at] >= 1000 {
                    owed[at] -= 1000;
                    let decided = self.edges[at].take(7, RATE, demand.len(), WhenAlone::Share, self.now);
                    passed += u64::from(decided.passes);
                }
                // Edges speak at different times.
                if (self.now + at as u64 * 37).is_multiple_of(100) {
                    self.speak(at);
                }
            }
        }
        passed
    }

    fn speak(&mut self, at: usize) {
        let reports = self.edges[at].reports(4096, self.now);
        if self.cut_off[at] {
            return self.edges[at].not_told(&reports);
        }
        let grants = self.owned.answer(1, RATE, at as u64 + 1, &reports, self.now);
        let edges = self.edges.len();
        self.edges[at].granted(&grants, edges, self.now);
    }
}

#[test]
fn the_rate_is_kept_by_all_together_and_used() {
    for demand in [&[1000, 1000, 1000][..], &[1000, 0, 0], &[60, 60, 60], &[500, 5, 5], &[200]] {
        let mut fleet = Fleet::new(demand.len());
        fleet.run(demand, 2_000);
        let passed = fleet.run(demand, 20_000);
        let all: u64 = demand.iter().sum();
        let most = 2_000 * 105 / 100;
        let least = 2_000.min(all * 20) * 90 / 100;
        assert!((least..=most).contains(&passed), "{demand:?}: {passed} of 2000");
    }
}

#[test]
fn what_passes_on_a_road_to_one_machine_is_missing_on_the_others() {
    let mut fleet = Fleet::new(3);
    // One machine has the road, of which it lets through all that it may; a key is also asked for on others.
    let mut run = |for_ms: u64, here: bool| {
        let mut passed = [0, 0];
        for _ in 0..for_ms {
            if here {
                passed[0] += u64::from(fleet.edges[0].take_here(7, RATE, fleet.now + 1).passes);
            }
            passed[1] += fleet.run(&[0, 1000, 1000], 1);
        }
        passed
    };
    let [here, elsewhere] = run(20_000, true);
    assert!((2_015..=2_025).contains(&here), "{here}: the rate and the burst, whatever others do");
    assert!(elsewhere <= 100, "{elsewhere} passed beside all that may");
    let [_, elsewhere] = run(20_000, false);
    assert!(elsewhere >= 1_800, "{elsewhere} of 2000, where nothing comes on that road any more");
}

/// Two virtual IPs whose sources have one machine each, and not the same.
#[test]
fn two_roads_to_one_machine_each_pass_the_rate_together() {
    for rate in [RATE, Rate::new(6_000_000_000, 10)] {
        let per_minute = 60_000_000_000 / rate.interval_ns();
        let run = |fleet: &mut Fleet, roads: usize, ms: u64| {
            let mut passed = 0;
            for _ in 0..ms {
                fleet.now += 1;
                for at in 0..roads {
                    passed += u64::from(fleet.edges[at].take_here(7, rate, fleet.now).passes);
                    if (fleet.now + at as u64 * 37).is_multiple_of(100) {
                        let reports = fleet.edges[at].reports(4096, fleet.now);
                        let grants = fleet.owned.answer(1, rate, at as u64 + 1, &reports, fleet.now);
                        fleet.edges[at].granted(&grants, 2, fleet.now);
                    }
                }
            }
            passed
        };
        let mut alone = Fleet::new(2);
        run(&mut alone, 1, 10_000);
        let passed = run(&mut alone, 1, 60_000);
        assert!((per_minute - 1..=per_minute + 1).contains(&passed), "{passed} of {per_minute} on the only road");
        let mut both = Fleet::new(2);
        run(&mut both, 2, 60_000);
        let passed = run(&mut both, 2, 600_000);
        let most = per_minute * 10;
        assert!((most * 9 / 10..=most * 11 / 10 + 2).contains(&passed), "{passed} of {most} on two roads");
    }
}

/// A key that is asked for without end on its only road, or by leases of its only edge; the owner is not reached for a while, or lost.
#[test]
fn an_owner_that_was_away_finds_nothing_to_be_paid_back_where_the_rate_was_kept() {
    let rate = Rate::new(100_000_000, 10);
    for (away_s, here, lost) in [10, 60, 600].into_iter().flat_map(|away_s| {
        [(true, false), (true, true), (false, false), (false, true)].map(|(here, lost)| (away_s, here, lost))
    }) {
        let mut fleet = Fleet::new(1);
        let run = |fleet: &mut Fleet, seconds: u64| {
            let mut passed = 0;
            for _ in 0..seconds * 100 {
                fleet.now += 10;
                let edge = &fleet.edges[0];
                passed += u64::from(match here {
                    true => edge.take_here(7, rate, fleet.now).passes,
                    false => edge.take(7, rate, 1, WhenAlone::Share, fleet.now).passes,
                });
                if fleet.now.is_multiple_of(100) {
                    let reports = edge.reports(4096, fleet.now);
                    if fleet.cut_off[0] {
                        edge.not_told(&reports);
                    } else {
                        edge.granted(&fleet.owned.answer(1, rate, 1, &reports, fleet.now), 1, fleet.now);
                    }
                }
            }
            passed
        };
        run(&mut fleet, 10);
        fleet.cut_off[0] = true;
        let away = run(&mut fleet, away_s);
        assert!(away <= away_s * 10 + 10, "{away} in {away_s} s");
        fleet.cut_off[0] = false;
        if lost {
            fleet.owned = Owned::default();
        }
        let after = run(&mut fleet, 10);
        assert!((90..=120).contains(&after), "{after} of 100, {away_s} s away, here {here}, lost {lost}");
    }
}

/// Two edges with half of the rate each do not come back in the same moment.
#[test]
fn edges_that_were_cut_off_together_have_passed_their_shares_and_nothing_too_much() {
    let mut fleet = Fleet::new(2);
    fleet.run(&[200, 200], 3_000);
    fleet.cut_off = vec![true; 2];
    let away = fleet.run(&[200, 200], 60_000);
    assert!(away <= 6_100, "{away} of 6000");
    fleet.cut_off[0] = false;
    fleet.run(&[200, 200], 3_000);
    fleet.cut_off[1] = false;
    fleet.run(&[200, 200], 3_000);
    let after = fleet.run(&[200, 200], 10_000);
    assert!((850..=1_050).contains(&after), "{after} of 1000");
}

/// The one that comes back first has all of the rate while the other still has its half: so much is paid back, and not what both had
/// before.
#[test]
fn edges_that_were_cut_off_together_may_come_back_long_after_each_other() {
    for apart_ms in [7_000, 20_000, 120_000] {
        let mut fleet = Fleet::new(2);
        fleet.run(&[200, 200], 3_000);
        fleet.cut_off = vec![true; 2];
        fleet.run(&[200, 200], 60_000);
        fleet.cut_off[0] = false;
        let between = fleet.run(&[200, 200], apart_ms);
        let too_much = between - apart_ms / 10;
        fleet.cut_off[1] = false;
        let after = fleet.run(&[200, 200], 90_000);
        // No more than a minute's worth is ever paid back.
        let paid = 9_000_i64 - after as i64;
        let due = too_much.min(6_000) as i64;
        assert!((due - 300..=due + 300).contains(&paid), "{paid} paid back for {too_much}, {apart_ms} ms apart");
    }
}

/// Of many edges those that are still cut off are not the ones that are forgotten.
#[test]
fn of_twenty_edges_that_were_cut_off_the_last_one_has_passed_its_share() {
    let rate = Rate::new(100_000_000, 10);
    let mut owned = Owned::default();
    let mut say = |edge: u64, key: u64, advanced: u32, now: u64| {
        owned.answer(1, rate, edge, &[Report { key, advanced, returned: 0, wanted: 1 }], now)[0].left
    };
    for now in (1_000..100_000).step_by(1_000) {
        for edge in 1..=20 {
            say(edge, edge % 3, 0, now);
            say(edge, 7, 0, now);
        }
    }
    // All are away for a minute, and pass a twentieth each. Twelve are back then, and pass the rate.
    for edge in 1..=12 {
        say(edge, 7, 30, 159_000);
    }
    let mut left = 0;
    for (turn, now) in (159_100..189_000).step_by(100).enumerate() {
        left = say(1 + turn as u64 % 12, 7, 1, now);
    }
    // What the others passed meanwhile is too much, and what they passed before is not, whatever they tell of first.
    for (edge, now) in [(20, 189_000), (19, 189_050)] {
        say(edge, 3, 0, now);
        let after = say(edge, 7, 45, now + 20);
        assert!((12..=18).contains(&(left - after)), "{} paid for 15, edge {edge}", left - after);
        left = after;
    }
    // Who is here all the time has nothing to tell late.
    let after = say(5, 7, 45, 189_100);
    assert!(left - after >= 40, "{}", left - after);
}

/// Whoever speaks all the time has nothing to tell late, however much spilled before it spoke.
#[test]
fn what_spilled_long_ago_is_not_of_those_who_speak() {
    let rate = Rate::new(100_000_000, 10);
    let mut owned = Owned::default();
    let mut say = |edge: u64, advanced: u32, now: u64| {
        owned.answer(1, rate, edge, &[Report { key: 7, advanced, returned: 0, wanted: 0 }], now)[0].left
    };
    for now in (1_000..100_000).step_by(1_000) {
        say(1, 0, now);
        say(2, 0, now);
    }
    // Both pass the rate: the bucket is not full from here on, and nothing spills.
    let mut left = 0;
    for now in (100_000..110_000).step_by(100) {
        say(1, 1, now);
        left = say(2, 1, now);
    }
    assert!(left < -80, "{left}");
    let before = say(1, 0, 110_050);
    assert!(say(1, 50, 110_050) <= before - 50);
    // One has been silent for a minute by now, in which the other has had all there was.
    for now in (110_100..170_000).step_by(100) {
        left = say(1, 1, now);
    }
    let after = say(2, 300, 170_000);
    assert!(after <= left - 290, "{left}, then {after}");
}

/// What is passed too much is paid back in the time that it takes, by keys as well that nothing is told of meanwhile.
#[test]
fn a_debt_is_paid_back_while_nothing_is_told_of_it() {
    let rate = Rate::new(100_000_000, 10);
    let mut owned = Owned::default();
    let mut say = |advanced: u32, now: u64| {
        owned.answer(1, rate, 1, &[Report { key: 7, advanced, returned: 0, wanted: 0 }], now)[0].left
    };
    say(0, 1_000);
    say(0, 20_000);
    assert_eq!(say(0, 1_000_000), 10, "full");
    for _ in 0..30 {
        say(10, 1_000_000);
    }
    assert_eq!(say(0, 1_000_000), -290, "three hundred at once: no time has passed in which they may");
    assert_eq!(say(0, 1_029_000), 0);
    // An idle bucket holds a burst, and no more.
    assert_eq!(say(10, 2_000_000), 0);
    assert_eq!(say(10, 2_000_000), -10);
}

/// Whoever waits for tokens does not wait behind all that is only told.
#[test]
fn keys_that_are_decided_here_crowd_nobody_out_and_are_told_all_the_same() {
    let leases = Leases::new(100_000);
    let (asking, telling) = (10, 5_000);
    for now in 1..=50_u64 {
        let now = now * 100;
        for key in 0..telling {
            leases.take_here(1_000_000 + key, Rate::new(1, 1_000_000), now);
        }
        for key in 0..asking {
            leases.take(key, RATE, 2, WhenAlone::Share, now);
        }
        let told = leases.reports(100, now);
        let asked = told.iter().filter(|report| report.key < asking).count();
        assert_eq!((asked, told.len()), (asking as usize, 100), "at {now} ms");
        let grants: Vec<Grant> =
            told.iter().map(|report| Grant { key: report.key, tokens: 0, left: 0, share: 500 }).collect();
        leases.granted(&grants, 2, now);
    }
    // As many that ask as there may be reports.
    let leases = Leases::new(100_000);
    let mut told = std::collections::HashSet::new();
    for now in 1..=100_u64 {
        let now = now * 100;
        for key in 0..1_000 {
            leases.take(key, RATE, 2, WhenAlone::Share, now);
        }
        for key in 0..100 {
            leases.take_here(1_000_000 + key, RATE, now);
        }
        let reports = leases.reports(100, now);
        told.extend(reports.iter().map(|report| report.key).filter(|key| *key >= 1_000_000));
        assert!(reports.iter().filter(|report| report.key < 1_000_000).count() >= 87);
    }
    assert_eq!(told.len(), 100, "they are told as well");
}

#[test]
fn the_first_seconds_pass_no_more_than_the_burst_beyond_the_rate() {
    let mut fleet = Fleet::new(4);
    let passed = fleet.run(&[2000; 4], 3_000);
    assert!(passed <= (300 + 20) * 105 / 100, "{passed}");
}

#[test]
fn what_is_less_than_the_rate_passes() {
    let mut fleet = Fleet::new(3);
    fleet.run(&[20, 20, 20], 1_000);
    let passed = fleet.run(&[20, 20, 20], 10_000);
    assert!(passed >= 590, "{passed} of 600");
}

#[test]
fn an_edge_that_is_cut_off_goes_on_with_its_share() {
    let mut fleet = Fleet::new(2);
    fleet.run(&[400, 400], 3_000);
    fleet.cut_off[1] = true;
    fleet.run(&[0, 400], 1_000);
    let passed = fleet.run(&[0, 400], 10_000);
    assert!((450..=550).contains(&passed), "{passed} of half of a thousand");
    // Both together exceed the rate by no more than that share, and pay for it when they meet again.
    let both = fleet.run(&[400, 400], 10_000);
    assert!(both <= 1_650, "{both}");
    fleet.cut_off[1] = false;
    let after = fleet.run(&[400, 400], 10_000);
    assert!(after < 700, "{after}: what was too much is remembered");
}

#[test]
fn an_owner_is_missed_when_it_was_told_and_did_not_answer() {
    // Who comes once in two seconds was not heard of in between because nobody had anything to say.
    let (leases, mut owned) = (Leases::new(100), Owned::default());
    for turn in 0..20 {
        let now = 1_000 + turn * 2_000;
        assert!(leases.take(7, RATE, 2, WhenAlone::Closed, now).passes, "turn {turn}: the owner is there");
        for later in [100, 200, 300, 400] {
            let grants = owned.answer(1, RATE, 1, &leases.reports(10, now + later), now + later);
            leases.granted(&grants, 2, now + later);
        }
    }
    // One that is dead is missed, by keys that it never knew as well.
    for key in [7, 8] {
        leases.take(key, RATE, 2, WhenAlone::Closed, 50_000);
        let reports = leases.reports(10, 50_050);
        leases.not_told(&reports);
        assert!(!leases.take(key, RATE, 2, WhenAlone::Closed, 50_700).passes, "{key}");
        assert!((0..1000).all(|_| leases.take(key, RATE, 2, WhenAlone::Open, 50_700).passes), "{key}");
    }
}

#[test]
fn a_key_of_a_few_requests_a_minute_is_limited_by_all_together() {
    // Ten a minute; a client that goes from edge to edge asks once a second.
    let rate = Rate::new(6_000_000_000, 10);
    let (edges, mut owned) = ([1, 2, 3].map(|_| Leases::new(100)), Owned::default());
    let mut passed = 0;
    for second in 0..1_200_u64 {
        let (at, now) = (second as usize % edges.len(), 1_000_000 + second * 1_000);
        passed += u64::from(edges[at].take(7, rate, edges.len(), WhenAlone::Share, now).passes);
        for step in 1..10 {
            for (edge, leases) in edges.iter().enumerate() {
                let now = now + step * 100;
                let grants = owned.answer(1, rate, edge as u64 + 1, &leases.reports(10, now), now);
                leases.granted(&grants, edges.len(), now);
            }
        }
    }
    assert!((180..=220).contains(&passed), "{passed} in twenty minutes");
}

#[test]
fn with_more_keys_than_fit_into_a_message_each_has_its_turn() {
    let leases = Leases::new(1 << 20);
    let mut told = std::collections::BTreeSet::new();
    for turn in 0..40 {
        let now = 1_000 + turn * 100;
        for key in 0..20_000_u64 {
            leases.take(mixed(key), RATE, 2, WhenAlone::Share, now);
        }
        told.extend(leases.reports(2_000, now).iter().map(|report| report.key));
    }
    assert_eq!(told.len(), 20_000);
}

#[test]
fn the_largest_burst_of_the_slowest_rate_is_counted() {
    let rate = Rate::new(86_400_000_000_000, u32::MAX);
    let leases = Leases::new(100);
    assert!(leases.take_local(1, rate, 1_000_000).passes);
    assert!(leases.take(1, rate, 3, WhenAlone::Share, 1_000_000).passes);
    let grants = Owned::default().answer(1, rate, 1, &leases.reports(10, 1_000_000), 1_000_000);
    leases.granted(&grants, 3, 1_000_000);
    assert!(leases.take(1, rate, 3, WhenAlone::Share, 2_000_000).passes);
}

#[test]
fn keys_by_the_million_take_no_more_memory_than_they_may() {
    let leases = Leases::new(10_000);
    for key in 0..1_000_000_u64 {
        leases.take_local(mixed(key), RATE, 1_000_000 + key / 1000);
    }
    assert!(leases.len() <= 10_000);
    let evicted = leases.figures.evicted.load(std::sync::atomic::Ordering::Relaxed);
    assert!(evicted > 900_000, "{evicted}");
    // One that is asked for all the time stays.
    let hot = mixed(3);
    let mut passed = 0;
    for key in 0..100_000_u64 {
        leases.take_local(mixed(key + 2_000_000), RATE, 2_000_000 + key / 1000);
        passed += u32::from(leases.take_local(hot, RATE, 2_000_000 + key / 1000).passes);
    }
    assert!(passed < 60, "{passed} in a tenth of a second");
}

#[test]
fn keys_are_spread_and_stay_with_their_owners() {
    let edges = ["e1", "e2", "e3", "e4"];
    let mut counts = [0; 4];
    for key in 0..4_000 {
        let owner = owner_of(key, edges).unwrap();
        let at = edges.iter().position(|edge| *edge == owner).unwrap();
        counts[at] += 1;
        let fewer = owner_of(key, edges.into_iter().filter(|edge| *edge != "e2")).unwrap();
        assert!(owner == "e2" || fewer == owner, "only those of the one that went move");
    }
    assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    assert_eq!(owner_of(1, []), None);
}

#[test]
fn rates_beyond_a_million_a_second_and_between_whole_microseconds_are_kept() {
    for rate_per_second in [300_000_u64, 700_000, 3_000_000] {
        let rate = Rate::new(1_000_000_000 / rate_per_second, (rate_per_second / 100) as u32);
        let (leases, mut passed) = (Leases::new(100), 0_u64);
        // Half as many again ask as may pass, for 20 ms.
        for now in 1_000..1_020 {
            let asks = rate_per_second * 3 / 2 / 1000;
            passed += (0..asks).filter(|_| leases.take_local(1, rate, now).passes).count() as u64;
        }
        let may = rate_per_second * 19 / 1000 + rate_per_second / 100;
        assert!((may * 96 / 100..=may * 104 / 100).contains(&passed), "{rate_per_second}: {passed}, {may} may");
        let mut owned = Owned::default();
        let wanted = u32::try_from(rate_per_second).unwrap();
        let mut granted = 0;
        for now in (1_000..2_000).step_by(100) {
            let report = Report { key: 1, advanced: 0, returned: 0, wanted };
            granted += u64::from(owned.answer(1, rate, 1, &[report], now)[0].tokens);
        }
        let may = rate_per_second * 9 / 10 + rate_per_second / 5;
        assert!((may * 96 / 100..=may * 104 / 100).contains(&granted), "{rate_per_second}: {granted}, {may} may");
    }
    // What an older machine says has no nanoseconds.
    let older: Rate = serde_json::from_str(r#"{"interval_us": 50, "burst": 3}"#).unwrap();
    assert_eq!(older, Rate::new(50_000, 3));
}

proptest! {
    #[test]
    fn gcra_never_passes_more_than_rate_and_burst(
        interval_ns in 1_u64..100_000,
        burst in 1_u32..50,
        steps in proptest::collection::vec(0_u64..50_000, 1..300),
    ) {
        let rate = Rate::new(interval_ns, burst);
        let mut gcra = Gcra::default();
        let (start, mut now, mut passed) = (1_000_000, 1_000_000, 0);
        for step in steps {
            now += step;
            let left = gcra.left(rate, now);
            let taken = gcra.take(rate, now);
            prop_assert_eq!(left > 0, taken.is_ok());
            passed += u64::from(taken.is_ok());
            if let Err(again_us) = taken {
                prop_assert!(gcra.take(rate, now + again_us).is_ok(), "it says when");
                passed += 1;
                now += again_us;
            }
            prop_assert!(passed <= u64::from(burst) + (now - start) / interval_ns);
        }
    }
}

//! Choices as documents ask for them: shares, clients that stay, and what becomes of those whose server cannot take them.

use super::*;
use base_model::{LoadBalanceSpec, StickySessionSpec};
use policy::Turns;

fn servers(weights: &[u32]) -> Vec<Arc<Server>> {
    let server = |(i, w): (usize, &u32)| Server::new(&format!("http://10.0.0.{i}"), *w, false, None).unwrap();
    weights.iter().enumerate().map(|server_at| Arc::new(server(server_at))).collect()
}

fn spec(policy: &str) -> LoadBalanceSpec {
    LoadBalanceSpec { policy: policy.to_owned(), header_hash_key: "X-U".to_owned(), ..LoadBalanceSpec::default() }
}

fn of(spec: &LoadBalanceSpec, weights: &[u32]) -> Balancer {
    let servers = servers(weights);
    let crowded = base_telemetry::LimitHits::new(1).register("upstream_probes");
    let policy = Policy::new(spec, &servers, 1);
    let sticky = spec.sticky_session.as_ref().and_then(|sticky| Sticky::new(sticky, &servers));
    Balancer::new(servers, policy, None, crowded).sticking(sticky)
}

fn balancer(policy: &str, weights: &[u32]) -> Balancer {
    of(&spec(policy), weights)
}

fn of_user(i: usize) -> (Request, Client) {
    let mut request = Request::default();
    request.headers.add("X-U", format!("user-{i}"));
    request.headers.add("Cookie", format!("SID=user-{i}"));
    let client = Client { real_ip: Some([10, 1, (i / 250) as u8, (i % 250) as u8].into()), ..Client::default() };
    (request, client)
}

fn choice(b: &Balancer, user: usize) -> usize {
    let (request, client) = of_user(user);
    b.choose(&request, &client, 0).unwrap().index
}

fn tally(b: &Balancer, n: usize) -> Vec<usize> {
    let mut counts = vec![0; b.servers().len()];
    (0..n).for_each(|user| counts[choice(b, user)] += 1);
    counts
}

#[test]
fn round_robin_is_exact_and_hashes_spread() {
    assert_eq!(tally(&balancer("roundRobin", &[0, 0, 0]), 30), [10, 10, 10]);
    assert_eq!(tally(&balancer("nonsense", &[0, 0]), 10), [5, 5]);
    for policy in ["random", "ipHash", "headerHash", "maglev", "leastRequest", "peakEWMA"] {
        let counts = tally(&balancer(policy, &[0, 0, 0]), 3000);
        assert!(counts.iter().all(|&c| c > 600), "{policy}: {counts:?}");
    }
}

#[test]
fn workers_take_turns_of_their_own_and_begin_at_different_servers() {
    for (servers, workers, wanted) in
        [(3, 2, vec![0, 1]), (8, 4, vec![0, 2, 4, 6]), (2, 4, vec![0, 1, 0, 1]), (1, 1, vec![0])]
    {
        let turns = Turns::new(servers, workers);
        let first: Vec<usize> = (0..workers).map(|worker| turns.next(worker) % servers).collect();
        assert_eq!(first, wanted, "{servers} servers, {workers} workers");
    }
    let turns = Turns::new(3, 2);
    let of_both: Vec<usize> = [0, 1, 0, 0, 1].iter().map(|worker| turns.next(*worker) % 3).collect();
    assert_eq!(of_both, [0, 1, 1, 2, 2], "nobody disturbs another's turn");
}

#[test]
fn weights_are_honoured() {
    for policy in ["weightedRandom", "leastRequest", "peakEWMA", "maglev"] {
        let counts = tally(&balancer(policy, &[1, 3, 0]), 8000);
        assert!((1600..2400).contains(&counts[0]) && counts[2] == 0, "{policy}: {counts:?}");
    }
}

#[test]
fn an_empty_pool_has_nobody() {
    for policy in ["random", "maglev", "leastRequest", "roundRobin", "ipHash"] {
        let b = balancer(policy, &[]);
        assert!(b.choose(&Request::default(), &Client::default(), 0).is_none(), "{policy}");
        assert!(matches!(b.admit(&Request::default(), &Client::default(), 0, false), Admission::Nobody), "{policy}");
    }
}

#[test]
fn who_has_more_under_way_gets_less() {
    let b = balancer("leastRequest", &[0, 0, 0, 0]);
    let held: Vec<_> = (0..50).map(|_| b.enter(1).unwrap()).collect();
    let counts = tally(&b, 4000);
    // It is taken only where it is compared with itself.
    assert!(counts[1] < 60, "{counts:?}");
    drop(held);
    // Each request stays: the numbers stay level.
    let mut places = Vec::new();
    for user in 0..400 {
        let (request, client) = of_user(user);
        let Admission::To(choice, place) = b.admit(&request, &client, 0, false) else { panic!("there is room") };
        places.push((choice.index, place));
    }
    for server in 0..4 {
        let under_way = places.iter().filter(|(index, _)| *index == server).count();
        assert!((90..=110).contains(&under_way), "{server}: {under_way}");
    }
    // In proportion to the weights.
    let b = balancer("leastRequest", &[1, 3]);
    let mut places = Vec::new();
    let mut got = [0; 2];
    for user in 0..400 {
        let (request, client) = of_user(user);
        let Admission::To(choice, place) = b.admit(&request, &client, 0, false) else { panic!("there is room") };
        got[choice.index] += 1;
        places.push(place);
    }
    assert!((90..=110).contains(&got[0]), "{got:?}");
}

#[test]
fn who_is_slow_or_fails_gets_less() {
    let b = balancer("peakEWMA", &[0, 0, 0]);
    b.took(0, Duration::from_millis(1), false);
    b.took(1, Duration::from_millis(100), false);
    b.took(2, Duration::from_millis(1), true);
    let counts = tally(&b, 3000);
    assert!(counts[0] > 1500 && counts[1] > 500 && counts[2] < 150, "{counts:?}");
}

#[test]
fn maglev_goes_by_what_the_document_says() {
    let by_address = of(&LoadBalanceSpec { header_hash_key: String::new(), ..spec("maglev") }, &[0; 5]);
    let by_cookie =
        LoadBalanceSpec { header_hash_key: String::new(), cookie_hash_key: "SID".to_owned(), ..spec("maglev") };
    let by_cookie = of(&by_cookie, &[0; 5]);
    let by_header = balancer("maglev", &[0; 5]);
    let of_each = |b: &Balancer| (0..200).map(|user| choice(b, user)).collect::<Vec<_>>();
    // Header and cookie say the same here, the address something else.
    let (mut request, client) = of_user(1);
    request.headers.set("X-U", "SID");
    assert_eq!(of_each(&by_address), of_each(&by_address));
    assert_ne!(of_each(&by_address), of_each(&by_header));
    assert_eq!(of_each(&by_cookie), of_each(&by_header));
    assert_eq!(by_cookie.choose(&request, &client, 0).map(|c| c.index), Some(choice(&by_cookie, 1)));
}

#[test]
fn a_hot_key_is_helped_out_with() {
    let b = of(&LoadBalanceSpec { hash_balance_factor: 150, ..spec("maglev") }, &[0; 4]);
    let home = choice(&b, 7);
    let mut places = Vec::new();
    let mut got = [0usize; 4];
    for _ in 0..400 {
        let (request, client) = of_user(7);
        let Admission::To(choice, place) = b.admit(&request, &client, 0, false) else { panic!("there is room") };
        got[choice.index] += 1;
        places.push(place);
    }
    assert!((148..=152).contains(&got[home]), "one and a half of its share: {got:?}");
    drop(places);
    assert_eq!(choice(&b, 7), home);
}

/// Servers of which some have the address of another test's are told apart by their ports.
fn ejecting(policy: &str, count: u16, port: u16) -> Balancer {
    let server = |i: u16| Arc::new(Server::new(&format!("http://10.7.0.{i}:{port}"), 0, false, None).unwrap());
    let servers: Vec<Arc<Server>> = (0..count).map(server).collect();
    let crowded = base_telemetry::LimitHits::new(1).register("upstream_probes");
    let policy = Policy::new(&spec(policy), &servers, 1);
    Balancer::new(servers, policy, None, crowded)
}

#[test]
fn they_take_turns_without_who_is_full() {
    let b = balancer("roundRobin", &[0, 0, 0]).limited(&[1, 1, 1], None, None);
    let place = b.enter(1).unwrap();
    let chosen: Vec<usize> = (0..6).map(|user| choice(&b, user)).collect();
    assert!(chosen.windows(2).all(|two| two[0] != two[1]) && !chosen.contains(&1), "{chosen:?}");
    let (request, client) = of_user(1);
    let admit = || b.admit(&request, &client, 0, false);
    let (Admission::To(a, _held), Admission::To(c, _held_too)) = (admit(), admit()) else { panic!("two have room") };
    assert_eq!(a.index + c.index, 2);
    assert!(matches!(admit(), Admission::Full) && !b.has_room());
    assert!(b.another(a, &[0]).is_none(), "nor is there one to go on with");
    drop(place);
    assert!(matches!(admit(), Admission::To(Choice { index: 1, .. }, Some(_))));
}

#[test]
fn who_waits_comes_first() {
    let waiting = Waiting::new(2);
    let b = balancer("roundRobin", &[0]).limited(&[1], Some(waiting.clone()), None);
    let (request, client) = of_user(1);
    let Admission::To(_, place) = b.admit(&request, &client, 0, false) else { panic!("there is room") };
    let turn = waiting.join().unwrap();
    drop(place);
    assert!(matches!(b.admit(&request, &client, 0, true), Admission::To(..)));
    turn.again();
    assert!(matches!(b.admit(&request, &client, 0, false), Admission::Full), "though the server has room");
}

#[test]
fn a_change_of_the_document_counts_on() {
    let old = balancer("leastRequest", &[0, 0]).limited(&[2, 2], None, None);
    let _place = old.enter(1).unwrap();
    let new = balancer("leastRequest", &[0, 0, 0]).limited(&[1, 1, 1], None, Some(&old));
    assert!(new.is_full(1) && !new.is_full(0) && !new.is_full(2));
    assert!(old.is_full(1), "the old one has the new bounds: what is counted is the server's");
}

#[test]
fn sessions_stick_and_go_elsewhere_when_they_must() {
    let spec = |mode: &str| LoadBalanceSpec {
        sticky_session: Some(StickySessionSpec {
            mode: mode.to_owned(),
            app_cookie_name: "SID".to_owned(),
            ..StickySessionSpec::default()
        }),
        ..spec("roundRobin")
    };
    // By the application's cookie: the same server each time, and when it is full the same other one.
    let b = of(&spec("CookieConsistentHash"), &[0; 5]).limited(&[1; 5], None, None);
    let home = choice(&b, 3);
    assert!((0..10).all(|_| choice(&b, 3) == home));
    let place = b.enter(home).unwrap();
    let second = choice(&b, 3);
    assert!(second != home && (0..10).all(|_| choice(&b, 3) == second));
    drop(place);
    assert_eq!(choice(&b, 3), home);
    // A server more moves few.
    let more = of(&spec("CookieConsistentHash"), &[0; 6]);
    let moved = (0..2000).filter(|user| ![choice(&b, *user), 5].contains(&choice(&more, *user))).count();
    assert!(moved < 200, "{moved} of 2000 moved between servers that stay");
    // By a cookie of ours.
    let b = of(&spec("DurationBased"), &[0; 5]).limited(&[1; 5], None, None);
    let mut response = Response::default();
    b.mark(3, None, false, &mut response);
    let line = response.headers.text("Set-Cookie").unwrap().to_owned();
    let (mut request, client) = of_user(1);
    request.headers.add("Cookie", line.split(';').next().unwrap());
    let chosen = |b: &Balancer| b.choose(&request, &client, 0).unwrap().index;
    assert!((0..10).all(|_| chosen(&b) == 3));
    for (server, times) in [(3, 0), (2, 1)] {
        let mut response = Response::default();
        b.mark(server, Some(&request), false, &mut response);
        assert_eq!(response.headers.values("Set-Cookie").count(), times, "what the client knows need not be said");
    }
    let reordered = of(&spec("DurationBased"), &[0; 4]);
    assert!((0..10).all(|_| chosen(&reordered) == 3));
    let place = b.enter(3).unwrap();
    assert!((0..10).all(|_| chosen(&b) != 3));
    drop(place);
    assert_eq!(chosen(&b), 3);
}

/// `slowStart` of a pool.
#[test]
fn a_newcomer_gets_its_share_by_and_by() {
    let window = Duration::from_secs(3600);
    for policy in ["roundRobin", "random", "leastRequest"] {
        let old = balancer(policy, &[0, 0, 0]);
        let old = old.starting_slowly(window, None, Instant::now());
        assert!(tally(&old, 3000).iter().all(|n| *n > 600), "{policy}: at first all are alike");
        let new = balancer(policy, &[0, 0, 0, 0]).starting_slowly(window, Some(&old), Instant::now());
        let counts = tally(&new, 4000);
        assert!(counts[3] > 20 && counts[3] < 350 && counts[0] > 900, "{policy}: {counts:?}");
        let later = balancer(policy, &[0, 0, 0, 0]).starting_slowly(window, Some(&new), Instant::now());
        let counts = tally(&later, 4000);
        assert!(counts[3] < 350, "{policy}: it is as new as it was: {counts:?}");
    }
}

#[test]
fn what_a_hash_leads_to_a_server_that_is_out_goes_to_one_other() {
    for (policy, port) in [("ipHash", 1), ("headerHash", 2), ("maglev", 3)] {
        let b = ejecting(policy, 4, port);
        let before: Vec<usize> = (0..400).map(|user| choice(&b, user)).collect();
        b.servers()[2].health.put_out(Heard::Unreachable, Duration::from_secs(10), Instant::now());
        // Whoever finds it out probes it, on a worker; there is none here.
        b.servers()[2].health.claim_probing(Instant::now());
        let after: Vec<usize> = (0..400).map(|user| choice(&b, user)).collect();
        assert_eq!(after, (0..400).map(|user| choice(&b, user)).collect::<Vec<_>>(), "{policy}");
        for (old, new) in before.iter().zip(&after) {
            assert!(if *old == 2 { *new != 2 } else { old == new }, "{policy}: {old} {new}");
        }
        for server in [0, 1, 3] {
            assert!(before.iter().zip(&after).any(|(old, new)| *old == 2 && *new == server), "{policy}: {server}");
        }
    }
}

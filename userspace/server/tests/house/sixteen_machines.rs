//! How long a change takes to sixteen machines, and what it costs when sixteen send theirs at once. Figures of a release build, on a machine
//! that has nothing else to do:
//! `cargo test --release -p server --test house sixteen_machines -- --ignored --nocapture --test-threads 1`, with `WEIR_MACHINES` and
//! `WEIR_CHANGES` for other numbers.

use crate::cluster::in_a_network_of;
use crate::world::{Connection, Machine, answers, eventually, free_port, mock, server};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

fn number(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().map_or(usual, |text| text.parse().unwrap())
}

/// Three primaries, and secondaries that know one of them, in the networks of `in_a_network_of`.
fn fleet(count: usize) -> Vec<Machine> {
    let at = |n: usize| Machine::new(&format!("m{}", n + 1)).at(&format!("n{n}"), &format!("10.77.0.{}", n + 1));
    let mut machines: Vec<Machine> = (0..count).map(at).collect();
    let primaries: Vec<String> = machines[..3].iter().map(|m| format!("{}={}", m.name, m.peer_url())).collect();
    let known: Vec<String> = machines[..3].iter().map(Machine::peer_url).collect();
    machines = machines
        .into_iter()
        .enumerate()
        .map(|(n, machine)| match n {
            0..3 => machine.flags(["--initial-cluster", &primaries.join(",")]),
            _ => machine.flags(["--cluster-role", "secondary", "--primary-listen-peer-urls", &known[n % 3]]),
        })
        .collect();
    machines.iter_mut().for_each(Machine::spawn);
    machines.iter_mut().for_each(|machine| {
        eventually(&format!("{} is ready", machine.name), || {
            machine.still_runs();
            machine.try_api("GET", "/apis/v2/healthz", "").is_ok_and(|a| a.status == 200).then_some(())
        });
    });
    eventually("all are members", || {
        (machines[0].json("/status/members").as_array().map(Vec::len) == Some(count)).then_some(())
    });
    machines
}

#[test]
#[ignore = "figures, which take a minute and a processor for themselves"]
fn a_change_is_live_on_all_of_them_soon() {
    let (count, changes) = (number("WEIR_MACHINES", 16), number("WEIR_CHANGES", 300));
    if !in_a_network_of("sixteen_machines::a_change_is_live_on_all_of_them_soon", count) {
        return;
    }
    let machines = fleet(count);
    let port = free_port();
    machines[0].create(&mock("pl", "change 0 of"));
    machines[0].create(&server("hs", port, "pl"));
    // When each machine answered with a change first; one client asks each all the time.
    let (seen, stop) = (Arc::new(Mutex::new(vec![vec![]; count])), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..count)
        .map(|n| {
            let (seen, stop, place) = (seen.clone(), stop.clone(), format!("10.77.0.{}:{port}", n + 1));
            answers(place.as_str(), "/", 200);
            thread::spawn(move || {
                let mut connection = Connection::open(&place).unwrap();
                let mut last = 0;
                while !stop.load(Ordering::Relaxed) {
                    let answer = connection.request("GET", "/", &[], "").expect("stays open");
                    let change = answer.body.split(' ').nth(1).and_then(|number| number.parse::<usize>().ok());
                    let change = change.unwrap_or_else(|| panic!("{place} answers {answer:?}"));
                    if change > last {
                        last = change;
                        seen.lock().unwrap()[n].push((change, Instant::now()));
                    }
                    thread::sleep(ASKED_AGAIN);
                }
            })
        })
        .collect();
    let (mut all, mut each) = (Vec::new(), Vec::new());
    for change in 1..=changes {
        let began = Instant::now();
        machines[change % count].update("pl", &mock("pl", &format!("change {change} of")));
        let took: Vec<Duration> = eventually("the change is everywhere", || {
            let seen = seen.lock().unwrap();
            let when =
                |of: &Vec<(usize, Instant)>| of.iter().rev().find(|(of, _)| *of == change).map(|(_, at)| *at - began);
            seen.iter().map(when).collect()
        });
        all.extend(took.iter().max().copied());
        each.extend(took);
        thread::sleep(Duration::from_millis(30));
    }
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().expect("traffic went on"));
    told("on any one of them", &mut each);
    let most = told(&format!("on all {count}"), &mut all);
    assert!(most <= Duration::from_millis(60), "99 of 100 changes are to be live on all within 60 ms: {most:?}");
}

/// Says how long changes took from being sent to being live; the time that 99 of 100 took at most.
fn told(what: &str, took: &mut [Duration]) -> Duration {
    took.sort();
    let of = |part: f64| took[((took.len() - 1) as f64 * part) as usize];
    println!(
        "sent to live {what}: median {:.1?}, p99 {:.1?}, longest {:.1?} of {}; asked every {ASKED_AGAIN:?}",
        of(0.5),
        of(0.99),
        of(1.0),
        took.len()
    );
    of(0.99)
}

#[test]
#[ignore = "figures, which take a minute and a processor for themselves"]
fn sixteen_that_apply_at_once_take_as_long_as_one_after_the_other() {
    let (count, pipelines) = (number("WEIR_MACHINES", 16), number("WEIR_PIPELINES", 1000));
    let send = |machine: &Machine, client: usize| {
        let one = |n: usize| mock(&format!("pl-{client}-{n}"), "x");
        let documents = (0..pipelines).map(one).collect::<Vec<_>>().join("\n---\n");
        machine.create(&documents);
    };
    let machine = Machine::start();
    let began = Instant::now();
    (0..count).for_each(|client| send(&machine, client));
    let in_a_row = began.elapsed();
    drop(machine);
    let machine = Machine::start();
    let began = Instant::now();
    thread::scope(|scope| {
        (0..count).for_each(|client| {
            drop(scope.spawn({
                let machine = &machine;
                move || send(machine, client)
            }))
        })
    });
    let at_once = began.elapsed();
    println!("{count} times {pipelines} pipelines: {in_a_row:.2?} in a row, {at_once:.2?} at once");
    assert!(at_once <= in_a_row * 3 / 2, "{at_once:?} at once, {in_a_row:?} one after the other");
}

/// What a client adds to the time that is measured, at most.
const ASKED_AGAIN: Duration = Duration::from_millis(4);

//! The control half comes, goes and comes back; traffic does not notice.

use crate::cluster::{ADDRESSES, in_a_network, three};
use crate::world::{Connection, Machine, answers, eventually, free_port, get, mock, server};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

/// Kept a state in which it serves `port`, and was killed.
fn machine_that_served(port: u16) -> Machine {
    let mut machine = Machine::start();
    machine.create(&mock("pl", "kept"));
    machine.create(&server("hs", port, "pl"));
    answers(port, "/", 200);
    machine.kept("\"hs\"");
    machine.kill();
    machine
}

fn well(machine: &Machine) {
    eventually(&format!("{} is well", machine.name), || {
        machine.try_api("GET", "/apis/v2/healthz", "").is_ok_and(|a| a.status == 200).then_some(())
    });
}

/// Waits until `healthz` says 503 for this reason.
fn unwell(machine: &Machine, reason: &str) {
    let mut last = String::new();
    eventually(&format!("{} is unwell: {reason}", machine.name), || {
        let answer = machine.try_api("GET", "/apis/v2/healthz", "").ok()?;
        last = format!("{answer:?}");
        (answer.status == 503 && answer.body.contains(reason)).then_some(())
    });
}

#[test]
fn a_taken_peer_port_is_tried_again_while_traffic_goes_on() {
    let port = free_port();
    let mut machine = machine_that_served(port);
    let other = TcpListener::bind(("127.0.0.1", machine.peer)).unwrap();
    machine.spawn();
    assert!(answers(port, "/", 200).body.starts_with("kept"));
    unwell(&machine, "--listen-peer-urls: cannot listen");
    assert_eq!(machine.metric("weir_control_up"), Some(0.0));
    eventually("it tries again", || (machine.metric("weir_control_start_failures_total")? >= 2.0).then_some(()));
    let refused = machine.api("POST", "/objects", &mock("no", "x"));
    assert!(refused.status == 503 && refused.body.contains("cannot listen"), "{refused:?}");
    // It calls by the name of a site, which a page may have pointed here.
    let page = |machine: &Machine| {
        let mut page = Connection::open(&format!("127.0.0.1:{}", machine.api)).unwrap();
        page.request("GET", "/metrics", &[], "").unwrap().status
    };
    assert_eq!(page(&machine), 403, "the door is the same without a control half");
    assert_eq!(machine.log().matches("cannot listen").count(), 1, "it is said once:\n{}", machine.log());
    assert!(machine.metric("weir_config_version").is_some_and(|version| version > 0.0), "what traffic is served by");
    machine.still_runs();

    drop(other);
    well(&machine);
    assert_eq!(machine.metric("weir_control_up"), Some(1.0));
    assert_eq!(page(&machine), 403, "and with one that came later");
    machine.update("pl", &mock("pl", "anew"));
    eventually("the change is live", || get(port, "/").is_ok_and(|a| a.body.starts_with("anew")).then_some(()));
    eventually("ready is said", || machine.said().contains("ready, admin API on").then_some(()));
}

#[test]
fn a_taken_admin_port_ends_no_machine_that_has_something_to_serve() {
    let port = free_port();
    let mut machine = machine_that_served(port);
    let other = TcpListener::bind(("127.0.0.1", machine.api)).unwrap();
    machine.spawn();
    assert!(answers(port, "/", 200).body.starts_with("kept"));
    eventually("it is said", || machine.said().contains("--api-addr").then_some(()));
    thread::sleep(Duration::from_millis(300));
    machine.still_runs();
    drop(other);
    well(&machine);
    machine.update("pl", &mock("pl", "anew"));
    eventually("the change is live", || get(port, "/").is_ok_and(|a| a.body.starts_with("anew")).then_some(()));
}

#[test]
fn a_disk_that_was_full_for_seconds_leaves_no_trace() {
    let port = free_port();
    let mut machine = machine_that_served(port);
    machine.run();
    machine.file_bytes_max(Some(SMALL));
    let refused = eventually("a change is refused", || {
        let answer = machine.api("PUT", "/objects/pl", &mock("pl", "lost"));
        (answer.status != 200).then_some(answer)
    });
    assert_eq!(refused.status, 503, "{refused:?}");
    unwell(&machine, "raft.redb");
    assert_eq!(machine.metric("weir_raft_has_leader"), Some(0.0), "nobody is said to lead");
    assert_eq!(machine.api("POST", "/objects", &mock("no", "x")).status, 503);
    eventually("starts fail", || (machine.metric("weir_control_start_failures_total")? >= 1.0).then_some(()));
    assert_eq!(get(port, "/").unwrap().status, 200);
    machine.still_runs();

    machine.file_bytes_max(None);
    well(&machine);
    assert!(machine.metric("weir_control_restarts_total").is_some_and(|restarts| restarts >= 1.0));
    machine.update("pl", &mock("pl", "anew"));
    eventually("the change is live", || get(port, "/").is_ok_and(|a| a.body.starts_with("anew")).then_some(()));
    machine.kept("anew");
    machine.kill();
    machine.run();
    assert!(machine.api("GET", "/objects/pl", "").body.contains("anew"), "and it is remembered");
}

#[test]
fn a_follower_whose_disk_was_full_catches_up() {
    if !in_a_network("halves::a_follower_whose_disk_was_full_catches_up") {
        return;
    }
    let machines = three();
    let port = free_port();
    machines[0].create(&mock("pl", "before"));
    machines[0].create(&server("hs", port, "pl"));
    let at = |n: usize| format!("{}:{port}", ADDRESSES[n]);
    (0..3).for_each(|n| drop(answers(at(n).as_str(), "/", 200)));
    let follower = eventually("there is a follower", || {
        machines
            .iter()
            .position(|m| m.metric("weir_raft_is_leader") == Some(0.0) && m.metric("weir_control_up") == Some(1.0))
    });
    let other = (follower + 1) % 3;
    machines[follower].file_bytes_max(Some(SMALL));
    machines[other].update("pl", &mock("pl", "meanwhile"));
    unwell(&machines[follower], "raft.redb");
    let refused = machines[follower].api("PUT", "/objects/pl", &mock("pl", "through-the-dead"));
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(get(at(follower).as_str(), "/").unwrap().status, 200);
    machines[other].update("pl", &mock("pl", "after"));

    machines[follower].file_bytes_max(None);
    well(&machines[follower]);
    eventually("it catches up", || {
        get(at(follower).as_str(), "/").is_ok_and(|a| a.body.starts_with("after")).then_some(())
    });
    machines[follower].update("pl", &mock("pl", "through-it"));
    (0..3).for_each(|n| {
        eventually("the change is everywhere", || {
            get(at(n).as_str(), "/").is_ok_and(|a| a.body.starts_with("through-it")).then_some(())
        });
    });
}

#[test]
fn nodes_of_one_host_meet_nobody_they_were_not_told_of() {
    if !in_a_network("halves::nodes_of_one_host_meet_nobody_they_were_not_told_of") {
        return;
    }
    let mut usual = Machine::new("usual");
    (usual.api, usual.peer) = (2381, 2380);
    usual.run();
    let mut stranger = Machine::new("solo").flags(["--cluster-name", "t1"]);
    stranger = {
        let url = stranger.peer_url();
        stranger.flags(["--initial-advertise-peer-urls", &url])
    };
    stranger.run();
    stranger.create(&mock("pl", "x"));
    // The same name of the cluster, which is the default's, makes no difference.
    let mut second = Machine::new("second");
    second.run();

    let mut three: Vec<Machine> = (1..=3).map(|n| Machine::new(&format!("n{n}"))).collect();
    let cluster: Vec<String> = three.iter().map(|m| format!("{}={}", m.name, m.peer_url())).collect();
    let flags = ["--cluster-name".to_owned(), "t3".into(), "--initial-cluster".into(), cluster.join(",")];
    three = three.into_iter().map(|machine| machine.flags(&flags)).collect();
    let mut follower = Machine::new("s1").flags(&flags).flags(["--cluster-role", "secondary"]);
    three.iter_mut().for_each(Machine::spawn);
    three.iter().for_each(well);
    follower.run();
    three[0].create(&mock("pl", "x"));
    eventually("all four are members", || (follower.json("/status/members").as_array()?.len() == 4).then_some(()));
    let members = |machine: &Machine| machine.json("/status/members").as_array().map(Vec::len);
    for machine in [&usual, &stranger, &second] {
        eventually("it is a member of its own", || (members(machine)? == 1).then_some(()));
        assert!(!machine.log().contains("another cluster"), "{}", machine.log());
    }
    thread::sleep(Duration::from_millis(700));
    assert_eq!(members(&usual), Some(1));
    for machine in three.iter_mut().chain([&mut usual, &mut stranger, &mut second, &mut follower]) {
        machine.still_runs();
    }
}

#[test]
fn a_secondary_that_starts_first_takes_no_place_from_its_primary() {
    if !in_a_network("halves::a_secondary_that_starts_first_takes_no_place_from_its_primary") {
        return;
    }
    let mut secondary = Machine::new("s1").flags(["--cluster-role", "secondary"]);
    secondary.peer = 2380;
    secondary.spawn();
    eventually("it looks for its primary", || secondary.log().contains("a primary").then_some(()));
    let mut primary = Machine::new("p1");
    primary.peer = 2380;
    primary.run();
    well(&secondary);
    secondary.create(&mock("pl", "x"));
}

#[test]
fn a_second_member_of_the_same_name_is_refused() {
    let mut primary = Machine::new("p1").flags(["--no-edge"]);
    primary.run();
    let flags = ["--cluster-role", "secondary", "--primary-listen-peer-urls"];
    let mut first = Machine::new("s1").flags(flags).flags([primary.peer_url()]);
    first.run();
    eventually("it is a member", || (primary.json("/status/members").as_array()?.len() == 2).then_some(()));
    let mut second = Machine::new("s1").flags(flags).flags([primary.peer_url()]);
    second.spawn();
    unwell(&second, "give this one a --name of its own");
    assert!(second.log().contains("another member named \"s1\" runs"), "{}", second.log());
    let version = || primary.metric("weir_config_version").unwrap();
    let before = version();
    thread::sleep(Duration::from_millis(1500));
    assert!(version() <= before + 1.0, "{} versions in 1.5 s", version() - before);
    well(&first);
    assert_eq!(second.log().matches("another member named").count(), 1, "it is said once:\n{}", second.log());

    first.kill();
    well(&second);
    eventually("the name is its now", || {
        let members = primary.json("/status/members");
        let found = members.as_array()?.iter().find(|m| m["options"]["Name"] == "s1")?.clone();
        (found["options"]["APIAddr"] == format!("127.0.0.1:{}", second.api)).then_some(())
    });
}

#[test]
fn a_member_that_runs_and_is_removed_comes_back() {
    if !in_a_network("halves::a_member_that_runs_and_is_removed_comes_back") {
        return;
    }
    let mut machines = three();
    let leads = |m: &Machine| m.metric("weir_raft_is_leader") == Some(1.0);
    let leader = eventually("there is a leader", || machines.iter().position(leads));
    let (gone, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let name = machines[gone].name.clone();
    let removed = machines[leader].api("DELETE", &format!("/status/members/{name}"), "");
    assert_eq!(removed.status, 200, "{removed:?}");
    eventually("it says what became of it", || machines[gone].log().contains("has removed this member").then_some(()));
    eventually("it is back", || {
        let members = machines[other].json("/status/members").as_array()?.len();
        let all_vote = machines.iter().all(|machine| machine.metric("weir_raft_voters") == Some(3.0));
        (members == 3 && all_vote).then_some(())
    });
    well(&machines[gone]);
    // It votes: with the third one gone, its voice makes the majority.
    machines[other].kill();
    machines[gone].create(&mock("pl", "x"));
}

/// Bytes of the largest file a process may write, with which its log still goes on and its state does not.
const SMALL: u64 = 16 << 10;

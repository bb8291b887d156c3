//! What is left when the control plane's data is not.

use crate::world::{Machine, answers, eventually, free_port, get, mock, server, within};
use std::fs;
use std::time::{Duration, Instant};

/// From the start of the process to the first answer; debug builds on busy machines take most of it.
const SOON: Duration = Duration::from_secs(2);

fn machine_with_a_server(port: u16) -> Machine {
    let machine = Machine::start();
    machine.create(&mock("pl", "kept"));
    machine.create(&server("hs", port, "pl"));
    answers(port, "/", 200);
    machine.kept("\"hs\"");
    machine
}

fn serves_soon(machine: &mut Machine, port: u16) {
    let started = Instant::now();
    machine.spawn();
    let answer = within(SOON, || get(port, "/").ok().filter(|a| a.status == 200));
    assert!(answer.is_some_and(|a| a.body.starts_with("kept")), "not served in {SOON:?}");
    println!("served {:?} after the start", started.elapsed());
}

#[test]
fn restart_changes_nothing() {
    let port = free_port();
    let mut machine = machine_with_a_server(port);
    machine.kill();
    serves_soon(&mut machine, port);
    eventually("the API answers", || machine.try_api("GET", "/apis/v2/healthz", "").ok());
    assert_eq!(machine.json("/objects").as_array().map(Vec::len), Some(2));
    assert_eq!(get(port, "/").unwrap().status, 200);
}

#[test]
fn the_raft_file_is_gone() {
    let port = free_port();
    let mut machine = machine_with_a_server(port);
    machine.kill();
    fs::remove_file(machine.directory.join("data/raft.redb")).unwrap();
    serves_soon(&mut machine, port);
    let warned = eventually("health warns", || {
        let answer = machine.try_api("GET", "/apis/v2/healthz", "").ok()?;
        (answer.status == 200 && answer.head.to_lowercase().contains("\nwarning: ")).then_some(answer.head)
    });
    assert!(warned.contains("lacks 2 objects that this edge serves"), "{warned}");
    assert_eq!(machine.metric("weir_edge_withholds"), Some(1.0));
    assert_eq!(machine.json("/objects").as_array().map(Vec::len), Some(0), "nobody asked for them to be put back");

    // The first object of the new cluster takes none of the old ones away, neither from traffic nor from the disk.
    let next = free_port();
    machine.create(&mock("other", "x"));
    machine.create(&server("hs2", next, "other"));
    let version = machine.metric("weir_config_version");
    std::thread::sleep(Duration::from_millis(500));
    assert!(get(port, "/").unwrap().body.starts_with("kept"));
    machine.kept("\"hs\"");
    assert_eq!(machine.metric("weir_config_version"), version);

    machine.create(&mock("pl", "again"));
    machine.create(&server("hs", port, "pl"));
    answers(next, "/", 200);
    eventually("all of it is served", || get(port, "/").is_ok_and(|a| a.body.starts_with("again")).then_some(()));
    assert_eq!(machine.metric("weir_edge_withholds"), Some(0.0));
    machine.kept("\"hs2\"");
}

#[test]
fn the_raft_file_is_garbage() {
    let port = free_port();
    let mut machine = machine_with_a_server(port);
    machine.kill();
    let path = machine.directory.join("data/raft.redb");
    let length = fs::metadata(&path).unwrap().len() as usize;
    fs::write(&path, vec![0xa5; length]).unwrap();
    serves_soon(&mut machine, port);
    eventually("the damage is reported", || machine.log().contains("raft.redb is damaged").then_some(()));
    assert!(machine.log().contains("weirctl apply"), "and what to do");
    eventually("health says so", || {
        let answer = machine.try_api("GET", "/apis/v2/healthz", "").ok()?;
        (answer.status == 503 && answer.body.contains("raft.redb is damaged")).then_some(())
    });
    machine.still_runs();
    assert_eq!(get(port, "/").unwrap().status, 200);
    assert!(path.exists(), "the file is left as it is");

    // The operator's choice: an empty one. No restart is needed.
    fs::rename(&path, machine.directory.join("moved-away")).unwrap();
    eventually("the control half is back", || {
        machine.try_api("GET", "/apis/v2/healthz", "").is_ok_and(|a| a.status == 200).then_some(())
    });
    assert_eq!(get(port, "/").unwrap().status, 200);
}

#[test]
fn the_raft_file_is_cut_short() {
    let port = free_port();
    let mut machine = machine_with_a_server(port);
    machine.kill();
    let path = machine.directory.join("data/raft.redb");
    for part in [2, 3, 100] {
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / part]).unwrap();
        serves_soon(&mut machine, port);
        std::thread::sleep(Duration::from_millis(300));
        machine.still_runs();
        assert_eq!(get(port, "/").unwrap().status, 200);
        machine.kill();
    }
}

#[test]
fn the_copy_of_the_edge_is_damaged() {
    let port = free_port();
    let mut machine = machine_with_a_server(port);
    machine.kill();
    let path = machine.directory.join("data/edge/last-good.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    machine.run();
    answers(port, "/", 200);
    assert!(machine.log().contains("put aside"));
    machine.kept("\"hs\"");
}

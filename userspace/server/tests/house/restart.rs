//! What is left when the control plane's data is not.

use crate::world::{Machine, answers, eventually, free_port, get, mock, server};
use std::fs;
use std::time::{Duration, Instant};

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
    let answer = eventually("it serves", || get(port, "/").ok().filter(|a| a.status == 200));
    assert!(answer.body.starts_with("kept"), "{answer:?}");
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

/// Those objects are written as soon as there is a leader: before anything else that the new cluster is told.
#[test]
fn the_first_write_after_the_raft_file_is_gone_takes_nothing_from_the_edge() {
    let port = free_port();
    let mut machine = machine_with_a_server(port);
    let initial = machine.directory.join("initial.yaml");
    fs::write(&initial, mock("early", "x")).unwrap();
    machine = machine.flags(["--initial-object-config-files", initial.to_str().unwrap()]);
    for _ in 0..2 {
        machine.kill();
        fs::remove_file(machine.directory.join("data/raft.redb")).unwrap();
        serves_soon(&mut machine, port);
        eventually("the early object is there", || {
            let answer = machine.try_api("GET", "/apis/v2/objects/early", "").ok()?;
            (answer.status == 200).then_some(())
        });
        eventually("the edge stays with what it has", || (machine.metric("weir_edge_withholds")? == 1.0).then_some(()));
        assert!(get(port, "/").unwrap().body.starts_with("kept"));
        machine.kept("\"hs\"");
    }
}

#[test]
fn what_was_kept_comes_back_when_the_operator_says_so() {
    let (port, next) = (free_port(), free_port());
    let mut machine = machine_with_a_server(port);
    // Documents of users do not have this label: whoever sends it is refused.
    machine.create(&format!(
        "name: direct\nkind: HTTPServer\nport: {next}\nrules:\n- paths:\n  - pathPrefix: /\n    backendPool:\n      servers:\n      - url: http://127.0.0.1:{port}\n"
    ));
    assert!(answers(next, "/", 200).body.starts_with("kept"));
    machine.kept("\"direct\"");
    machine.kill();
    fs::remove_file(machine.directory.join("data/raft.redb")).unwrap();
    serves_soon(&mut machine, port);
    let kept = eventually("it is told what is kept", || {
        let answer = machine.try_api("GET", "/apis/v2/last-good", "").ok().filter(|a| a.status == 200)?;
        let kept: serde_json::Value = serde_json::from_str(&answer.body).ok()?;
        kept["withheld"].is_string().then_some(kept)
    });
    let version = kept["version"].as_u64().unwrap();
    assert_eq!(kept["cluster"]["lacks"].as_array().map(Vec::len), Some(4), "{kept}");
    machine.create(&mock("other", "x"));
    let wrong = machine.api("POST", &format!("/last-good/restore?version={}", version - 1), "");
    assert!(wrong.status == 400 && wrong.body.contains(&format!("keeps version {version}")), "{wrong:?}");
    let done = machine.api("POST", &format!("/last-good/restore?version={version}"), "");
    assert_eq!(done.status, 200, "{done:?}");
    assert_eq!(machine.json("/objects").as_array().map(Vec::len), Some(5));
    eventually("the edge takes it", || (machine.metric("weir_edge_withholds")? == 0.0).then_some(()));
    assert!(machine.metric("weir_config_version").is_some_and(|now| now > version as f64));
    machine.update("pl", &mock("pl", "anew"));
    eventually("changes go live", || get(next, "/").is_ok_and(|a| a.body.starts_with("anew")).then_some(()));
    assert_eq!(
        machine.api("POST", &format!("/last-good/restore?version={version}"), "").status,
        400,
        "nothing is left"
    );
}

#[test]
fn an_older_state_of_the_cluster_waits_for_the_operators_word() {
    let port = free_port();
    let mut machine = machine_with_a_server(port);
    machine.kill();
    let backup = fs::read(machine.directory.join("data/raft.redb")).unwrap();
    machine.run();
    machine.create(&mock("extra", "x"));
    machine.update("pl", &mock("pl", "newest"));
    eventually("it is live", || get(port, "/").is_ok_and(|a| a.body.starts_with("newest")).then_some(()));
    machine.kept("newest");
    machine.kill();
    fs::write(machine.directory.join("data/raft.redb"), backup).unwrap();
    machine.run();
    eventually("it is told", || (machine.metric("weir_edge_withholds")? == 1.0).then_some(()));
    assert!(get(port, "/").unwrap().body.starts_with("newest"));

    // Writes and starts raise the version beyond the one that is served, and end nothing.
    for turn in 0..4 {
        machine.create(&mock(&format!("raised-{turn}"), "x"));
    }
    let wanted = machine.json("/last-good")["cluster"]["version"].as_u64().unwrap();
    assert!(machine.metric("weir_config_version").is_some_and(|served| wanted as f64 > served));
    assert!(get(port, "/").unwrap().body.starts_with("newest"));
    machine.kill();
    machine.run();
    eventually("it is told again", || (machine.metric("weir_edge_withholds")? == 1.0).then_some(()));
    assert!(get(port, "/").unwrap().body.starts_with("newest"), "a start ends it");
    let version = machine.json("/last-good")["version"].as_u64().unwrap();
    let done = machine.api("POST", &format!("/last-good/discard?version={version}"), "");
    assert_eq!(done.status, 200, "{done:?}");
    eventually("the backup is served", || get(port, "/").is_ok_and(|a| a.body.starts_with("kept")).then_some(()));
    assert!(machine.metric("weir_config_version").is_some_and(|now| now > version as f64));
}

/// A backup put back, and what came after it brought back from the edge: changes, additions and deletions.
#[test]
fn what_came_after_a_backup_comes_back_when_the_operator_says_so() {
    let port = free_port();
    let mut machine = machine_with_a_server(port);
    machine.create(&mock("goes", "x"));
    machine.kill();
    let backup = fs::read(machine.directory.join("data/raft.redb")).unwrap();
    machine.run();
    machine.create(&mock("extra", "x"));
    assert_eq!(machine.api("DELETE", "/objects/goes", "").status, 200);
    machine.update("pl", &mock("pl", "newest"));
    eventually("it is live", || get(port, "/").is_ok_and(|a| a.body.starts_with("newest")).then_some(()));
    machine.kept("newest");
    machine.kill();
    fs::write(machine.directory.join("data/raft.redb"), backup).unwrap();
    machine.run();
    eventually("it is told", || (machine.metric("weir_edge_withholds")? == 1.0).then_some(()));
    let kept = machine.json("/last-good");
    assert_eq!(kept["cluster"]["lacks"], serde_json::json!(["extra"]), "{kept}");
    assert_eq!(kept["cluster"]["differs"], serde_json::json!(["pl"]), "{kept}");
    assert_eq!(kept["restore"]["removes"], serde_json::json!(["goes"]), "{kept}");
    let done = machine.api("POST", &format!("/last-good/restore?version={}", kept["version"]), "");
    assert_eq!(done.status, 200, "{done:?}");
    eventually("the edge takes it", || (machine.metric("weir_edge_withholds")? == 0.0).then_some(()));
    assert!(get(port, "/").unwrap().body.starts_with("newest"), "what was changed is thrown away");
    let objects = machine.json("/objects").to_string();
    assert!(objects.contains("\"extra\"") && !objects.contains("\"goes\""), "{objects}");
}

#[test]
fn an_old_machine_gives_its_objects_to_no_new_cluster() {
    let port = free_port();
    let mut old = machine_with_a_server(port);
    old.kill();
    let mut primary = Machine::new("p1").flags(["--no-edge"]);
    primary.run();
    primary.create(&mock("pl", "of-the-new"));
    let mut joins = old.flags(["--cluster-role", "secondary", "--primary-listen-peer-urls", &primary.peer_url()]);
    joins.spawn();
    eventually("it follows", || joins.said().contains("following").then_some(()));
    eventually("it is told", || (joins.metric("weir_edge_withholds")? == 1.0).then_some(()));
    assert!(get(port, "/").unwrap().body.starts_with("kept"), "what it served is served");
    assert_eq!(primary.json("/objects").as_array().map(Vec::len), Some(1));
    let version = joins.json("/last-good")["version"].as_u64().unwrap();
    assert_eq!(joins.api("POST", &format!("/last-good/discard?version={version}"), "").status, 200);
    eventually("it is one of them", || get(port, "/").is_err().then_some(()));
    assert_eq!(primary.json("/objects").as_array().map(Vec::len), Some(1));
}

/// Killed in the moment a change is served, with nothing left but the edge's own copy.
#[test]
fn what_was_live_is_served_after_a_kill() {
    let port = free_port();
    let mut machine = machine_with_a_server(port);
    let path = machine.directory.join("data/raft.redb");
    let mut older = Vec::new();
    for turn in 0..8 {
        let text = format!("turn-{turn}-");
        machine.update("pl", &mock("pl", &text));
        let mut connection = crate::world::Connection::open(&format!("127.0.0.1:{port}")).unwrap();
        let until = Instant::now() + crate::world::PATIENCE;
        while !connection.request("GET", "/", &[], "").unwrap().body.starts_with(&text) {
            assert!(Instant::now() < until, "{text} does not go live");
        }
        machine.kill();
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        machine.spawn();
        let served = answers(port, "/", 200).body;
        if !served.starts_with(&text) {
            older.push(format!("{text} was live, and then {served}"));
        }
        machine.kill();
        fs::write(&path, whole).unwrap();
        machine.run();
    }
    assert!(older.is_empty(), "{older:?}");
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
    eventually("the damage is reported", || machine.said().contains("raft.redb is damaged").then_some(()));
    assert!(machine.said().contains("weirctl apply"), "and what to do");
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
    assert!(machine.said().contains("put aside"));
    machine.kept("\"hs\"");
}

//! A cluster whose majority is gone for good.

use crate::world::{Connection, Machine, answers, eventually, free_port, get, mock, server, weir, weirctl};
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Three primaries on this host that know each other.
fn group(cluster: &str) -> Vec<Machine> {
    let machines: Vec<Machine> = (1..=3).map(|n| Machine::new(&format!("n{n}"))).collect();
    let urls: Vec<String> = machines.iter().map(|m| format!("{}={}", m.name, m.peer_url())).collect();
    let flags = ["--cluster-name".to_owned(), cluster.into(), "--initial-cluster".into(), urls.join(",")];
    let mut machines: Vec<Machine> = machines.into_iter().map(|machine| machine.flags(&flags)).collect();
    // They share this host's ports: one of them carries traffic.
    machines = machines.into_iter().map(|m| if m.name == "n1" { m } else { m.flags(["--no-edge"]) }).collect();
    machines.iter_mut().for_each(Machine::spawn);
    machines.iter().for_each(well);
    // Who is well takes part; that it is a member is written down a moment later.
    eventually("all three are members", || {
        machines.iter().all(|m| m.json("/status/members").as_array().is_some_and(|all| all.len() == 3)).then_some(())
    });
    machines
}

fn well(machine: &Machine) {
    eventually(&format!("{} is well", machine.name), || {
        machine.try_api("GET", "/apis/v2/healthz", "").is_ok_and(|a| a.status == 200).then_some(())
    });
}

/// `weir recover` with the options that the machine runs with.
fn recover(machine: &Machine, cluster: &str, more: &[&str]) -> (i32, String, String) {
    let home = machine.directory.to_str().unwrap();
    weir(&[&["recover", "--name", &machine.name, "--cluster-name", cluster, "--home-dir", home], more].concat())
}

fn names(machine: &Machine) -> Vec<String> {
    let objects = machine.json("/objects");
    objects.as_array().unwrap().iter().map(|o| o["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn one_member_is_left_of_three() {
    let mut machines = group("r1");
    let port = free_port();
    let mut follower = Machine::new("s1").flags([
        "--cluster-name",
        "r1",
        "--cluster-role",
        "secondary",
        "--primary-listen-peer-urls",
        &machines[0].peer_url(),
        "--no-edge",
    ]);
    follower.run();
    machines[0].create(&mock("pl", "kept"));
    machines[1].create(&server("hs", port, "pl"));
    let data = "name: k\nidField: id\n";
    assert_eq!(machines[2].api("POST", "/customdatakinds", data).status, 201);
    // While they run, and while some of the others do, there is nothing to recover.
    let (code, _, told) = recover(&machines[0], "r1", &[]);
    assert!(code == 1 && told.contains("stop weir on this machine first"), "{code}: {told}");
    machines[0].signal("KILL");
    machines[0].ended();
    let (code, _, told) = recover(&machines[0], "r1", &[]);
    assert!(code == 1 && told.contains("other members of this cluster run"), "{code}: {told}");
    assert!(
        told.contains("\"n2\" at") && told.contains("\"n3\" at") && told.contains("--although-others-run"),
        "{told}"
    );
    let (code, _, told) = recover(&machines[0], "other", &[]);
    assert!(code == 1 && told.contains("belongs to --cluster-name"), "{code}: {told}");

    // n2 and n3 are destroyed; what they had is put aside, to come back later.
    let mut gone = machines.split_off(1);
    for machine in &mut gone {
        machine.kill();
        fs::rename(machine.directory.join("data"), machine.directory.join("old")).unwrap();
    }
    let mut survivor = machines.remove(0);
    let (code, told, wrong) = recover(&survivor, "r1", &[]);
    assert_eq!(code, 0, "{wrong}");
    for part in ["n1 is a cluster of one now", "2 objects", "n2, n3", "raft.redb.before-recovery-1"] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    assert!(survivor.directory.join("data/raft.redb.before-recovery-1").exists());
    // The same command line as before.
    survivor.run();
    assert_eq!(names(&survivor), ["hs", "pl"]);
    assert_eq!(survivor.api("GET", "/customdatakinds/k", "").status, 200);
    assert!(answers(port, "/", 200).body.starts_with("kept"));
    survivor.update("pl", &mock("pl", "recovered"));
    eventually("its edge serves the change", || {
        get(port, "/").is_ok_and(|a| a.body.starts_with("recovered")).then_some(())
    });
    eventually("the secondary follows", || {
        follower.json("/objects/pl").to_string().contains("recovered").then_some(())
    });
    let (code, _, told) = recover(&survivor, "r1", &[]);
    assert_eq!(code, 1, "{told}");

    // One of the lost comes back with what it had, and so does the other: a majority of the old group.
    for machine in &mut gone {
        fs::rename(machine.directory.join("old"), machine.directory.join("data")).unwrap();
        machine.spawn();
    }
    for machine in &mut gone {
        eventually(&format!("{} is told", machine.name), || {
            machine.said().contains("its member \"n1\" goes on as a cluster").then_some(())
        });
    }
    // Also without the survivor there, and together, they decide nothing.
    survivor.kill();
    for machine in &mut gone {
        machine.spawn();
    }
    std::thread::sleep(std::time::Duration::from_secs(2));
    for machine in &mut gone {
        let answer = machine.try_api("POST", "/apis/v2/objects", &mock("split", "x"));
        assert!(!answer.as_ref().is_ok_and(|a| a.status < 300), "{answer:?}");
    }
    // With nothing of the old they are members again.
    survivor.run();
    for machine in &mut gone {
        machine.kill();
        fs::remove_file(machine.directory.join("data/raft.redb")).unwrap();
        machine.spawn();
        eventually("it has everything", || {
            let list = machine.try_api("GET", "/apis/v2/objects/pl", "").ok()?.body;
            list.contains("recovered").then_some(())
        });
    }
    eventually("all know that all three vote", || {
        let votes = |machine: &Machine| machine.metric("weir_raft_voters") == Some(3.0);
        (votes(&survivor) && gone.iter().all(votes)).then_some(())
    });
    gone[0].kill();
    survivor.update("pl", &mock("pl", "again"));
}

/// A dead member is replaced by another machine while changes go on.
#[test]
fn a_dead_member_is_replaced_under_load() {
    let Some(weirctl) = weirctl() else { return };
    let mut machines = group("r3");
    let api = format!("127.0.0.1:{}", machines[0].api);
    let ctl = |arguments: &[&str]| {
        let done = Command::new(&weirctl).args(["--server", &api]).args(arguments).output().unwrap();
        let text = [&done.stdout[..], &done.stderr[..]].concat();
        (done.status.code(), String::from_utf8_lossy(&text).into_owned())
    };
    let fresh = Machine::new("n4");
    let url = fresh.peer_url();
    let (code, told) = ctl(&["member", "replace", "n3", "n4", "--peer-url", &url]);
    assert!(code == Some(1) && told.contains("\"n3\" is up"), "{told}");
    let (code, told) = ctl(&["member", "remove", "n2"]);
    assert!(code == Some(1) && told.contains("stop weir there first"), "{told}");
    machines[2].kill();
    eventually("it is missed", || machines[0].json("/status/members")[2]["weir"]["up"].eq(&false).then_some(()));
    // Two of three are left: neither can be spared.
    let removed = machines[0].api("DELETE", "/status/members/n2", "");
    assert!(removed.status == 400 && removed.body.contains("nothing could be decided"), "{removed:?}");
    let (code, told) = ctl(&["member", "replace", "ghost", "n4", "--peer-url", &url]);
    assert!(code == Some(1) && told.contains("known members: n1, n2, n3"), "{told}");
    let (code, told) = ctl(&["member", "add", "n4", "--peer-url", &machines[1].peer_url()]);
    assert!(code == Some(1) && told.contains("member \"n2\" is reached there"), "{told}");
    let (code, told) = ctl(&["member", "add", "n2", "--peer-url", &url]);
    assert!(code == Some(1) && told.contains("already"), "{told}");

    let stop = Arc::new(AtomicBool::new(false));
    let (address, stopped) = (api.clone(), stop.clone());
    let writer = thread::spawn(move || {
        let (mut acknowledged, mut n) = (Vec::new(), 0);
        while !stopped.load(Ordering::Relaxed) {
            n += 1;
            let mut connection = Connection::open(&address).unwrap().by_address();
            let name = format!("w-{n}");
            let answer = connection.request("POST", "/apis/v2/objects", &[], &mock(&name, "x")).unwrap();
            if answer.status == 201 {
                acknowledged.push(name);
            }
        }
        acknowledged
    });
    let replacing = {
        let (weirctl, api, url) = (weirctl.clone(), api.clone(), url.clone());
        thread::spawn(move || {
            let arguments = ["--server", &api, "member", "replace", "n3", "n4", "--peer-url", &url, "--wait", "60s"];
            Command::new(weirctl).args(arguments).output().unwrap()
        })
    };
    let cluster = format!("n4={url},n1={},n2={}", machines[0].peer_url(), machines[1].peer_url());
    let flags = ["--cluster-name", "r3", "--state-flag", "existing", "--initial-cluster", &cluster, "--no-edge"];
    let mut fresh = fresh.flags(flags);
    fresh.run();
    let done = replacing.join().unwrap();
    let told = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{told}{}", String::from_utf8_lossy(&done.stderr));
    for part in
        ["state-flag: existing", &format!("n4: {url}"), "add Member n4 successfully", "delete Member n3 successfully"]
    {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    stop.store(true, Ordering::Relaxed);
    let acknowledged = writer.join().unwrap();
    assert!(acknowledged.len() > 5, "writes went on: {}", acknowledged.len());
    eventually("it has all that was acknowledged", || {
        let list = fresh.try_api("GET", "/apis/v2/objects", "").ok()?.body;
        acknowledged.iter().all(|name| list.contains(&format!("\"{name}\""))).then_some(())
    });
    assert_eq!(fresh.metric("weir_raft_voters"), Some(3.0));
    // Its vote counts.
    machines[1].kill();
    eventually("changes are decided", || {
        (fresh.try_api("POST", "/apis/v2/objects", &mock("late", "x")).ok()?.status < 410).then_some(())
    });
    // The last one cannot be taken out.
    let lone = Machine::start();
    let refused = lone.api("DELETE", "/status/members/m1", "");
    assert!(refused.status == 400 && refused.body.contains("the only one that votes"), "{refused:?}");
}

/// The others were only out of reach: they end when they hear of it.
#[test]
fn a_group_that_was_alive_ends_when_it_hears_that_it_is_over() {
    let mut machines = group("r2");
    machines[0].create(&mock("pl", "x"));
    machines[0].kill();
    let (code, _, told) = recover(&machines[0], "r2", &["--although-others-run"]);
    assert_eq!(code, 0, "{told}");
    machines[1].create(&mock("late", "x"));
    machines[0].spawn();
    for machine in &machines[1..] {
        eventually(&format!("{} stands down", machine.name), || {
            let answer = machine.try_api("GET", "/apis/v2/healthz", "").ok()?;
            (answer.status == 503 && answer.body.contains("goes on as a cluster")).then_some(())
        });
    }
    well(&machines[0]);
    assert_eq!(names(&machines[0]), ["pl"]);
    machines[0].create(&mock("mine", "x"));
}

#[test]
fn there_has_to_be_something_to_recover() {
    let mut lone = Machine::start();
    lone.create(&mock("pl", "x"));
    lone.kill();
    let (code, _, told) = recover(&lone, "eg-cluster-default-name", &[]);
    assert!(code == 1 && told.contains("a cluster of one already"), "{code}: {told}");
    lone.run();
    assert_eq!(names(&lone), ["pl"]);
    let empty = Machine::new("m1");
    let (code, _, told) = recover(&empty, "eg-cluster-default-name", &[]);
    assert!(code == 1 && told.contains("no state of a member"), "{code}: {told}");
}

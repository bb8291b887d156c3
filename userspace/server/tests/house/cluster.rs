//! Several machines on one host. Where all of them serve, each has an address of its own for `edge.test`, which takes a
//! mount namespace and so root; without it those tests say that they were skipped.

use crate::world::{Connection, Machine, PATIENCE, answers, eventually, free_port, get, mock, server, within};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn an_object_created_on_one_is_served_by_all() {
    let Some(machines) = three() else { return };
    let port = free_port();
    machines[1].create(&mock("pl", "all"));
    machines[2].create(&edge_server("hs", port, "pl"));
    for at in ADDRESSES {
        assert!(answers(format!("{at}:{port}").as_str(), "/", 200).body.starts_with("all"));
    }
    for machine in &machines {
        assert_eq!(machine.json("/status/members").as_array().map(Vec::len), Some(3));
        eventually("every machine's status is shown", || {
            let status = machine.json("/status/objects/hs");
            ["m1", "m2", "m3"].iter().all(|m| status[format!("eg-traffic-default/hs/{m}")].is_object()).then_some(())
        });
    }
    machines[0].update("pl", &mock("pl", "anew"));
    for at in ADDRESSES {
        eventually("the change is everywhere", || {
            get(format!("{at}:{port}").as_str(), "/").is_ok_and(|a| a.body.starts_with("anew")).then_some(())
        });
    }
}

#[test]
fn killing_the_leader_loses_nothing() {
    let Some(mut machines) = three() else { return };
    let port = free_port();
    machines[0].create(&mock("pl", "steady"));
    machines[0].create(&edge_server("hs", port, "pl"));
    for at in ADDRESSES {
        answers(format!("{at}:{port}").as_str(), "/", 200);
    }
    let leader = eventually("there is a leader", || {
        machines.iter().position(|m| m.metric("weir_raft_is_leader") == Some(1.0))
    });
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..3)
        .filter(|n| *n != leader)
        .map(|n| {
            let (stop, served) = (stop.clone(), served.clone());
            thread::spawn(move || {
                let mut connection = Connection::open(&format!("{}:{port}", ADDRESSES[n])).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(connection.request("GET", "/", &[], "").expect("stays open").status, 200);
                    served.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(1));
                }
            })
        })
        .collect();
    let survivor = (leader + 1) % 3;
    let (mut acknowledged, mut killed, mut mended) = (Vec::new(), None, None);
    let until = Instant::now() + PATIENCE;
    for n in 0.. {
        if n == 20 {
            machines[leader].kill();
            killed = Some(Instant::now());
        }
        let answer = machines[survivor].try_api("POST", "/apis/v2/objects", &mock(&format!("w-{n}"), "x"));
        if answer.as_ref().is_ok_and(|a| a.status == 201) {
            acknowledged.push(format!("w-{n}"));
            if let (Some(at), None) = (killed, mended) {
                mended = Some(at.elapsed());
            }
        } else if n < 20 {
            panic!("not acknowledged with all members there: {answer:?}");
        }
        if killed.is_some() && acknowledged.len() >= 40 {
            break;
        }
        assert!(Instant::now() < until, "no writes after the leader's death: {answer:?}");
    }
    println!("writes went on {:?} after the leader was killed", mended.unwrap_or_default());
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("traffic went on");
    }
    assert!(served.load(Ordering::Relaxed) > 50);
    machines[leader].run();
    for machine in &machines {
        eventually(&format!("{} has all that was acknowledged", machine.name), || {
            let list = machine.try_api("GET", "/apis/v2/objects", "").ok()?.body;
            acknowledged.iter().all(|name| list.contains(&format!("\"{name}\""))).then_some(())
        });
    }
    answers(format!("{}:{port}", ADDRESSES[leader]).as_str(), "/", 200);
}

#[test]
fn a_secondary_follows_and_serves() {
    let mut primary = Machine::new("p1").flags(["--no-edge"]);
    primary.run();
    let mut secondary = Machine::new("s1").flags(["--cluster-role", "secondary", "--primary-listen-peer-urls", &primary.peer_url()]);
    secondary.run();
    let port = free_port();
    primary.create(&mock("pl", "followed"));
    // A secondary carries changes to those who decide.
    secondary.create(&server("hs", port, "pl"));
    assert!(answers(port, "/", 200).body.starts_with("followed"));
    secondary.kept("\"hs\"");

    primary.kill();
    assert_eq!(get(port, "/").unwrap().status, 200, "it serves without a primary");
    let refused = secondary.api("POST", "/objects", &mock("no", "x"));
    assert_eq!(refused.status, 503, "{refused:?}");
    secondary.kill();
    secondary.spawn();
    let answer = within(Duration::from_secs(2), || get(port, "/").ok());
    assert!(answer.is_some_and(|a| a.body.starts_with("followed")), "from disk, with nobody there");

    primary.run();
    primary.update("pl", &mock("pl", "again"));
    eventually("it follows again", || get(port, "/").is_ok_and(|a| a.body.starts_with("again")).then_some(()));
}

#[test]
fn a_machine_that_leaves_says_so_first() {
    let mut primary = Machine::new("p1").flags(["--no-edge"]);
    primary.run();
    let mut secondary = Machine::new("s1").flags(["--cluster-role", "secondary", "--primary-listen-peer-urls", &primary.peer_url()]);
    secondary.run();
    let port = free_port();
    primary.create(&mock("pl", "slow").replace("    body", "    delay: 1500ms\n    body"));
    primary.create(&server("hs", port, "pl"));
    answers(port, "/", 200);
    let member = |key: &str| {
        let members = primary.json("/status/members");
        let found = members.as_array().and_then(|m| m.iter().find(|m| m["options"]["Name"] == "s1").cloned());
        found.map(|m| m["weir"][key].clone())
    };
    assert_eq!(member("edge"), Some(true.into()));
    let mut connection = Connection::open(&format!("127.0.0.1:{port}")).unwrap();
    connection.send("GET", "/", &[], "").unwrap();
    thread::sleep(Duration::from_millis(200));
    secondary.signal("TERM");
    eventually("the fleet knows that it drains", || (member("edge")? == false && member("up")? == true).then_some(()));
    assert_eq!(connection.receive().unwrap().status, 200, "what was under way is answered");
    assert_eq!(secondary.ended().code(), Some(0));
    eventually("the fleet knows that it is gone", || (member("up")? == false).then_some(()));
}

#[test]
fn another_cluster_is_refused() {
    let mut primary = Machine::new("p1").flags(["--no-edge"]);
    primary.run();
    let flags = ["--cluster-role", "secondary", "--cluster-name", "another", "--primary-listen-peer-urls"];
    let mut stranger = Machine::new("s1").flags(flags).flags([primary.peer_url()]);
    stranger.spawn();
    eventually("it is told", || stranger.log().contains("another cluster").then_some(()));
}

/// Three primaries that know each other; `None` where there is no root.
fn three() -> Option<Vec<Machine>> {
    let namespaces = Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|s| s.success());
    if !namespaces {
        println!("skipped: `unshare -m` is not allowed here, and three machines need an address each; run it as root");
        return None;
    }
    let machines: Vec<Machine> =
        ADDRESSES.iter().zip(1..).map(|(at, n)| Machine::new(&format!("m{n}")).at(at)).collect();
    let cluster: Vec<String> = machines.iter().map(|m| format!("{}={}", m.name, m.peer_url())).collect();
    let flags = ["--initial-cluster".to_owned(), cluster.join(",")];
    let mut machines: Vec<Machine> = machines.into_iter().map(|m| m.flags(&flags)).collect();
    machines.iter_mut().for_each(Machine::spawn);
    machines.iter_mut().for_each(|machine| {
        eventually(&format!("{} is ready", machine.name), || {
            machine.still_runs();
            machine.try_api("GET", "/apis/v2/healthz", "").is_ok_and(|a| a.status == 200).then_some(())
        });
    });
    eventually("all three are members", || {
        machines.iter().all(|m| m.json("/status/members").as_array().is_some_and(|all| all.len() == 3)).then_some(())
    });
    Some(machines)
}

fn edge_server(name: &str, port: u16, backend: &str) -> String {
    format!("{}address: edge.test\n", server(name, port, backend))
}

const ADDRESSES: [&str; 3] = ["127.0.77.1", "127.0.77.2", "127.0.77.3"];

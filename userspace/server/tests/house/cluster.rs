//! Several machines. Where all of them serve the same port, each lives in a network namespace, which takes root; without it
//! those tests say that they were skipped.

use crate::world::{Connection, Machine, PATIENCE, answers, eventually, free_port, get, mock, server, within};
use serde_json::json;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn an_object_created_on_one_is_served_by_all() {
    if !in_a_network("cluster::an_object_created_on_one_is_served_by_all") {
        return;
    }
    let machines = three();
    let port = free_port();
    machines[1].create(&mock("pl", "all"));
    machines[2].create(&server("hs", port, "pl"));
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

/// Three processes with `https://` peer URLs and no certificate given: the first founds, the others come by token.
#[test]
fn members_come_by_token_and_get_their_certificates_from_the_cluster() {
    let mut machines = ["m1", "m2", "m3"].map(|name| Machine::new(name).over_https());
    machines[0].run();
    let token = |at: &Machine| {
        let made = eventually("a token", || {
            let answer = at.api("POST", "/member-tokens", "ttl: 10m");
            (answer.status == 200).then(|| serde_json::from_str::<serde_json::Value>(&answer.body).unwrap())
        });
        made["token"].as_str().unwrap().to_owned()
    };
    let first = token(&machines[0]);
    machines[1] = Machine::new("m2").over_https().flags(["--join", &first]);
    machines[1].run();
    machines[2] = Machine::new("m3").over_https().flags(["--join", &token(&machines[1])]);
    machines[2].run();
    machines[2].create(&mock("pl", "all"));
    for machine in &machines {
        eventually("the change is everywhere", || {
            (machine.try_api("GET", "/apis/v2/objects/pl", "").ok()?.status == 200).then_some(())
        });
        assert!(machine.metric("weir_control_certificate_expiry_timestamp_seconds").is_some_and(|end| end > 1e9));
        assert!(!machine.log().contains(&first), "a token is in no log");
    }
    eventually("all know that all vote", || {
        machines.iter().all(|machine| machine.metric("weir_raft_voters") == Some(3.0)).then_some(())
    });
    // One is gone, and two decide; it comes back by the same command line.
    machines[0].kill();
    machines[1].create(&mock("later", "x"));
    machines[0].run();
    eventually("it catches up", || {
        (machines[0].try_api("GET", "/apis/v2/objects/later", "").ok()?.status == 200).then_some(())
    });
    // The token was good once.
    let mut stranger = Machine::new("m4").over_https().flags(["--join", &first]);
    stranger.spawn();
    assert_eq!(stranger.ended().code(), Some(2), "{}", stranger.log());
    assert!(stranger.log().contains("weirctl member token"), "{}", stranger.log());
}

#[test]
fn killing_the_leader_loses_nothing() {
    if !in_a_network("cluster::killing_the_leader_loses_nothing") {
        return;
    }
    let mut machines = three();
    let port = free_port();
    machines[0].create(&mock("pl", "steady"));
    machines[0].create(&server("hs", port, "pl"));
    for at in ADDRESSES {
        answers(format!("{at}:{port}").as_str(), "/", 200);
    }
    let leader =
        eventually("there is a leader", || machines.iter().position(|m| m.metric("weir_raft_is_leader") == Some(1.0)));
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
    let mut secondary =
        Machine::new("s1").flags(["--cluster-role", "secondary", "--primary-listen-peer-urls", &primary.peer_url()]);
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
    let answer = within(PATIENCE, || get(port, "/").ok());
    assert!(answer.is_some_and(|a| a.body.starts_with("followed")), "from disk, with nobody there");

    primary.run();
    primary.update("pl", &mock("pl", "again"));
    eventually("it follows again", || get(port, "/").is_ok_and(|a| a.body.starts_with("again")).then_some(()));
}

#[test]
fn what_every_edge_serves_is_told_by_any_machine() {
    let mut primary = Machine::new("p1");
    primary.run();
    let mut secondary =
        Machine::new("s1").flags(["--cluster-role", "secondary", "--primary-listen-peer-urls", &primary.peer_url()]);
    secondary.run();
    // A port that another program has on one machine alone.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    primary.create(&mock("pl", "x"));
    primary.create(&server("hs", port, "pl"));
    for machine in [&primary, &secondary] {
        eventually("both say what they serve", || {
            let members = machine.json("/status/members");
            let said = |name: &str| {
                let member = members.as_array()?.iter().find(|member| member["options"]["Name"] == name)?.clone();
                let (served, cluster) =
                    (member["weir"]["serves"]["version"].as_u64()?, member["weir"]["configVersion"].as_u64()?);
                let failed = member["weir"]["serves"]["failures"]["hs"].as_str()?.contains("in use");
                (served == cluster && failed).then_some(())
            };
            said("p1").and(said("s1"))
        });
    }
    let served = || {
        let text = primary.api("GET", "/metrics", "").body;
        ["p1", "s1"]
            .iter()
            .all(|name| text.contains(&format!("weir_edge_version{{machine=\"{name}\"}} ")))
            .then_some(())
    };
    eventually("the leader has it as figures", served);
    secondary.kill();
    eventually("of one that is gone nothing is known", || {
        let members = primary.json("/status/members");
        let gone = members.as_array()?.iter().find(|member| member["options"]["Name"] == "s1")?.clone();
        (gone["weir"]["up"] == false && gone["weir"]["serves"].is_null()).then_some(())
    });
}

/// A cluster of later members may have sections that this weir does not know: what is told there has no effect here, and it is said.
#[test]
fn an_edge_says_which_section_it_does_not_know() {
    let machine = Machine::start();
    machine.create(&mock("pl", "x"));
    let put =
        json!({"section": "meshes", "owner": "pl", "puts": [{"key": "shop", "value": {"of": "later"}}], "deletes": []});
    let command = json!({"request": 7, "now": "2026-01-01T00:00:00Z", "action": {"putKeys": put}}).to_string();
    let mut peers = Connection::open(&format!("127.0.0.1:{}", machine.peer)).unwrap().by_address();
    let headers =
        [("x-weir-cluster", "eg-cluster-default-name"), ("x-weir-from", "m2"), ("content-type", "application/json")];
    let answer = peers.request("POST", "/raft/propose", &headers, &command).unwrap();
    assert!(answer.status == 200 && answer.body.contains("Ok"), "{answer:?}");
    let told = || {
        let members = machine.json("/status/members");
        members[0]["weir"]["serves"]["failures"]["section meshes"].as_str().map(str::to_owned)
    };
    let why = eventually("its status says so", told);
    assert!(why.contains("does not know what is told here"), "{why}");
    assert_eq!(machine.api("GET", "/healthz", "").status, 200, "it serves what it knows");
    // With the object goes what was learned for it.
    assert_eq!(machine.api("DELETE", "/objects/pl", "").status, 200);
    eventually("there is nothing left to say", || told().is_none().then_some(()));
}

#[test]
fn a_machine_that_leaves_says_so_first() {
    let mut primary = Machine::new("p1").flags(["--no-edge"]);
    primary.run();
    let mut secondary =
        Machine::new("s1").flags(["--cluster-role", "secondary", "--primary-listen-peer-urls", &primary.peer_url()]);
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
    assert_eq!(stranger.ended().code(), Some(2));
    assert!(stranger.log().contains("--cluster-name"), "{}", stranger.log());
}

/// Runs the named test once more inside a network of three hosts, and is true in there. The network is gone with the
/// process, whatever becomes of it.
pub fn in_a_network(test: &str) -> bool {
    in_a_network_of(test, ADDRESSES.len())
}

/// The same with so many machines: the one of `n0` has the address 10.77.0.1, and so on.
pub fn in_a_network_of(test: &str, machines: usize) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !Command::new("unshare").args(["-nm", "ip", "link"]).output().is_ok_and(|done| done.status.success()) {
        println!("skipped: `unshare -nm` is not allowed here, and these machines need a network each; run it as root");
        return false;
    }
    let mut script = "set -e; mount -t tmpfs tmpfs /run; mount -t bpf bpf /sys/fs/bpf; ip link set lo up; ip link add name br0 type bridge; \
                      ip addr add 10.77.0.254/24 dev br0; ip link set br0 up; "
        .to_owned();
    for n in 0..machines {
        let address = format!("10.77.0.{}", n + 1);
        script.push_str(&format!(
            "ip netns add n{n}; ip link add w{n} type veth peer name eth0 netns n{n}; ip link set w{n} master br0 up; \
             ip -n n{n} addr add {address}/24 dev eth0; ip -n n{n} link set eth0 up; ip -n n{n} link set lo up; "
        ));
    }
    script.push_str("exec \"$0\" --exact \"$1\" --include-ignored --nocapture");
    let done = Command::new("unshare")
        .args(["-nm", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    println!("{}{}", text(&done.stdout), text(&done.stderr));
    assert!(done.status.success() && text(&done.stdout).contains("1 passed"), "it failed in its network");
    false
}

/// Three primaries that know each other.
pub fn three() -> Vec<Machine> {
    three_of(|machine| machine)
}

/// The same, each as `made` of a machine in a network of its own.
pub fn three_of(made: impl Fn(Machine) -> Machine) -> Vec<Machine> {
    let machines: Vec<Machine> = ADDRESSES
        .iter()
        .enumerate()
        .map(|(n, address)| made(Machine::new(&format!("m{}", n + 1)).at(&format!("n{n}"), address)))
        .collect();
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
    machines
}

pub const ADDRESSES: [&str; 3] = ["10.77.0.1", "10.77.0.2", "10.77.0.3"];

/// Set in the process that runs inside the network.
const INSIDE: &str = "WEIR_TEST_IN_NETWORK";

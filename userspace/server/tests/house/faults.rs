//! A group of three whose network falls apart, whose disks are slow, and that is asked too much: what was acknowledged stays, and traffic
//! goes on. Kills are in `cluster`, full disks in `halves`, torn and lost files in `restart`, a lost majority in `recovery`.

use crate::cluster::{ADDRESSES, in_a_network, three, three_of};
use crate::world::{Machine, PATIENCE, answers, eventually, free_port, get, mock, program, server};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::thread;
use std::time::Instant;

#[test]
fn a_network_that_falls_apart_loses_nothing_that_was_acknowledged() {
    if !in_a_network("faults::a_network_that_falls_apart_loses_nothing_that_was_acknowledged") {
        return;
    }
    let machines = three();
    let port = free_port();
    machines[0].create(&mock("pl", "steady"));
    machines[0].create(&server("hs", port, "pl"));
    let traffic =
        |n: usize| get(format!("{}:{port}", ADDRESSES[n]).as_str(), "/").is_ok_and(|answer| answer.status == 200);
    (0..3).for_each(|n| drop(answers(format!("{}:{port}", ADDRESSES[n]).as_str(), "/", 200)));
    let mut acknowledged = Vec::new();
    for round in
        ["who leads is alone", "who leads is heard and hears nobody", "one hears nobody", "two do not hear each other"]
    {
        let lead = leader(&machines);
        let (one, other) = ((lead + 1) % 3, (lead + 2) % 3);
        // From whom to whom nothing comes.
        let (cuts, alone) = match round {
            "who leads is alone" => (vec![(lead, one), (lead, other), (one, lead), (other, lead)], Some(lead)),
            "who leads is heard and hears nobody" => (vec![(one, lead), (other, lead)], Some(lead)),
            "one hears nobody" => (vec![(lead, one), (other, one)], Some(one)),
            _ => (vec![(one, other), (other, one)], None),
        };
        cuts.iter().for_each(|cut| route("add", *cut));
        let until = Instant::now() + PATIENCE;
        let before = acknowledged.len();
        for turn in 0.. {
            let at = turn % 3;
            let name = format!("w-{}", acknowledged.len() + 1000 * turn);
            let answer = machines[at].try_api("POST", "/apis/v2/objects", &mock(&name, "x"));
            if answer.as_ref().is_ok_and(|answer| answer.status == 201) {
                acknowledged.push(name);
            }
            assert!(traffic(at), "{round}: traffic of {}", machines[at].name);
            if acknowledged.len() >= before + 6 {
                break;
            }
            assert!(Instant::now() < until, "{round}: nobody takes changes: {answer:?}");
        }
        if let Some(alone) = alone {
            eventually(&format!("{round}: {} takes no change", machines[alone].name), || {
                let answer = machines[alone].try_api("POST", "/apis/v2/objects", &mock("from-alone", "x")).ok()?;
                (answer.status == 503).then_some(())
            });
        }
        cuts.iter().for_each(|cut| route("del", *cut));
        for machine in &machines {
            let mut lacks = Vec::new();
            eventually(&format!("{round}: {} has all that was acknowledged", machine.name), || {
                let list = machine.try_api("GET", "/apis/v2/objects", "").ok()?.body;
                lacks = acknowledged.iter().filter(|name| !list.contains(&format!("\"{name}\""))).collect();
                let well = machine.try_api("GET", "/apis/v2/healthz", "").ok()?.status == 200;
                (lacks.is_empty() && well).then_some(())
            });
        }
    }
    hold_the_same(&machines);
    println!("{} changes were acknowledged", acknowledged.len());
}

#[test]
fn a_disk_that_is_slow_holds_up_what_it_has_to_and_loses_nothing() {
    if !in_a_network("faults::a_disk_that_is_slow_holds_up_what_it_has_to_and_loses_nothing") {
        return;
    }
    let Some(strace) = program("strace") else { return };
    let folder = tempfile::tempdir().unwrap();
    let slow = folder.path().join("weir-on-a-slow-disk");
    let calls = "fsync,fdatasync";
    let text = format!(
        "#!/bin/sh\nexec {} -D -f --seccomp-bpf -o /dev/null -e trace={calls} -e inject={calls}:delay_exit=300000 {} \"$@\"\n",
        strace.display(),
        crate::world::WEIR
    );
    fs::write(&slow, text).unwrap();
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).unwrap();
    if !Command::new(&slow).arg("--version").status().is_ok_and(|done| done.success()) {
        println!("skipped: strace may watch no process here");
        return;
    }
    let mut machines = three_of(|machine| if machine.name == "m1" { machine.program(&slow) } else { machine });
    let port = free_port();
    machines[1].create(&mock("pl", "steady"));
    machines[1].create(&server("hs", port, "pl"));
    (0..3).for_each(|n| drop(answers(format!("{}:{port}", ADDRESSES[n]).as_str(), "/", 200)));
    for n in 0..12 {
        machines[n % 3].create(&mock(&format!("w-{n}"), "x"));
    }
    let all = |machine: &Machine, count: usize| {
        eventually(&format!("{} has all that was acknowledged", machine.name), || {
            let list = machine.try_api("GET", "/apis/v2/objects", "").ok()?.body;
            (0..count).all(|n| list.contains(&format!("\"w-{n}\""))).then_some(())
        });
    };
    machines.iter().for_each(|machine| all(machine, 12));
    // Two are left, and one of them is the slow one: each change waits for it.
    machines[2].kill();
    for n in 12..16 {
        machines[n % 2].create(&mock(&format!("w-{n}"), "x"));
    }
    machines[..2].iter().for_each(|machine| all(machine, 16));
    machines[2].run();
    all(&machines[2], 16);
    hold_the_same(&machines);
}

/// What is parsed and checked for minutes holds up nobody who has to be heard of every 200 ms.
#[test]
fn large_bodies_depose_nobody() {
    if !in_a_network("faults::large_bodies_depose_nobody") {
        return;
    }
    let machines = three();
    machines[0].create(&mock("pl", "steady"));
    let text = "x".repeat(4000);
    let mut large: String = (0..600).map(|n| mock(&format!("p{n}"), &text) + "---\n").collect();
    // Refused, after all of it was looked at.
    large.push_str("kind: Pipeline\nname: wrong\nfilters: [{kind: NoSuchFilter, name: f}]\n");
    let undisturbed = (0..3).any(|_| {
        let lead = leader(&machines);
        let term = machines[lead].metric("weir_raft_term");
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let answer = machines[lead].api("POST", "/objects", &large);
                    assert_eq!(answer.status, 400, "{}", answer.body);
                });
            }
        });
        // On a machine that is busy with something else the group may choose anew without these.
        term.is_some() && machines[lead].metric("weir_raft_term") == term
    });
    assert!(undisturbed, "three times whoever led was deposed while it read two large bodies");
}

fn leader(machines: &[Machine]) -> usize {
    eventually("somebody leads, and all have heard of it", || {
        let leads: Vec<usize> = (0..3).filter(|n| machines[*n].metric("weir_raft_is_leader") == Some(1.0)).collect();
        let known = machines.iter().all(|machine| machine.metric("weir_raft_has_leader") == Some(1.0));
        (leads.len() == 1 && known).then(|| leads[0])
    })
}

/// Nothing comes from one machine to another any more, or it does again.
fn route(what: &str, (from, to): (usize, usize)) {
    let to = format!("{}/32", ADDRESSES[to]);
    let done = Command::new("ip").args(["-n", &format!("n{from}"), "route", what, "blackhole", &to]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn hold_the_same(machines: &[Machine]) {
    eventually("all hold the same", || {
        let lists: Vec<String> = machines
            .iter()
            .map(|machine| Some(machine.try_api("GET", "/apis/v2/objects", "").ok()?.body))
            .collect::<Option<_>>()?;
        lists.iter().all(|list| *list == lists[0]).then_some(())
    });
    for machine in machines {
        assert_eq!(machine.metric("weir_raft_state_divergence_members"), Some(0.0), "{}", machine.name);
    }
}

//! Real members on loopback, with real files: founding, losing a leader, losing a majority, losing a disk.

#[path = "support/authority.rs"]
mod authority;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use authority::Authority;
use control_api::client::Client;
use control_api::tls::ClientTrust;
use control_api::{EdgeReport, MemberRole, RefusalKind, Update};
use control_raft::{Config, Control, PeerTls, StartErrorKind, StateFlag};
use control_state::{Action, Answer, Entry, PutMode};
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;

#[test]
fn a_member_alone_decides_at_once_and_remembers() {
    let world = World::new(&["n1"]);
    let node = world.start("n1");
    node.puts("a");
    node.puts("b");
    assert_eq!(node.put("a").unwrap_err().kind, RefusalKind::Conflict);
    let mut agent = node.control.follow(None);
    assert!(matches!(agent.recv_timeout(SOON), Ok(Update::Snapshot(s)) if s.objects.len() == 2));
    node.puts("c");
    assert!(eventually(|| matches!(agent.recv_timeout(SOON), Ok(Update::Delta(d)) if d.puts.len() == 1)));
    eventually(|| node.control.state().view.members.contains_key("n1"));
    let before = node.control.state();
    node.kill();

    let node = world.start("n1");
    assert_eq!(node.control.state().view.objects, before.view.objects);
    assert!(node.control.state().view.version >= before.view.version);
    assert_eq!(node.control.state().view.cluster_id, before.view.cluster_id);
    node.puts("d");
    let metrics = node.control.metrics();
    assert!(metrics.is_leader && metrics.applied_index > 4 && metrics.voters == ["n1"], "{metrics:?}");
}

#[test]
fn the_first_change_waits_until_the_cluster_has_its_id() {
    let world = World::new(&["n1"]);
    let node = world.start("n1");
    let mut agent = node.control.follow(None);
    node.puts("early");
    let state = node.control.state();
    assert!(!state.view.cluster_id.is_empty() && state.view.changed["early"] > 1, "{:?}", state.view);
    let first = agent.recv_timeout(SOON);
    assert!(matches!(&first, Ok(Update::Snapshot(s)) if !s.cluster_id.is_empty()), "{first:?}");
}

#[test]
fn nothing_acknowledged_is_lost_when_the_leader_and_a_member_die_under_writes() {
    let mut world = World::new(&["n1", "n2", "n3"]);
    let mut nodes = world.start_all();
    nodes[0].puts("first");
    assert!(eventually(|| nodes.iter().all(|n| n.control.state().view.members.len() == 3)), "all register");

    let survivor = nodes.iter().position(|n| !n.control.metrics().is_leader).unwrap();
    let control = Beside::start();
    let writer = Writer::start(nodes[survivor].control.clone());
    std::thread::sleep(Duration::from_millis(300));
    let leader = nodes.iter().position(|n| n.control.metrics().is_leader).unwrap();
    let dead = nodes.remove(leader);
    let name = dead.name.clone();
    dead.kill();
    std::thread::sleep(Duration::from_millis(1800));
    nodes.push(world.restart(&name));
    std::thread::sleep(Duration::from_millis(500));
    let (acknowledged, pause) = writer.stop();
    assert!(acknowledged.len() > 10, "only {} writes", acknowledged.len());
    assert!(pause < control.allows(Duration::from_millis(2500)), "writes paused for {pause:?}");
    eprintln!("{} writes acknowledged, longest pause {pause:?}", acknowledged.len());

    // Another one dies while the first is back: still a majority.
    let follower = nodes.iter().position(|n| !n.control.metrics().is_leader).unwrap();
    nodes.remove(follower).kill();
    let last = nodes[0].control.clone();
    assert!(eventually(|| put(&nodes[1], &last, "last").is_ok() || last.state().view.objects.contains_key("last")));
    for node in &nodes {
        assert!(eventually(|| node.control.state().view.objects.contains_key("last")));
        let state = node.control.state();
        let lost: Vec<&String> = acknowledged.iter().filter(|n| !state.view.objects.contains_key(*n)).collect();
        assert!(lost.is_empty(), "{} lost {lost:?}", node.name);
    }
    assert_eq!(nodes[0].control.state().view.objects, nodes[1].control.state().view.objects);
}

#[test]
fn silence_marks_a_member_down_and_its_return_up() {
    let mut world = World::new(&["n1", "n2", "n3"]);
    let mut nodes = world.start_all();
    nodes[0].puts_doc(json!({"name": "v", "kind": "VirtualIP", "addresses": ["10.0.0.1"]}));
    let alive = |node: &Node| node.control.state().view.steering.get("v").map_or(0, |s| s.alive.len());
    assert!(eventually(|| alive(&nodes[0]) == 3));
    let victim = nodes.iter().position(|n| !n.control.metrics().is_leader).unwrap();
    let victim = nodes.remove(victim);
    let (name, killed, control) = (victim.name.clone(), Instant::now(), Beside::start());
    victim.kill();
    assert!(eventually(|| nodes.iter().all(|n| alive(n) == 2 && !n.control.state().view.members[&name].up)));
    assert!(killed.elapsed() < control.allows(Duration::from_millis(2500)), "took {:?}", killed.elapsed());
    nodes.push(world.restart(&name));
    assert!(eventually(|| nodes.iter().all(|n| alive(n) == 3)));
    let steering = nodes[0].control.state().view.steering["v"].clone();
    assert!(nodes.iter().all(|n| n.control.state().view.steering["v"] == steering), "all machines see the same");

    // Leaving politely is seen at once.
    let leaver = nodes.iter().position(|n| !n.control.metrics().is_leader).unwrap();
    let leaver = nodes.remove(leaver);
    let (left, control) = (Instant::now(), Beside::start());
    leaver.runtime.as_ref().unwrap().block_on(leaver.control.shutdown());
    assert!(eventually(|| nodes.iter().all(|n| alive(n) == 2)));
    assert!(left.elapsed() < control.allows(Duration::from_millis(1000)), "took {:?}", left.elapsed());
}

#[test]
fn a_minority_refuses_changes_at_once_and_answers_questions() {
    let mut world = World::new(&["n1", "n2", "n3"]);
    let mut nodes = world.start_all();
    nodes[0].puts("a");
    assert!(eventually(|| nodes.iter().all(|n| n.control.state().view.objects.len() == 1)));
    // First the leader stays, then (after a restart of nobody) the same holds for it as a follower of none.
    let leader = nodes.iter().position(|n| n.control.metrics().is_leader).unwrap();
    let leader = nodes.remove(leader);
    for node in nodes {
        node.kill();
    }
    let (cut, control) = (Instant::now(), Beside::start());
    let refusal = leader.put("b").unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Unavailable);
    assert!(cut.elapsed() < control.allows(Duration::from_secs(3)), "first refusal after {:?}", cut.elapsed());
    assert!(refusal.message.contains("majority"), "{refusal}");
    std::thread::sleep(Duration::from_millis(1600));
    let (asked, control) = (Instant::now(), Beside::start());
    assert_eq!(leader.put("c").unwrap_err().kind, RefusalKind::Unavailable);
    assert!(asked.elapsed() < control.allows(Duration::from_millis(1700)), "refusal after {:?}", asked.elapsed());
    assert!(leader.control.state().view.objects.contains_key("a"));
    assert!(!leader.control.metrics().is_leader);
}

#[test]
fn a_minority_that_follows_refuses_at_once() {
    let mut world = World::new(&["n1", "n2", "n3"]);
    let mut nodes = world.start_all();
    nodes[0].puts("a");
    let follower = nodes.iter().position(|n| !n.control.metrics().is_leader).unwrap();
    let follower = nodes.remove(follower);
    for node in nodes {
        node.kill();
    }
    std::thread::sleep(Duration::from_millis(2600));
    let (asked, control) = (Instant::now(), Beside::start());
    assert_eq!(follower.put("b").unwrap_err().kind, RefusalKind::Unavailable);
    assert!(asked.elapsed() < control.allows(Duration::from_millis(300)), "refusal after {:?}", asked.elapsed());
}

#[test]
fn a_member_with_a_damaged_log_comes_back_from_the_others() {
    for harm in [Harm::Truncate, Harm::Scribble, Harm::Empty, Harm::Remove] {
        let mut world = World::new(&["n1", "n2", "n3"]);
        let mut nodes = world.start_all();
        for n in 0..20 {
            nodes[n % 3].puts(&format!("o{n}"));
        }
        assert!(eventually(|| nodes.iter().all(|n| n.control.state().view.members.len() == 3)));
        let victim = nodes.iter().position(|n| !n.control.metrics().is_leader).unwrap();
        let victim = nodes.remove(victim);
        let name = victim.name.clone();
        victim.kill();
        world.harm(&name, harm);
        let back = world.restart(&name);
        assert!(eventually(|| back.control.state().view.objects.len() == 20), "{harm:?}: copied from the others");
        // Known to all: with one gone before that, the group of before could not agree to the one to come.
        let votes = |n: &Node| n.control.metrics().voters.len() == 3;
        assert!(eventually(|| nodes.iter().all(votes) && votes(&back)), "{harm:?}: votes again");
        let aside = std::fs::read_dir(world.data(&name))
            .unwrap()
            .flatten()
            .any(|f| f.file_name().to_string_lossy().contains("damaged-1"));
        assert_eq!(aside, !matches!(harm, Harm::Remove), "{harm:?}: the damaged file is kept");
        // It counts again: with one other gone, the two decide.
        let gone = nodes.iter().position(|n| !n.control.metrics().is_leader).unwrap();
        nodes.remove(gone).kill();
        assert!(
            eventually(|| back.put("after").is_ok() || back.control.state().view.objects.contains_key("after")),
            "{harm:?}"
        );
    }
}

#[test]
fn a_lone_member_with_a_damaged_log_refuses_and_leaves_the_file() {
    let world = World::new(&["n1"]);
    let node = world.start("n1");
    node.puts("a");
    node.kill();
    world.harm("n1", Harm::Truncate);
    for _ in 0..2 {
        let error = world.try_start("n1").err().expect("must refuse");
        assert_eq!(error.kind, StartErrorKind::Damaged, "{error}");
        assert!(error.message.contains("raft.redb is damaged") && error.message.contains("backup"), "{error}");
    }
    assert!(world.file("n1").exists());
}

#[test]
fn secondaries_follow_forward_and_survive() {
    let mut world = World::new(&["n1"]);
    let primary = world.start("n1");
    primary.puts("a");
    let secondary = world.secondary("s1");
    assert!(eventually(|| secondary.control.state().view.objects.contains_key("a")));
    secondary.puts("b");
    assert!(secondary.control.state().view.objects.contains_key("b"), "a member sees its own writes");
    assert_eq!(secondary.put("b").unwrap_err().kind, RefusalKind::Conflict);
    assert!(eventually(|| primary
        .control
        .state()
        .view
        .members
        .get("s1")
        .is_some_and(|m| m.up && m.role == MemberRole::Secondary)));
    assert!(eventually(|| secondary.control.state().view == primary.control.state().view));

    let mut agent = secondary.control.follow(None);
    while agent.recv_timeout(Duration::ZERO).is_ok() {}
    primary.kill();
    let (asked, control) = (Instant::now(), Beside::start());
    assert_eq!(secondary.put("c").unwrap_err().kind, RefusalKind::Unavailable);
    assert!(asked.elapsed() < control.allows(Duration::from_secs(3)));
    assert_eq!(secondary.control.state().view.objects.len(), 2, "its state stays");

    let primary = world.restart("n1");
    primary.puts("d");
    let mut seen = Vec::new();
    assert!(eventually(|| {
        while let Ok(update) = agent.recv_timeout(Duration::ZERO) {
            match update {
                Update::Delta(delta) => seen.extend(delta.puts.iter().map(|d| d["name"].clone())),
                other => panic!("the stream resumes with deltas, not {other:?}"),
            }
        }
        seen.contains(&json!("d"))
    }));
    secondary.puts("e");
}

/// One that runs on while its primaries lose everything and found the cluster anew: it goes along, and its writes too.
#[test]
fn a_running_secondary_goes_along_when_the_cluster_is_founded_anew() {
    let mut world = World::new(&["n1"]);
    let primary = world.start("n1");
    primary.puts("old");
    let secondary = world.secondary("s1");
    let followed = || secondary.control.state();
    assert!(eventually(|| followed().view.objects.contains_key("old") && !followed().view.cluster_id.is_empty()));
    let first = secondary.control.state().view.cluster_id.clone();
    assert!(eventually(|| secondary.control.cut_off(Duration::ZERO).is_none()));
    primary.kill();
    assert!(eventually(|| secondary.control.cut_off(Duration::ZERO).is_some()), "it says that it hears from nobody");
    let told = secondary.control.cut_off(Duration::ZERO).unwrap();
    assert!(told.contains("no primary has said anything") && told.contains(&world.cluster["n1"]), "{told}");
    assert_eq!(secondary.control.cut_off(Duration::from_secs(3600)), None);

    world.harm("n1", Harm::Remove);
    // In the moment of founding it has no id yet, and whoever calls is let in: nobody finds it until it has.
    let mut elsewhere = world.config("n1");
    elsewhere.listeners = vec![TcpListener::bind("127.0.0.1:0").unwrap()];
    elsewhere.initial_cluster.clear();
    let founded = launch(elsewhere).unwrap();
    founded.puts("new");
    assert!(eventually(|| !founded.control.state().view.cluster_id.is_empty()));
    std::thread::sleep(Duration::from_secs(1));
    founded.kill();
    let primary = world.restart("n1");
    assert!(eventually(|| secondary.control.state().view.objects.contains_key("new")), "it is shut out");
    assert_ne!(secondary.control.state().view.cluster_id, first);
    assert!(eventually(|| primary.control.state().view.members.get("s1").is_some_and(|member| member.up)));
    assert!(eventually(|| secondary.control.cut_off(Duration::ZERO).is_none()));
    secondary.puts("of-the-secondary");
}

#[test]
fn over_https_members_know_each_other_by_their_certificates() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let mut world = World::encrypted(&["n1", "n2", "n3"], &ours);
    let nodes = world.start_all();
    for (n, node) in nodes.iter().enumerate() {
        node.puts(&format!("o{n}"));
    }
    let secondary = world.secondary("s1");
    secondary.puts("of-a-secondary");
    assert!(eventually(|| nodes.iter().all(|n| n.control.state().view.objects.len() == 4)));
    assert!(eventually(|| nodes[0].control.state().view.members.len() == 4));
    assert!(nodes[0].control.state().view.members.values().all(|m| m.peer_url.starts_with("https://127.0.0.1:")));

    let runtime = Runtime::new().unwrap();
    let ask = |url: &str, client: Client| {
        let headers = [("x-weir-cluster", "test"), ("x-weir-from", "n9")];
        let call = client.call("GET".parse().unwrap(), url, &headers, "", Duration::from_secs(60));
        runtime.block_on(call).map(|answer| answer.status.as_u16())
    };
    let trusting = |identity| {
        let trust = ClientTrust { authorities: Some(ours.pem.clone()), identity, skip_verify: false };
        Client::trusting(Duration::from_secs(60), &trust).unwrap()
    };
    let url = format!("{}/raft/identity", world.cluster["n1"]);
    assert_eq!(ask(&url, trusting(Some(ours.signs("n9")))).ok(), Some(200));
    assert!(ask(&url, trusting(None)).is_err(), "without a certificate");
    assert!(ask(&url, trusting(Some(others.signs("n9")))).is_err(), "with one of another authority");
    assert!(ask(&url.replace("https", "http"), Client::default()).is_err(), "in plain text");
}

#[test]
fn peer_urls_are_https_all_of_them_or_none() {
    let authority = Authority::new("ours");
    let world = World::encrypted(&["n1", "n2"], &authority);
    let told = |config: Config| {
        let error = launch(config).err().expect("must refuse");
        assert_eq!(error.kind, StartErrorKind::Config, "{error}");
        error.message
    };
    let bare = told(Config { tls: None, ..world.config("n1") });
    assert!(bare.contains("--initial-cluster n1") && bare.contains("--peer-trusted-ca-file"), "{bare}");
    let mut mixed = world.config("n1");
    mixed.initial_cluster.insert("n2".into(), "http://127.0.0.1:2380".into());
    assert!(
        told(mixed).contains("--initial-cluster n2: \"http://127.0.0.1:2380\": the members"),
        "a plain one among them"
    );
}

#[test]
fn names_have_to_fit() {
    let world = World::new(&["n1"]);
    world.start("n1").kill();
    let mut config = world.config("n1");
    config.cluster_name = "other".into();
    let error = launch(config).err().expect("must refuse");
    assert_eq!(error.kind, StartErrorKind::Identity);
    assert!(error.message.contains("--cluster-name \"test\""), "{error}");
    let mut config = world.config("n1");
    config.name = "n9".into();
    config.initial_cluster.clear();
    assert_eq!(launch(config).err().expect("must refuse").kind, StartErrorKind::Identity);

    let node = world.start("n1");
    let mut stranger = world.config("x");
    stranger.role = MemberRole::Secondary;
    stranger.cluster_name = "other".into();
    stranger.primary_peer_urls = vec![node.control.peer_url().to_owned()];
    stranger.initial_cluster.clear();
    let error = launch(stranger).err().expect("must refuse");
    assert!(error.kind == StartErrorKind::Identity && error.message.contains("--cluster-name"), "{error}");
    assert!(!error.message.contains("test"), "a stranger is not told the cluster's name: {error}");

    let mut twice = world.config("n1");
    twice.listeners = vec![TcpListener::bind("127.0.0.1:0").unwrap()];
    let error = launch(twice).err().expect("must refuse");
    assert!(error.message.contains("in use by another process"), "{error}");
}

#[test]
fn a_member_joins_a_running_cluster_and_is_removed() {
    let mut world = World::new(&["n1", "n2", "n3"]);
    let nodes = world.start_all();
    nodes[0].puts("a");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = world.config("n4");
    config.initial_cluster = world.cluster.clone();
    config.initial_cluster.insert("n4".into(), format!("http://{}", listener.local_addr().unwrap()));
    config.state_flag = StateFlag::Existing;
    config.listeners = vec![listener];
    let joined = launch(config).unwrap();
    assert!(eventually(|| nodes[0].control.metrics().voters.len() == 4), "{:?}", nodes[0].control.metrics());
    assert!(eventually(|| joined.control.state().view.objects.contains_key("a")));
    joined.puts("b");
    assert!(eventually(|| nodes[0].control.state().view.members.contains_key("n4")));
    joined.kill();
    let remove = |name: &str| nodes[1].runtime.as_ref().unwrap().block_on(nodes[1].control.remove_member(name));
    remove("n4").unwrap();
    assert!(eventually(|| nodes.iter().all(|n| n.control.metrics().voters.len() == 3)));
    assert!(!nodes[1].control.state().view.members.contains_key("n4"));
    assert_eq!(remove("n4").unwrap_err().kind, RefusalKind::NotFound);
}

#[test]
fn a_follower_far_behind_gets_a_snapshot() {
    let mut world = World::new(&["n1", "n2", "n3"]);
    let mut nodes = world.start_all();
    nodes[0].puts("a");
    assert!(eventually(|| nodes.iter().all(|n| n.control.state().view.members.len() == 3)));
    let victim = nodes.iter().position(|n| !n.control.metrics().is_leader).unwrap();
    let victim = nodes.remove(victim);
    let name = victim.name.clone();
    victim.kill();
    let leader = nodes.iter().find(|n| n.control.metrics().is_leader).unwrap();
    let control = leader.control.clone();
    leader.runtime.as_ref().unwrap().block_on(async move {
        let mut writes = tokio::task::JoinSet::new();
        for n in 0..64 {
            let control = control.clone();
            writes.spawn(async move {
                for m in 0..70 {
                    let document = json!({"name": format!("o{n}"), "kind": "Pipeline", "turn": m});
                    while let Err(refusal) = control.propose(action(document.clone(), PutMode::Upsert)).await {
                        assert_eq!(refusal.kind, RefusalKind::Unavailable, "{refusal}");
                    }
                }
            });
        }
        writes.join_all().await;
    });
    assert!(eventually(|| leader.control.metrics().purged_index > 100), "{:?}", leader.control.metrics());
    let back = world.restart(&name);
    assert!(eventually(|| back.control.state().view.objects == leader.control.state().view.objects));
    back.puts("z");
}

#[test]
fn the_log_is_bounded_by_its_bytes() {
    let mut world = World::new(&["n1", "n2", "n3"]);
    let mut nodes = world.start_all();
    nodes[0].puts("a");
    let text = "x".repeat(1 << 20);
    for n in 0..40 {
        let document = json!({"name": "large", "kind": "Pipeline", "text": text, "n": n});
        // On a busy machine the group may have to choose a leader in between.
        let write = || nodes[n % 3].propose(action(document.clone(), PutMode::Upsert)).is_ok();
        assert!(eventually(write), "{n}");
    }
    let bounded = |node: &Node| node.control.metrics().log_bytes < 14 << 20;
    assert!(eventually(|| nodes.iter().all(bounded)), "{:?}", nodes[0].control.metrics());
    assert!(nodes.iter().all(|node| node.control.metrics().snapshot_index > 20));
    let name = nodes[2].name.clone();
    nodes.remove(2).kill();
    let back = world.restart(&name);
    assert!(eventually(|| back.control.state().view.object("large").is_some_and(|large| large["n"] == 39)));
}

#[test]
fn what_edges_say_of_themselves_is_known_everywhere() {
    let world = World::new(&["n1", "n2", "n3"]);
    let says = |name: &str| {
        let version = if name == "n2" { 41 } else { 42 };
        let withheld = (name == "n2").then(|| "it lacks objects".to_owned());
        EdgeReport { version, withheld, ..EdgeReport::default() }
    };
    let start = |name: &'static str| {
        let mut config = world.config(name);
        config.edge_report = Some(Arc::new(move || Some(says(name))));
        launch(config).unwrap()
    };
    let nodes = [start("n1"), start("n2"), start("n3")];
    let known = |node: &Node| {
        let edges = node.runtime.as_ref().unwrap().block_on(node.control.edges()).unwrap_or_default();
        edges.len() == 3 && ["n1", "n2", "n3"].iter().all(|name| edges[*name] == says(name))
    };
    assert!(eventually(|| nodes.iter().all(known)));
    let leader = |node: &&Node| node.control.metrics().is_leader;
    assert!(eventually(|| nodes
        .iter()
        .find(leader)
        .is_some_and(|node| node.control.metrics().edge_versions["n2"] == 41)));
    assert!(nodes.iter().filter(|node| !leader(node)).all(|node| node.control.metrics().edge_versions.is_empty()));
}

#[test]
fn who_leads_and_what_failed_is_counted() {
    let mut world = World::new(&["n1", "n2", "n3"]);
    let mut nodes = world.start_all();
    nodes[0].put("a").unwrap();
    let lead = |node: &Node| node.control.metrics().is_leader;
    // Who has not heard of the first leader yet counts no change to the second.
    assert!(eventually(|| nodes.iter().any(lead) && nodes.iter().all(|node| node.control.metrics().leader.is_some())));
    let before: Vec<u64> = nodes.iter().map(|node| node.control.metrics().leader_changes).collect();
    let at = nodes.iter().position(lead).unwrap();
    nodes.remove(at).kill();
    assert!(eventually(|| nodes.iter().any(lead)));
    let most = before.iter().max().unwrap();
    assert!(eventually(|| nodes.iter().all(|node| node.control.metrics().leader_changes > 0)), "{most}");
    assert_eq!(nodes[0].control.metrics().proposals_failed, 0);
    nodes.remove(1).kill();
    assert!(nodes[0].put("b").is_err());
    assert!(nodes[0].control.metrics().proposals_failed > 0);
}

#[test]
fn a_large_change_reaches_everybody() {
    let mut world = World::new(&["n1", "n2", "n3"]);
    let nodes = world.start_all();
    let text = "x".repeat(64 << 10);
    let entries = (0..140)
        .map(|n| {
            let document = json!({"name": format!("o{n}"), "kind": "Pipeline", "text": text, "n": n});
            Entry::new(document.into(), Vec::new())
        })
        .collect();
    let follower = nodes.iter().find(|n| !n.control.metrics().is_leader).unwrap();
    let began = Instant::now();
    let put = Action::Put { mode: PutMode::Upsert, entries };
    // Where it takes longer than a request may, nobody can say whether it is decided yet, or is to be, or the leader has changed and it
    // never is: it is said again, and changes nothing then if it was.
    assert!(eventually(|| {
        let write = follower.control.propose(put.clone());
        match follower.runtime.as_ref().unwrap().block_on(write) {
            Ok(_) => true,
            Err(refusal) => refusal.kind != RefusalKind::Unavailable && panic!("{refusal}"),
        }
    }));
    eprintln!("9 MB took {:?}", began.elapsed());
    for node in &nodes {
        assert!(eventually(|| node.control.state().view.objects.len() == 140));
    }
    nodes[0].puts("small");
}

#[test]
fn a_foreign_leader_cuts_nothing_that_is_decided() {
    let world = World::new(&["n1"]);
    let node = world.start("n1");
    for n in 0..10 {
        node.put(&format!("o{n}")).unwrap();
    }
    // As members number themselves: FNV-1a of the name, one bit left away.
    let number = b"n9"
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
        >> 1;
    let id = |term: u64, index: u64| json!({"leader_id": {"term": term, "node_id": number}, "index": index});
    let vote = |committed: bool| json!({"leader_id": {"term": 99, "node_id": number}, "committed": committed});
    let blank = |term: u64, index: u64| json!({"log_id": id(term, index), "payload": "Blank"});
    let shorter = json!({
        "vote": vote(true), "prev_log_id": null, "leader_commit": id(99, 2),
        "entries": [blank(1, 0), blank(99, 1), blank(99, 2)],
    });
    let silent = json!({"vote": vote(true), "prev_log_id": id(99, 3), "entries": [], "leader_commit": id(99, 3)});
    let members =
        json!({"log_id": null, "membership": {"configs": [[7]], "nodes": {"7": {"name": "x", "url": "http://x:1"}}}});
    let meta = json!({"last_log_id": id(99, 3), "last_membership": members, "snapshot_id": "s"});
    let copied = format!("{}\n{}", json!({"vote": vote(true), "meta": meta}), "{}");
    let call = |path: &str, body: String| {
        let url = format!("{}{path}", world.cluster["n1"]);
        let headers = [("x-weir-cluster", "test"), ("x-weir-from", "n9"), ("content-type", "application/json")];
        let client = Client::default();
        let call = client.call("POST".parse().unwrap(), &url, &headers, body, Duration::from_secs(60));
        Runtime::new().unwrap().block_on(call).unwrap()
    };
    for (path, body) in [
        ("/raft/append", shorter.to_string()),
        ("/raft/append", silent.to_string()),
        ("/raft/snapshot", copied),
        ("/raft/vote", json!({"vote": vote(true), "last_log_id": id(99, 99)}).to_string()),
        ("/raft/append", shorter.to_string().replace(":99,", ":18446744073709551615,")),
        ("/raft/append", shorter.to_string().replace(&number.to_string(), "7")),
    ] {
        let answer = call(path, body);
        let message = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status.as_u16(), 409, "{path}: {message}");
        assert!(message.contains("refuses a call of Raft") && message.contains("correct its peer URLs"), "{message}");
    }
    node.put("after").unwrap();
    assert_eq!(node.control.state().view.objects.len(), 11);
    assert!(node.control.metrics().is_leader);
    node.kill();
    assert_eq!(world.start("n1").control.state().view.objects.len(), 11, "nor on disk");
}

struct World {
    directory: TempDir,
    cluster: BTreeMap<String, String>,
    listeners: BTreeMap<String, TcpListener>,
    tls: Option<PeerTls>,
}

struct Node {
    name: String,
    control: Control,
    runtime: Option<Runtime>,
}

#[derive(Debug, Clone, Copy)]
enum Harm {
    Truncate,
    Scribble,
    Empty,
    Remove,
}

struct Writer {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(Vec<String>, Duration)>,
}

/// A neighbour that does a little of what a member does, over and over: some arithmetic, and a write that must reach the disk. What
/// it takes where nothing holds it up is nothing, so what it takes tells how busy the machine was meanwhile.
struct Beside {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Duration>,
    since: Instant,
}

impl Beside {
    fn start() -> Beside {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut file = tempfile::tempfile().unwrap();
            let mut spent = Duration::ZERO;
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                let sum = (0..200_000_u64).fold(0, |sum, n| std::hint::black_box(sum ^ n));
                file.write_all(&sum.to_le_bytes()).unwrap();
                file.sync_data().unwrap();
                spent = spent.max(began.elapsed());
                std::thread::sleep(Duration::from_millis(20));
            }
            spent
        });
        Beside { stop, thread, since: Instant::now() }
    }

    /// What was to take this long at most may take as much longer as the neighbour's longest round, for each round of messages of
    /// an election and the writes between them.
    fn allows(self, most: Duration) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let longest = self.thread.join().unwrap();
        eprintln!("in {:?} the longest round of a neighbour took {longest:?}", self.since.elapsed());
        most + 25 * longest
    }
}

impl World {
    fn new(names: &[&str]) -> World {
        let mut listeners = BTreeMap::new();
        let mut cluster = BTreeMap::new();
        for name in names {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            cluster.insert(name.to_string(), format!("http://{}", listener.local_addr().unwrap()));
            listeners.insert(name.to_string(), listener);
        }
        World { directory: tempfile::tempdir().unwrap(), cluster, listeners, tls: None }
    }

    /// Members that show each other certificates.
    fn encrypted(names: &[&str], authority: &Authority) -> World {
        let mut world = World::new(names);
        for url in world.cluster.values_mut() {
            *url = url.replace("http://", "https://");
        }
        world.tls = Some(PeerTls::new(authority.signs("127.0.0.1"), authority.pem.clone()).unwrap());
        world
    }

    fn data(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.data(name).join("raft.redb")
    }

    /// The listeners are the world's, so a port stays a member's while that is down, as an address stays a machine's.
    fn config(&self, name: &str) -> Config {
        let mut config = Config::single(name, self.data(name));
        config.cluster_name = "test".into();
        config.request_timeout = Duration::from_secs(5);
        config.listeners = match self.listeners.get(name) {
            Some(listener) => vec![listener.try_clone().unwrap()],
            None => vec![TcpListener::bind("127.0.0.1:0").unwrap()],
        };
        config.initial_cluster = self.cluster.clone();
        config.tls = self.tls.clone();
        config
    }

    fn start_all(&mut self) -> Vec<Node> {
        let nodes: Vec<Node> =
            self.cluster.keys().cloned().collect::<Vec<_>>().iter().map(|name| self.start(name)).collect();
        assert!(eventually(|| nodes.iter().any(|n| n.control.metrics().is_leader)), "no leader");
        nodes
    }

    fn start(&self, name: &str) -> Node {
        self.try_start(name).unwrap()
    }

    fn try_start(&self, name: &str) -> Result<Node, control_raft::StartError> {
        launch(self.config(name))
    }

    /// A killed member's file is let go of a moment after its tasks.
    fn restart(&mut self, name: &str) -> Node {
        let mut node = None;
        eventually(|| {
            node = self.try_start(name).ok();
            node.is_some()
        });
        node.unwrap_or_else(|| self.start(name))
    }

    /// Waits until the dead member's log writer let go of the file: it would write over the harm.
    fn harm(&self, name: &str, harm: Harm) {
        let held = || {
            std::fs::read_dir("/proc/self/fd")
                .unwrap()
                .flatten()
                .any(|fd| std::fs::read_link(fd.path()).is_ok_and(|file| file == self.file(name)))
        };
        assert!(eventually(|| !held()), "the file is still open");
        harm.inflict(&self.file(name));
    }

    fn secondary(&self, name: &str) -> Node {
        let mut config = self.config(name);
        config.role = MemberRole::Secondary;
        config.primary_peer_urls = self.cluster.values().cloned().collect();
        config.initial_cluster.clear();
        launch(config).unwrap()
    }
}

impl Node {
    fn put(&self, name: &str) -> Answer {
        self.put_doc(json!({"name": name, "kind": "Pipeline"}))
    }

    /// What a majority takes, also where it is so busy that it has to choose a leader first.
    fn puts(&self, name: &str) {
        self.puts_doc(json!({"name": name, "kind": "Pipeline"}));
    }

    fn puts_doc(&self, document: serde_json::Value) {
        let mut tries = 0;
        assert!(eventually(|| match self.put_doc(document.clone()) {
            Ok(_) => true,
            Err(refusal) if refusal.kind == RefusalKind::Unavailable => {
                tries += 1;
                false
            }
            // Whoever was told that it is not known to be decided may find that it was.
            Err(refusal) => refusal.kind == RefusalKind::Conflict && tries > 0 || panic!("{refusal}"),
        }));
    }

    fn put_doc(&self, document: serde_json::Value) -> Answer {
        self.propose(action(document, PutMode::Create))
    }

    fn propose(&self, action: Action) -> Answer {
        self.runtime.as_ref().unwrap().block_on(self.control.propose(action))
    }

    /// As `kill -9` would: nothing is said to anybody.
    fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_timeout(Duration::from_millis(500));
    }
}

impl Harm {
    fn inflict(self, file: &Path) {
        let length = std::fs::metadata(file).unwrap().len();
        match self {
            Harm::Truncate => std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(length / 3).unwrap(),
            Harm::Empty => std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(0).unwrap(),
            Harm::Remove => std::fs::remove_file(file).unwrap(),
            Harm::Scribble => {
                let mut bytes = std::fs::read(file).unwrap();
                for byte in bytes.iter_mut().skip(4096).step_by(97) {
                    *byte ^= 0x5a;
                }
                std::fs::write(file, bytes).unwrap();
            }
        }
    }
}

impl Writer {
    fn start(control: Control) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (mut acknowledged, mut pause, mut last) = (Vec::new(), Duration::ZERO, Instant::now());
            for n in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let name = format!("w{n}");
                let write = control.propose(action(json!({"name": name, "kind": "Pipeline"}), PutMode::Create));
                match runtime.block_on(write) {
                    Ok(_) => {
                        acknowledged.push(name);
                        pause = pause.max(last.elapsed());
                        last = Instant::now();
                    }
                    Err(refusal) => {
                        assert_eq!(refusal.kind, RefusalKind::Unavailable, "{refusal}");
                    }
                }
            }
            (acknowledged, pause)
        });
        Writer { stop, thread }
    }

    fn stop(self) -> (Vec<String>, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn launch(config: Config) -> Result<Node, control_raft::StartError> {
    if std::env::var_os("WEIR_TEST_LOG").is_some() {
        let _ = tracing_subscriber::fmt().with_env_filter("control_raft=debug,openraft=info").try_init();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let name = config.name.clone();
    let control = runtime.block_on(Control::start(config));
    match control {
        Ok(control) => Ok(Node { name, control, runtime: Some(runtime) }),
        Err(error) => {
            runtime.shutdown_timeout(Duration::from_millis(500));
            Err(error)
        }
    }
}

fn action(document: serde_json::Value, mode: PutMode) -> Action {
    Action::Put { mode, entries: vec![Entry::new(document.into(), Vec::new())] }
}

fn put(node: &Node, control: &Control, name: &str) -> Answer {
    node.runtime
        .as_ref()
        .unwrap()
        .block_on(control.propose(action(json!({"name": name, "kind": "Pipeline"}), PutMode::Create)))
}

/// What is sure to come does, however busy the machine is.
fn eventually(mut check: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        if check() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

const SOON: Duration = Duration::from_secs(60);

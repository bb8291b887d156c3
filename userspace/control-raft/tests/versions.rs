//! Members of different versions in one cluster, and members whose state is not the others'.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use control_api::client::Client;
use control_api::{MemberRole, RefusalKind, Update};
use control_raft::{Config, Control, LEVEL, StartError, StartErrorKind};
use control_state::{Action, Answer, Entry, PutMode, TOLD_LEVEL};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

#[test]
fn an_older_member_holds_what_is_new_back_until_it_is_upgraded() {
    let world = World::new(&["n1", "n2", "n3"]);
    let nodes: Vec<Node> = [("n1", LEVEL), ("n2", LEVEL), ("n3", 1)].map(|(n, level)| world.start(n, level)).into();
    assert!(eventually(|| nodes.iter().all(|node| node.control.state().view.members.len() == 3)));
    // What the old ones know goes on, and what they tell by themselves is left out.
    let server = json!({"name": "s", "kind": "HTTPServer", "port": 80});
    let before = nodes[0].control.state().view.version;
    nodes[0].decides(put(server.clone(), None));
    for refused in [
        put(server.clone(), Some(1)),
        Action::Delete { names: vec!["s".into()], since: Some(1) },
        Action::DeleteAllSeen { since: 1 },
        Action::RollBack { version: 1, since: None },
        Action::Succeed { cluster_id: "old".into(), version: 1, objects: Vec::new(), replaces: false },
    ] {
        let refusal = nodes[0].propose(refused.clone()).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Unavailable, "{refused:?}: {refusal}");
        assert!(refusal.message.contains("feature level 2") && refusal.message.contains("upgrade"), "{refusal}");
    }
    assert!(nodes.iter().all(|node| node.control.failure().is_none()));
    assert_eq!(nodes[1].control.metrics().feature_level, 1);

    let [one, two, old] = <[Node; 3]>::try_from(nodes).ok().unwrap();
    old.kill();
    let nodes = [one, two, world.restart("n3", LEVEL)];
    assert!(eventually(|| nodes.iter().all(|node| node.control.state().level() == LEVEL)), "it rises by itself");
    nodes[0].decides(Action::RollBack { version: before, since: None });
    assert!(eventually(|| nodes.iter().all(|node| node.control.state().view.objects.is_empty())));
    assert!(eventually(|| nodes[1].control.state().view.members.values().all(|member| member.level == LEVEL)));
    let version = nodes[0].control.state().view.version;
    nodes[2].decides(put(server, Some(version)));
}

#[test]
fn a_voter_that_has_not_spoken_yet_is_waited_for() {
    let world = World::new(&["n1", "n2", "n3"]);
    let [one, two] = ["n1", "n2"].map(|name| world.start(name, LEVEL));
    one.decides(put(json!({"name": "p", "kind": "Pipeline"}), None));
    // Longer than any cluster ever waited.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(one.control.state().level(), 1);
    let refusal = one.propose(Action::DeleteAllSeen { since: 1 }).unwrap_err();
    assert!(refusal.message.contains("\"n3\" (not heard of yet)"), "{refusal}");
    let three = world.start("n3", 1);
    assert!(eventually(|| three.control.state().view.objects.contains_key("p")), "it starts, as old as it is");
    three.kill();
    let three = world.restart("n3", LEVEL);
    assert!(eventually(|| [&one, &two, &three].iter().all(|node| node.control.state().level() == LEVEL)));
}

#[test]
fn a_member_that_is_too_old_is_told_so_and_never_goes_its_own_way() {
    let world = World::new(&["n1", "n2", "n3"]);
    let [one, two, three] = ["n1", "n2", "n3"].map(|name| world.start(name, LEVEL));
    assert!(eventually(|| [&one, &two, &three].iter().all(|node| node.control.state().level() == LEVEL)));
    one.decides(put(json!({"name": "s", "kind": "HTTPServer", "port": 80}), None));
    assert!(eventually(|| three.control.state().view.objects.contains_key("s")));
    let last = three.control.state().view.version;
    three.kill();
    one.decides(put(json!({"name": "later", "kind": "HTTPServer", "port": 81}), None));

    // Its log tells it, and where that holds nothing, the others do.
    let error = world.try_start("n3", 1).err().expect("must refuse");
    assert_eq!(error.kind, StartErrorKind::Raft, "{error}");
    assert!(error.message.contains("entry") && error.message.contains("newer weir"), "{error}");
    let mut empty = world.config("n3", 1);
    empty.data_dir = world.data("n3-empty");
    let error = launch(empty).err().expect("must refuse");
    assert_eq!(error.kind, StartErrorKind::Identity, "{error}");
    assert!(
        error.message.contains(&format!("feature level {LEVEL}")) && error.message.contains("install the version"),
        "{error}"
    );

    // The same program finds its place again, and nothing was lost.
    let three = world.restart("n3", LEVEL);
    assert!(eventually(|| three.control.state().view.objects.contains_key("later")));
    assert!(three.control.state().view.version > last);
}

#[test]
fn an_edge_that_would_take_what_it_is_told_for_something_else_is_told_nothing() {
    let world = World::new(&["n1"]);
    let urls = vec![world.cluster["n1"].clone()];
    let edge = |name: &str, level: u32| {
        let mut config = world.config(name, level);
        config.initial_cluster.clear();
        (config.role, config.primary_peer_urls) = (MemberRole::Secondary, urls.clone());
        launch(config).unwrap()
    };
    let before = world.start("n1", TOLD_LEVEL - 1);
    let old = edge("old", TOLD_LEVEL - 1);
    assert!(eventually(|| before.control.state().view.members.contains_key("old")));
    before.kill();
    let one = world.restart("n1", LEVEL);
    let is_member = |name: &str| one.control.state().view.members.contains_key(name);
    one.decides(put(json!({"name": "p", "kind": "Pipeline"}), None));
    assert!(eventually(|| old.control.state().view.objects.contains_key("p")));
    // An operator purges it, and it runs: nobody waits for it any more, and it comes back.
    assert!(eventually(|| {
        let _ = one.propose(Action::RemoveMember { name: "old".into() });
        one.control.state().level() == LEVEL
    }));
    let new = edge("new", LEVEL);
    let _ = one.propose(Action::RemoveMember { name: "old".into() });
    assert!(
        eventually(|| old.control.trouble().is_some_and(|told| told.contains("install the version"))),
        "it is told why"
    );
    let told = old.control.trouble().unwrap();
    assert!(told.contains(&format!("feature level {LEVEL}")), "{told}");
    one.decides(put(json!({"name": "q", "kind": "Pipeline"}), None));
    assert!(eventually(|| new.control.state().view.objects.contains_key("q") && is_member("new")));
    std::thread::sleep(Duration::from_millis(500));
    let objects = old.control.state().view.objects.clone();
    assert!(objects.contains_key("p") && !objects.contains_key("q"), "what it kept is what it serves");
    assert!(!is_member("old"));

    // One that says no level is as old as the cluster knows it to be.
    let headers = [("x-weir-cluster", "test"), ("x-weir-from", "stranger")];
    let watch = |query: &str| {
        let url = format!("{}/watch?{query}", urls[0]);
        let client = Client::default();
        let call = client.open("GET".parse().unwrap(), &url, &headers, Duration::from_secs(10));
        one.runtime().block_on(call).unwrap().status().as_u16()
    };
    assert_eq!((watch("from=0&changes=true"), watch(&format!("from=0&level={TOLD_LEVEL}"))), (423, 200));
}

#[test]
fn what_a_running_member_does_not_know_ends_its_part_and_not_the_others() {
    let world = World::new(&["n1", "n2", "n3"]);
    let nodes: Vec<Node> = [("n1", LEVEL), ("n2", LEVEL), ("n3", 1)].map(|(n, level)| world.start(n, level)).into();
    assert!(eventually(|| nodes.iter().all(|node| node.control.state().view.members.len() == 3)));
    nodes[0].decides(put(json!({"name": "p", "kind": "Pipeline"}), None));
    assert!(eventually(|| nodes.iter().all(|node| node.control.state().view.objects.len() == 1)));
    let [one, two, old] = <[Node; 3]>::try_from(nodes).ok().unwrap();
    old.kill();
    // Into the log comes, without n3, what no leader of these versions takes.
    one.decides(put(json!({"name": "old", "kind": "Pipeline", "turn": 1}), None));
    assert!(eventually(|| two.control.state().view.objects.contains_key("old")));
    let since = one.control.state().view.version;
    one.kill();
    two.kill();
    for name in ["n1", "n2"] {
        world.edit_entry(name, r#""turn":1"#, |entry| {
            replace_action(entry, json!({"deleteAllSeen": {"since": since + 1}}))
        });
    }
    let (one, two) = (world.restart("n1", LEVEL), world.restart("n2", LEVEL));
    world.forget_calls("n3");
    let nodes = [one, two, world.restart("n3", 1)];
    assert!(eventually(|| nodes[2].control.failure().is_some()));
    let reason = nodes[2].control.failure().unwrap();
    assert!(reason.contains("newer weir") && reason.contains("install the version"), "{reason}");
    nodes[0].decides(put(json!({"name": "q", "kind": "Pipeline"}), None));
    assert!(nodes[..2].iter().all(|node| node.control.failure().is_none()));
    assert!(!nodes[2].control.state().view.objects.contains_key("q"), "it applies nothing more");
}

#[test]
fn a_leader_takes_no_change_from_another_member_that_some_member_does_not_know() {
    let world = World::new(&["n1", "n2", "n3"]);
    let nodes: Vec<Node> = [("n1", LEVEL), ("n2", LEVEL), ("n3", 1)].map(|(n, level)| world.start(n, level)).into();
    assert!(eventually(|| nodes.iter().all(|node| node.control.state().view.members.len() == 3)));
    nodes[0].decides(put(json!({"name": "p", "kind": "Pipeline"}), None));
    let since = nodes[0].control.state().view.version;
    let action = |action: Value| json!({"request": 77, "now": "2026-01-01T00:00:00Z", "action": action});
    let mut by_somebody = action(json!({"delete": {"names": ["p"]}}));
    by_somebody["by"] = serde_json::to_value(control_api::Principal::member("n9")).unwrap();
    for (command, told) in [
        (action(json!({"deleteAllSeen": {"since": since + 1}})), "feature level 2"),
        // Of a version that is still to come.
        (action(json!({"delete": {"names": ["p"], "later": true}})), "unknown field `later`"),
        (action(json!({"conquer": {}})), "unknown variant `conquer`"),
        (by_somebody, "feature level 4"),
    ] {
        let answer = world.asks_the_leader(&nodes, &command);
        assert!(
            answer.contains(told) && answer.contains("install") | answer.contains("upgrade"),
            "{command}: {answer}"
        );
    }
    nodes[1].decides(put(json!({"name": "q", "kind": "Pipeline"}), None));
    assert!(eventually(|| nodes.iter().all(|node| node.control.state().view.objects.contains_key("q"))));
    for node in &nodes {
        assert!(node.control.failure().is_none() && node.control.state().view.objects.contains_key("p"));
    }
}

#[test]
fn a_damaged_copy_is_told_by_the_sum_over_it() {
    let world = World::new(&["n1", "n2", "n3"]);
    let mut nodes: Vec<Node> = ["n1", "n2", "n3"].map(|name| world.start(name, LEVEL)).into();
    nodes[0].decides(put(json!({"name": "p", "kind": "Pipeline", "turn": 1}), None));
    assert!(eventually(|| nodes.iter().all(|node| node.control.state().view.members.len() == 3)));
    assert!(eventually(|| nodes.iter().all(|node| node.control.state().view.objects.len() == 1)));
    assert!(nodes.iter().all(|node| node.control.diverged().is_empty()));
    let victim = nodes.iter().position(|node| !node.control.metrics().is_leader).unwrap();
    let name = nodes[victim].name.clone();
    nodes.remove(victim).kill();
    world.edit_entries(&name, r#""turn":1"#, r#""turn":7"#);
    let odd = world.restart(&name, LEVEL);
    assert!(eventually(|| odd.control.state().view.objects.get("p").is_some_and(|p| p["turn"] == 7)));
    let leads = || nodes.iter().find(|node| node.control.metrics().is_leader);
    assert!(eventually(|| leads().is_some_and(|leader| leader.control.diverged().len() == 1)));
    assert!(eventually(|| odd.control.metrics().diverged == 1), "it knows it, too");
    let told = leads().unwrap().control.diverged().remove(0);
    assert!(told.contains(&format!("member \"{name}\"")) && told.contains("raft.redb"), "{told}");
    // What it is told anew is what the others have.
    odd.kill();
    assert!(eventually(|| std::fs::rename(world.file(&name), world.file(&name).with_extension("odd")).is_ok()));
    let mended = world.restart(&name, LEVEL);
    assert!(eventually(|| mended.control.state().view.objects.get("p").is_some_and(|p| p["turn"] == 1)));
    assert!(eventually(|| leads().is_some_and(|leader| leader.control.diverged().is_empty())));
    assert!(eventually(|| mended.control.diverged().is_empty()));
}

#[test]
fn a_file_of_a_newer_format_is_refused_and_left_as_it_is() {
    let world = World::new(&["n1"]);
    let node = world.start("n1", LEVEL);
    node.decides(put(json!({"name": "p", "kind": "Pipeline"}), None));
    node.kill();
    world.edit_meta("n1", |meta| {
        let format: Value = serde_json::from_slice(&meta["format"]).unwrap();
        assert_eq!(format, 1, "it says what it is");
        meta.insert("format".into(), b"9".to_vec());
    });
    let before = std::fs::read(world.file("n1")).unwrap();
    let error = world.try_start("n1", LEVEL).err().expect("must refuse");
    assert_eq!(error.kind, StartErrorKind::Data, "{error}");
    assert!(error.message.contains("format 9") && error.message.contains("install the version"), "{error}");
    assert!(before.len() == std::fs::read(world.file("n1")).unwrap().len() && world.file("n1").exists());
    world.edit_meta("n1", |meta| drop(meta.insert("format".into(), b"1".to_vec())));
    let node = world.restart("n1", LEVEL);
    assert!(node.control.state().view.objects.contains_key("p"));
    assert!(matches!(node.control.follow(None).recv_timeout(SOON), Ok(Update::Snapshot(_))));
}

struct World {
    directory: TempDir,
    cluster: BTreeMap<String, String>,
    listeners: BTreeMap<String, TcpListener>,
}

struct Node {
    name: String,
    control: Control,
    runtime: Option<Runtime>,
}

impl World {
    fn new(names: &[&str]) -> World {
        let (mut listeners, mut cluster) = (BTreeMap::new(), BTreeMap::new());
        for name in names {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            cluster.insert(name.to_string(), format!("http://{}", listener.local_addr().unwrap()));
            listeners.insert(name.to_string(), listener);
        }
        World { directory: tempfile::tempdir().unwrap(), cluster, listeners }
    }

    fn data(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.data(name).join("raft.redb")
    }

    fn config(&self, name: &str, level: u32) -> Config {
        let mut config = Config::single(name, self.data(name));
        config.cluster_name = "test".into();
        config.request_timeout = Duration::from_secs(5);
        config.listeners = match self.listeners.get(name) {
            Some(listener) => vec![listener.try_clone().unwrap()],
            None => vec![TcpListener::bind("127.0.0.1:0").unwrap()],
        };
        config.initial_cluster = self.cluster.clone();
        config.level = level;
        config
    }

    fn start(&self, name: &str, level: u32) -> Node {
        self.try_start(name, level).unwrap()
    }

    fn try_start(&self, name: &str, level: u32) -> Result<Node, StartError> {
        launch(self.config(name, level))
    }

    /// A killed member's file is let go of a moment after its tasks.
    fn restart(&self, name: &str, level: u32) -> Node {
        let mut node = None;
        eventually(|| {
            node = self.try_start(name, level).ok();
            node.is_some()
        });
        node.unwrap_or_else(|| self.start(name, level))
    }

    /// Nobody answers what others have said to the port of a member that is down, and that the kernel keeps for it.
    fn forget_calls(&self, name: &str) {
        let listener = &self.listeners[name];
        listener.set_nonblocking(true).unwrap();
        while listener.accept().is_ok() {}
    }

    /// What the leader answers to a change that a member passes on.
    fn asks_the_leader(&self, nodes: &[Node], command: &Value) -> String {
        let headers = [("x-weir-cluster", "test"), ("x-weir-from", "n9"), ("content-type", "application/json")];
        let client = Client::default();
        let mut said = None;
        let answered = eventually(|| {
            let leader = nodes.iter().find(|node| node.control.metrics().is_leader);
            let Some(leader) = leader else { return false };
            let url = format!("{}/raft/propose", self.cluster[&leader.name]);
            let body = command.to_string();
            let call = client.call("POST".parse().unwrap(), &url, &headers, body, Duration::from_secs(10));
            said = leader.runtime().block_on(call).ok().filter(|answer| answer.status == 200);
            said.is_some()
        });
        assert!(answered, "{command}");
        String::from_utf8_lossy(&said.unwrap().body).into_owned()
    }

    /// Exchanges words in the entries of a log, as no disk would: checksums and lengths are right.
    fn edit_entries(&self, name: &str, from: &str, to: &str) {
        self.edit_entry(name, from, |entry| entry.replace(from, to));
    }

    /// Edits the one entry of a log that contains the text.
    fn edit_entry(&self, name: &str, containing: &str, edit: impl Fn(&str) -> String) {
        let database = opened(&self.file(name));
        let transaction = database.begin_write().unwrap();
        let mut edited = 0;
        {
            let mut log = transaction.open_table(LOG).unwrap();
            let entries: Vec<(u64, String)> = log
                .iter()
                .unwrap()
                .map(|row| row.map(|(n, text)| (n.value(), String::from_utf8(text.value().to_vec()).unwrap())).unwrap())
                .collect();
            for (n, text) in entries.into_iter().filter(|(_, text)| text.contains(containing)) {
                log.insert(n, edit(&text).as_bytes()).unwrap();
                edited += 1;
            }
        }
        transaction.commit().unwrap();
        assert_eq!(edited, 1);
    }

    fn edit_meta(&self, name: &str, edit: impl FnOnce(&mut BTreeMap<String, Vec<u8>>)) {
        let database = opened(&self.file(name));
        let mut meta: BTreeMap<String, Vec<u8>> = {
            let table = database.begin_read().unwrap().open_table(META).unwrap();
            let rows = table.iter().unwrap();
            rows.map(|row| row.map(|(key, value)| (key.value().to_owned(), value.value().to_vec())).unwrap()).collect()
        };
        edit(&mut meta);
        let transaction = database.begin_write().unwrap();
        {
            let mut table = transaction.open_table(META).unwrap();
            for (key, value) in &meta {
                table.insert(key.as_str(), value.as_slice()).unwrap();
            }
        }
        transaction.commit().unwrap();
    }
}

impl Node {
    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().unwrap()
    }

    fn propose(&self, action: Action) -> Answer {
        self.runtime().block_on(self.control.propose(action))
    }

    /// Also where the group has to choose a leader first.
    fn decides(&self, action: Action) {
        assert!(eventually(|| match self.propose(action.clone()) {
            Ok(_) => true,
            Err(refusal) => refusal.kind != RefusalKind::Unavailable && panic!("{refusal}"),
        }));
    }

    fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_timeout(Duration::from_millis(500));
    }
}

/// Once the member that had it has let go.
fn opened(file: &Path) -> Database {
    let mut database = None;
    assert!(eventually(|| {
        database = Database::open(file).ok();
        database.is_some()
    }));
    database.unwrap()
}

fn launch(config: Config) -> Result<Node, StartError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let name = config.name.clone();
    match runtime.block_on(Control::start(config)) {
        Ok(control) => Ok(Node { name, control, runtime: Some(runtime) }),
        Err(error) => {
            runtime.shutdown_timeout(Duration::from_millis(500));
            Err(error)
        }
    }
}

fn put(document: Value, since: Option<u64>) -> Action {
    let entry = Entry { since, ..Entry::new(document.into(), Vec::new()) };
    Action::Put { mode: PutMode::Upsert, entries: vec![entry] }
}

/// An entry of a log with another action in its command.
fn replace_action(entry: &str, action: Value) -> String {
    let mut entry: Value = serde_json::from_str(entry).unwrap();
    fn command(value: &mut Value) -> Option<&mut Value> {
        match value {
            Value::Object(fields) if fields.contains_key("action") => Some(value),
            Value::Object(fields) => fields.values_mut().find_map(command),
            _ => None,
        }
    }
    command(&mut entry).expect("a command")["action"] = action;
    entry.to_string()
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
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

use control_api::{CustomKind, Member, MemberRole, RefusalKind, Snapshot, Steering};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::*;

#[test]
fn what_an_edge_kept_comes_back_by_an_operators_word() {
    let mut world = World::default();
    world.put(PutMode::Create, json!({"name": "a", "kind": "Pipeline", "n": "new"})).unwrap();
    let kept = |name: &str, owner: &str| {
        let labels = json!({"easegress/owner": owner});
        let document = json!({"name": name, "kind": "Pipeline", "n": "kept", "labels": labels});
        Entry::new(control_api::Document::new(document), Vec::new())
    };
    let objects = vec![kept("a", "user-api"), kept("b", "user-api"), kept("b-0", "HTTPServer:b")];
    let before = world.state.view.clone();
    let succeed = |objects| Action::Succeed { cluster_id: "old".into(), version: 40, objects, replaces: false };
    let applied = world.act(succeed(objects));
    assert_eq!(applied.answer.unwrap().created, ["b", "b-0"], "even what users may not write");
    let view = world.state.view.clone();
    assert_eq!((view.version, view.objects["a"]["n"].as_str()), (41, Some("new")));
    assert_eq!(view.succeeds.last().map(|p| (p.cluster_id.as_str(), p.version)), Some(("old", 40)));
    let mut there = before;
    there.advance(&applied.delta.unwrap()).unwrap();
    assert_eq!(there, view);
    world.act(succeed(Vec::new())).answer.unwrap();
    assert_eq!(world.state.view.version, 41, "said again it changes nothing");
}

#[test]
fn a_backup_is_all_there_is_or_nothing_of_it() {
    let mut old = World::default();
    old.act(Action::Found { cluster_id: "old".into(), cluster_name: "shop".into() }).answer.unwrap();
    for name in ["n1", "n2", "n3"] {
        old.join(name);
    }
    old.put(PutMode::Create, json!({"name": "v", "kind": "VirtualIP", "addresses": ["192.0.2.1"]})).unwrap();
    old.act(Action::SetMemberUp { name: "n2".into(), up: false }).answer.unwrap();
    old.put(PutMode::Create, json!({"name": "hs", "kind": "HTTPServer", "port": 80})).unwrap();
    let kind = CustomKind { name: "k".into(), id_field: "name".into(), json_schema: None };
    old.act(Action::PutCustomKind { mode: PutMode::Create, kind, since: None }).answer.unwrap();
    let backup = old.state.view.clone();
    let restore = |backup: &Snapshot, since| Action::Restore { backup: Box::new(backup.clone()), since };

    // Founded anew by the third machine, whose id is another now.
    let mut new = World::default();
    new.act(Action::Found { cluster_id: "new".into(), cluster_name: "shop".into() }).answer.unwrap();
    new.join("n3");
    let mut reader = new.state.view.clone();
    let applied = new.act(restore(&backup, None));
    assert_eq!(applied.answer.unwrap().created, ["hs", "v"]);
    reader.advance(&applied.delta.unwrap()).unwrap();
    let view = new.state.view.clone();
    assert_eq!(reader, view);
    assert_eq!((&view.objects, &view.custom_kinds), (&backup.objects, &backup.custom_kinds));
    assert!(view.version > backup.version && view.cluster_id == "new");
    let ids: Vec<(&str, u16, bool)> = view.members.values().map(|m| (m.name.as_str(), m.id, m.up)).collect();
    assert_eq!(ids, [("n1", 3, false), ("n2", 2, false), ("n3", 1, true)], "n1's own is taken");
    let machines = |view: &Snapshot, back: usize| -> Vec<String> {
        let generations = &view.steering["v"].generations;
        let generation = &generations[generations.len() - back];
        generation.machines.iter().map(|m| view.member_by_id(m.member).unwrap().name.clone()).collect()
    };
    assert_eq!(machines(&backup, 1), ["n1", "n3"]);
    assert_eq!(
        (machines(&view, 1), machines(&view, 2)),
        (vec!["n3".to_owned()], vec!["n3".to_owned(), "n1".to_owned()])
    );
    assert!(
        new.refused(PutMode::Create, json!({"name": "x", "kind": "HTTPServer", "port": 80})) == RefusalKind::Invalid
    );
    assert!(new.act(restore(&backup, None)).delta.is_none(), "once more changes nothing");

    // A running cluster keeps its own members, and refuses what does not fit together.
    old.act(Action::RemoveMember { name: "n1".into() }).answer.unwrap();
    old.put(PutMode::Create, json!({"name": "later", "kind": "Pipeline"})).unwrap();
    let before = old.state.view.clone();
    let stale = old.act(restore(&backup, Some(before.version - 1))).answer.unwrap_err();
    assert_eq!(stale.kind, RefusalKind::Stale);
    let mut clashing = backup.clone();
    let twin = json!({"name": "twin", "kind": "HTTPServer", "port": 80}).into();
    clashing.objects.insert("twin".into(), twin);
    assert_eq!(old.act(restore(&clashing, None)).answer.unwrap_err().kind, RefusalKind::Invalid);
    assert_eq!(old.state.view, before, "nothing was changed");
    old.act(restore(&backup, Some(before.version))).answer.unwrap();
    assert_eq!(old.names(), ["hs", "v"]);
    assert!(!old.state.view.members.contains_key("n1"));
    old.act(Action::RollBack { version: before.version, since: None }).answer.unwrap();
    assert_eq!(old.names(), ["hs", "later", "v"]);
}

/// A backup was put back, and an edge has kept what came after it.
#[test]
fn what_an_edge_of_the_same_cluster_kept_takes_the_place_of_what_is_older() {
    let mut world = World::default();
    world.act(Action::Found { cluster_id: "c".into(), cluster_name: "shop".into() }).answer.unwrap();
    for name in ["changed", "deleted", "same"] {
        world.put(PutMode::Create, json!({"name": name, "kind": "Pipeline", "n": "backup"})).unwrap();
    }
    let version = 40;
    let document = |name: &str| {
        let labels = json!({"easegress/owner": "user-api"});
        control_api::Document::new(json!({"name": name, "kind": "Pipeline", "n": "kept", "labels": labels}))
    };
    let same = world.state.view.objects["same"].clone();
    let kept = [document("changed"), document("added"), same];
    let comeback = Comeback::of(&world.state.view, "c", version, kept.iter());
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        comeback,
        Comeback {
            lacks: names(&["added"]),
            differs: names(&["changed"]),
            replaces: names(&["changed"]),
            removes: names(&["deleted"])
        }
    );
    let other = Comeback::of(&world.state.view, "another", version, kept.iter());
    assert!(other.replaces.is_empty() && other.removes.is_empty() && other.differs == ["changed"]);
    let objects = kept.iter().map(|document| Entry::new(document.clone(), Vec::new())).collect();
    let done = world.act(Action::Succeed { cluster_id: "c".into(), version, objects, replaces: true });
    assert_eq!(done.answer.unwrap().created, ["added"]);
    let view = &world.state.view;
    assert_eq!(view.objects.keys().collect::<Vec<_>>(), ["added", "changed", "same"]);
    assert_eq!((view.version, view.objects["changed"]["n"].as_str()), (41, Some("kept")));
    assert!(Comeback::of(view, "c", version, kept.iter()).changes_nothing());
}

#[test]
fn objects_follow_create_update_delete() {
    let mut world = World::default();
    let doc = json!({"name": "a", "kind": "Pipeline", "filters": []});
    assert_eq!(world.put(PutMode::Create, doc.clone()).unwrap().created, ["a"]);
    assert_eq!(world.refused(PutMode::Create, doc.clone()), RefusalKind::Conflict);
    assert_eq!(world.refused(PutMode::Update, json!({"name": "b", "kind": "Pipeline"})), RefusalKind::NotFound);
    assert_eq!(world.refused(PutMode::Update, json!({"name": "a", "kind": "HTTPServer"})), RefusalKind::Invalid);
    assert_eq!(world.refused(PutMode::Create, json!({"name": "", "kind": "HTTPServer"})), RefusalKind::Invalid);

    let before = world.state.view.version;
    world.put(PutMode::Update, doc).unwrap();
    assert_eq!(world.state.view.version, before, "the same document again is no change");
    world.put(PutMode::Update, json!({"name": "a", "kind": "Pipeline", "flow": []})).unwrap();
    assert_eq!(world.state.view.version, before + 1);
    let stored = world.state.view.object("a").unwrap();
    assert_eq!(stored["labels"]["easegress/owner"], "user-api");
    assert_eq!(stored["createdAt"], "t1", "the time of creation outlives updates");

    world.act(Action::delete("a")).answer.unwrap();
    let again = world.act(Action::delete("a"));
    assert_eq!(again.answer.unwrap_err().kind, RefusalKind::NotFound);
}

#[test]
fn several_objects_are_one_change_or_none() {
    let mut world = World::default();
    world.put(PutMode::Create, json!({"name": "b", "kind": "Pipeline"})).unwrap();
    let version = world.state.view.version;
    let entries = ["a", "b", "c"].map(|name| entry(json!({"name": name, "kind": "Pipeline"})));
    let applied = world.act(Action::Put { mode: PutMode::Create, entries: entries.to_vec() });
    assert_eq!(applied.answer.unwrap_err().kind, RefusalKind::Conflict);
    assert_eq!((world.state.view.version, world.state.view.objects.len()), (version, 1));
    world.act(Action::Put { mode: PutMode::Upsert, entries: entries.to_vec() }).answer.unwrap();
    assert_eq!((world.state.view.version, world.state.view.objects.len()), (version + 1, 3));
}

#[test]
fn generated_objects_live_and_die_with_their_owner() {
    let mut world = World::default();
    let server = |children: &[&str]| {
        let generated = children.iter().map(|name| json!({"name": name, "kind": "Pipeline"}).into()).collect();
        Entry::new(json!({"name": "s", "kind": "HTTPServer"}).into(), generated)
    };
    world.act(Action::Put { mode: PutMode::Create, entries: vec![server(&["g1", "g2"])] }).answer.unwrap();
    assert_eq!(owner(world.state.view.object("g1").unwrap()), "HTTPServer:s");

    let hijack = json!({"name": "g1", "kind": "Pipeline"});
    assert_eq!(world.refused(PutMode::Update, hijack.clone()), RefusalKind::Invalid);
    let mut labelled = hijack;
    labelled["labels"] = json!({"easegress/owner": "HTTPServer:s"});
    assert_eq!(world.refused(PutMode::Update, labelled), RefusalKind::Invalid);
    let delete = world.act(Action::delete("g1"));
    assert_eq!(delete.answer.unwrap_err().kind, RefusalKind::Invalid);

    world.put(PutMode::Create, json!({"name": "mine", "kind": "Pipeline"})).unwrap();
    let taken = world.act(Action::Put { mode: PutMode::Update, entries: vec![server(&["mine"])] });
    assert_eq!(taken.answer.unwrap_err().kind, RefusalKind::Conflict);

    world.act(Action::Put { mode: PutMode::Update, entries: vec![server(&["g2", "g3"])] }).answer.unwrap();
    assert_eq!(world.names(), ["g2", "g3", "mine", "s"]);
    world.act(Action::delete("s")).answer.unwrap();
    assert_eq!(world.names(), ["mine"]);
}

#[test]
fn what_a_controller_makes_is_its_own_and_follows_what_it_observes() {
    let mut world = World::default();
    let controller = |n: u32| json!({"name": "ing", "kind": "IngressController", "n": n});
    let made = |name: &str, port: u16| entry(json!({"name": name, "kind": "HTTPServer", "port": port}));
    let put = |puts: Vec<Entry>, deletes: &[&str]| Action::PutGenerated {
        owner: "ing".into(),
        fence: None,
        puts,
        deletes: deletes.iter().map(|name| (*name).to_owned()).collect(),
        keys: Vec::new(),
    };
    assert_eq!(put(Vec::new(), &[]).level(), 9);
    let refused = |applied: Applied| applied.answer.unwrap_err();
    assert_eq!(refused(world.act(put(vec![made("ing.http", 80)], &[]))).kind, RefusalKind::NotFound);
    world.put(PutMode::Create, controller(1)).unwrap();
    world.put(PutMode::Create, json!({"name": "hs", "kind": "HTTPServer", "port": 443})).unwrap();
    let steps = world.state.changes().len();
    let applied = world.act(put(vec![made("ing.http", 80), made("ing.p", 81)], &[]));
    assert_eq!(applied.answer.unwrap().created, ["ing.http", "ing.p"]);
    assert_eq!(world.state.view.objects["ing.http"]["labels"]["easegress/owner"], "IngressController:ing");

    // Nobody else's, and nobody else changes it.
    let told = refused(world.act(put(vec![made("hs", 82)], &[]))).message;
    assert!(told.contains("an object \"hs\" exists already"), "{told}");
    let told = refused(world.act(put(Vec::new(), &["hs"]))).message;
    assert!(told.contains("an object \"hs\" exists already"), "{told}");
    let told = refused(world.act(put(vec![made("ing.https", 443)], &[]))).message;
    assert!(told.contains("taken by HTTPServer hs"), "{told}");
    world.refused(PutMode::Update, json!({"name": "ing.http", "kind": "HTTPServer", "port": 90}));
    assert!(
        world.put(PutMode::Create, json!({"name": "x", "kind": "HTTPServer", "port": 80})).is_err(),
        "it is claimed"
    );

    // Nor by somebody after what is there was brought back from a backup.
    let mut restored = world.state.clone();
    let backup = Box::new(world.state.view.clone());
    let act = |state: &mut State, request: u64, action: Action| {
        state.apply(Command { request, now: "t".into(), action, by: None }).answer
    };
    act(&mut restored, 990, Action::Restore { backup, since: None }).unwrap();
    let taken = Action::Put {
        mode: PutMode::Create,
        entries: vec![entry(json!({"name": "x", "kind": "HTTPServer", "port": 80}))],
    };
    assert!(act(&mut restored, 991, taken).unwrap_err().message.contains("ing.http"));

    // A change of its document leaves it until the controller makes something else, and is the same again when it is.
    world.put(PutMode::Update, controller(2)).unwrap();
    assert!(world.names().contains(&"ing.http"));
    assert!(world.state.holds(&[entry(controller(2))]));
    world.act(put(Vec::new(), &["ing.p", "never-there"])).answer.unwrap();
    assert_eq!(world.names(), ["hs", "ing", "ing.http"]);
    assert_eq!(world.state.changes().len(), steps + 1, "people go back to what people wrote");

    // It goes with its owner, and leaves the port.
    let mut gone = world.state.clone();
    gone.apply(Command { request: 999, now: "t".into(), action: Action::delete("ing"), by: None }).answer.unwrap();
    let before = world.state.changes().iter().map(|change| change.version).min().unwrap() - 1;
    world.act(Action::RollBack { version: before, since: None }).answer.unwrap();
    assert_eq!(world.names(), [""; 0], "nor is it there without its owner");
    for mut state in [gone, world.state] {
        let document = json!({"name": "x", "kind": "HTTPServer", "port": 80});
        let put = Command::put(1000, "t", PutMode::Create, vec![document]);
        assert!(!state.view.objects.contains_key("ing.http") && state.apply(put).answer.is_ok());
    }
}

#[test]
fn of_many_rules_of_a_server_one_is_told_and_with_it_what_it_leads_to() {
    const MANY: usize = 1_000;
    let mut world = World::default();
    world.act(Action::RaiseLevel { level: LEVEL }).answer.unwrap();
    world.put(PutMode::Create, json!({"name": "ing", "kind": "IngressController"})).unwrap();
    let own = "ingresscontroller/ing";
    let made = |name: &str, kind: &str| {
        let labels = json!({control_api::NAMESPACE_LABEL: own});
        entry(json!({"name": name, "kind": kind, "port": 80, "labels": labels}))
    };
    let rule = |n: usize, backend: &str| {
        let key = control_api::rule_key("ingresscontroller/ing/web", 0, &format!("h{n}.test"));
        crate::KeyPut::new(key, json!({"host": format!("h{n}.test"), "paths": [{"backend": backend}]}))
    };
    let put = |puts: Vec<Entry>, deletes: Vec<String>, keys: Vec<crate::SectionPut>| Action::PutGenerated {
        owner: "ing".into(),
        fence: None,
        puts,
        deletes,
        keys,
    };
    let rules =
        |puts: Vec<crate::KeyPut>| crate::SectionPut { section: control_api::RULES.into(), puts, deletes: vec![] };
    let all = rules((0..MANY).map(|n| rule(n, "p")).collect());
    let first = put(vec![made("p", "Pipeline"), made("web", "HTTPServer")], Vec::new(), vec![all]);
    assert_eq!(first.level(), RULES_LEVEL, "members of the level before would serve nothing");
    assert!(matches!(&first, Action::PutGenerated { keys, .. } if keys[0].puts.len() == MANY));
    let mut reader = world.state.clone();
    let applied = world.act(first);
    assert_eq!(applied.answer.unwrap().created.len(), 2);
    reader = reader.advanced(&applied.delta.unwrap()).unwrap();

    // One is changed, with the pipeline it leads to, and the servers of that.
    let servers = crate::SectionPut {
        section: control_api::ENDPOINTS.into(),
        puts: vec![crate::KeyPut::new("ing/s", json!({"instances": []}))],
        deletes: vec![],
    };
    let changed = put(vec![made("q", "Pipeline")], Vec::new(), vec![servers, rules(vec![rule(7, "q")])]);
    let text = serde_json::to_string(&changed).unwrap();
    assert!(text.len() < 1_000, "what is written is about one of them: {}", text.len());
    let delta = world.act(changed).delta.unwrap();
    assert_eq!((delta.puts.len(), delta.deletes.len(), delta.sections["rules"].len()), (1, 0, 1));
    assert_eq!(delta.sections["endpoints"].len(), 1);
    assert_eq!(world.state.view.changed["ingresscontroller/ing/web"], delta.to, "whoever shows it shows its rules");
    let text = serde_json::to_string(&*delta).unwrap();
    assert!(text.len() < 1_500, "what is told is about one of them: {}", text.len());
    reader = reader.advanced(&delta).unwrap();
    assert_eq!((&reader.view, reader.mark(0).view), (&world.state.view, world.state.mark(0).view));
    assert_eq!(world.state.sums, crate::sums::Sums::of(&world.state));

    // All of it or nothing.
    let theirs = crate::KeyPut { generation: Some(99), ..rule(8, "r") };
    let before = world.state.view.clone();
    let refused = world.act(put(vec![made("r", "Pipeline")], Vec::new(), vec![rules(vec![theirs])]));
    assert!(refused.answer.is_err() && refused.delta.is_none());
    assert_eq!(world.state.view, before);
    // It goes with whose it is.
    world.act(Action::delete("ing")).answer.unwrap();
    assert!(world.state.view.sections.is_empty() && world.names().is_empty());
}

#[test]
fn what_a_controller_makes_is_beside_what_users_have() {
    let mut world = World::default();
    let made = |name: &str, namespace: &str, fields: Value| {
        let mut document = fields;
        document["name"] = name.into();
        if !namespace.is_empty() {
            document["labels"] = json!({control_api::NAMESPACE_LABEL: namespace});
        }
        entry(document)
    };
    let server = |port: u16| json!({"kind": "HTTPServer", "port": port});
    let pipeline = json!({"kind": "Pipeline"});
    let put = |puts: Vec<Entry>, deletes: &[&str]| Action::PutGenerated {
        owner: "ing".into(),
        fence: None,
        puts,
        deletes: deletes.iter().map(|name| (*name).to_owned()).collect(),
        keys: Vec::new(),
    };
    let own = "ingresscontroller/ing";
    let (http, p) = ("ingresscontroller/ing/ing.http", "ingresscontroller/ing/p");
    world.act(Action::RaiseLevel { level: LEVEL }).answer.unwrap();
    world.put(PutMode::Create, json!({"name": "ing", "kind": "IngressController"})).unwrap();
    // As a controller of an older build left it.
    let before = put(vec![made("ing.http", "", server(80)), made("p", "", pipeline.clone())], &[]);
    assert_eq!(before.level(), 9);
    world.act(before).answer.unwrap();
    let moved = put(vec![made("ing.http", own, server(80)), made("p", own, pipeline.clone())], &["ing.http", "p"]);
    assert_eq!(moved.level(), NAMESPACES_LEVEL);
    let mut reader = world.state.clone();
    let applied = world.act(moved);
    assert_eq!(applied.answer.unwrap().created, [http, p]);
    reader = reader.advanced(&applied.delta.unwrap()).unwrap();
    assert_eq!((world.names(), reader.view.clone()), (vec!["ing", http, p], world.state.view.clone()));
    assert_eq!(reader.mark(0).view, world.state.mark(0).view);

    // Users have the names for themselves, whatever they write on them; the ports are one machine's.
    let labels = json!({control_api::NAMESPACE_LABEL: own});
    world.put(PutMode::Create, json!({"name": "p", "kind": "Pipeline", "labels": labels})).unwrap();
    world.put(PutMode::Create, json!({"name": "ing.http", "kind": "Pipeline"})).unwrap();
    assert_eq!(world.names(), ["ing", "ing.http", http, p, "p"]);
    let mine = world.state.view.objects["p"].clone();
    world.act(put(vec![made("p", own, json!({"kind": "Pipeline", "n": 1}))], &[])).answer.unwrap();
    assert_eq!(world.state.view.objects["p"], mine);
    let told = world.put(PutMode::Create, json!({"name": "x", "kind": "HTTPServer", "port": 80})).unwrap_err();
    assert!(told.message.contains(&format!("taken by HTTPServer {http}")), "{}", told.message);
    assert!(world.act(Action::delete(http)).answer.is_err(), "it follows its owner");
    let told = world.act(put(Vec::new(), &["p"])).answer.unwrap_err();
    assert_eq!(told.kind, RefusalKind::Conflict, "a user's object is not a controller's to delete");
    let told = world.act(put(vec![made("p", "ingresscontroller/other", pipeline.clone())], &[])).answer.unwrap_err();
    assert!(told.message.contains("is made in the namespace ingresscontroller/ing"), "{}", told.message);

    // What is kept is read again, what is brought back is where it was, and members of before are not asked to.
    let text = serde_json::to_vec(&world.state).unwrap();
    assert_eq!(State::read(&text, LEVEL), Ok(world.state.clone()));
    let backup = Action::Restore { backup: Box::new(world.state.view.clone()), since: None };
    assert_eq!(backup.level(), NAMESPACES_LEVEL);
    let mut restored = World::default();
    restored.act(backup).answer.unwrap();
    assert_eq!(restored.names(), world.names());
    assert!(restored.put(PutMode::Create, json!({"name": "x", "kind": "HTTPServer", "port": 80})).is_err());
    let kept: Vec<_> = world.state.view.objects.values().map(|document| Entry::new(document.clone(), vec![])).collect();
    let succeed = Action::Succeed { cluster_id: "old".into(), version: 9, objects: kept.clone(), replaces: false };
    assert_eq!(succeed.level(), NAMESPACES_LEVEL);
    let mut heir = World::default();
    heir.act(succeed).answer.unwrap();
    assert_eq!(heir.names(), world.names());
    let comeback = Comeback::of(&heir.state.view, "old", 9, kept.iter().map(|entry| &entry.document));
    assert!(comeback.changes_nothing() && comeback.differs.is_empty(), "{comeback:?}");

    // It goes with its owner, and users keep what is theirs.
    world.act(Action::delete("ing")).answer.unwrap();
    assert_eq!(world.names(), ["ing.http", "p"]);
    world.put(PutMode::Create, json!({"name": "x", "kind": "HTTPServer", "port": 80})).unwrap();
}

#[test]
fn what_controllers_made_before_does_not_come_back_beside_what_they_make_now() {
    let mut world = World::default();
    let own = "ingresscontroller/ing";
    let made = |space: &str, port: u16| {
        let labels = if space.is_empty() { json!({}) } else { json!({control_api::NAMESPACE_LABEL: space}) };
        entry(json!({"name": "ing.http", "kind": "HTTPServer", "port": port, "labels": labels}))
    };
    let put = |entry: Entry| Action::PutGenerated {
        owner: "ing".into(),
        fence: None,
        puts: vec![entry],
        deletes: vec![],
        keys: vec![],
    };
    world.act(Action::RaiseLevel { level: LEVEL }).answer.unwrap();
    let controller = json!({"name": "ing", "kind": "IngressController"});
    world.put(PutMode::Create, controller.clone()).unwrap();
    world.act(put(made("", 80))).answer.unwrap();
    let kept: Vec<Entry> = world.state.view.objects.values().map(|kept| Entry::new(kept.clone(), vec![])).collect();
    let before = world.put(PutMode::Create, json!({"name": "a", "kind": "Pipeline"})).unwrap().version;
    world.act(Action::delete("ing")).answer.unwrap();
    world.put(PutMode::Create, controller).unwrap();
    world.act(put(made(own, 80))).answer.unwrap();
    let now = ["a", "ing", "ingresscontroller/ing/ing.http"];
    assert_eq!(world.names(), now);

    // By history, by what an edge kept, and by what one kept of what this cluster has lost.
    world.act(Action::RollBack { version: before, since: None }).answer.unwrap();
    assert_eq!(world.names(), now);
    let succeed = |replaces: bool, version: u64| Action::Succeed {
        cluster_id: "old".into(),
        version,
        objects: kept.clone(),
        replaces,
    };
    world.act(succeed(false, 40)).answer.unwrap();
    assert_eq!(world.names(), now);
    world.act(Action::delete("ing")).answer.unwrap();
    world.act(succeed(false, 41)).answer.unwrap();
    assert_eq!(world.names(), ["a", "ing", "ing.http"], "where they have nothing else it comes back, and is moved");
}

#[test]
fn what_is_gone_back_to_fits_beside_what_was_made_since() {
    let mut world = World::default();
    world.act(Action::RaiseLevel { level: LEVEL }).answer.unwrap();
    world.put(PutMode::Create, json!({"name": "ing", "kind": "IngressController"})).unwrap();
    let before = world.put(PutMode::Create, json!({"name": "hs", "kind": "HTTPServer", "port": 80})).unwrap().version;
    world.act(Action::delete("hs")).answer.unwrap();
    let labels = json!({control_api::NAMESPACE_LABEL: "ingresscontroller/ing"});
    let made = entry(json!({"name": "http", "kind": "HTTPServer", "port": 80, "labels": labels}));
    let put =
        Action::PutGenerated { owner: "ing".into(), fence: None, puts: vec![made], deletes: vec![], keys: vec![] };
    world.act(put).answer.unwrap();
    let told = world.act(Action::RollBack { version: before, since: None }).answer.unwrap_err();
    assert!(told.message.contains("taken by HTTPServer ingresscontroller/ing/http"), "{}", told.message);
    assert_eq!(world.names(), ["ing", "ingresscontroller/ing/http"]);
}

#[test]
fn who_finds_no_id_is_none_of_the_others_affair() {
    let mut world = World::default();
    world.act(Action::RaiseLevel { level: LEVEL }).answer.unwrap();
    world.join("n1");
    let of = Member::clone(&world.state.view.members["n1"]);
    let named = |id: u16| Member { id, name: format!("e{id}"), ..Member::default() };
    let many = (2..=u16::MAX).map(|id| (format!("e{id}"), std::sync::Arc::new(named(id))));
    world.state.view.members.extend(many);
    let changed = Member { api_addr: "here:1".into(), ..of };
    let together = Action::PutMembers { members: vec![changed, member("new")], down: vec!["e7".into()] };
    assert_eq!(world.act(together).answer.unwrap().created, Vec::<String>::new());
    let members = &world.state.view.members;
    assert_eq!((members.len(), members.contains_key("new")), (usize::from(u16::MAX), false));
    assert_eq!((&*members["n1"].api_addr, members["n1"].up, members["e7"].up), ("here:1", true, false));
    let alone = world.act(Action::PutMember { member: member("new") }).answer.unwrap_err();
    assert!(alone.message.contains("65535"), "{}", alone.message);
}

#[test]
fn what_a_member_says_that_is_known_costs_no_look_for_an_id() {
    let mut world = World::default();
    world.join("n1");
    let before = steering::IDS_LOOKED_FOR.get();
    let report = |api_addr: &str| Member { api_addr: api_addr.into(), ..member("n1") };
    world.act(Action::PutMember { member: report("a:1") }).answer.unwrap();
    world.act(Action::PutMembers { members: vec![report("a:2")], down: vec![] }).answer.unwrap();
    assert_eq!(steering::IDS_LOOKED_FOR.get(), before);
    world.act(Action::PutMembers { members: vec![report("a:3"), member("n2"), member("n3")], down: vec![] });
    assert_eq!(steering::IDS_LOOKED_FOR.get(), before + 1, "once for all that are new");
}

/// A fleet that starts says something thousands of times, and readers hold the versions before: what is copied each time is counted here.
#[test]
fn what_members_say_copies_none_of_the_others() {
    let copied = |count: usize| {
        let mut world = World::default();
        world.act(Action::RaiseLevel { level: LEVEL }).answer.unwrap();
        let named = |n: usize| Member { name: format!("edge-{n:05}"), ..Member::default() };
        let members = (0..count).map(|n| named(2 * n)).collect();
        world.act(Action::PutMembers { members, down: Vec::new() }).answer.unwrap();
        let before = world.state.view.members.clone();
        let mut members: Vec<Member> =
            (0..8).map(|n| Member { api_addr: "b:1".into(), ..named(n * count / 8 * 2) }).collect();
        members.extend((0..8).map(|n| named(n * count / 8 * 2 + 1)));
        let down = (0..8).map(|n| named(n * count / 8 * 2 + 2).name).collect();
        let delta = world.act(Action::PutMembers { members, down }).delta.unwrap();
        assert_eq!((delta.member_changes.len(), delta.members.is_none()), (24, true));
        let after = &world.state.view.members;
        let both = || after.iter().filter_map(|(name, now)| Some((name, now, before.get_key_value(name)?)));
        assert_eq!((both().count(), after.len()), (count, count + 8));
        let members = both().filter(|(_, now, (_, was))| !std::sync::Arc::ptr_eq(now, was)).count();
        let names = both().filter(|(name, _, (was, _))| name.as_ptr() != was.as_ptr()).count();
        assert_eq!(members, 16, "those that said something else, and those that are down");
        names
    };
    let (few, many) = (copied(500), copied(20_000));
    assert!(many <= 24 * 64, "{many} names were copied beside 20,000 members, {few} beside 500");
}

#[test]
fn several_members_at_once_are_what_they_are_one_by_one() {
    let report = |n: usize, role: MemberRole| Member { name: format!("n{n}"), role, edge: true, ..Member::default() };
    let (mut once, mut each) = (World::default(), World::default());
    for world in [&mut once, &mut each] {
        let vip = json!({"name": "v", "kind": "VirtualIP", "addresses": ["192.0.2.1"]});
        world.put(PutMode::Create, vip).unwrap();
        world.act(Action::PutMember { member: report(8, MemberRole::Primary) }).answer.unwrap();
    }
    let members: Vec<Member> = (0..300).map(|n| report(n, MemberRole::Secondary)).collect();
    for member in members.clone() {
        each.act(Action::PutMember { member }).answer.unwrap();
    }
    each.act(Action::SetMemberUp { name: "n5".into(), up: false }).answer.unwrap();
    let mut reader = once.state.clone();
    let version = reader.view.version;
    let down = vec!["never-there".to_owned(), "n5".to_owned()];
    let together = Action::PutMembers { members, down };
    assert_eq!(together.level(), PUTS_MEMBERS);
    let applied = once.act(together);
    assert_eq!(applied.answer.unwrap().created.len(), 299);
    reader = reader.advanced(&applied.delta.unwrap()).unwrap();
    assert_eq!((once.state.view.version, &reader.view), (version + 1, &once.state.view));
    assert_eq!(once.state.view.members, each.state.view.members, "ids and all");
    let machines = |world: &World| world.state.view.steering["v"].generations.last().unwrap().machines.clone();
    assert_eq!(machines(&once), machines(&each));
    let unknown = json!({"putMembers": {"members": [{"name": "a", "later": 1}]}});
    assert!(serde_json::from_value::<Action>(unknown).is_err(), "a field that this program does not know");
}

#[test]
fn virtual_ips_by_prefix_wait_for_members_that_know_them() {
    let mut world = World::default();
    let put = |name: &str, address: &str| {
        let vip = json!({"name": name, "kind": "VirtualIP", "addresses": [address], "ports": [80]});
        Action::Put { mode: PutMode::Upsert, entries: vec![entry(vip)] }
    };
    assert_eq!((put("v", "203.0.113.1").level(), put("v", "203.0.113.0/28").level()), (2, 14));
    // What is written counts: an older edge passes over an address with a slash, whatever its length.
    for address in ["203.0.113.10/32", "2001:db8::1/128"] {
        assert_eq!(put("v", address).level(), 14, "{address}");
        let kept = |spec: Value| Action::Succeed {
            cluster_id: "old".into(),
            version: 9,
            objects: vec![entry(spec)],
            replaces: false,
        };
        let vip = json!({"name": "v", "kind": "VirtualIP", "addresses": ["203.0.113.1", address], "ports": [80]});
        assert_eq!(kept(vip.clone()).level(), 14, "kept by an edge: {address}");
        assert_eq!(kept(json!({"name": "v", "kind": "VirtualIP", "addresses": ["203.0.113.1"]})).level(), 2);
        assert_eq!(kept(json!({"name": "v", "kind": "IPFilter", "addresses": [address]})).level(), 2, "no virtual IP");
        let made = json!({"name": "m", "kind": "MockNamespacer", "port": 80});
        let put = Action::Put { mode: PutMode::Upsert, entries: vec![Entry::new(made.into(), vec![vip.into()])] };
        assert_eq!(put.level(), 14, "generated: {address}");
    }
    world.act(put("v", "203.0.113.0/28")).answer.unwrap();
    let told = world.act(put("w", "203.0.113.0/28")).answer.unwrap_err().message;
    assert!(told.contains("VirtualIP v has this address"), "{told}");
    // A longer one, and an address, are others.
    world.act(put("w", "203.0.113.0/29")).answer.unwrap();
    world.act(put("x", "203.0.113.0")).answer.unwrap();
    let written = serde_json::to_vec(&world.state).unwrap();
    assert_eq!(State::read(&written, LEVEL).unwrap(), world.state, "claims come back as they were");
    let backup = Action::Restore { backup: Box::new(world.state.view.clone()), since: None };
    assert_eq!(backup.level(), 14);
    let mut single = World::default();
    single.act(put("v", "203.0.113.10/32")).answer.unwrap();
    let backup = Action::Restore { backup: Box::new(single.state.view.clone()), since: None };
    assert_eq!(backup.level(), 14);
}

#[test]
fn backends_of_virtual_ips_wait_for_members_that_know_them() {
    let vip = json!({"name": "v", "kind": "VirtualIP", "addresses": ["203.0.113.1"], "ports": [80], "backends": [{"address": "10.0.0.1"}]});
    let put = Action::Put { mode: PutMode::Upsert, entries: vec![entry(vip.clone())] };
    assert_eq!(put.level(), 15, "an older edge would send its packets to machines");
    let none = json!({"name": "v", "kind": "VirtualIP", "addresses": ["203.0.113.1"], "ports": [80], "backends": []});
    assert_eq!(Action::Put { mode: PutMode::Upsert, entries: vec![entry(none)] }.level(), 2);
    let kept =
        Action::Succeed { cluster_id: "old".into(), version: 9, objects: vec![entry(vip.clone())], replaces: false };
    assert_eq!(kept.level(), 15, "kept by an edge");
    let made = json!({"name": "m", "kind": "MockNamespacer", "port": 80});
    let made = Action::Put { mode: PutMode::Upsert, entries: vec![Entry::new(made.into(), vec![vip.into()])] };
    assert_eq!(made.level(), 15, "generated");
    let mut world = World::default();
    world.act(put).answer.unwrap();
    let backup = Action::Restore { backup: Box::new(world.state.view.clone()), since: None };
    assert_eq!(backup.level(), 15);
    assert_eq!(TOLD_LEVEL, 15, "a member that does not vote serves nothing else in its place either");
}

#[test]
fn what_is_generated_into_a_namespace_has_its_ports() {
    let mut world = World::default();
    let generated = |port: u16| {
        let labels = json!({control_api::NAMESPACE_LABEL: "blue"});
        let server = json!({"name": "web", "kind": "HTTPServer", "port": port, "labels": labels});
        let space = json!({"name": "m", "kind": "MockNamespacer", "port": port});
        Action::Put { mode: PutMode::Upsert, entries: vec![Entry::new(space.into(), vec![server.into()])] }
    };
    assert_eq!(generated(80).level(), NAMESPACES_LEVEL);
    world.put(PutMode::Create, json!({"name": "web", "kind": "HTTPServer", "port": 80})).unwrap();
    let told = world.act(generated(80)).answer.unwrap_err().message;
    assert!(told.contains("taken by HTTPServer web"), "{told}");
    world.act(generated(81)).answer.unwrap();
    let Action::Put { entries, .. } = generated(81) else { unreachable!() };
    assert!(world.state.holds(&entries));
    assert_eq!(world.names(), ["blue/web", "m", "web"]);
    assert!(world.put(PutMode::Create, json!({"name": "x", "kind": "HTTPServer", "port": 81})).is_err());
    world.act(generated(82)).answer.unwrap();
    world.put(PutMode::Create, json!({"name": "x", "kind": "HTTPServer", "port": 81})).unwrap();
    world.act(Action::delete("m")).answer.unwrap();
    assert_eq!(world.names(), ["web", "x"]);
}

#[test]
fn one_parent_of_thousands_is_found_in_one_look() {
    let mut world = World::default();
    let server = |n: usize| {
        let generated = vec![json!({"name": format!("g{n}"), "kind": "Pipeline"}).into()];
        Entry::new(json!({"name": format!("s{n}"), "kind": "HTTPServer", "port": n + 1}).into(), generated)
    };
    let all = |mode| Action::Put { mode, entries: (0..3_000).map(server).collect() };
    world.act(all(PutMode::Create)).answer.unwrap();
    assert!(world.state.holds(&(0..3_000).map(server).collect::<Vec<_>>()[..5]));
    let mut fewer: Vec<Entry> = (0..3_000).map(server).collect();
    fewer.iter_mut().for_each(|entry| entry.generated.clear());
    world.act(Action::Put { mode: PutMode::Update, entries: fewer }).answer.unwrap();
    assert_eq!(world.state.view.objects.len(), 3_000, "every server has lost its pipeline");
}

#[test]
fn the_same_again_costs_one_look_however_much_it_is() {
    let looks = |count: usize| {
        let mut world = World::default();
        let server = |n: usize| entry(json!({"name": format!("s{n}"), "kind": "HTTPServer", "port": n + 1}));
        let all: Vec<Entry> = (0..count).map(server).collect();
        world.act(Action::Put { mode: PutMode::Create, entries: all.clone() }).answer.unwrap();
        let before = objects::OWNERS_READ.get();
        assert!(world.state.holds(&all));
        objects::OWNERS_READ.get() - before
    };
    let (few, many) = (looks(100), looks(1_000));
    assert!(few > 0 && many <= 10 * few, "{few} for 100 documents, {many} for 1000");
}

#[test]
fn a_change_of_everything_by_one_who_has_not_seen_the_last_is_refused() {
    let mut world = World::default();
    world.put(PutMode::Create, json!({"name": "a", "kind": "Pipeline"})).unwrap();
    let seen = world.state.view.version;
    world.join("n1");
    let refused = |world: &mut World, action: Action| world.act(action).answer.unwrap_err();
    world.put(PutMode::Create, json!({"name": "b", "kind": "Pipeline"})).unwrap();
    let after = world.state.view.version;
    for action in [Action::DeleteAllSeen { since: seen }, Action::RollBack { version: seen, since: Some(seen) }] {
        let refusal = refused(&mut world, action);
        assert_eq!(refusal.kind, RefusalKind::Stale);
        assert!(refusal.message.contains(&format!("\"b\" was changed in version {after}")), "{}", refusal.message);
    }
    world.act(Action::delete("b")).answer.unwrap();
    let told = refused(&mut world, Action::DeleteAllSeen { since: after }).message;
    assert!(told.contains("\"b\" was deleted in version"), "{told}");
    let now = world.state.view.version;
    world.join("n2");
    assert_eq!(refused(&mut world, Action::DeleteAllSeen { since: now + 9 }).kind, RefusalKind::Stale);
    world.act(Action::RollBack { version: after, since: Some(now) }).answer.expect("members are no objects");
    assert_eq!(world.names(), ["a", "b"]);
    let now = world.state.view.version;
    world.act(Action::DeleteAllSeen { since: now }).answer.unwrap();
    assert!(world.names().is_empty());
    let old: Action = serde_json::from_value(json!({"rollBack": {"version": 3}})).unwrap();
    assert_eq!(old, Action::RollBack { version: 3, since: None });
    assert_eq!(serde_json::to_value(Action::DeleteAll).unwrap(), "deleteAll", "as logs have it");
}

/// As the first version that kept a snapshot wrote it: a list of answers, and no word of claims.
#[test]
fn the_snapshot_of_an_early_version_is_read() {
    let early = json!({
        "view": {
            "clusterId": "one", "clusterName": "shop", "version": 7,
            "objects": {
                "s": {"name": "s", "kind": "HTTPServer", "port": 80, "labels": {"easegress/owner": "user-api"}},
                "p": {"name": "p", "kind": "Pipeline", "labels": {"easegress/owner": "user-api"}},
            },
        },
        "answers": [
            [11, {"Ok": {"version": 6, "created": ["s"]}}],
            [12, {"Err": {"kind": "notFound", "message": "object x not found"}}],
            [13, {"Ok": {"version": 7}}],
        ],
    });
    let state: State = serde_json::from_str(&early.to_string()).unwrap();
    assert_eq!((state.view.version, state.view.objects.len()), (7, 2));
    let mut world = World { state, requests: 100 };
    let server = |name: &str, port: u16| json!({"name": name, "kind": "HTTPServer", "port": port});
    assert_eq!(world.refused(PutMode::Create, server("t", 80)), RefusalKind::Invalid, "the port is taken from before");
    world.put(PutMode::Create, server("t", 81)).unwrap();

    // The log after it is as old. What it says was decided then; what comes later is looked at beside it.
    let mut replayed = |document: Value| {
        let entry = json!({"document": document});
        let action = serde_json::from_value(json!({"put": {"mode": "upsert", "entries": [entry]}})).unwrap();
        world.act(action).answer
    };
    replayed(server("u", 82)).unwrap();
    replayed(server("twice", 82)).expect("it was decided");
    assert_eq!(world.refused(PutMode::Create, server("v", 82)), RefusalKind::Invalid);
    world.act(Action::delete("s")).answer.unwrap();
    world.put(PutMode::Create, server("v", 80)).expect("it is free again");

    let text = serde_json::to_string(&world.state).unwrap();
    assert_eq!(serde_json::from_str::<State>(&text).unwrap(), world.state, "and goes on as it is now");
}

#[test]
fn of_two_objects_for_one_port_the_first_stays() {
    let mut world = World::default();
    let server = |name: &str, port: u16| json!({"name": name, "kind": "HTTPServer", "port": port});
    world.put(PutMode::Create, server("a", 80)).unwrap();
    let refusal = world.put(PutMode::Create, server("b", 80)).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Invalid);
    assert_eq!(refusal.message, "port = 80: taken by HTTPServer a; choose another port, or delete that server first");
    world.put(PutMode::Create, server("b", 81)).unwrap();
    assert_eq!(world.refused(PutMode::Update, server("b", 80)), RefusalKind::Invalid);
    let both =
        |a, b| Action::Put { mode: PutMode::Upsert, entries: vec![entry(server("a", a)), entry(server("b", b))] };
    world.act(both(81, 80)).answer.expect("they swap");
    let message = world.act(both(90, 90)).answer.unwrap_err().message;
    assert!(message.starts_with("a: port = 90: taken by HTTPServer b"), "{message}");
    assert_eq!(world.refused(PutMode::Create, server("c", 81)), RefusalKind::Invalid);
    world.act(Action::delete("a")).answer.unwrap();
    world.put(PutMode::Create, server("c", 81)).expect("the port is free");
    world.act(Action::DeleteAll).answer.unwrap();
    world.put(PutMode::Create, server("a", 80)).expect("all ports are free");

    let vip = |name: &str, ports: Value| json!({"name": name, "kind": "VirtualIP", "addresses": ["10.0.0.1"], "ports": ports});
    world.put(PutMode::Create, vip("v", json!([80, "90-99"]))).unwrap();
    assert_eq!(world.refused(PutMode::Create, vip("w", json!("any"))), RefusalKind::Invalid);
    world.put(PutMode::Create, vip("w", json!([81]))).unwrap();
    let mut state: State = serde_json::from_slice(&serde_json::to_vec(&world.state).unwrap()).unwrap();
    std::mem::swap(&mut state, &mut world.state);
    assert_eq!(world.refused(PutMode::Update, vip("w", json!([95]))), RefusalKind::Invalid, "from a snapshot too");
}

#[test]
fn what_its_writer_has_not_seen_is_not_written_over() {
    let mut world = World::default();
    let doc = |n: u64| json!({"name": "a", "kind": "Pipeline", "n": n});
    let put = |world: &mut World, mode, since, n| {
        let entries = vec![Entry { since: Some(since), ..entry(doc(n)) }];
        world.act(Action::Put { mode, entries }).answer.map_err(|refusal| refusal.kind)
    };
    let stale = Err(RefusalKind::Stale);
    let first = world.put(PutMode::Create, doc(1)).unwrap().version;
    world.put(PutMode::Create, json!({"name": "other", "kind": "Pipeline"})).unwrap();
    let second = put(&mut world, PutMode::Update, first, 2).expect("others do not count").version;
    assert_eq!(world.state.view.changed["a"], second);
    assert_eq!(put(&mut world, PutMode::Update, first, 3), stale);
    assert_eq!(put(&mut world, PutMode::Upsert, second + 1, 3), stale, "a version that is not there yet");
    let third = put(&mut world, PutMode::Upsert, second, 3).unwrap().version;

    let gone = |since| Action::Delete { names: vec!["a".into()], since: Some(since) };
    assert_eq!(world.act(gone(second)).answer.unwrap_err().kind, RefusalKind::Stale);
    world.act(gone(third)).answer.unwrap();
    for mode in [PutMode::Update, PutMode::Upsert] {
        assert_eq!(put(&mut world, mode, third, 4), stale, "it was deleted since");
    }
    assert_eq!(world.act(gone(third)).answer.unwrap_err().kind, RefusalKind::Stale);
    let now = world.state.view.version;
    put(&mut world, PutMode::Upsert, now, 5).expect("the writer knows that it is gone");
    assert_eq!(put(&mut world, PutMode::Upsert, third, 6), stale, "it is another one now");
}

#[test]
fn every_version_can_be_seen_and_gone_back_to() {
    let mut world = World::default();
    let server = |port: u16| json!({"name": "s", "kind": "HTTPServer", "port": port});
    let mut kept = vec![(world.state.view.version, world.state.view.objects.clone())];
    let child = json!({"name": "g", "kind": "Pipeline"});
    for action in [
        Action::Put { mode: PutMode::Create, entries: vec![Entry::new(server(80).into(), vec![child.into()])] },
        Action::Put { mode: PutMode::Create, entries: vec![entry(json!({"name": "p", "kind": "Pipeline"}))] },
        Action::PutMember { member: member("n1") },
        Action::Put { mode: PutMode::Update, entries: vec![entry(server(81))] },
        Action::delete("p"),
        Action::DeleteAll,
        Action::Put {
            mode: PutMode::Create,
            entries: vec![entry(json!({"name": "p", "kind": "HTTPServer", "port": 80}))],
        },
    ] {
        world.act(action).answer.unwrap();
        kept.push((world.state.view.version, world.state.view.objects.clone()));
    }
    let changes = world.state.changes();
    let told: Vec<String> = changes[..4]
        .iter()
        .map(|change| {
            let one = |(name, (kind, how)): (&String, &(String, How))| format!("{name} {kind} {}", how.word());
            change.objects.iter().map(one).collect::<Vec<_>>().join(", ")
        })
        .collect();
    assert_eq!(
        told,
        [
            "p HTTPServer created",
            "s HTTPServer deleted",
            "p Pipeline deleted",
            "g Pipeline deleted, s HTTPServer changed"
        ]
    );
    for (version, objects) in &kept {
        assert_eq!(world.state.objects_at(*version).as_ref(), Ok(objects), "version {version}");
    }
    let last = world.state.view.version;
    for (version, objects) in kept.iter().rev().chain(&kept) {
        let applied = world.act(Action::RollBack { version: *version, since: None });
        assert!(applied.answer.unwrap().version >= last, "versions only grow");
        assert_eq!(world.state.view.objects, *objects, "back at {version}");
        let port = world.put(PutMode::Upsert, json!({"name": "new", "kind": "HTTPServer", "port": 80}));
        let holder = objects.values().any(|document| document["port"] == 80);
        assert_eq!(port.is_err(), holder, "the claims of {version} are back as well");
        let _ = world.act(Action::delete("new"));
    }
    let refused =
        |world: &mut World, version| world.act(Action::RollBack { version, since: None }).answer.unwrap_err().kind;
    assert_eq!(refused(&mut world, 10_000), RefusalKind::NotFound);
    let text = "x".repeat(1 << 20);
    for n in 0..20 {
        world.put(PutMode::Upsert, json!({"name": "large", "kind": "Pipeline", "text": text, "n": n})).unwrap();
    }
    assert_eq!(refused(&mut world, last), RefusalKind::NotFound, "large changes are remembered less long");
    let before = world.state.view.version - 1;
    world.act(Action::RollBack { version: before, since: None }).answer.unwrap();
    assert_eq!(world.state.view.object("large").unwrap()["n"], 18);
}

#[test]
fn a_lease_has_one_holder_and_what_was_begun_under_another_is_left_undone() {
    let mut world = World::default();
    world.put(PutMode::Create, json!({"name": "r", "kind": "ConsulServiceRegistry"})).unwrap();
    let take = |holder: &str, at: u64, until: u64| Action::TakeLease {
        name: "x".into(),
        holder: holder.into(),
        until,
        at,
        term: None,
    };
    let fence = |epoch: u64| Some(Fence { lease: "x".into(), epoch });
    let write = |epoch: u64, n: u64| Action::PutKeys {
        section: "endpoints".into(),
        owner: "r".into(),
        fence: fence(epoch),
        puts: vec![KeyPut::new("r/s", json!({"n": n}))],
        deletes: Vec::new(),
    };
    assert_eq!(world.act(take("a", 0, 100)).answer.unwrap().epoch, 1);
    let refused = world.act(take("b", 99, 200)).answer.unwrap_err();
    assert!(refused.kind == RefusalKind::Conflict && refused.message.contains("held by \"a\""), "{refused}");
    world.act(write(1, 1)).answer.unwrap();
    world.act(Action::RenewLease { fence: fence(1).unwrap(), until: 150 }).answer.unwrap();
    assert!(world.act(take("b", 120, 200)).answer.is_err(), "it was renewed");
    assert_eq!(world.act(take("b", 151, 200)).answer.unwrap().epoch, 2, "it has ended by itself");
    let late = world.act(write(1, 2)).answer.unwrap_err();
    assert!(late.message.contains("epoch 2") && late.message.contains("left undone"), "{late}");
    assert!(world.act(Action::RenewLease { fence: fence(1).unwrap(), until: 900 }).answer.is_err());
    assert!(world.act(Action::EndLease { fence: fence(1).unwrap() }).answer.is_err());
    world.act(write(2, 3)).answer.unwrap();
    world.act(Action::EndLease { fence: fence(2).unwrap() }).answer.unwrap();
    assert!(world.act(write(2, 4)).answer.is_err(), "it was given up");
    assert_eq!(world.act(take("c", 160, 200)).answer.unwrap().epoch, 3, "and an epoch comes once");
    let held = &world.state.view.sections["endpoints"]["r/s"];
    assert_eq!((&held.value.read()["n"], held.generation), (&json!(3), 2));
}

#[test]
fn a_key_is_written_by_who_has_seen_it_and_goes_when_its_time_is_over() {
    let mut world = World::default();
    for name in ["r", "other"] {
        world.put(PutMode::Create, json!({"name": name, "kind": "ConsulServiceRegistry"})).unwrap();
    }
    let write = |owner: &str, key: &str, generation: Option<u64>, until: Option<u64>| Action::PutKeys {
        section: "endpoints".into(),
        owner: owner.into(),
        fence: None,
        puts: vec![KeyPut { generation, until, ..KeyPut::new(key, json!({"of": owner, "until": until})) }],
        deletes: Vec::new(),
    };
    let mut reader = world.state.view.clone();
    let mut act = |world: &mut World, action: Action| {
        let applied = world.act(action);
        if let Some(delta) = &applied.delta {
            reader.advance(delta).unwrap();
        }
        assert_eq!(reader.sections, world.state.view.sections);
        applied
    };
    act(&mut world, write("r", "r/s", Some(0), None)).answer.unwrap();
    assert!(act(&mut world, write("r", "r/s", Some(0), None)).answer.is_err(), "there is one");
    assert!(act(&mut world, write("r", "r/s", Some(7), None)).answer.is_err(), "it was another that was seen");
    act(&mut world, write("r", "r/s", Some(1), Some(500))).answer.unwrap();
    let refused = act(&mut world, write("other", "r/s", None, None)).answer.unwrap_err();
    assert!(refused.message.contains("belongs to object \"r\""), "{refused}");
    act(&mut world, write("other", "other/s", None, Some(900))).answer.unwrap();
    assert!(act(&mut world, Action::EndKeys { at: 499 }).delta.is_none(), "nothing is due");
    act(&mut world, Action::EndKeys { at: 500 });
    let left = |world: &World| world.state.view.sections.get("endpoints").map_or(0, |keys| keys.len());
    assert_eq!(left(&world), 1);
    act(&mut world, Action::delete("other"));
    assert_eq!(left(&world), 0, "what an object has learned goes with it");
    assert!(act(&mut world, write("other", "other/s", None, None)).answer.is_err());
}

#[test]
fn the_same_again_is_recognised() {
    let mut world = World::default();
    let doc = json!({"name": "a", "kind": "Pipeline", "labels": {"x": "1"}, "n": {"b": 1, "c": 2}});
    world.put(PutMode::Create, doc.clone()).unwrap();
    let holds = |world: &World, change: &dyn Fn(&mut Value)| {
        let mut document = doc.clone();
        change(&mut document);
        world.state.holds(&[entry(document)])
    };
    assert!(holds(&world, &|_| {}));
    assert!(holds(&world, &|d| *d =
        json!({"n": {"c": 2, "b": 1}, "createdAt": "?", "kind": "Pipeline", "labels": {"x": "1"}, "name": "a"})));
    let stored = Value::clone(world.state.view.object("a").unwrap());
    assert!(holds(&world, &|d| *d = stored.clone()), "as it is shown");
    assert!(!holds(&world, &|d| d["n"]["b"] = 2.into()));
    assert!(!holds(&world, &|d| d["more"] = 2.into()));
    assert!(!holds(&world, &|d| d["labels"] = json!({})));
    assert!(!holds(&world, &|d| d["name"] = "b".into()));
    let child = Entry { generated: vec![json!({"name": "g", "kind": "Pipeline"}).into()], ..entry(doc.clone()) };
    assert!(!world.state.holds(std::slice::from_ref(&child)));
    world.act(Action::Put { mode: PutMode::Update, entries: vec![child.clone()] }).answer.unwrap();
    assert!(world.state.holds(&[child]) && !holds(&world, &|_| {}));
}

#[test]
fn a_request_that_arrives_twice_is_carried_out_once() {
    let mut world = World::default();
    let command = Command::put(7, "t", PutMode::Create, vec![json!({"name": "a", "kind": "Pipeline"})]);
    let first = world.state.apply(&command);
    let second = world.state.apply(&command);
    assert_eq!(first.answer, second.answer);
    assert!(first.delta.is_some() && second.delta.is_none());
}

#[test]
fn steering_follows_members_and_documents() {
    let mut world = World::default();
    let steering = |world: &World| -> Steering { (*world.state.view.steering["v"]).clone() };
    let last = |world: &World| -> Vec<(u16, u32)> {
        steering(world).generations.last().unwrap().machines.iter().map(|m| (m.member, m.weight)).collect()
    };
    world.put(PutMode::Create, json!({"name": "v", "kind": "VirtualIP", "addresses": ["10.0.0.1"]})).unwrap();
    assert_eq!(last(&world), []);
    for name in ["n1", "n2", "n3"] {
        world.join(name);
    }
    assert_eq!(last(&world), [(1, 1), (2, 1), (3, 1)]);
    assert_eq!(steering(&world).generations.last().unwrap().number, 4);

    world.act(Action::SetMemberUp { name: "n2".into(), up: false }).answer.unwrap();
    assert_eq!((last(&world), steering(&world).alive), (vec![(1, 1), (3, 1)], vec![1, 3]));
    world.join("n2");
    world
        .put(
            PutMode::Update,
            json!({"name": "v", "kind": "VirtualIP", "addresses": ["10.0.0.1"], "machines": [
                {"name": "n1", "weight": 2}, {"name": "n2", "state": "draining"}, {"name": "n3", "state": "down"},
                {"name": "stranger"}]}),
        )
        .unwrap();
    assert_eq!((last(&world), steering(&world).alive), (vec![(1, 2)], vec![1, 2]));

    let number = steering(&world).generations.last().unwrap().number;
    world.act(Action::SetMemberUp { name: "n2".into(), up: false }).answer.unwrap();
    assert_eq!(steering(&world).alive, [1]);
    assert_eq!(steering(&world).generations.last().unwrap().number, number, "a drained machine was in no table");
    world.join("n2");
    for (kept, level) in [(16, 0), (control_api::GENERATIONS_KEPT, 2), (control_api::GENERATIONS_KEPT, 9)] {
        world.act(Action::RaiseLevel { level }).answer.unwrap();
        for _ in 0..50 {
            world.act(Action::SetMemberUp { name: "n1".into(), up: false }).answer.unwrap();
            world.act(Action::SetMemberUp { name: "n1".into(), up: true }).answer.unwrap();
        }
        assert_eq!(steering(&world).generations.len(), kept);
    }
    world.act(Action::delete("v")).answer.unwrap();
    assert!(world.state.view.steering.is_empty());
}

#[test]
fn generations_are_kept_until_every_machine_is_done_with_them() {
    let mut world = World::default();
    let steering = |world: &World| -> Steering { (*world.state.view.steering["v"]).clone() };
    let says = |world: &mut World, name: &str, number: u64| {
        let member = Member { released: [("v".to_owned(), number)].into(), ..member(name) };
        world.act(Action::PutMember { member }).answer.unwrap();
    };
    let vip = |state: &str| {
        json!({"name": "v", "kind": "VirtualIP", "addresses": ["10.0.0.1"], "machines": [
            {"name": "n1"}, {"name": "n2", "state": state}]})
    };
    world.act(Action::RaiseLevel { level: 2 }).answer.unwrap();
    for name in ["n1", "n2", "n3"] {
        world.join(name);
    }
    world.put(PutMode::Create, vip("active")).unwrap();
    for _ in 0..10 {
        world.put(PutMode::Update, vip("draining")).unwrap();
        world.put(PutMode::Update, vip("active")).unwrap();
    }
    world.put(PutMode::Update, vip("draining")).unwrap();
    assert_eq!(steering(&world).generations.len(), 22, "by need, not by number");
    let last = steering(&world).generations.last().unwrap().number;
    says(&mut world, "n1", last - 1);
    assert!(steering(&world).generations.last().unwrap().released.is_empty(), "of a generation that has passed");
    says(&mut world, "n1", last);
    assert_eq!(
        (steering(&world).generations.len(), &steering(&world).generations.last().unwrap().released[..]),
        (22, &[1][..])
    );
    says(&mut world, "n2", last);
    assert_eq!(steering(&world).generations.len(), 1, "all are done with what was before");
    assert_eq!(steering(&world).generations[0].number, last);

    // One that the document no longer speaks of keeps what it holds until that has ended; one that is gone holds nothing.
    world
        .put(
            PutMode::Update,
            json!({"name": "v", "kind": "VirtualIP", "addresses": ["10.0.0.1"], "machines": [{"name": "n1"}]}),
        )
        .unwrap();
    assert_eq!(steering(&world).alive, [1, 2], "n2 drains, n3 never had any");
    world.act(Action::SetMemberUp { name: "n2".into(), up: false }).answer.unwrap();
    assert_eq!(steering(&world).alive, [1]);
    // A member without an address has no kernel plane and is not waited for.
    world.act(Action::PutMember { member: Member { addresses: Default::default(), ..member("n4") } }).answer.unwrap();
    world.put(PutMode::Update, json!({"name": "v", "kind": "VirtualIP", "addresses": ["10.0.0.1"]})).unwrap();
    let last = steering(&world).generations.last().unwrap().number;
    for name in ["n1", "n3"] {
        says(&mut world, name, last);
    }
    assert_eq!((steering(&world).generations.len(), steering(&world).alive), (1, vec![1, 3, 4]));
}

#[test]
fn a_member_that_comes_and_goes_leaves_room_for_what_others_hold() {
    let mut world = World::default();
    let steering = |world: &World| -> Steering { (*world.state.view.steering["v"]).clone() };
    world.act(Action::RaiseLevel { level: crate::LEVEL }).answer.unwrap();
    for name in ["n1", "n2", "n3", "n4"] {
        world.join(name);
    }
    let vip = |state: &str| {
        json!({"name": "v", "kind": "VirtualIP", "addresses": ["10.0.0.1"], "machines": [
            {"name": "n1"}, {"name": "n2"}, {"name": "n3"}, {"name": "n4", "state": state}]})
    };
    world.put(PutMode::Create, vip("active")).unwrap();
    world.put(PutMode::Update, vip("draining")).unwrap();
    let says = |world: &mut World, name: &str| {
        let member = Member { steers: true, ..member(name) };
        world.act(Action::PutMember { member }).answer.unwrap();
    };
    let up = |world: &mut World, name: &str, up| {
        world.act(Action::SetMemberUp { name: name.to_owned(), up }).answer.unwrap();
    };
    // One at a time, then two at their own pace, each new generation with a number of its own.
    let mut number = 0;
    for turn in 0..200 {
        if turn == 100 {
            assert!(steering(&world).generations.len() < 20, "{}", steering(&world).generations.len());
        }
        up(&mut world, "n1", false);
        if turn % 2 == 0 && turn > 100 {
            up(&mut world, "n2", false);
            world.join("n2");
            says(&mut world, "n2");
        }
        world.join("n1");
        says(&mut world, "n1");
        let last = steering(&world).generations.last().unwrap().number;
        assert!(last > number);
        number = last;
    }
    let generations = steering(&world).generations;
    assert!(generations.len() <= control_api::GENERATIONS_KEPT, "{}", generations.len());
    assert_eq!(generations[0].machines.len(), 4, "what n4 holds from before it drained is remembered");
    assert!(generations.iter().all(|generation| generation.alive.contains(&4)));
}

#[test]
fn another_hash_is_a_generation_of_its_own() {
    let mut world = World::default();
    let steering = |world: &World| -> Steering { (*world.state.view.steering["v"]).clone() };
    let of = |world: &World| -> Vec<String> {
        let generations = steering(world).generations;
        generations
            .iter()
            .map(|g| {
                g.hash.as_ref().map_or("none".to_owned(), |hash| format!("{} {} {}", hash.of, hash.ipv4, hash.ipv6))
            })
            .collect()
    };
    let vip = |hash: Value| {
        let mut document = json!({"name": "v", "kind": "VirtualIP", "addresses": ["10.0.0.1"]});
        document.as_object_mut().unwrap().extend(hash.as_object().unwrap().clone());
        document
    };
    world.act(Action::Found { cluster_id: "drawn".into(), cluster_name: "shop".into() }).answer.unwrap();
    world.act(Action::RaiseLevel { level: 8 }).answer.unwrap();
    world.join("n1");
    world.put(PutMode::Create, vip(json!({}))).unwrap();
    assert_eq!(of(&world), ["none"], "what members of another level do not know");
    world.act(Action::RaiseLevel { level: crate::LEVEL }).answer.unwrap();
    world.put(PutMode::Update, vip(json!({"ports": [80]}))).unwrap();
    assert_eq!(of(&world), ["none", "fiveTuple 0 0"]);
    let seed = steering(&world).generations[1].hash.as_ref().unwrap().seed;
    assert_ne!(seed, 0);
    world.put(PutMode::Update, vip(json!({"hash": "sourcePrefix", "sourcePrefixLength": {"ipv4": 16}}))).unwrap();
    assert_eq!(of(&world)[2..], ["sourcePrefix 16 56"]);
    assert_eq!(steering(&world).generations[2].hash.as_ref().unwrap().seed, seed, "the cluster's");
    world.put(PutMode::Update, vip(json!({"hash": "sourceIP"}))).unwrap();
    assert_eq!(of(&world)[3..], ["sourceIP 0 0"]);
    let last = steering(&world).generations[3].number;
    let member = Member { released: [("v".to_owned(), last)].into(), ..member("n1") };
    world.act(Action::PutMember { member }).answer.unwrap();
    assert_eq!(of(&world), ["sourceIP 0 0"], "nobody holds anything from before");
}

#[test]
fn rounds_are_kept_while_slots_may_have_had_more_owners_than_they_remember() {
    let mut world = World::default();
    for name in ["n1", "n2", "n3", "n4", "n5", "n6"] {
        world.join(name);
    }
    world.act(Action::RaiseLevel { level: crate::LEVEL }).answer.unwrap();
    for name in ["n1", "n2", "n3", "n4", "n5", "n6"] {
        world.act(Action::PutMember { member: Member { steers: true, ..member(name) } }).answer.unwrap();
    }
    let mut put = |mode, draining: &[&str]| {
        let machine =
            |name: &str| json!({"name": name, "state": if draining.contains(&name) { "draining" } else { "active" }});
        let machines: Vec<Value> = ["n1", "n2", "n3", "n4", "n5", "n6"].into_iter().map(machine).collect();
        world
            .put(mode, json!({"name": "v", "kind": "VirtualIP", "addresses": ["10.0.0.1"], "machines": machines}))
            .unwrap();
        world.state.view.steering["v"].generations.len()
    };
    assert_eq!(put(PutMode::Create, &[]), 1);
    // Three that drain one after the other and come back: six tables.
    let round = [&["n4"][..], &["n4", "n5"], &["n4", "n5", "n6"], &["n5", "n6"], &["n6"], &[]];
    let most = (0..5).flat_map(|_| round).map(|draining| put(PutMode::Update, draining)).last();
    assert_eq!(most, Some(31), "who took flows in one round may be asked for them in the fourth");
    let most = (0..20).flat_map(|_| round).map(|draining| put(PutMode::Update, draining)).max();
    assert!(most.is_some_and(|most| most <= control_api::GENERATIONS_KEPT), "{most:?}");
    assert_eq!(world.state.view.steering["v"].generations[0].machines.len(), 6, "what was first is kept");
}

#[test]
fn a_member_takes_flows_when_it_has_said_that_it_steers() {
    let mut world = World::default();
    let last = |world: &World| {
        let last = world.state.view.steering["v"].generations.last().unwrap().clone();
        let ids: Vec<u16> = last.machines.iter().map(|machine| machine.member).collect();
        (ids, last.alive)
    };
    let says = |world: &mut World, name: &str| {
        let member = Member { steers: true, ..member(name) };
        world.act(Action::PutMember { member }).answer.unwrap();
    };
    world.act(Action::RaiseLevel { level: crate::LEVEL }).answer.unwrap();
    world.put(PutMode::Create, json!({"name": "v", "kind": "VirtualIP", "addresses": ["10.0.0.1"]})).unwrap();
    world.join("n1");
    assert_eq!(last(&world), (vec![1], vec![1]), "rather one that is not ready than nobody");
    world.join("n2");
    assert_eq!(last(&world), (vec![1], vec![1]));
    says(&mut world, "n1");
    says(&mut world, "n2");
    assert_eq!(last(&world), (vec![1, 2], vec![1, 2]));
    // A program that begins anew while the cluster has not missed it keeps its flows; one that was missed says again that it steers.
    world.join("n2");
    assert_eq!(last(&world), (vec![1, 2], vec![1, 2]));
    world.act(Action::SetMemberUp { name: "n2".into(), up: false }).answer.unwrap();
    world.join("n2");
    assert_eq!(last(&world), (vec![1], vec![1]));
    says(&mut world, "n2");
    assert_eq!(last(&world), (vec![1, 2], vec![1, 2]));
    // One without a kernel plane has no slots and says nothing.
    world.act(Action::PutMember { member: Member { addresses: Default::default(), ..member("n3") } }).answer.unwrap();
    assert_eq!(last(&world).0, [1, 2, 3]);
    // A new VirtualIP is news to all of them.
    world.put(PutMode::Create, json!({"name": "w", "kind": "VirtualIP", "addresses": ["10.0.0.2"]})).unwrap();
    assert_eq!(world.state.view.steering["w"].generations[0].machines.len(), 3);
}

#[test]
fn what_others_took_while_a_daemon_did_not_serve_is_of_the_generation_before() {
    let mut world = World::default();
    let kept = |world: &World, name: &str| -> Vec<(u64, Vec<u16>, Vec<u16>)> {
        let generations = &world.state.view.steering[name].generations;
        generations.iter().map(|g| (g.number, g.lapsed.clone(), g.released.clone())).collect()
    };
    let says = |world: &mut World, name: &str, lapsed_ms: u64, released: u64| {
        let released = [("v".to_owned(), released)].into();
        world
            .act(Action::PutMember { member: Member { steers: true, lapsed_ms, released, ..member(name) } })
            .answer
            .unwrap();
    };
    world.act(Action::RaiseLevel { level: crate::LEVEL }).answer.unwrap();
    for name in ["n1", "n2", "n3"] {
        says(&mut world, name, 0, 0);
    }
    world.put(PutMode::Create, json!({"name": "v", "kind": "VirtualIP", "addresses": ["10.0.0.1"]})).unwrap();
    let drains = json!([{"name": "n1", "state": "draining"}, {"name": "n2"}]);
    world
        .put(PutMode::Create, json!({"name": "w", "kind": "VirtualIP", "addresses": ["10.0.0.2"], "machines": drains}))
        .unwrap();
    let w = kept(&world, "w");
    says(&mut world, "n2", 0, 1);
    says(&mut world, "n3", 0, 1);
    assert_eq!(kept(&world, "v"), [(1, vec![], vec![2, 3])]);
    says(&mut world, "n1", 7_000, 0);
    assert_eq!(kept(&world, "v"), [(1, vec![1], vec![2, 3]), (2, vec![], vec![])], "all look again at what they hold");
    assert_eq!(kept(&world, "w"), w, "it takes no flows of that one");
    // The same again is no news, and an earlier time is: it is another clock's.
    says(&mut world, "n1", 7_000, 0);
    assert_eq!(kept(&world, "v").len(), 2);
    says(&mut world, "n1", 6_000, 0);
    assert_eq!(kept(&world, "v"), [(1, vec![1], vec![2, 3]), (3, vec![], vec![])]);
    says(&mut world, "n2", 8_000, 3);
    says(&mut world, "n3", 0, 3);
    assert_eq!(kept(&world, "v"), [(1, vec![1, 2], vec![2, 3]), (4, vec![], vec![])], "that was said of another");
    for name in ["n1", "n2", "n3"] {
        says(&mut world, name, if name == "n2" { 8_000 } else { 6_000 * u64::from(name == "n1") }, 4);
    }
    assert_eq!(kept(&world, "v"), [(4, vec![], vec![1, 2, 3])]);
}

#[test]
fn daemons_that_do_not_get_to_run_drive_no_table_out_that_is_needed() {
    let mut world = World::default();
    world.act(Action::RaiseLevel { level: crate::LEVEL }).answer.unwrap();
    let says = |world: &mut World, name: &str, lapsed_ms: u64| {
        world.act(Action::PutMember { member: Member { steers: true, lapsed_ms, ..member(name) } }).answer.unwrap();
    };
    for name in ["n1", "n2", "n3", "n4"] {
        says(&mut world, name, 0);
    }
    let vip = |state: &str| {
        json!({"name": "v", "kind": "VirtualIP", "addresses": ["10.0.0.1"], "machines": [
            {"name": "n1"}, {"name": "n2"}, {"name": "n3"}, {"name": "n4", "state": state}]})
    };
    world.put(PutMode::Create, vip("active")).unwrap();
    world.put(PutMode::Update, vip("draining")).unwrap();
    let (mut random, mut number) = (7u64, 0);
    for turn in 1..=1_000 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        says(&mut world, ["n1", "n2", "n3"][random as usize % 3], turn);
        let last = world.state.view.steering["v"].generations.last().unwrap().number;
        assert!(last > number, "all look again");
        number = last;
    }
    let generations = &world.state.view.steering["v"].generations;
    assert_eq!(generations.len(), 3, "{generations:?}");
    assert_eq!(generations[0].machines.len(), 4, "what n4 holds from before it drained is remembered");
    assert_eq!(generations[1].lapsed, [1, 2, 3]);
}

#[test]
fn virtual_ips_keep_their_numbers_whatever_comes_and_goes() {
    let mut world = World::default();
    let id = |world: &World, name: &str| world.state.view.steering[name].id;
    let put = |world: &mut World, name: &str| {
        let address = format!("10.0.0.{}", name.as_bytes()[0]);
        world.put(PutMode::Create, json!({"name": name, "kind": "VirtualIP", "addresses": [address]})).unwrap();
    };
    put(&mut world, "m");
    assert_eq!(id(&world, "m"), 0, "members of the first level give none");
    world.act(Action::RaiseLevel { level: 2 }).answer.unwrap();
    for name in ["z", "a"] {
        put(&mut world, name);
    }
    assert_eq!(["m", "z", "a"].map(|name| id(&world, name)), [1, 2, 3]);
    world.act(Action::delete("z")).answer.unwrap();
    put(&mut world, "b");
    assert_eq!(["m", "b", "a"].map(|name| id(&world, name)), [1, 2, 3], "small, so that there is room");
}

#[test]
fn member_ids_are_small_and_not_reused_while_a_table_speaks_of_them() {
    let mut world = World::default();
    world.put(PutMode::Create, json!({"name": "v", "kind": "VirtualIP"})).unwrap();
    for name in ["n1", "n2"] {
        world.join(name);
    }
    world.act(Action::RemoveMember { name: "n1".into() }).answer.unwrap();
    world.join("n3");
    assert_eq!(world.state.view.members["n3"].id, 3);
    world.act(Action::delete("v")).answer.unwrap();
    world.join("n4");
    assert_eq!(world.state.view.members["n4"].id, 1);
}

#[test]
fn custom_data_refusals_change_nothing() {
    let mut world = World::default();
    let kind = CustomKind { name: "k".into(), id_field: "id".into(), json_schema: None };
    let item = |id: &str| -> control_api::Document { json!({"id": id}).into() };
    let put = |world: &mut World, mode, id: &str| {
        world.act(Action::PutCustomData { mode, kind: "k".into(), item: item(id), since: None }).answer
    };
    assert_eq!(put(&mut world, PutMode::Create, "a").unwrap_err().kind, RefusalKind::NotFound);
    world.act(Action::PutCustomKind { mode: PutMode::Create, kind: kind.clone(), since: None }).answer.unwrap();
    put(&mut world, PutMode::Create, "a").unwrap();
    assert_eq!(put(&mut world, PutMode::Create, "a").unwrap_err().kind, RefusalKind::Conflict);
    assert_eq!(put(&mut world, PutMode::Update, "b").unwrap_err().kind, RefusalKind::NotFound);
    let moved = CustomKind { id_field: "other".into(), ..kind };
    let moved = world.act(Action::PutCustomKind { mode: PutMode::Update, kind: moved, since: None });
    assert_eq!(moved.answer.unwrap_err().kind, RefusalKind::Invalid);

    let batch = |world: &mut World, mode, delete: &[&str], put: Vec<Value>| {
        let delete = delete.iter().map(|id| id.to_string()).collect();
        let put = put.into_iter().map(Into::into).collect();
        world.act(Action::BatchCustomData { kind: "k".into(), mode, delete, put, since: None }).answer
    };
    let bad = batch(&mut world, CustomMode::Rebuild, &[], vec![json!({"id": "c"}), json!({"nope": 1})]);
    assert_eq!(bad.unwrap_err().kind, RefusalKind::Invalid);
    assert_eq!(world.ids(), ["a"]);
    batch(&mut world, CustomMode::Rebuild, &[], vec![json!({"id": "c"}), json!({"id": "d"})]).unwrap();
    batch(&mut world, CustomMode::Keep, &["c"], vec![json!({"id": "e"})]).unwrap();
    assert_eq!(world.ids(), ["d", "e"]);
    batch(&mut world, CustomMode::Rebuild, &[], vec![]).unwrap();
    assert!(world.state.view.custom_data.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Two replicas hold the same bytes, a replica restored from a snapshot goes on like the others, and readers that
    /// follow the deltas from any version end where the replicas are.
    #[test]
    fn replicas_and_readers_agree(actions in prop::collection::vec(action(), 1..60), cut in 0usize..60) {
        let (mut one, mut two) = (State::default(), State::default());
        let mut reader = Snapshot::default();
        for (n, action) in actions.into_iter().enumerate() {
            let command = Command { request: n as u64, now: format!("t{n}"), action, by: None };
            if n == cut {
                two = serde_json::from_slice(&serde_json::to_vec(&two).unwrap()).unwrap();
            }
            let (a, b) = (one.apply(&command), two.apply(&command));
            prop_assert_eq!(&a.answer, &b.answer);
            if let Some(delta) = a.delta {
                let wire: control_api::Delta = serde_json::from_slice(&serde_json::to_vec(&*delta).unwrap()).unwrap();
                prop_assert_eq!(wire.to, wire.from + 1);
                reader.advance(&wire).unwrap();
            }
            prop_assert_eq!(serde_json::to_vec(&reader).unwrap(), serde_json::to_vec(&one.view).unwrap());
            prop_assert_eq!(serde_json::to_vec(&one).unwrap(), serde_json::to_vec(&two).unwrap());
        }
    }
}

#[derive(Default)]
struct World {
    state: State,
    requests: u64,
}

impl World {
    fn act(&mut self, action: Action) -> Applied {
        self.requests += 1;
        self.state.apply(&Command { request: self.requests, now: format!("t{}", self.requests), action, by: None })
    }

    fn put(&mut self, mode: PutMode, document: Value) -> Answer {
        self.act(Action::Put { mode, entries: vec![entry(document)] }).answer
    }

    fn refused(&mut self, mode: PutMode, document: Value) -> RefusalKind {
        let before = self.state.view.clone();
        let refusal = self.put(mode, document).unwrap_err();
        assert_eq!(before, self.state.view);
        refusal.kind
    }

    fn join(&mut self, name: &str) {
        self.act(Action::PutMember { member: member(name) }).answer.unwrap();
    }

    fn names(&self) -> Vec<&str> {
        self.state.view.objects.keys().map(String::as_str).collect()
    }

    fn ids(&self) -> Vec<&str> {
        self.state.view.custom_data["k"].keys().map(String::as_str).collect()
    }
}

fn entry(document: Value) -> Entry {
    Entry::new(document.into(), Vec::new())
}

fn member(name: &str) -> Member {
    let number = name.bytes().last().unwrap_or(0);
    let addresses = control_api::Addresses { v4: Some([10, 0, 0, number].into()), v6: None };
    Member { name: name.into(), role: MemberRole::Primary, edge: true, addresses, ..Member::default() }
}

fn action() -> impl Strategy<Value = Action> {
    let name = prop::sample::select(vec!["a", "b", "c", "v"]);
    let node = prop::sample::select(vec!["n1", "n2", "n3"]);
    let mode = prop::sample::select(vec![PutMode::Create, PutMode::Update, PutMode::Upsert]);
    let object = (name.clone(), mode.clone(), 0u32..3, prop::collection::vec(0u8..4, 0..3)).prop_map(|(name, mode, n, children)| {
        let document = match name {
            "v" if n == 0 => json!({"name": name, "kind": "VirtualIP"}),
            "v" => json!({"name": name, "kind": "VirtualIP", "machines": [{"name": "n1", "weight": n}, {"name": "n2", "state": "draining"}]}),
            _ => json!({"name": name, "kind": "HTTPServer", "port": n}),
        };
        let generated = children.iter().map(|c| json!({"name": format!("g{c}"), "kind": "Pipeline", "n": n}).into()).collect();
        Action::Put { mode, entries: vec![Entry::new(document.into(), generated)] }
    });
    let custom = (0u8..5, mode, prop::sample::select(vec!["x", "y"])).prop_map(|(which, mode, id)| {
        let (kind, item): (String, control_api::Document) = ("k".into(), json!({"name": id, "n": which}).into());
        match which {
            0 => Action::PutCustomKind { mode, kind: CustomKind { name: kind, ..CustomKind::default() }, since: None },
            1 => Action::PutCustomData { mode, kind, item, since: None },
            2 => Action::DeleteCustomData { kind, id: id.into(), since: None },
            3 => Action::BatchCustomData {
                kind,
                mode: CustomMode::Rebuild,
                delete: vec![],
                put: vec![item],
                since: None,
            },
            _ => Action::DeleteCustomKind { name: kind, since: None },
        }
    });
    prop_oneof![
        6 => object,
        2 => name.prop_map(Action::delete),
        1 => Just(Action::DeleteAll),
        1 => (0u64..12).prop_map(|version| Action::RollBack { version, since: None }),
        2 => node.clone().prop_map(|name| Action::PutMember { member: member(name) }),
        2 => (node.clone(), any::<bool>()).prop_map(|(name, up)| Action::SetMemberUp { name: name.into(), up }),
        1 => node.prop_map(|name| Action::RemoveMember { name: name.into() }),
        4 => custom,
        1 => Just(Action::Found { cluster_id: "c".into(), cluster_name: "n".into() }),
    ]
}

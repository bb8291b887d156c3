//! The admin API as clients see it: codes, formats, versions, headers.

mod world;

use std::time::{Duration, Instant};

use control_api::{Document, RefusalKind};
use control_state::{Action, Entry, PutMode};
use serde_json::{Value, json};
use world::{World, YAML};

#[test]
fn objects_answer_with_their_codes() {
    let world = World::start();
    let api = |method: &str, path: &str, body: Value| world.json(method, path, body);
    let doc = pipeline("a");
    let mut version = 0;
    for (label, method, path, body, status, moves) in [
        ("create", "POST", "/objects", doc.clone(), 201, true),
        ("again", "POST", "/objects", doc.clone(), 409, false),
        (
            "unknown filter",
            "POST",
            "/objects",
            json!({"name": "b", "kind": "Pipeline", "filters": [{"name": "x", "kind": "Nope"}]}),
            400,
            false,
        ),
        ("unknown kind", "POST", "/objects", json!({"name": "b", "kind": "Nope"}), 400, false),
        ("no name", "POST", "/objects", json!({"kind": "Pipeline", "filters": []}), 400, false),
        (
            "system kind",
            "POST",
            "/objects",
            json!({"name": "TrafficController", "kind": "TrafficController"}),
            409,
            false,
        ),
        ("foreign owner", "POST", "/objects", labelled("b", "HTTPServer:x"), 400, false),
        ("another kind", "PUT", "/objects/a", json!({"name": "a", "kind": "HTTPServer", "port": 1}), 400, false),
        ("another name", "PUT", "/objects/a", pipeline("b"), 400, false),
        ("ghost", "PUT", "/objects/ghost", pipeline("ghost"), 404, false),
        ("change", "PUT", "/objects/a", json!({"name": "a", "kind": "Pipeline", "filters": [mock("two")]}), 200, true),
        ("delete ghost", "DELETE", "/objects/ghost", Value::Null, 404, false),
        ("delete system", "DELETE", "/objects/TrafficController", Value::Null, 400, false),
        ("delete", "DELETE", "/objects/a", Value::Null, 200, true),
        ("delete again", "DELETE", "/objects/a", Value::Null, 404, false),
        ("read deleted", "GET", "/objects/a", Value::Null, 404, false),
        ("no such path", "GET", "/nothing", Value::Null, 404, false),
        ("no such method", "DELETE", "/healthz", Value::Null, 405, false),
        ("delete all without all", "DELETE", "/objects", Value::Null, 400, false),
    ] {
        let answer = api(method, path, body);
        assert_eq!(answer.status, status, "{label}: {}", answer.text);
        if status >= 400 {
            let error = answer.json();
            assert_eq!(error["code"], status, "{label}");
            assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "{label}");
        }
        assert!(
            if moves { answer.version > version } else { answer.version >= version },
            "{label}: {} then {}",
            version,
            answer.version
        );
        version = answer.version;
    }
}

#[test]
fn yaml_and_json_go_both_ways() {
    let world = World::start();
    let text = "name: a\nkind: Pipeline\nfilters:\n- {name: m, kind: Mock, rules: []}\n";
    assert_eq!(world.call("POST", "/objects", &[("content-type", YAML)], text).status, 201);
    let answer = world.call("GET", "/objects/a", &[("accept", "application/yaml")], "");
    assert!(answer.text.starts_with("name: a\n"), "{}", answer.text);
    let error = world.call("GET", "/objects/b", &[("accept", "text/x-yaml")], "");
    assert!(error.text.contains("code: 404"), "{}", error.text);
    let document = world.get("/objects/a").json();
    assert_eq!(document["labels"]["easegress/owner"], "user-api");
    assert_eq!(document["version"], "easegress.megaease.com/v2");
    assert!(document["createdAt"].as_str().unwrap().ends_with('Z'));
    // What was read can be sent back.
    assert_eq!(world.json("PUT", "/objects/a", document).status, 200);

    let broken = world.call("POST", "/objects", &[], "name: a\nkind: [Pipeline\nx: y: z");
    assert_eq!(broken.status, 400);
    assert!(broken.text.contains("line "), "{}", broken.text);
    assert_eq!(world.call("POST", "/objects", &[], "").status, 400);
    assert_eq!(world.call("POST", "/objects", &[], "just text").status, 400);
    assert_eq!(world.call("POST", "/objects", &[], "x".repeat(11 << 20)).status, 413);
    assert_eq!(world.call("POST", "/objects", &[], vec![b'a', 0xff]).status, 400);
}

#[test]
fn several_documents_are_one_change() {
    let world = World::start();
    let text = "name: s\nkind: HTTPServer\nport: 8080\nrules: [{paths: [{pathPrefix: /, backend: p}]}]\n---\nname: p\nkind: Pipeline\nfilters: [{name: m, kind: Mock, rules: []}]\n";
    let first = world.call("POST", "/objects", &[], text);
    assert_eq!(
        (first.status, first.warnings.len()),
        (201, 0),
        "a reference inside the body is no warning: {:?}",
        first.warnings
    );
    assert_eq!(world.call("POST", "/objects", &[], text).status, 400, "both exist");
    let again = world.call("POST", "/objects?apply=true", &[], text);
    assert_eq!((again.status, again.version), (200, first.version), "nothing changed: {}", again.text);
    assert_eq!(again.json()[0]["created"], false);

    let mixed = "name: q\nkind: Pipeline\nfilters: []\n---\nname: r\nkind: Nope\n---\nkind: Pipeline\n";
    let refused = world.call("POST", "/objects", &[], mixed);
    assert_eq!(refused.status, 400);
    assert!(
        refused.text.contains("r: kind") && refused.text.contains("document 3: name"),
        "all problems: {}",
        refused.text
    );
    assert_eq!(world.get("/objects/q").status, 404, "none of it was done");
    let twice = world.call(
        "POST",
        "/objects",
        &[],
        "name: z\nkind: Pipeline\nfilters: []\n---\nname: z\nkind: Pipeline\nfilters: []\n",
    );
    assert!(twice.status == 400 && twice.text.contains("twice"), "{}", twice.text);
    assert_eq!(world.call("POST", "/objects-check", &[], text).status, 200);
}

#[test]
fn unknown_keys_warn_and_strict_refuses() {
    let world = World::start();
    let body = json!({"name": "a", "kind": "Pipeline", "filters": [mock("one")], "flwo": [], "unkown\"key": 1});
    let strict = world.json("POST", "/objects?strict=true", body.clone());
    assert!(strict.status == 400 && strict.text.contains("flwo"), "{}", strict.text);
    let answer = world.json("POST", "/objects", body);
    assert_eq!(answer.status, 201);
    assert!(
        answer.warnings.iter().any(|w| w.starts_with("299 weir \"") && w.contains("flwo")),
        "{:?}",
        answer.warnings
    );
    let server = json!({"name": "s", "kind": "HTTPServer", "port": 8081, "rules": [{"paths": [{"backend": "later"}]}]});
    let answer = world.json("POST", "/objects", server);
    assert!(answer.status == 201 && answer.warnings[0].contains("later"), "{:?}", answer.warnings);
    let clash = json!({"name": "t", "kind": "HTTPServer", "port": 8081, "rules": []});
    let answer = world.json("POST", "/objects", clash);
    assert!(answer.status == 400 && answer.text.contains("taken by HTTPServer s"), "{}", answer.text);
}

#[test]
fn generated_pipelines_are_protected() {
    let world = World::start();
    let server = |port: u16| {
        json!({"name": "s", "kind": "HTTPServer", "port": 8082, "rules": [{"paths": [
        {"pathPrefix": "/", "backendPool": {"servers": [{"url": format!("http://127.0.0.1:{port}")}]}}]}]})
    };
    assert_eq!(world.json("POST", "/objects", server(1)).status, 201);
    let generated = world.get("/objects/GENERATED-s-0-0").json();
    assert_eq!(generated["labels"]["easegress/owner"], "HTTPServer:s");
    assert_eq!(world.json("DELETE", "/objects/GENERATED-s-0-0", Value::Null).status, 400);
    assert_eq!(world.json("PUT", "/objects/GENERATED-s-0-0", generated.clone()).status, 400);
    let mut bare = generated;
    bare.as_object_mut().unwrap().remove("labels");
    assert_eq!(world.json("PUT", "/objects/GENERATED-s-0-0", bare).status, 400, "even without a label");
    assert_eq!(world.json("PUT", "/objects/s", server(2)).status, 200);
    let url = &world.get("/objects/GENERATED-s-0-0").json()["filters"][0]["pools"][0]["servers"][0]["url"];
    assert_eq!(url, "http://127.0.0.1:2");
    assert_eq!(world.json("DELETE", "/objects/s", Value::Null).status, 200);
    assert_eq!(world.get("/objects/GENERATED-s-0-0").status, 404);
    assert_eq!(world.get("/objects").json(), json!([]));
}

#[test]
fn legacy_pipelines_are_translated() {
    let world = World::start();
    let v1 = json!({"name": "old", "kind": "HTTPPipeline", "filters": [{"name": "proxy", "kind": "Proxy",
        "mainPool": {"servers": [{"url": "http://127.0.0.1:9095"}], "loadBalance": {"policy": "roundRobin"}}}]});
    assert_eq!(world.json("POST", "/objects", v1.clone()).status, 201);
    assert_eq!(world.get("/objects/old").json()["kind"], "Pipeline");
    assert_eq!(world.json("PUT", "/objects/old", v1).status, 200);
}

/// What a controller makes of `space`, in the namespace `blue`.
fn in_blue(world: &World, names: &[&str]) {
    let labels = json!({"weir/namespace": "blue"});
    let made = |name: &&str| Document::new(json!({"name": name, "kind": "Pipeline", "made": true, "labels": labels}));
    let entry = Entry::new(json!({"name": "space", "kind": "MockNamespacer"}).into(), names.iter().map(made).collect());
    let put = Action::Put { mode: PutMode::Upsert, entries: vec![entry] };
    let until = Instant::now() + Duration::from_secs(60);
    // A cluster that was just founded rises to its level in a moment.
    while let Err(refusal) = world.wait(world.control.propose(put.clone())) {
        assert!(refusal.kind == RefusalKind::Unavailable && Instant::now() < until, "{refusal}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_is_written_in_another_namespace_changes_nothing() {
    let world = World::start();
    world.json("POST", "/objects", pipeline("a"));
    in_blue(&world, &["a"]);
    let before = world.get("/objects?all-namespaces=true").json();
    for (method, path, body) in [
        ("PUT", "/objects/a?namespace=blue", labelled("a", "user-api")),
        ("POST", "/objects?namespace=blue", pipeline("b")),
        ("POST", "/objects?apply=true&namespace=blue", labelled("a", "user-api")),
        ("DELETE", "/objects/a?namespace=blue", Value::Null),
        ("DELETE", "/objects?all=true&namespace=blue", Value::Null),
        ("DELETE", "/objects?namespace=ingresscontroller/ing&all=true", Value::Null),
        ("POST", "/rollback?namespace=blue", json!({"version": 1})),
    ] {
        let answer = world.json(method, path, body);
        assert_eq!(answer.status, 400, "{method} {path}: {}", answer.text);
        assert!(answer.text.contains("default") && answer.text.contains("controller"), "{}", answer.text);
        assert_eq!(world.get("/objects?all-namespaces=true").json(), before, "{method} {path}");
    }
    assert_eq!(world.json("DELETE", "/objects/a?namespace=default", Value::Null).status, 200);
    assert_eq!(world.get("/objects/a?namespace=blue").status, 200);
}

/// Makes a pipeline in the namespace `green`.
const GREEN: &str = r#"{"name": "green", "kind": "MockNamespacer", "namespace": "green",
    "pipelines": [{"name": "g", "filters": [{"name": "m", "kind": "Mock", "rules": [{"code": 200}]}]}]}"#;

#[test]
fn a_token_for_a_namespace_is_for_what_is_in_it() {
    let world = World::start();
    let until = Instant::now() + Duration::from_secs(60);
    let token = |name: &str, grant: Value| loop {
        let made = world.json("POST", "/tokens", json!({"name": name, "grants": [grant]}));
        if made.status != 503 {
            return made.json()["token"].as_str().unwrap_or_else(|| panic!("{}", made.text)).to_owned();
        }
        assert!(Instant::now() < until, "{}", made.text);
    };
    let blue = token("blue", json!({"role": "read", "kinds": ["Pipeline"], "namespaces": ["blue"]}));
    let own = token("own", json!({"role": "write", "namespaces": ["default"]}));
    let both = token("both", json!({"role": "write", "namespaces": ["default", "green"]}));
    let refused =
        world.json("POST", "/tokens", json!({"name": "x", "grants": [{"role": "read", "namespaces": ["a b"]}]}));
    assert!(refused.status == 400 && refused.text.contains("namespaces"), "{}", refused.text);
    world.json("POST", "/objects", pipeline("a"));
    in_blue(&world, &["a", "b"]);
    let ask = |token: &str, method: &str, path: &str, body: &str| {
        let bearer = format!("Bearer {token}");
        world.call(method, path, &[("authorization", &bearer), ("content-type", "application/json")], body)
    };
    let names = |token: &str, path: &str| -> Vec<String> {
        let list = ask(token, "GET", path, "").json();
        list.as_array().unwrap().iter().map(|object| object["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&blue, "/objects?namespace=blue"), ["a", "b"]);
    assert_eq!((names(&blue, "/objects"), names(&own, "/objects")), (Vec::new(), vec!["a".into(), "space".into()]));
    assert_eq!(names(&own, "/objects?namespace=blue"), Vec::<String>::new());
    for (token, method, path, body, status) in [
        (&blue, "GET", "/objects/a?namespace=blue", "", 200),
        (&blue, "GET", "/objects/a", "", 403),
        (&own, "GET", "/objects/a?namespace=blue", "", 403),
        (&own, "GET", "/objects/a", "", 200),
        (&own, "DELETE", "/objects/a", "", 200),
        (&blue, "DELETE", "/objects/space", "", 403),
        (&own, "POST", "/objects", GREEN, 403),
        (&both, "POST", "/objects", GREEN, 201),
        (&own, "GET", "/objects/g?namespace=green", "", 403),
        (&both, "GET", "/objects/g?namespace=green", "", 200),
        (&both, "DELETE", "/objects/green", "", 200),
        (&both, "GET", "/objects/g?namespace=green", "", 404),
        (&own, "DELETE", "/objects?all=true", "", 403),
        (&own, "POST", "/tokens", r#"{"name": "y", "grants": [{"role": "admin"}]}"#, 403),
    ] {
        let answer = ask(token, method, path, body);
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text);
    }
    let mut watch =
        Events::open(&world, "/objects?watch&all-namespaces=true", &format!("authorization: Bearer {blue}\r\n"));
    assert_eq!(watch.next().2["objects"].as_array().unwrap().len(), 2);
    world.json("POST", "/objects", pipeline("c"));
    in_blue(&world, &["a", "b", "c"]);
    let (_, _, told) = watch.next();
    assert_eq!((&told["puts"][0]["namespace"], told["puts"].as_array().unwrap().len()), (&json!("blue"), 1), "{told}");
}

#[test]
fn whoever_watches_all_namespaces_is_told_which() {
    let world = World::start();
    world.json("POST", "/objects", pipeline("a"));
    in_blue(&world, &["a"]);
    let mut all = Events::open(&world, "/objects?watch&all-namespaces=true", "");
    let (version, _, told) = all.next();
    let named = |list: &Value| -> Vec<(String, String)> {
        let word = |object: &Value, field: &str| object[field].as_str().unwrap_or("none").to_owned();
        let told = list.as_array().unwrap().iter();
        told.map(|told| (word(told, "namespace"), word(told.get("object").unwrap_or(told), "name"))).collect()
    };
    let pair = |space: &str, name: &str| (space.to_owned(), name.to_owned());
    assert_eq!(named(&told["objects"]), [pair("default", "a"), pair("blue", "a"), pair("default", "space")]);
    let mut blue = Events::open(&world, "/objects?watch&namespace=blue", "");
    assert_eq!(named(&blue.next().2["objects"]), [pair("none", "a")], "of one namespace it is known");
    in_blue(&world, &["b"]);
    let (_, _, told) = all.next();
    assert_eq!(named(&told["deletes"]), [pair("blue", "a")]);
    assert!(named(&told["puts"]).contains(&pair("blue", "b")), "{told}");
    let (_, _, told) = blue.next();
    assert_eq!((named(&told["deletes"]), named(&told["puts"])), (vec![pair("none", "a")], vec![pair("none", "b")]));
    let mut back = Events::open(&world, &format!("/objects?watch={version}&all-namespaces=true"), "");
    assert_eq!(named(&back.next().2["deletes"]), [pair("blue", "a")]);
    for path in ["/objects?watch&all-namespaces=true&namespace=blue", "/objects/a?watch&all-namespaces=true"] {
        let answer = world.get(path);
        assert_eq!(answer.status, 400, "{path}: {}", answer.text);
    }
}

#[test]
fn lists_namespaces_and_metadata() {
    let world = World::start();
    world.json("POST", "/objects", pipeline("a"));
    assert_eq!(world.get("/objects?namespace=&all-namespaces=false").json()[0]["name"], "a");
    assert_eq!(world.get("/objects?all-namespaces=true").json()["default"][0]["name"], "a");
    assert_eq!(world.get("/objects?namespace=mesh").json(), json!([]));
    assert_eq!(world.get("/objects/a?namespace=mesh").status, 404);
    assert_eq!(world.get("/objects?namespace=mesh&all-namespaces=true").status, 400);
    assert!(world.get("/object-kinds").json().as_array().unwrap().contains(&json!("HTTPServer")));
    let resources = world.get("/object-api-resources").json();
    let server = resources.as_array().unwrap().iter().find(|r| r["kind"] == "HTTPServer").unwrap();
    assert!(server["aliases"].as_array().unwrap().contains(&json!("hs")), "{server}");
    assert!(world.get("/objects-yaml/httpserver/mine").text.starts_with("name: mine\nkind: HTTPServer\n"));
    assert_eq!(world.get("/metadata/objects/pipeline/filters").json(), json!(["Mock", "Proxy"]));
    assert_eq!(world.get("/metadata/objects/pipeline/filters/Proxy/results").status, 200);
    assert_eq!(world.get("/metadata/objects/pipeline/filters/Nope/schema").status, 404);
    assert!(world.get("/metadata/explain/HTTPServer.port").text.contains("port"));
    assert!(world.get("").json().as_array().unwrap().iter().any(|g| g["group"] == "object"));
    for path in ["/healthz", "/about", "/metrics"] {
        assert_eq!(world.get(path).status, 200, "{path}");
    }
    assert_eq!(world.raw("GET", "/metrics", &[], "").text, world.get("/metrics").text);
    assert_eq!(world.raw("GET", "/apis/v1/objects/a", &[], "").status, 200);
    assert_eq!(world.json("DELETE", "/objects?all=true", Value::Null).status, 200);
    assert_eq!(world.get("/objects").json(), json!([]));
}

#[test]
fn custom_data_is_checked_first() {
    let world = World::start();
    let schema = json!({"type": "object", "properties": {"id": {"type": "string"}, "age": {"type": "integer"}}, "required": ["id", "age"]});
    let kind = json!({"name": "k", "idField": "id", "jsonSchema": schema});
    for (label, method, path, body, status) in [
        ("kind", "POST", "/customdatakinds", kind.clone(), 201),
        ("kind again", "POST", "/customdatakinds", kind.clone(), 409),
        ("kind changed", "PUT", "/customdatakinds", kind, 200),
        ("bad schema", "POST", "/customdatakinds", json!({"name": "x", "jsonSchema": {"type": "nope"}}), 400),
        (
            "schema that reads files",
            "POST",
            "/customdatakinds",
            json!({"name": "x", "jsonSchema": {"$ref": "file:///etc/passwd"}}),
            400,
        ),
        ("bad name", "POST", "/customdatakinds", json!({"name": "a b"}), 400),
        ("unknown kind", "GET", "/customdata/nope", Value::Null, 404),
        ("unknown kind", "GET", "/customdatakinds/nope", Value::Null, 404),
        ("item", "POST", "/customdata/k", json!({"id": "a", "age": 1}), 201),
        ("item again", "POST", "/customdata/k", json!({"id": "a", "age": 1}), 409),
        ("wrong type", "POST", "/customdata/k", json!({"id": "b", "age": "old"}), 400),
        ("missing field", "POST", "/customdata/k", json!({"id": "b"}), 400),
        ("missing id", "POST", "/customdata/k", json!({"age": 2}), 400),
        ("put wrong type", "PUT", "/customdata/k", json!({"id": "a", "age": "old"}), 400),
        ("put ghost", "PUT", "/customdata/k", json!({"id": "z", "age": 1}), 404),
        ("item ghost", "GET", "/customdata/k/z", Value::Null, 404),
        (
            "batch",
            "POST",
            "/customdata/k/items",
            json!({"list": [{"id": "f", "age": 6}, {"id": "b", "age": "old"}]}),
            400,
        ),
        ("rebuild", "POST", "/customdata/k/items", json!({"rebuild": true, "list": [{"id": "b", "age": "old"}]}), 400),
    ] {
        let answer = world.json(method, path, body);
        assert_eq!(answer.status, status, "{label}: {}", answer.text);
    }
    let ids = || -> Vec<String> {
        world
            .get("/customdata/k")
            .json()
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids(), ["a"], "refusals changed nothing");
    let wrong = world.json("POST", "/customdata/k", json!({"id": "b", "age": "old"})).text;
    assert!(wrong.contains("/age") && wrong.contains("integer"), "{wrong}");
    assert_eq!(
        world
            .json(
                "POST",
                "/customdata/k/items",
                json!({"rebuild": true, "list": [{"id": "c", "age": 3}, {"id": "d", "age": 4}]})
            )
            .status,
        200
    );
    assert_eq!(ids(), ["c", "d"]);
    assert_eq!(
        world.json("POST", "/customdata/k/items", json!({"delete": ["c"], "list": [{"id": "e", "age": 5}]})).status,
        200
    );
    assert_eq!(ids(), ["d", "e"]);
    assert_eq!(world.get("/customdatakinds").json()[0]["len"], 2);
    assert_eq!(world.json("DELETE", "/customdata/k/d", Value::Null).status, 200);
    assert_eq!(world.json("DELETE", "/customdata/k/d", Value::Null).status, 404);
    assert_eq!(world.json("DELETE", "/customdatakinds/k", Value::Null).status, 200);
    assert_eq!(world.get("/customdata/k").status, 404);
}

#[test]
fn members_status_and_logs() {
    let world = World::start();
    world.json("POST", "/objects", pipeline("a"));
    let members = world.eventually("/status/members", |members| members.as_array().is_some_and(|m| m.len() == 1));
    assert_eq!(members[0]["options"]["Name"], "n1");
    assert_eq!(members[0]["etcd"]["state"], "Leader");
    assert!(members[0]["lastHeartbeatTime"].as_str().unwrap().starts_with("20"));
    assert_eq!(world.json("DELETE", "/status/members/ghost", Value::Null).status, 404);
    assert_eq!(world.json("DELETE", "/status/members/n1", Value::Null).status, 400, "the leader cannot purge itself");

    let status = world.get("/status/objects").json();
    assert_eq!(status["eg-traffic-default/a/n1"]["status"]["health"], "good");
    assert_eq!(world.get("/status/objects/a").json()["eg-traffic-default/a/n1"]["spec"]["kind"], "Pipeline");
    assert_eq!(world.get("/status/objects/ghost").status, 404);

    assert_eq!(world.get("/logs?tail=2").text, "line 2\nline 3\n");
    assert_eq!(world.get("/logs?tail=x").status, 400);
    assert_eq!(world.get("/logs/level").json()["level"], "info");
    assert_eq!(world.json("PUT", "/logs/level/debug", Value::Null).status, 200);
    assert_eq!(world.json("PUT", "/logs/level/loud", Value::Null).status, 400);
}

#[test]
fn profiles_are_written_into_files_of_their_own() {
    let world = World::start();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let paths = |cpu: &str, memory: &str| {
        let told = world.get("/profile").json();
        assert_eq!((told["cpuPath"].as_str().unwrap(), told["memoryPath"].as_str().unwrap()), (cpu, memory));
    };
    paths("", "");
    let start =
        |of: &str, path: &str| world.json("POST", &format!("/profile/start/{of}"), json!({"path": path})).status;
    let (cpu, memory) = (file("cpu"), file("memory"));
    assert_eq!((start("cpu", &cpu), start("memory", &memory)), (200, 200));
    paths(&cpu, &memory);
    // What is there stays as it is, and what runs goes on.
    std::fs::write(file("mine"), "mine").unwrap();
    for wrong in [file("mine"), cpu.clone(), file("none/x"), String::new()] {
        assert_eq!((start("cpu", &wrong), start("memory", &wrong)), (400, 400), "{wrong}");
    }
    paths(&cpu, &memory);
    assert_eq!(std::fs::read_to_string(file("mine")).unwrap(), "mine");
    // Another one ends the first.
    assert_eq!(start("cpu", &file("second")), 200);
    assert!(std::fs::read(&cpu).unwrap().windows(11).any(|text| text == b"nanoseconds"));
    assert_eq!(world.json("POST", "/profile/stop", Value::Null).status, 200);
    paths("", "");
    assert!(std::fs::read(file("second")).unwrap().windows(3).any(|text| text == b"cpu"));
    assert!(std::fs::read(&memory).unwrap().windows(19).any(|text| text == b"rest of the process"));
    assert_eq!(world.json("POST", "/profile/stop", Value::Null).status, 200, "nothing runs");
}

#[test]
fn pages_elsewhere_cannot_change_anything() {
    let world = World::start();
    let body = pipeline("a").to_string();
    let origin = [("origin", "https://evil.example")];
    assert_eq!(world.call("POST", "/objects", &origin, body.clone()).status, 403);
    assert_eq!(world.call("GET", "/objects", &origin, "").status, 200);
    let own = format!("http://{}", world.address);
    assert_eq!(world.call("POST", "/objects", &[("origin", &own)], body).status, 201);
}

fn pipeline(name: &str) -> Value {
    json!({"name": name, "kind": "Pipeline", "filters": [mock("one")]})
}

fn labelled(name: &str, owner: &str) -> Value {
    json!({"name": name, "kind": "Pipeline", "filters": [], "labels": {"easegress/owner": owner}})
}

fn mock(body: &str) -> Value {
    json!({"name": "mock", "kind": "Mock", "rules": [{"code": 200, "body": body}]})
}

/// Status of a machine is asked where it is; names that two machines share stay apart by the member's name.
#[test]
fn status_comes_from_every_machine() {
    let world = World::start();
    let _second = world.secondary("s1");
    world.json("POST", "/objects", pipeline("a"));
    let status = world.eventually("/status/objects/a", |status| status.as_object().is_some_and(|s| s.len() == 2));
    assert_eq!(status["eg-traffic-default/a/n1"]["status"]["health"], "good");
    assert_eq!(status["eg-traffic-default/a/s1"]["status"]["health"], "good");
    let members = world.get("/status/members").json();
    assert_eq!(members[1]["options"]["ClusterRole"], "secondary");
    assert_eq!(members[1]["weir"]["state"], "Follower");
}

/// The target is five seconds for 1,000 pipelines and 100 ms for one more change, in a release build on an idle machine.
#[test]
fn hundreds_of_objects_one_by_one() {
    let world = World::start();
    // The shortest of a hundred is not one that other work on the machine held up.
    let a_hundred = |from: usize| {
        let one = |n: usize| {
            let began = std::time::Instant::now();
            let answer = world.json("POST", "/objects", pipeline(&format!("p{n}")));
            assert_eq!(answer.status, 201, "{}", answer.text);
            began.elapsed()
        };
        (from..from + 100).map(one).min().expect("a hundred")
    };
    let (first, second, third) = (a_hundred(0), a_hundred(100), a_hundred(200));
    let one = std::time::Instant::now();
    assert_eq!(world.json("DELETE", "/objects/p7", Value::Null).status, 200);
    eprintln!("the shortest of each hundred {first:?}, {second:?}, {third:?}, one more change in {:?}", one.elapsed());
    assert!(third < 5 * first, "each takes longer the more there are: {first:?}, {second:?}, {third:?}");
}

/// Every path that can be asked, as the API lists them itself: what is added later is walked, too.
#[test]
fn no_path_answers_with_a_key() {
    let world = World::start();
    let made = rcgen::generate_simple_self_signed(vec!["shop.test".to_owned()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let marked = key.lines().nth(1).unwrap();
    let server = json!({
        "name": "s", "kind": "HTTPServer", "port": 443, "https": true, "certs": {"shop": chain}, "keys": {"shop": key},
        "rules": [],
    });
    assert_eq!(world.json("POST", "/objects", server.clone()).status, 201);
    let groups = world.get("").json();
    let entries = groups.as_array().unwrap().iter().flat_map(|group| group["entries"].as_array().unwrap());
    let asked: Vec<&str> =
        entries.filter(|entry| entry["method"] == "GET").map(|entry| entry["path"].as_str().unwrap()).collect();
    assert!(asked.len() > 15, "{asked:?}");
    for path in asked {
        let path = path.replace("{name}", "s").replace("{kind}", "HTTPServer").replace("{query}", "HTTPServer");
        for query in ["", "?all-namespaces=true"] {
            let shown = world.raw("GET", &format!("{path}{query}"), &[], "").text;
            assert!(!shown.contains(marked) && !shown.contains("PRIVATE KEY"), "{path}{query}: {shown}");
        }
    }
    let mut refused = server;
    refused["keys"]["shop"] = key.replace("END", "ENE").into();
    let refused = world.json("PUT", "/objects/s", refused);
    assert!(refused.status == 400 && !refused.text.contains(marked), "{}", refused.text);
}

#[test]
fn secrets_are_not_shown_and_survive_an_edit() {
    let world = World::start();
    let made = rcgen::generate_simple_self_signed(vec!["shop.test".to_owned()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let server = json!({
        "name": "s", "kind": "HTTPServer", "port": 443, "https": true, "certs": {"shop": chain}, "keys": {"shop": key},
        "rules": [],
    });
    assert_eq!(world.json("POST", "/objects", server.clone()).status, 201);
    for path in ["/objects", "/objects/s", "/objects?all-namespaces=true"] {
        let shown = world.get(path).text;
        assert!(shown.contains("DATA+OMITTED") && shown.contains("BEGIN CERTIFICATE"), "{shown}");
        assert!(!shown.contains("PRIVATE KEY"), "{shown}");
    }
    let mut edited = world.get("/objects/s").json();
    edited["port"] = 444.into();
    assert_eq!(world.json("PUT", "/objects/s", edited.clone()).status, 200);
    assert_eq!(world.json("POST", "/objects?apply=true", edited.clone()).status, 200);
    let stored = world.control.state().view.objects["s"].clone();
    assert_eq!((&stored["port"], &stored["keys"]["shop"]), (&444.into(), &key.into()));

    edited["name"] = "t".into();
    edited["port"] = 445.into();
    let refused = world.json("POST", "/objects", edited);
    assert_eq!(refused.status, 400, "{}", refused.text);
    assert!(refused.text.contains("keys.shop: DATA+OMITTED stands for a secret"), "{}", refused.text);
}

#[test]
fn a_change_of_what_was_changed_meanwhile_is_refused() {
    let world = World::start();
    let tag = |path: &str| world.get(path).etag.unwrap();
    let put = |n: u64, tag: &str| {
        let document = json!({"name": "a", "kind": "Pipeline", "filters": [mock(&n.to_string())]});
        world.call("PUT", "/objects/a", &[("if-match", tag)], document.to_string())
    };
    assert_eq!(world.json("POST", "/objects", pipeline("a")).status, 201);
    let first = tag("/objects/a");
    assert_eq!(world.json("POST", "/objects", pipeline("b")).status, 201);
    assert_eq!(tag("/objects/a"), first, "it is the object's own");
    let second = put(2, &first);
    assert_eq!(second.status, 200, "{}", second.text);
    let late = put(3, &first);
    assert_eq!((late.status, late.json()["code"].as_u64()), (412, Some(412)));
    assert!(late.text.contains("was changed in version") && late.text.contains("read it again"), "{}", late.text);
    let third = put(3, &second.etag.unwrap());
    assert_eq!(third.status, 200, "the tag of an answer is as good: {}", third.text);
    assert_eq!(put(4, "*").status, 200);
    assert_eq!(put(5, "\"not-ours\"").status, 412);
    let known = tag("/objects/a");
    let again = world.call("GET", "/objects/a", &[("if-none-match", &known)], "");
    assert_eq!((again.status, again.text.as_str()), (304, ""));

    let list = tag("/objects");
    let apply = |documents: &[Value], tag: &str| {
        let body = documents.iter().map(Value::to_string).collect::<Vec<_>>().join("\n---\n");
        world.call("POST", "/objects?apply=true", &[("if-match", tag), ("content-type", YAML)], body)
    };
    let two =
        |n: &str| [("a", n), ("b", n)].map(|(name, n)| json!({"name": name, "kind": "Pipeline", "filters": [mock(n)]}));
    assert_eq!(apply(&two("x"), &list).status, 200);
    let late = apply(&two("y"), &list);
    assert_eq!(late.status, 412, "{}", late.text);
    assert!(world.get("/objects/b").text.contains("\"x\""), "all of it or nothing");

    let delete = |tag: &str| world.call("DELETE", "/objects/a", &[("if-match", tag)], "").status;
    assert_eq!(delete(&known), 412);
    assert_eq!(delete(&tag("/objects/a")), 200);
    assert_eq!(put(6, &tag("/objects")).status, 404, "he knows that it is gone");
    assert_eq!(put(6, &known).status, 412, "he does not");
    assert_eq!(world.json("PUT", "/objects/b", pipeline("b")).status, 200, "without If-Match the last one counts");
}

#[test]
fn a_change_of_everything_looks_at_versions_and_where_none_are_looked_at_it_is_said() {
    let world = World::start();
    assert_eq!(world.json("POST", "/objects", pipeline("a")).status, 201);
    let seen = world.get("/objects").etag.unwrap();
    let version = seen.trim_matches('"').to_owned();
    assert_eq!(world.json("POST", "/objects", pipeline("b")).status, 201);
    let call = |method: &str, path: &str, tag: &str| world.call(method, path, &[("if-match", tag)], "");
    let back = format!("/rollback?version={version}");
    for (method, path) in [("POST", back.as_str()), ("DELETE", "/objects?all=true")] {
        for tag in [seen.as_str(), "\"not-ours\""] {
            let late = call(method, path, tag);
            assert_eq!(late.status, 412, "{method} {path} {tag}: {}", late.text);
        }
    }
    assert_eq!(world.get("/objects").json().as_array().map(Vec::len), Some(2));
    let now = world.get("/objects").etag.unwrap();
    assert_eq!(call("POST", &back, &now).status, 200);
    assert_eq!(world.get("/objects").json().as_array().map(Vec::len), Some(1));
    assert_eq!(call("DELETE", "/objects?all=true", &world.get("/objects").etag.unwrap()).status, 200);

    let refused = world.call("DELETE", "/status/members/n9", &[("if-match", "\"1\"")], "");
    assert_eq!(refused.status, 412, "{}", refused.text);
    assert!(refused.text.contains("accepted for /objects"), "{}", refused.text);
}

#[test]
fn custom_data_that_was_changed_meanwhile_is_not_written_over() {
    let world = World::start();
    let item = |n: u64| json!({"name": "x", "n": n}).to_string();
    assert_eq!(world.json("POST", "/customdatakinds", json!({"name": "k"})).status, 201);
    assert_eq!(world.json("POST", "/customdatakinds", json!({"name": "kk"})).status, 201);
    assert_eq!(world.json("POST", "/customdata/k", json!({"name": "x", "n": 1})).status, 201);
    assert_eq!(world.json("POST", "/customdata/k", json!({"name": "y/z", "n": 1})).status, 201);
    let call = |method: &str, path: &str, tag: &str, body: &str| {
        world.call(method, path, &[("if-match", tag)], body.to_owned())
    };
    let tag = |path: &str| world.get(path).etag.unwrap_or_else(|| panic!("{path} has no ETag"));
    let seen = ["/customdatakinds/k", "/customdata/k", "/customdata/k/x"].map(tag);
    assert_eq!(world.json("PUT", "/customdata/kk", json!({"name": "x"})).status, 404);
    assert_eq!(
        world.json("POST", "/customdata/kk", json!({"name": "x"})).status,
        201,
        "another kind's data is another's"
    );
    let known = world.call("GET", "/customdata/k/x", &[("if-none-match", seen[2].as_str())], "");
    assert_eq!(known.status, 304);

    let done = call("PUT", "/customdata/k", &seen[2], &item(2));
    assert_eq!((done.status, done.etag), (200, Some(tag("/customdata/k/x"))));
    let renamed = json!({"name": "k", "jsonSchema": {"type": "object"}}).to_string();
    for (method, path, tag, body) in [
        ("PUT", "/customdata/k", &seen[2], item(3)),
        ("DELETE", "/customdata/k/x", &seen[2], String::new()),
        ("POST", "/customdata/k/items", &seen[1], json!({"rebuild": true, "list": []}).to_string()),
        ("DELETE", "/customdata/k", &seen[1], String::new()),
        ("DELETE", "/customdatakinds/k", &seen[0], String::new()),
        ("PUT", "/customdata/k", &"\"999\"".to_owned(), item(3)),
        ("PUT", "/customdata/k", &"\"not-ours\"".to_owned(), item(3)),
        ("POST", "/customdata/k", &seen[2], json!({"name": "never"}).to_string()),
        ("DELETE", "/customdata/k/never", &seen[2], String::new()),
        ("PUT", "/customdatakinds", &seen[2], json!({"name": "never"}).to_string()),
    ] {
        let late = call(method, path, tag, &body);
        assert_eq!(late.status, 412, "{method} {path} {tag}: {}", late.text);
        let advice = ["read it again", "without If-Match", "leave the header out"];
        assert!(advice.iter().any(|advice| late.text.contains(advice)), "{}", late.text);
    }
    assert_eq!(world.get("/customdata/k/x").json()["n"], 2);
    assert_eq!(world.get("/customdata/k").json().as_array().map(Vec::len), Some(2));

    // The kind itself is as it was seen, and what is seen now may be changed.
    assert_eq!(call("PUT", "/customdatakinds", &seen[0], &renamed).status, 200);
    assert_eq!(call("PUT", "/customdatakinds", &seen[0], &renamed).status, 412);
    assert_eq!(call("DELETE", "/customdata/k/x", &tag("/customdata/k/x"), "").status, 200);
    assert_eq!(call("DELETE", "/customdata/k", &seen[1], "").status, 412, "one is gone");
    assert_eq!(call("POST", "/customdata/k/items", &tag("/customdata/k"), r#"{"list": [{"name": "w"}]}"#).status, 200);
    assert_eq!(call("DELETE", "/customdatakinds/k", &tag("/customdatakinds/k"), "").status, 200);
    assert_eq!(world.json("POST", "/customdatakinds", json!({"name": "k"})).status, 201);
    assert_eq!(world.get("/customdata/k").json(), json!([]));
    assert_eq!(world.get("/customdata/kk/x").status, 200);
}

#[test]
fn of_servers_for_one_port_that_come_together_one_stays() {
    let world = World::start();
    for turn in 0..8 {
        let answers: Vec<u16> = std::thread::scope(|scope| {
            let one = |n: u16| {
                let world = &world;
                scope.spawn(move || {
                    let document = json!({"name": format!("s{turn}-{n}"), "kind": "HTTPServer", "port": 20_000 + turn});
                    let url = format!("http://{}/apis/v2/objects", world.address);
                    let client = control_api::client::Client::default();
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    let body = document.to_string();
                    let call =
                        client.call("POST".parse().unwrap(), &url, &[], body, std::time::Duration::from_secs(30));
                    runtime.block_on(call).unwrap().status.as_u16()
                })
            };
            let all: Vec<_> = (0..4).map(one).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let mut sorted = answers.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [201, 400, 400, 400], "turn {turn}");
    }
    let servers = world.get("/objects").json();
    assert_eq!(servers.as_array().unwrap().len(), 8);
}

#[test]
fn what_is_there_already_writes_nothing_to_the_log() {
    let world = World::start();
    let text = "x".repeat(100_000);
    let document = json!({"name": "a", "kind": "Pipeline", "filters": [mock(&text)]});
    let apply = || world.json("POST", "/objects?apply=true", document.clone());
    assert_eq!(apply().json()[0]["created"], true);
    let tag = || world.get("/objects/a").etag;
    let (written, before) = (tag(), world.control.metrics().log_bytes);
    for _ in 0..20 {
        let again = apply();
        assert_eq!((again.status, &again.json()[0]["created"]), (200, &json!(false)));
        assert_eq!(world.json("PUT", "/objects/a", document.clone()).status, 200);
    }
    let shown = world.get("/objects/a").text;
    assert_eq!(world.call("PUT", "/objects/a", &[], shown).status, 200, "as it is shown");
    let grown = world.control.metrics().log_bytes - before;
    assert!(tag() == written && grown < 50_000, "{grown} bytes");
    assert_eq!(world.json("POST", "/objects", document.clone()).status, 409);
    assert_eq!(world.json("PUT", "/objects/a", pipeline("a")).status, 200);
    assert_ne!(tag(), written);
}

#[test]
fn thousands_of_documents_are_one_request() {
    let world = World::start();
    let all: Vec<String> = (0..1_500).map(|n| pipeline(&format!("p{n}")).to_string()).collect();
    let answer = world.call("POST", "/objects", &[("content-type", YAML)], all.join("\n---\n"));
    assert_eq!(answer.status, 201, "{}", answer.text);
    assert_eq!(world.get("/objects").json().as_array().unwrap().len(), 1_500);
}

#[test]
fn deleting_what_others_name_says_so() {
    let world = World::start();
    for name in ["p", "q"] {
        world.json("POST", "/objects", pipeline(name));
    }
    let paths = json!([{"path": "/a", "backend": "p"}, {"path": "/b", "backend": "p"}, {"path": "/c", "Backend": "q"}]);
    let server = json!({"name": "s", "kind": "HTTPServer", "port": 20_000, "rules": [{"paths": paths}]});
    assert_eq!(world.json("POST", "/objects", server).status, 201);
    let gone = world.json("DELETE", "/objects/p", Value::Null);
    assert_eq!(gone.status, 200);
    assert!(gone.warnings[0].contains("HTTPServer s: 2 routes lead to Pipeline p"), "{:?}", gone.warnings);
    let gone = world.json("DELETE", "/objects/q", Value::Null);
    assert!(gone.warnings[0].contains("HTTPServer s: a route leads to Pipeline q"), "{:?}", gone.warnings);
    assert_eq!(world.json("DELETE", "/objects/s", Value::Null).warnings, Vec::<String>::new());
}

#[test]
fn former_versions_are_seen_and_gone_back_to() {
    let world = World::start();
    let put = |n: &str| json!({"name": "a", "kind": "Pipeline", "filters": [mock(n)]});
    let first = world.json("POST", "/objects", put("one")).version;
    let second = world.json("PUT", "/objects/a", put("two")).version;
    world.json("DELETE", "/objects/a", Value::Null);
    let at = |version: u64| world.get(&format!("/objects/a?version={version}"));
    assert!(at(first).text.contains("one") && at(second).text.contains("two"));
    assert_eq!(world.get(&format!("/objects?version={first}")).json().as_array().unwrap().len(), 1);
    assert_eq!(world.get("/objects").json(), json!([]));
    assert_eq!((at(100_000).status, world.get("/objects/a?version=x").status), (404, 400));
    let history = world.get("/history?name=a").json();
    let words: Vec<&str> =
        history.as_array().unwrap().iter().map(|c| c["objects"][0]["change"].as_str().unwrap()).collect();
    assert_eq!(words, ["deleted", "changed", "created"]);
    let back = world.json("POST", &format!("/rollback?version={first}"), Value::Null);
    assert_eq!(back.status, 200, "{}", back.text);
    assert!(world.get("/objects/a").text.contains("one"));
    assert_eq!(world.json("POST", "/rollback", Value::Null).status, 400);
    let follower = world.secondary("s1");
    assert!(!follower.state().view.objects.is_empty() || follower.name() == "s1");
}

/// What is told, event by event: id, event, data.
struct Events {
    reader: std::io::BufReader<std::net::TcpStream>,
    head: String,
}

impl Events {
    fn open(world: &World, path: &str, headers: &str) -> Events {
        use std::io::{BufRead, Write};
        let mut stream = std::net::TcpStream::connect(world.address).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
        write!(stream, "GET /apis/v2{path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n").unwrap();
        let mut reader = std::io::BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
        }
        Events { reader, head: head.to_ascii_lowercase() }
    }

    /// The next that has data.
    fn next(&mut self) -> (u64, String, Value) {
        use std::io::BufRead;
        let (mut id, mut event, mut data) = (0, String::new(), String::new());
        loop {
            let mut line = String::new();
            assert!(self.reader.read_line(&mut line).unwrap() > 0, "the stream ended");
            // Sizes of chunks are lines of their own.
            let line = line.trim_end();
            if let Some(text) = line.strip_prefix("id: ") {
                id = text.parse().unwrap();
            } else if let Some(text) = line.strip_prefix("event: ") {
                event = text.to_owned();
            } else if let Some(text) = line.strip_prefix("data: ") {
                data.push_str(text);
                if let Ok(value) = serde_json::from_str(&data) {
                    return (id, event, value);
                }
            }
        }
    }
}

#[test]
fn whoever_watches_is_told_of_every_change_and_goes_on_where_it_was() {
    let world = World::start();
    world.json("POST", "/objects", pipeline("a"));
    let mut all = Events::open(&world, "/objects?watch", "");
    assert!(
        all.head.starts_with("http/1.1 200") && all.head.contains("content-type: text/event-stream"),
        "{}",
        all.head
    );
    let (first, event, told) = all.next();
    assert_eq!(
        (event.as_str(), &told["objects"][0]["name"], &told["version"]),
        ("objects", &json!("a"), &json!(first))
    );
    assert_eq!(told["objects"].as_array().unwrap().len(), 1);
    let mut one = Events::open(&world, "/objects/b?watch=true", "");
    assert_eq!(one.next().2["objects"], json!([]), "it need not be there yet");

    let put = world.json("POST", "/objects", pipeline("b")).version;
    let (id, event, told) = all.next();
    assert_eq!((id, event.as_str(), &told["puts"][0]["name"]), (put, "change", &json!("b")));
    assert_eq!(told["deletes"], json!([]));
    assert_eq!(one.next().2["puts"][0]["name"], "b");
    world.json("DELETE", "/objects/a", Value::Null);
    assert_eq!(all.next().2["deletes"], json!([{"name": "a", "kind": "Pipeline"}]));
    let last = world.json("DELETE", "/objects/b", Value::Null).version;
    assert_eq!(one.next().2["deletes"], json!([{"name": "b", "kind": "Pipeline"}]), "nothing was told of another");

    let mut back = Events::open(&world, &format!("/objects?watch={first}"), "");
    let (id, event, told) = back.next();
    assert_eq!((id, event.as_str()), (last, "change"));
    let gone: Vec<&Value> = told["deletes"].as_array().unwrap().iter().map(|gone| &gone["name"]).collect();
    assert_eq!((gone, &told["puts"]), (vec![&json!("a"), &json!("b")], &json!([])), "in one step");
    let mut browser = Events::open(&world, "/objects?watch", &format!("last-event-id: {put}\r\n"));
    assert_eq!(browser.next().2["deletes"].as_array().unwrap().len(), 2);

    for (path, status) in [
        ("/objects?watch=-1", 400),
        ("/objects?watch=soon", 400),
        ("/objects?watch&version=1", 400),
        ("/objects?watch=false", 200),
        ("/objects/a?watch=false", 404),
    ] {
        let answer = world.get(path);
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
    }
    assert_eq!(world.get("/objects?watch=999999").status, 410, "what is not there yet");
}

#[test]
fn a_watch_tells_what_the_caller_may_read_and_ends_with_its_token() {
    let world = World::start();
    let token = |name: &str, kind: &str| {
        let grants = json!([{"role": "read", "kinds": [kind]}]);
        let made = world.json("POST", "/tokens", json!({"name": name, "grants": grants}));
        made.json()["token"].as_str().unwrap().to_owned()
    };
    world.json("POST", "/objects", pipeline("a"));
    let login = format!("authorization: Bearer {}\r\n", token("servers", "HTTPServer"));
    let mut watch = Events::open(&world, "/objects?watch", &login);
    let (before, _, told) = watch.next();
    assert_eq!(told["objects"], json!([]));
    world.json("POST", "/objects", pipeline("b"));
    world.json("DELETE", "/objects/a", Value::Null);
    world.json("POST", "/objects", json!({"name": "s", "kind": "HTTPServer", "port": 8081}));
    let (_, event, told) = watch.next();
    assert_eq!((event.as_str(), &told["puts"][0]["name"], &told["deletes"]), ("change", &json!("s"), &json!([])));
    let mut back = Events::open(&world, &format!("/objects?watch={before}"), &login);
    let (_, _, told) = back.next();
    assert_eq!((told["puts"].as_array().unwrap().len(), &told["deletes"]), (1, &json!([])));
    world.json("DELETE", "/tokens/servers", Value::Null);
    for watch in [&mut watch, &mut back] {
        let (_, event, told) = watch.next();
        assert_eq!((event.as_str(), &told["code"]), ("end", &json!(401)));
    }
}

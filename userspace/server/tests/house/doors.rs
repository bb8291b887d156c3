//! The doors of a running daemon: what is open, to whom, and what is said when it is not.

use crate::cluster::{ADDRESSES, in_a_network, three};
use crate::world::{Connection, Machine, eventually, free_port, mock, server, weir};
use serde_json::json;
use std::fs;

/// Stands for a private key.
const MARK: &str = "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0t";

#[test]
fn peers_beyond_this_machine_take_a_secret() {
    for flags in [
        &["--listen-peer-urls", "http://0.0.0.0:2380"][..],
        &["--name", "n1", "--initial-cluster", "n1=http://127.0.0.1:2380,n2=http://192.0.2.1:2380"],
        &["--cluster-role", "secondary", "--primary-listen-peer-urls", "http://192.0.2.1:2380"],
    ] {
        for verb in ["run", "check-config"] {
            let (code, _, told) = weir(&[&[verb], flags].concat());
            assert_eq!(code, 2, "{flags:?}: {told}");
            for part in [flags[flags.len() - 2], "--cluster-secret-file", "--insecure-peers", "https://"] {
                assert!(told.contains(part), "{part} is not in {told}");
            }
        }
    }
    let (code, _, told) = weir(&["--cluster-secret-file", "/nowhere/secret"]);
    assert!(code == 2 && told.contains("--cluster-secret-file /nowhere/secret: No such file"), "{code}: {told}");
}

#[test]
fn the_peer_port_of_one_machine_tells_strangers_nothing() {
    let machine = Machine::start();
    machine.create(&mock("pl", "hidden-text"));
    let at = format!("127.0.0.1:{}", machine.peer);
    let ask = |method: &str, path: &str, headers: &[(&str, &str)], body: &str| {
        Connection::open(&at).unwrap().request(method, path, headers, body).unwrap()
    };
    let answer = ask("GET", "/watch", &[], "");
    assert!((401..=403).contains(&answer.status) && !answer.body.contains("hidden-text"), "{answer:?}");
    let delete = json!({"request": 1, "now": "2026-01-01T00:00:00Z", "action": "deleteAll"}).to_string();
    let named =
        [("x-weir-cluster", "eg-cluster-default-name"), ("x-weir-from", "x"), ("content-type", "application/json")];
    let from_a_page = [named[0], named[1], named[2], ("origin", "http://evil.example")];
    assert_eq!(ask("POST", "/raft/propose", &from_a_page, &delete).status, 403);
    assert_eq!(machine.api("GET", "/objects/pl", "").status, 200, "it is still there");
    assert!(machine.metric("weir_peer_calls_refused_total").is_some());
}

/// Whoever may write a Proxy does not speak as this machine by it.
#[test]
fn no_traffic_is_led_to_the_peer_port() {
    let machine = Machine::start();
    let port = free_port();
    for (n, host) in ["127.0.0.1", "127.0.0.2", "localhost", "'[::ffff:127.0.0.1]'"].into_iter().enumerate() {
        let url = format!("http://{}:{}", host.trim_matches('\''), machine.peer);
        let named = "header: {set: {x-weir-cluster: eg-cluster-default-name, x-weir-from: x}}";
        machine.create(&format!(
            "kind: Pipeline\nname: p{n}\nfilters:\n- {{name: a, kind: RequestAdaptor, {named}}}\n\
             - {{name: proxy, kind: Proxy, pools: [{{servers: [{{url: '{url}'}}]}}]}}\n"
        ));
    }
    let paths: Vec<String> =
        (0..4).map(|n| format!("{{pathPrefix: /{n}/, rewriteTarget: /, backend: p{n}}}")).collect();
    machine.create(&format!("kind: HTTPServer\nname: s\nport: {port}\nrules: [{{paths: [{}]}}]\n", paths.join(", ")));
    for n in 0..4 {
        let answer = eventually("it listens", || {
            Connection::open(&format!("127.0.0.1:{port}")).ok()?.request("GET", &format!("/{n}/watch"), &[], "").ok()
        });
        assert_eq!(answer.status, 503, "{n}: {answer:?}");
    }
}

#[test]
fn the_admin_api_stays_here_unless_somebody_logs_in() {
    for address in ["0.0.0.0:2381", ":2381", "[::]:2381", "localhost:2381,0.0.0.0:2382"] {
        let (code, _, told) = weir(&["--api-addr", address]);
        assert_eq!(code, 2, "{address}: {told}");
        for part in ["--api-addr", "--client-ca-file", "basic-auth", "--insecure-api"] {
            assert!(told.contains(part), "{part} is not in {told}");
        }
    }
}

#[test]
fn who_changed_what_is_written_down() {
    let machine = Machine::new("m1");
    let config = machine.directory.join("weir.yaml");
    fs::write(&config, "basic-auth: {ann: a-marked-password}\n").unwrap();
    let mut machine = machine.flags(["-f", config.to_str().unwrap(), "--log-dir", "log"]);
    machine.spawn();
    let ask = |authorization: &str, method: &str, path: &str, body: &str| {
        let mut connection = Connection::open(&format!("127.0.0.1:{}", machine.api)).ok()?.by_address();
        connection.request(method, &format!("/apis/v2{path}"), &[("authorization", authorization)], body).ok()
    };
    let ann = "Basic YW5uOmEtbWFya2VkLXBhc3N3b3Jk";
    eventually("it is ready", || (ask(ann, "GET", "/healthz", "")?.status == 200).then_some(()));
    assert_eq!(ask("", "GET", "/healthz", "").unwrap().status, 401);
    let made = ask(ann, "POST", "/tokens", "name: ci\ngrants: [{role: write, kinds: [Pipeline]}]\n").unwrap();
    assert_eq!(made.status, 201, "{made:?}");
    let made: serde_json::Value = serde_json::from_str(&made.body).unwrap();
    let token = made["token"].as_str().unwrap().to_owned();
    let bearer = format!("Bearer {token}");
    assert_eq!(ask(&bearer, "POST", "/objects", &mock("pl", "a-marked-body")).unwrap().status, 201);
    assert_eq!(ask(&bearer, "DELETE", "/objects?all=true", "").unwrap().status, 403);
    assert_eq!(ask(ann, "POST", "/objects", &server("hs", 0, "pl")).unwrap().status, 400, "nothing was proposed");
    let another = ask(&bearer, "POST", "/objects", &server("hs", 0, "pl")).unwrap();
    assert!(another.status == 403 && another.body.contains("HTTPServer"), "{another:?}");
    assert_eq!(ask(&bearer, "POST", "/objects-check", &server("hs", 0, "pl")).unwrap().status, 403);
    assert_eq!(ask(ann, "POST", "/customdata/none", "{a-marked: field}").unwrap().status, 404);
    assert_eq!(ask(ann, "DELETE", "/objects/pl", "").unwrap().status, 200);
    let read = || fs::read_to_string(machine.directory.join("log/audit.log")).unwrap_or_default();
    let lines = eventually("a line for each write", || {
        let lines: Vec<serde_json::Value> = read().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines.len() == 7).then_some(lines)
    });
    for (line, (kind, who, action, object)) in lines.iter().zip([
        ("user", "ann", "createToken", "Token/ci"),
        ("token", "ci", "put", "Pipeline/pl"),
        ("token", "ci", "deleteAll", ""),
        ("user", "ann", "put", "HTTPServer/hs"),
        ("token", "ci", "put", "HTTPServer/hs"),
        ("user", "ann", "POST", "/apis/v2/customdata/none"),
        ("user", "ann", "delete", "Pipeline/pl"),
    ]) {
        assert_eq!(
            (line["kind"].as_str(), line["who"].as_str(), line["action"].as_str()),
            (Some(kind), Some(who), Some(action))
        );
        assert_eq!((line["from"].as_str(), line["member"].as_str()), (Some("127.0.0.1"), Some("m1")));
        assert_eq!(line["objects"][0].as_str().unwrap_or_default(), object);
        assert!(line["version"].is_u64() != line["refused"].is_string(), "{line}");
    }
    // The secrets are in no log.
    let all = [read(), machine.log(), fs::read_to_string(machine.directory.join("log/stdout.log")).unwrap()].concat();
    for secret in ["a-marked", &token, "YW5uOm"] {
        assert!(!all.contains(secret), "{secret} is in {all}");
    }
}

#[test]
fn as_soon_as_there_is_a_token_other_machines_need_one() {
    if !in_a_network("doors::as_soon_as_there_is_a_token_other_machines_need_one") {
        return;
    }
    let mut machine = Machine::new("m1").at("n0", ADDRESSES[0]);
    machine.run();
    let ask = |authorization: &str, method: &str, path: &str, body: &str| {
        let mut connection = Connection::open(&format!("{}:{}", ADDRESSES[0], machine.api)).unwrap().by_address();
        connection.request(method, path, &[("authorization", authorization)], body).unwrap()
    };
    machine.create(&mock("pl", "x"));
    // Whoever asks would lock itself out.
    let refused = ask("", "POST", "/apis/v2/tokens", "name: ci\ngrants: [{role: write}]\n");
    assert!(refused.status == 409 && refused.body.contains("--role admin"), "{refused:?}");
    let token = |authorization: &str, body: &str| {
        let made = ask(authorization, "POST", "/apis/v2/tokens", body);
        assert_eq!(made.status, 201, "{made:?}");
        let made: serde_json::Value = serde_json::from_str(&made.body).unwrap();
        format!("Bearer {}", made["token"].as_str().unwrap())
    };
    let admin = token("", "name: ann\ngrants: [{role: admin}]\n");
    let look = token(&admin, "name: look\ngrants: [{role: read}]\n");
    for (method, path) in [
        ("GET", "/apis/v2/objects"),
        ("GET", "/apis/v1/objects/pl"),
        ("GET", "/apis/v2/healthz"),
        ("GET", "/apis/v2/tokens"),
        ("GET", "/metrics"),
        ("GET", "/"),
        ("POST", "/apis/v2/objects"),
        ("DELETE", "/apis/v2/objects?all=true"),
        ("POST", "/apis/v2/tokens"),
        ("GET", "/apis/v2/nowhere"),
    ] {
        let answer = ask("", method, path, &mock("other", "x"));
        assert!(answer.status == 401 && answer.body.contains("tokens"), "{method} {path}: {answer:?}");
    }
    assert_eq!(ask(&look, "GET", "/apis/v2/objects/pl", "").status, 200);
    assert_eq!(ask(&admin, "DELETE", "/apis/v2/objects/pl", "").status, 200);
    let refused = ask(&admin, "DELETE", "/apis/v2/tokens/ann", "");
    assert!(refused.status == 409 && refused.body.contains("the last"), "the last that may do everything: {refused:?}");
}

#[test]
fn a_name_pointed_at_the_machine_opens_no_door() {
    let machine = Machine::start();
    machine.create(&mock("pl", "hidden-text"));
    for (port, path) in [(machine.api, "/apis/v2/objects"), (machine.api, "/metrics"), (machine.peer, "/watch")] {
        let mut page = Connection::open(&format!("127.0.0.1:{port}")).unwrap();
        let named = [("x-weir-cluster", "eg-cluster-default-name"), ("x-weir-from", "x")];
        // It calls by the name of a site.
        let answer = page.request("GET", path, &named, "").unwrap();
        assert!(answer.status == 403 && !answer.body.contains("hidden-text"), "{path}: {answer:?}");
    }
}

#[test]
fn two_on_one_host_need_nothing_more() {
    let mut primary = Machine::new("p1").flags(["--no-edge"]);
    primary.run();
    let mut secondary =
        Machine::new("s1").flags(["--cluster-role", "secondary", "--primary-listen-peer-urls", &primary.peer_url()]);
    secondary.run();
    primary.create(&mock("pl", "x"));
    eventually("it follows", || (secondary.api("GET", "/objects/pl", "").status == 200).then_some(()));
}

#[test]
fn in_a_network_members_sign_and_strangers_get_nothing() {
    if !in_a_network("doors::in_a_network_members_sign_and_strangers_get_nothing") {
        return;
    }
    let machines = three();
    let key = json!({
        "name": "hs", "kind": "HTTPServer", "port": free_port(), "rules": [],
    });
    machines[0].create(&mock("pl", MARK));
    machines[0].create(&key.to_string());
    for at in ADDRESSES {
        let peer = machines.iter().find(|machine| machine.host == at).map_or(0, |machine| machine.peer);
        for headers in [&[][..], &[("x-weir-cluster", "eg-cluster-default-name"), ("x-weir-from", "m9")]] {
            let answer =
                Connection::open(&format!("{at}:{peer}")).unwrap().request("GET", "/watch", headers, "").unwrap();
            assert!((401..=403).contains(&answer.status) && !answer.body.contains(MARK), "{answer:?}");
        }
    }
    for machine in &machines {
        eventually("all report, over signed calls", || {
            let status = machine.json("/status/objects/pl");
            ["m1", "m2", "m3"].iter().all(|m| status[format!("eg-traffic-default/pl/{m}")].is_object()).then_some(())
        });
    }
}

#[test]
fn where_peers_are_insecure_private_keys_are_refused() {
    if !in_a_network("doors::where_peers_are_insecure_private_keys_are_refused") {
        return;
    }
    let mut machine = Machine::new("m1").at("n0", ADDRESSES[0]).insecure();
    machine.run();
    let certificates = rcgen::generate_simple_self_signed(vec!["shop.test".to_owned()]).unwrap();
    let document = json!({
        "name": "hs", "kind": "HTTPServer", "port": free_port(), "https": true, "rules": [],
        "certs": {"shop": certificates.cert.pem()}, "keys": {"shop": certificates.signing_key.serialize_pem()},
    });
    let refused = machine.api("POST", "/objects", &document.to_string());
    assert!(refused.status == 400 && refused.body.contains("--cluster-secret-file"), "{refused:?}");
    machine.create(&mock("pl", "x"));
}

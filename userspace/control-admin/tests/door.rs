//! Who gets into the admin API: TLS, client certificates, logins.

mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use control_admin::{Door, Logins};
use control_api::client::Client;
use control_api::tls::{ClientTrust, server_config};
use world::{Authority, World};

fn client(trust: ClientTrust) -> Client {
    Client::trusting(Duration::from_secs(60), &trust).unwrap()
}

fn answers(world: &World, client: &Client, headers: &[(&str, &str)]) -> Result<u16, String> {
    let url = format!("{}://{}/apis/v2/healthz", world.scheme, world.address);
    let call = client.call("GET".parse().unwrap(), &url, headers, "", Duration::from_secs(60));
    world.wait(call).map(|answer| answer.status.as_u16()).map_err(|error| error.reason)
}

#[test]
fn over_tls_the_server_is_verified() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let trusting = ClientTrust { authorities: Some(ours.pem.clone()), ..ClientTrust::default() };
    let door = Door { tls: Some(server_config(&ours.signs("127.0.0.1"), None).unwrap().into()), ..Door::default() };
    let world = World::behind(door, client(trusting.clone()));
    assert_eq!(world.get("/healthz").status, 200);
    assert!(world.admin.encrypted());

    let told = answers(&world, &client(ClientTrust { authorities: Some(others.pem), ..trusting }), &[]).unwrap_err();
    assert!(told.contains("invalid peer certificate"), "{told}");
    let blind = client(ClientTrust { skip_verify: true, ..ClientTrust::default() });
    assert_eq!(answers(&world, &blind, &[]), Ok(200));
    let plain = format!("http://{}/apis/v2/healthz", world.address);
    let call = blind.call("GET".parse().unwrap(), &plain, &[], "", Duration::from_secs(60));
    assert!(world.wait(call).is_err(), "it does not speak without TLS");
}

#[test]
fn a_certificate_for_another_name_is_not_believed() {
    let ours = Authority::new("ours");
    let trust = ClientTrust { authorities: Some(ours.pem.clone()), ..ClientTrust::default() };
    let door =
        Door { tls: Some(server_config(&ours.signs("elsewhere.test"), None).unwrap().into()), ..Door::default() };
    let world = World::behind(door, client(trust.clone()));
    let told = answers(&world, &client(trust), &[]).unwrap_err();
    assert!(told.contains("not valid for name"), "{told}");
}

#[test]
fn with_client_certificates_nobody_else_gets_in() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let trust = |identity| ClientTrust { authorities: Some(ours.pem.clone()), identity, ..ClientTrust::default() };
    let tls = server_config(&ours.signs("127.0.0.1"), Some(&ours.pem)).unwrap();
    let door = Door { tls: Some(tls.into()), client_certificates: true, ..Door::default() };
    let world = World::behind(door, client(trust(Some(ours.signs("operator")))));
    assert_eq!(world.get("/healthz").status, 200);
    for (who, identity) in [("nobody", None), ("a stranger", Some(others.signs("operator")))] {
        assert!(answers(&world, &client(trust(identity)), &[]).is_err(), "{who} got in");
    }
}

#[test]
fn a_page_that_pointed_its_name_here_gets_nothing() {
    let world = World::start();
    let open = Client::default();
    for (method, path) in [
        ("GET", "/apis/v2/objects"),
        ("POST", "/apis/v2/objects"),
        ("DELETE", "/apis/v2/objects?all=true"),
        ("GET", "/metrics"),
        ("GET", "/"),
    ] {
        let ask = |host: &str| {
            // Its origin is the very name it calls by.
            let origin = format!("http://{host}");
            let headers = [("host", host), ("origin", origin.as_str())];
            let url = format!("http://{}{path}", world.address);
            let call = open.call(method.parse().unwrap(), &url, &headers, "name: a", Duration::from_secs(60));
            let answer = world.wait(call).unwrap();
            (answer.status.as_u16(), String::from_utf8_lossy(&answer.body).into_owned())
        };
        for host in ["evil.example", "evil.example:2381", "127.0.0.1.evil.example", "localhost.evil.example:2381"] {
            let (status, told) = ask(host);
            assert!(status == 403 && told.contains("--api-names"), "{method} {path} as {host}: {status} {told}");
        }
        for host in ["localhost:2381", "127.0.0.1", "[::1]:2381"] {
            assert_ne!(ask(host).0, 403, "{method} {path} as {host}");
        }
    }
    let named = World::behind(Door { names: vec!["edge-1.example".to_owned()], ..Door::default() }, Client::default());
    assert_eq!(answers(&named, &open, &[("host", "edge-1.example:80")]), Ok(200));
    assert_eq!(answers(&named, &open, &[("host", "edge-2.example:80")]), Ok(403));
}

#[test]
fn without_a_login_it_is_not_opened_to_others() {
    let world = World::start();
    let serve = |door: Door| {
        let listeners = control_admin::bind("0.0.0.0:0").unwrap();
        world.wait(async { control_admin::Admin::serve(listeners, axum::Router::new(), door).map(drop) })
    };
    let told = serve(Door::default()).unwrap_err().to_string();
    for part in ["--api-addr 0.0.0.0:", "--client-ca-file", "basic-auth", "--insecure-api"] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    serve(Door { insecure: true, ..Door::default() }).unwrap();
    let logins = Logins::new(&BTreeMap::from([("ann".to_owned(), "secret".to_owned())]));
    serve(Door { logins: Some(logins), ..Door::default() }).unwrap();
}

#[test]
fn logins_are_asked_for_from_outside_alone() {
    let logins = Logins::new(&BTreeMap::from([("ann".to_owned(), "se:cret".to_owned()), ("bob".into(), "b".into())]));
    assert!(!format!("{logins:?}").contains("YW5"), "{logins:?}");
    let world = World::behind(Door { logins: Some(logins), ..Door::default() }, Client::default());
    let client = Client::default();
    // ann:se:cret, bob:b, bob:c
    for (value, status) in
        [("Basic YW5uOnNlOmNyZXQ=", 200), ("Basic Ym9iOmI=", 200), ("Basic Ym9iOmM=", 401), ("", 401)]
    {
        assert_eq!(answers(&world, &client, &[("authorization", value)]), Ok(status), "{value:?}");
    }
    assert_eq!(answers(&world, &client, &[]), Ok(401));
    let (status, _) = world.wait(world.switch.ask("GET".parse().unwrap(), "/apis/v2/healthz", String::new()));
    assert_eq!(status, 200, "the daemon creates its initial objects without a login");
}

#[test]
fn on_its_own_machine_nobody_logs_in_until_a_token_may_do_everything() {
    let world = World::start();
    let yaml = ("content-type", world::YAML);
    let make = |headers: &[(&str, &str)], name: &str, role: &str| {
        let made = world.call("POST", "/tokens", headers, format!("name: {name}\ngrants: [{{role: {role}}}]\n"));
        assert_eq!(made.status, 201, "{}", made.text);
        (format!("Bearer {}", made.json()["token"].as_str().unwrap()), made.warnings)
    };
    let (look, warnings) = make(&[yaml], "look", "read");
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(world.get("/tokens").status, 200, "nobody else could make tokens");
    let (admin, warnings) = make(&[yaml], "ann", "admin");
    assert!(warnings[0].contains("from now on"), "{warnings:?}");
    for (method, path) in [("GET", "/tokens"), ("GET", "/objects"), ("POST", "/objects"), ("GET", "/healthz")] {
        let refused = world.call(method, path, &[yaml], "name: a\nkind: Pipeline\n");
        assert!(refused.status == 401 && refused.text.contains("basic-auth"), "{method} {path}: {}", refused.text);
    }
    assert_eq!(world.call("GET", "/healthz", &[("authorization", &look)], "").status, 200);
    let (status, _) = world.wait(world.switch.ask("GET".parse().unwrap(), "/apis/v2/objects", String::new()));
    assert_eq!(status, 200, "the daemon itself needs none");
    let revoke = |token: &str, name: &str| {
        world.call("DELETE", &format!("/tokens/{name}"), &[("authorization", token)], "").status
    };
    assert_eq!(revoke(&admin, "ann"), 409, "then whoever is here could do everything again");
    assert_eq!((revoke(&admin, "look"), revoke(&admin, "ann")), (200, 200));
    assert_eq!(world.get("/tokens").json(), serde_json::json!([]));
}

#[test]
fn who_may_only_read_reads_no_secret() {
    let world = World::start();
    let yaml = ("content-type", world::YAML);
    let made = world.call("POST", "/tokens", &[yaml], "name: look\ngrants: [{role: read}]\n").json();
    let look = format!("Bearer {}", made["token"].as_str().unwrap());
    let certificate = rcgen::generate_simple_self_signed(vec!["shop.test".to_owned()]).unwrap();
    let (chain, secret) = (certificate.cert.pem(), certificate.signing_key.serialize_pem());
    let marked = secret.lines().nth(1).unwrap();
    for name in ["hs", "other"] {
        let server = serde_json::json!({
            "name": name, "kind": "HTTPServer", "port": 10080 + name.len(), "https": true, "rules": [],
            "certs": {"shop": chain}, "keys": {"shop": secret},
        });
        let made = world.json("POST", "/objects", server);
        assert_eq!(made.status, 201, "{}", made.text);
    }
    assert_eq!(world.call("DELETE", "/objects/other", &[], "").status, 200);
    let version = world.control.state().view.version - 1;
    let listed = world.raw("GET", "/apis/v2", &[], "").json();
    let places = listed.as_array().unwrap().iter().flat_map(|group| group["entries"].as_array().unwrap());
    let mut walked = 0;
    for place in places.filter(|place| place["method"] == "GET") {
        let path = place["path"].as_str().unwrap().trim_start_matches("/apis/v2").replace("{name}", "hs");
        for path in [path.clone(), format!("{path}?version={version}")] {
            let answer = world.call("GET", &path, &[("authorization", &look)], "");
            assert!(!answer.text.contains(marked), "{path}: {}", answer.text);
            assert!(!answer.text.contains(&look[7..]), "{path}");
            walked += 1;
        }
    }
    assert!(walked > 40, "{walked}");
    // What clients send is for who may do everything.
    let made = world.call("POST", "/tokens", &[yaml], "name: do\ngrants: [{role: write}]\n").json();
    let does = format!("Bearer {}", made["token"].as_str().unwrap());
    let answer = world.call("GET", "/capture?vip=shop", &[("authorization", &does)], "");
    assert!(answer.status == 403 && answer.text.contains("the role admin"), "{}", answer.text);
    for (path, body) in [
        ("/backup", ""),
        ("/backup", "passphrase: mine\n"),
        ("/restore?dryRun=true", "{}"),
        ("/member-tokens", ""),
        ("/rollback?version=1", ""),
    ] {
        let answer = world.call("POST", path, &[yaml, ("authorization", &look)], body);
        assert_eq!(answer.status, 403, "{path}: {}", answer.text);
    }
}

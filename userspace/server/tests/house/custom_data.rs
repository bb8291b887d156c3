//! What users keep in the cluster, asked with every request.

use crate::authentication::House;
use crate::world::{answers, eventually};
use serde_json::json;

fn put(house: &House, method: &str, path: &str, body: serde_json::Value) {
    let answer = house.machine.api(method, path, &body.to_string());
    assert!((200..300).contains(&answer.status), "{method} {path}: {answer:?}");
}

#[test]
fn what_users_keep_in_the_cluster_reaches_the_next_request() {
    let setters = "[{etcdKey: group, headerKey: X-Group}, {etcdKey: account, headerKey: X-Account}]";
    let mut house = House::with(&format!(
        "{{name: h, kind: HeaderLookup, headerKey: X-User, etcdPrefix: users/, pathRegExp: '^/api/([a-z]+)', headerSetters: {setters}}}"
    ));
    let told = |house: &House, path: &str, user: &str, group: &str| {
        let answer = house.request("GET", path, &[("X-User", user), ("X-Group", "root")], "");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(!answer.body.contains("root"), "nobody claims a group: {answer:?}");
        if group.is_empty() {
            !answer.body.contains("X-Group")
        } else {
            answer.body.contains(&format!("X-Group:[{group}]"))
        }
    };
    assert!(told(&house, "/", "ann", ""), "nothing is known yet");
    put(&house, "POST", "/customdatakinds", json!({"name": "users", "idField": "name"}));
    let items =
        json!({"list": [{"name": "ann", "group": "gold", "account": 17}, {"name": "ann-orders", "group": "buyer"}]});
    put(&house, "POST", "/customdata/users/items", items);
    eventually("ann has a group", || told(&house, "/", "ann", "gold").then_some(()));
    assert!(told(&house, "/api/orders/1", "ann", "buyer") && told(&house, "/", "bob", ""));
    assert!(house.request("GET", "/", &[("X-User", "ann")], "").body.contains("X-Account:[17]"));
    let version = house.machine.metric("weir_config_version");
    put(&house, "PUT", "/customdata/users", json!({"name": "ann", "group": "silver"}));
    eventually("the change is live", || told(&house, "/", "ann", "silver").then_some(()));
    assert!(house.machine.metric("weir_config_version") > version, "and no document was touched");
    // A machine serves by what it knew last, whatever has become of its control half.
    house.machine.kept("silver");
    house.machine.kill();
    let other = std::net::TcpListener::bind(("127.0.0.1", house.machine.peer)).unwrap();
    house.machine.spawn();
    answers(house.door, "/plain", 200);
    assert!(told(&house, "/", "ann", "silver"));
    drop(other);
    eventually("the control half is back", || {
        house.machine.try_api("GET", "/apis/v2/healthz", "").is_ok_and(|a| a.status == 200).then_some(())
    });
    put(&house, "DELETE", "/customdata/users/ann", json!(null));
    eventually("it is gone", || told(&house, "/", "ann", "").then_some(()));
}

#[test]
fn users_in_custom_data_get_in_while_they_are_there() {
    let house = House::with("{name: v, kind: Validator, basicAuth: {mode: ETCD, etcdPrefix: credentials/}}");
    // ann:myPassword, bob:myPassword
    let (ann, bob) = ("Basic YW5uOm15UGFzc3dvcmQ=", "Basic Ym9iOm15UGFzc3dvcmQ=");
    let status = |credentials: &str| house.ask(&[("Authorization", credentials), ("X-Auth-User", "root")]).status;
    assert_eq!((status(ann), status("")), (401, 401));
    put(&house, "POST", "/customdatakinds", json!({"name": "credentials", "idField": "id"}));
    let hash = "{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=";
    put(&house, "POST", "/customdata/credentials", json!({"id": "1", "username": "ann", "password": hash}));
    eventually("ann gets in", || (status(ann) == 200).then_some(()));
    assert!(house.ask(&[("Authorization", ann)]).body.contains("X-Auth-User:[ann]"));
    assert_eq!(status(bob), 401);
    put(&house, "PUT", "/customdata/credentials", json!({"id": "1", "key": "bob", "password": hash}));
    eventually("the item is bob's now", || (status(bob) == 200).then_some(()));
    assert_eq!(status(ann), 401);
    put(&house, "DELETE", "/customdata/credentials/1", json!(null));
    eventually("nobody is left", || (status(bob) == 401).then_some(()));
}

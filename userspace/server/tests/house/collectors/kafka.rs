//! Apache Kafka: as it is, and within TLS with users.

use super::{Guarded, STARTS, TRACE, ask, logged, numbers, on_disk, signal, until_told};
use crate::kafka::itself::Kafka;
use crate::leash::Leashed;
use crate::world::{Connection, Machine, eventually, free_port, get, server, within};
use serde_json::{Value, json};

/// Waits until these topics have so many lines, which are then in their order.
fn has(kafka: &Kafka, machine: &Machine, topics: &[&str], count: usize) {
    for topic in topics {
        let lines = || numbers(&kafka.holds(topic), "GET /n-");
        let there = within(STARTS, || (lines().len() >= count).then_some(()));
        assert!(there.is_some(), "{topic}: {:?}\n{}\n{}", lines(), machine.log(), kafka.said());
        assert_eq!(lines(), (0..count).collect::<Vec<_>>(), "{topic}: in their order");
    }
}

/// Nobody is there, and the daemon is killed; then Kafka is, hangs, is killed with what it was sent, and is there again.
fn away_hangs_and_killed(kafka: &Kafka, machine: &mut Machine, shop: u16, topics: &[&str]) -> Leashed {
    ask(shop, TRACE, 0..20);
    on_disk(machine, 20);
    machine.kill();
    machine.run();
    let running = kafka.start();
    has(kafka, machine, topics, 20);
    eventually("it serves again", || get(shop, "/up").ok());
    // It hangs for a while.
    signal(&running, "STOP");
    ask(shop, TRACE, 20..40);
    on_disk(machine, 20);
    signal(&running, "CONT");
    has(kafka, machine, topics, 40);
    // It hangs, and is killed with what it was sent.
    signal(&running, "STOP");
    ask(shop, TRACE, 40..60);
    drop(running);
    let running = kafka.start();
    ask(shop, TRACE, 60..80);
    has(kafka, machine, topics, 80);
    running
}

#[test]
fn kafka_takes_lines_also_those_it_was_killed_with() {
    let Some(kafka) = Kafka::new(None) else { return };
    let mut machine = Machine::new("m1").flags(["--disable-access=true", "--workers", "1"]);
    machine.run();
    let sink = json!({"kafka": {"brokers": [format!("127.0.0.1:{}", kafka.open)], "topic": "lines"}});
    let shop = logged(&machine, &[("log", sink)]);
    drop(away_hangs_and_killed(&kafka, &mut machine, shop, &["lines"]));
}

/// Brokers take lines of whom they know, by a certificate or by a password, and the others are told why not.
#[test]
fn kafka_takes_lines_within_tls_of_certificates_and_users_it_knows() {
    let guarded = Guarded::new();
    let Some(kafka) = Kafka::new(Some(&guarded)) else { return };
    let mut machine = Machine::new("m1").flags(["--disable-access=true", "--workers", "1"]);
    machine.run();
    let [known, unnamed, careful, strange] = guarded.mtls();
    let sink = |name: &str, port: u16, mtls: &Value, user: Option<(&str, &str)>| {
        let mut sink = json!({"brokers": [format!("127.0.0.1:{port}")], "topic": name});
        if !mtls.is_null() {
            sink["mtls"] = mtls.clone();
        }
        if let Some((mechanism, password)) = user {
            sink["sasl"] = json!({"mechanism": mechanism, "username": "edge", "password": password});
        }
        json!({"kafka": sink})
    };
    let (named, users) = (kafka.named, kafka.users);
    let good: &[(&str, Value)] = &[
        ("named", sink("named", named, &known, None)),
        ("plain", sink("plain", users, &unnamed, Some(("PLAIN", "secret-1")))),
        ("scram-256", sink("scram-256", users, &unnamed, Some(("SCRAM-SHA-256", "secret-2")))),
        ("scram-512", sink("scram-512", users, &unnamed, Some(("SCRAM-SHA-512", "secret-3")))),
    ];
    let bad: &[(&str, Value, &str)] = &[
        ("unnamed", sink("unnamed", named, &unnamed, None), "ertificate"),
        ("strange", sink("strange", named, &strange, None), "ertificate"),
        ("careful", sink("careful", named, &careful, None), "not signed by any of the authorities"),
        (
            "forgetful",
            sink("forgetful", users, &unnamed, Some(("SCRAM-SHA-512", "secret-2"))),
            "its password is not right",
        ),
        ("mistaken", sink("mistaken", users, &unnamed, Some(("PLAIN", "secret-3"))), "its password is not right"),
        ("nobody", sink("nobody", users, &unnamed, None), "it may want TLS (mtls), a user (sasl)"),
        ("open", sink("open", named, &Value::Null, None), "it may want TLS (mtls), a user (sasl)"),
    ];
    let mut sinks: Vec<(&str, Value)> = good.to_vec();
    sinks.extend(bad.iter().map(|(name, sink, _)| (*name, sink.clone())));
    let shop = logged(&machine, &sinks);
    let topics: Vec<&str> = good.iter().map(|(name, _)| *name).collect();
    let running = away_hangs_and_killed(&kafka, &mut machine, shop, &topics);
    for (name, _, why) in bad {
        until_told(&machine, name, why);
        assert_eq!(kafka.holds(name), "", "{name}");
    }
    // The filter that hands over bodies speaks to them alike.
    let filter = |user: &str, password: &str, sync: bool| {
        json!({
            "name": "k", "kind": "Kafka", "backend": [format!("127.0.0.1:{users}")], "topic": {"default": "events"}, "sync": sync,
            "mtls": unnamed, "sasl": {"username": user, "password": password},
        })
    };
    let posted = |password: &str| {
        let filter = filter("edge", password, true);
        let (name, port) = (format!("with-{password}"), free_port());
        machine.create(&json!({"kind": "Pipeline", "name": name, "filters": [filter]}).to_string());
        machine.create(&server(&format!("web-{password}"), port, &name));
        eventually("it answers", || {
            Connection::open(&format!("127.0.0.1:{port}")).and_then(|mut c| c.request("POST", "/", &[], "a body")).ok()
        })
    };
    let refused = posted("secret-2");
    assert_eq!(refused.status, 500);
    assert!(refused.body.contains("its password is not right"), "{}", refused.body);
    assert_eq!(posted("secret-3").status, 200);
    assert!(kafka.holds("events").contains("a body"));
    // A user is renamed while Kafka is away: what waits is sent as whom the document names by then.
    drop(running);
    let later = |user: &str, password: &str| {
        let then = json!({"name": "taken", "kind": "ResponseBuilder", "template": "statusCode: 202"});
        json!({"kind": "Pipeline", "name": "later", "filters": [filter(user, password, false), then]}).to_string()
    };
    let port = free_port();
    machine.create(&later("former", "secret-0"));
    machine.create(&server("web-later", port, "later"));
    let post = |number: usize| {
        let ask = Connection::open(&format!("127.0.0.1:{port}"));
        ask.and_then(|mut c| c.request("POST", "/", &[], &format!("later-{number}.")))
            .is_ok_and(|answer| answer.status == 202)
    };
    eventually("it answers", || post(0).then_some(()));
    (1..5).for_each(|number| assert!(post(number)));
    eventually("they are on disk", || machine.metric("weir_kafka_spooled_total").filter(|count| *count >= 5.0));
    machine.update("later", &later("edge", "secret-3"));
    let _running = kafka.start();
    let came = || kafka.holds("events").matches("later-").count();
    let there = within(STARTS, || (came() >= 5).then_some(()));
    assert!(there.is_some(), "{} came\n{}\n{}", came(), machine.log(), kafka.said());
    assert_eq!(numbers(&kafka.holds("events"), "later-"), (0..5).collect::<Vec<_>>(), "in their order");
    let shown = machine.api("GET", "/objects", "").body + &machine.log();
    assert!(!shown.contains("PRIVATE KEY") && !shown.contains("\"secret-"), "{shown}");
}

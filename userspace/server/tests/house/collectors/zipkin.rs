//! Zipkin's own server.

use super::{STARTS, TRACE, signal, start};
use crate::parts;
use crate::world::{Connection, Machine, eventually, free_port, get, proxy, server, within};
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

#[test]
fn zipkin_takes_spans_and_shows_them() {
    let Some((java, jar)) = parts::zipkin() else { return };
    let (port, shop, astray, nobody) = (free_port(), free_port(), free_port(), free_port());
    let machine = Machine::start();
    machine.create(&proxy("pl", &[format!("http://127.0.0.1:{nobody}")]));
    for (name, at, path) in [("web", shop, ""), ("astray", astray, "/api/v2/nowhere")] {
        let tracing = format!(
            "tracing: {{serviceName: edge, attributes: {{env: test}}, batchLimits: {{batchTimeout: 50}}, exporter: {{zipkin: {{endpoint: \
             'http://127.0.0.1:{port}{path}'}}}}}}\n"
        );
        machine.create(&format!("{}{tracing}", server(name, at, "pl")));
        eventually("it serves", || get(at, "/up").ok());
    }
    let asked_at = |at: u16, trace: &str| {
        let parent = format!("00-{trace}-00f067aa0ba902b7-01");
        let mut connection = Connection::open(&format!("127.0.0.1:{at}")).unwrap();
        assert_eq!(connection.request("GET", "/a?x=1", &[("traceparent", &parent)], "").unwrap().status, 503);
    };
    let asked = |trace: &str| asked_at(shop, trace);
    // It is not there yet.
    asked(TRACE);
    let directory = tempfile::tempdir().unwrap();
    let begin = || {
        let mut command = Command::new(&java);
        command.args(["-Xmx192m", "-XX:TieredStopAtLevel=1", "-jar"]).arg(&jar);
        command.env("QUERY_PORT", port.to_string()).env("STORAGE_TYPE", "mem");
        start(&mut command, &directory.path().join("out"))
    };
    let zipkin = begin();
    let shown = |trace: &str| {
        let answer = get(port, &format!("/api/v2/trace/{trace}")).ok().filter(|answer| answer.status == 200)?;
        serde_json::from_str::<Vec<Value>>(&answer.body).ok().filter(|spans| spans.len() >= 4)
    };
    let spans = within(STARTS, || shown(TRACE)).expect("Zipkin shows the trace");
    let find = |kind: &str| spans.iter().find(|span| span["kind"] == kind).unwrap();
    let (served, tried) = (find("SERVER"), find("CLIENT"));
    assert_eq!((&served["name"], &served["parentId"]), (&"web".into(), &"00f067aa0ba902b7".into()));
    assert_eq!((&served["localEndpoint"]["serviceName"], &served["tags"]["env"]), (&"edge".into(), &"test".into()));
    assert_eq!((&tried["remoteEndpoint"]["port"], &tried["tags"]["error"]), (&nobody.into(), &"connect".into()));
    assert_eq!(get(port, "/api/v2/services").unwrap().body, "[\"edge\"]");
    // It hangs for a while.
    signal(&zipkin, "STOP");
    let other = TRACE.replace("4bf9", "5bf9");
    asked(&other);
    std::thread::sleep(Duration::from_millis(500));
    signal(&zipkin, "CONT");
    assert!(within(STARTS, || shown(&other)).is_some(), "spans are kept while it hangs");
    // What it has no place for is dropped and counted.
    let refused = || machine.metric("weir_trace_spans_dropped_total{exporter=\"zipkin\",reason=\"refused\"}");
    asked_at(astray, TRACE);
    eventually("it refuses what went astray", || refused().filter(|spans| *spans > 0.0));
    // It hangs and is killed with what it was sent.
    signal(&zipkin, "STOP");
    let other = TRACE.replace("4bf9", "6bf9");
    asked(&other);
    std::thread::sleep(Duration::from_millis(500));
    drop(zipkin);
    let _zipkin = begin();
    assert!(within(STARTS, || shown(&other)).is_some(), "whoever comes next is sent what was not taken");
}

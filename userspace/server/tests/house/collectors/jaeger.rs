//! Jaeger: its own formats, and OpenTelemetry's over TLS.

use super::{Guarded, STARTS, TRACE, ask, signal, start, traced};
use crate::leash::Leashed;
use crate::parts;
use crate::world::{Machine, free_port, get, within};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// A Jaeger that speaks OpenTelemetry within TLS with who has a certificate of its authority, and its own formats with everybody.
struct Jaeger {
    program: PathBuf,
    directory: tempfile::TempDir,
    /// OpenTelemetry over gRPC and HTTP; Thrift over HTTP and in packets.
    grpc: u16,
    http: u16,
    thrift: u16,
    agent: u16,
    query: u16,
}

impl Jaeger {
    fn new(guarded: &Guarded) -> Option<Jaeger> {
        let program = parts::jaeger()?;
        let directory = tempfile::tempdir().unwrap();
        guarded.write(directory.path());
        let [grpc, http, thrift, agent, query] = [(); 5].map(|()| free_port());
        Some(Jaeger { program, directory, grpc, http, thrift, agent, query })
    }

    fn start(&self) -> Leashed {
        let mut command = Command::new(&self.program);
        let mut say = |name: &str, value: String| {
            command.arg(format!("--{name}={value}"));
        };
        let at = |port: u16| format!("127.0.0.1:{port}");
        say("collector.otlp.enabled", "true".to_owned());
        for (way, port) in [("grpc", self.grpc), ("http", self.http)] {
            say(&format!("collector.otlp.{way}.host-port"), at(port));
            say(&format!("collector.otlp.{way}.tls.enabled"), "true".to_owned());
            for (part, file) in [("cert", "cert.pem"), ("key", "key.pem"), ("client-ca", "ca.pem")] {
                let file = self.directory.path().join(file).display().to_string();
                say(&format!("collector.otlp.{way}.tls.{part}"), file);
            }
        }
        say("collector.http-server.host-port", at(self.thrift));
        say("processor.jaeger-compact.server-host-port", at(self.agent));
        say("query.http-server.host-port", at(self.query));
        for other in [
            "collector.grpc-server.host-port",
            "query.grpc-server.host-port",
            "admin.http.host-port",
            "http-server.host-port",
            "processor.jaeger-binary.server-host-port",
            "processor.zipkin-compact.server-host-port",
        ] {
            say(other, at(free_port()));
        }
        command.current_dir(self.directory.path());
        start(&mut command, &self.directory.path().join("out"))
    }

    fn said(&self) -> String {
        fs::read_to_string(self.directory.path().join("out")).unwrap_or_default()
    }

    /// Spans of a service in a trace, as its own view has them.
    fn shows(&self, service: &str, trace: &str) -> Option<Vec<Value>> {
        let answer = get(self.query, &format!("/api/traces/{trace}")).ok().filter(|answer| answer.status == 200)?;
        let mut shown: Value = serde_json::from_str(&answer.body).ok()?;
        let Value::Array(spans) = shown["data"][0]["spans"].take() else { return None };
        let processes = &shown["data"][0]["processes"];
        let is_of_it =
            |span: &Value| processes[span["processID"].as_str().unwrap_or_default()]["serviceName"] == service;
        let spans: Vec<Value> = spans.into_iter().filter(is_of_it).collect();
        (!spans.is_empty()).then_some(spans)
    }
}

/// Jaeger shows what came in its own formats, from us as from its own clients, and over TLS in OpenTelemetry's.
#[test]
fn jaeger_shows_spans_that_came_in_its_own_formats_and_over_tls() {
    let guarded = Guarded::new();
    let Some(jaeger) = Jaeger::new(&guarded) else { return };
    let exporters = guarded.exporters(jaeger.grpc, jaeger.http).into_iter();
    // It asks nobody for a password.
    let exporters = exporters.filter(|(name, _)| !name.starts_with("forgetful"));
    let mut exporters: Vec<_> = exporters.map(|(name, otlp)| (name, json!({"otlp": otlp}))).collect();
    let url = format!("http://127.0.0.1:{}/api/traces", jaeger.thrift);
    let agent = format!("127.0.0.1:{}", jaeger.agent);
    exporters.insert(2, ("thrift", json!({"jaeger": {"mode": "collector", "endpoint": url}})));
    exporters.insert(3, ("agent", json!({"jaeger": {"mode": "agent", "endpoint": agent}})));
    let machine = Machine::start();
    let ports = traced(&machine, &exporters);
    let trace_of = |n: usize| format!("{n}{}", &TRACE[1..]);
    let until_shown = |name: &str, trace: &str| {
        let shown = within(STARTS, || jaeger.shows(name, trace));
        shown.unwrap_or_else(|| panic!("{name}: {trace}: {}\n{}", machine.log(), jaeger.said()))
    };
    // It is not there yet.
    ports[..3].iter().for_each(|(_, port)| ask(*port, &trace_of(9), 0..1));
    let mut running = jaeger.start();
    for (name, _) in &ports[..3] {
        until_shown(name, &trace_of(9));
    }
    for (n, (name, port)) in ports.iter().enumerate() {
        ask(*port, &trace_of(n), 0..1);
        if n >= 4 {
            continue;
        }
        let spans = until_shown(name, &trace_of(n));
        let served = spans.iter().find(|span| span["operationName"] == *name).unwrap();
        let tag = |key: &str| {
            let tags = served["tags"].as_array().unwrap();
            tags.iter().find(|tag| tag["key"] == key).map(|tag| tag["value"].clone())
        };
        assert_eq!(tag("span.kind"), Some("server".into()), "{name}");
        assert_eq!(tag("http.response.status_code"), Some(200.into()), "{name}");
        assert_eq!(served["references"][0]["spanID"], "00f067aa0ba902b7", "{name}");
    }
    for (n, (name, _)) in ports.iter().enumerate().skip(4) {
        assert!(jaeger.shows(name, &trace_of(n)).is_none(), "{name}");
    }
    // It hangs for a while.
    signal(&running, "STOP");
    ports[..3].iter().for_each(|(_, port)| ask(*port, &trace_of(8), 0..1));
    std::thread::sleep(Duration::from_millis(500));
    signal(&running, "CONT");
    for (name, _) in &ports[..3] {
        until_shown(name, &trace_of(8));
    }
    // It hangs and is killed with what it was sent, and forgets what it had: whoever comes next is sent what it did not say that it has.
    signal(&running, "STOP");
    ports[..3].iter().for_each(|(_, port)| ask(*port, &trace_of(7), 0..1));
    std::thread::sleep(Duration::from_millis(500));
    drop(running);
    running = jaeger.start();
    for (name, _) in &ports[..3] {
        until_shown(name, &trace_of(7));
    }
    drop(running);
}

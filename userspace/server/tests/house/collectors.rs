//! Spans and lines with those who take them in the world. Each is away at first, hangs, is killed and comes back; the daemon is killed in
//! between. Reading order: what the tests share, then a file for each: rotel (OpenTelemetry), Jaeger, Zipkin, rsyslog, Kafka, VictoriaLogs.

mod jaeger;
mod kafka;
mod rotel;
mod rsyslog;
mod victoria_logs;
mod zipkin;

use crate::leash::Leashed;
use crate::world::{Connection, Machine, eventually, free_port, get, mock, server, within};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Starts a program whose output goes to the end of a file.
pub fn start(command: &mut Command, output: &Path) -> Leashed {
    let log = OpenOptions::new().create(true).append(true).open(output).unwrap();
    let errors = log.try_clone().unwrap();
    Leashed::start(command.stdin(Stdio::null()).stdout(log).stderr(errors)).unwrap()
}

fn signal(process: &Leashed, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &process.id().to_string()]).status().unwrap().success());
}

/// Asks for `/n-N` of each number, in one trace.
fn ask(port: u16, trace: &str, numbers: Range<usize>) {
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let mut connection = Connection::open(&format!("127.0.0.1:{port}")).unwrap();
    for number in numbers {
        let answer = connection.request("GET", &format!("/n-{number}"), &[("traceparent", &parent)], "").unwrap();
        assert_eq!(answer.status, 200);
    }
}

/// Waits until each sink of the machine has the lines of so many requests on its disk.
fn on_disk(machine: &Machine, count: usize) {
    let inside = |directory: &Path| -> Vec<PathBuf> {
        fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let lines = |sink: &PathBuf| {
        let files = inside(sink).into_iter().flat_map(|spool| inside(&spool));
        let files = files.filter(|file| file.extension().is_some_and(|extension| extension == "lines"));
        let text: Vec<u8> = files.filter_map(|file| fs::read(file).ok()).flatten().collect();
        numbers(&String::from_utf8_lossy(&text), "/n-").len()
    };
    let logs = machine.directory.join("data/logs");
    eventually("the lines are on the disk", || {
        let sinks: Vec<PathBuf> = inside(&logs).into_iter().filter(|path| path.is_dir()).collect();
        (!sinks.is_empty() && sinks.iter().all(|sink| lines(sink) >= count)).then_some(())
    });
}

/// The numbers after a mark in a text, in order; of those that came twice the first.
fn numbers(text: &str, mark: &str) -> Vec<usize> {
    let mut seen = Vec::new();
    for after in text.split(mark).skip(1) {
        let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
        if let Ok(number) = digits.parse()
            && !seen.contains(&number)
        {
            seen.push(number);
        }
    }
    seen
}

/// Waits until a sink says this of itself.
fn until_told(machine: &Machine, sink: &str, why: &str) {
    let health = || {
        let all = machine.json(&format!("/status/objects/{sink}"));
        all.as_object()?.values().find_map(|one| one["status"]["health"].as_str()).map(str::to_owned)
    };
    let told = within(STARTS, || health().filter(|health| health.contains(why)));
    assert!(told.is_some(), "{sink}: {why}: {:?}", health());
}

/// A server whose lines go to these sinks, each of which is only for it; its port.
fn logged(machine: &Machine, sinks: &[(&str, Value)]) -> u16 {
    machine.create(&mock("pl", "x"));
    for (name, sink) in sinks {
        let mut document = json!({"kind": "LogSink", "name": name});
        document.as_object_mut().unwrap().extend(sink.as_object().unwrap().clone());
        machine.create(&document.to_string());
    }
    let port = free_port();
    machine.create(&format!("{}accessLogFormat: 'GET {{{{URI}}}}'\n", server("web", port, "pl")));
    eventually("it serves", || get(port, "/up").ok());
    port
}

/// Java on a busy machine, and the longest pause between two tries.
pub const STARTS: Duration = Duration::from_secs(600);

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// An authority, and what it signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // One that has the name of its issuer is taken for its own issuer.
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Certificate and key, PEM.
    fn signs(&self, name: &str, purpose: ExtendedKeyUsagePurpose) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// What an exporter is told of TLS and of whom it is sent as.
pub struct Guarded {
    authority: Authority,
    /// Of this machine.
    own: (String, String),
}

impl Guarded {
    fn new() -> Guarded {
        let authority = Authority::new();
        let own = authority.signs("edge", ExtendedKeyUsagePurpose::ClientAuth);
        Guarded { authority, own }
    }

    /// `mtls` of who knows everything, and of who shows no certificate, doubts everybody's, or shows one of an authority nobody knows.
    fn mtls(&self) -> [Value; 4] {
        let root = &self.authority.pem;
        let (certificate, key) = &self.own;
        let (other, its_key) = Authority::new().signs("edge", ExtendedKeyUsagePurpose::ClientAuth);
        [
            json!({"rootCertBase64": root, "certBase64": certificate, "keyBase64": key}),
            json!({"rootCertBase64": root}),
            json!({"certBase64": certificate, "keyBase64": key}),
            json!({"rootCertBase64": root, "certBase64": other, "keyBase64": its_key}),
        ]
    }

    /// Names of servers, and the fields of `otlp` that they have: two that all is right with, and some that something is missing of.
    fn exporters(&self, grpc: u16, http: u16) -> Vec<(&'static str, Value)> {
        let [known, unnamed, careful, _] = self.mtls();
        let login = json!({"Authorization": "Basic ZWRnZTpzZWNyZXQ="});
        let otlp = |protocol: &str, mtls: &Value, headers: &Value| {
            let port = if protocol == "grpc" { grpc } else { http };
            json!({"protocol": protocol, "endpoint": format!("127.0.0.1:{port}"), "mtls": mtls, "headers": headers})
        };
        vec![
            ("over-grpc", otlp("grpc", &known, &login)),
            ("over-http", otlp("http", &known, &login)),
            ("unnamed-grpc", otlp("grpc", &unnamed, &login)),
            ("unnamed-http", otlp("http", &unnamed, &login)),
            ("careful", otlp("http", &careful, &login)),
            ("forgetful-grpc", otlp("grpc", &known, &json!({}))),
            ("forgetful-http", otlp("http", &known, &json!({}))),
        ]
    }

    /// Certificate, key and authority in files of a directory.
    pub fn write(&self, directory: &Path) {
        let (certificate, key) = self.authority.signs("127.0.0.1", ExtendedKeyUsagePurpose::ServerAuth);
        for (name, text) in [("ca.pem", &self.authority.pem), ("cert.pem", &certificate), ("key.pem", &key)] {
            fs::write(directory.join(name), text).unwrap();
        }
    }
}

/// A server for each of these `exporter`s; their ports. Lines of the log go the same way where that is OpenTelemetry's.
fn traced(machine: &Machine, exporters: &[(&'static str, Value)]) -> Vec<(&'static str, u16)> {
    machine.create(&mock("pl", "x"));
    let mut ports = Vec::new();
    for (name, exporter) in exporters {
        let port = free_port();
        let tracing = json!({"serviceName": name, "batchLimits": {"batchTimeout": 50}, "exporter": exporter});
        let server = json!({
            "kind": "HTTPServer", "name": name, "port": port, "tracing": tracing, "accessLogFormat": format!("{name} {{{{URI}}}}"),
            "rules": [{"paths": [{"pathPrefix": "/", "backend": "pl"}]}],
        });
        machine.create(&server.to_string());
        ports.push((*name, port));
    }
    for (name, exporter) in exporters.iter().filter(|(_, exporter)| exporter["otlp"].is_object()) {
        let sink =
            json!({"kind": "LogSink", "name": format!("lines-{name}"), "servers": [name], "otlp": exporter["otlp"]});
        machine.create(&sink.to_string());
    }
    serve_again(&ports);
    ports
}

fn serve_again(ports: &[(&'static str, u16)]) {
    ports.iter().for_each(|(_, port)| drop(eventually("it serves", || get(*port, "/up").ok())));
}

//! rotel, a collector of OpenTelemetry: over gRPC and HTTP, as it is and behind TLS.

use super::{Guarded, STARTS, TRACE, ask, numbers, on_disk, serve_again, signal, start, traced, until_told};
use crate::leash::Leashed;
use crate::parts;
use crate::world::{Machine, eventually, free_port, get, mock, server, within};
use serde_json::json;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One of it, which writes what it takes.
struct Rotel {
    program: PathBuf,
    grpc: u16,
    http: u16,
    output: PathBuf,
}

impl Rotel {
    fn new(program: PathBuf, directory: &Path) -> Rotel {
        Rotel { program, grpc: free_port(), http: free_port(), output: directory.join("out") }
    }

    fn start(&self) -> Leashed {
        let mut command = Command::new(&self.program);
        command.args(["start", "--exporter", "blackhole", "--debug-log", "traces", "--debug-log", "logs"]);
        command.args(["--debug-log-verbosity", "detailed"]);
        command.args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{}", self.grpc)]);
        command.args(["--otlp-http-endpoint", &format!("127.0.0.1:{}", self.http)]);
        start(&mut command, &self.output)
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// The numbers of the lines it has of one of our servers.
    fn lines(&self, name: &str) -> Vec<usize> {
        numbers(&self.said(), &format!("Body: Str({name} /n-"))
    }

    fn has_spans(&self, name: &str) -> bool {
        self.said().contains(&format!("service.name: Str({name})"))
    }
}

/// Two servers: one is traced and logged over gRPC, the other over HTTP, packed.
#[test]
fn rotel_takes_spans_and_lines() {
    let Some(program) = parts::rotel() else { return };
    let directory = tempfile::tempdir().unwrap();
    let rotel = Rotel::new(program, directory.path());
    let (one, two) = (free_port(), free_port());
    // Lines of several workers are in order by the fifth of a second, those of one always.
    let mut machine = Machine::new("m1").flags(["--disable-access=true", "--workers", "1"]);
    machine.run();
    machine.create(&mock("pl", "x"));
    let otlp = |protocol: &str, port: u16, more: &str| {
        format!("otlp: {{protocol: {protocol}, endpoint: '127.0.0.1:{port}', insecure: true{more}}}")
    };
    let servers = [
        ("over-grpc", one, otlp("grpc", rotel.grpc, "")),
        ("over-http", two, otlp("http", rotel.http, ", compression: gzip")),
    ];
    for (name, port, otlp) in &servers {
        let tracing =
            format!("tracing: {{serviceName: {name}, batchLimits: {{batchTimeout: 50}}, exporter: {{{otlp}}}}}");
        machine.create(&format!(
            "{}accessLogFormat: '{name} {{{{URI}}}} {{{{RequestID}}}}'\n{tracing}\n",
            server(name, *port, "pl")
        ));
        machine.create(&format!("kind: LogSink\nname: lines-{name}\nservers: [{name}]\n{otlp}\n"));
        eventually("it serves", || get(*port, "/up").ok());
    }
    let both = |numbers: Range<usize>| servers.iter().for_each(|(_, port, _)| ask(*port, TRACE, numbers.clone()));
    // Nobody listens. The lines outlive the process.
    both(0..20);
    eventually("it was tried", || (machine.metric("weir_log_sink_up{sink=\"lines-over-grpc\"}")? == 0.0).then_some(()));
    on_disk(&machine, 20);
    machine.kill();
    machine.run();
    let running = rotel.start();
    let came = |count: usize| {
        let wanted: Vec<usize> = (0..count).collect();
        let there = || servers.iter().all(|(name, ..)| rotel.lines(name).len() >= count).then_some(());
        assert!(within(crate::world::PATIENCE, there).is_some(), "{}", rotel.said());
        servers.iter().for_each(|(name, ..)| assert_eq!(rotel.lines(name), wanted, "{name}: in their order"));
    };
    came(20);
    for (_, port, _) in &servers {
        eventually("it serves again", || get(*port, "/up").ok());
    }
    // It hangs, and is killed with what it was sent.
    signal(&running, "STOP");
    both(20..40);
    drop(running);
    let _running = rotel.start();
    both(40..60);
    came(60);
    for (name, ..) in &servers {
        eventually("spans", || rotel.has_spans(name).then_some(()));
    }
    let text = rotel.said();
    for part in [TRACE, "00f067aa0ba902b7", "http.response.status_code: Int(200)", "service.instance.id: Str(m1)"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// Envoy, which speaks TLS with who has a certificate of its authority, and lets pass who knows a password.
fn door(envoy: &Path, directory: &Path, doors: [(u16, u16); 2]) -> Leashed {
    let at = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let kind = |name: &str| format!("type.googleapis.com/envoy.extensions.{name}");
    let file = |name: &str| json!({"filename": directory.join(name)});
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    for ((port, collector), is_grpc) in doors.into_iter().zip([true, false]) {
        let name = format!("collector-{collector}");
        let known = json!([{"name": "authorization", "string_match": {"exact": "Basic ZWRnZTpzZWNyZXQ="}}]);
        let routes = json!([
            {"match": {"prefix": "/", "headers": known}, "route": {"cluster": name}},
            {"match": {"prefix": "/"}, "direct_response": {"status": 401}},
        ]);
        let http = json!({
            "@type": kind("filters.network.http_connection_manager.v3.HttpConnectionManager"), "stat_prefix": "s",
            "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}]},
            "http_filters": [{"name": "router", "typed_config": {"@type": kind("filters.http.router.v3.Router")}}],
        });
        let tls = json!({
            "@type": kind("transport_sockets.tls.v3.DownstreamTlsContext"), "require_client_certificate": true,
            "common_tls_context": {
                "alpn_protocols": if is_grpc { ["h2"].as_slice() } else { &["http/1.1"] },
                "tls_certificates": [{"certificate_chain": file("cert.pem"), "private_key": file("key.pem")}],
                "validation_context": {"trusted_ca": file("ca.pem")},
            },
        });
        listeners.push(json!({
            "address": at(port),
            "filter_chains": [{
                "filters": [{"name": "http", "typed_config": http}],
                "transport_socket": {"name": "tls", "typed_config": tls},
            }],
        }));
        let mut cluster = json!({
            "name": name, "type": "STATIC", "connect_timeout": "5s",
            "load_assignment": {
                "cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at(collector)}}]}],
            },
        });
        if is_grpc {
            let options = json!({
                "@type": kind("upstreams.http.v3.HttpProtocolOptions"), "explicit_http_config": {"http2_protocol_options": {}},
            });
            cluster["typed_extension_protocol_options"] =
                json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options});
        }
        clusters.push(cluster);
    }
    let config = directory.join("envoy.json");
    fs::write(&config, json!({"static_resources": {"listeners": listeners, "clusters": clusters}}).to_string())
        .unwrap();
    let mut command = Command::new(envoy);
    command.arg("-c").arg(&config).args(["--concurrency", "1", "--disable-hot-restart", "-l", "error"]);
    start(&mut command, &directory.join("envoy.out"))
}

/// A collector behind TLS takes spans and lines of who shows a certificate and a password, in either protocol, and of nobody else.
#[test]
fn a_collector_behind_tls_takes_spans_and_lines_of_whom_it_knows() {
    let (Some(program), Some(envoy)) = (parts::rotel(), parts::envoy()) else { return };
    let guarded = Guarded::new();
    let directory = tempfile::tempdir().unwrap();
    guarded.write(directory.path());
    let rotel = Rotel::new(program, directory.path());
    let (grpc, http) = (free_port(), free_port());
    let doors = [(grpc, rotel.grpc), (http, rotel.http)];
    let exporters: Vec<_> =
        guarded.exporters(grpc, http).into_iter().map(|(name, otlp)| (name, json!({"otlp": otlp}))).collect();
    let mut machine = Machine::new("m1").flags(["--disable-access=true", "--workers", "1"]);
    machine.run();
    let ports = traced(&machine, &exporters);
    let both = |numbers: Range<usize>| ports[..2].iter().for_each(|(_, port)| ask(*port, TRACE, numbers.clone()));
    // Nobody is there. Lines outlive the process.
    ports.iter().for_each(|(_, port)| ask(*port, TRACE, 0..5));
    on_disk(&machine, 5);
    machine.kill();
    machine.run();
    serve_again(&ports);
    let running = rotel.start();
    let mut front = door(&envoy, directory.path(), doors);
    let lines = |count: usize| {
        let wanted: Vec<usize> = (0..count).collect();
        let there = || ports[..2].iter().all(|(name, _)| rotel.lines(name).len() >= count).then_some(());
        let envoy = || fs::read_to_string(directory.path().join("envoy.out")).unwrap_or_default();
        assert!(within(STARTS, there).is_some(), "{}\n{}\n{}", machine.log(), envoy(), rotel.said());
        ports[..2].iter().for_each(|(name, _)| assert_eq!(rotel.lines(name), wanted, "{name}: in their order"));
    };
    lines(5);
    for (name, port) in &ports {
        ask(*port, TRACE, 0..1);
        if ["over-grpc", "over-http"].contains(name) {
            assert!(within(STARTS, || rotel.has_spans(name).then_some(())).is_some(), "{name}: {}", machine.log());
        }
    }
    // Who shows no certificate, doubts Envoy's or has forgotten the password is told so, and nothing of it gets through.
    for (name, why) in [
        ("unnamed-grpc", "certificate_required"),
        ("unnamed-http", "certificate_required"),
        ("careful", "not signed by any of the authorities"),
        ("forgetful-grpc", "grpc-status 16"),
        ("forgetful-http", "it answered 401"),
    ] {
        until_told(&machine, &format!("lines-{name}"), why);
    }
    for (name, _) in &ports[2..] {
        assert!(!rotel.has_spans(name) && !rotel.said().contains(&format!("Str({name} ")), "{name}");
    }
    // The way is cut, hangs, and is there again: lines wait for it.
    drop(front);
    both(5..10);
    front = door(&envoy, directory.path(), doors);
    lines(10);
    signal(&front, "STOP");
    both(10..15);
    signal(&front, "CONT");
    lines(15);
    // The collector is killed with what it was sent.
    signal(&running, "STOP");
    both(15..20);
    drop(running);
    let _running = rotel.start();
    lines(20);
    let shown = machine.api("GET", "/objects", "").body;
    assert!(!shown.contains("PRIVATE KEY") && !shown.contains("ZWRnZTpzZWNyZXQ"), "{shown}");
}

//! Spans and lines with those who take them in the world: rotel (OpenTelemetry), Jaeger, Zipkin's own server, rsyslog, Kafka. Each is away
//! at first, hangs, is killed and comes back; the daemon is killed in between.

use crate::leash::Leashed;
use crate::parts;
use crate::world::{Connection, Machine, eventually, free_port, get, mock, proxy, server, within};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Starts a program whose output goes to the end of a file.
fn start(command: &mut Command, output: &Path) -> Leashed {
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

/// Java on a busy machine, and the longest pause between two tries.
const STARTS: Duration = Duration::from_secs(600);

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Two servers: one is traced and logged over gRPC, the other over HTTP, packed.
#[test]
fn rotel_takes_spans_and_lines() {
    let Some(rotel) = parts::rotel() else { return };
    let (grpc, http, one, two) = (free_port(), free_port(), free_port(), free_port());
    // Lines of several workers are in order by the fifth of a second, those of one always.
    let mut machine = Machine::new("m1").flags(["--disable-access=true", "--workers", "1"]);
    machine.run();
    machine.create(&mock("pl", "x"));
    let otlp = |protocol: &str, port: u16, more: &str| {
        format!("otlp: {{protocol: {protocol}, endpoint: '127.0.0.1:{port}', insecure: true{more}}}")
    };
    let servers =
        [("over-grpc", one, otlp("grpc", grpc, "")), ("over-http", two, otlp("http", http, ", compression: gzip"))];
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
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("out");
    let collector = || {
        let mut command = Command::new(&rotel);
        command.args(["start", "--exporter", "blackhole", "--debug-log", "traces", "--debug-log", "logs"]);
        command.args(["--debug-log-verbosity", "detailed"]);
        command.args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{grpc}")]);
        command.args(["--otlp-http-endpoint", &format!("127.0.0.1:{http}")]);
        start(&mut command, &output)
    };
    let running = collector();
    let came = |count: usize| {
        let wanted: Vec<usize> = (0..count).collect();
        let text = || fs::read_to_string(&output).unwrap();
        let all = |name: &str| numbers(&text(), &format!("Body: Str({name} /n-"));
        let there = || servers.iter().all(|(name, ..)| all(name).len() >= count).then_some(());
        assert!(within(crate::world::PATIENCE, there).is_some(), "{}", text());
        servers.iter().for_each(|(name, ..)| assert_eq!(all(name), wanted, "{name}: in their order"));
    };
    came(20);
    for (_, port, _) in &servers {
        eventually("it serves again", || get(*port, "/up").ok());
    }
    // It hangs, and is killed with what it was sent.
    signal(&running, "STOP");
    both(20..40);
    drop(running);
    let _running = collector();
    both(40..60);
    came(60);
    let spans = |service: &str| {
        let text = fs::read_to_string(&output).unwrap();
        text.split("ResourceSpans #").filter(|part| part.contains(&format!("service.name: Str({service})"))).count()
    };
    for (name, ..) in &servers {
        eventually("spans", || (spans(name) > 0).then_some(()));
    }
    let text = fs::read_to_string(&output).unwrap();
    for part in [TRACE, "00f067aa0ba902b7", "http.response.status_code: Int(200)", "service.instance.id: Str(m1)"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn zipkin_takes_spans_and_shows_them() {
    let Some((java, jar)) = parts::zipkin() else { return };
    let (port, shop, nobody) = (free_port(), free_port(), free_port());
    let machine = Machine::start();
    machine.create(&proxy("pl", &[format!("http://127.0.0.1:{nobody}")]));
    let tracing = format!(
        "tracing: {{serviceName: edge, attributes: {{env: test}}, batchLimits: {{batchTimeout: 50}}, exporter: {{zipkin: {{endpoint: \
         'http://127.0.0.1:{port}'}}}}}}\n"
    );
    machine.create(&format!("{}{tracing}", server("web", shop, "pl")));
    eventually("it serves", || get(shop, "/up").ok());
    let asked = |trace: &str| {
        let parent = format!("00-{trace}-00f067aa0ba902b7-01");
        let mut connection = Connection::open(&format!("127.0.0.1:{shop}")).unwrap();
        assert_eq!(connection.request("GET", "/a?x=1", &[("traceparent", &parent)], "").unwrap().status, 503);
    };
    // It is not there yet.
    asked(TRACE);
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(java);
    command.args(["-Xmx192m", "-XX:TieredStopAtLevel=1", "-jar"]).arg(jar);
    command.env("QUERY_PORT", port.to_string()).env("STORAGE_TYPE", "mem");
    let zipkin = start(&mut command, &directory.path().join("out"));
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
}

#[test]
fn rsyslog_takes_lines_also_those_it_was_killed_with() {
    let Some((rsyslogd, libraries)) = parts::rsyslog() else { return };
    let (port, shop) = (free_port(), free_port());
    let mut machine = Machine::new("m1").flags(["--disable-access=true"]);
    machine.run();
    machine.create(&mock("pl", "x"));
    machine.create(&format!(
        "kind: LogSink\nname: log\nsyslog: {{address: 'tcp://127.0.0.1:{port}', facility: local3, appName: shop}}\n"
    ));
    machine.create(&format!("{}accessLogFormat: 'GET {{{{URI}}}}'\n", server("web", shop, "pl")));
    eventually("it serves", || get(shop, "/up").ok());
    ask(shop, TRACE, 0..20);
    on_disk(&machine, 20);
    machine.kill();
    machine.run();
    let directory = tempfile::tempdir().unwrap();
    let (lines, config) = (directory.path().join("lines"), directory.path().join("conf"));
    let text = format!(
        "global(workDirectory=\"{0}\")\nmodule(load=\"imtcp\")\ntemplate(name=\"t\" type=\"string\" string=\"%syslogfacility-text% \
         %syslogseverity-text% %hostname% %app-name% %msgid% %msg%\\n\")\nruleset(name=\"r\") {{ action(type=\"omfile\" file=\"{1}\" \
         template=\"t\") }}\ninput(type=\"imtcp\" address=\"127.0.0.1\" port=\"{port}\" ruleset=\"r\")\n",
        directory.path().display(),
        lines.display()
    );
    fs::write(&config, text).unwrap();
    let log = || {
        let mut command = Command::new(&rsyslogd);
        command.arg("-n").arg("-f").arg(&config).arg("-i").arg(directory.path().join("pid"));
        command.arg("-M").arg(libraries.join("rsyslog")).env("LD_LIBRARY_PATH", &libraries);
        start(&mut command, &directory.path().join("out"))
    };
    let running = log();
    let came = |count: usize| {
        let text = || fs::read_to_string(&lines).unwrap_or_default();
        let there = || (numbers(&text(), "GET /n-").len() >= count).then_some(());
        let said = || fs::read_to_string(directory.path().join("out")).unwrap();
        assert!(within(crate::world::PATIENCE, there).is_some(), "{} {}", text(), said());
        assert_eq!(numbers(&text(), "GET /n-"), (0..count).collect::<Vec<_>>(), "in their order");
    };
    came(20);
    let text = fs::read_to_string(&lines).unwrap();
    let line = text.lines().find(|line| line.ends_with("GET /n-7")).unwrap();
    assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["local3", "info", "m1", "shop", "access", "GET", "/n-7"]);
    // What it is sent while it hangs is in its buffers, and goes with it.
    eventually("it serves again", || get(shop, "/up").ok());
    signal(&running, "STOP");
    let delivered = || machine.metric("weir_log_sink_delivered_total{sink=\"log\"}").unwrap_or_default();
    let nothing_waits = || (machine.metric("weir_log_sink_spool_bytes{sink=\"log\"}")? == 0.0).then_some(());
    eventually("nothing waits", nothing_waits);
    let before = delivered();
    ask(shop, TRACE, 20..40);
    eventually("it has them, as far as anybody can tell", || (delivered() >= before + 20.0).then_some(()));
    drop(running);
    let _running = log();
    ask(shop, TRACE, 40..60);
    came(60);
}

/// A broker of Kafka's own, alone, in a directory.
struct Kafka {
    java: PathBuf,
    jars: String,
    directory: tempfile::TempDir,
}

impl Kafka {
    fn new(java: PathBuf, jars: String, port: u16) -> Kafka {
        let directory = tempfile::tempdir().unwrap();
        let (at, controller) = (directory.path(), free_port());
        let text = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\ncontroller.listener.names=CONTROLLER\nlog.dirs={}/data\n\
             offsets.topic.replication.factor=1\ntransaction.state.log.replication.factor=1\nnum.partitions=1\n\
             auto.create.topics.enable=true\n",
            at.display()
        );
        fs::write(at.join("conf"), text).unwrap();
        let kafka = Kafka { java, jars, directory };
        let mut command = kafka.runs("kafka.tools.StorageTool");
        command.args(["format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c"]).arg(kafka.directory.path().join("conf"));
        let done = command.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&[done.stdout, done.stderr].concat()));
        kafka
    }

    fn runs(&self, class: &str) -> Command {
        let mut command = Command::new(&self.java);
        command.args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", &self.jars, class]);
        command.current_dir(self.directory.path());
        command
    }

    fn start(&self) -> Leashed {
        start(self.runs("kafka.Kafka").arg(self.directory.path().join("conf")), &self.directory.path().join("out"))
    }

    /// What is in its files of a topic that has one partition, which are not packed.
    fn holds(&self, topic: &str) -> String {
        let folder = self.directory.path().join("data").join(format!("{topic}-0"));
        let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "log")).collect();
        files.sort();
        let text: Vec<u8> = files.iter().filter_map(|path| fs::read(path).ok()).flatten().collect();
        String::from_utf8_lossy(&text).into_owned()
    }
}

#[test]
fn kafka_takes_lines_also_those_it_was_killed_with() {
    let Some((java, jars)) = parts::kafka() else { return };
    let (port, shop) = (free_port(), free_port());
    let mut machine = Machine::new("m1").flags(["--disable-access=true", "--workers", "1"]);
    machine.run();
    machine.create(&mock("pl", "x"));
    machine.create(&format!("kind: LogSink\nname: log\nkafka: {{brokers: ['127.0.0.1:{port}'], topic: lines}}\n"));
    machine.create(&format!("{}accessLogFormat: 'GET {{{{URI}}}}'\n", server("web", shop, "pl")));
    eventually("it serves", || get(shop, "/up").ok());
    // Nobody is there, and the daemon is killed.
    ask(shop, TRACE, 0..20);
    on_disk(&machine, 20);
    machine.kill();
    machine.run();
    let kafka = Kafka::new(java, jars, port);
    let running = kafka.start();
    let came = |count: usize| {
        let there = || (numbers(&kafka.holds("lines"), "GET /n-").len() >= count).then_some(());
        let said = || fs::read_to_string(kafka.directory.path().join("out")).unwrap_or_default();
        assert!(within(STARTS, there).is_some(), "{}\n{}\n{}", kafka.holds("lines"), machine.log(), said());
        assert_eq!(numbers(&kafka.holds("lines"), "GET /n-"), (0..count).collect::<Vec<_>>(), "in their order");
    };
    came(20);
    eventually("it serves again", || get(shop, "/up").ok());
    // It hangs for a while.
    signal(&running, "STOP");
    ask(shop, TRACE, 20..40);
    on_disk(&machine, 20);
    signal(&running, "CONT");
    came(40);
    // It hangs, and is killed with what it was sent.
    signal(&running, "STOP");
    ask(shop, TRACE, 40..60);
    drop(running);
    let _running = kafka.start();
    ask(shop, TRACE, 60..80);
    came(80);
}

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
struct Guarded {
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

    /// Names of servers, and the fields of `otlp` that they have: two that all is right with, and some that something is missing of.
    fn exporters(&self, grpc: u16, http: u16) -> Vec<(&'static str, Value)> {
        let root = &self.authority.pem;
        let (certificate, key) = &self.own;
        let known = json!({"rootCertBase64": root, "certBase64": certificate, "keyBase64": key});
        let login = json!({"Authorization": "Basic ZWRnZTpzZWNyZXQ="});
        let otlp = |protocol: &str, mtls: &Value, headers: &Value| {
            let port = if protocol == "grpc" { grpc } else { http };
            json!({"protocol": protocol, "endpoint": format!("127.0.0.1:{port}"), "mtls": mtls, "headers": headers})
        };
        let unnamed = json!({"rootCertBase64": root});
        let careful = json!({"certBase64": certificate, "keyBase64": key});
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
    fn write(&self, directory: &Path) {
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
    let (Some(rotel), Some(envoy)) = (parts::rotel(), parts::envoy()) else { return };
    let guarded = Guarded::new();
    let directory = tempfile::tempdir().unwrap();
    guarded.write(directory.path());
    let [grpc, http, inner_grpc, inner_http] = [(); 4].map(|()| free_port());
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
    let output = directory.path().join("out");
    let collector = || {
        let mut command = Command::new(&rotel);
        command.args(["start", "--exporter", "blackhole", "--debug-log", "traces", "--debug-log", "logs"]);
        command.args(["--debug-log-verbosity", "detailed"]);
        command.args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{inner_grpc}")]);
        command.args(["--otlp-http-endpoint", &format!("127.0.0.1:{inner_http}")]);
        start(&mut command, &output)
    };
    let running = collector();
    let mut front = door(&envoy, directory.path(), [(grpc, inner_grpc), (http, inner_http)]);
    let said = || fs::read_to_string(&output).unwrap_or_default();
    let lines = |count: usize| {
        let wanted: Vec<usize> = (0..count).collect();
        let all = |name: &str| numbers(&said(), &format!("Body: Str({name} /n-"));
        let there = || ports[..2].iter().all(|(name, _)| all(name).len() >= count).then_some(());
        let envoy = || fs::read_to_string(directory.path().join("envoy.out")).unwrap_or_default();
        assert!(within(STARTS, there).is_some(), "{}\n{}\n{}", machine.log(), envoy(), said());
        ports[..2].iter().for_each(|(name, _)| assert_eq!(all(name), wanted, "{name}: in their order"));
    };
    lines(5);
    let has_spans = |name: &str| said().contains(&format!("service.name: Str({name})"));
    for (name, port) in &ports {
        ask(*port, TRACE, 0..1);
        if ["over-grpc", "over-http"].contains(name) {
            assert!(within(STARTS, || has_spans(name).then_some(())).is_some(), "{name}: {}", machine.log());
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
        let health = || {
            let all = machine.json(&format!("/status/objects/lines-{name}"));
            all.as_object()?.values().find_map(|one| one["status"]["health"].as_str()).map(str::to_owned)
        };
        let told = within(crate::world::PATIENCE, || health().filter(|health| health.contains(why)));
        assert!(told.is_some(), "{name}: {why}: {:?}", health());
    }
    for (name, _) in &ports[2..] {
        assert!(!has_spans(name) && !said().contains(&format!("Str({name} ")), "{name}");
    }
    // The way is cut, hangs, and is there again: lines wait for it.
    drop(front);
    both(5..10);
    front = door(&envoy, directory.path(), [(grpc, inner_grpc), (http, inner_http)]);
    lines(10);
    signal(&front, "STOP");
    both(10..15);
    signal(&front, "CONT");
    lines(15);
    // The collector is killed with what it was sent.
    signal(&running, "STOP");
    both(15..20);
    drop(running);
    let _running = collector();
    lines(20);
    let shown = machine.api("GET", "/objects", "").body;
    assert!(!shown.contains("PRIVATE KEY") && !shown.contains("ZWRnZTpzZWNyZXQ"), "{shown}");
}

/// A Jaeger that speaks TLS with who has a certificate of its authority and knows a password, and its own formats with everybody.
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
    fn new(program: PathBuf, guarded: &Guarded) -> Jaeger {
        let directory = tempfile::tempdir().unwrap();
        guarded.write(directory.path());
        let [grpc, http, thrift, agent, query] = [(); 5].map(|()| free_port());
        Jaeger { program, directory, grpc, http, thrift, agent, query }
    }

    fn start(&self) -> Leashed {
        let at = |port: u16| format!("127.0.0.1:{port}");
        let file = |name: &str| self.directory.path().join(name);
        let guarded = |port: u16| {
            let tls =
                json!({"cert_file": file("cert.pem"), "key_file": file("key.pem"), "client_ca_file": file("ca.pem")});
            json!({"endpoint": at(port), "tls": tls, "auth": {"authenticator": "basicauth"}})
        };
        let config = json!({
            "service": {
                "extensions": ["jaeger_storage", "jaeger_query", "basicauth"],
                "pipelines": {"traces": {"receivers": ["otlp", "jaeger"], "exporters": ["jaeger_storage_exporter"]}},
                "telemetry": {"metrics": {"level": "none"}},
            },
            "extensions": {
                "basicauth": {"htpasswd": {"inline": "edge:secret"}},
                "jaeger_storage": {"backends": {"memory": {"memory": {"max_traces": 1000}}}},
                "jaeger_query": {
                    "storage": {"traces": "memory"},
                    "http": {"endpoint": at(self.query)},
                    "grpc": {"endpoint": at(free_port())},
                },
            },
            "receivers": {
                "otlp": {"protocols": {"grpc": guarded(self.grpc), "http": guarded(self.http)}},
                "jaeger": {"protocols": {
                    "thrift_http": {"endpoint": at(self.thrift)},
                    "thrift_compact": {"endpoint": at(self.agent)},
                }},
            },
            "exporters": {"jaeger_storage_exporter": {"trace_storage": "memory"}},
        });
        let written = file("config.yaml");
        fs::write(&written, config.to_string()).unwrap();
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(written).current_dir(self.directory.path());
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
    let Some(program) = parts::jaeger() else { return };
    let guarded = Guarded::new();
    let jaeger = Jaeger::new(program, &guarded);
    let mut exporters: Vec<_> = guarded
        .exporters(jaeger.grpc, jaeger.http)
        .into_iter()
        .map(|(name, otlp)| (name, json!({"otlp": otlp})))
        .collect();
    let url = format!("http://127.0.0.1:{}/api/traces", jaeger.thrift);
    let agent = format!("127.0.0.1:{}", jaeger.agent);
    exporters.insert(2, ("thrift", json!({"jaeger": {"mode": "collector", "endpoint": url}})));
    exporters.insert(3, ("agent", json!({"jaeger": {"mode": "agent", "endpoint": agent}})));
    let machine = Machine::start();
    let ports = traced(&machine, &exporters);
    let trace_of = |n: usize| format!("{n}{}", &TRACE[1..]);
    // It is not there yet.
    ask(ports[2].1, &trace_of(9), 0..1);
    let running = jaeger.start();
    assert!(within(STARTS, || jaeger.shows("thrift", &trace_of(9))).is_some(), "{}\n{}", machine.log(), jaeger.said());
    for (n, (name, port)) in ports.iter().enumerate() {
        ask(*port, &trace_of(n), 0..1);
        if n >= 4 {
            continue;
        }
        let shown = within(STARTS, || jaeger.shows(name, &trace_of(n)));
        let spans = shown.unwrap_or_else(|| panic!("{name}: {}\n{}", machine.log(), jaeger.said()));
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
        assert!(within(STARTS, || jaeger.shows(name, &trace_of(8))).is_some(), "{name}: {}", machine.log());
    }
}

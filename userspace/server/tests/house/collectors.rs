//! Spans and lines with those who take them in the world: rotel (OpenTelemetry), Zipkin's own server, rsyslog. Each is away at first,
//! hangs, is killed and comes back; the daemon is killed in between.

use crate::leash::Leashed;
use crate::parts;
use crate::world::{Connection, Machine, eventually, free_port, get, mock, proxy, server, within};
use serde_json::Value;
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

/// Java on a busy machine, and the longest pause between two tries.
const STARTS: Duration = Duration::from_secs(240);

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

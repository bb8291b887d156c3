//! VictoriaLogs, which takes lines of JSON by POST.

use super::{Guarded, STARTS, TRACE, ask, logged, on_disk, signal, start, until_told};
use crate::leash::Leashed;
use crate::parts;
use crate::world::{Connection, Machine, eventually, free_port, get, within};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// One of it, which takes lines within TLS of whoever knows a password.
struct VictoriaLogs {
    program: PathBuf,
    directory: tempfile::TempDir,
    port: u16,
    /// For whoever asks what it has.
    open: u16,
}

const LOGIN: &str = "Basic ZWRnZTpzZWNyZXQ=";

impl VictoriaLogs {
    fn new(guarded: &Guarded) -> Option<VictoriaLogs> {
        let program = parts::victoria_logs()?;
        let directory = tempfile::tempdir().unwrap();
        guarded.write(directory.path());
        Some(VictoriaLogs { program, directory, port: free_port(), open: free_port() })
    }

    fn start(&self) -> Leashed {
        let file = |name: &str| self.directory.path().join(name).display().to_string();
        let mut command = Command::new(&self.program);
        command.arg(format!("-httpListenAddr=127.0.0.1:{},127.0.0.1:{}", self.port, self.open)).arg("-tls=true,false");
        command.arg(format!("-tlsCertFile={},", file("cert.pem"))).arg(format!("-tlsKeyFile={},", file("key.pem")));
        command.args(["-httpAuth.username=edge", "-httpAuth.password=secret"]);
        // What it says that it has, it may lose within the first second.
        command.arg(format!("-storageDataPath={}", file("data"))).arg("-inmemoryDataFlushInterval=1s");
        start(&mut command, &self.directory.path().join("out"))
    }

    fn asked(&self, path: &str) -> Option<String> {
        let mut connection = Connection::open(&format!("127.0.0.1:{}", self.open)).ok()?;
        let answer = connection.request("GET", path, &[("Authorization", LOGIN)], "").ok()?;
        (answer.status == 200).then_some(answer.body)
    }

    /// Lines as it has them.
    fn lines(&self) -> Vec<Value> {
        let text = self.asked("/select/logsql/query?query=*&limit=1000").unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The numbers of the requests, in the order of their times.
    fn numbers(&self) -> Vec<usize> {
        let mut lines: Vec<(String, usize)> = Vec::new();
        for line in self.lines() {
            let number = line["_msg"].as_str().and_then(|uri| uri.strip_prefix("/n-")?.parse().ok());
            // Noughts at the end of a fraction are left out.
            let time = line["_time"].as_str().unwrap_or_default().trim_end_matches('Z').to_owned();
            lines.extend(number.map(|number| (time, number)));
        }
        lines.sort();
        // One whose answer was lost came twice, with the same time.
        lines.dedup();
        lines.into_iter().map(|(_, number)| number).collect()
    }

    /// Waits until it has so many, for good.
    fn has(&self, machine: &Machine, count: usize) {
        let wanted: Vec<usize> = (0..count).collect();
        let said = || fs::read_to_string(self.directory.path().join("out")).unwrap_or_default();
        let there = within(STARTS, || (self.numbers() == wanted).then_some(()));
        assert!(there.is_some(), "{:?}\n{}\n{}", self.numbers(), machine.log(), said());
        eventually("they are on its disk", || {
            let figures = self.asked("/metrics")?;
            figures.lines().any(|line| line == "vl_storage_rows{type=\"storage/inmemory\"} 0").then_some(())
        });
    }
}

/// It is away at first, hangs, refuses, and is killed with what it was sent; the daemon is killed in between.
#[test]
fn victoria_logs_takes_lines_also_those_it_was_killed_with() {
    let guarded = Guarded::new();
    let Some(logs) = VictoriaLogs::new(&guarded) else { return };
    let mut machine = Machine::new("m1").flags(["--disable-access=true", "--workers", "1"]);
    machine.run();
    let [_, trusting, careful, _] = guarded.mtls();
    let sink = |login: &str, mtls: &Value, format: &str| {
        let url = format!(
            "https://127.0.0.1:{}/insert/jsonline?_time_field=time&_msg_field=uri&_stream_fields=server",
            logs.port
        );
        let headers = json!({"Authorization": login});
        json!({"format": format, "http": {"url": url, "headers": headers, "compression": "gzip", "mtls": mtls}})
    };
    let sinks = [
        ("log", sink(LOGIN, &trusting, "json")),
        ("forgetful", sink("Basic ZWRnZTp4", &trusting, "json")),
        ("careful", sink(LOGIN, &careful, "json")),
        ("text", sink(LOGIN, &trusting, "text")),
    ];
    let shop = logged(&machine, &sinks);
    ask(shop, TRACE, 0..20);
    on_disk(&machine, 20);
    machine.kill();
    machine.run();
    let running = logs.start();
    logs.has(&machine, 20);
    let line = logs.lines().into_iter().find(|line| line["_msg"] == "/n-7").unwrap();
    assert_eq!((&line["server"], &line["status"], &line["method"]), (&"web".into(), &"200".into(), &"GET".into()));
    assert!(line["_time"].as_str().is_some_and(|time| time.len() > 20), "{line}");
    // It refuses whom it does not know, whose lines wait, and what is no JSON, which goes nowhere and is counted.
    until_told(&machine, "forgetful", "it answered 401");
    until_told(&machine, "careful", "not signed by any of the authorities");
    let refused = || machine.metric("weir_log_sink_dropped_total{sink=\"text\",reason=\"refused\"}");
    eventually("lines that are no JSON are refused", || refused().filter(|lines| *lines >= 20.0));
    eventually("it serves again", || get(shop, "/up").ok());
    // It hangs for a while.
    signal(&running, "STOP");
    ask(shop, TRACE, 20..40);
    on_disk(&machine, 20);
    signal(&running, "CONT");
    logs.has(&machine, 40);
    // It hangs, and is killed with what it was sent.
    signal(&running, "STOP");
    ask(shop, TRACE, 40..60);
    drop(running);
    let _running = logs.start();
    ask(shop, TRACE, 60..80);
    logs.has(&machine, 80);
    let waiting = machine.metric("weir_log_sink_spool_bytes{sink=\"forgetful\"}");
    assert!(
        waiting.is_some_and(|bytes| bytes > 80.0 * 100.0),
        "what it was refused for its password waits: {waiting:?}"
    );
    let shown = machine.api("GET", "/objects", "").body;
    assert!(!shown.contains("ZWRnZTpzZWNyZXQ"), "{shown}");
}

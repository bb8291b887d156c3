//! Metrics and status.

use crate::leash::Leashed;
use crate::world::{Backend, Connection, Machine, answers, eventually, free_port, get, program, proxy, server};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn every_promised_name_is_there_and_every_line_is_sound() {
    let (machine, _backend, _) = busy();
    let text = machine.try_api("GET", "/metrics", "").unwrap();
    assert!(text.head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{}", text.head);
    let types = parsed(&text.body);
    for name in [
        "httpserver_health",
        "httpserver_total_requests",
        "httpserver_total_responses",
        "httpserver_total_error_requests",
        "httpserver_requests_duration",
        "httpserver_requests_size_bytes",
        "httpserver_responses_size_bytes",
        "httpserver_requests_duration_percentage",
        "httpserver_m1",
        "httpserver_m15_err_percent",
        "httpserver_p999",
        "httpserver_req_size",
        "httpserver_resp_size",
        "proxy_total_connections",
        "proxy_total_error_connections",
        "proxy_request_body_size",
        "proxy_response_body_size",
        "etcd_server_has_leader",
        "weir_build_info",
        "weir_config_version",
        "weir_raft_is_leader",
        "weir_raft_term",
        "weir_raft_commit_index",
        "weir_raft_applied_index",
        "weir_worker_connections",
        "weir_worker_requests_total",
        "weir_worker_busy_ratio",
        "weir_request_duration_seconds",
        "weir_requests_total",
        "weir_upstream_requests_total",
    ] {
        assert!(types.contains_key(name), "{name} is missing");
    }
    assert_eq!(machine.metric("weir_raft_is_leader"), Some(1.0));
    for part in [
        "clusterName=\"eg-cluster-default-name\"",
        "clusterRole=\"primary\"",
        "instanceName=\"m1\"",
        "httpServerName=\"hs\"",
    ] {
        let line = text.body.lines().find(|l| l.starts_with("httpserver_total_requests{")).unwrap_or_default();
        assert!(line.contains(part), "{part} is not in {line}");
    }
    let requests: f64 = text
        .body
        .lines()
        .filter(|l| l.starts_with("weir_worker_requests_total{"))
        .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    assert!(requests >= 20.0, "{requests} requests were counted");
    let v2 = parsed(&machine.api("GET", "/metrics", "").body);
    assert_eq!(v2.keys().collect::<Vec<_>>(), types.keys().collect::<Vec<_>>());
}

#[test]
fn status_has_the_block_of_easegress() {
    let (machine, _backend, port) = busy();
    let status = eventually("the round of 5 s has ended", || {
        let status = machine.json("/status/objects/hs")["eg-traffic-default/hs/m1"]["status"].clone();
        (status["count"].as_u64()? >= 21).then_some(status)
    });
    for key in [
        "name",
        "health",
        "state",
        "count",
        "m1",
        "m5",
        "m15",
        "errCount",
        "m1Err",
        "m5Err",
        "m15Err",
        "m1ErrPercent",
        "m5ErrPercent",
        "m15ErrPercent",
        "min",
        "max",
        "mean",
        "p25",
        "p50",
        "p75",
        "p95",
        "p98",
        "p99",
        "p999",
        "reqSize",
        "respSize",
        "codes",
        "topN",
    ] {
        assert!(status.get(key).is_some(), "{key} is missing in {status}");
    }
    assert_eq!((&status["state"], &status["health"]), (&"running".into(), &"".into()));
    assert!(status["errCount"].as_u64() >= Some(1), "{status}");
    let all = machine.json("/status/objects");
    assert!(all["eg-traffic-default/pl/m1"]["status"].is_object(), "{all}");
    assert_eq!(get(port, "/").unwrap().status, 200);
}

#[test]
fn promtool_finds_fault_only_with_names_of_easegress() {
    let Some(promtool) = program("promtool") else { return };
    let (machine, _backend, _) = busy();
    let text = machine.api("GET", "/metrics", "").body;
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(!said.contains("error while linting"), "{said}");
    // 3: it was parsed, and there are findings.
    assert!(matches!(done.status.code(), Some(0 | 3)), "{said}");
    for finding in said.lines().filter(|line| !line.is_empty()) {
        assert!(finding.starts_with("httpserver_") || finding.starts_with("proxy_"), "{finding}");
    }
}

/// Rules and their tests, as Prometheus reads them.
#[test]
fn promtool_takes_the_rules_and_their_tests_pass() {
    let Some(promtool) = program("promtool") else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/prometheus");
    for arguments in [
        &["check", "rules", "recording.rules.yml", "alerts.rules.yml"][..],
        &["check", "config", "prometheus.yml"],
        &["test", "rules", "rules.test.yml"],
    ] {
        let done = Command::new(&promtool).args(arguments).current_dir(&folder).output().unwrap();
        let said = [done.stdout, done.stderr].concat();
        assert!(done.status.success(), "{}: {}", arguments.join(" "), String::from_utf8_lossy(&said));
    }
}

#[test]
fn prometheus_scrapes() {
    let Some(prometheus) = program("prometheus") else { return };
    let (machine, _backend, _) = busy();
    let port = free_port();
    let config = machine.directory.join("prometheus.yml");
    let text = format!(
        "global: {{scrape_interval: 500ms, scrape_timeout: 400ms}}\nscrape_configs:\n- job_name: weir\n  static_configs:\n  - targets: ['127.0.0.1:{}']\n",
        machine.api
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(prometheus);
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", machine.directory.join("tsdb").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _ends = Leashed::start(&mut command).unwrap();
    let mut last = String::new();
    eventually("the target is up", || {
        last = get(port, "/api/v1/targets").ok()?.body;
        last.contains("\"health\":\"up\"").then_some(())
    });
    eventually("a query has our value", || {
        let answer = get(port, "/api/v1/query?query=weir_raft_is_leader").ok()?.body;
        answer.contains(",\"1\"]").then_some(())
    });
}

/// A machine that has served twenty requests and refused one.
fn busy() -> (Machine, Backend, u16) {
    let machine = Machine::start();
    let (port, backend) = (free_port(), Backend::start("b"));
    machine.create(&proxy("pl", &[backend.url()]));
    machine.create(&server("hs", port, "pl").replace("pathPrefix: /", "pathPrefix: /\n    methods: [GET, POST]"));
    answers(port, "/", 200);
    let mut connection = Connection::open(&format!("127.0.0.1:{port}")).unwrap();
    for n in 0..20 {
        assert_eq!(connection.request("POST", &format!("/items/{n}"), &[], "hello").unwrap().status, 200);
    }
    assert_eq!(connection.request("DELETE", "/", &[], "").unwrap().status, 405);
    (machine, backend, port)
}

/// Checks the text format line by line; says the type of each family.
fn parsed(text: &str) -> BTreeMap<String, String> {
    let mut types = BTreeMap::new();
    let (mut helps, mut series) = (BTreeSet::new(), BTreeSet::new());
    let named =
        |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':');
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            assert!(helps.insert(name.to_owned()), "HELP twice: {line}");
            assert!(!help.is_empty(), "no help: {line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, ""));
            assert!(["counter", "gauge", "histogram", "summary"].contains(&kind), "{line}");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "TYPE twice: {line}");
        } else {
            assert!(!line.is_empty() && !line.starts_with('#'), "odd line: {line:?}");
            let (id, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
            let name = id.split('{').next().unwrap_or_default();
            assert!(named(name), "{line}");
            assert!(value.parse::<f64>().is_ok() || ["+Inf", "-Inf", "NaN"].contains(&value), "{line}");
            assert!(id.len() == name.len() || id.ends_with('}'), "{line}");
            assert!(series.insert(id.to_owned()), "a series twice: {line}");
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|s| name.strip_suffix(s))
                .filter(|f| types.contains_key(*f));
            let family = family.unwrap_or(name);
            assert!(types.contains_key(family) && helps.contains(family), "no TYPE or HELP before {line}");
        }
    }
    types
}

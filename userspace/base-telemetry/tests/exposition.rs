//! What a scrape returns, checked the way Prometheus would: by a validator of our own, and by `promtool` where it is installed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base_telemetry::families::{self, RaftRow, SteeredCounters, WorkerRow, XdpCounters};
use base_telemetry::histogram::Histogram;
use base_telemetry::proxy::{AnsweredRequest, PoolNames, UpstreamError};
use base_telemetry::registry::SECONDS_BOUNDS;
use base_telemetry::server::{Sample, State};
use base_telemetry::{Identity, Names, Telemetry};

/// Every name users were promised.
const PROMISED: &[&str] = &[
    "httpserver_health",
    "httpserver_total_requests",
    "httpserver_total_responses",
    "httpserver_total_error_requests",
    "httpserver_requests_duration",
    "httpserver_requests_duration_percentage",
    "httpserver_requests_size_bytes",
    "httpserver_requests_size_bytes_percentage",
    "httpserver_responses_size_bytes",
    "httpserver_responses_size_bytes_percentage",
    "httpserver_m1",
    "httpserver_m15_err_percent",
    "httpserver_min",
    "httpserver_p999",
    "httpserver_req_size",
    "httpserver_resp_size",
    "proxy_total_connections",
    "proxy_total_error_connections",
    "proxy_request_body_size",
    "proxy_request_body_size_percentage",
    "proxy_response_body_size",
    "proxy_response_body_size_percentage",
    "etcd_server_has_leader",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_start_time_seconds",
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
    "weir_request_bytes_total",
    "weir_response_bytes_total",
    "weir_upstream_requests_total",
    "weir_upstream_request_duration_seconds",
    "weir_upstream_connections",
    "weir_limit_hits_total",
    "weir_xdp_packets_total",
    "weir_xdp_bytes_total",
    "weir_steered_total",
];

#[test]
fn everything_promised_is_there_and_valid() {
    let text = busy_machine().render(Names::All);
    let families = validate(&text);
    for name in PROMISED {
        assert!(families.contains_key(*name), "{name} is missing");
    }
    assert!(text.contains("weir_metrics_rejected_total 0\n"), "something was rejected:\n{text}");
}

#[test]
fn two_scrapes_of_one_state_are_the_same() {
    let machine = busy_machine();
    let stable = |text: String| -> Vec<String> {
        text.lines().filter(|line| !line.contains("process_")).map(str::to_owned).collect()
    };
    assert_eq!(stable(machine.render(Names::All)), stable(machine.render(Names::All)));
}

#[test]
fn own_names_leave_easegress_s_out() {
    let families = validate(&busy_machine().render(Names::Own));
    assert!(families.keys().all(|name| name.starts_with("weir_") || name.starts_with("process_")), "{families:?}");
}

#[test]
fn a_machine_that_did_nothing_is_valid() {
    validate(&Telemetry::new(Identity::default(), 1).render(Names::All));
    let telemetry = Telemetry::new(Identity::default(), 1);
    telemetry.server("idle");
    telemetry.pool(PoolNames::default()).recorder(0).server("");
    validate(&telemetry.render(Names::All));
}

#[test]
fn contradictions_are_left_out_and_counted() {
    let telemetry = Telemetry::new(Identity::default(), 1);
    telemetry.registry().add(Box::new(|encoder| {
        encoder.gauge("weir_x", "One.", &[], 1.0);
        encoder.gauge("weir_x", "Duplicate.", &[], 2.0);
        encoder.counter("weir_x", "Other type.", &[("a", "b")], 3.0);
        encoder.gauge("7up", "Wrong name.", &[], 1.0);
        encoder.gauge("weir_y", "Wrong label.", &[("a-b", "")], 1.0);
        encoder.histogram("weir_z", "Wrong shape.", &[], &[1.0], &[1], 0.0);
        encoder.gauge("weir_odd", "Back\\slash\nand newline.", &[("v", "q\"b\\n\n")], f64::NEG_INFINITY);
    }));
    let text = telemetry.render(Names::All);
    validate(&text);
    assert!(text.contains("weir_metrics_rejected_total 5\n"), "{text}");
    assert!(text.contains("# HELP weir_odd Back\\\\slash\\nand newline.\n"), "{text}");
    assert!(text.contains("weir_odd{v=\"q\\\"b\\\\n\\n\"} -Inf\n"), "{text}");
}

#[test]
fn hdr_histograms_become_buckets() {
    let telemetry = Telemetry::new(Identity::default(), 1);
    telemetry.registry().add(Box::new(|encoder| {
        let mut hdr = Histogram::<u64>::new(2).unwrap();
        [50, 90_000, 900_000, 60_000_000].into_iter().for_each(|us| hdr.record(us).unwrap());
        encoder.histogram_from_hdr("weir_h_seconds", "H.", &[("a", "b")], &hdr, Some(61.0), &SECONDS_BOUNDS);
    }));
    let text = telemetry.render(Names::Own);
    validate(&text);
    for line in [
        "weir_h_seconds_bucket{a=\"b\",le=\"0.0001\"} 1",
        "weir_h_seconds_bucket{a=\"b\",le=\"0.1\"} 2",
        "weir_h_seconds_bucket{a=\"b\",le=\"1\"} 3",
        "weir_h_seconds_bucket{a=\"b\",le=\"+Inf\"} 4",
        "weir_h_seconds_sum{a=\"b\"} 61",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line} missing in\n{text}");
    }
}

/// `promtool check metrics` reads all of it, and finds fault only with names older than Prometheus's rules, which users hold on to.
#[test]
fn promtool_agrees() {
    let machine = busy_machine();
    let Some((ok, findings)) = promtool(&machine.render(Names::Own)) else {
        eprintln!("promtool is not on PATH (Debian package prometheus): skipped");
        return;
    };
    assert!(ok && findings.is_empty(), "{findings}");
    let Some((_, findings)) = promtool(&machine.render(Names::All)) else { return };
    for finding in findings.lines() {
        assert!(
            ["httpserver_", "proxy_"].iter().any(|old| finding.starts_with(old)),
            "promtool has something to say about more than Easegress's names: {finding}"
        );
    }
}

/// Whether it exited with 0, and what it said.
fn promtool(text: &str) -> Option<(bool, String)> {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    child.stdin.take()?.write_all(text.as_bytes()).ok()?;
    let output = child.wait_with_output().ok()?;
    let said = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

/// A machine with something in every family.
fn busy_machine() -> Arc<Telemetry> {
    let identity =
        Identity { cluster_name: "east".into(), cluster_role: "primary".into(), instance_name: "edge-1".into() };
    let telemetry = Telemetry::new(identity, 2);
    for name in ["shop", "api"] {
        let server = telemetry.server(name);
        server.set_state(State::Running, None);
        for worker in 0..2 {
            let mut recorder = server.recorder(worker);
            for i in 0..200u64 {
                let backend: Arc<str> = Arc::from(["pipeline \"a\"", "b\\c"][i as usize % 2]);
                recorder.record(&Sample {
                    status: [200, 200, 404, 503][i as usize % 4],
                    duration: Duration::from_micros(i * i * 300),
                    request_bytes: i * 10,
                    response_bytes: i * 5000,
                    path: ["/", "/a", "/b/c"][i as usize % 3],
                    backend: Some(&backend),
                    route_found: i % 4 != 2,
                });
            }
        }
    }
    for pool in ["pipeline/proxy#main", "pipeline/proxy#candidate"] {
        let names =
            PoolNames { pool: pool.into(), proxy: "proxy".into(), kind: "Proxy".into(), ..PoolNames::default() };
        let recorder = telemetry.pool(names).recorder(1);
        for server in ["http://10.0.0.1:80", "http://[2001:db8::1]:80"] {
            let server = recorder.server(server);
            server.connection_created();
            server.record(&AnsweredRequest {
                status: 200,
                duration: Duration::from_millis(4),
                request_bytes: 300,
                response_bytes: 9000,
            });
            server.error(UpstreamError::Connect);
        }
    }
    telemetry.limits().register("head_bytes").hit(0);
    telemetry.registry().add(Box::new(|encoder| {
        families::build(encoder, "0.1.0", "abcdef", 42);
        families::workers(
            encoder,
            &[WorkerRow { cpu: Some(3), requests_total: 7, busy_ratio: 0.25, ..WorkerRow::default() }],
        );
        let fate = |verdict: &str, reason: &str| XdpCounters {
            vip: "shop".into(),
            verdict: verdict.into(),
            reason: reason.into(),
            packets: 5,
            bytes: 500,
        };
        let steered = SteeredCounters { vip: "shop".into(), machine: "edge-2".into(), packets: 3, bytes: 300 };
        families::xdp(encoder, &[fate("pass", "local"), fate("tx", "steered")], &[steered]);
        families::raft(encoder, &RaftRow { is_leader: true, has_leader: true, term: 3, ..RaftRow::default() });
    }));
    telemetry.tick(Instant::now());
    telemetry
}

/// Reads the text as Prometheus does and panics at the first thing it would refuse. Returns the type of each family.
fn validate(text: &str) -> BTreeMap<String, String> {
    assert!(text.ends_with('\n'));
    let mut types = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let mut series = BTreeSet::new();
    let mut current = String::new();
    let mut buckets: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let mut counts: BTreeMap<String, f64> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let name = rest.split(' ').next().unwrap().to_owned();
            assert!(rest.len() > name.len() + 1, "{name} has no help text");
            assert!(helped.insert(name.clone()), "second HELP for {name}");
            current = name;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, current, "TYPE follows HELP");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "second TYPE for {name}");
        } else {
            let (id, value) = line.rsplit_once(' ').unwrap();
            assert!(series.insert(id.to_owned()), "series twice: {id}");
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            let (name, labels) = match id.split_once('{') {
                Some((name, labels)) => (name, labels.strip_suffix('}').expect("closed labels")),
                None => (id, ""),
            };
            let kind = types.get(&current).expect("TYPE before the first sample");
            let suffix = name.strip_prefix(current.as_str()).unwrap_or_else(|| panic!("{name} among {current}"));
            match (kind.as_str(), suffix) {
                ("counter", "") => assert!(value >= 0.0),
                ("gauge" | "summary", "") | ("histogram" | "summary", "_sum") => {}
                ("summary", "_count") => {}
                ("histogram", "_bucket") => {
                    let (rest, le) = labels.rsplit_once("le=\"").expect("le is last");
                    let le = le.trim_end_matches('"').parse().expect("le is a number");
                    buckets.entry(format!("{current}{{{}", rest.trim_end_matches(','))).or_default().push((le, value));
                }
                ("histogram", "_count") => {
                    counts.insert(format!("{current}{{{labels}"), value);
                }
                other => panic!("{line}: {other:?}"),
            }
        }
    }
    assert_eq!(helped.len(), types.len());
    for (series, buckets) in &buckets {
        assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{series} is not cumulative: {buckets:?}");
        let last = buckets.last().unwrap();
        assert_eq!((last.0, Some(&last.1)), (f64::INFINITY, counts.get(series)), "{series}: +Inf is the count");
    }
    assert_eq!(buckets.len(), counts.len());
    types
}

#[test]
fn each_registry_shows_those_that_live_of_what_it_was_given() {
    let telemetry = [(); 2].map(|()| Telemetry::new(Identity::default(), 1));
    let text = |of: usize| telemetry[of].registry().render(Names::Own);
    let encode: fn(&[Arc<&'static str>], &mut base_telemetry::registry::Encoder) = |there, encoder| {
        for name in there {
            encoder.gauge("weir_shown", "Those that are shown.", &[("name", name)], 1.0);
        }
    };
    let [first, second, other] = ["first", "second", "other"].map(Arc::new);
    telemetry[0].registry().show(&first, encode);
    telemetry[0].registry().show(&second, encode);
    telemetry[1].registry().show(&other, encode);
    assert!(text(0).contains("weir_shown{name=\"first\"} 1\nweir_shown{name=\"second\"} 1\n"), "{}", text(0));
    assert!(text(1).contains("weir_shown{name=\"other\"} 1\n") && !text(1).contains("first"), "{}", text(1));
    drop(second);
    assert!(text(0).contains("first") && !text(0).contains("second"), "{}", text(0));
}

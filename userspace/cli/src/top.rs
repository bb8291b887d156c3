//! `weirctl top`: machines, servers, pools and virtual IPs with what goes through them, again and again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::arguments::{Format, Top};
use crate::output::{print, structured, table};
use crate::server::Server;
use crate::terminal::Terminal;

/// Shows them until somebody ends it; once, where that was asked for or nobody looks at a terminal.
pub async fn top(server: &Server, top: &Top, format: Format) -> Result<(), String> {
    let mut counters = Counters::default();
    let mut shown = shown(&look(server).await?, &mut counters);
    if top.once || format != Format::Default {
        // Rates are of the time between two looks.
        tokio::time::sleep(top.interval).await;
        shown = self::shown(&look(server).await?, &mut counters);
        match format {
            Format::Default => print(&text(&shown, Sort::Rate, usize::MAX, usize::MAX)),
            _ => structured(&shown, format),
        }
        return Ok(());
    }
    let mut terminal = Terminal::open()?;
    let (mut sort, mut trouble, mut paused) = (Sort::Rate, String::new(), false);
    loop {
        let (width, height) = terminal.size();
        let head = head(&shown, sort, paused, &trouble);
        terminal.show(&format!("{head}\n{}", text(&shown, sort, width, height.saturating_sub(head.lines().count()))));
        let until = Instant::now() + top.interval;
        loop {
            match terminal.key(until.saturating_duration_since(Instant::now())).await {
                Some(b'q' | b'Q' | 3 | 4 | 27) => return Ok(()),
                Some(b's') => sort = sort.next(),
                Some(b' ') => paused = !paused,
                Some(_) => continue,
                None => {}
            }
            break;
        }
        if paused || Instant::now() < until {
            continue;
        }
        match look(server).await {
            Ok(looked) => {
                shown = self::shown(&looked, &mut counters);
                trouble = looked.warnings.join("; ");
            }
            Err(error) => trouble = error,
        }
    }
}

/// What rows are in order of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Rate,
    Errors,
    P99,
    Name,
}

impl Sort {
    fn next(self) -> Sort {
        match self {
            Sort::Rate => Sort::Errors,
            Sort::Errors => Sort::P99,
            Sort::P99 => Sort::Name,
            Sort::Name => Sort::Rate,
        }
    }

    /// The field of a row, and how people call it.
    fn field(self) -> (&'static str, &'static str) {
        match self {
            Sort::Rate => ("perSecond", "rate"),
            Sort::Errors => ("errors", "errors"),
            Sort::P99 => ("p99Ms", "p99"),
            Sort::Name => ("name", "name"),
        }
    }
}

/// What was asked, and when.
struct Looked {
    overview: Value,
    status: Value,
    at: Instant,
    warnings: Vec<String>,
}

async fn look(server: &Server) -> Result<Looked, String> {
    let (overview, mut warnings) = server.get_warned("/overview").await?;
    let (status, more) = server.get_warned("/status/objects").await?;
    warnings.extend(more);
    warnings.dedup();
    Ok(Looked { overview, status, at: Instant::now(), warnings })
}

/// Counters as they were at the last look.
#[derive(Default)]
struct Counters(HashMap<String, (f64, Instant)>);

impl Counters {
    /// Per second since the last look; nothing the first time, and after a restart.
    fn rate(&mut self, key: String, value: f64, at: Instant) -> Value {
        let before = self.0.insert(key, (value, at));
        let rate = before.and_then(|(before, then)| {
            let seconds = at.saturating_duration_since(then).as_secs_f64();
            (value >= before && seconds > 0.0).then(|| (value - before) / seconds)
        });
        rate.map_or(Value::Null, |rate| json!((rate * 10.0).round() / 10.0))
    }
}

/// Everything as rows: `machines`, `servers`, `pools`, `vips`.
fn shown(looked: &Looked, counters: &mut Counters) -> Value {
    let overview = &looked.overview;
    let members = list(&overview["members"]);
    let mut machines = Vec::new();
    for member in members {
        let name = text_of(&member["name"]);
        let busy = series(member, "weir_worker_busy_ratio");
        let busy = if busy.is_empty() {
            Value::Null
        } else {
            json!(sum(member, "weir_worker_busy_ratio") / busy.len() as f64)
        };
        let requests = sum(member, "weir_worker_requests_total");
        machines.push(json!({
            "name": name,
            "state": if member["up"] == true { member["state"].clone() } else { "Offline".into() },
            "edge": member["edge"],
            "serves": member["serves"]["version"],
            "failed": member["serves"]["failed"],
            "perSecond": counters.rate(format!("machine {name}"), requests, looked.at),
            "connections": sum(member, "weir_worker_connections"),
            "busy": busy,
            "version": member["version"],
        }));
    }
    let (mut servers, mut pools) = (Vec::new(), Vec::new());
    for (key, object) in looked.status.as_object().into_iter().flatten() {
        let machine = key.rsplit('/').next().unwrap_or_default();
        let (spec, status) = (&object["spec"], &object["status"]);
        let name = text_of(&spec["name"]);
        match text_of(&spec["kind"]) {
            kind @ ("HTTPServer" | "GRPCServer" | "TCPProxy" | "UDPProxy") => {
                let mut row = figures(status, format!("server {key}"), looked.at, counters);
                row.insert("name".into(), name.into());
                row.insert("kind".into(), kind.into());
                row.insert("machine".into(), machine.into());
                row.insert("state".into(), status["state"].clone());
                row.insert("error".into(), status["error"].clone());
                row.insert("connections".into(), status["connections"].clone());
                servers.push(Value::Object(row));
            }
            "Pipeline" => {
                for (filter, parts) in status["filters"].as_object().into_iter().flatten() {
                    for (pool, part) in pools_of(parts) {
                        let place = format!("{filter} {pool}");
                        let mut row = figures(&part["stat"], format!("pool {key} {place}"), looked.at, counters);
                        let checked = list(&part["servers"]);
                        let unwell =
                            checked.iter().filter(|server| server["healthy"] == false || server["ejected"] == true);
                        row.insert("name".into(), name.into());
                        row.insert("pool".into(), place.into());
                        row.insert("machine".into(), machine.into());
                        row.insert("serversChecked".into(), checked.len().into());
                        row.insert("serversUnwell".into(), unwell.count().into());
                        pools.push(Value::Object(row));
                    }
                }
            }
            _ => {}
        }
    }
    let mut vips = Vec::new();
    for vip in list(&overview["vips"]) {
        for machine in list(&vip["machines"]) {
            let (name, at) = (text_of(&vip["name"]), text_of(&machine["name"]));
            let steered = members.iter().flat_map(|member| series(member, "weir_steered_total"));
            let is_its = |labels: &Value| labels["vip"] == name && labels["machine"] == at;
            let packets: f64 = steered.filter(|(labels, _)| is_its(labels)).map(|(_, value)| value).sum();
            // Each machine asks backends for itself.
            let asked = members.iter().flat_map(|member| series(member, "weir_backend_up"));
            let answers = asked.filter(|(labels, _)| labels["vip"] == name && labels["backend"] == at);
            let answers: Vec<bool> = answers.map(|(_, up)| up > 0.0).collect();
            let state = match answers.iter().filter(|up| !**up).count() {
                0 => machine["state"].clone(),
                down => format!("{}, unwell at {down} of {}", text_of(&machine["state"]), answers.len()).into(),
            };
            vips.push(json!({
                "name": name,
                "machine": at,
                "state": state,
                "addresses": vip["addresses"],
                "slots": machine["slots"],
                "share": machine["share"],
                "perSecond": counters.rate(format!("vip {name} {at}"), packets, looked.at),
            }));
        }
    }
    json!({
        "cluster": overview["clusterName"],
        "version": overview["version"],
        "leader": overview["leader"],
        "machines": machines,
        "servers": servers,
        "pools": pools,
        "vips": vips,
    })
}

/// Those parts of a filter's status that have figures, by name; several of one name are numbered.
fn pools_of(parts: &Value) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    for (name, part) in parts.as_object().into_iter().flatten() {
        match part {
            Value::Array(all) => {
                found.extend(all.iter().enumerate().map(|(nth, part)| (format!("{name} {nth}"), part)))
            }
            part => found.push((name.clone(), part)),
        }
    }
    found.retain(|(_, part)| part["stat"].is_object());
    found
}

/// The part of a row that a block of figures gives.
fn figures(stat: &Value, key: String, at: Instant, counters: &mut Counters) -> Map<String, Value> {
    let number = |name: &str| stat[name].as_f64();
    let mut row = Map::new();
    let count = number("count").unwrap_or_default();
    row.insert("count".into(), json!(count));
    row.insert("perSecond".into(), counters.rate(key, count, at));
    let errors = number("m1").filter(|m1| *m1 > 0.0).map(|m1| number("m1Err").unwrap_or_default() / m1);
    row.insert("errors".into(), json!(errors.unwrap_or_default()));
    for name in ["p50", "p95", "p99"] {
        row.insert(format!("{name}Ms"), json!(number(name)));
    }
    row
}

fn series<'v>(member: &'v Value, family: &str) -> Vec<(&'v Value, f64)> {
    list(&member["figures"][family]).iter().map(|one| (&one[0], one[1].as_f64().unwrap_or_default())).collect()
}

fn sum(member: &Value, family: &str) -> f64 {
    series(member, family).iter().map(|(_, value)| value).sum()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn head(shown: &Value, sort: Sort, paused: bool, trouble: &str) -> String {
    let leader = shown["leader"].as_str().unwrap_or("nobody leads");
    let state = if paused { "paused" } else { "live" };
    let mut head = format!(
        "weir {}  version {}  leader {leader}  {state}  by {}   [s]ort [space] pause [q]uit",
        text_of(&shown["cluster"]),
        shown["version"],
        sort.field().1
    );
    if !trouble.is_empty() {
        head.push_str(&format!("\n! {}", base_text::escaped(&trouble.replace('\n', "; "))));
    }
    head
}

/// Tables below each other, of no more lines and columns than these. Each gets its share of the lines.
fn text(shown: &Value, sort: Sort, width: usize, height: usize) -> String {
    let sections = [
        ("machines", &["MACHINE", "STATE", "SERVES", "REQ/S", "CONNECTIONS", "BUSY", "TROUBLE"][..]),
        ("servers", &["SERVER", "MACHINE", "STATE", "REQ/S", "ERRORS", "P50", "P95", "P99", "CONNECTIONS"][..]),
        ("pools", &["PIPELINE", "POOL", "MACHINE", "REQ/S", "ERRORS", "P50", "P95", "P99", "UNWELL"][..]),
        ("vips", &["VIRTUAL IP", "MACHINE", "STATE", "SLOTS", "SHARE", "PACKETS/S", "ADDRESSES"][..]),
    ];
    let filled: Vec<_> = sections.iter().filter(|(key, _)| !list(&shown[*key]).is_empty()).collect();
    // A head, a blank and maybe a line that says how many more.
    let each = (height / filled.len().max(1)).saturating_sub(3).max(1);
    let mut out = Vec::new();
    for (key, columns) in filled {
        let mut rows: Vec<&Value> = list(&shown[*key]).iter().collect();
        let field = sort.field().0;
        match sort {
            Sort::Name => rows.sort_by(|a, b| text_of(&a["name"]).cmp(text_of(&b["name"]))),
            _ => rows.sort_by(|a, b| {
                let of = |row: &Value| row[field].as_f64().unwrap_or(-1.0);
                of(b).total_cmp(&of(a))
            }),
        }
        let more = rows.len().saturating_sub(each);
        rows.truncate(each);
        let mut lines = vec![columns.iter().map(|column| (*column).to_owned()).collect::<Vec<_>>()];
        lines.extend(rows.into_iter().map(|row| cells(key, row)));
        out.extend(table(&lines).lines().map(|line| line.chars().take(width).collect::<String>()));
        if more > 0 {
            out.push(format!("… and {more} more"));
        }
        out.push(String::new());
    }
    out.truncate(height);
    out.join("\n")
}

/// Characters that are shown of what is wrong with a server.
const TROUBLE_MAX: usize = 40;

fn cells(section: &str, row: &Value) -> Vec<String> {
    let word = |key: &str| match &row[key] {
        Value::String(text) => base_text::escaped(text),
        Value::Null => "-".to_owned(),
        Value::Number(number) => number.as_f64().map_or_else(|| number.to_string(), |number| format!("{number:.0}")),
        other => other.to_string(),
    };
    let rate = || row["perSecond"].as_f64().map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"));
    let percent =
        |key: &str| row[key].as_f64().map_or_else(|| "-".to_owned(), |share| format!("{:.1}%", share * 100.0));
    let ms = |key: &str| row[key].as_f64().map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2}ms"));
    let times = || ["p50Ms", "p95Ms", "p99Ms"].map(ms);
    match section {
        "machines" => {
            let trouble = match row["failed"].as_u64() {
                Some(0) | None => String::new(),
                Some(failed) => format!("{failed} objects not as they should be"),
            };
            vec![word("name"), word("state"), word("serves"), rate(), word("connections"), percent("busy"), trouble]
        }
        "servers" => {
            // A long one would push everybody's figures off the screen; -o json has all of it.
            let short = |why: &str| {
                let all = base_text::escaped(why);
                if all.chars().count() <= TROUBLE_MAX {
                    all
                } else {
                    all.chars().take(TROUBLE_MAX - 1).chain(['…']).collect()
                }
            };
            let state = row["error"].as_str().map_or_else(|| word("state"), short);
            let mut cells = vec![word("name"), word("machine"), state, rate(), percent("errors")];
            cells.extend(times());
            cells.push(word("connections"));
            cells
        }
        "pools" => {
            let mut cells = vec![word("name"), word("pool"), word("machine"), rate(), percent("errors")];
            cells.extend(times());
            // Of servers that nothing looks at nobody knows.
            let is_checked = row["serversChecked"].as_u64() != Some(0);
            cells.push(if is_checked {
                format!("{} of {}", word("serversUnwell"), word("serversChecked"))
            } else {
                "-".into()
            });
            cells
        }
        _ => {
            // Addresses and prefixes. The width of the screen cuts what is too long: nothing stands behind them.
            let addresses: Vec<&str> = list(&row["addresses"]).iter().map(text_of).collect();
            let addresses = base_text::escaped(&addresses.join(", "));
            vec![word("name"), word("machine"), word("state"), word("slots"), percent("share"), rate(), addresses]
        }
    }
}

/// As often as people can read.
pub const INTERVAL: &str = "2s";

/// Within which bounds somebody may ask for another one.
pub fn interval(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<base_model::GoDuration>().map(Duration::from).ok();
    let bounds = Duration::from_millis(100)..=Duration::from_secs(60);
    parsed
        .filter(|interval| bounds.contains(interval))
        .ok_or_else(|| "a duration from 100ms to 60s, such as 2s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked(count: u64, at: Instant) -> Looked {
        let stat = json!({"count": count, "m1": 10, "m1Err": 1, "p50": 1.5, "p95": 2, "p99": 3.25});
        let mut server = stat.clone();
        server["state"] = "running".into();
        server["connections"] = 4.into();
        let pool = json!({"stat": stat, "servers": [{"healthy": false}, {"healthy": true}]});
        Looked {
            overview: json!({
                "clusterName": "c", "version": 9, "leader": "m1",
                "members": [{"name": "m1", "up": true, "state": "Leader", "edge": true, "version": "1", "serves": {"version": 9, "failed": 2},
                    "figures": {"weir_worker_requests_total": [[{"worker": "0"}, count], [{"worker": "1"}, count]],
                        "weir_worker_busy_ratio": [[{"worker": "0"}, 0.5], [{"worker": "1"}, 0.25]],
                        "weir_steered_total": [[{"vip": "shop", "machine": "m1"}, 7 * count], [{"vip": "x", "machine": "m1"}, 1]]}}],
                "vips": [{"name": "shop", "addresses": ["192.0.2.1", "198.51.100.0/28"],
                    "machines": [{"name": "m1", "state": "active", "slots": 65537, "share": 1}]}],
            }),
            status: json!({
                "eg-traffic-default/web/m1": {"spec": {"kind": "HTTPServer", "name": "web"}, "status": server},
                "eg-traffic-default/p/m1": {"spec": {"kind": "Pipeline", "name": "p"},
                    "status": {"filters": {"proxy": {"mainPool": pool, "candidatePools": [pool]}, "other": {"limited": 3}}}},
            }),
            at,
            warnings: Vec::new(),
        }
    }

    #[test]
    fn rates_are_of_the_time_between_two_looks() {
        let (mut counters, now) = (Counters::default(), Instant::now());
        let first = shown(&looked(100, now), &mut counters);
        assert_eq!(first["servers"][0]["perSecond"], Value::Null);
        let second = shown(&looked(150, now + Duration::from_secs(2)), &mut counters);
        assert_eq!(second["servers"][0]["perSecond"], 25.0);
        assert_eq!(second["machines"][0]["perSecond"], 50.0);
        assert_eq!((&second["machines"][0]["busy"], &second["vips"][0]["perSecond"]), (&json!(0.375), &json!(175.0)));
        assert_eq!((second["pools"].as_array().unwrap().len(), &second["pools"][0]["serversUnwell"]), (2, &json!(1)));
        // A machine that was started again counts from the beginning.
        let third = shown(&looked(10, now + Duration::from_secs(4)), &mut counters);
        assert_eq!(third["servers"][0]["perSecond"], Value::Null);
        let text = text(&second, Sort::Rate, 200, 60);
        for wanted in [
            "m1        Leader   9        50.0",
            "0.375",
            "web",
            "3.25ms",
            "proxy mainPool",
            "1 of 2",
            "65537",
            "10.0%",
            "192.0.2.1, 198.51.100.0/28",
        ] {
            let found = text.contains(wanted) || wanted == "0.375" && text.contains("37.5%");
            assert!(found, "{wanted}: {text}");
        }
    }

    #[test]
    fn backends_that_some_machines_find_unwell_are_told() {
        let (mut counters, now) = (Counters::default(), Instant::now());
        let mut looked = looked(1, now);
        let up = |of: [u8; 2]| json!([[{"vip": "shop", "backend": "web-1"}, of[0]], [{"vip": "shop", "backend": "web-2"}, of[1]]]);
        looked.overview["members"] = json!([
            {"name": "m1", "figures": {"weir_backend_up": up([1, 1])}},
            {"name": "m2", "figures": {"weir_backend_up": up([1, 0])}},
        ]);
        let backend = |name: &str| json!({"name": name, "state": "active", "slots": 1, "share": 0.5, "backend": true});
        looked.overview["vips"] = json!([{"name": "shop", "machines": [backend("web-1"), backend("web-2")]}]);
        let shown = shown(&looked, &mut counters);
        assert_eq!(
            (&shown["vips"][0]["state"], &shown["vips"][1]["state"]),
            (&json!("active"), &json!("active, unwell at 1 of 2"))
        );
    }

    #[test]
    fn no_more_lines_and_columns_than_the_terminal_has() {
        let (mut counters, now) = (Counters::default(), Instant::now());
        let mut all = shown(&looked(1, now), &mut counters);
        let many: Vec<Value> = (0..500).map(|n| json!({"name": format!("server-{n}"), "perSecond": n})).collect();
        all["servers"] = many.into();
        for (width, height) in [(80, 24), (20, 10), (1, 1), (200, 60)] {
            let text = text(&all, Sort::Rate, width, height);
            assert!(text.lines().count() <= height, "{width}x{height}: {text}");
            assert!(text.lines().all(|line| line.chars().count() <= width.max(20)), "{width}x{height}: {text}");
        }
        let text = text(&all, Sort::Rate, 80, 40);
        assert!(text.contains("server-499") && !text.contains("server-1 ") && text.contains("more"), "{text}");
    }
}

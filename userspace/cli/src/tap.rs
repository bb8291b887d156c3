//! `tap` and `explain-request`: requests as they end, and what became of one.

use std::time::Duration;

use hyper::Method;
use serde_json::Value;

use crate::arguments::{Format, Tap};
use crate::documents::word;
use crate::output::{print, structured, try_print};
use crate::server::{Server, segment, value};

/// Prints requests as they end, until there were enough, the time is over, or somebody ends it.
pub async fn tap(server: &Server, tap: &Tap, format: Format) -> Result<(), String> {
    let mut query = Vec::new();
    let asked = [
        ("host", &tap.host),
        ("path", &tap.path),
        ("method", &tap.method),
        ("server", &tap.http_server),
        ("status", &tap.status),
        ("client", &tap.client),
        ("slow", &tap.slow),
        ("sample", &tap.sample),
        ("member", &tap.member),
    ];
    for (key, text) in asked {
        query.extend(text.as_ref().map(|text| format!("{key}={}", segment(text))));
    }
    query.extend(tap.rate.map(|rate| format!("rate={rate}")));
    let path = format!("/tap?{}", query.join("&"));
    let (mut rest, mut shown) = (Vec::new(), 0);
    let take = |bytes: &[u8]| {
        rest.extend_from_slice(bytes);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let text: Vec<u8> = rest.drain(..=end).collect();
            let Ok(line) = serde_json::from_slice::<Value>(&text) else { continue };
            match (word(&line, "warning"), line["missed"].as_u64()) {
                ("", None) => {
                    shown += 1;
                    let printed = match format {
                        Format::Default => try_print(&row(&line)),
                        format => print_line(&line, format),
                    };
                    if printed.is_err() {
                        // Whoever read has seen enough.
                        return false;
                    }
                }
                ("", Some(missed)) => eprintln!(
                    "{}: {missed} more were not shown; a filter, --sample or --rate helps",
                    word(&line, "machine")
                ),
                (warning, _) => eprintln!("{}: {warning}", word(&line, "machine")),
            }
            if tap.count.is_some_and(|most| shown >= most) {
                return false;
            }
        }
        true
    };
    let stream = server.stream(&path, take);
    match tap.r#for {
        None => stream.await,
        Some(time) => tokio::time::timeout(time, stream).await.unwrap_or(Ok(())),
    }
}

/// Each on one line in JSON, each a document in YAML.
pub fn print_line(line: &Value, format: Format) -> std::io::Result<()> {
    match format {
        Format::Yaml => try_print(&format!("---\n{}", base_model::yaml::to_string(line))),
        _ => try_print(&line.to_string()),
    }
}

/// One request on one line.
fn row(request: &Value) -> String {
    let time = word(request, "time").get(11..).unwrap_or_default();
    let end = match word(request, "endedBy") {
        "nobody" => String::new(),
        _ => format!("  {}", word(request, "end")),
    };
    format!(
        "{time}  {}  {}  {}  {}  {} {}{}  {}{end}",
        word(request, "machine"),
        word(request, "realIP"),
        request["status"],
        took(&request["durationMs"]),
        word(request, "method"),
        word(request, "host"),
        word(request, "target"),
        word(request, "id"),
    )
}

/// Tells what became of the requests with this id.
pub async fn explain(server: &Server, id: &str, format: Format) -> Result<(), String> {
    let answer = value(&server.send(Method::GET, &format!("/requests/{}", segment(id)), String::new()).await?)?;
    if format != Format::Default {
        structured(&answer, format);
        return Ok(());
    }
    let told: Vec<String> = answer["requests"].as_array().into_iter().flatten().map(story).collect();
    print(&told.join("\n"));
    Ok(())
}

/// What became of a request, for people.
fn story(request: &Value) -> String {
    let mut lines = vec![
        format!("request   {}", word(request, "id")),
        format!(
            "asked     {} {}://{}{} ({}) by {} at {}",
            word(request, "method"),
            word(request, "scheme"),
            word(request, "host"),
            word(request, "target"),
            word(request, "protocol"),
            word(request, "realIP"),
            word(request, "time"),
        ),
        format!("of        server {} on machine {}", word(request, "server"), word(request, "machine")),
        format!(
            "answered  {} in {} (its head after {}), {} bytes",
            request["status"],
            took(&request["durationMs"]),
            took(&request["answeredMs"]),
            request["responseBytes"],
        ),
        format!("ended by  {}: {}", word(request, "endedBy"), word(request, "end")),
    ];
    let route = &request["route"];
    match &route["taken"] {
        Value::Null if !route.is_null() => lines.push("route     none takes it".to_owned()),
        Value::Null => {}
        taken => lines.push(format!(
            "route     rules[{}].paths[{}] ({}) to pipeline {}",
            taken["rule"],
            taken["path"],
            word(taken, "matched"),
            word(taken, "pipeline"),
        )),
    }
    if let Some(note) = request["routeNote"].as_str() {
        lines.push(format!("          ({note})"));
    }
    let none = Vec::new();
    let list = |key: &str| request[key].as_array().unwrap_or(&none);
    for other in route["others"].as_array().unwrap_or(&none) {
        let path = other["path"].as_u64().map_or_else(String::new, |path| format!(".paths[{path}]"));
        lines.push(format!("  not     rules[{}]{path}: {}", other["rule"], word(other, "why")));
    }
    if let Some(more) = route["notShown"].as_u64().filter(|more| *more > 0) {
        lines.push(format!("  and     {more} more that did not, or were not looked at"));
    }
    for filter in list("filters") {
        let result = match word(filter, "result") {
            "" => "passed",
            result => result,
        };
        lines.push(format!("filter    {}: {result} in {}", word(filter, "name"), took(&filter["durationMs"])));
    }
    for tried in list("tries") {
        let what = match tried["status"].as_u64() {
            Some(status) => format!("answered {status}"),
            None => word(tried, "error").to_owned(),
        };
        let (pool, server) = (word(tried, "pool"), word(tried, "server"));
        lines.push(format!("try       {server} of {pool}: {what} in {}", took(&tried["durationMs"])));
    }
    lines.extend(list("limits").iter().filter_map(Value::as_str).map(|limit| format!("bound     {limit} was reached")));
    lines.extend(list("notes").iter().filter_map(Value::as_str).map(|note| format!("note      {note}")));
    lines.push(String::new());
    lines.join("\n")
}

fn took(ms: &Value) -> String {
    base_text::duration(Duration::from_secs_f64(ms.as_f64().unwrap_or_default().max(0.0) / 1e3)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_story_has_everything_that_is_known() {
        let request = json!({
            "id": "i1", "time": "2026-01-02T03:04:05.678Z", "machine": "m1", "server": "web", "realIP": "192.0.2.1",
            "protocol": "HTTP/1.1", "scheme": "http", "method": "GET", "host": "shop.test", "target": "/cart", "status": 503,
            "durationMs": 12.5, "answeredMs": 12.25, "responseBytes": 0, "endedBy": "server", "end": "http://b: refused",
            "route": {"taken": {"rule": 1, "path": 0, "matched": "pathPrefix /", "pipeline": "p"},
                "others": [{"rule": 0, "path": null, "why": "host x is none of y"}], "notShown": 3},
            "filters": [{"name": "proxy", "result": "serverError", "durationMs": 12}],
            "tries": [{"pool": "main", "server": "http://b", "status": null, "error": "refused", "durationMs": 1}],
            "limits": ["server_queue"], "notes": ["a note"],
        });
        let wanted = [
            "request   i1",
            "asked     GET http://shop.test/cart (HTTP/1.1) by 192.0.2.1 at 2026-01-02T03:04:05.678Z",
            "of        server web on machine m1",
            "answered  503 in 12.5ms (its head after 12.25ms), 0 bytes",
            "ended by  server: http://b: refused",
            "route     rules[1].paths[0] (pathPrefix /) to pipeline p",
            "  not     rules[0]: host x is none of y",
            "  and     3 more that did not, or were not looked at",
            "filter    proxy: serverError in 12ms",
            "try       http://b of main: refused in 1ms",
            "bound     server_queue was reached",
            "note      a note",
            "",
        ];
        assert_eq!(story(&request), wanted.join("\n"));
        assert_eq!(
            row(&request),
            "03:04:05.678Z  m1  192.0.2.1  503  12.5ms  GET shop.test/cart  i1  http://b: refused"
        );
    }
}

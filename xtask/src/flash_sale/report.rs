//! The report: one HTML file with its plots in it, for light and dark screens.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;

use super::Size;
use super::goals::{COLUMNS, Goal, Run, goodput, percentile};

pub fn html(goals: &[Goal], runs: &[Run], best: &Run, size: Size) -> String {
    let mut page = String::from(HEAD);
    let _ = writeln!(
        page,
        "<h1>A flash sale at ten times the shop's capacity</h1>\n<p>{} pieces, {} people a second for {} s, and {} requests a second of bots. The \
         shop alone served {:.0} requests a second, with a p99 of {:.0} ms.</p>\n<table><tr><th>goal</th><th>wanted</th><th>got</th><th></th></tr>",
        size.stock,
        size.rate,
        size.seconds,
        size.bots,
        goodput(best),
        best.p99()
    );
    for goal in goals {
        let held = if goal.held { "held" } else { "not held" };
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"{}\">{held}</td></tr>",
            text(goal.name),
            text(&goal.wanted),
            text(&goal.got),
            held.replace(' ', "-")
        );
    }
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
        let row: String = cells.map(|cell| format!("<{tag}>{}</{tag}>", text(cell))).collect();
        format!("<tr>{row}</tr>\n")
    };
    let _ = write!(page, "</table>\n<h2>By each way</h2>\n<table>{}", cells("th", &mut COLUMNS.into_iter()));
    for run in runs {
        page.push_str(&cells("td", &mut run.row(size).iter().map(String::as_str)));
    }
    page.push_str("</table>\n");
    runs.iter().for_each(|run| plots(&mut page, run));
    page.push_str("</body></html>\n");
    page
}

fn plots(page: &mut String, run: &Run) {
    let _ = writeln!(page, "<h2>{}</h2>", text(run.name));
    for (at, mark) in &run.marks {
        let _ = writeln!(page, "<p class=\"mark\">{at:.1} s: {}</p>", text(mark));
    }
    let of = |name: &str| series(run, |second| second[name].as_f64().unwrap_or(0.0));
    let mut add = |title: &str, lines: &[(&str, Vec<f64>)]| page.push_str(&plot(title, lines, &run.marks));
    add(
        "arrivals: people who came and requests of all, a second",
        &[("people", of("arrived")), ("requests", of("requests"))],
    );
    add("goodput: requests the shop served, a second", &[("served", of("served")), ("bought", of("bought"))]);
    let latency = |share: f64| series(run, move |second| percentile(&second["accepted_ms"], share));
    add("time of accepted requests, ms", &[("p50", latency(0.5)), ("p99", latency(0.99))]);
    let reasons: BTreeSet<&String> = seconds(run)
        .iter()
        .flat_map(|second| second["refused"].as_object().into_iter().flatten().map(|(r, _)| r))
        .collect();
    let refused: Vec<(&str, Vec<f64>)> = reasons
        .iter()
        .map(|reason| {
            let of_reason = |second: &Value| second["refused"][reason.as_str()].as_f64().unwrap_or(0.0);
            (reason.as_str(), series(run, of_reason))
        })
        .collect();
    add("refused, by reason, a second", &refused);
    let mut queues = vec![("inside the shop, at most", of("inside"))];
    if run.watched.waiting.iter().any(|waiting| *waiting > 0.0) {
        queues.push(("in the waiting room", run.watched.waiting.clone()));
    }
    add("queues", &queues);
    let cpu: Vec<(&str, Vec<f64>)> = run
        .watched
        .cpu
        .iter()
        .map(|(name, shares)| (name.as_str(), shares.iter().map(|share| share * 100.0).collect()))
        .collect();
    if !cpu.is_empty() {
        add("CPU by machine, % of one", &cpu);
    }
    if run.watched.scrapes > 0 {
        let _ = writeln!(
            page,
            "<p>Metrics were scraped {} times, and not answered {} times.</p>",
            run.watched.scrapes, run.watched.unanswered
        );
    }
}

fn seconds(run: &Run) -> &[Value] {
    run.seen["seconds"].as_array().map_or(&[], Vec::as_slice)
}

fn series(run: &Run, of: impl Fn(&Value) -> f64) -> Vec<f64> {
    seconds(run).iter().map(of).collect()
}

/// Lines over the seconds of a sale; marks are upright.
fn plot(title: &str, lines: &[(&str, Vec<f64>)], marks: &[(f64, String)]) -> String {
    let (width, height) = (640.0, 150.0);
    let long = lines.iter().map(|(_, line)| line.len()).max().unwrap_or(1).max(2) as f64 - 1.0;
    let high = lines.iter().flat_map(|(_, line)| line.iter().copied()).fold(1.0, f64::max);
    let mut svg = format!(
        "<figure><figcaption>{}</figcaption><svg viewBox=\"-50 -10 {} {}\" role=\"img\" aria-label=\"{}\">\n<text x=\"-5\" y=\"8\" text-anchor=\"end\">{high:.0}</text>\
         <text x=\"-5\" y=\"{height}\" text-anchor=\"end\">0</text><path class=\"axis\" d=\"M0 0V{height}H{width}\"/><text x=\"{width}\" y=\"{}\" text-anchor=\"end\">{long:.0} s</text>\n",
        text(title),
        width + 70.0,
        height + 40.0,
        text(title),
        height + 16.0
    );
    for (at, _) in marks {
        let x = at.min(long) / long * width;
        let _ = writeln!(svg, "<path class=\"upright\" d=\"M{x:.1} 0V{height}\"/>");
    }
    let apart = (width / lines.len().max(1) as f64).min(170.0);
    for (at, (name, line)) in lines.iter().enumerate() {
        let points: Vec<String> = line
            .iter()
            .enumerate()
            .map(|(second, value)| format!("{:.1},{:.1}", second as f64 / long * width, height - value / high * height))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline class=\"line l{}\" points=\"{}\"/><text class=\"l{}\" x=\"{}\" y=\"{}\">{}</text>",
            at % 6,
            points.join(" "),
            at % 6,
            at as f64 * apart,
            height + 16.0,
            text(name)
        );
    }
    svg.push_str("</svg></figure>\n");
    svg
}

fn text(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const HEAD: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>A flash sale</title>
<style>
:root{color-scheme:light dark;--ink:#222;--paper:#fff;--faint:#bbb;--c0:#0b63b0;--c1:#c0392b;--c2:#2e7d32;--c3:#8e44ad;--c4:#b7791f;--c5:#00838f}
@media (prefers-color-scheme:dark){:root{--ink:#ddd;--paper:#161616;--faint:#555;--c0:#6cb4ff;--c1:#ff8a7a;--c2:#7fd487;--c3:#d3a4f0;--c4:#f0c36d;--c5:#6fd6e0}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:48rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse}td,th{padding:.2rem .8rem .2rem 0;text-align:left;border-bottom:1px solid var(--faint)}
.held{color:var(--c2)}.not-held{color:var(--c1)}figure{margin:1rem 0}figcaption{font-weight:600}svg text{font-size:12px;fill:var(--ink)}
.axis,.upright{fill:none;stroke:var(--faint)}.upright{stroke-dasharray:3 3}.line{fill:none;stroke-width:2}.mark{margin:0}
polyline.l0{stroke:var(--c0)}polyline.l1{stroke:var(--c1)}polyline.l2{stroke:var(--c2)}polyline.l3{stroke:var(--c3)}polyline.l4{stroke:var(--c4)}polyline.l5{stroke:var(--c5)}
svg text.l0{fill:var(--c0)}svg text.l1{fill:var(--c1)}svg text.l2{fill:var(--c2)}svg text.l3{fill:var(--c3)}svg text.l4{fill:var(--c4)}svg text.l5{fill:var(--c5)}
</style></head><body>
"#;

//! What was seen, in figures, and which goals were held.

use serde_json::{Value, json};

use super::watch::Watched;
use super::{BESIDE_BOTS, Size, THREADS, WITHOUT_BOTS};

/// One way to sell.
pub struct Run {
    pub name: &'static str,
    /// It is one of ours that promises what the goals say.
    pub promises: bool,
    /// What the people saw.
    pub seen: Value,
    /// Seconds since the start of the sale, and what was done then.
    pub marks: Vec<(f64, String)>,
    /// What the machines said.
    pub watched: Watched,
}

/// What a refused request costs the machine that refuses it.
#[derive(Clone, Copy)]
pub struct Refusal {
    pub user_us: f64,
    /// The kernel's part with it.
    pub all_us: f64,
    pub per_second: f64,
}

/// Whether a goal was held.
pub struct Goal {
    pub name: &'static str,
    pub wanted: String,
    pub got: String,
    pub held: bool,
    /// It has to be held on a busy machine too.
    pub always: bool,
}

/// Of the table of all ways.
pub const COLUMNS: [&str; 6] = ["", "served a second", "p99 of accepted", "bought by people", "by bots", "oversold"];

impl Run {
    pub fn number(&self, name: &str) -> u64 {
        self.seen[name].as_u64().unwrap_or(0)
    }

    fn oversold(&self, size: Size) -> u64 {
        self.number("sold").saturating_sub(size.stock)
    }

    pub fn p99(&self) -> f64 {
        percentile(&self.seen["accepted_ms"], 0.99)
    }

    pub fn row(&self, size: Size) -> Vec<String> {
        vec![
            self.name.to_owned(),
            format!("{:.0}", goodput(self)),
            format!("{:.0} ms", self.p99()),
            self.number("bought_people").to_string(),
            self.number("bought_bots").to_string(),
            self.oversold(size).to_string(),
        ]
    }

    /// For the JSON: with percentiles in the place of the times of all requests.
    pub fn figures(&self) -> Value {
        let mut seen = self.seen.clone();
        let shrink = |of: &mut Value| {
            for (name, share) in [("p50_ms", 0.5), ("p99_ms", 0.99)] {
                of[name] = json!(percentile(&of["accepted_ms"], share).round());
            }
            if let Some(fields) = of.as_object_mut() {
                fields.remove("accepted_ms");
            }
        };
        shrink(&mut seen);
        seen["seconds"].as_array_mut().into_iter().flatten().for_each(shrink);
        json!({"name": self.name, "marks": self.marks, "machines": self.watched, "seen": seen})
    }

    /// Milliseconds from the last who came until the shop's queue is short for good, and its answers as quick as unloaded ones.
    fn until_normal_ms(&self, unloaded_p99: f64) -> u64 {
        let came = self.number("last_came_ms");
        let queue = self.seen["queue"].as_array().cloned().unwrap_or_default();
        let long = queue.iter().rfind(|sample| sample[1].as_u64().unwrap_or(0) > THREADS * 2);
        let long = long.and_then(|sample| sample[0].as_u64()).unwrap_or(0);
        let seconds = self.seen["seconds"].as_array().cloned().unwrap_or_default();
        let slow = seconds.iter().rposition(|s| percentile(&s["accepted_ms"], 0.99) > 2.0 * unloaded_p99);
        long.max(slow.map_or(0, |second| (second as u64 + 1) * 1000)).saturating_sub(came)
    }

    /// By how many of a hundred what Prometheus was told differs from what people saw: of all answers, and of those from the shop.
    fn differs(&self) -> Option<(f64, f64)> {
        let told = |kinds: &[&str]| kinds.iter().filter_map(|kind| self.watched.outcomes.get(*kind)).sum::<f64>();
        let inside = told(&["admitted", "pass"]);
        let all = self.watched.outcomes.values().sum::<f64>();
        let share = |told: f64, seen: u64| 100.0 * (told - seen as f64).abs() / (seen as f64).max(1.0);
        (all > 0.0).then(|| (share(all, self.number("answers")), share(inside, self.number("from_shop"))))
    }
}

/// Served requests a second, over the seconds in which most was asked of the shop.
pub fn goodput(run: &Run) -> f64 {
    let served: Vec<f64> =
        run.seen["seconds"].as_array().into_iter().flatten().filter_map(|s| s["served"].as_f64()).collect();
    // The sale: from when most is asked of the shop until less than a fifth of the best is served; the last second is not whole.
    let best = served.iter().copied().fold(0.0, f64::max);
    let much = |served: &f64| *served > best / 5.0;
    let busy: Vec<f64> = served.iter().copied().skip(2).skip_while(|s| !much(s)).take_while(much).collect();
    let busy = if busy.len() > 2 { &busy[..busy.len() - 1] } else { &busy[..] };
    busy.iter().fold(0.0, |sum, served| sum + served) / busy.len().max(1) as f64
}

pub fn percentile(sorted: &Value, share: f64) -> f64 {
    let all = sorted.as_array().map_or(&[][..], Vec::as_slice);
    let at = ((all.len() as f64 * share) as usize).min(all.len().saturating_sub(1));
    all.get(at).and_then(Value::as_f64).unwrap_or(0.0)
}

/// All rows of the table, each from what was measured.
pub fn goals(best: &Run, runs: &[Run], refusal: Option<Refusal>, size: Size) -> Vec<Goal> {
    let ours: Vec<&Run> = runs.iter().filter(|run| run.promises).collect();
    let of = |name: &str| ours.iter().copied().find(|run| run.name == name);
    // A quick sale has one only.
    let Some(run) = of(BESIDE_BOTS).or(ours.first().copied()) else { return Vec::new() };
    let goal = |name: &'static str, wanted: &str, got: String, held| {
        let always = [OVERSOLD, LATER].contains(&name);
        Goal { name, wanted: wanted.to_owned(), got, held, always }
    };
    let share = 100.0 * goodput(run) / goodput(best).max(1.0);
    let unloaded = percentile(&best.seen["accepted_ms"], 0.99);
    let oversold: u64 = ours.iter().map(|run| run.oversold(size)).sum();
    let later: u64 = ours.iter().map(|run| run.number("refused_later")).sum();
    let sales = if ours.len() == 1 { String::new() } else { format!(", in {} sales", ours.len()) };
    let normal = run.until_normal_ms(unloaded) as f64 / 1e3;
    let alone = of(WITHOUT_BOTS).map_or(size.stock, |run| run.number("bought_people"));
    let people = 100.0 * run.number("bought_people") as f64 / alone.max(1) as f64;
    let mut goals = vec![
        goal("goodput at 10×", "≥ 95 % of the shop's best", format!("{share:.1} %"), share >= 95.0),
        goal(
            "p99 of accepted requests",
            "≤ 2× unloaded",
            format!("{:.0} ms, unloaded {unloaded:.0} ms", run.p99()),
            run.p99() <= 2.0 * unloaded,
        ),
        goal(OVERSOLD, "0", format!("{oversold}{sales}"), oversold == 0),
        goal(LATER, "0", format!("{later}{sales}"), later == 0),
        goal("from the end of the rush to normal", "≤ 2 s", format!("{normal:.1} s"), normal <= 2.0),
        goal(
            "people's purchases beside bots",
            "≥ 90 % of those without",
            format!("{} of {alone}, {people:.0} %", run.number("bought_people")),
            people >= 90.0,
        ),
    ];
    if let Some(refusal) = refusal {
        let got = format!(
            "{:.1} µs, and {:.1} µs of the kernel's ({:.0} a second)",
            refusal.user_us,
            refusal.all_us - refusal.user_us,
            refusal.per_second
        );
        goals.push(goal("CPU per refused request, outside the kernel", "≤ 2 µs", got, refusal.user_us <= 2.0));
    }
    if let Some(faults) = ours.iter().find(|run| !run.marks.is_empty()) {
        let last = faults.marks.iter().fold(0.0, |last: f64, (at, _)| last.max(*at));
        let got = format!("{}, the last after {last:.1} s", faults.marks.len());
        let wanted = format!("all within the {} s in which people come", size.seconds);
        goals.push(goal("faults while it runs at ten times", &wanted, got, last <= size.seconds as f64));
    }
    if let Some((all, inside)) = run.differs() {
        let got = format!("{all:.1} % of all answers, {inside:.1} % of the shop's");
        goals.push(goal("metrics beside what people saw", "within 1 %", got, all <= 1.0 && inside <= 1.0));
    }
    goals
}

const OVERSOLD: &str = "oversold";
const LATER: &str = "admitted and refused later";

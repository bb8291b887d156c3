//! What the machines say while a sale goes on: their CPU time, and the metrics as Prometheus scrapes them.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::progress::note;
use crate::tools;

/// Processes by name; one that is started anew takes the place of the one before.
pub type Pids = Arc<Mutex<BTreeMap<String, u32>>>;

/// By the second since the watch began.
#[derive(Default, Serialize)]
pub struct Watched {
    /// Share of one CPU, by machine.
    pub cpu: BTreeMap<String, Vec<f64>>,
    /// People of the whole cluster who wait, and numbers that were given, as the edge says that has heard most.
    pub waiting: Vec<f64>,
    pub given: Vec<f64>,
    /// `weir_room_requests_total` of all edges, by outcome.
    pub outcomes: BTreeMap<String, f64>,
    /// Scrapes that were answered, and that were not.
    pub scrapes: u64,
    pub unanswered: u64,
}

/// Where the metrics of an edge are.
#[derive(Clone)]
pub struct Scraped {
    pub edge: String,
    /// The network namespace; none: this one.
    pub namespace: Option<String>,
    pub api: String,
}

pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Watched>,
}

impl Watch {
    /// Watches until [`Watch::end`]; of the rooms those of this sale.
    pub fn begin(pids: Pids, scraped: Vec<Scraped>, sale: &str) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, sale) = (stop.clone(), sale.to_owned());
        let thread = thread::spawn(move || {
            let mut look = Look { pids, scraped, sale, before: BTreeMap::new(), counters: BTreeMap::new() };
            let (began, mut watched) = (Instant::now(), Watched::default());
            look.cpu();
            for second in 1.. {
                let due = began + Duration::from_secs(second);
                while Instant::now() < due && !told.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(20));
                }
                let over = told.load(Ordering::Relaxed);
                look.once(&mut watched);
                if second % 5 == 0
                    && let (Some(waiting), Some(given)) = (watched.waiting.last(), watched.given.last())
                {
                    note(format!("{second} s: {waiting:.0} wait, {given:.0} were let in"));
                }
                if over {
                    break;
                }
            }
            watched
        });
        Watch { stop, thread }
    }

    /// After one more look.
    pub fn end(self) -> Watched {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

struct Look {
    pids: Pids,
    scraped: Vec<Scraped>,
    sale: String,
    /// Seconds of CPU at the last look, by name, with the pid.
    before: BTreeMap<String, (u32, f64)>,
    /// By edge and outcome: what it said last, and what it had said before it was started anew.
    counters: BTreeMap<(String, String), (f64, f64)>,
}

impl Look {
    fn once(&mut self, watched: &mut Watched) {
        for (name, share) in self.cpu() {
            let seconds = watched.waiting.len();
            let line = watched.cpu.entry(name).or_default();
            line.resize(seconds, 0.0);
            line.push((share * 1000.0).round() / 1000.0);
        }
        let (mut waiting, mut given) = (0.0_f64, watched.given.last().copied().unwrap_or(0.0));
        for at in 0..self.scraped.len() {
            match scrape(&self.scraped[at]) {
                Some(text) => {
                    watched.scrapes += 1;
                    let [own_waiting, own_given] = self.read(at, &text);
                    if own_given >= given {
                        (waiting, given) = (own_waiting.max(waiting), own_given);
                    }
                }
                None => watched.unanswered += 1,
            }
        }
        watched.waiting.push(waiting);
        watched.given.push(given);
        watched.outcomes.clear();
        for ((_, outcome), (last, before)) in &self.counters {
            *watched.outcomes.entry(outcome.clone()).or_default() += last + before;
        }
    }

    /// Seconds of CPU since the last look.
    fn cpu(&mut self) -> Vec<(String, f64)> {
        let pids = self.pids.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let spent = |(name, pid): (String, u32)| {
            let now = cpu_of(pid);
            let before = self.before.insert(name.clone(), (pid, now)).filter(|(of, _)| *of == pid);
            (name, (now - before.map_or(0.0, |(_, spent)| spent)).max(0.0))
        };
        pids.into_iter().map(spent).collect()
    }

    /// Takes note of the counters of this sale; who waits and how many numbers were given, as this edge has heard.
    fn read(&mut self, at: usize, text: &str) -> [f64; 2] {
        let (mut waiting, mut given) = (0.0, 0.0);
        let sale = format!("sale=\"{}\"", self.sale);
        for line in text.lines().filter(|line| line.contains(&sale)) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let outcome = series.split("outcome=\"").nth(1).and_then(|rest| rest.split('"').next());
            match (series.split('{').next().unwrap_or_default(), outcome) {
                ("weir_room_waiting", _) => waiting = value,
                ("weir_room_given", _) => given = value,
                ("weir_room_requests_total", Some(outcome)) => {
                    let place = (self.scraped[at].edge.clone(), outcome.to_owned());
                    let (last, before) = self.counters.entry(place).or_default();
                    if value < *last {
                        *before += *last;
                    }
                    *last = value;
                }
                _ => {}
            }
        }
        [waiting, given]
    }
}

fn scrape(of: &Scraped) -> Option<String> {
    let url = format!("http://{}/metrics", of.api);
    let mut command = match &of.namespace {
        Some(name) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/run/netns/{name}")).args(["--", "curl"]);
            command
        }
        None => Command::new("curl"),
    };
    tools::run(command.args(["-s", "-f", "-m", "1", &url])).ok()
}

/// Seconds of CPU a process has taken: fields 14 and 15 of its line in /proc, in hundredths (proc_pid_stat(5)).
fn cpu_of(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_an_edge_that_was_started_anew_go_on() {
        let scraped = Scraped { edge: "e".into(), namespace: None, api: String::new() };
        let mut look = Look {
            pids: Pids::default(),
            scraped: vec![scraped],
            sale: "s".into(),
            before: BTreeMap::new(),
            counters: BTreeMap::new(),
        };
        let told = |admitted: u32, given: u32| {
            format!(
                "weir_room_requests_total{{filter=\"room\",sale=\"s\",outcome=\"admitted\"}} {admitted}\n\
                 weir_room_requests_total{{filter=\"room\",sale=\"other\",outcome=\"admitted\"}} 99\n\
                 weir_room_given{{filter=\"room\",sale=\"s\"}} {given}\nweir_room_waiting{{sale=\"s\"}} 7\n"
            )
        };
        assert_eq!(look.read(0, &told(5, 20)), [7.0, 20.0]);
        look.read(0, &told(9, 25));
        look.read(0, &told(2, 27));
        assert_eq!(look.counters[&("e".to_owned(), "admitted".to_owned())], (2.0, 9.0));
    }
}

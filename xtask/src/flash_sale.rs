//! `flash-sale`: ten times as many people as a shop can serve, all at once; with protection and without.
//!
//! As root three edges stand in network namespaces, as in the demo; without root one edge on loopback. The shop serves a fixed number of
//! requests a second and degrades when it is overdriven. It is sold out several times: behind a `WaitingRoom` with people alone, with
//! nine bots for each of them, and with faults (a change is applied, an edge is killed and comes back, the leader is killed); behind a
//! plain `Proxy`; behind a `Lottery`, which is the shape of Easegress's recipe; and behind nginx (`limit_req`) and HAProxy (`maxconn`
//! and its queue) where they are installed. Each second the edges' metrics are scraped. What was seen becomes a report, HTML and JSON.
//!
//! Reading order: `place.rs` (where it happens), `ways.rs` (the ways to sell), `watch.rs` (what machines say meanwhile), `goals.rs`
//! (figures), `report.rs`.

mod goals;
mod place;
mod report;
mod watch;
mod ways;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use serde_json::json;

use crate::cargo::{self, Build, Profile};
use crate::fleet::Fleet;
use crate::pgo;
use crate::progress::{self, Colour, note, paint, title, warn};
use crate::tools::{self, ETHTOOL, IP, NSENTER};
use goals::{Goal, Run, goodput, percentile};
use place::Place;

#[derive(clap::Args)]
pub struct Options {
    /// A small sale of a few seconds, as the tests have it
    #[arg(long)]
    quick: bool,
    /// One edge on loopback, even as root
    #[arg(long)]
    loopback: bool,
    /// Sell through the weir, weirctl and sale of this folder instead of building them
    #[arg(long)]
    binaries: Option<PathBuf>,
    /// dist sells through what is shipped; release is quicker to build
    #[arg(long, value_enum, default_value = "dist")]
    profile: Build,
    /// Folder of the report
    #[arg(long, default_value = "target/flash-sale")]
    out: PathBuf,
}

/// What is sold, and to how many.
#[derive(Clone, Copy)]
pub struct Size {
    pub stock: u64,
    /// People a second, ten times what the shop can serve.
    pub rate: u64,
    pub seconds: u64,
    pub watch: u64,
    /// Requests of bots a second.
    pub bots: u64,
}

/// Requests the shop works on at a time, and the time for each: 60 a second.
pub const THREADS: u64 = 6;
pub const SERVICE_MS: u64 = 100;
/// Requests a second that the shop serves.
pub const CAPACITY: u64 = 1000 * THREADS / SERVICE_MS;
/// People in the shop at a time, by the waiting room: a third more than it works on, so that none of its threads waits for one.
pub const ACTIVE: u64 = THREADS + THREADS / 3;
/// A person looks at the shop and buys: two requests.
pub const PEOPLE_A_SECOND: u64 = CAPACITY / 2;

/// A small sale with binaries that are there: what must hold on any machine, however busy.
pub fn quick(binaries: &Path) -> Result<(), String> {
    let out = cargo::target()?.join("flash-sale-quick");
    let binaries = Some(binaries.to_owned());
    run(&Options { quick: true, loopback: false, binaries, profile: Build::Dist, out })
}

pub fn run(options: &Options) -> Result<(), String> {
    let id = format!("s{}", std::process::id());
    // In memory where there is such a place: a disk that others keep busy would be measured, and not the sale.
    let shared = Path::new("/dev/shm");
    let base = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
    let folder = base.join(format!("weir-sale-{id}"));
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let sold = sell(options, &id, &folder);
    match sold {
        Ok(broken) => {
            let _ = fs::remove_dir_all(&folder);
            if broken == 0 { Ok(()) } else { Err(format!("{broken} goals were not held")) }
        }
        Err(problem) => Err(format!("{problem}\n  Logs and documents are in {}", folder.display())),
    }
}

fn sell(options: &Options, id: &str, folder: &Path) -> Result<usize, String> {
    title("A flash sale at ten times the shop's capacity");
    let binaries = match &options.binaries {
        Some(folder) => std::path::absolute(folder).map_err(|error| format!("{}: {error}", folder.display()))?,
        None => match options.profile {
            Build::Dist => pgo::build()?,
            Build::Release => cargo::build(&["server", "cli", "bench"], Profile::Release)?,
        },
    };
    let rate = PEOPLE_A_SECOND * 10;
    let size = if options.quick {
        Size { stock: 80, rate, seconds: 2, watch: 12, bots: 60 }
    } else {
        Size { stock: 360, rate, seconds: 8, watch: 25, bots: rate * 9 }
    };
    let fleet = if tools::is_root() && !options.loopback {
        tools::require(&[IP, ETHTOOL, NSENTER])?;
        Some(Fleet::new(id, 3, 1)?)
    } else {
        warn("without root there is one edge on loopback: nothing is killed during the sale");
        None
    };
    let mut place = Place::new(fleet, binaries, folder.to_owned())?;
    let best = place.unloaded()?;
    let (runs, refusal) = if options.quick {
        (vec![place.room("with a WaitingRoom", "quick", size, false)?, place.bare(size)?], None)
    } else {
        place.warm_up()?;
        let mut runs = vec![place.room(WITHOUT_BOTS, "people", Size { bots: 0, ..size }, false)?];
        runs.push(place.room(BESIDE_BOTS, "bots", size, false)?);
        // The room is sold out now, and refuses whoever comes.
        let refusal = place.refusal().map_err(|problem| warn(format!("refusals are not measured: {problem}"))).ok();
        runs.push(place.room(WITH_FAULTS, "faults", size, true)?);
        runs.push(place.bare(size)?);
        runs.push(place.recipe(size)?);
        for peer in ["nginx", "haproxy"] {
            match tools::find(peer) {
                Some(program) => match place.peer(peer, &program, size) {
                    Ok(run) => runs.push(run),
                    Err(problem) => warn(format!("{peer} is left out: {problem}")),
                },
                None => note(format!("{peer} is not installed, and left out")),
            }
        }
        (runs, refusal)
    };
    let goals = goals::goals(&best, &runs, refusal, size);
    show(&goals, &runs, size);
    let html = report::html(&goals, &runs, &best, size);
    let figures = json!({
        "machine": {"cpus": thread::available_parallelism().map_or(0, |cpus| cpus.get())},
        "stock": size.stock,
        "best_served_per_second": goodput(&best),
        "unloaded_p99_ms": percentile(&best.seen["accepted_ms"], 0.99),
        "goals": goals.iter().map(|goal| json!({"goal": goal.name, "wanted": goal.wanted, "got": goal.got, "held": goal.held})).collect::<Vec<_>>(),
        "runs": runs.iter().map(Run::figures).collect::<Vec<_>>(),
    });
    fs::create_dir_all(&options.out).map_err(|error| format!("{}: {error}", options.out.display()))?;
    for (name, text) in [("report.html", html), ("figures.json", figures.to_string())] {
        let path = options.out.join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        note(format!("{}", path.display()));
    }
    // How fast it is depends on who else runs here; what is sold does not.
    let counts = |goal: &&Goal| !options.quick || goal.always;
    Ok(goals.iter().filter(counts).filter(|goal| !goal.held).count())
}

fn show(goals: &[Goal], runs: &[Run], size: Size) {
    let rows: Vec<Vec<String>> = goals
        .iter()
        .map(|goal| {
            let sign = if goal.held { paint(Colour::Green, "held") } else { paint(Colour::Red, "not held") };
            vec![goal.name.to_owned(), goal.wanted.clone(), goal.got.clone(), sign]
        })
        .collect();
    title("Goals, of the sale with protection");
    progress::table(&["goal", "wanted", "got", ""], &rows);
    title("The same sale, by each way");
    progress::table(&goals::COLUMNS, &runs.iter().map(|run| run.row(size)).collect::<Vec<_>>());
}

const WITHOUT_BOTS: &str = "WaitingRoom, people alone";
const BESIDE_BOTS: &str = "WaitingRoom, nine bots a person";
const WITH_FAULTS: &str = "WaitingRoom, bots and faults";

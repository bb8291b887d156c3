//! `weir doctor` and `weir check-config`: what this machine can do, and whether what it is told makes sense.
//!
//! Each finding is a line; what is wrong says what to do. Nothing is changed: what is written to try the disk goes away again.

mod certificates;
mod doors;
mod network;
mod place;
mod virtual_ips;

use crate::options::{Options, Wrong};
use base_model::Object;
use edge_filters::kinds::Shelf;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

/// What was looked at, in the order it is told.
#[derive(Default)]
pub struct Findings {
    list: Vec<Finding>,
}

struct Finding {
    mark: Mark,
    what: String,
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Well,
    /// It works, less well than it could, or not for long.
    Warning,
    Fault,
}

impl Findings {
    pub fn well(&mut self, what: &str, text: impl Into<String>) {
        self.add(Mark::Well, what, text.into());
    }

    pub fn warning(&mut self, what: &str, text: impl Into<String>) {
        self.add(Mark::Warning, what, text.into());
    }

    pub fn fault(&mut self, what: &str, text: impl Into<String>) {
        self.add(Mark::Fault, what, text.into());
    }

    fn add(&mut self, mark: Mark, what: &str, text: String) {
        self.list.push(Finding { mark, what: what.to_owned(), text });
    }
}

/// Prints a line per finding; 1 when one of them is a fault.
pub fn run(options: Result<Options, Wrong>) -> ExitCode {
    let mut found = Findings::default();
    match &options {
        Ok(options) => configured(options, &mut found),
        Err(Wrong(lines)) => lines.iter().for_each(|line| found.fault("configuration", line)),
    }
    machine(options.as_ref().ok(), &mut found);
    let mut faults = 0;
    for Finding { mark, what, text } in &found.list {
        let mark = match mark {
            Mark::Well => "ok  ",
            Mark::Warning => "warn",
            Mark::Fault => {
                faults += 1;
                "FAIL"
            }
        };
        println!("{mark}  {what:<24} {text}");
    }
    if faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the options lead to.
fn configured(options: &Options, found: &mut Findings) {
    for note in &options.notes {
        found.warning("configuration", note);
    }
    for path in &options.initial_object_files {
        for (fault, text) in document_faults(path) {
            if fault { found.fault("initial objects", text) } else { found.warning("initial objects", text) }
        }
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return found.fault("threads", format!("none can be started: {error}; raise the limit (ulimit -u)"));
        }
    };
    let held = runtime.block_on(control_raft::look_at(&options.data_dir));
    place::look(options, &held, found);
    certificates::look(options, found);
    let runs = held == control_raft::Held::InUse;
    doors::look(options, runs, found);
    runtime.block_on(network::look(options, found));
    virtual_ips::look(options, found);
}

/// What this machine offers to anybody.
fn machine(options: Option<&Options>, found: &mut Findings) {
    let steers = options.is_some_and(|options| !options.interfaces.is_empty());
    let cpus = base_runtime::allowed_cpus();
    found.well("CPUs", format!("workers may run on {}", base_text::ranges(cpus.clone())));
    place::descriptors(found);
    match base_runtime::probe_uring() {
        Ok(()) => found.well("io_uring", "workers use it"),
        Err(reason) => found.warning("io_uring", format!("workers use epoll instead: {reason}")),
    }
    let workers = options.map_or(0, |options| options.workers.unwrap_or(cpus.len()));
    let interfaces = options.map(|options| options.interfaces.as_slice()).unwrap_or_default();
    let looked = if steers { edge_kernel::probe_interfaces(interfaces, workers) } else { Vec::new() };
    for finding in edge_kernel::probe().findings.iter().chain(&looked) {
        match (finding.ok, finding.required && edge_kernel::built_in() && steers) {
            (true, _) => found.well(finding.what, &finding.text),
            (false, true) => found.fault(finding.what, &finding.text),
            (false, false) => found.warning(finding.what, &finding.text),
        }
    }
}

/// What is wrong with the documents of a file, and whether they would be refused.
fn document_faults(path: &Path) -> Vec<(bool, String)> {
    let place = path.display();
    let documents = std::fs::read_to_string(path)
        .map_err(|e| e.to_string())
        .and_then(|text| base_model::yaml::parse_documents(&text).map_err(|e| e.to_string()));
    let documents = match documents {
        Ok(documents) => documents,
        Err(error) => return vec![(true, format!("{place}: {error}"))],
    };
    let mut faults = Vec::new();
    for document in documents {
        match Object::admit(&document, &Shelf, SystemTime::now(), |_| None) {
            Ok(object) => {
                let name = &object.document.name;
                faults.extend(
                    object.warnings.iter().map(|warning| (false, format!("{place}: {name}: warning: {warning}"))),
                );
            }
            Err(problems) => faults.extend(problems.iter().map(|problem| (true, format!("{place}: {problem}")))),
        }
    }
    faults
}

/// Reads every document the options name.
pub fn check_config(options: &Options) -> ExitCode {
    let mut wrong = false;
    for (fault, text) in options.initial_object_files.iter().flat_map(|path| document_faults(path)) {
        wrong |= fault;
        eprintln!("{text}");
    }
    for note in &options.notes {
        eprintln!("{note}");
    }
    if wrong {
        return ExitCode::from(crate::WRONG);
    }
    println!("the configuration is sound");
    ExitCode::SUCCESS
}

//! `weir doctor` and `weir check-config`: what this machine can do, and whether what it is told makes sense.

use crate::options::Options;
use base_model::Object;
use edge_filters::kinds::Shelf;
use std::process::ExitCode;
use std::time::SystemTime;

/// Prints a line per finding; 1 when something required is missing.
pub fn run() -> ExitCode {
    let mut well = true;
    let mut line = |ok: bool, required: bool, what: &str, text: &str| {
        let mark = match (ok, required) {
            (true, _) => "ok  ",
            (false, true) => "FAIL",
            (false, false) => "warn",
        };
        well &= ok || !required;
        println!("{mark}  {what:<24} {text}");
    };
    let cpus = base_runtime::allowed_cpus();
    line(true, true, "CPUs", &format!("workers may run on {}", base_text::ranges(cpus)));
    match base_runtime::probe_uring() {
        Ok(()) => line(true, false, "io_uring", "workers use it"),
        Err(reason) => line(false, false, "io_uring", &format!("workers use epoll instead: {reason}")),
    }
    for finding in &edge_kernel::probe().findings {
        line(finding.ok, finding.required && edge_kernel::built_in(), finding.what, &finding.text);
    }
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Reads every document the options name.
pub fn check_config(options: &Options) -> ExitCode {
    let mut wrong = 0;
    for path in &options.initial_object_files {
        let documents = std::fs::read_to_string(path)
            .map_err(|e| e.to_string())
            .and_then(|text| base_model::yaml::parse_documents(&text).map_err(|e| e.to_string()));
        match documents {
            Err(error) => {
                wrong += 1;
                eprintln!("{}: {error}", path.display());
            }
            Ok(documents) => {
                for document in documents {
                    match Object::admit(&document, &Shelf, SystemTime::now(), |_| None) {
                        Ok(object) => {
                            for warning in object.warnings {
                                eprintln!("{}: {}: warning: {warning}", path.display(), object.document.name);
                            }
                        }
                        Err(problems) => {
                            wrong += problems.len();
                            for problem in problems {
                                eprintln!("{}: {problem}", path.display());
                            }
                        }
                    }
                }
            }
        }
    }
    for note in &options.notes {
        eprintln!("{note}");
    }
    if wrong == 0 {
        println!("the configuration is sound");
        ExitCode::SUCCESS
    } else {
        ExitCode::from(crate::WRONG)
    }
}

//! `fuzz`: every target of userspace/fuzz for a while.
//!
//! Built with the coverage instrumentation of the stable compiler and linked with libFuzzer, which needs a C++ compiler and
//! nothing else; the decoders forbid `unsafe`, so there is nothing for a sanitizer to find.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::cargo::{self, root};
use crate::compiler::Compiler;
use crate::{progress, tools};

#[derive(clap::Args)]
pub struct Options {
    /// Targets; all when none is named
    targets: Vec<String>,
    /// How long each target runs, in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How long each target runs, in minutes, instead
    #[arg(long, conflicts_with = "seconds")]
    minutes: Option<u64>,
}

/// What libFuzzer needs to see which branches an input takes.
const INSTRUMENTATION: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions --cfg fuzzing";

pub fn run(options: &Options) -> Result<(), String> {
    let folder = root().join("userspace/fuzz");
    let files = fs::read_dir(folder.join("targets")).into_iter().flatten().flatten();
    let names = files.filter_map(|file| file.file_name().to_str()?.strip_suffix(".rs").map(str::to_string));
    let mut known: Vec<String> = names.collect();
    known.sort();
    if let Some(unknown) = options.targets.iter().find(|target| !known.contains(target)) {
        return Err(format!("no fuzz target `{unknown}`; there are: {}", known.join(", ")));
    }
    tools::require(&[tools::COMPILER_CPP])?;
    fs::create_dir_all(folder.join("artifacts")).map_err(|error| format!("{}: {error}", folder.display()))?;
    let step = progress::step("building the fuzz targets");
    // Named, so that build scripts are not instrumented.
    let machine = Compiler::examine()?.host;
    let mut build = cargo_in(&folder);
    build.env("RUSTFLAGS", INSTRUMENTATION).args(["build", "--release", "--target", &machine]);
    for target in &known {
        build.args(["--bin", target]);
    }
    cargo::run(&mut build)?;
    // Not instrumented: what the instrumentation calls comes with libFuzzer, which has a main of its own.
    cargo::run(cargo_in(&folder).env("RUSTFLAGS", "").args(["run", "--quiet", "--bin", "seed"]))?;
    step.done("built, corpora seeded");
    let seconds = options.minutes.map_or(options.seconds, |minutes| minutes * 60);
    for target in if options.targets.is_empty() { &known } else { &options.targets } {
        let step = progress::step(format!("fuzzing {target} for {seconds} s"));
        let mut command = Command::new(folder.join("target").join(&machine).join("release").join(target));
        command.current_dir(&folder).arg(format!("corpus/{target}")).arg("-dict=http1.dict");
        command.arg(format!("-artifact_prefix=artifacts/{target}-")).arg(format!("-max_total_time={seconds}"));
        // What it says while it runs is of interest only when it finds something.
        command.args(["-print_final_stats=1", "-verbosity=0"]);
        let said = tools::run_for_its_errors(&mut command)?;
        let executions = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
        step.done(format!("nothing found in {} executions", executions.unwrap_or("unknown").trim()));
    }
    Ok(())
}

fn cargo_in(folder: &Path) -> Command {
    let mut command = cargo::cargo();
    command.current_dir(folder);
    // The folder is a workspace of its own, with its own flags.
    command.env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("CARGO_TARGET_DIR");
    command
}

//! `fuzz`: every target of userspace/fuzz for a while, with cargo-fuzz.

use std::fs;

use crate::cargo::{self, cargo, root};
use crate::{progress, tools};

#[derive(clap::Args)]
pub struct Options {
    /// Targets; all when none is named
    targets: Vec<String>,
    /// How long each target runs, in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

pub fn run(options: &Options) -> Result<(), String> {
    let folder = root().join("userspace/fuzz");
    let files = fs::read_dir(folder.join("fuzz_targets")).into_iter().flatten().flatten();
    let names = files.filter_map(|file| file.file_name().to_str()?.strip_suffix(".rs").map(str::to_string));
    let mut known: Vec<String> = names.collect();
    known.sort();
    if let Some(unknown) = options.targets.iter().find(|target| !known.contains(target)) {
        return Err(format!("no fuzz target `{unknown}`; there are: {}", known.join(", ")));
    }
    if known.is_empty() {
        progress::warn("there are no fuzz targets yet (userspace/fuzz/fuzz_targets)");
        return Ok(());
    }
    if tools::find("cargo-fuzz").is_none() {
        return Err("cargo-fuzz is not installed; `cargo install cargo-fuzz`, and a nightly toolchain for it".into());
    }
    for target in if options.targets.is_empty() { &known } else { &options.targets } {
        let step = progress::step(format!("fuzzing {target} for {} s", options.seconds));
        let limit = format!("-max_total_time={}", options.seconds);
        cargo::run(
            cargo().current_dir(&folder).env_remove("CARGO").args(["+nightly", "fuzz", "run", target, "--", &limit]),
        )?;
        step.done("nothing found");
    }
    Ok(())
}

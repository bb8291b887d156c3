//! `fuzz`: every target of userspace/fuzz for a while, with cargo-fuzz.

use std::fs;

use crate::cargo::{self, root};
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
    let files = fs::read_dir(folder.join("targets")).into_iter().flatten().flatten();
    let names = files.filter_map(|file| file.file_name().to_str()?.strip_suffix(".rs").map(str::to_string));
    let mut known: Vec<String> = names.collect();
    known.sort();
    if let Some(unknown) = options.targets.iter().find(|target| !known.contains(target)) {
        return Err(format!("no fuzz target `{unknown}`; there are: {}", known.join(", ")));
    }
    if known.is_empty() {
        progress::warn("there are no fuzz targets yet (userspace/fuzz/targets)");
        return Ok(());
    }
    if tools::find("cargo-fuzz").is_none() {
        return Err("cargo-fuzz is not installed; `cargo install cargo-fuzz`, and a nightly toolchain for it".into());
    }
    for target in if options.targets.is_empty() { &known } else { &options.targets } {
        let step = progress::step(format!("fuzzing {target} for {} s", options.seconds));
        let limit = format!("-max_total_time={}", options.seconds);
        cargo::run(cargo_of_rustup().current_dir(&folder).args([
            "+nightly",
            "fuzz",
            "run",
            "--fuzz-dir",
            ".",
            target,
            "--",
            &limit,
        ]))?;
        step.done("nothing found");
    }
    Ok(())
}

/// The cargo in front of PATH: `+nightly` is understood by rustup's, not by the one that runs us.
fn cargo_of_rustup() -> std::process::Command {
    let mut command = std::process::Command::new("cargo");
    command.env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
    command
}

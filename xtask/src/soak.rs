//! `soak`: the house's soak in its long form, against a release build.

use crate::cargo::{self, cargo};
use crate::progress;

#[derive(clap::Args)]
pub struct Options {
    /// How long it lasts
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Configuration changes over that time
    #[arg(long, default_value_t = 1000)]
    changes: u64,
    /// Clients that ask at the same time
    #[arg(long, default_value_t = 16)]
    clients: u64,
    /// The seed of a run before, to have it again; absent: another each time, which the first line tells
    #[arg(long)]
    seed: Option<u64>,
}

pub fn run(options: &Options) -> Result<(), String> {
    let step = progress::step(format!("{} minutes of load with {} changes", options.minutes, options.changes));
    let mut command = cargo();
    command
        .args(["test", "--release", "--package", "server", "--test", "house", "--"])
        .args(["--exact", "soak::nothing_is_wrong_and_nothing_grows", "--nocapture"])
        .env("WEIR_SOAK_SECONDS", (options.minutes * 60).to_string())
        .env("WEIR_SOAK_CHANGES", options.changes.to_string())
        .env("WEIR_SOAK_CLIENTS", options.clients.to_string());
    if let Some(seed) = options.seed {
        command.env("WEIR_SOAK_SEED", seed.to_string());
    }
    cargo::run(&mut command)?;
    step.done("nothing was wrong, nothing grew");
    Ok(())
}

//! `bench`: runs a scenario; `cargo xtask bench` builds everything it needs and calls it.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "bench", about = "Ours beside its peers, in the same minute")]
struct Arguments {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// Requests over kept HTTP/1.1 connections
    Http1(bench::http1::Options),
}

fn main() -> ExitCode {
    let Arguments { scenario: Scenario::Http1(options) } = Arguments::parse();
    match bench::http1::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

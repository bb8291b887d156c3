//! `lg`: the load generator by hand. Prints what it found as one line of JSON.

use std::process::ExitCode;

use bench::generator::{Options, run};
use clap::Parser;

#[derive(Parser)]
#[command(name = "lg", about = "Clients and upstream of a gateway, in one thread")]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    match run(&Arguments::parse().options) {
        Ok(outcome) => {
            println!("{}", serde_json::to_string(&outcome).unwrap_or_default());
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

//! The two sides of `cargo xtask flash-sale`.

#![forbid(unsafe_code)]

use bench::sale::{buyers, shop};
use clap::Parser;
use std::process::ExitCode;

#[derive(Parser)]
enum Side {
    /// Serve as a shop that degrades when it is overdriven
    Shop(shop::Options),
    /// Come to buy; what was seen goes to standard output as JSON
    Buyers(buyers::Options),
}

fn main() -> ExitCode {
    let side = Side::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.and_then(|runtime| match side {
        Side::Shop(options) => runtime.block_on(shop::run(options)),
        Side::Buyers(options) => {
            let seen = runtime.block_on(buyers::run(options))?;
            println!("{}", serde_json::to_string(&seen)?);
            Ok(())
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sale: {error}");
            ExitCode::FAILURE
        }
    }
}

//! The two sides of `cargo xtask flash-sale`.

#![forbid(unsafe_code)]

use bench::certificate::Certificate;
use bench::generator;
use bench::sale::{buyers, shop};
use clap::Parser;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
enum Side {
    /// Serve as a shop that degrades when it is overdriven
    Shop(shop::Options),
    /// Come to buy; what was seen goes to standard output as JSON
    Buyers(buyers::Options),
    /// Ask for what is refused, as fast as it is, and say what that costs the process that refuses
    Refused(generator::Options),
    /// Make a certificate for the sale in this folder: certificate.pem, key.pem
    Certificate { folder: PathBuf },
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
        Side::Refused(options) => {
            let outcome = generator::run(&options).map_err(io::Error::other)?;
            println!("{}", serde_json::to_string(&outcome)?);
            Ok(())
        }
        Side::Certificate { folder } => Certificate::new(&folder).map(drop).map_err(io::Error::other),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sale: {error}");
            ExitCode::FAILURE
        }
    }
}

//! `weirctl`: the operator's hands. Verbs and tables are those of Easegress's `egctl`.
//!
//! Reading order: `arguments.rs` (every verb), `run.rs` (verb → work), then one file per subject. Exit 0: done; 1: refused or
//! failed, with the reason on stderr; 2: wrong usage.
#![forbid(unsafe_code)]

mod arguments;
mod backup;
mod bans;
mod caches;
mod capture;
mod catalog;
mod check;
mod config;
mod convert;
mod custom;
mod describe;
mod documents;
mod edit;
mod examples;
mod explain;
mod history;
mod http_proxy;
mod kubernetes;
mod last_good;
mod members;
mod objects;
mod output;
mod pages;
mod profile;
mod resource;
mod run;
mod schema;
mod server;
mod tap;
mod terminal;
mod tokens;
mod top;
mod trace;
mod wasm;
mod watch;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = arguments::Arguments::parse();
    if let Err(wrong) = arguments.format() {
        wrong.exit();
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("no runtime: {error}")),
    };
    match runtime.block_on(run::run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => fail(&message),
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("weirctl: {message}");
    ExitCode::FAILURE
}

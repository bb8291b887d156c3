//! Everything a developer does with this repository beside `cargo build` and `cargo test`: `cargo xtask --help`.

#![forbid(unsafe_code)]

mod bench;
mod build_ebpf;
mod cargo;
mod check;
mod client;
mod compiler;
mod demo;
mod dist;
mod docs;
mod flash_sale;
mod fleet;
mod fuzz;
mod http;
mod kernels;
mod kubernetes;
mod pgo;
mod previous;
mod process;
mod progress;
mod soak;
mod test;
mod tidy;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::progress::{Colour, paint};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, tests, measures and shows Weir")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Show a fleet of three edges at work: steering, a drain, a crash. Without root: one machine on loopback
    Demo(demo::Options),
    /// Sell out a shop at ten times its capacity, with protection and without, and write a report with plots
    FlashSale(flash_sale::Options),
    /// Build and run every test there is; the last line counts them
    Test(test::Options),
    /// Build Kubernetes's own API server, once, and run the tests that speak with it
    TestKubernetes(kubernetes::Options),
    /// Load, attach and steer on the kernels that people run, each in a virtual machine
    TestKernels(kernels::Options),
    /// Build an earlier weir, and upgrade a fleet of it machine by machine
    TestUpgrade(previous::Options),
    /// Build the BPF programs that weir embeds, and show what the verifier says about them
    BuildEbpf,
    /// What CI runs before the tests: formatting, clippy, the map of the repository. Never writes
    Check,
    /// Write what `check` would complain about
    Fix,
    /// Measure ours beside its peers; see bench/README.md
    Bench(bench::Options),
    /// Run the fuzz targets, each for a while
    Fuzz(fuzz::Options),
    /// Load of every kind for half an hour while backends fail and the configuration changes; every answer is checked
    Soak(soak::Options),
    /// Build release binaries into target/dist, weir with a profile of itself under load
    Dist(dist::Options),
    /// Write a page of every kind, a cookbook and schemas for editors
    Docs(docs::Options),
    /// Check that READMEs and folders say the same
    Tidy,
    #[command(hide = true)]
    InternalClient(client::Options),
    #[command(hide = true)]
    InternalGet { address: std::net::SocketAddr, path: String },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Demo(options) => demo::run(&options),
        Task::FlashSale(options) => flash_sale::run(&options),
        Task::Test(options) => test::run(&options),
        Task::TestKubernetes(options) => kubernetes::run(&options),
        Task::TestKernels(options) => kernels::run(&options),
        Task::TestUpgrade(options) => previous::run(&options),
        Task::BuildEbpf => cargo::kernel_programs(),
        Task::Check => check::check(),
        Task::Fix => check::fix(),
        Task::Bench(options) => bench::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Soak(options) => soak::run(&options),
        Task::Dist(options) => dist::run(&options),
        Task::Docs(options) => docs::run(&options),
        Task::Tidy => tidy::run(),
        Task::InternalClient(options) => client::run(&options),
        Task::InternalGet { address, path } => http::print(address, &path),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            // An empty one was told already.
            if !problem.is_empty() {
                eprintln!("{} {problem}", paint(Colour::Red, "✗"));
            }
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_can_be_asked_for() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }
}

//! `weir`: the machine's daemon. This crate puts the parts together and holds no logic of its own.
//!
//! Reading order: [`options`] (how it is started), [`capacity`] (how much of the machine it may use), [`run`] (which parts there
//! are and how they meet), [`upgrade`] (how another process takes the place of this one), [`admin_door`], [`control_half`] and [`agent_thread`] (what keeps each half going), [`calm`] (what only the start needed), [`health`] (how they are), [`watchdog`] (what systemd is told of it), [`logs`] and [`log_thread`],
//! [`local`] (what the admin API asks about this machine), [`figures`] (metrics), [`doctor`], [`recover`], [`demo_backend`].
#![forbid(unsafe_code)]

mod admin_door;
mod agent_thread;
mod bans;
mod calm;
mod capacity;
mod certificates;
mod control_half;
mod demo_backend;
mod doctor;
mod figures;
mod health;
mod limits;
mod local;
mod log_thread;
mod logs;
mod options;
mod recover;
mod rooms;
mod run;
mod shown_figures;
mod upgrade;
mod wasm_data;
mod watchdog;

use clap::{Arg, ArgAction, Command};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Wrong usage or configuration.
const WRONG: u8 = 2;

fn main() -> ExitCode {
    // A kernel that has none has nothing to keep away.
    base_runtime::pages::keep_small();
    let print = Arg::new("print-config")
        .long("print-config")
        .short('c')
        .action(ArgAction::SetTrue)
        .help("Print the options in force, and end");
    let run = options::arguments(Command::new("run").about("Run the daemon (the default)")).arg(print.clone());
    let check = options::arguments(
        Command::new("check-config")
            .about("Check the options, and the documents of --initial-object-config-files, without running"),
    );
    let doctor = options::arguments(
        Command::new("doctor")
            .about("Look for what is wrong with this machine and the options given, and say what to change"),
    );
    let recover = options::arguments(
        Command::new("recover")
            .about("Go on as a cluster of this machine after the majority of its cluster was lost for good"),
    )
    .arg(
        Arg::new("although-others-run")
            .long("although-others-run")
            .action(ArgAction::SetTrue)
            .help("Even if other members of the cluster answer: they are told that it is over"),
    );
    let demo = Command::new("demo-backend")
        .about("Answer every request with what was received")
        .arg(Arg::new("listen").long("listen").required(true).action(ArgAction::Append).value_name("ADDR"))
        .arg(Arg::new("name").long("name").value_name("NAME"));
    let command = options::arguments(Command::new("weir").about("Edge load balancer"))
        .version(version())
        .disable_version_flag(true)
        .arg(Arg::new("version").long("version").short('v').action(ArgAction::SetTrue).help("Print the version"))
        .arg(print)
        .args_conflicts_with_subcommands(true)
        .subcommand(run)
        .subcommand(check)
        .subcommand(recover)
        .subcommand(doctor)
        .subcommand(demo);
    let matches = command.get_matches();
    if matches.get_flag("version") {
        println!("weir {}", version());
        return ExitCode::SUCCESS;
    }
    match matches.subcommand() {
        Some(("doctor", arguments)) => doctor::run(options::read(arguments, &|name| std::env::var(name).ok())),
        Some(("demo-backend", arguments)) => {
            let options = demo_backend::Options {
                listen: arguments.get_many::<String>("listen").unwrap_or_default().cloned().collect(),
                name: arguments.get_one::<String>("name").cloned(),
            };
            match demo_backend::run(options) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error, 1),
            }
        }
        Some(("check-config", arguments)) => match read(arguments) {
            Ok(options) => doctor::check_config(&options),
            Err(code) => code,
        },
        Some(("recover", arguments)) => match read(arguments) {
            Ok(options) => recover::run(&options, arguments.get_flag("although-others-run")),
            Err(code) => code,
        },
        other => {
            let arguments = other.map_or(&matches, |(_, arguments)| arguments);
            match read(arguments) {
                Ok(options) if arguments.get_flag("print-config") => {
                    let map = options.effective.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
                    print!("{}", base_model::yaml::to_string(&serde_json::Value::Object(map)));
                    ExitCode::SUCCESS
                }
                Ok(options) => run::run(options),
                Err(code) => code,
            }
        }
    }
}

/// Version and what was built in.
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

fn read(matches: &clap::ArgMatches) -> Result<options::Options, ExitCode> {
    options::read(matches, &|name| std::env::var(name).ok()).map_err(|wrong| fail(&wrong.to_string(), WRONG))
}

fn fail(message: &str, code: u8) -> ExitCode {
    eprintln!("weir: {message}");
    ExitCode::from(code)
}

//! `docs`: a page for each kind of document and filter, a cookbook, and schemas for editors, from what `weirctl explain` says.

use std::path::PathBuf;
use std::process::Command;

use crate::cargo::{self, Profile};
use crate::tools;

#[derive(clap::Args)]
pub struct Options {
    /// Where the pages go
    #[arg(long, value_name = "FOLDER", default_value = "target/docs")]
    out: PathBuf,
}

pub fn run(options: &Options) -> Result<(), String> {
    let binaries = cargo::build(&["cli"], Profile::Debug)?;
    let mut command = Command::new(binaries.join("weirctl"));
    print!("{}", tools::run(command.current_dir(cargo::root()).arg("docs").arg(&options.out))?);
    Ok(())
}

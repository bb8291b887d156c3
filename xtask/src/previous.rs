//! `test-upgrade`: an earlier weir, built of its own sources, in a fleet with this one.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cargo::{self, cargo, root};
use crate::progress::{note, step, title};
use crate::tools;

#[derive(clap::Args)]
pub struct Options {
    /// What the version before is built of, a tag or a commit; default: the last tag
    #[arg(long)]
    from: Option<String>,
    /// The version before, where it is built already
    #[arg(long, conflicts_with = "from")]
    program: Option<PathBuf>,
}

pub fn run(options: &Options) -> Result<(), String> {
    title("Upgrade");
    let program = match &options.program {
        Some(program) => fs::canonicalize(program).map_err(|error| format!("{}: {error}", program.display()))?,
        None => build(options.from.as_deref())?,
    };
    let told = tools::run(Command::new(&program).arg("--version"))?;
    note(format!("from {} ({})", told.trim(), program.display()));
    let step = step("a fleet is upgraded machine by machine");
    let mut command = cargo();
    command.args(["test", "--package", "server", "--test", "house", "--", "versions::", "--nocapture"]);
    cargo::run(command.env("WEIR_PREVIOUS", &program))?;
    step.done("it holds");
    Ok(())
}

/// Of the sources as they were, in a folder of their own: what is here is not touched.
fn build(from: Option<&str>) -> Result<PathBuf, String> {
    let git = |arguments: &[&str]| tools::run(Command::new("git").current_dir(root()).args(arguments));
    let from = match from {
        Some(from) => from.to_owned(),
        None => {
            let tag = git(&["describe", "--tags", "--abbrev=0"]);
            let tag = tag.map_err(|_| "there is no tag to build the version before of; name a commit with --from")?;
            tag.trim().to_owned()
        }
    };
    let commit = git(&["rev-parse", "--short=12", "--verify", &format!("{from}^{{commit}}")])?.trim().to_owned();
    let folder = root().join("target/previous").join(&commit);
    let program = folder.join("target/debug/weir");
    if program.is_file() {
        note(format!("{from} is built already"));
        return Ok(program);
    }
    let io = |error: std::io::Error| format!("{}: {error}", folder.display());
    fs::create_dir_all(folder.join("target")).map_err(io)?;
    unpack(&commit, &folder)?;
    // The linker of its kernel programs takes long to build, and is the same.
    let (ours, theirs) = (root().join("target/tools"), folder.join("target/tools"));
    if ours.is_dir() && !theirs.exists() {
        symlink(&ours, &theirs).map_err(io)?;
    }
    let step = step(format!("building weir of {from}, which takes minutes"));
    cargo::run(cargo().current_dir(&folder).env_remove("CARGO_TARGET_DIR").args(["build", "--package", "server"]))?;
    step.done("built");
    Ok(program)
}

fn unpack(commit: &str, folder: &Path) -> Result<(), String> {
    let mut archive = Command::new("git");
    archive.current_dir(root()).args(["archive", "--format=tar", commit]).stdout(Stdio::piped());
    let mut sent = archive.spawn().map_err(|error| format!("git archive: {error}"))?;
    let from = sent.stdout.take().map_or_else(Stdio::null, Stdio::from);
    let taken = Command::new("tar").arg("-x").arg("-C").arg(folder).stdin(from).status();
    let sent = sent.wait().map_err(|error| format!("git archive: {error}"))?;
    match taken {
        Ok(taken) if taken.success() && sent.success() => Ok(()),
        Ok(_) => Err(format!("the sources of {commit} cannot be unpacked into {}", folder.display())),
        Err(error) => Err(format!("tar: {error}")),
    }
}

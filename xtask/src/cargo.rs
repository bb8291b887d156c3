//! What we ask of cargo: builds with their progress visible, and where the results are.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::progress;

/// The checkout.
pub fn root() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map_or(manifest.clone(), PathBuf::from)
}

/// The cargo that runs us, in the root of the checkout.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

#[derive(Clone, Copy, PartialEq)]
pub enum Profile {
    Debug,
    /// Quick to build and nearly as fast: what the demo runs and the bench measures.
    Release,
    /// What is shipped: optimised across crates.
    Dist,
}

/// Builds packages, cargo's own progress on the terminal; the folder of the binaries comes back.
pub fn build(packages: &[&str], profile: Profile) -> Result<PathBuf, String> {
    let kind = match profile {
        Profile::Debug => "debug",
        Profile::Release => "release",
        Profile::Dist => "dist",
    };
    let step = progress::step(format!("building {} ({kind})", packages.join(", ")));
    let mut command = cargo();
    command.arg("build");
    for package in packages {
        command.args(["--package", package]);
    }
    match profile {
        Profile::Debug => {}
        Profile::Release | Profile::Dist => drop(command.args(["--profile", kind])),
    }
    run(&mut command)?;
    step.done("built");
    Ok(target()?.join(kind))
}

/// Builds the BPF programs that `weir` embeds, unless they are there and of these sources.
pub fn kernel_programs() -> Result<(), String> {
    let step = progress::step("building the kernel programs");
    let built = crate::build_ebpf::build_ebpf(&root())?;
    progress::note(&built.table);
    let did = if built.rebuilt { "built" } else { "up to date:" };
    let name = |object: &PathBuf| object.file_name().unwrap_or_default().display().to_string();
    step.done(format!("{did} {} and {}", name(&built.object), name(&built.bench_object)));
    Ok(())
}

/// Runs a command on our terminal to its end.
pub fn run(command: &mut Command) -> Result<(), String> {
    let shown = crate::tools::show(command);
    match command.stdin(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{shown}: {status}")),
        Err(error) => Err(format!("{shown}: {error}")),
    }
}

/// Where cargo puts what it builds, whatever the environment says about it.
pub fn target() -> Result<PathBuf, String> {
    let metadata = crate::tools::run(cargo().args(["metadata", "--no-deps", "--format-version", "1", "--offline"]))?;
    let metadata: serde_json::Value =
        serde_json::from_str(&metadata).map_err(|error| format!("cargo metadata: {error}"))?;
    metadata["target_directory"].as_str().map(PathBuf::from).ok_or_else(|| "cargo metadata names no target".into())
}

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
    for name in std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).filter(|name| is_of_us(name)) {
        command.env_remove(name);
    }
    command
}

/// `cargo run` tells us about our own package. Build scripts that ask to be run again when these change, as ring's does, would
/// take a build by us and one by hand for different ones.
fn is_of_us(name: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.starts_with(prefix))
}

#[derive(Clone, Copy, PartialEq)]
pub enum Profile {
    Debug,
    /// Quick to build and nearly as fast: what the demo runs.
    Release,
    /// Optimised across crates; what is shipped has a profile besides, see [`crate::pgo`].
    Dist,
}

/// Which of ours is measured: `--profile` of what measures.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Build {
    /// What is shipped.
    Dist,
    /// Quicker to build.
    Release,
}

impl Build {
    pub fn profile(self) -> Profile {
        match self {
            Self::Dist => Profile::Dist,
            Self::Release => Profile::Release,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Dist => "dist",
            Self::Release => "release",
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_by_us_has_the_environment_of_one_by_hand() {
        for name in ["CARGO_PKG_VERSION_MAJOR", "CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH"] {
            assert!(is_of_us(name), "{name}");
        }
        for name in ["CARGO", "CARGO_HOME", "CARGO_TARGET_DIR", "RUSTFLAGS", "PATH"] {
            assert!(!is_of_us(name), "{name}");
        }
        let own = cargo();
        assert!(own.get_envs().any(|(name, value)| name == "CARGO_MANIFEST_DIR" && value.is_none()));
    }
}

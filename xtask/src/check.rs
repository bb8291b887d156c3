//! `check` and `fix`: the same list of concerns, read-only and writing.

use crate::cargo::{cargo, root, run};
use crate::{progress, tidy};

pub fn check() -> Result<(), String> {
    let step = progress::step("formatting");
    for manifest in manifests() {
        run(cargo().args(["fmt", "--all", "--manifest-path", &manifest, "--check"]))
            .map_err(|error| format!("{error}; `cargo xtask fix` formats"))?;
    }
    step.done("formatted");
    let step = progress::step("clippy");
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))?;
    step.done("no warnings");
    tidy::run()
}

pub fn fix() -> Result<(), String> {
    let step = progress::step("clippy --fix");
    run(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--fix",
        "--allow-dirty",
        "--allow-staged",
    ]))?;
    step.done("fixed what clippy can fix");
    let step = progress::step("formatting");
    for manifest in manifests() {
        run(cargo().args(["fmt", "--all", "--manifest-path", &manifest]))?;
    }
    step.done("formatted");
    Ok(())
}

/// The workspace, and the BPF programs, which are a workspace of their own.
fn manifests() -> Vec<String> {
    let manifests = ["Cargo.toml", "ebpf/programs/Cargo.toml"].map(|manifest| root().join(manifest));
    let there = manifests.iter().filter(|manifest| manifest.exists());
    there.map(|manifest| manifest.display().to_string()).collect()
}

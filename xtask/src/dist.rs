//! `dist`: what is handed to an operator, in one folder.

use std::fs;

use crate::cargo::{self, Profile, root};
use crate::progress;

pub fn run() -> Result<(), String> {
    if let Err(problem) = cargo::kernel_programs() {
        progress::warn(format!("{problem}\n  this weir will run its L7 part alone"));
    }
    let binaries = cargo::build(&["server", "cli"], Profile::Release)?;
    let folder = cargo::target()?.join("dist");
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    fs::create_dir_all(&folder).map_err(failed)?;
    let step = progress::step(format!("copying to {}", folder.display()));
    for file in [
        binaries.join("weir"),
        binaries.join("weirctl"),
        root().join("LICENSE"),
        root().join("deploy/systemd/weir.service"),
        root().join("deploy/prometheus/prometheus.yml"),
    ] {
        let name = file.file_name().unwrap_or_default();
        fs::copy(&file, folder.join(name)).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    step.done("weir, weirctl, LICENSE, weir.service, prometheus.yml");
    Ok(())
}

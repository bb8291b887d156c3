//! Profile-guided optimisation of `weir`: built with counters in it, run under every kind of load of the bench, and built again
//! with what the counters showed. It spares a fifth of the instructions of a request.
//!
//! Below `target/pgo`: `build` (both builds), `raw` (what the counting weir wrote), `weir.profdata` (the profile) and `inputs`
//! (what it was made of). The profile is made again when one of those has changed.

mod inputs;
mod profdata;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo::{self, Profile, cargo, root};
use crate::compiler::Compiler;
use crate::{progress, tools};

/// Builds what is shipped, and the bench, all into the folder that comes back: `weir` with a profile if one can be had here.
pub fn build() -> Result<PathBuf, String> {
    let compiler = Compiler::examine()?;
    let place = Place { folder: cargo::target()?.join("pgo"), compiler };
    let inputs = inputs::hash(&place.compiler, &own_flags())?;
    let merger = match place.is_made_of(&inputs) {
        true => None,
        false => match place.merger() {
            Ok(merger) => Some(merger),
            Err(problem) => {
                progress::warn(format!(
                    "weir is built without a profile, its requests take a quarter more instructions: {problem}"
                ));
                return cargo::build(&["server", "cli", "bench"], Profile::Dist);
            }
        },
    };
    let folder = cargo::build(&["cli", "bench"], Profile::Dist)?;
    if let Some(merger) = merger {
        place.make_profile(&merger, &folder.join("bench"))?;
        write(&place.inputs(), &inputs)?;
    }
    let step = progress::step("building server (dist, with its profile)");
    let weir = place.build_weir(&format!("-Cprofile-use={}", place.profile().display()))?;
    put(&weir, &folder.join("weir"))?;
    step.done("built");
    Ok(folder)
}

struct Place {
    folder: PathBuf,
    compiler: Compiler,
}

impl Place {
    fn profile(&self) -> PathBuf {
        self.folder.join("weir.profdata")
    }

    fn inputs(&self) -> PathBuf {
        self.folder.join("inputs")
    }

    fn raw(&self) -> PathBuf {
        self.folder.join("raw")
    }

    /// There is a profile, and it is of these inputs.
    fn is_made_of(&self, inputs: &str) -> bool {
        self.profile().is_file() && fs::read_to_string(self.inputs()).is_ok_and(|known| known == inputs)
    }

    /// The llvm-profdata to merge with; the error says what to install.
    fn merger(&self) -> Result<PathBuf, String> {
        let runtime = self.compiler.host_folder().join("lib");
        let files = fs::read_dir(&runtime).into_iter().flatten().flatten();
        if !files.map(|file| file.file_name()).any(|name| name.to_string_lossy().starts_with("libprofiler_builtins-")) {
            return Err(format!("this rustc has no profiler_builtins in {}; rustup's has", runtime.display()));
        }
        profdata::find_or_install(&self.compiler)
    }

    fn make_profile(&self, merger: &Path, bench: &Path) -> Result<(), String> {
        let raw = self.raw();
        let step = progress::step("building server (dist, with counters for its profile)");
        let weir = self.build_weir(&format!("-Cprofile-generate={}", raw.display()))?;
        step.done("built");

        let step = progress::step("taking the profile under load");
        // What an earlier try left is of another build.
        let _ = fs::remove_dir_all(&raw);
        let mut training = Command::new(bench);
        training.current_dir(root()).arg("train").arg("--weir").arg(&weir);
        // It would send the profiles elsewhere.
        training.env_remove("LLVM_PROFILE_FILE");
        cargo::run(&mut training).map_err(|problem| format!("{problem}; --no-pgo builds without a profile"))?;
        let files = fs::read_dir(&raw).into_iter().flatten().flatten().map(|file| file.path());
        let files: Vec<PathBuf> = files.filter(|file| file.extension().is_some_and(|end| end == "profraw")).collect();
        if files.is_empty() {
            return Err(format!("{}: weir wrote no profile; --no-pgo builds without one", raw.display()));
        }
        let fresh = self.folder.join("weir.profdata.fresh");
        tools::run(Command::new(merger).args(["merge", "-o"]).arg(&fresh).args(&files))?;
        fs::rename(&fresh, self.profile()).map_err(|error| format!("{}: {error}", fresh.display()))?;
        let _ = fs::remove_dir_all(&raw);
        step.done(self.profile().display().to_string());
        Ok(())
    }

    /// Builds `weir` alone, so that whatever else is built does not change the features of its crates, which their symbols and
    /// so the profile depend on. The machine is named for the sake of build scripts: they are built without the flag then.
    fn build_weir(&self, flag: &str) -> Result<PathBuf, String> {
        let target = self.folder.join("build");
        let mut flags = own_flags();
        flags.push(flag.into());
        let mut command = cargo();
        command.args(["build", "--package", "server", "--profile", "dist", "--target", &self.compiler.host]);
        command.arg("--target-dir").arg(&target);
        command.env("CARGO_ENCODED_RUSTFLAGS", flags.join(&OsString::from("\u{1f}"))).env_remove("RUSTFLAGS");
        cargo::run(&mut command)?;
        Ok(target.join(&self.compiler.host).join("dist/weir"))
    }
}

/// Flags for rustc that the person who builds has set; ours come after them.
fn own_flags() -> Vec<OsString> {
    let of = |name: &str| std::env::var(name).ok();
    let words: Vec<String> = match (of("CARGO_ENCODED_RUSTFLAGS"), of("RUSTFLAGS")) {
        (Some(encoded), _) => encoded.split('\u{1f}').map(str::to_string).collect(),
        (None, Some(plain)) => plain.split_whitespace().map(str::to_string).collect(),
        (None, None) => Vec::new(),
    };
    words.into_iter().filter(|word| !word.is_empty()).map(OsString::from).collect()
}

/// Written beside and renamed: one that runs stays what it is, and so does what cargo has linked to the same place.
fn put(from: &Path, to: &Path) -> Result<(), String> {
    let fresh = to.with_extension("fresh");
    let done = fs::copy(from, &fresh).and_then(|_| fs::rename(&fresh, to));
    done.map_err(|error| format!("{}: {error}", to.display()))
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
}

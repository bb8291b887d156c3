//! `cargo xtask build-ebpf`: the BPF programs into `target/bpf/weir.bpf.o`, on a machine that may have nothing for it yet.
//!
//! Needed are a rustc that may use unstable features with the source of `core` (rustup's nightly with rust-src, or Debian's
//! rustc-web and rust-web-src) and bpf-linker over the same LLVM. What is missing is installed where that takes no guessing;
//! otherwise the error says what to install. Nothing is built when neither sources nor toolchain have changed.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// What came of it.
#[derive(Debug)]
pub struct Built {
    /// The object that `edge-kernel` embeds.
    pub object: PathBuf,
    /// Programs that only `bench steer` loads.
    pub bench_object: PathBuf,
    /// False: it was there already, of the same sources.
    pub rebuilt: bool,
    /// Lines for people: programs, sizes, instructions examined; or why the kernel was not asked.
    pub table: String,
}

/// Builds the objects of the repository at `root`, if they are not there already, and asks the kernel about them.
pub fn build_ebpf(root: &Path) -> Result<Built, String> {
    let out = root.join("target/bpf");
    let object = out.join("weir.bpf.o");
    let bench_object = out.join("weir-bench.bpf.o");
    fs::create_dir_all(&out).map_err(|e| format!("{}: cannot be made: {e}", out.display()))?;

    let stamp = out.join("inputs");
    let inputs = hash_inputs(&root.join("ebpf"))?;
    let unchanged = fs::read_to_string(&stamp).is_ok_and(|known| known == inputs);
    if unchanged && object.exists() && bench_object.exists() {
        say("sources have not changed; nothing to build");
        let table = table(root, &object);
        return Ok(Built { object, bench_object, rebuilt: false, table });
    }

    let toolchain = find_toolchain()?;
    say(&format!("toolchain: {}", toolchain.describe()));
    let linker = find_linker(root, &toolchain)?;
    say(&format!("linker: {}", linker.display()));

    let started = Instant::now();
    say("building ebpf/programs for bpfel-unknown-none");
    let target = out.join("build");
    compile(root, &toolchain, &linker, &target)?;
    let release = target.join("bpfel-unknown-none/release");
    for (from, to) in [("weir", &object), ("weir-bench", &bench_object)] {
        // Written beside and renamed, so that whoever embeds it never reads half.
        let fresh = to.with_extension("fresh");
        fs::copy(release.join(from), &fresh)
            .and_then(|_| fs::rename(&fresh, to))
            .map_err(|e| format!("{}: cannot be written: {e}", to.display()))?;
    }
    fs::write(&stamp, inputs).map_err(|e| format!("{}: cannot be written: {e}", stamp.display()))?;
    say(&format!("built {} in {:.1} s", object.display(), started.elapsed().as_secs_f32()));
    let table = table(root, &object);
    Ok(Built { object, bench_object, rebuilt: true, table })
}

/// A compiler that can build `core` for BPF.
struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    /// Stable by name: unstable features are asked for through the environment.
    bootstrap: bool,
    version: String,
    llvm: u32,
}

impl Toolchain {
    fn describe(&self) -> String {
        format!("{} ({}), LLVM {}", self.version, self.rustc.display(), self.llvm)
    }

    fn examine(cargo: &Path, rustc: &Path, bootstrap: bool) -> Option<Toolchain> {
        let text = output(Command::new(rustc).args(["--version", "--verbose"]))?;
        let llvm = text.lines().find_map(|l| l.strip_prefix("LLVM version: "))?.split('.').next()?.parse().ok()?;
        let sysroot = output(Command::new(rustc).args(["--print", "sysroot"]))?;
        let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
        if !core.exists() || output(Command::new(cargo).arg("--version")).is_none() {
            return None;
        }
        let version = text.lines().next()?.to_owned();
        Some(Toolchain { cargo: cargo.into(), rustc: rustc.into(), bootstrap, version, llvm })
    }
}

fn find_toolchain() -> Result<Toolchain, String> {
    if let Some(found) = installed_toolchain() {
        return Ok(found);
    }
    if can_install() {
        let packages = ["rustc-web", "rust-web-src", "cargo-web"];
        if apt_install(&packages).is_ok()
            && let Some(found) = installed_toolchain()
        {
            return Ok(found);
        }
    }
    if output(Command::new("rustup").arg("--version")).is_some() {
        say("installing rustup's nightly with the source of core");
        let _ = run(clean(Command::new("rustup").args([
            "toolchain",
            "install",
            "nightly",
            "--profile",
            "minimal",
            "--component",
            "rust-src",
        ])));
        if let Some(found) = installed_toolchain() {
            return Ok(found);
        }
    }
    Err("no compiler here can build for BPF: it takes one that may use unstable features, with the source of core. Install\n  \
         rustup toolchain install nightly --profile minimal --component rust-src\nor, on Debian,\n  \
         apt-get install rustc-web rust-web-src cargo-web\nand try again"
        .to_owned())
}

fn installed_toolchain() -> Option<Toolchain> {
    // Debian's first: its LLVM is the one Debian has development files of.
    if let Some(found) = Toolchain::examine(Path::new("/usr/bin/cargo"), Path::new("/usr/bin/rustc"), true) {
        return Some(found);
    }
    let which = |tool: &str| {
        let path = output(clean(Command::new("rustup").args(["which", "--toolchain", "nightly", tool])))?;
        Some(PathBuf::from(path.trim()))
    };
    Toolchain::examine(&which("cargo")?, &which("rustc")?, false)
}

/// bpf-linker from the path, from cargo's own folder or from ours; else built.
fn find_linker(root: &Path, toolchain: &Toolchain) -> Result<PathBuf, String> {
    let tools = root.join("target/tools");
    if let Some(found) = installed_linker(&tools) {
        return Ok(found);
    }
    let llvm = toolchain.llvm;
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    let packages = [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev"), "libzstd-dev".into(), "g++".into()];
    let advice = || {
        format!(
            "bpf-linker is missing. Install LLVM {llvm} with its development files and then the linker:\n  apt-get install {}\n  \
             LLVM_PREFIX={} cargo install bpf-linker --version {LINKER_VERSION} --no-default-features --features llvm-{llvm}",
            packages.join(" "),
            prefix.display()
        )
    };
    if !prefix.join("include/llvm-c/Core.h").exists() {
        if !can_install() {
            return Err(advice());
        }
        let names: Vec<&str> = packages.iter().map(String::as_str).collect();
        apt_install(&names).map_err(|e| format!("{e}\n{}", advice()))?;
    }
    say(&format!("building bpf-linker {LINKER_VERSION} over LLVM {llvm}; this takes a few minutes, once"));
    let mut install = Command::new(&toolchain.cargo);
    install
        .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--no-default-features"])
        .args(["--features", &format!("llvm-{llvm}"), "--root"])
        .arg(&tools)
        .env("LLVM_PREFIX", &prefix)
        .current_dir(root.join("ebpf/programs"));
    run(clean(&mut install).env("RUSTC", &toolchain.rustc)).map_err(|e| format!("{e}\n{}", advice()))?;
    installed_linker(&tools).ok_or_else(advice)
}

fn installed_linker(tools: &Path) -> Option<PathBuf> {
    let mut places: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    places.extend(env::var_os("CARGO_HOME").map(|home| PathBuf::from(home).join("bin")));
    places.extend(env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo/bin")));
    places.push(tools.join("bin"));
    places
        .into_iter()
        .map(|place| place.join("bpf-linker"))
        .find(|linker| output(Command::new(linker).arg("--version")).is_some())
}

fn compile(root: &Path, toolchain: &Toolchain, linker: &Path, target: &Path) -> Result<(), String> {
    let mut build = Command::new(&toolchain.cargo);
    build
        .args(["build", "--release", "--locked", "-Z", "build-std=core", "--target", "bpfel-unknown-none"])
        .current_dir(root.join("ebpf/programs"));
    clean(&mut build).env("RUSTC", &toolchain.rustc).env("CARGO_TARGET_DIR", target).env(
        "CARGO_ENCODED_RUSTFLAGS",
        [
            &format!("-Clinker={}", linker.display()),
            // 32-bit and atomic instructions: every kernel since 5.1.
            "-Ctarget-cpu=v3",
            "-Clink-arg=--btf",
            "-Cdebuginfo=2",
        ]
        .join("\u{1f}"),
    );
    if toolchain.bootstrap {
        build.env("RUSTC_BOOTSTRAP", "1");
    }
    run(&mut build)
}

/// Has the kernel examine the programs and says what it saw.
fn table(root: &Path, object: &Path) -> String {
    let size = fs::metadata(object).map_or(0, |m| m.len());
    let head = format!("{}: {} kB", object.display(), size / 1024);
    if !is_root() {
        return format!("{head}\nnot root: the kernel was not asked to examine the programs");
    }
    let mut facts = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    facts
        .args(["run", "--quiet", "--package", "kernel-tests", "--example", "examine", "--"])
        .arg(object)
        .current_dir(root)
        .stderr(Stdio::inherit());
    match output(&mut facts) {
        Some(text) => format!("{head}\n{}", text.trim_end()),
        None => format!("{head}\nthe kernel was not asked: the example `examine` of kernel-tests failed, see above"),
    }
}

/// Everything the objects depend on, as one number: the sources, the flags above (this file) and what compiles them.
fn hash_inputs(ebpf: &Path) -> Result<String, String> {
    let mut files = BTreeMap::new();
    for part in ["abi", "datapath", "programs"] {
        collect(&ebpf.join(part), &mut files)?;
    }
    let mut hasher = DefaultHasher::new();
    hasher.write(include_bytes!("build_ebpf.rs"));
    for (path, bytes) in files {
        hasher.write(path.strip_prefix(ebpf).unwrap_or(&path).as_os_str().as_encoded_bytes());
        hasher.write(&bytes);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

fn collect(folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) -> Result<(), String> {
    let failed = |e| format!("{}: cannot be read: {e}", folder.display());
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target" && name != "tests") {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|e| e == "rs" || e == "toml" || e == "lock") {
            let bytes = fs::read(&path).map_err(|e| format!("{}: cannot be read: {e}", path.display()))?;
            files.insert(path, bytes);
        }
    }
    Ok(())
}

fn apt_install(packages: &[&str]) -> Result<(), String> {
    say(&format!("installing {}", packages.join(" ")));
    let install = || {
        let mut apt = Command::new("apt-get");
        apt.args(["install", "-y", "-q", "--no-install-recommends"]).args(packages);
        run(apt.env("DEBIAN_FRONTEND", "noninteractive"))
    };
    // The lists of a fresh image are empty or old.
    install().or_else(|_| run(Command::new("apt-get").args(["update", "-q"])).and_then(|()| install()))
}

fn can_install() -> bool {
    is_root() && output(Command::new("apt-get").arg("--version")).is_some()
}

fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status.lines().any(|l| l.strip_prefix("Uid:").is_some_and(|ids| ids.split_whitespace().nth(1) == Some("0")))
    })
}

/// Without what the cargo that runs us has set for its own children.
fn clean(command: &mut Command) -> &mut Command {
    for name in
        ["RUSTC", "RUSTDOC", "CARGO", "RUSTUP_TOOLCHAIN", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER"]
    {
        command.env_remove(name);
    }
    command
}

fn run(command: &mut Command) -> Result<(), String> {
    let shown = format!("{command:?}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("failed ({status}): {shown}")),
        Err(e) => Err(format!("cannot be run ({e}): {shown}")),
    }
}

/// What it prints, if it can be run and succeeds.
fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn say(text: &str) {
    eprintln!("build-ebpf: {text}");
}

/// The release that knows LLVM 21 to 23.
const LINKER_VERSION: &str = "0.13.0";

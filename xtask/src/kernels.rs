//! `test-kernels`: the programs and the daemon on the kernels that people run, each in a virtual machine of its own.
//!
//! Kernels come from Debian's packages, unpacked below `target/kernels` and not installed. A guest has a file system in memory: the
//! kernel's veth, `guest` of kernel-tests as the first process, `weir`, `weirctl`, `ip`, `ethtool`, and the libraries of all of them. What
//! the guest has to say comes over its serial line; the whole of that stays beside the kernel. Processors are emulated (TCG), so this runs
//! wherever qemu does, and takes a minute or two for each kernel.

mod archive;
mod packages;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cargo::{self, Profile, root};
use crate::progress::{note, step, title};
use crate::tools::{self, ETHTOOL, IP, Tool};

#[derive(clap::Args)]
pub struct Options {
    /// Only these: 5.10, 6.1, 6.12 or newest
    #[arg(long, value_delimiter = ',', value_parser = ["5.10", "6.1", "6.12", "newest"])]
    only: Vec<String>,
    /// Ask Debian for newer ones of each
    #[arg(long)]
    update: bool,
}

pub fn run(options: &Options) -> Result<(), String> {
    title("Other kernels");
    if !cfg!(target_arch = "x86_64") {
        return Err("the kernels are Debian's for x86_64, and this is another machine".into());
    }
    tools::require(&[QEMU, DPKG, XZ, STRIP, IP, ETHTOOL])?;
    cargo::kernel_programs()?;
    let built = cargo::build(&["server", "cli", "kernel-tests"], Profile::Debug)?;
    let folder = root().join("target/kernels");
    let wanted = packages::KERNELS
        .iter()
        .filter(|kernel| options.only.is_empty() || options.only.iter().any(|name| name == kernel.name));
    let mut failed = Vec::new();
    for kernel in wanted {
        let unpacked = packages::unpack(kernel, &folder, options.update)?;
        let step = step(format!("Linux {} in a virtual machine", unpacked.version));
        let image = folder.join(format!("{}.cpio", kernel.name));
        pack(&built, &unpacked, &image)?;
        let log = folder.join(format!("{}.log", kernel.name));
        let began = Instant::now();
        let said = boot(&unpacked.image, &image, &log)?;
        let _ = fs::remove_file(&image);
        said.lines().filter_map(|line| line.trim().strip_prefix("guest: ")).for_each(note);
        if said.contains(HOLDS) {
            step.done(format!("it loads, attaches and steers, {} s", began.elapsed().as_secs()));
        } else {
            step.done(format!("it failed; {} says how", log.display()));
            failed.push(format!("Linux {}: {}", unpacked.version, log.display()));
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("not all kernels will do:\n  {}", failed.join("\n  "))) }
}

/// The file system of a guest.
fn pack(built: &Path, kernel: &packages::Unpacked, image: &Path) -> Result<(), String> {
    let place = image.with_extension("tmp");
    fs::create_dir_all(&place).map_err(|error| format!("{}: {error}", place.display()))?;
    let mut archive = archive::Archive::default();
    for folder in ["proc", "sys", "dev", "run", "tmp", "etc", "root"] {
        archive.folder(folder);
    }
    archive.file("etc/hosts", 0o644, b"127.0.0.1 localhost\n::1 localhost\n");
    archive.file("veth.ko", 0o644, &kernel.veth()?);
    let mut libraries = std::collections::BTreeSet::new();
    for (name, at) in [("guest", "init"), ("weir", "bin/weir"), ("weirctl", "bin/weirctl")] {
        // Debugging information is nine tenths of them.
        let stripped = place.join(name);
        tools::run(Command::new(STRIP.program).arg("-o").arg(&stripped).arg(built.join(name)))?;
        archive.file(at, 0o755, &read(&stripped)?);
        libraries.extend(libraries_of(&stripped)?);
    }
    for tool in [IP, ETHTOOL] {
        let program = tools::find(tool.program).ok_or_else(|| format!("{} is not found", tool.program))?;
        archive.file(&format!("bin/{}", tool.program), 0o755, &read(&program)?);
        libraries.extend(libraries_of(&program)?);
    }
    for library in libraries {
        archive.file(library.to_string_lossy().trim_start_matches('/'), 0o755, &read(&library)?);
    }
    let _ = fs::remove_dir_all(&place);
    fs::write(image, archive.finish()).map_err(|error| format!("{}: {error}", image.display()))
}

/// Where what a program is linked with lies, the loader among them.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>, String> {
    let text = tools::run(Command::new("ldd").arg(program))?;
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

/// Runs it to its end and says what it said.
fn boot(kernel: &Path, image: &Path, log: &Path) -> Result<String, String> {
    let file = |path: &Path| fs::File::create(path).map_err(|error| format!("{}: {error}", path.display()));
    let mut qemu = Command::new(QEMU.program);
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048", "-nic", "none"]);
    qemu.args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot"]);
    qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(image);
    // On a busy machine ticks come late, and a kernel that counts them while it starts takes its timer for broken, and panics.
    qemu.args(["-append", "console=ttyS0 panic=-1 quiet no_timer_check"]);
    let mut running = qemu
        .stdin(Stdio::null())
        .stdout(file(log)?)
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| format!("{}: {error}", QEMU.program))?;
    let deadline = Instant::now() + LIMIT;
    while running.try_wait().map_err(|error| error.to_string())?.is_none() {
        if Instant::now() > deadline {
            let _ = running.kill();
            let _ = running.wait();
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut said = Vec::new();
    fs::File::open(log).and_then(|mut log| log.read_to_end(&mut said)).map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

const QEMU: Tool = Tool { program: "qemu-system-x86_64", package: "qemu-system-x86" };
const DPKG: Tool = Tool { program: "dpkg", package: "dpkg" };
const XZ: Tool = Tool { program: "xz", package: "xz-utils" };
const STRIP: Tool = Tool { program: "strip", package: "binutils" };
/// The last line of a guest that is content.
const HOLDS: &str = "guest: all of it holds";
/// A guest that takes longer hangs: on a quiet machine it takes a minute.
const LIMIT: Duration = Duration::from_secs(1_500);

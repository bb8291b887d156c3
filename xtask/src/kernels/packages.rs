//! Kernels of Debian, found and unpacked by its own tools, with lists of packages beside those of the system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::progress::{note, step};
use crate::tools;

pub struct Kernel {
    /// As `--only` has it.
    pub name: &'static str,
    /// What its version begins with; nothing for the newest there is.
    begins: &'static str,
}

/// The oldest that is supported, those of Debian 12 and 13, and the newest.
pub const KERNELS: [Kernel; 4] = [
    Kernel { name: "5.10", begins: "5.10." },
    Kernel { name: "6.1", begins: "6.1." },
    Kernel { name: "6.12", begins: "6.12." },
    Kernel { name: "newest", begins: "" },
];

/// Suites that have them, each with what the address of its mirror ends with.
const SUITES: [(&str, &str); 5] = [
    ("debian", "bullseye"),
    ("debian", "bookworm"),
    ("debian-security", "bookworm-security"),
    ("debian", "bookworm-backports"),
    ("debian", "trixie-backports"),
];

/// The flavour for virtual machines, the smallest.
const FLAVOUR: &str = "-cloud-amd64";
/// What brings the image and the modules: one package, or since 6.19 two.
const PARTS: [&str; 3] = ["linux-image-", "linux-binary-", "linux-modules-"];
/// The first that comes in two, whose `linux-image-` has nothing in it.
const DIVIDED: [u32; 2] = [6, 19];

pub struct Unpacked {
    pub version: String,
    pub image: PathBuf,
    module: PathBuf,
}

impl Unpacked {
    /// The module for pairs of virtual interfaces.
    pub fn veth(&self) -> Result<Vec<u8>, String> {
        if self.module.extension().is_some_and(|end| end == "xz") {
            let mut xz = Command::new("xz");
            let output = xz.arg("-dc").arg(&self.module).output().map_err(|error| format!("xz: {error}"))?;
            return if output.status.success() { Ok(output.stdout) } else { Err(format!("xz: {}", output.status)) };
        }
        fs::read(&self.module).map_err(|error| format!("{}: {error}", self.module.display()))
    }
}

/// One that is there already, or from Debian.
pub fn unpack(kernel: &Kernel, folder: &Path, update: bool) -> Result<Unpacked, String> {
    let place = folder.join(kernel.name);
    if !update && let Some(found) = look(&place) {
        return Ok(found);
    }
    let step = step(format!("a kernel of Debian: {}", kernel.name));
    let apt = Apt::new(&folder.join("apt"))?;
    let names = tools::run(&mut apt.command("apt-cache", &["pkgnames", "linux-"]))?;
    let version = newest(&names, kernel.begins).ok_or(format!("Debian's mirror has no kernel {}", kernel.name))?;
    let _ = fs::remove_dir_all(&place);
    let root = place.join(&version);
    fs::create_dir_all(&root).map_err(|error| format!("{}: {error}", root.display()))?;
    for package in packages(&names, &version) {
        let mut download = apt.command("apt-get", &["-q", "download", &package]);
        tools::run(download.current_dir(&place))?;
    }
    for file in files(&place).filter(|file| file.extension().is_some_and(|end| end == "deb")) {
        tools::run(Command::new("dpkg").arg("-x").arg(&file).arg(&root))?;
        let _ = fs::remove_file(file);
    }
    let found = look(&place).ok_or(format!("{}: no kernel with veth was in the packages", place.display()))?;
    step.done(version);
    Ok(found)
}

fn look(place: &Path) -> Option<Unpacked> {
    let root = files(place).find(|file| file.is_dir())?;
    let version = root.file_name()?.to_str()?.to_owned();
    let mut all = Vec::new();
    walk(&root, &mut all);
    let find = |is: &dyn Fn(&str) -> bool| {
        all.iter().find(|file| file.file_name().and_then(|n| n.to_str()).is_some_and(is)).cloned()
    };
    let image = find(&|name| name.starts_with("vmlinuz"))?;
    let module = find(&|name| name == "veth.ko" || name == "veth.ko.xz")?;
    Some(Unpacked { version, image, module })
}

fn files(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn walk(folder: &Path, all: &mut Vec<PathBuf>) {
    for file in files(folder) {
        if file.is_dir() && !file.is_symlink() { walk(&file, all) } else { all.push(file) }
    }
}

/// The newest version among the names of packages.
fn newest(names: &str, begins: &str) -> Option<String> {
    let versions = names.lines().filter_map(|name| {
        let name = PARTS.iter().find_map(|part| name.trim().strip_prefix(part))?;
        let version = name.strip_suffix(FLAVOUR)?;
        (version.starts_with(begins) && version.starts_with(|c: char| c.is_ascii_digit())).then_some(version)
    });
    // Without the short names that stand for a newest one.
    versions
        .filter(|version| version.matches('.').count() >= 2)
        .max_by_key(|version| numbers(version))
        .map(str::to_owned)
}

/// The packages that bring this version.
fn packages(names: &str, version: &str) -> Vec<String> {
    let parts = if numbers(version)[..] < DIVIDED[..] { &PARTS[..1] } else { &PARTS[1..] };
    let wanted = parts.iter().map(|part| format!("{part}{version}{FLAVOUR}"));
    wanted.filter(|package| names.lines().any(|name| name.trim() == package)).collect()
}

fn numbers(version: &str) -> Vec<u32> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// Debian's tools with lists and settings of their own.
struct Apt(PathBuf);

impl Apt {
    fn new(folder: &Path) -> Result<Apt, String> {
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part)).map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        let apt = Apt(folder.to_owned());
        let sites = tools::run(Command::new("apt-get").args(["indextargets", "--format", "$(SITE)"]))
            .map_err(|error| format!("{error}; kernels come from a mirror of Debian"))?;
        let mirror =
            sites.lines().find_map(|site| site.strip_suffix("/debian")).ok_or("apt knows no mirror of Debian")?;
        let key = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
        let lines = SUITES.map(|(archive, suite)| format!("deb {key} {mirror}/{archive} {suite} main\n"));
        fs::write(folder.join("sources.list"), lines.concat()).map_err(|error| error.to_string())?;
        // A suite that is no longer there is missed only if a kernel is.
        if let Err(problem) = tools::run(&mut apt.command("apt-get", &["-q", "update"])) {
            note(problem);
        }
        Ok(apt)
    }

    fn command(&self, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        let folder = self.0.display();
        for option in [
            format!("Dir::Etc::sourcelist={folder}/sources.list"),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State::lists={folder}/lists"),
            format!("Dir::Cache={folder}/cache"),
            // Who runs it may be root, in folders of somebody else.
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command.args(words);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_a_series_is_taken_with_all_its_parts() {
        let names = "linux-image-6.1.0-9-cloud-amd64\nlinux-image-6.1.0-57-cloud-amd64\nlinux-image-6.12-cloud-amd64\n\
            linux-image-6.12.9+deb12-cloud-amd64\nlinux-image-6.12.117+deb12-cloud-amd64\nlinux-image-cloud-amd64\n\
            linux-image-6.1.0-58-amd64\nlinux-image-7.3.4+deb13-cloud-amd64\nlinux-binary-7.3.4+deb13-cloud-amd64\n\
            linux-modules-7.3.4+deb13-cloud-amd64\nlinux-headers-9.9.9-cloud-amd64\n";
        let found = |begins| newest(names, begins).unwrap_or_default();
        assert_eq!(["6.1.", "6.12.", "", "5.10."].map(found), ["6.1.0-57", "6.12.117+deb12", "7.3.4+deb13", ""]);
        assert_eq!(packages(names, "6.1.0-57"), ["linux-image-6.1.0-57-cloud-amd64"]);
        let parts = ["linux-binary-7.3.4+deb13-cloud-amd64", "linux-modules-7.3.4+deb13-cloud-amd64"];
        assert_eq!(packages(names, "7.3.4+deb13"), parts);
    }
}

//! llvm-profdata, which makes a profile of what the counting program wrote. It has to be of the compiler's LLVM: the formats
//! of both files change from one to the next.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::compiler::Compiler;
use crate::{progress, tools};

/// The one of this compiler; installed when it is missing and that takes no guessing.
pub fn find_or_install(compiler: &Compiler) -> Result<PathBuf, String> {
    let find = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        choose(candidates(compiler, std::env::split_paths(&path)), compiler.llvm, version)
    };
    if let Some(found) = find() {
        return Ok(found);
    }
    let package = format!("llvm-{}", compiler.llvm);
    if let Some(toolchain) = of_rustup(compiler) {
        let step = progress::step("installing rustup's llvm-tools");
        let mut rustup = Command::new("rustup");
        rustup.args(["component", "add", "llvm-tools", "--toolchain", &toolchain]);
        match tools::run(&mut rustup) {
            Ok(_) => step.done("installed"),
            Err(problem) => progress::warn(problem),
        }
    }
    if find().is_none() && tools::is_root() && tools::find("apt-get").is_some() {
        // Why it failed stands above the advice.
        let _ = tools::install(&[&package]).map_err(progress::warn);
    }
    find().ok_or_else(|| {
        format!(
            "there is no llvm-profdata of LLVM {}; install it with `rustup component add llvm-tools` or, on Debian, `apt-get \
             install {package}`",
            compiler.llvm
        )
    })
}

/// Where it may be, the compiler's own first.
fn candidates(compiler: &Compiler, path: impl Iterator<Item = PathBuf>) -> Vec<PathBuf> {
    let llvm = compiler.llvm;
    let own = [
        compiler.host_folder().join("bin/llvm-profdata"),
        PathBuf::from(format!("/usr/lib/llvm-{llvm}/bin/llvm-profdata")),
        PathBuf::from(format!("/usr/lib/llvm{llvm}/bin/llvm-profdata")),
    ];
    let names = [format!("llvm-profdata-{llvm}"), "llvm-profdata".into()];
    own.into_iter().chain(path.flat_map(|folder| names.clone().map(|name| folder.join(name)))).collect()
}

/// The first one that can be run and is of this LLVM.
fn choose(candidates: Vec<PathBuf>, llvm: u32, version: impl Fn(&Path) -> Option<String>) -> Option<PathBuf> {
    candidates.into_iter().find(|program| version(program).and_then(|text| major(&text)) == Some(llvm))
}

fn version(program: &Path) -> Option<String> {
    // Only what is there is run; the rest is not worth a message.
    program.is_file().then(|| tools::run(Command::new(program).arg("--version")).ok()).flatten()
}

/// `Debian LLVM version 22.1.8` → 22
fn major(text: &str) -> Option<u32> {
    text.split("LLVM version ").nth(1)?.split('.').next()?.trim().parse().ok()
}

/// The name of the toolchain, when the compiler is one of rustup's.
fn of_rustup(compiler: &Compiler) -> Option<String> {
    let mut parts = compiler.sysroot.iter().rev();
    let (name, folder) = (parts.next()?, parts.next()?);
    (folder == "toolchains" && tools::find("rustup").is_some()).then(|| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiler() -> Compiler {
        Compiler {
            version: String::new(),
            host: "riscv64gc-unknown-linux-gnu".into(),
            llvm: 22,
            sysroot: "/opt/rust".into(),
        }
    }

    #[test]
    fn the_compilers_own_comes_first_and_the_paths_last() {
        let found = candidates(&compiler(), ["/usr/bin".into()].into_iter());
        let own = "/opt/rust/lib/rustlib/riscv64gc-unknown-linux-gnu/bin/llvm-profdata";
        assert_eq!(found.first(), Some(&PathBuf::from(own)));
        assert_eq!(found[1], PathBuf::from("/usr/lib/llvm-22/bin/llvm-profdata"));
        let last = ["/usr/bin/llvm-profdata-22", "/usr/bin/llvm-profdata"].map(PathBuf::from);
        assert_eq!(found[found.len() - 2..], last);
    }

    #[test]
    fn another_llvm_is_passed_over() {
        let there = ["/a", "/b", "/c"].map(PathBuf::from).to_vec();
        let version = |program: &Path| match program.to_str() {
            Some("/a") => Some("LLVM (http://llvm.org/):\n  LLVM version 19.1.7\n".to_string()),
            Some("/b") => None,
            _ => Some("Debian LLVM version 22.1.8\n  Optimized build.\n".to_string()),
        };
        assert_eq!(choose(there.clone(), 22, version), Some("/c".into()));
        assert_eq!(choose(there, 21, version), None);
    }

    #[test]
    fn versions_of_all_builds_are_read() {
        assert_eq!(major("LLVM (http://llvm.org/):\n  LLVM version 22.1.2-rust-1.95.0-stable\n"), Some(22));
        assert_eq!(major("Ubuntu LLVM version 18.1.3\n"), Some(18));
        assert_eq!(major("llvm-profdata: unknown"), None);
    }
}

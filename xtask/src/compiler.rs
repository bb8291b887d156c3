//! The rustc that cargo calls: what it says about itself.

use std::path::PathBuf;
use std::process::Command;

use crate::tools;

pub struct Compiler {
    /// All of `rustc -vV`.
    pub version: String,
    /// The machine it builds for when it is not told another.
    pub host: String,
    /// Major version of its LLVM, whose formats the tools beside it have to know.
    pub llvm: u32,
    pub sysroot: PathBuf,
}

impl Compiler {
    pub fn examine() -> Result<Self, String> {
        let rustc = || Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        let sysroot = tools::run(rustc().args(["--print", "sysroot"]))?;
        let version = tools::run(rustc().arg("-vV"))?;
        Self::parse(version, sysroot.trim().into()).ok_or_else(|| "rustc -vV does not tell its host and LLVM".into())
    }

    fn parse(version: String, sysroot: PathBuf) -> Option<Self> {
        let of = |key: &str| version.lines().find_map(|line| line.strip_prefix(key)).map(str::to_string);
        let (host, llvm) = (of("host: ")?, of("LLVM version: ")?);
        let llvm = llvm.split('.').next()?.parse().ok()?;
        Some(Self { version, host, llvm, sysroot })
    }

    /// What the compiler brings for its host, in `bin` and `lib`.
    pub fn host_folder(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib").join(&self.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_llvm_are_read() {
        let text = "rustc 1.95.0 (59807616e 2026-04-14)\nhost: aarch64-unknown-linux-gnu\nrelease: 1.95.0\nLLVM version: 22.1.2\n";
        let compiler = Compiler::parse(text.into(), "/opt/rust".into()).expect("all of it is there");
        assert_eq!((compiler.host.as_str(), compiler.llvm), ("aarch64-unknown-linux-gnu", 22));
        assert_eq!(compiler.host_folder(), PathBuf::from("/opt/rust/lib/rustlib/aarch64-unknown-linux-gnu"));
        assert!(Compiler::parse("rustc 1.95.0\nhost: x\n".into(), PathBuf::new()).is_none(), "no LLVM");
    }
}

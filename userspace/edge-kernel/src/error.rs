//! What can go wrong with the kernel, told so that the reader knows what to do next.

use std::fmt;
use std::io;

/// What failed, where, with which value, what is accepted and what to do, in one text; plus the kind, for programs.
#[derive(Debug)]
pub enum KernelError {
    /// This build has no BPF object.
    NotBuiltIn,
    /// The process may not do it.
    Privilege(String),
    /// Something the caller gave cannot be.
    Invalid(String),
    /// The kernel or the driver cannot do it.
    Unsupported(String),
    /// The kernel refused a call.
    System { what: String, error: io::Error },
}

/// Something works, but not as well as it could.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Warning(pub String);

impl KernelError {
    pub(crate) fn system(what: impl Into<String>, error: io::Error) -> KernelError {
        let what = what.into();
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => KernelError::Privilege(format!(
                "{what}: {error}; run as root, or give the process CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON \
                 (systemd: AmbientCapabilities=), or leave --interface out to run without L4"
            )),
            _ => KernelError::System { what, error },
        }
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KernelError::NotBuiltIn => f.write_str(
                "L4 steering is not built in: this weir was compiled without its BPF programs; run `cargo xtask build-ebpf` \
                 and build again, or leave --interface out",
            ),
            KernelError::Privilege(text) | KernelError::Invalid(text) | KernelError::Unsupported(text) => f.write_str(text),
            KernelError::System { what, error } => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for KernelError {}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

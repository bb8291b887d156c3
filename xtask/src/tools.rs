//! Programs of the system that a task needs: found, installed from Debian where that is possible, otherwise named.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::progress;

/// A program and the Debian package that brings it.
pub struct Tool {
    pub program: &'static str,
    pub package: &'static str,
}

pub const IP: Tool = Tool { program: "ip", package: "iproute2" };
pub const ETHTOOL: Tool = Tool { program: "ethtool", package: "ethtool" };
pub const NSENTER: Tool = Tool { program: "nsenter", package: "util-linux" };
pub const NGINX: Tool = Tool { program: "nginx", package: "nginx" };
/// What relays bytes and datagrams, a file of its own.
pub const NGINX_STREAM: Tool =
    Tool { program: "/usr/lib/nginx/modules/ngx_stream_module.so", package: "libnginx-mod-stream" };
pub const HAPROXY: Tool = Tool { program: "haproxy", package: "haproxy" };
pub const CURL: Tool = Tool { program: "curl", package: "curl" };
pub const WRK: Tool = Tool { program: "wrk", package: "wrk" };
pub const PROMTOOL: Tool = Tool { program: "promtool", package: "prometheus" };
pub const CHROMIUM: Tool = Tool { program: "chromium", package: "chromium" };
pub const PYTHON: Tool = Tool { program: "python3", package: "python3" };
pub const H2LOAD: Tool = Tool { program: "h2load", package: "nghttp2-client" };
pub const SLAPD: Tool = Tool { program: "slapd", package: "slapd" };
pub const VALGRIND: Tool = Tool { program: "valgrind", package: "valgrind" };
pub const DEBOOTSTRAP: Tool = Tool { program: "debootstrap", package: "debootstrap" };
pub const COMPILER: Tool = Tool { program: "cc", package: "gcc" };
pub const COMPILER_CPP: Tool = Tool { program: "c++", package: "g++" };

/// Makes sure that all of these can be started, or says what a person has to install.
pub fn require(tools: &[Tool]) -> Result<(), String> {
    let missing: Vec<&Tool> = tools.iter().filter(|tool| find(tool.program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    packages.dedup();
    let programs = missing.iter().map(|tool| tool.program).collect::<Vec<_>>().join(", ");
    if !is_root() || find("apt-get").is_none() {
        return Err(format!("not found: {programs}; install them (Debian: apt-get install {})", packages.join(" ")));
    }
    install(&packages)?;
    match missing.iter().find(|tool| find(tool.program).is_none()) {
        Some(tool) => Err(format!("{} is installed, but {} is still not found in PATH", tool.package, tool.program)),
        None => Ok(()),
    }
}

/// Installs Debian packages; the package lists are fetched only when the first try fails.
pub fn install(packages: &[&str]) -> Result<(), String> {
    let step = progress::step(format!("installing {} from Debian", packages.join(", ")));
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-qq", "-y"]).args(words);
        command.stdout(Stdio::null()).stdin(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let mut words = vec!["install", "--no-install-recommends"];
    words.extend(packages);
    let installed = apt(&words) || (apt(&["update"]) && apt(&words));
    if !installed {
        return Err(format!("apt-get could not install {}; its messages stand above", packages.join(" ")));
    }
    step.done("installed");
    Ok(())
}

/// A program that is built with Go where there is Go.
pub struct GoTool {
    pub program: &'static str,
    package: &'static str,
    /// It is older than modules, so what it needs is found as it is built.
    is_old: bool,
    /// What goes without it.
    pub tests: &'static str,
}

pub const GO_TOOLS: [GoTool; 2] = [
    GoTool {
        program: "h2spec",
        package: "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible",
        is_old: true,
        tests: "the suite for servers of HTTP/2",
    },
    GoTool {
        program: "buf",
        package: "github.com/bufbuild/buf/cmd/buf@v1.75.0",
        is_old: false,
        tests: "calls of buf curl",
    },
];

impl GoTool {
    /// Builds it unless it was, and says in which folder it is.
    pub fn build(&self, target: &Path) -> Result<PathBuf, String> {
        let folder = target.join("tools");
        if !folder.join(self.program).is_file() {
            let go = find("go").ok_or_else(|| format!("there is no Go to build {} with", self.program))?;
            let step = progress::step(format!("building {}", self.program));
            let mut command = Command::new(go);
            command.args(["install", self.package]).env("GOBIN", &folder);
            if self.is_old {
                command.env("GOFLAGS", "-mod=mod");
            }
            run(&mut command)?;
            step.done("built");
        }
        Ok(folder)
    }
}

/// Where a program is, looking into the sbin folders as well, which are not in every user's PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs a program to its end; what it wrote to stderr becomes the error.
pub fn run(command: &mut Command) -> Result<String, String> {
    let shown = show(command);
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{shown}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("{shown}: {}: {}", output.status, stderr.trim()))
}

/// Runs a program to its end; answers what it wrote to stderr.
pub fn run_for_its_errors(command: &mut Command) -> Result<String, String> {
    let shown = show(command);
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{shown}: {error}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(stderr) } else { Err(format!("{shown}: {}: {}", output.status, stderr.trim())) }
}

/// The command line as a person would type it.
pub fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

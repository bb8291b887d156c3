//! `test-kubernetes`: Kubernetes's own API server and etcd, built once into `target/tools/kubernetes`, and the tests that need them.
//!
//! The API server is the released one, from its Go modules, with the definitions of the Gateway API from theirs: what takes our statuses,
//! rights and manifests there is what takes them in a cluster. Where it has been built the ordinary tests use it as well. The conformance
//! suite of the Gateway API runs here alone: it takes long.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cargo::{self, cargo, root};
use crate::progress::{note, seconds, step, title, warn};
use crate::tools;

mod conformance;

#[derive(clap::Args)]
pub struct Options {
    /// Only build what the tests need
    #[arg(long)]
    build_only: bool,
    /// Build helm as well where there is none, to render the chart with it
    #[arg(long)]
    helm: bool,
    #[command(flatten)]
    conformance: conformance::Options,
}

pub fn run(options: &Options) -> Result<(), String> {
    title("Kubernetes");
    let folder = root().join("target/tools/kubernetes");
    let io = |error: std::io::Error| format!("{}: {error}", folder.display());
    fs::create_dir_all(folder.join("src")).map_err(io)?;
    let go = tools::find("go").ok_or(format!("there is no Go to build Kubernetes {VERSION} with; install Go 1.26"))?;
    programs(&go, &folder)?;
    let kinds = definitions(&go, &folder)?;
    conformance::build(&go, &folder)?;
    if options.helm && tools::find("helm").is_none() && !folder.join("helm").is_file() {
        let step = step("building helm");
        let helm = format!("helm.sh/helm/v3/cmd/helm@{HELM}");
        match tools::run(
            Command::new(&go).args(["install", &helm]).env("GOBIN", &folder).env("CGO_ENABLED", "0").envs(COLLECTING),
        ) {
            Ok(_) => step.done("built"),
            Err(problem) => warn(format!("{problem}; the chart is not rendered")),
        }
    }
    if options.build_only {
        return Ok(());
    }
    let step = step("tests against it");
    let mut command = cargo();
    command.args(["test", "--package", "server", "--test", "house", "--", "kubernetes::", "--nocapture"]);
    cargo::run(&mut command)?;
    step.done("they hold");
    conformance::run(&options.conformance, &folder, &kinds)
}

/// The API server, and where it keeps things.
fn programs(go: &Path, folder: &Path) -> Result<(), String> {
    let src = folder.join("src");
    let module = src.join("go.mod");
    // It keeps what it was built from: another version is another build.
    let built_from = fs::read_to_string(folder.join("built-from")).unwrap_or_default();
    let there = |name: &str| folder.join(name).is_file() && built_from == MODULE;
    if there("kube-apiserver") && there("etcd") {
        note(format!("kube-apiserver {VERSION} and etcd are in {}", folder.display()));
        return Ok(());
    }
    fs::write(&module, MODULE).map_err(|error| format!("{}: {error}", module.display()))?;
    let (major, minor) = VERSION.trim_start_matches('v').split_once('.').unwrap_or_default();
    let set = |name: &str, value: &str| format!("-X k8s.io/component-base/version.{name}={value}");
    let minor = minor.split('.').next().unwrap_or_default();
    let names = [set("gitVersion", VERSION), set("gitMajor", major), set("gitMinor", minor)].join(" ");
    for (name, package) in
        [("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"), ("etcd", "go.etcd.io/etcd/server/v3")]
    {
        let step = step(format!("building {name} of {package}, which takes minutes the first time"));
        let mut command = Command::new("nice");
        command.args(["-n", "10"]).arg(go).args(["build", "-mod=mod", "-trimpath", "-v", "-ldflags"]);
        command.arg(format!("-s -w {names}")).arg("-o").arg(folder.join(name)).arg(package);
        packages(command.current_dir(&src).env("CGO_ENABLED", "0").envs(COLLECTING))?;
        step.done("built");
    }
    let place = folder.join("built-from");
    fs::write(&place, MODULE).map_err(|error| format!("{}: {error}", place.display()))
}

/// Runs a build that names each package it has come to, and says how far it is.
fn packages(command: &mut Command) -> Result<(), String> {
    let shown = tools::show(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{shown}: {error}"))?;
    let (started, mut told, mut count) = (Instant::now(), Instant::now(), 0);
    let mut last: Vec<String> = Vec::new();
    let lines = child.stderr.take().into_iter().flat_map(|output| BufReader::new(output).lines());
    for line in lines.map_while(Result::ok) {
        count += usize::from(!line.contains(' '));
        if told.elapsed() > TELL {
            told = Instant::now();
            note(format!("{count} packages after {}: {line}", seconds(started.elapsed())));
        }
        if last.len() == LINES_KEPT {
            last.remove(0);
        }
        last.push(line);
    }
    let status = child.wait().map_err(|error| format!("{shown}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{shown}: {status}:\n{}", last.join("\n"))) }
}

/// The definitions of the Gateway API, as its release has them.
fn definitions(go: &Path, folder: &Path) -> Result<PathBuf, String> {
    let place = folder.join(format!("gateway-api-{GATEWAY_API}"));
    if place.is_dir() {
        return Ok(place);
    }
    let step = step(format!("definitions of the Gateway API {GATEWAY_API}"));
    let module = format!("sigs.k8s.io/gateway-api@{GATEWAY_API}");
    let answer =
        tools::run(Command::new(go).args(["mod", "download", "-json", &module]).current_dir(folder.join("src")))?;
    let answer: Value = serde_json::from_str(&answer).map_err(|error| format!("go mod download -json: {error}"))?;
    let from = PathBuf::from(answer["Dir"].as_str().unwrap_or_default()).join("config/crd/standard");
    let new = folder.join("gateway-api.new");
    let io = |error: std::io::Error| format!("{} from {}: {error}", new.display(), from.display());
    let _ = fs::remove_dir_all(&new);
    fs::create_dir_all(&new).map_err(io)?;
    let mut count = 0;
    for entry in fs::read_dir(&from).map_err(io)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // The others are no definitions of kinds.
        if name.starts_with("gateway.networking.k8s.io_") && !name.contains("_vap_") {
            let text = fs::read(entry.path()).map_err(io)?;
            fs::write(new.join(name), text).map_err(io)?;
            count += 1;
        }
    }
    fs::rename(&new, &place).map_err(io)?;
    step.done(format!("{count} kinds"));
    Ok(place)
}

/// Of the module that names Kubernetes's parts; the version stands there too.
const MODULE: &str = include_str!("../kubernetes/go.mod");
const VERSION: &str = "v1.37.2";
const GATEWAY_API: &str = "v1.6.1";
const HELM: &str = "v3.20.0";
/// Go's compilers collect garbage, though each of them ends soon: letting them have more first is time saved.
const COLLECTING: [(&str, &str); 1] = [("GOGC", "400")];
/// Between two words of how far a build is.
const TELL: Duration = Duration::from_secs(20);
/// Of a build that fails.
const LINES_KEPT: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_kubernetes_is_of_one_version() {
        assert!(MODULE.contains(&format!("k8s.io/kubernetes {VERSION}\n")));
        let parts = VERSION.replacen("v1", "v0", 1);
        let replaced: Vec<&str> = MODULE.lines().filter(|line| line.contains(" => ")).collect();
        assert!(replaced.len() > 30 && replaced.iter().all(|line| line.ends_with(&parts)), "{replaced:?}");
    }
}

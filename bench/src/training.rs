//! `train`: the load under which a weir that was built to write a profile of itself shows what of it is hot. `cargo xtask dist`
//! and `cargo xtask bench` build the shipped binary from that profile.
//!
//! Counts of requests rather than times, so that a slow machine makes the same profile as a fast one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::certificate::Certificate;
use crate::gateways::{Contender, Gateway, HTTP, Role, Setup, free_address};
use crate::generator::{self, Tls};
use crate::rounds;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The weir to load; absent: the one beside this program
    #[arg(long)]
    pub weir: Option<PathBuf>,
}

pub fn run(options: &Options) -> Result<(), String> {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
    let folder = parent.join(format!("weir-training-{}", std::process::id()));
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    // Both drivers are in one binary and one profile. Without a ring here the profile is of the other driver alone, which is
    // most of what a request passes through.
    if let Err(problem) = train("ring", options, &folder) {
        let Failed::Start(problem) = problem else { return Err(problem.text()) };
        eprintln!("left out: io_uring: {problem}");
    }
    train("epoll", options, &folder).map_err(Failed::text)?;
    let _ = fs::remove_dir_all(&folder);
    Ok(())
}

enum Failed {
    Start(String),
    Load(String),
}

impl Failed {
    fn text(self) -> String {
        match self {
            Self::Start(text) | Self::Load(text) => text,
        }
    }
}

/// Loads one driver, plain and inside TLS.
fn train(io: &str, options: &Options, folder: &Path) -> Result<(), Failed> {
    for tls in [false, true] {
        let certificate = tls.then(|| Certificate::new(folder)).transpose().map_err(Failed::Start)?;
        let setup = Setup {
            upstream: free_address(),
            cpu: None,
            folder: folder.into(),
            logs: true,
            certificate,
            role: Role { ours: include_str!("training/weir.yaml"), ..HTTP },
            document: None,
        };
        let contender = Contender { program: options.weir.clone(), ..Contender::ours(io) };
        let gateway = Gateway::start(&contender, &setup).map_err(Failed::Start)?;
        for (name, load) in loads(&setup) {
            let outcome = rounds::load(&load, &gateway, setup.upstream).map_err(Failed::Load)?;
            let protocol = if tls { "tls" } else { "plain" };
            println!("  {io:<5} {protocol:<5} {name:<8} {:>6} requests", outcome.requests);
        }
        // The profile is written at the end of the process.
        gateway.stop(END_LIMIT).map_err(Failed::Load)?;
    }
    Ok(())
}

/// What users' clients do, each as often as gives it a place among what is hot.
fn loads(setup: &Setup) -> Vec<(&'static str, generator::Options)> {
    let certificate = setup.certificate.as_ref().map(|pair| pair.der.clone());
    let tls = certificate.is_some().then_some(Tls::Full);
    let base = |requests: u64| generator::Options {
        connections: 64,
        size: 1 << 10,
        tls,
        requests: Some(requests),
        warm_up: 0.0,
        seconds: LOAD_LIMIT.as_secs_f64(),
        certificate: certificate.clone(),
        ..generator::Options::default()
    };
    let kept = [
        ("small", base(20_000)),
        ("large", generator::Options { size: 16 << 10, ..base(10_000) }),
        ("bodies", generator::Options { body: 4 << 10, size: 128, ..base(10_000) }),
        // Most workers are not full: they sleep and wake for one request.
        ("rate", generator::Options { rate: Some(4_000), ..base(8_000) }),
        ("alone", generator::Options { connections: 1, ..base(4_000) }),
    ];
    // What no load comes to is built for size and set aside: a refusal would cost more than what it spares.
    let refused = |path: &str, status| generator::Options {
        connections: 32,
        path: path.to_owned(),
        refused: Some(status),
        ..base(5_000)
    };
    let refused = [
        ("limited", refused("/limited/", 429)),
        ("sold-out", refused("/sold-out/", 410)),
        ("waiting", refused("/waiting/", 503)),
    ];
    let fresh = |tls, requests| generator::Options { connections: 16, close: true, tls, ..base(requests) };
    let fresh = match tls {
        None => vec![("close", fresh(None, 8_000))],
        Some(_) => vec![("full", fresh(Some(Tls::Full), 1_000)), ("resumed", fresh(Some(Tls::Resumed), 2_000))],
    };
    kept.into_iter().chain(refused).chain(fresh).collect()
}

/// A load that is not through by then ends; an instrumented weir on a slow machine needs a tenth of it.
const LOAD_LIMIT: Duration = Duration::from_secs(60);
/// Connections are drained and the profile is written.
const END_LIMIT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(certificate: Option<Certificate>) -> Setup {
        let upstream = free_address();
        Setup {
            upstream,
            cpu: None,
            folder: PathBuf::new(),
            logs: true,
            certificate,
            role: Role { ours: "", ..HTTP },
            document: None,
        }
    }

    #[test]
    fn every_load_ends_by_its_count_and_handshakes_are_among_those_of_tls() {
        let folder = std::env::temp_dir().join(format!("weir-training-test-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let certificate = Certificate::new(&folder).expect("a certificate");
        let _ = fs::remove_dir_all(&folder);
        let (plain, tls) = (loads(&setup(None)), loads(&setup(Some(certificate))));
        assert!(plain.iter().chain(&tls).all(|(_, load)| load.requests.is_some()));
        assert!(plain.iter().all(|(_, load)| load.tls.is_none()));
        assert!(tls.iter().all(|(_, load)| load.tls.is_some() && load.certificate.is_some()));
        assert!(tls.iter().any(|(_, load)| load.close && load.tls == Some(Tls::Resumed)));
        for loads in [plain, tls] {
            let refused = loads.iter().filter_map(|(_, load)| load.refused);
            assert_eq!(refused.collect::<Vec<_>>(), [429, 410, 503], "what is refused is hot, too");
        }
    }
}

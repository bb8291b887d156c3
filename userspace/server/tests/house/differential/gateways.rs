//! Ours, nginx and HAProxy, each with lanes: a port in front and a recording backend of its own behind it, so that cases that
//! run at the same time do not meet.

use super::backend::Backend;
use super::responses::Answer;
use crate::leash::Leashed;
use crate::world::{Machine, answers, eventually, free_port, proxy, server};
use std::fmt::Write;
use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Cases that run through one gateway at the same time.
const LANES: usize = 10;

pub struct Gateway {
    pub name: &'static str,
    pub lanes: Vec<Lane>,
    process: Process,
}

pub struct Lane {
    pub port: u16,
    pub backend: Backend,
}

enum Process {
    Ours(Box<Machine>),
    /// The process, and its files for as long.
    Peer(Leashed, #[allow(dead_code, reason = "it is there to be dropped")] tempfile::TempDir),
}

/// Ours first, then the peers that are installed.
pub fn start(answers: &Arc<Vec<Answer>>) -> Vec<Gateway> {
    [Some(ours(answers)), nginx(answers), haproxy(answers)].into_iter().flatten().collect()
}

impl Gateway {
    /// Whether the program has not ended meanwhile.
    pub fn is_alive(&mut self) -> bool {
        match &mut self.process {
            Process::Ours(machine) => {
                machine.still_runs();
                true
            }
            Process::Peer(child, _) => child.try_wait().is_ok_and(|ended| ended.is_none()),
        }
    }

    /// The metrics of ours.
    pub fn metric(&self, name: &str) -> Option<f64> {
        match &self.process {
            Process::Ours(machine) => machine.metric(name),
            Process::Peer(..) => None,
        }
    }
}

fn lanes(answers: &Arc<Vec<Answer>>) -> Vec<Lane> {
    (0..LANES).map(|_| Lane { port: free_port(), backend: Backend::start(answers.clone()) }).collect()
}

fn ours(scripted: &Arc<Vec<Answer>>) -> Gateway {
    let (machine, lanes) = (Machine::start(), lanes(scripted));
    for (number, lane) in lanes.iter().enumerate() {
        machine.create(&proxy(&format!("pl{number}"), &[format!("http://127.0.0.1:{}", lane.backend.port)]));
        let server = server(&format!("hs{number}"), lane.port, &format!("pl{number}"));
        // Also for targets that have no path.
        machine.create(&server.replace("pathPrefix: /\n    backend", "backend"));
    }
    for lane in &lanes {
        answers(lane.port, "/", 200);
    }
    Gateway { name: "ours", lanes, process: Process::Ours(Box::new(machine)) }
}

fn nginx(answers: &Arc<Vec<Answer>>) -> Option<Gateway> {
    let nginx = installed("nginx")?;
    let (folder, lanes) = (tempfile::tempdir().unwrap(), lanes(answers));
    let path = folder.path().display();
    // One process: a worker of its own would outlive whoever ends only its master.
    let mut config = format!(
        "daemon off; master_process off; pid {path}/pid; error_log /dev/null crit;\nevents {{ worker_connections 1024; }}\nhttp {{\naccess_log off;\n"
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(config, "{kind}_temp_path {path}/{kind};");
    }
    // It takes an interim answer for the final one, and waits for more of it.
    config += "proxy_read_timeout 2s; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host;\n";
    for lane in &lanes {
        let _ = writeln!(
            config,
            "server {{ listen 127.0.0.1:{}; location / {{ proxy_pass http://127.0.0.1:{}; }} }}",
            lane.port, lane.backend.port
        );
    }
    fs::write(folder.path().join("nginx.conf"), config + "}\n").unwrap();
    let mut command = Command::new(nginx);
    command.arg("-e").arg("/dev/null").arg("-p").arg(folder.path()).arg("-c").arg(folder.path().join("nginx.conf"));
    Some(peer("nginx", command, folder, lanes))
}

fn haproxy(answers: &Arc<Vec<Answer>>) -> Option<Gateway> {
    let haproxy = installed("haproxy")?;
    let (folder, lanes) = (tempfile::tempdir().unwrap(), lanes(answers));
    let mut config =
        "defaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n  timeout tunnel 2s\n".to_owned();
    for (number, lane) in lanes.iter().enumerate() {
        let _ = writeln!(config, "frontend f{number}\n  bind 127.0.0.1:{}\n  default_backend b{number}", lane.port);
        let _ = writeln!(config, "backend b{number}\n  server s 127.0.0.1:{}", lane.backend.port);
    }
    fs::write(folder.path().join("haproxy.cfg"), config).unwrap();
    let mut command = Command::new(haproxy);
    // In the foreground, so that it ends with its process.
    command.arg("-db").arg("-q").arg("-f").arg(folder.path().join("haproxy.cfg"));
    Some(peer("HAProxy", command, folder, lanes))
}

/// The program, also where users have no PATH to.
fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        println!("left out: {name} is not installed (Debian: apt install {name}); ours is judged without it");
    }
    found
}

fn peer(name: &'static str, mut command: Command, folder: tempfile::TempDir, lanes: Vec<Lane>) -> Gateway {
    let child = Leashed::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())).unwrap();
    let mut gateway = Gateway { name, lanes, process: Process::Peer(child, folder) };
    eventually(&format!("{name} listens"), || {
        assert!(gateway.is_alive(), "{name} does not start");
        gateway.lanes.iter().all(|lane| TcpStream::connect(("127.0.0.1", lane.port)).is_ok()).then_some(())
    });
    gateway
}

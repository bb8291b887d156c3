//! Many clients of HTTP/1.1 in front of a backend that speaks HTTP/2: nginx, and ours.

use crate::leash::Leashed;
use crate::world::{Answer, Connection, Machine, PATIENCE, answers, eventually, free_port, get, mock, server, within};
use std::fmt::Write as _;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Clients at a time, and what each asks: enough for nginx to end each connection to it more than once (`keepalive_requests`).
const CLIENTS: usize = 48;
const REQUESTS: usize = 50;

/// A pipeline to one server that speaks HTTP/2 without being asked.
fn h2c(name: &str, port: u16) -> String {
    format!(
        "kind: Pipeline\nname: {name}\nfilters:\n- kind: Proxy\n  name: proxy\n  pools:\n  - http2: true\n    servers:\n    \
         - url: http://127.0.0.1:{port}\n"
    )
}

/// All clients ask at a time; says what went wrong.
fn ask_all(port: u16, body: &'static str) -> Vec<String> {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            std::thread::spawn(move || {
                let mut wrong = Vec::new();
                let mut connection = Connection::open(&format!("127.0.0.1:{port}")).unwrap();
                for request in 0..REQUESTS {
                    let method = if (client + request) % 3 == 0 { "POST" } else { "GET" };
                    match connection.request(method, "/", &[], if method == "POST" { "some" } else { "" }) {
                        Ok(Answer { status: 200, body: said, .. }) if said.trim() == body => {}
                        other => wrong.push(format!("{method}: {other:?}")),
                    }
                }
                wrong
            })
        })
        .collect();
    clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
}

#[test]
fn many_clients_share_few_connections_to_ours() {
    let machine = Machine::start();
    let (front, back) = (free_port(), free_port());
    machine.create(&mock("answer", "ours"));
    machine.create(&format!("{}h2c: true\n", server("back", back, "answer")));
    machine.create(&h2c("relay", back));
    machine.create(&server("front", front, "relay"));
    answers(front, "/", 200);
    let wrong = ask_all(front, "ours");
    assert!(wrong.is_empty(), "{} of {}: {:?}", wrong.len(), CLIENTS * REQUESTS, wrong.first());
    few(&machine, 1);
}

#[test]
fn many_clients_share_few_connections_to_nginx() {
    let Some(nginx) = Nginx::start() else { return };
    let machine = Machine::start();
    let front = free_port();
    machine.create(&h2c("relay", nginx.port));
    machine.create(&server("front", front, "relay"));
    answers(front, "/", 200);
    let wrong = ask_all(front, "nginx");
    assert!(wrong.is_empty(), "{} of {}: {:?}", wrong.len(), CLIENTS * REQUESTS, wrong.first());
    // It ends each after a thousand requests.
    few(&machine, 1 + (CLIENTS * REQUESTS / 1000) as u64);
    // And all of them when it is told to go; what comes then finds another, or nobody.
    drop(nginx);
    let refused = within(PATIENCE, || get(front, "/").ok().filter(|answer| answer.status == 503));
    assert!(refused.is_some());
}

/// Connections were made in proportion to workers, whatever the number of clients.
fn few(machine: &Machine, each: u64) {
    let made = machine.metric("weir_upstream_connections_created_total").unwrap_or_default() as u64;
    let workers = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    assert!(made >= 1 && made <= workers * each * 2, "{made} connections for {CLIENTS} clients and {workers} workers");
}

struct Nginx {
    port: u16,
    _process: Leashed,
    _folder: tempfile::TempDir,
}

impl Nginx {
    fn start() -> Option<Nginx> {
        let Some(nginx) = installed() else {
            println!("skipped: there is no nginx (Debian: apt install nginx-light)");
            return None;
        };
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let path = folder.path().display();
        // One process: a worker of its own would outlive whoever ends only its master.
        let mut config = format!(
            "daemon off; master_process off; pid {path}/pid; error_log /dev/null crit;\nevents {{ worker_connections 1024; }}\n\
             http {{\naccess_log off;\n"
        );
        for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            let _ = writeln!(config, "{kind}_temp_path {path}/{kind};");
        }
        let _ = writeln!(config, "server {{ listen 127.0.0.1:{port} http2; location / {{ return 200 nginx; }} }}\n}}");
        fs::write(folder.path().join("nginx.conf"), config).unwrap();
        let mut command = Command::new(nginx);
        command
            .arg("-e")
            .arg("/dev/null")
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(folder.path().join("nginx.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let nginx = Nginx { port, _process: Leashed::start(&mut command).unwrap(), _folder: folder };
        eventually("nginx listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        Some(nginx)
    }
}

fn installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join("nginx")).find(|program| Path::new(program).is_file())
}

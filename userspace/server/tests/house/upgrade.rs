//! SIGUSR2: another process in the place of this one, under load, and what becomes of one that does not come up.

use crate::leash::Leashed;
use crate::world::{Backend, Connection, Machine, WEIR, answers, eventually, free_port, get, mock, proxy, server};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The pid of the n-th successor, as the log tells it.
pub fn successor(machine: &Machine, nth: usize) -> u32 {
    eventually("a successor was started", || started(&machine.log(), nth))
}

fn started(log: &str, nth: usize) -> Option<u32> {
    let mut started = log.lines().filter(|line| line.contains("started the program again"));
    started.nth(nth)?.rsplit_once("pid=")?.1.split_whitespace().next()?.parse().ok()
}

pub fn signal(pid: u32, name: &str) {
    let done = std::process::Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
    assert!(done.success());
}

/// It runs, and is not merely a zombie.
pub fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

pub fn gone(pid: u32) {
    eventually("the old process leaves", || (!lives(pid)).then_some(()));
}

/// Clients of a port: some keep their connections, some open one for each request.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    failures: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(port: u16, clients: u64) -> Load {
        let mut load =
            Load { stop: Arc::default(), answered: Arc::default(), failures: Arc::default(), threads: Vec::new() };
        for client in 0..clients {
            let (stop, answered, failures) = (load.stop.clone(), load.answered.clone(), load.failures.clone());
            // Some are quick, some rest for longer than any grace between requests.
            let pause = Duration::from_millis([2, 5, 20, 700][client as usize % 4]);
            let keeps = client % 8 < 4;
            load.threads.push(thread::spawn(move || {
                let mut connection: Option<Connection> = None;
                while !stop.load(Ordering::Relaxed) {
                    let mut ask = || {
                        let mut open = match connection.take() {
                            Some(open) => open,
                            None => Connection::open(&format!("127.0.0.1:{port}"))?,
                        };
                        let answer = open.request("GET", "/", &[], "")?;
                        let last = answer.head.to_ascii_lowercase().contains("\r\nconnection: close");
                        connection = (keeps && !last).then_some(open);
                        Ok::<_, std::io::Error>(answer)
                    };
                    match ask() {
                        Ok(answer) if answer.status == 200 => drop(answered.fetch_add(1, Ordering::Relaxed)),
                        other => failures.lock().unwrap().push(format!("keeps {keeps}, {pause:?}: {other:?}")),
                    }
                    thread::sleep(pause);
                }
            }));
        }
        load
    }

    fn more(&self, by: u64) {
        let before = self.answered.load(Ordering::Relaxed);
        eventually("requests are answered", || (self.answered.load(Ordering::Relaxed) > before + by).then_some(()));
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        let failures = self.failures.lock().unwrap();
        assert!(failures.is_empty(), "{} failed of {:?}: {:?}", failures.len(), self.answered, &failures[..1]);
    }
}

/// A server that repeats what it is sent, over TCP and UDP.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
                let _ = std::io::copy(&mut from, &mut to);
            });
        }
    });
    let datagrams = UdpSocket::bind(("127.0.0.1", port)).unwrap();
    thread::spawn(move || {
        let mut bytes = [0; 2048];
        while let Ok((length, from)) = datagrams.recv_from(&mut bytes) {
            let _ = datagrams.send_to(&bytes[..length], from);
        }
    });
    port
}

fn repeats(stream: &mut TcpStream, word: &[u8]) {
    stream.write_all(word).unwrap();
    let mut back = vec![0; word.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, word);
}

/// Each datagram is answered, though it may have to be sent again, as over any network.
fn datagrams_are_repeated(port: u16) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    eventually("a datagram comes back", || {
        socket.send_to(b"ping", ("127.0.0.1", port)).unwrap();
        let mut back = [0; 8];
        (socket.recv(&mut back).ok()? == 4).then_some(())
    });
}

fn upgrades_under_load(io: &str, workers: &str) {
    let mut machine = Machine::new("m1").flags(["--io", io, "--workers", workers]);
    machine.run();
    let (port, tcp, udp) = (free_port(), free_port(), free_port());
    let (backend, echo) = (Backend::start("one"), echo());
    machine.create(&proxy("pl", &[backend.url()]));
    machine.create(&server("hs", port, "pl"));
    let relay = |kind: &str, scheme: &str, port: u16| {
        format!(
            "kind: {kind}\nname: {scheme}\nport: {port}\npools:\n- servers:\n  - url: {scheme}://127.0.0.1:{echo}\n"
        )
    };
    machine.create(&relay("TCPProxy", "tcp", tcp));
    machine.create(&relay("UDPProxy", "udp", udp));
    answers(port, "/", 200);
    let mut relayed = eventually("the relay listens", || TcpStream::connect(("127.0.0.1", tcp)).ok());
    repeats(&mut relayed, b"before");
    datagrams_are_repeated(udp);

    let load = Load::start(port, 16);
    load.more(100);
    let mut pid = machine.pid();
    for turn in 0..2 {
        signal(pid, "USR2");
        let next = successor(&machine, turn);
        eventually("it has taken over", || {
            let log = machine.log();
            (log.matches("another process has the place of this one").count() > turn).then_some(())
        });
        // What is relayed since before lives for as long as the old process may.
        repeats(&mut relayed, b"meanwhile");
        load.more(200);
        datagrams_are_repeated(udp);
        relayed = TcpStream::connect(("127.0.0.1", tcp)).unwrap();
        repeats(&mut relayed, b"through the new one");
        gone(pid);
        pid = next;
        eventually("the API answers", || {
            machine.try_api("GET", "/apis/v2/healthz", "").ok().filter(|answer| answer.status == 200)
        });
    }
    load.more(200);
    load.end();
    assert!(lives(pid));

    // It is a whole machine: changes reach traffic.
    machine.update("pl", &mock("pl", "changed"));
    eventually("the change shows", || get(port, "/").ok().filter(|answer| answer.body.starts_with("changed")));
    assert_eq!(machine.json("/objects").as_array().map(Vec::len), Some(4));
    signal(pid, "TERM");
    gone(pid);
}

#[test]
fn another_process_takes_over_under_load_on_the_ring() {
    upgrades_under_load("uring", "2");
}

#[test]
fn another_process_takes_over_under_load_on_epoll() {
    upgrades_under_load("epoll", "3");
}

/// A file of its own that can be replaced.
fn own_program(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join("weir");
    let _ = fs::remove_file(&path);
    fs::hard_link(WEIR, &path).unwrap();
    path
}

#[test]
fn a_binary_that_does_not_come_up_changes_nothing() {
    let program = own_program("replaced");
    let mut machine = Machine::new("m1").program(&program);
    machine.run();
    let port = free_port();
    machine.create(&mock("pl", "up"));
    machine.create(&server("hs", port, "pl"));
    answers(port, "/", 200);
    let load = Load::start(port, 8);
    let pid = machine.pid();
    let scripts = [("#!/bin/sh\nexit 3\n", "exit status: 3"), ("no program at all", "cannot be started")];
    for (turn, (script, reason)) in scripts.into_iter().enumerate() {
        let next = program.with_file_name("next");
        fs::write(&next, script).unwrap();
        fs::set_permissions(&next, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        fs::rename(&next, &program).unwrap();
        signal(pid, "USR2");
        eventually("it goes on", || {
            let log = machine.log();
            let mut failed = log.lines().filter(|line| line.contains("the upgrade failed"));
            failed.nth(turn).filter(|line| line.contains(reason)).map(drop)
        });
        load.more(50);
        machine.update("pl", &mock("pl", &format!("turn-{turn}")));
        eventually("changes reach traffic", || {
            get(port, "/").ok().filter(|answer| answer.body.starts_with(&format!("turn-{turn}")))
        });
    }
    // The right one again.
    fs::remove_file(&program).unwrap();
    fs::hard_link(WEIR, &program).unwrap();
    signal(pid, "USR2");
    let next = successor(&machine, 1);
    gone(pid);
    load.more(50);
    load.end();
    assert!(lives(next));
    machine.update("pl", &mock("pl", "last"));
    eventually("changes reach traffic", || get(port, "/").ok().filter(|answer| answer.body.starts_with("last")));
    let _ = fs::remove_dir_all(program.parent().unwrap());
}

#[test]
fn a_successor_that_is_killed_gives_everything_back() {
    let mut machine = Machine::new("m1");
    machine.run();
    let port = free_port();
    machine.create(&mock("pl", "up"));
    machine.create(&server("hs", port, "pl"));
    answers(port, "/", 200);
    let load = Load::start(port, 8);
    let pid = machine.pid();
    signal(pid, "USR2");
    let next = successor(&machine, 0);
    signal(next, "KILL");
    eventually("it goes on", || machine.log().contains("the upgrade failed").then_some(()));
    load.more(50);
    eventually("the API answers", || {
        machine.try_api("GET", "/apis/v2/healthz", "").ok().filter(|answer| answer.status == 200)
    });
    machine.update("pl", &mock("pl", "changed"));
    eventually("changes reach traffic", || get(port, "/").ok().filter(|answer| answer.body.starts_with("changed")));
    load.end();
    assert!(lives(pid));
}

#[test]
fn a_successor_that_is_not_ready_yet_makes_place_for_no_other() {
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let (api, peer, port) = (free_port(), free_port(), free_port());
    let (file, log) = (directory.path().join("weir.yaml"), directory.path().join("weir.log"));
    let configure = |peer: u16| {
        let text = format!(
            "name: m1\nhome-dir: {}\napi-addr: 127.0.0.1:{api}\nlisten-peer-urls: ['http://127.0.0.1:{peer}']\nlog-format: text\n",
            directory.path().display()
        );
        fs::write(&file, text).unwrap();
    };
    let asks = |method: &str, path: &str, body: &str| {
        let connection = Connection::open(&format!("127.0.0.1:{api}")).ok()?;
        let answer = connection.by_address().request(method, path, &[], body).ok()?;
        (200..300).contains(&answer.status).then_some(())
    };
    let logged = |what: &str| {
        eventually(what, || fs::read_to_string(&log).unwrap_or_default().contains(what).then_some(()));
    };
    configure(peer);
    let mut command = std::process::Command::new(WEIR);
    command.args(["--disable-access", "--config-file"]).arg(&file).stdin(Stdio::null()).stdout(Stdio::null());
    let old = Leashed::start(command.stderr(fs::File::create(&log).unwrap())).unwrap();
    eventually("it is ready", || asks("GET", "/apis/v2/healthz", ""));
    eventually("a pipeline is made", || asks("POST", "/apis/v2/objects", &mock("pl", "up")));
    eventually("a server is made", || asks("POST", "/apis/v2/objects", &server("hs", port, "pl")));
    answers(port, "/", 200);

    // The new one cannot have the place that its configuration gives it, for a while.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    configure(taken.local_addr().unwrap().port());
    signal(old.id(), "USR2");
    let next = eventually("a successor was started", || started(&fs::read_to_string(&log).ok()?, 0));
    logged("is another member running here?");
    signal(next, "USR2");
    logged("SIGUSR2 is left undone");
    drop(taken);
    gone(old.id());
    eventually("it is ready", || asks("GET", "/apis/v2/healthz", ""));
    eventually("changes are taken", || asks("PUT", "/apis/v2/objects/pl", &mock("pl", "changed")));
    eventually("the change shows", || get(port, "/").ok().filter(|answer| answer.body.starts_with("changed")));
    assert_eq!(started(&fs::read_to_string(&log).unwrap(), 1), None, "there is no third");
    signal(next, "TERM");
    gone(next);
}

#[test]
fn an_upgrade_follows_the_link_that_the_program_was_called_by() {
    let program = own_program("linked");
    let link = program.with_file_name("current");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink("weir", &link).unwrap();
    let mut machine = Machine::new("m1").program(&link);
    machine.run();
    let other = program.with_file_name("other");
    fs::write(&other, "#!/bin/sh\nexit 7\n").unwrap();
    fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("other", &link).unwrap();
    signal(machine.pid(), "USR2");
    eventually("what the link leads to by now is started", || machine.log().contains("exit status: 7").then_some(()));
    let _ = fs::remove_dir_all(program.parent().unwrap());
}

//! How the process starts, talks and ends.

use crate::cluster::in_a_network;
use crate::world::{Connection, Machine, PATIENCE, answers, eventually, free_port, get, mock, proxy, server, weir};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A backend that keeps whoever asks for `/held` waiting until it is told to go on.
struct Holding {
    port: u16,
    came: Receiver<()>,
    go: Sender<()>,
}

impl Holding {
    fn open() -> Holding {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let ((comes, came), (go, goes)) = (mpsc::channel(), mpsc::channel());
        let goes = Arc::new(Mutex::new(goes));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (comes, goes) = (comes.clone(), goes.clone());
                thread::spawn(move || hold(stream, &comes, &goes));
            }
        });
        Holding { port, came, go }
    }

    fn pipeline(&self, name: &str) -> String {
        proxy(name, &[format!("http://127.0.0.1:{}", self.port)])
    }

    /// Asks for it through `port`, and waits until it has come here.
    fn ask(&self, port: u16) -> Connection {
        let mut connection = Connection::open(&format!("127.0.0.1:{port}")).unwrap();
        connection.send("GET", "/held", &[], "").unwrap();
        self.came.recv_timeout(PATIENCE).expect("it comes to the backend");
        connection
    }
}

fn hold(stream: TcpStream, comes: &Sender<()>, goes: &Mutex<Receiver<()>>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        if head.starts_with("GET /held ") && (comes.send(()).is_err() || goes.lock().unwrap().recv().is_err()) {
            return;
        }
        if reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
            return;
        }
    }
}

#[test]
fn the_first_signal_drains() {
    for signal in ["TERM", "INT"] {
        let mut machine = Machine::start();
        let (port, backend) = (free_port(), Holding::open());
        machine.create(&backend.pipeline("pl"));
        machine.create(&server("hs", port, "pl"));
        let mut idle = Connection::open(&format!("127.0.0.1:{}", {
            answers(port, "/", 200);
            port
        }))
        .unwrap();
        assert_eq!(idle.request("GET", "/", &[], "").unwrap().status, 200);
        let mut busy = backend.ask(port);
        machine.signal(signal);
        eventually("no new connections are taken", || get(port, "/").is_err().then_some(()));
        let health = machine.try_api("GET", "/apis/v2/healthz", "").map(|answer| answer.status);
        assert_eq!(health.ok(), Some(503), "whoever balances looks for another");
        backend.go.send(()).unwrap();
        assert_eq!(busy.receive().unwrap().status, 200, "what was under way is answered");
        assert_eq!(machine.ended().code(), Some(0), "{signal}");
        assert!(machine.log().contains(&format!("SIG{signal}: draining")));
    }
}

#[test]
fn the_second_signal_ends_at_once() {
    let mut machine = Machine::start();
    let (port, backend) = (free_port(), Holding::open());
    machine.create(&backend.pipeline("pl"));
    machine.create(&server("hs", port, "pl"));
    answers(port, "/", 200);
    let _busy = backend.ask(port);
    machine.signal("TERM");
    eventually("it drains", || machine.log().contains("draining").then_some(()));
    thread::sleep(Duration::from_millis(100));
    machine.still_runs();
    machine.signal("TERM");
    assert_eq!(machine.ended().code(), Some(255));
}

#[test]
fn wrong_usage_ends_with_2_and_says_all_of_it() {
    for arguments in
        [&["--nonsense"][..], &["nonsense"], &["--workers", "many"], &["run", "--io", "fast"], &["demo-backend"]]
    {
        let (code, _, told) = weir(arguments);
        assert_eq!(code, 2, "{arguments:?}: {told}");
        assert!(told.contains(arguments[arguments.len() - 1]) || told.contains("--listen"), "{told}");
    }
    let (code, _, told) = weir(&["--workers", "0", "--xdp-mode", "x", "--cluster-role", "boss"]);
    assert_eq!(code, 2);
    for part in ["--workers 0", "--xdp-mode x", "--cluster-role boss"] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    let (code, _, told) = weir(&["-f", "/nowhere/weir.yaml"]);
    assert!(code == 2 && told.contains("/nowhere/weir.yaml"), "{code}: {told}");
}

#[test]
fn small_verbs() {
    let (code, out, _) = weir(&["--version"]);
    assert!(code == 0 && out.starts_with("weir "), "{out}");
    for arguments in [&["--print-config", "--name", "n9"][..], &["run", "-c", "--name", "n9"]] {
        let (code, out, told) = weir(arguments);
        assert_eq!(code, 0, "{told}");
        assert!(out.contains("name: n9\n") && out.contains("api-addr: localhost:2381\n"), "{out}");
    }
    let (code, out, _) = weir(&["doctor"]);
    assert!(code == 0 || code == 1);
    assert!(out.contains("CPUs") && out.contains("io_uring"), "{out}");
    let directory = tempfile::tempdir().unwrap();
    let (good, bad) = (directory.path().join("good.yaml"), directory.path().join("bad.yaml"));
    fs::write(&good, mock("pl", "x")).unwrap();
    fs::write(&bad, "kind: HTTPServer\nname: hs\n").unwrap();
    let check =
        |path: &std::path::Path| weir(&["check-config", "--initial-object-config-files", path.to_str().unwrap()]);
    assert_eq!(check(&good).0, 0);
    let (code, _, told) = check(&bad);
    assert!(code == 2 && told.contains("port") && told.contains("bad.yaml"), "{code}: {told}");
}

#[test]
fn the_log_is_quiet_and_says_ready() {
    let mut machine = Machine::start();
    eventually("ready is said", || {
        machine.log().contains(&format!("ready, admin API on 127.0.0.1:{}", machine.api)).then_some(())
    });
    machine.create(&mock("pl", "x"));
    let log = machine.log();
    assert!(log.lines().count() < 25, "much is said:\n{log}");
    for word in ["openraft", "RaftCore", "vote", "become leader"] {
        assert!(!log.contains(word), "{word:?} is in the log:\n{log}");
    }
    assert_eq!(machine.json("/logs/level")["level"], "info");
    assert_eq!(machine.api("PUT", "/logs/level/debug", "").status, 200);
    assert_eq!(machine.json("/logs/level")["level"], "debug");
    assert!(machine.api("GET", "/logs?tail=5", "").body.lines().count() <= 5);
    machine.still_runs();
}

#[test]
fn log_files() {
    let mut machine = Machine::new("m1").flags(["--log-dir", "log", "--disable-access=false"]);
    machine.run();
    let port = free_port();
    machine.create(&mock("pl", "x"));
    machine.create(&server("hs", port, "pl"));
    answers(port, "/who?a=b", 200);
    let read = |name: &str| fs::read_to_string(machine.directory.join("log").join(name)).unwrap_or_default();
    eventually("the log is in its file", || read("stdout.log").contains("ready").then_some(()));
    eventually("the access log is in its file", || {
        read("filter_http_access.log").contains("GET /who?a=b").then_some(())
    });
    assert_eq!(machine.log(), "", "and nothing on standard error");
}

#[test]
fn log_files_stay_small_and_are_opened_anew() {
    let flags = ["--log-dir", "log", "--disable-access=false", "--log-max-size", "16KiB", "--log-max-files", "2"];
    let mut machine = Machine::new("m1").flags(flags);
    machine.run();
    let port = free_port();
    machine.create(&mock("pl", "x"));
    machine.create(&server("hs", port, "pl"));
    answers(port, "/", 200);
    let directory = machine.directory.join("log");
    let path = |name: &str| directory.join(name);
    let access = "filter_http_access.log";
    let mut connection = Connection::open(&format!("127.0.0.1:{port}")).unwrap();
    let mut ask = |path: &str| assert_eq!(connection.request("GET", path, &[], "").unwrap().status, 200);
    eventually("the access log was moved aside twice", || {
        (0..100).for_each(|_| ask("/many"));
        path(&format!("{access}.2")).exists().then_some(())
    });
    eventually("no more are kept than that", || {
        (0..100).for_each(|_| ask("/many"));
        (machine.metric("weir_log_rotations_total")? > 4.0).then_some(())
    });
    let names: Vec<String> =
        fs::read_dir(&directory).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(names.iter().filter(|name| name.starts_with(access)).count(), 3, "{names:?}");
    for name in &names {
        assert!(
            fs::metadata(path(name)).unwrap().len() <= (16 << 10) + (64 << 10),
            "{name}: one write beyond it at most"
        );
    }

    // logrotate's two ways: moved away and told, or copied and truncated.
    for name in [access, "stdout.log"] {
        fs::rename(path(name), path(&format!("{name}.moved"))).unwrap();
    }
    machine.signal("HUP");
    eventually("both are there again", || (path(access).exists() && path("stdout.log").exists()).then_some(()));
    ask("/after-hup");
    let read = |name: &str| fs::read_to_string(path(name)).unwrap_or_default();
    eventually("lines go to the new ones", || {
        (read(access).contains("/after-hup") && read("stdout.log").contains("SIGHUP")).then_some(())
    });
    fs::OpenOptions::new().write(true).open(path(access)).unwrap().set_len(0).unwrap();
    ask("/after-truncate");
    eventually("it begins at its beginning", || read(access).contains("/after-truncate").then_some(()));
    assert!(!read(access).starts_with('\0'));
    machine.still_runs();
}

#[test]
fn a_disk_that_takes_no_log_costs_lines_alone() {
    let machine = Machine::new("m1");
    let log = machine.directory.join("log");
    fs::create_dir(&log).unwrap();
    for name in ["stdout.log", "filter_http_access.log"] {
        std::os::unix::fs::symlink("/dev/full", log.join(name)).unwrap();
    }
    let mut machine = machine.flags(["--log-dir", "log", "--disable-access=false"]);
    machine.run();
    let port = free_port();
    machine.create(&mock("pl", "x"));
    machine.create(&server("hs", port, "pl"));
    for _ in 0..50 {
        answers(port, "/", 200);
    }
    eventually("lines are counted", || (machine.metric("weir_log_lines_lost_total")? > 0.0).then_some(()));
    assert!(machine.log().contains("cannot write the log to"), "standard error says why: {}", machine.log());
    machine.signal("TERM");
    assert_eq!(machine.ended().code(), Some(0));
}

#[test]
fn systemd_hears_that_all_of_it_turns() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(crate::world::PATIENCE)).unwrap();
    let mut machine =
        Machine::new("m1").environment("NOTIFY_SOCKET", path.to_str().unwrap()).environment("WATCHDOG_USEC", "400000");
    machine.run();
    let (mut said, mut buffer) = (Vec::new(), [0; 256]);
    while said.iter().filter(|text| *text == "WATCHDOG=1").count() < 3 || !said.contains(&"READY=1".to_owned()) {
        let count = socket.recv(&mut buffer).expect("it goes on");
        said.extend(String::from_utf8_lossy(&buffer[..count]).lines().map(str::to_owned));
    }
    // A process that stands still says nothing.
    machine.signal("STOP");
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    while socket.recv(&mut buffer).is_ok() {}
    thread::sleep(Duration::from_millis(400));
    assert!(socket.recv(&mut buffer).is_err());
    machine.signal("CONT");
    socket.set_read_timeout(Some(crate::world::PATIENCE)).unwrap();
    socket.recv(&mut buffer).expect("and goes on");
}

#[test]
fn the_unit_is_one_that_systemd_takes() {
    let Some(analyze) = crate::world::program("systemd-analyze") else { return };
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/systemd/weir.service");
    // What checks of backends hear by.
    assert!(
        std::fs::read_to_string(unit)
            .unwrap()
            .lines()
            .any(|line| line.starts_with("RestrictAddressFamilies=") && line.ends_with(" AF_PACKET"))
    );
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weir.service");
    fs::write(&path, fs::read_to_string(unit).unwrap().replace("/usr/local/bin/weir", "/bin/true")).unwrap();
    let done = Command::new(analyze).args(["verify", path.to_str().unwrap()]).output().unwrap();
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    let ours: Vec<&str> = told.lines().filter(|line| line.contains("weir.service")).collect();
    assert!(ours.is_empty(), "{told}");
}

#[test]
fn initial_objects_are_created_once() {
    let mut machine = Machine::new("m1");
    let path = machine.directory.join("pl.yaml");
    fs::write(&path, mock("pl", "first")).unwrap();
    machine = machine.flags(["--initial-object-config-files", path.to_str().unwrap()]);
    machine.run();
    eventually("it is there", || (machine.api("GET", "/objects/pl", "").status == 200).then_some(()));
    machine.update("pl", &mock("pl", "second"));
    machine.kill();
    machine.run();
    eventually("ready", || machine.said().contains("ready, admin").then_some(()));
    thread::sleep(Duration::from_millis(200));
    assert!(machine.api("GET", "/objects/pl", "").body.contains("second"));
}

/// What was asked for at the start is not given up because nobody decides yet.
#[test]
fn initial_objects_wait_for_a_majority() {
    let machines = ["m1", "m2", "m3"].map(Machine::new);
    let cluster: Vec<String> = machines.iter().map(|m| format!("{}={}", m.name, m.peer_url())).collect();
    let flags = ["--no-edge".to_owned(), "--initial-cluster".into(), cluster.join(",")];
    let [first, second, _third] = machines.map(|machine| machine.flags(&flags));
    let path = first.directory.join("pl.yaml");
    fs::write(&path, mock("pl", "first")).unwrap();
    let (mut first, mut second) = (first.flags(["--initial-object-config-files", path.to_str().unwrap()]), second);
    first.spawn();
    eventually("it answers", || first.try_api("GET", "/apis/v2/healthz", "").ok());
    // Longer than a change waits for a leader.
    thread::sleep(Duration::from_secs(3));
    assert_eq!(first.api("GET", "/objects/pl", "").status, 404);
    second.run();
    eventually("it is there", || (second.try_api("GET", "/apis/v2/objects/pl", "").ok()?.status == 200).then_some(()));
}

/// Of 2 MiB each, of which a few bytes are used, they were most of what an idle machine held.
#[test]
fn memory_is_of_small_pages() {
    let machine = Machine::start();
    let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", machine.pid())).unwrap_or_default();
    let (status, pages) = (read("status"), read("smaps_rollup"));
    assert!(!status.contains("THP_enabled:\t1"), "{status}");
    let huge = pages.lines().find_map(|line| line.strip_prefix("AnonHugePages:")?.split_whitespace().next());
    let huge: u64 = huge.unwrap_or("0").parse().unwrap();
    // What the allocator took before the first line of the program.
    assert!(huge <= 8 << 10, "{huge} kB are in huge pages\n{pages}");
}

/// Of the text that was touched at the start most is not needed again.
#[test]
fn what_only_the_start_needed_is_let_go_of() {
    let machine = Machine::start();
    let resident = || -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", machine.pid())).unwrap_or_default();
        let files =
            status.lines().find_map(|line| line.strip_prefix("RssFile:")?.split_whitespace().next()?.parse().ok());
        files.unwrap_or_default()
    };
    let mut most = 0;
    eventually("what only the start needed is let go of", || {
        most = most.max(resident());
        machine.log().contains("the start is over").then_some(())
    });
    // What it needs with nothing to do is touched again.
    thread::sleep(Duration::from_secs(1));
    let left = resident();
    assert!(left < most * 3 / 4, "{left} kB of files are mapped, and were {most}");
    assert_eq!(machine.api("GET", "/healthz", "").status, 200);
}

#[test]
fn a_data_directory_that_cannot_be() {
    let mut machine = Machine::new("m1");
    fs::write(machine.directory.join("data"), "a file").unwrap();
    machine.spawn();
    assert_eq!(machine.ended().code(), Some(1));
    let log = machine.log();
    assert!(log.contains("--data-dir") && log.contains("give a directory"), "{log}");
}

#[test]
fn a_port_of_the_process_that_is_taken() {
    let first = Machine::start();
    let mut second = Machine::new("m2");
    second.api = first.api;
    second.spawn();
    assert_eq!(second.ended().code(), Some(1));
    assert!(second.log().contains("--api-addr"), "{}", second.log());
    let mut third = Machine::new("m3");
    third.peer = first.peer;
    third.spawn();
    assert_eq!(third.ended().code(), Some(1));
    assert!(third.log().contains(&first.peer.to_string()), "{}", third.log());
}

#[test]
fn an_interface_that_is_not_there() {
    let about = Machine::start().api("GET", "/about", "").body;
    let mut machine = Machine::new("m1").flags(["--interface", "weir-none0"]);
    machine.spawn();
    let code = machine.ended().code();
    let log = machine.log();
    if about.contains("L4 not built in") {
        assert!(code == Some(2) && log.contains("L4 is not built in") && log.contains("xtask build-ebpf"), "{log}");
    } else {
        assert!(code.is_some_and(|c| c == 1 || c == 2), "{code:?}: {log}");
        assert!(log.contains("weir-none0") || log.contains("CAP_BPF"), "{log}");
    }
}

#[test]
fn kernel_programs_stay_unless_detached() {
    if !in_a_network("process::kernel_programs_stay_unless_detached") {
        return;
    }
    if Machine::start().api("GET", "/about", "").body.contains("L4 not built in") {
        println!("skipped: L4 is not built in (cargo xtask build-ebpf)");
        return;
    }
    let attached = || {
        let shown = Command::new("ip").args(["-d", "link", "show", "w0"]).output().unwrap();
        String::from_utf8_lossy(&shown.stdout).contains("xdp")
    };
    let mut machine =
        Machine::new("m1").flags(["--interface", "w0", "--xdp-mode", "generic", "--advertise-address", "10.77.0.254"]);
    machine.run();
    assert!(attached());
    assert!(machine.api("GET", "/metrics", "").body.contains("weir_build_info"));
    machine.signal("TERM");
    assert_eq!(machine.ended().code(), Some(0));
    assert!(attached(), "they steer on");
    machine = machine.flags(["--detach"]);
    machine.run();
    assert!(attached());
    machine.signal("TERM");
    assert_eq!(machine.ended().code(), Some(0));
    assert!(!attached(), "{}", machine.log());
}

//! `weirctl capture`: packets and what the kernel's programs do with them, in files that tcpdump and tshark read.

use crate::cluster::in_a_network;
use crate::world::{Machine, eventually, free_port, mock, program, server, weirctl};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// A machine with the kernel plane on one of the bridge's ports, and a client behind it.
struct Edge {
    machine: Machine,
    namespace: &'static str,
    port: u16,
    weirctl: std::path::PathBuf,
}

impl Edge {
    fn start(name: &str, weirctl: &Path, mode: &str, device: &str, namespace: &'static str) -> Edge {
        let mut machine = Machine::new(name).flags([
            "--interface",
            device,
            "--xdp-mode",
            mode,
            "--advertise-address",
            "10.77.0.254",
            "--detach",
        ]);
        machine.run();
        let port = free_port();
        machine.create(&mock("here", "served"));
        machine.create(&server("web", port, "here"));
        machine.create(&format!(
            "kind: VirtualIP\nname: shop\naddresses: [198.51.100.1]\nports: [{port}]\nprotocols: [TCP]\n"
        ));
        let edge = Edge { machine, namespace, port, weirctl: weirctl.to_owned() };
        let routed = Command::new("ip")
            .args(["-n", namespace, "route", "replace", "198.51.100.1", "via", "10.77.0.254"])
            .status();
        assert!(routed.unwrap().success());
        eventually("it is steered", || edge.asks().then_some(()));
        edge
    }

    /// A connection of the client to the virtual IP.
    fn asks(&self) -> bool {
        let port = self.port;
        let talk = format!(
            "exec 3<>/dev/tcp/198.51.100.1/{port}; printf 'GET / HTTP/1.0\\r\\nHost: a\\r\\n\\r\\n' >&3; head -1 <&3"
        );
        let done = Command::new("ip")
            .args(["netns", "exec", self.namespace, "timeout", "2", "bash", "-c", &talk])
            .output()
            .unwrap();
        String::from_utf8_lossy(&done.stdout).contains("200")
    }

    fn command(&self, asked: &Machine, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.weirctl);
        command.args(["--server", &format!("127.0.0.1:{}", asked.api), "capture"]).args(arguments);
        command
    }

    /// A capture that is open.
    fn capture(&self, asked: &Machine, arguments: &[&str]) -> Child {
        let child = self.command(asked, arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        self.is_open(1.0);
        child
    }

    fn is_open(&self, captures: f64) {
        eventually("as many captures are open", || (self.machine.metric("weir_captures")? == captures).then_some(()));
    }
}

/// What came of it, once it has ended by itself; packets are sent until then.
fn ended(edge: &Edge, mut child: Child) -> Output {
    eventually("it has seen enough", || {
        edge.asks();
        child.try_wait().unwrap()
    });
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn read(program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program).args(arguments).output().unwrap();
    assert!(done.status.success(), "{program} {arguments:?}: {}", text(&done.stderr));
    text(&done.stdout)
}

#[test]
fn packets_are_captured_with_what_becomes_of_them_in_either_mode() {
    if !in_a_network("captures::packets_are_captured_with_what_becomes_of_them_in_either_mode") {
        return;
    }
    let Some(weirctl) = weirctl() else { return };
    if Machine::start().api("GET", "/about", "").body.contains("L4 not built in") {
        println!("skipped: L4 is not built in (cargo xtask build-ebpf)");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for (mode, device, namespace) in [("generic", "w0", "n0"), ("driver", "w1", "n1")] {
        let edge = Edge::start(mode, &weirctl, mode, device, namespace);
        let file = directory.path().join(format!("{mode}.pcapng"));
        let path = file.to_str().unwrap();
        let output = ended(&edge, edge.capture(&edge.machine, &["--vip", "shop", "-c", "6", "-w", path]));
        assert!(text(&output.stderr).contains("6 packets; as many packets"), "{}", text(&output.stderr));
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "what clients send is nobody else's");
        if program("tshark").is_some() {
            let fields = ["frame.comment", "ip.dst", "tcp.dstport", "frame.interface_name", "frame.verdict.ebpf_xdp"];
            let asked: Vec<&str> = fields.iter().flat_map(|field| ["-e", field]).collect();
            let told = read("tshark", &[&["-r", path, "-T", "fields"][..], &asked].concat());
            assert_eq!(told.lines().count(), 6, "{told}");
            let (port, place) = (edge.port, format!("{mode}/{device}"));
            for line in told.lines() {
                for wanted in [
                    "verdict=pass reason=local vip=shop slot=",
                    &format!("owners={mode} hop=0"),
                    &format!("at={mode}\t198.51.100.1\t{port}\t{place}"),
                ] {
                    assert!(line.contains(wanted), "{wanted}: {line}");
                }
            }
        }
        if program("tcpdump").is_some() {
            let told = read("tcpdump", &["-nn", "-r", path, "dst", "host", "198.51.100.1"]);
            assert_eq!(told.lines().count(), 6, "{told}");
        }
        if program("capinfos").is_some() {
            let told = read("capinfos", &[path]);
            assert!(told.contains("pcapng") && told.contains("Ethernet"), "{told}");
        }

        // What is wrong is said, and leaves no file.
        let none = directory.path().join("none");
        for (wrong, why) in [
            (["--vip", "nope"], "it steers shop"),
            (["--reason", "lost"], "slot_empty"),
            (["--source", "x"], "198.51.100.0/24"),
            (["--flow", "tcp"], "write it as"),
            (["--rate", "0"], "1 to 20000"),
            (["--snap", "1"], "64 to"),
            (["--count", "0"], "1 or more"),
            (["--for", "9h"], "up to 1h"),
            (["--member", "m9"], "there are"),
            (["--to", "m9"], "no machine's name"),
        ] {
            let arguments = [&wrong[..], &["-w", none.to_str().unwrap()]].concat();
            let refused = edge.command(&edge.machine, &arguments).output().unwrap();
            assert_eq!(refused.status.code(), Some(1), "{wrong:?}");
            assert!(text(&refused.stderr).contains(why), "{why}: {}", text(&refused.stderr));
        }
        assert!(!none.exists());

        // Drops alone, through a pipe, as they come.
        edge.machine.create("kind: AccessList\nname: abuse\ndeny: [10.77.0.0/24]\n");
        eventually("packets are dropped", || (!edge.asks()).then_some(()));
        let drops = edge.capture(&edge.machine, &["--reason", "drop", "-c", "2", "-w", "-", "-s", "64"]);
        let output = ended(&edge, drops);
        let piped = directory.path().join("piped");
        std::fs::write(&piped, &output.stdout).unwrap();
        if program("tcpdump").is_some() {
            let told = read("sh", &["-c", &format!("tcpdump -nn -r - < {}", piped.display())]);
            assert_eq!(told.lines().count(), 2, "{told}");
        }
        let lines = ended(&edge, edge.capture(&edge.machine, &["--source", "10.77.0.0/24", "-c", "1", "-o", "json"]));
        let line: Value = serde_json::from_slice(&lines.stdout).unwrap();
        assert_eq!((&line["reason"], &line["verdict"]), (&"access_denied".into(), &"drop".into()), "{line}");
        assert_eq!(edge.machine.api("DELETE", "/objects/abuse", "").status, 200);

        // It ends with its reader, however that ends.
        let mut left = edge.capture(&edge.machine, &["-w", "-"]);
        left.kill().unwrap();
        left.wait().unwrap();
        edge.is_open(0.0);
        let mut left = edge.capture(&edge.machine, &[]);
        drop(left.stdout.take());
        eventually("it ends with what reads its lines", || {
            edge.asks();
            left.try_wait().unwrap()
        });
        edge.is_open(0.0);
        assert!(edge.machine.metric("weir_capture_packets_total").is_some_and(|shown| shown >= 9.0));
        assert_eq!(edge.machine.metric("weir_capture_missed_total{reason=\"room\"}"), Some(0.0));
        if mode == "generic" {
            shown_through_another(&edge);
        } else {
            let lines = as_many_as_may_be(&edge);
            let fifth = edge.command(&edge.machine, &["-c", "1"]).output().unwrap();
            assert!(text(&fifth.stderr).contains("4 captures are open"), "{}", text(&fifth.stderr));
            assert_eq!(fifth.status.code(), Some(1));
            lines.into_iter().for_each(end);
        }
    }
}

fn as_many_as_may_be(edge: &Edge) -> Vec<Child> {
    let lines = (0..4).map(|_| edge.command(&edge.machine, &[]).stdout(Stdio::null()).spawn().unwrap()).collect();
    edge.is_open(4.0);
    lines
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A member without a kernel plane shows what the one with one has.
fn shown_through_another(edge: &Edge) {
    let mut second = Machine::new("m2");
    second = second.flags(["--cluster-role", "secondary", "--primary-listen-peer-urls", &edge.machine.peer_url()]);
    second.run();
    eventually("they know each other", || {
        let members = second.json("/status/members");
        (members.as_array()?.iter().filter(|member| member["weir"]["up"] == true).count() == 2).then_some(())
    });
    let output = ended(edge, edge.capture(&second, &["--vip", "198.51.100.1", "-c", "1", "-o", "json"]));
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&line["machine"], &line["virtualIP"]), (&"generic".into(), &"shop".into()), "{line}");
    edge.is_open(0.0);

    // A machine that can show no more says so beside what others show, and joins them once it can.
    let mut lines = as_many_as_may_be(edge);
    let mut fifth = edge
        .command(&edge.machine, &["-c", "1", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(fifth.stderr.take().unwrap()).lines().map_while(Result::ok);
    let warning = "generic: it shows nothing yet: 4 captures are open";
    assert!(said.any(|line| line.contains(warning)), "the capture ended without the warning");
    lines.pop().into_iter().for_each(end);
    let output = ended(edge, fifth);
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(line["machine"], "generic", "{line}");
    lines.into_iter().for_each(end);
    edge.is_open(0.0);
}

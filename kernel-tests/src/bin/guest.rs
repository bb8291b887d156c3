//! What runs as the first process of a guest with another kernel, and the only one it comes with: see `cargo xtask test-kernels`.
//!
//! It asks `weir doctor` about the kernel, compares packets in it with [`kernel_tests::witness`], and then has two daemons steer real
//! connections: the client's router knows only the first of them, and both must answer. Each line for people begins with `guest:`.

use std::ffi::CString;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use edge_kernel::{Hook, sys};
use kernel_tests::mutation::mutated;
use kernel_tests::namespace::Namespace;
use kernel_tests::packet::Random;
use kernel_tests::witness::{self, Witness};
use kernel_tests::world::{self, OWN};

fn main() {
    if std::process::id() != 1 {
        eprintln!("guest: meant to be the first process of a virtual machine; `cargo xtask test-kernels` makes one");
        std::process::exit(2);
    }
    let held = catch_unwind(AssertUnwindSafe(|| {
        prepare();
        std::thread::scope(|scope| {
            let doctor = scope.spawn(doctor);
            packets();
            doctor.join().expect("doctor");
        });
        daemons();
    }));
    println!("guest: {}", if held.is_ok() { "all of it holds" } else { "it does not hold" });
    let _ = std::io::stdout().flush();
    // SAFETY: no pointers; nothing is left that could be lost.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
}

fn prepare() {
    for (kind, at) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/run"),
        ("tmpfs", "/tmp"),
        ("bpf", "/sys/fs/bpf"),
    ] {
        let (kind, target) = (CString::new(kind).expect("a word"), CString::new(at).expect("a path"));
        // SAFETY: C strings that live through the call; no data.
        let result = unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
        assert_eq!(result, 0, "mounting {at}: {}", std::io::Error::last_os_error());
    }
    let module = fs::File::open("/veth.ko").expect("the module");
    // SAFETY: a descriptor and a C string that live through the call.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, module.as_raw_fd(), c"".as_ptr(), 0) };
    assert_eq!(result, 0, "veth: {}", std::io::Error::last_os_error());
    run(Command::new("ip").args(["link", "set", "lo", "up"]));
}

/// What a person would be told.
fn doctor() {
    let output = Command::new("weir").arg("doctor").output().expect("weir doctor");
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| {
            ["programs", "privileges", "kernel", "io_uring", "jit", "bpffs"]
                .contains(&line.split_whitespace().nth(1).unwrap_or(""))
        })
        .collect();
    lines.iter().for_each(|line| println!("guest: doctor: {line}"));
    assert!(lines.iter().any(|line| line.starts_with("ok") && line.contains("takes the programs")), "{text}");
}

/// The programs against the second opinion, by themselves.
fn packets() {
    const PACKETS: u32 = 5_000;
    let mut kernel = world::kernel().unwrap_or_else(|e| panic!("{e}"));
    kernel.set_access(&[]).expect("written");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a kernel has a release");
    let release = release.trim();
    let mut missing = Vec::new();
    for (name, hook, since) in PROGRAMS {
        let Some(program) = kernel.program(hook) else {
            println!("guest: not loaded: {name}");
            if version(release) >= since {
                missing.push(name);
            }
            continue;
        };
        let facts = sys::program_facts(program).expect("a loaded program");
        let examined = match facts.verified_instructions {
            0 => "it does not say how many instructions it examined".to_owned(),
            some => format!("{some} instructions examined"),
        };
        println!("guest: loaded: {name}: {} bytes of machine code, {examined}", facts.jited_bytes);
    }
    let warnings: Vec<&str> = kernel.warnings().iter().map(|warning| warning.0.as_str()).collect();
    warnings.iter().for_each(|warning| println!("guest: warning: {warning}"));
    // The daemon does without some of them, so nothing else here would miss them.
    assert!(missing.is_empty(), "Linux {release} must take {}, and did not", missing.join(", "));
    let mut random = Random(1);
    let mut left = PACKETS;
    while left > 0 {
        let program = kernel.program(Hook::XdpSteer).expect("loaded");
        let mut witness = Witness::new(world::machines(), world::vips(), [world::address(OWN), world::own_v6()]);
        let began = Instant::now();
        while left > 0 && began.elapsed() < REMEMBERED {
            compare(program, &mut witness, &mutated(&mut random));
            left -= 1;
        }
        if left > 0 {
            kernel = world::kernel().unwrap_or_else(|e| panic!("{e}"));
            kernel.set_access(&[]).expect("written");
        }
    }
    println!("guest: packets: {PACKETS} mutated ones, each as the second opinion says");
}

fn compare(program: BorrowedFd<'_>, witness: &mut Witness, frame: &[u8]) {
    let ran = sys::test_run(program, frame, 1).expect("test run");
    let said = witness.judge(frame);
    let equal = ran.verdict == 1 || witness::same(&said.frame, &ran.packet, said.reason);
    assert!(
        ran.verdict == witness::action(said.reason) && equal,
        "verdict {}, the second opinion says {}\nin      {frame:02x?}\nprogram {:02x?}\nsecond  {:02x?}",
        ran.verdict,
        said.reason.name(),
        ran.packet,
        said.frame
    );
}

/// Of `6.12.9+deb12-cloud-amd64`, 6 and 12.
fn version(release: &str) -> [u32; 2] {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    [(); 2].map(|()| numbers.next().unwrap_or(0))
}

/// Ends with the value.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn daemons() {
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    let client = Namespace::new("client");
    client.sysctl("net/ipv4/ip_forward", "1");
    let edges = [1u8, 2].map(|n| {
        let edge = Namespace::new(&format!("edge{n}"));
        let (near, far) = (format!("10.1.{n}.1"), format!("10.1.{n}.2"));
        client.join(&format!("c{n}"), &[ip(&near)], &edge, "e0", &[ip(&far)]);
        client.take_frames(&format!("c{n}"));
        edge.ip(&["route", "add", "default", "via", &near]);
        edge
    });
    for virtual_ips in ["198.51.100.1/32", "198.51.101.0/28"] {
        client.ip(&["route", "add", virtual_ips, "via", "10.1.1.2"]);
    }
    let peer = |n: u8| format!("http://10.1.{n}.2:2380");
    fs::write("/tmp/secret", "5e".repeat(32)).expect("written");
    fs::set_permissions("/tmp/secret", std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("kept to ourselves");
    let mut running = Vec::new();
    for (n, edge) in [1u8, 2].into_iter().zip(&edges) {
        let cluster = format!("edge-1={},edge-2={}", peer(1), peer(2));
        let (name, home, peer) = (format!("edge-{n}"), format!("/tmp/edge-{n}"), peer(n));
        let mut weir = Command::new("weir");
        weir.args(["run", "--name", &name, "--cluster-name", "guest", "--cluster-secret-file", "/tmp/secret"]);
        weir.args(["--initial-cluster", &cluster, "--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        weir.args(["--api-addr", API, "--interface", "e0", "--advertise-address", &format!("10.1.{n}.2")]);
        weir.args(["--home-dir", &home, "--data-dir", &format!("{home}/data")]);
        let mut backend = Command::new("weir");
        backend.args(["demo-backend", "--listen", "127.0.0.1:9095", "--name", &name]);
        for command in [&mut weir, &mut backend] {
            command.stdin(Stdio::null());
            running.push(Daemon(edge.enter(|| command.spawn().expect("weir starts"))));
        }
    }
    let documents = "\
name: p\nkind: Pipeline\nfilters:\n- name: proxy\n  kind: Proxy\n  pools:\n  - servers:\n    - url: http://127.0.0.1:9095\n---\n\
name: s\nkind: HTTPServer\nport: 8080\nrules:\n- paths:\n  - pathPrefix: /\n    backend: p\n---\n\
name: v\nkind: VirtualIP\naddresses: [198.51.100.1, 198.51.101.0/28]\nports: [8080]\nprotocols: [TCP]\nmachines:\n- {name: edge-1}\n- {name: edge-2}\n";
    fs::write("/tmp/documents.yaml", documents).expect("written");
    let apply = || {
        let mut weirctl = Command::new("weirctl");
        weirctl.args(["--server", API, "apply", "-f", "/tmp/documents.yaml"]);
        edges[0].enter(|| weirctl.output().expect("weirctl starts"))
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = apply();
        if output.status.success() {
            break;
        }
        assert!(Instant::now() < deadline, "{}", String::from_utf8_lossy(&output.stderr));
        std::thread::sleep(Duration::from_millis(500));
    }
    for at in ["198.51.100.1:8080", "198.51.101.13:8080"] {
        let mut answered = [0u32; 2];
        while answered.iter().any(|&count| count < 5) {
            match client.enter(|| ask(at)) {
                Some(text) if text.contains("edge-1") => answered[0] += 1,
                Some(text) if text.contains("edge-2") => answered[1] += 1,
                _ => std::thread::sleep(Duration::from_millis(200)),
            }
            assert!(Instant::now() < deadline, "answers of the two at {at}: {answered:?}");
        }
        println!(
            "guest: daemons: at {at} {} answers of the edge that the router knows, {} of the one it was steered to",
            answered[0], answered[1]
        );
    }
}

/// What the virtual IP answers with 200.
fn ask(at: &str) -> Option<String> {
    let at: SocketAddr = at.parse().ok()?;
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.starts_with("HTTP/1.1 200").then_some(text)
}

fn run(command: &mut Command) {
    let status = command.status().expect("it starts");
    assert!(status.success(), "{status}");
}

/// The programs forget where first fragments went after 30 seconds (`FRAGMENT_NS`), and the second opinion never
/// does: on a slow machine both begin anew before.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Every program, and the Linux since which it must load: what it needs is there from then on.
const PROGRAMS: [(&str, Hook, [u32; 2]); 9] = [
    ("xdp_steer", Hook::XdpSteer, [5, 10]),
    ("xdp_general", Hook::XdpGeneral, [5, 10]),
    ("xdp_fragment", Hook::XdpFragment, [5, 10]),
    ("xdp_capture", Hook::XdpCapture, [5, 10]),
    ("xdp_syn", Hook::XdpSyn, [6, 0]),
    ("xdp_backend", Hook::XdpBackend, [5, 10]),
    ("xdp_deliver", Hook::XdpDeliver, [5, 10]),
    ("pick_listener", Hook::SkLookup, [5, 10]),
    ("pick_worker", Hook::SkReuseport, [5, 14]),
];
const API: &str = "127.0.0.1:2381";
/// An emulated machine on a busy one.
const PATIENCE: Duration = Duration::from_secs(900);

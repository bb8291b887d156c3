//! `weir doctor` with the options that a machine is to run with: each fault with what to do about it.

use crate::world::{Machine, WEIR, eventually, free_port, mock, server, weir};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// What is told with these options beside those that put it into a place of its own.
pub fn told(machine: &Machine, more: &[&str]) -> (i32, String) {
    let (home, api) = (machine.directory.to_str().unwrap(), format!("127.0.0.1:{}", machine.api));
    let url = machine.peer_url();
    let own = ["doctor", "--name", &machine.name, "--home-dir", home, "--api-addr", &api, "--listen-peer-urls", &url];
    let (code, out, errors) = weir(&[&own, more].concat());
    assert_eq!(errors, "");
    (code, out)
}

fn finds(machine: &Machine, more: &[&str], parts: &[&str]) {
    let (code, out) = told(machine, more);
    assert_eq!(code, 1, "{out}");
    let faults: Vec<&str> = out.lines().filter(|line| line.starts_with("FAIL")).collect();
    for part in parts {
        assert!(faults.iter().any(|line| line.contains(part)), "{part} is not in {faults:?}");
    }
}

#[test]
fn a_machine_that_is_well_has_no_fault() {
    let mut machine = Machine::new("m1");
    let (code, out) = told(&machine, &[]);
    assert_eq!(code, 0, "before it was ever started: {out}");
    for part in ["ok    state", "ok    disk ", "ok    disk space", "ok    ports", "open files", "io_uring"] {
        assert!(out.contains(part), "{part} is not in {out}");
    }
    assert!(!machine.directory.join("data").exists(), "and nothing was written");
    machine.run();
    machine.create(&mock("pl", "x"));
    let (code, out) = told(&machine, &[]);
    assert!(code == 0 && out.contains("is in use by a weir that runs"), "{code}: {out}");
    machine.kill();
    let (code, out) = told(&machine, &[]);
    assert!(code == 0 && out.contains("of member \"m1\" of cluster"), "{code}: {out}");
    machine.run();
}

#[test]
fn faults_of_the_place() {
    let mut machine = Machine::new("m1");
    machine.run();
    machine.kill();
    let file = machine.directory.join("data/raft.redb");
    let set = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    set(0o644);
    finds(&machine, &[], &["can be read by others, and holds private keys: chmod 600"]);
    set(0o600);
    // What the edge keeps has the same keys in it, and whoever has the seal signs for every member.
    for (name, told) in [
        ("edge/last-good.json", true),
        ("edge/last-good.json.damaged", true),
        ("peer/seal", true),
        ("peer/key.pem", true),
        ("peer/authority.sealed", true),
        ("peer/cert.pem", false),
        ("peer/authority.pem", false),
    ] {
        let file = machine.directory.join("data").join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let made = !file.exists();
        if made {
            fs::write(&file, "{}").unwrap();
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        if told {
            finds(&machine, &[], &[&format!("{name} can be read by others, and holds private keys: chmod 600")]);
        } else {
            assert!(!self::told(&machine, &[]).1.contains(name), "{name} is no secret");
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        if made {
            fs::remove_file(&file).unwrap();
        }
    }
    let data = machine.directory.join("data");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o777)).unwrap();
    finds(&machine, &[], &["can be written by every user of this machine: chmod o-w"]);
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
    finds(&machine, &["--cluster-name", "other"], &["belongs to --cluster-name", "repeat the old one"]);
    let kept = fs::read(&file).unwrap();
    fs::write(&file, b"garbage").unwrap();
    finds(&machine, &[], &["raft.redb is damaged"]);
    fs::write(&file, kept).unwrap();
    assert_eq!(told(&machine, &[]).0, 0);
    // The file system of the kernel's own tables takes no file, whoever asks.
    finds(&machine, &["--data-dir", "/proc/weir"], &["/proc cannot be written", "choose another --data-dir"]);
    finds(&machine, &["--log-dir", "/proc/weir"], &["--log-dir /proc/weir: cannot be written"]);
    let limited = format!("ulimit -n 512; exec {WEIR} doctor --name m1 --home-dir {}", machine.directory.display());
    let done = Command::new("sh").args(["-c", &limited]).output().unwrap();
    let out = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.code() == Some(1) && out.contains("FAIL  open files") && out.contains("LimitNOFILE"), "{out}");
    let small = machine.directory.join("small");
    fs::create_dir(&small).unwrap();
    let mounted = format!(
        "mount -t tmpfs -o size=2m none {0} && exec {WEIR} doctor --home-dir {0} --api-addr 127.0.0.1:0",
        small.display()
    );
    let done = Command::new("unshare").args(["-m", "sh", "-c", &mounted]).output().unwrap();
    let out = String::from_utf8_lossy(&done.stdout).into_owned();
    if out.is_empty() {
        println!("skipped: no file system of its own ({})", String::from_utf8_lossy(&done.stderr));
    } else {
        assert!(out.contains("FAIL  disk space") && out.contains("make room"), "{out}");
    }
}

#[test]
fn faults_of_doors_and_options() {
    let machine = Machine::new("m1");
    let taken = TcpListener::bind(("127.0.0.1", machine.api)).unwrap();
    finds(&machine, &[], &["--api-addr", "ss -ltnp says who listens there"]);
    drop(taken);
    let document = machine.directory.join("hs.yaml");
    let port = free_port();
    fs::write(&document, server("hs", port, "pl")).unwrap();
    let taken = TcpListener::bind(("0.0.0.0", port)).unwrap();
    let objects = ["--initial-object-config-files", document.to_str().unwrap()];
    finds(&machine, &objects, &[&format!("port {port} of the initial objects")]);
    drop(taken);
    fs::write(&document, "kind: HTTPServer\nname: hs\n").unwrap();
    finds(&machine, &objects, &["hs.yaml", "port"]);
    finds(&machine, &["--workers", "0", "--io", "fast"], &["--workers 0", "--io fast"]);
    finds(&machine, &["--interface", "nosuch0"], &["--interface \"nosuch0\": there is none; there are", "lo"]);
    let secret = machine.directory.join("secret");
    fs::write(&secret, "the secret of the machines of a test").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    finds(&machine, &["--cluster-secret-file", secret.to_str().unwrap()], &["chmod 600 it"]);
}

#[test]
fn faults_of_certificates() {
    let machine = Machine::new("m1");
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["m1".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let ended = params.self_signed(&key).unwrap();
    let path = |name: &str, text: &str| {
        let path = machine.directory.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (chain, key_file) = (path("c.pem", &ended.pem()), path("k.pem", &key.serialize_pem()));
    finds(&machine, &["--tls", "--cert-file", &chain, "--key-file", &key_file], &["has ended", "write a new one"]);
    let other = path("o.pem", &rcgen::KeyPair::generate().unwrap().serialize_pem());
    finds(&machine, &["--tls", "--cert-file", &chain, "--key-file", &other], &["--key-file"]);
    let good = rcgen::generate_simple_self_signed(vec!["m2".to_owned()]).unwrap();
    let (chain, key_file) = (path("g.pem", &good.cert.pem()), path("gk.pem", &good.signing_key.serialize_pem()));
    let stranger = path("s.pem", &rcgen::generate_simple_self_signed(vec!["x".to_owned()]).unwrap().cert.pem());
    let url = format!("https://127.0.0.1:{}", machine.peer);
    let peers = |authority: &str| {
        let all = ["--listen-peer-urls", &url, "--peer-cert-file", &chain, "--peer-key-file", &key_file];
        finds(
            &machine,
            &[&all[..], &["--peer-trusted-ca-file", authority]].concat(),
            &[if authority == stranger { "no authority in" } else { "it is for none of \"m1\"" }],
        );
    };
    peers(&stranger);
    peers(&chain);
}

#[test]
fn faults_of_other_members() {
    let mut other = Machine::new("m2");
    other.run();
    let machine = Machine::new("m1");
    let cluster = |url: &str| format!("m1={},m2={url}", machine.peer_url());
    let there = cluster(&other.peer_url());
    let (code, out) = told(&machine, &["--initial-cluster", &there]);
    assert!(code == 0 && out.contains("\"m2\" answers"), "{code}: {out}");
    let elsewhere = ["--initial-cluster", &there, "--cluster-name", "another"];
    finds(&machine, &elsewhere, &["both need the same --cluster-name"]);
    let misnamed = format!("m1={},m3={}", machine.peer_url(), other.peer_url());
    finds(&machine, &["--initial-cluster", &misnamed], &["member \"m2\" is there, and --initial-cluster says \"m3\""]);
    let nobody = cluster(&format!("http://127.0.0.1:{}", free_port()));
    finds(&machine, &["--initial-cluster", &nobody], &["start weir there, or look at the address"]);
    eventually("the other was not disturbed", || (other.metric("weir_raft_is_leader")? == 1.0).then_some(()));
}

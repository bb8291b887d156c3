//! Network namespaces joined by veth pairs, gone when the value is.
//!
//! Names carry the process and a number, so that tests run side by side and a killed run leaves nothing another trips over.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// A named namespace with `lo` up.
#[derive(Debug)]
pub struct Namespace {
    pub name: String,
}

impl Namespace {
    pub fn new(role: &str) -> Namespace {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = Namespace { name: format!("weirtest-{}-{number}-{role}", std::process::id()) };
        ip(&["netns", "add", &namespace.name]);
        namespace.ip(&["link", "set", "lo", "up"]);
        for (key, value) in [
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
        ] {
            namespace.sysctl(key, value);
        }
        namespace
    }

    /// `ip …` in the namespace.
    pub fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", &self.name], arguments].concat());
    }

    /// Sets a file below /proc/sys, which shows the namespace of who looks.
    pub fn sysctl(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/{key}");
        self.enter(|| std::fs::write(&path, value).unwrap_or_else(|e| panic!("{path}: {e}")));
    }

    /// Runs in the namespace, on a thread of its own.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let handle = scope.spawn(|| {
                enter(&self.name);
                work()
            });
            handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs in the namespace for as long as it takes.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
        let name = self.name.clone();
        thread::spawn(move || {
            enter(&name);
            work()
        })
    }

    /// A veth pair between two namespaces, up, with an address at each end and without offloads that leave checksums unwritten.
    pub fn join(&self, device: &str, addresses: &[IpAddr], other: &Namespace, other_device: &str, others: &[IpAddr]) {
        self.ip(&["link", "add", device, "type", "veth", "peer", "name", other_device, "netns", &other.name]);
        for (namespace, device, addresses) in [(self, device, addresses), (other, other_device, others)] {
            for address in addresses {
                let prefix = if address.is_ipv4() { 24 } else { 64 };
                namespace.ip(&["addr", "add", &format!("{address}/{prefix}"), "dev", device]);
            }
            namespace.ip(&["link", "set", device, "up"]);
            namespace.run("ethtool", &["-K", device, "tx", "off"]);
        }
    }

    /// Lets a veth interface take what XDP at the other end sends back.
    pub fn take_frames(&self, device: &str) {
        self.enter(|| edge_kernel::pass_everything(device).unwrap_or_else(|e| panic!("{e}")));
    }

    /// A program in the namespace.
    pub fn run(&self, program: &str, arguments: &[&str]) {
        let output = Command::new("ip")
            .args(["netns", "exec", &self.name, program])
            .args(arguments)
            .output()
            .unwrap_or_else(|e| panic!("ip netns exec {program}: {e}"));
        assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

fn enter(name: &str) {
    let file = File::open(format!("/run/netns/{name}")).unwrap_or_else(|e| panic!("namespace {name}: {e}"));
    // SAFETY: changes the namespace of this thread only.
    let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "setns {name}: {}", std::io::Error::last_os_error());
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap_or_else(|e| panic!("ip: {e}"));
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

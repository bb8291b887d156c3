//! The gateways that are measured: each with one worker on the gateway's CPU, the same route, its log on.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::cpu;

/// A running gateway; it ends when this is dropped.
pub struct Gateway {
    pub name: String,
    pub address: SocketAddr,
    child: Child,
}

/// What all gateways are started with.
pub struct Setup {
    pub upstream: SocketAddr,
    pub cpu: usize,
    /// For configurations, logs and data.
    pub folder: PathBuf,
    /// Access logs of the peers; ours is on in any case.
    pub logs: bool,
}

impl Gateway {
    /// Starts `weir-ring`, `weir-epoll`, `nginx` or `haproxy`.
    pub fn start(name: &str, setup: &Setup) -> Result<Self, String> {
        let folder = setup.folder.join(name);
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let address = free_address()?;
        let mut command = match name {
            "nginx" => nginx(address, setup, &folder)?,
            "haproxy" => haproxy(address, setup, &folder)?,
            "weir-ring" => weir("uring", &folder)?,
            "weir-epoll" => weir("epoll", &folder)?,
            _ => return Err(format!("no gateway `{name}`; there are weir-ring, weir-epoll, nginx, haproxy")),
        };
        let output = folder.join("output.log");
        let file = fs::File::create(&output).map_err(|error| format!("{}: {error}", output.display()))?;
        let twin = file.try_clone().map_err(|error| format!("{}: {error}", output.display()))?;
        command.stdin(Stdio::null()).stdout(file).stderr(twin);
        // What a thread starts stays on the CPU of that thread.
        let started = thread::scope(|scope| {
            let starter = scope.spawn(|| {
                cpu::pin(setup.cpu)?;
                command.spawn().map_err(|error| format!("{name}: {error}"))
            });
            starter.join().unwrap_or_else(|_| Err(format!("{name}: could not be started")))
        });
        let mut gateway = Self { name: name.into(), address, child: started? };
        if let Some(admin) = name.starts_with("weir").then(|| admin_of(&folder)).transpose()? {
            let log = folder.join("log/stdout.log");
            gateway.wait(&log, |text| text.lines().any(|line| line.contains("ready")))?;
            gateway.configure(&admin, setup, &folder)?;
        }
        gateway.wait(&output, |_| TcpStream::connect(address).is_ok())?;
        Ok(gateway)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait(&mut self, output: &Path, ready: impl Fn(&str) -> bool) -> Result<(), String> {
        let started = Instant::now();
        loop {
            let text = fs::read_to_string(output).unwrap_or_default();
            if ready(&text) {
                return Ok(());
            }
            let ended = self.child.try_wait().ok().flatten();
            if ended.is_some() || started.elapsed() > Duration::from_secs(20) {
                let ended = ended.map_or("is not ready after 20 s".into(), |status| format!("ended with {status}"));
                return Err(format!("{} {ended}:\n{text}", self.name));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn configure(&self, admin: &str, setup: &Setup, folder: &Path) -> Result<(), String> {
        let document = include_str!("../peers/weir.yaml")
            .replace("{upstream}", &setup.upstream.to_string())
            .replace("{address}", &self.address.ip().to_string())
            .replace("{port}", &self.address.port().to_string());
        let file = write(folder, "objects.yaml", &document)?;
        let mut command = Command::new(beside("weirctl")?);
        let output = command.args(["--server", admin, "apply", "-f"]).arg(file).output();
        let output = output.map_err(|error| format!("weirctl: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("weirctl apply: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.pid().cast_signed()) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(3) {
            if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn nginx(address: SocketAddr, setup: &Setup, folder: &Path) -> Result<Command, String> {
    let log =
        if setup.logs { format!("{}/access.log combined buffer=64k flush=1s", folder.display()) } else { "off".into() };
    let text = include_str!("../peers/nginx.conf").replace("{nginx_log}", &log);
    let file = write(folder, "nginx.conf", &fill(&text, address, setup, folder))?;
    let mut command = Command::new(system("nginx"));
    command.arg("-c").arg(file).arg("-e").arg(folder.join("nginx-error.log"));
    Ok(command)
}

fn haproxy(address: SocketAddr, setup: &Setup, folder: &Path) -> Result<Command, String> {
    let (ring, log) = if setup.logs {
        let ring = "    log ring@access format rfc5424 local0\n\nring access\n    format rfc5424\n    maxlen 1024\n    size 1048576\n";
        (ring, "log global\n    option httplog")
    } else {
        ("", "no log")
    };
    let text = include_str!("../peers/haproxy.cfg").replace("{haproxy_ring}", ring).replace("{haproxy_log}", log);
    let file = write(folder, "haproxy.cfg", &fill(&text, address, setup, folder))?;
    let mut command = Command::new(system("haproxy"));
    command.arg("-db").arg("-f").arg(file);
    Ok(command)
}

fn weir(io: &str, folder: &Path) -> Result<Command, String> {
    let (admin, peer) = (free_address()?, free_address()?);
    write(folder, "admin", &admin.to_string())?;
    let peer = format!("http://{peer}");
    let mut command = Command::new(beside("weir")?);
    command.args(["--name", "bench", "--api-addr", &admin.to_string(), "--io", io, "--workers", "1"]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.arg("--home-dir").arg(folder).arg("--data-dir").arg(folder.join("data"));
    command.arg("--log-dir").arg(folder.join("log"));
    Ok(command)
}

fn admin_of(folder: &Path) -> Result<String, String> {
    fs::read_to_string(folder.join("admin")).map_err(|error| format!("{}: {error}", folder.display()))
}

fn fill(text: &str, address: SocketAddr, setup: &Setup, folder: &Path) -> String {
    text.replace("{folder}", &folder.display().to_string())
        .replace("{listen}", &address.to_string())
        .replace("{upstream}", &setup.upstream.to_string())
}

fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf, String> {
    let file = folder.join(name);
    fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(file)
}

/// A program that was built together with this one.
fn beside(name: &str) -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| format!("where is bench? {error}"))?;
    Ok(own.with_file_name(name))
}

/// A program of the system; the folder is not in every user's PATH.
fn system(name: &str) -> PathBuf {
    let sbin = Path::new("/usr/sbin").join(name);
    if sbin.exists() { sbin } else { name.into() }
}

/// An address of loopback that nobody listens on right now.
pub fn free_address() -> Result<SocketAddr, String> {
    let bound = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    bound.map_err(|error| format!("no free port on 127.0.0.1: {error}"))
}

//! The gateways that are measured: each with one worker on the gateway's CPU, the same route, its log on.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use base_testing::free_port;
use base64::Engine as _;
use rustix::process::{Pid, Signal, kill_process};

use crate::certificate::Certificate;
use crate::cpu;
use crate::report::is_ours;

/// A running gateway; it ends when this is dropped.
pub struct Gateway {
    pub name: String,
    pub address: SocketAddr,
    /// Its configuration, logs and data.
    pub folder: PathBuf,
    child: Child,
}

/// What all gateways are started with.
pub struct Setup {
    pub upstream: SocketAddr,
    /// Where it runs; none: wherever the kernel puts it.
    pub cpu: Option<usize>,
    /// For configurations, logs and data.
    pub folder: PathBuf,
    /// Access logs of the peers; ours is on in any case.
    pub logs: bool,
    /// TLS with this certificate; none: plain.
    pub certificate: Option<Certificate>,
    /// What they are to do.
    pub role: Role,
    /// Ours in place of the role's.
    pub document: Option<String>,
}

/// What gateways are to do, in the words of each.
#[derive(Debug, Clone, Copy)]
pub struct Role {
    pub ours: &'static str,
    pub nginx: &'static str,
    pub haproxy: &'static str,
    /// Empty: Envoy is not set up for it.
    pub envoy: &'static str,
    /// What is relayed are datagrams: nobody can connect to see whether it listens.
    pub datagrams: bool,
    /// Pingora, which is a program of ours, can do this, too.
    pub pingora: bool,
    /// Clients speak HTTP/2, which TLS agrees on.
    pub http2: bool,
}

/// A route of HTTP/1.1.
pub const HTTP: Role = Role {
    ours: include_str!("../peers/weir.yaml"),
    nginx: include_str!("../peers/nginx.conf"),
    haproxy: include_str!("../peers/haproxy.cfg"),
    envoy: "",
    datagrams: false,
    pingora: true,
    http2: false,
};

/// Requests that are all refused, for another reason below each path.
pub const REFUSAL: Role = Role {
    ours: include_str!("../peers/weir-refusal.yaml"),
    nginx: include_str!("../peers/nginx-refusal.conf"),
    haproxy: include_str!("../peers/haproxy-refusal.cfg"),
    envoy: "",
    datagrams: false,
    pingora: false,
    http2: false,
};

/// A route whose answers are kept.
pub const CACHE: Role = Role {
    ours: include_str!("../peers/weir-cache.yaml"),
    nginx: include_str!("../peers/nginx-cache.conf"),
    haproxy: include_str!("../peers/haproxy-cache.cfg"),
    envoy: "",
    datagrams: false,
    pingora: false,
    http2: false,
};

/// The same for clients of HTTP/2.
pub const HTTP2: Role = Role { pingora: false, http2: true, ..HTTP };

/// HTTP/2 on both sides, which nginx speaks to clients alone.
pub const HTTP2_BOTH: Role = Role {
    ours: include_str!("../peers/weir-h2.yaml"),
    nginx: "",
    haproxy: include_str!("../peers/haproxy-h2.cfg"),
    envoy: include_str!("../peers/envoy-h2.yaml"),
    datagrams: false,
    pingora: false,
    http2: true,
};

/// The same for clients of HTTP/3.
pub const HTTP3: Role = Role {
    ours: include_str!("../peers/weir-h3.yaml"),
    nginx: include_str!("../peers/nginx-h3.conf"),
    haproxy: include_str!("../peers/haproxy-h3.cfg"),
    pingora: false,
    ..HTTP
};

/// Calls of gRPC.
pub const GRPC: Role = Role {
    ours: include_str!("../peers/weir-grpc.yaml"),
    nginx: include_str!("../peers/nginx-grpc.conf"),
    ..HTTP2_BOTH
};

/// WebSockets, opened over HTTP/1.1.
pub const WEBSOCKET: Role = Role { nginx: include_str!("../peers/nginx-websocket.conf"), pingora: false, ..HTTP };

/// Bytes relayed as they come.
pub const TCP: Role = Role {
    ours: include_str!("../peers/weir-tcp.yaml"),
    nginx: include_str!("../peers/nginx-relay.conf"),
    haproxy: include_str!("../peers/haproxy-tcp.cfg"),
    envoy: "",
    datagrams: false,
    pingora: false,
    http2: false,
};

/// Datagrams relayed by sessions.
pub const UDP: Role = Role { ours: include_str!("../peers/weir-udp.yaml"), haproxy: "", datagrams: true, ..TCP };

/// Ours without what is measured: what it is compared with.
pub const WITHOUT: &str = "without";

/// Debian's nginx has what relays bytes in a file of its own.
pub const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// Somebody to measure, and the program that it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Contender {
    pub name: String,
    /// None: the system's, or ours that was built together with this.
    pub program: Option<PathBuf>,
}

impl Contender {
    pub fn ours(io: &str) -> Self {
        Self { name: format!("weir-{io}"), program: None }
    }
}

impl std::str::FromStr for Contender {
    type Err = String;

    /// `nginx` or `nginx=/path/to/nginx`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, program) = match text.split_once('=') {
            Some((name, program)) => (name, Some(PathBuf::from(program))),
            None => (text, None),
        };
        if !["nginx", "haproxy", "pingora", "envoy"].contains(&name) {
            return Err(format!("no peer `{name}`; there are nginx, haproxy, pingora, envoy"));
        }
        Ok(Self { name: name.into(), program })
    }
}

impl Gateway {
    pub fn start(contender: &Contender, setup: &Setup) -> Result<Self, String> {
        Self::start_with(contender, setup, START_LIMIT, |command| command)
    }

    /// Starts it as the argument of `wrapper`, such as a valgrind, that makes everything slow.
    pub fn start_under(mut wrapper: Command, contender: &Contender, setup: &Setup) -> Result<Self, String> {
        Self::start_with(contender, setup, 10 * START_LIMIT, |command| {
            wrapper.arg(command.get_program()).args(command.get_args());
            wrapper
        })
    }

    fn start_with(
        contender: &Contender,
        setup: &Setup,
        limit: Duration,
        wrap: impl FnOnce(Command) -> Command,
    ) -> Result<Self, String> {
        let name = contender.name.as_str();
        let folder = setup.folder.join(name);
        // What an earlier start left is not this one's.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let address = free_address();
        if name == "pingora" && !setup.role.pingora {
            return Err("pingora is set up for HTTP/1.1 alone; leave it out here".into());
        }
        if name == "envoy" && setup.role.envoy.is_empty() {
            return Err(
                "envoy is set up for HTTP/2 on both sides alone (grpc, and 1k-both of http2); leave it out here".into(),
            );
        }
        let program = |known: PathBuf| contender.program.clone().unwrap_or(known);
        let command = match name {
            "nginx" => nginx(program(system("nginx")), address, setup, &folder)?,
            "haproxy" => haproxy(program(system("haproxy")), address, setup, &folder)?,
            "envoy" => envoy(program(system("envoy")), address, setup, &folder)?,
            "pingora" => pingora(program("pingora-peer".into()), address, setup),
            "weir-ring" | WITHOUT => weir(program(beside("weir")?), "uring", &folder)?,
            "weir-epoll" => weir(program(beside("weir")?), "epoll", &folder)?,
            _ => return Err(format!("no gateway `{name}`")),
        };
        let mut command = wrap(command);
        let output = folder.join("output.log");
        let file = fs::File::create(&output).map_err(|error| format!("{}: {error}", output.display()))?;
        let twin = file.try_clone().map_err(|error| format!("{}: {error}", output.display()))?;
        command.stdin(Stdio::null()).stdout(file).stderr(twin);
        // What a thread starts stays on the CPU of that thread.
        let started = thread::scope(|scope| {
            let starter = scope.spawn(|| {
                setup.cpu.map_or(Ok(()), cpu::pin)?;
                command.spawn().map_err(|error| format!("{name}: {error}"))
            });
            starter.join().unwrap_or_else(|_| Err(format!("{name}: could not be started")))
        });
        let mut gateway = Self { name: name.into(), address, folder: folder.clone(), child: started? };
        let is_weir = is_ours(name) || name == WITHOUT;
        if let Some(admin) = is_weir.then(|| admin_of(&folder)).transpose()? {
            let log = folder.join("log/stdout.log");
            gateway.wait(&log, limit, |text| text.lines().any(|line| line.contains("ready")))?;
            gateway.configure(&admin, setup, &folder)?;
        }
        if !setup.role.datagrams {
            gateway.wait(&output, limit, |_| TcpStream::connect(address).is_ok())?;
        }
        Ok(gateway)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it with SIGTERM; an error when it does not end by itself within `limit`, as whatever it writes at its end is lost then.
    pub fn stop(mut self, limit: Duration) -> Result<(), String> {
        if self.end(limit) {
            return Ok(());
        }
        Err(format!("{} did not end within {} s of SIGTERM", self.name, limit.as_secs()))
    }

    /// Asks with SIGTERM and says whether it ended within `limit`.
    fn end(&mut self, limit: Duration) -> bool {
        if let Some(pid) = Pid::from_raw(self.pid().cast_signed()) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let started = Instant::now();
        while started.elapsed() < limit {
            if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                return true;
            }
            thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// Empties its logs: with 80,000 lines a second they would fill the machine.
    pub fn forget_logs(&self) {
        let folders = [self.folder.clone(), self.folder.join("log")];
        let files = folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
        for log in files.map(|file| file.path()).filter(|file| file.extension().is_some_and(|end| end == "log")) {
            let _ = fs::File::options().write(true).open(log).and_then(|file| file.set_len(0));
        }
    }

    fn wait(&mut self, output: &Path, limit: Duration, ready: impl Fn(&str) -> bool) -> Result<(), String> {
        let started = Instant::now();
        loop {
            let text = fs::read_to_string(output).unwrap_or_default();
            if ready(&text) {
                return Ok(());
            }
            let ended = self.child.try_wait().ok().flatten();
            if ended.is_some() || started.elapsed() > limit {
                let ended = ended.map_or(format!("is not ready after {} s", limit.as_secs()), |status| {
                    format!("ended with {status}")
                });
                return Err(format!("{} {ended}:\n{text}", self.name));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Address of the admin API; of ours alone.
    pub fn admin(&self) -> Result<String, String> {
        admin_of(&self.folder)
    }

    fn configure(&self, admin: &str, setup: &Setup, folder: &Path) -> Result<(), String> {
        let base64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let https = setup.certificate.as_ref().map_or(String::new(), |pair| {
            format!("https: true\ncertBase64: {}\nkeyBase64: {}", base64(&pair.certificate), base64(&pair.key))
        });
        let document = setup
            .document
            .as_deref()
            .unwrap_or(setup.role.ours)
            .replace("{folder}", &folder.display().to_string())
            .replace("{upstream}", &setup.upstream.to_string())
            .replace("{https}", &https)
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
        // One that was stopped has no pid any more: it may be somebody else's.
        let ended = self.child.try_wait().is_ok_and(|status| status.is_some());
        if !ended && !self.end(Duration::from_secs(3)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn nginx(program: PathBuf, address: SocketAddr, setup: &Setup, folder: &Path) -> Result<Command, String> {
    let format = if setup.role.nginx.contains("log_format relayed") { "relayed" } else { "combined" };
    let log =
        if setup.logs { format!("{}/access.log {format} buffer=64k flush=1s", folder.display()) } else { "off".into() };
    let module = Path::new(NGINX_STREAM);
    let module = if module.exists() { format!("load_module {};", module.display()) } else { String::new() };
    let (ssl, certificate) = match &setup.certificate {
        Some(pair) => {
            let (certificate, key) = (pair.certificate_file.display(), pair.key_file.display());
            let ssl = if setup.role.http2 { "ssl http2" } else { "ssl" };
            (ssl, format!("ssl_protocols TLSv1.3; ssl_certificate {certificate}; ssl_certificate_key {key};"))
        }
        None => ("", String::new()),
    };
    let text = setup.role.nginx.replace("{nginx_log}", &log).replace("{ssl}", ssl).replace("{nginx_module}", &module);
    let text = text.replace("{datagrams}", if setup.role.datagrams { "udp" } else { "" });
    let text = text.replace("{ssl_certificate}", &certificate);
    let file = write(folder, "nginx.conf", &fill(&text, address, setup, folder))?;
    let mut command = Command::new(program);
    command.arg("-c").arg(file).arg("-e").arg(folder.join("nginx-error.log"));
    Ok(command)
}

fn haproxy(program: PathBuf, address: SocketAddr, setup: &Setup, folder: &Path) -> Result<Command, String> {
    let (target, log) = if setup.logs {
        let option = if setup.role.haproxy.contains("mode tcp") { "tcplog" } else { "httplog" };
        (include_str!("../peers/haproxy-log.cfg"), format!("log global\n    option {option}"))
    } else {
        ("", "no log".to_owned())
    };
    let ssl = setup.certificate.as_ref().map_or(String::new(), |pair| {
        let alpn = if setup.role.http2 { "h2" } else { "http/1.1" };
        format!("ssl crt {} ssl-min-ver TLSv1.3 alpn {alpn}", pair.both_file.display())
    });
    let quic = setup.certificate.as_ref().map(|pair| format!("ssl crt {} alpn h3", pair.both_file.display()));
    let text = setup.role.haproxy.replace("{haproxy_ring}", target).replace("{haproxy_log}", &log);
    let text = text.replace("{quic}", &quic.unwrap_or_default());
    let file = write(folder, "haproxy.cfg", &fill(&text.replace("{ssl}", &ssl), address, setup, folder))?;
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(file);
    Ok(command)
}

fn envoy(program: PathBuf, address: SocketAddr, setup: &Setup, folder: &Path) -> Result<Command, String> {
    let types = "type.googleapis.com/envoy.extensions";
    let log = if setup.logs {
        let file = folder.join("access.log");
        let file = format!("{{'@type': {types}.access_loggers.file.v3.FileAccessLog, path: '{}'}}", file.display());
        format!("access_log: [{{name: file, typed_config: {file}}}]")
    } else {
        String::new()
    };
    let tls = setup.certificate.as_ref().map_or(String::new(), |pair| {
        let file = |path: &Path| format!("{{filename: '{}'}}", path.display());
        let (certificate, key) = (file(&pair.certificate_file), file(&pair.key_file));
        format!(
            "transport_socket: {{name: tls, typed_config: {{'@type': {types}.transport_sockets.tls.v3.DownstreamTlsContext, \
             common_tls_context: {{alpn_protocols: [h2], tls_params: {{tls_minimum_protocol_version: TLSv1_3}}, \
             tls_certificates: [{{certificate_chain: {certificate}, private_key: {key}}}]}}}}}}"
        )
    });
    let text = setup.role.envoy.replace("{envoy_log}", &log).replace("{envoy_tls}", &tls);
    let text = text.replace("{port}", &address.port().to_string());
    let text = text.replace("{upstream_ip}", &setup.upstream.ip().to_string());
    let text = text.replace("{upstream_port}", &setup.upstream.port().to_string());
    let mut command = Command::new(program);
    command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]);
    command.arg("-c").arg(write(folder, "envoy.yaml", &text)?);
    Ok(command)
}

fn pingora(program: PathBuf, address: SocketAddr, setup: &Setup) -> Command {
    let mut command = Command::new(program);
    command.arg(address.to_string()).arg(setup.upstream.to_string());
    if let Some(pair) = &setup.certificate {
        command.arg(&pair.certificate_file).arg(&pair.key_file);
    }
    command
}

fn weir(program: PathBuf, io: &str, folder: &Path) -> Result<Command, String> {
    let (admin, peer) = (free_address(), free_address());
    write(folder, "admin", &admin.to_string())?;
    let peer = format!("http://{peer}");
    let mut command = Command::new(program);
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
pub fn beside(name: &str) -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| format!("where is bench? {error}"))?;
    Ok(own.with_file_name(name))
}

/// A program of the system; the folder is not in every user's PATH.
fn system(name: &str) -> PathBuf {
    let sbin = Path::new("/usr/sbin").join(name);
    if sbin.exists() { sbin } else { name.into() }
}

/// An address of loopback that nobody listens on, nor a client's connection takes before whoever it is for does.
pub fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

const START_LIMIT: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_may_be_a_program_of_ones_own() {
        let path = Some("/opt/nginx".into());
        assert_eq!("nginx=/opt/nginx".parse(), Ok(Contender { name: "nginx".into(), program: path }));
        assert_eq!("haproxy".parse(), Ok(Contender { name: "haproxy".into(), program: None }));
        assert!("apache".parse::<Contender>().expect_err("unknown").contains("nginx, haproxy, pingora, envoy"));
    }
}

//! The ways to sell: a room, nothing, Easegress's recipe, and the peers.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::goals::Run;
use super::place::{Place, finished};
use super::watch::Watched;
use super::{ACTIVE, CAPACITY, PEOPLE_A_SECOND, Size, THREADS};
use crate::process::Daemon;
use crate::progress::{note, step};

impl Place {
    /// Behind a WaitingRoom. With `faults` a change is applied while it lasts, an edge is killed and comes back, and the leader is
    /// killed, where there are three.
    pub fn room(&mut self, name: &'static str, sale: &str, size: Size, faults: bool) -> Result<Run, String> {
        let selling = step(format!("the sale: {name}"));
        self.open_shop(size.stock)?;
        let room = format!(
            "- name: room\n  kind: WaitingRoom\n  sale: {sale}\n  capacity: {{stock: {}, newUsers: {}, activeUsers: {ACTIVE}}}\n  \
             pollInterval: 1s\n  sessionTime: 20s\n  passWhenIdle: false\n  onePlacePer: header\n  keyHeader: X-User\n  \
             soldOutStatuses: [409]\n",
            size.stock,
            PEOPLE_A_SECOND * 12 / 10
        );
        self.apply(0, "pipeline.yaml", &self.pipeline(&room))?;
        thread::sleep(SETTLES);
        let (watch, began) = (self.watch(sale), Instant::now());
        let child = self.buyers(&self.doors(), size)?;
        let mut marks = Vec::new();
        let mut mark = |text: String| {
            note(&text);
            marks.push((began.elapsed().as_secs_f64(), text));
        };
        let mut killed = None;
        if faults {
            // All of it while people still come at ten times what the shop can serve.
            thread::sleep(Duration::from_secs(1));
            let changed = self.pipeline(&room).replace("pollInterval: 1s", "pollInterval: 1100ms");
            self.apply(0, "pipeline.yaml", &changed)?;
            mark("a change is applied".to_owned());
            if self.machines() == 3 {
                let leader = self.leader()?;
                let other = (leader + 1) % 3;
                self.edges[other].kill();
                mark(format!("{} is killed", self.edges[other].name));
                thread::sleep(Duration::from_millis(1500));
                self.edges[other] = self.start_edge(other)?;
                // With it two are left of three when the leader goes, which are enough to choose another one.
                self.edges[other].wait_for("ready", Duration::from_secs(30))?;
                mark(format!("{} is back", self.edges[other].name));
                let leader = self.leader()?;
                self.edges[leader].kill();
                mark(format!("the leader, {}, is killed", self.edges[leader].name));
                killed = Some(leader);
            }
        }
        let mut run = finished(name, child, marks, Watched::default())?;
        (run.watched, run.promises) = (watch.end(), true);
        if let Some(at) = killed {
            self.edges[at] = self.start_edge(at)?;
            self.edges[at].wait_for("ready", Duration::from_secs(30))?;
            thread::sleep(Duration::from_secs(2));
        }
        selling.done(format!("{} sold", run.number("sold")));
        Ok(run)
    }

    /// Behind a plain Proxy.
    pub fn bare(&mut self, size: Size) -> Result<Run, String> {
        self.sold_behind("a plain Proxy", "", size)
    }

    /// The shape of Easegress's flash-sale recipe: a random block, who is lucky once is lucky always, and a cap. Whoever is lucky goes
    /// on to the shop at once.
    pub fn recipe(&mut self, size: Size) -> Result<Run, String> {
        let lottery = format!(
            "- name: lottery\n  kind: Lottery\n  sale: recipe\n  blockRatio: 0.4\n  maxPermission: {}\n  keyHeader: X-User\n  \
             numberHeader: X-Waiting-Room-Number\n",
            size.stock
        );
        self.sold_behind("Easegress's recipe (Lottery)", &lottery, size)
    }

    fn sold_behind(&mut self, name: &'static str, filters: &str, size: Size) -> Result<Run, String> {
        let selling = step(format!("the same sale: {name}"));
        self.open_shop(size.stock)?;
        self.apply(0, "pipeline.yaml", &self.pipeline(filters))?;
        thread::sleep(SETTLES);
        let watch = self.watch("recipe");
        let mut run = finished(name, self.buyers(&self.doors(), size)?, Vec::new(), Watched::default())?;
        run.watched = watch.end();
        selling.done(format!("{} sold", run.number("sold")));
        Ok(run)
    }

    /// Behind nginx or HAProxy on the first machine.
    pub fn peer(&mut self, peer: &'static str, program: &Path, size: Size) -> Result<Run, String> {
        let selling = step(format!("the same sale: {peer}"));
        self.open_shop(size.stock)?;
        let (text, argument, name) = if peer == "nginx" {
            (self.nginx(), "-c", "nginx, limit_req")
        } else {
            (self.haproxy(), "-f", "HAProxy, maxconn and queue")
        };
        let file = self.folder.join(format!("{peer}.conf"));
        fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        let mut command = match self.edge(0) {
            Some(edge) => edge.namespace.command(program),
            None => Command::new(program),
        };
        command.arg(argument).arg(&file);
        let mut daemon = Daemon::start(peer, &mut command, &self.folder)?;
        thread::sleep(Duration::from_secs(1));
        if daemon.ended().is_some() {
            return Err(format!("it ended at once:\n{}", daemon.log_end()));
        }
        let run = finished(name, self.buyers(&self.doors_of_a_peer(), size)?, Vec::new(), Watched::default())?;
        let _ = daemon.stop(Duration::from_secs(2));
        selling.done(format!("{} sold", run.number("sold")));
        Ok(run)
    }

    fn nginx(&self) -> String {
        let (doors, shop, folder) = (self.doors_of_a_peer(), self.shop_address(), self.folder.display());
        let (port, tls) = (doors.port, doors.tls_port);
        format!(
            "worker_processes auto;\ndaemon off;\npid {folder}/nginx.pid;\nerror_log stderr crit;\nevents {{ worker_connections 8192; }}\n\
             http {{\n access_log off;\n client_body_temp_path {folder}/nb;\n proxy_temp_path {folder}/np;\n fastcgi_temp_path {folder}/nf;\n \
             uwsgi_temp_path {folder}/nu;\n scgi_temp_path {folder}/ns;\n keepalive_requests 1000000;\n \
             limit_req_zone $server_name zone=all:1m rate={CAPACITY}r/s;\n upstream shop {{ server {shop}; keepalive 64; }}\n server {{\n  listen {port};\n  \
             listen {tls} ssl;\n  ssl_certificate {folder}/certificate.pem;\n  ssl_certificate_key {folder}/key.pem;\n  \
             server_name shop;\n  location / {{\n   limit_req zone=all burst={CAPACITY};\n   proxy_http_version 1.1;\n   proxy_set_header Connection \"\";\n   \
             proxy_pass http://shop;\n  }}\n }}\n}}\n"
        )
    }

    fn haproxy(&self) -> String {
        let (doors, shop, folder) = (self.doors_of_a_peer(), self.shop_address(), self.folder.display());
        let (port, tls) = (doors.port, doors.tls_port);
        // It opens two descriptors for each connection, some beside, and does not start where it may not.
        let connections = ((open_files() / 2).saturating_sub(200)).clamp(100, 20_000);
        format!(
            "global\n maxconn {connections}\ndefaults\n mode http\n timeout connect 2s\n timeout client 30s\n timeout server 30s\n timeout queue 1s\n\
             listen shop\n bind :{port}\n bind :{tls} ssl crt {folder}/both.pem\n server shop {shop} maxconn {THREADS}\n"
        )
    }
}

/// Files that a program we start may open at most (proc_pid_limits(5)).
fn open_files() -> u64 {
    let text = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let hard =
        text.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().nth(1)?.parse().ok());
    hard.unwrap_or(1024)
}

/// Until a change is live everywhere.
const SETTLES: Duration = Duration::from_secs(1);

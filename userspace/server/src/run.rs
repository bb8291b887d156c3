//! The daemon: its parts, in the order they start, and how they meet.
//!
//! The edge half starts first and serves what it kept on disk, so that it needs nobody. Then the control half joins its
//! cluster; what that publishes reaches the edge's agent through one thread.

use crate::figures;
use crate::local::Local;
use crate::logs::{self, Logs};
use crate::options::Options;
use base_runtime::Runtime;
use base_telemetry::access_log::{AccessLog, Destination};
use base_telemetry::hub::Identity;
use base_telemetry::{Telemetry, ewma};
use control_admin::{Admin, Door, ModelCatalog};
use control_api::{Addresses, Member, MemberRole, Snapshot, Update};
use control_raft::{Config, Control, Follower, RecvError, StartErrorKind, StateFlag};
use control_state::{Action, Entry, PutMode};
use edge_agent::Agent;
use edge_agent::desired::{Desired, Machine, Steering, Ticket, Tickets};
use edge_agent::last_good::LastGood;
use edge_agent::steer::Steer;
use edge_filters::kinds::{Shelf, explained};
use edge_kernel::{Kernel, Mode, Sizes};
use edge_listeners::Traffic;
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Longest time requests under way are waited for at the end.
const DRAIN: Duration = Duration::from_secs(30);

/// How long the fleet is given to hear that this machine drains.
const ANNOUNCE: Duration = Duration::from_secs(1);

/// From the moment that is written down until the kernels of the others steer by it.
const SETTLE: Duration = Duration::from_millis(250);

/// How long a control half may take to reach the version that the edge has from disk.
const CATCH_UP: Duration = Duration::from_secs(10);

/// Threads of the runtime that Raft runs on, and of the one that answers the admin API: whatever is asked of the API, members hear
/// of each other in time.
const CONTROL_THREADS: usize = 2;
const ADMIN_THREADS: usize = 2;

/// Runs until it is told to stop.
pub fn run(options: Options) -> ExitCode {
    let logs = match logs::start(&options) {
        Ok(logs) => logs,
        Err(error) => return crate::fail(&error, crate::WRONG),
    };
    match daemon(&options, logs) {
        Ok(()) => ExitCode::SUCCESS,
        Err((error, code)) => {
            tracing::error!("{error}");
            ExitCode::from(code)
        }
    }
}

type Failed = (String, u8);

fn daemon(options: &Options, logs: Logs) -> Result<(), Failed> {
    for note in &options.notes {
        tracing::warn!("{note}");
    }
    let edge = if options.edge { Some(Edge::start(options)?) } else { None };
    let telemetry = match &edge {
        Some(edge) => edge.telemetry.clone(),
        None => Telemetry::new(identity(options), 0),
    };
    let local =
        Arc::new(Local { telemetry: telemetry.clone(), logs, edge: OnceLock::new(), ready: AtomicBool::new(false) });
    let tokio = threads("control", CONTROL_THREADS)?;
    let api = threads("admin", ADMIN_THREADS)?;
    let signals = tokio.block_on(async { Signals::install() })?;

    let (stop, stopped) = mpsc::channel();
    let serving = edge.map(|edge| edge.serve(&local, stopped));
    let started = tokio.block_on(begin_control(options, &local, serving.as_ref(), api.handle()));
    let ended = match started {
        Ok(control) => {
            if let (Some(serving), Some(control)) = (&serving, &control) {
                let _ = serving.follow.send(control.0.follow(None));
                if let Some(kept) = serving.kept.clone() {
                    tokio.spawn(put_back(control.0.clone(), kept));
                }
            } else {
                local.ready.store(true, Ordering::Release);
            }
            tokio.block_on(signals.wait(options, &local, control.as_ref()));
            if let Some((control, admin)) = control {
                if let Some(serving) = &serving {
                    tokio.block_on(announce_drain(&control, !options.interfaces.is_empty()));
                    serving.drain();
                }
                admin.shutdown();
                tokio.block_on(control.shutdown());
            } else if let Some(serving) = &serving {
                serving.drain();
            }
            Ok(())
        }
        Err(failed) => Err(failed),
    };
    drop(stop);
    if let Some(serving) = serving {
        serving.join();
    }
    ended
}

/// A bound as the log shows it.
fn shown(bound: Option<impl ToString>) -> String {
    bound.map_or_else(|| "unbounded".to_owned(), |bound| bound.to_string())
}

fn threads(name: &str, count: usize) -> Result<tokio::runtime::Runtime, Failed> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(count).thread_name(name).enable_all();
    builder.build().map_err(|e| (format!("cannot start the {name} threads: {e}"), 1))
}

/// The edge half before it serves.
struct Edge {
    runtime: Runtime,
    telemetry: Arc<Telemetry>,
    traffic: Arc<Traffic>,
    agent: Agent,
    /// Addresses other machines send packets to.
    addresses: Vec<IpAddr>,
}

/// The edge half as it serves.
struct Serving {
    traffic: Arc<Traffic>,
    addresses: Vec<IpAddr>,
    /// Hands the agent what the control half publishes.
    follow: mpsc::Sender<Follower>,
    agent: JoinHandle<()>,
    runtime: Runtime,
    /// What was kept on disk, so that it serves without a control half.
    kept: Option<Desired>,
}

impl Edge {
    fn start(options: &Options) -> Result<Edge, Failed> {
        let descriptors = crate::capacity::raise_descriptors();
        let ceiling = options.memory_limit.ceiling();
        base_runtime::memory::set_ceiling(ceiling);
        let (memory, open_files) = (shown(ceiling), shown(descriptors));
        tracing::info!(memory, descriptors = open_files, "bounds of the process, in bytes and in open files");
        let config = base_runtime::Config {
            io: options.io,
            cpus: options.cpus.clone(),
            workers: options.workers,
            coalesce: options.coalesce,
            ..base_runtime::Config::default()
        };
        let runtime = Runtime::start(config).map_err(|e| (format!("the workers do not start: {e}"), 1))?;
        if let Some(reason) = runtime.fallback_reason() {
            tracing::warn!("workers use epoll: {reason}");
        }
        let cpus: Vec<usize> = runtime.workers().iter().map(|w| w.cpu()).collect();
        let pinned = cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        tracing::info!(workers = cpus.len(), cpus = pinned, io = %runtime.io(), "workers started");
        let telemetry = Telemetry::new(identity(options), cpus.len());
        let destination = match &options.log_dir {
            Some(directory) => Destination::Directory(directory.clone()),
            None => Destination::Stdout,
        };
        let access_log = if options.access_log {
            let log = AccessLog::start(destination, cpus.len(), telemetry.limits())
                .map_err(|e| (format!("--log-dir: the access log cannot be written: {e}"), 1))?;
            Some(Arc::new(log))
        } else {
            None
        };
        let traffic = Arc::new(Traffic::new(runtime.workers().to_vec(), &options.name, telemetry.clone(), access_log));
        let registry = telemetry.registry();
        registry.add(Box::new(figures::workers(runtime.workers().to_vec(), traffic.clone())));
        registry.add(Box::new(figures::memory(&telemetry)));
        registry.add(Box::new(figures::tls));
        let mut addresses = options.advertise_addresses.clone();
        let steer = if options.interfaces.is_empty() {
            tracing::info!("no --interface: the kernel plane is off, the L7 part runs alone");
            None
        } else {
            let kernel = load_kernel(options, &cpus)?;
            addresses = kernel.own_addresses();
            let steer = Steer::new(kernel, &options.name, options.detach);
            registry.add(Box::new(figures::kernel(&steer.plane())));
            Some(steer)
        };
        let last_good = LastGood::new(&options.data_dir.join("edge")).map_err(|e| {
            (format!("--data-dir {}: {e}; give a directory this user can write to", options.data_dir.display()), 1)
        })?;
        let tickets = traffic.tickets().clone();
        let agent = Agent::new(traffic.clone(), Box::new(Shelf), steer, Some(last_good))
            .install_tickets(Box::new(move |keys, current| tickets.install(keys, current)));
        registry.add(Box::new(figures::certificates(agent.certificates())));
        Ok(Edge { runtime, telemetry, traffic, agent, addresses })
    }

    /// Serves what was kept on disk at once, then what is published.
    fn serve(mut self, local: &Arc<Local>, stopped: mpsc::Receiver<()>) -> Serving {
        let _ = local.edge.set((self.traffic.clone(), self.agent.failures()));
        let kept = self.agent.start_from_disk();
        if let Some(kept) = &kept {
            tracing::info!(version = kept.version, "serving the last good state from disk");
            local.ready.store(true, Ordering::Release);
        }
        let (follow, followed) = mpsc::channel();
        let (local, telemetry) = (local.clone(), self.telemetry);
        let mut agent = self.agent;
        let thread = thread::Builder::new().name("agent".into()).spawn(move || {
            let (started, mut ticked) = (Instant::now(), Instant::now());
            let mut stream: Option<Follower> = None;
            let mut snapshot = Snapshot::default();
            let mut news = false;
            loop {
                if let Ok(newer) = followed.try_recv() {
                    stream = Some(newer);
                }
                match &mut stream {
                    None => thread::sleep(agent.pause().min(Duration::from_millis(50))),
                    Some(follower) => match follower.recv_timeout(agent.pause()) {
                        Ok(update) => news |= take(&mut snapshot, update),
                        Err(RecvError::Timeout) => {}
                        Err(RecvError::Closed) => stream = None,
                    },
                }
                if news {
                    let desired = desired(&snapshot);
                    // An older version that stays is what the operator put there, from a backup say.
                    let same_cluster = desired.cluster_id == agent.current().cluster_id;
                    let patient = !same_cluster || started.elapsed() < CATCH_UP;
                    if !(patient && agent.current().outlives(&desired)) {
                        news = false;
                        agent.apply(desired);
                        local.ready.store(true, Ordering::Release);
                    }
                }
                if ticked.elapsed() >= ewma::TICK {
                    ticked = Instant::now();
                    telemetry.tick(ticked);
                }
                agent.tick();
                if matches!(stopped.try_recv(), Err(mpsc::TryRecvError::Disconnected)) {
                    agent.detach();
                    return;
                }
            }
        });
        let agent = thread.unwrap_or_else(|error| {
            // Without threads there is no daemon; the process ends and says why.
            tracing::error!(%error, "the agent's thread does not start");
            std::process::exit(1)
        });
        Serving { traffic: self.traffic, addresses: self.addresses, follow, agent, runtime: self.runtime, kept }
    }
}

impl Serving {
    /// Takes no new connections and waits for requests under way.
    fn drain(&self) {
        self.traffic.stop();
        let until = Instant::now() + DRAIN;
        while self.traffic.connections() > 0 && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
        let left = self.traffic.connections();
        if left > 0 {
            tracing::warn!(connections = left, "not drained in {DRAIN:?}; closing them");
        }
    }

    fn join(self) {
        let _ = self.agent.join();
        drop(self.traffic);
        self.runtime.shutdown();
    }
}

fn load_kernel(options: &Options, cpus: &[usize]) -> Result<Kernel, Failed> {
    if !edge_kernel::built_in() {
        let error = "--interface: L4 is not built in: run `cargo xtask build-ebpf` and build again, or drop the option";
        return Err((error.to_owned(), crate::WRONG));
    }
    let mut kernel = Kernel::load(edge_kernel::Options {
        interfaces: options.interfaces.clone(),
        mode: match options.xdp_mode.as_str() {
            "driver" => Mode::Driver,
            "generic" => Mode::Generic,
            _ => Mode::Auto,
        },
        pin_dir: Some(edge_kernel::Options::pin_dir_of(&options.name)),
        detach_on_exit: options.detach,
        own_addresses: options.advertise_addresses.clone(),
        sizes: Sizes::default(),
    })
    .map_err(|e| (e.to_string(), 1))?;
    for warning in kernel.warnings() {
        tracing::warn!("{}", warning.0);
    }
    for attachment in kernel.attachments() {
        let mode = if attachment.generic { "generic" } else { "driver" };
        tracing::info!(interface = attachment.interface, mode, "XDP steering attached");
    }
    let cpus: Vec<u32> = cpus.iter().map(|c| *c as u32).collect();
    kernel.set_worker_cpus(&cpus).map_err(|e| (e.to_string(), 1))?;
    Ok(kernel)
}

fn identity(options: &Options) -> Identity {
    Identity {
        cluster_name: options.cluster_name.clone(),
        cluster_role: if options.secondary { "secondary" } else { "primary" }.to_owned(),
        instance_name: options.name.clone(),
    }
}

/// Starts the control half and the admin API. `None`: it cannot start, but the edge half serves from disk.
async fn begin_control(
    options: &Options,
    local: &Arc<Local>,
    serving: Option<&Serving>,
    api: &tokio::runtime::Handle,
) -> Result<Option<(Control, Admin)>, Failed> {
    let listeners = control_admin::bind(&options.api_addr).map_err(|e| (e, 1))?;
    let config = control_config(options, local, serving);
    let control = match Control::start(config).await {
        Ok(control) => control,
        Err(error) => {
            let code = match error.kind {
                StartErrorKind::Config | StartErrorKind::Identity => crate::WRONG,
                _ => 1,
            };
            if serving.is_some_and(|s| s.kept.is_some()) && !matches!(error.kind, StartErrorKind::Config) {
                tracing::error!("{error}");
                tracing::error!("the control half is down; serving the last good state from disk until it is repaired");
                return Ok(None);
            }
            return Err((error.to_string(), code));
        }
    };
    local.telemetry.registry().add(Box::new(figures::control(control.clone())));
    let descriptions = edge_filters::kinds().iter().map(|k| (k.kind.to_owned(), k.doc.to_owned())).collect();
    let catalog = Arc::new(ModelCatalog::new(Box::new(Shelf), explained(), descriptions));
    let router = control_admin::router(control.clone(), catalog, local.clone());
    let door = Door {
        tls: options.admin_tls.clone(),
        client_certificates: options.admin_client_certificates,
        logins: options.logins.clone(),
    };
    let _on = api.enter();
    let admin = Admin::serve(listeners, router, door).map_err(|e| (format!("--api-addr: {e}"), 1))?;
    Ok(Some((control, admin)))
}

fn control_config(options: &Options, local: &Arc<Local>, serving: Option<&Serving>) -> Config {
    let mut member = Member {
        edge: options.edge,
        api_addr: options.api_addr.clone(),
        labels: options.labels.clone(),
        version: crate::version().to_owned(),
        started_at: control_api::time::rfc3339(std::time::SystemTime::now()),
        ..Member::default()
    };
    for address in serving.map(|s| s.addresses.as_slice()).unwrap_or_default() {
        match address {
            IpAddr::V4(v4) => member.addresses.v4 = Some(*v4),
            IpAddr::V6(v6) => member.addresses.v6 = Some(*v6),
        }
    }
    let given = options.advertise_peer_urls.first().filter(|url| *url != "http://localhost:2380");
    Config {
        name: options.name.clone(),
        cluster_name: options.cluster_name.clone(),
        role: if options.secondary { MemberRole::Secondary } else { MemberRole::Primary },
        listen_peer_urls: options.listen_peer_urls.clone(),
        listeners: Vec::new(),
        advertise_peer_url: given.cloned(),
        initial_cluster: options.initial_cluster.clone(),
        primary_peer_urls: options.primary_peer_urls.clone(),
        state_flag: if options.join { StateFlag::Existing } else { StateFlag::New },
        data_dir: options.data_dir.clone(),
        request_timeout: options.cluster_request_timeout,
        member,
        peer_routes: control_admin::peer_routes(local.clone()),
        tls: options.peer_tls.clone(),
    }
}

/// Tells the fleet that no new flows should come here, and waits until that is written down.
async fn announce_drain(control: &Control, steered: bool) {
    let others = || control.state().view.members.values().any(|m| m.up && m.name != control.name());
    if !others() {
        return;
    }
    control.update_member(|member| member.edge = false);
    let heard = async {
        while control.state().view.members.get(control.name()).is_some_and(|m| m.edge) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    match tokio::time::timeout(ANNOUNCE, heard).await {
        Ok(()) if steered => tokio::time::sleep(SETTLE).await,
        Ok(()) => {}
        Err(_) => tracing::warn!("nobody heard that this machine drains; the others find out when it is gone"),
    }
}

/// Gives a cluster that was founded anew the objects its predecessor of the same name had. Somebody lost or moved away the
/// Raft file, and without this the first new object would take all the old ones off the edges.
async fn put_back(control: Control, kept: Desired) {
    if kept.objects.is_empty() || kept.cluster_name != control.cluster_name() {
        return;
    }
    loop {
        let view = control.state().view.clone();
        if !view.cluster_id.is_empty() {
            if view.cluster_id == kept.cluster_id || !view.objects.is_empty() {
                return;
            }
            let entries = kept.objects.values().map(|d| Entry { document: d.clone(), generated: Vec::new() }).collect();
            match control.propose(Action::Put { mode: PutMode::Create, entries }).await {
                Ok(_) => {
                    tracing::warn!(
                        objects = kept.objects.len(),
                        "the cluster had lost its configuration; what this machine kept on disk was put back. Custom data was \
                         not kept: create it again"
                    );
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "the cluster has lost its configuration; putting back what was kept here")
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Moves the snapshot on; false when nothing changed.
fn take(snapshot: &mut Snapshot, update: Update) -> bool {
    match update {
        Update::Ping(_) => false,
        Update::Snapshot(whole) => {
            *snapshot = (*whole).clone();
            true
        }
        Update::Delta(delta) => match snapshot.advance(&delta) {
            Ok(()) => true,
            Err(gap) => {
                // The follower hands out gapless deltas; should one be missing all the same, the next snapshot mends it.
                tracing::error!(?gap, "a change was missed");
                false
            }
        },
    }
}

/// The published state in the edge plane's words.
fn desired(snapshot: &Snapshot) -> Desired {
    // One that drains is no edge any more, and still gets the packets of connections it holds.
    let reachable = |m: &&Member| m.edge || m.addresses != Addresses::default();
    let machines = snapshot.members.values().filter(reachable).map(|m| {
        let machine = Machine { id: m.id, name: m.name.clone(), v4: m.addresses.v4, v6: m.addresses.v6 };
        (m.name.clone(), machine)
    });
    let steering = snapshot.steering.iter().map(|(vip, s)| {
        let machines = |g: &control_api::Generation| g.machines.iter().map(|e| (e.member, e.weight)).collect();
        let steering = Steering { generations: s.generations.iter().map(machines).collect(), alive: s.alive.clone() };
        (vip.clone(), Arc::new(steering))
    });
    let keys = &snapshot.tickets;
    let tickets = Tickets {
        keys: keys.all().map(|key| Ticket { name: key.name, secret: key.secret }).collect(),
        current: usize::from(keys.previous.is_some()),
    };
    Desired {
        cluster_id: snapshot.cluster_id.clone(),
        cluster_name: snapshot.cluster_name.clone(),
        version: snapshot.version,
        objects: snapshot.objects.clone(),
        machines: Arc::new(machines.collect()),
        steering: Arc::new(steering.collect()),
        tickets: Arc::new(tickets),
    }
}

/// The process's signals, caught before anything can send one.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn install() -> Result<Signals, Failed> {
        use tokio::signal::unix::{SignalKind, signal};
        let failed = |e: std::io::Error| (format!("signals cannot be caught: {e}"), 1);
        Ok(Signals {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    /// Says `ready` when it is so, then waits for the first signal. A second one ends the process at once.
    async fn wait(mut self, options: &Options, local: &Arc<Local>, control: Option<&(Control, Admin)>) {
        let ready = async {
            use control_admin::Local as _;
            while local.ready().is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
            if control.is_none() {
                tracing::warn!("ready, without an admin API");
            }
            if let Some((_, admin)) = control {
                let addresses: Vec<String> = admin.addresses().iter().map(|a| a.to_string()).collect();
                let tls = if admin.encrypted() { " (TLS)" } else { "" };
                tracing::info!("ready, admin API on {}{tls}", addresses.join(", "));
                create_initial(options, admin).await;
            }
            std::future::pending::<()>().await
        };
        let signal = async {
            tokio::select! {
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
            }
        };
        tokio::select! {
            () = ready => {}
            name = signal => tracing::info!("{name}: draining; once more to leave at once"),
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        tokio::spawn(async move {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
            std::process::exit(255);
        });
    }
}

/// Creates the objects of `--initial-object-config-files` that do not exist yet.
async fn create_initial(options: &Options, admin: &Admin) {
    for path in &options.initial_object_files {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the initial object cannot be read");
                continue;
            }
        };
        // The cluster may still be choosing its leader.
        for _ in 0..100 {
            let (status, body) = admin.ask(hyper::Method::POST, "/apis/v2/objects", text.clone()).await;
            if status.is_success() || status == hyper::StatusCode::CONFLICT {
                break;
            }
            if status != hyper::StatusCode::SERVICE_UNAVAILABLE {
                let reason = String::from_utf8_lossy(&body).into_owned();
                tracing::error!(path = %path.display(), reason, "the initial object is refused");
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

//! The daemon: its parts, in the order they start, and how they meet.
//!
//! The edge half starts first and serves what it kept on disk, so that it needs nobody. Then the control half joins its
//! cluster; what that publishes reaches the edge's agent through one thread.

use crate::admin_door::AdminDoor;
use crate::agent_thread::{self, Inbox, Rest};
use crate::calm;
use crate::control_half::{self, ControlHalf};
use crate::figures;
use crate::health::Health;
use crate::limits::{self, Shares};
use crate::local::Local;
use crate::logs::{self, Logs};
use crate::options::Options;
use crate::rooms;
use crate::upgrade::{self, Predecessor, Successor};
use crate::wasm_data;
use crate::watchdog::{self, Vigil};
use base_model::Protocol;
use base_runtime::Runtime;
use base_runtime::net::{OwnPort, inherited, keep_traffic_from};
use base_telemetry::access_log::{AccessLog, Destination};
use base_telemetry::hub::Identity;
use base_telemetry::{Telemetry, ewma};
use control_admin::{ModelCatalog, Switch};
use control_raft::{ClusterSecret, Control, Follower};
use edge_agent::Agent;
use edge_agent::last_good::LastGood;
use edge_agent::lease::HeldLease;
use edge_agent::steer::{PUT_OFF_MOST, Steer};
use edge_filters::hall::hall;
use edge_filters::kinds::{Shelf, explained};
use edge_kernel::{Kernel, Mode, Sizes};
use edge_listeners::Traffic;
use edge_pipeline::consumers::Consumers;
use proto_admission::Keys;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Longest time requests under way are waited for at the end.
const DRAIN: Duration = Duration::from_secs(30);

/// How long the fleet is given to hear that this machine drains.
const ANNOUNCE: Duration = Duration::from_secs(1);

/// From the moment that is written down until the kernels of the others steer by it: what changes fast is put off.
const SETTLE: Duration = Duration::from_millis(250 + PUT_OFF_MOST.as_millis() as u64);

/// What was asked of the admin API before another process takes its place is answered within this.
const ADMIN_ANSWERS: Duration = Duration::from_secs(2);

/// How long idle connections stay when another process takes the place of this one: most send a request within it, and are told with
/// the answer that it is the last.
const IDLE_STAYS: Duration = Duration::from_secs(10);

/// What was accepted when another process takes over has been given to its worker within this.
const RELEASE: Duration = Duration::from_secs(1);

/// Threads of the runtime that Raft runs on, and of the one that answers the admin API: whatever is asked of the API, members hear
/// of each other in time.
const CONTROL_THREADS: usize = 2;
const ADMIN_THREADS: usize = 2;
/// Of the runtime that controllers run on: they wait, nearly always.
const CONTROLLER_THREADS: usize = 1;

/// Runs until it is told to stop.
pub fn run(options: Options) -> ExitCode {
    let options = Arc::new(options);
    let logs = match logs::start(&options) {
        Ok(logs) => logs,
        Err(error) => return crate::fail(&error, crate::WRONG),
    };
    let code = match daemon(&options, logs.clone()) {
        Ok(()) => ExitCode::SUCCESS,
        Err((error, code)) => {
            // What kept the control half from starting is in the log already.
            if !error.is_empty() {
                tracing::error!("{error}");
            }
            ExitCode::from(code)
        }
    };
    logs.flush();
    code
}

type Failed = (String, u8);

/// Where this member listens for others.
fn peer_ports(options: &Options) -> impl Iterator<Item = u16> {
    options.listen_peer_urls.iter().filter_map(|url| url.trim_end_matches('/').rsplit(':').next()?.parse().ok())
}

fn daemon(options: &Arc<Options>, logs: Logs) -> Result<(), Failed> {
    upgrade::remember_program();
    let before = Predecessor::meet();
    let before =
        before.map_err(|e| (format!("the process before this one hands over no sockets: {e}"), 1))?.map(Arc::new);
    let done = live(options, logs, before.as_ref());
    if let (Some(before), Err((error, _))) = (&before, &done) {
        before.say_failed(if error.is_empty() { "its control half does not start" } else { error });
    }
    done
}

fn live(options: &Arc<Options>, logs: Logs, before: Option<&Arc<Predecessor>>) -> Result<(), Failed> {
    for note in &options.notes {
        tracing::warn!("{note}");
    }
    if options.cluster_secret.as_ref().is_some_and(ClusterSecret::is_open_to_all) {
        tracing::warn!("--cluster-secret-file can be read by every user of this machine: chmod 600 it");
    }
    keep_traffic_from(peer_ports(options));
    // Before the edge serves what it kept, of which some is sealed.
    let keys = control_controllers::Keys::open(&options.data_dir, options.cluster_secret.clone())
        .map_err(|error| (format!("--data-dir: {error}"), 1))?;
    let health = Arc::new(Health::new(options.edge));
    let edge = if options.edge { Some(Edge::start(options, &health)?) } else { None };
    let telemetry = match &edge {
        Some(edge) => edge.telemetry.clone(),
        None => Telemetry::new(identity(options), 0),
    };
    let access_log = edge.as_ref().and_then(|edge| edge.access_log.clone());
    telemetry.registry().add(Box::new(figures::logs(logs.file.as_ref(), access_log.as_ref())));
    let workers = edge.as_ref().map(|edge| edge.runtime.workers().to_vec()).unwrap_or_default();
    let reopened = (logs.clone(), access_log);
    let local = Arc::new(Local::new(telemetry.clone(), logs, health.clone()));
    telemetry.registry().add(Box::new(figures::control(health.clone())));
    telemetry.registry().add(Box::new(figures::controllers(local.board.clone())));
    let shown = figures::own_certificates(options.admin_tls.clone(), options.peer_tls.clone());
    telemetry.registry().add(Box::new(shown));
    let tokio = threads("control", CONTROL_THREADS)?;
    let api = threads("admin", ADMIN_THREADS)?;
    let controllers = threads("controllers", CONTROLLER_THREADS)?;
    let signals = tokio.block_on(async { Signals::install() })?;
    tokio.spawn(watchdog::feed(workers, health.clone()));
    tokio.spawn(reopen_logs(tokio.block_on(async { hangups() })?, reopened));

    // Before the edge serves what it kept: programs may be part of it.
    wasm_data::install(tokio.handle(), &health);
    let (stop, stopped) = mpsc::channel();
    let mut serving = edge.map(|edge| edge.serve(&local, stopped));
    let serves = serving.as_ref().is_some_and(|serving| serving.kept);
    let switch = Switch::new(control_admin::router_alone(local.clone()));
    let taken = before.map(|before| before.admin_listeners(&options.api_addr)).unwrap_or_default();
    let admin = AdminDoor::new(options.clone(), switch.clone(), api.handle().clone(), taken);
    if let Some(before) = before {
        before.wait_until_released();
    }
    let shares = Shares::new();
    telemetry.registry().add(Box::new(figures::shares(shares.clone())));
    let half = Arc::new(ControlHalf {
        options: options.clone(),
        catalog: catalog(options.virtual_ips),
        local,
        switch: switch.clone(),
        follow: serving.as_ref().map(|serving| serving.follow.clone()),
        addresses: serving.as_ref().map(|serving| serving.addresses.clone()).unwrap_or_default(),
        shares: shares.clone(),
        beside: api.handle().clone(),
        controllers: controllers.handle().clone(),
        keys,
    });
    let started = tokio.block_on(async {
        if let Err(error) = half.start().await
            && let Some(code) = control_half::fatal(&error, serves)
        {
            return Err((String::new(), code));
        }
        admin.open(serves).map_err(|error| (error, 1))
    });
    let ended = started.map(|()| {
        let kept = tokio.spawn(half.clone().keep());
        tokio.spawn(calm::settle(health.clone()));
        if options.edge {
            tokio.spawn(rooms::carry(options.name.clone(), health.clone()));
            api.spawn(limits::speak(options.name.clone(), shares.clone(), health.clone()));
        }
        let mut living =
            Living { options, health: &health, switch: &switch, admin: &admin, half: &half, kept: Some(kept) };
        let successor = tokio.block_on(signals.wait(&mut living, serving.as_mut(), before, serves));
        if let Some(kept) = living.kept.take() {
            kept.abort();
        }
        health.drain();
        if let (Some(successor), Some(serving)) = (&successor, &mut serving) {
            serving.hand_over(|| tokio.block_on(successor.leave_datagrams()));
        }
        // Another process may have the control half by now.
        let control = health.control();
        if let Some(serving) = &mut serving {
            if let Some(control) = &control {
                tokio.block_on(announce_drain(control, !options.interfaces.is_empty()));
            }
            serving.drain();
        }
        admin.close();
        if let Some(control) = control {
            tokio.block_on(control.shutdown());
        }
    });
    drop(stop);
    if let Some(serving) = serving {
        serving.join();
    }
    ended
}

fn catalog(virtual_ips: usize) -> Arc<ModelCatalog> {
    let descriptions = edge_filters::kinds().iter().map(|k| (k.kind.to_owned(), k.doc.to_owned())).collect();
    Arc::new(ModelCatalog::new(Box::new(Shelf), explained(), descriptions).vips_max(virtual_ips))
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
    access_log: Option<Arc<AccessLog>>,
    agent: Agent,
    /// Addresses other machines send packets to.
    addresses: Vec<IpAddr>,
    lease: Option<HeldLease>,
}

/// The edge half as it serves.
struct Serving {
    traffic: Arc<Traffic>,
    addresses: Vec<IpAddr>,
    lease: Option<HeldLease>,
    /// Hands the agent what the control half publishes.
    follow: mpsc::Sender<Follower>,
    agent: JoinHandle<()>,
    runtime: Runtime,
    /// It had kept a state on disk, so that it serves without a control half.
    kept: bool,
    /// Asks the agent to rest.
    rests: mpsc::Sender<Rest>,
    /// It rests for as long as this is there.
    at_rest: Option<mpsc::Sender<()>>,
    /// The kernel's programs are another process's by now.
    handed_over: Arc<AtomicBool>,
}

impl Edge {
    fn start(options: &Options, health: &Arc<Health>) -> Result<Edge, Failed> {
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
        Consumers::shared().tell(&telemetry);
        let destination = match &options.log_dir {
            Some(directory) => Destination::Directory(directory.clone(), options.log_bounds),
            None => Destination::Stdout,
        };
        let access_log = if options.access_log {
            let log = AccessLog::start(destination, cpus.len(), telemetry.limits())
                .map_err(|e| (format!("--log-dir: the access log cannot be written: {e}"), 1))?;
            Some(Arc::new(log))
        } else {
            None
        };
        let traffic = Traffic::new(runtime.workers().to_vec(), &options.name, telemetry.clone(), access_log.clone());
        let traffic = Arc::new(traffic.keeping(options.keeps));
        let watch = traffic.watch().clone();
        telemetry.registry().add(Box::new(move |encoder| watch.encode(encoder)));
        let registry = telemetry.registry();
        registry.add(Box::new(figures::workers(runtime.workers().to_vec(), traffic.clone())));
        registry.add(Box::new(figures::memory(&telemetry)));
        registry.add(Box::new(figures::tls));
        registry.add(Box::new(figures::access_lists(traffic.clone())));
        registry.add(Box::new(figures::quic));
        registry.add(Box::new(figures::kafka));
        registry.add(Box::new(edge_filters::encode_concurrency));
        let watched = traffic.clone();
        registry
            .add(Box::new(move |encoder: &mut base_telemetry::registry::Encoder| watched.overload().encode(encoder)));
        traffic.watch_overload().map_err(|e| (format!("cannot start the thread that looks for overload: {e}"), 1))?;
        registry.add(Box::new(edge_export::encode));
        // What has no kernel plane takes no packets of virtual IPs, so it names no address to send them to.
        let mut addresses = Vec::new();
        let mut lease = None;
        let steer = if options.interfaces.is_empty() {
            tracing::info!("no --interface: the kernel plane is off, the L7 part runs alone");
            match Kernel::take_down(&edge_kernel::Options::pin_dir_of(&options.name)) {
                Ok(true) => tracing::warn!("an earlier process left its programs in the kernel; they were taken down"),
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(%error, "an earlier process left programs in the kernel, and they steer on")
                }
            }
            None
        } else {
            let kernel = load_kernel(options, &cpus)?;
            addresses = kernel.own_addresses();
            let steer = Steer::new(kernel, &options.name, options.detach);
            let mut vigil = Vigil::new(runtime.workers().to_vec(), health.clone());
            let held = steer.hold_lease(move || vigil.lives());
            lease = Some(held.map_err(|e| (format!("cannot start the thread that tells the kernel we live: {e}"), 1))?);
            registry.add(Box::new(figures::kernel(&steer.plane())));
            Some(steer)
        };
        edge_kafka::set_directory(&options.data_dir.join("kafka"));
        edge_export::set_directory(&options.data_dir.join("logs"));
        edge_filters::set_cache_directory(&options.data_dir.join("cache"));
        let last_good = LastGood::new(&options.data_dir.join("edge")).map_err(|e| {
            (format!("--data-dir {}: {e}; give a directory this user can write to", options.data_dir.display()), 1)
        })?;
        registry.add(Box::new(|encoder| hall().encode(encoder)));
        registry.add(Box::new(edge_filters::limits::encode));
        registry.add(Box::new(|encoder| edge_filters::bans::bans().encode(encoder)));
        registry.add(Box::new(edge_filters::file_server::encode));
        let tickets = traffic.tickets().clone();
        let agent = Agent::new(traffic.clone(), Box::new(Shelf), steer, Some(last_good)).install_tickets(Box::new(
            move |keys, current| {
                // Cookies of waiting rooms are signed with keys that follow from those of sessions: both are the cluster's, and change.
                hall().set_keys(Keys::of(keys.iter().map(|key| (&key.name, &key.secret)), current));
                tickets.install(keys, current);
            },
        ));
        registry.add(Box::new(figures::certificates(agent.certificates())));
        registry.add(Box::new(figures::kept(agent.kept())));
        Ok(Edge { runtime, telemetry, traffic, access_log, agent, addresses, lease })
    }

    /// Serves what was kept on disk at once, then what is published.
    fn serve(mut self, local: &Arc<Local>, stopped: mpsc::Receiver<()>) -> Serving {
        let _ = local.edge.set((self.traffic.clone(), self.agent.failures()));
        let handed_over = Arc::new(AtomicBool::new(false));
        let plane = self.agent.plane().map(|plane| Arc::downgrade(&plane));
        if let Some(plane) = &plane {
            let _ = local.plane.set(plane.clone());
        }
        if let Err(error) = crate::bans::keep(plane, handed_over.clone()) {
            tracing::error!(%error, "the thread of bans cannot start: bans that are over stay listed, and the kernel hears of none");
        }
        // A state that panics the agent is not served, and does not keep the process from starting.
        let agent = &mut self.agent;
        let started = catch_unwind(AssertUnwindSafe(|| agent.start_from_disk()));
        let kept = started.unwrap_or_else(|_| {
            tracing::error!(
                "what was kept last cannot be served: the agent panicked over it; starting with the last state that went live"
            );
            catch_unwind(AssertUnwindSafe(|| agent.start_from_last_live())).unwrap_or_else(|_| {
                tracing::error!("nor can the last state that went live; starting without");
                None
            })
        });
        if let Some(kept) = &kept {
            tracing::info!(version = kept.version, "serving the last good state from disk");
            local.health.agent_applied(kept);
        }
        let (follow, followed) = mpsc::channel();
        let (rests, asked) = mpsc::channel();
        let kernel_is_anothers = handed_over.clone();
        let (health, telemetry) = (local.health.clone(), self.telemetry);
        let mut agent = self.agent;
        let thread = thread::Builder::new().name("agent".into()).spawn(move || {
            let mut ticked = Instant::now();
            let inbox = Inbox { follow: followed, stopped, rests: asked };
            agent_thread::run(&mut agent, &inbox, &health, || {
                if ticked.elapsed() >= ewma::TICK {
                    ticked = Instant::now();
                    telemetry.tick(ticked);
                    edge_listeners::relieve_caches();
                }
            });
            if !kernel_is_anothers.load(Ordering::Acquire) {
                agent.detach();
            }
        });
        let agent = thread.unwrap_or_else(|error| {
            // Without threads there is no daemon; the process ends and says why.
            tracing::error!(%error, "the agent's thread does not start");
            std::process::exit(1)
        });
        Serving {
            traffic: self.traffic,
            addresses: self.addresses,
            lease: self.lease,
            follow,
            agent,
            runtime: self.runtime,
            kept: kept.is_some(),
            rests,
            at_rest: None,
            handed_over,
        }
    }
}

impl Serving {
    /// Keeps the configuration, and with it the sockets, as they are; for as long as `at_rest` is there.
    fn rest(&mut self) -> Result<(), String> {
        let (begun, begins) = mpsc::channel();
        let (at_rest, ended) = mpsc::channel();
        let _ = self.rests.send(Rest { begun, ended });
        begins.recv_timeout(AGENT_RESTS).map_err(|_| "the agent is busy with a change; try again later".to_owned())?;
        self.at_rest = Some(at_rest);
        Ok(())
    }

    /// Further descriptors of all sockets that listen.
    fn sockets(&self) -> std::io::Result<upgrade::Sockets> {
        let mut sockets = upgrade::Sockets::default();
        for (_, server) in self.traffic.servers() {
            for some in server.sockets() {
                let kind = match some.protocol {
                    Protocol::Tcp => &mut sockets.streams,
                    Protocol::Udp => &mut sockets.datagrams,
                };
                for descriptor in &some.descriptors {
                    kind.push(inherited::duplicate(*descriptor)?);
                }
            }
            sockets.passes.extend(server.passes()?);
        }
        Ok(sockets)
    }

    /// Leaves all that comes from now on to another process. `leave_datagrams` tells it that nothing here reads them any more.
    fn hand_over(&mut self, leave_datagrams: impl FnOnce()) {
        self.handed_over.store(true, Ordering::Release);
        if let Some(lease) = self.lease.take() {
            lease.pass_on();
        }
        self.traffic.let_go();
        // At once: nobody reads them until it hears, and TCP, which both accept, may take a while.
        leave_datagrams();
        self.traffic.release(RELEASE, IDLE_STAYS);
    }

    /// Takes no new connections and waits for requests under way.
    fn drain(&mut self) {
        // Before the listeners close, so that nobody new is refused.
        self.lease = None;
        self.traffic.stop();
        let until = Instant::now() + DRAIN;
        // Connections of the process before this one may need it, where it is itself succeeded.
        let passes_on = || self.handed_over.load(Ordering::Acquire) && edge_listeners::h3_front::is_leaving();
        while (self.traffic.connections() > 0 || passes_on()) && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
        let left = self.traffic.connections();
        if left > 0 {
            tracing::warn!(connections = left, "not drained in {}; closing them", base_text::duration(DRAIN));
        }
    }

    fn join(self) {
        let _ = self.agent.join();
        // Lines and spans of the last requests go, over connections of the workers; lines that do not are on disk.
        self.traffic.end_log_sinks();
        edge_export::shutdown();
        // What is still to go to Kafka goes, or is kept on disk.
        edge_kafka::shutdown();
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
        sizes: Sizes::for_vips(options.virtual_ips as u32),
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
    if !kernel.set_worker_cpus(&cpus).map_err(|e| (e.to_string(), 1))? {
        tracing::info!(
            workers = cpus.len(),
            "packets arrive on fewer CPUs than there are workers: connections are spread over all workers, wherever they arrive"
        );
    }
    Ok(kernel)
}

fn identity(options: &Options) -> Identity {
    Identity {
        cluster_name: options.cluster_name.clone(),
        cluster_role: if options.secondary { "secondary" } else { "primary" }.to_owned(),
        instance_name: options.name.clone(),
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

/// SIGHUP, which ends a process that does not catch it.
fn hangups() -> Result<tokio::signal::unix::Signal, Failed> {
    use tokio::signal::unix::{SignalKind, signal};
    signal(SignalKind::hangup()).map_err(|e| (format!("signals cannot be caught: {e}"), 1))
}

/// Opens the files of the logs anew whenever somebody says that they were moved away.
async fn reopen_logs(mut hangups: tokio::signal::unix::Signal, (log, access): (Logs, Option<Arc<AccessLog>>)) {
    while hangups.recv().await.is_some() {
        log.reopen();
        if let Some(access) = &access {
            access.reopen();
        }
        tracing::info!("SIGHUP: the files of the logs were opened anew");
    }
}

/// What an upgrade reaches beside the edge half.
struct Living<'a> {
    options: &'a Arc<Options>,
    health: &'a Arc<Health>,
    switch: &'a Switch,
    admin: &'a Arc<AdminDoor>,
    half: &'a Arc<ControlHalf>,
    /// The task that keeps the control half going; none while another process is to have its place.
    kept: Option<tokio::task::JoinHandle<()>>,
}

impl Living<'_> {
    /// Starts the program anew and brings it to where it is ready. If it does not come up all is as before.
    async fn upgrade(&mut self, serving: &mut Option<&mut Serving>) -> Result<Successor, String> {
        let mut sockets = match serving {
            Some(serving) => {
                serving.rest()?;
                serving.sockets().map_err(|e| format!("its sockets cannot be copied: {e}"))?
            }
            None => upgrade::Sockets::default(),
        };
        sockets.admin = self.admin.descriptors().map_err(|e| format!("its sockets cannot be copied: {e}"))?;
        let mut successor = Successor::start(&sockets, &self.options.api_addr).await?;
        drop(sockets);
        tracing::info!(
            pid = successor.pid(),
            "SIGUSR2: started the program again, which is to take the place of this one"
        );
        successor.serves().await?;
        self.admin.rest(ADMIN_ANSWERS).await;
        if let Some(kept) = self.kept.take() {
            kept.abort();
            let _ = kept.await;
        }
        if let Some(control) = self.health.control_started() {
            // The group hears of a restart, not of a member that leaves.
            control.abandon().await;
        }
        self.health.control_rests();
        successor.release().await;
        successor.is_ready().await?;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::MainPid(successor.pid())]);
        successor.succeeds();
        Ok(successor)
    }

    /// After an upgrade that failed: what was given up is taken up again.
    async fn go_on(&mut self, serving: &mut Option<&mut Serving>) {
        if self.kept.is_none() {
            if self.health.control_started().is_none() {
                let _ = self.half.start().await;
            }
            self.kept = Some(tokio::spawn(self.half.clone().keep()));
        }
        // Its port is ours all along.
        let _ = self.admin.open(true);
        if let Some(serving) = serving {
            serving.at_rest = None;
        }
    }
}

/// A change takes the agent so long at most, but for the very largest.
const AGENT_RESTS: Duration = Duration::from_secs(20);

/// The process's signals, caught before anything can send one.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    upgrade: tokio::signal::unix::Signal,
}

impl Signals {
    fn install() -> Result<Signals, Failed> {
        use tokio::signal::unix::{SignalKind, signal};
        let failed = |e: std::io::Error| (format!("signals cannot be caught: {e}"), 1);
        // A file that may not grow further (RLIMIT_FSIZE) is a write that fails, not the end of the process. The handler stays
        // when this is dropped.
        let _ = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())).map_err(failed)?;
        Ok(Signals {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            upgrade: signal(SignalKind::user_defined2()).map_err(failed)?,
        })
    }

    /// Says `ready` when it is so, then waits for the signal that ends the process. A second one ends it at once. There is a successor
    /// where it was told to make place for one.
    async fn wait(
        mut self,
        living: &mut Living<'_>,
        mut serving: Option<&mut Serving>,
        before: Option<&Arc<Predecessor>>,
        serves: bool,
    ) -> Option<Successor> {
        let (options, health, switch, admin) =
            (living.options.clone(), living.health.clone(), living.switch.clone(), living.admin.clone());
        let (before, follows) = (before.cloned(), before);
        let ready = async move {
            if serves {
                // It does what a machine is for; the log says what is missing.
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
            }
            let admin = loop {
                match admin.admin() {
                    Some(admin) if health.ready().is_ok() => break admin,
                    _ => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            };
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
            let addresses: Vec<String> = admin.addresses().iter().map(|a| a.to_string()).collect();
            // For as long as the process lives: no forward proxy of its leads there.
            let own = admin.addresses().iter().map(|address| address.port()).chain(peer_ports(&options));
            own.for_each(|port| std::mem::forget(OwnPort::note(port)));
            let tls = if admin.encrypted() { " (TLS)" } else { "" };
            tracing::info!("ready, admin API on {}{tls}", addresses.join(", "));
            if let Some(before) = before {
                std::thread::spawn(move || before.succeed());
            }
            create_initial(&options, &switch).await;
        };
        // It goes on while an upgrade is tried.
        let ready = tokio::spawn(ready);
        let successor = loop {
            let name = tokio::select! {
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
                _ = self.upgrade.recv() => {
                    if follows.is_some_and(|before| !before.leaves()) {
                        tracing::error!(
                            "SIGUSR2 is left undone: this process is still about to take the place of another; send it again when that \
                             one has left"
                        );
                        continue;
                    }
                    let upgraded = tokio::select! {
                        upgraded = living.upgrade(&mut serving) => upgraded,
                        _ = self.terminate.recv() => Err("SIGTERM came before it was ready".to_owned()),
                        _ = self.interrupt.recv() => Err("SIGINT came before it was ready".to_owned()),
                    };
                    match upgraded {
                        Ok(successor) => {
                            let pid = successor.pid();
                            tracing::info!(pid, "another process has the place of this one, which ends what it has");
                            break Some(successor);
                        }
                        Err(reason) => {
                            tracing::error!(reason, "the upgrade failed; this process goes on as before");
                            living.go_on(&mut serving).await;
                            if reason.starts_with("SIG") { "a signal" } else { continue }
                        }
                    }
                }
            };
            tracing::info!("{name}: draining; once more to leave at once");
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
            break None;
        };
        ready.abort();
        tokio::spawn(async move {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
            std::process::exit(255);
        });
        successor
    }
}

/// Creates the objects of `--initial-object-config-files` that do not exist yet.
async fn create_initial(options: &Options, switch: &Switch) {
    for path in &options.initial_object_files {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the initial object cannot be read");
                continue;
            }
        };
        // Each on its own: what is there already keeps nothing else away.
        let documents = match base_model::yaml::parse_documents(&text) {
            Ok(documents) => documents,
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the initial objects cannot be read");
                continue;
            }
        };
        for document in documents {
            let name = document.get("name").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
            create_when_possible(switch, &path.display().to_string(), &name, document.to_string()).await;
        }
    }
}

/// The cluster may still be choosing its leader, or wait for members; what was asked for is not given up.
async fn create_when_possible(switch: &Switch, path: &str, object: &str, document: String) {
    for turn in 1u64.. {
        let (status, body) = switch.ask(hyper::Method::POST, "/apis/v2/objects", document.clone()).await;
        let reason = String::from_utf8_lossy(&body).into_owned();
        match status {
            status if status.is_success() || status == hyper::StatusCode::CONFLICT => return,
            hyper::StatusCode::SERVICE_UNAVAILABLE if turn % REMINDED == 0 => {
                tracing::warn!(path, object, reason, "an initial object cannot be created yet; it is tried on");
            }
            hyper::StatusCode::SERVICE_UNAVAILABLE => {}
            _ => {
                tracing::error!(path, object, reason, "an initial object is refused");
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Tries between two lines in the log: about twenty seconds.
const REMINDED: u64 = 100;

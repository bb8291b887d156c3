//! What the admin API asks about this machine.

use crate::health::Health;
use crate::logs::Logs;
use crate::shown_figures;
use base_telemetry::registry::Names;
use base_telemetry::{Limit, Telemetry};
use base_text::quoted;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use control_admin::{Requests, Tap, Unshown};
use control_api::{EdgeReport, FAILURE_CHARS_TOLD, FAILURES_TOLD};
use control_controllers::Board;
use edge_agent::agent::Failures;
use edge_agent::steer::Plane;
use edge_filters::bans::{self, Ban};
use edge_kernel::CapturedPacket;
use edge_listeners::{Traffic, watch};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Instant;
use tokio::sync::{broadcast, mpsc};

/// Requests that wait for who reads a tap; what comes while they are so many is missed, and counted.
const TAPPED_WAITING: usize = 256;

/// Packets that wait to be told of, likewise: for as long as steering is being changed.
const CAPTURED_WAITING: usize = 1024;

/// Packets that are told of while nobody else can have the plane.
const TOLD_AT_ONCE: usize = 32;

/// Says in lines what became of packets, until none come or nobody listens.
async fn tell_packets(
    plane: Weak<Mutex<Plane>>,
    mut captured: mpsc::Receiver<CapturedPacket>,
    told: mpsc::Sender<Value>,
) {
    let mut packets = Vec::new();
    while captured.recv_many(&mut packets, CAPTURED_WAITING).await > 0 {
        let (plane, batch) = (plane.clone(), std::mem::take(&mut packets));
        // The plane is another's while steering is changed, and that one's for no longer than a few packets take.
        let lines = tokio::task::spawn_blocking(move || {
            let plane = plane.upgrade()?;
            let mut lines = Vec::with_capacity(batch.len());
            for some in batch.chunks(TOLD_AT_ONCE) {
                let told: Vec<Value> = {
                    let plane = plane.lock().unwrap_or_else(PoisonError::into_inner);
                    some.iter().map(|packet| plane.captured(packet)).collect()
                };
                lines.extend(told.into_iter().zip(some).map(|(mut line, packet)| {
                    line["frame"] = BASE64_STANDARD.encode(&packet.bytes).into();
                    line
                }));
            }
            Some(lines)
        });
        let Ok(Some(lines)) = lines.await else { return };
        for line in lines {
            if told.send(line).await.is_err() {
                return;
            }
        }
    }
}

/// This machine's half of the admin API.
pub struct Local {
    pub telemetry: Arc<Telemetry>,
    pub logs: Logs,
    /// The edge half, once it runs; never in a process with `--no-edge`.
    pub edge: OnceLock<(Arc<Traffic>, Failures)>,
    /// Its kernel plane, where there is one. Only borrowed: its owner takes it down at the end with `--detach`.
    pub plane: OnceLock<Weak<Mutex<Plane>>>,
    pub health: Arc<Health>,
    /// The controllers that run here.
    pub board: Arc<Board>,
    /// Changes refused because too many were being checked.
    checks: Limit,
    /// Readers refused because too many were being told of changes.
    watches: Limit,
}

impl Local {
    pub fn new(telemetry: Arc<Telemetry>, logs: Logs, health: Arc<Health>) -> Local {
        let checks = telemetry.limits().register("document_checks");
        let watches = telemetry.limits().register("object_watches");
        let (edge, plane) = (OnceLock::new(), OnceLock::new());
        Local { telemetry, logs, edge, plane, health, board: Arc::default(), checks, watches }
    }

    /// What this machine's edge says of itself to the leader.
    pub fn edge_report(&self) -> Option<EdgeReport> {
        let (traffic, failures) = self.edge.get()?;
        let (version, withheld) = self.health.serves();
        let mut all = failures.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (name, server) in traffic.servers() {
            // A port that another program has, above all.
            if let ("failed", Some(reason)) = server.state() {
                all.entry(name).or_insert(reason);
            }
        }
        let failed = all.len();
        let told = |reason: String| reason.chars().take(FAILURE_CHARS_TOLD).collect();
        let failures = all.into_iter().take(FAILURES_TOLD).map(|(name, reason)| (name, told(reason))).collect();
        Some(EdgeReport { version, withheld, failures, failed })
    }
}

impl control_admin::Local for Local {
    fn ready(&self) -> Result<(), String> {
        self.health.ready()
    }

    fn leaderless(&self) -> bool {
        self.health.leaderless()
    }

    fn remarks(&self) -> Vec<String> {
        self.health.remarks()
    }

    fn last_good(&self) -> Option<control_admin::LastGood> {
        let (served, withheld) = self.health.served()?;
        Some(control_admin::LastGood {
            cluster_id: served.cluster_id,
            version: served.version,
            objects: served.objects.values().cloned().collect(),
            withheld,
        })
    }

    fn about(&self) -> String {
        let kernel = if edge_kernel::built_in() { "L4 built in" } else { "L4 not built in" };
        format!("weir {} ({kernel})\n", crate::version())
    }

    fn object_status(&self, name: Option<&str>) -> BTreeMap<String, Value> {
        let of_edge = self.edge.get().map(|(traffic, failures)| edge_agent::agent::status(traffic, failures));
        let mut status = of_edge.unwrap_or_default();
        if let Some(name) = name {
            status.retain(|n, _| n == name);
        }
        status.extend(self.board.statuses(name));
        status
    }

    fn metrics(&self) -> String {
        self.telemetry.render(Names::All)
    }

    fn figures(&self) -> Value {
        shown_figures::of(&self.telemetry.render(Names::All))
    }

    fn requests(&self, which: &Requests) -> Result<Vec<Value>, String> {
        let Some((traffic, _)) = self.edge.get() else { return Ok(Vec::new()) };
        let watch = traffic.watch();
        let found = match which {
            Requests::Of(id) => watch.find(id),
            Requests::Latest { sort, most } => {
                let of_sort = watch::Sort::named(sort);
                if of_sort.is_none() && !sort.is_empty() {
                    let known: Vec<&str> = watch::Sort::ALL.iter().map(|sort| sort.name()).collect();
                    return Err(format!("sort = {}: unknown; accepted are {}", quoted(sort), known.join(", ")));
                }
                watch.latest(of_sort, *most)
            }
        };
        Ok(found.iter().map(|record| record.to_json()).collect())
    }

    fn trace(&self, flow: &str) -> Result<Value, String> {
        let Some(plane) = self.plane.get().and_then(Weak::upgrade) else {
            return Err("there is no kernel plane here, so that packets are steered by nobody: start weir with --interface, or ask a machine \
                        that was"
                .to_owned());
        };
        plane.lock().unwrap_or_else(PoisonError::into_inner).trace(flow)
    }

    fn bans(&self) -> Value {
        let now = Instant::now();
        let told = |(source, ban): (IpAddr, Ban)| {
            let left = ban.until.saturating_duration_since(now).as_secs_f64().ceil();
            json!({"source": bans::shown(source), "secondsLeft": left as u64, "by": &*ban.by})
        };
        let enforced = if self.plane.get().is_some() { "kernel and listeners" } else { "listeners" };
        json!({"enforcedBy": enforced, "bans": bans::bans().list().into_iter().map(told).collect::<Vec<_>>()})
    }

    fn lift_ban(&self, address: IpAddr) -> Option<String> {
        bans::bans().lift(address).map(bans::shown)
    }

    fn capture(&self, filter: &[(String, String)]) -> Result<Tap, Unshown> {
        let Some(plane) = self.plane.get().and_then(Weak::upgrade) else {
            return Err(Unshown::Nothing(
                "there is no kernel plane here, so that no packet is looked at: start weir with --interface, or ask a machine that was"
                    .to_owned(),
            ));
        };
        let (sender, captured) = mpsc::channel(CAPTURED_WAITING);
        let sink = Box::new(move |packet| sender.try_send(packet).is_ok());
        let open = {
            let plane = plane.lock().unwrap_or_else(PoisonError::into_inner);
            let filter = plane.capture_filter(filter).map_err(Unshown::Question)?;
            Arc::new(plane.capture(&filter, sink).map_err(Unshown::Trouble)?)
        };
        let (told, requests) = mpsc::channel(TAPPED_WAITING);
        tokio::spawn(tell_packets(Arc::downgrade(&plane), captured, told));
        let counted = open.clone();
        Ok(Tap { requests, missed: Box::new(move || counted.missed()), hold: Box::new(open) })
    }

    fn tap(&self, filter: &[(String, String)]) -> Result<Tap, Unshown> {
        let Some((traffic, _)) = self.edge.get() else {
            return Err(Unshown::Nothing("this machine has no edge half, and so no requests".to_owned()));
        };
        let filter = watch::Filter::parse(filter).map_err(Unshown::Question)?;
        let (sender, requests) = mpsc::channel(TAPPED_WAITING);
        let sink: watch::Sink = Box::new(move |record| sender.try_send(record.to_json()).is_ok());
        let open = Arc::new(traffic.watch().tap(filter, sink).map_err(Unshown::Trouble)?);
        let counted = open.clone();
        Ok(Tap { requests, missed: Box::new(move || counted.missed()), hold: Box::new(open) })
    }

    fn check_refused(&self) {
        self.checks.add(1);
    }

    fn watch_refused(&self) {
        self.watches.add(1);
    }

    fn audit(&self, line: &Value) {
        match &self.logs.audit {
            Some(file) => file.line(format!("{line}\n")),
            None => tracing::info!(target: "audit", "{line}"),
        }
    }

    fn logs(&self, tail: usize) -> Vec<Arc<str>> {
        self.logs.ring.tail(tail)
    }

    fn follow_logs(&self) -> Option<broadcast::Receiver<Arc<str>>> {
        Some(self.logs.ring.follow())
    }

    fn log_level(&self) -> String {
        self.logs.level().to_lowercase()
    }

    fn set_log_level(&self, level: &str) -> Result<(), String> {
        self.logs.set_level(level)
    }
}

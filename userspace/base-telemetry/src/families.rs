//! Families made from plain rows that other crates hand over at scrape time.

use std::fs;

use crate::registry::Encoder;

/// `weir_build_info` and `weir_config_version`.
pub fn build(encoder: &mut Encoder, version: &str, revision: &str, config_version: u64) {
    encoder.gauge(
        "weir_build_info",
        "Always 1; the labels say what is running.",
        &[("version", version), ("revision", revision)],
        1.0,
    );
    encoder.gauge(
        "weir_config_version",
        "Version of the configuration this machine serves.",
        &[],
        config_version as f64,
    );
}

/// One worker thread.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkerRow {
    pub worker: usize,
    /// The CPU it is pinned to.
    pub cpu: Option<usize>,
    /// Open connections, both from clients and to backends.
    pub connections: u64,
    pub accepted_total: u64,
    pub requests_total: u64,
    /// Part of the time the worker was not waiting, 0 to 1.
    pub busy_ratio: f64,
    /// Further numbers of the runtime: full name, help, whether it is a counter, value.
    pub more: Vec<(&'static str, &'static str, bool, f64)>,
}

/// `weir_worker_*`.
pub fn workers(encoder: &mut Encoder, rows: &[WorkerRow]) {
    for row in rows {
        let worker = row.worker.to_string();
        let labels = [("worker", worker.as_str())];
        encoder.gauge("weir_worker_connections", "Open connections, by worker.", &labels, row.connections as f64);
        let help = "Part of the last interval in which the worker had work, 0 to 1, by worker.";
        encoder.gauge("weir_worker_busy_ratio", help, &labels, row.busy_ratio);
        let help = "Connections accepted from clients, by worker.";
        encoder.counter("weir_worker_accepted_total", help, &labels, row.accepted_total as f64);
        let help = "Requests answered, by worker.";
        encoder.counter("weir_worker_requests_total", help, &labels, row.requests_total as f64);
        if let Some(cpu) = row.cpu {
            encoder.gauge("weir_worker_cpu", "Number of the CPU the worker is pinned to.", &labels, cpu as f64);
        }
        for &(name, help, is_counter, value) in &row.more {
            if is_counter {
                encoder.counter(name, help, &labels, value);
            } else {
                encoder.gauge(name, help, &labels, value);
            }
        }
    }
}

/// The memory ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryRows {
    /// Worker (`elsewhere` for what belongs to none), kind, bytes.
    pub booked: Vec<(String, &'static str, u64)>,
    /// `None`: no ceiling.
    pub ceiling: Option<u64>,
    pub peak: u64,
    /// Bytes of buffers that lie ready.
    pub reserve: u64,
    /// Requests answered 503 for want of memory.
    pub shed_total: u64,
    /// Times the ceiling was reached.
    pub over_total: u64,
}

/// `weir_worker_memory_bytes` and `weir_memory_*`.
pub fn memory(encoder: &mut Encoder, rows: &MemoryRows) {
    for (worker, kind, bytes) in &rows.booked {
        let help = "Memory held on behalf of traffic, in bytes, by worker and by what it is for.";
        let labels = [("worker", worker.as_str()), ("kind", kind)];
        encoder.gauge("weir_worker_memory_bytes", help, &labels, *bytes as f64);
    }
    if let Some(ceiling) = rows.ceiling {
        let help =
            "Memory that may be held on behalf of traffic, in bytes, before requests are refused (--memory-limit).";
        encoder.gauge("weir_memory_ceiling_bytes", help, &[], ceiling as f64);
    }
    let help = "Most memory ever held on behalf of traffic, in bytes.";
    encoder.gauge("weir_memory_peak_bytes", help, &[], rows.peak as f64);
    let help = "Buffers that lie ready, in bytes; not part of what counts towards the ceiling.";
    encoder.gauge("weir_memory_reserve_bytes", help, &[], rows.reserve as f64);
    let help = "Requests answered with 503 and Retry-After because memory had reached its ceiling.";
    encoder.counter("weir_memory_shed_total", help, &[], rows.shed_total as f64);
    let help = "Times memory reached its ceiling.";
    encoder.counter("weir_memory_over_total", help, &[], rows.over_total as f64);
}

/// Packets of a virtual IP that met the same fate in the kernel, summed over CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct XdpCounters {
    pub vip: String,
    pub verdict: String,
    pub reason: String,
    pub packets: u64,
    pub bytes: u64,
}

/// Packets of a virtual IP handed to a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SteeredCounters {
    pub vip: String,
    pub machine: String,
    pub packets: u64,
    pub bytes: u64,
}

/// `weir_xdp_*` and `weir_steered_*`.
pub fn xdp(encoder: &mut Encoder, fates: &[XdpCounters], steered: &[SteeredCounters]) {
    for row in fates {
        let labels = [("vip", row.vip.as_str()), ("verdict", &row.verdict), ("reason", &row.reason)];
        let help = "Packets seen by the kernel program, by virtual IP, verdict and reason.";
        encoder.counter("weir_xdp_packets_total", help, &labels, row.packets as f64);
        let help = "Bytes of packets seen by the kernel program, by virtual IP, verdict and reason.";
        encoder.counter("weir_xdp_bytes_total", help, &labels, row.bytes as f64);
    }
    for row in steered {
        let labels = [("vip", row.vip.as_str()), ("machine", &row.machine)];
        let help = "Packets steered to a machine, by virtual IP and machine.";
        encoder.counter("weir_steered_total", help, &labels, row.packets as f64);
        let help = "Bytes of packets steered to a machine, by virtual IP and machine.";
        encoder.counter("weir_steered_bytes_total", help, &labels, row.bytes as f64);
    }
}

/// How the two halves of a machine are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HalvesRow {
    pub control_up: bool,
    pub control_restarts_total: u64,
    pub control_start_failures_total: u64,
    /// `None`: there is no edge half.
    pub agent_restarts_total: Option<u64>,
    /// The edge stays with what it has.
    pub withholds: bool,
}

/// `weir_control_*` and `weir_agent_*`.
pub fn halves(encoder: &mut Encoder, row: &HalvesRow) {
    let help = "Whether the control half works (1) or not (0); traffic does not depend on it.";
    encoder.gauge("weir_control_up", help, &[], f64::from(u8::from(row.control_up)));
    let help = "Times the control half failed while it ran and had to be started again.";
    encoder.counter("weir_control_restarts_total", help, &[], row.control_restarts_total as f64);
    let help = "Starts of the control half that failed; it is tried again.";
    encoder.counter("weir_control_start_failures_total", help, &[], row.control_start_failures_total as f64);
    if let Some(restarts) = row.agent_restarts_total {
        let help = "Times the agent, which applies configuration to this edge, panicked and tried again.";
        encoder.counter("weir_agent_restarts_total", help, &[], restarts as f64);
        let help = "Whether this edge serves its last good state because what the cluster offers is older, or lacks objects (1).";
        encoder.gauge("weir_edge_withholds", help, &[], f64::from(u8::from(row.withholds)));
    }
}

/// The Raft group as this member sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftRow {
    pub is_leader: bool,
    /// Whether a leader is known.
    pub has_leader: bool,
    pub term: u64,
    pub last_log_index: u64,
    pub commit_index: u64,
    pub applied_index: u64,
    pub snapshot_index: u64,
    pub voters: u64,
    pub learners: u64,
    /// Machines that cannot become members.
    pub members_without_id: u64,
    /// Of the entries' text.
    pub log_bytes: u64,
    pub leader_changes_total: u64,
    pub proposals_failed_total: u64,
    pub answers_forgotten_total: u64,
    pub feature_level: u64,
    /// Members whose state differs from the leader's.
    pub diverged: u64,
}

/// `weir_raft_*`, and `etcd_server_has_leader` because dashboards made for Easegress ask for it.
pub fn raft(encoder: &mut Encoder, row: &RaftRow) {
    let gauges = [
        ("weir_raft_is_leader", "Whether this member leads the group (1) or not (0).", u64::from(row.is_leader)),
        ("weir_raft_has_leader", "Whether a leader is known (1) or not (0).", u64::from(row.has_leader)),
        ("weir_raft_term", "Current term.", row.term),
        ("weir_raft_last_log_index", "Index of the last entry in the log.", row.last_log_index),
        ("weir_raft_commit_index", "Index up to which entries are committed.", row.commit_index),
        ("weir_raft_applied_index", "Index up to which entries are applied.", row.applied_index),
        ("weir_raft_snapshot_index", "Index of the last entry in the snapshot.", row.snapshot_index),
        ("weir_raft_voters", "Members that vote.", row.voters),
        ("weir_raft_learners", "Members that follow without a vote.", row.learners),
        (
            "weir_raft_members_without_id",
            "Machines that cannot become members because all 65535 member ids are taken, on the leader.",
            row.members_without_id,
        ),
        ("weir_raft_log_bytes", "Text of the entries in the log, in bytes; memory and disk hold it.", row.log_bytes),
        ("weir_raft_feature_level", "Feature level of the cluster: what all members understand.", row.feature_level),
        (
            "weir_raft_state_divergence_members",
            "Members whose state differs from the leader's at the same place of the log: on the leader all of them, elsewhere this one.",
            row.diverged,
        ),
        ("etcd_server_has_leader", "Whether a leader is known (1) or not (0).", u64::from(row.has_leader)),
    ];
    for (name, help, value) in gauges {
        encoder.gauge(name, help, &[], value as f64);
    }
    let help = "Times this member saw the leader change.";
    encoder.counter("weir_raft_leader_changes_total", help, &[], row.leader_changes_total as f64);
    let help = "Changes asked of this member that came to no decision, or to one it did not hear of.";
    encoder.counter("weir_raft_proposals_failed_total", help, &[], row.proposals_failed_total as f64);
    let help = "Answers let go for the bytes they held although their requests might be repeated, and then be carried out twice.";
    encoder.counter("weir_raft_answers_forgotten_total", help, &[], row.answers_forgotten_total as f64);
}

/// `process_*` from /proc. What cannot be read is left out.
pub fn process(encoder: &mut Encoder) {
    if let Ok(status) = fs::read_to_string("/proc/self/status") {
        let kib = |key: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(key)?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        };
        if let Some(kib) = kib("VmRSS:") {
            let help = "Resident memory size in bytes.";
            encoder.gauge("process_resident_memory_bytes", help, &[], (kib * 1024) as f64);
        }
        if let Some(kib) = kib("VmSize:") {
            let help = "Virtual memory size in bytes.";
            encoder.gauge("process_virtual_memory_bytes", help, &[], (kib * 1024) as f64);
        }
        if let Some(threads) = status.lines().find_map(|line| line.strip_prefix("Threads:")?.trim().parse::<u64>().ok())
        {
            encoder.gauge("process_threads", "Number of threads.", &[], threads as f64);
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        encoder.gauge("process_open_fds", "Number of open file descriptors.", &[], open.count() as f64);
    }
    if let Ok(limits) = fs::read_to_string("/proc/self/limits") {
        let soft = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse::<u64>().ok());
        if let Some(soft) = soft {
            encoder.gauge("process_max_fds", "Maximum number of open file descriptors.", &[], soft as f64);
        }
    }
    if let Some((cpu, started)) = cpu_and_start() {
        let help = "User and system CPU time spent, in seconds.";
        encoder.counter("process_cpu_seconds_total", help, &[], cpu);
        if let Some(started) = started {
            let help = "Start time of the process since the epoch, in seconds.";
            encoder.gauge("process_start_time_seconds", help, &[], started);
        }
    }
}

/// CPU seconds, and the start in seconds since the epoch.
fn cpu_and_start() -> Option<(f64, Option<f64>)> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything; the fields are counted from behind it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok());
    let cpu = (ticks(11)? + ticks(12)?) / TICKS_PER_SECOND;
    let booted = fs::read_to_string("/proc/stat")
        .ok()
        .and_then(|stat| stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok()));
    Some((cpu, booted.and_then(|booted| Some(booted + ticks(19)? / TICKS_PER_SECOND))))
}

/// Linux shows times to userspace in units of 1/100 s on every architecture we build for (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

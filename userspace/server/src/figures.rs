//! Metrics of the parts that only the whole process sees: workers, the kernel plane, the Raft group.

use crate::health::Health;
use crate::limits::Shares;
use crate::log_thread::LogThread;
use base_runtime::{Worker, WorkerStats, memory};
use base_telemetry::Telemetry;
use base_telemetry::access_log::AccessLog;
use base_telemetry::families::{self, HalvesRow, MemoryRows, RaftRow, SteeredCounters, WorkerRow, XdpCounters};
use base_telemetry::registry::Encoder;
use base_tls::managed::Managed;
use control_api::tls::ServerTls;
use control_controllers::Board;
use control_controllers::board::AutoCertFigures;
use control_raft::PeerTls;
use edge_agent::CertificateEnds;
use edge_agent::keeper::KeptState;
use edge_agent::steer::SharedKernel;
use edge_listeners::Traffic;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Adds the build, how the two halves are, and the state of the Raft group as this member sees it.
pub fn control(health: Arc<Health>) -> impl Fn(&mut Encoder) + Send + Sync {
    move |encoder| {
        families::build(encoder, crate::version(), "", health.version());
        let counts = health.counts();
        families::halves(
            encoder,
            &HalvesRow {
                control_up: counts.control_up,
                control_restarts_total: counts.control_restarts,
                control_start_failures_total: counts.control_start_failures,
                agent_restarts_total: counts.agent_restarts,
                withholds: counts.withholds,
            },
        );
        let metrics = health.control().map(|control| control.metrics()).unwrap_or_default();
        families::raft(
            encoder,
            &RaftRow {
                is_leader: metrics.is_leader,
                has_leader: metrics.leader.is_some(),
                term: metrics.term,
                last_log_index: metrics.last_log_index,
                commit_index: metrics.commit_index,
                applied_index: metrics.applied_index,
                snapshot_index: metrics.snapshot_index,
                voters: metrics.voters.len() as u64,
                learners: metrics.learners,
                members_without_id: metrics.members_without_id,
                log_bytes: metrics.log_bytes,
                leader_changes_total: metrics.leader_changes,
                proposals_failed_total: metrics.proposals_failed,
                answers_forgotten_total: metrics.answers_forgotten,
                feature_level: metrics.feature_level,
                diverged: metrics.diverged,
            },
        );
        let help = "Calls on the peer URL that were not answered, by reason: browser (no member sends its headers), unauthenticated \
                    (no signature or certificate, or a wrong one), stale (signed for another start of this member; signed anew), \
                    replayed, cluster (another one), name (for or from another member), crowded (a connection beyond those that may be \
                    open).";
        for (machine, version) in &metrics.edge_versions {
            let help = "Version of the configuration that each edge serves, as it told the leader, which alone has this figure.";
            encoder.gauge("weir_edge_version", help, &[("machine", machine)], *version as f64);
        }
        if let Some(end) = metrics.certificate_ends {
            certificate_end(encoder, "peers", end);
        }
        if let Some(end) = metrics.authority_ends {
            certificate_end(encoder, "peer-authority", end);
        }
        for (reason, count) in &metrics.calls_refused {
            encoder.counter("weir_peer_calls_refused_total", help, &[("reason", reason)], *count as f64);
        }
    }
}

/// Adds the controllers that run on this member, which are those of the cluster while it leads.
pub fn controllers(board: Arc<Board>) -> impl Fn(&mut Encoder) + Send + Sync {
    move |encoder| {
        let help = "Controllers that panicked on this member, and started again.";
        encoder.counter("weir_controller_restarts_total", help, &[], board.restarts.load(Ordering::Relaxed) as f64);
        let help = "Writes of controllers on this member that were refused, because another leads by now.";
        encoder.counter("weir_controller_fenced_total", help, &[], board.fenced.load(Ordering::Relaxed) as f64);
        let now = Instant::now();
        for (registry, entry) in board.entries() {
            if let Some(figures) = &entry.auto_cert {
                auto_cert(encoder, &registry, figures);
                continue;
            }
            if entry.kind == "AutoCertManager" {
                continue;
            }
            let labels = [("registry", registry.as_str()), ("kind", entry.kind.as_str())];
            let help = "Whether the service registry is well (1) or not (0), on the member that leads.";
            encoder.gauge("weir_registry_up", help, &labels, f64::from(u8::from(entry.fault.is_none())));
            if let Some(age) = entry.age_s(now) {
                let help =
                    "Seconds since the service registry was last known to be well; its servers are as old at most.";
                encoder.gauge("weir_registry_last_good_age_seconds", help, &labels, age);
            }
            let help = "Times that the service registry could not be asked, or said what cannot be read.";
            encoder.counter("weir_registry_faults_total", help, &labels, entry.faults_total as f64);
            let help = "Changes of services that were written to the cluster.";
            encoder.counter("weir_registry_changes_total", help, &labels, entry.changes_total as f64);
            let help = "Services that keep servers the registry does not have, because that is not believed yet.";
            encoder.gauge("weir_registry_held_services", help, &labels, entry.held.len() as f64);
            let help =
                "Services that pools ask for and that the registry does not have: the pools have no servers of them.";
            encoder.gauge("weir_registry_lacking_services", help, &labels, entry.lacking.len() as f64);
            let help = "Services that are not watched, because a registry is asked for so many at most.";
            encoder.gauge("weir_registry_left_out_services", help, &labels, entry.left_out.len() as f64);
            for ((of, state), count) in &entry.states {
                let labels = [("controller", registry.as_str()), ("kind", of.as_str()), ("state", state.as_str())];
                let help = "Objects of Kubernetes by what became of them: honoured (served as they are written), approximated or refused \
                            (in part or as a whole).";
                encoder.gauge("weir_kubernetes_objects", help, &labels, *count as f64);
            }
            if !entry.states.is_empty() {
                let tells = entry.tells;
                for (result, count) in [
                    ("told", tells.told_total),
                    ("put_off", tells.put_off_total),
                    ("superseded", tells.superseded_total),
                    ("failed", tells.failed_total),
                ] {
                    let labels = [("controller", registry.as_str()), ("result", result)];
                    let help = "Statuses and events that the API server of Kubernetes was told, by result: told, put_off (it had too much \
                                to do, or did not answer; told again), superseded (somebody else wrote to the object in between) or failed.";
                    encoder.counter("weir_kubernetes_tells_total", help, &labels, count as f64);
                }
            }
            for (service, count) in entry.instances.iter().take(SERVICES_SHOWN) {
                let labels = [labels[0], labels[1], ("service", service.as_str())];
                let help = "Instances of a service that can be used, as the registry said last.";
                encoder.gauge("weir_registry_instances", help, &labels, *count as f64);
            }
        }
    }
}

/// Adds how orders of certificates are, on the member that leads.
fn auto_cert(encoder: &mut Encoder, object: &str, figures: &AutoCertFigures) {
    let by = |result: &'static str| [("object", object.to_owned()), ("result", result.to_owned())];
    let help =
        "Orders of certificates that came to an end on this member, by AutoCertManager and result (issued or failed).";
    for (result, count) in [("issued", figures.issued_total), ("failed", figures.failed_total)] {
        let labels = by(result);
        let labels = [(labels[0].0, labels[0].1.as_str()), (labels[1].0, labels[1].1.as_str())];
        encoder.counter("weir_acme_orders_total", help, &labels, count as f64);
    }
    let labels = [("object", object)];
    let help = "Requests to the authority.";
    encoder.counter("weir_acme_requests_total", help, &labels, figures.requests_total as f64);
    let help = "Answers of the authority that a nonce was not good any more; each is asked again.";
    encoder.counter("weir_acme_bad_nonces_total", help, &labels, figures.bad_nonces_total as f64);
    let help =
        "Names that clients asked for and that none was ordered for: perHour or most was reached, or ask said no.";
    encoder.counter("weir_acme_demands_refused_total", help, &labels, figures.demands_refused_total as f64);
    let help = "Names whose last order failed.";
    encoder.gauge("weir_acme_names_failing", help, &labels, figures.failing.len() as f64);
    for (name, failures) in figures.failing.iter().take(SERVICES_SHOWN) {
        let labels = [labels[0], ("name", name.as_str())];
        let help = "Orders of a name that failed in a row.";
        encoder.gauge("weir_acme_failures_in_a_row", help, &labels, f64::from(*failures));
    }
}

/// Services of one registry that have a series of their own.
const SERVICES_SHOWN: usize = 1024;

/// Adds what became of lines of the logs that go into files.
pub fn logs(
    file: Option<&LogThread>,
    access: Option<&Arc<AccessLog>>,
) -> impl Fn(&mut Encoder) + Send + Sync + 'static {
    let counts = file.map(LogThread::counts);
    // The log ends with the workers, whoever still counts.
    let access = access.map(Arc::downgrade);
    move |encoder| {
        let help = "Times the file of a log was moved aside because it had reached --log-max-size.";
        if let Some(access) = access.as_ref().and_then(std::sync::Weak::upgrade) {
            encoder.counter("weir_log_rotations_total", help, &[("log", "access")], access.rotations() as f64);
        }
        let Some(counts) = &counts else { return };
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64;
        encoder.counter("weir_log_rotations_total", help, &[("log", "event")], count(&counts.rotations));
        let help =
            "Lines of the log that were given up, by reason: queue (the disk was too slow), write (it took none).";
        encoder.counter("weir_log_lines_lost_total", help, &[("reason", "queue")], count(&counts.not_queued));
        encoder.counter("weir_log_lines_lost_total", help, &[("reason", "write")], count(&counts.not_written));
    }
}

/// What [`own_certificates`] tells of one door.
fn certificate_end(encoder: &mut Encoder, door: &str, end: SystemTime) {
    let help = "Last moment of the certificate this member shows, in seconds since 1970, by door: admin (--cert-file) or peers \
                (--peer-cert-file, or issued by the cluster); and peer-authority, the authority that the cluster issues with, which another \
                follows before it ends.";
    let seconds = end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    encoder.gauge("weir_control_certificate_expiry_timestamp_seconds", help, &[("door", door)], seconds as f64);
}

/// Adds how the copy of the last good state on disk is.
pub fn kept(state: KeptState) -> impl Fn(&mut Encoder) + Send + Sync {
    move |encoder| {
        let counts = state.counts();
        let help = "Newest version of the configuration that this edge has on its disk for good.";
        encoder.gauge("weir_edge_kept_version", help, &[], counts.version as f64);
        let help = "Writes of the last good state to the disk that failed; they are tried again.";
        encoder.counter("weir_edge_keep_failures_total", help, &[], counts.failures as f64);
        let help = "Times the disk was asked to have the last good state, or a change of it, for good.";
        encoder.counter("weir_edge_keep_syncs_total", help, &[], counts.syncs as f64);
    }
}

/// Adds the buckets of limits whose keys this machine owns.
pub fn shares(shares: Arc<Shares>) -> impl Fn(&mut Encoder) + Send + Sync {
    move |encoder| {
        let (buckets, evicted) = shares.counts();
        let help = "Keys of limits of the cluster whose buckets are on this machine.";
        encoder.gauge("weir_rate_limit_owned_keys", help, &[], buckets as f64);
        let help =
            "Buckets of such keys that were forgotten within a minute of their last use, because there were too many.";
        encoder.counter("weir_rate_limit_owned_keys_evicted_total", help, &[], evicted as f64);
    }
}

/// Adds the prefixes of AccessLists that listeners go by, and the kernel where there is a plane.
pub fn access_lists(traffic: Arc<Traffic>) -> impl Fn(&mut Encoder) + Send + Sync {
    move |encoder| {
        let [denied, allowed] = traffic.access_lists().prefixes;
        let help = "Prefixes of all AccessLists together, by what they say: deny or allow.";
        for (says, count) in [("deny", denied), ("allow", allowed)] {
            encoder.gauge("weir_access_list_prefixes", help, &[("says", says)], count as f64);
        }
    }
}

/// Adds the workers.
pub fn workers(workers: Vec<Worker>, traffic: Arc<Traffic>) -> impl Fn(&mut Encoder) + Send + Sync {
    let before: Mutex<Vec<WorkerStats>> = Mutex::new(vec![WorkerStats::default(); workers.len()]);
    move |encoder| {
        let mut before = before.lock().unwrap_or_else(PoisonError::into_inner);
        let rows: Vec<WorkerRow> = workers
            .iter()
            .zip(before.iter_mut())
            .map(|(worker, before)| {
                let now = worker.stats();
                let (busy, passed) = (now.busy_ns - before.busy_ns, now.age_ns - before.age_ns);
                *before = now;
                WorkerRow {
                    worker: worker.index(),
                    cpu: Some(worker.cpu()),
                    connections: now.connections_open,
                    accepted_total: now.accepted,
                    requests_total: traffic.requests_of(worker.index()),
                    // Scrapes may come so close together that the two clocks tick unevenly.
                    busy_ratio: if passed == 0 { 0.0 } else { (busy as f64 / passed as f64).min(1.0) },
                    more: vec![
                        (
                            "weir_worker_wakeups_total",
                            "Times the worker slept and was woken, by worker.",
                            true,
                            now.wakeups as f64,
                        ),
                        (
                            "weir_worker_pauses_total",
                            "Those of its sleeps in which the worker let events gather, by worker.",
                            true,
                            now.pauses as f64,
                        ),
                        (
                            "weir_worker_turn_seconds_max",
                            "Longest time between two looks at the kernel's events in the last one to two minutes, sleep left \
                             out, by worker: so long a message waited for the worker.",
                            false,
                            now.longest_turn_ns as f64 / 1e9,
                        ),
                        (
                            "weir_worker_cpu_wait_seconds_total",
                            "Time in which the worker had something to do and other threads of the machine had its CPU, by worker.",
                            true,
                            now.waited_ns as f64 / 1e9,
                        ),
                        (
                            "weir_worker_poll_seconds_max",
                            "Longest time one task ran without yielding in the last one to two minutes, by worker.",
                            false,
                            now.longest_poll_ns as f64 / 1e9,
                        ),
                        (
                            "weir_worker_shares_spent_total",
                            "Times a task had more ready input than its share of a turn and went on in the next, by worker.",
                            true,
                            now.shares_spent as f64,
                        ),
                        (
                            "weir_worker_panics_total",
                            "Tasks that ended by a panic, by worker.",
                            true,
                            now.panics as f64,
                        ),
                        (
                            "weir_worker_buffers_in_use",
                            "Receive and send buffers in use, by worker.",
                            false,
                            now.buffers_in_use as f64,
                        ),
                        ("weir_worker_received_bytes_total", "Bytes received, by worker.", true, now.bytes_in as f64),
                        ("weir_worker_sent_bytes_total", "Bytes sent, by worker.", true, now.bytes_out as f64),
                        (
                            "weir_worker_spliced_bytes_total",
                            "Those of the bytes sent that went from one socket to another inside the kernel, by worker.",
                            true,
                            now.bytes_spliced as f64,
                        ),
                        (
                            "weir_worker_pipes_refused_total",
                            "Pipes for that which the kernel refused, by worker; see fs.pipe-user-pages-soft.",
                            true,
                            now.pipes_refused as f64,
                        ),
                        (
                            "weir_worker_datagrams_received_total",
                            "Datagrams received, by worker.",
                            true,
                            now.datagrams_in as f64,
                        ),
                        ("weir_worker_datagrams_sent_total", "Datagrams sent, by worker.", true, now.datagrams_out as f64),
                        (
                            "weir_worker_datagrams_overflowed_total",
                            "Datagrams the kernel dropped because a socket's receive buffer was full, by worker.",
                            true,
                            now.datagrams_overflowed as f64,
                        ),
                        (
                            "weir_worker_datagrams_truncated_total",
                            "Datagrams received that were longer than the worker's buffers, by worker.",
                            true,
                            now.datagrams_truncated as f64,
                        ),
                        (
                            "weir_worker_datagrams_unsent_total",
                            "Datagrams not sent, for want of room or because the kernel refused them, by worker.",
                            true,
                            now.datagrams_unsent as f64,
                        ),
                    ],
                }
            })
            .collect();
        families::workers(encoder, &rows);
    }
}

/// Adds when the certificates that are served end.
pub fn certificates(ends: CertificateEnds) -> impl Fn(&mut Encoder) + Send + Sync {
    move |encoder| {
        // Those that the cluster orders are shown by every server that takes them.
        let ordered = Managed::here().ends().into_iter().map(|(name, end)| (String::new(), name, end));
        for (server, name, end) in ends.rows().into_iter().chain(ordered) {
            let help = "Last moment of a certificate that is served, in seconds since 1970, by server and name in certs; server is empty \
                        for those an AutoCertManager orders.";
            let seconds = end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let labels = [("server", server.as_str()), ("name", name.as_str())];
            encoder.gauge("weir_tls_certificate_expiry_timestamp_seconds", help, &labels, seconds as f64);
        }
    }
}

/// Adds when the certificates end that this member shows on its own doors.
pub fn own_certificates(admin: Option<ServerTls>, peers: Option<PeerTls>) -> impl Fn(&mut Encoder) + Send + Sync {
    move |encoder| {
        let ends =
            [("admin", admin.as_ref().and_then(ServerTls::ends)), ("peers", peers.as_ref().and_then(PeerTls::ends))];
        for (door, end) in ends {
            let Some(end) = end else { continue };
            certificate_end(encoder, door, end);
        }
    }
}

/// Adds handshakes, and what happens to keys after them.
pub fn tls(encoder: &mut Encoder) {
    use base_tls::stats::Count;
    for (count, sum) in base_tls::stats::totals() {
        let handshakes = "weir_tls_handshakes_total";
        let help = "TLS handshakes by side (server: of clients with us; client: of ours with backends) and result.";
        let (name, help, labels) = match count {
            Count::AcceptedFull => (handshakes, help, [("side", "server"), ("result", "full")]),
            Count::AcceptedResumed => (handshakes, help, [("side", "server"), ("result", "resumed")]),
            Count::ConnectedFull => (handshakes, help, [("side", "client"), ("result", "full")]),
            Count::ConnectedResumed => (handshakes, help, [("side", "client"), ("result", "resumed")]),
            Count::EarlySessionsForgotten => {
                let help = "Sessions that could have begun with early data (0-RTT), forgotten because a listener had too many.";
                encoder.counter("weir_early_data_sessions_forgotten_total", help, &[], sum as f64);
                continue;
            }
            other => {
                let name = other.name();
                let labels = match name.strip_prefix("failed_") {
                    Some(reason) => {
                        let help = "TLS handshakes that failed, on either side, by reason.";
                        encoder.counter("weir_tls_handshake_failures_total", help, &[("reason", reason)], sum as f64);
                        continue;
                    }
                    None => [("event", name)],
                };
                let help = "What peers did on established TLS connections beside sending data, by event.";
                encoder.counter("weir_tls_events_total", help, &labels, sum as f64);
                continue;
            }
        };
        encoder.counter(name, help, &labels, sum as f64);
    }
}

/// Records for Kafka, of all filters together.
pub fn kafka(encoder: &mut Encoder) {
    let counts = edge_kafka::counts();
    for (name, help, value) in [
        ("weir_kafka_delivered_total", "Records that brokers have said they have.", counts.delivered),
        (
            "weir_kafka_failed_total",
            "Records that brokers refused, or that could not be handed over while a client waited.",
            counts.failed,
        ),
        (
            "weir_kafka_spooled_total",
            "Records that went to the disk, because no broker could be reached.",
            counts.spooled,
        ),
        ("weir_kafka_replayed_total", "Records that went from the disk to brokers.", counts.replayed),
        ("weir_kafka_refused_total", "Records there was no room for, in memory or on the disk.", counts.refused),
        ("weir_kafka_damaged_total", "Stretches of records on the disk that could not be read.", counts.damaged),
        (
            "weir_kafka_gone_removed_bytes_total",
            "Bytes of records of Kafka filters which are gone that were removed, after a day or because they were too many.",
            counts.gone_removed_bytes,
        ),
    ] {
        encoder.counter(name, help, &[], value as f64);
    }
    let help = "Bytes of records on disk that Kafka filters which are gone had not sent; they wait a day for one of the same name.";
    encoder.gauge("weir_kafka_gone_bytes", help, &[], counts.gone_bytes as f64);
    encoder.gauge("weir_kafka_spool_bytes", "Bytes of records on the disk.", &[], counts.spool_bytes as f64);
}

/// Adds what happens on QUIC's sockets.
pub fn quic(encoder: &mut Encoder) {
    use base_quic::stats::{Count, open, total};
    encoder.gauge(
        "weir_quic_connections",
        "QUIC connections there are, handshakes under way among them.",
        &[],
        open() as f64,
    );
    for (count, name, help) in [
        (Count::Begun, "weir_quic_connections_begun_total", "QUIC connections whose handshake has begun."),
        (
            Count::Established,
            "weir_quic_connections_established_total",
            "QUIC connections whose handshake was completed.",
        ),
        (
            Count::Early,
            "weir_quic_early_data_connections_total",
            "QUIC connections whose clients sent early data (0-RTT) that was taken.",
        ),
        (
            Count::EarlyServed,
            "weir_early_data_requests_total",
            "Requests in early data that were served before the handshake was over, and said so (Early-Data: 1).",
        ),
        (
            Count::EarlyWaited,
            "weir_early_data_waits_total",
            "Requests in early data that waited until the handshake was over, because they are not safe to be sent twice.",
        ),
        (
            Count::Migrated,
            "weir_quic_migrations_total",
            "QUIC connections that went on from another address of their client.",
        ),
        (
            Count::Retries,
            "weir_quic_retries_total",
            "Clients that had to show their address first (Retry), because many handshakes were under way.",
        ),
        (
            Count::Dropped,
            "weir_quic_refused_total",
            "QUIC connections not begun: too many handshakes or connections, or too little memory.",
        ),
        (
            Count::Passed,
            "weir_quic_datagrams_passed_total",
            "Datagrams passed on to the worker whose connection they were for.",
        ),
        (
            Count::PassedLost,
            "weir_quic_datagrams_passed_lost_total",
            "Datagrams for another worker that were dropped, because too many waited there.",
        ),
        (
            Count::Elsewhere,
            "weir_quic_datagrams_elsewhere_total",
            "Datagrams sent on to the machine of the cluster whose connection they were for.",
        ),
        (
            Count::ElsewhereLost,
            "weir_quic_datagrams_elsewhere_lost_total",
            "Datagrams for a connection of another machine that were dropped: too large for a tunnel, the network took none, or more than 50,000 in a second to one machine.",
        ),
        (
            Count::DatagramsIn,
            "weir_quic_datagram_frames_received_total",
            "DATAGRAM frames of QUIC that clients and backends sent, which carry datagrams of HTTP beside their streams (RFC 9297).",
        ),
        (
            Count::DatagramsOut,
            "weir_quic_datagram_frames_sent_total",
            "DATAGRAM frames of QUIC that were sent to clients and backends.",
        ),
    ] {
        encoder.counter(name, help, &[], total(count) as f64);
    }
}

/// Adds the memory ledger.
pub fn memory(telemetry: &Arc<Telemetry>) -> impl Fn(&mut Encoder) + Send + Sync + 'static {
    let shed = telemetry.limits().register("memory");
    move |encoder| {
        let books = memory::snapshot();
        let kinds = |worker: String, of: &dyn Fn(memory::Kind) -> u64| -> Vec<_> {
            memory::Kind::ALL.iter().map(|kind| (worker.clone(), kind.name(), of(*kind))).collect()
        };
        let mut booked: Vec<_> = books.workers.iter().flat_map(|w| kinds(w.worker.to_string(), &|k| w.of(k))).collect();
        booked.extend(kinds("elsewhere".to_owned(), &|k| books.elsewhere[k as usize]));
        families::memory(
            encoder,
            &MemoryRows {
                booked,
                ceiling: books.ceiling,
                peak: books.peak,
                reserve: books.reserve,
                shed_total: shed.total(),
                over_total: books.over_total,
            },
        );
    }
}

/// With one row for each virtual IP and machine: a backend that has another address has another number, and the name it had.
fn added(rows: impl Iterator<Item = SteeredCounters>) -> Vec<SteeredCounters> {
    let mut sums: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
    for SteeredCounters { vip, machine, packets, bytes } in rows {
        let sum = sums.entry((vip, machine)).or_default();
        *sum = (sum.0 + packets, sum.1 + bytes);
    }
    let row = |((vip, machine), (packets, bytes))| SteeredCounters { vip, machine, packets, bytes };
    sums.into_iter().map(row).collect()
}

/// Adds what the kernel's programs counted. The plane is only borrowed: its owner takes it down at the end with `--detach`.
pub fn kernel(plane: &SharedKernel) -> impl Fn(&mut Encoder) + Send + Sync + 'static {
    let plane = Arc::downgrade(plane);
    move |encoder| {
        let Some(plane) = plane.upgrade() else { return };
        let plane = plane.lock().unwrap_or_else(PoisonError::into_inner);
        let counters = plane.kernel.counters();
        let vip = |index: u16| match index {
            0 => String::new(),
            index => plane.vips.get(&index).cloned().unwrap_or_else(|| format!("#{index}")),
        };
        let fates: Vec<XdpCounters> = counters
            .reasons
            .iter()
            .map(|c| XdpCounters {
                vip: vip(c.vip),
                verdict: c.verdict().to_owned(),
                reason: c.reason.name().to_owned(),
                packets: c.packets,
                bytes: c.bytes,
            })
            .collect();
        let steered = counters.steered.iter().map(|c| SteeredCounters {
            vip: vip(c.vip),
            machine: plane.machines.get(&c.machine).cloned().unwrap_or_else(|| format!("#{}", c.machine)),
            packets: c.packets,
            bytes: c.bytes,
        });
        families::xdp(encoder, &fates, &added(steered));
        let help = "Backends of virtual IPs by whether they answer this machine's checks (1) or not (0).";
        for row in &plane.backends {
            let labels = [("vip", row.vip.as_str()), ("backend", row.backend.as_str())];
            encoder.gauge("weir_backend_up", help, &labels, f64::from(u8::from(row.well)));
        }
        let help = "Interfaces that the kernel's programs are attached to: in the driver, or behind it (generic), which costs more.";
        for attachment in plane.kernel.attachments() {
            let mode = if attachment.generic { "generic" } else { "driver" };
            encoder.gauge("weir_xdp_attached", help, &[("interface", &attachment.interface), ("mode", mode)], 1.0);
        }
        let help = "Frames that the kernel's programs sent and that the driver of the interface lost, as it counts them since the interface \
                    was made; drivers that do not count them are left out.";
        for (interface, lost) in plane.kernel.frames_lost() {
            encoder.counter("weir_xdp_frames_lost_total", help, &[("interface", &interface)], lost as f64);
        }
        let help = "Virtual IPs by whether packets are steered as their documents say (installed) or not (left_out; the status of the object says why).";
        for (state, count) in [("installed", plane.installed), ("left_out", plane.left_out)] {
            encoder.gauge("weir_steering_virtual_ips", help, &[("state", state)], count as f64);
        }
        let help = "Changes of steering that failed as a whole; steering stayed as it was.";
        encoder.counter("weir_steering_failures_total", help, &[], plane.failed_total as f64);
        let help = "Fragments that came before the first of their datagram: those that followed it when it was there (followed), waited \
                    for it in vain (given_up) or found no room to wait in (refused).";
        let edge_kernel::EarlyFragments { followed, given_up, refused } = plane.kernel.early_fragments();
        for (outcome, count) in [("followed", followed), ("given_up", given_up), ("refused", refused)] {
            encoder.counter("weir_early_fragments_total", help, &[("outcome", outcome)], count as f64);
        }
        let edge_kernel::FlowCounts { present, remembered, refused, forgotten } = plane.kernel.flow_counts();
        let help = "Connections whose backend is remembered, because another takes the new ones of their slot.";
        encoder.gauge("weir_backend_flows", help, &[], present as f64);
        let help = "Connections to backends in slots that have changed hands: those that were remembered with their backend, began too \
                    fast for it and went to the backend before (refused), or were driven out by others (forgotten) and are cut.";
        for (outcome, count) in [("remembered", remembered), ("refused", refused), ("forgotten", forgotten)] {
            encoder.counter("weir_backend_flows_total", help, &[("outcome", outcome)], count as f64);
        }
        let edge_kernel::LongPackets { sent, refused, failed } = plane.kernel.long_packets();
        let help = "Packets too long for one tunnel to their backend: sent in several, not sent because they came too fast (refused), \
                    or not taken by the kernel (failed).";
        for (outcome, count) in [("sent", sent), ("refused", refused), ("failed", failed)] {
            encoder.counter("weir_backend_long_packets_total", help, &[("outcome", outcome)], count as f64);
        }
        let counts = plane.kernel.capture_counts();
        encoder.gauge("weir_captures", "Captures of packets that are open.", &[], counts.open as f64);
        encoder.counter("weir_capture_packets_total", "Packets that captures have shown.", &[], counts.shown as f64);
        let help = "Packets that captures have not shown, by reason: rate (they came faster than was asked for), room (whoever reads is too \
                    slow).";
        for (reason, count) in [("rate", counts.too_fast), ("room", counts.no_room)] {
            encoder.counter("weir_capture_missed_total", help, &[("reason", reason)], count as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_with_two_numbers_has_one_row() {
        let row = |vip: &str, machine: &str, packets| SteeredCounters {
            vip: vip.to_owned(),
            machine: machine.to_owned(),
            packets,
            bytes: 10 * packets,
        };
        let rows = [row("shop", "web-1", 3), row("mail", "web-1", 1), row("shop", "web-2", 2), row("shop", "web-1", 4)];
        assert_eq!(
            added(rows.into_iter()),
            [row("mail", "web-1", 1), row("shop", "web-1", 7), row("shop", "web-2", 2)]
        );
    }
}

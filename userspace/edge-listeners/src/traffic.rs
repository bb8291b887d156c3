//! Which servers and pipelines there are, by name, and how a change of one reaches the requests.

use crate::http_server::HttpServer;
use arc_swap::ArcSwapOption;
use base_model::{HttpServerSpec, PipelineSpec, Problem};
use base_runtime::Worker;
use base_telemetry::Telemetry;
use base_telemetry::access_log::AccessLog;
use base_telemetry::server::ServerStats;
use edge_pipeline::Pipeline;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// The place of a pipeline: routes hold it whether the pipeline exists or not.
pub struct PipelineSlot {
    name: Arc<str>,
    current: ArcSwapOption<Pipeline>,
}

impl std::fmt::Debug for PipelineSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PipelineSlot({})", self.name)
    }
}

impl PipelineSlot {
    /// A place without a pipeline yet.
    pub fn empty(name: &str) -> Arc<PipelineSlot> {
        Arc::new(PipelineSlot { name: name.into(), current: ArcSwapOption::empty() })
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The generation in force; a request keeps the one it began with.
    pub fn current(&self) -> Option<Arc<Pipeline>> {
        self.current.load_full()
    }
}

/// What all servers of the process share.
pub struct Shared {
    workers: Vec<Worker>,
    machine: Arc<str>,
    slots: Mutex<BTreeMap<String, Arc<PipelineSlot>>>,
    telemetry: Arc<Telemetry>,
    access_log: Option<Arc<AccessLog>>,
}

impl Shared {
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    pub fn machine(&self) -> &str {
        &self.machine
    }

    pub fn access_log(&self) -> Option<&Arc<AccessLog>> {
        self.access_log.as_ref()
    }

    /// Counts a bound that was reached on this worker.
    pub fn limit(&self, name: &'static str) {
        self.telemetry.limits().register(name).hit(base_runtime::worker_index());
    }

    /// The place of the pipeline called `name`, made when nobody asked before.
    pub fn slot(&self, name: &str) -> Arc<PipelineSlot> {
        lock(&self.slots).entry(name.to_owned()).or_insert_with(|| PipelineSlot::empty(name)).clone()
    }

    /// The figures of a server; a server that comes back under its name goes on counting.
    pub fn server_stats(&self, name: &str) -> Arc<ServerStats> {
        self.telemetry.server(name)
    }
}

/// See the module doc. Called from a control thread, never from a worker.
pub struct Traffic {
    shared: Arc<Shared>,
    servers: Mutex<BTreeMap<String, Arc<HttpServer>>>,
}

impl Traffic {
    /// `machine` is this member's name; without `access_log` no lines are written and filters are not timed.
    pub fn new(
        workers: Vec<Worker>,
        machine: &str,
        telemetry: Arc<Telemetry>,
        access_log: Option<Arc<AccessLog>>,
    ) -> Traffic {
        let shared = Shared {
            workers,
            machine: machine.into(),
            slots: Mutex::default(),
            telemetry,
            access_log,
        };
        Traffic { shared: Arc::new(shared), servers: Mutex::default() }
    }

    /// Builds the pipeline and puts it in its place. What was there stays when building fails.
    pub fn apply_pipeline(&self, name: &str, spec: &PipelineSpec) -> Result<(), Vec<Problem>> {
        let slot = self.shared.slot(name);
        let previous = slot.current();
        let built = Pipeline::build(name, spec, &edge_filters::kind, previous.as_deref(), &self.shared.telemetry)?;
        slot.current.store(Some(Arc::new(built)));
        Ok(())
    }

    /// Routes to it answer 503 from now on; requests inside finish.
    pub fn remove_pipeline(&self, name: &str) {
        let mut slots = lock(&self.shared.slots);
        if let Some(slot) = slots.get(name) {
            slot.current.store(None);
            // Nobody but this table knows it: no route leads there.
            if Arc::strong_count(slot) == 1 {
                slots.remove(name);
            }
        }
    }

    /// Starts the server, or changes it.
    pub fn apply_server(&self, name: &str, spec: &HttpServerSpec) -> Result<(), String> {
        let existing = lock(&self.servers).get(name).cloned();
        match existing {
            Some(server) => server.update(spec),
            None => {
                let server = HttpServer::start(name, spec, self.shared.clone())?;
                lock(&self.servers).insert(name.to_owned(), server);
                Ok(())
            }
        }
    }

    pub fn remove_server(&self, name: &str) {
        let removed = lock(&self.servers).remove(name);
        if let Some(server) = removed {
            server.stop();
            self.shared.telemetry.remove_server(name);
        }
    }

    /// Tries again to listen where a port was in use.
    pub fn retry(&self) {
        for (_, server) in self.servers() {
            server.retry();
        }
    }

    /// Stops all servers: requests under way end, no new ones are taken.
    pub fn stop(&self) {
        for (_, server) in self.servers() {
            server.stop();
        }
    }

    /// Connections still open.
    pub fn connections(&self) -> usize {
        self.servers().iter().map(|(_, s)| s.connections()).sum()
    }

    pub fn servers(&self) -> Vec<(String, Arc<HttpServer>)> {
        lock(&self.servers).iter().map(|(n, s)| (n.clone(), s.clone())).collect()
    }

    /// Status of every object of this member, by name.
    pub fn status(&self) -> BTreeMap<String, Value> {
        let mut status: BTreeMap<String, Value> =
            self.servers().into_iter().map(|(name, server)| (name, server.status())).collect();
        let slots: Vec<Arc<PipelineSlot>> = lock(&self.shared.slots).values().cloned().collect();
        for slot in slots {
            if let Some(pipeline) = slot.current() {
                status.insert(slot.name().to_string(), pipeline.status());
            }
        }
        status
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

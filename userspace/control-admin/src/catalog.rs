use std::any::Any;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use control_api::{Document, Objects};
use serde_json::Value;
use tokio::sync::{broadcast, mpsc};

/// What is known of documents: kinds, checks, texts. Implemented where base-model and the filters' catalog meet.
pub trait Catalog: Send + Sync + 'static {
    /// Every kind a document may name, in the order they are listed.
    fn kinds(&self) -> Vec<KindInfo>;

    /// Checks documents of one request as they will stand beside each other and beside what is `stored`, which may hold older
    /// versions of them. One result for each document, in their order; a result is the checked document or all its problems.
    /// Takes as long as the documents are large: call it where nothing else waits.
    fn check(&self, documents: &[Value], stored: &Objects) -> Vec<Result<Checked, Vec<String>>>;

    /// The document as people may see it: without its secrets.
    fn shown(&self, document: &Value) -> Value;

    /// Puts the secrets of `stored` into a document that was shown without them. What cannot be filled in is told.
    fn restore_secrets(&self, document: &mut Value, stored: Option<&Value>) -> Vec<String>;

    /// A document of the kind with its defaults, for people to fill in.
    fn skeleton(&self, kind: &str) -> Option<String>;

    /// What `KIND[.field]` means, or what would be accepted instead.
    fn explain(&self, query: &str) -> Result<String, String>;

    fn filter_kinds(&self) -> Vec<String>;

    fn filter_description(&self, kind: &str) -> Option<String>;

    fn filter_schema(&self, kind: &str) -> Option<Value>;

    fn filter_results(&self, kind: &str) -> Option<Vec<String>>;
}

/// What a check found good.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// As it is to be stored: translated from older versions, names in their canonical case.
    pub document: Value,
    /// Documents that exist because of this one (`backendPool` pipelines); labels are filled in by the state.
    pub generated: Vec<Value>,
    /// Unknown keys, references to what is not there yet.
    pub warnings: Vec<String>,
}

/// Which requests are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requests {
    /// Those with this id.
    Of(String),
    /// The latest of a sort, or of all where it is empty.
    Latest { sort: String, most: usize },
}

/// Requests as they end, or packets as they are decided about.
pub struct Tap {
    pub requests: mpsc::Receiver<Value>,
    /// How many passed the filter so far and were not handed on.
    pub missed: Box<dyn Fn() -> u64 + Send + Sync>,
    /// It is open for as long as this is there.
    pub hold: Box<dyn Any + Send + Sync>,
}

/// Why a machine shows nothing of what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unshown {
    /// The question is wrong, whoever is asked.
    Question(String),
    /// There is none of it here, as this machine is set up.
    Nothing(String),
    /// It cannot be shown here now; another machine may show its own.
    Trouble(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindInfo {
    pub kind: String,
    pub category: Category,
    pub aliases: Vec<String>,
    /// At most one object of it may exist.
    pub singleton: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    /// One per process, created by itself; never stored.
    System,
    Business,
    TrafficGate,
    Pipeline,
    Kernel,
}

/// What an edge serves.
#[derive(Debug, Clone, Default)]
pub struct LastGood {
    pub cluster_id: String,
    pub version: u64,
    pub objects: Vec<Document>,
    /// Why it serves this and not what the cluster offers, if so.
    pub withheld: Option<String>,
}

/// What only this machine knows.
pub trait Local: Send + Sync + 'static {
    /// Why this machine does not serve yet; answered as 503 on `/healthz`.
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    /// What is not well although this machine serves; goes with the answer of `/healthz` as `Warning` headers.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }

    /// Nobody leads, as far as this machine knows, and has not for so long that it is a fault: no change is taken here. Goes with the
    /// answer of `/healthz` as [`LEADERLESS_HEADER`](control_api::LEADERLESS_HEADER).
    fn leaderless(&self) -> bool {
        false
    }

    /// Program and version, for people.
    fn about(&self) -> String;

    /// Status by object name, of one object or of all.
    fn object_status(&self, name: Option<&str>) -> BTreeMap<String, Value>;

    /// What this machine's edge serves, and keeps on disk.
    fn last_good(&self) -> Option<LastGood> {
        None
    }

    /// Prometheus text.
    fn metrics(&self) -> String;

    /// The figures that people watch: by family, labels and value of each series.
    fn figures(&self) -> Value {
        Value::Object(serde_json::Map::new())
    }

    /// What this machine remembers of requests: those of an id, oldest first; or the latest of a sort or of all, latest first. An error
    /// tells what the question should have been.
    fn requests(&self, which: &Requests) -> Result<Vec<Value>, String> {
        let _ = which;
        Ok(Vec::new())
    }

    /// What becomes at this machine of a packet of this flow: `tcp ADDRESS:PORT > ADDRESS:PORT`. An error tells why that cannot be told.
    fn trace(&self, flow: &str) -> Result<Value, String> {
        let _ = flow;
        Err("this machine has no edge half, and so no kernel plane".to_owned())
    }

    /// The sources that this machine takes nothing from for a while.
    fn bans(&self) -> Value {
        serde_json::json!({"enforcedBy": "", "bans": []})
    }

    /// Lets the source of this address in again, and says which that is; `None` when it is not banned.
    fn lift_ban(&self, address: IpAddr) -> Option<String> {
        let _ = address;
        None
    }

    /// Requests as they end, from now on, that pass a filter: keys and values as `GET /tap` takes them.
    fn tap(&self, filter: &[(String, String)]) -> Result<Tap, Unshown> {
        let _ = filter;
        Err(Unshown::Nothing("this machine has no edge half, and so no requests".to_owned()))
    }

    /// Packets that the kernel's programs decide about from now on and that pass a filter: keys and values as `GET /capture` takes them.
    /// Called where it may wait.
    fn capture(&self, filter: &[(String, String)]) -> Result<Tap, Unshown> {
        let _ = filter;
        Err(Unshown::Nothing("this machine has no edge half, and so no kernel plane".to_owned()))
    }

    /// A request was refused because as many documents as may be are being checked: counted.
    fn check_refused(&self) {}

    /// Somebody wanted to be told of changes, and as many as may be are told already: counted.
    fn watch_refused(&self) {}

    /// A line of the audit log.
    fn audit(&self, line: &Value) {
        tracing::info!(target: "audit", "{line}");
    }

    /// The last lines of the log, oldest first.
    fn logs(&self, tail: usize) -> Vec<Arc<str>>;

    /// Lines from now on.
    fn follow_logs(&self) -> Option<broadcast::Receiver<Arc<str>>>;

    fn log_level(&self) -> String;

    fn set_log_level(&self, level: &str) -> Result<(), String>;
}

impl Category {
    /// As Easegress's API spells it.
    pub fn name(self) -> &'static str {
        match self {
            Category::System => "SystemController",
            Category::Business => "BusinessController",
            Category::TrafficGate => "TrafficGate",
            Category::Pipeline => "Pipeline",
            Category::Kernel => "Kernel",
        }
    }
}

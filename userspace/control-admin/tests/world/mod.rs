//! One member on loopback with an admin API and a small catalog. Shared with the tests of `weirctl`.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base_model::FilterKinds;
use control_admin::{Admin, Door, Local, LogRing, ModelCatalog, Switch};
use control_api::client::Client;
use control_raft::{Config, Control};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::broadcast;

#[path = "../../../control-raft/tests/support/authority.rs"]
mod authority;

#[allow(unused_imports, reason = "each test file uses its part")]
pub use authority::Authority;

pub struct World {
    pub address: SocketAddr,
    pub control: Control,
    pub scheme: &'static str,
    pub admin: Admin,
    pub switch: Switch,
    runtime: Runtime,
    client: Client,
    _directory: TempDir,
}

pub struct Answer {
    pub status: u16,
    pub version: u64,
    pub etag: Option<String>,
    pub warnings: Vec<String>,
    pub text: String,
}

pub const YAML: &str = "application/yaml";

impl World {
    pub fn start() -> World {
        World::behind(Door::default(), Client::default())
    }

    /// With an admin API that not everybody gets into; `client` does.
    pub fn behind(door: Door, client: Client) -> World {
        let scheme = if door.tls.is_some() { "https" } else { "http" };
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (control, admin, switch) = runtime.block_on(async {
            let local: Arc<dyn Local> = Arc::new(Machine::default());
            let mut config = Config::single("n1", directory.path());
            config.listeners = vec![TcpListener::bind("127.0.0.1:0").unwrap()];
            config.peer_routes = control_admin::peer_routes(local.clone());
            config.member.started_at = "2026-04-01T12:00:00Z".into();
            config.member.api_addr = "localhost:2381".into();
            let control = Control::start(config).await.unwrap();
            // What the cluster writes down of itself is versions as well: the member comes last.
            while control.state().view.members.is_empty() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            let catalog = Arc::new(ModelCatalog::new(Box::new(Filters), Vec::new(), BTreeMap::new()));
            let switch = Switch::new(control_admin::router(control.clone(), catalog, local));
            let listeners = control_admin::bind("127.0.0.1:0").unwrap();
            let admin = Admin::serve(listeners, switch.router(), door).unwrap();
            (control, admin, switch)
        });
        let address = admin.addresses()[0];
        World { address, control, scheme, runtime, client, admin, switch, _directory: directory }
    }

    /// A member that follows, without an admin API of its own.
    pub fn secondary(&self, name: &str) -> Control {
        let local: Arc<dyn Local> = Arc::new(Machine::default());
        let mut config = Config::single(name, self._directory.path().join(name));
        config.role = control_api::MemberRole::Secondary;
        config.listeners = vec![TcpListener::bind("127.0.0.1:0").unwrap()];
        config.primary_peer_urls = vec![self.control.peer_url().to_owned()];
        config.peer_routes = control_admin::peer_routes(local);
        self.runtime.block_on(Control::start(config)).unwrap()
    }

    pub fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Answer {
        self.raw(method, &format!("/apis/v2{path}"), headers, body)
    }

    pub fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Answer {
        let url = format!("{}://{}{path}", self.scheme, self.address);
        let call = self.client.call(method.parse().unwrap(), &url, headers, body.into(), Duration::from_secs(60));
        let answer = self.runtime.block_on(call).unwrap();
        let header = |name: &str| answer.headers.get(name).and_then(|v| v.to_str().ok());
        Answer {
            status: answer.status.as_u16(),
            version: header("x-config-version").expect("every answer carries the version").parse().unwrap(),
            etag: header("etag").map(str::to_owned),
            warnings: answer
                .headers
                .get_all("warning")
                .iter()
                .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
                .collect(),
            text: String::from_utf8_lossy(&answer.body).into_owned(),
        }
    }

    pub fn wait<T>(&self, task: impl Future<Output = T>) -> T {
        self.runtime.block_on(task)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[], "")
    }

    pub fn json(&self, method: &str, path: &str, body: Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.call(method, path, &[("content-type", "application/json")], body)
    }

    pub fn eventually(&self, path: &str, check: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let value = self.get(path).json();
            if check(&value) {
                return value;
            }
            assert!(Instant::now() < deadline, "{path} stays {value}");
            std::thread::sleep(Duration::from_millis(30));
        }
    }
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {:?}", self.text))
    }
}

struct Filters;

impl FilterKinds for Filters {
    fn results(&self, kind: &str) -> Option<Vec<&'static str>> {
        match kind {
            "Mock" => Some(vec!["mocked"]),
            "Proxy" => Some(vec!["internalError", "clientError", "serverError", "failureCode"]),
            _ => None,
        }
    }

    fn kinds(&self) -> Vec<&'static str> {
        vec!["Mock", "Proxy"]
    }
}

struct Machine {
    ring: LogRing,
    level: Mutex<String>,
}

impl Default for Machine {
    fn default() -> Self {
        let ring = LogRing::new(100);
        for n in 1..=3 {
            ring.push(&format!("line {n}\n"));
        }
        Machine { ring, level: Mutex::new("info".into()) }
    }
}

impl Local for Machine {
    fn about(&self) -> String {
        "Weir 0.1.0\n".into()
    }

    fn object_status(&self, name: Option<&str>) -> BTreeMap<String, Value> {
        let name = name.unwrap_or("a");
        BTreeMap::from([(name.to_owned(), json!({"health": "good"}))])
    }

    fn metrics(&self) -> String {
        "# HELP weir_build_info x\n# TYPE weir_build_info gauge\nweir_build_info 1\n".into()
    }

    fn logs(&self, tail: usize) -> Vec<Arc<str>> {
        self.ring.tail(tail)
    }

    fn follow_logs(&self) -> Option<broadcast::Receiver<Arc<str>>> {
        Some(self.ring.follow())
    }

    fn log_level(&self) -> String {
        self.level.lock().unwrap().clone()
    }

    fn set_log_level(&self, level: &str) -> Result<(), String> {
        if !["debug", "info"].contains(&level) {
            return Err(format!("level {level:?}: debug or info"));
        }
        *self.level.lock().unwrap() = level.into();
        Ok(())
    }
}

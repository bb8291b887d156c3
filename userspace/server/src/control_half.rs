//! The control half: started, watched, and started again when it failed and what stopped it may have passed.

use crate::certificates;
use crate::health::Health;
use crate::limits::{self, Shares};
use crate::local::Local;
use crate::options::Options;
use crate::wasm_data;
use control_admin::{Catalog, Switch};
use control_api::{Member, MemberRole};
use control_controllers::Keys;
use control_raft::{AskEdge, Conceal, Config, Control, Follower, StartError, StartErrorKind, StateFlag};
use serde_json::Value;
use std::net::IpAddr;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// Pauses between two starts: the first, twice as long each time, and the longest.
const AGAIN_FIRST: Duration = Duration::from_millis(250);
const AGAIN: Duration = Duration::from_secs(3);

/// After running for so long the next failure is a new one.
const STEADY: Duration = Duration::from_secs(30);

/// What a control half is started with, each time anew.
pub struct ControlHalf {
    pub options: Arc<Options>,
    pub local: Arc<Local>,
    pub catalog: Arc<dyn Catalog>,
    /// The admin API, with a control half and without.
    pub switch: Switch,
    /// Tells the edge's agent whom to follow; absent without an edge half.
    pub follow: Option<mpsc::Sender<Follower>>,
    /// Where other machines send this one packets.
    pub addresses: Vec<IpAddr>,
    /// The limits that hold in the whole cluster, and the threads their messages are answered on.
    pub shares: Arc<Shares>,
    pub beside: Handle,
    /// The runtime that controllers run on: none of them delays Raft.
    pub controllers: Handle,
    /// What is secret in the cluster's state is sealed with these.
    pub keys: Arc<Keys>,
}

/// What controllers make is checked as what people write is.
struct Taken(Arc<dyn Catalog>);

impl control_controllers::Checks for Taken {
    fn check(&self, document: &Value) -> Result<(), String> {
        let checked = self.0.check(std::slice::from_ref(document), &control_api::Objects::new());
        checked.into_iter().find_map(Result::err).map_or(Ok(()), |problems| Err(problems.join("; ")))
    }
}

/// Ends what runs on the other runtime when it is dropped.
struct Ended(AbortHandle);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl ControlHalf {
    /// One attempt. `Err` says why not; it is in the machine's health as well.
    pub async fn start(&self) -> Result<(), StartError> {
        let control = match Control::start(self.config()).await {
            Ok(control) => control,
            Err(error) => {
                if self.health().control_did_not_start(&error.message) {
                    tracing::error!("{error}");
                }
                return Err(error);
            }
        };
        if let Some(follow) = &self.follow {
            let _ = follow.send(control.follow(None));
            tokio::spawn(wasm_data::follow(control.clone(), control.follow(None)));
        }
        let router = control_admin::router(control.clone(), self.catalog.clone(), self.local.clone());
        self.health().control_is_up(control);
        self.switch.lead_to(router);
        Ok(())
    }

    /// Sees to it that there is one, for as long as the process runs.
    pub async fn keep(self: Arc<Self>) {
        let mut again = AGAIN_FIRST;
        loop {
            if let Some(control) = self.health().control_started() {
                let up = Instant::now();
                self.watch(&control).await;
                if up.elapsed() > STEADY {
                    again = AGAIN_FIRST;
                }
            }
            tokio::time::sleep(again).await;
            again = (again * 2).min(AGAIN);
            if self.start().await.is_ok() {
                tracing::info!("the control half is up again");
            }
        }
    }

    /// Returns when it has failed and everything it held is free again.
    async fn watch(&self, control: &Control) {
        let checks = Arc::new(Taken(self.catalog.clone()));
        let host = control_controllers::run(control.clone(), self.local.board.clone(), checks, self.keys.clone());
        let host = Ended(self.controllers.spawn(host).abort_handle());
        let keys = control_controllers::keys::follow(control.clone(), self.keys.clone());
        let keys = Ended(self.controllers.spawn(keys).abort_handle());
        let wanted = certificates::carry(control.clone(), self.local.board.clone());
        let wanted = Ended(self.controllers.spawn(wanted).abort_handle());
        let reason = control.failed().await;
        drop((host, keys, wanted));
        self.local.board.clear();
        self.health().control_failed(&reason);
        self.switch.lead_to(control_admin::router_alone(self.local.clone()));
        tracing::error!(
            reason,
            "the control half has failed and starts again; traffic is served as it was last configured"
        );
        control.abandon().await;
    }

    fn health(&self) -> &Health {
        &self.local.health
    }

    fn config(&self) -> Config {
        let options = &self.options;
        let mut member = Member {
            edge: options.edge,
            api_addr: options.api_addr.clone(),
            labels: options.labels.clone(),
            version: crate::version().to_owned(),
            steers: self.health().steers(),
            started_at: control_api::time::rfc3339(std::time::SystemTime::now()),
            ..Member::default()
        };
        for address in &self.addresses {
            match address {
                IpAddr::V4(v4) => member.addresses.v4 = Some(*v4),
                IpAddr::V6(v6) => member.addresses.v6 = Some(*v6),
            }
        }
        Config {
            name: options.name.clone(),
            cluster_name: options.cluster_name.clone(),
            role: if options.secondary { MemberRole::Secondary } else { MemberRole::Primary },
            listen_peer_urls: options.listen_peer_urls.clone(),
            listeners: Vec::new(),
            advertise_peer_url: options.advertise_peer_url.clone(),
            initial_cluster: options.initial_cluster.clone(),
            primary_peer_urls: options.primary_peer_urls.clone(),
            state_flag: if options.join { StateFlag::Existing } else { StateFlag::New },
            data_dir: options.data_dir.clone(),
            request_timeout: options.cluster_request_timeout,
            member,
            peer_routes: control_admin::peer_routes(self.local.clone())
                .merge(limits::peer_routes(self.shares.clone(), self.beside.clone()))
                .merge(certificates::peer_routes(self.keys.clone(), self.local.board.clone())),
            tls: options.peer_tls.clone(),
            secret: options.cluster_secret.clone(),
            insecure_peers: options.insecure_peers,
            conceal: Some(self.concealed()),
            level: options.feature_level,
            edge_report: Some(self.edge_report()),
            issued: options.issued.clone(),
            peer_connections_max: control_raft::PEER_CONNECTIONS_MAX,
        }
    }

    /// What the edge serves, and what of it is not as it should be.
    fn edge_report(&self) -> AskEdge {
        let local = self.local.clone();
        Arc::new(move || local.edge_report())
    }

    /// Objects without their secrets, as the admin API shows them.
    fn concealed(&self) -> Conceal {
        let catalog = self.catalog.clone();
        Arc::new(move |document| catalog.shown(document))
    }
}

/// The exit code of a process that ends because of this; `None` where it may wait until the cause is gone.
pub fn fatal(error: &StartError, serves: bool) -> Option<u8> {
    match error.kind {
        StartErrorKind::Config => Some(crate::WRONG),
        _ if serves => None,
        StartErrorKind::Identity => Some(crate::WRONG),
        _ => Some(1),
    }
}

//! How the two halves of this machine are: for `healthz`, which balancers ask before they send traffic, and for the metrics.

use control_raft::Control;
use edge_agent::Desired;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// An agent that has not come round for so long hangs. The largest configurations take seconds.
const STUCK: Duration = Duration::from_secs(60);

/// A control half that has heard of nobody who decides for so long says so. Elections and restarts take a second or two.
const UNHEARD: Duration = Duration::from_secs(10);

/// Written by the halves, read by whoever asks.
pub struct Health {
    draining: AtomicBool,
    steers: AtomicBool,
    agent: Option<Mutex<AgentState>>,
    control: Mutex<ControlState>,
    /// What the edge serves.
    served: Mutex<Desired>,
    agent_restarts: AtomicU64,
    control_restarts: AtomicU64,
    control_start_failures: AtomicU64,
}

struct AgentState {
    /// It has applied something: before that there is nothing to serve.
    applied: bool,
    /// Why it stopped, until it works again.
    failure: Option<String>,
    /// When it came round last.
    turned: Instant,
    /// Why it stays with what it has instead of taking what the cluster offers.
    withheld: Option<String>,
}

enum ControlState {
    Starting,
    Up(Control),
    Down(String),
}

/// Numbers for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HealthCounts {
    pub control_up: bool,
    pub control_restarts: u64,
    pub control_start_failures: u64,
    /// Absent in a process without an edge half.
    pub agent_restarts: Option<u64>,
    /// The edge stays with what it has instead of taking what the cluster offers.
    pub withholds: bool,
}

impl Health {
    pub fn new(edge: bool) -> Health {
        let agent = AgentState { applied: false, failure: None, turned: Instant::now(), withheld: None };
        Health {
            draining: AtomicBool::new(false),
            steers: AtomicBool::new(false),
            agent: edge.then(|| Mutex::new(agent)),
            control: Mutex::new(ControlState::Starting),
            served: Mutex::default(),
            agent_restarts: AtomicU64::new(0),
            control_restarts: AtomicU64::new(0),
            control_start_failures: AtomicU64::new(0),
        }
    }

    /// Why nothing should be sent here, if so.
    pub fn ready(&self) -> Result<(), String> {
        if self.draining.load(Ordering::Acquire) {
            return Err("this machine drains and ends; send new requests to another".into());
        }
        if let Some(agent) = &self.agent {
            let agent = lock(agent);
            if let Some(failure) = &agent.failure {
                return Err(format!(
                    "the agent of this edge has failed and tries again; what it served before is served on: {failure}"
                ));
            }
            if agent.turned.elapsed() > STUCK {
                let seconds = agent.turned.elapsed().as_secs();
                return Err(format!(
                    "the agent of this edge has not come round for {seconds} seconds: changes do not reach traffic; restart weir"
                ));
            }
            if !agent.applied {
                return Err("the configuration has not been applied yet; ask again in a moment".into());
            }
        }
        match &*lock(&self.control) {
            ControlState::Starting => Err("the control half is starting; ask again in a moment".into()),
            ControlState::Down(reason) => Err(down(reason)),
            ControlState::Up(control) => match control.failure() {
                Some(reason) => Err(down(&reason)),
                None => control.trouble().map_or(Ok(()), Err),
            },
        }
    }

    /// The control half, while it works.
    pub fn control(&self) -> Option<Control> {
        match &*lock(&self.control) {
            ControlState::Up(control) if control.failure().is_none() => Some(control.clone()),
            _ => None,
        }
    }

    /// The control half that was started last, whether it works or has failed since.
    pub fn control_started(&self) -> Option<Control> {
        match &*lock(&self.control) {
            ControlState::Up(control) => Some(control.clone()),
            _ => None,
        }
    }

    pub fn control_is_up(&self, control: Control) {
        *lock(&self.control) = ControlState::Up(control);
    }

    /// It was stopped, and another process has its place for now.
    pub fn control_rests(&self) {
        *lock(&self.control) = ControlState::Starting;
    }

    /// It ran and can no longer.
    pub fn control_failed(&self, reason: &str) {
        self.control_restarts.fetch_add(1, Ordering::Relaxed);
        *lock(&self.control) = ControlState::Down(reason.to_owned());
    }

    /// It did not start. Says whether that is news.
    pub fn control_did_not_start(&self, reason: &str) -> bool {
        self.control_start_failures.fetch_add(1, Ordering::Relaxed);
        let mut control = lock(&self.control);
        let news = !matches!(&*control, ControlState::Down(known) if known == reason);
        *control = ControlState::Down(reason.to_owned());
        news
    }

    /// The agent serves this.
    pub fn agent_applied(&self, served: &Desired) {
        *lock(&self.served) = served.clone();
        if let Some(agent) = &self.agent {
            lock(agent).applied = true;
        }
    }

    /// The agent does not take what the cluster offers, or (`None`) takes it.
    pub fn agent_withholds(&self, reason: Option<String>) {
        let Some(agent) = &self.agent else { return };
        let mut agent = lock(agent);
        match &reason {
            Some(reason) if agent.withheld.is_none() => tracing::error!("{reason}"),
            Some(_) => {}
            None if agent.withheld.is_some() => tracing::info!("the cluster's configuration is served again"),
            None => {}
        }
        agent.withheld = reason;
    }

    /// What the edge serves, once it serves anything, and why it does not take what the cluster offers, if so.
    pub fn served(&self) -> Option<(Desired, Option<String>)> {
        let agent = lock(self.agent.as_ref()?);
        agent.applied.then(|| (lock(&self.served).clone(), agent.withheld.clone()))
    }

    /// The version that the edge serves, 0 before it serves any, and why it does not take what the cluster offers, if so.
    pub fn serves(&self) -> (u64, Option<String>) {
        let withheld = self.agent.as_ref().and_then(|agent| lock(agent).withheld.clone());
        (lock(&self.served).version, withheld)
    }

    /// Nobody leads, or nobody that leads has said anything, and that not only for a moment.
    pub fn leaderless(&self) -> bool {
        self.control().is_some_and(|control| control.cut_off(UNHEARD).is_some())
    }

    /// What is not well although requests may be sent here.
    pub fn remarks(&self) -> Vec<String> {
        let withheld = self.agent.as_ref().and_then(|agent| lock(agent).withheld.clone());
        let control = self.control();
        let cut_off = control.as_ref().and_then(|control| control.cut_off(UNHEARD));
        let diverged = control.map(|control| control.diverged()).unwrap_or_default();
        withheld.into_iter().chain(cut_off).chain(diverged).collect()
    }

    /// The agent came round, with nothing left undone.
    pub fn agent_turned(&self) {
        if let Some(agent) = &self.agent {
            let mut agent = lock(agent);
            agent.turned = Instant::now();
            if agent.failure.take().is_some() {
                tracing::info!("the agent works again");
            }
        }
    }

    /// What this machine is done with, by VirtualIP, whether its kernel steers, and when others may have taken its new flows: the others hear
    /// of it.
    pub fn agent_says(&self, released: BTreeMap<String, u64>, steers: bool, lapsed_ms: u64) {
        self.steers.store(steers, Ordering::Relaxed);
        if let Some(control) = self.control() {
            control.update_member(|member| {
                (member.released, member.steers, member.lapsed_ms) = (released, steers, lapsed_ms);
            });
        }
    }

    /// Its kernel steers.
    pub fn steers(&self) -> bool {
        self.steers.load(Ordering::Relaxed)
    }

    /// For so long it has not come round.
    pub fn agent_silent(&self) -> Duration {
        self.agent.as_ref().map_or(Duration::ZERO, |agent| lock(agent).turned.elapsed())
    }

    /// It has not come round for far too long.
    pub fn agent_stuck(&self) -> bool {
        self.agent.as_ref().is_some_and(|agent| lock(agent).turned.elapsed() > STUCK)
    }

    pub fn agent_failed(&self, reason: &str) {
        self.agent_restarts.fetch_add(1, Ordering::Relaxed);
        if let Some(agent) = &self.agent {
            let mut agent = lock(agent);
            agent.turned = Instant::now();
            agent.failure = Some(reason.to_owned());
        }
    }

    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Version of the configuration that is in force here.
    pub fn version(&self) -> u64 {
        match self.agent {
            Some(_) => lock(&self.served).version,
            None => self.control().map_or(0, |control| control.metrics().config_version),
        }
    }

    pub fn counts(&self) -> HealthCounts {
        HealthCounts {
            control_up: self.control().is_some(),
            control_restarts: self.control_restarts.load(Ordering::Relaxed),
            control_start_failures: self.control_start_failures.load(Ordering::Relaxed),
            agent_restarts: self.agent.as_ref().map(|_| self.agent_restarts.load(Ordering::Relaxed)),
            withholds: self.agent.as_ref().is_some_and(|agent| lock(agent).withheld.is_some()),
        }
    }
}

fn down(reason: &str) -> String {
    format!("the control half is down and tries again; traffic is served as it was last configured: {reason}")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Limits by key that hold in the whole cluster: what this machine tells the owners of keys, and what it answers as one.
//!
//! Ten times a second each other machine is told, in one message, of all keys it owns; a message that is not answered in time counts
//! as lost. Nothing of it goes through the replicated log, and the keys of others are looked after on threads of their own, so that a
//! million of them hold up no election.

use crate::health::Health;
use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base_model::{Cidr, PortsSpec, Protocol, VirtualIpSpec};
use control_api::Member;
use control_raft::Control;
use edge_agent::desired::{Desired, Objects, Steering};
use edge_filters::limits::{BySource, Limit, limits, now_ms, set_all_steer, set_by_source, set_edges};
use hyper::Method;
use proto_admission::limits::{Grant, Owned, Rate, Report, owner_of};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// Between two messages to each machine.
const TURN: Duration = Duration::from_millis(100);

/// A machine that does not answer within this is not waited for.
const PATIENCE: Duration = Duration::from_millis(250);

/// Keys of one limit in one message; the others come with the next.
const KEYS_AT_ONCE: usize = 4096;

/// Bytes of a message.
const MESSAGE_MAX: usize = 8 << 20;

const PATH: &str = "/limits/shares";

/// What one machine says to an owner.
#[derive(Serialize, Deserialize)]
struct Message {
    /// Tells machines apart.
    edge: u64,
    limits: Vec<Told>,
}

#[derive(Serialize, Deserialize)]
struct Told {
    of: u64,
    rate: Rate,
    reports: Vec<Report>,
}

/// The buckets of the keys that this machine owns.
pub struct Shares {
    owned: Mutex<Owned>,
    began: Instant,
}

impl Shares {
    pub fn new() -> Arc<Shares> {
        Arc::new(Shares { owned: Mutex::default(), began: Instant::now() })
    }

    /// Buckets there are, and how many were forgotten before their time.
    pub fn counts(&self) -> (usize, u64) {
        let owned = self.owned.lock().unwrap_or_else(PoisonError::into_inner);
        (owned.len(), owned.evicted)
    }

    fn answer(&self, message: &Message) -> Vec<Vec<Grant>> {
        let now = self.now_ms();
        let mut owned = self.owned.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = |told: &Told| {
            let few = &told.reports[..told.reports.len().min(KEYS_AT_ONCE)];
            owned.answer(told.of, told.rate, message.edge, few, now)
        };
        message.limits.iter().map(answer).collect()
    }

    /// By a clock that nobody sets.
    fn now_ms(&self) -> u64 {
        1 + self.began.elapsed().as_millis() as u64
    }
}

/// What other machines ask of this one on its peer URL; it is looked after on the threads of `beside`.
pub fn peer_routes(shares: Arc<Shares>, beside: Handle) -> Router {
    let ask = move |body: Bytes| {
        let (shares, beside) = (shares.clone(), beside.clone());
        async move {
            let answered = beside.spawn(async move { answered(&shares, &body) }).await;
            answered.unwrap_or_else(|_| StatusCode::SERVICE_UNAVAILABLE.into_response())
        }
    };
    Router::new().route(PATH, post(ask).layer(DefaultBodyLimit::max(MESSAGE_MAX)))
}

fn answered(shares: &Shares, body: &[u8]) -> Response {
    match serde_json::from_slice::<Message>(body) {
        Ok(message) => {
            let body = serde_json::to_vec(&shares.answer(&message)).unwrap_or_default();
            ([("content-type", "application/json")], body).into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("unreadable shares: {error}")).into_response(),
    }
}

/// Speaks to the owners for as long as the process lives.
pub async fn speak(name: String, shares: Arc<Shares>, health: Arc<Health>) {
    let mut turn = tokio::time::interval(TURN);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut under_way = JoinSet::new();
    loop {
        turn.tick().await;
        while under_way.try_join_next().is_some() {}
        let shared: Vec<Arc<Limit>> = limits().into_iter().filter(|limit| limit.shared).collect();
        if shared.is_empty() {
            continue;
        }
        let control = health.control();
        let edges = control.as_ref().map(|control| edges_of(control, &name)).unwrap_or_default();
        set_edges(edges.len());
        if !edges.is_empty() {
            set_all_steer(edges.values().all(|edge| edge.steers));
        }
        for (owner, told) in by_owner(&shared, &edges, &name) {
            if owner == name {
                settle(&shared, told, edges.len(), |message| Some(shares.answer(message)), &name);
                continue;
            }
            let Some((control, member)) = control.clone().zip(edges.get(&owner).cloned()) else { continue };
            let (shared, name, count) = (shared.clone(), name.clone(), edges.len());
            under_way.spawn(async move {
                let message = Message { edge: number(&name), limits: told };
                let grants = ask(&control, &member, &message).await;
                settle(&shared, message.limits, count, |_| grants, &name);
            });
        }
    }
}

/// Finds where a source has one machine, whenever documents or steering have changed.
#[derive(Default)]
pub struct Sources {
    seen: Option<(Objects, Arc<Steerings>)>,
}

type Steerings = BTreeMap<String, Arc<Steering>>;

impl Sources {
    pub fn look(&mut self, desired: &Desired) {
        let is_seen = |(objects, steering): &(Objects, _)| {
            objects.ptr_eq(&desired.objects) && Arc::ptr_eq(steering, &desired.steering)
        };
        if self.seen.as_ref().is_some_and(is_seen) {
            return;
        }
        self.seen = Some((desired.objects.clone(), desired.steering.clone()));
        let vips = desired.objects.iter().filter(|(_, object)| object["kind"] == "VirtualIP");
        let vips =
            vips.filter_map(|(name, object)| Some((name, base_model::decode::<VirtualIpSpec>(object, "").ok()?.value)));
        let vips: Vec<(&String, VirtualIpSpec)> = vips.collect();
        let prefixes: Vec<Cidr> = vips.iter().flat_map(|(_, spec)| spec.prefixes()).collect();
        let places = vips
            .iter()
            .filter_map(|(name, spec)| Some(place(spec, &prefixes, ipv6_bits(desired.steering.get(*name)?)?)));
        set_by_source(places.collect());
    }
}

/// Bits of an IPv6 source that choose the machine, where nothing else does: by none of the generations whose connections may still be
/// there, each of which has the same machines. Where others had the slots before, a source's old connections are with one machine and
/// its new ones with another.
fn ipv6_bits(steering: &Steering) -> Option<u8> {
    let history = steering.history();
    let one_set = history.windows(2).all(|pair| pair[0].0 == pair[1].0 && pair[0].1.alive == pair[1].1.alive);
    if !one_set {
        return None;
    }
    let bits = |(_, step): (_, edge_agent::desired::Step)| {
        let rule = step.hash?;
        match &*rule.of {
            "sourceIP" => Some(128),
            "sourcePrefix" => Some(rule.ipv6),
            _ => None,
        }
    };
    history.into_iter().map(bits).reduce(|most, bits| Some(most?.max(bits?)))?
}

/// `prefixes`: of all VirtualIPs. The longest that has an address decides about it.
fn place(spec: &VirtualIpSpec, prefixes: &[Cidr], ipv6_bits: u8) -> BySource {
    let addresses: Vec<Cidr> = spec.prefixes().collect();
    let lies_in = |other: &&Cidr| {
        addresses.iter().any(|own| own.length() < other.length() && own.contains(other.address()))
            && !addresses.contains(other)
    };
    BySource {
        but_for: prefixes.iter().filter(lies_in).copied().collect(),
        addresses,
        ports: match &spec.ports {
            PortsSpec::Any => Vec::new(),
            PortsSpec::List(ranges) => ranges.iter().map(|range| range.low..=range.high).collect(),
        },
        tcp: spec.protocols.contains(&Protocol::Tcp),
        udp: spec.protocols.contains(&Protocol::Udp),
        ipv6_bits,
    }
}

/// The edges that are up, this one among them in any case.
fn edges_of(control: &Control, name: &str) -> BTreeMap<String, Arc<Member>> {
    let state = control.state();
    let members = state.view.members.iter();
    members
        .filter(|(of, member)| member.edge && (member.up || *of == name))
        .map(|(of, member)| (of.clone(), member.clone()))
        .collect()
}

fn by_owner(shared: &[Arc<Limit>], edges: &BTreeMap<String, Arc<Member>>, name: &str) -> BTreeMap<String, Vec<Told>> {
    let mut told: BTreeMap<String, Vec<Told>> = BTreeMap::new();
    for limit in shared {
        for report in limit.leases.reports(KEYS_AT_ONCE, now_ms()) {
            let owner = owner_of(report.key ^ limit.of, edges.keys().map(String::as_str)).unwrap_or(name);
            let limits = told.entry(owner.to_owned()).or_default();
            match limits.last_mut().filter(|last| last.of == limit.of) {
                Some(last) => last.reports.push(report),
                None => limits.push(Told { of: limit.of, rate: limit.rate, reports: vec![report] }),
            }
        }
    }
    told
}

/// Brings what was answered to the limits, or takes back what was said.
fn settle(
    shared: &[Arc<Limit>],
    told: Vec<Told>,
    edges: usize,
    answer: impl FnOnce(&Message) -> Option<Vec<Vec<Grant>>>,
    name: &str,
) {
    let message = Message { edge: number(name), limits: told };
    let grants = answer(&message);
    for (at, told) in message.limits.iter().enumerate() {
        let Some(limit) = shared.iter().find(|limit| limit.of == told.of) else { continue };
        match grants.as_ref().and_then(|grants| grants.get(at)) {
            Some(grants) => limit.leases.granted(grants, edges, now_ms()),
            None => limit.leases.not_told(&told.reports),
        }
    }
}

async fn ask(control: &Control, member: &Member, message: &Message) -> Option<Vec<Vec<Grant>>> {
    let body = serde_json::to_vec(message).ok()?;
    let answer = control.call_member(member, Method::POST, PATH, body, PATIENCE).await.ok()?;
    serde_json::from_slice(&answer.body).ok()
}

/// The same on every machine.
fn number(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
        | 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_model::HashRule;
    use edge_agent::desired::Step;

    #[test]
    fn a_source_has_one_machine_where_nothing_else_ever_chose_it() {
        let steering = |rules: &[(&str, u8)]| {
            let step = |(of, ipv6): &(&str, u8)| {
                let hash =
                    (!of.is_empty()).then(|| HashRule { of: (*of).to_owned(), ipv6: *ipv6, ..HashRule::default() });
                Step { hash, ..Step::default() }
            };
            let steps: Vec<Step> = rules.iter().map(step).collect();
            Steering { generations: vec![vec![(1, 1)]; steps.len()], steps, ..Steering::default() }
        };
        for (rules, bits) in [
            (&[("sourceIP", 0)][..], Some(128)),
            (&[("sourcePrefix", 56)], Some(56)),
            (&[("sourcePrefix", 56), ("sourceIP", 0)], Some(128)),
            (&[("fiveTuple", 0)], None),
            (&[("fiveTuple", 0), ("sourceIP", 0)], None),
            (&[("", 0)], None),
            (&[], None),
        ] {
            assert_eq!(ipv6_bits(&steering(rules)), bits, "{rules:?}");
        }
        // A machine that joins takes slots over, and what is open stays where it is; the same where one has gone, or died.
        let same = steering(&[("sourceIP", 0), ("sourceIP", 0)]);
        assert_eq!(ipv6_bits(&same), Some(128));
        let mut joined = same.clone();
        joined.generations[1].push((2, 1));
        let mut died = same.clone();
        died.steps[1].alive = vec![1];
        assert_eq!([ipv6_bits(&joined), ipv6_bits(&died)], [None, None]);
    }
}

//! The whole cluster on one page: machines with what their edges serve and their figures, and virtual IPs with their slots. For the
//! dashboard and `weirctl top`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base_text::quoted;
use control_api::{Member, Members, Role, Steering};
use hyper::Method;
use serde_json::{Value, json};

use crate::access::caller;
use crate::body::{Answer, Reply};
use crate::catalog::Local;
use crate::members;
use crate::routes::Api;

/// The part of the peer listener that tells other members this machine's figures.
pub fn peer_routes(local: Arc<dyn Local>) -> Router {
    Router::new().route(LOCAL, get(here)).with_state(local)
}

async fn here(State(local): State<Arc<dyn Local>>) -> Response {
    ([("content-type", "application/json")], local.figures().to_string()).into_response()
}

/// `GET /overview`.
pub async fn show(State(api): State<Arc<Api>>) -> Answer {
    caller().needs(Role::Read, None)?;
    let state = api.control.state();
    let view = &state.view;
    let mut asked = tokio::task::JoinSet::new();
    for member in view.members.values().filter(|member| member.up && member.name != api.control.name()) {
        let (control, member) = (api.control.clone(), member.clone());
        asked.spawn(async move {
            let figures = ask(&control, &member).await;
            (member.name.clone(), figures)
        });
    }
    let mut figures = BTreeMap::from([(api.control.name().to_owned(), api.local.figures())]);
    let mut warnings = Vec::new();
    let metrics = api.control.metrics();
    let edges = api.control.edges().await;
    for (member, answer) in asked.join_all().await {
        match answer {
            Ok(told) => drop(figures.insert(member, told)),
            Err(reason) => warnings.push(reason),
        }
    }
    let shown = |member: &Arc<Member>| {
        let mut shown = members::shown(member, &view.cluster_name, (&metrics, None))["weir"].take();
        shown["name"] = member.name.as_str().into();
        shown["role"] = json!(member.role);
        shown["apiAddr"] = member.api_addr.as_str().into();
        shown["serves"] = json!(edges.as_ref().and_then(|edges| edges.get(&member.name)).filter(|_| member.up));
        shown["figures"] = figures.remove(&member.name).unwrap_or_default();
        shown
    };
    let vips: Vec<Value> = view
        .steering
        .iter()
        .map(|(name, steering)| vip(name, view.object(name).map(AsRef::as_ref), steering, &view.members))
        .collect();
    let overview = json!({
        "clusterName": view.cluster_name,
        "version": view.version,
        "level": view.level,
        "leader": metrics.leader,
        "members": view.members.values().map(shown).collect::<Vec<_>>(),
        "vips": vips,
    });
    Ok(Reply::body(overview).version(view.version).warnings(warnings))
}

async fn ask(control: &control_raft::Control, member: &Member) -> Result<Value, String> {
    let answer = control.call_member(member, Method::GET, LOCAL, "", PATIENCE).await.map_err(|e| e.message)?;
    serde_json::from_slice(&answer.body)
        .map_err(|error| format!("member {}: its figures cannot be read: {error}", quoted(&member.name)))
}

/// Who has which slots of a virtual IP, and who still holds connections of it.
fn vip(name: &str, document: Option<&Value>, steering: &Steering, members: &Members) -> Value {
    let by_id: BTreeMap<u16, &str> = members.values().map(|member| (member.id, member.name.as_str())).collect();
    let called = |id: u16| by_id.get(&id).map_or_else(|| format!("#{id}"), |name| (*name).to_owned());
    let current = steering.generations.last();
    let eligible = current.map_or(&[][..], |generation| &generation.machines);
    let sum: u64 = eligible.iter().map(|machine| u64::from(machine.weight)).sum();
    let mut machines: Vec<Value> = eligible
        .iter()
        .map(|machine| {
            let share = if sum == 0 { 0.0 } else { f64::from(machine.weight) / sum as f64 };
            let slots = (share * SLOTS).round() as u64;
            let name = called(machine.member);
            json!({"name": name, "state": "active", "weight": machine.weight, "share": share, "slots": slots})
        })
        .collect();
    let draining = steering.alive.iter().filter(|id| !eligible.iter().any(|machine| machine.member == **id));
    machines.extend(
        draining.map(|id| json!({"name": called(*id), "state": "draining", "weight": 0, "share": 0.0, "slots": 0})),
    );
    if let Some(backends) = document.and_then(|document| document.get("backends")?.as_array()) {
        machines = backends_of(backends);
    }
    let addresses = document.and_then(|document| document.get("addresses")).cloned().unwrap_or_else(|| json!([]));
    json!({
        "name": name,
        "addresses": addresses,
        "generation": current.map_or(0, |generation| generation.number),
        "generationsKept": steering.generations.len(),
        "machines": machines,
    })
}

/// Those of a virtual IP over backends, by its document: each edge leaves out what it finds unwell.
fn backends_of(backends: &[Value]) -> Vec<Value> {
    let text = |backend: &Value, field: &str| backend.get(field).and_then(Value::as_str).map(str::to_owned);
    let state = |backend: &Value| text(backend, "state").unwrap_or_else(|| "active".to_owned());
    let weight = |backend: &Value| match backend.get("weight").map_or(Some(1), Value::as_u64) {
        Some(weight) if state(backend) == "active" => weight,
        _ => 0,
    };
    let sum: u64 = backends.iter().map(weight).sum();
    let row = |backend: &Value| {
        let share = if sum == 0 { 0.0 } else { weight(backend) as f64 / sum as f64 };
        let name = text(backend, "name").or_else(|| text(backend, "address")).unwrap_or_default();
        json!({
            "name": name, "state": state(backend), "weight": weight(backend), "share": share,
            "slots": (share * SLOTS).round() as u64, "backend": true,
        })
    };
    backends.iter().map(row).collect()
}

/// Of the Maglev table of a virtual IP; by weight each machine has its share of them, to within a few.
const SLOTS: f64 = 65_537.0;
const LOCAL: &str = "/local/figures";
/// A member that takes longer is left out, with a warning.
const PATIENCE: Duration = Duration::from_millis(1500);

#[cfg(test)]
mod tests {
    use super::*;
    use control_api::{Eligible, Generation};

    #[test]
    fn slots_go_by_weight_and_whoever_has_none_and_lives_drains() {
        let member = |(id, name): (u16, &str)| {
            (name.to_owned(), Arc::new(Member { id, name: name.to_owned(), ..Member::default() }))
        };
        let members: Members = [(1, "a"), (2, "b"), (3, "c")].map(member).into_iter().collect();
        let machines = vec![Eligible { member: 1, weight: 3 }, Eligible { member: 2, weight: 1 }];
        let before = Generation { number: 6, ..Generation::default() };
        let now = Generation { number: 7, machines, ..Generation::default() };
        let steering = Steering { generations: vec![before, now], alive: vec![1, 2, 3], ..Steering::default() };
        let shown = vip("shop", Some(&json!({"addresses": ["192.0.2.1"]})), &steering, &members);
        assert_eq!((&shown["generation"], &shown["generationsKept"]), (&json!(7), &json!(2)));
        let row = |at: usize| {
            let machine = &shown["machines"][at];
            (machine["name"].as_str().unwrap(), machine["state"].as_str().unwrap(), machine["slots"].as_u64().unwrap())
        };
        assert_eq!([row(0), row(1), row(2)], [("a", "active", 49_153), ("b", "active", 16_384), ("c", "draining", 0)]);
        assert_eq!(shown["addresses"], json!(["192.0.2.1"]));
    }

    #[test]
    fn a_virtual_ip_over_backends_shows_these() {
        let document = json!({"addresses": ["192.0.2.1"], "backends": [
            {"name": "web-1", "address": "10.0.0.1", "weight": 3}, {"address": "10.0.0.2"},
            {"name": "web-3", "address": "10.0.0.3", "state": "draining"},
        ]});
        let machines = vec![Eligible { member: 1, weight: 1 }];
        let steering = Steering {
            generations: vec![Generation { number: 1, machines, ..Generation::default() }],
            ..Steering::default()
        };
        let shown = vip("direct", Some(&document), &steering, &Members::default());
        let row = |at: usize| {
            let backend = &shown["machines"][at];
            (backend["name"].as_str().unwrap(), backend["state"].as_str().unwrap(), backend["slots"].as_u64().unwrap())
        };
        assert_eq!(
            [row(0), row(1), row(2)],
            [("web-1", "active", 49_153), ("10.0.0.2", "active", 16_384), ("web-3", "draining", 0)]
        );
        assert_eq!(shown["machines"].as_array().map(Vec::len), Some(3));
    }
}

//! Eureka, by its REST API: everything once, then what has changed, checked against the hash code that each answer brings.
//!
//! Eureka has nothing to wait for, so it is asked every `syncInterval`. A delta that does not lead to the hash code it says, because
//! something was missed, is followed by everything anew.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base_model::EurekaServiceRegistrySpec;
use base_text::quoted;
use hyper::Method;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::ask::{Asker, field, number, text, url_of};
use crate::record::{Record, Service};
use crate::{Heard, Wanted, tell};

/// See [`crate::watch`].
pub async fn watch(
    spec: &EurekaServiceRegistrySpec,
    turn: usize,
    mut wanted: Wanted,
    heard: &mpsc::Sender<Heard>,
) -> Result<(), String> {
    let asker = Asker::new("Eureka", "Eureka asks for a login, which this kind of registry has no fields for")?;
    let url = url_of(&spec.endpoints[turn % spec.endpoints.len()]);
    let mut known = Applications::default();
    let mut whole = true;
    loop {
        if whole {
            let place = format!("{url}/apps");
            let all = get(&asker, &place).await?;
            let said = text(&all, "apps__hashcode");
            known = Applications::default();
            known.take(&all, true);
            // Half of an answer would take the servers of the other half away. One that says no hash code is believed as it is.
            if !said.is_empty() && said != known.hash_code() {
                let has = known.hash_code();
                let told = format!(
                    "its answer has instances {} where its hash code says {}; it is not believed, and asked for again",
                    quoted(&has),
                    quoted(&said)
                );
                return Err(asker.told(&place, &told));
            }
            whole = false;
        } else {
            let delta = get(&asker, &format!("{url}/apps/delta")).await?;
            known.take(&delta, false);
            let said = text(&delta, "apps__hashcode");
            if said != known.hash_code() {
                whole = true;
                continue;
            }
        }
        let names = wanted.borrow_and_update().clone();
        tell(heard, Heard::All(known.services(&names))).await?;
        tokio::select! {
            () = tokio::time::sleep(spec.sync_interval.into()) => {}
            changed = wanted.changed() => {
                changed.map_err(|_| "nobody asks for services any more".to_owned())?;
                // Of what is known already.
            }
        }
    }
}

async fn get(asker: &Asker, place: &str) -> Result<Value, String> {
    let (_, answer) = asker.json(Method::GET, place, ACCEPT, "", PATIENCE).await?;
    let found = field(&answer, "applications").filter(|applications| applications.is_object()).cloned();
    found.ok_or_else(|| {
        asker.told(place, "its answer has no applications; is this the address of Eureka, with its path?")
    })
}

/// What is known: by application and instance.
#[derive(Default)]
struct Applications(BTreeMap<String, BTreeMap<String, Instance>>);

struct Instance {
    status: String,
    read: Result<Vec<Record>, String>,
}

impl Applications {
    fn take(&mut self, applications: &Value, whole: bool) {
        for application in list(field(applications, "application")) {
            let name = text(application, "name").to_uppercase();
            for instance in list(field(application, "instance")) {
                let id = match text(instance, "instanceId") {
                    // Of a client of before Eureka 1.4.
                    id if id.is_empty() => text(instance, "hostName"),
                    id => id,
                };
                let known = self.0.entry(name.clone()).or_default();
                if !whole && text(instance, "actionType") == "DELETED" {
                    known.remove(&id);
                    continue;
                }
                let status = text(instance, "status");
                known.insert(id.clone(), Instance { status, read: read(&name, &id, instance) });
            }
        }
        self.0.retain(|_, instances| !instances.is_empty());
    }

    /// As Eureka makes it: instances by status, `DOWN_1_UP_2_`.
    fn hash_code(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for instance in self.0.values().flat_map(BTreeMap::values) {
            *counts.entry(&instance.status).or_default() += 1;
        }
        counts.into_iter().map(|(status, count)| format!("{status}_{count}_")).collect()
    }

    /// Those that are up. Names differ in case only, since Eureka writes them in capitals; what is asked for is told as it is asked for.
    fn services(&self, wanted: &BTreeSet<String>) -> BTreeMap<String, Service> {
        let mut services = BTreeMap::new();
        for (name, instances) in &self.0 {
            let mut service = Service::default();
            for instance in instances.values().filter(|instance| instance.status == "UP") {
                match &instance.read {
                    Ok(records) => service.records.extend(records.iter().cloned()),
                    Err(why) => service.unread.push(why.clone()),
                }
            }
            let mut asked: Vec<&String> = wanted.iter().filter(|wanted| wanted.to_uppercase() == *name).collect();
            if asked.is_empty() {
                asked.push(name);
            }
            for name in asked {
                services.insert(name.clone(), service.clone());
            }
        }
        services
    }
}

/// One server for each port that is on.
fn read(application: &str, id: &str, instance: &Value) -> Result<Vec<Record>, String> {
    let of = text(instance, "app");
    if !of.is_empty() && of.to_uppercase() != application {
        return Err(format!(
            "instance {} says that it is of {}, and stands under {application}",
            quoted(id),
            quoted(&of)
        ));
    }
    let address = match text(instance, "ipAddr") {
        ip if ip.is_empty() => text(instance, "hostName"),
        ip => ip,
    };
    let mut records = Vec::new();
    for (place, scheme) in [("port", "http"), ("securePort", "https")] {
        let Some(port) = field(instance, place) else { continue };
        let on = match field(port, "@enabled") {
            Some(Value::String(text)) => text == "true",
            Some(Value::Bool(on)) => *on,
            _ => false,
        };
        if on {
            let id = if scheme == "http" { id.to_owned() } else { format!("{id}/secure") };
            let (address, scheme) = (address.clone(), scheme.to_owned());
            records.push(Record { id, address, port: number(port, "$"), scheme, tags: Vec::new(), weight: 0 });
        }
    }
    if records.is_empty() { Err(format!("instance {} has no port that is on", quoted(id))) } else { Ok(records) }
}

/// A list, or a single one that older servers write without its list.
fn list(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    let (one, many) = match value {
        Some(Value::Array(items)) => (None, items.as_slice()),
        Some(one @ Value::Object(_)) => (Some(one), &[][..]),
        _ => (None, &[][..]),
    };
    one.into_iter().chain(many)
}

const ACCEPT: &[(&str, &str)] = &[("accept", "application/json")];
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn instance(id: &str, status: &str, action: &str) -> Value {
        json!({"instanceId": id, "app": "ORDERS", "ipAddr": "10.0.0.1", "status": status, "actionType": action,
               "port": {"$": 8080, "@enabled": "true"}, "securePort": {"$": 443, "@enabled": "false"}})
    }

    fn answer(instances: &[Value], hash: &str) -> Value {
        json!({"apps__hashcode": hash, "application": [{"name": "ORDERS", "instance": instances}]})
    }

    #[test]
    fn a_delta_leads_to_the_hash_code_that_it_says() {
        let mut known = Applications::default();
        known.take(&answer(&[instance("a", "UP", ""), instance("b", "DOWN", "")], ""), true);
        assert_eq!(known.hash_code(), "DOWN_1_UP_1_");
        known.take(
            &answer(
                &[instance("b", "UP", "MODIFIED"), instance("c", "UP", "ADDED"), instance("a", "UP", "DELETED")],
                "",
            ),
            false,
        );
        assert_eq!(known.hash_code(), "UP_2_");
        let services = known.services(&["orders".to_owned()].into());
        let ids: Vec<&str> = services["orders"].records.iter().map(|record| record.id.as_str()).collect();
        assert_eq!(ids, ["b", "c"]);
        assert_eq!(known.services(&BTreeSet::new()).keys().collect::<Vec<_>>(), ["ORDERS"]);
    }

    #[test]
    fn single_ones_stand_without_a_list_and_both_ports_are_servers() {
        let mut one = instance("a", "UP", "");
        one["securePort"]["@enabled"] = json!("true");
        let mut known = Applications::default();
        known.take(&json!({"application": {"name": "orders", "instance": one}}), true);
        let services = known.services(&BTreeSet::new());
        let places: Vec<(String, i64)> =
            services["ORDERS"].records.iter().map(|r| (r.scheme.clone(), r.port)).collect();
        assert_eq!(places, [("http".to_owned(), 8080), ("https".to_owned(), 443)]);
        let mut other = instance("b", "UP", "");
        other["app"] = json!("CARTS");
        known.take(&answer(&[other], ""), false);
        assert!(known.services(&BTreeSet::new())["ORDERS"].unread[0].contains("CARTS"));
    }
}

//! The servers of a service, from its EndpointSlices.

use std::collections::BTreeMap;
use std::fmt;

use base_text::quoted;

use crate::object::{EndpointSlice, Key, Service};
use crate::store::Store;

/// A port of a service, as pools name it in `serviceName`: `NAMESPACE/SERVICE:PORT`, of servers that speak TLS
/// `https://NAMESPACE/SERVICE:PORT`. The port is a name or a number of the service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceName {
    pub https: bool,
    pub service: Key,
    pub port: String,
}

impl ServiceName {
    pub fn parse(text: &str) -> Result<ServiceName, String> {
        let (https, rest) = match text.strip_prefix("https://") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix("http://").unwrap_or(text)),
        };
        let parts = rest.split_once('/').and_then(|(namespace, rest)| Some((namespace, rest.split_once(':')?)));
        match parts {
            Some((namespace, (name, port))) if !namespace.is_empty() && !name.is_empty() && !port.is_empty() => {
                Ok(ServiceName { https, service: Key::new(namespace, name), port: port.to_owned() })
            }
            _ => Err(format!("{} is no service; write it as namespace/service:port", quoted(text))),
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https://" } else { "" };
        write!(f, "{scheme}{}:{}", self.service, self.port)
    }
}

/// A server of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub https: bool,
    pub address: String,
    pub port: i64,
}

/// What a service has now. The error says in words why nothing can be known of it.
pub fn servers(store: &Store, name: &ServiceName) -> Result<Vec<Server>, String> {
    let Some(service) = store.service(&name.service) else {
        return Err(format!("service {} is not there", name.service));
    };
    let port = port_of(service, &name.port)?;
    if service.spec.kind == "ExternalName" {
        let address = service.spec.external_name.trim_end_matches('.').to_owned();
        return Ok(vec![Server { https: name.https, address, port: port.number }]);
    }
    let family = family(store, service, &name.service);
    let slices = store.slices(&name.service).filter(|slice| family.is_none_or(|family| slice.address_type == family));
    // By address, and whether it is ready; two slices may have one address while it is moved from one to the other.
    let mut found: BTreeMap<(String, i64), bool> = BTreeMap::new();
    for slice in slices {
        let Some(port) = port_in(slice, &port) else { continue };
        for endpoint in &slice.endpoints {
            let conditions = &endpoint.conditions;
            let ready = conditions.ready.unwrap_or(true);
            let last_resort = conditions.serving.unwrap_or(ready) && conditions.terminating.unwrap_or(false);
            // All addresses of an endpoint lead to the same one.
            let Some(address) = endpoint.addresses.first().filter(|_| ready || last_resort) else { continue };
            *found.entry((address.clone(), port)).or_default() |= ready;
        }
    }
    // Those that are going away serve on as long as there are no others, as kube-proxy has it.
    let any_ready = found.values().any(|ready| *ready);
    let chosen = found.into_iter().filter(|(_, ready)| *ready || !any_ready);
    Ok(chosen.map(|((address, port), _)| Server { https: name.https, address, port }).collect())
}

/// A port of a service: slices know it by its name, which may be empty.
struct Port {
    name: String,
    number: i64,
}

fn port_of(service: &Service, wanted: &str) -> Result<Port, String> {
    let ports = &service.spec.ports;
    let number = wanted.parse::<i64>().ok();
    let found = match number {
        Some(number) => ports.iter().find(|port| port.port == number),
        None => ports.iter().find(|port| port.name == wanted),
    };
    match (found, number) {
        (Some(port), _) => Ok(Port { name: port.name.clone(), number: port.port }),
        // A name outside needs no ports to be listed.
        (None, Some(number)) if service.spec.kind == "ExternalName" => Ok(Port { name: String::new(), number }),
        _ => {
            let known: Vec<String> = ports
                .iter()
                .map(|port| {
                    if port.name.is_empty() { port.port.to_string() } else { format!("{} ({})", port.port, port.name) }
                })
                .collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Err(format!("service {} has no port {}; it has {known}", service.metadata.key(), quoted(wanted)))
        }
    }
}

fn port_in(slice: &EndpointSlice, wanted: &Port) -> Option<i64> {
    slice.ports.iter().find(|port| port.name == wanted.name).and_then(|port| port.port)
}

/// The family of the addresses that are used, where a service has two: the pods of both are the same.
fn family(store: &Store, service: &Service, key: &Key) -> Option<&'static str> {
    let has = |family: &str| store.slices(key).any(|slice| slice.address_type == family);
    let primary = service.spec.ip_families.first().map(String::as_str);
    match (has("IPv4"), has("IPv6")) {
        (true, true) if primary == Some("IPv6") => Some("IPv6"),
        (true, true) => Some("IPv4"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Kind;
    use crate::reflect::Heard;
    use crate::store::tests::{everywhere, object};
    use serde_json::{Value, json};

    fn world(service: Value, slices: &[Value]) -> Store {
        let mut store = Store::default();
        let mut put = |kind: Kind, value: Value| drop(store.hear(&everywhere(kind), Heard::Put(object(kind, value))));
        put(Kind::Service, json!({"metadata": {"name": "s", "namespace": "n"}, "spec": service}));
        for (n, slice) in slices.iter().enumerate() {
            let mut slice = slice.clone();
            slice["metadata"] = json!({"name": format!("s-{n}"), "namespace": "n",
                "labels": {"kubernetes.io/service-name": "s"}});
            put(Kind::EndpointSlice, slice);
        }
        store
    }

    fn places(store: &Store, name: &str) -> Result<Vec<String>, String> {
        let servers = servers(store, &ServiceName::parse(name).unwrap())?;
        Ok(servers.iter().map(|server| format!("{}:{}", server.address, server.port)).collect())
    }

    fn slice(family: &str, ports: Value, endpoints: &[(&str, Value)]) -> Value {
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|(address, conditions)| json!({"addresses": [address], "conditions": conditions}))
            .collect();
        json!({"addressType": family, "ports": ports, "endpoints": endpoints})
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for text in ["n/s:80", "https://n/s:web"] {
            assert_eq!(ServiceName::parse(text).unwrap().to_string(), text);
        }
        for text in ["s:80", "n/s", "n/s:", "/s:80", ""] {
            assert!(ServiceName::parse(text).unwrap_err().contains("write it as namespace/service:port"));
        }
    }

    #[test]
    fn servers_are_those_that_are_ready_by_the_port_of_the_service() {
        let ports = json!([{"name": "web", "port": 80}, {"name": "admin", "port": 81}]);
        let slice_ports = json!([{"name": "web", "port": 8080}, {"name": "admin", "port": 8081}]);
        let slices = [
            slice(
                "IPv4",
                slice_ports.clone(),
                &[
                    ("10.0.0.1", json!({"ready": true})),
                    ("10.0.0.2", json!({"ready": false, "serving": false})),
                    ("10.0.0.3", json!({})),
                    ("10.0.0.4", json!({"ready": false, "serving": true, "terminating": true})),
                ],
            ),
            slice("IPv4", slice_ports, &[("10.0.0.1", json!({"ready": false}))]),
        ];
        let store = world(json!({"ports": ports}), &slices);
        assert_eq!(places(&store, "n/s:80").unwrap(), ["10.0.0.1:8080", "10.0.0.3:8080"]);
        assert_eq!(places(&store, "n/s:admin").unwrap(), ["10.0.0.1:8081", "10.0.0.3:8081"]);
        let error = places(&store, "n/s:82").unwrap_err();
        assert_eq!(error, "service n/s has no port \"82\"; it has 80 (web), 81 (admin)");
        assert_eq!(places(&store, "n/t:80").unwrap_err(), "service n/t is not there");
    }

    #[test]
    fn those_that_go_away_serve_until_others_are_there() {
        let ports = json!([{"port": 80}]);
        let leaving = ("10.0.0.4", json!({"ready": false, "serving": true, "terminating": true}));
        let starting = ("10.0.0.5", json!({"ready": false, "serving": false, "terminating": false}));
        let one = |endpoints: &[(&str, Value)]| {
            let store =
                world(json!({"ports": ports}), &[slice("IPv4", json!([{"name": null, "port": 8080}]), endpoints)]);
            places(&store, "n/s:80").unwrap()
        };
        assert_eq!(one(&[leaving.clone(), starting.clone()]), ["10.0.0.4:8080"]);
        assert_eq!(one(&[leaving, ("10.0.0.6", json!({"ready": true}))]), ["10.0.0.6:8080"]);
        assert_eq!(one(&[starting]), [""; 0]);
    }

    #[test]
    fn a_pod_of_two_families_is_one_server_and_a_name_outside_is_a_server() {
        let ports = json!([{"port": 80}]);
        let (v4, v6) = (
            slice("IPv4", json!([{"port": 8080}]), &[("10.0.0.1", json!({}))]),
            slice("IPv6", json!([{"port": 8080}]), &[("fd00::1", json!({}))]),
        );
        let both = [v4, v6.clone()];
        let store = world(json!({"ports": ports, "ipFamilies": ["IPv6", "IPv4"]}), &both);
        assert_eq!(places(&store, "n/s:80").unwrap(), ["fd00::1:8080"]);
        let store = world(json!({"ports": ports}), &both);
        assert_eq!(places(&store, "n/s:80").unwrap(), ["10.0.0.1:8080"]);
        assert_eq!(places(&world(json!({"ports": ports}), &[v6]), "n/s:80").unwrap(), ["fd00::1:8080"]);
        let store = world(json!({"type": "ExternalName", "externalName": "shop.example."}), &[]);
        assert_eq!(places(&store, "https://n/s:443").unwrap(), ["shop.example:443"]);
    }
}

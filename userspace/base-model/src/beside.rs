//! What objects are to each other: what only one of them may have, and which names lead where.
//!
//! Looking at one of many costs what it says itself, not what all of them say: of the others only an [`Outline`] is needed,
//! which is small and is read without decoding the rest of a document.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::access_list::{PREFIXES_MAX, too_many};
use crate::decode::same_name;
use crate::http_server::HttpServerSpec;
use crate::ip_filter::Cidr;
use crate::kinds;
use crate::object::{Listening, Object, Spec};
use crate::pool_servers::pool_servers;
use crate::problem::{Findings, Problem, at, nth};
use crate::room::Room;
use crate::service_registry::{ServiceRegistrySpec, services_of};
use crate::virtual_ip::{PortRange, PortsSpec, Protocol, VIRTUAL_IPS, VirtualIpSpec};

/// Where connections or packets reach an object: nobody else may be there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    pub door: Door,
    /// Empty: every address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Cidr>,
    pub protocols: Vec<Protocol>,
    pub ports: Vec<PortRange>,
}

/// Claims of different doors never meet: a listener serves the VirtualIPs on its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Door {
    /// Sockets of this machine.
    Listener,
    /// Packets that are steered.
    VirtualIp,
}

/// What others have to know of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    pub name: String,
    pub kind: String,
    pub claim: Option<Claim>,
    /// Of an AccessList.
    pub prefixes: usize,
    /// Of a VirtualIP.
    pub backends: usize,
    /// Addresses of the servers of its pools.
    pub servers: BTreeSet<IpAddr>,
}

/// Objects seen together, indexed by what one of them may ask of the others.
pub struct Beside<'o> {
    claims: Claims<'o>,
    pipelines: HashSet<&'o str>,
    global_filters: HashSet<&'o str>,
    registries: HashSet<&'o str>,
    /// By kind, of those of which there may be one, what there is.
    alone: HashMap<&'o str, BTreeSet<&'o str>>,
    /// Of each AccessList.
    prefixes: HashMap<&'o str, usize>,
    /// Whose pools have a server there: kind and name.
    servers: BTreeMap<IpAddr, (&'o str, &'o str)>,
    room: Room<'o>,
}

/// Who is where.
#[derive(Default)]
pub struct Claims<'o> {
    listeners: HashMap<u16, Vec<Holder<'o>>>,
    vips: HashMap<Cidr, Vec<(&'o str, &'o Claim)>>,
}

/// A listener that is somewhere.
#[derive(Clone, Copy)]
struct Holder<'o> {
    name: &'o str,
    kind: &'o str,
    claim: &'o Claim,
}

impl Claim {
    fn of(spec: &Spec) -> Option<Claim> {
        match spec {
            Spec::VirtualIp(vip) => Some(Claim::of_vip(vip)),
            spec => spec.listening().map(Claim::of_listener),
        }
    }

    fn of_listener(at: Listening<'_>) -> Claim {
        Claim {
            door: Door::Listener,
            addresses: at.address.parse::<IpAddr>().into_iter().map(Cidr::from).collect(),
            protocols: at.protocols,
            ports: vec![PortRange::one(at.port)],
        }
    }

    fn of_vip(vip: &VirtualIpSpec) -> Claim {
        Claim {
            door: Door::VirtualIp,
            addresses: vip.prefixes().collect(),
            protocols: vip.protocols.clone(),
            ports: match &vip.ports {
                PortsSpec::Any => vec![PortRange::ALL],
                PortsSpec::List(ranges) => ranges.clone(),
            },
        }
    }

    /// The first ports that both have.
    fn shared_port(&self, other: &Claim) -> Option<(PortRange, Protocol)> {
        let protocol = *self.protocols.iter().find(|protocol| other.protocols.contains(protocol))?;
        self.ports.iter().find_map(|a| {
            let b = other.ports.iter().find(|b| a.low <= b.high && b.low <= a.high)?;
            Some((PortRange { low: a.low.max(b.low), high: a.high.min(b.high) }, protocol))
        })
    }
}

impl Outline {
    pub fn of(object: &Object) -> Outline {
        Outline {
            name: object.document.name.clone(),
            kind: object.document.kind.clone(),
            claim: Claim::of(&object.spec),
            prefixes: match &object.spec {
                Spec::AccessList(list) => list.prefixes(),
                _ => 0,
            },
            backends: match &object.spec {
                Spec::VirtualIp(vip) => vip.backends.len(),
                _ => 0,
            },
            servers: servers_of(&object.document.spec),
        }
    }

    /// Of a stored document, which passed its checks when it came in.
    pub fn read(document: &Value) -> Option<Outline> {
        let fields = document.as_object()?;
        let text = |name: &str| Some(field(fields, name)?.as_str()?.to_owned());
        let (name, kind) = (text("name")?, text("kind")?);
        let claim = match kind.as_str() {
            listener if kinds::listens(listener) => {
                let port = field(fields, "port").and_then(|port| port.as_u64().or(port.as_f64().map(|p| p as u64)))?;
                let port = u16::try_from(port).ok().filter(|port| *port > 0)?;
                let is_on = |name| field(fields, name).and_then(Value::as_bool).unwrap_or_default();
                let sockets = kinds::named(listener)?.sockets.iter().filter(|socket| socket.when.is_none_or(is_on));
                let protocols = sockets.map(|socket| socket.protocol).collect();
                let address = text("address").unwrap_or_default();
                Some(Claim::of_listener(Listening { address: &address, port, protocols }))
            }
            "VirtualIP" => Some(Claim::of_vip(&crate::decode::<VirtualIpSpec>(document, "").ok()?.value)),
            _ => None,
        };
        let listed = |name| field(fields, name).and_then(Value::as_array).map_or(0, Vec::len);
        let prefixes = if kind == "AccessList" { listed("deny") + listed("allow") } else { 0 };
        let backends = if kind == "VirtualIP" { listed("backends") } else { 0 };
        Some(Outline { name, kind, claim, prefixes, backends, servers: servers_of(document) })
    }
}

fn servers_of(document: &Value) -> BTreeSet<IpAddr> {
    let backends = document.as_object().and_then(|fields| field(fields, "backends")?.as_array()).into_iter().flatten();
    let address = |backend: &Value| field(backend.as_object()?, "address")?.as_str()?.parse::<IpAddr>().ok();
    pool_servers(document).into_iter().map(|(address, ..)| address).chain(backends.filter_map(address)).collect()
}

/// How many routes of a stored server lead to the pipeline.
pub fn routes_to(document: &Value, pipeline: &str) -> usize {
    let rules = document.as_object().and_then(|fields| field(fields, "rules")?.as_array());
    // Of a GRPCServer they are called methods.
    let lists = |rule| ["paths", "methods"].into_iter().filter_map(move |list| field(rule, list)?.as_array());
    let paths = rules.into_iter().flatten().filter_map(Value::as_object).flat_map(lists).flatten();
    let backends = paths.filter_map(|path| field(path.as_object()?, "backend")?.as_str());
    backends.filter(|backend| *backend == pipeline).count()
}

/// As the decoder finds it: the exact spelling first, then without regard to case.
pub(crate) fn field<'v>(fields: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
    fields.get(name).or_else(|| fields.iter().find(|(key, _)| same_name(key, name)).map(|(_, value)| value))
}

impl<'o> Claims<'o> {
    /// Names, kinds and claims of objects.
    pub fn new(claims: impl IntoIterator<Item = (&'o str, &'o str, &'o Claim)>) -> Claims<'o> {
        let mut all = Claims::default();
        for (name, kind, claim) in claims {
            match claim.door {
                Door::Listener => {
                    for port in claim.ports.iter().flat_map(|range| range.low..=range.high) {
                        all.listeners.entry(port).or_default().push(Holder { name, kind, claim });
                    }
                }
                Door::VirtualIp => {
                    for address in &claim.addresses {
                        all.vips.entry(*address).or_default().push((name, claim));
                    }
                }
            }
        }
        all
    }

    /// Where the claim of the object of this name meets those of others.
    pub fn check(&self, name: &str, claim: &Claim) -> Vec<Problem> {
        match claim.door {
            Door::Listener => self.check_listener(name, claim),
            Door::VirtualIp => self.check_vip(name, claim),
        }
    }

    fn check_listener(&self, name: &str, claim: &Claim) -> Vec<Problem> {
        let mut problems = Vec::new();
        for port in claim.ports.iter().flat_map(|range| range.low..=range.high) {
            for other in self.listeners.get(&port).into_iter().flatten().filter(|other| other.name != name) {
                // A port of TCP and one of UDP have nothing but their number in common.
                let Some((_, protocol)) = claim.shared_port(other.claim) else { continue };
                if same_place(&claim.addresses, &other.claim.addresses) {
                    let lead = if protocol == Protocol::Udp { "taken for UDP by" } else { "taken by" };
                    let message = format!("{lead} {} {}", other.kind, other.name);
                    let problem = Problem::new("port", message).value(&port.into());
                    problems.push(problem.advice("choose another port, or delete that server first"));
                }
            }
        }
        problems
    }

    fn check_vip(&self, name: &str, claim: &Claim) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (i, address) in claim.addresses.iter().enumerate() {
            for (other, theirs) in self.vips.get(address).into_iter().flatten().filter(|(other, _)| *other != name) {
                let Some((port, protocol)) = claim.shared_port(theirs) else { continue };
                let message = format!("VirtualIP {other} has this address with port {port} of {protocol}");
                let problem = Problem::new(nth("addresses", i), message).text(&address.to_string());
                problems.push(problem.advice("take the address or the ports from one of the two"));
            }
        }
        problems
    }

    /// Where an address of the claim lies in a prefix of another VirtualIP, or has one of its in it: allowed, and not seen at a glance.
    fn nested(&self, name: &str, claim: &Claim) -> Vec<(usize, String)> {
        let mut told = Vec::new();
        for (i, own) in claim.addresses.iter().enumerate() {
            let around = (1..own.length()).rev().filter_map(|bits| {
                let wider = Cidr::new(Cidr::new(own.address(), bits)?.first(), bits)?;
                self.vips.get_key_value(&wider)
            });
            // Of many, one tells enough.
            let wider = around.flat_map(|(wider, who)| who.iter().map(move |(other, _)| (wider, *other)));
            if let Some((wider, other)) = { wider }.find(|(_, other)| *other != name) {
                told.push((i, format!("VirtualIP {other} has {wider} around it: {own} goes by this VirtualIP alone, with its ports alone")));
            }
            let inside = self.vips.iter().filter(|(other, _)| {
                !own.is_address() && other.length() > own.length() && own.contains(other.address())
            });
            let inside = inside.flat_map(|(narrower, who)| who.iter().map(move |(other, _)| (*narrower, *other)));
            if let Some((narrower, other)) = inside.filter(|(_, other)| *other != name).min() {
                told.push((i, format!("VirtualIP {other} has {narrower} of it: that goes by that VirtualIP alone, with its ports alone")));
            }
        }
        told
    }
}

impl Claims<'_> {
    /// Whether a VirtualIP names the address itself.
    fn names(&self, address: IpAddr) -> bool {
        self.vips.contains_key(&Cidr::from(address))
    }

    /// The longest prefix of a VirtualIP that has the address, and which VirtualIP.
    fn around(&self, address: IpAddr) -> Option<(Cidr, &str)> {
        let bits = Cidr::from(address).length();
        (1..bits).rev().find_map(|bits| {
            let wider = Cidr::new(Cidr::new(address, bits)?.first(), bits)?;
            self.vips.get(&wider)?.first().map(|(name, _)| (wider, *name))
        })
    }
}

/// Whether the kernel refuses one of two sockets of one port. `::` takes the connections of IPv4 as well.
fn same_place(a: &[Cidr], b: &[Cidr]) -> bool {
    let covers = |a: IpAddr, b: IpAddr| a == b || a.is_unspecified() && (a.is_ipv6() || b.is_ipv4());
    let meet = |a: IpAddr, b: IpAddr| covers(a, b) || covers(b, a);
    a.is_empty() || b.is_empty() || a.iter().any(|a| b.iter().any(|b| meet(a.address(), b.address())))
}

impl<'o> Beside<'o> {
    pub fn new(outlines: impl IntoIterator<Item = &'o Outline>) -> Beside<'o> {
        let (mut claims, mut room) = (Vec::new(), Room::new(VIRTUAL_IPS));
        let (mut pipelines, mut global_filters, mut registries) = (HashSet::new(), HashSet::new(), HashSet::new());
        let mut alone: HashMap<&'o str, BTreeSet<&'o str>> = HashMap::new();
        let (mut prefixes, mut servers) = (HashMap::new(), BTreeMap::new());
        for outline in outlines {
            let name = outline.name.as_str();
            claims.extend(outline.claim.as_ref().map(|claim| (name, outline.kind.as_str(), claim)));
            room.take(outline);
            servers.extend(outline.servers.iter().map(|address| (*address, (outline.kind.as_str(), name))));
            if kinds::named(&outline.kind).is_some_and(|kind| kind.singleton) {
                alone.entry(outline.kind.as_str()).or_default().insert(name);
            }
            match outline.kind.as_str() {
                "AccessList" => drop(prefixes.insert(name, outline.prefixes)),
                "Pipeline" => drop(pipelines.insert(name)),
                "GlobalFilter" => drop(global_filters.insert(name)),
                kind if ServiceRegistrySpec::KINDS.contains(&kind) => drop(registries.insert(name)),
                // It knows the services of Kubernetes.
                "IngressController" | "GatewayController" => drop(registries.insert(name)),
                _ => {}
            }
        }
        Beside { claims: Claims::new(claims), pipelines, global_filters, registries, alone, prefixes, servers, room }
    }

    /// VirtualIPs there is room for on the edges. Default [`VIRTUAL_IPS`].
    pub fn vips_max(mut self, most: usize) -> Self {
        self.room.vips_max = most;
        self
    }

    /// What is written over. An object that takes no more room than it did is not refused for want of room: a drain must be possible
    /// whatever was stored by then.
    pub fn replacing(mut self, outlines: impl IntoIterator<Item = &'o Outline>) -> Self {
        self.room.replaced = outlines.into_iter().map(|outline| (outline.name.as_str(), outline)).collect();
        self
    }

    /// What only shows when the objects are seen together. `changed` is the object being written; an object of its name among the
    /// others is what it replaces, or itself.
    ///
    /// A port or address two objects claim refuses the change. A name that leads nowhere is only a warning, since people apply
    /// servers before pipelines and the server answers 503 until the pipeline comes.
    pub fn check(&self, changed: &Object) -> Findings {
        let mut findings = Findings::default();
        if let Some(claim) = Claim::of(&changed.spec) {
            findings.problems = self.claims.check(&changed.document.name, &claim);
            if claim.door == Door::VirtualIp {
                for (i, text) in self.claims.nested(&changed.document.name, &claim) {
                    findings.warn(nth("addresses", i), text);
                }
            }
            self.room.check(&changed.document.name, &claim, &mut findings);
            self.room.check_backends(&Outline::of(changed), &mut findings);
            self.check_sharers(&Outline::of(changed), &claim, &mut findings);
            self.check_prefixes(&changed.document.name, &claim, &mut findings);
            if let Spec::VirtualIp(vip) = &changed.spec {
                self.check_backends(&changed.document.name, vip, &claim, &mut findings);
            }
        }
        self.check_servers(&changed.document.spec, &mut findings);
        let (kind, name) = (changed.spec.kind(), changed.document.name.as_str());
        let other = self.alone.get(kind).and_then(|names| names.iter().find(|other| **other != name));
        if let Some(other) = other {
            let problem = Problem::new("kind", format!("there may be one of it, and {kind} {other} is there"));
            findings.problem(problem.text(kind).advice(format!("change {other}, or delete it first")));
        }
        if let Spec::AccessList(list) = &changed.spec {
            let others =
                self.prefixes.iter().filter(|(other, _)| **other != name).map(|(_, count)| count).sum::<usize>();
            if others > 0 && others + list.prefixes() > PREFIXES_MAX {
                findings.problem(too_many("deny", others + list.prefixes()));
            }
        }
        if let Spec::HttpServer(server) = &changed.spec
            && server.https
            && server.auto_cert
            && !self.alone.contains_key("AutoCertManager")
        {
            findings
                .warn("autoCert", "there is no AutoCertManager yet; certificates that are written are shown, if any");
        }
        match &changed.spec {
            Spec::HttpServer(server) => self.check_names(server, ("paths", "its requests get 503"), &mut findings),
            Spec::GrpcServer(server) => {
                self.check_names(&server.http(), ("methods", "its calls get NOT_FOUND"), &mut findings);
            }
            _ => {}
        }
        let asked: BTreeSet<String> =
            services_of(&changed.document.spec).into_iter().map(|(registry, _)| registry).collect();
        for registry in asked.iter().filter(|registry| !self.registries.contains(registry.as_str())) {
            let text =
                format!("there is no service registry {registry} yet; pools that ask it use the servers they list");
            findings.warn("serviceRegistry", text);
        }
        findings
    }

    /// Whoever shares an address has machines there as well, or backends as well: packets are told apart by their address.
    fn check_sharers(&self, changed: &Outline, claim: &Claim, findings: &mut Findings) {
        if claim.door != Door::VirtualIp {
            return;
        }
        for (i, address) in claim.addresses.iter().enumerate() {
            let sharers = self.claims.vips.get(address).into_iter().flatten().map(|(other, _)| *other);
            let mut others = sharers.filter(|other| *other != changed.name);
            if let Some(other) = others.find(|other| self.room.has_backends(other) != (changed.backends > 0)) {
                let (theirs, own) =
                    if changed.backends > 0 { ("machines", "backends") } else { ("backends", "machines") };
                let message = format!("VirtualIP {other} has {theirs} at this address, and this one {own}");
                let problem = Problem::new(nth("addresses", i), message).text(&address.to_string());
                findings.problem(problem.advice("take another address for one of the two"));
            }
        }
    }

    /// What is sent to a backend must not come to an edge again, and what comes from its sources is nobody's.
    fn check_backends(&self, name: &str, vip: &VirtualIpSpec, claim: &Claim, findings: &mut Findings) {
        let other = |meets: &dyn Fn(&Cidr) -> bool| {
            let of = self.claims.vips.iter().filter(|(prefix, _)| meets(prefix));
            let of = of.flat_map(|(prefix, of)| of.iter().map(move |(other, _)| (*other, *prefix)));
            of.filter(|(other, _)| *other != name).min_by_key(|(other, prefix)| (*other, prefix.length()))
        };
        for (i, backend) in vip.backends.iter().enumerate() {
            let Ok(address) = backend.address.parse::<IpAddr>() else { continue };
            if let Some((other, prefix)) = other(&|prefix| prefix.contains(address)) {
                let lies = if prefix.is_address() { "an address".to_owned() } else { format!("lies in {prefix}") };
                let message = format!("{lies} of VirtualIP {other}: packets would never leave the edges");
                let problem = Problem::new(at(&nth("backends", i), "address"), message).text(&backend.address);
                findings.problem(problem.advice("give the server's own address"));
            }
        }
        for (i, prefix) in claim.addresses.iter().enumerate().filter(|(_, prefix)| prefix.is_address()) {
            if let Some(other) = self.room.backend_of(prefix.first(), name) {
                let message =
                    format!("is a backend's of VirtualIP {other}: packets for that would never leave the edges");
                let problem = Problem::new(nth("addresses", i), message).text(&prefix.to_string());
                findings.problem(problem.advice(format!("take another address, or change {other} first")));
            }
        }
        for (field, range) in vip.backend_sources.iter().flat_map(|sources| sources.ranges()) {
            if let Some((other, prefix)) = other(&|prefix| range.meets(prefix)) {
                let message = format!("has addresses of VirtualIP {other} in it, {prefix}");
                let problem = Problem::new(at("backendSources", field), message).text(&range.to_string());
                findings.problem(problem.advice("take a prefix of addresses that are nobody's"));
            }
        }
    }

    /// A prefix is a local route of every edge: who connects to an address of it there meets the edge itself. One that was there before
    /// is no reason to refuse another change of the VirtualIP, a drain above all.
    fn check_prefixes(&self, name: &str, claim: &Claim, findings: &mut Findings) {
        let before = self.room.replaced.get(name).and_then(|outline| outline.claim.as_ref());
        let prefixes = claim.addresses.iter().enumerate().filter(|_| claim.door == Door::VirtualIp);
        for (i, prefix) in prefixes.filter(|(_, prefix)| !prefix.is_address()) {
            let inside = self.servers.range(prefix.first()..).take_while(|(address, _)| prefix.contains(**address));
            let mut inside = inside.filter(|(address, _)| !self.claims.names(**address));
            let Some((address, (kind, other))) = inside.next() else { continue };
            let message =
                format!("has {address} in it, a server of {kind} {other}: the edges would connect to themselves");
            let place = nth("addresses", i);
            if before.is_some_and(|before| before.addresses.contains(prefix)) {
                findings.warn(place, message);
                continue;
            }
            let advice =
                format!("take a prefix without it, or list {address} too if it is an address of this VirtualIP");
            findings.problem(Problem::new(place, message).text(&prefix.to_string()).advice(advice));
        }
    }

    /// The other way round.
    fn check_servers(&self, spec: &Value, findings: &mut Findings) {
        if self.claims.vips.keys().all(Cidr::is_address) {
            return;
        }
        for (address, place, url) in pool_servers(spec) {
            let Some((prefix, vip)) = self.claims.around(address).filter(|_| !self.claims.names(address)) else {
                continue;
            };
            let message = format!("lies in {prefix} of VirtualIP {vip}: the edges would connect to themselves");
            let advice =
                format!("take it out of the prefix, or list {address} in a VirtualIP if it is an address of one");
            findings.problem(Problem::new(place, message).text(url).advice(advice));
        }
    }

    /// `lists` is what a rule calls its routes, and what becomes of those that lead nowhere.
    fn check_names(&self, server: &HttpServerSpec, (lists, fate): (&str, &str), findings: &mut Findings) {
        for (r, rule) in server.rules.iter().enumerate() {
            for (p, path) in rule.paths.iter().enumerate() {
                if !path.backend.is_empty() && !self.pipelines.contains(path.backend.as_str()) {
                    let place = format!("rules[{r}].{lists}[{p}].backend");
                    findings.warn(place, format!("there is no Pipeline {} yet; {fate}", path.backend));
                }
            }
        }
        if !server.global_filter.is_empty() && !self.global_filters.contains(server.global_filter.as_str()) {
            findings.warn("globalFilter", format!("there is no GlobalFilter {} yet", server.global_filter));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tests::Kinds;
    use crate::problem::render;
    use crate::yaml::parse_document;
    use serde_json::json;

    fn read(yaml: &str) -> Object {
        Object::read(&parse_document(yaml).unwrap(), &Kinds).unwrap_or_else(|problems| panic!("{}", render(&problems)))
    }

    /// What is wrong with the last one beside the others.
    fn check(documents: &[&str], problems: &str, warnings: &[&str]) {
        let objects: Vec<Object> = documents.iter().map(|yaml| read(yaml)).collect();
        let outlines: Vec<Outline> = objects.iter().map(Outline::of).collect();
        for (object, outline) in objects.iter().zip(&outlines) {
            assert_eq!(Outline::read(&object.document.to_value()).as_ref(), Some(outline), "read without decoding");
        }
        let findings = Beside::new(&outlines).check(objects.last().unwrap());
        assert_eq!(render(&findings.problems), problems, "{documents:?}");
        let told: Vec<String> = findings.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(told, warnings, "{documents:?}");
    }

    #[test]
    fn of_some_kinds_there_is_one() {
        let manager =
            |name: &str| format!("name: {name}\nkind: AutoCertManager\nemail: a@b.test\ndomains: [{{name: b.test}}]");
        let server = "name: s\nkind: HTTPServer\nport: 443\nhttps: true\nautoCert: true";
        let (a, b) = (manager("a"), manager("b"));
        let twice = "kind = \"AutoCertManager\": there may be one of it, and AutoCertManager a is there; change a, or delete it first";
        check(&[&a, &b], twice, &[]);
        check(&[&a, &a], "", &[]);
        check(&[&a, server], "", &[]);
        let missing = "autoCert: there is no AutoCertManager yet; certificates that are written are shown, if any";
        check(&[server], "", &[missing]);
    }

    #[test]
    fn a_prefix_belongs_to_one_virtual_ip_and_what_lies_in_it_is_told() {
        let vip = |name: &str, address: &str, port: u16| {
            format!("name: {name}\nkind: VirtualIP\naddresses: ['{address}']\nports: [{port}]")
        };
        let wide = vip("a", "203.0.113.0/28", 80);
        let taken = "addresses[0] = \"203.0.113.0/28\": VirtualIP a has this address with port 80 of TCP; take the address or the ports \
                     from one of the two";
        check(&[&wide, &vip("b", "203.0.113.0/28", 80)], taken, &[]);
        check(&[&wide, &vip("b", "203.0.113.0/28", 443)], "", &[]);
        check(&[&wide, &vip("b", "203.0.113.16/28", 80)], "", &[]);
        let inside = "addresses[0]: VirtualIP a has 203.0.113.0/28 around it: 203.0.113.5 goes by this VirtualIP alone, with its ports alone";
        check(&[&wide, &vip("b", "203.0.113.5", 80)], "", &[inside]);
        let around =
            "addresses[0]: VirtualIP b has 203.0.113.5 of it: that goes by that VirtualIP alone, with its ports alone";
        check(&[&vip("b", "203.0.113.5", 80), &wide], "", &[around]);
        let six = (vip("a", "2001:db8::/32", 80), vip("b", "2001:db8:1::/48", 80));
        let inside = "addresses[0]: VirtualIP a has 2001:db8::/32 around it: 2001:db8:1::/48 goes by this VirtualIP alone, with its ports alone";
        check(&[&six.0, &six.1], "", &[inside]);
    }

    #[test]
    fn a_backend_is_at_no_address_of_a_virtual_ip() {
        let vip = |name: &str, rest: &str| format!("name: {name}\nkind: VirtualIP\nports: [80]\n{rest}");
        let direct = vip("direct", "addresses: [198.51.100.1]\nbackends: [{address: 10.0.0.1}, {address: 10.0.0.2}]");
        check(&[&vip("b", "addresses: [198.51.100.2]"), &direct], "", &[]);
        let lies = "backends[1].address = \"10.0.0.2\": an address of VirtualIP b: packets would never leave the edges; give the \
                    server's own address";
        check(&[&vip("b", "addresses: [10.0.0.2]"), &direct], lies, &[]);
        let other = vip("c", "addresses: [10.0.0.2]\nbackends: [{address: 10.0.0.9}]");
        let is = "addresses[0] = \"10.0.0.2\": is a backend's of VirtualIP direct: packets for that would never leave the edges; take another \
                  address, or change direct first";
        check(&[&direct, &other], is, &[]);
        check(&[&direct, &vip("c", "addresses: [10.0.0.2]")], is, &[]);
        // By prefix, both ways.
        let lies = "backends[0].address = \"10.0.0.1\": lies in 10.0.0.0/24 of VirtualIP b: packets would never leave the edges; give the \
                    server's own address\nbackends[1].address = \"10.0.0.2\": lies in 10.0.0.0/24 of VirtualIP b: packets would never leave \
                    the edges; give the server's own address";
        check(&[&vip("b", "addresses: [10.0.0.0/24]"), &direct], lies, &[]);
        let around = "addresses[0] = \"10.0.0.0/24\": has 10.0.0.1 in it, a server of VirtualIP direct: the edges would connect to themselves; \
                      take a prefix without it, or list 10.0.0.1 too if it is an address of this VirtualIP";
        check(&[&direct, &vip("b", "addresses: [10.0.0.0/24]")], around, &[]);
        // Two of them with one server, and one that is written anew.
        check(&[&direct, &vip("c", "addresses: [198.51.100.3]\nbackends: [{address: 10.0.0.2}]")], "", &[]);
        check(&[&direct, &direct], "", &[]);
        let sources = vip(
            "c",
            "addresses: [198.51.100.3]\nbackends: [{address: 10.0.0.2}]\nbackendSources: {ipv4: 198.51.100.0/30}",
        );
        let has = "backendSources.ipv4 = \"198.51.100.0/30\": has addresses of this VirtualIP in it, 198.51.100.3; take a prefix of \
                   addresses that are nobody's";
        let sources_of = |yaml: &str| match Object::read(&parse_document(yaml).unwrap(), &Kinds) {
            Ok(_) => String::new(),
            Err(problems) => render(&problems),
        };
        assert_eq!(sources_of(&sources), has);
        let has = "backendSources.ipv4 = \"198.51.100.0/30\": has addresses of VirtualIP direct in it, 198.51.100.1; take a prefix of \
                   addresses that are nobody's";
        check(&[&direct, &sources.replace("[198.51.100.3]", "[198.51.101.3]")], has, &[]);
    }

    #[test]
    fn no_prefix_has_a_server_of_a_pool_in_it() {
        let vip = |addresses: &str| format!("name: wide\nkind: VirtualIP\naddresses: [{addresses}]\nports: [8080]");
        let proxy =
            |url: &str| format!("name: back\nkind: TCPProxy\nport: 9000\npools: [{{servers: [{{url: '{url}'}}]}}]");
        let (here, six) = (proxy("tcp://10.20.5.5:8080"), proxy("tcp://[2001:db8:5::5]:8080"));
        let refused = "addresses[1] = \"10.20.0.0/16\": has 10.20.5.5 in it, a server of TCPProxy back: the edges would connect to themselves; \
                       take a prefix without it, or list 10.20.5.5 too if it is an address of this VirtualIP";
        check(&[&here, &vip("192.0.2.7, 10.20.0.0/16")], refused, &[]);
        let refused = "addresses[0] = \"2001:db8::/32\": has 2001:db8:5::5 in it, a server of TCPProxy back: the edges would connect to \
                       themselves; take a prefix without it, or list 2001:db8:5::5 too if it is an address of this VirtualIP";
        check(&[&six, &vip("'2001:db8::/32'")], refused, &[]);
        let refused = "pools[0].servers[0].url = \"tcp://10.20.5.5:8080\": lies in 10.20.0.0/16 of VirtualIP wide: the edges would connect to \
                       themselves; take it out of the prefix, or list 10.20.5.5 in a VirtualIP if it is an address of one";
        check(&[&vip("10.20.0.0/16"), &here], refused, &[]);
        for addresses in ["10.21.0.0/16", "10.20.5.5", "10.20.5.5, 10.20.0.0/16", "'2001:db8::/32'"] {
            check(&[&here, &vip(addresses)], "", &[]);
            check(&[&vip(addresses), &here], "", &[]);
        }
        // A drain is not refused for what was there before.
        let objects = [read(&here), read(&vip("10.20.0.0/16"))];
        let outlines: Vec<Outline> = objects.iter().map(Outline::of).collect();
        let findings = Beside::new(&outlines).replacing(&outlines[1..]).check(&objects[1]);
        assert_eq!((render(&findings.problems), findings.warnings.len()), (String::new(), 1));
    }

    #[test]
    fn a_port_belongs_to_one_server() {
        let taken = "port = 80: taken by HTTPServer t; choose another port, or delete that server first";
        let here = |address: &str| format!("Name: t\nkind: HTTPServer\nPORT: 80\nAddress: '{address}'");
        let ours = |address: &str| format!("name: s\nkind: HTTPServer\nport: 80\naddress: '{address}'");
        for (a, b, problems) in [
            ("", "", taken),
            ("10.0.0.1", "", taken),
            ("", "10.0.0.1", taken),
            ("10.0.0.1", "10.0.0.1", taken),
            ("10.0.0.1", "10.0.0.2", ""),
            ("0.0.0.0", "10.0.0.1", taken),
            ("10.0.0.1", "::", taken),
            ("0.0.0.0", "::1", ""),
            ("::1", "0:0::1", taken),
        ] {
            check(&[&here(a), &ours(b)], problems, &[]);
        }
        check(&["name: t\nkind: HTTPServer\nport: 81", &ours("")], "", &[]);
        check(&["name: s\nkind: HTTPServer\nport: 80", &ours("")], "", &[]);
    }

    #[test]
    fn ports_of_other_protocols_are_other_ports() {
        let read = |document: serde_json::Value| Outline::read(&document).unwrap();
        let server = |name: &str, more: bool| json!({"name": name, "kind": "HTTPServer", "port": 443, "HTTP3": more});
        let (plain, both) = (read(server("plain", false)), read(server("both", true)));
        let protocols = |outline: &Outline| outline.claim.clone().unwrap().protocols;
        assert_eq!((protocols(&plain), protocols(&both)), (vec![Protocol::Tcp], vec![Protocol::Tcp, Protocol::Udp]));
        let claim = |protocols: &[Protocol]| Claim { protocols: protocols.to_vec(), ..both.claim.clone().unwrap() };
        let told = |there: &Claim, new: &Claim| render(&Claims::new([("t", "MQTTProxy", there)]).check("s", new));
        let (tcp, udp) = (claim(&[Protocol::Tcp]), claim(&[Protocol::Udp]));
        assert_eq!((told(&tcp, &udp), told(&udp, &tcp)), (String::new(), String::new()));
        let rest = "choose another port, or delete that server first";
        assert_eq!(told(&tcp, &claim(&protocols(&both))), format!("port = 443: taken by MQTTProxy t; {rest}"));
        assert_eq!(told(&udp, &claim(&protocols(&both))), format!("port = 443: taken for UDP by MQTTProxy t; {rest}"));
    }

    #[test]
    fn an_address_with_its_port_belongs_to_one_virtual_ip() {
        let vip = |name: &str, rest: &str| format!("name: {name}\nkind: VirtualIP\n{rest}");
        let here = vip("a", "addresses: [1.2.3.4]\nports: [80]");
        check(
            &[&here, &vip("b", "addresses: [1.2.3.5, 1.2.3.4]")],
            "addresses[1] = \"1.2.3.4\": VirtualIP a has this address with port 80 of TCP; take the address or the ports from one of the two",
            &[],
        );
        check(&[&here, &vip("b", "addresses: [1.2.3.4]\nports: ['81-90']")], "", &[]);
        check(
            &[
                &vip("a", "addresses: [1.2.3.4]\nports: ['70-85', 443]"),
                &vip("b", "addresses: [1.2.3.4]\nports: ['80-90']"),
            ],
            "addresses[0] = \"1.2.3.4\": VirtualIP a has this address with port 80-85 of TCP; take the address or the ports from one of the two",
            &[],
        );
        check(
            &[&vip("a", "addresses: [1.2.3.4]\nprotocols: [UDP]"), &vip("b", "addresses: [1.2.3.4]\nprotocols: [TCP]")],
            "",
            &[],
        );
        check(&[&here, "name: s\nkind: HTTPServer\nport: 80"], "", &[]);
    }

    #[test]
    fn names_that_lead_nowhere_are_warnings() {
        let server =
            "name: s\nkind: HTTPServer\nport: 80\nglobalFilter: g\nrules: [{paths: [{backend: p}, {backend: q}]}]";
        let pipeline = "name: p\nkind: Pipeline\nfilters: [{name: m, kind: Mock}]";
        check(
            &[pipeline, server],
            "",
            &[
                "rules[0].paths[1].backend: there is no Pipeline q yet; its requests get 503",
                "globalFilter: there is no GlobalFilter g yet",
            ],
        );
        let asks =
            "name: p\nkind: Pipeline\nfilters: [{name: m, kind: Mock, pools: [{serviceRegistry: r, serviceName: s}]}]";
        let none = "serviceRegistry: there is no service registry r yet; pools that ask it use the servers they list";
        check(&[pipeline, asks], "", &[none]);
        check(&["name: r\nkind: DNSServiceRegistry", asks], "", &[]);
        let written =
            parse_document("kind: HTTPServer\nRules: [{Paths: [{Backend: p}, {backend: q}, {backend: p}]}, {}]");
        assert_eq!(["p", "q", "r"].map(|name| routes_to(written.as_ref().unwrap(), name)), [2, 1, 0]);
    }
}

//! `kind: VirtualIP`: addresses the kernel spreads over the edge machines.
//!
//! ```yaml
//! kind: VirtualIP
//! name: shop
//! addresses: [203.0.113.10, 198.51.100.0/28, "2001:db8::10"]
//! ports: [80, 443, "8000-8099"]
//! protocols: [TCP]
//! hash: fiveTuple
//! machines:
//! - {name: edge-1, weight: 2}
//! - {name: edge-3, state: draining}
//! limits:
//!   newConnections: {perSecond: 20000, burst: 40000}
//!   newConnectionsPerSource: {perSecond: 50, burst: 200}
//!   synCookies: {perSecond: 5000}
//! ```

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::document::check_name;
use crate::duration::GoDuration;
use crate::ip_filter::Cidr;
use crate::problem::{Findings, Problem, at, nth};
use crate::repeats::repeats;

/// Addresses shared by the edge machines: each packet's flow is hashed to one of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["addresses"]))]
pub struct VirtualIpSpec {
    /// One or more addresses, or prefixes such as 203.0.113.0/28, IPv4 and IPv6. Two VirtualIPs may share an address, or a prefix, when no
    /// port and protocol is in both. An address goes by what is said of it alone, or else of the longest prefix that has it, and by that
    /// with its ports alone. A prefix with an address of a machine, or of a router it sends by, is left out of steering, and so is, at each
    /// machine, one that overlaps a network this machine is on.
    pub addresses: Vec<String>,
    /// Ports that are steered: a list of numbers and ranges such as "8000-8099", or `any`. Default any.
    pub ports: PortsSpec,
    /// Protocols that are steered. Default TCP and UDP.
    pub protocols: Vec<Protocol>,
    /// What of a packet chooses the machine. Default fiveTuple.
    pub hash: HashMode,
    /// How much of the client's address counts with `hash: sourcePrefix`, in bits.
    pub source_prefix_length: SourcePrefixLength,
    /// Machines that own flows. Default: every edge of the cluster, weight 1, active.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub machines: Vec<MachineSpec>,
    /// Servers that own flows in the place of machines, do not run Weir, and answer clients themselves: see BackendSpec.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<BackendSpec>,
    /// How backends are asked whether they are well. Default: with a TCP connection each 5s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_check: Option<BackendCheckSpec>,
    /// Where packets for backends come from. Default: from the address of the machine that sends them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_sources: Option<BackendSourcesSpec>,
    /// How long backends that take no new connections keep those they have: that drain, fail their checks or were left out. Also how long
    /// connections may be silent when another backend takes their slot's new ones. 1s or longer. Default 5m.
    pub drain_timeout: GoDuration,
    /// How fast TCP connections may begin. Default: as fast as they come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<VipLimitsSpec>,
}

/// How fast TCP connections to a VirtualIP may begin. Each machine counts for itself the SYNs that reach it from outside, whichever
/// machine serves them, and drops those beyond in the kernel (`weir_xdp_packets_total` with the reasons `vip_limited` and
/// `source_limited`): a client whose SYN was dropped tries again after a second. Connections that are there, and datagrams, are not
/// limited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VipLimitsSpec {
    /// All new connections of the VirtualIP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_connections: Option<ConnectionRateSpec>,
    /// Those of one source, counted first. The kernel remembers 65536 sources; with more at a time, those longest unheard of begin anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_connections_per_source: Option<SourceRateSpec>,
    /// New connections that a machine takes without SYN cookies. SYNs beyond are answered with them in the kernel's programs, before its
    /// stack or anybody's memory is asked (`weir_xdp_packets_total` with the reason `syn_cookie_sent`), and what belongs to no connection
    /// and brings no cookie is dropped (`syn_cookie_wrong`): a flood from forged addresses keeps no client out. Give a rate that
    /// clients alone do not reach. Counted, and answered, by the machine that serves the connection, whichever machine passed the SYN
    /// on to it: then over the router that its routes name for the client. SYNs with IP options, those that come before a listener's queue
    /// has been full once, or again after two minutes, and those passed on of clients that no router of the interface leads to (the log
    /// says when there is none) are its stack's, which makes cookies, too. Connections that begin by a cookie have window scaling and
    /// selective acknowledgement only where `net.ipv4.tcp_timestamps` is 2. Needs Linux 6.0; `weir doctor` says what is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syn_cookies: Option<ConnectionRateSpec>,
}

/// How fast, and how many at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["perSecond"]))]
pub struct ConnectionRateSpec {
    /// New connections in a second, 1 to 10000000.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub per_second: u32,
    /// New connections at once, after a pause, 1 to 10000000. Default: as many as in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub burst: Option<u32>,
}

/// How fast, and how many at once, for each source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["perSecond"]))]
pub struct SourceRateSpec {
    /// New connections in a second, 1 to 10000000.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub per_second: u32,
    /// New connections at once, after a pause, 1 to 10000000. Default: as many as in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub burst: Option<u32>,
    /// How much of a client's address makes a source, in bits.
    pub prefix_length: LimitPrefixLength,
}

/// Bits of a client's address that make a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LimitPrefixLength {
    /// Of an IPv4 address, 1 to 32. Default 32.
    #[schemars(range(min = 1, max = 32))]
    pub ipv4: u8,
    /// Of an IPv6 address, 1 to 128. Default 64.
    #[schemars(range(min = 1, max = 128))]
    pub ipv6: u8,
}

impl Default for LimitPrefixLength {
    fn default() -> Self {
        Self { ipv4: 32, ipv6: 64 }
    }
}

impl Default for VirtualIpSpec {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            ports: PortsSpec::Any,
            protocols: vec![Protocol::Tcp, Protocol::Udp],
            hash: HashMode::FiveTuple,
            source_prefix_length: SourcePrefixLength::default(),
            machines: Vec::new(),
            backends: Vec::new(),
            backend_check: None,
            backend_sources: None,
            drain_timeout: GoDuration::from_secs(300),
            limits: None,
        }
    }
}

/// What of a packet chooses the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum HashMode {
    /// Both addresses, both ports and the protocol: every connection on its own.
    #[default]
    FiveTuple,
    /// The client's address: all its connections meet on one machine.
    #[serde(rename = "sourceIP")]
    SourceIp,
    /// The client's network, see `sourcePrefixLength`.
    SourcePrefix,
    /// The port that is called, the same for everybody.
    DestinationPort,
}

/// Protocols the kernel steers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

impl Protocol {
    /// The number in the IP header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// Bits of the client's address that count with `hash: sourcePrefix`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SourcePrefixLength {
    /// Of an IPv4 address, 1 to 32. Default 24.
    #[schemars(range(min = 1, max = 32))]
    pub ipv4: u8,
    /// Of an IPv6 address, 1 to 128. Default 56.
    #[schemars(range(min = 1, max = 128))]
    pub ipv6: u8,
}

impl Default for SourcePrefixLength {
    fn default() -> Self {
        Self { ipv4: 24, ipv6: 56 }
    }
}

/// A machine's share in a VirtualIP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]))]
pub struct MachineSpec {
    /// The machine's `--name`.
    pub name: String,
    /// Its share of new flows against the others', 1 to 1000. Default 1.
    #[schemars(range(min = 1, max = 1000))]
    pub weight: u32,
    /// Whether it takes new flows. Default active.
    pub state: MachineState,
}

impl Default for MachineSpec {
    fn default() -> Self {
        Self { name: String::new(), weight: 1, state: MachineState::Active }
    }
}

/// A server that does not run Weir. Whichever edge gets a packet of its flows sends it there as IP in IP (IPv4 or IPv6 in IPv4 or IPv6, as
/// the addresses are), the packet itself unchanged, and the server answers the client from the VirtualIP's address without an edge in
/// between. So it needs a tunnel device for what comes (`ip link add … type ipip external`, or ip6tnl or sit), the VirtualIP's addresses on
/// `lo`, and segments that fit with 20 bytes more around them, 40 over IPv6 (`advmss`); edges tell clients whose packets do not fit.
/// Maglev spreads flows by weights as over machines. Connections stay with their backend when others come or go, and with one that drains or
/// fails for `drainTimeout`, while the edge they began at lives and is the one that routers send them to: an edge remembers 65536 of those
/// whose slot another has taken, which have to speak once within `drainTimeout` after that. Datagrams go to who takes new flows. A
/// change of `hash`, or from machines to backends, moves connections like new ones. An edge leaves backends out that have an address of a
/// family it has none of, or that of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["address"]))]
pub struct BackendSpec {
    /// What it is called in metrics and by `weirctl trace`. Default: its address. Shares of flows follow from names.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where packets are sent: an IPv4 or IPv6 address that is no VirtualIP.
    pub address: String,
    /// Its share of new flows against the others', 1 to 1000. Default 1.
    #[schemars(range(min = 1, max = 1000))]
    pub weight: u32,
    /// Whether it takes new flows. One that drains keeps its connections for `drainTimeout`. Default active.
    pub state: MachineState,
}

impl Default for BackendSpec {
    fn default() -> Self {
        Self { name: String::new(), address: String::new(), weight: 1, state: MachineState::Active }
    }
}

impl BackendSpec {
    /// What it is called.
    pub fn label(&self) -> &str {
        if self.name.is_empty() { &self.address } else { &self.name }
    }
}

/// How backends are asked whether they are well: each edge asks for itself, with a connection to the VirtualIP's first address that goes
/// the way of the packets, as IP in IP to the backend and straight back. So it fails where the server takes no tunnels, has no such address
/// or answers another way. One that fails takes no new flows at that edge; where all fail, all do. Of a VirtualIP without TCP a server that
/// refuses the connection is well too: it has the address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendCheckSpec {
    /// `tcp` (a connection) or `http` (an answer over one). Default tcp.
    #[serde(rename = "type")]
    pub type_: BackendCheckType,
    /// Port of the VirtualIP that is asked. Default: the first of `ports`; where those are `any`, 80.
    pub port: u16,
    /// Time between two checks of a backend, 1s or longer. Default 5s.
    pub interval: GoDuration,
    /// How long a check may take, 10ms to 1m. Default 2s.
    pub timeout: GoDuration,
    /// Failures in a row after which a backend takes no new flows; 1 or more. The first check of one decides by itself. Default 3.
    #[schemars(range(min = 1))]
    pub fails: u32,
    /// Successes in a row after which it takes some again; 1 or more. Default 2.
    #[schemars(range(min = 1))]
    pub passes: u32,
    /// Path and query that `http` asks for. Default /.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uri: String,
    /// Host that `http` asks for. Default: the VirtualIP's address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// Ranges of status codes that are well, both ends included. Default [[200, 399]].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub status_codes: Vec<[u16; 2]>,
}

impl Default for BackendCheckSpec {
    fn default() -> Self {
        Self {
            type_: BackendCheckType::Tcp,
            port: 0,
            interval: GoDuration::from_secs(5),
            timeout: GoDuration::from_secs(2),
            fails: 3,
            passes: 2,
            uri: String::new(),
            host: String::new(),
            status_codes: Vec::new(),
        }
    }
}

/// What a check of a backend speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackendCheckType {
    #[default]
    Tcp,
    Http,
}

/// Addresses that packets for backends are sent from, one for each flow, so that the queues of a server's network card share the work: many
/// look at addresses alone where packets are IP in IP. They must be nobody's, and what checks where packets come from (uRPF in routers,
/// rp_filter of servers) must expect them from the edges.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendSourcesSpec {
    /// A prefix of IPv4 addresses, /8 to /32, such as 10.99.0.0/16. Default: the edge's own address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ipv4: String,
    /// A prefix of IPv6 addresses, /16 to /128; of a long one the last 32 bits differ. Default: the edge's own address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ipv6: String,
}

/// Whether a machine takes new flows and keeps its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum MachineState {
    /// Takes new flows.
    #[default]
    Active,
    /// Takes no new flows, keeps its own for as long as it holds connections; so does one that is left out of `machines`. Of those that
    /// had the same flows before, three are remembered: with a fourth that drains at the same time the longest gone is forgotten.
    Draining,
    /// Gets nothing.
    Down,
}

/// Ports `low` to `high`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    pub low: u16,
    pub high: u16,
}

impl PortRange {
    pub const ALL: Self = Self { low: 1, high: u16::MAX };

    pub const fn one(port: u16) -> Self {
        Self { low: port, high: port }
    }
    pub const fn contains(&self, port: u16) -> bool {
        self.low <= port && port <= self.high
    }

    fn parse(text: &str) -> Result<Self, String> {
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
        let range = match text.split_once('-') {
            Some((low, high)) => port(low).zip(port(high)),
            None => port(text).map(|port| (port, port)),
        };
        match range {
            Some((low, high)) if low <= high => Ok(Self { low, high }),
            Some((low, high)) => Err(format!("the range ends before it begins; write \"{high}-{low}\"")),
            None => Err("not a port; write 443 or \"8000-8099\" with ports from 1 to 65535".to_owned()),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.low == self.high { write!(f, "{}", self.low) } else { write!(f, "{}-{}", self.low, self.high) }
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.low == self.high { serializer.serialize_u16(self.low) } else { serializer.collect_str(self) }
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Self::parse(&text).map_err(D::Error::custom),
            serde_json::Value::Number(number) => Self::parse(&number.to_string()).map_err(D::Error::custom),
            _ => Err(D::Error::custom("not a port; write 443 or \"8000-8099\"")),
        }
    }
}

/// `any`, or the ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortsSpec {
    Any,
    List(Vec<PortRange>),
}

impl PortsSpec {
    pub fn contains(&self, port: u16) -> bool {
        match self {
            Self::Any => true,
            Self::List(ranges) => ranges.iter().any(|range| range.contains(port)),
        }
    }
}

impl Serialize for PortsSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Any => serializer.serialize_str("any"),
            Self::List(ranges) => ranges.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for PortsSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) if text == "any" => Ok(Self::Any),
            list @ serde_json::Value::Array(_) => {
                let ranges: Vec<PortRange> = serde_path_to_error::deserialize(list)
                    .map_err(|error| D::Error::custom(format!("entry {}: {}", error.path(), error.inner())))?;
                Ok(Self::List(ranges))
            }
            one @ (serde_json::Value::Number(_) | serde_json::Value::String(_)) => {
                Ok(Self::List(vec![PortRange::deserialize(one).map_err(D::Error::custom)?]))
            }
            _ => Err(D::Error::custom("not ports; write any, or a list such as [80, \"8000-8099\"]")),
        }
    }
}

impl JsonSchema for PortsSpec {
    fn schema_name() -> Cow<'static, str> {
        "Ports".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-accepted": "any, or a list such as [80, \"8000-8099\"]",
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 65535},
                {"type": "string"},
                {"type": "array", "items": {
                    "x-accepted": "a port or a range such as \"8000-8099\"",
                    "anyOf": [{"type": "integer", "minimum": 1, "maximum": 65535}, {"type": "string"}],
                }},
            ],
        })
    }
}

impl VirtualIpSpec {
    /// The addresses and prefixes that parse.
    pub fn prefixes(&self) -> impl Iterator<Item = Cidr> + '_ {
        self.addresses.iter().filter_map(|text| text.parse().ok())
    }

    pub fn validate(&self, path: &str, findings: &mut Findings) {
        let addresses = at(path, "addresses");
        if self.addresses.is_empty() {
            findings.problem(
                Problem::new(&addresses, "is empty").advice("list at least one IPv4 or IPv6 address or prefix"),
            );
        }
        let mut seen = HashSet::new();
        for (i, text) in self.addresses.iter().enumerate() {
            let place = nth(&addresses, i);
            match text.parse::<Cidr>().map_err(|_| not_a_prefix(text)).and_then(|prefix| check_prefix(text, prefix)) {
                Err((message, accepted)) => {
                    let problem = Problem::new(&place, message).text(text);
                    findings.problem(match accepted {
                        Told::Advice(what) => problem.advice(what),
                        Told::Accepted(what) => problem.accepted(what),
                    });
                }
                Ok(prefix) if !seen.insert(prefix) => {
                    findings.problem(Problem::new(&place, "given twice").text(text).advice("remove one"));
                }
                Ok(_) => {}
            }
        }
        let around = |prefix: &Cidr| {
            seen.iter()
                .find(|other| *other != prefix && other.contains(prefix.address()) && other.length() < prefix.length())
        };
        for (i, text) in self.addresses.iter().enumerate() {
            if let Some(other) = text.parse().ok().filter(|prefix| seen.contains(prefix)).as_ref().and_then(around) {
                findings.warn(nth(&addresses, i), format!("has no effect: {other} of this list has it in it"));
            }
        }
        self.validate_ports(&at(path, "ports"), findings);
        let protocols = at(path, "protocols");
        if self.protocols.is_empty() {
            findings.problem(Problem::new(&protocols, "is empty").advice("leave it out for both, or list TCP, UDP"));
        }
        for (i, _) in repeats(&self.protocols) {
            findings.problem(Problem::new(nth(&protocols, i), "given twice").advice("remove one"));
        }
        if self.hash != HashMode::SourcePrefix && self.source_prefix_length != SourcePrefixLength::default() {
            findings.warn(at(path, "sourcePrefixLength"), "has no effect: only hash sourcePrefix looks at it");
        }
        self.validate_machines(&at(path, "machines"), findings);
        self.validate_backends(path, findings);
        if let Some(limits) = &self.limits {
            let path = at(path, "limits");
            if *limits == VipLimitsSpec::default() {
                findings.warn(&path, "limits nothing: give newConnections, newConnectionsPerSource or synCookies");
            } else if !self.protocols.is_empty() && !self.protocols.contains(&Protocol::Tcp) {
                findings.warn(&path, "has no effect: only TCP connections are limited, and protocols has no TCP");
            }
        }
    }

    fn validate_ports(&self, path: &str, findings: &mut Findings) {
        let PortsSpec::List(ranges) = &self.ports else { return };
        if ranges.is_empty() {
            findings.problem(Problem::new(path, "is empty").advice("write any to steer every port"));
        }
        let services = ranges.len() * self.protocols.len();
        if services > SERVICES_MAX {
            let times = if self.protocols.len() > 1 { " for two protocols" } else { "" };
            let problem = Problem::new(path, format!("{} entries{times}", ranges.len()));
            let room = SERVICES_MAX / self.protocols.len().max(1);
            findings
                .problem(problem.accepted(format!("at most {room}")).advice("join neighbours to ranges, or write any"));
            return;
        }
        for (i, range) in ranges.iter().enumerate() {
            if let Some(other) = ranges[..i].iter().find(|other| other.low <= range.high && range.low <= other.high) {
                let problem = Problem::new(nth(path, i), format!("overlaps with {other}")).text(&range.to_string());
                findings.problem(problem.advice("list every port once"));
            }
        }
    }

    fn validate_machines(&self, path: &str, findings: &mut Findings) {
        let twins: HashSet<usize> =
            repeats(self.machines.iter().map(|machine| &machine.name)).map(|(later, _)| later).collect();
        for (i, machine) in self.machines.iter().enumerate() {
            let place = nth(path, i);
            if let Some(problem) = check_name(&machine.name, &at(&place, "name")) {
                findings.problem(problem);
            }
            if twins.contains(&i) {
                findings
                    .problem(Problem::new(at(&place, "name"), "given twice").text(&machine.name).advice("remove one"));
            }
            if !(1..=WEIGHT_MAX).contains(&machine.weight) {
                let problem = Problem::new(at(&place, "weight"), "out of range").value(&machine.weight.into());
                findings.problem(
                    problem.accepted(format!("1 to {WEIGHT_MAX}")).advice("use state: draining or down for none"),
                );
            }
        }
        if !self.machines.is_empty() && self.machines.iter().all(|machine| machine.state != MachineState::Active) {
            findings.warn(path, "no machine is active: new flows have nowhere to go");
        }
    }
}

impl VirtualIpSpec {
    fn validate_backends(&self, path: &str, findings: &mut Findings) {
        let place = at(path, "backends");
        if self.backends.is_empty() {
            let unused = [
                ("backendCheck", self.backend_check.is_some()),
                ("backendSources", self.backend_sources.is_some()),
                ("drainTimeout", self.drain_timeout != VirtualIpSpec::default().drain_timeout),
            ];
            for (field, _) in unused.iter().filter(|(_, given)| *given) {
                findings.warn(at(path, field), "has no effect: there are no backends");
            }
        } else if !self.machines.is_empty() {
            let problem = Problem::new(&place, "given beside machines");
            findings.problem(problem.advice("give the one or the other: flows go to machines or to backends"));
        }
        if self.backends.len() > BACKENDS_MAX {
            let problem = Problem::new(&place, format!("{} backends", self.backends.len()));
            findings.problem(problem.accepted(format!("at most {BACKENDS_MAX} of all VirtualIPs together")));
        }
        let names: HashSet<usize> =
            repeats(self.backends.iter().map(BackendSpec::label)).map(|(later, _)| later).collect();
        // However it is written.
        let address = |backend: &BackendSpec| {
            let ip = backend.address.parse::<IpAddr>();
            ip.map_or_else(|_| backend.address.clone(), |ip| ip.to_string())
        };
        let addresses: HashSet<usize> = repeats(self.backends.iter().map(address)).map(|(later, _)| later).collect();
        for (i, backend) in self.backends.iter().enumerate() {
            let place = nth(&place, i);
            if !backend.name.is_empty()
                && let Some(problem) = check_name(&backend.name, &at(&place, "name"))
            {
                findings.problem(problem);
            }
            let text = backend.address.as_str();
            let wrong = |what: String| Problem::new(at(&place, "address"), what).text(text);
            match text.parse::<IpAddr>() {
                Err(_) => {
                    let advice = "write an address such as 10.0.1.11 or 2001:db8:1::11, without prefix and port";
                    findings.problem(wrong("not an IP address".to_owned()).advice(advice));
                }
                Ok(ip) if check_prefix(text, ip.into()).is_err() => {
                    findings.problem(
                        wrong("no address that packets can be sent to".to_owned()).accepted("a unicast address"),
                    );
                }
                Ok(ip) if self.prefixes().any(|prefix| prefix.contains(ip)) => {
                    let problem = wrong("an address of this VirtualIP: packets would never leave the edges".to_owned());
                    findings.problem(problem.advice("give the server's own address"));
                }
                Ok(_) => {}
            }
            let twice = [(addresses.contains(&i), "address", text), (names.contains(&i), "name", backend.label())];
            if let Some((_, field, text)) = twice.into_iter().find(|(twice, ..)| *twice) {
                findings.problem(Problem::new(at(&place, field), "given twice").text(text).advice("remove one"));
            }
            if !(1..=WEIGHT_MAX).contains(&backend.weight) {
                let problem = Problem::new(at(&place, "weight"), "out of range").value(&backend.weight.into());
                findings.problem(
                    problem.accepted(format!("1 to {WEIGHT_MAX}")).advice("use state: draining or down for none"),
                );
            }
        }
        if !self.backends.is_empty() && self.backends.iter().all(|backend| backend.state != MachineState::Active) {
            findings.warn(&place, "no backend is active: new flows have nowhere to go");
        }
        if !self.backends.is_empty() && self.limits.as_ref().is_some_and(|limits| limits.syn_cookies.is_some()) {
            let told = "has no effect: connections of backends are answered by them, and so are SYN cookies made there";
            findings.warn(at(&at(path, "limits"), "synCookies"), told);
        }
        if self.drain_timeout.nanos() < NANOS {
            let problem = Problem::new(at(path, "drainTimeout"), "too short");
            findings.problem(problem.text(&self.drain_timeout.to_string()).accepted("1s or longer"));
        }
        if let Some(check) = &self.backend_check {
            check.validate(&self.ports, &at(path, "backendCheck"), findings);
        }
        if let Some(sources) = &self.backend_sources {
            let path = at(path, "backendSources");
            sources.validate(&path, findings);
            self.validate_sources(sources, &path, findings);
        }
    }

    /// What comes from there is to be nobody's: answers and errors to a virtual IP or a backend would be taken for others.
    fn validate_sources(&self, sources: &BackendSourcesSpec, path: &str, findings: &mut Findings) {
        let backends = self.backends.iter().filter_map(|backend| backend.address.parse::<IpAddr>().ok());
        let backends: Vec<IpAddr> = backends.collect();
        for (field, range) in sources.ranges() {
            let inside = backends
                .iter()
                .find(|address| range.contains(**address))
                .map(|address| format!("has backend {address} in it"));
            let own = self.prefixes().find(|prefix| range.meets(prefix));
            let own = own.map(|prefix| format!("has addresses of this VirtualIP in it, {prefix}"));
            if let Some(message) = inside.or(own) {
                let problem = Problem::new(at(path, field), message).text(&range.to_string());
                findings.problem(problem.advice("take a prefix of addresses that are nobody's"));
            }
        }
    }

    /// The port that backends are asked at.
    pub fn checked_port(&self) -> u16 {
        let port = self.backend_check.as_ref().map_or(0, |check| check.port);
        match &self.ports {
            _ if port != 0 => port,
            PortsSpec::List(ranges) => ranges.first().map_or(80, |range| range.low),
            PortsSpec::Any => 80,
        }
    }
}

impl BackendCheckSpec {
    fn validate(&self, ports: &PortsSpec, path: &str, findings: &mut Findings) {
        if self.port != 0 && !ports.contains(self.port) {
            findings.warn(at(path, "port"), format!("{} is none of the VirtualIP's ports", self.port));
        }
        let durations = [
            ("interval", self.interval, NANOS, i64::MAX, "1s or longer"),
            ("timeout", self.timeout, NANOS / 100, 60 * NANOS, "10ms to 1m"),
        ];
        for (field, given, least, most, accepted) in durations {
            if !(least..=most).contains(&given.nanos()) {
                let problem = Problem::new(at(path, field), "out of range").text(&given.to_string());
                findings.problem(problem.accepted(accepted));
            }
        }
        for (field, text) in [("uri", &self.uri), ("host", &self.host)] {
            if text.len() > TEXT_MAX || text.bytes().any(|byte| !(0x21..0x7f).contains(&byte)) {
                let problem =
                    Problem::new(at(path, field), "nothing that can stand in the head of a request").text(text);
                findings.problem(problem.accepted(format!("at most {TEXT_MAX} letters of ASCII without blanks")));
            }
        }
        if !self.uri.is_empty() && !self.uri.starts_with('/') {
            findings.problem(Problem::new(at(path, "uri"), "does not begin with /").text(&self.uri));
        }
        for (i, [low, high]) in self.status_codes.iter().enumerate() {
            if !(100..=599).contains(low) || !(100..=599).contains(high) || low > high {
                let problem = Problem::new(nth(&at(path, "statusCodes"), i), "not a range of status codes");
                findings.problem(problem.text(&format!("{low}-{high}")).accepted("[low, high] from 100 to 599"));
            }
        }
        let of_http = [
            ("uri", !self.uri.is_empty()),
            ("host", !self.host.is_empty()),
            ("statusCodes", !self.status_codes.is_empty()),
        ];
        for (field, _) in of_http.iter().filter(|(_, given)| *given && self.type_ == BackendCheckType::Tcp) {
            findings.warn(at(path, field), "has no effect: only type http looks at it");
        }
    }

    /// Whether an answer of this status is one of a server that is well.
    pub fn accepts(&self, status: u16) -> bool {
        let usual = [[200, 399]];
        let ranges = if self.status_codes.is_empty() { &usual[..] } else { &self.status_codes };
        ranges.iter().any(|[low, high]| (*low..=*high).contains(&status))
    }
}

impl BackendSourcesSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        for (field, text, v4) in [("ipv4", &self.ipv4, true), ("ipv6", &self.ipv6, false)] {
            let place = at(path, field);
            if text.is_empty() {
                continue;
            }
            match text.parse::<Cidr>().map_err(|_| not_a_prefix(text)).and_then(|prefix| check_prefix(text, prefix)) {
                Err((message, told)) => {
                    let problem = Problem::new(&place, message).text(text);
                    findings.problem(match told {
                        Told::Advice(what) => problem.advice(what),
                        Told::Accepted(what) => problem.accepted(what),
                    });
                }
                Ok(prefix) if prefix.address().is_ipv4() != v4 => {
                    let accepted = if v4 { "a prefix of IPv4 addresses" } else { "a prefix of IPv6 addresses" };
                    findings.problem(Problem::new(&place, "of the other family").text(text).accepted(accepted));
                }
                Ok(_) => {}
            }
        }
    }

    /// Those that can be read.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (&'static str, Cidr)> {
        [("ipv4", true), ("ipv6", false)].into_iter().filter_map(|(field, v4)| {
            let range = self.of(v4).filter(|range| range.address().is_ipv4() == v4)?;
            Some((field, range))
        })
    }

    /// The prefix for backends of a family.
    pub fn of(&self, v4: bool) -> Option<Cidr> {
        (if v4 { &self.ipv4 } else { &self.ipv6 }).parse().ok()
    }
}

/// What is told beside what is wrong.
enum Told {
    Advice(String),
    Accepted(String),
}

fn not_a_prefix(text: &str) -> (String, Told) {
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    if let (Ok(address), true) = (address.parse::<IpAddr>(), text.contains('/')) {
        let [least, most] = lengths(address);
        let message = format!("{} is no length of a prefix of {address}", base_text::quoted(length));
        return (message, Told::Accepted(format!("{least} to {most}")));
    }
    let advice = "write an address such as 203.0.113.10 or 2001:db8::10, or a prefix such as 203.0.113.0/28 or 2001:db8::/64, without port";
    ("not an IP address or prefix".to_owned(), Told::Advice(advice.to_owned()))
}

/// The shortest prefix and the longest: a shorter one is more than anybody is given.
fn lengths(address: IpAddr) -> [u8; 2] {
    if address.is_ipv4() { [8, 32] } else { [16, 128] }
}

fn check_prefix(text: &str, prefix: Cidr) -> Result<Cidr, (String, Told)> {
    let (ip, [least, most]) = (prefix.address(), lengths(prefix.address()));
    if ip.is_ipv4() && text.contains(':') {
        return Err(("an IPv4 address in IPv6 clothes".to_owned(), Told::Advice(format!("write {prefix}"))));
    }
    if prefix.length() < least {
        return Err(("too short a prefix".to_owned(), Told::Accepted(format!("/{least} to /{most}"))));
    }
    if prefix.first() != ip {
        let whole = Cidr::new(prefix.first(), prefix.length()).unwrap_or(prefix);
        let message = "bits behind the prefix are not zero".to_owned();
        return Err((message, Told::Advice(format!("write {whole} for all of it, or {ip} for the address"))));
    }
    let alone = prefix.length() == most;
    let unreachable = match ip {
        // 0.0.0.0/8, 127.0.0.0/8, and multicast; what is no multicast beside the last address is not given to anybody yet.
        IpAddr::V4(ip) if alone => ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || ip.is_broadcast(),
        IpAddr::V4(ip) => matches!(ip.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(ip) if alone => ip.is_unspecified() || ip.is_multicast() || ip.is_loopback(),
        IpAddr::V6(ip) => matches!(ip.segments()[0], 0 | 0xff00..),
    };
    if unreachable {
        let (what, accepted) =
            if alone { ("an address", "a unicast address") } else { ("addresses", "a prefix of unicast addresses") };
        return Err((format!("not {what} clients can reach"), Told::Accepted(accepted.to_owned())));
    }
    Ok(prefix)
}

/// How many VirtualIPs the edges of a cluster have room for, when nobody says otherwise (`--virtual-ips`).
pub const VIRTUAL_IPS: usize = 64;
/// Most addresses and prefixes of all VirtualIPs together; see `ADDRESSES_MAX` of ebpf/abi.
pub const ADDRESSES_MAX: usize = 4_096;
/// The kernel looks through the ports of an address one by one, per protocol; see `SERVICES_MAX` of ebpf/abi.
pub const SERVICES_MAX: usize = 32;
/// Most backends of all VirtualIPs together: the kernel plane numbers them as it does machines, of which there may be as many.
pub const BACKENDS_MAX: usize = 127;
const NANOS: i64 = 1_000_000_000;
/// Of what a check says of itself.
const TEXT_MAX: usize = 512;
/// Beyond it the smallest share is less than a slot per machine pair.
const WEIGHT_MAX: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(yaml: &str, problems: &[&str], warnings: &[&str]) {
        let value = crate::yaml::parse_document(yaml).unwrap();
        let mut findings = Findings::default();
        if let Some(spec) = findings.take(crate::decode::<VirtualIpSpec>(&value, "")) {
            spec.validate("", &mut findings);
        }
        let told: Vec<String> = findings.problems.iter().map(Problem::to_string).collect();
        assert_eq!(told, problems, "{yaml}");
        let told: Vec<String> = findings.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(told, warnings, "{yaml}");
    }

    #[test]
    fn the_example_of_the_interfaces() {
        let yaml = r#"
addresses: [203.0.113.10, "2001:db8::10"]
ports: [80, 443, "8000-8099"]
protocols: [TCP, UDP]
hash: fiveTuple
sourcePrefixLength: {ipv4: 24, ipv6: 56}
machines:
- {name: edge-1, weight: 2, state: active}
- {name: edge-3, weight: 1, state: draining}
"#;
        check(yaml, &[], &[]);
        let spec = crate::decode::<VirtualIpSpec>(&crate::yaml::parse_document(yaml).unwrap(), "").unwrap().value;
        assert_eq!(
            spec.ports,
            PortsSpec::List(vec![PortRange::one(80), PortRange::one(443), PortRange { low: 8000, high: 8099 }])
        );
        assert_eq!(spec.machines[1].state, MachineState::Draining);
        assert_eq!(serde_json::to_value(&spec).unwrap()["ports"], serde_json::json!([80, 443, "8000-8099"]));
        for hash in ["sourceIP", "sourcePrefix", "destinationPort"] {
            check(&format!("{{addresses: [1.2.3.4], ports: any, hash: {hash}}}"), &[], &[]);
        }
    }

    #[test]
    fn backends_and_what_they_are_refused_for() {
        check(
            "{addresses: [203.0.113.10], ports: [80], backends: [{name: web-1, address: 10.0.1.11, weight: 2}, {address: '2001:db8:1::11', state: draining}], backendCheck: {type: http, uri: '/up?x=1', host: a.example, statusCodes: [[200, 204]]}, backendSources: {ipv4: 10.99.0.0/16, ipv6: 'fd00:99::/64'}, drainTimeout: 10m}",
            &[],
            &[],
        );
        check(
            "{addresses: [203.0.113.0/28], backends: [{address: 10.0.1.11, weight: 0}, {}]}",
            &[
                "backends[0].weight = 0: out of range; accepted: 1 to 1000",
                "backends[1].address: missing; give it: Where packets are sent: an IPv4 or IPv6 address that is no VirtualIP",
            ],
            &[],
        );
        check(
            "{addresses: [203.0.113.0/28], machines: [{name: a}], backends: [{address: 10.0.1.11}, {address: 10.0.1.11}, {name: x, address: 'a:80'}, {name: x, address: 203.0.113.7}, {address: 224.0.0.1}]}",
            &[
                "backends: given beside machines; give the one or the other: flows go to machines or to backends",
                "backends[1].address = \"10.0.1.11\": given twice; remove one",
                "backends[2].address = \"a:80\": not an IP address; write an address such as 10.0.1.11 or 2001:db8:1::11, without prefix and port",
                "backends[3].address = \"203.0.113.7\": an address of this VirtualIP: packets would never leave the edges; give the server's own address",
                "backends[3].name = \"x\": given twice; remove one",
                "backends[4].address = \"224.0.0.1\": no address that packets can be sent to; accepted: a unicast address",
            ],
            &[],
        );
        // However it is written, an address is one, and sources are others'.
        check(
            "{addresses: [203.0.113.10], ports: [80], backends: [{address: '2001:db8::b'}, {address: '2001:DB8:0::b'}], backendSources: {ipv6: '2001:db8::/64'}}",
            &[
                "backends[1].address = \"2001:DB8:0::b\": given twice; remove one",
                "backendSources.ipv6 = \"2001:db8::/64\": has backend 2001:db8::b in it; take a prefix of addresses that are nobody's",
            ],
            &[],
        );
        check(
            "{addresses: [203.0.113.10], ports: [80], backends: [{address: 10.0.1.11, state: down}], drainTimeout: 10ms, backendCheck: {port: 81, interval: 0s, timeout: 2m, uri: x, host: 'a b', statusCodes: [[99, 200]]}, backendSources: {ipv4: 'fd00:99::/64', ipv6: 10.99.0.1/16}, limits: {synCookies: {perSecond: 5}}}",
            &[
                "drainTimeout = \"10ms\": too short; accepted: 1s or longer",
                "backendCheck.interval = \"0s\": out of range; accepted: 1s or longer",
                "backendCheck.timeout = \"2m0s\": out of range; accepted: 10ms to 1m",
                "backendCheck.host = \"a b\": nothing that can stand in the head of a request; accepted: at most 512 letters of ASCII without blanks",
                "backendCheck.uri = \"x\": does not begin with /",
                "backendCheck.statusCodes[0] = \"99-200\": not a range of status codes; accepted: [low, high] from 100 to 599",
                "backendSources.ipv4 = \"fd00:99::/64\": of the other family; accepted: a prefix of IPv4 addresses",
                "backendSources.ipv6 = \"10.99.0.1/16\": bits behind the prefix are not zero; write 10.99.0.0/16 for all of it, or 10.99.0.1 for the address",
            ],
            &[
                "backends: no backend is active: new flows have nowhere to go",
                "limits.synCookies: has no effect: connections of backends are answered by them, and so are SYN cookies made there",
                "backendCheck.port: 81 is none of the VirtualIP's ports",
                "backendCheck.uri: has no effect: only type http looks at it",
                "backendCheck.host: has no effect: only type http looks at it",
                "backendCheck.statusCodes: has no effect: only type http looks at it",
            ],
        );
        check(
            "{addresses: [203.0.113.10], backendCheck: {}, drainTimeout: 1m}",
            &[],
            &[
                "backendCheck: has no effect: there are no backends",
                "drainTimeout: has no effect: there are no backends",
            ],
        );
    }

    #[test]
    fn refusals() {
        check(
            "{}",
            &["addresses: missing; give it: One or more addresses, or prefixes such as 203.0.113.0/28, IPv4 and IPv6"],
            &[],
        );
        check("addresses: []", &["addresses: is empty; list at least one IPv4 or IPv6 address or prefix"], &[]);
        check(
            "addresses: [1.2.3.4/24, 0.0.0.0, 1.2.3.4, 1.2.3.4, '::ffff:1.2.3.5']",
            &[
                "addresses[0] = \"1.2.3.4/24\": bits behind the prefix are not zero; write 1.2.3.0/24 for all of it, or 1.2.3.4 for the address",
                "addresses[1] = \"0.0.0.0\": not an address clients can reach; accepted: a unicast address",
                "addresses[3] = \"1.2.3.4\": given twice; remove one",
                "addresses[4] = \"::ffff:1.2.3.5\": an IPv4 address in IPv6 clothes; write 1.2.3.5",
            ],
            &[],
        );
        check(
            "addresses: [1.2.3.0/33, '1.2.3.4:80', 10.0.0.0/7, 224.0.0.0/8, '::/16', '::ffff:1.2.3.0/120', 1.2.3.0/x, 1.2.3.0/24, 1.2.3.0/24]",
            &[
                "addresses[0] = \"1.2.3.0/33\": \"33\" is no length of a prefix of 1.2.3.0; accepted: 8 to 32",
                "addresses[1] = \"1.2.3.4:80\": not an IP address or prefix; write an address such as 203.0.113.10 or 2001:db8::10, or a prefix such as 203.0.113.0/28 or 2001:db8::/64, without port",
                "addresses[2] = \"10.0.0.0/7\": too short a prefix; accepted: /8 to /32",
                "addresses[3] = \"224.0.0.0/8\": not addresses clients can reach; accepted: a prefix of unicast addresses",
                "addresses[4] = \"::/16\": not addresses clients can reach; accepted: a prefix of unicast addresses",
                "addresses[5] = \"::ffff:1.2.3.0/120\": an IPv4 address in IPv6 clothes; write 1.2.3.0/24",
                "addresses[6] = \"1.2.3.0/x\": \"x\" is no length of a prefix of 1.2.3.0; accepted: 8 to 32",
                "addresses[8] = \"1.2.3.0/24\": given twice; remove one",
            ],
            &[],
        );
        check(
            "addresses: [203.0.113.0/28, 203.0.113.5, '2001:db8::/64', 203.0.113.16, '2001:db8::/80']",
            &[],
            &[
                "addresses[1]: has no effect: 203.0.113.0/28 of this list has it in it",
                "addresses[4]: has no effect: 2001:db8::/64 of this list has it in it",
            ],
        );
        check(
            "{addresses: [1.2.3.4], ports: [0, 70000, true]}",
            &[
                "ports[0] = 0: out of range; accepted: 1 to 65535",
                "ports[1] = 70000: out of range; accepted: 1 to 65535",
                "ports[2] = true: true or false where a whole number or a text is wanted; accepted: a port or a range such as \"8000-8099\"",
            ],
            &[],
        );
        check(
            "{addresses: [1.2.3.4], ports: ['90-80']}",
            &["ports: entry [0]: the range ends before it begins; write \"80-90\""],
            &[],
        );
        check(
            "{addresses: [1.2.3.4], ports: ['80-90', 85]}",
            &["ports[1] = \"85\": overlaps with 80-90; list every port once"],
            &[],
        );
        check(
            "{addresses: [1.2.3.4], ports: [], protocols: []}",
            &[
                "ports: is empty; write any to steer every port",
                "protocols: is empty; leave it out for both, or list TCP, UDP",
            ],
            &[],
        );
        check(
            "{addresses: [1.2.3.4], protocols: [tcp]}",
            &["protocols[0] = \"tcp\": not one of the accepted words; accepted: TCP or UDP; did you mean TCP?"],
            &[],
        );
        check(
            "{addresses: [1.2.3.4], machines: [{name: a, weight: 0}, {name: a, state: off}]}",
            &[
                "machines[0].weight = 0: out of range; accepted: 1 to 1000",
                "machines[1].state = \"off\": not one of the accepted words; accepted: active, draining or down",
            ],
            &[],
        );
        check(
            "{addresses: [1.2.3.4], machines: [{name: a}, {name: a}]}",
            &["machines[1].name = \"a\": given twice; remove one"],
            &[],
        );
        check(
            "{addresses: [1.2.3.4], machines: [{name: a, state: down}]}",
            &[],
            &["machines: no machine is active: new flows have nowhere to go"],
        );
        check(
            "{addresses: [1.2.3.4], limits: {synCookies: {perSecond: 9}, newConnections: {perSecond: 100}, newConnectionsPerSource: {perSecond: 5, burst: 9, prefixLength: {ipv4: 24}}}}",
            &[],
            &[],
        );
        check(
            "{addresses: [1.2.3.4], limits: {synCookies: {perSecond: 20000000}, newConnections: {}, newConnectionsPerSource: {perSecond: 0, burst: 0, prefixLength: {ipv4: 33}}}}",
            &[
                "limits.synCookies.perSecond = 20000000: out of range; accepted: 1 to 10000000",
                "limits.newConnections.perSecond: missing; give it: New connections in a second, 1 to 10000000",
                "limits.newConnectionsPerSource.perSecond = 0: out of range; accepted: 1 to 10000000",
                "limits.newConnectionsPerSource.burst = 0: out of range; accepted: 1 to 10000000",
                "limits.newConnectionsPerSource.prefixLength.ipv4 = 33: out of range; accepted: 1 to 32",
            ],
            &[],
        );
        check(
            "{addresses: [1.2.3.4], limits: {}}",
            &[],
            &["limits: limits nothing: give newConnections, newConnectionsPerSource or synCookies"],
        );
        check(
            "{addresses: [1.2.3.4], protocols: [UDP], limits: {newConnections: {perSecond: 1}}}",
            &[],
            &["limits: has no effect: only TCP connections are limited, and protocols has no TCP"],
        );
        let ports: Vec<String> = (0..20).map(|i| (1000 + 2 * i).to_string()).collect();
        check(
            &format!("{{addresses: [1.2.3.4], ports: [{}]}}", ports.join(", ")),
            &["ports: 20 entries for two protocols; accepted: at most 16; join neighbours to ranges, or write any"],
            &[],
        );
    }
}

//! `kind: Pipeline`: filters and the order they run in.
//!
//! ```yaml
//! name: pipeline-demo
//! kind: Pipeline
//! flow:
//! - filter: validator
//!   jumpIf: {invalid: END}
//! - filter: proxy
//! filters:
//! - name: validator
//!   kind: Validator
//!   headers: {Content-Type: {values: [application/json]}}
//! - name: proxy
//!   kind: Proxy
//!   pools:
//!   - servers: [{url: http://127.0.0.1:9095}]
//! ```

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::SystemTime;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::dates::Dates;
use crate::decode::decode;
use crate::document::check_name;
use crate::duration::GoDuration;
use crate::problem::{Findings, Problem, at, nearest, nth, one_of};
use crate::proxy::{PoolSpec, ProxySpec};
use crate::repeats::repeats;
use crate::resilience::{self, CircuitBreakerSpec, RetrySpec};

/// Filters and the order they run in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["filters"]))]
pub struct PipelineSpec {
    /// Which filters run, in which order, and where to go on after a result. Empty, the default: all, in the order of `filters`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flow: Vec<FlowNodeSpec>,
    /// The filters, each with `name`, `kind` and the fields of its kind.
    pub filters: Vec<FilterSpec>,
    /// Policies filters refer to by name: kinds Retry and CircuitBreaker.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resilience: Vec<NamedSpec>,
    /// Anything templates may want to read, as `.data.PIPELINE`.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub data: Map<String, Value>,
}

/// A step of the flow.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FlowNodeSpec {
    /// Name of a filter, or END, which ends the flow. Every step has this or `parallel`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub filter: String,
    /// Name of the step itself, to tell several uses of one filter apart. Default: the filter's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub alias: String,
    /// Which request and response the filter works on. Default: DEFAULT, the client's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Where to go on, by the filter's result: the name or alias of a later step, or END. `""` stands for success. A result that
    /// is not listed ends the flow, success goes on with the next step.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub jump_if: BTreeMap<String, String>,
    /// Branches that are walked at the same time, in place of a filter. Its results are success and `failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel: Option<ParallelSpec>,
}

/// Branches of a flow that are walked at the same time: to ask several backends for what one answer is made of.
///
/// Each has a namespace, with a request and a response of its own, and sees those of before as they were when the step began; what it does to
/// them stays in it. Afterwards templates read `.responses.NAMESPACE`, and in `.data.STEP.NAMESPACE` the result each branch ended by, where
/// STEP is the step's alias (`parallel` without one): empty where it went well, `timeout` and `cancelled` where it was not waited for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["branches"]))]
pub struct ParallelSpec {
    /// The branches, 1 to 16.
    pub branches: Vec<BranchSpec>,
    /// How many of them must go well; where fewer can, the others are not waited for, and the step's result is `failed`. 0, the default: all.
    pub must_succeed: u32,
    /// How long all of it may take; a branch that is not done then has failed. Default 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<GoDuration>,
}

/// Steps that follow each other, beside those of other branches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["namespace", "flow"]))]
pub struct BranchSpec {
    /// Where the branch's request and response are. Each branch has another one.
    pub namespace: String,
    /// The steps. A result that is not listed in `jumpIf` ends the branch, which has failed then.
    pub flow: Vec<StepSpec>,
}

/// A step of a branch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["filter"]))]
pub struct StepSpec {
    /// Name of a filter, or END, which ends the branch.
    pub filter: String,
    /// Name of the step itself. Default: the filter's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub alias: String,
    /// Where to go on in the branch, by the filter's result: the name or alias of a later step, or END.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub jump_if: BTreeMap<String, String>,
}

impl BranchSpec {
    /// Its steps as those of a flow.
    pub fn nodes(&self) -> Vec<FlowNodeSpec> {
        let node = |step: &StepSpec| FlowNodeSpec {
            filter: step.filter.clone(),
            alias: step.alias.clone(),
            namespace: self.namespace.clone(),
            jump_if: step.jump_if.clone(),
            parallel: None,
        };
        self.flow.iter().map(node).collect()
    }
}

impl ParallelSpec {
    /// How many branches must go well.
    pub fn needed(&self) -> usize {
        let all = self.branches.len();
        if self.must_succeed == 0 { all } else { all.min(self.must_succeed as usize) }
    }
}

/// What a step with branches is called where it has no alias.
pub const PARALLEL: &str = "parallel";

/// Results of a step with branches, beside success.
pub const PARALLEL_RESULTS: [&str; 1] = ["failed"];

/// Branches that are walked at the same time, at most.
const BRANCHES_MAX: usize = 16;

impl FlowNodeSpec {
    /// What jumps call it.
    pub fn label(&self) -> &str {
        match (&*self.alias, &self.parallel) {
            ("", Some(_)) => PARALLEL,
            ("", None) => &self.filter,
            (alias, _) => alias,
        }
    }
}

/// Something with a name and a kind whose further fields only its kind understands: a filter or a policy.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NamedSpec {
    pub name: String,
    pub kind: String,
    /// The fields beside `name` and `kind`, as they were written: a mapping to hand to [`decode`].
    pub raw: Value,
}

/// A filter of a pipeline.
pub type FilterSpec = NamedSpec;

impl Serialize for NamedSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = Map::new();
        map.insert("name".to_owned(), self.name.clone().into());
        map.insert("kind".to_owned(), self.kind.clone().into());
        if let Value::Object(raw) = &self.raw {
            map.extend(raw.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
        map.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for NamedSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = Map::deserialize(deserializer)?;
        let mut spec = Self::default();
        let mut raw = Map::new();
        for (key, value) in map {
            let field = match key.to_lowercase().as_str() {
                "name" => &mut spec.name,
                "kind" => &mut spec.kind,
                _ => {
                    raw.insert(key, value);
                    continue;
                }
            };
            match value {
                Value::String(text) => *field = text,
                Value::Null => {}
                other => return Err(D::Error::custom(format!("{key} is not a text; put it in quotes: \"{other}\""))),
            }
        }
        spec.raw = Value::Object(raw);
        Ok(spec)
    }
}

impl JsonSchema for NamedSpec {
    fn schema_name() -> Cow<'static, str> {
        "NamedSpec".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "description": "`name`, `kind` and the fields of that kind.",
            "properties": {
                "name": {"type": "string", "description": "What the flow, or a pool, calls it by; each of the list has its own."},
                "kind": {"type": "string", "description": "What it is, and so which further fields it has."},
            },
            "additionalProperties": true,
        })
    }
}

/// The kinds of filters a pipeline may be made of. The catalog of filters implements it.
pub trait FilterKinds {
    /// Results filters of this kind may have beside success; `None` when the kind is unknown.
    fn results(&self, kind: &str) -> Option<Vec<&'static str>>;

    /// Every kind, for messages.
    fn kinds(&self) -> Vec<&'static str>;

    /// Looks into the fields of one filter. A Proxy is looked into by the pipeline itself.
    fn check(&self, filter: &FilterSpec, path: &str, findings: &mut Findings) {
        let _ = (filter, path, findings);
    }
}

impl PipelineSpec {
    /// The flow as it runs: when none is written, every filter once, in order.
    pub fn effective_flow(&self) -> Vec<FlowNodeSpec> {
        if !self.flow.is_empty() {
            return self.flow.clone();
        }
        self.filters
            .iter()
            .map(|filter| FlowNodeSpec { filter: filter.name.clone(), ..FlowNodeSpec::default() })
            .collect()
    }

    pub fn filter(&self, name: &str) -> Option<&FilterSpec> {
        self.filters.iter().find(|filter| filter.name == name)
    }

    /// A Retry of `resilience` by name; unreadable ones are none.
    pub fn retry(&self, name: &str) -> Option<RetrySpec> {
        self.policy(name, "Retry").and_then(|policy| decode(&policy.raw, "").ok()).map(|decoded| decoded.value)
    }

    /// A CircuitBreaker of `resilience` by name; unreadable ones are none.
    pub fn circuit_breaker(&self, name: &str) -> Option<CircuitBreakerSpec> {
        self.policy(name, "CircuitBreaker").and_then(|policy| decode(&policy.raw, "").ok()).map(|decoded| decoded.value)
    }

    fn policy(&self, name: &str, kind: &str) -> Option<&NamedSpec> {
        self.resilience.iter().find(|policy| policy.name == name && policy.kind == kind)
    }

    pub fn validate(&self, path: &str, kinds: &dyn FilterKinds, findings: &mut Findings) {
        if self.filters.is_empty() {
            findings.problem(Problem::new(at(path, "filters"), "is empty").advice("list at least one filter"));
        }
        let twins = twins(&self.filters);
        for (i, filter) in self.filters.iter().enumerate() {
            let place = nth(&at(path, "filters"), i);
            check_named(filter, twins.get(&i), &place, "filter", findings);
            self.validate_filter(filter, &place, kinds, findings);
        }
        let twins = self::twins(&self.resilience);
        for (i, policy) in self.resilience.iter().enumerate() {
            let place = nth(&at(path, "resilience"), i);
            check_named(policy, twins.get(&i), &place, "policy", findings);
            validate_policy(policy, &place, findings);
        }
        self.validate_flow(&at(path, "flow"), kinds, findings);
        self.warn_of_hits(path, findings);
    }

    /// What a Cache gives from memory has not passed the stations behind it: one that decides who gets an answer stands before it.
    fn warn_of_hits(&self, path: &str, findings: &mut Findings) {
        let flow = self.effective_flow();
        let kind_of = |node: &FlowNodeSpec| self.filter(&node.filter).map_or("", |filter| filter.kind.as_str());
        let list = at(path, if self.flow.is_empty() { "filters" } else { "flow" });
        for (i, cache) in flow.iter().enumerate().filter(|(_, node)| kind_of(node) == "Cache") {
            let behind = flow.iter().enumerate().skip(i + 1);
            let target = cache.jump_if.get("hit");
            for (j, guard) in behind.take_while(|(_, node)| target.is_none_or(|target| node.label() != target)) {
                if GUARDS.contains(&kind_of(guard)) {
                    let (guard, cache) = (guard.label(), cache.label());
                    let text = format!("hits of {cache} pass {guard} by, whoever asks; put it before {cache}");
                    findings.warn(nth(&list, j), text);
                }
            }
        }
    }

    /// Looks into the certificates of its filters as of `now`; see [`ProxySpec::check_certificates`].
    pub fn check_certificates(&self, path: &str, now: SystemTime, dates: &mut Dates, findings: &mut Findings) {
        for (i, filter) in self.filters.iter().enumerate().filter(|(_, filter)| filter.kind == "Proxy") {
            if let Ok(proxy) = decode::<ProxySpec>(&filter.raw, path) {
                proxy.value.check_certificates(&nth(&at(path, "filters"), i), now, dates, findings);
            }
        }
    }

    fn validate_filter(&self, filter: &FilterSpec, path: &str, kinds: &dyn FilterKinds, findings: &mut Findings) {
        if filter.name == END {
            let problem = Problem::new(at(path, "name"), "END is the end of the flow and no name for a filter");
            findings.problem(problem.text(END).advice("choose another name"));
        }
        if filter.kind.is_empty() {
            findings.problem(Problem::new(at(path, "kind"), "missing").accepted(one_of(&kinds.kinds())));
            return;
        }
        if kinds.results(&filter.kind).is_none() {
            let known = kinds.kinds();
            let message = match UNSERVED_FILTERS.contains(&filter.kind.as_str()) {
                true => "a kind of filter that this version does not serve yet",
                false => "unknown kind of filter",
            };
            let problem = Problem::new(at(path, "kind"), message).text(&filter.kind);
            let mut problem = problem.accepted(one_of(&known));
            if resilience::KINDS.contains(&filter.kind.as_str()) {
                problem = problem.advice("move it to resilience");
            } else if UNSERVED_FILTERS.contains(&filter.kind.as_str()) {
                problem = problem.advice("take it out of filters and flow");
            } else if let Some(meant) = nearest(&filter.kind, known.into_iter().chain(UNSERVED_FILTERS)) {
                problem = problem.advice(format!("did you mean {meant}?"));
            }
            findings.problem(problem);
            return;
        }
        if filter.kind == "Proxy" {
            findings.read(&filter.raw, path, |proxy: &ProxySpec, findings| {
                proxy.validate(path, findings);
                let pools = at(path, "pools");
                for (i, pool) in proxy.pools.iter().enumerate() {
                    self.check_policies(pool, &nth(&pools, i), findings);
                }
                for (place, mirror) in proxy.mirrors() {
                    self.check_policies(mirror, &at(path, &place), findings);
                }
            });
            return;
        }
        kinds.check(filter, path, findings);
        if filter.kind == "SimpleHTTPProxy"
            && let Some(name) = filter.raw.get("retryPolicy").and_then(Value::as_str)
        {
            let pool = PoolSpec { retry_policy: name.to_owned(), ..PoolSpec::default() };
            self.check_policies(&pool, path, findings);
        }
    }

    /// Policies a pool names must be in `resilience`, and of the right kind.
    pub fn check_policies(&self, pool: &PoolSpec, path: &str, findings: &mut Findings) {
        for (field, name, kind) in [
            ("retryPolicy", &pool.retry_policy, "Retry"),
            ("circuitBreakerPolicy", &pool.circuit_breaker_policy, "CircuitBreaker"),
        ] {
            if name.is_empty() || self.policy(name, kind).is_some() {
                continue;
            }
            let problem = match self.resilience.iter().find(|policy| policy.name == *name) {
                Some(other) => {
                    Problem::new(at(path, field), format!("names a policy of kind {}, {kind} is wanted", other.kind))
                }
                None => Problem::new(at(path, field), format!("no policy of that name, of kind {kind}, in resilience")),
            };
            findings.problem(
                problem.text(name).advice(format!("add it to resilience with kind: {kind}, or remove the reference")),
            );
        }
    }

    fn validate_flow(&self, path: &str, kinds: &dyn FilterKinds, findings: &mut Findings) {
        self.validate_nodes(&self.flow, path, kinds, findings);
        if self.flow.is_empty() {
            return;
        }
        let branches = self.flow.iter().filter_map(|node| node.parallel.as_ref()).flat_map(|group| &group.branches);
        let steps = branches.flat_map(|branch| branch.flow.iter().map(|step| step.filter.as_str()));
        let run: HashSet<&str> = self.flow.iter().map(|node| node.filter.as_str()).chain(steps).collect();
        for (i, filter) in self.filters.iter().enumerate() {
            if !filter.name.is_empty() && !run.contains(filter.name.as_str()) {
                let parent = path.strip_suffix("flow").unwrap_or(path).trim_end_matches('.');
                findings.warn(nth(&at(parent, "filters"), i), format!("{} is not in flow and never runs", filter.name));
            }
        }
    }

    /// The steps of a flow, or of a branch of one.
    fn validate_nodes(&self, flow: &[FlowNodeSpec], path: &str, kinds: &dyn FilterKinds, findings: &mut Findings) {
        let targets: HashSet<&str> = flow.iter().flat_map(|node| node.jump_if.values().map(String::as_str)).collect();
        let again: HashMap<usize, usize> = repeats(flow.iter().map(FlowNodeSpec::label)).collect();
        let mut filters: HashMap<&str, &FilterSpec> = HashMap::new();
        for filter in &self.filters {
            filters.entry(&filter.name).or_insert(filter);
        }
        for (i, node) in flow.iter().enumerate() {
            let place = nth(path, i);
            let label = node.label();
            if label != END && targets.contains(label) && again.contains_key(&i) {
                let field = if node.alias.is_empty() { "filter" } else { "alias" };
                let problem =
                    Problem::new(at(&place, field), "several steps of that name, and a jump to it").text(label);
                findings.problem(problem.advice("give every one of them an alias of its own"));
            }
            if node.alias == END {
                let problem = Problem::new(at(&place, "alias"), "END is the end of the flow").text(END);
                findings.problem(problem.advice("choose another alias"));
            }
            if let Some(group) = &node.parallel {
                self.validate_group(node, group, &place, kinds, findings);
                let results = Some(("a step with branches", PARALLEL_RESULTS.to_vec()));
                validate_jumps(flow, i, node, results, &at(&place, "jumpIf"), findings);
                continue;
            }
            let filter = filters.get(node.filter.as_str()).copied();
            if node.filter.is_empty() {
                findings.problem(Problem::new(at(&place, "filter"), "missing").advice("name a filter, or END"));
            } else if node.filter != END && filter.is_none() {
                let names: Vec<&str> = self.filters.iter().map(|filter| filter.name.as_str()).collect();
                let mut problem = Problem::new(at(&place, "filter"), "no filter of that name").text(&node.filter);
                if !names.is_empty() {
                    problem = problem.accepted(one_of(&[names.as_slice(), &[END]].concat()));
                }
                findings.problem(match nearest(&node.filter, names) {
                    Some(meant) => problem.advice(format!("did you mean {meant}?")),
                    None => problem.advice("add it to filters, or remove the step"),
                });
            }
            let declared = filter.and_then(|filter| kinds.results(&filter.kind));
            let filter = filter.map(|filter| filter.kind.as_str()).zip(declared);
            validate_jumps(flow, i, node, filter, &at(&place, "jumpIf"), findings);
        }
    }

    fn validate_group(
        &self,
        node: &FlowNodeSpec,
        group: &ParallelSpec,
        path: &str,
        kinds: &dyn FilterKinds,
        findings: &mut Findings,
    ) {
        for (field, text) in [("filter", &node.filter), ("namespace", &node.namespace)] {
            if !text.is_empty() {
                let problem = Problem::new(at(path, field), "not beside parallel").text(text);
                findings.problem(problem.advice("remove it, or make it a step of a branch"));
            }
        }
        let path = at(path, "parallel");
        let branches = at(&path, "branches");
        let count = group.branches.len();
        if !(1..=BRANCHES_MAX).contains(&count) {
            let problem = Problem::new(&branches, format!("{count} branches"));
            findings.problem(problem.accepted(format!("1 to {BRANCHES_MAX}")));
        }
        if group.must_succeed as usize > count {
            let problem = Problem::new(at(&path, "mustSucceed"), "more than there are branches");
            findings.problem(problem.value(&group.must_succeed.into()).accepted(format!("0, for all, to {count}")));
        }
        if group.timeout.is_some_and(|time| time.is_zero() || time.is_negative()) {
            let problem = Problem::new(at(&path, "timeout"), "nothing is done in no time").accepted("longer than 0s");
            findings.problem(problem);
        }
        let again: HashMap<usize, usize> = repeats(group.branches.iter().map(|b| b.namespace.as_str())).collect();
        for (i, branch) in group.branches.iter().enumerate() {
            let place = nth(&branches, i);
            let namespace = at(&place, "namespace");
            if matches!(branch.namespace.as_str(), "" | "DEFAULT") {
                let problem = Problem::new(namespace, "not a namespace of its own").text(&branch.namespace);
                findings.problem(problem.advice("give each branch a name, by which templates find its response"));
            } else if let Some(twin) = again.get(&i) {
                let problem = Problem::new(namespace, format!("the same as that of branch {twin}"));
                findings.problem(problem.text(&branch.namespace).advice("give each branch its own namespace"));
            }
            let flow = at(&place, "flow");
            if branch.flow.is_empty() {
                findings.problem(Problem::new(&flow, "is empty").advice("list at least one step"));
            }
            self.validate_nodes(&branch.nodes(), &flow, kinds, findings);
        }
    }
}

fn validate_jumps(
    flow: &[FlowNodeSpec],
    index: usize,
    node: &FlowNodeSpec,
    filter: Option<(&str, Vec<&'static str>)>,
    path: &str,
    findings: &mut Findings,
) {
    for (result, target) in &node.jump_if {
        let place = at(path, result);
        if let Some((filter, results)) = &filter
            && !result.is_empty()
            && !results.contains(&result.as_str())
        {
            let problem = Problem::new(&place, format!("{result} is not a result of {}", filter));
            let accepted: Vec<&str> = results.iter().copied().chain(["\"\""]).collect();
            let mut problem = problem.accepted(format!("{}, which means success", one_of(&accepted)));
            if let Some(meant) = nearest(result, results.iter().copied()) {
                problem = problem.advice(format!("did you mean {meant}?"));
            }
            findings.problem(problem);
        }
        if target == END || flow[index + 1..].iter().any(|later| later.label() == target) {
            continue;
        }
        let problem = if flow[..=index].iter().any(|node| node.label() == target) {
            Problem::new(&place, "jumps back").advice("a flow goes forward only: name a later step, or END")
        } else if flow[index + 1..].iter().any(|later| later.filter == *target) {
            Problem::new(&place, "that step has an alias").advice("jump to the alias instead of the filter")
        } else {
            let later: Vec<&str> =
                flow[index + 1..].iter().map(FlowNodeSpec::label).filter(|label| *label != END).collect();
            let accepted = one_of(&[later.as_slice(), &[END]].concat());
            Problem::new(&place, "no later step of that name").accepted(accepted)
        };
        findings.problem(problem.text(target));
    }
}

/// The places of those whose name stands further up, and where.
fn twins(named: &[NamedSpec]) -> HashMap<usize, usize> {
    repeats(named.iter().map(|spec| spec.name.as_str())).collect()
}

fn check_named(spec: &NamedSpec, twin: Option<&usize>, path: &str, what: &str, findings: &mut Findings) {
    let place = at(path, "name");
    if let Some(problem) = check_name(&spec.name, &place) {
        findings.problem(problem);
    } else if let Some(twin) = twin {
        let problem = Problem::new(place, format!("the same name as entry {twin}")).text(&spec.name);
        findings.problem(problem.advice(format!("give each {what} its own name")));
    }
}

fn validate_policy(policy: &NamedSpec, path: &str, findings: &mut Findings) {
    match policy.kind.as_str() {
        "Retry" => {
            findings.read(&policy.raw, path, |spec: &RetrySpec, findings| spec.validate(path, findings));
        }
        "CircuitBreaker" => {
            findings.read(&policy.raw, path, |spec: &CircuitBreakerSpec, findings| spec.validate(path, findings));
        }
        other => {
            let place = at(path, "kind");
            let mut problem = if other.is_empty() {
                Problem::new(place, "missing")
            } else {
                Problem::new(place, "unknown kind of policy").text(other)
            };
            problem = problem.accepted(one_of(&resilience::KINDS));
            findings.problem(match other {
                "TimeLimiter" => problem.advice("give the pool a timeout instead"),
                "RateLimiter" => problem.advice("RateLimiter is a filter: move it to filters"),
                _ => problem,
            });
        }
    }
}

/// Kinds of Easegress's filters that are known by name only.
pub const UNSERVED_FILTERS: [&str; 7] =
    ["AIGatewayProxy", "ConnectControl", "KafkaMQTT", "MQTTClientAuth", "MeshAdaptor", "TopicMapper", "WAF"];

/// Kinds of filters that decide who gets an answer.
const GUARDS: [&str; 3] = ["OIDCAdaptor", "OPAFilter", "Validator"];

/// The step every flow may jump to and no filter may be called.
pub const END: &str = "END";

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A handful of kinds, as the catalog of filters will offer them.
    pub(crate) struct Kinds;

    impl FilterKinds for Kinds {
        fn results(&self, kind: &str) -> Option<Vec<&'static str>> {
            Some(match kind {
                "Validator" => vec!["invalid"],
                "RateLimiter" => vec!["rateLimited"],
                "Proxy" => {
                    vec!["internalError", "clientError", "serverError", "failureCode", "timeout", "shortCircuited"]
                }
                "Mock" => vec!["mocked"],
                "Fallback" => vec!["fallback"],
                "Cache" => vec!["hit", "notCached"],
                _ => return None,
            })
        }
        fn kinds(&self) -> Vec<&'static str> {
            vec!["Fallback", "Mock", "Proxy", "RateLimiter", "Validator"]
        }
    }

    #[test]
    fn filters_that_are_not_served_yet_are_refused_by_name_with_that_reason() {
        for kind in UNSERVED_FILTERS {
            let value = serde_json::json!({"filters": [{"name": "a", "kind": kind}]});
            let spec = crate::decode::<PipelineSpec>(&value, "").unwrap().value;
            let mut findings = Findings::default();
            spec.validate("", &Kinds, &mut findings);
            let text = crate::problem::render(&findings.problems);
            let want = format!("filters[0].kind = \"{kind}\": a kind of filter that this version does not serve yet; ");
            assert!(text.starts_with(&want) && text.ends_with("; take it out of filters and flow"), "{text}");
        }
    }

    const FILTERS: &str = "
filters:
- {name: validator, kind: Validator}
- {name: mock, kind: Mock}
- {name: fallback, kind: Fallback}
- name: proxy
  kind: Proxy
  pools:
  - servers: [{url: 'http://127.0.0.1:9095'}]
";

    fn check(yaml: &str, problems: &[&str], warnings: &[&str]) {
        let value = crate::yaml::parse_document(yaml).unwrap();
        let mut findings = Findings::default();
        if let Some(spec) = findings.take(decode::<PipelineSpec>(&value, "")) {
            spec.validate("", &Kinds, &mut findings);
        }
        let told: Vec<String> = findings.problems.iter().map(Problem::to_string).collect();
        assert_eq!(told, problems, "{yaml}");
        let told: Vec<String> = findings.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(told, warnings, "{yaml}");
    }

    fn check_flow(flow: &str, problems: &[&str]) {
        check(&format!("flow:\n{flow}\n{FILTERS}"), problems, &[]);
    }

    const REST: &str = "- filter: fallback\n- filter: mock\n- filter: proxy";

    #[test]
    fn flows_that_run() {
        check(FILTERS, &[], &[]);
        check_flow(&format!("- filter: validator\n  jumpIf: {{invalid: END, '': mock}}\n{REST}"), &[]);
        check_flow(
            &format!(
                "- filter: validator\n  jumpIf: {{invalid: second}}\n{REST}\n- {{filter: END}}\n- {{filter: mock, alias: second}}"
            ),
            &[],
        );
        check_flow(&format!("- filter: validator\n- filter: mock\n{REST}"), &[]);
    }

    #[test]
    fn jumps_go_forward_to_steps_that_exist() {
        let flow = format!(
            "- filter: validator\n  jumpIf: {{invald: END, invalid: prxoy}}\n- filter: fallback\n  jumpIf: {{fallback: validator}}\n- {{filter: mock, alias: m}}\n{}",
            "- filter: proxy\n  jumpIf: {timeout: proxy, serverError: m}"
        );
        check_flow(
            &flow,
            &[
                "flow[0].jumpIf.invald: invald is not a result of Validator; accepted: invalid or \"\", which means success; did you mean invalid?",
                "flow[0].jumpIf.invalid = \"prxoy\": no later step of that name; accepted: fallback, m, proxy or END",
                "flow[1].jumpIf.fallback = \"validator\": jumps back; a flow goes forward only: name a later step, or END",
                "flow[3].jumpIf.serverError = \"m\": jumps back; a flow goes forward only: name a later step, or END",
                "flow[3].jumpIf.timeout = \"proxy\": jumps back; a flow goes forward only: name a later step, or END",
            ],
        );
        check_flow(
            "- filter: validator\n  jumpIf: {invalid: mock}\n- {filter: mock, alias: m}\n- filter: fallback\n- filter: proxy",
            &["flow[0].jumpIf.invalid = \"mock\": that step has an alias; jump to the alias instead of the filter"],
        );
    }

    #[test]
    fn branches_have_namespaces_of_their_own_and_steps() {
        let branches =
            |rest: &str| format!("- parallel: {{{rest}}}\n  alias: all\n  jumpIf: {{failed: proxy}}\n- filter: proxy");
        let good = "branches: [{namespace: a, flow: [{filter: validator, jumpIf: {invalid: m}}, {filter: fallback}, {filter: mock, alias: m}]}, \
                    {namespace: b, flow: [{filter: mock}]}], mustSucceed: 1, timeout: 1s";
        check_flow(&branches(good), &[]);
        check_flow(
            &format!(
                "- parallel: {{branches: [{{namespace: DEFAULT, flow: [{{filter: mok, jumpIf: {{x: y}}}}]}}, {{namespace: a, flow: []}}, \
                 {{namespace: a, flow: [{{filter: mock}}]}}], mustSucceed: 4, timeout: 0s}}\n  filter: mock\n  namespace: n\n  \
                 jumpIf: {{invalid: proxy}}\n- filter: validator\n{REST}"
            ),
            &[
                "flow[0].filter = \"mock\": not beside parallel; remove it, or make it a step of a branch",
                "flow[0].namespace = \"n\": not beside parallel; remove it, or make it a step of a branch",
                "flow[0].parallel.mustSucceed = 4: more than there are branches; accepted: 0, for all, to 3",
                "flow[0].parallel.timeout: nothing is done in no time; accepted: longer than 0s",
                "flow[0].parallel.branches[0].namespace = \"DEFAULT\": not a namespace of its own; give each branch a name, by which templates find its response",
                "flow[0].parallel.branches[0].flow[0].filter = \"mok\": no filter of that name; accepted: validator, mock, fallback, proxy or END; did you mean mock?",
                "flow[0].parallel.branches[0].flow[0].jumpIf.x = \"y\": no later step of that name; accepted: END",
                "flow[0].parallel.branches[1].flow: is empty; list at least one step",
                "flow[0].parallel.branches[2].namespace = \"a\": the same as that of branch 1; give each branch its own namespace",
                "flow[0].jumpIf.invalid: invalid is not a result of a step with branches; accepted: failed or \"\", which means success",
            ],
        );
        let many = format!("branches: [{}]", "{namespace: a, flow: [{filter: mock}]}, ".repeat(17));
        let value = crate::yaml::parse_document(&format!("flow:\n{}\n{FILTERS}", branches(&many))).unwrap();
        let mut findings = Findings::default();
        findings.take(decode::<PipelineSpec>(&value, "")).unwrap().validate("", &Kinds, &mut findings);
        assert!(
            findings
                .problems
                .iter()
                .any(|p| p.to_string() == "flow[0].parallel.branches: 17 branches; accepted: 1 to 16")
        );
    }

    #[test]
    fn who_decides_about_answers_stands_before_a_cache() {
        const KEPT: &str = "filters: [{name: c, kind: Cache}, {name: v, kind: Validator}, {name: m, kind: Mock}]";
        let text = |place: &str, v: &str| format!("{place}: hits of c pass {v} by, whoever asks; put it before c");
        check(KEPT, &[], &[&text("filters[1]", "v")]);
        check(&format!("flow: [{{filter: v}}, {{filter: c}}, {{filter: m}}]\n{KEPT}"), &[], &[]);
        check(
            &format!("flow: [{{filter: c}}, {{filter: m}}, {{filter: v, alias: late}}]\n{KEPT}"),
            &[],
            &[&text("flow[2]", "late")],
        );
        check(&format!("flow: [{{filter: c, jumpIf: {{hit: v}}}}, {{filter: v}}, {{filter: m}}]\n{KEPT}"), &[], &[]);
    }

    #[test]
    fn steps_name_filters_and_jump_targets_are_unique() {
        check_flow(
            &format!("- filter: validater\n- filter: validator\n- filter: ''\n{REST}"),
            &[
                "flow[0].filter = \"validater\": no filter of that name; accepted: validator, mock, fallback, proxy or END; did you mean validator?",
                "flow[2].filter: missing; name a filter, or END",
            ],
        );
        check_flow(
            &format!("- filter: validator\n  jumpIf: {{invalid: mock}}\n- filter: mock\n{REST}"),
            &[
                "flow[3].filter = \"mock\": several steps of that name, and a jump to it; give every one of them an alias of its own",
            ],
        );
        check_flow(
            &format!("- {{filter: validator, alias: END}}\n{REST}"),
            &["flow[0].alias = \"END\": END is the end of the flow; choose another alias"],
        );
        check(
            &format!("flow: [{{filter: proxy}}]\n{FILTERS}"),
            &[],
            &[
                "filters[0]: validator is not in flow and never runs",
                "filters[1]: mock is not in flow and never runs",
                "filters[2]: fallback is not in flow and never runs",
            ],
        );
    }

    #[test]
    fn filters_have_names_and_known_kinds() {
        check(
            "filters: [{name: END, kind: Mock}, {name: a, kind: Mok}, {name: a, kind: Mock}, {kind: Mock}, {name: b}, {name: r, kind: Retry}]",
            &[
                "filters[0].name = \"END\": END is the end of the flow and no name for a filter; choose another name",
                "filters[1].kind = \"Mok\": unknown kind of filter; accepted: Fallback, Mock, Proxy, RateLimiter or Validator; did you mean Mock?",
                "filters[2].name = \"a\": the same name as entry 1; give each filter its own name",
                "filters[3].name: missing; give it a name of letters, digits, '-', '_', '.' and '~'",
                "filters[4].kind: missing; accepted: Fallback, Mock, Proxy, RateLimiter or Validator",
                "filters[5].kind = \"Retry\": unknown kind of filter; accepted: Fallback, Mock, Proxy, RateLimiter or Validator; move it to resilience",
            ],
            &[],
        );
        check(
            "flow: []",
            &["filters: missing; give it: The filters, each with `name`, `kind` and the fields of its kind"],
            &[],
        );
        check("filters: []", &["filters: is empty; list at least one filter"], &[]);
        check("filters: [5]", &["filters[0] = 5: a number where a mapping is wanted"], &[]);
    }

    #[test]
    fn pools_and_their_policies() {
        let proxy = |pools: &str, rest: &str| format!("filters:\n- name: p\n  kind: Proxy\n  pools:\n{pools}\n{rest}");
        check(
            &proxy(
                "  - servers: [{url: 'http://a:80', weight: 1}, {url: 'a:80'}, {url: 'ftp://a'}, {url: 'http://'}, {url: 'http://a:99999', weight: 200}]",
                "",
            ),
            // The rest is looked at all the same, but not what is beside a fault.
            &[
                "filters[0].pools[0].servers[4].weight = 200: out of range; accepted: 0 to 100",
                "filters[0].pools[0].servers[1].url = \"a:80\": no scheme; write it as http://host:port",
                "filters[0].pools[0].servers[1].weight: missing: other servers of the pool have one; give every server a weight of 1 or more, or none of them",
                "filters[0].pools[0].servers[2].url = \"ftp://a\": the scheme ftp is not spoken; write http://, https:// or unix://",
                "filters[0].pools[0].servers[2].weight: missing: other servers of the pool have one; give every server a weight of 1 or more, or none of them",
                "filters[0].pools[0].servers[3].url = \"http://\": no host; write it as http://host:port",
                "filters[0].pools[0].servers[3].weight: missing: other servers of the pool have one; give every server a weight of 1 or more, or none of them",
            ],
            &[],
        );
        check(
            &proxy(
                "  - servers: [{url: 'http://a:80', weight: 1}, {url: 'a:80'}, {url: 'ftp://a'}, {url: 'http://'}, {url: 'ws://a:9', weight: 2}]",
                "",
            ),
            &[
                "filters[0].pools[0].servers[1].url = \"a:80\": no scheme; write it as http://host:port",
                "filters[0].pools[0].servers[1].weight: missing: other servers of the pool have one; give every server a weight of 1 or more, or none of them",
                "filters[0].pools[0].servers[2].url = \"ftp://a\": the scheme ftp is not spoken; write http://, https:// or unix://",
                "filters[0].pools[0].servers[2].weight: missing: other servers of the pool have one; give every server a weight of 1 or more, or none of them",
                "filters[0].pools[0].servers[3].url = \"http://\": no host; write it as http://host:port",
                "filters[0].pools[0].servers[3].weight: missing: other servers of the pool have one; give every server a weight of 1 or more, or none of them",
                "filters[0].pools[0].servers[4].url = \"ws://a:9\": the scheme ws does not fit here; accepted: http or https",
            ],
            &[
                "filters[0].pools[0].servers: weights have no effect: only loadBalance.policy weightedRandom, leastRequest, peakEWMA and maglev look at them",
            ],
        );
        check(
            &proxy(
                "  - {servers: [{url: 'http://a'}], retryPolicy: again, circuitBreakerPolicy: again, failureCodes: [99]}\n  - servers: [{url: 'http://a'}]\n  - {}",
                "resilience:\n- {name: again, kind: Retry, maxAttempts: 0}\n- {name: t, kind: TimeLimiter}",
            ),
            &[
                "filters[0].pools[0].failureCodes[0] = 99: out of range; accepted: 100 to 599",
                "filters[0].pools[1]: a second pool without filter, after pools[0]; give it a filter, give each a weight, or join the two",
                "filters[0].pools[2]: a second pool without filter, after pools[0]; give it a filter, give each a weight, or join the two",
                "filters[0].pools[2]: no servers; list servers, or give serviceRegistry and serviceName",
                "filters[0].pools[0].circuitBreakerPolicy = \"again\": names a policy of kind Retry, CircuitBreaker is wanted; add it to resilience with kind: CircuitBreaker, or remove the reference",
                "resilience[0].maxAttempts = 0: out of range; accepted: 1 to 4294967295",
                "resilience[1].kind = \"TimeLimiter\": unknown kind of policy; accepted: CircuitBreaker or Retry; give the pool a timeout instead",
            ],
            &[],
        );
        check(
            &proxy(
                "  - {servers: [{url: 'http://a'}], retryPolicy: agin, circuitBreakerPolicy: again}\n  - servers: [{url: 'http://b'}]\n  - {filter: {}}\n  - {serviceName: s, healthCheck: {pass: 2}, filter: {policy: random}, loadBalance: {policy: leastConn}}",
                "resilience:\n- {name: again, kind: Retry}",
            ),
            &[
                "filters[0].pools[1]: a second pool without filter, after pools[0]; give it a filter, give each a weight, or join the two",
                "filters[0].pools[2]: no servers; list servers, or give serviceRegistry and serviceName",
                "filters[0].pools[2].filter.headers: missing; name a header to match, or choose policy ipHash, headerHash or random",
                "filters[0].pools[3].serviceRegistry: missing beside serviceName; name the registry, or list servers",
                "filters[0].pools[3].filter.permil = 0: out of range for policy random; accepted: 1 to 1000",
                "filters[0].pools[0].retryPolicy = \"agin\": no policy of that name, of kind Retry, in resilience; add it to resilience with kind: Retry, or remove the reference",
                "filters[0].pools[0].circuitBreakerPolicy = \"again\": names a policy of kind Retry, CircuitBreaker is wanted; add it to resilience with kind: CircuitBreaker, or remove the reference",
            ],
            &[
                "filters[0].pools[3].healthCheck.pass: unknown field, ignored; did you mean passes?",
                "filters[0].pools[3].loadBalance.policy: \"leastConn\" is unknown, roundRobin is used; known: roundRobin, random, weightedRandom, leastRequest, peakEWMA, ipHash, headerHash, cookieHash, maglev or forward",
            ],
        );
    }

    #[test]
    fn a_service_of_no_registry_leaves_the_servers_that_are_listed() {
        let proxy = |pool: &str| format!("filters:\n- {{name: p, kind: Proxy, pools: [{{{pool}}}]}}");
        let listed = "servers: [{url: 'http://a'}]";
        check(
            &proxy(&format!("{listed}, serviceName: s, healthCheck: {{}}")),
            &[],
            &["filters[0].pools[0].serviceName: has no effect without serviceRegistry; servers are used"],
        );
        check(
            &proxy(&format!("{listed}, serviceName: s, serviceRegistry: r, healthCheck: {{}}")),
            &[
                "filters[0].pools[0].healthCheck: not together with serviceName; remove it: the registry says who is well",
            ],
            &[],
        );
    }

    #[test]
    fn back_off_is_read_as_easegresss_documents_write_it() {
        for (word, policy) in [
            ("random", resilience::BackOffPolicy::Random),
            ("Random", resilience::BackOffPolicy::Random),
            ("exponential", resilience::BackOffPolicy::Exponential),
            ("EXPONENTIAL", resilience::BackOffPolicy::Exponential),
            ("Exponentially", resilience::BackOffPolicy::Exponential),
        ] {
            let text = format!("filters: []\nresilience: [{{name: r, kind: Retry, backOffPolicy: {word}}}]");
            let spec = decode::<PipelineSpec>(&crate::yaml::parse_document(&text).unwrap(), "").unwrap().value;
            assert_eq!(spec.retry("r").map(|retry| retry.back_off_policy), Some(policy), "{word}");
        }
        check(
            &format!("{FILTERS}\nresilience: [{{name: r, kind: Retry, backOffPolicy: Expo}}]"),
            &["resilience[0].backOffPolicy = \"Expo\": not one of the accepted words; accepted: random or exponential"],
            &[],
        );
    }

    #[test]
    fn policies_that_go_far_are_told_so_and_run() {
        check(
            &format!(
                "{FILTERS}\nresilience: [{{name: r, kind: Retry, maxAttempts: 101}}, {{name: c, kind: CircuitBreaker, \
                 waitDurationInOpenState: 0s}}]"
            ),
            &[],
            &[
                "resilience[0].maxAttempts: 100 are made at most",
                "resilience[1].waitDurationInOpenState: 0s keeps nothing from the servers: the call after the one that opened the \
                 circuit tries them",
            ],
        );
        assert_eq!(RetrySpec { max_attempts: 101, ..RetrySpec::default() }.attempts(), 100);
    }

    #[test]
    fn policies_by_name() {
        let value =
            crate::yaml::parse_document("filters: []\nresilience: [{name: r, kind: Retry, maxAttempts: 5}]").unwrap();
        let spec = decode::<PipelineSpec>(&value, "").unwrap().value;
        assert_eq!(spec.retry("r").map(|retry| retry.max_attempts), Some(5));
        assert_eq!(spec.retry("x"), None);
        assert_eq!(spec.circuit_breaker("r"), None);
    }
}

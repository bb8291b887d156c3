//! `kind: OverloadManager`: what a machine does when it itself has too much to do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::adaptive_concurrency::PriorityRule;
use crate::duration::GoDuration;
use crate::problem::{Findings, Problem, at, nth};

/// What can run short, by the names of `resourceMonitors` and `triggers`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Resource {
    #[default]
    WorkerBusy,
    QueueDelay,
    RingQueue,
    Memory,
    Descriptors,
    AcceptQueue,
}

impl Resource {
    pub const ALL: [Resource; 6] = [
        Resource::WorkerBusy,
        Resource::QueueDelay,
        Resource::RingQueue,
        Resource::Memory,
        Resource::Descriptors,
        Resource::AcceptQueue,
    ];

    /// As documents and metrics name it.
    pub const fn name(self) -> &'static str {
        match self {
            Resource::WorkerBusy => "workerBusy",
            Resource::QueueDelay => "queueDelay",
            Resource::RingQueue => "ringQueue",
            Resource::Memory => "memory",
            Resource::Descriptors => "descriptors",
            Resource::AcceptQueue => "acceptQueue",
        }
    }
}

/// What is done about it, by the names of `actions`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OverloadAction {
    /// Connections end with the answer that is under way.
    #[default]
    DisableHttpKeepalive,
    /// Requests below a priority that rises with the pressure get 503; `critical` ones do not.
    ShedLowPriority,
    /// All requests get 503.
    StopAcceptingRequests,
    /// New connections wait in the kernel's queue, and where that is full the kernel drops what begins them (SYN).
    StopAcceptingConnections,
    /// New connections are reset as they come.
    RejectIncomingConnections,
}

impl OverloadAction {
    pub const ALL: [OverloadAction; 5] = [
        OverloadAction::DisableHttpKeepalive,
        OverloadAction::ShedLowPriority,
        OverloadAction::StopAcceptingRequests,
        OverloadAction::StopAcceptingConnections,
        OverloadAction::RejectIncomingConnections,
    ];

    /// As documents and metrics name it.
    pub const fn name(self) -> &'static str {
        match self {
            OverloadAction::DisableHttpKeepalive => "disableHttpKeepalive",
            OverloadAction::ShedLowPriority => "shedLowPriority",
            OverloadAction::StopAcceptingRequests => "stopAcceptingRequests",
            OverloadAction::StopAcceptingConnections => "stopAcceptingConnections",
            OverloadAction::RejectIncomingConnections => "rejectIncomingConnections",
        }
    }
}

/// What each edge does when it has too much to do, as Envoy's overload manager: resources are looked at, and actions follow from how much
/// of them is used. There is one of its kind at most.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["actions"]))]
pub struct OverloadManagerSpec {
    /// How often resources are looked at, 50ms to 10s. Default 250ms.
    pub refresh_interval: GoDuration,
    /// What counts as all of a resource, where that is not the machine's own bound.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_monitors: Vec<ResourceMonitorSpec>,
    /// What is done, and when.
    pub actions: Vec<OverloadActionSpec>,
    /// Least seconds of Retry-After with a 503; up to three times as many are said at random. Default 1s.
    pub retry_after: GoDuration,
    /// Which requests matter how much, for `shedLowPriority`; the first that fits decides, others are `normal`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub priorities: Vec<PriorityRule>,
    /// Field that names whose requests these are. Default: the client's address does, of IPv6 its first 64 bits.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub consumer_header: String,
}

impl Default for OverloadManagerSpec {
    fn default() -> Self {
        Self {
            refresh_interval: GoDuration::from_millis(250),
            resource_monitors: Vec::new(),
            actions: Vec::new(),
            retry_after: GoDuration::from_secs(1),
            priorities: Vec::new(),
            consumer_header: String::new(),
        }
    }
}

/// What counts as all of a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]))]
pub struct ResourceMonitorSpec {
    /// `workerBusy` (share of the time in which workers have work), `queueDelay` (longest time between two looks of a worker at what has
    /// come), `ringQueue` (the most that waited for a worker when it looked, of what its queue with the kernel holds: completions of
    /// io_uring, or operations beyond its ring; with `--io epoll` events of those that one look brings), `memory` (of --memory-limit),
    /// `descriptors` (open files, or before Linux 6.2 open connections alone, of those that traffic may open: an eighth of what the
    /// process may, and 256 at most, are set aside for the rest of it) or `acceptQueue` (connections the kernel has taken and nobody has
    /// accepted, of the listener's queue).
    pub name: Resource,
    /// Of `queueDelay`: the delay that counts as all of it. Default 100ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_delay: Option<GoDuration>,
}

/// An action and what brings it about.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name", "triggers"]))]
pub struct OverloadActionSpec {
    /// `disableHttpKeepalive`, `shedLowPriority`, `stopAcceptingRequests`, `stopAcceptingConnections` or `rejectIncomingConnections`.
    pub name: OverloadAction,
    /// Any of them is enough. An action ends when its triggers have been a tenth below where they began for a second.
    pub triggers: Vec<TriggerSpec>,
}

/// When an action is due: `threshold` or `scaled`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]))]
pub struct TriggerSpec {
    /// The resource, as in `resourceMonitors`.
    pub name: Resource,
    /// All of the action from here on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<ThresholdSpec>,
    /// The more of the action, the more of the resource is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaled: Option<ScaledSpec>,
}

/// All of an action from a share of a resource on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["value"]))]
pub struct ThresholdSpec {
    /// Share of the resource, above 0 and up to 1.
    #[schemars(range(max = 1.0))]
    pub value: f64,
}

/// An action that grows with a resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["scalingThreshold", "saturationThreshold"]))]
pub struct ScaledSpec {
    /// Share of the resource from which on it begins, above 0.
    #[schemars(range(max = 1.0))]
    pub scaling_threshold: f64,
    /// Share of the resource at which it is whole, up to 1.
    #[schemars(range(max = 1.0))]
    pub saturation_threshold: f64,
}

impl OverloadManagerSpec {
    /// The delay that is all of `queueDelay`.
    pub fn max_delay(&self) -> std::time::Duration {
        let given = self.resource_monitors.iter().find(|monitor| monitor.name == Resource::QueueDelay);
        given.and_then(|monitor| monitor.max_delay).unwrap_or(GoDuration::from_millis(100)).duration()
    }

    pub fn validate(&self, path: &str, findings: &mut Findings) {
        let (least, most) = (GoDuration::from_millis(50), GoDuration::from_secs(10));
        if self.refresh_interval < least || self.refresh_interval > most {
            let problem = Problem::new(at(path, "refreshInterval"), "out of range");
            findings.problem(problem.value(&self.refresh_interval.to_string().into()).accepted("50ms to 10s"));
        }
        if self.retry_after.is_negative() {
            findings.problem(Problem::new(at(path, "retryAfter"), "a time cannot be negative"));
        }
        for (index, monitor) in self.resource_monitors.iter().enumerate() {
            let place = at(&nth(&at(path, "resourceMonitors"), index), "maxDelay");
            match monitor.max_delay {
                Some(delay) if delay.nanos() <= 0 => {
                    findings.problem(Problem::new(place, "every delay would be all of it").accepted("longer than 0s"));
                }
                Some(_) if monitor.name != Resource::QueueDelay => {
                    findings.warn(place, "has no effect: only queueDelay has one");
                }
                _ => {}
            }
        }
        if self.actions.is_empty() {
            findings.problem(Problem::new(at(path, "actions"), "is empty").advice("say what is to be done, and when"));
        }
        for (index, action) in self.actions.iter().enumerate() {
            let place = nth(&at(path, "actions"), index);
            if self.actions[..index].iter().any(|before| before.name == action.name) {
                findings.problem(Problem::new(at(&place, "name"), "given twice").text(action.name.name()));
            }
            let triggers = at(&place, "triggers");
            if action.triggers.is_empty() {
                findings.problem(Problem::new(&triggers, "is empty").advice("say when it is due"));
            }
            for (index, trigger) in action.triggers.iter().enumerate() {
                trigger.validate(&nth(&triggers, index), findings);
            }
        }
        PriorityRule::validate_all(&self.priorities, &self.consumer_header, path, findings);
    }
}

impl TriggerSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        let share = |value: f64| value > 0.0 && value <= 1.0;
        match (self.threshold, self.scaled) {
            (Some(threshold), None) if !share(threshold.value) => {
                let problem = Problem::new(at(&at(path, "threshold"), "value"), "no share of a resource");
                findings.problem(problem.value(&threshold.value.into()).accepted("above 0 and up to 1"));
            }
            (None, Some(scaled)) => {
                let place = at(path, "scaled");
                for (field, value) in [
                    ("scalingThreshold", scaled.scaling_threshold),
                    ("saturationThreshold", scaled.saturation_threshold),
                ] {
                    if !share(value) {
                        let problem = Problem::new(at(&place, field), "no share of a resource");
                        findings.problem(problem.value(&value.into()).accepted("above 0 and up to 1"));
                    }
                }
                if scaled.scaling_threshold >= scaled.saturation_threshold {
                    let problem = Problem::new(at(&place, "scalingThreshold"), "not below saturationThreshold");
                    findings.problem(problem.value(&scaled.scaling_threshold.into()));
                }
            }
            (Some(_), None) => {}
            _ => findings.problem(Problem::new(path, "threshold or scaled is needed, and not both")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triggers_are_shares_and_one_of_two() {
        let action = |trigger: &str| format!("{{actions: [{{name: shedLowPriority, triggers: [{trigger}]}}]}}");
        for (text, wanted) in [
            (action("{name: memory, threshold: {value: 0.9}}"), &[][..]),
            (action("{name: ringQueue, threshold: {value: 0.5}}"), &[]),
            (action("{name: queueDelay, scaled: {scalingThreshold: 0.2, saturationThreshold: 1}}"), &[]),
            (action("{name: memory, threshold: {value: 0}}"), &["actions[0].triggers[0].threshold.value"]),
            (action("{name: memory}"), &["actions[0].triggers[0]"]),
            (
                action("{name: memory, scaled: {scalingThreshold: 0.5, saturationThreshold: 0.5}}"),
                &["actions[0].triggers[0].scaled.scalingThreshold"],
            ),
            ("{actions: []}".to_owned(), &["actions"]),
            (
                "{refreshInterval: 1ms, actions: [{name: stopAcceptingRequests, triggers: []}]}".to_owned(),
                &["refreshInterval", "actions[0].triggers"],
            ),
            (action("{name: heap, threshold: {value: 0.9}}"), &["actions[0].triggers[0].name"]),
        ] {
            let value = crate::yaml::parse_document(&text).unwrap();
            let found = match crate::decode::<OverloadManagerSpec>(&value, "") {
                Ok(decoded) => {
                    let mut findings = Findings::default();
                    decoded.value.validate("", &mut findings);
                    findings.problems
                }
                Err(problems) => problems,
            };
            let found: Vec<&str> = found.iter().map(|problem| problem.path.as_str()).collect();
            assert_eq!(found, wanted, "{text}");
        }
    }
}

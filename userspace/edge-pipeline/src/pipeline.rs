//! The flow: nodes in order, jumps forward on results, `END`.

use crate::exchange::{DEFAULT_NAMESPACE, Exchange};
use crate::filter::{BuildError, Filter, FilterKind, Outcome, Parts, SUCCESS, Step};
use base_model::PipelineSpec;
use base_telemetry::Telemetry;
use serde_json::Value;
use std::sync::Arc;
use std::time::Instant;

/// Reserved node name that stops the flow.
pub const END: &str = "END";

/// A ready pipeline. Built once per generation, shared by all workers.
pub struct Pipeline {
    name: Arc<str>,
    filters: Vec<(Arc<str>, &'static str, Arc<dyn Filter>)>,
    nodes: Vec<Node>,
    data: Option<Value>,
}

/// What runs around the pipelines of a server: a ready GlobalFilter.
#[derive(Default)]
pub struct Around {
    pub before: Option<Pipeline>,
    pub after: Option<Pipeline>,
    /// Go on with the pipeline although the flow before it was ended.
    pub fall_through_before: bool,
    /// Go on with the flow after it although the pipeline was ended.
    pub fall_through_pipeline: bool,
}

struct Node {
    /// `None` is `END`.
    filter: Option<Arc<dyn Filter>>,
    /// Alias, or the filter's name.
    label: Arc<str>,
    namespace: Option<Arc<str>>,
    /// Result → index of the node to go on with; the number of nodes means the end.
    jumps: Vec<(Outcome, usize)>,
}

impl Pipeline {
    /// Builds every filter and resolves the flow. `spec` has passed [`PipelineSpec`]'s static checks.
    /// `previous` is the generation before, whose filters' state is inherited by name and kind.
    pub fn build(
        name: &str,
        spec: &PipelineSpec,
        kinds: &dyn Fn(&str) -> Option<&'static FilterKind>,
        previous: Option<&Pipeline>,
        telemetry: &Arc<Telemetry>,
    ) -> Result<Pipeline, BuildError> {
        let mut problems = Vec::new();
        let mut filters: Vec<(Arc<str>, &'static str, Arc<dyn Filter>)> = Vec::new();
        for (index, filter) in spec.filters.iter().enumerate() {
            let Some(kind) = kinds(&filter.kind) else {
                problems.push(base_model::Problem::new(
                    format!("filters[{index}].kind"),
                    format!("no filter kind is called {}", filter.kind),
                ));
                continue;
            };
            let inherited = previous.and_then(|p| p.filter(&filter.name, kind.kind));
            let parts = Parts {
                name: &filter.name,
                pipeline: name,
                previous: inherited.map(|f| &**f),
                last: Pipeline::is_last(spec, index),
                resilience: &spec.resilience,
                telemetry,
            };
            match (kind.build)(&filter.raw, &parts) {
                Ok(ready) => filters.push((filter.name.as_str().into(), kind.kind, ready)),
                Err(found) => problems.extend(found.into_iter().map(|mut problem| {
                    problem.path = base_model::problem::at(&format!("filters[{index}]"), &problem.path);
                    problem
                })),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let nodes = Pipeline::resolve(spec, &filters, kinds);
        let data = (!spec.data.is_empty()).then(|| Value::Object(spec.data.clone()));
        Ok(Pipeline { name: name.into(), filters, nodes, data })
    }

    /// Whether no other filter can come after this one.
    fn is_last(spec: &PipelineSpec, index: usize) -> bool {
        if spec.flow.is_empty() {
            return index + 1 == spec.filters.len();
        }
        let name = &spec.filters[index].name;
        spec.flow.iter().skip_while(|node| node.filter != *name).skip(1).all(|node| node.filter == END)
    }

    fn resolve(
        spec: &PipelineSpec,
        filters: &[(Arc<str>, &'static str, Arc<dyn Filter>)],
        kinds: &dyn Fn(&str) -> Option<&'static FilterKind>,
    ) -> Vec<Node> {
        let ready = |name: &str| filters.iter().find(|(n, _, _)| &**n == name);
        if spec.flow.is_empty() {
            return filters
                .iter()
                .map(|(name, _, filter)| Node {
                    filter: Some(filter.clone()),
                    label: name.clone(),
                    namespace: None,
                    jumps: Vec::new(),
                })
                .collect();
        }
        spec.flow
            .iter()
            .enumerate()
            .map(|(index, node)| {
                let found = ready(&node.filter);
                let results = found.and_then(|(_, kind, _)| kinds(kind)).map_or(&[][..], |k| k.results);
                let jumps = node.jump_if.iter().filter_map(|(result, target)| {
                    let result = if result.is_empty() { SUCCESS } else { *results.iter().find(|r| *r == result)? };
                    let to = spec.flow.iter().skip(index + 1).position(|n| n.label() == target);
                    Some((result, to.filter(|_| target != END).map_or(spec.flow.len(), |at| at + index + 1)))
                });
                Node {
                    filter: found.map(|(_, _, f)| f.clone()),
                    label: node.label().into(),
                    namespace: Some(node.namespace.as_str())
                        .filter(|n| !n.is_empty() && *n != DEFAULT_NAMESPACE)
                        .map(Arc::from),
                    jumps: jumps.collect(),
                }
            })
            .collect()
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// A filter by name and kind.
    pub fn filter(&self, name: &str, kind: &str) -> Option<&Arc<dyn Filter>> {
        self.filters.iter().find(|(n, k, _)| &**n == name && *k == kind).map(|(_, _, f)| f)
    }

    /// Whether a CONNECT request may go through it.
    pub fn makes_tunnels(&self) -> bool {
        self.filters.iter().any(|(_, _, filter)| filter.makes_tunnels())
    }

    /// Walks the flow. The answer, if any filter gave one, is the response of the exchange's `DEFAULT` namespace.
    /// Says whether the flow was ended by `END` or by a result nobody jumps on, rather than by its last node.
    pub async fn run(&self, exchange: &mut Exchange) -> bool {
        if let Some(data) = &self.data {
            exchange.data.insert("PIPELINE".to_owned(), data.clone());
        }
        exchange.tags.enter(&self.name);
        let mut at = 0;
        let mut ended = false;
        while let Some(node) = self.nodes.get(at) {
            let Some(filter) = &node.filter else {
                ended = true;
                break;
            };
            exchange.enter(node.namespace.as_ref());
            let began = exchange.tags.enabled.then(Instant::now);
            let outcome = match filter.handle(exchange) {
                Step::Done(outcome) => outcome,
                Step::Wait(future) => future.await,
            };
            if let Some(began) = began {
                exchange.tags.pass(&node.label, outcome, began.elapsed());
            }
            at = match node.jumps.iter().find(|(result, _)| *result == outcome) {
                Some((_, target)) => *target,
                None if outcome == SUCCESS => at + 1,
                None => {
                    ended = true;
                    break;
                }
            };
        }
        exchange.enter(None);
        ended
    }

    /// Walks a flow before this one and a flow after it, as a GlobalFilter says.
    pub async fn run_within(&self, around: &Around, exchange: &mut Exchange) {
        exchange.keep_request_body = true;
        if let Some(before) = &around.before
            && before.run(exchange).await
            && !around.fall_through_before
        {
            return;
        }
        exchange.keep_request_body = around.after.is_some();
        if self.run(exchange).await && !around.fall_through_pipeline {
            return;
        }
        if let Some(after) = &around.after {
            after.run(exchange).await;
            exchange.tags.enter(&self.name);
        }
    }

    /// Status of each filter that has any to show.
    pub fn status(&self) -> Value {
        let filters = self.filters.iter().filter_map(|(name, _, f)| Some((name.to_string(), f.status()?)));
        serde_json::json!({ "health": "", "filters": Value::Object(filters.collect()) })
    }
}

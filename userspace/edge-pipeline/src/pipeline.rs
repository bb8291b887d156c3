//! The flow: nodes in order, jumps forward on results, `END`.

use crate::exchange::{DEFAULT_NAMESPACE, Exchange};
use crate::filter::{BuildError, Enclosed, Filter, FilterKind, Outcome, Parts, SUCCESS, Step, Touches};
use crate::name::PipelineName;
use crate::parallel::{Branch, Group};
use base_model::{BranchSpec, FlowNodeSpec, ParallelSpec, PipelineSpec};
use base_telemetry::Telemetry;
use proto_trace::{Begun, SpanKind};
use serde_json::Value;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Reserved node name that stops the flow.
pub const END: &str = "END";

/// A ready pipeline. Built once per generation, shared by all workers.
pub struct Pipeline {
    name: PipelineName,
    filters: Vec<(Arc<str>, &'static str, Arc<dyn Filter>)>,
    nodes: Arc<[Node]>,
    data: Option<Value>,
}

/// The stations after one that encloses them. It may be kept, and walked again with another exchange.
#[derive(Clone)]
pub struct Rest {
    nodes: Arc<[Node]>,
    /// The next station.
    at: usize,
    /// When the enclosing station began.
    began: Option<Instant>,
}

impl Rest {
    /// Walks them; says whether the flow was ended by `END` or by a result nobody jumps on. The exchange is in the namespace of the
    /// enclosing station again after it.
    pub async fn run(&self, exchange: &mut Exchange) -> bool {
        let around = &self.nodes[self.at - 1];
        let mut began = None;
        if exchange.is_timed() {
            let now = Instant::now();
            exchange.clock = now;
            let took = self.began.map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
            exchange.tags.pass(&around.label, SUCCESS, took);
            began = Some(now);
        }
        let after = exchange.after;
        exchange.after = after.and(around.touches());
        let Walked { ended, .. } = walk(&self.nodes, self.at, began, exchange).await;
        exchange.after = after;
        exchange.enter(around.namespace.as_ref());
        ended
    }

    /// An exchange of its own with the request of this one as it stands, for the stations to be walked beside it. `None` when the
    /// request has a body that can be read only once.
    pub fn beside(&self, exchange: &Exchange) -> Option<Exchange> {
        let space = exchange.space_ref();
        let mut beside = Exchange::default();
        beside.client = exchange.client.clone();
        beside.data = exchange.data.clone();
        beside.method = exchange.method.clone();
        beside.uri = exchange.uri.clone();
        beside.matched_prefix = exchange.matched_prefix.clone();
        beside.after = exchange.after;
        beside.enter(self.nodes[self.at - 1].namespace.as_ref());
        let into = beside.space();
        into.request = space.request.clone();
        into.has_request = space.has_request;
        into.request_body = space.request_body.again()?;
        Some(beside)
    }
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

impl Around {
    /// As [`Pipeline::is_repeatable`].
    pub fn is_repeatable(&self) -> bool {
        [&self.before, &self.after].into_iter().flatten().all(Pipeline::is_repeatable)
    }
}

pub(crate) struct Node {
    /// `None` is `END`, where there are no branches.
    filter: Option<Arc<dyn Filter>>,
    /// Branches that are walked at the same time, in place of a filter.
    group: Option<Group>,
    /// Alias, or the filter's name.
    label: Arc<str>,
    namespace: Option<Arc<str>>,
    /// See [`Filter::encloses`].
    encloses: bool,
    /// What the nodes after it may touch; a jump leads forward only.
    later: Touches,
    /// Result → index of the node to go on with; the number of nodes means the end.
    jumps: Vec<(Outcome, usize)>,
}

impl Node {
    fn is_end(&self) -> bool {
        self.filter.is_none() && self.group.is_none()
    }

    pub(crate) fn touches(&self) -> Touches {
        let own = self.filter.as_ref().map_or(Touches::NOTHING, |filter| filter.touches());
        self.group.as_ref().map_or(own, |group| group.touches())
    }
}

impl Pipeline {
    /// Builds every filter and resolves the flow. `spec` has passed [`PipelineSpec`]'s static checks.
    /// `previous` is the generation before, whose filters' state is inherited by name and kind.
    pub fn build(
        name: &PipelineName,
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
                resilience: &spec.resilience,
                telemetry,
            };
            match (kind.build)(&filter.raw, &parts) {
                Ok(ready) => filters.push((filter.name.as_str().into(), kind.kind, ready)),
                Err(found) => problems.extend(found.into_iter().map(|mut problem| {
                    problem.path = base_model::problem::within(&format!("filters[{index}]"), &problem.path);
                    problem
                })),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let nodes = Pipeline::resolve(&spec.effective_flow(), &filters, kinds);
        let data = (!spec.data.is_empty()).then(|| Value::Object(spec.data.clone()));
        Ok(Pipeline { name: name.clone(), filters, nodes: nodes.into(), data })
    }

    /// The nodes of a flow, or of a branch of one.
    fn resolve(
        flow: &[FlowNodeSpec],
        filters: &[(Arc<str>, &'static str, Arc<dyn Filter>)],
        kinds: &dyn Fn(&str) -> Option<&'static FilterKind>,
    ) -> Vec<Node> {
        let ready = |name: &str| filters.iter().find(|(n, _, _)| &**n == name);
        let node = |(index, node): (usize, &FlowNodeSpec)| {
            let found = ready(&node.filter).filter(|_| node.parallel.is_none());
            let results = match node.parallel {
                Some(_) => &base_model::PARALLEL_RESULTS[..],
                None => found.and_then(|(_, kind, _)| kinds(kind)).map_or(&[][..], |k| k.results),
            };
            let jumps = node.jump_if.iter().filter_map(|(result, target)| {
                let result = if result.is_empty() { SUCCESS } else { *results.iter().find(|r| *r == result)? };
                let to = flow.iter().skip(index + 1).position(|n| n.label() == target);
                Some((result, to.filter(|_| target != END).map_or(flow.len(), |at| at + index + 1)))
            });
            let branch = |branch: &BranchSpec| Branch {
                namespace: branch.namespace.as_str().into(),
                nodes: Pipeline::resolve(&branch.nodes(), filters, kinds).into(),
            };
            let group = |spec: &ParallelSpec| Group::new(spec.branches.iter().map(branch).collect(), spec);
            Node {
                filter: found.map(|(_, _, f)| f.clone()),
                group: node.parallel.as_ref().map(group),
                label: node.label().into(),
                namespace: Some(node.namespace.as_str())
                    .filter(|n| !n.is_empty() && *n != DEFAULT_NAMESPACE)
                    .map(Arc::from),
                encloses: found.is_some_and(|(_, _, filter)| filter.encloses()),
                later: Touches::NOTHING,
                jumps: jumps.collect(),
            }
        };
        let mut nodes: Vec<Node> = flow.iter().enumerate().map(node).collect();
        let mut later = Touches::NOTHING;
        for node in nodes.iter_mut().rev() {
            node.later = later;
            later = later.and(node.touches());
        }
        nodes
    }

    pub fn name(&self) -> &PipelineName {
        &self.name
    }

    /// A filter by name and kind.
    pub fn filter(&self, name: &str, kind: &str) -> Option<&Arc<dyn Filter>> {
        self.filters.iter().find(|(n, k, _)| &**n == name && *k == kind).map(|(_, _, f)| f)
    }

    /// What any of its filters may touch.
    pub fn touches(&self) -> Touches {
        self.nodes.iter().fold(Touches::NOTHING, |all, node| all.and(node.touches()))
    }

    /// Whether a CONNECT request may go through it.
    pub fn makes_tunnels(&self) -> bool {
        self.filters.iter().any(|(_, _, filter)| filter.makes_tunnels())
    }

    /// Whether a safe request may go through it before its client has shown to be there, and twice, see [`Filter::is_repeatable`].
    pub fn is_repeatable(&self) -> bool {
        self.filters.iter().all(|(_, _, filter)| filter.is_repeatable())
    }

    /// Walks the flow. The answer, if any filter gave one, is the response of the exchange's `DEFAULT` namespace.
    /// Says whether the flow was ended by `END` or by a result nobody jumps on, rather than by its last node.
    pub fn run<'a>(&'a self, exchange: &'a mut Exchange) -> impl Future<Output = bool> + 'a {
        self.run_with(self.data.as_ref(), exchange)
    }

    /// As [`Pipeline::run`], with this as `.data.PIPELINE`.
    async fn run_with<'a>(&'a self, data: Option<&'a Value>, exchange: &'a mut Exchange) -> bool {
        match data {
            Some(data) => drop(exchange.data.insert(PIPELINE.to_owned(), data.clone())),
            None => drop(exchange.data.remove(PIPELINE)),
        }
        exchange.tags.enter(self.name.text());
        // The first station begins with the poll: what is between them costs less than asking the clock again.
        let began = exchange.is_timed().then(|| exchange.clock.max(base_runtime::poll_began()));
        let span = begin(self.name.text(), began, exchange);
        // It stays in its place, and so does what is pinned elsewhere on the way of each request: awaited where it is made, a future is
        // copied first, with all the room that it will need.
        let Walked { ended, .. } = pin!(walk(&self.nodes, 0, began, exchange)).await;
        if let (Some(span), Some(trace)) = (span, &mut exchange.trace) {
            trace.end(span, exchange.clock);
        }
        ended
    }

    /// Walks a flow before this one and a flow after it, as a GlobalFilter says. Each sees its own `data`; the two that have none see this
    /// one's.
    pub async fn run_within(&self, around: &Around, exchange: &mut Exchange) {
        let after = around.after.as_ref().map_or(Touches::NOTHING, Pipeline::touches);
        exchange.after = after.and(self.touches());
        if let Some(before) = &around.before
            && before.run_with(before.data.as_ref().or(self.data.as_ref()), exchange).await
            && !around.fall_through_before
        {
            return;
        }
        exchange.after = after;
        if self.run(exchange).await && !around.fall_through_pipeline {
            return;
        }
        exchange.after = Touches::NOTHING;
        if let Some(after) = &around.after {
            after.run_with(after.data.as_ref().or(self.data.as_ref()), exchange).await;
            exchange.tags.enter(self.name.text());
        }
    }

    /// Status of each filter that has any to show.
    pub fn status(&self) -> Value {
        let filters = self.filters.iter().filter_map(|(name, _, f)| Some((name.to_string(), f.status()?)));
        serde_json::json!({ "health": "", "filters": Value::Object(filters.collect()) })
    }
}

/// Where templates find what a pipeline's document gives them.
const PIPELINE: &str = "PIPELINE";

/// How a walk came to its end.
pub(crate) struct Walked {
    /// Before the last of the nodes.
    pub ended: bool,
    /// By this result that nobody jumps on; [`SUCCESS`] for any other way.
    pub by: Outcome,
}

/// Walks the nodes from one on. The end of one station is the beginning of the next.
pub(crate) async fn walk(
    nodes: &Arc<[Node]>,
    mut at: usize,
    mut began: Option<Instant>,
    exchange: &mut Exchange,
) -> Walked {
    let mut walked = Walked { ended: false, by: SUCCESS };
    while let Some(node) = nodes.get(at) {
        if node.is_end() {
            walked.ended = true;
            break;
        }
        exchange.enter(node.namespace.as_ref());
        let span = begin(&node.label, began, exchange);
        exchange.later = node.later.and(exchange.after).and_if(exchange.has_ends(), Touches::RESPONSE_HEAD);
        let outcome = match (&node.filter, &node.group) {
            (_, Some(group)) => group.walk(&node.label, exchange).await,
            (None, None) => break,
            (Some(filter), None) if node.encloses => {
                match filter.enclose(exchange, Rest { nodes: nodes.clone(), at: at + 1, began }).await {
                    Enclosed::Alone(outcome) => outcome,
                    Enclosed::Walked { ended } => {
                        walked.ended = ended;
                        if let (Some(span), Some(trace)) = (span, &mut exchange.trace) {
                            exchange.clock = Instant::now();
                            trace.end(span, exchange.clock);
                        }
                        break;
                    }
                }
            }
            (Some(filter), None) => match filter.handle(exchange) {
                Step::Done(outcome) => outcome,
                Step::Wait(future) => future.await,
            },
        };
        if let Some(began) = &mut began {
            let now = Instant::now();
            exchange.clock = now;
            let took = now.saturating_duration_since(std::mem::replace(began, now));
            exchange.tags.pass(&node.label, outcome, took);
            if let (Some(span), Some(trace)) = (span, &mut exchange.trace) {
                if outcome != SUCCESS {
                    trace.set(span, "weir.filter.result", outcome);
                }
                trace.end(span, now);
            }
        }
        if outcome == SUCCESS && node.jumps.is_empty() {
            // As most stations end.
            at += 1;
            continue;
        }
        at = match node.jumps.iter().find(|(result, _)| *result == outcome) {
            Some((_, target)) => *target,
            None if outcome == SUCCESS => at + 1,
            None => {
                walked = Walked { ended: true, by: outcome };
                break;
            }
        };
    }
    exchange.enter(None);
    walked
}

/// The span of a pipeline or of a station, where spans are written down.
#[inline]
fn begin(name: &Arc<str>, began: Option<Instant>, exchange: &mut Exchange) -> Option<Begun> {
    let (trace, began) = (exchange.trace.as_mut()?, began?);
    Some(trace.begin(name, SpanKind::Internal, began))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_runtime::Boxed;
    use base_telemetry::Identity;
    use std::cell::RefCell;
    use std::task::{Context, Poll, Waker};

    thread_local! {
        /// What was wanted later when each station of this test ran.
        static SEEN: RefCell<Vec<Touches>> = const { RefCell::new(Vec::new()) };
    }

    struct Station(Touches);

    impl Filter for Station {
        fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
            SEEN.with_borrow_mut(|seen| seen.push(exchange.later));
            Step::Done(SUCCESS)
        }

        fn touches(&self) -> Touches {
            self.0
        }
    }

    /// Walks what is after it twice, the second time beside.
    struct Twice;

    impl Filter for Twice {
        fn handle<'a>(&'a self, _: &'a mut Exchange) -> Step<'a> {
            unreachable!("it encloses")
        }

        fn encloses(&self) -> bool {
            true
        }

        fn enclose<'a>(&'a self, exchange: &'a mut Exchange, rest: Rest) -> Boxed<'a, Enclosed> {
            Boxed::new(async move {
                let mut beside = rest.beside(exchange).unwrap();
                let ended = rest.run(exchange).await;
                assert_eq!(rest.run(&mut beside).await, ended);
                Enclosed::Walked { ended }
            })
        }

        fn touches(&self) -> Touches {
            Touches::RESPONSE
        }
    }

    /// Writes down what templates find as `.data.PIPELINE.k`.
    struct Data;

    impl Filter for Data {
        fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
            let found =
                exchange.data.get("PIPELINE").map_or("none", |data| data["k"].as_str().unwrap_or("?")).to_owned();
            let so_far = exchange.data.entry("seen".to_owned()).or_insert_with(|| "".into());
            *so_far = format!("{}{found} ", so_far.as_str().unwrap_or_default()).into();
            Step::Done(SUCCESS)
        }

        fn touches(&self) -> Touches {
            Touches::NOTHING
        }
    }

    fn kind(name: &str) -> Option<&'static FilterKind> {
        const fn made_by(kind: &'static str, build: crate::filter::Build) -> FilterKind {
            FilterKind { kind, results: &[], doc: "", schema: || Value::Null, check: |_, _, _| {}, build }
        }
        static HEADS: FilterKind = made_by("Heads", |_, _| Ok(Arc::new(Station(Touches::HEADS))));
        static BODY: FilterKind = made_by("Body", |_, _| Ok(Arc::new(Station(Touches::REQUEST_BODY))));
        static NONE: FilterKind = made_by("None", |_, _| Ok(Arc::new(Station(Touches::NOTHING))));
        static TWICE: FilterKind = made_by("Twice", |_, _| Ok(Arc::new(Twice)));
        static DATA: FilterKind = made_by("Data", |_, _| Ok(Arc::new(Data)));
        [&HEADS, &BODY, &NONE, &TWICE, &DATA].into_iter().find(|kind| kind.kind == name)
    }

    fn pipeline(text: &str) -> Pipeline {
        let spec = base_model::yaml::parse_document(text).unwrap();
        let spec = base_model::decode::<PipelineSpec>(&spec, "").unwrap().value;
        let telemetry = Telemetry::new(Identity::default(), 1);
        Pipeline::build(&PipelineName::of_object("p"), &spec, &kind, None, &telemetry)
            .unwrap_or_else(|_| panic!("{text}"))
    }

    fn seen(walk: impl Future) -> Vec<Touches> {
        let walked = std::pin::pin!(walk).poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(walked, Poll::Ready(_)), "no station waits");
        SEEN.take()
    }

    #[test]
    fn a_station_may_enclose_those_after_it() {
        let (heads, body, response) = (Touches::HEADS, Touches::REQUEST_BODY, Touches::RESPONSE);
        let mut exchange = Exchange::default();
        exchange.tags.enabled = true;
        let all = pipeline(
            "filters: [{name: n, kind: None}, {name: t, kind: Twice}, {name: h, kind: Heads}, {name: b, kind: Body}]",
        );
        let (before, within) = (heads.and(body).and(response), body.and(response));
        let walked = [before, within, response, within, response];
        assert_eq!(seen(all.run(&mut exchange)), walked);
        let steps: Vec<&str> = exchange.tags.steps().iter().map(|(name, _, _)| &**name).collect();
        assert_eq!(steps, ["n", "t", "h", "b"]);
        // What ends the walk within it ends the flow.
        let ends = pipeline(
            "flow: [{filter: t}, {filter: END}, {filter: b}]\nfilters: [{name: t, kind: Twice}, {name: b, kind: Body}]",
        );
        let mut ended = false;
        seen(async { ended = ends.run(&mut exchange).await });
        assert!(ended);
    }

    #[test]
    fn each_flow_sees_its_own_data_and_those_without_see_the_pipelines() {
        let of = |k: &str| {
            let data = if k.is_empty() { String::new() } else { format!("data: {{k: {k}}}\n") };
            pipeline(&format!("{data}filters: [{{name: d, kind: Data}}]"))
        };
        for (before, main, after, wanted) in [
            ("b", "m", "a", "b m a "),
            ("", "m", "", "m m m "),
            ("b", "", "", "b none none "),
            ("", "", "a", "none none a "),
            ("", "m", "a", "m m a "),
        ] {
            let around = Around { before: Some(of(before)), after: Some(of(after)), ..Around::default() };
            let mut exchange = Exchange::default();
            seen(of(main).run_within(&around, &mut exchange));
            assert_eq!(exchange.data["seen"], wanted, "{before} {main} {after}");
        }
    }

    #[test]
    fn a_station_knows_what_is_wanted_after_it() {
        const STATIONS: &str = "filters: [{name: n, kind: None}, {name: h, kind: Heads}, {name: b, kind: Body}]";
        let (heads, body, nothing) = (Touches::HEADS, Touches::REQUEST_BODY, Touches::NOTHING);
        let mut exchange = Exchange::default();
        let all = pipeline(STATIONS);
        assert_eq!(seen(all.run(&mut exchange)), [heads.and(body), body, nothing]);
        // The flow counts, not the list; a station may come twice.
        let flow = pipeline(&format!("flow: [{{filter: b}}, {{filter: n}}, {{filter: b}}, {{filter: h}}]\n{STATIONS}"));
        assert_eq!(seen(flow.run(&mut exchange)), [body.and(heads), body.and(heads), heads, nothing]);
        // What a GlobalFilter runs afterwards counts, too.
        let one = pipeline("filters: [{name: n, kind: None}]");
        let around = Around {
            before: Some(pipeline("filters: [{name: h, kind: Heads}]")),
            after: Some(pipeline("filters: [{name: b, kind: Body}, {name: n, kind: None}]")),
            ..Around::default()
        };
        assert_eq!(seen(one.run_within(&around, &mut exchange)), [body, body, nothing, nothing]);
    }
}

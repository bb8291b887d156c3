//! Branches of a flow that are walked at the same time, on the worker that has the request.
//!
//! Each is an exchange of its own, with what there is of the others when the step begins: bodies that are still arriving are gathered
//! before, so that every branch can read them. What a branch leaves in its namespace is put back when all are done.

use crate::exchange::Exchange;
use crate::filter::{Outcome, SUCCESS, Touches};
use crate::pipeline::{Node, Walked, walk};
use base_model::ParallelSpec;
use base_runtime::Boxed;
use proto_trace::Recording;
use serde_json::{Map, Value};
use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Fewer branches went well than must.
const FAILED: Outcome = base_model::PARALLEL_RESULTS[0];

/// Results of branches that were not waited for.
const TIMEOUT: Outcome = "timeout";
const CANCELLED: Outcome = "cancelled";

/// How long all of them may take where the document does not say.
const LONGEST: Duration = Duration::from_secs(30);

/// See the module doc.
pub(crate) struct Group {
    branches: Vec<Branch>,
    /// So many must go well.
    needed: usize,
    longest: Duration,
}

pub(crate) struct Branch {
    pub namespace: Arc<str>,
    pub nodes: Arc<[Node]>,
}

/// The exchange of a branch on its way. What it has written down of its trace is left in `trace`, also where nobody waits for its end.
struct Beside<'g> {
    exchange: Exchange,
    trace: &'g Trace,
}

/// Spans of a branch that is over.
type Trace = Cell<Option<Box<Recording>>>;

/// A branch on its way, and what became of it.
enum Running<'g> {
    Walks(Boxed<'g, (Exchange, Walked)>),
    Done(Box<Exchange>, Outcome),
}

impl Group {
    pub(crate) fn new(branches: Vec<Branch>, spec: &ParallelSpec) -> Group {
        Group { branches, needed: spec.needed(), longest: spec.timeout.map_or(LONGEST, Duration::from) }
    }

    /// What any of its filters may touch.
    pub(crate) fn touches(&self) -> Touches {
        let nodes = self.branches.iter().flat_map(|branch| branch.nodes.iter());
        nodes.fold(Touches::NOTHING, |all, node| all.and(node.touches()))
    }

    pub(crate) async fn walk(&self, label: &Arc<str>, exchange: &mut Exchange) -> Outcome {
        if let Err(status) = self.gather(exchange).await {
            exchange.refuse(status);
            return FAILED;
        }
        let traces: Vec<Trace> = self.branches.iter().map(|_| Trace::default()).collect();
        let mut running: Vec<Running<'_>> =
            self.branches.iter().zip(&traces).map(|(branch, trace)| branch.begin(exchange, trace)).collect();
        let in_time =
            base_runtime::time::timeout(self.longest, poll_fn(|cx| self.poll(&mut running, cx))).await.is_ok();
        let left = if in_time { CANCELLED } else { TIMEOUT };
        let before = exchange.data.clone();
        let (mut told, mut well) = (Map::new(), 0);
        for ((branch, running), trace) in self.branches.iter().zip(running).zip(&traces) {
            let outcome = match running {
                Running::Walks(walk) => {
                    drop(walk);
                    left
                }
                Running::Done(mut beside, outcome) => {
                    exchange.take_over(&branch.namespace, &mut beside);
                    exchange.tags.absorb(std::mem::take(&mut beside.tags));
                    let made = std::mem::take(&mut beside.data).into_iter();
                    exchange.data.extend(made.filter(|(key, value)| before.get(key) != Some(value)));
                    outcome
                }
            };
            if let (Some(all), Some(mut branch)) = (&mut exchange.trace, trace.take()) {
                if outcome != SUCCESS {
                    branch.set(branch.request(), "weir.filter.result", outcome);
                }
                all.absorb(*branch);
            }
            well += usize::from(outcome == SUCCESS);
            told.insert(branch.namespace.to_string(), outcome.into());
        }
        exchange.data.insert(label.to_string(), Value::Object(told));
        if well >= self.needed { SUCCESS } else { FAILED }
    }

    /// Has bodies in memory that some branch may look at. The error is the status for what cannot be had.
    async fn gather(&self, exchange: &mut Exchange) -> Result<(), u16> {
        let touches = self.touches();
        for space in exchange.spaces_mut() {
            if touches.contains(Touches::REQUEST_BODY) && space.request_body.is_stream() {
                space.request_body.gather().await.map_err(|error| error.request_status())?;
            }
            if touches.contains(Touches::RESPONSE_BODY) && space.response_body.is_stream() {
                space.response_body.gather().await.map_err(|error| error.response_status())?;
            }
        }
        Ok(())
    }

    /// Ready when all are done, or too few can go well any more.
    fn poll(&self, running: &mut [Running<'_>], cx: &mut Context<'_>) -> Poll<()> {
        let (mut well, mut walking) = (0, 0);
        for (branch, one) in self.branches.iter().zip(running) {
            if let Running::Walks(walk) = one
                && let Poll::Ready((beside, walked)) = Pin::new(walk).poll(cx)
            {
                let outcome = branch.outcome(&beside, &walked);
                *one = Running::Done(Box::new(beside), outcome);
            }
            match one {
                Running::Walks(_) => walking += 1,
                Running::Done(_, outcome) => well += usize::from(*outcome == SUCCESS),
            }
        }
        if walking == 0 || well + walking < self.needed { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Branch {
    fn begin<'g>(&'g self, exchange: &mut Exchange, trace: &'g Trace) -> Running<'g> {
        let mut fork = exchange.fork();
        fork.after = exchange.later;
        fork.trace = exchange.trace.as_mut().map(|all| Box::new(all.branch(&self.namespace, Instant::now())));
        let mut beside = Beside { exchange: fork, trace };
        Running::Walks(Boxed::new(async move {
            let began = beside.exchange.is_timed().then(Instant::now);
            let walked = walk(&self.nodes, 0, began, &mut beside.exchange).await;
            beside.hand_over();
            (std::mem::take(&mut beside.exchange), walked)
        }))
    }

    /// By which result it ended. What a station that encloses others does not say is seen by the answer.
    fn outcome(&self, beside: &Exchange, walked: &Walked) -> Outcome {
        let answer = || beside.named(&self.namespace)?.response.as_ref().map(|response| response.status);
        if walked.by == SUCCESS && walked.ended && answer().is_none_or(|status| status >= 500) {
            return FAILED;
        }
        walked.by
    }
}

impl Beside<'_> {
    fn hand_over(&mut self) {
        if let Some(mut trace) = self.exchange.trace.take() {
            let now = Instant::now();
            trace.give_up("canceled", now);
            trace.close(now);
            self.trace.set(Some(trace));
        }
    }
}

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        self.hand_over();
    }
}

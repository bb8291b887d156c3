//! Hands request bodies to Kafka.
//!
//! Use it to take in events over HTTP: each body becomes one record.
//!
//! ```yaml
//! name: events
//! kind: Kafka
//! backend: ["10.0.0.1:9092", "10.0.0.2:9092"]
//! topic:
//!   default: events
//!   dynamic: {header: X-Topic}
//! key:
//!   dynamic: {header: X-Device}
//! sync: true
//! ```
//!
//! With `sync: true` the client hears what became of it: `200` when all replicas in sync have the record, else `500` with
//! `{"err", "code"}`. Without, the record is only taken note of, and the flow goes on: say with a ResponseBuilder what the client is to
//! hear. While brokers cannot be reached such records wait on disk below the data directory (256 MiB for each filter), and go to the brokers
//! first when those are back, in their order, after a restart too; each arrives at least once. They go to where the filter of that name
//! in that pipeline says by then, as whom it says: a renamed user, another certificate, other brokers. What a filter that is deleted or
//! renamed had not sent waits a day for one of its name, and is removed then, or sooner where that is more than 256 MiB of all that are
//! gone (`weir_kafka_gone_bytes`). Of records that come while the document changes, later ones may overtake the last of those before. A
//! build of before has other places and does not see these: who goes back to one waits until nothing waits (`weir_kafka_spool_bytes`).
//! Topics that do not exist are made where brokers do so; elsewhere a record for one is given up after a minute (5 s with `sync`), and
//! stops no others meanwhile. The partition follows from the key as Easegress chooses it.
//!
//! Brokers that want TLS or a user: `mtls: {rootCertBase64, certBase64, keyBase64}` as in a Proxy (`{}` for those of public authorities), and
//! `sasl: {mechanism: SCRAM-SHA-512, username: edge, password: …}`.
//!
//! Outcomes: `parseErr` (the body did not arrive, is larger than 4 MiB and than `clientMaxBodySize`, or the header's topic is no name of a topic: `400` or `413`),
//! `produceErr` (brokers do not have it: `500`), `queueFull` (as many records wait as may: `503`). Fits HTTPServer. Costs putting the
//! body into a list; a thread does the rest.

use crate::module_doc::module_doc;
use crate::spec::{self, Spec};
use base_model::problem::{at, nth};
use base_model::{Findings, MtlsSpec, Problem, SaslSpec};
use base_runtime::channel::mailbox;
use bytes::Bytes;
use edge_kafka::{Access, Done, Record, SendError, Sender};
use edge_pipeline::{Body, BuildError, Exchange, Filter, FilterKind, Outcome, Parts, SUCCESS, Step, Touches};
use proto_http::{Headers, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;

const PARSE_ERR: Outcome = "parseErr";
const PRODUCE_ERR: Outcome = "produceErr";
const QUEUE_FULL: Outcome = "queueFull";

/// `kind: Kafka`: hands request bodies to Kafka.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["backend", "topic"]))]
pub struct KafkaSpec {
    /// Brokers that are asked for all others, `host:port` each; `:port` is one of this machine.
    #[schemars(extend("uniqueItems" = true))]
    pub backend: Vec<String>,
    /// Where records go.
    pub topic: TopicSpec,
    /// What partitions records, and stands in them. Default: none, and partitions take turns.
    pub key: KeySpec,
    /// Answer when the brokers have the record. Default false: take note of it and go on.
    pub sync: bool,
    /// TLS with brokers: whom they have to be, and as whom they are spoken to. `{}`: those whose certificates an authority of the system
    /// has signed. Default: no TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MtlsSpec>,
    /// The user that brokers are told to take the records of. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sasl: Option<SaslSpec>,
}

/// A topic, or where it is told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["default"]))]
pub struct TopicSpec {
    /// The topic of requests that tell none.
    pub default: String,
    /// What tells another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamic: Option<DynamicSpec>,
}

/// A key, or where it is told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct KeySpec {
    /// The key of requests that tell none. Default: none.
    pub default: String,
    /// What tells another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamic: Option<DynamicSpec>,
}

/// A part of the request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["header"]))]
pub struct DynamicSpec {
    /// Name of the header whose first value it is.
    pub header: String,
}

/// Characters of a topic's name, at most.
const TOPIC_MAX: usize = 249;

fn is_topic(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !matches!(name, "" | "." | "..") && name.len() <= TOPIC_MAX && name.bytes().all(fits)
}

impl Spec for KafkaSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        if self.backend.is_empty() {
            let problem = Problem::new(at(path, "backend"), "names no broker");
            findings
                .problem(problem.accepted("a list of host:port").advice("name two or more, of which one has to be up"));
        }
        for (number, broker) in self.backend.iter().enumerate() {
            let port = broker.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none_or(|port| port == 0) {
                let problem = Problem::new(nth(&at(path, "backend"), number), "not the place of a broker").text(broker);
                findings.problem(problem.accepted("host:port, e.g. 10.0.0.1:9092"));
            }
        }
        let topic = at(path, "topic");
        if !is_topic(&self.topic.default) {
            let problem = Problem::new(at(&topic, "default"), "not the name of a topic").text(&self.topic.default);
            findings.problem(problem.accepted("1 to 249 letters, digits, dots, underscores and hyphens"));
        }
        for (place, dynamic) in [(topic, &self.topic.dynamic), (at(path, "key"), &self.key.dynamic)] {
            if let Some(dynamic) = dynamic
                && !base_model::header_adapt::is_header_name(&dynamic.header)
            {
                let place = at(&at(&place, "dynamic"), "header");
                findings.problem(Problem::new(place, "not a header name").text(&dynamic.header));
            }
        }
        if let Some(mtls) = &self.mtls {
            let path = at(path, "mtls");
            mtls.validate(&path, findings);
            // One without the other is refused already.
            if mtls.cert_base64.is_empty() == mtls.key_base64.is_empty()
                && let Err(error) = Access::new(Some(mtls), None)
            {
                findings.problem(Problem::new(at(&path, MtlsSpec::field_of(error.part)), error.text));
            }
        }
        if let Some(sasl) = &self.sasl {
            sasl.validate(&at(path, "sasl"), self.mtls.as_ref(), findings);
        }
    }
}

/// A ready Kafka.
pub struct Kafka {
    sender: Sender,
    topic: Arc<str>,
    topic_header: Option<String>,
    key: Option<Bytes>,
    key_header: Option<String>,
    sync: bool,
}

pub const KIND: FilterKind = FilterKind {
    kind: "Kafka",
    results: &[PARSE_ERR, PRODUCE_ERR, QUEUE_FULL],
    doc: module_doc!("kafka.rs"),
    schema: spec::schema::<KafkaSpec>,
    check: spec::check::<KafkaSpec>,
    build: |fields, parts| spec::build(fields, |spec| Kafka::new(spec, &document(parts))),
};

/// The name that what waits on disk is kept by: of one in a GlobalFilter `:GLOBALFILTER/FIELD/FILTER`, under which builds before this one
/// have left what they had taken. No other name begins with a colon.
fn document(parts: &Parts<'_>) -> String {
    match parts.pipeline.text().split_once(':') {
        Some((key, field)) => format!(":{key}/{field}/{}", parts.name),
        None => parts.place(),
    }
}

impl Kafka {
    /// `document`: its name, with its pipeline's.
    fn new(spec: KafkaSpec, document: &str) -> Result<Kafka, BuildError> {
        // As Go dials it: a place without a host is here.
        let here = |broker: String| if broker.starts_with(':') { format!("127.0.0.1{broker}") } else { broker };
        let brokers: Vec<String> = spec.backend.into_iter().map(here).collect();
        let access = Access::new(spec.mtls.as_ref(), spec.sasl.as_ref());
        let access = access
            .map_err(|error| vec![Problem::new(format!("mtls.{}", MtlsSpec::field_of(error.part)), error.text)])?;
        Ok(Kafka {
            sender: Sender::new(document, &brokers, &access),
            topic: spec.topic.default.into(),
            topic_header: spec.topic.dynamic.map(|dynamic| dynamic.header),
            key: (!spec.key.default.is_empty()).then(|| spec.key.default.into()),
            key_header: spec.key.dynamic.map(|dynamic| dynamic.header),
            sync: spec.sync,
        })
    }

    /// The topic a request is for; `None`: it names what cannot be one.
    fn topic(&self, headers: &Headers) -> Option<Arc<str>> {
        match self.topic_header.as_ref().and_then(|header| headers.text(header)).filter(|text| !text.is_empty()) {
            None => Some(self.topic.clone()),
            Some(name) => is_topic(name).then(|| name.into()),
        }
    }

    fn key(&self, headers: &Headers) -> Option<Bytes> {
        let told = self.key_header.as_ref().and_then(|header| headers.value(header)).filter(|value| !value.is_empty());
        told.map(Bytes::copy_from_slice).or_else(|| self.key.clone())
    }

    async fn produce(&self, exchange: &mut Exchange) -> Outcome {
        let space = exchange.space();
        let Some(topic) = self.topic(&space.request.headers) else {
            return fail(exchange, 400, "the header names no topic", PARSE_ERR);
        };
        let key = self.key(&space.request.headers);
        let value = match space.request_body.gather().await {
            Ok(bytes) => bytes.clone(),
            Err(error) => return fail(exchange, error.request_status(), &error.to_string(), PARSE_ERR),
        };
        let record = Record::new(&topic, key, value);
        if !self.sync {
            return match self.sender.send(record, None) {
                Ok(()) => SUCCESS,
                Err(_) => fail(exchange, 503, FULL, QUEUE_FULL),
            };
        }
        let (told, mut answer) = mailbox(1);
        let done: Done = Box::new(move |sent| {
            // A client that has gone needs to hear nothing.
            let _ = told.try_send(sent);
        });
        let sent = match self.sender.send(record, Some(done)) {
            Ok(()) => answer.recv().await.unwrap_or_else(|| Err(SendError::Failed("this machine ends".to_owned()))),
            Err(error) => Err(error),
        };
        match sent {
            Ok(()) => {
                exchange.respond(Response::with_status(200), Body::Empty);
                SUCCESS
            }
            Err(SendError::Full) => fail(exchange, 503, FULL, QUEUE_FULL),
            Err(SendError::Failed(why) | SendError::Unfit(why)) => {
                exchange.tags.note(|| format!("kafka: {why}"));
                fail(exchange, 500, &why, PRODUCE_ERR)
            }
        }
    }
}

const FULL: &str = "as many records wait for Kafka as may";

fn fail(exchange: &mut Exchange, status: u16, why: &str, outcome: Outcome) -> Outcome {
    let mut response = Response::with_status(status);
    response.headers.set("Content-Type", "application/json");
    let body = json!({"err": why, "code": status}).to_string();
    exchange.respond(response, Body::full(body));
    outcome
}

impl Filter for Kafka {
    fn touches(&self) -> Touches {
        Touches::REQUEST_HEAD.and(Touches::REQUEST_BODY).and(Touches::RESPONSE)
    }

    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        Step::wait(self.produce(exchange))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use edge_pipeline::PipelineName;

    const SPEC: &str = "{backend: ['127.0.0.1:1'], topic: {default: t, dynamic: {header: X-T}}, key: {default: k, dynamic: {header: X-K}}}";

    #[test]
    fn topic_and_key_are_told_by_headers_or_the_document() {
        let filter = Kafka::new(serde_json::from_value(yaml(SPEC)).unwrap(), "p/f").unwrap();
        for (headers, topic, key) in [
            (vec![], Some("t"), "k"),
            (vec![("X-T", "other"), ("X-K", "x")], Some("other"), "x"),
            (vec![("X-T", ""), ("X-K", "")], Some("t"), "k"),
            (vec![("X-T", "a/b")], None, "k"),
            (vec![("X-T", "..")], None, "k"),
        ] {
            let exchange = request("POST", "/", &headers);
            let headers = &exchange.request().headers;
            assert_eq!(filter.topic(headers).as_deref(), topic);
            assert_eq!(filter.key(headers).as_deref(), Some(key.as_bytes()));
        }
    }

    /// One would send what waits of the other, to its own brokers.
    #[test]
    fn a_filter_of_a_global_filter_is_no_filter_of_a_namespace() {
        let telemetry = telemetry();
        let names =
            [PipelineName::of_global_filter("g", "beforePipeline"), PipelineName::of_object("g/beforePipeline")];
        let documents = names.each_ref().map(|pipeline| {
            document(&Parts { name: "k", pipeline, previous: None, resilience: &[], telemetry: &telemetry })
        });
        assert_eq!(documents, [":g/beforePipeline/k", "g/beforePipeline/k"]);
    }

    #[test]
    fn without_sync_a_record_is_taken_note_of() {
        let mut exchange = request_with("POST", "/", &[], b"hello");
        assert_eq!(run(&*filter(&KIND, SPEC), &mut exchange), SUCCESS);
        assert_eq!(status_of(&exchange), 0, "the flow goes on");
        let mut exchange = request_with("POST", "/", &[("X-T", "no topic")], b"hello");
        assert_eq!(run(&*filter(&KIND, SPEC), &mut exchange), PARSE_ERR);
        assert_eq!(status_of(&exchange), 400);
    }

    #[test]
    fn refused() {
        refuses(&KIND, "{backend: [], topic: {default: t}}", &["backend"]);
        refuses(&KIND, "{backend: [a, ':x', 'b:0'], topic: {default: t}}", &["backend[0]", "backend[1]", "backend[2]"]);
        assert!(
            KIND.checked(&yaml("{backend: [':9093'], topic: {default: t}}"), "").is_ok(),
            "a broker of this machine"
        );
        refuses(
            &KIND,
            "{backend: ['a:1'], topic: {default: 'a b', dynamic: {header: 'x y'}}}",
            &["topic.default", "topic.dynamic.header"],
        );
    }
}

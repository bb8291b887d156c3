//! `tracing` of an HTTPServer: which requests are traced, and where their spans go.
//!
//! ```yaml
//! tracing:
//!   serviceName: edge
//!   sampleRate: 0.01
//!   sampling: {errors: true, slowerThan: 1s}
//!   exporter:
//!     otlp: {protocol: http, endpoint: "collector:4318", insecure: true}
//! ```

use std::collections::BTreeMap;
use std::time::SystemTime;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::dates::Dates;
use crate::duration::GoDuration;
use crate::http_server::Secret;
use crate::problem::{Findings, Problem, at};
use crate::proxy::MtlsSpec;

/// Spans: what they are called, how many are made, where they go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["serviceName"]))]
pub struct TracingSpec {
    /// Name the spans carry as their service.
    pub service_name: String,
    /// Attributes every span carries.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// Old name of `attributes`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Share of requests that are traced, 0 to 1, where the caller has not decided it. Default 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sample_rate: f64,
    /// What else decides which requests are traced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling: Option<SamplingSpec>,
    /// Bounds of one span.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub span_limits: Option<SpanLimitsSpec>,
    /// Bounds of the export queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_limits: Option<BatchLimitsSpec>,
    /// Where spans go: `jaeger`, `zipkin`, `otlp`, or several of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exporter: Option<ExporterSpec>,
    /// Old way to name a Zipkin server. Not together with `exporter`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zipkin: Option<ZipkinDeprecatedSpec>,
    /// How the trace is named to backends: `trace-context` (`traceparent`, the default), `b3` (one field), `b3-multi` (`X-B3-…`). All of
    /// them are read, and those a request came with are written, too. With `zipkin` it is `b3`.
    pub header_format: String,
}

impl Default for TracingSpec {
    fn default() -> Self {
        Self {
            service_name: String::new(),
            attributes: BTreeMap::new(),
            tags: BTreeMap::new(),
            sample_rate: 1.0,
            sampling: None,
            span_limits: None,
            batch_limits: None,
            exporter: None,
            zipkin: None,
            header_format: "trace-context".to_owned(),
        }
    }
}

/// What decides, beside the share, which requests are traced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SamplingSpec {
    /// Whose decision counts that came with the request. Default `follow`.
    pub parent: ParentSampling,
    /// Export every request that was answered 500 to 599, whatever was decided before. Spans of all requests are written down then, and
    /// most of them thrown away. Default false.
    pub errors: bool,
    /// Export every request that took at least so long, as with `errors`. Default: none for its time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slower_than: Option<GoDuration>,
}

/// What the caller's decision counts for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ParentSampling {
    /// Requests that come with a decision are traced as it says.
    #[default]
    Follow,
    /// The share decides for all.
    Ignore,
}

/// Bounds of one span; what goes beyond is left out and counted in the span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SpanLimitsSpec {
    /// Longest text of an attribute, in characters; longer ones are cut. -1, the default, has no bound.
    pub attribute_value_length_limit: i64,
    /// Attributes of a span. Default 128; -1 has no bound.
    pub attribute_count_limit: i64,
    /// Events of a span, of which the oldest go. Default 128; -1 has no bound.
    pub event_count_limit: i64,
    /// Links of a span, of which there are none here. Default 128.
    pub link_count_limit: i64,
    /// Attributes of an event. Default 128; -1 has no bound.
    pub attribute_per_event_count_limit: i64,
    /// Attributes of a link, of which there are none here. Default 128.
    pub attribute_per_link_count_limit: i64,
}

impl Default for SpanLimitsSpec {
    fn default() -> Self {
        Self {
            attribute_value_length_limit: -1,
            attribute_count_limit: 128,
            event_count_limit: 128,
            link_count_limit: 128,
            attribute_per_event_count_limit: 128,
            attribute_per_link_count_limit: 128,
        }
    }
}

/// Bounds of the queue of finished spans, for each exporter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BatchLimitsSpec {
    /// Spans that may wait, 1 or more; further ones are dropped and counted. Default 2048.
    pub max_queue_size: i64,
    /// Longest a span waits for others, in milliseconds, 1 or more. Default 5000.
    pub batch_timeout: i64,
    /// Longest one export may take, in milliseconds, 1 or more. Default 30000.
    pub export_timeout: i64,
    /// Spans of one export, about, 1 or more: those of one request stay together. Default 512.
    pub max_export_batch_size: i64,
}

impl Default for BatchLimitsSpec {
    fn default() -> Self {
        Self { max_queue_size: 2048, batch_timeout: 5000, export_timeout: 30_000, max_export_batch_size: 512 }
    }
}

/// Where spans go. Several get the same spans.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ExporterSpec {
    /// A Jaeger agent or collector of version 1, in Jaeger's own format. Jaeger takes `otlp` since version 1.35, and nothing else since
    /// version 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jaeger: Option<JaegerSpec>,
    /// A Zipkin server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zipkin: Option<ZipkinSpec>,
    /// An OpenTelemetry collector, or whatever speaks its protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp: Option<OtlpSpec>,
}

/// A Jaeger agent or collector.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["mode", "endpoint"]))]
pub struct JaegerSpec {
    /// `agent` (Thrift in UDP packets) or `collector` (Thrift over HTTP).
    pub mode: String,
    /// `host:port` of an agent, or URL of a collector such as `http://jaeger:14268/api/traces`.
    pub endpoint: String,
    /// User of a collector.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// Password of that user.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("x-secret" = true))]
    pub password: Secret,
    /// Whom a collector with an `https://` URL has to be, and as whom it is spoken to. Default: any whose certificate an authority of the
    /// system has signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MtlsSpec>,
}

/// A Zipkin server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["endpoint"]))]
pub struct ZipkinSpec {
    /// URL that takes spans, such as `http://zipkin:9411/api/v2/spans`; without a path, that one is taken.
    pub endpoint: String,
    /// Whom a server with an `https://` URL has to be, and as whom it is spoken to. Default: any whose certificate an authority of the
    /// system has signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MtlsSpec>,
}

/// An OpenTelemetry collector.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["protocol", "endpoint"]))]
pub struct OtlpSpec {
    /// `http` or `grpc`.
    pub protocol: String,
    /// `host:port`, or a URL; with `http` and without a path, `/v1/traces`, and for logs `/v1/logs`, is taken.
    pub endpoint: String,
    /// Speak without TLS where `endpoint` is no URL. Default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
    /// `gzip`, or nothing, the default.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub compression: String,
    /// `protobuf`, the default, or `json`, which gRPC does not have.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub encoding: String,
    /// Fields sent along, such as a key of the collector.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("x-secret" = true))]
    pub headers: BTreeMap<String, Secret>,
    /// Whom a collector that is spoken to with TLS has to be, and as whom it is spoken to. Default: any whose certificate an authority of
    /// the system has signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MtlsSpec>,
}

/// Old way to name a Zipkin server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["serverURL", "sampleRate"]))]
pub struct ZipkinDeprecatedSpec {
    /// The address this machine is known by; nobody reads it any more.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostport: String,
    /// As `endpoint` of `exporter.zipkin`.
    #[serde(rename = "serverURL")]
    pub server_url: String,
    /// Share of requests that are traced, in place of `tracing.sampleRate`.
    pub sample_rate: f64,
    /// Send nothing to the server; requests carry a context nevertheless. Default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub disable_report: bool,
    /// Nobody reads it any more: servers have spans of their own.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub same_span: bool,
    /// Nobody reads it any more: names of traces always have 128 bits.
    #[serde(rename = "id128Bit", skip_serializing_if = "std::ops::Not::not")]
    pub id128_bit: bool,
}

impl Default for ZipkinDeprecatedSpec {
    fn default() -> Self {
        Self {
            hostport: String::new(),
            server_url: String::new(),
            sample_rate: 1.0,
            disable_report: false,
            same_span: false,
            id128_bit: false,
        }
    }
}

impl TracingSpec {
    pub fn validate(&self, path: &str, findings: &mut Findings) {
        if self.service_name.is_empty() {
            findings.problem(Problem::new(at(path, "serviceName"), "missing").advice("name the service"));
        }
        if !["", "trace-context", "b3", "b3-multi"].contains(&self.header_format.as_str()) {
            let problem = Problem::new(at(path, "headerFormat"), "not a header format");
            findings.problem(problem.text(&self.header_format).accepted("trace-context, b3 or b3-multi"));
        }
        check_rate(self.sample_rate, &at(path, "sampleRate"), findings);
        if !self.attributes.is_empty() && !self.tags.is_empty() {
            let problem = Problem::new(at(path, "tags"), "not together with attributes");
            findings.problem(problem.advice("move all of them to attributes"));
        }
        let exporter = at(path, "exporter");
        match (&self.exporter, &self.zipkin) {
            (None, None) => {
                findings.problem(Problem::new(&exporter, "missing").advice("give it otlp, zipkin or jaeger"));
            }
            (Some(_), Some(_)) => {
                let problem = Problem::new(at(path, "zipkin"), "not together with exporter");
                findings.problem(problem.advice("remove it, and give exporter.zipkin"));
            }
            (Some(given), None) => given.validate(&exporter, findings),
            (None, Some(old)) => old.validate(&at(path, "zipkin"), findings),
        }
        if let Some(limits) = &self.span_limits {
            let usual = SpanLimitsSpec::default();
            let place = at(path, "spanLimits");
            for (name, is_usual) in [
                ("linkCountLimit", limits.link_count_limit == usual.link_count_limit),
                ("attributePerLinkCountLimit", {
                    limits.attribute_per_link_count_limit == usual.attribute_per_link_count_limit
                }),
            ] {
                if !is_usual {
                    findings.warn(at(&place, name), "has no effect: a span has a parent here, and never a link");
                }
            }
        }
        if let Some(limits) = &self.batch_limits {
            for (name, value) in [
                ("maxQueueSize", limits.max_queue_size),
                ("batchTimeout", limits.batch_timeout),
                ("exportTimeout", limits.export_timeout),
                ("maxExportBatchSize", limits.max_export_batch_size),
            ] {
                if !(1..=BOUND_MOST).contains(&value) {
                    let problem = Problem::new(at(&at(path, "batchLimits"), name), "not a bound").value(&value.into());
                    findings.problem(problem.accepted(format!("1 to {BOUND_MOST}")));
                }
            }
        }
        if let Some(slow) = self.sampling.and_then(|sampling| sampling.slower_than)
            && slow.duration().is_zero()
        {
            let problem = Problem::new(at(&at(path, "sampling"), "slowerThan"), "not a time");
            findings
                .problem(problem.text("0s").accepted("more than 0s").advice("for every request, give sampleRate: 1"));
        }
    }

    /// Refuses certificates of exporters that cannot be used, as those of a Proxy are, and notes in `dates` what is not valid at `now`.
    pub(crate) fn check_certificates(&self, path: &str, now: SystemTime, dates: &mut Dates, findings: &mut Findings) {
        let Some(exporter) = &self.exporter else { return };
        let path = at(path, "exporter");
        for (name, mtls) in [
            ("jaeger", exporter.jaeger.as_ref().and_then(|jaeger| jaeger.mtls.as_ref())),
            ("zipkin", exporter.zipkin.as_ref().and_then(|zipkin| zipkin.mtls.as_ref())),
            ("otlp", exporter.otlp.as_ref().and_then(|otlp| otlp.mtls.as_ref())),
        ] {
            if let Some(mtls) = mtls {
                mtls.check_certificates(&at(&at(&path, name), "mtls"), now, dates, findings);
            }
        }
    }

    /// The share of requests that are traced.
    pub fn rate(&self) -> f64 {
        match (&self.exporter, &self.zipkin) {
            (None, Some(old)) => old.sample_rate,
            _ => self.sample_rate,
        }
    }
}

/// Spans or milliseconds; more is a slip of the pen.
const BOUND_MOST: i64 = 1_000_000;

impl ExporterSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        if self.jaeger.is_none() && self.zipkin.is_none() && self.otlp.is_none() {
            findings.problem(Problem::new(path, "nothing in it").advice("give it otlp, zipkin or jaeger"));
        }
        if let Some(zipkin) = &self.zipkin {
            let path = at(path, "zipkin");
            check_url(&zipkin.endpoint, &at(&path, "endpoint"), findings);
            check_mtls(zipkin.mtls.as_ref(), zipkin.endpoint.starts_with("https://"), &path, findings);
        }
        if let Some(otlp) = &self.otlp {
            otlp.validate(&at(path, "otlp"), findings);
        }
        if let Some(jaeger) = &self.jaeger {
            jaeger.validate(&at(path, "jaeger"), findings);
        }
    }
}

impl JaegerSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        let endpoint = at(path, "endpoint");
        match self.mode.as_str() {
            "agent" if is_place(&self.endpoint) => {}
            "agent" => {
                let problem = Problem::new(endpoint, "not a place").text(&self.endpoint);
                findings.problem(problem.accepted("host:port"));
            }
            "collector" => check_url(&self.endpoint, &endpoint, findings),
            other => {
                let problem = Problem::new(at(path, "mode"), "not a mode").text(other);
                findings.problem(problem.accepted("agent or collector"));
            }
        }
        if self.mode == "agent" && !(self.username.is_empty() && self.password.is_empty()) {
            findings.warn(at(path, "username"), "has no effect: an agent asks for none");
        }
        let has_tls = self.mode != "agent" && self.endpoint.starts_with("https://");
        check_mtls(self.mtls.as_ref(), has_tls, path, findings);
    }
}

impl OtlpSpec {
    pub(crate) fn validate(&self, path: &str, findings: &mut Findings) {
        for (name, value, accepted) in [
            ("protocol", &self.protocol, &["http", "grpc"][..]),
            ("compression", &self.compression, &["", "gzip"]),
            ("encoding", &self.encoding, &["", "protobuf", "json"]),
        ] {
            if !accepted.contains(&value.as_str()) {
                let shown: Vec<&str> = accepted.iter().copied().filter(|text| !text.is_empty()).collect();
                let problem = Problem::new(at(path, name), "not known").text(value);
                findings.problem(problem.accepted(shown.join(" or ")));
            }
        }
        if self.protocol == "grpc" && self.encoding == "json" {
            let problem = Problem::new(at(path, "encoding"), "gRPC speaks protobuf alone").text("json");
            findings.problem(problem.accepted("protobuf"));
        }
        let endpoint = at(path, "endpoint");
        if self.endpoint.contains("://") {
            check_url(&self.endpoint, &endpoint, findings);
            if self.insecure {
                findings.warn(at(path, "insecure"), "has no effect: the URL says whether there is TLS");
            }
        } else if !is_place(&self.endpoint) {
            let problem = Problem::new(endpoint, "not a place").text(&self.endpoint);
            findings.problem(problem.accepted("host:port or a URL"));
        }
        check_mtls(self.mtls.as_ref(), self.has_tls(), path, findings);
    }

    fn has_tls(&self) -> bool {
        match self.endpoint.split_once("://") {
            Some((scheme, _)) => scheme == "https",
            None => !self.insecure,
        }
    }
}

impl ZipkinDeprecatedSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        check_url(&self.server_url, &at(path, "serverURL"), findings);
        check_rate(self.sample_rate, &at(path, "sampleRate"), findings);
        for (name, given) in
            [("hostport", !self.hostport.is_empty()), ("sameSpan", self.same_span), ("id128Bit", self.id128_bit)]
        {
            if given {
                findings.warn(at(path, name), "has no effect, as in Easegress since version 2");
            }
        }
    }
}

fn check_rate(rate: f64, path: &str, findings: &mut Findings) {
    if !(0.0..=1.0).contains(&rate) {
        let problem = Problem::new(path, "not a share").text(&rate.to_string());
        findings.problem(problem.accepted("0 to 1"));
    }
}

pub(crate) fn check_url(url: &str, path: &str, findings: &mut Findings) {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    if rest.is_none_or(|rest| rest.is_empty() || rest.starts_with(['/', ':', '?']) || rest.contains(['#', '@', ' '])) {
        let problem = Problem::new(path, "not a URL that can be asked").text(url);
        findings.problem(problem.accepted("http://host:port/path or https://host:port/path"));
    }
}

/// What is said of TLS to a place, which may have none.
pub(crate) fn check_mtls(mtls: Option<&MtlsSpec>, has_tls: bool, path: &str, findings: &mut Findings) {
    let Some(mtls) = mtls else { return };
    if !has_tls {
        findings.warn(at(path, "mtls"), "has no effect: what is said there goes without TLS");
    }
    mtls.validate(&at(path, "mtls"), findings);
}

/// `host:port`.
fn is_place(text: &str) -> bool {
    let bad = text.contains(['/', '@', ' ', '#', '?']);
    !bad && text
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, problems: &[&str], warnings: &[&str]) {
        let value = crate::yaml::parse_document(text).unwrap();
        let mut findings = Findings::default();
        if let Some(spec) = findings.take(crate::decode::<TracingSpec>(&value, "")) {
            spec.validate("", &mut findings);
        }
        let told: Vec<String> = findings.problems.iter().map(|problem| problem.path.clone()).collect();
        assert_eq!(told, problems, "{text}");
        let told: Vec<String> = findings.warnings.iter().map(|warning| warning.path.clone()).collect();
        assert_eq!(told, warnings, "{text}");
    }

    #[test]
    fn good_ones_and_bad_ones() {
        let zipkin = "serviceName: s, exporter: {zipkin: {endpoint: 'http://z:9411/api/v2/spans'}}";
        check(
            &format!(
                "{{{zipkin}, sampling: {{parent: ignore, errors: true, slowerThan: 1s}}, headerFormat: b3-multi}}"
            ),
            &[],
            &[],
        );
        check(
            "{serviceName: s, exporter: {otlp: {protocol: grpc, endpoint: 'c:4317', insecure: true, compression: gzip}}}",
            &[],
            &[],
        );
        check("{serviceName: s, exporter: {jaeger: {mode: agent, endpoint: 'j:6831'}}}", &[], &[]);
        let named = "{serviceName: s, exporter: {jaeger: {mode: agent, endpoint: 'j:6831', username: u}}}";
        check(named, &[], &["exporter.jaeger.username"]);
        check(
            "{serviceName: s, zipkin: {serverURL: 'http://z/x', sampleRate: 0.5, sameSpan: true}}",
            &[],
            &["zipkin.sameSpan"],
        );
        let mtls = "mtls: {rootCertBase64: x, certBase64: y, keyBase64: z}";
        for (exporter, warned) in [
            (format!("otlp: {{protocol: grpc, endpoint: 'c:4317', {mtls}}}"), ""),
            (format!("otlp: {{protocol: http, endpoint: 'https://c', {mtls}}}"), ""),
            (format!("otlp: {{protocol: http, endpoint: 'http://c', {mtls}}}"), "otlp.mtls"),
            (format!("otlp: {{protocol: grpc, endpoint: 'c:4317', insecure: true, {mtls}}}"), "otlp.mtls"),
            (format!("zipkin: {{endpoint: 'https://z', {mtls}}}"), ""),
            (format!("zipkin: {{endpoint: 'http://z', {mtls}}}"), "zipkin.mtls"),
            (format!("jaeger: {{mode: collector, endpoint: 'https://j', {mtls}}}"), ""),
            (format!("jaeger: {{mode: agent, endpoint: 'j:1', {mtls}}}"), "jaeger.mtls"),
        ] {
            let path = format!("exporter.{warned}");
            let warnings = if warned.is_empty() { vec![] } else { vec![path.as_str()] };
            check(&format!("{{serviceName: s, exporter: {{{exporter}}}}}"), &[], &warnings);
            let half = exporter.replace("certBase64: y, ", "");
            let named = format!("exporter.{}.mtls", exporter.split(':').next().unwrap());
            check(&format!("{{serviceName: s, exporter: {{{half}}}}}"), &[&named], &warnings);
        }
        check("{}", &["serviceName"], &[]);
        check("{serviceName: ''}", &["serviceName", "exporter"], &[]);
        check("{serviceName: s, exporter: {}}", &["exporter"], &[]);
        check(&format!("{{{zipkin}, zipkin: {{serverURL: 'http://z', sampleRate: 1}}}}"), &["zipkin"], &[]);
        check(&format!("{{{zipkin}, headerFormat: x}}"), &["headerFormat"], &[]);
        check(&format!("{{{zipkin}, sampleRate: 1.5}}"), &["sampleRate"], &[]);
        check(&format!("{{{zipkin}, attributes: {{a: b}}, tags: {{a: b}}}}"), &["tags"], &[]);
        check(
            &format!("{{{zipkin}, batchLimits: {{maxQueueSize: 0, batchTimeout: -1}}}}"),
            &["batchLimits.maxQueueSize", "batchLimits.batchTimeout"],
            &[],
        );
        check(
            &format!("{{{zipkin}, spanLimits: {{linkCountLimit: 1, eventCountLimit: 1}}}}"),
            &[],
            &["spanLimits.linkCountLimit"],
        );
        check(&format!("{{{zipkin}, sampling: {{slowerThan: 0s}}}}"), &["sampling.slowerThan"], &[]);
        for (exporter, path) in [
            ("zipkin: {endpoint: 'zipkin:9411'}", "zipkin.endpoint"),
            ("zipkin: {endpoint: 'http://u:p@z/'}", "zipkin.endpoint"),
            ("otlp: {protocol: x, endpoint: 'c:1'}", "otlp.protocol"),
            ("otlp: {protocol: http, endpoint: c}", "otlp.endpoint"),
            ("otlp: {protocol: http, endpoint: 'c:1', compression: zstd}", "otlp.compression"),
            ("otlp: {protocol: grpc, endpoint: 'c:1', encoding: json}", "otlp.encoding"),
            ("jaeger: {mode: x, endpoint: 'j:1'}", "jaeger.mode"),
            ("jaeger: {mode: agent, endpoint: 'http://j'}", "jaeger.endpoint"),
            ("jaeger: {mode: collector, endpoint: 'j:1'}", "jaeger.endpoint"),
        ] {
            let path = format!("exporter.{path}");
            check(&format!("{{serviceName: s, exporter: {{{exporter}}}}}"), &[&path], &[]);
        }
    }
}

//! `kind: LogSink`: a place that every edge sends its lines to, and keeps them on disk for while it is away.
//!
//! ```yaml
//! kind: LogSink
//! name: central
//! logs: [access, events]
//! format: json
//! http: {url: "http://logs.example:8080/weir"}
//! ```

use std::collections::BTreeMap;
use std::time::SystemTime;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::dates::Dates;
use crate::http_server::Secret;
use crate::kafka::SaslSpec;
use crate::problem::{Findings, Problem, at};
use crate::proxy::MtlsSpec;
use crate::tracing::{OtlpSpec, check_mtls, check_url};

/// Where lines of the access log and events of each machine go, beside where they go anyway. One of `http`, `syslog`, `file`, `otlp` and
/// `kafka` says what takes them. Every line is on the machine's disk within a fifth of a second and leaves it when the sink has said
/// that it has it: what a sink that is away, slow or failing cannot take waits there, also over a restart and a crash, and goes in its
/// order when it is back. A line may come twice where the answer to it was lost. What a LogSink that is deleted had not sent waits a day
/// for one of the same name, and is removed then, or sooner where that is more than 256 MiB of all that are gone
/// (`weir_log_sink_gone_bytes`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LogSinkSpec {
    /// What is sent: `access`, a line for each request, and `events`, what the daemon logs. Default: `access`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<LogKind>,
    /// HTTPServers and GRPCServers whose requests are logged here. Default: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<String>,
    /// How a request is written: `text`, the default, as the server's `accessLogFormat` says, or `json`, an object with `time`,
    /// `server`, `remoteAddr`, `realIP`, `method`, `uri`, `proto`, `status`, `duration` (seconds), `requestBytes`, `responseBytes`, `tags`,
    /// `requestId` where it has one, and `refused` where it was, to keep others going.
    pub format: LogFormat,
    /// Bounds of what waits on disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spool: Option<SpoolSpec>,
    /// A service that takes lines by POST: one after the other, each with its line feed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSinkSpec>,
    /// A syslog server (RFC 5424).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syslog: Option<SyslogSinkSpec>,
    /// A file on each machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileSinkSpec>,
    /// An OpenTelemetry collector: a log record for each line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp: Option<OtlpSpec>,
    /// A topic of Kafka: a record for each line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaSinkSpec>,
}

/// What is logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum LogKind {
    /// A line for each request.
    #[default]
    Access,
    /// What the daemon logs.
    Events,
}

/// How a request is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Bounds of what waits on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SpoolSpec {
    /// Bytes on disk, at most, on each machine: 65536 or more. Beyond it new lines are dropped and counted
    /// (`weir_log_sink_dropped_total`). Default 268435456 (256 MiB).
    pub max_bytes: u64,
}

impl Default for SpoolSpec {
    fn default() -> Self {
        Self { max_bytes: 256 << 20 }
    }
}

/// A service that takes lines by POST. 2xx says that it has them; 400, 415 and 422 that it never will, so that they are dropped and
/// counted; 413 that they are to come in smaller parts; anything else, and no answer, that they are to come again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["url"]))]
pub struct HttpSinkSpec {
    /// URL that takes them.
    pub url: String,
    /// Fields sent along, such as a key of the service.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("x-secret" = true))]
    pub headers: BTreeMap<String, Secret>,
    /// `gzip`, or nothing, the default.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub compression: String,
    /// Whom a service with an `https://` URL has to be, and as whom it is spoken to. Default: any whose certificate an authority of the
    /// system has signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MtlsSpec>,
}

/// A syslog server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["address"]))]
pub struct SyslogSinkSpec {
    /// `udp://host:514` (nobody says whether lines arrive; where nobody listens they are sent again, or counted when that was heard too
    /// late), `tcp://host:601` (each line after its length, RFC 6587), `tls://host:6514` (the same within TLS, RFC 5425) or
    /// `unix:///dev/log`.
    pub address: String,
    /// Whom a server with a `tls://` address has to be, and as whom it is spoken to. Default: any whose certificate an authority of the
    /// system has signed. A server of TLS 1.3 that has asked for a certificate is waited for, 1 s at most for each connection, before lines
    /// go to it: a client that sends nothing but lines cannot tell otherwise whether its certificate is taken. Servers that hand out
    /// tickets say it at once; those that do not cost that second (`weir_tls_events_total{event="verdict_unheard"}`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MtlsSpec>,
    /// Facility of the lines: `kern`, `user`, `daemon`, `local0` to `local7` and so on. Default `local0`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub facility: String,
    /// Name of the application. Default `weir`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub app_name: String,
}

/// A file on each machine; it is moved aside to `NAME.1` and so on when it is large.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["path"]))]
pub struct FileSinkSpec {
    /// Absolute path; its directory must exist.
    pub path: String,
    /// Bytes of the file, at most; 0 for any size. Default 104857600 (100 MiB).
    pub max_bytes: u64,
    /// Files kept that were moved aside. Default 10.
    pub max_files: usize,
}

impl Default for FileSinkSpec {
    fn default() -> Self {
        Self { path: String::new(), max_bytes: 100 << 20, max_files: 10 }
    }
}

/// A topic of Kafka.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["brokers", "topic"]))]
pub struct KafkaSinkSpec {
    /// Brokers, `host:port` each.
    pub brokers: Vec<String>,
    /// Topic of the records; lines are their values.
    pub topic: String,
    /// TLS with brokers: whom they have to be, and as whom they are spoken to. `{}`: those whose certificates an authority of the system
    /// has signed. Default: no TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MtlsSpec>,
    /// The user that brokers are told to take the records of. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sasl: Option<SaslSpec>,
}

/// Facilities of RFC 5424 section 6.2.1, by their numbers.
pub const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp",
    "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];

impl LogSinkSpec {
    pub fn validate(&self, path: &str, findings: &mut Findings) {
        let kinds = [
            self.http.is_some(),
            self.syslog.is_some(),
            self.file.is_some(),
            self.otlp.is_some(),
            self.kafka.is_some(),
        ];
        if kinds.iter().filter(|given| **given).count() != 1 {
            let problem = Problem::new(path, "one sink is needed, and no more");
            findings.problem(problem.accepted("one of http, syslog, file, otlp and kafka"));
        }
        if !self.servers.is_empty() && !self.wants(LogKind::Access) {
            findings.warn(at(path, "servers"), "has no effect without access in logs");
        }
        if let Some(spool) = self.spool.filter(|spool| spool.max_bytes < 65_536) {
            let problem = Problem::new(at(&at(path, "spool"), "maxBytes"), "too small").value(&spool.max_bytes.into());
            findings.problem(problem.accepted("65536 or more"));
        }
        if let Some(http) = &self.http {
            let path = at(path, "http");
            check_url(&http.url, &at(&path, "url"), findings);
            check_mtls(http.mtls.as_ref(), http.url.starts_with("https://"), &path, findings);
            if !["", "gzip"].contains(&http.compression.as_str()) {
                let problem = Problem::new(at(&path, "compression"), "not known").text(&http.compression);
                findings.problem(problem.accepted("gzip"));
            }
        }
        if let Some(syslog) = &self.syslog {
            syslog.validate(&at(path, "syslog"), findings);
        }
        if let Some(file) = &self.file
            && !file.path.starts_with('/')
        {
            let problem = Problem::new(at(&at(path, "file"), "path"), "not an absolute path").text(&file.path);
            findings.problem(problem.accepted("/var/log/weir/access.log"));
        }
        if let Some(otlp) = &self.otlp {
            otlp.validate(&at(path, "otlp"), findings);
        }
        if let Some(kafka) = &self.kafka {
            let path = at(path, "kafka");
            let good = |broker: &String| broker.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            if kafka.brokers.is_empty() || !kafka.brokers.iter().all(good) {
                findings
                    .problem(Problem::new(at(&path, "brokers"), "not a list of brokers").accepted("host:port each"));
            }
            if kafka.topic.is_empty() {
                findings.problem(Problem::new(at(&path, "topic"), "missing").advice("name a topic"));
            }
            check_mtls(kafka.mtls.as_ref(), true, &path, findings);
            if let Some(sasl) = &kafka.sasl {
                sasl.validate(&at(&path, "sasl"), kafka.mtls.as_ref(), findings);
            }
        }
    }

    /// Refuses certificates that cannot be used, as those of a Proxy are, and notes in `dates` what is not valid at `now`.
    pub(crate) fn check_certificates(&self, now: SystemTime, dates: &mut Dates, findings: &mut Findings) {
        for (name, mtls) in [
            ("http", self.http.as_ref().and_then(|http| http.mtls.as_ref())),
            ("syslog", self.syslog.as_ref().and_then(|syslog| syslog.mtls.as_ref())),
            ("otlp", self.otlp.as_ref().and_then(|otlp| otlp.mtls.as_ref())),
            ("kafka", self.kafka.as_ref().and_then(|kafka| kafka.mtls.as_ref())),
        ] {
            if let Some(mtls) = mtls {
                mtls.check_certificates(&at(name, "mtls"), now, dates, findings);
            }
        }
    }

    /// Whether lines of this kind are sent.
    pub fn wants(&self, kind: LogKind) -> bool {
        if self.logs.is_empty() { kind == LogKind::Access } else { self.logs.contains(&kind) }
    }
}

impl SyslogSinkSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        let place = |rest: &str| {
            rest.rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0))
        };
        let good = match self.address.split_once("://") {
            Some(("udp" | "tcp" | "tls", rest)) => place(rest),
            Some(("unix", path)) => path.starts_with('/'),
            _ => false,
        };
        if !good {
            let problem = Problem::new(at(path, "address"), "not a place of a syslog server").text(&self.address);
            findings.problem(problem.accepted("udp://host:514, tcp://host:601, tls://host:6514 or unix:///dev/log"));
        }
        check_mtls(self.mtls.as_ref(), self.address.starts_with("tls://"), path, findings);
        if !self.facility.is_empty() && !FACILITIES.contains(&self.facility.as_str()) {
            let problem = Problem::new(at(path, "facility"), "not a facility").text(&self.facility);
            findings.problem(problem.accepted("kern, user, daemon, local0 to local7 and so on"));
        }
        let printable = self.app_name.bytes().all(|byte| (33..=126).contains(&byte));
        if !printable || self.app_name.len() > 48 {
            let problem = Problem::new(at(path, "appName"), "not the name of an application").text(&self.app_name);
            findings.problem(problem.accepted("up to 48 printable characters without blanks"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, problems: &[&str], warnings: &[&str]) {
        let value = crate::yaml::parse_document(text).unwrap();
        let mut findings = Findings::default();
        if let Some(spec) = findings.take(crate::decode::<LogSinkSpec>(&value, "")) {
            spec.validate("", &mut findings);
        }
        let told: Vec<&str> = findings.problems.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(told, problems, "{text}");
        let told: Vec<&str> = findings.warnings.iter().map(|warning| warning.path.as_str()).collect();
        assert_eq!(told, warnings, "{text}");
    }

    #[test]
    fn good_ones_and_bad_ones() {
        check("{http: {url: 'http://a/b'}, logs: [access, events], servers: [s], format: json}", &[], &[]);
        for address in ["udp://a:514", "tcp://[::1]:601", "tls://a:6514", "unix:///dev/log"] {
            check(&format!("{{syslog: {{address: '{address}', facility: daemon, appName: edge}}}}"), &[], &[]);
        }
        check("{file: {path: /var/log/a}, spool: {maxBytes: 65536}}", &[], &[]);
        check("{otlp: {protocol: http, endpoint: 'c:4318', insecure: true}}", &[], &[]);
        check("{kafka: {brokers: ['k:9092'], topic: t}}", &[], &[]);
        check("{}", &[""], &[]);
        check("{http: {url: 'http://a'}, file: {path: /a}}", &[""], &[]);
        check("{http: {url: 'http://a'}, logs: [events], servers: [s]}", &[], &["servers"]);
        check("{http: {url: 'https://a', mtls: {insecureSkipVerify: true}}}", &[], &[]);
        check("{http: {url: 'http://a', mtls: {insecureSkipVerify: true}}}", &[], &["http.mtls"]);
        check("{http: {url: 'https://a', mtls: {certBase64: x}}}", &["http.mtls"], &[]);
        check("{http: {url: 'a:80'}, spool: {maxBytes: 1}}", &["spool.maxBytes", "http.url"], &[]);
        check(
            "{syslog: {address: 'a:514', facility: x, appName: 'a b'}}",
            &["syslog.address", "syslog.facility", "syslog.appName"],
            &[],
        );
        check("{syslog: {address: 'tls://a:6514', mtls: {insecureSkipVerify: true}}}", &[], &[]);
        check("{syslog: {address: 'tls://a:6514', mtls: {certBase64: x}}}", &["syslog.mtls"], &[]);
        check("{syslog: {address: 'tcp://a:601', mtls: {}}}", &[], &["syslog.mtls"]);
        check("{file: {path: a}}", &["file.path"], &[]);
        check(
            "{kafka: {brokers: ['k:9093'], topic: t, mtls: {}, sasl: {mechanism: PLAIN, username: u, password: p}}}",
            &[],
            &[],
        );
        check("{kafka: {brokers: ['k:9093'], topic: t, mtls: {keyBase64: x}}}", &["kafka.mtls"], &[]);
        check("{kafka: {brokers: ['k:9092'], topic: t, sasl: {username: u, password: p}}}", &[], &[]);
        let trusting = "mtls: {insecureSkipVerify: true}, sasl: {mechanism: PLAIN, username: u, password: p}";
        check(&format!("{{kafka: {{brokers: ['k:9093'], topic: t, {trusting}}}}}"), &[], &["kafka.sasl.mechanism"]);
        check(
            "{kafka: {brokers: ['k:9092'], topic: t, sasl: {mechanism: PLAIN, username: u, password: p}}}",
            &[],
            &["kafka.sasl.mechanism"],
        );
        check(
            "{kafka: {brokers: ['k:9092'], topic: t, sasl: {username: '', password: \"a\\nb\"}}}",
            &["kafka.sasl.username", "kafka.sasl.password"],
            &[],
        );
        check(
            "{kafka: {brokers: ['k:9092'], topic: t, sasl: {mechanism: GSSAPI, username: u, password: p}}}",
            &["kafka.sasl.mechanism"],
            &[],
        );
        check("{kafka: {brokers: [a], topic: ''}}", &["kafka.brokers", "kafka.topic"], &[]);
    }
}

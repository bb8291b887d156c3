//! Signs requests as [`Signatures`](super::signature::Signatures) checks them, so that a backend knows who forwarded them: as Easegress does,
//! and with other words as AWS, version 4.

use super::signature::{HeaderHoistingSpec, LiteralSpec, SignatureError, canonical_fields, canonical_head, key_of};
use crate::form::{self, hex};
use base_model::problem::at;
use base_model::{Findings, GoDuration, Problem};
use base_text::calendar::{DAY, date_of};
use proto_http::{Known, Request};
use ring::{digest, hmac};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// As whom requests are signed, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["accessKeyId", "accessKeySecret"]))]
pub struct SignSpec {
    /// `aws4` takes the words of AWS, version 4. Default: those of Easegress.
    pub api_provider: String,
    /// Parts of the scope between the date and its suffix: of AWS region and service. Default: none.
    pub scopes: Vec<String>,
    /// Names of fields, and fixed texts. Without effect beside `apiProvider: aws4`, which has its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub literal: Option<LiteralSpec>,
    /// Concerns signatures in queries. Without effect here: the signature stands in fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_hoisting: Option<HeaderHoistingSpec>,
    /// Fields that are not signed, beside those that the way to a backend may change (`User-Agent`, `X-Forwarded-For`, `CDN-Loop`, `X-Request-Deadline`
    /// and their like).
    pub ignored_headers: Vec<String>,
    /// `UNSIGNED-PAYLOAD` stands for the body's digest. Default false: the body is read into memory, but for one that is longer than 4 MiB of
    /// a server with `clientMaxBodySize: -1`, which is not signed.
    pub exclude_body: bool,
    /// Concerns signatures in queries. Without effect here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<GoDuration>,
    /// Who signs.
    pub access_key_id: String,
    /// The secret that goes with it.
    #[schemars(extend("x-secret" = true, "writeOnly" = true))]
    pub access_key_secret: String,
    /// Concerns those who check. Without effect here.
    #[schemars(extend("x-secret" = true, "writeOnly" = true))]
    pub access_keys: BTreeMap<String, String>,
}

impl SignSpec {
    pub(crate) fn validate(&self, path: &str, findings: &mut Findings) {
        for (field, text) in [("accessKeyId", &self.access_key_id), ("accessKeySecret", &self.access_key_secret)] {
            if text.is_empty() {
                findings.problem(Problem::new(at(path, field), "missing").advice("whoever checks gave you one"));
            }
        }
        if self.access_key_id.contains(['/', ',']) || !proto_http::headers::is_value(self.access_key_id.as_bytes()) {
            let problem = Problem::new(at(path, "accessKeyId"), "an id with a / or a comma cannot be sent");
            findings.problem(problem.text(&self.access_key_id));
        }
        if !matches!(self.api_provider.as_str(), "" | "aws4") {
            let problem =
                Problem::new(at(path, "apiProvider"), "nobody whose words are known").text(&self.api_provider);
            findings.problem(problem.accepted("aws4, or nothing"));
        }
        for (number, scope) in self.scopes.iter().enumerate() {
            if scope.is_empty() || scope.contains(['/', ',', ' ']) {
                let place = base_model::problem::nth(&at(path, "scopes"), number);
                findings.problem(Problem::new(place, "not a part of a scope").text(scope).accepted("a word"));
            }
        }
        let literal = self.words();
        for (field, text) in [("algorithmValue", &literal.algorithm_value), ("date", &literal.date)] {
            if !proto_http::headers::is_name(text.as_bytes()) {
                let problem = Problem::new(at(&at(path, "literal"), field), "not a name that can be sent").text(text);
                findings.problem(problem);
            }
        }
        if self.literal.is_some() && self.api_provider == "aws4" {
            findings.warn(at(path, "literal"), "has no effect: apiProvider aws4 has words of its own");
        }
        for (field, is_set) in [
            ("headerHoisting", self.header_hoisting.is_some()),
            ("ttl", self.ttl.is_some()),
            ("accessKeys", !self.access_keys.is_empty()),
        ] {
            if is_set {
                findings.warn(at(path, field), "has no effect: the signature stands in fields, and is made here");
            }
        }
    }

    fn words(&self) -> LiteralSpec {
        match self.api_provider.as_str() {
            "aws4" => LiteralSpec {
                scope_suffix: "aws4_request".to_owned(),
                algorithm_name: "X-Amz-Algorithm".to_owned(),
                algorithm_value: "AWS4-HMAC-SHA256".to_owned(),
                signed_headers: "X-Amz-SignedHeaders".to_owned(),
                signature: "X-Amz-Signature".to_owned(),
                date: "X-Amz-Date".to_owned(),
                expires: "X-Amz-Expires".to_owned(),
                credential: "X-Amz-Credential".to_owned(),
                content_sha256: "X-Amz-Content-Sha256".to_owned(),
                signing_key_prefix: "AWS4".to_owned(),
            },
            _ => self.literal.clone().unwrap_or_default(),
        }
    }
}

/// What signs.
pub(crate) struct Signer {
    literal: LiteralSpec,
    id: String,
    secret: String,
    scopes: Vec<String>,
    ignored: Vec<String>,
    pub(crate) exclude_body: bool,
}

impl Signer {
    pub(crate) fn new(spec: &SignSpec) -> Signer {
        Signer {
            literal: spec.words(),
            id: spec.access_key_id.clone(),
            secret: spec.access_key_secret.clone(),
            scopes: spec.scopes.clone(),
            ignored: spec.ignored_headers.iter().map(|name| name.to_ascii_lowercase()).collect(),
            exclude_body: spec.exclude_body,
        }
    }

    /// Sets the time, the digest of the body and the signature; `now` in seconds since 1970. `None` of a body: it is not signed. The error:
    /// a query or a field that has no canonical form.
    pub(crate) fn sign(&self, request: &mut Request, body: Option<&[u8]>, now: i64) -> Result<(), SignatureError> {
        let literal = &self.literal;
        let query = form::pairs(request.query.as_deref().unwrap_or_default()).ok_or(SignatureError::Malformed)?;
        let time = time_text(now);
        let of_body = match body {
            None => "UNSIGNED-PAYLOAD".to_owned(),
            Some(bytes) => hex(digest::digest(&digest::SHA256, bytes).as_ref()),
        };
        request.headers.remove("Authorization");
        request.headers.set(&literal.date, &time);
        if !literal.content_sha256.is_empty() {
            request.headers.set(&literal.content_sha256, &of_body);
        }
        let signed = self.signed(request);
        let mut scopes = vec![&time[..8]];
        scopes.extend(self.scopes.iter().map(String::as_str));
        scopes.push(&literal.scope_suffix);
        let scope = scopes.join("/");
        let fields = canonical_fields(request, &signed)?;
        let head = canonical_head(request, &request.path.encoded(), &query, &fields, &signed);
        let canonical = digest::digest(&digest::SHA256, format!("{head}{of_body}").as_bytes());
        let text = format!("{}\n{time}\n{scope}\n{}", literal.algorithm_value, hex(canonical.as_ref()));
        let key = key_of(&format!("{}{}", literal.signing_key_prefix, self.secret), &scopes);
        let mark = hex(hmac::sign(&key, text.as_bytes()).as_ref());
        let (algorithm, id) = (&literal.algorithm_value, &self.id);
        request.headers.set(
            "Authorization",
            format!("{algorithm} Credential={id}/{scope}, SignedHeaders={signed}, Signature={mark}"),
        );
        Ok(())
    }

    /// Names of the fields that are signed: in order, each once.
    fn signed(&self, request: &Request) -> String {
        let mut names = vec!["host".to_owned()];
        for (name, value, known) in request.headers.iter() {
            let changes = known.is_hop_by_hop()
                || matches!(known, Known::Host | Known::ContentLength | Known::Expect | Known::AcceptEncoding);
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            let on_the_way = CHANGED.iter().any(|start| name.starts_with(start));
            if !changes && !on_the_way && !self.ignored.contains(&name) && std::str::from_utf8(value).is_ok() {
                names.push(name);
            }
        }
        names.sort_unstable();
        names.dedup();
        names.join(";")
    }
}

/// Beginnings of the names of fields that proxies add and change.
const CHANGED: [&str; 13] = [
    "authorization",
    "user-agent",
    "x-forwarded-",
    "forwarded",
    "via",
    "cdn-loop",
    "early-data",
    "x-request-deadline",
    "grpc-timeout",
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-",
];

/// `20060102T150405Z`.
fn time_text(now: i64) -> String {
    let (year, month, day) = date_of(now.div_euclid(DAY));
    let second = now.rem_euclid(DAY);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validator::signature::{SignatureSpec, Signatures};

    fn spec(text: &str) -> SignSpec {
        base_model::decode(&base_model::yaml::parse_document(text).unwrap(), "").unwrap().value
    }

    fn request(target: &str) -> Request {
        let mut request = Request::default();
        request.set_target(target.as_bytes()).unwrap();
        request.authority = "h.test".to_owned();
        for (name, value) in [
            ("X-A", "  1   2 "),
            ("x-a", "3"),
            ("User-Agent", "u"),
            ("Connection", "close"),
            ("X-No", "n"),
            ("CDN-Loop", "weir-1"),
            ("X-Request-Deadline", "100"),
        ] {
            request.headers.add(name, value);
        }
        request
    }

    #[test]
    fn what_is_signed_is_what_is_checked() {
        let now = 1_440_938_160;
        for (sign, check) in [
            ("scopes: [eu]", "{}"),
            (
                "apiProvider: aws4, scopes: [us-east-1, service]",
                "{scopeSuffix: aws4_request, algorithmValue: AWS4-HMAC-SHA256, date: X-Amz-Date, signingKeyPrefix: AWS4}",
            ),
            (
                "literal: {date: X-When, algorithmValue: MINE, contentSha256: X-Sum}, scopes: [a]",
                "{date: X-When, algorithmValue: MINE}",
            ),
        ] {
            let signer = Signer::new(&spec(&format!(
                "{{accessKeyId: ann, accessKeySecret: s3cret, ignoredHeaders: [X-No], {sign}}}"
            )));
            let checks = format!("{{accessKeys: {{ann: s3cret}}, ttl: 5m, literal: {check}}}");
            let checks: SignatureSpec =
                base_model::decode(&base_model::yaml::parse_document(&checks).unwrap(), "").unwrap().value;
            let checks = Signatures::new(checks);
            for target in ["/", "/a/%C3%BC%20b?x=1&x=0&y=a+b"] {
                let mut signed = request(target);
                signer.sign(&mut signed, Some(b"body"), now).unwrap();
                let right = |request: &Request, body| checks.begin(request, now).and_then(|begun| begun.verify(body));
                assert_eq!(right(&signed, Some(b"body")), Ok(()), "{sign} {target}");
                assert_eq!(right(&signed, Some(b"other")), Err(SignatureError::Wrong));
                let authorization = signed.headers.text("Authorization").unwrap().to_owned();
                assert!(authorization.contains("host;x-a;x-") && !authorization.contains("x-no"), "{authorization}");
                assert!(!authorization.contains("user-agent") && !authorization.contains("connection"));
                // What the way adds and changes does not count, what was signed does.
                signed.headers.set("User-Agent", "other");
                signed.headers.set("X-No", "other");
                signed.headers.add("X-Forwarded-For", "192.0.2.1");
                signed.headers.add("CDN-Loop", "weir-1");
                signed.headers.add("Early-Data", "1");
                signed.headers.set("X-Request-Deadline", "80");
                assert_eq!(right(&signed, Some(b"body")), Ok(()));
                signed.headers.set("X-A", "other");
                assert_eq!(right(&signed, Some(b"body")), Err(SignatureError::Wrong));
                // Once more, and the old signature is gone.
                signer.sign(&mut signed, None, now + 1).unwrap();
                assert_eq!(signed.headers.values("Authorization").count(), 1);
                assert_eq!(checks.begin(&signed, now).unwrap().verify(None), Ok(()), "without the body");
            }
        }
    }

    #[test]
    fn what_is_missing_or_does_nothing_is_told() {
        let mut findings = Findings::default();
        spec("{apiProvider: gcp, scopes: ['a/b'], accessKeyId: 'a,b', accessKeySecret: '', literal: {date: 'a b', algorithmValue: ''}}")
            .validate("sign", &mut findings);
        let paths: Vec<&str> = findings.problems.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "sign.accessKeySecret",
                "sign.accessKeyId",
                "sign.apiProvider",
                "sign.scopes[0]",
                "sign.literal.algorithmValue",
                "sign.literal.date"
            ]
        );
        let mut findings = Findings::default();
        spec(
            "{accessKeyId: a, accessKeySecret: b, headerHoisting: {allowedPrefix: [a], disallowedPrefix: [b], disallowed: [c]}, ttl: 1m, accessKeys: {c: d}, excludeBody: true, apiProvider: aws4, literal: {date: X-When}}",
        )
        .validate("sign", &mut findings);
        assert_eq!((findings.problems.len(), findings.warnings.len()), (0, 4));
    }
}

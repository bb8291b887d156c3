//! No field of any document does nothing without a word: each is read where its struct is made ready to run, or warned about when it
//! is set. The fields come from the schemas, so that a new one is asked for here as soon as somebody adds it.

use base_model::yaml::parse_document;
use base_model::{Object, explain};
use edge_filters::kinds::{Shelf, explained};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Where the fields of each struct are read, below userspace. `Kind/Struct` where two kinds have a struct of that name.
const READERS: &[(&str, &str)] = &[
    ("CertExtractorSpec", "edge-filters/src/cert_extractor.rs"),
    ("CircuitBreakerSpec", "edge-upstream/src/circuit.rs"),
    ("CorsAdaptorSpec", "edge-filters/src/cors_adaptor.rs"),
    ("DataBuilderSpec", "edge-filters/src/data_builder.rs"),
    ("FallbackSpec", "edge-filters/src/fallback.rs"),
    ("FallthroughSpec", "edge-listeners/src/traffic.rs"),
    ("FlowNodeSpec", "edge-pipeline/src/pipeline.rs base-model/src/pipeline.rs"),
    ("GlobalFilterSpec", "edge-listeners/src/traffic.rs"),
    ("HeaderAdaptSpec", "edge-filters/src/adapt.rs"),
    ("HeaderMapSpec", "edge-filters/src/header_to_json.rs"),
    ("HeaderMatchSpec", "edge-listeners/src/router.rs"),
    ("HeaderRuleSpec", "edge-filters/src/validator.rs"),
    ("HeaderToJsonSpec", "edge-filters/src/header_to_json.rs"),
    ("HostSpec", "edge-listeners/src/router.rs"),
    ("HttpServerSpec", "edge-listeners/src/http_server.rs edge-listeners/src/router.rs edge-listeners/src/tls.rs"),
    ("IpFilterSpec", "base-model/src/ip_filter.rs"),
    ("JwtSpec", "edge-filters/src/validator.rs"),
    ("LoadBalanceSpec", "edge-filters/src/proxy.rs"),
    ("MachineSpec", "control-state/src/steering.rs"),
    ("MatchSpec", "edge-filters/src/mock.rs"),
    ("MockSpec", "edge-filters/src/mock.rs"),
    ("MtlsSpec", "edge-upstream/src/tls.rs"),
    ("Mock/RuleSpec", "edge-filters/src/mock.rs"),
    ("Oauth2Spec", "edge-filters/src/validator.rs"),
    ("OutlierDetectionSpec", "edge-upstream/src/outlier.rs"),
    ("PathAdaptSpec", "edge-filters/src/request_adaptor.rs"),
    ("PathSpec", "edge-listeners/src/router.rs control-admin/src/model.rs"),
    ("PipelineSpec", "edge-pipeline/src/pipeline.rs edge-listeners/src/traffic.rs"),
    ("PolicySpec", "edge-filters/src/rate_limiter.rs edge-filters/src/rate_limiter/cycle.rs"),
    ("PoolSpec", "edge-filters/src/proxy.rs"),
    ("ProxySpec", "edge-filters/src/proxy.rs"),
    ("QueryMatchSpec", "edge-listeners/src/router.rs"),
    ("RateLimiterSpec", "edge-filters/src/rate_limiter.rs"),
    ("RedirectorSpec", "edge-filters/src/redirector.rs"),
    ("RedirectorV2/PathSpec", "edge-filters/src/redirector_v2.rs"),
    ("RedirectorV2Spec", "edge-filters/src/redirector_v2.rs"),
    ("RegexpReplaceSpec", "edge-filters/src/request_adaptor.rs"),
    ("RequestAdaptorSpec", "edge-filters/src/request_adaptor.rs"),
    ("RequestBuilderSpec", "edge-filters/src/request_builder.rs"),
    ("RequestMatcherSpec", "edge-upstream/src/matcher.rs"),
    ("ResponseAdaptorSpec", "edge-filters/src/response_adaptor.rs"),
    ("ResponseBuilderSpec", "edge-filters/src/response_builder.rs"),
    ("ResultBuilderSpec", "edge-filters/src/result_builder.rs"),
    ("RetrySpec", "edge-upstream/src/retry.rs edge-filters/src/proxy.rs"),
    ("RuleSpec", "edge-listeners/src/router.rs base-model/src/http_server.rs"),
    ("ServerSpec", "edge-filters/src/proxy.rs"),
    ("SourcePrefixLength", "edge-agent/src/steer.rs"),
    ("StringMatcher", "base-model/src/string_matcher.rs"),
    ("UrlRule", "edge-filters/src/rate_limiter.rs base-model/src/string_matcher.rs"),
    ("ValidatorSpec", "edge-filters/src/validator.rs"),
    ("WebSocketPoolSpec", "edge-filters/src/websocket_proxy.rs"),
    ("WebSocketProxySpec", "edge-filters/src/websocket_proxy.rs"),
    ("VirtualIpSpec", "edge-agent/src/steer.rs control-state/src/steering.rs"),
];

/// Fields that nothing reads, and all that is inside them: a document that sets each, and what is said about it.
const SAID: &[(&str, &str, &str)] = &[
    (
        "HttpServerSpec.tracing",
        "{kind: HTTPServer, port: 1, tracing: {serviceName: s}}",
        "warning: tracing: has no effect",
    ),
    ("HttpServerSpec.cacheSize", "{kind: HTTPServer, port: 1, cacheSize: 9}", "warning: cacheSize: has no effect"),
    ("HttpServerSpec.http3", "{kind: HTTPServer, port: 1, http3: true}", "problem: http3 = true: not served"),
    ("HttpServerSpec.autoCert", "{kind: HTTPServer, port: 1, autoCert: true}", "problem: autoCert = true: not served"),
    (
        "ProxySpec.compression",
        "compression: {minLength: 1}",
        "warning: filters[0].compression: responses are not compressed",
    ),
    (
        "ProxySpec.maxRedirection",
        "maxRedirection: 2",
        "warning: filters[0].maxRedirection: redirects of backends are not followed",
    ),
    ("PoolSpec.spanName", "pool: {spanName: s}", "warning: filters[0].pools[0].spanName: has no effect"),
    (
        "PoolSpec.healthCheck",
        "pool: {healthCheck: {}}",
        "warning: filters[0].pools[0].healthCheck: servers are not probed",
    ),
    (
        "PoolSpec.memoryCache",
        "pool: {memoryCache: {expiration: 1s, maxEntryBytes: 1, codes: [200], methods: [GET]}}",
        "warning: filters[0].pools[0].memoryCache: nothing is cached",
    ),
    (
        "PoolSpec.serviceName",
        "pool: {serviceName: s, serviceRegistry: r}",
        "warning: filters[0].pools[0].serviceName: registries are not asked",
    ),
    (
        "PoolSpec.serviceRegistry",
        "pool: {serviceRegistry: r}",
        "warning: filters[0].pools[0].serviceRegistry: has no effect without serviceName",
    ),
    (
        "LoadBalanceSpec.stickySession",
        "pool: {loadBalance: {stickySession: {mode: DurationBased}}}",
        "warning: filters[0].pools[0].loadBalance.stickySession: sessions do not stick",
    ),
    (
        "LoadBalanceSpec.healthCheck",
        "pool: {loadBalance: {healthCheck: {}}}",
        "warning: filters[0].pools[0].loadBalance.healthCheck: servers are not probed",
    ),
    (
        "LoadBalanceSpec.forwardKey",
        "pool: {loadBalance: {forwardKey: X}}",
        "warning: filters[0].pools[0].loadBalance.forwardKey: has no effect",
    ),
    (
        "WebSocketPoolSpec.healthCheck",
        "{kind: Pipeline, filters: [{name: f, kind: WebSocketProxy, pools: [{servers: [{url: 'ws://a:1'}], healthCheck: {ws: {}}}]}]}",
        "warning: filters[0].pools[0].healthCheck: servers are not probed",
    ),
    (
        "RequestAdaptorSpec.sign",
        "{kind: Pipeline, filters: [{name: f, kind: RequestAdaptor, sign: {}}]}",
        "problem: filters[0].sign: signing of requests is not available",
    ),
    (
        "ValidatorSpec.signature",
        "{kind: Pipeline, filters: [{name: f, kind: Validator, signature: {}}]}",
        "problem: filters[0].signature: not available yet",
    ),
    (
        "ValidatorSpec.basicAuth",
        "{kind: Pipeline, filters: [{name: f, kind: Validator, basicAuth: {}}]}",
        "problem: filters[0].basicAuth: not available yet",
    ),
    (
        "Oauth2Spec.tokenIntrospect",
        "{kind: Pipeline, filters: [{name: f, kind: Validator, oauth2: {tokenIntrospect: {}}}]}",
        "problem: filters[0].oauth2.tokenIntrospect: not available yet",
    ),
    (
        "RequestBuilderSpec.protocol",
        "{kind: Pipeline, filters: [{name: f, kind: RequestBuilder, template: x, protocol: mqtt}]}",
        "problem: filters[0].protocol = \"mqtt\": messages of this protocol cannot be built yet",
    ),
    (
        "ResponseBuilderSpec.protocol",
        "{kind: Pipeline, filters: [{name: f, kind: ResponseBuilder, template: x, protocol: mqtt}]}",
        "problem: filters[0].protocol = \"mqtt\": messages of this protocol cannot be built yet",
    ),
];

/// Fields that are read in some documents: one where they are not, and what is said about it.
const SAID_HERE: &[(&str, &str)] = &[
    (
        "pool: {loadBalance: {policy: forward, forwardKey: X}}",
        "loadBalance.policy: has no effect: servers are not named by requests",
    ),
    ("pool: {loadBalance: {headerHashKey: X}}", "loadBalance.headerHashKey: has no effect: only policy headerHash"),
    ("pool: {servers: [{url: 'http://a:1', weight: 2}]}", "servers: weights have no effect"),
    ("mtls: {insecureSkipVerify: true}", "mtls: has no effect: no server is https://"),
    (
        "{kind: Pipeline, filters: [{name: f, kind: WebSocketProxy, mtls: {insecureSkipVerify: true}, pools: [{servers: [{url: \
         'ws://a:1'}], insecureSkipVerify: true, originPatterns: [a]}]}]}",
        "pools[0].originPatterns: has no effect: insecureSkipVerify",
    ),
    (MIRROR, "mirrorPool.timeout: has no effect"),
    (MIRROR, "mirrorPool.setUpstreamHost: has no effect"),
    (MIRROR, "mirrorPool.serverMaxBodySize: has no effect"),
    (MIRROR, "mirrorPool.failureCodes: has no effect"),
    (MIRROR, "mirrorPool.filter.headers: has no effect: only policy general"),
    (MIRROR, "mirrorPool.filter.matchAllHeaders: has no effect"),
    (MIRROR, "mirrorPool.filter.urls: has no effect"),
    (MIRROR, "mirrorPool.filter.headerHashKey: has no effect"),
    (MIRROR, "mirrorPool.filter.urls[0].policyRef: has no effect"),
    (
        "mirrorPool: {servers: [{url: 'http://b:1'}], filter: {headers: {A: {exact: b}}, permil: 3}}",
        "filter.permil: has no effect",
    ),
    ("{kind: HTTPServer, port: 1, keepAlive: false, keepAliveTimeout: 3s}", "keepAliveTimeout: has no effect"),
    ("{kind: VirtualIP, addresses: [192.0.2.1], sourcePrefixLength: {ipv4: 16}}", "sourcePrefixLength: has no effect"),
    (
        "{kind: HTTPServer, port: 1, rules: [{paths: [{pathPrefix: /a, rewriteTarget: /b/, backend: p}]}]}",
        "rules[0].paths[0].rewriteTarget: /a/a becomes /b//a: pathPrefix and rewriteTarget differ in their last /",
    ),
    (
        "{kind: HTTPServer, port: 1, rules: [{paths: [{pathPrefix: /a/, rewriteTarget: /b, backend: p}]}]}",
        "rules[0].paths[0].rewriteTarget: /a/a becomes /ba: ",
    ),
    (
        "{kind: Pipeline, filters: [{name: f, kind: RedirectorV2, path: {type: ReplaceFullPath, replaceFullPath: /a, \
         replacePrefixMatch: /b}}]}",
        "filters[0].path.replacePrefixMatch: has no effect",
    ),
];

const MIRROR: &str = "mirrorPool: {servers: [{url: 'http://b:1'}], timeout: 1s, setUpstreamHost: true, serverMaxBodySize: 1, \
                      failureCodes: [500], filter: {policy: random, permil: 3, headers: {A: {exact: b}}, matchAllHeaders: true, \
                      headerHashKey: X, urls: [{methods: [GET], url: {exact: /}, policyRef: p}]}}";

#[test]
fn every_field_is_read_or_spoken_of() {
    let mut unknown = Vec::new();
    let mut seen = BTreeSet::new();
    for (kind, owner, field) in fields() {
        let name = format!("{owner}.{field}");
        seen.insert(owner.clone());
        if SAID.iter().any(|(said, _, _)| *said == name) {
            continue;
        }
        let qualified = format!("{kind}/{owner}");
        let readers =
            READERS.iter().find(|(of, _)| *of == qualified).or_else(|| READERS.iter().find(|(of, _)| *of == owner));
        match readers {
            Some((_, files)) if files.split(' ').any(|file| reads(file, &field)) => {}
            Some((_, files)) => unknown.push(format!("{name} ({kind}): nothing in {files} reads it")),
            None => unknown.push(format!("{name} ({kind}): say in READERS where {owner} is read")),
        }
    }
    assert!(
        unknown.is_empty(),
        "{}\nRead each where its struct is made ready, or warn when it is set and add it to SAID.",
        unknown.join("\n")
    );
    assert!(seen.len() > 40 && seen.contains("PoolSpec"), "{seen:?}");
}

#[test]
fn what_is_not_read_is_said() {
    for (field, document, expected) in SAID {
        let said = said(document);
        assert!(said.iter().any(|line| line.starts_with(expected)), "{field}: {document}\n{said:#?}");
    }
    for (document, expected) in SAID_HERE {
        let said = said(document);
        assert!(
            said.iter().any(|line| line.starts_with("warning: ") && line.contains(expected)),
            "{document}\n{said:#?}"
        );
    }
}

/// A field that somebody adds and nothing reads is found.
#[test]
fn a_field_that_nothing_reads_is_found() {
    assert!(reads("edge-filters/src/proxy.rs", "retryPolicy"));
    assert!(!reads("edge-filters/src/proxy.rs", "retryColour"));
    // Checking it is not reading it.
    assert!(!reads("edge-filters/src/validator.rs", "basicAuth"));
    assert!(!reads("base-model/src/http_server.rs", "cacheSize"));
}

/// Problems and warnings of a document, or of a Proxy with these fields, or with these fields in its pool.
fn said(document: &str) -> Vec<String> {
    let document = match (document.strip_prefix("pool: {"), document.starts_with('{')) {
        (_, true) => document.replacen('{', "{name: x, ", 1),
        (Some(pool), _) if pool.contains("servers:") => proxy(&format!("pools: [{{{pool}]")),
        (Some(pool), _) => proxy(&format!("pools: [{{servers: [{{url: 'http://a:1'}}], {pool}]")),
        (None, _) => proxy(&format!("pools: [{{servers: [{{url: 'http://a:1'}}]}}], {document}")),
    };
    match Object::read(&parse_document(&document).unwrap(), &Shelf) {
        Ok(object) => object.warnings.iter().map(|warning| format!("warning: {warning}")).collect(),
        Err(problems) => problems.iter().map(|problem| format!("problem: {problem}")).collect(),
    }
}

fn proxy(fields: &str) -> String {
    format!("{{name: x, kind: Pipeline, filters: [{{name: f, kind: Proxy, {fields}}}]}}")
}

/// Kind, struct and field of everything that documents may hold, but for what is inside a field of [`SAID`].
fn fields() -> BTreeSet<(String, String, String)> {
    let mut found = BTreeSet::new();
    for kind in explain::kinds().into_iter().chain(explained()) {
        let root = kind.schema.as_ref();
        let owner = root["title"].as_str().unwrap_or(&kind.kind).to_owned();
        let mut walk = Walk { kind: &kind.kind, root, found: &mut found, been: BTreeSet::new() };
        walk.walk(root, &owner);
    }
    found
}

struct Walk<'w> {
    kind: &'w str,
    root: &'w Value,
    found: &'w mut BTreeSet<(String, String, String)>,
    been: BTreeSet<String>,
}

impl Walk<'_> {
    fn walk(&mut self, schema: &Value, owner: &str) {
        if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next())
            && self.been.insert(name.to_owned())
        {
            let root = self.root;
            self.walk(&root["$defs"][name], name);
        }
        for (field, inner) in schema["properties"].as_object().into_iter().flatten() {
            self.found.insert((self.kind.to_owned(), owner.to_owned(), field.clone()));
            if !SAID.iter().any(|(said, _, _)| *said == format!("{owner}.{field}")) {
                self.walk(inner, owner);
            }
        }
        for key in ["items", "additionalProperties"] {
            self.walk_if_object(&schema[key], owner);
        }
        for key in ["anyOf", "oneOf", "allOf"] {
            for inner in schema[key].as_array().into_iter().flatten() {
                self.walk_if_object(inner, owner);
            }
        }
    }

    fn walk_if_object(&mut self, schema: &Value, owner: &str) {
        if schema.is_object() {
            self.walk(schema, owner);
        }
    }
}

/// Whether the code of a file, without its tests and the checks of documents, reads a field of that name.
fn reads(file: &str, field: &str) -> bool {
    if file.is_empty() {
        return false;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    let code = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let code = without_checks(code.split("#[cfg(test)]\nmod tests").next().unwrap_or_default());
    let snake = snake(field);
    // Some are read from the document as it was written.
    if code.contains(&format!("get(\"{field}\")")) {
        return true;
    }
    let names = [format!(".{snake}"), format!(".r#{snake}"), format!(".{snake}_")];
    names.iter().any(|name| {
        code.match_indices(name.as_str()).any(|(at, _)| {
            let after = code[at + name.len()..].chars().next();
            !after.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '(')
        })
    })
}

fn snake(field: &str) -> String {
    let mut out = String::new();
    let mut lower = false;
    for c in field.chars() {
        if lower && c.is_ascii_uppercase() {
            out.push('_');
        }
        lower = !c.is_ascii_uppercase();
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// Leaves out comments, and functions whose names say that they check.
fn without_checks(code: &str) -> String {
    let mut out = String::new();
    let mut inside: Option<usize> = None;
    for line in code.lines() {
        let indent = line.len() - line.trim_start().len();
        let text = line.trim_start();
        if let Some(from) = inside {
            if indent == from && text.starts_with('}') {
                inside = None;
            }
            continue;
        }
        let name = text.trim_start_matches("pub ").trim_start_matches("pub(crate) ").strip_prefix("fn ");
        if name.is_some_and(|name| {
            ["validate", "check", "warn", "same_condition"].iter().any(|word| name.starts_with(word))
        }) {
            if !text.ends_with('}') {
                inside = Some(indent);
            }
            continue;
        }
        if !text.starts_with("//") {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// The table names what there is.
#[test]
fn readers_are_of_structs_that_documents_hold() {
    let mut owners: BTreeMap<String, bool> = BTreeMap::new();
    for (kind, owner, _) in fields() {
        owners.insert(format!("{kind}/{owner}"), true);
        owners.insert(owner, true);
    }
    for (owner, _) in READERS {
        assert!(owners.contains_key(*owner), "{owner} is in no document");
    }
}

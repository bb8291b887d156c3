use super::*;
use crate::ingress::tests::{Checked, service, store};
use serde_json::Value;

const SHARED: &[String] = &[];

fn planned(objects: &[(Kind, Value)]) -> Plan {
    let settings =
        Settings { name: "gw", addresses: SHARED, shared: &["192.0.2.1".to_owned()], now: "2026-01-01T00:00:00Z" };
    plan(&store(objects), settings, &mut Checked)
}

fn class() -> (Kind, Value) {
    (Kind::GatewayClass, json!({"metadata": {"name": "weir"}, "spec": {"controllerName": CONTROLLER}}))
}

fn gateway(name: &str, listeners: Value) -> (Kind, Value) {
    let metadata =
        json!({"name": name, "namespace": "n", "generation": 3, "creationTimestamp": format!("2026-{name}")});
    (Kind::Gateway, json!({"metadata": metadata, "spec": {"gatewayClassName": "weir", "listeners": listeners}}))
}

fn http(hostname: &str) -> Value {
    json!([{"name": "http", "port": 80, "protocol": "HTTP", "hostname": hostname}])
}

fn route(name: &str, hosts: &[&str], rules: Value) -> (Kind, Value) {
    let metadata = json!({"name": name, "namespace": "n", "creationTimestamp": "2026"});
    let spec = json!({"parentRefs": [{"name": "g"}], "hostnames": hosts, "rules": rules});
    (Kind::HttpRoute, json!({"metadata": metadata, "spec": spec}))
}

fn to(service: &str) -> Value {
    json!([{"name": service, "port": 80}])
}

fn prefix(path: &str) -> Value {
    json!([{"path": {"type": "PathPrefix", "value": path}}])
}

/// `HOST PATH [CONDITIONS] -> BACKEND`.
fn routes(plan: &Plan, server: &str) -> Vec<String> {
    let mut told = Vec::new();
    for rule in plan.documents[server]["rules"].as_array().unwrap() {
        for path in rule["paths"].as_array().unwrap() {
            let text = |name: &str| path[name].as_str().map(str::to_owned);
            let parts: Vec<String> =
                ["path", "pathPrefix", "pathRegexp"].iter().filter_map(|name| text(name)).collect();
            let count = |name: &str| path[name].as_array().map_or(0, Vec::len);
            let more = [count("methods"), count("headers"), count("queries")];
            let to = text("rewriteTarget").map(|to| format!(" => {to}")).unwrap_or_default();
            let host = rule["host"].as_str().unwrap_or("*");
            let more = if more == [0; 3] { String::new() } else { format!(" {more:?}") };
            told.push(format!("{host} {}{more}{to} -> {}", parts.join("|"), path["backend"].as_str().unwrap()));
        }
    }
    told
}

/// `TYPE=STATUS/REASON` of a condition list.
fn told(conditions: &Value) -> Vec<String> {
    let text = |c: &Value, name: &str| c[name].as_str().unwrap_or_default().to_owned();
    let one = |c: &Value| format!("{}={}/{}", text(c, "type"), text(c, "status"), text(c, "reason"));
    conditions.as_array().into_iter().flatten().map(one).collect()
}

fn of_route(plan: &Plan, kind: Kind, name: &str) -> Vec<String> {
    told(&plan.statuses[&(kind, Key::new("n", name))]["parents"][0]["conditions"])
}

#[test]
fn routes_are_asked_in_the_order_of_the_api() {
    let rules = json!([
        {"matches": prefix("/"), "backendRefs": to("s")},
        {"matches": [{"path": {"type": "PathPrefix", "value": "/v2"}, "headers": [{"name": "a", "value": "1"}]}], "backendRefs": to("s")},
        {"matches": [{"path": {"type": "PathPrefix", "value": "/v2"}, "method": "GET"}], "backendRefs": to("s")},
        {"matches": [{"path": {"type": "Exact", "value": "/v2"}}], "backendRefs": to("s")},
        {"matches": [{"path": {"type": "PathPrefix", "value": "/v2"}}], "backendRefs": to("s")},
    ]);
    let plan = planned(&[class(), gateway("g", http("")), service("s"), route("r", &["a.test"], rules)]);
    assert_eq!(
        routes(&plan, "gw.http.80"),
        [
            "a.test /v2 -> gw.http.n.r.3",
            "a.test /v2|/v2/ [1, 0, 0] -> gw.http.n.r.2",
            "a.test /v2|/v2/ [0, 1, 0] -> gw.http.n.r.1",
            "a.test /v2|/v2/ -> gw.http.n.r.4",
            "a.test / -> gw.http.n.r.0",
            "a.test / -> gw.404",
            "* / -> gw.404",
        ]
    );
    assert_eq!(of_route(&plan, Kind::HttpRoute, "r"), ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs"]);
    let status = &plan.statuses[&(Kind::Gateway, Key::new("n", "g"))];
    assert_eq!(told(&status["conditions"]), ["Accepted=True/Accepted", "Programmed=True/Programmed"]);
    assert_eq!(status["listeners"][0]["attachedRoutes"], 1);
    assert_eq!(status["addresses"], json!([{"type": "IPAddress", "value": "192.0.2.1"}]));
    assert_eq!(status["conditions"][0]["observedGeneration"], 3);
}

#[test]
fn a_status_that_is_there_is_not_written_again() {
    let mut objects =
        vec![class(), gateway("g", http("")), service("s"), route("r", &[], json!([{"backendRefs": to("s")}]))];
    let first = planned(&objects);
    assert_eq!(first.statuses.len(), 3);
    for (kind, value) in &mut objects {
        let key = Key::new(
            value["metadata"]["namespace"].as_str().unwrap_or_default(),
            value["metadata"]["name"].as_str().unwrap(),
        );
        if let Some(status) = first.statuses.get(&(*kind, key)) {
            value["status"] = status.clone();
        }
    }
    assert!(planned(&objects).statuses.is_empty(), "{:?}", planned(&objects).statuses);
}

#[test]
fn hosts_are_those_that_listener_and_route_share() {
    let of = |listener: &str, route: &[&str]| {
        let route: Vec<String> = route.iter().map(|host| (*host).to_owned()).collect();
        shared_hosts(listener, &route)
    };
    for (listener, route, wanted) in [
        ("", &[][..], &[""][..]),
        ("", &["A.test"], &["a.test"]),
        ("a.test", &[], &["a.test"]),
        ("a.test", &["*.test"], &["a.test"]),
        ("*.test", &["a.test", "b.a.test", "x.org"], &["a.test", "b.a.test"]),
        ("*.test", &["*.a.test"], &["*.a.test"]),
        ("*.a.test", &["*.test"], &["*.a.test"]),
        ("*.test", &["test"], &[]),
        ("a.test", &["b.test"], &[]),
    ] {
        assert_eq!(of(listener, route), wanted, "{listener} {route:?}");
    }
    let plan = planned(&[
        class(),
        gateway("g", http("a.test")),
        service("s"),
        route("r", &["b.test"], json!([{"backendRefs": to("s")}])),
    ]);
    assert_eq!(of_route(&plan, Kind::HttpRoute, "r")[0], "Accepted=False/NoMatchingListenerHostname");
    assert_eq!(routes(&plan, "gw.http.80"), ["a.test / -> gw.404"]);
}

#[test]
fn what_may_not_be_attached_is_told_why() {
    let mut foreign = route("r", &[], json!([{"backendRefs": to("s")}]));
    foreign.1["metadata"]["namespace"] = json!("other");
    foreign.1["spec"]["parentRefs"] = json!([{"name": "g", "namespace": "n"}]);
    let key = (Kind::HttpRoute, Key::new("other", "r"));
    let with = |allowed: Value, label: &str| {
        let mut gateway = gateway("g", http(""));
        gateway.1["spec"]["listeners"][0]["allowedRoutes"] = allowed;
        let namespace = (Kind::Namespace, json!({"metadata": {"name": "other", "labels": {"team": label}}}));
        let plan = planned(&[class(), gateway, foreign.clone(), namespace]);
        told(&plan.statuses[&key]["parents"][0]["conditions"])[0].clone()
    };
    let selector = json!({"namespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "a"}}}});
    assert_eq!(with(json!({}), "a"), "Accepted=False/NotAllowedByListeners");
    assert_eq!(with(json!({"namespaces": {"from": "All"}}), "a"), "Accepted=True/Accepted");
    assert_eq!(with(selector.clone(), "a"), "Accepted=True/Accepted");
    assert_eq!(with(selector, "b"), "Accepted=False/NotAllowedByListeners");
    assert_eq!(
        with(json!({"namespaces": {"from": "All"}, "kinds": [{"kind": "GRPCRoute"}]}), "a"),
        "Accepted=False/NotAllowedByListeners"
    );
    let mut nowhere = route("r", &[], json!([]));
    nowhere.1["spec"]["parentRefs"][0]["sectionName"] = json!("none");
    assert_eq!(
        of_route(&planned(&[class(), gateway("g", http("")), nowhere]), Kind::HttpRoute, "r")[0],
        "Accepted=False/NoMatchingParent"
    );
}

#[test]
fn what_is_in_another_namespace_needs_a_grant() {
    let rules = json!([{"backendRefs": [{"name": "s", "namespace": "far", "port": 80}]}]);
    let mut far = service("s");
    far.1["metadata"]["namespace"] = json!("far");
    let objects = vec![class(), gateway("g", http("")), far, route("r", &[], rules)];
    let plan = planned(&objects);
    assert_eq!(of_route(&plan, Kind::HttpRoute, "r")[1], "ResolvedRefs=False/RefNotPermitted");
    assert_eq!(routes(&plan, "gw.http.80")[0], "* / -> gw.500");
    let grant = |name: Value| {
        let to = json!([{"group": "", "kind": "Service", "name": name}]);
        let from = json!([{"group": GROUP, "kind": "HTTPRoute", "namespace": "n"}]);
        (Kind::ReferenceGrant, json!({"metadata": {"name": "x", "namespace": "far"}, "spec": {"from": from, "to": to}}))
    };
    for (name, reason) in
        [(json!(null), "True/ResolvedRefs"), (json!("s"), "True/ResolvedRefs"), (json!("t"), "False/RefNotPermitted")]
    {
        let with: Vec<_> = objects.iter().cloned().chain([grant(name)]).collect();
        assert_eq!(of_route(&planned(&with), Kind::HttpRoute, "r")[1], format!("ResolvedRefs={reason}"));
    }
    let rules = json!([{"backendRefs": to("nowhere")}, {"backendRefs": [{"kind": "Bucket", "name": "b"}]}]);
    let plan = planned(&[class(), gateway("g", http("")), route("r", &[], rules)]);
    assert_eq!(of_route(&plan, Kind::HttpRoute, "r")[1], "ResolvedRefs=False/BackendNotFound");
}

#[test]
fn listeners_say_what_is_wrong_with_them() {
    let listeners = json!([
        {"name": "odd", "port": 1, "protocol": "SCTP"},
        {"name": "bare", "port": 2, "protocol": "HTTPS"},
        {"name": "lost", "port": 3, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "none"}]}},
        {"name": "far", "port": 4, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "c", "namespace": "far"}]}},
        {"name": "kinds", "port": 5, "protocol": "HTTP", "allowedRoutes": {"kinds": [{"kind": "TCPRoute"}, {"kind": "HTTPRoute"}]}},
        {"name": "one", "port": 6, "protocol": "HTTP"},
        {"name": "two", "port": 6, "protocol": "TCP"},
        {"name": "well", "port": 7, "protocol": "HTTP"},
    ]);
    let plan = planned(&[class(), gateway("g", listeners)]);
    let status = &plan.statuses[&(Kind::Gateway, Key::new("n", "g"))];
    let of = |n: usize| told(&status["listeners"][n]["conditions"]);
    assert_eq!(of(0)[..2], ["Accepted=False/UnsupportedProtocol", "Programmed=False/Invalid"]);
    assert_eq!(of(1)[2], "ResolvedRefs=False/InvalidCertificateRef");
    assert_eq!(of(2)[2], "ResolvedRefs=False/InvalidCertificateRef");
    assert_eq!(of(3)[2], "ResolvedRefs=False/RefNotPermitted");
    assert_eq!(of(4)[2], "ResolvedRefs=False/InvalidRouteKinds");
    assert_eq!(status["listeners"][4]["supportedKinds"], json!([{"group": GROUP, "kind": "HTTPRoute"}]));
    assert_eq!(of(5)[3], "Conflicted=True/ProtocolConflict");
    assert_eq!(of(6)[3], "Conflicted=True/ProtocolConflict");
    assert_eq!(
        of(7),
        [
            "Accepted=True/Accepted",
            "Programmed=True/Programmed",
            "ResolvedRefs=True/ResolvedRefs",
            "Conflicted=False/NoConflicts"
        ]
    );
    assert_eq!(told(&status["conditions"])[0], "Accepted=True/ListenersNotValid");
    assert_eq!(plan.documents.keys().collect::<Vec<_>>(), ["gw.404", "gw.http.7"]);
}

#[test]
fn filters_become_stations_of_the_pipeline() {
    let rules = json!([
        {"matches": prefix("/one"), "backendRefs": [{"name": "s", "port": 80, "weight": 9}, {"name": "t", "port": 80, "weight": 1}, {"name": "u", "port": 80, "weight": 0}],
         "timeouts": {"request": "500ms"},
         "filters": [
            {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "a", "value": "1"}], "remove": ["b"]}},
            {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"add": [{"name": "c", "value": "2"}]}},
            {"type": "URLRewrite", "urlRewrite": {"hostname": "x.test", "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/two/"}}},
            {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "t", "port": 80}, "percent": 20}}]},
        {"matches": prefix("/old"), "filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 301,
            "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}}}]},
        {"matches": prefix("/full"), "backendRefs": to("s"), "filters": [{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplaceFullPath", "replaceFullPath": "/x"}}}]},
        {"matches": prefix("/ext"), "backendRefs": to("s"), "filters": [{"type": "ExtensionRef", "extensionRef": {"group": "easegress.megaease.com", "kind": "FilterSpec", "name": "mine"}}]},
    ]);
    let spec = json!({"name": "limit", "kind": "RateLimiter", "spec": "policies: []\n"});
    let mine = (Kind::FilterSpec, json!({"metadata": {"name": "mine", "namespace": "n"}, "spec": spec}));
    let plan = planned(&[
        class(),
        gateway("g", http("")),
        service("s"),
        service("t"),
        service("u"),
        mine,
        route("r", &[], rules),
    ]);
    assert_eq!(
        routes(&plan, "gw.http.80")[..5],
        [
            "* /full|/full/ -> gw.http.n.r.2",
            "* /one => /two -> gw.http.n.r.0",
            "* /one/ => /two/ -> gw.http.n.r.0",
            "* /old|/old/ -> gw.http.n.r.1",
            "* /ext|/ext/ -> gw.http.n.r.3",
        ]
    );
    let one = &plan.documents["gw.http.n.r.0"];
    let names: Vec<&str> = one["filters"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["request-0", "rewrite-2", "proxy", "response-1", "late"]);
    assert_eq!(one["flow"][2]["jumpIf"], json!({"": "response-1", "failureCode": "response-1", "timeout": "late"}));
    assert_eq!(one["flow"][3]["jumpIf"], json!({"": "END"}));
    let proxy = &one["filters"][2];
    let weights: Vec<&Value> = proxy["pools"].as_array().unwrap().iter().map(|pool| &pool["weight"]).collect();
    assert_eq!(weights, [9, 1]);
    assert_eq!(
        (&proxy["mirrorPool"]["filter"]["permil"], &proxy["pools"][0]["timeout"]),
        (&json!(200), &json!("500ms"))
    );
    let redirect = &plan.documents["gw.http.n.r.1"]["filters"][0];
    assert_eq!((&redirect["kind"], &redirect["statusCode"]), (&json!("RedirectorV2"), &json!(301)));
    assert_eq!(plan.documents["gw.http.n.r.2"]["filters"][0]["path"], json!({"replace": "/x"}));
    assert_eq!(plan.documents["gw.http.n.r.3"]["filters"][0]["kind"], "RateLimiter");
    assert!(plan.services.contains("n/t:80") && !plan.services.contains("n/u:80"));
}

#[test]
fn a_backend_that_cannot_be_used_answers_for_its_share() {
    let part = |weight: i64, name: &str| json!({"name": name, "port": 80, "weight": weight});
    let rules = json!([
        {"matches": prefix("/some"), "backendRefs": [part(3, "s"), part(1, "none"), part(2, "t")]},
        {"matches": prefix("/none"), "backendRefs": [part(3, "none"), part(0, "s")]},
    ]);
    let plan = planned(&[class(), gateway("g", http("")), service("s"), service("t"), route("r", &[], rules)]);
    let some = &plan.documents["gw.http.n.r.0"];
    let choice = json!({"name": "choice", "kind": "ResultBuilder",
        "template": "{{$n := randInt 0 6}}{{if lt $n 5}}{{else if lt $n 6}}result0{{end}}"});
    assert_eq!(some["filters"][0], choice);
    assert_eq!(
        some["flow"],
        json!([
            {"filter": "choice", "jumpIf": {"result0": "refused"}},
            {"filter": "proxy", "jumpIf": {"": "END", "failureCode": "END"}},
            {"filter": "refused"},
        ])
    );
    assert_eq!(some["filters"][2]["rules"], json!([{"code": 500}]));
    assert!(routes(&plan, "gw.http.80").contains(&"* /none|/none/ -> gw.500".to_owned()));
    assert_eq!(of_route(&plan, Kind::HttpRoute, "r")[1], "ResolvedRefs=False/BackendNotFound");
}

#[test]
fn filters_of_a_backend_are_for_its_requests_alone() {
    let set = |what: &str, value: &str| {
        let kind = format!("{what}HeaderModifier");
        let field = kind.replace("Request", "request").replace("Response", "response");
        json!({"type": kind, field: {"set": [{"name": "x", "value": value}]}})
    };
    let rules = json!([{"timeouts": {"request": "1s"}, "filters": [set("Response", "all")], "backendRefs": [
        {"name": "s", "port": 80, "weight": 2},
        {"name": "t", "port": 80, "weight": 1, "filters": [set("Request", "t"), set("Response", "t")]},
    ]}]);
    let plan = planned(&[class(), gateway("g", http("")), service("s"), service("t"), route("r", &[], rules)]);
    assert_eq!(
        plan.documents["gw.http.n.r.0"]["flow"],
        json!([
            {"filter": "choice", "jumpIf": {"result0": "backend-1-request-0"}},
            {"filter": "proxy", "jumpIf": {"": "response-0", "failureCode": "response-0", "timeout": "late"}},
            {"filter": "backend-1-request-0"},
            {"filter": "backend-1", "jumpIf": {"": "backend-1-response-1", "failureCode": "backend-1-response-1", "timeout": "late"}},
            {"filter": "backend-1-response-1", "jumpIf": {"": "response-0"}},
            {"filter": "response-0", "jumpIf": {"": "END"}},
            {"filter": "late"},
        ])
    );
    let alone = json!([{"backendRefs": [{"name": "t", "port": 80, "filters": [set("Request", "t")]}]}]);
    let plan = planned(&[class(), gateway("g", http("")), service("t"), route("r", &[], alone)]);
    let flow = &plan.documents["gw.http.n.r.0"]["flow"];
    assert_eq!(*flow, json!([{"filter": "backend-0-request-0"}, {"filter": "backend-0"}]));
    let other = json!([{"backendRefs": [{"name": "t", "port": 80, "filters": [{"type": "CORS", "cors": {}}]}]}]);
    let plan = planned(&[class(), gateway("g", http("")), service("t"), route("r", &[], other)]);
    assert_eq!(of_route(&plan, Kind::HttpRoute, "r")[0], "Accepted=False/UnsupportedValue");
}

#[test]
fn what_is_asked_for_and_not_there_lets_nobody_by() {
    let mirror = json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "s", "port": 80}}});
    let extension = json!({"type": "ExtensionRef", "extensionRef": {"group": "easegress.megaease.com", "kind": "FilterSpec", "name": "none"}});
    let with = |filters: Value| {
        let rules = json!([{"backendRefs": to("s"), "filters": filters}]);
        planned(&[class(), gateway("g", http("")), service("s"), route("r", &[], rules)])
    };
    let plan = with(json!([extension]));
    assert_eq!(routes(&plan, "gw.http.80")[0], "* / -> gw.500");
    assert_eq!(of_route(&plan, Kind::HttpRoute, "r")[1], "ResolvedRefs=False/BackendNotFound");
    assert_eq!(of_route(&with(json!([mirror])), Kind::HttpRoute, "r")[0], "Accepted=True/Accepted");
    assert_eq!(of_route(&with(json!([mirror, mirror])), Kind::HttpRoute, "r")[0], "Accepted=False/UnsupportedValue");
}

#[test]
fn a_gateway_with_parameters_that_nobody_knows_is_not_served() {
    let mut gateway = gateway("g", http(""));
    gateway.1["spec"]["infrastructure"] = json!({"parametersRef": {"group": "a.test", "kind": "Odd", "name": "x"}});
    let plan = planned(&[class(), gateway]);
    let status = &plan.statuses[&(Kind::Gateway, Key::new("n", "g"))];
    assert_eq!(told(&status["conditions"]), ["Accepted=False/InvalidParameters", "Programmed=False/Invalid"]);
    assert!(!plan.documents.contains_key("gw.http.80"));
}

/// A secret with a certificate of its own for a host.
fn secret(name: &str, host: &str) -> (Kind, Value) {
    let text = |text: String| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
    let pair = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
    let data = json!({"tls.crt": text(pair.cert.pem()), "tls.key": text(pair.signing_key.serialize_pem())});
    let metadata = json!({"name": name, "namespace": "n"});
    (Kind::Secret, json!({"metadata": metadata, "type": "kubernetes.io/tls", "data": data}))
}

#[test]
fn certificates_are_shown_in_the_order_of_their_listeners() {
    let tls = |secrets: &[&str]| {
        let refs: Vec<Value> = secrets.iter().map(|name| json!({"name": name})).collect();
        json!({"mode": "Terminate", "certificateRefs": refs})
    };
    let secrets = || [secret("a", "same.test"), secret("b", "same.test"), secret("c", "other.test")];
    let names = |plan: &Plan, document: &str| -> Vec<String> {
        let mut names: Vec<String> = plan.documents[document]["certs"].as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    };
    let listeners = json!([
        {"name": "one", "port": 443, "protocol": "HTTPS", "tls": tls(&["b", "a"])},
        {"name": "two", "port": 443, "protocol": "HTTPS", "hostname": "other.test", "tls": tls(&["c"])},
    ]);
    let plan = planned(&[&[class(), gateway("g", listeners)], &secrets()[..]].concat());
    assert_eq!(names(&plan, "gw.https.443"), ["!n/b", "n/c", "~n/a"]);
    let listeners = json!([{"name": "one", "port": 443, "protocol": "TLS", "tls": tls(&["b", "a", "c"])}]);
    let mut relayed = route("r", &[], json!([{"backendRefs": to("s")}]));
    relayed.0 = Kind::TlsRoute;
    let slice = json!({"metadata": {"name": "s", "namespace": "n", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4", "ports": [{"name": "web", "port": 8080}], "endpoints": [{"addresses": ["10.0.0.1"]}]});
    let objects = [class(), gateway("g", listeners), service("s"), (Kind::EndpointSlice, slice), relayed];
    let plan = planned(&[&objects, &secrets()[..]].concat());
    assert!(plan.documents["gw.tcp.443"].get("rules").is_none_or(|rules| *rules == json!([])));
    assert_eq!(names(&plan, "gw.tcp.443"), ["!n/b", "n/c", "~n/a"]);
}

#[test]
fn tls_of_a_port_is_ended_or_passed_on_and_not_both() {
    let listeners = json!([
        {"name": "on", "port": 443, "protocol": "TLS", "hostname": "a.test", "tls": {"mode": "Passthrough"}},
        {"name": "ends", "port": 443, "protocol": "TLS", "hostname": "b.test", "tls": {"mode": "Terminate"}},
    ]);
    let plan = planned(&[class(), gateway("g", listeners)]);
    let status = &plan.statuses[&(Kind::Gateway, Key::new("n", "g"))];
    for n in 0..2 {
        assert_eq!(status["listeners"][n]["supportedKinds"], json!([]));
        let conditions = told(&status["listeners"][n]["conditions"]);
        assert_eq!(
            (&*conditions[0], &*conditions[3]),
            ("Accepted=False/ProtocolConflict", "Conflicted=True/ProtocolConflict")
        );
    }
}

#[test]
fn a_filter_of_a_namespace_reaches_no_further_than_its_routes() {
    let with = |kind: &str, text: &str, more: &[(Kind, Value)]| {
        let extension = json!({"type": "ExtensionRef", "extensionRef": {"group": "easegress.megaease.com", "kind": "FilterSpec", "name": "mine"}});
        let spec = json!({"name": "f", "kind": kind, "spec": text});
        let mut objects = vec![
            class(),
            gateway("g", http("")),
            service("s"),
            (Kind::FilterSpec, json!({"metadata": {"name": "mine", "namespace": "n"}, "spec": spec})),
            route("r", &[], json!([{"backendRefs": to("s"), "filters": [extension]}])),
        ];
        objects.extend(more.iter().cloned());
        of_route(&planned(&objects), Kind::HttpRoute, "r")[1].clone()
    };
    let far = "pools: [{serviceRegistry: gw, serviceName: 'far/secrets:80'}]";
    let resolved = "ResolvedRefs=True/ResolvedRefs";
    assert_eq!(with("Proxy", far, &[]), "ResolvedRefs=False/BackendNotFound");
    assert_eq!(with("Proxy", &far.replace("far/", "n/"), &[]), resolved);
    let to = json!([{"group": "", "kind": "Service"}]);
    let from = json!([{"group": GROUP, "kind": "HTTPRoute", "namespace": "n"}]);
    let grant = json!({"metadata": {"name": "x", "namespace": "far"}, "spec": {"from": from, "to": to}});
    assert_eq!(with("Proxy", far, &[(Kind::ReferenceGrant, grant)]), resolved);
    assert_eq!(with("FileServer", "root: /etc", &[]), "ResolvedRefs=False/BackendNotFound");
}

#[test]
fn calls_of_grpc_are_paths_and_speak_http2() {
    let mut calls = route(
        "r",
        &[],
        json!([
            {"matches": [{"method": {"service": "a.B"}}, {"method": {"service": "a.B", "method": "C"}}, {"method": {"method": "D"}}], "backendRefs": to("s")},
        ]),
    );
    calls.0 = Kind::GrpcRoute;
    let plan = planned(&[class(), gateway("g", http("")), service("s"), calls]);
    assert_eq!(
        routes(&plan, "gw.http.80")[..3],
        ["* /a.B/C -> gw.grpc.n.r.0", "* /a.B/ -> gw.grpc.n.r.0", "* ^/[^/]+/D$ -> gw.grpc.n.r.0",]
    );
    assert_eq!(plan.documents["gw.grpc.n.r.0"]["filters"][0]["pools"][0]["http2"], true);
    assert_eq!(plan.documents["gw.http.80"]["h2c"], true);
}

#[test]
fn connections_go_to_servers_by_port_and_by_server_name() {
    let slice = |service: &str, address: &str| {
        let labels = json!({"kubernetes.io/service-name": service});
        let endpoints = json!([{"addresses": [address]}]);
        (
            Kind::EndpointSlice,
            json!({"metadata": {"name": service, "namespace": "n", "labels": labels}, "addressType": "IPv4",
            "ports": [{"name": "web", "port": 8080}], "endpoints": endpoints}),
        )
    };
    let of = |kind: Kind, name: &str, section: &str, hosts: Value, service: &str| {
        let (_, mut value) = route(name, &[], json!([{"backendRefs": to(service)}]));
        value["spec"]["parentRefs"][0]["sectionName"] = json!(section);
        value["spec"]["hostnames"] = hosts;
        (kind, value)
    };
    let listeners = json!([
        {"name": "tcp", "port": 5432, "protocol": "TCP"},
        {"name": "udp", "port": 53, "protocol": "UDP"},
        {"name": "tls", "port": 443, "protocol": "TLS", "tls": {"mode": "Passthrough"}},
    ]);
    let plan = planned(&[
        class(),
        gateway("g", listeners),
        service("s"),
        service("t"),
        slice("s", "10.0.0.1"),
        slice("t", "10.0.0.2"),
        of(Kind::TcpRoute, "a", "tcp", json!([]), "s"),
        of(Kind::TcpRoute, "b", "tcp", json!([]), "t"),
        of(Kind::UdpRoute, "c", "udp", json!([]), "t"),
        of(Kind::TlsRoute, "d", "tls", json!(["a.test"]), "s"),
        of(Kind::TlsRoute, "e", "tls", json!(["*.test"]), "t"),
    ]);
    let url = |server: &str, pool: usize| plan.documents[server]["pools"][pool]["servers"][0]["url"].clone();
    assert_eq!(
        (url("gw.tcp.5432", 0), plan.documents["gw.tcp.5432"]["pools"].as_array().unwrap().len()),
        (json!("tcp://10.0.0.1:8080"), 1)
    );
    assert_eq!(url("gw.udp.53", 0), "udp://10.0.0.2:8080");
    let tls = &plan.documents["gw.tcp.443"];
    assert_eq!(tls["tls"], "passthrough");
    assert_eq!(tls["rules"], json!([{"pool": "n.d", "sni": ["a.test"]}, {"pool": "n.e", "sni": ["*.test"]}]));
    // The narrower host is asked first; a route without hosts has the rest, the older one of two; one route may be taken twice.
    let passes = json!({"mode": "Passthrough"});
    let plan = planned(&[
        class(),
        gateway(
            "g",
            json!([
                {"name": "tls", "port": 443, "protocol": "TLS", "tls": passes},
                {"name": "more", "port": 443, "protocol": "TLS", "hostname": "*.more.test", "tls": passes},
            ]),
        ),
        service("s"),
        slice("s", "10.0.0.1"),
        of(Kind::TlsRoute, "a", "tls", json!(["*.test", "b.test"]), "s"),
        of(Kind::TlsRoute, "b", "more", json!([]), "s"),
        of(Kind::TlsRoute, "c", "tls", json!([]), "s"),
        of(Kind::TlsRoute, "d", "tls", json!([]), "s"),
    ]);
    let tls = &plan.documents["gw.tcp.443"];
    let rule = |pool: &str, host: &str| json!({"pool": pool, "sni": [host]});
    assert_eq!(tls["rules"], json!([rule("n.a", "b.test"), rule("n.b", "*.more.test"), rule("n.a", "*.test")]));
    let names: Vec<&Value> = tls["pools"].as_array().unwrap().iter().map(|pool| &pool["name"]).collect();
    assert_eq!(names, ["n.a", "n.c.rest", "n.b"]);
    // Where no route leads anywhere the port is open, and turns everybody away.
    let listeners = json!([{"name": "tls", "port": 443, "protocol": "TLS", "tls": passes}]);
    let lost = of(Kind::TlsRoute, "a", "tls", json!(["a.test"]), "none");
    let plan = planned(&[class(), gateway("g", listeners), lost]);
    assert_eq!(plan.documents["gw.tcp.443"]["rules"], json!([rule("none", "none.invalid")]));
}

/// Two namespaces share an address: what the older one has, the younger one does not get by a route of its own.
#[test]
fn a_host_of_one_gateway_is_not_served_by_routes_of_another() {
    let of = |name: &str, namespace: &str, listeners: Value| {
        let mut gateway = gateway(name, listeners);
        gateway.1["metadata"]["namespace"] = json!(namespace);
        gateway
    };
    let led = |name: &str, namespace: &str, to_gateway: &str, hosts: &[&str], path: &str| {
        let mut route = route(name, hosts, json!([{"matches": prefix(path), "backendRefs": to("s")}]));
        route.1["metadata"]["namespace"] = json!(namespace);
        route.1["spec"]["parentRefs"] = json!([{"name": to_gateway}]);
        let mut service = service("s");
        service.1["metadata"]["namespace"] = json!(namespace);
        [route, service]
    };
    let passes = |hostname: &str| json!({"name": hostname, "port": 443, "protocol": "TLS", "hostname": hostname, "tls": {"mode": "Passthrough"}});
    let mut listeners = http("shop.test");
    listeners.as_array_mut().unwrap().push(passes("a.test"));
    let mut other = http("");
    other
        .as_array_mut()
        .unwrap()
        .extend([passes("b.test"), json!({"name": "same", "port": 80, "protocol": "HTTP", "hostname": "Shop.test"})]);
    let mut objects = vec![class(), of("g", "n", listeners), of("h", "m", other)];
    objects.extend(led("own", "n", "g", &[], "/"));
    objects.extend(led("theft", "m", "h", &["shop.test", "m.test"], "/login"));
    let plan = planned(&objects);
    assert_eq!(
        routes(&plan, "gw.http.80"),
        [
            "shop.test / -> gw.http.n.own.0",
            "shop.test / -> gw.404",
            "m.test /login|/login/ -> gw.http.m.theft.0",
            "m.test / -> gw.404",
            "* / -> gw.404",
        ]
    );
    let lines = plan.reports[&(Kind::HttpRoute, Key::new("m", "theft"))].lines().join("\n");
    assert!(lines.contains("\"shop.test\" is of a listener for \"shop.test\""), "{lines}");
    let listeners = &plan.statuses[&(Kind::Gateway, Key::new("m", "h"))]["listeners"];
    assert_eq!(told(&listeners[1]["conditions"])[3], "Conflicted=True/HostnameConflict");
    assert_eq!(told(&listeners[2]["conditions"])[3], "Conflicted=True/HostnameConflict");
    let first = &plan.statuses[&(Kind::Gateway, Key::new("n", "g"))]["listeners"];
    assert!(first.as_array().unwrap().iter().all(|of| told(&of["conditions"])[3] == "Conflicted=False/NoConflicts"));
}

#[test]
fn each_gateway_keeps_its_address() {
    let pool: Vec<String> = ["192.0.2.1", "192.0.2.2"].map(str::to_owned).into();
    let settings = Settings { name: "gw", addresses: &pool, shared: &[], now: "t" };
    let (mut a, b, c) = (gateway("a", http("")), gateway("b", http("")), gateway("c", http("")));
    a.1["status"] = json!({"addresses": [{"type": "IPAddress", "value": "192.0.2.2"}]});
    let plan = plan(&store(&[class(), b, c, a]), settings, &mut Checked);
    assert!(plan.documents.contains_key("gw.http.192-0-2-2.80") && plan.documents.contains_key("gw.http.192-0-2-1.80"));
    let status = |name: &str| plan.statuses[&(Kind::Gateway, Key::new("n", name))].clone();
    assert_eq!(status("a")["addresses"][0]["value"], "192.0.2.2");
    assert_eq!(told(&status("c")["conditions"])[1], "Programmed=False/AddressNotAssigned");
    let mut named = gateway("d", http(""));
    named.1["spec"]["addresses"] = json!([{"type": "Hostname", "value": "x.test"}]);
    let plan = planned(&[class(), named]);
    assert_eq!(
        told(&plan.statuses[&(Kind::Gateway, Key::new("n", "d"))]["conditions"])[0],
        "Accepted=False/UnsupportedAddress"
    );
}

proptest::proptest! {
    /// Whatever there is, every route leads somewhere, and no order of what comes makes a difference.
    #[test]
    fn what_comes_of_it_does_not_depend_on_the_order(
        seeds in proptest::collection::vec((0usize..4, 0usize..5, 0usize..4, 0usize..3), 1..10),
        turn in 0usize..12,
    ) {
        let hosts: [&[&str]; 4] = [&[], &["a.test"], &["*.test"], &["A.test", "b.test"]];
        let paths = ["/", "/a", "/a/", "/a/b", "/b"];
        let types = ["PathPrefix", "Exact", "RegularExpression", ""];
        let services = ["s", "t", "none"];
        let mut objects: Vec<(Kind, Value)> = seeds.iter().enumerate().map(|(n, (host, at, kind, to_service))| {
            let matches = json!([{"path": {"type": types[*kind], "value": paths[*at]}}]);
            route(&format!("r{n}"), hosts[*host], json!([{"matches": matches, "backendRefs": to(services[*to_service])}]))
        }).collect();
        objects.extend([class(), gateway("g", http("")), service("s"), service("t")]);
        let first = planned(&objects);
        let turn = turn % objects.len();
        objects.rotate_left(turn);
        let second = planned(&objects);
        proptest::prop_assert_eq!(&first.documents, &second.documents);
        proptest::prop_assert_eq!(&first.statuses, &second.statuses);
        for rule in first.documents["gw.http.80"]["rules"].as_array().unwrap() {
            for path in rule["paths"].as_array().unwrap() {
                let backend = path["backend"].as_str().unwrap();
                proptest::prop_assert!(first.documents.contains_key(backend), "{} leads nowhere", backend);
            }
        }
    }
}

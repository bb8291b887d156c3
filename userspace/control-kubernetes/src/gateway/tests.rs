use super::routes::shared_hosts;
use super::*;
use crate::ingress::tests::{Checked, service, store};
use serde_json::Value;

const SHARED: &[String] = &[];

/// All of it together, as a cluster has it in the end.
#[derive(Debug, PartialEq)]
struct Plan {
    documents: BTreeMap<String, Value>,
    services: BTreeSet<String>,
    statuses: BTreeMap<(Kind, Key), Value>,
    reports: BTreeMap<(Kind, Key), Report>,
    refused: BTreeSet<String>,
}

impl Plan {
    fn of(plan: super::Plan) -> Plan {
        let owned = |(name, document): (&String, &Arc<Value>)| (name.clone(), Value::clone(document));
        let mut documents: BTreeMap<String, Value> = plan.documents.iter().map(owned).collect();
        for (name, rules) in &plan.rules {
            documents.get_mut(name).unwrap()["rules"] = rules.values().map(control_api::Kept::read).collect();
        }
        documents.extend(plan.pipelines.iter().map(|(name, document)| (name.clone(), document.read())));
        let statuses = plan.statuses.iter().map(|(of, status)| (of.clone(), status.read()));
        Plan {
            documents,
            services: plan.services.into_iter().collect(),
            statuses: statuses.collect(),
            reports: plan.reports.into_iter().collect(),
            refused: plan.refused,
        }
    }
}

/// Made of nothing that was there before.
fn plan(store: &Store, settings: Settings<'_>, check: &mut dyn Check) -> Plan {
    Plan::of(super::plan(store, settings, check, &mut Known::default()))
}

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
    assert_eq!(of(4)[1], "Programmed=True/Programmed", "the kind that is one of its protocol is served");
    assert_eq!(plan.documents.keys().collect::<Vec<_>>(), ["gw.404", "gw.http.5", "gw.http.7"]);
}

#[test]
fn of_what_a_listener_names_the_rest_is_used_where_some_of_it_leads_nowhere() {
    let pem = rcgen::generate_simple_self_signed(vec!["ca.test".to_owned()]).unwrap().cert.pem();
    let secrets = json!([{"name": "gone"}, {"name": "c"}, {"name": "c", "namespace": "far"}]);
    let listeners = json!([{"name": "l", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": secrets}}]);
    let maps = |names: &[&str]| {
        let map = |name: &&str| json!({"group": "", "kind": "ConfigMap", "name": name});
        let all: Vec<Value> = names.iter().map(map).collect();
        json!({"frontend": {"default": {"validation": {"caCertificateRefs": all}}}})
    };
    let planned_with = |maps: Value| {
        let mut gateway = gateway("g", listeners.clone());
        gateway.1["spec"]["tls"] = maps;
        planned(&[class(), gateway, secret("c", "a.test"), authorities("ca", &pem), authorities("empty", "")])
    };
    let status = |plan: &Plan| plan.statuses[&(Kind::Gateway, Key::new("n", "g"))].clone();

    // Certificates: the one that is there is shown, and what became of each of the others is told.
    let plan = planned_with(json!(null));
    let server = &plan.documents["gw.https.443"];
    assert_eq!(server["certs"].as_object().unwrap().len(), 1, "{server}");
    let conditions = &status(&plan)["listeners"][0]["conditions"];
    assert_eq!(
        told(conditions)[..3],
        ["Accepted=True/Accepted", "Programmed=True/Programmed", "ResolvedRefs=False/InvalidCertificateRef"]
    );
    let message = conditions[2]["message"].as_str().unwrap();
    assert!(message.contains("n/gone is not there") && message.contains("namespace far"), "{message}");
    assert_eq!(told(&status(&plan)["conditions"])[0], "Accepted=True/ListenersNotValid");

    // Authorities of clients: those that are there are believed, and nobody else is.
    let plan = planned_with(maps(&["gone", "ca", "empty"]));
    let server = &plan.documents["gw.https.443"];
    assert_eq!(server["caCertBase64"].as_str().unwrap().trim(), pem.trim());
    assert_eq!(told(&status(&plan)["listeners"][0]["conditions"])[0], "Accepted=True/Accepted");
    let plan = planned_with(maps(&["gone", "empty"]));
    assert!(!plan.documents.contains_key("gw.https.443"), "nobody could be believed");
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

/// No list of origins is none, and not all of them.
#[test]
fn cors_allows_the_origins_that_are_listed() {
    for (origins, wanted) in [(json!(null), json!([])), (json!([]), json!([])), (json!(["*"]), json!(["*"]))] {
        let cors = json!({"type": "CORS", "cors": {"allowOrigins": origins, "allowCredentials": true}});
        let rules = json!([{"backendRefs": to("s"), "filters": [cors]}]);
        let plan = planned(&[class(), gateway("g", http("")), service("s"), route("r", &[], rules)]);
        let made = &plan.documents["gw.http.n.r.0"]["filters"][0];
        assert_eq!((&made["allowedOrigins"], &made["full"]), (&wanted, &json!(true)), "{origins}");
    }
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
    let odd = json!({"type": "Teleport"});
    assert_eq!(of_route(&with(json!([mirror, odd])), Kind::HttpRoute, "r")[0], "Accepted=False/UnsupportedValue");
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
pub(crate) fn secret(name: &str, host: &str) -> (Kind, Value) {
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
fn tls_of_a_port_is_ended_for_some_names_and_passed_on_for_others() {
    let tls = |name: &str, hostname: &str, mode: &str| {
        let tls = json!({"mode": mode, "certificateRefs": [{"name": "c"}]});
        json!({"name": name, "port": 443, "protocol": "TLS", "hostname": hostname, "tls": tls})
    };
    let on = |name: &str, hosts: &[&str]| (Kind::TlsRoute, route(name, hosts, json!([{"backendRefs": to("s")}])).1);
    let of = |listeners: Value| {
        let plan = planned(&[
            class(),
            gateway("g", listeners),
            secret("c", "b.test"),
            service("s"),
            on("both", &["*.test"]),
            on("one", &["x.b.test"]),
        ]);
        let status = &plan.statuses[&(Kind::Gateway, Key::new("n", "g"))];
        for n in 0..2 {
            let conditions = told(&status["listeners"][n]["conditions"]);
            assert_eq!((&*conditions[0], &*conditions[3]), ("Accepted=True/Accepted", "Conflicted=False/NoConflicts"));
        }
        plan.documents["gw.tcp.443"].clone()
    };
    let document = of(json!([tls("on", "a.test", "Passthrough"), tls("ends", "*.b.test", "Terminate")]));
    assert_eq!((&document["tls"], document["certs"].as_object().unwrap().len()), (&json!("passthrough"), 1));
    let rule = |pool: &str, host: &str, tls: Option<&str>| match tls {
        Some(tls) => json!({"pool": pool, "sni": [host], "tls": tls}),
        None => json!({"pool": pool, "sni": [host]}),
    };
    let ends = Some("terminate");
    assert_eq!(
        document["rules"],
        json!([
            rule("n.one~other", "x.b.test", ends),
            rule("n.both", "a.test", None),
            rule("n.both~other", "*.b.test", ends)
        ])
    );
    // What no rule takes is as the listener for all names has it.
    let document = of(json!([tls("on", "a.test", "Passthrough"), tls("ends", "", "Terminate")]));
    assert_eq!(document["tls"], "terminate");
    assert_eq!(document["rules"][1], rule("n.both~other", "a.test", Some("passthrough")));
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

/// Its pools as well have servers that nobody else asks for.
#[test]
fn services_of_a_filter_are_asked_for_as_those_of_a_backend_are() {
    let with = |name: &str| {
        let extension = json!({"type": "ExtensionRef", "extensionRef": {"group": "easegress.megaease.com", "kind": "FilterSpec", "name": "mine"}});
        let mirror = "{serviceRegistry: consul, serviceName: orders, filter: {policy: random, permil: 9}}";
        let text = format!("pools: [{{serviceRegistry: gw, serviceName: '{name}'}}]\nmirrorPool: {mirror}");
        let spec = json!({"name": "f", "kind": "Proxy", "spec": text});
        planned(&[
            class(),
            gateway("g", http("")),
            service("s"),
            (Kind::FilterSpec, json!({"metadata": {"name": "mine", "namespace": "n"}, "spec": spec})),
            route("r", &[], json!([{"backendRefs": to("s"), "filters": [extension]}])),
        ])
    };
    let services: Vec<String> = with("n/t:80").services.into_iter().collect();
    assert_eq!(services, ["n/s:80", "n/t:80"]);
    // What is no service has no servers, and the route says so.
    let plan = with("orders");
    assert_eq!(of_route(&plan, Kind::HttpRoute, "r")[1], "ResolvedRefs=False/BackendNotFound");
    assert!(plan.services.is_empty(), "{:?}", plan.services);
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
    // What cannot be used has its share of the connections, which are refused; without anything else nobody listens.
    let shared = |backends: Value| {
        let listeners = json!([{"name": "tcp", "port": 5432, "protocol": "TCP"}]);
        let (_, mut route) = route("a", &[], json!([{"backendRefs": backends}]));
        route["spec"]["hostnames"] = json!([]);
        let more = [service("s"), service("empty"), slice("s", "10.0.0.1"), (Kind::TcpRoute, route)];
        let mut plan = planned(&[&[class(), gateway("g", listeners)][..], &more[..]].concat());
        plan.documents.remove("gw.tcp.5432").map(|document| document["pools"][0]["refusedPermil"].clone())
    };
    let backend = |name: &str, weight: i64| json!({"name": name, "port": 80, "weight": weight});
    assert_eq!(shared(json!([backend("s", 1)])), Some(Value::Null));
    assert_eq!(shared(json!([backend("s", 1), backend("gone", 3)])), Some(json!(750)));
    assert_eq!(shared(json!([backend("s", 1), backend("empty", 1)])), Some(json!(500)), "no endpoints are no backend");
    assert_eq!(shared(json!([backend("s", 1), backend("gone", 0)])), Some(Value::Null));
    assert_eq!(shared(json!([backend("gone", 1)])), None);
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
    assert_eq!(names, ["n.a", "n.c~rest", "n.b"]);
    // Where no route leads anywhere the port is open, and turns everybody away.
    let listeners = json!([{"name": "tls", "port": 443, "protocol": "TLS", "tls": passes}]);
    let plan = planned(&[class(), gateway("g", listeners.clone())]);
    assert_eq!(plan.documents["gw.tcp.443"]["rules"], json!([rule("~none", "none.invalid")]));
    // One that has no servers keeps its names, and refuses: no wider one gets what is meant for it.
    let (lost, wide) = (
        of(Kind::TlsRoute, "a", "tls", json!(["a.test"]), "none"),
        of(Kind::TlsRoute, "b", "tls", json!(["*.test"]), "s"),
    );
    let rest = of(Kind::TlsRoute, "c", "tls", json!([]), "s");
    let plan = planned(&[class(), gateway("g", listeners), service("s"), slice("s", "10.0.0.1"), lost, wide, rest]);
    let tls = &plan.documents["gw.tcp.443"];
    assert_eq!(tls["rules"], json!([rule("n.a", "a.test"), rule("n.b", "*.test")]));
    let refused = |name: &str| {
        tls["pools"].as_array().unwrap().iter().find(|pool| pool["name"] == name).unwrap()["refusedPermil"].clone()
    };
    assert_eq!((refused("n.a"), refused("n.b")), (json!(1000), Value::Null));
}

/// A route of another namespace, on a listener for every name, asks for a name of a narrower listener.
#[test]
fn names_of_one_tls_listener_are_not_served_by_routes_of_another() {
    let passes = json!({"mode": "Passthrough"});
    let tls = |name: &str, hostname: &str| json!({"name": name, "port": 443, "protocol": "TLS", "hostname": hostname, "tls": passes});
    let named = |name: &str, section: &str, hosts: Value| {
        let (_, mut value) = route(name, &[], json!([{"backendRefs": to("s")}]));
        value["spec"]["parentRefs"][0]["sectionName"] = json!(section);
        value["spec"]["hostnames"] = hosts;
        (Kind::TlsRoute, value)
    };
    let plan = planned(&[
        class(),
        gateway("g", json!([tls("any", ""), tls("bank", "*.bank.test")])),
        service("s"),
        named("evil", "any", json!(["pay.bank.test", "evil.test"])),
        named("rest", "any", json!([])),
    ]);
    let document = &plan.documents["gw.tcp.443"];
    let rule = |pool: &str, host: &str| json!({"pool": pool, "sni": [host]});
    assert_eq!(document["rules"], json!([rule("n.evil", "evil.test"), rule("~none", "*.bank.test")]));
    let told = plan.reports[&(Kind::TlsRoute, Key::new("n", "evil"))].lines().join("\n");
    assert!(told.contains("\"pay.bank.test\" is of another listener"), "{told}");
}

/// The oldest route of a port has it, also where it has no servers: another tenant does not get what is meant for it.
#[test]
fn a_route_without_servers_leaves_its_port_to_nobody() {
    let listeners = json!([{"name": "tcp", "port": 5432, "protocol": "TCP"}]);
    let of = |name: &str, service: &str| {
        let (_, mut value) = route(name, &[], json!([{"backendRefs": to(service)}, {"backendRefs": to(service)}]));
        value["spec"]["hostnames"] = json!([]);
        (Kind::TcpRoute, value)
    };
    let labels = json!({"kubernetes.io/service-name": "s"});
    let slice = json!({"metadata": {"name": "s", "namespace": "n", "labels": labels}, "addressType": "IPv4",
        "ports": [{"name": "web", "port": 8080}], "endpoints": [{"addresses": ["10.0.0.1"]}]});
    let plan = planned(&[
        class(),
        gateway("g", listeners),
        service("s"),
        service("t"),
        (Kind::EndpointSlice, slice),
        of("a", "t"),
        of("b", "s"),
    ]);
    assert!(!plan.documents.contains_key("gw.tcp.5432"), "{:?}", plan.documents["gw.tcp.5432"]);
    let told = plan.reports[&(Kind::TcpRoute, Key::new("n", "a"))].lines().join("\n");
    assert!(told.contains("the first has them all"), "{told}");
}

/// Takes everything but servers with a pattern that is none.
struct Patterns;

impl Check for Patterns {
    fn check(&mut self, document: &Value) -> Result<(), String> {
        let bad = |text: &str| text.contains("\"^(?:/()$\"") || text.contains("\"^(?:()$\"");
        if document["kind"] == "HTTPServer" && bad(&document.to_string()) {
            Err("an open group".to_owned())
        } else {
            Ok(())
        }
    }
}

#[test]
fn a_pattern_that_is_none_is_its_routes_alone() {
    let good = route("a", &["a.test"], json!([{"backendRefs": to("s")}]));
    for matched in [
        json!({"path": {"type": "RegularExpression", "value": "/("}}),
        json!({"headers": [{"type": "RegularExpression", "name": "x", "value": "("}]}),
        json!({"queryParams": [{"type": "RegularExpression", "name": "x", "value": "("}]}),
    ] {
        let bad = route("b", &["b.test"], json!([{"matches": [matched], "backendRefs": to("s")}]));
        let objects = [class(), gateway("g", http("")), service("s"), good.clone(), bad];
        let settings = Settings { name: "gw", addresses: SHARED, shared: &[], now: "2026-01-01T00:00:00Z" };
        let plan = plan(&store(&objects), settings, &mut Patterns);
        assert!(routes(&plan, "gw.http.80").contains(&"a.test / -> gw.http.n.a.0".to_owned()), "{matched}");
        assert_eq!(of_route(&plan, Kind::HttpRoute, "b")[0], "Accepted=False/UnsupportedValue");
        assert_eq!(of_route(&plan, Kind::HttpRoute, "a")[0], "Accepted=True/Accepted");
        assert!(plan.refused.is_empty());
    }
}

/// Takes no servers.
struct NoServers;

impl Check for NoServers {
    fn check(&mut self, document: &Value) -> Result<(), String> {
        let is_route = document["name"].as_str().is_some_and(|name| name.starts_with("routes."));
        if document["kind"] == "Pipeline" || is_route { Ok(()) } else { Err("no".to_owned()) }
    }
}

#[test]
fn a_server_that_cannot_be_made_stays_as_it_was_and_its_listeners_say_so() {
    let listeners = json!([{"name": "http", "port": 80, "protocol": "HTTP"}]);
    let objects = [class(), gateway("g", listeners), service("s"), route("a", &[], json!([{"backendRefs": to("s")}]))];
    let settings =
        Settings { name: "gw", addresses: SHARED, shared: &["192.0.2.1".to_owned()], now: "2026-01-01T00:00:00Z" };
    let plan = plan(&store(&objects), settings, &mut NoServers);
    assert_eq!(plan.refused.iter().collect::<Vec<_>>(), ["gw.http.80"]);
    let status = &plan.statuses[&(Kind::Gateway, Key::new("n", "g"))];
    assert_eq!(told(&status["listeners"][0]["conditions"])[1], "Programmed=False/Invalid");
    assert!(status["listeners"][0]["conditions"][1]["message"].as_str().unwrap().contains("as it was before"));
}

#[test]
fn a_gateway_that_is_not_accepted_takes_no_place_and_no_routes() {
    let (kind, mut dead) = gateway("f", http("a.test"));
    dead["spec"]["infrastructure"] = json!({"parametersRef": {"group": "x", "kind": "y", "name": "z"}});
    let (_, mut lost) = route("lost", &[], json!([{"backendRefs": to("s")}]));
    lost["spec"]["parentRefs"] = json!([{"name": "f"}]);
    let plan = planned(&[
        class(),
        (kind, dead),
        gateway("g", http("a.test")),
        service("s"),
        (Kind::HttpRoute, lost),
        route("r", &[], json!([{"backendRefs": to("s")}])),
    ]);
    let of = |name: &str| told(&plan.statuses[&(Kind::Gateway, Key::new("n", name))]["conditions"]);
    assert_eq!(
        (of("f")[0].as_str(), of("g")[0].as_str()),
        ("Accepted=False/InvalidParameters", "Accepted=True/Accepted")
    );
    assert_eq!(of_route(&plan, Kind::HttpRoute, "lost")[0], "Accepted=False/NoMatchingParent");
    assert_eq!(of_route(&plan, Kind::HttpRoute, "r")[0], "Accepted=True/Accepted");
    assert!(routes(&plan, "gw.http.80").contains(&"a.test / -> gw.http.n.r.0".to_owned()));
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
            "m.test /login|/login/ -> gw.http.m.theft.0",
            "m.test / -> gw.404",
            "shop.test / -> gw.http.n.own.0",
            "shop.test / -> gw.404",
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

fn listener_set(name: &str, namespace: &str, listeners: Value) -> (Kind, Value) {
    let metadata =
        json!({"name": name, "namespace": namespace, "generation": 2, "creationTimestamp": format!("2026-{name}")});
    let parent = json!({"name": "g", "namespace": "n"});
    (Kind::ListenerSet, json!({"metadata": metadata, "spec": {"parentRef": parent, "listeners": listeners}}))
}

fn letting_in(from: &str) -> (Kind, Value) {
    let (kind, mut gateway) = gateway("g", http("gateway.test"));
    gateway["spec"]["allowedListeners"] = json!({"namespaces": {"from": from}});
    (kind, gateway)
}

fn one(name: &str, port: i64, protocol: &str, hostname: &str) -> Value {
    json!({"name": name, "port": port, "protocol": protocol, "hostname": hostname})
}

fn of_set(plan: &Plan, namespace: &str, name: &str) -> Vec<String> {
    told(&plan.statuses[&(Kind::ListenerSet, Key::new(namespace, name))]["conditions"])
}

#[test]
fn listener_sets_add_listeners_where_the_gateway_lets_them() {
    let set = |namespace: &str| listener_set("1", namespace, json!([one("http", 80, "HTTP", "set.test")]));
    for (from, own, other) in [("", false, false), ("None", false, false), ("Same", true, false), ("All", true, true)] {
        let gateway = if from.is_empty() { gateway("g", http("gateway.test")) } else { letting_in(from) };
        let plan = planned(&[class(), gateway, set("n"), set("m")]);
        for (namespace, allowed) in [("n", own), ("m", other)] {
            let wanted = match (allowed, namespace, from) {
                // Of two for the same hosts the one of the first name has them.
                (true, "n", "All") => ["Accepted=False/ListenersNotValid", "Programmed=False/ListenersNotValid"],
                (true, ..) => ["Accepted=True/Accepted", "Programmed=True/Programmed"],
                (false, ..) => ["Accepted=False/NotAllowed", "Programmed=False/NotAllowed"],
            };
            assert_eq!(of_set(&plan, namespace, "1"), wanted, "{from} {namespace}");
        }
        let status = &plan.statuses[&(Kind::Gateway, Key::new("n", "g"))];
        assert_eq!(status["attachedListenerSets"], i32::from(own || other), "{from}");
        assert_eq!(status["listeners"].as_array().unwrap().len(), 1, "those of sets are told of in theirs");
    }
}

#[test]
fn routes_name_the_gateway_or_a_set_and_get_the_listeners_of_that() {
    let parent = |parent: Value, path: &str, name: &str| {
        let (kind, mut route) = route(name, &[], json!([{"matches": prefix(path), "backendRefs": to("s")}]));
        route["spec"]["parentRefs"] = json!([parent]);
        (kind, route)
    };
    let to_set = json!({"kind": "ListenerSet", "name": "1", "sectionName": "http"});
    let plan = planned(&[
        class(),
        letting_in("Same"),
        listener_set("1", "n", json!([one("http", 80, "HTTP", "set.test"), one("other", 80, "HTTP", "other.test")])),
        service("s"),
        parent(json!({"name": "g"}), "/gateway", "a"),
        parent(to_set.clone(), "/set", "b"),
        parent(json!({"name": "g", "sectionName": "other"}), "/none", "c"),
    ]);
    assert_eq!(
        routes(&plan, "gw.http.80"),
        [
            "gateway.test /gateway|/gateway/ -> gw.http.n.a.0",
            "gateway.test / -> gw.404",
            "other.test / -> gw.404",
            "set.test /set|/set/ -> gw.http.n.b.0",
            "set.test / -> gw.404",
        ]
    );
    assert_eq!(of_route(&plan, Kind::HttpRoute, "b")[0], "Accepted=True/Accepted");
    let reference = &plan.statuses[&(Kind::HttpRoute, Key::new("n", "b"))]["parents"][0]["parentRef"];
    assert_eq!(reference, &json!({"group": GROUP, "kind": "ListenerSet", "name": "1", "sectionName": "http"}));
    assert_eq!(of_route(&plan, Kind::HttpRoute, "c")[0], "Accepted=False/NoMatchingParent", "a set's, by the Gateway");
    let set = &plan.statuses[&(Kind::ListenerSet, Key::new("n", "1"))]["listeners"];
    assert_eq!((&set[0]["attachedRoutes"], &set[1]["attachedRoutes"]), (&json!(1), &json!(0)));
    assert_eq!(plan.statuses[&(Kind::Gateway, Key::new("n", "g"))]["listeners"][0]["attachedRoutes"], 1);
    let plan = planned(&[
        class(),
        letting_in("None"),
        listener_set("1", "n", json!([])),
        service("s"),
        parent(to_set, "/", "b"),
    ]);
    assert_eq!(of_route(&plan, Kind::HttpRoute, "b")[0], "Accepted=False/NoMatchingParent", "of a set that may not");
}

#[test]
fn the_gateway_has_a_place_before_its_sets_and_an_older_set_before_a_younger_one() {
    let plan = planned(&[
        class(),
        letting_in("Same"),
        listener_set(
            "1",
            "n",
            json!([one("a", 80, "HTTP", "gateway.test"), one("b", 80, "TCP", ""), one("c", 80, "HTTP", "c.test")]),
        ),
        // What was refused stands in nobody's way.
        listener_set("2", "n", json!([one("a", 80, "HTTP", "C.test"), one("b", 80, "HTTP", "b.test")])),
        listener_set("3", "n", json!([one("a", 80, "HTTP", "b.test")])),
    ]);
    let of = |set: &str, n: usize| {
        told(&plan.statuses[&(Kind::ListenerSet, Key::new("n", set))]["listeners"][n]["conditions"])
    };
    let conflict = |reason: &str| {
        vec![
            format!("Accepted=False/{reason}"),
            format!("Programmed=False/{reason}"),
            "ResolvedRefs=True/ResolvedRefs".to_owned(),
            format!("Conflicted=True/{reason}"),
        ]
    };
    assert_eq!(of("1", 0), conflict("HostnameConflict"));
    assert_eq!(of("1", 1), conflict("ProtocolConflict"));
    assert_eq!(of("1", 2)[1], "Programmed=True/Programmed");
    assert_eq!(of("2", 0), conflict("HostnameConflict"));
    assert_eq!(of("2", 1)[1], "Programmed=True/Programmed");
    assert_eq!(of_set(&plan, "n", "1"), ["Accepted=True/ListenersNotValid", "Programmed=True/Programmed"]);
    assert_eq!(of_set(&plan, "n", "3"), ["Accepted=False/ListenersNotValid", "Programmed=False/ListenersNotValid"]);
    let gateway = &plan.statuses[&(Kind::Gateway, Key::new("n", "g"))];
    assert_eq!(gateway["attachedListenerSets"], 2);
    assert_eq!(told(&gateway["conditions"])[0], "Accepted=True/Accepted", "whatever its sets are");
}

#[test]
fn a_set_uses_secrets_of_its_own_namespace() {
    let mut listener = one("https", 443, "HTTPS", "set.test");
    listener["tls"] = json!({"certificateRefs": [{"name": "c", "namespace": "n"}]});
    let plan = planned(&[class(), letting_in("All"), listener_set("1", "m", json!([listener]))]);
    let status = &plan.statuses[&(Kind::ListenerSet, Key::new("m", "1"))]["listeners"][0];
    assert_eq!(told(&status["conditions"])[2], "ResolvedRefs=False/RefNotPermitted");
    assert!(status["conditions"][2]["message"].as_str().unwrap().contains("lets a ListenerSet of m"), "{status}");
}

fn authorities(name: &str, text: &str) -> (Kind, Value) {
    (Kind::ConfigMap, json!({"metadata": {"name": name, "namespace": "n"}, "data": {"ca.crt": text, "other": "x"}}))
}

fn policy(name: &str, section: Option<&str>, validation: Value) -> (Kind, Value) {
    let mut target = json!({"group": "", "kind": "Service", "name": "s"});
    if let Some(section) = section {
        target["sectionName"] = json!(section);
    }
    let metadata =
        json!({"name": name, "namespace": "n", "generation": 4, "creationTimestamp": format!("2026-{name}")});
    (Kind::BackendTlsPolicy, json!({"metadata": metadata, "spec": {"targetRefs": [target], "validation": validation}}))
}

fn of_policy(plan: &Plan, name: &str) -> Vec<String> {
    let ancestors = &plan.statuses[&(Kind::BackendTlsPolicy, Key::new("n", name))]["ancestors"];
    assert_eq!(ancestors[0]["ancestorRef"], json!({"group": GROUP, "kind": "Gateway", "namespace": "n", "name": "g"}));
    told(&ancestors[0]["conditions"])
}

#[test]
fn services_with_a_policy_are_spoken_to_over_tls_as_it_says() {
    let pem = rcgen::generate_simple_self_signed(vec!["ca.test".to_owned()]).unwrap().cert.pem();
    let believing = |hostname: &str| json!({"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}], "hostname": hostname});
    let mut named = believing("s.test");
    named["subjectAltNames"] =
        json!([{"type": "URI", "uri": "spiffe://x/s"}, {"type": "Hostname", "hostname": "t.test"}]);
    let plan_of = |policies: &[(Kind, Value)]| {
        let rules = json!([{"backendRefs": [{"name": "s", "port": 80}, {"name": "t", "port": 80, "weight": 3}]}]);
        let mut objects = vec![
            class(),
            gateway("g", http("")),
            service("s"),
            service("t"),
            authorities("ca", &pem),
            authorities("no", "x"),
            route("r", &[], rules),
        ];
        objects.extend(policies.iter().cloned());
        planned(&objects)
    };
    let proxies = |plan: &Plan| -> Vec<Value> {
        let filters = plan.documents["gw.http.n.r.0"]["filters"].as_array().unwrap();
        filters.iter().filter(|filter| filter["kind"] == "Proxy").cloned().collect()
    };
    let plan = plan_of(&[policy("1", None, named)]);
    let [first, second] = &proxies(&plan)[..] else { panic!("{:?}", plan.documents) };
    assert_eq!(first["mtls"]["rootCertBase64"].as_str().unwrap().trim(), pem.trim());
    assert_eq!(
        (&first["mtls"]["serverName"], &first["mtls"]["subjectAltNames"]),
        (&json!("s.test"), &json!(["spiffe://x/s", "t.test"]))
    );
    assert_eq!(first["pools"][0]["serviceName"], "https://n/s:80");
    assert!(plan.services.contains("https://n/s:80"));
    assert_eq!((&second["pools"][0]["serviceName"], second.get("mtls")), (&json!("n/t:80"), None));
    assert_eq!(of_policy(&plan, "1"), ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs"]);

    // The older one has it, and one for a port goes before one for all of them.
    let plan = plan_of(&[policy("1", None, believing("old.test")), policy("2", None, believing("new.test"))]);
    assert_eq!(proxies(&plan)[0]["mtls"]["serverName"], "old.test");
    assert_eq!(of_policy(&plan, "2")[0], "Accepted=False/Conflicted");
    let plan = plan_of(&[policy("1", None, believing("all.test")), policy("2", Some("web"), believing("web.test"))]);
    assert_eq!(proxies(&plan)[0]["mtls"]["serverName"], "web.test");
    assert_eq!(of_policy(&plan, "2")[0], "Accepted=True/Accepted");

    // Of what cannot be believed nothing is spoken, in the clear least of all.
    let referring = |kind: &str, name: &str| json!({"caCertificateRefs": [{"group": "", "kind": kind, "name": name}], "hostname": "s.test"});
    for (validation, wanted) in [
        (
            referring("ConfigMap", "gone"),
            ["Accepted=False/NoValidCACertificate", "ResolvedRefs=False/InvalidCACertificateRef"],
        ),
        (
            referring("ConfigMap", "no"),
            ["Accepted=False/NoValidCACertificate", "ResolvedRefs=False/InvalidCACertificateRef"],
        ),
        (referring("Secret", "ca"), ["Accepted=False/NoValidCACertificate", "ResolvedRefs=False/InvalidKind"]),
        (
            json!({"wellKnownCACertificates": "a.test/other", "hostname": "s.test"}),
            ["Accepted=False/Invalid", "ResolvedRefs=True/ResolvedRefs"],
        ),
    ] {
        let plan = plan_of(&[policy("1", None, validation)]);
        assert_eq!(of_policy(&plan, "1"), wanted);
        let filters = &plan.documents["gw.http.n.r.0"]["filters"];
        assert!(filters.as_array().unwrap().iter().any(|filter| filter["name"] == "refused"), "{filters}");
        assert!(!plan.services.iter().any(|service| service.contains("n/s:")), "{:?}", plan.services);
    }
    let plan = plan_of(&[policy("1", None, json!({"wellKnownCACertificates": "System", "hostname": "s.test"}))]);
    assert_eq!(proxies(&plan)[0]["mtls"], json!({"serverName": "s.test"}));
}

#[test]
fn a_policy_that_another_one_stands_in_the_way_of_is_in_force_nowhere() {
    let about = |name: &str, services: &[(&str, Option<&str>)]| {
        let hostname = format!("{name}.test");
        let mut policy = policy(name, None, json!({"wellKnownCACertificates": "System", "hostname": hostname}));
        let target = |(service, port): &(&str, Option<&str>)| json!({"group": "", "kind": "Service", "name": service, "sectionName": port});
        policy.1["spec"]["targetRefs"] = services.iter().map(target).collect();
        policy
    };
    let rules = json!([{"backendRefs": to("s")}, {"backendRefs": to("t")}]);
    let of = |policies: &[(Kind, Value)]| {
        let mut objects =
            vec![class(), gateway("g", http("")), service("s"), service("t"), route("r", &[], rules.clone())];
        objects.extend(policies.iter().cloned());
        let plan = planned(&objects);
        let believed = |rule: &str| {
            let document = plan.documents.get(&format!("gw.http.n.r.{rule}"))?;
            let filters = document["filters"].as_array().unwrap();
            let proxy = filters.iter().find(|filter| filter["kind"] == "Proxy")?;
            Some(proxy["mtls"]["serverName"].as_str().unwrap_or("in the clear").to_owned())
        };
        let accepted = |name: &str| of_policy(&plan, name)[0].clone();
        (
            [believed("0"), believed("1")],
            policies.iter().map(|(_, p)| accepted(p["metadata"]["name"].as_str().unwrap())).collect::<Vec<_>>(),
        )
    };
    let (yes, no) = ("Accepted=True/Accepted".to_owned(), "Accepted=False/Conflicted".to_owned());
    let name = |name: &str| Some(format!("{name}.test"));
    // The second is about both, and the first has one of them: the other one is not spoken to, neither as it says nor in the clear.
    let (first, second) = (about("1", &[("s", None)]), about("2", &[("s", None), ("t", None)]));
    assert_eq!(of(&[first.clone(), second.clone()]), ([name("1"), None], vec![yes.clone(), no.clone()]));
    // It keeps nobody else from what it has not got.
    let third = about("3", &[("t", None)]);
    assert_eq!(
        of(&[first.clone(), second, third]),
        ([name("1"), name("3")], vec![yes.clone(), no.clone(), yes.clone()])
    );
    // What is about all ports goes for those whose own policy is in force nowhere.
    let [second, third] = [about("2", &[("t", None)]), about("3", &[("s", Some("web")), ("t", None)])];
    assert_eq!(of(&[first, second, third]), ([name("1"), name("2")], vec![yes.clone(), yes, no]));
}

#[test]
fn hosts_of_listeners_are_kept_apart_and_clients_are_believed_by_port() {
    let pem = rcgen::generate_simple_self_signed(vec!["ca.test".to_owned()]).unwrap().cert.pem();
    let https = |name: &str, port: i64, hostname: &str| {
        let mut listener = one(name, port, "HTTPS", hostname);
        listener["tls"] = json!({"certificateRefs": [{"name": "c"}]});
        listener
    };
    let referring = |kind: &str, name: &str| json!({"validation": {"caCertificateRefs": [{"group": "", "kind": kind, "name": name}]}});
    let made = |listeners: Value, frontend: Value| {
        let mut gateway = gateway("g", listeners);
        gateway.1["spec"]["tls"] = json!({"frontend": frontend});
        planned(&[class(), gateway, secret("c", "a.test"), authorities("ca", &pem)])
    };
    let two = json!([https("any", 443, ""), https("one", 443, "A.test"), https("other", 8443, "")]);
    let plan = made(two.clone(), json!(null));
    let server = &plan.documents["gw.https.443"];
    assert_eq!((&server["tlsHosts"], server.get("caCertBase64")), (&json!(["*", "a.test"]), None));
    assert_eq!(plan.documents["gw.https.8443"].get("tlsHosts"), None, "there is nothing to keep apart");

    let open = json!({"validation": {"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}], "mode": "AllowInsecureFallback"}});
    let conditions = |plan: &Plan, listener: usize| {
        let status = &plan.statuses[&(Kind::Gateway, Key::new("n", "g"))];
        (told(&status["conditions"]), told(&status["listeners"][listener]["conditions"]))
    };
    let plan =
        made(two.clone(), json!({"default": referring("ConfigMap", "ca"), "perPort": [{"port": 8443, "tls": open}]}));
    assert_eq!(plan.documents["gw.https.443"]["caCertBase64"].as_str().unwrap().trim(), pem.trim());
    assert_eq!(plan.documents["gw.https.8443"].get("caCertBase64"), None);
    assert_eq!(conditions(&plan, 0).0[2], "InsecureFrontendValidationMode=True/ConfigurationChanged");

    // Where no client could be believed none is let in, and other ports are served.
    for (kind, name, reason) in
        [("ConfigMap", "gone", "InvalidCACertificateRef"), ("Service", "ca", "InvalidCACertificateKind")]
    {
        let per_port = json!([{"port": 8443, "tls": referring("ConfigMap", "ca")}]);
        let plan = made(two.clone(), json!({"default": referring(kind, name), "perPort": per_port}));
        let (gateway, listener) = conditions(&plan, 0);
        assert_eq!(
            (&*listener[0], &*listener[2], gateway.len()),
            ("Accepted=False/NoValidCACertificate", &*format!("ResolvedRefs=False/{reason}"), 2)
        );
        assert!(!plan.documents.contains_key("gw.https.443") && plan.documents.contains_key("gw.https.8443"));
    }

    // Gateways that share a port let in the same clients: the younger one has not got the port otherwise.
    let mut asking = gateway("g", json!([https("one", 443, "a.test")]));
    asking.1["spec"]["tls"] = json!({"frontend": {"default": referring("ConfigMap", "ca")}});
    let plan = planned(&[
        class(),
        asking,
        gateway("h", json!([https("two", 443, "b.test")])),
        secret("c", "a.test"),
        authorities("ca", &pem),
    ]);
    let younger = &plan.statuses[&(Kind::Gateway, Key::new("n", "h"))]["listeners"][0];
    assert_eq!(told(&younger["conditions"])[3], "Conflicted=True/ProtocolConflict");
    assert!(plan.documents["gw.https.443"]["caCertBase64"].is_string());
}

#[test]
fn a_gateway_shows_its_certificate_to_servers_that_are_spoken_to_over_tls() {
    let naming = |name: &str, reference: Value| {
        let mut gateway = gateway(name, http(name));
        gateway.1["spec"]["tls"] = json!({"backend": {"clientCertificateRef": reference}});
        gateway
    };
    let believing = policy("1", None, json!({"wellKnownCACertificates": "System", "hostname": "s.test"}));
    let rules = json!([{"backendRefs": [{"name": "s", "port": 80}, {"name": "t", "port": 80}]}]);
    let mut both = route("r", &[], rules);
    both.1["spec"]["parentRefs"] = json!([{"name": "g"}, {"name": "h"}]);
    let of = |reference: Value| {
        planned(&[
            class(),
            naming("g", reference),
            gateway("h", http("h")),
            secret("own", "gateway.test"),
            service("s"),
            service("t"),
            believing.clone(),
            both.clone(),
        ])
    };
    let proxies = |plan: &Plan, name: &str| -> Vec<Value> {
        let filters = plan.documents[name]["filters"].as_array().unwrap();
        filters.iter().filter(|filter| filter["kind"] == "Proxy").map(|proxy| proxy["mtls"].clone()).collect()
    };
    let plan = of(json!({"name": "own"}));
    assert_eq!(
        routes(&plan, "gw.http.80")[..3],
        ["g / -> gw.http.n.r.0~n.own", "g / -> gw.404", "h / -> gw.http.n.r.0"]
    );
    let [shown, clear] = &proxies(&plan, "gw.http.n.r.0~n.own")[..] else { panic!("{:?}", plan.documents) };
    assert!(shown["certBase64"].is_string() && shown["keyBase64"].is_string(), "{shown}");
    assert_eq!((&shown["serverName"], clear), (&json!("s.test"), &Value::Null));
    assert_eq!(proxies(&plan, "gw.http.n.r.0")[0], json!({"serverName": "s.test"}), "another Gateway shows none");
    let of_gateway =
        |plan: &Plan, name: &str| told(&plan.statuses[&(Kind::Gateway, Key::new("n", name))]["conditions"]);
    assert_eq!(of_gateway(&plan, "g")[2..], ["ResolvedRefs=True/ResolvedRefs"]);
    assert_eq!(of_gateway(&plan, "h").len(), 2);
    for (reference, reason) in [
        (json!({"name": "gone"}), "InvalidClientCertificateRef"),
        (json!({"name": "own", "kind": "ConfigMap"}), "InvalidClientCertificateRef"),
        (json!({"name": "own", "namespace": "far"}), "RefNotPermitted"),
    ] {
        let plan = of(reference);
        assert_eq!(of_gateway(&plan, "g")[0], "Accepted=True/Accepted");
        assert_eq!(of_gateway(&plan, "g")[2], format!("ResolvedRefs=False/{reason}"));
        assert_eq!(proxies(&plan, "gw.http.n.r.0")[0], json!({"serverName": "s.test"}), "servers decide");
    }
}

#[test]
fn a_gateway_has_the_addresses_that_it_asks_for() {
    let asking = |addresses: Value| {
        let mut gateway = gateway("g", http(""));
        gateway.1["spec"]["addresses"] = addresses;
        let known = ["192.0.2.5", "192.0.2.6", "2001:db8::a"].map(str::to_owned);
        let settings =
            Settings { name: "gw", addresses: &known, shared: &["192.0.2.1".to_owned()], now: "2026-01-01T00:00:00Z" };
        let plan = plan(&store(&[class(), gateway]), settings, &mut Checked);
        let status = plan.statuses[&(Kind::Gateway, Key::new("n", "g"))].clone();
        let values = status["addresses"].as_array().unwrap().iter().map(|address| address["value"].as_str().unwrap());
        let values: Vec<String> = values.map(str::to_owned).collect();
        let servers: Vec<String> = plan.documents.keys().filter(|name| name.contains(".http.")).cloned().collect();
        (told(&status["conditions"]).join(" "), values.join(" "), servers.join(" "))
    };
    let (well, accepted) = ("Accepted=True/Accepted Programmed=True/Programmed", "Accepted=True/Accepted");
    let unusable = format!("{accepted} Programmed=False/AddressNotUsable");
    let both = "gw.http.192-0-2-5.80 gw.http.192-0-2-6.80";
    for (addresses, wanted) in [
        (json!([{"value": "192.0.2.6"}]), (well, "192.0.2.6", "gw.http.192-0-2-6.80")),
        (json!([{"value": "192.0.2.6"}, {"value": "192.0.2.5"}]), (well, "192.0.2.6 192.0.2.5", both)),
        (json!([{"type": "IPAddress"}]), (well, "192.0.2.5", "gw.http.192-0-2-5.80")),
        // However an IPv6 address is written.
        (
            json!([{"value": "2001:DB8:0:0::A"}, {"value": "2001:db8::a"}]),
            (well, "2001:db8::a", "gw.http.2001-db8--a.80"),
        ),
        (json!([{"value": "192.0.2.1"}]), (well, "192.0.2.1", "gw.http.192-0-2-1.80")),
        // What can be had is served; where nothing of it can be had, nothing is.
        (json!([{"value": "192.0.2.9"}, {"value": "192.0.2.6"}]), (&*unusable, "192.0.2.6", "gw.http.192-0-2-6.80")),
        (json!([{"value": "192.0.2.9"}]), (&*unusable, "", "")),
        (
            json!([{"value": "192.0.2.6"}, {"type": "test/odd", "value": "x"}]),
            ("Accepted=False/UnsupportedAddress Programmed=False/Invalid", "", ""),
        ),
    ] {
        let (conditions, values, servers) = asking(addresses.clone());
        assert_eq!((&*conditions, &*values, &*servers), wanted, "{addresses}");
    }
}

#[test]
fn copies_go_to_each_mirror_of_a_rule() {
    let mirror =
        |name: &str| json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": name, "port": 80}}});
    let rules = json!([{"backendRefs": to("s"), "filters": [mirror("t"), mirror("u"), mirror("v")]}]);
    let services = ["s", "t", "u", "v"].map(service);
    let plan = planned(&[&[class(), gateway("g", http("")), route("r", &[], rules)][..], &services].concat());
    let proxy = &plan.documents["gw.http.n.r.0"]["filters"][0];
    assert_eq!(proxy["mirrorPool"]["serviceName"], "n/t:80");
    let further: Vec<&Value> =
        proxy["mirrorPools"].as_array().unwrap().iter().map(|pool| &pool["serviceName"]).collect();
    assert_eq!(further, ["n/u:80", "n/v:80"]);
}

mod again;
mod definitions;

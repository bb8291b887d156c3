use super::*;
use crate::reflect::Heard;
use crate::report::Grade;
use crate::store::tests::{everywhere, object};
use crate::{Kind, Object};
use base_model::pipeline::FilterKinds;

/// Takes every filter, and looks at servers as whoever serves them does.
pub(crate) struct Checked;

struct Filters;

impl FilterKinds for Filters {
    fn results(&self, _: &str) -> Option<Vec<&'static str>> {
        Some(vec!["failureCode", "timeout", "result0", "rejected"])
    }

    fn kinds(&self) -> Vec<&'static str> {
        vec!["Mock"]
    }
}

impl Check for Checked {
    fn check(&mut self, document: &Value) -> Result<(), String> {
        base_model::Object::admit(document, &Filters, std::time::SystemTime::now(), |_| None)
            .map(|_| ())
            .map_err(|problems| base_model::problem::render(&problems))
    }
}

pub(super) fn settings() -> Settings<'static> {
    Settings { name: "ing", class: "easegress", https_port: Some(443) }
}

pub(crate) fn store(objects: &[(Kind, Value)]) -> Store {
    let mut store = Store::default();
    for (kind, value) in objects {
        store.hear(&everywhere(*kind), Heard::Put(object(*kind, value.clone())));
    }
    store
}

pub(crate) fn service(name: &str) -> (Kind, Value) {
    let spec = json!({"ports": [{"port": 80, "name": "web"}]});
    (Kind::Service, json!({"metadata": {"name": name, "namespace": "n"}, "spec": spec}))
}

pub(super) fn path(path: &str, path_type: &str, service: &str) -> Value {
    json!({"path": path, "pathType": path_type, "backend": {"service": {"name": service, "port": {"number": 80}}}})
}

/// Created in the `minute`.
pub(super) fn ingress(name: &str, minute: u32, annotations: Value, rules: &[(&str, Vec<Value>)]) -> (Kind, Value) {
    let rules: Vec<Value> = rules.iter().map(|(host, paths)| json!({"host": host, "http": {"paths": paths}})).collect();
    let metadata = json!({"name": name, "namespace": "n", "annotations": annotations,
                          "creationTimestamp": format!("2026-01-01T00:{minute:02}:00Z")});
    (Kind::Ingress, json!({"metadata": metadata, "spec": {"ingressClassName": "easegress", "rules": rules}}))
}

pub(super) fn planned(objects: &[(Kind, Value)]) -> Plan {
    plan(&store(objects), settings(), &BTreeMap::new, &mut Checked, &mut Known::default())
}

/// `HOST PATH -> BACKEND`, in the order they are looked at.
fn routes(rules: &Rules) -> Vec<String> {
    let mut told = Vec::new();
    for rule in rules.values().map(Kept::read) {
        let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let host = text(&rule, "host") + &text(&rule, "hostRegexp");
        for path in rule["paths"].as_array().unwrap() {
            let parts = ["path", "pathPrefix", "pathRegexp"].map(|name| text(path, name));
            let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            let to = path["rewriteTarget"].as_str().map(|to| format!(" => {to}")).unwrap_or_default();
            told.push(format!("{host} {}{to} -> {}", parts.join("|"), path["backend"].as_str().unwrap()));
        }
    }
    told
}

fn told(plan: &Plan, name: &str) -> String {
    plan.reports[&(Kind::Ingress, Key::new("n", name))].lines().join("\n")
}

/// Whoever may write a secret may write one for any name.
#[test]
fn a_certificate_of_another_namespace_is_not_shown_for_a_host() {
    use base64::Engine;
    let secret = |namespace: &str, hosts: &[&str]| {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let pair = rcgen::generate_simple_self_signed(hosts).unwrap();
        let text = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
        let data = json!({"tls.crt": text(pair.cert.pem()), "tls.key": text(pair.signing_key.serialize_pem())});
        (
            Kind::Secret,
            json!({"metadata": {"name": "c", "namespace": namespace}, "type": "kubernetes.io/tls", "data": data}),
        )
    };
    let of = |namespace: &str, minute: u32, host: &str| {
        let mut ingress = ingress("i", minute, json!({}), &[(host, vec![path("/", "Prefix", "s")])]);
        ingress.1["metadata"]["namespace"] = json!(namespace);
        ingress.1["spec"]["tls"] = json!([{"hosts": [host], "secretName": "c"}]);
        ingress
    };
    let plan = planned(&[
        of("a", 1, "a.test"),
        secret("a", &["a.test", "shop.test"]),
        of("shop", 2, "shop.test"),
        secret("shop", &["shop.test"]),
    ]);
    assert_eq!(plan.certificates.keys().collect::<Vec<_>>(), ["shop/c", "~a/c"]);
    let told = plan.reports[&(Kind::Ingress, Key::new("a", "i"))].lines().join("\n");
    assert!(told.contains("secret a/c is for a.test, shop.test, of which another ingress has one"), "{told}");
}

#[test]
fn the_longest_path_is_first_and_an_exact_one_before_a_prefix() {
    let paths = vec![
        path("/", "Prefix", "root"),
        path("/foo", "Prefix", "prefix"),
        path("/foo", "Exact", "exact"),
        path("/foo/bar/", "Prefix", "deep"),
        path("", "ImplementationSpecific", "root"),
    ];
    let objects = ["root", "prefix", "exact", "deep"].map(service);
    let mut objects = objects.to_vec();
    objects.push(ingress("a", 1, json!({}), &[("Shop.test", paths)]));
    let plan = planned(&objects);
    assert_eq!(
        routes(&plan.rules)[..5],
        [
            "shop.test /foo/bar|/foo/bar/ -> ing.n.deep.80",
            "shop.test /foo -> ing.n.exact.80",
            "shop.test /foo|/foo/ -> ing.n.prefix.80",
            "shop.test / -> ing.n.root.80",
            "shop.test / -> ing.404",
        ]
    );
    assert!(
        told(&plan, "a").contains("paths[4] is refused: this ingress has the path already"),
        "{}",
        told(&plan, "a")
    );
    assert_eq!(plan.reports[&(Kind::Ingress, Key::new("n", "a"))].hosts, ["Shop.test"]);
    assert!(plan.services.contains("n/deep:80"));
}

#[test]
fn a_host_is_before_a_wildcard_and_that_before_any_and_none_leads_to_another() {
    let all = |service: &str| vec![path("/x", "Prefix", service)];
    let rules = [("", all("any")), ("*.test", all("wild")), ("*.shop.test", all("deep")), ("a.test", all("one"))];
    let mut objects = ["any", "wild", "deep", "one"].map(service).to_vec();
    objects.push(ingress("a", 1, json!({}), &rules));
    assert_eq!(
        routes(&planned(&objects).rules),
        [
            "a.test /x|/x/ -> ing.n.one.80",
            "a.test / -> ing.404",
            r"(?i)^[^.]+\.shop\.test$ /x|/x/ -> ing.n.deep.80",
            r"(?i)^[^.]+\.shop\.test$ / -> ing.404",
            r"(?i)^[^.]+\.test$ /x|/x/ -> ing.n.wild.80",
            r"(?i)^[^.]+\.test$ / -> ing.404",
            " /x|/x/ -> ing.n.any.80",
            " / -> ing.404",
        ]
    );
}

#[test]
fn what_no_path_takes_goes_to_the_default_backend() {
    let default = |name: &str, minute: u32| {
        let (kind, mut value) = ingress(name, minute, json!({}), &[]);
        value["spec"]["defaultBackend"] = json!({"service": {"name": "left", "port": {"name": "web"}}});
        (kind, value)
    };
    let mut objects = vec![service("left"), service("s"), default("only", 2)];
    assert_eq!(routes(&planned(&objects).rules), [" / -> ing.n.left.web"], "and nothing else is there");
    objects.push(ingress("a", 1, json!({}), &[("a.test", vec![path("/x", "Exact", "s")])]));
    objects.push(default("late", 3));
    let plan = planned(&objects);
    assert_eq!(routes(&plan.rules), ["a.test /x -> ing.n.s.80", "a.test / -> ing.n.left.web", " / -> ing.n.left.web"]);
    assert!(told(&plan, "late").contains("ingress n/only, which is older, has the default backend of every host"));
}

#[test]
fn of_two_that_want_one_place_the_older_has_it_whatever_order_they_come_in() {
    let paths = |service: &str| vec![path("/x", "Prefix", service)];
    let (young, old) = (
        ingress("a-young", 9, json!({}), &[("a.test", paths("young"))]),
        ingress("b-old", 1, json!({}), &[("a.test", paths("old"))]),
    );
    for objects in [[young.clone(), old.clone()], [old, young]] {
        let objects: Vec<_> = [service("young"), service("old")].into_iter().chain(objects).collect();
        let plan = planned(&objects);
        assert_eq!(routes(&plan.rules)[0], "a.test /x|/x/ -> ing.n.old.80");
        assert!(told(&plan, "a-young").contains("ingress n/b-old, which is older, has this path of a.test"));
        assert_eq!(plan.reports[&(Kind::Ingress, Key::new("n", "b-old"))].grade(), Grade::Honoured);
    }
}

#[test]
fn a_backend_that_cannot_be_used_keeps_its_place_and_says_so() {
    let mut resource = path("/r", "Prefix", "x");
    resource["backend"] = json!({"resource": {"kind": "Bucket", "name": "b"}});
    let objects = [ingress("a", 1, json!({}), &[("a.test", vec![path("/x", "Prefix", "later"), resource])])];
    let plan = planned(&objects);
    assert_eq!(routes(&plan.rules)[..2], ["a.test /r|/r/ -> ing.503", "a.test /x|/x/ -> ing.n.later.80"]);
    let told = told(&plan, "a");
    assert!(told.contains("service n/later is not there; requests get 503 until it is"), "{told}");
    assert!(told.contains("a backend of kind \"Bucket\" is not known here"), "{told}");
    assert!(plan.services.contains("n/later:80"), "it may come");
}

#[test]
fn easegresss_annotations_are_read() {
    let prefix = |name: &str| format!("easegress.ingress.kubernetes.io/{name}");
    let annotations = json!({
        prefix("proxy-load-balance"): "headerHash", prefix("proxy-header-hash-key"): "X-User",
        prefix("proxy-timeout"): "3s", prefix("proxy-server-max-size"): "1000", prefix("rewrite-target"): "/new",
        prefix("websocket-client-max-msg-size"): "many", prefix("nothing"): "x",
    });
    let paths = vec![path("/x", "Prefix", "s"), path("/y", "Exact", "s"), path("/", "Prefix", "s")];
    let plan = planned(&[service("s"), ingress("a", 1, annotations, &[("a.test", paths)])]);
    assert_eq!(
        routes(&plan.rules)[..4],
        [
            "a.test /y => /new -> ing.n.s.80~a",
            "a.test /x => /new -> ing.n.s.80~a",
            "a.test /x/ => /new/ -> ing.n.s.80~a",
            "a.test / => /new/ -> ing.n.s.80~a",
        ]
    );
    let proxy = &plan.pipelines["ing.n.s.80~a"].read()["filters"][0];
    assert_eq!(proxy["serverMaxBodySize"], 1000);
    assert_eq!(
        proxy["pools"][0],
        json!({
            "timeout": "3s", "loadBalance": {"policy": "headerHash", "headerHashKey": "X-User"},
            "serviceRegistry": "ing", "serviceName": "n/s:80",
        })
    );
    let told = told(&plan, "a");
    assert!(told.contains("websocket-client-max-msg-size is refused: \"many\" is no whole number"), "{told}");
    assert!(told.contains("nothing is refused: there is no such annotation"), "{told}");
    assert_eq!(plan.reports[&(Kind::Ingress, Key::new("n", "a"))].count(Grade::Honoured), 5);
}

#[test]
fn rewrites_of_ingress_nginx_take_the_whole_path_with_its_groups() {
    let annotations = json!({"nginx.ingress.kubernetes.io/rewrite-target": "/$2x"});
    let paths = vec![path("/api(/|$)(.*)", "ImplementationSpecific", "s"), path("/plain.x", "Prefix", "s")];
    let plan = planned(&[service("s"), ingress("a", 1, annotations, &[("a.test", paths)])]);
    assert_eq!(
        routes(&plan.rules)[..2],
        [
            r"a.test (?is)^/api(/|$)(.*).*$ => /${2}x -> ing.n.s.80",
            r"a.test ^/plain\.x(?:/.*)?$ => /${2}x -> ing.n.s.80",
        ]
    );
}

#[test]
fn websockets_are_relayed_within_their_bounds() {
    let annotations = json!({"easegress.ingress.kubernetes.io/websocket": "true",
        "easegress.ingress.kubernetes.io/websocket-origin-patterns": "*.shop.test, a.test"});
    let plan = planned(&[service("s"), ingress("a", 1, annotations, &[("", vec![path("/", "Prefix", "s")])])]);
    let filter = &plan.pipelines["ing.n.s.80~a"].read()["filters"][0];
    assert_eq!(filter["kind"], "WebSocketProxy");
    assert_eq!(filter["pools"][0]["originPatterns"], json!(["*.shop.test", "a.test"]));
}

#[test]
fn hosts_with_a_certificate_are_sent_to_the_server_that_speaks_tls() {
    let (kind, mut tls) = ingress(
        "a",
        1,
        json!({}),
        &[("a.test", vec![path("/", "Prefix", "s")]), ("b.test", vec![path("/", "Prefix", "s")])],
    );
    tls["spec"]["tls"] = json!([{"hosts": ["A.test"], "secretName": "none"}]);
    let plan = planned(&[service("s"), (kind, tls)]);
    assert_eq!(routes(&plan.rules)[0], "a.test / -> ing.to-https");
    assert_eq!(routes(&plan.rules)[2], "b.test / -> ing.n.s.80");
    assert_eq!(routes(&plan.https_rules)[0], "a.test / -> ing.n.s.80");
    assert!(told(&plan, "a").contains("secret n/none is not there"), "{}", told(&plan, "a"));
    assert!(plan.certificates.is_empty());
}

#[test]
fn a_secret_that_has_become_unusable_changes_nothing() {
    let secret = json!({"metadata": {"name": "c", "namespace": "n"}, "type": "kubernetes.io/tls",
                        "data": {"tls.crt": "bm9uZQ==", "tls.key": "bm9uZQ=="}});
    let (kind, mut tls) = ingress("a", 1, json!({}), &[("a.test", vec![path("/", "Prefix", "s")])]);
    tls["spec"]["tls"] = json!([{"hosts": ["a.test"], "secretName": "c"}]);
    let store = store(&[service("s"), (kind, tls), (Kind::Secret, secret)]);
    let kept: BTreeMap<_, _> = [("n/c".to_owned(), ("before".to_owned(), "key".to_owned()))].into();
    let plan = plan(&store, settings(), &|| kept.clone(), &mut Checked, &mut Known::default());
    assert_eq!(*plan.certificates, kept);
    assert!(told(&plan, "a").contains("the certificate it had before is used on"), "{}", told(&plan, "a"));
}

#[test]
fn classes_say_whose_an_ingress_is() {
    let class = |name: &str, controller: &str, default: bool| {
        let annotations = json!({"ingressclass.kubernetes.io/is-default-class": default.to_string()});
        (
            Kind::IngressClass,
            json!({"metadata": {"name": name, "annotations": annotations}, "spec": {"controller": controller}}),
        )
    };
    let of = |name: Option<&str>, annotation: Option<&str>| {
        let mut value = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {}});
        if let Some(name) = name {
            value["spec"]["ingressClassName"] = json!(name);
        }
        if let Some(annotation) = annotation {
            value["metadata"]["annotations"] = json!({"kubernetes.io/ingress.class": annotation});
        }
        let Object::Ingress(ingress) = object(Kind::Ingress, value) else { panic!() };
        ingress
    };
    let store = store(&[class("mine", CONTROLLERS[0], false), class("other", "x/y", true)]);
    for (class, name, annotation, wanted) in [
        ("mine", Some("mine"), None, true),
        ("mine", Some("other"), None, false),
        ("mine", None, None, false),
        ("mine", Some("other"), Some("mine"), true),
        ("nginx", Some("nginx"), None, true),
        ("", Some("mine"), None, true),
        ("", Some("other"), None, false),
        ("other", None, None, true),
    ] {
        assert_eq!(is_ours(&store, &of(name, annotation), class), wanted, "{class} {name:?} {annotation:?}");
    }
}

proptest::proptest! {
    /// Whatever there is, a server can be made of it, and no order of what comes makes a difference.
    #[test]
    fn what_comes_of_it_is_valid_and_does_not_depend_on_the_order(
        seeds in proptest::collection::vec((0u32..4, 0usize..5, 0usize..6, 0usize..4), 1..12),
        turn in 0usize..12,
    ) {
        let hosts = ["", "a.test", "*.test", "A.test", "b.a.test"];
        let paths = ["", "/", "/foo", "/foo/", "/foo/bar", "foo"];
        let types = ["Exact", "Prefix", "ImplementationSpecific", "Other"];
        let mut objects: Vec<(Kind, Value)> = seeds.iter().enumerate().map(|(n, (minute, host, at, kind))| {
            let paths = vec![path(paths[*at], types[*kind], "s")];
            ingress(&format!("i{n}"), *minute, json!({}), &[(hosts[*host], paths)])
        }).collect();
        objects.push(service("s"));
        let first = planned(&objects);
        let turn = turn % objects.len();
        objects.rotate_left(turn);
        let second = planned(&objects);
        proptest::prop_assert_eq!(&first.rules, &second.rules);
        proptest::prop_assert_eq!(&first.pipelines, &second.pipelines);
        proptest::prop_assert_eq!(&first.reports, &second.reports);
        let server = json!({"name": "x", "kind": "HTTPServer", "port": 80, "rules": first.rules.values().map(Kept::read).collect::<Vec<_>>()});
        proptest::prop_assert_eq!(Checked.check(&server), Ok(()));
        for rule in first.rules.values().map(Kept::read) {
            for path in rule["paths"].as_array().unwrap() {
                let backend = path["backend"].as_str().unwrap();
                proptest::prop_assert!(first.pipelines.contains_key(backend), "{} leads nowhere", backend);
            }
        }
    }
}

/// Counts what it is asked about.
#[derive(Default)]
struct Counted(usize);

impl Check for Counted {
    fn check(&mut self, document: &Value) -> Result<(), String> {
        self.0 += 1;
        Checked.check(document)
    }
}

#[test]
fn an_ingress_that_changes_is_read_anew_and_no_other() {
    let of = |n: u32, service: &str, annotations: Value| {
        ingress(&format!("i{n}"), n, annotations, &[(&format!("h{n}.test"), vec![path("/", "Prefix", service)])])
    };
    let mut objects: Vec<(Kind, Value)> = (0..20).map(|n| of(n, "s", json!({}))).collect();
    objects.extend([service("s"), service("t")]);
    let (mut store, mut known) = (store(&objects), Known::default());
    let mut again = |store: &Store| {
        let mut counted = Counted::default();
        let plan = plan(store, settings(), &BTreeMap::new, &mut counted, &mut known);
        let fresh = super::plan(store, settings(), &BTreeMap::new, &mut Checked, &mut Known::default());
        assert_eq!(
            (&plan.rules, &plan.https_rules, &plan.pipelines),
            (&fresh.rules, &fresh.https_rules, &fresh.pipelines)
        );
        assert_eq!((&plan.services, &plan.reports), (&fresh.services, &fresh.reports));
        counted.0
    };
    let all = again(&store);
    assert!(all > 20, "{all}");
    assert_eq!(again(&store), 0, "nothing is different");
    let change = |store: &mut Store, (kind, mut value): (Kind, Value), version: &str| {
        value["metadata"]["resourceVersion"] = json!(version);
        store.hear(&everywhere(kind), Heard::Put(object(kind, value)));
    };
    change(&mut store, of(3, "t", json!({})), "2");
    assert_eq!(again(&store), 2, "its pipeline and its routes");
    change(&mut store, of(4, "s", json!({"nginx.ingress.kubernetes.io/limit-rps": "5"})), "3");
    assert_eq!(again(&store), 2);
    // It asks for a path that an older one has; then that one is gone.
    change(&mut store, ingress("i5", 5, json!({}), &[("h2.test", vec![path("/", "Prefix", "s")])]), "4");
    again(&store);
    assert_eq!(again(&store), 0);
    store.hear(&everywhere(Kind::Ingress), Heard::Gone(Key::new("n", "i2")));
    again(&store);
    // A service that comes, and one that goes, are told of by those who lead to them.
    change(&mut store, of(6, "later", json!({})), "5");
    again(&store);
    change(&mut store, service("later"), "6");
    again(&store);
    store.hear(&everywhere(Kind::Service), Heard::Gone(Key::new("n", "s")));
    again(&store);
}

/// A certificate is looked at when its secret is another, and not because a service is.
#[test]
fn of_many_secrets_the_one_that_is_new_is_looked_at() {
    const MANY: u32 = 20;
    let secret = |n: u32, host: &str| crate::gateway::tests::secret(&format!("c{n}"), host);
    let of = |n: u32, named: &str| {
        let paths = vec![path("/", "Prefix", "s")];
        let (kind, mut value) = ingress(&format!("i{n}"), n, json!({}), &[(&format!("h{n}.test"), paths)]);
        value["spec"]["tls"] = json!([{"hosts": [format!("h{n}.test")], "secretName": named}]);
        (kind, value)
    };
    let mut objects: Vec<(Kind, Value)> = (0..MANY).map(|n| of(n, &format!("c{n}"))).collect();
    objects.extend((0..MANY).map(|n| secret(n, &format!("h{n}.test"))));
    objects.extend([service("s"), of(MANY, "broken"), of(MANY + 1, "broken")]);
    let (mut store, mut known) = (store(&objects), Known::default());
    let mut again = |store: &Store| {
        let mut counted = Counted::default();
        let plan = plan(store, settings(), &BTreeMap::new, &mut counted, &mut known);
        let fresh = super::plan(store, settings(), &BTreeMap::new, &mut Checked, &mut Known::default());
        assert_eq!((&plan.certificates, &plan.reports), (&fresh.certificates, &fresh.reports));
        (plan, counted.0)
    };
    let (before, _) = again(&store);
    assert_eq!(before.certificates.len(), MANY as usize);
    let mut version = 1;
    let mut change = |store: &mut Store, (kind, mut value): (Kind, Value)| {
        version += 1;
        value["metadata"]["resourceVersion"] = json!(version.to_string());
        store.hear(&everywhere(kind), Heard::Put(object(kind, value)));
    };
    change(&mut store, service("other"));
    let (after, looked_at) = again(&store);
    assert!(looked_at == 0 && Arc::ptr_eq(&before.certificates, &after.certificates), "{looked_at}");
    change(&mut store, secret(7, "h7.test"));
    let (renewed, looked_at) = again(&store);
    assert!(looked_at == 1 && after.certificates["n/c7"] != renewed.certificates["n/c7"], "{looked_at}");
    // One that two of them name, and that cannot be used, is looked at once.
    let mut broken = secret(99, "x.test");
    (broken.1["metadata"]["name"], broken.1["data"]["tls.key"]) = (json!("broken"), json!("bm8ga2V5"));
    change(&mut store, broken);
    let (told, looked_at) = again(&store);
    assert_eq!((looked_at, told.certificates.len()), (1, MANY as usize));
    let report = told.reports[&(Kind::Ingress, Key::new("n", "i21"))].lines().join("\n");
    assert!(report.contains("secret n/broken holds no usable certificate"), "{report}");
    change(&mut store, secret(8, "h8.test"));
    assert_eq!(again(&store).1, 1);
    store.hear(&everywhere(Kind::Secret), Heard::Gone(Key::new("n", "c3")));
    let (gone, looked_at) = again(&store);
    assert_eq!((looked_at, gone.certificates.len()), (0, MANY as usize - 1));
}

/// A host that changes is the only one whose rule is another: whoever takes the rest sees that it is the very same.
#[test]
fn of_many_hosts_the_rule_of_one_is_another_and_the_others_are_the_very_same() {
    const MANY: u32 = 500;
    let of = |n: u32, service: &str| {
        ingress(&format!("i{n}"), 1, json!({}), &[(&format!("h{n}.test"), vec![path("/", "Prefix", service)])])
    };
    let mut objects: Vec<(Kind, Value)> = (0..MANY).map(|n| of(n, &format!("s{n}"))).collect();
    objects.extend((0..MANY).map(|n| service(&format!("s{n}"))));
    let (mut store, mut known) = (store(&objects), Known::default());
    let again = |store: &Store, known: &mut Known| {
        let mut counted = Counted::default();
        (plan(store, settings(), &BTreeMap::new, &mut counted, known), counted.0)
    };
    let (before, _) = again(&store, &mut known);
    let (kind, mut value) = of(7, "s8");
    value["metadata"]["resourceVersion"] = json!("2");
    store.hear(&everywhere(kind), Heard::Put(object(kind, value)));
    let (after, checked) = again(&store, &mut known);
    assert_eq!(checked, 1, "its routes: the pipeline is there");
    let differs = |was: &Rules, now: &Rules| -> Vec<String> {
        let others = now.iter().filter(|(place, rule)| !was.get(*place).is_some_and(|was| was.is_same(rule)));
        others.map(|(place, _)| place.host.clone()).collect()
    };
    assert_eq!(after.rules.len(), MANY as usize + 1);
    assert_eq!(differs(&before.rules, &after.rules), ["h7.test"]);
    assert_eq!(differs(&before.https_rules, &after.https_rules), ["h7.test"]);
    let gone: Vec<&String> =
        before.pipelines.keys().filter(|name| !after.pipelines.contains_key(name.as_str())).collect();
    assert_eq!(gone, ["ing.n.s7.80"]);
    let others = after.pipelines.iter().filter(|(name, now)| !before.pipelines[name.as_str()].is_same(now));
    assert_eq!(others.count(), 0);
    assert!(before.reports.ptr_eq(&after.reports) && Arc::ptr_eq(&before.certificates, &after.certificates));
}

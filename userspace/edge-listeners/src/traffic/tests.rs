use super::*;
use base_runtime::{Config, IoMode, Runtime};
use base_telemetry::{Identity, Names};
use std::collections::HashSet;

macro_rules! spec {
    ($text:expr) => {
        base_model::decode(&base_model::yaml::parse_document($text).expect("good YAML"), "")
            .expect("a good document")
            .value
    };
}

/// Kinds that keep something by their name, which their figures are called by as well. Those of WebAssembly have no engine here.
const KINDS: [&str; 14] = [
    "AdaptiveConcurrency",
    "Cache",
    "ForwardAuth, url: 'http://127.0.0.1:1/'",
    "GRPCProxy, pools: [{servers: [{url: 'http://127.0.0.1:1'}]}]",
    "Lottery, startTime: '2026-11-29T18:00:00Z', blockRatio: 0.4, maxPermission: 3, keyHeader: X",
    "OIDCAdaptor, clientId: a, clientSecret: b, redirectURI: 'https://a.example/back', \
     authorizationEndpoint: 'http://127.0.0.1:1/a', tokenEndpoint: 'http://127.0.0.1:1/t', userinfoEndpoint: 'http://127.0.0.1:1/u'",
    "Proxy, pools: [{servers: [{url: 'http://127.0.0.1:1'}], adaptiveConcurrency: {}, \
     memoryCache: {expiration: 1m, maxEntryBytes: 9, codes: [200], methods: [GET]}}]",
    "RateLimiter, policies: [{name: p, key: {from: address}}], defaultPolicyRef: p, urls: [{url: {prefix: /}}]",
    "RemoteFilter, url: 'http://127.0.0.1:1/'",
    "Script, script: 'return 1;'",
    "SimpleHTTPProxy",
    "Validator, oauth2: {tokenIntrospect: {endPoint: 'http://127.0.0.1:1/', clientId: a, clientSecret: b}}",
    "WaitingRoom, startTime: '2026-11-29T18:00:00Z', capacity: {stock: 5}",
    "WebSocketProxy, pools: [{servers: [{url: 'ws://127.0.0.1:1'}]}]",
];

/// A cache answered for two documents, and a limit counted for both.
#[test]
fn a_global_filter_shares_nothing_with_a_pipeline_of_a_namespace_that_is_called_as_it_is() {
    let runtime = runtime();
    for kind in KINDS {
        let (traffic, series) = watched(&runtime);
        let filters = format!("{{filters: [{{name: f, kind: {kind}}}]}}");
        traffic.apply_pipeline("g/beforePipeline", &spec!(&filters)).unwrap_or_else(|why| panic!("{kind}: {why:?}"));
        let of_one = series("beforePipeline").len();
        assert!(of_one > 0, "{kind} has no figures by its name");
        traffic.apply_global_filter("g", &spec!(&format!("beforePipeline: {filters}"))).expect("as good as the other");
        assert_eq!(series("beforePipeline").len(), 2 * of_one, "{kind}");
    }
}

/// The place was written as one key, in quotes.
#[test]
fn what_is_wrong_with_a_filter_is_found_in_its_document() {
    let runtime = runtime();
    let (traffic, _) = watched(&runtime);
    let filters = "{filters: [{name: f, kind: Validator, jwt: {algorithm: HS256, secret: zz}}]}";
    let told = traffic.apply_pipeline("p", &spec!(filters)).expect_err("no secret");
    let of_global =
        traffic.apply_global_filter("g", &spec!(&format!("afterPipeline: {filters}"))).expect_err("nor here");
    let places = [&told, &of_global].map(|told| told[0].path.as_str());
    assert_eq!(places, ["filters[0].jwt.secret", "afterPipeline.filters[0].jwt.secret"]);
}

fn runtime() -> Runtime {
    let config = Config { io: IoMode::Epoll, workers: Some(1), name: "traffic".to_owned(), ..Config::default() };
    Runtime::start(config).expect("epoll works everywhere")
}

/// Traffic, and the series whose labels have this text in them.
fn watched(runtime: &Runtime) -> (Traffic, impl Fn(&str) -> HashSet<String>) {
    let telemetry = Telemetry::new(Identity::default(), 1);
    telemetry.registry().add(Box::new(edge_filters::encode_concurrency));
    telemetry.registry().add(Box::new(edge_filters::limits::encode));
    telemetry.registry().add(Box::new(|encoder| edge_filters::hall::hall().encode(encoder)));
    let traffic = Traffic::new(runtime.workers().to_vec(), "m", telemetry.clone(), None);
    let series = move |text: &str| {
        let all = telemetry.render(Names::Own);
        let of_it = all.lines().filter_map(|line| line.rsplit_once(' ')).filter(|(series, _)| series.contains(text));
        of_it.map(|(series, _)| series.to_owned()).collect()
    };
    (traffic, series)
}

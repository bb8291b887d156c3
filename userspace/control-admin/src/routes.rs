use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, delete, get, post, put};
use control_raft::Control;
use serde_json::json;

use crate::access::{self, known};
use crate::alone::{about, healthz, metrics};
use crate::body::{Error, Reply, finish, header_text, in_default, unconditional};
use crate::catalog::{Catalog, Local};
use crate::checks::Checks;
use crate::{
    backup, bans, caches, capture, custom, history, last_good, logs, members, metadata, objects, overview, profile,
    requests, status, tap, tokens, trace, wasm, watch,
};

pub struct Api {
    pub control: Control,
    pub catalog: Arc<dyn Catalog>,
    pub local: Arc<dyn Local>,
    pub checks: Checks,
    pub watches: watch::Watches,
}

/// The whole API as a service.
pub fn router(control: Control, catalog: Arc<dyn Catalog>, local: Arc<dyn Local>) -> Router {
    // Half of the processors: the workers that carry traffic have the same ones.
    let at_once = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() / 2);
    let counting = local.clone();
    let checks = Checks::new(at_once, move || counting.check_refused());
    let api = Arc::new(Api { control, catalog, local, checks, watches: watch::Watches::default() });
    let mut v2 = Router::new().route("/", get(list_apis));
    for entry in entries() {
        let handlers = match entry.group {
            "customdata" => entry.handlers,
            _ if ["/objects", "/objects/{name}", "/rollback", "/restore"].contains(&entry.path) => entry.handlers,
            _ => entry.handlers.route_layer(from_fn(unconditional)),
        };
        v2 = v2.route(entry.path, handlers.route_layer(from_fn(in_default)));
    }
    let v2 = v2.route("/metrics", get(metrics));
    Router::new()
        .nest("/apis/v2", v2.clone())
        .nest("/apis/v1", v2)
        .route("/metrics", get(metrics))
        .route("/", get(front))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(from_fn_with_state(api.clone(), known))
        .merge(control_dashboard::router())
        .layer(from_fn_with_state(api.clone(), finish))
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(api)
}

struct Entry {
    group: &'static str,
    path: &'static str,
    methods: &'static [&'static str],
    handlers: MethodRouter<Arc<Api>>,
}

fn entries() -> Vec<Entry> {
    let mut all = Vec::new();
    let mut add = |group, path, methods, handlers| all.push(Entry { group, path, methods, handlers });
    add("admin", "/healthz", &["GET"], get(healthz));
    add("admin", "/about", &["GET"], get(about));
    add("admin", "/whoami", &["GET"], get(access::who));
    add("cluster", "/overview", &["GET"], get(overview::show));

    add("cluster", "/status/members", &["GET"], get(members::list));
    add("cluster", "/member-tokens", &["POST"], post(members::token));
    add("cluster", "/member-authority", &["GET"], get(members::authority));
    add("cluster", "/member-authority/replace", &["POST"], post(members::replace_authority));
    add("cluster", "/status/members/{member}", &["DELETE"], delete(members::remove));

    add("cluster", "/tokens", &["GET", "POST"], get(tokens::list).post(tokens::create));
    add("cluster", "/tokens/{name}", &["DELETE"], delete(tokens::revoke));
    add("cluster", "/tokens/{name}/rotate", &["POST"], post(tokens::rotate));

    add("cluster", "/backup", &["POST"], post(backup::write));
    add("cluster", "/restore", &["POST"], post(backup::restore));

    add("cluster", "/cache/purge", &["POST"], post(caches::purge));

    add("cluster", "/last-good", &["GET"], get(last_good::show));
    add("cluster", "/last-good/restore", &["POST"], post(last_good::restore));
    add("cluster", "/last-good/discard", &["POST"], post(last_good::discard));

    add("object", "/object-kinds", &["GET"], get(metadata::kinds));
    add("object", "/object-api-resources", &["GET"], get(metadata::api_resources));
    let all_objects = get(watch::objects).post(objects::create).delete(objects::delete_all);
    add("object", "/objects", &["GET", "POST", "DELETE"], all_objects);
    let one_object = get(watch::object).put(objects::update).delete(objects::delete);
    add("object", "/objects/{name}", &["GET", "PUT", "DELETE"], one_object);
    add("object", "/objects-check", &["POST"], post(objects::check));
    add("object", "/history", &["GET"], get(history::list));
    add("object", "/rollback", &["POST"], post(history::roll_back));
    add("object", "/objects-yaml/{kind}/{name}", &["GET"], get(metadata::skeleton));
    add("object", "/status/objects", &["GET"], get(status::list));
    add("object", "/status/objects/{name}", &["GET"], get(status::show));

    add("metadata", "/metadata/objects/pipeline/filters", &["GET"], get(metadata::filters));
    let description = get(metadata::filter_description);
    add("metadata", "/metadata/objects/pipeline/filters/{kind}/description", &["GET"], description);
    add("metadata", "/metadata/objects/pipeline/filters/{kind}/schema", &["GET"], get(metadata::filter_schema));
    add("metadata", "/metadata/objects/pipeline/filters/{kind}/results", &["GET"], get(metadata::filter_results));
    add("metadata", "/metadata/explain/{query}", &["GET"], get(metadata::explain));

    let kinds = get(custom::list_kinds).post(custom::create_kind).put(custom::update_kind);
    add("customdata", "/customdatakinds", &["GET", "POST", "PUT"], kinds);
    let kind = get(custom::show_kind).delete(custom::delete_kind);
    add("customdata", "/customdatakinds/{name}", &["GET", "DELETE"], kind);
    let items = get(custom::list).post(custom::create).put(custom::update).delete(custom::delete_all);
    add("customdata", "/customdata/{kind}", &["GET", "POST", "PUT", "DELETE"], items);
    add("customdata", "/customdata/{kind}/items", &["POST"], post(custom::batch));
    add("customdata", "/customdata/{kind}/{id}", &["GET", "DELETE"], get(custom::show).delete(custom::delete));

    add("wasm", "/wasm/code", &["POST"], post(wasm::reload));
    let data = get(wasm::list).put(wasm::apply).delete(wasm::delete);
    add("wasm", "/wasm/data/{pipeline}/{filter}", &["GET", "PUT", "DELETE"], data);

    add("requests", "/requests", &["GET"], get(requests::latest));
    add("requests", "/requests/{id}", &["GET"], get(requests::of_id));
    add("requests", "/tap", &["GET"], get(tap::open));
    add("requests", "/capture", &["GET"], get(capture::open));
    add("requests", "/trace", &["GET"], get(trace::of_flow));
    add("requests", "/bans", &["GET"], get(bans::list));
    add("requests", "/bans/{source}", &["DELETE"], delete(bans::lift));

    add("logs", "/logs", &["GET"], get(logs::tail));
    add("logs", "/logs/level", &["GET"], get(logs::level));
    add("logs", "/logs/level/{level}", &["PUT"], put(logs::set_level));

    add("profile", "/profile", &["GET"], get(profile::status));
    add("profile", "/profile/start/cpu", &["POST"], post(profile::start_cpu));
    add("profile", "/profile/start/memory", &["POST"], post(profile::start_memory));
    add("profile", "/profile/stop", &["POST"], post(profile::stop));
    all
}

/// Browsers are led to the dashboard.
async fn front(headers: HeaderMap) -> Reply {
    if header_text(&headers, header::ACCEPT).contains("text/html") {
        let location = Some(control_dashboard::PATH.to_owned());
        return Reply { status: StatusCode::SEE_OTHER, location, ..Reply::default() };
    }
    list_apis().await
}

async fn list_apis() -> Reply {
    let mut groups: Vec<(&str, Vec<serde_json::Value>)> = Vec::new();
    for entry in entries() {
        if groups.last().is_none_or(|(group, _)| *group != entry.group) {
            groups.push((entry.group, Vec::new()));
        }
        let (_, paths) = groups.last_mut().expect("one was pushed when there was none");
        for method in entry.methods {
            paths.push(json!({"path": format!("/apis/v2{}", entry.path), "method": method}));
        }
    }
    groups.push(("metrics", vec![json!({"path": "/apis/v2/metrics", "method": "GET"})]));
    let groups: Vec<_> =
        groups.into_iter().map(|(group, entries)| json!({"group": group, "entries": entries})).collect();
    Reply::body(groups)
}

async fn unknown_path(request: axum::extract::Request) -> Error {
    Error::not_found(format!("no such path: {}; GET /apis/v2 lists all", request.uri().path()))
}

async fn unknown_method(request: axum::extract::Request) -> Error {
    let message = format!("{} is not for {}; GET /apis/v2 lists all", request.method(), request.uri().path());
    Error::new(StatusCode::METHOD_NOT_ALLOWED, message)
}

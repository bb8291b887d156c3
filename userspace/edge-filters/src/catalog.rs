//! Every kind of filter there is.

use crate::{
    adaptive_concurrency, cache, cert_extractor, cors_adaptor, data_builder, fallback, fault_injector, file_server,
    forward_auth, grpc_proxy, header_lookup, header_to_json, kafka, lottery, mock, oidc_adaptor, opa_filter, proxy,
    proxy_wasm, rate_limiter, redirector, redirector_v2, remote_filter, request_adaptor, request_builder,
    response_adaptor, response_builder, result_builder, script, simple_http_proxy, validator, waiting_room, wasm_host,
    websocket_proxy,
};
use edge_pipeline::FilterKind;

static KINDS: &[FilterKind] = &[
    adaptive_concurrency::KIND,
    cors_adaptor::KIND,
    cache::KIND,
    cert_extractor::KIND,
    data_builder::KIND,
    fallback::KIND,
    fault_injector::KIND,
    file_server::KIND,
    forward_auth::KIND,
    grpc_proxy::KIND,
    header_lookup::KIND,
    header_to_json::KIND,
    kafka::KIND,
    lottery::KIND,
    mock::KIND,
    oidc_adaptor::KIND,
    opa_filter::KIND,
    proxy::KIND,
    proxy_wasm::KIND,
    rate_limiter::KIND,
    redirector::KIND,
    redirector_v2::KIND,
    remote_filter::KIND,
    request_adaptor::KIND,
    request_builder::KIND,
    response_adaptor::KIND,
    response_builder::KIND,
    result_builder::KIND,
    script::KIND,
    simple_http_proxy::KIND,
    validator::KIND,
    waiting_room::KIND,
    wasm_host::KIND,
    websocket_proxy::KIND,
];

pub fn kinds() -> &'static [FilterKind] {
    KINDS
}

pub fn kind(name: &str) -> Option<&'static FilterKind> {
    KINDS.iter().find(|k| k.kind == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_sorted_documented_and_say_what_they_take() {
        assert!(KINDS.is_sorted_by_key(|kind| kind.kind));
        for kind in KINDS {
            assert!(kind.doc.len() > 20 && !kind.doc.contains("//!"), "{}: {}", kind.kind, kind.doc);
            assert!((kind.schema)().get("properties").is_some(), "{}", kind.kind);
        }
    }

    #[test]
    fn unknown_fields_are_warnings() {
        let fields = serde_json::json!({"dataKey": "k", "template": "x", "colour": 1});
        let warnings = data_builder::KIND.checked(&fields, "filters[0]").unwrap();
        assert_eq!(warnings[0].path, "filters[0].colour");
    }
}

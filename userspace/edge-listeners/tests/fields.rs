//! No field of any document does nothing without a word. The fields come from the schemas, so that a new one is asked for here as soon
//! as somebody adds it. Each is one of three:
//!
//! - A house is built of a document that has it, and once more without it or with another value: what is asked of both has to be
//!   answered differently, or to arrive differently at the backends ([`documents`]).
//! - What takes time, certificates or other machines to show is shown by a test of its own ([`ELSEWHERE`]).
//! - What does nothing says so when it is set ([`SAID`]).
//!
//! What a test still has to be written for is owed ([`OWED`]): nothing is added there without a reason.

#[macro_use]
mod support;
#[path = "fields/documents.rs"]
mod documents;

use base_model::yaml::parse_document;
use base_model::{Object, Problem, Spec, explain};
use base_runtime::IoMode;
use documents::{DOCUMENTS, Document};
use edge_filters::kinds::{Shelf, explained};
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use support::{Backend, House, Message};

/// Fields that are acted upon and whose effect no test shows yet: they need providers with certificates of their own, or clocks that run
/// for minutes.
const OWED: &[&str] = &["Validator/JwtSpec.jwksRefresh"];

/// Structs, or single fields, and the tests that fail when they do nothing: file below userspace, and name.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("AccessListSpec", "server/tests/house/access_lists.rs", "who_is_denied_is_not_served_by_any_listener"),
    ("NamedSpec", "base-model/src/pipeline.rs", "filters_have_names_and_known_kinds"),
    (
        "MockNamespacerSpec",
        "server/tests/house/namespaces.rs",
        "what_a_mock_namespacer_makes_serves_beside_what_has_its_names",
    ),
    ("BackendCheckSpec", "edge-agent/src/backends.rs", "every_field_of_a_check_and_of_backends_is_used"),
    ("BackendSourcesSpec", "edge-agent/src/backends.rs", "every_field_of_a_check_and_of_backends_is_used"),
    ("BackendSpec", "edge-agent/src/backends.rs", "every_field_of_a_check_and_of_backends_is_used"),
    ("ConnectionRateSpec", "edge-agent/src/steer.rs", "every_field_of_a_virtual_ip_reaches_the_kernel"),
    ("LimitPrefixLength", "edge-agent/src/steer.rs", "every_field_of_a_virtual_ip_reaches_the_kernel"),
    ("SourceRateSpec", "edge-agent/src/steer.rs", "every_field_of_a_virtual_ip_reaches_the_kernel"),
    ("PoolSpec.http3", "server/tests/house/http3_upstream.rs", "many_clients_share_few_connections_to_ours"),
    ("ServerSpec.http3", "server/tests/house/http3_upstream.rs", "many_clients_share_few_connections_to_ours"),
    ("LogSinkSpec.logs", "edge-listeners/tests/log_sinks.rs", "lines_are_json_of_some_servers_to_files_and_collectors"),
    (
        "LogSinkSpec.servers",
        "edge-listeners/tests/log_sinks.rs",
        "lines_are_json_of_some_servers_to_files_and_collectors",
    ),
    (
        "LogSinkSpec.format",
        "edge-listeners/tests/log_sinks.rs",
        "lines_are_json_of_some_servers_to_files_and_collectors",
    ),
    ("LogSinkSpec.file", "edge-listeners/tests/log_sinks.rs", "lines_are_json_of_some_servers_to_files_and_collectors"),
    ("LogSinkSpec.otlp", "edge-listeners/tests/log_sinks.rs", "lines_are_json_of_some_servers_to_files_and_collectors"),
    (
        "LogSinkSpec.http",
        "edge-listeners/tests/log_sinks.rs",
        "lines_wait_while_the_sink_fails_and_come_in_order_when_it_is_back",
    ),
    (
        "LogSinkSpec.spool",
        "edge-listeners/tests/log_sinks.rs",
        "beyond_the_bound_lines_are_dropped_and_counted_and_requests_wait_for_nothing",
    ),
    (
        "SpoolSpec",
        "edge-listeners/tests/log_sinks.rs",
        "beyond_the_bound_lines_are_dropped_and_counted_and_requests_wait_for_nothing",
    ),
    (
        "HttpSinkSpec.url",
        "edge-listeners/tests/log_sinks.rs",
        "lines_wait_while_the_sink_fails_and_come_in_order_when_it_is_back",
    ),
    (
        "HttpSinkSpec.headers",
        "edge-listeners/tests/log_sinks.rs",
        "lines_wait_while_the_sink_fails_and_come_in_order_when_it_is_back",
    ),
    (
        "HttpSinkSpec.compression",
        "edge-listeners/tests/log_sinks.rs",
        "a_sink_that_changes_goes_on_where_it_was_and_one_that_is_gone_keeps_what_is_left",
    ),
    ("FileSinkSpec", "edge-listeners/tests/log_sinks.rs", "lines_are_json_of_some_servers_to_files_and_collectors"),
    (
        "SyslogSinkSpec.address",
        "edge-export/src/sinks/syslog.rs",
        "messages_of_rfc_5424_in_packets_and_over_connections",
    ),
    (
        "SyslogSinkSpec.appName",
        "edge-export/src/sinks/syslog.rs",
        "messages_of_rfc_5424_in_packets_and_over_connections",
    ),
    (
        "SyslogSinkSpec.facility",
        "edge-export/src/sinks/syslog.rs",
        "messages_of_rfc_5424_in_packets_and_over_connections",
    ),
    (
        "SyslogSinkSpec.mtls",
        "server/tests/house/collectors/rsyslog.rs",
        "rsyslog_takes_lines_within_tls_of_whom_it_knows",
    ),
    ("LogSinkSpec.syslog", "server/tests/house/log_sinks.rs", "lines_survive_kills_and_come_in_order_over_every_way"),
    ("LogSinkSpec.kafka", "server/tests/house/log_sinks.rs", "lines_survive_kills_and_come_in_order_over_every_way"),
    (
        "KafkaSinkSpec.brokers",
        "server/tests/house/log_sinks.rs",
        "lines_survive_kills_and_come_in_order_over_every_way",
    ),
    ("KafkaSinkSpec.topic", "server/tests/house/log_sinks.rs", "lines_survive_kills_and_come_in_order_over_every_way"),
    (
        "KafkaSinkSpec.mtls",
        "server/tests/house/collectors/kafka.rs",
        "kafka_takes_lines_within_tls_of_certificates_and_users_it_knows",
    ),
    (
        "KafkaSinkSpec.sasl",
        "server/tests/house/collectors/kafka.rs",
        "kafka_takes_lines_within_tls_of_certificates_and_users_it_knows",
    ),
    (
        "SaslSpec",
        "server/tests/house/collectors/kafka.rs",
        "kafka_takes_lines_within_tls_of_certificates_and_users_it_knows",
    ),
    (
        "AdaptiveConcurrencySpec.initialLimit",
        "edge-filters/src/adaptive_concurrency.rs",
        "so_many_pass_and_the_others_are_told_when_to_come_back",
    ),
    (
        "AdaptiveConcurrencySpec.maxLimit",
        "edge-filters/src/adaptive_concurrency.rs",
        "so_many_pass_and_the_others_are_told_when_to_come_back",
    ),
    (
        "AdaptiveConcurrencySpec.maxQueue",
        "edge-filters/src/adaptive_concurrency.rs",
        "so_many_pass_and_the_others_are_told_when_to_come_back",
    ),
    (
        "AdaptiveConcurrencySpec.minLimit",
        "edge-filters/src/adaptive_concurrency.rs",
        "so_many_pass_and_the_others_are_told_when_to_come_back",
    ),
    (
        "AdaptiveConcurrencySpec.retryAfter",
        "edge-filters/src/adaptive_concurrency.rs",
        "so_many_pass_and_the_others_are_told_when_to_come_back",
    ),
    (
        "AdaptiveConcurrencySpec.consumerHeader",
        "edge-filters/src/adaptive_concurrency.rs",
        "requests_say_their_rank_and_senders_that_do_are_told_the_threshold",
    ),
    (
        "AdaptiveConcurrencySpec.priorities",
        "edge-filters/src/adaptive_concurrency.rs",
        "requests_say_their_rank_and_senders_that_do_are_told_the_threshold",
    ),
    (
        "AdaptiveConcurrencySpec.trustPriority",
        "edge-filters/src/adaptive_concurrency.rs",
        "requests_say_their_rank_and_senders_that_do_are_told_the_threshold",
    ),
    (
        "AdaptiveConcurrencySpec.maxWait",
        "edge-filters/tests/balancing.rs",
        "a_line_serves_the_oldest_until_it_stands_and_nobody_waits_for_ever",
    ),
    (
        "AdaptiveConcurrencySpec.targetDelay",
        "edge-filters/tests/balancing.rs",
        "a_line_serves_the_oldest_until_it_stands_and_nobody_waits_for_ever",
    ),
    (
        "PriorityRule",
        "edge-filters/src/adaptive_concurrency.rs",
        "requests_say_their_rank_and_senders_that_do_are_told_the_threshold",
    ),
    (
        "PoolSpec.adaptiveConcurrency",
        "edge-filters/tests/balancing.rs",
        "an_adaptive_limit_is_within_what_servers_may_have_and_requests_wait_once",
    ),
    ("GrpcPoolSpec.adaptiveConcurrency", "edge-filters/src/grpc_proxy.rs", "its_pools_are_those_of_a_proxy"),
    ("OverloadManagerSpec.refreshInterval", "edge-listeners/src/overload.rs", "it_looks_as_often_as_the_document_says"),
    (
        "OverloadManagerSpec.actions",
        "server/tests/house/overload.rs",
        "a_machine_with_too_much_to_do_sheds_what_matters_least_and_says_so_once",
    ),
    (
        "OverloadManagerSpec.consumerHeader",
        "server/tests/house/overload.rs",
        "a_machine_with_too_much_to_do_sheds_what_matters_least_and_says_so_once",
    ),
    (
        "OverloadManagerSpec.priorities",
        "server/tests/house/overload.rs",
        "a_machine_with_too_much_to_do_sheds_what_matters_least_and_says_so_once",
    ),
    (
        "OverloadManagerSpec.resourceMonitors",
        "server/tests/house/overload.rs",
        "a_machine_with_too_much_to_do_sheds_what_matters_least_and_says_so_once",
    ),
    (
        "OverloadManagerSpec.retryAfter",
        "server/tests/house/overload.rs",
        "a_machine_with_too_much_to_do_sheds_what_matters_least_and_says_so_once",
    ),
    (
        "OverloadActionSpec",
        "server/tests/house/overload.rs",
        "a_machine_with_too_much_to_do_sheds_what_matters_least_and_says_so_once",
    ),
    (
        "ResourceMonitorSpec",
        "server/tests/house/overload.rs",
        "a_machine_with_too_much_to_do_sheds_what_matters_least_and_says_so_once",
    ),
    (
        "ScaledSpec",
        "server/tests/house/overload.rs",
        "a_machine_with_too_much_to_do_sheds_what_matters_least_and_says_so_once",
    ),
    (
        "ThresholdSpec",
        "server/tests/house/overload.rs",
        "a_machine_with_too_much_to_do_sheds_what_matters_least_and_says_so_once",
    ),
    (
        "TriggerSpec",
        "server/tests/house/overload.rs",
        "a_machine_with_too_much_to_do_sheds_what_matters_least_and_says_so_once",
    ),
    ("TracingSpec", "edge-listeners/tests/tracing.rs", "callers_shares_and_rules_decide_what_is_exported"),
    ("SamplingSpec", "edge-listeners/tests/tracing.rs", "callers_shares_and_rules_decide_what_is_exported"),
    (
        "SpanLimitsSpec.attributeValueLengthLimit",
        "edge-listeners/tests/tracing.rs",
        "spans_tell_of_the_server_its_stations_and_each_try",
    ),
    ("SpanLimitsSpec.attributeCountLimit", "edge-listeners/tests/tracing.rs", "a_span_keeps_its_bounds"),
    ("SpanLimitsSpec.eventCountLimit", "edge-listeners/tests/tracing.rs", "a_span_keeps_its_bounds"),
    ("SpanLimitsSpec.attributePerEventCountLimit", "edge-listeners/tests/tracing.rs", "a_span_keeps_its_bounds"),
    (
        "BatchLimitsSpec",
        "edge-listeners/tests/tracing.rs",
        "collectors_that_refuse_hang_or_fail_cost_no_request_anything_and_are_tried_again",
    ),
    (
        "ExporterSpec.otlp",
        "edge-listeners/tests/tracing.rs",
        "a_collector_of_opentelemetry_gets_protobuf_or_json_packed_or_plain",
    ),
    ("ExporterSpec.jaeger", "edge-listeners/tests/tracing.rs", "agents_and_collectors_of_jaeger_get_thrift"),
    ("ExporterSpec.zipkin", "edge-listeners/tests/tracing.rs", "spans_tell_of_the_server_its_stations_and_each_try"),
    (
        "OtlpSpec.protocol",
        "edge-listeners/tests/tracing.rs",
        "a_collector_of_opentelemetry_gets_protobuf_or_json_packed_or_plain",
    ),
    (
        "OtlpSpec.endpoint",
        "edge-listeners/tests/tracing.rs",
        "a_collector_of_opentelemetry_gets_protobuf_or_json_packed_or_plain",
    ),
    (
        "OtlpSpec.insecure",
        "edge-listeners/tests/tracing.rs",
        "a_collector_of_opentelemetry_gets_protobuf_or_json_packed_or_plain",
    ),
    (
        "OtlpSpec.compression",
        "edge-listeners/tests/tracing.rs",
        "a_collector_of_opentelemetry_gets_protobuf_or_json_packed_or_plain",
    ),
    (
        "OtlpSpec.encoding",
        "edge-listeners/tests/tracing.rs",
        "a_collector_of_opentelemetry_gets_protobuf_or_json_packed_or_plain",
    ),
    (
        "OtlpSpec.headers",
        "edge-listeners/tests/tracing.rs",
        "a_collector_of_opentelemetry_gets_protobuf_or_json_packed_or_plain",
    ),
    ("ZipkinSpec.mtls", "edge-listeners/tests/tls.rs", "spans_and_lines_go_over_tls_to_whom_they_are_for"),
    ("HttpSinkSpec.mtls", "edge-listeners/tests/tls.rs", "spans_and_lines_go_over_tls_to_whom_they_are_for"),
    ("JaegerSpec.mtls", "edge-listeners/tests/tls.rs", "spans_and_lines_go_over_tls_to_whom_they_are_for"),
    ("OtlpSpec.mtls", "edge-listeners/tests/tls.rs", "spans_and_lines_go_over_tls_to_whom_they_are_for"),
    ("JaegerSpec.mode", "edge-listeners/tests/tracing.rs", "agents_and_collectors_of_jaeger_get_thrift"),
    ("JaegerSpec.endpoint", "edge-listeners/tests/tracing.rs", "agents_and_collectors_of_jaeger_get_thrift"),
    ("JaegerSpec.username", "edge-listeners/tests/tracing.rs", "agents_and_collectors_of_jaeger_get_thrift"),
    ("JaegerSpec.password", "edge-listeners/tests/tracing.rs", "agents_and_collectors_of_jaeger_get_thrift"),
    ("ZipkinSpec.endpoint", "edge-listeners/tests/tracing.rs", "spans_tell_of_the_server_its_stations_and_each_try"),
    (
        "ZipkinDeprecatedSpec.serverURL",
        "edge-listeners/tests/tracing.rs",
        "contexts_of_b3_are_read_and_written_and_others_that_came_are_kept_right",
    ),
    (
        "ZipkinDeprecatedSpec.sampleRate",
        "edge-listeners/tests/tracing.rs",
        "contexts_of_b3_are_read_and_written_and_others_that_came_are_kept_right",
    ),
    (
        "ZipkinDeprecatedSpec.disableReport",
        "edge-listeners/tests/tracing.rs",
        "contexts_of_b3_are_read_and_written_and_others_that_came_are_kept_right",
    ),
    ("PoolSpec.spanName", "edge-listeners/tests/tracing.rs", "spans_tell_of_the_server_its_stations_and_each_try"),
    (
        "WebSocketPoolSpec.spanName",
        "edge-listeners/tests/tracing.rs",
        "spans_tell_of_the_server_its_stations_and_each_try",
    ),
    ("GrpcPoolSpec.spanName", "edge-listeners/tests/tracing.rs", "spans_tell_of_the_server_its_stations_and_each_try"),
    ("HttpServerSpec.tracing", "edge-listeners/tests/tracing.rs", "contexts_of_w3c_come_and_go"),
    ("CacheSpec", "edge-listeners/tests/cache.rs", "each_field_of_the_document_counts"),
    ("DiskSpec", "server/tests/house/caches.rs", "what_memory_has_no_room_for_comes_from_the_disk"),
    (
        "ConsumerKeySpec",
        "server/tests/house/authentication.rs",
        "consumers_are_known_by_their_keys_and_have_their_quotas",
    ),
    (
        "BasicAuthSpec.ldap",
        "server/tests/house/directory.rs",
        "users_of_a_directory_get_in_with_their_passwords_and_nobody_else",
    ),
    ("LdapSpec", "server/tests/house/directory.rs", "users_of_a_directory_get_in_with_their_passwords_and_nobody_else"),
    (
        "BasicAuthSpec.etcdPrefix",
        "server/tests/house/custom_data.rs",
        "users_in_custom_data_get_in_while_they_are_there",
    ),
    (
        "HeaderLookupSpec",
        "server/tests/house/custom_data.rs",
        "what_users_keep_in_the_cluster_reaches_the_next_request",
    ),
    (
        "HeaderSetterSpec",
        "server/tests/house/custom_data.rs",
        "what_users_keep_in_the_cluster_reaches_the_next_request",
    ),
    ("FileServerSpec", "server/tests/house/file_server.rs", "files_are_given_as_the_document_says"),
    ("FileCacheSpec", "server/tests/house/file_server.rs", "files_are_given_as_the_document_says"),
    ("ExtensionSpec", "server/tests/house/file_server.rs", "files_are_given_as_the_document_says"),
    (
        "FlowNodeSpec.parallel",
        "server/tests/house/aggregation.rs",
        "backends_are_asked_at_the_same_time_and_some_may_fail",
    ),
    ("ParallelSpec", "server/tests/house/aggregation.rs", "backends_are_asked_at_the_same_time_and_some_may_fail"),
    ("BranchSpec", "server/tests/house/aggregation.rs", "backends_are_asked_at_the_same_time_and_some_may_fail"),
    ("StepSpec", "server/tests/house/aggregation.rs", "backends_are_asked_at_the_same_time_and_some_may_fail"),
    (
        "ConsumerSpec.disabled",
        "server/tests/house/authentication.rs",
        "consumers_are_known_by_their_keys_and_have_their_quotas",
    ),
    (
        "OidcAdaptorSpec.insecureTls",
        "server/tests/house/authentication.rs",
        "certificates_of_their_own_are_believed_where_the_document_says_so",
    ),
    (
        "JwtSpec.jwksInsecureTls",
        "server/tests/house/authentication.rs",
        "certificates_of_their_own_are_believed_where_the_document_says_so",
    ),
    (
        "TokenIntrospectSpec.insecureTls",
        "server/tests/house/authentication.rs",
        "certificates_of_their_own_are_believed_where_the_document_says_so",
    ),
    (
        "TokenIntrospectSpec.cacheSize",
        "server/tests/house/authentication.rs",
        "few_introspections_are_remembered_where_the_document_says_so",
    ),
    (
        "OidcAdaptorSpec.scopes",
        "server/tests/house/openid.rs",
        "a_plain_provider_says_who_it_is_for_as_long_as_the_document_says",
    ),
    (
        "OidcAdaptorSpec.sessionTtl",
        "server/tests/house/openid.rs",
        "a_plain_provider_says_who_it_is_for_as_long_as_the_document_says",
    ),
    (
        "OidcAdaptorSpec.timeout",
        "server/tests/house/openid.rs",
        "a_plain_provider_says_who_it_is_for_as_long_as_the_document_says",
    ),
    (
        "OidcAdaptorSpec.userinfoEndpoint",
        "server/tests/house/openid.rs",
        "a_plain_provider_says_who_it_is_for_as_long_as_the_document_says",
    ),
    ("SignSpec", "edge-filters/src/validator/signer.rs", "what_is_signed_is_what_is_checked"),
    ("HeaderHoistingSpec", "edge-filters/src/validator/signer.rs", "what_is_missing_or_does_nothing_is_told"),
    ("RequestAdaptorSpec.sign", "server/tests/house/authentication.rs", "what_one_filter_signs_another_lets_pass"),
    // Each word wants a text of its own, so that no document is sound with either.
    ("PathSpec.type", "edge-filters/src/redirector_v2.rs", "locations"),
    ("SimpleHttpProxySpec.compression", "server/tests/house/forward_proxy.rs", "curl_goes_where_it_may"),
    ("ForwardAuthSpec", "server/tests/house/forward_auth.rs", "a_service_says_who_may_pass"),
    ("RemoteFilterSpec", "server/tests/house/remote_filter.rs", "a_service_changes_requests_or_answers_them"),
    ("QuotaSpec", "server/tests/house/authentication.rs", "consumers_are_known_by_their_keys_and_have_their_quotas"),
    (
        "ValidatorSpec.keyAuth",
        "server/tests/house/authentication.rs",
        "consumers_are_known_by_their_keys_and_have_their_quotas",
    ),
    ("ValidatorSpec.signature", "server/tests/house/authentication.rs", "signed_requests_pass_and_changed_ones_do_not"),
    (
        "ValidatorSpec.basicAuth",
        "server/tests/house/authentication.rs",
        "users_of_a_file_get_in_and_the_file_may_change",
    ),
    (
        "Oauth2Spec.tokenIntrospect",
        "server/tests/house/authentication.rs",
        "tokens_are_introspected_once_and_remembered",
    ),
    ("JwtSpec.audience", "server/tests/house/authentication.rs", "keys_of_an_issuer_are_followed_when_they_rotate"),
    ("JwtSpec.issuer", "server/tests/house/authentication.rs", "keys_of_an_issuer_are_followed_when_they_rotate"),
    ("JwtSpec.jwksUrl", "server/tests/house/authentication.rs", "keys_of_an_issuer_are_followed_when_they_rotate"),
    ("JwtSpec.leeway", "server/tests/house/authentication.rs", "keys_of_an_issuer_are_followed_when_they_rotate"),
    ("OpaFilterSpec", "edge-filters/src/opa_filter/tests.rs", "the_policy_sees_what_it_may"),
    ("FaultInjectorSpec", "edge-filters/src/fault_injector.rs", "no_more_wait_than_may_and_those_beyond_are_counted"),
    ("AbortSpec", "edge-filters/src/fault_injector.rs", "requests_are_refused_by_share_and_header"),
    ("DelaySpec", "edge-filters/src/fault_injector.rs", "no_more_wait_than_may_and_those_beyond_are_counted"),
    ("KafkaSpec.backend", "server/tests/house/kafka.rs", "records_wait_on_disk_for_kafka_and_go_in_their_order"),
    ("KafkaSpec.sync", "server/tests/house/kafka.rs", "records_wait_on_disk_for_kafka_and_go_in_their_order"),
    ("KafkaSpec.topic", "edge-filters/src/kafka.rs", "topic_and_key_are_told_by_headers_or_the_document"),
    ("KafkaSpec.key", "edge-filters/src/kafka.rs", "topic_and_key_are_told_by_headers_or_the_document"),
    (
        "KafkaSpec.mtls",
        "server/tests/house/collectors/kafka.rs",
        "kafka_takes_lines_within_tls_of_certificates_and_users_it_knows",
    ),
    (
        "KafkaSpec.sasl",
        "server/tests/house/collectors/kafka.rs",
        "kafka_takes_lines_within_tls_of_certificates_and_users_it_knows",
    ),
    ("TopicSpec", "edge-filters/src/kafka.rs", "topic_and_key_are_told_by_headers_or_the_document"),
    ("DynamicSpec", "edge-filters/src/kafka.rs", "topic_and_key_are_told_by_headers_or_the_document"),
    ("LotterySpec", "edge-filters/src/lottery.rs", "who_is_lucky_once_is_lucky_always_and_no_more_than_there_may_be"),
    ("PolicySpec.key", "edge-filters/src/rate_limiter.rs", "each_key_is_counted_by_itself"),
    (
        "PolicySpec.whenAlone",
        "edge-filters/src/rate_limiter.rs",
        "who_hears_nothing_of_an_owner_does_as_the_document_says",
    ),
    (
        "RateLimiter/KeySpec.ipv6PrefixLength",
        "edge-filters/src/rate_limiter.rs",
        "whoever_has_a_network_of_ipv6_is_one_client",
    ),
    ("PolicySpec.ban", "edge-filters/src/rate_limiter.rs", "a_client_that_is_refused_again_and_again_is_banned"),
    ("BanSpec", "edge-filters/src/rate_limiter.rs", "a_client_that_is_refused_again_and_again_is_banned"),
    ("PolicySpec.maxConcurrent", "edge-filters/src/rate_limiter.rs", "a_client_has_so_many_requests_under_way"),
    ("PolicySpec.burst", "edge-filters/src/rate_limiter.rs", "each_key_is_counted_by_itself"),
    ("PolicySpec.fields", "edge-filters/src/rate_limiter.rs", "each_key_is_counted_by_itself"),
    ("PolicySpec.keysMax", "edge-filters/src/rate_limiter.rs", "each_key_is_counted_by_itself"),
    ("PolicySpec.scope", "server/tests/house/sale.rs", "three_machines_keep_one_limit_and_go_on_when_two_are_gone"),
    ("CapacitySpec", "edge-filters/src/waiting_room/tests.rs", "a_sale_from_before_its_start_until_it_is_sold_out"),
    ("Kafka/KeySpec.default", "edge-filters/src/kafka.rs", "topic_and_key_are_told_by_headers_or_the_document"),
    ("Kafka/KeySpec.dynamic", "edge-filters/src/kafka.rs", "topic_and_key_are_told_by_headers_or_the_document"),
    ("RateLimiter/KeySpec.from", "edge-filters/src/rate_limiter.rs", "each_key_is_counted_by_itself"),
    ("RateLimiter/KeySpec.name", "edge-filters/src/rate_limiter.rs", "each_key_is_counted_by_itself"),
    ("LiteralSpec", "edge-filters/src/validator/signature/tests.rs", "the_vectors_of_aws"),
    ("BasicAuthSpec.mode", "server/tests/house/authentication.rs", "users_of_a_file_get_in_and_the_file_may_change"),
    (
        "BasicAuthSpec.userFile",
        "server/tests/house/authentication.rs",
        "users_of_a_file_get_in_and_the_file_may_change",
    ),
    (
        "SignatureSpec.accessKeys",
        "server/tests/house/authentication.rs",
        "signed_requests_pass_and_changed_ones_do_not",
    ),
    ("SignatureSpec.ttl", "server/tests/house/authentication.rs", "signed_requests_pass_and_changed_ones_do_not"),
    (
        "SignatureSpec.excludeBody",
        "edge-filters/src/validator/signature/tests.rs",
        "a_body_may_be_left_out_of_what_is_signed",
    ),
    ("SignatureSpec.literal", "edge-filters/src/validator/signature/tests.rs", "the_vectors_of_aws"),
    ("KeyAuthSpec", "edge-filters/src/validator/key_auth.rs", "keys_stand_where_the_document_says"),
    ("ConsumerSpec.groups", "edge-filters/src/validator/key_auth.rs", "keys_stand_where_the_document_says"),
    (
        "ConsumerSpec.keys",
        "server/tests/house/authentication.rs",
        "consumers_are_known_by_their_keys_and_have_their_quotas",
    ),
    ("ConsumerSpec.quota", "edge-pipeline/src/consumers.rs", "quotas_are_of_keys_and_of_all_together"),
    ("WaitingRoomSpec.order", "edge-filters/src/waiting_room/tests.rs", "the_order_is_that_of_the_document"),
    ("WaitingRoomSpec.lotteryRound", "edge-filters/src/waiting_room/tests.rs", "the_order_is_that_of_the_document"),
    ("WaitingRoomSpec.numberHeader", "edge-filters/src/waiting_room/tests.rs", "the_order_is_that_of_the_document"),
    ("WaitingRoomSpec.page", "edge-filters/src/waiting_room/tests.rs", "what_is_said_is_as_the_document_says"),
    (
        "WaitingRoomSpec.notStartedStatus",
        "edge-filters/src/waiting_room/tests.rs",
        "what_is_said_is_as_the_document_says",
    ),
    ("WaitingRoomSpec.waitingStatus", "edge-filters/src/waiting_room/tests.rs", "what_is_said_is_as_the_document_says"),
    ("WaitingRoomSpec.cookieDomain", "edge-filters/src/waiting_room/tests.rs", "what_is_said_is_as_the_document_says"),
    ("WaitingRoomSpec.bindAddress", "edge-filters/src/waiting_room/tests.rs", "a_cookie_may_be_bound_to_an_address"),
    ("WaitingRoomSpec", "edge-filters/src/waiting_room/tests.rs", "a_sale_from_before_its_start_until_it_is_sold_out"),
    (
        "OidcAdaptorSpec.authorizationEndpoint",
        "server/tests/house/openid.rs",
        "who_logs_in_passes_and_nobody_else_does",
    ),
    ("OidcAdaptorSpec.clientId", "server/tests/house/openid.rs", "who_logs_in_passes_and_nobody_else_does"),
    ("OidcAdaptorSpec.clientSecret", "server/tests/house/openid.rs", "who_logs_in_passes_and_nobody_else_does"),
    ("OidcAdaptorSpec.cookieName", "server/tests/house/openid.rs", "who_logs_in_passes_and_nobody_else_does"),
    ("OidcAdaptorSpec.discovery", "server/tests/house/openid.rs", "who_logs_in_passes_and_nobody_else_does"),
    ("OidcAdaptorSpec.logoutPath", "server/tests/house/openid.rs", "who_logs_in_passes_and_nobody_else_does"),
    ("OidcAdaptorSpec.redirectURI", "server/tests/house/openid.rs", "who_logs_in_passes_and_nobody_else_does"),
    ("OidcAdaptorSpec.tokenEndpoint", "server/tests/house/openid.rs", "who_logs_in_passes_and_nobody_else_does"),
    (
        "TokenIntrospectSpec.basicAuth",
        "server/tests/house/authentication.rs",
        "tokens_are_introspected_once_and_remembered",
    ),
    (
        "TokenIntrospectSpec.cacheTtl",
        "server/tests/house/authentication.rs",
        "tokens_are_introspected_once_and_remembered",
    ),
    (
        "TokenIntrospectSpec.clientId",
        "server/tests/house/authentication.rs",
        "tokens_are_introspected_once_and_remembered",
    ),
    (
        "TokenIntrospectSpec.clientSecret",
        "server/tests/house/authentication.rs",
        "tokens_are_introspected_once_and_remembered",
    ),
    (
        "TokenIntrospectSpec.endPoint",
        "server/tests/house/authentication.rs",
        "tokens_are_introspected_once_and_remembered",
    ),
    (
        "TokenIntrospectSpec.maxInFlight",
        "server/tests/house/authentication.rs",
        "tokens_are_introspected_once_and_remembered",
    ),
    (
        "TokenIntrospectSpec.timeout",
        "server/tests/house/authentication.rs",
        "tokens_are_introspected_once_and_remembered",
    ),
    ("ProxyWasmSpec.code", "edge-wasm/src/proxy_wasm/tests.rs", "a_filter_sees_a_request_twice_and_changes_it"),
    (
        "ProxyWasmSpec.configuration",
        "edge-wasm/src/proxy_wasm/tests.rs",
        "a_call_that_fails_is_told_and_a_tick_lets_requests_go_on",
    ),
    (
        "ProxyWasmSpec.upstreams",
        "edge-wasm/src/proxy_wasm/tests.rs",
        "a_call_that_fails_is_told_and_a_tick_lets_requests_go_on",
    ),
    ("ProxyWasmSpec.timeout", "edge-wasm/src/proxy_wasm/tests.rs", "hostile_programs_are_ended_and_counted"),
    ("ProxyWasmSpec.memoryLimitMiB", "edge-wasm/src/proxy_wasm/tests.rs", "hostile_programs_are_ended_and_counted"),
    ("ProxyWasmSpec.fuel", "edge-wasm/src/proxy_wasm/tests.rs", "hostile_programs_are_ended_and_counted"),
    ("ProxyWasmSpec.failOpen", "edge-wasm/src/proxy_wasm/tests.rs", "hostile_programs_are_ended_and_counted"),
    ("ProxyWasmSpec.rootId", "edge-wasm/src/proxy_wasm/tests.rs", "a_program_is_told_which_of_its_filters_it_is"),
    (
        "ProxyWasmSpec.vmConfiguration",
        "edge-wasm/src/proxy_wasm/tests.rs",
        "a_program_is_told_which_of_its_filters_it_is",
    ),
    ("ProxyWasmSpec.maxCalls", "edge-wasm/src/proxy_wasm/tests.rs", "so_many_calls_are_made_at_a_time"),
    ("ProxyWasmSpec.pauseTimeout", "edge-wasm/src/proxy_wasm/tests.rs", "a_pause_lasts_so_long_and_no_longer"),
    ("ScriptSpec.script", "edge-filters/src/script/tests.rs", "results"),
    ("ScriptSpec.maxOperations", "edge-filters/src/script/tests.rs", "hostile_scripts_are_ended_and_counted"),
    ("ScriptSpec.timeout", "edge-filters/src/script/tests.rs", "time_ends_a_script_too"),
    (
        "ScriptSpec.failOpen",
        "edge-filters/src/script/tests.rs",
        "a_failure_leaves_the_request_as_it_came_where_it_may_go_on",
    ),
    ("WasmHostSpec.fuel", "edge-wasm/src/wasm_host/tests.rs", "what_a_program_does_is_counted_where_fuel_says_so"),
    ("WasmHostSpec.code", "edge-wasm/src/wasm_host/tests.rs", "code_is_read_again_and_bad_code_changes_nothing"),
    ("WasmHostSpec.failOpen", "edge-wasm/src/wasm_host/tests.rs", "fail_open_lets_the_request_on_as_it_came"),
    (
        "WasmHostSpec.maxConcurrency",
        "edge-wasm/src/wasm_host/tests.rs",
        "requests_wait_for_the_cluster_and_for_vms_and_nobody_is_lost",
    ),
    ("WasmHostSpec.parameters", "edge-wasm/src/wasm_host/tests.rs", "parameters_are_told_at_the_start"),
    ("WasmHostSpec.memoryLimitMiB", "edge-wasm/src/wasm_host/tests.rs", "a_program_grows_to_its_bound_and_not_beyond"),
    (
        "WasmHostSpec.timeout",
        "edge-wasm/src/wasm_host/tests.rs",
        "one_that_loops_or_grows_or_lies_is_ended_and_counted",
    ),
    ("RateLimiter/KeySpec.cookieName", "edge-filters/src/rate_limiter.rs", "a_claim_is_read_where_it_was_checked"),
    ("CertExtractorSpec", "edge-filters/src/cert_extractor.rs", "fields_of_both_names"),
    (
        "CircuitBreakerSpec.failureRateThreshold",
        "edge-upstream/src/circuit.rs",
        "opens_at_the_threshold_and_closes_when_calls_go_well",
    ),
    (
        "CircuitBreakerSpec.maxWaitDurationInHalfOpenState",
        "edge-upstream/src/circuit.rs",
        "half_open_for_too_long_opens",
    ),
    (
        "CircuitBreakerSpec.minimumNumberOfCalls",
        "edge-upstream/src/circuit.rs",
        "opens_at_the_threshold_and_closes_when_calls_go_well",
    ),
    (
        "CircuitBreakerSpec.permittedNumberOfCallsInHalfOpenState",
        "edge-upstream/src/circuit.rs",
        "half_open_lets_a_few_through_and_opens_again",
    ),
    (
        "CircuitBreakerSpec.slidingWindowSize",
        "edge-upstream/src/circuit.rs",
        "opens_at_the_threshold_and_closes_when_calls_go_well",
    ),
    ("CircuitBreakerSpec.slidingWindowType", "edge-upstream/src/circuit.rs", "seconds_beyond_the_window_are_forgotten"),
    ("CircuitBreakerSpec.slowCallDurationThreshold", "edge-upstream/src/circuit.rs", "slow_calls_open_it_too"),
    ("CircuitBreakerSpec.slowCallRateThreshold", "edge-upstream/src/circuit.rs", "slow_calls_open_it_too"),
    (
        "CircuitBreakerSpec.waitDurationInOpenState",
        "edge-upstream/src/circuit.rs",
        "half_open_lets_a_few_through_and_opens_again",
    ),
    ("DestinationSpec", "edge-listeners/tests/forward.rs", "destinations_are_refused_unless_listed"),
    ("BodyMatchSpec", "edge-upstream/src/check/tests.rs", "what_is_asked_and_what_counts_as_well"),
    ("GrpcPoolSpec.healthCheck", "server/tests/house/health_checks.rs", "servers_of_all_kinds_are_asked"),
    ("HeaderCheckSpec", "edge-upstream/src/check/tests.rs", "what_is_asked_and_what_counts_as_well"),
    ("HealthCheckSpec", "edge-upstream/src/check/tests.rs", "what_is_asked_and_what_counts_as_well"),
    (
        "HealthCheckSpec.reuseConnection",
        "edge-upstream/src/check/tests.rs",
        "a_server_that_is_well_is_asked_over_few_connections_where_it_may_be",
    ),
    ("HealthMatchSpec", "edge-upstream/src/check/tests.rs", "what_is_asked_and_what_counts_as_well"),
    ("AutoCertManagerSpec", "server/tests/house/auto_cert.rs", "a_name_gets_its_certificate_and_keeps_it"),
    ("OnDemandSpec", "server/tests/house/auto_cert.rs", "a_name_that_clients_ask_for_gets_its_certificate_with_leave"),
    ("AutoCertDomainSpec", "server/tests/house/auto_cert.rs", "a_wildcard_is_proved_by_a_record"),
    (
        "ExternalAccountSpec",
        "server/tests/house/auto_cert.rs",
        "an_account_is_bound_to_another_and_profiles_are_asked_for",
    ),
    ("DnsProviderSpec", "control-certificates/src/dns/tests.rs", "updates_are_signed_and_records_are_looked_for"),
    ("HttpServerSpec.autoCert", "server/tests/house/auto_cert.rs", "a_name_gets_its_certificate_and_keeps_it"),
    ("EtcdServiceRegistrySpec", "server/tests/house/registries.rs", "servers_come_from_etcd_and_stay_while_it_is_gone"),
    ("ConsulServiceRegistrySpec", "control-registries/src/consul.rs", "consul_is_asked_as_the_document_says"),
    ("EurekaServiceRegistrySpec", "server/tests/house/registries.rs", "servers_come_from_eureka_as_recorded"),
    ("NacosServiceRegistrySpec", "control-registries/src/nacos.rs", "nacos_is_asked_as_the_document_says"),
    ("NacosServerSpec", "control-registries/src/nacos.rs", "nacos_is_asked_as_the_document_says"),
    ("ZookeeperServiceRegistrySpec", "server/tests/house/registries.rs", "servers_come_from_zookeeper"),
    (
        "DnsServiceRegistrySpec",
        "control-registries/src/dns.rs",
        "addresses_have_the_port_of_the_document_or_of_the_name",
    ),
    (
        "IngressControllerSpec",
        "server/tests/house/ingress.rs",
        "ingresses_are_served_and_served_on_whatever_becomes_of_the_api_server",
    ),
    ("GatewayControllerSpec", "server/tests/house/gateway.rs", "gateways_are_served_and_their_statuses_say_how"),
    ("KubernetesServiceRegistrySpec", "server/tests/house/ingress.rs", "servers_come_from_the_slices_of_services"),
    (
        "BasicAuthSpec.users",
        "server/tests/house/ingress.rs",
        "what_of_an_ingress_is_not_as_it_is_written_is_told_where_people_look",
    ),
    ("PoolSpec.serviceName", "server/tests/house/registries.rs", "servers_come_from_etcd_and_stay_while_it_is_gone"),
    ("WebSocketPoolSpec.serviceName", "edge-filters/src/websocket_proxy.rs", "its_pools_are_those_of_a_proxy"),
    ("GrpcPoolSpec.serviceName", "edge-filters/src/grpc_proxy.rs", "its_pools_are_those_of_a_proxy"),
    ("GrpcPoolSpec.maxConcurrency", "edge-filters/src/grpc_proxy.rs", "its_pools_are_those_of_a_proxy"),
    ("GrpcPoolSpec.queue", "edge-filters/src/grpc_proxy.rs", "its_pools_are_those_of_a_proxy"),
    ("GrpcPoolSpec.slowStart", "edge-filters/src/grpc_proxy.rs", "its_pools_are_those_of_a_proxy"),
    ("LoadBalanceSpec.cookieHashKey", "edge-upstream/src/balance/tests.rs", "maglev_goes_by_what_the_document_says"),
    ("LoadBalanceSpec.hashBalanceFactor", "edge-upstream/src/balance/tests.rs", "a_hot_key_is_helped_out_with"),
    ("LoadBalanceSpec.stickySession", "edge-filters/tests/balancing.rs", "a_cookie_of_ours_leads_back"),
    ("StickySessionSpec", "edge-filters/tests/balancing.rs", "a_cookie_of_ours_leads_back"),
    ("PoolSpec.maxConcurrency", "edge-filters/tests/balancing.rs", "each_server_has_as_many_requests_as_it_may"),
    ("PoolSpec.queue", "edge-filters/tests/balancing.rs", "requests_wait_in_turn_and_not_for_ever"),
    ("QueueSpec", "edge-filters/tests/balancing.rs", "requests_wait_in_turn_and_not_for_ever"),
    ("PoolSpec.slowStart", "edge-upstream/src/balance/tests.rs", "a_newcomer_gets_its_share_by_and_by"),
    ("PoolSpec.weight", "edge-filters/tests/balancing.rs", "pools_divide_what_no_filter_took"),
    ("ProxySpec.split", "edge-filters/tests/balancing.rs", "pools_divide_what_no_filter_took"),
    ("SplitSpec", "edge-upstream/src/matcher.rs", "pools_divide_requests_and_a_change_moves_few"),
    ("RequestMatcherSpec.cookies", "edge-upstream/src/matcher.rs", "cookies_select_as_headers_do"),
    ("RequestMatcherSpec.cookieHashKey", "edge-upstream/src/matcher.rs", "a_share_of_users_grows_and_keeps_who_is_in"),
    ("ServerSpec.maxConcurrency", "edge-filters/tests/balancing.rs", "each_server_has_as_many_requests_as_it_may"),
    ("WebSocketPoolSpec.http2", "edge-filters/src/websocket_proxy.rs", "its_pools_are_those_of_a_proxy"),
    ("WebSocketPoolSpec.http3", "edge-filters/src/websocket_proxy.rs", "its_pools_are_those_of_a_proxy"),
    ("WebSocketPoolSpec.maxConcurrency", "edge-filters/src/websocket_proxy.rs", "its_pools_are_those_of_a_proxy"),
    ("WebSocketPoolSpec.queue", "edge-filters/src/websocket_proxy.rs", "its_pools_are_those_of_a_proxy"),
    ("WebSocketPoolSpec.slowStart", "edge-filters/src/websocket_proxy.rs", "its_pools_are_those_of_a_proxy"),
    ("PoolSpec.retryBudget", "edge-filters/tests/resending.rs", "no_more_is_tried_again_than_the_budget_has"),
    ("RetryBudgetSpec", "edge-filters/tests/resending.rs", "no_more_is_tried_again_than_the_budget_has"),
    ("PoolSpec.hedging", "edge-filters/tests/resending.rs", "a_second_server_is_asked_where_the_first_takes_long"),
    ("HedgingSpec", "edge-filters/tests/resending.rs", "no_more_is_doubled_than_the_document_says"),
    (
        "ProxySpec.maxRedirection",
        "edge-filters/tests/resending.rs",
        "redirects_are_followed_as_far_as_the_document_says",
    ),
    ("HttpServerSpec.accessLogCredentials", "server/tests/house/access_log.rs", "a_server_may_show_credentials"),
    (
        "HttpServerSpec.accessLogFormat",
        "server/tests/house/access_log.rs",
        "nothing_in_it_is_forged_and_no_credential_is_in_it",
    ),
    ("HttpServerSpec.address", "edge-listeners/tests/http.rs", "another_port"),
    ("HttpServerSpec.bodyTimeout", "edge-listeners/tests/http.rs", "time_outs_of_the_document"),
    ("HttpServerSpec.caCertBase64", "edge-listeners/tests/tls.rs", "clients_show_certificates"),
    ("HttpServerSpec.tlsHosts", "edge-listeners/tests/tls.rs", "hosts_are_kept_apart_whatever_certificate_they_share"),
    ("HttpServerSpec.certBase64", "server/tests/house/attacks/tls.rs", "renegotiation"),
    ("HttpServerSpec.certs", "edge-listeners/tests/tls.rs", "the_server_name_selects_the_certificate"),
    ("HttpServerSpec.headTimeout", "edge-listeners/tests/http.rs", "time_outs_of_the_document"),
    ("HttpServerSpec.http2", "edge-listeners/tests/tls.rs", "http2_is_agreed_on"),
    ("HttpServerSpec.https", "edge-listeners/tests/tls.rs", "tls_is_turned_on_and_off"),
    ("HttpServerSpec.keepAliveTimeout", "edge-listeners/tests/http.rs", "time_outs_of_the_document"),
    ("HttpServerSpec.keyBase64", "server/tests/house/attacks/tls.rs", "renegotiation"),
    ("HttpServerSpec.keys", "edge-listeners/tests/tls.rs", "the_server_name_selects_the_certificate"),
    ("HttpServerSpec.maxConnections", "edge-listeners/tests/http.rs", "no_more_connections_than_allowed"),
    ("HttpServerSpec.port", "edge-listeners/tests/http.rs", "another_port"),
    ("HttpServerSpec.requestId", "edge-listeners/tests/watch.rs", "an_id_goes_in_and_out"),
    ("HttpServerSpec.sendTimeout", "server/tests/house/attacks/slow.rs", "slow_readers"),
    ("JwtSpec.publicKey", "edge-filters/src/validator/jwt.rs", "public_keys"),
    ("L4PoolSpec.healthCheck", "server/tests/house/health_checks.rs", "servers_of_all_kinds_are_asked"),
    (
        "LoadBalanceSpec.healthCheck",
        "edge-filters/tests/health_checks.rs",
        "an_unwell_server_gets_nothing_until_it_passes_again",
    ),
    ("MachineSpec", "control-state/src/tests.rs", "steering_follows_members_and_documents"),
    ("Mock/RuleSpec.delay", "edge-filters/src/mock.rs", "a_delay_is_waited_for"),
    (
        "MtlsSpec",
        "edge-filters/tests/proxy.rs",
        "our_certificate_is_shown_and_no_identity_uses_the_connections_of_another",
    ),
    (
        "OutlierDetectionSpec.baseEjectionTime",
        "edge-upstream/src/outlier.rs",
        "what_answers_with_errors_rests_longer_each_time_and_one_request_tries_it",
    ),
    (
        "OutlierDetectionSpec.consecutiveErrors",
        "edge-filters/tests/proxy.rs",
        "servers_that_answer_with_errors_are_left_out_where_asked_for",
    ),
    (
        "OutlierDetectionSpec.maxEjectionPercent",
        "edge-upstream/src/outlier.rs",
        "never_more_than_the_share_and_never_all",
    ),
    (
        "OutlierDetectionSpec.panicThreshold",
        "edge-upstream/src/outlier.rs",
        "nobody_is_left_out_where_too_few_are_left",
    ),
    ("PathSpec.backendPool", "server/tests/house/quick_start.rs", "pool_written_into_the_server"),
    ("PolicySpec.limitRefreshPeriod", "edge-filters/src/rate_limiter.rs", "a_waiting_request_holds_no_thread"),
    ("PolicySpec.name", "edge-filters/src/rate_limiter.rs", "state_survives_where_rule_and_policy_do"),
    ("PolicySpec.timeoutDuration", "edge-filters/src/rate_limiter.rs", "a_waiting_request_holds_no_thread"),
    ("LifetimeSpec", "edge-listeners/tests/cache.rs", "each_field_of_the_document_counts"),
    ("MemoryCacheSpec", "edge-filters/tests/proxy.rs", "answers_are_given_again_from_memory"),
    ("PoolSpec.memoryCache", "edge-filters/tests/proxy.rs", "answers_are_given_again_from_memory"),
    ("PoolSpec.connectTimeout", "edge-filters/tests/proxy.rs", "connecting_has_a_deadline_of_its_own"),
    (
        "PoolSpec.healthCheck",
        "edge-filters/tests/health_checks.rs",
        "an_unwell_server_gets_nothing_until_it_passes_again",
    ),
    (
        "PoolSpec.outlierDetection",
        "edge-filters/tests/proxy.rs",
        "servers_that_answer_with_errors_are_left_out_where_asked_for",
    ),
    ("PoolSpec.timeout", "edge-filters/tests/proxy.rs", "a_time_out_covers_the_body"),
    ("ProxySpec.maxIdleConns", "edge-filters/tests/proxy.rs", "each_worker_keeps_its_own_connections"),
    ("ProxySpec.maxIdleConnsPerHost", "edge-filters/tests/proxy.rs", "each_worker_keeps_its_own_connections"),
    ("ProxySpec.mirrorPool", "edge-filters/tests/proxy.rs", "copies_on_their_way_hold_a_bounded_number_of_bytes"),
    ("ProxySpec.mirrorPools", "edge-filters/tests/proxy.rs", "each_mirror_gets_a_copy"),
    ("ProxySpec.mtls", "edge-filters/tests/proxy.rs", "servers_are_believed_only_with_a_certificate_for_their_name"),
    ("RetrySpec.backOffPolicy", "edge-upstream/src/retry.rs", "pauses_grow_and_vary_as_written"),
    ("RetrySpec.randomizationFactor", "edge-upstream/src/retry.rs", "pauses_grow_and_vary_as_written"),
    ("RetrySpec.waitDuration", "edge-upstream/src/retry.rs", "pauses_grow_and_vary_as_written"),
    ("ServerSpec.weight", "edge-upstream/src/balance/tests.rs", "weights_are_honoured"),
    (
        "SimpleHttpProxySpec.allowedDestinations",
        "edge-listeners/tests/forward.rs",
        "destinations_are_refused_unless_listed",
    ),
    ("SimpleHttpProxySpec.connectTimeout", "edge-listeners/tests/forward.rs", "connecting_has_a_deadline_of_its_own"),
    ("SimpleHttpProxySpec.connectUdp", "edge-listeners/tests/forward.rs", "udp_goes_where_the_document_lets_it"),
    ("SimpleHttpProxySpec.idleTimeout", "edge-listeners/tests/forward.rs", "a_silent_tunnel_ends_when_its_filter_says"),
    ("SimpleHttpProxySpec.maxIdleConns", "edge-listeners/tests/forward.rs", "connections_to_destinations_are_kept"),
    (
        "SimpleHttpProxySpec.maxIdleConnsPerHost",
        "edge-listeners/tests/forward.rs",
        "connections_to_destinations_are_kept",
    ),
    (
        "SimpleHttpProxySpec.retryPolicy",
        "edge-listeners/tests/forward.rs",
        "what_failed_is_tried_again_where_asked_for",
    ),
    ("SimpleHttpProxySpec.serverMaxBodySize", "edge-listeners/tests/forward.rs", "answers_have_their_bounds"),
    ("SimpleHttpProxySpec.timeout", "edge-listeners/tests/forward.rs", "what_cannot_be_reached_is_503"),
    ("SourcePrefixLength", "edge-agent/src/steer.rs", "every_field_of_a_virtual_ip_reaches_the_kernel"),
    ("StringMatcher.empty", "base-model/src/string_matcher.rs", "forms_are_alternatives"),
    ("VipLimitsSpec", "edge-agent/src/steer.rs", "every_field_of_a_virtual_ip_reaches_the_kernel"),
    ("VirtualIpSpec", "edge-agent/src/steer.rs", "every_field_of_a_virtual_ip_reaches_the_kernel"),
    (
        "WebSocketPoolSpec.clientMaxMsgSize",
        "edge-listeners/tests/websockets.rs",
        "a_message_that_is_too_long_ends_both_sides",
    ),
    (
        "WebSocketPoolSpec.clntMaxMsgSize",
        "edge-listeners/tests/websockets.rs",
        "a_message_that_is_too_long_ends_both_sides",
    ),
    ("WebSocketPoolSpec.connectTimeout", "edge-filters/src/websocket_proxy.rs", "its_pools_are_those_of_a_proxy"),
    ("WebSocketPoolSpec.outlierDetection", "edge-filters/src/websocket_proxy.rs", "its_pools_are_those_of_a_proxy"),
    (
        "WebSocketPoolSpec.serverMaxMsgSize",
        "edge-listeners/tests/websockets.rs",
        "a_message_of_the_server_has_its_own_bound",
    ),
    (
        "WebSocketPoolSpec.svrMaxMsgSize",
        "edge-listeners/tests/websockets.rs",
        "a_message_of_the_server_has_its_own_bound",
    ),
    (
        "WebSocketProxySpec.idleTimeout",
        "edge-listeners/tests/websockets.rs",
        "a_silent_websocket_is_told_before_it_ends",
    ),
    ("WebSocketProxySpec.mtls", "edge-filters/src/websocket_proxy.rs", "its_pools_are_those_of_a_proxy"),
    ("GrpcMethodSpec", "base-model/src/grpc_server.rs", "every_field_reaches_the_server_of_http2"),
    ("GrpcRuleSpec", "base-model/src/grpc_server.rs", "every_field_reaches_the_server_of_http2"),
    ("GrpcServerSpec.accessLogFormat", "base-model/src/grpc_server.rs", "every_field_reaches_the_server_of_http2"),
    ("GrpcServerSpec.address", "base-model/src/grpc_server.rs", "every_field_reaches_the_server_of_http2"),
    ("GrpcServerSpec.caCertBase64", "base-model/src/grpc_server.rs", "every_field_reaches_the_server_of_http2"),
    ("GrpcServerSpec.certBase64", "base-model/src/grpc_server.rs", "every_field_reaches_the_server_of_http2"),
    ("GrpcServerSpec.certs", "base-model/src/grpc_server.rs", "every_field_reaches_the_server_of_http2"),
    ("GrpcServerSpec.globalFilter", "base-model/src/grpc_server.rs", "every_field_reaches_the_server_of_http2"),
    ("GrpcServerSpec.https", "base-model/src/grpc_server.rs", "every_field_reaches_the_server_of_http2"),
    ("GrpcServerSpec.ipFilter", "base-model/src/grpc_server.rs", "every_field_reaches_the_server_of_http2"),
    ("GrpcServerSpec.keyBase64", "base-model/src/grpc_server.rs", "every_field_reaches_the_server_of_http2"),
    ("GrpcServerSpec.keys", "base-model/src/grpc_server.rs", "every_field_reaches_the_server_of_http2"),
    ("GrpcServerSpec.maxConnectionIdle", "base-model/src/grpc_server.rs", "every_field_reaches_the_server_of_http2"),
    ("GrpcServerSpec.maxConnectionAge", "edge-listeners/tests/http2.rs", "connections_of_grpc_grow_old"),
    ("GrpcServerSpec.maxConnectionAgeGrace", "edge-listeners/tests/http2.rs", "connections_of_grpc_grow_old"),
    (
        "GrpcServerSpec.keepaliveTime",
        "edge-listeners/tests/http2.rs",
        "clients_of_grpc_are_asked_whether_they_are_there",
    ),
    (
        "GrpcServerSpec.keepaliveTimeout",
        "edge-listeners/tests/http2.rs",
        "clients_of_grpc_are_asked_whether_they_are_there",
    ),
    (
        "GrpcServerSpec.minTimeClientSendPing",
        "edge-listeners/tests/http2.rs",
        "clients_of_grpc_may_ask_as_often_as_the_document_says",
    ),
    (
        "GrpcServerSpec.permitClintSendPingWithoutStream",
        "edge-listeners/tests/http2.rs",
        "clients_of_grpc_may_ask_as_often_as_the_document_says",
    ),
    ("GrpcServerSpec.maxConnections", "base-model/src/grpc_server.rs", "every_field_reaches_the_server_of_http2"),
    ("GrpcServerSpec.maxHops", "edge-listeners/tests/loops.rs", "calls_of_grpc_go_round_as_often_as_their_server_says"),
    ("GrpcServerSpec.port", "base-model/src/grpc_server.rs", "every_field_reaches_the_server_of_http2"),
    ("GrpcServerSpec.proxyProtocol", "base-model/src/grpc_server.rs", "every_field_reaches_the_server_of_http2"),
    ("GrpcServerSpec.requestId", "base-model/src/grpc_server.rs", "every_field_reaches_the_server_of_http2"),
    ("GrpcServerSpec.rules", "base-model/src/grpc_server.rs", "every_field_reaches_the_server_of_http2"),
    ("GrpcServerSpec.trustedProxies", "base-model/src/grpc_server.rs", "every_field_reaches_the_server_of_http2"),
    ("GrpcServerSpec.xForwardedFor", "base-model/src/grpc_server.rs", "every_field_reaches_the_server_of_http2"),
    ("GrpcServerSpec.grpcWeb", "server/tests/house/grpc.rs", "grpcio_speaks_it_in_four_shapes"),
    ("GrpcProxySpec.timeout", "server/tests/house/grpc.rs", "grpcio_speaks_it_in_four_shapes"),
    ("GrpcMatcherSpec", "edge-filters/src/grpc_proxy.rs", "its_pools_are_those_of_a_proxy"),
    ("GrpcPoolSpec.circuitBreakerPolicy", "edge-filters/src/grpc_proxy.rs", "its_pools_are_those_of_a_proxy"),
    ("GrpcPoolSpec.filter", "edge-filters/src/grpc_proxy.rs", "its_pools_are_those_of_a_proxy"),
    ("GrpcPoolSpec.loadBalance", "edge-filters/src/grpc_proxy.rs", "its_pools_are_those_of_a_proxy"),
    ("GrpcPoolSpec.outlierDetection", "edge-filters/src/grpc_proxy.rs", "its_pools_are_those_of_a_proxy"),
    ("GrpcPoolSpec.serverTags", "edge-filters/src/grpc_proxy.rs", "its_pools_are_those_of_a_proxy"),
    ("GrpcPoolSpec.servers", "edge-filters/src/grpc_proxy.rs", "its_pools_are_those_of_a_proxy"),
    ("GrpcPoolSpec.setUpstreamHost", "edge-filters/src/grpc_proxy.rs", "its_pools_are_those_of_a_proxy"),
    ("GrpcProxySpec.connectTimeout", "edge-filters/src/grpc_proxy.rs", "its_pools_are_those_of_a_proxy"),
    ("GrpcProxySpec.maxIdleConnsPerHost", "edge-filters/src/grpc_proxy.rs", "its_pools_are_those_of_a_proxy"),
    ("GrpcProxySpec.mtls", "edge-filters/src/grpc_proxy.rs", "its_pools_are_those_of_a_proxy"),
    ("GrpcProxySpec.pools", "edge-filters/src/grpc_proxy.rs", "its_pools_are_those_of_a_proxy"),
    ("HttpServerSpec.http3", "edge-listeners/tests/http3.rs", "it_is_turned_on_and_off"),
    ("HttpServerSpec.earlyData", "edge-listeners/tests/http3_early.rs", "safe_requests_are_served_at_once"),
    ("HttpServerSpec.maxHops", "edge-listeners/tests/loops.rs", "only_what_comes_back_is_counted"),
    ("HttpServerSpec.http3Only", "edge-listeners/tests/http3.rs", "it_is_turned_on_and_off"),
    (
        "HttpServerSpec.proxyProtocol",
        "edge-listeners/tests/proxy_protocol.rs",
        "trusted_proxies_must_say_and_nobody_else_may",
    ),
    (
        "PoolSpec.proxyProtocol",
        "edge-listeners/tests/proxy_protocol.rs",
        "servers_are_told_and_connections_are_of_one_client",
    ),
    (
        "L4PoolSpec.serviceName",
        "edge-upstream/src/l4_members.rs",
        "a_pool_follows_its_service_and_falls_back_to_what_it_lists",
    ),
    ("L4PoolSpec.connectTimeout", "edge-upstream/src/l4_pool.rs", "connecting_takes_as_long_as_the_document_says"),
    ("L4PoolSpec.loadBalance", "edge-upstream/src/l4_pool.rs", "servers_are_chosen_as_the_document_says"),
    ("L4PoolSpec.serverTags", "edge-upstream/src/l4_pool.rs", "servers_are_chosen_as_the_document_says"),
    ("L4ServerSpec.tags", "edge-upstream/src/l4_pool.rs", "servers_are_chosen_as_the_document_says"),
    ("L4ServerSpec.weight", "edge-upstream/src/l4_pool.rs", "servers_are_chosen_as_the_document_says"),
    ("L4PoolSpec.mtls", "edge-listeners/tests/tcp_proxy.rs", "headers_go_before_tls_in_and_out"),
    ("L4PoolSpec.tls", "edge-listeners/tests/tcp_proxy.rs", "headers_go_before_tls_in_and_out"),
    ("L4PoolSpec.refusedPermil", "edge-upstream/src/l4_pool.rs", "as_many_are_refused_as_the_document_says"),
    ("L4PoolSpec.name", "edge-listeners/tests/tcp_proxy.rs", "tls_ends_here_and_the_rules_go_by_what_was_agreed"),
    (
        "L4PoolSpec.outlierDetection",
        "edge-listeners/tests/tcp_proxy.rs",
        "a_server_that_breaks_off_counts_against_itself",
    ),
    ("L4PoolSpec.proxyProtocol", "edge-listeners/tests/tcp_proxy.rs", "servers_are_told_of_clients"),
    ("L4PoolSpec.servers", "edge-listeners/tests/tcp_proxy.rs", "a_change_is_for_new_connections"),
    ("L4ServerSpec.url", "edge-listeners/tests/tcp_proxy.rs", "a_change_is_for_new_connections"),
    (
        "L4ServerSpec.maxConnections",
        "edge-listeners/tests/tcp_proxy.rs",
        "servers_and_clients_have_as_many_connections_as_they_may",
    ),
    ("TcpProxySpec.address", "edge-listeners/tests/tcp_proxy.rs", "it_listens_where_the_document_says"),
    ("TcpProxySpec.port", "edge-listeners/tests/tcp_proxy.rs", "it_listens_where_the_document_says"),
    ("TcpProxySpec.maxConnections", "edge-listeners/tests/tcp_proxy.rs", "further_connections_wait"),
    (
        "TcpProxySpec.maxConnectionsPerIP",
        "edge-listeners/tests/tcp_proxy.rs",
        "servers_and_clients_have_as_many_connections_as_they_may",
    ),
    ("TcpProxySpec.idleTimeout", "edge-listeners/tests/tcp_proxy.rs", "silence_ends_and_so_does_a_listener"),
    ("TcpProxySpec.ipFilter", "edge-listeners/tests/tcp_proxy.rs", "who_may_not_come_in_is_closed"),
    ("TcpProxySpec.pools", "edge-listeners/tests/tcp_proxy.rs", "a_change_is_for_new_connections"),
    (
        "TcpProxySpec.handshakeTimeout",
        "edge-listeners/tests/tcp_proxy.rs",
        "a_client_is_known_by_what_trusted_proxies_say",
    ),
    (
        "TcpProxySpec.proxyProtocol",
        "edge-listeners/tests/tcp_proxy.rs",
        "a_client_is_known_by_what_trusted_proxies_say",
    ),
    ("TcpProxySpec.trustedProxies", "edge-listeners/tests/tcp_proxy.rs", "headers_of_others_are_refused"),
    ("TcpProxySpec.alpn", "edge-listeners/tests/tcp_proxy.rs", "tls_ends_here_and_the_rules_go_by_what_was_agreed"),
    (
        "TcpProxySpec.certBase64",
        "edge-listeners/tests/tcp_proxy.rs",
        "tls_ends_here_and_the_rules_go_by_what_was_agreed",
    ),
    (
        "TcpProxySpec.keyBase64",
        "edge-listeners/tests/tcp_proxy.rs",
        "tls_ends_here_and_the_rules_go_by_what_was_agreed",
    ),
    ("TcpProxySpec.rules", "edge-listeners/tests/tcp_proxy.rs", "tls_ends_here_and_the_rules_go_by_what_was_agreed"),
    ("TcpProxySpec.tls", "edge-listeners/tests/tcp_proxy.rs", "tls_ends_here_and_the_rules_go_by_what_was_agreed"),
    ("TcpRuleSpec", "edge-listeners/tests/tcp_proxy.rs", "tls_ends_here_and_the_rules_go_by_what_was_agreed"),
    ("TcpRuleSpec.tls", "edge-listeners/tests/tcp_proxy.rs", "tls_ends_here_for_some_names_and_passes_for_others"),
    ("TcpProxySpec.caCertBase64", "base-model/src/tcp_proxy.rs", "certificates_are_those_of_an_http_server"),
    ("TcpProxySpec.certs", "base-model/src/tcp_proxy.rs", "certificates_are_those_of_an_http_server"),
    ("TcpProxySpec.keys", "base-model/src/tcp_proxy.rs", "certificates_are_those_of_an_http_server"),
    ("UdpProxySpec.address", "edge-listeners/tests/udp_proxy.rs", "answers_come_from_where_they_were_asked_for"),
    ("UdpProxySpec.port", "edge-listeners/tests/udp_proxy.rs", "answers_come_from_where_they_were_asked_for"),
    ("UdpProxySpec.pools", "edge-listeners/tests/udp_proxy.rs", "a_session_stays_with_its_server"),
    (
        "UdpProxySpec.idleTimeout",
        "edge-listeners/tests/udp_proxy.rs",
        "silent_sessions_end_and_a_stopped_listener_lets_go_of_its_port",
    ),
    ("UdpProxySpec.ipFilter", "edge-listeners/tests/udp_proxy.rs", "who_may_not_come_in_is_dropped"),
    ("UdpProxySpec.maxSessions", "edge-listeners/tests/udp_proxy.rs", "sessions_are_bounded"),
    ("UdpProxySpec.maxSessionsPerIP", "edge-listeners/tests/udp_proxy.rs", "sessions_are_bounded"),
    ("UdpProxySpec.responses", "edge-listeners/tests/udp_proxy.rs", "a_session_ends_with_its_last_answer"),
    ("UdpProxySpec.proxyProtocol", "edge-listeners/tests/udp_proxy.rs", "datagrams_say_whom_they_are_from"),
    ("UdpProxySpec.trustedProxies", "edge-listeners/tests/udp_proxy.rs", "datagrams_say_whom_they_are_from"),
    ("WebSocketPoolSpec.healthCheck", "server/tests/house/health_checks.rs", "servers_of_all_kinds_are_asked"),
    ("WebSocketHealthCheckSpec", "edge-filters/src/websocket_proxy.rs", "what_its_servers_are_asked"),
    ("WebSocketProbeSpec", "edge-filters/src/websocket_proxy.rs", "what_its_servers_are_asked"),
];

/// Fields that do nothing, and all that is inside them: a document that sets each, and what is said about it.
const SAID: &[(&str, &str, &str)] = &[
    (
        "ZipkinDeprecatedSpec.hostport",
        "{kind: HTTPServer, port: 1, tracing: {serviceName: s, zipkin: {serverURL: 'http://a', sampleRate: 1, hostport: 'a:1'}}}",
        "warning: tracing.zipkin.hostport: has no effect",
    ),
    (
        "ZipkinDeprecatedSpec.sameSpan",
        "{kind: HTTPServer, port: 1, tracing: {serviceName: s, zipkin: {serverURL: 'http://a', sampleRate: 1, sameSpan: true}}}",
        "warning: tracing.zipkin.sameSpan: has no effect",
    ),
    (
        "ZipkinDeprecatedSpec.id128Bit",
        "{kind: HTTPServer, port: 1, tracing: {serviceName: s, zipkin: {serverURL: 'http://a', sampleRate: 1, id128Bit: true}}}",
        "warning: tracing.zipkin.id128Bit: has no effect",
    ),
    (
        "SpanLimitsSpec.linkCountLimit",
        "{kind: HTTPServer, port: 1, tracing: {serviceName: s, zipkin: {serverURL: 'http://a', sampleRate: 1}, spanLimits: {linkCountLimit: 1}}}",
        "warning: tracing.spanLimits.linkCountLimit: has no effect",
    ),
    (
        "SpanLimitsSpec.attributePerLinkCountLimit",
        "{kind: HTTPServer, port: 1, tracing: {serviceName: s, zipkin: {serverURL: 'http://a', sampleRate: 1}, spanLimits: {attributePerLinkCountLimit: 1}}}",
        "warning: tracing.spanLimits.attributePerLinkCountLimit: has no effect",
    ),
    ("HttpServerSpec.cacheSize", "{kind: HTTPServer, port: 1, cacheSize: 9}", "warning: cacheSize: has no effect"),
    (
        "PoolSpec.serviceRegistry",
        "pool: {serviceRegistry: r}",
        "warning: filters[0].pools[0].serviceRegistry: has no effect without serviceName",
    ),
    (
        "L4PoolSpec.serviceRegistry",
        "{kind: TCPProxy, port: 1, pools: [{servers: [{url: 'a:1'}], serviceRegistry: r}]}",
        "warning: pools[0].serviceRegistry: has no effect without serviceName",
    ),
    (
        "LoadBalanceSpec.forwardKey",
        "pool: {loadBalance: {forwardKey: X}}",
        "warning: filters[0].pools[0].loadBalance.forwardKey: has no effect",
    ),
    (
        "WebSocketPoolSpec.serviceRegistry",
        "{kind: Pipeline, filters: [{name: f, kind: WebSocketProxy, pools: [{servers: [{url: 'ws://a:1'}], serviceRegistry: r}]}]}",
        "warning: filters[0].pools[0].serviceRegistry: has no effect without serviceName",
    ),
    (
        "SignatureSpec.headerHoisting",
        "{kind: Pipeline, filters: [{name: f, kind: Validator, signature: {accessKeys: {a: b}, ttl: 5m, headerHoisting: {}}}]}",
        "warning: filters[0].signature.headerHoisting: has no effect",
    ),
    (
        "SignatureSpec.ignoredHeaders",
        "{kind: Pipeline, filters: [{name: f, kind: Validator, signature: {accessKeys: {a: b}, ttl: 5m, ignoredHeaders: [X-A]}}]}",
        "warning: filters[0].signature.ignoredHeaders: has no effect",
    ),
    (
        "SignatureSpec.accessKeyId",
        "{kind: Pipeline, filters: [{name: f, kind: Validator, signature: {accessKeys: {a: b}, ttl: 5m, accessKeyId: a}}]}",
        "warning: filters[0].signature.accessKeyId: has no effect",
    ),
    (
        "SignatureSpec.accessKeySecret",
        "{kind: Pipeline, filters: [{name: f, kind: Validator, signature: {accessKeys: {a: b}, ttl: 5m, accessKeySecret: a}}]}",
        "warning: filters[0].signature.accessKeySecret: has no effect",
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
    ("GrpcServerSpec.cacheSize", "{kind: GRPCServer, port: 1025, cacheSize: 9}", "warning: cacheSize: has no effect"),
    (
        "GrpcProxySpec.borrowTimeout",
        "{kind: Pipeline, filters: [{name: f, kind: GRPCProxy, borrowTimeout: 1s, pools: [{servers: [{url: 'http://a:1'}]}]}]}",
        "warning: filters[0].borrowTimeout: has no effect",
    ),
    (
        "GrpcPoolSpec.serviceRegistry",
        "{kind: Pipeline, filters: [{name: f, kind: GRPCProxy, pools: [{servers: [{url: 'http://a:1'}], serviceRegistry: r}]}]}",
        "warning: filters[0].pools[0].serviceRegistry: has no effect without serviceName",
    ),
];

/// Fields that do something in some documents: one where they do not, and what is said about it.
const SAID_HERE: &[(&str, &str)] = &[
    (
        "pool: {loadBalance: {policy: forward, forwardKey: X}}",
        "loadBalance.policy: has no effect: servers are not named by requests",
    ),
    ("pool: {loadBalance: {headerHashKey: X}}", "loadBalance.headerHashKey: has no effect: only policies headerHash"),
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

/// A token signed with `key`.
const TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhIn0.1YNMaPyC6Rq9KClxRJou-zDNgzLHDpyCYZfpxQLRpsc";

/// Opens a WebSocket.
const OPEN: &str = "Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: \
                    dGhlIHNhbXBsZSBub25jZQ==";

#[test]
fn every_field_makes_a_difference_or_is_spoken_of() {
    let backends = [backend("one"), backend("two")];
    let mut shown = BTreeSet::new();
    let (mut idle, mut broken) = (Vec::new(), Vec::new());
    for document in DOCUMENTS {
        let parts = parts(document, &backends);
        let as_written = match observe(&parts, document.asks, &backends) {
            Ok(as_written) => as_written,
            Err(why) => {
                broken.push(format!("{} {} {}: {why}", parts[0], parts[1], parts[2]));
                continue;
            }
        };
        // What is answered otherwise each time would make a difference of everything.
        assert_eq!(observe(&parts, document.asks, &backends).as_ref(), Ok(&as_written));
        for (kind, place) in KINDS.iter().zip(0..) {
            let mut here = places(kind, &parts[place]);
            here.sort_by_key(|place| Reverse(place.at.len()));
            let mut effective: Vec<String> = Vec::new();
            for Place { name, at } in here {
                let inside = format!("{at}/");
                let differs = || {
                    variants(&parts[place], &at).into_iter().any(|variant| {
                        let mut parts = parts.clone();
                        parts[place] = variant;
                        match observe(&parts, document.asks, &backends) {
                            Ok(seen) => seen != as_written,
                            // The template reads otherwise with other delimiters, here not at all; a jump does not find its aim.
                            Err(why) => {
                                at.ends_with("Delim") && why.contains("template")
                                    || at.ends_with("/alias") && why.contains("jumpIf")
                            }
                        }
                    })
                };
                // Another value inside it is another value of it.
                if effective.iter().any(|at| at.starts_with(&inside)) || (!shown.contains(&name) && differs()) {
                    shown.insert(name);
                    effective.push(at);
                } else {
                    idle.push((name, format!("{at} of {}", parts[place])));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    let all = fields();
    let mut missing = Vec::new();
    idle.retain(|(name, _)| !shown.contains(name));
    let idle: Vec<String> = idle.into_iter().map(|(name, place)| format!("{name} at {place}")).collect();
    for (kind, owner, field) in &all {
        let said = SAID.iter().any(|(said, _, _)| *said == format!("{owner}.{field}"));
        // The same struct of another kind will do.
        let twins = all.iter().filter(|(_, of, _)| of == owner).map(|(kind, _, _)| kind).collect::<BTreeSet<_>>();
        let same = twins.into_iter().filter(|twin| fields_of(&all, twin, owner) == fields_of(&all, kind, owner));
        let elsewhere = |kind: &str| {
            ELSEWHERE.iter().any(|(name, _, _)| names(kind, owner, field).iter().any(|known| known == name))
        };
        let is_shown =
            same.into_iter().any(|kind| shown.contains(&format!("{kind}/{owner}.{field}")) || elsewhere(kind));
        let name = format!("{kind}/{owner}.{field}");
        let is_owed = OWED.contains(&name.as_str());
        assert!(!(is_owed && (said || is_shown)), "{name} is owed no longer: take it out of OWED");
        if !said && !is_shown && !is_owed {
            missing.push(name);
        }
    }
    assert!(
        missing.is_empty(),
        "nothing shows what these do:\n{}\nput each into a document of fields/documents.rs in which it makes a difference, name the \
         test that shows it in ELSEWHERE, or warn when it is set and add it to SAID.\nIn these documents a change made none:\n{}",
        missing.join("\n"),
        idle.join("\n")
    );
    assert!(all.len() > 250 && shown.len() > 120, "{} {}", all.len(), shown.len());
}

/// The tests that are named elsewhere are there, and their files set the fields.
#[test]
fn what_is_shown_elsewhere_is_shown_there() {
    let all = fields();
    let mut silent = Vec::new();
    for (name, file, test) in ELSEWHERE {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
        let code = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(code.contains(&format!("fn {test}(")), "{name}: there is no {test} in {file}");
        let mut covered =
            all.iter().filter(|(kind, owner, field)| names(kind, owner, field).iter().any(|n| n == name)).peekable();
        assert!(covered.peek().is_some(), "{name} is in no document");
        for (_, owner, field) in covered {
            let snake: String = field.chars().fold(String::new(), |mut snake, c| {
                if c.is_ascii_uppercase() && snake.ends_with(|before: char| before.is_ascii_lowercase()) {
                    snake.push('_');
                }
                snake.push(c.to_ascii_lowercase());
                snake
            });
            if !code.contains(field.as_str()) && !code.contains(&snake) {
                silent.push(format!("{file} does not speak of {owner}.{field}"));
            }
        }
    }
    assert!(silent.is_empty(), "{}", silent.join("\n"));
}

#[test]
fn what_does_nothing_says_so() {
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

/// What a [`Document`] is made of, in the order of its parts.
const KINDS: [&str; 3] = ["HTTPServer", "Pipeline", "GlobalFilter"];

/// The parts of a document, `null` where there is none.
fn parts(document: &Document, backends: &[Backend; 2]) -> [Value; 3] {
    let rules =
        if document.server.contains("rules:") { "" } else { "rules: [{paths: [{pathPrefix: /, backend: app}]}]" };
    let server = format!("{}\n{rules}", document.server);
    [&server, document.pipeline, document.around].map(|text| {
        let text = text.replace("ONE", &backends[0].port.to_string()).replace("TWO", &backends[1].port.to_string());
        if text.is_empty() {
            Value::Null
        } else {
            parse_document(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
        }
    })
}

/// What comes of each request: its answer, and what reached the backends.
fn observe(parts: &[Value; 3], asks: &[&str], backends: &[Backend; 2]) -> Result<Vec<String>, String> {
    let house = House::new(IoMode::Epoll, "", "filters: [{name: m, kind: Mock, rules: [{code: 200}]}]");
    let told = |problems: Vec<Problem>| problems[0].to_string();
    // Routes find pipelines that are there.
    for (kind, part) in KINDS.iter().zip(parts).rev().filter(|(_, part)| !part.is_null()) {
        let mut object = part.clone();
        object["name"] = "x".into();
        object["kind"] = (*kind).into();
        if *kind == "HTTPServer" {
            object["port"] = house.port.into();
        }
        match Object::read(&object, &Shelf).map_err(told)?.spec {
            Spec::Pipeline(spec) => house.traffic.apply_pipeline("app", &spec).map_err(told)?,
            Spec::GlobalFilter(spec) => house.traffic.apply_global_filter("around", &spec).map_err(told)?,
            Spec::HttpServer(spec) => house.traffic.apply_server("web", &spec)?,
            _ => unreachable!("there are three kinds"),
        }
    }
    let seen = || backends.iter().map(|backend| std::mem::take(&mut *backend.seen.lock().unwrap()));
    let _ = seen().count();
    let mut observed = Vec::new();
    for ask in asks {
        let mut told = answer(&house, ask);
        for (messages, name) in seen().zip(["one", "two"]) {
            // What came over several connections came in no order.
            let mut lines: Vec<String> = messages
                .into_iter()
                .map(|Message { head, body, trailers }| format!("{name} saw {head} {body:?} {trailers}\n"))
                .collect();
            lines.sort_unstable();
            told.extend(lines);
        }
        observed.push(without_ids(&told).replace(&house.port.to_string(), "PORT"));
    }
    Ok(observed)
}

/// No request has the id of another one.
fn without_ids(told: &str) -> String {
    let mut parts = told.split("X-Request-Id: ");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str("X-Request-Id: ID");
        text.push_str(part.trim_start_matches(|c: char| c.is_ascii_alphanumeric()));
    }
    text
}

/// The answer to a request of a [`Document`].
fn answer(house: &House, ask: &str) -> String {
    let (head, body) = ask.split_once("\n\n").unwrap_or((ask, ""));
    let head = head.replace("TOKEN", TOKEN).replace("OPEN", OPEN);
    let mut lines: Vec<String> = head.lines().map(str::to_owned).collect();
    let mut client = house.connect();
    if lines[0] == "PRI *" {
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
        let first = client.exactly(4);
        return format!("{first:?}");
    }
    if !lines[0].contains(" HTTP/") {
        lines[0].push_str(" HTTP/1.1");
    }
    if !lines.iter().any(|line| line.starts_with("Host:")) {
        lines.push("Host: a.test".to_owned());
    }
    if !body.is_empty() {
        lines.push(format!("Content-Length: {}", body.len()));
    }
    client.send(format!("{}\r\n\r\n{body}", lines.join("\r\n")).as_bytes());
    let Some(Message { head, body, trailers }) = client.message() else { return "none".to_owned() };
    let head: Vec<&str> = head.lines().filter(|line| !line.starts_with("Date:")).collect();
    format!("{} {body:?} {trailers}\n", head.join("\n"))
}

/// Answers with its name and what the request asks for.
fn backend(name: &'static str) -> Backend {
    Backend::recording(move |message| {
        let mut body = format!("{name} got {} bytes", message.body.len()).into_bytes();
        let mut fields = format!("X-From: {name}\r\nX-Gone: yes\r\n");
        if message.field("x-pack").is_some() {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            packed.write_all(&body).unwrap();
            body = packed.finish().unwrap();
            fields.push_str("Content-Encoding: gzip\r\n");
        }
        let status = message.field("x-play").unwrap_or("200");
        let mut answer = format!("HTTP/1.1 {status} x\r\n{fields}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
        answer.extend(body);
        answer
    })
}

/// A field that a document has, and where.
struct Place {
    /// `Kind/Struct.field`.
    name: String,
    at: String,
}

/// The fields of a part of a document, filters and policies by their kinds.
fn places(kind: &str, part: &Value) -> Vec<Place> {
    let kinds: BTreeMap<String, Arc<Value>> =
        explain::kinds().into_iter().chain(explained()).map(|one| (one.kind, one.schema)).collect();
    let mut found = Vec::new();
    find_places(&kinds, kind, part, "", &mut found);
    found
}

fn find_places(kinds: &BTreeMap<String, Arc<Value>>, kind: &str, value: &Value, at: &str, found: &mut Vec<Place>) {
    let Some(root) = kinds.get(kind) else { return };
    let owner = root["title"].as_str().unwrap_or(kind);
    let mut todo = vec![(value, root.as_ref(), owner.to_owned(), at.to_owned())];
    while let Some((value, schema, owner, at)) = todo.pop() {
        if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
            todo.push((value, &root["$defs"][name], name.to_owned(), at.clone()));
        }
        for key in ["anyOf", "oneOf", "allOf"] {
            for inner in schema[key].as_array().into_iter().flatten() {
                todo.push((value, inner, owner.clone(), at.clone()));
            }
        }
        for (item, place) in value.as_array().into_iter().flatten().zip(0..) {
            let at = format!("{at}/{place}");
            match item["kind"].as_str() {
                Some(kind) if kinds.contains_key(kind) => find_places(kinds, kind, item, &at, found),
                _ => todo.push((item, &schema["items"], owner.clone(), at)),
            }
        }
        for (key, inner) in value.as_object().into_iter().flatten() {
            let at = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
            if let Some(property) = schema["properties"].get(key) {
                found.push(Place { name: format!("{kind}/{owner}.{key}"), at: at.clone() });
                todo.push((inner, property, owner.clone(), at));
            } else if schema["additionalProperties"].is_object() {
                todo.push((inner, &schema["additionalProperties"], owner.clone(), at));
            }
        }
    }
}

/// The same without what is at `at`, and with another value there.
fn variants(part: &Value, at: &str) -> Vec<Value> {
    let (above, key) = at.rsplit_once('/').expect("a field is in something");
    let key = key.replace("~1", "/").replace("~0", "~");
    let with = |value: Option<Value>| {
        let mut part = part.clone();
        let fields = part.pointer_mut(above).and_then(Value::as_object_mut).expect("it has fields");
        match value {
            Some(value) => fields.insert(key.clone(), value),
            None => fields.remove(&key),
        };
        part
    };
    let there = part.pointer(at).expect("it is there");
    let mut others = vec![other(there)];
    // What stands in the same field elsewhere is good for something.
    values_of(part, &key, &mut others);
    let others = others.into_iter().filter(|other| other != there).map(Some);
    std::iter::once(None).chain(others).map(with).collect()
}

/// Another value of the same type.
fn other(value: &Value) -> Value {
    match value {
        Value::Null => Value::Null,
        Value::Bool(value) => (!value).into(),
        Value::Number(number) => (number.as_i64().unwrap_or_default() + 1).into(),
        Value::String(text) => format!("{text}x").into(),
        Value::Array(items) => items.iter().map(other).collect(),
        Value::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), other(value))).collect(),
    }
}

fn values_of(part: &Value, key: &str, found: &mut Vec<Value>) {
    for (name, inner) in part.as_object().into_iter().flatten() {
        if name == key {
            found.push(inner.clone());
        }
        values_of(inner, key, found);
    }
    for inner in part.as_array().into_iter().flatten() {
        values_of(inner, key, found);
    }
}

/// What a field goes by in [`ELSEWHERE`], and the struct it is in.
fn names(kind: &str, owner: &str, field: &str) -> [String; 3] {
    [format!("{owner}.{field}"), owner.to_owned(), format!("{kind}/{owner}.{field}")]
}

fn fields_of(all: &BTreeSet<(String, String, String)>, kind: &str, owner: &str) -> Vec<String> {
    all.iter().filter(|(of, in_, _)| of == kind && in_ == owner).map(|(_, _, field)| field.clone()).collect()
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

//! What is told of directives that are not translated.

use super::syntax::Directive;
use crate::report::{Manner, Report};
use Manner::{Differs, Lost, Needless};

/// Takes note of a directive that has no counterpart.
pub fn left(report: &mut Report, directive: &Directive) {
    let (manner, why, instead) = of(&directive.name);
    say(report, directive, manner, why, instead);
}

/// Takes note of a directive for a reason of its own.
pub fn say(report: &mut Report, directive: &Directive, manner: Manner, why: &str, instead: &str) {
    report.add(&directive.file, directive.line, &directive.text(), manner, why, instead);
}

fn of(name: &str) -> (Manner, &'static str, &'static str) {
    let known = KNOWN.iter().find(|(names, ..)| names.contains(&name));
    if let Some((_, manner, why, instead)) = known {
        return (*manner, why, instead);
    }
    const FAMILIES: &[(&str, &str, &str)] = &[
        ("fastcgi_", "FastCGI is not spoken", "put the application behind a server of HTTP"),
        ("uwsgi_", "the protocol of uWSGI is not spoken", "let uWSGI serve HTTP (--http-socket)"),
        ("scgi_", "SCGI is not spoken", "put the application behind a server of HTTP"),
        ("memcached_", "memcached is not spoken", "put it behind a server of HTTP"),
        (
            "proxy_cache",
            "responses are not cached by this document",
            "memoryCache of the Proxy's pool, or the filter Cache",
        ),
        ("proxy_ssl_", "how servers are trusted is not translated", "mtls of the Proxy"),
        ("grpc_", "not translated", "kind GRPCServer with the filter GRPCProxy"),
        ("limit_", "limits are not translated", "filter RateLimiter; maxConnections of the HTTPServer"),
        ("auth_", "authentication is not translated", "filter Validator (basicAuth, jwt, oauth2), OPAFilter"),
        ("ssl_stapling", "no OCSP responses are stapled", ""),
        ("dav_", "WebDAV is not served", "put a server that does behind a Proxy"),
        ("mp4", "media are not served", ""),
        ("image_filter", "images are not changed", ""),
        ("mail", "mail is not proxied", "kind TCPProxy"),
        ("js_", "scripts are not run", "filter WasmHost"),
        ("perl", "scripts are not run", "filter WasmHost"),
        ("lua_", "scripts are not run", "filter WasmHost"),
        ("secure_link", "links are not checked", "filter Validator with signature"),
        ("sub_filter", "bodies are not searched", "filter ResponseAdaptor, which replaces whole bodies"),
        ("proxy_buffer", "buffers are kept by what they hold", ""),
        ("open_file_cache", "no files are kept open", ""),
        ("resolver", "names are resolved by the system's resolver", ""),
        ("gzip_", "not translated", "compression of the Proxy"),
    ];
    match FAMILIES.iter().find(|(family, ..)| name.starts_with(family)) {
        Some((family, why, instead)) => {
            let needless = ["proxy_buffer", "open_file_cache", "resolver"].contains(family);
            (if needless { Needless } else { Lost }, why, instead)
        }
        None if name.contains("_by_lua") => (Lost, "scripts are not run", "filter WasmHost"),
        None => (Lost, "not known to this conversion", ""),
    }
}

type Known = (&'static [&'static str], Manner, &'static str, &'static str);

const KNOWN: &[Known] = &[
    (
        &["worker_processes", "worker_cpu_affinity", "worker_connections", "events", "multi_accept", "use"],
        Needless,
        "workers follow the CPUs of the machine",
        "weir --workers, --cpus",
    ),
    (&["user", "pid", "daemon", "master_process", "worker_priority"], Needless, "the service manager sees to it", ""),
    (&["worker_rlimit_nofile"], Needless, "as many files as the system allows are opened", "LimitNOFILE of the unit"),
    (&["worker_shutdown_timeout"], Needless, "draining takes 30 s at most", ""),
    (&["load_module", "env", "pcre_jit", "thread_pool", "timer_resolution"], Needless, "there is nothing to set", ""),
    (&["error_log"], Needless, "the daemon has one log", "weir --log-dir, weirctl logs set-level"),
    (
        &["access_log", "log_format"],
        Differs,
        "every server writes the access log in its own format",
        "accessLogFormat of the HTTPServer",
    ),
    (
        &["sendfile", "tcp_nopush", "tcp_nodelay", "aio", "directio", "output_buffers", "postpone_output"],
        Needless,
        "always as fast as the kernel can",
        "",
    ),
    (&["server_tokens"], Needless, "nothing tells clients what serves them", ""),
    (
        &["types", "default_type", "charset", "types_hash_max_size", "types_hash_bucket_size"],
        Needless,
        "servers say what they send",
        "",
    ),
    (
        &[
            "server_names_hash_bucket_size",
            "server_names_hash_max_size",
            "variables_hash_max_size",
            "map_hash_bucket_size",
            "client_header_buffer_size",
            "large_client_header_buffers",
            "client_body_buffer_size",
            "client_body_temp_path",
            "connection_pool_size",
            "request_pool_size",
        ],
        Needless,
        "bounds of memory are set for the process",
        "weir --memory-limit",
    ),
    (
        &["keepalive_requests", "keepalive", "keepalive_time", "zone", "hash_bucket_size"],
        Needless,
        "connections to servers are always kept",
        "maxIdleConnsPerHost of the Proxy",
    ),
    (
        &[
            "proxy_http_version",
            "proxy_request_buffering",
            "proxy_max_temp_file_size",
            "proxy_temp_path",
            "proxy_temp_file_write_size",
            "proxy_socket_keepalive",
            "proxy_headers_hash_max_size",
            "proxy_headers_hash_bucket_size",
        ],
        Needless,
        "servers are spoken to over HTTP/1.1 or HTTP/2, and bodies pass as they come",
        "",
    ),
    (
        &["proxy_redirect", "proxy_cookie_domain", "proxy_cookie_path"],
        Lost,
        "answers are not searched for names of servers",
        "filter ResponseAdaptor",
    ),
    (
        &["proxy_intercept_errors", "error_page", "recursive_error_pages"],
        Lost,
        "answers of servers are not replaced",
        "a flow with jumpIf to a ResponseBuilder",
    ),
    (
        &["proxy_next_upstream", "proxy_next_upstream_tries", "proxy_next_upstream_timeout"],
        Lost,
        "tries are not translated",
        "retryPolicy of the pool, with a Retry in the pipeline's resilience",
    ),
    (
        &[
            "proxy_ignore_client_abort",
            "proxy_method",
            "proxy_set_body",
            "proxy_pass_request_headers",
            "proxy_pass_request_body",
        ],
        Lost,
        "not translated",
        "filter RequestAdaptor",
    ),
    (
        &["proxy_send_timeout", "send_timeout", "lingering_close", "lingering_time", "reset_timedout_connection"],
        Needless,
        "who takes or sends nothing for a minute is closed",
        "sendTimeout of the HTTPServer",
    ),
    (
        &["proxy_read_timeout"],
        Differs,
        "a try has no time-out by this document",
        "timeout of the pool, which is for the whole of a try",
    ),
    (
        &["root", "alias", "index", "autoindex", "try_files", "expires", "etag", "if_modified_since"],
        Lost,
        "files are not served by this document",
        "filter FileServer",
    ),
    (&["internal"], Lost, "no other location leads here", "a flow with jumpIf"),
    (
        &["if", "set", "break"],
        Lost,
        "conditions of the rewrite module are not translated",
        "headers, queries and methods of a path; jumpIf in a flow",
    ),
    (
        &["map", "geo", "split_clients"],
        Lost,
        "variables that follow from others are not translated",
        "filter of a pool (headers, permil); templates",
    ),
    (&["satisfy", "satisfy_any"], Lost, "ways in are not joined by or", ""),
    (&["mirror"], Lost, "not translated", "mirrorPool of the Proxy"),
    (
        &["merge_slashes", "absolute_redirect", "port_in_redirect", "server_name_in_redirect"],
        Differs,
        "paths and redirects are as this gateway makes them",
        "",
    ),
    (
        &[
            "ssl_protocols",
            "ssl_ciphers",
            "ssl_prefer_server_ciphers",
            "ssl_ecdh_curve",
            "ssl_dhparam",
            "ssl_conf_command",
        ],
        Differs,
        "TLS 1.2 and 1.3 with their modern ciphers are served",
        "",
    ),
    (
        &[
            "ssl_session_cache",
            "ssl_session_timeout",
            "ssl_session_tickets",
            "ssl_session_ticket_key",
            "ssl_buffer_size",
            "ssl_early_data",
        ],
        Needless,
        "sessions resume by tickets that all machines share",
        "",
    ),
    (
        &["ssl_trusted_certificate", "ssl_verify_depth", "ssl_crl"],
        Lost,
        "only the authorities of clients are translated",
        "caCertBase64",
    ),
    (&["stub_status", "status", "status_zone", "api"], Needless, "figures are served by the admin API", "GET /metrics"),
    (
        &["least_conn", "least_time", "hash", "sticky", "sticky_cookie_insert", "ntlm", "queue"],
        Differs,
        "servers are chosen in turn by this document",
        "loadBalance of the pool",
    ),
    (&["health_check", "check", "match"], Lost, "probes are not translated", "healthCheck of the pool"),
    (
        &["preread_timeout", "preread_buffer_size", "proxy_upload_rate", "proxy_download_rate"],
        Lost,
        "not translated",
        "",
    ),
    (&["ssl_preread"], Needless, "names are read where rules ask for them", ""),
    (&["grpc_pass"], Lost, "gRPC is served by a kind of its own", "kind GRPCServer with the filter GRPCProxy"),
    (&["include"], Lost, "not read", ""),
];

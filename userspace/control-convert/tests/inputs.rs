//! Whatever is in a file, reading it ends, and neither panics nor answers with more than it was given.
#![forbid(unsafe_code)]

use proptest::prelude::*;

#[path = "../../fuzz/checks/configuration.rs"]
mod configuration;

/// Words of both languages, in any order.
const WORDS: &[&str] = &[
    "http",
    "server",
    "location",
    "upstream",
    "listen",
    "80",
    "443",
    "ssl",
    "server_name",
    "a.test",
    "*.b.test",
    "~^c",
    "~(",
    "=",
    "^~",
    "~",
    "~*",
    "/",
    "/a",
    "\\.php$",
    "proxy_pass",
    "http://u",
    "http://a:1/b",
    "https://$host",
    "return",
    "301",
    "rewrite",
    "^/(.*)$",
    "/$1",
    "permanent",
    "break",
    "{",
    "}",
    ";",
    "\n",
    "\"",
    "'",
    "\\",
    "$",
    "${",
    "#",
    "allow",
    "deny",
    "all",
    "10.0.0.0/8",
    "add_header",
    "X",
    "stream",
    "map",
    "$ssl_preread_server_name",
    "weight=3",
    "proxy_set_header",
    "Host",
    "$host",
    "client_max_body_size",
    "1g",
    "keepalive_timeout",
    "1h",
    "frontend",
    "backend",
    "defaults",
    "global",
    "bind",
    ":80",
    "mode",
    "tcp",
    "acl",
    "hdr(host)",
    "path_beg",
    "-i",
    "-m",
    "reg",
    "use_backend",
    "if",
    "unless",
    "!",
    "||",
    "default_backend",
    "balance",
    "hdr(x)",
    "timeout",
    "connect",
    "5s",
    "option",
    "httpchk",
    "http-request",
    "set-header",
    "redirect",
    "scheme",
    "weight",
    "256",
    "check",
    "crt",
    "é",
    "\u{0}",
    "\u{fffd}",
    "99999999999999999999",
    "_by_lua_block",
    "include",
    "x.conf",
    "*.conf",
    "default",
    "cookie",
    "insert",
    "http-check",
    "expect",
    "status",
    "200-399",
    "%[src]",
    "(",
    ")",
    ",",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn words_in_any_order(words in prop::collection::vec(prop::sample::select(WORDS), 0..60), newlines in any::<u64>()) {
        let mut text = String::new();
        for (at, word) in words.iter().enumerate() {
            text.push_str(word);
            text.push(if newlines >> (at % 64) & 1 == 1 { '\n' } else { ' ' });
        }
        configuration::check(&text);
    }

    #[test]
    fn any_text(text in ".{0,200}") {
        configuration::check(&text);
    }
}

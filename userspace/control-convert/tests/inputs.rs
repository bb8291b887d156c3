//! Whatever is in a file, reading it ends, and neither panics nor answers with more than it was given.
#![forbid(unsafe_code)]

use control_convert::{Converted, Files, Unreadable, haproxy, nginx};
use proptest::prelude::*;

type Convert = fn(&std::path::Path, &str, &dyn Files) -> Result<Converted, Unreadable>;

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

/// What a short text stands for grows with the product of its parts: each of these is refused or translated at once. One step for every pair
/// of lines would take hours, and what one of them stands for more memory than there is.
#[test]
fn what_is_long_in_one_way_is_read_in_no_more_time_than_its_length() {
    const MANY: usize = 20_000;
    let lines = |line: &dyn Fn(usize) -> String| (0..MANY).map(line).collect::<String>();
    let listens = lines(&|n| format!("listen 127.0.{}.{}:{};", n / 250 % 250, n % 250, 1 + n / 62_500));
    let locations = lines(&|n| format!("location /{n} {{ return 200 a; }}"));
    let same = lines(&|_| "location = /a { return 200 b; }".to_owned());
    let firm = lines(&|n| format!("location ^~ /{n} {{ return 200 a; }}"));
    let headers = lines(&|n| format!("proxy_set_header X-{n} a;"));
    let members = lines(&|n| format!("server 127.0.0.1:{};", n % 60_000 + 1));
    let passes = lines(&|n| format!("location /{n} {{ proxy_pass http://u; }}"));
    let trusted = lines(&|n| format!("set_real_ip_from 10.{}.{}.0/24;", n / 250, n % 250));
    let servers = lines(&|n| format!("server {{ server_name s{n}; set_real_ip_from 10.1.1.1; return 200 a; }}"));
    // Expressions take their time to be read.
    let rewrites = lines(&|n| if n % 20 == 0 { format!("rewrite ^/{n}$ /b break;") } else { String::new() });
    let unknown = lines(&|n| format!("unknown{n} a;"));
    let names = lines(&|n| format!("a{n}.test u{n};"));
    let defaults = lines(&|n| format!("timeout connect {n}\n"));
    let backends = lines(&|n| format!("listen b{n}\nbind :{}\nserver s 127.0.0.1:80\n", n % 60_000 + 1));
    let binds = lines(&|n| format!("bind 127.0.{}.{}:80\n", n / 250, n % 250));
    let uses = lines(&|n| format!("use_backend b{n} if {{ req.ssl_sni a }}\n"));
    let sets = lines(&|n| format!("http-request set-header X-{n} a\n"));
    let redirects = lines(&|_| "redirect location http://a.test/\n".to_owned());
    let (nginx, haproxy): (Convert, Convert) = (nginx::convert, haproxy::convert);
    for (convert, text, accepted) in [
        (nginx, format!("http {{ server {{ {locations} }} }}"), true),
        (nginx, format!("http {{ server {{ {same} }} }}"), true),
        (nginx, format!("http {{ server {{ {firm} {locations} location ~ a {{ return 200 b; }} }} }}"), true),
        (nginx, format!("http {{ server {{ {listens} location / {{ return 200 a; }} }} }}"), true),
        (nginx, format!("http {{ server {{ {listens} {locations} }} }}"), false),
        (nginx, format!("http {{ {headers} server {{ {locations} }} }}"), false),
        (nginx, format!("http {{ upstream u {{ {members} }} server {{ {passes} }} }}"), false),
        (nginx, format!("http {{ {trusted} {servers} }}"), false),
        (nginx, format!("http {{ server {{ location / {{ {rewrites} return 200 a; }} }} }}"), true),
        (nginx, format!("http {{ {unknown} }}"), true),
        (
            nginx,
            format!("stream {{ map $ssl_preread_server_name $u {{ {names} }} server {{ listen 1; proxy_pass $u; }} }}"),
            true,
        ),
        (haproxy, format!("defaults\n{defaults}{backends}"), false),
        (haproxy, format!("listen a\nmode http\n{binds}server s 127.0.0.1:80\n"), true),
        (haproxy, format!("frontend a\nbind :1\n{uses}{backends}"), true),
        (haproxy, format!("frontend a\nmode http\nbind :1\n{sets}{redirects}"), false),
        (haproxy, format!("frontend a\nmode http\nbind :1\n{redirects}"), true),
    ] {
        let start: String = text.chars().take(60).collect();
        println!("{start}");
        match convert(std::path::Path::new("main"), "p", &configuration::Text(&text)) {
            Ok(_) => assert!(accepted, "{start}"),
            Err(why) => assert!(!accepted && why.to_string().contains("more than"), "{start}: {why}"),
        }
    }
}

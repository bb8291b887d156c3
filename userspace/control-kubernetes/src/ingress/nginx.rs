//! Annotations of ingress-nginx, `nginx.ingress.kubernetes.io/…`: each is honoured, approximated or refused, and which of them is told.
//!
//! What has no counterpart is refused with what to use instead; what differs in its details is approximated with what differs. None is
//! passed over without a word: who comes from ingress-nginx sees in one report what a cluster relies on.

use std::collections::{BTreeMap, BTreeSet};

use base_text::quoted;
use serde_json::{Map, Value, json};

use super::easegress::{number, truth};
use super::options::{Canary, Does, Errors, Options, Rewrite};
use crate::endpoints::ServiceName;
use crate::object::{Ingress, Key, decoded};
use crate::report::Report;
use crate::store::Store;

const PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// What became of an annotation.
enum Done {
    As,
    Nearly(String),
}

type Told = Result<Done, String>;

/// The annotations of one Ingress, by their short names.
struct Read<'i> {
    store: &'i Store,
    ingress: &'i Ingress,
    all: BTreeMap<&'i str, &'i str>,
}

/// Takes what the annotations ask for into the options.
pub(crate) fn read(store: &Store, ingress: &Ingress, options: &mut Options, report: &mut Report) {
    let annotations = ingress.metadata.annotations.iter();
    let short = annotations.filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?, value.trim())));
    let read = Read { store, ingress, all: short.collect() };
    for (name, value) in &read.all {
        let called = format!("{PREFIX}{name}");
        // Of what is run as text of nginx it is told what to use instead, however many lines it has.
        if value.chars().any(char::is_control) && !name.ends_with("-snippet") && !name.ends_with("-headers") {
            if is_guard(name) {
                read.closed(options);
            }
            report.refused(&called, "its value has line breaks or other control characters; write it in one line");
            continue;
        }
        match read.one(name, value, options) {
            Ok(Done::As) => report.honoured(&called),
            Ok(Done::Nearly(told)) => report.approximated(&called, told),
            Err(why) => report.refused(&called, why),
        }
    }
    read.together(options, report);
}

impl Read<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.all.get(name).copied()
    }

    fn is(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| truth(value) == Ok(true))
    }

    /// What one annotation says by itself. Those that only say something together are read in [`together`](Read::together), and here
    /// looked at for what is wrong with them.
    fn one(&self, name: &str, value: &str, options: &mut Options) -> Told {
        match name {
            "rewrite-target" | "app-root" if !value.starts_with('/') => {
                Err(format!("{} is no path; it begins with /", quoted(value)))
            }
            "rewrite-target" => {
                options.expressions = true;
                options.rewrite = Some(Rewrite::Whole(value.to_owned()));
                Ok(Done::As)
            }
            "use-regex" => {
                options.expressions |= truth(value)?;
                nearly("expressions are compared without regard to case in the paths of this ingress alone, and not in all of its host")
            }
            "app-root" => {
                options.app_root = Some(redirect("^/$", value, 302));
                Ok(Done::As)
            }
            "permanent-redirect" => self.redirect(value, "permanent-redirect-code", 301, options),
            "temporal-redirect" => self.redirect(value, "temporal-redirect-code", 302, options),
            "permanent-redirect-code" | "temporal-redirect-code" => match number(value)? {
                301 | 302 | 303 | 307 | 308 => Ok(Done::As),
                _ => Err(format!("{} does not redirect; accepted are 301, 302, 303, 307 and 308", quoted(value))),
            },
            "ssl-redirect" => {
                let is = truth(value)?;
                if options.to_https != Some(true) {
                    options.to_https = if is { None } else { Some(false) };
                }
                Ok(Done::As)
            }
            "force-ssl-redirect" => {
                if truth(value)? {
                    options.to_https = Some(true);
                }
                Ok(Done::As)
            }
            "from-to-www-redirect" => {
                options.www = truth(value)?;
                Ok(Done::As)
            }
            "server-alias" => {
                for alias in list(value) {
                    if alias.starts_with('~') {
                        return Err(format!("{} is an expression; name hosts", quoted(alias)));
                    }
                    if !is_host(alias) {
                        return Err(format!("{} is no host; write a.test or *.a.test", quoted(alias)));
                    }
                    options.aliases.push(alias.to_ascii_lowercase());
                }
                Ok(Done::As)
            }
            "upstream-vhost" => {
                options.before.push(json!({"name": "vhost", "kind": "RequestAdaptor", "host": value}));
                Ok(Done::As)
            }
            "backend-protocol" => self.protocol(value, options),
            "grpc-backend" => self.protocol("GRPC", options),
            "secure-backends" => self.protocol("HTTPS", options),
            "proxy-ssl-secret" => self.proxy_ssl_secret(value, options),
            "proxy-ssl-verify" => match value {
                "on" | "off" => Ok(Done::As),
                _ => Err(format!("{} is neither on nor off", quoted(value))),
            },
            "proxy-ssl-verify-depth" => nearly("chains may be as long as they are"),
            "proxy-ssl-ciphers" | "proxy-ssl-protocols" => nearly("TLS 1.2 and 1.3 are spoken with servers, in their safe ciphers"),
            "proxy-ssl-name" if value.contains('$') => {
                Err(format!("{} has variables of nginx; write a name, such as orders.test", quoted(value)))
            }
            "proxy-ssl-name" => {
                mtls(options).insert("serverName".to_owned(), json!(value));
                match self.get("proxy-ssl-server-name") {
                    Some("on") => Ok(Done::As),
                    _ => nearly("servers are told the name in the handshake as well"),
                }
            }
            "proxy-ssl-server-name" => match value {
                "on" if self.get("proxy-ssl-name").is_none() => nearly("servers that are addresses are told a name with proxy-ssl-name alone"),
                "on" | "off" => Ok(Done::As),
                _ => Err(format!("{} is neither on nor off", quoted(value))),
            },
            "ssl-passthrough" if truth(value)? => {
                Err("write a TCPProxy with tls: passthrough, whose rules go by server name".to_owned())
            }
            "ssl-passthrough" => Ok(Done::As),
            "proxy-body-size" => {
                let bytes = size(value)?;
                let bytes = if bytes == 0 { -1 } else { bytes };
                options.path.insert("clientMaxBodySize".to_owned(), json!(bytes));
                Ok(Done::As)
            }
            "proxy-connect-timeout" => {
                options.pool.insert("connectTimeout".to_owned(), json!(seconds(value)?));
                Ok(Done::As)
            }
            "proxy-read-timeout" | "proxy-send-timeout" => {
                seconds(value)?;
                nearly("it bounds a whole answer of known length, and not the time between two of its parts; the longer one of both counts")
            }
            "proxy-next-upstream" | "proxy-next-upstream-tries" | "proxy-next-upstream-timeout" => self.retry(name, value, options),
            "proxy-buffering" | "proxy-request-buffering" if value == "off" => Ok(Done::As),
            "proxy-buffering" | "proxy-request-buffering" | "proxy-buffers-number" | "proxy-buffer-size"
            | "proxy-busy-buffers-size" | "proxy-max-temp-file-size" | "client-body-buffer-size" => {
                nearly("nothing is buffered: bytes pass as they come")
            }
            "proxy-http-version" if value == "1.1" => Ok(Done::As),
            "proxy-http-version" => Err("servers are spoken to in HTTP/1.1, or in HTTP/2 with backend-protocol GRPC".to_owned()),
            "proxy-cookie-domain" | "proxy-cookie-path" => {
                Err("cookies of servers pass as they are; let the application set them right, or use a WasmHost filter".to_owned())
            }
            "proxy-redirect-from" | "proxy-redirect-to" if matches!(value, "off" | "default") => Ok(Done::As),
            "proxy-redirect-from" | "proxy-redirect-to" => {
                Err("Location of servers passes as it is; let the application say where it is reached".to_owned())
            }
            "load-balance" => match value {
                "round_robin" => Ok(Done::As),
                "ewma" => {
                    balance(options).insert("policy".to_owned(), json!("peakEWMA"));
                    Ok(Done::As)
                }
                _ => Err(format!("{} is not known; accepted are round_robin and ewma", quoted(value))),
            },
            "upstream-hash-by" => self.hash_by(value, options),
            "upstream-hash-by-subset" | "upstream-hash-by-subset-size" => {
                Err("servers are not put into subsets; each key has one server".to_owned())
            }
            "affinity" if value == "cookie" => Ok(Done::As),
            "affinity" => Err(format!("{} is not known; accepted is cookie", quoted(value))),
            "affinity-mode" => match value {
                "balanced" => nearly("a client stays with its server as long as that is there"),
                _ => Ok(Done::As),
            },
            "session-cookie-name" => Ok(Done::As),
            "session-cookie-expires" | "session-cookie-max-age" => number(value).map(|_| Done::As),
            "session-cookie-path" | "session-cookie-domain" | "session-cookie-secure" | "session-cookie-samesite"
            | "session-cookie-conditional-samesite-none" => {
                nearly("the cookie is for the whole host it was set for, HttpOnly, and Secure over TLS")
            }
            "session-cookie-change-on-failure" => nearly("a client gets another server, and another cookie, when its own is left out"),
            "affinity-canary-behavior" => match value {
                "sticky" | "legacy" => nearly("which of the two a request goes to is drawn anew each time"),
                _ => Err(format!("{} is not known", quoted(value))),
            },
            "limit-rps" | "limit-rpm" | "limit-burst-multiplier" => {
                match number(value)? {
                    1.. => nearly("beyond the limit clients get 429 with Retry-After, and not 503"),
                    _ => Err(format!("{} is no limit; 1 or more", quoted(value))),
                }
            }
            "limit-whitelist" | "limit-allowlist" => {
                Err("a RateLimiter counts every client; write a Pipeline of your own for those that it shall not".to_owned())
            }
            "limit-connections" => match number(value)? {
                1.. => nearly("as many requests of one client may be under way at a time, on each machine; beyond it they get 429 with Retry-After, and not 503"),
                _ => Err(format!("{} is no limit; 1 or more", quoted(value))),
            },
            "limit-rate" | "limit-rate-after" => Err("bytes of an answer are not slowed down".to_owned()),
            "whitelist-source-range" | "allowlist-source-range" | "denylist-source-range" => self.addresses(name, value, options),
            "enable-cors" => truth(value).map(|_| Done::As),
            "cors-allow-credentials" => truth(value).map(|_| Done::As),
            "cors-allow-origin" | "cors-allow-methods" | "cors-allow-headers" | "cors-expose-headers" => {
                match cors_words(name, value) {
                    (_, left) if left.is_empty() => Ok(Done::As),
                    (words, left) => {
                        let left: Vec<String> = left.iter().take(8).map(|word| quoted(word).to_string()).collect();
                        let left = format!("left out, since none can be one: {}", left.join(", "));
                        match (words.is_empty(), name) {
                            (false, _) => nearly(&left),
                            (true, "cors-allow-origin") => Err(format!("{left}; no origin is left, so none is allowed")),
                            (true, _) => nearly(&format!("{left}; what is usual stands in their place")),
                        }
                    }
                }
            }
            "cors-max-age" => number(value).map(|_| Done::As),
            "x-forwarded-prefix" => {
                set_header(options, "X-Forwarded-Prefix", value);
                Ok(Done::As)
            }
            "mirror-target" => self.mirror(value, options),
            "mirror-request-body" => match value {
                "off" => nearly("short bodies are copied as well"),
                _ => Ok(Done::As),
            },
            "mirror-host" => nearly("the mirror gets its own name, or the client's Host where it is an address"),
            "auth-type" if value == "basic" => Ok(Done::As),
            "auth-type" => {
                self.closed(options);
                Err(format!("{} is not spoken; accepted is basic; requests get 403 until it is that", quoted(value)))
            }
            "auth-secret" => self.basic_auth(value, options),
            "auth-secret-type" => match value {
                "auth-file" => Ok(Done::As),
                _ => Err("a secret with a key for each user is not read; put their lines into one key, auth".to_owned()),
            },
            "auth-realm" => nearly("the realm is \"restricted\""),
            "auth-url" => self.auth_url(value, options),
            "auth-signin" | "auth-signin-redirect-param" | "auth-method" | "auth-response-headers" => match self.get("auth-url") {
                Some(_) => Ok(Done::As),
                None => nearly("it has no effect without auth-url"),
            },
            "auth-always-set-cookie" => Ok(Done::As),
            "auth-cache-key" | "auth-cache-duration" => nearly("the service is asked for each request"),
            "auth-request-redirect" => nearly("the service is told what the client asked for in X-Auth-Request-Redirect"),
            "auth-keepalive" | "auth-keepalive-requests" | "auth-keepalive-timeout" | "auth-keepalive-share-vars" => {
                nearly("connections to the service are kept and used again")
            }
            "auth-proxy-set-headers" => {
                Err("fields of a ConfigMap are not sent to the service; it gets those of the client, and what was asked for".to_owned())
            }
            "enable-global-auth" => match truth(value) {
                Ok(false) => Ok(Done::As),
                _ => {
                    self.closed(options);
                    Err("no service is asked for all Ingresses; requests get 403 until it is removed. Give this one an auth-url".to_owned())
                }
            },
            "auth-tls-secret" | "auth-tls-verify-client" | "auth-tls-verify-depth" | "auth-tls-error-page"
            | "auth-tls-pass-certificate-to-upstream" | "auth-tls-match-cn" => {
                if name == "auth-tls-verify-client" && value == "off" {
                    return Ok(Done::As);
                }
                self.closed(options);
                Err("client certificates are asked for by a server, and not by a host of it; requests get 403 until it is removed. Give the \
                     httpsServer caCertBase64, or these hosts a controller of their own".to_owned())
            }
            "satisfy" => match value {
                "all" => Ok(Done::As),
                _ => Err("one of several conditions is not enough: all of them hold".to_owned()),
            },
            "custom-http-errors" => self.errors(value, options),
            "default-backend" => match self.get("custom-http-errors") {
                Some(_) => Ok(Done::As),
                None => nearly("it answers for custom-http-errors alone, and not for a service without servers, which is 503"),
            },
            "disable-proxy-intercept-errors" => match truth(value)? {
                false => Ok(Done::As),
                true if self.get("custom-http-errors").is_none() => Ok(Done::As),
                true => Err("it takes back what custom-http-errors asks for; remove one of the two".to_owned()),
            },
            "custom-headers" | "connection-proxy-header" => {
                Err("header fields are changed by RequestAdaptor and ResponseAdaptor in a Pipeline of your own".to_owned())
            }
            "configuration-snippet" => Err("text of nginx is not run: use setHeaders of a route, RequestAdaptor, ResponseAdaptor or \
                                            Redirector in a Pipeline of your own; weirctl convert nginx makes them of it".to_owned()),
            "server-snippet" | "stream-snippet" | "auth-snippet" | "modsecurity-snippet" => {
                Err("text of nginx is not run: write routes and filters in documents of your own; weirctl convert nginx makes them of it".to_owned())
            }
            "enable-modsecurity" | "enable-owasp-core-rules" | "modsecurity-transaction-id" => match truth(value) {
                Ok(false) => Ok(Done::As),
                _ => Err("this version of weir has no web application firewall".to_owned()),
            },
            "enable-opentelemetry" | "enable-opentracing" | "opentelemetry-trust-incoming-span" | "opentelemetry-operation-name"
            | "opentracing-trust-incoming-span" => nearly("tracing is that of the controller's httpServer, for all Ingresses"),
            "enable-access-log" => match truth(value)? {
                true => Ok(Done::As),
                false => nearly("requests are logged all the same, as the controller's httpServer says"),
            },
            "enable-rewrite-log" => nearly("rewrites are not logged; weirctl tells which route takes a request"),
            "service-upstream" => nearly("pods are spoken to, and not the address of their service"),
            "ssl-ciphers" | "ssl-prefer-server-ciphers" => nearly("TLS 1.2 and 1.3 are served, in their safe ciphers"),
            "http2-push-preload" => nearly("nobody pushes any more"),
            "preserve-trailing-slash" => Ok(Done::As),
            "proxy-ssl-client-certificate" => Err("name the secret with proxy-ssl-secret".to_owned()),
            "canary" => truth(value).map(|_| Done::As),
            "canary-weight" | "canary-weight-total" => match number(value)? {
                0.. => Ok(Done::As),
                _ => Err(format!("{} is no weight; 0 or more", quoted(value))),
            },
            "canary-by-header" | "canary-by-header-value" | "canary-by-cookie" => Ok(Done::As),
            "canary-by-header-pattern" => match base_model::regexp::compile(value) {
                _ if self.get("canary-by-header-value").is_some() => nearly("canary-by-header-value goes before it"),
                Ok(_) => Ok(Done::As),
                Err(why) => Err(why),
            },
            _ => Err("there is no such annotation, or this version of weir does not know it".to_owned()),
        }
    }
}

impl Read<'_> {
    /// What several annotations say together.
    fn together(&self, options: &mut Options, report: &mut Report) {
        if self.get("affinity") == Some("cookie") {
            let seconds = ["session-cookie-max-age", "session-cookie-expires"]
                .iter()
                .find_map(|name| number(self.get(name)?).ok());
            let cookie = self.get("session-cookie-name").unwrap_or("INGRESSCOOKIE");
            let mut sticky = json!({"mode": "DurationBased", "lbCookieName": cookie});
            if let Some(seconds) = seconds.filter(|seconds| *seconds > 0) {
                sticky["lbCookieExpire"] = json!(format!("{seconds}s"));
            }
            balance(options).insert("stickySession".to_owned(), sticky);
        }
        let timeouts =
            ["proxy-read-timeout", "proxy-send-timeout"].iter().filter_map(|name| number(self.get(name)?).ok());
        if let Some(longest) = timeouts.max().filter(|seconds| *seconds > 0) {
            options.pool.insert("timeout".to_owned(), json!(format!("{longest}s")));
        }
        // In the order of nginx: preflights are answered whoever asks, and who asks too often is not asked who it is.
        let first = self.is("enable-cors").then(|| self.cors()).flatten();
        options.before.splice(0..0, first.into_iter().chain(self.limits()));
        if self.get("auth-type") == Some("basic") && self.get("auth-secret").is_none() {
            self.closed(options);
            report.refused(
                &format!("{PREFIX}auth-type"),
                "there is no auth-secret with users; requests get 403 until there is",
            );
        }
        if self.is("canary") {
            let text = |name: &str| self.get(name).map(str::to_owned);
            let weight = |name: &str| self.get(name).and_then(|value| number(value).ok()).filter(|n| *n >= 0);
            options.canary = Some(Canary {
                weight: weight("canary-weight").unwrap_or(0),
                total: weight("canary-weight-total").filter(|n| *n > 0).unwrap_or(100),
                header: text("canary-by-header"),
                value: text("canary-by-header-value"),
                pattern: text("canary-by-header-pattern").filter(|_| self.get("canary-by-header-value").is_none()),
                cookie: text("canary-by-cookie"),
            });
        }
        let verified = self.get("proxy-ssl-verify") == Some("on");
        if options.https && !verified {
            // ingress-nginx looks at no certificate unless it is told to.
            mtls(options).insert("insecureSkipVerify".to_owned(), json!(true));
        }
    }

    /// Nobody gets in: better than everybody.
    fn closed(&self, options: &mut Options) {
        options.does =
            Some(Does { name: "closed", filter: json!({"name": "answer", "kind": "Mock", "rules": [{"code": 403}]}) });
    }

    fn redirect(&self, value: &str, code: &str, default: i64, options: &mut Options) -> Told {
        let code =
            self.get(code).and_then(|code| number(code).ok()).filter(|code| [301, 302, 303, 307, 308].contains(code));
        let (place, rest) = match value.split_once("$request_uri") {
            Some((place, "")) => (place, true),
            _ => (value, false),
        };
        if place.contains('$') {
            return Err(format!(
                "{} has variables of nginx; $request_uri at its end is the one that is known",
                quoted(value)
            ));
        }
        let (found, replaced) = if rest { ("^(.*)$", format!("{place}${{1}}")) } else { ("^.*$", place.to_owned()) };
        let filter = redirect(found, &replaced, code.unwrap_or(default));
        // A permanent one goes before a temporary one.
        if options.does.is_none() || default == 301 {
            options.does = Some(Does { name: "moved", filter });
        }
        Ok(Done::As)
    }

    fn protocol(&self, value: &str, options: &mut Options) -> Told {
        match value.to_ascii_uppercase().as_str() {
            "HTTP" | "AUTO_HTTP" => {}
            "HTTPS" => options.https = true,
            "GRPC" => drop(options.pool.insert("http2".to_owned(), json!(true))),
            "GRPCS" => {
                options.https = true;
                options.pool.insert("http2".to_owned(), json!(true));
            }
            "FCGI" => {
                self.closed(options);
                return Err("FastCGI is not spoken; put a server before it that does".to_owned());
            }
            _ => return Err(format!("{} is not spoken; accepted are HTTP, HTTPS, GRPC and GRPCS", quoted(value))),
        }
        Ok(Done::As)
    }

    /// A secret that an annotation names, `name` or `namespace/name`.
    fn secret(&self, value: &str) -> Result<&crate::object::Secret, String> {
        let own = &self.ingress.metadata.namespace;
        let key = match value.split_once('/') {
            Some((namespace, name)) => Key::new(namespace, name),
            None => Key::new(own, value),
        };
        if key.namespace != *own {
            return Err(format!("secret {key} is of another namespace, whose secrets are its own; copy it"));
        }
        self.store.secret(&key).map(|secret| &**secret).ok_or_else(|| format!("secret {key} is not there"))
    }

    fn proxy_ssl_secret(&self, value: &str, options: &mut Options) -> Told {
        let secret = match self.secret(value) {
            Ok(secret) => secret,
            Err(why) => {
                self.closed(options);
                return Err(format!("{why}; requests get 403 until it is"));
            }
        };
        let (chain, key) = (decoded(&secret.data.certificate), decoded(&secret.data.key));
        if let (Some(chain), Some(key)) = (chain, key)
            && !chain.is_empty()
        {
            mtls(options).extend([("certBase64".to_owned(), json!(chain)), ("keyBase64".to_owned(), json!(key))]);
        }
        if let Some(authorities) = decoded(&secret.data.authorities).filter(|text| !text.is_empty()) {
            mtls(options).insert("rootCertBase64".to_owned(), json!(authorities));
        }
        Ok(Done::As)
    }

    fn basic_auth(&self, value: &str, options: &mut Options) -> Told {
        let lines = self.secret(value).and_then(|secret| {
            decoded(&secret.data.auth)
                .filter(|text| !text.trim().is_empty())
                .ok_or_else(|| format!("secret {} has no key auth with lines of htpasswd", secret.metadata.key()))
        });
        match lines {
            Ok(lines) => {
                let users: Vec<&str> = lines.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
                let auth = json!({"mode": "USERS", "users": users});
                options.before.insert(0, json!({"name": "auth", "kind": "Validator", "basicAuth": auth}));
                Ok(Done::As)
            }
            Err(why) => {
                self.closed(options);
                Err(format!("{why}; requests get 403 until it is there"))
            }
        }
    }

    /// Who says whether a request may pass. One that cannot be asked lets nobody pass.
    fn auth_url(&self, value: &str, options: &mut Options) -> Told {
        // Where the service is, is known before any request is there: `$host` stands for the one host that there is.
        let rules = self.ingress.spec.rules.iter().map(|rule| rule.host.as_str());
        let hosts: BTreeSet<&str> = rules.filter(|host| !host.is_empty() && !host.starts_with("*.")).collect();
        let one = hosts.first().filter(|_| hosts.len() == 1 && self.ingress.spec.rules.len() == 1);
        let (scheme, rest) = value.split_once("://").unwrap_or(("", value));
        let (place, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let place = match one {
            Some(host) => place.replace("$http_host", host).replace("$host", host),
            None => place.to_owned(),
        };
        if !matches!(scheme, "http" | "https") || place.is_empty() || place.contains('$') {
            self.closed(options);
            return Err(format!(
                "{} says not where the service is; write it as http://name.namespace.svc.cluster.local:port/path; requests get 403 until then",
                quoted(value)
            ));
        }
        let mut filter =
            json!({"name": "auth-url", "kind": "ForwardAuth", "url": format!("{scheme}://{place}{target}")});
        if scheme == "https" {
            // As nginx asks it, which looks at no certificate.
            filter["insecureTls"] = json!(true);
        }
        for (annotation, field) in [
            ("auth-method", "method"),
            ("auth-signin", "signin"),
            ("auth-signin-redirect-param", "signinRedirectParam"),
        ] {
            if let Some(value) = self.get(annotation).filter(|value| !value.is_empty()) {
                filter[field] = json!(value);
            }
        }
        let names: Vec<&str> = list(self.get("auth-response-headers").unwrap_or_default()).collect();
        if !names.is_empty() {
            filter["responseHeaders"] = json!(names);
        }
        options.before.insert(0, filter);
        match scheme {
            "https" => nearly("the service's certificate is not looked at, as nginx does not"),
            _ => Ok(Done::As),
        }
    }

    fn errors(&self, value: &str, options: &mut Options) -> Told {
        let mut statuses = Vec::new();
        for word in list(value) {
            match number(word)? {
                status @ 400..=599 => statuses.push(status),
                _ => return Err(format!("{} is no status of an error; accepted are 400 to 599", quoted(word))),
            }
        }
        let Some(name) = self.get("default-backend") else {
            return Err(
                "there is no service that answers instead; name one of this namespace with default-backend".to_owned()
            );
        };
        let key = Key::new(&self.ingress.metadata.namespace, name);
        let port = self.store.service(&key).and_then(|service| service.spec.ports.first()).map(|port| port.port);
        let Some(port) = port else {
            return Err(format!(
                "service {key}, which default-backend names, is not there, or has no port; errors pass as they are"
            ));
        };
        let meta = &self.ingress.metadata;
        let told =
            json!({"X-Namespace": meta.namespace, "X-Ingress-Name": meta.name, "X-Service-Port": port.to_string()});
        let told = told.as_object().cloned().unwrap_or_default();
        options.pool.insert("failureCodes".to_owned(), json!(base_model::once(statuses.iter())));
        let service = ServiceName { https: false, service: key, port: port.to_string() };
        options.errors = Some(Errors { statuses, service, told });
        nearly("X-Format and X-Original-URI are not told; the request has the fields of the client")
    }

    fn addresses(&self, name: &str, value: &str, options: &mut Options) -> Told {
        let listed: Vec<&str> = base_model::once(list(value));
        for text in &listed {
            if text.parse::<base_model::Cidr>().is_err() {
                self.closed(options);
                return Err(format!(
                    "{} is neither an address nor a prefix; requests get 403 until it is",
                    quoted(text)
                ));
            }
        }
        let filter = options.path.entry("ipFilter").or_insert_with(|| json!({}));
        if name == "denylist-source-range" {
            filter["blockIPs"] = json!(listed);
        } else {
            filter["allowIPs"] = json!(listed);
            filter["blockByDefault"] = json!(true);
        }
        Ok(Done::As)
    }

    fn hash_by(&self, value: &str, options: &mut Options) -> Told {
        let fields = balance(options);
        fields.insert("policy".to_owned(), json!("maglev"));
        if matches!(value, "$remote_addr" | "$binary_remote_addr" | "$the_real_ip" | "$http_x_forwarded_for") {
            return Ok(Done::As);
        }
        if let Some(header) = value.strip_prefix("$http_") {
            fields.insert("headerHashKey".to_owned(), json!(header.replace('_', "-")));
            return Ok(Done::As);
        }
        if let Some(cookie) = value.strip_prefix("$cookie_") {
            fields.insert("cookieHashKey".to_owned(), json!(cookie));
            return Ok(Done::As);
        }
        if value.contains('$') && unknown_variable(value).is_none() {
            fields.insert("headerHashKey".to_owned(), json!(HASHED));
            set_header(options, HASHED, value);
            return nearly("servers see what is hashed, in the field X-Upstream-Hash-By");
        }
        fields.remove("policy");
        Err(match unknown_variable(value) {
            Some(name) => format!(
                "${name} is not known here; accepted are {} and $http_, $cookie_ and $arg_ with a name",
                HASHABLE.join(", ")
            ),
            None => format!("{} is the same for all requests; write a variable, such as $request_uri", quoted(value)),
        })
    }

    /// Once for all of them.
    fn retry(&self, name: &str, value: &str, options: &mut Options) -> Told {
        let on = self.get("proxy-next-upstream").unwrap_or("error timeout");
        if on == "off" {
            return Ok(Done::As);
        }
        let tries = self.get("proxy-next-upstream-tries").map_or(Ok(3), number)?;
        if name == "proxy-next-upstream-timeout" {
            seconds(value)?;
            return nearly("all tries together are bounded by their number, and each by proxy-read-timeout");
        }
        // 0: as many as there are servers.
        let tries = if tries <= 0 { 3 } else { tries.min(100) };
        if tries > 1 && options.resilience.is_empty() {
            let retry = json!({"name": "again", "kind": "Retry", "maxAttempts": tries, "waitDuration": "10ms"});
            options.resilience.push(retry);
            options.pool.insert("retryPolicy".to_owned(), json!("again"));
            let mut codes: Vec<i64> =
                on.split_whitespace().filter_map(|word| word.strip_prefix("http_")?.parse().ok()).collect();
            if !codes.is_empty() {
                codes.extend(options.errors.iter().flat_map(|errors| &errors.statuses));
                options.pool.insert("failureCodes".to_owned(), json!(base_model::once(codes)));
            }
        }
        match on.split_whitespace().any(|word| word.starts_with("http_")) {
            true => Ok(Done::As),
            false => nearly(
                "answers of 500 and more are tried again as well; list the statuses that are to be, such as http_502",
            ),
        }
    }

    fn cors(&self) -> Option<Value> {
        let words = |name: &str, default: &str| -> Vec<String> {
            let given = self.get(name).map(|value| cors_words(name, value).0).filter(|words| !words.is_empty());
            given.unwrap_or_else(|| cors_words(name, default).0)
        };
        // Where the origins that are named are none, it is not all of them that are meant.
        let named = self.get("cors-allow-origin").map(|value| cors_words("cors-allow-origin", value));
        if named.is_some_and(|(words, left)| words.is_empty() && !left.is_empty()) {
            return None;
        }
        let origins = words("cors-allow-origin", "*");
        let credentials = self.get("cors-allow-credentials").is_none_or(|value| truth(value) != Ok(false));
        Some(json!({
            "name": "cors", "kind": "CORSAdaptor",
            "allowedOrigins": if origins.iter().any(|origin| origin == "*") { Vec::new() } else { origins },
            "allowedMethods": words("cors-allow-methods", "GET, PUT, POST, DELETE, PATCH, OPTIONS"),
            "allowedHeaders": words("cors-allow-headers", "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization"),
            "exposedHeaders": words("cors-expose-headers", ""),
            "allowCredentials": credentials,
            "maxAge": self.get("cors-max-age").and_then(|value| number(value).ok()).unwrap_or(1_728_000).max(0),
        }))
    }

    fn limits(&self) -> Option<Value> {
        let fits = |n: i64| n.min(i64::from(u32::MAX));
        let most = |name: &str| self.get(name).and_then(|value| number(value).ok()).filter(|n| *n > 0).map(fits);
        let burst = most("limit-burst-multiplier").unwrap_or(5);
        let policy = |name: &str, most: i64, period: &str| {
            json!({"name": name, "key": {"from": "address"}, "limitForPeriod": most, "limitRefreshPeriod": period,
                   "burst": fits(most.saturating_mul(burst))})
        };
        let under_way = most("limit-connections");
        // Of two limits the one by the second is what keeps a server alive.
        let (name, mut policy) = match (most("limit-rps"), most("limit-rpm"), under_way) {
            (Some(rps), ..) => ("rps", policy("rps", rps, "1s")),
            (None, Some(rpm), _) => ("rpm", policy("rpm", rpm, "1m")),
            (None, None, Some(_)) => {
                ("connections", json!({"name": "connections", "key": {"from": "address"}, "limitForPeriod": 0}))
            }
            (None, None, None) => return None,
        };
        if let Some(most) = under_way {
            policy["maxConcurrent"] = json!(most);
        }
        let rule = json!({"url": {"prefix": "/"}, "policyRef": name});
        Some(json!({"name": "limit", "kind": "RateLimiter", "policies": [policy], "urls": [rule]}))
    }

    fn mirror(&self, value: &str, options: &mut Options) -> Told {
        let target = value.trim_end_matches("$request_uri");
        if target.contains('$') || !(target.starts_with("http://") || target.starts_with("https://")) {
            return Err(format!(
                "{} is no place to send copies to; write it as http://host:port$request_uri",
                quoted(value)
            ));
        }
        let everything = json!({"policy": "random", "permil": 1000});
        let pool = json!({"servers": [{"url": target.trim_end_matches('/')}], "filter": everything});
        options.proxy.insert("mirrorPool".to_owned(), pool);
        Ok(Done::As)
    }
}

/// Variables that differ from request to request and not from try to try.
const HASHABLE: [&str; 10] = [
    "$request_uri",
    "$uri",
    "$args",
    "$query_string",
    "$host",
    "$http_host",
    "$remote_addr",
    "$remote_user",
    "$request_method",
    "$scheme",
];

/// The first variable of a text that would be nothing.
fn unknown_variable(text: &str) -> Option<&str> {
    text.split('$').skip(1).find_map(|rest| {
        let rest = rest.trim_start_matches('{');
        let name = &rest[..rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len())];
        let named =
            ["http_", "cookie_", "arg_"].iter().any(|start| name.len() > start.len() && name.starts_with(start));
        (!named && !HASHABLE.iter().any(|known| known[1..] == *name)).then_some(name)
    })
}

/// The field that what is hashed stands in where it is no field of the client.
const HASHED: &str = "X-Upstream-Hash-By";

/// Whether it keeps somebody out: one that cannot be read keeps everybody out.
fn is_guard(name: &str) -> bool {
    name.starts_with("auth-") || name.ends_with("-source-range")
}

/// A name of a host, or a wildcard as Ingresses have them.
fn is_host(text: &str) -> bool {
    let labels = text.strip_prefix("*.").unwrap_or(text);
    let fits = |label: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
        !label.is_empty()
            && label.len() < 64
            && label.chars().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    labels.len() < 254 && labels.split('.').all(fits)
}

fn nearly(told: &str) -> Told {
    Ok(Done::Nearly(told.to_owned()))
}

fn redirect(found: &str, to: &str, code: i64) -> Value {
    json!({"name": "redirect", "kind": "Redirector", "match": found, "replacement": to, "statusCode": code})
}

fn balance(options: &mut Options) -> &mut Map<String, Value> {
    fields(options.pool.entry("loadBalance"))
}

fn mtls(options: &mut Options) -> &mut Map<String, Value> {
    fields(options.proxy.entry("mtls"))
}

fn set_header(options: &mut Options, name: &str, value: &str) {
    fields(options.path.entry("setHeaders")).insert(name.to_owned(), json!(value));
}

fn fields<'m>(entry: serde_json::map::Entry<'m>) -> &'m mut Map<String, Value> {
    let value = entry.or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("it was made one just now")
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty())
}

/// The words of an annotation of CORS as a CORSAdaptor takes them, each once, and those that it would refuse: nginx sends on whatever stands
/// there, and one that is wrong must not keep the rest of the ingress from being served.
fn cors_words<'v>(name: &str, value: &'v str) -> (Vec<String>, Vec<&'v str>) {
    let (mut words, mut left) = (Vec::new(), Vec::new());
    for word in list(value) {
        let (taken, is_one) = match name {
            "cors-allow-methods" => {
                let method = word.to_ascii_uppercase();
                let is_one = base_model::words::METHODS.contains(&method.as_str());
                (method, is_one || word == "*")
            }
            "cors-allow-origin" => (word.to_owned(), word.matches('*').count() <= 1),
            _ => (word.to_owned(), word == "*" || base_model::header_adapt::is_header_name(word)),
        };
        if is_one { words.push(taken) } else { left.push(word) }
    }
    if name == "cors-allow-methods" && words.iter().any(|word| word == "*") {
        words = vec!["*".to_owned()];
    }
    (base_model::once(words), left)
}

/// Seconds as nginx writes them: a number, with `s` or without.
fn seconds(text: &str) -> Result<String, String> {
    let number = number(text.trim_end_matches('s'))?;
    if number < 1 {
        return Err(format!("{} is no time; 1 or more", quoted(text)));
    }
    Ok(format!("{number}s"))
}

/// Bytes as nginx writes them: `8m`, `100k`, `1g`.
fn size(text: &str) -> Result<i64, String> {
    let lower = text.to_ascii_lowercase();
    let (digits, factor) = match lower.strip_suffix(['k', 'm', 'g']) {
        Some(digits) if lower.ends_with('k') => (digits, 1 << 10),
        Some(digits) if lower.ends_with('m') => (digits, 1 << 20),
        Some(digits) => (digits, 1 << 30),
        None => (lower.as_str(), 1),
    };
    let wrong = || format!("{} is no size; write it as 8m", quoted(text));
    let number: i64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(factor).filter(|bytes| *bytes >= 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ingress, path, planned, service};
    use super::*;
    use crate::Kind;
    use crate::ingress::Plan;
    use crate::report::Grade;

    fn with(annotations: &[(&str, &str)]) -> Value {
        annotations.iter().map(|(name, value)| (format!("{PREFIX}{name}"), json!(value))).collect::<Map<_, _>>().into()
    }

    fn made_with(annotations: &[(&str, &str)], more: &[(Kind, Value)]) -> Plan {
        let mut objects =
            vec![service("s"), ingress("a", 1, with(annotations), &[("a.test", vec![path("/", "Prefix", "s")])])];
        objects.extend(more.iter().cloned());
        planned(&objects)
    }

    fn made(annotations: &[(&str, &str)]) -> Plan {
        made_with(annotations, &[])
    }

    fn grade(plan: &Plan, name: &str) -> (Grade, String) {
        let notes = &plan.reports[&(Kind::Ingress, Key::new("n", "a"))].notes;
        let note = notes.iter().find(|note| note.what == format!("{PREFIX}{name}"));
        note.map(|note| (note.grade, note.told.clone()))
            .unwrap_or_else(|| panic!("nothing is told of {name}: {notes:?}"))
    }

    fn filter(plan: &Plan, name: &str) -> Value {
        let pipeline = &plan.pipelines["ing.n.s.80~a"].read();
        let filters = pipeline["filters"].as_array().unwrap();
        filters
            .iter()
            .find(|filter| filter["name"] == name)
            .cloned()
            .unwrap_or_else(|| panic!("no {name} in {pipeline}"))
    }

    fn first(plan: &Plan) -> Value {
        plan.rules.get_min().unwrap().1.read()["paths"][0].clone()
    }

    #[test]
    fn each_annotation_is_honoured_approximated_or_refused() {
        use Grade::{Approximated, Honoured, Refused};
        for (name, value, grade_wanted, words) in [
            ("affinity", "cookie", Honoured, ""),
            ("affinity", "ip", Refused, "accepted is cookie"),
            ("app-root", "/shop", Honoured, ""),
            ("auth-realm", "Shop", Approximated, "restricted"),
            ("auth-url", "http://auth.test/", Honoured, ""),
            ("auth-url", "https://$host/oauth2/auth", Approximated, "certificate is not looked at"),
            ("auth-url", "auth.test", Refused, "where the service is"),
            ("auth-signin", "https://auth.test/", Approximated, "without auth-url"),
            ("custom-http-errors", "404", Refused, "default-backend"),
            ("auth-tls-secret", "n/ca", Refused, "caCertBase64"),
            ("backend-protocol", "GRPC", Honoured, ""),
            ("backend-protocol", "FCGI", Refused, "FastCGI"),
            ("configuration-snippet", "more_set_headers x", Refused, "ResponseAdaptor"),
            ("server-snippet", "x", Refused, "weirctl convert nginx"),
            ("enable-modsecurity", "true", Refused, "firewall"),
            ("enable-modsecurity", "false", Honoured, ""),
            ("limit-rps", "5", Approximated, "429"),
            ("limit-rps", "0", Refused, "1 or more"),
            ("limit-connections", "5", Approximated, "under way"),
            ("limit-connections", "0", Refused, "1 or more"),
            ("proxy-body-size", "8m", Honoured, ""),
            ("proxy-body-size", "big", Refused, "write it as 8m"),
            ("proxy-buffering", "off", Honoured, ""),
            ("proxy-buffering", "on", Approximated, "nothing is buffered"),
            ("proxy-next-upstream", "error http_502", Honoured, ""),
            ("proxy-next-upstream", "error timeout", Approximated, "http_502"),
            ("proxy-read-timeout", "30", Approximated, "whole answer"),
            ("rewrite-target", "new", Refused, "begins with /"),
            ("satisfy", "any", Refused, "all of them hold"),
            ("ssl-passthrough", "true", Refused, "TCPProxy"),
            ("upstream-hash-by", "$request_uri", Approximated, "X-Upstream-Hash-By"),
            ("upstream-hash-by", "${request_uri}-$host", Approximated, "X-Upstream-Hash-By"),
            ("upstream-hash-by", "$geoip_city", Refused, "$geoip_city is not known here"),
            ("upstream-hash-by", "all", Refused, "the same for all requests"),
            ("upstream-hash-by", "$http_x_user", Honoured, ""),
            ("use-regex", "true", Approximated, "without regard to case"),
            ("whitelist-source-range", "10.0.0.0/8", Honoured, ""),
            ("no-such-thing", "1", Refused, "no such annotation"),
        ] {
            let (found, told) = grade(&made(&[(name, value)]), name);
            assert!(found == grade_wanted && told.contains(words), "{name}: {value} is {found}: {told}");
            assert_eq!(found == Honoured, told.is_empty());
        }
    }

    #[test]
    fn a_door_that_cannot_be_kept_is_closed() {
        for annotations in [
            &[("auth-url", "auth.test/x")][..],
            &[("auth-url", "http://$upstream/x")],
            &[("enable-global-auth", "true")],
            &[("auth-type", "basic"), ("auth-secret", "none")],
            &[("auth-type", "basic")],
            &[("auth-tls-secret", "n/ca")],
            &[("whitelist-source-range", "the office")],
            &[("proxy-ssl-secret", "n/none")],
        ] {
            let plan = made(annotations);
            assert_eq!(first(&plan)["backend"], "ing.n.a~~closed", "{annotations:?}");
            assert_eq!(plan.pipelines["ing.n.a~~closed"].read()["filters"][0]["rules"][0]["code"], 403);
        }
    }

    #[test]
    fn users_come_from_the_secret() {
        let lines = "ann:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n";
        let auth = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, lines);
        let secret = (Kind::Secret, json!({"metadata": {"name": "users", "namespace": "n"}, "data": {"auth": auth}}));
        let plan = made_with(&[("auth-type", "basic"), ("auth-secret", "users")], &[secret]);
        let auth = filter(&plan, "auth")["basicAuth"].clone();
        assert_eq!(auth, json!({"mode": "USERS", "users": [lines.trim()]}));
        let (found, told) = grade(&made(&[("auth-secret", "other/users")]), "auth-secret");
        assert!(found == Grade::Refused && told.contains("another namespace"), "{told}");
    }

    #[test]
    fn what_is_asked_of_paths_and_pools_is_there() {
        let plan = made(&[
            ("proxy-body-size", "8m"),
            ("whitelist-source-range", "10.0.0.0/8, 192.0.2.1"),
            ("denylist-source-range", "10.1.0.0/16"),
            ("x-forwarded-prefix", "/shop"),
            ("proxy-connect-timeout", "3"),
            ("proxy-read-timeout", "30"),
            ("proxy-send-timeout", "60"),
            ("backend-protocol", "HTTPS"),
            ("affinity", "cookie"),
            ("session-cookie-name", "route"),
            ("session-cookie-max-age", "60"),
            ("proxy-next-upstream", "error http_502 http_503"),
            ("proxy-next-upstream-tries", "2"),
            ("upstream-vhost", "inside.test"),
            ("mirror-target", "http://copy.test:8080$request_uri"),
            ("limit-rps", "5"),
            ("enable-cors", "true"),
            ("cors-allow-origin", "https://a.test, https://b.test"),
        ]);
        let path = first(&plan);
        assert_eq!(path["clientMaxBodySize"], 8 << 20);
        assert_eq!(
            path["ipFilter"],
            json!({"blockIPs": ["10.1.0.0/16"], "allowIPs": ["10.0.0.0/8", "192.0.2.1"], "blockByDefault": true})
        );
        assert_eq!(path["setHeaders"], json!({"X-Forwarded-Prefix": "/shop"}));
        assert_eq!(
            plan.rules.get_min().unwrap().1.read()["paths"][1]["backend"],
            "ing.403",
            "who is not let in is led nowhere else"
        );
        let name = "ing.tls.n.s.80~a";
        let filters = plan.pipelines[name].read()["filters"].as_array().unwrap().clone();
        let kinds: Vec<&str> = filters.iter().map(|filter| filter["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["CORSAdaptor", "RateLimiter", "RequestAdaptor", "Proxy"]);
        let (proxy, pool) = (&filters[3], &filters[3]["pools"][0]);
        assert_eq!(proxy["mtls"], json!({"insecureSkipVerify": true}));
        assert_eq!(proxy["mirrorPool"]["servers"][0]["url"], "http://copy.test:8080");
        assert_eq!(
            (&pool["connectTimeout"], &pool["timeout"], &pool["serviceName"]),
            (&json!("3s"), &json!("60s"), &json!("https://n/s:80"))
        );
        let sticky = json!({"mode": "DurationBased", "lbCookieName": "route", "lbCookieExpire": "60s"});
        assert_eq!(pool["loadBalance"]["stickySession"], sticky);
        assert_eq!(
            (&pool["failureCodes"], &plan.pipelines[name].read()["resilience"][0]["maxAttempts"]),
            (&json!([502, 503]), &json!(2))
        );
        assert_eq!(filters[0]["allowedOrigins"], json!(["https://a.test", "https://b.test"]));
        assert_eq!(filters[1]["policies"][0]["burst"], 25);
    }

    #[test]
    fn servers_are_asked_for_by_the_name_that_is_written() {
        let plan = made(&[
            ("backend-protocol", "HTTPS"),
            ("proxy-ssl-verify", "on"),
            ("proxy-ssl-name", "inside.test"),
            ("proxy-ssl-server-name", "on"),
        ]);
        let proxy = &plan.pipelines["ing.tls.n.s.80~a"].read()["filters"][0];
        assert_eq!(proxy["mtls"], json!({"serverName": "inside.test"}));
        assert_eq!(grade(&plan, "proxy-ssl-name").0, Grade::Honoured);
        let (found, told) = grade(&made(&[("proxy-ssl-name", "$http_x")]), "proxy-ssl-name");
        assert!(found == Grade::Refused && told.contains("variables of nginx"), "{told}");
    }

    #[test]
    fn redirects_answer_by_themselves() {
        let plan = made(&[("permanent-redirect", "https://new.test$request_uri"), ("permanent-redirect-code", "308")]);
        let filter = &plan.pipelines["ing.n.a~~moved"].read()["filters"][0];
        assert_eq!((&filter["replacement"], &filter["statusCode"]), (&json!("https://new.test${1}"), &json!(308)));
        assert_eq!(first(&plan)["backend"], "ing.n.a~~moved");
        let plan = made(&[("app-root", "/shop"), ("from-to-www-redirect", "true"), ("server-alias", "b.test")]);
        let routes: Vec<(String, String)> = plan
            .rules
            .values()
            .map(control_api::Kept::read)
            .flat_map(|rule| {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                rule["paths"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|path| (text(&rule["host"]) + &text(&path["path"]), text(&path["backend"])))
                    .collect::<Vec<_>>()
            })
            .collect();
        let leads = |place: &str, to: &str| routes.iter().any(|(at, backend)| at == place && backend == to);
        assert!(leads("a.test/", "ing.n.a~~root") && leads("b.test/", "ing.n.a~~root"), "{routes:?}");
        assert!(leads("b.test", "ing.n.s.80") && leads("www.a.test", "ing.n.a~~to.a.test"), "{routes:?}");
    }

    #[test]
    fn a_canary_has_its_part_of_the_requests() {
        let pools = |annotations: &[(&str, &str)]| {
            let mut annotations = annotations.to_vec();
            annotations.push(("canary", "true"));
            let plan = planned(&[
                service("s"),
                service("t"),
                ingress("a", 1, json!({}), &[("a.test", vec![path("/", "Prefix", "s")])]),
                ingress("b", 2, with(&annotations), &[("a.test", vec![path("/", "Prefix", "t")])]),
            ]);
            assert!(plan.services.contains("n/t:80"));
            let pools = plan.pipelines["ing.n.s.80~a~b"].read()["filters"][0]["pools"].as_array().unwrap().clone();
            let filter = |pool: &Value| {
                ["headers", "cookies"].iter().find_map(|field| {
                    let (name, matched) = pool["filter"][field].as_object()?.iter().next()?;
                    Some(format!(" {name}={}", matched["exact"].as_str().or(matched["regex"].as_str())?))
                })
            };
            pools
                .iter()
                .map(|pool| {
                    let weight = pool["weight"].as_i64().map(|weight| format!(" {weight}")).unwrap_or_default();
                    format!("{}{}{weight}", pool["serviceName"].as_str().unwrap(), filter(pool).unwrap_or_default())
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(pools(&[("canary-weight", "10")]), ["n/s:80 90", "n/t:80 10"]);
        assert_eq!(pools(&[("canary-weight", "100")]), ["n/t:80"]);
        assert_eq!(pools(&[("canary-weight", "3"), ("canary-weight-total", "4")]), ["n/s:80 1", "n/t:80 3"]);
        assert_eq!(pools(&[("canary-by-header", "X")]), ["n/t:80 X=always", "n/s:80 X=never", "n/s:80"]);
        assert_eq!(pools(&[("canary-by-header", "X"), ("canary-by-header-value", "v")]), ["n/t:80 X=v", "n/s:80"]);
        assert_eq!(pools(&[("canary-by-header", "X"), ("canary-by-header-pattern", "^v")]), ["n/t:80 X=^v", "n/s:80"]);
        assert_eq!(
            pools(&[("canary-by-cookie", "c"), ("canary-weight", "1")]),
            ["n/t:80 c=always", "n/s:80 c=never", "n/s:80 99", "n/t:80 1"]
        );
        let alone = planned(&[
            service("t"),
            ingress("b", 2, with(&[("canary", "true")]), &[("a.test", vec![path("/", "Prefix", "t")])]),
        ]);
        let told = alone.reports[&(Kind::Ingress, Key::new("n", "b"))].lines().join("\n");
        assert!(told.contains("no other ingress has this host and path"), "{told}");
    }

    /// ingress-nginx sends on whatever stands there; a CORSAdaptor is refused for a method that is none, and with it all of its ingress.
    #[test]
    fn words_of_cors_are_made_right_or_left_out() {
        let with = |annotations: &[(&str, &str)]| {
            let mut all = vec![("enable-cors", "true")];
            all.extend(annotations);
            made(&all)
        };
        let cors = |plan: &Plan| plan.pipelines["ing.n.s.80~a"].read()["filters"][0].clone();
        let plan = with(&[
            ("cors-allow-methods", "get, PUT,GET, propfind, put"),
            ("cors-allow-headers", "X-A, X A, X-A"),
            ("cors-allow-origin", "https://a.test, https://*.*.test"),
            ("cors-max-age", "-5"),
        ]);
        let made_of = cors(&plan);
        assert_eq!(made_of["allowedMethods"], json!(["GET", "PUT"]));
        assert_eq!(made_of["allowedHeaders"], json!(["X-A"]));
        assert_eq!((&made_of["allowedOrigins"], &made_of["maxAge"]), (&json!(["https://a.test"]), &json!(0)));
        let told = plan.reports[&(Kind::Ingress, Key::new("n", "a"))].lines().join("\n");
        for left in ["\"propfind\"", "\"X A\"", "\"https://*.*.test\""] {
            assert!(told.contains(left), "{left}\n{told}");
        }
        assert_eq!(cors(&with(&[("cors-allow-methods", "*, get")]))["allowedMethods"], json!(["*"]));
        let none = with(&[("cors-allow-origin", "https://*.*.test")]);
        let told = none.pipelines.values().any(|pipeline| pipeline.text().contains("CORSAdaptor"));
        assert!(!told, "nobody is meant then, and not everybody");
    }

    #[test]
    fn a_client_has_so_many_connections() {
        let policies = |annotations: &[(&str, &str)]| filter(&made(annotations), "limit")["policies"].clone();
        assert_eq!(
            policies(&[("limit-connections", "3")]),
            json!([{"name": "connections", "key": {"from": "address"}, "limitForPeriod": 0, "maxConcurrent": 3}])
        );
        let both = policies(&[("limit-connections", "3"), ("limit-rps", "5")]);
        assert_eq!((&both[0]["limitForPeriod"], &both[0]["maxConcurrent"]), (&json!(5), &json!(3)));
    }

    #[test]
    fn another_service_says_who_may_pass() {
        let plan = made(&[
            ("auth-url", "http://$host/oauth2/auth?from=$request_uri"),
            ("auth-signin", "https://$host/oauth2/start"),
            ("auth-response-headers", "X-User, X-Email"),
            ("enable-cors", "true"),
            ("limit-rps", "5"),
            ("upstream-vhost", "b.test"),
        ]);
        let filters = plan.pipelines["ing.n.s.80~a"].read()["filters"].as_array().unwrap().clone();
        let names: Vec<&str> = filters.iter().map(|filter| filter["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["cors", "limit", "auth-url", "vhost", "proxy"], "in the order of nginx");
        assert_eq!(
            filters[2],
            json!({"name": "auth-url", "kind": "ForwardAuth", "url": "http://a.test/oauth2/auth?from=$request_uri",
                   "signin": "https://$host/oauth2/start", "responseHeaders": ["X-User", "X-Email"]})
        );
        let secure = filter(&made(&[("auth-url", "https://auth.test/")]), "auth-url");
        assert_eq!(secure["insecureTls"], true);
    }

    #[test]
    fn errors_are_answered_by_the_service_that_is_named() {
        let plan = made_with(&[("custom-http-errors", "404,503"), ("default-backend", "errors")], &[service("errors")]);
        let pipeline = &plan.pipelines["ing.n.s.80~a"].read();
        let flow = json!([{"filter": "proxy", "jumpIf": {"failureCode": "error"}}, {"filter": "END"}, {"filter": "error"}, {"filter": "errors"}]);
        assert_eq!(pipeline["flow"], flow);
        assert_eq!(pipeline["filters"][0]["pools"][0]["failureCodes"], json!([404, 503]));
        assert_eq!(pipeline["filters"][2]["pools"][0]["serviceName"], "n/errors:80");
        assert!(plan.services.contains("n/errors:80"));
        let told = grade(&made(&[("custom-http-errors", "404"), ("default-backend", "none")]), "custom-http-errors");
        assert!(told.0 == Grade::Refused && told.1.contains("is not there"), "{told:?}");
        assert_eq!(
            grade(&made(&[("custom-http-errors", "200"), ("default-backend", "s")]), "custom-http-errors").0,
            Grade::Refused
        );
    }

    #[test]
    fn a_canary_has_no_part_of_what_another_namespace_has() {
        let mut foreign = ingress(
            "b",
            2,
            with(&[("canary", "true"), ("canary-weight", "100")]),
            &[("a.test", vec![path("/", "Prefix", "t")])],
        );
        foreign.1["metadata"]["namespace"] = json!("m");
        let plan = planned(&[
            service("s"),
            ingress("a", 1, json!({}), &[("a.test", vec![path("/", "Prefix", "s")])]),
            foreign,
        ]);
        assert_eq!(first(&plan)["backend"], "ing.n.s.80");
        let told = plan.reports[&(Kind::Ingress, Key::new("m", "b"))].lines().join("\n");
        assert!(
            told.contains("ingress n/a has this path, and a canary has a part of its own namespace's alone"),
            "{told}"
        );
    }

    #[test]
    fn values_that_would_become_something_else_are_refused() {
        for (name, value) in [
            ("upstream-vhost", "a.test\r\nX-Admin: 1"),
            ("x-forwarded-prefix", "/a\nb"),
            ("permanent-redirect", "https://a.test/\r\nSet-Cookie: a=b"),
            ("server-alias", "*"),
            ("server-alias", "a.test b.test"),
            ("server-alias", "*.*.test"),
            ("server-alias", "a.test,*x.test"),
            ("session-cookie-name", "a\u{7f}b"),
        ] {
            let plan = made(&[(name, value)]);
            assert_eq!(grade(&plan, name).0, Grade::Refused, "{name}: {value}");
            assert_eq!(first(&plan)["backend"], "ing.n.s.80", "{name}: {value}");
            assert!(
                plan.rules
                    .values()
                    .map(control_api::Kept::read)
                    .all(|rule| ["", "a.test"].contains(&rule["host"].as_str().unwrap_or_default()))
            );
        }
        // What keeps somebody out and cannot be read keeps everybody out.
        for (name, value) in
            [("auth-type", "basic\nx"), ("auth-type", "digest"), ("whitelist-source-range", "10.0.0.0/8\n")]
        {
            let plan = made(&[(name, value)]);
            let closed = if name == "whitelist-source-range" { "ing.n.s.80" } else { "ing.n.a~~closed" };
            assert_eq!(first(&plan)["backend"], closed, "{name}: {value}");
        }
        // An Ingress that is called as what another one does.
        let plan = made_with(
            &[("app-root", "/x")],
            &[ingress(
                "root",
                2,
                with(&[("proxy-body-size", "8m"), ("upstream-vhost", "b.test")]),
                &[("b.test", vec![path("/", "Prefix", "s")])],
            )],
        );
        assert!(plan.pipelines.contains_key("ing.n.s.80~root") && plan.pipelines.contains_key("ing.n.a~~root"));
        let again = planned(&[
            service("s"),
            ingress("s.80", 1, with(&[("app-root", "/x")]), &[("a.test", vec![path("/", "Prefix", "s")])]),
            ingress("root", 2, with(&[("upstream-vhost", "b.test")]), &[("b.test", vec![path("/", "Prefix", "s")])]),
        ]);
        assert_eq!(
            again.pipelines["ing.n.s.80~root"].read()["filters"].as_array().unwrap().len(),
            2,
            "{:#?}",
            again.pipelines
        );
    }

    #[test]
    fn sizes_and_times_are_nginxs() {
        for (text, bytes) in [("8m", 8 << 20), ("100K", 100 << 10), ("1g", 1 << 30), ("0", 0), ("12", 12)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "m", "-1", "1.5m", "99999999999g"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(seconds("30s"), Ok("30s".to_owned()));
        assert!(seconds("0").is_err() && seconds("soon").is_err());
    }
}

//! Logs people in at an OpenID Connect provider, and lets nobody pass who is not.
//!
//! Use it in front of pages and services that have no login of their own. Nothing is stored on machines or in the cluster: what is known of
//! a login is in cookies that this filter encrypts and signs, so that every edge reads what another one wrote.
//!
//! ```yaml
//! name: login
//! kind: OIDCAdaptor
//! discovery: https://idp.example/.well-known/openid-configuration
//! clientId: edge
//! clientSecret: s3cret
//! redirectURI: https://shop.example/oidc/callback
//! cookieName: shop-session
//! ```
//!
//! Whose browser says that it fetches something for a page (`Sec-Fetch-Mode` other than `navigate`) gets a 401 where there is no session:
//! nobody could log in there, and a page that asks every second would fill the browser with logins. Who else comes without a valid session
//! is sent to the provider (302) with `state`, `nonce` and a code challenge (PKCE, S256), and comes back to
//! the path of `redirectURI`. There the code is exchanged, the ID token verified (signature by the provider's keys, issuer, audience, nonce,
//! times), a session cookie set, and the browser sent where it wanted to go. With the session requests pass and carry `X-User-Info` (JSON in
//! base64), `X-ID-Token`, `X-Access-Token` and `X-Origin-Request-URL`; what a client writes there is removed, and so is the cookie. A client
//! without a browser may send the ID token as `Authorization: Bearer`; it is verified in the same way, and one that does not count is a 401.
//!
//! Without `discovery` the endpoints are given one by one, for plain OAuth2: then there is no ID token, and `userinfoEndpoint` says who it is.
//! Such a provider is believed for what it says over TLS.
//!
//! Outcomes: `oidcFiltered`. A wrong or outdated state is a 403, an ID token that does not count a 401, a provider that is down, or whose
//! keys cannot be had, a 503 with `Retry-After`, and one that answers nonsense a 500 (both counted as `oidc_failed`). Fits HTTPServer. Costs a
//! decryption per request, about 2 µs, and two calls per login.

mod cookies;
mod provider;

use crate::form::{self, escape_into};
use crate::module_doc::module_doc;
use crate::spec::{self, Spec, unexpected};
use crate::validator::jwt::{Expected, TokenError};
use crate::validator::now;
use crate::validator::token::{bearer, cookie};
use base_model::problem::at;
use base_model::{Findings, GoDuration, Problem};
use base_telemetry::Limit;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use cookies::Sealer;
use edge_pipeline::{Body, BuildError, Exchange, Filter, FilterKind, Outcome, Parts, SUCCESS, Step, Touches};
use edge_upstream::call::split_url;
use proto_http::Headers;
use provider::{Fault, Provider, Providers};
use ring::digest;
use ring::rand::{SecureRandom as _, SystemRandom};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::time::Duration;

const FILTERED: Outcome = "oidcFiltered";

/// `kind: OIDCAdaptor`: logs people in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["clientId", "clientSecret", "redirectURI"]))]
pub struct OidcAdaptorSpec {
    /// Name of the session cookie. Default `weir-session`.
    pub cookie_name: String,
    /// As whom this gateway is registered at the provider.
    pub client_id: String,
    /// Its secret. Keys of the cookies are made of it: with another one everybody logs in anew.
    #[schemars(extend("x-secret" = true, "writeOnly" = true))]
    pub client_secret: String,
    /// URL of what the provider says of itself, `https://idp.example/.well-known/openid-configuration`. Fetched with the first request and
    /// again every hour.
    pub discovery: String,
    /// Where people log in, without `discovery`.
    pub authorization_endpoint: String,
    /// Where codes are exchanged, without `discovery`.
    pub token_endpoint: String,
    /// Who it is, where there is no ID token.
    pub userinfo_endpoint: String,
    /// Where people come back to: a URL of this gateway whose path leads to this filter, as it is registered at the provider. A path
    /// alone is one of the site that is asked, by its Host: the provider must know each of them.
    #[serde(rename = "redirectURI")]
    pub redirect_uri: String,
    /// What is asked for. Default `openid profile email` with `discovery`, else `user`.
    pub scopes: Vec<String>,
    /// Longest session. Default 8h, 1m to 30d. With an ID token it still ends no earlier than the login allows; the provider is asked again
    /// after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_ttl: Option<GoDuration>,
    /// Path that ends the session here, and at the provider where it has an `end_session_endpoint`. Default: none does.
    pub logout_path: String,
    /// Believe whatever certificate the provider shows. Default false.
    pub insecure_tls: bool,
    /// How long a call of the provider may take. Default 5s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<GoDuration>,
}

const COOKIE_NAME: &str = "weir-session";
const SESSION_TTL: Duration = Duration::from_secs(8 * 3600);
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long a login may take.
const LOGIN_TTL: u64 = 600;

/// Beginnings of names that browsers bind to TLS; with the first one, a cookie is one host's alone and nobody beside it can set one, but its
/// path must be `/`.
const HOST_PREFIX: &str = "__Host-";
const SECURE_PREFIX: &str = "__Secure-";

/// Longest URL that is remembered over a login, in bytes; from a longer one people come back to the root.
const URL_MAX: usize = 2048;

/// Fields that speak of the session; nobody but this filter sets them.
const FIELDS: [&str; 4] = ["X-User-Info", "X-ID-Token", "X-Access-Token", "X-Origin-Request-URL"];

impl Spec for OidcAdaptorSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        for (field, text) in [("clientId", &self.client_id), ("clientSecret", &self.client_secret)] {
            if text.is_empty() {
                findings.problem(Problem::new(at(path, field), "is missing").advice("the provider gave you one"));
            }
        }
        if !self.cookie_name.is_empty() && !proto_http::headers::is_name(self.cookie_name.as_bytes()) {
            let problem = Problem::new(at(path, "cookieName"), "not a name of a cookie").text(&self.cookie_name);
            findings.problem(problem);
        }
        let bound = [HOST_PREFIX, SECURE_PREFIX].iter().any(|prefix| begins_with(&self.cookie_name, prefix));
        if bound && split_url(&self.redirect_uri).is_ok_and(|(at, _)| !at.is_tls()) {
            let problem =
                Problem::new(at(path, "cookieName"), "browsers keep it over TLS alone").text(&self.cookie_name);
            findings.problem(problem.advice("give a redirectURI with https://, or another name"));
        }
        let single = [
            ("authorizationEndpoint", &self.authorization_endpoint),
            ("tokenEndpoint", &self.token_endpoint),
            ("userinfoEndpoint", &self.userinfo_endpoint),
        ];
        let given = [("discovery", &self.discovery), ("redirectURI", &self.redirect_uri)];
        for (field, url) in single.iter().chain(&given) {
            let wanted = match *field {
                "redirectURI" => true,
                "discovery" => single.iter().all(|(_, url)| url.is_empty()),
                _ => self.discovery.is_empty(),
            };
            if url.is_empty() {
                if wanted
                    && !(self.discovery.is_empty()
                        && single.iter().all(|(_, u)| u.is_empty())
                        && *field != "redirectURI"
                        && *field != "discovery")
                {
                    findings.problem(Problem::new(at(path, field), "is missing").accepted("a URL"));
                }
            } else if *field == "redirectURI" && is_path(url) {
            } else if let Err(why) = split_url(url) {
                findings.problem(Problem::new(at(path, field), why).text(url));
            } else if !self.discovery.is_empty() && single.iter().any(|(known, _)| known == field) {
                findings.warn(at(path, field), "is not looked at: discovery is");
            }
        }
        if !self.logout_path.is_empty() && !self.logout_path.starts_with('/') {
            let problem = Problem::new(at(path, "logoutPath"), "not a path").text(&self.logout_path);
            findings.problem(problem.accepted("a path that begins with /"));
        }
        let (session, day) = (self.session_ttl.map_or(SESSION_TTL, Duration::from), Duration::from_secs(86_400));
        if !(Duration::from_secs(60)..=30 * day).contains(&session) {
            findings.problem(Problem::new(at(path, "sessionTtl"), "out of range").accepted("1m to 720h"));
        }
        if self.timeout.is_some_and(|time| time.is_zero()) {
            findings.problem(
                Problem::new(at(path, "timeout"), "no provider answers in no time").accepted("longer than 0s"),
            );
        }
    }
}

/// Whether it is a path of this site, and none that browsers take for another one.
fn is_path(url: &str) -> bool {
    url.starts_with('/') && !url.starts_with("//") && !url.contains(|c: char| c == '\\' || c.is_control() || c == '#')
}

fn begins_with(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix))
}

/// A login on its way, in a cookie of its own.
#[derive(Debug, Serialize, Deserialize)]
struct Login {
    state: String,
    nonce: String,
    verifier: String,
    /// Where the browser wanted to go.
    url: String,
    /// Seconds since 1970.
    until: u64,
}

/// A session, in a cookie.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Session {
    user: Map<String, Value>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    id_token: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    access_token: String,
    /// Seconds since 1970.
    until: u64,
}

/// A ready OIDCAdaptor.
pub struct OidcAdaptor {
    spec: OidcAdaptorSpec,
    cookie: String,
    /// Scheme and authority of `redirectURI`; `None` where it is a path of the site that is asked.
    origin: Option<String>,
    /// Cookies go over TLS alone, whatever the request came over.
    secure: bool,
    callback: String,
    /// Path of the cookies of logins.
    login_path: String,
    ttl: u64,
    sealer: Sealer,
    providers: Providers,
    random: SystemRandom,
    failed: Limit,
}

pub const KIND: FilterKind = FilterKind {
    kind: "OIDCAdaptor",
    results: &[FILTERED],
    doc: module_doc!("oidc_adaptor.rs"),
    schema: spec::schema::<OidcAdaptorSpec>,
    check: spec::check::<OidcAdaptorSpec>,
    build: |fields, parts| spec::build(fields, |spec| OidcAdaptor::new(spec, parts)),
};

/// What ends a request here.
enum End {
    Status(u16, String),
    /// The provider failed, or this machine.
    Failed(String),
    /// The provider is down: another try may do.
    Down(String),
}

impl From<Fault> for End {
    fn from(fault: Fault) -> End {
        if fault.is_down { End::Down(fault.why) } else { End::Failed(fault.why) }
    }
}

impl End {
    /// A token that does not count. That the keys cannot be had is no verdict on it.
    fn of_token(what: &str, error: TokenError) -> End {
        match error {
            TokenError::NoKeys => End::Down(format!("{what}{error}")),
            _ => End::Status(401, format!("{what}{error}")),
        }
    }
}

impl OidcAdaptor {
    fn new(spec: OidcAdaptorSpec, parts: &Parts<'_>) -> Result<OidcAdaptor, BuildError> {
        let (origin, is_tls, target) = if is_path(&spec.redirect_uri) {
            let bound = [HOST_PREFIX, SECURE_PREFIX].iter().any(|prefix| begins_with(&spec.cookie_name, prefix));
            (None, bound, spec.redirect_uri.as_str())
        } else {
            let (at, target) = split_url(&spec.redirect_uri).map_err(|why| unexpected("redirectURI", why))?;
            let origin = &spec.redirect_uri[..spec.redirect_uri.len() - target.len()];
            (Some(origin.to_owned()), at.is_tls(), target)
        };
        let callback = target.split('?').next().filter(|path| !path.is_empty()).unwrap_or("/").to_owned();
        let before = parts.previous.and_then(|filter| filter.downcast::<OidcAdaptor>());
        let providers = match before.filter(|known| known.spec == spec) {
            Some(known) => known.providers.clone(),
            None => Providers::new(&spec, spec.timeout.map_or(TIMEOUT, Duration::from), parts)
                .map_err(|why| unexpected("discovery", why))?,
        };
        // What one provider has said of somebody is nothing that another one has said.
        let (token, user) = (&spec.token_endpoint, &spec.userinfo_endpoint);
        let place = [&spec.redirect_uri, &spec.discovery, token, user].map(String::as_str);
        let callback = proto_http::Path::from_text(&callback).as_str().to_owned();
        Ok(OidcAdaptor {
            cookie: if spec.cookie_name.is_empty() { COOKIE_NAME.to_owned() } else { spec.cookie_name.clone() },
            origin,
            secure: is_tls,
            login_path: if begins_with(&spec.cookie_name, HOST_PREFIX) { "/".to_owned() } else { callback.clone() },
            callback,
            ttl: spec.session_ttl.map_or(SESSION_TTL, Duration::from).as_secs(),
            sealer: Sealer::new(&spec.client_secret, &spec.client_id, &place)
                .map_err(|why| unexpected("clientSecret", why))?,
            providers,
            random: SystemRandom::new(),
            failed: parts.telemetry.limits().register("oidc_failed"),
            spec,
        })
    }

    async fn pass(&self, exchange: &mut Exchange) -> Result<Outcome, End> {
        for name in FIELDS {
            exchange.request_mut().headers.remove(name);
        }
        let path = exchange.request().path.as_str();
        if path == self.callback {
            return self.finish(exchange).await;
        }
        let now = now() as u64;
        let session = self.session(&exchange.request().headers).filter(|session| session.until > now);
        if !self.spec.logout_path.is_empty() && path == self.spec.logout_path {
            return self.log_out(session, exchange).await;
        }
        if let Some(session) = session {
            self.let_pass(&session, exchange);
            return Ok(SUCCESS);
        }
        if let Some(token) = bearer(&exchange.request().headers) {
            let provider = self.provider().await?;
            let claims = self.verify(&provider, token, None).await.map_err(|error| End::of_token("", error))?;
            let session =
                Session { user: claims, id_token: token.to_owned(), access_token: String::new(), until: u64::MAX };
            self.let_pass(&session, exchange);
            return Ok(SUCCESS);
        }
        if exchange.request().headers.text("Sec-Fetch-Mode").is_some_and(|mode| mode != "navigate") {
            return Err(End::Status(401, "there is no session, and nobody can log in here".to_owned()));
        }
        self.send_to_provider(now, exchange).await
    }

    /// What the session says goes to the backend, its cookie does not.
    fn let_pass(&self, session: &Session, exchange: &mut Exchange) {
        let url = wanted_url(exchange);
        let headers = &mut exchange.request_mut().headers;
        let user = serde_json::to_vec(&session.user).unwrap_or_default();
        headers.set("X-User-Info", STANDARD.encode(user));
        for (name, value) in [
            ("X-ID-Token", &session.id_token),
            ("X-Access-Token", &session.access_token),
            ("X-Origin-Request-URL", &url),
        ] {
            if !value.is_empty() && proto_http::headers::is_value(value.as_bytes()) {
                headers.set(name, value);
            }
        }
        cookies::withhold(headers, &self.cookie);
    }

    async fn send_to_provider(&self, now: u64, exchange: &mut Exchange) -> Result<Outcome, End> {
        let provider = self.provider().await?;
        let login = Login {
            state: self.token()?,
            nonce: self.token()?,
            verifier: self.token()?,
            url: Some(self.url_to_return_to(exchange))
                .filter(|url| url.len() <= URL_MAX)
                .unwrap_or_else(|| "/".to_owned()),
            until: now + LOGIN_TTL,
        };
        let challenge = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, login.verifier.as_bytes()));
        let scopes =
            if self.spec.scopes.is_empty() { provider.usual_scopes().to_owned() } else { self.spec.scopes.join(" ") };
        let mut location = provider.authorization_endpoint.clone();
        location.push(if location.contains('?') { '&' } else { '?' });
        for (n, (name, value)) in [
            ("response_type", "code"),
            ("client_id", &self.spec.client_id),
            ("redirect_uri", &self.redirect_uri(exchange)),
            ("scope", &scopes),
            ("state", &login.state),
            ("nonce", &login.nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ]
        .iter()
        .enumerate()
        {
            if n > 0 {
                location.push('&');
            }
            location.push_str(name);
            location.push('=');
            escape_into(value.as_bytes(), &mut location);
        }
        let (name, secure) = (self.login_cookie(&login.state), self.is_secure(exchange));
        let sealed = self.sealer.seal(&name, &login).ok_or_else(|| End::Failed("no random numbers".to_owned()))?;
        let response = exchange.refuse(302);
        response.headers.set("Location", location);
        response.headers.set("Cache-Control", "no-store");
        let line = self.cookie_line(secure, &name, &sealed, LOGIN_TTL, &self.login_path);
        response.headers.add("Set-Cookie", line);
        Ok(FILTERED)
    }

    /// The browser is back with a code.
    async fn finish(&self, exchange: &mut Exchange) -> Result<Outcome, End> {
        let refused = |why: &str| End::Status(403, why.to_owned());
        let query = exchange.request().query.clone().unwrap_or_default();
        let pairs = form::pairs(&query).ok_or_else(|| refused("malformed answer of the provider"))?;
        let state = form::only(&pairs, "state").ok_or_else(|| refused("no state"))?;
        let name = self.login_cookie(state);
        let sealed = cookie(&exchange.request().headers, &name).ok_or_else(|| refused("unknown state"))?;
        let login: Login = self.sealer.open(&name, sealed).ok_or_else(|| refused("unknown state"))?;
        let now_ = now() as u64;
        if login.state != state || login.until <= now_ {
            return Err(refused("the login took too long"));
        }
        if let Some(error) = form::only(&pairs, "error") {
            return Err(End::Status(403, format!("the provider says {}", base_text::quoted(error))));
        }
        let code = form::only(&pairs, "code").ok_or_else(|| refused("no code"))?;
        let provider = self.provider().await?;
        // The issuer it says it is (RFC 9207): a code of another provider is not shown to this one.
        if let Some(issuer) = form::only(&pairs, "iss")
            && !provider.issuer.is_empty()
            && provider.issuer != issuer
        {
            return Err(refused("the answer is of another provider"));
        }
        let tokens = provider.exchange(&self.spec, &self.redirect_uri(exchange), code, &login.verifier).await?;
        let user = match (&provider.keys, tokens.id_token.as_str()) {
            (None, _) | (_, "") if provider.is_plain() => provider.user(&tokens.access_token).await?,
            (_, "") => return Err(End::Status(401, "the provider gave no ID token".to_owned())),
            (_, token) => {
                let verified = self.verify(&provider, token, Some(&login.nonce)).await;
                verified.map_err(|error| End::of_token("ID token: ", error))?
            }
        };
        let session =
            Session { user, id_token: tokens.id_token, access_token: tokens.access_token, until: now_ + self.ttl };
        let sealed = self.sealer.seal(&self.cookie, &session);
        let parts = sealed.as_deref().and_then(cookies::split).ok_or_else(|| {
            End::Failed("what the provider says of the user finds no room in cookies; ask for fewer scopes".to_owned())
        })?;
        let secure = self.is_secure(exchange);
        let response = exchange.refuse(302);
        response.headers.set("Location", &login.url);
        response.headers.set("Cache-Control", "no-store");
        for (n, part) in parts.iter().enumerate() {
            response
                .headers
                .add("Set-Cookie", self.cookie_line(secure, &cookies::part_name(&self.cookie, n), part, self.ttl, "/"));
        }
        response.headers.add("Set-Cookie", self.cookie_line(secure, &name, "", 0, &self.login_path));
        Ok(FILTERED)
    }

    async fn log_out(&self, session: Option<Session>, exchange: &mut Exchange) -> Result<Outcome, End> {
        let mut location = "/".to_owned();
        if let Some(session) = session.filter(|session| !session.id_token.is_empty())
            && let Ok(provider) = self.provider().await
            && !provider.end_session_endpoint.is_empty()
        {
            location = provider.end_session_endpoint.clone();
            location.push_str(if location.contains('?') { "&id_token_hint=" } else { "?id_token_hint=" });
            location.push_str(&session.id_token);
        }
        let secure = self.is_secure(exchange);
        let response = exchange.refuse(302);
        response.headers.set("Location", location);
        response.headers.set("Cache-Control", "no-store");
        for n in 0..cookies::PARTS_MAX {
            response
                .headers
                .add("Set-Cookie", self.cookie_line(secure, &cookies::part_name(&self.cookie, n), "", 0, "/"));
        }
        Ok(FILTERED)
    }

    fn session(&self, headers: &Headers) -> Option<Session> {
        let sealed = cookies::joined(headers, &self.cookie)?;
        self.sealer.open(&self.cookie, &sealed)
    }

    async fn provider(&self) -> Result<std::sync::Arc<Provider>, End> {
        self.providers.get().await.ok_or_else(|| End::Down("the provider does not say what it is".to_owned()))
    }

    /// The claims of an ID token for us.
    async fn verify(
        &self,
        provider: &Provider,
        token: &str,
        nonce: Option<&str>,
    ) -> Result<Map<String, Value>, TokenError> {
        let expected =
            Expected { issuer: provider.issuer.clone(), audiences: vec![self.spec.client_id.clone()], leeway: LEEWAY };
        let claims = provider.verify(token, &self.spec.client_secret, &expected, now()).await?;
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        // OpenID Connect Core 1.0 section 3.1.3.7: who it was made for, where several may use it; that it ends; that it is of this login.
        let many = claims.get("aud").and_then(Value::as_array).is_some_and(|all| all.len() > 1);
        if (many || claims.contains_key("azp")) && text("azp") != Some(&self.spec.client_id) {
            return Err(TokenError::Audience);
        }
        if !claims.contains_key("exp") || text("sub").is_none() {
            return Err(TokenError::Malformed);
        }
        match nonce {
            Some(nonce) if text("nonce") != Some(nonce) => Err(TokenError::Nonce),
            _ => Ok(claims),
        }
    }

    /// Where the browser goes after the login. TLS may end before us: what it calls this gateway is what `redirectURI` says.
    fn url_to_return_to(&self, exchange: &Exchange) -> String {
        let request = exchange.request();
        let origin = self.origin.as_deref().unwrap_or_default();
        let (_, authority) = origin.split_once("://").unwrap_or_default();
        let url = wanted_url(exchange);
        let start = exchange.client.scheme.len() + 3 + request.authority.len();
        match authority.eq_ignore_ascii_case(&request.authority) {
            true => format!("{origin}{}", &url[start..]),
            false => url,
        }
    }

    /// What the provider is told that people come back to.
    fn redirect_uri(&self, exchange: &Exchange) -> String {
        match self.origin {
            Some(_) => self.spec.redirect_uri.clone(),
            None => {
                format!("{}://{}{}", exchange.client.scheme, exchange.request().authority, self.spec.redirect_uri)
            }
        }
    }

    fn is_secure(&self, exchange: &Exchange) -> bool {
        self.secure || self.origin.is_none() && exchange.client.scheme == "https"
    }

    /// 256 bits nobody can guess.
    fn token(&self) -> Result<String, End> {
        let mut bytes = [0; 32];
        self.random.fill(&mut bytes).map_err(|_| End::Failed("no random numbers".to_owned()))?;
        Ok(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Each login has a cookie of its own, so that those of several windows do not meet.
    fn login_cookie(&self, state: &str) -> String {
        let digest = digest::digest(&digest::SHA256, state.as_bytes());
        format!("{}.{}", self.cookie, URL_SAFE_NO_PAD.encode(&digest.as_ref()[..9]))
    }

    fn cookie_line(&self, secure: bool, name: &str, value: &str, seconds: u64, path: &str) -> String {
        let secure = if secure { "; Secure" } else { "" };
        format!("{name}={value}; Path={path}; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}")
    }

    async fn handle_it(&self, exchange: &mut Exchange) -> Outcome {
        let (status, why) = match self.pass(exchange).await {
            Ok(outcome) => return outcome,
            Err(End::Status(status, why)) => (status, why),
            Err(end @ (End::Failed(_) | End::Down(_))) => {
                let (status, why) = match end {
                    End::Down(why) => (503, why),
                    End::Failed(why) | End::Status(_, why) => (500, why),
                };
                self.failed.hit(base_runtime::worker_index());
                tracing::warn!(error = why, "an OpenID provider failed");
                (status, "the identity provider failed".to_owned())
            }
        };
        exchange.tags.note(|| format!("oidc: {why}"));
        let response = exchange.refuse(status);
        response.headers.set("Content-Type", "text/plain; charset=utf-8");
        response.headers.set("Cache-Control", "no-store");
        if status == 401 {
            response.headers.set("WWW-Authenticate", "Bearer");
        }
        if status == 503 {
            response.headers.set("Retry-After", "1");
        }
        exchange.space().response_body = Body::full(why);
        FILTERED
    }
}

/// How far the provider's clock may be from ours, in seconds.
const LEEWAY: u64 = 30;

/// The whole URL of the request.
fn wanted_url(exchange: &Exchange) -> String {
    let request = exchange.request();
    let mut url = format!("{}://{}{}", exchange.client.scheme, request.authority, request.path.encoded());
    if let Some(query) = &request.query {
        url.push('?');
        url.push_str(query);
    }
    url
}

impl Filter for OidcAdaptor {
    fn touches(&self) -> Touches {
        Touches::REQUEST_HEAD.and(Touches::RESPONSE)
    }

    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        Step::wait(self.handle_it(exchange))
    }

    fn status(&self) -> Option<Value> {
        self.providers.status()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    fn plain(more: &str) -> std::sync::Arc<dyn Filter> {
        let endpoints = "authorizationEndpoint: 'https://idp.test/login', tokenEndpoint: 'http://127.0.0.1:1/t', \
                         userinfoEndpoint: 'http://127.0.0.1:1/u'";
        filter(
            &KIND,
            &format!("{{clientId: a, clientSecret: b, redirectURI: 'https://shop.test/cb', {endpoints}{more}}}"),
        )
    }

    /// Where the login that begins with this request returns to, and the line of its cookie.
    fn login(filter: &dyn Filter, exchange: &mut Exchange) -> (String, String) {
        assert_eq!((run(filter, exchange), status_of(exchange)), (FILTERED, 302));
        let line = response_header(exchange, "Set-Cookie").expect("a cookie").to_owned();
        let (name, value) = line.split(';').next().and_then(|pair| pair.split_once('=')).expect("a pair");
        let adaptor = filter.downcast::<OidcAdaptor>().expect("this filter");
        let login: Login = adaptor.sealer.open(name, value).expect("ours");
        (login.url, line)
    }

    #[test]
    fn people_return_to_where_they_came_from_as_the_outside_knows_it() {
        let filter = plain("");
        let mut exchange = request("GET", "/a?b=c", &[]);
        // TLS ended before us, and nobody told.
        exchange.request_mut().authority = "Shop.test".into();
        assert_eq!(login(&*filter, &mut exchange).0, "https://shop.test/a?b=c");
        let mut exchange = request("GET", "//evil.test/", &[]);
        exchange.request_mut().authority = "shop.test".into();
        assert_eq!(login(&*filter, &mut exchange).0, "https://shop.test//evil.test/");
        let mut exchange = request("GET", "/a", &[]);
        exchange.request_mut().authority = "other.test".into();
        assert_eq!(login(&*filter, &mut exchange).0, "http://other.test/a");
    }

    /// As Easegress's own examples write it: one document for all sites that lead to it.
    #[test]
    fn a_path_is_one_of_the_site_that_is_asked() {
        let of = |more: &str| {
            let endpoints = "authorizationEndpoint: 'https://idp.test/login', tokenEndpoint: 'http://127.0.0.1:1/t', \
                             userinfoEndpoint: 'http://127.0.0.1:1/u'";
            filter(&KIND, &format!("{{clientId: a, clientSecret: b, redirectURI: /oidc/callback, {endpoints}{more}}}"))
        };
        for (scheme, more, host, asked) in [
            ("http", "", "shop.test:8080", "http%3A%2F%2Fshop.test%3A8080%2Foidc%2Fcallback"),
            ("https", "", "other.test", "https%3A%2F%2Fother.test%2Foidc%2Fcallback"),
            ("http", ", cookieName: __Host-s", "other.test", "http%3A%2F%2Fother.test%2Foidc%2Fcallback"),
        ] {
            let mut exchange = request("GET", "/a?b", &[]);
            exchange.client.scheme = scheme;
            exchange.request_mut().authority = host.into();
            let (url, line) = login(&*of(more), &mut exchange);
            assert_eq!(url, format!("{scheme}://{host}/a?b"));
            let location = response_header(&exchange, "Location").unwrap();
            assert!(location.contains(&format!("redirect_uri={asked}&")), "{location}");
            assert_eq!(line.ends_with("; Secure"), scheme == "https" || !more.is_empty(), "{line}");
        }
        let mut exchange = request("GET", "/oidc/callback?state=x&code=y", &[]);
        assert_eq!((run(&*of(""), &mut exchange), status_of(&exchange)), (FILTERED, 403));
        for path in ["//evil.test/cb", "/\\\\evil.test", "cb", "/a#b"] {
            let whole = "clientId: a, clientSecret: b, discovery: 'http://i/'";
            refuses(&KIND, &format!("{{{whole}, redirectURI: '{path}'}}"), &["redirectURI"]);
        }
    }

    #[test]
    fn what_a_page_fetches_begins_no_login() {
        let filter = plain("");
        for (mode, status) in [("cors", 401), ("no-cors", 401), ("websocket", 401), ("navigate", 302)] {
            let mut exchange = request("GET", "/poll", &[("Sec-Fetch-Mode", mode)]);
            assert_eq!((run(&*filter, &mut exchange), status_of(&exchange)), (FILTERED, status), "{mode}");
            assert_eq!(response_header(&exchange, "Set-Cookie").is_some(), status == 302, "{mode}");
        }
    }

    #[test]
    fn cookies_bound_to_a_host_are_ones_that_browsers_keep() {
        for (name, path) in [("s", "/cb"), ("__Secure-s", "/cb"), ("__Host-s", "/"), ("__host-s", "/")] {
            let (_, line) = login(&*plain(&format!(", cookieName: {name}")), &mut request("GET", "/", &[]));
            assert!(line.starts_with(&format!("{name}.")) && line.contains(&format!("; Path={path}; ")), "{line}");
            assert!(line.ends_with("; Secure"), "{line}");
        }
        let whole = "clientId: a, clientSecret: b, discovery: 'http://i/', redirectURI: 'http://h/cb'";
        refuses(&KIND, &format!("{{{whole}, cookieName: __Host-s}}"), &["cookieName"]);
        refuses(&KIND, &format!("{{{whole}, cookieName: __secure-s}}"), &["cookieName"]);
    }

    #[test]
    fn a_session_is_one_of_its_provider() {
        let filter = plain("");
        let session =
            Session { user: Map::new(), id_token: String::new(), access_token: String::new(), until: u64::MAX };
        let sealed = filter.downcast::<OidcAdaptor>().expect("this filter").sealer.seal(COOKIE_NAME, &session);
        let cookie = format!("{COOKIE_NAME}=1.{}", sealed.expect("random numbers"));
        let passes = |filter: &dyn Filter| run(filter, &mut request("GET", "/", &[("Cookie", &cookie)])) == SUCCESS;
        assert!(passes(&*filter) && passes(&*plain(", sessionTtl: 1h")));
        let other = "clientId: a, clientSecret: b, redirectURI: 'https://shop.test/cb', \
                     authorizationEndpoint: 'https://idp.test/login', tokenEndpoint: 'http://127.0.0.1:2/t', \
                     userinfoEndpoint: 'http://127.0.0.1:1/u'";
        assert!(!passes(&*crate::testing::filter(&KIND, &format!("{{{other}}}"))));
    }

    #[test]
    fn refused() {
        let whole = "clientId: a, clientSecret: b, redirectURI: 'https://h/cb'";
        refuses(&KIND, "{}", &["clientId", "clientSecret", "redirectURI"]);
        refuses(&KIND, &format!("{{{whole}}}"), &["discovery"]);
        refuses(&KIND, &format!("{{{whole}, discovery: 'idp'}}"), &["discovery"]);
        refuses(
            &KIND,
            &format!("{{{whole}, tokenEndpoint: 'http://a/'}}"),
            &["authorizationEndpoint", "userinfoEndpoint"],
        );
        let more = format!(
            "{{{whole}, discovery: 'http://i/', cookieName: 'a b', logoutPath: x, sessionTtl: 1s, timeout: 0s}}"
        );
        refuses(&KIND, &more, &["cookieName", "logoutPath", "sessionTtl", "timeout"]);
    }
}

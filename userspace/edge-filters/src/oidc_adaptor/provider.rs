//! An OpenID provider: what it says of itself, and what is asked of it.

use super::OidcAdaptorSpec;
use crate::form::escape_into;
use crate::remote::Remote;
use crate::validator::jwks::{RemoteKeys, SET_BYTES_MAX};
use crate::validator::jwt::{ALGORITHMS, Expected, Parsed, TokenError, TokenKey};
use base_model::MtlsSpec;
use base_telemetry::Telemetry;
use base_telemetry::proxy::PoolNames;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge_pipeline::{Body, Parts, PipelineName};
use edge_upstream::{CallSettings, Caller, Identity, Reply};
use proto_http::Method;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;

/// How often the provider is asked what it is, and for its keys.
const REFRESH: Duration = Duration::from_secs(3600);
const KEYS_REFRESH: Duration = Duration::from_secs(600);

const WELL_KNOWN: &str = "/.well-known/openid-configuration";

/// A provider that is known, or one that says what it is.
#[derive(Clone)]
pub(super) enum Providers {
    Fixed(Arc<Provider>),
    Discovered(Arc<Remote<Provider>>),
}

pub(super) struct Provider {
    /// Empty where there is no discovery.
    pub issuer: String,
    pub authorization_endpoint: String,
    pub end_session_endpoint: String,
    pub keys: Option<Arc<RemoteKeys>>,
    tokens: Caller,
    user_info: Option<Caller>,
    /// The client's secret goes into the form, not into a field.
    in_form: bool,
    /// Algorithms of its ID tokens.
    algorithms: Vec<&'static str>,
}

/// What went wrong with a provider.
#[derive(Debug)]
pub(super) struct Fault {
    pub why: String,
    /// It gave no answer, or says itself that it cannot: another try may do.
    pub is_down: bool,
}

impl Fault {
    pub(super) fn down(why: impl ToString) -> Fault {
        Fault { why: why.to_string(), is_down: true }
    }

    fn wrong(why: impl ToString) -> Fault {
        Fault { why: why.to_string(), is_down: false }
    }
}

/// What a code was exchanged for.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    pub id_token: String,
    pub access_token: String,
}

/// What is needed to make callers.
#[derive(Clone)]
struct Calls {
    settings: CallSettings,
    pipeline: PipelineName,
    filter: String,
    telemetry: Arc<Telemetry>,
    /// Held, so that no worker has to read the machine's authorities.
    _identity: Option<Arc<Identity>>,
}

impl Calls {
    fn to(&self, url: &str, what: &str) -> Result<Caller, String> {
        let names = PoolNames {
            pool: format!("{}/proxy#{}#{what}", self.pipeline, self.filter),
            proxy: self.filter.clone(),
            kind: super::KIND.kind.to_owned(),
            ..PoolNames::default()
        };
        Caller::new(url, self.settings.clone(), names, &self.telemetry)
    }
}

impl Providers {
    pub(super) fn new(spec: &OidcAdaptorSpec, timeout: Duration, parts: &Parts<'_>) -> Result<Providers, String> {
        let insecure = MtlsSpec { insecure_skip_verify: true, ..MtlsSpec::default() };
        let calls = Calls {
            settings: CallSettings {
                timeout,
                body_bytes_max: SET_BYTES_MAX,
                in_flight_max: 256,
                insecure_tls: spec.insecure_tls,
                ..CallSettings::default()
            },
            pipeline: parts.pipeline.clone(),
            filter: parts.name.to_owned(),
            telemetry: parts.telemetry.clone(),
            _identity: Identity::shared(spec.insecure_tls.then_some(&insecure)).ok(),
        };
        if spec.discovery.is_empty() {
            return Ok(Providers::Fixed(Arc::new(Provider {
                issuer: String::new(),
                authorization_endpoint: spec.authorization_endpoint.clone(),
                end_session_endpoint: String::new(),
                keys: None,
                tokens: calls.to(&spec.token_endpoint, "token")?,
                user_info: Some(calls.to(&spec.userinfo_endpoint, "userinfo")?),
                in_form: true,
                algorithms: Vec::new(),
            })));
        }
        let caller = calls.to(&spec.discovery, "discovery")?;
        let failed = parts.telemetry.limits().register("oidc_failed");
        let discovery = spec.discovery.clone();
        let read = move |text: &[u8]| read(text, &discovery, &calls);
        Ok(Providers::Discovered(Remote::new("what an OpenID provider says of itself", caller, REFRESH, failed, read)))
    }

    pub(super) async fn get(&self) -> Option<Arc<Provider>> {
        match self {
            Providers::Fixed(provider) => Some(provider.clone()),
            Providers::Discovered(remote) => remote.value(false).await,
        }
    }

    pub(super) fn status(&self) -> Option<Value> {
        match self {
            Providers::Fixed(_) => None,
            Providers::Discovered(remote) => Some(remote.status()),
        }
    }
}

/// OpenID Connect Discovery 1.0 section 3.
fn read(text: &[u8], discovery: &str, calls: &Calls) -> Result<Provider, String> {
    let Ok(Value::Object(said)) = serde_json::from_slice(text) else {
        return Err("the answer is no JSON object".to_owned());
    };
    let url = |name: &str| said.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let wanted =
        |name: &str| Some(url(name)).filter(|url| !url.is_empty()).ok_or(format!("it does not say its {name}"));
    let lists = |name: &str, value: &str| {
        let list = said.get(name).and_then(Value::as_array);
        list.map(|list| list.iter().any(|known| known == value))
    };
    let issuer = wanted("issuer")?;
    // Section 4.3: who says it is somebody else is not believed.
    if let Some(base) = discovery.split('?').next().and_then(|url| url.strip_suffix(WELL_KNOWN))
        && base.trim_end_matches('/') != issuer.trim_end_matches('/')
    {
        return Err(format!("it says that it is {}", base_text::quoted(&issuer)));
    }
    let keys = calls.to(&wanted("jwks_uri")?, "jwks")?;
    let failed = calls.telemetry.limits().register("jwks_failed");
    let user_info = url("userinfo_endpoint");
    let signs =
        |algorithm: &&&str| lists("id_token_signing_alg_values_supported", algorithm).unwrap_or(**algorithm == "RS256");
    Ok(Provider {
        issuer,
        authorization_endpoint: wanted("authorization_endpoint")?,
        end_session_endpoint: url("end_session_endpoint"),
        keys: Some(RemoteKeys::new(keys, KEYS_REFRESH, failed)),
        tokens: calls.to(&wanted("token_endpoint")?, "token")?,
        user_info: if user_info.is_empty() { None } else { Some(calls.to(&user_info, "userinfo")?) },
        in_form: lists("token_endpoint_auth_methods_supported", "client_secret_basic") == Some(false),
        algorithms: ALGORITHMS.iter().filter(signs).copied().collect(),
    })
}

impl Provider {
    /// Plain OAuth2: there are no ID tokens.
    pub(super) fn is_plain(&self) -> bool {
        self.keys.is_none()
    }

    pub(super) fn usual_scopes(&self) -> &'static str {
        if self.is_plain() { "user" } else { "openid profile email" }
    }

    /// Shows a code to the token endpoint (RFC 6749 section 4.1.3, RFC 7636).
    /// `back` is what it was told of before.
    pub(super) async fn exchange(
        &self,
        spec: &OidcAdaptorSpec,
        back: &str,
        code: &str,
        verifier: &str,
    ) -> Result<Tokens, Fault> {
        let mut form = String::from("grant_type=authorization_code");
        let secret = [("client_id", spec.client_id.as_str()), ("client_secret", spec.client_secret.as_str())];
        let pairs = [("code", code), ("redirect_uri", back), ("code_verifier", verifier)];
        for (name, value) in pairs.iter().chain(secret.iter().filter(|_| self.in_form)) {
            form.push('&');
            form.push_str(name);
            form.push('=');
            escape_into(value.as_bytes(), &mut form);
        }
        let mut request = self.tokens.request(Method::Post);
        request.headers.add("Content-Type", "application/x-www-form-urlencoded");
        request.headers.add("Accept", "application/json");
        if !self.in_form {
            // RFC 6749 section 2.3.1: both are escaped before they are joined.
            let (mut credentials, mut secret) = (String::new(), String::new());
            escape_into(spec.client_id.as_bytes(), &mut credentials);
            escape_into(spec.client_secret.as_bytes(), &mut secret);
            credentials.push(':');
            credentials.push_str(&secret);
            request.headers.add("Authorization", format!("Basic {}", STANDARD.encode(credentials)));
        }
        let reply = self.tokens.call(&request, Body::full(form)).await.map_err(Fault::down)?;
        let answer = object_of(&reply, "token endpoint")?;
        let text = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Tokens { id_token: text("id_token"), access_token: text("access_token") })
    }

    /// Who a token is for, where no ID token says it.
    pub(super) async fn user(&self, token: &str) -> Result<Map<String, Value>, Fault> {
        if token.is_empty() || !proto_http::headers::is_value(token.as_bytes()) {
            return Err(Fault::wrong("the token endpoint gave no access token"));
        }
        let caller = self.user_info.as_ref().ok_or_else(|| Fault::wrong("there is no userinfo endpoint"))?;
        let mut request = caller.request(Method::Get);
        request.headers.add("Accept", "application/json");
        request.headers.add("Authorization", format!("Bearer {token}"));
        // Some refuse those who do not say what they are.
        request.headers.add("User-Agent", "weir");
        let reply = caller.call(&request, Body::Empty).await.map_err(Fault::down)?;
        object_of(&reply, "userinfo endpoint")
    }

    /// The claims of an ID token. An algorithm that the provider does not say it uses does not count; with HS the secret is the client's
    /// (OpenID Connect Core 1.0 section 10.1), which is never mistaken for a public key.
    pub(super) async fn verify(
        &self,
        token: &str,
        secret: &str,
        expected: &Expected,
        now: f64,
    ) -> Result<Map<String, Value>, TokenError> {
        let keys = self.keys.as_ref().ok_or(TokenError::NoKeys)?;
        let algorithm = Parsed::read(token)?.algorithm()?;
        if !self.algorithms.contains(&algorithm) {
            return Err(TokenError::Algorithm);
        }
        if algorithm.starts_with("HS") {
            let key = TokenKey::secret(algorithm, secret.as_bytes()).map_err(|_| TokenError::NoKeys)?;
            return key.verify(token, expected, now);
        }
        keys.verify(token, &self.algorithms, expected, now).await
    }
}

fn object_of(reply: &Reply, who: &str) -> Result<Map<String, Value>, Fault> {
    let read = serde_json::from_slice(&reply.body);
    let status = reply.response.status;
    let is_down = matches!(status, 408 | 429 | 500..);
    match read {
        Ok(Value::Object(answer)) if (200..300).contains(&status) => Ok(answer),
        Ok(Value::Object(answer)) => {
            let error = answer.get("error").and_then(Value::as_str).unwrap_or_default();
            Err(Fault { why: format!("the {who} answers {status} {}", base_text::quoted(error)), is_down })
        }
        _ => Err(Fault { why: format!("the {who} answers {status} and no JSON object"), is_down }),
    }
}

//! Who may use the API: `basic-auth`, names and passwords of the configuration file.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::json;

use crate::access::{User, bearer};

/// Whole `Authorization` values that are let in.
#[derive(Clone)]
pub struct Logins {
    accepted: Arc<Vec<(Arc<str>, Vec<u8>)>>,
}

impl Logins {
    /// Passwords by name.
    pub fn new(users: &BTreeMap<String, String>) -> Logins {
        let value = |(name, password): (&String, &String)| {
            let value = format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{password}")));
            (Arc::from(name.as_str()), value.into_bytes())
        };
        Logins { accepted: Arc::new(users.iter().map(value).collect()) }
    }

    /// Whose login it is.
    fn knows(&self, given: Option<&HeaderValue>) -> Option<Arc<str>> {
        let given = given.map(HeaderValue::as_bytes).unwrap_or_default();
        // All are compared, each in the same time wherever it differs.
        self.accepted
            .iter()
            .fold(None, |known, (name, accepted)| if same(accepted, given) { Some(name.clone()) } else { known })
    }
}

/// Lets nobody in without a login.
pub async fn required(State(logins): State<Logins>, mut request: Request, next: Next) -> Response {
    // Tokens are the cluster's: they are looked up behind this door. The dashboard's files hold nothing, and ask for the login themselves.
    if bearer(&request).is_some()
        || (request.method() == Method::GET && control_dashboard::is_file(request.uri().path()))
    {
        return next.run(request).await;
    }
    if let Some(name) = logins.knows(request.headers().get(header::AUTHORIZATION)) {
        request.extensions_mut().insert(User(name));
        return next.run(request).await;
    }
    let status = StatusCode::UNAUTHORIZED;
    let message = "this API asks for a login (basic-auth, or a token): give a user with its password, or a token, in ~/.weirctlrc";
    let body = json!({"code": status.as_u16(), "message": message}).to_string();
    let heads = [(header::WWW_AUTHENTICATE, "Basic realm=\"weir\""), (header::CONTENT_TYPE, "application/json")];
    (status, heads, body).into_response()
}

fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

/// Passwords are in no debug text.
impl fmt::Debug for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logins").field("count", &self.accepted.len()).finish()
    }
}

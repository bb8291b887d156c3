//! The API of a machine whose control half is not there: what the machine knows by itself, and why there is no more.

use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRef, Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use control_api::LEADERLESS_HEADER;

use crate::access::{Origin, User, bearer};
use crate::body::{Error, Reply, finish_alone};
use crate::catalog::Local;
use crate::logs;
use crate::routes::Api;

/// What only this machine knows, for handlers that need no cluster.
#[derive(Clone)]
pub struct Here(pub Arc<dyn Local>);

impl FromRef<Arc<Api>> for Here {
    fn from_ref(api: &Arc<Api>) -> Here {
        Here(api.local.clone())
    }
}

/// Health, metrics and logs; everything else is answered with 503 and the reason that [`Local::ready`] gives.
pub fn router_alone(local: Arc<dyn Local>) -> Router {
    let v2 = Router::new()
        .route("/healthz", get(healthz))
        .route("/about", get(about))
        .route("/metrics", get(metrics))
        .route("/logs", get(logs::tail))
        .route("/logs/level", get(logs::level))
        .route("/logs/level/{level}", put(logs::set_level));
    Router::new()
        .nest("/apis/v2", v2.clone())
        .nest("/apis/v1", v2)
        .route("/metrics", get(metrics))
        .fallback(absent)
        .layer(axum::middleware::from_fn(without_tokens))
        .merge(control_dashboard::router())
        .layer(axum::middleware::from_fn(finish_alone))
        .with_state(Here(local))
}

/// Nobody here knows whether a token is good, or whether one is needed: health and metrics are for everybody whom the door lets in, logs
/// for those who are known, or on this machine.
async fn without_tokens(request: Request, next: Next) -> Response {
    let extensions = request.extensions();
    let stranger = extensions.get::<User>().is_none()
        && extensions
            .get::<Origin>()
            .is_some_and(|origin| origin.subject.is_none() && !origin.address.to_canonical().is_loopback());
    if bearer(&request).is_none() && !(stranger && request.uri().path().contains("/logs")) {
        return next.run(request).await;
    }
    let message = "tokens are the cluster's, and the control half of this machine is down: log in with a user of basic-auth or a \
                   certificate, or ask another machine";
    Error::new(StatusCode::SERVICE_UNAVAILABLE, message).into_response()
}

pub async fn healthz(State(Here(local)): State<Here>) -> Result<Response, Error> {
    match local.ready() {
        Ok(()) => {
            let mut answer = Reply::default().warnings(local.remarks()).into_response();
            if local.leaderless() {
                answer.headers_mut().insert(LEADERLESS_HEADER, HeaderValue::from_static("true"));
            }
            Ok(answer)
        }
        Err(reason) => Err(Error::new(StatusCode::SERVICE_UNAVAILABLE, reason)),
    }
}

pub async fn about(State(Here(local)): State<Here>) -> Response {
    ([("content-type", "text/plain; charset=utf-8")], local.about()).into_response()
}

pub async fn metrics(State(Here(local)): State<Here>) -> Response {
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], local.metrics()).into_response()
}

async fn absent(State(Here(local)): State<Here>, request: Request) -> Error {
    let reason = local.ready().err().unwrap_or_else(|| "the control half is starting; ask again in a moment".into());
    let what =
        format!("{} {} needs the control half of this machine: {reason}", request.method(), request.uri().path());
    Error::new(StatusCode::SERVICE_UNAVAILABLE, what)
}

//! One door, and behind it whichever API fits the moment.

use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use hyper_util::service::TowerToHyperService;

use crate::BODY_BYTES_MAX;

/// An API that is exchanged while it is served: requests that are under way stay with the one they came to.
#[derive(Clone)]
pub struct Switch {
    now: Arc<RwLock<Router>>,
}

impl Switch {
    pub fn new(router: Router) -> Switch {
        Switch { now: Arc::new(RwLock::new(router)) }
    }

    /// Whatever comes from now on goes to `router`.
    pub fn lead_to(&self, router: Router) {
        let old = std::mem::replace(&mut *self.now.write().unwrap_or_else(PoisonError::into_inner), router);
        // Handles of a member that has ended may go with it, outside the lock.
        drop(old);
    }

    /// The door.
    pub fn router(&self) -> Router {
        let switch = self.clone();
        Router::new().fallback(move |request: Request| switch.clone().answer(request))
    }

    /// Asks the API from inside the process, where nobody has to show anything. `body` is YAML.
    pub async fn ask(&self, method: Method, path: &str, body: String) -> (StatusCode, Bytes) {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/yaml");
        let request = request.body(Body::from(body)).expect("the caller's path is a path");
        let (head, body) = self.clone().answer(request).await.into_parts();
        (head.status, to_bytes(body, BODY_BYTES_MAX).await.unwrap_or_default())
    }

    async fn answer(self, request: Request) -> Response {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner).clone();
        let answered = hyper::service::Service::call(&TowerToHyperService::new(now), request).await;
        answered.unwrap_or_else(|never| match never {})
    }
}

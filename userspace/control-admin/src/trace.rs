//! What the kernel's programs of this machine do with a packet.

use std::sync::Arc;

use axum::extract::{Query, State};
use control_api::Role;

use crate::access::caller;
use crate::body::{Answer, Error, Reply, text};
use crate::routes::Api;

/// `GET /trace?flow=tcp 198.51.100.7:41000 > 203.0.113.10:443`: by the tables that are in force at this machine, with nothing sent or
/// counted.
pub async fn of_flow(State(api): State<Arc<Api>>, query: Query<Vec<(String, String)>>) -> Answer {
    caller().needs(Role::Read, None)?;
    let (local, flow) = (api.local.clone(), text(&query, "flow").to_owned());
    // Looking for a socket lists those there are.
    let told = tokio::task::spawn_blocking(move || local.trace(&flow)).await;
    let told = told.unwrap_or_else(|_| Err("looking it up panicked; the log says more".to_owned()));
    Ok(Reply::body(told.map_err(Error::invalid)?))
}

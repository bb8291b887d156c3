//! Sources that the machine takes nothing from for a while, because too much of what they asked for was refused.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Path, State};
use base_text::quoted;
use control_api::Role;

use crate::access::caller;
use crate::body::{Answer, Error, Reply};
use crate::routes::Api;

/// `GET /bans`: those of this machine.
pub async fn list(State(api): State<Arc<Api>>) -> Answer {
    caller().needs(Role::Read, None)?;
    Ok(Reply::body(api.local.bans()))
}

/// `DELETE /bans/{source}`: an address, or as it is listed.
pub async fn lift(State(api): State<Arc<Api>>, Path(source): Path<String>) -> Answer {
    caller().needs(Role::Admin, None)?;
    let address: IpAddr = source.strip_suffix("/64").unwrap_or(&source).parse().map_err(|_| {
        Error::invalid(format!("{}: not an address; write 198.51.100.7, 2001:db8::7 or 2001:db8::/64", quoted(&source)))
    })?;
    match api.local.lift_ban(address) {
        Some(lifted) => Ok(Reply::body(serde_json::json!({"source": lifted}))),
        None => Err(Error::not_found(format!("{}: is not banned on this machine", quoted(&source)))),
    }
}

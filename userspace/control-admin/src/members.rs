use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::{Path, State};
use base_model::GoDuration;
use control_api::{Member, MemberRole, Role, time};
use control_raft::{Bound, Metrics};
use serde_json::{Value, json};

use crate::access::caller;
use crate::body::{Answer, Error, Reply, Text};
use crate::routes::Api;

/// `GET /status/members`, in the shape of Easegress with ours beside it.
pub async fn list(State(api): State<Arc<Api>>) -> Answer {
    let state = api.control.state();
    let metrics = api.control.metrics();
    let (edges, heard) = tokio::join!(api.control.edges(), api.control.heard());
    let with_edge = |member: &Arc<Member>| {
        let heard = heard.get(&member.name).copied();
        let mut shown = shown(member, &state.view.cluster_name, (&metrics, heard));
        // Of an edge that does not answer nothing is known, whatever it said before.
        let report = edges.as_ref().and_then(|edges| edges.get(&member.name)).filter(|_| member.up);
        if member.edge {
            shown["weir"]["configVersion"] = state.view.version.into();
            shown["weir"]["serves"] = json!(report);
        }
        shown
    };
    let members: Vec<Value> = state.view.members.values().map(with_edge).collect();
    Ok(Reply::body(members).version(state.view.version))
}

pub async fn remove(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Answer {
    let (caller, subjects) = (caller(), [format!("Member/{name}")]);
    caller.needs(Role::Admin, None)?;
    let answer = api.control.remove_member(&name).await;
    let came = answer.as_ref().map(|done| done.version).map_err(|refusal| refusal.message.as_str());
    api.write_down(&caller, "removeMember", &subjects, came);
    Ok(Reply::default().version(answer?.version))
}

/// `POST /member-tokens` with `{ttl: 1h, role: secondary, name: n4}`, each of which may be left out: lets one new member in, of that role
/// and that name alone.
pub async fn token(State(api): State<Arc<Api>>, body: Text) -> Answer {
    let asked = if body.0.trim().is_empty() { Value::Null } else { body.document()? };
    let lasts = match asked.get("ttl") {
        None | Some(Value::Null) => TOKEN_LASTS,
        Some(text) => {
            let parsed = text.as_str().and_then(|text| text.parse::<GoDuration>().ok()).map(Duration::from);
            parsed.filter(|ttl| (TOKEN_LASTS_MIN..=TOKEN_LASTS_MAX).contains(ttl)).ok_or_else(|| {
                Error::invalid(format!("ttl = {text}: a duration from 1s to 168h, such as 30m, is wanted"))
            })?
        }
    };
    let word = |field: &str| asked.get(field).filter(|value| !value.is_null());
    let role = match word("role") {
        None => None,
        Some(role) if *role == MemberRole::Primary.to_string() => Some(MemberRole::Primary),
        Some(role) if *role == MemberRole::Secondary.to_string() => Some(MemberRole::Secondary),
        Some(role) => return Err(Error::invalid(format!("role = {role}: primary or secondary is wanted"))),
    };
    let name = match word("name") {
        None => None,
        Some(Value::String(name)) if !name.is_empty() => Some(name.clone()),
        Some(name) => return Err(Error::invalid(format!("name = {name}: the name of a member is wanted"))),
    };
    let caller = caller();
    caller.needs(Role::Admin, None)?;
    let invitation = api.control.invite(lasts, Bound { role, name }).await;
    let version = api.control.state().view.version;
    let came = invitation.as_ref().map(|_| version).map_err(|refusal| refusal.message.as_str());
    api.write_down(&caller, "inviteMember", &[], came);
    let invitation = invitation?;
    Ok(Reply::body(json!({"token": invitation.token, "expires": time::rfc3339(invitation.expires)})))
}

/// `GET /member-authority`: until when the authority is good that issues the members' certificates, and how far another has come that
/// follows it.
pub async fn authority(State(api): State<Arc<Api>>) -> Answer {
    caller().needs(Role::Read, None)?;
    let none =
        || Error::not_found("this cluster issues no certificates: its members have none, or theirs come from files");
    let authority = api.control.authority().ok_or_else(none)?;
    let at = |time: Option<SystemTime>| time.map(time::rfc3339);
    Ok(Reply::body(json!({
        "ends": at(authority.ends),
        "nextSince": at(authority.next),
        "formerSince": at(authority.former),
        "waitsFor": authority.waits_for,
    })))
}

/// `POST /member-authority/replace`: another follows now.
pub async fn replace_authority(State(api): State<Arc<Api>>) -> Answer {
    caller().needs(Role::Admin, None)?;
    let done = api.change(api.control.next_authority()?).await?;
    Ok(Reply::default().version(done.version))
}

/// `heard`: when the leader last heard of it, where that is known.
pub fn shown(member: &Member, cluster: &str, (metrics, heard): (&Metrics, Option<SystemTime>)) -> Value {
    let votes = metrics.voters.contains(&member.name) || member.role == MemberRole::Primary;
    let state = match (member.up, votes) {
        (false, _) => "Offline",
        (true, false) => "Follower",
        (true, true) if metrics.leader.as_ref() == Some(&member.name) => "Leader",
        (true, true) => "Follower",
    };
    let heard = heard.map(time::rfc3339);
    let mut shown = json!({
        "options": {
            "Name": member.name,
            "ClusterName": cluster,
            "ClusterRole": member.role,
            "APIAddr": member.api_addr,
            "Labels": member.labels,
            "Cluster": {"ListenPeerURLs": [member.peer_url], "InitialAdvertisePeerURLs": [member.peer_url]},
        },
        // Easegress has a time here, always.
        "lastHeartbeatTime": heard.as_ref().unwrap_or(&member.started_at),
        "weir": {
            "id": member.id,
            "instance": member.instance,
            "up": member.up,
            "edge": member.edge,
            "votes": metrics.voters.contains(&member.name),
            "state": state,
            "addresses": member.addresses,
            "version": member.version,
            "level": member.level,
            "startedAt": member.started_at,
            "heardAt": heard,
        },
    });
    if votes {
        // Tools made for Easegress look here for the role in the group.
        shown["etcd"] = json!({"id": format!("{:x}", member.id), "startTime": member.started_at, "state": state});
    }
    shown
}

/// How long a token is good unless somebody says otherwise, and within which bounds.
const TOKEN_LASTS: Duration = Duration::from_secs(3600);
const TOKEN_LASTS_MIN: Duration = Duration::from_secs(1);
const TOKEN_LASTS_MAX: Duration = Duration::from_secs(7 * 86_400);

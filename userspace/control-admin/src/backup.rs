//! The whole cluster in one file, and back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use axum::body::to_bytes;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base_model::yaml;
use base_text::quoted;
use control_api::backup::{self, Recipient};
use control_api::{Document, OWNER_USER, Objects, Role, Snapshot, time};
use control_state::{Action, brings_tokens, owner};
use serde_json::{Value, json};

use crate::access::caller;
use crate::body::{Answer, Error, Reply, Text, flag, listed, since};
use crate::objects::EXPOSED;
use crate::routes::Api;

type Params = Query<Vec<(String, String)>>;

/// `POST /backup`: the file, locked for the [`Recipient`] in the body. Without one it is given where there is nothing to hide.
pub async fn write(State(api): State<Arc<Api>>, body: Text) -> Result<Response, Error> {
    let caller = caller();
    caller.needs(Role::Admin, None)?;
    let recipient = match body.0.trim() {
        "" => None,
        text => {
            let value = yaml::parse_document(text).map_err(|e| Error::invalid(format!("the body: {e}")))?;
            let recipient = serde_json::from_value::<Recipient>(value);
            Some(recipient.map_err(|e| Error::invalid(format!("the body: no recipient of a backup: {e}")))?)
        }
    };
    // Of a cluster that has lost its majority there is still what this member knows.
    let latest = api.control.catch_up().await;
    let work = api.clone();
    let (file, version) = api
        .checks
        .run(move || {
            let state = work.control.state();
            let secret = |document: &&Document| work.catalog.shown(document) != ***document;
            let secrets: Vec<&str> = match recipient {
                Some(_) => Vec::new(),
                None => state.view.objects.values().filter(secret).filter_map(|document| document["name"].as_str()).collect(),
            };
            if !secrets.is_empty() {
                return Err(Error::invalid(format!(
                    "{} of the objects hold secrets ({}): say whom the backup is for (weirctl backup --passphrase-file FILE, or \
                     --recipient KEY)",
                    secrets.len(),
                    secrets.iter().take(NAMED_MAX).map(|name| quoted(name).to_string()).collect::<Vec<_>>().join(", ")
                )));
            }
            if recipient.is_none() && !state.view.custom_data.is_empty() {
                let what = "the cluster has custom data, which may hold secrets: say whom the backup is for (weirctl backup \
                            --passphrase-file FILE, or --recipient KEY)";
                return Err(Error::invalid(what));
            }
            // Of what caches held then nothing is left.
            let view = Snapshot { purges: Arc::default(), ..state.view.clone() };
            let file = backup::write(&view, time::rfc3339(SystemTime::now()), recipient.as_ref());
            Ok((file.map_err(|e| Error::invalid(e.to_string()))?, state.view.version))
        })
        .await?;
    api.write_down(&caller, "backup", &[], Ok(version));
    let mut answer = Reply::default().version(version);
    if !latest {
        answer = answer.warnings(vec![
            "no leader could be asked: the backup is what this member knows, and may lack the last changes".to_owned(),
        ]);
    }
    let mut answer = answer.into_response();
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    *answer.body_mut() = file.into();
    Ok(answer)
}

/// `POST /restore`: what the body, an opened backup, holds takes the place of what is there, in one change. `?dryRun=true` says what
/// would become of it and changes nothing; `?anotherCluster=true` takes the backup of another one; `?withTokens=true` brings its tokens of
/// the API back too, which may have been revoked or rotated since. `If-Match` says up to which version the caller has seen the objects.
pub async fn restore(State(api): State<Arc<Api>>, query: Params, headers: HeaderMap, request: Request) -> Answer {
    caller().needs(Role::Admin, None)?;
    let since = since(&headers)?;
    let body = to_bytes(request.into_body(), RESTORE_BYTES_MAX).await.map_err(|_| {
        let message = format!("the backup is larger than {RESTORE_BYTES_MAX} bytes when it is open, or ended early");
        Error::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    })?;
    api.control.catch_up().await;
    let (dry_run, another) = (flag(&query, "dryRun"), flag(&query, "anotherCluster"));
    let with_tokens = flag(&query, "withTokens");
    let work = api.clone();
    let (snapshot, told, before) = api
        .checks
        .run(move || {
            let mut snapshot: Snapshot = serde_json::from_slice(&body).map_err(|e| {
                Error::invalid(format!("the body is no opened backup: {e}; weirctl restore FILE sends one"))
            })?;
            let view = work.control.state().view.clone();
            is_ours(&snapshot, &view, another)?;
            check(&work, &snapshot)?;
            let mut told = changes(&work, &view, &snapshot);
            let held: Vec<&String> = snapshot.tokens.keys().collect();
            if with_tokens && !held.is_empty() && !brings_tokens(&view, &snapshot) {
                let what = "the backup's tokens are restored only into a cluster of its name that was founded anew, is empty and has no tokens: \
                            restore it without them (leave --with-tokens out) and make new ones (weirctl token create)";
                return Err(Error::new(StatusCode::CONFLICT, what));
            }
            let (brought, left) = if with_tokens { (held, Vec::new()) } else { (Vec::new(), held) };
            told["tokens"] = json!({"restored": brought, "leftOut": left});
            if !with_tokens {
                snapshot.tokens = Arc::default();
            }
            Ok((snapshot, told, view.version))
        })
        .await?;
    if dry_run {
        return Ok(Reply::body(told).version(before));
    }
    let (version, cluster_id) = (snapshot.version, snapshot.cluster_id.clone());
    let done = api.change(Action::Restore { backup: Box::new(snapshot), since }).await?;
    tracing::warn!(backup = version, cluster_id, version = done.version, "a backup was restored");
    let mut told = told;
    told["before"] = before.into();
    told["version"] = done.version.into();
    Ok(Reply::body(told).version(done.version))
}

/// A backup of another cluster is taken only by who says that it is meant; of an earlier life of this one, only into an empty one.
fn is_ours(backup: &Snapshot, view: &Snapshot, another: bool) -> Result<(), Error> {
    if another || backup.cluster_id == view.cluster_id {
        return Ok(());
    }
    let advice = "look at it with --dry-run, and say --another-cluster if it is meant";
    let conflict = |message: String| Err(Error::new(StatusCode::CONFLICT, message));
    if backup.cluster_name != view.cluster_name {
        return conflict(format!(
            "the backup is of cluster {}, and this is cluster {}: {advice}",
            quoted(&backup.cluster_name),
            quoted(&view.cluster_name)
        ));
    }
    if !view.objects.is_empty() || !view.custom_kinds.is_empty() {
        return conflict(format!(
            "the backup is of another cluster {} (id {}), and this one (id {}) is not empty, so that what it has would be replaced: {advice}",
            quoted(&backup.cluster_name),
            backup.cluster_id,
            view.cluster_id
        ));
    }
    Ok(())
}

/// What users wrote is checked as if they sent it now, beside nothing else.
fn check(api: &Api, backup: &Snapshot) -> Result<(), Error> {
    let written = backup.objects.values().filter(|document| owner(document) == OWNER_USER);
    let documents: Vec<Value> = written.map(|document| Value::clone(document)).collect();
    let mut problems = Vec::new();
    for (document, result) in documents.iter().zip(api.catalog.check(&documents, &Objects::new())) {
        let name = document["name"].as_str().unwrap_or_default();
        if api.control.exposed() && api.catalog.shown(document) != *document {
            problems.push(format!("{name}: {EXPOSED}"));
        }
        problems.extend(result.err().into_iter().flatten().map(|problem| format!("{name}: {problem}")));
    }
    if problems.is_empty() {
        return Ok(());
    }
    let advice = "nothing was changed: restore it with the version of weir that wrote it, or put the objects right and apply them";
    Err(Error::invalid(format!("the backup does not fit this version of weir\n{}\n{advice}", listed(problems))))
}

/// What would become of what is there, without secrets.
fn changes(api: &Api, view: &Snapshot, backup: &Snapshot) -> Value {
    let mut objects = Vec::new();
    let names: BTreeSet<&String> = view.objects.keys().chain(backup.objects.keys()).collect();
    for name in names {
        let (before, after) = (view.objects.get(name), backup.objects.get(name));
        if before == after {
            continue;
        }
        let change = match (before, after) {
            (None, _) => "created",
            (_, None) => "deleted",
            _ => "changed",
        };
        let kind = after.or(before).map_or(Value::Null, |document| document["kind"].clone());
        let shown = |document: Option<&Document>| document.map(|document| api.catalog.shown(document));
        objects.push(
            json!({"name": name, "kind": kind, "change": change, "before": shown(before), "after": shown(after)}),
        );
    }
    let count = |snapshot: &Snapshot| snapshot.custom_data.values().map(|items| items.len()).sum::<usize>();
    json!({
        "backup": {"clusterName": backup.cluster_name, "clusterId": backup.cluster_id, "version": backup.version},
        "objects": objects,
        "customData": {
            "changes": view.custom_data != backup.custom_data || view.custom_kinds != backup.custom_kinds,
            "itemsBefore": count(view),
            "itemsAfter": count(backup),
        },
    })
}

/// An opened backup; a hundred thousand objects of a few kilobytes fit.
const RESTORE_BYTES_MAX: usize = 512 << 20;
const NAMED_MAX: usize = 5;

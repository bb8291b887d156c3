use std::path::Path;

use control_api::CustomKind;
use hyper::Method;
use serde_json::{Value, json};

use crate::arguments::{CustomDataWhat, CustomKindWhat, Format};
use crate::describe::fields;
use crate::documents::{read, word};
use crate::output::{heads, print, structured, succeeded, table};
use crate::server::{Server, segment};

pub async fn get_kinds(server: &Server, name: Option<&str>, format: Format) -> Result<(), String> {
    let kinds = match name {
        Some(name) => Value::Array(vec![server.get(&format!("/customdatakinds/{}", segment(name))).await?]),
        None => server.get("/customdatakinds").await?,
    };
    if format != Format::Default {
        structured(if name.is_some() { &kinds[0] } else { &kinds }, format);
        return Ok(());
    }
    let mut rows = vec![heads(&["NAME", "ID-FIELD", "JSON-SCHEMA", "DATA-NUM"])];
    for kind in kinds.as_array().into_iter().flatten() {
        let schema = if kind["jsonSchema"].is_null() { "no" } else { "yes" };
        rows.push(vec![
            word(kind, "name").into(),
            word(kind, "idField").into(),
            schema.into(),
            kind["len"].to_string(),
        ]);
    }
    print(&table(&rows));
    Ok(())
}

pub async fn describe_kinds(server: &Server, name: Option<&str>, format: Format) -> Result<(), String> {
    if format != Format::Default || name.is_none() {
        return get_kinds(server, name, format).await;
    }
    let kind = server.get(&format!("/customdatakinds/{}", segment(name.unwrap_or_default()))).await?;
    print(&fields(&kind, &["name", "idField", "len", ""], &[]));
    Ok(())
}

/// `get customdata KIND [ID]`.
pub async fn get_data(server: &Server, names: &[String], format: Format) -> Result<(), String> {
    let (kind, id) = match names {
        [kind] => (kind, None),
        [kind, id] => (kind, Some(id)),
        _ => return Err("get customdata takes a kind, and the id of an item if one is wanted: get cd KIND [ID]".into()),
    };
    if let Some(id) = id {
        let item = server.get(&format!("/customdata/{}/{}", segment(kind), segment(id))).await?;
        structured(&item, format);
        return Ok(());
    }
    let items = server.get(&format!("/customdata/{}", segment(kind))).await?;
    if format != Format::Default {
        structured(&items, format);
        return Ok(());
    }
    let about = server.get(&format!("/customdatakinds/{}", segment(kind))).await?;
    let id_field = word(&about, "idField").to_owned();
    let mut rows = vec![vec![id_field.to_uppercase()]];
    rows.extend(items.as_array().into_iter().flatten().map(|item| vec![word(item, &id_field).to_owned()]));
    print(&table(&rows));
    Ok(())
}

pub async fn delete_kinds(server: &Server, names: &[String]) -> Result<(), String> {
    for name in names {
        let gone = server.send(Method::DELETE, &format!("/customdatakinds/{}", segment(name)), String::new()).await;
        gone.map_err(|message| format!("delete CustomDataKind {name} failed, {message}"))?;
        succeeded("delete", "CustomDataKind", name);
    }
    Ok(())
}

/// The items that a document of custom data lists.
pub async fn delete_listed(server: &Server, kind: &str, document: &Value) -> Result<(), String> {
    let known: Result<CustomKind, _> =
        serde_json::from_value(server.get(&format!("/customdatakinds/{}", segment(kind))).await?);
    let known = known.map_err(|e| format!("custom data kind {kind}: the answer cannot be read: {e}"))?;
    let items = document.get("list").and_then(Value::as_array).into_iter().flatten();
    let ids: Vec<String> = items.map(|item| known.id_of(item)).collect::<Result<_, _>>()?;
    let body = json!({ "delete": ids }).to_string();
    let gone = server.send(Method::POST, &format!("/customdata/{}/items", segment(kind)), body).await;
    gone.map_err(|message| format!("delete CustomData {kind} failed, {message}"))?;
    succeeded("delete", "CustomData", kind);
    Ok(())
}

/// `delete customdata KIND ID…` or `delete customdata KIND --all`.
pub async fn delete_data(server: &Server, names: &[String], all: bool) -> Result<(), String> {
    let Some((kind, ids)) = names.split_first() else {
        return Err("delete customdata takes a kind and ids: delete cd KIND ID…, or delete cd KIND --all".into());
    };
    let paths: Vec<(String, String)> = match (all, ids.is_empty()) {
        (true, true) => vec![(kind.clone(), format!("/customdata/{}", segment(kind)))],
        (false, false) => ids
            .iter()
            .map(|id| (format!("{kind} {id}"), format!("/customdata/{}/{}", segment(kind), segment(id))))
            .collect(),
        _ => return Err("delete customdata takes either ids or --all".into()),
    };
    for (what, path) in paths {
        let gone = server.send(Method::DELETE, &path, String::new()).await;
        gone.map_err(|message| format!("delete CustomData {what} failed, {message}"))?;
        succeeded("delete", "CustomData", &what);
    }
    Ok(())
}

/// `custom-data-kind …`, as it was once spelled.
pub async fn old_kinds(server: &Server, what: CustomKindWhat, format: Format) -> Result<(), String> {
    match what {
        CustomKindWhat::List => get_kinds(server, None, format).await,
        CustomKindWhat::Get { name } => get_kinds(server, Some(&name), format).await,
        CustomKindWhat::Create { file } => put(server, Method::POST, "/customdatakinds", &file).await,
        CustomKindWhat::Update { file } => put(server, Method::PUT, "/customdatakinds", &file).await,
        CustomKindWhat::Delete { name } => delete_kinds(server, &[name]).await,
    }
}

/// `custom-data …`, as it was once spelled.
pub async fn old_data(server: &Server, what: CustomDataWhat, format: Format) -> Result<(), String> {
    let path = |kind: &str| format!("/customdata/{}", segment(kind));
    match what {
        CustomDataWhat::List { kind } => get_data(server, &[kind], format).await,
        CustomDataWhat::Get { kind, id } => get_data(server, &[kind, id], format).await,
        CustomDataWhat::Create { kind, file } => put(server, Method::POST, &path(&kind), &file).await,
        CustomDataWhat::Update { kind, file } => put(server, Method::PUT, &path(&kind), &file).await,
        CustomDataWhat::BatchUpdate { kind, file } => {
            put(server, Method::POST, &format!("{}/items", path(&kind)), &file).await
        }
        CustomDataWhat::Delete { kind, id } => delete_data(server, &[kind, id], false).await,
    }
}

/// Sends the documents of a file, one after the other.
async fn put(server: &Server, method: Method, path: &str, file: &Path) -> Result<(), String> {
    for document in read(&[file.to_owned()])? {
        server.send(method.clone(), path, document.to_string()).await?;
    }
    Ok(())
}

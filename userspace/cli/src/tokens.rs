//! `token`: tokens of the admin API, made, rotated and revoked.

use hyper::Method;
use serde_json::{Value, json};

use crate::arguments::{Format, TokenWhat};
use crate::documents::word;
use crate::objects::age;
use crate::output::{heads, print, structured, succeeded, table};
use crate::server::{Server, segment, value};

pub async fn run(server: &Server, what: TokenWhat, format: Format) -> Result<(), String> {
    match what {
        TokenWhat::List => list(server, format).await,
        TokenWhat::Create { name, role, kinds, namespaces } => {
            let grant = json!({"role": role.name(), "kinds": kinds, "namespaces": namespaces});
            let body = json!({"name": name, "grants": [grant]}).to_string();
            let made = server.send(Method::POST, "/tokens", body).await;
            told(&value(&made.map_err(|message| format!("create Token {name} failed, {message}"))?)?, format);
            Ok(())
        }
        TokenWhat::Rotate { name, keep_old } => {
            let body = keep_old.map(|keep| json!({"keepOld": keep}).to_string()).unwrap_or_default();
            let made = server.send(Method::POST, &format!("/tokens/{}/rotate", segment(&name)), body).await;
            told(&value(&made.map_err(|message| format!("rotate Token {name} failed, {message}"))?)?, format);
            Ok(())
        }
        TokenWhat::Revoke { name } => {
            let gone = server.send(Method::DELETE, &format!("/tokens/{}", segment(&name)), String::new()).await;
            gone.map_err(|message| format!("revoke Token {name} failed, {message}"))?;
            succeeded("revoke", "Token", &name);
            Ok(())
        }
    }
}

/// The token alone, for scripts; it is not told again.
fn told(made: &Value, format: Format) {
    if format == Format::Default { print(word(made, "token")) } else { structured(made, format) }
}

async fn list(server: &Server, format: Format) -> Result<(), String> {
    let tokens = server.get("/tokens").await?;
    if format != Format::Default {
        structured(&tokens, format);
        return Ok(());
    }
    let mut rows = vec![heads(&["NAME", "GRANTS", "AGE", "ROTATED"])];
    for token in tokens.as_array().into_iter().flatten() {
        let grants: Vec<String> = token["grants"].as_array().into_iter().flatten().map(grant).collect();
        let rotated = word(token, "rotatedAt");
        let rotated = if rotated.is_empty() { "never".to_owned() } else { format!("{} ago", age(rotated)) };
        rows.push(vec![word(token, "name").into(), grants.join(" "), age(word(token, "createdAt")), rotated]);
    }
    print(&table(&rows));
    Ok(())
}

fn grant(grant: &Value) -> String {
    let list =
        |key: &str| -> Vec<&str> { grant[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect() };
    let (kinds, namespaces) = (list("kinds"), list("namespaces"));
    let mut text = word(grant, "role").to_owned();
    if !kinds.is_empty() {
        text.push_str(&format!(":{}", kinds.join(",")));
    }
    if !namespaces.is_empty() {
        text.push_str(&format!("@{}", namespaces.join(",")));
    }
    text
}

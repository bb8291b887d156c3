use std::time::SystemTime;

use base_text::quoted;
use control_api::time;
use hyper::Method;
use serde_json::Value;

use crate::arguments::Format;
use crate::describe::fields;
use crate::objects::age;
use crate::output::{heads, print, structured, succeeded, table};
use crate::server::{Server, segment};

pub async fn get(server: &Server, name: Option<&str>, format: Format) -> Result<(), String> {
    let members = find(server, name).await?;
    if format != Format::Default {
        structured(&Value::Array(members), format);
        return Ok(());
    }
    let mut rows = vec![heads(&["NAME", "ROLE", "AGE", "STATE", "API-ADDR", "HEARTBEAT"])];
    for member in &members {
        let options = &member["options"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let heard = member["lastHeartbeatTime"].as_str().and_then(time::parse);
        rows.push(vec![
            text(&options["Name"]),
            text(&options["ClusterRole"]),
            age(member["weir"]["startedAt"].as_str().unwrap_or_default()),
            text(&member["weir"]["state"]),
            text(&options["APIAddr"]),
            heard.map_or_else(|| "unknown".into(), |at| format!("{} ago", time::age(at, SystemTime::now()))),
        ]);
    }
    print(&table(&rows));
    Ok(())
}

pub async fn describe(server: &Server, name: Option<&str>, format: Format) -> Result<(), String> {
    let members = find(server, name).await?;
    if format != Format::Default {
        structured(&Value::Array(members), format);
        return Ok(());
    }
    let texts: Vec<String> = members
        .iter()
        .map(|member| {
            let name = member["options"]["Name"].as_str().unwrap_or_default();
            format!("Name: {name}\n{}", fields(member, &["lastHeartbeatTime", ""], &[]))
        })
        .collect();
    print(&texts.join("\n---\n\n"));
    Ok(())
}

pub async fn purge(server: &Server, names: &[String]) -> Result<(), String> {
    if names.is_empty() {
        return Err("delete member: name one or more (weirctl get member lists them)".into());
    }
    for name in names {
        let gone = server.send(Method::DELETE, &format!("/status/members/{}", segment(name)), String::new()).await;
        gone.map_err(|message| format!("delete Member {name} failed, {message}"))?;
        succeeded("delete", "Member", name);
    }
    Ok(())
}

async fn find(server: &Server, name: Option<&str>) -> Result<Vec<Value>, String> {
    let members = server.get("/status/members").await?;
    let members: Vec<Value> = members.as_array().cloned().unwrap_or_default();
    let Some(name) = name else { return Ok(members) };
    let found: Vec<Value> = members.into_iter().filter(|member| member["options"]["Name"] == name).collect();
    if found.is_empty() { Err(format!("there is no member named {name}", name = quoted(&name))) } else { Ok(found) }
}

use std::time::{Duration, Instant, SystemTime};

use base_text::quoted;
use control_api::time;
use hyper::Method;
use serde_json::Value;

use crate::arguments::Format;
use crate::describe::fields;
use crate::objects::age;
use crate::output::{heads, print, structured, succeeded, table};
use crate::server::{PATIENCE, Server, segment, value};

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
        rows.push(vec![
            text(&options["Name"]),
            text(&options["ClusterRole"]),
            age(member["weir"]["startedAt"].as_str().unwrap_or_default()),
            text(&member["weir"]["state"]),
            text(&options["APIAddr"]),
            heard(member, SystemTime::now()),
        ]);
    }
    print(&table(&rows));
    if name.is_none() {
        print(&served(&members));
    }
    Ok(())
}

/// How long ago the leader heard of a member. Where nobody leads it is not known; servers of before say when the member started then.
fn heard(member: &Value, now: SystemTime) -> String {
    let at = member["weir"].get("heardAt").unwrap_or(&member["lastHeartbeatTime"]);
    let at = at.as_str().and_then(time::parse);
    at.map_or_else(|| "unknown".into(), |at| format!("{} ago", time::age(at, now)))
}

/// Whether every edge serves what the cluster has, and which does not, and why.
fn served(members: &[Value]) -> String {
    let edges: Vec<&Value> = members.iter().filter(|member| member["weir"]["edge"] == true).collect();
    let version = edges.iter().filter_map(|edge| edge["weir"]["configVersion"].as_u64()).max().unwrap_or_default();
    let mut lines = Vec::new();
    let mut current = 0;
    for edge in &edges {
        let name = edge["options"]["Name"].as_str().unwrap_or_default();
        let serves = &edge["weir"]["serves"];
        let why = serves["withheld"].as_str();
        match serves["version"].as_u64() {
            None if edge["weir"]["up"] == false => lines.push(format!("{name} is down")),
            None => lines.push(format!("{name} has not said what it serves; is there a leader?")),
            Some(at) if at >= version && why.is_none() => current += 1,
            Some(at) => lines.push(format!(
                "{name} serves version {at}: {}",
                why.unwrap_or("it is behind; ask again in a moment, and look at its log if that stays so")
            )),
        }
        for (object, reason) in serves["failures"].as_object().into_iter().flatten() {
            lines.push(format!("{name}: {object}: {}", reason.as_str().unwrap_or_default()));
        }
        let told = serves["failures"].as_object().map_or(0, |failures| failures.len());
        if let Some(more) = serves["failed"].as_u64().map(|failed| failed as usize).filter(|failed| *failed > told) {
            lines.push(format!("{name}: {} more objects are not served as they should be", more - told));
        }
    }
    let head = if current == edges.len() { format!("all {current}") } else { format!("{current} of {}", edges.len()) };
    lines.insert(0, format!("\n{head} edges serve version {version}"));
    lines.join("\n")
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

/// The token alone, so that it can be handed on by a script; when it expires goes to stderr.
pub async fn token(
    server: &Server,
    ttl: &str,
    role: Option<&str>,
    name: Option<&str>,
    format: Format,
) -> Result<(), String> {
    let asked = serde_json::json!({"ttl": ttl, "role": role, "name": name}).to_string();
    let made = server.send(Method::POST, "/member-tokens", asked).await;
    let made = value(&made.map_err(|message| format!("member token failed, {message}"))?)?;
    if format != Format::Default {
        structured(&made, format);
        return Ok(());
    }
    print(made["token"].as_str().unwrap_or_default());
    eprintln!("good for one member, until {}", made["expires"].as_str().unwrap_or_default());
    Ok(())
}

/// How the authority is that issues the members' certificates.
pub async fn authority(server: &Server, replace: bool, format: Format) -> Result<(), String> {
    if replace {
        let replaced = server.send(Method::POST, "/member-authority/replace", String::new()).await;
        replaced.map_err(|message| format!("member authority --replace failed, {message}"))?;
    }
    let told = server.get("/member-authority").await?;
    if format != Format::Default {
        structured(&told, format);
        return Ok(());
    }
    let word = |key: &str| told[key].as_str();
    let mut lines = vec![format!("ends: {}", word("ends").unwrap_or("unknown"))];
    if let Some(since) = word("nextSince") {
        lines.push(format!("another follows, which members come to believe: since {since}"));
    }
    if let Some(since) = word("formerSince") {
        lines.push(format!(
            "the one before is still believed, and members get certificates of the new one: since {since}"
        ));
    }
    match told["waitsFor"].as_array() {
        Some(names) if !names.is_empty() => {
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            lines.push(format!("waits for: {}", names.join(", ")));
        }
        None if lines.len() > 1 => {
            lines.push("whom that waits for, the member knows that leads (weirctl member list)".to_owned())
        }
        _ => {}
    }
    print(&lines.join("\n"));
    Ok(())
}

pub async fn purge(server: &Server, names: &[String]) -> Result<(), String> {
    if names.is_empty() {
        return Err("delete member: name one or more (weirctl get member lists them)".into());
    }
    for name in names {
        expelled(server, name, Instant::now()).await?;
    }
    Ok(())
}

/// Asks for so long while the others cannot decide it.
async fn expelled(server: &Server, name: &str, until: Instant) -> Result<(), String> {
    let gone = server.insist(Method::DELETE, &format!("/status/members/{}", segment(name)), until).await;
    gone.map_err(|message| format!("delete Member {name} failed, {message}"))?;
    succeeded("delete", "Member", name);
    Ok(())
}

/// Removes a member that is gone for good.
pub async fn remove(server: &Server, name: &str) -> Result<(), String> {
    let member = find(server, Some(name)).await?.remove(0);
    if member["weir"]["up"] == true {
        return Err(format!(
            "member {name} runs and would come back by itself: stop weir there first, and say it again",
            name = quoted(&name)
        ));
    }
    purge(server, &[name.to_owned()]).await
}

/// Checks that a member can be added, says how to start it, and waits until it votes.
pub async fn add(server: &Server, name: &str, url: &str, wait: Duration) -> Result<(), String> {
    let members = find(server, None).await?;
    if members.iter().any(|member| named(member) == name) {
        return Err(format!(
            "there is a member named {name} already; give the new one another name, or replace it: weirctl member replace {name} {name}",
            name = quoted(&name)
        ));
    }
    fits(&members, url, None)?;
    print(&started_with(&members, name, url, None));
    joined(server, name, "", wait).await
}

/// Checks that a member that is gone can be replaced, says how to start the other one, waits until that votes, and removes the one
/// that is gone.
pub async fn replace(server: &Server, old: &str, new: &str, url: &str, wait: Duration) -> Result<(), String> {
    let members = find(server, None).await?;
    let Some(gone) = members.iter().find(|member| named(member) == old) else {
        let known: Vec<&str> = members.iter().map(named).collect();
        return Err(format!("there is no member named {}; known members: {}", quoted(old), known.join(", ")));
    };
    let there = members.iter().find(|member| named(member) == new && new != old);
    if gone["weir"]["up"] == true {
        return Err(format!(
            "member {} is up: to move it, set its machine to draining in the VirtualIPs, stop weir there, and say it again",
            quoted(old)
        ));
    }
    if there.is_none() {
        fits(&members, url, Some(old))?;
        print(&started_with(&members, new, url, Some(old)));
    }
    let until = Instant::now() + wait;
    let before = if old == new { gone["weir"]["instance"].as_str().unwrap_or_default() } else { "" };
    joined(server, new, before, wait).await?;
    if old != new && !wait.is_zero() {
        // The group has changed a moment ago, and may be electing a leader.
        expelled(server, old, until.max(Instant::now() + PATIENCE)).await?;
    }
    Ok(())
}

fn named(member: &Value) -> &str {
    member["options"]["Name"].as_str().unwrap_or_default()
}

fn peer_url(member: &Value) -> &str {
    member["options"]["Cluster"]["InitialAdvertisePeerURLs"][0].as_str().unwrap_or_default()
}

fn votes(member: &Value) -> bool {
    member["options"]["ClusterRole"] == "primary"
}

/// Whether a new member may have this peer URL, and the cluster can take one in: a majority has to agree, and one more has to be up
/// for it from then on.
fn fits(members: &[Value], url: &str, instead_of: Option<&str>) -> Result<(), String> {
    let parsed: hyper::Uri = url.parse().map_err(|e| format!("--peer-url {}: not a URL ({e})", quoted(url)))?;
    if !matches!(parsed.scheme_str(), Some("http" | "https")) || parsed.host().is_none() || parsed.port().is_none() {
        return Err(format!("--peer-url {}: write http://HOST:PORT or https://HOST:PORT", quoted(url)));
    }
    let taken = members.iter().filter(|member| Some(named(member)) != instead_of);
    if let Some(other) =
        taken.into_iter().find(|member| peer_url(member).trim_end_matches('/') == url.trim_end_matches('/'))
    {
        return Err(format!("--peer-url {}: member {} is reached there", quoted(url), quoted(named(other))));
    }
    let voters: Vec<&Value> = members.iter().filter(|member| votes(member)).collect();
    let up = voters.iter().filter(|member| member["weir"]["up"] == true).count();
    if up <= voters.len() / 2 {
        return Err(format!(
            "{up} of {} members that vote are up, and a majority has to agree: start the others, or, where they are gone for good, weir \
             recover",
            voters.len()
        ));
    }
    Ok(())
}

/// What a new member's configuration file needs beside what the others have in common.
fn started_with(members: &[Value], name: &str, url: &str, instead_of: Option<&str>) -> String {
    let mut text = format!(
        "# start weir on the new machine with the options of the others, and:\nname: {name}\nstate-flag: existing\n"
    );
    text.push_str(&format!(
        "listen-peer-urls: [{url}]\ninitial-advertise-peer-urls: [{url}]\ninitial-cluster:\n  {name}: {url}\n"
    ));
    let others =
        members.iter().filter(|member| votes(member) && named(member) != name && Some(named(member)) != instead_of);
    for member in others {
        text.push_str(&format!("  {}: {}\n", named(member), peer_url(member)));
    }
    text
}

/// Waits until the member has a copy of everything and votes. `before` is the instance that it takes the place of.
async fn joined(server: &Server, name: &str, before: &str, wait: Duration) -> Result<(), String> {
    if wait.is_zero() {
        return Ok(());
    }
    let until = Instant::now() + wait;
    loop {
        // The member that is asked may be electing a leader just now.
        let members = find(server, None).await.unwrap_or_default();
        let there = members.iter().find(|member| named(member) == name);
        let state = there.map(|member| &member["weir"]);
        if state.is_some_and(|weir| weir["up"] == true && weir["votes"] == true && weir["instance"] != before) {
            succeeded("add", "Member", name);
            return Ok(());
        }
        if Instant::now() > until {
            let what = if state.is_none() { "has not been heard of" } else { "does not vote yet" };
            return Err(format!(
                "member {} {what} after {}: see its log, and say it again; nothing was removed",
                quoted(name),
                base_text::duration(wait)
            ));
        }
        tokio::time::sleep(LOOKED_AT).await;
    }
}

const LOOKED_AT: Duration = Duration::from_millis(200);

async fn find(server: &Server, name: Option<&str>) -> Result<Vec<Value>, String> {
    let members = server.get("/status/members").await?;
    let members: Vec<Value> = members.as_array().cloned().unwrap_or_default();
    let Some(name) = name else { return Ok(members) };
    let found: Vec<Value> = members.into_iter().filter(|member| member["options"]["Name"] == name).collect();
    if found.is_empty() { Err(format!("there is no member named {name}", name = quoted(&name))) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_known_of_a_heartbeat_is_no_time() {
        let now = time::parse("2026-01-01T00:05:00Z").unwrap();
        let (then, started) = ("2026-01-01T00:04:57Z", "2026-01-01T00:00:00Z");
        let member = |weir: Value| json!({"lastHeartbeatTime": started, "weir": weir});
        assert_eq!(heard(&member(json!({"heardAt": then})), now), "3s ago");
        assert_eq!(heard(&member(json!({"heardAt": null})), now), "unknown");
        assert_eq!(heard(&member(json!({})), now), "5m ago", "of a server of before");
    }

    #[test]
    fn whoever_is_behind_is_named_with_the_reason() {
        let edge = |name: &str, up: bool, serves: Value| {
            let weir = json!({"edge": true, "up": up, "configVersion": 42, "serves": serves});
            json!({"options": {"Name": name}, "weir": weir})
        };
        let good = edge("a", true, json!({"version": 42, "failed": 0}));
        let control = json!({"options": {"Name": "c"}, "weir": {"edge": false, "up": true}});
        assert_eq!(served(&[good.clone(), control]), "\nall 1 edges serve version 42");
        let told = served(&[
            good,
            edge("b", true, json!({"version": 41, "withheld": "the cluster lacks 2 objects", "failed": 0})),
            edge("d", false, Value::Null),
            edge("e", true, json!({"version": 42, "failures": {"hs": "port 80 is in use"}, "failed": 3})),
        ]);
        let lines = [
            "",
            "2 of 4 edges serve version 42",
            "b serves version 41: the cluster lacks 2 objects",
            "d is down",
            "e: hs: port 80 is in use",
            "e: 2 more objects are not served as they should be",
        ];
        assert_eq!(told, lines.join("\n"));
    }
}

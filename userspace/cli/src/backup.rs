//! `backup` and `restore`: the whole cluster in one file, and back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base_model::yaml;
use control_api::backup::{self, Key, Recipient};
use hyper::Method;
use serde_json::Value;

use crate::arguments::{Backup, Format, Output, Restore};
use crate::documents::word;
use crate::history::changed_lines;
use crate::output::{print, structured};
use crate::server::{Server, value};

/// Makes a key: the private half into a file, the public one to the screen. Needs no server.
pub fn generate_key(path: &Path) -> Result<(), String> {
    let key = Key::draw().map_err(|e| e.to_string())?;
    let text = key.text().map_err(|e| e.to_string())?;
    // A key that is written over opens nothing any more.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|e| format!("{}: cannot be created: {e}", path.display()))?;
    print(&key.recipient().map_err(|e| e.to_string())?.key);
    Ok(())
}

pub async fn backup(server: &Server, what: &Backup, output: &Output) -> Result<(), String> {
    let path = match output {
        Output::File(path) => path,
        Output::Format(Format::Default) => return Err("backup: where to? give -o FILE, or -o - for stdout".into()),
        Output::Format(format) => {
            return Err(format!(
                "backup: -o names the file here; write ./{} if it is to be called that",
                format.name()
            ));
        }
    };
    let recipient = match (&what.recipient, &what.passphrase_file) {
        (Some(key), _) => Some(Recipient { key: key.clone(), stretch: None }),
        (None, Some(file)) => {
            let (key, stretch) =
                Key::of_passphrase(&passphrase(file)?).map_err(|e| format!("{}: {e}", file.display()))?;
            let recipient = key.recipient().map_err(|e| e.to_string())?;
            Some(Recipient { stretch: Some(stretch), ..recipient })
        }
        (None, None) => None,
    };
    // The server is told the public half alone.
    let body = recipient.map(|recipient| serde_json::to_string(&recipient).unwrap_or_default()).unwrap_or_default();
    let answer =
        server.send(Method::POST, "/backup", body).await.map_err(|message| format!("backup failed, {message}"))?;
    let read =
        backup::read(&answer.body).map_err(|e| format!("backup failed, what the server sent is no backup: {e}"))?;
    let (objects, items, version) = (read.head.objects, read.head.custom_items, read.head.version);
    if path == Path::new("-") {
        return io::stdout().write_all(&answer.body).map_err(|e| format!("stdout: {e}"));
    }
    keep(path, &answer.body).map_err(|e| format!("{}: cannot be written: {e}", path.display()))?;
    let lock = if read.head.lock.is_some() { "locked" } else { "not locked: there is no secret in it" };
    print(&format!(
        "backup of cluster {} at version {version}: {objects} objects and {items} items of custom data in {} ({lock})",
        read.head.cluster_name,
        path.display()
    ));
    Ok(())
}

pub async fn restore(server: &Server, what: &Restore, format: Format) -> Result<(), String> {
    let place = what.file.display();
    let file = bytes(&what.file)?;
    let backup = backup::read(&file).map_err(|e| format!("{place}: {e}"))?;
    let key = match (&what.key_file, &what.passphrase_file) {
        (Some(path), _) => {
            let text = String::from_utf8_lossy(&bytes(path)?).into_owned();
            Some(Key::read(&text).map_err(|e| format!("{}: {e}", path.display()))?)
        }
        (None, Some(path)) => {
            let stretch = backup.head.lock.as_ref().and_then(|lock| lock.recipient.stretch.as_ref());
            let stretch = stretch.ok_or_else(|| format!("{place}: no passphrase opens it; {}", how(&backup.head)))?;
            Some(Key::stretched(&passphrase(path)?, stretch).map_err(|e| format!("{place}: {e}"))?)
        }
        (None, None) => None,
    };
    let snapshot = backup.open(key.as_ref()).map_err(|e| format!("{place}: {e}"))?;
    let body = serde_json::to_string(&snapshot).map_err(|e| format!("{place}: {e}"))?;
    let path = format!(
        "/restore?dryRun={}&anotherCluster={}&withTokens={}",
        what.dry_run, what.another_cluster, what.with_tokens
    );
    let tag = what.if_version.map(|version| format!("\"{version}\""));
    let answer = server.send_if(Method::POST, &path, body, tag.as_deref()).await;
    let answer = answer.map_err(|message| format!("restore failed, {message}\nnothing was changed"))?;
    let now = answer.headers.get(control_api::CONFIG_VERSION_HEADER).and_then(|now| now.to_str().ok());
    let now = now.unwrap_or("?").to_owned();
    let told = value(&answer)?;
    if format != Format::Default {
        structured(&told, format);
        return Ok(());
    }
    let objects = told["objects"].as_array().map(Vec::as_slice).unwrap_or_default();
    let data = &told["customData"];
    if what.dry_run {
        print(&differences(objects));
        if data["changes"] == true {
            print(&format!("custom data: {} items now, {} in the backup", data["itemsBefore"], data["itemsAfter"]));
        }
        tell_tokens(&told["tokens"]);
        let head = &backup.head;
        print(&format!(
            "nothing was changed; the cluster is at version {now}, the backup is of version {} ({}). Restore it with --if-version {now}",
            head.version, head.at
        ));
        return Ok(());
    }
    let before = &told["before"];
    let back = format!("weirctl rollback {before} brings the objects of before back");
    print(&format!(
        "restored as version {now}: {} objects created, {} changed, {} deleted, {} items of custom data; {back}",
        count(objects, "created"),
        count(objects, "changed"),
        count(objects, "deleted"),
        data["itemsAfter"],
    ));
    tell_tokens(&told["tokens"]);
    Ok(())
}

/// Whom the backup lets in, and whom it would let in.
fn tell_tokens(tokens: &Value) {
    let names = |list: &str| -> Option<String> {
        let names = tokens[list].as_array().filter(|names| !names.is_empty())?;
        Some(names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "))
    };
    if let Some(names) = names("restored") {
        print(&format!(
            "API tokens of the backup, good as they were then: {names}; revoke what is not wanted (weirctl token revoke)"
        ));
    }
    if let Some(names) = names("leftOut") {
        print(&format!(
            "API tokens in the backup that are left out: {names} (--with-tokens brings them into a cluster founded anew)"
        ));
    }
}

fn count(objects: &[Value], change: &str) -> usize {
    objects.iter().filter(|object| word(object, "change") == change).count()
}

/// As `weirctl diff` shows them.
fn differences(objects: &[Value]) -> String {
    let mut all = Vec::new();
    for object in objects {
        let text = |side: &str| if object[side].is_null() { String::new() } else { yaml::to_string(&object[side]) };
        let (old, new) = (text("before"), text("after"));
        all.push(format!("{} {}", word(object, "kind"), word(object, "name")));
        if old == new {
            all.push("  (a secret in it differs)".to_owned());
        }
        all.extend(changed_lines(&old, &new));
        all.push(String::new());
    }
    if all.is_empty() { "no difference in the objects".to_owned() } else { all.join("\n").trim_end().to_owned() }
}

fn how(head: &backup::Head) -> String {
    match &head.lock {
        Some(lock) => format!("it is for {}: give its --key-file", lock.recipient.key),
        None => "it is not locked: leave --passphrase-file out".to_owned(),
    }
}

/// The first line of a file, without its end.
fn passphrase(path: &Path) -> Result<Vec<u8>, String> {
    let all = bytes(path)?;
    let line = all.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(line.strip_suffix(b"\r").unwrap_or(line).to_vec())
}

fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    if path == Path::new("-") {
        let mut all = Vec::new();
        return io::stdin().read_to_end(&mut all).map(|_| all).map_err(|e| format!("stdin: {e}"));
    }
    fs::read(path).map_err(|e| format!("{}: cannot be read: {e}", path.display()))
}

/// The whole file is there under its name, or the one from before is.
fn keep(path: &Path, contents: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy().into_owned();
    let draft = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).and_then(|mut file| {
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        File::open(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.sync_all()
    });
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written
}

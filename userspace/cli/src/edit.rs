//! `edit`: a document through an editor and back.

use std::path::PathBuf;
use std::process::Command;

use base_model::yaml;
use base_text::quoted;
use hyper::Method;
use serde_json::Value;

use crate::documents::word;
use crate::output::{print, succeeded};
use crate::server::{Server, segment};

pub async fn edit(server: &Server, kind: &str, name: &str) -> Result<(), String> {
    let path = format!("/objects/{}", segment(name));
    let (before, tag) = server.get_tagged(&path).await?;
    if word(&before, "kind") != kind {
        return Err(format!("there is no {kind} named {name}", name = quoted(&name)));
    }
    let file = write(kind, name, &before)?;
    let kept = |message: String| format!("{message}\nyour text is kept in {}", file.display());
    let editor = ["WEIRCTL_EDITOR", "EGCTL_EDITOR", "VISUAL", "EDITOR"].iter().find_map(|key| std::env::var(key).ok());
    let editor = editor.unwrap_or_else(|| "vi".into());
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or("vi");
    let ended = Command::new(program).args(words).arg(&file).status();
    let ended = ended.map_err(|e| {
        format!("editor {program} does not start: {e}; name another in $WEIRCTL_EDITOR", program = quoted(&program))
    })?;
    if !ended.success() {
        return Err(kept(format!(
            "editor {program} ended with {ended}; nothing was changed",
            program = quoted(&program)
        )));
    }
    let text = std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
    let after = yaml::parse_document(&text).map_err(|e| kept(format!("{e}; nothing was changed")))?;
    if after == before {
        print("nothing was changed");
    } else {
        if (word(&after, "name"), word(&after, "kind")) != (name, kind) {
            return Err(kept("name and kind cannot be edited; nothing was changed".into()));
        }
        // Whoever changed it meanwhile is not written over.
        let sent = server.send_if(Method::PUT, &path, text, tag.as_deref()).await;
        sent.map_err(|message| kept(format!("update {kind} {name} failed, {message}")))?;
        succeeded("update", kind, name);
    }
    let _ = std::fs::remove_file(&file);
    Ok(())
}

fn write(kind: &str, name: &str, document: &Value) -> Result<PathBuf, String> {
    let file = std::env::temp_dir().join(format!("weirctl-{}-{kind}-{name}.yaml", std::process::id()));
    std::fs::write(&file, yaml::to_string(document)).map_err(|e| format!("{}: {e}", file.display()))?;
    Ok(file)
}

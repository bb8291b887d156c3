//! `edit`: a document through an editor and back.

use std::cell::Cell;
use std::fs::{DirBuilder, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use base_model::yaml;
use base_text::quoted;
use hyper::Method;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::documents::word;
use crate::output::{print, succeeded};
use crate::server::{Server, segment};

pub async fn edit(server: &Server, kind: &str, name: &str) -> Result<(), String> {
    let path = format!("/objects/{}", segment(name));
    let (before, tag) = server.get_tagged(&path).await?;
    if word(&before, "kind") != kind {
        return Err(format!("there is no {kind} named {name}", name = quoted(&name)));
    }
    let draft = Draft::of(kind, name, &before)?;
    let editor = ["WEIRCTL_EDITOR", "EGCTL_EDITOR", "VISUAL", "EDITOR"].iter().find_map(|key| std::env::var(key).ok());
    let editor = editor.unwrap_or_else(|| "vi".into());
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or("vi");
    let ended = draft.edited(Command::new(program).args(words).arg(&draft.file)).await;
    let ended = ended.map_err(|e| {
        format!("editor {program} does not start: {e}; name another in $WEIRCTL_EDITOR", program = quoted(&program))
    })?;
    if !ended.success() {
        return Err(
            draft.keep(format!("editor {program} ended with {ended}; nothing was changed", program = quoted(&program)))
        );
    }
    let text = std::fs::read_to_string(&draft.file).map_err(|e| format!("{}: {e}", draft.file.display()))?;
    let after = yaml::parse_document(&text).map_err(|e| draft.keep(format!("{e}; nothing was changed")))?;
    if after == before {
        print("nothing was changed");
    } else {
        if (word(&after, "name"), word(&after, "kind")) != (name, kind) {
            return Err(draft.keep("name and kind cannot be edited; nothing was changed".into()));
        }
        // Whoever changed it meanwhile is not written over.
        let sent = server.send_if(Method::PUT, &path, text, tag.as_deref()).await;
        sent.map_err(|message| draft.keep(format!("update {kind} {name} failed, {message}")))?;
        succeeded("update", kind, name);
    }
    Ok(())
}

/// A document while it is edited: in a directory of its own, which nobody else can look into and which goes away with all that the
/// editor leaves in it.
struct Draft {
    directory: PathBuf,
    file: PathBuf,
    /// As it was written.
    text: String,
    kept: Cell<bool>,
}

impl Draft {
    fn of(kind: &str, name: &str, document: &Value) -> Result<Draft, String> {
        let drawn = RandomState::new().build_hasher().finish();
        let directory = std::env::temp_dir().join(format!("weirctl-{}-{drawn:016x}", std::process::id()));
        let failed = |path: &Path, e: io::Error| format!("{}: {e}; name another directory in $TMPDIR", path.display());
        DirBuilder::new().mode(0o700).create(&directory).map_err(|e| failed(&directory, e))?;
        let file = directory.join(format!("{kind}-{name}.yaml"));
        let draft = Draft { directory, file, text: yaml::to_string(document), kept: Cell::new(false) };
        let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft.file);
        written.and_then(|mut file| file.write_all(draft.text.as_bytes())).map_err(|e| failed(&draft.file, e))?;
        Ok(draft)
    }

    /// Runs the editor. What interrupts it is its own affair; who ends `weirctl` meanwhile leaves nothing behind.
    async fn edited(&self, command: &mut Command) -> io::Result<ExitStatus> {
        let _interrupts = signal(SignalKind::interrupt())?;
        let (mut terminate, mut hangup) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
        let mut child = command.spawn()?;
        let ended = tokio::task::spawn_blocking(move || child.wait());
        tokio::select! {
            ended = ended => ended.unwrap_or_else(|failed| Err(io::Error::other(failed))),
            _ = terminate.recv() => self.leave(),
            _ = hangup.recv() => self.leave(),
        }
    }

    fn leave(&self) -> ! {
        let _ = std::fs::remove_dir_all(&self.directory);
        std::process::exit(1)
    }

    /// Leaves what somebody wrote where it is.
    fn keep(&self, message: String) -> String {
        if std::fs::read_to_string(&self.file).is_ok_and(|text| text == self.text) {
            return message;
        }
        self.kept.set(true);
        format!("{message}\nyour text is kept in {}", self.file.display())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept.get() {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

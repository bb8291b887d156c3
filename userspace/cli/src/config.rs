//! `~/.weirctlrc`, and `~/.egctlrc` where that is absent: clusters, users, and contexts that pair them.

use std::path::PathBuf;

use base_model::yaml;
use serde_json::Value;

use crate::arguments::{ConfigWhat, Format};
use crate::documents::word;
use crate::output::{heads, print, structured, table};

/// Where to, and as whom.
pub struct Context {
    pub server: String,
    pub authorization: Option<String>,
}

struct File {
    path: PathBuf,
    value: Value,
}

/// The flag, else the current context, else the machine itself.
pub fn context(flag: Option<&str>) -> Result<Context, String> {
    if let Some(server) = flag {
        return Ok(Context { server: server.to_owned(), authorization: None });
    }
    let Some(file) = load()? else { return Ok(Context { server: DEFAULT.into(), authorization: None }) };
    let current = word(&file.value, "current-context");
    if current.is_empty() {
        return Ok(Context { server: DEFAULT.into(), authorization: None });
    }
    let missing = |what: &str, name: &str| format!("{}: there is no {what} {name:?}", file.path.display());
    let context = named(&file.value, "contexts", current).ok_or_else(|| missing("context", current))?;
    let cluster = word(&context["context"], "cluster");
    let user = word(&context["context"], "user");
    let cluster = named(&file.value, "clusters", cluster).ok_or_else(|| missing("cluster", cluster))?;
    let user = &named(&file.value, "users", user).unwrap_or(&Value::Null)["user"];
    let authorization = (!word(user, "username").is_empty()).then(|| {
        let pair = format!("{}:{}", word(user, "username"), word(user, "password"));
        format!("Basic {}", crate::http_proxy::base64(pair.as_bytes()))
    });
    Ok(Context { server: word(&cluster["cluster"], "server").to_owned(), authorization })
}

pub fn run(what: &ConfigWhat, format: Format) -> Result<(), String> {
    let none = "no context: there is neither ~/.weirctlrc nor ~/.egctlrc";
    let Some(mut file) = load()? else { return Err(none.into()) };
    let current = word(&file.value, "current-context").to_owned();
    match what {
        ConfigWhat::CurrentContext => print(&current),
        ConfigWhat::View => {
            hide_secrets(&mut file.value);
            structured(&file.value, format);
        }
        ConfigWhat::GetContexts => {
            let mut rows = vec![heads(&["CURRENT", "NAME", "CLUSTER", "USER"])];
            for context in file.value["contexts"].as_array().into_iter().flatten() {
                let name = word(context, "name");
                let mark = if name == current { "*" } else { "" };
                let inner = &context["context"];
                rows.push(vec![mark.into(), name.into(), word(inner, "cluster").into(), word(inner, "user").into()]);
            }
            print(&table(&rows));
        }
        ConfigWhat::UseContext { name } => {
            if named(&file.value, "contexts", name).is_none() {
                return Err(format!(
                    "{}: there is no context {name:?}; weirctl config get-contexts lists them",
                    file.path.display()
                ));
            }
            file.value["current-context"] = name.as_str().into();
            let text = yaml::to_string(&file.value);
            std::fs::write(&file.path, text).map_err(|e| format!("{}: cannot be written: {e}", file.path.display()))?;
            print(&format!("Switched to context {name}"));
        }
    }
    Ok(())
}

fn load() -> Result<Option<File>, String> {
    let Some(home) = std::env::var_os("HOME").map(PathBuf::from) else { return Ok(None) };
    for name in [".weirctlrc", ".egctlrc"] {
        let path = home.join(name);
        if path.is_file() {
            let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            let value = yaml::parse_document(&text).map_err(|e| format!("{}: {e}", path.display()))?;
            return Ok(Some(File { path, value }));
        }
    }
    Ok(None)
}

fn named<'v>(value: &'v Value, list: &str, name: &str) -> Option<&'v Value> {
    value.get(list)?.as_array()?.iter().find(|item| word(item, "name") == name)
}

fn hide_secrets(value: &mut Value) {
    for user in value.get_mut("users").and_then(Value::as_array_mut).into_iter().flatten() {
        for key in ["password", "client-key-data"] {
            if let Some(secret) = user.get_mut("user").and_then(|user| user.get_mut(key)) {
                *secret = "DATA+OMITTED".into();
            }
        }
    }
}

const DEFAULT: &str = "localhost:2381";

//! `~/.weirctlrc`, and `~/.egctlrc` where that is absent: clusters, users, and contexts that pair them.

use std::path::PathBuf;

use base_model::yaml;
use base_text::quoted;
use base64::prelude::{BASE64_STANDARD, Engine};
use control_api::tls::{ClientTrust, Identity, Pem};
use serde_json::Value;

use crate::arguments::{ConfigWhat, Format, Tls};
use crate::documents::word;
use crate::output::{heads, print, structured, table};

/// Where to, and as whom.
pub struct Context {
    /// With its scheme.
    pub server: String,
    pub authorization: Option<String>,
    pub trust: ClientTrust,
}

struct File {
    path: PathBuf,
    value: Value,
}

/// The flags, else the current context, else the machine itself.
pub fn context(flag: Option<&str>, tls: &Tls) -> Result<Context, String> {
    let mut context = match flag {
        Some(server) => Context { server: server.to_owned(), ..Context::local() },
        None => current()?.unwrap_or_else(Context::local),
    };
    // Of scripts and pipelines, which have no file of their own.
    if let Ok(token) = std::env::var("WEIRCTL_TOKEN")
        && !token.is_empty()
    {
        context.authorization = Some(format!("Bearer {token}"));
    }
    let trust = &mut context.trust;
    if let Some(path) = &tls.certificate_authority {
        trust.authorities = Some(Pem::read("--certificate-authority", path).map_err(|e| e.to_string())?);
    }
    let (certificate, key) = (tls.client_certificate.clone(), tls.client_key.clone());
    let shown = Identity::read(("--client-certificate", certificate), ("--client-key", key));
    trust.identity = shown.map_err(|e| e.to_string())?.or(trust.identity.take());
    trust.skip_verify |= tls.insecure_skip_verify;
    // An address alone means TLS as soon as anything was said about TLS.
    if !context.server.contains("://") {
        let tls = tls.force_tls || trust.skip_verify || trust.authorities.is_some() || trust.identity.is_some();
        context.server = format!("{}://{}", if tls { "https" } else { "http" }, context.server);
    } else if tls.force_tls && context.server.starts_with("http://") {
        return Err(format!("--force-tls: {} says http; write https://, or the address alone", context.server));
    }
    Ok(context)
}

/// What the file says.
fn current() -> Result<Option<Context>, String> {
    let Some(file) = load()? else { return Ok(None) };
    let current = word(&file.value, "current-context");
    if current.is_empty() {
        return Ok(None);
    }
    let missing =
        |what: &str, name: &str| format!("{}: there is no {what} {name}", file.path.display(), name = quoted(&name));
    let context = named(&file.value, "contexts", current).ok_or_else(|| missing("context", current))?;
    let cluster = word(&context["context"], "cluster");
    let user = word(&context["context"], "user");
    let cluster = named(&file.value, "clusters", cluster).ok_or_else(|| missing("cluster", cluster))?;
    let user = &named(&file.value, "users", user).unwrap_or(&Value::Null)["user"];
    let authorization = (!word(user, "username").is_empty()).then(|| {
        let pair = format!("{}:{}", word(user, "username"), word(user, "password"));
        format!("Basic {}", BASE64_STANDARD.encode(pair))
    });
    let token = word(user, "token");
    let authorization = if token.is_empty() { authorization } else { Some(format!("Bearer {token}")) };
    let cluster = &cluster["cluster"];
    let chain = file.pem(user, "client-certificate")?;
    let key = file.pem(user, "client-key")?;
    let identity = match (chain, key) {
        (Some(chain), Some(key)) => Some(Identity { chain, key }),
        (None, None) => None,
        _ => {
            let what = "client-certificate and client-key go together: give both, or neither";
            return Err(format!("{}: {what}", file.path.display()));
        }
    };
    let authorities = file.pem(cluster, "certificate-authority")?;
    let skip_verify = cluster["insecure-skip-tls-verify"] == true;
    let trust = ClientTrust { authorities, identity, skip_verify };
    Ok(Some(Context { server: word(cluster, "server").to_owned(), authorization, trust }))
}

impl Context {
    /// The machine itself, as nobody in particular.
    fn local() -> Context {
        Context { server: DEFAULT.into(), authorization: None, trust: ClientTrust::default() }
    }
}

impl File {
    /// `NAME-data`, base64 of PEM, or `NAME`, a path that may start where this file is.
    fn pem(&self, fields: &Value, name: &str) -> Result<Option<Pem>, String> {
        let (data, path) = (word(fields, &format!("{name}-data")), word(fields, name));
        if !data.is_empty() {
            let from = format!("{}: {name}-data", self.path.display());
            let text = BASE64_STANDARD.decode(data.trim()).map_err(|e| format!("{from}: not base64: {e}"))?;
            return Ok(Some(Pem { from, text }));
        }
        if path.is_empty() {
            return Ok(None);
        }
        let path = self.path.parent().unwrap_or(&self.path).join(path);
        Pem::read(&format!("{}: {name}:", self.path.display()), &path).map(Some).map_err(|e| e.to_string())
    }
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
                    "{}: there is no context {name}; weirctl config get-contexts lists them",
                    file.path.display(),
                    name = quoted(&name)
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
        for key in ["password", "token", "client-key-data"] {
            if let Some(secret) = user.get_mut("user").and_then(|user| user.get_mut(key)) {
                *secret = "DATA+OMITTED".into();
            }
        }
    }
}

const DEFAULT: &str = "localhost:2381";

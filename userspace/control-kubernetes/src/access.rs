//! Where the API server is, and who we are there: from a kubeconfig, from a URL, or from what every pod has.

use std::path::{Path, PathBuf};

use base_model::yaml::parse_document;
use base_text::quoted;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use control_api::tls::{ClientTrust, Identity, Pem};
use serde_json::Value;

/// How the API server is reached.
#[derive(Debug, Clone)]
pub struct Access {
    /// Without a slash at its end.
    pub server: String,
    pub trust: ClientTrust,
    pub login: Login,
    /// As messages call where this was found.
    pub from: String,
}

/// What is sent along with each request. Shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    None,
    Token(String),
    /// Read again and again: kubelets replace tokens before they end.
    TokenFile(PathBuf),
    Basic {
        user: String,
        password: String,
    },
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Login::None => "nothing",
            Login::Token(_) => "a token",
            Login::TokenFile(_) => "a token's file",
            Login::Basic { .. } => "a password",
        })
    }
}

impl Login {
    /// The value of `Authorization`, if there is one.
    pub fn header(&self) -> Result<Option<String>, String> {
        Ok(match self {
            Login::None => None,
            Login::Token(token) => Some(format!("Bearer {token}")),
            Login::TokenFile(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| format!("the token in {}: {error}; is the file there?", path.display()))?;
                Some(format!("Bearer {}", text.trim()))
            }
            Login::Basic { user, password } => Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))),
        })
    }
}

/// As Easegress and Kubernetes's own clients look for it: the kubeconfig, whose server `master_url` goes before; the URL alone; or, where
/// neither is given, what kubelets put into every pod.
pub fn find(kube_config: &str, master_url: &str) -> Result<Access, String> {
    let mut access = match (kube_config, master_url) {
        ("", "") => in_cluster(Path::new(SERVICE_ACCOUNT), &|name| std::env::var(name).ok())?,
        ("", url) => Access {
            server: url.to_owned(),
            trust: ClientTrust::default(),
            login: Login::None,
            from: format!("masterURL {url}"),
        },
        (file, url) => {
            let mut access = kubeconfig(Path::new(file))?;
            if !url.is_empty() {
                access.server = url.to_owned();
            }
            access
        }
    };
    access.server = access.server.trim_end_matches('/').to_owned();
    match access.server.split_once("://") {
        Some(("http" | "https", host)) if !host.is_empty() => Ok(access),
        _ => Err(format!(
            "{}: {} is not the URL of an API server; write it as https://host:6443",
            access.from,
            quoted(&access.server)
        )),
    }
}

/// What every pod is given.
fn in_cluster(account: &Path, variable: &dyn Fn(&str) -> Option<String>) -> Result<Access, String> {
    let (Some(host), Some(port)) = (variable("KUBERNETES_SERVICE_HOST"), variable("KUBERNETES_SERVICE_PORT")) else {
        return Err("neither kubeConfig nor masterURL is given, and this machine is no pod of Kubernetes \
                    (KUBERNETES_SERVICE_HOST is not set); give one of the two"
            .to_owned());
    };
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let authorities = Pem::read("the service account's", &account.join("ca.crt")).map_err(|error| error.0)?;
    Ok(Access {
        server: format!("https://{host}:{port}"),
        trust: ClientTrust { authorities: Some(authorities), ..ClientTrust::default() },
        login: Login::TokenFile(account.join("token")),
        from: "the service account of this pod".to_owned(),
    })
}

fn kubeconfig(path: &Path) -> Result<Access, String> {
    let from = format!("kubeConfig {}", path.display());
    let wrong = |what: String| format!("{from}: {what}");
    let text = std::fs::read_to_string(path).map_err(|error| {
        wrong(format!("{error}; give the path of a file that is readable on the member that leads, so on every one"))
    })?;
    let document = parse_document(&text).map_err(|error| wrong(format!("not YAML: {error}")))?;
    let current = text_of(&document, "current-context");
    let contexts = named(&document, "contexts", "context");
    let context = match contexts.iter().find(|(name, _)| *name == current) {
        Some((_, context)) => *context,
        None => {
            let known: Vec<&str> = contexts.iter().map(|(name, _)| *name).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(wrong(format!("current-context {} is not among its contexts: {known}", quoted(current))));
        }
    };
    let part = |list: &str, item: &str, wanted: &str| {
        let found = named(&document, list, item).into_iter().find(|(name, _)| *name == wanted);
        found.map(|(_, value)| value.clone()).ok_or_else(|| {
            wrong(format!("context {} names {item} {}, which is not there", quoted(current), quoted(wanted)))
        })
    };
    let cluster = part("clusters", "cluster", text_of(context, "cluster"))?;
    let user = part("users", "user", text_of(context, "user"))?;
    for (of, key, advice) in [
        (&user, "exec", "give a token, a tokenFile or a client certificate instead"),
        (&user, "auth-provider", "give a token, a tokenFile or a client certificate instead"),
        (&cluster, "proxy-url", "let the members reach the API server directly"),
        (&cluster, "tls-server-name", "name the server as its certificate does"),
    ] {
        if of.get(key).is_some_and(|value| !value.is_null() && value != "") {
            return Err(wrong(format!("{key} is not supported: {advice}")));
        }
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let pem = |of: &Value, name: &str| -> Result<Option<Pem>, String> {
        let data = text_of(of, &format!("{name}-data"));
        if !data.is_empty() {
            let text = STANDARD.decode(data).map_err(|_| wrong(format!("{name}-data is not base64")))?;
            return Ok(Some(Pem { from: format!("{from}, {name}-data"), text }));
        }
        match text_of(of, name) {
            "" => Ok(None),
            file => Pem::read(&format!("{from}, {name}"), &folder.join(file)).map(Some).map_err(|error| error.0),
        }
    };
    let identity = match (pem(&user, "client-certificate")?, pem(&user, "client-key")?) {
        (Some(chain), Some(key)) => Some(Identity { chain, key }),
        (None, None) => None,
        _ => return Err(wrong("client-certificate and client-key go together; give both".to_owned())),
    };
    let login = match (text_of(&user, "tokenFile"), text_of(&user, "token"), text_of(&user, "username")) {
        ("", "", "") => Login::None,
        ("", "", user_name) => {
            Login::Basic { user: user_name.to_owned(), password: text_of(&user, "password").to_owned() }
        }
        ("", token, _) => Login::Token(token.trim().to_owned()),
        (file, _, _) => Login::TokenFile(folder.join(file)),
    };
    let skip_verify = cluster.get("insecure-skip-tls-verify").and_then(Value::as_bool).unwrap_or_default();
    Ok(Access {
        server: text_of(&cluster, "server").to_owned(),
        trust: ClientTrust { authorities: pem(&cluster, "certificate-authority")?, identity, skip_verify },
        login,
        from,
    })
}

fn text_of<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The entries of a list, by name.
fn named<'v>(document: &'v Value, list: &str, item: &str) -> Vec<(&'v str, &'v Value)> {
    let entries = document.get(list).and_then(Value::as_array).into_iter().flatten();
    entries.filter_map(|entry| Some((text_of(entry, "name"), entry.get(item)?))).collect()
}

/// Where kubelets put it.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    const GOOD: &str = "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts:\n- name: a\n  context: {cluster: c, user: u}\n\
                        clusters:\n- name: c\n  cluster:\n    server: https://10.0.0.1:6443/\n    certificate-authority-data: QUJD\n\
                        users:\n- name: u\n  user: {tokenFile: token}\n";

    #[test]
    fn a_kubeconfig_says_where_and_as_whom() {
        let (folder, path) = written(GOOD);
        std::fs::write(folder.path().join("token"), "first\n").unwrap();
        let access = find(path.to_str().unwrap(), "").unwrap();
        assert_eq!(access.server, "https://10.0.0.1:6443");
        assert_eq!(access.trust.authorities.unwrap().text, b"ABC");
        assert_eq!(access.login.header().unwrap().as_deref(), Some("Bearer first"));
        std::fs::write(folder.path().join("token"), "second").unwrap();
        assert_eq!(access.login.header().unwrap().as_deref(), Some("Bearer second"), "tokens are replaced");
        assert_eq!(find(path.to_str().unwrap(), "http://127.0.0.1:1").unwrap().server, "http://127.0.0.1:1");
        assert_eq!(find("", "http://a:1/").unwrap().server, "http://a:1");
        assert_eq!(
            Login::Basic { user: "a".into(), password: "b".into() }.header().unwrap().as_deref(),
            Some("Basic YTpi")
        );
    }

    #[test]
    fn slips_are_told() {
        for (from, to, told) in [
            ("current-context: a", "current-context: b", "current-context \"b\" is not among its contexts: a"),
            ("cluster: c,", "cluster: d,", "names cluster \"d\", which is not there"),
            ("user: {tokenFile: token}", "user: {exec: {command: aws}}", "exec is not supported: give a token"),
            ("user: {tokenFile: token}", "user: {client-key-data: QQ==}", "go together"),
            ("QUJD", "'!'", "certificate-authority-data is not base64"),
            ("https://10.0.0.1:6443/", "10.0.0.1", "not the URL of an API server"),
            ("contexts:", "contexts: [", "not YAML"),
        ] {
            let (_folder, path) = written(&GOOD.replacen(from, to, 1));
            let error = find(path.to_str().unwrap(), "").unwrap_err();
            assert!(error.contains(told) && error.contains("kubeConfig "), "{error}");
        }
        assert!(find("/nowhere/config", "").unwrap_err().contains("on the member that leads"));
    }

    #[test]
    fn a_pod_knows_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.crt"), "x").unwrap();
        let variable = |name: &str| Some(if name.ends_with("HOST") { "fd00::1" } else { "443" }.to_owned());
        let access = in_cluster(folder.path(), &variable).unwrap();
        assert_eq!(access.server, "https://[fd00::1]:443");
        assert!(access.login.header().unwrap_err().contains("is the file there?"));
        assert!(in_cluster(folder.path(), &|_| None).unwrap_err().contains("is no pod of Kubernetes"));
    }
}

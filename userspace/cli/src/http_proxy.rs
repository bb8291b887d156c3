//! `create httpproxy`: an HTTPServer and its pipelines from rules on the command line.

use std::path::Path;

use base_text::quoted;
use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value, json};

use crate::arguments::HttpProxy;

/// The documents: pipelines first, the server last.
pub fn documents(proxy: &HttpProxy) -> Result<Vec<Value>, String> {
    let mut rules = proxy.rules.iter().map(|text| Rule::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let mut documents = Vec::new();
    for (n, rule) in rules.iter_mut().enumerate() {
        rule.pipeline = format!("{}-{n}", proxy.name);
        let servers: Vec<Value> = rule.endpoints.iter().map(|url| json!({"url": url})).collect();
        documents.push(json!({
            "name": rule.pipeline,
            "kind": "Pipeline",
            "flow": [{"filter": "proxy"}],
            "filters": [{
                "name": "proxy",
                "kind": "Proxy",
                "pools": [{"servers": servers, "loadBalance": {"policy": "roundRobin"}}],
            }],
        }));
    }
    // The first path that matches wins, so the more telling ones come first.
    rules.sort_by_key(|rule| (rule.prefix, std::cmp::Reverse(rule.path.len())));
    let mut hosts: Vec<&str> = Vec::new();
    for rule in &rules {
        if !hosts.contains(&rule.host.as_str()) {
            hosts.push(&rule.host);
        }
    }
    hosts.sort_by_key(|host| host.is_empty());
    let rules: Vec<Value> = hosts
        .iter()
        .map(|host| {
            let paths: Vec<Value> = rules.iter().filter(|rule| rule.host == *host).map(Rule::path).collect();
            if host.is_empty() { json!({"paths": paths}) } else { json!({"host": host, "paths": paths}) }
        })
        .collect();
    let mut server =
        json!({"name": proxy.name, "kind": "HTTPServer", "port": proxy.port, "https": proxy.tls, "rules": rules});
    if proxy.tls {
        tls(proxy, &mut server)?;
    }
    documents.push(server);
    Ok(documents)
}

fn tls(proxy: &HttpProxy, server: &mut Value) -> Result<(), String> {
    if proxy.cert_file.is_empty() || proxy.cert_file.len() != proxy.key_file.len() {
        return Err(format!(
            "--tls takes as many --cert-file as --key-file, and at least one; there are {} and {}",
            proxy.cert_file.len(),
            proxy.key_file.len()
        ));
    }
    let read = |file: &Path| std::fs::read(file).map_err(|e| format!("{}: cannot be read: {e}", file.display()));
    let (mut certs, mut keys) = (serde_json::Map::new(), serde_json::Map::new());
    for (n, (cert, key)) in proxy.cert_file.iter().zip(&proxy.key_file).enumerate() {
        certs.insert(format!("cert-{n}"), BASE64_STANDARD.encode(read(cert)?).into());
        keys.insert(format!("cert-{n}"), BASE64_STANDARD.encode(read(key)?).into());
    }
    server["certs"] = certs.into();
    server["keys"] = keys.into();
    if let Some(file) = &proxy.ca_cert_file {
        server["caCertBase64"] = BASE64_STANDARD.encode(read(file)?).into();
    }
    Ok(())
}

struct Rule {
    host: String,
    path: String,
    prefix: bool,
    endpoints: Vec<String>,
    pipeline: String,
}

impl Rule {
    fn parse(text: &str) -> Result<Rule, String> {
        let wrong = |why: &str| {
            format!(
                "--rule {text}: {why}; write HOST/PATH=ENDPOINT,ENDPOINT, e.g. example.com/api*=http://10.0.0.1:80",
                text = quoted(&text)
            )
        };
        let (place, endpoints) = text.split_once('=').ok_or_else(|| wrong("there is no ="))?;
        let (host, path) = place.find('/').map_or((place, ""), |slash| place.split_at(slash));
        let (path, prefix) = path.strip_suffix('*').map_or((path, false), |path| (path, true));
        let endpoints: Vec<String> = endpoints
            .split(',')
            .map(str::trim)
            .filter(|endpoint| !endpoint.is_empty())
            .map(|endpoint| if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") })
            .collect();
        if endpoints.is_empty() {
            return Err(wrong("there is no endpoint after ="));
        }
        Ok(Rule { host: host.to_owned(), path: path.to_owned(), prefix, endpoints, pipeline: String::new() })
    }

    fn path(&self) -> Value {
        match (self.path.as_str(), self.prefix) {
            ("", _) => json!({"backend": self.pipeline}),
            (path, true) => json!({"pathPrefix": path, "backend": self.pipeline}),
            (path, false) => json!({"path": path, "backend": self.pipeline}),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_become_paths() {
        let rule = Rule::parse("example.com/api*=127.0.0.1:1,http://b:2").unwrap();
        assert_eq!((rule.host.as_str(), rule.path.as_str(), rule.prefix), ("example.com", "/api", true));
        assert_eq!(rule.endpoints, ["http://127.0.0.1:1", "http://b:2"]);
        assert_eq!(Rule::parse("example.com=a:1").unwrap().path, "");
        assert!(Rule::parse("/a").is_err() && Rule::parse("/a=").is_err());
    }
}

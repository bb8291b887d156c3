//! Cloudflare, API v4.

use hyper::Method;
use serde_json::{Value, json};

use super::{Call, Doing, Http, JSON, Provider, TTL, Txt, bearer, encoded, header, id_of};
use crate::Fault;

pub(crate) struct Cloudflare {
    pub http: Http,
    pub token: String,
}

impl Cloudflare {
    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Fault> {
        let url = format!("{}{path}", self.http.at("https://api.cloudflare.com/client/v4"));
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let answer =
            self.http.json(Call { method, url, headers: vec![bearer(&self.token), header(JSON)], body }).await?;
        Ok(answer["result"].clone())
    }

    async fn zone(&self, zone: &str) -> Result<String, Fault> {
        let found = self.call(Method::GET, &format!("/zones?name={}", encoded(zone)), None).await?;
        id_of(&found[0]["id"]).ok_or_else(|| self.http.no_zone(zone))
    }
}

impl Provider for Cloudflare {
    fn put<'a>(&'a self, record: &'a Txt) -> Doing<'a, String> {
        Box::pin(async move {
            let zone = self.zone(&record.zone).await?;
            let body =
                json!({"type": "TXT", "name": record.name, "content": format!("\"{}\"", record.value), "ttl": TTL});
            let made = self.call(Method::POST, &format!("/zones/{zone}/dns_records"), Some(body)).await?;
            let id = id_of(&made["id"]).ok_or_else(|| self.http.unreadable(made.to_string().as_bytes()))?;
            Ok(format!("{zone}/{id}"))
        })
    }

    fn remove<'a>(&'a self, _: &'a Txt, id: &'a str) -> Doing<'a, ()> {
        Box::pin(async move {
            let (zone, id) = id.split_once('/').unwrap_or_default();
            self.call(Method::DELETE, &format!("/zones/{zone}/dns_records/{id}"), None).await.map(drop)
        })
    }
}

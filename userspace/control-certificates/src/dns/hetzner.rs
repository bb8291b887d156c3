//! Hetzner DNS, API v1.

use hyper::Method;
use serde_json::{Value, json};

use super::{Call, Doing, Http, JSON, Provider, TTL, Txt, encoded, header, id_of};
use crate::Fault;

pub(crate) struct Hetzner {
    pub http: Http,
    pub token: String,
}

impl Hetzner {
    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Fault> {
        let url = format!("{}{path}", self.http.at("https://dns.hetzner.com/api/v1"));
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let headers = vec![("auth-api-token", self.token.clone()), header(JSON)];
        self.http.json(Call { method, url, headers, body }).await
    }
}

impl Provider for Hetzner {
    fn put<'a>(&'a self, record: &'a Txt) -> Doing<'a, String> {
        Box::pin(async move {
            let zones = self.call(Method::GET, &format!("/zones?name={}", encoded(&record.zone)), None).await?;
            let zone = id_of(&zones["zones"][0]["id"]).ok_or_else(|| self.http.no_zone(&record.zone))?;
            let body = json!({
                "value": record.value, "ttl": TTL, "type": "TXT", "name": record.relative(), "zone_id": zone,
            });
            let made = self.call(Method::POST, "/records", Some(body)).await?;
            id_of(&made["record"]["id"]).ok_or_else(|| self.http.unreadable(made.to_string().as_bytes()))
        })
    }

    fn remove<'a>(&'a self, _: &'a Txt, id: &'a str) -> Doing<'a, ()> {
        Box::pin(async move { self.call(Method::DELETE, &format!("/records/{id}"), None).await.map(drop) })
    }
}

//! DigitalOcean, API v2.

use hyper::Method;
use serde_json::json;

use super::{Call, Doing, Http, JSON, Provider, TTL, Txt, bearer, encoded, header, id_of};

pub(crate) struct DigitalOcean {
    pub http: Http,
    pub token: String,
}

impl DigitalOcean {
    fn records(&self, zone: &str) -> String {
        format!("{}/v2/domains/{}/records", self.http.at("https://api.digitalocean.com"), encoded(zone))
    }
}

impl Provider for DigitalOcean {
    fn put<'a>(&'a self, record: &'a Txt) -> Doing<'a, String> {
        Box::pin(async move {
            let body = json!({"type": "TXT", "name": record.relative(), "data": record.value, "ttl": TTL});
            let call = Call {
                method: Method::POST,
                url: self.records(&record.zone),
                headers: vec![bearer(&self.token), header(JSON)],
                body: body.to_string().into_bytes(),
            };
            let made = self.http.json(call).await?;
            id_of(&made["domain_record"]["id"]).ok_or_else(|| self.http.unreadable(made.to_string().as_bytes()))
        })
    }

    fn remove<'a>(&'a self, record: &'a Txt, id: &'a str) -> Doing<'a, ()> {
        Box::pin(async move {
            let url = format!("{}/{id}", self.records(&record.zone));
            let headers = vec![bearer(&self.token)];
            self.http.json(Call { method: Method::DELETE, url, headers, body: Vec::new() }).await.map(drop)
        })
    }
}

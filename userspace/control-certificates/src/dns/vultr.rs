//! Vultr, API v2, whose texts of TXT records are in quotes.

use hyper::Method;
use serde_json::json;

use super::{Call, Doing, Http, JSON, Provider, TTL, Txt, bearer, encoded, header, id_of};

pub(crate) struct Vultr {
    pub http: Http,
    pub token: String,
}

impl Vultr {
    fn records(&self, zone: &str) -> String {
        format!("{}/v2/domains/{}/records", self.http.at("https://api.vultr.com"), encoded(zone))
    }
}

impl Provider for Vultr {
    fn put<'a>(&'a self, record: &'a Txt) -> Doing<'a, String> {
        Box::pin(async move {
            let data = format!("\"{}\"", record.value);
            let body = json!({"name": record.relative(), "type": "TXT", "data": data, "ttl": TTL});
            let call = Call {
                method: Method::POST,
                url: self.records(&record.zone),
                headers: vec![bearer(&self.token), header(JSON)],
                body: body.to_string().into_bytes(),
            };
            let made = self.http.json(call).await?;
            id_of(&made["record"]["id"]).ok_or_else(|| self.http.unreadable(made.to_string().as_bytes()))
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

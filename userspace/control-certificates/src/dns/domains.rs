//! DigitalOcean and Vultr, whose API v2 has the same records of domains under other words.

use hyper::Method;
use serde_json::{Value, json};

use super::{Call, Doing, Http, JSON, Provider, TTL, Txt, bearer, encoded, header, id_of};

/// What the two do not have in common.
pub(crate) struct Words {
    host: &'static str,
    /// A record as it is asked for, its fields in the order of the vendor's examples.
    asked: fn(&Txt) -> Value,
    /// What holds the record in an answer.
    made: &'static str,
}

pub(crate) const DIGITAL_OCEAN: Words = Words {
    host: "https://api.digitalocean.com",
    asked: |record| json!({"type": "TXT", "name": record.relative(), "data": record.value, "ttl": TTL}),
    made: "domain_record",
};

pub(crate) const VULTR: Words = Words {
    host: "https://api.vultr.com",
    // Texts of TXT records are in quotes.
    asked: |record| json!({"name": record.relative(), "type": "TXT", "data": format!("\"{}\"", record.value), "ttl": TTL}),
    made: "record",
};

pub(crate) struct Domains {
    pub words: Words,
    pub http: Http,
    pub token: String,
}

impl Domains {
    fn records(&self, zone: &str) -> String {
        format!("{}/v2/domains/{}/records", self.http.at(self.words.host), encoded(zone))
    }
}

impl Provider for Domains {
    fn put<'a>(&'a self, record: &'a Txt) -> Doing<'a, String> {
        Box::pin(async move {
            let call = Call {
                method: Method::POST,
                url: self.records(&record.zone),
                headers: vec![bearer(&self.token), header(JSON)],
                body: (self.words.asked)(record).to_string().into_bytes(),
            };
            let made = self.http.json(call).await?;
            id_of(&made[self.words.made]["id"]).ok_or_else(|| self.http.unreadable(made.to_string().as_bytes()))
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

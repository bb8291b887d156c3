//! Alibaba Cloud DNS: signed queries (signature version 1.0).

use std::time::SystemTime;

use aws_lc_rs::hmac::{HMAC_SHA1_FOR_LEGACY_USE_ONLY, Key, sign};
use base_model::DnsProviderSpec;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use serde_json::Value;

use super::{Call, Doing, Http, Provider, Txt, calendar, encoded, form, hex, id_of};
use crate::Fault;

pub(crate) struct AliDns {
    pub http: Http,
    pub spec: DnsProviderSpec,
}

impl AliDns {
    async fn call(&self, action: &str, fields: &[(&str, &str)]) -> Result<Value, Fault> {
        let mut drawn = [0; 16];
        aws_lc_rs::rand::fill(&mut drawn).map_err(|_| Fault::Passing("the machine has no random numbers".into()))?;
        let (nonce, time) = (hex(&drawn), time(SystemTime::now()));
        let query = signed(&self.spec, action, fields, &nonce, &time);
        let url = format!("{}/?{query}", self.http.at("https://alidns.aliyuncs.com"));
        self.http.json(Call { method: Method::GET, url, headers: Vec::new(), body: Vec::new() }).await
    }
}

fn time(at: SystemTime) -> String {
    let (year, month, day, hour, minute, second) = calendar(at);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The query, in the order of its names, and its signature.
pub(super) fn signed(spec: &DnsProviderSpec, action: &str, fields: &[(&str, &str)], nonce: &str, time: &str) -> String {
    let mut all = vec![
        ("AccessKeyId", spec.access_key_id.as_str()),
        ("Action", action),
        ("Format", "JSON"),
        ("SignatureMethod", "HMAC-SHA1"),
        ("SignatureNonce", nonce),
        ("SignatureVersion", "1.0"),
        ("Timestamp", time),
        ("Version", "2015-01-09"),
    ];
    all.extend_from_slice(fields);
    all.sort_unstable();
    let query = form(&all);
    let text = format!("GET&%2F&{}", encoded(&query));
    let key = Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, format!("{}&", spec.access_key_secret).as_bytes());
    format!("{query}&Signature={}", encoded(&STANDARD.encode(sign(&key, text.as_bytes()))))
}

impl Provider for AliDns {
    fn put<'a>(&'a self, record: &'a Txt) -> Doing<'a, String> {
        Box::pin(async move {
            // 600 seconds is the least that everybody may say.
            let fields = [
                ("DomainName", record.zone.as_str()),
                ("RR", record.relative()),
                ("Type", "TXT"),
                ("Value", record.value.as_str()),
                ("TTL", "600"),
            ];
            let made = self.call("AddDomainRecord", &fields).await?;
            id_of(&made["RecordId"]).ok_or_else(|| self.http.unreadable(made.to_string().as_bytes()))
        })
    }

    fn remove<'a>(&'a self, _: &'a Txt, id: &'a str) -> Doing<'a, ()> {
        Box::pin(async move { self.call("DeleteDomainRecord", &[("RecordId", id)]).await.map(drop) })
    }
}

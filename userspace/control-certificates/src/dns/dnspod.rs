//! DNSPod of China, whose answers are always 200, with a code in them.

use hyper::Method;
use serde_json::Value;

use super::{Call, Doing, FORM, Http, Provider, Txt, form, header, id_of};
use crate::Fault;

pub(crate) struct DnsPod {
    pub http: Http,
    /// `ID,TOKEN`.
    pub token: String,
}

impl DnsPod {
    async fn call(&self, action: &str, fields: &[(&str, &str)]) -> Result<Value, Fault> {
        let url = format!("{}/{action}", self.http.at("https://dnsapi.cn"));
        let common = [("login_token", self.token.as_str()), ("format", "json")];
        let body = form(&[&common, fields].concat()).into_bytes();
        let answer = self.http.json(Call { method: Method::POST, url, headers: vec![header(FORM)], body }).await?;
        match answer["status"]["code"].as_str() {
            Some("1") => Ok(answer),
            _ => {
                let why = answer["status"]["message"].as_str().unwrap_or("it does not say why");
                Err(Fault::Refused(format!("dnspod refuses {action}: {why}")))
            }
        }
    }
}

impl Provider for DnsPod {
    fn put<'a>(&'a self, record: &'a Txt) -> Doing<'a, String> {
        Box::pin(async move {
            // The line that all clients are on.
            let fields = [
                ("domain", record.zone.as_str()),
                ("sub_domain", record.relative()),
                ("record_type", "TXT"),
                ("record_line", "默认"),
                ("value", record.value.as_str()),
            ];
            let made = self.call("Record.Create", &fields).await?;
            id_of(&made["record"]["id"]).ok_or_else(|| self.http.unreadable(made.to_string().as_bytes()))
        })
    }

    fn remove<'a>(&'a self, record: &'a Txt, id: &'a str) -> Doing<'a, ()> {
        Box::pin(async move {
            let fields = [("domain", record.zone.as_str()), ("record_id", id)];
            self.call("Record.Remove", &fields).await.map(drop)
        })
    }
}

//! Azure DNS: a token of the application, then the record set, which is written as a whole.

use base_model::DnsProviderSpec;
use hyper::Method;
use serde_json::{Value, json};

use super::{Call, Doing, FORM, Http, JSON, Provider, TTL, Txt, bearer, encoded, form, header};
use crate::Fault;

pub(crate) struct Azure {
    pub http: Http,
    pub spec: DnsProviderSpec,
}

impl Azure {
    async fn token(&self) -> Result<String, Fault> {
        let at = self.http.at("https://login.microsoftonline.com");
        let fields = [
            ("grant_type", "client_credentials"),
            ("client_id", self.spec.client_id.as_str()),
            ("client_secret", self.spec.client_secret.as_str()),
            ("scope", "https://management.azure.com/.default"),
        ];
        let call = Call {
            method: Method::POST,
            url: format!("{at}/{}/oauth2/v2.0/token", encoded(&self.spec.tenant_id)),
            headers: vec![header(FORM)],
            body: form(&fields).into_bytes(),
        };
        let answer = self.http.json(call).await?;
        let token = answer["access_token"].as_str().map(str::to_owned);
        token.ok_or_else(|| self.http.unreadable(b"a token was asked for"))
    }

    fn url(&self, record: &Txt) -> String {
        let at = self.http.at("https://management.azure.com");
        let (subscription, group) = (encoded(&self.spec.subscription_id), encoded(&self.spec.resource_group_name));
        let (zone, name) = (encoded(&record.zone), encoded(record.relative()));
        format!(
            "{at}/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Network/dnsZones/{zone}/TXT/{name}\
             ?api-version=2018-05-01"
        )
    }

    /// Texts of the set; empty where there is none.
    async fn texts(&self, token: &str, record: &Txt) -> Result<Vec<Value>, Fault> {
        let call = Call { method: Method::GET, url: self.url(record), headers: vec![bearer(token)], body: Vec::new() };
        let (status, body) = self.http.ask(call).await?;
        if status == hyper::StatusCode::NOT_FOUND {
            return Ok(Vec::new());
        }
        if !status.is_success() {
            return Err(self.http.refused(status, &body));
        }
        let set: Value = serde_json::from_slice(&body).map_err(|_| self.http.unreadable(&body))?;
        Ok(set["properties"]["TXTRecords"].as_array().cloned().unwrap_or_default())
    }

    async fn write(&self, token: &str, record: &Txt, texts: Vec<Value>) -> Result<(), Fault> {
        let (method, body) = match texts.is_empty() {
            true => (Method::DELETE, Vec::new()),
            false => {
                let set = json!({"properties": {"TTL": TTL, "TXTRecords": texts}});
                (Method::PUT, set.to_string().into_bytes())
            }
        };
        let headers = vec![bearer(token), header(JSON)];
        self.http.json(Call { method, url: self.url(record), headers, body }).await.map(drop)
    }
}

impl Provider for Azure {
    fn put<'a>(&'a self, record: &'a Txt) -> Doing<'a, String> {
        Box::pin(async move {
            let token = self.token().await?;
            let mut texts = self.texts(&token, record).await?;
            let ours = json!({"value": [record.value]});
            if !texts.contains(&ours) {
                texts.push(ours);
            }
            self.write(&token, record, texts).await.map(|()| String::new())
        })
    }

    fn remove<'a>(&'a self, record: &'a Txt, _: &'a str) -> Doing<'a, ()> {
        Box::pin(async move {
            let token = self.token().await?;
            let mut texts = self.texts(&token, record).await?;
            texts.retain(|text| text["value"] != json!([record.value]));
            self.write(&token, record, texts).await
        })
    }
}

//! acme-dns: a server that serves nothing but such records, to which `_acme-challenge` of a name is delegated by CNAME.

use base_model::DnsProviderSpec;
use hyper::Method;
use serde_json::json;

use super::{Call, Doing, Http, JSON, Provider, Txt, header};

pub(crate) struct AcmeDns {
    pub http: Http,
    pub spec: DnsProviderSpec,
}

impl Provider for AcmeDns {
    fn put<'a>(&'a self, record: &'a Txt) -> Doing<'a, String> {
        Box::pin(async move {
            let call = Call {
                method: Method::POST,
                url: format!("{}/update", self.spec.server.trim_end_matches('/')),
                headers: vec![
                    ("x-api-user", self.spec.username.clone()),
                    ("x-api-key", self.spec.password.clone()),
                    header(JSON),
                ],
                body: json!({"subdomain": self.spec.subdomain, "txt": record.value}).to_string().into_bytes(),
            };
            let answer = self.http.json(call).await?;
            if answer["txt"] != json!(record.value) {
                return Err(self.http.unreadable(answer.to_string().as_bytes()));
            }
            Ok(String::new())
        })
    }

    /// It keeps the last two, and nobody else reads them.
    fn remove<'a>(&'a self, _: &'a Txt, _: &'a str) -> Doing<'a, ()> {
        Box::pin(async { Ok(()) })
    }
}

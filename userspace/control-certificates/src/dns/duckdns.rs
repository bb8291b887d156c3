//! Duck DNS, which has one TXT record for all names below one of its own.

use hyper::Method;

use super::{Call, Doing, Http, Provider, Txt, form};
use crate::Fault;

pub(crate) struct DuckDns {
    pub http: Http,
    pub token: String,
}

impl DuckDns {
    async fn update(&self, record: &Txt, more: &[(&str, &str)]) -> Result<(), Fault> {
        let name = record.name.strip_suffix(".duckdns.org").unwrap_or(&record.name);
        let own = name.rsplit('.').next().unwrap_or(name);
        let common = [("domains", own), ("token", self.token.as_str())];
        let fields = form(&[&common, more].concat());
        let url = format!("{}/update?{fields}", self.http.at("https://www.duckdns.org"));
        let call = Call { method: Method::GET, url, headers: Vec::new(), body: Vec::new() };
        let (status, body) = self.http.ask(call).await?;
        match &body[..] {
            [b'O', b'K', ..] => Ok(()),
            [b'K', b'O', ..] => {
                let why = format!("duckdns refuses it: is {own} yours, and apiToken of your account?");
                Err(Fault::Refused(why))
            }
            body => Err(self.http.refused(status, body)),
        }
    }
}

impl Provider for DuckDns {
    fn put<'a>(&'a self, record: &'a Txt) -> Doing<'a, String> {
        Box::pin(async move { self.update(record, &[("txt", &record.value)]).await.map(|()| String::new()) })
    }

    fn remove<'a>(&'a self, record: &'a Txt, _: &'a str) -> Doing<'a, ()> {
        Box::pin(async move { self.update(record, &[("txt", &record.value), ("clear", "true")]).await })
    }
}

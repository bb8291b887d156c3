//! Route 53 of Amazon: XML, signed (signature version 4). A record set is written as a whole.

use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use base_model::DnsProviderSpec;
use hyper::Method;

use super::{Call, Doing, Http, Provider, TTL, Txt, calendar, encoded, hex};
use crate::Fault;

pub(crate) struct Route53 {
    pub http: Http,
    pub spec: DnsProviderSpec,
}

/// It has one region, and one service.
const REGION: &str = "us-east-1";
const SERVICE: &str = "route53";
const HOST: &str = "route53.amazonaws.com";
const VERSION: &str = "2013-04-01";

impl Route53 {
    /// `query` in the order of its names, encoded.
    async fn call(&self, method: Method, path: &str, query: &str, body: String) -> Result<String, Fault> {
        let at = self.http.at("https://route53.amazonaws.com");
        let host = at.split_once("://").map_or(HOST, |(_, host)| host).to_owned();
        let headers = signed(&self.spec, method.as_str(), &host, path, query, &body, SystemTime::now());
        let url = if query.is_empty() { format!("{at}{path}") } else { format!("{at}{path}?{query}") };
        let (status, answer) = self.http.ask(Call { method, url, headers, body: body.into_bytes() }).await?;
        if !status.is_success() {
            return Err(self.http.refused(status, &answer));
        }
        String::from_utf8(answer.to_vec()).map_err(|error| self.http.unreadable(error.as_bytes()))
    }

    async fn zone(&self, zone: &str) -> Result<String, Fault> {
        let query = format!("dnsname={}&maxitems=100", encoded(&format!("{zone}.")));
        let found = self.call(Method::GET, &format!("/{VERSION}/hostedzonesbyname"), &query, String::new()).await?;
        // Of the same name there may be private ones, which nobody outside sees.
        let is_it = |one: &&str| {
            within(one, "Name").is_some_and(|name| name == format!("{zone}."))
                && within(one, "PrivateZone") != Some("true")
        };
        let id = found.split("<HostedZone>").skip(1).find(is_it).and_then(|one| within(one, "Id"));
        let id = id.ok_or_else(|| self.http.no_zone(zone))?;
        Ok(id.trim_start_matches("/hostedzone/").to_owned())
    }

    /// Texts of the set, in quotes; empty where there is none.
    async fn texts(&self, zone: &str, record: &Txt) -> Result<Vec<String>, Fault> {
        let query = format!("maxitems=1&name={}&type=TXT", encoded(&format!("{}.", record.name)));
        let path = format!("/{VERSION}/hostedzone/{zone}/rrset");
        let found = self.call(Method::GET, &path, &query, String::new()).await?;
        let set = within(&found, "ResourceRecordSet").unwrap_or_default();
        let is_it = within(set, "Name").is_some_and(|name| name == format!("{}.", record.name))
            && within(set, "Type") == Some("TXT");
        let values = set.split("<ResourceRecord>").skip(1).filter(|_| is_it);
        Ok(values.filter_map(|one| within(one, "Value").map(|text| text.replace("&quot;", "\""))).collect())
    }

    async fn change(&self, zone: &str, record: &Txt, action: &str, texts: &[String]) -> Result<(), Fault> {
        let values: String =
            texts.iter().map(|text| format!("<ResourceRecord><Value>{text}</Value></ResourceRecord>")).collect();
        let body = format!(
            "<ChangeResourceRecordSetsRequest xmlns=\"https://route53.amazonaws.com/doc/{VERSION}/\"><ChangeBatch><Changes><Change>\
             <Action>{action}</Action><ResourceRecordSet><Name>{}.</Name><Type>TXT</Type><TTL>{TTL}</TTL><ResourceRecords>{values}\
             </ResourceRecords></ResourceRecordSet></Change></Changes></ChangeBatch></ChangeResourceRecordSetsRequest>",
            record.name
        );
        let path = format!("/{VERSION}/hostedzone/{zone}/rrset/");
        self.call(Method::POST, &path, "", body).await.map(drop)
    }
}

/// What stands between the first pair of these tags.
fn within<'t>(text: &'t str, tag: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(&format!("<{tag}>"))?;
    rest.split_once(&format!("</{tag}>")).map(|(inside, _)| inside)
}

/// The headers of a request: when, and the signature.
pub(super) fn signed(
    spec: &DnsProviderSpec,
    method: &str,
    host: &str,
    path: &str,
    query: &str,
    body: &str,
    at: SystemTime,
) -> Vec<(&'static str, String)> {
    let (year, month, day, hour, minute, second) = calendar(at);
    let date = format!("{year:04}{month:02}{day:02}");
    let time = format!("{date}T{hour:02}{minute:02}{second:02}Z");
    let sha256 = |text: &str| hex(digest(&SHA256, text.as_bytes()).as_ref());
    let request =
        format!("{method}\n{path}\n{query}\nhost:{host}\nx-amz-date:{time}\n\nhost;x-amz-date\n{}", sha256(body));
    let scope = format!("{date}/{REGION}/{SERVICE}/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", sha256(&request));
    let mut key = format!("AWS4{}", spec.secret_access_key).into_bytes();
    for part in [date.as_str(), REGION, SERVICE, "aws4_request", &text] {
        key = sign(&Key::new(HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
    }
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders=host;x-amz-date, Signature={}",
        spec.access_key_id,
        hex(&key)
    );
    vec![("x-amz-date", time), ("authorization", authorization)]
}

impl Provider for Route53 {
    fn put<'a>(&'a self, record: &'a Txt) -> Doing<'a, String> {
        Box::pin(async move {
            let zone = self.zone(&record.zone).await?;
            let mut texts = self.texts(&zone, record).await?;
            // Twice the same is refused: it is there already where an earlier try was not heard to end.
            let ours = format!("\"{}\"", record.value);
            if !texts.contains(&ours) {
                texts.push(ours);
            }
            self.change(&zone, record, "UPSERT", &texts).await?;
            Ok(zone)
        })
    }

    fn remove<'a>(&'a self, record: &'a Txt, zone: &'a str) -> Doing<'a, ()> {
        Box::pin(async move {
            let (ours, texts) = (format!("\"{}\"", record.value), self.texts(zone, record).await?);
            let rest: Vec<String> = texts.iter().filter(|text| **text != ours).cloned().collect();
            match (rest.is_empty(), texts.is_empty()) {
                (_, true) => Ok(()),
                // Only the whole set can be deleted, as it is.
                (true, false) => self.change(zone, record, "DELETE", &texts).await,
                (false, false) => self.change(zone, record, "UPSERT", &rest).await,
            }
        })
    }
}

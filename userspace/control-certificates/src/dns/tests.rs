//! What each provider is asked, against what its documentation and its clients record.

use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Answers one request after the other, and remembers them: first line, the fields that were asked for, and the body.
struct Recorded {
    address: String,
    seen: Arc<Mutex<Vec<String>>>,
}

/// Fields of requests that say who asks, or what.
const FIELDS: [&str; 6] = ["authorization", "auth-api-token", "x-api-user", "x-api-key", "content-type", "x-amz-date"];

impl Recorded {
    async fn answers(answers: &[(u16, &str)]) -> Recorded {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (told, mut answers) =
            (seen.clone(), answers.iter().map(|(s, b)| (*s, (*b).to_owned())).collect::<Vec<_>>());
        answers.reverse();
        let answers = Arc::new(Mutex::new(answers));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (told, answers) = (told.clone(), answers.clone());
                tokio::spawn(async move {
                    let mut input = Vec::new();
                    loop {
                        let mut piece = [0; 4096];
                        let Ok(count @ 1..) = stream.read(&mut piece).await else { return };
                        input.extend_from_slice(&piece[..count]);
                        let text = String::from_utf8_lossy(&input).into_owned();
                        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                        let field = |name: &str| {
                            let line = head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}:")));
                            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
                        };
                        if body.len() < field("content-length").and_then(|l| l.parse().ok()).unwrap_or(0) {
                            continue;
                        }
                        let mut line = head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
                        for name in FIELDS {
                            if let Some(value) = field(name) {
                                line.push_str(&format!(" [{name}: {value}]"));
                            }
                        }
                        if !body.is_empty() {
                            line.push_str(&format!(" {body}"));
                        }
                        told.lock().unwrap().push(line);
                        let (status, body) = answers.lock().unwrap().pop().unwrap_or((500, "no more".to_owned()));
                        let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n", body.len());
                        if stream.write_all((head + &body).as_bytes()).await.is_err() {
                            return;
                        }
                        input.clear();
                    }
                });
            }
        });
        Recorded { address, seen }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn spec(name: &str, fields: serde_json::Value) -> DnsProviderSpec {
    let mut spec = json!({"name": name, "zone": "shop.test"});
    spec.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    serde_json::from_value(spec).unwrap()
}

/// Puts a record and takes it out again; the requests that were seen.
async fn rounds(spec: &DnsProviderSpec, recorded: &Recorded) -> Vec<String> {
    let spec = DnsProviderSpec { endpoint: recorded.address.clone(), ..spec.clone() };
    let record = Txt::new("*.www.shop.test", &spec, "VAL");
    let provider = provider(&spec).ok().unwrap();
    let id = provider.put(&record).await.unwrap();
    provider.remove(&record, &id).await.unwrap();
    recorded.seen()
}

#[tokio::test]
async fn cloudflare_is_asked_as_recorded() {
    let recorded = Recorded::answers(&[
        (200, r#"{"result":[{"id":"023e105f","name":"shop.test"}],"success":true,"errors":[]}"#),
        (200, r#"{"success":true,"errors":[],"messages":[],"result":{"id":"372e67954","type":"TXT"}}"#),
        (200, r#"{"result":{"id":"372e67954"}}"#),
    ])
    .await;
    let seen = rounds(&spec("cloudflare", json!({"apiToken": "tok"})), &recorded).await;
    let login = "[authorization: Bearer tok] [content-type: application/json]";
    assert_eq!(
        seen,
        [
            format!("GET /zones?name=shop.test {login}"),
            format!(
                r#"POST /zones/023e105f/dns_records {login} {{"type":"TXT","name":"_acme-challenge.www.shop.test","content":"\"VAL\"","ttl":60}}"#
            ),
            format!("DELETE /zones/023e105f/dns_records/372e67954 {login}"),
        ]
    );
}

#[tokio::test]
async fn digitalocean_vultr_and_hetzner_are_asked_as_recorded() {
    let recorded = Recorded::answers(&[
        (201, r#"{"domain_record":{"id":28448433,"type":"TXT","name":"x","data":"VAL","ttl":60}}"#),
        (204, ""),
    ])
    .await;
    assert_eq!(
        rounds(&spec("digitalocean", json!({"apiToken": "tok"})), &recorded).await,
        [
            r#"POST /v2/domains/shop.test/records [authorization: Bearer tok] [content-type: application/json] {"type":"TXT","name":"_acme-challenge.www","data":"VAL","ttl":60}"#,
            "DELETE /v2/domains/shop.test/records/28448433 [authorization: Bearer tok]",
        ]
    );
    let recorded = Recorded::answers(&[(201, r#"{"record":{"id":"cb676a46","type":"TXT"}}"#), (204, "")]).await;
    assert_eq!(
        rounds(&spec("vultr", json!({"apiToken": "tok"})), &recorded).await,
        [
            r#"POST /v2/domains/shop.test/records [authorization: Bearer tok] [content-type: application/json] {"name":"_acme-challenge.www","type":"TXT","data":"\"VAL\"","ttl":60}"#,
            "DELETE /v2/domains/shop.test/records/cb676a46 [authorization: Bearer tok]",
        ]
    );
    let recorded = Recorded::answers(&[
        (200, r#"{"zones":[{"id":"zo1","name":"shop.test"}]}"#),
        (200, r#"{"record":{"id":"re1","zone_id":"zo1"}}"#),
        (200, "{}"),
    ])
    .await;
    let login = "[auth-api-token: tok] [content-type: application/json]";
    assert_eq!(
        rounds(&spec("hetzner", json!({"authApiToken": "tok"})), &recorded).await,
        [
            format!("GET /zones?name=shop.test {login}"),
            format!(
                r#"POST /records {login} {{"value":"VAL","ttl":60,"type":"TXT","name":"_acme-challenge.www","zone_id":"zo1"}}"#
            ),
            format!("DELETE /records/re1 {login}"),
        ]
    );
}

#[tokio::test]
async fn dnspod_duckdns_and_acmedns_are_asked_as_recorded() {
    let recorded = Recorded::answers(&[
        (
            200,
            r#"{"status":{"code":"1","message":"Action completed successful"},"record":{"id":"16894439","name":"x"}}"#,
        ),
        (200, r#"{"status":{"code":"1","message":"Action completed successful"}}"#),
    ])
    .await;
    let form = "[content-type: application/x-www-form-urlencoded] login_token=1%2Ctok&format=json&domain=shop.test";
    assert_eq!(
        rounds(&spec("dnspod", json!({"apiToken": "1,tok"})), &recorded).await,
        [
            format!(
                "POST /Record.Create {form}&sub_domain=_acme-challenge.www&record_type=TXT&record_line=%E9%BB%98%E8%AE%A4&value=VAL"
            ),
            format!("POST /Record.Remove {form}&record_id=16894439"),
        ]
    );
    let recorded = Recorded::answers(&[(200, "OK"), (200, "OK")]).await;
    let duck = spec("duckdns", json!({"apiToken": "tok", "endpoint": recorded.address}));
    let record = Txt::new("a.mine.duckdns.org", &duck, "VAL");
    let duck = provider(&duck).ok().unwrap();
    duck.put(&record).await.unwrap();
    duck.remove(&record, "").await.unwrap();
    assert_eq!(
        recorded.seen(),
        ["GET /update?domains=mine&token=tok&txt=VAL", "GET /update?domains=mine&token=tok&txt=VAL&clear=true",]
    );
    let recorded = Recorded::answers(&[(200, r#"{"txt": "VAL"}"#)]).await;
    let fields =
        json!({"server": format!("{}/", recorded.address), "username": "u", "password": "p", "subdomain": "d420"});
    assert_eq!(
        rounds(&spec("acmedns", fields), &recorded).await,
        [
            r#"POST /update [x-api-user: u] [x-api-key: p] [content-type: application/json] {"subdomain":"d420","txt":"VAL"}"#
        ]
    );
}

#[tokio::test]
async fn azure_keeps_what_others_have_put_there() {
    let recorded = Recorded::answers(&[
        (200, r#"{"access_token":"at","expires_in":3599,"token_type":"Bearer"}"#),
        (404, r#"{"error":{"code":"NotFound"}}"#),
        (201, "{}"),
        (200, r#"{"access_token":"at"}"#),
        (200, r#"{"properties":{"TTL":60,"TXTRecords":[{"value":["other"]},{"value":["VAL"]}]}}"#),
        (200, "{}"),
    ])
    .await;
    let fields = json!({"tenantId": "te", "clientId": "cl", "clientSecret": "s", "subscriptionId": "su", "resourceGroupName": "rg"});
    let seen = rounds(&spec("azure", fields), &recorded).await;
    let token = "POST /te/oauth2/v2.0/token [content-type: application/x-www-form-urlencoded] grant_type=client_credentials&client_id=cl\
                 &client_secret=s&scope=https%3A%2F%2Fmanagement.azure.com%2F.default";
    let set = "/subscriptions/su/resourceGroups/rg/providers/Microsoft.Network/dnsZones/shop.test/TXT/_acme-challenge.www\
               ?api-version=2018-05-01 [authorization: Bearer at]";
    assert_eq!(
        seen,
        [
            token.to_owned(),
            format!("GET {set}"),
            format!(
                r#"PUT {set} [content-type: application/json] {{"properties":{{"TTL":60,"TXTRecords":[{{"value":["VAL"]}}]}}}}"#
            ),
            token.to_owned(),
            format!("GET {set}"),
            format!(
                r#"PUT {set} [content-type: application/json] {{"properties":{{"TTL":60,"TXTRecords":[{{"value":["other"]}}]}}}}"#
            ),
        ]
    );
}

#[tokio::test]
async fn route53_keeps_what_others_have_put_there() {
    let zone = |id: &str, private: bool| {
        format!(
            "<HostedZone><Id>/hostedzone/{id}</Id><Name>shop.test.</Name><Config><PrivateZone>{private}</PrivateZone></Config></HostedZone>"
        )
    };
    // One of the same name is for a network of their own.
    let zones = format!(
        "<ListHostedZonesByNameResponse><HostedZones>{}{}</HostedZones></ListHostedZonesByNameResponse>",
        zone("Z0", true),
        zone("Z1", false)
    );
    let zones = zones.as_str();
    let set = |texts: &str| {
        format!(
            "<ListResourceRecordSetsResponse><ResourceRecordSets><ResourceRecordSet><Name>_acme-challenge.www.shop.test.</Name>\
             <Type>TXT</Type><TTL>60</TTL><ResourceRecords>{texts}</ResourceRecords></ResourceRecordSet></ResourceRecordSets>\
             </ListResourceRecordSetsResponse>"
        )
    };
    let one = |text: &str| format!("<ResourceRecord><Value>&quot;{text}&quot;</Value></ResourceRecord>");
    let (others, both) = (set(&one("other")), set(&(one("other") + &one("VAL"))));
    let recorded = Recorded::answers(&[(200, zones), (200, &others), (200, "<a/>"), (200, &both), (200, "<a/>")]).await;
    let seen = rounds(&spec("route53", json!({"accessKeyId": "AK", "secretAccessKey": "s"})), &recorded).await;
    let begins = [
        "GET /2013-04-01/hostedzonesbyname?dnsname=shop.test.&maxitems=100 [authorization: AWS4-HMAC-SHA256 Credential=AK/",
        "GET /2013-04-01/hostedzone/Z1/rrset?maxitems=1&name=_acme-challenge.www.shop.test.&type=TXT [authorization: ",
        "POST /2013-04-01/hostedzone/Z1/rrset/ [authorization: ",
        "GET /2013-04-01/hostedzone/Z1/rrset?maxitems=1&name=_acme-challenge.www.shop.test.&type=TXT [authorization: ",
        "POST /2013-04-01/hostedzone/Z1/rrset/ [authorization: ",
    ];
    for (line, begin) in seen.iter().zip(begins) {
        assert!(line.starts_with(begin) && line.contains("[x-amz-date: 2"), "{line}");
    }
    let change = |values: &str| {
        format!(
            "<Change><Action>UPSERT</Action><ResourceRecordSet><Name>_acme-challenge.www.shop.test.</Name><Type>TXT</Type><TTL>60</TTL>\
             <ResourceRecords>{values}</ResourceRecords></ResourceRecordSet></Change>"
        )
    };
    let plain = |text: &str| format!("<ResourceRecord><Value>\"{text}\"</Value></ResourceRecord>");
    assert!(seen[2].contains(&change(&(plain("other") + &plain("VAL")))), "{}", seen[2]);
    assert!(seen[4].contains(&change(&plain("other"))), "{}", seen[4]);
    // An earlier try has put it there, and nobody heard of that.
    let recorded = Recorded::answers(&[(200, zones), (200, &both), (200, "<a/>"), (200, &both), (200, "<a/>")]).await;
    let seen = rounds(&spec("route53", json!({"accessKeyId": "AK", "secretAccessKey": "s"})), &recorded).await;
    assert!(seen[2].contains(&change(&(plain("other") + &plain("VAL")))), "once: {}", seen[2]);
}

/// With the keys and times of Amazon's and Alibaba's documentation; the signatures are another program's.
#[test]
fn signatures_are_made_as_documented() {
    let amazon = spec(
        "route53",
        json!({"accessKeyId": "AKIDEXAMPLE", "secretAccessKey": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}),
    );
    let at = UNIX_EPOCH + Duration::from_secs(1_440_938_160);
    let headers = route53::signed(&amazon, "GET", "route53.amazonaws.com", "/", "", "", at);
    assert_eq!(headers[0], ("x-amz-date", "20150830T123600Z".to_owned()));
    assert_eq!(
        headers[1].1,
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/route53/aws4_request, SignedHeaders=host;x-amz-date, \
         Signature=fd45acf2b6d3539b4e280a9ac1b3cbe3c1eca90112e3c9aed82088bf71cdaa31"
    );
    let again = route53::signed(&amazon, "GET", "route53.amazonaws.com", "/", "", "", at);
    let other = route53::signed(&amazon, "GET", "route53.amazonaws.com", "/", "a=b", "", at);
    assert!(headers == again && headers != other);

    let ali = spec("alidns", json!({"accessKeyId": "testid", "accessKeySecret": "testsecret"}));
    let query = alidns::signed(&ali, "AddDomainRecord", &[("RR", "a b*~")], "n", "2016-03-24T16:41:54Z");
    assert_eq!(
        query,
        "AccessKeyId=testid&Action=AddDomainRecord&Format=JSON&RR=a%20b%2A~&SignatureMethod=HMAC-SHA1&SignatureNonce=n&\
         SignatureVersion=1.0&Timestamp=2016-03-24T16%3A41%3A54Z&Version=2015-01-09&Signature=xEMoQIr%2FX07iO0ElE5pG5sP2PgM%3D"
    );
}

#[tokio::test]
async fn what_a_provider_refuses_is_told() {
    for (name, fields, status, body, told) in [
        ("cloudflare", json!({"apiToken": "t"}), 403, r#"{"errors":[{"code":9109}]}"#, "look at the credentials"),
        ("cloudflare", json!({"apiToken": "t"}), 200, r#"{"result":[]}"#, "no zone"),
        ("dnspod", json!({"apiToken": "t"}), 200, r#"{"status":{"code":"-1","message":"Login fail"}}"#, "Login fail"),
        ("duckdns", json!({"apiToken": "t"}), 200, "KO", "refuses it"),
        ("vultr", json!({"apiToken": "t"}), 500, "<html>", "answers 500"),
        ("hetzner", json!({"authApiToken": "t"}), 200, "<html>", "does not usually"),
    ] {
        let recorded = Recorded::answers(&[(status, body)]).await;
        let mut fields = fields;
        fields["endpoint"] = json!(recorded.address);
        let spec = spec(name, fields);
        let record = Txt::new("a.shop.test", &spec, "VAL");
        let fault = provider(&spec).ok().unwrap().put(&record).await.unwrap_err();
        assert!(fault.to_string().contains(told), "{name}: {fault}");
        assert_eq!(matches!(fault, Fault::Passing(_)), body.contains("html"), "{name}");
    }
}

/// A DNS server that answers each question with `answer`, which begins behind its id, and remembers what it was asked.
async fn dns_server(answer: Vec<u8>) -> (String, Arc<Mutex<Vec<Vec<u8>>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, asked) = (listener.local_addr().unwrap().to_string(), Arc::new(Mutex::new(Vec::new())));
    let seen = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let length = stream.read_u16().await.unwrap();
            let mut message = vec![0; usize::from(length)];
            stream.read_exact(&mut message).await.unwrap();
            let answer = [&message[..2], &answer].concat();
            seen.lock().unwrap().push(message);
            stream.write_u16(answer.len() as u16).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
    (address, asked)
}

fn has(message: &[u8], part: &[u8]) -> bool {
    message.windows(part.len()).any(|window| window == part)
}

#[tokio::test]
async fn updates_are_signed_and_records_are_looked_for() {
    let done = [&[0xA8, 0][..], &[0; 8]].concat();
    let (server, asked) = dns_server(done.clone()).await;
    let key =
        json!({"server": server, "tsigKey": "key.test", "tsigSecret": "c2VjcmV0", "tsigAlgorithm": "hmac-sha512"});
    let signed = spec("rfc2136", key);
    let record = Txt::new("a.shop.test", &signed, "VAL");
    let why = provider(&signed).ok().unwrap().put(&record).await.unwrap_err();
    assert!(why.to_string().contains("has not signed its answer"), "{why}");
    let message = asked.lock().unwrap().pop().unwrap();
    assert_eq!(message[2..12], [0x28, 0, 0, 1, 0, 0, 0, 1, 0, 1], "an update of one record, with one more behind it");
    assert!(has(&message, b"\x04shop\x04test\0\0\x06\0\x01"), "of this zone");
    let added = b"\x0f_acme-challenge\x01a\x04shop\x04test\0\0\x10\0\x01\0\0\0\x3c\0\x04\x03VAL";
    assert!(has(&message, added));
    // RFC 8945 section 4.3: the message without the signature's record, then what is said in that.
    let algorithm = b"\x0bhmac-sha512\0";
    let begins = message.windows(10).position(|window| window == b"\x03key\x04test\0").unwrap();
    let data = begins + 10 + 10;
    let (time, mac) = (&message[data + 13..data + 19], &message[data + 23..data + 23 + 64]);
    assert_eq!(&message[data..data + 13], algorithm);
    let mut plain = message[..begins].to_vec();
    plain[11] = 0;
    let variables = [&b"\x03key\x04test\0\0\xff\0\0\0\0"[..], algorithm, time, &[1, 44, 0, 0, 0, 0]].concat();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA512, b"secret");
    assert!(aws_lc_rs::hmac::verify(&key, &[plain, variables].concat(), mac).is_ok());

    let plain = spec("rfc2136", json!({"server": server}));
    provider(&plain).ok().unwrap().remove(&record, "").await.unwrap();
    let message = asked.lock().unwrap().pop().unwrap();
    let removed = b"\x01a\x04shop\x04test\0\0\x10\0\xfe\0\0\0\0\0\x04\x03VAL";
    assert!(has(&message, removed) && message[11] == 0);
    let (refuses, _) = dns_server([&[0xA8, 5][..], &[0; 8]].concat()).await;
    let refused = spec("rfc2136", json!({"server": refuses}));
    let why = provider(&refused).ok().unwrap().put(&record).await.unwrap_err().to_string();
    assert!(why.contains("REFUSED"), "{why}");

    // One that has the record, asked where the document says and over what it says.
    let mut answer = vec![0x81, 0x80, 0, 0, 0, 1, 0, 0, 0, 0];
    answer.extend(b"\x01a\0\0\x10\0\x01\0\0\0\x3c\0\x04\x03VAL");
    let (server, asked) = dns_server(answer).await;
    let looked =
        spec("cloudflare", json!({"apiToken": "t", "nsAddress": server, "nsNetwork": "tcp", "awsProfile": "unused"}));
    seen(&record, &looked).await.unwrap();
    assert!(has(&asked.lock().unwrap()[0], b"\x0f_acme-challenge\x01a\x04shop\x04test\0\0\x10\0\x01"));
}

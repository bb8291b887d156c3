//! `kind: AutoCertManager`: certificates from an authority that speaks ACME, issued and renewed by the cluster.
//!
//! ```yaml
//! kind: AutoCertManager
//! name: certificates
//! email: ops@shop.test
//! domains:
//! - name: shop.test
//! - name: "*.shop.test"
//!   dnsProvider: {name: cloudflare, zone: shop.test, apiToken: "…"}
//! ```
//! The member that leads orders them; every edge answers the authority's questions and shows what was issued, on each HTTPServer with
//! `https: true` and `autoCert: true`, without a restart. Private keys lie in the cluster and on disks sealed with the cluster's key.

use std::collections::BTreeSet;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::GoDuration;
use crate::problem::{Findings, Problem, at, nth, one_of};

/// Certificates by ACME (RFC 8555), one for each of `domains`, and for names that clients ask for where `onDemand` allows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["email"]))]
pub struct AutoCertManagerSpec {
    /// Directory of the authority. Default Let's Encrypt, `https://acme-v02.api.letsencrypt.org/directory`.
    #[serde(rename = "directoryURL")]
    pub directory_url: String,
    /// Where the authority writes to when something is wrong with the account.
    pub email: String,
    /// A certificate that ends sooner than this is renewed; one that lasts no longer than this at all, when a third of its time is
    /// left. Where the authority says when (ARI, RFC 9773), it is renewed then, and never later than this. Default 720h.
    pub renew_before: GoDuration,
    /// Prove names over plain HTTP, which the authority asks for on port 80. Default true.
    #[serde(rename = "enableHTTP01")]
    pub enable_http01: bool,
    /// Prove names within the TLS handshake, which the authority makes on port 443. Default true.
    #[serde(rename = "enableTLSALPN01")]
    pub enable_tls_alpn01: bool,
    /// Prove names by TXT records, for domains with a `dnsProvider`. Default true.
    #[serde(rename = "enableDNS01")]
    pub enable_dns01: bool,
    /// Names to have certificates for, one each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<AutoCertDomainSpec>,
    /// Authorities, PEM or base64 of it, one of which must have signed the certificate that the directory shows. Default: those of the
    /// system.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ca_cert_base64: String,
    /// Account at the authority that the new one is bound to, where the authority asks for one (EAB). Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_account: Option<ExternalAccountSpec>,
    /// Profile of the authority that certificates are ordered by, such as `shortlived`. Default: the authority's own default.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub profile: String,
    /// Names beside `domains` that get a certificate when a client asks for them first. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_demand: Option<OnDemandSpec>,
}

impl Default for AutoCertManagerSpec {
    fn default() -> Self {
        Self {
            directory_url: LETS_ENCRYPT.to_owned(),
            email: String::new(),
            renew_before: GoDuration::from(RENEW_BEFORE),
            enable_http01: true,
            enable_tls_alpn01: true,
            enable_dns01: true,
            domains: Vec::new(),
            ca_cert_base64: String::new(),
            external_account: None,
            profile: String::new(),
            on_demand: None,
        }
    }
}

/// A name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]))]
pub struct AutoCertDomainSpec {
    /// A host name, or `*.` and one: a wildcard, which can be proved by DNS alone.
    pub name: String,
    /// Who serves the zone, and takes TXT records. Default: nobody; the name is proved over HTTP or TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_provider: Option<DnsProviderSpec>,
}

/// Who takes TXT records of a zone, and what he has to be shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]))]
pub struct DnsProviderSpec {
    /// alidns, azure, cloudflare, digitalocean, dnspod, duckdns, hetzner, route53, vultr, rfc2136 (any server that takes dynamic
    /// updates) or acmedns.
    pub name: String,
    /// The zone that the record goes into, such as `shop.test`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// DNS server, `host:port`, that is asked whether a record is there before the authority is told so. Default: rfc2136's own
    /// `server`; elsewhere those of the leader's `/etc/resolv.conf`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ns_address: String,
    /// What it is asked over, `udp` (default) or `tcp`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ns_network: String,
    /// URL that requests go to instead of the provider's own API.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// cloudflare, digitalocean, dnspod (`ID,TOKEN`), duckdns, vultr: the token.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("x-secret" = true))]
    pub api_token: String,
    /// hetzner: the token.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("x-secret" = true))]
    pub auth_api_token: String,
    /// alidns, route53: id of the access key.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub access_key_id: String,
    /// alidns: its secret.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("x-secret" = true))]
    pub access_key_secret: String,
    /// route53: its secret.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("x-secret" = true))]
    pub secret_access_key: String,
    /// route53: taken and not needed, for documents of Easegress have it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub aws_profile: String,
    /// azure: id of the tenant.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tenant_id: String,
    /// azure: id of the application.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_id: String,
    /// azure: its secret.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("x-secret" = true))]
    pub client_secret: String,
    /// azure: id of the subscription.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subscription_id: String,
    /// azure: name of the resource group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_group_name: String,
    /// rfc2136: the primary server, `host:port` (port 53 unless given); acmedns: its URL.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub server: String,
    /// rfc2136: name of the TSIG key (RFC 8945). Default: updates are not signed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tsig_key: String,
    /// rfc2136: `hmac-sha256` (default), `hmac-sha384` or `hmac-sha512`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tsig_algorithm: String,
    /// rfc2136: the key, in base64.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("x-secret" = true))]
    pub tsig_secret: String,
    /// acmedns: the user of the registration.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// acmedns: its password.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("x-secret" = true))]
    pub password: String,
    /// acmedns: the subdomain that `_acme-challenge` of the name is a CNAME to, without the server's own domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subdomain: String,
}

/// An account that a new one is bound to (RFC 8555 section 7.3.4).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["keyID", "hmacKey"]))]
pub struct ExternalAccountSpec {
    /// Its id.
    #[serde(rename = "keyID")]
    pub key_id: String,
    /// Its key, in base64 (of URLs, as authorities give it).
    #[schemars(extend("x-secret" = true))]
    pub hmac_key: String,
}

/// Names that get a certificate because a client asks for them. Each is ordered once; the client of the first handshake is shown
/// another certificate, or none, until it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OnDemandSpec {
    /// Names that may have one: a host name, or `*.` and one for every name with one label more. Nothing else is asked for.
    pub allow: Vec<String>,
    /// URL that is asked with `?domain=NAME` before a name is ordered, and must answer 200. Default: whatever is allowed is ordered.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ask: String,
    /// Names ordered in an hour, at most. Default 10, 1 to 1000.
    pub per_hour: u32,
    /// Names that have a certificate by demand, at most; beyond it none is ordered. Default 1000, 1 to 10000.
    pub most: u32,
}

impl Default for OnDemandSpec {
    fn default() -> Self {
        Self { allow: Vec::new(), ask: String::new(), per_hour: 10, most: 1000 }
    }
}

/// Where Let's Encrypt's directory is.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// Thirty days.
const RENEW_BEFORE: Duration = Duration::from_secs(720 * 3600);
/// Names of one object.
const DOMAINS_MAX: usize = 10_000;

/// Providers, and the fields each of them needs beside `name`.
const PROVIDERS: &[(&str, &[&str])] = &[
    ("alidns", &["zone", "accessKeyId", "accessKeySecret"]),
    ("azure", &["zone", "tenantId", "clientId", "clientSecret", "subscriptionId", "resourceGroupName"]),
    ("cloudflare", &["zone", "apiToken"]),
    ("digitalocean", &["zone", "apiToken"]),
    ("dnspod", &["zone", "apiToken"]),
    ("duckdns", &["apiToken"]),
    ("hetzner", &["zone", "authApiToken"]),
    ("route53", &["zone", "accessKeyId", "secretAccessKey"]),
    ("vultr", &["zone", "apiToken"]),
    ("rfc2136", &["zone", "server"]),
    ("acmedns", &["server", "username", "password", "subdomain"]),
];

impl AutoCertManagerSpec {
    pub fn validate(&self, path: &str, findings: &mut Findings) {
        check_url(&self.directory_url, &at(path, "directoryURL"), findings);
        let mail = &self.email;
        if !mail.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty())
            || mail.chars().any(|c| c.is_whitespace() || c.is_control())
        {
            let problem = Problem::new(at(path, "email"), "not an address of mail").text(mail);
            findings.problem(problem.advice("give one that somebody reads, such as ops@shop.test"));
        }
        if self.renew_before.duration().is_zero() {
            let problem = Problem::new(at(path, "renewBefore"), "certificates would be renewed when they have ended");
            findings.problem(problem.value(&self.renew_before.to_string().into()).accepted("1s or more"));
        }
        if !(self.enable_http01 || self.enable_tls_alpn01 || self.enable_dns01) {
            let problem = Problem::new(at(path, "enableHTTP01"), "no name could be proved: all challenges are off");
            findings.problem(problem.advice("turn on enableHTTP01, enableTLSALPN01 or enableDNS01"));
        }
        if !self.ca_cert_base64.is_empty()
            && let Err(error) = base_tls::certificate::read_authorities_undated(&self.ca_cert_base64)
        {
            findings.problem(Problem::new(at(path, "caCertBase64"), error.text));
        }
        if let Some(external) = &self.external_account {
            let place = at(path, "externalAccount");
            for (name, text) in [("keyID", &external.key_id), ("hmacKey", &external.hmac_key)] {
                if text.is_empty() {
                    let problem = Problem::new(at(&place, name), "missing");
                    findings.problem(problem.advice("give keyID and hmacKey as the authority shows them"));
                }
            }
        }
        if self.domains.len() > DOMAINS_MAX {
            let problem = Problem::new(at(path, "domains"), "more names than one object has");
            findings.problem(problem.value(&self.domains.len().into()).accepted(format!("{DOMAINS_MAX} at most")));
        }
        let mut names = BTreeSet::new();
        for (i, domain) in self.domains.iter().enumerate() {
            let place = nth(&at(path, "domains"), i);
            domain.validate(self, &place, findings);
            if !names.insert(domain.key()) {
                let problem = Problem::new(at(&place, "name"), "listed twice").text(&domain.name);
                findings.problem(problem.advice("remove one"));
            }
        }
        if let Some(on_demand) = &self.on_demand {
            on_demand.validate(self, &at(path, "onDemand"), findings);
        }
        if self.domains.is_empty() && self.on_demand.is_none() {
            findings.warn(at(path, "domains"), "is empty: no certificate is ordered");
        }
    }

    /// Whether `name`, in lower case, is one of `domains`, or covered by a wildcard among them.
    pub fn manages(&self, name: &str) -> bool {
        self.domains.iter().any(|domain| covers(&domain.key(), name))
    }

    /// Whether `name`, in lower case, may have a certificate by demand.
    pub fn allows_on_demand(&self, name: &str) -> bool {
        let allowed = |rule: &String| covers(&rule.to_ascii_lowercase(), name);
        self.on_demand.as_ref().is_some_and(|rule| rule.allow.iter().any(allowed)) && host_fault(name).is_none()
    }
}

/// Whether a name, or `*.` and a name, is for `name`.
fn covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(suffix) => pattern == name || name.split_once('.').is_some_and(|(_, rest)| rest == suffix),
        None => pattern == name,
    }
}

impl AutoCertDomainSpec {
    /// The name as certificates have it: in lower case.
    pub fn key(&self) -> String {
        self.name.trim_end_matches('.').to_ascii_lowercase()
    }

    pub fn is_wildcard(&self) -> bool {
        self.name.starts_with("*.")
    }

    fn validate(&self, manager: &AutoCertManagerSpec, path: &str, findings: &mut Findings) {
        let (key, place) = (self.key(), at(path, "name"));
        let host = key.strip_prefix("*.").unwrap_or(&key);
        if let Some(fault) = host_fault(host) {
            let problem = Problem::new(&place, fault).text(&self.name);
            findings.problem(problem.accepted("a host name such as shop.test, or *.shop.test"));
        }
        let by_dns = manager.enable_dns01 && self.dns_provider.is_some();
        if self.is_wildcard() && !by_dns {
            let problem = Problem::new(&place, "a wildcard can be proved by DNS-01 alone").text(&self.name);
            let advice = if manager.enable_dns01 {
                "give it a dnsProvider, or list the names one by one"
            } else {
                "set enableDNS01: true and give it a dnsProvider, or list the names one by one"
            };
            findings.problem(problem.advice(advice));
        } else if !(manager.enable_http01 || manager.enable_tls_alpn01 || by_dns) {
            let problem = Problem::new(&place, "cannot be proved: DNS-01 alone is on").text(&self.name);
            findings.problem(problem.advice("give it a dnsProvider, or turn on enableHTTP01 or enableTLSALPN01"));
        }
        if let Some(provider) = &self.dns_provider {
            let place = at(path, "dnsProvider");
            if !manager.enable_dns01 {
                findings.warn(&place, "has no effect with enableDNS01: false");
            }
            provider.validate(host, &place, findings);
        }
    }
}

impl DnsProviderSpec {
    fn field(&self, name: &str) -> &str {
        match name {
            "zone" => &self.zone,
            "apiToken" => &self.api_token,
            "authApiToken" => &self.auth_api_token,
            "accessKeyId" => &self.access_key_id,
            "accessKeySecret" => &self.access_key_secret,
            "secretAccessKey" => &self.secret_access_key,
            "tenantId" => &self.tenant_id,
            "clientId" => &self.client_id,
            "clientSecret" => &self.client_secret,
            "subscriptionId" => &self.subscription_id,
            "resourceGroupName" => &self.resource_group_name,
            "server" => &self.server,
            "username" => &self.username,
            "password" => &self.password,
            "subdomain" => &self.subdomain,
            _ => "",
        }
    }

    fn validate(&self, host: &str, path: &str, findings: &mut Findings) {
        let Some((_, needs)) = PROVIDERS.iter().find(|(name, _)| *name == self.name) else {
            let names: Vec<&str> = PROVIDERS.iter().map(|(name, _)| *name).collect();
            let problem = Problem::new(at(path, "name"), "no provider of DNS that is known").text(&self.name);
            let advice =
                "any server that takes dynamic updates is rfc2136; for others delegate _acme-challenge to acmedns";
            return findings.problem(problem.accepted(one_of(&names)).advice(advice));
        };
        for need in needs.iter().filter(|need| self.field(need).is_empty()) {
            findings.problem(Problem::new(at(path, need), format!("missing: {} needs it", self.name)));
        }
        let zone = self.zone.trim_end_matches('.').to_ascii_lowercase();
        if !zone.is_empty() && host != zone && !host.ends_with(&format!(".{zone}")) {
            let problem = Problem::new(at(path, "zone"), "the name is not within it").text(&self.zone);
            findings.problem(problem.advice(format!("give the zone that {host} is in")));
        }
        if !["", "udp", "tcp"].contains(&self.ns_network.as_str()) {
            let problem = Problem::new(at(path, "nsNetwork"), "not one of the accepted words").text(&self.ns_network);
            findings.problem(problem.accepted(one_of(&["udp", "tcp"])));
        }
        let algorithms = ["hmac-sha256", "hmac-sha384", "hmac-sha512"];
        let algorithm = self.tsig_algorithm.trim_end_matches('.').to_ascii_lowercase();
        if !algorithm.is_empty() && !algorithms.contains(&algorithm.as_str()) {
            let problem = Problem::new(at(path, "tsigAlgorithm"), "not an algorithm that is spoken");
            findings.problem(problem.text(&self.tsig_algorithm).accepted(one_of(&algorithms)));
        }
        if self.tsig_key.is_empty() != self.tsig_secret.is_empty() {
            let problem = Problem::new(at(path, "tsigKey"), "tsigKey and tsigSecret go together");
            findings.problem(problem.advice("give both or none"));
        }
        for (name, url) in [("endpoint", &self.endpoint)] {
            if !url.is_empty() {
                check_url(url, &at(path, name), findings);
            }
        }
        if self.name == "acmedns" && !self.server.is_empty() {
            check_url(&self.server, &at(path, "server"), findings);
        }
    }
}

impl OnDemandSpec {
    fn validate(&self, manager: &AutoCertManagerSpec, path: &str, findings: &mut Findings) {
        let place = at(path, "allow");
        if self.allow.is_empty() {
            let problem = Problem::new(&place, "is empty: anybody could have certificates ordered for any name");
            findings.problem(problem.advice("list the names that may have one, such as *.customers.test"));
        }
        for (i, rule) in self.allow.iter().enumerate() {
            let host = rule.to_ascii_lowercase();
            if let Some(fault) = host_fault(host.strip_prefix("*.").unwrap_or(&host)) {
                let problem = Problem::new(nth(&place, i), fault).text(rule);
                findings.problem(problem.accepted("a host name, or *. and one"));
            }
        }
        if !self.ask.is_empty() {
            check_url(&self.ask, &at(path, "ask"), findings);
        }
        for (name, value, most) in [("perHour", self.per_hour, 1000), ("most", self.most, 10_000)] {
            if !(1..=most).contains(&value) {
                let problem = Problem::new(at(path, name), "out of range").value(&value.into());
                findings.problem(problem.accepted(format!("1 to {most}")));
            }
        }
        if !(manager.enable_http01 || manager.enable_tls_alpn01) {
            let problem = Problem::new(path, "names by demand are proved over HTTP or TLS, and both are off");
            findings.problem(problem.advice("turn on enableHTTP01 or enableTLSALPN01"));
        }
    }
}

/// Why this is no host name that an authority would certify; `name` is in lower case.
fn host_fault(name: &str) -> Option<&'static str> {
    if name.parse::<std::net::IpAddr>().is_ok() {
        return Some("an address, and no name");
    }
    if name.contains('*') {
        return Some("a * stands for the whole first label alone");
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if !name.is_ascii() {
        return Some("not in ASCII: write it as xn--…");
    }
    let fits = name.len() <= 253 && name.contains('.') && name.split('.').all(label);
    (!fits).then_some("not a host name")
}

fn check_url(url: &str, path: &str, findings: &mut Findings) {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let fits = rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
        && url.bytes().all(|byte| byte.is_ascii_graphic());
    if !fits {
        findings.problem(Problem::new(path, "not a URL").text(url).accepted("https://HOST/PATH"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode;

    fn check(text: &str, problems: &[&str], warnings: &[&str]) {
        let value = crate::yaml::parse_document(text).unwrap();
        let mut findings = Findings::default();
        if let Some(spec) = findings.take(decode::<AutoCertManagerSpec>(&value, "")) {
            spec.validate("", &mut findings);
        }
        let told: Vec<String> = findings.problems.iter().map(ToString::to_string).collect();
        assert_eq!(told, problems, "{text}");
        let told: Vec<String> = findings.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(told, warnings, "{text}");
    }

    #[test]
    fn easegresss_documents_are_read() {
        let text = "directoryURL: https://127.0.0.1:14000/dir\nemail: a@b.test\nrenewBefore: 720h\nenableHTTP01: true\n\
                    enableTLSALPN01: false\nenableDNS01: true\ndomains:\n- name: '*.b.test'\n  dnsProvider: {name: route53, zone: b.test, \
                    accessKeyId: i, secretAccessKey: s, awsProfile: p, nsAddress: 127.0.0.1:53, nsNetwork: udp}\n- name: B.test";
        check(text, &[], &[]);
        let value = crate::yaml::parse_document(text).unwrap();
        let spec = decode::<AutoCertManagerSpec>(&value, "").unwrap().value;
        for (name, managed) in [("b.test", true), ("a.b.test", true), ("a.a.b.test", false), ("c.test", false)] {
            assert_eq!(spec.manages(name), managed, "{name}");
        }
    }

    #[test]
    fn wildcards_and_names_that_cannot_be_proved_are_refused() {
        check(
            "{email: a@b.test, domains: [{name: '*.b.test'}]}",
            &[
                "domains[0].name = \"*.b.test\": a wildcard can be proved by DNS-01 alone; give it a dnsProvider, or list the names one by one",
            ],
            &[],
        );
        check(
            "{email: a@b.test, enableDNS01: false, domains: [{name: '*.b.test', dnsProvider: {name: duckdns, apiToken: x}}]}",
            &[
                "domains[0].name = \"*.b.test\": a wildcard can be proved by DNS-01 alone; set enableDNS01: true and give it a dnsProvider, \
                 or list the names one by one",
            ],
            &["domains[0].dnsProvider: has no effect with enableDNS01: false"],
        );
        check(
            "{email: a@b.test, enableHTTP01: false, enableTLSALPN01: false, domains: [{name: b.test}]}",
            &[
                "domains[0].name = \"b.test\": cannot be proved: DNS-01 alone is on; give it a dnsProvider, or turn on enableHTTP01 or \
                 enableTLSALPN01",
            ],
            &[],
        );
        for name in ["10.0.0.1", "shop", "a..b", "a.*.b", "-a.b", "bücher.test", "a b.test"] {
            let value = format!("{{email: a@b.test, domains: [{{name: '{name}'}}]}}");
            let value = crate::yaml::parse_document(&value).unwrap();
            let mut findings = Findings::default();
            decode::<AutoCertManagerSpec>(&value, "").unwrap().value.validate("", &mut findings);
            assert_eq!(findings.problems.len(), 1, "{name}");
        }
    }

    #[test]
    fn a_provider_says_what_it_lacks() {
        check(
            "{email: a@b.test, domains: [{name: b.test, dnsProvider: {name: cloudflare, zone: c.test}}]}",
            &[
                "domains[0].dnsProvider.apiToken: missing: cloudflare needs it",
                "domains[0].dnsProvider.zone = \"c.test\": the name is not within it; give the zone that b.test is in",
            ],
            &[],
        );
        check("{email: a@b.test}", &[], &["domains: is empty: no certificate is ordered"]);
        check(
            "{email: ops, domains: [{name: b.test}, {name: B.test}]}",
            &[
                "email = \"ops\": not an address of mail; give one that somebody reads, such as ops@shop.test",
                "domains[1].name = \"B.test\": listed twice; remove one",
            ],
            &[],
        );
    }

    #[test]
    fn names_by_demand_need_a_rule() {
        check(
            "{email: a@b.test, onDemand: {perHour: 0}}",
            &[
                "onDemand.allow: is empty: anybody could have certificates ordered for any name; list the names that may have one, such as \
                 *.customers.test",
                "onDemand.perHour = 0: out of range; accepted: 1 to 1000",
            ],
            &[],
        );
        let value = crate::yaml::parse_document("{email: a@b.test, onDemand: {allow: ['*.c.test', d.test]}}").unwrap();
        let spec = decode::<AutoCertManagerSpec>(&value, "").unwrap().value;
        for (name, allowed) in
            [("a.c.test", true), ("c.test", false), ("a.a.c.test", false), ("d.test", true), ("*.c.test", false)]
        {
            assert_eq!(spec.allows_on_demand(name), allowed, "{name}");
        }
    }
}

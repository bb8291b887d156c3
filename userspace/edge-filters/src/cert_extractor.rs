//! Puts a field of the client's certificate into a request header.
//!
//! Use it behind an HTTPServer with `caCertBase64`, to tell backends who the client is.
//!
//! ```yaml
//! name: who
//! kind: CertExtractor
//! certIndex: 0                # the client's own certificate; -1 is the last one it sent
//! target: subject             # or issuer
//! field: CommonName
//! headerKey: X-Client-Name
//! ```
//!
//! A client whose certificate says `CN=till-7` → `X-Client-Name: till-7`. A field that stands there several times makes a
//! header for each. What the client itself sends under that name is taken out, with TLS or without: a backend may believe
//! the header. There is none when the client showed no certificate, or none at `certIndex`.
//!
//! Outcomes: none. Fits HTTPServer. Costs the parsing of one certificate, some microseconds.

use crate::module_doc::module_doc;
use crate::spec::{self, Spec};
use base_model::problem::at;
use base_model::{Findings, Problem};
use edge_pipeline::{BuildError, Exchange, Filter, FilterKind, SUCCESS, Step, Touches};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use x509_parser::der_parser::oid::Oid;
use x509_parser::prelude::{FromDer, X509Certificate};

/// `kind: CertExtractor`: puts a field of the client's certificate into a request header.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["certIndex", "target", "field", "headerKey"]))]
pub struct CertExtractorSpec {
    /// Which certificate the client sent: 0 is its own, 1 the next; -1 the last, -2 the one before that.
    pub cert_index: i16,
    /// Whose name is looked into: the certificate's subject or its issuer.
    pub target: Target,
    /// What of the name is taken.
    pub field: Field,
    /// Name of the header; what the client sends under it is taken out.
    pub header_key: String,
}

/// Whose name is looked into.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    #[default]
    Subject,
    Issuer,
}

/// Attributes of a distinguished name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Field {
    Country,
    Organization,
    OrganizationalUnit,
    Locality,
    Province,
    StreetAddress,
    PostalCode,
    SerialNumber,
    #[default]
    CommonName,
}

impl Spec for CertExtractorSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        if !base_model::header_adapt::is_header_name(&self.header_key) {
            findings.problem(Problem::new(at(path, "headerKey"), "not a header name").text(&self.header_key));
        }
    }
}

/// A ready CertExtractor.
pub struct CertExtractor {
    spec: CertExtractorSpec,
}

pub const KIND: FilterKind = FilterKind {
    kind: "CertExtractor",
    results: &[],
    doc: module_doc!("cert_extractor.rs"),
    schema: spec::schema::<CertExtractorSpec>,
    check: spec::check::<CertExtractorSpec>,
    build: |fields, _| spec::build(fields, CertExtractor::new),
};

impl CertExtractor {
    fn new(spec: CertExtractorSpec) -> Result<CertExtractor, BuildError> {
        Ok(CertExtractor { spec })
    }

    /// Values of the field in the certificate `chain` has at the index.
    fn values(&self, chain: &[impl AsRef<[u8]>]) -> Vec<Vec<u8>> {
        let index = isize::from(self.spec.cert_index);
        let place = if index < 0 { chain.len().checked_add_signed(index) } else { usize::try_from(index).ok() };
        let Some(der) = place.and_then(|place| chain.get(place)) else { return Vec::new() };
        // The handshake has read it already; what it could not read did not get here.
        let Ok((_, certificate)) = X509Certificate::from_der(der.as_ref()) else { return Vec::new() };
        let name = match self.spec.target {
            Target::Subject => certificate.subject(),
            Target::Issuer => certificate.issuer(),
        };
        let oid = self.spec.field.oid();
        let values = name.iter_by_oid(&oid).filter_map(|attribute| {
            let value = attribute.attr_value().data;
            // Authorities sign strange names; none of them becomes a header of its own.
            std::str::from_utf8(value).ok().filter(|text| base_model::header_adapt::is_header_value(text))?;
            Some(value.to_vec())
        });
        values.collect()
    }
}

impl Filter for CertExtractor {
    fn touches(&self) -> Touches {
        Touches::REQUEST_HEAD
    }

    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        let session = exchange.client.tls.clone();
        let headers = &mut exchange.space().request.headers;
        headers.remove(&self.spec.header_key);
        if let Some(session) = session {
            for value in self.values(&session.peer_certificates) {
                headers.add(&self.spec.header_key, value);
            }
        }
        Step::Done(SUCCESS)
    }
}

impl Field {
    /// X.520's attribute types.
    fn oid(self) -> Oid<'static> {
        let last = match self {
            Field::CommonName => 3,
            Field::SerialNumber => 5,
            Field::Country => 6,
            Field::Locality => 7,
            Field::Province => 8,
            Field::StreetAddress => 9,
            Field::Organization => 10,
            Field::OrganizationalUnit => 11,
            Field::PostalCode => 17,
        };
        Oid::from(&[2, 5, 4, last]).expect("arcs below 40 and 128")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use base_tls::Session;
    use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
    use std::rc::Rc;

    fn name(attributes: &[(&[u64], &str)]) -> DistinguishedName {
        let mut name = DistinguishedName::new();
        for (oid, value) in attributes {
            name.push(DnType::CustomDnType(oid.to_vec()), *value);
        }
        name
    }

    /// The client's own certificate, and the authority's.
    fn chain(subject: &[(&[u64], &str)]) -> Rc<Session> {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name = name(&[(CN, "root"), (&[2, 5, 4, 6], "NL")]);
        let root_key = KeyPair::generate().unwrap();
        let root = authority.self_signed(&root_key).unwrap();
        let mut own = CertificateParams::new(Vec::new()).unwrap();
        own.distinguished_name = name(subject);
        let own = own.signed_by(&KeyPair::generate().unwrap(), &Issuer::new(authority, root_key)).unwrap();
        Rc::new(Session {
            version: "TLSv1.3",
            cipher: "",
            alpn: None,
            server_name: None,
            peer_certificates: vec![own.der().clone(), root.der().clone()],
            resumed: false,
        })
    }

    fn extracted(index: i16, target: &str, field: &str, session: Option<Rc<Session>>) -> String {
        let spec = format!("{{certIndex: {index}, target: {target}, field: {field}, headerKey: X-Who}}");
        let mut exchange = request("GET", "/", &[("x-who", "a forger"), ("X-Other", "stays")]);
        exchange.client.tls = session;
        assert_eq!(run(&*filter(&KIND, &spec), &mut exchange), SUCCESS);
        assert_eq!(headers(&exchange, "X-Other"), "stays");
        headers(&exchange, "X-Who")
    }

    #[test]
    fn fields_of_both_names() {
        let client = chain(&[
            (CN, "till-7"),
            (&[2, 5, 4, 10], "Shop"),
            (&[2, 5, 4, 11], "Tills"),
            (&[2, 5, 4, 7], "Zürich"),
            (&[2, 5, 4, 17], "8000"),
        ]);
        for (index, target, field, wanted) in [
            (0, "subject", "CommonName", "till-7"),
            (0, "subject", "Organization", "Shop"),
            (0, "subject", "OrganizationalUnit", "Tills"),
            (0, "subject", "Locality", "Zürich"),
            (0, "subject", "PostalCode", "8000"),
            (0, "subject", "Province", ""),
            (0, "issuer", "CommonName", "root"),
            (1, "subject", "Country", "NL"),
            (-1, "subject", "CommonName", "root"),
            (-2, "subject", "CommonName", "till-7"),
            (2, "subject", "CommonName", ""),
            (-3, "subject", "CommonName", ""),
        ] {
            assert_eq!(extracted(index, target, field, Some(client.clone())), wanted, "{index} {target} {field}");
        }
    }

    #[test]
    fn nobody_passes_a_name_off_as_a_certificates() {
        assert_eq!(extracted(0, "subject", "CommonName", None), "", "in plain text");
        let anonymous = Session {
            version: "TLSv1.3",
            cipher: "",
            alpn: None,
            server_name: None,
            peer_certificates: Vec::new(),
            resumed: false,
        };
        assert_eq!(extracted(-1, "subject", "CommonName", Some(Rc::new(anonymous))), "", "without a certificate");
        let split = chain(&[(CN, "till-7\r\nX-Admin: yes")]);
        assert_eq!(extracted(0, "subject", "CommonName", Some(split)), "");
    }

    #[test]
    fn refused() {
        refuses(&KIND, "{}", &["certIndex", "field", "headerKey", "target"]);
        refuses(
            &KIND,
            "{certIndex: 99999, target: owner, field: Name, headerKey: 'a b'}",
            &["certIndex", "field", "target"],
        );
        refuses(&KIND, "{certIndex: 0, target: subject, field: Country, headerKey: 'a b'}", &["headerKey"]);
    }

    const CN: &[u64] = &[2, 5, 4, 3];
}

//! `crypto.x509.*`: certificates, and requests for some, as Go writes them in JSON; and whether a chain of them holds.
//!
//! What is of private keys is left out: a policy at a gateway has none.

use super::builtins::{NUMBER, text};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use regorus::Value;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::time::Duration;
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, KeyUsage, RequiredEkuNotFoundContext};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::der_parser::oid::Oid;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::prelude::{FromDer as _, Pem, X509Certificate};
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo, X509Name};

/// Certificates of one text that are looked at; a chain is far shorter.
const CERTIFICATES_MAX: usize = 32;

/// Longest serial number that is told.
const SERIAL_BYTES_MAX: usize = 64;

/// `crypto.x509.parse_certificates`: PEM, or DER or PEM in base64.
pub(super) fn parse_certificates(args: &[Value]) -> Option<Value> {
    let all = Certificates::read(text(&args[0])?)?;
    let told: Option<Vec<Json>> = all.parsed()?.iter().map(told).collect();
    Some(Value::from(Json::from(told?)))
}

/// `crypto.x509.parse_and_verify_certificates`: the root first, and whose it is last.
pub(super) fn parse_and_verify(args: &[Value]) -> Option<Value> {
    verified(text(&args[0])?, &Wanted::default())
}

/// `crypto.x509.parse_and_verify_certificates_with_options`: with `DNSName`, `CurrentTime` (in nanoseconds) and `KeyUsages`.
pub(super) fn parse_and_verify_with_options(args: &[Value]) -> Option<Value> {
    verified(text(&args[0])?, &Wanted::read(&args[1])?)
}

/// `crypto.x509.parse_certificate_request`.
pub(super) fn parse_request(args: &[Value]) -> Option<Value> {
    let bytes = bytes_of(text(&args[0])?)?;
    let mut ders = ders_of(&bytes, "CERTIFICATE REQUEST")?;
    let der = ders.pop().filter(|_| ders.is_empty())?;
    let (_, request) = X509CertificationRequest::from_der(&der).ok()?;
    let info = &request.certification_request_info;
    let extensions: Vec<&ParsedExtension<'_>> = request.requested_extensions().into_iter().flatten().collect();
    let mut told = json!({
        "Version": info.version.0,
        "Raw": STANDARD.encode(&der),
        "Subject": name(&info.subject)?,
        "PublicKeyAlgorithm": key_algorithm(&info.subject_pki),
        "SignatureAlgorithm": signature_algorithm(&request.signature_algorithm),
    });
    add_names(&mut told, extensions.into_iter());
    Some(Value::from(told))
}

/// What a text holds: itself where it is PEM, else what it says in base64.
fn bytes_of(text: &str) -> Option<Vec<u8>> {
    match text.starts_with(PEM) {
        true => Some(text.as_bytes().to_vec()),
        false => STANDARD.decode(text.trim_end_matches(['\r', '\n'])).ok(),
    }
}

const PEM: &str = "-----BEGIN";

/// One after the other, in DER.
fn ders_of(bytes: &[u8], label: &str) -> Option<Vec<Vec<u8>>> {
    if !bytes.starts_with(PEM.as_bytes()) {
        let (mut rest, mut ders) = (bytes, Vec::new());
        while !rest.is_empty() {
            let (after, _) = x509_parser::der_parser::parse_der(rest).ok()?;
            ders.push(rest[..rest.len() - after.len()].to_vec());
            rest = after;
            if ders.len() > CERTIFICATES_MAX {
                return None;
            }
        }
        return Some(ders);
    }
    let mut ders = Vec::new();
    for block in Pem::iter_from_buffer(bytes) {
        let block = block.ok().filter(|block| block.label == label)?;
        ders.push(block.contents);
        if ders.len() > CERTIFICATES_MAX {
            return None;
        }
    }
    Some(ders)
}

/// Certificates in DER.
struct Certificates(Vec<Vec<u8>>);

impl Certificates {
    fn read(text: &str) -> Option<Certificates> {
        let ders = ders_of(&bytes_of(text)?, "CERTIFICATE")?;
        (!ders.is_empty()).then_some(Certificates(ders))
    }

    fn parsed(&self) -> Option<Vec<X509Certificate<'_>>> {
        let read = self.0.iter().map(|der| X509Certificate::from_der(der).ok().filter(|(rest, _)| rest.is_empty()));
        read.map(|read| read.map(|(_, certificate)| certificate)).collect()
    }
}

/// What a chain has to be good for.
#[derive(Default)]
struct Wanted {
    name: Option<String>,
    /// Nanoseconds since 1970; absent: now.
    at: Option<i64>,
    usages: Vec<usize>,
}

impl Wanted {
    fn read(options: &Value) -> Option<Wanted> {
        let mut wanted = Wanted::default();
        for (option, value) in options.as_object().ok()?.iter() {
            match text(option)? {
                "DNSName" => wanted.name = Some(text(value)?.to_owned()),
                "CurrentTime" => wanted.at = Some(value.as_i64().ok()?),
                "KeyUsages" => {
                    let named = |value: &Value| USAGES.iter().position(|(name, _)| Some(*name) == text(value));
                    wanted.usages = match value {
                        Value::Array(all) => all.iter().map(named).collect::<Option<_>>()?,
                        Value::Set(all) => all.iter().map(named).collect::<Option<_>>()?,
                        _ => return None,
                    };
                }
                // Paths are bounded here without it.
                "MaxConstraintComparisons" => drop(value.as_i64().ok()?),
                // A constraint that is not understood is not kept.
                _ => return None,
            }
        }
        Some(wanted)
    }

    fn at(&self) -> Option<UnixTime> {
        match self.at {
            Some(nanoseconds) => {
                Some(UnixTime::since_unix_epoch(Duration::from_nanos(u64::try_from(nanoseconds).ok()?)))
            }
            None => Some(UnixTime::now()),
        }
    }
}

impl ExtendedKeyUsageValidator for Wanted {
    fn validate(&self, iter: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        // Go's own default.
        let wanted = if self.usages.is_empty() { &[SERVER_AUTH] } else { &self.usages[..] };
        let is_wanted =
            |oid: &[usize]| wanted.iter().any(|index| [ANY, *index].iter().any(|one| USAGES[*one].1 == oid));
        // A certificate that names no use is for any.
        let mut names_none = true;
        for found in iter {
            names_none = false;
            if wanted.contains(&ANY) || is_wanted(&found?.to_decoded_oid()) {
                return Ok(());
            }
        }
        let why = RequiredEkuNotFoundContext { required: KeyUsage::server_auth(), present: Vec::new() };
        if names_none { Ok(()) } else { Err(webpki::Error::RequiredEkuNotFoundContext(why)) }
    }
}

fn verified(text: &str, wanted: &Wanted) -> Option<Value> {
    let holds = || {
        let all = Certificates::read(text)?;
        let chain = chain(&all, wanted)?;
        let parsed = all.parsed()?;
        chain.into_iter().map(|index| told(&parsed[index])).collect::<Option<Vec<Json>>>()
    };
    Some(Value::from(holds().map_or_else(|| json!([false, []]), |chain| json!([true, chain]))))
}

/// Which of them lead from the last to the first, if they do.
fn chain(all: &Certificates, wanted: &Wanted) -> Option<Vec<usize>> {
    let (last, others) = all.0.split_last()?;
    let (root, between) = others.split_first()?;
    let now = wanted.at()?;
    // What is trusted has to be a root that is valid, too.
    let (_, parsed) = X509Certificate::from_der(root).ok()?;
    let validity = parsed.validity();
    let seconds = i64::try_from(now.as_secs()).ok()?;
    let in_time = (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&seconds);
    if !parsed.is_ca() || !in_time {
        return None;
    }
    let root = CertificateDer::from_slice(root);
    let anchors = [webpki::anchor_from_trusted_cert(&root).ok()?];
    let between: Vec<CertificateDer<'_>> = between.iter().map(|der| CertificateDer::from_slice(der)).collect();
    let last_der = CertificateDer::from_slice(last);
    let leaf = EndEntityCert::try_from(&last_der).ok()?;
    let algorithms = webpki::ALL_VERIFICATION_ALGS;
    let path = leaf.verify_for_usage(algorithms, &anchors, &between, now, wanted, None, None).ok()?;
    if let Some(name) = &wanted.name {
        let name = ServerName::try_from(name.as_str()).ok()?;
        leaf.verify_is_valid_for_subject_name(&name).ok()?;
    }
    let used: Vec<Vec<u8>> = path.intermediate_certificates().map(|used| used.der().to_vec()).collect();
    let place = |der: &Vec<u8>| all.0.iter().position(|other| other == der);
    let mut indices = vec![all.0.len() - 1];
    for der in &used {
        indices.push(place(der)?);
    }
    indices.push(0);
    Some(indices)
}

/// A certificate as Go writes it.
fn told(certificate: &X509Certificate<'_>) -> Option<Json> {
    // RFC 5280 has 20 bytes at most; what is far longer takes long to write in digits.
    let serial = (certificate.raw_serial().len() <= SERIAL_BYTES_MAX).then(|| certificate.serial.to_string())?;
    let mut told = json!({
        "Raw": STANDARD.encode(certificate.as_raw()),
        "RawSubjectPublicKeyInfo": STANDARD.encode(certificate.public_key().raw),
        "Version": certificate.version().0 + 1,
        "SerialNumber": {NUMBER: serial},
        "Subject": name(certificate.subject())?,
        "Issuer": name(certificate.issuer())?,
        "NotBefore": time(certificate.validity().not_before.timestamp())?,
        "NotAfter": time(certificate.validity().not_after.timestamp())?,
        "PublicKeyAlgorithm": key_algorithm(certificate.public_key()),
        "SignatureAlgorithm": signature_algorithm(&certificate.signature_algorithm),
        "Signature": STANDARD.encode(&certificate.signature_value.data),
        "BasicConstraintsValid": false,
        "IsCA": false,
        "MaxPathLen": 0,
        "MaxPathLenZero": false,
        "KeyUsage": 0,
        "ExtKeyUsage": null,
        "UnknownExtKeyUsage": null,
        "SubjectKeyId": null,
        "AuthorityKeyId": null,
        "CRLDistributionPoints": null,
        "OCSPServer": null,
        "IssuingCertificateURL": null,
    });
    let all = certificate.extensions();
    told["Extensions"] = Json::from(all.iter().map(extension).collect::<Option<Vec<_>>>()?);
    add_names(&mut told, all.iter().map(X509Extension::parsed_extension));
    for parsed in all.iter().map(X509Extension::parsed_extension) {
        match parsed {
            ParsedExtension::BasicConstraints(said) => {
                let most = said.path_len_constraint;
                told["BasicConstraintsValid"] = true.into();
                told["IsCA"] = said.ca.into();
                told["MaxPathLen"] = most.map_or(Json::from(-1), Json::from);
                told["MaxPathLenZero"] = (most == Some(0)).into();
            }
            ParsedExtension::KeyUsage(said) => told["KeyUsage"] = said.flags.into(),
            ParsedExtension::ExtendedKeyUsage(said) => {
                let named: [bool; 7] = [
                    said.any,
                    said.server_auth,
                    said.client_auth,
                    said.code_signing,
                    said.email_protection,
                    said.time_stamping,
                    said.ocsp_signing,
                ];
                let numbers = NUMBERS.iter().zip(named).filter_map(|(number, is)| is.then_some(*number));
                told["ExtKeyUsage"] = some(numbers.map(Json::from).collect());
                told["UnknownExtKeyUsage"] = some(said.other.iter().filter_map(oid).collect());
            }
            ParsedExtension::SubjectKeyIdentifier(id) => told["SubjectKeyId"] = STANDARD.encode(id.0).into(),
            ParsedExtension::AuthorityKeyIdentifier(said) => {
                told["AuthorityKeyId"] = said.key_identifier.as_ref().map(|id| STANDARD.encode(id.0)).into();
            }
            ParsedExtension::CRLDistributionPoints(points) => {
                let names = points.iter().filter_map(|point| match &point.distribution_point {
                    Some(x509_parser::extensions::DistributionPointName::FullName(names)) => Some(names),
                    _ => None,
                });
                told["CRLDistributionPoints"] = some(names.flatten().filter_map(uri).map(Json::from).collect());
            }
            ParsedExtension::AuthorityInfoAccess(said) => {
                let of = |method: &str| {
                    let fits = said.accessdescs.iter().filter(move |one| one.access_method.to_id_string() == method);
                    some(fits.filter_map(|one| uri(&one.access_location)).map(Json::from).collect())
                };
                told["OCSPServer"] = of("1.3.6.1.5.5.7.48.1");
                told["IssuingCertificateURL"] = of("1.3.6.1.5.5.7.48.2");
            }
            _ => {}
        }
    }
    Some(told)
}

/// Whom it is for beside its subject.
fn add_names<'a>(told: &mut Json, extensions: impl Iterator<Item = &'a ParsedExtension<'a>>) {
    let mut found: BTreeMap<&str, Vec<Json>> = BTreeMap::new();
    for parsed in extensions {
        let ParsedExtension::SubjectAlternativeName(said) = parsed else { continue };
        for name in &said.general_names {
            let (field, text) = match name {
                GeneralName::DNSName(name) => ("DNSNames", (*name).to_owned()),
                GeneralName::RFC822Name(name) => ("EmailAddresses", (*name).to_owned()),
                GeneralName::URI(name) => ("URIStrings", (*name).to_owned()),
                GeneralName::IPAddress(bytes) => match address(bytes) {
                    Some(address) => ("IPAddresses", address),
                    None => continue,
                },
                _ => continue,
            };
            found.entry(field).or_default().push(text.into());
        }
    }
    for field in ["DNSNames", "EmailAddresses", "URIStrings", "IPAddresses"] {
        told[field] = some(found.remove(field).unwrap_or_default());
    }
}

/// Go's `null` for a list that has nothing in it.
fn some(list: Vec<Json>) -> Json {
    if list.is_empty() { Json::Null } else { Json::from(list) }
}

fn address(bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| std::net::Ipv4Addr::from(bytes).to_string());
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| std::net::Ipv6Addr::from(bytes).to_string())).ok()
}

fn uri<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    match name {
        GeneralName::URI(text) => Some(text),
        _ => None,
    }
}

fn extension(extension: &X509Extension<'_>) -> Option<Json> {
    Some(json!({"Id": oid(&extension.oid)?, "Critical": extension.critical, "Value": STANDARD.encode(extension.value)}))
}

fn oid(oid: &Oid<'_>) -> Option<Json> {
    Some(Json::from(oid.iter()?.collect::<Vec<u64>>()))
}

fn name(name: &X509Name<'_>) -> Option<Json> {
    let mut told = json!({"CommonName": "", "SerialNumber": "", "ExtraNames": null});
    let (mut names, mut lists) = (Vec::new(), BTreeMap::<&str, Vec<Json>>::new());
    for attribute in name.iter_attributes() {
        let Ok(value) = attribute.as_str() else { continue };
        names.push(json!({"Type": oid(attribute.attr_type())?, "Value": value}));
        match attribute.attr_type().to_id_string().as_str() {
            "2.5.4.3" => told["CommonName"] = value.into(),
            "2.5.4.5" => told["SerialNumber"] = value.into(),
            id => {
                if let Some((_, field)) = LISTS.iter().find(|(list, _)| *list == id) {
                    lists.entry(field).or_default().push(value.into());
                }
            }
        }
    }
    for (_, field) in LISTS {
        told[field] = some(lists.remove(field).unwrap_or_default());
    }
    told["Names"] = some(names);
    Some(told)
}

const LISTS: [(&str, &str); 7] = [
    ("2.5.4.6", "Country"),
    ("2.5.4.10", "Organization"),
    ("2.5.4.11", "OrganizationalUnit"),
    ("2.5.4.7", "Locality"),
    ("2.5.4.8", "Province"),
    ("2.5.4.9", "StreetAddress"),
    ("2.5.4.17", "PostalCode"),
];

/// `2024-05-01T12:30:00Z`.
fn time(seconds: i64) -> Option<String> {
    let (year, month, day) = base_text::calendar::date_of(seconds.div_euclid(86_400));
    let of_day = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    (0..10_000).contains(&year).then(|| format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"))
}

/// Go's numbers.
fn key_algorithm(key: &SubjectPublicKeyInfo<'_>) -> u32 {
    match key.algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.1" => 1,
        "1.2.840.10040.4.1" => 2,
        "1.2.840.10045.2.1" => 3,
        "1.3.101.112" => 4,
        _ => 0,
    }
}

/// Go's numbers; 0 where what it is depends on more than its name.
fn signature_algorithm(algorithm: &AlgorithmIdentifier<'_>) -> u32 {
    match algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.5" => 3,
        "1.2.840.113549.1.1.11" => 4,
        "1.2.840.113549.1.1.12" => 5,
        "1.2.840.113549.1.1.13" => 6,
        "1.2.840.10045.4.1" => 9,
        "1.2.840.10045.4.3.2" => 10,
        "1.2.840.10045.4.3.3" => 11,
        "1.2.840.10045.4.3.4" => 12,
        "1.3.101.112" => 16,
        _ => 0,
    }
}

/// Go's numbers of the uses that the parser knows, in the order they are asked for.
const NUMBERS: [u32; 7] = [0, 1, 2, 3, 4, 8, 9];

/// Uses by OPA's name, with the arcs of their identifiers.
const USAGES: [(&str, &[usize]); 12] = [
    ("KeyUsageAny", &[2, 5, 29, 37, 0]),
    ("KeyUsageServerAuth", &[1, 3, 6, 1, 5, 5, 7, 3, 1]),
    ("KeyUsageClientAuth", &[1, 3, 6, 1, 5, 5, 7, 3, 2]),
    ("KeyUsageCodeSigning", &[1, 3, 6, 1, 5, 5, 7, 3, 3]),
    ("KeyUsageEmailProtection", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("KeyUsageIPSECEndSystem", &[1, 3, 6, 1, 5, 5, 7, 3, 5]),
    ("KeyUsageIPSECTunnel", &[1, 3, 6, 1, 5, 5, 7, 3, 6]),
    ("KeyUsageIPSECUser", &[1, 3, 6, 1, 5, 5, 7, 3, 7]),
    ("KeyUsageTimeStamping", &[1, 3, 6, 1, 5, 5, 7, 3, 8]),
    ("KeyUsageOCSPSigning", &[1, 3, 6, 1, 5, 5, 7, 3, 9]),
    ("KeyUsageMicrosoftServerGatedCrypto", &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
    ("KeyUsageNetscapeServerGatedCrypto", &[2, 16, 840, 1, 113_730, 4, 1]),
];

/// Places among them.
const ANY: usize = 0;
const SERVER_AUTH: usize = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

    fn ask(function: fn(&[Value]) -> Option<Value>, args: &[Value]) -> Json {
        function(args).map_or(Json::Null, |found| serde_json::to_value(&found).unwrap())
    }

    #[test]
    fn a_chain_holds_from_its_root_to_whose_it_is() {
        let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "Root");
        let root = params.self_signed(&root_key).unwrap().pem();
        let issuer = Issuer::new(params, root_key);
        let leaf = |usage| {
            let mut params = CertificateParams::new(vec!["shop.test".to_owned()]).unwrap();
            params.distinguished_name.push(rcgen::DnType::CommonName, "Shop");
            params.extended_key_usages = vec![usage];
            params.signed_by(&key, &issuer).unwrap().pem()
        };
        let (server, client) = (leaf(ExtendedKeyUsagePurpose::ServerAuth), leaf(ExtendedKeyUsagePurpose::ClientAuth));
        let other = CertificateParams::new(vec!["other.test".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        let holds = |first: &str, last: &str| ask(parse_and_verify, &[Value::from(format!("{first}{last}"))]);
        let found = holds(&root, &server);
        assert_eq!(found[0], true, "{found}");
        let names = ["Shop", "Root"].map(Json::from);
        assert_eq!(
            [&found[1][0]["Subject"]["CommonName"], &found[1][1]["Subject"]["CommonName"]],
            [&names[0], &names[1]]
        );
        assert_eq!((&found[1][0]["DNSNames"], &found[1][1]["IsCA"]), (&json!(["shop.test"]), &json!(true)));
        for (first, last) in [(&other, &server), (&server, &root), (&root, &client), (&root, &other)] {
            assert_eq!(holds(first, last), json!([false, []]));
        }
        assert_eq!(holds("", &server), json!([false, []]), "one alone is no chain");
        let with = |last: &str, options: Json| {
            let args = [Value::from(format!("{root}{last}")), Value::from(options)];
            ask(parse_and_verify_with_options, &args)[0].clone()
        };
        for (last, options, found) in [
            (&client, json!({"KeyUsages": ["KeyUsageClientAuth"]}), json!(true)),
            (&client, json!({"KeyUsages": ["KeyUsageAny"]}), json!(true)),
            (&server, json!({"DNSName": "shop.test"}), json!(true)),
            (&server, json!({"DNSName": "other.test"}), json!(false)),
            (&server, json!({"CurrentTime": 0}), json!(false)),
            (&server, json!({"CurrentTime": 253_402_300_800_000_000_u64}), json!(true)),
            // What is not understood is not kept.
            (&server, json!({"Nonsense": 1}), Json::Null),
            (&server, json!({"KeyUsages": ["Nonsense"]}), Json::Null),
        ] {
            assert_eq!(with(last, options.clone()), found, "{options}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_none() {
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for text in ["", "foobar", "YmFkc3RyaW5n", pem, &pem.repeat(CERTIFICATES_MAX + 1)] {
            for function in [parse_certificates, parse_request] {
                assert_eq!(ask(function, &[Value::from(text)]), Json::Null, "{text}");
            }
            assert_eq!(ask(parse_and_verify, &[Value::from(text)]), json!([false, []]));
        }
    }
}

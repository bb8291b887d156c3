//! What is wrong with a certificate that can be read: it has ended, its chain does not hang together, those who are shown it will not
//! believe it.

use std::time::{Duration, SystemTime};

use base_text::quoted;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::{CertificateError, Error};
use rustls_pki_types::{ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::tls::{Identity, Pem, TlsError};

/// One thing, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// It does not work, or else it will not before long.
    pub severe: bool,
    pub text: String,
}

/// Looks at a chain as of `now`. With `authorities` it has to be believed by whoever believes those, for one of the `names`.
pub fn faults(
    identity: &Identity,
    authorities: Option<&Pem>,
    names: &[String],
    now: SystemTime,
) -> Result<Vec<Fault>, TlsError> {
    let chain = identity.chain.certificates()?;
    let from = &identity.chain.from;
    let mut faults = Vec::new();
    let mut fault = |severe: bool, text: String| faults.push(Fault { severe, text: format!("{from}: {text}") });
    let parsed: Vec<X509Certificate<'_>> =
        chain.iter().filter_map(|one| X509Certificate::from_der(one).ok().map(|(_, parsed)| parsed)).collect();
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
    let mut over = false;
    for (n, certificate) in parsed.iter().enumerate() {
        let which = if n == 0 { "the certificate".to_owned() } else { format!("certificate {} of the chain", n + 1) };
        let (begins, ends) = (certificate.validity().not_before, certificate.validity().not_after);
        if ends.timestamp() < seconds {
            over = true;
            fault(true, format!("{which} has ended, {ends}: write a new one into the file"));
        } else if ends.timestamp() - seconds < SOON.as_secs() as i64 {
            let days = (ends.timestamp() - seconds) / 86_400;
            fault(false, format!("{which} ends in {days} days, {ends}: write a new one into the file"));
        }
        if begins.timestamp() > seconds {
            over = true;
            fault(true, format!("{which} is not valid before {begins}: look at this machine's clock, or wait"));
        }
    }
    for (n, pair) in parsed.windows(2).enumerate() {
        if pair[0].issuer() != pair[1].subject() {
            fault(
                true,
                format!(
                    "certificate {} was signed by {}, and the next one in the file is of {}: put the chain into order, the certificate of \
                     this machine first and each one's signer behind it",
                    n + 1,
                    quoted(pair[0].issuer().to_string()),
                    quoted(pair[1].subject().to_string())
                ),
            );
        }
    }
    if let (Some(authorities), false) = (authorities, over) {
        let roots = authorities.roots()?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, crate::tls::provider()).build();
        let verifier = verifier.map_err(|error| TlsError(format!("{}: {error}", authorities.from)))?;
        let (first, rest) = chain.split_first().ok_or_else(|| TlsError(format!("{from}: no certificate in it")))?;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds.max(0) as u64));
        let believed = |name: &String| {
            let name = ServerName::try_from(name.as_str()).map_err(|_| Error::General("not a name".into()))?.to_owned();
            verifier.verify_server_cert(first, rest, &name, &[], now).map(drop)
        };
        let tried: Vec<Result<(), Error>> = names.iter().map(believed).collect();
        if !tried.iter().any(Result::is_ok)
            && let Some(Err(error)) = tried.into_iter().next()
        {
            let text = match error {
                // Another authority of the same name signs with another key.
                Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                    format!(
                        "no authority in {} has signed it: take one of theirs, or add its signer there, on every member",
                        authorities.from
                    )
                }
                Error::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                ) => {
                    let names: Vec<String> = names.iter().map(|name| quoted(name).to_string()).collect();
                    format!(
                        "it is for none of {}: take one with the member's --name, or its host, among its names",
                        names.join(", ")
                    )
                }
                other => format!("the others will not believe it: {other}"),
            };
            fault(true, text);
        }
    }
    Ok(faults)
}

/// Whom a certificate is of: its common name, or all of its subject.
pub fn subject(certificate: &[u8]) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok().map(str::to_owned));
    name.or_else(|| Some(parsed.subject().to_string()))
}

/// The serial number of a certificate, as its bytes.
pub fn serial(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.raw_serial().to_vec())
}

/// Last moment of a certificate, if there is one that can be read.
pub fn end(certificate: Option<&[u8]>) -> Option<SystemTime> {
    let (_, parsed) = X509Certificate::from_der(certificate?).ok()?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// Whether a certificate says that this authority has signed it.
pub fn names_issuer(certificate: &[u8], authority: &[u8]) -> bool {
    let (Ok((_, certificate)), Ok((_, authority))) =
        (X509Certificate::from_der(certificate), X509Certificate::from_der(authority))
    else {
        return false;
    };
    certificate.issuer().as_raw() == authority.subject().as_raw()
}

/// Long enough to have a new one signed.
const SOON: Duration = Duration::from_secs(14 * 86_400);

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    use super::*;

    fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn pem(text: &str) -> Pem {
        Pem { from: "--cert-file c.pem".into(), text: text.as_bytes().to_vec() }
    }

    #[test]
    fn what_others_would_not_believe_is_said_before() {
        let (ours, other) = (authority("ours"), authority("other"));
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["edge-1".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let made = params.signed_by(&key, &ours).unwrap();
        let at = |year: u64, days: u64| {
            SystemTime::UNIX_EPOCH + Duration::from_secs(((year - 1970) * 1461 / 4 + days) * 86_400)
        };
        let look = |chain: &str, roots: Option<&str>, name: &str, now: SystemTime| {
            let identity = Identity { chain: pem(chain), key: pem(&key.serialize_pem()) };
            let roots = roots.map(pem);
            let faults = faults(&identity, roots.as_ref(), &[name.to_owned()], now).unwrap();
            faults.into_iter().map(|fault| (fault.severe, fault.text)).collect::<Vec<_>>()
        };
        let (chain, roots) = (made.pem(), ours.pem());
        let now = at(2026, 0);
        assert_eq!(look(&chain, Some(&roots), "edge-1", now), []);
        for (chain, roots, name, now, severe, part) in [
            (chain.clone(), Some(other.pem()), "edge-1", now, true, "no authority in"),
            (chain.clone(), Some(roots.clone()), "edge-2", now, true, "it is for none of \"edge-2\""),
            (chain.clone(), Some(roots.clone()), "edge-1", at(2031, 0), true, "has ended"),
            (chain.clone(), None, "edge-1", at(2019, 0), true, "not valid before"),
            (chain.clone(), None, "edge-1", at(2029, 360), false, "ends in"),
            (format!("{chain}{}", other.pem()), None, "edge-1", now, true, "put the chain into order"),
        ] {
            let found = look(&chain, roots.as_deref(), name, now);
            assert!(found.iter().any(|(is, text)| *is == severe && text.contains(part)), "{part}: {found:?}");
        }
    }
}

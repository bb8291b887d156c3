//! That a certificate is not revoked, as its authority says (OCSP, RFC 6960): what is asked, and whether the answer may be shown to
//! clients. One that cannot be believed would make them refuse the connection, so it is checked as they do.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

/// What an authority says of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub revoked: bool,
    pub from: SystemTime,
    /// It is not to be shown after that.
    pub until: SystemTime,
}

/// Where a certificate's authority answers, if it does.
pub fn responder(certificate: &X509Certificate<'_>) -> Option<String> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityInfoAccess(access) => access.accessdescs.iter().find_map(|one| {
            let is_ocsp = one.access_method.to_id_string() == "1.3.6.1.5.5.7.48.1";
            match &one.access_location {
                GeneralName::URI(url) if is_ocsp && url.starts_with("http://") => Some((*url).to_owned()),
                _ => None,
            }
        }),
        _ => None,
    })
}

/// The question about the first certificate of a chain, DER.
pub fn request(chain: &str) -> Option<Vec<u8>> {
    let id = Identified::of(chain)?.id;
    // OCSPRequest { TBSRequest { requestList { Request { reqCert } } } }
    Some(tlv(0x30, &tlv(0x30, &tlv(0x30, &tlv(0x30, &id)))))
}

/// Reads an answer. The error says why it is not to be shown.
pub fn read(chain: &str, answer: &[u8], now: SystemTime) -> Result<Said, String> {
    let asked = Identified::of(chain).ok_or("the chain has no certificate of its authority")?;
    let damaged = || "what is answered is no OCSP".to_owned();
    let mut whole = Der(Der(answer).take(0x30).ok_or_else(damaged)?);
    match whole.take(0x0A).ok_or_else(damaged)? {
        [0] => {}
        [code] => return Err(format!("the responder does not answer that (status {code})")),
        _ => return Err(damaged()),
    }
    let mut inner = whole.take(0xA0).and_then(|bytes| Der(bytes).take(0x30)).map(Der).ok_or_else(damaged)?;
    let kind = inner.take(0x06).ok_or_else(damaged)?;
    if kind != BASIC {
        return Err("the answer is of a kind that is not known".to_owned());
    }
    let mut basic = inner.take(0x04).and_then(|bytes| Der(bytes).take(0x30)).map(Der).ok_or_else(damaged)?;
    let signed = basic.whole().ok_or_else(damaged)?;
    let mut data = basic.take(0x30).map(Der).ok_or_else(damaged)?;
    let algorithm = basic.take(0x30).ok_or_else(damaged)?;
    let signature = basic.take(0x03).and_then(|bits| bits.strip_prefix(&[0])).ok_or_else(damaged)?;
    let others = basic.take(0xA0).and_then(|bytes| Der(bytes).take(0x30)).unwrap_or_default();
    if !asked.is_believed(signed, algorithm, signature, Der(others), now) {
        return Err("nobody whom the authority lets answer has signed it".to_owned());
    }
    let _version = data.take(0xA0);
    data.any().ok_or_else(damaged)?;
    data.take(0x18).ok_or_else(damaged)?;
    let mut each = data.take(0x30).map(Der).ok_or_else(damaged)?;
    while let Some(mut one) = each.take(0x30).map(Der) {
        let id = one.take(0x30).ok_or_else(damaged)?;
        let (status, _) = one.any().ok_or_else(damaged)?;
        let from = one.take(0x18).and_then(moment).ok_or_else(damaged)?;
        let until = one.take(0xA0).and_then(|bytes| Der(bytes).take(0x18)).and_then(moment);
        if tlv(0x30, id) != asked.id {
            continue;
        }
        let revoked = match status {
            0x80 => false,
            0xA1 => true,
            _ => return Err("the responder does not know the certificate".to_owned()),
        };
        let until = until.ok_or("the answer does not say how long it is good for")?;
        if now >= until || from > now + SKEW {
            return Err("the answer is not of now".to_owned());
        }
        return Ok(Said { revoked, from, until });
    }
    Err("the answer is about another certificate".to_owned())
}

/// A certificate as OCSP names it, and who has issued it.
struct Identified {
    /// CertID, DER.
    id: Vec<u8>,
    /// The certificate of the authority, DER.
    issuer: Vec<u8>,
}

impl Identified {
    fn of(chain: &str) -> Option<Identified> {
        let mut all = CertificateDer::pem_slice_iter(chain.as_bytes()).filter_map(Result::ok);
        let (first, second) = (all.next()?, all.next()?);
        let (_, certificate) = X509Certificate::from_der(&first).ok()?;
        let (_, issuer) = X509Certificate::from_der(&second).ok()?;
        if certificate.issuer() != issuer.subject() {
            return None;
        }
        let sha1 = |bytes: &[u8]| digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref().to_vec();
        let name = sha1(certificate.issuer().as_raw());
        let key = sha1(&issuer.public_key().subject_public_key.data);
        let id =
            [tlv(0x30, SHA1), tlv(0x04, &name), tlv(0x04, &key), tlv(0x02, certificate.tbs_certificate.raw_serial())];
        Some(Identified { id: tlv(0x30, &id.concat()), issuer: second.to_vec() })
    }

    /// The authority has signed it itself, or one whom it has given a certificate for that (RFC 6960 section 4.2.2.2).
    fn is_believed(
        &self,
        signed: &[u8],
        algorithm: &[u8],
        signature: &[u8],
        mut others: Der<'_>,
        now: SystemTime,
    ) -> bool {
        let Ok((_, issuer)) = X509Certificate::from_der(&self.issuer) else { return false };
        if verifies(&issuer, signed, algorithm, signature) {
            return true;
        }
        let seconds = i64::try_from(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()).unwrap_or_default();
        while let Some(bytes) = others.whole().map(<[u8]>::to_vec) {
            others.any();
            let Ok((_, other)) = X509Certificate::from_der(&bytes) else { continue };
            let may = other.extended_key_usage().ok().flatten().is_some_and(|usage| usage.value.ocsp_signing);
            let validity = other.validity();
            let timely = validity.not_before.timestamp() <= seconds && seconds <= validity.not_after.timestamp();
            let of = Der(&bytes).take(0x30).map(Der);
            let given = of.and_then(|mut of| {
                let signed = of.whole()?;
                of.take(0x30)?;
                let (algorithm, bits) = (of.take(0x30)?, of.take(0x03)?);
                Some(verifies(&issuer, signed, algorithm, bits.get(1..)?))
            });
            if may && timely && given == Some(true) && verifies(&other, signed, algorithm, signature) {
                return true;
            }
        }
        false
    }
}

fn verifies(by: &X509Certificate<'_>, signed: &[u8], algorithm: &[u8], signature: &[u8]) -> bool {
    let key = &by.public_key().subject_public_key.data;
    let known = default_provider().signature_verification_algorithms;
    let fits = known.all.iter().filter(|known| known.signature_alg_id().as_ref() == algorithm);
    fits.into_iter().any(|known| known.verify_signature(key, signed, signature).is_ok())
}

/// GeneralizedTime as certificates have it: `20260102030405Z`.
fn moment(text: &[u8]) -> Option<SystemTime> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() == 15 && text.ends_with('Z'))?;
    let part = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let date = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    let seconds = base_text::calendar::seconds_to(date, (part(8, 10)?, part(10, 12)?, part(12, 14)?))?;
    Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?))
}

/// DER that is walked through.
#[derive(Clone, Copy)]
struct Der<'b>(&'b [u8]);

impl<'b> Der<'b> {
    /// The tag of the next value, and what is in it.
    fn any(&mut self) -> Option<(u8, &'b [u8])> {
        let (tag, head, length) = self.head()?;
        let value = self.0.get(head..head + length)?;
        self.0 = &self.0[head + length..];
        Some((tag, value))
    }

    /// The next value, if it is one of these.
    fn take(&mut self, tag: u8) -> Option<&'b [u8]> {
        if self.0.first() != Some(&tag) {
            return None;
        }
        self.any().map(|(_, value)| value)
    }

    /// The next value with its head, which stays.
    fn whole(&self) -> Option<&'b [u8]> {
        let (_, head, length) = self.head()?;
        self.0.get(..head + length)
    }

    fn head(&self) -> Option<(u8, usize, usize)> {
        let (tag, first) = (*self.0.first()?, *self.0.get(1)?);
        match first {
            0..=0x7F => Some((tag, 2, usize::from(first))),
            0x81..=0x83 => {
                let count = usize::from(first & 0x7F);
                let bytes = self.0.get(2..2 + count)?;
                Some((tag, 2 + count, bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte))))
            }
            _ => None,
        }
    }
}

fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = value.len();
    let mut out = vec![tag];
    match length {
        0..=0x7F => out.push(length as u8),
        0x80..=0xFF => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend_from_slice(value);
    out
}

/// SHA-1, without parameters: of names, where nobody gains by two that are alike.
const SHA1: &[u8] = &[0x06, 0x05, 0x2B, 0x0E, 0x03, 0x02, 0x1A, 0x05, 0x00];
/// id-pkix-ocsp-basic.
const BASIC: &[u8] = &[0x2B, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];
/// Clocks differ.
const SKEW: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use std::process::Command;

    /// What OpenSSL, another program, asks and answers.
    #[test]
    fn answers_of_another_program_are_read_and_checked() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let authority = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
        };
        let (ours, other) = (authority("ours"), authority("other"));
        let mut params = CertificateParams::new(vec!["shop.test".to_owned()]).unwrap();
        params.serial_number = Some(vec![0x12, 0x34].into());
        let leaf = params.signed_by(&KeyPair::generate().unwrap(), &ours).unwrap();
        let chain = leaf.pem() + &ours.pem();
        let write = |name: &str, bytes: &[u8]| std::fs::write(path(name), bytes).unwrap();
        write("ca.pem", ours.pem().as_bytes());
        write("ca.key", ours.key().serialize_pem().as_bytes());
        write("other.pem", other.pem().as_bytes());
        write("other.key", other.key().serialize_pem().as_bytes());
        write("request", &request(&chain).unwrap());
        let answer = |status: &str, signer: &str| {
            write("index", format!("{status}\t1234\tunknown\t/CN=shop.test\n").as_bytes());
            let done = Command::new("openssl")
                .args(["ocsp", "-index", &path("index"), "-CA", &path("ca.pem"), "-ndays", "1", "-noverify"])
                .args(["-rsigner", &path(&format!("{signer}.pem")), "-rkey", &path(&format!("{signer}.key"))])
                .args(["-reqin", &path("request"), "-respout", &path("answer")])
                .output();
            match done {
                Ok(done) if done.status.success() => Some(std::fs::read(path("answer")).unwrap()),
                other => {
                    println!("skipped: openssl does not answer: {other:?}");
                    None
                }
            }
        };
        let now = SystemTime::now();
        let Some(good) = answer("V\t400101000000Z\t", "ca") else { return };
        let said = read(&chain, &good, now).unwrap();
        assert!(!said.revoked && said.from <= now + SKEW && said.until > now + Duration::from_secs(80_000));
        assert_eq!(read(&chain, &good, now + Duration::from_secs(90_000)), Err("the answer is not of now".to_owned()));
        let revoked = answer("R\t400101000000Z\t250101000000Z", "ca").unwrap();
        assert!(read(&chain, &revoked, now).unwrap().revoked);
        let stranger = answer("V\t400101000000Z\t", "other").unwrap();
        assert!(read(&chain, &stranger, now).unwrap_err().contains("nobody whom the authority lets"));
        for cut in 0..good.len() {
            assert!(read(&chain, &good[..cut], now).is_err(), "{cut}");
        }
        for at in 0..good.len() {
            let mut changed = good.clone();
            changed[at] ^= 0x20;
            // The signer's certificate goes with it, which is not needed.
            assert!(read(&chain, &changed, now).map_or(true, |other| other == said), "{at}");
        }
        assert_eq!(crate::issued::facts(&chain).unwrap().responder, None);
    }
}

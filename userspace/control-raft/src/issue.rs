//! A cluster that issues its members' certificates itself: the authority's key, what seals it, and what it signs.
//!
//! The first member founds the authority. Its private key lies in the state of the Raft group, sealed with a key that no log holds: each
//! primary has it in a file, and gets it when it joins. So every primary can sign, and who has a snapshot or a backup cannot.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use control_api::certificates;
use control_api::tls::TlsFiles;
use control_state::Authority;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::secret::hex;

/// What a member keeps of it, in its data directory.
#[derive(Debug, Clone)]
pub struct Place {
    directory: PathBuf,
}

/// How a member that joined finds its cluster again.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Joined {
    pub cluster_name: String,
    /// Name → peer URL of the primaries of that time, this member among them if it is one.
    pub primaries: std::collections::BTreeMap<String, String>,
}

/// Seals what the state holds of the authority.
pub struct Seal {
    key: LessSafeKey,
    text: String,
}

impl Place {
    pub fn new(data_dir: &Path) -> Place {
        Place { directory: data_dir.join("peer") }
    }

    /// The member has a certificate.
    pub fn is_settled(&self) -> bool {
        self.path(CERTIFICATE).exists()
    }

    pub fn files(&self) -> TlsFiles {
        let file = |name: &str| ("the certificate that the cluster issued,".to_owned(), self.path(name));
        TlsFiles { chain: file(CERTIFICATE), key: file(KEY), authorities: Some(file(AUTHORITY)), strangers: true }
    }

    /// What this member asks for its first certificate with, its key and the request: the same until it has one, also after another start,
    /// so that the cluster knows who asks again.
    pub fn asking(&self) -> Result<(KeyPair, String), String> {
        let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", self.directory.display());
        let key = fs::read_to_string(self.path(ASKING_KEY)).ok().and_then(|key| KeyPair::from_pem(&key).ok());
        if let (Some(key), Ok(asking)) = (key, fs::read_to_string(self.path(ASKING))) {
            return Ok((key, asking));
        }
        let key = KeyPair::generate().map_err(|e| failed(&e))?;
        let asking = request(&key).map_err(|e| failed(&e))?;
        let written = self.write(ASKING_KEY, &key.serialize_pem()).and_then(|()| self.write(ASKING, &asking));
        written.map_err(|e| failed(&e))?;
        Ok((key, asking))
    }

    /// The certificate comes last: until it is there the member has not settled.
    pub fn settle(&self, key: &str, authority: &str, certificate: &str) -> io::Result<()> {
        self.write(KEY, key)?;
        self.write(AUTHORITY, authority)?;
        self.write(CERTIFICATE, certificate)?;
        for asked in [ASKING, ASKING_KEY] {
            match fs::remove_file(self.path(asked)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// A new certificate for the key that is there.
    pub fn renew(&self, certificate: &str) -> io::Result<()> {
        self.write(CERTIFICATE, certificate)
    }

    pub fn key(&self) -> io::Result<String> {
        fs::read_to_string(self.path(KEY))
    }

    pub fn keep_seal(&self, seal: &str) -> io::Result<()> {
        self.write(SEAL, seal)
    }

    pub fn seal(&self) -> Option<Seal> {
        Seal::read(fs::read_to_string(self.path(SEAL)).ok()?.trim())
    }

    pub fn keep_joined(&self, joined: &Joined) -> io::Result<()> {
        self.write(JOINED, &serde_json::to_string(joined).map_err(io::Error::other)?)
    }

    pub fn joined(&self) -> Option<Joined> {
        serde_json::from_slice(&fs::read(self.path(JOINED)).ok()?).ok()
    }

    /// What this member keeps of the authority that signs: the founder from the beginning, other primaries once they know it. A group that
    /// has lost its state has it from there.
    pub fn founding(&self) -> Option<(String, String)> {
        let authority = certificates_of(&fs::read_to_string(self.path(AUTHORITY)).ok()?).into_iter().next()?;
        Some((authority, fs::read_to_string(self.path(SEALED)).ok()?))
    }

    /// Whom this member believes from now on, the authority that signs first; in a primary that can sign, with the key of that one.
    pub fn keep_authorities(&self, believed: &str, sealed_key: Option<&str>) -> io::Result<()> {
        let differs = |name: &str, text: &str| fs::read_to_string(self.path(name)).ok().as_deref() != Some(text);
        if let Some(sealed_key) = sealed_key.filter(|key| differs(SEALED, key)) {
            self.write(SEALED, sealed_key)?;
        }
        if differs(AUTHORITY, believed) { self.write(AUTHORITY, believed) } else { Ok(()) }
    }

    /// Makes an authority, and this member's certificate with it.
    pub fn found(&self, name: &str, hosts: &[String], (lifetime, lasts): (Duration, Duration)) -> Result<(), String> {
        let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", self.directory.display());
        let seal = Seal::draw().ok_or_else(|| failed(&"the machine has no random numbers"))?;
        let now = SystemTime::now();
        let (certificate, sealed) = make(&seal, lasts, now).map_err(|e| failed(&e))?;
        let own = KeyPair::generate().map_err(|e| failed(&e))?;
        let authority =
            Authority { certificate: certificate.clone(), sealed_key: sealed.clone(), ..Authority::default() };
        let request = request(&own).map_err(|e| failed(&e))?;
        let issued = issue(&authority, &seal, &request, name, hosts, (lifetime, 0), now).map_err(|e| failed(&e))?;
        let written = self
            .write(SEAL, &seal.text)
            .and_then(|()| self.write(SEALED, &sealed))
            .and_then(|()| self.settle(&own.serialize_pem(), &certificate, &issued));
        written.map_err(|e| failed(&e))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// All or nothing, for this user alone.
    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let draft = self.path(&format!("{name}.new"));
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, self.path(name))?;
        fs::File::open(&self.directory)?.sync_all()
    }
}

impl Seal {
    pub fn draw() -> Option<Seal> {
        let mut key = [0; SEAL_BYTES];
        aws_lc_rs::rand::fill(&mut key).ok()?;
        Seal::read(&hex(&key))
    }

    /// From hexadecimal digits.
    pub fn read(text: &str) -> Option<Seal> {
        let key = unhex(text).filter(|key| key.len() == SEAL_BYTES)?;
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).ok()?);
        Some(Seal { key, text: text.to_owned() })
    }

    /// For another primary.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn close(&self, plain: &[u8]) -> Option<String> {
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        let once = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(once, Aad::empty(), &mut sealed).ok()?;
        Some(hex(&[nonce.as_slice(), &sealed].concat()))
    }

    pub fn open(&self, sealed: &str) -> Option<Vec<u8>> {
        let bytes = unhex(sealed)?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let plain = self.key.open_in_place(nonce, Aad::empty(), &mut sealed).ok()?;
        Some(plain.to_vec())
    }
}

/// An authority that is good for so long from `now` on: its certificate, and its key, sealed. No two have the same name, so that a
/// certificate says by itself which of them has signed it.
pub fn make(seal: &Seal, lasts: Duration, now: SystemTime) -> Result<(String, String), String> {
    let text = |e: rcgen::Error| e.to_string();
    let mut drawn = [0; 4];
    aws_lc_rs::rand::fill(&mut drawn).map_err(|_| "the machine has no random numbers")?;
    let key = KeyPair::generate().map_err(text)?;
    let mut params = CertificateParams::new(Vec::new()).map_err(text)?;
    params.distinguished_name.push(DnType::CommonName, format!("the members of a weir cluster, {}", hex(&drawn)));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = OffsetDateTime::from(now);
    (params.not_before, params.not_after) = (now - SKEW, now + lasts);
    let certificate = params.self_signed(&key).map_err(text)?.pem();
    let sealed = seal.close(key.serialize_pem().as_bytes()).ok_or("the key cannot be sealed")?;
    Ok((certificate, sealed))
}

/// The certificates in a text, each as PEM.
pub fn certificates_of(text: &str) -> Vec<String> {
    let ends = text.match_indices(END).map(|(at, end)| at + end.len());
    let mut from = 0;
    let each = ends.map(|end| text[std::mem::replace(&mut from, end)..end].trim_start().to_owned() + "\n");
    each.collect()
}

/// Asks for a certificate of this key; what else it should say is for the authority to decide.
pub fn request(key: &KeyPair) -> Result<String, rcgen::Error> {
    CertificateParams::new(Vec::new())?.serialize_request(key)?.pem()
}

/// A certificate for a member: its name, and the hosts of its peer URLs. Its serial number says at which version of the configuration it
/// was issued.
pub fn issue(
    authority: &Authority,
    seal: &Seal,
    request: &str,
    name: &str,
    hosts: &[String],
    (lifetime, version): (Duration, u64),
    now: SystemTime,
) -> Result<String, String> {
    let key = seal.open(&authority.sealed_key).and_then(|key| String::from_utf8(key).ok());
    let key = key.ok_or("the authority's key is sealed with another key than this member has")?;
    let text = |e: rcgen::Error| e.to_string();
    let issuer =
        Issuer::from_ca_cert_pem(&authority.certificate, KeyPair::from_pem(&key).map_err(text)?).map_err(text)?;
    let request = CertificateSigningRequestParams::from_pem(request).map_err(text)?;
    let mut names: Vec<String> = vec![name.to_owned()];
    names.extend(hosts.iter().filter(|host| *host != name).cloned());
    let mut params = CertificateParams::new(names).map_err(text)?;
    params.distinguished_name.push(DnType::CommonName, name);
    let mut drawn = [0; 8];
    aws_lc_rs::rand::fill(&mut drawn).map_err(|_| "the machine has no random numbers")?;
    params.serial_number = Some([&[SERIAL][..], &version.to_be_bytes(), &drawn].concat().into());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    // What outlives its authority is good for nothing.
    let ends = certificates::end(CertificateDer::from_pem_slice(authority.certificate.as_bytes()).ok().as_deref());
    let ends = ends.map_or(now + lifetime, |ends| ends.min(now + lifetime));
    (params.not_before, params.not_after) = (OffsetDateTime::from(now) - SKEW, ends.into());
    Ok(params.signed_by(&request.public_key, &issuer).map_err(text)?.pem())
}

/// At which version a certificate was issued; 0 where it does not say.
pub fn version_of(certificate: &[u8]) -> u64 {
    let serial = certificates::serial(certificate).unwrap_or_default();
    match serial.split_first() {
        Some((&SERIAL, rest)) if rest.len() == 16 => {
            rest.first_chunk().map_or(0, |version| u64::from_be_bytes(*version))
        }
        _ => 0,
    }
}

/// Why a certificate cannot be issued for this name, if so.
pub fn unfit(name: &str) -> Option<&'static str> {
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
    };
    let fits = name.len() <= 253 && name.split('.').all(label) && name.parse::<IpAddr>().is_err();
    (!fits).then_some("a certificate is for a name of letters, digits, dashes and dots; choose such a --name")
}

pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| if let [high, low] = pair { Some(digit(*high)? << 4 | digit(*low)?) } else { None }).collect()
}

const END: &str = "-----END CERTIFICATE-----";
const CERTIFICATE: &str = "cert.pem";
const KEY: &str = "key.pem";
const ASKING: &str = "joining.csr";
const ASKING_KEY: &str = "joining.key";
const AUTHORITY: &str = "authority.pem";
const SEAL: &str = "seal";
/// The authority's key, sealed.
const SEALED: &str = "authority.sealed";
const JOINED: &str = "cluster.json";
/// The first byte of the serial numbers that say a version: positive, as they have to be.
const SERIAL: u8 = 0x57;
const SEAL_BYTES: usize = 32;
/// Clocks of members differ.
const SKEW: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_with_its_key_alone() {
        let (one, other) = (Seal::draw().unwrap(), Seal::draw().unwrap());
        let sealed = one.close(b"a private key").unwrap();
        assert_eq!(one.open(&sealed).as_deref(), Some(b"a private key".as_slice()));
        assert_eq!(Seal::read(one.text()).unwrap().open(&sealed).as_deref(), Some(b"a private key".as_slice()));
        assert_eq!(other.open(&sealed), None);
        let mut changed = sealed.clone().into_bytes();
        changed[40] ^= 1;
        assert_eq!(one.open(std::str::from_utf8(&changed).unwrap()), None);
        assert!(one.open("").is_none() && one.open("zz").is_none() && one.open("abc").is_none());
    }

    #[test]
    fn a_member_asks_as_the_same_until_it_has_a_certificate() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::new(directory.path());
        let (key, asked) = place.asking().unwrap();
        let (again, repeated) = Place::new(directory.path()).asking().unwrap();
        assert_eq!((key.serialize_pem(), &asked), (again.serialize_pem(), &repeated));
        // It was written down in part, as far as one can tell.
        fs::write(directory.path().join("peer/joining.key"), "-----BEGIN").unwrap();
        let (key, other) = place.asking().unwrap();
        assert_ne!(asked, other);
        assert!(CertificateSigningRequestParams::from_pem(&other).is_ok());
        place.settle(&key.serialize_pem(), "authority", "certificate").unwrap();
        let left = fs::read_dir(directory.path().join("peer")).unwrap().flatten().map(|file| file.file_name());
        let mut left: Vec<_> = left.collect();
        left.sort();
        assert_eq!(left, ["authority.pem", "cert.pem", "key.pem"], "nothing is left of how it asked");
        assert_ne!(place.asking().unwrap().1, other);
    }

    #[test]
    fn a_founder_signs_for_names_that_fit() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::new(directory.path());
        assert!(!place.is_settled());
        place.found("n1", &["127.0.0.1".into()], (Duration::from_secs(60), Duration::from_secs(600))).unwrap();
        assert!(place.is_settled() && place.seal().is_some());
        let tls = crate::PeerTls::of(place.files()).unwrap();
        assert!(tls.ends().is_some());
        let (authority, sealed_key) = place.founding().unwrap();
        assert!(!authority.contains("PRIVATE") && !sealed_key.contains("PRIVATE"));
        let authority = Authority { certificate: authority, sealed_key, ..Authority::default() };
        let request = request(&KeyPair::generate().unwrap()).unwrap();
        let hosts = ["10.0.0.2".to_owned()];
        let issued = issue(
            &authority,
            &place.seal().unwrap(),
            &request,
            "n2",
            &hosts,
            (Duration::from_secs(60), 7),
            SystemTime::now(),
        );
        let issued = issued.unwrap();
        let read = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        assert_eq!((version_of(&read(&issued)), version_of(&read(&authority.certificate))), (7, 0));
        let other = Seal::draw().unwrap();
        assert!(
            issue(&authority, &other, &request, "n2", &[], (Duration::from_secs(60), 7), SystemTime::now()).is_err()
        );
        for (name, fits) in
            [("n2", true), ("edge-1.shop", true), ("a_b", false), ("", false), ("10.0.0.1", false), ("-a", false)]
        {
            assert_eq!(unfit(name).is_none(), fits, "{name}");
        }
    }
}

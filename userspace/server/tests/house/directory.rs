//! Users of a directory: OpenLDAP's server, in plain text, with StartTLS and over TLS.

use crate::authentication::House;
use crate::leash::Leashed;
use crate::world::{Answer, eventually, free_port, program};
use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// A slapd with ann in it, at a port of plain text and one of TLS.
struct Directory {
    folder: tempfile::TempDir,
    plain: u16,
    secure: u16,
    runs: Option<Leashed>,
    certificate: String,
    key: String,
}

const USERS: &str = "dn: dc=test\nobjectClass: domain\ndc: test\n\ndn: ou=people,dc=test\nobjectClass: organizationalUnit\nou: people\n\n\
                     dn: uid=ann,ou=people,dc=test\nobjectClass: account\nobjectClass: simpleSecurityObject\nuid: ann\nuserPassword: ann:s secret\n";

impl Directory {
    fn start() -> Option<Directory> {
        let (Some(_), Some(add)) = (program("slapd"), program("slapadd")) else { return None };
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let made = rcgen::generate_simple_self_signed(vec!["directory.test".to_owned()]).unwrap();
        fs::write(path("cert.pem"), made.cert.pem()).unwrap();
        fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
        fs::write(path("users.ldif"), USERS).unwrap();
        fs::create_dir(path("db")).unwrap();
        let at = folder.path().display();
        fs::write(
            path("slapd.conf"),
            format!(
                "include /etc/ldap/schema/core.schema\ninclude /etc/ldap/schema/cosine.schema\nmodulepath /usr/lib/ldap\n\
                 moduleload back_mdb\nTLSCertificateFile {at}/cert.pem\nTLSCertificateKeyFile {at}/key.pem\n\
                 database mdb\nsuffix dc=test\nrootdn cn=root,dc=test\ndirectory {at}/db\n"
            ),
        )
        .unwrap();
        let added =
            Command::new(add).args(["-f", "slapd.conf", "-l", "users.ldif"]).current_dir(folder.path()).output();
        let added = added.unwrap();
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        let (plain, secure) = (free_port(), free_port());
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let mut directory = Directory { folder, plain, secure, runs: None, certificate, key };
        directory.run();
        Some(directory)
    }

    fn run(&mut self) {
        let urls = format!("ldap://127.0.0.1:{} ldaps://127.0.0.1:{}", self.plain, self.secure);
        let mut command = Command::new(program("slapd").unwrap());
        command.args(["-d", "0", "-h", &urls, "-f", "slapd.conf"]).current_dir(self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.runs = Some(Leashed::start(&mut command).unwrap());
        let at = format!("127.0.0.1:{}", self.plain);
        eventually("the directory listens", || std::net::TcpStream::connect(&at).ok());
    }

    fn filter(&self, port: u16, more: &str) -> String {
        format!(
            "{{name: v, kind: Validator, basicAuth: {{mode: LDAP, ldap: {{host: 127.0.0.1, port: {port}, baseDN: 'ou=people,dc=test', \
             uid: uid, {more}}}}}}}"
        )
    }
}

fn ask(house: &House, user: &str, password: &str) -> Answer {
    use base64::Engine as _;
    let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    house.ask(&[("Authorization", &format!("Basic {credentials}")), ("X-Auth-User", "root")])
}

#[test]
fn users_of_a_directory_get_in_with_their_passwords_and_nobody_else() {
    let Some(mut directory) = Directory::start() else { return };
    let [certificate, key] = [&directory.certificate, &directory.key].map(|pem| pem.replace('\n', "\\n"));
    let trusted = format!("serverName: directory.test, rootCertBase64: \"{certificate}\"");
    for (port, more) in [
        (directory.plain, "skipTLS: true"),
        (directory.plain, &*trusted),
        (directory.secure, &*format!("useSSL: true, {trusted}")),
        (directory.secure, "useSSL: true, insecure: true"),
    ] {
        let house = House::with(&directory.filter(port, more));
        let answer = ask(&house, "ann", "ann:s secret");
        assert!(answer.status == 200 && answer.body.contains("X-Auth-User:[ann]"), "{more}: {answer:?}");
        assert!(!answer.body.contains("root"));
        for (user, password) in [
            ("ann", "wrong"),
            ("ann", ""),
            ("bob", "x"),
            ("", ""),
            ("ann,ou=people", "ann:s secret"),
            ("*", "ann:s secret"),
        ] {
            assert_eq!(ask(&house, user, password).status, 401, "{more}: {user} {password}");
        }
    }
    // A certificate of somebody else's, and TLS where there is none: nobody's password is shown to them.
    for (port, more) in [
        (directory.secure, "useSSL: true, serverName: other.test".to_owned()),
        (directory.plain, trusted.replace("directory.test", "other.test")),
        (directory.plain, format!("useSSL: true, {trusted}")),
    ] {
        let house = House::with(&directory.filter(port, &more));
        assert_eq!(ask(&house, "ann", "ann:s secret").status, 503, "{more}");
        assert!(house.limit("directory_failures") >= 1.0);
    }
    // What it took holds for a minute; who is new is told that it cannot be known, until the directory is back.
    let house = House::with(&directory.filter(directory.plain, "skipTLS: true"));
    assert_eq!(ask(&house, "ann", "ann:s secret").status, 200);
    directory.runs = None;
    assert_eq!(ask(&house, "ann", "ann:s secret").status, 200);
    assert_eq!(ask(&house, "ann", "other").status, 503);
    // From now on it wants to see a certificate of whoever speaks TLS to it.
    let at = directory.folder.path();
    let mut written = fs::read_to_string(at.join("slapd.conf")).unwrap();
    written.insert_str(0, &format!("TLSCACertificateFile {}/cert.pem\nTLSVerifyClient demand\n", at.display()));
    fs::write(at.join("slapd.conf"), written).unwrap();
    directory.run();
    for (more, status) in
        [(trusted.clone(), 503), (format!("{trusted}, certBase64: \"{certificate}\", keyBase64: \"{key}\""), 200)]
    {
        let house = House::with(&directory.filter(directory.plain, &more));
        assert_eq!(ask(&house, "ann", "ann:s secret").status, status);
    }
    eventually("it is asked again", || (ask(&house, "ann", "other").status == 401).then_some(()));
    // One that takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let house = House::with(&directory.filter(silent.local_addr().unwrap().port(), "skipTLS: true"));
    let began = std::time::Instant::now();
    let waits = thread::scope(|scope| {
        let asked = scope.spawn(|| ask(&house, "ann", "ann:s secret").status);
        thread::sleep(Duration::from_millis(300));
        assert_eq!(house.request("GET", "/plain", &[], "").status, 200, "others do not wait");
        asked.join().unwrap()
    });
    assert!(waits == 503 && began.elapsed() >= Duration::from_secs(4), "{waits}");
}

//! User names and passwords (RFC 7617), checked against hashes.

use super::htpasswd::{PASSWORD_MAX, Users};
use super::ldap::{Directory, LdapSpec};
use super::token::authorization;
use super::user_file::UserFile;
use super::user_store::{self, UserStore};
use crate::answers::{Answers, Asking, Stand};
use crate::heavy;
use base_model::problem::{at, one_of};
use base_model::{Findings, Problem};
use base_telemetry::Limit;
use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use edge_pipeline::Parts;
use edge_pipeline::custom_data::CustomData;
use proto_http::Headers;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Where users and the hashes of their passwords are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BasicAuthSpec {
    /// FILE: a file on every machine. ETCD: custom data of the cluster, which all machines have alike. LDAP: a
    /// directory, which is asked to let the user bind. USERS: `users` of the document. Default FILE.
    pub mode: String,
    /// The file, as `htpasswd` writes it: bcrypt, argon2, SHA-crypt, apr1, SHA-1. It is looked at every second; while it is not there
    /// nobody gets in. Default `/etc/apache2/.htpasswd`.
    pub user_file: String,
    /// For mode ETCD: name of the custom data kind, a slash, and what the ids of its items begin with, if anything. An item holds a user,
    /// `{"username": "ann", "password": HASH}` with a hash as `htpasswd` makes it; `key` is as good as `username`, and without both it is
    /// the id. Changes hold for the next request. Default `credentials/`.
    pub etcd_prefix: String,
    /// For mode USERS: lines as `htpasswd` writes them, `user:hash`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-secret" = true))]
    pub users: Vec<String>,
    /// For mode LDAP: the directory. A password that it took holds for a minute without another question, one that it refused for five
    /// seconds; while it does not answer, requests get 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ldap: Option<LdapSpec>,
}

impl Default for BasicAuthSpec {
    fn default() -> Self {
        let (mode, user_file) = ("FILE".to_owned(), "/etc/apache2/.htpasswd".to_owned());
        Self { mode, user_file, etcd_prefix: "credentials/".to_owned(), users: Vec::new(), ldap: None }
    }
}

/// How long a password that was right is not checked again, and one that was wrong.
const RIGHT_HOLDS: Duration = Duration::from_secs(300);
const WRONG_HOLDS: Duration = Duration::from_secs(5);

/// The same of a password that a directory took: what is changed there counts that soon.
const BOUND_HOLDS: Duration = Duration::from_secs(60);

/// Checks that are remembered.
const REMEMBERED: usize = 10_000;

/// Checks on their way at the same time.
const CHECKS_MAX: usize = 256;

/// How long a check may wait for its turn. Guesses at slow hashes fill the queue faster than it empties: who has waited for so long is told
/// to come back, and one that nobody waits for any more takes no turn.
const WAIT_MOST: Duration = Duration::from_secs(5);

/// What is asked for where nothing, or nothing right, was sent.
pub(super) const CHALLENGE: &str = "Basic realm=\"restricted\", charset=\"UTF-8\"";

impl BasicAuthSpec {
    pub(super) fn validate(&self, path: &str, findings: &mut Findings) {
        match self.mode.as_str() {
            "FILE" => {
                if self.user_file.is_empty() {
                    findings.problem(Problem::new(at(path, "userFile"), "no file").accepted("a path on every machine"));
                }
            }
            "ETCD" => {
                if user_store::split(&self.etcd_prefix).0.is_empty() {
                    let problem = Problem::new(at(path, "etcdPrefix"), "names no custom data kind");
                    findings.problem(problem.text(&self.etcd_prefix).accepted("KIND/, e.g. credentials/"));
                }
            }
            "USERS" => {
                let read = Users::read(&self.users.join("\n"));
                if read.len() == 0 {
                    let problem = Problem::new(at(path, "users"), "none of its lines lets anybody in");
                    findings.problem(problem.accepted("lines of htpasswd, user:hash"));
                }
            }
            "LDAP" => match &self.ldap {
                Some(ldap) => ldap.validate(&at(path, "ldap"), findings),
                None => {
                    findings.problem(Problem::new(at(path, "ldap"), "missing").advice("say where the directory is"))
                }
            },
            _ => {
                let problem = Problem::new(at(path, "mode"), "not a mode").text(&self.mode);
                findings.problem(problem.accepted(one_of(&["FILE", "ETCD", "LDAP", "USERS"])));
            }
        }
    }
}

/// Why nobody is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BasicError {
    Missing,
    Malformed,
    Wrong,
    /// As many passwords are being checked as may be.
    Busy,
    /// The directory was not reached, or did not say.
    Unknown,
}

impl fmt::Display for BasicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BasicError::Missing => "no user",
            BasicError::Malformed => "malformed credentials",
            BasicError::Wrong => "wrong user or password",
            BasicError::Busy => "too many passwords are being checked",
            BasicError::Unknown => "the directory does not say who this is",
        })
    }
}

/// Ready to check.
pub(super) struct BasicAuth {
    spec: BasicAuthSpec,
    users: Source,
    checks: Arc<Answers<bool>>,
    busy: Limit,
    failed: Limit,
}

/// Where users are.
enum Source {
    File(Arc<UserFile>),
    Store(UserStore),
    Directory(Arc<Asked>),
    Written(Arc<Users>),
}

/// A directory, and why it did not answer when it was asked last.
struct Asked {
    directory: Directory,
    error: Mutex<Option<String>>,
}

impl Source {
    /// Users with their hashes; a directory shows them to nobody.
    fn users(&self) -> Option<Arc<Users>> {
        match self {
            Source::File(file) => Some(file.users()),
            Source::Store(store) => Some(store.users()),
            Source::Written(users) => Some(users.clone()),
            Source::Directory(_) => None,
        }
    }
}

impl BasicAuth {
    pub(super) fn new(
        spec: BasicAuthSpec,
        previous: Option<&BasicAuth>,
        parts: &Parts<'_>,
    ) -> Result<BasicAuth, String> {
        let users = match spec.mode.as_str() {
            "ETCD" => Source::Store(UserStore::new(&spec.etcd_prefix, CustomData::here())),
            "LDAP" => {
                let directory = Directory::new(spec.ldap.clone().ok_or("ldap: missing")?)?;
                Source::Directory(Arc::new(Asked { directory, error: Mutex::default() }))
            }
            "USERS" => Source::Written(Arc::new(Users::read(&spec.users.join("\n")))),
            _ => Source::File(UserFile::shared(&spec.user_file)),
        };
        let checks = match previous.filter(|known| known.spec == spec) {
            Some(known) => known.checks.clone(),
            None => Answers::new(REMEMBERED, CHECKS_MAX)?,
        };
        let limits = parts.telemetry.limits();
        let (busy, failed) = (limits.register("password_checks"), limits.register("directory_failures"));
        Ok(BasicAuth { spec, users, checks, busy, failed })
    }

    /// Whose credentials these are.
    pub(super) async fn check(&self, headers: &Headers) -> Result<String, BasicError> {
        let text = authorization(headers, "Basic").ok_or(BasicError::Missing)?;
        let (user, password) = read_credentials(text).ok_or(BasicError::Malformed)?;
        let right = match &self.users {
            Source::Directory(asked) => self.binds(asked, &user, password).await,
            Source::File(_) | Source::Store(_) | Source::Written(_) => {
                self.is_right(&user, password).await.ok_or(BasicError::Busy)
            }
        };
        match right {
            Ok(true) => Ok(user),
            Ok(false) => Err(BasicError::Wrong),
            Err(error) => {
                let counted = if error == BasicError::Unknown { &self.failed } else { &self.busy };
                counted.hit(base_runtime::worker_index());
                Err(error)
            }
        }
    }

    /// Whether the directory takes the password.
    async fn binds(&self, asked: &Arc<Asked>, user: &str, password: Vec<u8>) -> Result<bool, BasicError> {
        let question = self.checks.question(&[user.as_bytes(), &password]);
        match self.checks.look(question, base_runtime::now()) {
            Stand::Known(right) => Ok(right),
            Stand::Asked(answer) => answer.await.map_err(|_| BasicError::Unknown),
            Stand::Open(asking, answer) => {
                let (asked, user) = (asked.clone(), user.to_owned());
                // A task of its own: who asked first may leave, the others still wait.
                base_runtime::spawn(async move {
                    let told = asked.directory.is_right(&user, &password).await;
                    *asked.error.lock().unwrap_or_else(PoisonError::into_inner) = told.as_ref().err().cloned();
                    if let Ok(right) = told {
                        asking.answer(right, if right { BOUND_HOLDS } else { WRONG_HOLDS });
                    }
                })
                .detach();
                answer.await.map_err(|_| BasicError::Unknown)
            }
            Stand::Full => Err(BasicError::Busy),
        }
    }

    /// `None` when that cannot be found out now.
    async fn is_right(&self, user: &str, password: Vec<u8>) -> Option<bool> {
        let users = self.users.users()?;
        let Some((hash, real)) = users.find(user) else { return Some(false) };
        // The hash is part of the question: with another password another question is asked.
        let question = self.checks.question(&[user.as_bytes(), &password, hash.text().as_bytes(), &[u8::from(real)]]);
        match self.checks.look(question, base_runtime::now()) {
            Stand::Known(right) => Some(right),
            Stand::Asked(answer) => answer.await.ok(),
            Stand::Open(asking, answer) => {
                let hash = hash.clone();
                let asked = Instant::now();
                let job = move || {
                    if !is_worth_it(&asking, asked.elapsed()) {
                        return;
                    }
                    let right = hash.is_of(&password) && real;
                    asking.answer(right, if right { RIGHT_HOLDS } else { WRONG_HOLDS });
                };
                heavy::run(job).ok()?;
                answer.await.ok()
            }
            Stand::Full => None,
        }
    }

    pub(super) fn status(&self) -> Value {
        let error = match &self.users {
            Source::File(file) => file.error(),
            Source::Store(_) | Source::Written(_) => None,
            Source::Directory(asked) => asked.error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        };
        match self.users.users() {
            Some(users) => json!({"users": users.len(), "unread": users.unread, "error": error}),
            None => json!({"error": error}),
        }
    }
}

/// Whether a check whose turn has come is made.
fn is_worth_it(asking: &Asking<bool>, waited: Duration) -> bool {
    waited < WAIT_MOST && asking.is_wanted()
}

/// User and password out of base64. A password may hold colons, a user may not (RFC 7617 section 2).
pub fn read_credentials(text: &str) -> Option<(String, Vec<u8>)> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let bytes = LENIENT.decode(text).ok()?;
    let colon = bytes.iter().position(|b| *b == b':')?;
    let user = std::str::from_utf8(&bytes[..colon]).ok()?;
    let password = &bytes[colon + 1..];
    let fits = !user.is_empty() && proto_http::headers::is_value(user.as_bytes()) && password.len() <= PASSWORD_MAX;
    fits.then(|| (user.to_owned(), password.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD;

    #[test]
    fn checks_that_nobody_waits_for_take_no_turn() {
        let checks = Answers::<bool>::new(10, 2).unwrap();
        let question = checks.question(&[b"ann"]);
        let Stand::Open(asking, first) = checks.look(question, Instant::now()) else { panic!("asked already") };
        let Stand::Asked(second) = checks.look(question, Instant::now()) else { panic!("not asked") };
        assert!(is_worth_it(&asking, Duration::ZERO) && !is_worth_it(&asking, WAIT_MOST));
        drop(first);
        assert!(is_worth_it(&asking, Duration::ZERO), "another one waits");
        drop(second);
        assert!(!is_worth_it(&asking, Duration::ZERO));
        drop(asking);
        assert!(matches!(checks.look(question, Instant::now()), Stand::Open(..)));
    }

    #[test]
    fn credentials() {
        let read = |text: &str| read_credentials(&STANDARD.encode(text));
        assert_eq!(read("ann:pass"), Some(("ann".to_owned(), b"pass".to_vec())));
        assert_eq!(read("ann:a:b:c"), Some(("ann".to_owned(), b"a:b:c".to_vec())), "colons are the password's");
        assert_eq!(read("ann:"), Some(("ann".to_owned(), Vec::new())));
        for text in ["ann", ":pass", "", "a\r\nX: y:pass", &format!("ann:{}", "x".repeat(PASSWORD_MAX + 1))] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(read_credentials("YW5uOnBhc3M"), Some(("ann".to_owned(), b"pass".to_vec())), "without padding");
        for text in ["!", "YW5u OnBhc3M=", "=="] {
            assert_eq!(read_credentials(text), None, "{text}");
        }
    }
}

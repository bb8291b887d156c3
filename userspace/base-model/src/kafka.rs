//! As whom brokers of Kafka are spoken to.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::http_server::Secret;
use crate::problem::{Findings, Problem, at};
use crate::proxy::MtlsSpec;

/// A user of Kafka's, and the password that is proved to brokers (SASL).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["username", "password"]))]
pub struct SaslSpec {
    /// How it is proved. Default `SCRAM-SHA-512`.
    pub mechanism: SaslMechanism,
    /// Name of the user.
    pub username: String,
    /// Its password.
    #[schemars(extend("x-secret" = true))]
    pub password: Secret,
}

/// How a password is proved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SaslMechanism {
    /// It is sent as it is, which is for TLS alone.
    #[serde(rename = "PLAIN")]
    Plain,
    /// Neither is it sent, nor can brokers that do not know it pretend to (RFC 7677).
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// The same with SHA-512.
    #[default]
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl SaslMechanism {
    /// As brokers know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl SaslSpec {
    /// `mtls`: TLS with the brokers it is said to.
    pub fn validate(&self, path: &str, mtls: Option<&MtlsSpec>, findings: &mut Findings) {
        for (field, value) in [("username", &self.username), ("password", &self.password)] {
            if value.is_empty() {
                findings.problem(Problem::new(at(path, field), "missing").advice("brokers know users by both"));
            } else if value.contains(char::is_control) {
                // Its value is not told: it may be the password.
                findings.problem(Problem::new(at(path, field), "has control characters").accepted("text without them"));
            }
        }
        let told = match mtls {
            None => "the password goes to brokers as plain text: give mtls, or use SCRAM-SHA-512",
            Some(mtls) if mtls.insecure_skip_verify => {
                "insecureSkipVerify tells the password to whoever answers: give rootCertBase64, or use SCRAM-SHA-512"
            }
            Some(_) => return,
        };
        if self.mechanism == SaslMechanism::Plain {
            findings.warn(at(path, "mechanism"), told);
        }
    }
}

//! Who asks for something, and what they may.

use std::fmt;

use base_text::quoted;
use serde::{Deserialize, Serialize};

/// On whose behalf a command was proposed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Principal {
    pub kind: PrincipalKind,
    /// Of the token, the user, the certificate's subject, the member.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Address it was asked from.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// The member whose admin API was asked.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub at: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrincipalKind {
    /// Nobody had to say who it is.
    #[default]
    Anonymous,
    Token,
    /// Of `basic-auth`.
    User,
    Certificate,
    Member,
    Controller,
}

/// What a token lets its holder do, with what it is known by: never the token itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Token {
    pub name: String,
    /// SHA-256, in hexadecimal digits. A token has 256 random bits, so that nobody finds it from this.
    pub hash: String,
    /// The one before the last rotation, good until `previous_until`, in seconds since 1970.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub previous: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub previous_until: u64,
    /// RFC 3339.
    pub created_at: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rotated_at: String,
    pub grants: Vec<Grant>,
}

/// A role, for some kinds of objects or for everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Grant {
    pub role: Role,
    /// Canonical names; `CustomData` stands for custom data and their kinds. Empty: all there is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<String>,
    /// What people write is in `default`, and so is, for this, what is in no namespace and of a kind. Empty: all there are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
}

/// Each includes the ones before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    #[default]
    Read,
    Write,
    /// Members, tokens, backups, and what is not of one kind.
    Admin,
}

impl Token {
    /// Whether this is the hash of a token that is good at `now`, in seconds since 1970.
    pub fn is(&self, hash: &str, now: u64) -> bool {
        let before = !self.previous.is_empty() && now < self.previous_until;
        same(&self.hash, hash) | (same(&self.previous, hash) & before)
    }
}

/// In the same time, wherever they differ.
fn same(a: &str, b: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a.as_bytes(), b.as_bytes()).is_ok()
}

/// Whether these allow what takes `role` on `kind` in `namespace`; `None` stands for what is of no kind, and in no namespace either.
pub fn allow(grants: &[Grant], role: Role, kind: Option<&str>, namespace: &str) -> bool {
    let among = |names: &[String], name: &str| names.is_empty() || names.iter().any(|known| known == name);
    grants.iter().any(|Grant { role: has, kinds, namespaces }| {
        *has >= role
            && match kind {
                Some(kind) => among(kinds, kind) && among(namespaces, namespace),
                None => kinds.is_empty() && namespaces.is_empty(),
            }
    })
}

impl Principal {
    pub fn member(name: &str) -> Principal {
        Principal { kind: PrincipalKind::Member, name: name.to_owned(), ..Principal::default() }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let kind = match self.kind {
            PrincipalKind::Anonymous => return f.write_str("anonymous"),
            PrincipalKind::Token => "token",
            PrincipalKind::User => "user",
            PrincipalKind::Certificate => "certificate",
            PrincipalKind::Member => "member",
            PrincipalKind::Controller => "controller",
        };
        write!(f, "{kind} {}", quoted(&self.name))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Role::Read => "read",
            Role::Write => "write",
            Role::Admin => "admin",
        })
    }
}

fn is_zero(seconds: &u64) -> bool {
    *seconds == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_includes_those_below_it_for_its_kinds() {
        let grant = |role, kinds: &[&str]| Grant {
            role,
            kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
            namespaces: Vec::new(),
        };
        let grants = [grant(Role::Read, &[]), grant(Role::Write, &["Pipeline"])];
        for (role, kind, expected) in [
            (Role::Read, None, true),
            (Role::Read, Some("HTTPServer"), true),
            (Role::Write, Some("Pipeline"), true),
            (Role::Write, Some("HTTPServer"), false),
            (Role::Write, None, false),
            (Role::Admin, Some("Pipeline"), false),
        ] {
            assert_eq!(allow(&grants, role, kind, "default"), expected, "{role} {kind:?}");
        }
        assert!(allow(&[grant(Role::Admin, &[])], Role::Write, None, ""));
        assert!(!allow(&[], Role::Read, None, ""));
    }

    #[test]
    fn a_grant_for_a_namespace_is_for_nothing_else() {
        let grant = |role, kinds: &[&str], namespaces: &[&str]| Grant {
            role,
            kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
            namespaces: namespaces.iter().map(|name| (*name).to_owned()).collect(),
        };
        let grants = [grant(Role::Read, &[], &["blue"]), grant(Role::Write, &["Pipeline"], &["default"])];
        for (role, kind, namespace, expected) in [
            (Role::Read, Some("HTTPServer"), "blue", true),
            (Role::Read, Some("HTTPServer"), "default", false),
            (Role::Read, Some("HTTPServer"), "blue/green", false),
            (Role::Read, Some("Pipeline"), "default", true),
            (Role::Write, Some("Pipeline"), "blue", false),
            (Role::Read, None, "blue", false),
            (Role::Read, None, "", false),
        ] {
            assert_eq!(allow(&grants, role, kind, namespace), expected, "{role} {kind:?} in {namespace}");
        }
    }

    #[test]
    fn the_token_from_before_is_good_for_a_while() {
        let token = Token { hash: "new".into(), previous: "old".into(), previous_until: 100, ..Token::default() };
        assert!(token.is("new", 1000) && token.is("old", 99) && !token.is("old", 100) && !token.is("", 1));
        assert!(!Token { hash: "new".into(), ..Token::default() }.is("", 0));
    }
}

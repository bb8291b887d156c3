//! Which certificate is shown for a name that several are for.
//!
//! A server shows the first of its certificates that is for a name, in the order of what they are called. Whoever may write a secret may
//! write one for any name, so the order is made by who has the name: one that some names are not its own's are called last.

use std::collections::BTreeMap;

/// A certificate of a secret.
pub(crate) struct Candidate {
    /// `namespace/name` of the secret.
    pub secret: String,
    /// Names that it is for, in lower case.
    pub names: Vec<String>,
    /// Whose it is: a namespace, or a Gateway.
    pub holder: String,
}

/// What each secret's certificate is called. `candidates` come oldest first; `owner` says whose a name is, if it is anybody's.
pub(crate) fn called(candidates: &[Candidate], owner: impl Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
    let mut first: BTreeMap<&str, &Candidate> = BTreeMap::new();
    for candidate in candidates {
        for name in &candidate.names {
            let is_owners = |candidate: &Candidate| owner(name).is_some_and(|owner| owner == candidate.holder);
            match first.get(name.as_str()) {
                Some(before) if is_owners(before) || !is_owners(candidate) => {}
                _ => drop(first.insert(name, candidate)),
            }
        }
    }
    let is_first =
        |candidate: &Candidate| candidate.names.iter().all(|name| first[name.as_str()].secret == candidate.secret);
    let named = |candidate: &Candidate| match is_first(candidate) {
        true => candidate.secret.clone(),
        false => format!("{LAST}{}", candidate.secret),
    };
    candidates.iter().map(|candidate| (candidate.secret.clone(), named(candidate))).collect()
}

/// This one is shown where no name is asked for, or one that none is for, unless another one's name is among its names.
pub(crate) fn shown_first(called: &mut BTreeMap<String, String>, secret: &str) {
    if let Some(name) = called.get_mut(secret).filter(|name| !name.starts_with(LAST)) {
        *name = format!("{FIRST}{secret}");
    }
}

/// The secret of a certificate that is called so.
pub fn secret_of(called: &str) -> &str {
    called.strip_prefix([FIRST, LAST]).unwrap_or(called)
}

/// Comes before everything that a namespace may be called.
const FIRST: char = '!';
/// Comes after it.
const LAST: char = '~';

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(secret: &str, names: &[&str]) -> Candidate {
        let holder = secret.split('/').next().unwrap_or_default().to_owned();
        Candidate { secret: secret.to_owned(), names: names.iter().map(|name| (*name).to_owned()).collect(), holder }
    }

    #[test]
    fn a_name_is_shown_the_certificate_of_who_has_it() {
        let owner = |name: &str| (name == "shop.test").then(|| "shop".to_owned());
        for (candidates, last) in [
            // Older, and called before it, and of somebody else.
            (vec![candidate("a/x", &["shop.test"]), candidate("shop/c", &["shop.test"])], &["a/x"][..]),
            (vec![candidate("shop/c", &["shop.test"]), candidate("a/x", &["a.test", "shop.test"])], &["a/x"]),
            // Of names that are nobody's the older one.
            (vec![candidate("b/x", &["b.test"]), candidate("a/x", &["b.test"])], &["a/x"]),
            (vec![candidate("shop/new", &["shop.test"]), candidate("shop/b", &["shop.test"])], &["shop/b"]),
            (vec![candidate("a/x", &["a.test"]), candidate("shop/c", &["shop.test", "*.shop.test"])], &[]),
        ] {
            let called = called(&candidates, owner);
            let found: Vec<&str> =
                called.values().filter(|name| name.starts_with(LAST)).map(|name| secret_of(name)).collect();
            assert_eq!(found, last, "{called:?}");
        }
    }
}

//! Certificates that are not valid when a document comes in.
//!
//! A certificate that is new in a document has to be valid. One that the stored document has already may end while it is served; the
//! document is changed all the same, with a warning each time, or nobody could mend a route before the certificate is renewed.

use std::collections::HashSet;

use base_tls::certificate::Untimely;

use crate::problem::{Findings, Problem};

/// What was found, each with the field it stands in.
#[derive(Debug, Default)]
pub struct Dates {
    found: Vec<(String, Untimely)>,
}

impl Dates {
    pub fn note(&mut self, place: String, untimely: Untimely) {
        self.found.push((place, untimely));
    }

    pub fn note_all(&mut self, place: &str, untimely: impl IntoIterator<Item = Untimely>) {
        self.found.extend(untimely.into_iter().map(|untimely| (place.to_owned(), untimely)));
    }

    /// Files what was found: as a warning where the certificate is one of `before`, what was found in the document as it was, which is
    /// asked for when there is a need to; as a problem otherwise.
    pub fn judge(self, findings: &mut Findings, before: impl FnOnce() -> Dates) {
        if self.found.is_empty() {
            return;
        }
        let before: HashSet<[u8; 32]> = before().found.into_iter().map(|(_, untimely)| untimely.fingerprint).collect();
        for (place, untimely) in self.found {
            if before.contains(&untimely.fingerprint) {
                findings.warn(place, format!("{}; it was here before and stays in use", untimely.text));
            } else {
                findings.problem(Problem::new(place, untimely.text));
            }
        }
    }
}

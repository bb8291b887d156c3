//! The one path of a request: parsed once, matched and forwarded alike.

use std::borrow::Cow;

/// A path in canonical form. See the module doc.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path {
    canonical: String,
}

impl Path {
    /// The form rules match against.
    pub fn as_str(&self) -> &str {
        &self.canonical
    }

    /// The form that goes on the wire.
    pub fn encoded(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.canonical)
    }

    pub fn clear(&mut self) {
        self.canonical.clear();
    }
}

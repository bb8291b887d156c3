//! Whether something listens, and why it does not: for sockets of every kind. What cannot be had is told in the log once, however often
//! it is tried again.

use std::io;

/// Of sockets that are to listen. `L`: what there is once they do.
pub(crate) struct Standing<L> {
    listening: Option<L>,
    /// Why they do not.
    error: Option<String>,
}

impl<L> Default for Standing<L> {
    fn default() -> Standing<L> {
        Standing { listening: None, error: None }
    }
}

impl<L> Standing<L> {
    /// Opens them if they are not open yet, and says what came of it; `None` where they are. `why`: what an error means for `server`, and
    /// what to do about it.
    pub fn listen(
        &mut self,
        server: &str,
        open: impl FnOnce() -> io::Result<L>,
        why: impl FnOnce(io::Error) -> String,
    ) -> Option<Result<&L, &str>> {
        if self.listening.is_some() {
            return None;
        }
        Some(match open() {
            Ok(listening) => {
                self.error = None;
                Ok(self.listening.insert(listening))
            }
            Err(error) => {
                let text = why(error);
                if self.error.as_ref() != Some(&text) {
                    tracing::error!(%server, "{text}");
                }
                Err(self.error.insert(text))
            }
        })
    }

    pub fn get(&self) -> Option<&L> {
        self.listening.as_ref()
    }

    /// They are closed by whoever has asked for them.
    pub fn take(&mut self) -> Option<L> {
        self.listening.take()
    }

    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// `running` or `failed`, with the reason.
    pub fn state(&self) -> (&'static str, Option<String>) {
        if self.listening.is_some() { ("running", None) } else { ("failed", self.error.clone()) }
    }
}

/// An address of a document, where none is all there are.
pub(crate) fn shown(address: &str) -> &str {
    if address.is_empty() { "*" } else { address }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_opened_once_and_says_why_it_is_not() {
        let mut standing = Standing::default();
        let why = |error: io::Error| format!("cannot: {error}");
        let taken = || Err(io::Error::other("taken"));
        assert_eq!(standing.state(), ("failed", None));
        assert_eq!(standing.listen("web", taken, why), Some(Err("cannot: taken")));
        assert_eq!(
            (standing.state(), standing.error()),
            (("failed", Some("cannot: taken".to_owned())), Some("cannot: taken"))
        );
        assert_eq!(standing.listen("web", || Ok(1), why), Some(Ok(&1)));
        assert_eq!(standing.listen("web", || panic!("it is open"), why), None);
        assert_eq!((standing.state(), standing.error(), standing.get()), (("running", None), None, Some(&1)));
        assert_eq!((standing.take(), standing.get()), (Some(1), None));
    }
}

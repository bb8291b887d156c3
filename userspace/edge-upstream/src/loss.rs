//! What is lost once and heard of by many: a shared connection, and the connect that many wait for.

use std::cell::Cell;
use std::rc::Rc;

/// Shared by all who hear of the same loss. Each of them fails, and what it tells of the server is told once.
#[derive(Debug, Clone, Default)]
pub struct Loss {
    told: Rc<Cell<bool>>,
}

impl Loss {
    /// Whether nobody has told of it so far. Whoever asks tells.
    pub fn is_news(&self) -> bool {
        !self.told.replace(true)
    }

    /// It says nothing of the server: it was our doing.
    pub(crate) fn is_ours(&self) {
        self.told.set(true);
    }
}

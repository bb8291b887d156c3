//! Interim answers (1xx, RFC 9110 section 15.2) on their way from a backend to the client, past the filters: they precede the
//! answer, so they cannot wait for it.

use proto_http::Response;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// Interim answers kept for a client at a time; more are dropped, as any intermediary may.
const MOST: usize = 16;

/// Where a backend's interim answers wait until the listener sends them on. Both ends hold one.
#[derive(Clone, Debug, Default)]
pub struct Interim(Rc<RefCell<VecDeque<Response>>>);

impl Interim {
    /// Queues one. The listener looks whenever the pipeline has run.
    pub fn push(&self, response: Response) {
        let mut queue = self.0.borrow_mut();
        if queue.len() < MOST {
            queue.push_back(response);
        }
    }

    pub fn pop(&self) -> Option<Response> {
        self.0.borrow_mut().pop_front()
    }

    pub fn clear(&self) {
        self.0.borrow_mut().clear();
    }
}

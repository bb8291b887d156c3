//! A body that holds a place among the requests under way until it has come.
//!
//! While its client is waited for, and no server, that is noted: such a place may be lent to others.

use edge_pipeline::{Body, Polled, Watch, Watched};
use edge_upstream::adaptive::{Attended, Pass};

/// A backend is busy with an answer until the last of it has been taken.
pub(crate) struct Placed(Option<(Option<Attended>, Pass)>);

impl Placed {
    /// A body that is there already holds nothing.
    pub fn hold(body: Body, attended: Option<Attended>, pass: Pass) -> Body {
        match &body {
            Body::Stream(stream) if stream.remaining() != Some(0) => {
                pass.reads();
                Watched::watch(body, || Placed(Some((attended, pass))))
            }
            _ => body,
        }
    }
}

impl Watch for Placed {
    fn asks(&mut self) {
        if let Some((_, pass)) = &self.0 {
            pass.asked();
        }
    }

    fn came(&mut self, polled: &Polled, over: bool) {
        if over {
            self.0 = None;
        }
        if let (true, Some((_, pass))) = (polled.is_ready(), &self.0) {
            pass.handed();
        }
    }
}

//! What is held until an answer has come to its end: the place of its request among those of a server.

use edge_pipeline::{Body, Polled, Watch, Watched};
use edge_upstream::balance::load::Place;

/// The place that a backend's body takes. A body that is there already takes none any more.
pub struct HeldBody(Option<Place>);

impl HeldBody {
    pub fn hold(body: Body, place: Option<Place>) -> Body {
        match place {
            Some(place) => Watched::watch(body, || HeldBody(Some(place))),
            None => body,
        }
    }
}

impl Watch for HeldBody {
    fn came(&mut self, _: &Polled, over: bool) {
        if over {
            self.0 = None;
        }
    }
}

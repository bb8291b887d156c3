//! A request and its answer as they were before somebody else's program got to change them.

use edge_pipeline::{Body, Exchange};
use proto_http::{Request, Response};

/// See the module doc.
pub struct Kept {
    request: Request,
    response: Option<Response>,
    bodies: Option<(Body, Body)>,
}

impl Kept {
    pub fn of(exchange: &Exchange) -> Kept {
        let space = exchange.space_ref();
        // A body on its way is another one only where a program replaced it: then there is no way back.
        let bodies = space.request_body.again().zip(space.response_body.again());
        Kept { request: space.request.clone(), response: space.response.clone(), bodies }
    }

    pub fn put_back(self, exchange: &mut Exchange) {
        let space = exchange.space();
        space.request = self.request;
        space.response = self.response;
        if let Some((request, response)) = self.bodies {
            space.request_body = request;
            space.response_body = response;
        }
    }
}

//! A request body whose client may take its time: what a server takes for the request is counted from when the last of it came.
//!
//! An upload over a slow link, or a stream whose client says something now and then, would look like a server with too much to do. Where
//! the body is there whenever it is asked for, all of the time is the server's, that in which it reads nothing as well.

use edge_pipeline::{Body, BodyError, BodyStream, Piece, Sight};
use edge_upstream::adaptive::{LastCame, Pass};
use proto_http::Headers;
use std::task::{Context, Poll};

/// See the module doc.
pub(crate) struct Arriving {
    body: Box<dyn BodyStream>,
    /// The client was waited for.
    waited: bool,
    last: LastCame,
}

impl Arriving {
    /// Notes for the request of this pass how its body comes, where that is not all there.
    pub fn watch(body: &mut Body, pass: &mut Pass) {
        *body = match std::mem::take(body) {
            Body::Stream(body) => Body::Stream(Box::new(Arriving { body, waited: false, last: pass.comes() })),
            there => there,
        };
    }
}

impl BodyStream for Arriving {
    fn poll_piece(&mut self, cx: &mut Context<'_>, sight: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        let polled = self.body.poll_piece(cx, sight);
        if polled.is_pending() {
            self.waited = true;
        } else if std::mem::take(&mut self.waited) {
            self.last.set(base_runtime::now());
        }
        polled
    }

    fn remaining(&self) -> Option<u64> {
        self.body.remaining()
    }

    fn allowed(&self) -> Option<u64> {
        self.body.allowed()
    }

    fn trailers(&mut self) -> Option<Headers> {
        self.body.trailers()
    }

    fn again(&self) -> Option<Box<dyn BodyStream>> {
        self.body.again()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_model::Priority;
    use edge_upstream::adaptive::{Admission, Bounds, Passages, Rank, Who};
    use std::collections::VecDeque;
    use std::task::Waker;
    use std::time::Duration;

    /// `Some`: so many bytes; `None`: nothing yet. At the end its end.
    struct Said(VecDeque<Option<usize>>);

    impl BodyStream for Said {
        fn poll_piece(&mut self, _: &mut Context<'_>, _: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
            match self.0.pop_front() {
                Some(None) => Poll::Pending,
                Some(Some(bytes)) => Poll::Ready(Ok(Some(Piece::Bytes(vec![b'x'; bytes].into())))),
                None => Poll::Ready(Ok(None)),
            }
        }

        fn remaining(&self) -> Option<u64> {
            None
        }
    }

    #[test]
    fn a_server_is_held_to_account_from_when_its_client_had_said_what_it_was_waited_for() {
        let bounds = Bounds { least: 1, first: 1, most: 1, queue: 0, target: Duration::from_millis(1) };
        let passages = Passages::new("arriving", bounds, Duration::ZERO, vec!["a".to_owned()], 1);
        let who = Who { rank: Rank::new(Priority::Normal, 1, 0), route: 1, client: 1 };
        let Admission::Passed(mut pass) = passages.admit(&who, None) else { panic!("there is room") };
        let mut body = Body::Stream(Box::new(Said([Some(3), Some(3), None, None, Some(3), Some(3), None].into())));
        Arriving::watch(&mut body, &mut pass);
        let attended = pass.begin(0);
        let mut poll = || {
            std::thread::sleep(Duration::from_millis(1));
            let _ = body.poll_piece(&mut Context::from_waker(Waker::noop()), Sight::Seen);
            attended.since()
        };
        let began = poll();
        // What is there at once was there before; and who is still waited for has said nothing yet.
        assert_eq!([poll(), poll(), poll()], [began; 3]);
        let came = poll();
        assert!(came > began);
        assert_eq!([poll(), poll()], [came; 2]);
        assert!(poll() > came, "its end was waited for, too");
    }

    #[test]
    fn what_is_there_is_left_as_it_is() {
        let bounds = Bounds { least: 1, first: 1, most: 1, queue: 0, target: Duration::from_millis(1) };
        let passages = Passages::new("there", bounds, Duration::ZERO, vec!["a".to_owned()], 1);
        let who = Who { rank: Rank::new(Priority::Normal, 1, 0), route: 1, client: 1 };
        let Admission::Passed(mut pass) = passages.admit(&who, None) else { panic!("there is room") };
        let mut body = Body::full("there");
        Arriving::watch(&mut body, &mut pass);
        assert!(!body.is_stream() && body.length() == Some(5));
    }
}

//! A request body whose client may take its time: what a server takes for the request is counted from when the last of it came, and not
//! at all where the client still had something to say, or broke off.
//!
//! An upload over a slow link, or a stream whose client says something now and then, would look like a server with too much to do. Where
//! the body is there whenever it is asked for, all of the time is the server's, that in which it reads nothing as well.

use edge_pipeline::{Body, Polled, Watch, Watched};
use edge_upstream::adaptive::{Pass, Progress};
use std::task::Poll;

/// See the module doc.
pub(crate) struct Arriving {
    /// The client is waited for.
    waited: bool,
    progress: Progress,
}

impl Arriving {
    /// Notes for the request of this pass how its body comes, where that is not all there.
    pub fn watch(body: &mut Body, pass: &mut Pass) {
        *body = Watched::watch(std::mem::take(body), || Arriving { waited: false, progress: pass.comes() });
    }
}

impl Watch for Arriving {
    fn came(&mut self, polled: &Polled, over: bool) {
        match polled {
            Poll::Pending => {
                self.waited = true;
                self.progress.awaited();
            }
            Poll::Ready(Err(_)) => self.progress.failed(),
            Poll::Ready(Ok(_)) => {
                if std::mem::take(&mut self.waited) {
                    self.progress.came();
                }
                if over {
                    self.progress.said_all();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_model::Priority;
    use edge_pipeline::{BodyError, BodyStream, Piece, Sight};
    use edge_upstream::adaptive::{Admission, Attended, Bounds, Passages, Rank, Who};
    use std::collections::VecDeque;
    use std::task::{Context, Waker};
    use std::time::{Duration, Instant};

    enum Said {
        Bytes,
        Nothing,
        Failure,
    }

    /// What a client says; at the end its end.
    struct Client(VecDeque<Said>);

    impl BodyStream for Client {
        fn poll_piece(&mut self, _: &mut Context<'_>, _: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
            match self.0.pop_front() {
                Some(Said::Nothing) => Poll::Pending,
                Some(Said::Bytes) => Poll::Ready(Ok(Some(Piece::Bytes("abc".into())))),
                Some(Said::Failure) => Poll::Ready(Err(BodyError::TimedOut)),
                None => Poll::Ready(Ok(None)),
            }
        }

        fn remaining(&self) -> Option<u64> {
            None
        }
    }

    /// A request under way, and what is to be polled of its body: said is since when the server is waited for then.
    fn under_way(name: &str, said: impl Into<VecDeque<Said>>) -> (Attended, impl FnMut(&Attended) -> Option<Instant>) {
        let bounds = Bounds { least: 1, first: 1, most: 1, queue: 0, target: Duration::from_millis(1) };
        let passages = Passages::new(name, bounds, Duration::ZERO, vec!["a".to_owned()], 1);
        let who = Who { rank: Rank::new(Priority::Normal, 1, 0), route: 1, client: 1 };
        let Admission::Passed(mut pass) = passages.admit(&who, None) else { panic!("there is room") };
        let mut body = Body::Stream(Box::new(Client(said.into())));
        Arriving::watch(&mut body, &mut pass);
        let attended = pass.begin(0);
        let poll = move |attended: &Attended| {
            std::thread::sleep(Duration::from_millis(1));
            let _ = body.poll_piece(&mut Context::from_waker(Waker::noop()), Sight::Seen);
            attended.since()
        };
        (attended, poll)
    }

    #[test]
    fn a_server_is_held_to_account_from_when_its_client_had_said_what_it_was_waited_for() {
        use Said::{Bytes, Nothing};
        let (attended, mut poll) = under_way("arriving", [Bytes, Bytes, Nothing, Nothing, Bytes, Bytes, Nothing]);
        let began = poll(&attended);
        assert!(began.is_some());
        assert_eq!(poll(&attended), began, "what is there at once was there before");
        assert_eq!([poll(&attended), poll(&attended)], [None; 2], "it is the client who is waited for");
        let came = poll(&attended);
        assert!(came > began);
        assert_eq!(poll(&attended), came);
        assert_eq!(poll(&attended), None);
        assert!(poll(&attended) > came, "its end was waited for, too");
    }

    #[test]
    fn a_request_that_broke_off_says_nothing_of_a_server() {
        let (attended, mut poll) = under_way("broken", [Said::Bytes, Said::Nothing, Said::Failure]);
        assert!(poll(&attended).is_some());
        assert_eq!([poll(&attended), poll(&attended)], [None; 2]);
        let (attended, mut poll) = under_way("broken at once", [Said::Failure]);
        assert_eq!(poll(&attended), None);
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

//! A body that must have come by a given time.

use base_runtime::time::Deadline;
use base_telemetry::proxy::{ServerRecorder, UpstreamError};
use edge_pipeline::{Body, BodyError, BodyStream, Piece, Sight};
use proto_http::Headers;
use std::task::{Context, Poll};
use std::time::Instant;

/// A backend's body under the time-out of its pool. What has come is handed on even when the time is over: a client that reads
/// slowly is not the backend's fault.
pub struct Timed {
    /// `None` once the time was over, which gives the connection up.
    body: Option<Box<dyn BodyStream>>,
    deadline: Deadline,
    recorder: ServerRecorder,
}

impl Timed {
    /// A body that is there already is left alone.
    pub fn limit(body: Body, end: Instant, recorder: &ServerRecorder) -> Body {
        match body {
            Body::Stream(body) => {
                let deadline = Deadline::at(end);
                Body::Stream(Box::new(Timed { body: Some(body), deadline, recorder: recorder.clone() }))
            }
            there => there,
        }
    }
}

impl BodyStream for Timed {
    fn poll_piece(&mut self, cx: &mut Context<'_>, sight: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        let Some(body) = &mut self.body else { return Poll::Ready(Err(BodyError::TimedOut)) };
        match body.poll_piece(cx, sight) {
            Poll::Pending => {}
            ready => return ready,
        }
        if self.deadline.poll_expired(cx).is_pending() {
            return Poll::Pending;
        }
        self.body = None;
        self.recorder.error(UpstreamError::Timeout);
        Poll::Ready(Err(BodyError::TimedOut))
    }

    fn remaining(&self) -> Option<u64> {
        self.body.as_ref().and_then(|body| body.remaining())
    }

    fn allowed(&self) -> Option<u64> {
        self.body.as_ref().and_then(|body| body.allowed())
    }

    fn trailers(&mut self) -> Option<Headers> {
        self.body.as_mut().and_then(|body| body.trailers())
    }
}

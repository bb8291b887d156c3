//! A service that takes lines by POST.

use super::{Sent, Sink};
use crate::exporter::{packed, retry_after};
use crate::frame::Line;
use crate::post::Post;
use base_model::HttpSinkSpec;
use proto_http::Request;
use std::time::Instant;

pub struct HttpSink {
    post: Post,
    request: Request,
    gzip: bool,
    shown: String,
}

impl HttpSink {
    pub fn new(post: Post, spec: &HttpSinkSpec, json: bool) -> HttpSink {
        let mut request = post.request();
        let (fields, gzip) = (&mut request.headers, spec.compression == "gzip");
        fields.set("User-Agent", concat!("weir/", env!("CARGO_PKG_VERSION")));
        fields.set("Content-Type", if json { "application/x-ndjson" } else { "text/plain; charset=utf-8" });
        if gzip {
            fields.set("Content-Encoding", "gzip");
        }
        spec.headers.iter().for_each(|(name, value)| fields.set(name, value));
        HttpSink { post, request, gzip, shown: spec.url.clone() }
    }
}

impl Sink for HttpSink {
    fn send(&mut self, lines: &[Line], until: &dyn Fn() -> Option<Instant>) -> Sent {
        let mut body = Vec::with_capacity(lines.iter().map(|line| line.text.len() + 1).sum());
        for line in lines {
            body.extend_from_slice(&line.text);
            body.push(b'\n');
        }
        let body = if self.gzip { packed(&body) } else { body };
        let reply = match self.post.send(self.request.clone(), body.into(), until) {
            Ok(reply) => reply,
            Err(why) => return Sent::Later(None, why),
        };
        let answered = || format!("it answered {}", reply.response.status);
        match reply.response.status {
            200..=299 => Sent::Taken,
            413 => Sent::Smaller(answered()),
            400 | 415 | 422 => Sent::Refused(answered()),
            _ => Sent::Later(retry_after(&reply), answered()),
        }
    }

    fn shown(&self) -> &str {
        &self.shown
    }
}

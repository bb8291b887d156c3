//! What both comparisons with the crate have in common: a wire, and what is said over it.

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;
use proto_http::Headers;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes on their way.
#[derive(Default)]
pub struct Wire {
    pub to_server: VecDeque<u8>,
    pub to_client: VecDeque<u8>,
}

/// What the crate has to do with it.
pub struct End {
    pub wire: Rc<RefCell<Wire>>,
    pub answers: bool,
}

impl AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.wire.borrow_mut();
        let coming = if self.answers { &mut wire.to_server } else { &mut wire.to_client };
        if coming.is_empty() {
            return Poll::Pending;
        }
        let taken = coming.len().min(into.remaining());
        coming.drain(..taken).for_each(|byte| into.put_slice(&[byte]));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut wire = self.wire.borrow_mut();
        let going = if self.answers { &mut wire.to_client } else { &mut wire.to_server };
        going.extend(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

pub type List = Vec<(String, Vec<u8>)>;

/// What is asked and answered.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub target: String,
    pub fields: List,
    pub body: usize,
    pub answer: List,
    pub trailers: List,
}

fn fields() -> impl Strategy<Value = List> {
    // Few names and values, so that tables are used, and some that are large, so that they are emptied.
    let name = prop_oneof!["[a-d]", "x-[a-z]{1,20}", Just("accept".to_owned()), Just("cache-control".to_owned())];
    let value = prop_oneof![
        4 => "[a-c]{0,3}".prop_map(String::into_bytes),
        4 => "[ -~]{0,60}".prop_map(|text| text.trim().as_bytes().to_vec()),
        1 => proptest::collection::vec(0x80..=0xffu8, 1..20),
        1 => (0..5_000usize).prop_map(|length| vec![b'v'; length]),
    ];
    proptest::collection::vec((name, value), 0..12)
}

pub fn exchange() -> impl Strategy<Value = Exchange> {
    let body = prop_oneof![Just(0usize), 1..100usize, 1..150_000usize];
    ("/[a-z]{0,30}", fields(), body, fields(), fields()).prop_map(|(target, fields, body, answer, trailers)| Exchange {
        target,
        fields,
        body,
        answer,
        trailers,
    })
}

pub fn body(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

pub fn map(list: &List) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in list {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value).unwrap());
    }
    map
}

pub fn list(map: &HeaderMap) -> List {
    map.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
}

pub fn headers(list: &List) -> Headers {
    let mut headers = Headers::new();
    list.iter().for_each(|(name, value)| headers.add(name, value));
    headers
}

pub fn may_not_trail(name: &str) -> bool {
    proto_http::h1::is_forbidden_in_trailers(name.as_bytes())
}

//! Our machine that asks against the crate's that answers, as `differential.rs` has the other way round.

mod support;

use bytes::Bytes;
use h2::server::{Connection as Answers, SendResponse};
use h2::{RecvStream, SendStream};
use http::Response;
use proptest::prelude::*;
use proto_h2::ClientSettings;
use proto_h2::client::{Asks, Key, RequestOptions};
use proto_h2::connection::ClientConnection;
use proto_h2::hpack::encoder;
use proto_http::{Method, Request};
use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;
use support::*;

/// Ours: what has come of one exchange.
struct Asking {
    key: Key,
    heads: Vec<List>,
    came: Vec<u8>,
    trailers: Option<List>,
}

/// The crate's: each request is answered with its body, and its trailers are those of the request.
struct Answering {
    answer: List,
    respond: SendResponse<Bytes>,
    receiving: RecvStream,
    sending: Option<SendStream<Bytes>>,
    /// Read and not yet sent.
    left: Bytes,
    is_read: bool,
    is_over: bool,
}

impl Answering {
    fn poll(&mut self, cx: &mut Context<'_>) {
        if self.sending.is_none() {
            let mut hints = Response::builder().status(103).body(()).unwrap();
            *hints.headers_mut() = map(&self.answer);
            self.respond.send_informational(hints).unwrap();
            let mut head = Response::new(());
            *head.headers_mut() = map(&self.answer);
            self.sending = Some(self.respond.send_response(head, false).unwrap());
        }
        let Some(sending) = &mut self.sending else { return };
        while !self.is_over {
            if !self.left.is_empty() {
                sending.reserve_capacity(self.left.len());
                match sending.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(room))) => {
                        let piece = self.left.split_to(room.min(self.left.len()));
                        sending.send_data(piece, false).unwrap();
                        continue;
                    }
                    _ => return,
                }
            }
            if self.is_read {
                let Poll::Ready(trailers) = self.receiving.poll_trailers(cx) else { return };
                match trailers.unwrap() {
                    Some(trailers) => sending.send_trailers(trailers).unwrap(),
                    None => sending.send_data(Bytes::new(), true).unwrap(),
                }
                self.is_over = true;
                return;
            }
            match self.receiving.poll_data(cx) {
                Poll::Pending => return,
                Poll::Ready(None) => self.is_read = true,
                Poll::Ready(Some(piece)) => {
                    self.left = piece.unwrap();
                    self.receiving.flow_control().release_capacity(self.left.len()).unwrap();
                }
            }
        }
    }
}

fn run(exchanges: &[Exchange], pieces: &[usize], streams_most: u32) {
    let (wire, now) = (Rc::<RefCell<Wire>>::default(), Instant::now());
    let mut cx = Context::from_waker(Waker::noop());
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(streams_most);
    let mut handshake = Box::pin(builder.handshake::<_, Bytes>(End { wire: wire.clone(), answers: true }));
    let mut server: Option<Answers<End, Bytes>> = None;
    // Trailers may be as long as heads here.
    let settings = ClientSettings { trailer_bytes: 1 << 20, trailers_most: 1000, ..ClientSettings::default() };
    let mut client = ClientConnection::new(&settings, now, 16 * 1024);
    let (mut asking, mut answering) = (Vec::<Asking>::new(), Vec::<Answering>::new());
    let mut pieces = pieces.iter().cycle();
    for round in 0.. {
        assert!(round < 20_000, "it goes on");
        // Before it knows how many streams there may be, more of them are refused.
        if let Some(exchange) = exchanges.get(asking.len())
            && (asking.is_empty() || client.has_settings())
        {
            asking.push(ask(&mut client, exchange));
        }
        client.pump();
        client.out().take(|buffer| wire.borrow_mut().to_server.extend(buffer.iter()));
        match &mut server {
            None => {
                if let Poll::Ready(begun) = Future::poll(handshake.as_mut(), &mut cx) {
                    server = Some(begun.unwrap());
                }
            }
            Some(server) => {
                while let Poll::Ready(Some(accepted)) = server.poll_accept(&mut cx) {
                    let (request, respond) = accepted.unwrap();
                    // Numbers are in order, whatever else is not.
                    let exchange = &exchanges[answering.len()];
                    assert_eq!(request.uri().path(), exchange.target);
                    assert_eq!(
                        (request.method().as_str(), request.uri().authority().unwrap().as_str()),
                        ("POST", "a.test")
                    );
                    let fields = [list(&map(&exchange.fields)), vec![("te".to_owned(), b"trailers".to_vec())]].concat();
                    assert_eq!(list(request.headers()), list(&map(&fields)));
                    let (answer, receiving) = (exchange.answer.clone(), request.into_body());
                    let (left, is_read, is_over) = (Bytes::new(), false, false);
                    answering.push(Answering { answer, respond, receiving, sending: None, left, is_read, is_over });
                }
                answering
                    .iter_mut()
                    .filter(|answering| !answering.is_over)
                    .for_each(|answering| answering.poll(&mut cx));
                let _ = server.poll_closed(&mut cx);
            }
        }
        let there: Vec<u8> = {
            let coming = &mut wire.borrow_mut().to_client;
            let taken = coming.len().min(*pieces.next().unwrap());
            coming.drain(..taken).collect()
        };
        client.handle(&there, now).unwrap();
        for asking in asking.iter_mut().filter(|asking| asking.trailers.is_none()) {
            read(&mut client, asking, &mut cx);
        }
        if asking.len() == exchanges.len() && asking.iter().all(|asking| asking.trailers.is_some()) {
            break;
        }
    }
    for (asking, exchange) in asking.iter().zip(exchanges) {
        let fields = list(&map(&exchange.answer));
        assert_eq!(asking.heads, [[status("103"), fields.clone()].concat(), [status("200"), fields].concat()]);
        assert!(asking.came == body(exchange.body), "{} of {} bytes", asking.came.len(), exchange.body);
        // What may not stand behind a body was left out.
        let kept: List = exchange.trailers.iter().filter(|(name, _)| !may_not_trail(name)).cloned().collect();
        assert_eq!(asking.trailers.as_ref(), Some(&list(&map(&kept))));
    }
    assert_eq!((client.streams(), client.unread(), client.held(), client.excess()), (0, 0, 0, 0));
}

fn status(status: &str) -> List {
    vec![(":status".to_owned(), status.as_bytes().to_vec())]
}

fn ask(client: &mut ClientConnection, exchange: &Exchange) -> Asking {
    let mut request = Request { method: Method::Post, ..Request::default() };
    request.set_target(exchange.target.as_bytes()).unwrap();
    request.headers = headers(&list(&map(&exchange.fields)));
    let options = RequestOptions { scheme: "http", authority: "a.test", prefix: "", length: None, protocol: None };
    let mut block = Vec::new();
    assert!(encoder::request(&request, &options, &mut block));
    let key = client.open(&block, false, Asks::Message).unwrap();
    for piece in body(exchange.body).chunks(30_000) {
        client.send_data(key, Bytes::copy_from_slice(piece).into(), false).unwrap();
    }
    let (mut block, trailers) = (Vec::new(), headers(&list(&map(&exchange.trailers))));
    match encoder::trailers(&trailers, &mut block) {
        true => client.send_fields(key, &block, true).unwrap(),
        false => client.send_end(key).unwrap(),
    }
    Asking { key, heads: Vec::new(), came: Vec::new(), trailers: None }
}

fn read(client: &mut ClientConnection, asking: &mut Asking, cx: &mut Context<'_>) {
    let text = |fields: &mut dyn Iterator<Item = (&[u8], &[u8])>| -> List {
        fields.map(|(name, value)| (String::from_utf8(name.to_vec()).unwrap(), value.to_vec())).collect()
    };
    while asking.heads.len() < 2 {
        let Poll::Ready(fields) = client.poll_head(asking.key, cx) else { return };
        asking.heads.push(text(&mut fields.unwrap().section.iter()));
    }
    while let Poll::Ready(piece) = client.poll_data(asking.key, cx) {
        match piece.unwrap() {
            Some(piece) => asking.came.extend_from_slice(&piece),
            None => {
                let trailers = client.take_trailers(asking.key).map(|trailers| trailers.unwrap());
                asking.trailers = Some(trailers.map(|section| text(&mut section.iter())).unwrap_or_default());
                client.let_go(asking.key);
                return;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_one_says_the_other_reads(
        exchanges in proptest::collection::vec(exchange(), 1..12),
        pieces in proptest::collection::vec(prop_oneof![1..40usize, 1..40_000usize, Just(40_000)], 1..20),
        streams_most in 1..8u32,
    ) {
        run(&exchanges, &[&pieces[..], &[40_000]].concat(), streams_most);
    }
}

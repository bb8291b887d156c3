//! Our machine that answers against the crate's that asks, without sockets: what one says is what the other reads, whatever pieces it
//! comes in. A failing seed is printed by proptest.

mod support;

use bytes::Bytes;
use h2::client::{Connection as Client, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::Request;
use proptest::prelude::*;
use proto_h2::ServerSettings;
use proto_h2::connection::{Key, ServerConnection};
use proto_h2::hpack::encoder::{self, ResponseOptions};
use proto_http::Response;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;
use support::*;

/// The client's side of one exchange.
struct Asked {
    response: Option<ResponseFuture>,
    sending: SendStream<Bytes>,
    left: Bytes,
    has_ended: bool,
    receiving: Option<RecvStream>,
    head: Option<List>,
    came: Vec<u8>,
    trailers: Option<List>,
}

impl Asked {
    fn poll(&mut self, cx: &mut Context<'_>) {
        if !self.has_ended {
            self.sending.reserve_capacity(self.left.len());
            while let Poll::Ready(Some(Ok(room))) = self.sending.poll_capacity(cx) {
                let piece = self.left.split_to(room.min(self.left.len()));
                self.has_ended = self.left.is_empty();
                self.sending.send_data(piece, self.has_ended).unwrap();
                if self.has_ended {
                    break;
                }
            }
        }
        if let Some(response) = &mut self.response
            && let Poll::Ready(answered) = Pin::new(response).poll(cx)
        {
            let (head, receiving) = answered.unwrap().into_parts();
            assert_eq!(head.status, 200);
            self.head = Some(list(&head.headers));
            self.receiving = Some(receiving);
            self.response = None;
        }
        let Some(receiving) = self.receiving.as_mut().filter(|_| self.trailers.is_none()) else { return };
        loop {
            match receiving.poll_data(cx) {
                Poll::Pending => return,
                Poll::Ready(None) => break,
                Poll::Ready(Some(piece)) => {
                    let piece = piece.unwrap();
                    receiving.flow_control().release_capacity(piece.len()).unwrap();
                    self.came.extend_from_slice(&piece);
                }
            }
        }
        if let Poll::Ready(trailers) = receiving.poll_trailers(cx) {
            self.trailers = Some(trailers.unwrap().as_ref().map(list).unwrap_or_default());
        }
    }
}

/// Ours: each request is answered with its body.
struct Answering {
    key: Key,
    exchange: Exchange,
    is_over: bool,
}

fn run(exchanges: &[Exchange], pieces: &[usize]) {
    let (wire, now) = (Rc::<RefCell<Wire>>::default(), Instant::now());
    let mut cx = Context::from_waker(Waker::noop());
    let mut handshake = Box::pin(h2::client::handshake(End { wire: wire.clone(), answers: false }));
    let Poll::Ready(Ok(begun)) = handshake.as_mut().poll(&mut cx) else { panic!("it waits for nothing") };
    let (mut requests, mut client): (SendRequest<Bytes>, Client<End, Bytes>) = begun;
    let mut server = ServerConnection::new(&ServerSettings::default(), now, 16 * 1024);
    let (mut asked, mut answering) = (Vec::<Asked>::new(), Vec::<Answering>::new());
    let mut pieces = pieces.iter().cycle();
    for round in 0.. {
        assert!(round < 20_000, "it goes on");
        if asked.len() < exchanges.len() && requests.poll_ready(&mut cx).is_ready() {
            let exchange = &exchanges[asked.len()];
            let mut request =
                Request::post(format!("http://a.test{}", exchange.target)).body(()).expect("a good request");
            *request.headers_mut() = map(&exchange.fields);
            let (response, sending) = requests.send_request(request, exchange.body == 0).unwrap();
            let left = body(exchange.body).into();
            let (head, came) = (None, Vec::new());
            asked.push(Asked {
                response: Some(response),
                sending,
                left,
                has_ended: exchange.body == 0,
                receiving: None,
                head,
                came,
                trailers: None,
            });
        }
        assert!(client.poll_unpin(&mut cx).is_pending());
        asked.iter_mut().for_each(|asked| asked.poll(&mut cx));
        assert!(client.poll_unpin(&mut cx).is_pending());
        let there: Vec<u8> = {
            let coming = &mut wire.borrow_mut().to_server;
            let taken = coming.len().min(*pieces.next().unwrap());
            coming.drain(..taken).collect()
        };
        server.handle(&there, now).unwrap();
        while let Some(accepted) = server.accept() {
            let exchange = exchanges[answering.len()].clone();
            let fields: List = accepted
                .head
                .section
                .iter()
                .map(|(name, value)| (String::from_utf8(name.to_vec()).unwrap(), value.to_vec()))
                .collect();
            let pseudo =
                [(":method", "POST"), (":scheme", "http"), (":authority", "a.test"), (":path", &exchange.target)];
            let pseudo = pseudo.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
            assert_eq!(fields, [pseudo.to_vec(), list(&map(&exchange.fields))].concat());
            let (mut block, mut response) = (Vec::new(), Response::with_status(200));
            response.headers = headers(&exchange.answer);
            assert!(encoder::response(&response, &ResponseOptions { length: None, date: "" }, &mut block));
            server.send_fields(accepted.key, &block, false).unwrap();
            answering.push(Answering { key: accepted.key, exchange, is_over: false });
        }
        for answer in answering.iter_mut().filter(|answer| !answer.is_over) {
            while let Poll::Ready(piece) = server.poll_data(answer.key, &mut cx) {
                match piece.unwrap() {
                    Some(piece) => server.send_data(answer.key, piece.into(), false).unwrap(),
                    None => {
                        let mut block = Vec::new();
                        match encoder::trailers(&headers(&answer.exchange.trailers), &mut block) {
                            true => server.send_fields(answer.key, &block, true).unwrap(),
                            false => server.send_end(answer.key).unwrap(),
                        }
                        server.let_go(answer.key);
                        answer.is_over = true;
                        break;
                    }
                }
            }
        }
        server.pump();
        server.out().take(|buffer| wire.borrow_mut().to_client.extend(buffer.iter()));
        if asked.len() == exchanges.len() && asked.iter().all(|asked| asked.trailers.is_some()) {
            break;
        }
    }
    for (asked, exchange) in asked.iter().zip(exchanges) {
        assert_eq!(asked.head.as_ref(), Some(&list(&map(&exchange.answer))));
        assert!(asked.came == body(exchange.body), "{} of {} bytes", asked.came.len(), exchange.body);
        // What may not stand behind a body was left out.
        let kept: List = exchange.trailers.iter().filter(|(name, _)| !may_not_trail(name)).cloned().collect();
        assert_eq!(asked.trailers.as_ref(), Some(&list(&map(&kept))));
    }
}

trait PollUnpin {
    fn poll_unpin(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>>;
}

impl PollUnpin for Client<End, Bytes> {
    fn poll_unpin(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        Pin::new(self).poll(cx)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_one_says_the_other_reads(
        exchanges in proptest::collection::vec(exchange(), 1..12),
        pieces in proptest::collection::vec(prop_oneof![1..40usize, 1..40_000usize, Just(40_000)], 1..20),
    ) {
        run(&exchanges, &[&pieces[..], &[40_000]].concat());
    }
}

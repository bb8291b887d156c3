//! Our client against our server on one worker, on both drivers.

#[macro_use]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;

use base_runtime::channel::{LocalOneshotReceiver, local_oneshot};
use base_runtime::net::{StreamState, TcpStream};
use base_runtime::time::{sleep, timeout};
use base_runtime::{Buf, IoMode, spawn, yield_now};
use base_tls::stats::{Count, total};
use base_tls::{
    ClientAuth, ClientTls, ClientTlsSettings, HandshakeError, ServerTls, ServerTlsSettings, TicketKeys, Transport,
};
use support::*;

on_both_drivers!(
    echo_of_every_size,
    half_close_lets_the_answer_through,
    end_without_close_notify_is_an_error,
    dropping_is_a_clean_end,
    reset_is_an_error,
    readable_means_data,
    idle_connection_shows_end_and_stray_bytes_but_not_tickets,
    unread_bytes_come_first,
    sessions_are_taken_up_again,
    tickets_are_bound_to_certificate_and_policy,
    installed_keys_serve_all_handles,
    certificates_by_name,
    servers_are_known_by_name_and_address,
    client_certificates,
    protocols,
    slow_handshakes_end,
    handshakes_that_never_end_end,
    what_is_not_tls_is_refused,
    bytes_before_tls_are_refused,
    too_many_waiting_are_turned_away,
    a_flood_of_handshakes_takes_turns,
    waiting_handshakes_that_give_up_leave_the_line,
);

fn echo_of_every_size(io: IoMode) {
    run(io, || async {
        let authority = Authority::new("test");
        let server = server(vec![authority.sign(&["localhost"]).read()]);
        let client = client(&authority);
        for size in [0, 1, 2, 1023, 1024, 1025, 16_383, 16_384, 16_385, 31_744, 31_745, 65_536, 1 << 20, 10 << 20] {
            let (client, server) = tls_pair(&client, &server).await;
            spawn(async move {
                while let Ok(Some(buf)) = server.recv().await {
                    server.send(buf);
                    if server.send_ready(128 * 1024).await.is_err() {
                        return;
                    }
                }
                server.shutdown_write();
            });
            let sent = pattern(size);
            let writer = (client.clone(), sent.clone());
            spawn(async move {
                send_all(&writer.0, &writer.1).await.expect("sends");
                writer.0.shutdown_write();
            });
            let back = recv_all(&client).await.expect("receives");
            assert!(back == sent, "{size} bytes came back changed ({} bytes)", back.len());
            assert_eq!(client.bytes_said(), size as u64);
        }
    });
}

fn half_close_lets_the_answer_through(io: IoMode) {
    run(io, || async {
        let (client, server) = plain_pair().await;
        client.send(Buf::copy_from(b"question"));
        client.shutdown_write();
        client.send(Buf::copy_from(b"too late"));
        assert_eq!(recv_all(&server).await.expect("a clean end"), b"question");
        assert!(server.recv().await.expect("an end stays an end").is_none());
        server.send(Buf::copy_from(b"answer"));
        server.shutdown_write();
        assert_eq!(recv_all(&client).await.expect("a clean end"), b"answer");
    });
}

fn end_without_close_notify_is_an_error(io: IoMode) {
    run(io, || async {
        let (client, server) = plain_pair().await;
        client.send(Buf::copy_from(b"half of a bod"));
        client.socket().shutdown_write();
        assert_eq!(server.recv().await.expect("data").as_deref(), Some(&b"half of a bod"[..]));
        for _ in 0..2 {
            let error = server.recv().await.expect_err("truncated");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
        assert_eq!(server.peek_state(), StreamState::Error(io::ErrorKind::UnexpectedEof));
        assert!(server.is_closed_or_dirty());
    });
}

fn dropping_is_a_clean_end(io: IoMode) {
    run(io, || async {
        let (client, server) = plain_pair().await;
        client.send(Buf::copy_from(b"all there is"));
        let second = client.clone();
        drop(client);
        second.send(Buf::copy_from(b", really"));
        drop(second);
        assert_eq!(recv_all(&server).await.expect("a clean end"), b"all there is, really");
    });
}

fn reset_is_an_error(io: IoMode) {
    run(io, || async {
        let (client, server) = plain_pair().await;
        server.flush().await.expect("the ticket is out");
        client.abort();
        let error = server.recv().await.expect_err("reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(client.recv().await.is_err());
        assert!(client.is_closed_or_dirty());
    });
}

fn readable_means_data(io: IoMode) {
    run(io, || async {
        // The client's tickets arrive with nothing behind them: not readable.
        let (client, server) = plain_pair().await;
        assert!(timeout(Duration::from_millis(50), client.readable()).await.is_err());
        assert!(timeout(Duration::from_millis(5), server.readable()).await.is_err());
        server.send(Buf::copy_from(b"something"));
        client.readable().await;
        assert_eq!(client.peek_state(), StreamState::Data);
        client.readable().await;
        assert_eq!(client.recv().await.expect("data").as_deref(), Some(&b"something"[..]));
        assert_eq!(client.peek_state(), StreamState::Open);
        let pending = poll_fn(|task| Poll::Ready(client.poll_readable(task).is_pending())).await;
        assert!(pending);
        server.shutdown_write();
        client.readable().await;
        assert_eq!(client.peek_state(), StreamState::Eof);
    });
}

fn idle_connection_shows_end_and_stray_bytes_but_not_tickets(io: IoMode) {
    run(io, || async {
        for stray in [true, false] {
            let (client, server) = plain_pair().await;
            // Someone has read the connection to its end, as a response is read before it goes into a pool.
            server.send(Buf::copy_from(b"response"));
            assert_eq!(recv_exactly(&client, 8).await.expect("data"), b"response");
            let pending = poll_fn(|task| Poll::Ready(client.poll_recv(task).is_pending())).await;
            assert!(pending && !client.is_closed_or_dirty());
            match stray {
                true => server.send(Buf::copy_from(b"unasked")),
                false => server.shutdown_write(),
            }
            while !client.is_closed_or_dirty() {
                yield_now().await;
            }
            assert_eq!(client.peek_state(), if stray { StreamState::Data } else { StreamState::Eof });
        }
    });
}

fn unread_bytes_come_first(io: IoMode) {
    run(io, || async {
        let (client, server) = plain_pair().await;
        client.send(Buf::copy_from(b"head body"));
        let mut buf = server.recv().await.expect("data").expect("data");
        let body = buf.split_off(5);
        server.unread(body);
        assert_eq!(server.peek_state(), StreamState::Data);
        client.send(Buf::copy_from(b" and more"));
        client.shutdown_write();
        assert_eq!(recv_all(&server).await.expect("data"), b"body and more");
    });
}

fn sessions_are_taken_up_again(io: IoMode) {
    run(io, || async {
        let authority = Authority::new("test");
        let server = server(vec![authority.sign(&["localhost"]).read()]);
        let client = client(&authority);
        for round in 0..4 {
            let (a, b) = tls_pair(&client, &server).await;
            for end in [&a, &b] {
                let session = end.session().expect("TLS");
                assert_eq!(session.resumed, round > 0, "round {round}");
                assert_eq!((session.version, session.cipher), ("TLSv1.3", "TLS_AES_128_GCM_SHA256"));
                assert_eq!(session.server_name.as_deref(), Some("localhost"));
            }
            assert_eq!(a.session().expect("TLS").peer_certificates.len(), 1);
            // The ticket comes with the first data at the latest.
            b.send(Buf::copy_from(b"x"));
            recv_exactly(&a, 1).await.expect("data");
        }
    });
}

fn tickets_are_bound_to_certificate_and_policy(io: IoMode) {
    run(io, || async {
        let authority = Authority::new("test");
        let other_authority = Authority::new("other");
        let certificates = [authority.sign(&["localhost"]).read(), authority.sign(&["localhost"]).read()];
        let keys = TicketKeys::generate();
        let make = |certificate: usize, client_auth: ClientAuth| {
            let certificates = vec![certificates[certificate].clone()];
            ServerTls::new(ServerTlsSettings { certificates, client_auth, alpn: Vec::new() }, keys.clone())
                .expect("good")
        };
        let roots = vec![authority.der.clone()];
        let servers = [
            make(0, ClientAuth::None),
            make(1, ClientAuth::None),
            make(0, ClientAuth::Optional(roots.clone())),
            make(0, ClientAuth::Required(roots.clone())),
            make(0, ClientAuth::Required(vec![authority.der.clone(), other_authority.der.clone()])),
        ];
        // The order of authorities does not matter.
        let same = make(0, ClientAuth::Required(vec![other_authority.der.clone(), authority.der.clone()]));
        for (from, server) in servers.iter().enumerate() {
            let client = client_with(&authority, Some(authority.sign(&["client"]).read()), &[]);
            for to in servers.iter().chain([&same]) {
                get_ticket(&client, server).await;
                let (_, accepted) = tls_pair(&client, to).await;
                let expected = std::ptr::eq(server, to) || (from == 4 && std::ptr::eq(to, &same));
                assert_eq!(accepted.session().expect("TLS").resumed, expected, "from {from}");
            }
        }
    });
}

fn installed_keys_serve_all_handles(io: IoMode) {
    run(io, || async {
        let authority = Authority::new("test");
        let certificate = authority.sign(&["localhost"]).read();
        // Two machines with the keys of one control plane.
        let (here, there) = (TicketKeys::generate(), TicketKeys::generate());
        let make = |keys: &TicketKeys| {
            let certificates = vec![certificate.clone()];
            let settings = ServerTlsSettings { certificates, client_auth: ClientAuth::None, alpn: Vec::new() };
            ServerTls::new(settings, keys.clone()).expect("good")
        };
        let (server_here, server_there) = (make(&here), make(&there));
        let client = client(&authority);
        get_ticket(&client, &server_here).await;
        assert!(!resumed(&client, &server_there).await, "keys of their own");
        let keys = [base_tls::TicketKey::generate(), base_tls::TicketKey::generate()];
        here.install(keys.to_vec(), 0);
        there.install(vec![keys[1].clone(), keys[0].clone()], 0);
        get_ticket(&client, &server_here).await;
        assert!(
            resumed(&client, &server_there).await,
            "made with one key, taken with the same where another makes them"
        );
        here.install(Vec::new(), 0);
        get_ticket(&client, &server_there).await;
        assert!(!resumed(&client, &server_here).await, "without keys there is no resumption, and the handshake works");
    });
}

fn certificates_by_name(io: IoMode) {
    run(io, || async {
        let authority = Authority::new("test");
        let signed = [&["default.test"][..], &["*.shop.test", "shop.test"], &["exact.shop.test"], &["*.sub.shop.test"]];
        let certificates: Vec<_> = signed.iter().map(|names| authority.sign(names).read()).collect();
        let prints: Vec<_> = certificates.iter().map(|certificate| certificate.fingerprint()).collect();
        let server = server(certificates);
        let anyone =
            ClientTls::new(ClientTlsSettings { insecure_skip_verify: true, ..Default::default() }).expect("good");
        for (name, expected) in [
            ("default.test", 0),
            ("shop.test", 1),
            ("www.shop.test", 1),
            ("WWW.Shop.TEST", 1),
            ("exact.shop.test", 2),
            ("a.sub.shop.test", 3),
            ("sub.shop.test", 1),
            ("a.b.sub.shop.test", 0),
            ("unknown.test", 0),
            ("127.0.0.1", 0),
        ] {
            let (a, b) = pair().await;
            let accepted = accept(&server, b);
            let connected = anyone.connect(a, name, LIMIT).await.expect(name);
            let shown = &connected.session().expect("TLS").peer_certificates[0];
            let print = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, shown);
            assert_eq!(print.as_ref(), prints[expected], "{name}");
            let asked = accepted.await.expect("ran").expect(name).session().expect("TLS").server_name.clone();
            // Addresses are not sent (RFC 6066 §3).
            let sent = (name != "127.0.0.1").then(|| name.to_ascii_lowercase());
            assert_eq!(asked.as_deref(), sent.as_deref());
        }
    });
}

fn servers_are_known_by_name_and_address(io: IoMode) {
    run(io, || async {
        let authority = Authority::new("test");
        let server = server(vec![authority.sign(&["shop.test", "127.0.0.1", "::1"]).read()]);
        let stranger = Authority::new("stranger");
        for (authority, name, good) in [
            (&authority, "shop.test", true),
            (&authority, "127.0.0.1", true),
            (&authority, "::1", true),
            (&authority, "other.test", false),
            (&authority, "127.0.0.2", false),
            (&authority, "[::1]", false),
            (&authority, "not a name", false),
            (&stranger, "shop.test", false),
        ] {
            let (a, b) = pair().await;
            let accepted = accept(&server, b);
            let connected = client(authority).connect(a, name, LIMIT).await;
            match (good, connected) {
                (true, Ok(_)) => assert!(accepted.await.expect("ran").is_ok()),
                (false, Err(HandshakeError::Tls(text))) => {
                    assert!(!text.is_empty());
                    assert!(accepted.await.expect("ran").is_err());
                }
                (_, other) => panic!("{name}: {other:?}"),
            }
        }
    });
}

fn client_certificates(io: IoMode) {
    run(io, || async {
        let (authority, stranger) = (Authority::new("test"), Authority::new("stranger"));
        let own = authority.sign(&["localhost"]).read();
        let roots = vec![authority.der.clone()];
        let required = server_with(vec![own.clone()], ClientAuth::Required(roots.clone()), &[]);
        let optional = server_with(vec![own], ClientAuth::Optional(roots), &[]);
        let shown = [None, Some(authority.sign(&["someone"]).read()), Some(stranger.sign(&["nobody"]).read())];
        for (server, results) in [(required, [None, Some(1), None]), (optional, [Some(0), Some(1), None])] {
            for (certificate, result) in shown.iter().zip(results) {
                let client = client_with(&authority, certificate.clone(), &[]);
                let (a, b) = pair().await;
                let accepted = accept(&server, b);
                // With TLS 1.3 the client has finished before its certificate is looked at.
                let connected = client.connect(a, "localhost", LIMIT).await.expect("finishes");
                match (accepted.await.expect("ran"), result) {
                    (Ok(stream), Some(count)) => {
                        assert_eq!(stream.session().expect("TLS").peer_certificates.len(), count);
                        stream.send(Buf::copy_from(b"welcome"));
                        assert_eq!(recv_exactly(&connected, 7).await.expect("data"), b"welcome");
                    }
                    (Err(HandshakeError::Tls(text)), None) => {
                        assert!(text.contains("certificate"), "{text}");
                        let error = connected.recv().await.expect_err("an alert");
                        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{error}");
                    }
                    (other, _) => panic!("{other:?}"),
                }
            }
        }
    });
}

fn protocols(io: IoMode) {
    run(io, || async {
        let authority = Authority::new("test");
        let certificate = authority.sign(&["localhost"]).read();
        let server = server_with(vec![certificate], ClientAuth::None, &["h2", "http/1.1"]);
        for (offered, agreed) in
            [(&["http/1.1", "h2"][..], Some(&b"h2"[..])), (&["http/1.1"], Some(b"http/1.1")), (&[], None)]
        {
            let (a, b) = tls_pair(&client_with(&authority, None, offered), &server).await;
            for end in [a, b] {
                assert_eq!(end.session().expect("TLS").alpn.as_deref(), agreed);
            }
        }
        let (a, b) = pair().await;
        let accepted = accept(&server, b);
        let refused = client_with(&authority, None, &["mqtt"]).connect(a, "localhost", LIMIT).await;
        assert!(format!("{:?}", refused.expect_err("refused")).contains("NoApplicationProtocol"));
        assert!(accepted.await.expect("ran").is_err());
        let client = client_with(&authority, None, &["http/1.1"]);
        for (offered, agreed) in [(&[&b"h2"[..], b"http/1.1"][..], &b"h2"[..]), (&[b"http/1.1"], b"http/1.1")] {
            let (a, b) = pair().await;
            let accepted = accept(&server, b);
            let connected = client.connect_offering(a, "localhost", offered, LIMIT).await.expect("shakes hands");
            assert_eq!(connected.session().expect("TLS").alpn.as_deref(), Some(agreed));
            assert!(accepted.await.expect("ran").is_ok());
        }
    });
}

fn slow_handshakes_end(io: IoMode) {
    run(io, || async {
        let authority = Authority::new("test");
        let server = server(vec![authority.sign(&["localhost"]).read()]);
        let before = total(Count::FailedTimeout);
        // Nothing at all, and half a ClientHello.
        for bytes in [&[][..], &[22, 3, 1, 2, 0, 1, 0, 1, 0xfc]] {
            let (a, b) = pair().await;
            if !bytes.is_empty() {
                a.send(Buf::copy_from(bytes));
            }
            let result = server.accept(b, Duration::from_millis(30)).await;
            assert!(matches!(result, Err(HandshakeError::TimedOut)), "{result:?}");
            while let Ok(Some(_)) = a.recv().await {}
        }
        let (a, _b) = pair().await;
        let result = client(&authority).connect(a, "localhost", Duration::from_millis(30)).await;
        assert!(matches!(result, Err(HandshakeError::TimedOut)), "{result:?}");
        assert!(total(Count::FailedTimeout) >= before + 3);
        // A peer that goes away meanwhile.
        let (a, b) = pair().await;
        drop(a);
        let result = server.accept(b, LIMIT).await;
        assert!(matches!(result, Err(HandshakeError::Io(_))), "{result:?}");
    });
}

fn handshakes_that_never_end_end(io: IoMode) {
    run(io, || async {
        let authority = Authority::new("test");
        let server = server(vec![authority.sign(&["localhost"]).read()]);
        let before = total(Count::FailedTooLong);
        // A ClientHello as long as its header can say, in small records.
        let (a, b) = pair().await;
        let accepted = accept(&server, b);
        let mut record = [0u8; 5 + 1000];
        record[..5].copy_from_slice(&[22, 3, 1, 3, 232]);
        record[5..9].copy_from_slice(&[1, 0xff, 0xff, 0xff]);
        for _ in 0..100 {
            a.send(Buf::copy_from(&record));
            record[5..9].copy_from_slice(&[0; 4]);
        }
        let result = accepted.await.expect("ran");
        assert!(matches!(&result, Err(HandshakeError::Tls(text)) if text.contains("65536")), "{result:?}");
        assert!(total(Count::FailedTooLong) > before);
    });
}

fn what_is_not_tls_is_refused(io: IoMode) {
    run(io, || async {
        let authority = Authority::new("test");
        let server = server(vec![authority.sign(&["localhost"]).read()]);
        for bytes in [
            &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
            b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00",
            b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",
            b"\x16\x03\x01\xff\xff",
            b"\x17\x03\x03\x00\x01\x00",
            b"\x15\x03\x01\x00\x02\x02\x28",
            b"\x16\x03\x01\x00\x00",
            b"\0",
        ] {
            let (a, b) = pair().await;
            a.send(Buf::copy_from(bytes));
            let result = server.accept(b, LIMIT).await;
            assert!(matches!(result, Err(HandshakeError::Tls(_))), "{bytes:?}: {result:?}");
            // Whatever the alert, the connection ends.
            while let Ok(Some(_)) = a.recv().await {}
        }
    });
}

fn bytes_before_tls_are_refused(io: IoMode) {
    run(io, || async {
        let authority = Authority::new("test");
        let (a, b) = pair().await;
        b.send(Buf::copy_from(b"HTTP/1.1 200 OK\r\n\r\n"));
        a.readable().await;
        let result = client(&authority).connect(a, "localhost", LIMIT).await;
        assert!(matches!(result, Err(HandshakeError::Tls(_))), "{result:?}");
        assert!(b.recv().await.map_or(true, |buf| buf.is_none()), "nothing was said to such a server");
        // Plain text instead of a ServerHello.
        let (a, b) = pair().await;
        spawn(async move {
            let _ = b.recv().await;
            b.send(Buf::copy_from(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
            let _ = b.recv().await;
        });
        let result = client(&authority).connect(a, "localhost", LIMIT).await;
        assert!(matches!(result, Err(HandshakeError::Tls(_))), "{result:?}");
    });
}

fn too_many_waiting_are_turned_away(io: IoMode) {
    run(io, || async {
        let authority = Authority::new("test");
        let server = server(vec![authority.sign(&["localhost"]).read()]);
        let client = client(&authority);
        let before = total(Count::FailedOverload);
        // All ClientHellos are in the servers' buffers before the first of them is looked at.
        let mut ready = Vec::new();
        for _ in 0..1100 {
            let (a, b) = pair().await;
            let client = client.clone();
            let connected = task(async move { client.connect(a, "localhost", Duration::from_secs(30)).await });
            ready.push((connected, b));
        }
        for (_, b) in &ready {
            b.readable().await;
        }
        let mut accepting = Vec::new();
        let mut connecting = Vec::new();
        for (connected, b) in ready {
            let server = server.clone();
            accepting.push(task(async move { server.accept(b, Duration::from_secs(30)).await }));
            connecting.push(connected);
        }
        let (mut good, mut refused) = (0, 0);
        for accepted in accepting {
            match accepted.await.expect("ran") {
                Ok(_) => good += 1,
                Err(HandshakeError::Overloaded) => refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
        assert!(refused > 0 && good >= 1000, "{good} good, {refused} refused");
        assert!(total(Count::FailedOverload) >= before + refused);
        for connected in connecting {
            let _ = connected.await;
        }
    });
}

/// While handshakes wait, an established connection's echo takes one turn of the loop or two, and with it one or two steps of
/// handshakes, not all of them.
fn a_flood_of_handshakes_takes_turns(io: IoMode) {
    run(io, || async {
        let authority = Authority::new("test");
        let server = server(vec![authority.sign(&["localhost"]).read()]);
        let client = client(&authority);
        let (a, b) = tls_pair(&client, &server).await;
        spawn(async move {
            while let Ok(Some(buf)) = b.recv().await {
                b.send(buf);
            }
        });
        let done = std::rc::Rc::new(std::cell::Cell::new(0));
        const FLOOD: usize = 200;
        for _ in 0..FLOOD {
            let (a, b) = pair().await;
            spawn({
                let client = client.clone();
                async move {
                    let _kept = client.connect(a, "localhost", LIMIT).await;
                    sleep(LIMIT).await;
                }
            });
            let (server, done) = (server.clone(), done.clone());
            spawn(async move {
                let _kept = server.accept(b, LIMIT).await.expect("accepts");
                done.set(done.get() + 1);
                sleep(LIMIT).await;
            });
        }
        let mut echoes = 0;
        while done.get() < FLOOD {
            a.send(Buf::copy_from(b"still there?"));
            recv_exactly(&a, 12).await.expect("data");
            echoes += 1;
        }
        // A handshake has two steps here and two at the client's.
        assert!(echoes >= FLOOD / 2, "{echoes} echoes during {FLOOD} handshakes");
    });
}

fn waiting_handshakes_that_give_up_leave_the_line(io: IoMode) {
    run(io, || async {
        let authority = Authority::new("test");
        let server = server(vec![authority.sign(&["localhost"]).read()]);
        let client = client(&authority);
        let mut ready = Vec::new();
        for _ in 0..60 {
            let (a, b) = pair().await;
            let client = client.clone();
            let connected = task(async move { client.connect(a, "localhost", LIMIT).await });
            ready.push((connected, b));
        }
        for (_, b) in &ready {
            b.readable().await;
        }
        // All stand in line in one turn of the loop; every other one has no time at all.
        let mut accepting = Vec::new();
        for (index, (connected, b)) in ready.into_iter().enumerate() {
            let (server, limit) = (server.clone(), if index % 2 == 0 { Duration::ZERO } else { LIMIT });
            accepting.push((index, connected, task(async move { server.accept(b, limit).await })));
        }
        for (index, _connected, accepted) in accepting {
            let result = accepted.await.expect("ran");
            // The first few may be through before their time is looked at.
            assert!(result.is_ok() || index % 2 == 0, "{index}: {result:?}");
        }
    });
}

/// A pair with the usual settings.
async fn plain_pair() -> (Transport, Transport) {
    let authority = Authority::new("test");
    tls_pair(&client(&authority), &server(vec![authority.sign(&["localhost"]).read()])).await
}

/// Makes the client hold a ticket of this server and no other.
async fn get_ticket(client: &ClientTls, server: &ServerTls) {
    let (a, b) = tls_pair(client, server).await;
    b.send(Buf::copy_from(b"x"));
    recv_exactly(&a, 1).await.expect("data");
}

async fn resumed(client: &ClientTls, server: &ServerTls) -> bool {
    tls_pair(client, server).await.1.session().expect("TLS").resumed
}

fn accept(server: &ServerTls, stream: TcpStream) -> LocalOneshotReceiver<Result<Transport, HandshakeError>> {
    let server = server.clone();
    task(async move { server.accept(stream, LIMIT).await })
}

fn task<T: 'static>(future: impl Future<Output = T> + 'static) -> LocalOneshotReceiver<T> {
    let (sender, receiver) = local_oneshot();
    spawn(async move {
        let _ = sender.send(future.await);
    });
    receiver
}

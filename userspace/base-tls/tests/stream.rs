//! Our client against our server on one worker, on both drivers.

#[macro_use]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;

use base_runtime::{IoMode, spawn};
use support::*;

on_both_drivers!(echo_of_every_size,);

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

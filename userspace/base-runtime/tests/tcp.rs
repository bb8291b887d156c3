//! What a TCP stream promises, on both drivers.

#[macro_use]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;

use base_runtime::{IoMode, spawn};
use support::*;

on_both_drivers!(echo_of_every_size);

fn echo_of_every_size(io: IoMode) {
    run(io, || async {
        let listener = listen();
        let address = listener.local_addr();
        spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                spawn(async move {
                    while let Ok(Some(buf)) = stream.recv().await {
                        stream.send(buf);
                        if stream.send_ready(128 * 1024).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        for size in [1, 2, 1023, 1024, 1025, 31_744, 31_745, 65_536, 1 << 20, 10 << 20] {
            let stream = base_runtime::net::TcpStream::connect(address).await.expect("connects");
            let sent = pattern(size);
            let writer = (stream.clone(), sent.clone());
            spawn(async move {
                send_all(&writer.0, &writer.1).await.expect("sends");
                writer.0.shutdown_write();
            });
            let back = recv_all(&stream).await.expect("receives");
            assert!(back == sent, "{size} bytes came back changed ({} bytes)", back.len());
        }
    });
}

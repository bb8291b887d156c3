//! `pingora-peer LISTEN UPSTREAM [CERTIFICATE KEY]`: Pingora as a reverse proxy of one upstream, with one thread and mimalloc, as its
//! users run it. It has no access log of its own and none is written.

#![forbid(unsafe_code)]

use std::sync::Arc;

use async_trait::async_trait;
use pingora::prelude::*;
use pingora::server::configuration::ServerConf;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Relay {
    upstream: String,
}

#[async_trait]
impl ProxyHttp for Relay {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(&self.upstream, false, String::new())))
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, upstream, pair @ ..] = arguments.as_slice() else {
        eprintln!("pingora-peer LISTEN UPSTREAM [CERTIFICATE KEY]");
        std::process::exit(2);
    };
    let settings = ServerConf { threads: 1, upstream_keepalive_pool_size: 512, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, settings);
    server.bootstrap();
    let mut service = http_proxy_service(&Arc::clone(&server.configuration), Relay { upstream: upstream.clone() });
    match pair {
        [certificate, key] => service.add_tls(listen, certificate, key).expect("a certificate and its key"),
        _ => service.add_tcp(listen),
    }
    server.add_service(service);
    server.run_forever();
}

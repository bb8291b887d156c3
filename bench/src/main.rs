//! `bench`: runs a scenario; `cargo xtask bench` builds everything it needs and calls it.

use std::process::ExitCode;

use bench::scenarios::{
    Options, cache, checks, connections, extras, filters, grpc, http1, http2, http3, idle, micro, refusal, routes, tcp,
    tls1, udp, websocket,
};
use bench::training;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "bench", about = "Ours beside its peers, in the same minute")]
struct Arguments {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// Requests over plain HTTP/1.1
    Http1(Options),
    /// Requests over HTTP/2 inside TLS 1.3
    Http2(Options),
    /// Requests over HTTP/3
    Http3(Options),
    /// Calls of gRPC inside TLS 1.3
    Grpc(Options),
    /// Messages through WebSockets
    Websocket(Options),
    /// Requests and handshakes over TLS 1.3
    Tls1(Options),
    /// Bytes relayed as they come
    Tcp(Options),
    /// Datagrams relayed by sessions
    Udp(Options),
    /// Memory of connections that do nothing
    Idle(Options),
    /// Latency where most connections do nothing
    Connections(Options),
    /// What traces, logs, programs and scripts add to a request
    Extras(Options),
    /// What each filter adds to a request
    Filters(Options),
    /// What an answer from memory costs
    Cache(Options),
    /// What many routes cost: a request, memory, a change
    Routes(Options),
    /// What health checks of a thousand servers cost
    Checks(Options),
    /// What a request costs that is not served
    Refusal(Options),
    /// Instructions per operation, against a committed baseline
    Micro(micro::Options),
    /// Load of every kind on a weir that writes a profile of it; measures nothing
    Train(training::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().scenario {
        Scenario::Http1(options) => http1::run(&options),
        Scenario::Http2(options) => http2::run(&options),
        Scenario::Http3(options) => http3::run(&options),
        Scenario::Grpc(options) => grpc::run(&options),
        Scenario::Websocket(options) => websocket::run(&options),
        Scenario::Tls1(options) => tls1::run(&options),
        Scenario::Tcp(options) => tcp::run(&options),
        Scenario::Udp(options) => udp::run(&options),
        Scenario::Idle(options) => idle::run(&options),
        Scenario::Connections(options) => connections::run(&options),
        Scenario::Extras(options) => extras::run(&options),
        Scenario::Filters(options) => filters::run(&options),
        Scenario::Cache(options) => cache::run(&options),
        Scenario::Routes(options) => routes::run(&options),
        Scenario::Checks(options) => checks::run(&options),
        Scenario::Refusal(options) => refusal::run(&options),
        Scenario::Micro(options) => micro::run(&options),
        Scenario::Train(options) => training::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

//! HTTP/2 as nghttp2's `h2load` asks for it, with our generator as the upstream that answers.
//!
//! `h2load` compares no bodies; what it is answered is known from the upstream, which counts what it was asked for in the same time, and
//! from its own count of statuses: one that is not 2xx ends the run. Its CPU is the load's, so who else uses that is not known here.

use crate::generator::{self, Outcome};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// How many connections, and requests at a time on each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub connections: usize,
    pub streams: usize,
    /// They are calls of gRPC, with a message of a hundred bytes each.
    pub calls: bool,
}

/// Loads the gateway for as long as the options say.
pub fn run(options: &generator::Options, shape: Shape) -> Result<Outcome, String> {
    let target = options.target.ok_or("h2load needs a gateway")?;
    // Its handshakes come before the measurement. The upstream waits for its end, which is later than planned on a busy machine.
    let length = (options.warm_up + options.seconds - 0.2 - START).max(0.1);
    let message = std::env::temp_dir().join(format!("weir-bench-message-{}", std::process::id()));
    if shape.calls {
        let framed = [&[0, 0, 0, 0, 100][..], &[b'm'; 100]].concat();
        std::fs::write(&message, framed).map_err(|error| format!("{}: {error}", message.display()))?;
    }
    let (file, others) = (message.clone(), generator::Others::default());
    let (asks, upstream) = (others.begin(), options.upstream);
    let asking = thread::spawn(move || {
        let _asks = asks;
        wait_for(upstream);
        ask(target, shape, length, &file)
    });
    let quiet = generator::Options { connections: 0, tls: None, others: Some(others), ..options.clone() };
    let outcome = generator::run(&quiet)?;
    let said = asking.join().map_err(|_| "h2load could not be waited for".to_owned());
    let _ = std::fs::remove_file(&message);
    let said = said??;
    let (good, bad) = statuses(&said).ok_or_else(|| format!("h2load said something else:\n{said}"))?;
    if bad > 0 || good == 0 {
        return Err(format!("{bad} answers of {} were no answers:\n{said}", good + bad));
    }
    Ok(Outcome { requests: outcome.upstream_requests, foreign_load_us: 0.0, ..outcome })
}

/// Until the upstream listens.
fn wait_for(upstream: Option<SocketAddr>) {
    for _ in 0..500 {
        thread::sleep(Duration::from_secs_f64(START / 10.0));
        if upstream.is_none_or(|at| TcpStream::connect(at).is_ok()) {
            return;
        }
    }
}

fn ask(target: SocketAddr, shape: Shape, seconds: f64, message: &Path) -> Result<String, String> {
    let duration = format!("{}ms", (seconds * 1000.0) as u64);
    let mut command = Command::new("h2load");
    command.args(["-t", "1", "-c", &shape.connections.to_string(), "-m", &shape.streams.to_string(), "-D", &duration]);
    let path = if shape.calls {
        command.arg("-d").arg(message).args(["-H", "content-type: application/grpc", "-H", "te: trailers"]);
        "bench.Echo/Unary"
    } else {
        "7"
    };
    command.arg(format!("https://{target}/{path}")).stdin(Stdio::null());
    let done = command.output().map_err(|error| format!("h2load: {error}; Debian has it in nghttp2-client"))?;
    Ok(String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr))
}

/// Answers of 2xx and all others, of the line `status codes: 10 2xx, 0 3xx, 0 4xx, 0 5xx`.
fn statuses(said: &str) -> Option<(u64, u64)> {
    let line = said.lines().find_map(|line| line.strip_prefix("status codes: "))?;
    let counts = line.split(", ").map(|part| part.split(' ').next()?.parse::<u64>().ok());
    let counts = counts.collect::<Option<Vec<_>>>()?;
    let (good, bad) = counts.split_first()?;
    Some((*good, bad.iter().sum()))
}

/// Seconds after which it begins: the upstream listens by then, where the machine has time for it.
const START: f64 = 0.1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_h2load_says_is_read() {
        let said = "finished in 3.00s, 33.33 req/s, 2.9KB/s\nstatus codes: 100 2xx, 0 3xx, 1 4xx, 2 5xx\n";
        assert_eq!(statuses(said), Some((100, 3)));
        assert_eq!(statuses("nothing"), None);
    }
}

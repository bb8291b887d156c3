//! What the fields that all listeners have must be.

use crate::duration::GoDuration;
use crate::problem::{Findings, Problem, at};

pub(crate) fn check_place(address: &str, port: u16, path: &str, findings: &mut Findings) {
    if port == 0 {
        findings.problem(Problem::new(at(path, "port"), "out of range").value(&0.into()).accepted("1 to 65535"));
    }
    if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
        let advice = match address {
            "localhost" => "write 127.0.0.1 or ::1",
            _ => "leave it out to listen on every address",
        };
        findings.problem(Problem::new(at(path, "address"), "not an IP address").text(address).advice(advice));
    }
}

pub(crate) fn check_connections(most: u32, path: &str, findings: &mut Findings) {
    if most == 0 {
        let problem = Problem::new(at(path, "maxConnections"), "out of range").value(&0.into());
        findings.problem(problem.accepted("1 or more"));
    }
}

pub(crate) fn check_timeout(name: &str, timeout: GoDuration, path: &str, findings: &mut Findings) {
    if timeout.is_zero() {
        let problem = Problem::new(at(path, name), "would cut every client off").text(&timeout.to_string());
        findings.problem(problem.accepted("more than 0s").advice("leave it out for the default"));
    }
}

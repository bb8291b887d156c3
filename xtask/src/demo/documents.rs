//! What the demo applies, as a person would write it.

/// Both backends in turn, behind an adaptor that leaves its mark on every request.
pub fn pipeline(servers: &[String]) -> String {
    let servers: String = servers.iter().map(|url| format!("    - url: {url}\n")).collect();
    format!(
        "name: demo-pipeline
kind: Pipeline
flow:
- filter: adaptor
- filter: proxy
filters:
- name: adaptor
  kind: RequestAdaptor
  header:
    set:
      X-Demo: flash-sale
- name: proxy
  kind: Proxy
  pools:
  - servers:
{servers}    loadBalance:
      policy: roundRobin
"
    )
}

/// Everything to the pipeline; the backend is told which machine and worker it was.
pub fn http_server(port: u16) -> String {
    format!(
        "name: demo-server
kind: HTTPServer
port: {port}
keepAlive: true
rules:
- paths:
  - pathPrefix: /
    backend: demo-pipeline
    setHeaders:
      X-Weir-Machine: $machine
      X-Weir-Worker: $worker
"
    )
}

/// The virtual IP over these machines, active unless `states` says otherwise.
pub fn virtual_ip(addresses: &[String], port: u16, machines: &[&str], states: &[(&str, &str)]) -> String {
    let addresses: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    let state = |name: &str| states.iter().find(|(machine, _)| *machine == name).map_or("active", |(_, state)| *state);
    let machines: String =
        machines.iter().map(|name| format!("- {{name: {name}, weight: 1, state: {}}}\n", state(name))).collect();
    let addresses = addresses.join(", ");
    format!(
        "name: demo\nkind: VirtualIP\naddresses: [{addresses}]\nports: [{port}]\nprotocols: [TCP]\nmachines:\n{machines}"
    )
}

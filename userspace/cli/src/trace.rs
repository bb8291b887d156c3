//! `trace`: what the kernel's programs of a machine do with a packet.

use hyper::Method;
use serde_json::Value;

use crate::arguments::Format;
use crate::documents::word;
use crate::output::{print, structured};
use crate::server::{Server, segment, value};

/// Asks the machine that answers here.
pub async fn trace(server: &Server, flow: &[String], format: Format) -> Result<(), String> {
    let path = format!("/trace?flow={}", segment(&flow.join(" ")));
    let answer = value(&server.send(Method::GET, &path, String::new()).await?)?;
    if format != Format::Default {
        structured(&answer, format);
        return Ok(());
    }
    print(&told(&answer));
    Ok(())
}

fn told(trace: &Value) -> String {
    let mut lines =
        vec![format!("flow       {}", word(trace, "flow")), format!("comes to   {}", word(trace, "machine"))];
    let mut line = |what: &str, text: String| lines.push(format!("{what:<10} {text}"));
    match trace["virtualIP"].as_str() {
        Some(name) => line("VirtualIP", name.to_owned()),
        None => line("VirtualIP", "none".to_owned()),
    }
    if let Some(slot) = trace["slot"].as_u64() {
        let owners: Vec<&str> = trace["owners"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let owners =
            if owners.is_empty() { "nobody's".to_owned() } else { format!("of {}", owners.join(", before that of ")) };
        line("slot", format!("{slot}, {owners}"));
        line(
            "socket",
            format!("{} at {}, whose daemon {}", word(trace, "socket"), word(trace, "machine"), word(trace, "daemon")),
        );
    }
    line("verdict", format!("{}: {}", word(trace, "verdict"), word(trace, "reason")));
    if let Some(to) = trace["to"].as_str() {
        let by = trace["nextHop"].as_str().map_or("by the router".to_owned(), |mac| format!("on the link, at {mac}"));
        let how = if trace["backend"] == true { "as IP in IP".to_owned() } else { format!("tunnel {}", trace["hop"]) };
        line("goes to", format!("{to} ({}), {by}, {how}", word(trace, "address")));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_trace_has_everything_that_is_known() {
        let trace = json!({
            "flow": "tcp 198.51.100.7:41000 > 203.0.113.10:443", "machine": "edge-1", "virtualIP": "shop", "slot": 7,
            "owners": ["edge-2", "edge-1"], "socket": "none", "daemon": "lives", "verdict": "transmit", "reason": "forwarded",
            "to": "edge-2", "address": "10.0.0.2", "hop": 1, "nextHop": null, "epoch": 3,
        });
        let wanted = [
            "flow       tcp 198.51.100.7:41000 > 203.0.113.10:443",
            "comes to   edge-1",
            "VirtualIP  shop",
            "slot       7, of edge-2, before that of edge-1",
            "socket     none at edge-1, whose daemon lives",
            "verdict    transmit: forwarded",
            "goes to    edge-2 (10.0.0.2), by the router, tunnel 1",
        ];
        assert_eq!(told(&trace), wanted.join("\n"));
        let mut to_backend = trace.clone();
        (to_backend["to"], to_backend["backend"]) = (json!("web-1"), json!(true));
        assert!(told(&to_backend).ends_with("goes to    web-1 (10.0.0.2), by the router, as IP in IP"));
        let none = json!({"flow": "f", "machine": "m", "verdict": "pass", "reason": "not_vip"});
        assert_eq!(told(&none), "flow       f\ncomes to   m\nVirtualIP  none\nverdict    pass: not_vip");
    }
}

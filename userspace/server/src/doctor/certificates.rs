//! Certificates of the doors: the pair itself was read with the options.

use super::Findings;
use crate::options::Options;
use control_api::certificates::faults;
use control_api::tls::{Identity, Pem};
use std::time::SystemTime;

pub fn look(options: &Options, found: &mut Findings) {
    if let Some((identity, _)) = options.admin_tls.as_ref().and_then(|tls| tls.identity()) {
        tell("admin certificate", &identity, None, &[], found);
    }
    if let Some((identity, authorities)) = options.peer_tls.as_ref().and_then(|tls| tls.identity()) {
        // The others take it for the member's name, or for the host they call.
        let url = options.advertise_peer_url.iter().chain(options.initial_cluster.get(&options.name));
        let host = |url: &String| Some(url.parse::<hyper::Uri>().ok()?.host()?.trim_matches(['[', ']']).to_owned());
        let names: Vec<String> = [options.name.clone()].into_iter().chain(url.filter_map(host)).collect();
        tell("peer certificate", &identity, authorities.as_ref(), &names, found);
    }
}

fn tell(what: &str, identity: &Identity, authorities: Option<&Pem>, names: &[String], found: &mut Findings) {
    match faults(identity, authorities, names, SystemTime::now()) {
        Err(error) => found.fault(what, error.to_string()),
        Ok(faults) if faults.is_empty() => found.well(what, format!("{} is good", identity.chain.from)),
        Ok(faults) => {
            for fault in faults {
                if fault.severe { found.fault(what, fault.text) } else { found.warning(what, fault.text) }
            }
        }
    }
}

//! Whose names a certificate of the cluster's own may bear: its member's, and those of places that are nobody else's name.
//!
//! A certificate speaks for whom it names, and it also names where its member is reached. A host that is another member's name would make
//! the one into the other; so would a name that is a place of another. Names of hosts do not differ by case.

use std::collections::BTreeMap;
use std::net::IpAddr;

use base_text::quoted;

use crate::config::host_port;
use crate::control::Inner;
use crate::issue;

impl Inner {
    /// Whose name this is, or at whose host it is reached, when that is not `name` itself.
    fn another(&self, name: &str, host: &str) -> Option<String> {
        let state = self.publisher().state();
        let mut known: BTreeMap<&str, &str> = BTreeMap::new();
        known.extend(self.places.initial_cluster.iter().map(|(name, url)| (name.as_str(), url.as_str())));
        known.extend(state.view.members.iter().map(|(name, member)| (name.as_str(), member.peer_url.as_str())));
        let voters = self.voters();
        let names = known.keys().copied().chain(voters.iter().map(String::as_str)).chain([self.name()]);
        let same = |other: &str| other.eq_ignore_ascii_case(host);
        names.into_iter().find(|other| *other != name && same(other)).map(str::to_owned)
    }

    /// Why nobody may come by this name, if so: it is another's in other letters, or the host of another.
    pub(crate) fn unfit_newcomer(&self, name: &str) -> Option<String> {
        if let Some(other) = self.another(name, name) {
            return Some(format!(
                "the cluster has a member {} already, and names do not differ by case: choose another --name",
                quoted(&other)
            ));
        }
        let state = self.publisher().state();
        let reached = |url: &str| host_port("", url).is_ok_and(|(host, _)| host.eq_ignore_ascii_case(name));
        let members = state.view.members.values().map(|member| (&member.name, &member.peer_url));
        let other = members.chain(&self.places.initial_cluster).find(|(other, url)| *other != name && reached(url))?.0;
        Some(format!(
            "member {} is reached at a host of that name, so that its certificate would speak for this one too: choose another --name",
            quoted(other)
        ))
    }

    /// Why a member's certificate may not be for this host, if so.
    pub(crate) fn unfit_host(&self, name: &str, host: &str) -> Option<String> {
        if host.parse::<IpAddr>().is_ok() || host == name {
            return None;
        }
        if issue::unfit(host).is_some() {
            return Some(format!(
                "host {}: a certificate is for an address, or for one host by name (letters, digits, dashes and dots)",
                quoted(host)
            ));
        }
        self.another(name, host).map(|other| {
            format!(
                "host {} is the name of member {}, and a certificate for it would speak for that one: give an address or another name of this machine",
                quoted(host),
                quoted(&other)
            )
        })
    }

    /// Of these hosts those that a member's certificate may be for.
    pub(crate) fn fit_hosts(&self, name: &str, mut hosts: Vec<String>) -> Vec<String> {
        hosts.retain(|host| match self.unfit_host(name, host) {
            Some(why) => {
                tracing::warn!(
                    member = name,
                    why,
                    "the next certificate of this member leaves a host of its peer URL out"
                );
                false
            }
            None => true,
        });
        hosts
    }
}

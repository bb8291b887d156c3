//! `kind: AccessList`: addresses that are kept out, and those that are let in all the same.
//!
//! ```yaml
//! kind: AccessList
//! name: abuse
//! deny: [198.51.100.0/24, "2001:db8:bad::/48"]
//! allow: [198.51.100.7]
//! ```

use std::collections::HashMap;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ip_filter::Cidr;
use crate::problem::{Findings, Problem, at, nth};

/// Addresses and prefixes that are denied, and exceptions from that. All AccessLists count together: of all prefixes an address lies
/// in, the longest decides, and where one list allows the same prefix that another denies, it is denied. An address in none is let in:
/// to let in nobody else, deny `0.0.0.0/0` and `::/0`. Every edge drops what comes from denied addresses to a VirtualIP in the kernel,
/// before more than its addresses is read, also of connections that are there, and its listeners close their new connections and pass
/// over their datagrams, whatever address they came to. Where an edge runs without a kernel plane that is all: connections from before stay.
/// What counts is the address a packet comes from, and of a listener with `proxyProtocol: accept` also the one that a trusted proxy
/// names; never X-Forwarded-For. At most 1,000,000 prefixes in all AccessLists.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AccessListSpec {
    /// Addresses and prefixes kept out, IPv4 and IPv6.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<Cidr>,
    /// Addresses and prefixes let in, though a shorter prefix in `deny` has them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Cidr>,
}

impl AccessListSpec {
    pub fn validate(&self, path: &str, findings: &mut Findings) {
        if self.prefixes() == 0 {
            findings.warn(path, "neither deny nor allow is given: it keeps nobody out");
        }
        if self.prefixes() > PREFIXES_MAX {
            findings.problem(too_many(path, self.prefixes()));
            return;
        }
        let denied: HashMap<Prefix, usize> =
            self.deny.iter().enumerate().map(|(at, cidr)| (Prefix::of(cidr), at)).collect();
        for (i, cidr) in self.allow.iter().enumerate() {
            if let Some(place) = denied.get(&Prefix::of(cidr)) {
                let problem = Problem::new(nth(&at(path, "allow"), i), format!("deny[{place}] is the same prefix"));
                findings.problem(problem.text(&cidr.to_string()).advice("take it out of one of the two"));
            }
        }
    }

    /// How many there are.
    pub fn prefixes(&self) -> usize {
        self.deny.len() + self.allow.len()
    }
}

/// Of `count` prefixes of all AccessLists.
pub(crate) fn too_many(path: &str, count: usize) -> Problem {
    Problem::new(path, format!("{count} prefixes of all AccessLists together"))
        .accepted(format!("at most {PREFIXES_MAX}"))
        .advice("join neighbours to shorter prefixes, or take out what is not needed")
}

/// Most prefixes of all AccessLists together; see `PREFIXES_MAX` of ebpf/abi.
pub const PREFIXES_MAX: usize = 1_000_000;

/// What tells one prefix from another, in the order in which longer ones come behind those they lie in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Prefix {
    v6: bool,
    low: u128,
    length: u8,
}

impl Prefix {
    fn of(cidr: &Cidr) -> Prefix {
        Prefix { v6: cidr.address().is_ipv6(), low: cidr.bounds().0, length: cidr.length() }
    }
}

/// All AccessLists together, ready to be asked: one binary search, no allocation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Where a stretch of addresses begins, and whether they are denied, up to the next one.
    v4: Vec<(u32, bool)>,
    v6: Vec<(u128, bool)>,
}

impl Access {
    pub fn new<'l>(lists: impl IntoIterator<Item = &'l AccessListSpec>) -> Access {
        let mut prefixes: Vec<(Prefix, u128, bool)> = lists
            .into_iter()
            .flat_map(|list| list.deny.iter().map(|c| (c, true)).chain(list.allow.iter().map(|c| (c, false))))
            .map(|(cidr, denied)| (Prefix::of(cidr), cidr.bounds().1, denied))
            .collect();
        // Of two that are the same the one that denies comes first, and stays.
        prefixes.sort_unstable_by_key(|(prefix, _, denied)| (*prefix, !denied));
        prefixes.dedup_by_key(|(prefix, ..)| *prefix);
        let v6_from = prefixes.partition_point(|(prefix, ..)| !prefix.v6);
        let v4 = stretches(&prefixes[..v6_from]);
        // What comes behind the last address of all is no stretch.
        let v4 = v4.into_iter().filter_map(|(first, denied)| Some((u32::try_from(first).ok()?, denied))).collect();
        Access { v4, v6: stretches(&prefixes[v6_from..]) }
    }

    pub fn denies(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => last_before(&self.v4, u32::from(ip)),
            IpAddr::V6(ip) => last_before(&self.v6, u128::from(ip)),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

fn last_before<T: Ord + Copy>(stretches: &[(T, bool)], value: T) -> bool {
    let after = stretches.partition_point(|(first, _)| *first <= value);
    after.checked_sub(1).is_some_and(|at| stretches[at].1)
}

/// Stretches of prefixes that are sorted by their first address, shorter ones first. Each with its last address.
fn stretches(prefixes: &[(Prefix, u128, bool)]) -> Vec<(u128, bool)> {
    let mut found: Vec<(u128, bool)> = Vec::new();
    let mut begin = |first: u128, denied: bool| {
        if found.last().is_some_and(|(last, _)| *last == first) {
            found.pop();
        }
        if found.last().map_or(denied, |(_, before)| *before != denied) {
            found.push((first, denied));
        }
    };
    // Those that the place lies in, the longest last.
    let mut inside: Vec<(u128, bool)> = Vec::new();
    let leave = |inside: &mut Vec<(u128, bool)>, until: Option<u128>, begin: &mut dyn FnMut(u128, bool)| {
        while let Some((last, _)) = inside.last().copied().filter(|(last, _)| until.is_none_or(|until| *last < until)) {
            inside.pop();
            if let Some(next) = last.checked_add(1) {
                begin(next, inside.last().is_some_and(|(_, denied)| *denied));
            }
        }
    };
    for (prefix, last, denied) in prefixes {
        leave(&mut inside, Some(prefix.low), &mut begin);
        begin(prefix.low, *denied);
        inside.push((*last, *denied));
    }
    leave(&mut inside, None, &mut begin);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(yaml: &str, problems: &[&str], warnings: &[&str]) -> AccessListSpec {
        let value = crate::yaml::parse_document(yaml).unwrap();
        let mut findings = Findings::default();
        let spec = findings.take(crate::decode::<AccessListSpec>(&value, ""));
        if let Some(spec) = &spec {
            spec.validate("", &mut findings);
        }
        let told: Vec<String> = findings.problems.iter().map(Problem::to_string).collect();
        assert_eq!(told, problems, "{yaml}");
        let told: Vec<String> = findings.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(told, warnings, "{yaml}");
        spec.unwrap_or_default()
    }

    #[test]
    fn refusals() {
        check("{deny: [198.51.100.0/24, '2001:db8::/32', 192.0.2.1], allow: [198.51.100.7]}", &[], &[]);
        check("{}", &[], &["neither deny nor allow is given: it keeps nobody out"]);
        check(
            "{deny: [198.51.100.0/33, a, 1.2.3, '::1/129']}",
            &[
                "deny[0] = \"198.51.100.0/33\": the prefix length of 198.51.100.0 goes from 0 to 32; write 192.0.2.1, 192.0.2.0/24 or 2001:db8::/32",
                "deny[1] = \"a\": not an IP address or prefix; write 192.0.2.1, 192.0.2.0/24 or 2001:db8::/32",
                "deny[2] = \"1.2.3\": not an IP address or prefix; write 192.0.2.1, 192.0.2.0/24 or 2001:db8::/32",
                "deny[3] = \"::1/129\": the prefix length of ::1 goes from 0 to 128; write 192.0.2.1, 192.0.2.0/24 or 2001:db8::/32",
            ],
            &[],
        );
        check(
            "{deny: [10.0.0.0/8, 192.0.2.1/24], allow: [10.0.0.0/9, 192.0.2.0/24]}",
            &["allow[1] = \"192.0.2.0/24\": deny[1] is the same prefix; take it out of one of the two"],
            &[],
        );
    }

    #[test]
    fn the_longest_prefix_decides_over_all_lists() {
        let one = check("{deny: [10.0.0.0/8, '::/0', 192.0.2.0/24], allow: [10.1.0.0/16, 0.0.0.0/0]}", &[], &[]);
        let two = check("{deny: [10.1.2.0/24], allow: ['2001:db8::/32', 192.0.2.0/24, 255.255.255.255]}", &[], &[]);
        let access = Access::new([&one, &two]);
        for (ip, denied) in [
            ("10.0.0.1", true),
            ("10.1.0.1", false),
            ("10.1.2.1", true),
            ("10.1.3.0", false),
            ("11.0.0.0", false),
            ("::ffff:10.0.0.1", true),
            ("192.0.2.1", true),
            ("255.255.255.255", false),
            ("fe80::1", true),
            ("2001:db8:1::1", false),
            ("2001:db9::", true),
        ] {
            assert_eq!(access.denies(ip.parse().unwrap()), denied, "{ip}");
        }
        assert!(Access::new([]).is_empty() && !Access::new([]).denies("10.0.0.1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn stretches_say_what_a_search_through_all_prefixes_says(
            prefixes in proptest::collection::vec((0u32..64, 24u8..=32, any::<bool>()), 0..20),
        ) {
            // In 64 addresses at the end of all, so that they lie in each other and at the edge.
            let base = u32::MAX - 63;
            let cidr = |(n, length, _): &(u32, u8, bool)| Cidr::new(IpAddr::from((base + n).to_be_bytes()), *length).unwrap();
            let of = |which: bool| prefixes.iter().filter(|p| p.2 == which).map(cidr).collect::<Vec<_>>();
            let list = AccessListSpec { deny: of(true), allow: of(false) };
            let access = Access::new([&list]);
            for n in 0..64u32 {
                let ip = IpAddr::from((base + n).to_be_bytes());
                let longest = list.deny.iter().chain(&list.allow).filter(|c| c.contains(ip)).map(Cidr::length).max();
                let denied = list.deny.iter().any(|c| c.contains(ip) && Some(c.length()) == longest);
                prop_assert_eq!(access.denies(ip), denied, "{}", ip);
            }
        }
    }
}

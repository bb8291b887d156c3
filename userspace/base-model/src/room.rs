//! Whether the kernel plane of the edges has room for a VirtualIP beside the others.
//!
//! What is beyond the room is refused when it is new, and only told of when it was there before: it must be possible to drain,
//! shrink and delete whatever is stored.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use crate::beside::{Claim, Door, Outline};
use crate::ip_filter::Cidr;
use crate::problem::{Findings, Problem, nth};
use crate::virtual_ip::{ADDRESSES_MAX, BACKENDS_MAX, SERVICES_MAX};

pub(crate) struct Room<'o> {
    /// VirtualIPs there is room for.
    pub(crate) vips_max: usize,
    /// What is written over, by name.
    pub(crate) replaced: HashMap<&'o str, &'o Outline>,
    /// VirtualIPs in the order they were seen: those that are stored come first.
    vips: Vec<(&'o str, &'o Claim)>,
    /// Of each VirtualIP, and their addresses.
    backends: HashMap<&'o str, usize>,
    backends_at: BTreeMap<IpAddr, BTreeSet<&'o str>>,
}

impl<'o> Room<'o> {
    pub(crate) fn new(vips_max: usize) -> Room<'o> {
        Room {
            vips_max,
            replaced: HashMap::new(),
            vips: Vec::new(),
            backends: HashMap::new(),
            backends_at: BTreeMap::new(),
        }
    }

    pub(crate) fn take(&mut self, outline: &'o Outline) {
        if let Some(claim) = outline.claim.as_ref().filter(|claim| claim.door == Door::VirtualIp) {
            self.vips.push((&outline.name, claim));
            self.backends.insert(&outline.name, outline.backends);
            for address in &outline.servers {
                self.backends_at.entry(*address).or_default().insert(&outline.name);
            }
        }
    }

    pub(crate) fn has_backends(&self, vip: &str) -> bool {
        self.backends.get(vip).is_some_and(|count| *count > 0)
    }

    /// Another VirtualIP of which that is a backend's address.
    pub(crate) fn backend_of(&self, address: IpAddr, name: &str) -> Option<&'o str> {
        self.backends_at.get(&address)?.iter().find(|vip| **vip != name).copied()
    }

    /// Alone they were counted when the document was read.
    pub(crate) fn check_backends(&self, changed: &Outline, findings: &mut Findings) {
        let others: usize =
            self.backends.iter().filter(|(other, _)| **other != changed.name).map(|(_, count)| count).sum();
        if others == 0 || changed.backends == 0 || others + changed.backends <= BACKENDS_MAX {
            return;
        }
        let before = self.replaced.get(changed.name.as_str()).map_or(0, |outline| outline.backends);
        let message = format!("{} backends of all VirtualIPs together", others + changed.backends);
        let problem = Problem::new("backends", message).accepted(format!("at most {BACKENDS_MAX}"));
        tell(changed.backends > before, problem.advice("take out backends that are not needed"), findings);
    }

    pub(crate) fn check(&self, name: &str, claim: &Claim, findings: &mut Findings) {
        if claim.door != Door::VirtualIp {
            return;
        }
        let before = self.replaced.get(name).and_then(|outline| outline.claim.as_ref());
        self.check_count(name, before.is_none(), findings);
        self.check_addresses(name, claim, before, findings);
        self.check_services(name, claim, before, findings);
    }

    fn check_count(&self, name: &str, fresh: bool, findings: &mut Findings) {
        let place = self.vips.iter().position(|(other, _)| *other == name).unwrap_or(self.vips.len()) + 1;
        if place <= self.vips_max {
            return;
        }
        let problem = Problem::new("addresses", format!("VirtualIP number {place} of the cluster"));
        let problem = problem.accepted(format!("at most {}", self.vips_max)).advice(
            "add its addresses and ports to another VirtualIP, delete one that is not needed, or start every machine with a \
             larger --virtual-ips",
        );
        tell(fresh, problem, findings);
    }

    fn check_addresses(&self, name: &str, claim: &Claim, before: Option<&Claim>, findings: &mut Findings) {
        if self.vips.iter().map(|(_, claim)| claim.addresses.len()).sum::<usize>() + claim.addresses.len()
            <= ADDRESSES_MAX
        {
            return;
        }
        let others: HashSet<Cidr> = self.others(name).flat_map(|claim| claim.addresses.iter().copied()).collect();
        let with = |claim: Option<&Claim>| {
            let own: HashSet<Cidr> = claim.iter().flat_map(|claim| claim.addresses.iter().copied()).collect();
            others.union(&own).count()
        };
        let now = with(Some(claim));
        if now > ADDRESSES_MAX && now > others.len() {
            let problem = Problem::new("addresses", format!("{now} addresses and prefixes of all VirtualIPs together"));
            let problem = problem.accepted(format!("at most {ADDRESSES_MAX}"));
            tell(now > with(before), problem.advice("take out addresses that are not needed"), findings);
        }
    }

    fn check_services(&self, name: &str, claim: &Claim, before: Option<&Claim>, findings: &mut Findings) {
        for (index, address) in claim.addresses.iter().enumerate() {
            let sharers: Vec<_> = self
                .vips
                .iter()
                .filter(|(other, theirs)| *other != name && theirs.addresses.contains(address))
                .map(|(other, theirs)| (other, services(theirs)))
                .collect();
            let total = services(claim) + sharers.iter().map(|(_, services)| services).sum::<usize>();
            // Alone it was counted when the document was read.
            if sharers.is_empty() || total <= SERVICES_MAX {
                continue;
            }
            let theirs: Vec<String> =
                sharers.iter().map(|(other, count)| format!("VirtualIP {other} has {count}")).collect();
            let message = format!(
                "{total} ports and ranges, counted for each protocol: {} here, {}",
                services(claim),
                theirs.join(", ")
            );
            let problem = Problem::new(nth("addresses", index), message).text(&address.to_string());
            let problem = problem
                .accepted(format!("at most {SERVICES_MAX} at one address"))
                .advice("join neighbours to ranges, write any, or take another address");
            let had = before.filter(|before| before.addresses.contains(address)).map_or(0, services);
            tell(services(claim) > had, problem, findings);
        }
    }

    fn others(&self, name: &str) -> impl Iterator<Item = &'o Claim> {
        self.vips.iter().filter(move |(other, _)| *other != name).map(|(_, claim)| *claim)
    }
}

/// Entries that each address takes in the kernel.
fn services(claim: &Claim) -> usize {
    claim.ports.len() * claim.protocols.len()
}

fn tell(refused: bool, problem: Problem, findings: &mut Findings) {
    if refused {
        findings.problem(problem);
        return;
    }
    let path = problem.path.clone();
    let told = Problem { path: String::new(), ..problem };
    findings.warn(path, format!("edges leave out what they have no room for: {told}"));
}

#[cfg(test)]
mod tests {
    use crate::beside::{Beside, Outline};
    use crate::pipeline::tests::Kinds;
    use crate::problem::render;
    use crate::yaml::parse_document;
    use crate::{Object, Problem};

    fn object(name: &str, rest: &str) -> Object {
        let yaml = format!("name: {name}\nkind: VirtualIP\n{rest}");
        Object::read(&parse_document(&yaml).unwrap(), &Kinds).unwrap_or_else(|problems| panic!("{}", render(&problems)))
    }

    fn vip(name: &str, address: &str, first: u32, ports: u32) -> Object {
        let ports: Vec<String> = (0..ports).map(|i| (first + 2 * i).to_string()).collect();
        object(name, &format!("addresses: [{address}]\nprotocols: [TCP]\nports: [{}]", ports.join(", ")))
    }

    /// Problems and warnings of the last one beside all of them, with what was there before under its name.
    fn check(objects: &[Object], before: Option<&Object>, vips_max: Option<usize>) -> (Vec<String>, Vec<String>) {
        let outlines: Vec<Outline> = objects.iter().map(Outline::of).collect();
        let replaced = before.map(Outline::of);
        let mut beside = Beside::new(&outlines).replacing(&replaced);
        if let Some(most) = vips_max {
            beside = beside.vips_max(most);
        }
        let found = beside.check(objects.last().unwrap());
        let problems = found.problems.iter().map(Problem::to_string).collect();
        (problems, found.warnings.iter().map(ToString::to_string).collect())
    }

    const NOTHING: (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());

    #[test]
    fn ports_of_one_address_have_a_bound_together() {
        let (a, b) = (vip("a", "1.2.3.4", 1000, 20), vip("b", "1.2.3.4", 2000, 20));
        let refusal = "addresses[0] = \"1.2.3.4\": 40 ports and ranges, counted for each protocol: 20 here, VirtualIP a has 20; \
                       accepted: at most 32 at one address; join neighbours to ranges, write any, or take another address";
        assert_eq!(check(&[a.clone(), b.clone()], None, None).0, [refusal]);
        assert_eq!(
            check(&[a.clone(), vip("b", "1.2.3.4", 2000, 12)], None, None),
            NOTHING,
            "as many as there is room for"
        );
        assert_eq!(check(&[a.clone(), vip("b", "1.2.3.5", 2000, 20)], None, None), NOTHING, "another address");
        // Stored by an earlier version: it can be drained and shrunk, not grown.
        let (problems, warnings) = check(&[a.clone(), b.clone()], Some(&b), None);
        assert_eq!((problems.len(), warnings.len()), (0, 1));
        assert!(
            warnings[0].contains("edges leave out what they have no room for: \"1.2.3.4\": 40 ports"),
            "{warnings:?}"
        );
        assert_eq!(check(&[a, vip("b", "1.2.3.4", 2000, 21)], Some(&b), None).0.len(), 1);
    }

    #[test]
    fn virtual_ips_have_a_bound() {
        let many: Vec<Object> = (0..65).map(|n| vip(&format!("v{n}"), &format!("10.0.0.{n}"), 80, 1)).collect();
        assert_eq!(check(&many[..64], None, None), NOTHING);
        assert_eq!(
            check(&many, None, None).0,
            [
                "addresses: VirtualIP number 65 of the cluster; accepted: at most 64; add its addresses and ports to another \
              VirtualIP, delete one that is not needed, or start every machine with a larger --virtual-ips"
            ]
        );
        assert_eq!(check(&many, None, Some(65)), NOTHING);
        let (problems, warnings) = check(&many, Some(&many[64]), None);
        assert_eq!((problems.len(), warnings.len()), (0, 1));
    }

    #[test]
    fn addresses_have_a_bound_together() {
        let wide = |name: &str, third: u32| {
            let addresses: Vec<String> = (0..2048).map(|n| format!("10.{third}.{}.{}", n / 256, n % 256)).collect();
            object(name, &format!("addresses: [{}]", addresses.join(", ")))
        };
        let (a, b, c) = (wide("a", 1), wide("b", 2), vip("c", "1.2.3.4", 80, 1));
        assert_eq!(check(&[a.clone(), b.clone()], None, None), NOTHING);
        let refusal = "addresses: 4097 addresses and prefixes of all VirtualIPs together; accepted: at most 4096; take out addresses that are \
                       not needed";
        assert_eq!(check(&[a, b, c], None, None).0, [refusal]);
    }
}

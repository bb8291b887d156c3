//! Who serves each VirtualIP: a history of generations, from which every edge computes the same tables.
//!
//! A member takes flows when it has said that its kernel steers, so that nothing is sent to one that does not know yet what it is sent.
//! What was before a generation is kept until every member has said that it holds nothing of it. A fleet that goes to and fro between the
//! same few states, as with a member that comes and goes, has the same tables after the second round as after the tenth: later rounds
//! are not kept, where slots remember all who had them meanwhile. A member whose daemon did not serve for a while says so, because others
//! took its new flows then: what they took is of the generation before, and a new one begins. Another `hash` is a change like any other: the connections from before are looked for by what chose their machines then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::command::SAYS_THAT_IT_STEERS;
use crate::diff::changes;
use base_model::HashRule;
use control_api::{Addresses, Eligible, GENERATIONS_KEPT, Generation, Member, Members, Snapshot, Steering};
use serde_json::Value;

/// Brings the steering of every VirtualIP up to date with the objects and members of `next`.
pub(crate) fn steer(previous: &Snapshot, next: &mut Snapshot) {
    let (before, after) = (&previous.objects, &next.objects);
    if previous.members == next.members
        && changes(before, after).all(|(_, was, now)| ![was, now].into_iter().flatten().any(is_virtual_ip))
    {
        return;
    }
    let seed = seed(&next.cluster_id);
    let lapsed = lapsed(previous, next);
    let mut steering = BTreeMap::new();
    let is_there = |name: &String| next.objects.get(name).is_some_and(is_virtual_ip);
    let mut ids: BTreeSet<u16> = next.steering.iter().filter(|(name, _)| is_there(name)).map(|(_, s)| s.id).collect();
    for (name, document) in next.objects.iter() {
        if !is_virtual_ip(document) {
            continue;
        }
        let before = next.steering.get(name);
        let before_it = before.map(Arc::as_ref);
        let after = if next.level < BY_NEED {
            steer_by_number(before_it, document, &next.members)
        } else {
            let mut after = steer_vip(name, before_it, document, &next.members, (next.level, seed, &lapsed));
            if after.id == 0 {
                after.id = (1..=u16::MAX).find(|id| !ids.contains(id)).unwrap_or(0);
                ids.insert(after.id);
            }
            after
        };
        steering.insert(
            name.clone(),
            match before {
                Some(before) if **before == after => before.clone(),
                _ => Arc::new(after),
            },
        );
    }
    if steering != *next.steering {
        next.steering = Arc::new(steering);
    }
}

/// Whose new flows others may have taken since.
fn lapsed(previous: &Snapshot, next: &Snapshot) -> Vec<u16> {
    let said = |name: &String| previous.members.get(name).map_or(0, |member| member.lapsed_ms);
    let members = next.members.iter().filter(|(name, member)| member.lapsed_ms != said(name) && member.lapsed_ms != 0);
    members.map(|(_, member)| member.id).collect()
}

fn is_virtual_ip(document: &Arc<Value>) -> bool {
    document.get("kind").and_then(Value::as_str) == Some("VirtualIP")
}

/// The smallest id that neither a member has nor a generation still speaks of.
pub(crate) fn member_id_free(view: &Snapshot) -> Option<u16> {
    member_ids_free(view).next()
}

/// For how many more members there are ids: exactly, or, where it costs no look at all of them to see it, at least as many as are `wanted`.
pub fn ids_left(view: &Snapshot, wanted: usize) -> usize {
    let generations = view.steering.values().flat_map(|steering| &steering.generations);
    let spoken_of: usize = generations.map(|generation| generation.machines.len() + generation.alive.len()).sum();
    let at_least = usize::from(u16::MAX).saturating_sub(view.members.len() + spoken_of);
    if at_least >= wanted { at_least } else { member_ids_free(view).count() }
}

/// Ids that nobody has, for the new ones among several members: they are looked for once, when the first new one comes. What a member
/// says that is known already costs no look at all members and generations.
#[derive(Default)]
pub(crate) struct IdsFree(Option<Box<dyn Iterator<Item = u16> + Send>>);

impl IdsFree {
    pub fn next(&mut self, view: &Snapshot) -> Option<u16> {
        self.0.get_or_insert_with(|| Box::new(member_ids_free(view))).next()
    }
}

#[cfg(test)]
thread_local! {
    /// Looks for ids.
    pub(crate) static IDS_LOOKED_FOR: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// All that are free, the lowest first.
fn member_ids_free(view: &Snapshot) -> impl Iterator<Item = u16> + use<> {
    #[cfg(test)]
    IDS_LOOKED_FOR.with(|looked| looked.set(looked.get() + 1));
    let mut taken = vec![false; usize::from(u16::MAX) + 1];
    for member in view.members.values() {
        taken[usize::from(member.id)] = true;
    }
    for generation in view.steering.values().flat_map(|steering| &steering.generations) {
        let machines = generation.machines.iter().map(|machine| machine.member);
        for id in machines.chain(generation.alive.iter().copied()) {
            taken[usize::from(id)] = true;
        }
    }
    (1..=u16::MAX).filter(move |id| !taken[usize::from(*id)])
}

/// The level from which members keep generations for as long as they are needed.
const BY_NEED: u32 = 2;

/// What all members did before [`BY_NEED`]: the last generations, needed or not.
fn steer_by_number(before: Option<&Steering>, document: &Value, members: &Members) -> Steering {
    const KEPT: usize = 16;
    let mut generations = before.map(|before| before.generations.clone()).unwrap_or_default();
    let (machines, alive, _) = now(document, members, |_| true);
    if generations.last().is_none_or(|last| last.machines != machines) {
        let number = generations.last().map_or(1, |last| last.number + 1);
        generations.push(Generation { number, machines, ..Generation::default() });
        let surplus = generations.len().saturating_sub(KEPT);
        generations.drain(..surplus);
    }
    Steering { id: 0, generations, alive }
}

/// Who takes new flows and who holds connections as the document and the members are, and of which members the document speaks. Who is
/// not `ready` does neither yet.
fn now(document: &Value, members: &Members, ready: impl Fn(&Member) -> bool) -> (Vec<Eligible>, Vec<u16>, Vec<u16>) {
    let (mut machines, mut alive, mut spoken_of) = (Vec::new(), Vec::new(), Vec::new());
    for part in parts(document, members) {
        spoken_of.push(part.member.id);
        if !part.member.up || part.state == PartState::Down || !ready(part.member) {
            continue;
        }
        alive.push(part.member.id);
        if part.state == PartState::Active && part.weight > 0 {
            machines.push(Eligible { member: part.member.id, weight: part.weight });
        }
    }
    machines.sort_unstable_by_key(|machine| machine.member);
    machines.dedup_by_key(|machine| machine.member);
    alive.sort_unstable();
    alive.dedup();
    (machines, alive, spoken_of)
}

fn steer_vip(
    vip: &str,
    before: Option<&Steering>,
    document: &Value,
    members: &Members,
    (level, seed, lapsed): (u32, u32, &[u16]),
) -> Steering {
    let mut generations = before.map(|before| before.generations.clone()).unwrap_or_default();
    let known = |id: u16| generations.last().is_none_or(|last| last.alive.contains(&id));
    // One without an address has no kernel plane, and no slots.
    let ready =
        |m: &Member| level < SAYS_THAT_IT_STEERS || m.steers || m.addresses == Addresses::default() || known(m.id);
    let (mut machines, mut alive, spoken_of) = now(document, members, ready);
    if machines.is_empty() {
        // Rather one that is not ready than nobody.
        (machines, alive, _) = now(document, members, |_| true);
    }
    // One that the document no longer speaks of keeps what it has until that has ended.
    let held = |id: u16| generations.iter().any(|generation| generation.alive.contains(&id));
    alive.extend(members.values().filter(|m| m.up && !spoken_of.contains(&m.id) && held(m.id)).map(|m| m.id));
    alive.sort_unstable();

    let hash = (level >= SAYS_THAT_IT_STEERS).then(|| hash_rule(document, seed));
    let last = generations.last().map(|last| (&last.machines, &last.alive, &last.hash));
    let changed = last != Some((&machines, &alive, &hash));
    let lapsed = note_lapses(&mut generations, lapsed, &alive);
    if changed || lapsed {
        let number = generations.last().map_or(1, |last| last.number + 1);
        generations.push(Generation { number, machines, alive: alive.clone(), hash, ..Generation::default() });
        if level >= SAYS_THAT_IT_STEERS {
            forget_rounds(&mut generations, level);
        }
        let surplus = generations.len().saturating_sub(GENERATIONS_KEPT);
        generations.drain(..surplus);
    }
    if let Some(last) = generations.last_mut() {
        // One without an address has no kernel plane, and no slots.
        let done = |m: &&Arc<Member>| m.released.get(vip) == Some(&last.number) || m.addresses == Addresses::default();
        let mut released: Vec<u16> = members.values().filter(done).map(|m| m.id).collect();
        released.retain(|id| last.alive.contains(id));
        released.sort_unstable();
        last.released = released;
        if last.released == last.alive {
            // Whatever is held is where the last table has it.
            let before = generations.len() - 1;
            generations.drain(..before);
        }
    }
    Steering { id: before.map_or(0, |before| before.id), generations, alive }
}

/// Keeps with the last generation who of those that take its flows did not serve for a while. Whether another has to follow it, whose
/// members say anew what they are done with: where the one before it is the same, that one keeps it, and the last is the other. So a table
/// has two at most, whoever lapses how often, and drives none out that is needed.
fn note_lapses(generations: &mut [Generation], lapsed: &[u16], alive: &[u16]) -> bool {
    let Some((last, before)) = generations.split_last_mut() else { return false };
    let takes = |id: &&u16| alive.contains(*id) && last.machines.iter().any(|machine| machine.member == **id);
    let lapsed: Vec<u16> = lapsed.iter().filter(takes).copied().collect();
    if lapsed.is_empty() {
        return false;
    }
    let twin = before.last_mut().filter(|before| is_same(before, last));
    let united = twin.is_some();
    last.number += u64::from(united);
    let kept = &mut twin.unwrap_or(last).lapsed;
    kept.extend(lapsed);
    kept.sort_unstable();
    kept.dedup();
    !united
}

/// But for what members said of them.
fn is_same(a: &Generation, b: &Generation) -> bool {
    (&a.machines, &a.alive, &a.hash) == (&b.machines, &b.alive, &b.hash)
}

/// What chooses the slot of a packet, as the document says.
fn hash_rule(document: &Value, seed: u32) -> HashRule {
    let of = document.get("hash").and_then(Value::as_str).unwrap_or("fiveTuple").to_owned();
    let lengths = document.get("sourcePrefixLength").filter(|_| of == "sourcePrefix");
    let bits = |family: &str, usual: u8| match (&*of, lengths) {
        ("sourcePrefix", lengths) => {
            lengths.and_then(|l| l.get(family)?.as_u64()).map_or(usual, |bits| u8::try_from(bits).unwrap_or(usual))
        }
        _ => 0,
    };
    let (ipv4, ipv6) = (bits("ipv4", 24), bits("ipv6", 56));
    HashRule { of, ipv4, ipv6, seed }
}

/// Follows from the cluster's id, which is drawn at random when it is founded and which nobody outside is told. FNV-1a and the end of
/// splitmix64: what it leads to is seen by nobody either.
fn seed(cluster_id: &str) -> u32 {
    if cluster_id.is_empty() {
        return 0;
    }
    let fnv =
        cluster_id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (fnv ^ fnv >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed >> 32) as u32
}

/// Of what has come round three times in the same order, up to now, the middle one goes: the first has led to where the third is. That
/// holds where no slot has had more owners than it remembers: a slot that has does not follow its table, and may have had another owner in
/// the second round than in the first. Where that cannot be ruled out a round goes only when the longest ago would go otherwise.
fn forget_rounds(generations: &mut Vec<Generation>, level: u32) {
    let kept = level >= KEEPS_WHAT_SLOTS_FORGET && owners_most(generations) > OWNERS;
    if kept && generations.len() <= GENERATIONS_KEPT {
        return;
    }
    let same = |a: &Generation, b: &Generation| is_same(a, b) && a.lapsed == b.lapsed;
    for round in 1..=ROUND_MAX {
        let Some(first) = generations.len().checked_sub(3 * round) else { return };
        let repeats = |at: usize| same(&generations[at], &generations[at + round]);
        if (first..first + 2 * round).all(repeats) {
            generations.drain(first + round..first + 2 * round);
            return;
        }
    }
}

/// Owners that a slot can have had in these generations: one by each table, and, for each table that machines died under or did not serve for a
/// while, who stood in for them.
fn owners_most(generations: &[Generation]) -> usize {
    let (mut tables, mut died) = (BTreeSet::new(), BTreeSet::new());
    let key = |of: &Generation| of.machines.iter().map(|m| (m.member, m.weight)).collect::<Vec<_>>();
    for generation in generations {
        tables.insert(key(generation));
        if !generation.lapsed.is_empty() {
            died.insert(key(generation));
        }
    }
    for pair in generations.windows(2) {
        if pair[0].machines.iter().any(|machine| !pair[1].alive.contains(&machine.member)) {
            died.insert(key(&pair[0]));
        }
    }
    tables.len() + died.len()
}

/// Level from which a round is kept where slots may have had more owners than they remember; before, none was.
const KEEPS_WHAT_SLOTS_FORGET: u32 = 11;

/// Machines that a slot remembers: `OWNERS` of ebpf/abi, with which the server compares it.
pub const OWNERS: usize = 4;

/// Changes of a round: two members that come and go, each at its own pace, make one of four or a few more.
const ROUND_MAX: usize = 8;

struct Part<'a> {
    member: &'a Member,
    weight: u32,
    state: PartState,
}

#[derive(Clone, Copy, PartialEq)]
enum PartState {
    Active,
    Draining,
    Down,
}

/// The members a VirtualIP is spread over: those it lists, or every edge.
fn parts<'a>(document: &Value, members: &'a Members) -> Vec<Part<'a>> {
    let Some(listed) = document.get("machines").and_then(Value::as_array) else {
        return members
            .values()
            .map(|member| Part {
                member,
                weight: 1,
                // A machine that stops carrying traffic keeps what it has until it is gone.
                state: if member.edge { PartState::Active } else { PartState::Draining },
            })
            .collect();
    };
    listed
        .iter()
        .filter_map(|machine| {
            let member = members.get(machine.get("name")?.as_str()?)?;
            let weight = machine.get("weight").and_then(Value::as_u64).map_or(1, |w| w.min(u32::MAX.into()) as u32);
            let state = match machine.get("state").and_then(Value::as_str) {
                Some("down") => PartState::Down,
                Some("draining") => PartState::Draining,
                _ if !member.edge => PartState::Draining,
                _ => PartState::Active,
            };
            Some(Part { member, weight, state })
        })
        .collect()
}

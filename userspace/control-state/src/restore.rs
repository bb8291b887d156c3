//! A backup takes the place of what is there.

use std::collections::BTreeMap;
use std::sync::Arc;

use base_text::quoted;
use control_api::{Document, Generation, Member, Refusal, Snapshot, Steering, object_key};

use crate::keys;
use crate::objects::{check_claims, take_place_of};
use crate::state::{State, claim_of};
use crate::steering::member_id_free;

/// Returns the names of the objects that were not there.
pub(crate) fn restore(state: &mut State, backup: Snapshot) -> Result<Vec<String>, Refusal> {
    for (key, document) in backup.objects.iter() {
        if object_key(document) != key.as_str() || document.get("kind").is_none() {
            return Err(Refusal::invalid(format!("the backup's object {} has no name, or no kind", quoted(key))));
        }
    }
    if let Some(kind) = backup.custom_data.keys().find(|kind| !backup.custom_kinds.contains_key(*kind)) {
        return Err(Refusal::invalid(format!("the backup has custom data of a kind {} that it lacks", quoted(kind))));
    }
    let view = &mut state.view;
    if is_rebuilt(view, &backup) {
        take_places(view, &backup);
    }
    // Edges of a cluster of another name have nothing to do here.
    if backup.cluster_id != view.cluster_id && backup.cluster_name == view.cluster_name {
        take_place_of(view, &backup.cluster_id, backup.version);
    }
    let created = backup.objects.keys().filter(|name| !view.objects.contains_key(*name)).cloned().collect();
    let kept = |(name, document): (&String, &Document)| {
        let here = view.objects.get(name).filter(|here| *here == document);
        (name.clone(), here.unwrap_or(document).clone())
    };
    view.objects = backup.objects.iter().map(kept).collect();
    keys::restore(view, &backup);
    view.custom_kinds = backup.custom_kinds;
    view.custom_data = backup.custom_data;
    // What controllers made is reached somewhere, too.
    let claims = view.objects.iter().filter_map(|(name, document)| Some((name.clone(), claim_of(document)?)));
    state.claims = Arc::new(claims.collect());
    let claimed: Vec<String> = state.claims.keys().cloned().collect();
    check_claims(state, &claimed, true)?;
    Ok(created)
}

/// The cluster was founded anew, and is to be what was lost.
fn is_rebuilt(view: &Snapshot, backup: &Snapshot) -> bool {
    backup.cluster_id != view.cluster_id
        && backup.cluster_name == view.cluster_name
        && view.objects.is_empty()
        && view.custom_kinds.is_empty()
}

/// Whether a restored backup's tokens become the cluster's: they do where the cluster was founded anew and has none. Whoever proposes
/// [`Action::Restore`](crate::Action::Restore) leaves them out unless somebody asked for them, since what was revoked meanwhile is good
/// again.
pub fn brings_tokens(view: &Snapshot, backup: &Snapshot) -> bool {
    is_rebuilt(view, backup) && view.tokens.is_empty()
}

/// Members get the ids they had, as far as these are free, and virtual IPs go on from the tables they had: packets of connections that
/// are still there find the machines that own them.
fn take_places(view: &mut Snapshot, backup: &Snapshot) {
    let mut ids: BTreeMap<u16, u16> = BTreeMap::new();
    let taken = |view: &Snapshot, id: u16| view.members.values().any(|member| member.id == id);
    // First those whose id is free, so that nobody else is given it.
    for own in [true, false] {
        for (name, then) in backup.members.iter() {
            let id = match view.members.get(name) {
                Some(here) => here.id,
                None if own && taken(view, then.id) => continue,
                None => {
                    let Some(id) = own.then_some(then.id).or_else(|| member_id_free(view)) else { continue };
                    // It is up when it says so.
                    let absent = Member { id, up: false, ..Member::clone(then) };
                    view.members.insert(name.clone(), Arc::new(absent));
                    id
                }
            };
            ids.insert(then.id, id);
        }
    }
    let renamed = |list: &[u16]| {
        let mut list: Vec<u16> = list.iter().filter_map(|id| ids.get(id).copied()).collect();
        list.sort_unstable();
        list
    };
    let moved = |generation: &Generation| {
        let mut machines = generation.machines.clone();
        machines.retain_mut(|machine| ids.get(&machine.member).map(|id| machine.member = *id).is_some());
        machines.sort_unstable_by_key(|machine| machine.member);
        let [alive, released, lapsed] =
            [&generation.alive, &generation.released, &generation.lapsed].map(|list| renamed(list));
        Generation { number: generation.number, machines, alive, released, hash: generation.hash.clone(), lapsed }
    };
    let steering = backup.steering.iter().map(|(vip, then)| {
        let generations = then.generations.iter().map(moved).collect();
        (vip.clone(), Arc::new(Steering { id: then.id, generations, alive: Vec::new() }))
    });
    view.steering = Arc::new(steering.collect());
    if view.tokens.is_empty() {
        view.tokens = backup.tokens.clone();
    }
}

//! Whether two members hold the same: sums over what they hold, which cost little to keep up to date.
//!
//! Each entry of each section is hashed by itself, and a section's hashes are added up; so a change costs what it changes, and a
//! state that was read from a disk is summed up from what is really there. Nobody is to be kept from forging it: the members trust
//! each other, and what is looked for is a mistake.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use control_api::{Delta, Keyed, Member, Members, Snapshot, object_key, servers_of};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::diff::{changes, maps};
use crate::rooms::Rooms;
use crate::state::State;

/// What a member holds at one place of the log, for others to compare.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mark {
    /// Index of the last entry that was applied; 0 of a member that follows versions.
    pub index: u64,
    pub version: u64,
    /// Of what readers see, which is the same wherever the version is.
    pub view: u64,
    /// Of what only those hold that apply the log; answers to requests are left out, which soon go.
    pub rest: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    view: u64,
    claims: u64,
}

impl State {
    /// `index` is where in the log this state stands.
    pub fn mark(&self, index: u64) -> Mark {
        let view = &self.view;
        let view_sum = [
            self.sums.view,
            text(1, &view.cluster_id),
            text(2, &view.cluster_name),
            view.version,
            u64::from(view.level),
            plain(&view.tickets),
            plain(&view.succeeds),
        ];
        let gone = |end: Option<&(u64, String)>| end.map_or(0, |(at, name)| pair(*at, text(3, name)));
        let (ends, all) = ((self.gone.front(), self.gone.back()), self.gone.len() as u64);
        let authority = if self.authority.certificate.is_empty() { 0 } else { plain(&self.authority) };
        let rest = [self.sums.claims, gone(ends.0), gone(ends.1), all, self.history.sum(), authority];
        let rest = match self.leases().is_empty() {
            // As those sum it up that know no leases.
            true => rest.to_vec(),
            false => [&rest[..], &[plain(self.leases())]].concat(),
        };
        // Those that know no rooms have none.
        let rooms = (!Rooms::is_empty(&self.rooms)).then(|| self.rooms.sum());
        let view_sum = match view.tokens.is_empty() {
            // As those sum it up that know no tokens.
            true => view_sum.to_vec(),
            false => [&view_sum[..], &[plain(&view.tokens)]].concat(),
        };
        // In the same way for purges.
        let view_sum = match view.purges.is_empty() {
            true => view_sum,
            false => [&view_sum[..], &[pair(PURGES, plain(&view.purges))]].concat(),
        };
        let together = |parts: &[u64]| parts.iter().fold(0, |sum, part| pair(sum, *part));
        Mark {
            index,
            version: view.version,
            view: together(&view_sum),
            rest: rooms.into_iter().fold(together(&rest), pair),
        }
    }
}

impl Sums {
    /// From scratch.
    pub fn of(state: &State) -> Sums {
        let none = State::default();
        let objects = state.view.objects.iter().fold(0, |sum: u64, (name, document)| {
            sum.wrapping_add(entry(OBJECT, name, value(document))).wrapping_add(changed(&state.view, name))
        });
        let rest = none.sums.after(&none, state, None);
        Sums { view: rest.view.wrapping_add(objects), claims: rest.claims }
    }

    /// Of `next`, where these are of `before`. Objects are looked at as far as the delta names them.
    pub fn after(self, before: &State, next: &State, delta: Option<&Delta>) -> Sums {
        let Sums { mut view, claims } = self;
        let named = delta.into_iter().flat_map(|delta| {
            let put = delta.puts.iter().map(|document| object_key(document));
            let rules = servers_of(&delta.sections).into_iter().map(Cow::Borrowed);
            delta.deletes.iter().map(|key| Cow::Borrowed(key.as_str())).chain(put).chain(rules)
        });
        let named: BTreeSet<Cow<'_, str>> = named.collect();
        let object = |state: &Snapshot, name: &str| match state.objects.get(name) {
            Some(document) => entry(OBJECT, name, value(document)).wrapping_add(changed(state, name)),
            None => 0,
        };
        for key in named {
            view = view.wrapping_add(object(&next.view, &key)).wrapping_sub(object(&before.view, &key));
        }
        let (old, new) = (&before.view, &next.view);
        let differences = [
            members(&old.members, &new.members),
            difference(&old.steering, &new.steering, |vip, steering| entry(STEERING, vip, plain(steering))),
            difference(&old.custom_kinds, &new.custom_kinds, |name, kind| entry(KIND, name, plain(kind))),
            custom(old, new),
            sections(old, new),
            difference(&old.custom_changed, &new.custom_changed, |place, at| entry(CUSTOM_CHANGED, place, *at)),
        ];
        let view = differences.into_iter().fold(view, u64::wrapping_add);
        let claimed = difference(&before.claims, &next.claims, |name, claim| entry(CLAIM, name, plain(claim)));
        Sums { view, claims: claims.wrapping_add(claimed) }
    }
}

fn changed(view: &Snapshot, name: &str) -> u64 {
    view.changed.get(name).map_or(0, |at| entry(CHANGED, name, *at))
}

fn members(old: &Members, new: &Members) -> u64 {
    let weigh = |name: &str, member: Option<&Arc<Member>>| member.map_or(0, |held| entry(MEMBER, name, plain(held)));
    changes(old, new)
        .fold(0, |sum: u64, (name, was, now)| sum.wrapping_add(weigh(name, now)).wrapping_sub(weigh(name, was)))
}

fn custom(old: &Snapshot, new: &Snapshot) -> u64 {
    if Arc::ptr_eq(&old.custom_data, &new.custom_data) {
        return 0;
    }
    let none = Arc::new(BTreeMap::new());
    let kinds =
        old.custom_data.keys().chain(new.custom_data.keys().filter(|kind| !old.custom_data.contains_key(*kind)));
    kinds.fold(0, |sum: u64, kind| {
        let items = |view: &Snapshot| view.custom_data.get(kind).unwrap_or(&none).clone();
        let weigh = |id: &str, item: &Arc<Value>| pair(text(DATA, kind), entry(DATA, id, value(item)));
        sum.wrapping_add(difference(&items(old), &items(new), weigh))
    })
}

fn sections(old: &Snapshot, new: &Snapshot) -> u64 {
    if Arc::ptr_eq(&old.sections, &new.sections) {
        return 0;
    }
    let names = old.sections.keys().chain(new.sections.keys().filter(|name| !old.sections.contains_key(*name)));
    names.fold(0, |sum: u64, name| {
        let keys = |view: &Snapshot| view.sections.get(name).cloned().unwrap_or_default();
        let weigh = |key: &str, keyed: Option<&Arc<Keyed>>| {
            keyed.map_or(0, |keyed| {
                let rest = pair(text(KEYED, &keyed.owner), pair(keyed.generation, keyed.until.unwrap_or_default()));
                pair(text(KEYED, name), entry(KEYED, key, pair(rest, value(&keyed.value.read()))))
            })
        };
        changes(&keys(old), &keys(new))
            .fold(sum, |sum, (key, was, now)| sum.wrapping_add(weigh(key, now)).wrapping_sub(weigh(key, was)))
    })
}

/// What the sum over a map's entries grows by.
fn difference<V: PartialEq>(
    old: &Arc<BTreeMap<String, V>>,
    new: &Arc<BTreeMap<String, V>>,
    weigh: impl Fn(&str, &V) -> u64,
) -> u64 {
    if Arc::ptr_eq(old, new) {
        return 0;
    }
    let (gone, put) = maps(old, new, |was, now| was == now);
    let weight = |key: &String| old.get(key).map_or(0, |was| weigh(key, was));
    let added =
        put.into_iter().fold(0u64, |sum, (key, now)| sum.wrapping_add(weigh(key, now)).wrapping_sub(weight(key)));
    gone.into_iter().fold(added, |sum, key| sum.wrapping_sub(weight(key)))
}

fn entry(section: u8, key: &str, held: u64) -> u64 {
    pair(text(section, key), held)
}

/// The order of keys tells nothing. A fraction that was written down and read again may differ in its last digit.
fn value(held: &Value) -> u64 {
    match held {
        Value::Null => text(0, ""),
        Value::Bool(held) => text(1, if *held { "true" } else { "false" }),
        Value::Number(held) => match held.as_f64().filter(|_| held.is_f64()) {
            Some(fraction) => text(2, &format!("{fraction:.6e}")),
            None => text(3, &held.to_string()),
        },
        Value::String(held) => text(4, held),
        Value::Array(items) => items.iter().fold(text(5, ""), |sum, item| pair(sum, value(item))),
        Value::Object(fields) => {
            spread(fields.iter().fold(6, |sum: u64, (key, held)| sum.wrapping_add(pair(text(4, key), value(held)))))
        }
    }
}

/// Of our own types.
fn plain(held: &impl Serialize) -> u64 {
    text(7, &serde_json::to_string(held).unwrap_or_default())
}

/// FNV-1a, and its bits spread.
fn text(tag: u8, held: &str) -> u64 {
    let bytes = std::iter::once(tag).chain(held.bytes());
    spread(
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        }),
    )
}

pub(crate) fn pair(one: u64, other: u64) -> u64 {
    spread(one.rotate_left(23) ^ other.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// The last step of MurmurHash3: each bit of the input changes half of the output's.
fn spread(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

/// Sections: the same key in two of them is two entries.
const OBJECT: u8 = 16;
const CHANGED: u8 = 17;
const MEMBER: u8 = 18;
const STEERING: u8 = 19;
const KIND: u8 = 20;
const DATA: u8 = 21;
const CLAIM: u8 = 22;
const CUSTOM_CHANGED: u8 = 23;
const KEYED: u8 = 24;
const PURGES: u64 = 25;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, Command, CustomMode, PutMode};
    use control_api::{CustomKind, Member};
    use serde_json::json;

    /// Every kind of change, and after each the sums are those of what is there.
    #[test]
    fn sums_follow_every_change() {
        let mut state = State::default();
        let mut turn = 0;
        let mut seen = std::collections::HashSet::new();
        let mut followed = State::default();
        let mut act = |action: Action, changes: bool| {
            turn += 1;
            let applied = state.apply(Command { request: turn, now: "t".into(), action: action.clone(), by: None });
            assert!(applied.answer.is_ok(), "{action:?}: {:?}", applied.answer);
            assert_eq!(state.sums, Sums::of(&state), "{action:?}");
            let text = serde_json::to_vec(&state).unwrap();
            assert_eq!(serde_json::from_slice::<State>(&text).unwrap().mark(turn), state.mark(turn), "{action:?}");
            let new = seen.insert((state.mark(0).view, state.mark(0).version));
            assert_eq!((new, applied.delta.is_some()), (changes, changes), "{action:?}");
            if let Some(delta) = applied.delta {
                followed = followed.advanced(&delta).unwrap();
                assert_eq!(followed.mark(0).view, state.mark(0).view, "{action:?}: to whoever follows");
            }
        };
        let put = |documents| Command::put(0, "t", PutMode::Upsert, documents).action;
        let server = |port: u16| json!({"name": "s", "kind": "HTTPServer", "port": port});
        let fraction = json!({"name": "p", "kind": "Pipeline", "n": 0.1 + 0.2, "list": [1, "a", null, true]});
        act(Action::Found { cluster_id: "c".into(), cluster_name: "shop".into() }, true);
        act(put(vec![server(80), fraction]), true);
        act(put(vec![server(80)]), false);
        act(put(vec![server(81)]), true);
        act(put(vec![json!({"name": "v", "kind": "VirtualIP", "addresses": ["10.0.0.1"]})]), true);
        act(Action::PutMember { member: Member { name: "n1".into(), edge: true, ..Member::default() } }, true);
        act(Action::SetMemberUp { name: "n1".into(), up: false }, true);
        act(
            Action::PutCustomKind {
                mode: PutMode::Create,
                kind: CustomKind { name: "k".into(), ..CustomKind::default() },
                since: None,
            },
            true,
        );
        let item = |n: u64| json!({"name": "i", "n": n}).into();
        act(Action::PutCustomData { mode: PutMode::Upsert, kind: "k".into(), item: item(1), since: None }, true);
        act(Action::PutCustomData { mode: PutMode::Upsert, kind: "k".into(), item: item(2), since: None }, true);
        let rebuilt = vec![json!({"name": "j"}).into()];
        act(
            Action::BatchCustomData {
                kind: "k".into(),
                mode: CustomMode::Rebuild,
                delete: vec![],
                put: rebuilt,
                since: None,
            },
            true,
        );
        act(Action::DeleteCustomKind { name: "k".into(), since: None }, true);
        act(Action::RaiseLevel { level: 2 }, true);
        act(Action::RollBack { version: 2, since: None }, true);
        act(Action::delete("s"), true);
        act(Action::RemoveMember { name: "n1".into() }, true);
        let keys = |n: u64| Action::PutKeys {
            section: "endpoints".into(),
            owner: "p".into(),
            fence: None,
            puts: vec![crate::KeyPut::new("p/s", json!({"n": n}))],
            deletes: Vec::new(),
        };
        act(keys(1), true);
        act(keys(1), false);
        act(keys(2), true);
        act(Action::DeleteAll, true);
        act(Action::DeleteAll, false);
    }

    #[test]
    fn what_differs_in_any_place_has_another_sum() {
        let all = [
            json!({"a": 1, "b": 2}),
            json!({"a": 2, "b": 1}),
            json!({"a": [1, 2]}),
            json!({"a": [2, 1]}),
            json!({"a": "1"}),
            json!({"a": 1.0}),
            json!({"a": true}),
            json!({"a": null}),
            json!({"a": {}}),
            json!({"a": []}),
        ];
        let sums: std::collections::HashSet<u64> = all.iter().map(value).collect();
        assert_eq!(sums.len(), all.len());
        assert_eq!(value(&json!({"a": 1, "b": 2})), value(&json!({"b": 2, "a": 1})));
    }
}

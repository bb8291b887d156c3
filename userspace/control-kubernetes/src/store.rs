//! All that is known of the API server's objects, and what of it is new.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::gateway::object::{BackendTlsPolicy, FilterSpec, Gateway, ListenerSet, Namespace, ReferenceGrant, Route};
use crate::kinds::Kind;
use crate::object::{ConfigMap, EndpointSlice, Ingress, IngressClass, Key, Object, Secret, Service};
use crate::reflect::{Heard, Place};

/// An object that is different, or gone.
pub type Change = (Kind, Key);

/// What was heard, by kind.
#[derive(Debug, Default)]
pub struct Store {
    objects: BTreeMap<Kind, BTreeMap<Key, Object>>,
    /// Slices by the service they are of, in the order of their names: most have one.
    slices: BTreeMap<Key, Vec<Arc<EndpointSlice>>>,
    listed: BTreeSet<Place>,
    /// Places that are not well, and why.
    faults: BTreeMap<Place, String>,
    unread: BTreeMap<(Kind, Key), String>,
    /// See [`take_touched`](Store::take_touched).
    touched: BTreeSet<Key>,
    /// See [`turn_of`](Store::turn_of).
    turns: BTreeMap<Kind, u64>,
    /// What was looked for since somebody began to take note, see [`noting`](Store::noting).
    noted: Mutex<Option<Noted>>,
}

/// What was looked for.
#[derive(Debug, Default)]
struct Noted {
    objects: BTreeSet<(Kind, Key)>,
    /// Services whose slices were; absent: nobody asks.
    slices: Option<BTreeSet<Key>>,
}

/// What something was made of: objects, and that there were none.
#[derive(Debug, Default)]
pub struct Looked {
    objects: Vec<(Kind, Key, Option<Object>)>,
    /// By service.
    slices: Vec<(Key, Vec<Arc<EndpointSlice>>)>,
}

impl Looked {
    /// Whether it would be made of the same now.
    pub fn holds(&self, store: &Store) -> bool {
        let objects = self.objects.iter().all(|(kind, key, then)| {
            match (store.objects.get(kind).and_then(|all| all.get(key)), then) {
                // Each is one place in memory for as long as it is held here.
                (Some(now), Some(then)) => std::ptr::eq(now.meta(), then.meta()),
                (now, then) => now.is_none() && then.is_none(),
            }
        });
        let of = |service: &Key| store.slices.get(service).map(Vec::as_slice).unwrap_or_default();
        let are_same = |now: &[Arc<EndpointSlice>], then: &[Arc<EndpointSlice>]| {
            now.len() == then.len() && now.iter().zip(then).all(|(now, then)| Arc::ptr_eq(now, then))
        };
        objects && self.slices.iter().all(|(service, then)| are_same(of(service), then))
    }
}

impl Store {
    /// Does something, and says which objects were looked for by their names meanwhile: as long as those hold, it comes to the same. What
    /// goes by all objects of a kind is not noted, and servers of a service are where slices are among the `kinds`, which are those that may
    /// be looked for: whoever asks again when one of these has turned would not hear of others.
    pub fn noting<T>(&self, kinds: &[Kind], does: impl FnOnce() -> T) -> (T, Looked) {
        let noted = || self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let with_slices = kinds.contains(&Kind::EndpointSlice);
        *noted() = Some(Noted { slices: with_slices.then(BTreeSet::new), ..Noted::default() });
        let done = does();
        let Noted { objects, slices } = noted().take().unwrap_or_default();
        let found = objects.into_iter().map(|(kind, key)| {
            debug_assert!(kinds.contains(&kind), "{kind} {key} is looked for, and nobody asks when one has changed");
            let object = self.get(kind, &key).cloned();
            (kind, key, object)
        });
        let slices = slices.into_iter().flatten().map(|service| {
            let slices = self.slices.get(&service).cloned().unwrap_or_default();
            (service, slices)
        });
        (done, Looked { objects: found.collect(), slices: slices.collect() })
    }

    /// Takes note of what was heard; returns what is different now.
    pub fn hear(&mut self, place: &Place, heard: Heard) -> Vec<Change> {
        if !matches!(heard, Heard::Fault(_)) {
            self.faults.remove(place);
        }
        let kind = place.kind;
        match heard {
            Heard::Listed(listed, unread) => {
                self.listed.insert(place.clone());
                self.unread.retain(|(of, key), _| *of != kind || !place.has(key));
                self.unread.extend(unread.into_iter().map(|(key, why)| ((kind, key), why)));
                let known = self.objects.get(&kind);
                let there = |key: &Key| listed.contains_key(key) || self.unread.contains_key(&(kind, key.clone()));
                let gone = known.into_iter().flat_map(BTreeMap::keys);
                let gone: Vec<Key> = gone.filter(|key| place.has(key) && !there(key)).cloned().collect();
                let mut changes: Vec<Change> = gone.into_iter().filter_map(|key| self.remove(kind, key)).collect();
                changes.extend(listed.into_values().filter_map(|object| self.put(object)));
                changes
            }
            Heard::Put(object) => self.put(object).into_iter().collect(),
            Heard::Gone(key) => {
                self.unread.remove(&(kind, key.clone()));
                self.remove(kind, key).into_iter().collect()
            }
            Heard::Well => Vec::new(),
            Heard::Unread(key, why) => {
                self.unread.insert((kind, key), why);
                Vec::new()
            }
            Heard::Fault(why) => {
                self.faults.insert(place.clone(), why);
                Vec::new()
            }
        }
    }

    fn put(&mut self, mut object: Object) -> Option<Change> {
        let (kind, key) = (object.kind(), object.key());
        self.unread.remove(&(kind, key.clone()));
        let known = self.objects.entry(kind).or_default();
        if let Some(was) = known.get(&key) {
            if same(was.meta(), object.meta()) {
                return None;
            }
            object.share(was);
        }
        let was = known.insert(key.clone(), object.clone());
        *self.turns.entry(kind).or_default() += 1;
        if let Some(Object::EndpointSlice(was)) = was {
            self.drop_slice(&was);
        }
        match &object {
            Object::EndpointSlice(slice) => {
                if let Some(service) = slice.service() {
                    let service = Key::new(&key.namespace, service);
                    self.touched.insert(service.clone());
                    let slices = self.slices.entry(service).or_insert_with(|| Vec::with_capacity(1));
                    let at = slices.partition_point(|other| other.metadata.name < key.name);
                    slices.insert(at, slice.clone());
                }
            }
            Object::Service(_) => drop(self.touched.insert(key.clone())),
            _ => {}
        }
        Some((kind, key))
    }

    fn remove(&mut self, kind: Kind, key: Key) -> Option<Change> {
        let was = self.objects.get_mut(&kind)?.remove(&key)?;
        *self.turns.entry(kind).or_default() += 1;
        match was {
            Object::EndpointSlice(was) => self.drop_slice(&was),
            Object::Service(_) => drop(self.touched.insert(key.clone())),
            _ => {}
        }
        Some((kind, key))
    }

    fn drop_slice(&mut self, slice: &EndpointSlice) {
        let Some(service) = slice.service() else { return };
        let service = Key::new(&slice.metadata.namespace, service);
        if let Some(slices) = self.slices.get_mut(&service) {
            slices.retain(|other| other.metadata.name != slice.metadata.name);
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
        self.touched.insert(service);
    }

    /// Grows whenever an object of a kind is another than it was.
    pub fn turn_of(&self, kind: Kind) -> u64 {
        self.turns.get(&kind).copied().unwrap_or_default()
    }

    /// Services whose servers may be others than when this was asked last.
    pub fn take_touched(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.touched)
    }

    /// Whether all of these have been listed once, or cannot be and are not needed.
    pub fn has_all(&self, places: &[Place]) -> bool {
        let missed = |place: &Place| place.kind.may_be_missed() && self.faults.contains_key(place);
        places.iter().all(|place| self.listed.contains(place) || missed(place))
    }

    /// What is not well, in words.
    pub fn faults(&self) -> impl Iterator<Item = &str> {
        self.faults.values().map(String::as_str)
    }

    /// Objects that could not be read, and why.
    pub fn unread(&self) -> impl Iterator<Item = (Kind, &Key, &str)> {
        self.unread.iter().map(|((kind, key), why)| (*kind, key, why.as_str()))
    }

    pub fn get(&self, kind: Kind, key: &Key) -> Option<&Object> {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(noted) = noted.as_mut() {
            noted.objects.insert((kind, key.clone()));
        }
        self.objects.get(&kind)?.get(key)
    }

    pub fn all(&self, kind: Kind) -> impl Iterator<Item = &Object> {
        self.objects.get(&kind).into_iter().flat_map(BTreeMap::values)
    }

    pub fn count(&self, kind: Kind) -> usize {
        self.objects.get(&kind).map_or(0, BTreeMap::len)
    }

    pub fn ingresses(&self) -> impl Iterator<Item = &Arc<Ingress>> {
        self.all(Kind::Ingress).filter_map(|object| match object {
            Object::Ingress(ingress) => Some(ingress),
            _ => None,
        })
    }

    /// The same with their keys, in the order of those.
    pub fn ingresses_by_key(&self) -> impl Iterator<Item = (&Key, &Arc<Ingress>)> {
        let all = self.objects.get(&Kind::Ingress).into_iter().flatten();
        all.filter_map(|(key, object)| match object {
            Object::Ingress(ingress) => Some((key, ingress)),
            _ => None,
        })
    }

    pub fn class(&self, name: &str) -> Option<&IngressClass> {
        match self.get(Kind::IngressClass, &Key::new("", name))? {
            Object::IngressClass(class) => Some(class),
            _ => None,
        }
    }

    pub fn classes(&self) -> impl Iterator<Item = &IngressClass> {
        self.all(Kind::IngressClass).filter_map(|object| match object {
            Object::IngressClass(class) => Some(&**class),
            _ => None,
        })
    }

    pub fn service(&self, key: &Key) -> Option<&Arc<Service>> {
        match self.get(Kind::Service, key)? {
            Object::Service(service) => Some(service),
            _ => None,
        }
    }

    pub fn secret(&self, key: &Key) -> Option<&Arc<Secret>> {
        match self.get(Kind::Secret, key)? {
            Object::Secret(secret) => Some(secret),
            _ => None,
        }
    }

    pub fn gateways(&self) -> impl Iterator<Item = &Gateway> {
        self.all(Kind::Gateway).filter_map(|object| match object {
            Object::Gateway(gateway) => Some(&**gateway),
            _ => None,
        })
    }

    /// Of one of the kinds of routes, with their keys and in the order of those.
    pub fn routes_by_key(&self, kind: Kind) -> impl Iterator<Item = (&Key, &Arc<Route>)> {
        let all = self.objects.get(&kind).into_iter().flatten();
        all.filter_map(|(key, object)| match object {
            Object::Route(_, route) => Some((key, route)),
            _ => None,
        })
    }

    pub fn grants(&self) -> impl Iterator<Item = &ReferenceGrant> {
        self.all(Kind::ReferenceGrant).filter_map(|object| match object {
            Object::ReferenceGrant(grant) => Some(&**grant),
            _ => None,
        })
    }

    pub fn listener_sets(&self) -> impl Iterator<Item = &ListenerSet> {
        self.all(Kind::ListenerSet).filter_map(|object| match object {
            Object::ListenerSet(set) => Some(&**set),
            _ => None,
        })
    }

    pub fn policies(&self) -> impl Iterator<Item = &BackendTlsPolicy> {
        self.all(Kind::BackendTlsPolicy).filter_map(|object| match object {
            Object::BackendTlsPolicy(policy) => Some(&**policy),
            _ => None,
        })
    }

    pub fn config_map(&self, key: &Key) -> Option<&ConfigMap> {
        match self.get(Kind::ConfigMap, key)? {
            Object::ConfigMap(map) => Some(map),
            _ => None,
        }
    }

    pub fn namespace(&self, name: &str) -> Option<&Namespace> {
        match self.get(Kind::Namespace, &Key::new("", name))? {
            Object::Namespace(namespace) => Some(namespace),
            _ => None,
        }
    }

    pub fn filter_spec(&self, key: &Key) -> Option<&FilterSpec> {
        match self.get(Kind::FilterSpec, key)? {
            Object::FilterSpec(spec) => Some(spec),
            _ => None,
        }
    }

    /// The slices of a service.
    pub fn slices(&self, service: &Key) -> impl Iterator<Item = &EndpointSlice> {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(noted) = noted.as_mut().and_then(|noted| noted.slices.as_mut()) {
            noted.insert(service.clone());
        }
        drop(noted);
        self.slices.get(service).into_iter().flatten().map(Arc::as_ref)
    }
}

/// Whether nothing has been written to the object in between.
fn same(a: &crate::object::Meta, b: &crate::object::Meta) -> bool {
    !a.resource_version.is_empty() && a.resource_version == b.resource_version && a.uid == b.uid
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub(crate) fn object(kind: Kind, value: Value) -> Object {
        kind.read(&value.to_string()).unwrap()
    }

    pub(crate) fn everywhere(kind: Kind) -> Place {
        Place { kind, namespace: None }
    }

    fn slice(name: &str, version: &str, service: &str) -> Object {
        let labels = json!({"kubernetes.io/service-name": service});
        let metadata = json!({"name": name, "namespace": "n", "resourceVersion": version, "labels": labels});
        object(Kind::EndpointSlice, json!({"metadata": metadata, "addressType": "IPv4"}))
    }

    fn names(store: &Store, service: &str) -> Vec<String> {
        store.slices(&Key::new("n", service)).map(|slice| slice.metadata.name.clone()).collect()
    }

    #[test]
    fn slices_are_found_by_their_service_as_they_come_move_and_go() {
        let (mut store, place) = (Store::default(), everywhere(Kind::EndpointSlice));
        store.hear(&place, Heard::Put(slice("a", "1", "s")));
        store.hear(&place, Heard::Put(slice("b", "1", "s")));
        assert_eq!(names(&store, "s"), ["a", "b"]);
        let touched = |store: &mut Store| store.take_touched().into_iter().map(|key| key.name).collect::<Vec<_>>();
        assert_eq!((touched(&mut store), touched(&mut store)), (vec!["s".to_owned()], Vec::new()));
        assert_eq!(store.hear(&place, Heard::Put(slice("a", "1", "s"))), [], "nothing was written in between");
        store.hear(&place, Heard::Put(slice("a", "2", "t")));
        assert_eq!((names(&store, "s"), names(&store, "t")), (vec!["b".to_owned()], vec!["a".to_owned()]));
        assert_eq!(touched(&mut store), ["s", "t"], "it has moved from one to the other");
        store.hear(&place, Heard::Gone(Key::new("n", "b")));
        assert_eq!(names(&store, "s"), [""; 0]);
        let listed = [slice("c", "9", "t")].map(|slice| (slice.key(), slice)).into();
        let changes = store.hear(&place, Heard::Listed(listed, Vec::new()));
        assert_eq!(changes.len(), 2, "{changes:?}");
        assert_eq!(names(&store, "t"), ["c"]);
        assert!(store.slices.len() == 1 && store.count(Kind::EndpointSlice) == 1);
    }

    #[test]
    fn what_was_looked_at_holds_until_it_is_another() {
        let mut store = Store::default();
        let service = |name: &str, version: &str| {
            object(Kind::Service, json!({"metadata": {"name": name, "namespace": "n", "resourceVersion": version}}))
        };
        let place = everywhere(Kind::Service);
        store.hear(&place, Heard::Put(service("a", "1")));
        let look = |store: &Store| {
            let (found, looked) =
                store.noting(&[Kind::Service], || ["a", "b"].map(|name| store.service(&Key::new("n", name)).is_some()));
            assert!(looked.holds(store));
            (found, looked)
        };
        let (found, looked) = look(&store);
        assert_eq!(found, [true, false]);
        store.hear(&place, Heard::Put(service("c", "2")));
        store.hear(&place, Heard::Put(service("a", "1")));
        assert!(looked.holds(&store), "others do not matter, nor what is the same");
        store.hear(&place, Heard::Put(service("b", "3")));
        assert!(!looked.holds(&store), "what was not there is");
        let (_, looked) = look(&store);
        store.hear(&place, Heard::Put(service("a", "4")));
        assert!(!looked.holds(&store));
        let (_, looked) = look(&store);
        store.hear(&place, Heard::Gone(Key::new("n", "a")));
        assert!(!looked.holds(&store));
    }

    #[test]
    fn slices_hold_for_whoever_asks_for_them() {
        let mut store = Store::default();
        let place = everywhere(Kind::EndpointSlice);
        store.hear(&place, Heard::Put(slice("a", "1", "s")));
        let look = |store: &Store| {
            let of = || store.slices(&Key::new("n", "s")).count();
            [&[Kind::Service][..], &[Kind::EndpointSlice]].map(|kinds| store.noting(kinds, of).1)
        };
        let hold = |looked: &[Looked; 2], store: &Store| [looked[0].holds(store), looked[1].holds(store)];
        let looked = look(&store);
        store.hear(&place, Heard::Put(slice("b", "2", "t")));
        assert_eq!(hold(&looked, &store), [true, true], "servers of others do not matter");
        for heard in
            [Heard::Put(slice("a", "3", "s")), Heard::Put(slice("c", "4", "s")), Heard::Gone(Key::new("n", "a"))]
        {
            let looked = look(&store);
            store.hear(&place, heard);
            assert_eq!(hold(&looked, &store), [true, false]);
        }
    }

    #[test]
    fn a_list_of_one_namespace_says_nothing_of_others() {
        let mut store = Store::default();
        let service = |namespace: &str| {
            object(Kind::Service, json!({"metadata": {"name": "s", "namespace": namespace, "resourceVersion": "1"}}))
        };
        let place = |namespace: &str| Place { kind: Kind::Service, namespace: Some(namespace.to_owned()) };
        let listed =
            |namespace: &str| Heard::Listed([(Key::new(namespace, "s"), service(namespace))].into(), Vec::new());
        store.hear(&place("a"), listed("a"));
        store.hear(&place("b"), listed("b"));
        assert_eq!(store.count(Kind::Service), 2);
        assert!(store.has_all(&[place("a"), place("b")]) && !store.has_all(&[place("c")]));
        // Whoever may not list ConfigMaps has everything else all the same.
        let maps = everywhere(Kind::ConfigMap);
        assert!(!store.has_all(&[place("a"), maps.clone()]), "it is not known yet");
        store.hear(&maps, Heard::Fault("403".into()));
        assert!(store.has_all(&[place("a"), maps.clone()]));
        store.hear(&maps, Heard::Listed(BTreeMap::new(), Vec::new()));
        store.hear(&place("a"), Heard::Fault("gone".into()));
        assert_eq!(store.faults().collect::<Vec<_>>(), ["gone"]);
        // One that cannot be read is there.
        let unread = vec![(Key::new("a", "s"), "spec is no map".to_owned())];
        store.hear(&place("a"), Heard::Listed(BTreeMap::new(), unread));
        assert_eq!((store.count(Kind::Service), store.unread().count()), (2, 1));
        store.hear(&place("a"), Heard::Listed(BTreeMap::new(), Vec::new()));
        assert_eq!((store.count(Kind::Service), store.faults().count(), store.unread().count()), (1, 0, 0));
    }
}

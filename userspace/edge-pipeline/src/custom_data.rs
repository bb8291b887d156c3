//! What users keep in the cluster (`weirctl` calls it custom data), kind by kind and as it is on this machine: told by the agent, asked by
//! filters.
//!
//! A filter looks into the kind it is about with every request, so that a change holds for the next one, and builds nothing anew for it.
//! There is one of it per process: pipelines of every generation see the same.

use serde_json::Value;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

/// See the module doc.
#[derive(Debug, Default)]
pub struct CustomData(Mutex<HashMap<String, Arc<Items>>>);

/// The items of one kind, by id.
#[derive(Debug, Default)]
pub struct Items {
    by_id: RwLock<HashMap<String, Arc<Value>>>,
    changes: AtomicU64,
}

impl CustomData {
    /// That of this process.
    pub fn here() -> &'static CustomData {
        static HERE: OnceLock<CustomData> = OnceLock::new();
        HERE.get_or_init(CustomData::default)
    }

    /// The kind of this name, to be kept and asked; it has no items while the cluster has none.
    pub fn kind(&self, name: &str) -> Arc<Items> {
        let mut kinds = self.lock();
        // One that is empty and that nobody asks leaves no trace.
        kinds.retain(|_, items| Arc::strong_count(items) > 1 || items.count() > 0);
        kinds.entry(name.to_owned()).or_default().clone()
    }

    /// Says what an item is; `None`: it is gone.
    pub fn set(&self, kind: &str, id: &str, item: Option<Arc<Value>>) {
        let mut kinds = self.lock();
        match item {
            Some(item) => kinds.entry(kind.to_owned()).or_default().put(id, Some(item)),
            None => {
                if let Some(items) = kinds.get(kind) {
                    items.put(id, None);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Items>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Items {
    pub fn find(&self, id: &str) -> Option<Arc<Value>> {
        self.by_id.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub fn count(&self) -> usize {
        self.by_id.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Grows with every change of any item: what was made out of them is good for as long as it stands.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Every item, as they are at one time.
    pub fn all(&self) -> Vec<(String, Arc<Value>)> {
        let by_id = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        by_id.iter().map(|(id, item)| (id.clone(), item.clone())).collect()
    }

    fn put(&self, id: &str, item: Option<Arc<Value>>) {
        let mut by_id = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        match item {
            Some(item) => drop(by_id.insert(id.to_owned(), item)),
            None => drop(by_id.remove(id)),
        }
        self.changes.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn whoever_asks_sees_every_change_and_nothing_is_left_of_what_is_gone() {
        let data = CustomData::default();
        let users = data.kind("users");
        assert_eq!((users.find("ann"), users.count()), (None, 0));
        let before = users.changes();
        data.set("users", "ann", Some(Arc::new(json!({"group": "gold"}))));
        data.set("others", "ann", Some(Arc::new(json!({}))));
        assert_eq!(users.find("ann").as_deref(), Some(&json!({"group": "gold"})));
        assert!(users.changes() > before && users.all().len() == 1);
        assert!(Arc::ptr_eq(&users, &data.kind("users")));
        data.set("users", "ann", None);
        data.set("others", "ann", None);
        data.set("none", "ann", None);
        assert_eq!(users.find("ann"), None);
        drop(users);
        data.kind("asked");
        assert_eq!(data.lock().len(), 1, "kinds without items that nobody asks are forgotten");
    }
}

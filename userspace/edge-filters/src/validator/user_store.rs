//! Users in the cluster's custom data, read again when that changes.
//!
//! An item is a user: `{"username": …, "password": HASH}`. Without a `username` the `key` is the name, and the item's id stands in for both.

use super::htpasswd::Users;
use edge_pipeline::custom_data::{CustomData, Items};
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};

/// The items of one kind whose ids begin alike. Whoever asks first after a change reads all of them: a millisecond for a thousand users.
#[derive(Debug)]
pub(super) struct UserStore {
    items: Arc<Items>,
    before: String,
    read: Mutex<Option<(u64, Arc<Users>)>>,
}

impl UserStore {
    /// `prefix` is a kind, and after a slash what ids begin with.
    pub(super) fn new(prefix: &str, data: &CustomData) -> UserStore {
        let (kind, before) = split(prefix);
        UserStore { items: data.kind(kind), before: before.to_owned(), read: Mutex::default() }
    }

    pub(super) fn users(&self) -> Arc<Users> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked before the items are: one that comes in between is read once more.
        let changes = self.items.changes();
        match &*read {
            Some((known, users)) if *known == changes => users.clone(),
            _ => {
                let users = Arc::new(self.look());
                *read = Some((changes, users.clone()));
                users
            }
        }
    }

    fn look(&self) -> Users {
        let mut items = self.items.all();
        items.retain(|(id, _)| id.starts_with(&self.before));
        // Of two items about one user the first by id counts, on every machine.
        items.sort_by(|(one, _), (other, _)| one.cmp(other));
        Users::of(items.iter().map(|(id, item)| {
            let text = |field: &str| item.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
            let name = text("username").or_else(|| text("key")).unwrap_or(&id[self.before.len()..]);
            (name, text("password").unwrap_or_default())
        }))
    }
}

/// A kind, and what ids begin with. A slash in front is Easegress's, and says nothing.
pub(super) fn split(prefix: &str) -> (&str, &str) {
    let prefix = prefix.strip_prefix('/').unwrap_or(prefix);
    prefix.split_once('/').unwrap_or((prefix, ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn users_are_items_and_follow_their_changes() {
        const HASH: &str = "{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=";
        let data = CustomData::default();
        let put = |kind: &str, id: &str, item| data.set(kind, id, Some(Arc::new(item)));
        let store = UserStore::new("credentials/eu-", &data);
        assert_eq!(store.users().len(), 0);
        put("credentials", "eu-1", json!({"key": "no", "username": "ann", "password": HASH}));
        put("credentials", "eu-2", json!({"username": "bob", "password": HASH}));
        put("credentials", "eu-eve", json!({"password": HASH}));
        put("credentials", "eu-zoe", json!({"password": "in clear"}));
        put("credentials", "us-joe", json!({"password": HASH}));
        put("others", "eu-sue", json!({"password": HASH}));
        let users = store.users();
        let real = |name: &str| users.find(name).is_some_and(|(_, real)| real);
        assert_eq!((users.len(), users.unread), (3, 1));
        assert!(["ann", "bob", "eve"].into_iter().all(real) && !["no", "zoe", "joe", "sue"].into_iter().any(real));
        assert!(Arc::ptr_eq(&users, &store.users()), "they are not read again for nothing");
        data.set("credentials", "eu-2", None);
        assert!(!store.users().find("bob").unwrap().1);
        for (prefix, kind, before) in [("a", "a", ""), ("/a/b/c", "a", "b/c"), ("a/", "a", ""), ("/", "", "")] {
            assert_eq!(split(prefix), (kind, before));
        }
    }
}

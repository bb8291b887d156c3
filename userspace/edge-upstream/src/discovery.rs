//! Which servers services have on this machine, as the cluster's registries say: told by the agent, followed by pools.
//!
//! A pool that follows a service changes its servers in place, so that no pipeline is built anew for it. There is one directory per
//! process, as there is one of [`endpoints`](crate::endpoint): pipelines of every generation follow the same services.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// A server of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instance {
    /// `scheme://address:port`.
    pub url: String,
    /// Words `serverTags` selects by.
    pub tags: Vec<String>,
    /// Its share with weightedRandom.
    pub weight: u32,
}

/// What is told of a service whenever it changes.
pub trait Follows: Send + Sync {
    /// All that it has now; empty where nothing is known of it.
    fn changed(&self, instances: &[Instance]);
}

/// See the module doc.
#[derive(Default)]
pub struct Directory(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    by_key: HashMap<String, Entry>,
    /// How many were left when those were last looked through of which nothing is known and that nobody follows.
    left: usize,
    /// How often they were looked through.
    #[cfg(test)]
    sweeps: usize,
}

#[derive(Default)]
struct Entry {
    instances: Arc<[Instance]>,
    followers: Vec<Weak<dyn Follows>>,
}

impl Directory {
    /// That of this process.
    pub fn here() -> &'static Directory {
        static HERE: OnceLock<Directory> = OnceLock::new();
        HERE.get_or_init(Directory::default)
    }

    /// The key of a service. Names of registries have no slash in them.
    pub fn key(registry: &str, service: &str) -> String {
        format!("{registry}/{service}")
    }

    /// Says what the service of this key has; nothing for one that is gone. Its followers have changed when this returns.
    pub fn set(&self, key: &str, instances: Vec<Instance>) {
        let followers = {
            let mut entries = self.lock();
            let entry = entries.by_key.entry(key.to_owned()).or_default();
            entry.followers.retain(|follower| follower.strong_count() > 0);
            if *entry.instances == *instances {
                return;
            }
            entry.instances = instances.clone().into();
            let followers = entry.followers.clone();
            if entry.is_idle() {
                entries.by_key.remove(key);
            }
            followers
        };
        // Without the lock: a follower may take its time.
        followers.iter().filter_map(Weak::upgrade).for_each(|follower| follower.changed(&instances));
    }

    /// What the service of this key has now; empty where nothing is known of it.
    pub fn instances(&self, key: &str) -> Arc<[Instance]> {
        self.lock().by_key.get(key).map(|entry| entry.instances.clone()).unwrap_or_default()
    }

    /// The follower is told of changes from now on, and of one since it looked at what the service has: `known`.
    pub fn follow(&self, key: &str, known: &[Instance], follower: Weak<dyn Follows>) {
        let told = follower.upgrade();
        let instances = {
            let mut entries = self.lock();
            entries.sweep();
            let entry = entries.by_key.entry(key.to_owned()).or_default();
            entry.followers.retain(|follower| follower.strong_count() > 0);
            entry.followers.push(follower);
            entry.instances.clone()
        };
        if let Some(follower) = told.filter(|_| *instances != *known) {
            follower.changed(&instances);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    /// A service whose pools are gone, and of which nothing is known, leaves no trace for long: all of them are looked through once there
    /// are twice as many as were left, so that of ten thousand each costs a few steps.
    fn sweep(&mut self) {
        if self.by_key.len() < 2 * self.left + LEAST_SWEPT {
            return;
        }
        self.by_key.retain(|_, entry| {
            entry.followers.retain(|follower| follower.strong_count() > 0);
            !entry.is_idle()
        });
        self.left = self.by_key.len();
        #[cfg(test)]
        {
            self.sweeps += 1;
        }
    }
}

/// So few are not looked through.
const LEAST_SWEPT: usize = 64;

impl Entry {
    fn is_idle(&self) -> bool {
        self.instances.is_empty() && self.followers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen(Mutex<Vec<Vec<String>>>);

    impl Follows for Seen {
        fn changed(&self, instances: &[Instance]) {
            self.0.lock().unwrap().push(instances.iter().map(|instance| instance.url.clone()).collect());
        }
    }

    fn instances(urls: &[&str]) -> Vec<Instance> {
        urls.iter().map(|url| Instance { url: (*url).to_owned(), ..Instance::default() }).collect()
    }

    #[test]
    fn followers_hear_of_every_change_and_of_nothing_else() {
        let directory = Directory::default();
        let key = Directory::key("consul", "orders");
        directory.set(&key, instances(&["http://10.0.0.1:80"]));
        let seen = Arc::new(Seen::default());
        let follower: Weak<dyn Follows> = Arc::downgrade(&(seen.clone() as Arc<dyn Follows>));
        directory.follow(&key, &[], follower);
        assert_eq!(std::mem::take(&mut *seen.0.lock().unwrap()), [["http://10.0.0.1:80"]]);
        directory.set(&key, instances(&["http://10.0.0.1:80"]));
        directory.set(&Directory::key("consul", "carts"), instances(&["http://10.0.0.9:80"]));
        directory.set(&key, instances(&["http://10.0.0.1:80", "http://10.0.0.2:80"]));
        directory.set(&key, Vec::new());
        let told = seen.0.lock().unwrap().clone();
        assert_eq!(told, [vec!["http://10.0.0.1:80".to_owned(), "http://10.0.0.2:80".to_owned()], Vec::new()]);
        drop(seen);
        directory.set(&key, instances(&["http://10.0.0.3:80"]));
        directory.set(&key, Vec::new());
        assert!(!directory.lock().by_key.contains_key(&key), "nobody follows it, and nothing is known of it");
        let seen = Arc::new(Seen::default());
        directory.set(&key, instances(&["http://10.0.0.1:80"]));
        let known = directory.instances(&key);
        let follower: Weak<dyn Follows> = Arc::downgrade(&(seen.clone() as Arc<dyn Follows>));
        directory.follow(&key, &known, follower);
        assert!(seen.0.lock().unwrap().is_empty(), "it knows that already");
    }

    #[test]
    fn of_many_services_one_that_is_followed_costs_no_walk_over_the_others() {
        const MANY: usize = 10_000;
        let directory = Directory::default();
        let seen = Arc::new(Seen::default()) as Arc<dyn Follows>;
        let all = |follower: &Arc<dyn Follows>, n: usize| {
            directory.follow(&Directory::key("ing", &format!("s{n}")), &[], Arc::downgrade(follower));
        };
        (0..MANY).for_each(|n| all(&seen, n));
        let sweeps = directory.lock().sweeps;
        assert!(sweeps < 20, "{sweeps} walks for {MANY} services");
        // Those that nobody follows any more go.
        drop(seen);
        let other = Arc::new(Seen::default()) as Arc<dyn Follows>;
        (MANY..3 * MANY).for_each(|n| all(&other, n));
        let entries = directory.lock();
        let (left, sweeps) = (entries.by_key.len(), entries.sweeps);
        assert!((2 * MANY..3 * MANY).contains(&left) && sweeps < 30, "{left} are left after {sweeps} walks");
    }
}

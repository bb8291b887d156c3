//! `memoryCache` of a pool: answers are given again for a fixed time, whatever they say of their freshness.
//!
//! As Easegress's, with its faults mended: the query is part of the key, `Vary` is heard, all entries together have a bound, and what is
//! private (credentials, cookies, `private`) is kept for nobody. The filter Cache does what RFC 9111 says.

use base_model::MemoryCacheSpec;
use base_telemetry::cache::CacheResult;
use edge_pipeline::{Exchange, Parts};
use edge_upstream::cache::{self, CacheKey, Found, Gathered, Store, Stored, Ticket, gather, serve};
use proto_cache::key::{is_disguised, push_key};
use proto_cache::{KeyRules, RequestControl, Times, keep_for};
use proto_http::Known;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Bytes that all entries of a pool take at most; those asked for least make room.
const BYTES_MOST: usize = 64 * 1024 * 1024;

/// See the module doc.
pub struct MemoryCache {
    spec: MemoryCacheSpec,
    store: Arc<Store>,
    expiration: Duration,
    entry_most: usize,
    codes: Vec<u16>,
}

/// A request whose answer may be kept.
pub struct Asked {
    key: CacheKey,
    ticket: Ticket,
    since: Instant,
}

impl MemoryCache {
    /// `pool` is its name; what the generation before kept is kept on where all of it would be kept now, for as long.
    pub fn new(
        spec: &MemoryCacheSpec,
        pool: &str,
        parts: &Parts<'_>,
        previous: Option<&Arc<MemoryCache>>,
    ) -> Arc<MemoryCache> {
        if let Some(same) = previous.filter(|previous| previous.spec == *spec) {
            return same.clone();
        }
        let entry_most = spec.max_entry_bytes as usize;
        let kept_on = |previous: &&Arc<MemoryCache>| {
            let MemoryCacheSpec { expiration, max_entry_bytes, codes, methods } = &previous.spec;
            *expiration == spec.expiration
                && *max_entry_bytes <= spec.max_entry_bytes
                && codes.iter().all(|code| spec.codes.contains(code))
                && methods.iter().all(|method| spec.methods.contains(method))
                && previous.store.suits(BYTES_MOST, entry_most)
        };
        let store = match previous.filter(kept_on) {
            Some(previous) => previous.store.clone(),
            None => {
                let name = format!("{}/{pool}", parts.pipeline);
                let stats = parts.telemetry.cache(&name, &cache::REASONS);
                let limit = parts.telemetry.limits().register("cache_memory");
                Store::new(name, BYTES_MOST, entry_most, stats, limit)
            }
        };
        Arc::new(MemoryCache {
            store,
            expiration: spec.expiration.into(),
            entry_most,
            codes: spec.codes.iter().map(|code| code.code()).collect(),
            spec: spec.clone(),
        })
    }

    /// Answers from memory, or says what the answer may be kept under; `Err(None)` for requests it has nothing to do with.
    pub fn answer(&self, exchange: &mut Exchange) -> Result<(), Option<Asked>> {
        let space = exchange.space_ref();
        let request = &space.request;
        let named = self.spec.methods.iter().any(|method| method == request.method.as_str());
        // A body decides the answer, and is not part of the key.
        let bare = space.request_body.length() == Some(0) && !exchange.upgrade_offered;
        let ranged = request.headers.contains("Range") || request.headers.contains("If-Range");
        if !named || !bare || ranged || is_disguised(&request.headers) {
            return Err(None);
        }
        let (stats, worker) = (self.store.stats(), base_runtime::worker_index());
        let asked = RequestControl::of(&request.headers);
        if asked.no_cache || asked.no_store {
            stats.dealt(worker, CacheResult::Bypass);
            return Err(None);
        }
        let mut text = Vec::with_capacity(128);
        push_key(request, exchange.client.scheme, &KeyRules::default(), &mut text);
        // Its last line, so that a purge of the URL finds it.
        text.extend_from_slice(b"\n");
        text.extend_from_slice(request.method.as_str().as_bytes());
        let (key, now) = (self.store.key(text), base_runtime::now());
        let found = match self.store.find(&key, &request.headers) {
            Found::This(stored) if stored.kept.freshness.is_fresh(now) => stored,
            _ => {
                stats.dealt(worker, CacheResult::Miss);
                return Err(Some(Asked { key, ticket: self.store.ticket(), since: now }));
            }
        };
        stats.dealt(worker, CacheResult::Hit);
        let (response, body) = serve::whole(&found, &request.method, now);
        exchange.respond(response, body);
        exchange.tags.note_own(|| "memory cache");
        Ok(())
    }

    /// Keeps the answer under way, once its body has come to its end.
    pub fn keep(self: &Arc<Self>, asked: Asked, exchange: &mut Exchange) {
        let worker = base_runtime::worker_index();
        let space = exchange.space();
        let Some(response) = &space.response else { return };
        let events = response.headers.known(Known::ContentType).is_some_and(super::is_event_stream);
        if !self.codes.contains(&response.status) || events {
            return;
        }
        let received = base_runtime::now();
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let times = Times { asked: asked.since, received, unix_seconds: since_1970.as_secs() };
        let kept = match keep_for(self.expiration, &space.request, response, &times) {
            Ok(kept) => kept,
            Err(why) => return self.store.stats().refused(worker, why as usize),
        };
        let (cache, headers) = (self.clone(), space.request.headers.clone());
        let body = std::mem::take(&mut space.response_body);
        space.response_body = gather(body, self.entry_most, move |gathered| {
            let stats = cache.store.stats();
            match gathered {
                Gathered::Whole(bytes) => {
                    let stored = Stored::new(kept, bytes.into());
                    if cache.store.keep(&asked.key, &headers, stored, asked.ticket).is_none() {
                        stats.refused(worker, cache::PURGED);
                    }
                }
                Gathered::TooLarge => stats.refused(worker, cache::TOO_LARGE),
                Gathered::BrokenOff => stats.refused(worker, cache::BROKEN_OFF),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{telemetry, yaml};
    use edge_pipeline::PipelineName;

    /// A change of a document does not make its caches cold, unless they hold what would not be kept now, or not as long.
    #[test]
    fn what_would_still_be_kept_is_kept_on() {
        let telemetry = telemetry();
        let parts = Parts {
            name: "f",
            pipeline: &PipelineName::of_object("p"),
            previous: None,
            resilience: &[],
            telemetry: &telemetry,
        };
        let made = |fields: &str, previous: Option<&Arc<MemoryCache>>| {
            let spec = base_model::decode::<MemoryCacheSpec>(&yaml(&format!("{{{fields}}}")), "").unwrap().value;
            MemoryCache::new(&spec, "main", &parts, previous)
        };
        let before = made("expiration: 1m, maxEntryBytes: 1000, codes: [200, 404], methods: [GET]", None);
        for (fields, kept) in [
            ("expiration: 1m, maxEntryBytes: 5000, codes: [200, 404], methods: [GET]", true),
            ("expiration: 1m, maxEntryBytes: 1000, codes: [404, 200, 301], methods: [GET, HEAD]", true),
            ("expiration: 1m, maxEntryBytes: 999, codes: [200, 404], methods: [GET]", false),
            ("expiration: 2m, maxEntryBytes: 1000, codes: [200, 404], methods: [GET]", false),
            ("expiration: 1m, maxEntryBytes: 1000, codes: [200], methods: [GET]", false),
            ("expiration: 1m, maxEntryBytes: 1000, codes: [200, 404], methods: [HEAD]", false),
            // Entries of that size would not fit into the parts of the one before.
            ("expiration: 1m, maxEntryBytes: 33554432, codes: [200, 404], methods: [GET]", false),
        ] {
            let after = made(fields, Some(&before));
            assert_eq!(Arc::ptr_eq(&before.store, &after.store), kept, "{fields}");
        }
    }
}

//! Keeps answers in memory, and on a disk, and gives them again, as RFC 9111 says of a shared cache.
//!
//! Use it in front of a Proxy. It encloses the stations behind it: what they make of a request is what it keeps, and a hit passes them
//! by. What is for one client only (CORS, adaptors that look at the client) stands in front of it.
//!
//! ```yaml
//! name: cache
//! kind: Cache
//! maxBytes: 268435456
//! staleIfError: 1m
//! lifetimes:
//! - {codes: [404, 410], lifetime: 10s}
//! ```
//!
//! The first `GET /logo.svg` goes to the backend, which answers with `Cache-Control: max-age=60`; for a minute the answer comes from
//! memory with its `Age`, to HEAD and to ranges of it, too; then the backend is asked whether it has changed (`If-None-Match`,
//! `If-Modified-Since`), and a 304 makes it fresh again.
//!
//! What is kept: answers to GET that say how long they are fresh (`s-maxage`, `max-age`, `Expires`, or a field of `targetedFields`), that
//! a rule of `lifetimes` speaks of, or whose Last-Modified lets one guess. What is not: `no-store`, `private`, answers to requests with
//! `Authorization` that do not say `public`, `must-revalidate` or `s-maxage`, answers with `Set-Cookie` (see `setCookie`), with `Vary: *`,
//! parts (206), and what breaks off. What may be given stale: `stale-while-revalidate`, `stale-if-error`, `max-stale`.
//!
//! The key is scheme, host, path and query; each variant by `Vary` is kept beside the others. Fields that origins are known to obey
//! unasked (`X-Forwarded-Host`, `X-Original-URL`, `Forwarded` with a host, …) are part of the key where they say something else than the
//! request does; requests that claim another method in a field, that have a body, or `If-Match`, go past the cache. So nobody puts
//! anything in that others would not have got.
//!
//! Equal misses wait for the first of them, see `coalesceTimeout`. Purges come from `weirctl cache purge`, by URL, prefix and tag
//! (`Cache-Tag: a, b` or `Surrogate-Key: a b` of the answer), on every edge of the cluster; a POST, PUT, DELETE or other unsafe request
//! that succeeds removes its URL here, and those its Location and Content-Location name.
//!
//! With `disk` every answer is written to files below the data directory as well, beside the requests, and what memory has let go of is read
//! from there: for sites of more bytes than there is memory. Purges reach it at once, also what a process before has left. Head and body have
//! checksums: what a crash has torn or a disk has lost is not given. After a start, and in a process that takes over from another, what is
//! there is used again, each answer once the origin has said that it is still valid (what has no validator is fetched), and the latest 64
//! purges of the cluster are carried out again. A process that is killed loses the answers that wait to be written, at most 64 MiB. Nothing
//! is flushed, so a power cut may cost what came last, purges by writes (POST and its kin) among it: what they named is given again where the
//! origin says that it is valid. A twentieth of the file system stays free. A disk that is slow, full or fails leaves the cache to memory, and
//! is tried again every ten seconds (`cache_disk_queue`, `cache_disk_reads`, `cache_disk_failed`). Where fields that decide what is kept are
//! changed, a new set of files is begun.
//!
//! Outcomes: `hit` (answered from memory: the flow ends, or goes where `jumpIf` says) and `notCached` (the client asks with
//! `only-if-cached` for what is not there: 504). Fits HTTPServer. Costs a hash of the key, a lock that is taken to read, and a copy of the
//! head; bodies are shared. Metrics: `weir_cache_requests_total` and its kin, by `PIPELINE/FILTER`, in a GlobalFilter
//! `GLOBALFILTER:beforePipeline/FILTER`. Memory is booked as `caches`.

mod fetch;

use crate::module_doc::module_doc;
use crate::spec::{self, Spec};
use base_model::header_adapt::is_header_name;
use base_model::problem::{at, nth, one_of};
use base_model::{Findings, GoDuration, HttpCode, Problem};
use base_runtime::Boxed;
use base_telemetry::Limit;
use base_telemetry::cache::CacheResult;
use edge_pipeline::{BuildError, Enclosed, Exchange, Filter, FilterKind, Outcome, Parts, Rest, SUCCESS, Step, Touches};
use edge_upstream::cache::{self, CacheKey, Flights, Found, Store, Stored, serve};
use fetch::{Fetch, Why};
use proto_cache::control::SURROGATE;
use proto_cache::key::{is_disguised, push_key};
use proto_cache::status::{CacheStatus, Forward};
use proto_cache::{Cookies, Heuristic, KeyRules, RequestControl, Rules, Use, conditional, invalidate, use_of};
use proto_http::Method;
use ring::digest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};

const HIT: Outcome = "hit";
const NOT_CACHED: Outcome = "notCached";

/// `kind: Cache`: keeps answers in memory and gives them again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CacheSpec {
    /// Memory that all entries take at most, in bytes; what is asked for least makes room. All caches of a machine together take no more
    /// than half of `--memory-limit`. Default 67108864 (64 MiB), 1 MiB or more.
    #[schemars(range(min = 1048576))]
    pub max_bytes: u64,
    /// Largest body that is kept, in bytes; a larger one passes. Default 1048576 (1 MiB), 1 or more, a quarter of `maxBytes` at most.
    #[schemars(range(min = 1))]
    pub max_entry_bytes: u64,
    /// Request fields that are part of the key beside the URL, whatever `Vary` says. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub key_headers: Vec<String>,
    /// Query parameters that are not part of the key. The backend must not look at them either: what it makes of one is given to all.
    /// Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignored_query: Vec<String>,
    /// Response fields that go before Cache-Control and Expires, the first that is there (RFC 9213); `Surrogate-Control` is one that is
    /// taken out on the way to the client. Default [CDN-Cache-Control].
    pub targeted_fields: Vec<String>,
    /// How long answers are fresh that do not say so, by status; the first rule that lists it counts. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lifetimes: Vec<LifetimeSpec>,
    /// An answer that does not say how long it is fresh, but when it was changed, is fresh for this share of the time since, in per cent,
    /// where its status lets it (200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501). 0: it is not kept. Default 10.
    #[schemars(range(max = 100))]
    pub heuristic_percent: u32,
    /// Longest time that is guessed so. Default 1h.
    pub heuristic_most: GoDuration,
    /// Longest time any answer is fresh, whatever it says. Default: as it says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifetime_most: Option<GoDuration>,
    /// What becomes of an answer that sets a cookie: `refuse` (it is not kept), `strip` (it is kept without), or `keep` (everybody gets the
    /// cookie). Default refuse.
    #[schemars(with = "CookieWords")]
    pub set_cookie: String,
    /// How long an answer that has become stale is given while a new one is fetched, where it does not say so itself
    /// (`stale-while-revalidate`), nor forbids it. Default 0s.
    pub stale_while_revalidate: GoDuration,
    /// How long a stale answer stands in for a backend that fails (no answer, 500, 502, 503, 504), where it does not say so itself
    /// (`stale-if-error`), nor forbids it. Default 0s.
    pub stale_if_error: GoDuration,
    /// Do as clients say in Cache-Control (`no-cache`, `max-age`, `min-fresh`, `max-stale`, `only-if-cached`). `no-store` of a client is heard
    /// always. Default true.
    pub obey_clients: bool,
    /// How long an equal miss waits for the first one's answer before it asks for itself; 0s: none waits. Counted as `cache_wait`.
    /// Default 5s.
    pub coalesce_timeout: GoDuration,
    /// Most misses that wait for one answer; others ask for themselves, counted as `cache_waiting`. Default 1000, 1 or more.
    #[schemars(range(min = 1))]
    pub coalesce_most: u32,
    /// Say in `Cache-Status` what was done with the request (RFC 9211). Default false.
    pub cache_status: bool,
    /// Files for what memory has no room for. Default: none, the cache is in memory alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskSpec>,
}

/// Files for what memory has no room for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DiskSpec {
    /// Bytes that they take at most, below `cache` in the data directory; what was written first makes room, as it does where less than a
    /// twentieth of the file system would stay free. Memory: about 400 bytes for each answer, of what caches may take. Default 1073741824 (1 GiB), 32 MiB or more, and 32 times `maxEntryBytes` or more.
    #[schemars(range(min = 33554432))]
    pub max_bytes: u64,
}

impl Default for DiskSpec {
    fn default() -> DiskSpec {
        DiskSpec { max_bytes: 1024 * 1024 * 1024 }
    }
}

/// How long answers of some statuses are fresh that do not say so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["codes", "lifetime"]))]
pub struct LifetimeSpec {
    /// Status codes it is for. Never 206 and 304.
    pub codes: Vec<HttpCode>,
    /// How long; longer than 0s.
    pub lifetime: GoDuration,
}

/// The words of `setCookie`.
#[derive(JsonSchema)]
#[allow(dead_code, non_camel_case_types, reason = "only its schema is used, and the words are in lower case")]
enum CookieWords {
    refuse,
    strip,
    keep,
}

impl Default for CacheSpec {
    fn default() -> CacheSpec {
        CacheSpec {
            max_bytes: 64 * 1024 * 1024,
            max_entry_bytes: 1024 * 1024,
            key_headers: Vec::new(),
            ignored_query: Vec::new(),
            targeted_fields: vec!["CDN-Cache-Control".to_owned()],
            lifetimes: Vec::new(),
            heuristic_percent: 10,
            heuristic_most: GoDuration::from_secs(3600),
            lifetime_most: None,
            set_cookie: "refuse".to_owned(),
            stale_while_revalidate: GoDuration::from_secs(0),
            stale_if_error: GoDuration::from_secs(0),
            obey_clients: true,
            coalesce_timeout: GoDuration::from_secs(5),
            coalesce_most: 1000,
            cache_status: false,
            disk: None,
        }
    }
}

const COOKIES: [(&str, Cookies); 3] = [("refuse", Cookies::Refuse), ("strip", Cookies::Strip), ("keep", Cookies::Keep)];

/// Least bytes of the files of a cache.
const DISK_BYTES_LEAST: u64 = 32 * 1024 * 1024;

/// How many of the largest entries they have room for at least: files are a sixteenth of all, and an entry has a head as well.
const ENTRIES_OF_DISK_LEAST: u64 = 2 * cache::disk::SEGMENTS;

/// Least memory of a cache, in bytes.
const BYTES_LEAST: u64 = 1024 * 1024;

impl Spec for CacheSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        let bytes = |field: &str, value: u64, accepted: String| {
            Problem::new(at(path, field), "out of range").value(&value.into()).accepted(accepted)
        };
        if self.max_bytes < BYTES_LEAST {
            findings.problem(bytes("maxBytes", self.max_bytes, format!("{BYTES_LEAST} or more")));
        }
        let most = self.max_bytes / 4;
        if self.max_entry_bytes == 0 || self.max_entry_bytes > most {
            let accepted = format!("1 to {most}, a quarter of maxBytes");
            findings.problem(bytes("maxEntryBytes", self.max_entry_bytes, accepted));
        }
        if let Some(disk) = &self.disk {
            let least = DISK_BYTES_LEAST.max(self.max_entry_bytes.saturating_mul(ENTRIES_OF_DISK_LEAST));
            if disk.max_bytes < least {
                let accepted = format!("{least} or more, {ENTRIES_OF_DISK_LEAST} times maxEntryBytes");
                findings.problem(bytes("disk.maxBytes", disk.max_bytes, accepted));
            }
        }
        if self.heuristic_percent > 100 {
            findings.problem(bytes("heuristicPercent", self.heuristic_percent.into(), "0 to 100".to_owned()));
        }
        if self.coalesce_most == 0 {
            let problem = bytes("coalesceMost", 0, "1 or more".to_owned());
            findings.problem(problem.advice("coalesceTimeout: 0s lets nobody wait"));
        }
        for (field, names) in [("keyHeaders", &self.key_headers), ("targetedFields", &self.targeted_fields)] {
            for (index, name) in names.iter().enumerate().filter(|(_, name)| !is_header_name(name)) {
                findings.problem(Problem::new(nth(&at(path, field), index), "not a header name").text(name));
            }
        }
        if !COOKIES.iter().any(|(word, _)| *word == self.set_cookie) {
            let words: Vec<&str> = COOKIES.iter().map(|(word, _)| *word).collect();
            let problem = Problem::new(at(path, "setCookie"), "unknown word").text(&self.set_cookie);
            findings.problem(problem.accepted(one_of(&words)));
        }
        for (index, rule) in self.lifetimes.iter().enumerate() {
            let place = nth(&at(path, "lifetimes"), index);
            if rule.codes.is_empty() {
                findings.problem(Problem::new(at(&place, "codes"), "is empty").advice("list at least one status"));
            }
            if rule.lifetime.nanos() <= 0 {
                findings
                    .problem(Problem::new(at(&place, "lifetime"), "nothing would be kept").accepted("longer than 0s"));
            }
        }
        let times = [
            ("heuristicMost", Some(self.heuristic_most)),
            ("lifetimeMost", self.lifetime_most),
            ("staleWhileRevalidate", Some(self.stale_while_revalidate)),
            ("staleIfError", Some(self.stale_if_error)),
            ("coalesceTimeout", Some(self.coalesce_timeout)),
        ];
        for (field, _) in times.iter().filter(|(_, time)| time.is_some_and(|time| time.is_negative())) {
            findings.problem(Problem::new(at(path, field), "a time cannot be negative").accepted("0s or longer"));
        }
    }
}

pub const KIND: FilterKind = FilterKind {
    kind: "Cache",
    results: &[HIT, NOT_CACHED],
    doc: module_doc!("cache.rs"),
    schema: spec::schema::<CacheSpec>,
    check: spec::check::<CacheSpec>,
    build: |fields, parts| spec::build(fields, |spec| Ok::<_, BuildError>(Cache::new(spec, parts))),
};

/// A ready Cache.
pub struct Cache {
    shared: Arc<Shared>,
}

/// What fetches hold on to, which may go on when the document has changed.
struct Shared {
    spec: CacheSpec,
    rules: Rules,
    key: KeyRules,
    store: Arc<Store>,
    flights: Arc<Flights>,
    coalesce_timeout: Duration,
    entry_most: usize,
    /// One of `targetedFields` is Surrogate-Control.
    is_surrogate: bool,
    waited: Limit,
    waiting: Limit,
    refreshing: Limit,
}

impl Cache {
    fn new(spec: CacheSpec, parts: &Parts<'_>) -> Cache {
        let previous = parts.previous.and_then(|previous| previous.downcast::<Cache>()).map(|cache| &cache.shared);
        if let Some(same) = previous.filter(|shared| shared.spec == spec) {
            return Cache { shared: same.clone() };
        }
        let time = |time: GoDuration| Duration::from(time);
        let cookies = COOKIES.iter().find(|(word, _)| *word == spec.set_cookie).map_or(Cookies::Refuse, |(_, to)| *to);
        let lifetimes = spec.lifetimes.iter().flat_map(|rule| {
            let life = time(rule.lifetime);
            rule.codes.iter().map(move |code| (code.code()..=code.code(), life))
        });
        let heuristic = Heuristic { percent: spec.heuristic_percent, most: time(spec.heuristic_most) };
        let rules = Rules {
            targeted: spec.targeted_fields.clone(),
            heuristic: Some(heuristic).filter(|heuristic| heuristic.percent > 0),
            lifetimes: lifetimes.collect(),
            cookies,
            stale_while_revalidate: time(spec.stale_while_revalidate),
            stale_if_error: time(spec.stale_if_error),
            lifetime_most: spec.lifetime_most.map(time),
        };
        let limit = |name| parts.telemetry.limits().register(name);
        let key = KeyRules { headers: spec.key_headers.clone(), ignored_query: spec.ignored_query.clone() };
        // What is kept stays where only the rest of the document has changed; what was kept under other rules does not.
        let same_store = previous.filter(|shared| {
            shared.key == key
                && shared.rules_of_keeping() == rules_of_keeping(&spec)
                && shared.spec.max_bytes == spec.max_bytes
        });
        let store = same_store.map(|shared| shared.store.clone()).unwrap_or_else(|| {
            let name = parts.place();
            let stats = parts.telemetry.cache(&name, &cache::REASONS);
            let (most, entry) = (spec.max_bytes as usize, spec.max_entry_bytes as usize);
            let store = Store::new(name, most, entry, stats, limit("cache_memory"));
            if let (Some(disk), Some(root)) = (&spec.disk, cache::disk::directory()) {
                let limits = cache::disk::Limits {
                    queue: limit("cache_disk_queue"),
                    reads: limit("cache_disk_reads"),
                    failed: limit("cache_disk_failed"),
                };
                store.onto_disk(root, &id_of(store.name(), &spec), disk.max_bytes, limits);
            }
            store
        });
        let shared = Shared {
            rules,
            key,
            store,
            flights: Flights::new(spec.coalesce_most as usize),
            coalesce_timeout: time(spec.coalesce_timeout),
            entry_most: spec.max_entry_bytes as usize,
            is_surrogate: spec.targeted_fields.iter().any(|field| field.eq_ignore_ascii_case("Surrogate-Control")),
            waited: limit("cache_wait"),
            waiting: limit("cache_waiting"),
            refreshing: limit("cache_refreshes"),
            spec,
        };
        Cache { shared: Arc::new(shared) }
    }
}

/// The fields that decide what may be kept and for how long: what was kept under others is not what these would keep.
fn rules_of_keeping(spec: &CacheSpec) -> CacheSpec {
    CacheSpec {
        max_entry_bytes: 0,
        coalesce_timeout: GoDuration::from_secs(0),
        coalesce_most: 0,
        cache_status: false,
        obey_clients: false,
        ..spec.clone()
    }
}

/// A name for the files of a cache, the same for as long as it keeps the same answers.
fn id_of(name: &str, spec: &CacheSpec) -> String {
    let mut digest = digest::Context::new(&digest::SHA256);
    digest.update(name.as_bytes());
    digest.update(&serde_json::to_vec(&rules_of_keeping(spec)).unwrap_or_default());
    crate::form::hex(&digest.finish().as_ref()[..16])
}

impl Shared {
    fn rules_of_keeping(&self) -> CacheSpec {
        rules_of_keeping(&self.spec)
    }

    fn dealt(&self, result: CacheResult) {
        self.store.stats().dealt(base_runtime::worker_index(), result);
    }

    async fn handle(self: Arc<Shared>, exchange: &mut Exchange, rest: Rest) -> Enclosed {
        let space = exchange.space_ref();
        let request = &space.request;
        if invalidate::is_unsafe(&request.method) {
            return self.pass_and_invalidate(exchange, rest).await;
        }
        let is_read = matches!(request.method, Method::Get | Method::Head);
        let bare = space.request_body.length() == Some(0) && !exchange.upgrade_offered;
        if !is_read || !bare || is_disguised(&request.headers) || conditional::is_for_the_origin(&request.headers) {
            return self.pass(exchange, rest).await;
        }
        let asked =
            if self.spec.obey_clients { RequestControl::of(&request.headers) } else { RequestControl::default() };
        let key = self.key_of(exchange);
        let mut found = self.store.find(&key, &request.headers);
        if !matches!(found, Found::This(_))
            && let Some(stored) = self.store.find_on_disk(&key, &request.headers).await
        {
            found = Found::This(stored);
        }
        let now = base_runtime::now();
        let (found, why, hash) = match found {
            Found::This(stored) => match use_of(&stored.kept, &asked, now) {
                how @ (Use::Fresh | Use::Stale | Use::WhileFetching) => {
                    if how == Use::WhileFetching {
                        fetch::refresh(&self, &key, &stored, exchange, &rest);
                    }
                    let result = if how == Use::Fresh { CacheResult::Hit } else { CacheResult::Stale };
                    self.dealt(result);
                    self.answer(exchange, &stored, CacheStatus { hit: true, ..CacheStatus::default() }, now);
                    exchange.tags.note_own(|| format!("cache: {}", result.text()));
                    return Enclosed::Alone(HIT);
                }
                Use::AfterValidation => {
                    let is_fresh = stored.kept.freshness.is_fresh(now);
                    (Some(stored), if is_fresh { Forward::Request } else { Forward::Stale }, key.hash())
                }
            },
            Found::Others(other) => {
                (None, Forward::VaryMiss, self.store.hash_of_variant(&key, &other, &request.headers))
            }
            Found::Nothing => (None, Forward::UriMiss, key.hash()),
        };
        if asked.only_if_cached {
            self.dealt(CacheResult::Bypass);
            exchange.refuse(504);
            self.say(exchange, CacheStatus { forward: Some(why), ..CacheStatus::default() });
            return Enclosed::Alone(NOT_CACHED);
        }
        let patient = !asked.no_cache && !asked.no_store && asked.max_age.is_none();
        Fetch { shared: self, key, hash, found, why: Why { forward: why, asked }, patient }.run(exchange, rest).await
    }

    /// For requests that a cache has nothing to do with.
    async fn pass(&self, exchange: &mut Exchange, rest: Rest) -> Enclosed {
        self.dealt(CacheResult::Bypass);
        let ended = rest.run(exchange).await;
        self.say(exchange, CacheStatus { forward: Some(Forward::Bypass), ..CacheStatus::default() });
        Enclosed::Walked { ended }
    }

    /// For requests that may change something: what is kept of it is doubtful when they have.
    async fn pass_and_invalidate(&self, exchange: &mut Exchange, rest: Rest) -> Enclosed {
        self.dealt(CacheResult::Bypass);
        let (own, request) = (self.url_of(exchange), exchange.request().clone());
        let ended = rest.run(exchange).await;
        if let Some(response) =
            exchange.space_ref().response.as_ref().filter(|response| invalidate::has_done_it(response))
        {
            let mut urls = vec![own];
            for target in invalidate::others(&request, exchange.client.scheme, response) {
                let mut other = request.clone();
                if other.set_target(&target).is_ok() {
                    let mut url = Vec::new();
                    push_key(&other, exchange.client.scheme, &self.key, &mut url);
                    url.truncate(proto_cache::key::url_of(&url).len());
                    urls.push(url);
                }
            }
            for url in urls {
                self.store.purge(&cache::Purge::Url(url));
            }
        }
        self.say(exchange, CacheStatus { forward: Some(Forward::Method), ..CacheStatus::default() });
        Enclosed::Walked { ended }
    }

    fn key_of(&self, exchange: &Exchange) -> CacheKey {
        let mut text = Vec::with_capacity(128);
        push_key(exchange.request(), exchange.client.scheme, &self.key, &mut text);
        self.store.key(text)
    }

    fn url_of(&self, exchange: &Exchange) -> Vec<u8> {
        let key = self.key_of(exchange);
        proto_cache::key::url_of(key.text()).to_vec()
    }

    /// Answers with what is kept; what earlier stations have set for the client is part of the answer, too.
    fn answer(&self, exchange: &mut Exchange, stored: &Stored, status: CacheStatus, now: Instant) {
        let (response, body) = serve::fitting(stored, exchange.request(), now);
        let earlier = exchange.space().response.take();
        exchange.respond(response, body);
        if let (Some(earlier), Some(response)) = (earlier, exchange.response_mut()) {
            crate::proxy::merge(response, &earlier);
        }
        let freshness = &stored.kept.freshness;
        let left = freshness.left(now).as_secs() as i64 - freshness.staleness(now).as_secs() as i64;
        self.say(exchange, CacheStatus { ttl: Some(left), ..status });
    }

    /// Adds the member of this cache to Cache-Status, where the document wants one.
    fn say(&self, exchange: &mut Exchange, status: CacheStatus) {
        if !self.spec.cache_status {
            return;
        }
        if let Some(response) = exchange.response_mut() {
            response.headers.add("Cache-Status", status.text(SURROGATE));
        }
    }
}

impl Filter for Cache {
    fn is_repeatable(&self) -> bool {
        true
    }

    fn handle<'a>(&'a self, _: &'a mut Exchange) -> Step<'a> {
        Step::Done(SUCCESS)
    }

    fn encloses(&self) -> bool {
        true
    }

    fn enclose<'a>(&'a self, exchange: &'a mut Exchange, rest: Rest) -> Boxed<'a, Enclosed> {
        Boxed::new(self.shared.clone().handle(exchange, rest))
    }

    fn touches(&self) -> Touches {
        Touches::REQUEST_HEAD.and(Touches::RESPONSE)
    }

    fn status(&self) -> Option<Value> {
        Some(self.shared.store.stats().status_json())
    }
}

use super::shard::LOOKED_AT;
use super::*;
use base_telemetry::{Identity, Telemetry};
use proto_cache::{Times, keep_for};
use proto_http::{Request, Response};
use std::time::{Duration, Instant};

fn store(bytes: usize) -> Arc<Store> {
    let telemetry = Telemetry::new(Identity::default(), 1);
    let stats = telemetry.cache("p/c", &REASONS);
    Store::new("p/c".to_owned(), bytes, 1_000, stats, telemetry.limits().register("cache_memory"))
}

fn kept(asked: &[(&str, &str)], fields: &[(&str, &str)]) -> (Request, Kept) {
    let (mut request, mut response) = (Request::default(), Response::default());
    asked.iter().for_each(|(name, value)| request.headers.add(name, value));
    fields.iter().for_each(|(name, value)| response.headers.add(name, value));
    let now = Instant::now();
    let times = Times { asked: now, received: now, unix_seconds: 0 };
    let kept = keep_for(Duration::from_secs(60), &request, &response, &times).unwrap();
    (request, kept)
}

fn put(store: &Store, key: &str, body: Vec<u8>) {
    let (request, kept) = kept(&[], &[]);
    store.keep(&store.key(key.into()), &request.headers, Stored::new(kept, body.into()), store.ticket());
}

fn body_of(store: &Store, key: &str) -> Option<Bytes> {
    match store.find(&store.key(key.into()), &Headers::new()) {
        Found::This(stored) => Some(stored.body.clone()),
        _ => None,
    }
}

fn held(store: &Store) -> (usize, usize) {
    let sums = store.shards.iter().map(|shard| shard.read().unwrap().sums());
    sums.fold((0, 0), |(bytes, entries), sums| (bytes + sums.bytes, entries + sums.entries))
}

#[test]
fn what_is_kept_is_found_and_never_more_than_there_is_room_for() {
    let store = store(100_000);
    for n in 0..10_000u32 {
        put(&store, &format!("http://h/{}", n * 7919 % 3000), n.to_le_bytes().to_vec());
        let (bytes, entries) = held(&store);
        assert!(bytes <= 100_000, "{bytes} bytes in {entries} entries");
    }
    let (bytes, entries) = held(&store);
    assert_eq!(store.stats.bytes.load(Relaxed), bytes as u64);
    assert_eq!(store.stats.entries.load(Relaxed), entries as u64);
    assert!(entries > 50, "{entries}");
    assert_eq!(body_of(&store, "http://h/x"), None);
    put(&store, "http://h/x", vec![1]);
    put(&store, "http://h/x", vec![2]);
    assert_eq!(body_of(&store, "http://h/x").as_deref(), Some(&[2][..]));
    // Too large for any part.
    put(&store, "http://h/y", vec![0; 200_000]);
    assert_eq!(body_of(&store, "http://h/y"), None);
    let before = HELD.load(Relaxed);
    drop(store);
    assert!(HELD.load(Relaxed) <= before - bytes / 2);
}

#[test]
fn who_comes_once_does_not_drive_out_who_comes_often() {
    let store = store(200_000);
    let hot: Vec<String> = (0..50).map(|n| format!("http://h/hot/{n}")).collect();
    let mut hits = 0;
    for n in 0..20_000u32 {
        put(&store, &format!("http://h/once/{n}"), vec![0; 100]);
        if n % 4 == 0 {
            let key = &hot[(n / 4) as usize % hot.len()];
            match body_of(&store, key) {
                Some(_) => hits += 1,
                None => put(&store, key, vec![0; 100]),
            }
        }
    }
    // With LRU nobody would be found again: 200 others come between two visits, and there is room for fewer.
    assert!(hits > 4_000, "{hits} of 5000");
}

#[test]
fn a_key_keeps_one_answer_for_each_kind_of_request() {
    let store = store(1_000_000);
    let key = store.key(b"http://h/a".to_vec());
    for language in ["de", "en"] {
        let (request, kept) = kept(&[("Accept-Language", language)], &[("Vary", "Accept-Language")]);
        let stored = Stored::new(kept, Bytes::copy_from_slice(language.as_bytes()));
        store.keep(&key, &request.headers, stored, store.ticket());
    }
    let find = |language: &str| {
        let mut headers = Headers::new();
        headers.add("Accept-Language", language);
        store.find(&key, &headers)
    };
    assert!(matches!(find("de"), Found::This(stored) if &stored.body[..] == b"de"));
    assert!(matches!(find("en"), Found::This(stored) if &stored.body[..] == b"en"));
    assert!(matches!(find("fr"), Found::Others(_)));
    // As many kinds as anybody likes, and no more are kept than may be.
    for n in 0..100 {
        let (request, kept) = kept(&[("Accept-Language", &n.to_string())], &[("Vary", "Accept-Language")]);
        store.keep(&key, &request.headers, Stored::new(kept, Bytes::new()), store.ticket());
    }
    assert!(matches!(find("de"), Found::Others(_)) && matches!(find("99"), Found::This(_)));
    assert_eq!(held(&store).1, 1);
    assert_eq!(store.purge(&Purge::Url(b"http://h/a".to_vec())), 1);
    assert_eq!(held(&store), (0, 0));
}

#[test]
fn purges_take_what_they_name_and_what_is_on_its_way() {
    let store = store(64 * 1024 * 1024);
    for n in 0..100 {
        let (request, kept) = kept(&[], &[("Cache-Tag", if n % 2 == 0 { "even" } else { "odd" })]);
        let key = store.key(format!("http://h/{n}").into_bytes());
        store.keep(&key, &request.headers, Stored::new(kept, Bytes::new()), store.ticket());
    }
    let late = store.ticket();
    assert_eq!(store.purge(&Purge::Tag("even".into())), 50);
    assert_eq!(store.purge(&Purge::Prefix(b"http://h/1".to_vec())), 1 + 5);
    assert_eq!(store.purge(&Purge::Url(b"http://h/3".to_vec())), 1);
    assert_eq!(store.purge(&Purge::Url(b"http://h/3".to_vec())), 0);
    let (request, again) = kept(&[], &[]);
    let key = store.key(b"http://h/3".to_vec());
    assert!(store.keep(&key, &request.headers, Stored::new(again.clone(), Bytes::new()), late).is_none());
    assert!(store.keep(&key, &request.headers, Stored::new(again.clone(), Bytes::new()), store.ticket()).is_some());
    // A key with further lines is of the same URL.
    let lined = store.key(b"http://h/3\nx-host:a".to_vec());
    store.keep(&lined, &request.headers, Stored::new(again, Bytes::new()), store.ticket());
    assert_eq!(store.purge(&Purge::Url(b"http://h/3".to_vec())), 2);
    assert_eq!(purge_all(Some("p/other"), &Purge::All), 0);
    assert_eq!(store.purge(&Purge::All), 43);
    assert_eq!((store.stats.purged.load(Relaxed), held(&store)), (102, (0, 0)));
}

/// Whoever is served from the same part waits as long as a purge looks at it.
#[test]
fn a_purge_of_a_tag_lets_others_in_between() {
    let store = store(8 * 1024 * 1024);
    let many = 3 * LOOKED_AT + 7;
    for n in 0..many {
        let (request, kept) = kept(&[], &[("Cache-Tag", if n % 2 == 0 { "even" } else { "odd" })]);
        store.keep(
            &store.key(format!("http://h/{n}").into_bytes()),
            &request.headers,
            Stored::new(kept, Bytes::new()),
            store.ticket(),
        );
    }
    assert_eq!(held(&store).1, many);
    let (mut looked_at, mut turns, mut next) = (0, 0, Some(0));
    while let Some(from) = next {
        let before = looked_at;
        let mut look = |_: &[u8], _: &Stored| {
            looked_at += 1;
            false
        };
        next = store.shards[0].write().unwrap().remove_some(from, &mut look).1;
        assert!(looked_at - before <= LOOKED_AT);
        turns += 1;
    }
    assert_eq!((looked_at, turns), (many, 4), "each of them once");
    // Somebody who looks meanwhile finds some of them gone and others there.
    let is_purging = AtomicBool::new(false);
    let purge = |tag: &str| {
        is_purging.store(true, Relaxed);
        let gone = store.purge(&Purge::Tag(tag.into()));
        is_purging.store(false, Relaxed);
        gone
    };
    let began = Instant::now();
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            while began.elapsed() < Duration::from_secs(60) {
                let before = is_purging.load(Relaxed);
                let there = held(&store).1;
                if before && is_purging.load(Relaxed) && there < many && there > many / 2 {
                    return true;
                }
            }
            false
        });
        while !watch.is_finished() {
            assert_eq!(purge("even"), many.div_ceil(2));
            for n in (0..many).step_by(2) {
                let (request, kept) = kept(&[], &[("Cache-Tag", "even")]);
                let key = store.key(format!("http://h/{n}").into_bytes());
                store.keep(&key, &request.headers, Stored::new(kept, Bytes::new()), store.ticket());
            }
        }
        assert!(watch.join().unwrap(), "a purge holds the lock from its beginning to its end");
    });
    assert_eq!(store.purge(&Purge::Tag("even".into())), many.div_ceil(2));
    assert_eq!(store.purge(&Purge::All), many / 2);
    assert_eq!(held(&store), (0, 0));
}

/// Every write through a Cache purges its URL: what that costs must not grow with what is kept of others.
#[test]
fn a_purge_of_a_url_looks_at_that_url_alone() {
    let store = store(64 * 1024 * 1024);
    let put_lined = |url: &str, lines: &str| put(&store, &format!("{url}\n{lines}"), vec![1]);
    for n in 0..1000 {
        put_lined(&format!("http://h/{n}"), "GET");
        put_lined(&format!("http://h/{n}"), "HEAD");
        put(&store, &format!("http://h/{n}"), vec![2]);
    }
    let (_, entries) = held(&store);
    assert_eq!(entries, 3000);
    let lined = |url: &str| {
        let key = store.key(url.into());
        let shard = store.shard(&key).read().unwrap();
        shard.lined_of(&key)
    };
    assert_eq!(lined("http://h/7"), 2, "and not the others of its part");
    assert_eq!(store.purge(&Purge::Url(b"http://h/7".to_vec())), 3);
    assert_eq!(lined("http://h/7"), 0);
    assert_eq!((body_of(&store, "http://h/7\nGET"), body_of(&store, "http://h/7")), (None, None));
    assert_eq!(body_of(&store, "http://h/8\nHEAD").as_deref(), Some(&[1][..]));
    assert_eq!(held(&store).1, 2997);
    // What makes room is forgotten there, too.
    let small = super::tests::store(100_000);
    (0..5000).for_each(|n| put(&small, &format!("http://h/{n}\nGET"), vec![0; 100]));
    let shards = small.shards.iter().map(|shard| shard.read().unwrap().lined_in_all());
    assert_eq!(shards.sum::<usize>(), held(&small).1);
}

#[test]
fn what_is_replaced_a_thousand_times_leaves_nothing_behind() {
    let store = store(1_000_000);
    for n in 0..10_000u32 {
        put(&store, "http://h/a", n.to_le_bytes().to_vec());
        put(&store, &format!("http://h/{n}"), Vec::new());
        store.purge(&Purge::Url(format!("http://h/{n}").into_bytes()));
    }
    let shard = store.shards[0].read().unwrap();
    assert!(shard.queued() < 200, "{} places for one entry", shard.queued());
}

use super::super::{Purge, REASONS, Store, Stored};
use super::*;
use base_telemetry::{Identity, Telemetry};
use bytes::Bytes;
use proto_cache::{Times, keep_for};
use proto_http::{Request, Response};
use std::fs;

const MIB: u64 = 1024 * 1024;

/// Names of logs.
const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn store(root: &Path, id: &str, memory: usize, bytes: u64) -> (Arc<Store>, Arc<Telemetry>) {
    let telemetry = Telemetry::new(Identity::default(), 1);
    let limit = |name| telemetry.limits().register(name);
    let stats = telemetry.cache("p/c", &REASONS);
    let store = Store::new(name(root, id), memory, 1_000, stats, limit("cache_memory"));
    let limits = Limits {
        queue: limit("cache_disk_queue"),
        reads: limit("cache_disk_reads"),
        failed: limit("cache_disk_failed"),
    };
    store.onto_disk(root, id, bytes, limits);
    (store, telemetry)
}

/// Another store of this name takes the place of one: those of other tests do not.
fn name(root: &Path, id: &str) -> String {
    format!("{}/{id}", root.display())
}

fn tier(store: &Store) -> &Arc<Tier> {
    store.disk.get().unwrap()
}

fn put(store: &Store, key: &str, body: &[u8], fields: &[(&str, &str)]) -> Arc<Stored> {
    let mut response = Response::default();
    fields.iter().for_each(|(name, value)| response.headers.add(name, value));
    let now = Instant::now();
    let times = Times { asked: now, received: now, unix_seconds: 0 };
    let kept = keep_for(Duration::from_secs(60), &Request::default(), &response, &times).unwrap();
    let stored = Stored::new(kept, Bytes::copy_from_slice(body));
    store.keep(&store.key(key.into()), &Headers::new(), stored, store.ticket()).expect("it is kept")
}

/// What the disk has for a key.
fn on_disk(store: &Store, key: &str) -> Option<Arc<Stored>> {
    tier(store).settle();
    tier(store).ask(&store.key(key.into()), &Headers::new(), store.ticket())?.blocking_recv().ok()
}

fn bytes_of(root: &Path) -> u64 {
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_of(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    fs::read_dir(root).unwrap().flatten().map(size).sum()
}

fn logs(root: &Path, id: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(root.join(id)).unwrap().flatten().map(|entry| entry.path());
    let mut logs: Vec<PathBuf> = all.filter(|path| path.extension().is_some_and(|kind| kind == "log")).collect();
    logs.sort();
    logs
}

#[test]
fn what_memory_lets_go_of_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _telemetry) = store(folder.path(), A, 100_000, 64 * MIB);
    for n in 0..1000 {
        put(&store, &format!("http://h/{n}"), &vec![n as u8; 1000], &[("ETag", "\"1\"")]);
    }
    let in_memory = store.stats.entries.load(Relaxed);
    assert!(in_memory < 200, "{in_memory}");
    for n in 0..1000 {
        let found = on_disk(&store, &format!("http://h/{n}")).expect("it is there");
        assert_eq!((&found.body[..], found.kept.no_cache), (&vec![n as u8; 1000][..], false), "{n}");
        assert_eq!(found.kept.headers.value("ETag"), Some(&b"\"1\""[..]));
    }
    assert!(on_disk(&store, "http://h/1000").is_none());
    // It stands in memory again.
    assert!(matches!(store.find(&store.key("http://h/999".into()), &Headers::new()), super::super::Found::This(_)));
    let disk = tier(&store).disk();
    assert_eq!((disk.written.load(Relaxed), disk.entries.load(Relaxed)), (1000, 1000));
}

#[test]
fn files_take_no_more_than_they_may_and_the_oldest_go() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _telemetry) = store(folder.path(), A, 8 * MIB as usize, 4 * MIB);
    for n in 0..300 {
        put(&store, &format!("http://h/{n}"), &[1; 50_000], &[]);
        if n % 50 == 0 {
            tier(&store).settle();
            assert!(bytes_of(folder.path()) <= 4 * MIB);
        }
    }
    tier(&store).settle();
    let (bytes, disk) = (bytes_of(folder.path()), tier(&store).disk());
    assert!((2 * MIB..=4 * MIB).contains(&bytes), "{bytes}");
    assert_eq!(disk.bytes.load(Relaxed), bytes);
    let entries = disk.entries.load(Relaxed);
    assert!((50..=80).contains(&entries), "{entries}");
    assert!(on_disk(&store, "http://h/0").is_none() && on_disk(&store, "http://h/299").is_some());
    // Larger than a file may be: in memory alone.
    put(&store, "http://h/large", &vec![1; 300_000], &[]);
    assert!(on_disk(&store, "http://h/large").is_none());
    // Without memory for it, the places of the oldest file are forgotten.
    tier(&store).relieve();
    tier(&store).settle();
    assert!(disk.entries.load(Relaxed) < entries);
}

#[test]
fn purges_reach_the_disk_and_what_is_being_read() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _telemetry) = store(folder.path(), A, 100_000, 64 * MIB);
    for n in 0..500 {
        put(&store, &format!("http://h/{n}"), &[1; 1000], &[("Cache-Tag", if n % 2 == 0 { "even" } else { "odd" })]);
    }
    tier(&store).settle();
    assert_eq!(store.purge(&Purge::Tag("even".into())), 250);
    assert_eq!(store.purge(&Purge::Prefix(b"http://h/1".to_vec())), 1 + 5 + 50);
    assert_eq!(store.purge(&Purge::Url(b"http://h/3".to_vec())), 1);
    for (key, is_there) in [("0", false), ("1", false), ("199", false), ("3", false), ("5", true), ("299", true)] {
        assert_eq!(on_disk(&store, &format!("http://h/{key}")).is_some(), is_there, "{key}");
    }
    // It was found before the purge, and has been read since.
    let (early, found) = (store.ticket(), on_disk(&store, "http://h/5").unwrap());
    let again = Stored::new(found.kept.clone(), found.body.clone());
    assert_eq!(store.purge(&Purge::All), 500 - 250 - 56 - 1);
    assert!(store.admit(&store.key("http://h/5".into()), again, early).is_none());
    assert!(on_disk(&store, "http://h/299").is_none());
    // It was on its way to the disk.
    let ticket = store.ticket();
    let key = store.key("http://h/late".into());
    let late = put(&store, "http://h/late", &[1], &[]);
    tier(&store).settle();
    assert_eq!(store.purge(&Purge::All), 1);
    tier(&store).write(key, &late, ticket);
    assert!(on_disk(&store, "http://h/late").is_none());
    assert_eq!(tier(&store).disk().entries.load(Relaxed), 0);
}

#[test]
fn what_is_older_is_given_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _telemetry) = store(folder.path(), A, 100_000, 64 * MIB);
    let push_out = || (0..500).for_each(|n| drop(put(&store, &format!("http://h/other/{n}"), &[0; 1000], &[])));
    put(&store, "http://h/a", b"one", &[]);
    put(&store, "http://h/a", b"two", &[]);
    let gone = put(&store, "http://h/gone", b"one", &[]);
    // The origin says that it is kept no more: whether it is written already or not.
    store.replace(&store.key("http://h/gone".into()), &gone, None);
    push_out();
    assert_eq!(on_disk(&store, "http://h/a").map(|found| found.body.clone()).as_deref(), Some(&b"two"[..]));
    assert!(on_disk(&store, "http://h/gone").is_none());
    let written = put(&store, "http://h/written", b"one", &[]);
    tier(&store).settle();
    store.replace(&store.key("http://h/written".into()), &written, None);
    assert!(on_disk(&store, "http://h/written").is_none());
}

#[test]
fn nothing_that_is_damaged_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _telemetry) = store(folder.path(), A, 100_000, 64 * MIB);
    for n in 0..300 {
        put(&store, &format!("http://h/{n}"), &[7; 1000], &[]);
    }
    tier(&store).settle();
    let path = logs(folder.path(), A).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    let half = bytes.len() / 2;
    // A bit in each of those in the first half, and nothing at all of those in the second.
    bytes[..half].iter_mut().step_by(500).for_each(|byte| *byte ^= 1);
    fs::write(&path, &bytes[..half]).unwrap();
    for n in 0..300 {
        if let Some(found) = on_disk(&store, &format!("http://h/{n}")) {
            assert_eq!(&found.body[..], &[7; 1000], "{n}");
            assert!(found.kept.headers.is_empty());
        }
    }
    assert!(tier(&store).disk().damaged.load(Relaxed) > 250);
}

#[test]
fn after_a_start_it_is_there_and_counts_once_the_origin_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let (first, _telemetry) = store(root, A, 100_000, 64 * MIB);
    put(&first, "http://h/a", b"one", &[("ETag", "\"1\"")]);
    put(&first, "http://h/a", b"two", &[("ETag", "\"2\"")]);
    put(&first, "http://h/bare", b"one", &[]);
    put(&first, "http://h/torn", &[1; 1000], &[("ETag", "\"1\"")]);
    tier(&first).settle();
    // While one process takes over from another both are there.
    let (beside, _telemetry) = store(root, A, 100_000, 64 * MIB);
    assert!(on_disk(&beside, "http://h/a").is_none());
    put(&beside, "http://h/b", b"one", &[]);
    assert!(on_disk(&beside, "http://h/b").is_some());
    // As if they had been two processes, and one of them ends in the middle of a write.
    tier(&first).is_replaced.store(false, Relaxed);
    drop((first, beside));
    super::threads::settle();
    let path = logs(root, A).remove(0);
    let length = fs::metadata(&path).unwrap().len();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 10).unwrap();
    let (second, _telemetry) = store(root, A, 100_000, 64 * MIB);
    let found = on_disk(&second, "http://h/a").expect("it is there");
    assert_eq!((&found.body[..], found.kept.no_cache), (&b"two"[..], true), "the origin is asked first");
    assert!(on_disk(&second, "http://h/bare").is_none(), "the origin cannot be asked");
    assert!(on_disk(&second, "http://h/torn").is_none());
    // What it writes goes behind that, and is there as before.
    put(&second, "http://h/new", b"new", &[]);
    assert_eq!(on_disk(&second, "http://h/new").map(|found| found.kept.no_cache), Some(false));
    assert_eq!(logs(root, A).len(), 1, "a start begins no file");
    drop(second);
    super::threads::settle();
    // The same name, and other rules: nothing of the old ones.
    let (third, _telemetry) = store(root, B, 100_000, 64 * MIB);
    assert!(on_disk(&third, "http://h/a").is_none());
    let left: Vec<String> =
        fs::read_dir(root).unwrap().flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    assert!(left.iter().all(|name| !name.contains('-')), "{left:?}");
}

#[test]
fn one_that_takes_the_place_of_another_leaves_none_of_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let (first, _telemetry) = store(folder.path(), A, 100_000, 64 * MIB);
    put(&first, "http://h/a", b"one", &[]);
    tier(&first).settle();
    let limits = || {
        let telemetry = Telemetry::new(Identity::default(), 1);
        let limit = |name| telemetry.limits().register(name);
        Limits { queue: limit("a"), reads: limit("b"), failed: limit("c") }
    };
    let telemetry = Telemetry::new(Identity::default(), 1);
    let stats = telemetry.cache("p/c", &REASONS);
    let second = Store::new(name(folder.path(), A), 100_000, 1_000, stats, telemetry.limits().register("d"));
    second.onto_disk(folder.path(), B, 64 * MIB, limits());
    drop(first);
    super::threads::settle();
    super::threads::settle();
    assert!(!folder.path().join(A).exists() && folder.path().join(B).exists());
}

#[test]
fn a_slow_or_failing_disk_holds_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let (store_, telemetry) = store(folder.path(), A, 512 * MIB as usize, 1024 * MIB);
    tier(&store_).settle();
    let (go, waits) = std::sync::mpsc::channel::<()>();
    super::threads::write(move || waits.recv().unwrap());
    for n in 0..100 {
        put(&store_, &format!("http://h/{n}"), &vec![0; MIB as usize], &[]);
    }
    let waiting = tier(&store_).pending.load(Relaxed);
    assert!(waiting <= PENDING_MOST, "{waiting}");
    let hits = |telemetry: &Telemetry, name: &'static str| telemetry.limits().register(name).total();
    assert!(hits(&telemetry, "cache_disk_queue") > 30);
    go.send(()).unwrap();
    tier(&store_).settle();
    assert_eq!(tier(&store_).pending.load(Relaxed), 0);
    // Where a directory should be there is a file.
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let (store, telemetry) = store(&file, A, 100_000, 64 * MIB);
    tier(&store).settle();
    assert_eq!(hits(&telemetry, "cache_disk_failed"), 1);
    put(&store, "http://h/a", b"one", &[]);
    assert!(on_disk(&store, "http://h/a").is_none());
    assert!(matches!(store.find(&store.key("http://h/a".into()), &Headers::new()), super::super::Found::This(_)));
}

/// Ends a store as its process would.
fn end(store: Arc<Store>) {
    tier(&store).settle();
    // Who has read for somebody lets go a little later than that one has it, and the directory is locked until then.
    let end = Instant::now() + Duration::from_secs(10);
    while Arc::strong_count(tier(&store)) > 1 && Instant::now() < end {
        std::thread::yield_now();
    }
    drop(store);
    super::threads::settle();
}

#[test]
fn what_was_purged_does_not_come_back_after_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let fields = |tag: &'static str| [("ETag", "\"1\""), ("Cache-Tag", tag)];
    let (first, _telemetry) = store(root, A, 100_000, 64 * MIB);
    for (n, tag) in [(0, "a"), (1, "a"), (2, "b"), (3, "b"), (4, "b")] {
        put(&first, &format!("http://h/{n}/x"), b"old", &fields(tag));
    }
    tier(&first).settle();
    first.purge(&Purge::Url(b"http://h/0/x".to_vec()));
    first.purge(&Purge::Tag("b".into()));
    first.purge(&Purge::Prefix(b"http://h/1/".to_vec()));
    // Kept anew after that.
    put(&first, "http://h/4/x", b"new", &fields("b"));
    // Purged while it was on its way.
    let ticket = first.ticket();
    let late = put(&first, "http://h/late", b"old", &fields("c"));
    tier(&first).settle();
    first.purge(&Purge::Tag("c".into()));
    tier(&first).write(first.key(b"http://h/late".to_vec()), &late, ticket);
    end(first);
    let (second, _telemetry) = store(root, A, 100_000, 64 * MIB);
    for n in 0..4 {
        assert!(on_disk(&second, &format!("http://h/{n}/x")).is_none(), "{n}");
    }
    assert!(on_disk(&second, "http://h/late").is_none());
    assert_eq!(on_disk(&second, "http://h/4/x").map(|found| found.body.clone()).as_deref(), Some(&b"new"[..]));
    end(second);
    // A purge comes while a process that starts still looks at what is there.
    let (go, waits) = std::sync::mpsc::channel::<()>();
    super::threads::write(move || waits.recv().unwrap());
    let (third, _telemetry) = store(root, A, 100_000, 64 * MIB);
    third.purge(&Purge::All);
    go.send(()).unwrap();
    assert!(on_disk(&third, "http://h/4/x").is_none());
    end(third);
    let (fourth, _telemetry) = store(root, A, 100_000, 64 * MIB);
    assert!(on_disk(&fourth, "http://h/4/x").is_none());
}

#[test]
fn what_the_origin_has_called_valid_after_a_start_counts_as_if_it_had_come_since() {
    let folder = tempfile::tempdir().unwrap();
    let (first, _telemetry) = store(folder.path(), A, 100_000, 64 * MIB);
    put(&first, "http://h/a", b"one", &[("ETag", "\"1\"")]);
    end(first);
    let (second, _telemetry) = store(folder.path(), A, 100_000, 64 * MIB);
    let old = on_disk(&second, "http://h/a").unwrap();
    assert!(old.kept.no_cache);
    let mut kept = old.kept.clone();
    kept.no_cache = false;
    let key = second.key(b"http://h/a".to_vec());
    assert!(second.replace(&key, &old, Some(Stored::new(kept, old.body.clone()))).is_some());
    (0..500).for_each(|n| drop(put(&second, &format!("http://h/other/{n}"), &[0; 1000], &[])));
    assert!(matches!(second.find(&key, &Headers::new()), super::super::Found::Nothing));
    assert_eq!(on_disk(&second, "http://h/a").map(|found| found.kept.no_cache), Some(false));
}

#[test]
fn what_is_not_ours_is_left_alone_and_hinders_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let (first, _telemetry) = store(root, A, 100_000, 64 * MIB);
    put(&first, "http://h/a", b"one", &[("ETag", "\"1\"")]);
    end(first);
    let elsewhere = root.join("elsewhere");
    fs::write(&elsewhere, "precious").unwrap();
    fs::create_dir_all(root.join("not-ours/1.log")).unwrap();
    let own = root.join(A);
    fs::create_dir(own.join("3.log")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, own.join("4.log")).unwrap();
    fs::write(own.join("5.log"), "garbage").unwrap();
    for name in ["18446744073709551615.log", "18446744073709551614.log", "007.log", "+8.log", "x.log", "notes.txt"] {
        fs::write(own.join(name), "precious").unwrap();
    }
    let (second, _telemetry) = store(root, A, 100_000, 64 * MIB);
    assert_eq!(on_disk(&second, "http://h/a").map(|found| found.body.clone()).as_deref(), Some(&b"one"[..]));
    put(&second, "http://h/b", b"two", &[("ETag", "\"1\"")]);
    assert!(on_disk(&second, "http://h/b").is_some());
    assert_eq!(tier(&second).disk().damaged.load(Relaxed), 0);
    end(second);
    // One that is long enough to be something: a purge may have been in it, and it is left as it is.
    fs::write(own.join("6.log"), [0; 100_000]).unwrap();
    let (third, _telemetry) = store(root, A, 100_000, 64 * MIB);
    assert!(on_disk(&third, "http://h/a").is_none());
    put(&third, "http://h/c", b"three", &[]);
    assert!(on_disk(&third, "http://h/c").is_some());
    assert_eq!(tier(&third).disk().damaged.load(Relaxed), 1);
    assert_eq!(fs::read(own.join("6.log")).unwrap(), [0; 100_000]);
    end(third);
    super::log::sweep(root, |_| true);
    assert!(!own.exists() && root.join("not-ours/1.log").exists());
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "precious");
}

#[test]
fn a_disk_that_was_not_there_is_used_once_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::write(&root, "a file where a directory should be").unwrap();
    let (store, _telemetry) = store(&root, A, 16 * MIB as usize, 64 * MIB);
    put(&store, "http://h/a", b"one", &[]);
    assert!(on_disk(&store, "http://h/a").is_none());
    fs::remove_file(&root).unwrap();
    tier(&store).state().resting_until = Some(Instant::now());
    put(&store, "http://h/b", b"two", &[]);
    assert!(on_disk(&store, "http://h/b").is_some());
    // Somebody removes all of it: what is read stays readable, and there is a place for what comes.
    fs::remove_dir_all(&root).unwrap();
    let entry = vec![1; 150_000];
    for n in 0..40 {
        put(&store, &format!("http://h/{n}"), &entry, &[]);
    }
    assert!(on_disk(&store, "http://h/b").is_some());
    assert!(logs(&root, A).len() == 1, "it goes on in a new file");
}

#[test]
fn sums_of_two_of_the_same_name_are_those_of_both() {
    let folder = tempfile::tempdir().unwrap();
    let (first, telemetry) = store(folder.path(), A, 100_000, 64 * MIB);
    put(&first, "http://h/a", b"one", &[]);
    put(&first, "http://h/b", b"one", &[]);
    tier(&first).settle();
    let limit = |name| telemetry.limits().register(name);
    let limits = Limits { queue: limit("a"), reads: limit("b"), failed: limit("c") };
    let second = Store::new(name(folder.path(), A), 100_000, 1_000, first.stats.clone(), limit("d"));
    second.onto_disk(folder.path(), B, 64 * MIB, limits);
    put(&second, "http://h/a", b"one", &[]);
    tier(&second).settle();
    let disk = |store: &Store| (tier(store).disk().entries.load(Relaxed), tier(store).disk().bytes.load(Relaxed));
    let (entries, bytes) = disk(&second);
    assert_eq!(entries, 3);
    end(first);
    assert_eq!((disk(&second).0, disk(&second).1), (1, bytes / 3));
}

#[test]
fn a_purge_while_there_is_no_log_holds_when_there_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let (first, _telemetry) = store(root, A, 100_000, 64 * MIB);
    put(&first, "http://h/a", b"one", &[("ETag", "\"1\"")]);
    put(&first, "http://h/b", b"one", &[("ETag", "\"1\"")]);
    end(first);
    // The directory cannot be opened for a while.
    let (away, own) = (root.join("away"), root.join(A));
    fs::rename(&own, &away).unwrap();
    fs::write(&own, "a file").unwrap();
    let (second, _telemetry) = store(root, A, 100_000, 64 * MIB);
    tier(&second).settle();
    assert!(tier(&second).log().is_none());
    second.purge(&Purge::Url(b"http://h/a".to_vec()));
    fs::remove_file(&own).unwrap();
    fs::rename(&away, &own).unwrap();
    tier(&second).state().resting_until = Some(Instant::now());
    put(&second, "http://h/c", b"one", &[]);
    assert!(on_disk(&second, "http://h/c").is_some() && on_disk(&second, "http://h/b").is_some());
    assert!(on_disk(&second, "http://h/a").is_none());
}

#[test]
fn what_the_origin_says_of_an_answer_later_holds_on_the_disk_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _telemetry) = store(folder.path(), A, 100_000, 64 * MIB);
    let old = put(&store, "http://h/a", b"one", &[("ETag", "\"1\""), ("Cache-Tag", "a")]);
    tier(&store).settle();
    let key = store.key(b"http://h/a".to_vec());
    let mut kept = old.kept.clone();
    kept.tags = vec!["b".into()];
    kept.no_cache = true;
    let new = store.replace(&key, &old, Some(Stored::new(kept, old.body.clone()))).unwrap();
    let push_out = || (0..500).for_each(|n| drop(put(&store, &format!("http://h/other/{n}"), &[0; 1000], &[])));
    push_out();
    assert!(on_disk(&store, "http://h/a").is_some_and(|found| found.kept.no_cache));
    assert_eq!(store.purge(&Purge::Tag("b".into())), 1);
    assert!(on_disk(&store, "http://h/a").is_none());
    drop(new);
}

#[test]
fn nobody_asks_a_disk_that_hangs_for_a_while() {
    let folder = tempfile::tempdir().unwrap();
    let (store, telemetry) = store(folder.path(), A, 100_000, 64 * MIB);
    put(&store, "http://h/a", b"one", &[]);
    tier(&store).settle();
    tier(&store).count_wait();
    let ask = || tier(&store).ask(&store.key(b"http://h/a".to_vec()), &Headers::new(), store.ticket());
    assert!(ask().is_none());
    assert_eq!(telemetry.limits().register("cache_disk_reads").total(), 1);
    tier(&store).state().asks_nothing_until = Some(Instant::now());
    // Who has left takes no room among those that wait.
    let place = tier(&store).state().places.values().next().unwrap()[0].clone();
    tier(&store).state().reading.insert((place.segment, place.at), Vec::new());
    (0..3 * READS_MOST).for_each(|_| drop(ask()));
    let _waits = ask().unwrap();
    assert!(tier(&store).state().reading[&(place.segment, place.at)].len() <= 2);
}

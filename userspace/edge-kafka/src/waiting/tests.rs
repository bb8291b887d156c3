use super::*;
use std::fs::{self, File};
use std::time::SystemTime;

/// Another's brokers, or another user, may not have what is a document's.
#[test]
fn no_two_documents_share_a_place() {
    let long = |end: &str| format!("{}/{}{end}", "p".repeat(250), "ü".repeat(250));
    let names = ["p/k", "p/l", "p-k/l", "p/k-l", "p.k/l", "../..", "./k", "g/beforePipeline/k", "g:beforePipeline/k"]
        .map(str::to_owned);
    let names: Vec<String> = names.into_iter().chain([long("a"), long("b")]).collect();
    let directories: Vec<String> = names.iter().map(|name| places::directory_of(name)).collect();
    for (number, directory) in directories.iter().enumerate() {
        assert!(directory.len() <= 255 && directory.contains('+') && !directory.contains('/'), "{directory}");
        assert_eq!(directories.iter().position(|one| one == directory), Some(number), "{directory}");
    }
    let root = tempfile::tempdir().unwrap();
    let documents: Vec<Arc<Document>> = names.iter().map(|name| Document::named(Some(root.path()), name)).collect();
    for (document, name) in documents.iter().zip(&names) {
        assert_eq!(document.keep(&[record(name)]), 1);
    }
    for (document, name) in documents.iter().zip(&names) {
        assert_eq!(values(&document.turn().unwrap()), [name.as_str()]);
    }
}

/// Both generations of a filter put into it what they cannot hand over, and one of them sends.
#[test]
fn the_youngest_generation_sends_what_waits() {
    let root = tempfile::tempdir().unwrap();
    let [old, young] = [1, 2].map(|way| {
        let document = Document::named(Some(root.path()), "p/k");
        document.join(way);
        document
    });
    assert!(Arc::ptr_eq(&old, &young));
    assert!(!old.is_sent_by(1) && old.is_sent_by(2) && old.is_handed_to(1));
    let turn = old.turn().unwrap();
    assert!(young.turn().is_none(), "somebody is at it");
    drop(turn);
    assert!(young.turn().is_some());
    // The younger one was not to be after all.
    young.leave(2);
    assert!(old.is_sent_by(1));
    old.leave(1);
    assert!(old.is_gone());
}

#[test]
fn what_a_process_that_was_killed_has_left_goes_first() {
    let root = tempfile::tempdir().unwrap();
    let place = |number: usize| root.path().join("p+k").join(number.to_string());
    let mut left = Spool::open(&place(0), BYTES).unwrap();
    left.append(&[record("first")], true).unwrap();
    let document = Document::named(Some(root.path()), "p/k");
    // It still lives.
    document.turn().unwrap().look();
    assert_eq!(document.keep(&[record("second")]), 1);
    assert_eq!(values(&document.turn().unwrap()), ["second"]);
    document.keep(&[record("third")]);
    drop(left);
    document.turn().unwrap().look();
    assert_eq!(values(&document.turn().unwrap()), ["first", "third"]);
    assert!(!place(0).exists() && place(1).exists(), "what is drained is nobody's");
}

/// Where the last filter went it lay there for ever.
#[test]
fn what_is_left_of_a_document_goes_after_a_day() {
    let root = tempfile::tempdir().unwrap();
    let there = |name: &str| root.path().join(name).exists();
    let of = |name: &str| Document::named(Some(root.path()), name);
    let (lives, goes, drained) = (of("p/lives"), of("p/goes"), of("p/drained"));
    for document in [&lives, &goes, &drained] {
        assert_eq!(document.keep(&[record("x")]), 1);
    }
    let before = root.path().join(name_before(&["127.0.0.1:1".to_owned()], None));
    Spool::open(&before.join("0"), BYTES).unwrap().append(&[record("x")], true).unwrap();
    values(&drained.turn().unwrap());
    drop((goes, drained));
    assert!(there("p+goes/gone") && !there("p+drained"));
    let (leavings, now) = (Leavings::of("thing of a test"), SystemTime::now());
    leavings.sweep(root.path(), now, leavings::MOST);
    assert!(there("p+goes") && leavings.there() > 0 && leavings.removed() == 0);
    leavings.sweep(root.path(), now + leavings::KEPT_FOR + Duration::from_secs(60), leavings::MOST);
    assert!(there("p+lives") && !there("p+goes") && !before.exists() && leavings.removed() > 0);
    assert_eq!(leavings.there(), 0);
}

/// The end of a process is not the end of a document: another takes what waits, be that in a week.
#[test]
fn a_document_that_comes_again_is_not_marked() {
    let root = tempfile::tempdir().unwrap();
    let document = Document::named(Some(root.path()), "p/k");
    document.keep(&[record("x")]);
    drop(document);
    let gone = root.path().join("p+k/gone");
    File::open(&gone).unwrap();
    let document = Document::named(Some(root.path()), "p/k");
    document.turn().unwrap().look();
    assert_eq!(values(&document.turn().unwrap()), ["x"]);
    drop(document);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

fn record(value: &str) -> Record {
    Record::new(&"t".into(), None, value.to_owned().into())
}

/// What waits, which is taken.
fn values(turn: &Turn<'_>) -> Vec<String> {
    let mut values = Vec::new();
    while !turn.document.is_empty() {
        let batch = turn.peek(1 << 20).unwrap();
        turn.forget(&batch).unwrap();
        values.extend(batch.kept.iter().map(|record| String::from_utf8_lossy(&record.value).into_owned()));
    }
    values
}

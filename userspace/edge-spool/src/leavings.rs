//! What documents that are gone have left on disk: it waits for one of the same name, for a day and within a bound, and is removed then.

use crate::spool;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

/// How long it is kept.
pub const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);

/// Bytes of all of a kind that are gone, at most; the oldest go first.
pub const MOST: u64 = 256 << 20;

/// Between two looks.
pub const LOOK: Duration = Duration::from_secs(600);

/// Its age says when a document went.
const MARK: &str = "gone";

/// Of all documents of a kind.
pub struct Leavings {
    /// What one of them is called.
    kind: &'static str,
    there: AtomicU64,
    removed: AtomicU64,
}

impl Leavings {
    pub const fn of(kind: &'static str) -> Leavings {
        Leavings { kind, there: AtomicU64::new(0), removed: AtomicU64::new(0) }
    }

    /// Bytes on disk when they were looked after last.
    pub fn there(&self) -> u64 {
        self.there.load(Ordering::Relaxed)
    }

    /// Bytes that were removed, so far.
    pub fn removed(&self) -> u64 {
        self.removed.load(Ordering::Relaxed)
    }

    /// Looks after this directory, in which each document has one of its own, for as long as the process lives. Not at once: when a process
    /// begins, the documents whose things lie there have yet to come, be that after days.
    pub fn look_after(&'static self, directory: &Path, mut pause: impl FnMut() + Send + 'static) {
        let directory = directory.to_owned();
        let look = move || {
            loop {
                pause();
                self.sweep(&directory, SystemTime::now(), MOST);
            }
        };
        if let Err(error) = thread::Builder::new().name("leavings".into()).spawn(look) {
            tracing::warn!(%error, "no thread to remove what each {} that is gone has left on disk", self.kind);
        }
    }

    /// One has gone: from now on what is in its directory is a day old at most.
    pub fn mark(&self, directory: &Path) {
        if let Err(error) = File::create(directory.join(MARK)) {
            tracing::warn!(path = %directory.display(), %error, "the disk does not say when a {} went", self.kind);
        }
    }

    /// Removes what has been there for too long, and the oldest of what is too much.
    pub fn sweep(&self, directory: &Path, now: SystemTime, most: u64) {
        let Ok(entries) = fs::read_dir(directory) else { return };
        let mut all: Vec<Left> = entries.flatten().filter_map(|entry| left(&entry.path())).collect();
        all.sort_by_key(|left| left.since);
        let mut there: u64 = all.iter().map(|left| left.bytes).sum();
        for left in all {
            let is_old = now.duration_since(left.since).is_ok_and(|age| age >= KEPT_FOR);
            if !is_old && there <= most {
                continue;
            }
            let (path, bytes) = (left.directory.display(), left.bytes);
            match left.remove() {
                Ok(()) => {
                    there -= bytes;
                    self.removed.fetch_add(bytes, Ordering::Relaxed);
                    tracing::warn!(%path, bytes, "what a {} that is gone has left is removed", self.kind);
                }
                Err(error) => {
                    tracing::warn!(%path, %error, "what a {} that is gone has left cannot be removed", self.kind);
                }
            }
        }
        self.there.store(there, Ordering::Relaxed);
    }
}

/// Removes a document's directory in which nothing is left; whether that is so.
pub fn clear(directory: &Path) -> bool {
    let is_empty = fs::read_dir(directory)
        .is_ok_and(|mut entries| entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == MARK)));
    if is_empty {
        let _ = fs::remove_file(directory.join(MARK));
        // One of the same name may have begun meanwhile.
        let _ = fs::remove_dir(directory);
    }
    is_empty
}

/// Of one that is gone. Nobody else has it while this is there.
struct Left {
    directory: PathBuf,
    places: Vec<(PathBuf, File)>,
    bytes: u64,
    since: SystemTime,
}

/// What is in the directory of a document, where nobody writes or sends it.
fn left(directory: &Path) -> Option<Left> {
    let mut places = Vec::new();
    let (mut bytes, mut since) = (0, SystemTime::UNIX_EPOCH);
    let mut see = |path: &Path| -> Option<()> {
        let data = fs::metadata(path).ok()?;
        bytes += data.len();
        since = since.max(data.modified().ok()?);
        Some(())
    };
    for entry in fs::read_dir(directory).ok()?.flatten() {
        let path = entry.path();
        if !path.is_dir() {
            see(&path)?;
            continue;
        }
        let lock = OpenOptions::new().append(true).open(path.join("lock")).ok()?;
        lock.try_lock().ok()?;
        spool::is_of(&lock, &path).ok()?;
        for file in fs::read_dir(&path).ok()?.flatten() {
            see(&file.path())?;
        }
        places.push((path, lock));
    }
    // What is none of ours is left alone.
    (!places.is_empty()).then(|| Left { directory: directory.to_owned(), places, bytes, since })
}

impl Left {
    fn remove(&self) -> io::Result<()> {
        for (place, _held) in &self.places {
            spool::remove(place)?;
        }
        match fs::remove_file(self.directory.join(MARK)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // One of the same name may have begun meanwhile, in a place of its own.
        match fs::remove_dir(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Spool;
    use crate::spool::tests::Line;

    static LEAVINGS: Leavings = Leavings::of("thing of a test");

    fn fill(directory: &Path, name: &str) -> Spool<Line> {
        let mut spool = Spool::open(&directory.join(name).join("0"), 1 << 20).unwrap();
        assert_eq!(spool.append(&[Line("x".repeat(1000))], false).unwrap(), 1);
        spool
    }

    /// A daemon that was away for a weekend found nothing any more.
    #[test]
    fn sinks_have_time_to_come_when_a_process_begins() {
        let directory = tempfile::tempdir().unwrap();
        drop(fill(directory.path(), "sink"));
        let long_ago = SystemTime::now() - 2 * KEPT_FOR;
        for file in fs::read_dir(directory.path().join("sink/0")).unwrap().flatten() {
            File::options().append(true).open(file.path()).unwrap().set_modified(long_ago).unwrap();
        }
        let there = directory.path().join("sink/0");
        let (told, hear) = std::sync::mpsc::channel();
        LEAVINGS.look_after(directory.path(), move || {
            // It ends with the test.
            if told.send(there.exists()).is_err() {
                thread::park();
            }
        });
        assert!(hear.recv().unwrap(), "before anybody could come");
        assert!(!hear.recv().unwrap());
    }

    #[test]
    fn what_is_left_goes_after_a_day_or_when_it_is_too_much_and_what_is_used_stays() {
        let directory = tempfile::tempdir().unwrap();
        let there = |name: &str| directory.path().join(name).join("0").exists();
        let used = fill(directory.path(), "used");
        drop(fill(directory.path(), "old"));
        let now = SystemTime::now();
        LEAVINGS.sweep(directory.path(), now, MOST);
        assert!(there("used") && there("old"));
        LEAVINGS.sweep(directory.path(), now + KEPT_FOR + Duration::from_secs(60), MOST);
        assert!(there("used") && !directory.path().join("old").exists());
        // A sink that had nothing to write for long has just gone.
        drop(fill(directory.path(), "idle"));
        let long_ago = now - 2 * KEPT_FOR;
        for file in fs::read_dir(directory.path().join("idle/0")).unwrap().flatten() {
            File::options().append(true).open(file.path()).unwrap().set_modified(long_ago).unwrap();
        }
        LEAVINGS.mark(&directory.path().join("idle"));
        LEAVINGS.sweep(directory.path(), now, MOST);
        assert!(there("idle"));
        // The oldest of too much.
        drop(fill(directory.path(), "second"));
        let marked = File::options().append(true).open(directory.path().join("idle").join(MARK)).unwrap();
        marked.set_modified(now - Duration::from_secs(3600)).unwrap();
        LEAVINGS.sweep(directory.path(), now, 1500);
        assert!(there("used") && there("second") && !directory.path().join("idle").exists());
        drop(used);
        // What is none of ours is nobody's business here.
        fs::create_dir(directory.path().join("else")).unwrap();
        fs::write(directory.path().join("else/file"), "x").unwrap();
        LEAVINGS.sweep(directory.path(), now + 2 * KEPT_FOR, 0);
        assert!(!there("used") && directory.path().join("else/file").exists());
    }
}

//! The copy of the desired state on disk, from which a machine serves when there is no control plane: a whole state, and the
//! [steps](crate::step) that led on from there.

use crate::desired::{Desired, Fork};
use crate::format::{self, FORMAT, Unread};
use crate::step::Line;
use serde::Serialize;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The whole state is either the old one or the new one, never half of it. Steps lie in journals with numbers; each step says
/// where it begins, so that those of before the whole state do no harm.
#[derive(Debug, Clone)]
pub struct LastGood {
    path: PathBuf,
    syncs: Syncs,
}

/// How often the disk was asked to keep something for good.
#[derive(Debug, Clone, Default)]
pub struct Syncs(Arc<AtomicU64>);

impl Syncs {
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A journal that is written.
#[derive(Debug)]
pub struct Journal {
    pub file: File,
}

impl LastGood {
    /// `directory` is made when it does not exist.
    pub fn new(directory: &Path) -> io::Result<LastGood> {
        fs::create_dir_all(directory)?;
        Ok(LastGood { path: directory.join("last-good.json"), syncs: Syncs::default() })
    }

    /// What was kept last: the whole state, and what came after it. A damaged step, and those that build upon it, are left out.
    pub fn load(&self) -> Option<Desired> {
        self.replay(Unreadable::PutAside).map(|(last, _)| last)
    }

    /// The last state that is known to have gone live.
    pub fn load_last_live(&self) -> Option<Desired> {
        self.replay(Unreadable::PutAside).and_then(|(_, live)| live)
    }

    /// What was kept last in the directory, which may be another process's: nothing in it is touched.
    pub fn look(directory: &Path) -> Option<Desired> {
        let there = LastGood { path: directory.join("last-good.json"), syncs: Syncs::default() };
        there.replay(Unreadable::Left).map(|(last, _)| last)
    }

    /// The last state, and the last of them that went live.
    fn replay(&self, unreadable: Unreadable) -> Option<(Desired, Option<Desired>)> {
        let mut live = match unreadable {
            Unreadable::PutAside => self.load_whole(),
            Unreadable::Left => fs::read(&self.path).ok().and_then(|text| format::read(&text).ok()),
        };
        let known = live.is_some();
        let (mut state, mut taken, mut lost) = (live.clone().unwrap_or_default(), 0, 0);
        let mut before = state.clone();
        for number in self.journals() {
            let path = self.journal_path(number);
            let text = fs::read(&path).unwrap_or_default();
            for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                match Line::read(line) {
                    Ok(Line::Step(step)) => {
                        // Another step from there: the one that was taken did not go live.
                        if !step.begins_at(&state) && step.begins_at(&before) {
                            state = before.clone();
                        }
                        let stood = state.clone();
                        if step.advance(&mut state) {
                            (before, taken) = (stood, taken + 1);
                        }
                    }
                    Ok(Line::Live(said)) => {
                        if said.is_at(&state) {
                            // What was about to be purged and was not has to be now.
                            state.purged = said.purged;
                            live = Some(state.clone());
                        }
                    }
                    Err(Unread::Damaged(_)) => lost += 1,
                    Err(Unread::Newer(format)) => {
                        if unreadable == Unreadable::PutAside {
                            put_aside_newer(&path, format);
                        }
                        break;
                    }
                }
            }
        }
        if lost > 0 && unreadable == Unreadable::PutAside {
            tracing::warn!(steps = lost, "changes to the last good state were written in part only, and are left out");
        }
        (known || taken > 0).then_some((state, live))
    }

    /// Numbers of the journals that are there, the oldest first.
    pub fn journals(&self) -> Vec<u64> {
        let Some(entries) = self.path.parent().and_then(|directory| fs::read_dir(directory).ok()) else {
            return Vec::new();
        };
        let number = |name: &str| name.strip_prefix(JOURNAL)?.parse::<u64>().ok();
        let mut numbers: Vec<u64> =
            entries.flatten().filter_map(|e| number(&e.file_name().to_string_lossy())).collect();
        numbers.sort_unstable();
        numbers
    }

    /// A new journal, whose name is on the disk for good.
    pub fn begin_journal(&self, number: u64) -> io::Result<Journal> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(self.journal_path(number))?;
        self.sync_directory()?;
        Ok(Journal { file })
    }

    /// Forgets the journals before this one; what they led to is in the whole state.
    pub fn drop_journals_before(&self, number: u64) {
        for old in self.journals().into_iter().filter(|old| *old < number) {
            if let Err(error) = fs::remove_file(self.journal_path(old)) {
                tracing::warn!(%error, journal = old, "an old journal of the last good state cannot be removed");
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn journal_path(&self, number: u64) -> PathBuf {
        self.path.with_file_name(format!("{JOURNAL}{number}"))
    }

    /// Without this a name may still lead to the old file, or to none, after a power cut.
    fn sync_directory(&self) -> io::Result<()> {
        match self.path.parent() {
            // All of it: a new name is no data of the directory's to some file systems.
            Some(directory) => {
                self.syncs.0.fetch_add(1, Ordering::Relaxed);
                File::open(directory)?.sync_all()
            }
            None => Ok(()),
        }
    }

    /// The whole state, which went live. A file that cannot be read as such is put aside as `.damaged`, and there is nothing then.
    pub fn load_whole(&self) -> Option<Desired> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "cannot read the last good state; starting without");
                return None;
            }
        };
        match format::read(&text) {
            Ok(desired) => Some(desired),
            Err(Unread::Newer(format)) => {
                put_aside_newer(&self.path, format);
                None
            }
            Err(Unread::Damaged(error)) => {
                let aside = self.path.with_extension("json.damaged");
                let kept = fs::rename(&self.path, &aside);
                let aside = match kept {
                    Ok(()) => format!("put aside as {}", aside.display()),
                    Err(error) => format!("and could not be put aside as {}: {error}", aside.display()),
                };
                tracing::error!(path = %self.path.display(), %error, "the last good state is damaged; {aside}; starting without");
                None
            }
        }
    }

    /// What was kept when an earlier state was offered, until an operator has spoken. A file that cannot be read counts for none.
    pub fn load_fork(&self) -> Option<Fork> {
        let text = fs::read(self.fork_path()).ok()?;
        serde_json::from_slice(&text)
            .inspect_err(|error| {
                tracing::error!(path = %self.fork_path().display(), %error, "unreadable, and passed over");
            })
            .ok()
    }

    pub fn store_fork(&self, fork: Option<&Fork>) -> io::Result<()> {
        match fork {
            Some(fork) => self.replace(&self.fork_path(), fork).map(drop),
            None => match fs::remove_file(self.fork_path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => self.sync_directory(),
            },
        }
    }

    fn fork_path(&self) -> PathBuf {
        self.path.with_file_name("fork.json")
    }

    /// Replaces what is kept: written beside it, flushed to the disk, renamed over it.
    /// Says how long it is, in bytes.
    pub fn store(&self, desired: &Desired) -> io::Result<u64> {
        self.replace(&self.path, desired)
    }

    /// Has the disk keep for good what was written to `file`.
    pub fn sync(&self, file: &File) -> io::Result<()> {
        self.syncs.0.fetch_add(1, Ordering::Relaxed);
        file.sync_data()
    }

    pub fn syncs(&self) -> Syncs {
        self.syncs.clone()
    }

    /// Written as it is made: the text of ten thousand documents, which takes tens of megabytes, is nowhere whole in memory.
    fn replace(&self, path: &Path, what: &impl Serialize) -> io::Result<u64> {
        let beside = path.with_extension("json.new");
        // It holds private keys: nobody but the daemon's user reads it.
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        let mut text = BufWriter::with_capacity(WRITTEN_AT_ONCE, &mut file);
        serde_json::to_writer(&mut text, what).map_err(io::Error::other)?;
        text.flush()?;
        drop(text);
        let bytes = file.metadata()?.len();
        self.sync(&file)?;
        fs::rename(&beside, path)?;
        self.sync_directory().map(|()| bytes)
    }
}

/// What becomes of files that this program cannot read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unreadable {
    PutAside,
    /// Somebody only looks.
    Left,
}

/// What a newer program kept is not read, and not written over either: it may be needed when that program is back.
fn put_aside_newer(path: &Path, format: u32) {
    let mut name = path.as_os_str().to_owned();
    name.push(".newer");
    let aside = PathBuf::from(name);
    let kept = match fs::rename(path, &aside) {
        Ok(()) => format!("put aside as {}", aside.display()),
        Err(error) => format!("and could not be put aside as {}: {error}", aside.display()),
    };
    tracing::error!(
        path = %path.display(),
        "the last good state was written by a newer weir, in format {format}, and this one reads up to format {FORMAT}; {kept}. This edge \
         serves what its cluster tells it: start the version that wrote it to serve that, or remove the file"
    );
}

/// Bytes.
const WRITTEN_AT_ONCE: usize = 64 << 10;

/// What the names of journals begin with; a number follows.
const JOURNAL: &str = "last-good.steps-";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::Step;
    use serde_json::json;

    #[test]
    fn keeps_and_survives_damage() {
        let directory = tempfile::tempdir().unwrap();
        let kept = LastGood::new(directory.path()).unwrap();
        assert_eq!(kept.load(), None);
        let desired = Desired { version: 7, ..Desired::default() };
        kept.store(&desired).unwrap();
        assert_eq!(kept.load(), Some(desired.clone()));
        let path = directory.path().join("last-good.json");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        fs::write(path.with_extension("json.new"), "left by an older version").unwrap();
        kept.store(&desired).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "it holds private keys");
        fs::write(directory.path().join("last-good.json"), "{\"version\": 7, \"obj").unwrap();
        assert_eq!(kept.load(), None);
        assert!(directory.path().join("last-good.json.damaged").exists());
    }

    #[test]
    fn what_a_newer_program_kept_is_put_aside_and_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let kept = LastGood::new(directory.path()).unwrap();
        kept.store(&Desired { version: 7, ..Desired::default() }).unwrap();
        let path = directory.path().join("last-good.json");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"format\":1"), "it says what it is: {text}");
        let newer = text.replace("\"format\":1", "\"format\":2,\"sections\":{}");
        fs::write(&path, &newer).unwrap();
        assert_eq!(kept.load(), None);
        assert_eq!(fs::read_to_string(directory.path().join("last-good.json.newer")).unwrap(), newer);
        kept.store(&Desired { version: 3, ..Desired::default() }).unwrap();
        assert_eq!(kept.load().map(|desired| desired.version), Some(3));
        fs::write(&path, text.replace("\"format\":1,", "")).unwrap();
        assert_eq!(kept.load().map(|desired| desired.version), Some(7), "those of before say nothing");
    }

    #[test]
    fn purges_are_done_once_it_is_known_that_they_were() {
        let directory = tempfile::tempdir().unwrap();
        let kept = LastGood::new(directory.path()).unwrap();
        let state = |version, purged| Desired { version, purged, ..Desired::default() };
        kept.store(&state(5, 1)).unwrap();
        assert_eq!(kept.load().map(|desired| desired.purged), Some(1));
        let mut journal = kept.begin_journal(1).unwrap();
        let mut write = |line: Vec<u8>| journal.file.write_all(&line).unwrap();
        write(Step::between(&state(5, 1), &state(6, 2)).line());
        assert_eq!(kept.load(), Some(state(6, 1)), "it was about to be");
        write(crate::step::Live::at(&state(6, 2)).line());
        assert_eq!(kept.load(), Some(state(6, 2)));
        write(Step::between(&state(6, 2), &state(7, 3)).line());
        assert_eq!(kept.load(), Some(state(7, 2)));
        let elsewhere = Desired { cluster_id: "other".into(), ..state(1, 9) };
        write(Step::between(&state(7, 3), &elsewhere).line());
        assert_eq!(kept.load(), Some(Desired { purged: 0, ..elsewhere }), "numbers are of one cluster");
    }

    #[test]
    fn steps_lead_on_from_the_whole_state() {
        let directory = tempfile::tempdir().unwrap();
        let kept = LastGood::new(directory.path()).unwrap();
        let state = |version: u64| Desired {
            version,
            objects: imbl::OrdMap::unit("o".to_owned(), Arc::new(json!({"v": version}))),
            ..Desired::default()
        };
        let lines = |versions: std::ops::Range<u64>| -> Vec<u8> {
            versions.flat_map(|version| Step::between(&state(version), &state(version + 1)).line()).collect()
        };
        kept.store(&state(5)).unwrap();
        kept.begin_journal(1).unwrap().file.write_all(&lines(3..7)).unwrap();
        kept.begin_journal(2).unwrap().file.write_all(&lines(7..9)).unwrap();
        assert_eq!(kept.journals(), [1, 2]);
        assert_eq!(kept.load(), Some(state(9)), "older steps are passed over");

        let last = lines(9..10);
        let mut journal = kept.begin_journal(3).unwrap();
        journal.file.write_all(&last[..last.len() / 2]).unwrap();
        assert_eq!(kept.load(), Some(state(9)), "half a step is none");
        journal.file.write_all(&lines(9..11)).unwrap();
        assert_eq!(kept.load(), Some(state(11)), "what follows half a step is whole");

        kept.drop_journals_before(3);
        assert_eq!((kept.journals(), kept.load()), (vec![3], Some(state(5))));
    }
}

//! The copy of the desired state on disk, from which a machine serves when there is no control plane.

use crate::desired::Desired;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A file that is either the old state or the new one, never half of it.
#[derive(Debug, Clone)]
pub struct LastGood {
    path: PathBuf,
}

impl LastGood {
    /// `directory` is made when it does not exist.
    pub fn new(directory: &Path) -> io::Result<LastGood> {
        fs::create_dir_all(directory)?;
        Ok(LastGood { path: directory.join("last-good.json") })
    }

    /// What was kept. A file that cannot be read as such is put aside as `.damaged`, and there is nothing then.
    pub fn load(&self) -> Option<Desired> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "cannot read the last good state; starting without");
                return None;
            }
        };
        match serde_json::from_slice(&text) {
            Ok(desired) => Some(desired),
            Err(error) => {
                let aside = self.path.with_extension("json.damaged");
                let kept = fs::rename(&self.path, &aside);
                tracing::error!(
                    path = %self.path.display(), %error,
                    "the last good state is damaged; put aside as {} ({kept:?}), starting without", aside.display()
                );
                None
            }
        }
    }

    /// Replaces what is kept: written beside it, flushed to the disk, renamed over it.
    pub fn store(&self, desired: &Desired) -> io::Result<()> {
        let text = serde_json::to_vec(desired).map_err(io::Error::other)?;
        let beside = self.path.with_extension("json.new");
        // It holds private keys: nobody but the daemon's user reads it.
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        // Without this the name may still lead to the old file after a power cut.
        match self.path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }
}

/// Writes the newest state on a thread of its own: a disk may take seconds, and a change must not wait for it.
#[derive(Debug)]
pub struct Keeper {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Desk {
    state: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    newest: Option<Desired>,
    closed: bool,
}

impl Keeper {
    pub fn start(last_good: LastGood) -> Keeper {
        let desk = Arc::new(Desk::default());
        let ours = desk.clone();
        let thread = thread::Builder::new().name("last-good".into()).spawn(move || ours.serve(&last_good));
        let thread =
            thread.inspect_err(|error| tracing::error!(%error, "the last good state is not kept on disk")).ok();
        Keeper { desk, thread }
    }

    /// Soon on disk. Of several that wait only the newest is written.
    pub fn keep(&self, desired: Desired) {
        self.desk.lock().newest = Some(desired);
        self.desk.changed.notify_one();
    }
}

/// What waits is written before the end.
impl Drop for Keeper {
    fn drop(&mut self) {
        self.desk.lock().closed = true;
        self.desk.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Desk {
    fn serve(&self, last_good: &LastGood) {
        let mut state = self.lock();
        loop {
            let Some(desired) = state.newest.take() else {
                if state.closed {
                    return;
                }
                state = self.changed.wait(state).unwrap_or_else(|e| e.into_inner());
                continue;
            };
            drop(state);
            let done = last_good.store(&desired);
            state = self.lock();
            let pause = match done {
                Ok(()) => SERIES,
                Err(error) => {
                    tracing::error!(path = %last_good.path.display(), %error, "cannot keep the last good state on disk");
                    if state.closed {
                        return;
                    }
                    state.newest.get_or_insert(desired);
                    AGAIN
                }
            };
            let open = |state: &mut Waiting| !state.closed;
            state = self.changed.wait_timeout_while(state, pause, open).unwrap_or_else(|e| e.into_inner()).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Shortest time between two copies: a series of changes costs the disk a few, not one each.
const SERIES: Duration = Duration::from_millis(100);

/// Pause after a failure.
const AGAIN: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_series_the_last_is_kept_before_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let kept = LastGood::new(directory.path()).unwrap();
        let keeper = Keeper::start(kept.clone());
        for version in 1..=100 {
            keeper.keep(Desired { version, ..Desired::default() });
        }
        drop(keeper);
        assert_eq!(kept.load().map(|desired| desired.version), Some(100));
    }

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
}

//! A file of users on this machine, read again when it changes.

use super::htpasswd::{FILE_BYTES_MAX, Users};
use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::thread;
use std::time::Duration;

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// A file that is shared by all who name it. A thread of its own looks at all of them, so that no worker touches a disk.
#[derive(Debug)]
pub(crate) struct UserFile {
    path: PathBuf,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    users: Arc<Users>,
    stamp: Option<Stamp>,
    error: Option<String>,
}

/// What changes when a file does: when it, or what may be done with it, was changed, its size and its inode. When it was written says
/// less: whoever copies a file may copy that, too.
type Stamp = (i64, i64, u64, u64);

impl UserFile {
    /// Blocks for as long as the file is read: for control threads.
    pub(crate) fn shared(path: &str) -> Arc<UserFile> {
        let mut known = watched().lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(Path::new(path)).and_then(Weak::upgrade) {
            return found;
        }
        let made = Arc::new(UserFile { path: path.into(), state: RwLock::default() });
        made.look();
        known.retain(|_, file| file.strong_count() > 0);
        known.insert(made.path.clone(), Arc::downgrade(&made));
        made
    }

    pub(crate) fn users(&self) -> Arc<Users> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).users.clone()
    }

    /// Why nobody of it gets in, where it cannot be read.
    pub(crate) fn error(&self) -> Option<String> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).error.clone()
    }

    /// Reads it if it has changed. One that cannot be read lets nobody in: whoever took it away meant that.
    fn look(&self) {
        let stamp = fs::metadata(&self.path).map(|m| (m.ctime(), m.ctime_nsec(), m.size(), m.ino())).ok();
        {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            if state.stamp == stamp && (stamp.is_some() || state.error.is_some()) {
                return;
            }
        }
        let (users, error) = match read(&self.path) {
            Ok(users) => (users, None),
            Err(why) => (Users::default(), Some(why)),
        };
        let path = self.path.display();
        match &error {
            Some(why) => tracing::warn!(%path, error = why, "the file of users cannot be read; it lets nobody in"),
            None if users.unread > 0 => {
                let (users, unread) = (users.len(), users.unread);
                tracing::warn!(%path, users, unread, "lines of the file of users hold no hash we check; they let nobody in");
            }
            None => tracing::info!(%path, users = users.len(), "the file of users was read"),
        }
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = State { users: Arc::new(users), stamp, error };
    }
}

fn read(path: &Path) -> Result<Users, String> {
    // Others, a pipe above all, may never come to an end.
    if !fs::metadata(path).map_err(|error| error.to_string())?.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it is larger than {} MiB", FILE_BYTES_MAX / 1024 / 1024));
    }
    // A comment in another encoding takes nobody's login away.
    Ok(Users::read(&String::from_utf8_lossy(&text)))
}

type Watched = Mutex<HashMap<PathBuf, Weak<UserFile>>>;

fn watched() -> &'static Watched {
    static WATCHED: OnceLock<Watched> = OnceLock::new();
    WATCHED.get_or_init(|| {
        let started = thread::Builder::new().name("weir-users".to_owned()).spawn(|| {
            loop {
                thread::sleep(LOOK);
                let files: Vec<_> = {
                    let known = watched().lock().unwrap_or_else(PoisonError::into_inner);
                    known.values().filter_map(Weak::upgrade).collect()
                };
                files.iter().for_each(|file| file.look());
            }
        });
        if let Err(error) = started {
            tracing::error!(%error, "files of users are not read again when they change");
        }
        Watched::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=";

    #[test]
    fn a_file_that_changes_appears_or_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let file = UserFile::shared(path.to_str().unwrap());
        assert!(file.users().len() == 0 && file.error().is_some());
        fs::write(&path, format!("ann:{SHA}\n")).unwrap();
        file.look();
        assert!(file.users().len() == 1 && file.error().is_none());
        // As editors write: another file in its place.
        fs::write(folder.path().join("new"), format!("ann:{SHA}\nbob:{SHA}\n")).unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        file.look();
        assert_eq!(file.users().len(), 2);
        assert!(Arc::ptr_eq(&file, &UserFile::shared(path.to_str().unwrap())));
        // Another password, as long as the one before and written at the same time, as far as the file says.
        let written = fs::metadata(&path).unwrap().modified().unwrap();
        let stamp = || file.state.read().unwrap().stamp;
        let before = stamp();
        while stamp() == before {
            fs::write(&path, format!("ann:{SHA}\ncat:{SHA}\n")).unwrap();
            fs::File::options().write(true).open(&path).unwrap().set_modified(written).unwrap();
            file.look();
        }
        assert!(file.users().find("cat").is_some_and(|(_, real)| real));
        fs::write(&path, [b"# caf\xe9\r\nann:".as_slice(), SHA.as_bytes(), b"\r\n"].concat()).unwrap();
        file.look();
        assert_eq!((file.users().len(), file.error()), (1, None));
        assert!(UserFile::shared("/dev/null").error().is_some_and(|why| why.contains("regular")));
        fs::remove_file(&path).unwrap();
        file.look();
        assert_eq!(file.users().len(), 0);
    }
}

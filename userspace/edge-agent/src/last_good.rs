//! The copy of the desired state on disk, from which a machine serves when there is no control plane.

use crate::desired::Desired;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file that is either the old state or the new one, never half of it.
#[derive(Debug)]
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
        let mut file = File::create(&beside)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_and_survives_damage() {
        let directory = tempfile::tempdir().unwrap();
        let kept = LastGood::new(directory.path()).unwrap();
        assert_eq!(kept.load(), None);
        let desired = Desired { version: 7, ..Desired::default() };
        kept.store(&desired).unwrap();
        assert_eq!(kept.load(), Some(desired));
        fs::write(directory.path().join("last-good.json"), "{\"version\": 7, \"obj").unwrap();
        assert_eq!(kept.load(), None);
        assert!(directory.path().join("last-good.json.damaged").exists());
    }
}

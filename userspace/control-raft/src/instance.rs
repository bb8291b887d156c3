//! What tells one machine from another of the same name: a number that is drawn once and stays in the data directory.

use std::fs;
use std::io;
use std::path::Path;

use crate::config::{StartError, StartErrorKind};

/// The instance that this directory belongs to; the first to ask draws it.
pub fn of(directory: &Path) -> Result<String, StartError> {
    let path = directory.join(FILE);
    let failed = |e: io::Error| {
        let advice = "--data-dir has to be a directory this user can write";
        StartError::new(StartErrorKind::Data, format!("cannot use {}: {e}; {advice}", path.display()))
    };
    match fs::read_to_string(&path) {
        Ok(text) if is_sound(text.trim()) => return Ok(text.trim().to_owned()),
        // Cut short by a full disk, say. Another one costs a second of waiting for the name.
        Ok(_) => tracing::warn!(file = %path.display(), "not an instance id; drawing another"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let mut drawn = [0; BYTES];
    aws_lc_rs::rand::fill(&mut drawn)
        .map_err(|_| StartError::new(StartErrorKind::Data, "the machine has no random numbers"))?;
    let text: String = drawn.iter().map(|byte| format!("{byte:02x}")).collect();
    let draft = path.with_extension("new");
    fs::create_dir_all(directory)
        .and_then(|()| fs::write(&draft, format!("{text}\n")))
        .and_then(|()| fs::rename(&draft, &path))
        .map_err(failed)?;
    Ok(text)
}

fn is_sound(text: &str) -> bool {
    text.len() == 2 * BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

const FILE: &str = "instance-id";
/// Enough that no two machines draw the same.
const BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_instance_and_no_two_have_the_same() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = of(one.path()).unwrap();
        assert_eq!(of(one.path()).unwrap(), first);
        assert_ne!(of(&other.path().join("data")).unwrap(), first);
        fs::write(one.path().join(FILE), "12").unwrap();
        assert_ne!(of(one.path()).unwrap(), first, "half a number is none");
    }
}

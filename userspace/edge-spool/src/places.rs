//! While one process takes the place of another there are two, as there may be two of one document that is changed, and each has a spool
//! of its own: below a directory there are some places, of which whoever comes has the first that nobody has.

use crate::frame::Kept;
use crate::spool::Spool;
use ring::digest::{SHA256, digest};
use std::fmt::Write as _;
use std::io;
use std::path::Path;

/// Bytes of the name of a directory, at most; what file systems take is 255.
const NAME_BYTES: usize = 255;

/// Below a directory.
const PLACES: usize = 4;

/// Tries of a place that somebody removes meanwhile.
const TRIES: usize = 3;

/// The name of the directory of a document with this name, `namespace/name` or `pipeline/filter` among them: those that are gone are looked
/// for among the directories beside each other. No name has a `+`; two long ones that begin alike end otherwise.
pub fn directory_of(name: &str) -> String {
    if matches!(name, "." | "..") {
        return format!("+{name}");
    }
    let plain = name.replace('/', "+");
    if plain.len() <= NAME_BYTES {
        return plain;
    }
    let mut short = plain[..plain.floor_char_boundary(NAME_BYTES / 2)].to_owned() + "+";
    for byte in &digest(&SHA256, plain.as_bytes()).as_ref()[..16] {
        // Text always finds room.
        let _ = write!(short, "{byte:02x}");
    }
    short
}

/// The first place nobody has; `WouldBlock` where all are taken.
pub fn free<K: Kept>(directory: &Path, most: u64) -> io::Result<Spool<K>> {
    let mut taken = io::Error::from(io::ErrorKind::WouldBlock);
    for number in 0..PLACES {
        for turn in 1..=TRIES {
            match Spool::open(&directory.join(number.to_string()), most) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && turn < TRIES => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => taken = error,
                opened => return opened,
            }
            break;
        }
    }
    Err(taken)
}

/// What processes that have ended have left. Places in which nothing is left go.
pub fn left<K: Kept>(directory: &Path) -> Vec<Spool<K>> {
    let places = (0..PLACES).map(|number| directory.join(number.to_string()));
    let opened = places.filter(|place| place.is_dir()).filter_map(|place| Spool::open(&place, 0).ok());
    let (empty, full): (Vec<_>, Vec<_>) = opened.partition(Spool::is_empty);
    empty.into_iter().for_each(clear);
    full
}

/// Removes a place.
pub fn clear<K: Kept>(spool: Spool<K>) {
    if let Err(error) = spool.remove() {
        tracing::warn!(%error, "a place for {} that is empty cannot be removed", K::NAME);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_document_has_the_directory_of_another_or_of_all() {
        let names = ["a", "a/b", "a.b", "a-b", "a/b/c", ".", "..", "../a"];
        let directories: Vec<String> = names.iter().map(|name| directory_of(name)).collect();
        assert_eq!(directories, ["a", "a+b", "a.b", "a-b", "a+b+c", "+.", "+..", "..+a"]);
        let long = |end: &str| directory_of(&format!("{}/{}{end}", "p".repeat(250), "ü".repeat(250)));
        assert!(long("a") != long("b") && long("a").len() <= NAME_BYTES && directory_of(&"p".repeat(253)).len() == 253);
    }
}

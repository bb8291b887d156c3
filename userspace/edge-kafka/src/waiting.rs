//! Where the records of a document wait on disk while brokers cannot be reached. The place is the document's, whatever it says of brokers
//! and users: what waits goes to where the document says by then, and never to where another says.
//!
//! ```text
//! <root>/<pipeline>+<filter>/<place>      a spool; see [`edge_spool::places`]
//! <root>/<brokers>-<checksum>/<place>     as builds before this one left it: of all filters of these brokers and this user together
//! ```
//! Two generations of a filter that speak to other brokers, or as other users, share one [`Document`]: the younger one sends from it, and
//! both put into it what they cannot hand over. When nobody hands over records of a document any more its directory goes, at once where
//! nothing is left in it; else what is left waits a day for a document of that name ([`edge_spool::leavings`]).

use crate::producer::Record;
use crate::stats::COUNTERS;
use base_text::Seldom;
use edge_spool::leavings::{self, Leavings};
use edge_spool::{Batch, Spool, places};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak};
use std::thread;
use std::time::Duration;

/// Bytes on disk, at most, for each document.
pub(crate) const BYTES: u64 = 256 << 20;

/// Between two looks for what processes that have ended have left.
pub(crate) const LOOK: Duration = Duration::from_secs(10);

/// Between two lines in the log about a disk that takes nothing.
const TELL: Duration = Duration::from_secs(10);

pub(crate) static LEAVINGS: Leavings = Leavings::of("Kafka filter");

static ROOT: OnceLock<PathBuf> = OnceLock::new();
static DOCUMENTS: Mutex<Vec<Weak<Document>>> = Mutex::new(Vec::new());
/// The process ends, and no document does.
static ENDS: AtomicBool = AtomicBool::new(false);

/// Where records wait on disk. To be called once, before there are producers; without it they wait in memory alone.
pub fn set_directory(directory: &Path) {
    if ROOT.set(directory.to_owned()).is_ok() {
        LEAVINGS.look_after(directory, || thread::sleep(leavings::LOOK));
    }
}

pub(crate) fn root() -> Option<&'static Path> {
    ROOT.get().map(PathBuf::as_path)
}

/// From now on what waits is for the next process.
pub(crate) fn end() {
    ENDS.store(true, Ordering::Relaxed);
}

/// See the module doc.
pub(crate) struct Document {
    /// Without one nothing waits.
    directory: Option<PathBuf>,
    /// None of builds before this one.
    is_named: bool,
    /// Numbers of the producers its records are handed to, the youngest's last.
    ways: Mutex<Vec<u64>>,
    disk: Mutex<Disk>,
    /// Of whoever sends from the front.
    turn: Mutex<()>,
}

struct Disk {
    spool: Option<Spool<Record>>,
    /// What processes that have ended have left, to be sent before that.
    older: Vec<Spool<Record>>,
    told: Seldom,
}

impl Document {
    /// The one of this name, `pipeline/filter`.
    pub fn named(root: Option<&Path>, name: &str) -> Arc<Document> {
        Document::at(root.map(|root| root.join(places::directory_of(name))), true)
    }

    /// What builds before this one have left of these brokers and this user, where there is anything.
    pub fn before(root: &Path, brokers: &[String], user: Option<&str>) -> Option<Arc<Document>> {
        let directory = root.join(name_before(brokers, user));
        directory.is_dir().then(|| Document::at(Some(directory), false))
    }

    fn at(directory: Option<PathBuf>, is_named: bool) -> Arc<Document> {
        let mut documents = lock(&DOCUMENTS);
        documents.retain(|document| document.strong_count() > 0);
        let is_it = |one: &Arc<Document>| directory.is_some() && one.directory == directory;
        if let Some(known) = documents.iter().filter_map(Weak::upgrade).find(is_it) {
            return known;
        }
        let disk = Disk { spool: None, older: Vec::new(), told: Seldom::once_in(TELL) };
        let (ways, disk, turn) = (Mutex::default(), Mutex::new(disk), Mutex::default());
        let document = Arc::new(Document { directory, is_named, ways, disk, turn });
        documents.push(Arc::downgrade(&document));
        document
    }

    /// From now on its records are handed to this producer, and it sends what waits.
    pub fn join(&self, way: u64) {
        lock(&self.ways).push(way);
    }

    /// A filter that handed its records to this producer is gone.
    pub fn leave(&self, way: u64) {
        let mut ways = lock(&self.ways);
        if let Some(at) = ways.iter().position(|one| *one == way) {
            ways.remove(at);
        }
    }

    /// Whether what waits is sent by this producer: the youngest's is, and any may send where nobody hands over records any more.
    pub fn is_sent_by(&self, way: u64) -> bool {
        lock(&self.ways).last().is_none_or(|youngest| *youngest == way)
    }

    /// Whether a filter hands its records to this producer.
    pub fn is_handed_to(&self, way: u64) -> bool {
        lock(&self.ways).contains(&way)
    }

    pub fn is_gone(&self) -> bool {
        lock(&self.ways).is_empty()
    }

    /// Something may still be put there by an older process.
    pub fn is_on_disk(&self) -> bool {
        self.directory.as_ref().is_some_and(|directory| directory.is_dir())
    }

    pub fn is_empty(&self) -> bool {
        let disk = lock(&self.disk);
        disk.older.is_empty() && disk.spool.as_ref().is_none_or(Spool::is_empty)
    }

    /// To the disk; how many there was room for.
    pub fn keep(&self, records: &[Record]) -> usize {
        lock(&self.disk).keep(self.directory.as_deref(), records)
    }

    /// The right to send from the front, unless somebody else has it.
    pub fn turn(&self) -> Option<Turn<'_>> {
        let held = match self.turn.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(held)) => held.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(Turn { document: self, _held: held })
    }
}

impl Disk {
    fn has_no_place(&self) -> bool {
        self.older.is_empty() && self.spool.is_none()
    }

    fn open(&mut self, directory: Option<&Path>) -> Option<&mut Spool<Record>> {
        let directory = directory?;
        if self.spool.is_none() {
            match places::free(directory, BYTES) {
                Ok(spool) => self.spool = Some(spool),
                Err(error) if self.told.is_due() => {
                    let path = directory.display();
                    tracing::error!(%path, %error, "records for Kafka cannot be kept on disk");
                }
                Err(_) => {}
            }
        }
        self.spool.as_mut()
    }

    fn keep(&mut self, directory: Option<&Path>, records: &[Record]) -> usize {
        let Some(spool) = self.open(directory) else { return 0 };
        match spool.append(records, true) {
            Ok(kept) => kept,
            Err(error) => {
                // Somebody may have removed it.
                if error.kind() == io::ErrorKind::NotFound {
                    self.spool = None;
                }
                if self.told.is_due() {
                    tracing::error!(%error, "records for Kafka cannot be written to the disk");
                }
                0
            }
        }
    }
}

/// Nobody else sends from the front of a document while this is there.
pub(crate) struct Turn<'a> {
    document: &'a Document,
    _held: MutexGuard<'a, ()>,
}

impl Turn<'_> {
    /// Takes what processes that have ended have left.
    pub fn look(&self) {
        let Some(directory) = &self.document.directory else { return };
        let mut disk = lock(&self.document.disk);
        if self.document.is_named {
            // Nobody removes what is in a directory of which somebody has a place.
            disk.open(Some(directory));
        }
        disk.older.extend(places::left(directory));
        if disk.has_no_place() {
            leavings::clear(directory);
        }
    }

    /// Some from the front; none where nothing waits.
    pub fn peek(&self, bytes_about: usize) -> io::Result<Batch<Record>> {
        let mut disk = lock(&self.document.disk);
        loop {
            let Disk { spool, older, .. } = &mut *disk;
            let Some(first) = older.first_mut().or(spool.as_mut()) else { return Ok(Batch::default()) };
            let peeked = first.peek(bytes_about);
            COUNTERS.damaged.fetch_add(std::mem::take(&mut first.damaged), Ordering::Relaxed);
            match peeked {
                Ok(batch) if batch.kept.is_empty() && !older.is_empty() => self.drained(&mut disk),
                peeked => return peeked,
            }
        }
    }

    /// Brokers have these.
    pub fn forget(&self, batch: &Batch<Record>) -> io::Result<()> {
        let mut disk = lock(&self.document.disk);
        let Disk { spool, older, .. } = &mut *disk;
        let Some(first) = older.first_mut().or(spool.as_mut()) else { return Ok(()) };
        first.forget(batch)?;
        if first.is_empty() && !older.is_empty() {
            self.drained(&mut disk);
        }
        Ok(())
    }

    /// Nothing is left of what was left first.
    fn drained(&self, disk: &mut Disk) {
        places::clear(disk.older.remove(0));
        if let Some(directory) = self.document.directory.as_ref().filter(|_| disk.has_no_place()) {
            leavings::clear(directory);
        }
    }
}

impl Drop for Document {
    /// On the thread of a producer, which lets go of it last.
    fn drop(&mut self) {
        let (Some(directory), false) = (&self.directory, ENDS.load(Ordering::Relaxed)) else { return };
        let disk = self.disk.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(spool) = disk.spool.take_if(|spool| spool.is_empty()) {
            places::clear(spool);
        }
        // What is left, or another process is there.
        if directory.is_dir() && !leavings::clear(directory) {
            LEAVINGS.mark(directory);
        }
    }
}

/// The name of a directory of builds before this one.
pub(crate) fn name_before(brokers: &[String], user: Option<&str>) -> String {
    let clean = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '_' };
    let shown: String = brokers.join("+").chars().map(clean).take(80).collect();
    let whole = brokers.join(",") + &user.map(|user| format!("\n{user}")).unwrap_or_default();
    format!("{shown}-{:08x}", proto_kafka::crc32c::crc32c(whole.as_bytes()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

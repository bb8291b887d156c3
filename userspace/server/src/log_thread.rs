//! The file of the log, written by a thread of its own: whoever has something to say, a worker with connections among them, never
//! waits for the disk.

use base_telemetry::log_file::LogFile;
use base_text::Seldom;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// Handles of the same file.
#[derive(Clone)]
pub struct LogThread {
    queue: SyncSender<Said>,
    counts: Arc<Counts>,
}

/// What became of lines.
#[derive(Debug, Default)]
pub struct Counts {
    /// Not written, because so many were waiting for the disk.
    pub not_queued: AtomicU64,
    /// Not written, because the disk took none.
    pub not_written: AtomicU64,
    /// Times the file was moved aside for its size.
    pub rotations: AtomicU64,
}

enum Said {
    Line(String),
    /// Opens the file anew.
    Reopen,
    /// Everything that was said before is in the file when the other end of this hears of it.
    Flush(SyncSender<()>),
}

impl LogThread {
    pub fn start(file: LogFile) -> io::Result<LogThread> {
        let (queue, said) = sync_channel(WAITING_MAX);
        let counts = Arc::<Counts>::default();
        let shared = counts.clone();
        std::thread::Builder::new().name("log".into()).spawn(move || write(file, &said, &shared))?;
        Ok(LogThread { queue, counts })
    }

    pub fn line(&self, line: String) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.queue.try_send(Said::Line(line)) {
            self.counts.not_queued.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn reopen(&self) {
        let _ = self.queue.try_send(Said::Reopen);
    }

    /// Waits until what was said is written, within bounds.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        let mut flush = Said::Flush(done);
        let until = Instant::now() + FLUSH;
        loop {
            match self.queue.try_send(flush) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) if Instant::now() < until => {
                    flush = back;
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(_) => return,
            }
        }
        let _ = wait.recv_timeout(until.saturating_duration_since(Instant::now()));
    }

    pub fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }
}

fn write(mut file: LogFile, said: &Receiver<Said>, counts: &Counts) {
    let mut failed: Option<Instant> = None;
    let mut told = Seldom::once_in(TOLD_AGAIN);
    while let Ok(next) = said.recv() {
        match next {
            Said::Line(line) => {
                // A disk that is full or hangs is tried again after a pause, and not with every line.
                if failed.is_some_and(|at| at.elapsed() < RETRY) {
                    counts.not_written.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                failed = file.write(line.as_bytes()).err().map(|error| {
                    counts.not_written.fetch_add(1, Ordering::Relaxed);
                    complain(&file, &error, &mut told);
                    Instant::now()
                });
                counts.rotations.store(file.rotations(), Ordering::Relaxed);
            }
            Said::Reopen => {
                if let Err(error) = file.reopen() {
                    complain(&file, &error, &mut told);
                }
            }
            Said::Flush(done) => {
                let _ = done.send(());
            }
        }
    }
}

/// The log itself cannot say it.
fn complain(file: &LogFile, error: &io::Error, told: &mut Seldom) {
    if told.is_due() {
        eprintln!(
            "weir: cannot write the log to {}: {error}; lines are dropped until it can be",
            file.path().display()
        );
    }
}

/// Lines that may wait for the disk.
const WAITING_MAX: usize = 4096;
const RETRY: Duration = Duration::from_secs(1);
const TOLD_AGAIN: Duration = Duration::from_secs(60);
/// A disk that hangs does not keep the process from ending.
const FLUSH: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use base_telemetry::log_file::LogBounds;

    #[test]
    fn lines_are_there_after_a_flush_and_counted_where_the_disk_is_full() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stdout.log");
        let log = LogThread::start(LogFile::open(path.clone(), LogBounds::default()).unwrap()).unwrap();
        for n in 0..100 {
            log.line(format!("{n}\n"));
        }
        log.flush();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 100);
        std::os::unix::fs::symlink("/dev/full", directory.path().join("full")).unwrap();
        let full = LogFile::open(directory.path().join("full"), LogBounds::default()).unwrap();
        let full = LogThread::start(full).unwrap();
        (0..10).for_each(|_| full.line("x\n".into()));
        full.flush();
        assert_eq!(full.counts().not_written.load(Ordering::Relaxed), 10);
    }
}

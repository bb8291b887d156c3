//! From the workers' buffers to the file or the terminal.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use base_text::Seldom;

use super::format::{Entry, Format, write_line};
use crate::limits::{Limit, LimitHits};
use crate::locked;
use crate::log_file::{LogBounds, LogFile};

/// The file in the log directory.
pub const FILE_NAME: &str = "filter_http_access.log";

/// A buffer is handed over at this size.
const BUFFER_BYTES: usize = 32 * 1024;
/// Buffers of one worker that may wait for the disk: 2 MiB, some 10,000 lines.
const WAITING_MAX: usize = 64;
/// A line reaches the destination within this time, give or take the disk.
const SWEEP: Duration = Duration::from_millis(150);
/// A worker that finds its buffer being taken away tries this often before it puts the line beside it.
const TRIES: usize = 32;
/// Pause between two attempts, and two complaints, when the destination cannot be written.
const COMPLAIN: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(1);

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    Stdout,
    /// [`FILE_NAME`] in this directory, and those that were moved aside.
    Directory(PathBuf, LogBounds),
}

/// What takes lines where they go neither to a file nor to the terminal. Called by the log's own thread, which may wait.
pub trait Taker: Send {
    /// Takes whole lines, each with its line feed; whether it could. Those it could not are counted.
    fn take(&mut self, lines: &[u8]) -> bool;

    /// All lines there were have been taken.
    fn swept(&mut self) {}

    /// Somebody has moved its file away.
    fn reopen(&mut self) {}

    /// How often its file was moved aside for its size.
    fn rotations(&self) -> u64 {
        0
    }
}

/// The access log of a machine. Dropping it writes what is waiting and ends the thread.
#[derive(Debug)]
pub struct AccessLog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    workers: Box<[Lane]>,
    reopen: AtomicBool,
    stop: AtomicBool,
    queue_limit: Limit,
    write_limit: Limit,
    rotations: AtomicU64,
}

/// What one worker has logged.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Lane {
    queue: Mutex<Queue>,
    /// Lines that met the buffer being taken away: later than what was in it, earlier than what goes into it next. The thread that
    /// takes lines away never has both locks, so that one of them is always free.
    beside: Mutex<Vec<u8>>,
    has_beside: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    open: Vec<u8>,
    full: Vec<Vec<u8>>,
    /// Emptied buffers on their way back.
    spare: Vec<Vec<u8>>,
}

impl AccessLog {
    /// Opens the destination and starts the thread.
    pub fn start(destination: Destination, workers: usize, limits: &LimitHits) -> io::Result<Self> {
        let (queue, write) = (limits.register("access_log_queue"), limits.register("access_log_write"));
        Self::over(Box::new(Sink::open(destination)?), workers, queue, write)
    }

    /// As [`start`](Self::start), with lines for somebody else. `queue_limit` counts lines that found too many waiting, `write_limit`
    /// those that were not taken.
    pub fn over(mut taker: Box<dyn Taker>, workers: usize, queue_limit: Limit, write_limit: Limit) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            workers: (0..workers.max(1)).map(|_| Lane::default()).collect(),
            reopen: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            queue_limit,
            write_limit,
            rotations: AtomicU64::new(0),
        });
        let thread = thread::Builder::new().name("access-log".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || drive(&shared, &mut *taker)
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The writer of a worker. Several of one index are fine on that worker's thread.
    pub fn writer(&self, worker: usize) -> LogWriter {
        LogWriter {
            worker: worker.min(self.shared.workers.len() - 1),
            thread: self.thread.as_ref().map(|thread| thread.thread().clone()),
            shared: Arc::clone(&self.shared),
        }
    }

    /// Opens the file anew after somebody moved it away.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        self.wake();
    }

    /// How often its file was moved aside for its size.
    pub fn rotations(&self) -> u64 {
        self.shared.rotations.load(Ordering::Relaxed)
    }

    /// Writes all lines handed over so far, and ends the thread.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What one worker logs with.
#[derive(Debug)]
pub struct LogWriter {
    shared: Arc<Shared>,
    thread: Option<Thread>,
    worker: usize,
}

impl LogWriter {
    /// Another of the same worker.
    pub fn another(&self) -> LogWriter {
        LogWriter { shared: self.shared.clone(), thread: self.thread.clone(), worker: self.worker }
    }

    /// Logs a request. Never waits.
    pub fn log(&mut self, format: &Format, entry: &Entry<'_>) {
        self.with(|out| write_line(format, entry, out));
    }

    /// Logs a line made by `write`, which ends it with a newline.
    pub fn with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let Some(lane) = self.shared.workers.get(self.worker) else { return };
        let taken = (0..TRIES).find_map(|_| {
            let guard = lane.queue.try_lock().ok();
            if guard.is_none() {
                std::hint::spin_loop();
            }
            guard
        });
        let Some(mut queue) = taken else {
            let mut beside = locked(&lane.beside);
            if beside.len() < BUFFER_BYTES {
                write(&mut beside);
                lane.has_beside.store(true, Ordering::Release);
            } else {
                self.shared.queue_limit.hit(self.worker);
            }
            return;
        };
        // Whoever takes it away right now has it before what comes next.
        if lane.has_beside.load(Ordering::Acquire)
            && let Ok(mut beside) = lane.beside.try_lock()
        {
            queue.open.append(&mut beside);
            lane.has_beside.store(false, Ordering::Release);
        }
        if queue.open.len() >= BUFFER_BYTES {
            if queue.full.len() >= WAITING_MAX {
                self.shared.queue_limit.hit(self.worker);
                return;
            }
            let fresh = queue.spare.pop().unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES + BUFFER_BYTES / 8));
            let full = std::mem::replace(&mut queue.open, fresh);
            queue.full.push(full);
            write(&mut queue.open);
            drop(queue);
            self.thread.iter().for_each(Thread::unpark);
        } else {
            write(&mut queue.open);
        }
    }
}

/// The thread: takes buffers away, writes them, sleeps.
fn drive(shared: &Shared, sink: &mut dyn Taker) {
    let mut taken = Vec::new();
    let mut swept = Instant::now();
    loop {
        let stop = shared.stop.load(Ordering::Acquire);
        if shared.reopen.swap(false, Ordering::AcqRel) {
            sink.reopen();
        }
        let sweep = stop || swept.elapsed() >= SWEEP;
        if sweep {
            swept = Instant::now();
        }
        for worker in &shared.workers {
            worker.take(sweep, &mut taken);
            for buffer in &mut taken {
                if !sink.take(buffer) {
                    shared.write_limit.add(buffer.iter().filter(|&&b| b == b'\n').count() as u64);
                }
                buffer.clear();
            }
            worker.give_back(&mut taken);
        }
        sink.swept();
        shared.rotations.store(sink.rotations(), Ordering::Relaxed);
        if stop {
            return;
        }
        thread::park_timeout(SWEEP.saturating_sub(swept.elapsed()).max(Duration::from_millis(1)));
    }
}

impl Lane {
    /// Holds each lock for a few pointer moves only.
    fn take(&self, sweep: bool, taken: &mut Vec<Vec<u8>>) {
        let mut queue = locked(&self.queue);
        std::mem::swap(&mut queue.full, taken);
        if !sweep {
            return;
        }
        if !queue.open.is_empty() {
            let fresh = queue.spare.pop().unwrap_or_default();
            taken.push(std::mem::replace(&mut queue.open, fresh));
        }
        drop(queue);
        if self.has_beside.load(Ordering::Acquire) {
            let mut beside = locked(&self.beside);
            taken.push(std::mem::take(&mut *beside));
            self.has_beside.store(false, Ordering::Release);
        }
    }

    /// Keeps two emptied buffers for the worker; the rest, and any that grew beyond the usual, goes.
    fn give_back(&self, taken: &mut Vec<Vec<u8>>) {
        taken.retain(|buffer| buffer.capacity() <= 2 * BUFFER_BYTES);
        taken.truncate(2);
        if taken.is_empty() {
            return;
        }
        let mut queue = locked(&self.queue);
        while queue.spare.len() < 2
            && let Some(buffer) = taken.pop()
        {
            queue.spare.push(buffer);
        }
        drop(queue);
        taken.clear();
    }
}

/// The open destination.
struct Sink {
    destination: Destination,
    file: Option<LogFile>,
    failed: Option<Instant>,
    complained: Seldom,
}

impl Sink {
    fn open(destination: Destination) -> io::Result<Self> {
        let file = match &destination {
            Destination::Stdout => None,
            Destination::Directory(directory, bounds) => Some(open_file(directory, *bounds)?),
        };
        Ok(Self { destination, file, failed: None, complained: Seldom::once_in(COMPLAIN) })
    }

    /// Whether the bytes were written. After a failure the next second's lines are given up unseen, so that a dead disk does not keep
    /// the thread in the kernel.
    fn write(&mut self, bytes: &[u8]) -> bool {
        if let Some(failed) = self.failed {
            if failed.elapsed() < RETRY {
                return false;
            }
            self.failed = None;
        }
        let written = match &mut self.file {
            Some(file) => file.write(bytes),
            None => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes).and_then(|()| stdout.flush())
            }
        };
        if let Err(error) = &written {
            self.failed = Some(Instant::now());
            self.complain(error);
        }
        written.is_ok()
    }

    fn complain(&mut self, error: &io::Error) {
        if self.complained.is_due() {
            let place = match &self.destination {
                Destination::Stdout => "standard output".to_owned(),
                Destination::Directory(directory, _) => directory.join(FILE_NAME).display().to_string(),
            };
            tracing::warn!(
                "cannot write the access log to {place}: {error}; lines are dropped, the next attempt is in a second"
            );
        }
    }
}

impl Taker for Sink {
    fn take(&mut self, lines: &[u8]) -> bool {
        self.write(lines)
    }

    fn reopen(&mut self) {
        if let Some(file) = &mut self.file
            && let Err(error) = file.reopen()
        {
            self.complain(&error);
        }
    }

    fn rotations(&self) -> u64 {
        self.file.as_ref().map_or(0, LogFile::rotations)
    }
}

fn open_file(directory: &std::path::Path, bounds: LogBounds) -> io::Result<LogFile> {
    let path = directory.join(FILE_NAME);
    LogFile::open(path.clone(), bounds).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot open the access log {}: {error}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    #[test]
    fn lines_arrive_in_order_and_completely() {
        let directory = tempfile::tempdir().unwrap();
        let limits = LimitHits::new(2);
        let log =
            AccessLog::start(Destination::Directory(directory.path().to_owned(), LogBounds::default()), 2, &limits)
                .unwrap();
        thread::scope(|scope| {
            for worker in 0..2 {
                let mut writer = log.writer(worker);
                scope.spawn(move || {
                    for line in 0..5000 {
                        writer.with(|out| {
                            out.extend_from_slice(format!("{worker} {line} {}\n", "x".repeat(60)).as_bytes())
                        });
                    }
                });
            }
        });
        log.shutdown();
        let text = fs::read_to_string(directory.path().join(FILE_NAME)).unwrap();
        for worker in ["0 ", "1 "] {
            let numbers: Vec<usize> =
                text.lines().filter_map(|line| line.strip_prefix(worker)?.split(' ').next()?.parse().ok()).collect();
            assert!(
                numbers.is_sorted() && numbers.len() + limits.register("access_log_queue").total() as usize >= 5000
            );
        }
        assert_eq!(limits.register("access_log_queue").total(), 0);
    }

    #[test]
    fn an_idle_worker_s_line_is_written_soon() {
        let directory = tempfile::tempdir().unwrap();
        let log = AccessLog::start(
            Destination::Directory(directory.path().to_owned(), LogBounds::default()),
            1,
            &LimitHits::new(1),
        )
        .unwrap();
        let path = directory.path().join(FILE_NAME);
        let mut writer = log.writer(7);
        writer.with(|out| out.extend_from_slice(b"one\n"));
        wait_for(&path, "one\n");
        fs::rename(&path, directory.path().join("old")).unwrap();
        log.reopen();
        // Reopening is asynchronous: what is logged meanwhile may still go to the old file.
        wait_until(|| path.exists());
        writer.with(|out| out.extend_from_slice(b"two\n"));
        wait_for(&path, "two\n");
        assert_eq!(fs::read_to_string(directory.path().join("old")).unwrap(), "one\n");
    }

    #[test]
    fn a_stuck_disk_drops_lines_and_counts_them() {
        let limits = LimitHits::new(1);
        let shared = Arc::new(Shared {
            workers: Box::new([Lane::default()]),
            reopen: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            queue_limit: limits.register("access_log_queue"),
            write_limit: limits.register("access_log_write"),
            rotations: AtomicU64::new(0),
        });
        let mut writer = LogWriter { shared: Arc::clone(&shared), thread: None, worker: 0 };
        for _ in 0..100 {
            writer.with(|out| out.resize(out.len() + BUFFER_BYTES, b'x'));
        }
        let queue = locked(&shared.workers[0].queue);
        assert_eq!(queue.full.len(), WAITING_MAX);
        assert_eq!(limits.register("access_log_queue").total(), 100 - WAITING_MAX as u64 - 1);
        drop(queue);
    }

    #[test]
    fn a_line_that_meets_its_buffer_being_taken_away_is_written_though_no_other_follows() {
        let (limits, lane) = (LimitHits::new(1), Lane::default());
        let shared = Arc::new(Shared {
            workers: Box::new([lane]),
            reopen: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            queue_limit: limits.register("access_log_queue"),
            write_limit: limits.register("access_log_write"),
            rotations: AtomicU64::new(0),
        });
        let writer = || LogWriter { shared: Arc::clone(&shared), thread: None, worker: 0 };
        let log = |line: &[u8]| writer().with(|out| out.extend_from_slice(line));
        let taken = |sweep| {
            let mut taken = Vec::new();
            shared.workers[0].take(sweep, &mut taken);
            String::from_utf8(taken.concat()).unwrap()
        };
        log(b"one\n");
        let guard = locked(&shared.workers[0].queue);
        log(b"two\n");
        drop(guard);
        assert_eq!(taken(false), "", "buffers that are not full wait for the sweep");
        assert_eq!(taken(true), "one\ntwo\n");
        // Its writer is gone meanwhile, and another one's line comes after it.
        log(b"three\n");
        let guard = locked(&shared.workers[0].queue);
        log(b"four\n");
        drop(guard);
        log(b"five\n");
        assert_eq!(taken(true), "three\nfour\nfive\n");
        assert_eq!(taken(true), "");
    }

    #[test]
    fn a_full_disk_is_counted_and_large_files_are_moved_aside() {
        let directory = tempfile::tempdir().unwrap();
        // Whatever is written there, the disk is full.
        std::os::unix::fs::symlink("/dev/full", directory.path().join(FILE_NAME)).unwrap();
        let full = Destination::Directory(directory.path().to_owned(), LogBounds::default());
        let mut sink = Sink::open(full).unwrap();
        assert!(!sink.write(b"x\n"));
        assert!(!sink.write(b"y\n"), "given up until the next attempt");
        let nowhere = Destination::Directory(PathBuf::from("/nonexistent"), LogBounds::default());
        let error = AccessLog::start(nowhere, 1, &LimitHits::new(1)).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/filter_http_access.log"), "{error}");

        fs::remove_file(directory.path().join(FILE_NAME)).unwrap();
        let small = Destination::Directory(directory.path().to_owned(), LogBounds { bytes: 1000, files: 1 });
        let log = AccessLog::start(small, 1, &LimitHits::new(1)).unwrap();
        let mut writer = log.writer(0);
        let path = directory.path().join(FILE_NAME);
        // What comes after a full file begins another.
        writer.with(|out| out.extend_from_slice(&[[b'x'; 1499].as_slice(), b"\n"].concat()));
        wait_until(|| fs::metadata(&path).is_ok_and(|file| file.len() == 1500));
        writer.with(|out| out.extend_from_slice(b"next\n"));
        wait_until(|| log.rotations() == 1);
        log.shutdown();
        assert!(directory.path().join(format!("{FILE_NAME}.1")).exists());
    }

    fn wait_for(path: &Path, expected: &str) {
        wait_until(|| fs::read_to_string(path).is_ok_and(|text| text == expected));
    }

    fn wait_until(done: impl Fn() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < Duration::from_secs(60), "not within a minute");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

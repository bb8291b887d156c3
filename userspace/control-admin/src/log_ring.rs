use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::broadcast;

/// The last lines of the log in memory, for `GET /logs`. Clones share one ring.
#[derive(Clone)]
pub struct LogRing {
    lines: Arc<Mutex<VecDeque<Arc<str>>>>,
    followers: broadcast::Sender<Arc<str>>,
    capacity: usize,
}

impl LogRing {
    /// Keeps `capacity` lines; a follower that falls further behind loses the oldest.
    pub fn new(capacity: usize) -> Self {
        LogRing { lines: Arc::default(), followers: broadcast::Sender::new(1024), capacity }
    }

    pub fn push(&self, line: &str) {
        let line: Arc<str> = line.trim_end_matches('\n').into();
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= self.capacity {
            lines.pop_front();
        }
        lines.push_back(line.clone());
        drop(lines);
        let _ = self.followers.send(line);
    }

    pub fn tail(&self, count: usize) -> Vec<Arc<str>> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().skip(lines.len().saturating_sub(count)).cloned().collect()
    }

    pub fn follow(&self) -> broadcast::Receiver<Arc<str>> {
        self.followers.subscribe()
    }
}

//! A file's bytes on their way to a client, piece by piece as the client takes them.

use super::find::Opened;
use crate::disk;
use bytes::Bytes;
use edge_pipeline::body::booked;
use edge_pipeline::{BodyError, BodyStream, Piece, Sight};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::oneshot;

/// Bytes read at a time. Memory: as much for each file that is being sent.
const READ_BYTES: u64 = 128 * 1024;

/// A part of a body.
pub(super) enum Part {
    Text(Bytes),
    File(Range<u64>),
}

/// See the module doc.
pub(super) struct FileBody {
    file: Arc<Opened>,
    parts: VecDeque<Part>,
    /// What was read and not taken.
    ready: Bytes,
    reading: Option<oneshot::Receiver<io::Result<Bytes>>>,
    left: u64,
}

impl FileBody {
    pub(super) fn new(file: Arc<Opened>, parts: VecDeque<Part>) -> FileBody {
        let length = |part: &Part| match part {
            Part::Text(text) => text.len() as u64,
            Part::File(range) => range.end - range.start,
        };
        let left = parts.iter().map(length).sum();
        FileBody { file, parts, ready: Bytes::new(), reading: None, left }
    }

    /// Has the next bytes of a range read.
    fn read(&mut self, range: Range<u64>) {
        let (sender, receiver) = oneshot::channel();
        let file = self.file.clone();
        disk::read(move || {
            if !sender.is_closed() {
                // Whoever wanted it may have left meanwhile.
                let _ = sender.send(read(&file, range));
            }
        });
        self.reading = Some(receiver);
    }
}

fn read(file: &Opened, range: Range<u64>) -> io::Result<Bytes> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    file.file().read_exact_at(&mut bytes, range.start)?;
    Ok(booked(bytes))
}

impl BodyStream for FileBody {
    fn poll_piece(&mut self, cx: &mut Context<'_>, _: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        loop {
            if !self.ready.is_empty() {
                let piece = self.ready.split_to(self.ready.len().min(Piece::MOST));
                self.left -= piece.len() as u64;
                return Poll::Ready(Ok(Some(Piece::Bytes(piece))));
            }
            if let Some(reading) = &mut self.reading {
                let read = ready!(Pin::new(reading).poll(cx));
                self.reading = None;
                match read {
                    Ok(Ok(bytes)) => self.ready = bytes,
                    // It is shorter than it was, or the disk fails.
                    Ok(Err(_)) | Err(_) => return Poll::Ready(Err(BodyError::Incomplete)),
                }
                continue;
            }
            match self.parts.front_mut() {
                None => return Poll::Ready(Ok(None)),
                Some(Part::Text(text)) => {
                    self.ready = std::mem::take(text);
                    self.parts.pop_front();
                }
                Some(Part::File(range)) if range.is_empty() => drop(self.parts.pop_front()),
                Some(Part::File(range)) => {
                    let next = range.start..range.end.min(range.start + READ_BYTES);
                    range.start = next.end;
                    self.read(next);
                }
            }
        }
    }

    fn remaining(&self) -> Option<u64> {
        Some(self.left)
    }
}

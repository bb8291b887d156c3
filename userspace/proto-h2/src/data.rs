//! What DATA frames are made of: buffers and bytes as they are, and a count of how far they got.

use base_runtime::Buf;
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// A piece of a body on its way out. The machine holds it until windows allow it to be written, and frames of it are written from
/// where it lies.
#[derive(Debug)]
pub struct Data {
    bytes: Kept,
    progress: Option<Rc<Progress>>,
}

#[derive(Debug)]
enum Kept {
    Buf(Buf),
    Bytes(Bytes),
}

impl Data {
    /// The bytes themselves where they can be had without a copy. They count as written once the data is advanced over them.
    pub fn shared(&self) -> Option<Bytes> {
        match &self.bytes {
            Kept::Buf(_) => None,
            Kept::Bytes(bytes) => Some(bytes.clone()),
        }
    }

    /// Gives all of it away to be written, where it lies in a buffer of its own.
    pub(crate) fn take_buffer(&mut self) -> Option<Buf> {
        let taken = match std::mem::replace(&mut self.bytes, Kept::Bytes(Bytes::new())) {
            Kept::Buf(buffer) => buffer,
            other => {
                self.bytes = other;
                return None;
            }
        };
        if let Some(progress) = &self.progress {
            progress.wrote(taken.len() as u64);
        }
        Some(taken)
    }

    /// Tells `progress` of each byte that is written.
    pub fn counted(mut self, progress: &Rc<Progress>) -> Data {
        progress.takes(bytes::Buf::remaining(&self) as u64);
        self.progress = Some(progress.clone());
        self
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        // Of a stream that was reset: it waits no longer.
        if let Some(progress) = &self.progress {
            progress.shared.set(progress.shared.get() - bytes::Buf::remaining(self) as u64);
        }
    }
}

impl From<Buf> for Data {
    fn from(buffer: Buf) -> Data {
        Data { bytes: Kept::Buf(buffer), progress: None }
    }
}

impl From<Bytes> for Data {
    fn from(bytes: Bytes) -> Data {
        Data { bytes: Kept::Bytes(bytes), progress: None }
    }
}

impl bytes::Buf for Data {
    fn remaining(&self) -> usize {
        match &self.bytes {
            Kept::Buf(buffer) => buffer.len(),
            Kept::Bytes(bytes) => bytes.len(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match &self.bytes {
            Kept::Buf(buffer) => buffer,
            Kept::Bytes(bytes) => bytes,
        }
    }

    fn advance(&mut self, count: usize) {
        match &mut self.bytes {
            Kept::Buf(buffer) => buffer.advance(count),
            Kept::Bytes(bytes) => bytes::Buf::advance(bytes, count),
        }
        if let Some(progress) = &self.progress {
            progress.wrote(count as u64);
        }
    }
}

/// How much of what a stream was given has been written to its connection.
#[derive(Debug, Default)]
pub struct Progress {
    handed: Cell<u64>,
    written: Cell<u64>,
    /// Bytes waiting of all streams that share this count.
    shared: Rc<Cell<u64>>,
    /// So many bytes may wait when `waker` is woken.
    mark: Cell<u64>,
    waker: RefCell<Option<Waker>>,
}

impl Progress {
    /// `shared` counts what waits of several streams.
    pub fn new(shared: &Rc<Cell<u64>>) -> Progress {
        Progress { shared: shared.clone(), ..Progress::default() }
    }

    /// Bytes given to the machine.
    pub fn handed(&self) -> u64 {
        self.handed.get()
    }

    /// Of those, bytes written to the connection.
    pub fn written(&self) -> u64 {
        self.written.get()
    }

    /// Ready when at most `most` bytes wait for windows, or for their turn.
    pub fn poll_waiting(&self, most: u64, cx: &mut Context<'_>) -> Poll<()> {
        if self.handed.get() - self.written.get() <= most {
            return Poll::Ready(());
        }
        self.mark.set(most);
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    fn takes(&self, bytes: u64) {
        self.handed.set(self.handed.get() + bytes);
        self.shared.set(self.shared.get() + bytes);
    }

    fn wrote(&self, bytes: u64) {
        self.written.set(self.written.get() + bytes);
        self.shared.set(self.shared.get() - bytes);
        if self.handed.get() - self.written.get() <= self.mark.get()
            && let Some(waker) = self.waker.borrow_mut().take()
        {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Buf as _;

    #[test]
    fn what_waits_is_counted_until_it_is_written_or_thrown_away() {
        let shared = Rc::new(Cell::new(0));
        let streams = [(); 2].map(|()| Rc::new(Progress::new(&shared)));
        let mut first = Data::from(Bytes::from_static(b"hello")).counted(&streams[0]);
        let second = Data::from(Bytes::from_static(b"world!")).counted(&streams[1]);
        first.advance(2);
        assert_eq!((shared.get(), streams[0].handed(), streams[0].written()), (9, 5, 2));
        drop(second);
        assert_eq!(shared.get(), 3);
        first.advance(3);
        drop(first);
        assert_eq!(shared.get(), 0);
    }
}

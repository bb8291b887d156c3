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
    /// Tells `progress` of each byte that is written.
    pub fn counted(self, progress: &Rc<Progress>) -> Data {
        progress.handed.set(progress.handed.get() + bytes::Buf::remaining(&self) as u64);
        Data { bytes: self.bytes, progress: Some(progress.clone()) }
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

/// How much of what a stream was given has been written to its connection. The crate says how much windows would allow, but not what
/// became of what it was given.
#[derive(Debug, Default)]
pub struct Progress {
    handed: Cell<u64>,
    written: Cell<u64>,
    /// So many bytes may wait when `waker` is woken.
    mark: Cell<u64>,
    waker: RefCell<Option<Waker>>,
}

impl Progress {
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

    fn wrote(&self, bytes: u64) {
        self.written.set(self.written.get() + bytes);
        if self.handed.get() - self.written.get() <= self.mark.get()
            && let Some(waker) = self.waker.borrow_mut().take()
        {
            waker.wake();
        }
    }
}

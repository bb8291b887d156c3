//! Maps by name: arrays mapped into memory, and the descriptors of the others.

use std::io;
use std::marker::PhantomData;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::sys::{self, Plain};

/// An array map in our own memory. The programs read and write it at the same time, so nothing here ever makes a reference
/// to an element: words are loaded and stored.
pub(crate) struct MappedArray<T> {
    base: NonNull<u8>,
    bytes: usize,
    len: usize,
    element: PhantomData<T>,
}

// SAFETY: the mapping belongs to the value and may be used from any thread; all access goes through `&mut self` or single words.
unsafe impl<T> Send for MappedArray<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for MappedArray<T> {}

impl<T: Plain> MappedArray<T> {
    /// The mapping keeps the map alive; the descriptor is not needed any longer.
    pub(crate) fn open(fd: OwnedFd) -> io::Result<MappedArray<T>> {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let (entries, _, value) = sys::map_sizes(fd.as_fd())?;
        if value as usize != size_of::<T>() {
            return Err(io::Error::other(format!("value of {value} bytes where {} are expected", size_of::<T>())));
        }
        let bytes = entries as usize * size_of::<T>();
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(MappedArray { base, bytes, len: entries as usize, element: PhantomData })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// A copy of an element. Torn if a program writes it meanwhile: counters may be a packet off, nothing else is read so.
    pub(crate) fn read(&self, index: usize) -> T {
        assert!(index < self.len);
        // SAFETY: inside the mapping, aligned to 8 bytes as all elements of an array map are.
        unsafe { self.base.as_ptr().cast::<T>().add(index).read_volatile() }
    }

    /// Not atomic: only for elements that no program looks at.
    pub(crate) fn write(&mut self, index: usize, value: T) {
        assert!(index < self.len);
        // SAFETY: as in `read`.
        unsafe { self.base.as_ptr().cast::<T>().add(index).write_volatile(value) }
    }

    /// The whole array as words that may be stored while programs read them.
    pub(crate) fn words(&self) -> &[AtomicU32] {
        // SAFETY: inside the mapping and aligned; atomics may be shared with the programs.
        unsafe { slice::from_raw_parts(self.base.as_ptr().cast::<AtomicU32>(), self.len * size_of::<T>() / 4) }
    }

    /// The same as double words.
    pub(crate) fn double_words(&self) -> &[AtomicU64] {
        // SAFETY: as in `words`; elements are aligned to 8 bytes and a multiple of that long.
        unsafe { slice::from_raw_parts(self.base.as_ptr().cast::<AtomicU64>(), self.len * size_of::<T>() / 8) }
    }

    /// Stores one word so that everything written before is seen by who reads the word.
    pub(crate) fn publish(&self, word: usize, value: u32) {
        self.words()[word].store(value, Ordering::Release);
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `open`; no reference to it outlives self.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

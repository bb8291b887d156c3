//! Tables whose entries stay where they are: they grow by a chunk at a time.
//!
//! A `Vec` that doubles copies all of its entries, and leaves halves with the allocator that nobody has a use for: after a burst of
//! connections they were as much memory as the tables themselves.

use std::ops::{Index, IndexMut};

/// Entries in chunks of [`CHUNK`], in order of their making.
pub(crate) struct Chunks<T> {
    chunks: Vec<Box<[T; CHUNK]>>,
    len: usize,
}

impl<T> Default for Chunks<T> {
    fn default() -> Chunks<T> {
        Chunks { chunks: Vec::new(), len: 0 }
    }
}

impl<T: Default> Chunks<T> {
    /// Adds an entry and says which it is.
    pub fn push(&mut self, entry: T) -> u32 {
        let index = self.len;
        if index == self.chunks.len() * CHUNK {
            let chunk: Box<[T]> = (0..CHUNK).map(|_| T::default()).collect();
            let Ok(chunk) = chunk.try_into() else { unreachable!("it was made of {CHUNK} entries") };
            self.chunks.push(chunk);
        }
        self.chunks[index / CHUNK][index % CHUNK] = entry;
        self.len += 1;
        index as u32
    }
}

impl<T> Chunks<T> {
    /// `None` where no chunk reaches; what lies behind the last entry of a chunk has its default.
    #[inline]
    pub fn get(&self, index: u32) -> Option<&T> {
        Some(&self.chunks.get(index as usize / CHUNK)?[index as usize % CHUNK])
    }

    #[inline]
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        Some(&mut self.chunks.get_mut(index as usize / CHUNK)?[index as usize % CHUNK])
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).take(self.len)
    }
}

impl<T> Index<u32> for Chunks<T> {
    type Output = T;

    #[inline]
    fn index(&self, index: u32) -> &T {
        &self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }
}

impl<T> IndexMut<u32> for Chunks<T> {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }
}

/// Values under keys that are used again when their value is taken out.
pub struct Table<T> {
    slots: Chunks<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Table<T> {
    fn default() -> Table<T> {
        Table { slots: Chunks::default(), free: Vec::new() }
    }
}

impl<T> Table<T> {
    /// Puts in what `make` makes of its key.
    pub fn insert_with(&mut self, make: impl FnOnce(u32) -> T) -> &T {
        let key = self.free.pop().unwrap_or_else(|| self.slots.push(None));
        self.slots[key].insert(make(key))
    }

    pub fn get(&self, key: u32) -> Option<&T> {
        self.slots.get(key)?.as_ref()
    }

    pub fn remove(&mut self, key: u32) -> Option<T> {
        let removed = self.slots.get_mut(key)?.take();
        if removed.is_some() {
            self.free.push(key);
        }
        removed
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().flatten()
    }
}

/// A chunk of two words an entry is a page.
const CHUNK: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stay_where_they_are() {
        let mut chunks = Chunks::default();
        assert!(chunks.get(0).is_none() && chunks.iter().next().is_none());
        assert_eq!(chunks.push(0), 0);
        let first: *const u32 = &raw const chunks[0];
        for n in 1..3 * CHUNK as u32 + 7 {
            assert_eq!(chunks.push(n), n);
        }
        assert_eq!(&raw const chunks[0], first);
        assert!(chunks.iter().copied().eq(0..3 * CHUNK as u32 + 7));
        chunks[CHUNK as u32] = 9;
        assert_eq!((chunks[CHUNK as u32], chunks.get(4 * CHUNK as u32)), (9, None));
    }

    #[test]
    fn keys_are_used_again() {
        let mut table = Table::default();
        let keys: Vec<u32> = (0..600).map(|n| table.insert_with(|key| (key, n)).0).collect();
        assert!(keys.iter().all(|&key| table.get(key).is_some_and(|(known, _)| *known == key)));
        assert_eq!(table.remove(keys[300]), Some((keys[300], 300)));
        assert_eq!((table.remove(keys[300]), table.remove(10_000)), (None, None));
        assert_eq!((table.get(keys[300]), table.get(10_000)), (None, None));
        assert_eq!(table.iter().count(), 599);
        assert_eq!(table.insert_with(|key| (key, 7)), &(keys[300], 7));
        assert_eq!(table.iter().count(), 600);
    }
}

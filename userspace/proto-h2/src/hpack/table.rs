//! The dynamic table (RFC 7541 section 2.3.2): fields in the order they came, the oldest of which make room for the newest.

use super::FIELD_OVERHEAD;
use std::collections::VecDeque;

/// Names and values lie one behind the other in a ring of bytes, which is as large as they need and no larger than the table may be.
#[derive(Debug)]
pub struct Table {
    /// Of the oldest field first.
    text: VecDeque<u8>,
    fields: VecDeque<Entry>,
    /// As the RFC counts it.
    size: usize,
    most: usize,
    /// Bytes that were taken off the front of `text`, so that places count from the beginning of time.
    gone: usize,
    #[cfg(test)]
    copied: std::cell::Cell<usize>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    start: usize,
    /// No name or value is longer than a table, whose size is bounded by [`TABLE_MOST`].
    name: u16,
    value: u16,
}

/// Bytes that any table may have.
const TABLE_MOST: usize = u16::MAX as usize;

impl Table {
    pub fn new(most: usize) -> Table {
        let most = most.min(TABLE_MOST);
        Table {
            text: VecDeque::new(),
            fields: VecDeque::new(),
            size: 0,
            most,
            gone: 0,
            #[cfg(test)]
            copied: std::cell::Cell::new(0),
        }
    }

    /// Fields it has.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    pub fn memory(&self) -> usize {
        self.text.capacity() + self.fields.capacity() * size_of::<Entry>()
    }

    /// Bytes it has, as the RFC counts them.
    #[cfg(test)]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Bytes that were copied out of it.
    #[cfg(test)]
    pub fn copied(&self) -> usize {
        self.copied.get()
    }

    /// Bytes of name and value of the field that came as the `at`th before the newest. There must be one.
    pub fn sizes(&self, at: usize) -> (usize, usize) {
        let entry = self.entry(at);
        (entry.name.into(), entry.value.into())
    }

    /// Bytes it may have from now on.
    pub fn resize(&mut self, most: usize) {
        self.most = most.min(TABLE_MOST);
        self.make_room(0);
    }

    /// A field, whose name is that much of `text` and its value the rest. One larger than the table empties it (section 4.4).
    pub fn insert(&mut self, text: &[u8], name: usize) {
        let size = text.len() + FIELD_OVERHEAD;
        self.make_room(size);
        if size > self.most {
            return;
        }
        let start = self.gone + self.text.len();
        self.text.extend(text);
        self.fields.push_back(Entry { start, name: name as u16, value: (text.len() - name) as u16 });
        self.size += size;
    }

    /// Appends the name of the field that came as the `at`th before the newest. There must be one.
    #[inline]
    pub fn push_name(&self, at: usize, into: &mut Vec<u8>) {
        let entry = self.entry(at);
        self.push(entry.start, entry.name.into(), into);
    }

    #[inline]
    pub fn push_value(&self, at: usize, into: &mut Vec<u8>) {
        let entry = self.entry(at);
        self.push(entry.start + usize::from(entry.name), entry.value.into(), into);
    }

    fn entry(&self, at: usize) -> Entry {
        self.fields[self.fields.len() - 1 - at]
    }

    #[inline]
    fn push(&self, start: usize, length: usize, into: &mut Vec<u8>) {
        #[cfg(test)]
        self.copied.set(self.copied.get() + length);
        let start = start.wrapping_sub(self.gone);
        let (front, back) = self.text.as_slices();
        if start + length <= front.len() {
            into.extend_from_slice(&front[start..start + length]);
        } else if start >= front.len() {
            let start = start - front.len();
            into.extend_from_slice(&back[start..start + length]);
        } else {
            into.extend_from_slice(&front[start..]);
            into.extend_from_slice(&back[..length - (front.len() - start)]);
        }
    }

    /// Lets go of the oldest until a field of this size fits, or none is left.
    fn make_room(&mut self, size: usize) {
        while self.size + size > self.most
            && let Some(oldest) = self.fields.pop_front()
        {
            let length = usize::from(oldest.name) + usize::from(oldest.value);
            self.text.drain(..length);
            self.gone += length;
            self.size -= length + FIELD_OVERHEAD;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(table: &Table, at: usize) -> (Vec<u8>, Vec<u8>) {
        let (mut name, mut value) = (Vec::new(), Vec::new());
        table.push_name(at, &mut name);
        table.push_value(at, &mut value);
        (name, value)
    }

    #[test]
    fn the_oldest_make_room() {
        let mut table = Table::new(3 * (FIELD_OVERHEAD + 4));
        for n in 0..100u8 {
            table.insert(&[b'a', b'b', n, n], 2);
            assert_eq!(table.len(), usize::from(n + 1).min(3));
            for at in 0..table.len() {
                assert_eq!(field(&table, at), (b"ab".to_vec(), vec![n - at as u8; 2]), "{n} {at}");
            }
        }
        table.resize(2 * (FIELD_OVERHEAD + 4));
        assert_eq!((table.len(), field(&table, 1)), (2, (b"ab".to_vec(), vec![98; 2])));
        table.insert(&[0; 200], 1);
        assert_eq!((table.len(), table.size, table.text.len()), (0, 0, 0), "one too large for it empties it");
    }

    #[test]
    fn it_holds_no_more_memory_than_it_may() {
        let mut table = Table::new(4096);
        assert_eq!(table.memory(), 0);
        for n in 0..10_000usize {
            table.insert(&vec![0; n % 200], 0);
            assert!(table.size <= 4096 && table.memory() <= 4096 + 128 * size_of::<Entry>(), "{}", table.memory());
        }
    }
}

//! Numbers and texts as the protocol has them.

use std::fmt;

/// An answer that is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

/// Reads from the front of some bytes.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    pub fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed("the answer ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    pub fn i8(&mut self) -> Result<i8, Malformed> {
        self.array::<1>().map(i8::from_be_bytes)
    }

    pub fn i16(&mut self) -> Result<i16, Malformed> {
        self.array().map(i16::from_be_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_be_bytes)
    }

    /// A text, or none.
    pub fn text(&mut self) -> Result<Option<String>, Malformed> {
        match self.i16()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| Malformed("a text of negative length"))?;
                let bytes = self.take(length)?;
                Ok(Some(String::from_utf8(bytes.to_vec()).map_err(|_| Malformed("a text that is not UTF-8"))?))
            }
        }
    }

    /// As many things as it says; no more than there can be, whose bytes have come.
    pub fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Result<T, Malformed>) -> Result<Vec<T>, Malformed> {
        let count = usize::try_from(self.i32()?.max(0)).unwrap_or(0);
        if count > self.0.len() {
            return Err(Malformed("a list that is longer than its bytes"));
        }
        (0..count).map(|_| read(self)).collect()
    }
}

/// Writes to the end of some bytes.
pub trait Write {
    fn put_i8(&mut self, value: i8);
    fn put_i16(&mut self, value: i16);
    fn put_i32(&mut self, value: i32);
    fn put_i64(&mut self, value: i64);
    /// Texts are at most 32,767 bytes long; what is beyond is cut off.
    fn put_text(&mut self, text: Option<&str>);
    /// A number in as many bytes as it takes, the sign in its lowest bit.
    fn put_varint(&mut self, value: i64);
    fn put_bytes(&mut self, bytes: Option<&[u8]>);
}

impl Write for Vec<u8> {
    fn put_i8(&mut self, value: i8) {
        self.extend(value.to_be_bytes());
    }

    fn put_i16(&mut self, value: i16) {
        self.extend(value.to_be_bytes());
    }

    fn put_i32(&mut self, value: i32) {
        self.extend(value.to_be_bytes());
    }

    fn put_i64(&mut self, value: i64) {
        self.extend(value.to_be_bytes());
    }

    fn put_text(&mut self, text: Option<&str>) {
        match text {
            None => self.put_i16(-1),
            Some(text) => {
                let bytes = &text.as_bytes()[..text.len().min(i16::MAX as usize)];
                self.put_i16(bytes.len() as i16);
                self.extend(bytes);
            }
        }
    }

    fn put_varint(&mut self, value: i64) {
        let mut rest = ((value << 1) ^ (value >> 63)) as u64;
        while rest >= 0x80 {
            self.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.push(rest as u8);
    }

    fn put_bytes(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            None => self.put_varint(-1),
            Some(bytes) => {
                self.put_varint(bytes.len() as i64);
                self.extend(bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_length() {
        for (value, bytes) in
            [(0, vec![0]), (-1, vec![1]), (1, vec![2]), (63, vec![126]), (64, vec![0x80, 1]), (300, vec![0xd8, 4])]
        {
            let mut written = Vec::new();
            written.put_varint(value);
            assert_eq!(written, bytes, "{value}");
        }
    }

    #[test]
    fn lists_are_no_longer_than_their_bytes() {
        let mut reader = Reader::new(&[0x7f, 0xff, 0xff, 0xff, 0]);
        assert!(reader.list(Reader::i8).is_err());
        assert_eq!(Reader::new(&[0, 0, 0, 2, 1, 2]).list(Reader::i8), Ok(vec![1, 2]));
        assert_eq!(Reader::new(&[0xff, 0xff]).text(), Ok(None));
        assert!(Reader::new(&[0, 2, 0xff, 0xff]).text().is_err());
    }
}

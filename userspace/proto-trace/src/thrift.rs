//! As much of Thrift as the messages need, in both of its encodings
//! (<https://github.com/apache/thrift/blob/master/doc/specs/thrift-binary-protocol.md> and `thrift-compact-protocol.md`).

use crate::protobuf;

/// How values are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Binary,
    Compact,
}

/// What a field, or an element of a list, is.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    I32,
    I64,
    Text,
    List,
    Struct,
}

impl Kind {
    fn number(self, encoding: Encoding) -> u8 {
        let (binary, compact) = match self {
            Kind::I32 => (8, 5),
            Kind::I64 => (10, 6),
            Kind::Text => (11, 8),
            Kind::List => (15, 9),
            Kind::Struct => (12, 12),
        };
        if encoding == Encoding::Binary { binary } else { compact }
    }
}

/// Writes one message.
pub struct Writer {
    encoding: Encoding,
    pub out: Vec<u8>,
    /// The field written last in each struct that is open: compact fields say how far they are from it.
    last: Vec<i16>,
}

impl Writer {
    pub fn new(encoding: Encoding) -> Writer {
        Writer { encoding, out: Vec::with_capacity(1024), last: vec![0] }
    }

    /// A call that nobody answers. What follows is the struct of its arguments.
    pub fn call(&mut self, method: &str) {
        match self.encoding {
            Encoding::Binary => {
                self.out.extend([0x80, 0x01, 0x00, ONE_WAY]);
                self.text(method);
                self.out.extend([0; 4]);
            }
            Encoding::Compact => {
                self.out.extend([0x82, ONE_WAY << 5 | 1, 0]);
                self.text(method);
            }
        }
    }

    fn field(&mut self, id: i16, number: u8) {
        let last = self.last.last_mut().map_or(0, |last| std::mem::replace(last, id));
        match self.encoding {
            Encoding::Binary => {
                self.out.push(number);
                self.out.extend(id.to_be_bytes());
            }
            Encoding::Compact => match u8::try_from(id - last) {
                Ok(further @ 1..=15) => self.out.push(further << 4 | number),
                _ => {
                    self.out.push(number);
                    self.varint(zigzag(id.into()));
                }
            },
        }
    }

    pub fn i32_field(&mut self, id: i16, value: i32) {
        self.field(id, Kind::I32.number(self.encoding));
        match self.encoding {
            Encoding::Binary => self.out.extend(value.to_be_bytes()),
            Encoding::Compact => self.varint(zigzag(value.into())),
        }
    }

    pub fn i64_field(&mut self, id: i16, value: i64) {
        self.field(id, Kind::I64.number(self.encoding));
        match self.encoding {
            Encoding::Binary => self.out.extend(value.to_be_bytes()),
            Encoding::Compact => self.varint(zigzag(value)),
        }
    }

    pub fn bool_field(&mut self, id: i16, value: bool) {
        match self.encoding {
            Encoding::Binary => {
                self.field(id, 2);
                self.out.push(value.into());
            }
            // The kind says which it is.
            Encoding::Compact => self.field(id, if value { 1 } else { 2 }),
        }
    }

    pub fn text_field(&mut self, id: i16, text: &str) {
        self.field(id, Kind::Text.number(self.encoding));
        self.text(text);
    }

    /// A list of so many structs, which are to follow.
    pub fn list_field(&mut self, id: i16, length: usize) {
        self.field(id, Kind::List.number(self.encoding));
        let element = Kind::Struct.number(self.encoding);
        match (self.encoding, u8::try_from(length)) {
            (Encoding::Binary, _) => {
                self.out.push(element);
                self.length(length);
            }
            (Encoding::Compact, Ok(short @ 0..=14)) => self.out.push(short << 4 | element),
            (Encoding::Compact, _) => {
                self.out.push(0xf0 | element);
                self.length(length);
            }
        }
    }

    pub fn struct_field(&mut self, id: i16, fields: impl FnOnce(&mut Writer)) {
        self.field(id, Kind::Struct.number(self.encoding));
        self.element(fields);
    }

    /// A struct: an element of a list, or the whole message.
    pub fn element(&mut self, fields: impl FnOnce(&mut Writer)) {
        self.last.push(0);
        fields(self);
        self.last.pop();
        self.out.push(0);
    }

    fn text(&mut self, text: &str) {
        self.length(text.len());
        self.out.extend(text.as_bytes());
    }

    fn length(&mut self, length: usize) {
        match self.encoding {
            Encoding::Binary => self.out.extend((length as u32).to_be_bytes()),
            Encoding::Compact => self.varint(length as u64),
        }
    }

    /// Written as protobuf's are.
    fn varint(&mut self, value: u64) {
        protobuf::varint(value, &mut self.out);
    }
}

/// The kind of a call that nobody answers.
const ONE_WAY: u8 = 4;

/// Small numbers of either sign become small ones.
fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

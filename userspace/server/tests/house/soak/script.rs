//! What a request asks of its backend, written into its path, and the bytes both sides expect for it.

/// A generator whose seed is all there is to say about it (SplitMix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// One for each of many threads of the same seed.
    pub fn of(seed: u64, part: &str, index: usize) -> Random {
        Random(digest(&[&seed.to_le_bytes(), part.as_bytes(), &index.to_le_bytes()]))
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// 0 to `most` - 1.
    pub fn below(&mut self, most: u64) -> u64 {
        self.draw() % most
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    pub fn pick_of<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// Mostly small, sometimes beyond every buffer on the way.
    pub fn size(&mut self) -> usize {
        let most = match self.below(20) {
            0 => 1,
            1..10 => 2_000,
            10..17 => 20_000,
            17..19 => 120_000,
            _ => 700_000,
        };
        self.below(most) as usize
    }
}

/// FNV-1a over parts with a mark between them.
pub fn digest(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    for part in parts {
        for byte in part.iter().chain(&[0xFF]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3);
        }
    }
    hash
}

/// `size` bytes that follow from `seed`.
pub fn bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        bytes.extend_from_slice(&random.draw().to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// How a backend is to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// With Content-Length.
    Length,
    Chunked,
    /// Until the connection closes.
    Close,
    /// Two interim answers before it.
    Interim,
    /// A pause before the head.
    Late,
    /// A pause in the middle of the body.
    Stall,
    /// The body in small pieces.
    Drip,
    /// Bytes that belong to no answer right behind it.
    Extra,
    /// Before the request's body was read, which is read then.
    Early,
    /// As `Early`, but the rest of the request is never read and the connection is closed.
    EarlyClose,
    NoContent,
    NotModified,
    /// A 500 of the backend's own.
    Fails,
    /// Never.
    Silent,
    /// A reset instead of an answer.
    Reset,
    /// A reset in the middle of the body.
    ResetMid,
    /// Fewer bytes than announced, then the end.
    Short,
    /// Chunks without the last one, then the end.
    ShortChunks,
    /// A chunk size that is none, in the middle.
    BadChunk,
    /// Bytes that are not HTTP.
    Garbage,
}

use Behaviour::*;

const NAMES: &[(Behaviour, &str)] = &[
    (Length, "length"),
    (Chunked, "chunked"),
    (Close, "close"),
    (Interim, "interim"),
    (Late, "late"),
    (Stall, "stall"),
    (Drip, "drip"),
    (Extra, "extra"),
    (Early, "early"),
    (EarlyClose, "early-close"),
    (NoContent, "no-content"),
    (NotModified, "not-modified"),
    (Fails, "fails"),
    (Silent, "silent"),
    (Reset, "reset"),
    (ResetMid, "reset-mid"),
    (Short, "short"),
    (ShortChunks, "short-chunks"),
    (BadChunk, "bad-chunk"),
    (Garbage, "garbage"),
];

impl Behaviour {
    /// Those that end in a whole answer whatever the method.
    pub const WHOLE: &[Behaviour] =
        &[Length, Length, Length, Chunked, Chunked, Close, Interim, Late, Stall, Drip, NoContent, NotModified, Fails];

    pub const BROKEN: &[Behaviour] = &[Reset, ResetMid, Short, ShortChunks, BadChunk, Garbage, EarlyClose];

    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(b, _)| *b == self).map_or("", |(_, name)| name)
    }

    fn named(name: &str) -> Option<Behaviour> {
        NAMES.iter().find(|(_, n)| *n == name).map(|(b, _)| *b)
    }

    /// Statuses the client may see when nothing but the script disturbs the exchange.
    pub fn statuses(self) -> &'static [u16] {
        match self {
            NoContent => &[204],
            NotModified => &[304],
            Fails => &[500],
            Silent => &[408],
            Reset => &[503],
            Garbage => &[502, 503],
            // Those are 200 as well: see `may_be_cut`.
            ResetMid | Short | ShortChunks | BadChunk => &[500, 502, 503],
            EarlyClose => &[200, 503],
            _ => &[200],
        }
    }

    /// A 200 may come, but never look complete.
    pub fn must_be_cut(self) -> bool {
        matches!(self, ResetMid | Short | ShortChunks | BadChunk)
    }

    /// A 200 may come and break off.
    pub fn may_be_cut(self) -> bool {
        self.must_be_cut() || self == EarlyClose
    }

    /// The answer is made before the request's body is known.
    pub fn ignores_body(self) -> bool {
        matches!(self, Early | EarlyClose)
    }
}

/// The pool a request goes to, and what is asked there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    pub pool: String,
    pub behaviour: Behaviour,
    pub size: usize,
    pub nonce: u64,
}

impl Script {
    pub fn path(&self) -> String {
        format!("/{}/{}/{}/{:x}", self.pool, self.behaviour.name(), self.size, self.nonce)
    }

    pub fn parse(path: &str) -> Option<Script> {
        let mut parts = path.strip_prefix('/')?.split('/');
        let script = Script {
            pool: parts.next()?.to_owned(),
            behaviour: Behaviour::named(parts.next()?)?,
            size: parts.next()?.parse().ok()?,
            nonce: u64::from_str_radix(parts.next()?, 16).ok()?,
        };
        parts.next().is_none().then_some(script)
    }

    /// The answer's body: it tells whether path and request body arrived as they were sent.
    pub fn answer(&self, request_body: &[u8]) -> Vec<u8> {
        if matches!(self.behaviour, NoContent | NotModified) {
            return Vec::new();
        }
        let read = if self.behaviour.ignores_body() { &[] } else { request_body };
        bytes(digest(&[self.path().as_bytes(), read]), self.size)
    }
}

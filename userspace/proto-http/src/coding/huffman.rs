//! Huffman's code of field values (RFC 7541 Appendix B, which RFC 9204 takes over).
//!
//! The code is canonical: the lengths of its words say all there is to know. Four bits are decoded at a time.

use std::sync::LazyLock;

/// A word was wrong: the end-of-string word, padding longer than seven bits or other than ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

/// Appends what `coded` stands for. `most` is how much longer `into` may become; more gives `Ok(false)`, with as much of it as there
/// is room for.
pub fn decode(coded: &[u8], most: usize, into: &mut Vec<u8>) -> Result<bool, Broken> {
    let (table, mut node) = (&*TABLE, ROOT);
    let end = into.len() + most;
    for byte in coded {
        for nibble in [byte >> 4, byte & 0xf] {
            let step = table[usize::from(node)][usize::from(nibble)];
            node = match step.kind {
                Kind::Broken => return Err(Broken),
                Kind::Walks => step.node,
                Kind::Says if into.len() == end => return Ok(false),
                Kind::Says => {
                    into.push(step.symbol);
                    step.node
                }
            };
        }
    }
    if is_padding(node) { Ok(true) } else { Err(Broken) }
}

/// Bytes of `plain` once coded.
pub fn coded_length(plain: &[u8]) -> usize {
    plain.iter().map(|byte| usize::from(LENGTHS[usize::from(*byte)])).sum::<usize>().div_ceil(8)
}

/// Appends `plain`, coded.
pub fn encode(plain: &[u8], into: &mut Vec<u8>) {
    let (mut bits, mut waiting) = (0u64, 0u32);
    for byte in plain {
        let (word, length) = (WORDS[usize::from(*byte)], u32::from(LENGTHS[usize::from(*byte)]));
        bits = bits << length | u64::from(word);
        waiting += length;
        while waiting >= 8 {
            waiting -= 8;
            into.push((bits >> waiting) as u8);
        }
    }
    if waiting > 0 {
        into.push((bits << (8 - waiting)) as u8 | 0xff >> waiting);
    }
}

#[derive(Debug, Clone, Copy)]
struct Step {
    kind: Kind,
    symbol: u8,
    node: u8,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Broken,
    Walks,
    Says,
}

const ROOT: u8 = 0;

/// The first nodes along the ones are numbered first: where padding may end.
const PADDING: u8 = 7;

fn is_padding(node: u8) -> bool {
    node <= PADDING
}

/// A node's two branches.
#[derive(Debug, Clone, Copy)]
enum Branch {
    Nothing,
    Node(u8),
    Symbol(u16),
}

/// The end-of-string word, which never stands in a value.
const END: u16 = 256;

static TABLE: LazyLock<Box<[[Step; 16]; 256]>> = LazyLock::new(|| {
    let mut tree = vec![[Branch::Nothing; 2]];
    // Along the ones first, see `PADDING`.
    for at in 0..PADDING {
        tree[usize::from(at)][1] = Branch::Node(at + 1);
        tree.push([Branch::Nothing; 2]);
    }
    let ends = std::iter::once((END, END_WORD, END_LENGTH));
    let symbols = (0..256u16).map(|s| (s, WORDS[usize::from(s)], LENGTHS[usize::from(s)]));
    for (symbol, word, length) in symbols.chain(ends) {
        let mut node = 0;
        for bit in (1..length).rev().map(|at| (word >> at & 1) as usize) {
            node = match tree[node][bit] {
                Branch::Node(next) => usize::from(next),
                _ => {
                    // A code of 257 words has 256 inner nodes.
                    tree.push([Branch::Nothing; 2]);
                    tree[node][bit] = Branch::Node((tree.len() - 1) as u8);
                    tree.len() - 1
                }
            };
        }
        tree[node][(word & 1) as usize] = Branch::Symbol(symbol);
    }
    let mut table = Box::new([[Step { kind: Kind::Broken, symbol: 0, node: ROOT }; 16]; 256]);
    for (row, steps) in table.iter_mut().enumerate().take(tree.len()) {
        for (nibble, step) in steps.iter_mut().enumerate() {
            let (mut node, mut said) = (row, None);
            let mut broken = false;
            for bit in (0..4).rev().map(|at| nibble >> at & 1) {
                match tree[node][bit] {
                    Branch::Node(next) => node = usize::from(next),
                    // No word is shorter than five bits, so one ends in four bits at most.
                    Branch::Symbol(symbol) if symbol != END => (node, said) = (0, Some(symbol as u8)),
                    Branch::Symbol(_) | Branch::Nothing => {
                        broken = true;
                        break;
                    }
                }
            }
            if !broken {
                let kind = if said.is_some() { Kind::Says } else { Kind::Walks };
                *step = Step { kind, symbol: said.unwrap_or(0), node: node as u8 };
            }
        }
    }
    table
});

const END_LENGTH: u8 = 30;
const END_WORD: u32 = (1 << END_LENGTH) - 1;

/// The words: within a length they ascend with what they stand for, and the first of a length follows the last of the one before.
const WORDS: [u32; 256] = {
    let mut words = [0; 256];
    let (mut word, mut length) = (0, 1);
    while length <= END_LENGTH {
        let mut symbol = 0;
        while symbol < 256 {
            if LENGTHS[symbol] == length {
                words[symbol] = word;
                word += 1;
            }
            symbol += 1;
        }
        word <<= 1;
        length += 1;
    }
    words
};

/// Bits of the word for each byte.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28,
    28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6,
    12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15,
    5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20,
    22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22,
    23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26,
    27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, Broken> {
        let mut plain = Vec::new();
        decode(coded, usize::MAX / 2, &mut plain).map(|_| plain)
    }

    #[test]
    fn the_examples_of_rfc_7541() {
        for (plain, coded) in [
            ("www.example.com", &[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff][..]),
            ("no-cache", &[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]),
            ("302", &[0x64, 0x02]),
            ("private", &[0xae, 0xc3, 0x77, 0x1a, 0x4b]),
        ] {
            assert_eq!(decoded(coded).as_deref(), Ok(plain.as_bytes()));
            let mut written = Vec::new();
            encode(plain.as_bytes(), &mut written);
            assert_eq!((written.as_slice(), coded_length(plain.as_bytes())), (coded, coded.len()));
        }
    }

    #[test]
    fn wrong_padding_and_the_end_are_refused() {
        assert_eq!(decoded(&[0xff]), Err(Broken), "eight bits of padding");
        assert_eq!(decoded(&[0xff; 4]), Err(Broken), "the end-of-string word");
        assert_eq!(decoded(&[0b0000_0000]), Err(Broken), "padding of zeros");
        assert_eq!(decoded(&[0b0000_0111]).as_deref(), Ok(&b"0"[..]));
        assert_eq!(decoded(&[]).as_deref(), Ok(&b""[..]));
    }

    #[test]
    fn no_more_is_said_than_there_is_room_for() {
        let mut coded = Vec::new();
        encode(&[b'0'; 1000], &mut coded);
        let mut plain = Vec::new();
        assert_eq!(decode(&coded, 10, &mut plain), Ok(false));
        assert_eq!(plain.len(), 10);
    }

    proptest! {
        #[test]
        fn what_is_coded_is_read_again(plain in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut coded = Vec::new();
            encode(&plain, &mut coded);
            prop_assert_eq!(coded.len(), coded_length(&plain));
            prop_assert_eq!(decoded(&coded), Ok(plain));
        }

        #[test]
        fn what_is_read_has_one_spelling(coded in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(plain) = decoded(&coded) {
                let mut again = Vec::new();
                encode(&plain, &mut again);
                prop_assert_eq!(again, coded);
            }
        }
    }
}

//! The checks of `userspace/fuzz` for a short while, on credentials and policies that were changed, the same in every run. The long runs are
//! `cargo xtask fuzz credentials` and `cargo xtask fuzz policies`.

#[path = "../../fuzz/checks/credentials.rs"]
mod credentials;
#[path = "../../fuzz/checks/policies.rs"]
mod policies;

/// One of everything that is read.
const SEEDS: [&str; 9] = [
    "YW5uOm15UGFzc3dvcmQ=",
    "HMAC-SHA256 Credential=ann/20150830/eu/request, SignedHeaders=host;x-date, Signature=5fa00fa31553b73e",
    "eyJhbGciOiJIUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiJ1In0.c2lnbmF0dXJl",
    "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
    "{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=",
    "$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/",
    "$5$rounds=10000$saltstringsaltst$3xv.VbSHBb41AL9AvLeujZkZRBAwqFMz2.opqey6IcA",
    "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHRzYWx0$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g",
    "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
];

#[test]
fn credentials() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..30_000 {
        let mut bytes = SEEDS[random.below(SEEDS.len())].as_bytes().to_vec();
        for _ in 0..random.below(4) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] = random.below(128) as u8,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, b" $=,/.:;{\xc3"[random.below(10)]),
                _ => bytes.extend_from_within(at..),
            }
            if bytes.is_empty() {
                break;
            }
        }
        credentials::check(&bytes);
    }
}

#[test]
fn policies() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let seeds: Vec<&str> = include_str!("../../fuzz/checks/policies.rego").split("---\n").collect();
    // Pieces that stand where they may, and where they may not.
    let mut pieces: Vec<&str> = seeds.iter().flat_map(|seed| seed.split_inclusive([' ', '(', '{', '\n'])).collect();
    pieces.extend([
        "[",
        "]",
        "}",
        ")",
        ":=",
        "not ",
        "with input as ",
        "1e999999999",
        "\"\\u",
        "`",
        "\u{e9}",
        "\0",
        "data.http.allow ",
    ]);
    for _ in 0..300 {
        let mut policy = seeds[random.below(seeds.len())].to_owned();
        for _ in 0..random.below(4) {
            let mut at = random.below(policy.len() + 1);
            while !policy.is_char_boundary(at) {
                at -= 1;
            }
            let end = (at + random.below(12)).min(policy.len());
            if random.below(2) == 0 && policy.is_char_boundary(end) {
                policy.replace_range(at..end, "");
            }
            policy.insert_str(at, pieces[random.below(pieces.len())]);
        }
        policies::check(policy.as_bytes());
    }
    // As deep as may be, and far deeper.
    for piece in [
        "(",
        "[",
        "{",
        "{\"a\":",
        "not ",
        "-",
        "x.",
        "[x | ",
        "!",
        "allow { ",
        "1 + ",
        "1 == ",
        "x[1]",
        "f(",
        "else = 1 {1} ",
    ] {
        for times in [4, 6, 11, 60, 120, 20_000] {
            for end in ["", "1", "1)", "1\n"] {
                policies::check(format!("package http\nx = 1\nallow = {}{end}", piece.repeat(times)).as_bytes());
            }
        }
    }
}

/// Xorshift: the same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

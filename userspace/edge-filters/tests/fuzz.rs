//! The check of `userspace/fuzz` for a short while, on credentials that were changed, the same in every run. The long run is
//! `cargo xtask fuzz credentials`.

#[path = "../../fuzz/checks/credentials.rs"]
mod credentials;

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

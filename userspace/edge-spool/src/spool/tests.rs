use super::*;
use proto_kafka::crc32c::crc32c;
use std::ops::RangeInclusive;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line(pub String);

impl Kept for Line {
    const NAME: &'static str = "lines";
    const BYTES: RangeInclusive<usize> = 0..=1000;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.0.as_bytes());
    }

    fn read(body: &[u8]) -> Option<Line> {
        Some(Line(std::str::from_utf8(body).ok()?.to_owned()))
    }

    fn checksum(length: [u8; 4], body: &[u8]) -> u32 {
        crc32c(body) ^ crc32c(&length)
    }
}

fn line(number: usize) -> Line {
    Line(format!("line {number}, and what there is to say of it"))
}

fn lines(range: std::ops::Range<usize>) -> Vec<Line> {
    range.map(line).collect()
}

/// Everything that is left, batch after batch.
fn drain(spool: &mut Spool<Line>, bytes: usize) -> Vec<Line> {
    let mut seen = Vec::new();
    while !spool.is_empty() {
        let batch = spool.peek(bytes).unwrap();
        if batch.kept.is_empty() {
            break;
        }
        seen.extend(batch.kept.clone());
        spool.forget(&batch).unwrap();
    }
    seen
}

#[test]
fn lines_come_back_in_order_also_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Spool::open(directory.path(), 1 << 20).unwrap();
    let mut spool = open();
    assert!(spool.is_empty() && spool.peek(100).unwrap().kept.is_empty());
    assert_eq!(spool.append(&lines(0..5), true).unwrap(), 5);
    let batch = spool.peek(1).unwrap();
    assert_eq!(batch.kept, lines(0..1));
    spool.forget(&batch).unwrap();
    let batch = spool.peek(1).unwrap();
    assert_eq!(batch.kept, lines(1..2), "what is not forgotten is there again");
    drop(spool);
    let mut spool = open();
    assert_eq!(spool.append(&lines(5..7), false).unwrap(), 2);
    assert_eq!(drain(&mut spool, 30), lines(1..7));
    assert_eq!(spool.bytes(), 0);
    let taken = Spool::<Line>::open(directory.path(), 1).map(drop).unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::WouldBlock, "it has one owner");
}

/// Numbers that begin anew would meet a front that is older: lines that nobody has would be taken for sent.
#[test]
fn a_front_that_is_older_than_the_files_hides_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Spool::open(directory.path(), 1 << 20).unwrap();
    let mut spool = open();
    spool.append(&lines(0..9), false).unwrap();
    // As though the process had been killed between the two: the file is gone, and the front says where in it.
    let end = spool.bytes();
    drain(&mut spool, 1 << 20);
    spool.marks.write(1, end).unwrap();
    drop(spool);
    let mut spool = open();
    spool.append(&lines(9..40), false).unwrap();
    drop(spool);
    assert_eq!(drain(&mut open(), 50), lines(9..40));
    // A front that cannot be read sends twice rather than never.
    let mut spool = open();
    spool.append(&lines(0..3), false).unwrap();
    let batch = spool.peek(1).unwrap();
    spool.forget(&batch).unwrap();
    drop(spool);
    fs::write(directory.path().join("front"), b"nonsense").unwrap();
    assert_eq!(drain(&mut open(), 50), lines(0..3));
}

#[test]
fn there_is_room_for_so_much_and_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(directory.path(), 2000).unwrap();
    let fitting = spool.append(&lines(0..500), false).unwrap();
    assert!((40..500).contains(&fitting) && spool.bytes() <= 2000, "{fitting}");
    assert_eq!(spool.append(&lines(500..501), false).unwrap(), 0);
    assert!(spool.files.len() >= 3, "in several files, of which each makes room when it is done");
    let batch = spool.peek(600).unwrap();
    assert_eq!(batch.kept, lines(0..batch.kept.len()));
    spool.forget(&batch).unwrap();
    assert_eq!(spool.append(&lines(500..501), false).unwrap(), 1, "there is room again");
    let rest: Vec<Line> = lines(batch.kept.len()..fitting).into_iter().chain([line(500)]).collect();
    assert_eq!(drain(&mut spool, 100), rest);
}

#[test]
fn what_is_cut_off_or_damaged_costs_as_little_as_it_can() {
    for (damage, left) in [(0, vec![0, 1, 3]), (1, vec![0, 1, 3]), (2, vec![0, 2, 3])] {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(directory.path(), 1 << 20).unwrap();
        spool.append(&lines(0..3), false).unwrap();
        drop(spool);
        let path = directory.path().join(format!("{:012}.lines", 1));
        let mut bytes = fs::read(&path).unwrap();
        let length = bytes.len();
        match damage {
            0 => bytes.truncate(length - 1),
            1 => bytes[length - 1] ^= 1,
            _ => bytes[length / 2] ^= 1,
        }
        fs::write(&path, bytes).unwrap();
        let mut spool = Spool::open(directory.path(), 1 << 20).unwrap();
        spool.append(&lines(3..4), false).unwrap();
        let wanted: Vec<Line> = left.into_iter().map(line).collect();
        assert_eq!(drain(&mut spool, 1 << 20), wanted, "{damage}");
        assert_eq!(spool.damaged, 1);
    }
}

/// Somebody made room by hand: that costs what was in it, and no line that comes later.
#[test]
fn files_that_others_remove_or_cut_off_stop_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(directory.path(), 1 << 20).unwrap();
    spool.append(&lines(0..3), false).unwrap();
    fs::remove_file(directory.path().join(format!("{:012}.lines", 1))).unwrap();
    assert!(spool.peek(1 << 20).unwrap().kept.is_empty() && spool.is_empty());
    spool.append(&lines(3..6), false).unwrap();
    let path = directory.path().join(format!("{:012}.lines", 2));
    let half = fs::metadata(&path).unwrap().len() / 3;
    OpenOptions::new().write(true).open(&path).unwrap().set_len(half).unwrap();
    assert_eq!(drain(&mut spool, 1 << 20), lines(3..4));
    spool.append(&lines(6..8), false).unwrap();
    assert_eq!(drain(&mut spool, 1 << 20), lines(6..8));
    assert_eq!(spool.damaged, 2);
}

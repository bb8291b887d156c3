//! The pages that the process's memory is made of: how large they are, and which of them it does without.

use std::{fs, io};

/// Keeps the kernel from giving this process, and those that it becomes or starts, pages of 2 MiB for memory that is touched here and
/// there. The allocator asks for them, and a machine that has nothing to do held 24 MB more for it; a request costs the same either way.
/// False where the kernel does not do so. Call it before anything else.
pub fn keep_small() -> bool {
    // SAFETY: a plain system call that takes numbers.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0 }
}

/// Lets go of the pages of the program's own text and constants: the kernel maps those that are touched again from its cache of files, 64
/// KiB at a time, which costs about a microsecond each. Half of the text is touched while a process starts, and most of that never again.
/// Returns how many bytes it was.
///
/// Parts of the program that anything was written to are left as they are: what the loader has relocated, and text in which somebody who
/// watches the process has set a mark.
pub fn let_go_of_program() -> io::Result<u64> {
    let smaps = fs::read_to_string("/proc/self/smaps")?;
    let mappings: Vec<Mapping> = mappings(&smaps);
    let own = let_go_of_program as *const () as usize;
    let Some(program) = mappings.iter().find(|of| (of.start..of.end).contains(&own)).map(|of| of.file) else {
        return Ok(0);
    };
    let mut given = 0;
    for mapping in mappings.iter().filter(|of| of.file == program && of.is_as_in_the_file()) {
        // SAFETY: the range is one mapping of this program's file, which lasts as long as the process. It is private, cannot be written to,
        // and none of its pages is the process's own: each is one of the file, whose text the kernel keeps from being written to while it
        // runs, and is found there again.
        let done = unsafe {
            libc::madvise(mapping.start as *mut libc::c_void, mapping.end - mapping.start, libc::MADV_DONTNEED)
        };
        if done == 0 {
            given += mapping.resident;
        }
    }
    Ok(given)
}

/// A part of the address space, as `/proc/PID/smaps` tells it.
struct Mapping<'s> {
    start: usize,
    end: usize,
    permissions: &'s str,
    /// Device and inode.
    file: (&'s str, &'s str),
    resident: u64,
    /// Bytes that are the process's own, and not the file's.
    anonymous: u64,
    locked: bool,
}

impl Mapping<'_> {
    fn is_as_in_the_file(&self) -> bool {
        matches!(self.permissions, "r-xp" | "r--p") && self.anonymous == 0 && !self.locked
    }
}

fn mappings(smaps: &str) -> Vec<Mapping<'_>> {
    let mut all: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        if let Some(mapping) = mapping(line) {
            all.push(mapping);
        } else if let (Some(last), Some((field, value))) = (all.last_mut(), line.split_once(':')) {
            let kib = || value.trim().strip_suffix(" kB").and_then(|kib| kib.parse::<u64>().ok());
            match field {
                "Rss" => last.resident = kib().unwrap_or(0) << 10,
                // What cannot be read is held to be there.
                "Anonymous" => last.anonymous = kib().map_or(u64::MAX, |kib| kib << 10),
                "VmFlags" => last.locked = value.split_whitespace().any(|flag| flag == "lo"),
                _ => {}
            }
        }
    }
    all
}

/// The first line of a mapping: `START-END PERMISSIONS OFFSET DEVICE INODE PATH`.
fn mapping(line: &str) -> Option<Mapping<'_>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    let (permissions, _offset, device, inode) = (words.next()?, words.next()?, words.next()?, words.next()?);
    // Without a field of its own it is not known to be free of the process's own pages.
    Some(Mapping { start, end, permissions, file: (device, inode), resident: 0, anonymous: u64::MAX, locked: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Resident bytes of parts of the program that are as in the file, and of others.
    fn resident() -> (u64, u64) {
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let all = mappings(&smaps);
        let own = resident as *const () as usize;
        let program = all.iter().find(|of| (of.start..of.end).contains(&own)).unwrap().file;
        let sum = |of_file: bool| {
            let parts = all.iter().filter(|of| of.file == program && of.is_as_in_the_file() == of_file);
            parts.map(|of| of.resident).sum()
        };
        (sum(true), sum(false))
    }

    #[test]
    fn what_was_read_of_the_program_is_let_go_of_and_found_again() {
        // All of it was touched at some time.
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let own = resident as *const () as usize;
        let all = mappings(&smaps);
        let text = all.iter().find(|of| (of.start..of.end).contains(&own)).unwrap();
        let sum = || {
            // SAFETY: readable memory of this process, which nothing writes to.
            let bytes = unsafe { std::slice::from_raw_parts(text.start as *const u8, text.end - text.start) };
            bytes.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)))
        };
        let before = sum();
        let (file, written) = resident();
        assert!(file >= (text.end - text.start) as u64, "{file} resident of a text of {}", text.end - text.start);
        let given = let_go_of_program().unwrap();
        let (left, written_still) = resident();
        assert!(given >= file / 2 && left < file / 2, "{given} of {file} given, {left} left");
        assert_eq!(written, written_still, "what was written to stays");
        assert_eq!(sum(), before, "the text is what it was");
    }

    #[test]
    fn only_parts_that_are_as_in_the_file_are_let_go_of() {
        let part = |permissions: &str, fields: &str| {
            let text = format!(
                "55d0c0de4000-55d0c3a00000 {permissions} 00a00000 fd:01 1042 /usr/bin/weir (deleted)\n{fields}"
            );
            let all = mappings(&text);
            assert_eq!((all.len(), all[0].file, all[0].start), (1, ("fd:01", "1042"), 0x55d0_c0de_4000));
            (all[0].is_as_in_the_file(), all[0].resident)
        };
        let clean = "Rss:  22528 kB\nAnonymous:             0 kB\nVmFlags: rd ex mr mw me \n";
        assert_eq!(part("r-xp", clean), (true, 22528 << 10));
        assert!(part("r--p", clean).0 && !part("rw-p", clean).0 && !part("r--s", clean).0);
        assert!(!part("r-xp", "Rss: 8 kB\nAnonymous: 4 kB\n").0, "somebody has set a mark in it");
        assert!(!part("r-xp", "Rss: 8 kB\nAnonymous: 0 kB\nVmFlags: rd ex lo \n").0, "it is to stay in memory");
        assert!(!part("r-xp", "Rss: 8 kB\n").0, "a kernel that does not tell");
    }
}

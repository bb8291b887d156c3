//! Memory of a process and what it started.

use std::fs;

use crate::cpu;

/// Anonymous memory that is resident, in bytes: heaps, stacks and rings, without files and without what the kernel holds.
pub fn anonymous(pid: u32) -> u64 {
    cpu::tree(pid)
        .into_iter()
        .map(|pid| of_status(&fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default()))
        .sum()
}

fn of_status(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anonymous_memory_grows_with_what_is_touched() {
        assert_eq!(of_status("VmRSS:\t 9 kB\nRssAnon:\t    5140 kB\nRssFile:\t 1 kB\n"), 5140 << 10);
        assert_eq!(of_status(""), 0);
        let before = anonymous(std::process::id());
        let held = vec![1_u8; 32 << 20];
        assert!(anonymous(std::process::id()) >= before + (30 << 20));
        drop(held);
    }
}

//! What this machine's stack does with SYN cookies, as far as who makes them has to know.

use std::fs;

/// The word of [`abi::config::syn`].
///
/// A SYN cookie has room for the largest segment alone; the kernel reads the rest (window scaling, selective acknowledgement) from the
/// timestamp that comes back. It does so without knowing who wrote it, but takes off first what it adds to each connection's clock, which
/// programs cannot know: only where nothing is added (`net.ipv4.tcp_timestamps = 2`) can they put it there.
pub(crate) fn options() -> u32 {
    let timestamps = number("ipv4/tcp_timestamps", 0) == Some(2)
        && number("ipv4/tcp_window_scaling", 0) == Some(1)
        && number("ipv4/tcp_sack", 0) == Some(1);
    abi::config::syn::word(timestamps, scale(number("ipv4/tcp_rmem", 2), number("core/rmem_max", 0)))
}

/// By how much the stack will scale its window (`tcp_select_initial_window`): it is not asked before the connection is there.
fn scale(receive_most: Option<u64>, any_most: Option<u64>) -> u8 {
    let space = receive_most.unwrap_or(0).max(any_most.unwrap_or(0)).max(1);
    (space.ilog2() as i32 - 15).clamp(0, 14) as u8
}

/// Of a setting of the network namespace, number `at`.
fn number(setting: &str, at: usize) -> Option<u64> {
    fs::read_to_string(format!("/proc/sys/net/{setting}")).ok()?.split_whitespace().nth(at)?.parse().ok()
}

/// What doctor says: whether it is well, and what there is to say.
pub(crate) fn finding() -> (bool, &'static str) {
    match (number("ipv4/tcp_syncookies", 0), options() & abi::config::syn::TIMESTAMPS) {
        (Some(0), _) => (
            false,
            "the kernel takes no SYN cookies (net.ipv4.tcp_syncookies = 0), so a flood of SYNs keeps clients out, and limits.synCookies of \
             virtual IPs has no effect: set it to 1",
        ),
        (None, _) => (false, "the kernel was built without SYN cookies: a flood of SYNs keeps clients out"),
        (_, 0) => (
            true,
            "the kernel takes SYN cookies; connections that begin by one of limits.synCookies have no window scaling and no selective \
             acknowledgement, unless net.ipv4.tcp_timestamps is 2",
        ),
        _ => (true, "the kernel takes SYN cookies, with window scaling and selective acknowledgement"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_scaled_as_the_stack_scales_them() {
        // What Linux has had since 2.6.17, since 6.15, and nothing at all.
        assert_eq!(scale(Some(6_291_456), Some(212_992)), 7);
        assert_eq!(scale(Some(33_554_432), Some(4_194_304)), 10);
        assert_eq!(scale(Some(4_096), Some(16_777_216)), 9);
        assert_eq!((scale(None, None), scale(Some(u64::MAX), None)), (0, 14));
    }
}

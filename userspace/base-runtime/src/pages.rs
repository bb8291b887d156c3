//! The size of the pages that the process's memory is made of.

/// Keeps the kernel from giving this process, and those that it becomes or starts, pages of 2 MiB for memory that is touched here and
/// there. The allocator asks for them, and a machine that has nothing to do held 24 MB more for it; a request costs the same either way.
/// False where the kernel does not do so. Call it before anything else.
pub fn keep_small() -> bool {
    // SAFETY: a plain system call that takes numbers.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0 }
}

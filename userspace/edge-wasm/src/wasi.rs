//! The little of a system that programs of most languages ask for when they start (WASI preview 1): time, chance, no arguments, no
//! environment, no files, and an output that goes to our log. Whatever else of it a program calls ends it.

use crate::host::{self, ended};
use crate::vm::State;
use std::time::{SystemTime, UNIX_EPOCH};
use wasmtime::{Caller, Linker, Result};

/// Error numbers of WASI.
const OK: i32 = 0;
const BAD_DESCRIPTOR: i32 = 8;

/// Bytes of one output that are shown.
const OUTPUT_MAX: usize = 8 << 10;

/// Parts that one output may be in.
const PARTS_MAX: u32 = 64;

/// What that is called, and was called before it was finished: AssemblyScript's older filters for Envoy still ask for it so.
pub const MODULES: [&str; 2] = ["wasi_snapshot_preview1", "wasi_unstable"];

pub fn link(linker: &mut Linker<State>) -> Result<()> {
    MODULES.iter().try_for_each(|module| link_as(linker, module))
}

fn link_as(linker: &mut Linker<State>, module: &str) -> Result<()> {
    // No arguments, no environment: their number, and the bytes they take.
    for name in ["args_sizes_get", "environ_sizes_get"] {
        linker.func_wrap(module, name, |mut caller: Caller<'_, State>, count: u32, bytes: u32| -> Result<i32> {
            host::write(&mut caller, count, &0u32.to_le_bytes())?;
            host::write(&mut caller, bytes, &0u32.to_le_bytes())?;
            Ok(OK)
        })?;
    }
    for name in ["args_get", "environ_get"] {
        linker.func_wrap(module, name, |_: i32, _: i32| OK)?;
    }
    linker.func_wrap(module, "sched_yield", || OK)?;
    linker.func_wrap(
        module,
        "clock_time_get",
        |mut caller: Caller<'_, State>, _: i32, _: i64, at: u32| -> Result<i32> {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            host::write(&mut caller, at, &(now.as_nanos() as u64).to_le_bytes())?;
            Ok(OK)
        },
    )?;
    linker.func_wrap(module, "random_get", |mut caller: Caller<'_, State>, at: u32, length: u32| -> Result<i32> {
        let most = u32::try_from(OUTPUT_MAX).unwrap_or(u32::MAX);
        let mut bytes = Vec::new();
        while bytes.len() < length.min(most) as usize {
            bytes.extend_from_slice(&caller.data_mut().random().to_le_bytes());
        }
        bytes.truncate(length as usize);
        host::write(&mut caller, at, &bytes)?;
        Ok(if length > most { BAD_DESCRIPTOR } else { OK })
    })?;
    linker.func_wrap(module, "fd_write", output)?;
    // There are no files beside the outputs.
    linker.func_wrap(module, "fd_close", |_: i32| OK)?;
    linker.func_wrap(module, "fd_prestat_get", |_: i32, _: i32| BAD_DESCRIPTOR)?;
    linker.func_wrap(module, "fd_prestat_dir_name", |_: i32, _: i32, _: i32| BAD_DESCRIPTOR)?;
    linker.func_wrap(module, "fd_read", |_: i32, _: i32, _: i32, _: i32| BAD_DESCRIPTOR)?;
    linker.func_wrap(module, "fd_seek", |_: i32, _: i64, _: i32, _: i32| BAD_DESCRIPTOR)?;
    linker.func_wrap(
        module,
        "fd_fdstat_get",
        |mut caller: Caller<'_, State>, descriptor: i32, at: u32| -> Result<i32> {
            if !(0..=2).contains(&descriptor) {
                return Ok(BAD_DESCRIPTOR);
            }
            // A character device that can do nothing beside.
            let mut stat = [0; 24];
            stat[0] = 2;
            host::write(&mut caller, at, &stat)?;
            Ok(OK)
        },
    )?;
    linker.func_wrap(module, "fd_fdstat_set_flags", |_: i32, _: i32| OK)?;
    linker.func_wrap(module, "proc_exit", |code: i32| -> Result<()> {
        Err(ended(format!("the program left with exit code {code}")))
    })?;
    Ok(())
}

/// `fd_write`: a list of (address, length), and where the number of bytes goes.
fn output(mut caller: Caller<'_, State>, descriptor: i32, parts: u32, count: u32, written: u32) -> Result<i32> {
    if !(1..=2).contains(&descriptor) {
        return Ok(BAD_DESCRIPTOR);
    }
    let mut text = Vec::new();
    let mut total = 0u32;
    {
        let memory = host::memory(&caller)?;
        for part in 0..count.min(PARTS_MAX) {
            let entry = host::slice(memory, parts.saturating_add(part * 8), 8)?;
            let number = |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
            let bytes = host::slice(memory, number(0), number(4))?;
            total = total.saturating_add(number(4));
            let room = OUTPUT_MAX.saturating_sub(text.len()).min(bytes.len());
            text.extend_from_slice(&bytes[..room]);
        }
    }
    host::log(&mut caller, 1, &text);
    host::write(&mut caller, written, &total.to_le_bytes())?;
    Ok(OK)
}

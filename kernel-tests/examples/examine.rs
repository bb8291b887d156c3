//! Loads an object and prints what the verifier made of its programs: `examine OBJECT`. Used by `cargo xtask build-ebpf`.

use std::process::ExitCode;

use edge_kernel::{Hook, Kernel, Options, sys};

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: examine OBJECT");
        return ExitCode::from(2);
    };
    let examined = std::fs::read(&path)
        .map_err(|e| format!("{}: {e}", path.display()))
        .and_then(|object| examine(&object).map_err(|e| e.to_string()));
    match examined {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn examine(object: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
    let kernel = Kernel::load_object(Options { pin_dir: None, ..Options::default() }, object)?;
    println!("{:<16}{:>14}{:>14}{:>22}", "program", "instructions", "machine code", "examined by verifier");
    let hooks = [
        Hook::XdpSteer,
        Hook::XdpGeneral,
        Hook::XdpFragment,
        Hook::XdpCapture,
        Hook::XdpSyn,
        Hook::XdpBackend,
        Hook::XdpDeliver,
        Hook::SkLookup,
        Hook::SkReuseport,
    ];
    for hook in hooks {
        let Some(program) = kernel.program(hook) else { continue };
        let facts = sys::program_facts(program)?;
        println!(
            "{:<16}{:>14}{:>12} B{:>22}",
            facts.name,
            facts.translated_bytes / 8,
            facts.jited_bytes,
            facts.verified_instructions
        );
    }
    kernel.warnings().iter().for_each(|warning| println!("{warning}"));
    Ok(())
}

//! Embeds the BPF object that `cargo xtask build-ebpf` leaves at `target/bpf/weir.bpf.o`, or builds without it.
//! `WEIR_BPF_OBJECT` names another one.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo::rustc-check-cfg=cfg(bpf_object)");
    println!("cargo::rerun-if-env-changed=WEIR_BPF_OBJECT");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR")).join("../..");
    let object = env::var_os("WEIR_BPF_OBJECT").map_or_else(|| root.join("target/bpf/weir.bpf.o"), PathBuf::from);
    // Cargo takes a missing file for a changed one, so an object that appears later is noticed.
    println!("cargo::rerun-if-changed={}", object.display());
    if let Ok(bytes) = fs::read(&object) {
        let copy = Path::new(&env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("weir.bpf.o");
        fs::write(&copy, bytes).expect("OUT_DIR can be written");
        println!("cargo::rustc-cfg=bpf_object");
    }
}

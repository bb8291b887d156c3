//! Programs of the users' own, on an engine for WebAssembly: the filters WasmHost and ProxyWasm behind their documents in edge-filters.
//!
//! Reading order: [`wasm_host`] (the filter: who waits, who runs, what becomes of a request), `vm` (one instance of a program), `call`
//! (what of a request a program sees while it runs), `abi` (texts and lists as programs and we write them), `host` (what a program may
//! ask for), `wasi` (the little of a system that languages need to start), `code` (where programs come from: read, compiled and kept by
//! threads of their own), `unfit` (what does not start), `patience` (how long changes wait for programs), `engine` (the compiler's settings and the clock that ends programs), [`shared`] (what programs share).
//! For filters of Envoy: [`proxy_wasm`] (the filter), `proxy_vm` (an instance, and its callbacks), `proxy_host` (what a program may ask for),
//! `proxy_abi` (header maps), `proxy_common` (what its VMs share).
#![forbid(unsafe_code)]

pub mod proxy_wasm;
pub mod shared;
pub mod wasm_host;

mod abi;
mod call;
mod code;
mod engine;
mod host;
mod patience;
mod proxy_abi;
mod proxy_common;
mod proxy_gives;
mod proxy_host;
mod proxy_vm;
mod unfit;
mod vm;
mod wasi;

pub use code::{CODE_BYTES_MAX, FetchCode, fetch_with, reload};
/// Makes WasmHosts and ProxyWasms of documents from now on.
pub fn install() {
    wasm_host::install();
    proxy_wasm::install();
}

//! A program for WasmHost: each name has a number, in what the cluster shares, and so many are let in as its parameter says.

#![crate_type = "cdylib"]

use std::cell::Cell;

#[link(wasm_import_module = "easegress")]
extern "C" {
    fn host_req_get_header(name: *const u8) -> *mut u8;
    fn host_cluster_add_integer(key: *const u8, by: i64) -> i64;
    fn host_resp_set_status_code(status: i32);
    fn host_resp_set_body(data: *const u8);
}

thread_local! {
    static MOST: Cell<i64> = Cell::new(i64::MAX);
}

/// A text as the host takes it: its length with the NUL behind it, itself, NUL.
fn given(text: &str) -> Vec<u8> {
    let mut out = (text.len() as u32 + 1).to_le_bytes().to_vec();
    out.extend(text.as_bytes());
    out.push(0);
    out
}

/// A text that the host gave, and where it ends.
unsafe fn taken(at: *const u8) -> (String, *const u8) {
    let length = u32::from_le_bytes([*at, *at.add(1), *at.add(2), *at.add(3)]) as usize;
    let text = std::slice::from_raw_parts(at.add(4), length.saturating_sub(1));
    (String::from_utf8_lossy(text).into_owned(), at.add(4 + length))
}

#[no_mangle]
pub extern "C" fn wasm_alloc(size: usize) -> *mut u8 {
    let mut bytes = vec![0u8; size].into_boxed_slice();
    let data = bytes.as_mut_ptr();
    std::mem::forget(bytes);
    data
}

/// What is allocated here is little, and goes with the VM.
#[no_mangle]
pub extern "C" fn wasm_free(_at: *mut u8) {}

#[no_mangle]
pub unsafe extern "C" fn wasm_init(at: *const u8) {
    let count = u32::from_le_bytes([*at, *at.add(1), *at.add(2), *at.add(3)]);
    let mut rest = at.add(4);
    let mut texts = Vec::new();
    for _ in 0..count {
        let (text, behind) = taken(rest);
        texts.push(text);
        rest = behind;
    }
    for pair in texts.chunks(2) {
        if let [name, value] = pair {
            if name == "most" {
                MOST.with(|most| most.set(value.parse().unwrap_or(0)));
            }
        }
    }
}

#[no_mangle]
pub unsafe extern "C" fn wasm_run() -> i32 {
    let (name, _) = taken(host_req_get_header(given("X-Name").as_ptr()));
    assert!(name != "nobody", "nobody is counted");
    let number = host_cluster_add_integer(given(&format!("name/{}", name)).as_ptr(), 1);
    if number <= MOST.with(Cell::get) {
        return 0;
    }
    let body = format!("{} is number {}", name, number);
    let mut data = (body.len() as u32).to_le_bytes().to_vec();
    data.extend(body.as_bytes());
    host_resp_set_status_code(429);
    host_resp_set_body(data.as_ptr());
    3
}

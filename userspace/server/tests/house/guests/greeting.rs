//! A filter for Envoy on the bare ABI: it greets whoever names himself, as it is configured to, and remembers him until his answer.

#![crate_type = "cdylib"]

use std::cell::RefCell;
use std::collections::HashMap;

#[link(wasm_import_module = "env")]
extern "C" {
    fn proxy_get_buffer_bytes(buffer: i32, from: usize, most: usize, data: *mut *mut u8, length: *mut usize) -> i32;
    fn proxy_get_header_map_value(map: i32, name: *const u8, name_length: usize, data: *mut *mut u8, length: *mut usize) -> i32;
    fn proxy_replace_header_map_value(map: i32, name: *const u8, name_length: usize, value: *const u8, length: usize) -> i32;
    fn proxy_send_local_response(
        status: i32,
        details: *const u8,
        details_length: usize,
        body: *const u8,
        body_length: usize,
        headers: *const u8,
        headers_length: usize,
        grpc: i32,
    ) -> i32;
}

const REQUEST: i32 = 0;
const RESPONSE: i32 = 2;
const CONFIGURATION: i32 = 7;

thread_local! {
    static GREETING: RefCell<String> = RefCell::new(String::new());
    static NAMES: RefCell<HashMap<i32, String>> = RefCell::new(HashMap::new());
}

/// What the host has put into memory that was allocated for it.
fn taken(get: impl FnOnce(*mut *mut u8, *mut usize) -> i32) -> Option<String> {
    let (mut data, mut length) = (std::ptr::null_mut(), 0);
    if get(&mut data, &mut length) != 0 {
        return None;
    }
    if data.is_null() {
        return Some(String::new());
    }
    let bytes = unsafe { Vec::from_raw_parts(data, length, length) };
    String::from_utf8(bytes).ok()
}

fn field(map: i32, name: &str) -> Option<String> {
    taken(|data, length| unsafe { proxy_get_header_map_value(map, name.as_ptr(), name.len(), data, length) })
}

fn set(map: i32, name: &str, value: &str) {
    unsafe { proxy_replace_header_map_value(map, name.as_ptr(), name.len(), value.as_ptr(), value.len()) };
}

#[no_mangle]
pub extern "C" fn proxy_abi_version_0_2_1() {}

#[no_mangle]
pub extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    let mut bytes = Vec::with_capacity(size);
    let data = bytes.as_mut_ptr();
    std::mem::forget(bytes);
    data
}

#[no_mangle]
pub extern "C" fn proxy_on_context_create(_context: i32, _parent: i32) {}

#[no_mangle]
pub extern "C" fn proxy_on_vm_start(_context: i32, _size: usize) -> i32 {
    1
}

#[no_mangle]
pub extern "C" fn proxy_on_configure(_context: i32, size: usize) -> i32 {
    let said = taken(|data, length| unsafe { proxy_get_buffer_bytes(CONFIGURATION, 0, size, data, length) });
    GREETING.with(|greeting| *greeting.borrow_mut() = said.unwrap_or_default());
    1
}

#[no_mangle]
pub extern "C" fn proxy_on_request_headers(context: i32, _fields: i32, _ends: i32) -> i32 {
    match field(REQUEST, "x-name") {
        None => {
            let body = "who is it?";
            let nothing = std::ptr::null();
            unsafe { proxy_send_local_response(400, nothing, 0, body.as_ptr(), body.len(), nothing, 0, -1) };
            1
        }
        Some(name) if name == "nobody" => panic!("nobody is greeted"),
        Some(name) => {
            GREETING.with(|greeting| set(REQUEST, "x-greeting", &format!("{}, {}", greeting.borrow(), name)));
            NAMES.with(|names| names.borrow_mut().insert(context, name));
            0
        }
    }
}

#[no_mangle]
pub extern "C" fn proxy_on_response_headers(context: i32, _fields: i32, _ends: i32) -> i32 {
    NAMES.with(|names| {
        if let Some(name) = names.borrow().get(&context) {
            set(RESPONSE, "x-greeted", name);
        }
    });
    0
}

#[no_mangle]
pub extern "C" fn proxy_on_delete(context: i32) {
    NAMES.with(|names| names.borrow_mut().remove(&context));
}

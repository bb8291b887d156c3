//! What a program may ask for: the functions of Easegress's SDKs, module `easegress`.
//!
//! A text that a program is given lies in its own memory, in a place that its `wasm_alloc` gives and that it frees. A program that
//! writes to the cluster waits while that is agreed upon.

use crate::abi::{self, put_data, put_headers, put_list, put_string};
use crate::call::{self, Call};
use crate::shared::{self, Change, Write, float, integer};
use crate::vm::State;
use base_runtime::channel::mailbox;
use edge_filters::replaced;
use edge_pipeline::Body;
use edge_pipeline::exchange::add_said;
use proto_http::{Headers, Known, Method, Response, authority, headers};
use std::fmt;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use wasmtime::{AsContext, AsContextMut, Caller, Error, Linker, Memory, Result, StoreContext, WasmTyList};

/// Whether functions of a program wait for somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    Never,
    May,
}

/// We end a program, for this reason.
#[derive(Debug)]
pub struct Ended(pub String);

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Ended {}

pub fn ended(why: impl Into<String>) -> Error {
    Error::new(Ended(why.into()))
}

/// The module that programs import these functions from.
pub const MODULE: &str = "easegress";

/// Tells a program something of its request.
type Tell = fn(&mut Call, &mut Vec<u8>);

/// The same of what it names.
type Find = fn(&mut Call, &[u8], &mut Vec<u8>);

/// Does what a program says.
type Set = fn(&mut Call, &[u8]) -> Result<(), String>;

/// The same with a name and a value.
type SetNamed = fn(&mut Call, &[u8], &[u8]) -> Result<(), String>;

const TELLS: [(&str, Tell); 14] = [
    ("host_req_get_real_ip", |call, out| put_string(out, call.real_ip_text().as_bytes())),
    ("host_req_get_scheme", |call, out| put_string(out, call.scheme.as_bytes())),
    ("host_req_get_proto", |call, out| put_string(out, call.space.request.version.as_str().as_bytes())),
    ("host_req_get_method", |call, out| put_string(out, call.space.request.method.as_str().as_bytes())),
    ("host_req_get_host", |call, out| put_string(out, call.space.request.authority.as_bytes())),
    ("host_req_get_path", |call, out| put_string(out, call.space.request.path.as_str().as_bytes())),
    ("host_req_get_escaped_path", |call, out| put_string(out, call.space.request.path.encoded().as_bytes())),
    ("host_req_get_query", |call, out| {
        put_string(out, call.space.request.query.as_deref().unwrap_or_default().as_bytes());
    }),
    // It never leaves the client.
    ("host_req_get_fragment", |_, out| put_string(out, b"")),
    ("host_req_get_all_header", |call, out| put_headers(out, &call.space.request.headers)),
    ("host_req_get_all_cookie", |call, out| put_list(out, cookies(&call.space.request.headers))),
    (REQUEST_BODY, |call, out| put_data(out, call.space.request_body.in_memory().unwrap_or_default())),
    ("host_resp_get_all_header", |call, out| put_headers(out, &response(call).headers)),
    (RESPONSE_BODY, |call, out| put_data(out, call.space.response_body.in_memory().unwrap_or_default())),
];

/// What asks for bodies: they are gathered before a program runs that imports these.
pub const REQUEST_BODY: &str = "host_req_get_body";
pub const RESPONSE_BODY: &str = "host_resp_get_body";

const FINDS: [(&str, Find); 3] = [
    ("host_req_get_header", |call, name, out| put_string(out, value(&call.space.request.headers, name))),
    ("host_resp_get_header", |call, name, out| put_string(out, value(&response(call).headers, name))),
    ("host_req_get_cookie", |call, name, out| {
        let named = |pair: &&[u8]| pair.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&b'='));
        put_string(out, cookies(&call.space.request.headers).find(named).unwrap_or_default());
    }),
];

const SETS: [(&str, Set); 10] = [
    ("host_req_set_method", |call, method| {
        call.space.request.method = Method::parse(method).ok_or_else(|| wrong("a method", method))?;
        Ok(())
    }),
    ("host_req_set_host", |call, host| {
        if !authority::is_authority(host) {
            return Err(wrong("a host", host));
        }
        call.space.request.authority = String::from_utf8_lossy(host).into_owned();
        Ok(())
    }),
    ("host_req_set_path", |call, path| {
        let text = std::str::from_utf8(path).map_err(|_| wrong("a path", path))?;
        call.space.request.path.rewrite(text).map_err(|why| format!("{}: {why}", wrong("a path", path)))
    }),
    ("host_req_set_query", |call, query| {
        let text =
            std::str::from_utf8(query).ok().filter(|text| text.bytes().all(|b| b.is_ascii_graphic() && b != b'#'));
        let text = text.ok_or_else(|| wrong("a query", query))?;
        call.space.request.query = (!text.is_empty()).then(|| text.to_owned());
        Ok(())
    }),
    ("host_req_set_all_header", |call, lines| set_all(&mut call.space.request.headers, lines)),
    ("host_req_del_header", |call, name| del(&mut call.space.request.headers, name)),
    ("host_req_add_cookie", |call, cookie| {
        let pair = cookie.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
        if !headers::is_value(pair) || !pair.contains(&b'=') {
            return Err(wrong("a cookie", cookie));
        }
        let headers = &mut call.space.request.headers;
        let all = match headers.known(Known::Cookie) {
            Some(before) => [before, b"; ", pair].concat(),
            None => pair.to_vec(),
        };
        headers.set("Cookie", all);
        Ok(())
    }),
    ("host_resp_set_all_header", |call, lines| set_all(&mut response(call).headers, lines)),
    ("host_resp_del_header", |call, name| del(&mut response(call).headers, name)),
    ("host_resp_set_cookie", |call, cookie| add(&mut response(call).headers, b"Set-Cookie", cookie)),
];

const SETS_NAMED: [(&str, SetNamed); 4] = [
    ("host_req_set_header", |call, name, value| set(&mut call.space.request.headers, name, value)),
    ("host_req_add_header", |call, name, value| add(&mut call.space.request.headers, name, value)),
    ("host_resp_set_header", |call, name, value| set(&mut response(call).headers, name, value)),
    ("host_resp_add_header", |call, name, value| add(&mut response(call).headers, name, value)),
];

const SETS_DATA: [(&str, Set); 2] = [
    ("host_req_set_body", |call, body| {
        call.space.request_body = Body::full(body);
        replaced(&mut call.space.request.headers);
        Ok(())
    }),
    ("host_resp_set_body", |call, body| {
        replaced(&mut response(call).headers);
        call.space.response_body = Body::full(body);
        Ok(())
    }),
];

/// Functions that change what the cluster shares, which takes the time of an agreement.
pub const WRITES: [&str; 6] = [
    "host_cluster_put_binary",
    "host_cluster_put_string",
    "host_cluster_put_integer",
    "host_cluster_add_integer",
    "host_cluster_put_float",
    "host_cluster_add_float",
];

/// Defines all of them.
pub fn link(linker: &mut Linker<State>) -> Result<()> {
    for (name, tell) in TELLS {
        give_with(linker, name, move |_, (), out| here(|call| tell(call, out)))?;
    }
    for (name, find) in FINDS {
        give_with(linker, name, move |store, (at,): (u32,), out| {
            let wanted = abi::string(bytes(&store)?, at)?;
            here(|call| find(call, wanted, out))
        })?;
    }
    for (name, set) in SETS {
        linker.func_wrap(MODULE, name, move |caller: Caller<'_, State>, at: u32| {
            let said = abi::string(memory(&caller)?, at)?;
            here(|call| counted(call, said.len()).and_then(|()| set(call, said)))?.map_err(ended)
        })?;
    }
    for (name, set) in SETS_DATA {
        linker.func_wrap(MODULE, name, move |caller: Caller<'_, State>, at: u32| {
            let said = abi::data(memory(&caller)?, at)?;
            here(|call| set(call, said))?.map_err(ended)
        })?;
    }
    for (name, set) in SETS_NAMED {
        linker.func_wrap(MODULE, name, move |caller: Caller<'_, State>, name: u32, value: u32| {
            let memory = memory(&caller)?;
            let (name, value) = (abi::string(memory, name)?, abi::string(memory, value)?);
            here(|call| counted(call, name.len() + value.len()).and_then(|()| set(call, name, value)))?.map_err(ended)
        })?;
    }
    link_rest(linker)?;
    link_shared(linker)
}

fn link_rest(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(MODULE, "host_resp_get_status_code", || here(|call| i32::from(response(call).status)))?;
    linker.func_wrap(MODULE, "host_resp_set_status_code", |code: i32| {
        let status = u16::try_from(code).ok().filter(|status| (200..600).contains(status));
        let status = status.ok_or_else(|| ended(format!("{code} is no status of an answer; accepted: 200 to 599")))?;
        here(|call| response(call).status = status)
    })?;
    linker.func_wrap(MODULE, "host_add_tag", |caller: Caller<'_, State>, at: u32| {
        let tag = abi::string(memory(&caller)?, at)?;
        let tag = base_text::escaped(&String::from_utf8_lossy(&tag[..tag.len().min(NOTE_MAX)])).to_string();
        here(|call| {
            if call.notes.len() < NOTES_MAX {
                call.notes.push(tag);
            }
        })
    })?;
    linker.func_wrap(MODULE, "host_log", |mut caller: Caller<'_, State>, level: i32, at: u32| -> Result<()> {
        let said = abi::string(memory(&caller)?, at)?;
        let said = said[..said.len().min(LINE_MAX)].to_vec();
        log(&mut caller, level, &said);
        Ok(())
    })?;
    linker.func_wrap(MODULE, "host_get_unix_time_in_ms", || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.as_millis() as i64
    })?;
    linker.func_wrap(MODULE, "host_rand", |mut caller: Caller<'_, State>| {
        // The 53 bits that a fraction has.
        (caller.data_mut().random() >> 11) as f64 / (1u64 << 53) as f64
    })?;
    // What programs made with AssemblyScript import beside: an assertion that failed, and a seed for chance.
    linker.func_wrap(
        "env",
        "abort",
        |caller: Caller<'_, State>, message: u32, file: u32, line: i32, column: i32| -> Result<()> {
            let memory = memory(&caller)?;
            let (message, file) = (utf16(memory, message), utf16(memory, file));
            Err(ended(format!("the program gave up: {message} ({file}:{line}:{column})")))
        },
    )?;
    linker.func_wrap("env", "seed", |mut caller: Caller<'_, State>| (caller.data_mut().random() >> 12) as f64)?;
    Ok(())
}

fn link_shared(linker: &mut Linker<State>) -> Result<()> {
    give_with(linker, "host_cluster_get_binary", |store, (key,): (u32,), out| {
        put_data(out, &known(&store, key)?.unwrap_or_default());
        Ok(())
    })?;
    give_with(linker, "host_cluster_get_string", |store, (key,): (u32,), out| {
        put_string(out, &known(&store, key)?.unwrap_or_default());
        Ok(())
    })?;
    linker.func_wrap(MODULE, "host_cluster_get_integer", |caller: Caller<'_, State>, key: u32| -> Result<i64> {
        Ok(integer(known(&caller.as_context(), key)?.as_deref()))
    })?;
    linker.func_wrap(MODULE, "host_cluster_get_float", |caller: Caller<'_, State>, key: u32| -> Result<f64> {
        Ok(float(known(&caller.as_context(), key)?.as_deref()))
    })?;
    linker.func_wrap(MODULE, "host_cluster_count_key", |caller: Caller<'_, State>, prefix: u32| -> Result<i32> {
        let prefix = abi::text(memory(&caller)?, prefix)?;
        Ok(i32::try_from(caller.data().section.count(prefix)).unwrap_or(i32::MAX))
    })?;
    linker.func_wrap_async(MODULE, WRITES[0], |caller: Caller<'_, State>, (key, value): (u32, u32)| {
        Box::new(async move {
            let value = abi::data(memory(&caller)?, value)?.to_vec();
            change(caller, key, Change::Put(value)).await.map(drop)
        })
    })?;
    linker.func_wrap_async(MODULE, WRITES[1], |caller: Caller<'_, State>, (key, value): (u32, u32)| {
        Box::new(async move {
            let value = abi::string(memory(&caller)?, value)?.to_vec();
            change(caller, key, Change::Put(value)).await.map(drop)
        })
    })?;
    linker.func_wrap_async(MODULE, WRITES[2], |caller: Caller<'_, State>, (key, value): (u32, i64)| {
        Box::new(async move { change(caller, key, Change::Put(value.to_string().into_bytes())).await.map(drop) })
    })?;
    linker.func_wrap_async(MODULE, WRITES[3], |caller: Caller<'_, State>, (key, by): (u32, i64)| {
        Box::new(async move { change(caller, key, Change::AddInteger(by)).await.map(|now| integer(Some(&now))) })
    })?;
    linker.func_wrap_async(MODULE, WRITES[4], |caller: Caller<'_, State>, (key, value): (u32, f64)| {
        Box::new(async move { change(caller, key, Change::Put(value.to_string().into_bytes())).await.map(drop) })
    })?;
    linker.func_wrap_async(MODULE, WRITES[5], |caller: Caller<'_, State>, (key, by): (u32, f64)| {
        Box::new(async move { change(caller, key, Change::AddFloat(by)).await.map(|now| float(Some(&now))) })
    })?;
    Ok(())
}

/// Defines a function that gives the program what `make` writes, in a place in its memory: asking for that place is a call of its own,
/// on a stack of its own, since it may have to give others their turn as every call does.
fn give_with<P: WasmTyList + Send + 'static>(
    linker: &mut Linker<State>,
    name: &'static str,
    make: impl Fn(StoreContext<'_, State>, P, &mut Vec<u8>) -> Result<()> + Send + Sync + Copy + 'static,
) -> Result<()> {
    linker.func_wrap_async(MODULE, name, move |mut caller: Caller<'_, State>, params: P| {
        Box::new(async move {
            let out = written(&mut caller, params, make)?;
            let alloc = caller.data_mut().take_alloc()?;
            let at = alloc.call_async(&mut caller, length(&out)?).await?;
            caller.data_mut().bring_alloc(alloc);
            put(&mut caller, at, out)
        })
    })?;
    Ok(())
}

/// What is to be given, in memory that the VM keeps for that.
fn written<P>(
    caller: &mut Caller<'_, State>,
    params: P,
    make: impl Fn(StoreContext<'_, State>, P, &mut Vec<u8>) -> Result<()>,
) -> Result<Vec<u8>> {
    let mut out = std::mem::take(&mut caller.data_mut().scratch);
    out.clear();
    make(caller.as_context(), params, &mut out)?;
    Ok(out)
}

fn put(caller: &mut Caller<'_, State>, at: u32, out: Vec<u8>) -> Result<u32> {
    write(caller, at, &out)?;
    if out.capacity() <= SCRATCH_MAX {
        caller.data_mut().scratch = out;
    }
    Ok(at)
}

fn length(out: &[u8]) -> Result<u32> {
    u32::try_from(out.len()).map_err(|_| ended("a text is longer than a program's memory"))
}

/// Carries a change to the cluster; gives the value that is there then.
async fn change(mut caller: Caller<'_, State>, key: u32, change: Change) -> Result<Vec<u8>> {
    let key = abi::text(memory(&caller)?, key)?.to_owned();
    if key.is_empty() || key.len() > KEY_MAX {
        return Err(ended(format!("a key of shared data has {} bytes; accepted: 1 to {KEY_MAX}", key.len())));
    }
    if let Change::Put(value) = &change
        && value.len() > VALUE_MAX
    {
        return Err(ended(format!("a value of shared data has {} bytes; accepted: up to {VALUE_MAX}", value.len())));
    }
    let (answer, mut answered) = mailbox(1);
    let place = caller.data().place.clone();
    shared::write(Write { place, key, change, answer }).map_err(ended)?;
    let asked = Instant::now();
    let answer = answered.recv().await;
    caller.data_mut().allow(asked.elapsed());
    match answer {
        Some(done) => done.map_err(|why| ended(format!("shared data was not changed: {why}"))),
        None => Err(ended("shared data was not changed: the control half has stopped")),
    }
}

/// The value that this machine knows of a key.
fn known(store: &StoreContext<'_, State>, key: u32) -> Result<Option<Vec<u8>>> {
    let key = abi::text(bytes(store)?, key)?;
    Ok(store.data().section.value(key))
}

/// Writes what a program said into our log.
pub fn log(caller: &mut Caller<'_, State>, level: i32, text: &[u8]) {
    let lines = &mut caller.data_mut().lines;
    if *lines == LINES_MAX {
        return;
    }
    *lines += 1;
    let text = String::from_utf8_lossy(&text[..text.len().min(LINE_MAX)]);
    let said = base_text::escaped(text.trim_end());
    let (pipeline, filter) = (&*caller.data().place.pipeline, &*caller.data().place.filter);
    match level {
        ..=0 => tracing::debug!(target: "wasm", pipeline, filter, "{said}"),
        1 => tracing::info!(target: "wasm", pipeline, filter, "{said}"),
        2 => tracing::warn!(target: "wasm", pipeline, filter, "{said}"),
        3.. => tracing::error!(target: "wasm", pipeline, filter, "{said}"),
    }
}

/// Looks at the request that the program runs for.
fn here<T>(look: impl FnOnce(&mut Call) -> T) -> Result<T> {
    call::with(look).ok_or_else(|| ended("the program asks for a request while it starts; there is none yet"))
}

/// A program sets so many bytes more: they are ours, and not of the memory that it is allowed.
fn counted(call: &mut Call, bytes: usize) -> Result<(), String> {
    call.said = call.said.saturating_add(bytes);
    if call.said <= SAID_MAX {
        return Ok(());
    }
    Err(format!("the program sets more than {SAID_MAX} bytes of headers and other texts of one request and its answer"))
}

/// The program's memory.
pub fn memory<'c>(caller: &'c Caller<'_, State>) -> Result<&'c [u8]> {
    Ok(exported(caller.data())?.data(caller))
}

fn bytes<'c>(store: &'c StoreContext<'_, State>) -> Result<&'c [u8]> {
    Ok(exported(store.data())?.data(store))
}

fn exported(state: &State) -> Result<Memory> {
    state.memory.ok_or_else(|| ended("the program asks for something before its memory is there"))
}

/// Writes into the program's memory.
pub fn write(caller: &mut Caller<'_, State>, at: u32, bytes: &[u8]) -> Result<()> {
    let memory = exported(caller.data())?;
    let room =
        memory.data_mut(caller.as_context_mut()).get_mut(at as usize..).and_then(|rest| rest.get_mut(..bytes.len()));
    room.ok_or(abi::AbiError::Outside)?.copy_from_slice(bytes);
    Ok(())
}

/// So many bytes of the program's memory.
pub fn slice(memory: &[u8], at: u32, length: u32) -> Result<&[u8]> {
    let rest = memory.get(at as usize..).ok_or(abi::AbiError::Outside)?;
    Ok(rest.get(..length as usize).ok_or(abi::AbiError::Outside)?)
}

/// A text as AssemblyScript keeps it: UTF-16, its length in bytes in front of it.
fn utf16(memory: &[u8], at: u32) -> String {
    let read = || {
        let length = slice(memory, at.checked_sub(4)?, 4).ok()?;
        let length = u32::from_le_bytes(length.try_into().ok()?).min(LINE_MAX as u32) & !1;
        let units = slice(memory, at, length).ok()?.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
        Some(char::decode_utf16(units).map(|unit| unit.unwrap_or('?')).collect::<String>())
    };
    base_text::escaped(&read().unwrap_or_default()).to_string()
}

fn response(call: &mut Call) -> &mut Response {
    call.space.response.get_or_insert_default()
}

fn value<'h>(headers: &'h Headers, name: &[u8]) -> &'h [u8] {
    std::str::from_utf8(name).ok().and_then(|name| headers.value(name)).unwrap_or_default()
}

fn cookies(headers: &Headers) -> impl Iterator<Item = &[u8]> {
    let pairs = headers.known_all(Known::Cookie).flat_map(|line| line.split(|b| *b == b';'));
    pairs.map(<[u8]>::trim_ascii).filter(|pair| pair.contains(&b'='))
}

fn set(headers: &mut Headers, name: &[u8], value: &[u8]) -> Result<(), String> {
    check(name, value)?;
    headers.set(name, value);
    Ok(())
}

fn add(headers: &mut Headers, name: &[u8], value: &[u8]) -> Result<(), String> {
    check(name, value)?;
    add_said(headers, name, value);
    Ok(())
}

fn del(headers: &mut Headers, name: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(name).ok().filter(|name| headers::is_name(name.as_bytes()));
    headers.remove(text.ok_or_else(|| wrong("a header name", name))?);
    Ok(())
}

fn set_all(headers: &mut Headers, lines: &[u8]) -> Result<(), String> {
    let lines = abi::header_lines(lines).map_err(|why| why.to_string())?;
    headers.clear();
    lines.into_iter().for_each(|(name, value)| headers.add(name, value));
    Ok(())
}

fn check(name: &[u8], value: &[u8]) -> Result<(), String> {
    if !headers::is_name(name) {
        return Err(wrong("a header name", name));
    }
    if !headers::is_value(value) {
        return Err(format!("the value of header {} holds control characters", String::from_utf8_lossy(name)));
    }
    Ok(())
}

fn wrong(what: &str, said: &[u8]) -> String {
    format!("{} is not {what}", base_text::quoted(&String::from_utf8_lossy(&said[..said.len().min(NOTE_MAX)])))
}

/// Keys and values of shared data, in bytes: they are in the memory of every machine.
const KEY_MAX: usize = 1024;
const VALUE_MAX: usize = 256 << 10;

/// Notes for the access log per request, and bytes of each.
const NOTES_MAX: usize = 32;
const NOTE_MAX: usize = 256;

/// Bytes of headers, paths and other texts that a program sets per request, one after another.
const SAID_MAX: usize = 1 << 20;

/// Lines for our log per request and start, and bytes of each.
const LINES_MAX: u32 = 32;
const LINE_MAX: usize = 4096;

/// Memory kept for what the next function gives, in bytes.
const SCRATCH_MAX: usize = 64 << 10;

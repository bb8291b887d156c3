//! What a proxy-wasm program may ask for (ABI 0.2.1), module `env`.
//!
//! Every function answers with a status; what is given goes into memory that the program's `proxy_on_memory_allocate` (or `malloc`)
//! gives, and its address and length where the program says (see [`proxy_gives`]). An address that leads out of the program's memory ends it.

use crate::call::{self, Call};
use crate::host::{self, ended, slice};
use crate::proxy_abi::{Pairs, is_field, read_pairs, write_pairs};
use crate::proxy_common::{Common, Kind, Refused};
use crate::proxy_gives::{self, BUFFER, DEQUEUE, HEADER_PAIRS, HEADER_VALUE, PROPERTY, SHARED_DATA, SOURCE, stage};
use crate::vm::State;
use edge_filters::replaced;
use edge_pipeline::Body;
use edge_pipeline::exchange::add_said;
use proto_http::{Headers, Known, Method, Response, authority};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use wasmtime::{Caller, ExternType, Linker, Module, Result, Val, ValType};

pub const MODULE: &str = "env";

const OK: i32 = 0;
const NOT_FOUND: i32 = 1;
const BAD_ARGUMENT: i32 = 2;
const EMPTY: i32 = 7;
const CAS_MISMATCH: i32 = 8;
const INTERNAL_FAILURE: i32 = 10;
const UNIMPLEMENTED: i32 = 12;

/// Header maps, as the ABI numbers them.
const REQUEST_HEADERS: i32 = 0;
const REQUEST_TRAILERS: i32 = 1;
const RESPONSE_HEADERS: i32 = 2;
const RESPONSE_TRAILERS: i32 = 3;
const CALL_HEADERS: i32 = 6;
const CALL_TRAILERS: i32 = 7;

/// Buffers.
const REQUEST_BODY: i32 = 0;
const RESPONSE_BODY: i32 = 1;
const CALL_BODY: i32 = 4;
const VM_CONFIGURATION: i32 = 6;
const PLUGIN_CONFIGURATION: i32 = 7;

/// What one VM of a ProxyWasm knows.
#[derive(Default)]
pub struct Proxy {
    pub vm_configuration: Vec<u8>,
    pub configuration: Vec<u8>,
    pub root_id: String,
    /// Names of what may be called.
    pub upstreams: Arc<[String]>,
    pub common: Arc<Common>,
    /// `proxy_on_tick` is wanted so often.
    pub tick: Option<Duration>,
    /// The context that is called, and the one that functions are about.
    pub context: i32,
    pub effective: i32,
    /// Of the context that is called.
    pub here: PerContext,
    /// Contexts beside it that may go on.
    pub resumed: BTreeSet<i32>,
    /// Queues that got something, and that somebody of this VM wants to hear of.
    pub filled: Vec<u32>,
    pub registered: BTreeSet<u32>,
    /// Number of the last call that was wanted.
    pub last_call: u32,
}

/// What a context keeps from one callback to the next.
#[derive(Default)]
pub struct PerContext {
    /// An answer that takes the place of everything.
    pub local: Option<Local>,
    /// `proxy_continue_stream` was called.
    pub resumed: bool,
    /// What the program says it means (`proxy_set_property`).
    properties: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Calls that are to be made.
    pub calls: Vec<WantedCall>,
    /// What has come back, while the program is told of it.
    pub reply: Option<CallReply>,
}

pub struct Local {
    pub status: u16,
    pub body: Vec<u8>,
    pub headers: Pairs,
}

/// A call over HTTP.
pub struct WantedCall {
    pub token: u32,
    /// Index into [`Proxy::upstreams`].
    pub upstream: usize,
    pub headers: Pairs,
    pub body: Vec<u8>,
    pub timeout: Duration,
}

/// What came of one.
#[derive(Default)]
pub struct CallReply {
    pub token: u32,
    pub headers: Pairs,
    pub body: Vec<u8>,
}

type Ask<'c> = Caller<'c, State>;

pub fn link(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(MODULE, "proxy_log", |mut caller: Ask<'_>, level: i32, at: u32, length: u32| -> Result<i32> {
        // Trace and debug are one to us, critical is an error.
        let text = slice(host::memory(&caller)?, at, length)?;
        let text = text[..text.len().min(LINE_MAX)].to_vec();
        host::log(&mut caller, (level - 1).clamp(0, 3), &text);
        Ok(OK)
    })?;
    linker.func_wrap(MODULE, "proxy_get_log_level", |mut caller: Ask<'_>, at: u32| number(&mut caller, at, 2))?;
    linker.func_wrap(MODULE, "proxy_get_current_time_nanoseconds", |mut caller: Ask<'_>, at: u32| -> Result<i32> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        host::write(&mut caller, at, &(now.as_nanos() as u64).to_le_bytes())?;
        Ok(OK)
    })?;
    linker.func_wrap(MODULE, "proxy_set_tick_period_milliseconds", |mut caller: Ask<'_>, ms: u32| -> Result<i32> {
        proxy(&mut caller)?.tick = (ms > 0).then(|| Duration::from_millis(u64::from(ms)).max(TICK_MIN));
        Ok(OK)
    })?;
    linker.func_wrap(MODULE, "proxy_set_effective_context", |mut caller: Ask<'_>, context: i32| -> Result<i32> {
        proxy(&mut caller)?.effective = context;
        Ok(OK)
    })?;
    linker.func_wrap(MODULE, "proxy_done", || OK)?;
    linker.func_wrap(MODULE, "proxy_continue_stream", |mut caller: Ask<'_>, _: i32| resume(&mut caller))?;
    linker.func_wrap(MODULE, "proxy_continue_request", |mut caller: Ask<'_>| resume(&mut caller))?;
    linker.func_wrap(MODULE, "proxy_continue_response", |mut caller: Ask<'_>| resume(&mut caller))?;
    proxy_gives::link(linker)?;
    link_headers(linker)?;
    link_local_response(linker)?;
    link_buffers(linker)?;
    link_properties(linker)?;
    link_calls(linker)?;
    link_shared(linker)?;
    link_queues(linker)?;
    link_metrics(linker)?;
    // An assertion of AssemblyScript that failed.
    linker.func_wrap(MODULE, "abort", |_: u32, _: u32, line: i32, column: i32| -> Result<()> {
        Err(ended(format!("the program gave up at line {line}, column {column}")))
    })?;
    linker.func_wrap(MODULE, "seed", |mut caller: Ask<'_>| (caller.data_mut().random() >> 11) as f64)?;
    Ok(())
}

/// Whatever else of the ABI a program imports is answered as unimplemented: gRPC calls, foreign functions.
pub fn link_unimplemented(linker: &mut Linker<State>, module: &Module) {
    for import in module.imports().filter(|import| import.module() == MODULE && import.name().starts_with("proxy_")) {
        let ExternType::Func(kind) = import.ty() else { continue };
        if kind.results().len() == 1 && kind.results().all(|result| matches!(result, ValType::I32)) {
            // Those that are there already stay.
            let _ = linker.func_new(MODULE, import.name(), kind, |_, _, results| {
                results[0] = Val::I32(UNIMPLEMENTED);
                Ok(())
            });
        }
    }
}

fn resume(caller: &mut Ask<'_>) -> Result<i32> {
    let proxy = proxy(caller)?;
    if proxy.effective == proxy.context {
        proxy.here.resumed = true;
    } else if proxy.resumed.len() < RESUMED_MAX {
        let context = proxy.effective;
        proxy.resumed.insert(context);
    }
    Ok(OK)
}

fn link_headers(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(SOURCE, HEADER_PAIRS.name, |mut caller: Ask<'_>, map: i32| -> Result<i32> {
        let Some(pairs) = pairs_of(&mut caller, map)? else { return Ok(BAD_ARGUMENT) };
        let mut out = Vec::new();
        write_pairs(&mut out, pairs.iter().map(|(name, value)| (&name[..], &value[..])));
        stage(&mut caller, out)
    })?;
    linker.func_wrap(MODULE, "proxy_get_header_map_size", |mut caller: Ask<'_>, map: i32, at: u32| -> Result<i32> {
        let Some(pairs) = pairs_of(&mut caller, map)? else { return Ok(BAD_ARGUMENT) };
        let size: usize = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
        number(&mut caller, at, u32::try_from(size).unwrap_or(u32::MAX))
    })?;
    linker.func_wrap(
        SOURCE,
        HEADER_VALUE.name,
        |mut caller: Ask<'_>, map: i32, name: u32, name_len: u32| -> Result<i32> {
            let name = slice(host::memory(&caller)?, name, name_len)?.to_ascii_lowercase();
            match value_of(&mut caller, map, &name)? {
                Some(value) => stage(&mut caller, value),
                None => Ok(NOT_FOUND),
            }
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_set_header_map_pairs",
        |caller: Ask<'_>, map: i32, at: u32, length: u32| -> Result<i32> {
            let Some(pairs) = read_pairs(slice(host::memory(&caller)?, at, length)?) else { return Ok(BAD_ARGUMENT) };
            here(|call| {
                match map {
                    REQUEST_HEADERS => call.space.request.headers.retain(|name| name.eq_ignore_ascii_case(b"host")),
                    RESPONSE_HEADERS => response(call).headers.clear(),
                    _ => match trailers(call, map) {
                        Some(trailers) => trailers.clear(),
                        None => return Ok(BAD_ARGUMENT),
                    },
                }
                let mut pairs = pairs.iter();
                pairs.try_fold(OK, |all, (name, value)| Ok(all.max(change(call, map, name, Some(value), true)?)))
            })?
        },
    )?;
    for (function, adds) in [("proxy_add_header_map_value", true), ("proxy_replace_header_map_value", false)] {
        linker.func_wrap(
            MODULE,
            function,
            move |caller: Ask<'_>, map: i32, name: u32, name_len: u32, value: u32, value_len: u32| -> Result<i32> {
                let memory = host::memory(&caller)?;
                let (name, value) = (slice(memory, name, name_len)?, slice(memory, value, value_len)?);
                here(|call| change(call, map, name, Some(value), adds))?
            },
        )?;
    }
    linker.func_wrap(
        MODULE,
        "proxy_remove_header_map_value",
        |caller: Ask<'_>, map: i32, name: u32, length: u32| -> Result<i32> {
            let name = slice(host::memory(&caller)?, name, length)?;
            here(|call| change(call, map, name, None, false))?
        },
    )?;
    Ok(())
}

fn link_local_response(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(
        MODULE,
        "proxy_send_local_response",
        |mut caller: Ask<'_>,
         status: i32,
         _: u32,
         _: u32,
         body: u32,
         body_len: u32,
         headers: u32,
         headers_len: u32,
         _: i32|
         -> Result<i32> {
            let memory = host::memory(&caller)?;
            let Some(headers) = read_pairs(slice(memory, headers, headers_len)?) else { return Ok(BAD_ARGUMENT) };
            let body = slice(memory, body, body_len)?;
            let size = headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
            if body.len() > BODY_MAX || size > HEADERS_MAX || headers.len() > FIELDS_MAX {
                return Ok(BAD_ARGUMENT);
            }
            let body = body.to_vec();
            let Some(status) = u16::try_from(status).ok().filter(|status| (200..600).contains(status)) else {
                return Ok(BAD_ARGUMENT);
            };
            let proxy = proxy(&mut caller)?;
            if proxy.effective != proxy.context {
                return Ok(BAD_ARGUMENT);
            }
            proxy.here.local = Some(Local { status, body, headers });
            Ok(OK)
        },
    )?;
    Ok(())
}

fn link_buffers(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(SOURCE, BUFFER.name, |mut caller: Ask<'_>, buffer: i32, from: u32, most: u32| -> Result<i32> {
        let part = with_buffer(&mut caller, buffer, |bytes| {
            let rest = bytes.get(from as usize..).unwrap_or_default();
            rest[..rest.len().min(most as usize)].to_vec()
        })?;
        match part {
            Some(part) => stage(&mut caller, part),
            None => Ok(NOT_FOUND),
        }
    })?;
    linker.func_wrap(
        MODULE,
        "proxy_get_buffer_status",
        |mut caller: Ask<'_>, buffer: i32, length: u32, flags: u32| -> Result<i32> {
            let Some(size) = with_buffer(&mut caller, buffer, <[u8]>::len)? else { return Ok(NOT_FOUND) };
            number(&mut caller, length, u32::try_from(size).unwrap_or(u32::MAX))?;
            number(&mut caller, flags, 0)
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_set_buffer_bytes",
        |mut caller: Ask<'_>, buffer: i32, from: u32, count: u32, at: u32, length: u32| -> Result<i32> {
            if buffer != REQUEST_BODY && buffer != RESPONSE_BODY {
                return Ok(BAD_ARGUMENT);
            }
            let Some(mut bytes) = with_buffer(&mut caller, buffer, <[u8]>::to_vec)? else { return Ok(NOT_FOUND) };
            let new = slice(host::memory(&caller)?, at, length)?;
            let begin = (from as usize).min(bytes.len());
            let end = begin.saturating_add(count as usize).min(bytes.len());
            if bytes.len() - (end - begin) + new.len() > BODY_MAX {
                return Ok(BAD_ARGUMENT);
            }
            bytes.splice(begin..end, new.iter().copied());
            here(|call| match buffer {
                REQUEST_BODY => {
                    replaced(&mut call.space.request.headers);
                    call.space.request_body.set_bytes(bytes);
                }
                _ => {
                    replaced(&mut response(call).headers);
                    call.space.response_body.set_bytes(bytes);
                }
            })?;
            Ok(OK)
        },
    )?;
    Ok(())
}

fn link_properties(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(SOURCE, PROPERTY.name, |mut caller: Ask<'_>, path: u32, path_len: u32| -> Result<i32> {
        let path = slice(host::memory(&caller)?, path, path_len)?;
        if path.len() > ITEM_MAX {
            return Ok(BAD_ARGUMENT);
        }
        let path = path.to_vec();
        match property(&mut caller, &path)? {
            Some(value) => stage(&mut caller, value),
            None => Ok(NOT_FOUND),
        }
    })?;
    linker.func_wrap(
        MODULE,
        "proxy_set_property",
        |mut caller: Ask<'_>, path: u32, path_len: u32, value: u32, value_len: u32| -> Result<i32> {
            let memory = host::memory(&caller)?;
            let (path, value) = (slice(memory, path, path_len)?, slice(memory, value, value_len)?);
            if path.len() + value.len() > ITEM_MAX {
                return Ok(BAD_ARGUMENT);
            }
            let (path, value) = (path.to_vec(), value.to_vec());
            let properties = &mut proxy(&mut caller)?.here.properties;
            if properties.len() >= PROPERTIES_MAX && !properties.contains_key(&path) {
                return Ok(BAD_ARGUMENT);
            }
            properties.insert(path, value);
            Ok(OK)
        },
    )?;
    Ok(())
}

/// What a program asks for by path: parts with NUL between them, as Envoy names them.
fn property(caller: &mut Ask<'_>, path: &[u8]) -> Result<Option<Vec<u8>>> {
    if let Some(said) = proxy(caller)?.here.properties.get(path) {
        return Ok(Some(said.clone()));
    }
    let trimmed = path.strip_suffix(b"\0").unwrap_or(path);
    let parts: Vec<&[u8]> = trimmed.split(|b| *b == 0).collect();
    let root = proxy(caller)?.root_id.clone();
    let place = caller.data().place.clone();
    let text = |text: &str| Some(text.as_bytes().to_vec());
    Ok(match parts.as_slice() {
        [b"plugin_name"] => text(&place.filter),
        [b"plugin_root_id"] => text(&root),
        [b"plugin_vm_id"] => text(&format!("{}/{}", place.pipeline, place.filter)),
        [b"request", b"headers", name] => value_of(caller, REQUEST_HEADERS, &name.to_ascii_lowercase())?,
        [b"response", b"headers", name] => value_of(caller, RESPONSE_HEADERS, &name.to_ascii_lowercase())?,
        [b"request", part] => here(|call| {
            let request = &call.space.request;
            match *part {
                b"path" => Some(request.target().into_bytes()),
                b"url_path" => Some(request.path.encoded().into_owned().into_bytes()),
                b"query" => Some(request.query.clone().unwrap_or_default().into_bytes()),
                b"host" => text(&request.authority),
                b"scheme" => text(call.scheme),
                b"method" => text(request.method.as_str()),
                b"protocol" => text(request.version.as_str()),
                b"id" => request.headers.value("X-Request-Id").map(<[u8]>::to_vec),
                b"useragent" => request.headers.value("User-Agent").map(<[u8]>::to_vec),
                b"referer" => request.headers.value("Referer").map(<[u8]>::to_vec),
                b"size" => call.space.request_body.length().map(|length| length.to_le_bytes().to_vec()),
                _ => None,
            }
        })?,
        [b"response", b"code"] => {
            here(|call| call.space.response.as_ref().map(|response| u64::from(response.status).to_le_bytes().to_vec()))?
        }
        [b"response", b"size"] => here(|call| call.space.response_body.length().map(|n| n.to_le_bytes().to_vec()))?,
        [b"source", b"address"] => here(|call| Some(call.real_ip_text().into_bytes()))?,
        _ => None,
    })
}

fn link_calls(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(
        MODULE,
        "proxy_http_call",
        |mut caller: Ask<'_>,
         upstream: u32,
         upstream_len: u32,
         headers: u32,
         headers_len: u32,
         body: u32,
         body_len: u32,
         _: u32,
         _: u32,
         timeout: u32,
         token: u32|
         -> Result<i32> {
            let memory = host::memory(&caller)?;
            let name = String::from_utf8_lossy(slice(memory, upstream, upstream_len)?).into_owned();
            let Some(headers) = read_pairs(slice(memory, headers, headers_len)?) else { return Ok(BAD_ARGUMENT) };
            let body = slice(memory, body, body_len)?.to_vec();
            let size = headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
            if size > HEADERS_MAX || headers.len() > FIELDS_MAX || body.len() > BODY_MAX {
                return Ok(BAD_ARGUMENT);
            }
            let proxy = proxy(&mut caller)?;
            let Some(upstream) = proxy.upstreams.iter().position(|known| *known == name) else {
                return Ok(BAD_ARGUMENT);
            };
            if proxy.here.calls.len() >= CALLS_MAX {
                proxy.common.refused();
                return Ok(INTERNAL_FAILURE);
            }
            proxy.last_call = proxy.last_call.wrapping_add(1).max(1);
            let wanted = proxy.last_call;
            let timeout = Duration::from_millis(u64::from(timeout));
            proxy.here.calls.push(WantedCall { token: wanted, upstream, headers, body, timeout });
            number(&mut caller, token, wanted)
        },
    )?;
    Ok(())
}

fn link_shared(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(
        SOURCE,
        SHARED_DATA.name,
        |mut caller: Ask<'_>, key: u32, key_len: u32, cas: u32| -> Result<i32> {
            let key = slice(host::memory(&caller)?, key, key_len)?;
            let found = common(&caller)?.value(key);
            let Some((value, version)) = found else { return Ok(NOT_FOUND) };
            number(&mut caller, cas, version)?;
            stage(&mut caller, value)
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_set_shared_data",
        |caller: Ask<'_>, key: u32, key_len: u32, value: u32, value_len: u32, cas: u32| -> Result<i32> {
            let memory = host::memory(&caller)?;
            let (key, value) = (slice(memory, key, key_len)?, slice(memory, value, value_len)?);
            Ok(match common(&caller)?.set(key, value, cas) {
                Ok(()) => OK,
                Err(Refused::Mismatch) => CAS_MISMATCH,
                Err(Refused::Full) => INTERNAL_FAILURE,
            })
        },
    )?;
    Ok(())
}

fn link_queues(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(
        MODULE,
        "proxy_register_shared_queue",
        |mut caller: Ask<'_>, name: u32, length: u32, at: u32| -> Result<i32> {
            let name = slice(host::memory(&caller)?, name, length)?;
            let Some(id) = common(&caller)?.queue(name) else { return Ok(INTERNAL_FAILURE) };
            proxy(&mut caller)?.registered.insert(id);
            number(&mut caller, at, id)
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_resolve_shared_queue",
        |mut caller: Ask<'_>, _: u32, _: u32, name: u32, length: u32, at: u32| -> Result<i32> {
            let name = slice(host::memory(&caller)?, name, length)?;
            match common(&caller)?.known_queue(name) {
                Some(id) => number(&mut caller, at, id),
                None => Ok(NOT_FOUND),
            }
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_enqueue_shared_queue",
        |mut caller: Ask<'_>, id: u32, value: u32, length: u32| -> Result<i32> {
            let value = slice(host::memory(&caller)?, value, length)?;
            match common(&caller)?.push(id, value) {
                None => return Ok(NOT_FOUND),
                Some(Err(_)) => return Ok(INTERNAL_FAILURE),
                Some(Ok(())) => {}
            }
            let proxy = proxy(&mut caller)?;
            if proxy.registered.contains(&id) && proxy.filled.len() < FILLED_MAX {
                proxy.filled.push(id);
            }
            Ok(OK)
        },
    )?;
    linker.func_wrap(SOURCE, DEQUEUE.name, |mut caller: Ask<'_>, id: u32| -> Result<i32> {
        let Some(value) = common(&caller)?.pop(id) else { return Ok(NOT_FOUND) };
        match value {
            Some(value) => stage(&mut caller, value),
            None => Ok(EMPTY),
        }
    })?;
    Ok(())
}

fn link_metrics(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(
        MODULE,
        "proxy_define_metric",
        |mut caller: Ask<'_>, kind: i32, name: u32, length: u32, at: u32| -> Result<i32> {
            let kind = match kind {
                0 => Kind::Counter,
                1 => Kind::Gauge,
                2 => Kind::Histogram,
                _ => return Ok(BAD_ARGUMENT),
            };
            let name = slice(host::memory(&caller)?, name, length)?;
            match common(&caller)?.define(kind, name) {
                Some(id) => number(&mut caller, at, id),
                None => Ok(BAD_ARGUMENT),
            }
        },
    )?;
    linker.func_wrap(MODULE, "proxy_increment_metric", |caller: Ask<'_>, id: u32, by: i64| -> Result<i32> {
        Ok(common(&caller)?.increment(id, by).map_or(NOT_FOUND, |done| if done { OK } else { BAD_ARGUMENT }))
    })?;
    linker.func_wrap(MODULE, "proxy_record_metric", |caller: Ask<'_>, id: u32, value: u64| -> Result<i32> {
        Ok(common(&caller)?.record(id, value).map_or(NOT_FOUND, |()| OK))
    })?;
    linker.func_wrap(MODULE, "proxy_get_metric", |mut caller: Ask<'_>, id: u32, at: u32| -> Result<i32> {
        let Some(value) = common(&caller)?.metric(id) else { return Ok(NOT_FOUND) };
        host::write(&mut caller, at, &value.to_le_bytes())?;
        Ok(OK)
    })?;
    Ok(())
}

/// The fields of a map, pseudo fields first; `None` for a map that there is not.
fn pairs_of(caller: &mut Ask<'_>, map: i32) -> Result<Option<Pairs>> {
    if map == CALL_HEADERS {
        let reply = &proxy(caller)?.here.reply;
        return Ok(Some(reply.as_ref().map(|reply| reply.headers.clone()).unwrap_or_default()));
    }
    here(|call| {
        let mut pairs = Pairs::new();
        let headers = match map {
            REQUEST_HEADERS => {
                let request = &call.space.request;
                pairs.push((b":method".to_vec(), request.method.as_str().into()));
                pairs.push((b":scheme".to_vec(), call.scheme.into()));
                pairs.push((b":authority".to_vec(), request.authority.clone().into()));
                pairs.push((b":path".to_vec(), request.target().into()));
                &request.headers
            }
            RESPONSE_HEADERS => {
                let Some(response) = &call.space.response else { return Some(pairs) };
                pairs.push((b":status".to_vec(), response.status.to_string().into()));
                &response.headers
            }
            REQUEST_TRAILERS | RESPONSE_TRAILERS => match trailers(call, map) {
                Some(trailers) => trailers,
                None => return Some(pairs),
            },
            4 | 5 | CALL_TRAILERS => return Some(pairs),
            _ => return None,
        };
        let fields = headers.iter().filter(|(_, _, known)| *known != Known::Host);
        pairs.extend(fields.map(|(name, value, _)| (name.to_ascii_lowercase(), value.to_vec())));
        Some(pairs)
    })
}

/// The value of a field whose name is in small letters.
fn value_of(caller: &mut Ask<'_>, map: i32, name: &[u8]) -> Result<Option<Vec<u8>>> {
    if map == CALL_HEADERS {
        let reply = &proxy(caller)?.here.reply;
        let mut fields = reply.iter().flat_map(|reply| &reply.headers);
        return Ok(fields.find(|(known, _)| known == name).map(|(_, value)| value.clone()));
    }
    here(|call| {
        let request = &call.space.request;
        let headers = match (map, name) {
            (REQUEST_HEADERS, b":method") => return Some(request.method.as_str().into()),
            (REQUEST_HEADERS, b":scheme") => return Some(call.scheme.into()),
            (REQUEST_HEADERS, b":authority" | b"host") => return Some(request.authority.clone().into()),
            (REQUEST_HEADERS, b":path") => return Some(request.target().into()),
            (RESPONSE_HEADERS, b":status") => return Some(call.space.response.as_ref()?.status.to_string().into()),
            (REQUEST_HEADERS, _) => &request.headers,
            (RESPONSE_HEADERS, _) => &call.space.response.as_ref()?.headers,
            _ => trailers(call, map)?,
        };
        let all: Vec<&[u8]> = headers.values(std::str::from_utf8(name).ok()?).collect();
        (!all.is_empty()).then(|| all.join(&b", "[..]))
    })
}

/// Sets, adds or removes a field, pseudo fields among them. What a program sets of one request is bounded: it is our memory, not its own.
fn change(call: &mut Call, map: i32, name: &[u8], value: Option<&[u8]>, adds: bool) -> Result<i32> {
    call.said = call.said.saturating_add(name.len() + value.map_or(0, <[u8]>::len));
    if call.said > SAID_MAX {
        return Err(ended(format!(
            "the program sets more than {SAID_MAX} bytes of headers of one request and its answer"
        )));
    }
    let text = value.and_then(|value| std::str::from_utf8(value).ok());
    let request = &mut call.space.request;
    let done = match (map, name) {
        (REQUEST_HEADERS, b":method") => value.and_then(Method::parse).map(|method| request.method = method),
        (REQUEST_HEADERS, b":authority" | b"host") => {
            text.filter(|text| authority::is_authority(text.as_bytes())).map(|text| {
                request.authority = text.to_owned();
            })
        }
        (REQUEST_HEADERS, b":path") => text.and_then(|text| {
            let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
            let plain = |query: &str| query.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
            if !query.is_none_or(plain) {
                return None;
            }
            request.path.rewrite(path).ok()?;
            request.query = query.map(str::to_owned);
            Some(())
        }),
        // What the connection is cannot be changed by saying so.
        (REQUEST_HEADERS, b":scheme") => Some(()),
        (RESPONSE_HEADERS, b":status") => {
            let status = text.and_then(|text| text.parse().ok()).filter(|status| (200..600).contains(status));
            status.map(|status: u16| response(call).status = status)
        }
        (_, name) => {
            let headers = match map {
                REQUEST_HEADERS => Some(&mut request.headers),
                RESPONSE_HEADERS => Some(&mut response(call).headers),
                _ => trailers(call, map),
            };
            headers.and_then(|headers| edit(headers, name, value, adds))
        }
    };
    Ok(done.map_or(BAD_ARGUMENT, |()| OK))
}

fn edit(headers: &mut Headers, name: &[u8], value: Option<&[u8]>, adds: bool) -> Option<()> {
    match value {
        None => {
            headers.remove(std::str::from_utf8(name).ok()?);
        }
        Some(value) if !is_field(name, value) => return None,
        Some(value) if adds => add_said(headers, name, value),
        Some(value) => headers.set(name, value),
    }
    Some(())
}

/// Fields after a body that is in memory.
fn trailers(call: &mut Call, map: i32) -> Option<&mut Headers> {
    match map {
        REQUEST_TRAILERS => call.space.request_body.trailers_here_mut(),
        RESPONSE_TRAILERS => call.space.response_body.trailers_here_mut(),
        _ => None,
    }
}

/// Looks at the bytes of a buffer; `None` where there is none of that kind.
fn with_buffer<T>(caller: &mut Ask<'_>, buffer: i32, look: impl FnOnce(&[u8]) -> T) -> Result<Option<T>> {
    Ok(match buffer {
        REQUEST_BODY => here(|call| call.space.request_body.in_memory().map(look))?,
        RESPONSE_BODY => here(|call| call.space.response_body.in_memory().map(look))?,
        CALL_BODY => proxy(caller)?.here.reply.as_ref().map(|reply| look(&reply.body)),
        VM_CONFIGURATION => Some(look(&proxy(caller)?.vm_configuration)),
        PLUGIN_CONFIGURATION => Some(look(&proxy(caller)?.configuration)),
        _ => None,
    })
}

fn number(caller: &mut Ask<'_>, at: u32, value: u32) -> Result<i32> {
    host::write(caller, at, &value.to_le_bytes())?;
    Ok(OK)
}

fn proxy<'c>(caller: &'c mut Ask<'_>) -> Result<&'c mut Proxy> {
    caller.data_mut().proxy.as_deref_mut().ok_or_else(wrong_kind)
}

fn common<'c>(caller: &'c Ask<'_>) -> Result<&'c Common> {
    caller.data().proxy.as_deref().map(|proxy| &*proxy.common).ok_or_else(wrong_kind)
}

fn wrong_kind() -> wasmtime::Error {
    ended("the program is run by another kind of filter")
}

fn here<T>(look: impl FnOnce(&mut Call) -> T) -> Result<T> {
    call::with(look).ok_or_else(|| ended("the program asks for a request where there is none"))
}

fn response(call: &mut Call) -> &mut Response {
    call.space.response.get_or_insert_default()
}

/// A program's answer, as it goes to the client: its length is ours to say, and a text that is called nothing is plain, as in Envoy.
pub fn answer(local: Local) -> (Response, Body) {
    let mut response = Response::with_status(local.status);
    for (name, value) in &local.headers {
        let known = Known::of(name);
        if is_field(name, value) && known != Known::ContentLength && !known.is_hop_by_hop() {
            add_said(&mut response.headers, name, value);
        }
    }
    if !local.body.is_empty() && response.headers.known(Known::ContentType).is_none() {
        response.headers.add("Content-Type", "text/plain");
    }
    (response, Body::full(local.body))
}

/// Shortest time between two ticks.
const TICK_MIN: Duration = Duration::from_millis(10);

/// Longest body that a program may make, in bytes.
const BODY_MAX: usize = 4 << 20;

/// Headers of an answer or a call that a program makes: bytes and fields; and bytes that it sets of one request with all its callbacks.
const HEADERS_MAX: usize = 256 << 10;
const FIELDS_MAX: usize = 1000;
const SAID_MAX: usize = 1 << 20;

/// Calls that one callback makes.
const CALLS_MAX: usize = 8;

/// Properties of a context, and bytes of one with its path.
const PROPERTIES_MAX: usize = 64;
const ITEM_MAX: usize = 64 << 10;

/// Bytes of one line for our log.
const LINE_MAX: usize = 4096;

/// Contexts that may go on and have not been asked yet, and queues to hear of after a callback.
const RESUMED_MAX: usize = 10_000;
const FILLED_MAX: usize = 16;

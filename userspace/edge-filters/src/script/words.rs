//! What scripts can say, and the bounds of what they can do.
//!
//! The words of a script live as long as its engine, longer than any request, so what they are of lies in a place of the worker's thread
//! while the script runs, and nowhere else.

use super::guard;
use crate::coding::replaced;
use crate::form;
use edge_pipeline::exchange::add_said;
use edge_pipeline::{Body, Exchange, Space};
use proto_http::{Headers, Known, Method, authority, headers};
use rhai::packages::{
    ArithmeticPackage, BasicArrayPackage, BasicFnPackage, BasicIteratorPackage, BasicMapPackage, BasicMathPackage,
    BasicStringPackage, LanguageCorePackage, LogicPackage, MoreStringPackage, Package,
};
use rhai::{
    AST, Array, Caches, Dynamic, Engine, EvalAltResult, GlobalRuntimeState, ImmutableString, Map, Position, Scope,
    def_package,
};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Longest text, in bytes, and body that a script reads.
pub const TEXT_MAX: usize = 64 << 10;

/// Items of a list or a map.
const ITEMS_MAX: usize = 1000;

const VARIABLES_MAX: usize = 32;
const FUNCTIONS_MAX: usize = 64;

/// Calls within calls. They take the worker's stack.
const CALLS_MAX: usize = 8;
const DEPTH_MAX: usize = 64;
const DEPTH_IN_FUNCTION_MAX: usize = 32;

/// Bytes of headers that a script sets for one request.
const SAID_MAX: usize = 256 << 10;

/// Lines for the access log per request, and bytes of each.
const LINES_MAX: usize = 32;
const LINE_MAX: usize = 256;

/// Operations between two looks at the clock.
const LOOK: u64 = 32;

/// Which bodies a script looks into, and which it replaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reads {
    pub request: bool,
    pub response: bool,
    pub writes_request: bool,
    pub writes_response: bool,
}

/// Told by the text: what is not certainly only written is read, and what is neither `req` nor `resp` may be both.
pub fn reads(script: &str) -> Reads {
    let mut reads = Reads::default();
    for name in ["Body", "JSONBody"] {
        for (at, _) in script.match_indices(name) {
            let Some(before) = script[..at].trim_end().strip_suffix(['.', '?']) else { continue };
            let owner = before.trim_end_matches(['.', '?']).trim_end();
            let word = owner.rsplit(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default();
            let after = script[at + name.len()..].trim_start();
            let written = after.starts_with('=') && !after.starts_with("==");
            let (request, response) = (word != "resp", word != "req");
            reads.writes_request |= request;
            reads.writes_response |= response;
            reads.request |= request && !written;
            reads.response |= response && !written;
        }
    }
    reads
}

def_package! {
    /// What scripts have of the language's own: one table to look into.
    Language(_lib):
        LanguageCorePackage, ArithmeticPackage, BasicStringPackage, BasicIteratorPackage, BasicFnPackage, LogicPackage,
        BasicMathPackage, MoreStringPackage, BasicArrayPackage, BasicMapPackage
    {}
}

/// An engine with all bounds but that of operations, which is the document's.
pub fn engine() -> Engine {
    let mut engine = Engine::new_raw();
    Language::new().register_into_engine(&mut engine);
    engine
        // All workers would meet in it.
        .set_max_strings_interned(0)
        .set_max_call_levels(CALLS_MAX)
        .set_max_expr_depths(DEPTH_MAX, DEPTH_IN_FUNCTION_MAX)
        .set_max_string_size(TEXT_MAX)
        .set_max_array_size(ITEMS_MAX)
        .set_max_map_size(ITEMS_MAX)
        .set_max_variables(VARIABLES_MAX)
        .set_max_functions(FUNCTIONS_MAX)
        .disable_symbol("eval")
        .on_progress(|operations| (operations % LOOK == 0 && is_late()).then_some(Dynamic::UNIT))
        .on_print(print)
        .on_debug(|text, _, _| print(text));
    engine.register_fn("sleep", |_: i64| wait());
    engine.register_fn("sleep", |_: f64| wait());
    engine.register_fn("rand", || (RandomState::new().hash_one(0) >> 11) as f64 / (1u64 << 53) as f64);
    engine.register_fn("unix_ms", || {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
    });
    // The engine's own make the text before they look at its length: 4 GiB of a text that is replaced by itself in itself.
    engine.register_fn("replace", |text: &mut ImmutableString, what: &str, by: &str| replace(text, what, by));
    engine.register_fn("replace", |text: &mut ImmutableString, what: &str, by: char| {
        replace(text, what, by.encode_utf8(&mut [0; 4]))
    });
    engine.register_fn("replace", |text: &mut ImmutableString, what: char, by: &str| {
        replace(text, what.encode_utf8(&mut [0; 4]), by)
    });
    engine.register_fn("replace", |text: &mut ImmutableString, what: char, by: char| {
        replace(text, what.encode_utf8(&mut [0; 4]), by.encode_utf8(&mut [0; 4]))
    });
    words_of_request(&mut engine);
    words_of_url(&mut engine);
    words_of_response(&mut engine);
    words_of_headers(&mut engine);
    engine
}

/// Reads a script; the error says where it is wrong.
pub fn compile(engine: &Engine, script: &str) -> Result<AST, String> {
    let ast = engine.compile_with_scope(&scope(), script).map_err(|why| why.to_string())?;
    guard::check(&ast)?;
    Ok(ast)
}

/// What one run of a script on a worker leaves for the next: its words, and which functions its calls were found to be. To find them again
/// would cost more than to call them.
pub struct Warm {
    global: GlobalRuntimeState,
    found: Caches,
    scope: Scope<'static>,
}

impl Warm {
    fn new(engine: &Engine, ast: &AST) -> Warm {
        let mut global = engine.new_global_runtime_state();
        global.lib.push(ast.shared_lib().clone());
        let mut found = Caches::new();
        found.push_fn_resolution_cache();
        Warm { global, found, scope: scope() }
    }

    /// Whether the next run finds it as a new one would be.
    fn cools_down(&mut self) -> bool {
        self.global.num_operations = Default::default();
        // What the script has named is its own.
        self.scope.rewind(WORDS);
        self.found.fn_resolution_cache_mut().dict.len() <= FOUND_MAX
            && self.scope.get("req").is_some_and(Dynamic::is::<Req>)
            && self.scope.get("resp").is_some_and(Dynamic::is::<Resp>)
    }
}

/// Runs it for the request that is [lent](lent). What the run before has left is used up, and given back where all went well.
pub fn run(engine: &Engine, ast: &AST, warm: &mut Option<Box<Warm>>) -> Result<Dynamic, Failed> {
    let mut own = warm.take().unwrap_or_else(|| Box::new(Warm::new(engine, ast)));
    let Warm { global, found, scope } = &mut *own;
    #[expect(deprecated, reason = "there is no other way to have a run begin with what another one has found")]
    let ran = engine.eval_statements_raw(global, found, scope, ast.statements());
    if ran.is_ok() && own.cools_down() {
        *warm = Some(own);
    }
    ran
}

fn scope() -> Scope<'static> {
    let mut scope = Scope::new();
    // Fields of constants cannot be written.
    scope.push("req", Req).push("resp", Resp);
    debug_assert_eq!(scope.len(), WORDS);
    scope
}

/// Variables that every script has.
const WORDS: usize = 2;

/// Functions that are remembered: one for each call of a script and for each combination of types that it has met.
const FOUND_MAX: usize = 1000;

/// Runs `script` while the request lies where its words look for it.
pub fn lent<T>(exchange: &mut Exchange, timeout: Duration, script: impl FnOnce() -> T) -> T {
    struct Back<'e>(&'e mut Exchange);
    impl Drop for Back<'_> {
        fn drop(&mut self) {
            let Some(mut here) = HERE.take() else { return };
            std::mem::swap(self.0.space(), &mut here.space);
            for line in here.lines.drain(..) {
                self.0.tags.note(|| line);
            }
            SPARE.set(Some(here));
        }
    }
    let mut here = SPARE.take().unwrap_or_default();
    here.real_ip = exchange.client.real_ip;
    here.scheme = exchange.client.scheme;
    here.timeout = timeout;
    here.until = None;
    here.said = 0;
    std::mem::swap(exchange.space(), &mut here.space);
    HERE.set(Some(here));
    let _back = Back(exchange);
    script()
}

/// What a script calls `req`, `resp`, `req.URL`, its query and the headers of both; what they are of lies in [`HERE`].
#[derive(Clone, Copy)]
pub struct Req;
#[derive(Clone, Copy)]
struct Resp;
#[derive(Clone, Copy)]
struct Url;
#[derive(Clone, Copy)]
struct Query;
#[derive(Clone, Copy)]
struct Fields {
    of_response: bool,
}

/// Of a request under way.
#[derive(Default)]
struct Here {
    space: Space,
    real_ip: Option<IpAddr>,
    scheme: &'static str,
    timeout: Duration,
    /// Known from the first look at the clock on: most scripts are done before it.
    until: Option<Instant>,
    lines: Vec<String>,
    /// Bytes of headers that were set.
    said: usize,
}

thread_local! {
    /// The request that a script runs for on this thread.
    static HERE: RefCell<Option<Box<Here>>> = const { RefCell::new(None) };
    /// What the last one lay in, with nothing of it left.
    static SPARE: Cell<Option<Box<Here>>> = const { Cell::new(None) };
}

type Failed = Box<EvalAltResult>;

fn here<T>(look: impl FnOnce(&mut Here) -> T) -> Result<T, Failed> {
    HERE.with_borrow_mut(|here| here.as_deref_mut().map(look)).ok_or_else(|| "there is no request here".into())
}

fn replace(text: &mut ImmutableString, what: &str, by: &str) -> Result<(), Failed> {
    let times = text.matches(what).count();
    if text.len() - times * what.len() + times * by.len() > TEXT_MAX {
        return Err(EvalAltResult::ErrorDataTooLarge("Length of string".to_owned(), Position::NONE).into());
    }
    *text = text.replace(what, by).into();
    Ok(())
}

fn is_late() -> bool {
    here(|here| {
        let now = Instant::now();
        now >= *here.until.get_or_insert(now + here.timeout)
    })
    .unwrap_or(false)
}

fn print(text: &str) {
    let _ = here(|here| {
        if here.lines.len() < LINES_MAX {
            let text = &text[..text.floor_char_boundary(LINE_MAX)];
            here.lines.push(base_text::escaped(text).to_string());
        }
    });
}

/// The worker has others to serve.
fn wait() -> Result<(), Failed> {
    Err("a script does not wait".into())
}

fn wrong<T>(what: &str, said: &str) -> Result<T, Failed> {
    let said: String = said.chars().take(80).collect();
    Err(format!("{} is not {what}", base_text::quoted(&said)).into())
}

fn words_of_request(engine: &mut Engine) {
    engine.register_type_with_name::<Req>("Request");
    engine.register_get("URL", |_: &mut Req| Url);
    engine.register_get("Header", |_: &mut Req| Fields { of_response: false });
    engine.register_get("RealIP", |_: &mut Req| {
        here(|here| here.real_ip.map_or_else(|| "unknown".to_owned(), |ip| ip.to_canonical().to_string()))
    });
    engine.register_get("Scheme", |_: &mut Req| here(|here| ImmutableString::from(here.scheme)));
    engine.register_get("Proto", |_: &mut Req| here(|here| ImmutableString::from(here.space.request.version.as_str())));
    engine.register_get("RequestURI", |_: &mut Req| here(|here| here.space.request.target()));
    engine.register_fn("Cookie", |_: Req, name: &str| {
        here(|here| {
            let lines = here.space.request.headers.known_all(Known::Cookie);
            let mut pairs = lines.flat_map(|line| line.split(|b| *b == b';')).map(<[u8]>::trim_ascii);
            let value = pairs.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
            lossy(value)
        })
    });
    engine.register_get("Method", |_: &mut Req| here(|here| ImmutableString::from(here.space.request.method.as_str())));
    engine.register_set("Method", |_: &mut Req, text: ImmutableString| match Method::parse(text.as_bytes()) {
        Some(method) => here(|here| here.space.request.method = method),
        None => wrong("a method", &text),
    });
    engine
        .register_get("Host", |_: &mut Req| here(|here| ImmutableString::from(here.space.request.authority.as_str())));
    engine.register_set("Host", |_: &mut Req, text: ImmutableString| match authority::is_authority(text.as_bytes()) {
        true => here(|here| text.as_str().clone_into(&mut here.space.request.authority)),
        false => wrong("a host", &text),
    });
    engine.register_get("Body", |_: &mut Req| here(|here| text_of(&here.space.request_body))?);
    engine.register_set("Body", |_: &mut Req, text: ImmutableString| {
        here(|here| {
            replaced(&mut here.space.request.headers);
            here.space.request_body = Body::full(text.as_bytes());
        })
    });
    engine.register_get("JSONBody", |_: &mut Req| here(|here| json_of(&here.space.request_body))?);
}

fn words_of_url(engine: &mut Engine) {
    engine.register_type_with_name::<Url>("URL").register_type_with_name::<Query>("Query");
    engine.register_get("EscapedPath", |_: &mut Url| here(|here| here.space.request.path.encoded().into_owned()));
    engine.register_get("Query", |_: &mut Url| Query);
    engine.register_fn("Get", |_: Query, name: &str| {
        here(|here| {
            let query = here.space.request.query.as_deref().unwrap_or_default();
            let found = form::readable_pairs(query).find(|(known, _)| known == name.as_bytes());
            lossy(found.as_ref().map(|(_, value)| &value[..]))
        })
    });
    engine.register_get("Path", |_: &mut Url| here(|here| ImmutableString::from(here.space.request.path.as_str())));
    engine.register_set("Path", |_: &mut Url, text: ImmutableString| {
        match here(|here| here.space.request.path.rewrite(&text))? {
            Ok(()) => Ok(()),
            Err(why) => Err(why.to_string().into()),
        }
    });
    engine.register_get("RawQuery", |_: &mut Url| here(|here| here.space.request.query.clone().unwrap_or_default()));
    engine.register_set("RawQuery", |_: &mut Url, text: ImmutableString| {
        if !text.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
            return wrong("a query", &text);
        }
        here(|here| here.space.request.query = (!text.is_empty()).then(|| text.to_string()))
    });
}

fn words_of_response(engine: &mut Engine) {
    engine.register_type_with_name::<Resp>("Response");
    engine.register_get("Header", |_: &mut Resp| Fields { of_response: true });
    engine.register_get("StatusCode", |_: &mut Resp| {
        here(|here| here.space.response.as_ref().map_or(0, |response| i64::from(response.status)))
    });
    engine.register_set("StatusCode", |_: &mut Resp, code: i64| {
        match u16::try_from(code).ok().filter(|code| (200..600).contains(code)) {
            Some(status) => here(|here| here.space.response.get_or_insert_default().status = status),
            None => wrong("a status of an answer (200 to 599)", &code.to_string()),
        }
    });
    engine.register_get("Body", |_: &mut Resp| here(|here| text_of(&here.space.response_body))?);
    engine.register_set("Body", |_: &mut Resp, text: ImmutableString| {
        here(|here| {
            replaced(&mut here.space.response.get_or_insert_default().headers);
            here.space.response_body = Body::full(text.as_bytes());
        })
    });
    engine.register_get("JSONBody", |_: &mut Resp| here(|here| json_of(&here.space.response_body))?);
}

/// Methods take the words they are of by value: after one that could have changed them, the engine would look for a way to put
/// `req.Header` back, find none, and make two errors of it that it tells nobody: most of what a script costs.
fn words_of_headers(engine: &mut Engine) {
    engine.register_type_with_name::<Fields>("Header");
    engine.register_fn("Get", |fields: Fields, name: &str| {
        here(|here| lossy(fields.read(here).and_then(|headers| headers.value(name))))
    });
    engine.register_fn("Values", |fields: Fields, name: &str| {
        here(|here| -> Array {
            let values = fields.read(here).into_iter().flat_map(|headers| headers.values(name));
            values.map(|value| lossy(Some(value)).into()).collect()
        })
    });
    engine.register_fn("Set", |fields: Fields, name: &str, value: &str| {
        fields.change(name, value, |headers| headers.set(name, value))
    });
    engine.register_fn("Add", |fields: Fields, name: &str, value: &str| {
        fields.change(name, value, |headers| add_said(headers, name, value))
    });
    engine.register_fn("Del", |fields: Fields, name: &str| {
        fields.change(name, "", |headers| {
            headers.remove(name);
        })
    });
}

impl Fields {
    fn read(self, here: &Here) -> Option<&Headers> {
        match self.of_response {
            true => here.space.response.as_ref().map(|response| &response.headers),
            false => Some(&here.space.request.headers),
        }
    }

    fn change(self, name: &str, value: &str, change: impl FnOnce(&mut Headers)) -> Result<(), Failed> {
        if !headers::is_name(name.as_bytes()) {
            return wrong("a header name", name);
        }
        if !headers::is_value(value.as_bytes()) {
            return wrong("a header value", value);
        }
        here(|here| {
            here.said = here.said.saturating_add(name.len() + value.len());
            if here.said > SAID_MAX {
                let what = format!("more than {SAID_MAX} bytes of headers");
                return Err(EvalAltResult::ErrorDataTooLarge(what, rhai::Position::NONE).into());
            }
            change(match self.of_response {
                true => &mut here.space.response.get_or_insert_default().headers,
                false => &mut here.space.request.headers,
            });
            Ok(())
        })?
    }
}

fn bytes_of(body: &Body) -> Result<&[u8], Failed> {
    let bytes = body.in_memory().ok_or("a body is read by another name than req.Body or resp.Body")?;
    if bytes.len() > TEXT_MAX {
        let what = format!("a body of {} bytes", bytes.len());
        return Err(EvalAltResult::ErrorDataTooLarge(what, rhai::Position::NONE).into());
    }
    Ok(bytes)
}

fn text_of(body: &Body) -> Result<ImmutableString, Failed> {
    bytes_of(body).map(|bytes| lossy(Some(bytes)))
}

fn json_of(body: &Body) -> Result<Dynamic, Failed> {
    let value = serde_json::from_slice(bytes_of(body)?).map_err(|why| format!("the body is not JSON: {why}"))?;
    Ok(dynamic(value))
}

/// As deep as JSON is read, which is bounded.
fn dynamic(value: Value) -> Dynamic {
    match value {
        Value::Null => Dynamic::UNIT,
        Value::Bool(truth) => truth.into(),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => whole.into(),
            None => number.as_f64().unwrap_or_default().into(),
        },
        Value::String(text) => text.into(),
        Value::Array(items) => items.into_iter().map(dynamic).collect::<Array>().into(),
        Value::Object(items) => {
            items.into_iter().map(|(name, value)| (name.into(), dynamic(value))).collect::<Map>().into()
        }
    }
}

fn lossy(bytes: Option<&[u8]>) -> ImmutableString {
    String::from_utf8_lossy(bytes.unwrap_or_default()).as_ref().into()
}

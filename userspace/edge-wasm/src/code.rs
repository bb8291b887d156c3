//! Where programs come from: a thread of its own reads them (and another one URLs), compiles them and tries again what failed, so that no request and no
//! change of the configuration waits for a compiler longer than it wants to.
//!
//! What has the same bytes is compiled once, whoever uses it.

use crate::engine::engine;
use crate::host::{self, REQUEST_BODY, RESPONSE_BODY, WRITES, Waits, ended};
use crate::vm::State;
use crate::wasi;
use arc_swap::ArcSwapOption;
use edge_filters::wasm_host::Code;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use wasmtime::{ExternType, InstancePre, Linker, Module};

/// Largest program, in bytes.
pub const CODE_BYTES_MAX: usize = 32 << 20;

/// Between two tries to load what failed.
const AGAIN: Duration = Duration::from_secs(30);

/// A program, compiled and linked.
pub struct Program {
    pub pre: InstancePre<State>,
    pub waits: Waits,
    /// It asks for these bodies.
    pub reads_request: bool,
    pub reads_response: bool,
    digest: Digest,
}

type Digest = [u8; 32];

/// Reads a URL, of at most so many bytes; waits for it.
pub type FetchCode = Box<dyn Fn(&str, usize) -> Result<Vec<u8>, String> + Send + Sync>;

static FETCH: OnceLock<FetchCode> = OnceLock::new();

/// From now on URLs are read by this; the first one counts.
pub fn fetch_with(fetch: FetchCode) {
    let _ = FETCH.set(fetch);
}

/// A place that a program is loaded from, and the one that was loaded last.
pub struct Source {
    code: Code,
    program: ArcSwapOption<Program>,
    state: Mutex<Loading>,
    loaded: Condvar,
    /// It waits for its turn to be read from its URL.
    asked: AtomicBool,
}

#[derive(Default)]
struct Loading {
    /// It was tried at least once.
    tried: bool,
    /// Why the last try failed.
    error: Option<String>,
}

impl Source {
    /// Has it loaded; until that is done, `before` is the program.
    pub fn new(code: Code, before: Option<Arc<Program>>) -> Arc<Source> {
        let source = Arc::new(Source {
            code,
            program: ArcSwapOption::new(before),
            state: Mutex::default(),
            loaded: Condvar::new(),
            asked: AtomicBool::new(false),
        });
        if let Err(why) = send(Job::Load(Arc::downgrade(&source))) {
            source.done(Err(why));
        }
        source
    }

    pub fn is(&self, code: &Code) -> bool {
        self.code == *code
    }

    pub fn program(&self) -> Option<Arc<Program>> {
        self.program.load_full()
    }

    /// Why the program could not be loaded when that was tried last.
    pub fn error(&self) -> Option<String> {
        self.lock().error.clone()
    }

    /// Waits until it was tried, at most so long.
    pub fn tried(&self, patience: Duration) {
        let waiting = self.loaded.wait_timeout_while(self.lock(), patience, |loading| !loading.tried);
        drop(waiting);
    }

    fn load(&self, cache: &mut Cache, read: Result<Vec<u8>, String>) {
        let loaded = read.and_then(|bytes| {
            let digest = digest(&bytes);
            if let Some(program) = self.program().filter(|program| program.digest == digest) {
                return Ok(program);
            }
            cache.program(&bytes, digest)
        });
        self.done(loaded);
    }

    fn done(&self, loaded: Result<Arc<Program>, String>) {
        let error = match loaded {
            Ok(program) => {
                self.program.store(Some(program));
                None
            }
            Err(why) => {
                tracing::error!(
                    "WasmHost: {}: {why}; it is tried again every {}",
                    self.name(),
                    base_text::duration(AGAIN)
                );
                Some(why)
            }
        };
        *self.lock() = Loading { tried: true, error };
        self.loaded.notify_all();
    }

    fn read(&self) -> Result<Vec<u8>, String> {
        let bytes = match &self.code {
            Code::Inline(bytes) => bytes.clone(),
            Code::Url(url) => FETCH.get().ok_or("URLs cannot be read by this process")?(url, CODE_BYTES_MAX)?,
            Code::File(path) => {
                // What opens a pipe waits for somebody who writes into it, and a device may never end.
                let kind = std::fs::metadata(path).map_err(|why| format!("cannot be read: {why}"))?;
                if !kind.is_file() {
                    return Err("not a file: a directory, a pipe or a device".to_owned());
                }
                let file = File::open(path).map_err(|why| format!("cannot be read: {why}"))?;
                let mut bytes = Vec::new();
                let read = file.take(CODE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
                read.map_err(|why| format!("cannot be read: {why}"))?;
                bytes
            }
        };
        if bytes.len() > CODE_BYTES_MAX {
            return Err(format!("longer than {CODE_BYTES_MAX} bytes"));
        }
        if !bytes.starts_with(b"\0asm") {
            return Err(
                "not a WebAssembly module: it does not begin with \\0asm; text (.wat) has to be assembled first"
                    .to_owned(),
            );
        }
        Ok(bytes)
    }

    fn name(&self) -> &str {
        match &self.code {
            Code::Inline(_) => "the program in the document",
            Code::Url(name) | Code::File(name) => name,
        }
    }

    fn is_inline(&self) -> bool {
        matches!(self.code, Code::Inline(_))
    }

    fn lock(&self) -> MutexGuard<'_, Loading> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has every program that came from a file or a URL read again; those that have changed take the place of the old ones.
pub fn reload() {
    if let Err(why) = send(Job::Reload) {
        tracing::error!("WasmHost: programs are not read again: {why}");
    }
}

enum Job {
    Load(Weak<Source>),
    /// A URL was read for it.
    Read(Weak<Source>, Result<Vec<u8>, String>),
    Reload,
}

fn send(job: Job) -> Result<(), String> {
    static JOBS: OnceLock<Result<mpsc::Sender<Job>, String>> = OnceLock::new();
    let jobs = JOBS.get_or_init(|| {
        let (sender, jobs) = mpsc::channel();
        let thread = thread::Builder::new().name("wasm-code".to_owned()).spawn(move || work(&jobs));
        thread.map_err(|why| format!("the thread that loads programs cannot be started: {why}"))?;
        Ok(sender)
    });
    let gone = "the thread that loads programs has ended";
    jobs.as_ref().map_err(String::clone)?.send(job).map_err(|_| gone.to_owned())
}

fn work(jobs: &mpsc::Receiver<Job>) {
    let mut cache = Cache::default();
    let urls = reader();
    let start = |source: &Arc<Source>, cache: &mut Cache| {
        if !matches!(source.code, Code::Url(_)) {
            source.load(cache, source.read());
        } else if !source.asked.swap(true, SeqCst) {
            let sent = urls.as_ref().map_err(String::clone);
            let gone = |_| "the thread that reads URLs has ended".to_owned();
            if let Err(why) = sent.and_then(|urls| urls.send(Arc::downgrade(source)).map_err(gone)) {
                source.asked.store(false, SeqCst);
                source.done(Err(why));
            }
        }
    };
    let mut sources: Vec<Weak<Source>> = Vec::new();
    let mut again = Instant::now() + AGAIN;
    loop {
        match jobs.recv_timeout(again.saturating_duration_since(Instant::now())) {
            Ok(Job::Load(source)) => {
                source.upgrade().iter().for_each(|source| start(source, &mut cache));
                sources.push(source);
            }
            Ok(Job::Read(source, read)) => {
                if let Some(source) = source.upgrade() {
                    source.load(&mut cache, read);
                }
            }
            Ok(Job::Reload) => {
                let all: Vec<Arc<Source>> = sources.iter().filter_map(Weak::upgrade).collect();
                all.iter().filter(|source| !source.is_inline()).for_each(|source| start(source, &mut cache));
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                again = Instant::now() + AGAIN;
                sources.retain(|source| source.strong_count() > 0);
                let all: Vec<Arc<Source>> = sources.iter().filter_map(Weak::upgrade).collect();
                all.iter().filter(|source| source.error().is_some()).for_each(|source| start(source, &mut cache));
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// A thread of its own reads URLs, one after the other: a server that hangs keeps nobody waiting but other URLs.
fn reader() -> Result<mpsc::Sender<Weak<Source>>, String> {
    let (sender, urls) = mpsc::channel::<Weak<Source>>();
    let read = move || {
        for source in urls {
            let Some(there) = source.upgrade() else { continue };
            // Who asks from here on has it read once more.
            there.asked.store(false, SeqCst);
            let read = there.read();
            drop(there);
            if send(Job::Read(source, read)).is_err() {
                return;
            }
        }
    };
    let thread = thread::Builder::new().name("wasm-url".to_owned()).spawn(read);
    thread.map(|_| sender).map_err(|why| format!("the thread that reads URLs cannot be started: {why}"))
}

/// Compiled programs that somebody uses, and what they are linked with.
#[derive(Default)]
struct Cache {
    programs: HashMap<Digest, Weak<Program>>,
    linker: Option<Linker<State>>,
}

impl Cache {
    fn program(&mut self, bytes: &[u8], digest: Digest) -> Result<Arc<Program>, String> {
        if let Some(program) = self.programs.get(&digest).and_then(Weak::upgrade) {
            return Ok(program);
        }
        let compiled = catch_unwind(AssertUnwindSafe(|| self.compile(bytes, digest)));
        let program = Arc::new(compiled.unwrap_or_else(|_| Err("the compiler failed over it".to_owned()))?);
        self.programs.retain(|_, program| program.strong_count() > 0);
        self.programs.insert(digest, Arc::downgrade(&program));
        Ok(program)
    }

    fn compile(&mut self, bytes: &[u8], digest: Digest) -> Result<Program, String> {
        let engine = engine()?;
        let module = Module::new(engine, bytes).map_err(|why| format!("it cannot be compiled: {why:#}"))?;
        for name in ["memory", "wasm_alloc", "wasm_run"] {
            if module.get_export(name).is_none() {
                return Err(format!(
                    "it exports no {name}; a program exports memory, wasm_alloc, wasm_free and wasm_run"
                ));
            }
        }
        let imports = |names: &[&str]| {
            module.imports().any(|import| import.module() == host::MODULE && names.contains(&import.name()))
        };
        let waits = if imports(&WRITES) { Waits::May } else { Waits::Never };
        let (reads_request, reads_response) = (imports(&[REQUEST_BODY]), imports(&[RESPONSE_BODY]));
        let mut linker = match &self.linker {
            Some(known) => known.clone(),
            None => {
                let made = linker(engine).map_err(|why| format!("the functions for programs: {why:#}"))?;
                self.linker.insert(made).clone()
            }
        };
        refuse_unknown(&mut linker, &module);
        let pre = linker.instantiate_pre(&module).map_err(|why| format!("it asks for what is not there: {why:#}"))?;
        Ok(Program { pre, waits, reads_request, reads_response, digest })
    }
}

fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    host::link(&mut linker)?;
    wasi::link(&mut linker)?;
    Ok(linker)
}

/// What a program imports of a system and we do not have ends it when it is called, and not before: libraries import much that they
/// never call.
fn refuse_unknown(linker: &mut Linker<State>, module: &Module) {
    for import in module.imports().filter(|import| import.module() == wasi::MODULE) {
        if let ExternType::Func(kind) = import.ty() {
            let name = import.name().to_owned();
            // Those that are there already stay.
            let _ = linker.func_new(wasi::MODULE, import.name(), kind, move |_, _, _| {
                Err(ended(format!("the program calls {name} of its system, which is not there")))
            });
        }
    }
}

fn digest(bytes: &[u8]) -> Digest {
    let mut digest = Digest::default();
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    digest
}

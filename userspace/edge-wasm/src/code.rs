//! Where programs come from: threads of their own read them, compile them, start each once, and try again what failed, so that no
//! request and no change of the configuration waits for a compiler, or for a program that does not start, longer than it wants to.
//!
//! What has the same bytes is compiled once, whoever uses it, also where that fails. A new program takes the place of an old one when it
//! has started.

use crate::engine::engine;
use crate::host::{self, REQUEST_BODY, RESPONSE_BODY, WRITES, Waits, ended};
use crate::proxy_gives::Giver;
use crate::proxy_host;
use crate::vm::State;
use crate::wasi;
use arc_swap::ArcSwapOption;
use edge_filters::wasm_host::Code;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use wasmtime::{ExternType, InstancePre, Linker, Module};

/// Largest program, in bytes.
pub const CODE_BYTES_MAX: usize = 32 << 20;

/// Between two tries to load what failed.
const AGAIN: Duration = Duration::from_secs(30);

/// Between two looks at what takes long and what did not start.
const LOOK: Duration = Duration::from_secs(1);

/// A program, compiled and linked.
pub struct Program {
    pub pre: InstancePre<State>,
    /// What gives it its texts, and what it is linked with beside that: a program of Envoy's dialect is linked anew for each VM.
    pub gives: Option<(Giver, Linker<State>)>,
    pub waits: Waits,
    /// It asks for these bodies.
    pub reads_request: bool,
    pub reads_response: bool,
    digest: Digest,
}

type Digest = [u8; 32];

/// How a program is compiled and linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Breed {
    pub dialect: Dialect,
    /// What it does is counted.
    pub metered: bool,
}

/// Whose functions a program asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Easegress's: WasmHost.
    Easegress,
    /// Envoy's: ProxyWasm.
    Proxy,
}

impl Dialect {
    fn kind(self) -> &'static str {
        match self {
            Dialect::Easegress => "WasmHost",
            Dialect::Proxy => "ProxyWasm",
        }
    }

    /// What is missing in a program of this dialect.
    fn check(self, module: &Module) -> Result<(), String> {
        let exports = |name: &str| module.get_export(name).is_some();
        match self {
            Dialect::Easegress => {
                for name in ["memory", "wasm_alloc", "wasm_run"] {
                    if !exports(name) {
                        let hint = if module.exports().any(|export| export.name().starts_with("proxy_abi_version")) {
                            "; this one is for kind: ProxyWasm"
                        } else {
                            ""
                        };
                        return Err(format!(
                            "it exports no {name}; a program exports memory, wasm_alloc, wasm_free and wasm_run{hint}"
                        ));
                    }
                }
            }
            Dialect::Proxy => {
                if !["proxy_abi_version_0_2_1", "proxy_abi_version_0_2_0"].iter().any(|name| exports(name)) {
                    return Err(
                        "it exports no proxy_abi_version_0_2_1 (or _0_2_0): it is not a filter of that ABI".to_owned()
                    );
                }
                if !exports("memory") || !["proxy_on_memory_allocate", "malloc"].iter().any(|name| exports(name)) {
                    return Err("it exports no memory, or no proxy_on_memory_allocate or malloc".to_owned());
                }
            }
        }
        Ok(())
    }

    fn linker(self, engine: &wasmtime::Engine) -> wasmtime::Result<Linker<State>> {
        let mut linker = Linker::new(engine);
        match self {
            Dialect::Easegress => host::link(&mut linker)?,
            Dialect::Proxy => proxy_host::link(&mut linker)?,
        }
        wasi::link(&mut linker)?;
        Ok(linker)
    }
}

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
    breed: Breed,
    program: ArcSwapOption<Program>,
    users: Mutex<Vec<Weak<dyn Runs>>>,
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

/// Whoever runs the programs of a source.
pub trait Runs: Send + Sync {
    /// Starts one, on a thread that is no worker, before requests get to it; why it does not start. What has started, or has failed a
    /// moment ago, is not started again.
    fn starts(&self, program: &Arc<Program>) -> Result<(), String>;

    /// This program has the place of those before it: nothing of theirs is needed for requests to come.
    fn taken(&self, program: &Arc<Program>);

    /// This program did not start when that was tried last.
    fn is_unfit(&self, program: &Arc<Program>) -> bool;
}

impl Source {
    /// Until it is [loaded](Source::load), `before` is the program.
    pub fn new(code: Code, breed: Breed, before: Option<Arc<Program>>) -> Arc<Source> {
        Arc::new(Source {
            code,
            breed,
            program: ArcSwapOption::new(before),
            users: Mutex::default(),
            state: Mutex::default(),
            loaded: Condvar::new(),
            asked: AtomicBool::new(false),
        })
    }

    pub fn is(&self, code: &Code, breed: Breed) -> bool {
        self.code == *code && self.breed == breed
    }

    /// From now on `user` is who runs its programs.
    pub fn used_by(&self, user: Weak<dyn Runs>) {
        let mut users = lock(&self.users);
        users.retain(|known| known.strong_count() > 0);
        users.push(user);
    }

    /// The one that came last: those before it are about to go.
    fn user(&self) -> Option<Arc<dyn Runs>> {
        lock(&self.users).iter().rev().find_map(Weak::upgrade)
    }

    /// Has it loaded.
    pub fn load(self: &Arc<Source>) {
        if let Err(why) = send(Job::Load(Arc::downgrade(self))) {
            self.done(Err(why));
        }
    }

    /// Has its program started for its user; waits for that, at most so long.
    pub fn start(self: &Arc<Source>, patience: Duration) {
        let (done, started) = mpsc::sync_channel(1);
        if send(Job::Start(Arc::downgrade(self), done)).is_ok() {
            let _ = started.recv_timeout(patience);
        }
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

    fn load_here(&self, cache: &Cache, read: Option<Result<Vec<u8>, String>>) {
        let loaded = read.unwrap_or_else(|| self.read()).and_then(|bytes| {
            let digest = digest(&bytes);
            let known = self.program().filter(|program| program.digest == digest);
            let program = known.map_or_else(|| cache.program(&bytes, digest, self.breed), Ok)?;
            self.start_here(&program)?;
            Ok(program)
        });
        self.done(loaded);
    }

    fn start_here(&self, program: &Arc<Program>) -> Result<(), String> {
        let starts = |user: Arc<dyn Runs>| user.starts(program).map_err(|why| format!("it does not start: {why}"));
        self.user().map_or(Ok(()), starts)
    }

    fn done(&self, loaded: Result<Arc<Program>, String>) {
        let error = match loaded {
            Ok(program) => {
                self.program.store(Some(program.clone()));
                self.user().iter().for_each(|user| user.taken(&program));
                None
            }
            Err(why) => {
                // It is told once.
                if self.error().as_ref() != Some(&why) {
                    let again = base_text::duration(AGAIN);
                    tracing::error!(
                        "{}: {}: {why}; it is tried again every {again}",
                        self.breed.dialect.kind(),
                        self.name()
                    );
                }
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
        lock(&self.state)
    }
}

/// Has every program that came from a file or a URL read again; those that have changed take the place of the old ones.
pub fn reload() {
    if let Err(why) = send(Job::Reload) {
        tracing::error!("programs are not read again: {why}");
    }
}

enum Job {
    Load(Weak<Source>),
    /// Its program is to be started for its user.
    Start(Weak<Source>, mpsc::SyncSender<()>),
    /// A URL was read for it.
    Read(Weak<Source>, Result<Vec<u8>, String>),
    Reload,
    /// The task of this number has ended.
    Ended(u64),
}

fn send(job: Job) -> Result<(), String> {
    static JOBS: OnceLock<Result<mpsc::Sender<Job>, String>> = OnceLock::new();
    let jobs = JOBS.get_or_init(|| {
        let (sender, jobs) = mpsc::channel();
        let thread = thread::Builder::new().name("wasm-code".to_owned()).spawn(move || Desk::default().work(&jobs));
        thread.map_err(|why| format!("the thread that loads programs cannot be started: {why}"))?;
        Ok(sender)
    });
    let gone = "the thread that loads programs has ended";
    jobs.as_ref().map_err(String::clone)?.send(job).map_err(|_| gone.to_owned())
}

/// What a thread is started for.
struct Task {
    source: Weak<Source>,
    what: What,
}

enum What {
    Load(Option<Result<Vec<u8>, String>>),
    Start(Option<mpsc::SyncSender<()>>),
}

/// A task under way.
struct Running {
    number: u64,
    source: Weak<Source>,
    since: Instant,
    overdue: bool,
}

/// Gives out tasks. Nothing can end a compiler, so each task has a thread of its own, few at a time; one that takes too long does not
/// count any more, so that it holds nobody up, until there are too many of those.
#[derive(Default)]
struct Desk {
    cache: Arc<Cache>,
    sources: Vec<Weak<Source>>,
    queue: VecDeque<Task>,
    running: Vec<Running>,
    next: u64,
    /// Programs did not start when it looked last.
    unfit: bool,
    urls: Option<Result<mpsc::Sender<Weak<Source>>, String>>,
}

/// Tasks under way at a time: a big program must not keep a small one waiting, and workers need the machine.
const TASKS_MAX: usize = 2;

/// Longest that a task counts, and how many there may be that took longer.
const TASK_MAX: Duration = Duration::from_secs(30);
const OVERDUE_MAX: usize = 4;

/// Tasks that were given up as overdue.
static OVERDUE: AtomicU64 = AtomicU64::new(0);

pub fn overdue() -> u64 {
    OVERDUE.load(SeqCst)
}

impl Desk {
    fn work(&mut self, jobs: &mpsc::Receiver<Job>) {
        let (mut again, mut look) = (Instant::now() + AGAIN, Instant::now() + LOOK);
        loop {
            // Where nothing is under way there is nothing to look at.
            let next = if self.running.is_empty() && !self.unfit { again } else { look };
            match jobs.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Job::Load(source)) => {
                    source.upgrade().iter().for_each(|source| self.load(source));
                    self.sources.push(source);
                }
                Ok(Job::Start(source, done)) => self.queue.push_back(Task { source, what: What::Start(Some(done)) }),
                Ok(Job::Read(source, read)) => self.queue.push_back(Task { source, what: What::Load(Some(read)) }),
                Ok(Job::Reload) => {
                    self.sources().iter().filter(|source| !source.is_inline()).for_each(|source| self.load(source));
                }
                Ok(Job::Ended(number)) => self.running.retain(|running| running.number != number),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let now = Instant::now();
                    look = now + LOOK;
                    self.look(now);
                    if now >= again {
                        again = now + AGAIN;
                        let failed = |source: &&Arc<Source>| source.error().is_some();
                        self.sources().iter().filter(failed).for_each(|source| self.load(source));
                    }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            self.give_out();
        }
    }

    fn sources(&mut self) -> Vec<Arc<Source>> {
        self.sources.retain(|source| source.strong_count() > 0);
        self.sources.iter().filter_map(Weak::upgrade).collect()
    }

    fn load(&mut self, source: &Arc<Source>) {
        let (this, fresh) = (Arc::downgrade(source), |what: &What| matches!(what, What::Load(None)));
        if !matches!(source.code, Code::Url(_)) {
            if !self.queue.iter().any(|task| fresh(&task.what) && task.source.ptr_eq(&this)) {
                self.queue.push_back(Task { source: this, what: What::Load(None) });
            }
        } else if !source.asked.swap(true, SeqCst) {
            let urls = self.urls.get_or_insert_with(reader).as_ref().map_err(String::clone);
            let gone = |_| "the thread that reads URLs has ended".to_owned();
            if let Err(why) = urls.and_then(|urls| urls.send(this).map_err(gone)) {
                source.asked.store(false, SeqCst);
                source.done(Err(why));
            }
        }
    }

    /// Who takes too long does not count any more; what did not start is started again.
    fn look(&mut self, now: Instant) {
        for running in self.running.iter_mut().filter(|running| !running.overdue && now - running.since >= TASK_MAX) {
            running.overdue = true;
            OVERDUE.fetch_add(1, SeqCst);
            if let Some(source) = running.source.upgrade() {
                let most = base_text::duration(TASK_MAX);
                source.done(Err(format!("it is not compiled within {most}; it is taken when it is")));
            }
        }
        self.unfit = false;
        for source in self.sources() {
            let this = Arc::downgrade(&source);
            let unfit = source.user().zip(source.program()).is_some_and(|(user, program)| user.is_unfit(&program));
            self.unfit |= unfit;
            if unfit && !self.queue.iter().any(|task| task.source.ptr_eq(&this)) {
                self.queue.push_back(Task { source: this, what: What::Start(None) });
            }
        }
    }

    fn give_out(&mut self) {
        let overdue = self.running.iter().filter(|running| running.overdue).count();
        if overdue >= OVERDUE_MAX {
            for task in self.queue.drain(..) {
                if let (Some(source), What::Load(_)) = (task.source.upgrade(), task.what) {
                    source.done(Err(format!("{overdue} others are being compiled for too long")));
                }
            }
        }
        while self.running.len() < overdue + TASKS_MAX {
            let is_idle = |task: &Task| !self.running.iter().any(|running| running.source.ptr_eq(&task.source));
            let Some(at) = self.queue.iter().position(is_idle) else { return };
            let Some(task) = self.queue.remove(at) else { return };
            let Some(source) = task.source.upgrade() else { continue };
            let (number, cache) = (self.next, self.cache.clone());
            self.next += 1;
            let (since, this) = (Instant::now(), source.clone());
            let run = move || {
                run(&this, &cache, task.what);
                drop(this);
                let _ = send(Job::Ended(number));
            };
            match thread::Builder::new().name("wasm-load".to_owned()).spawn(run) {
                Ok(_) => self.running.push(Running { number, source: task.source, since, overdue: false }),
                Err(why) => source.done(Err(format!("no thread to compile it on: {why}"))),
            }
        }
    }
}

fn run(source: &Arc<Source>, cache: &Cache, what: What) {
    let failed = catch_unwind(AssertUnwindSafe(|| match what {
        What::Load(read) => source.load_here(cache, read),
        What::Start(done) => {
            // Why it does not start is known to whom it was started for.
            let _ = source.program().map(|program| source.start_here(&program));
            drop(done);
        }
    }));
    if failed.is_err() {
        source.done(Err("the compiler failed over it".to_owned()));
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

/// Compiled programs that somebody uses, what could not be compiled, and what programs are linked with.
#[derive(Default)]
struct Cache(Mutex<Known>);

#[derive(Default)]
struct Known {
    programs: HashMap<(Digest, Breed), Weak<Program>>,
    /// The latest first.
    failed: VecDeque<((Digest, Breed), String)>,
    linkers: HashMap<Breed, Linker<State>>,
    givers: HashMap<Breed, Giver>,
}

/// Programs that could not be compiled and are not tried again.
const FAILED_MAX: usize = 64;

impl Cache {
    fn program(&self, bytes: &[u8], digest: Digest, breed: Breed) -> Result<Arc<Program>, String> {
        let key = (digest, breed);
        {
            let mut known = lock(&self.0);
            if let Some(program) = known.programs.get(&key).and_then(Weak::upgrade) {
                return Ok(program);
            }
            if let Some((_, why)) = known.failed.iter().find(|(failed, _)| *failed == key) {
                return Err(why.clone());
            }
            known.programs.retain(|_, program| program.strong_count() > 0);
        }
        let compiled = catch_unwind(AssertUnwindSafe(|| self.compile(bytes, digest, breed)));
        let compiled = compiled.unwrap_or_else(|_| Err("the compiler failed over it".to_owned()));
        let mut known = lock(&self.0);
        match compiled {
            Ok(program) => {
                let program = Arc::new(program);
                known.programs.insert(key, Arc::downgrade(&program));
                Ok(program)
            }
            Err(why) => {
                known.failed.push_front((key, why.clone()));
                known.failed.truncate(FAILED_MAX);
                Err(why)
            }
        }
    }

    fn compile(&self, bytes: &[u8], digest: Digest, breed: Breed) -> Result<Program, String> {
        let engine = engine(breed.metered)?;
        let module = Module::new(engine, bytes).map_err(|why| format!("it cannot be compiled: {why:#}"))?;
        breed.dialect.check(&module)?;
        let imports = |names: &[&str]| {
            module.imports().any(|import| import.module() == host::MODULE && names.contains(&import.name()))
        };
        let waits = if imports(&WRITES) { Waits::May } else { Waits::Never };
        let (reads_request, reads_response) = (imports(&[REQUEST_BODY]), imports(&[RESPONSE_BODY]));
        let mut linker = self.linker(engine, breed)?;
        if breed.dialect == Dialect::Proxy {
            proxy_host::link_unimplemented(&mut linker, &module);
        }
        refuse_unknown(&mut linker, &module);
        let pre = linker.instantiate_pre(&module).map_err(|why| format!("it asks for what is not there: {why:#}"))?;
        let gives = match breed.dialect {
            Dialect::Easegress => None,
            Dialect::Proxy => Some((self.giver(engine, breed, &linker)?, linker)),
        };
        Ok(Program { pre, gives, waits, reads_request, reads_response, digest })
    }

    /// Compiled once for all programs of a breed.
    fn giver(&self, engine: &wasmtime::Engine, breed: Breed, linker: &Linker<State>) -> Result<Giver, String> {
        if let Some(giver) = lock(&self.0).givers.get(&breed) {
            return Ok(giver.clone());
        }
        let made = Giver::new(engine, linker).map_err(|why| format!("what gives programs their texts: {why:#}"))?;
        Ok(lock(&self.0).givers.entry(breed).or_insert(made).clone())
    }

    fn linker(&self, engine: &wasmtime::Engine, breed: Breed) -> Result<Linker<State>, String> {
        let mut known = lock(&self.0);
        if let Some(linker) = known.linkers.get(&breed) {
            return Ok(linker.clone());
        }
        let made = breed.dialect.linker(engine).map_err(|why| format!("the functions for programs: {why:#}"))?;
        Ok(known.linkers.entry(breed).or_insert(made).clone())
    }
}

/// What a program imports of a system and we do not have ends it when it is called, and not before: libraries import much that they
/// never call.
fn refuse_unknown(linker: &mut Linker<State>, module: &Module) {
    for import in module.imports().filter(|import| wasi::MODULES.contains(&import.module())) {
        if let ExternType::Func(kind) = import.ty() {
            let name = import.name().to_owned();
            // Those that are there already stay.
            let _ = linker.func_new(import.module(), import.name(), kind, move |_, _, _| {
                Err(ended(format!("the program calls {name} of its system, which is not there")))
            });
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn digest(bytes: &[u8]) -> Digest {
    let mut digest = Digest::default();
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing can end a compiler: those that never come back neither hold up the others nor become ever more.
    #[test]
    fn what_takes_too_long_does_not_count_until_there_are_too_many() {
        let breed = Breed { dialect: Dialect::Easegress, metered: false };
        let source = || Source::new(Code::Inline(b"\0asm\x01\0\0\0".to_vec()), breed, None);
        let (stuck, waiting) = ((0..OVERDUE_MAX).map(|_| source()).collect::<Vec<_>>(), source());
        let mut desk = Desk::default();
        let now = Instant::now();
        let running = |source: &Arc<Source>| Running {
            number: u64::MAX,
            source: Arc::downgrade(source),
            since: now,
            overdue: false,
        };
        desk.running.extend(stuck.iter().take(TASKS_MAX).map(running));
        desk.load(&waiting);
        desk.load(&waiting);
        desk.give_out();
        assert_eq!((desk.queue.len(), desk.running.len()), (1, TASKS_MAX), "it waits for its turn, once");
        desk.look(now + TASK_MAX);
        assert!(stuck[0].error().is_some_and(|why| why.contains("not compiled within 30s")));
        desk.give_out();
        assert_eq!((desk.queue.len(), desk.running.len()), (0, TASKS_MAX + 1), "it is compiled beside them");
        waiting.tried(Duration::from_secs(60));
        assert!(waiting.error().is_some_and(|why| why.contains("exports no memory")));
        // There are as many as there may be.
        desk.running.extend(stuck.iter().skip(TASKS_MAX).map(running));
        desk.look(now + TASK_MAX);
        desk.running.retain(|running| !running.source.ptr_eq(&Arc::downgrade(&waiting)));
        let late = source();
        desk.load(&late);
        desk.give_out();
        assert_eq!((desk.queue.len(), desk.running.len()), (0, OVERDUE_MAX));
        assert!(late.error().is_some_and(|why| why.contains("4 others")));
    }
}

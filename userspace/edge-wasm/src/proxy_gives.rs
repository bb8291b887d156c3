//! What hands a proxy-wasm program the texts that it asks for: a program of ours that is instantiated beside it.
//!
//! A text lies in memory that the program's own function gives, so that to answer one call is to make another. Made by the host that would be
//! a call on a stack of its own each time, which costs more than everything else that a filter of headers does. Here WebAssembly calls
//! WebAssembly: a function that gives asks the host for the text ([`SOURCE`], which keeps it), the program for a place, and has the host put
//! the text there. For the same reason the two callbacks that most requests begin with are one call of `begin`.

use crate::host::{self, ended};
use crate::proxy_host::MODULE;
use crate::vm::State;
use std::fmt::Write as _;
use wasmtime::{
    Caller, Engine, Func, FuncType, Instance, InstancePre, Linker, Module, Ref, Result, Store, Val, ValType,
};

/// The module that the functions are imported from that know the texts: each has the name of the one that gives, and its parameters but for
/// where the text is said to be.
pub const SOURCE: &str = "weir";

/// A function that gives a text.
pub struct Gives {
    pub name: &'static str,
    parameters: usize,
    /// Which of them says where the address of the text goes; its length goes where the next one says.
    at: usize,
}

pub const HEADER_PAIRS: Gives = Gives { name: "proxy_get_header_map_pairs", parameters: 3, at: 1 };
pub const HEADER_VALUE: Gives = Gives { name: "proxy_get_header_map_value", parameters: 5, at: 3 };
pub const BUFFER: Gives = Gives { name: "proxy_get_buffer_bytes", parameters: 5, at: 3 };
pub const PROPERTY: Gives = Gives { name: "proxy_get_property", parameters: 4, at: 2 };
pub const SHARED_DATA: Gives = Gives { name: "proxy_get_shared_data", parameters: 5, at: 2 };
pub const DEQUEUE: Gives = Gives { name: "proxy_dequeue_shared_queue", parameters: 3, at: 1 };

const ALL: [Gives; 6] = [HEADER_PAIRS, HEADER_VALUE, BUFFER, PROPERTY, SHARED_DATA, DEQUEUE];

/// Places of the program's functions in the table.
const ALLOC: u64 = 0;
const CREATE: u64 = 1;
const HEADS: u64 = 2;

/// Longest text whose memory is kept for the next one, in bytes.
const KEPT: usize = 64 << 10;

/// What is given to programs of one engine.
#[derive(Clone)]
pub struct Giver(InstancePre<State>);

/// One beside a program.
#[derive(Clone, Copy)]
pub struct Given(Instance);

impl Giver {
    /// `linker` has the functions of [`SOURCE`].
    pub fn new(engine: &Engine, linker: &Linker<State>) -> Result<Giver> {
        let module = Module::new(engine, wat::parse_str(text())?)?;
        linker.instantiate_pre(&module).map(Giver)
    }

    /// One for the program that will be of this store; from now on `linker` gives it what it asks for.
    pub async fn beside(&self, store: &mut Store<State>, linker: &mut Linker<State>) -> Result<Given> {
        let instance = self.0.instantiate_async(&mut *store).await?;
        linker.allow_shadowing(true);
        for gives in &ALL {
            let func = instance.get_func(&mut *store, gives.name).ok_or_else(|| ended("nothing gives texts"))?;
            linker.define(&mut *store, MODULE, gives.name, func)?;
        }
        Ok(Given(instance))
    }
}

impl Given {
    /// The program's function that gives memory.
    pub fn takes_alloc(self, store: &mut Store<State>, alloc: Func) -> Result<()> {
        self.put(store, ALLOC, alloc)
    }

    /// The program's callbacks that a request begins with; what calls both.
    pub fn takes_begin(self, store: &mut Store<State>, create: Func, heads: Func) -> Result<Func> {
        self.put(store, CREATE, create)?;
        self.put(store, HEADS, heads)?;
        self.0.get_func(store, "begin").ok_or_else(|| ended("nothing begins requests"))
    }

    fn put(self, store: &mut Store<State>, place: u64, func: Func) -> Result<()> {
        let table = self.0.get_table(&mut *store, "program").ok_or_else(|| ended("no table for the program"))?;
        table.set(store, place, Ref::Func(Some(func)))
    }
}

/// Links what has the texts to where they are put, and stands for those that give where a program is looked at.
pub fn link(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(SOURCE, "size", |caller: Caller<'_, State>| -> Result<u32> {
        u32::try_from(caller.data().staged.len()).map_err(|_| ended("a text is longer than a program's memory"))
    })?;
    linker.func_wrap(
        SOURCE,
        "deliver",
        |mut caller: Caller<'_, State>, place: u32, at: u32, length: u32| -> Result<i32> {
            let mut text = std::mem::take(&mut caller.data_mut().staged);
            caller.data_mut().is_giving = false;
            host::write(&mut caller, place, &text)?;
            host::write(&mut caller, at, &place.to_le_bytes())?;
            host::write(&mut caller, length, &(text.len() as u32).to_le_bytes())?;
            if text.capacity() <= KEPT {
                text.clear();
                caller.data_mut().staged = text;
            }
            Ok(OK)
        },
    )?;
    for gives in &ALL {
        let kind = FuncType::new(linker.engine(), vec![ValType::I32; gives.parameters], [ValType::I32]);
        linker.func_new(MODULE, gives.name, kind, |_, _, results| {
            results[0] = Val::I32(INTERNAL_FAILURE);
            Ok(())
        })?;
    }
    Ok(())
}

/// Keeps a text for the program that asks for it.
pub fn stage(caller: &mut Caller<'_, State>, text: Vec<u8>) -> Result<i32> {
    let state = caller.data_mut();
    // One that asks for more from where it gives memory would go ever deeper.
    if state.is_giving || !state.has_alloc() {
        return Err(ended(
            "the program asks for something while it cannot take it: before it can give memory, or within that",
        ));
    }
    state.is_giving = true;
    state.staged = text;
    Ok(OK)
}

const OK: i32 = 0;
const INTERNAL_FAILURE: i32 = 10;

fn text() -> String {
    let (mut imports, mut functions) = (String::new(), String::new());
    for Gives { name, parameters, at } in ALL {
        let asked: Vec<usize> = (0..parameters).filter(|n| *n != at && *n != at + 1).collect();
        let arguments: String = asked.iter().map(|n| format!("(local.get {n})")).collect();
        let (asks, takes) = ("i32 ".repeat(asked.len()), "i32 ".repeat(parameters));
        let (status, size) = (parameters, parameters + 1);
        let length = at + 1;
        let _ = write!(imports, "(import \"{SOURCE}\" \"{name}\" (func ${name} (param {asks}) (result i32)))");
        let _ = write!(
            functions,
            "(func (export \"{name}\") (param {takes}) (result i32) (local i32 i32)
               (local.set {status} (call ${name} {arguments}))
               (if (local.get {status}) (then (return (local.get {status}))))
               (local.set {size} (call $size))
               (call $deliver
                 (if (result i32) (local.get {size})
                   (then (call_indirect (type $alloc) (local.get {size}) (i32.const {ALLOC})))
                   (else (i32.const 0)))
                 (local.get {at}) (local.get {length})))"
        );
    }
    format!(
        "(module
           (type $alloc (func (param i32) (result i32)))
           (type $create (func (param i32 i32)))
           (type $heads (func (param i32 i32 i32) (result i32)))
           {imports}
           (import \"{SOURCE}\" \"size\" (func $size (result i32)))
           (import \"{SOURCE}\" \"deliver\" (func $deliver (param i32 i32 i32) (result i32)))
           (table (export \"program\") 3 3 funcref)
           {functions}
           (func (export \"begin\") (param i32 i32 i32 i32) (result i32)
             (call_indirect (type $create) (local.get 0) (local.get 1) (i32.const {CREATE}))
             (call_indirect (type $heads) (local.get 0) (local.get 2) (local.get 3) (i32.const {HEADS}))))"
    )
}

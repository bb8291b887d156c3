//! What a program sees of the request it runs for.
//!
//! A program's functions live as long as its VM, longer than any request, so what they may look at lies in a place of the worker's
//! thread while the program is polled, and nowhere else: a program that waits has left it.

use edge_pipeline::{Exchange, Space};
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::pin;

/// The part of an exchange that a program reads and changes.
#[derive(Default)]
pub struct Call {
    pub space: Space,
    real_ip: Option<IpAddr>,
    pub scheme: &'static str,
    /// For the access log.
    pub notes: Vec<String>,
    /// Bytes of headers, paths and other texts that the program has set.
    pub said: usize,
}

impl Call {
    /// As [`Client::real_ip_text`](edge_pipeline::exchange::Client::real_ip_text) has it: few programs ask.
    pub fn real_ip_text(&self) -> String {
        self.real_ip.map_or_else(|| "unknown".to_owned(), |ip| ip.to_canonical().to_string())
    }
}

thread_local! {
    static CALL: RefCell<Option<Box<Call>>> = const { RefCell::new(None) };
    /// What the last one lay in, with nothing of it left.
    static SPARE: Cell<Option<Box<Call>>> = const { Cell::new(None) };
}

/// Looks at the request of the program that runs on this thread; `None` where it runs for none, as it starts.
pub fn with<T>(look: impl FnOnce(&mut Call) -> T) -> Option<T> {
    CALL.with_borrow_mut(|call| call.as_deref_mut().map(look))
}

/// Runs `program` for the request of `exchange`.
pub async fn run<T>(exchange: &mut Exchange, program: impl Future<Output = T>) -> T {
    let mut lent = Lent::new(exchange);
    let mut program = pin!(program);
    poll_fn(|cx| {
        let _there = There::new(&mut lent.call);
        program.as_mut().poll(cx)
    })
    .await
}

/// The call lies in its place until this is dropped.
struct There<'l> {
    home: &'l mut Option<Box<Call>>,
}

impl<'l> There<'l> {
    fn new(home: &'l mut Option<Box<Call>>) -> There<'l> {
        CALL.set(home.take());
        There { home }
    }
}

impl Drop for There<'_> {
    fn drop(&mut self) {
        *self.home = CALL.take();
    }
}

/// An exchange whose current space is in a call; it comes back when this is dropped.
struct Lent<'e> {
    exchange: &'e mut Exchange,
    call: Option<Box<Call>>,
}

impl<'e> Lent<'e> {
    fn new(exchange: &'e mut Exchange) -> Lent<'e> {
        let mut call = SPARE.take().unwrap_or_default();
        call.real_ip = exchange.client.real_ip;
        call.scheme = exchange.client.scheme;
        call.said = 0;
        std::mem::swap(exchange.space(), &mut call.space);
        Lent { exchange, call: Some(call) }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let Some(mut call) = self.call.take() else { return };
        std::mem::swap(self.exchange.space(), &mut call.space);
        for note in call.notes.drain(..) {
            self.exchange.tags.note(|| note);
        }
        SPARE.set(Some(call));
    }
}

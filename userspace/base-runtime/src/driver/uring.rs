use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::{Driver, IoKind, Wait};
use crate::context::Context;
use crate::net::socket::Socket;
use crate::runtime::{Config, Shared};

pub(crate) struct Uring;

pub fn probe_uring() -> Result<(), String> {
    Err("the io_uring driver is not built in yet".to_owned())
}

impl Uring {
    pub fn new(_: &Config, _: &Arc<Shared>) -> io::Result<Uring> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
impl Driver for Uring {
    fn kind(&self) -> IoKind {
        IoKind::Uring
    }
    fn start(&self, _: &Context) -> io::Result<()> {
        Ok(())
    }
    fn adopt(&self, _: &Context, _: &Rc<Socket>) -> io::Result<()> {
        Ok(())
    }
    fn accept(&self, _: &Context, _: &Rc<Socket>) {}
    fn connect(&self, _: &Context, _: &Rc<Socket>, _: &SocketAddr) -> io::Result<()> {
        Ok(())
    }
    fn recv(&self, _: &Context, _: &Rc<Socket>) {}
    fn stop_recv(&self, _: &Context, _: &Rc<Socket>) {}
    fn send(&self, _: &Context, _: &Rc<Socket>) {}
    fn expect_report(&self, _: &Socket) {}
    fn close(&self, _: &Context, _: &Rc<Socket>) {}
    fn may_sleep(&self, _: &Context) -> bool {
        true
    }
    fn turn(&self, _: &Context, _: Wait) {}
    fn stop(&self, _: &Context) {}
}

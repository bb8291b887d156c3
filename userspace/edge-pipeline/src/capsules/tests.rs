use super::*;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;

/// A side in memory: what comes, and what was done with it.
#[derive(Debug, Default)]
struct Side {
    comes: RefCell<VecDeque<Option<Vec<u8>>>>,
    beside: RefCell<VecDeque<Bytes>>,
    takes: Cell<bool>,
    stream: RefCell<Vec<u8>>,
    datagrams: RefCell<Vec<Vec<u8>>>,
    dropped: Cell<u32>,
    ended: Cell<&'static str>,
}

impl Duplex for Rc<Side> {
    fn poll_recv(&self, _: &mut Context<'_>) -> Poll<io::Result<Option<Buf>>> {
        match self.comes.borrow_mut().pop_front() {
            Some(piece) => Poll::Ready(Ok(piece.map(|bytes| Buf::copy_from(&bytes)))),
            None => Poll::Pending,
        }
    }

    fn poll_send_ready(&self, _: &mut Context<'_>, _: usize) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn send(&self, bytes: Buf) {
        self.stream.borrow_mut().extend_from_slice(&bytes);
    }

    fn shutdown(&self) {
        self.ended.set("shut");
    }

    fn abort(&self) {
        self.ended.set("aborted");
    }
}

impl Datagrams for Rc<Side> {
    fn poll_datagram(&self, _: &mut Context<'_>) -> Poll<Bytes> {
        self.beside.borrow_mut().pop_front().map_or(Poll::Pending, Poll::Ready)
    }

    fn takes_datagrams(&self) -> bool {
        self.takes.get()
    }

    fn send_datagram(&self, content: &[u8]) {
        self.datagrams.borrow_mut().push(content.to_vec());
    }

    fn count_dropped(&self, datagrams: u32) {
        self.dropped.set(self.dropped.get() + datagrams);
    }

    fn break_off(&self) {
        self.ended.set("broken off");
    }
}

fn capsule(kind: u64, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    capsule::begin(kind, content.len() as u64, &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

/// What comes at this moment; an error is one.
fn received(capsules: &Capsules<Rc<Side>>) -> Option<io::Result<Option<Vec<u8>>>> {
    match capsules.poll_recv(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(came) => Some(came.map(|came| came.map(|bytes| bytes.to_vec()))),
        Poll::Pending => None,
    }
}

fn came(capsules: &Capsules<Rc<Side>>) -> Vec<u8> {
    received(capsules).expect("something comes").expect("no error").expect("no end")
}

#[test]
fn what_comes_beside_the_stream_stands_between_two_capsules() {
    let side = Rc::<Side>::default();
    let capsules = Capsules::new(side.clone());
    let long = capsule(0x1234, &[1; 10]);
    side.comes.borrow_mut().extend([Some(long[..4].to_vec()), Some(long[4..].to_vec())]);
    side.beside.borrow_mut().extend([Bytes::from_static(b"one"), Bytes::from_static(b"two")]);
    assert_eq!(came(&capsules), [capsule(0, b"one"), capsule(0, b"two")].concat());
    assert_eq!(came(&capsules), long[..4]);
    // In the middle of one.
    side.beside.borrow_mut().push_back(Bytes::new());
    assert_eq!(came(&capsules), long[4..]);
    assert_eq!(came(&capsules), capsule(0, b""));
    assert!(received(&capsules).is_none());
    side.comes.borrow_mut().push_back(None);
    assert!(matches!(received(&capsules), Some(Ok(None))));
}

#[test]
fn one_that_no_packet_carries_is_none() {
    let side = Rc::<Side>::default();
    let capsules = Capsules::new(side.clone());
    side.beside.borrow_mut().extend([
        vec![1; LONGEST].into(),
        vec![2; LONGEST + 1].into(),
        Bytes::from_static(b"next"),
    ]);
    let expected = [capsule(0, &[1; LONGEST]), capsule(0, b"next")].concat();
    let mut whole = came(&capsules);
    while whole.len() < expected.len() {
        whole.extend(came(&capsules));
    }
    assert!(whole == expected && side.dropped.get() == 1, "{} of {}", whole.len(), expected.len());
    side.beside.borrow_mut().push_back(vec![2; LONGEST + 1].into());
    assert!(received(&capsules).is_none(), "it is no capsule, and no end");
}

#[test]
fn datagrams_leave_the_stream_while_they_are_taken() {
    let side = Rc::<Side>::default();
    let capsules = Capsules::new(side.clone());
    let said = [capsule(0, b"one"), capsule(7, b"other"), capsule(0, b"two")].concat();
    capsules.send(Buf::copy_from(&said));
    assert_eq!((&*side.stream.borrow(), side.datagrams.borrow().len()), (&said, 0), "nobody takes them yet");
    side.takes.set(true);
    side.stream.borrow_mut().clear();
    said.iter().for_each(|byte| capsules.send(Buf::copy_from(&[*byte])));
    assert_eq!(*side.stream.borrow(), capsule(7, b"other"));
    assert_eq!(*side.datagrams.borrow(), [b"one", b"two"]);
    let mut long = Vec::new();
    capsule::begin(0, 1 << 20, &mut long);
    capsules.send(Buf::copy_from(&long));
    assert_eq!(side.dropped.get(), 1);
}

#[test]
fn a_stream_that_ends_within_a_capsule_is_malformed() {
    let side = Rc::<Side>::default();
    let capsules = Capsules::new(side.clone());
    side.comes.borrow_mut().extend([Some(vec![0x40]), None]);
    assert_eq!(came(&capsules), [0x40]);
    assert!(received(&capsules).is_some_and(|came| came.is_err()));
    assert_eq!(side.ended.replace(""), "broken off");

    capsules.send(Buf::copy_from(&capsule(0, b"one")));
    capsules.shutdown();
    assert_eq!(side.ended.replace(""), "shut");
    capsules.send(Buf::copy_from(&[0, 3, 1]));
    capsules.shutdown();
    assert_eq!(side.ended.get(), "broken off");
}

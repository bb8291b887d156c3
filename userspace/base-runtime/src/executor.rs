//! The executor of one worker: tasks in a slab, a queue of ready ones, wakers that are sound on any thread.
//!
//! A task is one allocation: header, then future. The slab holds one reference; each `Waker` that was cloned holds another, so a
//! waker may outlive its task on any thread. Only the owning thread ever touches the future, and it drops the future before the
//! slab lets go; the last waker, wherever it goes, merely frees memory.
//!
//! I/O and timers do not clone wakers: they remember the task's slot and generation (`WakerCell`), which costs no atomic.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::VecDeque;
use std::future::Future;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use std::task::{Context as TaskContext, Poll, RawWaker, RawWakerVTable, Waker};
use std::time::{Duration, Instant};

use crate::context;
use crate::memory::Kind;
use crate::runtime::Shared;
use crate::table::Chunks;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TaskId {
    index: u32,
    generation: u32,
}

impl TaskId {
    pub const NONE: TaskId = TaskId { index: u32::MAX, generation: 0 };
}

/// A task's handle. Dropping it lets the task run on by itself.
pub struct Task {
    id: TaskId,
    /// Tasks belong to their thread.
    not_send: PhantomData<*const ()>,
}

impl Task {
    /// Lets the task run on by itself, as dropping the handle does.
    pub fn detach(self) {}

    /// Drops the task's future now, or, when the task is running, as soon as it returns.
    pub fn abort(&self) {
        context::try_with(|cx| cx.executor.abort(self.id));
    }

    pub fn is_finished(&self) -> bool {
        context::try_with(|cx| cx.executor.find(self.id).is_none()).unwrap_or(true)
    }
}

/// Lets completed I/O, and the tasks it wakes, go first: the task goes on in the worker's next turn, as every task does that wakes
/// itself while it runs.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// Asked by whatever hands out things that are ready, before each of them: a socket's bytes, connections to accept, messages. A
/// task that goes on for as long as something is ready would hold everybody else back by as much as its peer cares to send, so each
/// of its polls gets [`SHARE`] things. Pending: the share is taken, and the task goes on in the next turn, as after [`yield_now`].
#[inline]
pub fn poll_share(cx: &mut TaskContext<'_>) -> Poll<()> {
    let left = context::try_with(|context| {
        let share = &context.executor.share;
        let left = share.get();
        share.set(left.saturating_sub(1));
        if left == 0 {
            context.shared.counters.shares_spent.add(1);
        }
        left
    });
    if left == Some(0) {
        cx.waker().wake_by_ref();
        return Poll::Pending;
    }
    Poll::Ready(())
}

/// Things that are ready which one poll of a task may take: half a megabyte where each is a full buffer, and about a tenth of a
/// millisecond where each is a small request.
pub const SHARE: u32 = 16;

pub(crate) struct Executor {
    /// Of the poll that is under way: what is left of its [`SHARE`].
    share: Cell<u32>,
    slots: RefCell<Slots>,
    ready: RefCell<VecDeque<TaskId>>,
    /// Those that woke themselves while they ran. What wakes for its own sake waits for what the world has woken.
    yielded: RefCell<VecDeque<TaskId>>,
    running: Cell<TaskId>,
    abort_running: Cell<bool>,
    /// When the poll that is under way began, or the last one if none is.
    poll_began: Cell<Instant>,
}

#[derive(Default)]
struct Slots {
    entries: Chunks<Slot>,
    free: Vec<u32>,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    task: Option<NonNull<Header>>,
}

impl Executor {
    pub fn new() -> Executor {
        Executor {
            share: Cell::new(SHARE),
            slots: RefCell::default(),
            ready: RefCell::new(VecDeque::with_capacity(256)),
            yielded: RefCell::default(),
            running: Cell::new(TaskId::NONE),
            abort_running: Cell::new(false),
            poll_began: Cell::new(Instant::now()),
        }
    }

    /// When the poll that is under way began; `None` while no task runs.
    #[inline]
    pub fn poll_began(&self) -> Option<Instant> {
        (self.running.get() != TaskId::NONE).then(|| self.poll_began.get())
    }

    pub fn spawn<F: Future<Output = ()> + 'static>(&self, shared: &Arc<Shared>, future: F) -> Task {
        let mut slots = self.slots.borrow_mut();
        let index = slots.free.pop().unwrap_or_else(|| slots.entries.push(Slot::default()));
        let id = TaskId { index, generation: slots.entries[index].generation };
        let cell = Box::new(TaskCell {
            header: Header {
                vtable: const {
                    &TaskVTable {
                        poll: poll_task::<F>,
                        drop_future: drop_future::<F>,
                        free: free_task::<F>,
                        size: size_of::<TaskCell<F>>(),
                    }
                },
                references: AtomicU32::new(1),
                queued_remotely: AtomicBool::new(false),
                queued: Cell::new(true),
                id,
                shared: shared.clone(),
            },
            future: UnsafeCell::new(ManuallyDrop::new(future)),
        });
        slots.entries[index].task = Some(NonNull::from(Box::leak(cell)).cast());
        drop(slots);
        shared.counters.tasks.add(1);
        shared.ledger.book(Kind::Tasks, (size_of::<TaskCell<F>>() + size_of::<Slot>()) as u64, shared);
        self.ready.borrow_mut().push_back(id);
        Task { id, not_send: PhantomData }
    }

    #[inline]
    fn find(&self, id: TaskId) -> Option<NonNull<Header>> {
        match self.slots.borrow().entries.get(id.index) {
            Some(slot) if slot.generation == id.generation => slot.task,
            _ => None,
        }
    }

    #[inline]
    pub fn wake(&self, id: TaskId) {
        if let Some(task) = self.find(id) {
            // SAFETY: the slab's reference keeps the task alive, and this is its thread.
            self.enqueue(unsafe { task.as_ref() });
        }
    }

    #[inline]
    fn enqueue(&self, header: &Header) {
        if !header.queued.replace(true) {
            let queue = if self.running.get() == header.id { &self.yielded } else { &self.ready };
            queue.borrow_mut().push_back(header.id);
        }
    }

    #[inline]
    pub fn has_ready(&self) -> bool {
        !self.ready.borrow().is_empty() || !self.yielded.borrow().is_empty()
    }

    /// Polls what is ready now, within the bounds of a turn; what becomes ready meanwhile waits until the driver had its turn. Tasks
    /// that yielded come last, and one of them in any case. The longest poll comes back. `began` is the time.
    pub fn run(&self, shared: &Shared, budget: Budget, began: Instant) -> Duration {
        let (ready, yielded) = (self.ready.borrow().len(), self.yielded.borrow().len());
        if ready + yielded == 0 {
            return Duration::ZERO;
        }
        let mut run = Run { polled: 0, now: began, spent: Duration::ZERO, longest: Duration::ZERO, budget };
        for _ in 0..ready {
            if run.is_over() {
                break;
            }
            self.poll_next(&self.ready, shared, &mut run);
        }
        for n in 0..yielded {
            if n > 0 && run.is_over() {
                break;
            }
            self.poll_next(&self.yielded, shared, &mut run);
        }
        shared.counters.polls.add(run.polled as u64);
        run.longest
    }

    fn poll_next(&self, queue: &RefCell<VecDeque<TaskId>>, shared: &Shared, run: &mut Run) {
        let Some(id) = queue.borrow_mut().pop_front() else { return };
        let Some(task) = self.find(id) else { return };
        self.poll_began.set(run.now);
        self.poll(shared, id, task);
        run.polled += 1;
        let now = Instant::now();
        let took = now.saturating_duration_since(run.now);
        run.now = now;
        run.spent += took;
        run.longest = run.longest.max(took);
    }

    fn poll(&self, shared: &Shared, id: TaskId, task: NonNull<Header>) {
        // SAFETY: the slab's reference keeps the task alive until `remove` below; `abort` of a running task only sets a flag.
        let header = unsafe { task.as_ref() };
        header.queued.set(false);
        self.share.set(SHARE);
        self.running.set(id);
        let result = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: the waker borrows the slab's reference for the time of the call: it is not dropped, only its clones are.
            let waker = ManuallyDrop::new(unsafe { Waker::from_raw(raw_waker(task)) });
            // SAFETY: this is the task's thread, the future is still in place (the task is in the slab), and `running` keeps a
            // nested call from polling or dropping it.
            unsafe { (header.vtable.poll)(task, &mut TaskContext::from_waker(&waker)) }
        }));
        self.running.set(TaskId::NONE);
        let aborted = self.abort_running.replace(false);
        match result {
            Ok(Poll::Pending) if !aborted => {}
            Ok(_) => self.remove(shared, id),
            Err(panic) => {
                shared.counters.panics.add(1);
                tracing::error!(worker = shared.index, panic = panic_text(&*panic), "a task panicked and was dropped");
                self.remove(shared, id);
            }
        }
    }

    fn abort(&self, id: TaskId) {
        if self.running.get() == id {
            self.abort_running.set(true);
        } else {
            context::with(|cx| self.remove(&cx.shared, id));
        }
    }

    /// Takes the task out of the slab and drops its future.
    fn remove(&self, shared: &Shared, id: TaskId) {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.entries.get_mut(id.index).filter(|slot| slot.generation == id.generation) else {
            return;
        };
        let Some(task) = slot.task.take() else { return };
        slot.generation = slot.generation.wrapping_add(1);
        slots.free.push(id.index);
        drop(slots);
        shared.counters.tasks.sub(1);
        // SAFETY: the slab's reference, which this function now holds, keeps the task alive.
        let size = unsafe { task.as_ref() }.vtable.size + size_of::<Slot>();
        shared.ledger.book(Kind::Tasks, 0u64.wrapping_sub(size as u64), shared);
        // SAFETY: the task just left the slab, so this happens once, on its thread, with nobody polling it.
        let dropped = catch_unwind(AssertUnwindSafe(|| unsafe { (task.as_ref().vtable.drop_future)(task) }));
        if let Err(panic) = dropped {
            shared.counters.panics.add(1);
            tracing::error!(worker = shared.index, panic = panic_text(&*panic), "a task panicked while it was dropped");
        }
        release(task);
    }

    /// Drops every task, those that appear meanwhile included.
    pub fn clear(&self, shared: &Shared) {
        loop {
            let ids: Vec<TaskId> = {
                let slots = self.slots.borrow();
                let alive = (0..).zip(slots.entries.iter()).filter(|(_, slot)| slot.task.is_some());
                alive.map(|(index, slot)| TaskId { index, generation: slot.generation }).collect()
            };
            if ids.is_empty() {
                break;
            }
            for id in ids {
                self.remove(shared, id);
            }
        }
        self.ready.borrow_mut().clear();
        self.yielded.borrow_mut().clear();
    }
}

/// What the tasks may take of a turn.
#[derive(Clone, Copy)]
pub(crate) struct Budget {
    pub polls: usize,
    pub time: Duration,
}

/// One turn's polls so far.
struct Run {
    polled: usize,
    /// After the last of them.
    now: Instant,
    spent: Duration,
    longest: Duration,
    budget: Budget,
}

impl Run {
    fn is_over(&self) -> bool {
        self.polled >= self.budget.polls || self.spent >= self.budget.time
    }
}

/// A task woken by another thread, on its way to its own.
pub(crate) struct WokenTask(NonNull<Header>);

// SAFETY: it is a counted reference; other threads touch only the header's atomics and its immutable fields.
unsafe impl Send for WokenTask {}

impl WokenTask {
    /// On the task's own thread: queues it, unless it is gone.
    pub fn wake_ref(&self, executor: &Executor) {
        // SAFETY: this value holds a reference.
        let header = unsafe { self.0.as_ref() };
        // From here on another remote wake queues again; what it published before is seen by the poll that follows.
        header.queued_remotely.store(false, Ordering::Release);
        fence(Ordering::SeqCst);
        executor.wake(header.id);
    }
}

impl Drop for WokenTask {
    fn drop(&mut self) {
        release(self.0);
    }
}

#[repr(C)]
struct TaskCell<F> {
    header: Header,
    future: UnsafeCell<ManuallyDrop<F>>,
}

struct Header {
    vtable: &'static TaskVTable,
    references: AtomicU32,
    queued_remotely: AtomicBool,
    /// In the ready queue. Touched by the task's own thread only.
    queued: Cell<bool>,
    id: TaskId,
    shared: Arc<Shared>,
}

struct TaskVTable {
    poll: unsafe fn(NonNull<Header>, &mut TaskContext<'_>) -> Poll<()>,
    drop_future: unsafe fn(NonNull<Header>),
    free: unsafe fn(NonNull<Header>),
    /// Bytes of the whole cell.
    size: usize,
}

/// # Safety
/// `task` is a live `TaskCell<F>` whose future has not been dropped; called on its thread, not re-entered.
unsafe fn poll_task<F: Future<Output = ()>>(task: NonNull<Header>, cx: &mut TaskContext<'_>) -> Poll<()> {
    // SAFETY: by the contract; the future never moves out of its heap cell, so pinning it is sound.
    unsafe { Pin::new_unchecked(&mut **(*task.cast::<TaskCell<F>>().as_ptr()).future.get()).poll(cx) }
}

/// # Safety
/// As for `poll_task`, and never called twice.
unsafe fn drop_future<F>(task: NonNull<Header>) {
    // SAFETY: by the contract.
    unsafe { ManuallyDrop::drop(&mut *(*task.cast::<TaskCell<F>>().as_ptr()).future.get()) }
}

/// # Safety
/// The last reference to a `TaskCell<F>` whose future was dropped.
unsafe fn free_task<F>(task: NonNull<Header>) {
    // SAFETY: by the contract; the cell was leaked from a Box in `spawn`.
    drop(unsafe { Box::from_raw(task.cast::<TaskCell<F>>().as_ptr()) });
}

fn release(task: NonNull<Header>) {
    // SAFETY: the caller gives up a reference it held, so the header is alive here.
    unsafe {
        if task.as_ref().references.fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            (task.as_ref().vtable.free)(task);
        }
    }
}

static WAKER: RawWakerVTable = RawWakerVTable::new(clone_waker, wake, wake_by_ref, drop_waker);

fn raw_waker(task: NonNull<Header>) -> RawWaker {
    RawWaker::new(task.as_ptr().cast_const().cast(), &WAKER)
}

fn from_raw(data: *const ()) -> NonNull<Header> {
    // SAFETY: wakers of this vtable are made from a non-null header only.
    unsafe { NonNull::new_unchecked(data.cast_mut().cast()) }
}

unsafe fn clone_waker(data: *const ()) -> RawWaker {
    let task = from_raw(data);
    // SAFETY: the waker being cloned holds (or borrows) a reference.
    let before = unsafe { task.as_ref() }.references.fetch_add(1, Ordering::Relaxed);
    assert!(before < u32::MAX / 2, "too many wakers of one task");
    raw_waker(task)
}

unsafe fn wake(data: *const ()) {
    // SAFETY: the same contract as `wake`.
    unsafe { wake_by_ref(data) };
    release(from_raw(data));
}

unsafe fn wake_by_ref(data: *const ()) {
    let task = from_raw(data);
    // SAFETY: the waker holds (or borrows) a reference.
    let header = unsafe { task.as_ref() };
    let local = context::try_with(|cx| {
        let own = Arc::as_ptr(&cx.shared) == Arc::as_ptr(&header.shared);
        if own {
            cx.executor.wake(header.id);
        }
        own
    });
    if local != Some(true) && !header.queued_remotely.swap(true, Ordering::SeqCst) {
        header.references.fetch_add(1, Ordering::Relaxed);
        header.shared.wake_task(WokenTask(task));
    }
}

unsafe fn drop_waker(data: *const ()) {
    release(from_raw(data));
}

/// Whom to wake: a task of this thread by its slot, or whatever waker a combinator handed down.
enum Waiting {
    Task(TaskId),
    Other(Waker),
}

/// Holds the one task that waits for something.
pub(crate) struct WakerCell(Cell<Waiting>);

impl WakerCell {
    pub const fn new() -> WakerCell {
        WakerCell(Cell::new(Waiting::Task(TaskId::NONE)))
    }

    #[inline]
    pub fn register(&self, executor_shared: &Arc<Shared>, cx: &TaskContext<'_>) {
        let waker = cx.waker();
        if std::ptr::eq(waker.vtable(), &WAKER) {
            // SAFETY: a waker of our vtable points to a live header.
            let header = unsafe { from_raw(waker.data()).as_ref() };
            if Arc::as_ptr(&header.shared) == Arc::as_ptr(executor_shared) {
                self.0.set(Waiting::Task(header.id));
                return;
            }
        }
        match self.0.replace(Waiting::Task(TaskId::NONE)) {
            Waiting::Other(known) if known.will_wake(waker) => self.0.set(Waiting::Other(known)),
            _ => self.0.set(Waiting::Other(waker.clone())),
        }
    }

    #[inline]
    pub fn wake(&self, executor: &Executor) {
        match self.0.replace(Waiting::Task(TaskId::NONE)) {
            Waiting::Task(TaskId::NONE) => {}
            Waiting::Task(id) => executor.wake(id),
            Waiting::Other(waker) => waker.wake(),
        }
    }

    #[inline]
    pub fn take(&self) -> WakerCell {
        WakerCell(Cell::new(self.0.replace(Waiting::Task(TaskId::NONE))))
    }

    /// A cell nobody waits in, which therefore has room for two numbers.
    pub const fn with_numbers(index: u32, generation: u32) -> WakerCell {
        WakerCell(Cell::new(Waiting::Task(TaskId { index, generation })))
    }

    /// What [`WakerCell::with_numbers`] was given.
    pub fn numbers(&self) -> (u32, u32) {
        match self.0.replace(Waiting::Task(TaskId::NONE)) {
            Waiting::Task(id) => {
                self.0.set(Waiting::Task(id));
                (id.index, id.generation)
            }
            Waiting::Other(waker) => {
                self.0.set(Waiting::Other(waker));
                (TaskId::NONE.index, TaskId::NONE.generation)
            }
        }
    }
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(not a string)")
}

const _: () = assert!(size_of::<WakerCell>() == 16, "a waker cell fits two words");

/// What the tests of public behaviour do over real sockets is repeated here without any, so that miri can follow it:
/// `MIRIFLAGS=-Zmiri-disable-isolation cargo +nightly miri test -p base-runtime --lib -- executor buffer channel queue`.
#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::rc::Rc;
    use std::sync::Mutex;

    use super::*;
    use crate::Buf;
    use crate::context::Context;
    use crate::driver::AnyDriver;
    use crate::runtime::{Config, Inbox, take_inbox};
    use crate::time::Deadline;

    /// Runs `test` where a worker's tasks would run; it turns the executor by hand.
    fn on_worker(test: impl FnOnce(&Context)) {
        let shared = Arc::new(Shared::new(0, 0).expect("an eventfd"));
        let config = Config { buffers_max: 4, buffers_kept: 2, ..Config::default() };
        let driver = AnyDriver::new(crate::IoKind::Epoll, &config, &shared).expect("epoll works");
        let cx = Context::new(shared, &config, driver);
        let entered = context::enter(&cx);
        test(&cx);
        cx.executor.clear(&cx.shared);
        drop(entered);
        assert_eq!(cx.shared.counters.snapshot().tasks, 0);
    }

    /// What wakes from elsewhere have left is taken in, and ready tasks are polled.
    fn turn(cx: &Context) {
        take_inbox(cx, &mut Inbox::default());
        cx.executor.run(&cx.shared, Budget { polls: 100, time: Duration::from_secs(3600) }, Instant::now());
    }

    struct CountDrop(Rc<Cell<u32>>);

    impl Drop for CountDrop {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }

    /// A task that says how often it was polled and dropped, and leaves its waker.
    fn watched(polls: &Rc<Cell<u32>>, drops: &Rc<Cell<u32>>, slot: &Arc<Mutex<Option<Waker>>>) -> Task {
        let (polls, drops, slot) = (polls.clone(), CountDrop(drops.clone()), slot.clone());
        crate::spawn(async move {
            let _drops = drops;
            poll_fn(|cx| {
                polls.set(polls.get() + 1);
                *slot.lock().expect("no panic") = Some(cx.waker().clone());
                Poll::<()>::Pending
            })
            .await
        })
    }

    #[test]
    fn wakers_outlive_their_task_here_and_elsewhere() {
        on_worker(|cx| {
            let (polls, drops, slot) = (Rc::default(), Rc::default(), Arc::default());
            let task = watched(&polls, &drops, &slot);
            turn(cx);
            let waker = slot.lock().expect("no panic").clone().expect("it was polled");
            waker.wake_by_ref();
            waker.wake_by_ref();
            turn(cx);
            assert_eq!((polls.get(), drops.get()), (2, 0), "two wakes are one poll");
            task.abort();
            assert_eq!((drops.get(), task.is_finished()), (1, true));
            // Its slot has another tenant, whom the old waker does not concern.
            let (others_polls, others_slot) = (Rc::default(), Arc::default());
            watched(&others_polls, &Rc::default(), &others_slot);
            turn(cx);
            waker.wake_by_ref();
            let elsewhere = waker.clone();
            std::thread::spawn(move || drop((elsewhere.clone(), elsewhere.wake()))).join().expect("no panic");
            turn(cx);
            assert_eq!((polls.get(), others_polls.get()), (2, 1));
            slot.lock().expect("no panic").take();
            std::thread::spawn(move || drop(waker)).join().expect("the last reference is freed there");
        });
    }

    #[test]
    fn wakes_from_many_threads_arrive_while_tasks_come_and_go() {
        on_worker(|cx| {
            let (polls, drops, slot) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)), Arc::default());
            let task = watched(&polls, &drops, &slot);
            turn(cx);
            let threads: Vec<_> = (0..3)
                .map(|_| {
                    let waker = slot.lock().expect("no panic").clone().expect("it was polled");
                    std::thread::spawn(move || (0..10).for_each(|_| waker.wake_by_ref()))
                })
                .collect();
            while threads.iter().any(|thread| !thread.is_finished()) {
                turn(cx);
            }
            threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
            let before = polls.get();
            let last = slot.lock().expect("no panic").clone().expect("it was polled");
            std::thread::spawn(move || last.wake()).join().expect("no panic");
            turn(cx);
            assert!(polls.get() > before, "the last wake is not lost");
            task.abort();
            assert_eq!(drops.get(), 1);
        });
    }

    #[test]
    fn tasks_may_spawn_abort_and_panic_while_they_run() {
        on_worker(|cx| {
            let drops = Rc::new(Cell::new(0));
            let (ended, panicked, aborted) =
                (CountDrop(drops.clone()), CountDrop(drops.clone()), CountDrop(drops.clone()));
            let own: Rc<RefCell<Option<Task>>> = Rc::default();
            let seen = own.clone();
            *own.borrow_mut() = Some(crate::spawn(async move {
                let _aborted = aborted;
                seen.borrow().as_ref().expect("set below").abort();
                crate::spawn(async move { drop(ended) });
                std::future::pending().await
            }));
            crate::spawn(async move {
                let _panicked = panicked;
                panic!("as the test wants");
            });
            turn(cx);
            assert_eq!(drops.get(), 2, "what is spawned in a turn begins in the next");
            turn(cx);
            assert_eq!((drops.get(), cx.shared.counters.snapshot().panics), (3, 1));
            assert!(own.borrow().as_ref().is_some_and(Task::is_finished));
        });
    }

    #[test]
    fn timers_and_buffers_of_a_worker() {
        on_worker(|cx| {
            let fired = Rc::new(Cell::new(false));
            let seen = fired.clone();
            crate::spawn(async move {
                let deadline = Deadline::at(crate::now() + Duration::from_millis(5));
                deadline.set(crate::now() + Duration::from_millis(9));
                deadline.expired().await;
                seen.set(true);
            });
            turn(cx);
            let started = Instant::now();
            while !fired.get() {
                cx.now.set(Instant::now());
                cx.timers.advance(cx);
                turn(cx);
            }
            assert!(started.elapsed() >= Duration::from_millis(8));

            let mut bufs: Vec<Buf> = (0..4).map(|_| Buf::try_alloc().expect("within the ceiling")).collect();
            assert!(Buf::try_alloc().is_none());
            bufs.push(Buf::alloc());
            for buf in &mut bufs {
                buf.append(b"some bytes");
            }
            let tail = bufs[0].split_off(5);
            assert_eq!((&bufs[0][..], &tail[..]), (&b"some "[..], &b"bytes"[..]));
            drop((bufs, tail));
            let stats = cx.shared.counters.snapshot();
            assert_eq!((stats.buffers_in_use, stats.buffers_total), (0, 2), "two are kept");
        });
    }
}

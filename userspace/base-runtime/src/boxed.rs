//! Boxes for futures, in memory that a worker keeps.
//!
//! A request has two or three futures of a kilobyte and more, made when it comes and dropped when it is answered. For sizes beyond a
//! kilobyte an allocator takes its long way, there and back; here the memory of the last one serves the next.

use std::alloc::{self, Layout};
use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll};

use crate::context;

/// A future in a box, as `Pin<Box<dyn Future>>` is one. It stays on its thread.
pub struct Boxed<'a, T> {
    future: NonNull<dyn Future<Output = T> + 'a>,
}

impl<'a, T> Boxed<'a, T> {
    #[inline]
    pub fn new<F: Future<Output = T> + 'a>(future: F) -> Boxed<'a, T> {
        Boxed::made(|| future)
    }

    /// The future that `make` gives. Called with no more than a call of an async fn, it is made where it stays: a copy would be one of all
    /// the room that its futures will need, and it has nothing but its arguments yet.
    #[inline]
    pub fn made<F: Future<Output = T> + 'a>(make: impl FnOnce() -> F) -> Boxed<'a, T> {
        // Its memory is given back also where `make` panics.
        let place = Place(take(Layout::new::<F>()), Layout::new::<F>());
        let future = place.0.cast::<F>();
        // SAFETY: `take` gives memory of that layout which nothing else refers to.
        unsafe { future.write(make()) };
        std::mem::forget(place);
        Boxed { future }
    }
}

impl<T> Future for Boxed<'_, T> {
    type Output = T;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        // SAFETY: `self` owns the future, which never moves out of its place and is dropped there, so pinning it is sound.
        unsafe { Pin::new_unchecked(self.future.as_mut()) }.poll(cx)
    }
}

impl<T> Drop for Boxed<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the future is in its place until the next line.
        let layout = Layout::for_value(unsafe { self.future.as_ref() });
        // Its memory is given back also where it panics while it is dropped.
        let _place = Place(self.future.cast(), layout);
        // SAFETY: `self` owns the future and is gone after this.
        unsafe { self.future.drop_in_place() };
    }
}

/// Memory that nothing is in any more when this is dropped.
struct Place(NonNull<u8>, Layout);

impl Drop for Place {
    #[inline]
    fn drop(&mut self) {
        give(self.0, self.1);
    }
}

impl<T> fmt::Debug for Boxed<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Boxed(future)")
    }
}

/// Places of a worker that no future is in, by class.
pub(crate) struct Places {
    free: [RefCell<Vec<NonNull<u8>>>; CLASSES],
}

impl Places {
    pub fn new() -> Places {
        Places { free: [const { RefCell::new(Vec::new()) }; CLASSES] }
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        for (class, free) in self.free.iter().enumerate() {
            for place in free.take() {
                // SAFETY: places of a class were allocated with its layout, and this one is in nobody's hands.
                unsafe { alloc::dealloc(place.as_ptr(), of_class(class)) };
            }
        }
    }
}

/// Memory for a value of this layout, at least.
#[inline]
fn take(value: Layout) -> NonNull<u8> {
    let class = class_of(value);
    let kept = class.and_then(|class| context::try_with(|cx| cx.places.free[class].borrow_mut().pop()).flatten());
    kept.unwrap_or_else(|| allocate(class.map_or(value, of_class)))
}

#[cold]
fn allocate(layout: Layout) -> NonNull<u8> {
    if layout.size() == 0 {
        return layout.dangling_ptr();
    }
    // SAFETY: the size is not zero.
    NonNull::new(unsafe { alloc::alloc(layout) }).unwrap_or_else(|| alloc::handle_alloc_error(layout))
}

/// Memory that [`take`] gave for a value of this layout, and that nothing is in any more.
#[inline]
fn give(place: NonNull<u8>, value: Layout) {
    let class = class_of(value);
    let is_kept = class.is_some_and(|class| {
        let kept = context::try_with(|cx| {
            let mut free = cx.places.free[class].borrow_mut();
            let has_room = free.len() < KEPT_MOST;
            if has_room {
                free.push(place);
            }
            has_room
        });
        kept == Some(true)
    });
    if !is_kept {
        free(place, class.map_or(value, of_class));
    }
}

#[cold]
fn free(place: NonNull<u8>, layout: Layout) {
    if layout.size() > 0 {
        // SAFETY: it was allocated with this layout: `class_of` says the same of a layout every time.
        unsafe { alloc::dealloc(place.as_ptr(), layout) };
    }
}

/// `None` for what is too large, too small or too strictly aligned to be kept.
#[inline]
fn class_of(value: Layout) -> Option<usize> {
    let class = value.size().wrapping_sub(1) / STEP;
    (class < CLASSES && value.align() <= ALIGN).then_some(class)
}

fn of_class(class: usize) -> Layout {
    Layout::from_size_align((class + 1) * STEP, ALIGN)
        .unwrap_or_else(|_| unreachable!("the alignment is a power of two, and classes are small"))
}

/// Sizes are rounded up to this, in bytes.
const STEP: usize = 512;
const ALIGN: usize = 16;
/// Futures of up to 16 KiB.
const CLASSES: usize = 32;
/// Places kept of a class: as many as a busy worker has requests under way, and at most a megabyte in the largest class.
const KEPT_MOST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Runtime};
    use std::cell::Cell;
    use std::rc::Rc;
    use std::task::Waker;

    struct Dropped(Rc<Cell<u32>>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }

    /// A future of `N` bytes and some, that is ready when it is polled the second time.
    fn of_bytes<const N: usize>(drops: &Rc<Cell<u32>>) -> Boxed<'static, usize> {
        let held = (Dropped(drops.clone()), [7u8; N]);
        let mut polled = false;
        Boxed::new(std::future::poll_fn(move |_| {
            let held = &held;
            let sum = held.1.iter().map(|b| usize::from(*b)).sum();
            if std::mem::replace(&mut polled, true) { Poll::Ready(sum) } else { Poll::Pending }
        }))
    }

    fn polls_and_drops() {
        let drops = Rc::new(Cell::new(0));
        let mut cx = Context::from_waker(Waker::noop());
        for round in 1..=3 {
            let mut futures = [
                of_bytes::<0>(&drops),
                of_bytes::<600>(&drops),
                of_bytes::<15_000>(&drops),
                of_bytes::<40_000>(&drops),
            ];
            for (future, bytes) in futures.iter_mut().zip([0, 600, 15_000, 40_000]) {
                assert!(Pin::new(&mut *future).poll(&mut cx).is_pending());
                assert_eq!(Pin::new(future).poll(&mut cx), Poll::Ready(7 * bytes));
            }
            drop(futures);
            assert_eq!(drops.get(), 4 * round);
        }
        // One without size, and one that nobody polled.
        assert_eq!(Pin::new(&mut Boxed::new(async {})).poll(&mut cx), Poll::Ready(()));
        drop(of_bytes::<600>(&drops));
        assert_eq!(drops.get(), 13);
    }

    #[test]
    fn futures_are_polled_and_dropped_wherever_their_memory_comes_from() {
        polls_and_drops();
        let runtime = Runtime::start(Config { workers: Some(1), ..Config::default() }).expect("a worker");
        let (done, result) = std::sync::mpsc::channel();
        runtime.workers()[0].spawn(move || async move {
            polls_and_drops();
            let kept = |bytes: usize| context::with(|cx| cx.places.free[bytes.div_ceil(STEP) - 1].borrow().len());
            // A place is used again, and no more of them are kept than may be.
            let many: Vec<_> = (0..2 * KEPT_MOST).map(|_| of_bytes::<5_000>(&Rc::default())).collect();
            // SAFETY: the future is in its place.
            let size = Layout::for_value(unsafe { many[0].future.as_ref() }).size();
            drop(many);
            let most = kept(size);
            let one = of_bytes::<5_000>(&Rc::default());
            let left = kept(size);
            drop(one);
            done.send((most, left)).expect("the test waits");
        });
        assert_eq!(result.recv(), Ok((KEPT_MOST, KEPT_MOST - 1)));
    }

    #[test]
    fn a_future_that_panics_while_it_is_dropped_leaves_its_memory() {
        struct Panics;
        impl Drop for Panics {
            fn drop(&mut self) {
                panic!("as the test wants");
            }
        }
        let held = (Panics, [0u8; 900]);
        let future = Boxed::new(async move {
            let held = held;
            held.1.len()
        });
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(future))).is_err());
    }
}

//! The word in the kernel that this process lives. It is renewed by a thread of its own, and only while what serves connections turns: one
//! that hangs would keep taking new flows otherwise.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

/// While it is there the kernel hears that this process lives. Dropped, others take what is new at once.
pub struct HeldLease {
    hold: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What is renewed; in tests something that counts.
pub trait Word: Send + 'static {
    fn renew(&self, time: Duration);
    fn end(&self);
}

impl Word for edge_kernel::Lease {
    fn renew(&self, time: Duration) {
        edge_kernel::Lease::renew(self, time);
    }

    fn end(&self) {
        edge_kernel::Lease::end(self);
    }
}

impl HeldLease {
    /// `lives` is asked before every renewal, several times a second, and answers at once.
    pub fn of(word: impl Word, mut lives: impl FnMut() -> bool + Send + 'static) -> std::io::Result<HeldLease> {
        let (hold, held) = mpsc::channel();
        let thread = std::thread::Builder::new().name("lease".into()).spawn(move || {
            let mut lived = true;
            loop {
                let now = lives();
                match (lived, now) {
                    (true, false) => {
                        word.end();
                        tracing::error!(
                            "the agent or a worker hangs: new connections of virtual IPs go to other machines until it turns again"
                        );
                    }
                    (false, true) => tracing::warn!("agent and workers turn again, and take new connections"),
                    _ => {}
                }
                lived = now;
                if lived {
                    word.renew(LEASE);
                }
                match held.recv_timeout(LEASE / 4) {
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                    Err(mpsc::RecvTimeoutError::Disconnected) => return word.end(),
                    // The next process renews it.
                    Ok(()) => return,
                }
            }
        })?;
        Ok(HeldLease { hold: Some(hold), thread: Some(thread) })
    }

    /// Leaves it to another process of this machine, which renews it already.
    pub fn pass_on(self) {
        if let Some(hold) = &self.hold {
            let _ = hold.send(());
        }
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        drop(self.hold.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// After so long without a word from this process others take its new flows. Three renewals may be late.
const LEASE: Duration = Duration::from_millis(400);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Instant;

    #[derive(Clone, Default)]
    struct Counted {
        renewed: Arc<AtomicUsize>,
        ended: Arc<AtomicUsize>,
    }

    impl Word for Counted {
        fn renew(&self, _: Duration) {
            self.renewed.fetch_add(1, Ordering::SeqCst);
        }

        fn end(&self) {
            self.ended.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn it_is_renewed_by_what_lives_and_by_nobody_else() {
        let (word, lives, asked) = (Counted::default(), Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let of = |count: &Arc<AtomicUsize>| count.load(Ordering::SeqCst);
        let reaches = |count: &Arc<AtomicUsize>, least: usize| {
            let until = Instant::now() + Duration::from_secs(60);
            while of(count) < least {
                assert!(Instant::now() < until, "not so within a minute");
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        let (says, counts) = (lives.clone(), asked.clone());
        let held = HeldLease::of(word.clone(), move || {
            counts.fetch_add(1, Ordering::SeqCst);
            says.load(Ordering::SeqCst)
        })
        .unwrap();
        reaches(&word.renewed, 3);
        assert_eq!(of(&word.ended), 0);
        lives.store(false, Ordering::SeqCst);
        reaches(&word.ended, 1);
        let (renewed, then) = (of(&word.renewed), of(&asked));
        reaches(&asked, then + 3);
        assert_eq!((of(&word.renewed), of(&word.ended)), (renewed, 1), "what hangs renews nothing");
        lives.store(true, Ordering::SeqCst);
        reaches(&word.renewed, renewed + 2);
        drop(held);
        assert_eq!(of(&word.ended), 2);
    }
}

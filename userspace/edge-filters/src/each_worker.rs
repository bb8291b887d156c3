//! A thing that each worker has for itself.
//!
//! What all workers refer to at every request, each counts its references to, and the line of memory that the count is in goes from
//! processor to processor: where two workers refuse a hundred thousand requests a second that costs more than what is referred to.

/// See the module doc.
#[derive(Debug)]
pub(crate) struct EachWorker<T>(Box<[T]>);

impl<T> EachWorker<T> {
    /// `make` is called once for each.
    pub fn new(workers: usize, make: impl FnMut() -> T) -> EachWorker<T> {
        EachWorker(std::iter::repeat_with(make).take(workers.max(1)).collect())
    }

    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }

    /// This worker's own; what is no worker shares one of theirs.
    pub fn own(&self) -> &T {
        &self.0[base_runtime::try_worker_index().unwrap_or_default() % self.0.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn what_is_no_worker_has_one_too() {
        let mut made = 0;
        let each = EachWorker::new(3, || {
            made += 1;
            Arc::new(made)
        });
        assert_eq!(**each.own(), 1);
        assert_eq!((made, **EachWorker::new(0, || Arc::new(7)).own()), (3, 7));
    }
}

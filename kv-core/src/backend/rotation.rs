//! Which of several endpoints is asked first.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::backoff::random;

/// The order in which endpoints are asked.
///
/// The first order is random, so that many clients spread over the endpoints. Afterwards the endpoint that answered
/// last comes first. Endpoints that failed since they last answered come last; of these, the one whose failure is
/// oldest comes first. An endpoint whose connection broke or that refused is therefore asked last until it has
/// answered again.
///
/// Endpoints are numbered from 0. All methods can be called from several threads at once, and none looks at a clock.
///
/// ```
/// # use kv_core::backend::rotation::Rotation;
/// let rotation = Rotation::new(3);
/// let first = rotation.first();
/// rotation.failed(first);
/// assert_eq!(rotation.order()[2], first);
/// rotation.answered(first);
/// assert_eq!(rotation.first(), first);
/// ```
#[derive(Debug)]
pub struct Rotation {
    order: Mutex<Vec<usize>>,
    /// The first of `order`, so that an answer from it costs no lock.
    first: AtomicUsize,
}

impl Rotation {
    /// Puts the endpoints 0 to `count - 1` in a random order.
    pub fn new(count: usize) -> Self {
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            let other = random() % (last as u64 + 1);
            order.swap(last, usize::try_from(other).unwrap_or_default());
        }
        Self::in_order(order)
    }

    fn in_order(order: Vec<usize>) -> Self {
        let first = AtomicUsize::new(order.first().copied().unwrap_or_default());
        Self { order: Mutex::new(order), first }
    }

    /// The endpoints in the order in which a call asks them.
    pub fn order(&self) -> Vec<usize> {
        self.lock().clone()
    }

    /// The endpoint to ask first; 0 if there is none.
    pub fn first(&self) -> usize {
        self.first.load(Ordering::Relaxed)
    }

    /// Notes that an endpoint answered: it comes first now.
    pub fn answered(&self, endpoint: usize) {
        if self.first() != endpoint {
            self.place(endpoint, |order| order.insert(0, endpoint));
        }
    }

    /// Notes that an endpoint refused, or that its connection broke: it comes last until it answers again.
    pub fn failed(&self, endpoint: usize) {
        self.place(endpoint, |order| order.push(endpoint));
    }

    /// Takes an endpoint out and puts it back in; a number that is no endpoint changes nothing.
    fn place(&self, endpoint: usize, put: impl FnOnce(&mut Vec<usize>)) {
        let mut order = self.lock();
        if let Some(at) = order.iter().position(|one| *one == endpoint) {
            order.remove(at);
            put(&mut order);
            self.first.store(order[0], Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<usize>> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_to_answer_comes_first_and_the_last_to_fail_last() {
        let rotation = Rotation::in_order(vec![2, 0, 1]);
        assert_eq!((rotation.first(), rotation.order()), (2, vec![2, 0, 1]));
        rotation.answered(1);
        assert_eq!(rotation.order(), [1, 2, 0]);
        rotation.failed(1);
        rotation.failed(2);
        // 1 failed longer ago than 2.
        assert_eq!((rotation.first(), rotation.order()), (0, vec![0, 1, 2]));
        rotation.failed(0);
        rotation.failed(1);
        assert_eq!(rotation.order(), [2, 0, 1]);
        rotation.answered(0);
        assert_eq!(rotation.order(), [0, 2, 1]);
    }

    #[test]
    fn every_endpoint_stays_in_the_order() {
        let rotation = Rotation::new(5);
        for step in 0..100 {
            match step % 3 {
                0 => rotation.answered(step % 7),
                _ => rotation.failed(step % 7),
            }
            let mut order = rotation.order();
            assert_eq!(order[0], rotation.first());
            order.sort_unstable();
            assert_eq!(order, [0, 1, 2, 3, 4]);
        }
    }

    #[test]
    fn clients_start_at_different_endpoints() {
        let firsts: std::collections::BTreeSet<usize> = (0..500).map(|_| Rotation::new(3).first()).collect();
        assert_eq!(firsts.len(), 3);
        assert_eq!(Rotation::new(1).order(), [0]);
        assert!(Rotation::new(0).order().is_empty());
    }
}

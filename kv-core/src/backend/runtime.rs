//! Parts of a backend that must not cross tokio runtimes.

use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use tokio::runtime::{Handle, Id};
use tokio::sync::oneshot;

/// One `T` for each tokio runtime that uses the handle.
///
/// A connection or a queue lives on the runtime that created it: its tasks stop when that runtime stops or is no
/// longer driven. A call from another runtime must not depend on it, so it gets a `T` of its own. A `T` is created
/// when a runtime first asks for it, and dropped when that runtime ends or when the `PerRuntime` is dropped.
///
/// ```
/// # use kv_core::backend::runtime::PerRuntime;
/// # use std::sync::Arc;
/// let connections = PerRuntime::new();
/// let runtime = || tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
/// let (one, other) = (runtime(), runtime());
/// let first = one.block_on(async { connections.get(|| String::from("connection")) });
/// let same = one.block_on(async { connections.get(|| unreachable!("there is one")) });
/// let second = other.block_on(async { connections.get(|| String::from("connection")) });
/// assert!(Arc::ptr_eq(&first, &same) && !Arc::ptr_eq(&first, &second));
/// drop(one);
/// assert_eq!(connections.all().len(), 1);
/// ```
pub struct PerRuntime<T> {
    parts: Arc<Parts<T>>,
}

struct Parts<T>(RwLock<Vec<Part<T>>>);

struct Part<T> {
    runtime: Id,
    value: Arc<T>,
    /// Dropped with the part: it ends the task that waits for the end of the runtime.
    _in_use: oneshot::Sender<()>,
}

impl<T: Send + Sync + 'static> PerRuntime<T> {
    /// Creates nothing yet.
    pub fn new() -> Self {
        Self { parts: Arc::new(Parts(RwLock::default())) }
    }

    /// Returns the current runtime's `T`, and calls `make` if it has none.
    ///
    /// `make` must not use this `PerRuntime`: other callers wait while it runs, so that only one `T` is made.
    ///
    /// # Panics
    /// Outside a tokio runtime, as `tokio::spawn` does.
    pub fn get(&self, make: impl FnOnce() -> T) -> Arc<T> {
        match self.try_get(|| Ok::<T, Infallible>(make())) {
            Ok(value) => value,
            Err(never) => match never {},
        }
    }

    /// Returns the current runtime's `T`, and calls `make`, which may fail, if it has none.
    ///
    /// # Errors
    /// Those of `make`; the next call tries again.
    ///
    /// # Panics
    /// Outside a tokio runtime, as `tokio::spawn` does.
    pub fn try_get<E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        let runtime = Handle::current();
        if let Some(value) = self.parts.find(runtime.id()) {
            return Ok(value);
        }
        let (value, no_longer_in_use) = {
            let mut parts = self.parts.write();
            if let Some(part) = parts.iter().find(|part| part.runtime == runtime.id()) {
                return Ok(part.value.clone());
            }
            let value = Arc::new(make()?);
            let (in_use, no_longer_in_use) = oneshot::channel();
            parts.push(Part { runtime: runtime.id(), value: value.clone(), _in_use: in_use });
            (value, no_longer_in_use)
        };
        let end = RuntimeEnd { parts: Arc::downgrade(&self.parts), runtime: runtime.id() };
        // Not under the lock: a runtime that is shutting down drops the task, and with it `end`, at once.
        runtime.spawn(async move {
            let _end = end;
            let _ = no_longer_in_use.await;
        });
        Ok(value)
    }

    /// Returns the current runtime's `T` if it has one; `None` outside a runtime.
    pub fn current(&self) -> Option<Arc<T>> {
        self.parts.find(Handle::try_current().ok()?.id())
    }

    /// Returns every `T` there is, in the order of their creation.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.parts.read().iter().map(|part| part.value.clone()).collect()
    }
}

impl<T: Send + Sync + 'static> Default for PerRuntime<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> std::fmt::Debug for PerRuntime<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PerRuntime").field("runtimes", &self.parts.read().len()).finish()
    }
}

impl<T> Parts<T> {
    fn find(&self, runtime: Id) -> Option<Arc<T>> {
        self.read().iter().find(|part| part.runtime == runtime).map(|part| part.value.clone())
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<Part<T>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<Part<T>>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Owned by a task of a runtime; dropped with that runtime, it drops the runtime's part.
struct RuntimeEnd<T> {
    parts: Weak<Parts<T>>,
    runtime: Id,
}

impl<T> Drop for RuntimeEnd<T> {
    fn drop(&mut self) {
        let Some(parts) = self.parts.upgrade() else { return };
        let ended: Vec<Part<T>> = {
            let mut parts = parts.write();
            parts.extract_if(.., |part| part.runtime == self.runtime).collect()
        };
        // Dropped without the lock, since dropping a `T` may do anything.
        drop(ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
    }

    #[test]
    fn each_runtime_has_its_own_until_it_ends() {
        let per_runtime = PerRuntime::new();
        let (one, other) = (runtime(), runtime());
        let first = one.block_on(async { per_runtime.get(|| 1) });
        assert_eq!(*one.block_on(async { per_runtime.get(|| 2) }), 1);
        assert_eq!(*other.block_on(async { per_runtime.get(|| 3) }), 3);
        assert_eq!(Arc::strong_count(&first), 2);
        drop(one);
        assert_eq!(Arc::strong_count(&first), 1);
        assert_eq!(per_runtime.all(), [Arc::new(3)]);
        assert_eq!(other.block_on(async { per_runtime.current() }), Some(Arc::new(3)));
        assert_eq!(*runtime().block_on(async { per_runtime.get(|| 4) }), 4);
    }

    #[test]
    fn dropping_it_drops_what_it_holds_although_the_runtimes_live_on() {
        let per_runtime = PerRuntime::new();
        let one = runtime();
        let value = one.block_on(async { per_runtime.get(|| 1) });
        drop(per_runtime);
        assert_eq!(Arc::strong_count(&value), 1);
    }

    #[test]
    fn a_part_that_could_not_be_made_is_made_by_the_next_call() {
        let per_runtime = PerRuntime::new();
        runtime().block_on(async {
            assert_eq!(per_runtime.try_get(|| Err::<u8, _>("no")), Err("no"));
            assert_eq!(per_runtime.current(), None);
            assert_eq!(per_runtime.try_get(|| Ok::<_, &str>(1)), Ok(Arc::new(1)));
        });
        assert_eq!(per_runtime.current(), None, "outside a runtime there is none");
    }

    #[test]
    fn a_runtime_of_several_threads_has_one() {
        let per_runtime = Arc::new(PerRuntime::new());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().expect("a runtime");
        let asking: Vec<_> = (0..100)
            .map(|number| {
                let per_runtime = per_runtime.clone();
                runtime.spawn(async move { *per_runtime.get(|| number) })
            })
            .collect();
        let mut answers: Vec<i32> =
            asking.into_iter().map(|asking| runtime.block_on(asking).expect("no panic")).collect();
        answers.dedup();
        assert_eq!(answers.len(), 1);
        drop(runtime);
        assert!(per_runtime.all().is_empty());
    }
}

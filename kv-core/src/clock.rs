//! The clock by which leases are counted ([clause L6](crate::contract::CLAUSES#L6)): tokio's, and the time for which
//! the machine was suspended.
//!
//! Tokio's clock, like std's, stands still while a laptop or a virtual machine is suspended. The store's clock goes on.
//! Tokio's clock is still the base, so that tests can pause it.

use std::ops::Add;
use std::time::Duration;

use tokio::time::Instant;

/// A moment on the clock by which leases are counted.
///
/// ```
/// # use kv_core::clock::Moment;
/// let began = Moment::now();
/// assert!(began.elapsed() < std::time::Duration::from_secs(60));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    instant: Instant,
    /// For how long the machine had been suspended by then, counted from some moment in the past.
    suspended: Duration,
}

impl Moment {
    /// The current moment.
    pub fn now() -> Self {
        Self { instant: Instant::now(), suspended: suspended() }
    }

    /// The time since then, in which the machine may have been suspended; zero for a moment in the future.
    pub fn elapsed(self) -> Duration {
        /// How much two readings may differ although the machine was not suspended.
        const NOISE: Duration = Duration::from_millis(1);
        let slept = suspended().saturating_sub(self.suspended);
        self.instant.elapsed() + if slept < NOISE { Duration::ZERO } else { slept }
    }

    /// The same moment for timers. They stand still while the machine is suspended, so look at the clock again
    /// after one.
    pub fn timer(self) -> Instant {
        self.instant
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    /// The moment after this time, if the machine is not suspended until then.
    fn add(self, time: Duration) -> Self {
        Self { instant: self.instant + time, ..self }
    }
}

#[cfg(test)]
pub(crate) use tests::suspend;

#[cfg(not(test))]
fn suspended() -> Duration {
    system::suspended()
}

#[cfg(test)]
fn suspended() -> Duration {
    tests::SUSPENDED.get()
}

/// The clocks of the system.
mod system {
    use std::time::Duration;

    /// For how long the machine was suspended since some moment in the past. It is 0 on systems where that is unknown,
    /// and where std's clock counts it (Windows).
    #[cfg_attr(test, allow(dead_code, reason = "tests move the clock themselves"))]
    pub(super) fn suspended() -> Duration {
        const TRIES: usize = 3;
        /// Two clocks that are read within this time count as read at once.
        const AT_ONCE: Duration = Duration::from_micros(100);
        let mut suspended = Duration::ZERO;
        for _ in 0..TRIES {
            let before = running();
            let counting = counting();
            let after = running();
            suspended = counting.saturating_sub(after);
            if after.saturating_sub(before) < AT_ONCE {
                break;
            }
        }
        suspended
    }

    /// A clock that goes on while the machine is suspended.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn counting() -> Duration {
        read(rustix::time::ClockId::Boottime)
    }

    /// A clock that stands still while the machine is suspended.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn running() -> Duration {
        read(rustix::time::ClockId::Monotonic)
    }

    /// A clock that goes on while the machine is suspended. On Apple's systems this one does.
    #[cfg(target_vendor = "apple")]
    fn counting() -> Duration {
        read(rustix::time::ClockId::Monotonic)
    }

    /// A clock that stands still while the machine is suspended.
    #[cfg(target_vendor = "apple")]
    fn running() -> Duration {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        START.get_or_init(std::time::Instant::now).elapsed()
    }

    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    fn read(clock: rustix::time::ClockId) -> Duration {
        rustix::time::clock_gettime(clock).try_into().unwrap_or_default()
    }

    #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
    fn counting() -> Duration {
        Duration::ZERO
    }

    #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
    fn running() -> Duration {
        Duration::ZERO
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_machine_that_runs_is_not_suspended() {
            let before = suspended();
            std::thread::sleep(Duration::from_millis(20));
            assert!(suspended().abs_diff(before) < Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// For how long the machine was suspended, as a test wants it.
        pub(super) static SUSPENDED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    /// Suspends the machine: this clock goes on, and tokio's does not.
    pub(crate) fn suspend(time: Duration) {
        SUSPENDED.set(SUSPENDED.get() + time);
    }

    #[tokio::test(start_paused = true)]
    async fn both_kinds_of_time_count() {
        let then = Moment::now();
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(then.elapsed(), Duration::from_secs(3));
        suspend(Duration::from_secs(60));
        assert_eq!(then.elapsed(), Duration::from_secs(63));
        assert_eq!(then.timer().elapsed(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_difference_between_two_readings_does_not_count() {
        let then = Moment::now();
        suspend(Duration::from_micros(900));
        assert_eq!(then.elapsed(), Duration::ZERO);
    }
}

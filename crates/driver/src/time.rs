//! A point on the monotonic clock, in whole nanoseconds.
//!
//! The same clock as Python's `time.monotonic()`, so that a loop's `time()` and the deadlines here are one scale.
//! 64 bits last 584 years; arithmetic saturates, because a deadline "never" is legal and must not wrap into the past.

use std::ops::Add;
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time(u64);

impl Time {
    pub const ZERO: Time = Time(0);
    /// The latest point there is; used for "never".
    pub const MAX: Time = Time(u64::MAX);

    #[inline]
    pub const fn from_nanos(nanos: u64) -> Time {
        Time(nanos)
    }

    #[inline]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Seconds as Python sees them. Nanoseconds survive the conversion up to 104 days (2^53 ns) of uptime.
    #[inline]
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// The first whole nanosecond that is not before `secs`: rounding up, so that a timer never fires early.
    /// What lies before the clock's zero becomes zero (due at once), what lies beyond its end becomes [`Time::MAX`];
    /// NaN becomes zero, callers that care reject it before.
    #[inline]
    pub fn from_secs_f64_ceil(secs: f64) -> Time {
        // `as` saturates and maps NaN to 0.
        Time((secs * 1e9).ceil() as u64)
    }

    #[inline]
    pub const fn saturating_add(self, duration: Duration) -> Time {
        let nanos = duration.as_nanos();
        if nanos > u64::MAX as u128 {
            return Time::MAX;
        }
        Time(self.0.saturating_add(nanos as u64))
    }

    /// How long from `earlier` until `self`; zero if that is in the past.
    #[inline]
    pub const fn saturating_since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    #[inline]
    fn add(self, duration: Duration) -> Time {
        self.saturating_add(duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_rounded_up_so_that_nothing_is_early() {
        assert_eq!(Time::from_secs_f64_ceil(1e-10), Time::from_nanos(1));
        assert_eq!(Time::from_secs_f64_ceil(1.5), Time::from_nanos(1_500_000_000));
    }

    #[test]
    fn what_no_clock_can_show_becomes_now_or_never() {
        assert_eq!(Time::from_secs_f64_ceil(-3.0), Time::ZERO);
        assert_eq!(Time::from_secs_f64_ceil(f64::NAN), Time::ZERO);
        assert_eq!(Time::from_secs_f64_ceil(f64::INFINITY), Time::MAX);
        assert_eq!(Time::from_nanos(7) + Duration::MAX, Time::MAX);
    }
}

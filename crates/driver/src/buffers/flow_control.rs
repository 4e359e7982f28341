//! When to tell a program to stop writing and when to go on: asyncio's rules.
//!
//! Pause when the queue grows *above* the high mark, resume when it shrinks *to or below* the low mark. Growing never resumes and
//! shrinking never pauses, because asyncio looks only at these moments: raising the limits of a paused transport resumes it with the
//! next byte that leaves, not at once.

/// asyncio's default for the high mark.
const DEFAULT_HIGH_BYTES: usize = 64 * 1024;

#[derive(Clone, Debug)]
pub struct FlowControl {
    high_bytes: usize,
    low_bytes: usize,
    paused: bool,
}

/// What the program has to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "the protocol has to be told, or it waits for ever"]
pub enum FlowChange {
    Pause,
    Resume,
}

/// `low` lies above `high`. Holds the marks after the defaults were filled in, as asyncio's message shows them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LimitsError {
    pub high: usize,
    pub low: usize,
}

impl std::fmt::Display for LimitsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "high ({}) must be >= low ({}) must be >= 0", self.high, self.low)
    }
}

impl std::error::Error for LimitsError {}

impl Default for FlowControl {
    fn default() -> Self {
        FlowControl::new()
    }
}

impl FlowControl {
    pub fn new() -> FlowControl {
        FlowControl { high_bytes: DEFAULT_HIGH_BYTES, low_bytes: DEFAULT_HIGH_BYTES / 4, paused: false }
    }

    /// A missing high mark is four times the low one, or 64 KiB; a missing low mark is a quarter of the high one.
    /// On an error the old marks stay. Call [`grown`](Self::grown) afterwards: the queue may be above the new mark.
    pub fn set_limits(&mut self, high: Option<usize>, low: Option<usize>) -> Result<(), LimitsError> {
        let high = high.unwrap_or_else(|| low.map_or(DEFAULT_HIGH_BYTES, |low| low.saturating_mul(4)));
        let low = low.unwrap_or(high / 4);
        if low > high {
            return Err(LimitsError { high, low });
        }
        self.high_bytes = high;
        self.low_bytes = low;
        Ok(())
    }

    /// (low, high), in asyncio's order.
    pub fn limits(&self) -> (usize, usize) {
        (self.low_bytes, self.high_bytes)
    }

    #[inline]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// The queue holds `queued_bytes` after something was added or the marks were changed.
    #[inline]
    pub fn grown(&mut self, queued_bytes: usize) -> Option<FlowChange> {
        if self.paused || queued_bytes <= self.high_bytes {
            return None;
        }
        self.paused = true;
        Some(FlowChange::Pause)
    }

    /// The queue holds `queued_bytes` after something left.
    #[inline]
    pub fn shrunk(&mut self, queued_bytes: usize) -> Option<FlowChange> {
        if !self.paused || queued_bytes > self.low_bytes {
            return None;
        }
        self.paused = false;
        Some(FlowChange::Resume)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pausing_needs_more_than_the_high_mark_and_resuming_no_more_than_the_low_one() {
        let mut flow = FlowControl::new();
        assert_eq!(flow.limits(), (16 * 1024, 64 * 1024));
        assert_eq!(flow.grown(64 * 1024), None);
        assert_eq!(flow.grown(64 * 1024 + 1), Some(FlowChange::Pause));
        assert_eq!(flow.grown(1 << 30), None);
        assert_eq!(flow.shrunk(16 * 1024 + 1), None);
        assert_eq!(flow.shrunk(16 * 1024), Some(FlowChange::Resume));
        assert_eq!(flow.shrunk(0), None);
    }

    #[test]
    fn a_missing_mark_follows_from_the_other() {
        let mut flow = FlowControl::new();
        flow.set_limits(None, Some(100)).unwrap();
        assert_eq!(flow.limits(), (100, 400));
        flow.set_limits(Some(100), None).unwrap();
        assert_eq!(flow.limits(), (25, 100));
        flow.set_limits(None, None).unwrap();
        assert_eq!(flow.limits(), (16 * 1024, 64 * 1024));
    }

    #[test]
    fn marks_in_the_wrong_order_are_refused_and_change_nothing() {
        let mut flow = FlowControl::new();
        let error = flow.set_limits(Some(5), Some(6)).unwrap_err();
        assert_eq!(error.to_string(), "high (5) must be >= low (6) must be >= 0");
        assert_eq!(flow.limits(), (16 * 1024, 64 * 1024));
    }

    #[test]
    fn a_high_mark_of_zero_pauses_at_the_first_byte_and_resumes_when_empty() {
        let mut flow = FlowControl::new();
        flow.set_limits(Some(0), None).unwrap();
        assert_eq!(flow.grown(0), None);
        assert_eq!(flow.grown(1), Some(FlowChange::Pause));
        assert_eq!(flow.shrunk(0), Some(FlowChange::Resume));
    }
}

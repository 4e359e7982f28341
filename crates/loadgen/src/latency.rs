//! A histogram of durations: 64 steps per power of two, so a percentile is exact to 1.6 %.

use std::time::Duration;

const STEP_BITS: u32 = 6;
const BUCKETS: usize = (64 - STEP_BITS as usize + 1) << STEP_BITS;

pub(crate) struct Latencies {
    counts: Vec<u64>,
    total: u64,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanoseconds)] += 1;
        self.total += 1;
    }

    /// The duration that `share` (0 to 1) of the operations did not exceed, in microseconds.
    pub(crate) fn percentile_us(&self, share: f64) -> f64 {
        let wanted = ((self.total as f64) * share).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted.max(1) {
                return lower_bound(index) as f64 / 1000.0;
            }
        }
        0.0
    }
}

fn bucket(value: u64) -> usize {
    let magnitude = value.max(1).ilog2();
    if magnitude < STEP_BITS {
        return value as usize;
    }
    let shift = magnitude - STEP_BITS;
    (((shift as usize) + 1) << STEP_BITS) + ((value >> shift) as usize - (1 << STEP_BITS))
}

fn lower_bound(bucket: usize) -> u64 {
    let (row, column) = (bucket >> STEP_BITS, (bucket & ((1 << STEP_BITS) - 1)) as u64);
    match row {
        0 => column,
        _ => (column + (1 << STEP_BITS)) << (row - 1),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{BUCKETS, Latencies, bucket, lower_bound};

    #[test]
    fn every_value_falls_into_a_bucket_that_begins_at_most_two_percent_below_it() {
        for value in (0..100_000).chain([u64::MAX / 3, u64::MAX]) {
            let begin = lower_bound(bucket(value));
            assert!(bucket(value) < BUCKETS);
            assert!(begin <= value && (value - begin) as f64 <= value as f64 / 63.0, "{value} in {begin}");
        }
    }

    #[test]
    fn half_of_the_operations_are_not_slower_than_the_median() {
        let mut latencies = Latencies::new();
        for microseconds in 1..=100 {
            latencies.record(Duration::from_micros(microseconds));
        }
        assert!((latencies.percentile_us(0.5) - 50.0).abs() < 1.0);
        assert!((latencies.percentile_us(0.99) - 99.0).abs() < 2.0);
    }

    #[test]
    fn no_operations_have_a_percentile_of_zero() {
        assert_eq!(Latencies::new().percentile_us(0.5), 0.0);
    }
}

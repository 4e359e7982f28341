//! What the timer queue costs: `cargo run --release -p hayase-driver --example timers`.
//!
//! Prints nanoseconds a timer, best of several rounds, and what a bare `BinaryHeap` costs, which can neither cancel nor look a timer up.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use driver::{Time, TimerQueue};

const COUNT: u64 = 100_000;

fn main() {
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    let deadlines: Vec<Time> = (0..COUNT)
        .map(|_| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            Time::from_nanos(random >> 20)
        })
        .collect();
    let mut best = [f64::INFINITY; 5];
    for _ in 0..20 {
        let mut queue = TimerQueue::new();
        let mut clock = Stopwatch::start();
        let keys: Vec<_> = deadlines.iter().map(|at| queue.insert(*at, 0usize)).collect();
        clock.lap(&mut best[0]);
        queue.next_deadline();
        clock = Stopwatch::start();
        for key in &keys {
            queue.cancel(*key);
        }
        clock.lap(&mut best[1]);
        for at in &deadlines {
            queue.insert(*at, 0usize);
        }
        clock = Stopwatch::start();
        while queue.pop_expired(Time::MAX).is_some() {}
        clock.lap(&mut best[2]);
        for n in 0..COUNT {
            let key = queue.insert(Time::from_nanos(n + 30_000), 0usize);
            queue.next_deadline();
            queue.cancel(key);
        }
        clock.lap(&mut best[3]);
        // A full queue, and one timer after another that comes due.
        for at in &deadlines {
            queue.insert(*at, 0usize);
        }
        let mut now = queue.next_deadline().unwrap_or(Time::ZERO);
        clock = Stopwatch::start();
        for _ in 0..COUNT {
            queue.pop_expired(now);
            queue.insert(Time::from_nanos(now.as_nanos() + (1 << 40)), 0usize);
            now = queue.next_deadline().unwrap_or(Time::ZERO);
        }
        clock.lap(&mut best[4]);
    }
    let mut heap_best = [f64::INFINITY; 2];
    for _ in 0..20 {
        let mut heap = BinaryHeap::new();
        let mut clock = Stopwatch::start();
        for (serial, at) in deadlines.iter().enumerate() {
            heap.push(Reverse((*at, serial, 0usize)));
        }
        clock.lap(&mut heap_best[0]);
        while heap.pop().is_some() {}
        clock.lap(&mut heap_best[1]);
    }
    println!("{:34} {:7.1} ns", "for comparison: heap, insert", heap_best[0]);
    println!("{:34} {:7.1} ns", "for comparison: heap, pop all", heap_best[1]);
    let names = ["insert", "cancel all", "pop all in order", "insert, look, cancel", "pop one, insert one, of 100,000"];
    for (name, nanos) in names.iter().zip(best) {
        println!("{name:34} {nanos:7.1} ns");
    }
}

struct Stopwatch(Instant);

impl Stopwatch {
    fn start() -> Stopwatch {
        Stopwatch(Instant::now())
    }

    fn lap(&mut self, best: &mut f64) {
        *best = best.min(self.0.elapsed().as_nanos() as f64 / COUNT as f64);
        self.0 = Instant::now();
    }
}

//! The timer queue against a list that is sorted anew for each question.

use driver::{Time, TimerKey, TimerQueue};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Insert(u64),
    /// Enough at once that they are sorted in bulk.
    InsertMany(Vec<u64>),
    /// Of all keys there ever were, so also of dead ones.
    Cancel(prop::sample::Index),
    /// Most of what there is, so that the dead are swept out.
    CancelEverySecond,
    CancelAll,
    /// Time goes on by so much, and what is due is taken.
    Advance(u64),
    PopOne,
    NextDeadline,
    Drain,
}

fn step() -> impl Strategy<Value = Step> {
    let deadline = 0..200u64;
    prop_oneof![
        8 => deadline.clone().prop_map(Step::Insert),
        2 => vec(deadline, 60..200).prop_map(Step::InsertMany),
        6 => any::<prop::sample::Index>().prop_map(Step::Cancel),
        1 => Just(Step::CancelEverySecond),
        1 => Just(Step::CancelAll),
        3 => (0..20u64).prop_map(Step::Advance),
        3 => Just(Step::PopOne),
        3 => Just(Step::NextDeadline),
        1 => Just(Step::Drain),
    ]
}

/// What is alive, with the insertion's number, which is also the value.
#[derive(Default)]
struct Model {
    alive: Vec<(Time, usize)>,
}

impl Model {
    fn pop_expired(&mut self, now: Time) -> Option<usize> {
        self.alive.sort();
        (self.alive.first()?.0 <= now).then(|| self.alive.remove(0).1)
    }

    fn remove(&mut self, value: usize) -> Option<usize> {
        let place = self.alive.iter().position(|entry| entry.1 == value)?;
        Some(self.alive.remove(place).1)
    }
}

fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut queue = TimerQueue::new();
    let mut model = Model::default();
    let mut keys: Vec<TimerKey> = Vec::new();
    let mut now = Time::ZERO;
    for step in steps {
        match step {
            Step::Insert(delay) => insert(&mut queue, &mut model, &mut keys, now, delay),
            Step::InsertMany(delays) => {
                for delay in delays {
                    insert(&mut queue, &mut model, &mut keys, now, delay);
                }
            }
            Step::Cancel(which) if !keys.is_empty() => {
                let value = which.index(keys.len());
                prop_assert_eq!(queue.cancel(keys[value]), model.remove(value));
            }
            Step::Cancel(_) => {}
            Step::CancelEverySecond => {
                for value in (0..keys.len()).step_by(2) {
                    prop_assert_eq!(queue.cancel(keys[value]), model.remove(value));
                }
            }
            Step::CancelAll => {
                for (value, key) in keys.iter().enumerate() {
                    prop_assert_eq!(queue.cancel(*key), model.remove(value));
                }
            }
            Step::Advance(nanos) => {
                now = Time::from_nanos(now.as_nanos() + nanos);
                loop {
                    let fired = queue.pop_expired(now);
                    prop_assert_eq!(fired, model.pop_expired(now));
                    if fired.is_none() {
                        break;
                    }
                }
            }
            Step::PopOne => prop_assert_eq!(queue.pop_expired(now), model.pop_expired(now)),
            Step::NextDeadline => {
                let expected = model.alive.iter().map(|entry| entry.0).min();
                prop_assert_eq!(queue.next_deadline(), expected);
            }
            Step::Drain => {
                let mut drained: Vec<_> = queue.drain().collect();
                drained.sort();
                let mut expected: Vec<_> = model.alive.drain(..).map(|entry| entry.1).collect();
                expected.sort();
                prop_assert_eq!(drained, expected);
            }
        }
        prop_assert_eq!(queue.len(), model.alive.len());
        prop_assert_eq!(queue.iter().count(), model.alive.len());
        let earliest = model.alive.iter().map(|entry| entry.0).min().unwrap_or(Time::MAX);
        prop_assert!(queue.earliest_possible() <= earliest);
    }
    Ok(())
}

fn insert(queue: &mut TimerQueue<usize>, model: &mut Model, keys: &mut Vec<TimerKey>, now: Time, delay: u64) {
    // Some deadlines lie in the past.
    let deadline = Time::from_nanos((now.as_nanos() + delay).saturating_sub(20));
    let value = keys.len();
    keys.push(queue.insert(deadline, value));
    model.alive.push((deadline, value));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 3 } else { 400 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_answer_is_that_of_a_sorted_list(steps in vec(step(), 1..if cfg!(miri) { 20 } else { 80 })) {
        run(steps)?;
    }
}

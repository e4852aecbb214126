//! Taking times in turns.

use crate::quantity::show_nanoseconds;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Rounds whose times are thrown away: caches, frequency and page tables of the host settle.
const WARM_UP: usize = 2;

/// What several times of the same operation came to.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    /// Half were faster.
    pub(crate) median: f64,
    /// The fastest.
    pub(crate) min: f64,
    /// The slowest.
    pub(crate) max: f64,
    /// Of the three.
    pub(crate) unit: &'static str,
    /// How many.
    pub(crate) n: usize,
}

impl Sample {
    /// Of `times`, of which there is at least one, each divided by `operations`.
    pub(crate) fn of(times: &[Duration], operations: u64) -> Self {
        let mut ns: Vec<f64> =
            times.iter().map(|time| time.as_nanos() as f64 / operations as f64).collect();
        ns.sort_by(f64::total_cmp);
        let at = |index: usize| ns.get(index).copied().unwrap_or(f64::NAN);
        let last = ns.len().saturating_sub(1);
        Self { median: at(ns.len() / 2), min: at(0), max: at(last), unit: "ns", n: ns.len() }
    }

    /// Of an amount of memory, which is the same every time.
    pub(crate) fn bytes(bytes: u64) -> Self {
        let median = bytes as f64;
        Self { median, min: median, max: median, unit: "bytes", n: 1 }
    }

    /// A number of this sample's unit, for a person.
    pub(crate) fn show(&self, value: f64) -> String {
        if self.unit == "ns" { show_nanoseconds(value) } else { format!("{value:.0} B") }
    }
}

/// One way of doing what is measured: it prepares what it needs and returns only what it measured.
pub(crate) type Way<'w, E> = &'w mut dyn FnMut() -> Result<Duration, E>;

/// Runs the ways in turns, `times` times each after a warm-up, and returns the times of each.
pub(crate) fn in_turns<E, const WAYS: usize>(
    times: usize,
    mut ways: [Way<'_, E>; WAYS],
) -> Result<[Vec<Duration>; WAYS], E> {
    let mut measured = [const { Vec::new() }; WAYS];
    for time in 0..times + WARM_UP {
        for (way, measured) in ways.iter_mut().zip(&mut measured) {
            let took = way()?;
            if time >= WARM_UP {
                measured.push(took);
            }
        }
    }
    Ok(measured)
}

/// How long `work` takes.
pub(crate) fn time<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begin = Instant::now();
    let done = work();
    (done, begin.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_per_operation() {
        let times = [30, 10, 20].map(Duration::from_nanos);
        let sample = Sample::of(&times, 10);
        assert_eq!((sample.median, sample.min, sample.max, sample.n), (2.0, 1.0, 3.0, 3));
    }

    #[test]
    fn ways_take_turns_and_the_warm_up_is_not_counted() {
        let order = std::cell::RefCell::new(String::new());
        let way = |name| {
            order.borrow_mut().push(name);
            Ok::<_, std::convert::Infallible>(Duration::ZERO)
        };
        let times = in_turns(3, [&mut || way('a'), &mut || way('b')]);
        assert_eq!(order.borrow().as_str(), "ababababab");
        assert!(times.is_ok_and(|[a, b]| a.len() == 3 && b.len() == 3));
    }
}

//! The shipped functions under loom, on tables of two entries, each with a break that loom must
//! object to.
//!
//! Run with `cargo xtask loom`. What loom cannot show (SeqCst order, stale reads by a
//! read-modify-write) is argued in `docs/ordering.md`.
#![cfg(loom)]
#![allow(unsafe_code, missing_docs, unreachable_pub)]

mod hardware;
mod harvest;
mod protect_all;
mod reclaim;
mod tiny;

use vellum_mmu::Break;

/// How a scenario is to run.
#[derive(Clone, Copy)]
struct Plan {
    broken: Option<Break>,
    spawned_first: bool,
}

/// How often loom interrupts a thread in one execution, if `LOOM_MAX_PREEMPTIONS` does not say.
/// Three take half a second for two threads, and minutes for three threads, which get two.
const PREEMPTIONS: usize = 3;
const PREEMPTIONS_OF_THREE: usize = 2;

/// Runs `scenario` in every order that loom finds, beginning with either thread.
fn explore(scenario: impl Fn(Plan) + Copy + Sync + Send + 'static) {
    explore_bounded(PREEMPTIONS, scenario);
}

fn explore_bounded(preemptions: usize, scenario: impl Fn(Plan) + Copy + Sync + Send + 'static) {
    for spawned_first in [false, true] {
        model(preemptions, move || scenario(Plan { broken: None, spawned_first }));
    }
}

/// What the scenarios and loom itself say of a bug. Any other panic is not an objection.
const OBJECTIONS: [&str; 5] = [
    "was lost",
    "retires unseen",
    "landed after",
    "translation of the slot before",
    "Causality violation",
];

/// Runs `scenario` with a planted bug and demands that loom object.
fn must_object(bug: Break, scenario: impl Fn(Plan) + Copy + Sync + Send + 'static) {
    let objects = |spawned_first| {
        let plan = Plan { broken: Some(bug), spawned_first };
        let run = || model(PREEMPTIONS_OF_THREE, move || scenario(plan));
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).err();
        panic.is_some_and(|payload| {
            let literal = payload.downcast_ref::<&str>().copied();
            let said = payload.downcast_ref::<String>().map(String::as_str).or(literal);
            OBJECTIONS.iter().any(|objection| said.is_some_and(|said| said.contains(objection)))
        })
    };
    assert!(objects(false) || objects(true), "loom did not object to {bug:?}");
}

fn model(preemptions: usize, scenario: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.max_branches = 10_000;
    builder.check(scenario);
}

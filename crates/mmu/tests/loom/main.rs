//! The shipped functions under loom, on tables of two entries, each with a break that loom must
//! object to.
//!
//! Run with `cargo xtask loom`. What loom cannot show (SeqCst order, stale reads by a
//! read-modify-write) is argued in `docs/ordering.md`.
#![cfg(loom)]
#![allow(unsafe_code, missing_docs, unreachable_pub)]

mod ageing;
mod dirty_bits;
mod hardware;
mod harvest;
mod invalidation;
mod listeners;
mod manual;
mod parking;
mod partial;
mod permissions;
mod protect_all;
mod reclaim;
mod recover;
mod ring;
mod roots;
mod split;
mod sub_pages;
mod tiny;
mod tlb;
mod track;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use vellum_mmu::Break;

/// How a scenario is to run.
#[derive(Clone, Copy)]
struct Plan {
    broken: Option<Break>,
    beginning: Beginning,
}

/// The order that loom's search begins with. It looks back from there, and forgets a load that
/// another thread's load follows: so what it finds depends on where it begins.
#[derive(Clone, Copy)]
struct Beginning {
    /// Whether the spawned threads go first.
    spawned_first: bool,
    /// After how many steps of the machine (an access, a fault, a call of the library) whoever
    /// makes it lets others go first.
    gives_way: Option<usize>,
}

/// Every order that a search begins with.
fn beginnings() -> impl Iterator<Item = Beginning> {
    let gives_way = std::iter::once(None).chain((1..=gives_way()).map(Some));
    gives_way.flat_map(|gives_way| {
        [false, true].map(|spawned_first| Beginning { spawned_first, gives_way })
    })
}

/// `VELLUM_LOOM_STEPS` asks for a longer search.
fn gives_way() -> usize {
    std::env::var("VELLUM_LOOM_STEPS").map_or(STEPS, |steps| steps.parse().expect("a number"))
}

/// Two more beginnings each.
const STEPS: usize = 1;

/// How often loom interrupts a thread in one execution, if `LOOM_MAX_PREEMPTIONS` does not say.
/// Three take half a second for two threads with a few steps; three threads or many steps take
/// minutes, and get two.
const PREEMPTIONS: usize = 3;
const PREEMPTIONS_OF_MANY: usize = 2;

/// One model, of one format.
type Scenario = fn(Plan);

/// Runs scenarios in every order that loom finds, beginning with either thread.
fn explore<const N: usize>(scenarios: [Scenario; N]) {
    explore_bounded(PREEMPTIONS, scenarios);
}

fn explore_bounded<const N: usize>(preemptions: usize, scenarios: [Scenario; N]) {
    for scenario in scenarios {
        for beginning in beginnings() {
            model(preemptions, move || scenario(Plan { broken: None, beginning }));
        }
    }
}

/// What the scenarios and loom itself say of a bug. Any other panic is not an objection.
const OBJECTIONS: [&str; 8] = [
    "was lost",
    "retires unseen",
    "landed after",
    "went on after",
    "translation of the slot before",
    "both sizes at once",
    "table that was released",
    "Causality violation",
];

/// Runs scenarios with a planted bug and demands that loom object to each.
fn must_object<const N: usize>(bug: Break, scenarios: [Scenario; N]) {
    for (place, scenario) in scenarios.into_iter().enumerate() {
        let objects = beginnings()
            .any(|beginning| objects(move || scenario(Plan { broken: Some(bug), beginning })));
        assert!(objects, "loom did not object to {bug:?} in scenario {place}");
    }
}

fn objects(scenario: impl Fn() + Sync + Send + 'static) -> bool {
    let run = || model(PREEMPTIONS_OF_MANY, scenario);
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).err();
    panic.is_some_and(|payload| {
        let literal = payload.downcast_ref::<&str>().copied();
        let said = payload.downcast_ref::<String>().map(String::as_str).or(literal);
        OBJECTIONS.iter().any(|objection| said.is_some_and(|said| said.contains(objection)))
    })
}

fn model(preemptions: usize, scenario: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.max_branches = 10_000;
    let executions = Arc::new(AtomicUsize::new(0));
    let counted = executions.clone();
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        scenario();
    });
    println!("{} executions", executions.load(Ordering::Relaxed));
}

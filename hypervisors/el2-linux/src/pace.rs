//! When to harvest: by what the guest has done, so that a run on a slow machine has no more harvests
//! than one on a fast one.

use crate::exit::Exit;
use crate::handover::Mistake;

/// Counts what the guest does.
pub(crate) struct Pace {
    rule: Rule,
    done: u64,
}

/// What counts, and how much of it is enough.
///
/// After a fault this CPU's TLB is empty. A harvest that waits for another exit finds translations in
/// it that it has to shoot down.
struct Rule {
    fault: u64,
    other: u64,
    enough: u64,
    enough_at_a_fault: u64,
}

/// The faults of a kernel that boots and the changes from process to process later on give about
/// as many harvests. It waits for other exits, but not for ever.
const USUAL: Rule = Rule { fault: 1, other: 16, enough: 1000, enough_at_a_fault: 2000 };
/// The first CPU's exits alone count, and not each harvest is compared with the oracle.
const WITH_TWO_CPUS: Rule = Rule { fault: 1, other: 16, enough: 300, enough_at_a_fault: 600 };
/// A shoot-down that was skipped is noticed if a store uses a translation that is left before a fault
/// makes the processor forget it: not after every harvest, but after one of many.
const FOR_A_MISTAKE: Rule = Rule { fault: 0, other: 1, enough: 4, enough_at_a_fault: u64::MAX };

impl Pace {
    /// As many harvests as it takes to show the one or the other.
    pub(crate) fn new(mistake: Mistake, cpus: u64) -> Self {
        let rule = match (mistake, cpus) {
            (Mistake::ShootDownsSkipped, _) => FOR_A_MISTAKE,
            (Mistake::None, 1) => USUAL,
            (Mistake::None, _) => WITH_TWO_CPUS,
        };
        Self { rule, done: 0 }
    }

    /// Whether it is time for a harvest, after `exit`.
    pub(crate) fn is_time(&mut self, exit: Exit) -> bool {
        let Rule { fault, other, enough, enough_at_a_fault } = self.rule;
        let (weight, enough) = match exit {
            Exit::Fault { .. } | Exit::FaultThatMoved => (fault, enough_at_a_fault),
            Exit::Yield => (0, u64::MAX),
            _ => (other, enough),
        };
        self.done += weight;
        self.done >= enough
    }

    /// There was one.
    pub(crate) fn harvested(&mut self) {
        self.done = 0;
    }
}

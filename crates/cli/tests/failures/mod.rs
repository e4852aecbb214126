//! Every phase of a migration against everything that can go wrong in it, between real processes.
//!
//! A [run](run::one) starts a source and a destination with a wire between them that knows where
//! the migration is, lets one [failure](fault::Fault) strike in one [phase](phase::Phase), and then
//! holds what both sides say against the rules: the guest is found exactly once, never twice and
//! never nowhere unless it went with a process that was ended; whoever has it finds every page as it
//! left it; whoever failed before the hand-over succeeds at the next attempt; nobody waits for ever.
//!
//! What shows it: a side says *running* before its guest runs and *paused* after it has stopped; a
//! guest is compared by digest on its way, and checks itself where it arrives. Nothing here looks at
//! a clock to judge: a slow machine takes longer.

pub(crate) mod chance;
pub(crate) mod fault;
pub(crate) mod frames;
pub(crate) mod phase;
pub(crate) mod proxy;
pub(crate) mod run;
pub(crate) mod scene;

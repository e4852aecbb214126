//! How writes are tracked, and why so.
//!
//! `vellum bench round` weighs the ways against each other. Where a guest writes to many pages, D bits
//! cost next to nothing, and every other way a fault for each page. Where it writes to few, spread
//! over all of memory, D bits cost more than the others, a fault and a scan for each 2 MiB: but for
//! 1 GiB all of that is less than a millisecond a round, and what counts in a migration is the busy guest. A
//! dirty ring is for those who would rather hold a guest back than fall behind it; nobody should be
//! held back who did not ask for it.

use crate::args::Track;
use vellum_machine::log::Track as Method;

/// A way of tracking and one sentence that says why it was chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Choice<M> {
    pub(crate) method: M,
    pub(crate) why: &'static str,
}

impl<M> Choice<M> {
    /// The same choice, said otherwise.
    pub(crate) fn map<N>(self, other: impl FnOnce(M) -> N) -> Choice<N> {
        Choice { method: other(self.method), why: self.why }
    }
}

/// What a way of tracking is called on the command line and in reports.
pub(crate) fn name(method: Method) -> &'static str {
    match method {
        Method::PerPage => "per-page",
        Method::ProtectAll => "protect-all",
        Method::Manual => "manual",
        Method::DirtyBits => "dbit",
        Method::Pml => "pml",
        Method::Ring => "ring",
    }
}

/// Follows the command line, or chooses. Every processor of this machine sets D bits.
pub(crate) fn choose(track: Track) -> Choice<Method> {
    match track {
        Track::PerPage => asked(Method::PerPage),
        Track::ProtectAll => asked(Method::ProtectAll),
        Track::Manual => asked(Method::Manual),
        Track::Dbit => asked(Method::DirtyBits),
        Track::Pml => asked(Method::Pml),
        Track::Ring => asked(Method::Ring),
        Track::Auto => Choice {
            method: Method::DirtyBits,
            why: "the processors set dirty bits, so a round costs a fault for each 2 MiB that is \
                  written to, and not for each page",
        },
    }
}

const fn asked<M>(method: M) -> Choice<M> {
    Choice { method, why: "it was asked for" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_uses_what_the_processors_have_and_a_person_is_followed() {
        assert_eq!(choose(Track::Auto).method, Method::DirtyBits);
        assert_eq!(choose(Track::PerPage).method, Method::PerPage);
        assert_eq!(choose(Track::ProtectAll).method, Method::ProtectAll);
    }
}

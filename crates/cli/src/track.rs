//! How writes are tracked, and why so.

use crate::args::Track;
use crate::quantity::Size;
use vellum_machine::log::Track as Method;

/// From so many bytes on, auto protects all at once.
const LARGE: u64 = 256 << 20;

/// A way of tracking and one sentence that says why it was chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Choice {
    pub(crate) method: Method,
    pub(crate) why: &'static str,
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

/// Follows the command line, or chooses for a guest with so much memory.
pub(crate) fn choose(track: Track, memory: Size) -> Choice {
    match track {
        Track::PerPage => asked(Method::PerPage),
        Track::ProtectAll => asked(Method::ProtectAll),
        Track::Manual => asked(Method::Manual),
        Track::Dbit => asked(Method::DirtyBits),
        Track::Pml => asked(Method::Pml),
        Track::Ring => asked(Method::Ring),
        Track::Auto if memory.bytes() >= LARGE => Choice {
            method: Method::ProtectAll,
            why: "the guest is large, and protecting all of it at once costs the same at any size",
        },
        Track::Auto => Choice {
            method: Method::PerPage,
            why: "the guest is small, and page by page a rewritten page costs one fault and no more",
        },
    }
}

const fn asked(method: Method) -> Choice {
    Choice { method, why: "it was asked for" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(text: &str) -> Size {
        text.parse().expect("a size")
    }

    #[test]
    fn auto_follows_the_size_and_a_person_is_followed_whatever_the_size() {
        assert_eq!(choose(Track::Auto, size("1G")).method, Method::ProtectAll);
        assert_eq!(choose(Track::Auto, size("16M")).method, Method::PerPage);
        assert_eq!(choose(Track::PerPage, size("1G")).method, Method::PerPage);
        assert_eq!(choose(Track::ProtectAll, size("16M")).method, Method::ProtectAll);
    }
}

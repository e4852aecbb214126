//! The phases of a migration as they show on the wire, and how a source is made to come through.

use super::frames::{Frame, Kind, Way};

/// A row of the matrix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Phase {
    /// Openings, Hello and Accept.
    Greet,
    /// The first round, which copies everything while the guest runs.
    First,
    /// Further rounds while it runs.
    Later,
    /// It is paused: the last round, its state, Ready.
    Stopped,
    /// The digests of both memories.
    Compare,
    /// HandOver on its way to the destination.
    HandOver,
    /// The guest is taken; Running is on its way back.
    Taken,
    /// Whenever chance says, wherever the migration is then.
    AnyMoment,
}

impl Phase {
    pub(crate) const ALL: [Self; 8] = [
        Self::Greet,
        Self::First,
        Self::Later,
        Self::Stopped,
        Self::Compare,
        Self::HandOver,
        Self::Taken,
        Self::AnyMoment,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Greet => "greeting",
            Self::First => "first copy",
            Self::Later => "later rounds",
            Self::Stopped => "stop and copy",
            Self::Compare => "comparing",
            Self::HandOver => "hand-over",
            Self::Taken => "taken, not told",
            Self::AnyMoment => "any moment",
        }
    }

    /// The downtime that makes a source come through this phase, and through it where it is
    /// expected: with none it makes round after round, with much it stops after the first.
    pub(crate) fn downtime(self) -> &'static str {
        match self {
            Self::Later => "1ns",
            Self::Stopped | Self::Compare | Self::HandOver | Self::Taken => "3600s",
            Self::Greet | Self::First | Self::AnyMoment => "100ms",
        }
    }

    /// The ways in which something is said in this phase.
    pub(crate) fn ways(self) -> &'static [Way] {
        match self {
            Self::Greet | Self::Stopped | Self::AnyMoment => &[Way::Forward, Way::Back],
            Self::First | Self::Later | Self::HandOver => &[Way::Forward],
            Self::Compare | Self::Taken => &[Way::Back],
        }
    }

    /// In the source's words: a failure is noticed here or later, never before.
    pub(crate) fn in_words(self) -> &'static str {
        match self {
            Self::AnyMoment => "connecting",
            Self::Greet => "greeting",
            Self::First | Self::Later => "copying",
            Self::Stopped => "copying the rest",
            Self::Compare => "verifying",
            Self::HandOver | Self::Taken => "handing over",
        }
    }

    /// Whether a message that goes by belongs to this phase, and is the last that surely does.
    pub(crate) fn has(self, way: Way, frame: &Frame, round: u32) -> Belongs {
        let (here, last) = match self {
            Self::Greet => (
                matches!(frame.kind, Kind::Opening | Kind::Hello | Kind::Accept),
                matches!(frame.kind, Kind::Hello | Kind::Accept),
            ),
            Self::First => (frame.is_of_round() && round == 1, frame.kind == Kind::RoundEnd),
            // The source makes three further rounds at least before it gives up hope.
            Self::Later => (
                frame.is_of_round() && (2..=3).contains(&round),
                frame.kind == Kind::RoundEnd && round == 3,
            ),
            Self::Stopped => (
                frame.is_of_round() && round > 1
                    || matches!(frame.kind, Kind::State | Kind::Finish | Kind::Ready),
                matches!(frame.kind, Kind::Finish | Kind::Ready),
            ),
            Self::Compare => (frame.kind == Kind::Digest, true),
            Self::HandOver => (frame.kind == Kind::HandOver, true),
            Self::Taken => (frame.kind == Kind::Running, true),
            Self::AnyMoment => (true, false),
        };
        debug_assert!(!here || self.ways().contains(&way));
        match (here, last) {
            (false, _) => Belongs::No,
            (true, false) => Belongs::Yes,
            (true, true) => Belongs::Last,
        }
    }
}

/// Whether a message is of a phase.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Belongs {
    /// It is not.
    No,
    /// It is, and others may follow.
    Yes,
    /// It is, and perhaps no other follows.
    Last,
}

//! What can go wrong, and to whom.

use super::frames::Way;
use super::phase::Phase;
use super::proxy::Blow;

/// A column of the matrix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Column {
    Killed,
    Stalled,
    Cut,
    Garbage,
    Short,
    OutOfMemory,
    CtrlC,
}

/// One failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// SIGKILL.
    Kill(Side),
    /// SIGSTOP: its sockets stay open and nothing comes from it.
    Stop(Side),
    /// The wire stays open and carries nothing any more, either way.
    Stall,
    /// The wire is cut between two messages.
    Cut(Cut),
    /// Some bytes of a message become others.
    Garble(Way),
    /// Bytes that nobody sent come before a message.
    Insert(Way),
    /// The beginning of a message arrives, and the wire is cut.
    Shorten(Way),
    /// The system gives the destination no memory from here on.
    OutOfMemory,
    /// SIGINT.
    Interrupt(Side),
}

/// One of the two processes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Source,
    Destination,
}

/// How much of the wire is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cut {
    /// Both ways.
    Both,
    /// One way; the other goes on.
    One(Way),
}

impl Column {
    pub(crate) const ALL: [Self; 7] = [
        Self::Killed,
        Self::Stalled,
        Self::Cut,
        Self::Garbage,
        Self::Short,
        Self::OutOfMemory,
        Self::CtrlC,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Stalled => "stalled",
            Self::Cut => "cut link",
            Self::Garbage => "garbage",
            Self::Short => "short write",
            Self::OutOfMemory => "out of memory",
            Self::CtrlC => "Ctrl-C",
        }
    }

    /// All that can happen of this sort.
    pub(crate) fn faults(self) -> &'static [Fault] {
        use Fault::{Garble, Insert, Interrupt, Kill, OutOfMemory, Shorten, Stall, Stop};
        use Way::{Back, Forward};
        match self {
            Self::Killed => &[Kill(Side::Source), Kill(Side::Destination)],
            Self::Stalled => &[Stall, Stop(Side::Source), Stop(Side::Destination)],
            Self::Cut => {
                &[Fault::Cut(Cut::Both), Fault::Cut(Cut::One(Forward)), Fault::Cut(Cut::One(Back))]
            }
            Self::Garbage => &[Garble(Forward), Garble(Back), Insert(Forward), Insert(Back)],
            Self::Short => &[Shorten(Forward), Shorten(Back)],
            Self::OutOfMemory => &[OutOfMemory],
            Self::CtrlC => &[Interrupt(Side::Source), Interrupt(Side::Destination)],
        }
    }
}

impl Fault {
    /// Whether there is anything for it to strike in `phase`.
    pub(crate) fn strikes_in(self, phase: Phase) -> bool {
        match self {
            Self::Garble(way) | Self::Shorten(way) => phase.ways().contains(&way),
            _ => true,
        }
    }

    /// The ways in which a message may go at which it strikes in `phase`.
    pub(crate) fn struck_ways(self, phase: Phase) -> Vec<Way> {
        match self {
            Self::Garble(way) | Self::Shorten(way) => vec![way],
            _ => phase.ways().to_vec(),
        }
    }

    /// What the wire itself does.
    pub(crate) fn blow(self) -> Blow {
        match self {
            Self::Kill(_) | Self::Stop(_) | Self::OutOfMemory | Self::Interrupt(_) => Blow::Hold,
            Self::Stall => Blow::Stall,
            Self::Cut(cut) => Blow::Cut(cut),
            Self::Garble(_) => Blow::Garble,
            Self::Insert(way) => Blow::Insert(way),
            Self::Shorten(_) => Blow::Shorten,
        }
    }

    /// Whether the destination's process is ended by it.
    pub(crate) fn ends_destination(self) -> bool {
        matches!(self, Self::Kill(Side::Destination) | Self::Interrupt(Side::Destination))
    }

    /// Whether it can only be noticed by losing patience.
    pub(crate) fn is_silent(self) -> bool {
        matches!(self, Self::Stop(_) | Self::Stall)
    }

    /// How long each side bears silence. Where it is short, a machine that is slower still takes
    /// further attempts; elsewhere nobody may come to need it.
    pub(crate) fn patience(self) -> &'static str {
        if self.is_silent() { "1s" } else { "600s" }
    }
}

//! Other ways to learn of a write, doing the same work as ours.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod linux;
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
#[path = "rival/none.rs"]
mod linux;

use super::result::BenchResult;
use super::sample::{Sample, in_turns};
use crate::failure::Failure;
use std::time::Duration;

pub(crate) use linux::Error;
pub(super) use linux::{OF_A_GUEST, OF_A_PROCESS, kvm};

/// Memory whose writes somebody else tracks.
pub(super) trait Rival {
    /// Learns which pages were written, and has the next store to each of them noticed again.
    fn harvest(&mut self) -> Result<Duration, Error>;

    /// One store to every page, by all of its threads or vCPUs, each its part.
    fn rewrite(&mut self) -> Result<Duration, Error>;
}

/// Makes a rival of so many pages, and so many threads or vCPUs.
type Make = fn(u64, u64) -> Result<Box<dyn Rival>, Error>;

/// What a rival is called, and how it is made.
pub(super) type Candidate = (&'static str, Make);

/// What of a rival's work counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    /// The rewriting, which is a fault a page.
    Rewrite,
    /// Harvesting and rewriting.
    Round,
}

/// A rival's share of a comparison.
pub(super) struct Match<'a> {
    pub(super) label: &'a str,
    pub(super) pages: u64,
    pub(super) vcpus: u64,
    pub(super) counted: Counted,
    pub(super) times: usize,
}

impl Match<'_> {
    /// Takes times of the candidate in turns with ours, nanoseconds a page. Says how many times as
    /// dear it is, if this machine has it.
    pub(super) fn against(
        &self,
        (name, make): Candidate,
        ours: &mut dyn FnMut() -> Result<Duration, Failure>,
        result: &mut BenchResult,
    ) -> Result<Option<f64>, Failure> {
        let label = format!("{}: {name}", self.label);
        super::announce(&label);
        let mut rival = match make(self.pages, self.vcpus) {
            Ok(rival) => rival,
            Err(failure) => {
                result.absent(label, &failure);
                return Ok(None);
            }
        };
        let mut theirs = || {
            let harvest = rival.harvest()?;
            let rewrite = rival.rewrite()?;
            Ok(if self.counted == Counted::Round { harvest + rewrite } else { rewrite })
        };
        let times = in_turns(self.times, [ours, &mut theirs])?;
        let [ours, theirs] = times.map(|times| Sample::of(&times, self.pages));
        let ratio = theirs.median / ours.median;
        result.sample(format!("{label}, a page"), theirs);
        result.sample(format!("{label}, ours beside it, a page"), ours);
        result.ratio(format!("{label} against ours"), ratio);
        Ok(Some(ratio))
    }
}

/// What the candidate needs for a harvest of so many pages, all of them written.
pub(super) fn harvests(
    (name, make): Candidate,
    pages: u64,
    times: usize,
    result: &mut BenchResult,
) -> Result<(), Failure> {
    let label = format!("{name}: take and protect");
    super::announce(&label);
    let mut rival = match make(pages, 1) {
        Ok(rival) => rival,
        Err(failure) => {
            result.absent(label, &failure);
            return Ok(());
        }
    };
    let [times] = in_turns(
        times,
        [&mut || {
            rival.rewrite()?;
            rival.harvest()
        }],
    )?;
    result.sample(label, Sample::of(&times, 1));
    Ok(())
}

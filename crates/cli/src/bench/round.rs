//! One whole round: harvest and protect, then rewrite everything, or a part that is spread over all of
//! memory. Each way of tracking against none, on the same ports.

use super::result::{BenchResult, Target};
use super::rival::{Counted, Match, OF_A_GUEST, OF_A_PROCESS};
use super::sample::{Sample, in_turns, time};
use super::{Share, announce, page_at};
use crate::failure::Failure;
use crate::quantity::Size;
use crate::track::name;
use std::cell::RefCell;
use std::fmt;
use std::time::Duration;
use vellum_machine::Logging;
use vellum_machine::board::{Board, BoardConfig};
use vellum_machine::bus::{Bus, Width};
use vellum_machine::log::{BoardLog, Track};
use vellum_machine::port::Port;
use vellum_memory::{DirtySource, PageSet};
use vellum_pte::Ept;

/// How often each way is timed.
const PAIRS: usize = 7;

/// The same where a round takes seconds.
const FEW: usize = 3;

const WAYS: [Track; 6] =
    [Track::PerPage, Track::ProtectAll, Track::Manual, Track::DirtyBits, Track::Pml, Track::Ring];

pub(super) fn run(memory: Size) -> Result<BenchResult, Failure> {
    let mut result = BenchResult::new("round");
    result.parameter("memory", memory.bytes());
    let untracked = board(memory.bytes(), Logging::default())?;
    for track in WAYS {
        let tracked = board(memory.bytes(), Logging::of(track))?;
        for vcpus in [1, 2] {
            let setting = Setting { track, vcpus, share: Share::ALL };
            measure(&untracked, &tracked, setting, &mut result)?;
        }
        for share in Share::LESS {
            let setting = Setting { track, vcpus: 1, share };
            measure(&untracked, &tracked, setting, &mut result)?;
        }
    }
    drop(untracked);
    let tracked = board(memory.bytes(), Logging::of(Track::PerPage))?;
    (1..=2).try_for_each(|vcpus| beside_others(&tracked, vcpus, &mut result))?;
    Ok(result)
}

/// Page by page, which is how they all protect, against what else there is on Linux.
fn beside_others(board: &Board<Ept>, vcpus: u64, result: &mut BenchResult) -> Result<(), Failure> {
    let setting = Setting { track: Track::PerPage, vcpus, share: Share::ALL };
    let (label, pages) = (format!("{vcpus} vCPU"), board.layout().pages());
    let mut rig = Rig::new(board, setting)?;
    let mut log = BoardLog::new(board, setting.track);
    log.start()?;
    let beside = Match { label: &label, pages, vcpus, counted: Counted::Round, times: FEW };
    for candidate in OF_A_PROCESS.into_iter().chain(OF_A_GUEST) {
        let ours = &mut || Ok(rig.harvest(&mut log)? + rig.rewrite()?);
        beside.against(candidate, ours, result)?;
    }
    Ok(log.stop()?)
}

/// What is measured.
#[derive(Clone, Copy)]
struct Setting {
    track: Track,
    vcpus: u64,
    share: Share,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} vCPU, {}", name(self.track), self.vcpus, self.share.label)
    }
}

fn board(bytes: u64, logging: Logging) -> Result<Board<Ept>, Failure> {
    let config = BoardConfig::with_memory(bytes).ok_or(Failure::TooMuchMemory(bytes))?;
    Ok(Board::new(&BoardConfig { logging, ..config })?)
}

fn measure(
    untracked: &Board<Ept>,
    tracked: &Board<Ept>,
    setting: Setting,
    result: &mut BenchResult,
) -> Result<(), Failure> {
    announce(&setting.to_string());
    let mut plain = Rig::new(untracked, setting)?;
    let rig = RefCell::new(Rig::new(tracked, setting)?);
    let mut log = BoardLog::new(tracked, setting.track);
    log.start()?;
    let [none, ours] = in_turns(
        PAIRS,
        [&mut || plain.rewrite(), &mut || {
            let rig = &mut rig.borrow_mut();
            let harvest = rig.harvest(&mut log)?;
            Ok(harvest + rig.rewrite()?)
        }],
    )?;
    log.stop()?;
    let pages = setting.share.of(tracked.layout().pages());
    let (none, ours) = (Sample::of(&none, pages), Sample::of(&ours, pages));
    let (against, each) = (ours.median / none.median, ours.median);
    result.sample(format!("{setting}: untracked, a page"), none);
    result.sample(format!("{setting}, a page"), ours);
    result.ratio(format!("{setting}: against untracked"), against);
    if setting.share == Share::ALL {
        marks(result, setting, each, against);
    }
    Ok(())
}

fn marks(result: &mut BenchResult, setting: Setting, each: f64, against: f64) {
    match setting.track {
        Track::PerPage | Track::ProtectAll => {
            let bound = if setting.vcpus == 1 { 60.0 } else { 32.0 };
            result.mark(format!("{setting}: ns a page"), Target::AtMost(bound), each);
        }
        Track::DirtyBits | Track::Pml => {
            result.mark(format!("{setting}: against untracked"), Target::AtMost(1.3), against);
        }
        Track::Manual | Track::Ring => {}
    }
}

/// Ports that rewrite all of a board's memory, each its part.
struct Rig<'b> {
    ports: Vec<Port<'b, Ept>>,
    round: PageSet,
    /// How many are written to.
    pages: u64,
    /// From one to the next.
    apart: u64,
}

impl<'b> Rig<'b> {
    fn new(board: &'b Board<Ept>, setting: Setting) -> Result<Self, Failure> {
        let ports = (0..setting.vcpus).map(|_| board.port()).collect::<Result<_, _>>()?;
        let (round, all) = (PageSet::new(board.layout()), board.layout().pages());
        let pages = setting.share.of(all);
        let mut this = Self { ports, round, pages, apart: all / pages };
        this.rewrite()?;
        Ok(this)
    }

    /// How long it takes until every page that was written is known and its next store heard of.
    fn harvest(&mut self, log: &mut BoardLog<'_, Ept>) -> Result<Duration, Failure> {
        self.round.clear();
        let resting: Vec<_> = self.ports.iter_mut().map(Port::rest).collect();
        let (collected, elapsed) = time(|| {
            log.collect(&mut self.round)?;
            let range = log.layout().regions()[0].range;
            log.protect(0, range, &mut self.round)
        });
        drop(resting);
        collected?;
        Ok(elapsed)
    }

    /// One store to every page that is written to, as far from each other as may be.
    fn rewrite(&mut self) -> Result<Duration, Failure> {
        let (pages, apart, vcpus) = (self.pages, self.apart, self.ports.len() as u64);
        let parts = self.ports.iter_mut().zip(0..);
        let (stored, elapsed) = time(|| {
            std::thread::scope(|scope| {
                let storing: Vec<_> = parts
                    .map(|(port, part)| {
                        let range = pages * part / vcpus..pages * (part + 1) / vcpus;
                        scope.spawn(move || {
                            range.into_iter().try_for_each(|page| {
                                port.store(page_at(page * apart), Width::Double, page)
                            })
                        })
                    })
                    .collect();
                let mut storing = storing.into_iter();
                storing.try_for_each(|vcpu| {
                    vcpu.join().map_err(|_| Failure::Panicked)?.map_err(Failure::from)
                })
            })
        });
        stored?;
        Ok(elapsed)
    }
}

//! What a log must say, known without it: a copy of the guest's memory, compared with the memory.

use super::native::DATA;
use vellum_memory::{DirtySource, PAGE_SIZE, PageSet};
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

const PAGE: usize = 4096;
const _: () = assert!(PAGE as u64 == PAGE_SIZE);

/// A page whose change nobody was told of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Lost {
    pub(crate) region: usize,
    pub(crate) page: u64,
}

/// When a consumer reads the pages of a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    /// After they are protected, as the contract says.
    ProtectFirst,
    /// Before: a store between the two is lost. What the oracle must find.
    CopyFirst,
}

/// What was delivered of a guest's memory.
pub(crate) struct Copy {
    regions: Vec<Vec<u8>>,
}

impl Copy {
    /// All of it.
    pub(crate) fn of(memory: &[MmapRegion]) -> Self {
        Self { regions: memory.iter().map(read).collect() }
    }

    /// The pages of a region that are other now than when they were delivered.
    pub(crate) fn changed(&self, region: usize, memory: &[MmapRegion]) -> Vec<u64> {
        let memory = memory[region].as_volatile_slice();
        let mut now = [0; PAGE];
        let mut is_other = |(page, then): (usize, &[u8])| {
            memory.read_slice(&mut now, page * PAGE).expect("a page");
            (now != then).then_some(page as u64)
        };
        self.regions[region].chunks(PAGE).enumerate().filter_map(&mut is_other).collect()
    }

    /// Delivers the pages of `round`.
    pub(crate) fn deliver(&mut self, round: &PageSet, memory: &[MmapRegion]) {
        for (region, pages) in round.regions().iter().enumerate() {
            for page in pages.pages() {
                let at = usize::try_from(page * PAGE_SIZE).expect("a place");
                let bytes = &mut self.regions[region][at..at + PAGE];
                memory[region].as_volatile_slice().read_slice(bytes, at).expect("a page");
            }
        }
    }

    /// Whether all of memory was delivered as it is.
    pub(crate) fn is_whole(&self, memory: &[MmapRegion]) -> Result<(), Lost> {
        (0..memory.len()).try_for_each(|region| {
            let lost = self.changed(region, memory).first().copied();
            lost.map_or(Ok(()), |page| Err(Lost { region, page }))
        })
    }
}

fn read(memory: &MmapRegion) -> Vec<u8> {
    let mut bytes = vec![0; memory.size()];
    memory.as_volatile_slice().read_slice(&mut bytes, 0).expect("as many bytes");
    bytes
}

/// Whether `round` names all of `pages` of the data region.
pub(crate) fn named(round: &PageSet, pages: &[u64]) -> Result<(), Lost> {
    match pages.iter().find(|&&page| !round.regions()[DATA].contains(page)) {
        None => Ok(()),
        Some(&page) => Err(Lost { region: DATA, page }),
    }
}

/// Collects, and protects all regions.
pub(crate) fn take<S: DirtySource>(log: &mut S, round: &mut PageSet) -> Result<(), S::Error> {
    round.clear();
    log.collect(round)?;
    protect(log, round)
}

/// Protects all regions.
pub(crate) fn protect<S: DirtySource>(log: &mut S, round: &mut PageSet) -> Result<(), S::Error> {
    let regions = log.layout().regions().to_vec();
    let mut regions = regions.iter().enumerate();
    regions.try_for_each(|(index, region)| log.protect(index, region.range, round))
}

//! A machine without vCPUs: RAM, second-stage tables, and as many memory ports as one asks for.

use crate::denial::DenialJudge;
use crate::embedder::BoardEmbedder;
use crate::error::{BoardError, RamError};
use crate::frames::Frames;
use crate::logging::Logging;
use crate::port::{Hub, Port, PortError, ShootDown};
pub use crate::ram::{PageSize, Place};
use crate::ram::{RAM_BASE, Ram};
use crate::rings::Reaped;
use crate::walker::{AccessFlags, PageLogging, Regime, Walk, WalkedFormat};
use std::sync::Arc;
use vellum_memory::guest::GuestMemoryMmap;
use vellum_memory::{Layout, Region};
#[cfg(feature = "breaks")]
use vellum_mmu::Break;
pub use vellum_mmu::SubPageHardware;
use vellum_mmu::{AccessedBits, Config, DirtyBits, Invalidation, Mmu, SlotSpec};
use vellum_pte::{AddressSpace, Gfn, GfnRange, PAGE_SHIFT, PAGE_SIZE, SlotId};

/// What a board is to have.
#[derive(Clone, Debug)]
pub struct BoardConfig {
    /// Its memslots. Slots of different address spaces that name the same pages share the RAM.
    pub regions: Vec<Region>,
    /// How many address spaces: 1 or 2.
    pub spaces: u16,
    /// How many bits of guest address the tables translate. `None`: as many as the memslots need,
    /// and no fewer than is usual for the format.
    pub address_bits: Option<u32>,
    /// The largest pages of its RAM.
    pub pages: PageSize,
    /// Who sets A and D in the tables.
    pub flags: AccessFlags,
    /// How shoot-downs are made.
    pub shoot_down: ShootDown,
    /// Whether its processors have sub-page write permissions, where the format has tables for them.
    pub sub_pages: SubPageHardware,
    /// What logs writes, beside faults.
    pub logging: Logging,
    /// How many table frames it may have, if there is a limit.
    pub frame_limit: Option<u64>,
    /// A deliberate bug.
    #[cfg(feature = "breaks")]
    pub broken: Option<Break>,
}

impl BoardConfig {
    /// One memslot at [`RAM_BASE`], of `bytes` rounded up to pages, and otherwise as
    /// [`with_regions`](Self::with_regions). `None` where the end cannot be expressed.
    #[must_use]
    pub fn with_memory(bytes: u64) -> Option<Self> {
        let range = GfnRange::new(RAM_BASE, bytes.div_ceil(PAGE_SIZE))?;
        Some(Self::with_regions(vec![Region {
            slot: SlotId(0),
            space: AddressSpace::NORMAL,
            range,
        }]))
    }

    /// These memslots, in one address space more than the highest they name; small pages, A and D by
    /// hardware, sub-page permissions where the format has them, and the best shoot-down of this host.
    #[must_use]
    pub fn with_regions(regions: Vec<Region>) -> Self {
        let spaces = regions.iter().map(|region| region.space.0.saturating_add(1));
        let spaces = spaces.max().unwrap_or(1);
        Self {
            regions,
            spaces,
            address_bits: None,
            pages: PageSize::default(),
            flags: AccessFlags::default(),
            shoot_down: ShootDown::best(),
            sub_pages: SubPageHardware::Present,
            logging: Logging::default(),
            frame_limit: None,
            #[cfg(feature = "breaks")]
            broken: None,
        }
    }
}

/// RAM and the second-stage tables that translate to it, spelt as `F`.
pub struct Board<F: WalkedFormat> {
    mmu: Arc<Mmu<F, BoardEmbedder>>,
    layout: Layout,
    regime: Regime,
    dirty_bits: DirtyBits,
}

impl<F: WalkedFormat> Board<F> {
    /// Maps the RAM and creates the memslots.
    ///
    /// # Errors
    /// [`BoardError`]: what it is that this host or this configuration cannot give.
    pub fn new(config: &BoardConfig) -> Result<Self, BoardError> {
        let layout = Layout::new(config.regions.clone())?;
        let ram = Ram::new(&layout, config.pages)?;
        let hub = Hub::new(config.shoot_down).ok_or(BoardError::ShootDown(config.shoot_down))?;
        let pages_are_logged = config.logging.dirty_bits == DirtyBits::Logged;
        if pages_are_logged && F::Walker::PAGE_LOG == PageLogging::Absent {
            return Err(BoardError::NoPageLog(F::NAME));
        }
        let reaped = config.logging.ring.map(|_| Reaped::new(&layout, config.logging.again));
        let embedder = BoardEmbedder::new(ram, Frames::new(config.frame_limit), hub, reaped);
        let address_bits = config.address_bits.unwrap_or_else(|| address_bits::<F>(&layout));
        let mmu = Mmu::<F, _>::new(embedder, mmu_config(config, address_bits))?;
        let level = mmu.root_shape().level.get();
        let told = Regime { level, address_bits, flags: config.flags };
        let regime = F::Walker::accept(told);
        let regime = regime.ok_or(BoardError::Regime { format: F::NAME, regime: told })?;
        let dirty_bits = config.logging.dirty_bits;
        let board = Self { mmu: Arc::new(mmu), layout, regime, dirty_bits };
        board.layout.regions().iter().try_for_each(|region| board.create_slot(*region))?;
        Ok(board)
    }

    /// A memory port, for a vCPU on any thread.
    ///
    /// # Errors
    /// [`PortError::OutOfMemory`].
    pub fn port(&self) -> Result<Port<'_, F>, PortError> {
        Port::new(&self.mmu, self.regime, self.dirty_bits)
    }

    /// The bytes of RAM, behind the tables' back: what is written here is logged only if
    /// [`Mmu::mark_dirty`] is told.
    #[must_use]
    pub fn memory(&self) -> &GuestMemoryMmap {
        self.embedder().ram().memory()
    }

    /// The memslots that it was built with.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The library.
    #[must_use]
    pub fn mmu(&self) -> &Mmu<F, BoardEmbedder> {
        &self.mmu
    }

    /// The library, for whoever outlives this: a listener's registration that holds the VM.
    #[must_use]
    pub fn shared_mmu(&self) -> Arc<Mmu<F, BoardEmbedder>> {
        Arc::clone(&self.mmu)
    }

    /// Has `judge` decide about stores that maps of sub-pages forbid, from now on. With nobody, as at
    /// first, none happens.
    pub fn judge_denials(&self, judge: Option<Arc<dyn DenialJudge>>) {
        self.embedder().bench().seat(judge);
    }

    /// What it brings to the library.
    #[must_use]
    pub fn embedder(&self) -> &BoardEmbedder {
        self.mmu.embedder()
    }

    /// What the processors are told about the tables.
    #[must_use]
    pub fn regime(&self) -> Regime {
        self.regime
    }

    /// Moves the memory behind a page of the layout to another host frame or, if it is away, back,
    /// as hosts do that migrate pages. The guest notices nothing; while the page is away,
    /// [`memory`](Self::memory) shows something else there.
    ///
    /// # Errors
    /// [`RamError::NoRam`], or [`RamError::Refused`] where the host has no memory for the frame.
    pub fn move_page(&self, gfn: Gfn) -> Result<Place, RamError> {
        let range = GfnRange::new(gfn, 1).ok_or(RamError::NoRam(gfn))?;
        let changing = self.invalidate(range);
        let moved = self.embedder().ram().move_page(gfn);
        drop(changing);
        moved
    }

    /// Gives the memory behind a range of the layout back to the host, as a balloon does. The guest
    /// finds zeros there.
    pub fn discard(&self, range: GfnRange) {
        let changing = self.invalidate(range);
        self.embedder().ram().discard(range);
        drop(changing);
    }

    /// Keeps translations of a range away wherever the layout shows it.
    fn invalidate(&self, range: GfnRange) -> Vec<Invalidation<'_, F, BoardEmbedder>> {
        let shown = self.layout.regions().iter().filter(|region| region.range.overlaps(range));
        shown.map(|region| self.mmu.invalidate(region.space, range)).collect()
    }

    fn create_slot(&self, region: Region) -> Result<(), BoardError> {
        let Region { slot: id, space, range } = region;
        Ok(self.mmu.create_slot(SlotSpec::new(id, space, range))?)
    }
}

/// As few as translate the layout, but no fewer than usual. Where the format has no such tables, as
/// many as it has: the slots' creation says which is out of reach.
fn address_bits<F: WalkedFormat>(layout: &Layout) -> u32 {
    let ends = layout.regions().iter().map(|region| region.range.end().get());
    let last = ends.max().unwrap_or(0).saturating_sub(1);
    let needed = PAGE_SHIFT + (u64::BITS - last.leading_zeros());
    let enough = (F::ADDRESS_BITS..=needed).rev().find(|&bits| F::root(bits).is_some());
    enough.unwrap_or(F::ADDRESS_BITS)
}

fn mmu_config(config: &BoardConfig, address_bits: u32) -> Config {
    Config {
        spaces: config.spaces,
        address_bits: Some(address_bits),
        accessed: match config.flags {
            AccessFlags::ByHardware => AccessedBits::Set,
            AccessFlags::BySoftware => AccessedBits::NotSet,
        },
        sub_pages: config.sub_pages,
        ring: config.logging.ring,
        dirty_bits: config.logging.dirty_bits,
        #[cfg(feature = "breaks")]
        broken: config.broken,
        ..Config::default()
    }
}

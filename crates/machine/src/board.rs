//! A machine without vCPUs: RAM, second-stage tables, and as many memory ports as one asks for.

use crate::embedder::BoardEmbedder;
use crate::error::BoardError;
use crate::frames::Frames;
use crate::port::{Hub, Port, PortError, ShootDown};
use crate::ram::{RAM_BASE, Ram};
use crate::walker::WalkedFormat;
use vellum_memory::guest::GuestMemoryMmap;
use vellum_memory::{Layout, Region};
#[cfg(feature = "breaks")]
use vellum_mmu::Break;
use vellum_mmu::{Config, Mmu, SlotSpec};
use vellum_pte::{AddressSpace, GfnRange, PAGE_SIZE, SlotId};

/// What a board is to have.
#[derive(Clone, Debug)]
pub struct BoardConfig {
    /// Its memslots. Slots of different address spaces that name the same pages share the RAM.
    pub regions: Vec<Region>,
    /// How many address spaces: 1 or 2.
    pub spaces: u16,
    /// How shoot-downs are made.
    pub shoot_down: ShootDown,
    /// How many table frames it may have, if there is a limit.
    pub frame_limit: Option<u64>,
    /// A deliberate bug.
    #[cfg(feature = "breaks")]
    pub broken: Option<Break>,
}

impl BoardConfig {
    /// One memslot at [`RAM_BASE`], of `bytes` rounded up to pages, and the best shoot-down of this
    /// host. `None` where the end cannot be expressed.
    #[must_use]
    pub fn with_memory(bytes: u64) -> Option<Self> {
        let range = GfnRange::new(RAM_BASE, bytes.div_ceil(PAGE_SIZE))?;
        Some(Self::with_regions(vec![Region {
            slot: SlotId(0),
            space: AddressSpace::NORMAL,
            range,
        }]))
    }

    /// These memslots, in one address space more than the highest they name.
    #[must_use]
    pub fn with_regions(regions: Vec<Region>) -> Self {
        let spaces = regions.iter().map(|region| region.space.0.saturating_add(1));
        let spaces = spaces.max().unwrap_or(1);
        Self {
            regions,
            spaces,
            shoot_down: ShootDown::best(),
            frame_limit: None,
            #[cfg(feature = "breaks")]
            broken: None,
        }
    }
}

/// RAM and the second-stage tables that translate to it, spelt as `F`.
pub struct Board<F: WalkedFormat> {
    mmu: Mmu<F, BoardEmbedder>,
    layout: Layout,
}

impl<F: WalkedFormat> Board<F> {
    /// Maps the RAM and creates the memslots.
    ///
    /// # Errors
    /// [`BoardError`]: what it is that this host or this configuration cannot give.
    pub fn new(config: &BoardConfig) -> Result<Self, BoardError> {
        let layout = Layout::new(config.regions.clone())?;
        let ram = Ram::new(&layout)?;
        let hub = Hub::new(config.shoot_down).ok_or(BoardError::ShootDown(config.shoot_down))?;
        let embedder = BoardEmbedder::new(ram, Frames::new(config.frame_limit), hub);
        let mmu = Mmu::new(embedder, mmu_config(config)).map_err(|_| BoardError::OutOfMemory)?;
        let board = Self { mmu, layout };
        board.layout.regions().iter().try_for_each(|region| board.create_slot(*region))?;
        Ok(board)
    }

    /// A memory port, for a vCPU on any thread.
    ///
    /// # Errors
    /// [`PortError::OutOfMemory`].
    pub fn port(&self) -> Result<Port<'_, F>, PortError> {
        Port::new(&self.mmu)
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

    /// What it brings to the library.
    #[must_use]
    pub fn embedder(&self) -> &BoardEmbedder {
        self.mmu.embedder()
    }

    fn create_slot(&self, region: Region) -> Result<(), BoardError> {
        let Region { slot: id, space, range } = region;
        Ok(self.mmu.create_slot(SlotSpec::new(id, space, range))?)
    }
}

fn mmu_config(config: &BoardConfig) -> Config {
    Config {
        spaces: config.spaces,
        #[cfg(feature = "breaks")]
        broken: config.broken,
        ..Config::default()
    }
}

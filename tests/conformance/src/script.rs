//! A VM of the suite's hypervisor, a list of operations, and what the model says to it.

use crate::hypervisor::{Hypervisor, OnRetry, PageLogging, Plenty, Rule, Told, VirtualCpu};
use crate::model::RingShape;
use crate::scene::{Ground, Op, Scene};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use vellum_mmu::{AccessedBits, Break, Config, DirtyBits, Mmu, SubPageHardware};
use vellum_pte::{AddressSpace, Format};

/// Three CPUs in normal memory, one in system management mode.
pub const SPACES: [AddressSpace; 4] =
    [AddressSpace::NORMAL, AddressSpace::NORMAL, AddressSpace::NORMAL, AddressSpace::SMM];

/// What the VM is like.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Where it plays.
    pub ground: Ground,
    /// Which frames are behind its memory.
    pub rule: Rule,
    /// Whether its processors set A and D.
    pub accessed: AccessedBits,
    /// Whether they have sub-page permissions, where the format has.
    pub sub_pages: SubPageHardware,
    /// Whether the last one in normal memory was told of the tables of sub-pages.
    pub told: Told,
    /// Whether stores are logged by their D bits.
    pub dirty_bits: DirtyBits,
    /// Who hears of the pages that hardware has logged, where it logs by D bits.
    pub page_logging: PageLogging,
    /// Its vCPUs' dirty rings.
    pub rings: Option<RingShape>,
    /// Whether they flush an address that was just opened.
    pub local_flushes: LocalFlushes,
    /// The shoot-down that does nothing; from 1 on.
    pub forgotten: Option<u64>,
    /// A deliberate bug.
    pub broken: Option<Break>,
}

/// What becomes of the library's wish to flush one address on its own CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LocalFlushes {
    /// It is done.
    Made,
    /// It is forgotten.
    Forgotten,
}

impl Setup {
    /// Sound, on tables that translate so many bits, over memory of this kind.
    #[must_use]
    pub fn new(address_bits: u32, rule: Rule) -> Self {
        let ground = Ground { grain: rule.backings.grain(), ..Ground::of_bits(address_bits) };
        let (accessed, sub_pages) = (AccessedBits::Set, SubPageHardware::Present);
        let (local_flushes, forgotten, broken) = (LocalFlushes::Made, None, None);
        let (told, dirty_bits) = (Told::Yes, DirtyBits::Unused);
        let (page_logging, rings) = (PageLogging::Kept, None);
        Self {
            ground,
            rule,
            accessed,
            sub_pages,
            told,
            dirty_bits,
            page_logging,
            rings,
            local_flushes,
            forgotten,
            broken,
        }
    }

    /// Does `ops`. How many shoot-downs that took.
    ///
    /// # Panics
    /// The library and the model differ.
    pub fn run<F: Format>(&self, ops: &[Op]) -> u64 {
        let mmu = self.mmu::<F>();
        let mut scene = self.scene(&mmu);
        ops.iter().for_each(|op| scene.apply(op).expect("there is memory"));
        let shoot_downs = mmu.embedder().shoot_downs();
        scene.finish();
        shoot_downs
    }

    fn mmu<F: Format>(&self) -> Mmu<F, Hypervisor> {
        let hypervisor = Hypervisor::with_memory(Plenty)
            .backed_by(self.rule)
            .with_accessed_bits(self.accessed)
            .with_page_logs(self.page_logs())
            .with_local_flushes(self.local_flushes);
        self.forgotten.iter().for_each(|number| hypervisor.forget_shoot_down(*number));
        let config = Config {
            spaces: 2,
            address_bits: Some(self.ground.address_bits),
            accessed: self.accessed,
            sub_pages: self.sub_pages,
            dirty_bits: self.dirty_bits,
            ring: self.rings.map(RingShape::size),
            broken: self.broken,
            ..Config::default()
        };
        Mmu::new(hypervisor, config).expect("memory")
    }

    fn scene<'m, F: Format>(
        &self,
        mmu: &'m Mmu<F, Hypervisor>,
    ) -> Scene<'m, F, Hypervisor, VirtualCpu<'m, F, Plenty>> {
        let cpu = |(number, space)| {
            let cpu = VirtualCpu::new(mmu, number, space).expect("memory");
            let told = if number == 2 { self.told } else { Told::Yes };
            (space, cpu.that(OnRetry::GivesUp).told(told))
        };
        let cpus = (0..).zip(SPACES).map(cpu).collect();
        let mut scene = Scene::new(mmu, mmu.embedder(), cpus, self.ground);
        scene.logs_by(self.dirty_bits, self.rings);
        scene
    }

    fn page_logs(&self) -> PageLogging {
        match self.dirty_bits {
            DirtyBits::Unused | DirtyBits::Scanned => PageLogging::Absent,
            DirtyBits::Logged => self.page_logging,
        }
    }
}

thread_local! {
    /// Whether this thread's panics are wanted, and so not printed.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// What is objected to `run`, if anything is.
pub fn objection(run: impl FnOnce()) -> Option<String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !EXPECTED.get() {
                loud(panic);
            }
        }));
    });
    let before = EXPECTED.replace(true);
    let payload = catch_unwind(AssertUnwindSafe(run)).err();
    EXPECTED.set(before);
    payload.map(|payload| match payload.downcast::<String>() {
        Ok(said) => *said,
        Err(payload) => payload.downcast_ref::<&str>().copied().unwrap_or("?").to_owned(),
    })
}

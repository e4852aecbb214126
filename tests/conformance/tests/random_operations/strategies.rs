//! Which hardware, and which operations.

use crate::restrictions::{of_restrictions, store_bytes, walk};
use proptest::prelude::*;
use vellum_conformance::hypervisor::{Backings, Change, Rule, Told};
use vellum_conformance::model::RingShape;
use vellum_conformance::scene::{Fixed, Ground, Op};
use vellum_machine::PageSize;
use vellum_machine::port::ShootDown;
use vellum_machine::walker::AccessFlags;
use vellum_mmu::{AccessedBits, Again, DirtyBits, Initial, LogMode, SlotAccess, SubPageHardware};
use vellum_pte::{ClosedTable, Ept, Format, Npt};

/// Where a script plays, and what happens.
pub(crate) type Script = (Hardware, Vec<Op>);

/// What a VM is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hardware {
    pub(crate) ground: Ground,
    pub(crate) rule: Rule,
    pub(crate) accessed: AccessedBits,
    pub(crate) shoot_down: ShootDown,
    pub(crate) sub_pages: SubPageHardware,
    /// Of the suite's hypervisor.
    pub(crate) told: Told,
    pub(crate) dirty_bits: DirtyBits,
    pub(crate) rings: Option<RingShape>,
}

impl Hardware {
    /// What a board has that is most like it.
    pub(crate) fn page_size(&self) -> PageSize {
        match self.rule.backings {
            Backings::Small => PageSize::Small,
            Backings::Large | Backings::Mixed => PageSize::Huge2M,
            Backings::Huge => PageSize::Huge1G,
        }
    }

    pub(crate) fn flags(&self) -> AccessFlags {
        match self.accessed {
            AccessedBits::Set => AccessFlags::ByHardware,
            AccessedBits::NotSet => AccessFlags::BySoftware,
        }
    }
}

/// Whose operations they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum On {
    /// Memory ports: they store as their guests' instructions do, and their hosts have memory.
    Ports,
    /// The suite's hypervisor.
    Hypervisor,
}

impl On {
    /// Every change that its host memory can make.
    fn changes(self) -> BoxedStrategy<Change> {
        match self {
            Self::Ports => {
                let changes = vec![Change::Nothing, Change::Migrate, Change::Discard];
                prop::sample::select(changes).boxed()
            }
            Self::Hypervisor => changes(),
        }
    }
}

/// For memory ports.
pub(crate) fn of_ports<F: Format>() -> BoxedStrategy<Script> {
    script::<F>(On::Ports)
}

/// For the suite's hypervisor.
pub(crate) fn of_a_hypervisor<F: Format>() -> BoxedStrategy<Script> {
    script::<F>(On::Hypervisor)
}

fn script<F: Format>(on: On) -> BoxedStrategy<Script> {
    let with_ops = move |hardware: Hardware| (Just(hardware), ops(hardware.ground, on));
    hardware::<F>().prop_flat_map(with_ops).boxed()
}

/// Pages of an entry at the level of 2 MiB, 1 GiB and 512 GiB.
const LARGE: u64 = 1 << 9;
const HUGE: u64 = 1 << 18;
const FAR: u64 = 1 << 27;
/// How far before a boundary a ground begins; the other offsets that operations have in common are
/// around the next smaller ones.
const BEFORE: u64 = 987;

/// Tables of each kind of root, and ground where root tables, or tables below the root, meet.
fn hardware<F: Format>() -> impl Strategy<Value = Hardware> {
    let concatenates = matches!(F::CLOSED_TABLE, ClosedTable::Parked);
    let bits = if concatenates { vec![32, 36, 40, 48] } else { vec![48] };
    // AMD's processors always set A and D.
    let always = F::NAME == Npt::NAME;
    let accessed = if always { vec![] } else { vec![AccessedBits::NotSet] };
    let accessed = [vec![AccessedBits::Set; 3], accessed].concat();
    let shoot_down = prop::sample::select(vec![ShootDown::best(), ShootDown::Waiting]);
    let accessed = prop::sample::select(accessed);
    let rarely = || prop::sample::select(vec![false, false, true]);
    let rare = (rarely(), rarely(), dirty_bits::<F>(), any::<bool>());
    (prop::sample::select(bits), any::<bool>(), rule(), accessed, shoot_down, rare).prop_map(
        |(address_bits, across, rule, accessed, shoot_down, rare)| {
            let (without, untold, dirty_bits, with_rings) = rare;
            let sub_pages =
                if without { SubPageHardware::Absent } else { SubPageHardware::Present };
            let told = if untold { Told::NotYet } else { Told::Yes };
            let sets = accessed == AccessedBits::Set;
            let dirty_bits = if sets { dirty_bits } else { DirtyBits::Unused };
            let rings = with_rings.then(|| RingShape::least(dirty_bits));
            let grain = rule.backings.grain();
            let boundary = if address_bits > 39 { FAR } else { 3 * HUGE };
            let ground = Ground { grain, ..Ground::of_bits(address_bits) };
            let ground = match (rule.backings, across) {
                (Backings::Huge, _) => {
                    Ground { base: 2 * HUGE - BEFORE, span: HUGE + BEFORE + 2 * LARGE, ..ground }
                }
                (_, true) => Ground { base: boundary - BEFORE, ..ground },
                _ => ground,
            };
            Hardware { ground, rule, accessed, shoot_down, sub_pages, told, dirty_bits, rings }
        },
    )
}

/// Intel's processors write down whose D bits they set.
fn dirty_bits<F: Format>() -> impl Strategy<Value = DirtyBits> {
    let logged = if F::NAME == Ept::NAME { vec![DirtyBits::Logged; 2] } else { vec![] };
    let others = [vec![DirtyBits::Unused; 4], vec![DirtyBits::Scanned; 2]].concat();
    prop::sample::select([others, logged].concat())
}

/// Memory that is aligned as the guest sees it, to some size of leaf or to none.
fn rule() -> impl Strategy<Value = Rule> {
    let backings = prop_oneof![
        4 => Just(Backings::Small),
        4 => Just(Backings::Large),
        4 => Just(Backings::Mixed),
        1 => Just(Backings::Huge),
    ];
    let skew = prop_oneof![4 => Just(HUGE), 1 => Just(LARGE), 1 => Just(7)];
    (backings, skew).prop_map(|(backings, skew)| Rule { backings, skew })
}

/// Pages that operations have in common, so that they meet; and any others.
pub(crate) fn page(Ground { span, .. }: Ground) -> impl Strategy<Value = u64> {
    let common = [0, 1, 26, 27, 63, 474, 475, 476, BEFORE, BEFORE + HUGE - 1, BEFORE + HUGE];
    let common: Vec<u64> = common.into_iter().filter(|page| *page < span).collect();
    prop_oneof![4 => prop::sample::select(common), 1 => 0..span]
}

/// How many pages.
fn pages(Ground { span, .. }: Ground) -> impl Strategy<Value = u64> {
    prop_oneof![1 => Just(1), 5 => 1..70_u64, 2 => Just(LARGE), 3 => 1..span]
}

/// A first page, and how many.
pub(crate) fn stretch(ground: Ground) -> impl Strategy<Value = (u64, u64)> {
    let within = move |(first, pages): (u64, u64)| (first, pages.min(ground.span - first));
    (page(ground), pages(ground)).prop_map(within)
}

fn access() -> impl Strategy<Value = SlotAccess> {
    prop_oneof![5 => Just(SlotAccess::ReadWrite), 1 => Just(SlotAccess::ReadOnly)]
}

fn log() -> impl Strategy<Value = LogMode> {
    prop_oneof![2 => Just(LogMode::Off), 2 => Just(LogMode::On), 1 => Just(LogMode::AllSet)]
}

fn initial() -> impl Strategy<Value = Initial> {
    prop_oneof![3 => Just(Initial::Clean), 1 => Just(Initial::AllSet)]
}

fn id() -> impl Strategy<Value = u16> {
    0..5_u16
}

pub(crate) fn cpu() -> impl Strategy<Value = usize> {
    0..4_usize
}

pub(crate) fn space() -> impl Strategy<Value = u16> {
    0..2_u16
}

fn create(ground: Ground) -> impl Strategy<Value = Op> {
    let space = prop_oneof![5 => Just(0), 3 => Just(1), 1 => Just(2)];
    let place = prop_oneof![1 => page(ground).prop_map(|page| (page, 0)), 10 => stretch(ground)];
    (id(), space, place, access(), log()).prop_map(|(id, space, (first, pages), access, log)| {
        Op::Create { id, space, first, pages, access, log }
    })
}

fn change(ground: Ground) -> impl Strategy<Value = Op> {
    let fixed = [Fixed::Size, Fixed::Space, Fixed::Access, Fixed::Memory];
    let fixed =
        prop_oneof![9 => Just(None), 1 => prop::sample::select(fixed.to_vec()).prop_map(Some)];
    (id(), prop::option::of(page(ground)), log(), fixed)
        .prop_map(|(id, first, log, fixed)| Op::Change { id, first, log, fixed })
}

fn store(ground: Ground) -> impl Strategy<Value = Op> {
    (cpu(), page(ground), 0..3_u64, any::<u64>()).prop_map(|(cpu, page, word, value)| Op::Store {
        cpu,
        page,
        word,
        value,
    })
}

fn load(ground: Ground) -> impl Strategy<Value = Op> {
    (cpu(), page(ground), 0..3_u64).prop_map(|(cpu, page, word)| Op::Load { cpu, page, word })
}

/// Mostly near the end of a page or of a sub-page.
pub(crate) fn byte(ground: Ground) -> impl Strategy<Value = u64> {
    let offset = prop_oneof![
        3 => 4080..4096_u64,
        3 => (1..32_u64, 0..24_u64).prop_map(|(sub_page, before)| 128 * sub_page - before),
        1 => 0..4096_u64,
    ];
    (page(ground), offset).prop_map(|(page, offset)| page * 4096 + offset)
}

fn device_write(ground: Ground) -> impl Strategy<Value = Op> {
    let bytes = prop::collection::vec(any::<u8>(), 0..40);
    let at = byte(ground);
    (space(), at, bytes).prop_map(|(space, at, bytes)| Op::DeviceWrite { space, at, bytes })
}

fn mask() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(u64::MAX), 1 => Just(0), 3 => any::<u64>()]
}

/// Mostly ranges that may be cleared.
fn clear() -> impl Strategy<Value = Op> {
    let first =
        prop_oneof![4 => Just(0), 8 => (0..28_u64).prop_map(|word| word * 64), 1 => 0..200_u64];
    let whole = (1..20_u64).prop_map(|words| Some(words * 64));
    let pages = prop_oneof![8 => Just(None), 8 => whole, 1 => (0..200_u64).prop_map(Some)];
    let masks = prop_oneof![9 => prop::collection::vec(mask(), 30), 1 => prop::collection::vec(mask(), 0..3)];
    (id(), first, pages, masks).prop_map(|(id, first, pages, mask)| Op::Clear {
        id,
        first,
        pages,
        mask,
    })
}

fn accesses(ground: Ground, on: On) -> BoxedStrategy<Op> {
    let walks = if on == On::Hypervisor { walk(ground) } else { store(ground).boxed() };
    prop_oneof![
        6 => store(ground),
        5 => store_bytes(ground, on),
        1 => walks,
        4 => load(ground),
    ]
    .boxed()
}

fn of_slots(ground: Ground) -> BoxedStrategy<Op> {
    let frames = prop_oneof![Just(u64::MAX), 0..5_u64];
    prop_oneof![
        4 => create(ground),
        4 => change(ground),
        1 => id().prop_map(Op::Delete),
        2 => (id(), frames).prop_map(|(id, frames)| Op::SplitHuge { id, frames }),
        2 => id().prop_map(Op::RecoverHuge),
    ]
    .boxed()
}

fn of_logs(ground: Ground) -> BoxedStrategy<Op> {
    prop_oneof![
        3 => (id(), initial()).prop_map(|(id, initial)| Op::Start(id, initial)),
        2 => id().prop_map(Op::Stop),
        4 => id().prop_map(Op::TakePages),
        2 => Just(Op::TakeAll),
        2 => id().prop_map(Op::Read),
        5 => clear(),
        1 => (space(), stretch(ground))
            .prop_map(|(space, (first, pages))| Op::Forget { space, first, pages }),
        2 => Just(Op::ProtectAll),
        1 => Just(Op::ProtectAllOff),
        1 => (id(), 0..30_u64, any::<u64>()).prop_map(|(id, word, mask)| Op::Owe { id, word, mask }),
        1 => (0..3_u16, page(ground)).prop_map(|(space, page)| Op::Mark { space, page }),
    ]
    .boxed()
}

fn of_memory(ground: Ground) -> BoxedStrategy<Op> {
    prop_oneof![
        2 => device_write(ground),
        2 => (id(), stretch(ground)).prop_map(|(id, (first, pages))| Op::Age { id, first, pages }),
    ]
    .boxed()
}

fn again() -> impl Strategy<Value = Again> {
    prop_oneof![2 => Just(Again::Pages), 1 => Just(Again::Everything)]
}

/// What consumers of rings do, and a CPU that fills one.
fn of_rings(ground: Ground, on: On) -> BoxedStrategy<Op> {
    let pages = prop_oneof![2 => 1..70_u64, 1 => 100..300_u64];
    let flood = (cpu(), page(ground), pages);
    let on_both = prop_oneof![
        3 => Just(Op::HarvestRings),
        3 => again().prop_map(Op::ResetRings),
        4 => again().prop_map(Op::EmptyRings),
        2 => flood.prop_map(|(cpu, first, pages)| Op::Flood { cpu, first, pages }),
    ];
    match on {
        On::Ports => on_both.boxed(),
        On::Hypervisor => prop_oneof![
            12 => on_both,
            1 => cpu().prop_map(Op::Leave),
            1 => forge(ground),
        ]
        .boxed(),
    }
}

/// Entries of a page-modification log that are some page's, a part of one's, a page table's or nobody's.
fn forge(ground: Ground) -> impl Strategy<Value = Op> {
    const TABLES: u64 = 1 << 35;
    let base = ground.base * 4096;
    let address = prop_oneof![
        4 => byte(ground).prop_map(move |at| base + at),
        1 => (0..64_u64).prop_map(|table| (TABLES + 16 * table) * 4096),
        1 => any::<u64>(),
    ];
    (cpu(), address).prop_map(|(cpu, address)| Op::Forge { cpu, address })
}

fn simple(ground: Ground, on: On) -> BoxedStrategy<Op> {
    prop_oneof![
        9 => of_rings(ground, on),
        24 => accesses(ground, on),
        9 => of_slots(ground),
        16 => of_logs(ground),
        4 => of_memory(ground),
        12 => of_restrictions(ground),
    ]
    .boxed()
}

/// Memory that changes while something else happens.
fn invalidate(
    ground: Ground,
    change: BoxedStrategy<Change>,
    op: BoxedStrategy<Op>,
) -> BoxedStrategy<Op> {
    let few = move |(first, pages): (u64, u64)| (first, pages.min(2 * LARGE));
    (stretch(ground).prop_map(few), change, prop::collection::vec(op, 0..6))
        .prop_map(|((first, pages), change, meanwhile)| Op::Invalidate {
            first,
            pages,
            change,
            meanwhile,
        })
        .boxed()
}

/// Every change that host memory can make.
fn changes() -> BoxedStrategy<Change> {
    prop_oneof![
        1 => Just(Change::Nothing),
        6 => Just(Change::Migrate),
        2 => Just(Change::Discard),
        1 => Just(Change::Withhold),
        1 => Just(Change::Seal),
    ]
    .boxed()
}

/// Most scenes begin with a slot in each space, so that there is something to store to, and with
/// everything turned on.
fn ops(ground: Ground, on: On) -> BoxedStrategy<Vec<Op>> {
    let change = on.changes();
    let pages = ground.span - 699;
    let whole = move |id, space, log| Op::Create {
        id,
        space,
        first: 0,
        pages,
        access: SlotAccess::ReadWrite,
        log,
    };
    let nested = invalidate(ground, change.clone(), simple(ground, on));
    let inner = prop_oneof![9 => simple(ground, on), 1 => nested];
    let op = prop_oneof![12 => simple(ground, on), 1 => invalidate(ground, change, inner.boxed())];
    (any::<u8>(), log(), prop::collection::vec(op, 1..90))
        .prop_map(move |(with, log, ops)| {
            let slots = [whole(0, 0, log), whole(1, 1, log)].into_iter().filter(|_| with % 4 != 0);
            let on = [Op::EnableTracking, Op::Activate].into_iter().filter(|_| with / 4 % 4 != 0);
            slots.chain(on).chain(ops).collect()
        })
        .boxed()
}

//! Random operations: the library answers and logs exactly as the model does. A failure shrinks to
//! the few operations that make it, and `PROPTEST_RNG_SEED` repeats a run.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use vellum_conformance::hypervisor::{Hypervisor, Plenty, VirtualCpu};
use vellum_conformance::scene::{BASE, Op, SPAN, Scene};
use vellum_machine::board::{Board, BoardConfig};
use vellum_machine::port::{Port, ShootDown};
use vellum_machine::walker::WalkedFormat;
use vellum_memory::Region;
use vellum_memory::guest::{PAGE_BYTES, read_page};
use vellum_mmu::{Break, Config, LogMode, Mmu, SlotAccess};
use vellum_pte::{AddressSpace, Ept, Format, Gfn, GfnRange, Npt, SlotId};

/// Three CPUs in normal memory, one in system management mode.
const SPACES: [AddressSpace; 4] =
    [AddressSpace::NORMAL, AddressSpace::NORMAL, AddressSpace::NORMAL, AddressSpace::SMM];

/// Pages that operations have in common, so that they meet; and any others.
fn page() -> impl Strategy<Value = u64> {
    prop_oneof![4 => prop::sample::select(vec![0, 1, 26, 27, 63, 474, 475, 476, 987]), 1 => 0..SPAN]
}

fn access() -> impl Strategy<Value = SlotAccess> {
    prop_oneof![5 => Just(SlotAccess::ReadWrite), 1 => Just(SlotAccess::ReadOnly)]
}

fn log() -> impl Strategy<Value = LogMode> {
    prop_oneof![Just(LogMode::Off), Just(LogMode::On)]
}

fn id() -> impl Strategy<Value = u16> {
    0..5_u16
}

fn create() -> impl Strategy<Value = Op> {
    let space = prop_oneof![5 => Just(0), 3 => Just(1), 1 => Just(2)];
    let pages = prop_oneof![1 => Just(0), 5 => 1..40_u64, 5 => 1..SPAN];
    (id(), space, page(), pages, access(), log()).prop_map(
        |(id, space, first, pages, access, log)| Op::Create {
            id,
            space,
            first,
            pages: pages.min(SPAN - first),
            access,
            log,
        },
    )
}

fn store() -> impl Strategy<Value = Op> {
    (0..4_usize, page(), 0..3_u64, any::<u64>()).prop_map(|(cpu, page, word, value)| Op::Store {
        cpu,
        page,
        word,
        value,
    })
}

fn device_write() -> impl Strategy<Value = Op> {
    let at = (page(), 4080..4096_u64).prop_map(|(page, offset)| page * 4096 + offset);
    let bytes = prop::collection::vec(any::<u8>(), 0..40);
    (0..2_u16, at, bytes).prop_map(|(space, at, bytes)| Op::DeviceWrite { space, at, bytes })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => create(),
        1 => id().prop_map(Op::Delete),
        2 => id().prop_map(Op::Start),
        1 => id().prop_map(Op::Stop),
        20 => store(),
        6 => (0..4_usize, page(), 0..3_u64).prop_map(|(cpu, page, word)| Op::Load { cpu, page, word }),
        4 => id().prop_map(Op::TakePages),
        2 => Just(Op::TakeAll),
        2 => Just(Op::ProtectAll),
        1 => Just(Op::ProtectAllOff),
        1 => (id(), 0..30_u64, any::<u64>()).prop_map(|(id, word, mask)| Op::Owe { id, word, mask }),
        2 => device_write(),
        1 => (0..3_u16, page()).prop_map(|(space, page)| Op::Mark { space, page }),
    ]
}

/// Most scenes begin with a slot in each space, so that there is something to store to.
fn ops() -> impl Strategy<Value = Vec<Op>> {
    let whole = |id, space| {
        let (access, log) = (SlotAccess::ReadWrite, LogMode::On);
        Op::Create { id, space, first: 0, pages: 1001, access, log }
    };
    (any::<u8>(), prop::collection::vec(op(), 1..80)).prop_map(move |(with, ops)| {
        let begin = if with % 4 == 0 { vec![] } else { vec![whole(0, 0), whole(1, 1)] };
        begin.into_iter().chain(ops).collect()
    })
}

/// RAM for all slots that a scene can have, in both spaces, and no slot.
fn board<F: WalkedFormat>(shoot_down: ShootDown, broken: Option<Break>) -> Board<F> {
    let range = GfnRange::new(Gfn::new(BASE), SPAN + 64).expect("in range");
    let region = |slot, space| Region { slot: SlotId(slot), space, range };
    let regions = vec![region(0, AddressSpace::NORMAL), region(1, AddressSpace::SMM)];
    let config = BoardConfig { shoot_down, broken, ..BoardConfig::with_regions(regions) };
    let board = Board::new(&config).expect("the host has memory");
    [0, 1].into_iter().for_each(|id| board.mmu().delete_slot(SlotId(id)).expect("it is there"));
    board
}

fn port<F: WalkedFormat>(board: &Board<F>, space: AddressSpace) -> (AddressSpace, Port<'_, F>) {
    let mut port = board.port().expect("memory");
    port.enter_space(space).expect("it has two");
    (space, port)
}

fn on_ports<F: WalkedFormat>(shoot_down: ShootDown, broken: Option<Break>, ops: &[Op]) {
    let board = board::<F>(shoot_down, broken);
    let cpus = SPACES.map(|space| port(&board, space)).into();
    let mut scene = Scene::new(board.mmu(), cpus);
    ops.iter().for_each(|op| scene.apply(op).expect("there is memory"));
    scene.finish(|gfn| {
        let mut page = [0; PAGE_BYTES];
        read_page(board.memory(), gfn, &mut page).expect("RAM");
        page
    });
}

fn on_the_hypervisor<F: Format>(ops: &[Op]) {
    let config = Config { spaces: 2, ..Config::default() };
    let mmu = Mmu::<F, _>::new(Hypervisor::with_memory(Plenty), config).expect("memory");
    let cpu = |(number, space)| (space, VirtualCpu::new(&mmu, number, space).expect("memory"));
    let cpus = (0..).zip(SPACES).map(cpu).collect();
    let mut scene = Scene::new(&mmu, cpus);
    ops.iter().for_each(|op| scene.apply(op).expect("there is memory"));
    scene.finish(|gfn| mmu.embedder().page(gfn));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn ports_over_ept_do_as_the_model(ops in ops()) {
        on_ports::<Ept>(ShootDown::best(), None, &ops);
    }

    #[test]
    fn ports_over_npt_do_as_the_model(ops in ops()) {
        on_ports::<Npt>(ShootDown::Waiting, None, &ops);
    }

    #[test]
    fn a_hypervisor_of_our_own_does_as_the_model(ops in ops()) {
        on_the_hypervisor::<Ept>(&ops);
        on_the_hypervisor::<Npt>(&ops);
    }
}

/// Whether random operations part from the model when the library has a bug.
fn is_found(broken: Break) -> bool {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    (0..200).any(|_| {
        let ops = ops().new_tree(&mut runner).expect("a scene").current();
        std::panic::catch_unwind(|| on_ports::<Ept>(ShootDown::best(), Some(broken), &ops)).is_err()
    })
}

#[test]
fn random_operations_find_a_planted_bug() {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let found = [Break::SkipFlush, Break::DropBit].map(is_found);
    std::panic::set_hook(quiet);
    assert_eq!(found, [true, true]);
}

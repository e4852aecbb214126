//! Random operations: the library answers and logs exactly as the model does. A failure shrinks to
//! the few operations that make it, and `PROPTEST_RNG_SEED` repeats a run.

mod restrictions;
mod strategies;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use strategies::{Hardware, Script, of_a_hypervisor, of_ports};
use vellum_conformance::hypervisor::{Backings, Rule};
use vellum_conformance::model::RingShape;
use vellum_conformance::scene::{BoardMemory, Ground, Op, Scene};
use vellum_conformance::script::{SPACES, Setup, objection};
use vellum_machine::Logging;
use vellum_machine::board::{Board, BoardConfig};
use vellum_machine::port::Port;
use vellum_machine::walker::WalkedFormat;
use vellum_memory::Region;
use vellum_mmu::{Break, DirtyBits, Initial, LogMode, SlotAccess};
use vellum_pte::{AddressSpace, Ept, Format, Gfn, GfnRange, Npt, SlotId, Stage2};

/// RAM for all slots that a scene can have, in both spaces, and no slot.
fn board<F: WalkedFormat>(hardware: Hardware, broken: Option<Break>) -> Board<F> {
    let Ground { base, span, address_bits, .. } = hardware.ground;
    let range = GfnRange::new(Gfn::new(base), span + 64).expect("in range");
    let region = |slot, space| Region { slot: SlotId(slot), space, range };
    let regions = vec![region(0, AddressSpace::NORMAL), region(1, AddressSpace::SMM)];
    let config = BoardConfig {
        address_bits: Some(address_bits),
        pages: hardware.page_size(),
        sub_pages: hardware.sub_pages,
        logging: Logging {
            dirty_bits: hardware.dirty_bits,
            ring: hardware.rings.map(RingShape::size),
            ..Logging::default()
        },
        flags: hardware.flags(),
        shoot_down: hardware.shoot_down,
        broken,
        ..BoardConfig::with_regions(regions)
    };
    let board = Board::new(&config).expect("the host has memory");
    [0, 1].into_iter().for_each(|id| board.mmu().delete_slot(SlotId(id)).expect("it is there"));
    board
}

fn port<F: WalkedFormat>(board: &Board<F>, space: AddressSpace) -> (AddressSpace, Port<'_, F>) {
    let mut port = board.port().expect("memory");
    port.enter_space(space).expect("it has two");
    (space, port)
}

fn on_ports<F: WalkedFormat>((hardware, ops): &Script, broken: Option<Break>) {
    let board = board::<F>(*hardware, broken);
    let memory = BoardMemory::new(&board);
    let cpus = SPACES.map(|space| port(&board, space)).into();
    let mut scene = Scene::new(board.mmu(), &memory, cpus, hardware.ground);
    scene.logs_by(hardware.dirty_bits, hardware.rings);
    ops.iter().for_each(|op| scene.apply(op).expect("there is memory"));
    scene.finish();
}

fn on_the_hypervisor<F: Format>((hardware, ops): &Script, broken: Option<Break>) {
    let Hardware { ground, rule, accessed, sub_pages, told, dirty_bits, rings, .. } = *hardware;
    let sound = Setup::new(ground.address_bits, rule);
    let setup = Setup { ground, accessed, sub_pages, told, dirty_bits, rings, broken, ..sound };
    setup.run::<F>(ops);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 600,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn ports_over_ept_do_as_the_model(script in of_ports::<Ept>()) {
        prop_assert_eq!(objection(|| on_ports::<Ept>(&script, None)), None);
    }

    #[test]
    fn ports_over_npt_do_as_the_model(script in of_ports::<Npt>()) {
        prop_assert_eq!(objection(|| on_ports::<Npt>(&script, None)), None);
    }

    #[test]
    fn ports_over_stage_2_do_as_the_model(script in of_ports::<Stage2>()) {
        prop_assert_eq!(objection(|| on_ports::<Stage2>(&script, None)), None);
    }

    #[test]
    fn a_hypervisor_with_ept_does_as_the_model(script in of_a_hypervisor::<Ept>()) {
        prop_assert_eq!(objection(|| on_the_hypervisor::<Ept>(&script, None)), None);
    }

    #[test]
    fn a_hypervisor_with_npt_does_as_the_model(script in of_a_hypervisor::<Npt>()) {
        prop_assert_eq!(objection(|| on_the_hypervisor::<Npt>(&script, None)), None);
    }

    #[test]
    fn a_hypervisor_with_stage_2_does_as_the_model(script in of_a_hypervisor::<Stage2>()) {
        prop_assert_eq!(objection(|| on_the_hypervisor::<Stage2>(&script, None)), None);
    }
}

/// What they found once.
#[test]
fn a_log_that_is_started_again_keeps_what_d_bits_say() {
    let whole = Op::Create {
        id: 0,
        space: 0,
        first: 0,
        pages: 1001,
        access: SlotAccess::ReadWrite,
        log: LogMode::On,
    };
    let store = Op::Store { cpu: 0, page: 1, word: 0, value: 1 };
    let start = Op::Start(0, Initial::Clean);
    let ops = [whole, store.clone(), Op::TakeAll, store, start, Op::Read(0)];
    let rule = Rule { backings: Backings::Small, skew: 0 };
    let setup = |bits| Setup { dirty_bits: DirtyBits::Scanned, ..Setup::new(bits, rule) };
    setup(48).run::<Ept>(&ops);
    setup(48).run::<Npt>(&ops);
    setup(40).run::<Stage2>(&ops);
}

/// How many scripts random operations get to find a bug.
const TRIES: usize = 10_000;

/// Whether random operations part from the model when the library has a bug.
fn is_found(
    scripts: &impl Strategy<Value = Script>,
    run: fn(&Script, Option<Break>),
    bug: Break,
) -> bool {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    (0..TRIES).any(|_| {
        let script = scripts.new_tree(&mut runner).expect("a script").current();
        objection(|| run(&script, Some(bug))).is_some()
    })
}

/// Bugs that one thread alone can see.
#[test]
fn random_operations_find_a_planted_bug() {
    const EVERYWHERE: [Break; 6] = [
        Break::SkipFlush,
        Break::DropBit,
        Break::SplitLifts,
        Break::ClearMore,
        Break::OneRoot,
        Break::IgnoreVeto,
    ];
    let on_x86 = EVERYWHERE.map(|bug| is_found(&of_ports::<Ept>(), on_ports::<Ept>, bug));
    let ours =
        EVERYWHERE.map(|bug| is_found(&of_a_hypervisor::<Npt>(), on_the_hypervisor::<Npt>, bug));
    let by_tables = [Break::StaleVector, Break::OpenSubPageRoot, Break::OpenOverLeaves]
        .map(|bug| is_found(&of_a_hypervisor::<Ept>(), on_the_hypervisor::<Ept>, bug));
    let on_arm = [Break::ReadLifts, Break::SkipBreak, Break::OneRoot].map(|bug| {
        is_found(&of_ports::<Stage2>(), on_ports::<Stage2>, bug)
            && is_found(&of_a_hypervisor::<Stage2>(), on_the_hypervisor::<Stage2>, bug)
    });
    let in_rings = [Break::OverrunRing, Break::ResetUnharvested].map(|bug| {
        is_found(&of_a_hypervisor::<Npt>(), on_the_hypervisor::<Npt>, bug)
            && is_found(&of_a_hypervisor::<Stage2>(), on_the_hypervisor::<Stage2>, bug)
    });
    let on_ports = is_found(&of_ports::<Ept>(), on_ports::<Ept>, Break::ResetUnharvested);
    assert_eq!((in_rings, on_ports), ([true; 2], true));
    assert_eq!((on_x86, ours), ([true; 6], [true; 6]));
    assert_eq!((by_tables, on_arm), ([true; 3], [true; 3]));
}

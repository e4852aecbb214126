//! Stores of any size, and pages that are tracked and restricted.

use crate::strategies::{On, byte, cpu, page, space, stretch};
use proptest::prelude::*;
use vellum_conformance::model::Stays;
use vellum_conformance::scene::{Ground, Op};

/// Of as many bytes as an instruction may have.
pub(crate) fn store_bytes(ground: Ground, on: On) -> BoxedStrategy<Op> {
    let length = match on {
        On::Ports => prop::sample::select(vec![1, 2, 4, 8_usize]).boxed(),
        On::Hypervisor => (1..=16_usize).boxed(),
    };
    (cpu(), byte(ground), length, any::<u8>())
        .prop_map(|(cpu, at, length, first)| {
            let bytes = (first..=u8::MAX).chain(0..=u8::MAX).take(length).collect();
            Op::StoreBytes { cpu, at, bytes }
        })
        .boxed()
}

pub(crate) fn walk(ground: Ground) -> BoxedStrategy<Op> {
    (cpu(), page(ground), 0..3_u64, any::<u64>())
        .prop_map(|(cpu, page, word, value)| Op::Walk { cpu, page, word, value })
        .boxed()
}

/// Mostly with something on each side of a boundary that stores straddle.
fn map() -> impl Strategy<Value = u32> {
    prop_oneof![
        3 => Just(u32::MAX),
        6 => Just(0x0000_ffff),
        1 => Just(0),
        2 => Just(0xffff_fffe),
        2 => Just(0x7fff_ffff),
        2 => Just(1),
        2 => Just(0x5555_5555),
        4 => any::<u32>(),
    ]
}

fn flags() -> impl Strategy<Value = u32> {
    prop_oneof![30 => Just(0), 1 => Just(1)]
}

/// As many as a call may have, and sometimes more; over slots and holes.
fn set_maps(ground: Ground) -> BoxedStrategy<Op> {
    let many = prop_oneof![
        6 => prop::collection::vec(map(), 0..5),
        1 => (map(), 500..520_usize).prop_map(|(map, pages)| vec![map; pages]),
        3 => (map(), map()).prop_map(|(one, other)| [one, other].repeat(40)),
    ];
    (space(), page(ground), flags(), many)
        .prop_map(|(space, first, flags, maps)| Op::SetMaps { space, first, flags, maps })
        .boxed()
}

fn get_maps(ground: Ground) -> BoxedStrategy<Op> {
    (space(), stretch(ground), flags())
        .prop_map(|(space, (first, pages), flags)| {
            let pages = usize::try_from(pages.min(520)).expect("few");
            Op::GetMaps { space, first, pages, flags }
        })
        .boxed()
}

fn stays() -> impl Strategy<Value = Stays> {
    prop_oneof![3 => Just(Stays::On), 1 => Just(Stays::ForOneCall)]
}

pub(crate) fn of_restrictions(ground: Ground) -> BoxedStrategy<Op> {
    let at = move || (space(), page(ground));
    prop_oneof![
        6 => at().prop_map(|(space, page)| Op::Track { space, page }),
        4 => at().prop_map(|(space, page)| Op::Untrack { space, page }),
        3 => (0..3_u16, stays()).prop_map(|(name, stays)| Op::Listen(name, stays)),
        1 => (0..3_u16).prop_map(Op::Unlisten),
        8 => set_maps(ground),
        2 => get_maps(ground),
        1 => Just(Op::Activate),
        1 => Just(Op::EnableTracking),
        1 => Just(Op::AllowNested),
    ]
    .boxed()
}

//! The kernel's hypervisor, by each of its ways and over each kind of memory: the oracles, the scenes,
//! and controls.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use vellum_conformance::backend::Plan;
use vellum_conformance::breaking::{Broken, Wrong};
use vellum_conformance::contract::{self, HostWrites, a_devices_write_is_in_the_log_as_declared};
use vellum_conformance::native_guest::Native;
use vellum_conformance::oracle::{running, stopped};
use vellum_conformance::trial::{Search, passes, passes_with};
use vellum_kvm::{Break, Capabilities, RingSize, Way, prepare};
use vellum_presence::{Need, given};
use vellum_vmm::Backing;

/// The backend, where this machine has it.
fn native(way: Way, backing: Backing) -> Option<Native> {
    let kvm = given(Need::Kvm, vellum_kvm::open())?;
    let vm = given(Need::Kvm, kvm.create_vm())?;
    let way_is_there = Capabilities::of(&vm).supports(way);
    given(Need::KvmWay(way.name().to_owned()), way_is_there)?;
    let native = Native::new(way, backing);
    match backing {
        Backing::Small | Backing::Transparent => {}
        Backing::Huge => {
            given(Need::HugePages(native.memory()), native.try_guest(&Plan::new(1, 1)))?;
        }
    }
    Some(native)
}

fn by_each_way(backing: Backing) -> impl Iterator<Item = Native> {
    Way::ALL.into_iter().filter_map(move |way| native(way, backing))
}

#[test]
fn native_guests_pass_the_stopped_oracle_by_every_way() {
    by_each_way(Backing::Small).for_each(|backend| passes(stopped, &backend));
}

#[test]
fn native_guests_pass_the_running_oracle_by_every_way() {
    by_each_way(Backing::Small).for_each(|backend| passes(running, &backend));
}

#[test]
fn native_guests_over_transparent_huge_pages_pass_both_oracles() {
    for backend in by_each_way(Backing::Transparent) {
        passes_with(2, stopped, &backend);
        passes_with(2, running, &backend);
    }
}

#[test]
fn native_guests_over_a_pool_of_huge_pages_pass_both_oracles_and_keep_the_contract() {
    for backend in by_each_way(Backing::Huge) {
        passes_with(2, stopped, &backend);
        passes_with(2, running, &backend);
        contract::all(&backend);
    }
}

#[test]
fn native_guests_whose_rings_are_often_full_pass_the_stopped_oracle() {
    let small = RingSize::new(1024).expect("a size");
    if let Some(backend) = native(Way::Ring, Backing::Small) {
        passes(stopped, &backend.with_rings(small));
    }
}

#[test]
fn the_kernels_log_keeps_the_contract_by_every_way() {
    by_each_way(Backing::Small).for_each(|backend| contract::all(&backend));
}

#[test]
fn the_kernels_log_keeps_the_contract_over_transparent_huge_pages() {
    native(Way::Manual, Backing::Transparent).iter().for_each(contract::all);
}

#[test]
fn each_scene_finds_its_break_in_the_kernels_log() {
    for backend in by_each_way(Backing::Small) {
        contract::each_scene_finds_its_break(&backend);
        contract::a_union_without_the_devices_log_is_found(&backend);
    }
}

#[test]
fn what_a_device_writes_is_in_no_log_of_the_kernels() {
    for backend in by_each_way(Backing::Small) {
        a_devices_write_is_in_the_log_as_declared(&backend, HostWrites::Unseen);
    }
}

/// What can be wrong with a way: one whose `collect` has protected already has nothing to leave out.
fn wrongs(way: Way) -> &'static [Wrong] {
    match way {
        Way::ClearingGet => &[Wrong::DropsAPage, Wrong::ProtectsLate],
        Way::Manual | Way::ManualAllSet | Way::Ring | Way::RingWithBitmap => {
            &[Wrong::DropsAPage, Wrong::ProtectsLate, Wrong::ProtectsNothing]
        }
    }
}

#[test]
fn both_oracles_find_what_is_made_wrong() {
    for sound in by_each_way(Backing::Small) {
        for wrong in wrongs(sound.way) {
            let backend = Broken { sound, wrong: *wrong };
            Search::USUAL.finds(stopped, &backend);
            Search::USUAL.finds(running, &backend);
        }
    }
}

/// The bugs of the shipped path that a way can have.
fn bugs(way: Way) -> &'static [Break] {
    match way {
        Way::ClearingGet => &[Break::DropBit],
        Way::Manual | Way::ManualAllSet => &[Break::DropBit, Break::LateClear],
        Way::Ring | Way::RingWithBitmap => &[Break::DropBit, Break::ResetEarly],
    }
}

#[test]
fn both_oracles_find_the_bugs_that_are_planted_in_the_log() {
    for sound in by_each_way(Backing::Small) {
        for bug in bugs(sound.way) {
            let backend = sound.broken(*bug);
            Search::USUAL.finds(stopped, &backend);
            Search::USUAL.finds(running, &backend);
        }
    }
}

/// It loses nothing, and names pages that nobody has written again.
#[test]
fn the_stopped_oracle_finds_a_log_that_is_never_cleared() {
    if let Some(sound) = native(Way::Manual, Backing::Small) {
        Search::USUAL.finds(stopped, &sound.broken(Break::LostClear));
    }
}

#[test]
fn a_way_that_the_kernel_lacks_is_refused_by_name_and_another_is_offered() {
    let Some(kvm) = given(Need::Kvm, vellum_kvm::open()) else { return };
    for way in Way::ALL {
        let vm = kvm.create_vm().expect("KVM makes a VM");
        let supported = Capabilities::of(&vm).supports(way);
        match (prepare(&vm, way, RingSize::default()), supported) {
            (Ok(prepared), Ok(())) => assert_eq!(prepared.way(), way),
            (Err(refused), Err(missing)) => {
                let said = refused.to_string();
                for word in [way.name(), &missing.capability.to_string(), missing.best.name()] {
                    assert!(said.contains(word), "{said}");
                }
            }
            (prepared, supported) => panic!("{way}: {prepared:?}, {supported:?}"),
        }
    }
}

//! The software machine, held to the scenes that every backend is held to.

use vellum_conformance::contract::{self, HostWrites, a_devices_write_is_in_the_log_as_declared};
use vellum_conformance::port_guest::Ports;
use vellum_conformance::rv64_guest::Harts;
use vellum_machine::PageSize;
use vellum_machine::log::Track;
use vellum_pte::{Ept, Npt, Stage2};

const TRACKS: [Track; 5] =
    [Track::PerPage, Track::ProtectAll, Track::Manual, Track::DirtyBits, Track::Ring];

#[test]
fn ports_keep_the_contract_by_every_way_of_tracking() {
    for track in TRACKS {
        contract::all(&Ports::<Ept>::new(track));
    }
    contract::all(&Ports::<Ept>::new(Track::Pml));
}

#[test]
fn ports_keep_the_contract_in_every_format() {
    contract::all(&Ports::<Ept>::new(Track::Manual).over(PageSize::Huge1G));
    contract::all(&Ports::<Npt>::new(Track::PerPage).over(PageSize::Huge2M));
    contract::all(&Ports::<Stage2>::new(Track::ProtectAll));
}

#[test]
fn rv64_guests_keep_the_contract() {
    contract::all(&Harts::<Ept>::new(Track::Manual));
    contract::all(&Harts::<Stage2>::new(Track::ProtectAll));
}

#[test]
fn what_a_device_writes_behind_the_tables_is_in_no_log_of_the_mmus() {
    for track in TRACKS {
        let ports = Ports::<Ept>::new(track);
        a_devices_write_is_in_the_log_as_declared(&ports, HostWrites::Unseen);
    }
}

#[test]
fn each_scene_finds_its_break_on_the_software_machine() {
    for track in [Track::PerPage, Track::Ring] {
        let ports = Ports::<Ept>::new(track);
        contract::each_scene_finds_its_break(&ports);
        contract::a_union_without_the_devices_log_is_found(&ports);
    }
}

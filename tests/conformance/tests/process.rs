//! Memory of this process, tracked by the kernel's userfaultfd: the oracles, the scenes, and controls.
#![cfg(target_os = "linux")]

use vellum_conformance::breaking::{Broken, Wrong};
use vellum_conformance::contract::{self, HostWrites, a_devices_write_is_in_the_log_as_declared};
use vellum_conformance::oracle::{running, stopped};
use vellum_conformance::thread_guest::{Kind, Threads};
use vellum_conformance::trial::{Search, passes};
use vellum_presence::{Need, given};
use vellum_process::{Capabilities, Facility};

const KINDS: [Kind; 2] = [Kind::Private, Kind::Shared];

fn threads() -> Option<[Threads; 2]> {
    let capabilities = Capabilities::of_this_process();
    given(Need::PagemapScan, capabilities.supports(Facility::Log))?;
    Some(KINDS.map(|kind| Threads { kind }))
}

#[test]
fn threads_pass_the_stopped_oracle() {
    threads().iter().flatten().for_each(|backend| passes(stopped, backend));
}

#[test]
fn threads_pass_the_running_oracle() {
    threads().iter().flatten().for_each(|backend| passes(running, backend));
}

#[test]
fn the_processes_log_keeps_the_contract() {
    threads().into_iter().flatten().for_each(|backend| contract::all(&backend));
}

#[test]
fn each_scene_finds_its_break_in_the_processes_log() {
    threads().iter().flatten().for_each(contract::each_scene_finds_its_break);
}

/// What is written through another mapping of the memory, as vhost-user does, is in no log of this one.
#[test]
fn a_union_over_shared_memory_needs_the_devices_log() {
    let shared = threads().into_iter().flatten().filter(|backend| backend.kind == Kind::Shared);
    shared.for_each(|backend| contract::a_union_without_the_devices_log_is_found(&backend));
}

#[test]
fn what_anybody_writes_here_is_in_the_processes_log() {
    for backend in threads().into_iter().flatten() {
        a_devices_write_is_in_the_log_as_declared(&backend, HostWrites::Seen);
    }
}

#[test]
fn both_oracles_find_what_is_made_wrong() {
    for sound in threads().into_iter().flatten() {
        for wrong in [Wrong::DropsAPage, Wrong::ProtectsLate, Wrong::NamesTheFirst] {
            let backend = Broken { sound, wrong };
            Search::USUAL.finds(stopped, &backend);
            Search::USUAL.finds(running, &backend);
        }
    }
}

//! The guest that checks itself finds what is wrong, and nothing else.

use crate::{presence, until_ended, until_more, until_passes, word};
use std::sync::{Arc, Mutex};
use vellum_memory::guest::{Bytes, GuestAddress};
use vellum_vmm::{
    Config, End, Guest, Machine, Plan, RAM_BASE, RESERVED_PAGES, Status, passes_to_recheck_all,
};

const MEMORY: u64 = 16 << 20;

/// What the guest has said.
type Console = Arc<Mutex<Vec<u8>>>;

/// A running machine, its console, and how many further passes check all of it again.
fn running(vcpus: usize) -> Option<(Machine, Console, u64)> {
    let config = Config::new(MEMORY, vcpus);
    let (machine, _log) = presence::machine(&config, &Guest::Selfcheck.program())?;
    let console = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&console);
    machine.set_console(Box::new(move |bytes: &[u8]| {
        sink.lock().expect("nobody panics").extend_from_slice(bytes);
    }));
    machine.resume();
    until_passes(&machine, 2);
    Some((machine, console, passes_to_recheck_all(MEMORY, vcpus as u64)))
}

#[test]
fn it_holds_with_any_number_of_vcpus() {
    for vcpus in [1, 2, 3, 7] {
        let Some((machine, console, all)) = running(vcpus) else { return };
        let sweep = 2 * all + 10;
        until_more(&machine, sweep);
        machine.pause();
        assert!(matches!(machine.status(), Status::Paused));
        assert_eq!(console.lock().expect("nobody panics").len(), 0);
    }
}

#[test]
fn its_pages_are_those_of_the_plan_and_the_last_quarter_stays_zero() {
    let Some((machine, _, _)) = running(3) else { return };
    machine.pause();
    let plan = Plan::new(MEMORY, 3);
    let worked_on = 3 * (plan.hot + plan.cold);
    let pages = MEMORY >> 12;
    for page in RESERVED_PAGES..pages {
        let mine = page - RESERVED_PAGES < worked_on;
        assert_eq!(!crate::is_zero(&machine, page), mine, "page {page}");
    }
    assert!(RESERVED_PAGES + worked_on <= pages - pages / 4);
    let counts = machine.passes();
    for (vcpu, passes) in (0..).zip(counts) {
        let hot = word(&machine, RESERVED_PAGES + vcpu, 0);
        assert!((passes + 1..=passes + 2).contains(&hot), "{hot}, {passes} passes");
        let diary = word(&machine, 191 + vcpu, 0);
        assert!((passes + 1..=passes + 2).contains(&diary), "{diary}, {passes} passes");
    }
}

/// Changes a word of a page while the guest stands; it finds it when it has checked everything, and says
/// where.
fn finds(page_of: impl Fn(Plan) -> u64, change: impl Fn(u64) -> (u64, u64)) {
    let Some((machine, console, all)) = running(2) else { return };
    machine.pause();
    let page = page_of(Plan::new(MEMORY, 2));
    let (at, value) = change(word(&machine, RESERVED_PAGES + page, 0));
    let address = RAM_BASE.gpa().get() + ((RESERVED_PAGES + page) << 12) + at * 8;
    machine.memory().write_obj(value, GuestAddress(address)).expect("in memory");
    let owner = usize::try_from(page % 2).expect("one of two");
    let before = machine.passes()[owner];
    machine.resume();
    let status = until_ended(&machine);
    assert!(matches!(status, Status::ShutDown(End::Failed)), "{status:?}");
    let after = machine.passes()[owner];
    assert!(after <= before + all, "{after}: within {all} passes of {before}");
    let said = String::from_utf8(console.lock().expect("nobody panics").clone()).expect("ASCII");
    let named = format!("selfcheck: vCPU 0x{:016x} page 0x{page:016x} expected 0x", page % 2);
    assert!(said.starts_with(&named), "{said:?} is not {named:?}");
    assert!(said.ends_with('\n') && said.contains(" found 0x"), "{said:?}");
    if at == 0 {
        assert!(said.ends_with(&format!(" found 0x{value:016x}\n")), "{said:?}");
    }
}

#[test]
fn it_finds_a_hot_page_of_the_pass_before() {
    finds(|_| 4, |count| (0, count - 1));
}

#[test]
fn it_finds_a_cold_page_of_a_pass_before() {
    finds(|plan| 2 * (plan.hot + plan.cold / 2) + 1, |count| (0, count - 1));
}

#[test]
fn it_finds_a_changed_hash() {
    // The count's second word is at its remainder by 511, plus one.
    finds(|plan| 2 * (plan.hot + 3), |count| (count % 511 + 1, 12_345));
}

#[test]
fn it_does_not_look_at_other_words() {
    let Some((machine, _, all)) = running(2) else { return };
    machine.pause();
    // Any word but the one that the count's hash is in now; where it will be later is written before.
    let at = (word(&machine, RESERVED_PAGES, 0) + 300) % 511 + 1;
    let address = RAM_BASE.gpa().get() + (RESERVED_PAGES << 12) + at * 8;
    machine.memory().write_obj(99_u64, GuestAddress(address)).expect("in memory");
    machine.resume();
    until_more(&machine, all);
}

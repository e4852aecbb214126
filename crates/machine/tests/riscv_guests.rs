//! The built-in guests on a plain machine: each behaves as documented, and the one that checks
//! itself finds what it must find.
#![allow(clippy::cast_possible_truncation, reason = "values are small, and hosts have 64 bits")]

mod flat;

use flat::Machine;
use vellum_machine::elf::Image;
use vellum_machine::guests::selfcheck::{Plan, passes_to_recheck_all};
use vellum_machine::guests::{Builtin, RESERVED_PAGES};
use vellum_machine::sbi::ShutdownReason;

const MIB: u64 = 1 << 20;
const AREA: u64 = 0x8000_0000 + (RESERVED_PAGES << 12);

fn machine(guest: Builtin, bytes: u64, harts: usize, word: u64) -> Machine {
    let elf = guest.elf().expect("the program assembles");
    Machine::new(&Image::parse(&elf).expect("an ELF file"), bytes, harts, word)
}

fn selfcheck(bytes: u64, harts: usize) -> Machine {
    machine(Builtin::Selfcheck, bytes, harts, 0)
}

/// The place of the second word of a page that carries `count`.
fn second_word(count: u64) -> u64 {
    (count % 511 + 1) * 8
}

#[test]
fn every_guest_has_a_name_that_leads_back_to_it() {
    for guest in Builtin::ALL {
        assert_eq!(guest.to_string().parse(), Ok(guest));
    }
    let error = "seqential".parse::<Builtin>().expect_err("there is none");
    assert_eq!(error.to_string(), "no built-in guest is called \"seqential\"");
}

#[test]
fn the_self_checking_guest_finds_nothing_wrong_in_sound_memory() {
    for (memory, harts) in [(8, 1), (8, 3), (8, 64), (16, 4), (64, 2)] {
        let mut machine = selfcheck(memory * MIB, harts);
        machine.run_to_pass(passes_to_recheck_all(memory * MIB, harts as u64) + 3);
        assert_eq!(machine.board.shutdown, None, "{}", machine.console());
    }
}

#[test]
fn the_guest_divides_memory_as_the_plan_says() {
    for (memory, harts) in [(8 * MIB, 1), (8 * MIB, 64), (24 * MIB + 4096 * 3, 5)] {
        let mut machine = selfcheck(memory, harts);
        machine.run_to_pass(3);
        let plan = Plan::new(memory, harts as u64);
        let last = AREA + ((plan.hot + plan.cold) * harts as u64) * 4096;
        let count = |page: u64| machine.memory.word(page);
        assert!(plan.cold > 0 && plan.hot > 0);
        assert!((AREA..last).step_by(4096).all(|page| count(page) > 0));
        assert!((last..0x8000_0000 + memory).step_by(8).all(|word| count(word) == 0));
        let hot = AREA + plan.hot * harts as u64 * 4096;
        assert!((AREA..hot).step_by(4096).all(|page| count(page) >= 3));
    }
}

#[test]
fn a_quarter_of_memory_stays_zero_and_the_hot_pages_are_at_most_32_mib() {
    for memory in [8, 64, 256, 1024, 65536].map(|mib| mib * MIB) {
        for harts in [1, 4, 64] {
            let plan = Plan::new(memory, harts);
            let written = (RESERVED_PAGES + harts * (plan.hot + plan.cold)) * 4096;
            assert!(written <= memory - memory / 4, "{memory} {harts}");
            assert!(harts * plan.hot * 4096 <= 32 * MIB);
            assert!(plan.hot * 4096 <= 8 * MIB);
        }
    }
}

/// Runs on for as many passes as must find anything, and says what the guest said.
fn verdict(machine: &mut Machine) -> Option<String> {
    let harts = machine.board.passes.len() as u64;
    let passes = machine.board.passes.iter().max().expect("there is a hart");
    let further = passes_to_recheck_all(machine.board.parameters[1], harts);
    machine.run_to_pass(passes + further);
    let reason = machine.board.shutdown?;
    assert_eq!(reason, ShutdownReason::SystemFailure);
    Some(machine.console())
}

#[test]
fn a_page_put_back_to_an_older_version_is_found_wherever_it_is() {
    let memory = 8 * MIB;
    let plan = Plan::new(memory, 2);
    for page in [0, 1, 2 * plan.hot - 1, 2 * plan.hot, 2 * (plan.hot + plan.cold) - 1] {
        let mut machine = selfcheck(memory, 2);
        machine.run_to_pass(5);
        let at = AREA + page * 4096;
        let old = machine.memory.page(at);
        while machine.memory.page(at) == old {
            let next = machine.board.passes[0] + 1;
            machine.run_to_pass(next);
        }
        machine.memory.set_page(at, &old);
        let said = verdict(&mut machine).expect("the guest finds it");
        assert!(said.contains(&format!("hart 0x{:016x} page 0x{page:016x}", page % 2)), "{said}");
    }
}

#[test]
fn a_zeroed_page_is_found() {
    let mut machine = selfcheck(8 * MIB, 4);
    machine.run_to_pass(5);
    machine.memory.set_page(AREA + 900 * 4096, &[0; 512]);
    let said = verdict(&mut machine).expect("the guest finds it");
    assert_eq!(
        said,
        "selfcheck: hart 0x0000000000000000 page 0x0000000000000384 \
         expected 0x0000000000000001 found 0x0000000000000000\n"
    );
}

#[test]
fn a_flipped_bit_in_either_word_is_found() {
    for page in [3, 1000] {
        for bit in [0, 17, 63] {
            for second in 0..2 {
                let mut machine = selfcheck(8 * MIB, 4);
                machine.run_to_pass(5);
                let at = AREA + page * 4096;
                let at = at + second * second_word(machine.memory.word(at));
                machine.memory.set_word(at, machine.memory.word(at) ^ 1 << bit);
                assert!(verdict(&mut machine).is_some(), "page {page} bit {bit}");
            }
        }
    }
}

#[test]
fn a_page_in_another_pages_place_is_found() {
    let mut machine = selfcheck(8 * MIB, 1);
    machine.run_to_pass(5);
    let other = machine.memory.page(AREA + 1100 * 4096);
    machine.memory.set_page(AREA + 1101 * 4096, &other);
    assert!(verdict(&mut machine).is_some());
}

#[test]
fn a_saved_and_restored_guest_goes_on_without_a_mismatch() {
    let mut machine = selfcheck(8 * MIB, 3);
    for _ in 0..300 {
        machine.turn(777);
        for hart in machine.harts.iter_mut().flatten() {
            let bytes = hart.save().to_bytes();
            let state = vellum_machine::vcpu::HartState::from_bytes(&bytes).expect("just saved");
            *hart = vellum_machine::vcpu::Hart::restore(&state);
        }
    }
    assert_eq!(verdict(&mut machine), None);
}

/// How often each page of the working set was written, by the bytes that changed.
fn written_pages(machine: &Machine, pages: u64) -> Vec<bool> {
    let page = |page| machine.memory.page(AREA + page * 4096);
    (0..pages).map(|number| page(number).iter().any(|word| *word != 0)).collect()
}

#[test]
fn the_sequential_guest_writes_every_page_in_order() {
    for harts in [1, 3] {
        let mut machine = machine(Builtin::Sequential, 8 * MIB, harts, MIB);
        machine.run_to_pass(2);
        assert!(written_pages(&machine, 256).into_iter().all(|written| written));
        assert!(!written_pages(&machine, 257)[256]);
        let numbers = |pass: u64| (0..256).map(move |page| AREA + page * 4096 + pass * 8);
        assert!(numbers(2).all(|at| machine.memory.word(at) == 2));
    }
}

#[test]
fn the_random_guest_writes_most_pages_and_none_outside() {
    let mut machine = machine(Builtin::Random, 8 * MIB, 2, MIB);
    machine.run_to_pass(4);
    let written = written_pages(&machine, 300);
    assert!(written[..256].iter().filter(|written| **written).count() > 240);
    assert!(written[256..].iter().all(|written| !written));
}

#[test]
fn without_a_word_the_working_set_is_half_of_memory() {
    let mut machine = machine(Builtin::Sequential, 8 * MIB, 1, 0);
    machine.run_to_pass(1);
    let written = written_pages(&machine, 1100);
    assert!(written[..1024].iter().all(|written| *written));
    assert!(written[1024..].iter().all(|written| !written));
}

#[test]
fn a_working_set_beyond_memory_is_cut() {
    let mut machine = machine(Builtin::Sequential, 8 * MIB, 1, u64::MAX);
    machine.run_to_pass(2);
    assert!(written_pages(&machine, 2048 - RESERVED_PAGES).into_iter().all(|written| written));
}

#[test]
fn the_zipf_guest_writes_few_pages_often_and_none_outside() {
    let mut machine = machine(Builtin::Zipf, 8 * MIB, 2, MIB);
    machine.run_to_pass(1);
    let few = written_pages(&machine, 300);
    let count = |pages: &[bool]| pages.iter().filter(|written| **written).count();
    // 512 even draws would reach 87 in 100 of 256 pages; these reach about 60.
    assert!((100..190).contains(&count(&few)), "{}", count(&few));
    machine.run_to_pass(60);
    let all = written_pages(&machine, 300);
    assert_eq!(count(&all[..256]), 255, "ranks 1 to 255");
    assert_eq!(count(&all[256..]), 0);
}

#[test]
fn the_idle_guest_waits_and_writes_one_page_a_hart() {
    let mut machine = machine(Builtin::Idle, 8 * MIB, 3, 0);
    machine.run_to_pass(5);
    assert!(machine.board.waits >= 15);
    assert_eq!(written_pages(&machine, 5), [true, true, true, false, false]);
}

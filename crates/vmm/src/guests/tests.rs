use super::{Guest, Plan, UnknownGuest, passes_to_recheck_all};
use crate::program::MOST;
use crate::{MINIMUM_MEMORY, MOST_MEMORY, MOST_VCPUS, RESERVED_PAGES};
use std::collections::BTreeSet;

#[test]
fn guests_have_names() {
    for guest in Guest::ALL {
        assert_eq!(guest.name().parse(), Ok(guest));
        assert_eq!(guest.to_string(), guest.name());
    }
    let unknown = UnknownGuest { name: "nothing".to_owned() };
    assert_eq!("nothing".parse::<Guest>(), Err(unknown));
}

#[test]
fn every_guest_has_a_program_of_its_own_that_fits() {
    let programs = Guest::ALL.map(|guest| guest.program().code().to_vec());
    assert!(programs.iter().all(|code| !code.is_empty() && code.len() <= MOST));
    assert_eq!(BTreeSet::from(programs).len(), Guest::ALL.len());
}

#[test]
fn a_plan_leaves_the_reserved_pages_and_the_last_quarter_alone() {
    for memory in [MINIMUM_MEMORY, 16 << 20, 100 << 20, 3 << 30, MOST_MEMORY] {
        for vcpus in 1..=MOST_VCPUS as u64 {
            let plan = Plan::new(memory, vcpus);
            let pages = memory >> 12;
            let used = vcpus * (plan.hot + plan.cold);
            assert!(plan.hot > 0 && plan.cold > 0, "{memory}, {vcpus}: {plan:?}");
            assert!(RESERVED_PAGES + used <= pages - pages / 4, "{memory}, {vcpus}: {plan:?}");
            let checked = plan.stretch * (passes_to_recheck_all(memory, vcpus) - 1);
            assert!(checked >= plan.cold, "{memory}, {vcpus}: {plan:?}");
        }
    }
}

#[test]
fn guests_are_called_and_plan_as_those_of_the_software_machine() {
    use vellum_machine::guests::{Builtin, selfcheck};
    assert_eq!(Guest::ALL.map(Guest::name), Builtin::ALL.map(Builtin::name));
    for memory in [MINIMUM_MEMORY, 100 << 20, 3 << 30, MOST_MEMORY] {
        for vcpus in [1, 2, 3, 7, 64] {
            let (ours, theirs) = (Plan::new(memory, vcpus), selfcheck::Plan::new(memory, vcpus));
            let theirs = Plan { hot: theirs.hot, cold: theirs.cold, stretch: theirs.stretch };
            assert_eq!(ours, theirs, "{memory}, {vcpus}");
        }
    }
}

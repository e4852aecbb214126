//! What is missing is said by name.

use crate::{PAGES, RING, apart, small};
use kvm_ioctls::VmFd;
use vellum_kvm::{
    Capabilities, Capability, Missing, PrepareError, RingSize, RingSizeError, Way, open, prepare,
};
use vellum_presence::{Need, given};

fn vm() -> Option<VmFd> {
    given(Need::Kvm, open()).map(|kvm| kvm.create_vm().expect("KVM makes a VM"))
}

fn not_run(missing: &Missing) {
    vellum_presence::not_run(Need::KvmWay(missing.way.name().to_owned()), missing);
}

#[test]
fn what_the_kernel_says_it_has_can_be_prepared_and_what_it_lacks_is_named() {
    for way in Way::ALL {
        let Some(vm) = vm() else { return };
        let supported = Capabilities::of(&vm).supports(way);
        match (prepare(&vm, way, small()), supported) {
            (Ok(prepared), Ok(())) => assert_eq!(prepared.way(), way),
            (Err(PrepareError::Missing(missing)), Err(said)) => {
                assert_eq!(missing, said);
                assert!(way.needs().contains(&missing.capability));
                not_run(&missing);
            }
            (prepared, said) => panic!("{way}: {prepared:?}, {said:?}"),
        }
    }
}

#[test]
fn the_best_way_is_one_that_the_kernel_has() {
    let Some(vm) = vm() else { return };
    let capabilities = Capabilities::of(&vm);
    assert_eq!(capabilities.supports(capabilities.best()), Ok(()));
    println!("the best way here is {}", capabilities.best());
}

#[test]
fn rings_after_the_first_vcpu_are_refused_with_the_reason() {
    let made = crate::machine(Way::ClearingGet, small(), PAGES, &apart(1));
    let Some(machine) = made else { return };
    let refused = prepare(&machine.vm, RING, small());
    match refused {
        Err(PrepareError::Refused { capability: Capability::DirtyLogRing, source }) => {
            assert_eq!(source.raw_os_error(), Some(libc::EINVAL));
        }
        Err(PrepareError::Missing(missing)) => not_run(&missing),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_ring_has_a_size_that_the_kernel_can_give() {
    assert_eq!(RingSize::new(1000), Err(RingSizeError::NoPowerOfTwo(1000)));
    assert_eq!(RingSize::new(512), Err(RingSizeError::OutOfRange(512)));
    assert_eq!(RingSize::new(1 << 17), Err(RingSizeError::OutOfRange(1 << 17)));
    assert_eq!(RingSize::new(0), Err(RingSizeError::NoPowerOfTwo(0)));
    let Some(vm) = vm() else { return };
    match prepare(&vm, RING, RingSize::default()) {
        Ok(_) | Err(PrepareError::RingTooLarge { .. }) => {}
        Err(PrepareError::Missing(missing)) => not_run(&missing),
        other => panic!("{other:?}"),
    }
}

use super::*;
use vellum_kvm::Capability;
use vellum_vmm::{Failure, Why};

#[test]
fn a_capability_that_is_missing_is_named_with_what_to_take_instead() {
    let (way, best) = (Way::Ring, Way::Manual);
    let missing = Missing { way, capability: Capability::DirtyLogRing, best };
    let text = Error::Missing(missing).to_string();
    for word in ["--track ring", "KVM_CAP_DIRTY_LOG_RING", "Linux 5.11", "--track manual"] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
}

#[test]
fn a_device_that_cannot_be_opened_is_named_with_the_way_out_and_what_the_kernel_said() {
    let text = Error::from(OpenError::NoDevice).to_string();
    assert!(text.contains("there is no /dev/kvm: load kvm_intel or kvm_amd"), "{text}");
    let text = Error::from(OpenError::NotPermitted).to_string();
    assert!(text.contains("join the group"), "{text}");
    let text = Error::from(OpenError::OtherVersion(11)).to_string();
    assert!(text.contains("11") && text.contains("newer kernel"), "{text}");
    let odd = io::Error::from(io::ErrorKind::Interrupted);
    let text = Error::from(OpenError::Kernel(odd)).to_string();
    assert!(text.contains("/dev/kvm could not be opened: operation interrupted"), "{text}");
}

#[test]
fn a_destination_without_kvm_tells_the_source_why() {
    let said = refusal(&MachineError::Open(OpenError::NoDevice));
    assert_eq!(said.kind, RefusalKind::Machine);
    assert!(said.to_string().contains("there is no /dev/kvm"), "{said}");
}

#[test]
fn ways_that_are_not_the_kernels_are_refused_by_name() {
    for (track, name) in
        [(Track::ProtectAll, "protect-all"), (Track::Dbit, "dbit"), (Track::Pml, "pml")]
    {
        let text = choose(track).expect_err("it is none of the kernel's").to_string();
        assert!(text.contains(name) && text.contains("machine in software"), "{text}");
    }
}

/// What the host says that has no memory.
fn short() -> io::Error {
    io::ErrorKind::OutOfMemory.into()
}

#[test]
fn only_a_host_that_is_short_of_something_refuses_for_want_of_memory() {
    let backing = Backing::Small;
    for error in [
        MemoryError::Refused { bytes: 8 << 20, backing, source: short() }.into(),
        MemoryError::Pool { pages: 4, source: short() }.into(),
        MachineError::Thread(short()),
    ] {
        assert_eq!(refusal(&error).kind, RefusalKind::OutOfMemory, "{error}");
    }
    for error in [MemoryError::Size(1 << 40), MemoryError::NotWhole(9 << 20)] {
        let error = MachineError::from(error);
        assert_eq!(refusal(&error).kind, RefusalKind::Machine, "{error}");
    }
}

#[test]
fn a_host_that_is_short_of_memory_is_told_of_with_what_was_asked_for_and_the_way_out() {
    let given = "33M".parse().expect("a size");
    let told = |error: MemoryError| Error::not_built(error.into(), given).to_string();
    let refused = |backing| MemoryError::Refused { bytes: 33 << 20, backing, source: short() };
    for (text, words) in [
        (told(refused(Backing::Small)), ["33 MiB", "out of memory", "less --memory"]),
        (told(refused(Backing::Huge)), ["2 MiB", "out of memory", "--page-size 4k"]),
        (
            told(MemoryError::Pool { pages: 17, source: short() }),
            ["33 MiB", "`echo 17 > /proc/sys/vm/nr_hugepages`", "--page-size 4k"],
        ),
    ] {
        assert!(words.iter().all(|word| text.contains(word)), "{words:?} are not in {text}");
    }
}

#[test]
fn a_guest_that_cannot_go_on_is_told_with_all_causes() {
    let source = io::Error::from_raw_os_error(12);
    let cause = vellum_kvm::KvmError::Vm { call: vellum_kvm::Call::ResetDirtyRings, source };
    let failure = Failure { vcpu: 1, at: None, why: Why::Ring(cause) };
    let (how, text) = ended(Status::Failed(failure.into())).expect("it runs no more");
    assert_eq!(how, Ended::Failed);
    for word in ["vCPU 1", "ring is full", "KVM_RESET_DIRTY_RINGS failed", "(os error 12)"] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
}

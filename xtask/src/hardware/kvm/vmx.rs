//! Intel's VMX with EPT and page-modification logging, on one emulated processor: the kernel of
//! [`svm`] and the tests that matter most there.

use super::svm::{self, IRQ_BYPASS, KVM, LACKS, MONITOR, NATIVE, WAYS};
use super::{Boot, Host, Module, Tried, tried};
use crate::failure::Failure;
use crate::hardware::bochs;
use std::process::Command;

/// The host.
pub(crate) const HOST: Host = Host {
    packages: svm::PACKAGES,
    choose: svm::choose,
    modules: &MODULES,
    processor: "kvm-vmx-nested-tables",
    hypervisor: HYPERVISOR,
    programs: &[MONITOR, NATIVE, WAYS],
    tried: TRIED,
    lacks: LACKS,
    start,
};

/// Those that log many pages are not among them: Bochs logs addresses within pages, and this kernel warns
/// of each, which takes it thousands of times as long as the rest.
const TRIED: &[Tried] = &[
    tried(
        "kvm-vmx-natively",
        MONITOR,
        "tests::natively::the_kernel_emulates_no_more_of_a_guest_than_its_messages",
    ),
    tried(
        "kvm-vmx-level-0",
        MONITOR,
        "tests::natively::at_level_0_a_host_without_vmx_and_svm_emulates_it_and_the_count_says_so",
    ),
    tried(
        "kvm-vmx-every-guest",
        NATIVE,
        "running::every_guest_reports_passes_and_stands_while_it_is_paused",
    ),
    tried(
        "kvm-vmx-paused",
        NATIVE,
        "running::a_guest_that_never_leaves_by_itself_is_paused_as_often_as_one_likes",
    ),
    tried("kvm-vmx-fault", NATIVE, "running::a_fault_is_told_as_a_shutdown"),
    tried(
        "kvm-vmx-writes-at-random",
        NATIVE,
        "writers::random_writes_the_pages_that_the_host_draws",
    ),
    tried("kvm-vmx-selfcheck", NATIVE, "selfcheck::it_holds_with_any_number_of_vcpus"),
    tried("kvm-vmx-huge-pages", NATIVE, "backing::huge_pages_are_of_the_pool"),
    tried(
        "kvm-vmx-moved-selfcheck",
        MONITOR,
        "tests::moved::selfcheck_goes_on_elsewhere_and_finds_all_of_its_memory_right",
    ),
    tried("kvm-vmx-moved-clock", MONITOR, "tests::moved::the_time_stamp_counter_does_not_go_back"),
    tried("kvm-vmx-moved-every-part", MONITOR, "tests::moved::every_part_is_elsewhere_what_it_was"),
    tried("kvm-vmx-ways-owed", WAYS, "contract::what_is_owed_is_in_the_next_round_and_in_one"),
    tried("kvm-vmx-ways-all-set", WAYS, "contract::a_log_begun_all_set_names_everything_once"),
    tried(
        "kvm-vmx-ways-full-ring",
        WAYS,
        "rings::a_vcpu_whose_ring_is_full_stays_out_until_it_is_reaped_and_nothing_is_lost",
    ),
    tried("kvm-vmx-ways-exact", WAYS, "contract::a_round_has_each_page_that_changed_and_no_other"),
];

const MODULES: [Module; 3] =
    [IRQ_BYPASS, KVM, Module { name: "kvm-intel", path: "arch/x86/kvm/kvm-intel.ko" }];

const HYPERVISOR: &str = r#"
    cd /sys/module/kvm_intel/parameters
    said=$(grep . ept eptad pml unrestricted_guest | tr '\n' ' ')
    echo "${said}$(grep -c ^processor /proc/cpuinfo) CPU"
    [ "$said" = "ept:Y eptad:Y pml:Y unrestricted_guest:Y " ]
"#;

/// The line as fast as it can be, since an emulator's is no faster; no search for a place that nobody
/// knows. What CPUID says of this processor is not all of one kind: that it copies short strings fast,
/// beside a register that says that it does not copy strings fast (the kernel then copies short ones
/// wrong), and where XSAVE has the state of a protection key, or has anything if it is packed.
const COMMAND_LINE: &str = "console=ttyS0,115200 mitigations=off tsc=reliable nokaslr \
                            clearcpuid=fsrm,pku,xsavec,xsaves";

fn start(boot: &Boot<'_>) -> Result<Command, Failure> {
    bochs::linux(boot, &super::said(COMMAND_LINE))
}

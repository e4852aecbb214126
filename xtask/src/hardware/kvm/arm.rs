//! Arm's EL2 and stage 2, on emulated processors: the newest of Debian's kernels for virtual machines of
//! that architecture, and the tests of the kernel's log. Its rings have bitmaps, and an interrupt
//! controller whose tables the kernel writes into the guest's memory by itself.

use super::{Boot, Host, Tried, tried};
use crate::failure::Failure;
use crate::hardware::debian::Apt;
use crate::hardware::qemu;
use crate::tool::Missing;
use std::path::PathBuf;
use std::process::Command;

/// The host.
pub(crate) const HOST: Host = Host {
    packages: "kvm-arm-linux",
    choose,
    modules: &[],
    processor: "kvm-arm-stage-2",
    hypervisor: HYPERVISOR,
    programs: &[WAYS],
    tried: TRIED,
    lacks: LACKS,
    start,
};

/// The tests of `vellum-kvm`.
const WAYS: &str = "ways";

const TRIED: &[Tried] = &[
    tried("kvm-arm-walks", WAYS, "contract::the_guest_walks_as_the_host_predicts"),
    tried("kvm-arm-exact", WAYS, "contract::a_round_has_each_page_that_changed_and_no_other"),
    tried(
        "kvm-arm-store-between",
        WAYS,
        "contract::a_store_between_the_collection_and_the_protection_is_in_this_round_or_the_next",
    ),
    tried("kvm-arm-owed", WAYS, "contract::what_is_owed_is_in_the_next_round_and_in_one"),
    tried(
        "kvm-arm-off-and-on",
        WAYS,
        "contract::a_stopped_log_says_so_and_one_that_starts_again_has_forgotten",
    ),
    tried("kvm-arm-begun-anew", WAYS, "contract::a_log_that_is_started_while_it_is_on_begins_anew"),
    tried("kvm-arm-all-set", WAYS, "contract::a_log_begun_all_set_names_everything_once"),
    tried(
        "kvm-arm-ranges",
        WAYS,
        "contract::a_range_that_is_not_protected_keeps_its_pages_whatever_its_bounds",
    ),
    tried(
        "kvm-arm-slot-owed",
        WAYS,
        "contract::a_slot_whose_log_cannot_be_read_is_owed_whole_and_so_is_what_was_taken_before_it",
    ),
    tried(
        "kvm-arm-collected-twice",
        WAYS,
        "contract::two_collections_into_one_round_lose_nothing_of_either",
    ),
    tried(
        "kvm-arm-pages-added",
        WAYS,
        "contract::a_round_that_others_have_added_pages_to_loses_no_store_to_them",
    ),
    tried(
        "kvm-arm-pages-taken-out",
        WAYS,
        "contract::a_page_that_is_taken_out_of_a_round_before_it_is_protected_comes_again",
    ),
    tried("kvm-arm-other-layout", WAYS, "contract::a_page_set_over_another_layout_is_refused"),
    tried(
        "kvm-arm-runs-apart",
        WAYS,
        "running::a_store_before_a_collection_is_in_its_round_with_two_vcpus_on_pages_of_their_own",
    ),
    tried(
        "kvm-arm-runs-together",
        WAYS,
        "running::nothing_is_lost_with_two_vcpus_on_the_same_pages",
    ),
    tried("kvm-arm-runs-alone", WAYS, "running::nothing_is_lost_with_one_vcpu"),
    tried(
        "kvm-arm-full-ring",
        WAYS,
        "rings::a_vcpu_whose_ring_is_full_stays_out_until_it_is_reaped_and_nothing_is_lost",
    ),
    tried("kvm-arm-signals", WAYS, "rings::a_reset_that_signals_interrupt_takes_everything_back"),
    tried("kvm-arm-kick", WAYS, "rings::a_guest_that_never_leaves_by_itself_is_paused_by_a_kick"),
    tried("kvm-arm-tables", WAYS, "tables::it_is_in_the_next_round_of_every_way_with_bitmaps"),
    tried(
        "kvm-arm-tables-lost",
        WAYS,
        "tables::a_log_that_reads_rings_alone_loses_it_and_the_oracle_says_so",
    ),
    tried("kvm-arm-tables-and-full-ring", WAYS, "tables::it_and_a_full_ring_are_in_one_round"),
    tried(
        "kvm-arm-hostile-slot",
        WAYS,
        "hostile::an_entry_of_a_slot_that_is_not_there_is_told_and_everything_is_owed",
    ),
    tried(
        "kvm-arm-hostile-offset",
        WAYS,
        "hostile::an_entry_past_the_end_of_its_slot_is_told_and_everything_is_owed",
    ),
    tried(
        "kvm-arm-hostile-reaped",
        WAYS,
        "hostile::a_fault_that_a_reaper_finds_is_told_to_who_collects_next",
    ),
    tried(
        "kvm-arm-hostile-reset",
        WAYS,
        "hostile::entries_that_are_reset_before_they_are_copied_are_counted_and_everything_is_owed",
    ),
    tried(
        "kvm-arm-hostile-mark",
        WAYS,
        "hostile::a_mark_that_is_taken_away_is_counted_and_everything_is_owed",
    ),
    tried(
        "kvm-arm-prepared",
        WAYS,
        "refusals::what_the_kernel_says_it_has_can_be_prepared_and_what_it_lacks_is_named",
    ),
    tried("kvm-arm-best", WAYS, "refusals::the_best_way_is_one_that_the_kernel_has"),
    tried(
        "kvm-arm-ring-too-late",
        WAYS,
        "refusals::rings_after_the_first_vcpu_are_refused_with_the_reason",
    ),
    tried("kvm-arm-ring-size", WAYS, "refusals::a_ring_has_a_size_that_the_kernel_can_give"),
    tried(
        "kvm-arm-control-copied-first",
        WAYS,
        "controls::reading_pages_before_they_are_protected_loses_stores_and_the_oracle_says_so",
    ),
    tried(
        "kvm-arm-control-page-dropped",
        WAYS,
        "controls::a_page_that_is_dropped_is_found_missing",
    ),
    tried("kvm-arm-control-no-clear", WAYS, "controls::a_clear_that_is_left_out_never_ends"),
    tried(
        "kvm-arm-control-no-reset",
        WAYS,
        "controls::a_reset_that_is_left_out_loses_the_next_store_to_a_page",
    ),
    tried(
        "kvm-arm-break-drop-bit",
        WAYS,
        "breaks::a_collection_that_drops_bits_is_found_in_every_way",
    ),
    tried(
        "kvm-arm-break-reset-early",
        WAYS,
        "breaks::rings_that_are_given_back_a_round_too_late_lose_stores",
    ),
    tried(
        "kvm-arm-break-late-clear",
        WAYS,
        "breaks::a_clear_after_the_pages_were_read_loses_stores",
    ),
    tried(
        "kvm-arm-break-lost-clear",
        WAYS,
        "breaks::a_clear_that_is_never_made_loses_nothing_and_a_round_of_a_guest_that_stands_is_not_empty",
    ),
    tried(
        "kvm-arm-break-lost-clear-exact",
        WAYS,
        "breaks::a_clear_that_is_never_made_repeats_exactly_what_was_dirty_before",
    ),
];

/// Rings that lose nothing without bitmaps: there they do, and are refused.
const LACKS: &str = "kvm-way ring";

const HYPERVISOR: &str = r"
    dmesg | grep -o 'kvm \[1\]: .* mode initialized.*'
";

/// How a kernel that is for virtual machines is called, before and after its version.
const KERNEL: (&str, &str) = ("linux-image-", "-cloud-arm64");

/// The kernel, and the C library to link programs with. Bitmaps beside rings came with Linux 6.2, and
/// Debian has releases whose newest kernel is not the usual one.
fn choose(apt: &Apt) -> Result<Vec<String>, Failure> {
    let (before, after) = KERNEL;
    let kernel = apt.newest(before, after)?;
    let library = |name: &str| name.starts_with("libgcc-") && name.contains("-dev");
    let mut names = apt.with_dependencies(&["gcc:arm64"], library)?;
    names.extend([kernel, "libc6-dev".to_owned(), "busybox-static".to_owned()].map(for_arm));
    Ok(names)
}

fn for_arm(package: String) -> String {
    package + ":arm64"
}

fn start(boot: &Boot<'_>) -> Result<Command, Failure> {
    Ok(qemu::virt(boot, &super::said("console=ttyAMA0")))
}

/// The folder of its packages: programs are linked with the C library in it.
pub(super) fn libraries() -> Result<PathBuf, Failure> {
    HOST.at_hand(Missing::Name)
}

#[cfg(test)]
mod tests {
    use super::TRIED;
    use crate::cargo::root;
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    /// The tests in the file of a module, by their names in the program.
    fn tests_in(path: &PathBuf) -> Vec<String> {
        let text = std::fs::read_to_string(path).expect("a module");
        let module = path.file_stem().expect("a name").to_string_lossy();
        let marked = text.split("#[test]\nfn ").skip(1);
        let names = marked.filter_map(|test| test.split_once('(').map(|(name, _)| name));
        names.map(|name| format!("{module}::{name}")).collect()
    }

    #[test]
    fn every_test_of_the_ways_is_tried() {
        let folder = std::fs::read_dir(root().join("crates/kvm/tests/ways")).expect("the tests");
        let paths = folder.map(|entry| entry.expect("a file").path()).filter(|path| path.is_file());
        let tests: BTreeSet<String> = paths.flat_map(|path| tests_in(&path)).collect();
        let tried = TRIED.iter().map(|tried| tried.test.to_owned()).collect();
        assert!(
            tests.contains("tables::a_log_that_reads_rings_alone_loses_it_and_the_oracle_says_so")
        );
        assert_eq!(tests.symmetric_difference(&tried).collect::<Vec<_>>(), Vec::<&String>::new());
    }
}

//! `docs/backends.md` says what is so, and what it says to be shown is shown.

use std::path::{Path, PathBuf};
use vellum_conformance::abilities::{reasons, table, tests};
use vellum_conformance::hypervisor::{Hypervisor, Plenty};
use vellum_mmu::{AccessedBits, Config, CreateVmError, DirtyBits, Mmu};
use vellum_pte::Stage2;

fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("it is in the workspace")
}

#[test]
fn the_document_has_the_tables_as_they_are() {
    let document = std::fs::read_to_string(root().join("docs/backends.md")).expect("a document");
    for table in [table(), reasons()] {
        assert!(document.contains(&table), "docs/backends.md should have:\n{table}");
    }
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

/// The text of all integration tests.
fn all_tests() -> String {
    let groups = ["crates", "tests"].map(|group| root().join(group));
    let packages = groups.iter().flat_map(|group| std::fs::read_dir(group).expect("it is there"));
    let tests =
        packages.flat_map(|package| sources(&package.expect("an entry").path().join("tests")));
    tests.map(|path| std::fs::read_to_string(path).unwrap_or_default()).collect()
}

#[test]
fn each_test_that_the_tables_rest_on_is_there() {
    let text = all_tests();
    let is_there = |test: &str| text.contains(&format!("fn {test}("));
    assert!(!is_there("a_test_that_nobody_has_written_yet"));
    let lost: Vec<_> = tests().into_iter().filter(|test| !is_there(test)).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn d_bits_of_processors_that_set_none_are_refused() {
    let config = Config {
        dirty_bits: DirtyBits::Scanned,
        accessed: AccessedBits::NotSet,
        ..Config::default()
    };
    let hypervisor = Hypervisor::with_memory(Plenty).with_accessed_bits(AccessedBits::NotSet);
    let refused = Mmu::<Stage2, _>::new(hypervisor, config).err();
    assert_eq!(refused, Some(CreateVmError::DirtyWithoutAccessed));
}

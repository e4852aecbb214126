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

/// Whether `text` has a test of this name that is run: the attributes stand right before it.
fn is_run(text: &str, test: &str) -> bool {
    let signature = format!("fn {test}(");
    text.match_indices(&signature).any(|(at, _)| {
        let before = text[..at].lines().rev().map(str::trim).skip_while(|line| line.is_empty());
        let attributes: Vec<_> = before.take_while(|line| line.starts_with("#[")).collect();
        let is_ignored = attributes.iter().any(|line| line.contains("ignore"));
        attributes.contains(&"#[test]") && !is_ignored
    })
}

#[test]
fn each_test_that_the_tables_rest_on_is_run() {
    let text = all_tests();
    let lost: Vec<_> = tests().into_iter().filter(|test| !is_run(&text, test)).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn what_is_no_test_or_is_ignored_shows_nothing() {
    assert!(is_run("\n#[test]\nfn one() {", "one"));
    assert!(is_run("    #[test]\n    #[should_panic]\n    fn one() {", "one"));
    for text in [
        "",
        "\nfn one() {",
        "#[test]\nfn other() {}\n\nfn one() {",
        "#[test]\n#[ignore]\nfn one() {",
        "#[ignore = \"slow\"]\n#[test]\nfn one() {",
    ] {
        assert!(!is_run(text, "one"), "{text}");
    }
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

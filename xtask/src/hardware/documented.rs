//! `docs/hardware.md` against what is checked.

use super::machine::Machine;
use crate::cargo::root;
use std::collections::BTreeSet;

/// The words between backticks in `text`.
fn quoted(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The document, and the checks that its table of claims names.
fn document() -> (String, BTreeSet<String>) {
    let text = std::fs::read_to_string(root().join("docs/hardware.md")).expect("the document");
    let claims = text.split("\n## ").find(|section| section.starts_with("Claim, check, machine"));
    let rows = claims.expect("a section of claims").lines().filter(|line| line.starts_with('|'));
    let checks = rows.filter_map(|row| row.split('|').nth(2)).flat_map(quoted).collect();
    (text, checks)
}

fn checks() -> BTreeSet<String> {
    let names = Machine::all().iter().flat_map(|machine| machine.checks());
    names.map(str::to_owned).collect()
}

#[test]
fn the_document_names_every_check_and_no_other() {
    let (_, documented) = document();
    let checks = checks();
    assert_eq!(documented.difference(&checks).collect::<Vec<_>>(), Vec::<&String>::new());
    assert_eq!(checks.difference(&documented).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn the_document_names_every_machine() {
    let (text, _) = document();
    let quoted = quoted(&text);
    let missing: Vec<_> = Machine::all()
        .iter()
        .map(|machine| machine.name())
        .filter(|name| !quoted.contains(name))
        .collect();
    assert_eq!(missing, Vec::<String>::new());
}

//! `vellum bench kvm`: it runs, and prints what was agreed. Its times are nobody's test.

use crate::gate::has;
use crate::session::{code, complaint, json, run};
use vellum_kvm::Way;

#[test]
fn the_layer_is_shown_for_each_way_at_each_share() {
    if ![Way::ClearingGet, Way::Manual, Way::Ring].into_iter().all(has) {
        return;
    }
    let output = run(&["bench", "kvm", "--memory", "8M", "--json"]);
    assert_eq!(code(&output), 0, "{}", complaint(&output));
    let result = json(&output);
    let samples = result["samples"].as_object().expect("an object");
    assert_eq!(samples.len(), 3 * 3 * 2);
    assert!(samples.values().all(|sample| sample["median"].as_f64() > Some(0.0)), "{result}");
    assert_eq!(result["marks"].as_array().map(Vec::len), Some(3 * 3));
}

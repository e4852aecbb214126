//! The benchmarks run, print what was agreed, and count exactly. Their times are nobody's test.

mod session;

use serde_json::Value;
use session::{code, complaint, json, run};

fn assert_complete(name: &str, result: &Value) {
    assert_eq!(result["name"], name);
    for field in ["parameters", "machine", "samples", "ratios", "marks", "absent"] {
        assert!(!result[field].is_null(), "{field} is missing: {result}");
    }
    for sample in result["samples"].as_object().expect("an object").values() {
        let of = |field: &str| sample[field].as_f64().expect("a number");
        assert!(of("min") <= of("median") && of("median") <= of("max"), "{sample}");
        assert!(sample["n"].as_u64() > Some(0), "{sample}");
    }
}

fn counted(object: &Value) -> usize {
    object.as_object().expect("an object").len()
}

#[test]
fn protect_all_touches_one_table_and_shoots_down_once_at_any_size() {
    let output = run(&["bench", "protect-all", "--memory", "8M", "--json"]);
    assert_eq!(code(&output), 0, "{}", complaint(&output));
    let result = json(&output);
    assert_complete("protect-all", &result);
    for size in ["64 MiB", "1 GiB", "1 TiB"] {
        for count in ["tables settled", "shoot-downs"] {
            let name = format!("{size}: {count}");
            let marks = result["marks"].as_array().expect("a list");
            let mark = marks.iter().find(|mark| mark["name"] == name.as_str());
            assert_eq!(mark.expect(&name)["measured"], 1.0, "{name}");
        }
    }
}

#[test]
fn fault_shows_both_ways_in_each_order_for_one_and_two_cpus() {
    let output = run(&["bench", "fault", "--json"]);
    assert_eq!(code(&output), 0, "{}", complaint(&output));
    let result = json(&output);
    assert_complete("fault", &result);
    // Ten of ours, and of two others with one and two threads each a pair.
    assert_eq!(counted(&result["samples"]), 10 + 2 * (2 * 2 - counted(&result["absent"])));
}

#[test]
fn log_shows_starting_splitting_and_recovering() {
    let output = run(&["bench", "log", "--memory", "64M", "--json"]);
    assert_eq!(code(&output), 0, "{}", complaint(&output));
    let result = json(&output);
    assert_complete("log", &result);
    assert_eq!(result["samples"].as_object().map(serde_json::Map::len), Some(5));
    assert_eq!(result["marks"].as_array().map(Vec::len), Some(2));
}

#[test]
fn round_shows_every_way_at_every_share_beside_none() {
    let output = run(&["bench", "round", "--memory", "8M", "--json"]);
    assert_eq!(code(&output), 0, "{}", complaint(&output));
    let result = json(&output);
    assert_complete("round", &result);
    // Of five others with one and two vCPUs each a pair, where this machine has them.
    let others = 2 * 5 - counted(&result["absent"]);
    assert_eq!(counted(&result["ratios"]), 30 + others);
    assert_eq!(counted(&result["samples"]), 60 + 2 * others);
}

#[test]
fn ring_reset_shows_both_ways_at_every_share() {
    let output = run(&["bench", "ring-reset", "--memory", "64M", "--json"]);
    assert_eq!(code(&output), 0, "{}", complaint(&output));
    let result = json(&output);
    assert_complete("ring-reset", &result);
    assert_eq!(result["samples"].as_object().map(serde_json::Map::len), Some(16));
    assert_eq!(result["ratios"].as_object().map(serde_json::Map::len), Some(8));
}

#[test]
fn a_person_gets_a_table() {
    let output = run(&["bench", "log", "--memory", "64M"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("median") && text.contains("split ahead of the writes"), "{text}");
}

/// Memory is no clock: these marks are held.
#[test]
fn metadata_costs_nothing_that_nobody_uses_and_two_bytes_a_page_at_most() {
    let output = run(&["bench", "metadata", "--slot", "16G", "--json"]);
    assert_eq!(code(&output), 0, "{}", complaint(&output));
    let result = json(&output);
    assert_complete("metadata", &result);
    let marks = result["marks"].as_array().expect("a list");
    assert_eq!(marks.len(), 3);
    assert!(marks.iter().all(|mark| mark["met"] == true), "{result}");
    assert_eq!(result["samples"]["nothing tracked"]["unit"], "bytes");
}

//! What a person meets who mistypes, or who asks first.

mod session;

use session::{Folder, Session, code, complaint, json, run};

#[test]
fn help_names_the_commands_and_an_example() {
    let output = run(&["--help"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(code(&output), 0);
    for word in ["migrate", "receive", "bench", "Examples:", "Exit status"] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
}

#[test]
fn a_wrong_flag_is_a_usage_error() {
    let output = run(&["migrate", "--mem", "1G"]);
    assert_eq!(code(&output), 2);
    assert!(complaint(&output).contains("--memory"), "{}", complaint(&output));
}

#[test]
fn a_bad_size_says_how_sizes_are_written() {
    let output = run(&["migrate", "--memory", "lots"]);
    assert_eq!(code(&output), 2);
    assert!(complaint(&output).contains("512M"), "{}", complaint(&output));
}

#[test]
fn a_usage_error_is_json_where_json_was_asked_for() {
    let output = run(&["migrate", "--memory", "lots", "--json"]);
    let report = json(&output);
    assert_eq!(code(&output), 2);
    assert_eq!(report["verified"], false);
    assert!(report["reason"].as_str().is_some_and(|reason| reason.contains("lots")), "{report}");
}

#[test]
fn a_missing_guest_is_named_together_with_those_that_exist() {
    let output = run(&["migrate", "--guest", "/nowhere/guest.elf"]);
    assert_eq!(code(&output), 2);
    let text = complaint(&output);
    assert!(text.contains("/nowhere/guest.elf") && text.contains("selfcheck"), "{text}");
}

#[test]
fn a_malformed_guest_is_named() {
    let folder = Folder::new("malformed");
    let path = folder.path("guest.elf");
    std::fs::write(&path, b"this is no program").expect("the folder is writable");
    let output = run(&["migrate", "--guest", &path.to_string_lossy()]);
    assert_eq!(code(&output), 2);
    assert!(complaint(&output).contains("guest.elf"), "{}", complaint(&output));
}

#[test]
fn too_little_memory_for_the_guest_says_how_much_it_needs() {
    let output = run(&["migrate", "--memory", "64K"]);
    assert_eq!(code(&output), 2);
    assert!(complaint(&output).contains("8 MiB"), "{}", complaint(&output));
}

#[test]
fn a_bad_address_says_how_addresses_are_written() {
    let output = run(&["receive", "--listen", "localhost"]);
    assert_eq!(code(&output), 2);
    assert!(complaint(&output).contains("tcp:HOST:PORT"), "{}", complaint(&output));
}

#[test]
fn a_used_port_says_so() {
    let mut first = Session::receive(&["--listen", "tcp:127.0.0.1:0"]);
    let second = run(&["receive", "--listen", &first.address()]);
    assert_eq!(code(&second), 2);
    assert!(complaint(&second).contains("in use"), "{}", complaint(&second));
}

#[test]
fn a_destination_that_does_not_listen_is_named() {
    let folder = Folder::new("nobody");
    let address = folder.unix("socket");
    let output = run(&["migrate", "--memory", "16M", "--to", &address]);
    assert_eq!(code(&output), 1);
    assert!(complaint(&output).contains(&address), "{}", complaint(&output));
}

#[test]
fn a_resume_signals_no_stranger() {
    let output = run(&["migrate", "--resume", "1"]);
    assert_eq!(code(&output), 2);
    assert!(complaint(&output).contains("vellum"), "{}", complaint(&output));
}

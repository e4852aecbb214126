//! What a person meets who mistypes, or who asks first.

mod session;

use session::{Folder, Session, code, complaint, json, run};

#[test]
fn help_names_the_commands_and_an_example() {
    let output = run(&["--help"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(code(&output), 0);
    for word in ["migrate", "receive", "watch", "bench", "Examples:", "Exit status"] {
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
fn more_memory_than_any_host_gives_says_what_to_take_less_of() {
    for command in ["migrate", "watch"] {
        let output = run(&[command, "--memory", "200T"]);
        assert_eq!(code(&output), 2);
        let text = complaint(&output);
        assert!(text.contains("200 TiB") && text.contains("take less --memory"), "{text}");
        assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    }
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

#[test]
fn a_guest_for_other_addresses_is_told_how_to_be_linked() {
    // What `gcc -Ttext=0x80000000` makes: the ELF header is loaded too, a page below RAM.
    let mut file = vec![0; 0x2000];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 243, 0, 1, 0, 0, 0]);
    put(24, &0x8000_0000_u64.to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(52, &[64, 0, 56, 0, 1, 0]);
    put(64, &[1, 0, 0, 0, 5, 0, 0, 0]);
    put(80, &0x7fff_f000_u64.to_le_bytes());
    put(88, &0x7fff_f000_u64.to_le_bytes());
    put(96, &0x2000_u64.to_le_bytes());
    put(104, &0x2000_u64.to_le_bytes());
    let folder = Folder::new("elsewhere");
    let path = folder.path("guest.elf");
    std::fs::write(&path, &file).expect("the folder is writable");
    let output = run(&["migrate", "--guest", &path.to_string_lossy()]);
    assert_eq!(code(&output), 2);
    for word in ["guest.elf", "0x7ffff000", "-Ttext-segment=0x80000000"] {
        assert!(complaint(&output).contains(word), "{word}: {}", complaint(&output));
    }
}

#[test]
fn a_device_without_an_end_is_no_guest() {
    let output = run(&["migrate", "--guest", "/dev/zero"]);
    assert_eq!(code(&output), 2);
    assert!(complaint(&output).contains("not a regular file"), "{}", complaint(&output));
}

#[test]
fn a_negative_number_is_a_bad_value_and_no_flag() {
    for flag in ["--downtime", "--seed"] {
        let output = run(&["migrate", flag, "-1"]);
        assert_eq!(code(&output), 2);
        assert!(complaint(&output).contains("invalid value '-1'"), "{}", complaint(&output));
    }
}

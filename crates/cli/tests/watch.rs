//! `vellum watch`: it reports the stores that a guest makes, all of them, and no others.

mod known;
mod session;

use known::{AREA, Kind, Known, TEXT, elf, hex, overwriting, stores};
use serde_json::Value;
use session::{Folder, SMALL, Session, code, complaint, json, run, vellum};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};

const HARTS: u64 = 2;

/// Each format, and for the one that has tables of sub-page permissions the other way too.
const FORMATS: [[&str; 4]; 4] = [
    ["--format", "ept", "--sub-pages", "hardware"],
    ["--format", "ept", "--sub-pages", "emulated"],
    ["--format", "npt", "--sub-pages", "hardware"],
    ["--format", "stage2", "--sub-pages", "hardware"],
];

/// What is watched of the known guest, as first byte and length: a sub-page of the first page; one
/// into which stores reach from the one before it; the counter's; and one that begins a page.
const RANGES: [(u64, u64); 4] =
    [(AREA, 8), (AREA + 0x1080, 1), (AREA + 0x2000, 128), (AREA + 0x5000, 16)];

fn watch(more: &[&str]) -> Output {
    run(&[&["watch"], &SMALL[..], more].concat())
}

/// Its lines of JSON.
fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).expect("JSON is text");
    text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

fn writes(lines: &[Value]) -> Vec<&Value> {
    lines.iter().filter(|line| line["event"] == "write").collect()
}

fn text<'a>(line: &'a Value, field: &str) -> &'a str {
    line[field].as_str().unwrap_or_else(|| panic!("no text {field} in {line}"))
}

fn number(line: &Value, field: &str) -> u64 {
    let digits = text(line, field).strip_prefix("0x").expect("it is hexadecimal");
    u64::from_str_radix(digits, 16).expect("it is a number")
}

/// A file with `guest` in it, and the folder that holds it.
fn file(name: &str, guest: &[u8]) -> (Folder, String) {
    let folder = Folder::new(name);
    let path = folder.path("guest.elf");
    std::fs::write(&path, guest).expect("the folder is writable");
    let path = path.to_string_lossy().into_owned();
    (folder, path)
}

/// The arguments that watch [`RANGES`].
fn range_arguments() -> Vec<String> {
    let ranges =
        RANGES.map(|(start, length)| ["--range".to_owned(), format!("{start:#x}+{length}")]);
    ranges.concat()
}

/// Whether a store touches what is watched. Byte by byte: this is what the tool is held to.
fn is_watched(store: &Known, grain: u64) -> bool {
    (store.gpa..store.gpa + store.length).any(|byte| {
        RANGES.iter().any(|(start, length)| {
            (*start..start + length).any(|watched| watched / grain == byte / grain)
        })
    })
}

/// Holds what was reported of one vCPU to what it is known to store.
fn assert_reported(reported: &[&Value], hart: u64, grain: u64, context: &str) {
    let expected: Vec<Known> =
        stores(hart).into_iter().filter(|store| is_watched(store, grain)).collect();
    let mine = reported.iter().filter(|line| line["vcpu"] == hart).collect::<Vec<_>>();
    assert_eq!(mine.len(), expected.len(), "{context}: vCPU {hart}");
    for (line, store) in mine.into_iter().zip(&expected) {
        assert_eq!(number(line, "gpa"), store.gpa, "{context}: {line} for {store:?}");
        if let Some(bytes) = &store.bytes {
            assert_eq!(text(line, "bytes"), bytes, "{context}: {line} for {store:?}");
        }
    }
}

/// What the harts have made of the counter, whoever was first each time.
fn assert_counted(reported: &[&Value], context: &str) {
    let (counter, length) = Kind::Atomic.place(0);
    let counts = reported.iter().filter(|line| number(line, "gpa") == counter);
    let counts: BTreeSet<&str> = counts.map(|line| text(line, "bytes")).collect();
    let expected: BTreeSet<String> =
        (1..=HARTS * known::ROUNDS).map(|count| hex(count, length)).collect();
    let expected: BTreeSet<&str> = expected.iter().map(String::as_str).collect();
    assert_eq!(counts, expected, "{context}");
}

/// Each kind of store is one instruction.
fn assert_instructions(reported: &[&Value], context: &str) {
    let mut kinds: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
    for line in reported {
        let gpa = number(line, "gpa");
        let places = |kind: &Kind| (0..HARTS).any(|hart| kind.place(hart).0 == gpa);
        let kind = Kind::ALL.iter().position(places).expect("the guest stores there");
        kinds.entry(kind as u64).or_default().insert(text(line, "pc"));
    }
    assert!(kinds.values().all(|pcs| pcs.len() == 1), "{context}: {kinds:?}");
    let pcs: BTreeSet<_> = kinds.values().flatten().collect();
    assert_eq!(pcs.len(), kinds.len(), "{context}: {kinds:?}");
}

#[test]
fn the_writes_reported_are_those_that_the_guest_makes_and_no_others() {
    let (_folder, path) = file("watch-known", &elf());
    for (grain, bytes) in [("page", 4096), ("128", 128)] {
        for format in FORMATS {
            let context = format!("{grain}, {format:?}");
            let ranges = range_arguments();
            let ranges: Vec<&str> = ranges.iter().map(String::as_str).collect();
            let arguments = ["--json", "--guest", &path, "--grain", grain];
            let output = watch(&[&arguments, &format[..], &ranges].concat());
            assert_eq!(code(&output), 0, "{context}: {}", complaint(&output));
            let lines = lines(&output);
            let reported = writes(&lines);
            (0..HARTS).for_each(|hart| assert_reported(&reported, hart, bytes, &context));
            assert_counted(&reported, &context);
            assert_instructions(&reported, &context);
            let numbers = reported.iter().map(|line| line["n"].as_u64()).collect::<Vec<_>>();
            assert_eq!(numbers, (1..=reported.len() as u64).map(Some).collect::<Vec<_>>());
            let summary = lines.last().expect("there is one");
            assert_eq!(
                (&summary["event"], &summary["ended"]),
                (&"summary".into(), &"shut-down".into())
            );
            assert_eq!(summary["writes"], reported.len(), "{context}");
        }
    }
}

#[test]
fn stores_beside_the_range_cost_something_only_where_they_are_emulated() {
    let (_folder, path) = file("watch-beside", &elf());
    let beside = |format: [&str; 4]| {
        let word = Kind::Word.place(0).0;
        // The counter is in the same page, and stored to as often.
        let range = format!("{:#x}+128", Kind::Atomic.place(0).0);
        assert_eq!(word & !0xfff, Kind::Atomic.place(0).0);
        let arguments = ["--json", "--guest", &path, "--grain", "128", "--range", &range];
        let output = watch(&[&arguments, &format[..]].concat());
        let summary = lines(&output).pop().expect("there is one");
        (text(&summary, "mechanism").to_owned(), summary["beside"].as_u64().expect("a number"))
    };
    for format in FORMATS {
        let (mechanism, stores) = beside(format);
        if format == FORMATS[0] {
            assert_eq!(mechanism, "spp-tables");
            // A vCPU that was there before the tables is given them at its first exit.
            assert!(stores <= HARTS, "{format:?}: {stores}");
        } else {
            assert_eq!(mechanism, "sub-page-emulation");
            assert_eq!(stores, HARTS * known::ROUNDS, "{format:?}");
        }
    }
}

#[test]
fn a_guest_that_checks_its_memory_finds_it_right_while_it_is_watched() {
    for (grain, writes) in [("page", "30000"), ("128", "30000")] {
        for format in FORMATS {
            let page_size = ["--page-size", "2m"];
            let arguments = ["--json", "--grain", grain, "--writes", writes];
            let output = watch(&[&arguments, &format[..], &page_size].concat());
            let lines = lines(&output);
            assert_eq!(code(&output), 0, "{grain} {format:?}: {:?}", lines.last());
            assert_eq!(lines.len(), 30_001, "{grain} {format:?}");
        }
    }
}

#[test]
fn a_denied_store_does_not_happen_and_is_explained() {
    let (_folder, path) = file("watch-denied", &overwriting());
    let before: String = TEXT.bytes().take(8).map(|byte| format!("{byte:02x}")).collect();
    for grain in ["page", "128"] {
        for format in FORMATS {
            let context = format!("{grain}, {format:?}");
            let arguments = ["--json", "--deny", "--guest", &path, "--grain", grain];
            let range = ["--range", "0x80000000+4K"];
            let output = watch(&[&arguments, &range[..], &format[..]].concat());
            assert_eq!(code(&output), 3, "{context}: {}", complaint(&output));
            let lines = lines(&output);
            let [denied, summary] = lines.as_slice() else { panic!("{context}: {lines:?}") };
            assert_eq!((&denied["event"], &denied["vcpu"]), (&"denied".into(), &0.into()));
            assert_eq!(text(denied, "bytes"), "ffffffffffffffff", "{context}");
            assert_eq!(text(denied, "memory"), before, "{context}");
            assert_eq!(text(denied, "instruction"), "sd t1,0(a2)", "{context}");
            assert_eq!((number(denied, "word") & 0x7f, &denied["length"]), (0x23, &4.into()));
            let sub_page = (number(denied, "denied") & 0xfff) / 128;
            assert_eq!(denied["sub_page"], sub_page, "{context}");
            assert_eq!(number(denied, "map") >> sub_page & 1, 0, "{context}");
            assert_eq!((&summary["ended"], &summary["writes"]), (&"denied".into(), &0.into()));
        }
    }
}

#[test]
fn a_store_that_nobody_denies_happens_and_the_guest_ends_by_itself() {
    let (_folder, path) = file("watch-undenied", &overwriting());
    let elsewhere = ["--range", "0x80100000+4K", "--deny", "--json"];
    let output = watch(&[&["--guest", &path], &elsewhere[..]].concat());
    assert_eq!(code(&output), 0, "{}", complaint(&output));
    assert_eq!(json(&output)["ended"], "shut-down");
}

#[test]
fn a_person_reads_why_a_store_was_denied_and_what_to_do() {
    let output = watch(&["--deny", "--grain", "128", "--range", "0x80100000+1"]);
    assert_eq!(code(&output), 3, "{}", complaint(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for words in
        ["sub-page 0 of page 0x80100000", "0xfffffffe", "open the map", "A store was denied"]
    {
        assert!(said.contains(words), "{words} is not in {said}");
    }
    let told = complaint(&output);
    assert!(told.contains("0x80100000..0x80100001 is rounded to whole sub-pages"), "{told}");
    assert!(told.contains("0x80100000..0x80100080 by tables of sub-page permissions"), "{told}");
}

#[test]
fn a_person_gets_a_table_with_the_counts() {
    let (_folder, path) = file("watch-table", &elf());
    let (first, _) = Kind::Double.place(0);
    let range = format!("{first:#x}+1");
    let output = watch(&["--guest", &path, "--range", &range]);
    assert_eq!(code(&output), 0, "{}", complaint(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let total = HARTS * known::ROUNDS;
    let row = said.lines().nth(1).expect("a row").split_whitespace().collect::<Vec<_>>();
    assert_eq!(row[..2], ["0x80100000", &total.to_string()], "{said}");
    assert!(said.contains(&format!("{total} writes to 1 of 1 pages")), "{said}");
    assert!(said.contains("sd s5,0(a2)") && said.contains("the guest shut down"), "{said}");
}

#[test]
fn ctrl_c_ends_it_with_a_summary_of_all_that_was_printed() {
    for grain in ["page", "128"] {
        let mut session = Session::watch(&[&SMALL[..], &["--grain", grain]].concat());
        session.until("write");
        session.interrupt();
        let summary = session.until("summary");
        session.drain();
        assert_eq!(session.end().code(), Some(0));
        assert_eq!(summary["ended"], "interrupted");
        let printed = session.seen().iter().filter(|line| line["event"] == "write").count();
        assert_eq!(summary["writes"], printed);
        assert_eq!(session.seen().last(), Some(&summary));
    }
}

#[test]
fn it_ends_when_nobody_reads_on() {
    let mut child = vellum(&["watch", "--json"]);
    let child = child.args(SMALL).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = child.spawn().expect("the binary was built");
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
    output.read_line(&mut line).expect("there is a line");
    drop(output);
    assert_eq!(child.wait().expect("it is our child").code(), Some(0));
}

#[test]
fn it_ends_after_the_time_or_the_writes_asked_for() {
    let output = watch(&["--json", "--for", "0"]);
    assert_eq!((code(&output), &lines(&output).last().expect("one")["ended"]), (0, &"time".into()));
    let output = watch(&["--json", "--writes", "7"]);
    let lines = lines(&output);
    assert_eq!(writes(&lines).len(), 7);
    assert_eq!(lines.last().expect("one")["ended"], "writes");
}

#[test]
fn ranges_that_cannot_be_watched_say_why_and_what_can() {
    for (range, words) in [
        ("0x1000+4K", &["0x80000000..0x81000000", "--memory"][..]),
        ("0x80ffffff+2", &["0x80000000..0x81000000", "--memory"]),
        ("0x80100000..0x80100000", &["empty"]),
        ("0x80100000+0", &["empty"]),
        ("here", &["START..END"]),
        ("-1..2", &["START..END"]),
        ("0xffffffffffffffff+4K", &["more than an address"]),
    ] {
        let output = watch(&["--range", range]);
        assert_eq!(code(&output), 2, "{range}");
        let told = complaint(&output);
        assert!(words.iter().all(|word| told.contains(word)), "{range}: {told}");
        let output = watch(&["--json", "--range", range]);
        assert_eq!(code(&output), 2, "{range}");
        let failed = json(&output);
        assert_eq!(failed["event"], "failed", "{range}");
        assert!(words.iter().all(|word| text(&failed, "reason").contains(word)), "{failed}");
    }
}

#[test]
fn the_last_bytes_of_memory_can_be_watched() {
    let output = watch(&["--json", "--for", "0", "--range", "0x80ffffff+1"]);
    assert_eq!(code(&output), 0, "{}", complaint(&output));
    let summary = json(&output);
    assert_eq!(summary["ranges"][0]["watched"], "0x80fff000..0x81000000");
}

#[test]
fn a_guest_from_a_file_needs_to_be_told_what_to_watch() {
    let (_folder, path) = file("watch-nothing", &elf());
    let output = watch(&["--guest", &path]);
    assert_eq!(code(&output), 2);
    assert!(complaint(&output).contains("--range 0x80000000+64K"), "{}", complaint(&output));
}

use super::{Need, Outcome, Report, append, binary, parse, without_hash};

fn needs() -> Vec<Need> {
    let mut needs = vec![Need::KvmWay("ring-with-bitmap".to_owned()), Need::HugePages(64 << 20)];
    needs.extend(Need::PLAIN);
    needs
}

fn report(need: Need, outcome: Outcome) -> Report {
    let [package, binary, test] = ["vellum-kvm", "ways", "rings::a_test"].map(str::to_owned);
    Report { package, binary, test, need, outcome }
}

#[test]
fn a_report_is_read_as_it_was_written() {
    let reason = "there is no /dev/kvm: load kvm_intel".to_owned();
    let outcomes = [Outcome::Ran, Outcome::NotRun(reason)];
    let reports: Vec<Report> = needs()
        .into_iter()
        .flat_map(|need| outcomes.clone().map(|outcome| report(need.clone(), outcome)))
        .collect();
    let text: String = reports.iter().map(|report| format!("{report}\n")).collect();
    assert_eq!(parse(&text), Ok(reports));
}

#[test]
fn a_reason_of_several_lines_stays_in_one() {
    let said = report(Need::Kvm, Outcome::NotRun("one\ntwo\tthree".to_owned()));
    let read = parse(&said.to_string()).expect("one report");
    assert_eq!(read, [report(Need::Kvm, Outcome::NotRun("one two three".to_owned()))]);
}

#[test]
fn a_line_that_is_no_report_is_named() {
    for line in ["", "a\tb", "p\tb\tt\tkvm\tperhaps\t", "p\tb\tt\tmoon\tran\t"] {
        assert_eq!(parse(&format!("{line}\n")), Err(line.to_owned()));
    }
}

#[test]
fn a_programs_name_is_without_cargos_hash() {
    assert_eq!(without_hash("ways-0123456789abcdef"), "ways");
    assert_eq!(without_hash("two-terminals"), "two-terminals");
    assert_eq!(binary(), "vellum_presence");
}

#[test]
fn a_line_is_appended_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("reports");
    ["one", "two", "one"].into_iter().for_each(|line| append(&file, line));
    assert_eq!(std::fs::read_to_string(file).expect("it was made"), "one\ntwo\n");
}

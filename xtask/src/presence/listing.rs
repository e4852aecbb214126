//! The tests that there are, as cargo built them and as they list themselves.

use super::gated::{GATED, Gated};
use super::judge::Name;
use crate::cargo::{cargo, output_of};
use crate::failure::Failure;
use std::process::Command;

/// What cargo says of what it has built; of other messages nothing.
#[derive(serde::Deserialize)]
struct Message {
    package_id: Option<String>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<String>,
}

/// How it was built: an example that has tests is built as a program too.
#[derive(serde::Deserialize)]
struct Profile {
    test: bool,
}

#[derive(serde::Deserialize)]
struct Target {
    name: String,
}

/// A test program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Program {
    package: String,
    /// Its name, without the hash that cargo appends.
    pub(crate) binary: String,
    /// Where it was built.
    pub(crate) path: String,
}

/// The tests of a selection that are expected to report.
pub(crate) fn expected(selection: &str) -> Result<Vec<Name>, Failure> {
    let build = format!("test --locked --no-run --quiet --message-format=json {selection}");
    let programs = built(cargo(&build))?;
    let mut names = Vec::new();
    for program in programs {
        let gates = GATED.iter().filter(|gated| is_of(gated, &program)).collect::<Vec<_>>();
        if gates.is_empty() {
            continue;
        }
        let mut list = Command::new(&program.path);
        list.args(["--list", "--format", "terse"]);
        let tests = tests(&output_of(list)?);
        let has_gate = |test: &String| gates.iter().any(|gated| test.starts_with(gated.within));
        names.extend(tests.into_iter().filter(has_gate).map(|test| program.name_of(test)));
    }
    Ok(names)
}

/// What `cargo` builds that is told to tell of it in JSON.
pub(crate) fn built(cargo: Command) -> Result<Vec<Program>, Failure> {
    programs(&output_of(cargo)?)
}

impl Program {
    fn name_of(&self, test: String) -> Name {
        Name { package: self.package.clone(), binary: self.binary.clone(), test }
    }
}

fn is_of(gated: &Gated, program: &Program) -> bool {
    gated.package == program.package && gated.binary == program.binary
}

fn programs(messages: &str) -> Result<Vec<Program>, Failure> {
    let read = messages
        .lines()
        .map(|line| serde_json::from_str(line).map_err(|_| Failure::NoMessage(line.to_owned())));
    let messages: Vec<Message> = read.collect::<Result<_, _>>()?;
    Ok(messages.into_iter().filter_map(program).collect())
}

fn program(message: Message) -> Option<Program> {
    message.profile.filter(|profile| profile.test)?;
    let id = message.package_id?;
    let (_, named) = id.rsplit_once('#')?;
    let package = named.split('@').next()?.to_owned();
    Some(Program { package, binary: message.target?.name, path: message.executable? })
}

/// The names in a terse list: benchmarks are none.
fn tests(list: &str) -> Vec<String> {
    list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::{Program, programs, tests};

    #[test]
    fn programs_are_found_among_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","package_id":"path+file:///p/crates/kvm#vellum-kvm@0.1.0","target":{"name":"ways","kind":["test"]},"profile":{"test":true},"executable":"/t/ways-0123456789abcdef"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","package_id":"registry+https://r#libc@0.2.0","target":{"name":"libc"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","package_id":"path+file:///p/crates/process#vellum-process@0.1.0","target":{"name":"backend"},"profile":{"test":false},"executable":"/t/examples/backend"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        let found = programs(messages).expect("messages");
        let [package, binary, path] =
            ["vellum-kvm", "ways", "/t/ways-0123456789abcdef"].map(str::to_owned);
        assert_eq!(found, [Program { package, binary, path }]);
        assert!(programs("error: no such command").is_err());
    }

    #[test]
    fn tests_are_found_in_a_list() {
        assert_eq!(tests("a::b: test\nc: benchmark\nd: test\n"), ["a::b", "d"]);
    }
}

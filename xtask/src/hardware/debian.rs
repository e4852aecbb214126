//! Debian's packages, of our machine's architecture and of Arm's, unpacked into a folder of ours.
//!
//! The system's own apt downloads them from the system's own sources. Its lists of packages are
//! kept apart, so that the system does not learn of another architecture, and nothing is installed:
//! no privileges are needed.

use crate::cargo::{run_aside, target};
use crate::failure::Failure;
use crate::tool::Missing;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// In a folder whose packages are all there.
const COMPLETE: &str = "complete";

/// What makes `apt-cache depends` list what is needed, and nothing else.
const NEEDED_ONLY: [&str; 6] = [
    "--no-recommends",
    "--no-suggests",
    "--no-conflicts",
    "--no-breaks",
    "--no-replaces",
    "--no-enhances",
];

/// The folder with the packages that `choose` names, under the name `what`. They are fetched once.
pub(crate) fn unpacked(
    what: &'static str,
    missing: Missing,
    choose: impl FnOnce(&Apt) -> Result<Vec<String>, Failure>,
) -> Result<PathBuf, Failure> {
    let folder = target().join("hardware").join(what);
    let folder = std::path::absolute(&folder).map_err(at(&folder))?;
    match missing {
        _ if folder.join(COMPLETE).exists() => Ok(folder),
        Missing::Name => Err(Failure::NotUnpacked { what }),
        Missing::Install => fetch(&folder, choose).map(|()| folder),
    }
}

fn fetch(
    folder: &Path,
    choose: impl FnOnce(&Apt) -> Result<Vec<String>, Failure>,
) -> Result<(), Failure> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(at(folder))?;
    }
    let downloads = folder.join("downloads");
    create(&downloads)?;
    let apt = Apt::open(&folder.join("apt"))?;
    let names = choose(&apt)?;
    apt.download(&names, &downloads)?;
    unpack(&downloads, folder)?;
    fs::remove_dir_all(&downloads).map_err(at(&downloads))?;
    let complete = folder.join(COMPLETE);
    fs::write(&complete, names.join("\n")).map_err(at(&complete))
}

fn unpack(downloads: &Path, folder: &Path) -> Result<(), Failure> {
    for package in fs::read_dir(downloads).map_err(at(downloads))? {
        let package = package.map_err(at(downloads))?;
        let mut command = Command::new("dpkg");
        command.arg("-x").arg(package.path()).arg(folder);
        run_aside(command)?;
    }
    Ok(())
}

/// Apt, with lists of its own that know Arm's packages as well.
pub(crate) struct Apt {
    config: PathBuf,
}

impl Apt {
    fn open(folder: &Path) -> Result<Self, Failure> {
        create(&folder.join("state/lists/partial"))?;
        create(&folder.join("cache/archives/partial"))?;
        let config = folder.join("apt.conf");
        fs::write(&config, configuration(folder)).map_err(at(&config))?;
        let apt = Self { config };
        let mut update = apt.command("apt-get");
        update.args(["update", "-qq"]);
        run_aside(update)?;
        Ok(apt)
    }

    /// `packages` and what they need, as far as `wanted` says so of a name.
    pub(crate) fn with_dependencies(
        &self,
        packages: &[&str],
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<String>, Failure> {
        let mut depends = self.command("apt-cache");
        depends.args(["depends", "--recurse"]).args(NEEDED_ONLY).args(packages);
        let mut names = listed(&output_of(depends)?, wanted);
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// The newest of the packages that are called `before`, a version and `after`.
    pub(crate) fn newest(&self, before: &str, after: &str) -> Result<String, Failure> {
        let mut names = self.command("apt-cache");
        names.arg("pkgnames").arg(before);
        let names = output_of(names)?;
        newest(&names, before, after)
            .ok_or_else(|| Failure::NoPackage { pattern: format!("{before}VERSION{after}") })
    }

    fn download(&self, names: &[String], into: &Path) -> Result<(), Failure> {
        let mut download = self.command("apt-get");
        download.args(["download", "-qq"]).args(names).current_dir(into);
        run_aside(download)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config);
        command
    }
}

/// The packages in the output of `apt-cache depends`: their dependencies are indented, and a virtual
/// one is in angle brackets.
fn listed(depends: &str, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let names = depends.lines().filter(|line| !line.starts_with([' ', '<']));
    names.filter(|name| wanted(name)).map(str::to_owned).collect()
}

fn newest(names: &str, before: &str, after: &str) -> Option<String> {
    let version = |name: &str| {
        let version = name.strip_prefix(before)?.strip_suffix(after)?;
        version.starts_with(|first: char| first.is_ascii_digit()).then(|| numbers(version))
    };
    let named = names.lines().filter_map(|name| version(name).map(|version| (version, name)));
    named.max().map(|(_, name)| name.to_owned())
}

/// The numbers in a version.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// State and cache of our own; sources, keys and what is installed are the system's.
fn configuration(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "APT::Architectures {{ \"amd64\"; \"arm64\"; }};\n\
         APT::Sandbox::User \"root\";\n\
         Acquire::Languages \"none\";\n\
         Dir::State \"{folder}/state\";\n\
         Dir::State::status \"/var/lib/dpkg/status\";\n\
         Dir::Cache \"{folder}/cache\";\n"
    )
}

fn output_of(mut command: Command) -> Result<String, Failure> {
    let text = format!("{command:?}");
    match command.stdin(Stdio::null()).stderr(Stdio::inherit()).output() {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(output) => Err(Failure::Command { command: text, status: output.status }),
        Err(error) => Err(Failure::Start { command: text, error }),
    }
}

fn create(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(at(folder))
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let path = path.to_owned();
    move |error| Failure::File { path, error }
}

#[cfg(test)]
mod tests {
    use super::{listed, newest};

    #[test]
    fn a_package_is_listed_once_with_what_it_needs() {
        let depends = "rustc\n  Depends: libllvm\n  Depends: libc6\nlibllvm\n<virtual>\nlibc6\n";
        let names = listed(depends, |name| name != "libc6");
        assert_eq!(names, ["rustc", "libllvm"]);
    }

    #[test]
    fn the_newest_package_has_the_highest_numbers() {
        let names = "a-6.9.2-arm\na-6.12.117+deb12-arm\na-6.12.99+deb12-arm\na-rt-arm\na-7.1-x86\n";
        assert_eq!(newest(names, "a-", "-arm").as_deref(), Some("a-6.12.117+deb12-arm"));
        assert_eq!(newest(names, "b-", "-arm"), None);
    }
}

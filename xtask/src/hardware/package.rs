//! The library as it is packaged: what a hypervisor author gets, and no file more.

use crate::cargo::{cargo, run_aside, target};
use crate::failure::Failure;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the hypervisors depend on.
const CRATES: [&str; 3] = ["vellum-pte", "vellum-memory", "vellum-mmu"];

/// The packages, unpacked.
pub(crate) struct Packages {
    folder: PathBuf,
}

impl Packages {
    /// Makes them, and unpacks them under `folder`. Not verified: they depend on each other, and the
    /// hypervisors that are built from them are the verification.
    pub(crate) fn make(folder: &Path) -> Result<Self, Failure> {
        let mut package = cargo("package --quiet --locked --no-verify --allow-dirty");
        package.args(CRATES.iter().flat_map(|name| ["--package", name]));
        run_aside(package)?;
        let packages = Self { folder: folder.join("packages") };
        fs::create_dir_all(&packages.folder).map_err(at(&packages.folder))?;
        for name in CRATES {
            packages.unpack(name)?;
        }
        Ok(packages)
    }

    /// Has `cargo` take the packages in place of the workspace's own patch.
    pub(crate) fn patch(&self, cargo: &mut Command) {
        for name in CRATES {
            let path = self.place(name);
            let patch = format!("patch.crates-io.{name}.path={:?}", path.display().to_string());
            cargo.arg("--config").arg(patch);
        }
    }

    /// Nothing is touched if the package is the one that was unpacked last: cargo goes by the times of
    /// files, and those in a package are always the same.
    fn unpack(&self, name: &str) -> Result<(), Failure> {
        let archive = target().join("package").join(format!("{}.crate", versioned(name)));
        let unpacked = self.folder.join(format!("{name}.crate"));
        let new = fs::read(&archive).map_err(at(&archive))?;
        if fs::read(&unpacked).is_ok_and(|old| old == new) && self.place(name).exists() {
            return Ok(());
        }
        let place = self.place(name);
        if place.exists() {
            fs::remove_dir_all(&place).map_err(at(&place))?;
        }
        let mut tar = Command::new("tar");
        tar.args(["--extract", "--gzip", "--touch", "--file"]).arg(&archive);
        run_aside(tar_into(tar, &self.folder))?;
        fs::write(&unpacked, new).map_err(at(&unpacked))
    }

    fn place(&self, name: &str) -> PathBuf {
        self.folder.join(versioned(name))
    }
}

fn tar_into(mut tar: Command, folder: &Path) -> Command {
    tar.arg("--directory").arg(folder);
    tar
}

/// All crates of the workspace have one version.
fn versioned(name: &str) -> String {
    format!("{name}-{}", env!("CARGO_PKG_VERSION"))
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let path = path.to_owned();
    move |error| Failure::File { path, error }
}

//! A disk that boots a hypervisor or a kernel: a boot sector of our own, and the image as it lies in memory.

use super::loader::{self, Given};
use crate::cargo::{root, run_aside};
use crate::failure::Failure;
use object::{Object, ObjectSegment};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A disk, as an emulator is told of it. It has whole cylinders.
pub(crate) struct Disk {
    /// Its file.
    pub(crate) path: PathBuf,
    /// How many it has.
    pub(crate) cylinders: usize,
}

pub(crate) const HEADS: usize = 16;
pub(crate) const SECTORS: usize = 63;
const SECTOR: usize = 512;
const CYLINDER: usize = HEADS * SECTORS * SECTOR;
/// No disk is larger. What is loaded has to leave room in the smallest machine's memory.
const DISK: usize = 128 * CYLINDER;

/// What `hypervisors/boot-sector/boot.rs` reads at once.
const CHUNK: usize = 64 * SECTOR;
/// Where it looks for the number of chunks, and for the entry.
const CHUNKS_AT: usize = 502;
const ENTRY_AT: usize = 506;
/// Where it puts the image.
pub(super) const LOADED_AT: u32 = 1 << 20;

/// Multiboot 1: the header's magic, the flag for addresses, and where the entry is.
const MAGIC: u32 = 0x1bad_b002;
const HAS_ADDRESSES: u32 = 1 << 16;
const SEARCHED: usize = 8192;
const HEADER_WORDS: usize = 8;

/// Why no disk can be made of an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Unbootable {
    /// Something of it lies below 1 MiB.
    #[error("a segment is at {0:#x}, below 1 MiB")]
    TooLow(u64),
    /// It says nothing of an entry.
    #[error("there is no multiboot header with addresses")]
    NoHeader,
    /// It does not fit.
    #[error("{0} bytes do not fit on the disk")]
    TooLarge(usize),
    /// The boot sector has another size, or the one that it enters.
    #[error("the boot sector has {0} bytes, and not 512")]
    BootSector(usize),
    /// It is to be a kernel.
    #[error("it is no Linux kernel for PCs")]
    NoKernel,
}

/// Makes a disk of `image`, an ELF file, in `folder`.
pub(crate) fn make(image: &Path, folder: &Path) -> Result<Disk, Failure> {
    let bytes = fs::read(image).map_err(at(image))?;
    write(image, &flat(image, &bytes)?, folder)
}

/// Makes a disk of `kernel`, a Linux kernel for PCs with what it is `given`, in `folder`.
pub(crate) fn of_linux(kernel: &Path, given: &Given<'_>, folder: &Path) -> Result<Disk, Failure> {
    let bytes = fs::read(kernel).map_err(at(kernel))?;
    let loaded = loader::load(&compiled("linux", folder)?, &bytes, given);
    write(kernel, &loaded.map_err(unbootable(kernel))?, folder)
}

fn write(image: &Path, loaded: &[u8], folder: &Path) -> Result<Disk, Failure> {
    let disk = compose(&compiled("boot", folder)?, loaded).map_err(unbootable(image))?;
    let path = folder.join("disk.img");
    fs::write(&path, &disk).map_err(at(&path))?;
    Ok(Disk { path, cylinders: disk.len() / CYLINDER })
}

fn unbootable(image: &Path) -> impl FnOnce(Unbootable) -> Failure {
    let path = image.to_owned();
    move |why| Failure::Unbootable { path, why }
}

/// The sector `name`, compiled by `rustc` alone: it is no program for any operating system, and of no
/// workspace with flags of its own.
fn compiled(name: &str, folder: &Path) -> Result<Vec<u8>, Failure> {
    let source = root().join("hypervisors/boot-sector");
    let sector = folder.join(format!("{name}-sector"));
    let mut rustc = Command::new("rustc");
    rustc.args("--edition 2024 --target x86_64-unknown-linux-gnu -Cpanic=abort".split(' '));
    rustc.args("-Clinker=rust-lld -Clinker-flavor=ld.lld -Crelocation-model=static".split(' '));
    rustc.args("-Copt-level=2 -Clink-arg=-static -Clink-arg=--oformat=binary".split(' '));
    rustc.arg(format!("-Clink-arg=-T{}", source.join(format!("{name}.ld")).display()));
    rustc.arg("-o").arg(&sector).arg(source.join(format!("{name}.rs"))).current_dir(root());
    run_aside(rustc)?;
    fs::read(&sector).map_err(at(&sector))
}

/// What a loader puts from 1 MiB on. What it would zero is left to the image, as multiboot's addresses
/// leave it.
fn flat(path: &Path, elf: &[u8]) -> Result<Vec<u8>, Failure> {
    let wrong = |error| Failure::Image { path: path.to_owned(), error };
    let image = object::File::parse(elf).map_err(wrong)?;
    let mut loaded = Vec::new();
    for segment in image.segments() {
        let data = segment.data().map_err(wrong)?;
        put(&mut loaded, segment.address(), data).map_err(unbootable(path))?;
    }
    Ok(loaded)
}

fn put(loaded: &mut Vec<u8>, address: u64, data: &[u8]) -> Result<(), Unbootable> {
    let low = Unbootable::TooLow(address);
    let start = address.checked_sub(LOADED_AT.into()).and_then(|start| usize::try_from(start).ok());
    let start = start.ok_or(low)?;
    let end = start.saturating_add(data.len());
    if end > DISK {
        return Err(Unbootable::TooLarge(end));
    }
    loaded.resize(loaded.len().max(end), 0);
    loaded[start..end].copy_from_slice(data);
    Ok(())
}

/// Boot sector and image side by side, padded to a disk's size.
fn compose(sector: &[u8], loaded: &[u8]) -> Result<Vec<u8>, Unbootable> {
    if sector.len() != SECTOR {
        return Err(Unbootable::BootSector(sector.len()));
    }
    let chunks = loaded.len().div_ceil(CHUNK);
    let size = (SECTOR + chunks * CHUNK).next_multiple_of(CYLINDER);
    if size > DISK {
        return Err(Unbootable::TooLarge(loaded.len()));
    }
    let chunks = u32::try_from(chunks).map_err(|_| Unbootable::TooLarge(loaded.len()))?;
    let entry = entry(loaded).ok_or(Unbootable::NoHeader)?;
    let mut disk = sector.to_owned();
    disk[CHUNKS_AT..CHUNKS_AT + 4].copy_from_slice(&chunks.to_le_bytes());
    disk[ENTRY_AT..ENTRY_AT + 4].copy_from_slice(&entry.to_le_bytes());
    disk.extend(loaded);
    disk.resize(size, 0);
    Ok(disk)
}

/// The entry that the multiboot header names.
fn entry(loaded: &[u8]) -> Option<u32> {
    let searched = &loaded[..loaded.len().min(SEARCHED)];
    let (words, _) = searched.as_chunks::<4>();
    let words: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let header = words.windows(HEADER_WORDS).find(|header| {
        let sum = header[..3].iter().fold(0_u32, |sum, word| sum.wrapping_add(*word));
        header[0] == MAGIC && header[1] & HAS_ADDRESSES != 0 && sum == 0
    })?;
    Some(header[HEADER_WORDS - 1])
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let path = path.to_owned();
    move |error| Failure::File { path, error }
}

#[cfg(test)]
mod tests {
    use super::{
        CHUNK, CHUNKS_AT, CYLINDER, DISK, ENTRY_AT, HAS_ADDRESSES, MAGIC, SECTOR, Unbootable,
    };
    use super::{compose, put};

    fn image(bytes: usize, entry: u32) -> Vec<u8> {
        let sum = 0_u32.wrapping_sub(MAGIC).wrapping_sub(HAS_ADDRESSES);
        let header = [0, MAGIC, HAS_ADDRESSES, sum, 0x10_0004, 0x10_0000, 0, 0, entry];
        let mut image: Vec<u8> = header.into_iter().flat_map(u32::to_le_bytes).collect();
        image.resize(bytes, 7);
        image
    }

    fn number(disk: &[u8], at: usize) -> u32 {
        disk[at..at + 4].iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
    }

    #[test]
    fn the_boot_sector_is_told_of_every_chunk_and_of_the_entry() {
        let image = image(2 * CHUNK + 1, 0x10_0024);
        let disk = compose(&[0; SECTOR], &image).expect("room");
        assert_eq!(disk.len(), CYLINDER);
        assert_eq!((number(&disk, CHUNKS_AT), number(&disk, ENTRY_AT)), (3, 0x10_0024));
        assert_eq!(disk[SECTOR..SECTOR + image.len()], image);
    }

    #[test]
    fn an_image_that_no_loader_could_enter_is_refused() {
        let mut wrong = image(CHUNK, 0x10_0024);
        wrong[4] ^= 1;
        assert_eq!(compose(&[0; SECTOR], &wrong), Err(Unbootable::NoHeader));
        assert_eq!(compose(&[0; SECTOR], &[]), Err(Unbootable::NoHeader));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let image = image(DISK, 0x10_0024);
        assert_eq!(compose(&[0; SECTOR], &image), Err(Unbootable::TooLarge(DISK)));
        assert_eq!(compose(&[0; 511], &image), Err(Unbootable::BootSector(511)));
    }

    #[test]
    fn segments_lie_where_a_loader_puts_them() {
        let mut loaded = Vec::new();
        put(&mut loaded, 0x10_0004, &[3, 4]).expect("room");
        put(&mut loaded, 0x10_0001, &[1]).expect("room");
        assert_eq!(loaded, [0, 1, 0, 0, 3, 4]);
        let below = put(&mut loaded, 0xf_ffff, &[1]);
        assert_eq!(below, Err(Unbootable::TooLow(0xf_ffff)));
    }
}

//! A boot loader's work, done beforehand: a Linux kernel for PCs as it is to lie in memory, from 1 MiB on,
//! with what it is told (Linux, Documentation/x86/boot.rst and zero-page.rst).

use super::disk::{LOADED_AT, Unbootable};
use std::ops::Range;

/// What a kernel is to be given.
pub(crate) struct Given<'a> {
    /// Its first files.
    pub(crate) files: &'a [u8],
    /// Its command line.
    pub(crate) command_line: &'a str,
    /// What the firmware leaves of the memory from 1 MiB on, up to this address.
    pub(crate) end: u32,
}

/// `hypervisors/boot-sector/linux.rs`, compiled: it moves the first files and enters the kernel.
pub(crate) const ENTERING: usize = 512;
/// Where it looks for what it moves, and for the entry.
const PARAMETERS: usize = 496;
/// Where it has the kernel look for what it is told.
const ZERO_PAGE: usize = 0x1000;
const COMMAND_LINE: usize = 0x2000;
/// At a multiple of 2 MiB. It unpacks itself to 16 MiB and beyond.
const KERNEL: usize = 0x10_0000;
const PAGE: usize = 0x1000;

/// In the first sector of a kernel's file, and of the page that it is told things in.
const SETUP_SECTORS: usize = 0x1f1;
const HEADER: usize = 0x1f1;
const HEADER_LENGTH: usize = 0x201;
const MAGIC: Range<usize> = 0x202..0x206;
const LOADER: usize = 0x210;
const ENTRY: usize = 0x214;
const FILES: usize = 0x218;
const FILES_BYTES: usize = 0x21c;
const COMMAND_LINE_AT: usize = 0x228;
const MEMORY_AREAS: usize = 0x1e8;
const MEMORY_MAP: usize = 0x2d0;

/// Below this address a kernel unpacks itself, and has all that it needs until it knows of its files.
const UNPACKED: u32 = 128 << 20;

/// A loader that nobody has given a number.
const UNDEFINED: u8 = 0xff;

/// Memory that may be used, and where the firmware's tables are below 1 MiB.
const USABLE: u32 = 1;
const BELOW_TABLES: u32 = 0x9_f000;

/// `entering`, the kernel in `file` and what it is `given`, as they are to lie from 1 MiB on.
pub(crate) fn load(entering: &[u8], file: &[u8], given: &Given<'_>) -> Result<Vec<u8>, Unbootable> {
    if entering.len() != ENTERING {
        return Err(Unbootable::BootSector(entering.len()));
    }
    if file.get(MAGIC) != Some(b"HdrS") {
        return Err(Unbootable::NoKernel);
    }
    let kernel = protected(file).ok_or(Unbootable::NoKernel)?;
    let mut image = entering.to_owned();
    image.resize(KERNEL, 0);
    image.extend(kernel);
    image.resize(image.len().next_multiple_of(PAGE), 0);
    let from = image.len();
    image.extend(given.files);
    image.resize(image.len().next_multiple_of(4), 0);
    let moved = number(image.len() - from)?;
    let to = given.end.checked_sub(moved).ok_or(Unbootable::TooLarge(given.files.len()))?;
    let to = to & !0xfff;
    // What is moved is moved forwards, and the kernel unpacks itself below.
    if to < address(image.len())?.max(UNPACKED) {
        return Err(Unbootable::TooLarge(given.files.len()));
    }
    let parameters = [address(from)?, to, moved / 4, address(KERNEL)?];
    for (place, parameter) in parameters.into_iter().enumerate() {
        put(&mut image, PARAMETERS + 4 * place, parameter);
    }
    tell(&mut image, file, given, to)?;
    Ok(image)
}

/// The kernel without the part that asks the firmware: we know what that would say.
fn protected(file: &[u8]) -> Option<&[u8]> {
    let sectors = usize::from(*file.get(SETUP_SECTORS)?);
    file.get((sectors + 1) * 512..)
}

/// Fills in what the kernel is told.
fn tell(image: &mut [u8], file: &[u8], given: &Given<'_>, files: u32) -> Result<(), Unbootable> {
    let length = usize::from(*file.get(HEADER_LENGTH).ok_or(Unbootable::NoKernel)?);
    let header = HEADER..MAGIC.start + length;
    let bytes = file.get(header.clone()).ok_or(Unbootable::NoKernel)?;
    let (_, page) = image.split_at_mut(ZERO_PAGE);
    page[header].copy_from_slice(bytes);
    page[LOADER] = UNDEFINED;
    put(page, ENTRY, address(KERNEL)?);
    put(page, FILES, files);
    put(page, FILES_BYTES, number(given.files.len())?);
    put(page, COMMAND_LINE_AT, address(COMMAND_LINE)?);
    let low = address(0)?;
    let areas = [(0, BELOW_TABLES), (low, given.end - low)];
    page[MEMORY_AREAS] = 2;
    for (place, (start, bytes)) in areas.into_iter().enumerate() {
        let area = MEMORY_MAP + 20 * place;
        put(page, area, start);
        put(page, area + 8, bytes);
        put(page, area + 16, USABLE);
    }
    let text = given.command_line.as_bytes();
    let line = COMMAND_LINE - ZERO_PAGE;
    page[line..line + text.len()].copy_from_slice(text);
    Ok(())
}

/// Where in memory a place in the image is.
fn address(place: usize) -> Result<u32, Unbootable> {
    number(place)?.checked_add(LOADED_AT).ok_or(Unbootable::TooLarge(place))
}

fn number(value: usize) -> Result<u32, Unbootable> {
    u32::try_from(value).map_err(|_| Unbootable::TooLarge(value))
}

fn put(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::{ENTERING, FILES, Given, PARAMETERS, Unbootable, load};

    /// A kernel of two sectors that ask the firmware, and 5000 bytes.
    fn kernel() -> Vec<u8> {
        let mut file = vec![0; 1024];
        file[0x1f1] = 1;
        file[0x201] = 0x66;
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x260] = 9;
        file.resize(1024 + 5000, 7);
        file
    }

    const GIVEN: Given<'_> = Given { files: &[3; 4099], command_line: "quiet", end: 0x1000_0000 };

    fn number(bytes: &[u8], at: usize) -> usize {
        bytes[at..at + 4].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
    }

    #[test]
    fn a_kernel_is_told_of_its_files_its_command_line_and_its_memory() {
        let image = load(&[0; ENTERING], &kernel(), &GIVEN).expect("a kernel");
        let page = &image[0x1000..0x2000];
        assert_eq!((page[0x260], page[0x210]), (9, 0xff));
        assert_eq!((number(page, FILES), number(page, FILES + 4)), (0x1000_0000 - 0x2000, 4099));
        let line = number(page, 0x228) - 0x10_0000;
        assert_eq!(image[line..line + 6], *b"quiet\0");
        assert_eq!(page[0x1e8], 2);
        let area = |at: usize| (number(page, at), number(page, at + 8), number(page, at + 16));
        assert_eq!(area(0x2d0), (0, 0x9_f000, 1));
        assert_eq!(area(0x2e4), (0x10_0000, 0x1000_0000 - 0x10_0000, 1));
    }

    #[test]
    fn what_is_to_be_moved_and_entered_is_where_it_is_said_to_be() {
        let image = load(&[0; ENTERING], &kernel(), &GIVEN).expect("a kernel");
        let parameter = |place: usize| number(&image, PARAMETERS + 4 * place);
        let (from, entry) = (parameter(0) - 0x10_0000, parameter(3) - 0x10_0000);
        assert_eq!((image[from - 1], &image[from..from + 4099]), (0, GIVEN.files));
        assert_eq!((parameter(1), parameter(2)), (0x1000_0000 - 0x2000, 1025));
        assert_eq!(
            (entry, image[entry - 1], &image[entry..entry + 5000]),
            (0x10_0000, 0, &[7; 5000][..])
        );
    }

    #[test]
    fn what_is_no_kernel_or_does_not_fit_is_refused() {
        let mut wrong = kernel();
        wrong[0x202] = b'h';
        assert_eq!(load(&[0; ENTERING], &wrong, &GIVEN), Err(Unbootable::NoKernel));
        assert_eq!(load(&[0; 511], &kernel(), &GIVEN), Err(Unbootable::BootSector(511)));
        // No memory for the files, and none above what the kernel unpacks itself to.
        for end in [4096, 128 << 20] {
            let given = Given { end, ..GIVEN };
            assert_eq!(load(&[0; ENTERING], &kernel(), &given), Err(Unbootable::TooLarge(4099)));
        }
    }
}

//! An archive in cpio's "newc" format, as the kernel unpacks its first files from
//! (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).

/// What a name in the archive is.
pub(crate) enum Entry<'a> {
    /// A folder.
    Folder,
    /// A file that may be run.
    Program(&'a [u8]),
    /// A character device.
    Device {
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
}

impl Entry<'_> {
    /// Its type and permissions, as `stat` spells them.
    fn mode(&self) -> u32 {
        match self {
            Self::Folder => 0o040_755,
            Self::Program(_) => 0o100_755,
            Self::Device { .. } => 0o020_600,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Program(bytes) => bytes,
            Self::Folder | Self::Device { .. } => &[],
        }
    }

    fn device(&self) -> (u32, u32) {
        match self {
            Self::Device { major, minor } => (*major, *minor),
            Self::Folder | Self::Program(_) => (0, 0),
        }
    }
}

/// The archive of `entries`, a folder before what is in it.
pub(crate) fn archive(entries: &[(&str, Entry<'_>)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, entry) in entries {
        append(&mut archive, name, entry.mode(), entry.device(), entry.bytes());
    }
    append(&mut archive, "TRAILER!!!", 0, (0, 0), &[]);
    archive
}

fn append(archive: &mut Vec<u8>, name: &str, mode: u32, device: (u32, u32), bytes: &[u8]) {
    let size = |length: usize| u32::try_from(length).expect("below 4 GiB");
    // Inode, mode, owner, group, links, time, size, the file's device, the device's own, the name's
    // length with its zero, and a checksum that this format does not have.
    let numbers = [0, mode, 0, 0, 1, 0, size(bytes.len()), 0, 0, device.0, device.1];
    archive.extend_from_slice(b"070701");
    for number in numbers.into_iter().chain([size(name.len() + 1), 0]) {
        archive.extend_from_slice(format!("{number:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(bytes);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::{Entry, archive};

    /// Name, mode, device and bytes.
    type Unpacked = (String, u32, (u32, u32), Vec<u8>);

    /// Each entry, read as the format's text tells.
    fn unpack(mut archive: &[u8]) -> Vec<Unpacked> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&archive[..6], b"070701");
            let number = |index: usize| {
                let digits = std::str::from_utf8(&archive[6 + index * 8..][..8]).expect("text");
                u32::from_str_radix(digits, 16).expect("hexadecimal")
            };
            let (mode, size, name) = (number(1), number(6) as usize, number(11) as usize);
            let device = (number(9), number(10));
            let first = (110 + name).next_multiple_of(4);
            let text = String::from_utf8(archive[110..110 + name - 1].to_vec()).expect("text");
            if text == "TRAILER!!!" {
                return entries;
            }
            entries.push((text, mode, device, archive[first..first + size].to_vec()));
            archive = &archive[(first + size).next_multiple_of(4)..];
        }
    }

    #[test]
    fn what_is_packed_is_what_a_reader_of_the_format_finds() {
        let packed = archive(&[
            ("bin", Entry::Folder),
            ("bin/sh", Entry::Program(b"12345")),
            ("dev/console", Entry::Device { major: 5, minor: 1 }),
        ]);
        assert_eq!(packed.len() % 4, 0);
        assert_eq!(
            unpack(&packed),
            [
                ("bin".to_owned(), 0o040_755, (0, 0), vec![]),
                ("bin/sh".to_owned(), 0o100_755, (0, 0), b"12345".to_vec()),
                ("dev/console".to_owned(), 0o020_600, (5, 1), vec![]),
            ]
        );
    }
}

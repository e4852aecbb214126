//! Guest images: ELF files for RV64IMA.
//!
//! A segment goes to its physical address (`p_paddr`), as QEMU's loader and firmware do it. RAM is
//! zero at the start, so what a segment has beyond its bytes in the file is not written.

#[cfg(test)]
mod tests;

use object::LittleEndian;
use object::elf::{
    EF_RISCV_FLOAT_ABI, EF_RISCV_RVC, ELFCLASS64, ELFDATA2LSB, ELFMAG, EM_RISCV, ET_EXEC,
    FileHeader64, PT_LOAD, ProgramHeader64,
};
use object::read::elf::{FileHeader, ProgramHeader};
use vellum_pte::{GfnRange, Gpa, PAGE_SHIFT};

type Header = FileHeader64<LittleEndian>;
type Segments = ProgramHeader64<LittleEndian>;

/// A part of an image: bytes and where they go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Where its first byte goes.
    pub at: Gpa,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// How many bytes of memory it takes; those beyond `bytes` are zero.
    pub size: u64,
}

/// A guest program, ready to be placed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    entry: Gpa,
    segments: Vec<Segment>,
}

/// Why a file is not a guest image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ElfError {
    /// It does not begin as an ELF file does.
    #[error("not an ELF file")]
    NotElf,
    /// The file ends within its ELF header.
    #[error("the file ends within its ELF header")]
    ShortHeader,
    /// It is for a 32-bit machine.
    #[error("a 32-bit ELF file; the guest is RV64")]
    Not64Bit,
    /// It is big-endian.
    #[error("a big-endian ELF file; RISC-V is little-endian")]
    BigEndian,
    /// It is for another machine.
    #[error("an ELF file for machine {found}; RISC-V is {}", EM_RISCV.0)]
    WrongMachine {
        /// Its `e_machine`.
        found: u16,
    },
    /// It is not linked to fixed addresses.
    #[error("an ELF file of type {found}; a guest is a linked executable (type {})", ET_EXEC.0)]
    NotExecutable {
        /// Its `e_type`.
        found: u16,
    },
    /// It uses the C extension.
    #[error("compiled with compressed instructions; use -march=rv64ima")]
    Compressed,
    /// It uses floating-point registers.
    #[error("compiled for a floating-point ABI; use -mabi=lp64")]
    FloatAbi,
    /// The table of segments is not in the file.
    #[error("the table of segments is not within the file")]
    SegmentTable,
    /// A segment's bytes are not in the file.
    #[error("the bytes of segment {index} are not within the file")]
    SegmentBytes {
        /// Its place in the table, where segments that are not loaded count too.
        index: usize,
    },
    /// A segment is smaller in memory than in the file, or wraps around.
    #[error(
        "segment {index} has an impossible size: {file:#x} bytes in the file, {memory:#x} at {at}"
    )]
    SegmentSize {
        /// Its place in the table, where segments that are not loaded count too.
        index: usize,
        /// Its bytes in the file.
        file: u64,
        /// Its bytes in memory.
        memory: u64,
        /// Where it goes.
        at: Gpa,
    },
    /// Nothing is to be loaded.
    #[error("no segment to load")]
    NoSegment,
    /// The entry point is in no segment, or not a multiple of four.
    #[error("the entry point {entry} is not an instruction of any segment")]
    Entry {
        /// The entry point.
        entry: Gpa,
    },
}

/// Why an image could not be placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PlaceError<E> {
    /// A segment is not in RAM.
    #[error("the guest wants {size:#x} bytes at {at}, which is not within RAM")]
    OutsideRam {
        /// Where the segment begins.
        at: Gpa,
        /// Its size.
        size: u64,
    },
    /// Memory refused.
    #[error("placing the guest failed")]
    Memory(#[source] E),
}

impl Image {
    /// Reads an ELF file. Any bytes may be passed.
    ///
    /// # Errors
    /// [`ElfError`] says what is wrong with it.
    pub fn parse(file: &[u8]) -> Result<Self, ElfError> {
        let header = header(file)?;
        check(header)?;
        let table =
            header.program_headers(LittleEndian, file).map_err(|_| ElfError::SegmentTable)?;
        let segments = load(table, file)?;
        let entry = Gpa::new(header.e_entry(LittleEndian));
        let image = Self { entry, segments };
        image.entered()
    }

    /// Where harts start.
    #[must_use]
    pub const fn entry(&self) -> Gpa {
        self.entry
    }

    /// What is to be loaded.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Gives `write` each segment's bytes and place, having checked that all of them are within
    /// `ram`.
    ///
    /// # Errors
    /// [`PlaceError::OutsideRam`] before anything is written, or what `write` returned.
    pub fn place<E>(
        &self,
        ram: GfnRange,
        mut write: impl FnMut(Gpa, &[u8]) -> Result<(), E>,
    ) -> Result<(), PlaceError<E>> {
        for segment in &self.segments {
            segment.check_within(ram)?;
        }
        for segment in &self.segments {
            write(segment.at, &segment.bytes).map_err(PlaceError::Memory)?;
        }
        Ok(())
    }

    fn entered(self) -> Result<Self, ElfError> {
        if self.segments.is_empty() {
            Err(ElfError::NoSegment)
        } else if self.has_instruction_at(self.entry) {
            Ok(self)
        } else {
            Err(ElfError::Entry { entry: self.entry })
        }
    }

    fn has_instruction_at(&self, at: Gpa) -> bool {
        let inside = |segment: &Segment| {
            let offset = at.get().checked_sub(segment.at.get());
            offset.is_some_and(|offset| offset < segment.bytes.len() as u64)
        };
        at.get().is_multiple_of(4) && self.segments.iter().any(inside)
    }
}

impl Segment {
    fn check_within<E>(&self, ram: GfnRange) -> Result<(), PlaceError<E>> {
        let start = u128::from(ram.first().get()) << PAGE_SHIFT;
        let end = u128::from(ram.end().get()) << PAGE_SHIFT;
        let first = u128::from(self.at.get());
        if first >= start && first + u128::from(self.size) <= end {
            Ok(())
        } else {
            Err(PlaceError::OutsideRam { at: self.at, size: self.size })
        }
    }
}

/// The header, after the questions whose answers it needs to be read at all.
fn header(file: &[u8]) -> Result<&Header, ElfError> {
    if !file.starts_with(&ELFMAG) {
        return Err(ElfError::NotElf);
    }
    let ident = |at: usize| file.get(at).copied().ok_or(ElfError::ShortHeader);
    if ident(4)? != ELFCLASS64.0 {
        return Err(ElfError::Not64Bit);
    }
    if ident(5)? != ELFDATA2LSB.0 {
        return Err(ElfError::BigEndian);
    }
    Header::parse(file).map_err(|_| ElfError::ShortHeader)
}

fn check(header: &Header) -> Result<(), ElfError> {
    let machine = header.e_machine(LittleEndian);
    let kind = header.e_type(LittleEndian);
    let flags = header.e_flags(LittleEndian).0;
    if machine != EM_RISCV {
        Err(ElfError::WrongMachine { found: machine.0 })
    } else if kind != ET_EXEC {
        Err(ElfError::NotExecutable { found: kind.0 })
    } else if flags & EF_RISCV_RVC.0 != 0 {
        Err(ElfError::Compressed)
    } else if flags & EF_RISCV_FLOAT_ABI != 0 {
        Err(ElfError::FloatAbi)
    } else {
        Ok(())
    }
}

fn load(table: &[Segments], file: &[u8]) -> Result<Vec<Segment>, ElfError> {
    let wanted = table.iter().enumerate().filter(|(_, header)| takes_memory(header));
    wanted.map(|(index, header)| segment(index, header, file)).collect()
}

fn takes_memory(header: &Segments) -> bool {
    header.p_type(LittleEndian) == PT_LOAD && header.p_memsz(LittleEndian) > 0
}

fn segment(index: usize, header: &Segments, file: &[u8]) -> Result<Segment, ElfError> {
    let at = Gpa::new(header.p_paddr(LittleEndian));
    let size = header.p_memsz(LittleEndian);
    let in_file = header.p_filesz(LittleEndian);
    if in_file > size || at.get().checked_add(size).is_none() {
        return Err(ElfError::SegmentSize { index, file: in_file, memory: size, at });
    }
    let bytes = header.data(LittleEndian, file).map_err(|()| ElfError::SegmentBytes { index })?;
    Ok(Segment { at, bytes: bytes.to_vec(), size })
}

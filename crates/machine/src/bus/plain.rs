//! A bus for tests: bytes from address 0 on, of one hart.

use super::{Bus, BusError, Width};
use vellum_pte::{Gfn, Gpa, PAGE_SIZE};

pub(crate) struct Plain {
    bytes: Vec<u8>,
    /// What [`Bus::epoch`] says.
    pub(crate) epoch: u64,
    /// If set, loads, stores and compare-exchanges fail with it.
    pub(crate) refusal: Option<BusError>,
    /// What somebody else does just before the next store or compare-exchange.
    pub(crate) meanwhile: Option<fn(&mut Self)>,
    /// How many pages were fetched.
    pub(crate) fetches: usize,
}

impl Plain {
    pub(crate) fn new(pages: usize) -> Self {
        let bytes = vec![0; pages * 4096];
        Self { bytes, epoch: 0, refusal: None, meanwhile: None, fetches: 0 }
    }

    /// Memory with a program at 0.
    pub(crate) fn with_program(pages: usize, words: &[u32]) -> Self {
        let mut memory = Self::new(pages);
        memory.put_words(0, words);
        memory
    }

    pub(crate) fn put_words(&mut self, at: u64, words: &[u32]) {
        for (word, at) in words.iter().zip((at..).step_by(4)) {
            self.put(at, &word.to_le_bytes());
        }
    }

    pub(crate) fn put_double(&mut self, at: u64, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    pub(crate) fn double(&self, at: u64) -> u64 {
        let at = usize::try_from(at).expect("it is in memory");
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().expect("eight bytes"))
    }

    pub(crate) fn put(&mut self, at: u64, bytes: &[u8]) {
        let at = usize::try_from(at).expect("it is in memory");
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn let_others(&mut self) {
        if let Some(act) = self.meanwhile.take() {
            act(self);
        }
    }

    fn access(&mut self, gpa: Gpa, width: Width) -> Result<&mut [u8], BusError> {
        if let Some(refusal) = self.refusal {
            return Err(refusal);
        }
        let first = usize::try_from(gpa.get()).map_err(|_| BusError::Unmapped(gpa))?;
        let count = usize::try_from(width.bytes()).expect("at most eight");
        let end = first.checked_add(count).ok_or(BusError::Unmapped(gpa))?;
        self.bytes.get_mut(first..end).ok_or(BusError::Unmapped(gpa))
    }
}

impl Bus for Plain {
    fn load(&mut self, gpa: Gpa, width: Width) -> Result<u64, BusError> {
        let bytes = self.access(gpa, width)?;
        Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn store(&mut self, gpa: Gpa, width: Width, value: u64) -> Result<(), BusError> {
        self.let_others();
        let bytes = self.access(gpa, width)?;
        bytes.copy_from_slice(&value.to_le_bytes()[..bytes.len()]);
        Ok(())
    }

    fn compare_exchange(
        &mut self,
        gpa: Gpa,
        width: Width,
        expected: u64,
        new: u64,
    ) -> Result<u64, BusError> {
        self.let_others();
        let found = self.load(gpa, width)?;
        if found == expected {
            self.store(gpa, width, new)?;
        }
        Ok(found)
    }

    fn fetch(&mut self, gfn: Gfn, into: &mut [u32; 1024]) -> Result<(), BusError> {
        self.fetches += 1;
        let first = usize::try_from(gfn.get() * PAGE_SIZE).expect("it is in memory");
        let page = self.bytes.get(first..first + 4096).ok_or(BusError::Unmapped(gfn.gpa()))?;
        let (words, _) = page.as_chunks::<4>();
        for (place, word) in into.iter_mut().zip(words) {
            *place = u32::from_le_bytes(*word);
        }
        Ok(())
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }
}

//! A serial line that an emulator writes to a file, read as it grows.

use crate::failure::Failure;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A line, and when it was complete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Line {
    /// Without its end.
    pub(crate) text: String,
    /// Since the emulator was started.
    pub(crate) at: Duration,
}

/// What has been read of a file so far.
pub(crate) struct Tail {
    path: PathBuf,
    file: File,
    /// The beginning of a line.
    partial: Vec<u8>,
    lines: Vec<Line>,
}

impl Tail {
    /// Of a file that is made anew: what an earlier run wrote is gone.
    pub(crate) fn create(path: &Path) -> Result<Self, Failure> {
        let fail = |error| Failure::File { path: path.to_owned(), error };
        fs::write(path, "").map_err(fail)?;
        let file = File::open(path).map_err(fail)?;
        Ok(Self { path: path.to_owned(), file, partial: Vec::new(), lines: Vec::new() })
    }

    /// Reads what has been added, and tells `hear` of each line that is complete.
    pub(crate) fn read(
        &mut self,
        now: Duration,
        hear: &mut impl FnMut(&Line),
    ) -> Result<(), Failure> {
        let read = self.file.read_to_end(&mut self.partial);
        read.map_err(|error| Failure::File { path: self.path.clone(), error })?;
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let bytes: Vec<u8> = self.partial.drain(..=end).collect();
            hear(self.add(&bytes, now));
        }
        Ok(())
    }

    /// All lines. What is left at the end is one, too.
    pub(crate) fn into_lines(mut self, now: Duration) -> Vec<Line> {
        let rest = std::mem::take(&mut self.partial);
        if !rest.is_empty() {
            self.add(&rest, now);
        }
        self.lines
    }

    fn add(&mut self, bytes: &[u8], at: Duration) -> &Line {
        let text = String::from_utf8_lossy(bytes).trim_end().to_owned();
        let place = self.lines.len();
        self.lines.push(Line { text, at });
        &self.lines[place]
    }
}

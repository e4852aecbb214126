//! Harts on a few words of memory.

//! A wire that breaks where it is told to.

use super::mock::socket;
use crate::Address;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

/// Where the wire breaks, in bytes of its first connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    Never,
    /// Both ways are cut after so many bytes from the source.
    CutForward(u64),
    /// Both ways are cut after so many bytes from the destination.
    CutBack(u64),
    /// After so many bytes from the source nothing moves any more.
    StallForward(u64),
}

/// A Unix socket in front of another.
pub(super) struct Proxy {
    pub(super) address: Address,
    pub(super) counts: Arc<Counts>,
    path: PathBuf,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What went through, and whether it stalled.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) forward: AtomicU64,
    pub(super) back: AtomicU64,
    pub(super) stalled: AtomicBool,
}

fn path(address: &Address) -> PathBuf {
    match address {
        Address::Unix(path) => path.clone(),
        Address::Tcp(_) => panic!("the proxy is for Unix sockets"),
    }
}

impl Proxy {
    pub(super) fn new(to: &Address, fault: Fault) -> Self {
        let address = socket();
        let (path, target) = (path(&address), path(to));
        let listener = UnixListener::bind(&path).expect("a fresh address");
        let (counts, ended) = (Arc::new(Counts::default()), Arc::new(AtomicBool::new(false)));
        let (theirs, over) = (counts.clone(), ended.clone());
        let thread = thread::spawn(move || {
            let mut fault = fault;
            let mut pumps = Vec::new();
            while let Ok((near, _)) = listener.accept() {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                // Nobody listens: the near side sees a closed connection.
                let Ok(far) = UnixStream::connect(&target) else { continue };
                pumps.extend(connect(near, far, fault, &theirs, &over));
                fault = Fault::Never;
            }
            pumps.into_iter().for_each(|pump| pump.join().expect("a pump does not panic"));
        });
        Self { address, counts, path, ended, thread: Some(thread) }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the acceptor.
        let _ = UnixStream::connect(&self.path);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the proxy does not panic");
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn connect(
    near: UnixStream,
    far: UnixStream,
    fault: Fault,
    counts: &Arc<Counts>,
    over: &Arc<AtomicBool>,
) -> [JoinHandle<()>; 2] {
    let (near_too, far_too) =
        (near.try_clone().expect("a handle"), far.try_clone().expect("a handle"));
    let (c1, c2) = (counts.clone(), counts.clone());
    let (forward_limit, back_limit) = match fault {
        Fault::Never => (u64::MAX, u64::MAX),
        Fault::CutForward(n) | Fault::StallForward(n) => (n, u64::MAX),
        Fault::CutBack(n) => (u64::MAX, n),
    };
    let over = over.clone();
    let forward = thread::spawn(move || {
        let broke = pump(&near, &far, forward_limit, &c1.forward);
        if let (true, Fault::StallForward(_)) = (broke, fault) {
            c1.stalled.store(true, Ordering::Release);
            while !over.load(Ordering::Relaxed) && is_open(&near) {
                thread::yield_now();
            }
        }
        end(&near, &far, broke);
    });
    let back = thread::spawn(move || {
        let broke = pump(&far_too, &near_too, back_limit, &c2.back);
        end(&far_too, &near_too, broke);
    });
    [forward, back]
}

/// Whether the other side still holds its end, found without taking a byte.
fn is_open(stream: &UnixStream) -> bool {
    stream.set_nonblocking(true).expect("a socket");
    // Whatever is still in it was stalled and is lost.
    let read = (&mut &*stream).read(&mut [0; 4096]);
    !matches!(read, Ok(0))
        && !matches!(read, Err(error) if error.kind() != std::io::ErrorKind::WouldBlock)
}

/// Moves bytes until the limit, and says whether it was reached.
fn pump(mut from: &UnixStream, mut to: &UnixStream, limit: u64, count: &AtomicU64) -> bool {
    let mut buffer = vec![0; 65536];
    let mut left = limit;
    while left > 0 {
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let Ok(read @ 1..) = from.read(&mut buffer[..most]) else { return false };
        count.fetch_add(read as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..read]).is_err() {
            return false;
        }
        left -= read as u64;
    }
    true
}

/// A broken wire is broken both ways; an ended one lets the other way go on.
fn end(from: &UnixStream, to: &UnixStream, broke: bool) {
    if broke {
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    } else {
        let _ = to.shutdown(Shutdown::Write);
    }
}

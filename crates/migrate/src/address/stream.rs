//! The two kinds of socket behind one face.

use super::{Address, ConnectError, ListenError};
use crate::cancel::Cancel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a blocked call waits before it looks whether it was cancelled.
const TICK: Duration = Duration::from_millis(20);

/// How long one attempt to reach a host waits before it looks whether it was cancelled.
const REACH: Duration = Duration::from_secs(3);

/// A connection. Its reads and writes end with `WouldBlock` every [`TICK`] in which nothing moved.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A socket that waits for connections.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// A socket's file, removed with it.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Nothing is lost if it is gone already.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Stream {
    /// Connects to `address`.
    pub(crate) fn connect(address: &Address, cancel: &Cancel) -> Result<Self, ConnectError> {
        let stream = match address {
            Address::Tcp(host_port) => reach(address, host_port, cancel)?,
            Address::Unix(path) => UnixStream::connect(path)
                .map(Self::Unix)
                .map_err(|error| refused(address, error))?,
        };
        stream.tick().map_err(|error| refused(address, error))
    }

    /// Sets what the type promises.
    fn tick(self) -> io::Result<Self> {
        match &self {
            Self::Tcp(stream) => {
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(TICK))?;
                stream.set_write_timeout(Some(TICK))?;
            }
            Self::Unix(stream) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(TICK))?;
                stream.set_write_timeout(Some(TICK))?;
            }
        }
        Ok(self)
    }

    /// Waits up to a tick until a read would not block.
    pub(crate) fn wait_readable(&self) -> io::Result<()> {
        match readable_within_a_tick(self)? {
            0 => Err(ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    }

    /// Says that nothing more will be written; what was written still arrives.
    pub(crate) fn finish_writing(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(into),
            Self::Unix(stream) => stream.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write_vectored(parts),
            Self::Unix(stream) => stream.write_vectored(parts),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Listener {
    /// Listens on `address`.
    pub(crate) fn bind(address: &Address) -> Result<Self, ListenError> {
        let listener = match address {
            Address::Tcp(host_port) => {
                let found: Vec<_> = host_port
                    .to_socket_addrs()
                    .map_err(|error| ListenError::NotHere { address: address.clone(), error })?
                    .collect();
                let bound = TcpListener::bind(found.as_slice());
                bound.map(Self::Tcp).map_err(|error| tcp_error(address, error))?
            }
            Address::Unix(path) => UnixListener::bind(path)
                .map(|listener| Self::Unix(listener, SocketFile(path.clone())))
                .map_err(|error| unix_error(address, path, error))?,
        };
        let ready = listener.set_nonblocking();
        ready.map_err(|error| ListenError::Io { address: address.clone(), error })?;
        Ok(listener)
    }

    /// Where it really listens: the port that the system chose is filled in.
    pub(crate) fn address(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(listener) => Ok(Address::Tcp(listener.local_addr()?.to_string())),
            Self::Unix(_, SocketFile(path)) => Ok(Address::Unix(path.clone())),
        }
    }

    /// The next connection, or none if it was cancelled first.
    pub(crate) fn accept(&self, cancel: &Cancel) -> io::Result<Option<Stream>> {
        while !cancel.is_cancelled() {
            match self.accept_now() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    readable_within_a_tick(self)?;
                }
                // The peer left before it was accepted, or a signal came.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                    ) => {}
                other => return other?.tick().map(Some),
            }
        }
        Ok(None)
    }

    fn accept_now(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => listener.accept().map(|(stream, _)| Stream::Tcp(stream)),
            Self::Unix(listener, _) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
        }
    }

    /// Two threads may race for one connection: the loser must not block on the next.
    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => listener.set_nonblocking(true),
            Self::Unix(listener, _) => listener.set_nonblocking(true),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener, _) => listener.as_fd(),
        }
    }
}

/// Waits up to a tick: 1 if something can be read (or accepted), 0 if not.
fn readable_within_a_tick(socket: &impl AsFd) -> io::Result<usize> {
    let tick = Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) };
    match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&tick)) {
        Err(rustix::io::Errno::INTR) => Ok(0),
        other => Ok(other?),
    }
}

/// Tries every address of a host, once.
fn reach(address: &Address, host_port: &str, cancel: &Cancel) -> Result<Stream, ConnectError> {
    let addresses = host_port
        .to_socket_addrs()
        .map_err(|error| ConnectError::NoHost { address: address.clone(), error })?;
    let mut last = ConnectError::Silent(address.clone());
    for socket in addresses {
        match reach_one(socket, cancel) {
            Ok(stream) => return Ok(Stream::Tcp(stream)),
            Err(error) => last = refused(address, error),
        }
    }
    Err(last)
}

fn reach_one(socket: SocketAddr, cancel: &Cancel) -> io::Result<TcpStream> {
    for _ in 0..3 {
        match TcpStream::connect_timeout(&socket, REACH) {
            Err(error) if error.kind() == ErrorKind::TimedOut && !cancel.is_cancelled() => {}
            other => return other,
        }
    }
    Err(ErrorKind::TimedOut.into())
}

fn refused(address: &Address, error: io::Error) -> ConnectError {
    let address = address.clone();
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::NotFound => ConnectError::Nobody(address),
        ErrorKind::TimedOut => ConnectError::Silent(address),
        _ => ConnectError::Io { address, error },
    }
}

fn tcp_error(address: &Address, error: io::Error) -> ListenError {
    let address = address.clone();
    match error.kind() {
        ErrorKind::AddrInUse => ListenError::InUse(address),
        ErrorKind::PermissionDenied => ListenError::Denied(address),
        ErrorKind::AddrNotAvailable => ListenError::NotHere { address, error },
        _ => ListenError::Io { address, error },
    }
}

fn unix_error(address: &Address, path: &Path, error: io::Error) -> ListenError {
    match error.kind() {
        ErrorKind::AddrInUse => occupied(address, path),
        ErrorKind::NotFound => ListenError::NoFolder(path.into()),
        ErrorKind::PermissionDenied => ListenError::Denied(address.clone()),
        _ => ListenError::Io { address: address.clone(), error },
    }
}

/// Why a path is taken: only a connection can tell a living socket from a dead one.
fn occupied(address: &Address, path: &Path) -> ListenError {
    let socket = std::fs::metadata(path).is_ok_and(|file| file.file_type().is_socket());
    match UnixStream::connect(path) {
        _ if !socket => ListenError::NotASocket(path.into()),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            ListenError::Stale(path.into())
        }
        _ => ListenError::InUse(address.clone()),
    }
}

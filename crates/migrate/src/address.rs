//! Where a destination listens: parsing, listening, connecting.

mod stream;

pub(crate) use stream::{Listener, Stream};

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a destination listens. Spelt `tcp:HOST:PORT` or `unix:PATH`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Address {
    /// A TCP port of a host, by name or number: `tcp:localhost:7000`, `tcp:[::1]:7000`. Port 0
    /// lets the system choose one when listening.
    Tcp(String),
    /// A Unix socket at a path of the file system.
    Unix(PathBuf),
}

/// Why a text is no [`Address`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseAddressError {
    /// Neither `tcp:` nor `unix:` stands before it.
    #[error("`{0}` is no address: write tcp:HOST:PORT or unix:PATH")]
    Scheme(String),
    /// `tcp:` without a host and a port.
    #[error(
        "`tcp:{0}` lacks a host or a port from 0 to 65535: write tcp:HOST:PORT, for example tcp:localhost:7000"
    )]
    HostPort(String),
    /// `unix:` without a path.
    #[error("`unix:` lacks a path: write unix:PATH, for example unix:/tmp/guest.socket")]
    NoPath,
}

/// Why an [`Address`] cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody listens there.
    #[error("{0} is in use: another process listens there; choose another address, or stop it")]
    InUse(Address),
    /// A socket file on which nobody listens any more.
    #[error("{} is a socket on which nobody listens, left by a process that ended: remove the file, or choose another path", .0.display())]
    Stale(PathBuf),
    /// Something that is no socket lies at the path.
    #[error("{} exists and is no socket: choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The folder of the socket file does not exist.
    #[error("the folder of {} does not exist: create it, or choose another path", .0.display())]
    NoFolder(PathBuf),
    /// The host is not one of this machine's, or has no address.
    #[error("{address} is no address of this machine: {error}")]
    NotHere {
        /// What was asked for.
        address: Address,
        /// What the system said.
        error: io::Error,
    },
    /// This user may not listen there.
    #[error(
        "this user may not listen on {0}: choose a port from 1024 on, or a folder that you may write to"
    )]
    Denied(Address),
    /// Anything else.
    #[error("cannot listen on {address}: {error}")]
    Io {
        /// What was asked for.
        address: Address,
        /// What the system said.
        error: io::Error,
    },
}

/// Why an [`Address`] cannot be connected to.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens there.
    #[error("nobody listens on {0}: start the destination first, or check the address")]
    Nobody(Address),
    /// The host has no address.
    #[error("cannot find the host of {address}: {error}")]
    NoHost {
        /// What was asked for.
        address: Address,
        /// What the system said.
        error: io::Error,
    },
    /// The host does not answer.
    #[error("{0} does not answer: check the address and what lies between")]
    Silent(Address),
    /// Anything else.
    #[error("cannot connect to {address}: {error}")]
    Io {
        /// What was asked for.
        address: Address,
        /// What the system said.
        error: io::Error,
    },
}

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("tcp", rest)) => tcp(rest),
            Some(("unix", "")) => Err(ParseAddressError::NoPath),
            Some(("unix", path)) => Ok(Self::Unix(path.into())),
            _ => Err(ParseAddressError::Scheme(text.into())),
        }
    }
}

fn tcp(host_port: &str) -> Result<Address, ParseAddressError> {
    let parts = host_port.rsplit_once(':');
    match parts {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            Ok(Address::Tcp(host_port.into()))
        }
        _ => Err(ParseAddressError::HostPort(host_port.into())),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host_port) => write!(f, "tcp:{host_port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests;

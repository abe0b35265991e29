//! What server, spawner, launcher and init say to each other: one datagram a message on a SEQPACKET socket. The text is JSON in a memfd, so that
//! its length is nobody's concern and secrets in it are on no disk; other descriptors travel beside it.

use super::super::{Result as Outcome, SandboxError, SandboxId, SandboxLimits, Usage};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    io::{Errno, retry_on_intr},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read, Seek, Write},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};

/// Descriptors beside one message, the memfd included.
const FDS_MAX: usize = 8;

/// One process to fence in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::sandbox) struct Launch {
    /// Names this run among all that run; no two at once.
    pub(in crate::sandbox) run: String,
    /// Whose workspace it sees.
    pub(in crate::sandbox) id: SandboxId,
    pub(in crate::sandbox) bundle: Option<PathBuf>,
    pub(in crate::sandbox) program: String,
    pub(in crate::sandbox) args: Vec<String>,
    pub(in crate::sandbox) env: Vec<(String, String)>,
    pub(in crate::sandbox) limits: SandboxLimits,
    /// Where `/usr` is taken from.
    pub(in crate::sandbox) rootfs: PathBuf,
    /// No run without the kernel's own limits for memory and processes, and Landlock.
    pub(in crate::sandbox) strict: bool,
    /// Whether it is to have a door to the server.
    pub(in crate::sandbox) network: bool,
}

/// One process for the container engine to fence in, on a place that the spawner has made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::sandbox) struct Contain {
    pub(in crate::sandbox) launch: Launch,
    /// The image's digest.
    pub(in crate::sandbox) image: String,
    pub(in crate::sandbox) place: Place,
    /// What the program's environment is to hold beside the plain, and the engine is not to know.
    pub(in crate::sandbox) secrets: Vec<(String, String)>,
}

/// A workspace, and whose it is on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::sandbox) struct Place {
    pub(in crate::sandbox) workspace: PathBuf,
    pub(in crate::sandbox) uid: u32,
    pub(in crate::sandbox) gid: u32,
    /// No other sandbox has this user.
    pub(in crate::sandbox) own_uid: bool,
}

/// Which engine there is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::sandbox) struct EngineFacts {
    /// Its name and version.
    pub(in crate::sandbox) name: String,
    /// What it runs containers with, where the operator said so.
    pub(in crate::sandbox) runtime: Option<String>,
    /// Whether its containers can be given a door.
    pub(in crate::sandbox) doors: bool,
}

/// What the server asks of the spawner, and some of it of the container engine's keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::sandbox) enum Ask {
    /// Descriptors: stdin, stdout, stderr, and where init tells how it goes.
    Boot(Launch),
    /// After a run's end: what is left of it.
    Collect {
        run: String,
    },
    Usage {
        run: String,
    },
    /// The workspace and everything that uses it.
    Destroy {
        id: SandboxId,
    },
    /// Every workspace but these.
    Sweep {
        live: Vec<SandboxId>,
    },
    /// Of the spawner: a workspace that the whole host sees, for a container.
    Provision {
        id: SandboxId,
    },
    /// Of the keeper. Descriptors as for [`Ask::Boot`].
    Contain(Contain),
    /// Of the keeper, once a container stands that may reach something: its door.
    Door {
        run: String,
    },
    /// Of the keeper: what the engine is.
    Engine,
    /// Of the keeper: an image's digest, pulled if it is not there and may be.
    Image {
        name: String,
        pull: bool,
    },
}

/// What the spawner answers.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::sandbox) enum Told {
    /// Descriptors: the pidfd of init, and its door, where it has one; of a container, a pipe whose end ends it.
    Booted(Booted),
    /// Descriptor: a container's door.
    Door,
    Ended {
        oom: bool,
        usage: Usage,
    },
    Usage(Usage),
    Swept(Vec<SandboxId>),
    Place(Place),
    Engine(EngineFacts),
    /// None while it is being pulled.
    Image(Option<String>),
    Done,
    Failed(SandboxError),
}

/// What a run stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::sandbox) struct Booted {
    /// The process of init, as the host sees it.
    pub(in crate::sandbox) pid: i32,
    /// The kernel bounds memory and processes.
    pub(in crate::sandbox) hard_memory: bool,
    /// The kernel bounds the workspace.
    pub(in crate::sandbox) hard_disk: bool,
    /// It has a user id that no other sandbox has.
    pub(in crate::sandbox) own_uid: bool,
    /// The kernel bounds how fast its workspace's disk is.
    pub(in crate::sandbox) paced_disk: bool,
}

/// The steps between spawner, launcher and init, in their order.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Step {
    /// To the launcher: it is where it is counted.
    Go,
    /// From the launcher: it has new namespaces, and no user yet.
    Unshared,
    /// To the launcher: its user is mapped.
    Mapped,
    /// From the launcher, its last word: init's process.
    Born(i32),
    /// To init. Descriptors: those of [`Ask::Boot`], then the workspace's path.
    Launch {
        launch: Box<Launch>,
        workspace: PathBuf,
        hard_memory: bool,
    },
    /// From init: it dies with the spawner from now on, whatever comes. Descriptor: its door, where it has one.
    Armed,
    Failed(String),
}

/// What init tells the server: `Ready` or `Failed`, then the program's end.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::sandbox) enum Status {
    Ready { landlock: bool },
    Failed(String),
    Exit(i32),
    Signal(i32),
}

pub(in crate::sandbox) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends a message and descriptors with it.
pub(in crate::sandbox) fn send(socket: impl AsFd, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut text = File::from(memfd_create("message", MemfdFlags::CLOEXEC)?);
    text.write_all(&serde_json::to_vec(message)?)?;
    text.rewind()?;
    let mut all = vec![text.as_fd()];
    all.extend_from_slice(fds);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&all)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    retry_on_intr(|| sendmsg(&socket, &[IoSlice::new(b"m")], &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// The next message; none when the other side is gone.
pub(in crate::sandbox) fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0; 1];
    let received = retry_on_intr(|| recvmsg(&socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC));
    match received {
        Ok(received) if received.bytes == 0 => return Ok(None),
        Ok(_) => {}
        Err(Errno::CONNRESET) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if fds.is_empty() {
        return Err(io::Error::other("a message without its text"));
    }
    let mut text = Vec::new();
    File::from(fds.remove(0)).read_to_end(&mut text)?;
    Ok(Some((serde_json::from_slice(&text)?, fds)))
}

/// The answer to something that was asked; an end without one is a fault.
pub(super) fn expect<T: DeserializeOwned>(socket: impl AsFd) -> Outcome<(T, Vec<OwnedFd>)> {
    let gone = || SandboxError::Internal("a process that starts sandboxes ended too early".to_owned());
    receive(socket).map_err(|error| SandboxError::Internal(error.to_string()))?.ok_or_else(gone)
}

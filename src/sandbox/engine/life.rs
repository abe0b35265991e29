//! One container from its making to its removal: its streams are the server's pipes, its cord is the server's way to end it.

use super::{SandboxError, door, ground};
use crate::sandbox::{Result, native::wire::Status};
use bollard::{
    Docker,
    container::{AttachContainerResults, LogOutput},
    models::ContainerCreateBody,
    query_parameters::{AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, KillContainerOptions, WaitContainerOptionsBuilder},
};
use futures_util::StreamExt;
use std::{os::fd::OwnedFd, sync::PoisonError, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
    sync::oneshot,
    time::timeout,
};
use zeroize::Zeroizing;

/// A container that was killed is gone by then.
const END: Duration = Duration::from_secs(10);

/// The sandbox's ends of its pipes, and the cord.
pub(super) struct Ends {
    stdin: pipe::Receiver,
    stdout: pipe::Sender,
    stderr: pipe::Sender,
    status: pipe::Sender,
    cord: pipe::Receiver,
    stopped: oneshot::Receiver<()>,
}

impl Ends {
    pub(super) fn new(fds: Vec<OwnedFd>, cord: OwnedFd, stopped: oneshot::Receiver<()>) -> Result<Self> {
        let trouble = |error: std::io::Error| SandboxError::Internal(format!("a sandbox's pipe: {error}"));
        let [stdin, stdout, stderr, status] =
            <[OwnedFd; 4]>::try_from(fds).map_err(|_| SandboxError::Internal("a sandbox has four pipes".to_owned()))?;
        Ok(Self {
            stdin: pipe::Receiver::from_owned_fd(stdin).map_err(trouble)?,
            stdout: pipe::Sender::from_owned_fd(stdout).map_err(trouble)?,
            stderr: pipe::Sender::from_owned_fd(stderr).map_err(trouble)?,
            status: pipe::Sender::from_owned_fd(status).map_err(trouble)?,
            cord: pipe::Receiver::from_owned_fd(cord).map_err(trouble)?,
            stopped,
        })
    }
}

/// Lives a container's life. What comes back is whether memory was what it died of; it is removed by then.
pub(super) async fn live(
    docker: Docker,
    name: String,
    body: ContainerCreateBody,
    preamble: Zeroizing<Vec<u8>>,
    way_out: Option<door::Place>,
    ends: Ends,
) -> bool {
    let Ends { stdin, stdout, stderr, mut status, mut cord, stopped } = ends;
    let started = async {
        let attached = start(&docker, &name, body).await.map_err(|error| format!("the container engine refused: {error}"))?;
        if let Some(place) = way_out {
            let door = door::open_in(&docker, &name).await.map_err(|error| format!("the container's way out: {error}"))?;
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(door);
        }
        Ok::<_, String>(attached)
    };
    let attached = match started.await {
        Ok(attached) => attached,
        Err(why) => {
            tell(&mut status, &Status::Failed(why)).await;
            drop(ground::remove(&docker, &name).await);
            return false;
        }
    };
    tell(&mut status, &Status::Ready { landlock: false }).await;
    let AttachContainerResults { output, input } = attached;
    let feeding = tokio::spawn(feed(stdin, input, preamble));
    let own_end = async {
        pass_on(output, stdout, stderr).await;
        wait(&docker, &name).await;
    };
    // A word or an end: both mean the same.
    let wanted_end = async {
        tokio::select! { _ = cord.read_u8() => {}, _ = stopped => {} }
    };
    let by_itself = tokio::select! {
        () = own_end => true,
        () = wanted_end => {
            drop(docker.kill_container(&name, None::<KillContainerOptions>).await);
            drop(timeout(END, wait(&docker, &name)).await);
            false
        }
    };
    feeding.abort();
    let state = docker.inspect_container(&name, None).await.ok().and_then(|container| container.state).unwrap_or_default();
    if let Err(error) = ground::remove(&docker, &name).await {
        // The keeper's next life finds it by its label.
        tell(&mut status, &Status::Failed(format!("the container could not be removed: {error}"))).await;
    }
    if !by_itself {
        // Whoever ended it knows why.
        return false;
    }
    let code = state.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or(-1);
    tell(&mut status, &if (129..=192).contains(&code) { Status::Signal(code - 128) } else { Status::Exit(code) }).await;
    state.oom_killed == Some(true)
}

/// Made, attached to and started, in this order: nothing that it says is lost.
async fn start(
    docker: &Docker,
    name: &str,
    body: ContainerCreateBody,
) -> std::result::Result<AttachContainerResults, bollard::errors::Error> {
    docker.create_container(Some(CreateContainerOptionsBuilder::default().name(name).build()), body).await?;
    let streams = AttachContainerOptionsBuilder::default().stream(true).stdin(true).stdout(true).stderr(true).build();
    let attached = docker.attach_container(name, Some(streams)).await?;
    docker.start_container(name, None).await?;
    Ok(attached)
}

async fn wait(docker: &Docker, name: &str) {
    let stopped = WaitContainerOptionsBuilder::default().condition("not-running").build();
    // An answer and an error both mean that it runs no more: codes that are not zero are told as errors.
    let waiting = docker.wait_container(name, Some(stopped));
    futures_util::pin_mut!(waiting);
    drop(waiting.next().await);
}

/// What the server writes, to the end, becomes the container's stdin.
async fn feed(mut from: pipe::Receiver, mut to: std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>>, preamble: Zeroizing<Vec<u8>>) {
    if to.write_all(&preamble).await.is_ok() && to.flush().await.is_ok() {
        drop(tokio::io::copy(&mut from, &mut to).await);
    }
    drop(to.shutdown().await);
    // Its end is the end of the connection, and with it of what it says.
    std::future::pending::<()>().await;
}

/// What the container says, until it says no more. Whoever does not listen any more misses it.
async fn pass_on(
    mut output: std::pin::Pin<Box<dyn futures_util::Stream<Item = std::result::Result<LogOutput, bollard::errors::Error>> + Send>>,
    mut stdout: pipe::Sender,
    mut stderr: pipe::Sender,
) {
    while let Some(Ok(piece)) = output.next().await {
        match piece {
            LogOutput::StdErr { message } => drop(stderr.write_all(&message).await),
            LogOutput::StdOut { message } | LogOutput::Console { message } => drop(stdout.write_all(&message).await),
            LogOutput::StdIn { .. } => {}
        }
    }
}

async fn tell(status: &mut pipe::Sender, what: &Status) {
    let line = serde_json::to_string(what).unwrap_or_default();
    drop(status.write_all(format!("{line}\n").as_bytes()).await);
}

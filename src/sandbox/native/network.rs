//! The one door of a sandbox that may reach something: a socket that listens inside its network namespace and is handed to the server, which takes
//! what comes. There is no file to find, no process in between, and no other way: the namespace has loopback alone.

use rustix::{
    io::retry_on_intr,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with},
};
use std::{
    io,
    net::{Ipv4Addr, TcpListener},
    os::fd::OwnedFd,
};

/// Where the proxy listens inside.
pub(in crate::sandbox) const PORT: u16 = 3128;

/// Turns loopback on and listens. Needs the namespace's capabilities.
pub(in crate::sandbox) fn open_door() -> Result<OwnedFd, String> {
    loopback_up().map_err(|error| format!("the sandbox's loopback: {error}"))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT)).map_err(|error| format!("the sandbox's way out: {error}"))?;
    Ok(listener.into())
}

/// One message of route netlink: link 1, which is loopback in every namespace, is to be up.
fn loopback_up() -> io::Result<()> {
    const HEADER: u32 = 16;
    const MESSAGE: u32 = 16;
    let up = libc::IFF_UP.unsigned_abs();
    let mut request = Vec::new();
    request.extend_from_slice(&(HEADER + MESSAGE).to_ne_bytes());
    request.extend_from_slice(&libc::RTM_NEWLINK.to_ne_bytes());
    request.extend_from_slice(&number(libc::NLM_F_REQUEST | libc::NLM_F_ACK)?.to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    // The link: of no family and type, number 1, these flags, and which of them are meant.
    request.extend_from_slice(&[0; 4]);
    request.extend_from_slice(&1_i32.to_ne_bytes());
    request.extend_from_slice(&up.to_ne_bytes());
    request.extend_from_slice(&up.to_ne_bytes());
    // Of netlink's protocols, the first.
    let route = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    retry_on_intr(|| send(&route, &request, SendFlags::empty()))?;
    let mut answer = [0_u8; 256];
    let (_, length) = retry_on_intr(|| recv(&route, &mut answer, RecvFlags::empty()))?;
    // The code stands behind the header; 0 is fine, everything else an error below zero.
    let code = answer.get(16..20).filter(|_| length >= 20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("the kernel answered something else")),
    }
}

fn number(flags: i32) -> io::Result<u16> {
    u16::try_from(flags).map_err(io::Error::other)
}

//! The fence around what tenants send: what must not get out, as attempts from inside, each under root and under a plain user. `cage` is what
//! they stand on; whatever this machine cannot show is named and not passed. The attempts have the numbers of docs/sandbox.md.

mod cage;
mod engine; // sandboxes that are containers
mod host; // files, processes, sockets and secrets of the host and of other sandboxes
mod kernel; // system calls, capabilities, devices, mounts
mod life; // how sandboxes end, and what outlives them
mod load; // many at once, and what they cost
mod runner; // tools made of functions, results, the protocol's descriptors
mod waste; // forks, floods, full disks
mod work; // files in and out of a workspace

use cage::as_both;

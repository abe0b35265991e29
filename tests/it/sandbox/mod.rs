//! The fence around what tenants send: what must not get out, as attempts from inside, each under root and under a plain user. `cage` is what
//! they stand on; whatever this machine cannot show is named and not passed. The attempts have the numbers of docs/sandbox.md.

mod alone; // calls that are given up, and those beside them
mod bundles; // archives over the API
mod cage;
mod demo; // the examples, with the offline model
mod egress; // the way out that is granted
mod engine; // sandboxes that are containers
mod host; // files, processes, sockets and secrets of the host and of other sandboxes
mod kernel; // system calls, capabilities, devices, mounts
mod life; // how sandboxes end, and what outlives them
mod load; // many at once, and what they cost
mod money; // loops on dry wallets
mod neighbours; // what the noise of one does to another
mod runner; // tools made of functions, results, the protocol's descriptors
pub mod shelf;
#[cfg(feature = "failpoints")]
mod snapshots; // copies of workspaces, and the way back
mod takeout; // workspaces that leave with their tenant
mod turns; // agents whose tools the server runs
mod waste; // forks, floods, full disks
mod work; // files in and out of a workspace

use cage::as_both;

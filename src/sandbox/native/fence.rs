//! Landlock: of what the mounts show, what may be written; no port may be bound, and none dialled but the door's, where there is one; no abstract socket and no process outside reached.
//! A second fence behind the first: each of them would do alone.

use super::network::PORT;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};

/// The newest version that this file knows; older kernels enforce what they have.
const NEWEST: ABI = ABI::V6;
const WRITABLE: [&str; 3] = ["/workspace", "/tmp", "/dev/shm"];
const DEVICES: [&str; 3] = ["/dev/null", "/dev/zero", "/dev/full"];

/// Puts it up around this process and everything that it will start. Whether the kernel has it at all.
pub(super) fn put_up(door: bool) -> Result<bool, String> {
    let status = restrict(door).map_err(|error| format!("Landlock refused its rules: {error}"))?;
    Ok(status != RulesetStatus::NotEnforced)
}

fn restrict(door: bool) -> Result<RulesetStatus, landlock::RulesetError> {
    let all = AccessFs::from_all(NEWEST);
    let write = all & !(AccessFs::MakeChar | AccessFs::MakeBlock);
    let device: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    let places = [("/", AccessFs::from_read(NEWEST))]
        .into_iter()
        .chain(WRITABLE.map(|path| (path, write)))
        .chain(DEVICES.map(|path| (path, device)));
    for (path, access) in places {
        // What is not there needs no rule: whatever has none is closed.
        if let Ok(fd) = PathFd::new(path) {
            rules = rules.add_rule(PathBeneath::new(fd, access))?;
        }
    }
    if door {
        rules = rules.add_rule(NetPort::new(PORT, AccessNet::ConnectTcp))?;
    }
    Ok(rules.restrict_self()?.ruleset)
}

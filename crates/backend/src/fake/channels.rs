//! The channels of one of the fake's machines: the host's ends are in its state, the guest's ends are
//! there too, so that the machine's end closes them, and with the guest's threads.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    sync::Arc,
    thread,
};

use super::{
    Bug,
    guest::{Memory, Vcpu},
    inner::State,
};
use crate::MachineSpec;

/// The guest's ends.
#[derive(Debug)]
pub(super) struct GuestEnds {
    pub(super) agent: UnixStream,
    pub(super) network: Option<UnixStream>,
    pub(super) files: Option<UnixStream>,
}

/// The channels that `spec` asks for.
pub(super) fn make(
    spec: &MachineSpec,
    bug: Option<Bug>,
    memory: &Memory,
) -> io::Result<(State, GuestEnds)> {
    let (channel, agent) = UnixStream::pair()?;
    let forgets = |what| bug == Some(what) && memory.is_restored();
    let (network, guest_network) =
        pair_if(spec.network.is_some() && !forgets(Bug::ForgetsNetwork))?;
    let (files, guest_files) = pair_if(spec.file_channel && !forgets(Bug::ForgetsFiles))?;
    let again = |end: &Option<UnixStream>| end.as_ref().map(UnixStream::try_clone).transpose();
    let state = State {
        guest: Some(agent.try_clone()?),
        channel: Some(channel),
        guest_network: again(&guest_network)?,
        network,
        guest_files: again(&guest_files)?,
        files,
        ..State::default()
    };
    let ends = GuestEnds {
        agent,
        network: guest_network,
        files: guest_files,
    };
    Ok((state, ends))
}

fn pair_if(wanted: bool) -> io::Result<(Option<UnixStream>, Option<UnixStream>)> {
    let pair = wanted.then(UnixStream::pair).transpose()?;
    Ok(pair.unzip())
}

/// The guest's end of the file channel: it sends back what it gets, until it is closed.
pub(super) fn send_back(mut files: UnixStream, vcpu: Arc<Vcpu>, changes: bool) -> io::Result<()> {
    thread::Builder::new()
        .name("fake-files".to_owned())
        .spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = files.read(&mut buffer) {
                if changes {
                    buffer[0] ^= 1;
                }
                let sent = vcpu.step(|| files.write_all(&buffer[..length]));
                if !matches!(sent, Some(Ok(()))) {
                    return;
                }
            }
        })
        .map(drop)
}

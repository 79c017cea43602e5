//! The network interface: frames both ways, also after a restore. Backends without one have nothing
//! to prove here.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use cofferdam_types::MacAddress;

use super::{
    FRAME_TYPE, Guest, Harness, Outcome, Running, Violation,
    clock::bounded,
    outcome::{ensure, refused},
    snapshots::{Captured, capture_of},
};
use crate::{
    CapturePlan, ETHERNET_HEADER_BYTES, ErrorKind, MAX_MTU, Machine, MachineSpec, NetworkInterface,
    SnapshotFiles, SnapshotTier,
};

const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 1];
const HOST: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// The least frame without its check sum, in bytes; IEEE 802.3, 3.2.8.
const LEAST_FRAME_BYTES: usize = 60;

/// How much of a length is believed when a frame is read.
const MOST_FRAME_BYTES: usize = MAX_MTU as usize + ETHERNET_HEADER_BYTES;

fn spec(harness: &dyn Harness, mtu: u16) -> Result<MachineSpec, Violation> {
    let mac = MacAddress::new(GUEST).ok_or_else(|| Violation::new("not an address"))?;
    Ok(MachineSpec {
        network: Some(NetworkInterface { mac, mtu }),
        ..harness.spec()
    })
}

/// The host's end of a machine's interface.
struct Wire(UnixStream);

impl Wire {
    fn of(machine: &dyn Machine, limit: Duration) -> Result<Self, Violation> {
        let stream = machine.network_channel()?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        Ok(Self(stream))
    }

    fn send(&mut self, frame: &[u8]) -> Outcome {
        let length = u32::try_from(frame.len()).map_err(|_| Violation::new("a long frame"))?;
        // In one piece, as a sound host sends it.
        let framed = [&length.to_be_bytes(), frame].concat();
        Ok(self.0.write_all(&framed)?)
    }

    /// The next frame of [`FRAME_TYPE`]; a guest's kernel sends others by itself.
    fn receive(&mut self) -> Result<Vec<u8>, Violation> {
        loop {
            let mut length = [0; 4];
            self.0.read_exact(&mut length)?;
            let length = u32::from_be_bytes(length) as usize;
            ensure(length <= MOST_FRAME_BYTES, || {
                format!("a frame of {length} bytes")
            })?;
            let mut frame = vec![0; length];
            self.0.read_exact(&mut frame)?;
            if frame.get(12..14) == Some(&FRAME_TYPE) {
                return Ok(frame);
            }
        }
    }
}

/// A frame of `length` bytes to the address `to`.
fn frame(to: [u8; 6], length: usize, seed: u8) -> Vec<u8> {
    let mut frame = [&to[..], &HOST, &FRAME_TYPE].concat();
    let payload = (0..=u8::MAX).cycle().map(|at| at.wrapping_mul(31) ^ seed);
    let missing = length - frame.len();
    frame.extend(payload.take(missing));
    frame
}

/// A frame goes to the guest and comes back.
fn echo(wire: &mut Wire, guest: &mut dyn Guest, of: [u8; 6], length: usize, seed: u8) -> Outcome {
    let sent = frame(of, length, seed);
    guest.begin_echo()?;
    wire.send(&sent)?;
    let back = wire.receive()?;
    let expected = [&HOST[..], &of, &sent[12..]].concat();
    ensure(back == expected, || {
        format!(
            "a frame of {length} bytes came back as one of {}",
            back.len()
        )
    })?;
    let seen = guest.end_echo()?;
    ensure(seen == length as u64, || {
        format!("the guest received {seen} bytes of {length}")
    })
}

pub(super) async fn frames_go_both_ways_whole_and_alone(harness: &dyn Harness) -> Outcome {
    if !harness.backend().capabilities().network {
        return Ok(());
    }
    let spec = spec(harness, MAX_MTU)?;
    let Running { machine, mut guest } = Running::start(harness, &spec).await?;
    let mut wire = Wire::of(&*machine, harness.limit())?;
    let mac = guest.mac()?;
    ensure(mac == GUEST, || format!("its address is {mac:02x?}"))?;
    for (length, seed) in [
        (LEAST_FRAME_BYTES, 1),
        (1514, 2),
        (MOST_FRAME_BYTES, 3),
        (LEAST_FRAME_BYTES, 4),
    ] {
        echo(&mut wire, &mut *guest, GUEST, length, seed)?;
    }
    bounded(harness, "kill", machine.kill()).await??;
    Ok(())
}

pub(super) async fn the_network_channel_can_be_taken_once_and_only_if_there_is_one(
    harness: &dyn Harness,
) -> Outcome {
    if !harness.backend().capabilities().network {
        return Ok(());
    }
    let kinds = [ErrorKind::WrongState];
    let without = Running::start(harness, &harness.spec()).await?;
    let none = without.machine.network_channel();
    refused("the channel of no interface", none, &kinds)?;
    let spec = spec(harness, 1500)?;
    let with = Running::start(harness, &spec).await?;
    let _wire = with.machine.network_channel()?;
    let again = with.machine.network_channel();
    refused("taking the network channel twice", again, &kinds)?;
    let attached = harness.backend().attach(spec.run_dir).await?;
    let strange = attached.network_channel();
    refused("an attached handle's network channel", strange, &kinds)
}

pub(super) async fn restored_machines_have_network_channels_of_their_own(
    harness: &dyn Harness,
) -> Outcome {
    let can = harness.backend().capabilities();
    if !can.network || !can.fork {
        return Ok(());
    }
    for shared in [true, false] {
        let captured = capture_of(harness, spec(harness, MAX_MTU)?, shared).await?;
        let mut first = captured.fork(harness).await?;
        let mut second = captured.fork(harness).await?;
        let mut first_wire = Wire::of(&*first.machine, harness.limit())?;
        let mut second_wire = Wire::of(&*second.machine, harness.limit())?;
        echo(&mut first_wire, &mut *first.guest, GUEST, 1514, 1)?;
        echo(&mut second_wire, &mut *second.guest, GUEST, 1514, 2)?;
        // Each with the address of its own that it gets by its agent.
        let own = [2, 0, 0, 0, 0, 9];
        first.guest.set_mac(own)?;
        let other = second.guest.mac()?;
        ensure(other == GUEST, || {
            format!("a fork's address is {other:02x?}")
        })?;
        echo(&mut first_wire, &mut *first.guest, own, MOST_FRAME_BYTES, 3)?;
        drop(first_wire);
        echo(
            &mut second_wire,
            &mut *second.guest,
            GUEST,
            LEAST_FRAME_BYTES,
            4,
        )?;
        // Without its host a link is down, and the machine lives.
        first.guest.tick()?;
    }
    Ok(())
}

pub(super) async fn a_live_capture_has_the_interface_and_the_machine_keeps_its_own(
    harness: &dyn Harness,
) -> Outcome {
    let can = harness.backend().capabilities();
    if !can.network || can.snapshot < SnapshotTier::Live {
        return Ok(());
    }
    let begun = capture_of(harness, spec(harness, MAX_MTU)?, true).await?;
    let mut source = begun.fork(harness).await?;
    let mut wire = Wire::of(&*source.machine, harness.limit())?;
    let dir = harness.directory();
    let files = SnapshotFiles {
        memory: dir.join("memory"),
        state: dir.join("state"),
    };
    let plan = CapturePlan {
        memory: Some(files.clone()),
        disks: Vec::new(),
    };
    let mut capture = bounded(harness, "begin", source.machine.begin_capture(plan)).await??;
    echo(&mut wire, &mut *source.guest, GUEST, 1514, 1)?;
    bounded(harness, "pause", source.machine.pause()).await??;
    bounded(harness, "take", capture.take()).await??;
    bounded(harness, "resume", source.machine.resume()).await??;
    echo(&mut wire, &mut *source.guest, GUEST, MOST_FRAME_BYTES, 2)?;
    bounded(harness, "settle", capture.settle()).await??;
    let mut taken = begun.with_files(files).fork(harness).await?;
    let mut taken_wire = Wire::of(&*taken.machine, harness.limit())?;
    echo(
        &mut taken_wire,
        &mut *taken.guest,
        GUEST,
        MOST_FRAME_BYTES,
        3,
    )?;
    echo(&mut wire, &mut *source.guest, GUEST, LEAST_FRAME_BYTES, 4)
}

pub(super) async fn a_snapshot_fits_only_a_machine_with_the_same_interface(
    harness: &dyn Harness,
) -> Outcome {
    let can = harness.backend().capabilities();
    if !can.network || can.snapshot < SnapshotTier::Memory {
        return Ok(());
    }
    let with = capture_of(harness, spec(harness, 1500)?, false).await?;
    let without = capture_of(harness, harness.spec(), false).await?;
    let other = |of: &Captured, network: Option<NetworkInterface>| {
        let spec = MachineSpec {
            network,
            ..of.spec(harness)
        };
        let files = of.files.clone();
        async move {
            let restored = harness.backend().restore(&files, &spec);
            let restored = bounded(harness, "restore", restored).await?;
            refused(
                "restoring with another interface",
                restored,
                &[ErrorKind::BadSnapshot],
            )
        }
    };
    other(&with, None).await?;
    other(&with, spec(harness, 9000)?.network).await?;
    other(&without, spec(harness, 1500)?.network).await
}

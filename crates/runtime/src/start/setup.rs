//! What a sandbox's record says to its guest.

use cofferdam_proto::GuestNetwork;

use crate::{link::GuestSetup, store::SandboxRecord};

/// The sandbox of `record`, with its network, as its guest must know it. Its machine id is the start of its own, so
/// that it is the same at every start and after a restore, and a fork's is another.
pub(crate) fn guest_setup(record: &SandboxRecord, network: Option<GuestNetwork>) -> GuestSetup {
    /// Length of a machine id; machine-id(5).
    const DIGITS: usize = 32;
    let mut machine_id = record.id.to_string();
    machine_id.truncate(DIGITS);
    let origin = record.forked_from.as_ref();
    let index = origin.map(|origin| origin.index);
    GuestSetup {
        is_fork: origin.is_some(),
        network,
        fork_index: index.filter(|index| *index > 0),
        ..GuestSetup::new(
            &record.spec,
            record.process.clone(),
            record.hostname.clone(),
            machine_id,
        )
    }
}

//! Who must act on a failure.

use serde::{Deserialize, Serialize};

/// Who must act on a failure; decides the exit code and the tone of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Blame {
    /// The caller asked for something wrong or impossible.
    User,
    /// The guest, its kernel or its image misbehaved.
    Guest,
    /// The host lacks something: a program, permission, space, memory.
    Host,
    /// A remote party (a registry) failed or lied.
    Remote,
    /// Cofferdam broke one of its own rules.
    Bug,
}

//! The guest that the checks talk to, and the wire on which they do.
//!
//! ```text
//! request: [operation: u8][a: u64 LE][b: u64 LE]      answer: [u64 LE]
//! ```
//! The guest keeps a counter, an area of memory pages and a disk in blocks of [`BLOCK_BYTES`]. The
//! fake's guest is a thread; a real backend's harness boots a program that speaks the same.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

/// Bytes of a block of the guest's disk: far enough apart that each lies in a cluster of its own
/// of whatever tracks a disk's changes.
pub const BLOCK_BYTES: u64 = 128 << 10;

/// Blocks that [`Guest::begin_rounds`] writes in turn.
pub const ROUND_BLOCKS: u64 = 16;

/// The type of the frames that guest and host exchange. Source: IEEE 802-2014, 9.2.4, for local
/// experiments.
pub const FRAME_TYPE: [u8; 2] = [0x88, 0xb5];

/// The answer to [`operation::ROUNDS`] of a guest whose disk and memory disagree.
pub const DISAGREE: u64 = u64::MAX;

/// Numbers of the operations.
pub mod operation {
    /// Adds one to the counter and answers it.
    pub const TICK: u8 = 0;
    /// Fills the first `a` pages of the area by the seed `b`, and gives back all after them.
    pub const FILL: u8 = 1;
    /// Answers the first page of `a` that is not filled by the seed `b`; `a` if all are.
    pub const VERIFY: u8 = 2;
    /// Writes `b` to the block `a` and answers when that is on the disk.
    pub const WRITE_BLOCK: u8 = 3;
    /// Answers the word in block `a`, from the disk.
    pub const READ_BLOCK: u8 = 4;
    /// Begins rounds.
    pub const BEGIN_ROUNDS: u8 = 5;
    /// Answers the rounds that are over, or [`super::DISAGREE`](super::DISAGREE).
    pub const ROUNDS: u8 = 6;
    /// Waits for a frame of the type [`super::FRAME_TYPE`] from the host, sends it back with sender
    /// and receiver exchanged, and answers its length.
    pub const ECHO: u8 = 7;
    /// Answers the address of the network interface: its six bytes, the first in the lowest byte.
    pub const MAC: u8 = 8;
    /// Gives the network interface the address `a`, as [`MAC`] answers it.
    pub const SET_MAC: u8 = 9;
}

/// A program in the guest with a counter, an area of memory and a disk.
pub trait Guest: Send + Sync {
    /// Adds one to the counter and answers it, in this machine and in those restored from it.
    ///
    /// # Errors
    /// When the guest does not answer within a time that the harness sets; so for all others.
    fn tick(&mut self) -> io::Result<u64>;

    /// Whether there is no answer while the vCPUs are stopped: asks for a tick, and looks after a
    /// while. The answer that comes later is thrown away.
    ///
    /// # Errors
    /// The channel's.
    fn is_silent(&mut self) -> io::Result<bool>;

    /// Fills the first `pages` pages of the area with what [`filling`] says, and frees the rest.
    ///
    /// # Errors
    /// As for [`Guest::tick`].
    fn fill(&mut self, pages: u64, seed: u64) -> io::Result<()>;

    /// The first of `pages` pages that is not as [`Guest::fill`] with `seed` would leave it.
    ///
    /// # Errors
    /// As for [`Guest::tick`].
    fn differs(&mut self, pages: u64, seed: u64) -> io::Result<Option<u64>>;

    /// Writes a word to a block of the first disk; it is on the disk then.
    ///
    /// # Errors
    /// As for [`Guest::tick`].
    fn write_block(&mut self, block: u64, word: u64) -> io::Result<()>;

    /// Reads a block's word from the disk itself.
    ///
    /// # Errors
    /// As for [`Guest::tick`].
    fn read_block(&mut self, block: u64) -> io::Result<u64>;

    /// Begins to write rounds without an end: round `n`, counted in memory, writes `n` to block
    /// `n` modulo [`ROUND_BLOCKS`] after it has found there what the last round of that block had
    /// written, and in the block before what the last round had.
    ///
    /// # Errors
    /// As for [`Guest::tick`].
    fn begin_rounds(&mut self) -> io::Result<()>;

    /// Rounds that are over; `None` if one found something else on the disk than its memory said.
    ///
    /// # Errors
    /// As for [`Guest::tick`].
    fn rounds(&mut self) -> io::Result<Option<u64>>;

    /// Asks the guest to send the next frame of the type [`FRAME_TYPE`] back, without waiting for
    /// it.
    ///
    /// # Errors
    /// The channel's.
    fn begin_echo(&mut self) -> io::Result<()>;

    /// Waits for the answer to [`Guest::begin_echo`]: the length of the frame in bytes.
    ///
    /// # Errors
    /// As for [`Guest::tick`].
    fn end_echo(&mut self) -> io::Result<u64>;

    /// The address of the network interface.
    ///
    /// # Errors
    /// As for [`Guest::tick`].
    fn mac(&mut self) -> io::Result<[u8; 6]>;

    /// Gives the network interface another address.
    ///
    /// # Errors
    /// As for [`Guest::tick`].
    fn set_mac(&mut self, mac: [u8; 6]) -> io::Result<()>;
}

/// The word that page `page` is full of when filled by `seed`: zero by the seed 0 and no other.
/// Source: Steele, Lea, Flood: Fast splittable pseudorandom number generators, `mix64`.
#[must_use]
pub const fn filling(page: u64, seed: u64) -> u64 {
    if seed == 0 {
        return 0;
    }
    let mut word = (page + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (word ^ (word >> 31)) | 1
}

/// The host's side of the wire.
#[derive(Debug)]
pub struct WireGuest {
    channel: UnixStream,
    silence: Duration,
    /// Answers that were not waited for and are still to come.
    stale: usize,
}

impl WireGuest {
    /// Takes an agent channel. An answer takes at most `limit`; none within `silence` is silence.
    ///
    /// # Errors
    /// The channel's.
    pub fn new(channel: UnixStream, limit: Duration, silence: Duration) -> io::Result<Self> {
        channel.set_read_timeout(Some(limit))?;
        Ok(Self {
            channel,
            silence,
            stale: 0,
        })
    }

    fn ask(&mut self, operation: u8, a: u64, b: u64) -> io::Result<()> {
        let mut request = vec![operation];
        request.extend(a.to_le_bytes());
        request.extend(b.to_le_bytes());
        self.channel.write_all(&request)
    }

    fn answer(&mut self) -> io::Result<u64> {
        let mut word = [0; 8];
        self.channel.read_exact(&mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    fn call(&mut self, operation: u8, a: u64, b: u64) -> io::Result<u64> {
        self.ask(operation, a, b)?;
        self.awaited()
    }

    /// The answer to the last question.
    fn awaited(&mut self) -> io::Result<u64> {
        while self.stale > 0 {
            self.answer()?;
            self.stale -= 1;
        }
        self.answer()
    }
}

impl Guest for WireGuest {
    fn tick(&mut self) -> io::Result<u64> {
        self.call(operation::TICK, 0, 0)
    }

    fn is_silent(&mut self) -> io::Result<bool> {
        self.ask(operation::TICK, 0, 0)?;
        let limit = self.channel.read_timeout()?;
        self.channel.set_read_timeout(Some(self.silence))?;
        let answer = self.answer();
        self.channel.set_read_timeout(limit)?;
        match answer {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.stale += 1;
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    fn fill(&mut self, pages: u64, seed: u64) -> io::Result<()> {
        self.call(operation::FILL, pages, seed).map(drop)
    }

    fn differs(&mut self, pages: u64, seed: u64) -> io::Result<Option<u64>> {
        let first = self.call(operation::VERIFY, pages, seed)?;
        Ok((first != pages).then_some(first))
    }

    fn write_block(&mut self, block: u64, word: u64) -> io::Result<()> {
        self.call(operation::WRITE_BLOCK, block, word).map(drop)
    }

    fn read_block(&mut self, block: u64) -> io::Result<u64> {
        self.call(operation::READ_BLOCK, block, 0)
    }

    fn begin_rounds(&mut self) -> io::Result<()> {
        self.call(operation::BEGIN_ROUNDS, 0, 0).map(drop)
    }

    fn rounds(&mut self) -> io::Result<Option<u64>> {
        let rounds = self.call(operation::ROUNDS, 0, 0)?;
        Ok((rounds != DISAGREE).then_some(rounds))
    }

    fn begin_echo(&mut self) -> io::Result<()> {
        self.ask(operation::ECHO, 0, 0)
    }

    fn end_echo(&mut self) -> io::Result<u64> {
        self.awaited()
    }

    fn mac(&mut self) -> io::Result<[u8; 6]> {
        let [a, b, c, d, e, f, ..] = self.call(operation::MAC, 0, 0)?.to_le_bytes();
        Ok([a, b, c, d, e, f])
    }

    fn set_mac(&mut self, mac: [u8; 6]) -> io::Result<()> {
        let [a, b, c, d, e, f] = mac;
        let word = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        self.call(operation::SET_MAC, word, 0).map(drop)
    }
}

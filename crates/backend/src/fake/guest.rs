//! The fake's guest: threads that do what the contract's guest does.
//!
//! Every step that touches memory or the disk is taken while the processor is held, so that none
//! is under way once a pause has returned.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::{fs::FileExt, net::UnixStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use super::Bug;
use crate::contract::{BLOCK_BYTES, DISAGREE, ROUND_BLOCKS, filling, operation};

/// Words ahead of the area of pages.
pub(super) const HEAD_WORDS: usize = 4;

/// Guest memory, as far as anyone looks at it.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<Words>);

#[derive(Clone, Debug, Default)]
struct Words {
    counter: u64,
    /// Rounds that are over, or [`DISAGREE`].
    rounds: u64,
    writes_rounds: bool,
    /// Address of the network interface, as [`operation::MAC`] answers it.
    mac: u64,
    /// One word for each page.
    area: Vec<u64>,
}

impl Memory {
    /// Memory as it was captured.
    pub(super) fn of(words: &[u64]) -> Self {
        let word = |index: usize| words.get(index).copied().unwrap_or(0);
        let area = words.get(HEAD_WORDS..).unwrap_or_default();
        let area = area.iter().copied().take_while(|word| *word != 0);
        Self(Mutex::new(Words {
            counter: word(0),
            rounds: word(1),
            writes_rounds: word(2) != 0,
            mac: word(3),
            area: area.collect(),
        }))
    }

    /// Memory as it is captured; the area ends at a zero.
    pub(super) fn words(&self) -> Vec<u64> {
        let words = self.lock();
        let rounds = words.writes_rounds.into();
        let head: [u64; HEAD_WORDS] = [words.counter, words.rounds, rounds, words.mac];
        head.into_iter().chain(words.area.iter().copied()).collect()
    }

    /// Whether anything has happened in this memory.
    pub(super) fn is_restored(&self) -> bool {
        self.lock().counter != 0
    }

    pub(super) fn with_counter<T>(&self, change: impl FnOnce(&mut u64) -> T) -> T {
        change(&mut self.lock().counter)
    }

    /// Gives the interface of a machine that boots its address; a restored one has the captured.
    pub(super) fn begin_with_mac(&self, mac: [u8; 6]) {
        let mut words = self.lock();
        if words.mac == 0 {
            let [a, b, c, d, e, f] = mac;
            words.mac = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Words> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the guest's processor runs.
#[derive(Debug, Default)]
pub(super) struct Vcpu {
    state: Mutex<Power>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct Power {
    paused: bool,
    off: bool,
}

impl Vcpu {
    /// Pauses after the step that is under way.
    pub(super) fn set_paused(&self, paused: bool) {
        self.lock().paused = paused;
        self.changed.notify_all();
    }

    /// Ends every thread of the guest at its next step.
    pub(super) fn turn_off(&self) {
        self.lock().off = true;
        self.changed.notify_all();
    }

    pub(super) fn is_paused(&self) -> bool {
        self.lock().paused
    }

    fn lock(&self) -> MutexGuard<'_, Power> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one step of the guest when it may; `None` when it never will.
    pub(super) fn step<T>(&self, step: impl FnOnce() -> T) -> Option<T> {
        let mut power = self.lock();
        while power.paused && !power.off {
            power = self
                .changed
                .wait(power)
                .unwrap_or_else(PoisonError::into_inner);
        }
        (!power.off).then(step)
    }
}

/// What the guest's threads share.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) memory: Arc<Memory>,
    pub(super) vcpu: Arc<Vcpu>,
    /// The first disk.
    pub(super) disk: Option<Arc<File>>,
    /// The guest's end of the network interface.
    pub(super) network: Option<Arc<UnixStream>>,
    pub(super) bug: Option<Bug>,
}

impl Program {
    /// Answers until the channel is closed; a restored guest goes on with its rounds.
    pub(super) fn run(&self, mut channel: UnixStream) -> io::Result<()> {
        if self.memory.lock().writes_rounds {
            self.write_rounds()?;
        }
        let mut request = [0; 17];
        loop {
            channel.read_exact(&mut request)?;
            let word = |at: usize| {
                let bytes = request[at..].first_chunk().copied();
                u64::from_le_bytes(bytes.unwrap_or_default())
            };
            // Waited for outside of a step, so that the machine can be paused meanwhile.
            let frame = match request[0] {
                operation::ECHO => self.next_frame()?,
                _ => Vec::new(),
            };
            let answer = self
                .vcpu
                .step(|| match request[0] {
                    operation::ECHO => self.send_back(&frame),
                    what => self.answer(what, word(1), word(9)),
                })
                .ok_or(io::ErrorKind::UnexpectedEof)??;
            if request[0] == operation::BEGIN_ROUNDS {
                self.write_rounds()?;
            }
            if self.bug != Some(Bug::NeverAnswers) {
                channel.write_all(&answer.to_le_bytes())?;
            }
        }
    }

    fn answer(&self, what: u8, a: u64, b: u64) -> io::Result<u64> {
        let mut words = self.memory.lock();
        match what {
            operation::TICK => {
                words.counter += 1;
                Ok(words.counter)
            }
            operation::FILL => {
                words.area = (0..a).map(|page| filling(page, b)).collect();
                Ok(0)
            }
            operation::VERIFY => {
                let wrong = (0..a)
                    .zip(words.area.iter().copied().chain(std::iter::repeat(0)))
                    .find(|(page, word)| *word != filling(*page, b));
                Ok(wrong.map_or(a, |(page, _)| page))
            }
            operation::WRITE_BLOCK => self.write_block(a, b).map(|()| 0),
            operation::READ_BLOCK => self.read_block(a),
            operation::BEGIN_ROUNDS => {
                words.writes_rounds = true;
                Ok(0)
            }
            operation::ROUNDS => Ok(words.rounds),
            operation::MAC => Ok(words.mac),
            operation::SET_MAC => {
                words.mac = a;
                Ok(0)
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn network(&self) -> io::Result<&UnixStream> {
        self.network
            .as_deref()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn next_frame(&self) -> io::Result<Vec<u8>> {
        let mut network = self.network()?;
        let mut length = [0; 4];
        network.read_exact(&mut length)?;
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        network.read_exact(&mut frame)?;
        Ok(frame)
    }

    /// Sends a frame back with sender and receiver exchanged; answers its length.
    fn send_back(&self, frame: &[u8]) -> io::Result<u64> {
        let (Some(receiver), Some(sender), Some(rest)) =
            (frame.get(..6), frame.get(6..12), frame.get(12..))
        else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let mut back = [sender, receiver, rest].concat();
        if self.bug == Some(Bug::CutsFrames) {
            back.truncate(1000);
        }
        let length = u32::try_from(back.len()).map_err(io::Error::other)?;
        let length = length.to_be_bytes();
        let sent = self.network()?.write_all(&[&length, &back[..]].concat());
        sent.map(|()| frame.len() as u64)
    }

    fn disk(&self) -> io::Result<&File> {
        self.disk
            .as_deref()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read_block(&self, block: u64) -> io::Result<u64> {
        let mut word = [0; 8];
        self.disk()?.read_exact_at(&mut word, block * BLOCK_BYTES)?;
        Ok(u64::from_le_bytes(word))
    }

    fn write_block(&self, block: u64, word: u64) -> io::Result<()> {
        self.disk()?
            .write_all_at(&word.to_le_bytes(), block * BLOCK_BYTES)
    }

    fn write_rounds(&self) -> io::Result<()> {
        let program = self.clone();
        thread::Builder::new()
            .name("fake-rounds".to_owned())
            .spawn(move || while program.vcpu.step(|| program.round()).is_some() {})
            .map(drop)
    }

    /// The next round, as [`crate::contract::Guest::begin_rounds`] describes it.
    fn round(&self) {
        let mut words = self.memory.lock();
        if words.rounds == DISAGREE {
            return;
        }
        let round = words.rounds + 1;
        let (block, before) = (round % ROUND_BLOCKS, words.rounds % ROUND_BLOCKS);
        let agrees = self.read_block(block).ok() == Some(round.saturating_sub(ROUND_BLOCKS))
            && self.read_block(before).ok() == Some(words.rounds);
        let written = agrees && self.write_block(block, round).is_ok();
        words.rounds = if written { round } else { DISAGREE };
    }
}

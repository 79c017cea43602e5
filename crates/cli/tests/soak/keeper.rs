//! The workload of the soak test: keeps patterns in memory and on disk and says what they are.
//!
//! Built by itself with `rustc`, static; it is no part of the workspace. Without arguments it
//! serves; `ask WORDS` asks the one that serves and prints its answer. A block is written whole
//! with a stamp: the stamp itself, then words made of stamp, area and place, so that a block that
//! is half of one moment and half of another, or in the wrong place, cannot pass. `model.rs` has
//! the same arithmetic on the host's side.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::{FileExt, OpenOptionsExt},
            net::{SocketAddr, UnixListener, UnixStream},
        },
    },
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Sender, channel},
    },
    thread,
    time::Duration,
};

/// `O_DIRECT` on x86-64: what is read comes from the disk, not from the guest's memory.
const O_DIRECT: i32 = 0o40000;
/// Blocks of an area; `model::BLOCKS`.
const BLOCKS: u64 = 128;
const WORDS: usize = 512;
const BLOCK_BYTES: u64 = 4096;
/// Blocks that the rounds go through.
const ROUND_BLOCKS: u64 = 16;
/// Between two rounds, so that a guest of the test leaves the host's processors to the others.
const ROUND_PAUSE: Duration = Duration::from_millis(20);
const DISAGREE: u64 = u64::MAX;

type Block = [u64; WORDS];

#[repr(align(4096))]
struct Sector([u8; BLOCK_BYTES as usize]);

fn mix(mut word: u64) -> u64 {
    word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

fn block(area: u64, number: u64, stamp: u64) -> Block {
    let mut words = [0; WORDS];
    if stamp != 0 {
        for (index, word) in (0..).zip(&mut words) {
            *word = mix(stamp ^ mix((area << 48) | (number << 16) | index));
        }
        words[0] = stamp;
    }
    words
}

fn bytes(block: &Block) -> [u8; BLOCK_BYTES as usize] {
    let mut bytes = [0; BLOCK_BYTES as usize];
    for (bytes, word) in bytes.chunks_mut(8).zip(block) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// The stamp of a block, or none when it is not one that was written whole.
fn stamp(area: u64, number: u64, found: &[u8]) -> Option<u64> {
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    let stamp = word(&found[..8]);
    let wanted = block(area, number, stamp);
    let whole = found
        .chunks(8)
        .zip(&wanted)
        .all(|(found, wanted)| word(found) == *wanted);
    whole.then_some(stamp)
}

struct Keeper {
    /// Area 0.
    heap: Vec<Block>,
    /// Areas 1 (memory as a file) and 2 (the disk).
    files: [File; 2],
    /// Area 2 past the guest's memory.
    direct: File,
    rounds: Arc<AtomicU64>,
}

fn open(path: &str, flags: i32) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .custom_flags(flags)
        .open(path)?;
    file.set_len(BLOCKS * BLOCK_BYTES)?;
    Ok(file)
}

impl Keeper {
    fn new() -> io::Result<Self> {
        let rounds = Arc::new(AtomicU64::new(0));
        Ok(Self {
            heap: vec![[0; WORDS]; BLOCKS as usize],
            files: [open("/dev/shm/pattern", 0)?, open("/pattern", 0)?],
            direct: open("/pattern", O_DIRECT)?,
            rounds,
        })
    }

    fn write(&mut self, stamp: u64, count: u64, sync: bool) -> io::Result<()> {
        for step in 0..count {
            for area in 0..3 {
                let number = mix(stamp ^ (step << 8) ^ area) % BLOCKS;
                let block = block(area, number, stamp);
                match area {
                    0 => self.heap[number as usize] = block,
                    _ => self.files[area as usize - 1]
                        .write_all_at(&bytes(&block), number * BLOCK_BYTES)?,
                }
            }
        }
        if sync {
            self.files[1].sync_all()
        } else {
            Ok(())
        }
    }

    /// The stamps of all blocks of an area.
    fn show(&self, area: u64, direct: bool) -> io::Result<String> {
        let mut stamps = Vec::new();
        for number in 0..BLOCKS {
            let mut sector = Sector([0; BLOCK_BYTES as usize]);
            let place = number * BLOCK_BYTES;
            match (area, direct) {
                (0, _) => sector
                    .0
                    .copy_from_slice(&bytes(&self.heap[number as usize])),
                (2, true) => self.direct.read_exact_at(&mut sector.0, place)?,
                _ => self.files[area as usize - 1].read_exact_at(&mut sector.0, place)?,
            }
            stamps.push(match stamp(area, number, &sector.0) {
                Some(stamp) => format!("{stamp:x}"),
                None => "torn".to_owned(),
            });
        }
        Ok(stamps.join(" "))
    }

    fn answer(&mut self, question: &str) -> io::Result<String> {
        let words: Vec<&str> = question.split_whitespace().collect();
        let number = |word: &str| u64::from_str_radix(word, 16).map_err(io::Error::other);
        match words[..] {
            ["write", stamp, count, sync] => {
                self.write(number(stamp)?, number(count)?, sync == "sync")?;
                Ok("written".to_owned())
            }
            ["show"] => {
                let areas = [
                    self.show(0, false)?,
                    self.show(1, false)?,
                    self.show(2, false)?,
                ];
                self.files[1].sync_all()?;
                let rounds = match self.rounds.load(Ordering::SeqCst) {
                    DISAGREE => "disagree".to_owned(),
                    rounds => format!("{rounds:x}"),
                };
                Ok(format!(
                    "{}\n{}\n{rounds}",
                    areas.join("\n"),
                    self.show(2, true)?
                ))
            }
            _ => Err(io::Error::other(format!("`{question}` is no question"))),
        }
    }
}

/// Memory and disk of one moment: a round counts in memory only once it is on the disk, so the
/// disk is never behind, and never more than one ahead.
fn do_rounds(rounds: &AtomicU64, known: &Sender<()>) -> io::Result<()> {
    let file = open("/rounds", O_DIRECT)?;
    let read = |block: u64| -> io::Result<u64> {
        let mut sector = Sector([0; BLOCK_BYTES as usize]);
        file.read_exact_at(&mut sector.0, block * BLOCK_BYTES)?;
        stamp(3, block, &sector.0)
            .ok_or_else(|| io::Error::other(format!("round block {block} is torn")))
    };
    // Of a disk alone the last round on it is where to go on.
    let mut last = 0;
    for block in 0..ROUND_BLOCKS {
        last = last.max(read(block)?);
    }
    rounds.store(last, Ordering::SeqCst);
    // Whoever waits for this may be gone; then nobody asks either.
    let _ = known.send(());
    loop {
        let over = rounds.load(Ordering::SeqCst);
        let round = over + 1;
        let (next, before) = (read(round % ROUND_BLOCKS)?, read(over % ROUND_BLOCKS)?);
        if (next, before) != (round.saturating_sub(ROUND_BLOCKS), over) {
            println!("round {round}: its block is of {next}, the one before of {before}");
            rounds.store(DISAGREE, Ordering::SeqCst);
            return Ok(());
        }
        let mut sector = Sector([0; BLOCK_BYTES as usize]);
        sector
            .0
            .copy_from_slice(&bytes(&block(3, round % ROUND_BLOCKS, round)));
        file.write_all_at(&sector.0, round % ROUND_BLOCKS * BLOCK_BYTES)?;
        file.sync_data()?;
        rounds.store(round, Ordering::SeqCst);
        // Time, on purpose: the guest's program keeps a pace.
        thread::sleep(ROUND_PAUSE);
    }
}

fn address() -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name("keeper")
}

fn serve() -> io::Result<()> {
    let mut keeper = Keeper::new()?;
    let rounds = Arc::clone(&keeper.rounds);
    let (known, from_disk) = channel();
    thread::spawn(move || do_rounds(&rounds, &known).expect("rounds"));
    // Asked before it knows the disk's last round it would say none.
    from_disk.recv().expect("rounds");
    for stream in UnixListener::bind_addr(&address()?)?.incoming() {
        let mut stream = stream?;
        let mut question = String::new();
        let answered = stream
            .read_to_string(&mut question)
            .and_then(|_| keeper.answer(&question))
            .and_then(|answer| stream.write_all(answer.as_bytes()));
        // One who asks may be gone: in a fork, or killed with its session.
        if let Err(error) = answered {
            println!("{question}: {error}");
        }
    }
    Ok(())
}

fn ask(question: &str) -> io::Result<()> {
    let mut stream = loop {
        match UnixStream::connect_addr(&address()?) {
            Ok(stream) => break stream,
            // Not there yet.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => thread::yield_now(),
            Err(error) => return Err(error),
        }
    };
    stream.write_all(question.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    io::stdout().write_all(answer.as_bytes())
}

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let done = match words.split_first() {
        Some((verb, rest)) if verb == "ask" => ask(&rest.join(" ")),
        _ => fs::create_dir_all("/dev/shm").and_then(|()| serve()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

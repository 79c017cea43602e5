//! What runs in the sandboxes of the identity tests.
//!
//! Built by itself with `rustc`, static; it is no part of the workspace. `draw` prints the first
//! random numbers after its host name has changed; `live` holds everything that a fork might tear
//! (locks, pipes, connections, timers, a generator) and answers `ask WORDS`; `watch` prints the
//! generation file when it changes.

use std::{
    env,
    ffi::c_char,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::{
        fd::FromRawFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    process::{Command, ExitCode, Stdio},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// linux/time.h and linux/timerfd.h.
const CLOCK_REALTIME: i32 = 0;
const CLOCK_MONOTONIC: i32 = 1;
const TFD_TIMER_ABSTIME: i32 = 1;

/// Between two exchanges, so that guests of the tests leave the host's processors to others.
const PAUSE: Duration = Duration::from_millis(10);

/// `struct itimerspec` of linux/time.h: interval and value, each seconds and nanoseconds.
type TimerSpec = [i64; 4];

unsafe extern "C" {
    fn getrandom(buffer: *mut u8, length: usize, flags: u32) -> isize;
    fn inotify_init1(flags: i32) -> i32;
    fn inotify_add_watch(fd: i32, path: *const c_char, mask: u32) -> i32;
    fn timerfd_create(clock: i32, flags: i32) -> i32;
    fn timerfd_settime(fd: i32, flags: i32, new: *const TimerSpec, old: *mut TimerSpec) -> i32;
}

/// linux/inotify.h.
const IN_MODIFY: u32 = 2;

/// Prints the generation file whenever inotify says that it has changed.
fn watch_generation() -> io::Result<()> {
    let path = c"/run/cofferdam/generation";
    // SAFETY: no pointers.
    let fd = unsafe { inotify_init1(0) };
    // SAFETY: the path ends with a null and lives through the call.
    let watch = unsafe { inotify_add_watch(fd, path.as_ptr(), IN_MODIFY) };
    if watch < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: nobody else owns the descriptor.
    let mut events = unsafe { File::from_raw_fd(fd) };
    println!("watching");
    let mut buffer = [0; 4096];
    loop {
        let _ = events.read(&mut buffer)?;
        print!("{}", fs::read_to_string("/run/cofferdam/generation")?);
    }
}

fn draw() -> u128 {
    let mut bytes = [0; 16];
    // SAFETY: the buffer is writable, as long as is said, and lives through the call.
    let count = unsafe { getrandom(bytes.as_mut_ptr(), bytes.len(), 0) };
    assert_eq!(count, 16, "getrandom");
    u128::from_le_bytes(bytes)
}

fn hostname() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .expect("hostname")
        .trim()
        .to_owned()
}

fn unix_ns() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_nanos()
}

/// `CLOCK_BOOTTIME`, which the kernel writes down in hundredths of a second; proc_uptime(5).
fn uptime_ns() -> io::Result<u128> {
    let text = fs::read_to_string("/proc/uptime")?;
    let (seconds, _) = text.split_once(' ').ok_or(io::ErrorKind::InvalidData)?;
    let hundredths: u128 = seconds.replace('.', "").parse().map_err(io::Error::other)?;
    Ok(hundredths * 10_000_000)
}

/// Draws without a rest; each draw that is printed was begun under the new name.
fn draw_for_ever(old: &str) {
    loop {
        let name = hostname();
        let draws = [draw(), draw(), draw()];
        if name != old {
            let id = fs::read_to_string("/etc/machine-id").expect("machine id");
            let draws = draws.map(|draw| format!("{draw:032x}")).join(" ");
            println!("{name} {} {draws}", id.trim());
            return;
        }
    }
}

/// A way for two to speak; counts what went over it and back.
#[derive(Default)]
struct Link {
    count: AtomicU64,
    broken: Mutex<Option<String>>,
}

impl Link {
    /// Exchanges for ever; what comes back must be what went out.
    fn exchange(
        self: &Arc<Self>,
        mut there_and_back: impl FnMut(u64) -> io::Result<u64> + Send + 'static,
    ) {
        let link = Arc::clone(self);
        thread::spawn(move || {
            for number in 1.. {
                match there_and_back(number) {
                    Ok(back) if back == number => link.count.store(number, Ordering::SeqCst),
                    other => {
                        *link.broken.lock().expect("lock") = Some(format!("{number}: {other:?}"));
                        return;
                    }
                }
                // Time, on purpose: the guest's program keeps a pace.
                thread::sleep(PAUSE);
            }
        });
    }

    fn show(&self) -> String {
        match &*self.broken.lock().expect("lock") {
            None => self.count.load(Ordering::SeqCst).to_string(),
            Some(why) => format!("broken:{why}").replace(' ', "_"),
        }
    }
}

fn over_lines(mut to: impl Write, from: impl Read) -> impl FnMut(u64) -> io::Result<u64> {
    let mut from = BufReader::new(from);
    move |number| {
        writeln!(to, "{number}")?;
        let mut line = String::new();
        from.read_line(&mut line)?;
        line.trim().parse().map_err(io::Error::other)
    }
}

fn echo(from: impl Read, mut to: impl Write) -> io::Result<()> {
    for line in BufReader::new(from).lines() {
        writeln!(to, "{}", line?)?;
        to.flush()?;
    }
    Ok(())
}

/// A lock, handed to and fro: what has arrived, and what was answered.
fn futex() -> impl FnMut(u64) -> io::Result<u64> {
    let pair = Arc::new((Mutex::new((0, 0)), Condvar::new()));
    let theirs = Arc::clone(&pair);
    thread::spawn(move || {
        let (state, changed) = &*theirs;
        let mut state = state.lock().expect("lock");
        loop {
            state = changed
                .wait_while(state, |(asked, answered)| asked == answered)
                .expect("lock");
            state.1 = state.0;
            changed.notify_all();
        }
    });
    move |number| {
        let (state, changed) = &*pair;
        let mut state = state.lock().expect("lock");
        state.0 = number;
        changed.notify_all();
        let state = changed
            .wait_while(state, |(_, answered)| *answered != number)
            .expect("lock");
        Ok(state.1)
    }
}

struct Live {
    begin: Instant,
    generator: u64,
    links: [Arc<Link>; 3],
}

impl Live {
    fn new() -> io::Result<Self> {
        let links: [Arc<Link>; 3] = Default::default();
        links[0].exchange(futex());
        let child = Command::new("/bin/probe")
            .arg("echo")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (to, from) = (child.stdin.expect("pipe"), child.stdout.expect("pipe"));
        links[1].exchange(over_lines(to, from));
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let stream = TcpStream::connect(listener.local_addr()?)?;
        let (peer, _) = listener.accept()?;
        thread::spawn(move || echo(&peer, &peer));
        links[2].exchange(over_lines(stream.try_clone()?, stream));
        Ok(Self {
            begin: Instant::now(),
            generator: draw() as u64,
            links,
        })
    }

    fn answer(&mut self, question: &str) -> io::Result<String> {
        match question.split(' ').collect::<Vec<_>>()[..] {
            ["links"] => Ok(self.links.each_ref().map(|link| link.show()).join(" ")),
            ["numbers"] => {
                // Marsaglia's xorshift64: any generator that is seeded once and then left alone.
                self.generator ^= self.generator << 13;
                self.generator ^= self.generator >> 7;
                self.generator ^= self.generator << 17;
                Ok(format!("{:016x} {:032x}", self.generator, draw()))
            }
            ["now"] => {
                // Between two looks at the coarsest of the three.
                let before = uptime_ns()?;
                let (wall, monotonic) = (unix_ns(), self.begin.elapsed().as_nanos());
                Ok(format!("{wall} {monotonic} {before} {}", uptime_ns()?))
            }
            ["arm", seconds] => self.arm(seconds.parse().map_err(io::Error::other)?),
            ["variable", name] => Ok(env::var(name).unwrap_or_default()),
            _ => Err(io::Error::other(format!("`{question}` is no question"))),
        }
    }

    /// Arms a sleep, a monotonic timer and one of the wall clock for the same moment; each prints
    /// the monotonic and the wall time at which it went off.
    fn arm(&self, seconds: u64) -> io::Result<String> {
        let begin = self.begin;
        let due = begin.elapsed() + Duration::from_secs(seconds);
        let wall = unix_ns() + u128::from(seconds) * 1_000_000_000;
        let went_off = move |what: &str| {
            println!("{what} {} {}", begin.elapsed().as_nanos(), unix_ns());
        };
        thread::spawn(move || {
            // Time, on purpose: a sleep that a fork goes through is under test.
            thread::sleep(Duration::from_secs(seconds));
            went_off("sleep");
        });
        let relative = [0, 0, seconds as i64, 0];
        let absolute = [
            0,
            0,
            (wall / 1_000_000_000) as i64,
            (wall % 1_000_000_000) as i64,
        ];
        let timers = [
            ("timer", CLOCK_MONOTONIC, 0, relative),
            ("wall", CLOCK_REALTIME, TFD_TIMER_ABSTIME, absolute),
        ];
        for (what, clock, flags, time) in timers {
            let mut timer = timer(clock, flags, &time)?;
            thread::spawn(move || {
                timer.read_exact(&mut [0; 8]).expect("timer");
                went_off(what);
            });
        }
        Ok(format!("{} {wall}", due.as_nanos()))
    }
}

fn timer(clock: i32, flags: i32, time: &TimerSpec) -> io::Result<File> {
    // SAFETY: takes no pointer.
    let fd = unsafe { timerfd_create(clock, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let file = unsafe { File::from_raw_fd(fd) };
    // SAFETY: `time` is a whole `struct itimerspec` and is only read; no old value is asked for.
    if unsafe { timerfd_settime(fd, flags, time, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

fn address() -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name("probe")
}

fn serve() -> io::Result<()> {
    let mut live = Live::new()?;
    for stream in UnixListener::bind_addr(&address()?)?.incoming() {
        let mut stream = stream?;
        let mut question = String::new();
        stream.read_to_string(&mut question)?;
        let answer = live.answer(&question)?;
        stream.write_all(answer.as_bytes())?;
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
    println!("{answer}");
    Ok(())
}

/// Two, so that both processors draw. Says when they do.
fn draw_on_each_processor() -> io::Result<()> {
    let old: &'static str = hostname().leak();
    let threads = [(); 2].map(|()| thread::spawn(|| draw_for_ever(old)));
    println!("drawing");
    for thread in threads {
        thread
            .join()
            .map_err(|_| io::Error::other("a thread panicked"))?;
    }
    // What was to be said is said; the sandbox stays until it is removed.
    loop {
        thread::park();
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let done = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["draw"] => draw_on_each_processor(),
        ["live"] => serve(),
        ["watch"] => watch_generation(),
        ["echo"] => echo(io::stdin(), io::stdout()),
        ["ask", ref rest @ ..] => ask(&rest.join(" ")),
        _ => Err(io::Error::other("draw, live, watch, echo or ask")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

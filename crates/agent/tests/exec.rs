//! What processes see and how they end, in a real guest.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::print_stderr, reason = "a skipped test says why")]

mod guest;

use guest::{Guest, process, shell};

#[test]
fn first_light() {
    let Some(mut guest) = Guest::boot(|_| {}) else { return };
    let host = &mut guest.host;
    let w = host.bring_up();
    eprintln!("{:?}", host.sessions[&w]);
    let outcome = host.run(shell("echo hello; echo oops >&2; exit 3"));
    eprintln!("{outcome:?}");
    let outcome = host.run(process(&["mount"]));
    eprintln!("{}", outcome.text());
    let t = std::time::Instant::now();
    for _ in 0..20 {
        let t = std::time::Instant::now();
        host.run(process(&["/bin/true"]));
        eprintln!("{:?}", t.elapsed());
    }
    eprintln!("{:?}", t.elapsed() / 20);
}

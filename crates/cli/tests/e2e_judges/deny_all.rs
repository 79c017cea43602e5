//! A sandbox that may reach nothing, and a capture of every packet of its host's network.
//!
//! The host is a network namespace with an interface and default routes, so that a packet that
//! leaves the stack is seen.

use std::process::{Command, Stdio};

use cofferdam_testkit::coffer::Coffer;

use crate::image;

/// Sets the namespace up, captures, and runs the program in its arguments.
const NAMESPACE: &str = r#"
set -e
ip link set lo up
ip link add out type veth peer name other
ip addr add 198.51.100.1/24 dev out
ip -6 addr add 2001:db8::1/64 dev out nodad
echo 1 > /proc/sys/net/ipv6/conf/other/disable_ipv6
ip link set out addrgenmode none
ip link set out up
ip link set other up
ip neigh add 198.51.100.2 lladdr 02:00:00:00:00:02 dev out
ip route add default via 198.51.100.2
ip -6 route add default via 2001:db8::2
echo '0 2147483647' > /proc/sys/net/ipv4/ping_group_range
python3 -c "$CAPTURE" > "$SEEN" &
capture=$!
until grep -q ready "$SEEN"; do sleep 0.1; done
set +e
"$@"
code=$?
python3 -c "$LAST"
until grep -q "$LAST_END" "$SEEN"; do sleep 0.1; done
kill $capture
exit $code
"#;

/// Sends a packet of the host's own. The capture gets packets in their order: with this one it has
/// printed all before it.
const LAST: &str = "import socket; \
    socket.socket(type=socket.SOCK_DGRAM).sendto(b'last', ('198.51.100.2', 9))";

/// The end of that packet in the capture.
const LAST_END: &str = "6c617374";

/// Prints each packet, but for what the kernel itself says about its own IPv6 addresses.
const CAPTURE: &str = r#"
import socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
print('ready', flush=True)
while True:
    p = s.recv(65535)
    multicast_listener_or_router = p[12:14] == b'\x86\xdd' and (
        p[20] == 58 and p[54] in (133, 143) or p[20] == 0 and p[62] == 143)
    if not multicast_listener_or_router:
        print(p.hex(), flush=True)
"#;

/// Tries to send in many ways, prints how many, and ends when the stack has handled the last.
const TRIES: &str = include_str!("tries.py");

/// Runs `script` in a sandbox in a namespace. Returns what it printed, and the packets seen.
fn run(coffer: &Coffer, flags: &[&str], script: &str) -> Option<(String, Vec<String>)> {
    let image = image::load(coffer)?;
    let seen = tempfile::NamedTempFile::new().unwrap();
    let flags = [&["run", "--rm", "--network", "default"], flags, &[image]].concat();
    let inner = coffer.command(flags.iter().chain(&["python3", "-c", script]));
    let mut outer = Command::new("unshare");
    outer
        .args(["--net", "sh", "-c", NAMESPACE, "sh"])
        .arg(inner.get_program())
        .args(inner.get_args())
        .env("CAPTURE", CAPTURE)
        .env("LAST", LAST)
        .env("LAST_END", format!("{LAST_END}$"))
        .env("SEEN", seen.path())
        .stdin(Stdio::null());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    let output = outer.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let lines = std::fs::read_to_string(seen.path()).unwrap();
    let packets = lines
        .lines()
        .filter(|line| *line != "ready" && !line.ends_with(LAST_END));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    Some((stdout, packets.map(str::to_owned).collect()))
}

#[test]
fn thirty_ways_out_of_a_deny_all_sandbox_put_no_packet_on_the_host() {
    // A store of its own: no later start may find a template's machine in this namespace.
    let coffer = Coffer::empty();
    let Some((printed, packets)) = run(&coffer, &["--network-profile", "none"], TRIES) else {
        return;
    };
    let tries = printed
        .lines()
        .filter(|line| line.starts_with("tried "))
        .count();
    assert!(tries >= 30, "{printed}");
    assert_eq!(packets, Vec::<String>::new(), "{printed}");
    // The same capture sees what a rule lets out.
    let one = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); \
               s.sendto(b'out', ('198.51.100.2', 9)); s.settimeout(1)\n\
               try: s.recv(9)\nexcept OSError: pass";
    let (_, packets) = run(&coffer, &["--allow", "198.51.100.2:9/udp"], one).unwrap();
    // At both ends of the pair.
    assert_eq!(packets.len(), 2, "{packets:?}");
    let end = "6f7574";
    assert!(
        packets.iter().all(|packet| packet.ends_with(end)),
        "{packets:?}"
    );
}

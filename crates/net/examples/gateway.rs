//! A gateway for one guest by hand, without Cofferdam: prints its events, and its counters at the end.
//!
//! ```text
//! cargo run -p cofferdam-net --example gateway -- SOCKET MTU MAC [RULE...]
//! qemu-system-x86_64 … -netdev stream,id=n,server=off,addr.type=unix,addr.path=SOCKET \
//!     -device virtio-net-pci,netdev=n,mac=MAC,host_mtu=MTU
//! ```
//!
//! The guest takes 10.0.2.15/24 with the gateway and resolver 10.0.2.1. The profile is `public`.
//! A rule `publish=PORT` publishes that port of the guest on a free port of 127.0.0.1.

#![allow(clippy::unwrap_used, reason = "a failure is a panic")]
#![allow(clippy::print_stdout, reason = "events are the output")]

use std::{os::unix::net::UnixListener, thread};

use cofferdam_net::{
    Config, Events, FrameStream, Policy, Profile, Protocol, PublishSpec, Rule, Stack,
    host_addresses, host_resolvers,
};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [socket, mtu, mac, rules @ ..] = args.as_slice() else {
        panic!("usage: gateway SOCKET MTU MAC [RULE...]");
    };
    let byte = |part: &str| u8::from_str_radix(part, 16).unwrap();
    let mac: Vec<u8> = mac.split(':').map(byte).collect();
    let mut config = Config::new(mac.try_into().unwrap());
    config.mtu = mtu.parse().unwrap();
    config.resolvers = host_resolvers();
    let (published, rules): (Vec<_>, Vec<_>) =
        rules.iter().partition(|rule| rule.starts_with("publish="));
    let rules: Vec<Rule> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    let mut policy = Policy::new(Profile::Public, rules);
    policy.host_addresses = host_addresses().unwrap();

    let listener = UnixListener::bind(socket).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let (events, receiver) = Events::channel();
    let io = FrameStream::new(stream).unwrap();
    let stack = Stack::new(config, Box::new(io), policy, events).unwrap();
    let handle = stack.handle();
    let thread = stack.spawn().unwrap();
    for port in published {
        let asked = PublishSpec {
            protocol: Protocol::Tcp,
            host: "127.0.0.1:0".parse().unwrap(),
            guest_port: port["publish=".len()..].parse().unwrap(),
        };
        println!("{:?}", handle.publish(asked).unwrap());
    }
    let printer = thread::spawn(move || {
        for event in receiver {
            match event.allow() {
                Some(rule) => println!("{event} (allow {rule})"),
                None => println!("{event}"),
            }
        }
    });
    println!("{:?}", thread.join().unwrap());
    printer.join().unwrap();
    println!("{:#?}", handle.stats());
}

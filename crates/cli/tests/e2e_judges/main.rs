//! Programs of Debian as outside judges of the network: servers in one sandbox with published
//! ports, clients in another with an explicit rule for each port. Nothing leaves this machine.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

mod deny_all;
mod image;
mod pair;

use cofferdam_testkit::coffer::Coffer;
use pair::Pair;

/// nginx with HTTP/1.1 on port 80 and TLS with HTTP/2 on 443, and its certificate.
const NGINX: &str = r#"
mkdir -p /srv/www
cat > /srv/nginx.conf <<'END'
user www-data;
events { }
http {
  server {
    listen 80; listen [::]:80;
    listen 443 ssl http2;
    ssl_certificate /srv/cert.pem; ssl_certificate_key /srv/key.pem;
    root /srv/www;
    client_max_body_size 0;
    location /put { dav_methods PUT; create_full_put_path on; }
  }
}
END
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test \
  -addext subjectAltName=DNS:host.coffer.internal -keyout /srv/key.pem -out /srv/cert.pem 2> /dev/null
chmod 755 /srv /srv/www
chown www-data /srv/www
nginx -c /srv/nginx.conf
"#;

#[test]
fn curl_verifies_tls_and_speaks_http_2_with_nginx() {
    let coffer = Coffer::shared();
    let Some(pair) = Pair::start(&coffer, NGINX, &["80", "443"]) else {
        return;
    };
    pair.server("head -c 4000000 /dev/urandom > /srv/www/file");
    let url = pair.url("https", 443);
    let refused = pair.client.exec(&["curl", "-sS", &url]);
    assert_eq!(refused.code, 60, "{refused:?}");
    pair.copy("/srv/cert.pem");
    let curl = "curl -sS --cacert /srv/cert.pem";
    let form = "%{http_version} %{http_code} %{size_download}";
    let one = format!("{curl} -o /tmp/file -w '{form}' {url}/file; sha256sum < /tmp/file");
    let sum = pair.server("sha256sum < /srv/www/file");
    assert_eq!(pair.client(&one), format!("2 200 4000000{sum}"));
    // Up, and what has come.
    let put = format!("{curl} -T /tmp/file -o /dev/null -w '%{{http_code}}' {url}/put/file");
    assert_eq!(pair.client(&put), "201");
    assert_eq!(pair.server("sha256sum < /srv/www/put/file"), sum);
    // Many connections at once, of which none waits for another.
    let plain = pair.url("http", 80);
    let many = format!(
        "curl -sS --parallel --parallel-immediate --parallel-max 60 -o /dev/null \
         -w '%{{http_code}}\n' '{plain}/?[1-120]' 2> /dev/null | sort | uniq -c"
    );
    assert_eq!(pair.client(&many), "120 403");
}

/// An archive with one package, and nginx before it.
const ARCHIVE: &str = r#"
mkdir -p /tmp/p/DEBIAN /tmp/p/usr/bin /srv/www/apt
printf 'Package: judged\nVersion: 1\nArchitecture: all\nMaintainer: t <t@t>\nDescription: t\n' \
  > /tmp/p/DEBIAN/control
printf '#!/bin/sh\necho judged\n' > /tmp/p/usr/bin/judged
chmod 755 /tmp/p/usr/bin/judged
cd /srv/www/apt
dpkg-deb -Znone --build /tmp/p judged.deb
{
  cat /tmp/p/DEBIAN/control
  printf 'Filename: ./judged.deb\nSize: %s\nSHA256: %s\n' "$(stat -c %s judged.deb)" \
    "$(sha256sum judged.deb | cut -d ' ' -f 1)"
} > Packages
"#;

#[test]
fn apt_updates_and_installs_from_an_archive() {
    let coffer = Coffer::shared();
    let servers = format!("{NGINX}{ARCHIVE}");
    let Some(pair) = Pair::start(&coffer, &servers, &["80"]) else {
        return;
    };
    let source = format!("deb [trusted=yes] {}/apt ./", pair.url("http", 80));
    let script = format!(
        "rm -rf /etc/apt/sources.list*; echo '{source}' > /etc/apt/sources.list; \
         apt-get -qq update && apt-get -qq install judged > /dev/null 2>&1; judged"
    );
    assert_eq!(pair.client(&script), "judged");
}

/// A repository with some hundred files, by the dumb protocol and by ssh.
const REPOSITORY: &str = r#"
export HOME=/root
git config --global user.email t@t; git config --global user.name t
mkdir /tmp/w; cd /tmp/w; git init -q; cp -rL /etc/ssl /usr/share/perl5/Debconf .; git add .; git commit -qm one
git clone -q --bare . /srv/www/r.git
cd /srv/www/r.git; git update-server-info; chmod -R a+rX /srv/www
mkdir -p /run/sshd
sed -i 's/^root:[^:]*:/root::/' /etc/shadow
/usr/sbin/sshd -o PermitRootLogin=yes -o PermitEmptyPasswords=yes
"#;

#[test]
fn git_clones_over_http_and_over_ssh() {
    let coffer = Coffer::shared();
    let servers = format!("{NGINX}{REPOSITORY}");
    let Some(pair) = Pair::start(&coffer, &servers, &["22", "80"]) else {
        return;
    };
    let expected = pair.server("cd /tmp/w; git rev-parse HEAD^{tree}");
    let tree = |clone: &str| {
        let script =
            format!("rm -rf /tmp/r; {clone} /tmp/r; cd /tmp/r; git rev-parse HEAD^{{tree}}");
        pair.client(&script)
    };
    let web = format!("git clone -q {}/r.git", pair.url("http", 80));
    assert_eq!(tree(&web), expected);
    let ssh = format!(
        "GIT_SSH_COMMAND='ssh -o StrictHostKeyChecking=no -o LogLevel=ERROR' \
         git clone -q {}/srv/www/r.git",
        pair.url("ssh", 22)
    );
    assert_eq!(tree(&ssh), expected);
}

/// Starts a server for one test. One for many is busy, or does not listen, for a moment after the
/// end that its client reports. 1451 is the port in the kernel's table, 0A the state that listens.
const IPERF: &str = "
while grep -q ':1451 .* 0A ' /proc/net/tcp6; do sleep 0.1; done
iperf3 -s -1 -D
until grep -q ':1451 .* 0A ' /proc/net/tcp6; do sleep 0.1; done";

/// A port that is free for TCP and UDP, since iperf3 needs both. Not one of those that the kernel
/// gives to others meanwhile.
fn free_port() -> u16 {
    let first = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    (first..32_000)
        .find(|port| {
            let place = ("127.0.0.1", *port);
            std::net::TcpListener::bind(place).is_ok() && std::net::UdpSocket::bind(place).is_ok()
        })
        .unwrap()
}

#[test]
fn iperf3_moves_bytes_both_ways_by_tcp_and_udp() {
    let coffer = Coffer::shared();
    let port = free_port();
    let ports = [format!("{port}:5201"), format!("{port}:5201/udp")];
    let Some(pair) = Pair::start(&coffer, "", &[&ports[0], &ports[1]]) else {
        return;
    };
    // The receiver counts until the sender says that it has sent all. Then a part is still in
    // buffers on the way: up to 10 MB of each connection. Of what was sent by UDP a part may be
    // lost, so it comes slowly: the buffers hold what a busy host lets wait for half a second.
    for (flags, least) in [
        ("-n 40M", 4_000_000.0),
        ("-n 40M -R", 4_000_000.0),
        ("-n 100M -P 4", 4_000_000.0),
        ("-u -b 3M -n 1M", 250_000.0),
        ("-u -b 3M -n 1M -R", 250_000.0),
    ] {
        pair.server(IPERF);
        let script = format!("iperf3 -J -c host.coffer.internal -p {port} {flags} || true");
        let report: serde_json::Value = serde_json::from_str(&pair.client(&script)).unwrap();
        assert!(report.get("error").is_none(), "{flags}: {report}");
        let end = &report["end"];
        let moved = if flags.contains("-u") {
            let sum = &end["sum"];
            let lost = sum["lost_percent"].as_f64().unwrap();
            sum["bytes"].as_f64().unwrap() * (1.0 - lost / 100.0)
        } else {
            end["sum_received"]["bytes"].as_f64().unwrap()
        };
        assert!(moved >= least, "{flags}: {moved} of {least} bytes: {end}");
    }
}

const REDIS: &str = "redis-server --daemonize yes --protected-mode no --save '' > /dev/null
until [ \"$(redis-cli ping 2> /dev/null)\" = PONG ]; do sleep 0.1; done";

#[test]
fn redis_answers_through_a_published_port() {
    let coffer = Coffer::shared();
    let Some(pair) = Pair::start(&coffer, REDIS, &["6379"]) else {
        return;
    };
    let redis = format!("redis-cli -h host.coffer.internal -p {}", pair.port("6379"));
    assert_eq!(
        pair.client(&format!("{redis} set key 7 && {redis} get key")),
        "OK\n7"
    );
    // Many requests in flight, on one connection and on some.
    let pipe = format!(
        "for i in $(seq 5000); do echo INCR n; done | {redis} --pipe | tail -n 1; {redis} get n"
    );
    assert_eq!(pair.client(&pipe), "errors: 0, replies: 5000\n5000");
    // The same from the host.
    let mut stream = std::net::TcpStream::connect(pair.place("6379")).unwrap();
    std::io::Write::write_all(&mut stream, b"GET key\r\nQUIT\r\n").unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
    assert_eq!(answer, "$1\r\n7\r\n+OK\r\n");
}

#[test]
fn dig_and_ping_are_answered_by_the_gateway_and_denials_come_at_once() {
    let coffer = Coffer::shared();
    let Some(image) = image::load(&coffer) else {
        return;
    };
    let flags = ["--network", "default", "--network-profile", "none"];
    let idle = [image, "sleep", "1000000"];
    let sandbox = coffer.detached(&[&flags[..], &idle].concat());
    for way in ["", "+tcp", "+noedns"] {
        let script = format!("dig +short {way} host.coffer.internal");
        assert_eq!(sandbox.sh(&script), "198.18.0.2", "{way}");
    }
    assert!(sandbox.sh("dig example.com").contains("status: REFUSED"));
    assert!(sandbox.sh("dig any coffer.internal").contains("status: N"));
    assert_eq!(
        sandbox.sh("getent ahostsv4 host.coffer.internal | head -n 1 | cut -d ' ' -f 1"),
        "198.18.0.2"
    );
    // One packet each: after the last of more, ping waits for a moment only.
    for user in ["0", "1000"] {
        let script =
            format!("setpriv --reuid {user} --clear-groups ping -c 1 -W 60 -s 20000 198.18.0.1");
        assert!(sandbox.sh(&script).contains("1 received"), "as {user}");
    }
    // None waits for a time-out: the programs' own, 100 seconds and more, are past the limit.
    for (command, code) in [
        ("curl -sS http://192.0.2.7", 7),
        ("curl -sS 'http://[2001:db8::7]'", 7),
        ("curl -sS http://example.com", 6),
        ("ping -c 1 -W 100 192.0.2.7", 1),
        ("getent hosts example.com", 2),
    ] {
        // The resolver has no limit above 30 seconds for one question.
        let script = format!(
            "RES_OPTIONS='timeout:30 attempts:4' timeout 25 {command} > /dev/null 2>&1; echo $?"
        );
        assert_eq!(sandbox.sh(&script), code.to_string(), "{command}");
    }
}

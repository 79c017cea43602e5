//! The main job on input that this project did not make: a Debian with Python, made by
//! `mmdebstrap`, packed by `umoci`, moved by `skopeo`, served by `docker-registry`, pulled and run.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use cofferdam_testkit::{coffer::Coffer, sandboxes::until};

/// Prints a line for each file below the directory given, without what is mounted in it: type,
/// mode, owner, size, time, hard links, device, target, extended attributes, digest.
const LIST_TREE: &str = r#"
import os, stat, sys, hashlib
root = sys.argv[1].encode()
base = os.lstat(root).st_dev
inodes = {}
def kind(mode):
    return {stat.S_IFREG: 'f', stat.S_IFDIR: 'd', stat.S_IFLNK: 'l', stat.S_IFCHR: 'c',
            stat.S_IFBLK: 'b', stat.S_IFIFO: 'p', stat.S_IFSOCK: 's'}[stat.S_IFMT(mode)]
def visit(path):
    name = path[len(root):] or b'/'
    if not name.startswith(b'/'):
        name = b'/' + name
    s = os.lstat(path)
    if s.st_dev != base:
        return
    k = kind(s.st_mode)
    size = s.st_size if k in 'fl' else 0
    link, digest, same = '', '', ''
    if k == 'l':
        link = os.readlink(path).decode('utf8', 'backslashreplace')
    if k == 'f':
        same = inodes.setdefault(s.st_ino, name).decode('utf8', 'backslashreplace') if s.st_nlink > 1 else ''
        with open(path, 'rb') as f:
            digest = hashlib.sha256(f.read()).hexdigest()
    attrs = ''
    if k in 'fd':
        attrs = ','.join(sorted(a + '=' + os.getxattr(path, a, follow_symlinks=False).hex()
            for a in os.listxattr(path, follow_symlinks=False) if not a.startswith('user.rootlesscontainers')))
    rdev = '%d:%d' % (os.major(s.st_rdev), os.minor(s.st_rdev)) if k in 'cb' else ''
    print('|'.join(map(str, [name.decode('utf8', 'backslashreplace'), k, oct(stat.S_IMODE(s.st_mode)), s.st_uid,
        s.st_gid, size, s.st_mtime_ns, same, rdev, link, attrs, digest])))
    if k == 'd':
        for child in sorted(os.listdir(path)):
            visit(os.path.join(path, child))
visit(root)
"#;

/// Directories in which the agent makes mount points that an image may lack: their times differ.
const WITH_MOUNT_POINTS: [&str; 4] = ["/", "/etc", "/run", "/sys"];

fn have(tools: &[&str]) -> Option<String> {
    let missing = |tool: &&&str| {
        Command::new(tool)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_err()
    };
    tools
        .iter()
        .find(missing)
        .map(|tool| format!("{tool} is not installed"))
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
}

/// The image as an OCI layout and unpacked by umoci; made once for all test runs.
struct Debian {
    layout: PathBuf,
    rootfs: PathBuf,
}

impl Debian {
    fn make() -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian-with-ruby");
        fs::create_dir_all(&dir).unwrap();
        let _lock = cofferdam_testkit::lock(&dir.join("lock"));
        let (layout, bundle) = (dir.join("layout"), dir.join("bundle"));
        let debian = Self {
            layout: layout.clone(),
            rootfs: bundle.join("rootfs"),
        };
        if dir.join("complete").exists() {
            return debian;
        }
        let _ = fs::remove_dir_all(&layout);
        let _ = fs::remove_dir_all(&bundle);
        let tar = dir.join("debian.tar");
        run(Command::new("mmdebstrap")
            .args([
                "--quiet",
                "--aptopt=Acquire::Retries \"5\"",
                "--variant=minbase",
                "--include=python3-minimal,ruby,ca-certificates",
            ])
            .arg("bookworm")
            .arg(&tar));
        let image = format!("{}:debian", layout.display());
        run(Command::new("umoci")
            .args(["init", "--layout"])
            .arg(&layout));
        run(Command::new("umoci").args(["new", "--image", &image]));
        run(Command::new("umoci")
            .args(["raw", "add-layer", "--image", &image])
            .arg(&tar));
        run(Command::new("umoci").args(["config", "--image", &image, "--config.cmd", "bash"]));
        run(Command::new("umoci")
            .args(["unpack", "--image", &image])
            .arg(&bundle));
        fs::remove_file(&tar).unwrap();
        fs::write(dir.join("complete"), b"").unwrap();
        debian
    }
}

/// Debian's registry on a port of its own, ended with the test.
struct Registry {
    child: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Registry {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let address = format!("127.0.0.1:{port}");
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.yml");
        let storage = dir.path().join("storage");
        let text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            storage.display()
        );
        fs::write(&config, text).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let limit = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(&address).is_err() {
            assert!(Instant::now() < limit, "the registry does not listen");
        }
        Self {
            child,
            address,
            _dir: dir,
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_debian_with_python_is_pulled_and_run_and_its_tree_is_what_umoci_unpacks() {
    let tools = ["mmdebstrap", "umoci", "skopeo", "docker-registry"];
    if let Some(reason) = have(&tools).or_else(|| {
        (!rustix::process::geteuid().is_root())
            .then(|| "umoci unpacks owners only as root".to_owned())
    }) {
        cofferdam_testkit::skip(&reason);
        return;
    }
    let debian = Debian::make();
    let registry = Registry::start();
    let name = format!("{}/debian:12", registry.address);
    run(Command::new("skopeo")
        .args([
            "copy",
            "--quiet",
            "--insecure-policy",
            "--dest-tls-verify=false",
        ])
        .arg(format!("oci:{}:debian", debian.layout.display()))
        .arg(format!("docker://{name}")));

    let coffer = Coffer::shared();
    let pull = ["pull", "-q", "--json", "--platform", "linux/amd64", &name];
    let pulled = coffer.json(pull);
    assert_eq!(pulled["platform"]["architecture"], "amd64", "{pulled}");
    let python = ["/usr/bin/python3", "-c", "print(6 * 7)"];
    assert_eq!(
        coffer.ok(["run", "--rm", &name].iter().chain(&python)),
        "42"
    );
    let release = coffer.ok(["run", "--rm", &name, "--", "cat", "/etc/debian_version"]);
    assert!(release.starts_with("12"), "{release}");

    let ours = coffer.run([
        "run",
        "--rm",
        &name,
        "--",
        "/usr/bin/python3",
        "-c",
        LIST_TREE,
        "/",
    ]);
    assert_eq!(ours.code, 0, "{}", ours.stderr);
    let theirs = Command::new("python3")
        .args(["-c", LIST_TREE])
        .arg(&debian.rootfs)
        .output()
        .unwrap();
    compare(&parse(&ours.stdout), &parse(&theirs.stdout));
    generators_of_interpreters_repeat_in_forks_until_they_are_seeded_again(&coffer, &name);
    coffer.ok(["rmi", &name]);
}

/// Each prints a number once it was copied, then another after it has seeded its generator again.
const GENERATORS: [&str; 3] = [
    "import random, time
read = lambda: open('/run/cofferdam/generation').read()
random.random()
first = read()
print('ready', flush=True)
while read() == first:
    time.sleep(.02)
print('python', random.random(), flush=True)
random.seed()
print('python again', random.random(), flush=True)
time.sleep(1000)",
    "$| = 1;
sub at { open(F, '/run/cofferdam/generation'); local $/; my $text = <F>; close F; $text }
rand();
my $first = at();
print qq(ready\n);
while (at() eq $first) { select(undef, undef, undef, .02) }
print 'perl ', rand(), qq(\n);
srand();
print 'perl again ', rand(), qq(\n);
sleep 1000",
    "require 'securerandom'
STDOUT.sync = true
at = -> { File.read('/run/cofferdam/generation') }
rand
SecureRandom.hex
first = at.call
puts 'ready'
sleep 0.02 while at.call == first
puts %(ruby #{rand})
puts %(ruby again, secure #{SecureRandom.hex})
srand
puts %(ruby again #{rand})
sleep 1000",
];

/// The rows of docs/fork-correctness.md that this image has a runtime for.
fn generators_of_interpreters_repeat_in_forks_until_they_are_seeded_again(
    coffer: &Coffer,
    image: &str,
) {
    let script = "python3 -c \"$PYTHON\" & perl -e \"$PERL\" & ruby -e \"$RUBY\" & wait";
    let mut args = Vec::new();
    for (name, program) in ["PYTHON", "PERL", "RUBY"].iter().zip(GENERATORS) {
        args.extend(["-e".to_owned(), format!("{name}={program}")]);
    }
    args.extend([image, "sh", "-c", script].map(str::to_owned));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let parent = coffer.detached(&args);
    let lines = |id: &str, count: usize| {
        let mut lines: Vec<String> = Vec::new();
        until("the interpreters' lines", || {
            lines = coffer.ok(["logs", id]).lines().map(str::to_owned).collect();
            lines.len() >= count
        });
        lines.sort();
        lines
    };
    lines(&parent.id, 3);
    let (one, other) = (parent.fork(&[]), parent.fork(&[]));
    let (one, other) = (lines(&one.id, 7), lines(&other.id, 7));
    for (ours, theirs) in one.iter().zip(&other) {
        assert_eq!(ours == theirs, !ours.contains("again"), "{one:?} {other:?}");
    }
}

fn parse(listing: &[u8]) -> BTreeMap<String, Vec<String>> {
    String::from_utf8_lossy(listing)
        .lines()
        .map(|line| {
            let mut fields = line.split('|').map(str::to_owned);
            (fields.next().unwrap(), fields.collect())
        })
        .collect()
}

fn compare(ours: &BTreeMap<String, Vec<String>>, theirs: &BTreeMap<String, Vec<String>>) {
    assert!(theirs.len() > 3000, "{} files", theirs.len());
    // What the agent mounts over is not the image's any more.
    let mounted = |path: &str| {
        ["/proc", "/sys", "/dev", "/run/cofferdam"]
            .iter()
            .any(|dir| path == *dir || path.starts_with(&format!("{dir}/")))
            || [
                "/etc/hostname",
                "/etc/hosts",
                "/etc/resolv.conf",
                "/etc/machine-id",
            ]
            .contains(&path)
    };
    let mut differences = Vec::new();
    for path in ours
        .keys()
        .chain(theirs.keys())
        .filter(|path| !mounted(path))
    {
        let (mut a, mut b) = (ours.get(path).cloned(), theirs.get(path).cloned());
        if WITH_MOUNT_POINTS.contains(&path.as_str()) {
            for side in [&mut a, &mut b].into_iter().flatten() {
                side[5].clear();
            }
        }
        if a != b {
            differences.push(format!("{path}: guest {a:?}, umoci {b:?}"));
        }
    }
    differences.dedup();
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        differences
            .iter()
            .take(20)
            .cloned()
            .collect::<Vec<_>>()
            .join("\n")
    );
}

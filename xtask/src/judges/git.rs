//! git over ssh: the host clones from a sandbox and pushes to it, and another sandbox clones.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::{
    host::Host,
    sandbox::{Sandbox, output},
};

/// A repository with 2,000 files and 16 MiB that do not compress, and an ssh server with one key.
const SERVER: &str = r#"
export HOME=/root
git config --global user.email t@t; git config --global user.name t
mkdir /tmp/w; cd /tmp/w; git init -q
for i in $(seq 2000); do echo "file $i" > "f$i"; done
head -c 16777216 /dev/urandom > blob
git add .; git commit -qm one
git clone -q --bare . /srv/r.git
mkdir -p /run/sshd; chmod 700 /root/.ssh
/usr/sbin/sshd -o PermitRootLogin=prohibit-password
"#;

/// What of the user's configuration must not count.
const SSH: &str = "ssh -F /dev/null -o IdentitiesOnly=yes -o BatchMode=yes -o LogLevel=ERROR \
    -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -i";

const COMMIT: &str = "set -e; git clone -q \"$URL\" clone; cd clone; git fsck --strict; \
    echo more > more; git add more; git -c user.email=t@t -c user.name=t commit -qm two; \
    git push -q; git rev-parse 'HEAD^{tree}'";

/// # Errors
/// When a clone or a push fails, or the trees differ.
pub(super) fn ssh(host: &Host) -> Result<String> {
    let directory = host.directory("git")?;
    let key = directory.join("key");
    make_key(&key)?;
    let server = Sandbox::start(host, &["-p", "22"])?;
    let public = fs::read(key.with_extension("pub")).context("ssh-keygen wrote no key")?;
    server.write("/root/.ssh/authorized_keys", &public)?;
    server.sh(SERVER)?;
    let port = server.port("22")?;
    // From the host: a clone, and a push of one more commit.
    let mut git = Command::new("timeout");
    git.args(["--kill-after=5", "300", "sh", "-c", COMMIT])
        .current_dir(&directory)
        .env("HOME", &directory)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_SSH_COMMAND", format!("{SSH} {}", key.display()))
        .env("URL", format!("ssh://root@127.0.0.1:{port}/srv/r.git"));
    let pushed = output(&mut git, &[]).context("The host's git")?;
    let tree = "git -C /srv/r.git rev-parse 'HEAD^{tree}'";
    ensure!(server.sh(tree)? == pushed, "The push did not arrive");
    // From another sandbox, which sees the push.
    let client = Sandbox::start(host, &["--allow", &format!("host:{port}/tcp")])?;
    let secret = fs::read(&key).context("ssh-keygen wrote no key")?;
    client.write("/root/key", &secret)?;
    let cloned = client.sh(&format!(
        "chmod 600 /root/key; export GIT_SSH_COMMAND='{SSH} /root/key'; \
         git clone -q ssh://root@host.coffer.internal:{port}/srv/r.git /tmp/r; cd /tmp/r; \
         git fsck --strict; git rev-parse 'HEAD^{{tree}}'"
    ))?;
    ensure!(cloned == pushed, "The clone has another tree");
    Ok("clone and push by the host, clone by a sandbox; 2,000 files and 16 MiB".to_owned())
}

fn make_key(path: &Path) -> Result<()> {
    let mut keygen = Command::new("ssh-keygen");
    keygen
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(path);
    output(&mut keygen, &[]).map(drop).context("ssh-keygen")
}

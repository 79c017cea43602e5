//! PostgreSQL with SCRAM in a sandbox, used through a published port by the host's psql and by
//! psql in another sandbox.

use std::{fmt::Write as _, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::{
    host::Host,
    sandbox::{Sandbox, output},
};

/// A cluster whose only way in over the network is SCRAM.
const SERVER: &str = r#"
bin=$(echo /usr/lib/postgresql/*/bin)
mkdir /tmp/pg; printf secret > /tmp/pg/password; chown -R postgres /tmp/pg
cd /tmp/pg
su postgres -c "$bin/initdb -D data --auth-local=trust --auth-host=scram-sha-256 \
  --encoding=UTF8 --no-sync --pwfile=password" > /dev/null
echo 'host all all all scram-sha-256' >> data/pg_hba.conf
su postgres -c "$bin/pg_ctl -D data -w -t 300 -l log \
  -o \"-c listen_addresses='*' -c fsync=off -k /tmp/pg\" start" > /dev/null || { cat log >&2; exit 1; }
"#;

/// Rows that go up and come back.
const ROWS: usize = 100_000;

/// Twenty connections at once; each says how many rows there are.
const MANY: &str = r#"
for i in $(seq 20); do
  psql -At -h host.coffer.internal -p "$PORT" -U postgres -c 'select count(*) from t' &
done | sort | uniq -c
"#;

/// # Errors
/// When a password that is wrong is accepted or the right one is not, or when a byte is lost.
pub(super) fn scram(host: &Host) -> Result<String> {
    let server = Sandbox::start(host, &["-p", "5432"])?;
    server.sh(SERVER)?;
    let port = server.port("5432")?.to_string();
    let psql = |password: &str, command: Option<&str>, input: &[u8]| {
        let mut psql = Command::new("timeout");
        psql.args(["--kill-after=5", "300", "psql", "-X", "-q", "-At", "-w"])
            .args(["-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", &port])
            .args(["-U", "postgres"])
            .args(command.into_iter().flat_map(|command| ["-c", command]))
            .env("PGPASSWORD", password)
            .env("PGCLIENTENCODING", "UTF8");
        output(&mut psql, input)
    };
    let refused = psql("other", Some("select 1"), &[]).err();
    let refused = refused
        .context("A wrong password was accepted")?
        .to_string();
    ensure!(
        refused.contains("password authentication failed"),
        "{refused}"
    );
    let kind =
        "select rolpassword like 'SCRAM-SHA-256$%' from pg_authid where rolname = 'postgres'";
    ensure!(
        psql("secret", Some(kind), &[])? == "t",
        "The password is no SCRAM"
    );
    let rows = rows();
    let up = format!("create table t (id int, word text);\ncopy t from stdin;\n{rows}\\.\n");
    psql("secret", None, up.as_bytes()).context("Rows to the sandbox")?;
    let down = psql(
        "secret",
        Some("copy (select * from t order by id) to stdout"),
        &[],
    )?;
    ensure!(down == rows.trim(), "The rows that came back are others");
    let client = Sandbox::start(host, &["--allow", &format!("host:{port}/tcp")])?;
    let many = client.sh(&format!("export PGPASSWORD=secret PORT={port}; {MANY}"))?;
    ensure!(
        many == format!("20 {ROWS}"),
        "Twenty connections printed: {many}"
    );
    Ok(format!(
        "a wrong password refused, {ROWS} rows ({} kB) each way by the host's psql, 20 connections \
         at once from a sandbox",
        rows.len() / 1000
    ))
}

/// Lines of COPY's text format.
fn rows() -> String {
    let mut text = String::new();
    for id in 0..ROWS {
        let word = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // Writing to a string works.
        let _ = writeln!(text, "{id}\t{word:016x} {word:064b}");
    }
    text
}

//! nginx in a sandbox, read by a browser of the host: headless Chromium.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{
    host::Host,
    sandbox::{Sandbox, output},
};

/// nginx with a page that loads forty modules and a file of 4 MiB, and sends the file back.
const SERVER: &str = r#"
mkdir -p /srv/www; cd /srv/www
for i in $(seq 40); do echo "export default $i" > "m$i.js"; done
head -c 4194304 /dev/urandom > blob
cat > index.html <<'END'
<!doctype html><title>judge</title><p id=seen>nothing</p><script type=module>
const numbers = [...Array(40).keys()].map(i => i + 1)
const modules = await Promise.all(numbers.map(i => import(`./m${i}.js`)))
const sum = modules.reduce((sum, module) => sum + module.default, 0)
const blob = await (await fetch('blob')).arrayBuffer()
const put = await fetch('put/blob', {method: 'PUT', body: blob})
const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', blob))
const hex = [...digest].map(byte => byte.toString(16).padStart(2, '0')).join('')
document.getElementById('seen').textContent = `${sum} ${put.status} ${hex}`
</script>
END
cat > /srv/nginx.conf <<'END'
user www-data;
events { }
http {
  include /etc/nginx/mime.types;
  server {
    listen 80;
    root /srv/www;
    client_max_body_size 0;
    location /put { dav_methods PUT; create_full_put_path on; }
  }
}
END
chown www-data /srv/www
nginx -c /srv/nginx.conf
"#;

/// The browser looks up no name and so reaches nothing but the sandbox. It may run as root, where
/// its own sandbox does not start. It prints the page when the page has nothing more to load.
const FLAGS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--virtual-time-budget=100000",
    "--dump-dom",
];

/// # Errors
/// When the page in the browser does not show what the sandbox has.
pub(super) fn chromium(host: &Host) -> Result<String> {
    let directory = host.directory("chromium")?;
    let server = Sandbox::start(host, &["-p", "80"])?;
    server.sh(SERVER)?;
    let mut browser = Command::new("timeout");
    browser
        .args(["--kill-after=5", "300", "chromium"])
        .args(FLAGS)
        .arg(format!("--user-data-dir={}", directory.display()))
        .arg(format!("http://127.0.0.1:{}/", server.port("80")?))
        .env("HOME", &directory);
    let page = output(&mut browser, &[]).context("Chromium")?;
    let digest = |file: &str| server.sh(&format!("sha256sum < {file} | cut -d ' ' -f 1"));
    let sent = digest("/srv/www/blob")?;
    ensure!(
        page.contains(&format!(">820 201 {sent}<")),
        "The page in the browser is: {page}"
    );
    ensure!(
        digest("/srv/www/put/blob")? == sent,
        "The file that came back is another"
    );
    Ok("a page with 40 modules, 4 MiB down and back up".to_owned())
}

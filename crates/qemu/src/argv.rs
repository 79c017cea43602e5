//! From a plan to QEMU's arguments. Pure; every kind of machine has a golden file.
//!
//! What names a path is given as JSON, where a comma has no meaning; disks are raw, and no format
//! is ever probed, since a guest could write another format's header into its own disk.

use std::ffi::OsString;

use cofferdam_backend::{BlockDevice, Error, ErrorKind, NetworkInterface, Result};
use cofferdam_proto::{AGENT_PORT_NAME, FILES_PORT_NAME};
use serde_json::{Value, json};

use crate::{
    accel::Accel,
    map::{Begin, Memory, Plan},
};

/// Numbers of the descriptors that QEMU inherits, beyond the standard ones.
pub(crate) mod fd {
    pub(crate) const AGENT: i32 = 10;
    pub(crate) const CONTROL: i32 = 11;
    pub(crate) const CONSOLE: i32 = 12;
    pub(crate) const STATE: i32 = 13;
    pub(crate) const NETWORK: i32 = 14;
    pub(crate) const FILES: i32 = 15;
}

/// The machine. ACPI is off because the guest kernel has none. The RTC stays on: a kernel that
/// finds none waits a whole second for one (Linux `mc146818_get_time`). So do PIT and PIC: a guest
/// under TCG hangs in its TSC calibration without them.
const MACHINE: &str = "microvm,acpi=off,rtc=on,memory-backend=ram";

/// Most memory that translated code may take beside the guest's own. A compiler run translates
/// tens of MiB; the default of 1 GiB would let a guest double the host memory that it costs.
const TRANSLATION_MIB: u32 = 128;

/// TCG's full feature set is the same on every host, but for what costs more than it gives:
/// - five-level paging: its fifth level costs a load for each translation miss;
/// - enhanced and fast short `rep movsb`: kernel and C library copy and clear by them where they
///   are told that they are fast, and QEMU runs them byte by byte (`docs/start.md`).
const TCG_CPU: &str = "max,la57=off,erms=off,fsrm=off";

/// The first words of every command line:
/// - `console=ttyS0`: the serial port, kept in the console log;
/// - `quiet`: each line printed costs a VM exit per byte;
/// - `reboot=t panic=-1`: with `-no-reboot`, a triple fault is the only way out of a `microvm`
///   without ACPI, and a panic must take it at once.
///
/// Under emulation the rate of the time-stamp counter is added: a guest that calibrates it by the
/// emulated timer gives up on a busy host, and then its clock has steps of 4 ms and it has no
/// high-resolution timers. And it does not check that the timer ticks: the check waits for ticks by
/// the counter, and panics when a busy host lets none come in time.
const CMDLINE: &str = "console=ttyS0 quiet reboot=t panic=-1";

/// System calls that QEMU never needs here; a guest that takes QEMU over has not got them either.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// The CPU model, as far as the accelerator decides it.
pub(crate) const fn cpu(accel: Accel) -> &'static str {
    match accel {
        Accel::Kvm => "host",
        Accel::Tcg => TCG_CPU,
    }
}

/// What a snapshot depends on apart from program and CPU; part of the compatibility key, so a
/// change to devices here makes old snapshots unfit instead of unreadable.
pub(crate) const MACHINE_GENERATION: &str = "microvm-3";

/// The arguments without the program.
pub(crate) fn argv(plan: &Plan) -> Result<Vec<OsString>> {
    let mut args = Args::default();
    args.pair("-name", &plan.name);
    for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
        args.word(flag);
    }
    args.pair("-display", "none");
    args.pair("-sandbox", SANDBOX);
    args.pair("-machine", MACHINE);
    args.pair("-accel", &accel(plan.accel));
    args.pair("-cpu", cpu(plan.accel));
    args.pair("-smp", &plan.vcpus.to_string());
    args.pair("-m", &format!("{}M", plan.memory_mib));
    args.json("-object", &memory(plan)?);
    // Virtio 1.x registers, not the legacy ones that QEMU has as its default on mmio.
    args.pair("-global", "virtio-mmio.force-legacy=off");
    // A restored machine runs as soon as it is loaded, though the captured one was paused.
    args.pair("-global", "migration.store-global-state=off");
    channels(&mut args, plan.file_channel);
    devices(&mut args);
    for (index, disk) in plan.disks.iter().enumerate() {
        let node = disk_node(index);
        args.json("-blockdev", &block_node(&node, disk)?);
        args.json("-device", &block_device(&node, &disk_device(index), disk));
    }
    if let Some(interface) = &plan.network {
        network(&mut args, interface);
    }
    match &plan.begin {
        Begin::Boot {
            kernel,
            initrd,
            cmdline,
            tsc_khz,
        } => {
            args.word("-kernel");
            args.0.push(kernel.into());
            if let Some(initrd) = initrd {
                args.word("-initrd");
                args.0.push(initrd.into());
            }
            let clock = tsc_khz.map_or_else(String::new, |khz| {
                format!(" tsc_early_khz={khz} tsc=reliable no_timer_check")
            });
            args.pair("-append", format!("{CMDLINE}{clock} {cmdline}").trim_end());
        }
        Begin::Restore => args.pair("-incoming", "defer"),
    }
    Ok(args.0)
}

/// Name of the node of the spec's disk `index`.
pub(crate) fn disk_node(index: usize) -> String {
    format!("disk{index}")
}

/// Name of the device of the spec's disk `index`.
pub(crate) fn disk_device(index: usize) -> String {
    format!("disk{index}-device")
}

#[derive(Default)]
struct Args(Vec<OsString>);

impl Args {
    fn word(&mut self, word: &str) {
        self.0.push(word.into());
    }

    fn pair(&mut self, name: &str, value: &str) {
        self.word(name);
        self.word(value);
    }

    fn json(&mut self, name: &str, value: &Value) {
        self.pair(name, &value.to_string());
    }
}

fn accel(accel: Accel) -> String {
    match accel {
        Accel::Kvm => "kvm".to_owned(),
        Accel::Tcg => format!("tcg,thread=multi,tb-size={TRANSLATION_MIB}"),
    }
}

/// Neither merged with other processes' pages, which tells a guest what they hold, nor dumped.
fn memory(plan: &Plan) -> Result<Value> {
    let size = u64::from(plan.memory_mib) << 20;
    let (path, share) = match &plan.memory {
        Memory::Anonymous => {
            return Ok(json!({
                "qom-type": "memory-backend-ram", "id": "ram", "size": size,
                "merge": false, "dump": false,
            }));
        }
        Memory::Shared(path) => (path, true),
        Memory::CopyOnWrite(path) => (path, false),
    };
    Ok(json!({
        "qom-type": "memory-backend-file", "id": "ram", "size": size, "mem-path": text(path)?,
        "share": share, "merge": false, "dump": false,
    }))
}

fn channels(args: &mut Args, files: bool) {
    let channel = |id: &str, number: i32| format!("socket,id={id},fd={number}");
    args.pair("-chardev", &channel("control", fd::CONTROL));
    args.pair("-mon", "chardev=control,mode=control");
    args.pair("-chardev", &channel("console", fd::CONSOLE));
    args.pair("-serial", "chardev:console");
    args.pair("-chardev", &channel("agent", fd::AGENT));
    // Port 0 is the console's, virtio 1.2 §5.3.2.
    let ports = 2 + u32::from(files);
    args.pair(
        "-device",
        &format!("virtio-serial-device,max_ports={ports}"),
    );
    args.pair(
        "-device",
        &format!("virtserialport,chardev=agent,nr=1,name={AGENT_PORT_NAME}"),
    );
    if files {
        args.pair("-chardev", &channel("files", fd::FILES));
        args.pair(
            "-device",
            &format!("virtserialport,chardev=files,nr=2,name={FILES_PORT_NAME}"),
        );
    }
}

fn devices(args: &mut Args) {
    args.pair("-object", "rng-random,id=entropy,filename=/dev/urandom");
    args.pair("-device", "virtio-rng-device,rng=entropy");
    args.pair(
        "-device",
        "virtio-balloon-device,free-page-reporting=on,deflate-on-oom=on",
    );
}

/// Frames go through an inherited, connected socket. There is no other network, so nothing of QEMU's
/// listens or connects. The guest announces itself by its agent, not by its driver, which would do
/// it with the addresses of the captured machine.
fn network(args: &mut Args, interface: &NetworkInterface) {
    let descriptor = json!({ "type": "fd", "str": fd::NETWORK.to_string() });
    args.json(
        "-netdev",
        &json!({ "type": "stream", "id": "net0", "server": false, "addr": descriptor }),
    );
    args.json(
        "-device",
        &json!({
            "driver": "virtio-net-device", "id": "net0-device", "netdev": "net0",
            "mac": interface.mac.to_string(), "host_mtu": interface.mtu, "guest_announce": false,
        }),
    );
}

/// A read-only image is shared by many machines, so it is not locked; a writable one is locked by
/// QEMU, so that two machines cannot have it. `threads` rather than io_uring: a root image lies
/// in the page cache, and fewer kernel interfaces are within a guest's reach. A machine that goes on
/// after a migration of its memory is the one that wrote the file: dropping the file from the page
/// cache, which is for another host's writes, took 60 ms of the pause.
fn block_node(node: &str, disk: &BlockDevice) -> Result<Value> {
    let locking = if disk.read_only { "off" } else { "auto" };
    let discard = if disk.read_only { "ignore" } else { "unmap" };
    Ok(json!({
        "node-name": node, "driver": "raw", "read-only": disk.read_only, "discard": discard,
        "file": {
            "driver": "file", "filename": text(&disk.path)?, "locking": locking,
            "aio": "threads", "discard": discard, "drop-cache": false,
        },
    }))
}

/// A guest sees the same features before and after a restore, so they are the same in all machines.
/// What it discards becomes a hole in the file, or stays there where hole punching is a no-op (see
/// `cofferdam-jail`): a guest may not count on zeroes after a discard. On those of write-zeroes it
/// does, so these are off, and so is QEMU's `detect-zeroes`, which would look through all that is
/// written besides. An error is the guest's to handle: by default QEMU would stop a machine whose
/// host has a full disk, and nobody would start it again.
fn block_device(node: &str, id: &str, disk: &BlockDevice) -> Value {
    json!({
        "driver": "virtio-blk-device", "id": id, "drive": node, "serial": disk.id,
        "discard": !disk.read_only, "write-zeroes": false, "werror": "report", "rerror": "report",
    })
}

/// A path as QEMU takes it.
pub(crate) fn text(path: &std::path::Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        let what = format!("The path `{}` is not UTF-8", path.display());
        Error::new(ErrorKind::InvalidSpec, what).hint("QEMU takes paths as JSON text; rename it")
    })
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    fn plan() -> Plan {
        Plan {
            name: "coffer-abababababab".to_owned(),
            accel: Accel::Tcg,
            vcpus: 2,
            memory_mib: 512,
            memory: Memory::Anonymous,
            disks: Vec::new(),
            network: None,
            file_channel: false,
            begin: Begin::Boot {
                kernel: "/kernels/vmlinux".into(),
                initrd: Some("/kernels/initramfs.cpio".into()),
                cmdline: "coffer.debug".to_owned(),
                tsc_khz: Some(2_500_000),
            },
        }
    }

    fn disk(id: &str, path: &str, read_only: bool) -> BlockDevice {
        BlockDevice {
            id: id.to_owned(),
            path: path.into(),
            read_only,
        }
    }

    /// Compares with `tests/golden/NAME.argv`; `UPDATE_GOLDEN=1` writes it.
    fn golden(name: &str, plan: &Plan) {
        let mut text = String::new();
        for arg in argv(plan).unwrap() {
            let arg = arg.into_string().unwrap();
            // An option and its value share a line.
            let separator = if arg.starts_with('-') { "\n" } else { " " };
            text.push_str(separator);
            text.push_str(&arg);
        }
        let text = format!("{}\n", text.trim_start());
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(format!("{name}.argv"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(text, expected, "bless with UPDATE_GOLDEN=1");
    }

    #[test]
    fn a_boot_under_emulation() {
        golden("boot-tcg", &plan());
    }

    #[test]
    fn a_boot_with_kvm() {
        let mut plan = Plan {
            accel: Accel::Kvm,
            ..plan()
        };
        if let Begin::Boot { tsc_khz, .. } = &mut plan.begin {
            *tsc_khz = None;
        }
        golden("boot-kvm", &plan);
    }

    #[test]
    fn a_boot_with_disks_and_awkward_paths() {
        let disks = vec![
            disk("root", "/images/a,b.erofs", true),
            disk("upper", "/sandboxes/with \"quotes\"/upper.img", false),
        ];
        golden("boot-disks", &Plan { disks, ..plan() });
    }

    #[test]
    fn a_boot_with_a_network_interface() {
        let network = Some(crate::testing::network());
        golden("boot-network", &Plan { network, ..plan() });
    }

    #[test]
    fn a_boot_with_a_file_channel() {
        let plan = Plan {
            file_channel: true,
            ..plan()
        };
        golden("boot-files", &plan);
    }

    #[test]
    fn a_boot_of_a_template() {
        let memory = Memory::Shared("/templates/x/memory".into());
        let begin = Begin::Boot {
            kernel: "/kernels/vmlinux".into(),
            initrd: None,
            cmdline: String::new(),
            tsc_khz: None,
        };
        golden(
            "boot-template",
            &Plan {
                memory,
                begin,
                ..plan()
            },
        );
    }

    #[test]
    fn a_restore_for_one_of_many() {
        let memory = Memory::CopyOnWrite("/templates/x/memory".into());
        golden(
            "restore-fork",
            &Plan {
                memory,
                begin: Begin::Restore,
                ..plan()
            },
        );
    }

    #[test]
    fn a_restore_into_a_memory_file_of_its_own() {
        let memory = Memory::Shared("/sandboxes/y/memory".into());
        let accel = Accel::Kvm;
        golden(
            "restore-shared",
            &Plan {
                memory,
                accel,
                begin: Begin::Restore,
                ..plan()
            },
        );
    }

    #[test]
    fn a_path_that_is_no_text_is_refused() {
        use std::os::unix::ffi::OsStringExt;
        let path = PathBuf::from(OsString::from_vec(vec![b'/', 0xff]));
        let error = argv(&Plan {
            memory: Memory::Shared(path),
            ..plan()
        })
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec);
    }
}

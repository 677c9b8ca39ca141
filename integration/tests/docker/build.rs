//! Images built with the runtime, and compositions.

use std::fs;
use std::path::Path;

use knarr_integration::daemon::PATIENCE;
use knarr_integration::docker::{Docker, IMAGE};
use knarr_integration::{json, process, runtime};

/// A directory with a Dockerfile.
fn context(it: &Docker, name: &str, dockerfile: &str) -> String {
    let dir = it.pen.path(name);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("Dockerfile"), dockerfile).unwrap();
    fs::write(dir.join("given"), "given\n").unwrap();
    dir.to_str().unwrap().to_owned()
}

const DOCKERFILE: &str = "FROM box:1\nARG WHO=nobody\nCOPY given /given\n\
    RUN echo made by $WHO > /made && grep -q given /given\nUSER worker\nWORKDIR /tmp\n\
    RUN test $(id -u) = 1000 && pwd > where && cat /proc/self/cgroup > group\n\
    HEALTHCHECK --interval=1s CMD true\nENTRYPOINT [\"cat\", \"/made\", \"/tmp/where\"]\n";

pub fn build_classic(it: &Docker) {
    let dir = context(it, "classic", DOCKERFILE);
    let args = [
        "docker",
        "build",
        "--no-cache",
        "--build-arg",
        "WHO=classic",
        "-t",
        "classic:1",
        &dir,
    ];
    let mut command = it.pen.command(&args);
    command.env("DOCKER_BUILDKIT", "0");
    let out = it.pen.spawn(command).wait().ok();
    assert!(out.stdout.contains("Successfully"), "{out:#?}");
    let out = it.docker(&["run", "--rm", "classic:1"]).ok();
    assert_eq!(out.stdout, "made by classic\n/tmp\n");
    let dir = context(it, "classicbad", "FROM box:1\nRUN exit 21\n");
    let mut command = it.pen.command(&["docker", "build", "--no-cache", &dir]);
    command.env("DOCKER_BUILDKIT", "0");
    let out = it.pen.spawn(command).wait();
    assert!(out.code != 0 && out.stderr.contains("21"), "{out:#?}");
}

pub fn build_with_buildkit(it: &Docker) {
    let dir = context(it, "kit", DOCKERFILE);
    let args = [
        "build",
        "--progress=plain",
        "--no-cache",
        "--build-arg",
        "WHO=kit",
        "-t",
        "kit:1",
        &dir,
    ];
    it.docker(&args).ok();
    let out = it.docker(&["run", "--rm", "kit:1"]).ok();
    assert_eq!(out.stdout, "made by kit\n/tmp\n");
    let dir = context(it, "kitbad", "FROM box:1\nRUN exit 21\n");
    let out = it.docker(&["build", "--progress=plain", "--no-cache", &dir]);
    assert!(
        out.code != 0 && out.stderr.contains("exit code: 21"),
        "{out:#?}"
    );
    // It is the runtime under test that runs a step, found in PATH or configured.
    let dir = context(it, "kitslow", "FROM box:1\nRUN sleep 3\n");
    let build = it.spawn(&["build", "--progress=plain", "--no-cache", &dir]);
    let seen = process::eventually(PATIENCE, || {
        it.pen.programs().iter().any(|program| is_runtime(program))
    });
    build.wait().ok();
    assert!(seen, "no runtime under test was seen while a step ran");
}

/// Whether a process that runs that program is the runtime under test. One that keeps its program out
/// of its containers' reach runs from a copy, in memory or on a mount of its own.
fn is_runtime(program: &Path) -> bool {
    let own = runtime::path().canonicalize().unwrap();
    program == own || program == Path::new("/") || program.to_string_lossy().contains("memfd:")
}

pub fn compose_up_and_down(it: &Docker) {
    let dir = it.pen.path("compose");
    fs::create_dir_all(&dir).unwrap();
    fs::write(
        dir.join("Dockerfile"),
        "FROM box:1\nRUN echo composed > /composed\n",
    )
    .unwrap();
    let file = dir.join("compose.yaml");
    let config = json!({
        "name": "composed",
        "services": {
            "db": {
                "image": IMAGE,
                "command": ["sh", "-c", "touch /tmp/well; while :; do echo from-db | nc -l -p 80; done"],
                "healthcheck": {"test": ["CMD", "test", "-e", "/tmp/well"], "interval": "1s"},
                "stop_grace_period": "1s",
            },
            "web": {
                "build": ".",
                "command": ["sh", "-c", "until nc db 80 </dev/null; do sleep 0.1; done; cat /composed; sleep 600"],
                "depends_on": {"db": {"condition": "service_healthy"}},
                "volumes": ["data:/data"],
                "mem_limit": "64m",
                "stop_grace_period": "1s",
            },
        },
        "volumes": {"data": {}},
    });
    // YAML has JSON in it.
    fs::write(&file, config.to_string()).unwrap();
    let file = file.to_str().unwrap();
    let compose = |args: &[&str]| it.docker(&[&["compose", "-f", file], args].concat());
    compose(&["up", "-d", "--build", "--wait"]).ok();
    let seen = process::eventually(PATIENCE, || {
        let out = compose(&["logs", "--no-log-prefix", "web"]).ok();
        out.stdout.contains("from-db\n") && out.stdout.contains("composed\n")
    });
    assert!(seen, "{:#?}", compose(&["logs"]));
    compose(&["exec", "-T", "web", "sh", "-c", "exit 12"]).exits(12);
    let out = compose(&["ps", "--format", "{{.Service}} {{.State}}"]).ok();
    assert!(out.stdout.contains("web running"), "{out:#?}");
    compose(&["restart", "web"]).ok();
    compose(&["run", "--rm", "-T", "web", "cat", "/composed"]).ok();
    compose(&["down", "-v", "--timeout", "1"]).ok();
    let left = it
        .docker(&[
            "ps",
            "-aq",
            "--filter",
            "label=com.docker.compose.project=composed",
        ])
        .ok();
    assert_eq!(left.text(), "");
}

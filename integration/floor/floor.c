/* The floor: what the benchmark's Docker-like container costs at least on a machine.
 *
 * This program makes, in the shortest way there is, the system calls that a correct runtime cannot do
 * without for that one bundle: re-executing itself from a read-only clone, state, cgroups with their
 * limits, namespaces, mounts, devices, masks, credentials, the filter, the program, its end. Nothing is
 * computed: the cgroups come as a list (`plan`), the seccomp filter as compiled by knarr (`filter`),
 * both written by the benchmark; all else is written down here.
 *
 * What it leaves out, and what keeps a real runtime above it: reading and checking config.json, every
 * other configuration, looking paths up in the root without following links, finding the cgroups,
 * locks, hooks, terminals, warnings, undoing what failed, and telling why: any failure ends it with a
 * line number. `start` does not wait for execve, and device rules on cgroup v2 are a program that
 * allows everything. It is no runtime: it must run nothing but the benchmark.
 *
 *     floor --root DIR create|run [--pid-file F] --bundle DIR ID
 *     floor --root DIR start|state|kill|delete ID
 *     floor --root DIR exec ID PROGRAM
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <grp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

/* Of sys/mount.h, which some C libraries cannot have beside linux/mount.h. */
int mount(const char *, const char *, const char *, unsigned long, const void *);
int umount2(const char *, int);
#define DETACH 2
#define CLONE_CGROUP_NS 0x02000000
#define KEY_JOIN 1
#define KEY_SETPERM 5
#define P_PIDFD_ 3

#define must(call) do { if ((long)(call) < 0) fail(__LINE__); } while (0)

static void fail(int line)
{
    dprintf(2, "floor: line %d: %m\n", line);
    _exit(1);
}

static char root_dir[512], bundle[512], id[64], plan[8192];
static struct sock_filter filter[4096];
static struct sock_fprog program = { 0, filter };

static ssize_t slurp(const char *path, void *into, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got;
    if (fd < 0)
        return -1;
    got = read(fd, into, size);
    close(fd);
    return got;
}

static void put(const char *path, const char *value, int flags)
{
    int fd;
    must(fd = open(path, O_WRONLY | O_CLOEXEC | flags, 0600));
    must(write(fd, value, strlen(value)));
    close(fd);
}

static const char *in_bundle(const char *name)
{
    static char path[600];
    snprintf(path, sizeof path, "%s/%s", bundle, name);
    return path;
}

static const char *in_state(const char *name)
{
    static char path[700];
    snprintf(path, sizeof path, "%s/%s/%s", root_dir, id, name);
    return path;
}

/* Calls `act` with the lines of the plan that begin with `kind`: "dir PATH" or "set PATH VALUE". */
static void each(const char *kind, void (*act)(char *path, char *value))
{
    static char copy[sizeof plan];
    char *line, *next = strcpy(copy, plan);
    while ((line = strsep(&next, "\n"))) {
        char *word = strsep(&line, " "), *path = strsep(&line, " ");
        if (path && !strcmp(word, kind))
            act(path, line);
    }
}

static void make(char *path, char *value)
{
    (void)value;
    if (mkdir(path, 0755) < 0)
        must(access(path, F_OK));
}

static void set(char *path, char *value) { put(path, value, 0); }

static char pid_text[16];
static void attach(char *path, char *value)
{
    char procs[600];
    (void)value;
    snprintf(procs, sizeof procs, "%s/cgroup.procs", path);
    put(procs, pid_text, 0);
}

static void drop(char *path, char *value) { (void)value; rmdir(path); }

/* cgroup v2: the container is born in its cgroup, whose device program allows everything here. */
static int unified = -1, making;
static void enter_unified(char *path, char *value)
{
    struct bpf_insn allow[2] = { { .code = 0xb7, .imm = 1 }, { .code = 0x95 } };
    union bpf_attr load = { .prog_type = BPF_PROG_TYPE_CGROUP_DEVICE, .insn_cnt = 2,
        .insns = (unsigned long)allow, .license = (unsigned long)"Apache" }, attach = { 0 };
    int prog;
    (void)value;
    must(unified = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!making)
        return;
    must(prog = syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load));
    attach.target_fd = unified;
    attach.attach_bpf_fd = prog;
    attach.attach_type = BPF_CGROUP_DEVICE;
    must(syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof attach));
    close(prog);
}

static pid_t fork_into(unsigned long flags, int *pidfd)
{
    struct clone_args args = { .flags = flags | CLONE_PIDFD, .pidfd = (unsigned long)pidfd, .exit_signal = SIGCHLD };
    if (unified >= 0) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = unified;
    }
    return syscall(SYS_clone3, &args, sizeof args);
}

static void attrs(const char *path, unsigned long set_, unsigned long propagation, int flags)
{
    struct mount_attr attr = { .attr_set = set_, .propagation = propagation };
    must(syscall(SYS_mount_setattr, AT_FDCWD, path, flags, &attr, sizeof attr));
}

/* Credentials, filter, program: the same for the first process and for exec. */
static void become(char *const *argv)
{
    static char *env[] = { "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME=box", "HOME=/root", 0 };
    struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
    const unsigned caps = 0xa80425fb, admin = 1u << CAP_SYS_ADMIN;
    struct rlimit files = { 1024, 2048 };
    gid_t group = 0;
    long key;
    must(key = syscall(SYS_keyctl, KEY_JOIN, "_ses"));
    must(syscall(SYS_keyctl, KEY_SETPERM, key, 0x3f1f0000));
    must(setrlimit(RLIMIT_NOFILE, &files));
    for (int cap = 0; cap <= CAP_LAST_CAP; cap++)
        if (cap > 31 || !(caps >> cap & 1))
            prctl(PR_CAPBSET_DROP, cap);
    must(setgroups(1, &group));
    must(syscall(SYS_setresgid, 0, 0, 0));
    must(syscall(SYS_setresuid, 0, 0, 0));
    umask(022);
    /* Without no_new_privs the filter needs CAP_SYS_ADMIN. */
    struct __user_cap_data_struct spare[2] = { { caps | admin, caps | admin, 0 } }, data[2] = { { caps, caps, 0 } };
    must(syscall(SYS_capset, &head, spare));
    must(syscall(SYS_close_range, 3, ~0u, 4));
    must(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program));
    must(syscall(SYS_capset, &head, data));
    execve(argv[0], argv, env);
    fail(__LINE__);
}

static void hierarchy(char *path, char *options)
{
    char *name = strrchr(path, '/') + 1, at[128];
    snprintf(at, sizeof at, "sys/fs/cgroup/%s", name);
    must(mkdir(at, 0755));
    must(mount("cgroup", at, "cgroup", MS_NOSUID | MS_NOEXEC | MS_NODEV | MS_RDONLY, options));
}

static void init(int gate, int fifo, char *const *argv)
{
    static const struct { const char *name; int major, minor; } devices[] = { { "null", 1, 3 }, { "zero", 1, 5 },
        { "full", 1, 7 }, { "random", 1, 8 }, { "urandom", 1, 9 }, { "tty", 5, 0 } };
    static const char *const links[][2] = { { "/proc/self/fd", "dev/fd" }, { "/proc/self/fd/0", "dev/stdin" },
        { "/proc/self/fd/1", "dev/stdout" }, { "/proc/self/fd/2", "dev/stderr" }, { "pts/ptmx", "dev/ptmx" } };
    static const char *const binds[] = { "extra", "hostname", "hosts", "resolv.conf" };
    static const char *const masked[] = { "acpi", "asound", "interrupts", "kcore", "keys", "latency_stats",
        "sched_debug", "scsi", "timer_list", "timer_stats", "../sys/devices/virtual/powercap", "../sys/firmware" };
    static const char *const fixed[] = { "bus", "fs", "irq", "sys", "sysrq-trigger" };
    const unsigned long none = MS_NOSUID | MS_NOEXEC | MS_NODEV;
    struct ifreq lo = { .ifr_name = "lo" };
    char go;
    int fd;
    must(syscall(SYS_close_range, 3, ~0u, 4));
    must(prctl(PR_SET_DUMPABLE, 0));
    must(setsid());
    must(fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    lo.ifr_flags = IFF_UP | IFF_RUNNING;
    must(ioctl(fd, SIOCSIFFLAGS, &lo));
    must(sethostname("box", 3));
    umask(0);
    attrs("/", 0, MS_SLAVE, AT_RECURSIVE);
    must(chdir(in_bundle("rootfs")));
    must(mount(".", ".", 0, MS_BIND | MS_REC, 0));
    must(chdir(in_bundle("rootfs")));
    must(mount("proc", "proc", "proc", none, 0));
    must(mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"));
    must(mkdir("dev/pts", 0755) | mkdir("dev/mqueue", 0755) | mkdir("dev/shm", 0755));
    must(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"));
    must(mount("sysfs", "sys", "sysfs", none | MS_RDONLY, 0));
    must(mount("mqueue", "dev/mqueue", "mqueue", none, 0));
    must(mount("shm", "dev/shm", "tmpfs", none, "mode=1777,size=67108864"));
    for (unsigned at = 0; at < sizeof binds / sizeof *binds; at++) {
        char to[64], from[32];
        snprintf(from, sizeof from, "files/%s", binds[at]);
        snprintf(to, sizeof to, "etc/%s", binds[at]);
        close(open(to, O_CREAT | O_RDONLY | O_CLOEXEC, 0644));
        must(mount(in_bundle(from), to, 0, MS_BIND | MS_REC, 0));
        attrs(to, 0, MS_PRIVATE, AT_RECURSIVE);
    }
    for (unsigned at = 0; at < sizeof devices / sizeof *devices; at++) {
        char path[16];
        snprintf(path, sizeof path, "dev/%s", devices[at].name);
        must(mknod(path, S_IFCHR | 0666, makedev(devices[at].major, devices[at].minor)));
    }
    for (unsigned at = 0; at < sizeof links / sizeof *links; at++)
        must(symlink(links[at][0], links[at][1]));
    /* The root of the cgroup namespace is the cgroup that the caller is in by then. */
    must(read(gate, &go, 1) - 1);
    must(unshare(CLONE_CGROUP_NS));
    if (unified >= 0) {
        must(mount("cgroup", "sys/fs/cgroup", "cgroup2", none | MS_RDONLY, 0));
    } else {
        must(mount("cgroup", "sys/fs/cgroup", "tmpfs", none, "mode=755"));
        each("mount", hierarchy);
        attrs("sys/fs/cgroup", MOUNT_ATTR_RDONLY, 0, 0);
    }
    must(syscall(SYS_pivot_root, ".", "."));
    must(umount2(".", DETACH));
    must(chdir("/proc"));
    put("sys/net/ipv4/ip_unprivileged_port_start", "0", 0);
    put("sys/net/ipv4/ping_group_range", "0 2147483647", 0);
    for (unsigned at = 0; at < sizeof fixed / sizeof *fixed; at++) {
        if (access(fixed[at], F_OK) < 0)
            continue;
        must(mount(fixed[at], fixed[at], 0, MS_BIND | MS_REC, 0));
        attrs(fixed[at], MOUNT_ATTR_RDONLY, 0, AT_RECURSIVE);
    }
    for (unsigned at = 0; at < sizeof masked / sizeof *masked; at++) {
        struct stat what;
        if (stat(masked[at], &what) < 0)
            continue;
        if (S_ISDIR(what.st_mode))
            must(mount("tmpfs", masked[at], "tmpfs", MS_RDONLY, "nr_blocks=1,nr_inodes=1"));
        else
            must(mount("/dev/null", masked[at], 0, MS_BIND, 0));
    }
    must(chdir("/"));
    if (fifo >= 0) {
        must(write(gate, "R", 1));
        must(read(fifo, &go, 1) - 1);
    }
    become(argv);
}

static int load(void)
{
    char text[600];
    ssize_t got;
    must(got = slurp(in_state("state"), text, sizeof text - 1));
    text[got] = 0;
    char *next = text;
    int pid = atoi(strsep(&next, "\n"));
    snprintf(bundle, sizeof bundle, "%s", next);
    return pid;
}

/* Whether the process lives; a runtime compares its start time too, from the same file. */
static int alive(int pid)
{
    char path[32], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    ssize_t got = slurp(path, text, sizeof text - 1);
    if (got <= 0)
        return 0;
    text[got] = 0;
    char *end = strrchr(text, ')');
    return end && end[2] != 'Z' && end[2] != 'X';
}

static void read_plan(int with_filter)
{
    ssize_t got;
    must(got = slurp(in_bundle("plan"), plan, sizeof plan - 1));
    if (!with_filter)
        return;
    must(got = slurp(in_bundle("filter"), filter, sizeof filter));
    program.len = got / sizeof *filter;
}

static void enter(int pid, int gate)
{
    char path[48];
    snprintf(pid_text, sizeof pid_text, "%d", pid);
    if (unified < 0)
        each("dir", attach);
    snprintf(path, sizeof path, "/proc/%d/oom_score_adj", pid);
    put(path, "0", 0);
    must(write(gate, "G", 1));
}

static int wait_for(int pidfd)
{
    siginfo_t info;
    must(waitid(P_PIDFD_, pidfd, &info, WEXITED));
    return info.si_status;
}

static void delete(void)
{
    each("dir", drop);
    unlink(in_state("state"));
    unlink(in_state("start"));
    must(rmdir(in_state("")));
}

static int create(int run, const char *pid_file)
{
    static char *stay[] = { "/bin/sleep", "600", 0 }, *end[] = { "/bin/true", 0 };
    char text[600];
    int sockets[2], fifo = -1, pidfd;
    making = 1;
    read_plan(1);
    mkdir(root_dir, 0700);
    must(mkdir(in_state(""), 0700));
    if (!run) {
        must(mkfifo(in_state("start"), 0600));
        must(fifo = open(in_state("start"), O_RDWR | O_CLOEXEC));
    }
    each("parent", make);
    each("dir", make);
    each("set", set);
    each("unified", enter_unified);
    must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets));
    pid_t pid = fork_into(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET, &pidfd);
    must(pid);
    if (!pid) {
        close(sockets[0]);
        init(sockets[1], fifo, run ? end : stay);
    }
    close(sockets[1]);
    enter(pid, sockets[0]);
    snprintf(text, sizeof text, "%d\n%s", pid, bundle);
    put(in_state("state"), text, O_CREAT | O_TRUNC);
    if (!run) {
        must(read(sockets[0], text, 1) - 1);
        if (pid_file)
            put(pid_file, pid_text, O_CREAT | O_TRUNC);
        return 0;
    }
    int code = wait_for(pidfd);
    delete();
    return code;
}

static int exec(char *const *argv)
{
    int pid = load(), target, root, sockets[2], pidfd;
    char path[32], go;
    must(target = syscall(SYS_pidfd_open, pid, 0));
    if (!alive(pid))
        fail(__LINE__);
    read_plan(1);
    each("unified", enter_unified);
    snprintf(path, sizeof path, "/proc/%d/root", pid);
    must(root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC));
    must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets));
    must(setns(target, CLONE_NEWPID));
    pid = fork_into(0, &pidfd);
    must(pid);
    if (!pid) {
        close(sockets[0]);
        must(syscall(SYS_close_range, 3, ~0u, 4));
        must(prctl(PR_SET_DUMPABLE, 0));
        must(setsid());
        must(read(sockets[1], &go, 1) - 1);
        must(setns(target, CLONE_NEWNS | CLONE_CGROUP_NS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET));
        must(fchdir(root) | chroot(".") | chdir("/"));
        become(argv);
    }
    enter(pid, sockets[0]);
    return wait_for(pidfd);
}

int main(int argc, char **argv)
{
    const char *command = 0, *pid_file = 0;
    int at = 1, tree, force = 0;
    for (; at < argc && !*id; at++) {
        if (!strcmp(argv[at], "--root"))
            snprintf(root_dir, sizeof root_dir, "%s", argv[++at]);
        else if (!strcmp(argv[at], "--bundle"))
            snprintf(bundle, sizeof bundle, "%s", argv[++at]);
        else if (!strcmp(argv[at], "--pid-file"))
            pid_file = argv[++at];
        else if (!strcmp(argv[at], "--force"))
            force = 1;
        else if (!strcmp(argv[at], "--version"))
            return puts("floor: the calls that cannot be done without"), 0;
        else if (!command)
            command = argv[at];
        else
            snprintf(id, sizeof id, "%s", argv[at]);
    }
    if (!command || !*id)
        return 2;
    int makes = !strcmp(command, "create") || !strcmp(command, "run") || !strcmp(command, "exec");
    /* Nobody in the container may get at the program's file. */
    if (makes && !getenv("FLOOR")) {
        struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY };
        must(tree = syscall(SYS_open_tree, AT_FDCWD, "/proc/self/exe", OPEN_TREE_CLONE | O_CLOEXEC));
        must(syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attr, sizeof attr));
        must(putenv("FLOOR=1"));
        must(syscall(SYS_execveat, tree, "", argv, environ, AT_EMPTY_PATH));
    }
    if (!strcmp(command, "create") || !strcmp(command, "run"))
        return create(*command == 'r', pid_file);
    if (!strcmp(command, "exec"))
        return exec(argv + at);
    int pid = load();
    if (!strcmp(command, "start")) {
        int fifo;
        must(fifo = open(in_state("start"), O_WRONLY | O_CLOEXEC));
        must(write(fifo, "S", 1));
        return unlink(in_state("start"));
    }
    if (!strcmp(command, "state")) {
        printf("{\"ociVersion\":\"1.3.0\",\"id\":\"%s\",\"pid\":%d,\"status\":\"%s\",\"bundle\":\"%s\"}\n",
            id, pid, alive(pid) ? "running" : "stopped", bundle);
        return 0;
    }
    if (!strcmp(command, "kill")) {
        int target;
        must(target = syscall(SYS_pidfd_open, pid, 0));
        must(alive(pid) - 1);
        must(syscall(SYS_pidfd_send_signal, target, SIGKILL, 0, 0));
        return 0;
    }
    if (alive(pid) && !force)
        return 1;
    if (alive(pid))
        kill(pid, SIGKILL);
    read_plan(0);
    delete();
    return 0;
}

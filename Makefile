# The stable face for people and packagers; cargo does the work.
#
#   make          build the finished programs, static and stripped
#   make demo     build everything, start knarrd, run a container through it, visibly (root)
#   make demo-runtime   run a container from knarr alone (root)
#   make example  do the same from a program that uses the library (root)
#   make test     install what the tests need (Debian), run all tests (root)
#   make vm-test  run those tests in a virtual machine that need one (root)
#   make vm-test-newer   the same in one with a newer systemd
#   make peers    fetch and build containerd, dockerd, their clients, runc and crun below target/peers
#   make callers  run the tests in which those call knarr (root)
#   make bench    compare knarr with the runtimes that are installed (root)
#   make bench-managers   compare knarrd with containerd (root)
#   make vm-bench the same in the virtual machine, on cgroup v2; it is emulated, so count calls, not time
#   make fuzz     run each fuzz target for FUZZ_SECONDS
#   make install  DESTDIR= PREFIX=   programs, man pages, completions
#   make deb      a Debian package of the same, in DEB_DIR

CARGO        ?= cargo
DESTDIR      ?=
PREFIX       ?= /usr/local
BINDIR       ?= $(PREFIX)/bin
MANDIR       ?= $(PREFIX)/share/man
DATADIR      ?= $(PREFIX)/share
FUZZ_SECONDS ?= 60
DEB_DIR      ?= $(TARGET_DIR)/deb
TARGET_DIR   := $(or $(CARGO_TARGET_DIR),target)

# musl starts three times faster than static glibc. Where rustup cannot bring
# that target, glibc is linked statically: same programs, larger and slower.
ARCH   := $(shell uname -m)
MUSL   := $(ARCH)-unknown-linux-musl
GLIBC  := $(ARCH)-unknown-linux-gnu
HAS_MUSL = test -d "$$(rustc --print sysroot)/lib/rustlib/$(MUSL)/lib"
TARGET ?= $(shell $(HAS_MUSL) || rustup target add $(MUSL) >/dev/null 2>&1; \
	$(HAS_MUSL) && echo $(MUSL) || echo $(GLIBC))
TARGET := $(TARGET)
ifeq ($(TARGET),$(GLIBC))
STATIC := RUSTFLAGS="$(RUSTFLAGS) -C target-feature=+crt-static"
endif

KNARR       := $(abspath $(TARGET_DIR))/$(TARGET)/runtime/knarr
SHIM        := $(abspath $(TARGET_DIR))/$(TARGET)/runtime/containerd-shim-knarr-v2
KNARRD      := $(abspath $(TARGET_DIR))/release/knarrd
KNARRCTL    := $(abspath $(TARGET_DIR))/$(TARGET)/release/knarrctl
CONFORMANCE := $(abspath $(TARGET_DIR))/$(TARGET)/release/oci-conformance
DOCS        := $(abspath $(TARGET_DIR))/docs
BUNDLE      := $(abspath $(TARGET_DIR))/demo-bundle

# What building and testing needs of Debian: `package=file that shows it is there`.
BUILD_NEEDS := gcc=/usr/bin/cc libc6-dev=/usr/include/stdio.h
DEMO_NEEDS  := busybox-static=/bin/busybox
TEST_NEEDS  := $(DEMO_NEEDS) docker-registry=/usr/bin/docker-registry openssl=/usr/bin/openssl procps=/bin/ps iproute2=/sbin/ip pkg-config=/usr/bin/pkg-config \
	libseccomp-dev=/usr/include/seccomp.h uidmap=/usr/bin/newuidmap
FUZZ_NEEDS  := g++=/usr/bin/c++
CI_NEEDS    := $(TEST_NEEDS) $(FUZZ_NEEDS) binutils=/usr/bin/readelf ca-certificates=/etc/ssl/certs/ca-certificates.crt

# What the daemons below target/peers need of Debian, and the callers that are Debian's.
CALLER_NEEDS := $(DEMO_NEEDS) $(BUILD_NEEDS) pkg-config=/usr/bin/pkg-config libseccomp-dev=/usr/include/seccomp.h \
	iproute2=/sbin/ip iptables=/usr/sbin/iptables tini=/usr/bin/tini-static \
	libseccomp2=/usr/lib/$(ARCH)-linux-gnu/libseccomp.so.2 \
	libdevmapper1.02.1=/usr/lib/$(ARCH)-linux-gnu/libdevmapper.so.1.02.1 \
	umoci=/usr/bin/umoci podman=/usr/bin/podman conmon=/usr/bin/conmon netavark=/usr/lib/podman/netavark \
	catatonit=/usr/libexec/podman/catatonit \
	golang-github-containers-common=/etc/containers/policy.json

.PHONY: all knarr shim knarrd ctl knarrd-debug conformance demo demo-runtime example test vm-test vm-test-newer peers callers bench bench-managers vm-bench fuzz docs install deb clean \
	build-needs demo-needs test-needs vm-needs caller-needs fuzz-needs ci-needs

all: knarr shim knarrd ctl conformance

knarr: build-needs
	$(STATIC) $(CARGO) build --locked --profile runtime --target $(TARGET) -p knarr-runtime --bin knarr

# Linked with the C library of the system, whose allocator is the faster one for it.
knarrd: build-needs
	$(CARGO) build --locked --release -p knarr-manager --bin knarrd

ctl: build-needs
	$(STATIC) $(CARGO) build --locked --release --target $(TARGET) -p knarr-ctl

# For tests only.
knarrd-debug: build-needs
	$(CARGO) build --locked -p knarr-manager --bin knarrd

shim: build-needs
	$(STATIC) $(CARGO) build --locked --profile runtime --target $(TARGET) -p knarr-shim

conformance: build-needs
	$(STATIC) $(CARGO) build --locked --release --target $(TARGET) -p oci-conformance

demo: demo-needs knarr shim knarrd ctl
	demo/run $(KNARRD) $(SHIM) $(KNARRCTL)

demo-runtime: demo-needs knarr
	demo/run-bundle $(KNARR)

# Create, exec and delete through the library alone.
example: demo-needs build-needs
	rm -rf $(BUNDLE) && demo/bundle $(BUNDLE) sleep 1000
	$(CARGO) run --locked -q -p knarr-runtime --example lifecycle -- $(BUNDLE)

# Skipped tests print why; the list is repeated at the end.
test: build-needs test-needs knarr shim knarrd ctl conformance
	@rm -f $(TARGET_DIR)/skipped.txt
	KNARR_BIN=$(KNARR) KNARR_SHIM_BIN=$(SHIM) KNARRD_BIN=$(KNARRD) KNARR_PROBE_BIN=$(CONFORMANCE) KNARR_SKIPS=$(abspath $(TARGET_DIR))/skipped.txt \
		$(CARGO) test --locked --workspace --features knarr-runtime/generate,knarr-proto/grpc,knarr-proto/ttrpc-client \
			--no-fail-fast; code=$$?; \
	if [ -s $(TARGET_DIR)/skipped.txt ]; then echo; sort -u $(TARGET_DIR)/skipped.txt; fi; exit $$code

# What the host's kernel or its services cannot show. The machine is made once, see integration/vm.
# Of containerd's tests, those that cgroups and criu have a part in; the others are the same on the host.
VM_CONTAINERD := containerd=systemd,newest::oom,newest::metrics,newest::limits,newest::checkpoint,debian::oom,debian::checkpoint,a_pod_of_debian,shim::oom,shim::limits,shim::checkpoint
VM_SHIM := shim=newest::figures,newest::a_killed,newest::nothing_is_left shim_calls=sandbox,killed,options,checkpoint
VM_TESTS ?= privileged checkpoint cgroups resources unified systemd labels rootless user:rootless user:rootless_cgroups \
	conmon podman user:podman docker_unified $(VM_CONTAINERD) $(VM_SHIM) lib:knarr-runtime=cgroup \
	attacks_binary attacks_kernel attacks_process kills differential
# What only a newer systemd and kernel can show.
VM_NEWER_TESTS ?= rootless_cgroups=a_unit_with_private_users
# Emulated, not every call of the runtime can be one that it is killed at, and not every configuration be run.
vm-test: export KNARR_KILL_STEP ?= 12
vm-test: export KNARR_DIFFER_STEP ?= 6
vm-test: build-needs test-needs vm-needs knarr shim
	KNARR_BIN=$(KNARR) KNARR_SHIM_BIN=$(SHIM) integration/vm/run $(VM_TESTS)

vm-test-newer: build-needs test-needs vm-needs knarr
	KNARR_BIN=$(KNARR) integration/vm/run --suite forky $(VM_NEWER_TESTS)

peers: caller-needs
	integration/peers/fetch $(abspath $(TARGET_DIR))/peers

# Where a peer is missing, that is a failure here.
callers: build-needs peers knarr shim knarrd-debug
	KNARR_BIN=$(KNARR) KNARR_SHIM_BIN=$(SHIM) KNARR_NEED_PEERS=1 KNARR_PEERS=$(abspath $(TARGET_DIR))/peers \
		$(CARGO) test --locked -p knarr-integration --test containerd --test shim --test docker --test manager --no-fail-fast

bench: demo-needs knarr
	$(STATIC) $(CARGO) build --locked --profile runtime --target $(TARGET) -p knarr-runtime --example seccomp_compile
	$(CARGO) build --locked --release -p knarr-integration --bin bench --bin launch
	KNARR_BIN=$(KNARR) $(TARGET_DIR)/release/bench $(BENCH_FLAGS)

# The daemons: knarrd beside containerd and runc, ctr's view and the API's.
bench-managers: demo-needs peers shim knarrd
	$(CARGO) build --locked --release -p knarr-integration --features managers --bin bench-managers
	KNARR_SHIM_BIN=$(SHIM) KNARR_PEERS=$(abspath $(TARGET_DIR))/peers $(TARGET_DIR)/release/bench-managers $(BENCH_FLAGS)

vm-bench: build-needs vm-needs
	integration/vm/bench $(BENCH_FLAGS)

fuzz: build-needs fuzz-needs
	fuzz/run $(FUZZ_SECONDS)

# Man pages and completions come from the same definition as the help texts.
docs: conformance
	rm -rf $(DOCS) && mkdir -p $(DOCS)/man $(DOCS)/completions
	for what in man completions; do \
		$(CARGO) run --locked -q -p knarr-runtime --features generate --bin knarr-generate -- $$what $(DOCS)/$$what && \
		$(CARGO) run --locked -q -p knarr-pages -- $$what $(DOCS)/$$what && \
		$(CONFORMANCE) generate $$what $(DOCS)/$$what || exit 1; \
	done

install: all docs
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(MANDIR)/man1 $(DESTDIR)$(MANDIR)/man8 \
		$(DESTDIR)$(DATADIR)/bash-completion/completions \
		$(DESTDIR)$(DATADIR)/zsh/site-functions \
		$(DESTDIR)$(DATADIR)/fish/vendor_completions.d
	install -m 755 $(KNARR) $(SHIM) $(KNARRD) $(KNARRCTL) $(CONFORMANCE) $(DESTDIR)$(BINDIR)
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed "s#/usr/bin#$(BINDIR)#" packaging/knarrd.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/knarrd.service
	for section in 1 8; do \
		for page in $(DOCS)/man/*.$$section; do \
			[ ! -e "$$page" ] || install -m 644 "$$page" $(DESTDIR)$(MANDIR)/man$$section || exit 1; \
		done; \
	done
	for program in knarr knarrd knarrctl oci-conformance; do \
		install -m 644 $(DOCS)/completions/$$program.bash \
			$(DESTDIR)$(DATADIR)/bash-completion/completions/$$program && \
		install -m 644 $(DOCS)/completions/_$$program $(DESTDIR)$(DATADIR)/zsh/site-functions && \
		install -m 644 $(DOCS)/completions/$$program.fish $(DESTDIR)$(DATADIR)/fish/vendor_completions.d || exit 1; \
	done

deb:
	packaging/deb $(DEB_DIR)

clean:
	$(CARGO) clean

# Installs those packages of a list of needs that are not there. Others may be at it: integration/vm/vm
# takes the same lock.
APT_LOCK := /var/cache/apt/knarr.lock
define needs
	@missing=""; for need in $(1); do \
		test -e "$${need#*=}" || missing="$$missing $${need%%=*}"; \
	done; \
	if [ -n "$$missing" ]; then \
		command -v apt-get >/dev/null || { echo "please install:$$missing"; exit 1; }; \
		flock $(APT_LOCK) apt-get update -q && DEBIAN_FRONTEND=noninteractive \
			flock $(APT_LOCK) apt-get install -q -y --no-install-recommends $$missing; \
	fi
endef

build-needs:
	$(call needs,$(BUILD_NEEDS))

demo-needs:
	$(call needs,$(DEMO_NEEDS))

test-needs:
	$(call needs,$(TEST_NEEDS))

# A machine of the reader's own (VM, see integration/README.md) needs nothing.
vm-needs:
	[ -n "$$VM" ] || integration/vm/vm needs

caller-needs:
	$(call needs,$(CALLER_NEEDS))

# The fuzzer is C++.
fuzz-needs:
	$(call needs,$(FUZZ_NEEDS))

# What .ci/run needs beyond.
ci-needs: build-needs
	$(call needs,$(CI_NEEDS))

# For scripts: where the programs are.
.PHONY: print-knarr print-shim print-conformance
print-shim:
	@echo $(SHIM)
print-knarr:
	@echo $(KNARR)
print-conformance:
	@echo $(CONFORMANCE)

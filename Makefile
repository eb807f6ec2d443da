# wire-agent: everything a person runs from a checkout. `make` alone says what there is.

CARGO ?= cargo
# The lab needs root. Programs are built as the user and only run by sudo.
ifneq ($(shell id -u),0)
AS_ROOT := --config 'target."cfg(unix)".runner=["sudo","-E"]'
SUDO := sudo
SUDO_E := sudo -E
endif
# dockerd, nft and ip lie there, where a user's PATH may not look.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin
# Where `make install` puts things, and what.
PREFIX ?= /usr/local
BINARY := target/release/wire-agent
# In the lab two tests work at a time, and those that only wait let others work (Lab::rest): there are more of them than cores.
export RUST_TEST_THREADS ?= $(shell cores=$$(nproc); echo $$((cores > 4 ? cores : 4)))
# Where each lab test that runs writes its name, and how long it took; the times that promises limit; and each test on whole machines.
COUNT_FILE := $(CURDIR)/target/lab-tests-run
FIGURES_FILE := $(CURDIR)/target/promises-figures
SYSTEM_COUNT_FILE := $(CURDIR)/target/system-tests-run

# One build for the tests, the demo and all else that is no release. Cargo gives a crate the features that all crates which are wanted
# at once ask for, and builds it again where these are others. So every command here wants the whole workspace: with `-p wire-tests`,
# or without a test, tokio and all that stands on it would be built twice. One test is enough to have the features of tests.
# There is no choice of a linker: rustc 1.90, the oldest allowed, links with its own LLD on x86-64, and that is the fast one
# (`readelf -p .comment target/debug/wire-agent` names it).
BUILD := $(CARGO) build --workspace --bins --test demo
# What is shipped, and measured, has no features of tests.
BUILD_RELEASE := $(CARGO) build --release --workspace --bins

.PHONY: help
help: ## say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

.PHONY: deps
deps: ## install what all the others need (Debian, apt-get)
	@dist/deps

.PHONY: build
build: deps ## build the agent and the lab
	$(BUILD)

# The last commit before the rebuild of the house: what `make compare` compares with.
BASE ?= 95e1946

.PHONY: compare
compare: deps ## run the agent of BASE=commit and this one through twenty scenes; say what differs (COMPARE_FLAGS=--list)
	$(BUILD)
	@base=$$(tests/agent-of-commit $(BASE)) && today=$(if $(TODAY),$$(tests/agent-of-commit $(TODAY))) && \
		$(SUDO_E) target/debug/compare --base $$base $${today:+--today $$today} $(COMPARE_FLAGS)

.PHONY: demo
demo: deps ## three hosts, etcd, docker, one network: see it work, in two minutes
	@echo "demo: building"
	$(BUILD)
	@$(SUDO_E) target/debug/demo $(DEMO_FLAGS)

.PHONY: lab
lab: deps ## the demo, left standing to play with
	@echo "lab: building"
	$(BUILD)
	@$(SUDO_E) target/debug/demo --keep

.PHONY: lab-down
lab-down: ## remove what `make lab` left standing
	@$(BUILD) -q
	@$(SUDO_E) target/debug/demo --down

.PHONY: roots
roots: deps ## a root with other firewalls for the lab's tests (280 MB, once)
	@$(SUDO) tests/firewalls-rootfs || echo "roots: not made; the tests that need one say that they are skipped" >&2

.PHONY: test
test: deps roots ## all tests; those on the lab need root
	$(BUILD)
	@mkdir -p $(dir $(COUNT_FILE)) && rm -f $(COUNT_FILE) $(FIGURES_FILE)
	WIRE_TESTS_COUNT_FILE=$(COUNT_FILE) WIRE_TESTS_FIGURES_FILE=$(FIGURES_FILE) $(CARGO) $(AS_ROOT) test --workspace
	@dist/longest-figures $(FIGURES_FILE)
	@dist/count-lab-tests $(COUNT_FILE)

.PHONY: promises
promises: ## write docs/promises.md and docs/flannel-documents.md anew from their files in tests/
	WIRE_TESTS_WRITE_PAGE=1 $(CARGO) test -q --workspace --test promises

# Of the simulation, `make test` runs a fixed set.
SEEDS ?= 1000
.PHONY: sim
sim: ## the simulation with SEEDS=10000 seeds, or with one SEED=17 and all its steps
	$(if $(SEED),SIM_SEED=$(SEED),SIM_SEEDS=$(SEEDS)) $(CARGO) test --release --workspace --test sim -- --nocapture

.PHONY: sim-planted
sim-planted: deps ## plant fifteen bugs, one after the other; say by which seed the simulation finds each; minutes
	@tests/planted-bugs

.PHONY: test-system
test-system: dist roots-of-machines ## whole machines with systemd, cloud-init, the .deb and Docker; minutes, 2 GB of disk
	$(BUILD)
	@rm -f $(SYSTEM_COUNT_FILE)
	WIRE_TESTS_REQUIRE_LAB=1 WIRE_TESTS_COUNT_FILE=$(SYSTEM_COUNT_FILE) $(CARGO) $(AS_ROOT) test --workspace --test system -- --ignored

.PHONY: test-kernel
test-kernel: deps ## what needs another kernel: Debian's in qemu, without KVM; minutes, 1 GB of disk
	@tests/kernel/run

.PHONY: roots-of-machines
roots-of-machines: deps ## make what whole machines are made of, two Debians
	@$(SUDO) tests/system/rootfs bookworm
	@$(SUDO) tests/system/rootfs forky

.PHONY: bench
bench: deps ## measure the marks, on a release build; a quarter of an hour (BENCH_FLAGS=--list)
	$(BUILD_RELEASE)
	@$(SUDO_E) target/release/bench $(BENCH_FLAGS)

.PHONY: bench-datapath
bench-datapath: deps ## measure the data path beside the kernel's VXLAN, in BENCH_FLAGS=--only=… what is named only
	$(BUILD_RELEASE)
	@$(SUDO_E) target/release/bench-datapath $(BENCH_FLAGS)

.PHONY: dist
dist: deps ## build what is shipped into target/dist: .deb, static binary, checksums
	@dist/build

.PHONY: release
release: deps ## build the agent for `make install`
	$(CARGO) build --release --locked -p wire-agent

.PHONY: install
install: ## install what `make release` has built; knows DESTDIR and PREFIX
	@test -x $(BINARY) || { echo "install: there is no $(BINARY): run make release first, as yourself" >&2; exit 1; }
	@DESTDIR=$(DESTDIR) PREFIX=$(PREFIX) dist/install $(BINARY)

.PHONY: ci
ci: ## what CI runs
	@.ci/run

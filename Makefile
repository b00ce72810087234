# `make` alone lists what there is. Each target says in its `##` comment what it does.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
# Targets share one target directory and often one machine with little memory.
.NOTPARALLEL:

CARGO ?= cargo
# nextest runs each test in a process of its own, in parallel; a machine without it gets the same tests, slower.
ifneq ($(shell command -v cargo-nextest),)
RUN_TESTS := $(CARGO) nextest run --locked
else
RUN_TESTS := $(CARGO) test --locked --tests --bins --lib
endif
# What cargo-deny can judge without the advisory database: `cargo deny check advisories` needs a network.
DENY := $(shell command -v cargo-deny)

# The first of the twenty schedules of faults that `make test` plays: always the same ones. `make chaos` takes new ones.
CHAOS_SEED ?= 1

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: build
build: ## build both programs for development, into target/debug
	$(CARGO) build --locked

.PHONY: release
release: ## build both programs as they are shipped, into target/release
	$(CARGO) build --locked --release

.PHONY: package
package: ## build the .deb and the .rpm, for glibc 2.28 and newer, into target/package (PACKAGE_RELEASE=2 MAINTAINER="…")
	PACKAGE_RELEASE='$(PACKAGE_RELEASE)' MAINTAINER='$(MAINTAINER)' packaging/build

.PHONY: needs
needs: ## install what building and testing needs and this machine lacks (apt-get; root or sudo)
	tests/install-needs

.PHONY: check
check: ## judge the code without running it: format, lints, documentation, licences
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items
	$(if $(DENY),$(CARGO) deny --locked check bans licenses sources,@echo 'cargo-deny is not installed: licences not checked')

.PHONY: test
test: needs check ## all that needs no root: check, then every test beside a throwaway PostgreSQL
	tests/with-postgres $(RUN_TESTS)
	$(CARGO) test --locked --doc --quiet
	$(CARGO) test --locked --test chaos -- --self-check
	$(CARGO) test --locked --test chaos -- --seed $(CHAOS_SEED) --schedules 20

.PHONY: chaos
chaos: needs ## play random faults and compare the books (SEED=7 SCHEDULES=200 DURATION=10m ONLY=gateway MESSAGES=3000)
	$(CARGO) test --locked --release --test chaos -- $(if $(SEED),--seed $(SEED)) $(if $(DURATION),--duration $(DURATION)) \
		--schedules $(or $(SCHEDULES),200) $(if $(ONLY),--only $(ONLY)) $(if $(MESSAGES),--messages $(MESSAGES))

.PHONY: test-system
test-system: needs ## what needs root or more packages: firewalls, proxies, metrics, and the .deb under a real systemd (says what it skips)
	tests/install-needs --system || echo 'test-system: not all that it uses could be installed; what is missing is skipped'
	$(CARGO) test --locked --test system
	OUTBOXD_PROMTOOL=$$(tests/promtool) tests/with-postgres $(CARGO) test --locked --test it -- --ignored promtool_
	tests/system/package || [ $$? -eq 77 ]

.PHONY: test-matrix
test-matrix: needs ## every test with PostgreSQL 14 to 18 one after the other (needs npm; MAJORS="14 18" for some)
	tests/matrix $(RUN_TESTS)

.PHONY: demo
demo: ## watch messages travel from INSERT to delivered on private servers (KEEP=1 leaves them running)
	@KEEP='$(KEEP)' tests/demo

.PHONY: drain
drain: needs release ## print how fast a queue drains on this machine, and what the daemon needs (figures, not a test)
	tests/with-postgres tests/drain

# With MAJORS="15 18" these versions of PostgreSQL one after the other, figures in target/bench/postgresql-<major>/.
BENCH := $(CARGO) bench --locked --bench bench -- $(foreach part,$(PARTS),--part $(part)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
	$(if $(ROWS),--rows $(ROWS)) $(if $(MANY),--many $(MANY)) $(if $(FINISHED),--finished $(FINISHED))

.PHONY: bench
bench: needs ## measure beside the machine's limit and a peer, into target/bench (PARTS="drain latency" ROUNDS=5 MAJORS="15 18")
	$(if $(MAJORS),tests/matrix $(BENCH) --by-major,tests/with-postgres $(BENCH))

.PHONY: receipt-flood
receipt-flood: needs release ## print how many receipts a second are taken, and what sending loses (ROWS=1000000 CALLERS=256)
	tests/with-postgres tests/receipt-flood $(or $(ROWS),100000) $(or $(CALLERS),256)

.PHONY: fuzz
fuzz: ## look for bytes from outside that break a promise (nightly, cargo-fuzz; SECONDS_EACH=60 TARGETS="row config")
	@SECONDS_EACH='$(SECONDS_EACH)' tests/fuzz/run $(TARGETS)

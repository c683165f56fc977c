# Ampoule's build. `make help` lists the targets.
GO      ?= go
PREFIX  ?= /usr/local
DESTDIR ?=
export CGO_ENABLED = 0
# Guests and test roots are built once and kept here.
export AMPOULE_CACHE ?= $(CURDIR)/.cache

.PHONY: help build check gen test test-all bench fuzz demo install uninstall deb clean deps

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

# Where the programs are built. The tests have them built elsewhere.
BIN ?= bin
# The same bytes from a checkout, an archive, and another user's checkout, which
# git refuses to look into: no path and no commit of this machine. Without symbols,
# for two of the three are read at every start; a panic names its lines all the same.
BUILD := $(GO) build -trimpath -buildvcs=false

build: ## build the programs into bin/
	$(BUILD) -ldflags='-s -w' -o $(BIN)/ ./cmd/ampoule ./cmd/ampoule-generator
	@# An entry of its own, before that of Go's runtime (internal/shim/entry).
	$(BUILD) -ldflags='-s -w -E=ampoule_init_entry' -o $(BIN)/ ./cmd/ampoule-init

deps: ## install what demo and tests need (Debian, root)
	./scripts/install-deps

check: ## format, vet, lint, generated files (no VM)
	@test -z "$$(gofmt -l cmd internal test)" || { gofmt -l cmd internal test; echo 'run gofmt -w on these files' >&2; exit 1; }
	$(GO) vet ./...
	$(GO) -C tools build -o $(AMPOULE_CACHE)/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	$(AMPOULE_CACHE)/golangci-lint run ./...
	$(MAKE) --no-print-directory gen GEN=--check

gen: ## write man pages, completions and the key reference
	$(GO) run ./internal/gen $(GEN)

test: deps build ## everything that needs no VM, and one real VM per promise
	AMPOULE_REQUIRE=all AMPOULE_VM=canary $(GO) test -timeout 24m ./...

test-all: deps build ## the whole matrix
	AMPOULE_REQUIRE=all AMPOULE_VM=all $(GO) test -count=1 -timeout 150m ./...

fuzz: ## ten minutes for each fuzz target that reads files, one for the others
	./scripts/fuzz

bench: deps build ## speed and memory beside named peers, in one run
	./scripts/bench

demo: deps build ## boot a real VM and prove that its secrets arrived and leaked nowhere
	$(GO) run ./test/demo

install: build ## install below $(DESTDIR)$(PREFIX)
	BIN='$(BIN)' DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' ./scripts/install

uninstall: ## remove what install installs
	DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' ./scripts/install --remove

deb: build ## build a Debian package into bin/
	BIN='$(BIN)' ARCH="$$($(GO) env GOARCH)" ./scripts/deb

clean: ## remove what was built, and the cached guests
	rm -rf bin .cache

# `make test` is everything that must hold before a change lands. It needs Linux 6.0 or later,
# Go, and for the tests that make network namespaces, root.

GO ?= go
PACKAGES = ./...
LINT = $(GO) tool -modfile=tools/go.mod staticcheck

BPF2GO = $(GO) tool -modfile=../../tools/go.mod bpf2go

.PHONY: test build bpf setup check unit race invariants abi peers fuzz-smoke sim sim-faults test-kernels bench-smoke clean

test: setup check unit race invariants abi peers fuzz-smoke sim bench-smoke
	@echo "make test: everything passed"

build:
	$(GO) build -o bin/uringserve ./cmd/uringserve

# Programs that tests drive: curl as a real client, ip and nft for peers that vanish.
setup:
	./scripts/setup

check:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "not gofmt-ed: $$unformatted"; exit 1; }
	$(GO) vet $(PACKAGES)
	$(GO) vet -tags invariants $(PACKAGES)
	GOARCH=arm64 $(GO) vet $(PACKAGES)
	GOOS=darwin $(GO) build $(PACKAGES)
	$(LINT) $(PACKAGES)

unit:
	$(GO) test $(PACKAGES)

race:
	$(GO) test -race $(PACKAGES)

invariants:
	$(GO) test -tags invariants $(PACKAGES)

# A second opinion on the kernel's ABI, in a module of its own; see docs/ARCHITECTURE.md.
abi:
	cd integration/abi && $(GO) test -ldflags=-checklinkname=0 ./...

# The library peers, in a module of their own, so that the product depends on none of them.
peers:
	cd integration/peers && $(GO) vet ./... && $(GO) test ./...

# Each fuzz target for a moment, so that none rots.
fuzz-smoke:
	./scripts/fuzz-smoke 20000x

# The engine on the simulated kernel, over fresh seeds; see docs/TESTING.md.
sim:
	$(GO) test -v -run TestNoOrder ./internal/simring -total 10000000 -timeout 10m

# Deliberate faults, each of which the simulation must catch.
sim-faults:
	./scripts/simring-faults 10000

# The tests on Debian's kernels 5.10 to 7.2 under qemu, over a card that sends without copying; see
# docs/TESTING.md. Needs root, and for the first run a Debian mirror.
test-kernels:
	./scripts/setup kernels
	$(GO) run ./integration/vm

# The program of the wire, from internal/wire/bpf; what comes of it is committed, so that only who
# changes it needs clang.
bpf:
	./scripts/setup bpf
	cd internal/wire && $(BPF2GO) -tags linux -go-package wire -cflags "-O2 -mcpu=v3 -Wall -I/usr/include/$$(uname -m)-linux-gnu" peer bpf/wire.c

# Every benchmark once and briefly, so that none rots: what fails here fails, figures mean nothing.
# The wire needs root. Servers that are not on the machine are left out; ./scripts/setup bench installs them.
bench-smoke: build
	bin/uringserve bench mechanisms --rounds 1 --time 10ms --sizes 4KiB,256KiB --source hot,cold,file,disk \
		$$(test "$$(id -u)" != 0 || echo --wire --udp) --report bin/mechanisms.html --json bin/mechanisms.json
	bin/uringserve bench server --rounds 1 --time 50ms --sizes 1KiB,1MiB --conns 16 \
		$$(test "$$(id -u)" != 0 || echo --wire) --report bin/server.html --json bin/server.json
	bin/uringserve bench calibrate --rounds 1 --time 10ms $$(test "$$(id -u)" != 0 || echo --policy bin/host.yaml)
	bin/uringserve bench scale --rounds 1 --time 10ms --loops 1,2 --conns 1,1000 \
		$$(test "$$(id -u)" != 0 || echo --wire) --report bin/scale.html --json bin/scale.json
	$(GO) run ./integration/adaptive -rounds 1 -turn 5ms -settle 50ms -sizes 4096,262144 loopback
	cd integration/peers && $(GO) run . -smoke

clean:
	rm -rf bin

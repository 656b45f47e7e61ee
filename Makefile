# make         builds bin/stamp
# make dev     runs a whole stamp on ./stamp-dev
# make test    everything quick, a few minutes, with real kernel mounts
# make race, lint, fuzz, bench, test-clients, crash, soak: see below

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c

VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
LDFLAGS     := -X main.version=$(VERSION)
FUZZTIME    ?= 10s
BENCHTIME   ?= 1s
SOAKTIME    ?= 1h
ROUNDS      ?= 50
SHORT       ?=

# Tests that take long or need other people's programs have build tags.
TAGS        := crash,clients,compare,soak

# The binary is static. The race detector is the only thing that needs C.
export CGO_ENABLED ?= 0

.PHONY: all build dev test race lint fuzz bench bench-peers test-clients crash soak setup generate clean

all: build

build:
	@mkdir -p bin
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/stamp ./cmd/stamp

dev: build
	exec bin/stamp dev $(DEVFLAGS)

setup:
	@.ci/setup test

test: setup
	go test -timeout 15m ./...

race:
	@.ci/setup race
	CGO_ENABLED=1 go test -race -short -timeout 20m ./...

lint:
	@bad=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
	  if [ -n "$$bad" ]; then echo "gofmt these: $$bad" >&2; exit 1; fi
	go vet -tags $(TAGS) ./...
	go run $(STATICCHECK) -tags $(TAGS) ./...

# Each fuzz target of the tree for FUZZTIME.
fuzz:
	@.ci/fuzz $(FUZZTIME)

# Go benchmarks of each layer; `stamp bench` measures a running server.
bench:
	go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./...

# Stamp beside the floor, MinIO and Azurite in one run: docs/performance.md.
bench-peers: build
	@.ci/setup clients
	appliance/bench/peers.sh

# Kill the server and cut its power at random moments, ROUNDS times.
crash: build
	ROUNDS=$(if $(SHORT),8,$(ROUNDS)) BLOBS=$(if $(SHORT),5000,100000) \
	  go test -tags crash -count=1 -timeout 60m ./appliance/crashtest/...

clean:
	rm -rf bin

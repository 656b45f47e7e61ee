# make         builds bin/stamp
# make dev     runs a whole stamp on ./stamp-dev
# make test    everything quick, a few minutes, with real kernel mounts
# make race, lint, fuzz, bench, test-clients, crash, rack, soak, sim, sim-lock, mutations: see below

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c

VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
LDFLAGS     := -X main.version=$(VERSION)
FUZZTIME    ?= 10s
BENCHTIME   ?= 1s
MINUTES     ?= 60
export ROUNDS ?= 50
export SHORT ONLY SEED SEEDS FIRST STEPS VERBOSE MINUTES KEEP DIR COMPARE_OUT COMPARE_DURATION COMPARE_BLOBS
SHORT       ?=

# Tests that take long or need other people's programs have build tags.
TAGS        := crash,clients,compare,rack

# The binary is static. The race detector is the only thing that needs C.
export CGO_ENABLED ?= 0

.PHONY: all build dev test race lint fuzz bench bench-compare test-clients crash rack soak soak-crash sim sim-lock mutations setup clean

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

# Stamp beside the floor, MinIO and Azurite in one run, about 15 minutes, and
# some more the first time, when MinIO is built. The figures go to
# COMPARE_OUT and to docs/performance.md by hand.
bench-compare: build
	@.ci/setup clients
	STAMP_TOOLS=$$(appliance/bench/peers.sh) \
	  go test -tags compare -count=1 -timeout 60m -run TestCompare -v ./appliance/bench

# Other people's programs, over REST and on the mount. SHORT=1 moves less data.
test-clients: build
	@.ci/setup clients
	go test -tags clients -count=1 -timeout 60m $(if $(RUN),-run '$(RUN)') -v ./appliance/clienttest

# Kill the server ROUNDS times, then cut its power, at random moments. SEED
# repeats the operations of a run; SHORT=1 cuts fewer times.
crash: build
	@.ci/setup crash
	go test -tags crash -count=1 -timeout 60m $(if $(RUN),-run '$(RUN)') -v ./appliance/crashtest/...

# A rack of managers and ExtentNodes as processes, under load, with every fault
# once. As root each has a network namespace of its own. SHORT=1 takes about
# six minutes; SEED repeats what is written; DIR=/dev/shm holds the disks in
# memory; KEEP=1 keeps a failed rack's data.
rack: build
	@.ci/setup rack
	go test -tags rack -count=1 -timeout 60m $(if $(RUN),-run '$(RUN)',-skip TestSoak) -v ./appliance/racktest

# Random faults on a rack for MINUTES, then the same with another seed is
# another run. SEED repeats the faults.
soak: build
	@.ci/setup rack
	go test -tags rack -count=1 -timeout $$(($(MINUTES) + 30))m -run TestSoak -v ./appliance/racktest

# The crash test again and again, each time with another seed, for MINUTES.
soak-crash:
	@end=$$((SECONDS + 60 * $(MINUTES))); n=0; \
	while [ $$SECONDS -lt $$end ]; do $(MAKE) --no-print-directory crash; n=$$((n + 1)); done; \
	echo "soak-crash: $$n runs without a failure"

# The protocol of StreamManager and ExtentNodes, simulated: SEEDS seeds from
# FIRST on, of STEPS events each, on all processors. SEED=n repeats one, and with
# VERBOSE=1 tells what happens.
sim: SEEDS ?= 1000
sim:
	go test -count=1 -timeout 6h -run 'TestSeeds|TestReplay' $(if $(VERBOSE),,-v) ./extentstore/sim/protocol

# LockService, simulated, in the same way.
sim-lock: SEEDS ?= 1000
sim-lock:
	go test -count=1 -timeout 6h -run 'TestSeeds|TestReplay' -v ./partition/lock

# The simulations over each of a list of mistakes in the product's source: all
# must be found within SEEDS seeds. ONLY=text picks some.
mutations:
	MUTATIONS=1 go test -count=1 -timeout 6h -v -run TestMutations ./extentstore/sim/protocol ./partition/lock

clean:
	rm -rf bin

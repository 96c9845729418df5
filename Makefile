# Meshmill. `make` alone lists the targets.

GO      ?= go
BIN     := bin
LDFLAGS := -s -w
# Race-detecting tests need cgo, and so a C compiler; without one the tests run without -race and say so.
RACE    := $(shell command -v $${CC:-cc} >/dev/null 2>&1 && echo -race)

.DEFAULT_GOAL := help
.PHONY: help build demo demo-clean test chaos test-servers check fmt vet fuzz clean

help: ## list the targets
	@awk 'BEGIN{FS=":.*## "} /^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/enqueue and bin/worker
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/enqueue ./cmd/worker

demo: build ## convert the sample images through both (simulated) providers
	@sh examples/demo.sh

demo-clean: ## forget what the demo has made
	rm -rf demo-data

test: vet test-servers ## the whole test suite
	@[ -n "$(RACE)" ] || echo "no C compiler: the tests run without the race detector"
	$(GO) test $(RACE) -shuffle=on -timeout 20m ./...
	@# With the race detector there is time for a part of the schedules only: all of them now.
	cd internal/simulation && $(GO) test -count=1 -timeout 20m

chaos: test-servers ## kill, stop and cut off real workers; prints a table (TABLE=file writes it there, too)
	MESHMILL_CHAOS_TABLE=$(if $(TABLE),$(abspath $(TABLE))) $(GO) test -tags chaos -count=1 -timeout 25m ./test/chaos -v

test-servers: ## build the NATS and MinIO images for the tests, once per machine
	$(GO) run ./internal/servertest/build

check: fmt vet ## format and vet
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))"

fmt: ## format the code
	gofmt -w $$(git ls-files '*.go')

vet: ## find suspicious code and unformatted files
	$(GO) vet ./...
	@out="$$(gofmt -l cmd internal pkg examples)"; [ -z "$$out" ] || { echo "not gofmt'ed:"; echo "$$out"; exit 1; }

FUZZTIME ?= 30s
fuzz: ## run every fuzz target for FUZZTIME (default 30s)
	@$(GO) list ./... | while read -r p; do \
		$(GO) test -list '^Fuzz' "$$p" | grep '^Fuzz' | while read -r f; do \
			echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) "$$p" || exit 1; \
		done || exit 1; done

clean: ## remove what was built
	rm -rf $(BIN)

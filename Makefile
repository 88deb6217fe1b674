# nacre: one binary that turns Linux servers into a cloud. `make help` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
export CGO_ENABLED := 0
# Packages that touch the kernel run one after the other: they share two cores and one network stack.
TESTFLAGS ?= -p 1 -timeout 15m
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X github.com/nacre-cloud/nacre/internal/version.Version=$(VERSION)

INITBIN := internal/agent/machine/oci/initbin/nacre-init
SFTPBIN := internal/agent/access/sftpserver/sftpbin/nacre-sftp
GUESTBIN := internal/agent/machine/guest/program/guestbin/nacre-guest

.PHONY: help build guest deps deps-bench test test-race test-clients test-terraform test-slow lint fuzz bench try generate clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

build: guest ## build bin/nacre, static
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/nacre ./cmd/nacre

guest: ## build the small binaries that nacre carries into instances
	go build -trimpath -ldflags '-s -w' -o $(INITBIN) ./cmd/nacre-init
	go build -trimpath -ldflags '-s -w' -o $(SFTPBIN) ./cmd/nacre-sftp
	GOARCH=amd64 go build -trimpath -ldflags '-s -w' -o $(GUESTBIN)-amd64 ./cmd/nacre-guest
	GOARCH=arm64 go build -trimpath -ldflags '-s -w' -o $(GUESTBIN)-arm64 ./cmd/nacre-guest

deps: build ## install the Debian packages that running and testing need
	bin/nacre doctor --install
	scripts/install-packages awscli openssh-client busybox-static netcat-openbsd iproute2 e2fsprogs qemu-system-x86 qemu-utils iputils-ping grub-pc-bin grub-efi-amd64-bin podman skopeo

deps-bench: deps ## install the peers that the benchmarks compare with
	scripts/install-packages containerd fuse-overlayfs fio iperf3 docker-registry

test: deps ## run all tests (root, about a quarter of an hour on two cores)
	go vet ./...
	go test $(TESTFLAGS) ./...

test-race: deps ## run all tests under the race detector (needs a C compiler)
	scripts/install-packages gcc libc6-dev
	CGO_ENABLED=1 go test -race $(TESTFLAGS) ./...

test-clients: deps ## drive a cloud with boto3, libcloud and Ansible from Debian's packages (installs them)
	scripts/install-packages ansible python3-boto3 python3-libcloud
	go test $(TESTFLAGS) -count=1 -tags clients ./test/clients/...

test-terraform: deps ## drive a cloud with OpenTofu and the AWS provider (builds both, some minutes the first time)
	go run ./test/terraform/tools -out .cache/terraform
	go test $(TESTFLAGS) -count=1 -tags terraform ./test/terraform/...

test-slow: deps ## boot whole operating systems, and twenty copies of one (root, some twenty-five minutes on two cores)
	scripts/install-packages fio
	go test $(TESTFLAGS) -count=1 -tags slow -timeout 60m ./test/slow/...

lint: guest ## gofmt, vet, staticcheck
	@out=$$(gofmt -l cmd internal test); if [ -n "$$out" ]; then echo "not gofmt-ed:"; echo "$$out"; exit 1; fi
	go vet ./...
	go run $(STATICCHECK) ./...

FUZZTIME ?= 20s
fuzz: guest ## run every fuzz test for FUZZTIME
	scripts/fuzz $(FUZZTIME)

bench: deps-bench ## measure, beside the peers, and write bench/results.json
	go run ./test/bench

try: deps ## the first hour on EC2, for real; VM=1 with a virtual machine, KEEP=1 leaves the cloud up
	KEEP=$(KEEP) VM=$(VM) scripts/try

generate: ## make all generated code again
	go generate ./...

clean: ## remove what was built
	rm -rf bin $(INITBIN) $(SFTPBIN) $(GUESTBIN)-*
